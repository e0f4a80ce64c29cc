/*
 * test_arena.c: the allocator against a naive model, rule R3, reservations, growth, and what a flush covers.
 *
 * The store is a host directory behind a table that says how much is free, counts flushes and fails on demand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/log.h"
#include "fs/store/arena.h"
#include "tests/unit/tempdir.h"

#define CHUNK 64u

/* --- a store that can be told what to do --- */

struct odd_store {
	struct store base;
	struct store *real;
	_Atomic uint64_t free_bytes;
	atomic_int fail_flush, fail_write, fail_create; /* -errno */
	atomic_int flushes, creates, slow_us;
};
struct odd_disk {
	struct disk base;
	struct disk *real;
	struct odd_store *s;
};

static struct odd_disk *odd(struct disk *d)
{
	return container_of(d, struct odd_disk, base);
}
static int odd_read(struct disk *d, void *p, size_t len, uint64_t off)
{
	return disk_read(odd(d)->real, p, len, off);
}

static int odd_write(struct disk *d, const struct iovec *iov, int n_iov, uint64_t off, unsigned flags)
{
	int e = atomic_load(&odd(d)->s->fail_write);

	return e ? e : disk_writev(odd(d)->real, iov, n_iov, off, flags);
}

static int odd_write_many(struct disk *d, const struct disk_write *w, size_t n)
{
	int e = atomic_load(&odd(d)->s->fail_write);

	return e ? e : disk_write_many(odd(d)->real, w, n);
}

static int odd_flush(struct disk *d)
{
	int e = atomic_load(&odd(d)->s->fail_flush);

	usleep((useconds_t)atomic_load(&odd(d)->s->slow_us));
	atomic_fetch_add(&odd(d)->s->flushes, 1);
	return e ? e : disk_flush(odd(d)->real);
}

static int odd_map(struct disk *d, size_t len, void **ret_p)
{
	return disk_map(odd(d)->real, len, ret_p);
}

static void odd_disk_close(struct disk *d)
{
	disk_close(odd(d)->real);
	free(odd(d));
}

static const struct disk_ops odd_disk_ops = {odd_read, odd_write, odd_write_many, odd_flush, odd_map, odd_disk_close};

static int odd_open(struct store *s, const char *name, unsigned flags, uint64_t size, struct disk **ret_disk)
{
	struct odd_store *o = container_of(s, struct odd_store, base);
	struct disk *real;
	int e = flags & DISK_CREATE ? atomic_load(&o->fail_create) : 0;

	if (e == 0)
		e = store_open(o->real, name, flags, size, &real);
	if (e < 0)
		return e;
	if (flags & DISK_CREATE) {
		atomic_fetch_add(&o->creates, 1);
		usleep((useconds_t)atomic_load(&o->slow_us));
		atomic_fetch_sub(&o->free_bytes, size);
	}
	struct odd_disk *d = calloc(1, sizeof(*d));
	*d = (struct odd_disk){.base = {&odd_disk_ops, real->size}, .real = real, .s = o};
	*ret_disk = &d->base;
	return 0;
}

static int odd_remove(struct store *s, const char *name)
{
	return store_remove(container_of(s, struct odd_store, base)->real, name);
}
static int odd_sync_names(struct store *s)
{
	return store_sync_names(container_of(s, struct odd_store, base)->real);
}

static int odd_space(struct store *s, uint64_t *ret_free, uint64_t *ret_total)
{
	*ret_free = atomic_load(&container_of(s, struct odd_store, base)->free_bytes);
	*ret_total = 100 * GIB;
	return 0;
}

static void odd_close(struct store *s)
{
	store_close(container_of(s, struct odd_store, base)->real);
}

static const struct store_ops odd_ops = {odd_open, odd_remove, odd_sync_names, odd_space, odd_close};

/* --- fixture --- */

