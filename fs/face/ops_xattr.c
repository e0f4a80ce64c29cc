/*
 * ops_xattr.c: extended attributes; names in clawfs.* go to the control table and never to an inode.
 *
 * On a follower clawfs.pos and a clawfs.wait that succeeded promise what this mount shows, so the kernel's caches must be told of
 * it before they are answered (notify.c). The kernel asks for security.capability before it lets a write pass; fs_getxattr
 * answers -ENODATA from the inode alone. No call here is ever answered with ENOSYS (reply_err sees to it): that would switch
 * xattrs off for the whole mount.
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

/* A setting that may wait, for another machine say. */
struct pending_set {
	struct awaited awaited; /* first */
	bool promises;          /* its success says what this mount shows */
	bool ioctl;
	uint64_t act; /* of the audit log; 0: none */
};

static void reply_set(struct awaited *awaited, int result)
{
	const struct pending_set *p = container_of(awaited, struct pending_set, awaited);
	struct face *f = request_face(awaited->req);

	fs_audit_result(f->fs, p->act, result);
	if (result == 0 && p->promises)
		notifier_answer(f->notifier, awaited->req, NULL, 0);
	else if (result == 0 && p->ioctl)
		(void)fuse_reply_ioctl(awaited->req, 0, NULL, 0);
	else
		reply_err(awaited->req, result);
}

static void set_control(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, bool ioctl)
{
	const struct fs_cred cred = request_cred(req);
	const struct face *f = request_face(req);
	struct pending_set *p = malloc(sizeof(*p));

	if (!p) {
		reply_err(req, -ENOMEM);
		return;
	}
	p->promises = f->follower && strcmp(name, "clawfs.wait") == 0;
	p->ioctl = ioctl;
	await_begin(&p->awaited, req, reply_set);
	control_set(f->fs, f->provider, &cred, ino, name, value, size, &p->awaited.waiter, &p->act);
	await_end(&p->awaited);
}

void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	const struct fs_cred cred = request_cred(req);

	if (strcmp(name, "clawfs.feed.wait") == 0)
		reply_err(req, -EOPNOTSUPP); /* it would hold the directory's lock: by ioctl only (control_feed.c) */
	else if (control_is(name))
		set_control(req, ino, name, value, size, false);
	else
		reply_err(req, fs_setxattr(request_fs(req), &cred, ino, name, value, size, flags));
}

void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	const struct fs_cred cred = request_cred(req);
	const struct face *f = request_face(req);
	size_t cap = min_u64(size, FACE_IO_MAX), len = 0;
	int r;

	if (control_is(name))
		r = control_get(f->fs, f->provider, &cred, ino, name, worker_self->reply, cap, &len);
	else
		r = fs_getxattr(f->fs, ino, name, worker_self->reply, cap, &len);
	if (r == 0 && cap && len && f->follower && strcmp(name, "clawfs.pos") == 0)
		notifier_answer(f->notifier, req, worker_self->reply, len);
	else
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
	struct fs *fs = request_fs(req);

	reply_err(req, control_is(name) ? control_remove(fs, &cred, ino, name) : fs_removexattr(fs, &cred, ino, name));
}

static bool ioctl_valid(const struct control_ioctl *in, size_t len)
{
	return len == sizeof(*in) && memchr(in->name, '\0', sizeof(in->name)) && memchr(in->value, '\0', sizeof(in->value)) &&
	       control_is(in->name);
}

static void remove_control(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	const struct fs_cred cred = request_cred(req);
	int r = control_remove(request_fs(req), &cred, ino, name);

	if (r < 0)
		reply_err(req, r);
	else
		(void)fuse_reply_ioctl(req, 0, NULL, 0);
}

void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi, unsigned flags, const void *in,
	      size_t in_len, size_t out_len)
{
	const struct control_ioctl *c = in;

	(void)arg;
	(void)fi;
	(void)flags;
	(void)out_len;
	if (cmd != CONTROL_IOCTL_SET && cmd != CONTROL_IOCTL_REMOVE)
		reply_err(req, -ENOTTY);
	else if (!ioctl_valid(c, in_len))
		reply_err(req, -EINVAL);
	else if (strcmp(c->name, "clawfs.wait") == 0)
		reply_err(req, -ENOTTY);
	else if (cmd == CONTROL_IOCTL_REMOVE)
		remove_control(req, ino, c->name);
	else
		set_control(req, ino, c->name, c->value, strlen(c->value), true);
}
