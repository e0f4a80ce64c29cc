/*
 * usage.c: totals of directories: what each record changes, what is asked for, what a checkpoint keeps.
 *
 * The inodes that a record names are looked at before and after it is applied, under the same stripes, and what differs is what
 * the totals gain and lose: so there is nothing to remember for each kind of record, and recovery and followers do the same.
 *
 * A directory's parent is written down here too, because it must change in the same moment as what was folded moves from the one
 * above it to the other.  What is still pending in it or below needs nothing: it is folded through the new parent.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/core/snap/snap.h"
#include "fs/core/usage/usage_impl.h"

#define MEMORY_SHARE 64u /* of memory_bytes, for directories */
#define LIMIT_MIN    64u
#define LIMIT_SMALL  32u   /* without threads: tests see directories come and go */
#define SLICE        256u  /* folded or written before the lock is given up */
#define SLICES_MAX   4096u /* so often, when operations bring new ones meanwhile */

/* ---- open and close ---- */

static size_t limit_for(const struct fs *fs)
{
	uint64_t want = fs->config.no_threads ? LIMIT_SMALL : fs->config.memory_bytes / MEMORY_SHARE / sizeof(struct usage_dir);
	size_t limit = fs->config.no_threads ? LIMIT_SMALL : LIMIT_MIN;

	while (limit * 2 <= want)
		limit *= 2;
	return limit;
}

static int usage_new(const struct fs *fs, struct usage **ret) NO_THREAD_SAFETY
{
	CLEANUP_FREE struct usage *u = calloc(1, sizeof(*u));

	if (!u)
		return -ENOMEM;
	u->limit = limit_for(fs);
	u->bucket = calloc(u->limit, sizeof(*u->bucket));
	if (!u->bucket)
		return -ENOMEM;
	TAILQ_INIT(&u->lru);
	TAILQ_INIT(&u->pending);
	TAILQ_INIT(&u->dirty);
	mutex_init(&u->lock);
	quotas_open(u);
	*ret = TAKE_PTR(u);
	return 0;
}

/* Whether the totals in the index are those of the anchor beside them. */
static bool mark_is_right(struct kv *kv, uint64_t applied_seq)
{
	struct index_key k = key_ino(TABLE_USAGE, 0);
	struct usage_mark_value v;
	size_t len;

	return kv_get(kv, key_slice(&k), &v, sizeof(v), &len) == 0 && len == sizeof(v) && v.version == 1 &&
	       le64_get(v.applied_seq) == applied_seq;
}

int usage_open(struct fs *fs, uint64_t applied_seq)
{
	int r = usage_new(fs, &fs->usage);

	if (r == 0)
		atomic_store(&fs->usage->valid, !fs->super.resyncing && mark_is_right(fs->kv, applied_seq));
	return r;
}

void usage_close(struct fs *fs) NO_THREAD_SAFETY
{
	struct usage *u = fs->usage;

	if (!u)
		return;
	usage_drop_all(u);
	quotas_close(u);
	mutex_destroy(&u->lock);
	free(u->bucket);
	free(u);
	fs->usage = NULL;
}

int usage_begin(struct fs *fs)
{
	if (atomic_load(&fs->usage->valid) || fs->super.resyncing)
		return 0;
	return usage_rebuild(fs);
}

void usage_forget(struct fs *fs)
{
	mutex_lock(&fs->usage->lock);
	atomic_store(&fs->usage->valid, false);
	quotas_forget(fs);
	usage_drop_all(fs->usage);
	mutex_unlock(&fs->usage->lock);
}

void usage_lost(struct fs *fs, int error) REQUIRES(fs->usage->lock)
{
	if (!atomic_exchange(&fs->usage->valid, false))
		return;
	quotas_forget(fs);
	usage_drop_all(fs->usage);
	log_error("the totals of directories are lost (%s) and quotas are not enforced until the next mount counts again",
		  strerror(-error));
}

bool usage_is_known(struct fs *fs)
{
	return atomic_load(&fs->usage->valid);
}

/* ---- before and after a record ---- */

