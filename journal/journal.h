/*
 * journal.h: the ring of batches: append records, commit them in groups, read payload back, replay after a crash.
 *
 * Durability: a record is durable once journal_commit() of its batch returned 0: the batch was written with RWF_DSYNC
 * after hooks.flush_data (rule R1).  At most one batch is in flight, so at most the last one can be torn.  A record
 * survives kill -9 of the process from the moment journal_append() returned (staging files).
 * A failed batch write or flush_data is sticky: every later append and commit returns that error until the journal is
 * opened again; an fsync is never retried (guarantee G6).
 * Ownership: the journal owns its disks; record contents are copied by journal_append().
 * Threads: all functions may be called from any thread, but for open, replay, start and close.
 * Errors: -errno as named at each function.
 * Ring arithmetic: positions (pointer.h) only grow; a position lives in segment (pos / segment blocks) % segments.
 */
#pragma once

#include "base/clock.h"
#include "base/disk.h"
#include "journal/batch.h"
#include "journal/record.h"

struct journal;

struct journal_geometry {
	uint32_t n_segments;      /* 2 .. 4096 */
	uint64_t segment_blocks;  /* >= 256 (1 MiB) and the ring >= 2 * BATCH_MAX_BLOCKS */
};

/* Where replay starts: the batch after `seq` begins at `pos` and its prev_hash is `hash`.  Format: {0, 1, 0}. */
struct journal_point {
	uint64_t seq, pos, hash;
};

/* Batches from `seq` on that an incarnation before `incarnation` wrote are void: they were cut off (ship.h).  {0, 0}: none. */
struct journal_cut {
	uint64_t seq, incarnation;
};

struct journal_hooks {
	void *ctx;
	/* R1: makes all out-of-line data written so far durable; called by the committing thread before the batch write when
	 * the batch names any.  May be called from any thread; holds no journal lock but the commit lock. */
	int (*flush_data)(void *ctx);
	/* The ring passed 25 % (and each further 1/16 th): wake the homer.  Must not block. */
	void (*pressure)(void *ctx);
	/* First failure, once: make the volume read-only.  Must not call back into the journal. */
	void (*failed)(void *ctx, int error, const char *what);
	/* Batch `seq` became durable.  Called by the committing thread without locks, before who waits for it is told, and perhaps
	 * after the call for a later batch; may be NULL; must not block. */
	void (*durable)(void *ctx, uint64_t seq);
	/* Breaks a rule on purpose, for the tests that prove the crash suite sees it. */
	unsigned sabotage; /* JOURNAL_SABOTAGE_* */
};
enum { JOURNAL_SABOTAGE_SKIP_FLUSH_DATA = 1 << 0, JOURNAL_SABOTAGE_NOT_DURABLE = 1 << 1 };

struct journal_config {
	struct store *store;               /* borrowed until journal_close */
	const struct clock *clock;         /* borrowed */
	uint8_t volume[16];
	uint64_t epoch, incarnation;
	struct journal_geometry geometry;
	struct journal_cut cut;
	struct journal_hooks hooks;
	struct batch_signer signer;
	/* A follower: batches come whole from elsewhere (ship.h), so recovery takes a staged batch whole or not at all. */
	bool whole_batches;
	uint32_t n_writers;                /* most threads that append at once: sets the ring's margin */
};

/* Creates journal/seg.NNNN zero-written and flushed, and journal/staging.{0,1}. */
MUST_CHECK int journal_format(struct store *store, const struct journal_geometry *g);

/* Opens the files; -ENOENT names a missing one in the log.  Nothing is written. */
MUST_CHECK int journal_open(const struct journal_config *c, struct journal **ret_journal);

/*
 * Calls `apply` for each record after `from`, in order; the record and its data are borrowed for the call.  `batch_end`
 * (may be NULL) follows the records of each batch.  A callback's error stops the replay and is returned.
 * A torn tail, one that no evidence says was acked, is dropped: 0.  A batch that fails its checks although a later batch
 * or the durable floor of the staging files shows that it was acked: -EBADMSG, with ret->bad_* set.
 * Then the staging files: whole operations in them that continue the chain are applied too, out-of-line data verified by
 * reading it through `verify` first; they become the first batch of the new incarnation when journal_start() commits them.
 * Nothing is written.  Running it twice gives the same calls.
 */
