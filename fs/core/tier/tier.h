/*
 * tier.h: what the rooms of fs/core/tier share: cold data of a mounted volume and the calls between them.  Private to fs/core.
 *
 * Words.  A leaf is *tiered* when a frame of a pack in an object store has its data too; *cold* when nothing but that frame has it
 * on this node.  To *age out* is to pack, store, verify, log (TIER record) and then drop the local copy; to *evict* is only the last;
 * to *recall* is to fetch frames; to *keep* is to give recalled data a home again.
 *
 * What every node agrees on (logged, replicated, by apply.c): which leaf has which frame (leaf.h), how much of each object is live
 * (table Q, objects.c), stores and policies (table P).  What each node decides for itself, never logged: which homes it has.  A home
 * is dropped only when the TIER record is durable, here and on the followers that the policy asks for; it is changed in the index as
 * the homer does it, so a crash brings it back at worst, and its block is used again after the next checkpoint only (R3).
 *
 * No acknowledged byte depends on an upload: what is cold was verified in its store before it was logged.
 * No network call is made with a lock, the gate or a FUSE worker held.
 *
 * Lock order: after the stripes: ageing.lock, recall.lock, stores.lock, objects.lock; none is held over another room's call that locks.
 */
#pragma once

#include "fs/core/core.h"
#include "fs/core/leaf.h"
#include "fs/core/tier/tiering.h"
#include "tier/definition.h"
#include "tier/guard.h"
#include "tier/pack.h"

/* ---- objects.c: table Q: object -> what it is and how much of it is live ---- */

struct object_row {
	uint64_t object;
	uint32_t store;
	uint32_t n_blocks, n_live;  /* 4 KiB blocks of files that it was made with, and that still point to it */
	uint64_t bytes;             /* in the store */
	int64_t born_ns, dead_ns;   /* times of records; dead_ns: when n_live became 0; 0: it is not */
	int64_t moved_ns;           /* of the newest record that took from it; 0: none did */
	uint64_t moved_seq;         /* its batch, where there was a snapshot then; 0: there was none */
	uint8_t sealed[PACK_SEALED_BYTES];
};
MUST_CHECK int objects_open(struct fs *fs); /* before records are applied */
void objects_close(struct fs *fs);          /* NULL is fine */
/* A value of table Q; -EUCLEAN. */
MUST_CHECK int object_row_decode(uint64_t object, struct slice value, struct object_row *ret);
MUST_CHECK int objects_get(struct fs *fs, uint64_t object, struct object_row *ret); /* -ENOENT */
/*
 * Rows in order from `object` on; fn returns 0 to go on.  No lock is held while it runs.  A row that cannot be read is an error and
 * not left out: who removes what no row knows must not take it for one that is not there.
 */
MUST_CHECK int objects_each(struct fs *fs, uint64_t object, int (*fn)(void *ctx, const struct object_row *o), void *ctx);
/* The difference that one leaf's change makes; called by extent_put() for logged changes only. */
MUST_CHECK int objects_moved(struct fs *fs, const struct leaf *old, const struct leaf *new, const struct applied *applied);
/* A leaf is again what it was: what the new one has of an object and the old one has not is live again.  The row was kept for it. */
MUST_CHECK int objects_gained(struct fs *fs, const struct leaf *old, const struct leaf *new);
/* Something live is in it, or something in a snapshot may be: it stays in its store. */
bool objects_needed(struct fs *fs, const struct object_row *o);
/* A TIER record named the object: makes the row when there is none yet, and `n` slots more are live. */
MUST_CHECK int objects_placed(struct fs *fs, const struct record *r, uint32_t n);
/* The row goes, unless something is live. */
MUST_CHECK int objects_forgotten(struct fs *fs, uint64_t object);
struct objects_sum {
	uint64_t n_objects, bytes, n_blocks, n_live, n_dead;
};
MUST_CHECK int objects_sum(struct fs *fs, uint32_t store, struct objects_sum *ret); /* store 0: all */

/* ---- place.c: TIER records ---- */

MUST_CHECK int watches_open(struct fs *fs); /* before records are applied */
void watches_close(struct fs *fs);          /* NULL is fine */
/* Durably, before the first TIER record or row is here: older releases, which would take it for damage, refuse the volume. */
MUST_CHECK int tier_feature(struct fs *fs);
/* Applies one (from apply.c).  Places that do not fit the file are passed over, on every node alike. */
MUST_CHECK int tier_apply(struct fs *fs, const struct record *r, struct applied *applied);
/* -EUCLEAN: a record that says of its object what no leader can have said.  Whether its places fit is for those who know the leaves. */
MUST_CHECK int tier_check(struct fs *fs, const struct record *r);
/* Slots of a leaf, of those in `mask`, that can be placed: 0 when they hold no data, or a slot outside would lose its copy. */
uint16_t tier_placeable(uint16_t data, uint16_t tiered, uint16_t mask);

