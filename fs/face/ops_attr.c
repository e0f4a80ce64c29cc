/*
 * ops_attr.c: attributes of inodes and of the volume.
 *
 * With the writeback cache the kernel owns size, mtime and ctime of regular files: it ignores what replies say about
 * them, and sends its own values with SETATTR (on close, fsync and truncate).
 *
 * Setuid and setgid.  Under FUSE_HANDLE_KILLPRIV_V2 the kernel no longer turns "clear the bits" into a new mode; it marks
 * the request, and for a change of owner expects it unasked.  In exchange it stops asking for security.capability
 * before every write(2), which costs a round trip each.  It still removes that capability itself.
 */
#include "fs/face/face_internal.h"

#include <errno.h>
#include <sys/stat.h>
#include <time.h>

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs_attr a;

	(void)fi;
	reply_attr(req, fs_getattr(request_fs(req), ino, &a), &a);
}

static uint32_t mode_without_privs(uint32_t mode)
{
	mode &= ~(uint32_t)S_ISUID;
	if (mode & S_IXGRP) /* without it setgid means mandatory locking and stays */
		mode &= ~(uint32_t)S_ISGID;
	return mode;
}

int attr_kill_privs(struct fs *fs, const struct fs_cred *cred, uint64_t ino)
{
	struct fs_attr a;
	int r = fs_getattr(fs, ino, &a);

	if (r < 0 || mode_without_privs(a.mode) == a.mode)
		return r;
	const struct record_attr in = {.mask = ATTR_MODE, .mode = mode_without_privs(a.mode) & 07777};

	return fs_setattr(fs, cred, ino, &in, &a);
}

/*
 * Whether the change takes the setuid and setgid bits along.  Marked: a truncate by someone who may not keep them.
 * Unmarked: a new owner; a ctime alone, which only chown(-1, -1) sends; and nothing at all, which is what is left of the
 * kernel's "clear the bits" before fallocate and copy_file_range.  The latter also comes when only security.capability
 * goes, so root, who may keep the bits, is left out.
 */
static bool setattr_kills_privs(const struct face *f, const struct fs_cred *cred, int to_set)
{
	const int killers = FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID | FUSE_SET_ATTR_KILL_SUID | FUSE_SET_ATTR_KILL_SGID;

	if (!f->kill_privs)
		return false;
	return (to_set & killers) || to_set == FUSE_SET_ATTR_CTIME || (to_set == 0 && cred->uid != 0);
}

/* Adds the mode without its privileges to `in` where it has any; directories keep theirs. */
static int add_killed_mode(struct fs *fs, fuse_ino_t ino, struct record_attr *in)
{
	struct fs_attr now;
	int r = fs_getattr(fs, ino, &now);

	if (r < 0 || S_ISDIR(now.mode))
		return r;
	const uint32_t mode = in->mask & ATTR_MODE ? in->mode : now.mode & 07777;

	if (mode_without_privs(mode) != mode) {
		in->mask |= ATTR_MODE;
		in->mode = mode_without_privs(mode);
	}
	return 0;
}

static void add_times(struct record_attr *in, const struct stat *st, int to_set)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW)) {
		in->mask |= ATTR_ATIME;
		in->atime_ns = timespec_to_ns(to_set & FUSE_SET_ATTR_ATIME_NOW ? now : st->st_atim);
	}
	if (to_set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW)) {
		in->mask |= ATTR_MTIME;
		in->mtime_ns = timespec_to_ns(to_set & FUSE_SET_ATTR_MTIME_NOW ? now : st->st_mtim);
	}
	if (to_set & FUSE_SET_ATTR_CTIME) {
		in->mask |= ATTR_CTIME;
		in->ctime_ns = timespec_to_ns(st->st_ctim);
	}
}

void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set, struct fuse_file_info *fi)
{
	const struct fs_cred cred = request_cred(req);
	const struct face *f = request_face(req);
	struct record_attr in = {
	    .mode = st->st_mode & 07777, .uid = st->st_uid, .gid = st->st_gid, .size = (uint64_t)st->st_size};
	struct fs_attr a;
	int r = 0;

	(void)fi;
	if (to_set & FUSE_SET_ATTR_MODE)
		in.mask |= ATTR_MODE;
	if (to_set & FUSE_SET_ATTR_UID)
		in.mask |= ATTR_UID;
	if (to_set & FUSE_SET_ATTR_GID)
		in.mask |= ATTR_GID;
	if (to_set & FUSE_SET_ATTR_SIZE)
		in.mask |= ATTR_SIZE;
	add_times(&in, st, to_set);
	if (setattr_kills_privs(f, &cred, to_set))
		r = add_killed_mode(f->fs, ino, &in);
	if (r == 0) /* nothing to set is no change: ctime stays */
		r = in.mask ? fs_setattr(f->fs, &cred, ino, &in, &a) : fs_getattr(f->fs, ino, &a);
	if (!request_deferred(req, r))
		reply_attr(req, r, &a);
}

void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct fs_statfs s;

	fs_statfs_at(request_fs(req), ino, &s);
	const struct statvfs st = {
	    .f_bsize = DISK_BLOCK,
	    .f_frsize = DISK_BLOCK,
	    .f_blocks = s.total_blocks,
	    .f_bfree = s.free_blocks,
	    .f_bavail = s.free_blocks,
	    .f_files = s.files,
	    .f_ffree = s.free_files,
	    .f_favail = s.free_files,
	    .f_namemax = RECORD_NAME_MAX,
	};
	(void)fuse_reply_statfs(req, &st);
}
