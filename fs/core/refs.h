/*
 * refs.h: how often the kernel was told of each inode (nlookup), and which of them have no name left.
 *
 * An orphan lives for as long as the kernel may still name it; whoever takes the last reference away reaps it.  16 bytes an
 * inode, so that a million inodes in the kernel's caches cost 32 MiB here at most.
 * Threads: any.  Errors: -ENOMEM.
 */
#pragma once

#include "base/util.h"

struct refs;

MUST_CHECK int refs_new(struct refs **ret);
struct refs *refs_free(struct refs *r);

MUST_CHECK int refs_add(struct refs *r, uint64_t ino, uint64_t n);
/* True when `ino` is an orphan and that was its last reference: the caller reaps it. */
bool refs_drop(struct refs *r, uint64_t ino, uint64_t n);
/* `ino` lost its last name.  True when the kernel does not know it: the caller reaps it. */
bool refs_orphan(struct refs *r, uint64_t ino);
/*
 * What the kernel has cached of `ino` is of another tree: it has another generation from now on, until the kernel has forgotten it.
 * 0 of whatever was not changed.
 */
void refs_changed(struct refs *r, uint64_t ino);
uint64_t refs_generation(struct refs *r, uint64_t ino);
/* None is an orphan, as far as is known here: refs_orphan() says anew which are. */
void refs_not_orphans(struct refs *r);
uint64_t refs_get(struct refs *r, uint64_t ino); /* references of one inode */
uint64_t refs_count(struct refs *r);             /* inodes with any */
/* Calls fn for each inode with any, a shard at a time, with no lock held; what comes and goes meanwhile may be missed. -ENOMEM. */
MUST_CHECK int refs_each(struct refs *r, void (*fn)(void *ctx, uint64_t ino), void *ctx);