/* One leaf as it was read to be packed. */
struct packed_leaf {
	uint64_t ino, leaf;
	uint32_t offset, len;
	uint16_t mask;
};
/*
 * Logs that the leaves [p, p + n) of one file, rising, have a copy in an object; *ret_placed: how many of them.  A leaf whose
 * other slots would lose their copy by it, or that has no such data, is left out.  o->store, bytes, n_blocks and sealed are the same in
 * each call for one object.  -ESTALE: the file changed since tier_watch(), or is not watched, or is gone.  After an error nothing was
 * placed: one that comes after some leaves were ends the call with 0.  Takes gate and stripe itself.
 */
MUST_CHECK int tier_place(struct fs *fs, const struct object_row *o, const struct packed_leaf *p, size_t n, size_t *ret_placed);
/* Logs that the object is not needed any more: its row goes.  -EBUSY: something is live; -ENOENT. */
MUST_CHECK int tier_forget(struct fs *fs, uint64_t object);

/*
 * Files being aged out: tier_watch() before their leaves are read, tier_unwatch() after they were placed.  tier_touched() is told of
 * every logged change of data (extent_put() does it): a file touched meanwhile is not placed.  One load when nothing is watched.
 * Of a file that is watched several times a touch counts for all of them.
 */
MUST_CHECK int tier_watch(struct fs *fs, uint64_t ino);
void tier_unwatch(struct fs *fs, uint64_t ino);
void tier_touched(struct fs *fs, uint64_t ino);

/* ---- local.c and keep.c: what this node has of a tiered leaf; never logged ---- */

/*
 * Drops the homes of tiered slots of [leaf, leaf + n): *ret_blocks freed, also after an error.  Slots staged or not tiered stay.  What
 * was logged before is made durable first; which followers must have it is the caller's affair.
 */
MUST_CHECK int tier_drop_homes(struct fs *fs, uint64_t ino, uint64_t leaf, uint64_t n, uint64_t *ret_blocks);
/* Gives cold slots of one leaf, whose frame was `at`, homes with `blocks` (by slot, LEAF_SLOTS blocks) of those in `mask`; slots that
 * are not cold any more stay as they are.  -ESTALE: the leaf has another frame by now, or none; -EBADMSG: not its data; -ENOSPC:
 * nothing is kept. */
MUST_CHECK int tier_keep_leaf(struct fs *fs, uint64_t ino, uint64_t leaf, const struct leaf_object *at, uint16_t mask,
			      const uint8_t *blocks);
/* The same of many leaves in one go. */
#define KEEP_LEAVES_MAX 64u
struct keep_leaf {
	uint64_t ino, leaf;
	struct leaf_object at;
	uint16_t mask;         /* in: slots; out: those that were cold */
	uint16_t has;          /* the blocks that are there, those of `mask` and perhaps others: one after the other, */
	const uint8_t *blocks; /* aligned to DISK_BLOCK; borrowed */
	int result;            /* set when the call returns 0: as tier_keep_leaf() says of it */
};
/* -ENOSPC, -E2BIG (space is too scattered), -ENOMEM, -EROFS: none is kept. */
MUST_CHECK int tier_keep_leaves(struct fs *fs, struct keep_leaf *v, uint32_t n);
/* 0 when homes may be given and taken now; waits for memory. */
MUST_CHECK int tier_may_change(struct fs *fs);
struct tier_file {
	uint64_t data_blocks, tiered_blocks, cold_blocks;
};
MUST_CHECK int tier_file_state(struct fs *fs, uint64_t ino, struct tier_file *ret);

/* ---- recall.c: fetching frames; recalled.c: those in memory ---- */

/*
 * A reader that comes upon cold slots that are not in memory gets -EINPROGRESS from extent_read(), and with it from the operation,
 * which has changed nothing.  What it missed is kept for the thread: fs_recall_async() fetches it, then the operation is called again.
 */
