/*
 * test_archive_faults.c: the archive when things go wrong: objects that are missing or damaged, stores that fail at each call, a
 * leader that dies at each step, a ring that comes round, another leader, time that passes.
 *
 * SEED=N repeats the choices.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <jansson.h>

#include "base/log.h"
#include "fs/core/tier/ageing/impl.h"
#include "journal/ship.h"
#include "tests/unit/archive_world.h"

static uint64_t seed;
static const struct restore_target latest = {.by = RESTORE_LATEST};

static struct restore_target at_seq(uint64_t seq)
{
	return (struct restore_target){.by = RESTORE_SEQ, .seq = seq};
}

static const struct state *newest(const struct archived *w)
{
	return &w->state[w->n_states - 1];
}

static void expect(struct archived *w, const struct restore_target *t, const struct state *want)
{
	struct restored x;
	int r = restore(w, t, &x);

	if (r < 0)
		fail_msg("%s: %s", strerror(-r), x.place.message);
	while (x.res.passed_over && want->seq > x.res.seq)
		want--;
	assert_int_equal(x.res.seq, want->seq);
	assert_tree(x.fs, &want->tree);
	if (!sim_fsck(&w->run, x.fs))
		fail_msg("%s", w->run.why);
	restored_free(&x);
}

/* An archive with a base, another base, and some segments behind each. */
static void make(struct archived *w, unsigned n_steps)
{
	archived_open(w, seed, SIM_MIXED, "");
	OK(archive_all(w));
	for (unsigned i = 0; i < n_steps; i++) {
		step_and_note(w);
		if (i == n_steps / 2)
			archiver_of(w)->since_base = UINT64_MAX / 2;
		if (i % 3 == 0)
			OK(archive_all(w));
	}
	OK(archive_all(w));
}

/* As a restart finds it: the volume goes on, the archiver knows nothing. */
static void restart(struct archived *w, bool killed)
{
	if (killed)
		fs_abandon(w->run.fs);
	else
		OK(fs_close(w->run.fs));
	OK(sim_open_image(&w->run, &w->run.image, &w->run.fs));
	w->run.n_held = 0;
	archived_hook(w);
}

/* ---- what is in the store ---- */

static bool is_of_archive(const char *key, const char *part)
{
	return strncmp(key, "archive/", 8) == 0 && strstr(key, part);
}

/* Restoring `t` fails and names the object, or gives exactly what it should: never anything else. */
static bool refused_or_right(struct archived *w, const struct restore_target *t, const char *key, const struct state *want)
{
	struct restored x;
	int r = restore(w, t, &x);

	if (r == 0) {
		assert_int_equal(x.res.seq, want->seq);
		assert_tree(x.fs, &want->tree);
	} else if (!strstr(x.place.message, key)) {
		fail_msg("%s is damaged, said was: %s: %s", key, strerror(-r), x.place.message);
	}
	restored_free(&x);
	return r < 0;
}

static void each_object_that_is_missing_is_named(void **state)
{
	struct archived w;
	struct simobject_entry e;
	unsigned n = 0, n_refused = 0;

	(void)state;
	make(&w, 24);
	for (uint64_t i = 0; simobject_entry(w.so, i, &e); i++) {
		static uint8_t bytes[64 * MIB];
		bool manifest = is_of_archive(e.key, "manifest"), head = is_of_archive(e.key, "/head");

		if (!is_of_archive(e.key, ""))
			continue;
		const int64_t len = simobject_peek(w.so, e.store, e.key, bytes, sizeof(bytes));
		simobject_erase(w.so, e.store, e.key);
		if (manifest || head) { /* there are two; a head is a hint */
			expect(&w, &latest, newest(&w));
		} else {
			/* From the first base on, and from the second: one of them needs it. */
			const uint64_t seq = archiver_of(&w)->m.base[1].seq - 1;
			const struct state *before = newest(&w);

			while (before->seq > seq)
				before--;
			const struct restore_target early = at_seq(before->seq);
			bool refused = refused_or_right(&w, &latest, e.key, newest(&w));

			if (refused_or_right(&w, &early, e.key, before))
				refused = true;
			n_refused += refused;
			n++;
		}
		simobject_plant(w.so, e.store, e.key, bytes, (size_t)len, e.modified_ns);
	}
	assert_true(n > 8);
	assert_in_range(n_refused, n - 1, n); /* a segment of the second base's batch alone is needed by neither */
	archived_close(&w);
}

