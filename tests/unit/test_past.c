/*
 * test_past.c: batches from before a mount are found in the ring, each of them, until the ring has come round; and nothing else
 * is.
 */
#include "tests/unit/journal_world.h"

#include <errno.h>

#include "base/log.h"
#include "journal/past.h"

#define BATCHES_MAX 4000u

static struct journal_point end_of[BATCHES_MAX]; /* after batch i */

static struct journal_point point_of(struct world *w, uint64_t seq)
{
	struct journal_point p;

	assert_int_equal(journal_history_point(w->journal, seq, &p), 0);
	return p;
}

/* Appends a few operations as one batch. */
static uint64_t commit_some(struct world *w, uint64_t *id, uint64_t n)
{
	uint64_t seq = 0;

	for (uint64_t i = 0; i < n; i++)
		assert_int_equal(world_append(w, ++*id, &seq), 0);
	assert_int_equal(journal_commit(w->journal, seq), 0);
	assert_true(seq < BATCHES_MAX);
	end_of[seq] = point_of(w, seq);
	journal_trim(w->journal, seq);
	return seq;
}

/* The next mount, which has nothing to replay. */
static void mount_at(struct world *w, uint64_t seq, uint64_t id)
{
	assert_int_equal(world_replay(w, &end_of[seq], id + 1), 0);
	assert_int_equal(w->replayed, id);
	assert_int_equal(journal_start(w->journal), 0);
}

/* How many batches before the mount are found, all of them as they were; `oldest` may be damaged: the walk ends there. */
static uint64_t walk(struct world *w, uint64_t newest)
{
	struct journal_past *p;
	struct batch_info info;
	struct batch_view view;
	uint64_t seq = newest, blocks = 0, n;
	int r;

	assert_int_equal(journal_past_open(w->journal, &p), 0);
	while ((r = journal_past_next(p, &info, &view, &n)) == 0) {
		assert_int_equal(info.seq, seq);
		assert_int_equal(info.pos, end_of[seq - 1].pos);
		assert_int_equal(info.hash, end_of[seq].hash);
		assert_int_equal(info.prev_hash, end_of[seq - 1].hash);
		assert_memory_equal(view.logical, world_block(w, info.pos + 1 + info.n.n_payload),
				    min_u64(info.n.logical_bytes, BLOCK_SIZE));
		blocks += n;
		seq--;
	}
	assert_int_equal(r, -ENOENT);
	assert_int_equal(journal_past_next(p, &info, &view, &n), -ENOENT); /* and again */
	assert_true(blocks <= 3 * RING_BLOCKS + 4 * BATCH_MAX_BLOCKS);
	journal_past_free(p);
	return newest - seq;
}

static void all_batches_that_the_ring_still_has_are_found(void **state)
{
	struct world *w = world_started();
	struct rng rng = {.state = test_seed(31)};
	uint64_t id = 0, seq = 0;

	(void)state;
	end_of[0] = format_point;
	for (unsigned mounts = 0; mounts < 30; mounts++) {
		for (uint64_t n = rng_between(&rng, 1, 25); n > 0; n--)
			seq = commit_some(w, &id, rng_between(&rng, 1, n % 5 ? 6 : 60));
		mount_at(w, seq, id);
		uint64_t oldest = end_of[seq].pos > RING_BLOCKS ? end_of[seq].pos - RING_BLOCKS : 1, there = 0;
		while (there < seq && end_of[seq - there - 1].pos >= oldest)
			there++;
		assert_int_equal(walk(w, seq), there);
	}
	assert_true(end_of[seq].pos > 3 * RING_BLOCKS);
	world_free(w);
}

static void writers_that_come_round_meanwhile_end_it_earlier(void **state)
{
	struct world *w = world_started();
	struct journal_past *p;
	struct batch_info info;
	struct batch_view view;
	uint64_t id = 0, seq = 0, newest, n, found = 0;

	(void)state;
	end_of[0] = format_point;
	while (end_of[seq].pos < 2 * RING_BLOCKS)
		seq = commit_some(w, &id, 8);
	newest = seq;
	mount_at(w, seq, id);
	assert_int_equal(journal_past_open(w->journal, &p), 0);
	while (journal_past_next(p, &info, &view, &n) == 0) {
		assert_int_equal(info.seq, newest - found++);
		assert_int_equal(info.hash, end_of[info.seq].hash);
		commit_some(w, &id, 8);
	}
	journal_past_free(p);
	assert_true(found > 5 && found < newest);
	world_free(w);
}

static void it_ends_at_a_damaged_batch(void **state)
{
	struct world *w = world_started();
	uint64_t id = 0, seq = 0;

	(void)state;
	end_of[0] = format_point;
	for (unsigned i = 0; i < 12; i++)
		seq = commit_some(w, &id, 6);
	mount_at(w, seq, id);
	assert_int_equal(walk(w, seq), 12);
	for (uint64_t bad = 1; bad <= seq; bad++)
		for (uint64_t pos = end_of[bad - 1].pos; pos < end_of[bad].pos; pos++) {
			world_block(w, pos)[(bad * 331 + pos) % BLOCK_SIZE] ^= 0x40;
			assert_int_equal(walk(w, seq), seq - bad);
			world_block(w, pos)[(bad * 331 + pos) % BLOCK_SIZE] ^= 0x40;
		}
	assert_int_equal(walk(w, seq), 12);
	world_free(w);
}

/*
 * Data of a file may look like a batch, whose place, number and sums are all right: it is not of the history, which is known from
 * its newer end, and is not taken.
 */
static void what_only_looks_like_a_batch_is_not_taken(void **state)
{
	struct world *w = world_started();
	uint64_t id = 0, seq = 0;

	(void)state;
	end_of[0] = format_point;
	for (unsigned i = 0; i < 12; i++)
		seq = commit_some(w, &id, 6);
	mount_at(w, seq, id);
	const struct journal_point *end = &end_of[seq];
	for (uint64_t pos = end_of[seq - 1].pos + 1; pos + 2 <= end->pos; pos++) {
		struct batch_info info = {
		    .epoch = 1, .incarnation = 1, .seq = seq, .pos = pos, .prev_hash = end_of[seq - 1].hash};
		uint8_t kept[BLOCK_SIZE];

		/* It ends where the last one does, and its payload is all there is. */
		info.n = (struct batch_counts){.n_records = 1, .n_payload = (uint32_t)(end->pos - pos - 2), .logical_bytes = 8};
		info.hash = info.prev_hash;
		memcpy(kept, world_block(w, pos), BLOCK_SIZE);
		batch_header_make((struct batch_header *)(void *)world_block(w, pos), test_volume, &info);
		assert_int_equal(walk(w, seq), 0); /* the true one is damaged by it, and it is none */
		memcpy(world_block(w, pos), kept, BLOCK_SIZE);
	}
	assert_int_equal(walk(w, seq), 12);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(all_batches_that_the_ring_still_has_are_found),
	    cmocka_unit_test(writers_that_come_round_meanwhile_end_it_earlier),
	    cmocka_unit_test(it_ends_at_a_damaged_batch),
	    cmocka_unit_test(what_only_looks_like_a_batch_is_not_taken),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
