/*
 * ops_dir.c: reading directories.
 *
 * The filesystem's cookies serve as the kernel's offsets: each entry carries its own cookie, and the next call starts
 * behind it, so entries may come and go in between.
 * READDIRPLUS hands out one reference for each entry that went into the reply with its attributes.  An error after the
 * first entry is therefore not reported at once: the entries so far are sent, and the next call meets the error again.
 * A reply that fails leaves those references behind; it happens only when the connection ended, and they end with it.
 */
#include "fs/face/virtual.h"

#include <errno.h>
#include <string.h>

struct dir_reply {
	fuse_req_t req;
	fuse_ino_t ino;
	char *p;
	size_t used, cap;
	bool full;
};

/*
 * Asks not to be asked again: no per-directory state is kept, and the kernel then also caches what it read.  Not so on a
 * follower, where each reading of a directory shows it as it is now.
 */
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct face *f = request_face(req);

	(void)ino;
	if (f->no_opendir) {
		(void)fuse_reply_err(req, ENOSYS);
		return;
	}
	fi->cache_readdir = !f->follower;
	fi->keep_cache = !f->follower;
	(void)fuse_reply_open(req, fi);
}

static int add_plain(void *ctx, const struct fs_dirent *e)
{
	struct dir_reply *d = ctx;

	if (virtual_is_name(d->ino, e->name)) /* shadowed */
		return 0;
	const struct stat st = {.st_ino = e->ino, .st_mode = e->type};
	size_t n = fuse_add_direntry(d->req, d->p + d->used, d->cap - d->used, e->name, &st, (off_t)e->cookie);

	if (n > d->cap - d->used) {
		d->full = true;
		return -ENOSPC;
	}
	d->used += n;
	return 0;
}

static bool is_dot(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* "." and ".." go without attributes (inode 0 in the entry, the number in the name's part), as the kernel wants them. */
static int add_plus(void *ctx, const struct fs_dirent *e)
{
	struct dir_reply *d = ctx;

	if (virtual_is_name(d->ino, e->name))
		return 0;
	struct fuse_entry_param entry = {.attr = {.st_ino = e->ino, .st_mode = e->type}};
	const bool with_attr = e->attr && !is_dot(e->name);

	if (with_attr)
		attr_to_entry(request_face(d->req), e->attr, &entry);
	size_t n = fuse_add_direntry_plus(d->req, d->p + d->used, d->cap - d->used, e->name, &entry, (off_t)e->cookie);

	if (n > d->cap - d->used) {
		d->full = true;
		return -ENOSPC;
	}
	d->used += n;
	return with_attr;
}

static void read_directory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	struct dir_reply d = {.req = req, .ino = ino, .p = (char *)worker_self->reply, .cap = min_u64(size, FACE_IO_MAX)};
	int r = fs_readdir(request_fs(req), ino, (uint64_t)off, plus, plus ? add_plus : add_plain, &d);

	if (d.used)
		r = 0;
	else if (d.full)
		r = -EINVAL; /* the caller's buffer is too small for one name */
	reply_bytes(req, r, d.p, d.used);
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	read_directory(req, ino, size, off, false);
}

void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	read_directory(req, ino, size, off, true);
}
