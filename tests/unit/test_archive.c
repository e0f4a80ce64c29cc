/*
 * test_archive.c: what a volume archives can be restored, at every batch, and equals what it was then.
 *
 * A random history on the simulated volume goes into the archive in rounds at random moments; the tree after each batch is kept.
 * SEED=N repeats the choices.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "tests/unit/archive_world.h"

static uint64_t seed;

static struct restore_target at_seq(uint64_t seq)
{
	return (struct restore_target){.by = RESTORE_SEQ, .seq = seq};
}

static void expect_state(struct archived *w, const struct restore_target *t, const struct state *want)
{
	struct restored x;
	int r = restore(w, t, &x);

	if (r < 0)
		fail_msg("%s: %s", strerror(-r), x.place.message);
	if (x.res.passed_over == 0)
		assert_int_equal(x.res.seq, want->seq);
	else { /* data of it changed before it was archived: the newest whole state before it */
		while (want->seq > x.res.seq)
			want--;
		assert_true(want->seq == x.res.seq);
	}
	assert_tree(x.fs, &want->tree);
	if (!sim_fsck(&w->run, x.fs))
		fail_msg("%s", w->run.why);
	restored_free(&x);
}

/* Steps with a round of the archiver now and then, and a second base in the middle. */
static void history(struct archived *w, unsigned n_steps)
{
	struct rng rng = rng_derive(w->run.seed, 77, 0);

	for (unsigned i = 0; i < n_steps; i++) {
		bool more;

		step_and_note(w);
		if (i == n_steps / 2)
			archiver_of(w)->since_base = UINT64_MAX / 2;
		if (rng_u64(&rng) % 3 == 0)
			OK(archive_step(w, rng_u64(&rng) % 2, &more));
	}
	OK(archive_all(w));
}

static void every_state(enum sim_profile profile, const char *options)
{
	struct archived w;
	const struct restore_target latest = {.by = RESTORE_LATEST};
	size_t n = 0;

	archived_open(&w, seed, profile, options);
	OK(archive_all(&w));
	uint64_t first = archiver_of(&w)->m.base[0].ready_seq;
	note_state(&w);
	history(&w, 60);
	assert_int_equal(archiver_of(&w)->v.archived_seq, durable_of(w.run.fs));
	assert_true(archiver_of(&w)->m.n_bases >= 2);
	for (size_t i = 0; i < w.n_states; i++) {
		const struct restore_target t = at_seq(w.state[i].seq);

		if (w.state[i].seq < first)
			continue;
		expect_state(&w, &t, &w.state[i]);
		n++;
	}
	assert_true(n > 20);
	expect_state(&w, &latest, &w.state[w.n_states - 1]);
	archived_close(&w);
}

static void each_state_of_a_mixed_history_is_restored(void **state)
{
	(void)state;
	every_state(SIM_MIXED, "");
}

static void each_state_of_a_tree_is_restored_without_encryption(void **state)
{
	(void)state;
	every_state(SIM_TREE, "encrypt=off verify=read");
}

static void each_state_of_a_full_volume_is_restored(void **state)
{
	(void)state;
	every_state(SIM_FULL, "");
}

int main(void)
{
	const char *text = getenv("SEED");
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_state_of_a_mixed_history_is_restored),
	    cmocka_unit_test(each_state_of_a_tree_is_restored_without_encryption),
	    cmocka_unit_test(each_state_of_a_full_volume_is_restored),
	};

	seed = text ? strtoull(text, NULL, 0) : 1;
	fprintf(stderr, "SEED=%llu\n", (unsigned long long)seed);
	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