struct fixture {
	char dir[256];
	struct odd_store store;
	struct arena_config c;
	struct arena *a;
	uint8_t *p, *q; /* 1 MiB each, aligned */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	tempdir_make(f->dir);
	f->store.base.ops = &odd_ops;
	atomic_store(&f->store.free_bytes, 10 * GIB);
	assert_int_equal(store_posix_open(f->dir, false, &f->store.real), 0);
	f->c =
	    (struct arena_config){.store = &f->store.base, .chunk_blocks = CHUNK, .max_blocks = UINT64_MAX, .no_threads = true};
	assert_int_equal(posix_memalign((void **)&f->p, BLOCK_SIZE, MIB), 0);
	assert_int_equal(posix_memalign((void **)&f->q, BLOCK_SIZE, MIB), 0);
	for (size_t i = 0; i < MIB; i++)
		f->p[i] = (uint8_t)(i * 2654435761u >> 11);
	assert_int_equal(arena_open(&f->c, &f->a), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	arena_close(f->a);
	store_close(&f->store.base);
	tempdir_remove(f->dir);
	free(f->p);
	free(f->q);
	free(f);
	return 0;
}

static struct arena_status status_of(struct fixture *f)
{
	struct arena_status s;

	arena_get_status(f->a, &s);
	return s;
}

static void reopen(struct fixture *f, uint32_t n_known)
{
	f->a = arena_close(f->a);
	f->c.n_chunks_known = n_known;
	assert_int_equal(arena_open(&f->c, &f->a), 0);
}

static struct run one(uint64_t block, uint32_t n)
{
	return (struct run){pointer_make(1, block), n};
}

static struct run alloc_one(struct fixture *f, uint64_t n)
{
	struct run r;
	uint32_t n_runs;

