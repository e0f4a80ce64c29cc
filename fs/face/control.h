/*
 * control.h: the admin's extended attributes, namespace clawfs.*, as one table.
 *
 * Plain text without a trailing NUL; size 0 asks for the length; -ERANGE when short; -ENODATA when unset; -EOPNOTSUPP when
 * read-only; never listed by listxattr, so that cp -a, rsync -X and tar never copy them.
 * Threads: any.
 */
#pragma once

#include "fs/core/fs.h"

static inline bool control_is(const char *name) { return __builtin_strncmp(name, "clawfs.", 7) == 0; }
MUST_CHECK int control_get(struct fs *fs, uint64_t ino, const char *name, void *p, size_t cap, size_t *ret_len);
MUST_CHECK int control_set(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *name, const void *p, size_t len);
