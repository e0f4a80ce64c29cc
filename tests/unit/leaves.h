/*
 * leaves.h: random leaves, for the tests of leaf.h and index.h.
 *
 * Threads: no state.  Errors: none.
 */
#pragma once

#include <string.h>

#include "fs/core/leaf.h"
#include "journal/record.h"
#include "tests/lib/rng.h"

/* A leaf as the filesystem could have made it: any mix of holes, homes, staged, unwritten, tiered and packed slots, in runs or
 * scattered. */
static inline void random_leaf(struct rng *g, struct leaf *ret)
{
	bool scattered = rng_percent(g, 30), births = rng_percent(g, 30);
	unsigned hole = (unsigned)rng_below(g, 101), keep = (unsigned)rng_below(g, 101);
	uint64_t home = rng_below(g, UINT64_C(1) << 47) + 1, pos = rng_below(g, UINT64_C(1) << 47) + 1;
	uint32_t birth = (uint32_t)rng_u64(g);

	unsigned tiered = rng_percent(g, 50) ? (unsigned)rng_below(g, 101) : 0;
	unsigned packed = rng_percent(g, 50) ? (unsigned)rng_below(g, 101) : 0;

	unsigned shared = rng_percent(g, 50) ? (unsigned)rng_below(g, 101) : 0;

	memset(ret, 0, sizeof(*ret));
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		struct slot *s = &ret->slot[i];
		unsigned kind = (unsigned)rng_below(g, 5);

		if (scattered || !rng_percent(g, keep)) {
			home = rng_below(g, UINT64_C(1) << 47) + 1;
			pos = rng_below(g, UINT64_C(1) << 47) + 1;
		}
		if (births)
			birth = (uint32_t)rng_u64(g);
		if (rng_percent(g, hole))
			continue;
		s->unwritten = kind >= 3;
		if (kind != 1 && kind != 4) {
			s->home = pointer_make(DEVICE_ARENA_FIRST + (scattered ? (unsigned)rng_below(g, DEVICE_ARENA_LAST) : 0), home + i);
			s->birth = birth;
			s->shared = rng_percent(g, shared);
		}
		if (kind == 1 || kind == 2)
			s->staged = pointer_make(DEVICE_JOURNAL, pos + i);
		if (!s->unwritten)
			s->crc = (uint32_t)rng_u64(g);
		s->tiered = !s->unwritten && rng_percent(g, tiered);
		if (s->tiered && rng_percent(g, 50)) {
			s->home = s->staged = 0;
			s->birth = 0;
			s->shared = false;
		}
		if (!s->unwritten && rng_percent(g, packed)) {
			s->packed = true;
			s->home = s->staged = 0;
			s->birth = 0;
			s->shared = false;
		}
		if (s->packed && !ret->pack.n_blocks) {
			ret->pack.n_blocks = (uint32_t)rng_between(g, 1, PACK_BLOCKS_MAX);
			ret->pack.bytes = (uint32_t)rng_between(g, (ret->pack.n_blocks - 1) * BLOCK_SIZE + 1, ret->pack.n_blocks * BLOCK_SIZE);
			ret->pack.start = pointer_make(DEVICE_ARENA_FIRST, rng_below(g, UINT64_C(1) << 47) + 1);
			ret->pack.birth = (uint32_t)rng_below(g, UINT32_MAX);
			ret->pack.algorithm = rng_percent(g, 50) ? PACK_LZ4 : PACK_ZSTD;
		}
		if (s->tiered && !ret->object.id) {
			ret->object.id = rng_u64(g) | 1;
			ret->object.len = (uint32_t)rng_between(g, 1, RECORD_FRAME_MAX);
			ret->object.offset = (uint32_t)rng_between(g, 0, UINT32_MAX - ret->object.len);
		}
	}
}

static inline bool same_leaf(const struct leaf *a, const struct leaf *b)
{
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const struct slot *x = &a->slot[i], *y = &b->slot[i];

		if (x->home != y->home || x->staged != y->staged || x->crc != y->crc || x->birth != y->birth ||
		    x->unwritten != y->unwritten || x->tiered != y->tiered || x->shared != y->shared || x->packed != y->packed)
			return false;
	}
	return a->object.id == b->object.id && a->object.offset == b->object.offset && a->object.len == b->object.len &&
	       a->pack.start == b->pack.start && a->pack.n_blocks == b->pack.n_blocks && a->pack.bytes == b->pack.bytes &&
	       a->pack.birth == b->pack.birth && a->pack.algorithm == b->pack.algorithm;
}
