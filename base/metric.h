/*
 * metric.h: counters and histograms that cost a few nanoseconds to move, for what a process measures of itself.
 *
 * Counters and histograms are kept in shards, one of which a thread moves with relaxed atomics; a reader adds them up.  So a
 * reading is no moment in time: a histogram's sum may miss what its buckets have, and the other way round.
 *
 * Buckets are log-linear: each power of two is parted in four, so a bucket's bounds are at most a quarter apart, and powers of two are
 * bounds.  A value is in the first bucket whose bound is not below it, as Prometheus wants them ("le").
 *
 * Ownership: the process has one of each in metric_counters[] and metric_histograms[]; others belong to who has them.  What they are
 * called and mean is in fs/metrics/table.c.
 * Threads: any.  Errors: none; values beyond the last bound are in the last bucket.
 */
#pragma once

#include <stdatomic.h>
#include <time.h>

#include "base/util.h"

#define METRIC_SHARDS     4u
#define HISTOGRAM_PARTS   4u  /* of each power of two */
#define HISTOGRAM_POWERS  40u /* 2^40 ns are 18 minutes, 2^40 bytes a TiB */
#define HISTOGRAM_BUCKETS (HISTOGRAM_POWERS * HISTOGRAM_PARTS)

struct counter {
	struct {
		_Alignas(64) _Atomic uint64_t n;
	} shard[METRIC_SHARDS];
};
struct histogram {
	struct {
		_Alignas(64) _Atomic uint64_t sum;
		_Atomic uint64_t count[HISTOGRAM_BUCKETS];
	} shard[METRIC_SHARDS];
};
/* What a histogram had when it was read. */
struct histogram_view {
	uint64_t n, sum;
	uint64_t count[HISTOGRAM_BUCKETS];
};

enum metric_counter {
	COUNTER_ICACHE_HITS,
	COUNTER_ICACHE_MISSES,
	COUNTER_LCACHE_HITS,
	COUNTER_LCACHE_MISSES,
	COUNTER_N
};
enum metric_histogram {
	HISTOGRAM_COMMIT,       /* ns: a batch from seal to durable */
	HISTOGRAM_COMMIT_FLUSH, /* ns: of that, the arena's data */
	HISTOGRAM_BATCH_BYTES,
	HISTOGRAM_BATCH_RECORDS,
	HISTOGRAM_CHECKPOINT, /* ns */
	HISTOGRAM_GATE,       /* ns: of that, while no operation ran */
	HISTOGRAM_HOME,       /* ns: a step of the homer */
	HISTOGRAM_ACK,        /* ns: from durable here to acked by as many followers as an fsync wants */
	/* ns: stages of a WRITE, in order (base/trace.h) */
	HISTOGRAM_WRITE_ADMIT,
	HISTOGRAM_WRITE_PLACE,
	HISTOGRAM_WRITE_LOCK,
	HISTOGRAM_WRITE_PREPARE,
	HISTOGRAM_WRITE_LOG,
	HISTOGRAM_WRITE_APPLY,
	HISTOGRAM_WRITE_REPLY,
	HISTOGRAM_N
};
extern struct counter metric_counters[COUNTER_N];
extern struct histogram metric_histograms[HISTOGRAM_N];

unsigned metric_shard(void); /* of this thread */

static inline void counter_add(struct counter *c, uint64_t n)
{
	atomic_fetch_add_explicit(&c->shard[metric_shard()].n, n, memory_order_relaxed);
}
static inline void metric_count(enum metric_counter which)
{
	counter_add(&metric_counters[which], 1);
}
uint64_t counter_read(const struct counter *c);

void histogram_record(struct histogram *h, uint64_t value);
static inline void metric_record(enum metric_histogram which, int64_t value)
{
	histogram_record(&metric_histograms[which], value > 0 ? (uint64_t)value : 0);
}
void histogram_read(const struct histogram *h, struct histogram_view *ret);
/* Highest value of bucket i, UINT64_MAX for the last one. */
uint64_t histogram_bound(unsigned i);
unsigned histogram_bucket(uint64_t value);
/* The value below which share `q` (0 to 1) of all are, as if each bucket's were spread evenly; 0 when there are none. */
double histogram_quantile(const struct histogram_view *v, double q);

/* Of what is measured here: the clock that costs least. */
static inline int64_t metric_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}