static void see(struct fs *fs, uint64_t ino, struct usage_seen *ret)
{
	struct inode *in;

	*ret = (struct usage_seen){.ino = ino};
	if (icache_get(fs->icache, ino, &in) < 0)
		return;
	ret->counted = in->nlink > 0;
	ret->dir = S_ISDIR(in->mode);
	ret->home = in->parent;
	ret->size = ret->dir ? 0 : (int64_t)in->size;
	ret->ctime_ns = in->ctime_ns;
}

static bool concerns(const struct record *r)
{
	switch (r->type) {
	case RECORD_MKNODE:
	case RECORD_LINK:
	case RECORD_UNLINK:
	case RECORD_RENAME:
	case RECORD_SETATTR:
	case RECORD_SETXATTR:
	case RECORD_RMXATTR:
	case RECORD_WRITE:
	case RECORD_ZERO:
	case RECORD_CLONE:
		return true;
	default: /* the others leave sizes, names and times alone, or have to do with what has no name */
		return false;
	}
}

static bool is_made_by(const struct record *r, uint64_t ino)
{
	return r->type == RECORD_MKNODE ? ino == r->ino : r->type == RECORD_RENAME && ino == r->rename.whiteout_ino;
}

void usage_before(struct fs *fs, const struct record *r, struct usage_step *ret)
{
	uint64_t inos[RECORD_INODES_MAX];

	_Static_assert(USAGE_INODES == RECORD_INODES_MAX, "");
	ret->n = 0;
	if (!concerns(r) || !atomic_load_explicit(&fs->usage->valid, memory_order_relaxed))
		return;
	ret->n = record_inodes(r, inos);
	for (uint32_t i = 0; i < ret->n; i++) {
		if (is_made_by(r, inos[i]))
			ret->before[i] = (struct usage_seen){.ino = inos[i]};
		else
			see(fs, inos[i], &ret->before[i]);
	}
}

/* `sum` happens in directory `ino`. */
static int gain(struct fs *fs, uint64_t ino, const struct usage_sum *sum) REQUIRES(fs->usage->lock)
{
	int r = usage_note(fs->usage, ino, sum);

	return r == 0 ? quota_note(fs, ino, sum) : r;
}

static int gain_time(struct fs *fs, uint64_t ino, const struct usage_seen *before, const struct usage_seen *after)
    REQUIRES(fs->usage->lock)
{
	if (before->counted && before->ctime_ns >= after->ctime_ns)
		return 0;
	return usage_note(fs->usage, ino, &(struct usage_sum){.ctime_ns = after->ctime_ns});
}

static int dir_born(struct fs *fs, const struct usage_seen *dir) REQUIRES(fs->usage->lock)
{
	struct usage_dir *d = usage_at(fs->usage, dir->ino);

	if (!d)
		return -ENOMEM;
	d->parent = dir->home;
	d->loaded = true;
	usage_mark_dirty(fs->usage, d);
	return gain(fs, dir->home, &(struct usage_sum){.subdirs = 1, .ctime_ns = INT64_MIN});
}

/* It is empty, and so is every directory that was in it: nothing is pending but in itself. */
static int dir_died(struct fs *fs, const struct usage_seen *dir) REQUIRES(fs->usage->lock)
{
	struct index_key k = key_ino(TABLE_USAGE, dir->ino);
	struct usage_dir *d;
	int r = usage_dir_load(fs, dir->ino, &d);

	if (r == 0)
		r = usage_fold_dir(fs, d);
	if (r < 0)
		return r;
	if (d->total.bytes || d->total.files || d->total.subdirs)
		return -EUCLEAN;
	if (d->stored) {
		struct kv_batch *b = index_batch();

		kv_batch_delete(b, key_slice(&k));
		r = kv_write(fs->kv, b);
	}
	usage_drop(fs->usage, d);
	quota_gone(fs, dir->ino);
	return r < 0 ? r : gain(fs, dir->home, &(struct usage_sum){.subdirs = -1, .ctime_ns = INT64_MIN});
}

