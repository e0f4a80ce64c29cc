/*
 * test_share_place: when a home that was shared is written over: not before who let go of it is durable, with space promised
 * until then, and whatever threads do to the same blocks.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "share_case.h"
#include "tempdir.h"
#include "tests/lib/cold.h"
#include "tests/lib/rng.h"

static void overwriting_a_shared_block_needs_space_at_once(void **state)
{
	static uint8_t p[MIB];
	struct volume v = {.sim = simstore_new()};
	int r = 0;

	(void)state;
	volume_make(&v, simstore_open(v.sim), NULL);
	uint64_t from = make_file(v.fs, "a"), to = make_file(v.fs, "b");
	OK(fs_write(v.fs, &root, from, 0, sizeof(p), p, false));
	copy(v.fs, from, 0, to, 0, sizeof(p));
	struct arena_status as;
	arena_get_status(v.fs->arena, &as);
	/* Nothing is left: */
	uint64_t left = as.total_blocks - as.used_blocks - as.reserved_blocks + as.growable_blocks;
	while (left > 0 && (r = arena_reserve(v.fs->arena, left)) == -ENOSPC)
		left--;
	OK(r);
	assert_int_equal(fs_write(v.fs, &root, to, 0, BLOCK_SIZE, p, false), -ENOSPC);
	assert_int_equal(fs_write(v.fs, &root, from, 0, BLOCK_SIZE, p, false), -ENOSPC);
	copy(v.fs, from, 0, v.file, 0, sizeof(p)); /* takes none */
	OK(fs_unlink(v.fs, &root, FS_ROOT_INO, "b"));
	steps_reap(v.fs);
	assert_int_equal(fs_write(v.fs, &root, from, 0, BLOCK_SIZE, p, false), -ENOSPC); /* v.file has them */
	file_resize(v.fs, v.file, 0);
	OK(fs_write(v.fs, &root, from, 0, BLOCK_SIZE, p, false)); /* its own again */
	arena_unreserve(v.fs->arena, left);
	steps_home(v.fs);
	assert_sound(v.fs);
	volume_close(&v);
}

static void check_byte(struct cold *cold, struct fs *fs, uint64_t ino, uint64_t off, uint8_t want)
{
	_Alignas(DISK_BLOCK) uint8_t room[3 * BLOCK_SIZE];
	void *at;
	size_t len;
	int r;

	while ((r = fs_read(fs, ino, off, 1, room, &at, &len)) == -EINPROGRESS)
		OK(cold_recall(cold, fs));
	OK(r);
	assert_int_equal(len, 1);
	assert_int_equal(*(uint8_t *)at, want);
}

/* Eviction is not logged: until a checkpoint a crash finds the home of both. */
static void what_was_evicted_is_written_over_after_a_checkpoint_only(void **state)
{
	static uint8_t p[100 * KIB];

	(void)state;
	for (unsigned checkpointed = 0; checkpointed < 2; checkpointed++) {
		struct volume v = {.sim = simstore_new()};
		struct cold *cold = cold_open();

		volume_make(&v, simstore_open(v.sim), NULL);
		uint64_t from = make_file(v.fs, "a"), to = make_file(v.fs, "b");
		memset(p, 1, sizeof(p));
		OK(fs_write(v.fs, &root, from, 0, sizeof(p), p, false));
		copy(v.fs, from, 0, to, 0, sizeof(p));
		OK(cold_tier(cold, v.fs, from, NULL));
		OK(fs_checkpoint(v.fs));
		uint64_t was = used_blocks(v.fs);
		OK(cold_evict(v.fs, from));
		assert_int_equal(used_blocks(v.fs), was); /* the clone has them */
		if (checkpointed)
			OK(fs_checkpoint(v.fs));
		memset(p, 2, sizeof(p));
		OK(fs_write(v.fs, &root, to, 0, BLOCK_SIZE, p, false));
		assert_int_equal(reserved_blocks(v.fs), !checkpointed);
		steps_home(v.fs);
		assert_sound(v.fs);
		volume_reopen(&v, true);
		assert_sound(v.fs);
		check_byte(cold, v.fs, from, 0, 1);
		check_byte(cold, v.fs, to, 0, 2);
		check_byte(cold, v.fs, to, BLOCK_SIZE, 1);
		steps_home(v.fs);
		OK(cold_tier(cold, v.fs, to, NULL));
		OK(cold_evict(v.fs, to)); /* its own are free, and with both gone the shared ones */
		OK(cold_evict(v.fs, from));
		OK(fs_checkpoint(v.fs));
		assert_int_equal(used_blocks(v.fs), was - 25);
		assert_int_equal(count_rows(v.fs), 0);
		volume_close(&v);
		cold_close(cold);
	}
}

