/*
 * control_tier.c: stores and cold files as attributes.
 *
 *     clawfs.tier, clawfs.recall, clawfs.tier.pin      policies: of a file or directory, inherited
 *     clawfs.tier.state, clawfs.tier.usage             of a file: hot, mixed, cold, recalling, pinned; bytes
 *     clawfs.tier.evict, clawfs.tier.recall            set on a file: it goes out soon; it is local when setxattr returns
 *     clawfs.tier.evict-inodes, -recall-inodes         the same of many files: set on the root to their inode numbers
 *     clawfs.tier.flush, clawfs.tier.scan              set on the root: waits for what was evicted; looks for cold files
 *     clawfs.tier.store.NAME                           of the root: the definition of a store; setting it adds the store
 *     clawfs.tier.store-remove, -test, -gc             set on the root to "NAME" ("NAME dry" of gc)
 *     clawfs.tier.result.KIND                          of the root: what the last add, remove, test or gc had to say
 *
 * Nothing here holds a secret: credentials are a file of each node, and the volume's key is no attribute.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/tier/tiering.h"
#include "fs/face/control_table.h"

#define ARG_MAX_BYTES 1024u

/* ---- policies ---- */

static int get_policy(struct fs *fs, uint64_t ino, const char *key, const char *otherwise, struct buf *out)
{
	char value[FS_POLICY_MAX + 1];
	int r = fs_get_policy(fs, ino, key, true, value);

	if (r < 0 && r != -ENODATA)
		return r;
	buf_printf(out, "%s", r == 0 ? value : otherwise);
	return 0;
}

static int get_tier(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	return get_policy(fs, ino, "tier", "none", out);
}
static int get_recall(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	return get_policy(fs, ino, "recall", "cache", out);
}
static int get_pin(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	return get_policy(fs, ino, "tier.pin", "off", out);
}

static void set_tier(const struct setting *s, struct journal_waiter *w)
{
	control_set_policy(s, "tier", w);
}
static void set_recall(const struct setting *s, struct journal_waiter *w)
{
	control_set_policy(s, "recall", w);
}
static void set_pin(const struct setting *s, struct journal_waiter *w)
{
	control_set_policy(s, "tier.pin", w);
}

static int remove_tier(struct fs *fs, const struct fs_cred *cred, uint64_t ino)
{
	return fs_set_policy(fs, cred, ino, "tier", NULL);
}
static int remove_recall(struct fs *fs, const struct fs_cred *cred, uint64_t ino)
{
	return fs_set_policy(fs, cred, ino, "recall", NULL);
}
static int remove_pin(struct fs *fs, const struct fs_cred *cred, uint64_t ino)
{
	return fs_set_policy(fs, cred, ino, "tier.pin", NULL);
}

/* ---- files ---- */

static int get_state(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	return fs_tier_state_text(fs, ino, out);
}

static int get_usage(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	return fs_tier_usage_text(fs, ino, out);
}

static void set_evict(const struct setting *s, struct journal_waiter *w)
{
	w->done(w, fs_tier_evict(s->fs, s->ino));
}

/* "queue" does not wait; files are recalled in the order in which they were asked for. */
static void set_recalled(const struct setting *s, struct journal_waiter *w)
{
	bool queue = s->value.len == strlen("queue") && memcmp(s->value.p, "queue", s->value.len) == 0;

	if (queue)
		w->done(w, fs_tier_recall_queue(s->fs, s->ino));
	else
		fs_tier_recall(s->fs, s->ino, w);
}

/* Decimal numbers with a blank between them: how many, -EINVAL; -EROFS: one of a snapshot, which nothing changes. */
static int parse_inodes(struct slice text, uint64_t *ret)
{
	const char *p = text.p, *end = p + text.len;
	int n = 0;

	while (p < end) {
		uint64_t ino = 0;
		const char *first = p;

		for (; p < end && *p >= '0' && *p <= '9'; p++)
			if (__builtin_mul_overflow(ino, 10, &ino) || __builtin_add_overflow(ino, (uint64_t)(*p - '0'), &ino))
				return -EINVAL;
		if (p == first || ino == 0 || (p < end && (*p++ != ' ' || p == end)))
			return -EINVAL;
		if (fs_is_snap(ino))
			return -EROFS;
		ret[n++] = ino;
	}
	return n;
}

