/*
 * test_audit_keep.c: what goes from an audit log for its age or size, and what can be said of the rest.
 *
 * Years pass by a clock of the test's.  Crashes are enumerated over the simulated store.  SEED=N makes the choices of that seed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/core/audit/log.h"
#include "tests/lib/rng.h"
#include "tests/lib/simstore.h"

#define SEGMENT   (4 * DISK_BLOCK)
#define FILES_MAX 128u
#define HOUR      (3600 * NSEC_PER_SEC)
#define DAY       (24 * HOUR)

static int64_t real_ns, mono_ns;

static int64_t real_now(const struct clock *c)
{
	(void)c;
	return real_ns;
}
static int64_t mono_now(const struct clock *c)
{
	(void)c;
	return mono_ns;
}
static const struct clock stepped = {real_now, mono_now};

static void pass(int64_t ns)
{
	real_ns += ns;
	mono_ns += ns;
}

static uint64_t seed(void)
{
	const char *env = getenv("SEED");

	return env ? strtoull(env, NULL, 10) : 1;
}

/* ---- a log ---- */

struct world {
	struct simstore *sim;
	struct store *store;
	struct audit_log *log;
	uint32_t keep;
	int64_t keep_ns;
};

static void open_log(struct world *w)
{
	struct audit_log_config c = {.clock = &stepped, .segment_bytes = SEGMENT, .keep = w->keep, .keep_ns = w->keep_ns};
	struct audit_log_found found;

	w->store = simstore_open(w->sim);
	c.store = w->store;
	assert_int_equal(audit_log_open(&c, NULL, NULL, &found, &w->log), 0);
}

static void close_log(struct world *w, bool killed)
{
	w->log = killed ? audit_log_abandon(w->log) : audit_log_close(w->log);
	store_close(w->store);
}

static struct world begin(uint32_t keep, int64_t keep_ns)
{
	struct world w = {.sim = simstore_new(), .keep = keep, .keep_ns = keep_ns};

	real_ns = INT64_C(1800000000) * NSEC_PER_SEC;
	mono_ns = HOUR;
	open_log(&w);
	return w;
}

static void end(struct world *w)
{
	close_log(w, false);
	simstore_free(w->sim);
}

/* An entry that says when it was made. */
static void add(struct world *w)
{
	char text[512];

	snprintf(text, sizeof(text), "\"kind\":\"act\",\"made\":%lld,\"pad\":\"%0*d\"", (long long)real_ns, 200, 0);
	assert_int_equal(audit_log_append(w->log, &(struct slice){text, strlen(text)}, 1, NULL), 0);
}

/* ---- what there is ---- */

struct found {
	struct audit_report report;
	int64_t oldest_ns;
	size_t acts, drops, by_age;
	uint32_t segments;
};

static int read_sim(void *ctx, const char *name, struct buf *out)
{
	struct simstore_file file[FILES_MAX];
	size_t n = simstore_files(ctx, file, FILES_MAX);

	for (size_t i = 0; i < n; i++)
		if (strcmp(file[i].name, name) == 0) {
			simstore_peek(ctx, name, buf_grow(out, file[i].size), file[i].size, 0);
			return 0;
		}
	return -ENOENT;
}

static int see(void *ctx, const struct audit_line *line, const json_t *body)
{
	const json_t *made = json_object_get(body, "made"), *why = json_object_get(body, "why");
	struct found *f = ctx;

	(void)line;
	f->drops += why != NULL;
	f->by_age += why && strcmp(json_string_value(why), "age") == 0;
	if (made && f->acts++ == 0)
		f->oldest_ns = json_integer_value(made);
	return 0;
}

static struct found look(struct simstore *sim, const struct audit_chain *expected)
{
	struct audit_source s = {.read = read_sim, .ctx = sim, .first = UINT32_MAX};
	struct simstore_file file[FILES_MAX];
	size_t n = simstore_files(sim, file, FILES_MAX);
	struct found f = {0};
	unsigned k;

	for (size_t i = 0; i < n; i++)
		if (sscanf(file[i].name, "audit/seg.%08u", &k) == 1) {
			s.any = true;
			s.first = k < s.first ? k : s.first;
			s.last = k > s.last ? k : s.last;
			f.segments++;
		}
	assert_int_equal(audit_verify(&s, expected, see, &f, &f.report), 0);
	return f;
}

static struct found look_whole(struct simstore *sim)
{
	struct found f = look(sim, NULL);

	if (f.report.damaged)
		fail_msg("%s", f.report.what);
	return f;
}

