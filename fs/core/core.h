/*
 * core.h: what the rooms of fs/core share: the mounted volume and the calls between them.  Private to fs/core.
 *
 * Life of an operation: op_begin (room in the ring, gate shared) -> lock inodes (lockset) -> validate -> fs_log (append the
 * records: this gives the order; apply them to the index) -> unlock -> op_end.  apply.c is the only code that changes the
 * index for a record, the same live, in recovery and on a follower.
 *
 * Order of locks: ckpt_lock, maint, wide_lock, gate, rename_lock, stripes in rising order, then the leaves: homer.lock, refs shards,
 * reap_lock, failure lock, and the locks inside journal, arena and kv.
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
	uint64_t ino, block, pos, seq;
	uint32_t n_blocks;
};
struct homer {
	struct mutex lock;
	/* guarded by lock */
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

	_Atomic int failed; /* sticky errno: the volume is read-only */
	struct mutex failure_lock; /* guards the next two */
	char failure[256];
	char damage[512]; /* the newest damaged range found */

	struct fs_recovery recovery;
	bool replaying;
	int64_t replay_reserved;  /* reservations gained or lost by replay */
	uint64_t replay_applied;  /* records up to this batch are in the index already */

	struct service committer, homer_service, checkpointer, reaper;
	bool services_started;
};

/* What applying a record did to the arena's reservations: gained (or, negative, given back). */
struct applied {
	int64_t reserved;
};

/* open.c */
void fs_fail(struct fs *fs, int error, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Remembers and logs damage: `what` at `off` of `ino`; returns -EBADMSG. */
int fs_damaged(struct fs *fs, uint64_t ino, uint64_t off, const char *what);

/* op.c */
/* Takes the gate shared when it returns 0 (a condition that clang's analysis cannot follow); op_end() gives it back. */
MUST_CHECK int op_begin(struct fs *fs);
void op_end(struct fs *fs);
void op_stamp(struct fs *fs, const struct fs_cred *cred, struct record *r, unsigned type, uint64_t ino);
/* Appends and applies; the caller holds the stripes of every inode named.  `promised` blocks were reserved by the caller:
 * what the records did not need is given back, also on error. */
MUST_CHECK int fs_log(struct fs *fs, struct record *records, size_t n, uint64_t promised);
/* After -ENOSPC: a checkpoint may free what is in limbo; true when worth another try (once). */
bool op_retry_space(struct fs *fs, int error, bool *tried);

/* apply.c */
MUST_CHECK int apply_record(struct fs *fs, const struct record *r, uint64_t seq, struct applied *applied);

/* extent.c: leaves of a file; the caller holds the inode's stripe. */
MUST_CHECK int extent_get(struct fs *fs, uint64_t ino, uint64_t leaf, struct leaf *ret); /* absent: empty */
/* Replaces a leaf: frees homes that went, counts blocks of `in` (may be NULL: homer, counts unchanged) and reservations. */
MUST_CHECK int extent_put(struct fs *fs, struct inode *in, uint64_t ino, uint64_t leaf, const struct leaf *old, const struct leaf *new,
			  struct applied *applied);
/* Leaves of `in` that exist, from `leaf` on, in order; fn returns 0 to go on, and may change the leaf it is given. */
typedef int extent_fn(void *ctx, uint64_t leaf, const struct leaf *l);
MUST_CHECK int extent_each(struct fs *fs, const struct inode *in, uint64_t leaf, extent_fn *fn, void *ctx);
/*
 * Reads the leaves that a change of blocks [block, end) will replace.  One that cannot be read must refuse the change before
 * it is logged: afterwards nothing can refuse it, recovery neither.
 */
MUST_CHECK int extent_check(struct fs *fs, const struct inode *in, uint64_t block, uint64_t end);
/* Whole blocks [block, block + n) of a file into p, verified; holes as zeros. */
MUST_CHECK int extent_read(struct fs *fs, uint64_t ino, uint64_t block, uint32_t n, void *p);

/* write.c */
/*
 * Bytes [from, to) of one block become zeros, as an inline WRITE rec[(*n)++] that does not move size or times; nothing when
 * the block holds no data.  `block` (aligned to DISK_BLOCK) and `crc` must live until the record is logged.
 */
MUST_CHECK int write_zero_part(struct fs *fs, const struct fs_cred *cred, const struct inode *in, uint64_t from, uint64_t to,
			       struct record *rec, size_t *n, uint8_t *block, uint32_t *crc);

/* homer.c */
MUST_CHECK int homer_queue(struct fs *fs, const struct staged_write *w);
/* Under the gate, exclusive: every batch up to *ret_seq is homed. */
void homer_point(struct fs *fs, uint64_t applied_seq, uint64_t *ret_seq);
uint64_t homer_backlog(struct fs *fs);
void homer_destroy(struct homer *h);

/* ballast.c; ckpt_lock is held, or nobody else uses the volume yet */
void ballast_lay(struct fs *fs);
/* True when space was given back.  `opening`: the last of it, which is kept so that a mount always has its room. */
bool ballast_drop(struct fs *fs, bool opening);

/* reaper.c */
void reap_push(struct fs *fs, uint64_t ino);

/* service.c */
MUST_CHECK int services_start(struct fs *fs);
void services_stop(struct fs *fs);
void service_wake(struct service *s);
void services_pressure(void *fs);

/* attr.c */
void attr_fill(const struct inode *in, struct fs_attr *ret);
/* relatime: after a read of `ino`. */
void attr_touch(struct fs *fs, uint64_t ino);
