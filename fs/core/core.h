/*
 * core.h: what the rooms of fs/core share: the mounted volume and the calls between them.  Private to fs/core.
 *
 * Life of an operation: op_begin (room in the ring, gate shared) -> lock inodes (lockset) -> validate -> fs_log (append the
 * records: this gives the order; apply them to the index) -> unlock -> op_end.  apply.c is the only code that changes the
 * index for a record, the same live, in recovery and on a follower.
 *
 * Order of locks: ckpt_lock, maint, wide_lock, gate, rename_lock, stripes in rising order, then the leaves: homer.lock, refs shards,
 * reap_lock, failure lock, shares.lock, and the locks inside journal, arena and kv.
 */
#pragma once

#include <stdatomic.h>

#include "base/lock.h"
#include "fs/core/fs.h"
#include "fs/core/icache.h"
#include "fs/core/lcache.h"
#include "fs/core/refs.h"
#include "fs/store/arena.h"
#include "fs/store/kv.h"
#include "fs/store/super.h"
#include "journal/journal.h"

/* Writes of at most this many bytes travel in the batch; larger ones go to the arena first (rule R1). */
#define INLINE_MAX_BYTES (64 * KIB)
#define WRITE_MAX_BYTES (1 * MIB)
#define FILE_SIZE_MAX (UINT64_C(1) << 60)

/* One inline write that waits for its home. */
struct staged_write {
	uint64_t ino, block, pos;
	uint64_t seq;   /* batch that has the data, or one before: the ring is kept from there on */
	uint64_t ready; /* batch that is to be durable before it goes home: that of the record */
	uint32_t n_blocks;
};
struct homer {
	struct mutex lock;
	/* guarded by lock */
	uint64_t taken_seq;        /* oldest one that a step has taken from the queue, and is at work on; 0: none */
	struct staged_write *ring; /* first-in first-out, capacity a power of two */
	size_t cap, head, count;
	uint64_t queued_blocks;
	/* not guarded */
	_Atomic uint64_t homed_blocks;
};

struct service {
	pthread_t thread;
	bool running;
	struct mutex lock;
	struct cond wake;
	bool woken, stop; /* guarded by lock */
	const char *name;
	void (*step)(struct fs *fs, struct service *s);
	struct fs *fs;
	int64_t interval_ns;
	_Atomic int64_t last_success_ns; /* real time, for status */
	_Atomic uint64_t runs, errors;
	_Atomic int last_error;
};

struct quota_claim;
struct fs {
	struct fs_config config;
	struct super super;
	struct store *store;
	struct kv *kv;
	struct arena *arena;
	struct journal *journal;
	const struct clock *clock;

	struct rwlock gate;     /* shared by operations, exclusive while a checkpoint draws its line */
	struct mutex ckpt_lock; /* one checkpoint at a time */
	struct mutex maint;     /* homer steps against the two moments of a checkpoint that must not see half of one */
	struct mutex wide_lock; /* one large inline write at a time; taken before the gate */
	struct mutex rename_lock; /* moves of directories between directories */

	struct icache *icache;
	struct lcache *lcache;
	struct refs *refs;
	struct homer homer;

	struct mutex reap_lock; /* guards the next three */
	uint64_t *reap; /* orphans nobody has open */
	size_t n_reap, cap_reap;

	_Atomic uint64_t next_ino, n_inodes;
	_Atomic uint64_t snapshot_generation;
	_Atomic uint64_t freed_since_ckpt; /* blocks: a checkpoint gives them back */
	_Atomic uint64_t damaged_reads;
	_Atomic int64_t last_ckpt_ns; /* mono */
	_Atomic uint64_t last_ckpt_seq;
	_Atomic uint64_t checkpoints;
	_Atomic bool closing;
	_Atomic bool index_full; /* the last checkpoint found no room on the host */
	bool ballast_laid;       /* guarded by ckpt_lock */
	bool closed;             /* in checkpoint_closed(); changes under the gate, exclusive */

	_Atomic int failed; /* sticky errno: the volume is read-only */
	struct mutex failure_lock; /* guards the next two */
	char failure[256];
	char damage[512]; /* the newest damaged range found */