/* A byte of each region of each object: every field of the header, and the body at its ends and within. */
static void each_damaged_byte_is_found(void **state)
{
	struct archived w;
	struct simobject_entry e;
	struct rng rng = rng_derive(seed, 5, 0);
	unsigned n = 0;

	(void)state;
	make(&w, 8);
	for (uint64_t i = 0; simobject_entry(w.so, i, &e); i++) {
		bool copy = is_of_archive(e.key, "manifest") || is_of_archive(e.key, "/head");
		static const uint64_t fields[] = {0,  8,  10, 12, 16,  32,  40,  48,  56,  60,  64,  72,
						  80, 84, 88, 96, 104, 112, 120, 128, 136, 196, 212, 252};

		if (!is_of_archive(e.key, ""))
			continue;
		for (unsigned k = 0; k < ARRAY_SIZE(fields) + 6; k++) {
			uint64_t off = k < ARRAY_SIZE(fields)    ? fields[k]
				       : k == ARRAY_SIZE(fields) ? ARCHIVE_HEADER_BYTES
				       : k == ARRAY_SIZE(fields) + 1
					   ? e.size - 1
					   : ARCHIVE_HEADER_BYTES + rng_u64(&rng) % (e.size - ARCHIVE_HEADER_BYTES);
			static uint8_t bytes[64 * MIB];
			const int64_t len = simobject_peek(w.so, e.store, e.key, bytes, sizeof(bytes));
			const struct restore_target first = at_seq(archiver_of(&w)->m.base[1].seq);

			simobject_corrupt(w.so, e.store, e.key, off);
			if (copy) {
				expect(&w, &latest, newest(&w));
			} else {
				const struct state *before = newest(&w);

				while (before->seq > first.seq)
					before--;
				bool found = refused_or_right(&w, &latest, e.key, newest(&w));
				const struct restore_target early = at_seq(before->seq - 1);
				if (refused_or_right(&w, &early, e.key, before - 1))
					found = true;
				assert_true(found);
			}
			simobject_plant(w.so, e.store, e.key, bytes, (size_t)len, e.modified_ns);
			n++;
		}
	}
	assert_true(n > 150);
	archived_close(&w);
}

/* Whole objects in each other's places, all of them sound in themselves. */
static void objects_in_the_wrong_place_are_refused(void **state)
{
	static uint8_t a[16 * MIB], b[16 * MIB];
	struct archived w;
	struct simobject_entry e, f;
	unsigned n = 0;

	(void)state;
	make(&w, 24);
	for (uint64_t i = 0; simobject_entry(w.so, i, &e); i++)
		for (uint64_t k = i + 1; simobject_entry(w.so, k, &f); k++) {
			if (!is_of_archive(e.key, "/s/") || !is_of_archive(f.key, "/s/"))
				continue;
			int64_t la = simobject_peek(w.so, e.store, e.key, a, sizeof(a));
			int64_t lb = simobject_peek(w.so, f.store, f.key, b, sizeof(b));
			struct restored x;
			const struct restore_target t = at_seq(newest(&w)->seq);

			simobject_plant(w.so, e.store, e.key, b, (size_t)lb, 0);
			simobject_plant(w.so, f.store, f.key, a, (size_t)la, 0);
			int r = restore(&w, &t, &x);
			bool needed = r < 0;
			if (needed)
				assert_true(strstr(x.place.message, e.key) || strstr(x.place.message, f.key));
			else /* neither is needed: both are before the newest base */
				assert_tree(x.fs, &newest(&w)->tree);
			restored_free(&x);
			simobject_plant(w.so, e.store, e.key, a, (size_t)la, 0);
			simobject_plant(w.so, f.store, f.key, b, (size_t)lb, 0);
			n += needed;
		}
	assert_true(n > 5);
	archived_close(&w);
}

