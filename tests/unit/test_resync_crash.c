/*
 * test_resync_crash.c: a resync cut at every event leaves something to go on from; how much of it is durable, and that
 * checkpoints and homing may come at any time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "tests/unit/resync_case.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_crash_anywhere_leaves_something_to_go_on_from),
	    cmocka_unit_test(what_was_put_becomes_durable_on_its_own),
	    cmocka_unit_test(checkpoints_and_homing_at_any_time_are_harmless),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
