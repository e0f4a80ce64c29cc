/*
 * test_resync_kept.c: all that a resync replaces is kept, and nothing else; and it is durable before the index forgets it.
 *
 * What is kept goes into memory here (memory_sink.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/index.h"
#include "tests/unit/memory_sink.h"
#include "tests/unit/resync_case.h"

/* Each slot of the old row whose data the leader has not, with the bytes that a read gave before. */
static size_t assert_leaf_kept(const struct memory_sink *s, const struct row *old, const struct row *new, const uint8_t *bytes)
{
	struct leaf_row was, is = {0};
	size_t n = 0;

	assert_int_equal(leaf_row_decode(old->value, &was), 0);
	if (new)
		assert_int_equal(leaf_row_decode(new->value, &is), 0);
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		uint64_t off = (row_leaf(old->key) * LEAF_SLOTS + i) * BLOCK_SIZE;

		if (!(leaf_row_data(&was) >> i & 1) || ((leaf_row_data(&is) >> i & 1) && is.crc[i] == was.crc[i]))
			continue;
		const struct kept_data *k = kept(s, row_ino(old->key), off);
		assert_non_null(k);
		assert_memory_equal(k->block, bytes + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
		n++;
	}
	return n;
}

/* The bytes of every leaf, before anything is replaced. */
static uint8_t *read_leaves(struct fs *fs, const struct row_list *rows)
{
	uint8_t *all = aligned_alloc(DISK_BLOCK, (rows->n + 1) * LEAF_SLOTS * BLOCK_SIZE);

	for (size_t i = 0; i < rows->n; i++)
		if (row_table(rows->e[i].row.key) == TABLE_EXTENT) {
			const struct slice key = rows->e[i].row.key;
			int r;

			do
				r = extent_read(fs, row_ino(key), row_leaf(key) * LEAF_SLOTS, LEAF_SLOTS,
						all + i * LEAF_SLOTS * BLOCK_SIZE);
			while (r == -EINPROGRESS && (r = tree_recall(fs)) == 0);
			assert_int_equal(r, 0);
		}
	return all;
}

/* Where else data is, is nothing that could be lost. */
static bool says_the_same(const struct row *was, const struct row *is)
{
	struct leaf_row a, b;

	if (row_table(was->key) != TABLE_EXTENT)
		return same_bytes(was->value, is->value);
	assert_int_equal(leaf_row_decode(was->value, &a), 0);
	assert_int_equal(leaf_row_decode(is->value, &b), 0);
	return a.mapped == b.mapped && a.unwritten == b.unwritten && memcmp(a.crc, b.crc, sizeof(a.crc)) == 0;
}

static uint32_t links_of(const struct row_list *rows, uint64_t ino)
{
	struct index_key k = key_ino(TABLE_INODE, ino);
	const struct row *r = row_find(rows, key_slice(&k));
	struct inode in = {0};

	if (r)
		assert_int_equal(inode_decode(r->value, ino, &in), 0);
	return r ? in.nlink : 0;
}

/* It belongs to an inode that has a name here; the leader's is an orphan, with which it goes although it is the same. */
static bool goes_with_an_orphan(const struct row_list *here, const struct row_list *leader, const struct row *r)
{
	enum index_table table = row_table(r->key);

	if (table != TABLE_EXTENT && table != TABLE_TARGET && table != TABLE_POLICY && table != TABLE_XATTR)
		return false;
	return links_of(here, row_ino(r->key)) > 0 && links_of(leader, row_ino(r->key)) == 0;
}

/* Of a leaf that goes with an orphan there are two: what is replaced is kept then, and the rest with the name. */
static size_t count_lines(const struct row *was, const struct row *is, bool orphan)
{
	struct leaf_row a, b;

	if (!is || says_the_same(was, is))
		return !is || orphan;
	if (!orphan || row_table(was->key) != TABLE_EXTENT)
		return 1;
	assert_int_equal(leaf_row_decode(was->value, &a), 0);
	assert_int_equal(leaf_row_decode(is->value, &b), 0);
	return leaf_row_same(&a, &b) ? 2 : 1;
}

/* A leader, and a follower that went another way; what it had is kept in the sink when it is replaced. */
struct apart {
	struct memory_sink sink;
	struct sim_run leader, follower;
};

