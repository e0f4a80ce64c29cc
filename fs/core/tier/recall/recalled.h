/*
 * recalled.h: recalled frames in memory, between recall_*.c, which puts them there, and readers, who come by recalled_get()
 * (tier.h).
 *
 * A frame is known by object and offset; frames never change, so one that is there is right, whoever asks.  Only the blocks of
 * its mask are kept.  Memory is bounded: frames and buffers in flight count alike, and room is made by dropping the frame used
 * longest ago that is not pinned.
 *
 * Threads: any; one lock of its own, last in the order.  Ownership: blocks are taken over as they come, and copied out to readers.
 */
#pragma once

#include "fs/core/tier/tier.h"

MUST_CHECK int recalled_open(struct fs *fs, uint64_t max_bytes);
void recalled_close(struct fs *fs); /* NULL is fine */

enum recalled_tell {
	TELL_NOTHING,
	TELL_READ,   /* recall_served() is called once, with no lock of recalled.c held, when recalled_get() first finds it */
	TELL_BESIDE, /* the same; nobody had asked for it: it came along with others */
};
/* Room for the blocks of a mask, aligned as the disk wants it; for recalled_put(), or free().  NULL: no memory. */
uint8_t *recalled_room(uint16_t mask);
/*
 * A frame that was verified; `blocks`: those of f->mask, in order, as pack_read_frame() gives them, in memory of recalled_room() that
 * is the caller's no more, whatever comes of it.  `pins`: as often recalled_unpin() must be called before it may be dropped; one that is there already stays, and is pinned as often again.  0
 * pins: -ENOSPC when there is no room for it; with pins the bound is exceeded rather than the frame refused.  -ENOMEM.
 */
MUST_CHECK int recalled_put(struct fs *fs, const struct leaf_object *at, const struct pack_frame *f, uint8_t *blocks, unsigned pins,
			    enum recalled_tell tell);
/* Pins a frame and lends its blocks, those of *ret_mask, in order, until recalled_unpin(); NULL: it is not there. */
const uint8_t *recalled_borrow(struct fs *fs, uint64_t object, uint32_t offset, uint16_t *ret_mask);
/* Pins a frame that is there; false: it is not.  *ret_beside (may be NULL): nobody had asked for it before; it is TELL_READ from
 * now on. */
bool recalled_pin(struct fs *fs, uint64_t object, uint32_t offset, bool *ret_beside);
void recalled_unpin(struct fs *fs, uint64_t object, uint32_t offset);
bool recalled_has(struct fs *fs, uint64_t object, uint32_t offset);
/* Room for a buffer, made by dropping frames; false: too much is pinned or in flight.  Nothing is allocated. */
bool recalled_reserve(struct fs *fs, uint64_t bytes);
void recalled_unreserve(struct fs *fs, uint64_t bytes);

struct recalled_status {
	uint64_t frames, bytes, pinned_bytes, reserved_bytes, max_bytes;
	uint64_t blocks_served; /* to readers */
};
void recalled_get_status(struct fs *fs, struct recalled_status *ret);

/* recall.c: somebody read from this frame, for the first time: of a file whose data is kept it gets a home. */
void recall_served(struct fs *fs, const struct leaf_object *at, uint64_t ino, uint64_t leaf, uint16_t mask,
		   enum recalled_tell why);