	struct fs_recovery recovery;
	bool replaying;
	int64_t replay_reserved;  /* reservations gained or lost by replay */
	uint64_t replay_applied;  /* records up to this batch are in the index already */
	uint64_t replay_limit;    /* those of later ones are not applied: a fence window */

	struct service committer, homer_service, checkpointer, reaper, snapper, scheduler, squeezer;
	bool services_started;

	struct fs_hooks hooks;
	void (*add_status)(void *ctx, void *json_object); /* status.c */
	void *add_status_ctx;
	struct replica *replica;       /* replica.c: role, streams, watcher */
	struct resync *resync;         /* resync.c: of a follower between two states */
	struct state_sums *sums;       /* sums.c */
	struct policies *policies;     /* policy.c */
	struct durability *durability; /* durability.c */
	struct positions *positions;   /* position.c */
	struct snaps *snaps;           /* snap/table.c */
	struct shares *shares;         /* share/share.c */
	struct feed *feed;             /* feed/feed.c */
	struct audit *audit;           /* audit/audit.c; NULL: nothing is logged */
	struct service auditor;
	struct tier_objects *objects;  /* tier/objects.c */
	struct tier_watches *watches;  /* tier/place.c */
	struct stores *stores;         /* tier/stores.c */
	struct recall *recall;         /* tier/recall.c */
	struct recalled *recalled;     /* tier/recalled.c */
	struct ageing *ageing;         /* tier/ageing.c */
	struct usage *usage;           /* usage/ */
	struct tier_jobs *tier_jobs;   /* tier/jobs.c */
	struct scrub *scrub;           /* scrub/scrub.c */
	struct damages *damages;        /* scrub/damage.c */
	struct quarantine *quarantine; /* scrub/quarantine.c */
	struct parked *parked;         /* scrub/parked.c */
	struct asks *asks;             /* scrub/ask.c */
	struct squeeze *squeeze;       /* squeeze/squeeze.c */
	struct packed *packed;         /* squeeze/packed.c */
	_Atomic bool packing_used;     /* squeeze/squeeze_feature.c, as the next */
	_Atomic uint64_t unpacked_until; /* `checkpoints` from which on what was unpacked is durably so */
	struct archiver *archiver;     /* archive/archiver.c */
	struct service position_timer;
	_Atomic int role;              /* enum replica_role */
	_Atomic int unreadable;        /* 0, or -EBUSY: what fs_readable() says */
	_Atomic bool held;             /* writers wait in op_begin() */
	_Atomic uint32_t n_held;       /* those */
	_Atomic uint64_t offered;      /* epoch that another node may lead with by now, nobody here knows: no change is taken; 0: none */
	_Atomic uint64_t history;      /* epoch of the newest EPOCH record applied */
	_Atomic uint64_t applied_seq;  /* newest batch with a record applied */
	_Atomic uint64_t telling_seq;  /* of a follower: applied, but its watcher is being told of it; 0: none is */
	_Atomic uint64_t ship_floor;
	_Atomic uint64_t archive_floor; /* the oldest batch that the archive lacks, as ship_floor is of the peers; 0: none */
};

/* What applying a record did to the arena's reservations: gained (or, negative, given back). */
struct applied {
	int64_t reserved;
	int64_t time_ns; /* of the record being applied; set by apply_record(), as is the batch it is in */
	uint64_t seq;
	struct quota_claim *claim; /* what its operation reserved; NULL: nothing */
};

/* recover.c: of a volume between two states nothing is replayed.  -EBADMSG: the journal lacks what was acknowledged. */
struct anchor;
MUST_CHECK int recover_volume(struct fs *fs, const struct anchor *a);

