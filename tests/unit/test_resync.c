/*
 * test_resync.c: a follower that becomes its leader, row by row: from nothing, from another history, while the leader goes on,
 * and on a full disk.
 *
 * Hostile leaders, crashes and what is kept of what is replaced have tests of their own: test_resync_hostile.c,
 * test_resync_crash.c, test_resync_kept.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <sys/stat.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/index.h"
#include "tests/unit/resync_case.h"

static void set_policy(struct fs *fs, uint64_t ino, const char *value)
{
	assert_int_equal(fs_set_policy(fs, &root, ino, "durability", value), 0);
}

static void assert_policy(struct fs *fs, uint64_t ino, const char *want)
{
	char value[FS_POLICY_MAX + 1];

	assert_int_equal(fs_get_policy(fs, ino, "durability", false, value), 0);
	assert_string_equal(value, want);
}

static uint64_t count_rows(const struct row_list *l, enum index_table table)
{
	uint64_t n = 0;

	for (size_t i = 0; i < l->n; i++)
		n += row_table(l->e[i].row.key) == table;
	return n;
}

/* With the leader's policy, and a second resync finds nothing to put.  Ends both. */
static void assert_resyncs(struct sim_run *leader, struct sim_run *follower, bool twice)
{
	struct pull p = {.leader = leader->fs, .follower = follower->fs, .twice = twice};

	assert_int_equal(pull_run(&p), 0);
	assert_policy(follower->fs, FS_ROOT_INO, "replicas=1");
	pull_free(&p);
	p = (struct pull){.leader = leader->fs, .follower = follower->fs};
	assert_becomes(leader, follower, &p);
	assert_int_equal(p.n_put, 0);
	sim_free(follower);
	sim_free(leader);
}

static void an_empty_follower_becomes_the_leader(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= SEEDS; seed++) {
		struct sim_run leader, follower;

		node_lead(&leader, seed, seed % SIM_PROFILES, COMMON_STEPS + 10 * seed);
		set_policy(leader.fs, FS_ROOT_INO, "replicas=1");
		node_join(&follower, &leader, 0);
		assert_resyncs(&leader, &follower, seed % 2);
	}
}

static void a_follower_with_another_history_becomes_the_leader(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= SEEDS; seed++) {
		struct sim_run leader, follower;

		node_lead(&leader, seed, seed % SIM_PROFILES, COMMON_STEPS + 60);
		set_policy(leader.fs, FS_ROOT_INO, "replicas=1");
		node_diverge(&follower, seed, seed % SIM_PROFILES, 20 * seed);
		assert_resyncs(&leader, &follower, seed % 2);
	}
}

/* Both encrypted, with keys of their own, or one of them only: names lie in another order on each. */
static void nodes_with_other_keys_or_none_become_equal(void **state)
{
	static const uint32_t keys[][2] = {{1, 0}, {0, 1}, {1, 2}};

	(void)state;
	for (unsigned seed = 1; seed <= 2 * SIM_PROFILES; seed++) {
		const uint32_t *key = keys[seed % ARRAY_SIZE(keys)];
		struct sim_run leader, follower;

		sim_next_key = key[0];
		node_lead(&leader, seed, seed % SIM_PROFILES, COMMON_STEPS + 60);
		sim_next_key = key[1];
		if (seed <= SIM_PROFILES)
			node_join(&follower, &leader, 0);
		else
			node_diverge(&follower, seed, seed % SIM_PROFILES, 20 * seed);
		sim_next_key = 0;
		struct pull p = {.leader = leader.fs, .follower = follower.fs, .twice = seed % 2};
		assert_int_equal(pull_run(&p), 0);
		pull_free(&p);
		p = (struct pull){.leader = leader.fs, .follower = follower.fs};
		assert_becomes(&leader, &follower, &p);
		assert_int_equal(p.n_put, 0);
		sim_free(&follower);
		sim_free(&leader);
	}
}

