/*
 * clock.h: time as a table of functions, so that tests own it.
 *
 * Order, durability and recovery never depend on real_ns (guarantee G13): it only stamps inodes and log lines.
 * Threads: any.  Errors: none.
 */
#pragma once

#include <stdint.h>

struct clock {
	int64_t (*real_ns)(const struct clock *c); /* since 1970, may jump */
	int64_t (*mono_ns)(const struct clock *c); /* never goes back; counts suspend (CLOCK_BOOTTIME) */
};

extern const struct clock clock_system;

static inline int64_t clock_real_ns(const struct clock *c) { return c->real_ns(c); }
static inline int64_t clock_mono_ns(const struct clock *c) { return c->mono_ns(c); }
