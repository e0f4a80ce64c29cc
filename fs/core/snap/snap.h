/*
 * snap.h: snapshots, as the other rooms of fs/core see them.  Private to fs/core; fs.h has what the face calls.
 *
 * A snapshot is the index of one moment, kept beside the live one (kv.h, snapshot_create), and the promise that no block it refers
 * to is written or given away.  Birth generations keep the promise: the clock (fs->snapshot_generation) is the birth of every
 * block that is allocated, and each snapshot has a *top*, the clock's value when it was made; then the clock goes on.  A block
 * born at or before the top of the newest snapshot may be in it.  Such a block is *shared*:
 *
 *     it is never written again: applying a record that would, takes it out of the leaf first (rule R2)
 *     it is not freed when it goes from the leaf: it goes to the deadlist of the newest snapshot
 *
 * The deadlist of a snapshot s has the blocks that are in s and not in what came next (the next snapshot, or the live tree).  So
 * when s goes, what is on its list and was born after the snapshot before s was only in s, and is freed; the rest is in that one,
 * too, and moves to its list (as ZFS does it: Bonwick, "Space maps and deadlists").
 *
 * Two tables: S is logical, moved by records alone, the same on every node.  K is of this node: which snapshots it *holds*, that
 * is, has the index of, and their deadlists.  A node does not hold what was made while it could not be read (between two states, in a
 * fence window), nor what was made before it was a copy.
 *
 * Locks: what the tables say changes under the gate, exclusive; `lock` of struct snaps guards the structure and is taken last.
 * Who reads a snapshot counts himself (snap_get), and a snapshot goes when nobody does; readers do not need the gate.
 */
#pragma once

#include "fs/core/core.h"
#include "fs/core/index.h"

#define SNAPS_MAX 1024u

/* ---- numbers of inodes in snapshots, as the kernel sees them: bits 63 and 62, the top, the inode's own number ---- */

#define SNAP_INO_BIT   (UINT64_C(3) << 62)
#define SNAP_INO_BITS  40u
#define SNAP_INO_MASK  ((UINT64_C(1) << SNAP_INO_BITS) - 1)
#define SNAP_TOP_MAX   ((UINT64_C(1) << (62 - SNAP_INO_BITS)) - 1) /* tops are below */
static inline bool snap_is_ino(uint64_t ino) { return ino >= SNAP_INO_BIT; }
static inline uint64_t snap_ino(uint64_t top, uint64_t ino) { return SNAP_INO_BIT | top << SNAP_INO_BITS | ino; }
static inline uint64_t snap_ino_top(uint64_t ino) { return (ino & ~SNAP_INO_BIT) >> SNAP_INO_BITS; }
static inline uint64_t snap_ino_own(uint64_t ino) { return ino & SNAP_INO_MASK; }

/* ---- table.c ---- */

MUST_CHECK int snaps_open(struct fs *fs); /* before the index */
MUST_CHECK int snaps_load(struct fs *fs); /* from the index, at open and after a resync */
void snaps_close(struct fs *fs);          /* before the index; NULL is fine */
/* A block of that birth may be in a snapshot.  One load. */
bool snap_shares(struct fs *fs, uint32_t birth);
/* Whether there is work for fs_snap_step(). */
bool snaps_dropping(struct fs *fs);
/* Whether any snapshot is in table S. */
bool snaps_any(struct fs *fs);
/* Whether one is that was made at or before batch `seq`: what died in that batch may be in it. */
bool snaps_reach(struct fs *fs, uint64_t seq);
/* Durably, before the first snapshot is here: older releases, which would free its blocks, refuse the volume. */
MUST_CHECK int snap_feature(struct fs *fs);
/* Applies SNAP or SNAPDROP, or notes SNAPROLL; the gate is held exclusive, or nobody else is there. */
MUST_CHECK int snap_apply(struct fs *fs, const struct record *r, uint64_t seq);
/* -EUCLEAN: no leader can have logged that here. */
MUST_CHECK int snap_check(struct fs *fs, const struct record *r);
/* A row of S from another node (resync): what this node holds under that number goes unless the row says the same. */
MUST_CHECK int snap_put_row(struct fs *fs, uint64_t gen, struct slice value);
MUST_CHECK int snap_row_check(struct slice value);

/* ---- automatic.c ---- */

/* The policy "snap.schedule"; NULL unsets it.  -EINVAL. */
bool snap_policy_is(struct slice key);
MUST_CHECK int snap_policy_check(const char *value);

/* ---- create.c ---- */

