/*
 * namespace.c: names are made and removed: create, link, unlink.  Renaming is rename.c, looking lookup.c.
 *
 * An operation on a name must lock inodes it only learns by looking the name up.  It looks up without the exclusive locks,
 * locks everything in order, and looks again: when the name meanwhile means something else it starts over.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/acl.h"
#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/namespace.h"
#include "fs/core/snap/snap.h"
#include "fs/core/usage/usage.h"
#include "fs/core/xattr.h"

int name_check(const char *name)
{
	size_t len = strlen(name);

	if (len > RECORD_NAME_MAX)
		return -ENAMETOOLONG;
	if (len == 0 || memchr(name, '/', len))
		return -EINVAL;
	return name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')) ? -EEXIST : 0;
}

int dir_get(struct fs *fs, uint64_t ino, struct inode **ret)
{
	int r = icache_get(fs->icache, ino, ret);

	if (r < 0)
		return r;
	if (!S_ISDIR((*ret)->mode))
		return -ENOTDIR;
	return (*ret)->nlink == 0 ? -ENOENT : 0; /* removed, but somebody stands in it */
}

static int corrupt_name(struct fs *fs, uint64_t parent, int r)
{
	return r == -EUCLEAN || r == -EBADMSG ? fs_damaged(fs, parent, 0, "directory entry") : r;
}

int name_find(struct fs *fs, uint64_t parent, const char *name, struct dentry *ret)
{
	return corrupt_name(fs, parent, index_get_dentry(fs->kv, parent, slice_of(name), ret));
}

/* Attributes of `ino` and one kernel reference. */
static int give(struct fs *fs, uint64_t ino, struct fs_attr *ret)
{
	struct inode in;
	int r = icache_copy(fs->icache, ino, &in);

	if (r < 0)
		return r == -ENOENT || r == -EUCLEAN || r == -EBADMSG ? fs_damaged(fs, ino, 0, "inode") : r;
	attr_fill(&in, ret);
	return refs_add(fs->refs, ino, 1);
}

/* What a new inode inherits: group and set-group-ID from the directory, default ACLs, or else the umask. */
struct birth {
	uint32_t mode, gid;
	uint8_t *access, *defaults; /* ACLs to set on it; owned */
	size_t access_len, defaults_len;
};

static void birth_free(struct birth *b)
{
	free(b->access);
	free(b->defaults);
}

static int birth_plan(struct fs *fs, const struct fs_cred *cred, const struct inode *dir, uint32_t mode, struct birth *ret)
{
	uint8_t acl[ACL_BYTES_MAX];
	size_t len = 0;
	bool minimal;
	int r = dir->n_xattr && !S_ISLNK(mode) ? xattr_read(fs, dir->ino, ACL_DEFAULT, acl, sizeof(acl), &len) : -ENODATA;

	*ret = (struct birth){.mode = mode, .gid = cred->gid};
	if (dir->mode & S_ISGID) {
		ret->gid = dir->gid;
		if (S_ISDIR(mode))
			ret->mode |= S_ISGID;
	}
	if (r == -ENODATA) {
		if (!S_ISLNK(mode))
			ret->mode &= ~cred->umask;
		return 0;
	}
	if (r < 0)
		return r;
	if (S_ISDIR(mode)) {
		ret->defaults = malloc(len);
		if (!ret->defaults)
			return -ENOMEM;
		memcpy(ret->defaults, acl, len);
		ret->defaults_len = len;
	}
	r = acl_inherit(acl, len, &ret->mode, &minimal);
	if (r < 0 || minimal)
		return r;
	ret->access = malloc(len);
	if (!ret->access)
		return -ENOMEM;
	memcpy(ret->access, acl, len);
	ret->access_len = len;
	return 0;
}

static void stamp_acl(struct fs *fs, const struct fs_cred *cred, struct record *r, uint64_t ino, const char *name,
		      const void *acl, size_t len)
{
	op_stamp(fs, cred, r, RECORD_SETXATTR, ino);
	r->xattr.name = slice_of(name);
	r->xattr.value = (struct slice){acl, len};
}

