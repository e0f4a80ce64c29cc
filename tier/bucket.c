/* bucket.c: see bucket.h. */
#include "tier/bucket.h"

#include <math.h>

void bucket_init(struct bucket *b, double rate, double burst, int64_t now_ns)
{
	*b = (struct bucket){.rate = rate, .burst = burst, .tokens = burst, .at_ns = now_ns};
}

void bucket_fill(struct bucket *b, double wanted, int64_t now_ns)
{
	if (now_ns > b->at_ns)
		b->tokens += b->rate * ((double)(now_ns - b->at_ns) / (double)NSEC_PER_SEC);
	b->tokens = fmin(b->tokens, fmax(b->burst, wanted));
	b->at_ns = now_ns;
}

/* Rounded up, and a nanosecond more: then rounding never makes a caller wait twice. */
int64_t bucket_wait_ns(const struct bucket *b, double tokens)
{
	if (b->rate <= 0 || b->tokens >= tokens)
		return 0;
	return (int64_t)fmin(ceil((tokens - b->tokens) / b->rate * (double)NSEC_PER_SEC) + 1, 1e18);
}

void bucket_take(struct bucket *b, double tokens)
{
	if (b->rate > 0)
		b->tokens -= tokens;
}
