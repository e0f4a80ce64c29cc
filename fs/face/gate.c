/*
 * gate.c: the table of operations: each request goes to the volume (ops_*.c) or, when it is about a node or the name of .clawfs,
 * to what serves that (virtual.h).
 *
 * A node of .clawfs whose table has no such operation is answered here, and never with ENOSYS, which would switch the operation
 * off for the whole mount.  Not in the table, so that libfuse answers ENOSYS and the kernel does the work itself or stops asking:
 *   access   default_permissions: the kernel checks modes and ACLs;
 *   locks    flock, fcntl and OFD locks live in the kernel, the only place that opens files;
 *   poll     regular files are always ready.
 */
#include "fs/face/virtual.h"

#include <errno.h>
#include <fcntl.h>

/* An operation on one node: `otherwise` answers when what serves it has none. */
#define GATE(op, node, otherwise, params, args)                                                                                  \
	static void gate_##op params                                                                                             \
	{                                                                                                                        \
		const struct fuse_lowlevel_ops *v = virtual_ops(node);                                                           \
                                                                                                                                 \
		if (!v)                                                                                                          \
			op_##op args;                                                                                            \
		else if (v->op)                                                                                                  \
			v->op args;                                                                                              \
		else                                                                                                             \
			otherwise;                                                                                               \
	}

/* One that makes or takes a name, which must not be that of .clawfs. */
#define GATE_NAME(op, error, params, args)                                                                                       \
	static void gate_##op params                                                                                             \
	{                                                                                                                        \
		const struct fuse_lowlevel_ops *v = virtual_ops(parent);                                                         \
                                                                                                                                 \
		if (virtual_is_name(parent, name))                                                                               \
			reply_err(req, error);                                                                                   \
		else if (!v)                                                                                                     \
			op_##op args;                                                                                            \
		else if (v->op)                                                                                                  \
			v->op args;                                                                                              \
		else                                                                                                             \
			reply_err(req, -EPERM);                                                                                  \
	}

#define REFUSE(error) reply_err(req, error)

static void reply_empty_list(fuse_req_t req, size_t size)
{
	if (size)
		reply_bytes(req, 0, NULL, 0);
	else
		(void)fuse_reply_xattr(req, 0);
}

GATE(getattr, ino, REFUSE(-ENOENT), (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi), (req, ino, fi))
GATE(setattr, ino, REFUSE(-EPERM), (fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set, struct fuse_file_info *fi),
     (req, ino, st, to_set, fi))
GATE(readlink, ino, REFUSE(-EINVAL), (fuse_req_t req, fuse_ino_t ino), (req, ino))
/* What is generated cannot be written, which the kernel would find out only when it hands it over. */
static void open_virtual(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (!request_face(req)->no_open && (fi->flags & O_ACCMODE) != O_RDONLY)
		reply_err(req, -EPERM);
	else
		op_open(req, ino, fi);
}

GATE(open, ino, open_virtual(req, ino, fi), (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi), (req, ino, fi))
GATE(release, ino, op_release(req, ino, fi), (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi), (req, ino, fi))
GATE(flush, ino, op_flush(req, ino, fi), (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi), (req, ino, fi))
GATE(read, ino, REFUSE(-EISDIR), (fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi),
     (req, ino, size, off, fi))
GATE(write, ino, REFUSE(-EPERM),
     (fuse_req_t req, fuse_ino_t ino, const char *p, size_t size, off_t off, struct fuse_file_info *fi),
     (req, ino, p, size, off, fi))
GATE(fsync, ino, REFUSE(0), (fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi), (req, ino, datasync, fi))
GATE(opendir, ino, op_opendir(req, ino, fi), (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi), (req, ino, fi))
GATE(readdir, ino, REFUSE(-ENOTDIR), (fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi),
     (req, ino, size, off, fi))
GATE(readdirplus, ino, REFUSE(-ENOTDIR), (fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi),
     (req, ino, size, off, fi))
GATE(statfs, ino, op_statfs(req, FS_ROOT_INO), (fuse_req_t req, fuse_ino_t ino), (req, ino))
GATE(setxattr, ino, REFUSE(-EPERM), (fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags),
     (req, ino, name, value, size, flags))
GATE(getxattr, ino, REFUSE(-ENODATA), (fuse_req_t req, fuse_ino_t ino, const char *name, size_t size), (req, ino, name, size))
GATE(listxattr, ino, reply_empty_list(req, size), (fuse_req_t req, fuse_ino_t ino, size_t size), (req, ino, size))
GATE(removexattr, ino, REFUSE(-EPERM), (fuse_req_t req, fuse_ino_t ino, const char *name), (req, ino, name))
GATE(fallocate, ino, REFUSE(-EPERM), (fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi),
     (req, ino, mode, off, len, fi))
