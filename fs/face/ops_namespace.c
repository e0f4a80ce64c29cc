/*
 * ops_namespace.c: names: lookup, create, link, remove, rename, and the kernel's references to inodes.
 *
 * Every reply that carries an entry hands the kernel one reference, counted by the filesystem before the reply and given
 * back by FORGET.  A name that does not exist is answered as an entry with inode 0, which the kernel caches as absent.
 * The reference to the root is implicit: the kernel holds it without asking and forgets it at the end.
 */
#include "fs/face/face_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs_attr a;
	int r = fs_lookup(request_fs(req), parent, name, &a);

	if (r == -ENOENT) {
		const struct fuse_entry_param absent = {.entry_timeout = face_timeout_s(request_face(req))};

		(void)fuse_reply_entry(req, &absent);
		return;
	}
	reply_entry(req, r, &a);
}

void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	fs_forget(request_fs(req), ino, nlookup);
	fuse_reply_none(req);
}

void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	struct fs *fs = request_fs(req);

	for (size_t i = 0; i < count; i++)
		fs_forget(fs, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	const struct fs_cred cred = request_cred(req);
	struct fs_attr a;
	int r = fs_mknod(request_fs(req), &cred, parent, name, mode, rdev, &a);

	reply_entry(req, r, &a);
}

void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	op_mknod(req, parent, name, (mode & 07777) | S_IFDIR, 0);
}

void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	const struct fs_cred cred = request_cred(req);
	struct fs_attr a;
	int r = fs_symlink(request_fs(req), &cred, parent, name, target, &a);

	reply_entry(req, r, &a);
}

void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	const struct fs_cred cred = request_cred(req);
	struct fs_attr a;
	int r = fs_link(request_fs(req), &cred, ino, parent, name, &a);

	reply_entry(req, r, &a);
}

void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const struct fs_cred cred = request_cred(req);

	reply_err(req, fs_unlink(request_fs(req), &cred, parent, name));
}

void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const struct fs_cred cred = request_cred(req);

	reply_err(req, fs_rmdir(request_fs(req), &cred, parent, name));
}

void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name, unsigned flags)
{
	const struct fs_cred cred = request_cred(req);

	reply_err(req, fs_rename(request_fs(req), &cred, parent, name, new_parent, new_name, flags));
}

void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char *target = (char *)worker_self->reply;
	int r = fs_readlink(request_fs(req), ino, target, FACE_IO_MAX);

	reply_bytes(req, r, target, r < 0 ? 0 : strlen(target));
}
