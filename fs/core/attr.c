/*
 * attr.c: attributes: stat, chmod, chown, truncate, times.
 *
 * Access times follow relatime, as the host's default does: a read moves atime when it is not newer than mtime or ctime, or a
 * day old.  Reads served by the kernel's cache never get here; docs/OPERATIONS.md says so.
 */
#include <errno.h>
#include <sys/stat.h>

#include "fs/core/acl.h"
#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/snap/snap.h"
#include "fs/core/usage/usage.h"
#include "fs/core/xattr.h"

#define DIRENT_BYTES 32u /* what a directory says of its size, per entry */

void attr_fill(const struct inode *in, struct fs_attr *ret)
{
	*ret = (struct fs_attr){
	    .ino = in->ino,
	    .size = S_ISDIR(in->mode) ? max_u64(in->size * DIRENT_BYTES, BLOCK_SIZE) : in->size,
	    .blocks_512 = in->blocks * (BLOCK_SIZE / 512),
	    .mode = in->mode,
	    .nlink = in->nlink,
	    .uid = in->uid,
	    .gid = in->gid,
	    .rdev = in->rdev,
	    .atime_ns = in->atime_ns,
	    .mtime_ns = in->mtime_ns,
	    .ctime_ns = in->ctime_ns,
	    .btime_ns = in->btime_ns,
	};
}

int fs_getattr(struct fs *fs, uint64_t ino, struct fs_attr *ret)
{
	struct inode in;
	int r = ino == FS_ROOT_INO ? 0 : fs_readable(fs); /* a mount has its root whatever happens */

	if (r < 0)
		return r;
	if (snap_is_ino(ino))
		return snap_getattr(fs, ino, ret);
	r = icache_copy(fs->icache, ino, &in);
	if (r < 0)
		return r == -ENOENT ? r : fs_damaged(fs, ino, 0, "inode");
	attr_fill(&in, ret);
	return 0;
}

static bool atime_is_due(const struct inode *in, int64_t now)
{
	return in->atime_ns <= in->mtime_ns || in->atime_ns <= in->ctime_ns || now - in->atime_ns >= 24 * 3600 * NSEC_PER_SEC;
}

/* A reader never waits for the ring. */
static bool ring_is_busy(struct fs *fs)
{
	struct journal_status js;

	journal_get_status(fs->journal, &js);
	return js.used_blocks > js.ring_blocks / 2;
}

void attr_touch(struct fs *fs, uint64_t ino)
{
	struct record rec = {0};
	struct lockset ls;
	struct inode in, *locked;
	int64_t now = clock_real_ns(fs->clock);

	/* A reader neither waits for a hand-over nor writes on a follower. */
	if (fs->config.noatime || !fs_takes_changes(fs) || atomic_load(&fs->held))
		return;
	if (icache_copy(fs->icache, ino, &in) < 0 || !atime_is_due(&in, now) || ring_is_busy(fs) || op_begin(fs) < 0)
		return;
	lockset_lock(fs->icache, &ls, &ino, 1);
	if (icache_get(fs->icache, ino, &locked) == 0) {
		op_stamp(fs, NULL, &rec, RECORD_SETATTR, ino);
		rec.attr = (struct record_attr){.mask = ATTR_ATIME, .atime_ns = now};
		int r = fs_log(fs, &rec, 1, 0);
		(void)r; /* a failed volume says so itself; a read does not fail for its atime */
	}
	lockset_unlock(fs->icache, &ls);
	op_end(fs);
}

/* chmod keeps an access ACL in step. */
static int stamp_acl_mode(struct fs *fs, const struct fs_cred *cred, const struct inode *in, uint32_t mode, struct record *rec,
			  uint8_t *acl, bool *ret_needed)
{
	size_t len;
	int r = in->n_xattr ? xattr_read(fs, in->ino, ACL_ACCESS, acl, ACL_BYTES_MAX, &len) : -ENODATA;

	*ret_needed = false;
	if (r == -ENODATA)
		return 0;
	if (r == 0)
		r = acl_set_mode(acl, len, mode);
	if (r < 0)
		return r;
	op_stamp(fs, cred, rec, RECORD_SETXATTR, in->ino);
	rec->xattr.name = slice_of(ACL_ACCESS);
	rec->xattr.value = (struct slice){acl, len};
	*ret_needed = true;
	return 0;
}