	assert_int_equal(arena_alloc(f->a, n, 0, false, &r, 1, &n_runs), 0);
	assert_int_equal(n_runs, 1);
	assert_int_equal(r.n_blocks, n);
	return r;
}

static int alloc_error(struct fixture *f, uint64_t n, bool from_reserved)
{
	struct run r[64];
	uint32_t n_runs;

	return arena_alloc(f->a, n, 0, from_reserved, r, 64, &n_runs);
}

/* --- the model --- */

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

/* --- single rules --- */

static void freed_blocks_are_not_reused_before_their_release(void **state)
{
	struct fixture *f = *state;

	f->c.max_blocks = CHUNK;
	reopen(f, 0);
	struct run r = alloc_one(f, CHUNK);
	assert_int_equal(alloc_error(f, 1, false), -ENOSPC);
	assert_int_equal(arena_free(f->a, one(0, 10)), 0);
	assert_int_equal(alloc_error(f, 1, false), -ENOSPC);
	uint64_t first = arena_rotate(f->a);
	assert_int_equal(alloc_error(f, 1, false), -ENOSPC);
	assert_int_equal(arena_free(f->a, one(20, 5)), 0); /* of the next generation: no part of that checkpoint */
	arena_release(f->a, first);
	assert_int_equal(status_of(f).free_blocks, 10);
	assert_int_equal(status_of(f).limbo_blocks, 5);
	assert_int_equal(pointer_block(alloc_one(f, 10).start), 0);
	assert_int_equal(alloc_error(f, 1, false), -ENOSPC);
	uint64_t second = arena_rotate(f->a);
	arena_release(f->a, second);
	assert_int_equal(pointer_block(alloc_one(f, 5).start), 20);
	(void)r;
}

static void double_and_stray_frees_change_nothing(void **state)
{
	struct fixture *f = *state;

	alloc_one(f, 20);
	struct arena_status before = status_of(f);
	assert_int_equal(arena_free(f->a, one(15, 6)), -EUCLEAN); /* the last one is free */
	assert_int_equal(arena_free(f->a, one(CHUNK - 1, 2)), -EUCLEAN);
	assert_int_equal(arena_free(f->a, one(1 << 20, 1)), -EUCLEAN);
	assert_int_equal(arena_free(f->a, one(3, 0)), -EUCLEAN);
	assert_int_equal(arena_free(f->a, (struct run){pointer_make(0, 3), 1}), -EUCLEAN);
	assert_int_equal(arena_free(f->a, (struct run){pointer_make(2, 3), 1}), -EUCLEAN);
	assert_int_equal(arena_free(f->a, (struct run){pointer_make(1, 3) | 1, 1}), -EUCLEAN);
	assert_int_equal(arena_free(f->a, one(POINTER_BLOCK_MAX, UINT32_MAX)), -EUCLEAN);
	struct arena_status after = status_of(f);
	assert_true(after.used_blocks == before.used_blocks && after.limbo_blocks == 0 &&
		    after.free_blocks == before.free_blocks);
	assert_int_equal(arena_free(f->a, one(5, 3)), 0);
	assert_int_equal(arena_free(f->a, one(7, 1)), -EUCLEAN);
	assert_int_equal(arena_claim(f->a, one(6, 1)), -EUCLEAN); /* limbo is not free */
}

static void reserved_blocks_are_kept_for_their_owner(void **state)
{
	struct fixture *f = *state;

	f->c.max_blocks = CHUNK;
	reopen(f, 0);
	assert_int_equal(arena_reserve(f->a, 60), 0);
	assert_int_equal(arena_reserve(f->a, 5), -ENOSPC);
	assert_int_equal(alloc_error(f, 5, false), -ENOSPC);
	alloc_one(f, 4);
	assert_int_equal(alloc_error(f, 60, true), 0);
	struct arena_status s = status_of(f);
	assert_true(s.reserved_blocks == 0 && s.free_blocks == 0);
	arena_unalloc_reserved(f->a, one(10, 7));
	s = status_of(f);
	assert_true(s.reserved_blocks == 7 && s.free_blocks == 7);
	assert_int_equal(alloc_error(f, 1, false), -ENOSPC);
	arena_unreserve(f->a, 7);
	alloc_one(f, 7);
}

static void impossible_sizes_are_no_space_and_make_no_chunk(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(arena_reserve(f->a, UINT64_MAX), -ENOSPC);
	assert_int_equal(arena_reserve(f->a, UINT64_MAX / 2), -ENOSPC);
	assert_int_equal(arena_reserve(f->a, 11 * GIB / BLOCK_SIZE), -ENOSPC);
	assert_int_equal(atomic_load(&f->store.creates), 0);
}

static void growth_leaves_the_host_its_reserve(void **state)
{
	struct fixture *f = *state;
	uint64_t chunk = CHUNK * BLOCK_SIZE;

	atomic_store(&f->store.free_bytes, 5 * chunk + chunk / 2);
	f->c.host_reserve = 2 * chunk;
	reopen(f, 0);
	assert_int_equal(status_of(f).growable_blocks, 3 * CHUNK);
	assert_int_equal(arena_reserve(f->a, 3 * CHUNK), 0);
	assert_int_equal(status_of(f).growable_blocks, 0);
	assert_int_equal(arena_reserve(f->a, 1), -ENOSPC);
	assert_int_equal(status_of(f).n_chunks, 3);
	atomic_store(&f->store.free_bytes, chunk); /* somebody else took it */
	assert_int_equal(status_of(f).growable_blocks, 0);
}

static void a_chunk_that_cannot_be_made_is_the_callers_error(void **state)
{
	struct fixture *f = *state;

	atomic_store(&f->store.fail_create, -EIO);
	assert_int_equal(arena_reserve(f->a, 1), -EIO);
	atomic_store(&f->store.fail_create, -ENOSPC);
	assert_int_equal(alloc_error(f, 1, false), -ENOSPC);
	atomic_store(&f->store.fail_create, 0);
	assert_int_equal(arena_reserve(f->a, 1), 0);
}

static void known_chunks_must_be_there_and_whole(void **state)
{
	struct fixture *f = *state;
	struct arena *a = NULL;
	char path[300];

	assert_int_equal(arena_reserve(f->a, 3 * CHUNK), 0);
	reopen(f, 3);
	f->a = arena_close(f->a);
	snprintf(path, sizeof(path), "%s/arena.1/chunk.00001", f->dir);
	assert_int_equal(truncate(path, 4096), 0);
	assert_int_equal(arena_open(&f->c, &a), -EUCLEAN);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(arena_open(&f->c, &a), -ENOENT);
	assert_null(a);
}

static void leftovers_of_a_creation_are_adopted_or_replaced(void **state)
{
	struct fixture *f = *state;
	char path[300];

	assert_int_equal(arena_reserve(f->a, 3 * CHUNK), 0);
	reopen(f, 1); /* the index heard of one only: the journal may name blocks of the others */
	assert_int_equal(status_of(f).n_chunks, 3);
	assert_int_equal(arena_claim(f->a, one(2 * CHUNK + 5, 3)), 0);
	f->a = arena_close(f->a);
	snprintf(path, sizeof(path), "%s/arena.1/chunk.00001", f->dir);
	assert_int_equal(truncate(path, 8192), 0);
	reopen(f, 1);
	assert_int_equal(status_of(f).n_chunks, 1);
	assert_int_equal(arena_reserve(f->a, 3 * CHUNK), 0);
	assert_int_equal(status_of(f).n_chunks, 3);
	assert_int_equal(arena_read(f->a, pointer_make(1, 2 * CHUNK - 1), 1, f->q), 0);
}

static void blocks_are_read_back_across_chunks(void **state)
{
	struct fixture *f = *state;
	struct iovec iov[5];
	struct arena_write w[3];

	struct run r = alloc_one(f, 3 * CHUNK);
	pointer_t at = pointer_add(r.start, CHUNK - 3);
	size_t sizes[] = {1, 4, 2, 80, 5}, off = 0, n = 0;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); off += sizes[i++])
		iov[n++] = (struct iovec){f->p + off * BLOCK_SIZE, sizes[i] * BLOCK_SIZE};
	assert_int_equal(arena_writev(f->a, at, iov, 5), 0);
	assert_int_equal(arena_read(f->a, at, 92, f->q), 0);
	assert_memory_equal(f->q, f->p, 92 * BLOCK_SIZE);
	assert_int_equal(arena_read(f->a, pointer_add(at, 70), 3, f->q), 0);
	assert_memory_equal(f->q, f->p + 70 * BLOCK_SIZE, 3 * BLOCK_SIZE);

	w[0] = (struct arena_write){r.start, 2, f->p + 9 * BLOCK_SIZE};
	w[1] = (struct arena_write){pointer_add(r.start, 2), 90, f->p + 11 * BLOCK_SIZE};
	w[2] = (struct arena_write){pointer_add(r.start, 150), 1, f->p};
	assert_int_equal(arena_write_many(f->a, w, 3), 0);
	assert_int_equal(arena_read(f->a, r.start, 92, f->q), 0);
	assert_memory_equal(f->q, f->p + 9 * BLOCK_SIZE, 92 * BLOCK_SIZE);
	assert_int_equal(arena_read(f->a, pointer_add(r.start, 150), 1, f->q), 0);
	assert_memory_equal(f->q, f->p, BLOCK_SIZE);
	struct arena_status s = status_of(f);
	assert_int_equal(s.blocks_written, 92 + 93);
	assert_int_equal(s.blocks_read, 92 + 3 + 92 + 1);
}

