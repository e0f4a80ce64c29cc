/*
 * test_arena_model.c: the allocator against a naive model, under random operations and crashes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "tests/unit/arena_world.h"

enum { FREE, USED, LIMBO };
#define BLOCKS_MAX (16 * CHUNK)
struct model {
	uint8_t state[BLOCKS_MAX], saved[BLOCKS_MAX];
	uint64_t freed_in[BLOCKS_MAX];
	uint64_t total, reserved, generation;
	uint8_t pages[1][ARENA_PAGE_BYTES];
	bool has_page[1];
};

static uint64_t model_count(const struct model *m, int state)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < m->total; i++)
		n += m->state[i] == state;
	return n;
}

static int down(const void *a, const void *b)
{
	return *(const int *)b - *(const int *)a;
}

/* The fewest runs that hold `n`, UINT32_MAX when none do. */
static uint32_t model_fewest(const struct model *m, uint64_t n)
{
	int runs[BLOCKS_MAX], n_runs = 0;
	uint64_t sum = 0;

	for (uint64_t i = 0; i < m->total; i++) {
		if (m->state[i] != FREE)
			continue;
		if (i == 0 || m->state[i - 1] != FREE)
			runs[n_runs++] = 0;
		runs[n_runs - 1]++;
	}
	qsort(runs, (size_t)n_runs, sizeof(*runs), down);
	for (int i = 0; i < n_runs; i++) {
		sum += (uint64_t)runs[i];
		if (sum >= n)
			return (uint32_t)i + 1;
	}
	return UINT32_MAX;
}

static void check_status(struct fixture *f, const struct model *m)
{
	struct arena_status s = status_of(f);

	assert_int_equal(s.total_blocks, m->total);
	assert_int_equal(s.used_blocks, model_count(m, USED));
	assert_int_equal(s.limbo_blocks, model_count(m, LIMBO));
	assert_int_equal(s.free_blocks, model_count(m, FREE));
	assert_int_equal(s.reserved_blocks, m->reserved);
	assert_true(s.free_blocks >= s.reserved_blocks);
	for (uint64_t i = 0; i < m->total; i += 7)
		assert_int_equal(arena_is_used(f->a, pointer_make(1, i)), m->state[i] == USED);
}

static void model_alloc(struct fixture *f, struct model *m)
{
	uint64_t n = 1 + (uint64_t)rand() % (rand() % 8 ? 12 : 120);
	bool from_reserved = rand() % 2 && m->reserved >= n;
	uint32_t max_runs = 1 + (uint32_t)rand() % 8, n_runs = 0;
	pointer_t hint = rand() % 3 && m->total ? 0 : pointer_make(1, (uint64_t)rand() % (m->total + 1));
	struct run runs[8];
	uint64_t sum = 0, free_blocks = model_count(m, FREE), need = from_reserved ? 0 : n + m->reserved;

	int r = arena_alloc(f->a, n, hint, from_reserved, runs, max_runs, &n_runs);
	if (need > free_blocks) { /* grows by whole chunks, or not at all */
		uint64_t chunks = div_round_up(need - free_blocks, CHUNK);
		if (m->total + chunks * CHUNK > BLOCKS_MAX) {
			assert_int_equal(r, -ENOSPC);
			return;
		}
		m->total += chunks * CHUNK;
	}
	uint32_t fewest = model_fewest(m, n);
	if (r < 0) {
		assert_int_equal(r, -E2BIG);
		assert_true(fewest > max_runs);
		return;
	}
	assert_true(n_runs <= max_runs && n_runs <= fewest + 1);
	for (uint32_t i = 0; i < n_runs; i++) {
		assert_true(i == 0 || runs[i].start > runs[i - 1].start);
		for (uint32_t k = 0; k < runs[i].n_blocks; k++) {
			uint64_t block = pointer_block(runs[i].start) + k;
			assert_true(block < m->total);
			assert_int_equal(m->state[block], FREE); /* R3 is in here: limbo is never given out */
			m->state[block] = USED;
		}
		sum += runs[i].n_blocks;
	}
	assert_int_equal(sum, n);
	if (from_reserved)
		m->reserved -= n;
}

static bool model_all(const struct model *m, uint64_t at, uint64_t n, int state)
{
	for (uint64_t i = at; i < at + n; i++)
		if (i >= m->total || m->state[i] != state)
			return false;
	return true;
}

static void model_mark(struct model *m, uint64_t at, uint64_t n, int state)
{
	for (uint64_t i = at; i < at + n; i++) {
		m->state[i] = (uint8_t)state;
		m->freed_in[i] = m->generation;
	}
}

