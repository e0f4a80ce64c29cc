/*
 * test_resync.c: a follower that becomes its leader, row by row: from nothing, from another history, while the leader goes on,
 * from a hostile leader, on a full disk, and through a crash at every event.
 *
 * Both volumes are made by the simulator's random operations, which know every kind of file, hole and attribute.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/index.h"
#include "fs/store/diverged.h"
#include "tests/unit/pull.h"

#define SEEDS 12u

static const struct fs_cred root = {.uid = 0};

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

static void reopen(struct sim_run *run)
{
	assert_int_equal(fs_close(run->fs), 0);
	assert_int_equal(sim_open_image(run, &run->image, &run->fs), 0);
}

/* Ends the resync, and the follower is the leader, now and after a mount. */
static void assert_becomes(struct sim_run *leader, struct sim_run *follower, struct pull *p)
{
	struct replica_point at;

	assert_int_equal(pull_run(p), 0);
	assert_int_equal(p->n_superseded, 0);
	for (int mounts = 0; mounts < 2; mounts++) {
		assert_int_equal(fs_readable(follower->fs), 0);
		assert_equal_volumes(leader, follower);
		assert_clean(follower);
		fs_replica(follower->fs)->ops->get_point(fs_replica(follower->fs), &at);
		assert_true(at.durable_seq == p->info.seq && at.hash == p->info.hash && at.applied_seq == p->info.seq);
		assert_true(at.history == p->info.epoch && !at.resyncing && !at.differs && at.fence == 0);
		assert_true(atomic_load(&follower->fs->next_ino) >= p->info.next_ino);
		assert_int_equal(atomic_load(&follower->fs->n_inodes), p->info.n_inodes);
		if (mounts == 0)
			reopen(follower);
	}
	pull_free(p);
}