#define TIER_MISS_BAD 32u
struct tier_miss {
	uint64_t ino, leaf, n_leaves; /* 0 leaves: nothing was missed */
	/* Blocks that are damaged and may be repaired (fs/core/scrub/parked.c): the same wait, for another reason. */
	uint64_t bad_ino;
	uint32_t n_bad;
	uint64_t bad[TIER_MISS_BAD];
};
void tier_missed(uint64_t ino, uint64_t leaf); /* by extent_read(): the first one, and those right behind it */
void tier_missed_bad(uint64_t ino, uint64_t block); /* the same; one too many is come upon the next time */
struct tier_miss tier_take_miss(void);
/* The blocks of a leaf's frame, by slot, of at least `mask`: true when they are in memory.  Copies what `mask` names, others untouched. */
bool recalled_get(struct fs *fs, const struct leaf_object *at, uint16_t mask, uint8_t *blocks);

MUST_CHECK int recall_open(struct fs *fs);
void recall_shut(struct fs *fs);  /* whoever waits, and asks from now on, gets -EIO */
void recall_close(struct fs *fs); /* nobody asks any more; NULL is fine */
void recall_end_waits(struct fs *fs); /* its part of fs_end_waits() */
/* By fs_read(): bytes [off, off + len) were read; one load unless some file is being read in order from its store. */
void recall_note_read(struct fs *fs, uint64_t ino, uint64_t off, uint64_t len);
/* For those inside that can wait (ageing, replication, fsck): fetches leaves into memory and returns. -EIO, -ETIMEDOUT. */
MUST_CHECK int recall_leaves(struct fs *fs, uint64_t ino, uint64_t leaf, uint64_t n, enum object_purpose purpose);
/* The frames of one object that an index by offset names, each to fn: for repacking.  */
typedef int recall_frame_fn(void *ctx, const struct pack_frame *f, uint32_t offset, const uint8_t *blocks);
MUST_CHECK int recall_object(struct fs *fs, uint64_t object, recall_frame_fn *fn, void *ctx);
/* Data of the file becomes local for good, whatever its policy: *ret_blocks kept. */
MUST_CHECK int recall_file(struct fs *fs, uint64_t ino, uint64_t *ret_blocks);
/* The same of several, whose frames travel together, in their order; ret_result[i] for each. */
void recall_files(struct fs *fs, const uint64_t *ino, uint32_t n, int *ret_result);
/* What was read of the file and waits for a home gets none: the file is to go out. */
void recall_drop_keeps(struct fs *fs, uint64_t ino);

struct recall_status {
	uint64_t waiting, recalls, failures, bytes_fetched, blocks_served, blocks_kept, denied, limited;
	uint64_t memory_bytes;
	int64_t longest_wait_ns, last_success_ns, last_error_ns;
	char last_message[OBJECT_MESSAGE_MAX];
};
void recall_get_status(struct fs *fs, struct recall_status *ret);

/* ---- stores.c: the stores of the volume, opened when needed ---- */

struct tier_store {
	char name[STORE_NAME_MAX + 1];
	struct store_definition d;
	struct object_store *guard; /* NULL: could not be opened; message says why */
	char message[OBJECT_MESSAGE_MAX];
};
MUST_CHECK int stores_open(struct fs *fs);
void stores_shut(struct fs *fs);  /* calls of stores under way end soon, with -ECANCELED; before ageing and recalls are closed */
void stores_save(struct fs *fs);  /* what they were asked this month becomes durable; it is now and then, too */
void stores_close(struct fs *fs); /* nothing is in use any more; NULL is fine */
/* What is known of a store, which need not be open and is not to be used by it.  -ENODEV. */
MUST_CHECK int stores_find(struct fs *fs, uint32_t id, struct tier_store *ret);
/* "tier.store.NAME"; and whether its value (NULL: unset) can be meant: -EINVAL. */
bool stores_policy_is(struct slice key);
MUST_CHECK int stores_policy_check(struct slice key, const char *value);
/* Counted: stores_put() gives it back.  -ENODEV: no store of that id or name; -EIO: it cannot be opened (logged). */
MUST_CHECK int stores_get(struct fs *fs, uint32_t id, const struct tier_store **ret);
MUST_CHECK int stores_get_by_name(struct fs *fs, const char *name, const struct tier_store **ret);
void stores_put(struct fs *fs, const struct tier_store *s);
MUST_CHECK int stores_each(struct fs *fs, int (*fn)(void *ctx, const struct tier_store *s), void *ctx);
void stores_changed(struct fs *fs);     /* policies were set or loaded: read definitions again */
/* The key that seals those of objects: a policy of the root directory that nobody can read from outside ("tier.key").  -ENOENT. */
MUST_CHECK int stores_key(struct fs *fs, struct pack_volume_key *ret);
MUST_CHECK int stores_make_key(struct fs *fs); /* leader: logs one when there is none */
#define OBJECT_NAME_MAX 64u
void object_name(uint64_t object, char ret_key[OBJECT_NAME_MAX]); /* "packs/5f/5f03a1..." */
MUST_CHECK int object_name_parse(const char *key, uint64_t *ret_object);

