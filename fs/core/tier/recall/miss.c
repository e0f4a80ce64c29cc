/* miss.c: what a read of this thread missed, until it is asked for. */
#include "fs/core/tier/tier.h"

static _Thread_local struct tier_miss miss;

void tier_missed(uint64_t ino, uint64_t leaf)
{
	if (!miss.n_leaves) {
		miss.ino = ino;
		miss.leaf = leaf;
		miss.n_leaves = 1;
	} else if (miss.ino == ino && leaf > miss.leaf && leaf - miss.leaf < 2 * WRITE_MAX_BYTES / (LEAF_SLOTS * BLOCK_SIZE)) {
		miss.n_leaves = max_u64(miss.n_leaves, leaf - miss.leaf + 1);
	}
}

void tier_missed_bad(uint64_t ino, uint64_t block)
{
	if (!miss.n_bad)
		miss.bad_ino = ino;
	if (miss.bad_ino == ino && miss.n_bad < TIER_MISS_BAD)
		miss.bad[miss.n_bad++] = block;
}

struct tier_miss tier_take_miss(void)
{
	struct tier_miss m = miss;

	miss = (struct tier_miss){0};
	return m;
}