static void an_empty_follower_becomes_the_leader(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= SEEDS; seed++) {
		struct sim_run leader, follower;

		node_lead(&leader, seed, seed % SIM_PROFILES, COMMON_STEPS + 10 * seed);
		set_policy(leader.fs, FS_ROOT_INO, "replicas=1");
		node_join(&follower, &leader, 0);
		struct pull p = {.leader = leader.fs, .follower = follower.fs, .twice = seed % 2};
		assert_int_equal(pull_run(&p), 0);
		assert_policy(follower.fs, FS_ROOT_INO, "replicas=1");
		pull_free(&p);
		p = (struct pull){.leader = leader.fs, .follower = follower.fs};
		assert_becomes(&leader, &follower, &p);
		assert_int_equal(p.n_put, 0);
		sim_free(&follower);
		sim_free(&leader);
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
		struct pull p = {.leader = leader.fs, .follower = follower.fs, .twice = seed % 2};
		assert_int_equal(pull_run(&p), 0);
		assert_policy(follower.fs, FS_ROOT_INO, "replicas=1");
		pull_free(&p);
		p = (struct pull){.leader = leader.fs, .follower = follower.fs};
		assert_becomes(&leader, &follower, &p);
		assert_int_equal(p.n_put, 0);
		sim_free(&follower);
		sim_free(&leader);
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
	node_lead(&leader, 1, SIM_MIXED, COMMON_STEPS);
	node_join(&follower, &leader, 0);
	struct pull first = {.leader = leader.fs, .follower = follower.fs, .stop_blocks = 100};
	assert_int_equal(pull_run(&first), 1);
	uint64_t rows = first.rows.n, put = first.n_put;
	pull_free(&first);
	struct pull second = {.leader = leader.fs, .follower = follower.fs, .stop_after = rows - put - 8};
	assert_int_equal(pull_run(&second), 1);
	assert_true(second.n_blocks > 100);
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

/* ---- crashes ---- */

struct cut_test {
	struct sim_run *leader, *follower;
	struct row_list old, new;
	struct replica_point old_at, new_at;
	uint64_t between, n_old, n_new;
};

/* Rows and point, together, of one of the two states. */
static void assert_old_or_new(struct cut_test *t, struct sim_run *after)
{
	struct replica_point at;
	struct row_list rows;

	fs_replica(after->fs)->ops->get_point(fs_replica(after->fs), &at);
	bool is_new = at.hash == t->new_at.hash;
	const struct replica_point *want = is_new ? &t->new_at : &t->old_at;
	rows_of(after->fs, &rows);
	assert_same_rows(&rows, is_new ? &t->new : &t->old);
	assert_true(at.durable_seq == want->durable_seq && at.hash == want->hash && at.history == want->history);
	row_list_free(&rows);
	t->n_new += is_new;
	t->n_old += !is_new;
}

/* What a crash left opens, and becomes the leader. */
static void recover_cut(struct cut_test *t, const struct simcut *c, uint64_t cut, enum simcut_variant v)
{
	struct sim_run after = {.clock = t->follower->clock, .profile = t->follower->profile};
	struct rng rng = rng_derive(cut, v, 5);

	after.image = sim_take_image(t->follower, c, cut, v, &rng, false);
	after.model = model_new(0755, 0, 0);
	int r = sim_open_image(&after, &after.image, &after.fs);
	if (r)
		fail_msg("cut %llu, %s: %s", (unsigned long long)cut, simcut_variant_name(v), strerror(-r));
	if (after.fs->super.resyncing) {
		assert_int_equal(fs_readable(after.fs), -EBUSY);
		t->between++;
	} else {
		assert_int_equal(fs_readable(after.fs), 0);
		assert_clean(&after);
		assert_old_or_new(t, &after);
	}
	struct pull p = {.leader = t->leader->fs, .follower = after.fs};
	assert_becomes(t->leader, &after, &p);
	sim_free(&after);
}

static void crash_everywhere(uint64_t seed, bool empty, unsigned step)
{
	struct sim_run leader, follower;
	struct cut_test t = {.leader = &leader, .follower = &follower};

	node_lead(&leader, seed, SIM_MIXED, COMMON_STEPS + 40);
	if (empty)
		node_join(&follower, &leader, 0);
	else
		node_diverge(&follower, seed, SIM_MIXED, 40);
	assert_int_equal(journal_commit_all(follower.fs->journal, NULL), 0);
	rows_of(follower.fs, &t.old);
	fs_replica(follower.fs)->ops->get_point(fs_replica(follower.fs), &t.old_at);
	uint64_t from = simstore_count(follower.image.store);
	struct pull p = {.leader = leader.fs, .follower = follower.fs};
	assert_int_equal(pull_run(&p), 0);
	pull_free(&p);
	rows_of(follower.fs, &t.new);
	fs_replica(follower.fs)->ops->get_point(fs_replica(follower.fs), &t.new_at);
	uint64_t to = simstore_count(follower.image.store);
	struct simcut *c = simcut_new(follower.image.store);
	for (uint64_t cut = from; cut <= to; cut++) {
		simcut_advance(c, cut);
		/* Between begin and end there is little but data: every step-th; the ends are where it matters. */
		if (cut > from + 40 && cut + 60 < to && cut % step)
			continue;
		for (unsigned v = 0; v < SIMCUT_VARIANTS; v++)
			if (v == SIMCUT_LOST || v == SIMCUT_KILL || (cut + v) % 3 == 0)
				recover_cut(&t, c, cut, (enum simcut_variant)v);
	}
	assert_true(t.between > 20 && t.n_new > 0 && (empty || t.n_old > 10));
	simcut_free(c);
	row_list_free(&t.old);
	row_list_free(&t.new);
	sim_free(&follower);
	sim_free(&leader);
}

static void a_crash_anywhere_leaves_something_to_go_on_from(void **state)
{
	(void)state;
	crash_everywhere(21, true, 20);
	crash_everywhere(22, false, 20);
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

/* ---- what a hostile leader may send ---- */

struct bad_row {
	const char *what;
	struct index_key key;
	const void *value;
	size_t len;
};

static struct inode_value an_inode(uint32_t mode)
{
	return (struct inode_value){.version = 1,
				    .mode = le32_make(mode),
				    .nlink = le32_make(1),
				    .parent = le64_make(FS_ROOT_INO),
				    .cookie = le64_make(3),
				    .next_cookie = le64_make(3)};
}

static struct dentry_value a_dentry(uint64_t ino, uint64_t cookie, uint32_t type)
{
	return (struct dentry_value){.ino = le64_make(ino), .cookie = le64_make(cookie), .type = le32_make(type)};
}

static struct index_key named(enum index_table table, uint64_t ino, const void *name, size_t len)
{
	return key_name(table, ino, (struct slice){name, len});
}

static struct index_key cut_key(struct index_key k, size_t len)
{
	k.len = len;
	return k;
}

struct tiered_leaf {
	uint8_t b[27];
};
/* An E row: slot 0 has data, and what is tiered. */
static struct tiered_leaf *make_tiered_leaf(struct tiered_leaf *l, uint16_t tiered, uint64_t object, uint32_t offset,
					    uint32_t len)
{
	*l = (struct tiered_leaf){{1, 0, 0, 0, 9, 9, 9, 9}};
	memcpy(l->b + 8, le16_make(tiered).b, 2);
	memcpy(l->b + 10, le64_make(object).b, 8);
	memcpy(l->b + 18, le32_make(offset).b, 4);
	memcpy(l->b + 22, le32_make(len).b, 4);
	return l;
}
#define tiered_leaf(...) (*make_tiered_leaf(&(struct tiered_leaf){{0}}, __VA_ARGS__))

static void rows_that_no_leader_can_have_are_refused(void **state)
{
	static const uint8_t zeros[RECORD_VALUE_MAX + 1], none[1];
	static char text[RECORD_TARGET_MAX + 1];
	const struct dentry_value good_d = a_dentry(7, 3, S_IFREG), no_ino = a_dentry(0, 3, S_IFREG),
				  dot = a_dentry(7, 2, S_IFREG), no_type = a_dentry(7, 3, 0),
				  mode_too = a_dentry(7, 3, S_IFREG | 0644), far_ino = a_dentry(ROW_NUMBER_MAX, 3, S_IFREG),
				  far = a_dentry(7, UINT64_MAX, S_IFREG);
	struct inode_value good_i = an_inode(S_IFREG | 0644), no_mode = an_inode(0644), odd_mode = an_inode(S_IFREG | 0100000000),
			   odd_type = an_inode(0130000), long_file = good_i, not_zero = good_i, version = good_i, orphan = good_i;
	const uint8_t leaf_none[4] = {0}, leaf_odd[4] = {1, 0, 2, 0}, leaf_short[7] = {1}, leaf_long[12] = {1},
		      leaf_good[4] = {1, 0, 1};
	const struct tiered_leaf leaf_tiered = tiered_leaf(1, 5, 4096, 100);
	const struct object_value good_o = {.version = 1, .store = le32_make(1), .bytes = le64_make(9), .born_ns = le64_make(1)};
	struct object_value object_version = good_o, object_zero = good_o, object_store = good_o, object_bytes = good_o,
			    object_born = good_o, object_moved = good_o;
	struct sim_run leader, follower;
	struct row_list before, after;

	(void)state;
	object_version.version = 2;
	object_zero.zero[2] = 1;
	object_store.store = le32_make(0);
	object_bytes.bytes = le64_make(UINT64_C(1) << 32);
	object_born.born_ns = le64_make(0);
	object_moved.moved_ns = le64_make(UINT64_MAX);
	memset(text, 'x', sizeof(text));
	long_file.size = le64_make(FILE_SIZE_MAX + 1);
	not_zero.zero[1] = 1;
	version.version = 2;
	orphan.parent = le64_make(0);
	node_lead(&leader, 1, SIM_TREE, 40);
	node_join(&follower, &leader, 0);
	struct replica_volume *v = fs_replica(follower.fs);
	assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch, false), 0);
	const struct bad_row bad[] = {
	    {"no key", {.len = 0}, zeros, 0},
	    {"a key of one byte", cut_key(key_ino(TABLE_INODE, 5), 1), &good_i, sizeof(good_i)},
	    {"the anchor", {.b = "A", .len = 1}, zeros, 104},
	    {"the anchor's table", key_ino(TABLE_ANCHOR, 1), zeros, 104},
	    {"a page of the bitmap", key_pair(TABLE_BITMAP, 1, 0), zeros, 4096},
	    {"a cookie", key_pair(TABLE_COOKIE, 1, 9), zeros, 20},
	    {"a table nobody knows", key_ino((enum index_table)'Z', 1), zeros, 8},
	    {"a name with a slash", named(TABLE_DENTRY, 1, "a/b", 3), &good_d, sizeof(good_d)},
	    {"a name with NUL", named(TABLE_DENTRY, 1, "a\0b", 3), &good_d, sizeof(good_d)},
	    {"the name .", named(TABLE_DENTRY, 1, ".", 1), &good_d, sizeof(good_d)},
	    {"the name ..", named(TABLE_DENTRY, 1, "..", 2), &good_d, sizeof(good_d)},
	    {"no name", named(TABLE_DENTRY, 1, "", 0), &good_d, sizeof(good_d)},
	    {"a name in directory 0", named(TABLE_DENTRY, 0, "a", 1), &good_d, sizeof(good_d)},
	    {"a name of no inode", named(TABLE_DENTRY, 1, "a", 1), &no_ino, sizeof(no_ino)},
	    {"a name of an inode too far", named(TABLE_DENTRY, 1, "a", 1), &far_ino, sizeof(far_ino)},
	    {"the cookie of ..", named(TABLE_DENTRY, 1, "a", 1), &dot, sizeof(dot)},
	    {"a cookie too far", named(TABLE_DENTRY, 1, "a", 1), &far, sizeof(far)},
	    {"no type", named(TABLE_DENTRY, 1, "a", 1), &no_type, sizeof(no_type)},
	    {"more than a type", named(TABLE_DENTRY, 1, "a", 1), &mode_too, sizeof(mode_too)},
	    {"a short name row", named(TABLE_DENTRY, 1, "a", 1), &good_d, sizeof(good_d) - 1},
	    {"inode 0", key_ino(TABLE_INODE, 0), &good_i, sizeof(good_i)},
	    {"an inode too far", key_ino(TABLE_INODE, ROW_NUMBER_MAX), &good_i, sizeof(good_i)},
	    {"a root that is a file", key_ino(TABLE_INODE, FS_ROOT_INO), &good_i, sizeof(good_i)},
	    {"no root", key_ino(TABLE_INODE, FS_ROOT_INO), NULL, 0},
	    {"an inode without type", key_ino(TABLE_INODE, 5), &no_mode, sizeof(no_mode)},
	    {"an inode with odd bits", key_ino(TABLE_INODE, 5), &odd_mode, sizeof(odd_mode)},
	    {"an inode of an odd type", key_ino(TABLE_INODE, 5), &odd_type, sizeof(odd_type)},
	    {"a file too long", key_ino(TABLE_INODE, 5), &long_file, sizeof(long_file)},
	    {"an inode with bytes where zeros are", key_ino(TABLE_INODE, 5), &not_zero, sizeof(not_zero)},
	    {"an inode of another version", key_ino(TABLE_INODE, 5), &version, sizeof(version)},
	    {"an inode without parent", key_ino(TABLE_INODE, 5), &orphan, sizeof(orphan)},
	    {"a short inode", key_ino(TABLE_INODE, 5), &good_i, sizeof(good_i) - 1},
	    {"an inode key with more", key_pair(TABLE_INODE, 5, 6), &good_i, sizeof(good_i)},
	    {"an empty leaf", key_pair(TABLE_EXTENT, 5, 0), leaf_none, 4},
	    {"a leaf that is unwritten where nothing is", key_pair(TABLE_EXTENT, 5, 0), leaf_odd, 4},
	    {"a leaf short of a CRC", key_pair(TABLE_EXTENT, 5, 0), leaf_short, 7},
	    {"a leaf with a CRC too many", key_pair(TABLE_EXTENT, 5, 0), leaf_long, 12},
	    {"a leaf of three bytes", key_pair(TABLE_EXTENT, 5, 0), leaf_good, 3},
	    {"a leaf beyond all files", key_pair(TABLE_EXTENT, 5, UINT64_C(1) << 44), leaf_good, 4},
	    {"a leaf key cut short", cut_key(key_pair(TABLE_EXTENT, 5, 0), 16), leaf_good, 4},
	    {"a leaf short of its object", key_pair(TABLE_EXTENT, 5, 0), leaf_tiered.b, 25},
	    {"a leaf with more than its object", key_pair(TABLE_EXTENT, 5, 0), leaf_tiered.b, 27},
	    {"a leaf with an object and nothing in it", key_pair(TABLE_EXTENT, 5, 0), tiered_leaf(0, 5, 4096, 100).b, 26},
	    {"a leaf tiered where nothing is", key_pair(TABLE_EXTENT, 5, 0), tiered_leaf(3, 5, 4096, 100).b, 26},
	    {"a leaf tiered in no object", key_pair(TABLE_EXTENT, 5, 0), tiered_leaf(1, 0, 4096, 100).b, 26},
	    {"a leaf with an empty frame", key_pair(TABLE_EXTENT, 5, 0), tiered_leaf(1, 5, 4096, 0).b, 26},
	    {"a leaf with a vast frame", key_pair(TABLE_EXTENT, 5, 0), tiered_leaf(1, 5, 4096, RECORD_FRAME_MAX + 1).b, 26},
	    {"a leaf with a frame past all", key_pair(TABLE_EXTENT, 5, 0), tiered_leaf(1, 5, UINT32_MAX - 9, 10).b, 26},
	    {"object 0", key_ino(TABLE_OBJECT, 0), &good_o, sizeof(good_o)},
	    {"an object's key with more", key_pair(TABLE_OBJECT, 5, 6), &good_o, sizeof(good_o)},
	    {"a short object", key_ino(TABLE_OBJECT, 5), &good_o, sizeof(good_o) - 1},
	    {"an object of another version", key_ino(TABLE_OBJECT, 5), &object_version, sizeof(good_o)},
	    {"an object with bytes where zeros are", key_ino(TABLE_OBJECT, 5), &object_zero, sizeof(good_o)},
	    {"an object of no store", key_ino(TABLE_OBJECT, 5), &object_store, sizeof(good_o)},
	    {"an object too large", key_ino(TABLE_OBJECT, 5), &object_bytes, sizeof(good_o)},
	    {"an object never born", key_ino(TABLE_OBJECT, 5), &object_born, sizeof(good_o)},
	    {"an object of before all time", key_ino(TABLE_OBJECT, 5), &object_moved, sizeof(good_o)},
	    {"a link to nowhere", key_ino(TABLE_TARGET, 5), none, 0},
	    {"a link with NUL", key_ino(TABLE_TARGET, 5), zeros, 5},
	    {"a link too long", key_ino(TABLE_TARGET, 5), text, RECORD_TARGET_MAX + 1},
	    {"an orphan with a value", key_ino(TABLE_ORPHAN, 5), zeros, 1},
	    {"an epoch without seq", key_ino(TABLE_HISTORY, 65537), zeros, 4},
	    {"epoch 0", key_ino(TABLE_HISTORY, 0), zeros, 8},
	    {"an attribute without name", named(TABLE_XATTR, 5, "", 0), zeros, 5},
	    {"an attribute's name with NUL", named(TABLE_XATTR, 5, "user.a\0", 7), zeros, 5},
	    {"an attribute too long", named(TABLE_XATTR, 5, "user.a", 6), zeros, RECORD_VALUE_MAX + 1},
	    {"a policy without key", named(TABLE_POLICY, 5, "", 0), text, 5},
	    {"a policy with NUL", named(TABLE_POLICY, 5, "durability", 10), zeros, 5},
	    {"a policy too long", named(TABLE_POLICY, 5, "durability", 10), text, FS_POLICY_MAX + 1},
	    {"a policy's key too long", named(TABLE_POLICY, 5, text, 249), text, 5},
	};
	rows_of(follower.fs, &before);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const struct row r = {.key = key_slice(&bad[i].key), .value = {bad[i].value, bad[i].len}};
		uint16_t slots;

		if (v->ops->resync_put(v, &r, NULL, NULL) != -EUCLEAN || v->ops->resync_missing(v, &r, &slots) != -EUCLEAN)
			fail_msg("%s", bad[i].what);
	}
	rows_of(follower.fs, &after);
	assert_same_rows(&after, &before);
	row_list_free(&before);
	row_list_free(&after);
	/* The good ones they were made from. */
	const struct index_key dk = named(TABLE_DENTRY, 1, "a", 1), ik = key_ino(TABLE_INODE, 5),
			       ek = key_pair(TABLE_EXTENT, 5, 0), ok = key_ino(TABLE_OBJECT, UINT64_MAX);
	const struct row tiered = {key_slice(&ek), {leaf_tiered.b, 26}};
	uint16_t slots = 99;
	assert_int_equal(v->ops->resync_put(v, &(struct row){key_slice(&ok), {&good_o, sizeof(good_o)}}, NULL, NULL), 0);
	assert_int_equal(v->ops->resync_missing(v, &tiered, &slots), 0);
	assert_int_equal(slots, 0);
	assert_int_equal(v->ops->resync_put(v, &tiered, NULL, NULL), 0);
	assert_int_equal(v->ops->resync_put(v, &(struct row){key_slice(&dk), {&good_d, sizeof(good_d)}}, NULL, NULL), 0);
	assert_int_equal(v->ops->resync_put(v, &(struct row){key_slice(&ik), {&good_i, sizeof(good_i)}}, NULL, NULL), 0);
	assert_int_equal(v->ops->resync_put(v, &(struct row){key_slice(&ek), {leaf_good, 4}}, NULL, NULL), 0);
	sim_free(&follower);
	sim_free(&leader);
}

