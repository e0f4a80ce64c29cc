/*
 * quota.c: limits on what is below a directory: clawfs.quota.max_bytes and clawfs.quota.max_files.
 *
 * A quota is a policy, kept in the index as any other; here is what it takes to enforce it.  Of each directory that has one the
 * use is known exactly at every moment, because each change of totals goes to the quotas above it at once (quota_note()), while
 * it only waits to be folded everywhere else.  Which quota is the nearest above a directory is remembered there.
 *
 * What operations reserve before they happen is in claim.c.
 *
 * A volume without a quota pays two loads an operation.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/snap/snap.h"
#include "fs/core/usage/usage_impl.h"

#define KEY_PREFIX "quota."
#define KEY_BYTES  KEY_PREFIX "max_bytes"
#define KEY_FILES  KEY_PREFIX "max_files"
/* Directories above each other: more would not fit a disk, and rows that make a circle must not hold us for ever. */
#define DEPTH_MAX (UINT32_C(1) << 24)

void quotas_open(struct usage *u)
{
	rwlock_init(&u->quotas.gate);
	atomic_store(&u->quotas.seen, UINT64_MAX);
	u->quotas.generation = 1;
}

void quotas_close(struct usage *u) NO_THREAD_SAFETY
{
	free(u->quotas.quota);
	rwlock_destroy(&u->quotas.gate);
}

/* ---- policies ---- */

bool quota_policy_is(struct slice key)
{
	return policy_key_is(key, KEY_BYTES) || policy_key_is(key, KEY_FILES);
}

