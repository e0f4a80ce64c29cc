/*
 * test_epoch.c: a leader that may not lead any more: one that offered the lead to another node and does not know what came of it,
 * and one whose disk went back to an older image.  One thread, no connections.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

#include "tests/unit/replica_world.h"

static const struct fs_cred cred = {.pid = 1};
static const uint64_t offered = (uint64_t)2 << EPOCH_NODE_BITS | 2;

static int make_file(struct fs *fs, const char *name)
{
	struct fs_attr a;

	return fs_mknod(fs, &cred, FS_ROOT_INO, name, S_IFREG | 0644, 0, &a);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct fs_attr a;

	world_make(w, 11, SIM_MIXED);
	for (unsigned i = 0; i < 20; i++)
		leader_step(w);
	OK(make_file(w->run.fs, "file"));
	OK(fs_lookup(w->run.fs, FS_ROOT_INO, "file", &a));
	OK(fs_write(w->run.fs, &cred, a.ino, 0, 5, "bytes", false));
	OK(fs_sync(w->run.fs));
	*state = w;
	return 0;
}

static int offer(struct fs *fs, uint64_t epoch)
{
	return ops_of(fs)->offer(fs_replica(fs), epoch);
}

/* The leader's volume, mounted anew: as after kill -9, and asked to lead only later, as the daemon does. */
static void mount_again(struct world *w)
{
	struct fs_config c = sim_config(&w->run, &w->run.image);

	ops_of(w->run.fs)->cursor_free(TAKE_PTR(w->cursor));
	fs_abandon(w->run.fs);
	c.lead_later = true;
	OK(fs_open(&c, &w->run.fs));
}

/* Everything that changes a volume. */
static void assert_takes_nothing(struct fs *fs)
{
	struct record_attr mode = {.mask = ATTR_MODE, .mode = 0700};
	uint64_t seq = fs_pos(fs);
	struct fs_attr a;
	size_t copied;
	bool more;

	assert_false(fs_takes_changes(fs));
	FAILS(-EROFS, make_file(fs, "no"));
	FAILS(-EROFS, fs_symlink(fs, &cred, FS_ROOT_INO, "no", "there", &a));
	FAILS(-EROFS, fs_link(fs, &cred, FS_ROOT_INO, FS_ROOT_INO, "no", &a));
	FAILS(-EROFS, fs_unlink(fs, &cred, FS_ROOT_INO, "file"));
	FAILS(-EROFS, fs_rename(fs, &cred, FS_ROOT_INO, "file", FS_ROOT_INO, "other", 0));
	FAILS(-EROFS, fs_setattr(fs, &cred, FS_ROOT_INO, &mode, &a));
	FAILS(-EROFS, fs_setxattr(fs, &cred, FS_ROOT_INO, "user.x", "1", 1, 0));
	FAILS(-EROFS, fs_set_policy(fs, &cred, FS_ROOT_INO, "durability", "local"));
	OK(fs_lookup(fs, FS_ROOT_INO, "file", &a));
	FAILS(-EROFS, fs_write(fs, &cred, a.ino, 0, 1, "x", false));
	FAILS(-EROFS, fs_fallocate(fs, &cred, a.ino, 0, 0, 4096));
	FAILS(-EROFS, fs_copy_range(fs, &cred, a.ino, 0, a.ino, 8192, 5, &copied));
	fs_forget(fs, a.ino, 1);
	OK(fs_reap_step(fs, &more));
	OK(fs_sync(fs));
	OK(fs_checkpoint(fs));
	assert_int_equal(fs_pos(fs), seq);
}

static void what_was_offered_is_not_written_to_before_it_is_known_not_to_be_taken(void **state)
{
	struct world *w = *state;
	struct fs *fs = w->run.fs;

	FAILS(-ESTALE, offer(fs, point_of(fs).promised));
	FAILS(-ESTALE, offer(w->follower[0].fs, offered));
	OK(offer(fs, offered));
	assert_int_equal(point_of(fs).offered, offered);
	assert_takes_nothing(fs);
	for (unsigned i = 0; i < 3; i++) {
		mount_again(w);
		fs = w->run.fs;
		assert_true(point_of(fs).offered == offered && fs_role(fs) == ROLE_LEADER);
		OK(fs_lead(fs));
		assert_takes_nothing(fs);
	}
	OK(offer(fs, 0));
	assert_true(point_of(fs).offered == 0 && fs_takes_changes(fs));
	assert_int_equal(point_of(fs).history, point_of(fs).promised);
	OK(make_file(fs, "yes"));
	mount_again(w);
	OK(fs_lead(w->run.fs));
	OK(make_file(w->run.fs, "and again"));
}

/* The answer may be there before the volume was asked to lead. */
static void an_answer_that_comes_early_leaves_the_beginning_to_who_asks_to_lead(void **state)
{
	struct world *w = *state;

	OK(offer(w->run.fs, offered));
	mount_again(w);
	struct fs *fs = w->run.fs;
	uint64_t seq = point_of(fs).applied_seq;
	OK(offer(fs, 0));
	assert_int_equal(point_of(fs).applied_seq, seq);
	OK(fs_lead(fs));
	assert_int_equal(point_of(fs).durable_seq, seq + 1); /* its EPOCH record */
	OK(make_file(fs, "yes"));
}

