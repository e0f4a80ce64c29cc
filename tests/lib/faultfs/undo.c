/*
 * undo.c: the undo store of one file.
 *
 * Pages are found in a two-level table: n_leaves leaves of LEAF_PAGES pages, made when first touched.  Running out of
 * memory ends the process: this is a test tool.
 */
#include <string.h>
#include <sys/stat.h>

#include "tests/lib/faultfs/undo.h"

#define SECTORS_A_PAGE (UNDO_PAGE / UNDO_SECTOR)
#define LEAF_PAGES     512u

/* The state of one page before it was changed: `mask` says which sectors are kept; without data they were zeros. */
struct saved {
	uint8_t mask, stuck;
	uint8_t *data;
};

uint64_t dice_roll(struct dice *d)
{
	d->state ^= d->state >> 12;
	d->state ^= d->state << 25;
	d->state ^= d->state >> 27;
	return d->state * UINT64_C(2685821657736338717) >> 16;
}

void dice_seed(struct dice *d, uint64_t seed)
{
	d->state = seed * 2 + 1;
	for (int i = 0; i < 8; i++)
		dice_roll(d);
}

static struct saved *saved_at(struct undo *u, uint64_t page, bool make)
{
	size_t leaf = page / LEAF_PAGES;

	if (leaf >= u->n_leaves) {
		if (!make)
			return NULL;
		size_t want = leaf * 2 + 16;
		struct saved **grown = realloc(u->leaves, want * sizeof(*grown));
		if (!grown)
			abort();
		memset(grown + u->n_leaves, 0, (want - u->n_leaves) * sizeof(*grown));
		u->leaves = grown;
		u->n_leaves = want;
	}
	if (!u->leaves[leaf]) {
		if (!make)
			return NULL;
		u->leaves[leaf] = calloc(LEAF_PAGES, sizeof(struct saved));
		if (!u->leaves[leaf])
			abort();
	}
	return &u->leaves[leaf][page % LEAF_PAGES];
}

/* The sectors of `page` that [off, end) touches. */
static uint8_t sector_mask(uint64_t page, uint64_t off, uint64_t end)
{
	uint64_t from = max_u64(off, page * UNDO_PAGE), to = min_u64(end, (page + 1) * UNDO_PAGE);
	unsigned first = (unsigned)((from - page * UNDO_PAGE) / UNDO_SECTOR),
		 last = (unsigned)((to - 1 - page * UNDO_PAGE) / UNDO_SECTOR);

	return (uint8_t)((0xffu << first) & (0xffu >> (SECTORS_A_PAGE - 1 - last)));
}

