/*
 * trial.h: what a batch does, played through before it counts: the inodes, names and leaves that it touches, as they are here and
 * then as each record leaves them.  check.c says what that is for; names are checked in check_names.c.
 *
 * Ownership: the trial owns its items; names in them are borrowed from the batch.  Threads: one.
 * Errors: -EUCLEAN and a line in the log for what does not fit, -ENOMEM, and what reading the volume gives.
 */
#pragma once

#include <sys/stat.h>

#include "fs/core/replica/impl.h"

#define SLAB_ITEMS      256u

enum item_kind { ITEM_INODE, ITEM_NAME, ITEM_LEAF };

/* One inode, name or leaf of the trial. */
struct item {
	struct item *next; /* in its bucket */
	enum item_kind kind;
	uint64_t a, b;     /* inode; or parent and hash of the name; or inode and leaf */
	struct slice name; /* borrowed from the batch */
	union {
		struct {
			bool exists;
			bool cut; /* which of its blocks are in use is not known any more */
			uint32_t mode, nlink;
			uint64_t size, next_cookie, parent;
		} inode;
		uint64_t ino; /* of the name; 0: there is none */
		struct {
			/* bit i for slot i: has a block or a promise; has data; an object has it; may be in the ring */
			uint16_t space, data, tiered, staged;
		} leaf;
	};
};
struct slab {
	struct slab *next;
	uint32_t n;
	struct item item[SLAB_ITEMS];
};
struct trial {
	struct fs *fs;
	uint64_t seq, epoch, history, promised;
	uint32_t n_records; /* of the batch */
	struct item **bucket;
	uint32_t n_buckets; /* a power of two */
	struct slab *slabs;
};

void trial_free(struct trial *t);
/* As the records so far leave them; one that is not there is an item that says so. */
MUST_CHECK int trial_inode(struct trial *t, uint64_t ino, struct item **ret);
MUST_CHECK int trial_name(struct trial *t, uint64_t parent, struct slice name, struct item **ret);
MUST_CHECK int trial_leaf(struct trial *t, const struct item *file, uint64_t leaf, struct item **ret);
/* -EUCLEAN, with a line in the log that says why. */
int trial_misfit(const struct trial *t, const struct record *r, const char *why);

static inline bool is_dir(const struct item *i)
{
	return i->inode.exists && S_ISDIR(i->inode.mode);
}

/* A directory that names can be put into and taken from. */
static inline bool is_live_dir(const struct item *i)
{
	return is_dir(i) && i->inode.nlink > 0;
}

static inline bool is_file(const struct item *i)
{
	return i->inode.exists && S_ISREG(i->inode.mode);
}

/* ---- check_names.c: records that change names; 0, or as trial_misfit() ---- */

MUST_CHECK int trial_mknode(struct trial *t, const struct record *r);
MUST_CHECK int trial_link(struct trial *t, const struct record *r);
MUST_CHECK int trial_unlink(struct trial *t, const struct record *r);
MUST_CHECK int trial_rename(struct trial *t, const struct record *r);
