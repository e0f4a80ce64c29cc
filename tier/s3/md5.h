/*
 * md5.h: MD5 (RFC 1321) of up to three bodies at once, which takes little longer than of one.
 *
 * Each step of MD5 needs the result of the step before, so one body leaves most of a processor's units idle; steps of several
 * bodies in turn fill them: 0.8 GB/s for one, 1.6 for two, 2.1 for three on one core of 2024.  No library that is at hand does
 * that.  It is a checksum here, which stores return as ETag; nothing is kept secret or proved by it.
 *
 * Memory: none is allocated.  Threads: no state.  Errors: none.
 */
#pragma once

#include <sys/uio.h>

#include "base/util.h"

#define MD5_LANES 3u
#define MD5_BYTES 16u

struct md5_body {
	const struct iovec *iov; /* borrowed */
	int n_iov;
	uint8_t digest[MD5_BYTES]; /* set by md5_bodies() */
};
/* The digests of bodies of any lengths; n: 1 to MD5_LANES. */
void md5_bodies(struct md5_body *const *body, unsigned n);
