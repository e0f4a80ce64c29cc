/*
 * test_rollback_replica: followers go back to a snapshot with their leader, each by its own copy and with its own blocks, also
 * when they are killed on the way; one that does not have the snapshot needs a resync, and serves nothing until then.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "replica_world.h"

static const struct fs_cred root = {.uid = 0};

static struct fs *leader(struct world *w)
{
	return w->run.fs;
}

/* A history with snapshots "first" and "second", a state after them, and back to `name`; what came before that is followed. */
static struct world *history(uint64_t seed, const char *name, bool keep)
{
	struct world *w = malloc(sizeof(*w));
	const char *const snap[] = {"first", "second"};

	world_make(w, seed, (enum sim_profile)(seed % SIM_COLD));
	for (unsigned i = 0; i < ARRAY_SIZE(snap); i++) {
		for (unsigned k = 0; k < 25; k++) {
			leader_step(w);
			ship_all(w);
		}
		OK(fs_snap_create(leader(w), &root, snap[i]));
		ship_all(w);
	}
	for (unsigned k = 0; k < 25; k++) {
		leader_step(w);
		ship_all(w);
	}
	OK(fs_snap_rollback(leader(w), &root, name, keep));
	return w;
}

static void history_free(struct world *w)
{
	world_free(w);
	free(w);
}

/* The newest batch, when all before it are there. */
static int deliver_last(struct world *w, struct fs *to)
{
	uint64_t end = point_of(leader(w)).durable_seq;
	struct message m;
	int r = 0;

	OK(fs_sync(leader(w)));
	while (r == 0 && point_of(to).applied_seq < end) {
		OK(message_read(leader(w), &w->cursor, point_of(to).applied_seq + 1, &m));
		r = message_deliver(to, &m);
		message_free(&m);
	}
	return r;
}

static void is_like_the_leader(struct world *w, struct node *n)
{
	uint64_t seq = point_of(leader(w)).durable_seq;

	assert_int_equal(point_of(n->fs).applied_seq, seq);
	assert_same_tree(n->fs, leader(w));
	assert_clean(w, n->fs);
}

/* From the tree that came back; the random steps know of another one. */
static void go_on(struct world *w)
{
	static const uint8_t bytes[200000] = {1, 2, 3};
	struct fs_attr a;

	OK(fs_mknod(leader(w), &root, FS_ROOT_INO, "after it", S_IFREG | 0600, 0, &a));
	OK(fs_write(leader(w), &root, a.ino, 5, sizeof(bytes), bytes, false));
	OK(fs_snap_delete(leader(w), &root, "first"));
	OK(fs_snap_create(leader(w), &root, "third"));
}

static void followers_go_back_with_their_leader(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct world *w = history(seed, seed % 2 ? "first" : "second", seed % 3 == 0);

		print_message("seed %llu\n", (unsigned long long)seed);
		if (seed % 4 == 0)
			w->follower[1].fs->config.memory_bytes = 0; /* checkpoints on the way */
		for (unsigned i = 0; i < N_FOLLOWERS; i++) {
			struct node *n = &w->follower[i];

			OK(deliver_last(w, n->fs));
			assert_int_equal(sum_of(n->fs, point_of(n->fs).applied_seq),
					 sum_of(leader(w), point_of(n->fs).applied_seq));
			is_like_the_leader(w, n);
			node_kill(n);
			node_open(w, n);
			OK(deliver_last(w, n->fs)); /* where the batch was not durable yet */
			is_like_the_leader(w, n);
		}
		go_on(w);
		ship_all(w);
		is_like_the_leader(w, &w->follower[0]);
		history_free(w);
	}
}

/* Its store fails at the n-th event of it, for ever, for each n; then it is started again. */
static void a_follower_that_is_cut_off_goes_on(void **state)
{
	bool failed = true;
	unsigned n = 0;

	(void)state;
	for (; failed; n++) {
		struct world *w = history(3, "first", false);
		struct node *f = &w->follower[0];

		if (n % 2)
			f->fs->config.memory_bytes = 0;
		simstore_fail(f->image.store, simstore_count(f->image.store) + 1 + n, UINT64_MAX, -EIO);
		failed = deliver_last(w, f->fs) < 0;
		node_kill(f);
		simstore_fail(f->image.store, 0, 0, 0);
		node_open(w, f);
		if (point_of(f->fs).applied_seq < point_of(leader(w)).durable_seq)
			OK(deliver_last(w, f->fs));
		is_like_the_leader(w, f);
		history_free(w);
		assert_true(n < 1000);
	}
	assert_true(n > 5);
}

static void without_the_snapshot_a_resync_is_needed(void **state)
{
	struct world *w = history(5, "second", true);
	struct node *f = &w->follower[0];
	uint64_t ino, seq = point_of(f->fs).applied_seq;

	(void)state;
	OK(fs_snap_root(f->fs, "second", &ino));
	node_close(f);
	node_open(w, f);
	OK(f->fs->kv->ops->snapshot_remove(f->fs->kv, (ino & ~(UINT64_C(3) << 62)) >> 40));
	FAILS(-EUCLEAN, deliver_last(w, f->fs));
	assert_true(point_of(f->fs).applied_seq <= seq + 1); /* the snapshot of the present at most */
	assert_true(point_of(f->fs).lacks && !point_of(f->fs).differs);
	OK(fs_readable(f->fs)); /* a prefix of its leader, as before */
	node_kill(f);
	node_open(w, f);
	assert_false(point_of(f->fs).lacks);
	FAILS(-EUCLEAN, deliver_last(w, f->fs));
	assert_true(point_of(f->fs).lacks);
	OK(deliver_last(w, w->follower[1].fs)); /* the other one is not concerned */
	is_like_the_leader(w, &w->follower[1]);
	history_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(followers_go_back_with_their_leader),
	    cmocka_unit_test(a_follower_that_is_cut_off_goes_on),
	    cmocka_unit_test(without_the_snapshot_a_resync_is_needed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
