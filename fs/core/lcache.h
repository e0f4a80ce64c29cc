/*
 * lcache.h: leaves in memory, decoded, between the files that change them and the index that keeps them.
 *
 * A leaf is changed several times before a checkpoint (staged, homed, overwritten): the index sees the last state only.
 * Changes reach it when a leaf is evicted, and at a checkpoint (lcache_save); the journal has them.
 * Content is guarded by the lock of the inode whose leaf it is: shared to get, exclusive to put.  The cache's own locks
 * guard its structure.
 * Threads: any.  Errors: those of index_get_leaf(), but an absent leaf is an empty one.
 */
#pragma once

#include "fs/core/leaf.h"
#include "fs/store/kv.h"

struct lcache;

/* Room for about n_leaves (584 bytes each). */
MUST_CHECK int lcache_new(struct kv *kv, uint32_t n_leaves, struct lcache **ret);
struct lcache *lcache_free(struct lcache *lc);

MUST_CHECK int lcache_get(struct lcache *lc, uint64_t ino, uint64_t leaf, struct leaf *ret);
MUST_CHECK int lcache_put(struct lcache *lc, uint64_t ino, uint64_t leaf, const struct leaf *l);
/* Forgets it; what the index has in its place counts from now on. */
void lcache_forget(struct lcache *lc, uint64_t ino, uint64_t leaf);

/* Forgets all of them, none of which is dirty: the index was changed below; every stripe is held, or nobody else is there. */
void lcache_clear(struct lcache *lc);

/* Writes every dirty leaf (of one inode: before table E is walked) to the index. */
MUST_CHECK int lcache_save(struct lcache *lc);
MUST_CHECK int lcache_save_inode(struct lcache *lc, uint64_t ino);