/* The numbers in a setting's value, to be freed: each but the last takes two bytes of it at least. */
static int take_inodes(const struct setting *s, uint64_t **ret)
{
	uint64_t *ino = malloc((s->value.len / 2 + 1) * sizeof(*ino));
	int n = ino ? parse_inodes(s->value, ino) : -ENOMEM;

	if (n < 0)
		free(ino);
	else
		*ret = ino;
	return n;
}

static void set_evict_inodes(const struct setting *s, struct journal_waiter *w)
{
	CLEANUP_FREE uint64_t *ino = NULL;
	int n = take_inodes(s, &ino), r = n < 0 ? n : 0;

	for (int i = 0; i < n && r == 0; i++)
		r = fs_tier_evict(s->fs, ino[i]);
	w->done(w, r);
}

static void set_recall_inodes(const struct setting *s, struct journal_waiter *w)
{
	CLEANUP_FREE uint64_t *ino = NULL;
	int n = take_inodes(s, &ino);

	if (n < 0)
		w->done(w, n);
	else
		fs_tier_recall_many(s->fs, ino, (uint32_t)n, w);
}

static void set_flush(const struct setting *s, struct journal_waiter *w)
{
	fs_tier_flush(s->fs, w);
}

static void set_scan(const struct setting *s, struct journal_waiter *w)
{
	fs_tier_scan(s->fs);
	w->done(w, 0);
}

/* ---- stores ---- */

static int get_store(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)ino;
	return fs_tier_store_text(fs, rest, out);
}

/* Starts a job with the value as its argument, behind `first` and a blank unless that is empty. */
static void start_job(const struct setting *s, enum tier_job_kind kind, const char *first, struct journal_waiter *w)
{
	char arg[ARG_MAX_BYTES];
	size_t len = s->value.len;

	if (len + strlen(first) + 2 > sizeof(arg) || memchr(s->value.p, '\0', len)) {
		w->done(w, -EINVAL);
		return;
	}
	snprintf(arg, sizeof(arg), "%s%s%.*s", first, *first ? " " : "", (int)len, (const char *)s->value.p);
	fs_tier_job(s->fs, s->cred, kind, arg, w);
}

static void set_store(const struct setting *s, struct journal_waiter *w)
{
	start_job(s, TIER_JOB_ADD, s->rest, w);
}
static void set_store_remove(const struct setting *s, struct journal_waiter *w)
{
	start_job(s, TIER_JOB_REMOVE, "", w);
}
static void set_store_test(const struct setting *s, struct journal_waiter *w)
{
	start_job(s, TIER_JOB_TEST, "", w);
}
static void set_store_gc(const struct setting *s, struct journal_waiter *w)
{
	start_job(s, TIER_JOB_GC, "", w);
}

static int get_result(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	enum tier_job_kind kind;

	(void)ino;
	return tier_job_kind_parse(rest, &kind) < 0 ? -ENODATA : fs_tier_result(fs, kind, out);
}

const struct control tier_controls[] = {
    {"recall", SCOPE_ANY, get_recall, set_recall, remove_recall},
    {"tier", SCOPE_ANY, get_tier, set_tier, remove_tier},
    {"tier.evict", SCOPE_ANY, .set = set_evict},
    {"tier.evict-inodes", SCOPE_ROOT, .set = set_evict_inodes},
    {"tier.flush", SCOPE_ROOT, .set = set_flush},
    {"tier.pin", SCOPE_ANY, get_pin, set_pin, remove_pin},
    {"tier.recall", SCOPE_ANY, .set = set_recalled},
    {"tier.recall-inodes", SCOPE_ROOT, .set = set_recall_inodes},
    {"tier.result.", SCOPE_ROOT, get_result, .reader = READER_ADMIN},
    {"tier.scan", SCOPE_ROOT, .set = set_scan},
    {"tier.state", SCOPE_ANY, get_state},
    {"tier.store.", SCOPE_ROOT, get_store, set_store, .reader = READER_ADMIN},
    {"tier.store-gc", SCOPE_ROOT, .set = set_store_gc},
    {"tier.store-remove", SCOPE_ROOT, .set = set_store_remove},
    {"tier.store-test", SCOPE_ROOT, .set = set_store_test},
    {"tier.usage", SCOPE_ANY, get_usage},
};
const size_t n_tier_controls = ARRAY_SIZE(tier_controls);
