/*
 * icache.h: inodes in memory and their locks.
 *
 * Inodes are cached in stripes: the lock that guards an inode guards its cache slots too, so a hit takes one lock.  Cached
 * changes reach the index when the inode is evicted or at the gate of a checkpoint (icache_save); the journal has them.
 * Ownership: a struct inode is borrowed until its stripe is unlocked.
 * Threads: any; the stripe's lock as each function says.
 */
#pragma once

#include "base/lock.h"
#include "fs/store/kv.h"

struct inode {
	uint64_t ino;
	uint32_t mode, uid, gid, nlink, n_xattr;
	uint64_t size, blocks;
	int64_t atime_ns, mtime_ns, ctime_ns, btime_ns;
	uint64_t rdev;
	uint64_t parent, cookie, next_cookie;
	uint32_t used; /* stripe's clock when last asked for: least recently used goes first */
	bool dirty;
};

#define ICACHE_WAYS 16u
struct icache;

MUST_CHECK int icache_new(struct kv *kv, uint32_t n_stripes, struct icache **ret);
struct icache *icache_free(struct icache *ic);

/* Locks of up to five inodes (0 is skipped), taken in rising order. */
struct lockset {
	uint32_t stripe[5];
	uint32_t n;
};
void lockset_lock(struct icache *ic, struct lockset *ls, const uint64_t *inos, uint32_t n);
void lockset_unlock(struct icache *ic, struct lockset *ls);
void icache_rdlock(struct icache *ic, uint64_t ino);
void icache_rdunlock(struct icache *ic, uint64_t ino);

/* Stripe locked exclusive: the inode, read from the index when not cached; -ENOENT, -EUCLEAN, -EBADMSG.  At least the eight
 * inodes asked for last in a stripe stay valid. */
MUST_CHECK int icache_get(struct icache *ic, uint64_t ino, struct inode **ret);
/* Stripe locked shared: the inode when cached, else NULL. */
struct inode *icache_peek(struct icache *ic, uint64_t ino);
/* A copy, under the shared lock where that is enough. */
MUST_CHECK int icache_copy(struct icache *ic, uint64_t ino, struct inode *ret);
/* A copy when it is cached and its lock is free this moment: never waits, so the caller may hold any stripe. */
bool icache_try_copy(struct icache *ic, uint64_t ino, struct inode *ret);
/* The same: 1; 0: it is not cached, and the index has it as it is; -EAGAIN: its lock is not free. */
MUST_CHECK int icache_try(struct icache *ic, uint64_t ino, struct inode *ret);
bool icache_same_stripe(const struct icache *ic, uint64_t a, uint64_t b);
/* Takes the shared lock of `ino` with the inode cached; *ret is borrowed until icache_rdunlock(). */
MUST_CHECK int icache_rdlock_get(struct icache *ic, uint64_t ino, struct inode **ret);
/* Stripe locked exclusive: a new inode, all zero but ino, dirty. */
MUST_CHECK int icache_create(struct icache *ic, uint64_t ino, struct inode **ret);
/* Stripe locked exclusive: forgets it; what the index has under its number counts from now on. */
void icache_forget(struct icache *ic, uint64_t ino);
/* Stripe locked exclusive: forgets it and takes it from the index. */
MUST_CHECK int icache_remove(struct icache *ic, uint64_t ino);

/* Every lock there is, exclusive; none is held by the caller.  icache_save() is the caller's alone until they are given back. */
void icache_lock_all(struct icache *ic);
void icache_unlock_all(struct icache *ic);

/* Forgets all inodes, none of which is dirty: the index was changed below; nobody else is there. */
void icache_clear(struct icache *ic);
/* Writes every dirty inode to the index: at the gate, no operation in progress. */
MUST_CHECK int icache_save(struct icache *ic);
