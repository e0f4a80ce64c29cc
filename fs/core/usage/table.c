/*
 * table.c: directories in memory and their rows in table U: load, fold, write, and stay within bounds.
 *
 * A step of folding takes what is pending in one directory into its total and hands it to the directory above, where it is
 * pending then.  Each step leaves the truth as it was, so the lock may be given up between any two.  The list of what is pending
 * has those first that became so by folding, and is worked off from its end: children come before their parents as a rule, and a
 * parent has what all of them bring before it is its turn.
 *
 * Memory is bounded by `limit` directories.  Which one was not used for longest is folded, written and dropped.
 */
#include <errno.h>
#include <string.h>

#include "fs/core/usage/usage_impl.h"

/* More steps than any tree that fits into memory takes: the rows make a circle. */
#define FOLD_STEPS_MAX (UINT64_C(1) << 26)
#define EVICT_MAX      64u /* at a time: an operation brings a few */

static struct usage_bucket *bucket_of(struct usage *u, uint64_t ino) REQUIRES(u->lock)
{
	return &u->bucket[(ino * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (u->limit - 1)];
}

struct usage_dir *usage_at(struct usage *u, uint64_t ino) REQUIRES(u->lock)
{
	struct usage_bucket *b = bucket_of(u, ino);
	struct usage_dir *d;