static struct audit_chain head_of(const struct world *w)
{
	struct audit_chain at;

	audit_log_head(w->log, &at);
	return at;
}

/* ---- age ---- */

/* Entries stay as long as was asked for, and not much longer; with many and few segments allowed, restarted now and then. */
static void entries_stay_for_their_time_and_a_part_of_it(void **state)
{
	static const uint32_t keeps[] = {2, 3, 17, 64};
	struct rng rng = {.state = seed()};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(keeps); i++) {
		struct world w = begin(keeps[i], 90 * DAY);
		int64_t part = w.keep_ns / (int64_t)(keeps[i] - 1 < 16 ? keeps[i] - 1 : 16), began = real_ns;
		size_t by_age = 0;

		for (unsigned hour = 0; hour < 400 * 24; hour++) {
			if (hour % 240 == 0) /* so few that size takes none */
				add(&w);
			pass(HOUR);
			assert_int_equal(audit_log_expire(w.log), 0);
			if (rng_percent(&rng, 1)) {
				close_log(&w, rng_percent(&rng, 50));
				open_log(&w);
			}
			if (hour % 240)
				continue;
			struct found f = look_whole(w.sim);
			int64_t age = real_ns - f.oldest_ns;
			if (f.acts && age > w.keep_ns + 2 * part + 15 * DAY)
				fail_msg("keep %u: the oldest entry is %lld days old", keeps[i], (long long)(age / DAY));
			if (real_ns - began > w.keep_ns + 15 * DAY && age < w.keep_ns - 11 * DAY)
				fail_msg("keep %u: the oldest entry is only %lld days old", keeps[i], (long long)(age / DAY));
			by_age += f.by_age;
			assert_true(f.segments <= keeps[i]);
		}
		assert_true(by_age > 0);
		end(&w);
	}
}

/* Size counts all the same, whatever the age. */
static void size_takes_what_is_too_much(void **state)
{
	struct world w = begin(4, 90 * DAY);

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		add(&w);
		pass(NSEC_PER_SEC);
		assert_int_equal(audit_log_expire(w.log), 0);
	}
	struct found f = look_whole(w.sim);
	assert_int_equal(f.segments, 4);
	assert_true(f.drops > 0);
	assert_int_equal(f.by_age, 0);
	end(&w);
}

static void without_an_age_nothing_goes_for_it(void **state)
{
	struct world w = begin(64, 0);

	(void)state;
	add(&w);
	for (unsigned i = 0; i < 100; i++) {
		pass(365 * DAY);
		assert_int_equal(audit_log_expire(w.log), 0);
	}
	struct found f = look_whole(w.sim);
	assert_int_equal(f.acts, 1);
	assert_int_equal(f.segments, 1);
	end(&w);
}

/* A clock that was wrong for less than an hour costs nothing; one that stays wrong, a segment an hour. */
static void a_clock_that_jumps_takes_little(void **state)
{
	struct world w = begin(64, 90 * DAY);

	(void)state;
	for (unsigned day = 0; day < 80; day++) {
		add(&w);
		pass(DAY);
		assert_int_equal(audit_log_expire(w.log), 0);
	}
	struct found before = look_whole(w.sim);
	assert_true(before.segments > 10);
	for (int years = -10; years <= 10; years += 20) {
		real_ns += years * 365 * DAY;
		for (unsigned minute = 0; minute < 59; minute++) {
			pass(60 * NSEC_PER_SEC);
			assert_int_equal(audit_log_expire(w.log), 0);
		}
		close_log(&w, false); /* nor does a restart */
		open_log(&w);
		assert_int_equal(audit_log_expire(w.log), 0);
		real_ns -= years * 365 * DAY;
		assert_int_equal(look_whole(w.sim).acts, before.acts);
	}
	real_ns += 10 * 365 * DAY;
	for (unsigned hour = 0; hour < 5; hour++) {
		pass(HOUR);
		assert_int_equal(audit_log_expire(w.log), 0);
	}
	struct found after = look_whole(w.sim);
	assert_true(after.by_age >= 1 && after.by_age <= 5);
	real_ns -= 10 * 365 * DAY; /* entries from the future are not old */
	for (unsigned hour = 0; hour < 48; hour++) {
		pass(HOUR);
		assert_int_equal(audit_log_expire(w.log), 0);
	}
	assert_true(look_whole(w.sim).by_age <= 5);
	end(&w);
}