/*
 * A follower is about to apply the SNAP record `r` of batch `seq`: makes what it will hold, and calls `then` under the gate,
 * exclusive, at that point.  Where nothing can be held it only does the latter.  After a SNAPROLL record the tree is that of the
 * snapshot when it returns; -EUCLEAN, and nothing was done, on a node that does not hold it: it needs a resync.
 */
MUST_CHECK int snap_follow(struct fs *fs, const struct record *r, int (*then)(void *ctx), void *ctx);
/* The first mount after a crash: what is left of snapshots that do not exist goes. */
void snap_sweep_dirs(struct fs *fs);
/* Under the gate, exclusive, when a line is drawn; and when that is durable: directories of snapshots that are gone by then. */
void snap_draw_line(struct fs *fs);
void snap_line_durable(struct fs *fs);

/* ---- rollback.c ---- */

/* Durably, before the first SNAPROLL record is here. */
MUST_CHECK int snap_roll_feature(struct fs *fs);
/* Whether that was ever: lists may have blocks then that their own snapshot has not. */
bool snap_was_rolled(struct fs *fs);
/* A SNAPROLL record is in the journal and what it asks for is not durable yet: nothing else is applied. */
bool snap_rolling(struct fs *fs);
/* What an anchor may say was applied: not that record. */
uint64_t snap_roll_bound(struct fs *fs, uint64_t applied_seq);
/* Recovery found one: it is carried out, before anything else is written. */
MUST_CHECK int snap_roll_resume(struct fs *fs);

/* ---- dead.c ---- */

/* A shared block goes from the live tree: onto the newest snapshot's list.  Adds to `b`, which the caller writes. */
void snap_bury(struct fs *fs, struct kv_batch *b, pointer_t home, uint32_t birth);

/* ---- open.c ---- */

struct held;
/* The index of a snapshot, until snap_put(); -ESTALE when it is gone, -EIO when its index cannot be read (logged). */
MUST_CHECK int snap_get(struct fs *fs, uint64_t top, struct held **ret, struct kv **ret_kv);
void snap_put(struct fs *fs, struct held *h);
/* The newest one that is held and not being deleted, of those whose top is at most `top`; false: there is none. */
bool snap_held_below(struct fs *fs, uint64_t top, uint32_t *ret_top);
bool snap_held_above(struct fs *fs, uint64_t top, uint32_t *ret_top); /* the oldest of those above it */
bool snap_list_below(struct fs *fs, uint64_t top, uint32_t *ret_top); /* as the first, being deleted or not: it may have a list */
/* Between the top of one that is held, which is this node's, and its number in table S, which is every node's. */
bool snap_gen_of(struct fs *fs, uint64_t top, uint64_t *ret_gen);
bool snap_top_of(struct fs *fs, uint64_t gen, uint64_t *ret_top);
/* Of the snapshot that the inode is of: the newest batch that is in it, and when it was made, by its leader's clock; false: it is not
 * held. */
bool snap_made(struct fs *fs, uint64_t ino, uint64_t *ret_seq, int64_t *ret_ns);

/* ---- view.c: what fs_ calls do with the number of an inode in a snapshot ---- */

MUST_CHECK int snap_getattr(struct fs *fs, uint64_t ino, struct fs_attr *ret);
MUST_CHECK int snap_lookup(struct fs *fs, uint64_t parent, const char *name, struct fs_attr *ret);
MUST_CHECK int snap_readdir(struct fs *fs, uint64_t ino, uint64_t cookie, bool want_attr, fs_readdir_cb *cb, void *ctx);
MUST_CHECK int snap_readlink(struct fs *fs, uint64_t ino, char *p, size_t cap);
MUST_CHECK int snap_getxattr(struct fs *fs, uint64_t ino, const char *name, void *value, size_t cap, size_t *ret_len);
MUST_CHECK int snap_listxattr(struct fs *fs, uint64_t ino, char *list, size_t cap, size_t *ret_len);
MUST_CHECK int snap_read(struct fs *fs, uint64_t ino, uint64_t off, size_t len, void *p, void **ret_p, size_t *ret_len);
MUST_CHECK int snap_lseek(struct fs *fs, uint64_t ino, uint64_t off, bool data, uint64_t *ret_off);
/* The inode, its number that of the snapshot; a leaf (absent: empty). */
MUST_CHECK int snap_inode(struct fs *fs, uint64_t ino, struct inode *ret);
MUST_CHECK int snap_leaf(struct fs *fs, uint64_t ino, uint64_t leaf, struct leaf *ret);
/* As fs_path(). */
void snap_path(struct fs *fs, uint64_t ino, char *ret_path, size_t cap);
