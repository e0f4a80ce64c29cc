/*
 * rate.c: how fast a volume's cold data may come back, whoever asks for it (fs_config.recall_rate).
 *
 * Each range pays for its bytes beforehand, in the order in which ranges come; up to a second's worth may come at once after a
 * pause.
 */
#include "base/pace.h"
#include "fs/core/tier/recall/impl.h"

#define BURST_NS NSEC_PER_SEC
#define SLICE_NS (NSEC_PER_SEC / 10) /* the clock may be another one than that which waits are measured by */

bool rate_take(struct recall *rc, uint64_t bytes)
{
	const struct clock *clock = rc->fs->clock;
	int64_t now_ns = clock_mono_ns(clock);

	if (!rc->fs->config.recall_rate || rc->fs->config.no_threads)
		return true;
	mutex_lock(&rc->lock);
	int64_t at_ns = pace_pay(&rc->rate_free_ns, rc->fs->config.recall_rate, bytes, BURST_NS, now_ns);
	rc->status.limited += at_ns > now_ns;
	while (!atomic_load(&rc->stop) && (now_ns = clock_mono_ns(clock)) < at_ns)
		cond_wait_ns(&rc->told, &rc->lock, at_ns - now_ns < SLICE_NS ? at_ns - now_ns : SLICE_NS);
	mutex_unlock(&rc->lock);
	return !atomic_load(&rc->stop);
}
