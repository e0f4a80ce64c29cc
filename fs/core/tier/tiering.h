/*
 * tiering.h: what an admin does with stores and cold files, for the control table and the simulator.  The rest of the room is tier.h.
 *
 * Setting a policy ("tier", "tier.pin", "recall") is fs_set_policy().  What takes long or asks a store is a job: one thread does them
 * in order, and answers by the waiter it was given.  What a job had to say to people stays readable until the next of its kind.
 *
 * Threads: any.  Ownership: arguments are copied.  Errors: those of object.h and -EROFS (not the leader), -ENODEV (no such store),
 * -EEXIST, -EINVAL, -EBUSY (the volume still needs the store), -ESHUTDOWN (the volume is being closed).
 */
#pragma once

#include "base/buf.h"
#include "fs/core/fs.h"

enum tier_job_kind {
	TIER_JOB_ADD,    /* "NAME TEXT": the text of tier/definition.h; checks that the store answers and binds it to the volume */
	TIER_JOB_REMOVE, /* "NAME" */
	TIER_JOB_TEST,   /* "NAME": see tier/probe.h */
	TIER_JOB_GC,     /* "NAME" or "NAME dry" */
	TIER_JOB_ARCHIVE,/* a policy of archive/archiving.h: its store is asked, then it is set */
	TIER_JOB_KINDS,
};
/* `w` may be NULL: nobody waits. */
void fs_tier_job(struct fs *fs, const struct fs_cred *cred, enum tier_job_kind kind, const char *arg, struct journal_waiter *w);
/* Data of the file becomes local; answered when it is. */
void fs_tier_recall(struct fs *fs, uint64_t ino, struct journal_waiter *w);
/* The same, and nobody waits: after those asked for before.  -EAGAIN: the queue is full. */
MUST_CHECK int fs_tier_recall_queue(struct fs *fs, uint64_t ino);
/* Data of all of them becomes local; answered when it is, with the first error there was.  Small files travel together. */
void fs_tier_recall_many(struct fs *fs, const uint64_t *ino, uint32_t n, struct journal_waiter *w);
/* The file goes out as soon as may be; see ageing_evict(). */
MUST_CHECK int fs_tier_evict(struct fs *fs, uint64_t ino);
/* Answered once everything queued so far is out or has failed; `clawfs.status` counts failures. */
void fs_tier_flush(struct fs *fs, struct journal_waiter *w);
void fs_tier_scan(struct fs *fs); /* looks now for cold files, and for objects to pack again or remove */

/* "add", "remove", "test", "gc", "archive"; -EINVAL. */
MUST_CHECK int tier_job_kind_parse(const char *word, enum tier_job_kind *ret);
/* Text of the last job of a kind: one line or more; -ENODATA when there was none. */
MUST_CHECK int fs_tier_result(struct fs *fs, enum tier_job_kind kind, struct buf *out);
/* The definition of a store, which holds no secrets; -ENODATA. */
MUST_CHECK int fs_tier_store_text(struct fs *fs, const char *name, struct buf *out);
/* "hot", "mixed", "cold", "recalling" or "pinned"; -ENODATA for what is no regular file. */
MUST_CHECK int fs_tier_state_text(struct fs *fs, uint64_t ino, struct buf *out);
/* "data=BYTES tiered=BYTES cold=BYTES". */
MUST_CHECK int fs_tier_usage_text(struct fs *fs, uint64_t ino, struct buf *out);
