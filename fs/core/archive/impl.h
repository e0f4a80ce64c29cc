/*
 * impl.h: what the files of the archiver share.
 *
 *     policy.c     the policy's text
 *     archiver.c   the thread, the round, who waits, status
 *     attach.c     where the archive ended, and whether this volume goes on from there
 *     segment.c    batches into segments
 *     base.c       a base, part by part
 *     retention.c  what is too old goes; gc.c: what nobody knows of any more
 *     settle.c     the last of it, before a volume is closed
 *     manifest.h, frames.h: formats.   restore*.c: the way back.
 *
 * One thread does all of it, so nothing below `lock` in struct archiver needs a lock.
 */
#pragma once

#include "fs/core/archive/archiving.h"
#include "fs/core/archive/frames.h"
#include "fs/core/archive/manifest.h"
#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/tier/tier.h"

#define SEGMENT_BYTES (8 * MIB)  /* a body is sealed from here on; one frame may go beyond */
#define PART_BYTES    (8 * MIB)

struct archive_waiter {
	struct archive_waiter *next;
	uint64_t seq;
	struct journal_waiter *w;
};

/* A base being made. */
struct base_job {
	struct replica_view *view; /* NULL: every part is stored */
	uint64_t epoch, seq;       /* which of the manifest's */
	uint8_t from[INDEX_KEY_MAX + 1]; /* the next row */
	size_t from_len;
	bool ended;                /* no row is left */
	struct buf body, sealed;   /* a part that is made, and sealed, and not stored yet */
	uint32_t part, n_items;
	uint64_t rows, bytes, sum, fence, superseded, lost;
	uint64_t since;            /* a->since_base when it began */
	uint8_t *blocks;           /* owned: of a leaf */
};

/* What is shown of it. */
struct archiver_view {
	bool on, attached, gap;
	bool based; /* the stream that is written has a base */
	char store[STORE_NAME_MAX + 1];
	uint64_t archived_seq, durable_seq, segments, bytes, gaps, gap_from, gap_to, bases;
	int64_t archived_ns, behind_since_ns, oldest_ns, base_ns, last_success_ns, last_error_ns;
	uint64_t base_seq, making_rows;
	bool making_base;
	uint64_t removed, lost;
	int error;
	char message[OBJECT_MESSAGE_MAX + ARCHIVE_NAME_MAX + 8];
};

struct archiver {
	struct fs *fs;
	struct mutex lock;
	struct cond wake;
	/* guarded by lock */
	bool stop, woken;
	struct archive_waiter *waiters;
	struct archiver_view view;
	/* set by open */
	bool started;
	pthread_t thread;

	/* the thread's own */
	struct archiver_view v; /* becomes `view` after each round */
	uint64_t policies;      /* generation that the policy is from */
	struct archive_policy policy;
	bool has_key;
	struct pack_volume_key key;
	struct archive_place place; /* place.store is set during a round */
	bool attached, dirty;       /* dirty: the manifest is to be written */
	uint64_t epoch;
	struct archive_manifest m;
	int64_t manifest_ns;     /* mono, when it was written; segments since */
	uint32_t manifest_age;
	struct archive_at next;  /* the segment that is being filled, or comes next */
	uint64_t hash;           /* of the history before it */
	uint64_t taken;          /* newest batch whose frames are all in segments */
	uint64_t cut;            /* a segment ends with this batch; 0: none */
	uint64_t since_base;     /* bytes of segments */
	/* the segment */
	struct buf body, sealed; /* sealed: what is to be stored; nothing is taken meanwhile */
	struct archive_info info;
	int64_t began_ns;        /* mono */
	struct sum_at {
		uint64_t seq;
		size_t at;
	} *sums;                 /* owned: batches of the body whose sum was not known yet */
	size_t n_sums, cap_sums;
	/* the batch being taken: `data_next` of `n_data` are in segments */
	struct replica_cursor *cursor;
	struct shipped_batch batch;
	uint32_t n_data, data_next;
	bool back;              /* the next one goes back to a snapshot: it is not taken */
	struct base_job *job; /* NULL: none is made */
	uint32_t base_failures; /* in a row */
	int64_t base_retry_ns;  /* mono */
	int64_t retention_ns; /* mono, when it was last looked for what is too old */
};

/* attach.c */
MUST_CHECK int archiver_attach(struct archiver *a);
void archiver_detach(struct archiver *a); /* everything is read anew with the next round */
/* A new stream begins with a new base, after the newest durable batch. */
MUST_CHECK int archiver_begin_stream(struct archiver *a);
struct archive_stream *archiver_stream(struct archiver *a); /* the one that is written; NULL: none */
MUST_CHECK int archiver_save(struct archiver *a);           /* the manifest */

/* segment.c.  *ret_gap: a batch is not in the journal any more.  Stops before one that goes back to a snapshot (a->back). */
MUST_CHECK int segment_take(struct archiver *a, bool *ret_gap);
bool segment_due(const struct archiver *a, bool now);
MUST_CHECK int segment_store(struct archiver *a);
void segment_drop(struct archiver *a);
/* Goes on behind a segment that is stored, perhaps in the middle of a batch. */
MUST_CHECK int segment_resume(struct archiver *a, const struct archive_info *stored);

/* base.c */
bool base_due(struct archiver *a);
MUST_CHECK int base_begin(struct archiver *a, struct replica_view_info *ret);
MUST_CHECK int base_step(struct archiver *a);   /* one part */
MUST_CHECK int base_settle(struct archiver *a); /* is it done, now that more was archived? */
void base_drop(struct archiver *a);
struct archive_base *base_of(struct archiver *a, uint64_t epoch, uint64_t seq);
const struct archive_base *base_newest(const struct archiver *a); /* that is done; NULL */

/* retention.c */
MUST_CHECK int retention_step(struct archiver *a);
