/*
 * pack_case.h: what cases of packs put in and get back: the blocks of one leaf.
 */
#pragma once

#include "tests/unit/packs.h"

static uint8_t blocks[PACK_LEAF_BYTES], back[PACK_LEAF_BYTES];

static inline struct pack_place add(struct pack_writer *w, uint64_t ino, uint64_t leaf, uint16_t mask)
{
	struct pack_place at = {0};

	assert_int_equal(pack_add(w, ino, leaf, mask, blocks, &at), 0);
	return at;
}

static inline void reads_as(const struct finished *f, const struct pack_place *at, uint64_t ino, uint64_t leaf, uint16_t mask)
{
	struct pack_frame frame;

	assert_int_equal(pack_read_frame(&f->key, at->offset, f->p + at->offset, at->len, &frame, back), 0);
	assert_true(frame.ino == ino && frame.leaf == leaf && frame.mask == mask && frame.len == at->len);
	assert_memory_equal(back, blocks, mask_bytes(mask));
}