static int dir_moved(struct fs *fs, uint64_t ino, uint64_t from, uint64_t to) REQUIRES(fs->usage->lock)
{
	struct usage_dir *d;
	int r = quota_note_move(fs, ino, from, to);

	if (r == 0)
		r = usage_dir_load(fs, ino, &d);
	if (r < 0)
		return r;
	const struct usage_sum goes = {.bytes = -d->total.bytes,
				       .files = -d->total.files,
				       .subdirs = -d->total.subdirs - 1,
				       .ctime_ns = INT64_MIN},
			       comes = {.bytes = d->total.bytes,
					.files = d->total.files,
					.subdirs = d->total.subdirs + 1,
					.ctime_ns = d->total.ctime_ns};
	d->parent = to;
	usage_mark_dirty(fs->usage, d);
	r = usage_note(fs->usage, from, &goes);
	return r == 0 ? usage_note(fs->usage, to, &comes) : r;
}

static int dir_changed(struct fs *fs, const struct usage_seen *b, const struct usage_seen *a) REQUIRES(fs->usage->lock)
{
	int r = 0;

	if (!b->counted && a->counted)
		r = dir_born(fs, a);
	else if (b->counted && !a->counted)
		r = dir_died(fs, b);
	else if (a->counted && b->home != a->home)
		r = dir_moved(fs, a->ino, b->home, a->home);
	return r == 0 && a->counted ? gain_time(fs, a->ino, b, a) : r;
}

static int file_changed(struct fs *fs, const struct usage_seen *b, const struct usage_seen *a) REQUIRES(fs->usage->lock)
{
	const struct usage_sum goes = {.bytes = -b->size, .files = -1, .ctime_ns = INT64_MIN},
			       comes = {.bytes = a->size, .files = 1, .ctime_ns = a->ctime_ns},
			       grows = {.bytes = a->size - b->size, .ctime_ns = a->ctime_ns};
	int r = 0;

	if (b->counted && a->counted && b->home == a->home)
		return b->size != a->size ? gain(fs, a->home, &grows) : gain_time(fs, a->home, b, a);
	if (b->counted)
		r = gain(fs, b->home, &goes);
	return r == 0 && a->counted ? gain(fs, a->home, &comes) : r;
}

static bool is_same(const struct usage_seen *b, const struct usage_seen *a)
{
	return b->counted == a->counted &&
	       (!a->counted || (b->home == a->home && b->size == a->size && b->ctime_ns >= a->ctime_ns));
}

void usage_after(struct fs *fs, const struct usage_step *s, struct quota_claim *claim)
{
	struct usage_seen after[USAGE_INODES];
	bool changed = claim && claim->reserved;
	int r = 0;

	for (uint32_t i = 0; i < s->n; i++) {
		see(fs, s->before[i].ino, &after[i]);
		changed |= !is_same(&s->before[i], &after[i]);
	}
	if (!changed)
		return;
	mutex_lock(&fs->usage->lock);
	if (claim)
		claim_release(fs, claim);
	for (uint32_t i = 0; i < s->n && r == 0 && atomic_load(&fs->usage->valid); i++) {
		const struct usage_seen *b = &s->before[i], *a = &after[i];

		if (!is_same(b, a))
			r = a->dir || b->dir ? dir_changed(fs, b, a) : file_changed(fs, b, a);
	}
	if (r == 0)
		r = usage_trim(fs);
	if (r < 0)
		usage_lost(fs, r);
	mutex_unlock(&fs->usage->lock);
}

/* ---- checkpoints ---- */

static int save_slice(struct fs *fs, size_t max, bool *ret_more) REQUIRES(fs->usage->lock)
{
	bool unwritten = false;
	int r = usage_fold(fs, max, ret_more);

	if (r == 0 && !*ret_more)
		r = usage_write(fs, max, &unwritten);
	*ret_more |= unwritten;
	return r;
}

int usage_keep(struct fs *fs, bool all)
{
	bool more = true;
	int r = 0;

	for (unsigned i = 0; r == 0 && more && atomic_load(&fs->usage->valid) && (all || i < SLICES_MAX); i++) {
		mutex_lock(&fs->usage->lock);
		r = atomic_load(&fs->usage->valid) ? save_slice(fs, SLICE, &more) : 0;
		if (r < 0 && r != -ENOSPC) {
			usage_lost(fs, r);
			r = 0;
		}
		mutex_unlock(&fs->usage->lock);
	}
	return r;
}