static void equal_data_is_not_moved_again(void **state)
{
	struct sim_run leader, follower;
	struct row_list half;

	(void)state;
	node_lead(&leader, 1, SIM_MIXED, COMMON_STEPS + 120);
	node_join(&follower, &leader, 0);
	struct pull first = {.leader = leader.fs, .follower = follower.fs, .stop_blocks = 100};
	assert_int_equal(pull_run(&first), 1);
	uint64_t rows = first.rows.n, put = first.n_put;
	pull_free(&first);
	struct pull second = {.leader = leader.fs, .follower = follower.fs, .stop_after = rows - put - 8};
	assert_int_equal(pull_run(&second), 1);
	assert_true(second.n_blocks > 40);
	put += second.n_put;
	pull_free(&second);
	rows_of(follower.fs, &half);
	assert_true(count_rows(&half, TABLE_INODE) > 8);
	assert_int_equal(atomic_load(&follower.fs->n_inodes), count_rows(&half, TABLE_INODE));
	row_list_free(&half);
	struct pull third = {.leader = leader.fs, .follower = follower.fs};
	assert_int_equal(pull_run(&third), 0);
	assert_int_equal(third.n_put + put, rows);
	assert_equal_volumes(&leader, &follower);
	pull_free(&third);
	sim_free(&follower);
	sim_free(&leader);
}

static void a_view_stays_while_the_leader_goes_on(void **state)
{
	struct row_list before = {0}, after = {0};
	struct replica_view_info info;
	struct replica_view *view;
	struct sim_run leader;

	(void)state;
	node_lead(&leader, 3, SIM_MIXED, COMMON_STEPS);
	const struct replica_ops *ops = fs_replica(leader.fs)->ops;
	assert_int_equal(ops->view_open(fs_replica(leader.fs), &view, &info), 0);
	assert_int_equal(ops->view_rows(view, no_key, no_key, row_list_add, &before), 0);
	go_on(&leader, 100);
	assert_int_equal(ops->view_rows(view, no_key, no_key, row_list_add, &after), 0);
	assert_true(before.n > 50);
	assert_same_rows(&after, &before);
	row_list_free(&after);
	/* Any range is the part of the whole that its ends say. */
	for (size_t i = 0; i + 7 < before.n; i += 5) {
		assert_int_equal(ops->view_rows(view, before.e[i].row.key, before.e[i + 7].row.key, row_list_add, &after), 0);
		assert_int_equal(after.n, 7);
		assert_true(same_bytes(after.e[0].row.key, before.e[i].row.key));
		row_list_free(&after);
	}
	row_list_free(&before);
	ops->view_close(view);
	sim_free(&leader);
}

/* ---- the leader goes on ---- */

static void leader_writes(struct pull *p, const struct leaf_data *d)
{
	(void)d;
	go_on(p->ctx, 3);
}

static void ignore(void *ctx, const char *line)
{
	(void)ctx, (void)line;
}

/* The rows are those of the view; every slot that cannot be read is one that was superseded. */
static void assert_is_the_view(struct sim_run *follower, const struct pull *p)
{
	struct fs_check_result found;
	struct row_list got;

	rows_of(follower->fs, &got);
	assert_same_rows(&got, &p->rows);
	row_list_free(&got);
	assert_int_equal(fs_check(follower->fs, true, ignore, NULL, &found), 0);
	assert_int_equal(found.structure_errors + found.accounting_errors, 0);
	assert_int_equal(found.damaged_blocks, p->n_lost);
}

static void what_changed_meanwhile_is_superseded_and_behind_a_fence(void **state)
{
	uint64_t superseded = 0;

	(void)state;
	for (unsigned seed = 1; seed <= SEEDS; seed++) {
		struct sim_run leader, follower;
		struct replica_point at;

		node_lead(&leader, seed, seed % 2 ? SIM_MIXED : SIM_RING, COMMON_STEPS);
		node_join(&follower, &leader, 0);
		struct pull p = {.leader = leader.fs, .follower = follower.fs, .before_leaf = leader_writes, .ctx = &leader};
		assert_int_equal(pull_run(&p), 0);
		superseded += p.n_superseded;
		for (int mounts = 0; mounts < 2; mounts++) {
			assert_int_equal(fs_readable(follower.fs), p.n_superseded ? -EBUSY : 0);
			fs_replica(follower.fs)->ops->get_point(fs_replica(follower.fs), &at);
			assert_int_equal(at.fence, p.fence);
			assert_is_the_view(&follower, &p);
			if (mounts == 0)
				reopen(&follower);
		}
		pull_free(&p);

		struct pull again = {.leader = leader.fs, .follower = follower.fs};
		assert_becomes(&leader, &follower, &again);
		sim_free(&follower);
		sim_free(&leader);
	}
	assert_true(superseded > 100);
}

/* One block of /there on the leader. */
static uint64_t there(struct fs *fs)
{
	struct fs_attr a;

	if (fs_lookup(fs, FS_ROOT_INO, "there", &a) < 0)
		assert_int_equal(fs_mknod(fs, &root, FS_ROOT_INO, "there", S_IFREG | 0644, 0, &a), 0);
	fs_forget(fs, a.ino, 1);
	return a.ino;
}

