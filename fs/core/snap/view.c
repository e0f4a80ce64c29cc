/*
 * view.c: reading in a snapshot: the fs_ calls that read, over its own index.
 *
 * The numbers of inodes carry the snapshot (snap.h), so nothing is counted or kept for the kernel: a number means the same for as
 * long as the snapshot is there, hard links have one number, and no number is ever used for anything else.  Data is read as that
 * of the live tree is, by extent.c, which gets its leaves from here: compared with its CRC, recalled where only an object has it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/snap/snap_impl.h"

struct view {
	struct fs *fs;
	struct held *h;
	struct kv *kv;
	uint64_t top, ino; /* the inode's own number */
};

static int view_open(struct fs *fs, uint64_t ino, struct view *ret)
{
	*ret = (struct view){.fs = fs, .top = snap_ino_top(ino), .ino = snap_ino_own(ino)};
	return snap_get(fs, ret->top, &ret->h, &ret->kv);
}

static void view_close(struct view *v)
{
	snap_put(v->fs, v->h);
}

/* What is wrong with the index of a snapshot is damage of it. */
static int damaged(struct view *v, uint64_t own, int r, const char *what)
{
	if (r == -ENOENT || r == -EUCLEAN || r == -EBADMSG || r == -ERANGE)
		return fs_damaged(v->fs, snap_ino(v->top, own), 0, what);
	return r;
}

static int get_inode(struct view *v, uint64_t own, struct inode *ret)
{
	int r = own > SNAP_INO_MASK ? -EOVERFLOW : index_get_inode(v->kv, own, ret);

	if (r < 0)
		return r;
	ret->ino = snap_ino(v->top, own);
	return 0;
}

int snap_inode(struct fs *fs, uint64_t ino, struct inode *ret)
{
	struct view v;
	int r = view_open(fs, ino, &v);

	if (r < 0)
		return r;
	r = get_inode(&v, v.ino, ret);
	if (r < 0 && r != -ENOENT)
		r = damaged(&v, v.ino, r, "inode");
	view_close(&v);
	return r;
}

int snap_leaf(struct fs *fs, uint64_t ino, uint64_t leaf, struct leaf *ret)
{
	struct view v;
	int r = view_open(fs, ino, &v);

	if (r < 0)
		return r;
	r = index_get_leaf(v.kv, v.ino, leaf, ret);
	if (r == -ENOENT) {
		memset(ret, 0, sizeof(*ret));
		r = 0;
	}
	/* Everything was home when it was made: a slot that points into the journal is no slot of a snapshot. */
	for (unsigned i = 0; r == 0 && i < LEAF_SLOTS; i++)
		r = ret->slot[i].staged ? -EUCLEAN : 0;
	view_close(&v);
	return r;
}

int snap_getattr(struct fs *fs, uint64_t ino, struct fs_attr *ret)
{
	struct inode in;
	int r = snap_inode(fs, ino, &in);

	if (r == 0)
		attr_fill(&in, ret);
	return r;
}

/* ---- names ---- */

static int lookup(struct view *v, const char *name, struct inode *ret)
{
	struct inode dir;
	struct dentry d;
	int r = get_inode(v, v->ino, &dir);

	if (r < 0)
		return r == -ENOENT ? r : damaged(v, v->ino, r, "inode");
	if (strcmp(name, ".") == 0) { /* whatever it is: file handles, as in fs_lookup() */
		*ret = dir;
		return dir.nlink ? 0 : -ENOENT;
	}
	if (!S_ISDIR(dir.mode))
		return -ENOTDIR;
	if (strcmp(name, "..") == 0) {
		d.ino = v->ino == FS_ROOT_INO ? FS_ROOT_INO : dir.parent;
	} else {
		r = index_get_dentry(v->kv, v->ino, slice_of(name), &d);
		if (r < 0)
			return r == -ENOENT ? r : damaged(v, v->ino, r, "directory entry");
	}
	r = get_inode(v, d.ino, ret);
	return r < 0 ? damaged(v, d.ino, r, "inode") : 0;
}

int snap_lookup(struct fs *fs, uint64_t parent, const char *name, struct fs_attr *ret)
{
	struct inode in;
	struct view v;

	if (strlen(name) > RECORD_NAME_MAX)
		return -ENAMETOOLONG;
	int r = view_open(fs, parent, &v);
	if (r < 0)
		return r;
	r = lookup(&v, name, &in);
	view_close(&v);
	if (r == 0)
		attr_fill(&in, ret);
	return r;
}

/* One entry to the callback, whose reference counts for nothing: negative when it did not fit. */
static int emit(struct view *v, const struct dentry *d, uint64_t cookie, const char *name, bool want_attr, fs_readdir_cb *cb,
		void *ctx)
{
	struct fs_attr attr;
	struct inode in;
	struct fs_dirent e = {.ino = snap_ino(v->top, d->ino), .cookie = cookie, .type = d->type, .name = name};

	if (want_attr && get_inode(v, d->ino, &in) == 0) {
		attr_fill(&in, &attr);
		e.attr = &attr;
	}
	int r = cb(ctx, &e);
	return r < 0 ? r : 0;
}

