/*
 * test_icache.c: icache.h over an index in memory: what is evicted or saved is in the index, nothing dirty is lost when a write
 * fails, pointers last as long as promised, and locks are taken in order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/icache.h"
#include "fs/core/index.h"
#include "tests/unit/memindex.h"
#include "tests/unit/tempdir.h"

static struct memindex mem;
static struct icache *ic;

static void make_cache(uint32_t stripes)
{
	memindex_open(&mem);
	/* Through the failing one, so that writes are counted. */
	assert_int_equal(icache_new(&mem.flaky.kv, stripes, &ic), 0);
}

static int one_stripe(void **state)
{
	(void)state;
	make_cache(1);
	return 0;
}

static int many_stripes(void **state)
{
	(void)state;
	make_cache(64);
	return 0;
}

static int drop_cache(void **state)
{
	(void)state;
	ic = icache_free(ic);
	assert_null(icache_free(NULL));
	memindex_close(&mem);
	return 0;
}

static struct inode *create(uint64_t ino)
{
	struct inode *in;

	assert_int_equal(icache_create(ic, ino, &in), 0);
	in->mode = S_IFREG | 0644;
	in->size = ino * 10;
	return in;
}

static struct inode *get(uint64_t ino)
{
	struct inode *in;

	assert_int_equal(icache_get(ic, ino, &in), 0);
	assert_int_equal(in->ino, ino);
	return in;
}

static bool in_index(uint64_t ino)
{
	struct inode in;
	int r = index_get_inode(mem.kv, ino, &in);

	assert_true(r == 0 || r == -ENOENT);
	return r == 0 && in.size == ino * 10;
}

static void a_new_inode_is_zero_dirty_and_only_in_memory(void **state)
{
	struct inode *in, *again;

	(void)state;
	assert_int_equal(icache_create(ic, 5, &in), 0);
	assert_true(in->ino == 5 && in->dirty && in->size == 0 && in->nlink == 0 && in->mode == 0);
	assert_int_equal(icache_get(ic, 5, &again), 0);
	assert_ptr_equal(in, again);
	assert_false(in_index(5));
	assert_int_equal(icache_get(ic, 6, &again), -ENOENT);
	assert_int_equal(icache_get(ic, 0, &again), -ENOENT);
	assert_null(icache_peek(ic, 0));
	assert_null(icache_peek(ic, 6));
}

static void eviction_writes_the_oldest_back_and_only_if_dirty(void **state)
{
	(void)state;
	for (uint64_t ino = 1; ino <= ICACHE_WAYS; ino++)
		create(ino);
	assert_int_equal(mem.flaky.writes, 0);
	get(1); /* now 2 is the oldest */
	create(100);
	assert_true(in_index(2));
	assert_false(in_index(1));
	assert_null(icache_peek(ic, 2));
	assert_non_null(icache_peek(ic, 1));
	assert_int_equal(mem.flaky.writes, 1);
	assert_int_equal(icache_save(ic), 0);
	unsigned writes = mem.flaky.writes;
	for (uint64_t ino = 200; ino < 200 + ICACHE_WAYS; ino++) { /* everything in the cache is clean now */
		struct inode other = {.ino = ino, .mode = S_IFREG, .size = ino * 10};
		assert_int_equal(index_put_inode(mem.kv, &other), 0);
		get(ino);
	}
	assert_int_equal(mem.flaky.writes, writes);
	assert_int_equal(get(1)->size, 10);
}

static void save_puts_every_dirty_inode_into_the_index_once(void **state)
{
	(void)state;
	for (uint64_t ino = 1; ino <= 300; ino++)
		create(ino);
	assert_int_equal(icache_save(ic), 0);
	for (uint64_t ino = 1; ino <= 300; ino++)
		assert_true(in_index(ino));
	assert_int_equal(mem.flaky.writes, 300);
	assert_int_equal(icache_save(ic), 0);
	assert_int_equal(mem.flaky.writes, 300);
	struct inode *in = get(7);
	in->nlink = 9;
	in->dirty = true;
	assert_int_equal(icache_save(ic), 0);
	assert_int_equal(mem.flaky.writes, 301);
	struct inode stored;
	assert_int_equal(index_get_inode(mem.kv, 7, &stored), 0);
	assert_int_equal(stored.nlink, 9);
}