static void write_there(struct fs *fs, uint8_t byte)
{
	uint8_t block[BLOCK_SIZE];

	memset(block, byte, sizeof(block));
	assert_int_equal(fs_write(fs, &root, there(fs), 0, sizeof(block), block, false), 0);
}

static void leader_writes_there(struct pull *p, const struct leaf_data *d)
{
	if (d->ino == there(p->leader))
		write_there(p->leader, 'b');
}

/* The block is A in both views, but was B when its data was asked for: what came of that must not pass for A. */
static void data_that_changes_and_changes_back_is_fetched_in_the_end(void **state)
{
	(void)state;
	for (int complete = 0; complete < 2; complete++)
		for (int restart = 0; restart < 2; restart++) {
			struct sim_run leader, follower;

			node_lead(&leader, 9, SIM_TREE, 20);
			write_there(leader.fs, 'a');
			node_join(&follower, &leader, 0);
			struct pull p = {.leader = leader.fs, .follower = follower.fs, .before_leaf = leader_writes_there};
			p.stop_after = complete ? 0 : 1000; /* never: the end is left out below */
			if (complete) {
				assert_int_equal(pull_run(&p), 0);
				assert_int_equal(fs_readable(follower.fs), -EBUSY);
			} else {
				struct replica_volume *v = fs_replica(follower.fs);
				assert_int_equal(fs_replica(leader.fs)->ops->view_open(fs_replica(leader.fs), &p.view, &p.info),
						 0);
				assert_int_equal(
				    fs_replica(leader.fs)->ops->view_rows(p.view, no_key, no_key, row_list_add, &p.rows), 0);
				assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch, false), 0);
				assert_int_equal(pull_rows(&p), 0);
			}
			assert_int_equal(p.n_superseded, 1);
			pull_free(&p);
			if (restart)
				reopen(&follower);
			write_there(leader.fs, 'a');
			struct pull again = {.leader = leader.fs, .follower = follower.fs};
			assert_becomes(&leader, &follower, &again);
			sim_free(&follower);
			sim_free(&leader);
		}
}

/* A stream leaves no mark where data was superseded: only the fence says that there may be some. */
static void a_fence_not_reached_makes_a_resync_look_at_all_data(void **state)
{
	static const uint8_t zeros[BLOCK_SIZE] __attribute__((aligned(DISK_BLOCK)));
	struct sim_run leader, follower;
	struct leaf l;
	struct super s;

	(void)state;
	node_lead(&leader, 9, SIM_MIXED, 50);
	write_there(leader.fs, 'a');
	node_join(&follower, &leader, 0);
	struct pull p = {.leader = leader.fs, .follower = follower.fs};
	assert_becomes(&leader, &follower, &p);

	assert_int_equal(extent_get(follower.fs, there(leader.fs), 0, &l), 0);
	const struct iovec iov = {(void *)(uintptr_t)zeros, sizeof(zeros)};
	assert_int_equal(arena_writev(follower.fs->arena, l.slot[0].home, &iov, 1), 0);
	replica_get_super(follower.fs, &s);
	s.fence = p.info.seq + 1000;
	assert_int_equal(replica_save_super(follower.fs, &s), 0);

	struct pull again = {.leader = leader.fs, .follower = follower.fs};
	assert_becomes(&leader, &follower, &again);
	assert_int_equal(again.n_blocks, 1);
	sim_free(&follower);
	sim_free(&leader);
}

/* ---- space ---- */

