/*
 * diff.c: what is different between two snapshots, or a snapshot and the live tree: which paths were created, deleted, modified
 * or renamed.
 *
 * Both indexes are walked side by side in the order of inodes, which are never used twice: one that only the older has was
 * deleted, one that only the newer has was created.  Of one that both have, names are compared by their places (directory and
 * cookie), and contents by what the inode says and, when that is the same, by the checksums in its leaves.  No data is read.
 * What lies below a directory that moved is not told again.
 *
 * Only inodes of which something was written in between are looked at (marks.h), so the time depends on how many these are, and
 * on the leaves of those among them whose inode says the same.  Between snapshots that are older than the marks all are looked
 * at.
 *
 * It comes in pages, each from an inode on.  Of the live tree a page shows it as it is then.
 */
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/snap/marks.h"
#include "fs/core/snap/snap_impl.h"

#define PAGE_BYTES 60000u
#define LOOK_ROWS  200000u /* inodes of one page, whatever it found, so that nobody waits long for it */
#define NAMES_MAX  64u     /* names of one file that are compared; others are left out */
#define DEPTH_MAX  2048u
#define PATH_BYTES 16384u

/* One side. */
struct side {
	struct fs *fs;
	struct held *h; /* NULL: the live tree */
	struct kv *kv;
	struct kv_iter *it; /* over table I */
	struct inode in;    /* where `it` is */
	bool end;
	uint64_t top; /* of the live tree: above every snapshot's */
};
struct place {
	uint64_t parent, cookie;
};
struct names {
	struct place p[NAMES_MAX];
	size_t n;
};
struct diff {
	struct side a, b;
	json_t *list;
	size_t used;
	uint64_t looked;
	struct marks_walk *marks; /* NULL: all inodes are looked at */
};

/* ---- sides ---- */

static int save_live(struct fs *fs)
{
	int r = icache_save(fs->icache);

	return r < 0 ? r : lcache_save(fs->lcache);
}

static int side_open(struct fs *fs, uint64_t gen, bool live, struct side *s)
{
	struct snaps *snaps = fs->snaps;
	int r;

	*s = (struct side){.fs = fs, .kv = fs->kv, .top = SNAP_TOP_MAX};
	if (live) {
		rwlock_wrlock(&fs->gate);
		r = save_live(fs);
		rwlock_wrunlock(&fs->gate);
	} else {
		mutex_lock(&snaps->lock);
		const struct held *h = snaps_find_held(snaps, gen);
		uint64_t top = h ? h->top : SNAP_TOP_MAX;
		mutex_unlock(&snaps->lock);
		s->top = top;
		r = snap_get(fs, top, &s->h, &s->kv);
		r = r == -ESTALE ? -ENOENT : r;
	}
	return r < 0 ? r : s->kv->ops->iter_open(s->kv, &s->it);
}

static void side_close(struct side *s)
{
	if (s->it)
		s->kv->ops->iter_close(s->it);
	if (s->h)
		snap_put(s->fs, s->h);
}

/* The inode at the iterator, or the end of the table. */
static int side_look(struct side *s)
{
	s->end = !s->kv->ops->iter_valid(s->it);
	if (s->end)
		return s->kv->ops->iter_error(s->it);
	struct slice key = s->kv->ops->iter_key(s->it);
	s->end = *(const uint8_t *)key.p != TABLE_INODE;
	if (s->end)
		return 0;
	if (key.len != 9)
		return -EUCLEAN;
	return inode_decode(s->kv->ops->iter_value(s->it), be64_get((const uint8_t *)key.p + 1), &s->in);
}

static int side_begin(struct side *s, uint64_t ino)
{
	struct index_key k = key_ino(TABLE_INODE, ino);

	s->kv->ops->iter_seek(s->it, key_slice(&k));
	return side_look(s);
}

static int side_next(struct side *s)
{
	s->kv->ops->iter_next(s->it);
	return side_look(s);
}

