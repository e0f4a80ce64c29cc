/*
 * test_superseded.c: batches whose data the leader has overwritten, freed or evicted before it sent them: what is gone comes with
 * a fence, and nothing is readable before the follower is past it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <linux/falloc.h>

#include "base/log.h"
#include "tests/lib/cold.h"
#include "tests/unit/replica_case.h"

/* Writes `len` bytes to the arena in one batch, overwrites them in place in later ones; the first is not shipped before. */
static uint64_t supersede(struct world *w, uint64_t ino, size_t len)
{
	put_bytes(leader(w), ino, 0, len, 0xa1);
	OK(fs_sync(leader(w)));
	uint64_t seq = point_of(leader(w)).durable_seq;
	for (size_t off = 0; off < len; off += 3 * BLOCK_SIZE)
		put_bytes(leader(w), ino, off, BLOCK_SIZE, 0xb2);
	steps_settle(leader(w));
	return seq;
}

static void superseded_data_comes_with_a_fence(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	uint64_t ino = make_file(leader(w), "f");
	struct message m;

	ship_all(w);
	uint64_t seq = supersede(w, ino, 300 * KIB);
	OK(message_read(leader(w), &w->cursor, seq, &m));
	assert_int_equal(m.n_data, 1);
	for (uint32_t i = 0; i < m.d[0].n_blocks; i++)
		assert_int_equal(m.d[0].superseded[i / 8] >> i % 8 & 1, i % 3 == 0);
	uint64_t fence = m.d[0].fence;
	assert_true(fence > seq && fence == point_of(leader(w)).durable_seq);
	message_free(&m);
	assert_true(ship(leader(w), &w->cursor, n->fs) > 1);
	assert_int_equal(point_of(n->fs).applied_seq, fence);
	assert_same_tree(n->fs, leader(w));
	assert_clean(w, n->fs);
}

static void a_block_given_to_another_file_is_superseded(void **state)
{
	struct world *w = *state;
	struct fs_attr a;
	uint64_t ino = make_file(leader(w), "f");
	struct message m;

	ship_all(w);
	put_bytes(leader(w), ino, 0, 700 * KIB, 1);
	OK(fs_sync(leader(w)));
	uint64_t seq = point_of(leader(w)).durable_seq;
	OK(fs_unlink(leader(w), &cred, FS_ROOT_INO, "f"));
	fs_forget(leader(w), ino, 1);
	steps_reap(leader(w));
	steps_settle(leader(w));
	OK(fs_mknod(leader(w), &cred, FS_ROOT_INO, "g", S_IFREG | 0644, 0, &a));
	for (unsigned i = 0; i < 4; i++) /* the arena is small: it comes round */
		put_bytes(leader(w), a.ino, i * 300 * KIB, 300 * KIB, 2);
	OK(message_read(leader(w), &w->cursor, seq, &m));
	assert_true(m.n_data == 1 && m.d[0].fence > seq);
	message_free(&m);
	ship_all(w);
	OK(fs_readable(w->follower[0].fs));
	assert_same_tree(w->follower[0].fs, leader(w));
	assert_clean(w, w->follower[0].fs);
}

