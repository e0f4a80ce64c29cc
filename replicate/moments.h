/*
 * moments.h: about when which batch became durable, in bounded memory: what a peer's lag in seconds is told from.
 *
 * Threads: the caller's lock.  Errors: none.
 */
#pragma once

#include <stdint.h>

#define MOMENTS_MAX 128u

/* When batches became durable, a sample of them, oldest first, denser the less there is to remember. */
struct moments {
	uint32_t n;
	int64_t gap_ns; /* least distance */
	struct {
		uint64_t seq;
		int64_t at_ns; /* mono */
	} at[MOMENTS_MAX];
};

void moments_init(struct moments *m);
/* Batch `seq` became durable; nobody asks any more about those before `needed`. */
void moments_add(struct moments *m, uint64_t seq, int64_t now_ns, uint64_t needed);
/* About when batch `seq` became durable, rather too early than too late. */
int64_t moments_of(const struct moments *m, uint64_t seq, int64_t now_ns);
