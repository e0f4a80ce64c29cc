/*
 * tree.h: a whole filesystem tree as a flat, sorted list, taken from a mounted volume or from a model, to be hashed and
 * compared.
 *
 * Ownership: a struct tree owns its entries.  Threads: one at a time.
 * Errors: tree_read gives the first -errno and says in `ret_why` where it was met.
 */
#pragma once

#include "fs/core/fs.h"

struct tree_entry {
	char *path;
	uint64_t ino, size, rdev; /* size: of regular files and symlinks; 0 otherwise */
	uint32_t mode, nlink, uid, gid;
	uint64_t data_hash; /* bytes of a file, target of a symlink */
	uint64_t xattr_hash;
	int64_t mtime_ns;
};
struct tree {
	struct tree_entry *e;
	size_t n, cap;
};

void tree_add(struct tree *t, const char *path, const struct tree_entry *e); /* copies both */
void tree_sort(struct tree *t);
void tree_free(struct tree *t);
/* Over everything. */
uint64_t tree_hash(const struct tree *t);
/* The first difference in words ("/a/b: size 3, expected 4"); false when there is none. */
bool tree_diff(const struct tree *got, const struct tree *want, char *ret_text, size_t cap);

/* Sums the hashes of single attributes, so that the order they are listed in does not count. */
uint64_t tree_hash_xattr(const char *name, const void *value, size_t len);
uint64_t tree_hash_bytes(const void *p, size_t len);

/* Reads every name, attribute and byte of an open volume, and of the snapshots that it holds. */
int tree_read(struct fs *fs, struct tree *ret, char *ret_why, size_t why_cap);
/*
 * Takes out of `want` the snapshots that the volume knows of and does not hold, as a copy may; *ret_n: how many.  False when it
 * knows of one that is not in `want`.
 */
bool tree_leave_out_unheld(struct fs *fs, struct tree *want, size_t *ret_n);
/* Brings what a read of this thread missed into memory (see fs_recall()); NULL: nothing is cold. */
extern int (*tree_recall)(struct fs *fs);
/* All bytes of a file, malloc'ed. */
int tree_read_file(struct fs *fs, uint64_t ino, uint64_t size, uint8_t **ret_p);