static void many_scattered_writes_all_arrive(void **state)
{
	struct fixture *f = *state;
	static struct arena_write w[1000];

	struct run r = alloc_one(f, 16 * CHUNK);
	for (size_t i = 0; i < 1000; i++) /* 7 is prime to 1024 */
		w[i] = (struct arena_write){pointer_add(r.start, i * 7 % 1024), 1, f->p + i % 256 * BLOCK_SIZE};
	assert_int_equal(arena_write_many(f->a, w, 1000), 0);
	for (size_t i = 0; i < 1000; i++) {
		assert_int_equal(arena_read(f->a, w[i].at, 1, f->q), 0);
		assert_memory_equal(f->q, w[i].p, BLOCK_SIZE);
	}
}

static void io_outside_the_arena_never_reaches_a_disk(void **state)
{
	struct fixture *f = *state;
	struct iovec iov = {f->p, 2 * BLOCK_SIZE};
	struct arena_write w = {pointer_make(1, CHUNK - 1), 2, f->p};

	alloc_one(f, 1);
	assert_int_equal(arena_read(f->a, pointer_make(1, CHUNK - 1), 2, f->q), -EUCLEAN);
	assert_int_equal(arena_read(f->a, pointer_make(0, 1), 1, f->q), -EUCLEAN);
	assert_int_equal(arena_read(f->a, pointer_make(3, 1), 1, f->q), -EUCLEAN);
	assert_int_equal(arena_read(f->a, UINT64_MAX, 1, f->q), -EUCLEAN);
	assert_int_equal(arena_writev(f->a, pointer_make(1, CHUNK - 1), &iov, 1), -EUCLEAN);
	assert_int_equal(arena_write_many(f->a, &w, 1), -EUCLEAN);
	assert_int_equal(arena_flush(f->a), 0);
	assert_int_equal(atomic_load(&f->store.flushes), 0);
	assert_false(arena_is_used(f->a, pointer_make(1, CHUNK)));
}

