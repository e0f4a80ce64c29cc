/*
 * frames.h: frames of the bodies of an archive's objects, written and read one after the other.
 *
 * What is read borrows from the body.  Lengths are checked before anything is pointed at; what they hold is checked by those who
 * apply it, as from any other node (fs/core/replica).  Threads: no state.  Errors: -EUCLEAN.
 */
#pragma once

#include "base/buf.h"
#include "fs/core/archive/frames_format.h"
#include "journal/replica.h"

enum frame_kind { FRAME_END, FRAME_IS_BATCH, FRAME_IS_DATA, FRAME_IS_ROW };
struct frame {
	enum frame_kind kind;
	struct shipped_batch batch;
	uint32_t n_data;
	bool has_sum;
	uint64_t sum;
	struct shipped_data data;
	struct row row;
	struct leaf_data leaf; /* wanted, superseded; of an E row also ino and leaf */
	const uint8_t *blocks;
};

/* Running out of memory is body->failed. */
void frames_put_batch(struct buf *body, const struct shipped_batch *b, uint32_t n_data);
void frames_put_data(struct buf *body, const struct shipped_data *d);
void frames_put_row(struct buf *body, const struct row *r, const struct leaf_data *d, const uint8_t *blocks);
/* The sum of the batch whose frame is at `at` of the body. */
void frames_set_sum(struct buf *body, size_t at, uint64_t sum);
/* The frame at *at, which moves behind it; ret->kind is FRAME_END behind the last. */
MUST_CHECK int frames_next(struct slice body, size_t *at, struct frame *ret);
