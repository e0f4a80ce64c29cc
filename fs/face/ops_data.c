/*
 * ops_data.c: contents of files.
 *
 * Nothing is copied here: a WRITE's payload lies block-aligned in the worker's receive buffer and is handed down as it
 * is, a READ lands in the worker's reply buffer and leaves from there.
 * OPEN is answered for one reason: opening for writing says EROFS at once where nothing can be written, as a read-only mount
 * does. That is a file of a snapshot, a follower, and a leader that does not know whether another one took the lead that it was
 * offered.  Files carry no state of their own, so RELEASE says nothing.  A leader's mount that was not asked to be strict about
 * it (strict-open) refuses the first OPEN with ENOSYS, and from then on the kernel answers open and close by itself.  With the
 * writeback cache reads may come for files opened write-only, and writes without anyone's credentials.
 */
#include "fs/face/snapshots.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct face *f = request_face(req);

	(void)ino;
	if (f->no_open) {
		(void)fuse_reply_err(req, ENOSYS);
		return;
	}
	if ((fi->flags & O_ACCMODE) != O_RDONLY && (fs_is_snap(ino) || !fs_takes_changes(f->fs))) {
		reply_err(req, -EROFS);
		return;
	}
	fi->keep_cache = 1; /* it is right: the kernel is told of changes */
	(void)fuse_reply_open(req, fi);
}

/* A new file and its OPEN in one message; where the kernel opens by itself, it does better with MKNOD, which has no RELEASE. */
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	const struct fs_cred cred = request_cred(req);
	struct face *f = request_face(req); /* req is gone once replied to */
	struct fuse_entry_param e;
	struct fs_attr a;

	if (f->no_open) {
		(void)fuse_reply_err(req, ENOSYS);
		return;
	}
	int r = fs_mknod(f->fs, &cred, parent, name, (mode & 07777) | S_IFREG, 0, &a);
	if (r < 0) {
		reply_err(req, r);
		return;
	}
	attr_to_entry(f, &a, &e);
	fi->keep_cache = 1;
	if (fuse_reply_create(req, &e, fi) < 0)
		fs_forget(f->fs, a.ino, 1);
}

void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fi;
	(void)fuse_reply_err(req, 0);
}

/* The kernel wrote the file's dirty pages before it sent this: there is nothing left to do on close. */
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fi;
	(void)fuse_reply_err(req, request_face(req)->no_flush ? ENOSYS : 0);
}

void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	void *p = NULL;
	size_t len = 0;

	(void)fi;
	int r = fs_read(request_fs(req), ino, (uint64_t)off, min_u64(size, FACE_IO_MAX), worker_self->reply, &p, &len);

	if (!request_deferred(req, r))
		reply_bytes(req, r, p, len);
}

/* libfuse passes on only one of the write's flags. */
static bool write_kills_privs(void)
{
	const struct fuse_write_in *in = (const void *)(request_header() + 1);

	return in->write_flags & FUSE_WRITE_KILL_SUIDGID;
}

static void reply_written(fuse_req_t req, int r, size_t n)
{
	if (r < 0)
		reply_err(req, r);
	else
		(void)fuse_reply_write(req, n);
}

/* A request whose reply waits for a commit. */
struct pending_sync {
	struct awaited awaited; /* first */
	size_t written;         /* 0: an FSYNC */
};

static void reply_synced(struct awaited *awaited, int result)
{
	const struct pending_sync *p = container_of(awaited, struct pending_sync, awaited);

	if (p->written)
		reply_written(awaited->req, result, p->written);
	else
		reply_err(awaited->req, result);
}

static void sync_then_reply(fuse_req_t req, fuse_ino_t ino, size_t written)
{
	struct pending_sync *p = malloc(sizeof(*p));

	if (!p) {
		reply_err(req, -ENOMEM);
		return;
	}
	p->written = written;
	await_begin(&p->awaited, req, reply_synced);
	fs_sync_async(p->awaited.fs, ino, &p->awaited.waiter);
	await_end(&p->awaited);
}

void op_write(fuse_req_t req, fuse_ino_t ino, const char *p, size_t size, off_t off, struct fuse_file_info *fi)
{
	const struct fs_cred cred = request_cred(req);
	const struct face *f = request_face(req);
	int r = 0;

	if (fs_is_snap(ino)) {
		spoiled_add(f->spoiled, ino);
		reply_err(req, -EROFS);
		return;
	}
	if (write_kills_privs())
		r = attr_kill_privs(f->fs, &cred, ino);
	if (r == 0)
		r = fs_write(f->fs, &cred, ino, (uint64_t)off, size, p, f->writeback && fi->writepage);
	if (request_deferred(req, r))
		return;
	/*
	 * Only direct writes say so.  The kernel sends FSYNC after the synchronous ones as well, but completes asynchronous
	 * ones (libaio, io_uring) on this reply alone.
	 */
	if (r == 0 && (fi->flags & (O_SYNC | O_DSYNC)))
		sync_then_reply(req, ino, size);
	else
		reply_written(req, r, size);
}

/* Data only or not, file or directory: a durable point covers the whole volume (guarantee G2), at the level of `ino`. */
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)datasync;
	(void)fi;
	sync_then_reply(req, ino, 0);
}

void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	const struct fs_cred cred = request_cred(req);

	(void)fi;
	int r = fs_fallocate(request_fs(req), &cred, ino, mode, (uint64_t)off, (uint64_t)len);

	if (!request_deferred(req, r))
		reply_err(req, r);
}

void op_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_off, struct fuse_file_info *from_fi, fuse_ino_t to,
			off_t to_off, struct fuse_file_info *to_fi, size_t len, int flags)
{
	const struct fs_cred cred = request_cred(req);
	size_t copied = 0;

	(void)from_fi;
	(void)to_fi;
	(void)flags;
	int r = fs_copy_range(request_fs(req), &cred, from, (uint64_t)from_off, to, (uint64_t)to_off, len, &copied);

	if (!request_deferred(req, r))
		reply_written(req, r, copied);
}