static void data_that_is_wrong_or_not_there_is_refused(void **state)
{
	struct sim_run leader, follower;
	uint8_t block[BLOCK_SIZE] = {1}, value[LEAF_ROW_BYTES_MAX];
	struct leaf_row leaf = {.mapped = 1};
	const struct index_key k = key_pair(TABLE_EXTENT, 5, 0);
	struct arena_status as, was;

	(void)state;
	node_lead(&leader, 1, SIM_TREE, 10);
	node_join(&follower, &leader, 0);
	struct replica_volume *v = fs_replica(follower.fs);
	leaf.crc[0] = crc32c(0, block, sizeof(block));
	const struct row r = {key_slice(&k), {value, leaf_row_encode(&leaf, value)}};
	struct leaf_data d = {.ino = 5, .leaf = 0, .wanted = 1, .crc = {leaf.crc[0]}};
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), -EINVAL); /* before it began */
	assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch, false), 0);
	arena_get_status(follower.fs->arena, &was);
	assert_int_equal(v->ops->resync_put(v, &r, NULL, NULL), -EINVAL);
	block[7] = 1;
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), -EBADMSG);
	block[7] = 0;
	d.crc[0]++;
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), -EUCLEAN);
	d.crc[0]--;
	d.leaf = 1;
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), -EUCLEAN);
	d.leaf = 0;
	d.ino = 6;
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), -EUCLEAN);
	arena_get_status(follower.fs->arena, &as);
	assert_true(as.used_blocks == was.used_blocks && as.reserved_blocks == was.reserved_blocks);
	d.ino = 5;
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), 0);
	sim_free(&follower);
	sim_free(&leader);
}

