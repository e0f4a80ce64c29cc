/*
 * control_snap.c: snapshots as attributes of the root directory.
 *
 *     clawfs.snap.create, clawfs.snap.delete    set to NAME: done, and durable at the level of the root directory, when
 *                                               setxattr(2) returns
 *     clawfs.snap.rollback, ...rollback.discard set to NAME: the tree is again that of the snapshot; with the first of them
 *                                               what it was is a snapshot then, too
 *     clawfs.snap.schedule                      policy: which are taken and dropped by themselves, "24h7d4w"; "none"
 *     clawfs.snap.list                          what there is, as JSON; as much of it as an attribute can hold
 *     clawfs.snap.list.GEN                      the same from that number on
 *     clawfs.snap.diff.GEN.GEN.INO              what changed from one to the other ("live": the tree as it is), from an inode on
 */
#include <errno.h>
#include <string.h>

#include "fs/face/control_table.h"

static int list_from(struct fs *fs, uint64_t gen, struct buf *out)
{
	return fs_snap_list_json(fs, gen, out);
}

static int get_list(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)ino;
	(void)rest;
	return list_from(fs, 0, out);
}

/* A number up to `end`, which ends the text or is followed by more; *p moves behind it. */
static bool take_number(const char **p, char end, uint64_t *ret)
{
	const char *from = *p;

	for (*ret = 0; **p >= '0' && **p <= '9'; (*p)++)
		if (__builtin_mul_overflow(*ret, 10, ret) || __builtin_add_overflow(*ret, (uint64_t)(**p - '0'), ret))
			return false;
	return *p > from && **p == end && (end == '\0' || (*p)++);
}

static int get_list_from(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	uint64_t gen;

	(void)ino;
	return take_number(&rest, '\0', &gen) ? list_from(fs, gen, out) : -ENODATA;
}

static int get_diff(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	static const char live[] = "live.";
	uint64_t a, b = UINT64_MAX, from;

	(void)ino;
	if (!take_number(&rest, '.', &a))
		return -ENODATA;
	if (strncmp(rest, live, strlen(live)) == 0)
		rest += strlen(live);
	else if (!take_number(&rest, '.', &b) || b == UINT64_MAX)
		return -ENODATA;
	return take_number(&rest, '\0', &from) ? fs_snap_diff_json(fs, a, b, from, out) : -ENODATA;
}

static void change(const struct setting *s, int (*how)(struct fs *fs, const struct fs_cred *cred, const char *name),
		   struct journal_waiter *w)
{
	char name[RECORD_NAME_MAX + 1] = {0};
	int r = s->value.len > RECORD_NAME_MAX ? -ENAMETOOLONG : memchr(s->value.p, '\0', s->value.len) ? -EINVAL : 0;

	if (r == 0) {
		memcpy(name, s->value.p, s->value.len);
		r = how(s->fs, s->cred, name);
	}
	if (r < 0)
		w->done(w, r);
	else
		fs_sync_async(s->fs, FS_ROOT_INO, w);
}

static void set_create(const struct setting *s, struct journal_waiter *w)
{
	change(s, fs_snap_create_here, w);
}

static void set_delete(const struct setting *s, struct journal_waiter *w)
{
	change(s, fs_snap_delete_here, w);
}

static int back_keeping(struct fs *fs, const struct fs_cred *cred, const char *name)
{
	return fs_snap_rollback_here(fs, cred, name, true);
}

static int back_discarding(struct fs *fs, const struct fs_cred *cred, const char *name)
{
	return fs_snap_rollback_here(fs, cred, name, false);
}

static void set_rollback(const struct setting *s, struct journal_waiter *w)
{
	change(s, back_keeping, w);
}

static void set_rollback_discard(const struct setting *s, struct journal_waiter *w)
{
	change(s, back_discarding, w);
}

static int get_schedule(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	char value[FS_POLICY_MAX + 1];
	int r = fs_get_policy(fs, ino, "snap.schedule", false, value);

	(void)rest;
	if (r == 0)
		buf_put(out, value, strlen(value));
	return r;
}

static void set_schedule(const struct setting *s, struct journal_waiter *w)
{
	control_set_policy(s, "snap.schedule", w);
}

static int remove_schedule(struct fs *fs, const struct fs_cred *c, uint64_t ino)
{
	return fs_set_policy(fs, c, ino, "snap.schedule", NULL);
}

const struct control snap_controls[] = {
    {"snap.create", SCOPE_ROOT, .set = set_create},
    {"snap.delete", SCOPE_ROOT, .set = set_delete},
    {"snap.diff.", SCOPE_ROOT, get_diff, .reader = READER_ADMIN},
    {"snap.list", SCOPE_ROOT, get_list},
    {"snap.list.", SCOPE_ROOT, get_list_from},
    {"snap.rollback", SCOPE_ROOT, .set = set_rollback},
    {"snap.rollback.discard", SCOPE_ROOT, .set = set_rollback_discard},
    {"snap.schedule", SCOPE_ROOT, get_schedule, set_schedule, remove_schedule},
};
const size_t n_snap_controls = ARRAY_SIZE(snap_controls);