static void a_volume_too_small_says_so_and_goes_on_when_the_leader_has_less(void **state)
{
	struct sim_run leader, follower;
	uint8_t *mib = test_alloc(MIB);
	struct fs_attr a;
	int r;

	(void)state;
	node_lead(&leader, 4, SIM_TREE, 60);
	assert_int_equal(fs_mknod(leader.fs, &root, FS_ROOT_INO, "big", S_IFREG | 0644, 0, &a), 0);
	for (uint64_t i = 0; i < 8; i++) {
		bool more = true;

		memset(mib, (int)('A' + i), MIB);
		assert_int_equal(fs_write(leader.fs, &root, a.ino, i * MIB, MIB, mib, false), 0);
		while (more)
			assert_int_equal(fs_home_step(leader.fs, 4096, &more), 0);
	}
	fs_forget(leader.fs, a.ino, 1);
	node_join(&follower, &leader, 6 * MIB);
	struct pull p = {.leader = leader.fs, .follower = follower.fs};
	assert_int_equal(pull_run(&p), -ENOSPC);
	assert_int_equal(follower.fs->failed, 0);
	pull_free(&p);
	reopen(&follower);

	const struct record_attr shorter = {.mask = ATTR_SIZE, .size = MIB};
	assert_int_equal(fs_setattr(leader.fs, &root, a.ino, &shorter, &a), 0);
	struct pull second = {.leader = leader.fs, .follower = follower.fs};
	assert_becomes(&leader, &follower, &second);

	/* All other data in the same space: what goes is free again only after a checkpoint. */
	for (r = 0; r < 4; r++) {
		memset(mib, 'a' + r, MIB);
		for (uint64_t i = 0; i < 4; i++)
			assert_int_equal(fs_write(leader.fs, &root, a.ino, i * MIB, MIB, mib, false), 0);
		assert_int_equal(fs_checkpoint(leader.fs), 0);
		struct pull next = {.leader = leader.fs, .follower = follower.fs};
		assert_becomes(&leader, &follower, &next);
	}
	free(mib);
	sim_free(&follower);
	sim_free(&leader);
}

/* ---- the order of directories ---- */

static void put_name(struct replica_volume *v, const char *name, uint64_t ino, uint64_t cookie)
{
	const struct index_key k = named(TABLE_DENTRY, FS_ROOT_INO, name, strlen(name));
	const struct dentry_value d = a_dentry(ino, cookie, S_IFREG);
	const struct row r = {key_slice(&k), {cookie ? (const void *)&d : NULL, cookie ? sizeof(d) : 0}};

	assert_int_equal(v->ops->resync_put(v, &r, NULL, NULL), 0);
}

static void assert_cookie(struct fs *fs, uint64_t cookie, const char *want)
{
	const struct index_key k = key_pair(TABLE_COOKIE, FS_ROOT_INO, cookie);
	uint8_t value[sizeof(struct cookie_value) + RECORD_NAME_MAX];
	struct slice name;
	struct dentry d;
	size_t len;
	int r = kv_get(fs->kv, key_slice(&k), value, sizeof(value), &len);

	if (!want) {
		assert_int_equal(r, -ENOENT);
		return;
	}
	assert_int_equal(r, 0);
	assert_int_equal(cookie_decode((struct slice){value, len}, &d, &name), 0);
	assert_true(same_bytes(name, slice_of(want)));
}

static void names_that_trade_their_cookies_are_listed_once(void **state)
{
	struct sim_run leader, follower;
	struct dentry d;

	(void)state;
	node_lead(&leader, 1, SIM_TREE, 0);
	node_join(&follower, &leader, 0);
	struct replica_volume *v = fs_replica(follower.fs);
	assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch, false), 0);
	put_name(v, "x", 10, 5);
	put_name(v, "y", 11, 6);
	/* y takes the place of x, and x that of y. */
	put_name(v, "y", 11, 5);
	assert_cookie(follower.fs, 5, "y");
	assert_cookie(follower.fs, 6, NULL);
	assert_int_equal(index_get_dentry(follower.fs->kv, FS_ROOT_INO, slice_of("x"), &d), -ENOENT);
	put_name(v, "x", 10, 6);
	assert_cookie(follower.fs, 5, "y");
	assert_cookie(follower.fs, 6, "x");
	/* One that goes, and goes again, takes nobody's place along. */
	put_name(v, "z", 12, 6);
	put_name(v, "x", 0, 0);
	put_name(v, "x", 0, 0);
	assert_cookie(follower.fs, 6, "z");
	sim_free(&follower);
	sim_free(&leader);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(an_empty_follower_becomes_the_leader),
	    cmocka_unit_test(a_follower_with_another_history_becomes_the_leader),
	    cmocka_unit_test(nodes_with_other_keys_or_none_become_equal),
	    cmocka_unit_test(equal_data_is_not_moved_again),
	    cmocka_unit_test(a_view_stays_while_the_leader_goes_on),
	    cmocka_unit_test(what_changed_meanwhile_is_superseded_and_behind_a_fence),
	    cmocka_unit_test(data_that_changes_and_changes_back_is_fetched_in_the_end),
	    cmocka_unit_test(a_fence_not_reached_makes_a_resync_look_at_all_data),
	    cmocka_unit_test(a_volume_too_small_says_so_and_goes_on_when_the_leader_has_less),
	    cmocka_unit_test(names_that_trade_their_cookies_are_listed_once),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
