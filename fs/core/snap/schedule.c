/* schedule.c: a stretch of time is a number, the same for all times in it; the rest is comparing numbers. */
#include "fs/core/snap/schedule.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

#define DAY_S 86400

static const char letters[SNAP_UNITS + 1] = "qhdwmy";

static bool read_count(const char **text, uint32_t *ret)
{
	uint32_t n = 0;

	for (; **text >= '0' && **text <= '9' && n <= SNAP_KEEP_MAX; (*text)++)
		n = n * 10 + (uint32_t)(**text - '0');
	*ret = n;
	return n > 0 && n <= SNAP_KEEP_MAX;
}

int snap_schedule_parse(const char *text, struct snap_schedule *ret)
{
	struct snap_schedule s = {0};

	if (strcmp(text, "none") == 0) {
		*ret = s;
		return 0;
	}
	do {
		uint32_t n;
		const char *unit;

		if (!read_count(&text, &n) || !*text || !(unit = strchr(letters, *text)) || s.keep[unit - letters])
			return -EINVAL;
		s.keep[unit - letters] = n;
		text++;
	} while (*text);
	*ret = s;
	return 0;
}

void snap_schedule_format(const struct snap_schedule *s, char ret[SNAP_SCHEDULE_MAX])
{
	size_t at = 0;

	for (unsigned u = 0; u < SNAP_UNITS; u++)
		if (s->keep[u])
			at += (size_t)snprintf(ret + at, SNAP_SCHEDULE_MAX - at, "%u%c", s->keep[u], letters[u]);
	if (at == 0)
		strcpy(ret, "none");
}

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

static int64_t stretch_of(enum snap_unit unit, int64_t ns)
{
	int64_t s = floor_div(ns, NSEC_PER_SEC);
	time_t t = s;
	struct tm tm;

	switch (unit) {
	case SNAP_QUARTER:
		return floor_div(s, 15 * 60);
	case SNAP_HOUR:
		return floor_div(s, 60 * 60);
	case SNAP_DAY:
		return floor_div(s, DAY_S);
	case SNAP_WEEK:
		return floor_div(floor_div(s, DAY_S) + 3, 7); /* 1970 began with a Thursday */
	default:
		gmtime_r(&t, &tm);
		return unit == SNAP_MONTH ? tm.tm_year * INT64_C(12) + tm.tm_mon : tm.tm_year;
	}
}

static enum snap_unit smallest_unit(const struct snap_schedule *s)
{
	unsigned u = 0;

	while (u < SNAP_UNITS && !s->keep[u])
		u++;
	return (enum snap_unit)u;
}

bool snap_schedule_due(const struct snap_schedule *s, const int64_t *times_ns, size_t n, int64_t now_ns)
{
	enum snap_unit unit = smallest_unit(s);

	if (unit == SNAP_UNITS)
		return false;
	for (size_t i = 0; i < n; i++)
		if (stretch_of(unit, times_ns[i]) == stretch_of(unit, now_ns))
			return false;
	return true;
}

/* Of the last `keep` stretches that have one, the newest one of each. */
static void select_unit(enum snap_unit unit, uint32_t keep, const int64_t *times_ns, size_t n, bool *ret_keep)
{
	int64_t last = 0;
	uint32_t taken = 0;

	for (size_t i = n; i-- > 0 && taken < keep;) {
		int64_t stretch = stretch_of(unit, times_ns[i]);

		if (taken > 0 && stretch == last)
			continue;
		ret_keep[i] = true;
		last = stretch;
		taken++;
	}
}

void snap_schedule_select(const struct snap_schedule *s, const int64_t *times_ns, size_t n, bool *ret_keep)
{
	bool none = smallest_unit(s) == SNAP_UNITS;

	for (size_t i = 0; i < n; i++)
		ret_keep[i] = none;
	for (unsigned u = 0; u < SNAP_UNITS; u++)
		select_unit((enum snap_unit)u, s->keep[u], times_ns, n, ret_keep);
}
