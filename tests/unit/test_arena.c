/*
 * test_arena.c: the allocator's rules one by one: rule R3, reservations, growth, hints, what is saved and loaded.  All of them
 * together are held against a model in test_arena_model.c; reading, writing and flushing blocks is test_arena_io.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>

#include "base/log.h"
#include "tests/unit/arena_world.h"

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
	    CASE(freed_blocks_are_not_reused_before_their_release),
	    CASE(double_and_stray_frees_change_nothing),
	    CASE(reserved_blocks_are_kept_for_their_owner),
	    CASE(impossible_sizes_are_no_space_and_make_no_chunk),
	    CASE(growth_leaves_the_host_its_reserve),
	    CASE(a_chunk_that_cannot_be_made_is_the_callers_error),
	    CASE(known_chunks_must_be_there_and_whole),
	    CASE(leftovers_of_a_creation_are_adopted_or_replaced),
	    CASE(a_hint_is_honoured_and_does_not_move_the_cursor),
	    CASE(too_many_runs_allocates_nothing),
	    CASE(a_run_around_the_cursor_is_one_run),
	    CASE(save_puts_only_pages_changed_since_the_last),
	    CASE(hidden_blocks_are_nobodys_but_not_saved_as_used),
	    CASE(load_refuses_what_is_outside),
	    CASE(the_thread_keeps_a_chunk_ahead),
	    CASE(threads_leave_the_accounts_balanced),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
