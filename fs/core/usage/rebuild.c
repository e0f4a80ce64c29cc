/*
 * rebuild.c: everything counted anew from inodes and names: where there are no totals yet, after a release that knew of none had
 * the volume, and at the end of a resync.  One walk over table I, and one over table C where files have several names; nobody
 * else uses the volume.  Memory as ever (table.c).
 *
 * Nothing says that the totals are right before the mark does, which a checkpoint writes once all is counted: what a crash
 * leaves of it is thrown away and counted again.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/core/usage/usage_impl.h"

#define DELETE_ROWS 4096u  /* in one batch */
#define SLICE_ROWS  32768u /* with one iterator, which holds the memtables it began with */

typedef int row_fn(struct fs *fs, struct slice key, struct slice value);

/* Memtables grow by what is deleted and put: a checkpoint empties them, unless an iterator holds them. */
static int make_room(struct fs *fs)
{
	return checkpoint_if_full(fs);
}

/* Up to SLICE_ROWS rows from *at on, which is where the next ones begin then; *ret_more: there may be some. */
static int some_rows(struct fs *fs, enum index_table table, struct index_key *at, row_fn *fn, bool *ret_more)
{
	const struct kv_ops *ops = fs->kv->ops;
	uint32_t n = 0;
	struct kv_iter *it;
	int r = ops->iter_open(fs->kv, &it);

	*ret_more = false;
	if (r < 0)
		return r;
	for (ops->iter_seek(it, key_slice(at)); r == 0 && ops->iter_valid(it); ops->iter_next(it)) {
		struct slice key = ops->iter_key(it);

		if (*(const uint8_t *)key.p != (uint8_t)table || key.len > sizeof(at->b))
			break;
		if (n++ == SLICE_ROWS) {
			memcpy(at->b, key.p, key.len);
			at->len = key.len;
			*ret_more = true;
			break;
		}
		r = fn(fs, key, ops->iter_value(it));
	}
	if (r == 0)
		r = ops->iter_error(it);
	ops->iter_close(it);
	return r;
}

/* fn for every row of a table, until it does not return 0; it may change rows it was given, of this table or another. */
static int each_row(struct fs *fs, enum index_table table, row_fn *fn)
{
	struct index_key at = {.b = {(uint8_t)table}, .len = 1};
	bool more = true;
	int r = 0;

	while (r == 0 && more) {
		r = some_rows(fs, table, &at, fn, &more);
		if (r == 0)
			r = make_room(fs);
	}
	return r;
}

static int delete_some(struct fs *fs, enum index_table table, uint32_t *ret_n)
{
	const uint8_t first[] = {(uint8_t)table};
	const struct kv_ops *ops = fs->kv->ops;
	struct kv_batch b = {0};
	struct kv_iter *it;
	int r = ops->iter_open(fs->kv, &it);

	*ret_n = 0;
	if (r < 0)
		return r;
	for (ops->iter_seek(it, (struct slice){first, 1}); *ret_n < DELETE_ROWS && ops->iter_valid(it); ops->iter_next(it)) {
		struct slice key = ops->iter_key(it);

		if (*(const uint8_t *)key.p != (uint8_t)table)
			break;
		kv_batch_delete(&b, key);
		++*ret_n;
	}
	r = ops->iter_error(it);
	ops->iter_close(it);
	if (r == 0)
		r = kv_write(fs->kv, &b);
	kv_batch_free(&b);
	return r;
}

static int delete_table(struct fs *fs, enum index_table table)
{
	uint32_t n = DELETE_ROWS;
	int r = 0;

	while (r == 0 && n == DELETE_ROWS) {
		r = delete_some(fs, table, &n);
		if (r == 0)
			r = make_room(fs);
	}
	return r;
}

/* ---- names ---- */

/* A name of a file; damaged rows are fsck's to tell of. */
static int take_name(struct fs *fs, struct slice key, struct slice value)
{
	struct dentry d;
	struct slice name;
	struct inode in;

	if (key.len != 17 || cookie_decode(value, &d, &name) < 0 || S_ISDIR(d.type))
		return 0;
	int r = index_get_inode(fs->kv, d.ino, &in);
	if (r == -ENOENT || r == -EUCLEAN)
		return 0;
	if (r < 0)
		return r;
	uint64_t parent = be64_get((const uint8_t *)key.p + 1), cookie = be64_get((const uint8_t *)key.p + 9);
	if (in.nlink > 1)
		return names_put(fs, in.ino, parent, cookie);
	if (in.nlink == 0 || (in.parent == parent && in.cookie == cookie))
		return 0;
	/* Its primary name was removed by a release that did not look for another one. */
	in.parent = parent;
	in.cookie = cookie;
	return index_put_inode(fs->kv, &in);
}