	LIST_FOREACH(d, b, hash)
	if (d->ino == ino)
		break;
	if (!d) {
		d = calloc(1, sizeof(*d));
		if (!d)
			return NULL;
		d->ino = ino;
		d->total.ctime_ns = d->pending.ctime_ns = INT64_MIN;
		LIST_INSERT_HEAD(b, d, hash);
		u->n++;
	} else {
		TAILQ_REMOVE(&u->lru, d, lru);
	}
	TAILQ_INSERT_TAIL(&u->lru, d, lru);
	return d;
}

void usage_drop(struct usage *u, struct usage_dir *d) REQUIRES(u->lock)
{
	LIST_REMOVE(d, hash);
	TAILQ_REMOVE(&u->lru, d, lru);
	if (d->is_pending) {
		TAILQ_REMOVE(&u->pending, d, pending_link);
		u->n_pending--;
	}
	if (d->dirty)
		TAILQ_REMOVE(&u->dirty, d, dirty_link);
	free(d);
	u->n--;
}

void usage_drop_all(struct usage *u) REQUIRES(u->lock)
{
	while (!TAILQ_EMPTY(&u->lru))
		usage_drop(u, TAILQ_FIRST(&u->lru));
}

void usage_sum_add(struct usage_sum *to, const struct usage_sum *sum)
{
	to->bytes += sum->bytes;
	to->files += sum->files;
	to->subdirs += sum->subdirs;
	to->ctime_ns = to->ctime_ns > sum->ctime_ns ? to->ctime_ns : sum->ctime_ns;
}

/* ---- rows ---- */

int usage_row_get(struct kv *kv, uint64_t ino, struct usage_sum *ret, uint64_t *ret_parent)
{
	struct index_key k = key_ino(TABLE_USAGE, ino);
	struct usage_value v;
	size_t len;
	int r = kv_get(kv, key_slice(&k), &v, sizeof(v), &len);

	if (r < 0)
		return r == -ERANGE ? -EUCLEAN : r;
	if (len != sizeof(v) || v.version != 1)
		return -EUCLEAN;
	*ret = (struct usage_sum){.bytes = (int64_t)le64_get(v.bytes),
				  .files = (int64_t)le64_get(v.files),
				  .subdirs = (int64_t)le64_get(v.subdirs),
				  .ctime_ns = (int64_t)le64_get(v.ctime_ns)};
	*ret_parent = le64_get(v.parent);
	return 0;
}

static void put_row(struct kv_batch *b, const struct usage_dir *d)
{
	struct index_key k = key_ino(TABLE_USAGE, d->ino);
	struct usage_value v = {.version = 1,
				.parent = le64_make(d->parent),
				.bytes = le64_make((uint64_t)d->total.bytes),
				.files = le64_make((uint64_t)d->total.files),
				.subdirs = le64_make((uint64_t)d->total.subdirs),
				.ctime_ns = le64_make((uint64_t)d->total.ctime_ns)};

	kv_batch_put(b, key_slice(&k), (struct slice){&v, sizeof(v)});
}

/* While all is counted, inodes are in the index as they are, and say what is above them. */
static int load_uncounted(struct fs *fs, struct usage_dir *d)
{
	struct inode in;
	int r = index_get_inode(fs->kv, d->ino, &in);

	if (r == 0)
		d->parent = in.parent;
	return r;
}

int usage_dir_load(struct fs *fs, uint64_t ino, struct usage_dir **ret) REQUIRES(fs->usage->lock)
{
	struct usage_dir *d = usage_at(fs->usage, ino);
	struct usage_sum row;

	if (!d)
		return -ENOMEM;
	if (!d->loaded) {
		int r = usage_row_get(fs->kv, ino, &row, &d->parent);

		if (r == 0)
			d->total = row;
		d->stored = r == 0;
		if (r == -ENOENT && fs->usage->counting)
			r = load_uncounted(fs, d);
		if (r < 0)
			return r;
		d->loaded = true;
	}
	*ret = d;
	return 0;
}

void usage_mark_dirty(struct usage *u, struct usage_dir *d) REQUIRES(u->lock)
{
	if (!d->dirty)
		TAILQ_INSERT_TAIL(&u->dirty, d, dirty_link);
	d->dirty = true;
}

int usage_write(struct fs *fs, size_t max, bool *ret_more) REQUIRES(fs->usage->lock)
{
	struct kv_batch *b = index_batch();
	struct usage_dir *d;
	size_t n = 0;

	TAILQ_FOREACH(d, &fs->usage->dirty, dirty_link)
	{
		if (n == max)
			break;
		put_row(b, d);
		n++;
	}
	int r = kv_write(fs->kv, b);
	if (r < 0)
		return r;
	for (; n > 0; n--) {
		d = TAILQ_FIRST(&fs->usage->dirty);
		TAILQ_REMOVE(&fs->usage->dirty, d, dirty_link);
		d->dirty = false;
		d->stored = true;
	}
	*ret_more = !TAILQ_EMPTY(&fs->usage->dirty);
	return 0;
}

/* ---- pending ---- */

static void note(struct usage *u, struct usage_dir *d, const struct usage_sum *sum, bool folded) REQUIRES(u->lock)
{
	usage_sum_add(&d->pending, sum);
	if (d->is_pending)
		return;
	d->is_pending = true;
	u->n_pending++;
	if (folded)
		TAILQ_INSERT_HEAD(&u->pending, d, pending_link);
	else
		TAILQ_INSERT_TAIL(&u->pending, d, pending_link);
}

int usage_note(struct usage *u, uint64_t ino, const struct usage_sum *sum) REQUIRES(u->lock)
{
	struct usage_dir *d = usage_at(u, ino);

	if (!d)
		return -ENOMEM;
	note(u, d, sum, false);
	return 0;
}

int usage_fold_dir(struct fs *fs, struct usage_dir *d) REQUIRES(fs->usage->lock)
{
	struct usage_dir *above = NULL;

	if (!d->is_pending)
		return 0;
	int r = usage_dir_load(fs, d->ino, &d);
	if (r < 0)
		return r;
	if (d->ino != FS_ROOT_INO) {
		above = usage_at(fs->usage, d->parent);
		if (!above)
			return -ENOMEM;
		note(fs->usage, above, &d->pending, true);
	}
	usage_sum_add(&d->total, &d->pending);
	d->pending = (struct usage_sum){.ctime_ns = INT64_MIN};
	d->is_pending = false;
	fs->usage->n_pending--;
	TAILQ_REMOVE(&fs->usage->pending, d, pending_link);
	usage_mark_dirty(fs->usage, d);
	return 0;
}

int usage_fold(struct fs *fs, size_t max, bool *ret_more) REQUIRES(fs->usage->lock)
{
	int r = 0;

	while (r == 0 && max-- > 0 && !TAILQ_EMPTY(&fs->usage->pending))
		r = usage_fold_dir(fs, TAILQ_LAST(&fs->usage->pending, usage_dirs));
	*ret_more = !TAILQ_EMPTY(&fs->usage->pending);
	return r;
}

int usage_fold_all(struct fs *fs) REQUIRES(fs->usage->lock)
{
	bool more = true;
	int r = usage_fold(fs, FOLD_STEPS_MAX, &more);

	return r == 0 && more ? -ELOOP : r;
}

/* The oldest goes; folding may bring the one above it, which is young then. */
static int evict(struct fs *fs) REQUIRES(fs->usage->lock)
{
	struct usage_dir *d = TAILQ_FIRST(&fs->usage->lru);
	struct kv_batch *b;
	int r = usage_fold_dir(fs, d);

	if (r < 0)
		return r;
	if (d->dirty) {
		b = index_batch();
		put_row(b, d);
		r = kv_write(fs->kv, b);
	}
	if (r == 0)
		usage_drop(fs->usage, d);
	return r;
}

int usage_trim(struct fs *fs) REQUIRES(fs->usage->lock)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && fs->usage->n > fs->usage->limit && i < EVICT_MAX; i++)
		r = evict(fs);
	return r == -ENOSPC ? 0 : r; /* the host is full: they stay for now */
}