static void a_view_that_cannot_be_does_not_end_a_resync(void **state)
{
	struct sim_run leader, follower;

	(void)state;
	node_lead(&leader, 1, SIM_TREE, 10);
	node_join(&follower, &leader, 0);
	struct replica_volume *v = fs_replica(follower.fs);
	struct pull p = {.leader = leader.fs, .follower = follower.fs};
	assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch - 1, false), -ESTALE);
	assert_int_equal(fs_replica(leader.fs)->ops->resync_begin(fs_replica(leader.fs), UINT64_MAX, false), -EPERM);
	assert_becomes(&leader, &follower, &p);
	v = fs_replica(follower.fs); /* it was mounted again */
	assert_int_equal(v->ops->resync_end(v, &p.info, 0), -EINVAL);

	assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch, false), 0);
	struct replica_view_info bad[6];
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		bad[i] = p.info;
	bad[0].epoch = leader.fs->super.epoch + 1;
	bad[1].next_ino = 1;
	bad[2].next_ino = UINT64_MAX;
	bad[3].n_inodes = 0;
	bad[4].snapshot_generation = UINT32_MAX;
	bad[5].seq = UINT64_MAX;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(v->ops->resync_end(v, &bad[i], 0), -EUCLEAN);
	assert_int_equal(fs_readable(follower.fs), -EBUSY);
	assert_int_equal(v->ops->resync_end(v, &p.info, 0), 0);
	assert_int_equal(fs_readable(follower.fs), 0);
	sim_free(&follower);
	sim_free(&leader);
}

