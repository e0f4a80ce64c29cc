/*
 * marks.h: which inodes changed after a snapshot was made, so that a difference costs what changed and not what there is.
 *
 * Table M has a row {clock, inode} for each inode of which a row of table I, E or N was written while the snapshot clock stood
 * there.  So what is different between two snapshots, or a snapshot and the live tree, is marked with a clock above the older one's
 * top and not above the newer one's: whatever else was written, the rows of the others are the same in both.  The reverse does not
 * hold: a leaf whose data only moved is marked, too.
 *
 * Nobody has to remember to mark: marks_wrap() puts itself between the volume and its kv and looks at what is written.  A mark is
 * written before the row that it tells of, and never durable later.  Nothing is marked while no snapshot is held.
 *
 * The table is of this node and no part of the volume's logical state.  Its header row says from which clock on it is complete, and of
 * which anchor it is: after a release that does not mark has written, it begins anew, and snapshots from before are compared
 * in full.  Rows that no difference can need any more, those at or below the oldest top, go in steps as deadlists do.
 *
 * Threads: any.  Errors: those of kv.h.
 */
#pragma once

#include "fs/core/core.h"

/* *kv becomes one that marks; closing it closes the other.  The volume's clock and line are read from `fs`.  -ENOMEM. */
MUST_CHECK int marks_wrap(struct fs *fs, struct kv **kv);
/* When snapshots were loaded, before anything is written: whether the table is that of the anchor at `applied_seq`. */
MUST_CHECK int marks_open(struct fs *fs, uint64_t applied_seq);
/* Of a checkpoint: the header row, beside the anchor. */
void marks_put_header(struct fs *fs, struct kv_batch *b, uint64_t applied_seq);
/* Whether every change after the snapshot of that top is marked. */
bool marks_reach(struct fs *fs, uint64_t top);

/* Whether there may be rows that nothing needs any more; snaps' lock or the gate is held. */
bool marks_left_over(struct fs *fs);
/* Some of them go; the gate is held, one step at a time. */
MUST_CHECK int marks_step(struct fs *fs);

/* Inodes marked with a clock in (after, upto], each once and in order, from `ino` on. */
struct marks_walk;
MUST_CHECK int marks_walk_open(struct fs *fs, uint64_t after, uint64_t upto, uint64_t ino, struct marks_walk **ret);
/* -ENOENT: there is none any more. */
MUST_CHECK int marks_walk_next(struct marks_walk *w, uint64_t *ret_ino);
void marks_walk_close(struct marks_walk *w); /* NULL is fine */

/* A row of table M: 0, or -EUCLEAN; `ret` is where it lies, {0, 0} of the header. */
struct mark {
	uint64_t clock, ino;
};
MUST_CHECK int mark_decode(struct slice key, struct slice value, struct mark *ret);