static void another_volumes_archive_and_key_are_refused(void **state)
{
	struct archived w;
	struct restored x;
	struct archive_manifest m = {0};

	(void)state;
	make(&w, 3);
	x = (struct restored){0};
	place_of(&w, &x);
	x.key.bytes[0] ^= 1;
	FAILS(-EBADMSG, manifest_read(&x.place, &m));
	assert_non_null(strstr(x.place.message, "archive/manifest-"));
	x.key.bytes[0] ^= 1;
	x.place.volume[3] ^= 1;
	FAILS(-EBADMSG, manifest_read(&x.place, &m));
	x.place.volume[3] ^= 1;
	x.place.key = NULL;
	int r = manifest_read(&x.place, &m);
	FAILS(-ENOKEY, r);
	object_store_close(x.place.store);
	archived_close(&w);
}

/* ---- the store fails ---- */

/* One call of a kind goes wrong in one way, at each position; the archive gets through, and everything can be restored. */
static void each_call_of_the_store_may_fail(void **state)
{
	static const struct {
		enum object_kind kind;
		enum simobject_how how;
		int error;
	} faults[] = {
	    {OBJECT_PUT, SIMOBJECT_FAIL, -EIO},       {OBJECT_PUT, SIMOBJECT_AFTER, -ETIMEDOUT},
	    {OBJECT_PUT, SIMOBJECT_LATE, -ETIMEDOUT}, {OBJECT_PUT, SIMOBJECT_TEAR, -EIO},
	    {OBJECT_PUT, SIMOBJECT_LOSE, 0},          {OBJECT_PUT, SIMOBJECT_CORRUPT, 0},
	    {OBJECT_PUT, SIMOBJECT_FAIL, -ENOSPC},    {OBJECT_GET, SIMOBJECT_FAIL, -EIO},
	    {OBJECT_GET, SIMOBJECT_CORRUPT, 0},       {OBJECT_HEAD, SIMOBJECT_FAIL, -EIO},
	};
	unsigned n = 0;

	(void)state;
	for (unsigned f = 0; f < ARRAY_SIZE(faults); f++)
		for (uint64_t at = 1; at < 18; at += 1 + (faults[f].kind != OBJECT_PUT) * 3) {
			struct archived w;
			bool more;

			archived_open(&w, seed, SIM_TREE, "verify=read");
			uint64_t first = simobject_calls(w.so, faults[f].kind) + at;
			simobject_fault(w.so, faults[f].kind, first, 1, faults[f].how, faults[f].error);
			for (unsigned i = 0; i < 6; i++) {
				int r = archive_step(&w, true, &more);
				(void)r;
				step_and_note(&w);
				if (i == 3)
					archiver_of(&w)->since_base = UINT64_MAX / 2;
				if (i == 4)
					restart(&w, true);
			}
			n += (unsigned)simobject_faults(w.so);
			simobject_clear(w.so);
			for (unsigned tries = 0; archive_all(&w) < 0; tries++) {
				if (tries == 4)
					fail_msg("%s", archiver_of(&w)->view.message);
				wait_long(&w);
			}
			note_state(&w);
			OK(archive_all(&w));
			expect(&w, &latest, newest(&w));
			archived_close(&w);
		}
	assert_true(n > 60);
}

static void a_store_that_is_away_for_a_while_is_caught_up_with(void **state)
{
	struct archived w;
	bool more;

	(void)state;
	make(&w, 6);
	simobject_fault(w.so, OBJECT_KINDS, simobject_calls(w.so, OBJECT_KINDS) + 1, UINT64_MAX, SIMOBJECT_FAIL, -ECONNREFUSED);
	for (unsigned i = 0; i < 10; i++) {
		step_and_note(&w);
		assert_true(archive_step(&w, true, &more) < 0);
		wait_long(&w);
	}
	json_t *o = archiver_status_json(w.run.fs);
	assert_string_equal(json_string_value(json_object_get(o, "state")), "waiting");
	assert_true(json_integer_value(json_object_get(o, "behind_batches")) > 0);
	json_decref(o);
	simobject_clear(w.so);
	wait_long(&w);
	OK(archive_all(&w));
	assert_int_equal(archiver_of(&w)->v.gaps, 0);
	expect(&w, &latest, newest(&w));
	archived_close(&w);
}