/* Under the locks of `parent` and the new inode. */
static int create_locked(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name, uint32_t mode,
			 uint64_t rdev, const char *target, uint64_t ino)
{
	struct quota_claim claim = {0};
	struct record rec[3] = {0};
	struct inode *dir;
	struct dentry d;
	struct birth birth = {0};
	size_t n = 1;
	int r = dir_get(fs, parent, &dir);

	if (r < 0)
		return r;
	r = name_find(fs, parent, name, &d);
	if (r != -ENOENT)
		return r == 0 ? -EEXIST : r;
	if (S_ISDIR(mode) && dir->nlink >= UINT32_MAX - 1)
		return -EMLINK;
	r = birth_plan(fs, cred, dir, mode, &birth);
	if (r == 0) {
		op_stamp(fs, cred, &rec[0], RECORD_MKNODE, ino);
		rec[0].mknode.parent = parent;
		rec[0].mknode.cookie = dir->next_cookie;
		rec[0].mknode.name = slice_of(name);
		rec[0].mknode.mode = birth.mode;
		rec[0].mknode.uid = cred->uid;
		rec[0].mknode.gid = birth.gid;
		rec[0].mknode.rdev = rdev;
		if (target)
			rec[0].mknode.target = slice_of(target);
		if (birth.access)
			stamp_acl(fs, cred, &rec[n++], ino, ACL_ACCESS, birth.access, birth.access_len);
		if (birth.defaults)
			stamp_acl(fs, cred, &rec[n++], ino, ACL_DEFAULT, birth.defaults, birth.defaults_len);
		claim_add(&claim, parent, target ? (int64_t)strlen(target) : 0, 1);
		r = fs_log_claimed(fs, rec, n, 0, &claim);
	}
	birth_free(&birth);
	return r;
}

static int create(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name, uint32_t mode, uint64_t rdev,
		  const char *target, struct fs_attr *ret)
{
	struct lockset ls;
	struct inode *in;
	int r = name_check(name);

	if (r == 0)
		r = snap_is_ino(parent) ? -EROFS : op_begin(fs);
	if (r < 0)
		return r;
	uint64_t ino = atomic_fetch_add(&fs->next_ino, 1);
	lockset_lock(fs->icache, &ls, (uint64_t[]){parent, ino}, 2);
	r = create_locked(fs, cred, parent, name, mode, rdev, target, ino);
	if (r == 0)
		r = icache_get(fs->icache, ino, &in);
	if (r == 0) {
		attr_fill(in, ret);
		r = refs_add(fs->refs, ino, 1);
	}
	lockset_unlock(fs->icache, &ls);
	op_end(fs);
	return r;
}

int fs_mknod(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name, uint32_t mode, uint64_t rdev,
	     struct fs_attr *ret)
{
	if ((mode & S_IFMT) == 0)
		mode |= S_IFREG;
	if (!S_ISREG(mode) && !S_ISDIR(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode) && !S_ISBLK(mode) && !S_ISCHR(mode))
		return -EINVAL;
	return create(fs, cred, parent, name, mode & (S_IFMT | 07777), S_ISBLK(mode) || S_ISCHR(mode) ? rdev : 0, NULL, ret);
}

int fs_symlink(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name, const char *target,
	       struct fs_attr *ret)
{
	size_t len = strlen(target);

	if (len == 0)
		return -ENOENT;
	if (len > RECORD_TARGET_MAX)
		return -ENAMETOOLONG;
	return create(fs, cred, parent, name, S_IFLNK | 0777, 0, target, ret);
}

