/*
 * impl.h: what the files of the volume's side of replication share.
 *
 *     replica.c  where the volume stands, the superblock, the table of journal/replica.h
 *     roles.c    who leads, and how that changes
 *     source.c   a leader's batches, and the data they name
 *     check.c    whether a batch of another node fits this volume, before anything of it counts, with trial.c and check_names.c
 *     take.c     a follower takes a batch in pieces
 *     apply.c    and appends, applies and commits it
 *     window.c   or, behind a fence, only appends it, and applies it with all others when the fence is there
 *     watch.c    who is told what changed
 *     sums.c     what each batch left in the inodes it names
 *     view.c, rows.c, resync.c, resync_put.c, diverged.c   RESYNC (resync.h)
 *
 * Order of locks, before those of core.h: role_lock, follow_lock.  super_lock and watch_lock are leaves.
 */
#pragma once

#include "fs/core/core.h"
#include "journal/ship.h"

/* A batch between take_batch() and finish_batch() or drop_batch(). */
struct taken_batch {
	bool begun;
	uint64_t epoch; /* of the leader that sends it */
	struct batch_info info;
	struct batch_view view; /* payload and logical section, in memory; the local one is `local`, once it is complete */
	uint8_t *memory;        /* owned */
	size_t cap;
	/* out-of-line data: where its records are in the logical section, how much has come, where it was put */
	uint32_t *data_at; /* owned; n_data */
	uint32_t n_data, n_taken;
	struct buf local;
	struct run *runs; /* owned; all of them, hidden from checkpoints (arena_hide()) */
	size_t n_runs, cap_runs;
	bool checked;      /* against the volume; no more, when homes of tiered data went since (tier/local.c) */
	uint64_t promised; /* then: blocks that must be there for its inline data and zeros */
	uint64_t fence;    /* 0: none of its data was superseded */
};

struct replica {
	struct replica_volume volume;
	struct fs *fs;
	_Atomic bool has_hooks;   /* fs->hooks is set, and stays */
	struct mutex role_lock;   /* one change of role at a time */
	struct mutex super_lock;  /* guards what changes in fs->super once the volume is open, and the next */
	bool led;                 /* it led and stopped: it may hold what its new leader does not */
	_Atomic bool lacks;       /* the next batch needs a snapshot that is not here; forgotten with a resync, or the mount */
	_Atomic bool applying;    /* a window: nobody reads what is half of it */
	bool begun;               /* guarded by role_lock: something was written as a leader since the mount */
	struct mutex follow_lock; /* held by each of a follower's functions */
	/* guarded by follow_lock */
	struct taken_batch taken;
	struct {
		uint64_t seq, hash;
	} finished;      /* the batch finished last */
	void *bounce;    /* owned: aligned memory for the data of one WRITE, made when first needed */
	uint64_t untold; /* first batch of a window that was applied, and nobody was told; 0: none */
	struct mutex watch_lock;
	struct cond watch_idle;
	/* guarded by watch_lock */
	void (*changed)(void *ctx, const struct fs_change *c);
	void *changed_ctx;
	uint32_t n_watching; /* calls of it under way */
};

static inline struct replica *replica_of(struct replica_volume *v)
{
	return container_of(v, struct replica, volume);
}
/* The epoch promised so far. */
uint64_t replica_promised(struct fs *fs);
/* Changes the superblock durably, in one step with looking at it; a negative result of `change` is returned instead. */
typedef int super_change(struct fs *fs, struct super *s, uint64_t arg);
MUST_CHECK int replica_change_super(struct fs *fs, super_change *change, uint64_t arg);
/* A bit of `incompat`, durably, before what it stands for is first here; nothing is written where it is set already. */
MUST_CHECK int replica_set_feature(struct fs *fs, uint64_t incompat);
/* The batch that the state lacks something of; 0: none, or nothing of the window that it ends is applied (window.c). */
uint64_t replica_fence_of(struct fs *fs, const struct super *s);
/* -EROFS once the volume failed, or cannot be written at all. */
int replica_failed(struct fs *fs);
/* The newest batch with a record in it. */
uint64_t replica_newest(struct fs *fs);

/* roles.c */
int replica_note_epoch(struct replica_volume *v, uint64_t epoch);
int replica_promote(struct replica_volume *v, uint64_t epoch);
int replica_hold_writers(struct replica_volume *v, bool hold);
int replica_offer(struct replica_volume *v, uint64_t epoch);
int replica_step_down(struct replica_volume *v);
int replica_set_differs(struct replica_volume *v, uint64_t seq);