/* ---- gaps ---- */

static void a_gap_is_told_recorded_and_closed_by_a_base(void **state)
{
	struct archived w;
	bool more;

	(void)state;
	archived_open(&w, seed, SIM_RING, "");
	note_state(&w);
	OK(archive_all(&w));
	simobject_fault(w.so, OBJECT_KINDS, simobject_calls(w.so, OBJECT_KINDS) + 1, UINT64_MAX, SIMOBJECT_FAIL, -ECONNREFUSED);
	for (unsigned i = 0; i < 4000 && journal_oldest(w.run.fs->journal) <= archiver_of(&w)->taken + 1; i++) {
		step_and_note(&w);
		w.run.clock->now_ns += NSEC_PER_SEC;
		if (i % 50 == 0) {
			int r = archive_step(&w, true, &more);
			(void)r;
		}
	}
	assert_true(journal_oldest(w.run.fs->journal) > archiver_of(&w)->taken + 1);
	simobject_clear(w.so);
	wait_long(&w);
	simobject_fault(w.so, OBJECT_PUT, simobject_calls(w.so, OBJECT_PUT) + 1, UINT64_MAX, SIMOBJECT_FAIL, -ECONNREFUSED);
	assert_true(archive_step(&w, true, &more) < 0);
	assert_true(archiver_of(&w)->view.gap);
	json_t *o = archiver_status_json(w.run.fs);
	assert_true(json_is_true(json_object_get(o, "gap")));
	assert_true(*json_string_value(json_object_get(o, "alarm")) != '\0');
	json_decref(o);
	simobject_clear(w.so);
	wait_long(&w);
	note_state(&w);
	OK(archive_all(&w));
	assert_false(archiver_of(&w)->view.gap);
	assert_int_equal(archiver_of(&w)->view.gaps, 1);
	expect(&w, &latest, newest(&w));
	/* What is before the gap is whole, what is in it is refused. */
	const struct archive_stream *s = &archiver_of(&w)->m.stream[0];
	struct restored x;
	const struct restore_target in_gap = at_seq(s->lost_from), last = at_seq(s->lost_from - 1);
	FAILS(-ENOENT, restore(&w, &in_gap, &x));
	restored_free(&x);
	const struct state *want = newest(&w);
	while (want->seq > last.seq)
		want--;
	expect(&w, &last, want);
	/* And a restart knows of it. */
	restart(&w, false);
	OK(archive_all(&w));
	assert_int_equal(archiver_of(&w)->view.gaps, 1);
	assert_false(archiver_of(&w)->view.gap);
	archived_close(&w);
}

/* ---- the leader dies, another one leads ---- */

