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

static void without_snapshots(struct tree *t)
{
	size_t n = 0;

	for (size_t i = 0; i < t->n; i++)
		if (strncmp(t->e[i].path, "/.clawfs", 8) == 0)
			free(t->e[i].path);
		else
			t->e[n++] = t->e[i];
	t->n = n;
}

/* A state whose snapshots nobody who restores has: exactly it, or an error. */
static int restore_tree(struct archived *w, uint64_t seq, struct tree *want)
{
	const struct restore_target t = at_seq(seq);
	struct tree got = {0};
	struct restored x;
	char why[512];
	int r = restore(w, &t, &x);

	if (r == 0) {
		tree_of(x.fs, &got);
		without_snapshots(&got);
		assert_int_equal(x.res.seq, seq);
		if (tree_diff(&got, want, why, sizeof(why)))
			fail_msg("batch %llu: %s", (unsigned long long)seq, why);
		tree_free(&got);
	}
	restored_free(&x);
	return r;
}

/*
 * The tree goes back to a snapshot, which no archive has: what was before is restored, and what came after from the base that is
 * made then; between the two there is an error and no other tree.
 */
static void the_way_back_to_a_snapshot_begins_with_a_base(void **state)
{
	struct archived w;
	size_t snap, back;

	(void)state;
	archived_open(&w, seed, SIM_TREE, "");
	OK(archive_all(&w));
	note_state(&w);
	for (unsigned i = 0; i < 10; i++)
		step_and_note(&w);
	OK(fs_snap_create(w.run.fs, &admin, "s"));
	OK(model_snap(w.run.model, "s"));
	snap = w.n_states;
	for (unsigned i = 0; i < 10; i++)
		step_and_note(&w);
	OK(archive_all(&w));
	size_t bases = archiver_of(&w)->m.n_bases;
	OK(fs_snap_rollback(w.run.fs, &admin, "s", true));
	OK(fs_snap_delete(w.run.fs, &admin, "s"));
	back = w.n_states;
	note_state(&w);
	OK(archive_all(&w));
	assert_true(archiver_of(&w)->m.n_bases > bases);
	uint64_t ready = archiver_of(&w)->m.base[archiver_of(&w)->m.n_bases - 1].ready_seq;
	OK(fs_set_policy(w.run.fs, &admin, FS_ROOT_INO, "durability", "local"));
	note_state(&w);
	OK(archive_all(&w));
	for (size_t i = 0; i < w.n_states; i++)
		without_snapshots(&w.state[i].tree);
	OK(restore_tree(&w, w.state[snap - 1].seq, &w.state[snap - 1].tree));
	OK(restore_tree(&w, w.state[back - 1].seq, &w.state[back - 1].tree));
	assert_true(w.state[w.n_states - 1].seq >= ready);
	OK(restore_tree(&w, w.state[w.n_states - 1].seq, &w.state[w.n_states - 1].tree));
	for (uint64_t seq = w.state[back - 1].seq + 3; seq < ready; seq++) /* SNAP, SNAPROLL, SNAPDROP */
		assert_true(restore_tree(&w, seq, &w.state[back].tree) < 0);
	archived_close(&w);
}

int main(void)
{
	const char *text = getenv("SEED");
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_state_of_a_mixed_history_is_restored),
	    cmocka_unit_test(each_state_of_a_tree_is_restored_without_encryption),
	    cmocka_unit_test(each_state_of_a_full_volume_is_restored),
	    cmocka_unit_test(the_way_back_to_a_snapshot_begins_with_a_base),
	};

	seed = text ? strtoull(text, NULL, 0) : 1;
	fprintf(stderr, "SEED=%llu\n", (unsigned long long)seed);
	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