static void write_block(struct fixture *f, uint64_t block)
{
	struct iovec iov = {f->p, BLOCK_SIZE};

	assert_int_equal(arena_writev(f->a, pointer_make(1, block), &iov, 1), 0);
}

static void flush_takes_only_chunks_written_since_the_last(void **state)
{
	struct fixture *f = *state;

	alloc_one(f, 4 * CHUNK);
	write_block(f, 0);
	write_block(f, 2 * CHUNK);
	assert_int_equal(arena_flush(f->a), 0);
	assert_int_equal(atomic_load(&f->store.flushes), 2);
	assert_int_equal(arena_flush(f->a), 0);
	assert_int_equal(atomic_load(&f->store.flushes), 2);
	write_block(f, 2 * CHUNK + 1);
	assert_int_equal(arena_flush(f->a), 0);
	assert_int_equal(atomic_load(&f->store.flushes), 3);
}

static void a_failed_write_or_flush_stays_for_every_later_flush(void **state)
{
	struct fixture *f = *state;
	struct iovec iov = {f->p, BLOCK_SIZE};

	alloc_one(f, 1);
	write_block(f, 0);
	atomic_store(&f->store.fail_flush, -EIO);
	assert_int_equal(arena_flush(f->a), -EIO);
	atomic_store(&f->store.fail_flush, 0);
	assert_int_equal(arena_flush(f->a), -EIO);
	assert_int_equal(status_of(f).error, -EIO);
	assert_int_equal(atomic_load(&f->store.flushes), 1);
	reopen(f, 1);
	assert_int_equal(arena_flush(f->a), 0);
	atomic_store(&f->store.fail_write, -ENXIO);
	assert_int_equal(arena_writev(f->a, pointer_make(1, 0), &iov, 1), -ENXIO);
	atomic_store(&f->store.fail_write, 0);
	assert_int_equal(arena_flush(f->a), -ENXIO);
}

static void *flush_thread(void *arg)
{
	struct fixture *f = arg;

	return arena_flush(f->a) == 0 ? NULL : f;
}

/* The second flusher finds the chunk clean, but a flush of it under way: it must not return before that one's end. */
static void a_flush_waits_for_the_one_that_covers_its_writes(void **state)
{
	struct fixture *f = *state;
	pthread_t t;
	void *failed;

	alloc_one(f, 1);
	write_block(f, 0);
	atomic_store(&f->store.slow_us, 100000);
	assert_int_equal(pthread_create(&t, NULL, flush_thread, f), 0);
	usleep(30000);
	assert_int_equal(arena_flush(f->a), 0);
	assert_int_equal(atomic_load(&f->store.flushes), 1);
	pthread_join(t, &failed);
	assert_null(failed);
}

