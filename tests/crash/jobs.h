/*
 * jobs.h: a sweep over seeds in several processes, so that one that crashes or does not end is a finding, and the others go on.
 *
 * Threads: none may be started before.  What jobs share is memory that the caller has mapped shared.
 */
#pragma once

#include <stdint.h>

#define JOBS_MAX 64u

struct jobs {
	void (*work)(void *ctx, unsigned job);
	void (*died)(void *ctx, unsigned job, const char *how); /* by a signal; "does not end" is that of alarm(2) */
	void *ctx;
};

/* Runs `n` of them (1: in this process) to their end. */
void jobs_run(const struct jobs *j, unsigned n);
