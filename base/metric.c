/* metric.c: shards and buckets of metric.h */
#include "base/metric.h"

struct counter metric_counters[COUNTER_N];
struct histogram metric_histograms[HISTOGRAM_N];

unsigned metric_shard(void)
{
	static atomic_uint next;
	static _Thread_local unsigned shard = METRIC_SHARDS;

	if (shard == METRIC_SHARDS)
		shard = atomic_fetch_add_explicit(&next, 1, memory_order_relaxed) % METRIC_SHARDS;
	return shard;
}

uint64_t counter_read(const struct counter *c)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < METRIC_SHARDS; i++)
		n += atomic_load_explicit(&c->shard[i].n, memory_order_relaxed);
	return n;
}

/* Values 0 to 4 have a bucket each but for 0, which is in that of 1; of (2^p, 2^(p+1)] there are four. */
unsigned histogram_bucket(uint64_t value)
{
	const uint64_t v = value ? value - 1 : 0;

	if (v < HISTOGRAM_PARTS)
		return (unsigned)v;
	const unsigned power = 63u - (unsigned)__builtin_clzll(v), part = (unsigned)(v >> (power - 2)) % HISTOGRAM_PARTS;
	const unsigned i = (power - 1) * HISTOGRAM_PARTS + part;

	return i < HISTOGRAM_BUCKETS ? i : HISTOGRAM_BUCKETS - 1;
}

uint64_t histogram_bound(unsigned i)
{
	if (i < HISTOGRAM_PARTS)
		return i + 1;
	if (i >= HISTOGRAM_BUCKETS - 1)
		return UINT64_MAX;
	const unsigned power = i / HISTOGRAM_PARTS + 1, part = i % HISTOGRAM_PARTS;

	return (HISTOGRAM_PARTS + part + 1) * (UINT64_C(1) << (power - 2));
}

void histogram_record(struct histogram *h, uint64_t value)
{
	const unsigned s = metric_shard();

	atomic_fetch_add_explicit(&h->shard[s].count[histogram_bucket(value)], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->shard[s].sum, value, memory_order_relaxed);
}

void histogram_read(const struct histogram *h, struct histogram_view *ret)
{
	*ret = (struct histogram_view){0};
	for (unsigned s = 0; s < METRIC_SHARDS; s++) {
		ret->sum += atomic_load_explicit(&h->shard[s].sum, memory_order_relaxed);
		for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
			ret->count[i] += atomic_load_explicit(&h->shard[s].count[i], memory_order_relaxed);
	}
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		ret->n += ret->count[i];
}

double histogram_quantile(const struct histogram_view *v, double q)
{
	const double rank = q * (double)v->n;
	double below = 0;

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		const double in = (double)v->count[i];

		if (in == 0 || below + in < rank) {
			below += in;
			continue;
		}
		const double low = i ? (double)histogram_bound(i - 1) : 0;
		const double high = i + 1 < HISTOGRAM_BUCKETS ? (double)histogram_bound(i) : low;

		return low + (high - low) * (rank - below) / in;
	}
	return 0;
}