static void a_hint_is_honoured_and_does_not_move_the_cursor(void **state)
{
	struct fixture *f = *state;
	uint32_t n_runs;
	struct run r;

	alloc_one(f, 10);
	assert_int_equal(arena_alloc(f->a, 5, pointer_make(1, 40), false, &r, 1, &n_runs), 0);
	assert_int_equal(pointer_block(r.start), 40);
	assert_int_equal(arena_alloc(f->a, 5, pointer_make(1, 41), false, &r, 1, &n_runs), 0);
	assert_int_equal(pointer_block(r.start), 45);
	assert_int_equal(pointer_block(alloc_one(f, 3).start), 10);
	assert_int_equal(arena_alloc(f->a, 1, pointer_make(9, 1), false, &r, 1, &n_runs), 0); /* no place of ours: anywhere */
	assert_int_equal(pointer_block(r.start), 13);
}

static void too_many_runs_allocates_nothing(void **state)
{
	struct fixture *f = *state;
	struct run r[40];
	uint32_t n_runs;

	f->c.max_blocks = CHUNK;
	reopen(f, 0);
	alloc_one(f, CHUNK);
	for (unsigned i = 0; i < CHUNK; i += 2)
		arena_unalloc(f->a, one(i, 1));
	assert_int_equal(arena_alloc(f->a, 10, 0, false, r, 9, &n_runs), -E2BIG);
	assert_int_equal(status_of(f).free_blocks, 32);
	assert_int_equal(arena_alloc(f->a, 32, 0, false, r, 32, &n_runs), 0);
	assert_int_equal(n_runs, 32);
}

/* The search begins inside the only run that is long enough: it must still be found whole. */
static void a_run_around_the_cursor_is_one_run(void **state)
{
	struct fixture *f = *state;
	uint32_t n_runs;
	struct run r;

	f->c.max_blocks = CHUNK;
	reopen(f, 0);
	alloc_one(f, 30); /* the cursor stands at 30 */
	arena_unalloc(f->a, one(0, 30));
	assert_int_equal(arena_alloc(f->a, 60, 0, false, &r, 1, &n_runs), 0);
	assert_int_equal(r.n_blocks, 60);
}

static void neighbours_on_disk_but_not_in_memory_are_written_as_given(void **state)
{
	struct fixture *f = *state;
	struct arena_write w[3];

	struct run r = alloc_one(f, 3);
	for (size_t i = 0; i < 3; i++)
		w[i] = (struct arena_write){pointer_add(r.start, i), 1, f->p + (5 - 2 * i) * BLOCK_SIZE};
	assert_int_equal(arena_write_many(f->a, w, 3), 0);
	assert_int_equal(arena_read(f->a, r.start, 3, f->q), 0);
	for (size_t i = 0; i < 3; i++)
		assert_memory_equal(f->q + i * BLOCK_SIZE, w[i].p, BLOCK_SIZE);
}

static int count_put(void *ctx, unsigned device, uint64_t page, const uint8_t *bits)
{
	(void)device, (void)page, (void)bits;
	++*(int *)ctx;
	return 0;
}

static int fail_put(void *ctx, unsigned device, uint64_t page, const uint8_t *bits)
{
	(void)ctx, (void)device, (void)page, (void)bits;
	return -ENOMEM;
}

