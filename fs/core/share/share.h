/*
 * share.h: blocks of the arena that several slots of the live tree have as their home.  Private to fs/core.
 *
 * A clone (RECORD_CLONE) gives a slot the home of another one.  How many do is in table R: the row of a home has the number of its
 * references beyond the first, and is absent when there is only one.  A slot says by its mark (slot.shared) that there *may* be a
 * row: a file that was never cloned has no mark, and never asks.
 *
 *     A home that another slot has, too, is never written: a change takes it out of its slot first (slot_sever(), as rule R2 has it
 *     for snapshots), and needs the promise of a block.
 *     A reference that goes while others are left counts down, and the block stays.  The last one frees the block, or buries it on
 *     the deadlist of a snapshot, as for any other: a block lives for as long as any leaf names it, and was born once.
 *
 * What was shared and is a slot's own again keeps its mark until it was written in place once.  For it is not enough that nobody
 * names the block here and now: nobody may after a crash.
 *
 *     A record took the other reference away: it may be of a later batch than the write that found the block free to use, where two
 *     threads were at it.  So the homer, before it writes over a home that bears a mark, waits until each such record is durable.
 *     No record did (an eviction, a repair): until the next checkpoint is durable a crash brings the reference back.  Such homes are
 *     remembered that long, and count as shared.
 *
 * Durability: rows change under the gate, shared, in the same step as the leaves they count, and reach the disk with them, by a
 * checkpoint; recovery begins there and goes through the same code.  So a count is exact after any crash.
 * Which homes are shared is each node's own affair, as homes are: nothing that a record says, or a peer compares, depends on it.
 *
 * Threads: any.  A row is read and written under `lock`, the only thing that those of different inodes have in common.  While the
 * stripe of a slot is held no reference to its home can appear from it, and when it is the only one, from nowhere: so what was
 * found to be a slot's own stays its own, and what was found to be shared may become its own.
 */
#pragma once

#include "fs/core/core.h"

struct shares {
	struct mutex lock;
	/* guarded by lock: homes that lost a reference without a record, since the line of the checkpoint under way and before it */
	struct refs *lost, *lost_before;
	bool line;                /* the line was drawn after the newest of lost_before */
	/* not guarded */
	_Atomic uint64_t drop_seq; /* newest batch with a record that took a reference away */
	_Atomic bool feature;   /* the superblock says that there may be rows */
	_Atomic uint32_t views; /* open ones (replica/view.c): while there is any, copies are written and not shared */
};

MUST_CHECK int shares_open(struct fs *fs);
void shares_close(struct fs *fs); /* NULL is fine */
/* Durably, before the first CLONE record or row is here: older releases, which would free what is shared, refuse the volume. */
MUST_CHECK int share_feature(struct fs *fs);

/* Whether another slot has the home of `s`, too, or may have after a crash.  Where the index cannot tell, it has. */
bool share_has_others(struct fs *fs, const struct slot *s);
/* Each home of `homes` (0: none) gains a reference; `marked`: bit i, it had a mark before, so there may be a row. */
MUST_CHECK int share_gain(struct fs *fs, const pointer_t homes[LEAF_SLOTS], uint16_t marked);
/*
 * The homes of `old` that `new` has not any more lose a reference each: the slots whose home others still have, and which must
 * neither be freed nor buried.  `seq`: batch of the record that says so; 0: none does.  An index that fails stops the volume.
 */
uint16_t share_drop(struct fs *fs, const struct leaf *old, const struct leaf *new, uint64_t seq);
/* Whether homes may go without a record: those remembered are not too many. */
bool share_may_lose(struct fs *fs);
/* Under the gate, exclusive, when a line is drawn; and when it is durable. */
void share_draw_line(struct fs *fs);
void share_line_durable(struct fs *fs);

/* ---- clone.c ---- */

/* What a CLONE record does.  The stripes of both inodes are held. */
MUST_CHECK int clone_apply(struct fs *fs, const struct record *r, uint64_t seq, struct applied *applied);
/* Recovery comes by one that the index has already: what is still in the ring of it waits for its home again. */
MUST_CHECK int clone_requeue(struct fs *fs, const struct record *r, uint64_t seq);

/* A part of a file that is to become a part of another one, or of itself elsewhere. */
struct clone_range {
	uint64_t from, from_off, to, to_off, len; /* inodes, bytes; both offsets are whole blocks */
};
/*
 * Shares what can be shared of it, from the beginning on, as one operation: *ret_len bytes; 0: the first of them have to be copied.
 * Ranges of one file that overlap are the caller's to refuse.
 */
MUST_CHECK int clone_range(struct fs *fs, const struct fs_cred *cred, const struct clone_range *c, uint64_t *ret_len);

/* ---- check.c ---- */

/* Of fsck: the references that leaves of the live tree have, against table R.  Memory: 8 bytes for each beyond the first. */
struct share_check;
MUST_CHECK int share_check_new(uint64_t n_blocks, struct share_check **ret);
struct share_check *share_check_free(struct share_check *c);
/*
 * A slot has its home in block `home`; `seen`: one before had, too.  *ret_ok: only slots with a mark have it together.
 */
MUST_CHECK int share_check_see(struct share_check *c, pointer_t home, bool seen, bool marked, bool *ret_ok);
/* `found` is told of each home whose row and whose references beyond the first are not the same; ~0: a row that cannot be read. */
MUST_CHECK int share_check_rows(struct share_check *c, struct fs *fs,
				void (*found)(void *ctx, pointer_t home, uint64_t row, uint64_t counted), void *ctx);