/* What RENAME needs: the inodes asked for last stay where they are while the others are fetched. */
static void the_eight_inodes_asked_for_last_stay_valid(void **state)
{
	struct rng g = {.state = test_seed(1)};
	struct inode *recent[8] = {0};
	uint64_t of[8] = {0};

	(void)state;
	for (uint64_t ino = 1; ino <= 100; ino++)
		create(ino);
	for (unsigned n = 0; n < 20000; n++) {
		uint64_t ino = rng_between(&g, 1, 100);

		recent[n % 8] = get(ino);
		of[n % 8] = ino;
		recent[n % 8]->dirty |= rng_percent(&g, 30);
		for (unsigned i = 0; i < 8; i++)
			if (recent[i])
				assert_int_equal(recent[i]->ino, of[i]);
	}
}

static void a_write_back_that_fails_loses_nothing(void **state)
{
	struct inode *in;

	(void)state;
	for (uint64_t ino = 1; ino <= ICACHE_WAYS; ino++)
		create(ino);
	mem.flaky.error = -EIO;
	assert_int_equal(icache_create(ic, 100, &in), -EIO);
	assert_int_equal(icache_save(ic), -EIO);
	for (uint64_t ino = 1; ino <= ICACHE_WAYS; ino++) {
		assert_non_null(icache_peek(ic, ino));
		assert_true(icache_peek(ic, ino)->dirty);
	}
	assert_null(icache_peek(ic, 100));
	mem.flaky.error = 0;
	assert_int_equal(icache_save(ic), 0);
	for (uint64_t ino = 1; ino <= ICACHE_WAYS; ino++)
		assert_true(in_index(ino));
}

static void damage_is_passed_on_and_nothing_is_cached(void **state)
{
	struct inode *in, copy;

	(void)state;
	mem.flaky.get_error = -EBADMSG;
	assert_int_equal(icache_get(ic, 3, &in), -EBADMSG);
	assert_int_equal(icache_copy(ic, 3, &copy), -EBADMSG);
	assert_int_equal(icache_rdlock_get(ic, 3, &in), -EBADMSG);
	mem.flaky.get_error = 0;
	assert_int_equal(icache_get(ic, 3, &in), -ENOENT);
}

static void a_removed_inode_is_gone_from_both(void **state)
{
	struct inode *in, stored;

	(void)state;
	create(5);
	assert_int_equal(icache_save(ic), 0);
	assert_true(in_index(5));
	assert_int_equal(icache_remove(ic, 5), 0);
	assert_null(icache_peek(ic, 5));
	assert_int_equal(index_get_inode(mem.kv, 5, &stored), -ENOENT);
	assert_int_equal(icache_get(ic, 5, &in), -ENOENT);
	assert_int_equal(icache_remove(ic, 5), 0); /* once more is no error */
	create(5);
}

static void shared_reads_load_what_is_not_cached(void **state)
{
	struct inode other = {.ino = 9, .mode = S_IFREG, .size = 90}, *in, copy;

	(void)state;
	assert_int_equal(index_put_inode(mem.kv, &other), 0);
	assert_null(icache_peek(ic, 9));
	assert_int_equal(icache_copy(ic, 9, &copy), 0);
	assert_int_equal(copy.size, 90);
	assert_int_equal(icache_rdlock_get(ic, 9, &in), 0);
	assert_int_equal(in->ino, 9);
	icache_rdunlock(ic, 9);
	assert_int_equal(icache_copy(ic, 10, &copy), -ENOENT);
}