/* Should it lead one day, it gives no number out twice, whatever it was told. */
static void the_next_inode_is_beyond_all_that_are_here(void **state)
{
	struct sim_run leader, follower;
	const struct index_key k = key_ino(TABLE_INODE, 1000);
	const struct inode_value in = an_inode(S_IFREG | 0644);

	(void)state;
	node_lead(&leader, 1, SIM_TREE, 10);
	node_join(&follower, &leader, 0);
	struct replica_volume *v = fs_replica(follower.fs);
	const struct replica_view_info info = {.seq = 9, .epoch = leader.fs->super.epoch, .next_ino = 2, .n_inodes = 2};
	assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch, false), 0);
	assert_int_equal(v->ops->resync_put(v, &(struct row){key_slice(&k), {&in, sizeof(in)}}, NULL, NULL), 0);
	assert_int_equal(v->ops->resync_end(v, &info, 0), 0);
	assert_true(atomic_load(&follower.fs->next_ino) > 1000);
	sim_free(&follower);
	sim_free(&leader);
}

/* The index refuses one write. */
static int refuse(struct kv *kv, const struct kv_batch *b)
{
	(void)kv, (void)b;
	return -ENOSPC;
}

static void a_row_that_cannot_be_stored_leaves_nothing_behind(void **state)
{
	struct sim_run leader, follower;
	uint8_t block[BLOCK_SIZE] = {1}, value[LEAF_ROW_BYTES_MAX];
	struct leaf_row leaf = {.mapped = 3, .unwritten = 2};
	const struct index_key k = key_pair(TABLE_EXTENT, 5, 0);
	struct arena_status as, was;

	(void)state;
	node_lead(&leader, 1, SIM_TREE, 10);
	node_join(&follower, &leader, 0);
	struct replica_volume *v = fs_replica(follower.fs);
	assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch, false), 0);
	leaf.crc[0] = crc32c(0, block, sizeof(block));
	const struct row r = {key_slice(&k), {value, leaf_row_encode(&leaf, value)}};
	struct leaf_data d = {.ino = 5, .leaf = 0, .wanted = 1, .crc = {leaf.crc[0]}};
	const struct kv_ops *ops = follower.fs->kv->ops;
	struct kv_ops refusing = *ops;
	refusing.write = refuse;
	arena_get_status(follower.fs->arena, &was);
	follower.fs->kv->ops = &refusing;
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), -ENOSPC);
	follower.fs->kv->ops = ops;
	arena_get_status(follower.fs->arena, &as);
	assert_true(as.used_blocks == was.used_blocks && as.reserved_blocks == was.reserved_blocks);
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), 0);
	arena_get_status(follower.fs->arena, &as);
	assert_true(as.used_blocks == was.used_blocks + 1 && as.reserved_blocks == was.reserved_blocks + 1);
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

