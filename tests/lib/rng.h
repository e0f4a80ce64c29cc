/*
 * rng.h: the tests' own random numbers (SplitMix64, Steele and others 2014): a seed gives the same run everywhere.
 * Threads: no state but the caller's.  Errors: none.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct rng {
	uint64_t state;
};

static inline uint64_t rng_u64(struct rng *r)
{
	uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* 0 .. n-1; n > 0. */
static inline uint64_t rng_below(struct rng *r, uint64_t n)
{
	return rng_u64(r) % n;
}
/* lo .. hi, both included. */
static inline uint64_t rng_between(struct rng *r, uint64_t lo, uint64_t hi)
{
	return lo + rng_below(r, hi - lo + 1);
}
static inline bool rng_percent(struct rng *r, unsigned percent)
{
	return rng_below(r, 100) < percent;
}
/* A generator for one purpose, independent of how much the others drew. */
static inline struct rng rng_derive(uint64_t seed, uint64_t a, uint64_t b)
{
	struct rng r = {.state = seed};

	r.state = rng_u64(&r) ^ a;
	r.state = rng_u64(&r) ^ b;
	return r;
}
