/* xattr.h: reading an attribute without locks of its own, for those who hold the inode's.  Private to fs/core. */
#pragma once

#include "fs/core/core.h"

/* As fs_getxattr; the caller holds the inode's stripe or does not care. */
MUST_CHECK int xattr_read(struct fs *fs, uint64_t ino, const char *name, void *value, size_t cap, size_t *ret_len);
