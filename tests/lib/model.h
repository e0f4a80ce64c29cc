/*
 * model.h: a filesystem that is obviously right: inodes in a table, files as plain bytes, directories as lists of names.
 *
 * The same operations with the same arguments are applied to it and to the volume under test.  It gives out no inode numbers:
 * the volume does, and the caller hands them in.
 * Durability: none; a clone is a cheap snapshot (bytes, names and attributes are shared until changed).
 * Ownership: the test owns models.  Threads: one at a time.
 * Errors: the -errno POSIX names, and then nothing changed; running out of memory aborts.
 */
#pragma once

#include "tests/lib/rng.h"
#include "tests/lib/tree.h"

struct model;

struct model *model_new(uint32_t root_mode, uint32_t uid, uint32_t gid);
/* What operations from now on set mtime to; 0 at first. */
void model_set_time(struct model *m, int64_t now_ns);
struct model *model_clone(const struct model *m);
void model_free(struct model *m);

/* Everything reachable from the root. */
void model_tree(const struct model *m, struct tree *ret);
uint64_t model_hash(const struct model *m);

/* What an inode is now; NULL when there is none.  Borrowed until the next change. */
struct model_inode {
	uint64_t ino;
	uint32_t mode, nlink, uid, gid;
	uint64_t rdev, size, parent; /* parent: of directories */
	size_t n_entries;            /* of directories */
	int64_t mtime_ns;
};
const struct model_inode *model_get(const struct model *m, uint64_t ino);
uint64_t model_lookup(const struct model *m, uint64_t dir, const char *name); /* 0: none */
/* True when `dir` is `other` or lies above it. */
bool model_is_above(const struct model *m, uint64_t dir, uint64_t other);
/* Bytes of a regular file, borrowed. */
const uint8_t *model_bytes(const struct model *m, uint64_t ino);
bool model_has_xattr(const struct model *m, uint64_t ino, const char *name);

/* Random members, 0 when there is none.  `type` as S_IFMT bits, 0: any; orphans only when `orphan`. */
uint64_t model_pick(const struct model *m, struct rng *rng, uint32_t type, bool orphan);
/* A random name of a random directory, false when there is none; `ret_name` is borrowed until the next change. */
bool model_pick_name(const struct model *m, struct rng *rng, uint64_t *ret_dir, const char **ret_name);
/* A random attribute name of an inode, or NULL. */
const char *model_pick_xattr(const struct model *m, struct rng *rng, uint64_t ino);
size_t model_count(const struct model *m);
uint64_t model_orphan(const struct model *m, size_t i); /* the i-th without a name; 0: there is none */
uint64_t model_total_bytes(const struct model *m);

/* Operations.  `check` variants without effect: give ino 0 where a new inode would be made to learn the errno alone. */
int model_mknod(struct model *m, uint64_t dir, const char *name, uint32_t mode, uint32_t uid, uint32_t gid, uint64_t rdev,
		const char *target, uint64_t ino);
int model_link(struct model *m, uint64_t ino, uint64_t dir, const char *name);
/* An inode left without names stays, as an orphan, until model_forget(). */
int model_unlink(struct model *m, uint64_t dir, const char *name);
int model_rmdir(struct model *m, uint64_t dir, const char *name);
int model_rename(struct model *m, uint64_t dir, const char *name, uint64_t new_dir, const char *new_name, unsigned flags);
int model_setattr(struct model *m, uint64_t ino, const struct record_attr *a);
int model_write(struct model *m, uint64_t ino, uint64_t off, const void *p, size_t len, bool keep_mtime);
int model_fallocate(struct model *m, uint64_t ino, int mode, uint64_t off, uint64_t len);
int model_setxattr(struct model *m, uint64_t ino, const char *name, const void *value, size_t len, int flags);
int model_removexattr(struct model *m, uint64_t ino, const char *name);
/* Snapshots: the tree as it is, under a name; part of model_tree() and model_hash() as "/.clawfs/snapshots/NAME". */
int model_snap(struct model *m, const char *name);
int model_snap_drop(struct model *m, const char *name);
/* The tree is again what it was; files without a name that were open then are there, too. */
int model_snap_back(struct model *m, const char *name);
size_t model_snaps(const struct model *m);
const char *model_snap_name(const struct model *m, size_t i);
void model_forget(struct model *m, uint64_t ino); /* of an orphan: it is gone */
void model_forget_orphans(struct model *m);       /* as a mount does */