static void save_puts_only_pages_changed_since_the_last(void **state)
{
	struct fixture *f = *state;
	int n = 0;

	f->c.chunk_blocks = ARENA_PAGE_BLOCKS / 2; /* four chunks, two pages */
	reopen(f, 0);
	assert_int_equal(arena_save(f->a, count_put, &n), 0);
	assert_int_equal(n, 0);
	alloc_one(f, 2 * ARENA_PAGE_BLOCKS);
	assert_int_equal(arena_save(f->a, fail_put, NULL), -ENOMEM);
	assert_int_equal(arena_save(f->a, count_put, &n), 0);
	assert_int_equal(n, 2);
	assert_int_equal(arena_save(f->a, count_put, &n), 0);
	assert_int_equal(n, 2);
	assert_int_equal(arena_free(f->a, one(ARENA_PAGE_BLOCKS, 1)), 0);
	assert_int_equal(arena_save(f->a, count_put, &n), 0);
	assert_int_equal(n, 3);
	arena_release(f->a, arena_rotate(f->a)); /* was saved as free already */
	assert_int_equal(arena_save(f->a, count_put, &n), 0);
	assert_int_equal(n, 3);
}

/* Bits set in what was saved last. */
static int sum_put(void *ctx, unsigned device, uint64_t page, const uint8_t *bits)
{
	unsigned *n = ctx;

	(void)device, (void)page;
	*n = 0;
	for (size_t i = 0; i < ARENA_PAGE_BYTES; i++)
		*n += (unsigned)__builtin_popcount(bits[i]);
	return 0;
}

static void hidden_blocks_are_nobodys_but_not_saved_as_used(void **state)
{
	struct fixture *f = *state;
	unsigned n = 0;

	f->c.max_blocks = CHUNK;
	reopen(f, 0);
	struct run mine = alloc_one(f, 10);
	uint64_t rest = CHUNK - 10;
	arena_hide(f->a, mine);
	assert_int_equal(alloc_error(f, rest + 1, false), -ENOSPC);
	struct run others = alloc_one(f, rest);
	assert_int_equal(alloc_error(f, 1, false), -ENOSPC);
	assert_int_equal(arena_save(f->a, sum_put, &n), 0);
	assert_int_equal(n, rest);
	arena_release(f->a, arena_rotate(f->a)); /* a checkpoint gives them to nobody either */
	assert_int_equal(alloc_error(f, 1, false), -ENOSPC);
	assert_int_equal(arena_free(f->a, mine), -EUCLEAN);
	arena_show(f->a, mine);
	arena_show(f->a, mine); /* again is fine */
	assert_int_equal(arena_save(f->a, sum_put, &n), 0);
	assert_int_equal(n, CHUNK);
	arena_unalloc(f->a, mine);
	assert_int_equal(status_of(f).free_blocks, 10);
	(void)others;
}

static void load_refuses_what_is_outside(void **state)
{
	struct fixture *f = *state;
	uint8_t bits[ARENA_PAGE_BYTES] = {0};

	assert_int_equal(arena_reserve(f->a, CHUNK), 0);
	bits[0] = 1;
	assert_int_equal(arena_load(f->a, 1, 0, bits), 0);
	assert_int_equal(status_of(f).used_blocks, 1);
	assert_int_equal(arena_load(f->a, 2, 0, bits), -EUCLEAN);
	assert_int_equal(arena_load(f->a, 1, 1, bits), -EUCLEAN);
	bits[CHUNK / 8] = 1;
	assert_int_equal(arena_load(f->a, 1, 0, bits), -EUCLEAN);
}

static void the_thread_keeps_a_chunk_ahead(void **state)
{
	struct fixture *f = *state;

	f->c.no_threads = false;
	f->c.max_blocks = 4 * CHUNK;
	reopen(f, 0);
	alloc_one(f, CHUNK / 2 + 1); /* makes the first itself, leaves under half of it */
	for (int i = 0; i < 500 && status_of(f).n_chunks < 2; i++)
		usleep(2000);
	assert_int_equal(status_of(f).n_chunks, 2);
	alloc_one(f, CHUNK + CHUNK / 2 - 1);
	for (int i = 0; i < 500 && status_of(f).n_chunks < 3; i++)
		usleep(2000);
	assert_int_equal(status_of(f).n_chunks, 3);
	f->a = arena_close(f->a); /* ends at once, waiting or growing */
	reopen(f, 3);
}

