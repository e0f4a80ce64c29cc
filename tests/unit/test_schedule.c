/*
 * test_schedule.c: the schedule of snapshots (schedule.c), against a slow reading of its definition: over random times, and over
 * years of a volume that takes one whenever one is due.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "fs/core/snap/schedule.h"
#include "tests/lib/rng.h"

#define DAY_NS (86400 * NSEC_PER_SEC)

static struct snap_schedule parsed(const char *text)
{
	struct snap_schedule s;

	assert_int_equal(snap_schedule_parse(text, &s), 0);
	return s;
}

static void what_is_said_is_understood(void **state)
{
	static const struct {
		const char *text, *again;
	} cases[] = {
	    {"24h7d4w", "24h7d4w"}, {"4w7d24h", "24h7d4w"},
	    {"1q", "1q"},           {"1000q1000h1000d1000w1000m1000y", "1000q1000h1000d1000w1000m1000y"},
	    {"none", "none"},       {"0007d", "7d"},
	};
	char text[SNAP_SCHEDULE_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct snap_schedule s = parsed(cases[i].text);

		snap_schedule_format(&s, text);
		assert_string_equal(text, cases[i].again);
	}
}

static void nonsense_is_refused_and_changes_nothing(void **state)
{
	static const char *const nonsense[] = {
	    "",    " ",  "24",     "h",       "24h ", "24h 7d", "0h",     "1001h", "99999999999999999999h", "-1h", "1.5h",
	    "24H", "1s", "24h24h", "24h7d1h", "None", "none1h", "1hnone", "24h\n"};
	struct snap_schedule s = parsed("5d");

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(nonsense); i++) {
		assert_int_equal(snap_schedule_parse(nonsense[i], &s), -EINVAL);
		assert_int_equal(s.keep[SNAP_DAY], 5);
	}
}

/* The name of the stretch that a time is in, as strftime(3) tells it. */
static void name_stretch(enum snap_unit unit, int64_t ns, char ret[40])
{
	static const char *const formats[] = {"%F %H", "%F %H", "%F", "%G-%V", "%Y-%m", "%Y"};
	time_t t = (time_t)(ns / NSEC_PER_SEC);
	struct tm tm;

	gmtime_r(&t, &tm);
	size_t n = strftime(ret, 32, formats[unit], &tm);
	if (unit == SNAP_QUARTER)
		ret[n++] = (char)('0' + tm.tm_min / 15);
	ret[n] = '\0';
}

/* times[i] is kept for `unit` when it is the newest of its stretch, and less than `keep` stretches behind it have one. */
static bool is_kept_for(enum snap_unit unit, uint32_t keep, const int64_t *times, size_t n, size_t i)
{
	char mine[40], last[40] = "", other[40];
	uint32_t newer = 0;

	name_stretch(unit, times[i], mine);
	for (size_t k = i + 1; k < n; k++) {
		name_stretch(unit, times[k], other);
		if (strcmp(other, mine) == 0)
			return false;
		newer += strcmp(other, last) != 0;
		strcpy(last, other);
	}
	return newer < keep;
}

static void check_selection(const struct snap_schedule *s, const int64_t *times, size_t n)
{
	bool keep[512];

	assert_true(n <= ARRAY_SIZE(keep));
	snap_schedule_select(s, times, n, keep);
	for (size_t i = 0; i < n; i++) {
		bool want = false;

		for (unsigned u = 0; u < SNAP_UNITS; u++)
			want = want || (s->keep[u] && is_kept_for((enum snap_unit)u, s->keep[u], times, n, i));
		assert_int_equal(keep[i], want);
	}
}