/*
 * A write whose record is durable finds the block its own, because of a record that came later: as where two threads are at it,
 * of which the first was slow to apply what it had logged.
 */
static void a_home_is_written_over_once_who_let_go_of_it_is_durable(void **state)
{
	uint8_t p[BLOCK_SIZE] = {1};
	struct journal_status js;
	struct memvolume m;
	struct inode *in;
	struct record rec = {0};
	struct applied applied = {0};
	struct leaf l;
	uint32_t crc;
	uint64_t seq;
	bool more;

	(void)state;
	memvolume_open(&m);
	uint64_t a = make_file(m.v.fs, "a"), c = make_file(m.v.fs, "b");
	OK(fs_write(m.v.fs, &root, a, 0, sizeof(p), p, false));
	steps_home(m.v.fs);
	copy(m.v.fs, a, 0, c, 0, BLOCK_SIZE);
	p[0] = 2;
	crc = crc32c(0, p, sizeof(p));
	OK(icache_get(m.v.fs->icache, c, &in));
	op_stamp(m.v.fs, &root, &rec, RECORD_WRITE, c);
	rec.write.n_blocks = 1;
	rec.write.crc = &crc;
	rec.write.size = in->size;
	rec.write.data[0] = (struct iovec){p, sizeof(p)};
	rec.write.n_data = 1;
	OK(arena_reserve(m.v.fs->arena, 1));
	OK(journal_append(m.v.fs->journal, &rec, 1, &seq));
	OK(journal_commit_all(m.v.fs->journal, NULL));
	file_resize(m.v.fs, a, 0);
	OK(apply_record(m.v.fs, &rec, seq, &applied));
	arena_unreserve(m.v.fs->arena, (uint64_t)(1 - applied.reserved));
	OK(extent_get(m.v.fs, c, 0, &l));
	assert_true(l.slot[0].home && l.slot[0].staged && l.slot[0].shared); /* in place it will be */
	journal_get_status(m.v.fs->journal, &js);
	assert_true(js.durable_seq < atomic_load(&m.v.fs->shares->drop_seq));
	OK(fs_home_step(m.v.fs, 64, &more));
	journal_get_status(m.v.fs->journal, &js);
	assert_true(js.durable_seq >= atomic_load(&m.v.fs->shares->drop_seq));
	OK(extent_get(m.v.fs, c, 0, &l));
	assert_true(l.slot[0].home && !l.slot[0].staged && !l.slot[0].shared);
	assert_int_equal(used_blocks(m.v.fs), m.base + 1);
	assert_sound(m.v.fs);
	memvolume_close(&m);
}

/* ---- threads ---- */

#define THREADS 4u
#define ROUNDS  400u

struct worker {
	pthread_t thread;
	struct fs *fs;
	uint64_t own, common;
	uint64_t seed;
};

/* Each has a file of its own, cloned from the common one again and again, and lets go of parts of it. */
static void *work(void *arg)
{
	struct worker *w = arg;
	struct rng g = {.state = w->seed};
	uint8_t p[BLOCK_SIZE];
	size_t n;

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t at = rng_below(&g, 32) * BLOCK_SIZE, len = (1 + rng_below(&g, 12)) * BLOCK_SIZE;
		int r = 0;

		memset(p, (int)i, sizeof(p));
		switch (rng_below(&g, 5)) {
		case 0:
			r = fs_copy_range(w->fs, &root, w->common, at, w->own, at, len, &n);
			break;
		case 1:
			r = fs_copy_range(w->fs, &root, w->own, at, w->common, at, len, &n);
			break;
		case 2:
			r = fs_write(w->fs, &root, w->own, at, sizeof(p), p, false);
			break;
		case 3:
			r = fs_fallocate(w->fs, &root, w->own, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len);
			break;
		default:
			r = fs_write(w->fs, &root, w->common, at, sizeof(p), p, false);
			break;
		}
		if (r < 0)
			return (void *)(intptr_t)r;
	}
	return NULL;
}