struct churn {
	struct fixture *f;
	unsigned seed;
	atomic_bool *stop;
};

static void *churn_thread(void *arg)
{
	struct churn *c = arg;
	struct run runs[16];
	uint32_t n_runs;

	while (!atomic_load(c->stop)) {
		uint64_t n = 1 + (uint64_t)rand_r(&c->seed) % 20;
		struct iovec iov = {c->f->p + (c->seed % 100) * BLOCK_SIZE, BLOCK_SIZE};
		if (arena_reserve(c->f->a, n) < 0)
			continue;
		if (arena_alloc(c->f->a, n, 0, true, runs, 16, &n_runs) < 0) {
			arena_unreserve(c->f->a, n);
			continue;
		}
		for (uint32_t i = 0; i < n_runs; i++)
			if (arena_writev(c->f->a, runs[i].start, &iov, 1) < 0 || arena_free(c->f->a, runs[i]) < 0)
				return c;
		if (rand_r(&c->seed) % 4 == 0 && arena_flush(c->f->a) < 0)
			return c;
	}
	return NULL;
}

static void threads_leave_the_accounts_balanced(void **state)
{
	struct fixture *f = *state;
	struct churn c[4];
	pthread_t t[4];
	atomic_bool stop = false;

	f->c.no_threads = false;
	f->c.max_blocks = 8 * CHUNK;
	reopen(f, 0);
	for (unsigned i = 0; i < 4; i++) {
		c[i] = (struct churn){f, i, &stop};
		assert_int_equal(pthread_create(&t[i], NULL, churn_thread, &c[i]), 0);
	}
	for (int i = 0; i < 60; i++) {
		usleep(2000);
		arena_release(f->a, arena_rotate(f->a));
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 4; i++) {
		void *failed;
		pthread_join(t[i], &failed);
		assert_null(failed);
	}
	arena_release(f->a, arena_rotate(f->a));
	struct arena_status s = status_of(f);
	assert_true(s.used_blocks == 0 && s.limbo_blocks == 0 && s.reserved_blocks == 0);
	assert_int_equal(s.free_blocks, s.total_blocks);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest cases[] = {
	    CASE(random_operations_match_the_model),
	    CASE(freed_blocks_are_not_reused_before_their_release),
	    CASE(double_and_stray_frees_change_nothing),
	    CASE(reserved_blocks_are_kept_for_their_owner),
	    CASE(impossible_sizes_are_no_space_and_make_no_chunk),
	    CASE(growth_leaves_the_host_its_reserve),
	    CASE(a_chunk_that_cannot_be_made_is_the_callers_error),
	    CASE(known_chunks_must_be_there_and_whole),
	    CASE(leftovers_of_a_creation_are_adopted_or_replaced),
	    CASE(blocks_are_read_back_across_chunks),
	    CASE(many_scattered_writes_all_arrive),
	    CASE(io_outside_the_arena_never_reaches_a_disk),
	    CASE(flush_takes_only_chunks_written_since_the_last),
	    CASE(a_failed_write_or_flush_stays_for_every_later_flush),
	    CASE(a_flush_waits_for_the_one_that_covers_its_writes),
	    CASE(a_hint_is_honoured_and_does_not_move_the_cursor),
	    CASE(too_many_runs_allocates_nothing),
	    CASE(a_run_around_the_cursor_is_one_run),
	    CASE(neighbours_on_disk_but_not_in_memory_are_written_as_given),
	    CASE(save_puts_only_pages_changed_since_the_last),
	    CASE(hidden_blocks_are_nobodys_but_not_saved_as_used),
	    CASE(load_refuses_what_is_outside),
	    CASE(the_thread_keeps_a_chunk_ahead),
	    CASE(threads_leave_the_accounts_balanced),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