static int emit_dots(struct view *v, const struct inode *dir, uint64_t cookie, bool want_attr, fs_readdir_cb *cb, void *ctx)
{
	const uint64_t ino[2] = {v->ino, v->ino == FS_ROOT_INO ? FS_ROOT_INO : dir->parent};
	int r = 0;

	for (uint64_t i = cookie; i < 2 && r == 0; i++)
		r = emit(v, &(struct dentry){.ino = ino[i], .type = S_IFDIR}, i + 1, i == 0 ? "." : "..", want_attr, cb, ctx);
	return r;
}

static int emit_names(struct view *v, struct kv_iter *it, uint64_t cookie, bool want_attr, fs_readdir_cb *cb, void *ctx)
{
	struct index_key k = key_pair(TABLE_COOKIE, v->ino, cookie < 2 ? 3 : cookie + 1);
	const struct kv_ops *ops = v->kv->ops;

	for (ops->iter_seek(it, key_slice(&k)); ops->iter_valid(it); ops->iter_next(it)) {
		struct slice key = ops->iter_key(it), s;
		char name[RECORD_NAME_MAX + 1];
		struct dentry d;

		if (!key_within(key, TABLE_COOKIE, v->ino))
			break;
		if (key.len != 17 || cookie_decode(ops->iter_value(it), &d, &s) < 0)
			return damaged(v, v->ino, -EUCLEAN, "directory entry");
		memcpy(name, s.p, s.len);
		name[s.len] = '\0';
		if (emit(v, &d, be64_get((const uint8_t *)key.p + 9), name, want_attr, cb, ctx) < 0)
			return 0;
	}
	int r = ops->iter_error(it);
	return r < 0 ? damaged(v, v->ino, r, "directory") : 0;
}

static int read_names(struct view *v, uint64_t cookie, bool want_attr, fs_readdir_cb *cb, void *ctx)
{
	struct kv_iter *it;
	struct inode dir;
	int r = get_inode(v, v->ino, &dir);

	if (r < 0)
		return r == -ENOENT ? r : damaged(v, v->ino, r, "inode");
	if (!S_ISDIR(dir.mode))
		return -ENOTDIR;
	if (emit_dots(v, &dir, cookie, want_attr, cb, ctx) < 0)
		return 0;
	r = v->kv->ops->iter_open(v->kv, &it);
	if (r < 0)
		return r;
	r = emit_names(v, it, cookie, want_attr, cb, ctx);
	v->kv->ops->iter_close(it);
	return r;
}

int snap_readdir(struct fs *fs, uint64_t ino, uint64_t cookie, bool want_attr, fs_readdir_cb *cb, void *ctx)
{
	struct view v;
	int r = view_open(fs, ino, &v);

	if (r < 0)
		return r;
	r = read_names(&v, cookie, want_attr, cb, ctx);
	view_close(&v);
	return r;
}

static int read_target(struct view *v, char *p, size_t cap)
{
	struct index_key k = key_ino(TABLE_TARGET, v->ino);
	struct inode in;
	size_t len;
	int r = get_inode(v, v->ino, &in);

	if (r < 0)
		return r == -ENOENT ? r : damaged(v, v->ino, r, "inode");
	if (!S_ISLNK(in.mode))
		return -EINVAL;
	r = kv_get(v->kv, key_slice(&k), p, cap - 1, &len);
	if (r < 0 || len != in.size)
		return damaged(v, v->ino, r < 0 ? r : -EUCLEAN, "symlink target");
	p[len] = '\0';
	return 0;
}

int snap_readlink(struct fs *fs, uint64_t ino, char *p, size_t cap)
{
	struct view v;
	int r = view_open(fs, ino, &v);

	if (r < 0)
		return r;
	r = read_target(&v, p, cap);
	view_close(&v);
	return r;
}

/* ---- extended attributes ---- */

int snap_getxattr(struct fs *fs, uint64_t ino, const char *name, void *value, size_t cap, size_t *ret_len)
{
	struct view v;

	if (!*name || strlen(name) > RECORD_NAME_MAX)
		return *name ? -ERANGE : -EINVAL;
	int r = view_open(fs, ino, &v);
	if (r < 0)
		return r;
	struct index_key k = key_name(TABLE_XATTR, v.ino, slice_of(name));
	r = kv_get(v.kv, key_slice(&k), value, cap, ret_len);
	if (r == -ENOENT)
		r = -ENODATA;
	else if (r == -ERANGE && cap == 0)
		r = 0; /* the length is set all the same */
	else if (r == -EBADMSG)
		r = damaged(&v, v.ino, r, "extended attribute");
	view_close(&v);
	return r;
}