/* ---- saving ---- */

static uint64_t checkpoints_after(struct fs *fs, unsigned n_rows, size_t bytes)
{
	static const uint8_t value[RECORD_VALUE_MAX];
	const struct index_key k = named(TABLE_XATTR, FS_ROOT_INO, "user.a", 6);
	uint64_t before = atomic_load(&fs->checkpoints);

	while (n_rows-- > 0)
		assert_int_equal(
		    fs_replica(fs)->ops->resync_put(fs_replica(fs), &(struct row){key_slice(&k), {value, bytes}}, NULL, NULL), 0);
	return atomic_load(&fs->checkpoints) - before;
}

static void what_was_put_becomes_durable_on_its_own(void **state)
{
	struct sim_run leader, follower;

	(void)state;
	node_lead(&leader, 6, SIM_MIXED, 10);
	node_join(&follower, &leader, 0);
	struct fs *fs = follower.fs;
	assert_int_equal(fs_replica(fs)->ops->resync_begin(fs_replica(fs), leader.fs->super.epoch, false), 0);
	assert_int_equal(checkpoints_after(fs, 65536 + 10, 1), 1); /* by rows */
	fs->config.memory_bytes = 8 * MIB;
	assert_int_equal(checkpoints_after(fs, 640, 4096), 2); /* by what memtables hold */
	sim_free(&follower);
	sim_free(&leader);
}

struct background {
	struct fs *fs;
	atomic_bool stop;
	pthread_t thread;
};

static void *work_in_background(void *ctx)
{
	struct background *b = ctx;
	bool more;

	while (!atomic_load(&b->stop)) {
		assert_int_equal(fs_checkpoint(b->fs), 0);
		assert_int_equal(fs_home_step(b->fs, 64, &more), 0);
	}
	return NULL;
}

static void checkpoints_and_homing_at_any_time_are_harmless(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 4; seed++) {
		struct sim_run leader, follower;

		node_lead(&leader, seed, SIM_MIXED, COMMON_STEPS + 60);
		node_diverge(&follower, seed, SIM_MIXED, 60);
		struct background b = {.fs = follower.fs};
		struct pull p = {.leader = leader.fs, .follower = follower.fs};
		assert_int_equal(pthread_create(&b.thread, NULL, work_in_background, &b), 0);
		assert_int_equal(pull_run(&p), 0);
		atomic_store(&b.stop, true);
		pthread_join(b.thread, NULL);
		pull_free(&p);
		assert_equal_volumes(&leader, &follower);
		assert_clean(&follower);
		sim_free(&follower);
		sim_free(&leader);
	}
}

/* ---- what is kept ---- */

struct kept_data {
	uint64_t ino, off;
	uint8_t block[BLOCK_SIZE];
};
struct memory_sink {
	struct diverged_sink base;
	struct kept_data *data;
	char **lines;
	size_t n_data, data_cap, n_lines, lines_cap, n_tails;
	size_t synced_data, synced_lines;
	char *info;
	bool open;
};

