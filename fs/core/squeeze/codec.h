/*
 * codec.h: the bytes of a packed frame: the blocks of one leaf, compressed together.
 *
 * Format: what LZ4 (its block format) or Zstandard (one frame, without a checksum of its own) makes of the leaf's blocks from slot 0
 * to its last slot with data, slots without data as zeros.  So it unpacks to a whole number of blocks, 16 at most, and each slot's
 * data stands where the slot does.  Zeros fill the frame's last block on disk.
 * Integrity: none here; whoever unpacks compares each slot with its CRC-32C.  Unpacking bytes that are damaged or hostile writes
 * nothing behind the memory it is given, and is bounded in time by what that holds.
 * Threads: a codec has one user at a time.  Ownership: codec_free().  Errors: -ENOMEM; -EBADMSG: no such frame.
 */
#pragma once

#include "fs/core/leaf.h"

#define LEAF_DATA_BYTES (LEAF_SLOTS * (size_t)BLOCK_SIZE)

struct codec; /* the memory that compressing and unpacking need */
MUST_CHECK int codec_new(struct codec **ret);
struct codec *codec_free(struct codec *c); /* NULL is fine */

/*
 * The frame of `len` bytes (a multiple of BLOCK_SIZE, at most LEAF_DATA_BYTES) into p, which has room for `cap`; *ret_bytes is what
 * it took, or 0 when that is more than `cap`.  `level` is of Zstandard alone.
 */
MUST_CHECK int codec_pack(struct codec *c, enum pack_algorithm algorithm, int level, const uint8_t *data, size_t len, uint8_t *p,
			  size_t cap, uint32_t *ret_bytes);
/* LEAF_DATA_BYTES into `data`: what the frame has, then zeros. */
MUST_CHECK int codec_unpack(struct codec *c, enum pack_algorithm algorithm, const uint8_t *p, uint32_t bytes, uint8_t *data);
