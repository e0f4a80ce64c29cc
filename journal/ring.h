/*
 * ring.h: positions of the journal as blocks of its segment files.
 *
 * Position p lies in segment (p / segment_blocks) % n_segments at block p % segment_blocks; a range of positions may cross
 * from one segment into the next and from the last into the first.
 * Ownership: the ring owns its disks.  Threads: read and write from any thread once open.
 * Errors: -errno of the disk; -ENOENT and -EUCLEAN for a segment that is missing or has the wrong size, named in the log.
 */
#pragma once

#include "base/disk.h"
#include "journal/journal.h"

struct ring {
	uint32_t n_segments;
	uint64_t segment_blocks, n_blocks;
	struct disk **segments; /* owned */
};

/* -EINVAL when outside the limits of journal.h. */
MUST_CHECK int ring_geometry_check(const struct journal_geometry *g);
MUST_CHECK int ring_format(struct store *store, const struct journal_geometry *g);
MUST_CHECK int ring_open(struct store *store, const struct journal_geometry *g, struct ring *ret);
void ring_close(struct ring *r);

/*
 * Writes `iov` (whole blocks, aligned, n_iov at most RING_IOV_MAX) from `pos` on, in one write a segment touched, each with
 * the DISK_ flags given.  On failure *ret_segment is the segment whose write failed; what reached the ring is undefined.
 */
#define RING_IOV_MAX 4
MUST_CHECK int ring_write(const struct ring *r, const struct iovec *iov, int n_iov, uint64_t pos, unsigned flags,
			  uint32_t *ret_segment);
/* Reads n blocks from `pos` into aligned memory. */
MUST_CHECK int ring_read(const struct ring *r, uint64_t pos, uint32_t n, void *p);
/*
 * Shows `look` each block of n from `pos` that can be read, until it says true; true then.  `memory` has room for
 * RING_SEARCH_BLOCKS.
 */
#define RING_SEARCH_BLOCKS 256u
typedef bool ring_look_fn(void *ctx, const uint8_t *block, uint64_t pos);
bool ring_search(const struct ring *r, uint64_t pos, uint64_t n, uint8_t *memory, ring_look_fn *look, void *ctx);
/* Flushes the segments that hold n blocks from `pos`. */
MUST_CHECK int ring_flush(const struct ring *r, uint64_t pos, uint64_t n);