/* To the first inode from `ino` on, from one before; it may well be the next one. */
static int side_forward(struct side *s, uint64_t ino)
{
	int r = 0;

	if (!s->end && s->in.ino < ino)
		r = side_next(s);
	return r == 0 && !s->end && s->in.ino < ino ? side_begin(s, ino) : r;
}

/* ---- names and paths ---- */

/* Those of a file with several are rows of their own. */
static int names_of(struct side *s, struct names *ret)
{
	struct index_key k = key_ino(TABLE_NAME, s->in.ino);
	const struct kv_ops *ops = s->kv->ops;
	struct kv_iter *it;

	ret->n = 0;
	if (s->in.nlink == 0)
		return 0;
	if (S_ISDIR(s->in.mode) || s->in.nlink == 1) {
		ret->p[ret->n++] = (struct place){s->in.parent, s->in.cookie};
		return 0;
	}
	int r = ops->iter_open(s->kv, &it);
	if (r < 0)
		return r;
	for (ops->iter_seek(it, key_slice(&k)); ops->iter_valid(it) && ret->n < NAMES_MAX; ops->iter_next(it)) {
		struct slice key = ops->iter_key(it);

		if (!key_within(key, TABLE_NAME, s->in.ino) || key.len != 25)
			break;
		ret->p[ret->n++] = (struct place){be64_get((const uint8_t *)key.p + 9), be64_get((const uint8_t *)key.p + 17)};
	}
	r = ops->iter_error(it);
	ops->iter_close(it);
	return r;
}

static int put_component(struct side *s, const struct place *at, char *path, size_t *pos)
{
	char name[RECORD_NAME_MAX + 1];
	struct dentry d;
	int r = index_get_name(s->kv, at->parent, at->cookie, &d, name);

	if (r < 0)
		return r == -ENOENT ? -EUCLEAN : r;
	size_t len = strlen(name);
	if (*pos < len + 1)
		return -ENAMETOOLONG;
	*pos -= len;
	memcpy(path + *pos, name, len);
	path[--*pos] = '/';
	return 0;
}

/* The path of one name as JSON: text, or an object with its bytes in hex. */
static int path_json(struct side *s, struct place at, json_t **ret)
{
	char path[PATH_BYTES];
	size_t pos = sizeof(path) - 1;
	unsigned depth = 0;
	int r;

	path[pos] = '\0';
	for (;;) {
		struct inode dir;

		r = put_component(s, &at, path, &pos);
		if (r < 0 || at.parent == FS_ROOT_INO)
			break;
		r = depth++ < DEPTH_MAX ? index_get_inode(s->kv, at.parent, &dir) : -EUCLEAN;
		if (r < 0)
			break;
		at = (struct place){dir.parent, dir.cookie};
	}
	if (r < 0 && r != -ENAMETOOLONG)
		return r;
	*ret = snap_text_json(r < 0 ? "(a path too long to be told)" : path + pos);
	return *ret ? 0 : -ENOMEM;
}

/* ---- what is different ---- */

static int put(struct diff *d, const char *what, struct side *s, const struct place *at, const struct place *from)
{
	json_t *path = NULL, *was = NULL;
	int r = path_json(s, *at, &path);

	if (r == 0 && from)
		r = path_json(&d->a, *from, &was);
	json_t *o = r == 0 ? json_pack("{s:s, s:o}", "change", what, "path", path) : NULL;
	if (o && was)
		json_object_set_new(o, "from", was);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	if (r == 0 && !text)
		r = -ENOMEM;
	if (r == 0) {
		d->used += strlen(text) + 1;
		json_array_append(d->list, o);
	}
	free(text);
	json_decref(o);
	return r;
}

static bool has_place(const struct names *names, struct place p)
{
	for (size_t i = 0; i < names->n; i++)
		if (names->p[i].parent == p.parent && names->p[i].cookie == p.cookie)
			return true;
	return false;
}

/* What is in x and not in y. */
static void only_in(const struct names *x, const struct names *y, struct names *ret)
{
	ret->n = 0;
	for (size_t i = 0; i < x->n; i++)
		if (!has_place(y, x->p[i]))
			ret->p[ret->n++] = x->p[i];
}