/* ---- ageing.c and its neighbours: out to the store ---- */

struct tier_policy {
	bool off;           /* "none", or no policy */
	char store[STORE_NAME_MAX + 1];
	int64_t after_ns;
	uint64_t min_bytes;
	bool pinned;
};
/* "after=30d min=64K store=NAME" or "none"; -EINVAL. */
MUST_CHECK int tier_policy_parse(const char *text, struct tier_policy *ret);
/* Policies "tier", "tier.pin" and "recall": whether `key` is one, and a value that can be meant (NULL: unset); -EINVAL. */
bool tier_policy_is(struct slice key);
MUST_CHECK int tier_policy_check(struct slice key, const char *value);
/* Of an inode, inherited; pinned too. */
MUST_CHECK int tier_policy_get(struct fs *fs, uint64_t ino, struct tier_policy *ret);
enum recall_mode { RECALL_CACHE, RECALL_STREAM, RECALL_DENY };
MUST_CHECK int recall_mode_get(struct fs *fs, uint64_t ino, enum recall_mode *ret);

MUST_CHECK int ageing_open(struct fs *fs);
void ageing_close(struct fs *fs);
/* At the head of the queue: this file goes out (and its homes go) as soon as may be, whatever its age.  -EPERM pinned, -ENODATA no
 * store for it, -EINVAL no regular file, -EAGAIN the queue is full: after a flush there is room.  A file whose data is tiered already
 * is only evicted, and so is what is tiered of a file on a follower. */
MUST_CHECK int ageing_evict(struct fs *fs, uint64_t ino);
/* w->done once everything that was queued before is out or failed; what failed stays queued where another try may do.  0, or
 * -ESHUTDOWN when the volume is closed, -EIO when it has failed, -EBUSY while it is not known who leads. */
void ageing_flush_async(struct fs *fs, struct journal_waiter *w);
struct ageing_status {
	uint64_t queued_files, aged_files, aged_blocks, evicted_blocks, packs, failed_files, skipped_files;
	uint64_t scanned, scans, repacked_objects, removed_objects;
	int64_t last_success_ns, last_error_ns, last_scan_ns;
	bool high_water;
	char paused[OBJECT_MESSAGE_MAX]; /* why it does nothing now; "" */
	char last_message[OBJECT_MESSAGE_MAX];
};
void ageing_get_status(struct fs *fs, struct ageing_status *ret);
/*
 * One round without threads, for the simulator: a scan when one was asked for, everything queued, then objects that are to be packed
 * again or removed; to the end or the first error of a store or the volume.
 */
MUST_CHECK int ageing_step(struct fs *fs);
/* Objects being written just now, which may have no row yet: for gc. */
bool ageing_is_writing(struct fs *fs, uint64_t object);
/* Objects in the store that no row of table Q knows, older than the grace time; removes them unless `dry`.  fn is told of each. */
struct gc_result {
	uint64_t listed, orphans, orphan_bytes, removed, missing;
};
MUST_CHECK int gc_run(struct fs *fs, const char *store, bool dry, void (*fn)(void *ctx, const char *line), void *ctx,
		      struct gc_result *ret);

/* status.c: a json_t, new: of stores, ageing and recalls.  Asks no store. */
struct json_t *tier_status_json(struct fs *fs);

/* ---- jobs.c: the thread behind tiering.h; admin.c: what it does ---- */

MUST_CHECK int jobs_open(struct fs *fs); /* starts no thread before the first job */
void jobs_close(struct fs *fs);          /* who waits gets -ESHUTDOWN; NULL is fine */
/* Job of `kind`, in the job's thread; what is to be said goes to `out`, lines of it. */
int admin_run(struct fs *fs, const struct fs_cred *cred, enum tier_job_kind kind, const char *arg, struct buf *out);

/* stores.c: a store belongs to one volume: says so in it, or finds out that it says otherwise (-EPERM, message). */
MUST_CHECK int stores_bind(struct fs *fs, struct object_store *store, char *message);
/* ageing.c */
void ageing_scan_now(struct fs *fs);
/* recall.c: whether a recall of the file is under way. */
bool recall_is_active(struct fs *fs, uint64_t ino);
