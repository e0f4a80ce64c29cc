/*
 * test_snap_replica: followers make and delete the snapshots of their leader, at the same place of the history, each with blocks
 * of its own; one that was resynced knows of those made before and does not hold them.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "replica_world.h"

#define STEPS 80u

static struct fs *leader(struct world *w)
{
	return w->run.fs;
}

/* Everything that the leader did, as it did it: nothing is superseded on the way. */
static void follow(struct world *w, unsigned i)
{
	OK(fs_sync(leader(w)));
	for (uint64_t end = point_of(leader(w)).durable_seq, seq; (seq = point_of(w->follower[i].fs).applied_seq + 1) <= end;) {
		struct message m;

		OK(message_read(leader(w), &w->cursor, seq, &m));
		OK(message_deliver(w->follower[i].fs, &m));
		message_free(&m);
	}
}

static void a_follower_has_the_snapshots_of_its_leader(void **state)
{
	unsigned n_snaps = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 16; seed++) {
		struct world *w = malloc(sizeof(*w));

		world_make(w, seed, (enum sim_profile)(seed % SIM_COLD));
		w->run.snapshots = true;
		print_message("seed %llu\n", (unsigned long long)seed);
		for (unsigned i = 0; i < STEPS; i++) {
			bool more = true;

			leader_step(w);
			follow(w, 0);
			n_snaps += model_snaps(w->run.model) > 0;
			if (i % 7 == 0)
				OK(fs_home_step(w->follower[0].fs, 64, &more));
			if (i % 11 == 0)
				OK(fs_snap_step(w->follower[0].fs, &more));
			if (i % 13 == 0)
				OK(fs_checkpoint(w->follower[0].fs));
			if (i % 20 == 19) {
				assert_same_tree(w->follower[0].fs, leader(w));
				assert_clean(w, w->follower[0].fs);
			}
			if (i % 25 == 24) { /* it is killed, and goes on with what it has */
				node_kill(&w->follower[0]);
				node_open(w, &w->follower[0]);
				assert_same_tree(w->follower[0].fs, leader(w));
			}
		}
		world_free(w);
		free(w);
	}
	assert_true(n_snaps > 100); /* steps with one at least */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_follower_has_the_snapshots_of_its_leader),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
