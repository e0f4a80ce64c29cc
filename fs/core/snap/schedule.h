/*
 * schedule.h: which snapshots a volume takes by itself and which of them it keeps, told as text: "24h7d4w".
 *
 * Such a text is a list of counts, each with a unit: the newest snapshot of each of the last 24 hours that have one, of each of the
 * last 7 days that have one, of each of the last 4 weeks that have one.  A new one is due as soon as the present stretch of the
 * smallest unit has none.  Stretches are those of UTC: whole quarters of an hour, hours and days, weeks from Monday on, months, years.
 *
 * It counts snapshots and never looks at how old one is: a clock that jumps ahead by ten years, or a volume that was not mounted
 * for as long, costs none (guarantee G13).  Times after "now" count like all others.
 *
 * Threads: any; nothing here has a state.  The idea of counting stretches that have one is that of `restic forget --keep-hourly`.
 */
#pragma once

#include "base/util.h"

enum snap_unit { SNAP_QUARTER, SNAP_HOUR, SNAP_DAY, SNAP_WEEK, SNAP_MONTH, SNAP_YEAR, SNAP_UNITS };
#define SNAP_KEEP_MAX 1000u /* of a unit */

struct snap_schedule {
	uint32_t keep[SNAP_UNITS]; /* 0: this unit is not asked for; all 0: no schedule */
};

/*
 * "24h7d4w", in any order; units q (quarters of an hour), h, d, w, m, y; "none": no schedule.
 * -EINVAL for anything else: an unknown or doubled unit, a count of 0 or above SNAP_KEEP_MAX.
 */
MUST_CHECK int snap_schedule_parse(const char *text, struct snap_schedule *ret);
/* The same as text, from the smallest unit on; "none" for none.  At most SNAP_SCHEDULE_MAX bytes with the closing one. */
#define SNAP_SCHEDULE_MAX (SNAP_UNITS * 5u + 1)
void snap_schedule_format(const struct snap_schedule *s, char ret[SNAP_SCHEDULE_MAX]);

/* Is one due at `now_ns` (UTC, since 1970)?  times_ns[0 .. n): when those that the schedule took were taken, in any order. */
bool snap_schedule_due(const struct snap_schedule *s, const int64_t *times_ns, size_t n, int64_t now_ns);

/* ret_keep[i]: whether the schedule keeps the one of times_ns[i].  times_ns is ascending.  Without a schedule all are kept. */
void snap_schedule_select(const struct snap_schedule *s, const int64_t *times_ns, size_t n, bool *ret_keep);
