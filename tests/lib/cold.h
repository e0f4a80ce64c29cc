/*
 * cold.h: the object stores of a simulated volume, as a table of frames: what ageing and recall do with them, step by step and
 * without a network, so that a test decides when each step happens.
 *
 * What is in the table is what stores keep: it survives every crash of the volume, and is never changed.
 * Ownership: there is one table in the process, for any number of volumes (nodes, images of crashes), while somebody has it open; it
 * serves tree_read() too (tree_recall).  Threads: one.
 * Errors: -errno of the volume; running out of memory aborts.
 */
#pragma once

#include "fs/core/core.h"
#include "fs/core/tier/tier.h"
#include "tests/lib/rng.h"

struct cold;

struct cold *cold_open(void);
struct cold *cold_close(struct cold *c); /* empty after the last; NULL is fine; returns NULL */

/* A file read to be packed, between watching it and placing it. */
struct cold_pack {
	struct object_row row;
	struct packed_leaf *leaf; /* owned */
	size_t n;
};
/*
 * Watches the file and packs it into a new object; `rng`: now and then only a part of it (NULL: all).  Recalls what is cold.  *ret->n
 * is 0 for a file without data.
 */
MUST_CHECK int cold_pack(struct cold *c, struct fs *fs, uint64_t ino, struct rng *rng, struct cold_pack *ret);
/* Places it, and watches the file no more; *ret_placed: leaves. */
MUST_CHECK int cold_place(struct fs *fs, uint64_t ino, struct cold_pack *p, size_t *ret_placed);
/* Both. */
MUST_CHECK int cold_tier(struct cold *c, struct fs *fs, uint64_t ino, struct rng *rng);
/* All homes of tiered data go; then what was cold is read from the table. */
MUST_CHECK int cold_evict(struct fs *fs, uint64_t ino);
/* What was cold gets homes again. */
MUST_CHECK int cold_keep(struct cold *c, struct fs *fs, uint64_t ino);
/* After -EINPROGRESS: what this thread missed comes into memory.  -ENODATA: it missed nothing; -ENOENT: there is no such frame. */
MUST_CHECK int cold_recall(struct cold *c, struct fs *fs);

/* Whether every leaf's frame is in the table with the data of its tiered slots, and each row's object; else `why`. */
bool cold_check(struct cold *c, struct fs *fs, char *why, size_t cap);
/* The blocks of a frame by slot (LEAF_SLOTS blocks); NULL when there is none.  Borrowed. */
const uint8_t *cold_frame(struct cold *c, const struct leaf_object *at, uint16_t *ret_mask);