static void a_higher_epoch_ends_the_doubt_and_a_lower_one_does_not(void **state)
{
	const struct {
		uint64_t epoch;
		bool known;
	} heard[] = {{epoch_make(1, 3), false}, {offered, true}, {epoch_make(9, 3), true}};
	struct world *w = *state;
	struct fs *fs = w->run.fs;

	for (size_t i = 0; i < ARRAY_SIZE(heard); i++) {
		uint64_t above = epoch_make(epoch_counter(point_of(fs).promised) + 1, 2);
		uint64_t epoch = i == 1 ? above : heard[i].epoch;
		OK(offer(fs, above));
		OK(ops_of(fs)->note_epoch(fs_replica(fs), epoch));
		assert_int_equal(fs_role(fs), ROLE_FOLLOWER);
		assert_int_equal(point_of(fs).offered, heard[i].known ? 0 : above);
		mount_again(w);
		fs = w->run.fs;
		OK(fs_lead(fs));
		assert_int_equal(point_of(fs).offered, heard[i].known ? 0 : above);
		/* Whoever leads here next leads above what may be taken yet. */
		if (!heard[i].known)
			FAILS(-ESTALE, ops_of(fs)->promote(fs_replica(fs), above));
		OK(ops_of(fs)->promote(fs_replica(fs), epoch_make(epoch_counter(max_u64(above, epoch)) + 1, 1)));
		assert_true(fs_takes_changes(fs) && point_of(fs).offered == 0);
		char name[16];
		snprintf(name, sizeof(name), "file%zu", i);
		OK(make_file(fs, name));
	}
}

static void a_promotion_here_takes_the_lead_back(void **state)
{
	struct world *w = *state;

	OK(offer(w->run.fs, offered));
	mount_again(w);
	struct fs *fs = w->run.fs;
	OK(fs_lead(fs));
	FAILS(-ESTALE, ops_of(fs)->promote(fs_replica(fs), offered));
	assert_takes_nothing(fs);
	uint64_t seq = point_of(fs).applied_seq;
	OK(ops_of(fs)->promote(fs_replica(fs), epoch_make(3, 1)));
	assert_true(point_of(fs).durable_seq == seq + 1 && point_of(fs).history == epoch_make(3, 1));
	OK(make_file(fs, "yes"));
}

/* Cut at every store write, in every way: whoever was told that the offer is promised finds it so. */
static void an_offer_is_durable_before_it_is_made(void **state)
{
	struct world *w = *state;
	struct rng rng = rng_derive(3, 3, 3);
	bool seen[2] = {0};

	uint64_t first = simstore_mark(w->run.image.store);
	OK(offer(w->run.fs, offered));
	uint64_t last = simstore_mark(w->run.image.store);
	struct simcut *c = simcut_new(w->run.image.store);
	for (uint64_t cut = first; cut <= last; cut++) {
		simcut_advance(c, cut);
		for (unsigned v = 0; v < SIMCUT_VARIANTS; v++) {
			struct node n = {.image.store = simcut_image(c, (enum simcut_variant)v, &rng, false)};
			n.image.index = kv_disk_at(w->run.image.index, cut, n.image.store);
			node_open(w, &n);
			bool there = point_of(n.fs).offered == offered;
			assert_true(there || (point_of(n.fs).offered == 0 && cut < last));
			assert_int_equal(fs_takes_changes(n.fs), !there);
			seen[there] = true;
			node_kill(&n);
			sim_image_free(&n.image);
		}
	}
	simcut_free(c);
	assert_true(seen[0] && seen[1]);
}

static void *make_waited(void *fs)
{
	return (void *)(intptr_t)make_file(fs, "waited");
}

/* Of two threads that receive requests one waits and the other hears the admin. */
static void who_waits_for_a_word_leaves_one_to_hear_it(void **state)
{
	struct world *w = *state;
	struct fs *fs = w->run.fs;
	pthread_t t;
	void *result;

	OK(ops_of(fs)->hold_writers(fs_replica(fs), true));
	OK(offer(fs, offered));
	pthread_create(&t, NULL, make_waited, fs);
	while (atomic_load(&fs->n_held) == 0)
		usleep(1000);
	FAILS(-EROFS, make_file(fs, "refused"));
	assert_int_equal(atomic_load(&fs->n_held), 1);
	OK(offer(fs, 0));
	OK(ops_of(fs)->hold_writers(fs_replica(fs), false));
	pthread_join(t, &result);
	OK((int)(intptr_t)result);
	assert_int_equal(atomic_load(&fs->n_held), 0);
}

static void only_who_has_written_nothing_steps_down(void **state)
{
	struct world *w = *state;

	FAILS(-EBUSY, ops_of(w->run.fs)->step_down(fs_replica(w->run.fs)));
	FAILS(-EALREADY, ops_of(w->follower[0].fs)->step_down(fs_replica(w->follower[0].fs)));
	mount_again(w);
	struct fs *fs = w->run.fs;
	uint64_t epoch = point_of(fs).promised;
	OK(ops_of(fs)->step_down(fs_replica(fs)));
	assert_true(fs_role(fs) == ROLE_FOLLOWER && point_of(fs).promised == epoch && fs_readable(fs) == 0);
	OK(fs_lead(fs));
	assert_takes_nothing(fs);
	mount_again(w); /* and stays so */
	fs = w->run.fs;
	OK(fs_lead(fs));
	assert_int_equal(fs_role(fs), ROLE_FOLLOWER);
	OK(ops_of(fs)->promote(fs_replica(fs), epoch_make(epoch_counter(epoch) + 1, 1)));
	OK(make_file(fs, "yes"));
	FAILS(-EBUSY, ops_of(fs)->step_down(fs_replica(fs)));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(what_was_offered_is_not_written_to_before_it_is_known_not_to_be_taken),
	    CASE(an_answer_that_comes_early_leaves_the_beginning_to_who_asks_to_lead),
	    CASE(a_higher_epoch_ends_the_doubt_and_a_lower_one_does_not),
	    CASE(a_promotion_here_takes_the_lead_back),
	    CASE(who_waits_for_a_word_leaves_one_to_hear_it),
	    CASE(an_offer_is_durable_before_it_is_made),
	    CASE(only_who_has_written_nothing_steps_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