static int setattr_locked(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const struct record_attr *a)
{
	struct quota_claim claim = {0};
	struct record rec[3] = {0};
	uint8_t acl[ACL_BYTES_MAX];
	_Alignas(DISK_BLOCK) uint8_t block[BLOCK_SIZE];
	uint64_t promised = 0;
	uint32_t crc;
	struct inode *in;
	size_t n = 0;
	bool needed;
	int r = icache_get(fs->icache, ino, &in);

	if (r < 0)
		return r;
	if (a->mask & ATTR_SIZE) {
		if (S_ISDIR(in->mode))
			return -EISDIR;
		if (!S_ISREG(in->mode))
			return -EINVAL;
		if (a->size > FILE_SIZE_MAX)
			return -EFBIG;
		if (a->size < in->size)
			r = extent_check(fs, in, div_round_up(a->size, BLOCK_SIZE), UINT64_MAX);
		if (r == 0 && a->size < in->size && a->size % BLOCK_SIZE != 0) {
			/* What is left of the last block must read as zeros should the file grow again. */
			r = write_zero_part(fs, cred, in, a->size, (a->size / BLOCK_SIZE + 1) * BLOCK_SIZE, rec, &n, block, &crc,
					    &promised);
		}
	}
	if (r == 0 && (a->mask & ATTR_MODE)) {
		r = stamp_acl_mode(fs, cred, in, a->mode, &rec[n], acl, &needed);
		n += needed;
	}
	if (r < 0)
		return r;
	if (in->nlink == 0 && n == 0 && !(a->mask & ~(unsigned)(ATTR_ATIME | ATTR_MTIME | ATTR_CTIME))) {
		/* The kernel sends the times of every file it has just removed.  Only fstat(2) will ever see them. */
		if (a->mask & ATTR_ATIME)
			in->atime_ns = a->atime_ns;
		if (a->mask & ATTR_MTIME)
			in->mtime_ns = a->mtime_ns;
		in->ctime_ns = a->mask & ATTR_CTIME ? a->ctime_ns : clock_real_ns(fs->clock);
		return 0;
	}
	op_stamp(fs, cred, &rec[n], RECORD_SETATTR, ino);
	rec[n].attr = *a;
	if (!(a->mask & ATTR_CTIME)) {
		rec[n].attr.mask |= ATTR_CTIME;
		rec[n].attr.ctime_ns = rec[n].time_ns;
	}
	if ((a->mask & ATTR_SIZE) && !(a->mask & ATTR_MTIME)) {
		rec[n].attr.mask |= ATTR_MTIME;
		rec[n].attr.mtime_ns = rec[n].time_ns;
	}
	if (a->mask & ATTR_SIZE)
		claim_size(&claim, in, a->size);
	r = promised ? arena_reserve(fs->arena, promised) : 0;
	return r < 0 ? r : fs_log_claimed(fs, rec, n + 1, promised, &claim);
}

int fs_setattr(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const struct record_attr *in, struct fs_attr *ret)
{
	struct lockset ls;
	struct inode *now;
	bool tried = false;
	int r;

	if (snap_is_ino(ino))
		return -EROFS;
	do {
		r = op_begin(fs);
		if (r < 0)
			return r;
		lockset_lock(fs->icache, &ls, &ino, 1);
		r = in->mask & ATTR_ALL ? setattr_locked(fs, cred, ino, in) : 0;
		if (r == 0)
			r = icache_get(fs->icache, ino, &now);
		if (r == 0)
			attr_fill(now, ret);
		lockset_unlock(fs->icache, &ls);
		op_end(fs);
	} while (op_retry_space(fs, r, &tried));
	return r;
}
