/*
 * control_usage.c: what is below a directory, and limits on it, as attributes.
 *
 *     clawfs.dir.rbytes, .rfiles, .rsubdirs, .rctime   of a directory: sums of everything below it, at once
 *     clawfs.quota.max_bytes, clawfs.quota.max_files   policies: of the directory itself, "none" or removal ends them
 *     clawfs.quota                                     of anything: the quotas it is under, nearest first, as JSON; the names
 *                                                      of their directories are for admins
 *     clawfs.quota.list                                of the root, for admins: all quotas, as JSON
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "fs/face/control_table.h"

static int put_number(int r, uint64_t n, struct buf *out)
{
	if (r == 0)
		buf_printf(out, "%" PRIu64, n);
	return r;
}

static int get_rbytes(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	struct fs_usage u = {0};
	int r = fs_dir_usage(fs, ino, &u);

	(void)rest;
	return put_number(r, u.bytes, out);
}
static int get_rfiles(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	struct fs_usage u = {0};
	int r = fs_dir_usage(fs, ino, &u);

	(void)rest;
	return put_number(r, u.files, out);
}
static int get_rsubdirs(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	struct fs_usage u = {0};
	int r = fs_dir_usage(fs, ino, &u);

	(void)rest;
	return put_number(r, u.subdirs, out);
}

/* Seconds since 1970, with nine decimals. */
static int get_rctime(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	struct fs_usage u = {0};
	int r = fs_dir_usage(fs, ino, &u);
	uint64_t magnitude = u.ctime_ns < 0 ? -(uint64_t)u.ctime_ns : (uint64_t)u.ctime_ns;

	(void)rest;
	if (r == 0)
		buf_printf(out, "%s%" PRIu64 ".%09" PRIu64, u.ctime_ns < 0 ? "-" : "", magnitude / NSEC_PER_SEC,
			   magnitude % NSEC_PER_SEC);
	return r;
}

/* ---- quotas ---- */

/* What the directory itself has: a limit above it is another directory's. */
static int get_limit(struct fs *fs, uint64_t ino, const char *key, struct buf *out)
{
	char value[FS_POLICY_MAX + 1];
	int r = fs_get_policy(fs, ino, key, false, value);

	if (r == 0)
		buf_printf(out, "%s", value);
	return r;
}
static int get_max_bytes(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	return get_limit(fs, ino, "quota.max_bytes", out);
}
static int get_max_files(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	return get_limit(fs, ino, "quota.max_files", out);
}

static void set_limit(const struct setting *s, enum fs_quota_kind kind, struct journal_waiter *w)
{
	char value[32] = {0};

	if (s->value.len >= sizeof(value) || memchr(s->value.p, '\0', s->value.len)) {
		w->done(w, -EINVAL);
		return;
	}
	memcpy(value, s->value.p, s->value.len);
	w->done(w, fs_set_quota(s->fs, s->cred, s->ino, kind, value));
}
static void set_max_bytes(const struct setting *s, struct journal_waiter *w)
{
	set_limit(s, QUOTA_BYTES, w);
}
static void set_max_files(const struct setting *s, struct journal_waiter *w)
{
	set_limit(s, QUOTA_FILES, w);
}

static int remove_max_bytes(struct fs *fs, const struct fs_cred *cred, uint64_t ino)
{
	return fs_set_quota(fs, cred, ino, QUOTA_BYTES, NULL);
}
static int remove_max_files(struct fs *fs, const struct fs_cred *cred, uint64_t ino)
{
	return fs_set_quota(fs, cred, ino, QUOTA_FILES, NULL);
}

static int get_quotas(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	return fs_quotas_text(fs, ino, out);
}

/* Directories above may be such that the caller cannot list. */
static int get_quotas_unnamed(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	return fs_quotas_text_unnamed(fs, ino, out);
}

static int get_list(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	(void)ino;
	return fs_quotas_list(fs, out);
}

const struct control usage_controls[] = {
    {"dir.rbytes", SCOPE_ANY, get_rbytes},
    {"dir.rctime", SCOPE_ANY, get_rctime},
    {"dir.rfiles", SCOPE_ANY, get_rfiles},
    {"dir.rsubdirs", SCOPE_ANY, get_rsubdirs},
    {"quota", SCOPE_ANY, get_quotas, .get_for_others = get_quotas_unnamed},
    {"quota.list", SCOPE_ROOT, get_list, .reader = READER_ADMIN},
    {"quota.max_bytes", SCOPE_ANY, get_max_bytes, set_max_bytes, remove_max_bytes},
    {"quota.max_files", SCOPE_ANY, get_max_files, set_max_files, remove_max_files},
};
const size_t n_usage_controls = ARRAY_SIZE(usage_controls);
