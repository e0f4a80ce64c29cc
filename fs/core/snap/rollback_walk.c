/*
 * rollback_walk.c: two indexes side by side, table by table; each row in which they differ is put or deleted in the live one.
 *
 * Each row is one batch of the index, and a row that is equal costs a comparison.  So the walk may end anywhere and be begun
 * again, and what it finds done it leaves.  What is walked is the tree and what belongs to its inodes:
 *
 *     I   but the cookies of a directory go on from the higher of both: none is given out twice
 *     C   and D with it, which has the same names in another order (an encrypted index does not even keep them in that of names)
 *     L X O E
 *     P   but for those of the root directory: they say how the volume is run (stores and their keys, levels, schedules)
 *
 * The rest is not the tree's: anchor, bitmap, histories, objects (counted by what leaves gain and lose), snapshots, scrub.  U and
 * N are counted anew at the end.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/snap/rollback.h"

#define SLICE_ROWS 32768u /* with one pair of iterators, which hold the memtables they began with */
#define LOOK_ROWS  16u    /* so many at most (values have up to 64 KiB) before memtables are looked at */

typedef int row_fn(struct roll *w, struct slice key, struct slice then, struct slice now);

/* ---- rows ---- */

static int put_plain(struct roll *w, struct slice key, struct slice then, struct slice now)
{
	struct kv_batch *b = index_batch();

	(void)now;
	if (then.p)
		kv_batch_put(b, key, then);
	else
		kv_batch_delete(b, key);
	return kv_write(w->fs->kv, b);
}

/* The kernel holds what it knows of a file's length and times for the truth: such an inode must be another one to it. */
static bool is_same_file(const struct inode *a, const struct inode *b)
{
	return a->mode == b->mode && a->size == b->size && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

static int put_inode(struct roll *w, struct slice key, struct slice then, struct slice now)
{
	uint64_t ino = key.len == 9 ? be64_get((const uint8_t *)key.p + 1) : 0;
	struct inode was, is;

	bool here = now.p && inode_decode(now, ino, &is) == 0;
	int r = then.p ? inode_decode(then, ino, &was) : 0;
	if (r < 0)
		return r;
	if (!here || !then.p || !is_same_file(&was, &is))
		refs_changed(w->fs->refs, ino);
	if (!here || !then.p || !S_ISDIR(was.mode))
		return put_plain(w, key, then, now);
	was.next_cookie = max_u64(was.next_cookie, is.next_cookie);
	return index_put_inode(w->fs->kv, &was);
}

static int put_policy(struct roll *w, struct slice key, struct slice then, struct slice now)
{
	bool of_root = key.len > 9 && be64_get((const uint8_t *)key.p + 1) == FS_ROOT_INO;

	return of_root ? 0 : put_plain(w, key, then, now);
}

/* The name goes from table D, unless that has it at another cookie already. */
static int take_name(struct roll *w, struct kv_batch *b, uint64_t parent, uint64_t cookie, struct slice name)
{
	struct index_key k = key_name(TABLE_DENTRY, parent, name);
	struct dentry d;
	int r = index_get_dentry(w->fs->kv, parent, name, &d);

	if (r == -EUCLEAN || (r == 0 && d.cookie == cookie)) {
		kv_batch_delete(b, key_slice(&k));
		return 0;
	}
	return r == -ENOENT ? 0 : r;
}

/* A row of table C; of two names that one cookie had, the newer one goes first. */
static int put_name(struct roll *w, struct slice key, struct slice then, struct slice now)
{
	uint64_t parent, cookie;
	struct kv_batch b = {0};
	struct dentry d;
	struct slice name;
	int r = 0;

	if (key.len != 17)
		return -EUCLEAN;
	parent = be64_get((const uint8_t *)key.p + 1);
	cookie = be64_get((const uint8_t *)key.p + 9);
	if (now.p && cookie_decode(now, &d, &name) == 0)
		r = take_name(w, &b, parent, cookie, name);
	kv_batch_delete(&b, key);
	if (r == 0 && then.p) {
		r = cookie_decode(then, &d, &name);
		d.cookie = cookie;
		if (r == 0)
			index_put_dentry(&b, parent, name, &d);
	}
	if (r == 0)
		r = kv_write(w->fs->kv, &b);
	kv_batch_free(&b);
	return r;
}

static int put_leaf(struct roll *w, struct slice key, struct slice then, struct slice now)
{
	if (key.len != 17)
		return -EUCLEAN;
	return roll_leaf(w, be64_get((const uint8_t *)key.p + 1), be64_get((const uint8_t *)key.p + 9), then, now);
}

/* ---- side by side ---- */

/* One of the two; its row is what `key` says, or it has none there. */
struct side {
	struct kv *kv;
	struct kv_iter *it;
	uint8_t table;
};

static int side_open(struct side *s, struct kv *kv, const struct index_key *at)
{
	int r = kv->ops->iter_open(kv, &s->it);

	s->kv = kv;
	s->table = at->b[0];
	if (r < 0)
		return r;
	kv->ops->iter_seek(s->it, key_slice(at));
	return 0;
}

static void side_close(struct side *s)
{
	if (s->it)
		s->kv->ops->iter_close(s->it);
}

/* Without a row: an empty slice. */
static int side_key(struct side *s, struct slice *ret)
{
	*ret = (struct slice){0};
	if (!s->kv->ops->iter_valid(s->it))
		return s->kv->ops->iter_error(s->it);
	struct slice key = s->kv->ops->iter_key(s->it);
	if (key.len == 0 || *(const uint8_t *)key.p != s->table)
		return 0;
	if (key.len > INDEX_KEY_MAX)
		return -EUCLEAN;
	*ret = key;
	return 0;
}

static int compare(struct slice a, struct slice b)
{
	int c = memcmp(a.p, b.p, a.len < b.len ? a.len : b.len);

	return c ? c : (a.len > b.len) - (a.len < b.len);
}

/* The row that is next in either; *ret_any false at the end of both. */
static int next_row(struct side *then, struct side *now, struct index_key *key, bool *ret_then, bool *ret_now, bool *ret_any)
{
	struct slice a, b;
	int r = side_key(then, &a);

	if (r == 0)
		r = side_key(now, &b);
	if (r < 0)
		return r;
	int c = !a.p ? 1 : !b.p ? -1 : compare(a, b);
	*ret_then = a.p && c <= 0;
	*ret_now = b.p && c >= 0;
	*ret_any = *ret_then || *ret_now;
	if (!*ret_any)
		return 0;
	struct slice first = *ret_then ? a : b;
	memcpy(key->b, first.p, first.len);
	key->len = first.len;
	return 0;
}

static int visit(struct roll *w, struct side *then, struct side *now, const struct index_key *key, bool in_then, bool in_now,
		 row_fn *fn)
{
	struct slice a = {0}, b = {0};
	int r = 0;

	if (in_then)
		a = then->kv->ops->iter_value(then->it);
	if (in_now)
		b = now->kv->ops->iter_value(now->it);
	/* A value without bytes is one all the same. */
	a.p = in_then && !a.p ? "" : a.p;
	b.p = in_now && !b.p ? "" : b.p;
	if (!in_then || !in_now || a.len != b.len || memcmp(a.p, b.p, a.len) != 0)
		r = fn(w, key_slice(key), a, b);
	if (in_then)
		then->kv->ops->iter_next(then->it);
	if (in_now)
		now->kv->ops->iter_next(now->it);
	return r;
}

/* Up to SLICE_ROWS rows from *at on, fewer when memory is full; it is where the next ones begin then. */
static int walk_slice(struct roll *w, struct index_key *at, row_fn *fn, bool *ret_more)
{
	struct side then = {0}, now = {0};
	bool in_then, in_now;
	int r = side_open(&then, w->kv, at);

	*ret_more = true;
	if (r == 0)
		r = side_open(&now, w->fs->kv, at);
	for (uint32_t n = 0; r == 0; n++) {
		r = next_row(&then, &now, at, &in_then, &in_now, ret_more);
		if (r < 0 || !*ret_more || n == SLICE_ROWS || (n > 0 && n % LOOK_ROWS == 0 && checkpoint_is_due(w->fs)))
			break;
		r = visit(w, &then, &now, at, in_then, in_now, fn);
	}
	side_close(&then);
	side_close(&now);
	return r;
}

static int walk_table(struct roll *w, enum index_table table, row_fn *fn)
{
	struct index_key at = {.b = {(uint8_t)table}, .len = 1};
	bool more = true;
	int r = 0;

	while (r == 0 && more) {
		r = walk_slice(w, &at, fn, &more);
		if (r == 0)
			r = roll_pause(w);
	}
	return r;
}

int roll_walk(struct roll *w)
{
	static const struct {
		enum index_table table;
		row_fn *fn;
	} tables[] = {
	    {TABLE_COOKIE, put_name},  {TABLE_EXTENT, put_leaf},   {TABLE_INODE, put_inode}, {TABLE_TARGET, put_plain},
	    {TABLE_ORPHAN, put_plain}, {TABLE_POLICY, put_policy}, {TABLE_XATTR, put_plain},
	};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(tables) && r == 0; i++)
		r = walk_table(w, tables[i].table, tables[i].fn);
	return r;
}

