/*
 * sums.h: MD5 of the bodies that are on their way to one store, taken together where that makes nobody wait.
 *
 * Several sums at once cost little more than one (md5.h), so a body that comes while others are being sent waits for company:
 * until MD5_LANES are there, until nothing is on its way any more, and for SUMS_WAIT_NS at most.  The store, which is what a
 * stream of packs waits for, stays busy meanwhile.  A body that is alone, or small, never waits.
 *
 * Ownership: bodies are borrowed for the call.  Threads: any.  Errors: none.
 */
#pragma once

#include "base/clock.h"
#include "base/lock.h"
#include "tier/s3/md5.h"

#define SUMS_WAIT_NS   (NSEC_PER_SEC / 10)
#define SUMS_MIN_BYTES (4 * MIB) /* of a body that waits */

struct sums_job;
struct sums {
	const struct clock *clock; /* borrowed */
	struct mutex lock;
	struct cond changed;
	/* guarded by lock */
	struct sums_job *first, **last; /* that wait, in the order they came */
	unsigned n_waiting;
	unsigned n_busy; /* large bodies that are summed up or sent */
};
void sums_init(struct sums *s, const struct clock *clock);
void sums_destroy(struct sums *s);

/* The sum of a body that is going to be sent from now on, until sums_end() is called for the same one. */
void sums_begin(struct sums *s, const struct iovec *iov, int n_iov, uint8_t ret[MD5_BYTES]);
void sums_end(struct sums *s, const struct iovec *iov, int n_iov);
