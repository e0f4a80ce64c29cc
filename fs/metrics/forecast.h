/*
 * forecast.h: where things are going, by simple statistics over samples.  Pure arithmetic: no clock, no locks.
 *
 * An exponentially weighted average with time constant T gives a sample that comes dt after the one before the weight
 * a = 1 - exp(-dt / T); the first samples count as much as each other: a is at least 1 / (number of samples).
 *
 *     slope of x     s <- s + a (dx / dt - s)
 *     time to full   free / s, while s > 0
 *     catching up    lag / -s, while s < 0
 *     latency        x is the mean of the operations of an interval; with d = x - m:
 *                    z = d / max(sd, m / 20); m <- m + a d;  v <- (1 - a) (v + a d^2);  sd = sqrt(v)
 *                    (Finch, "Incremental calculation of weighted mean and variance", 2009)
 *                    d is held to 4 sd first, so that what is not normal does not become normal at once.
 *     anomaly        z > 4 and x > 1.5 m, after at least 30 intervals
 */
#pragma once

#include "base/util.h"

#define FORECAST_SPACE_S   600.0  /* T of the slope of space used */
#define FORECAST_LAG_S     60.0   /* of a follower's lag */
#define FORECAST_LATENCY_S 3600.0 /* of a latency */
#define FORECAST_WARM      30u    /* intervals before an anomaly is told */
#define FORECAST_FEW       10u    /* operations: an interval with fewer says nothing */

struct slope {
	double value, per_second;
	uint64_t n; /* samples */
};
/* `x` is now, `dt` seconds after the call before; dt <= 0 counts nothing. */
void slope_add(struct slope *s, double x, double dt, double constant);
/* Seconds until `distance` is covered at that slope; negative: never. */
double slope_seconds(const struct slope *s, double distance);

struct normal {
	double mean, variance, z;
	uint64_t n;
	bool anomaly;
};
/* One interval of `dt` seconds: `count` operations that took `sum` in all. */
void normal_add(struct normal *w, double sum, uint64_t count, double dt, double constant);