/* As many steps of each since they parted. */
static void apart_open(struct apart *a, uint64_t seed, enum sim_profile profile, unsigned leader_steps, unsigned follower_steps)
{
	a->sink = (struct memory_sink){.base = {.ops = &sink_ops}};
	node_lead(&a->leader, seed, profile, COMMON_STEPS + leader_steps);
	node_diverge(&a->follower, seed, profile, follower_steps);
	a->follower.fs->config.diverged = &a->sink.base;
}

static void apart_close(struct apart *a)
{
	sim_free(&a->follower);
	sim_free(&a->leader);
	diverged_free(&a->sink.base);
}

static void all_that_is_replaced_is_kept_and_nothing_else(void **state)
{
	size_t rows_kept = 0, blocks_kept = 0;

	(void)state;
	for (unsigned seed = 1; seed <= SEEDS; seed++) {
		struct apart a;
		struct row_list old;
		size_t n_rows = 0, n_blocks = 0;

		apart_open(&a, seed, seed % SIM_PROFILES, 60, 60);
		rows_of(a.follower.fs, &old);
		uint8_t *bytes = read_leaves(a.follower.fs, &old);
		struct pull p = {.leader = a.leader.fs, .follower = a.follower.fs, .save = true, .twice = seed % 2};
		assert_int_equal(pull_run(&p), 0);
		assert_int_equal(a.sink.n_tails, 1);
		assert_int_equal(a.sink.synced_data, a.sink.n_data);
		assert_int_equal(a.sink.synced_lines, a.sink.n_lines);
		assert_non_null(strstr(a.sink.info, "\"complete\": true"));
		for (size_t i = 0; i < old.n; i++) {
			const struct row *was = &old.e[i].row, *is = row_find(&p.rows, was->key);

			n_rows += count_lines(was, is, goes_with_an_orphan(&old, &p.rows, was));
			if (row_table(was->key) == TABLE_EXTENT)
				n_blocks += assert_leaf_kept(&a.sink, was, goes_with_an_orphan(&old, &p.rows, was) ? NULL : is,
							     bytes + i * LEAF_SLOTS * BLOCK_SIZE);
		}
		assert_int_equal(a.sink.n_lines, n_rows);
		assert_int_equal(a.sink.n_data, n_blocks);
		rows_kept += n_rows;
		blocks_kept += n_blocks;
		assert_equal_volumes(&a.leader, &a.follower);
		free(bytes);
		row_list_free(&old);
		pull_free(&p);
		apart_close(&a);
	}
	assert_true(rows_kept > 500 && blocks_kept > 100);
}

/* What the leader had at the first attempt, and has no more at the second, was never this node's. */
static void a_second_attempt_keeps_only_what_the_first_had_not_replaced(void **state)
{
	(void)state;
	for (uint64_t stop = 10; stop <= 60; stop += 10) {
		struct apart a;
		struct row_list old, meanwhile;
		size_t n_different = 0, n_never_same = 0;

		apart_open(&a, stop, SIM_MIXED, 60, 60);
		rows_of(a.follower.fs, &old);
		struct pull p = {.leader = a.leader.fs, .follower = a.follower.fs, .save = true, .stop_after = stop};
		assert_int_equal(pull_run(&p), 1);
		pull_free(&p);
		rows_of(a.leader.fs, &meanwhile);
		go_on(&a.leader, 20);
		p = (struct pull){.leader = a.leader.fs, .follower = a.follower.fs, .save = true};
		assert_int_equal(pull_run(&p), 0);
		assert_int_equal(a.sink.n_tails, 1);
		for (size_t i = 0; i < old.n; i++) {
			const struct row *is = row_find(&p.rows, old.e[i].row.key), *was = row_find(&meanwhile, old.e[i].row.key);
			bool different =
			    !is || !says_the_same(&old.e[i].row, is) || goes_with_an_orphan(&old, &p.rows, &old.e[i].row);

			n_different += different;
			n_never_same += different && (!was || !says_the_same(&old.e[i].row, was));
		}
		/* And at most what the first replaced, which the second may have found to be as it was. */
		assert_true(a.sink.n_lines >= n_never_same && a.sink.n_lines <= n_different + stop);
		assert_equal_volumes(&a.leader, &a.follower);
		row_list_free(&meanwhile);
		row_list_free(&old);
		pull_free(&p);
		apart_close(&a);
	}
}

