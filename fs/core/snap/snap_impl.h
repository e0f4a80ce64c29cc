/* snap_impl.h: what the files of fs/core/snap share. */
#pragma once

#include "fs/core/snap/snap.h"

/* One that this node holds; it stays in the table until its deadlist is empty. */
struct held {
	uint32_t top;
	uint64_t gen;
	bool dropping;        /* changes under the gate, exclusive, and `lock` */
	/* guarded by snaps.lock */
	uint32_t users;       /* who reads it */
	struct kv *kv;        /* open, or NULL */
	uint64_t used;        /* by the clock of snaps */
	bool broken;          /* said already that it cannot be opened */
	uint64_t only_blocks; /* that nothing else has, when counted */
	bool counted;
};
struct snap {
	uint64_t gen, seq;
	int64_t time_ns;
	uint32_t uid;
	char name[RECORD_NAME_MAX + 1];
};
/* A rollback whose record is in the journal and whose walk is not durable yet (rollback.c). */
struct rolling {
	_Atomic uint64_t seq; /* 0: there is none */
	uint64_t gen;
	int64_t time_ns;
};
struct snaps {
	struct mutex lock;
	struct cond idle;  /* a held one has no users any more */
	/* changed under the gate, exclusive, and `lock`: either is enough to read */
	struct snap *snap; /* by gen */
	size_t n, cap;
	struct held **held; /* by top; those being dropped too */
	size_t n_held, cap_held;
	/* guarded by lock */
	uint64_t clock;
	uint32_t n_open;
	uint32_t *gone;    /* tops whose directories go when a line is durable */
	size_t n_gone, cap_gone, n_gone_line;
	/* not guarded */
	_Atomic uint32_t line; /* births below are shared: top of the newest held one + 1; 0: none is */
	_Atomic uint32_t below; /* the same of the one before */
	_Atomic size_t n_snaps;
	_Atomic uint64_t oldest_seq;
	_Atomic int64_t changed_ns;
	uint64_t prepared;  /* top + 1 of the snapshot made ready for the record about to be applied; 0: none */
	struct rolling roll; /* changes under the gate, exclusive, and ckpt_lock; or nobody else is there */
	struct mutex making;   /* one create, delete or step at a time; before ckpt_lock */
};

struct snap *snaps_find_name(struct snaps *s, struct slice name); /* gate or lock held */
struct snap *snaps_find_gen(struct snaps *s, uint64_t gen);
struct held *snaps_find_top(struct snaps *s, uint64_t top);
struct held *snaps_find_held(struct snaps *s, uint64_t gen); /* not being dropped */
/* The newest one below `top` that is not being dropped; NULL. */
struct held *snaps_held_before(struct snaps *s, uint32_t top);
void snaps_set_line(struct fs *fs); /* after any change of `held` */
/* Takes it out of the table, and its directory goes with the next checkpoint. */
MUST_CHECK int snaps_forget_held(struct fs *fs, struct held *h);
/* open.c; lock is held */
void held_close_locked(struct fs *fs, struct held *h) REQUIRES(fs->snaps->lock);
/* Of one that is not in use: whether its index is that of the state before batch `seq`. */
bool snap_is_whole(struct fs *fs, uint64_t top, uint64_t seq);
/* create.c, for rollback.c; `making` is held where it creates */
MUST_CHECK int snap_may_create(struct fs *fs, const char *name); /* -EEXIST, -EMLINK, -EOVERFLOW */
MUST_CHECK int snap_go_ahead(struct fs *fs);
MUST_CHECK int snap_create_gated(struct fs *fs, const struct fs_cred *cred, const char *name); /* in checkpoint_closed() */
MUST_CHECK int snap_log_alone(struct fs *fs, struct record *rec);
MUST_CHECK int snap_while_leading(struct fs *fs, const struct fs_cred *cred, const char *name,
				  int (*how)(struct fs *fs, const struct fs_cred *cred, const char *name));
/* rollback.c */
MUST_CHECK int snap_roll_note(struct fs *fs, const struct record *r, uint64_t seq); /* the record is applied: the walk is due */
MUST_CHECK int snap_roll_follow(struct fs *fs, const struct record *r, int (*then)(void *ctx), void *ctx);
#define K_ENTRY_BYTES 17u
/* diff.c: fs_snap_diff_json(); all: every inode is looked at, marked or not, which finds the same. */
MUST_CHECK int snap_diff_page(struct fs *fs, uint64_t from_gen, uint64_t to_gen, uint64_t ino, bool all, struct buf *out);
/* list.c: as JSON: a string, or {"hex": ...} where it is not UTF-8; NULL: no memory. */
struct json_t *snap_text_json(const char *text);