static void threads_that_share_leave_right_counts(void **state)
{
	struct volume v = {.sim = simstore_new()};
	struct worker w[THREADS];
	uint8_t p[BLOCK_SIZE] = {7};
	bool more;

	(void)state;
	volume_make(&v, simstore_open(v.sim), NULL);
	OK(fs_close(v.fs));
	v.config.store = simstore_open(v.sim);
	v.config.n_workers = THREADS + 1;
	OK(fs_open(&v.config, &v.fs));
	for (unsigned i = 0; i < 32; i++)
		OK(fs_write(v.fs, &root, v.file, i * BLOCK_SIZE, sizeof(p), p, false));
	steps_home(v.fs);
	for (unsigned i = 0; i < THREADS; i++) {
		char name[16];

		snprintf(name, sizeof(name), "w%u", i);
		w[i] = (struct worker){.fs = v.fs, .own = make_file(v.fs, name), .common = v.file, .seed = test_seed(1) + i};
		OK(pthread_create(&w[i].thread, NULL, work, &w[i]));
	}
	for (unsigned i = 0; i < 60; i++) { /* beside them, what a volume does by itself */
		OK(journal_commit_all(v.fs->journal, NULL));
		OK(fs_home_step(v.fs, 64, &more));
		if (i % 8 == 0)
			OK(fs_checkpoint(v.fs));
	}
	for (unsigned i = 0; i < THREADS; i++) {
		void *r;

		OK(pthread_join(w[i].thread, &r));
		assert_null(r);
	}
	steps_home(v.fs);
	assert_sound(v.fs);
	volume_reopen(&v, true);
	steps_home(v.fs);
	assert_sound(v.fs);
	volume_close(&v);
}

struct first {
	struct volume v;
	uint64_t from, to;
};

static void *clone_all(void *arg)
{
	struct first *f = arg;
	size_t n;

	return (void *)(intptr_t)fs_copy_range(f->v.fs, &root, f->from, 0, f->to, 0, BLOCK_SIZE, &n);
}

/* One thread makes the first clone of a volume while another one is on its way to that: it stays in no lock. */
static void two_may_make_the_first_clone(void **state)
{
	struct first f = {.v = {.sim = simstore_new()}};
	uint8_t p[BLOCK_SIZE] = {7};
	pthread_t thread;
	void *r;

	(void)state;
	volume_make(&f.v, simstore_open(f.v.sim), NULL);
	f.from = make_file(f.v.fs, "a");
	f.to = make_file(f.v.fs, "b");
	OK(fs_write(f.v.fs, &root, f.from, 0, sizeof(p), p, false));
	steps_home(f.v.fs);
	atomic_store(&f.v.fs->held, true); /* it waits where it begins, and then finds that the volume has clones */
	OK(pthread_create(&thread, NULL, clone_all, &f));
	while (atomic_load(&f.v.fs->n_held) == 0)
		sched_yield();
	OK(share_feature(f.v.fs));
	atomic_store(&f.v.fs->held, false);
	OK(pthread_join(thread, &r));
	assert_null(r);
	OK(pthread_rwlock_trywrlock(&f.v.fs->gate.rw));
	OK(pthread_rwlock_unlock(&f.v.fs->gate.rw));
	assert_sound(f.v.fs);
	volume_close(&f.v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(overwriting_a_shared_block_needs_space_at_once),
	    cmocka_unit_test(what_was_evicted_is_written_over_after_a_checkpoint_only),
	    cmocka_unit_test(a_home_is_written_over_once_who_let_go_of_it_is_durable),
	    cmocka_unit_test(two_may_make_the_first_clone),
	    cmocka_unit_test(threads_that_share_leave_right_counts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
