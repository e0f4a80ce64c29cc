/*
 * namespace.c: names: lookup, create, link, unlink, rename, readdir.
 *
 * An operation on a name must lock inodes it only learns by looking the name up.  It looks up without the exclusive locks,
 * locks everything in order, and looks again: when the name meanwhile means something else it starts over.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/acl.h"
#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/snap/snap.h"
#include "fs/core/usage/usage.h"
#include "fs/core/xattr.h"

/* Names that are already there and those that cannot be are told apart from names that may be made. */
static int check_name(const char *name)
{
	size_t len = strlen(name);

	if (len > RECORD_NAME_MAX)
		return -ENAMETOOLONG;
	if (len == 0 || memchr(name, '/', len))
		return -EINVAL;
	return name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')) ? -EEXIST : 0;
}

/* The directory `ino`, its stripe held. */
static int get_dir(struct fs *fs, uint64_t ino, struct inode **ret)
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

static int find(struct fs *fs, uint64_t parent, const char *name, struct dentry *ret)
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

/* A follower's leader removes what it likes, also between two looks at it here. */
static bool is_gone(struct fs *fs, int r)
{
	return r == -ENOENT && fs_role(fs) == ROLE_FOLLOWER;
}

int fs_lookup(struct fs *fs, uint64_t parent, const char *name, struct fs_attr *ret)
{
	struct inode *dir, in;
	struct dentry d;

	int r = fs_readable(fs);

	if (r == 0 && snap_is_ino(parent))
		return snap_lookup(fs, parent, name, ret);
	if (r == 0 && strlen(name) > RECORD_NAME_MAX)
		r = -ENAMETOOLONG;
	if (r == 0)
		r = icache_rdlock_get(fs->icache, parent, &dir);
	if (r < 0)
		return r;
	if (!S_ISDIR(dir->mode))
		r = -ENOTDIR;
	else if (strcmp(name, ".") == 0)
		d.ino = parent;
	else if (strcmp(name, "..") == 0)
		d.ino = parent == FS_ROOT_INO ? FS_ROOT_INO : dir->parent;
	else
		r = find(fs, parent, name, &d);
	/* The reference is taken under the directory's lock, so that the name cannot go, and its inode with it. */
	if (r == 0)
		r = refs_add(fs->refs, d.ino, 1);
	icache_rdunlock(fs->icache, parent);
	if (r < 0)
		return r;
	r = icache_copy(fs->icache, d.ino, &in);
	if (r < 0) {
		fs_forget(fs, d.ino, 1);
		return is_gone(fs, r) ? r : fs_damaged(fs, d.ino, 0, "inode");
	}
	attr_fill(&in, ret);
	return 0;
}

void fs_forget(struct fs *fs, uint64_t ino, uint64_t nlookup)
{
	if (snap_is_ino(ino))
		return;
	if (refs_drop(fs->refs, ino, nlookup))
		reap_push(fs, ino);
}

static void forget(void *fs, uint64_t ino)
{
	fs_forget(fs, ino, UINT64_MAX);
}

int fs_forget_all(struct fs *fs)
{
	return refs_each(fs->refs, forget, fs);
}

bool fs_is_known(struct fs *fs, uint64_t ino)
{
	return ino == FS_ROOT_INO || refs_get(fs->refs, ino) > 0;
}

