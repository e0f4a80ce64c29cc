/*
 * wants.h: damaged blocks that are looked for together, found by the file and block they are of.
 *
 * Who comes upon a block of a file, wherever, asks whether it is wanted.  The same block of a file may be wanted several times:
 * for the live file, and for snapshots of it; what fits one of them by its CRC is given to that one.
 *
 * A packed frame of a snapshot is repaired as one (frame.c), so its blocks are kept as they are found: at most as many as the table
 * of damage has, 64 MiB.
 *
 * Ownership: wants_free().  Threads: one.  Errors: -ENOMEM, as named.
 */
#pragma once

#include "fs/core/scrub/impl.h"

struct want {
	uint64_t ino, block; /* the inode's own number, also where a snapshot wants it */
	struct block_question q;
	uint64_t seq;        /* newest batch whose data it can be; UINT64_MAX: it is of the live tree */
	bool done;           /* repaired, or not wanted any more */
	uint8_t *kept;       /* owned: what was found of a frame of which more is wanted; NULL: nothing was */
	enum repair_from from;
};
struct wants {
	struct want *want; /* owned; by inode and block */
	size_t n, cap, n_open;
	uint64_t repaired;
};

/*
 * What is known as damaged, and is: of file `ino`, or of all (0).  `again`: also what was looked for within the last hour; without it
 * what lies around is looked at first.  Blocks that turn out to be well are noted as that.
 */
MUST_CHECK int wants_collect(struct fs *fs, uint64_t ino, bool again, struct wants *ret);
void wants_free(struct wants *w);
/* The first one that is not done, of those of `ino` in [block, end), from *at on, which moves behind it (start with SIZE_MAX); NULL. */
struct want *wants_next(struct wants *w, uint64_t ino, uint64_t block, uint64_t end, size_t *at);
/*
 * `block` of `ino` was found, with what its CRC is said to be: it is compared, and repairs those that want it.  0: go on; -errno: the
 * volume takes no repairs now.
 */
MUST_CHECK int wants_give(struct fs *fs, struct wants *w, uint64_t ino, uint64_t block, uint32_t crc, const uint8_t *p,
			  enum repair_from from);
/* Nothing more comes: what was found of the want's frame is tried together with what peers and objects have, once. */
void wants_end_frame(struct fs *fs, struct wants *w, struct want *want);
/* Whether any of the wants is of these blocks with that CRC, without looking at data. */
bool wants_match(struct wants *w, uint64_t ino, uint64_t block, uint32_t crc);
/* The blocks of a WRITE record, one after the other at p; those of `skip` (a bit each; NULL: none) are not there. */
MUST_CHECK int wants_give_write(struct fs *fs, struct wants *w, const struct record *r, const uint8_t *p, const uint8_t *skip,
				enum repair_from from);