static struct memory_sink *sink_of(struct diverged_sink *s)
{
	return container_of(s, struct memory_sink, base);
}

static int sink_open(struct diverged_sink *base, const char *id)
{
	struct memory_sink *s = sink_of(base);

	assert_true(!s->open && strlen(id) < DIVERGED_ID_MAX && !strchr(id, '/'));
	s->open = true;
	s->n_tails++;
	return 0;
}

static int sink_put_line(struct diverged_sink *base, struct slice line)
{
	struct memory_sink *s = sink_of(base);

	assert_true(s->open && !memchr(line.p, '\n', line.len));
	s->lines = test_grow(s->lines, s->n_lines, &s->lines_cap, sizeof(*s->lines));
	s->lines[s->n_lines++] = strndup(line.p, line.len);
	return 0;
}

static int sink_put_data(struct diverged_sink *base, uint64_t ino, uint64_t off, const void *p, size_t len)
{
	struct memory_sink *s = sink_of(base);

	assert_true(s->open && len > 0 && len % BLOCK_SIZE == 0 && off % BLOCK_SIZE == 0);
	for (size_t at = 0; at < len; at += BLOCK_SIZE) {
		s->data = test_grow(s->data, s->n_data, &s->data_cap, sizeof(*s->data));
		struct kept_data *k = &s->data[s->n_data++];
		k->ino = ino;
		k->off = off + at;
		memcpy(k->block, (const uint8_t *)p + at, BLOCK_SIZE);
	}
	return 0;
}

static int sink_sync(struct diverged_sink *base, struct slice info)
{
	struct memory_sink *s = sink_of(base);

	s->synced_data = s->n_data;
	s->synced_lines = s->n_lines;
	free(s->info);
	s->info = strndup(info.p, info.len);
	return 0;
}

static void sink_close(struct diverged_sink *base)
{
	sink_of(base)->open = false;
}

static void sink_free(struct diverged_sink *base)
{
	struct memory_sink *s = sink_of(base);

	for (size_t i = 0; i < s->n_lines; i++)
		free(s->lines[i]);
	free(s->lines);
	free(s->data);
	free(s->info);
}

static const struct diverged_ops sink_ops = {
    .open = sink_open,
    .put_line = sink_put_line,
    .put_data = sink_put_data,
    .sync = sink_sync,
    .close = sink_close,
    .free = sink_free,
};

static const struct kept_data *kept(const struct memory_sink *s, uint64_t ino, uint64_t off)
{
	for (size_t i = 0; i < s->n_data; i++)
		if (s->data[i].ino == ino && s->data[i].off == off)
			return &s->data[i];
	return NULL;
}

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

static void all_that_is_replaced_is_kept_and_nothing_else(void **state)
{
	size_t rows_kept = 0, blocks_kept = 0;

	(void)state;
	for (unsigned seed = 1; seed <= SEEDS; seed++) {
		struct memory_sink sink = {.base = {.ops = &sink_ops}};
		struct sim_run leader, follower;
		struct row_list old;
		size_t n_rows = 0, n_blocks = 0;

		node_lead(&leader, seed, seed % SIM_PROFILES, COMMON_STEPS + 60);
		node_diverge(&follower, seed, seed % SIM_PROFILES, 60);
		follower.fs->config.diverged = &sink.base;
		rows_of(follower.fs, &old);
		uint8_t *bytes = read_leaves(follower.fs, &old);
		struct pull p = {.leader = leader.fs, .follower = follower.fs, .save = true, .twice = seed % 2};
		assert_int_equal(pull_run(&p), 0);
		assert_int_equal(sink.n_tails, 1);
		assert_int_equal(sink.synced_data, sink.n_data);
		assert_int_equal(sink.synced_lines, sink.n_lines);
		assert_non_null(strstr(sink.info, "\"complete\": true"));
		for (size_t i = 0; i < old.n; i++) {
			const struct row *was = &old.e[i].row, *is = row_find(&p.rows, was->key);

			n_rows += !is || !says_the_same(was, is);
			if (row_table(was->key) == TABLE_EXTENT)
				n_blocks += assert_leaf_kept(&sink, was, is, bytes + i * LEAF_SLOTS * BLOCK_SIZE);
		}
		assert_int_equal(sink.n_lines, n_rows);
		assert_int_equal(sink.n_data, n_blocks);
		rows_kept += n_rows;
		blocks_kept += n_blocks;
		assert_equal_volumes(&leader, &follower);
		free(bytes);
		row_list_free(&old);
		pull_free(&p);
		sim_free(&follower);
		sim_free(&leader);
		diverged_free(&sink.base);
	}
	assert_true(rows_kept > 500 && blocks_kept > 100);
}

