/*
 * pace.h: how fast bytes may go: each takes 1/rate of a second, and of the time that was not used so much is saved up (the generic
 * cell rate algorithm, ITU-T I.371, as one number).
 *
 * Who asks first and pays then goes once paid_ns is in the past; who pays beforehand waits until the time that pace_pay() tells.
 * Threads: the caller's lock.  Errors: none.
 */
#pragma once

#include "base/util.h"

/*
 * Pays for `bytes` at `rate` bytes a second, above 0: moves *paid_ns, until when all that went is paid for, and returns it.
 * saved_ns: how much unused time counts at most; 0: none.
 */
static inline int64_t pace_pay(int64_t *paid_ns, uint64_t rate, uint64_t bytes, int64_t saved_ns, int64_t now_ns)
{
	double cost_ns = (double)bytes / (double)rate * (double)NSEC_PER_SEC;

	if (*paid_ns < now_ns - saved_ns)
		*paid_ns = now_ns - saved_ns;
	*paid_ns += cost_ns < (double)INT64_MAX / 4 ? (int64_t)cost_ns : INT64_MAX / 4;
	return *paid_ns;
}