static void what_is_kept_is_durable_before_the_index_forgets_it(void **state)
{
	struct apart a;

	(void)state;
	apart_open(&a, 3, SIM_MIXED, 0, 40);
	struct pull p = {.leader = a.leader.fs, .follower = a.follower.fs, .save = true, .stop_after = 30};
	assert_int_equal(pull_run(&p), 1);
	assert_true(a.sink.n_lines > 0 && a.sink.synced_lines < a.sink.n_lines);
	/* Anybody's checkpoint. */
	assert_int_equal(fs_checkpoint(a.follower.fs), 0);
	assert_int_equal(a.sink.synced_lines, a.sink.n_lines);
	assert_int_equal(a.sink.synced_data, a.sink.n_data);
	assert_non_null(strstr(a.sink.info, "\"complete\": false"));
	pull_free(&p);
	apart_close(&a);
}

static void without_a_place_for_it_nothing_is_replaced(void **state)
{
	struct apart a;
	struct row_list before, after;

	(void)state;
	apart_open(&a, 3, SIM_MIXED, 0, 40);
	a.follower.fs->config.diverged = NULL;
	rows_of(a.follower.fs, &before);
	struct pull p = {.leader = a.leader.fs, .follower = a.follower.fs, .save = true};
	assert_int_equal(pull_run(&p), -EOPNOTSUPP);
	assert_int_equal(fs_readable(a.follower.fs), 0);
	rows_of(a.follower.fs, &after);
	assert_same_rows(&after, &before);
	row_list_free(&before);
	row_list_free(&after);
	pull_free(&p);
	apart_close(&a);
}

static void rows_that_are_here_already_change_nothing_and_are_not_kept(void **state)
{
	struct memory_sink sink = {.base = {.ops = &sink_ops}};
	struct sim_run follower;
	struct row_list rows, after;
	uint16_t missing;

	(void)state;
	node_diverge(&follower, 3, SIM_MIXED, 40);
	follower.fs->config.diverged = &sink.base;
	rows_of(follower.fs, &rows);
	struct replica_volume *v = fs_replica(follower.fs);
	assert_int_equal(v->ops->resync_begin(v, follower.fs->super.epoch, true), 0);
	for (size_t i = 0; i < rows.n; i++) {
		assert_int_equal(v->ops->resync_missing(v, &rows.e[i].row, &missing), 0);
		assert_int_equal(missing, 0);
		assert_int_equal(v->ops->resync_put(v, &rows.e[i].row, NULL, NULL), 0);
	}
	rows_of(follower.fs, &after);
	assert_same_rows(&after, &rows);
	assert_clean(&follower);
	assert_int_equal(sink.n_tails, 0);
	row_list_free(&rows);
	row_list_free(&after);
	sim_free(&follower);
	diverged_free(&sink.base);
}

/* Once begun so, a resync keeps what it replaces to its end, whatever it is told after a restart. */
static void to_keep_is_remembered_over_a_restart(void **state)
{
	struct apart a;

	(void)state;
	apart_open(&a, 3, SIM_MIXED, 0, 40);
	struct pull p = {.leader = a.leader.fs, .follower = a.follower.fs, .save = true, .stop_after = 5};
	assert_int_equal(pull_run(&p), 1);
	pull_free(&p);
	reopen(&a.follower);
	assert_false(a.sink.open);
	struct pull blind = {.leader = a.leader.fs, .follower = a.follower.fs};
	assert_int_equal(pull_run(&blind), -EOPNOTSUPP);
	pull_free(&blind);
	a.follower.fs->config.diverged = &a.sink.base;
	size_t before = a.sink.n_lines;
	struct pull again = {.leader = a.leader.fs, .follower = a.follower.fs};
	assert_becomes(&a.leader, &a.follower, &again);
	assert_true(a.sink.n_lines > before && a.sink.n_tails == 2);
	assert_non_null(strstr(a.sink.info, "\"resumed\": true"));
	apart_close(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(all_that_is_replaced_is_kept_and_nothing_else),
	    cmocka_unit_test(a_second_attempt_keeps_only_what_the_first_had_not_replaced),
	    cmocka_unit_test(what_is_kept_is_durable_before_the_index_forgets_it),
	    cmocka_unit_test(without_a_place_for_it_nothing_is_replaced),
	    cmocka_unit_test(rows_that_are_here_already_change_nothing_and_are_not_kept),
	    cmocka_unit_test(to_keep_is_remembered_over_a_restart),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