int fs_known_each(struct fs *fs, void (*fn)(void *ctx, uint64_t ino), void *ctx)
{
	fn(ctx, FS_ROOT_INO);
	return refs_each(fs->refs, fn, ctx);
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
	int r = get_dir(fs, parent, &dir);

	if (r < 0)
		return r;
	r = find(fs, parent, name, &d);
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
	int r = check_name(name);

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
	int r = get_dir(fs, parent, &dir);

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
	r = find(fs, parent, name, &d);
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
	int r = check_name(name);

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

/* Looks (parent, name) up under the shared lock of parent; *ret_ino is what to lock next. */
static int peek_name(struct fs *fs, uint64_t parent, const char *name, uint64_t *ret_ino)
{
	struct inode *dir;
	struct dentry d;
	int r = icache_rdlock_get(fs->icache, parent, &dir);

	if (r < 0)
		return r;
	r = S_ISDIR(dir->mode) ? find(fs, parent, name, &d) : -ENOTDIR;
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
	int r = get_dir(fs, parent, &dir);

	if (r == 0)
		r = find(fs, parent, name, &d);
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
	int r = check_name(name);

	if (r == -EEXIST)
		return strcmp(name, ".") == 0 ? -EINVAL : -ENOTEMPTY;
	if (r == 0)
		r = snap_is_ino(parent) ? -EROFS : op_begin(fs);
	if (r < 0)
		return r;
	do {
		struct lockset ls;
		uint64_t ino;

		r = peek_name(fs, parent, name, &ino);
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
	int r = get_dir(fs, a->parent, &from);

	if (r == 0)
		r = get_dir(fs, a->new_parent, &to);
	if (r == 0)
		r = find(fs, a->parent, a->name, &d);
	if (r < 0)
		return r;
	r = find(fs, a->new_parent, a->new_name, &t);
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
	int r = peek_name(fs, a->parent, a->name, &a->ino);

	if (r < 0)
		return r;
	a->target = 0;
	r = peek_name(fs, a->new_parent, a->new_name, &a->target);
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
	int r = check_name(name);

	if (r == 0)
		r = check_name(new_name);
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

int fs_readlink(struct fs *fs, uint64_t ino, char *p, size_t cap)
{
	struct index_key k = key_ino(TABLE_TARGET, ino);
	struct inode in;
	size_t len;
	int r = fs_readable(fs);

	if (r == 0 && snap_is_ino(ino))
		return snap_readlink(fs, ino, p, cap);
	if (r == 0)
		r = icache_copy(fs->icache, ino, &in);
	if (r < 0)
		return r;
	if (!S_ISLNK(in.mode))
		return -EINVAL;
	r = kv_get(fs->kv, key_slice(&k), p, cap - 1, &len);
	if (is_gone(fs, r))
		return r;
	if (r < 0 || len != in.size)
		return fs_damaged(fs, ino, 0, "symlink target");
	p[len] = '\0';
	attr_touch(fs, ino);
	return 0;
}

/* "." and "..". */
static int emit_dots(struct fs *fs, const struct inode *dir, uint64_t cookie, bool want_attr, fs_readdir_cb *cb, void *ctx)
{
	uint64_t ino[2] = {dir->ino, dir->ino == FS_ROOT_INO ? FS_ROOT_INO : dir->parent};

	for (uint64_t i = cookie; i < 2; i++) {
		struct fs_attr attr = {.ino = ino[i], .mode = S_IFDIR};
		struct inode in;

		if (want_attr && icache_copy(fs->icache, ino[i], &in) == 0)
			attr_fill(&in, &attr);
		int r = cb(ctx, &(struct fs_dirent){.ino = ino[i],
						    .cookie = i + 1,
						    .type = S_IFDIR,
						    .name = i == 0 ? "." : "..",
						    .attr = want_attr ? &attr : NULL});
		if (r < 0)
			return r;
	}
	return 0;
}

/* One entry of table C for the callback.  A name whose inode cannot be read is shown with its type alone. */
static int emit_entry(struct fs *fs, uint64_t dir, struct slice key, struct slice value, bool want_attr, fs_readdir_cb *cb,
		      void *ctx)
{
	char name[256];
	struct slice s;
	struct dentry d;
	struct inode in;
	struct fs_attr attr;
	int r = cookie_decode(value, &d, &s);

	if (r < 0 || key.len != 17)
		return fs_damaged(fs, dir, 0, "directory entry");
	memcpy(name, s.p, s.len);
	name[s.len] = '\0';
	struct fs_dirent e = {.ino = d.ino, .cookie = be64_get((const uint8_t *)key.p + 9), .type = d.type, .name = name};
	if (want_attr) {
		/* Counted before it is shown: the name may go the next moment, and the inode must not go with it. */
		r = refs_add(fs->refs, d.ino, 1);
		if (r < 0)
			return r;
		r = icache_copy(fs->icache, d.ino, &in);
		if (r == 0 && in.nlink > 0) {
			attr_fill(&in, &attr);
			e.attr = &attr;
		}
	}
	r = cb(ctx, &e);
	if (want_attr && r != 1)
		fs_forget(fs, d.ino, 1);
	return r;
}

int fs_readdir(struct fs *fs, uint64_t ino, uint64_t cookie, bool want_attr, fs_readdir_cb *cb, void *ctx)
{
	struct index_key k = key_pair(TABLE_COOKIE, ino, cookie < 2 ? 3 : cookie + 1);
	struct inode dir;
	struct kv_iter *it;
	int r = fs_readable(fs);

	if (r == 0 && snap_is_ino(ino))
		return snap_readdir(fs, ino, cookie, want_attr, cb, ctx);
	if (r == 0)
		r = icache_copy(fs->icache, ino, &dir);
	if (r < 0)
		return r;
	if (!S_ISDIR(dir.mode))
		return -ENOTDIR;
	r = emit_dots(fs, &dir, cookie, want_attr, cb, ctx);
	if (r < 0)
		return 0;
	r = fs->kv->ops->iter_open(fs->kv, &it);
	if (r < 0)
		return r;
	for (fs->kv->ops->iter_seek(it, key_slice(&k)); r >= 0 && fs->kv->ops->iter_valid(it); fs->kv->ops->iter_next(it)) {
		struct slice key = fs->kv->ops->iter_key(it);

		if (!key_within(key, TABLE_COOKIE, ino))
			break;
		r = emit_entry(fs, ino, key, fs->kv->ops->iter_value(it), want_attr, cb, ctx);
	}
	int failed = fs->kv->ops->iter_error(it);
	fs->kv->ops->iter_close(it);
	if (failed < 0)
		return fs_damaged(fs, ino, 0, "directory");
	if (r == -EBADMSG)
		return r;
	if (cookie == 0)
		attr_touch(fs, ino);
	return 0; /* the callback's "did not fit" is the normal end */
}