struct journal_replay_result {
	struct journal_point end;   /* after the last batch in the ring */
	uint64_t n_batches, n_records, n_staged_records, bytes;
	uint64_t bad_seq, bad_pos;  /* of the damaged batch when -EBADMSG */
};
struct journal_replay_ops {
	void *ctx;
	int (*apply)(void *ctx, const struct record *r, uint64_t seq);
	int (*batch_end)(void *ctx, uint64_t seq);
	/* True when the out-of-line blocks of a staged WRITE are on disk with the CRCs it names. */
	bool (*verify)(void *ctx, const struct record *r);
};
MUST_CHECK int journal_replay(struct journal *j, const struct journal_point *from, const struct journal_replay_ops *ops,
			      struct journal_replay_result *ret);

/*
 * Ready to append, after journal_replay().  Records recovered from staging are the open batch again (same positions, so
 * staged pointers that `apply` saw hold) and become durable with the first commit.
 */
MUST_CHECK int journal_start(struct journal *j);

/* Stops taking records, does not commit: callers commit first.  NULL is fine. */
struct journal *journal_close(struct journal *j);

/*
 * Before an operation, holding no lock of the filesystem: waits while the ring is too full to take one more operation of
 * every writer; between 75 % and full it sleeps up to 20 ms, linearly.  -EROFS once failed; -EAGAIN when it is still full after 100 ms:
 * the caller looks whether it is worth waiting on.
 */
MUST_CHECK int journal_wait_room(struct journal *j);

/*
 * Appends `n` records as one operation (sets RECORD_MORE) to the open batch; sets write.staged of inline WRITEs.  The
 * order of calls is the order of operations.  *ret_seq is the batch.  Copies everything.  May wait for the batch in
 * flight when the open one is full; never for the ring.  -errno of the sticky failure; -E2BIG above the batch limits.
 */
MUST_CHECK int journal_append(struct journal *j, struct record *records, size_t n, uint64_t *ret_seq);

/* Returns once batch `seq` is durable; commits it when nobody else does.  Concurrent callers share one write. */
MUST_CHECK int journal_commit(struct journal *j, uint64_t seq);
/*
 * The same for a caller that does not want to wait: calls w->done(w, result) exactly once, from this call or later from the
 * thread that commits, with no lock of the journal held.  The caller may be made to commit (for others too) before it
 * returns.  `w` must stay until done() is called, and may go in it.
 */
struct journal_waiter {
	struct journal_waiter *next; /* the journal's */
	uint64_t seq;                /* the batch waited for; set by the call */
	void (*done)(struct journal_waiter *w, int result);
};
void journal_commit_async(struct journal *j, struct journal_waiter *w); /* all appended so far */

/* All appended so far.  *ret_seq (may be NULL): the newest durable batch. */
MUST_CHECK int journal_commit_all(struct journal *j, uint64_t *ret_seq);

/* Blocks [pos, pos + n) of payload into p (aligned to DISK_BLOCK), from memory where not yet written. */
MUST_CHECK int journal_read(struct journal *j, uint64_t pos, uint32_t n, void *p);

/* Position and hash after batch `seq`, which must lie in [tail, newest sealed]; -ENOENT otherwise. */
MUST_CHECK int journal_point_after(struct journal *j, uint64_t seq, struct journal_point *ret);

/* Everything up to and including batch `seq` may be overwritten: call only once a durable index says so (rule R5). */
void journal_trim(struct journal *j, uint64_t seq);

struct journal_status {
	uint64_t open_seq;          /* the batch being built */
	uint64_t sealed_seq, durable_seq, tail_seq;
	uint64_t ring_blocks, used_blocks;
	uint64_t open_bytes;        /* in the open batch: payload and records */
	int64_t open_since_ns;      /* mono time of its first record; 0 when empty */
	uint64_t commits, commit_blocks; /* since open */
	int64_t commit_ns;          /* spent in batch writes since open */
	uint64_t operations;
	uint64_t throttled;         /* waits for room */
	int error;                  /* sticky, 0 when well */
};
void journal_get_status(struct journal *j, struct journal_status *ret);

/* Why the journal failed, for admins; empty when it is well. */
void journal_failure(struct journal *j, char *ret_text, size_t cap);
