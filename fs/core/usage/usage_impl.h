/*
 * usage_impl.h: what the files of fs/core/usage share.  Private to them.
 */
#pragma once

#include <stdatomic.h>
#include <sys/queue.h>

#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/usage/usage.h"

/* Signed: what is pending may be less than nothing, and so may a total whose directory had more folded out of it than into it. */
struct usage_sum {
	int64_t bytes, files, subdirs;
	int64_t ctime_ns; /* the newest: it is never taken back */
};

/* A directory in memory. */
struct usage_dir {
	uint64_t ino, parent;     /* parent: once it is loaded */
	struct usage_sum total;   /* what was folded into it; once it is loaded */
	struct usage_sum pending; /* of itself alone, and not yet in any total */
	uint32_t generation;      /* of usage->quotas when `nearest` was told */
	int32_t nearest;          /* the nearest quota at or above it; -1: none */
	bool loaded, dirty, is_pending, stored; /* stored: table U may have a row */
	LIST_ENTRY(usage_dir) hash;
	TAILQ_ENTRY(usage_dir) lru, pending_link, dirty_link;
};
TAILQ_HEAD(usage_dirs, usage_dir);
LIST_HEAD(usage_bucket, usage_dir);

struct quota {
	uint64_t ino, max_bytes, max_entries;   /* UINT64_MAX: no limit */
	int64_t bytes, entries;                 /* in use, exactly */
	int64_t held_bytes, held_entries;       /* reserved for operations under way */
	int64_t want_bytes, want_entries;       /* of the operation looked at */
	bool gone;                              /* the directory was removed */
};
struct quotas {
	struct rwlock gate; /* shared from a claim to the end of its operation; alone: a tree moves between quotas, or quotas change */
	/* guarded by usage->lock, changed under the gate too */
	struct quota *quota; /* rising inodes; owned */
	size_t n;
	uint32_t generation; /* what directories remember of quotas counts only if it is of this one */
	/* not guarded */
	_Atomic uint64_t seen; /* policies_generation() that `quota` was made from */
	_Atomic bool any;
};

struct usage {
	_Atomic bool valid; /* totals are kept; changed under lock */
	struct mutex lock;
	/* guarded by lock */
	struct usage_bucket *bucket; /* owned */
	size_t n, limit;             /* directories in memory, and how many are meant to be: a power of two, and of buckets */
	size_t n_pending;
	struct usage_dirs lru;     /* all; oldest first */
	struct usage_dirs pending; /* those with something to fold; parents tend to be before their children */
	struct usage_dirs dirty;   /* their totals are not as table U says */
	bool counting;             /* rebuild.c: a directory without a row has nothing in it yet */
	struct quotas quotas;
};

/* ---- table.c; REQUIRES(usage->lock) ---- */

/* The directory in memory; one that was not there has nothing pending and is not loaded.  NULL: out of memory. */
struct usage_dir *usage_at(struct usage *u, uint64_t ino);
/* The same, loaded; -ENOENT: it has no row. */
MUST_CHECK int usage_dir_load(struct fs *fs, uint64_t ino, struct usage_dir **ret);
MUST_CHECK int usage_note(struct usage *u, uint64_t ino, const struct usage_sum *sum);
void usage_sum_add(struct usage_sum *to, const struct usage_sum *sum);
/* Folds and writes; at most `max` of either, so that the lock need not be held for long.  *ret_more: there is more. */
MUST_CHECK int usage_fold(struct fs *fs, size_t max, bool *ret_more);
MUST_CHECK int usage_write(struct fs *fs, size_t max, bool *ret_more);
MUST_CHECK int usage_fold_all(struct fs *fs);
MUST_CHECK int usage_fold_dir(struct fs *fs, struct usage_dir *d);
void usage_mark_dirty(struct usage *u, struct usage_dir *d);
/* Takes it from memory, with what was pending in it. */
void usage_drop(struct usage *u, struct usage_dir *d);
void usage_drop_all(struct usage *u);
/* Back to the limit, folding and writing what goes. */
MUST_CHECK int usage_trim(struct fs *fs);
MUST_CHECK int usage_row_get(struct kv *kv, uint64_t ino, struct usage_sum *ret, uint64_t *ret_parent);

/* ---- usage.c; REQUIRES(usage->lock) ---- */
void usage_lost(struct fs *fs, int error);
/* The totals of directory `ino` as they are now. */
MUST_CHECK int usage_total(struct fs *fs, uint64_t ino, struct usage_sum *ret);

/* ---- quota.c; REQUIRES(usage->lock) ---- */
/* Directory `ino` gained `sum`. */
MUST_CHECK int quota_note(struct fs *fs, uint64_t ino, const struct usage_sum *sum);
/* Directory `ino` is about to move: its totals go from the quotas above `from` to those above `to`. */
MUST_CHECK int quota_note_move(struct fs *fs, uint64_t ino, uint64_t from, uint64_t to);
/* The nearest quota at or above `ino` as a place in the list, -1: none; the next one above it. */
MUST_CHECK int quota_nearest(struct fs *fs, uint64_t ino, int32_t *ret);
MUST_CHECK int quota_above(struct fs *fs, int32_t *at);
typedef void quota_fn(struct quota *q, int64_t bytes, int64_t entries);
/* fn for every quota at or above `dir`. */
MUST_CHECK int quota_each_above(struct fs *fs, uint64_t dir, quota_fn *fn, int64_t bytes, int64_t entries);
/* The list is made anew when it is needed.  Directory `ino` was removed. */
void quotas_forget(struct fs *fs);
void quota_gone(struct fs *fs, uint64_t ino);
/* Without usage->lock: the list is that of the policies as they are. */
void quotas_refresh(struct fs *fs);

/* claim.c: what was reserved is used, or not needed. */
void claim_release(struct fs *fs, struct quota_claim *c);

void quotas_open(struct usage *u);
void quotas_close(struct usage *u);

/* ---- names.c ---- */
MUST_CHECK int names_put(struct fs *fs, uint64_t ino, uint64_t parent, uint64_t cookie);
MUST_CHECK int names_first(struct fs *fs, uint64_t ino, uint64_t *ret_parent, uint64_t *ret_cookie); /* -ENOENT */
MUST_CHECK int names_have(struct fs *fs, uint64_t ino, uint64_t parent, uint64_t cookie, bool *ret);
MUST_CHECK int names_count(struct fs *fs, uint64_t ino, uint64_t *ret_n);