/* source.c */
int replica_read_batch(struct replica_volume *v, struct replica_cursor **c, uint64_t seq, struct shipped_batch *ret,
		       uint32_t *ret_n_data);
int replica_read_data(struct replica_volume *v, struct replica_cursor *c, uint32_t index, struct shipped_data *ret);
void replica_cursor_free(struct replica_cursor *c);

/*
 * check.c: every record of a batch against the volume as it will be by then: 0 when applying it can neither fail nor
 * leave a tree that cannot be.  *ret_promised: how many blocks must be free for it, at most.
 * -EUCLEAN and a line in the log: it does not fit; -EBADMSG and others: what it changes cannot be read here.
 */
MUST_CHECK int replica_check(struct fs *fs, const struct batch_view *v, uint64_t seq, uint64_t epoch, uint64_t *ret_promised);

/* The blocks that the records of a batch name in the arena. */
enum block_fate { BLOCKS_HIDE, BLOCKS_SHOW, BLOCKS_GIVE_BACK };
MUST_CHECK int replica_blocks(struct fs *fs, const struct batch_view *v, enum block_fate fate);

/* take.c */
int replica_take_batch(struct replica_volume *v, const struct shipped_batch *b, uint32_t *ret_n_data);
int replica_take_data(struct replica_volume *v, const struct shipped_data *d);
void replica_drop_batch(struct replica_volume *v);
void taken_drop(struct replica *rep) REQUIRES(rep->follow_lock); /* nothing to drop is fine */
void taken_free(struct taken_batch *t);
/* Appends it to the journal, whatever becomes of its blocks. */
MUST_CHECK int taken_append(struct fs *fs, struct taken_batch *t, struct batch_view *ret_view);
void taken_reset(struct taken_batch *t); /* empty again; the memory stays for the next one */
/* Whether this node takes batches, and those of a leader of `epoch`: -EROFS, -ESTALE, -EINVAL. */
MUST_CHECK int replica_check_sender(struct fs *fs, uint64_t epoch);

/* apply.c */
int replica_finish_batch(struct replica_volume *v);
int replica_commit(struct replica_volume *v, uint64_t *ret_durable_seq);

/* Whether the batch is one of a SNAP, SNAPDROP or SNAPROLL record, which is alone in it: *ret, borrowed. */
bool replica_batch_is_snap(const struct batch_view *v, struct record *ret);
/* Applies what is in the journal and was checked; `promised` blocks are reserved, those not needed are given back. */
MUST_CHECK int replica_apply(struct fs *fs, const struct batch_view *v, uint64_t seq, uint64_t promised);
/* op_wait_room(), and where there are no threads that make room, makes it. */
MUST_CHECK int replica_wait_room(struct fs *fs);
/* Data out of the ring, as far as it was applied, and the index to disk: what the journal then needs is kept by it. */
MUST_CHECK int replica_empty_ring(struct fs *fs);

/* window.c; the story is there */
/* Whether rep->taken must go to the window, which it may begin. */
bool window_takes(struct replica *rep) REQUIRES(rep->follow_lock);
/* Puts it there.  -ENOSPC: it does not fit into the ring, and window_give_up() makes room. */
MUST_CHECK int window_put(struct replica *rep) REQUIRES(rep->follow_lock);
/* Applies the window if its fence is durable here, or if that was begun; nothing to do is fine. */
MUST_CHECK int window_settle(struct replica *rep) REQUIRES(rep->follow_lock);
/* Applies it as far as it is there: the volume is behind its fence then, and no copy of anything. */
MUST_CHECK int window_give_up(struct replica *rep) REQUIRES(rep->follow_lock);
/* Applies it if it can be; cuts it off otherwise, so that the journal ends where the state does. */
MUST_CHECK int window_leave(struct replica *rep) REQUIRES(rep->follow_lock);
bool window_is_open(struct fs *fs);
/* Up to where what is durable in the journal counts: into a window only as far as no crash takes back that it was applied. */
uint64_t window_bound(struct fs *fs, uint64_t durable_seq);
/* Tells the watcher what window_settle() and the like have changed; true when there was something. */
bool window_tell(struct replica *rep) EXCLUDES(rep->follow_lock);

/* watch.c: tells the watcher what the records of a batch changed. */
void replica_report(struct fs *fs, const struct batch_view *v);