static int by_time(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static void random_times_are_selected_by_the_definition(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 300; seed++) {
		struct rng rng = rng_derive(seed, 0, 0);
		struct snap_schedule s = {0};
		int64_t times[120];

		for (unsigned u = 0; u < SNAP_UNITS; u++)
			s.keep[u] = rng_percent(&rng, 50) ? (uint32_t)rng_below(&rng, 6) : 0;
		s.keep[SNAP_HOUR] += 1;
		int64_t span = rng_percent(&rng, 50) ? 3 * DAY_NS : 3000 * DAY_NS;
		int64_t from = (int64_t)rng_between(&rng, 0, 20000) * DAY_NS;
		size_t n = rng_below(&rng, ARRAY_SIZE(times));
		for (size_t i = 0; i < n; i++)
			times[i] = from + (int64_t)rng_between(&rng, 0, (uint64_t)span);
		qsort(times, n, sizeof(times[0]), by_time);
		check_selection(&s, times, n);
	}
}

/* Takes one when it is due, and drops what is not kept, every `step_ns` from `now` on. */
static size_t live(const struct snap_schedule *s, int64_t *times, size_t n, int64_t now, int64_t step_ns, unsigned steps)
{
	bool keep[512];

	for (unsigned i = 0; i < steps; i++, now += step_ns) {
		if (snap_schedule_due(s, times, n, now))
			times[n++] = now;
		assert_false(snap_schedule_due(s, times, n, now));
		snap_schedule_select(s, times, n, keep);
		size_t left = 0;
		for (size_t k = 0; k < n; k++)
			if (keep[k])
				times[left++] = times[k];
		n = left;
	}
	return n;
}

static void two_years_of_24h7d4w12m(void **state)
{
	struct snap_schedule s = parsed("24h7d4w12m");
	const int64_t start = 19723 * DAY_NS; /* 2024-01-01 */
	int64_t times[512];

	(void)state;
	size_t n = live(&s, times, 0, start, 20 * 60 * NSEC_PER_SEC, 2 * 365 * 72);
	int64_t end = start + (2 * 365 * 72 - 1) * 20 * 60 * NSEC_PER_SEC;
	/* 24 hours; days before today and yesterday's rest; weeks and months that these do not have. */
	assert_in_range(n, 24 + 5 + 2 + 10, 24 + 7 + 4 + 12);
	check_selection(&s, times, n);
	assert_true(end - times[n - 1] < 3600 * NSEC_PER_SEC);
	assert_in_range((uint64_t)((end - times[0]) / DAY_NS), 11 * 28, 12 * 31);
}

static void a_clock_that_jumps_costs_nothing_but_its_turn(void **state)
{
	struct snap_schedule s = parsed("24h7d");
	const int64_t start = 19723 * DAY_NS, hour = 3600 * NSEC_PER_SEC;
	int64_t times[512], before[512];

	(void)state;
	size_t n = live(&s, times, 0, start, hour, 24 * 30);
	memcpy(before, times, n * sizeof(times[0]));
	/* Ten years ahead: one more snapshot, and at most the oldest hour and the oldest day go. */
	size_t after = live(&s, times, n, start + 3650 * DAY_NS, hour, 1);
	assert_true(after + 2 >= n);
	assert_true(times[after - 1] == start + 3650 * DAY_NS);
	assert_true(times[0] <= before[1]);
	/* And ten years back: nothing that was there goes for being in the future. */
	n = live(&s, times, after, start, hour, 0);
	assert_true(snap_schedule_due(&s, times, n, start - 3650 * DAY_NS));
}

static void without_a_schedule_nothing_is_taken_and_nothing_goes(void **state)
{
	struct snap_schedule s = parsed("none");
	const int64_t times[] = {1, 2, 3};
	bool keep[3] = {0};

	(void)state;
	assert_false(snap_schedule_due(&s, NULL, 0, 5));
	snap_schedule_select(&s, times, 3, keep);
	assert_true(keep[0] && keep[1] && keep[2]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_said_is_understood),
	    cmocka_unit_test(nonsense_is_refused_and_changes_nothing),
	    cmocka_unit_test(random_times_are_selected_by_the_definition),
	    cmocka_unit_test(two_years_of_24h7d4w12m),
	    cmocka_unit_test(a_clock_that_jumps_costs_nothing_but_its_turn),
	    cmocka_unit_test(without_a_schedule_nothing_is_taken_and_nothing_goes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
