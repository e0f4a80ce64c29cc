/*
 * usage.h: what is below each directory (bytes, files, directories, newest change), at once and exactly, and limits on it.
 *
 * What counts.  A file, symlink, device, fifo or socket counts once, with its size as stat(2) tells it, at the directory of its
 * primary name: the newest one, and when that goes another one (names.c).  So sparse and cold files count with their length, and
 * what has no name any more counts nowhere.  A directory's totals are those of everything below it, without itself.
 *
 * How.  A record changes the totals of one directory and of all above it.  Only the first is written down, in memory (`pending`);
 * it is *folded* upwards, many changes at once, when somebody asks and at a checkpoint, which puts the totals into table U.  At
 * every moment the truth about a directory is its total and what is pending in it and below.  The totals in the index are those of
 * the anchor beside them, so recovery, which applies the later records by the same code, ends with exact ones.
 *
 * Table U is derived: every node makes its own from the records, no resync compares it, and it is counted anew (rebuild.c) when
 * its mark does not name the state of the anchor, as after a release that did not know it had the volume mounted.
 *
 * Threads: any.  Order of locks: stripes, then the gate of the quotas (quota.c), then usage->lock, then policies->lock and the kv's.
 * Errors: totals that cannot be read or kept are given up until the next mount counts them (usage_lost()); nothing else fails for it.
 */
#pragma once

#include "fs/core/fs.h"

struct inode;
struct kv_batch;
struct record;
struct usage;

MUST_CHECK int usage_open(struct fs *fs, uint64_t applied_seq); /* the index is open, the policies are loaded, nothing is replayed */
void usage_close(struct fs *fs);                                /* NULL is fine */
/* Counts everything anew when there are no totals: before anything else uses the volume.  Nothing to do otherwise. */
MUST_CHECK int usage_begin(struct fs *fs);
/* A resync begins: what is known counts for nothing.  It ends: all is counted; nobody reads or changes the volume meanwhile. */
void usage_forget(struct fs *fs);
MUST_CHECK int usage_rebuild(struct fs *fs);

/* Of the inodes that a record names, before it is applied; their stripes are held (or nobody else is there) until usage_after(). */
#define USAGE_INODES 5u
struct usage_seen {
	uint64_t ino, home; /* home: the directory it counts at, of a directory its parent */
	bool counted, dir;
	int64_t size, ctime_ns;
};
struct usage_step {
	uint32_t n;
	struct usage_seen before[USAGE_INODES];
};
struct quota_claim;
void usage_before(struct fs *fs, const struct record *r, struct usage_step *ret);
/* The record was applied.  `claim`: what was reserved for its operation, used up by this; NULL: nothing was. */
void usage_after(struct fs *fs, const struct usage_step *s, struct quota_claim *claim);

/* Puts totals into the index: most of them before the gate, the rest (`all`) under it, exclusive. */
MUST_CHECK int usage_keep(struct fs *fs, bool all);
/* Beside the anchor of `applied_seq`: whether the totals are those of that state. */
void usage_put_mark(struct fs *fs, struct kv_batch *b, uint64_t applied_seq);

/* names.c: rows of files that have several names; the file's stripe is held. */
MUST_CHECK int names_gain(struct fs *fs, const struct inode *in, uint64_t parent, uint64_t cookie); /* before it has the name */
/* It has lost that name, and has others: if it was the primary one, another is from now on. */
MUST_CHECK int names_lose(struct fs *fs, struct inode *in, uint64_t parent, uint64_t cookie);
/* A name moves; in->nlink says how many there are. */
MUST_CHECK int names_move(struct fs *fs, const struct inode *in, uint64_t parent, uint64_t cookie, uint64_t new_parent,
			  uint64_t new_cookie);

/* ---- quota.c ---- */

/*
 * What an operation will need, filled in by it under its stripes and given to fs_log_claimed(), which reserves it before the
 * record is appended, or says -EDQUOT.  What shrinks a directory is worth telling where the same operation lets another grow.
 */
#define CLAIM_WANTS 5u
#define CLAIM_MOVES 2u
struct quota_claim {
	uint32_t n_wants, n_moves;
	struct {
		uint64_t dir;
		int64_t bytes, entries;
	} want[CLAIM_WANTS];
	struct {
		uint64_t dir, from, to; /* a directory with all that is in it */
	} move[CLAIM_MOVES];
	enum { CLAIM_NONE, CLAIM_SHARED, CLAIM_ALONE } held;
	bool reserved;
};
void claim_add(struct quota_claim *c, uint64_t dir, int64_t bytes, int64_t entries);
/* `in`, which has names, grows from in->size to `size`. */
void claim_size(struct quota_claim *c, const struct inode *in, uint64_t size);
void claim_move(struct quota_claim *c, const struct inode *in, uint64_t from, uint64_t to);
MUST_CHECK int claim_take(struct fs *fs, struct quota_claim *c);
void claim_end(struct fs *fs, struct quota_claim *c);

/* Whether a policy's key is one of a quota, and its value one that can be kept: bytes or entries in decimal, NULL: unset. */
bool quota_policy_is(struct slice key);
MUST_CHECK int quota_policy_check(const char *value);

/* ---- check.c: for fsck, over saved rows; each returns the first thing wrong, in words, or NULL ---- */
struct usage_check {
	uint64_t ino;
	int64_t bytes, files, subdirs, ctime_ns;
	const char *wrong;
};
/* Of directory `in`: begin, each of its entries at its cookie, end. */
void usage_check_begin(struct usage_check *c, const struct inode *dir);
void usage_check_entry(struct fs *fs, struct usage_check *c, const struct inode *child, uint64_t cookie);
void usage_check_end(struct fs *fs, struct usage_check *c);
/* Rows of a file's names against its link count. */
const char *usage_check_names(struct fs *fs, const struct inode *in);
bool usage_is_known(struct fs *fs);
/* Whether totals are known and how many quotas there are: part of the status. */
struct json_t *usage_status_json(struct fs *fs);
