/*
 * frames_format.h: what is in the bodies of an archive's objects: batches and their data in segments, rows in bases.
 * docs/FORMAT.md tells the same in words; a test compares the two.
 */
#pragma once

#include <stddef.h>

#include "base/le.h"

#define FRAME_BATCH 0x54424641u /* "AFBT" */
#define FRAME_DATA 0x54444641u  /* "AFDT" */
#define FRAME_ROW 0x57524641u   /* "AFRW" */
#define FRAME_HAS_SUM 1u        /* flag of a batch */
#define FRAME_ALIGN 8u          /* each frame begins at a multiple of it; zeros in between */

/* Then logical_bytes of records and n_payload blocks of inline data, as journal/replica.h has them. */
struct frame_batch {
	le32 magic;
	le32 n_data;          /* frames of data that follow, perhaps in other segments */
	le64 seq, epoch, incarnation, prev_hash, hash, time_ns;
	le64 sum;             /* what the batch left in the inodes it names (replica_ops.state_sum), with FRAME_HAS_SUM */
	le32 n_records, logical_bytes, n_payload;
	le32 flags;
};
_Static_assert(sizeof(struct frame_batch) == 80, "");

/* Then n_blocks blocks; superseded ones are zeros. */
struct frame_data {
	le32 magic;
	le32 index;           /* which of the batch's out-of-line WRITEs */
	le32 n_blocks;
	le32 zero;
	le64 fence;
	uint8_t superseded[64];
};
_Static_assert(sizeof(struct frame_data) == 88, "");

/* Then the key, the value, and the blocks of slots in `wanted` that are not in `superseded`. */
struct frame_row {
	le32 magic;
	le16 key_len;
	le16 wanted, superseded;
	le16 zero;
	le32 value_len;
};
_Static_assert(sizeof(struct frame_row) == 16, "");