/* The leader dropped the homes of what is in an object by now; the follower never had that data, and reads it from there. */
static void data_evicted_before_it_was_sent_is_cold(void **state)
{
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	struct fs_attr a;
	uint64_t ino = make_file(leader(w), "f");
	struct tier_file there, here;
	struct message m;

	ship_all(w);
	put_bytes(leader(w), ino, 0, 700 * KIB, 1);
	OK(fs_sync(leader(w)));
	uint64_t seq = point_of(leader(w)).durable_seq;
	OK(cold_tier(w->run.cold, leader(w), ino, NULL));
	OK(cold_evict(leader(w), ino));
	steps_settle(leader(w));
	OK(fs_mknod(leader(w), &cred, FS_ROOT_INO, "g", S_IFREG | 0644, 0, &a));
	for (unsigned i = 0; i < 4; i++)
		put_bytes(leader(w), a.ino, i * 300 * KIB, 300 * KIB, 2);
	OK(message_read(leader(w), &w->cursor, seq, &m));
	assert_true(m.n_data == 1 && m.d[0].fence > seq);
	message_free(&m);
	ship_all(w);
	OK(fs_readable(f));
	OK(tier_file_state(leader(w), ino, &there));
	OK(tier_file_state(f, ino, &here));
	assert_int_equal(there.cold_blocks, 175);
	assert_int_equal(here.tiered_blocks, 175);
	assert_true(here.cold_blocks > 0); /* what had not been used again came as it was */
	assert_same_tree(f, leader(w));
	assert_int_equal(atomic_load(&f->damaged_reads), 0);
	assert_clean(w, f);
	/* What is cold here, too, is written to and cut off by batches that follow. */
	put_bytes(leader(w), ino, 0, 20 * KIB, 3);
	put_bytes(leader(w), ino, 100 * KIB, 200 * KIB, 4);
	OK(fs_fallocate(leader(w), &cred, ino, FALLOC_FL_ZERO_RANGE, 320 * KIB, 40 * KIB));
	OK(fs_fallocate(leader(w), &cred, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 400 * KIB, 40 * KIB));
	OK(fs_setattr(leader(w), &cred, ino, &(struct record_attr){.mask = ATTR_SIZE, .size = 600 * KIB}, &a));
	ship_all(w);
	assert_same_tree(f, leader(w));
	assert_clean(w, f);
}

/* Homes go on a follower between a batch's being taken and applied: what was enough space for it is not any more. */
static void a_follower_may_evict_at_any_moment(void **state)
{
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	uint64_t ino = make_file(leader(w), "f");
	struct message m;

	put_bytes(leader(w), ino, 0, 160 * KIB, 1);
	OK(cold_tier(w->run.cold, leader(w), ino, NULL));
	ship_all(w);
	steps_settle(f);
	put_bytes(leader(w), ino, 0, 60 * KIB, 2);
	OK(fs_fallocate(leader(w), &cred, ino, FALLOC_FL_ZERO_RANGE, 64 * KIB, 40 * KIB));
	OK(fs_sync(leader(w)));
	OK(message_read(leader(w), &w->cursor, point_of(f).applied_seq + 1, &m));
	uint32_t n;
	OK(ops_of(f)->take_batch(fs_replica(f), &m.b, &n));
	OK(cold_evict(f, ino));
	OK(ops_of(f)->finish_batch(fs_replica(f)));
	message_free(&m);
	assert_clean(w, f);
	ship_all(w);
	assert_same_tree(f, leader(w));
	assert_clean(w, f);
}

static void a_fence_that_cannot_be_is_refused(void **state)
{
	struct world *w = *state;
	uint64_t ino = make_file(leader(w), "f");
	struct message m;

	ship_all(w);
	uint64_t seq = supersede(w, ino, 100 * KIB);
	OK(message_read(leader(w), &w->cursor, seq, &m));
	struct shipped_data good = m.d[0];
	const struct {
		uint64_t fence;
		uint32_t bit;
	} cases[] = {{seq - 1, UINT32_MAX}, {0, UINT32_MAX}, {good.fence, 25}, {good.fence, 511}};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		m.d[0] = good;
		m.d[0].fence = cases[i].fence;
		if (cases[i].bit != UINT32_MAX)
			m.d[0].superseded[cases[i].bit / 8] |= (uint8_t)(1 << cases[i].bit % 8);
		FAILS(-EUCLEAN, message_deliver(w->follower[0].fs, &m));
	}
	m.d[0] = good;
	memset(m.d[0].superseded, 0, sizeof(m.d[0].superseded));
	FAILS(-EUCLEAN, message_deliver(w->follower[0].fs, &m)); /* a fence of nothing */
	m.d[0].fence = 0;
	FAILS(-EBADMSG, message_deliver(w->follower[0].fs, &m)); /* blocks that are not what they should be */
	OK(fs_readable(w->follower[0].fs));
	m.d[0] = good;
	OK(message_deliver(w->follower[0].fs, &m));
	message_free(&m);
	ship_all(w);
	assert_same_tree(w->follower[0].fs, leader(w));
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, world_teardown)
	const struct CMUnitTest cases[] = {
	    CASE(superseded_data_comes_with_a_fence),      CASE(a_block_given_to_another_file_is_superseded),
	    CASE(data_evicted_before_it_was_sent_is_cold), CASE(a_follower_may_evict_at_any_moment),
	    CASE(a_fence_that_cannot_be_is_refused),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
