/*
 * rollback.h: the live tree becomes again what a snapshot has.  Private to fs/core/snap; snap.h has what others call.
 *
 * rollback.c is the operation, rollback_walk.c the comparison of two indexes, row by row, rollback_leaf.c what becomes of a file's
 * blocks.
 */
#pragma once

#include "fs/core/snap/snap_impl.h"

/* A rollback under way.  The gate is held, exclusive, and so is every stripe; nothing is cached. */
struct roll {
	struct fs *fs;
	uint32_t top;           /* of the snapshot */
	struct kv *kv;          /* its index, borrowed */
	struct applied applied; /* of the record */
	int64_t reserved;       /* what the arena's reservations are by now */
	bool shares;            /* leaves may share blocks */
	uint32_t list;          /* whose deadlist had the block that was gained last */
};

/* rollback_walk.c */
/* Every row of the tree; again after a crash, where what is done already is found equal. */
MUST_CHECK int roll_walk(struct roll *w);
/* Every row of it can be read: -EUCLEAN, -EBADMSG. */
MUST_CHECK int roll_check(struct kv *kv);
/* Memtables that grew are emptied; what the walk changed so far is durable then, and recovery goes on from there. */
MUST_CHECK int roll_pause(struct roll *w);

/* rollback_leaf.c: one leaf; `then` and `now` are rows of table E, or nothing. */
MUST_CHECK int roll_leaf(struct roll *w, uint64_t ino, uint64_t leaf, struct slice then, struct slice now);