static bool all_zero(const uint8_t *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static void save_page(struct undo *u, uint64_t page, uint8_t mask)
{
	struct saved *s = saved_at(u, page, true);
	uint8_t need = mask & (uint8_t)~s->mask, old[UNDO_PAGE] = {0};

	s->stuck &= (uint8_t)~mask;
	if (!need)
		return;
	if (pread(u->fd, old, UNDO_PAGE, (off_t)(page * UNDO_PAGE)) < 0)
		abort();
	if (!s->data && !all_zero(old, UNDO_PAGE)) {
		s->data = calloc(1, UNDO_PAGE);
		if (!s->data)
			abort();
	}
	for (unsigned i = 0; s->data && i < SECTORS_A_PAGE; i++)
		if (need & 1u << i)
			memcpy(s->data + i * UNDO_SECTOR, old + i * UNDO_SECTOR, UNDO_SECTOR);
	u->n_pages += s->mask == 0;
	s->mask |= need;
}

void undo_save(struct undo *u, uint64_t off, uint64_t len)
{
	for (uint64_t page = off / UNDO_PAGE; len && page * UNDO_PAGE < off + len; page++)
		save_page(u, page, sector_mask(page, off, off + len));
}

static void saved_forget(struct undo *u, struct saved *s, uint8_t mask)
{
	if (!s || !s->mask)
		return;
	s->mask &= (uint8_t)~mask;
	s->stuck &= s->mask;
	if (s->mask)
		return;
	free(s->data);
	s->data = NULL;
	u->n_pages--;
}

void undo_flush(struct undo *u)
{
	struct stat st;

	for (size_t leaf = 0; u->n_pages && leaf < u->n_leaves; leaf++)
		for (unsigned i = 0; u->leaves[leaf] && i < LEAF_PAGES; i++)
			saved_forget(u, &u->leaves[leaf][i], (uint8_t)~u->leaves[leaf][i].stuck);
	for (size_t leaf = 0; !u->n_pages && leaf < u->n_leaves; leaf++) {
		free(u->leaves[leaf]);
		u->leaves[leaf] = NULL;
	}
	if (fstat(u->fd, &st) == 0)
		u->durable_size = st.st_size;
}

void undo_flush_range(struct undo *u, uint64_t off, uint64_t len)
{
	for (uint64_t page = off / UNDO_PAGE; page * UNDO_PAGE < off + len; page++)
		saved_forget(u, saved_at(u, page, false), sector_mask(page, off, off + len));
	if (u->durable_size < (off_t)(off + len))
		u->durable_size = (off_t)(off + len);
}

void undo_flush_failed(struct undo *u)
{
	for (size_t leaf = 0; leaf < u->n_leaves; leaf++)
		for (unsigned i = 0; u->leaves[leaf] && i < LEAF_PAGES; i++)
			u->leaves[leaf][i].stuck = u->leaves[leaf][i].mask;
}

/* Which of `mask` a cut takes back; `odds` of 16 that a sector or page is lost. */
static uint8_t cut_choose(uint8_t mask, enum cut_mode mode, struct dice *d, unsigned odds)
{
	uint8_t lost = 0;

	if (mode == CUT_ALL)
		return mask;
	if (mode == CUT_PAGES)
		return dice_roll(d) % 16 < odds ? mask : 0;
	for (unsigned i = 0; i < SECTORS_A_PAGE; i++)
		if (dice_roll(d) % 16 < odds)
			lost |= (uint8_t)(1u << i);
	return mask & lost;
}

static void cut_page(struct undo *u, uint64_t page, struct saved *s, uint8_t lost)
{
	static const uint8_t zeros[UNDO_SECTOR];

	for (unsigned i = 0; i < SECTORS_A_PAGE; i++)
		if (lost & 1u << i && pwrite(u->fd, s->data ? s->data + i * UNDO_SECTOR : zeros, UNDO_SECTOR,
					     (off_t)(page * UNDO_PAGE + i * UNDO_SECTOR)) < 0)
			abort();
	saved_forget(u, s, 0xff);
}

void undo_cut(struct undo *u, enum cut_mode mode, struct dice *d, unsigned odds)
{
	struct stat st;

	if (fstat(u->fd, &st) < 0)
		abort();
	for (size_t leaf = 0; u->n_pages && leaf < u->n_leaves; leaf++)
		for (unsigned i = 0; u->leaves[leaf] && i < LEAF_PAGES; i++) {
			struct saved *s = &u->leaves[leaf][i];
			if (s->mask)
				cut_page(u, leaf * LEAF_PAGES + i, s, cut_choose(s->mask, mode, d, odds));
		}
	off_t size = mode == CUT_ALL || dice_roll(d) % 2 ? u->durable_size : st.st_size;
	if (ftruncate(u->fd, size) < 0)
		abort();
	u->durable_size = size;
}

void undo_free(struct undo *u)
{
	for (size_t leaf = 0; leaf < u->n_leaves; leaf++) {
		for (unsigned i = 0; u->leaves[leaf] && i < LEAF_PAGES; i++)
			free(u->leaves[leaf][i].data);
		free(u->leaves[leaf]);
	}
	free(u->leaves);
}