/* Cut off anywhere in an hour that drops a segment: nothing is missing but what the log says has gone. */
static void a_crash_while_old_entries_go_is_no_damage(void **state)
{
	struct rng rng = {.state = seed()};
	struct world w = begin(64, 20 * DAY);
	struct found f = {0};

	(void)state;
	for (unsigned hour = 0; f.by_age == 0; hour++) {
		if (hour % 24 == 0)
			add(&w);
		pass(HOUR);
		uint64_t from = simstore_count(w.sim);
		assert_int_equal(audit_log_expire(w.log), 0);
		f = look_whole(w.sim);
		if (simstore_count(w.sim) == from)
			continue;
		struct simcut *cut = simcut_new(w.sim);
		for (uint64_t at = from; at <= simstore_count(w.sim); at++) {
			simcut_advance(cut, at);
			for (unsigned v = 0; v < SIMCUT_VARIANTS; v++) {
				struct world image = {.sim = simcut_image(cut, v, &rng, false), .keep = 64, .keep_ns = 20 * DAY};

				look_whole(image.sim);
				open_log(&image);
				add(&image);
				look_whole(image.sim);
				end(&image);
			}
		}
		simcut_free(cut);
	}
	end(&w);
}

/* The n-th write of an hour fails: the log goes on, and is whole. */
static void a_write_that_fails_loses_nothing(void **state)
{
	(void)state;
	for (unsigned n = 1; n <= 12; n++) {
		struct world w = begin(64, 20 * DAY);
		size_t acts = 0;

		for (unsigned hour = 0; hour < 24 * 30; hour++) {
			if (hour % 24 == 0) {
				add(&w);
				acts++;
			}
			pass(HOUR);
			simstore_fail(w.sim, simstore_count(w.sim) + n, 1, -EIO);
			int r = audit_log_expire(w.log);
			assert_true(r == 0 || r == -EIO);
			simstore_fail(w.sim, 0, 0, 0);
		}
		add(&w);
		struct found f = look_whole(w.sim);
		assert_true(f.acts >= 20 && f.acts <= acts + 1);
		end(&w);
	}
}

/* ---- heads that were kept ---- */

/* Each head ever told, in a log that lost its oldest part: it is in the log, or gone for its age, and said so. */
static void a_head_that_was_kept_is_found_or_known_to_be_gone(void **state)
{
	static struct audit_chain head[300];
	struct world w = begin(64, 30 * DAY);
	size_t n = 0, gone = 0, kept = 0;

	(void)state;
	for (unsigned day = 0; day < 120; day++) {
		add(&w);
		head[n++] = head_of(&w);
		for (unsigned hour = 0; hour < 24; hour++) {
			pass(HOUR);
			assert_int_equal(audit_log_expire(w.log), 0);
		}
		head[n++] = head_of(&w); /* a drop, perhaps */
	}
	uint64_t first = look_whole(w.sim).report.first;
	for (size_t i = 0; i < n; i++) {
		const struct audit_chain bare = {.n = 0, .hash = {head[i].hash[0]}};
		struct found f = look(w.sim, &head[i]);

		assert_false(f.report.damaged);
		assert_true(f.report.kept_found != f.report.kept_gone);
		if (head[i].n >= first)
			assert_true(f.report.kept_found);
		kept += f.report.kept_found;
		gone += f.report.kept_gone;
		struct audit_chain changed = head[i];
		changed.hash[7] ^= 1;
		f = look(w.sim, &changed);
		assert_true(changed.n >= first - 1 ? f.report.damaged : f.report.kept_gone);
		changed = head[i];
		changed.n = 0; /* by its hash alone: nobody can tell whether it was ever there */
		assert_int_equal(look(w.sim, &changed).report.damaged, !look(w.sim, &head[i]).report.kept_found);
		assert_true(look(w.sim, &bare).report.damaged);
	}
	assert_true(gone > 50 && kept > 50);
	end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(entries_stay_for_their_time_and_a_part_of_it),
	    cmocka_unit_test(size_takes_what_is_too_much),
	    cmocka_unit_test(without_an_age_nothing_goes_for_it),
	    cmocka_unit_test(a_clock_that_jumps_takes_little),
	    cmocka_unit_test(a_crash_while_old_entries_go_is_no_damage),
	    cmocka_unit_test(a_write_that_fails_loses_nothing),
	    cmocka_unit_test(a_head_that_was_kept_is_found_or_known_to_be_gone),
	};

	print_message("seed %llu\n", (unsigned long long)seed());
	return cmocka_run_group_tests(tests, NULL, NULL);
}