static int put_all(struct diff *d, const char *what, struct side *s, const struct names *names)
{
	int r = 0;

	for (size_t i = 0; i < names->n && r == 0; i++)
		r = put(d, what, s, &names->p[i], NULL);
	return r;
}

static int put_side(struct diff *d, const char *what, struct side *s)
{
	struct names names;
	int r = names_of(s, &names);

	return r < 0 ? r : put_all(d, what, s, &names);
}

/* Of two leaves, absent ones empty: whether a slot reads otherwise. */
static bool leaf_differs(const struct leaf *x, const struct leaf *y)
{
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const struct slot *p = &x->slot[i], *q = &y->slot[i];
		bool data = slot_has_data(p);

		if (data != slot_has_data(q) || (data && p->crc != q->crc))
			return true;
	}
	return false;
}

static int get_leaf(struct kv *kv, uint64_t ino, uint64_t leaf, struct leaf *ret)
{
	int r = index_get_leaf(kv, ino, leaf, ret);

	if (r == -ENOENT)
		memset(ret, 0, sizeof(*ret));
	return r == -ENOENT ? 0 : r;
}

/* Leaves that `x` has, against those of the same places in `y`. */
static int leaves_differ(struct side *x, struct side *y, bool *ret)
{
	struct index_key k = key_pair(TABLE_EXTENT, x->in.ino, 0);
	const struct kv_ops *ops = x->kv->ops;
	struct kv_iter *it;
	int r = ops->iter_open(x->kv, &it);

	*ret = false;
	if (r < 0)
		return r;
	for (ops->iter_seek(it, key_slice(&k)); r == 0 && !*ret && ops->iter_valid(it); ops->iter_next(it)) {
		struct slice key = ops->iter_key(it), value = ops->iter_value(it);
		struct leaf here, there;

		if (!key_within(key, TABLE_EXTENT, x->in.ino) || key.len != 17)
			break;
		r = leaf_decode(value.p, value.len, &here);
		if (r == 0)
			r = get_leaf(y->kv, x->in.ino, be64_get((const uint8_t *)key.p + 9), &there);
		*ret = r == 0 && leaf_differs(&here, &there);
	}
	if (r == 0)
		r = ops->iter_error(it);
	ops->iter_close(it);
	return r;
}

/* Times of a directory, and of a file that got or lost a name, move with names; those are told by themselves. */
static int is_modified(struct diff *d, bool same_names, bool *ret)
{
	const struct inode *a = &d->a.in, *b = &d->b.in;
	bool dir = S_ISDIR(a->mode);

	*ret = a->mode != b->mode || a->uid != b->uid || a->gid != b->gid || a->n_xattr != b->n_xattr || a->rdev != b->rdev ||
	       (!dir && (a->size != b->size || a->mtime_ns != b->mtime_ns || (same_names && a->ctime_ns != b->ctime_ns)));
	if (*ret || !S_ISREG(a->mode))
		return 0;
	int r = leaves_differ(&d->a, &d->b, ret);
	return r < 0 || *ret ? r : leaves_differ(&d->b, &d->a, ret);
}

static int compare(struct diff *d)
{
	struct names a, b, gone, come;
	bool modified = false;
	int r = names_of(&d->a, &a);

	if (r == 0)
		r = names_of(&d->b, &b);
	if (r < 0)
		return r;
	only_in(&a, &b, &gone);
	only_in(&b, &a, &come);
	if (gone.n == 1 && come.n == 1) {
		r = put(d, "renamed", &d->b, &come.p[0], &gone.p[0]);
	} else {
		r = put_all(d, "deleted", &d->a, &gone);
		if (r == 0)
			r = put_all(d, "created", &d->b, &come);
	}
	if (r == 0 && b.n > 0)
		r = is_modified(d, gone.n + come.n == 0, &modified);
	return r == 0 && modified ? put(d, "modified", &d->b, &b.p[0], NULL) : r;
}

/* ---- a page ---- */

