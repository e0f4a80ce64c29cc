/*
 * rename.c: a name moves, replaces another, is exchanged with it, or leaves a whiteout behind.
 *
 * Up to four inodes are locked, and found out only by looking: see namespace.c.  What changes the tree's shape is done by one at
 * a time, under the rename lock, so that a directory is never moved below itself.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/core.h"
#include "fs/core/namespace.h"
#include "fs/core/snap/snap.h"
#include "fs/core/usage/usage.h"

struct rename_args {
	uint64_t parent, new_parent, ino, target; /* target 0: new_name is free */
	const char *name, *new_name;
	unsigned flags;
};

/* Is `dir` `ino` itself or below it?  The rename lock keeps the tree's shape still. */
static int is_below(struct fs *fs, uint64_t dir, uint64_t ino, bool *ret)
{
	struct inode in;

	*ret = false;
	while (dir != FS_ROOT_INO) {
		if (dir == ino) {
			*ret = true;
			return 0;
		}
		int r = icache_copy(fs->icache, dir, &in);
		if (r < 0)
			return r;
		dir = in.parent;
	}
	*ret = ino == FS_ROOT_INO;
	return 0;
}

static int rename_check_target(const struct inode *in, const struct inode *target)
{
	if (S_ISDIR(in->mode) && !S_ISDIR(target->mode))
		return -ENOTDIR;
	if (!S_ISDIR(in->mode) && S_ISDIR(target->mode))
		return -EISDIR;
	return S_ISDIR(target->mode) && target->size > 0 ? -ENOTEMPTY : 0;
}

/* What moves, what goes, what stays behind. */
static void rename_claim(const struct rename_args *a, const struct inode *in, const struct inode *target, struct quota_claim *ret)
{
	claim_move(ret, in, a->parent, a->new_parent);
	if (target && (a->flags & RENAME_EXCHANGE))
		claim_move(ret, target, a->new_parent, a->parent);
	else if (target && S_ISDIR(target->mode))
		claim_add(ret, a->new_parent, 0, -1);
	else if (target && target->nlink == 1)
		claim_add(ret, target->parent, -(int64_t)target->size, -1);
	if (a->flags & RENAME_WHITEOUT)
		claim_add(ret, a->parent, 0, 1);
}

static int rename_locked(struct fs *fs, const struct fs_cred *cred, const struct rename_args *a, uint64_t whiteout)
{
	struct quota_claim claim = {0};
	struct record rec = {0};
	struct inode *from, *to, *in, *target = NULL;
	struct dentry d, t = {0};
	int r = dir_get(fs, a->parent, &from);

	if (r == 0)
		r = dir_get(fs, a->new_parent, &to);
	if (r == 0)
		r = name_find(fs, a->parent, a->name, &d);
	if (r < 0)
		return r;
	r = name_find(fs, a->new_parent, a->new_name, &t);
	if (r < 0 && r != -ENOENT)
		return r;
	if (d.ino != a->ino || t.ino != a->target)
		return -EAGAIN;
	r = icache_get(fs->icache, a->ino, &in);
	if (r == 0 && a->target)
		r = icache_get(fs->icache, a->target, &target);
	if (r < 0)
		return fs_damaged(fs, a->ino, 0, "inode");
	if (a->target && (a->flags & RENAME_NOREPLACE))
		return -EEXIST;
	if (!a->target && (a->flags & RENAME_EXCHANGE))
		return -ENOENT;
	if (a->target == a->ino)
		return 0; /* two names of one file: POSIX says nothing happens */
	if (target && !(a->flags & RENAME_EXCHANGE)) {
		r = rename_check_target(in, target);
		if (r < 0)
			return r;
	}
	op_stamp(fs, cred, &rec, RECORD_RENAME, a->ino);
	rec.rename.parent = a->parent;
	rec.rename.new_parent = a->new_parent;
	rec.rename.name = slice_of(a->name);
	rec.rename.new_name = slice_of(a->new_name);
	rec.rename.target = a->target;
	rec.rename.new_cookie = to->next_cookie;
	if (a->flags & RENAME_EXCHANGE)
		rec.rename.flags |= RENAME_F_EXCHANGE;
	if (a->flags & RENAME_WHITEOUT) {
		rec.rename.flags |= RENAME_F_WHITEOUT;
		rec.rename.whiteout_ino = whiteout;
	}
	rename_claim(a, in, target, &claim);
	return fs_log_claimed(fs, &rec, 1, 0, &claim);
}

/* A directory must not move below itself. */
static int rename_check_loop(struct fs *fs, const struct rename_args *a)
{
	bool below = false;
	int r = is_below(fs, a->new_parent, a->ino, &below);

	if (r == 0 && below)
		return -EINVAL;
	if (r == 0 && a->target) {
		r = is_below(fs, a->parent, a->target, &below);
		if (r == 0 && below)
			r = a->flags & RENAME_EXCHANGE ? -EINVAL : -ENOTEMPTY;
	}
	return r;
}

static int rename_once(struct fs *fs, const struct fs_cred *cred, struct rename_args *a)
{
	uint64_t whiteout = a->flags & RENAME_WHITEOUT ? atomic_fetch_add(&fs->next_ino, 1) : 0;
	struct lockset ls;
	int r = name_peek(fs, a->parent, a->name, &a->ino);

	if (r < 0)
		return r;
	a->target = 0;
	r = name_peek(fs, a->new_parent, a->new_name, &a->target);
	if (r < 0 && r != -ENOENT)
		return r;
	if (a->parent != a->new_parent) {
		r = rename_check_loop(fs, a);
		if (r < 0)
			return r;
	}
	lockset_lock(fs->icache, &ls, (uint64_t[]){a->parent, a->new_parent, a->ino, a->target, whiteout}, 5);
	r = rename_locked(fs, cred, a, whiteout);
	lockset_unlock(fs->icache, &ls);
	return r;
}

static int rename_retry(struct fs *fs, const struct fs_cred *cred, struct rename_args *a)
{
	int r;

	do
		r = rename_once(fs, cred, a);
	while (r == -EAGAIN);
	return r;
}

int fs_rename(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name, uint64_t new_parent,
	      const char *new_name, unsigned flags)
{
	struct rename_args a = {.parent = parent, .new_parent = new_parent, .name = name, .new_name = new_name, .flags = flags};
	int r = name_check(name);

	if (r == 0)
		r = name_check(new_name);
	if (r == -EEXIST)
		return -EBUSY;
	if (r == 0 && (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT)))
		r = -EINVAL;
	if (r == 0 && (flags & RENAME_EXCHANGE) && (flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)))
		r = -EINVAL;
	if (r == 0)
		r = snap_is_ino(parent) || snap_is_ino(new_parent) ? -EROFS : op_begin(fs);
	if (r < 0)
		return r;
	if (parent == new_parent) {
		r = rename_retry(fs, cred, &a);
	} else { /* the tree's shape changes: one at a time */
		mutex_lock(&fs->rename_lock);
		r = rename_retry(fs, cred, &a);
		mutex_unlock(&fs->rename_lock);
	}
	op_end(fs);
	return r;
}