/* After each change of the store by the archiver the leader dies; the next mount goes on with what is there. */
static void a_kill_at_each_step_of_the_store_loses_nothing(void **state)
{
	unsigned n = 0;

	(void)state;
	for (uint64_t at = 1; at < 40; at++) {
		struct archived w;
		bool more = true;

		archived_open(&w, seed, SIM_TREE, "");
		uint64_t first = simobject_calls(w.so, OBJECT_PUT) + at;
		/* Nothing after that call reaches the store. */
		simobject_fault(w.so, OBJECT_PUT, first, UINT64_MAX, at % 2 ? SIMOBJECT_AFTER : SIMOBJECT_FAIL, -ECONNRESET);
		for (unsigned i = 0; i < 8; i++) {
			int r = archive_step(&w, true, &more);
			(void)r;
			step_and_note(&w);
			if (i == 3)
				archiver_of(&w)->since_base = UINT64_MAX / 2;
		}
		n += simobject_faults(w.so) > 0;
		simobject_clear(w.so);
		restart(&w, true);
		note_state(&w);
		for (unsigned tries = 0; archive_all(&w) < 0; tries++) {
			if (tries == 4)
				fail_msg("%s", archiver_of(&w)->view.message);
			wait_long(&w);
		}
		assert_int_equal(archiver_of(&w)->view.gaps, 0);
		expect(&w, &latest, newest(&w));
		for (size_t i = 0; i < w.n_states; i += 3) { /* and every state since the first base that was whole */
			const struct restore_target t = at_seq(w.state[i].seq);
			struct restored x;

			int r = restore(&w, &t, &x);
			if (r == 0)
				assert_tree(x.fs, &w.state[i].tree);
			else
				FAILS(-ENOENT, r);
			restored_free(&x);
		}
		archived_close(&w);
	}
	assert_true(n > 8);
}

static void a_later_epoch_begins_a_stream_of_its_own(void **state)
{
	struct archived w;

	(void)state;
	make(&w, 6);
	const struct state *before = newest(&w);
	uint64_t seq = before->seq;
	struct replica_point p = point_of(w.run.fs);
	OK(ops_of(w.run.fs)->promote(fs_replica(w.run.fs), epoch_make(epoch_counter(p.promised) + 3, 1)));
	for (unsigned i = 0; i < 6; i++) {
		step_and_note(&w);
		OK(archive_all(&w));
	}
	assert_int_equal(archiver_of(&w)->m.n_streams, 2);
	assert_int_equal(archiver_of(&w)->m.stream[0].end, STREAM_OTHER);
	expect(&w, &latest, newest(&w));
	const struct state *old = newest(&w);
	while (old->seq > seq)
		old--;
	const struct restore_target t = at_seq(seq);
	expect(&w, &t, old);
	archived_close(&w);
}

/* The leader of a lower epoch, which does not know yet, leaves the archive alone. */
static void an_archive_of_a_later_epoch_is_left_alone(void **state)
{
	struct archived w;
	bool more;

	(void)state;
	make(&w, 6);
	uint64_t objects = simobject_count(w.so);
	struct restored x = {0};
	struct archive_manifest m = {0};
	place_of(&w, &x);
	OK(manifest_read(&x.place, &m));
	struct archive_stream *s = manifest_add_stream(&m);
	*s = m.stream[0];
	s->epoch += (uint64_t)5 << EPOCH_NODE_BITS;
	s->end = STREAM_OPEN;
	OK(manifest_write(&x.place, 1, s->epoch, &m));
	manifest_free(&m);
	object_store_close(x.place.store);
	step_and_note(&w);
	archiver_of(&w)->dirty = true;
	FAILS(-ESTALE, archive_step(&w, true, &more));
	FAILS(-ESTALE, archive_step(&w, true, &more));
	assert_in_range(simobject_count(w.so), objects, objects + 1); /* the segment before it was known */
	archived_close(&w);
}

/* ---- time passes ---- */

static uint64_t count_objects(struct archived *w, const char *part)
{
	struct simobject_entry e;
	uint64_t n = 0;

	for (uint64_t i = 0; simobject_entry(w->so, i, &e); i++)
		n += is_of_archive(e.key, part);
	return n;
}

/* Half a day in steps, as the clock of ageing believes them. */
static void half_a_day(struct archived *w)
{
	for (unsigned i = 0; i < 4; i++) {
		w->run.clock->now_ns += DAY_NS / 8;
		step_and_note(w);
		OK(archive_all(w));
	}
}