static bool is_at(const struct side *s, uint64_t ino)
{
	return !s->end && s->in.ino == ino;
}

static bool page_is_full(struct diff *d)
{
	return d->used > PAGE_BYTES / 2 || d->looked++ > LOOK_ROWS;
}

/* Of an inode that both sides are at, or one of them, or none. */
static int look(struct diff *d, uint64_t ino)
{
	bool in_a = is_at(&d->a, ino), in_b = is_at(&d->b, ino);

	if (in_a && in_b)
		return ino == FS_ROOT_INO ? 0 : compare(d);
	if (in_a)
		return put_side(d, "deleted", &d->a);
	return in_b ? put_side(d, "created", &d->b) : 0; /* neither: it came and went in between */
}

/* *ret_next: the inode to go on from; 0: that was all. */
static int walk_all(struct diff *d, uint64_t *ret_next)
{
	struct side *a = &d->a, *b = &d->b;
	int r = 0;

	*ret_next = 0;
	while (r == 0 && (!a->end || !b->end)) {
		uint64_t ino = a->end ? b->in.ino : b->end ? a->in.ino : min_u64(a->in.ino, b->in.ino);
		bool in_a = is_at(a, ino), in_b = is_at(b, ino);

		if (page_is_full(d)) {
			*ret_next = ino;
			return 0;
		}
		r = look(d, ino);
		if (r == 0 && in_a)
			r = side_next(a);
		if (r == 0 && in_b)
			r = side_next(b);
	}
	return r;
}

static int walk_marked(struct diff *d, uint64_t *ret_next)
{
	uint64_t ino;
	int r;

	*ret_next = 0;
	while ((r = marks_walk_next(d->marks, &ino)) == 0) {
		if (page_is_full(d)) {
			*ret_next = ino;
			return 0;
		}
		r = side_forward(&d->a, ino);
		if (r == 0)
			r = side_forward(&d->b, ino);
		if (r == 0)
			r = look(d, ino);
		if (r < 0)
			return r;
	}
	return r == -ENOENT ? 0 : r;
}

/* When both sides are open: what changes from then on is marked and not seen, never the other way round. */
static int open_marks(struct diff *d, struct fs *fs, uint64_t ino)
{
	uint64_t after = min_u64(d->a.top, d->b.top), upto = max_u64(d->a.top, d->b.top);

	return marks_reach(fs, after) ? marks_walk_open(fs, after, upto, ino, &d->marks) : 0;
}

static int put_page(struct diff *d, uint64_t next, struct buf *out)
{
	json_t *root = json_pack("{s:O, s:I}", "changes", d->list, "looked", (json_int_t)d->looked);

	if (root && next)
		json_object_set_new(root, "next", json_integer((json_int_t)next));
	char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	if (text)
		buf_put(out, text, strlen(text));
	json_decref(root);
	int r = text ? 0 : -ENOMEM;
	free(text);
	return r;
}

int snap_diff_page(struct fs *fs, uint64_t from_gen, uint64_t to_gen, uint64_t ino, bool all, struct buf *out)
{
	struct diff d = {.list = json_array()};
	uint64_t next;
	int r = d.list ? side_open(fs, from_gen, false, &d.a) : -ENOMEM;

	if (r == 0)
		r = side_open(fs, to_gen, to_gen == UINT64_MAX, &d.b);
	if (r == 0 && !all)
		r = open_marks(&d, fs, ino);
	if (r == 0)
		r = side_begin(&d.a, ino);
	if (r == 0)
		r = side_begin(&d.b, ino);
	if (r == 0)
		r = d.marks ? walk_marked(&d, &next) : walk_all(&d, &next);
	if (r == 0)
		r = put_page(&d, next, out);
	marks_walk_close(d.marks);
	side_close(&d.b);
	side_close(&d.a);
	json_decref(d.list);
	return r;
}

int fs_snap_diff_json(struct fs *fs, uint64_t from_gen, uint64_t to_gen, uint64_t ino, struct buf *out)
{
	return snap_diff_page(fs, from_gen, to_gen, ino, false, out);
}
