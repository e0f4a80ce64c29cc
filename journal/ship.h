/*
 * ship.h: whole batches out of one journal and into another: what replication does with a journal.
 *
 * A batch has the same seq, logical section and hash on every node; where its blocks lie differs.  A leader copies batches out
 * that are durable; a follower appends each as a whole, so that its journal is the leader's, batch for batch.
 * Durability: an appended batch survives kill -9 at once and is durable after journal_commit() of its seq, as any other.
 * Ownership: a struct journal_batch owns its memory, which is used again by the next copy into it.
 * Threads: copying from any thread; appending and resetting from one thread at a time, and only in a journal into which
 * nobody calls journal_append().
 * Errors: -errno as named.
 */
#pragma once

#include "journal/batch.h"
#include "journal/journal.h"

/* A copy of one batch.  Start with {0}; give back with journal_batch_free(). */
struct journal_batch {
	struct batch_info info;
	struct batch_view view; /* borrows memory */
	uint8_t *memory;        /* owned */
	size_t cap;
};
void journal_batch_free(struct journal_batch *b);

/*
 * Copies batch `seq`: from memory when it is still there, else from the ring.  What lies behind the tail is readable until it
 * is overwritten.  The copy was verified: hash chain, CRCs, payload.
 * -EAGAIN: not durable yet.  -ENOENT: older than what the ring holds.  -EBADMSG, -EUCLEAN: damaged in the ring.  -EIO.
 */
MUST_CHECK int journal_copy_batch(struct journal *j, uint64_t seq, struct journal_batch *b);

/* The oldest batch that can still be copied; durable seq + 1 when none can. */
uint64_t journal_oldest(struct journal *j);

/*
 * The point after `seq`, for the batch before the oldest that can be copied up to the newest sealed; -ENOENT.  Unlike
 * journal_point_after() it reaches behind the tail.
 */
MUST_CHECK int journal_history_point(struct journal *j, uint64_t seq, struct journal_point *ret);

/*
 * Appends a whole batch of another node as the open batch.  `info` names seq (the newest here + 1), prev_hash (the newest's
 * hash), hash, epoch (not 0) and time, which the batch keeps over a crash, too; the rest of it is not looked at.  `v` has the
 * logical section, the payload, the local section that says where this node put out-of-line data, and the counts.  The
 * caller has verified all of that with batch_verify_parts().  Commits the batch before it when that has not happened.  Nothing is
 * added to the batch: an operation appended later begins the next one.  *ret_view is the batch as it stands in memory here, with
 * its own position, until the batch after the next is appended.
 * -EINVAL: seq or prev_hash does not continue this journal, counts above the limits of a batch.  -EBADMSG: not what the hash
 * says.  -ENOSPC, -EROFS, sticky errors as journal_append().
 */
MUST_CHECK int journal_append_batch(struct journal *j, const struct batch_info *info, const struct batch_view *v,
				    struct batch_view *ret_view);

/*
 * The journal goes on after `at`, seq and hash; everything in it before is gone: all of it is homed and in the index, or of no
 * use.  Instead of journal_replay() and journal_start(), or on a running journal, whose open batch is committed first.
 * No checkpoint may be under way: it would trim by a seq of the old history.
 * at->pos: a floor for the position, 0 for none; on return the position chosen, beyond everything ever used here.
 * The staging files forget what they held, durably, before this returns.  The caller then makes *at durable as the place where
 * replay starts, before anything is appended.  Until it has, a replay from the old place finds the old batches; afterwards none
 * of them is ever taken for a batch or for evidence of one.
 * Reads the whole ring unless the journal runs.  -EUCLEAN: positions are used up; -EIO and the like are sticky.
 */
MUST_CHECK int journal_reset(struct journal *j, struct journal_point *at);

/*
 * Batch cut->seq and all after it are as if they had never been: the journal goes on after the one before, and what it writes
 * carries cut->incarnation, which is higher than any before.  Nobody may use what goes: its payload cannot be read any more.
 * The staging files forget them, durably, before this returns.  The caller then makes *cut durable, for config.cut of the next
 * journal_open(), before anything is appended.  Until it has, a replay finds them; afterwards it never does.
 * -EINVAL: cut->seq is not one of those behind the tail up to the newest + 1, or the incarnation is not new; errors of a commit.
 */
MUST_CHECK int journal_cut(struct journal *j, const struct journal_cut *cut);

/* Batches sealed from now on carry this epoch. */
void journal_set_epoch(struct journal *j, uint64_t epoch);