void usage_put_mark(struct fs *fs, struct kv_batch *b, uint64_t applied_seq)
{
	struct index_key k = key_ino(TABLE_USAGE, 0);
	const struct usage_mark_value v = {.version = 1, .applied_seq = le64_make(applied_seq)};

	if (atomic_load(&fs->usage->valid))
		kv_batch_put(b, key_slice(&k), (struct slice){&v, sizeof(v)});
	else
		kv_batch_delete(b, key_slice(&k));
}

/* ---- asking ---- */

int usage_total(struct fs *fs, uint64_t ino, struct usage_sum *ret) REQUIRES(fs->usage->lock)
{
	struct usage_dir *d;
	int r = usage_fold_all(fs);

	if (r == 0)
		r = usage_dir_load(fs, ino, &d);
	if (r == 0)
		*ret = d->total;
	return r;
}

/* Most of the folding, so that what is left for one hold of the lock is little. */
static void fold_ahead(struct fs *fs)
{
	bool more = true;
	int r = 0;

	for (unsigned i = 0; r == 0 && more && i < SLICES_MAX; i++) {
		mutex_lock(&fs->usage->lock);
		if (fs->usage->n_pending <= SLICE || !atomic_load(&fs->usage->valid))
			more = false;
		else
			r = usage_fold(fs, SLICE, &more);
		mutex_unlock(&fs->usage->lock);
	}
}

static int64_t more_of(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static void tell(const struct usage_sum *sum, const struct inode *dir, struct fs_usage *ret)
{
	*ret = (struct fs_usage){.bytes = (uint64_t)more_of(sum->bytes, 0),
				 .files = (uint64_t)more_of(sum->files, 0),
				 .subdirs = (uint64_t)more_of(sum->subdirs, 0),
				 .ctime_ns = more_of(sum->ctime_ns, dir->ctime_ns)};
}

/* As they were: a snapshot is an index at a checkpoint, which has them all. */
static int snapshot_usage(struct fs *fs, uint64_t ino, struct fs_usage *ret)
{
	struct usage_sum sum;
	struct anchor a;
	struct inode in;
	struct held *held;
	struct kv *kv;
	uint64_t parent;
	int r = snap_inode(fs, ino, &in);

	if (r == 0 && !S_ISDIR(in.mode))
		r = -ENODATA;
	if (r == 0)
		r = snap_get(fs, snap_ino_top(ino), &held, &kv);
	if (r < 0)
		return r;
	r = index_get_anchor(kv, &a);
	if (r == 0)
		r = mark_is_right(kv, a.applied_seq) ? usage_row_get(kv, snap_ino_own(ino), &sum, &parent) : -ENODATA;
	snap_put(fs, held);
	if (r == 0)
		tell(&sum, &in, ret);
	return r == -ENOENT ? -ENODATA : r;
}

int fs_dir_usage(struct fs *fs, uint64_t ino, struct fs_usage *ret)
{
	struct usage_sum sum;
	struct inode in;
	int r = fs_readable(fs);

	if (r == 0 && snap_is_ino(ino))
		return snapshot_usage(fs, ino, ret);
	if (r == 0)
		r = icache_copy(fs->icache, ino, &in);
	if (r < 0)
		return r;
	if (!S_ISDIR(in.mode) || in.nlink == 0 || !atomic_load(&fs->usage->valid))
		return -ENODATA;
	fold_ahead(fs);
	mutex_lock(&fs->usage->lock);
	r = atomic_load(&fs->usage->valid) ? usage_total(fs, ino, &sum) : -ENODATA;
	if (r < 0 && r != -ENODATA && r != -ENOENT) /* -ENOENT: it was removed meanwhile */
		usage_lost(fs, r);
	mutex_unlock(&fs->usage->lock);
	if (r < 0)
		return r == -ENOENT ? -ENODATA : r == -ENODATA ? r : -EIO;
	tell(&sum, &in, ret);
	return 0;
}