static int list_names(struct view *v, struct kv_iter *it, char *list, size_t cap, size_t *ret_len)
{
	struct index_key k = key_ino(TABLE_XATTR, v->ino);
	const struct kv_ops *ops = v->kv->ops;
	size_t len = 0;

	for (ops->iter_seek(it, key_slice(&k)); ops->iter_valid(it); ops->iter_next(it)) {
		struct slice key = ops->iter_key(it);

		if (!key_within(key, TABLE_XATTR, v->ino))
			break;
		size_t n = key.len - 9;
		if (cap >= len + n + 1) {
			memcpy(list + len, (const char *)key.p + 9, n);
			list[len + n] = '\0';
		}
		len += n + 1;
	}
	int r = ops->iter_error(it);
	if (r < 0)
		return damaged(v, v->ino, r, "extended attributes");
	*ret_len = len;
	return cap && len > cap ? -ERANGE : 0;
}

int snap_listxattr(struct fs *fs, uint64_t ino, char *list, size_t cap, size_t *ret_len)
{
	struct kv_iter *it;
	struct view v;
	int r = view_open(fs, ino, &v);

	*ret_len = 0;
	if (r < 0)
		return r;
	r = v.kv->ops->iter_open(v.kv, &it);
	if (r == 0) {
		r = list_names(&v, it, list, cap, ret_len);
		v.kv->ops->iter_close(it);
	}
	view_close(&v);
	return r;
}

/* ---- data ---- */

/* The view is open for as long as blocks are read: nothing of it is freed meanwhile. */
int snap_read(struct fs *fs, uint64_t ino, uint64_t off, size_t len, void *p, void **ret_p, size_t *ret_len)
{
	struct inode in;
	struct view v;
	int r = view_open(fs, ino, &v);

	if (r < 0)
		return r;
	r = get_inode(&v, v.ino, &in);
	if (r == 0)
		r = read_range(fs, &in, off, len, p, ret_p, ret_len);
	else if (r != -ENOENT)
		r = damaged(&v, v.ino, r, "inode");
	view_close(&v);
	return r;
}

/* Leaf by leaf: a snapshot is not walked often enough for more. */
static int seek(struct view *v, const struct inode *in, uint64_t off, bool data, uint64_t *ret_off)
{
	uint64_t end = div_round_up(in->size, BLOCK_SIZE), block = off / BLOCK_SIZE;
	struct leaf l;

	if (!S_ISREG(in->mode))
		return -EINVAL;
	if (off >= in->size)
		return -ENXIO;
	for (bool first = true; block < end; block++, first = false) {
		int r = first || block % LEAF_SLOTS == 0 ? snap_leaf(v->fs, in->ino, block / LEAF_SLOTS, &l) : 0;

		if (r < 0)
			return damaged(v, v->ino, r, "extent leaf");
		if (slot_has_data(&l.slot[block % LEAF_SLOTS]) == data)
			break;
	}
	if (data && block == end)
		return -ENXIO;
	*ret_off = min_u64(max_u64(off, block * BLOCK_SIZE), in->size);
	return 0;
}

int snap_lseek(struct fs *fs, uint64_t ino, uint64_t off, bool data, uint64_t *ret_off)
{
	struct inode in;
	struct view v;
	int r = view_open(fs, ino, &v);

	if (r < 0)
		return r;
	r = get_inode(&v, v.ino, &in);
	if (r == 0)
		r = seek(&v, &in, off, data, ret_off);
	else if (r != -ENOENT)
		r = damaged(&v, v.ino, r, "inode");
	view_close(&v);
	return r;
}

/* ---- paths, for the log ---- */

#define DEPTH_MAX 2048u

static bool tell_path(struct view *v, char *path, size_t cap, size_t *ret_at)
{
	char name[RECORD_NAME_MAX + 1];
	size_t at = cap - 1;
	struct inode in;
	struct dentry d;

	path[at] = '\0';
	for (uint64_t i = v->ino, depth = 0; i != FS_ROOT_INO; i = in.parent, depth++) {
		if (depth > DEPTH_MAX || index_get_inode(v->kv, i, &in) < 0 ||
		    index_get_name(v->kv, in.parent, in.cookie, &d, name) < 0)
			return false;
		size_t len = strlen(name);
		if (at < len + 1)
			return false;
		at -= len;
		memcpy(path + at, name, len);
		path[--at] = '/';
	}
	*ret_at = at;
	return true;
}

static void snap_name(struct fs *fs, uint64_t top, char *ret)
{
	struct snaps *s = fs->snaps;

	mutex_lock(&s->lock);
	const struct held *h = snaps_find_top(s, top);
	const struct snap *snap = h ? snaps_find_gen(s, h->gen) : NULL;
	snprintf(ret, RECORD_NAME_MAX + 1, "%s", snap ? snap->name : "?");
	mutex_unlock(&s->lock);
}

void snap_path(struct fs *fs, uint64_t ino, char *ret_path, size_t cap)
{
	char name[RECORD_NAME_MAX + 1], path[4096];
	struct view v;
	size_t at;

	snap_name(fs, snap_ino_top(ino), name);
	snprintf(ret_path, cap, "inode %llu of snapshot %s", (unsigned long long)snap_ino_own(ino), name);
	if (view_open(fs, ino, &v) < 0)
		return;
	if (tell_path(&v, path, sizeof(path), &at))
		snprintf(ret_path, cap, "/.clawfs/snapshots/%s%s", name, path + at);
	view_close(&v);
}
