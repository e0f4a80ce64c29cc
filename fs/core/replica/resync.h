/*
 * resync.h: a follower between two states, shared by resync.c (the volume), resync_put.c (rows), diverged.c and resync_keep.c
 * (what is kept aside).
 *
 * Threads: one makes the resync; a checkpoint of another calls resync_settle() under the gate, exclusive, and everything that
 * changes what that looks at happens under the gate, too.
 * Errors: -errno as replica.h names them.
 */
#pragma once

#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/replica/rows.h"

struct diverged;

struct resync {
	struct diverged *kept; /* NULL: nothing is kept */
	bool verify;           /* slots may hold zeros whose leaf does not say so */
	uint64_t rows, bytes;  /* put since the last save */
	uint8_t *room;         /* a leaf's blocks, aligned */
	bool unrecallable;     /* cold data that goes could not be fetched once: no more is tried */
};

/* Begins to keep what goes: paths are told from the index as it is now.  -EOPNOTSUPP: there is no place for it. */
MUST_CHECK int diverged_new(struct fs *fs, uint64_t leader_epoch, bool resumed, struct diverged **ret);
struct diverged *diverged_end(struct diverged *d);
/* Before `r` takes the place of what the index has under its key. */
MUST_CHECK int diverged_keep(struct diverged *d, const struct row *r);
MUST_CHECK int diverged_sync(struct diverged *d, bool complete);
/* Whether `r` takes the last name of an inode that had one when the resync began: the leader has it without. */
MUST_CHECK int diverged_loses_name(struct diverged *d, const struct row *r, bool *ret);
/* The row behind `at` in the index as it was, of one table and inode, to `at`; the first one when its length is 0; -ENOENT. */
MUST_CHECK int diverged_next(struct diverged *d, enum index_table table, uint64_t ino, struct index_key *at);

/* What has to be kept, or fetched to be kept, before `r` is put, besides what it replaces.  No lock is held. */
MUST_CHECK int resync_keep_first(struct fs *fs, const struct row *r);

/*
 * Reads the homes of the slots in `wanted`, each to its place in `room` (LEAF_SLOTS blocks, aligned).  Returns those whose
 * data is what its CRC says.
 */
uint16_t resync_read_homes(struct fs *fs, const struct leaf *l, uint16_t wanted, uint8_t *room);
/* Slots that have data on this node in name only.  Uses resync->room. */
uint16_t resync_doubtful(struct fs *fs, const struct leaf *l);
/* The leaf of an E row's key as it is here; one that is absent or cannot be read is empty. */
MUST_CHECK int resync_leaf_here(struct fs *fs, struct slice key, struct leaf *ret);

/*
 * `r`, which row_check() let through, becomes the row under its key.  `d`: data for slots of an E row; what it does not bring
 * must be here, or in an object by that row.  -EINVAL, -EBADMSG, -EUCLEAN, -ENOSPC: nothing has changed.
 */
MUST_CHECK int resync_put_row(struct fs *fs, const struct row *r, const struct leaf_data *d, const uint8_t *blocks);
