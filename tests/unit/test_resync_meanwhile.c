/*
 * test_resync_meanwhile.c: where a follower has the data of tiered leaves is its own affair, also while a resync is under way:
 * homes are given, and are to be dropped, between any two leaves that are put, and no block is lost to it or has two owners.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "tests/lib/cold.h"
#include "tests/unit/memory_sink.h"
#include "tests/unit/resync_case.h"

#define INODES 120u

struct meanwhile {
	struct sim_run *follower;
	bool drop, give;
	unsigned turn;
	size_t n_moves;
};

static void move_homes(struct pull *p, const struct leaf_data *d)
{
	struct meanwhile *m = p->ctx;
	struct fs *fs = m->follower->fs;

	(void)d;
	for (uint64_t ino = FS_ROOT_INO + 1; ino < INODES; ino++) {
		int r = m->drop && (!m->give || m->turn % 2) ? cold_evict(fs, ino)
			: m->give                            ? cold_keep(m->follower->cold, fs, ino)
							     : 0;

		assert_true(r == 0 || r == -ENOENT || r == -EINVAL);
		m->n_moves += r == 0;
	}
	m->turn++;
}

static size_t run_case(unsigned seed, bool save, bool drop, bool give)
{
	struct memory_sink sink = {.base = {.ops = &sink_ops}};
	struct sim_run leader, follower;
	struct meanwhile m = {.follower = &follower, .drop = drop, .give = give};

	node_lead(&leader, seed, SIM_COLD, COMMON_STEPS + 60);
	node_diverge(&follower, seed, SIM_COLD, 60);
	follower.fs->config.diverged = &sink.base;
	struct pull p = {.leader = leader.fs, .follower = follower.fs, .save = save, .before_leaf = move_homes, .ctx = &m};
	assert_becomes(&leader, &follower, &p);
	sim_free(&follower);
	sim_free(&leader);
	diverged_free(&sink.base);
	return m.n_moves;
}

static void homes_move_while_rows_are_put(void **state)
{
	size_t n = 0;

	(void)state;
	for (unsigned seed = 1; seed <= SEEDS; seed++)
		for (unsigned how = 1; how <= 3; how++)
			n += run_case(seed, seed % 2, how & 1, how & 2);
	assert_true(n > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(homes_move_while_rows_are_put),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