/* failure.c */
void fs_fail(struct fs *fs, int error, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Remembers and logs damage: `what` at `off` of `ino`; returns -EBADMSG. */
int fs_damaged(struct fs *fs, uint64_t ino, uint64_t off, const char *what);

/* op.c */
/* Takes the gate shared when it returns 0 (a condition that clang's analysis cannot follow); op_end() gives it back. */
MUST_CHECK int op_begin(struct fs *fs);
void op_end(struct fs *fs);
/* What op_begin() waits for before the gate: room in the ring and in memory. */
MUST_CHECK int op_wait_room(struct fs *fs);
MUST_CHECK int op_wait_memory(struct fs *fs); /* only that in memory */
void op_stamp(struct fs *fs, const struct fs_cred *cred, struct record *r, unsigned type, uint64_t ino);
/* Appends and applies; the caller holds the stripes of every inode named.  `promised` blocks were reserved by the caller:
 * what the records did not need is given back, also on error. */
MUST_CHECK int fs_log(struct fs *fs, struct record *records, size_t n, uint64_t promised);
/* The same, if there is room in every quota for what `claim` says (usage/usage.h): else -EDQUOT. */
MUST_CHECK int fs_log_claimed(struct fs *fs, struct record *records, size_t n, uint64_t promised, struct quota_claim *claim);
/* Whether this node leads and takes changes: 0, -EAGAIN while writers are held, -EROFS. */
MUST_CHECK int op_may_write(struct fs *fs);
/* After -ENOSPC: a checkpoint may free what is in limbo; true when worth another try (once). */
bool op_retry_space(struct fs *fs, int error, bool *tried);

/* apply.c */
MUST_CHECK int apply_record(struct fs *fs, const struct record *r, uint64_t seq, struct applied *applied);
/* The inodes that a record names, those under whose stripes it is applied: how many of `ret` were set, none of them 0. */
#define RECORD_INODES_MAX 5u
uint32_t record_inodes(const struct record *r, uint64_t ret[RECORD_INODES_MAX]);
void raise_u64(_Atomic uint64_t *at, uint64_t value); /* to at least `value` */

/* extent.c: leaves of a file; the caller holds the inode's stripe. */
MUST_CHECK int extent_get(struct fs *fs, uint64_t ino, uint64_t leaf, struct leaf *ret); /* absent: empty */
/*
 * Replaces a leaf: frees homes that went, counts blocks of `in`, reservations and what objects lose.  Without `in` it is a local
 * change (homer, eviction) of where data is: no count changes, `applied` may be NULL.
 */
MUST_CHECK int extent_put(struct fs *fs, struct inode *in, uint64_t ino, uint64_t leaf, const struct leaf *old, const struct leaf *new,
			  struct applied *applied);
/* The same for a leaf that is in its place already. */
void extent_replaced(struct fs *fs, struct inode *in, uint64_t ino, const struct leaf *old, const struct leaf *new,
		     struct applied *applied);
/* Leaves of `in` that exist, from `leaf` on, in order; fn returns 0 to go on, and may change the leaf it is given. */
typedef int extent_fn(void *ctx, uint64_t leaf, const struct leaf *l);
MUST_CHECK int extent_each(struct fs *fs, const struct inode *in, uint64_t leaf, extent_fn *fn, void *ctx);
/*
 * Reads the leaves that a change of blocks [block, end) will replace.  One that cannot be read must refuse the change before
 * it is logged: afterwards nothing can refuse it, recovery neither.
 */
MUST_CHECK int extent_check(struct fs *fs, const struct inode *in, uint64_t block, uint64_t end);
/* Whole blocks [block, block + n) of a file into p, verified; holes as zeros.  -EINPROGRESS: cold data that is not in memory. */
MUST_CHECK int extent_read(struct fs *fs, uint64_t ino, uint64_t block, uint32_t n, void *p);

/* Whether an inline write of the slot finds its block: it has one, or the promise of one, that no snapshot or clone refers to. */
bool slot_has_own_space(struct fs *fs, const struct slot *s);
/* A home that a snapshot may refer to, or another slot has, goes from the slot, which is about to be written or zeroed (rule R2). */
void slot_sever(struct fs *fs, struct slot *s);
/* Of a home that is kept as space alone: what was to be there and nobody has does not count any more. */
uint32_t slot_birth_of_space(struct fs *fs, const struct slot *s);

/* write.c */
/*
 * Bytes [from, to) of one block become zeros, as an inline WRITE rec[(*n)++] that does not move size or times; nothing when
 * the block holds no data.  `block` (aligned to DISK_BLOCK) and `crc` must live until the record is logged.  *promised grows
 * by the blocks that the caller must reserve for it: 1 when the block is cold.
 */
MUST_CHECK int write_zero_part(struct fs *fs, const struct fs_cred *cred, const struct inode *in, uint64_t from, uint64_t to,
			       struct record *rec, size_t *n, uint8_t *block, uint32_t *crc, uint64_t *promised);

/* read.c */
/* Bytes of `in`, which is locked, or cannot change. */
MUST_CHECK int read_range(struct fs *fs, const struct inode *in, uint64_t off, size_t len, uint8_t *p, void **ret_p, size_t *ret_len);
/* fs_read() that leaves the access time alone. */
MUST_CHECK int read_quietly(struct fs *fs, uint64_t ino, uint64_t off, size_t len, void *p, void **ret_p, size_t *ret_len);

/* homer.c */
MUST_CHECK int homer_queue(struct fs *fs, const struct staged_write *w);
/* Under the gate, exclusive: every batch up to *ret_seq is homed. */
void homer_point(struct fs *fs, uint64_t applied_seq, uint64_t *ret_seq);
uint64_t homer_backlog(struct fs *fs);
/* The oldest batch that may have data of a staged slot; `seq` when nothing waits. */
uint64_t homer_oldest(struct fs *fs, uint64_t seq);
/* Everything that is durable goes home; maint is held. */
MUST_CHECK int homer_drain(struct fs *fs) REQUIRES(fs->maint);
void homer_destroy(struct homer *h);

/* checkpoint.c */
/*
 * A checkpoint with everything homed, all of it under the gate, exclusive; then `then`, before the gate is left: the index on disk is
 * the live one, no slot points into the journal, and nobody changes anything.
 */
MUST_CHECK int checkpoint_closed(struct fs *fs, int (*then)(void *ctx), void *ctx);

/* Of `then`: one more checkpoint of that kind. */
MUST_CHECK int checkpoint_again(struct fs *fs);
/* Memtables have grown much. */
bool checkpoint_is_due(struct fs *fs);
/* Then: one of either kind.  The caller has no iterator of the index, which would hold them. */
MUST_CHECK int checkpoint_if_full(struct fs *fs);

/* ballast.c; ckpt_lock is held, or nobody else uses the volume yet */
void ballast_lay(struct fs *fs);
/* True when space was given back.  `opening`: the last of it, which is kept so that a mount always has its room. */
bool ballast_drop(struct fs *fs, bool opening);

/* reaper.c; a follower reaps nothing: what it has of orphans is queued when it begins to lead */
void reap_push(struct fs *fs, uint64_t ino);
void reap_forget(struct fs *fs); /* it leads no more */
/* Every orphan in the index that the kernel does not know; the others wait for their FORGET. */
MUST_CHECK int reap_queue_orphans(struct fs *fs, uint64_t *ret_n);

/* service.c */
MUST_CHECK int services_start(struct fs *fs);
void services_stop(struct fs *fs);
void service_wake(struct service *s);
void services_pressure(void *fs);

/* replica.c: the table of journal/replica.h, roles and streams */
MUST_CHECK int replica_open(struct fs *fs); /* once the superblock is read */
void replica_close(struct fs *fs);          /* NULL is fine */
/* The superblock as it is now: to be changed and given to replica_save_super(). */
void replica_get_super(struct fs *fs, struct super *ret);
/*
 * Makes role, flags, fence, epoch and features of `s` durable, and fs_readable() says what follows from them; its other members do
 * not count.  The epoch never goes back: one that was promised since `s` was read stays.  -ESTALE when the role changed since.
 */
MUST_CHECK int replica_save_super(struct fs *fs, const struct super *s);
/* Says anew whether the volume is readable: after applied_seq moved or was set back. */
void replica_judge(struct fs *fs);
/* Commits what there is, first of all the EPOCH record of a leader; of one that may not lead any more there is none. */
MUST_CHECK int replica_begin_leading(struct fs *fs);
void replica_durable(void *fs, uint64_t seq); /* for the journal: fs_hooks.durable */
bool replica_has_hooks(struct fs *fs);        /* fs->hooks may be looked at */
void replica_changed(struct fs *fs, const struct fs_change *c); /* to the watcher */

/* scrub/ask.c: the members of struct replica_ops about blocks; view.c and resync.c: those that begin with view_, resync_ or are read_leaf */
int replica_next_wanted(struct replica_volume *v, uint64_t after, struct block_wanted *ret);
void replica_give_block(struct replica_volume *v, uint64_t number, const void *block);
int replica_answer_block(struct replica_volume *v, const struct block_wanted *b, void *block);
int replica_view_open(struct replica_volume *v, struct replica_view **ret_view, struct replica_view_info *ret);
void replica_view_close(struct replica_view *view);
int replica_view_rows(struct replica_view *view, struct slice from, struct slice to, replica_row_fn *fn, void *ctx);
int replica_read_leaf(struct replica_volume *v, struct leaf_data *d, uint8_t *blocks, uint64_t *ret_fence);
int replica_resync_begin(struct replica_volume *v, uint64_t epoch, bool save);
int replica_resync_rows(struct replica_volume *v, struct slice from, struct slice to, replica_row_fn *fn, void *ctx);
int replica_resync_missing(struct replica_volume *v, const struct row *r, uint16_t *ret_slots);
int replica_resync_put(struct replica_volume *v, const struct row *r, const struct leaf_data *d, const uint8_t *blocks);
int replica_resync_save(struct replica_volume *v);
int replica_resync_end(struct replica_volume *v, const struct replica_view_info *info, uint64_t fence);
void resync_free(struct fs *fs); /* before the index is closed */
/* Under the gate, exclusive, before a line is drawn: what a resync kept aside is durable before the index forgets it. */
MUST_CHECK int resync_settle(struct fs *fs);
struct fs *replica_fs(struct replica_volume *v);

/* window.c: what recovery does with batches that are in the journal and were not applied */
MUST_CHECK int replica_window_keep(struct fs *fs, const struct record *r); /* one of their records: its blocks are nobody else's */
MUST_CHECK int replica_window_resume(struct fs *fs);                       /* the journal has started, and nobody else is there */

/* sums.c: what each batch left in the inodes it names, as a sum that does not depend on the order of its operations */
MUST_CHECK int sums_new(struct state_sums **ret);
struct state_sums *sums_free(struct state_sums *s);
/* After a record of batch `seq` was applied; the stripes of its inodes are held, or nobody else is there. */
void sums_add(struct fs *fs, uint64_t seq, const struct record *r);
/* Sums begin with the batch after `seq`; those there are go. */
void sums_begin_after(struct fs *fs, uint64_t seq);
/* How many records batch `seq` has: before that is known there is no sum of it. */
void sums_expect(struct fs *fs, uint64_t seq, uint32_t n_records);
/* The same for a batch that is about to be applied, perhaps in place of another one of that seq. */
void sums_restart(struct fs *fs, uint64_t seq, uint32_t n_records);
/* -EAGAIN: fewer than that were added so far; -ENOENT: nothing is known of the batch. */
MUST_CHECK int sums_get(struct fs *fs, uint64_t seq, uint64_t *ret_sum);

/* policy.c */
MUST_CHECK int policies_load(struct fs *fs); /* from the index, at open and after a resync */
void policies_free(struct fs *fs);
/* A SETXATTR or RMXATTR record whose name begins with "clawfs." is a policy: true when it was one. */
bool policy_is(struct slice xattr_name);
bool policy_valid(const struct record *r); /* of such a record: policy_apply() can read it */
MUST_CHECK int policy_apply(struct fs *fs, const struct record *r);
MUST_CHECK int policy_drop(struct fs *fs, uint64_t ino); /* the inode goes */
/* As fs_set_policy(), whatever key and value. */
MUST_CHECK int policy_set(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *key, const char *value);
/* One that nobody outside may read ("tier.key"): to fs_get_policy() it is not there, and no dump shows its value. */
static inline bool policy_key_is(struct slice key, const char *name)
{
	return key.len == __builtin_strlen(name) && __builtin_memcmp(key.p, name, key.len) == 0;
}
bool policy_is_secret(struct slice key);
/* Those of `ino` itself whose key begins with `prefix`, secret ones too; fn returns 0 to go on.  No lock is held while it runs. */
MUST_CHECK int policies_each(struct fs *fs, uint64_t ino, const char *prefix, int (*fn)(void *ctx, const char *key, const char *value),
			     void *ctx);
uint64_t policies_generation(struct fs *fs); /* grows with each change of any */
bool policies_have(struct fs *fs, const char *key); /* of any inode */
/* All whose key begins with `prefix`, in the order of inodes; fn returns 0 to go on, and must not come back here: a lock is held. */
MUST_CHECK int policies_scan(struct fs *fs, const char *prefix, int (*fn)(void *ctx, uint64_t ino, struct slice key, const char *value),
			     void *ctx);

/* durability.c: fsync on as many followers as a policy asks for */
struct durability_level {
	uint32_t replicas; /* 0: local */
	bool else_local;
};
/* "local", "replicas=K" or "replicas=K,else=local"; -EINVAL. */
MUST_CHECK int durability_parse(const char *value, struct durability_level *ret);
MUST_CHECK int durability_open(struct fs *fs); /* fs->role is known */
void durability_close(struct fs *fs);          /* the journal has no waiters any more; NULL is fine */
/*
 * Before a new leader takes its first change, after an old one took its last, whose waiters get -EROFS.  What the followers
 * have acked is forgotten: it was another history.
 */
void durability_role(struct fs *fs, enum replica_role role);
void durability_failed(struct fs *fs);    /* fs->failed was set: nobody waits any more */
bool durability_interrupt(struct fs *fs, const struct journal_waiter *w); /* as fs_interrupt() */
void durability_end_waits(struct fs *fs); /* its part of fs_end_waits() */
/* A policy was set or unset: those who wait are looked at again.  No stripes are held. */
void durability_policy_changed(struct fs *fs);
struct durability_status {
	char level[FS_POLICY_MAX + 1]; /* of the root directory */
	uint64_t waiting;              /* durable here, not yet where they should be */
	int64_t longest_wait_ns;       /* of those */
	int64_t short_since_ns;        /* real time; 0: there are followers enough */
	uint64_t fallbacks;            /* answered without the followers (else=local), since the mount */
	int64_t last_fallback_ns;      /* real time; 0: never */
};
void durability_get_status(struct fs *fs, struct durability_status *ret);

/* position.c: waits for fs_pos() */
MUST_CHECK int positions_open(struct fs *fs);
void positions_close(struct fs *fs);
void positions_reached(struct fs *fs); /* fs_pos() grew, or the volume failed; a load or two when nobody waits */
void positions_durable(struct fs *fs); /* a batch is durable; one load when nobody waits */
/* The newest batch that the change feed may show: durable and, on a follower, applied and readable. */
uint64_t position_settled(struct fs *fs);
void position_step(struct fs *fs, struct service *s);

/* status.c */
/* The directory that `ino` was named in last, and that name; -ENOENT when it has none, or another has it by now. */
MUST_CHECK int path_step(struct fs *fs, uint64_t ino, uint64_t *ret_parent, char ret_name[256]);

/* feed/feed.c */
MUST_CHECK int feed_open(struct fs *fs);
void feed_close(struct fs *fs); /* NULL is fine */
/* The oldest batch that a reader of the last minutes has not read yet; 0: none. */
uint64_t feed_floor(struct fs *fs);
/* audit/archive.c: the oldest one that is not in the audit log and is to be; 0: none. */
uint64_t audit_floor(struct fs *fs);
/* audit/wanted.c: before and after a record of batch `seq` is applied; the stripes of its inodes are held, or nobody else is there. */
void audit_before(struct fs *fs, const struct record *r, uint64_t seq);
void audit_after(struct fs *fs, uint64_t seq);
/* audit/level.c: the policy "audit"; NULL: it is unset. */
MUST_CHECK int audit_policy_check(const char *value);

/* attr.c */
void attr_fill(const struct inode *in, struct fs_attr *ret);
/* relatime: after a read of `ino`. */
void attr_touch(struct fs *fs, uint64_t ino);
