/*
 * lookup.c: what is read of names: lookup and the kernel's references, symbolic links, directories.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/namespace.h"
#include "fs/core/snap/snap.h"

/* A follower's leader removes what it likes, also between two looks at it here, and so does the way back to a snapshot. */
static bool is_gone(struct fs *fs, int r)
{
	return r == -ENOENT && (fs_role(fs) == ROLE_FOLLOWER || snap_was_rolled(fs));
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
	/* What a file handle names, over NFS for one, is asked for as "." of it, whatever it is; what is deleted has none. */
	if (strcmp(name, ".") == 0 && dir->nlink == 0)
		r = -ENOENT;
	else if (strcmp(name, ".") == 0)
		d.ino = parent;
	else if (!S_ISDIR(dir->mode))
		r = -ENOTDIR;
	else if (strcmp(name, "..") == 0)
		d.ino = parent == FS_ROOT_INO ? FS_ROOT_INO : dir->parent;
	else
		r = name_find(fs, parent, name, &d);
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

uint64_t fs_generation(struct fs *fs, uint64_t ino)
{
	return refs_generation(fs->refs, ino);
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
