/*
 * acl.h: POSIX.1e access control lists as the kernel's xattrs carry them, and how they and the mode follow each other.
 *
 * Format: le32 version 2, then entries {le16 tag, le16 perm, le32 id}, as linux/posix_acl_xattr.h.
 * Threads: no state.  Errors: -EINVAL for bytes that are no valid ACL.
 */
#pragma once

#include "base/util.h"

#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"
#define ACL_BYTES_MAX (4 + 8 * 1024)

/* The mode's permission bits that an access ACL stands for (POSIX.1e 23.1.2); *ret_minimal: it says no more than they do. */
MUST_CHECK int acl_to_mode(const void *acl, size_t len, uint32_t *mode, bool *ret_minimal);
/* chmod: writes the mode's bits into the entries of an access ACL. */
MUST_CHECK int acl_set_mode(void *acl, size_t len, uint32_t mode);
/* A new file under a directory with default ACL `acl`: turns the copy into the file's access ACL and narrows *mode. */
MUST_CHECK int acl_inherit(void *acl, size_t len, uint32_t *mode, bool *ret_minimal);
