/*
 * quota_text.c: quotas as admins and df see them: limits set from text, lists as JSON, free space below a directory.
 *
 * A limit is kept as decimal digits, whatever it was set with, so that what is read back is a number.
 */
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/core.h"
#include "fs/core/snap/snap.h"
#include "fs/core/usage/usage.h"

/* ---- setting ---- */

/* "10G" is 10 GiB; 0 is none that anybody can mean. */
static int parse_amount(const char *text, bool suffix_ok, uint64_t *ret)
{
	static const char suffixes[] = "KMGTP";
	uint64_t n = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
			return -ERANGE;
	if (p == text)
		return -EINVAL;
	if (*p && suffix_ok) {
		char up = *p >= 'a' && *p <= 'z' ? (char)(*p - 'a' + 'A') : *p;
		const char *s = strchr(suffixes, up);

		if (!s)
			return -EINVAL;
		if (__builtin_mul_overflow(n, UINT64_C(1) << (10 * (s - suffixes + 1)), &n))
			return -ERANGE;
		p++;
	}
	if (*p || n == 0)
		return -EINVAL;
	*ret = n;
	return n <= INT64_MAX ? 0 : -ERANGE;
}

int fs_set_quota(struct fs *fs, const struct fs_cred *cred, uint64_t ino, enum fs_quota_kind kind, const char *value)
{
	const char *key = kind == QUOTA_BYTES ? "quota.max_bytes" : "quota.max_files";
	struct fs_attr a;
	char digits[24];
	uint64_t n;
	int r = snap_is_ino(ino) ? -EROFS : fs_getattr(fs, ino, &a);

	if (r == 0 && !S_ISDIR(a.mode))
		r = -ENOTDIR;
	if (r < 0)
		return r;
	if (!value || strcmp(value, "none") == 0) {
		r = fs_set_policy(fs, cred, ino, key, NULL);
		return r == -ENODATA && value ? 0 : r;
	}
	r = parse_amount(value, kind == QUOTA_BYTES, &n);
	if (r < 0)
		return r;
	snprintf(digits, sizeof(digits), "%llu", (unsigned long long)n);
	return fs_set_policy(fs, cred, ino, key, digits);
}

/* ---- JSON ---- */

struct list {
	struct fs_quota *q;
	size_t n, cap;
	bool failed;
};

/* Under a lock: paths are told later. */
static void list_add(void *ctx, const struct fs_quota *q)
{
	struct list *l = ctx;

	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 16;
		struct fs_quota *more = realloc(l->q, cap * sizeof(*more));

		if (!more) {
			l->failed = true;
			return;
		}
		l->q = more;
		l->cap = cap;
	}
	l->q[l->n++] = *q;
}

static json_t *limit_json(uint64_t max)
{
	return max == UINT64_MAX ? json_null() : json_integer((json_int_t)max);
}

/* A name may be no UTF-8: {"hex": its bytes}, as in differences of snapshots. */
static json_t *path_json(const char *path)
{
	json_t *text = json_string(path);
	char hex[2 * PATH_MAX + 1];

	if (text)
		return text;
	for (size_t i = 0; path[i]; i++)
		snprintf(hex + 2 * i, 3, "%02x", (unsigned char)path[i]);
	return json_pack("{s:s}", "hex", hex);
}

static json_t *quota_json(struct fs *fs, const struct fs_quota *q, bool named)
{
	char path[PATH_MAX];
	json_t *o = json_object();

	if (named)
		fs_path(fs, q->ino, path, sizeof(path));
	json_object_set_new(o, "path", named ? path_json(path) : json_null());
	json_object_set_new(o, "inode", json_integer((json_int_t)q->ino));
	json_object_set_new(o, "max_bytes", limit_json(q->max_bytes));
	json_object_set_new(o, "max_files", limit_json(q->max_files));
	json_object_set_new(o, "bytes", json_integer((json_int_t)q->bytes));
	json_object_set_new(o, "files", json_integer((json_int_t)q->files));
	return o;
}

static int list_text(struct fs *fs, struct list *l, int r, bool named, struct buf *out)
{
	json_t *all = r == 0 ? json_array() : NULL;

	for (size_t i = 0; i < l->n && all; i++)
		json_array_append_new(all, quota_json(fs, &l->q[i], named));
	char *text = all ? json_dumps(all, JSON_COMPACT) : NULL;
	if (text)
		buf_put(out, text, strlen(text));
	if (r == 0 && (!text || l->failed))
		r = -ENOMEM;
	free(text);
	json_decref(all);
	free(l->q);
	return r;
}

static int above_text(struct fs *fs, uint64_t ino, bool named, struct buf *out)
{
	struct list l = {0};
	int r = fs_readable(fs);

	if (r == 0)
		r = fs_quotas_above(fs, ino, list_add, &l);
	return list_text(fs, &l, r, named, out);
}

int fs_quotas_text(struct fs *fs, uint64_t ino, struct buf *out)
{
	return above_text(fs, ino, true, out);
}

int fs_quotas_text_unnamed(struct fs *fs, uint64_t ino, struct buf *out)
{
	return above_text(fs, ino, false, out);
}

int fs_quotas_list(struct fs *fs, struct buf *out)
{
	struct list l = {0};
	int r = fs_readable(fs);

	if (r == 0)
		r = fs_quotas_each(fs, list_add, &l);
	return list_text(fs, &l, r, true, out);
}

struct count {
	uint64_t last; /* inode */
	json_int_t n;
};

static int count_quota(void *ctx, uint64_t ino, struct slice key, const char *value)
{
	struct count *c = ctx;

	(void)value;
	c->n += quota_policy_is(key) && ino != c->last;
	c->last = ino;
	return 0;
}

/* Waits for no operation: a status is asked for when something hangs, too. */
json_t *usage_status_json(struct fs *fs)
{
	struct count c = {0};
	int r = policies_scan(fs, "quota.", count_quota, &c);

	return json_pack("{s:b, s:I}", "counted", r == 0 && usage_is_known(fs), "quotas", c.n);
}

/* ---- df ---- */

struct space {
	struct fs_statfs *s;
	bool blocks_told, files_told; /* by a nearer quota */
};

/* Of several ends the nearest counts: what is in use there, and how much is left until it. */
static void narrow(uint64_t used, uint64_t max, bool *told, uint64_t *total, uint64_t *free)
{
	uint64_t left = used < max ? max - used : 0;

	if (*told && left >= *free)
		return;
	*free = min_u64(*free, left);
	*total = used + *free;
	*told = true;
}

static void narrow_space(void *ctx, const struct fs_quota *q)
{
	struct space *sp = ctx;

	if (q->max_bytes != UINT64_MAX)
		narrow(div_round_up(q->bytes, BLOCK_SIZE), q->max_bytes / BLOCK_SIZE, &sp->blocks_told, &sp->s->total_blocks,
		       &sp->s->free_blocks);
	if (q->max_files != UINT64_MAX)
		narrow(q->files, q->max_files, &sp->files_told, &sp->s->files, &sp->s->free_files);
}

void fs_statfs_at(struct fs *fs, uint64_t ino, struct fs_statfs *ret)
{
	struct space sp = {.s = ret};

	fs_statfs(fs, ret);
	if (!fs_has_policies(fs) || fs_readable(fs) < 0)
		return;
	if (fs_quotas_above(fs, ino, narrow_space, &sp) < 0)
		fs_statfs(fs, ret); /* of the volume, which is always right */
}