static int link_locked(struct fs *fs, const struct fs_cred *cred, uint64_t ino, uint64_t parent, const char *name)
{
	struct quota_claim claim = {0};
	struct record rec = {0};
	struct inode *dir, *in;
	struct dentry d;
	int r = dir_get(fs, parent, &dir);

	if (r == 0)
		r = icache_get(fs->icache, ino, &in);
	if (r < 0)
		return r;
	if (S_ISDIR(in->mode))
		return -EPERM;
	if (in->nlink == 0)
		return -ENOENT;
	if (in->nlink == UINT32_MAX)
		return -EMLINK;
	r = name_find(fs, parent, name, &d);
	if (r != -ENOENT)
		return r == 0 ? -EEXIST : r;
	op_stamp(fs, cred, &rec, RECORD_LINK, ino);
	rec.link.parent = parent;
	rec.link.cookie = dir->next_cookie;
	rec.link.name = slice_of(name);
	claim_move(&claim, in, in->parent, parent);
	return fs_log_claimed(fs, &rec, 1, 0, &claim);
}

int fs_link(struct fs *fs, const struct fs_cred *cred, uint64_t ino, uint64_t parent, const char *name, struct fs_attr *ret)
{
	struct lockset ls;
	int r = name_check(name);

	if (r == 0)
		r = snap_is_ino(parent) ? -EROFS : snap_is_ino(ino) ? -EXDEV : op_begin(fs);
	if (r < 0)
		return r;
	lockset_lock(fs->icache, &ls, (uint64_t[]){parent, ino}, 2);
	r = link_locked(fs, cred, ino, parent, name);
	lockset_unlock(fs->icache, &ls);
	if (r == 0)
		r = give(fs, ino, ret);
	op_end(fs);
	return r;
}

int name_peek(struct fs *fs, uint64_t parent, const char *name, uint64_t *ret_ino)
{
	struct inode *dir;
	struct dentry d;
	int r = icache_rdlock_get(fs->icache, parent, &dir);

	if (r < 0)
		return r;
	r = S_ISDIR(dir->mode) ? name_find(fs, parent, name, &d) : -ENOTDIR;
	icache_rdunlock(fs->icache, parent);
	if (r == 0)
		*ret_ino = d.ino;
	return r;
}

static int unlink_locked(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name, uint64_t ino,
			 bool dir_wanted)
{
	struct record rec = {0};
	struct inode *dir, *in;
	struct dentry d;
	int r = dir_get(fs, parent, &dir);

	if (r == 0)
		r = name_find(fs, parent, name, &d);
	if (r < 0)
		return r;
	if (d.ino != ino)
		return -EAGAIN;
	r = icache_get(fs->icache, ino, &in);
	if (r < 0)
		return fs_damaged(fs, ino, 0, "inode");
	if (dir_wanted && !S_ISDIR(in->mode))
		return -ENOTDIR;
	if (!dir_wanted && S_ISDIR(in->mode))
		return -EISDIR;
	if (dir_wanted && in->size > 0)
		return -ENOTEMPTY;
	op_stamp(fs, cred, &rec, RECORD_UNLINK, ino);
	rec.unlink.parent = parent;
	rec.unlink.name = slice_of(name);
	return fs_log(fs, &rec, 1, 0);
}

static int remove_name(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name, bool dir_wanted)
{
	int r = name_check(name);

	if (r == -EEXIST)
		return strcmp(name, ".") == 0 ? -EINVAL : -ENOTEMPTY;
	if (r == 0)
		r = snap_is_ino(parent) ? -EROFS : op_begin(fs);
	if (r < 0)
		return r;
	do {
		struct lockset ls;
		uint64_t ino;

		r = name_peek(fs, parent, name, &ino);
		if (r < 0)
			break;
		lockset_lock(fs->icache, &ls, (uint64_t[]){parent, ino}, 2);
		r = unlink_locked(fs, cred, parent, name, ino, dir_wanted);
		lockset_unlock(fs->icache, &ls);
	} while (r == -EAGAIN);
	op_end(fs);
	return r;
}

int fs_unlink(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name)
{
	return remove_name(fs, cred, parent, name, false);
}
int fs_rmdir(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name)
{
	return remove_name(fs, cred, parent, name, true);
}
