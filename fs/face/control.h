/*
 * control.h: the admin's extended attributes, namespace clawfs.*, as one table.
 *
 * Plain text without a trailing NUL; size 0 asks for the length; -ERANGE when short; -ENODATA when unset; -EOPNOTSUPP when
 * read-only; never listed by listxattr, so that cp -a, rsync -X and tar never copy them.
 * Threads: any.  Setting one may have to wait for other machines, so it is answered by a call and holds no thread.
 */
#pragma once

#include <sys/ioctl.h>

#include "base/buf.h"
#include "fs/core/fs.h"

/*
 * Further attributes of the root directory, which the control table asks for when it has none of that name: those of
 * replication.  `name` is what follows "clawfs."; `cred` is who asks.  get appends to `out`; -ENODATA from get and -EOPNOTSUPP from
 * set for a name that is none of its own.  set is asked only for root and the owner of the root directory; get decides by itself.
 */
struct control_provider {
	void *ctx;
	int (*get)(void *ctx, const struct fs_cred *cred, const char *name, struct buf *out);
	int (*set)(void *ctx, const struct fs_cred *cred, const char *name, const void *value, size_t len);
};

static inline bool control_is(const char *name) { return __builtin_strncmp(name, "clawfs.", 7) == 0; }
/* `more` may be NULL. */
MUST_CHECK int control_get(struct fs *fs, const struct control_provider *more, const struct fs_cred *cred, uint64_t ino,
			   const char *name, void *p, size_t cap, size_t *ret_len);
/*
 * Calls w->done(w, 0 or -errno) once, now or later, perhaps from another thread; `value` is not needed after the return.
 * *ret_act, set before that call, is for fs_audit_result(), which the caller calls with the result before it answers.
 */
void control_set(struct fs *fs, const struct control_provider *more, const struct fs_cred *cred, uint64_t ino, const char *name,
		 const void *value, size_t len, struct journal_waiter *w, uint64_t *ret_act);
/* Unsets a policy; -ENODATA when the inode has none of its own, -EOPNOTSUPP for anything that is no policy. */
MUST_CHECK int control_remove(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *name);

/*
 * The same by ioctl(2) on an open file or directory, for the inode it is.  setxattr(2) waits for the inode's lock, which the
 * kernel holds while the inode is fsynced; an fsync may wait for followers without end, and the way out must not wait behind it.
 * -ENOTTY for clawfs.wait, whose answer goes another way.
 */
struct control_ioctl {
	char name[64];    /* "clawfs.durability" */
	char value[1024]; /* text, ends with NUL */
};
#define CONTROL_IOCTL_SET    _IOW(0xcf, 1, struct control_ioctl)
#define CONTROL_IOCTL_REMOVE _IOW(0xcf, 2, struct control_ioctl)