/* Decimal digits alone, as they are kept; 0 is no limit anybody can mean. */
static bool parse_limit(const char *value, uint64_t *ret)
{
	uint64_t n = 0;

	if (!*value)
		return false;
	for (const char *p = value; *p; p++)
		if (*p < '0' || *p > '9' || __builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
			return false;
	*ret = n;
	return n > 0 && n <= INT64_MAX;
}

int quota_policy_check(const char *value)
{
	uint64_t n;

	return !value || parse_limit(value, &n) ? 0 : -EINVAL;
}

/* ---- the list ---- */

static int32_t find(const struct quotas *qs, uint64_t ino)
{
	size_t from = 0, to = qs->n;

	while (from < to) {
		size_t mid = from + (to - from) / 2;

		if (qs->quota[mid].ino == ino)
			return (int32_t)mid;
		if (qs->quota[mid].ino < ino)
			from = mid + 1;
		else
			to = mid;
	}
	return -1;
}

struct gather {
	struct quota *quota;
	size_t n, cap;
};

/* Rows come in the order of inodes. */
static int gather_row(void *ctx, uint64_t ino, struct slice key, const char *value)
{
	struct gather *g = ctx;
	uint64_t limit;

	if (!quota_policy_is(key) || !parse_limit(value, &limit))
		return 0; /* of a later release */
	if (g->n == 0 || g->quota[g->n - 1].ino != ino) {
		if (g->n == g->cap) {
			size_t cap = g->cap ? g->cap * 2 : 16;
			struct quota *q = realloc(g->quota, cap * sizeof(*q));

			if (!q)
				return -ENOMEM;
			g->quota = q;
			g->cap = cap;
		}
		g->quota[g->n++] = (struct quota){.ino = ino, .max_bytes = UINT64_MAX, .max_entries = UINT64_MAX};
	}
	if (policy_key_is(key, KEY_BYTES))
		g->quota[g->n - 1].max_bytes = limit;
	else
		g->quota[g->n - 1].max_entries = limit;
	return 0;
}

/* What it uses, which of one that was there before is known.  -ENOENT: the directory was removed. */
static int measure_one(struct fs *fs, struct quota *q) REQUIRES(fs->usage->lock)
{
	int32_t known = find(&fs->usage->quotas, q->ino);
	struct usage_sum sum;

	if (known >= 0) {
		const struct quota *was = &fs->usage->quotas.quota[known];

		q->bytes = was->bytes;
		q->entries = was->entries;
		return was->gone ? -ENOENT : 0;
	}
	int r = usage_total(fs, q->ino, &sum);
	if (r == 0) {
		q->bytes = sum.bytes;
		q->entries = sum.files + sum.subdirs;
	}
	return r;
}

/* A directory that was removed, and whose policies wait to be, has no quota. */
static int measure(struct fs *fs, struct gather *g) REQUIRES(fs->usage->lock)
{
	size_t n = 0;

	for (size_t i = 0; i < g->n; i++) {
		int r = measure_one(fs, &g->quota[i]);

		if (r == 0)
			g->quota[n++] = g->quota[i];
		else if (r != -ENOENT)
			return r;
	}
	g->n = n;
	return 0;
}

static int refresh_locked(struct fs *fs) REQUIRES(fs->usage->lock)
{
	struct quotas *qs = &fs->usage->quotas;
	uint64_t generation = policies_generation(fs);
	struct gather g = {0};
	int r = atomic_load(&fs->usage->valid) ? policies_scan(fs, KEY_PREFIX, gather_row, &g) : 0;

	if (r == 0)
		r = measure(fs, &g);
	if (r < 0) {
		free(g.quota);
		return r;
	}
	free(qs->quota);
	qs->quota = g.quota;
	qs->n = g.n;
	qs->generation++;
	atomic_store(&qs->any, g.n > 0);
	atomic_store(&qs->seen, generation);
	return 0;
}

void quotas_refresh(struct fs *fs)
{
	if (atomic_load_explicit(&fs->usage->quotas.seen, memory_order_relaxed) == policies_generation(fs))
		return;
	rwlock_wrlock(&fs->usage->quotas.gate);
	mutex_lock(&fs->usage->lock);
	int r = refresh_locked(fs);
	if (r < 0)
		usage_lost(fs, r);
	mutex_unlock(&fs->usage->lock);
	rwlock_wrunlock(&fs->usage->quotas.gate);
}

void quotas_forget(struct fs *fs) REQUIRES(fs->usage->lock)
{
	fs->usage->quotas.n = 0;
	fs->usage->quotas.generation++;
	atomic_store(&fs->usage->quotas.any, false);
	atomic_store(&fs->usage->quotas.seen, UINT64_MAX);
}

void quota_gone(struct fs *fs, uint64_t ino) REQUIRES(fs->usage->lock)
{
	int32_t at = find(&fs->usage->quotas, ino);

	if (at >= 0)
		fs->usage->quotas.quota[at].gone = true;
}

/* ---- which quotas are above ---- */

/* Every directory from `ino` up to `end` knows its nearest quota. */
static int remember(struct fs *fs, uint64_t ino, uint64_t end, int32_t nearest) REQUIRES(fs->usage->lock)
{
	struct usage_dir *d;
	int r = 0;

	while (r == 0 && ino != end) {
		r = usage_dir_load(fs, ino, &d);
		if (r == 0) {
			d->nearest = nearest;
			d->generation = fs->usage->quotas.generation;
			ino = d->parent;
		}
	}
	return r;
}

int quota_nearest(struct fs *fs, uint64_t ino, int32_t *ret) REQUIRES(fs->usage->lock)
{
	const struct quotas *qs = &fs->usage->quotas;
	uint64_t at = ino;
	struct usage_dir *d;

	for (uint32_t depth = 0; depth < DEPTH_MAX; depth++) {
		int r = usage_dir_load(fs, at, &d);

		if (r < 0)
			return r;
		bool known = d->generation == qs->generation;
		*ret = known ? d->nearest : find(qs, at);
		if (known || *ret >= 0 || at == FS_ROOT_INO) {
			d->nearest = *ret;
			d->generation = qs->generation;
			return remember(fs, ino, at, *ret);
		}
		at = d->parent;
	}
	return -ELOOP;
}

int quota_above(struct fs *fs, int32_t *at) REQUIRES(fs->usage->lock)
{
	uint64_t ino = fs->usage->quotas.quota[*at].ino;
	struct usage_dir *d;

	*at = -1;
	if (ino == FS_ROOT_INO)
		return 0;
	int r = usage_dir_load(fs, ino, &d);
	return r == 0 ? quota_nearest(fs, d->parent, at) : r;
}

int quota_each_above(struct fs *fs, uint64_t dir, quota_fn *fn, int64_t bytes, int64_t entries) REQUIRES(fs->usage->lock)
{
	int32_t at;
	int r = quota_nearest(fs, dir, &at);

	while (r == 0 && at >= 0) {
		fn(&fs->usage->quotas.quota[at], bytes, entries);
		r = quota_above(fs, &at);
	}
	return r;
}

static void use(struct quota *q, int64_t bytes, int64_t entries)
{
	q->bytes += bytes;
	q->entries += entries;
}

int quota_note(struct fs *fs, uint64_t ino, const struct usage_sum *sum) REQUIRES(fs->usage->lock)
{
	if (fs->usage->quotas.n == 0)
		return 0;
	return quota_each_above(fs, ino, use, sum->bytes, sum->files + sum->subdirs);
}

int quota_note_move(struct fs *fs, uint64_t ino, uint64_t from, uint64_t to) REQUIRES(fs->usage->lock)
{
	struct usage_sum sum;
	int32_t old, new;

	if (fs->usage->quotas.n == 0)
		return 0;
	int r = quota_nearest(fs, from, &old);
	if (r == 0)
		r = quota_nearest(fs, to, &new);
	if (r < 0 || old == new)
		return r;
	r = usage_total(fs, ino, &sum);
	if (r == 0)
		r = quota_each_above(fs, from, use, -sum.bytes, -sum.files - sum.subdirs - 1);
	if (r == 0)
		r = quota_each_above(fs, to, use, sum.bytes, sum.files + sum.subdirs + 1);
	fs->usage->quotas.generation++; /* what is below has other quotas from now on */
	return r;
}

/* ---- asking ---- */

static void tell(const struct quota *q, fs_quota_fn *fn, void *ctx)
{
	const struct fs_quota told = {.ino = q->ino,
				      .max_bytes = q->max_bytes,
				      .max_files = q->max_entries,
				      .bytes = (uint64_t)(q->bytes > 0 ? q->bytes : 0),
				      .files = (uint64_t)(q->entries > 0 ? q->entries : 0)};

	fn(ctx, &told);
}

int fs_quotas_above(struct fs *fs, uint64_t ino, fs_quota_fn *fn, void *ctx)
{
	struct inode in;
	int32_t at = -1;
	int r = snap_is_ino(ino) ? 0 : icache_copy(fs->icache, ino, &in);

	if (r < 0 || snap_is_ino(ino)) /* a snapshot is under no quota */
		return r;
	if (!S_ISDIR(in.mode))
		ino = in.parent;
	quotas_refresh(fs);
	mutex_lock(&fs->usage->lock);
	if (atomic_load(&fs->usage->quotas.any))
		r = quota_nearest(fs, ino, &at);
	while (r == 0 && at >= 0) {
		tell(&fs->usage->quotas.quota[at], fn, ctx);
		r = quota_above(fs, &at);
	}
	mutex_unlock(&fs->usage->lock);
	return r == -ENOENT ? 0 : r; /* it was removed meanwhile: nothing is above it */
}

int fs_quotas_each(struct fs *fs, fs_quota_fn *fn, void *ctx)
{
	quotas_refresh(fs);
	mutex_lock(&fs->usage->lock);
	for (size_t i = 0; i < fs->usage->quotas.n && atomic_load(&fs->usage->quotas.any); i++)
		if (!fs->usage->quotas.quota[i].gone)
			tell(&fs->usage->quotas.quota[i], fn, ctx);
	mutex_unlock(&fs->usage->lock);
	return 0;
}
