/*
 * top.h: who asks most, in bounded memory: processes and users by what they asked for in the last TOP_WINDOW_S seconds.
 *
 * A table of TOP_SETS sets with TOP_WAYS places each, one for a pair of pid and uid.  When a set is full, the newcomer takes the place of
 * the one with the fewest requests and inherits that number as its `over`, as in Metwally, Agrawal, El Abbadi, "Efficient computation of
 * frequent and top-k elements in data streams" (2005): a count is too high by `over` at most and never too low, so whoever asks for
 * more than 1/TOP_WAYS of what its set sees is in the table.
 *
 * Now: counts are those of the present window and of the one before; what is told is the present one plus that part of the one before that
 * is not older than a window.
 *
 * Threads: any.  Errors: none but of new.
 */
#pragma once

#include <jansson.h>

#include "base/util.h"

#define TOP_SETS     64u
#define TOP_WAYS     8u
#define TOP_WINDOW_S 10
#define TOP_OPS_MAX  32u

struct top_use {
	uint32_t uid, pid; /* 0 and 0: the kernel, writing what it holds dirty */
	unsigned op;       /* below TOP_OPS_MAX */
	uint64_t ns, read, written;
};
struct top;
MUST_CHECK int top_new(struct top **ret);
struct top *top_free(struct top *t);
void top_add(struct top *t, const struct top_use *u, int64_t now_ns);

/* Of one pair, a second. */
struct top_row {
	uint32_t uid, pid;
	double requests, busy, read, written; /* busy: seconds of requests under way, a second */
	double over;                          /* requests a second that may be somebody else's */
	double op[TOP_OPS_MAX];
};
/* The `max` that ask most, first the most; returns how many. */
unsigned top_read(struct top *t, int64_t now_ns, struct top_row *ret, unsigned max);