/* What the leader had at the first attempt, and has no more at the second, was never this node's. */
static void a_second_attempt_keeps_only_what_the_first_had_not_replaced(void **state)
{
	(void)state;
	for (uint64_t stop = 10; stop <= 60; stop += 10) {
		struct memory_sink sink = {.base = {.ops = &sink_ops}};
		struct sim_run leader, follower;
		struct row_list old;
		size_t n_different = 0;

		node_lead(&leader, stop, SIM_MIXED, COMMON_STEPS + 60);
		node_diverge(&follower, stop, SIM_MIXED, 60);
		follower.fs->config.diverged = &sink.base;
		rows_of(follower.fs, &old);
		struct pull p = {.leader = leader.fs, .follower = follower.fs, .save = true, .stop_after = stop};
		assert_int_equal(pull_run(&p), 1);
		pull_free(&p);
		go_on(&leader, 20);
		p = (struct pull){.leader = leader.fs, .follower = follower.fs, .save = true};
		assert_int_equal(pull_run(&p), 0);
		assert_int_equal(sink.n_tails, 1);
		for (size_t i = 0; i < old.n; i++) {
			const struct row *is = row_find(&p.rows, old.e[i].row.key);

			n_different += !is || !says_the_same(&old.e[i].row, is);
		}
		/* And at most what the first replaced, which the second may have found to be as it was. */
		assert_true(sink.n_lines >= n_different && sink.n_lines <= n_different + stop);
		assert_equal_volumes(&leader, &follower);
		row_list_free(&old);
		pull_free(&p);
		sim_free(&follower);
		sim_free(&leader);
		diverged_free(&sink.base);
	}
}

static void what_is_kept_is_durable_before_the_index_forgets_it(void **state)
{
	struct memory_sink sink = {.base = {.ops = &sink_ops}};
	struct sim_run leader, follower;

	(void)state;
	node_lead(&leader, 3, SIM_MIXED, COMMON_STEPS);
	node_diverge(&follower, 3, SIM_MIXED, 40);
	follower.fs->config.diverged = &sink.base;
	struct pull p = {.leader = leader.fs, .follower = follower.fs, .save = true, .stop_after = 30};
	assert_int_equal(pull_run(&p), 1);
	assert_true(sink.n_lines > 0 && sink.synced_lines < sink.n_lines);
	/* Anybody's checkpoint. */
	assert_int_equal(fs_checkpoint(follower.fs), 0);
	assert_int_equal(sink.synced_lines, sink.n_lines);
	assert_int_equal(sink.synced_data, sink.n_data);
	assert_non_null(strstr(sink.info, "\"complete\": false"));
	pull_free(&p);
	sim_free(&follower);
	sim_free(&leader);
	diverged_free(&sink.base);
}

static void without_a_place_for_it_nothing_is_replaced(void **state)
{
	struct sim_run leader, follower;
	struct row_list before, after;

	(void)state;
	node_lead(&leader, 3, SIM_MIXED, COMMON_STEPS);
	node_diverge(&follower, 3, SIM_MIXED, 40);
	rows_of(follower.fs, &before);
	struct pull p = {.leader = leader.fs, .follower = follower.fs, .save = true};
	assert_int_equal(pull_run(&p), -EOPNOTSUPP);
	assert_int_equal(fs_readable(follower.fs), 0);
	rows_of(follower.fs, &after);
	assert_same_rows(&after, &before);
	row_list_free(&before);
	row_list_free(&after);
	pull_free(&p);
	sim_free(&follower);
	sim_free(&leader);
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
	struct memory_sink sink = {.base = {.ops = &sink_ops}};
	struct sim_run leader, follower;

	(void)state;
	node_lead(&leader, 3, SIM_MIXED, COMMON_STEPS);
	node_diverge(&follower, 3, SIM_MIXED, 40);
	follower.fs->config.diverged = &sink.base;
	struct pull p = {.leader = leader.fs, .follower = follower.fs, .save = true, .stop_after = 5};
	assert_int_equal(pull_run(&p), 1);
	pull_free(&p);
	reopen(&follower);
	assert_false(sink.open);
	struct pull blind = {.leader = leader.fs, .follower = follower.fs};
	assert_int_equal(pull_run(&blind), -EOPNOTSUPP);
	pull_free(&blind);
	follower.fs->config.diverged = &sink.base;
	size_t before = sink.n_lines;
	struct pull again = {.leader = leader.fs, .follower = follower.fs};
	assert_becomes(&leader, &follower, &again);
	assert_true(sink.n_lines > before && sink.n_tails == 2);
	assert_non_null(strstr(sink.info, "\"resumed\": true"));
	sim_free(&follower);
	sim_free(&leader);
	diverged_free(&sink.base);
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
	    cmocka_unit_test(a_crash_anywhere_leaves_something_to_go_on_from),
	    cmocka_unit_test(a_volume_too_small_says_so_and_goes_on_when_the_leader_has_less),
	    cmocka_unit_test(rows_that_no_leader_can_have_are_refused),
	    cmocka_unit_test(data_that_is_wrong_or_not_there_is_refused),
	    cmocka_unit_test(a_view_that_cannot_be_does_not_end_a_resync),
	    cmocka_unit_test(the_next_inode_is_beyond_all_that_are_here),
	    cmocka_unit_test(a_row_that_cannot_be_stored_leaves_nothing_behind),
	    cmocka_unit_test(names_that_trade_their_cookies_are_listed_once),
	    cmocka_unit_test(what_was_put_becomes_durable_on_its_own),
	    cmocka_unit_test(checkpoints_and_homing_at_any_time_are_harmless),
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
