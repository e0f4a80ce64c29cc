/*
 * cow.c: two levels, a table of chunks of 64 pages each, both counted.  A fork copies the table only (one pointer for each
 * 256 KiB); the first write into a shared chunk copies its 64 pointers, the first into a shared page the page.
 */
#include "tests/lib/cow.h"

#include <stdio.h>
#include <string.h>

#define CHUNK_PAGES 64u

struct cow_chunk {
	uint32_t refs;
	struct cow_page *page[CHUNK_PAGES];
};

static const uint8_t zeros[COW_PAGE];

void *test_alloc(size_t n)
{
	void *p = calloc(1, n ? n : 1);

	if (!p) {
		fprintf(stderr, "tests: out of memory for %zu bytes\n", n);
		abort();
	}
	return p;
}

/* Room for one more item behind n_have: doubles. */
void *test_grow(void *p, size_t n_have, size_t *cap, size_t item)
{
	if (n_have < *cap)
		return p;
	*cap = *cap ? *cap * 2 : 16;
	p = realloc(p, *cap * item);
	if (!p)
		abort();
	return p;
}

struct cow_page *cow_page_new(const void *bytes)
{
	struct cow_page *p = malloc(sizeof(*p));

	if (!p)
		abort();
	p->refs = 1;
	memcpy(p->b, bytes ? bytes : zeros, COW_PAGE);
	return p;
}

struct cow_page *cow_page_ref(struct cow_page *p)
{
	if (p)
		p->refs++;
	return p;
}

void cow_page_unref(struct cow_page *p)
{
	if (p && --p->refs == 0)
		free(p);
}

static void chunk_unref(struct cow_chunk *k)
{
	if (!k || --k->refs > 0)
		return;
	for (unsigned i = 0; i < CHUNK_PAGES; i++)
		cow_page_unref(k->page[i]);
	free(k);
}

void cow_init(struct cow *c, uint64_t size)
{
	*c = (struct cow){.size = size, .n_chunks = (uint32_t)div_round_up(size, (uint64_t)CHUNK_PAGES * COW_PAGE)};
	c->chunk = test_alloc(c->n_chunks * sizeof(*c->chunk));
}

struct cow cow_fork(const struct cow *c)
{
	struct cow f;

	cow_init(&f, c->size);
	for (uint32_t i = 0; i < c->n_chunks; i++) {
		f.chunk[i] = c->chunk[i];
		if (f.chunk[i])
			f.chunk[i]->refs++;
	}
	return f;
}

void cow_free(struct cow *c)
{
	for (uint32_t i = 0; i < c->n_chunks; i++)
		chunk_unref(c->chunk[i]);
	free(c->chunk);
	*c = (struct cow){0};
}

struct cow_page *cow_get(const struct cow *c, uint64_t n)
{
	const struct cow_chunk *k = c->chunk[n / CHUNK_PAGES];

	return k ? k->page[n % CHUNK_PAGES] : NULL;
}

/* Where page `n` hangs, in a chunk nobody shares. */
static struct cow_page **own_slot(struct cow *c, uint64_t n)
{
	struct cow_chunk **at = &c->chunk[n / CHUNK_PAGES], *k = *at;

	if (!k || k->refs > 1) {
		struct cow_chunk *fresh = test_alloc(sizeof(*fresh));

		fresh->refs = 1;
		for (unsigned i = 0; k && i < CHUNK_PAGES; i++)
			fresh->page[i] = cow_page_ref(k->page[i]);
		chunk_unref(k);
		*at = k = fresh;
	}
	return &k->page[n % CHUNK_PAGES];
}

void cow_set(struct cow *c, uint64_t n, struct cow_page *p)
{
	struct cow_page **slot = own_slot(c, n), *old = *slot;

	*slot = cow_page_ref(p);
	cow_page_unref(old);
}

/* Page `n` in memory nobody else sees. */
static uint8_t *own_page(struct cow *c, uint64_t n)
{
	struct cow_page **slot = own_slot(c, n);

	if (!*slot || (*slot)->refs > 1) {
		struct cow_page *fresh = cow_page_new(*slot ? (*slot)->b : NULL);

		cow_page_unref(*slot);
		*slot = fresh;
	}
	return (*slot)->b;
}

void cow_set_sectors(struct cow *c, uint64_t n, struct cow_page *p, unsigned mask)
{
	if ((mask & COW_ALL_SECTORS) == COW_ALL_SECTORS) {
		cow_set(c, n, p);
		return;
	}
	if (!(mask & COW_ALL_SECTORS))
		return;
	uint8_t *to = own_page(c, n);
	for (unsigned i = 0; i < COW_SECTORS; i++)
		if (mask & 1u << i)
			memcpy(to + i * COW_SECTOR, p ? p->b + i * COW_SECTOR : zeros, COW_SECTOR);
}

void cow_read(const struct cow *c, void *p, size_t len, uint64_t off)
{
	for (size_t done = 0; done < len;) {
		uint64_t at = off + done;
		size_t in = at % COW_PAGE, n = (size_t)min_u64(COW_PAGE - in, len - done);
		const struct cow_page *page = cow_get(c, at / COW_PAGE);

		memcpy((uint8_t *)p + done, page ? page->b + in : zeros, n);
		done += n;
	}
}

void cow_write(struct cow *c, const void *p, size_t len, uint64_t off)
{
	for (size_t done = 0; done < len;) {
		uint64_t at = off + done;
		size_t in = at % COW_PAGE, n = (size_t)min_u64(COW_PAGE - in, len - done);

		memcpy(own_page(c, at / COW_PAGE) + in, (const uint8_t *)p + done, n);
		done += n;
	}
}