/* Of a file with several names: the primary one has to be one of them. */
static int check_primary(struct fs *fs, struct slice key, struct slice value)
{
	struct inode in;
	uint64_t ino = key.len == 9 ? be64_get((const uint8_t *)key.p + 1) : 0;
	bool have;

	if (ino == 0 || inode_decode(value, ino, &in) < 0 || in.nlink < 2 || S_ISDIR(in.mode))
		return 0;
	int r = names_have(fs, ino, in.parent, in.cookie, &have);
	if (r < 0 || have)
		return r;
	r = names_first(fs, ino, &in.parent, &in.cookie);
	return r == 0 ? index_put_inode(fs->kv, &in) : r == -ENOENT ? 0 : r;
}

static int find_links(struct fs *fs, struct slice key, struct slice value)
{
	struct inode in;

	(void)fs;
	return key.len == 9 && inode_decode(value, 1, &in) == 0 && in.nlink > 1 && !S_ISDIR(in.mode) ? 1 : 0;
}

/* `all`: look at every name, because a primary one may be wrong. */
static int rebuild_names(struct fs *fs, bool all)
{
	int r = delete_table(fs, TABLE_NAME);

	if (r == 0 && !all)
		r = each_row(fs, TABLE_INODE, find_links);
	if (r < 0 || (r == 0 && !all))
		return r;
	r = each_row(fs, TABLE_COOKIE, take_name);
	return r == 0 ? each_row(fs, TABLE_INODE, check_primary) : r;
}

/* ---- totals ---- */

static int count_inode(struct fs *fs, const struct inode *in) REQUIRES(fs->usage->lock)
{
	const struct usage_sum file = {.bytes = (int64_t)in->size, .files = 1, .ctime_ns = in->ctime_ns},
			       dir = {.subdirs = 1, .ctime_ns = INT64_MIN}, self = {.ctime_ns = in->ctime_ns};
	int r;

	if (!S_ISDIR(in->mode))
		return usage_note(fs->usage, in->parent, &file);
	r = usage_note(fs->usage, in->ino, &self);
	return r == 0 && in->ino != FS_ROOT_INO ? usage_note(fs->usage, in->parent, &dir) : r;
}

static int take_inode(struct fs *fs, struct slice key, struct slice value)
{
	struct inode in;
	uint64_t ino = key.len == 9 ? be64_get((const uint8_t *)key.p + 1) : 0;

	if (ino == 0 || inode_decode(value, ino, &in) < 0 || in.nlink == 0)
		return 0;
	mutex_lock(&fs->usage->lock);
	int r = count_inode(fs, &in);
	if (r == 0)
		r = usage_trim(fs);
	mutex_unlock(&fs->usage->lock);
	return r;
}

static int write_all(struct fs *fs) REQUIRES(fs->usage->lock)
{
	bool more = true;
	int r = usage_fold_all(fs);

	while (r == 0 && more)
		r = usage_write(fs, DELETE_ROWS, &more);
	return r;
}

static int rebuild_totals(struct fs *fs)
{
	int r = delete_table(fs, TABLE_USAGE);

	mutex_lock(&fs->usage->lock);
	usage_drop_all(fs->usage);
	fs->usage->counting = true;
	mutex_unlock(&fs->usage->lock);
	if (r == 0)
		r = each_row(fs, TABLE_INODE, take_inode);
	mutex_lock(&fs->usage->lock);
	if (r == 0)
		r = write_all(fs);
	fs->usage->counting = false;
	if (r < 0)
		usage_drop_all(fs->usage);
	atomic_store(&fs->usage->valid, r == 0);
	mutex_unlock(&fs->usage->lock);
	return r;
}

static bool is_damage(int r)
{
	return r == -EUCLEAN || r == -EBADMSG || r == -ELOOP || r == -ENOENT || r == -EIO;
}

int usage_rebuild(struct fs *fs)
{
	uint64_t n = atomic_load(&fs->n_inodes);
	bool upgrade = !fs->super.resyncing;
	int r = icache_save(fs->icache);

	if (n > 100000)
		log_info("counting what is in each directory: %llu inodes", (unsigned long long)n);
	if (r == 0)
		r = rebuild_names(fs, upgrade && n > 1);
	if (r == 0) { /* inodes may have changed below the cache */
		icache_clear(fs->icache);
		r = rebuild_totals(fs);
	}
	if (r < 0 && is_damage(r)) {
		log_error("what is in each directory cannot be counted (%s): quotas are not enforced; run clawfs fsck",
			  strerror(-r));
		return 0;
	}
	return r;
}
