/*
 * ops_xattr.c: extended attributes; names in clawfs.* go to the control table and never to an inode.
 *
 * The kernel asks for security.capability before it lets a write pass; fs_getxattr answers -ENODATA from the inode alone.
 * No call here is ever answered with ENOSYS (reply_err sees to it): that would switch xattrs off for the whole mount.
 */
#include "fs/face/face_internal.h"

#include <errno.h>
#include <string.h>

#include "fs/face/control.h"

/* Size 0 asks for the length. */
static void reply_value(fuse_req_t req, int r, size_t size, size_t len)
{
	if (r == 0 && size == 0)
		(void)fuse_reply_xattr(req, len);
	else
		reply_bytes(req, r, worker_self->reply, len);
}

void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	const struct fs_cred cred = request_cred(req);
	struct fs *fs = request_fs(req);
	int r;

	if (control_is(name))
		r = control_set(fs, &cred, ino, name, value, size);
	else
		r = fs_setxattr(fs, &cred, ino, name, value, size, flags);
	reply_err(req, r);
}

void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	size_t cap = min_u64(size, FACE_IO_MAX), len = 0;
	struct fs *fs = request_fs(req);
	int r;

	if (control_is(name))
		r = control_get(fs, ino, name, worker_self->reply, cap, &len);
	else
		r = fs_getxattr(fs, ino, name, worker_self->reply, cap, &len);
	reply_value(req, r, size, len);
}

/* As the host's filesystems do: trusted.* is shown to root only.  Returns the length of what is left. */
static size_t hide_trusted(char *list, size_t len)
{
	size_t kept = 0;

	for (size_t at = 0, n; at < len; at += n) {
		n = strlen(list + at) + 1;
		if (strncmp(list + at, "trusted.", 8) == 0)
			continue;
		memmove(list + kept, list + at, n);
		kept += n;
	}
	return kept;
}

/* Always the whole list: what the caller may see of it, and whether that fits, is known only then. */
void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	char *list = (char *)worker_self->reply;
	size_t len = 0;
	int r = fs_listxattr(request_fs(req), ino, list, FACE_IO_MAX, &len);

	if (r == 0 && fuse_req_ctx(req)->uid != 0)
		len = hide_trusted(list, len);
	if (r == 0 && size && len > size)
		r = -ERANGE;
	reply_value(req, r, size, len);
}

void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	const struct fs_cred cred = request_cred(req);

	reply_err(req, control_is(name) ? -EOPNOTSUPP : fs_removexattr(request_fs(req), &cred, ino, name));
}