GATE(lseek, ino, REFUSE(-EINVAL), (fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi),
     (req, ino, off, whence, fi))
GATE(ioctl, ino, REFUSE(-ENOTTY),
     (fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi, unsigned flags, const void *in,
      size_t in_len, size_t out_len),
     (req, ino, cmd, arg, fi, flags, in, in_len, out_len))

GATE_NAME(mknod, -EEXIST, (fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev),
	  (req, parent, name, mode, rdev))
GATE_NAME(create, -EEXIST, (fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi),
	  (req, parent, name, mode, fi))
GATE_NAME(mkdir, -EEXIST, (fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode), (req, parent, name, mode))
GATE_NAME(symlink, -EEXIST, (fuse_req_t req, const char *target, fuse_ino_t parent, const char *name),
	  (req, target, parent, name))
GATE_NAME(unlink, -EPERM, (fuse_req_t req, fuse_ino_t parent, const char *name), (req, parent, name))
GATE_NAME(rmdir, -EPERM, (fuse_req_t req, fuse_ino_t parent, const char *name), (req, parent, name))

static void gate_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const struct fuse_lowlevel_ops *v = virtual_ops(parent);

	if (virtual_is_name(parent, name))
		virtual_reply_dir(req);
	else if (!v)
		op_lookup(req, parent, name);
	else if (v->lookup)
		v->lookup(req, parent, name);
	else
		reply_err(req, -ENOENT);
}

static void forget(struct face *f, uint64_t ino, uint64_t n)
{
	if (virtual_is(ino))
		virtual_forget(f, ino, n);
	else
		fs_forget(f->fs, ino, n);
}

static void gate_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	forget(request_face(req), ino, nlookup);
	fuse_reply_none(req);
}

static void gate_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		forget(request_face(req), forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

/* A second name for a file: only within the volume, or within a tree that knows how. */
static void gate_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	const struct fuse_lowlevel_ops *v = virtual_ops(ino);

	if (virtual_is_name(parent, name))
		reply_err(req, -EEXIST);
	else if (v != virtual_ops(parent))
		reply_err(req, virtual_is(parent) ? -EPERM : -EXDEV);
	else if (!v)
		op_link(req, ino, parent, name);
	else if (v->link)
		v->link(req, ino, parent, name);
	else
		reply_err(req, -EPERM);
}

/* What serves the old place decides, and sees itself whether the new one is its own. */
static void gate_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name,
			unsigned flags)
{
	const struct fuse_lowlevel_ops *v = virtual_ops(parent);

	if (virtual_is_name(parent, name) || virtual_is_name(new_parent, new_name))
		reply_err(req, -EPERM);
	else if (v && v->rename)
		v->rename(req, parent, name, new_parent, new_name, flags);
	else if (v || virtual_is(new_parent))
		reply_err(req, -EPERM);
	else
		op_rename(req, parent, name, new_parent, new_name, flags);
}

/* Out of .clawfs: with EXDEV the kernel copies by reading and writing. */
static void gate_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_off, struct fuse_file_info *from_fi, fuse_ino_t to,
				 off_t to_off, struct fuse_file_info *to_fi, size_t len, int flags)
{
	const struct fuse_lowlevel_ops *v = virtual_ops(from);

	if (virtual_is(to))
		reply_err(req, -EPERM);
	else if (!v)
		op_copy_file_range(req, from, from_off, from_fi, to, to_off, to_fi, len, flags);
	else if (v->copy_file_range)
		v->copy_file_range(req, from, from_off, from_fi, to, to_off, to_fi, len, flags);
	else
		reply_err(req, -EXDEV);
}

const struct fuse_lowlevel_ops face_ops = {
    .init = op_init,
    .lookup = gate_lookup,
    .forget = gate_forget,
    .forget_multi = gate_forget_multi,
    .getattr = gate_getattr,
    .setattr = gate_setattr,
    .readlink = gate_readlink,
    .mknod = gate_mknod,
    .mkdir = gate_mkdir,
    .unlink = gate_unlink,
    .rmdir = gate_rmdir,
    .symlink = gate_symlink,
    .rename = gate_rename,
    .link = gate_link,
    .open = gate_open,
    .create = gate_create,
    .release = gate_release,
    .flush = gate_flush,
    .read = gate_read,
    .write = gate_write,
    .fsync = gate_fsync,
    .opendir = gate_opendir,
    .readdir = gate_readdir,
    .readdirplus = gate_readdirplus,
    .fsyncdir = gate_fsync,
    .statfs = gate_statfs,
    .setxattr = gate_setxattr,
    .getxattr = gate_getxattr,
    .listxattr = gate_listxattr,
    .removexattr = gate_removexattr,
    .fallocate = gate_fallocate,
    .copy_file_range = gate_copy_file_range,
    .lseek = gate_lseek,
    .ioctl = gate_ioctl,
};
