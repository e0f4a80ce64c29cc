/*
 * probe.h: finds out what an object store can do, by doing it: `clawfs tier test`.
 *
 * Steps: put, head, read back, read a range, put on condition that there is none (twice: the second must lose), list, remove,
 * read what was removed.  One that fails for something clawfs does not need is said with what that means; one that clawfs needs
 * ends the test.  Objects are put under PROBE_PREFIX and removed again.
 *
 * Threads: any.  Errors: -errno of the step that makes the store unusable; each step has its own.
 */
#pragma once

#include "base/clock.h"
#include "tier/object.h"

#define PROBE_PREFIX    "clawfs-probe/"
#define PROBE_STEPS_MAX 12u

struct probe_step {
	const char *what; /* "put", "range read": a constant */
	bool ok, needed;  /* needed: clawfs cannot use a store without it */
	int error;        /* 0: well */
	int64_t microseconds;
	char message[OBJECT_MESSAGE_MAX]; /* what is missing and what that means; "" when there is nothing to say */
};
struct probe_report {
	unsigned n_steps;
	struct probe_step step[PROBE_STEPS_MAX];
	bool verifies;   /* the store confirms checksums of what it stores */
	bool conditions; /* it has conditional puts */
};
/* `deadline_ns` (monotonic, 0: none) is for all of it; `clock` takes the times. */
MUST_CHECK int probe_store(struct object_store *s, const struct clock *clock, int64_t deadline_ns, struct probe_report *ret);