/* ---- looking first ---- */

static int check_row(struct slice key, struct slice value)
{
	const uint8_t *k = key.p;
	struct inode in;
	struct dentry d;
	struct slice name;
	struct leaf l;

	switch (k[0]) {
	case TABLE_INODE:
		return key.len == 9 ? inode_decode(value, be64_get(k + 1), &in) : -EUCLEAN;
	case TABLE_COOKIE:
		return key.len == 17 ? cookie_decode(value, &d, &name) : -EUCLEAN;
	case TABLE_EXTENT:
		return key.len == 17 ? leaf_decode(value.p, value.len, &l) : -EUCLEAN;
	default:
		return key.len <= INDEX_KEY_MAX ? 0 : -EUCLEAN;
	}
}

int roll_check(struct kv *kv)
{
	static const uint8_t first[] = {0};
	const struct kv_ops *ops = kv->ops;
	struct inode root;
	struct kv_iter *it;
	int r = index_get_inode(kv, FS_ROOT_INO, &root);

	if (r < 0 || !S_ISDIR(root.mode))
		return r == 0 || r == -ENOENT ? -EUCLEAN : r;
	r = ops->iter_open(kv, &it);
	if (r < 0)
		return r;
	for (ops->iter_seek(it, (struct slice){first, 1}); r == 0 && ops->iter_valid(it); ops->iter_next(it))
		r = check_row(ops->iter_key(it), ops->iter_value(it));
	if (r == 0)
		r = ops->iter_error(it);
	ops->iter_close(it);
	return r;
}