static void locks_are_taken_once_each_in_rising_order(void **state)
{
	struct rng g = {.state = test_seed(2)};

	(void)state;
	for (unsigned n = 0; n < 5000; n++) {
		uint64_t inos[5];
		struct lockset ls;

		for (unsigned i = 0; i < 5; i++)
			inos[i] = rng_percent(&g, 20) ? 0 : rng_between(&g, 1, 40);
		lockset_lock(ic, &ls, inos, (uint32_t)rng_between(&g, 1, 5));
		assert_in_range(ls.n, 0, 5);
		for (uint32_t i = 1; i < ls.n; i++)
			assert_true(ls.stripe[i - 1] < ls.stripe[i]);
		lockset_unlock(ic, &ls);
	}
}

struct mover {
	uint64_t seed;
	pthread_t thread;
	uint64_t moves;
	int error;
};

#define ACCOUNTS 200u

static void *move_sizes(void *p)
{
	struct mover *m = p;
	struct rng g = {.state = m->seed};

	for (unsigned n = 0; n < 3000 && !m->error; n++) {
		uint64_t inos[2] = {rng_between(&g, 1, ACCOUNTS), rng_between(&g, 1, ACCOUNTS)};
		struct inode *a, *b, copy;
		struct lockset ls;

		lockset_lock(ic, &ls, inos, 2);
		m->error = icache_get(ic, inos[0], &a);
		if (m->error == 0)
			m->error = icache_get(ic, inos[1], &b);
		if (m->error == 0 && a->size > 0) {
			a->size--;
			b->size++;
			a->dirty = b->dirty = true;
			m->moves++;
		}
		lockset_unlock(ic, &ls);
		if (m->error == 0)
			m->error = icache_copy(ic, inos[0], &copy);
	}
	return NULL;
}

/* More inodes than the cache holds, several threads: what is taken from one is found in the other. */
static void threads_and_evictions_lose_no_change(void **state)
{
	struct mover movers[4];
	uint64_t seed = test_seed(3), sum = 0;

	(void)state;
	ic = icache_free(ic);
	assert_int_equal(icache_new(mem.kv, 3, &ic), 0);
	for (uint64_t ino = 1; ino <= ACCOUNTS; ino++)
		create(ino)->size = 100;
	for (unsigned t = 0; t < ARRAY_SIZE(movers); t++) {
		movers[t] = (struct mover){.seed = seed + t};
		assert_int_equal(pthread_create(&movers[t].thread, NULL, move_sizes, &movers[t]), 0);
	}
	for (unsigned t = 0; t < ARRAY_SIZE(movers); t++) {
		assert_int_equal(pthread_join(movers[t].thread, NULL), 0);
		assert_int_equal(movers[t].error, 0);
		assert_true(movers[t].moves > 0);
	}
	assert_int_equal(icache_save(ic), 0);
	for (uint64_t ino = 1; ino <= ACCOUNTS; ino++) {
		struct inode in;

		assert_int_equal(index_get_inode(mem.kv, ino, &in), 0);
		sum += in.size;
	}
	assert_int_equal(sum, 100 * ACCOUNTS);
}

int main(void)
{
#define ONE(f)  cmocka_unit_test_setup_teardown(f, one_stripe, drop_cache)
#define MANY(f) cmocka_unit_test_setup_teardown(f, many_stripes, drop_cache)
	const struct CMUnitTest tests[] = {
	    ONE(a_new_inode_is_zero_dirty_and_only_in_memory),
	    ONE(eviction_writes_the_oldest_back_and_only_if_dirty),
	    MANY(save_puts_every_dirty_inode_into_the_index_once),
	    ONE(the_eight_inodes_asked_for_last_stay_valid),
	    ONE(a_write_back_that_fails_loses_nothing),
	    ONE(damage_is_passed_on_and_nothing_is_cached),
	    ONE(a_removed_inode_is_gone_from_both),
	    MANY(shared_reads_load_what_is_not_cached),
	    MANY(locks_are_taken_once_each_in_rising_order),
	    MANY(threads_and_evictions_lose_no_change),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
