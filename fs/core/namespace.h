/*
 * namespace.h: names, for those who change them: namespace.c, rename.c and lookup.c.
 *
 * Threads: any, with the locks that each call names.  Errors: -errno; damage is noted, and comes as what fs_damaged() returns.
 */
#pragma once

#include "fs/core/core.h"
#include "fs/core/index.h"

/* Can it be made?  Names that are always there (-EEXIST) are told apart from those that cannot be (-EINVAL, -ENAMETOOLONG). */
MUST_CHECK int name_check(const char *name);
/* The directory `ino`, its stripe held; -ENOTDIR, -ENOENT for one that is removed. */
MUST_CHECK int dir_get(struct fs *fs, uint64_t ino, struct inode **ret);
/* The entry of `name`, the stripe of `parent` held at least shared; -ENOENT. */
MUST_CHECK int name_find(struct fs *fs, uint64_t parent, const char *name, struct dentry *ret);
/* Looks it up under the shared lock of `parent`; *ret_ino is what to lock next. */
MUST_CHECK int name_peek(struct fs *fs, uint64_t parent, const char *name, uint64_t *ret_ino);
