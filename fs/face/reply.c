/*
 * reply.c: the edge between the filesystem's results and the kernel's structures.
 *
 * reply_err() is the one place that turns -errno into a reply.  Checksum and structure errors (-EBADMSG, -EUCLEAN) become
 * EIO.  -ENOSYS never leaves: the kernel takes it as "never ask again" and would switch the operation off for the whole
 * mount; the few handlers that want just that answer through libfuse directly.
 * A reply that fails found the request gone (the connection ended): nothing is left to tell, only references to return.
 */
#include "fs/face/face_internal.h"
#include "fs/face/snapshots.h"

#include <errno.h>
#include <string.h>

int errno_for_kernel(int r)
{
	int e = -r;

	return e == EBADMSG || e == EUCLEAN ? EIO : e == ENOSYS ? EOPNOTSUPP : e;
}

void reply_err(fuse_req_t req, int r)
{
	(void)fuse_reply_err(req, errno_for_kernel(r));
}

static struct timespec ns_to_timespec(int64_t ns)
{
	int64_t sec = ns / NSEC_PER_SEC, rest = ns % NSEC_PER_SEC;

	if (rest < 0) {
		rest += NSEC_PER_SEC;
		sec--;
	}
	return (struct timespec){.tv_sec = sec, .tv_nsec = rest};
}

int64_t timespec_to_ns(struct timespec ts)
{
	int64_t ns;

	if (__builtin_mul_overflow((int64_t)ts.tv_sec, NSEC_PER_SEC, &ns) || __builtin_add_overflow(ns, (int64_t)ts.tv_nsec, &ns))
		return ts.tv_sec < 0 ? INT64_MIN + 1 : INT64_MAX; /* INT64_MIN means "no time" in records */
	return ns;
}

/*
 * The kernel keeps st_blocks as it was last told until the file is closed, while it gathers what is written.  GNU tar --sparse
 * takes 0 for "nothing but a hole" and reads nothing, so a file that is being written would come into an archive as zeros: no
 * regular file says 0.  Its inode takes room, too.
 */
static blkcnt_t attr_blocks(const struct fs_attr *a)
{
	return S_ISREG(a->mode) && a->blocks_512 == 0 ? 1 : (blkcnt_t)a->blocks_512;
}

void attr_to_stat(const struct fs_attr *a, struct stat *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->st_ino = a->ino;
	ret->st_mode = a->mode;
	ret->st_nlink = a->nlink;
	ret->st_uid = a->uid;
	ret->st_gid = a->gid;
	ret->st_rdev = a->rdev;
	ret->st_size = (off_t)a->size;
	ret->st_blksize = DISK_BLOCK;
	ret->st_blocks = attr_blocks(a);
	ret->st_atim = ns_to_timespec(a->atime_ns);
	ret->st_mtim = ns_to_timespec(a->mtime_ns);
	ret->st_ctim = ns_to_timespec(a->ctime_ns);
}

/*
 * generation stays 0: inode numbers are never used twice, so they need no help over NFS.  But a file of a snapshot that the
 * kernel has spoiled in its cache is another one from then on, and so is one that the way back to a snapshot changed: of a
 * leader's files the kernel believes its own lengths and times.  Who has the old one open gets EIO.
 */
void attr_to_entry(const struct face *f, const struct fs_attr *a, struct fuse_entry_param *ret)
{
	*ret = (struct fuse_entry_param){.ino = a->ino, .attr_timeout = face_timeout_s(f), .entry_timeout = face_timeout_s(f)};
	attr_to_stat(a, &ret->attr);
	if (!fs_is_snap(a->ino)) {
		ret->generation = f->follower ? 0 : fs_generation(f->fs, a->ino);
		return;
	}
	ret->entry_timeout = SNAPSHOT_ENTRY_TIMEOUT_S;
	ret->generation = spoiled_generation(f->spoiled, a->ino);
}

/* An inode with the reference that the filesystem counted for the kernel; given back when the kernel did not take it. */
void reply_entry(fuse_req_t req, int r, const struct fs_attr *a)
{
	struct fuse_entry_param e;
	struct face *f = request_face(req); /* req is gone once replied to */

	if (r < 0) {
		reply_err(req, r);
		return;
	}
	attr_to_entry(f, a, &e);
	if (fuse_reply_entry(req, &e) < 0)
		fs_forget(f->fs, a->ino, 1);
}

void reply_attr(fuse_req_t req, int r, const struct fs_attr *a)
{
	struct stat st;

	if (r < 0) {
		reply_err(req, r);
		return;
	}
	attr_to_stat(a, &st);
	(void)fuse_reply_attr(req, &st, face_timeout_s(request_face(req)));
}

void reply_bytes(fuse_req_t req, int r, const void *p, size_t len)
{
	if (r < 0)
		reply_err(req, r);
	else
		(void)fuse_reply_buf(req, p, len);
}
