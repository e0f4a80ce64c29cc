/*
 * control_snap.c: snapshots as attributes of the root directory.
 *
 *     clawfs.snap.create, clawfs.snap.delete    set to NAME: done, and durable at the level of the root directory, when
 *                                               setxattr(2) returns
 *     clawfs.snap.list                          what there is, as JSON; as much of it as an attribute can hold
 *     clawfs.snap.list.GEN                      the same from that number on
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

static int get_list_from(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	uint64_t gen = 0;

	(void)ino;
	for (const char *p = rest; *p; p++)
		if (*p < '0' || *p > '9' || __builtin_mul_overflow(gen, 10, &gen) ||
		    __builtin_add_overflow(gen, (uint64_t)(*p - '0'), &gen))
			return -ENODATA;
	return list_from(fs, gen, out);
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

const struct control snap_controls[] = {
    {"snap.create", SCOPE_ROOT, .set = set_create},
    {"snap.delete", SCOPE_ROOT, .set = set_delete},
    {"snap.list", SCOPE_ROOT, get_list},
    {"snap.list.", SCOPE_ROOT, get_list_from},
};
const size_t n_snap_controls = ARRAY_SIZE(snap_controls);
