/*
 * bucket.h: a token bucket: so many a second on the average, and a little at once after a pause.
 *
 * Two ways to pay: beforehand (wait until all that is needed has gathered) and afterwards (go as soon as there is no debt, and
 * leave one).  Background calls pay beforehand, so a foreground call, which pays afterwards, never waits for a debt of theirs.
 * Threads: the caller's lock.  Errors: none.
 */
#pragma once

#include "base/util.h"

struct bucket {
	double rate;   /* tokens a second; 0: no limit, everything goes at once */
	double burst;  /* what gathers while nobody takes */
	double tokens; /* negative: debt */
	int64_t at_ns; /* when `tokens` was true */
};

void bucket_init(struct bucket *b, double rate, double burst, int64_t now_ns);
/* Lets time pass; gathers up to the burst, or up to `wanted` when somebody waits for that much. */
void bucket_fill(struct bucket *b, double wanted, int64_t now_ns);
/* Nanoseconds until there are `tokens`; 0: there are. */
int64_t bucket_wait_ns(const struct bucket *b, double tokens);
void bucket_take(struct bucket *b, double tokens);
