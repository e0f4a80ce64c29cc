/*
 * state.h: struct journal, shared by journal.c (life, reading, room), commit.c (append, commit), replay.c and ship.c.
 *
 * Locks: `lock` guards what is marked; it is held for copies in memory only, never over a disk operation or a hook.
 * `committing` is the commit lock: the thread that set it owns `scratch` and the sealed staging file until it clears it,
 * so there is one batch in flight.  Whoever finds it clear and has a reason may set it.
 * Invariant: while somebody is in `waiters`, either a batch is in flight, or somebody is on its way to lead the next one: a
 * sleeper that was taken off the list for it, or the thread that committed the last.
 */
#pragma once

#include "base/lock.h"
#include "journal/journal.h"
#include "journal/ring.h"
#include "journal/staging.h"

struct journal {
	struct journal_config config;
	struct ring ring;
	uint64_t full_blocks;     /* used blocks at which writers wait */
	uint64_t throttle_blocks; /* at which they begin to be slowed */
	uint64_t points_cap;
	uint8_t *scratch; /* owned by the committing thread */

	struct mutex lock;
	struct cond trimmed; /* for journal_wait_room */

	/* guarded by lock */
	struct staging staging[STAGING_FILES];
	unsigned open;     /* the file of the batch being built; the other one's is in flight or durable */
	unsigned n_staged; /* between replay and start: batches that the files hold; of two the first is in staging[!open] */
	bool started, committing;
	bool relief_wanted; /* while committing: the thread does so for others and has work of its own */
	struct journal_waiter *waiters, **waiters_end;
	/*
	 * Where each batch from origin to newest ends: seq s at points[s % points_cap], until that place is taken by a later one,
	 * which happens only when batch s is overwritten in the ring.
	 */
	struct journal_point *points;
	uint64_t origin_seq; /* where replay or the last reset began */
	uint64_t tail_seq, sealed_seq, durable_seq;
	int64_t open_since_ns;
	uint64_t pressure_step; /* sixteenths of the ring in use when last looked at */
	uint64_t commits, commit_blocks, operations, throttled;
	int64_t commit_ns;
	int error; /* sticky */
	char failure[256];
};

static inline struct staging *open_staging(struct journal *j) REQUIRES(j->lock)
{
	return &j->staging[j->open];
}

static inline struct journal_point *point_at(struct journal *j, uint64_t seq) REQUIRES(j->lock)
{
	return &j->points[seq % j->points_cap];
}

/* The journal ends at `p`, with nothing in its staging files: before a replay, or as a reset leaves it. */
void journal_begin_at_locked(struct journal *j, const struct journal_point *p) REQUIRES(j->lock);
/* The end of what can be read: of the newest batch in the ring or in memory. */
uint64_t journal_end_locked(struct journal *j) REQUIRES(j->lock);
/* Blocks between the tail and the end of what was appended. */
uint64_t journal_used_locked(struct journal *j) REQUIRES(j->lock);
/* Adds the point after the newest sealed batch. */
void journal_point_push_locked(struct journal *j, const struct journal_point *p) REQUIRES(j->lock);
/* True when the ring's fill has passed another step at which the homer wants to know. */
bool journal_pressure_locked(struct journal *j) REQUIRES(j->lock);

/* Wakes homer and committer.  They may ask for the status from within, so never under the lock. */
static inline void journal_notify_pressure(struct journal *j) EXCLUDES(j->lock)
{
	if (j->config.hooks.pressure)
		j->config.hooks.pressure(j->config.hooks.ctx);
}

/* Whether the open batch with `need` more fits between newest and tail.  The last line of defence behind journal_wait_room(). */
bool journal_ring_has_room_locked(struct journal *j, const struct batch_counts *need) REQUIRES(j->lock);
/* After an append to the open batch: true when homer or committer should be woken, given what it held before. */
bool journal_appended_locked(struct journal *j, uint64_t bytes_before) REQUIRES(j->lock);
/* Payload and records in the open batch. */
static inline uint64_t open_bytes_locked(struct journal *j) REQUIRES(j->lock)
{
	const struct staging *s = open_staging(j);

	return s->n.n_payload * (uint64_t)BLOCK_SIZE + s->n.logical_bytes;
}

/* The staging files as they stand, on disk: no header of an earlier life is ever found again beside records of this one. */
MUST_CHECK int journal_flush_staging(struct journal *j);
/* Seals the batch in `s`, which has records, and writes it; no batch is in flight.  For journal_start(). */
MUST_CHECK int journal_commit_staged(struct journal *j, struct staging *s);