/* free, unalloc and claim of a random range, right or wrong. */
static void model_change(struct fixture *f, struct model *m)
{
	uint64_t at = (uint64_t)rand() % (m->total + 3), n = 1 + (uint64_t)rand() % 9;
	struct run r = one(at, (uint32_t)n);
	bool all_used = model_all(m, at, n, USED);

	switch (rand() % 4) {
	case 0:
	case 1:
		assert_int_equal(arena_free(f->a, r), all_used ? 0 : -EUCLEAN);
		if (all_used)
			model_mark(m, at, n, LIMBO);
		break;
	case 2:
		if (!all_used)
			break;
		if (rand() % 2) {
			arena_unalloc(f->a, r);
		} else {
			arena_unalloc_reserved(f->a, r);
			m->reserved += n;
		}
		model_mark(m, at, n, FREE);
		break;
	default:
		if (model_count(m, FREE) < m->reserved + n && model_all(m, at, n, FREE))
			break; /* replay claims before reservations are set */
		assert_int_equal(arena_claim(f->a, r), model_all(m, at, n, FREE) ? 0 : -EUCLEAN);
		if (model_all(m, at, n, FREE))
			model_mark(m, at, n, USED);
	}
}

static void model_reserve(struct fixture *f, struct model *m)
{
	uint64_t n = (uint64_t)rand() % 40, free_blocks = model_count(m, FREE);

	if (rand() % 2) {
		n = min_u64(n, m->reserved);
		arena_unreserve(f->a, n);
		m->reserved -= n;
		return;
	}
	int r = arena_reserve(f->a, n);
	if (n + m->reserved > free_blocks) {
		uint64_t chunks = div_round_up(n + m->reserved - free_blocks, CHUNK);
		if (m->total + chunks * CHUNK > BLOCKS_MAX) {
			assert_int_equal(r, -ENOSPC);
			return;
		}
		m->total += chunks * CHUNK;
	}
	assert_int_equal(r, 0);
	m->reserved += n;
}

static void model_release(struct model *m, uint64_t generation)
{
	for (uint64_t i = 0; i < m->total; i++)
		if (m->state[i] == LIMBO && m->freed_in[i] <= generation)
			m->state[i] = FREE;
}

static int model_put(void *ctx, unsigned device, uint64_t page, const uint8_t *bits)
{
	struct model *m = ctx;

	assert_int_equal(device, 1);
	assert_int_equal(page, 0);
	memcpy(m->pages[page], bits, ARENA_PAGE_BYTES);
	m->has_page[page] = true;
	return 0;
}

static void model_save(struct fixture *f, struct model *m)
{
	assert_int_equal(arena_save(f->a, model_put, m), 0);
	memcpy(m->saved, m->state, sizeof(m->saved));
	for (uint64_t i = 0; i < m->total; i++)
		assert_int_equal(m->pages[0][i / 8] >> i % 8 & 1, m->state[i] == USED);
}

/* What the index saved is used; limbo is forgotten. */
static void model_crash(struct fixture *f, struct model *m)
{
	reopen(f, (uint32_t)((uint64_t)rand() % (m->total / CHUNK + 1)));
	if (m->has_page[0])
		assert_int_equal(arena_load(f->a, 1, 0, m->pages[0]), 0);
	for (uint64_t i = 0; i < m->total; i++)
		m->state[i] = m->saved[i] == USED ? USED : FREE;
	m->generation = 1;
	m->reserved = min_u64(m->reserved, model_count(m, FREE));
	arena_set_reserved(f->a, m->reserved);
}

static void run_random(struct fixture *f, unsigned long seed)
{
	static struct model m;
	uint64_t closed = 0;

	memset(&m, 0, sizeof(m));
	m.generation = 1;
	srand((unsigned)seed);
	for (int i = 0; i < 2000; i++) {
		int op = rand() % 32;
		if (op < 12) {
			model_alloc(f, &m);
		} else if (op < 22) {
			model_change(f, &m);
		} else if (op < 26) {
			model_reserve(f, &m);
		} else if (op < 28) {
			closed = arena_rotate(f->a);
			assert_int_equal(closed, m.generation);
			m.generation++;
		} else if (op < 30 && m.generation > 1) {
			closed = 1 + (uint64_t)rand() % (m.generation - 1);
			arena_release(f->a, closed);
			model_release(&m, closed);
		} else if (op == 30) {
			model_save(f, &m);
		} else if (op == 31 && rand() % 4 == 0) {
			model_crash(f, &m);
		}
		check_status(f, &m);
	}
}

static void random_operations_match_the_model(void **state)
{
	struct fixture *f = *state;
	unsigned long seed = test_seed(100);

	f->c.max_blocks = BLOCKS_MAX + CHUNK - 1; /* the last smaller chunk is not made */
	for (unsigned long i = 0; i < 5; i++) {
		f->a = arena_close(f->a);
		for (unsigned n = 0; n < 16; n++) {
			char name[32];
			snprintf(name, sizeof(name), "arena.1/chunk.%05u", n);
			assert_true(i == 0 || store_remove(&f->store.base, name) <= 0);
		}
		reopen(f, 0);
		run_random(f, seed + i);
	}
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest cases[] = {
	    CASE(random_operations_match_the_model),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