static void what_is_too_old_goes_and_nothing_else(void **state)
{
	struct archived w;

	(void)state;
	archived_open(&w, seed, SIM_TREE, "");
	OK(fs_archive_set(w.run.fs, &admin, "store=" STORE " interval=5s base=1d keep=2d"));
	for (unsigned i = 0; i < 16; i++)
		half_a_day(&w);
	const struct archive_manifest *m = &archiver_of(&w)->m;
	assert_in_range(m->n_bases, 3, 5);
	assert_int_equal(count_objects(&w, "/b/"), m->n_bases); /* of one part each */
	const int64_t now = w.run.clock->now_ns;
	assert_true(m->base[0].ready_ns <= now - 2 * DAY_NS && m->base[1].ready_ns > now - 2 * DAY_NS);
	/* Every state of the last two days is there; every segment that is there is used. */
	for (size_t i = 0; i < w.n_states; i++) {
		const struct restore_target t = at_seq(w.state[i].seq);

		if (w.state[i].ns >= now - 2 * DAY_NS)
			expect(&w, &t, &w.state[i]);
	}
	unsigned n = 0;
	for (struct archive_at at = m->stream[0].first; at.seq < m->stream[0].known.seq; n++) {
		struct restored x = {0};
		struct archive_info info;
		const struct archive_id id = {ARCHIVE_SEGMENT, m->stream[0].epoch, at.seq, at.part};

		place_of(&w, &x);
		OK(archive_fetch_header(&x.place, &id, &info));
		object_store_close(x.place.store);
		at = (struct archive_at){info.next_seq, info.next_part};
	}
	assert_int_equal(count_objects(&w, "/s/"), n);
	archived_close(&w);
}

/* Removal that is cut off at each call is done by the next mount, with nothing left over. */
static void removal_that_is_cut_off_is_finished(void **state)
{
	(void)state;
	for (uint64_t at = 1; at < 24; at++) {
		struct archived w;

		archived_open(&w, seed, SIM_TREE, "");
		OK(fs_archive_set(w.run.fs, &admin, "store=" STORE " interval=5s base=1d"));
		for (unsigned i = 0; i < 6; i++)
			half_a_day(&w);
		OK(fs_archive_set(w.run.fs, &admin, "store=" STORE " interval=5s base=1d keep=1d"));
		simobject_fault(w.so, OBJECT_REMOVE, simobject_calls(w.so, OBJECT_REMOVE) + at, UINT64_MAX,
				at % 2 ? SIMOBJECT_FAIL : SIMOBJECT_AFTER, -ECONNRESET);
		wait_long(&w);
		int r = archive_all(&w);
		(void)r;
		simobject_clear(w.so);
		restart(&w, true);
		note_state(&w);
		for (unsigned tries = 0; archive_all(&w) < 0; tries++) {
			assert_true(tries < 5);
			wait_long(&w);
		}
		const struct archive_manifest *m = &archiver_of(&w)->m;
		assert_int_equal(count_objects(&w, "/b/"), m->n_bases);
		for (size_t i = 0; i < m->n_streams; i++)
			assert_true(m->stream[i].removing.seq == 0 && !m->stream[i].going);
		expect(&w, &latest, newest(&w));
		archived_close(&w);
	}
}

int main(void)
{
	const char *text = getenv("SEED");
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_object_that_is_missing_is_named),
	    cmocka_unit_test(each_damaged_byte_is_found),
	    cmocka_unit_test(objects_in_the_wrong_place_are_refused),
	    cmocka_unit_test(another_volumes_archive_and_key_are_refused),
	    cmocka_unit_test(each_call_of_the_store_may_fail),
	    cmocka_unit_test(a_store_that_is_away_for_a_while_is_caught_up_with),
	    cmocka_unit_test(a_gap_is_told_recorded_and_closed_by_a_base),
	    cmocka_unit_test(a_kill_at_each_step_of_the_store_loses_nothing),
	    cmocka_unit_test(a_later_epoch_begins_a_stream_of_its_own),
	    cmocka_unit_test(an_archive_of_a_later_epoch_is_left_alone),
	    cmocka_unit_test(what_is_too_old_goes_and_nothing_else),
	    cmocka_unit_test(removal_that_is_cut_off_is_finished),
	};

	seed = text ? strtoull(text, NULL, 0) : 1;
	fprintf(stderr, "SEED=%llu\n", (unsigned long long)seed);
	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
