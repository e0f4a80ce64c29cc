/*
 * control_archive.c: the archive as attributes of the root directory.
 *
 *     clawfs.archive          the policy ("store=NAME interval=10s base=1d keep=30d"); setting it asks the store first
 *     clawfs.archive.now      set: what is durable is in the archive when setxattr returns
 *     clawfs.archive.key      the key that opens the archive without the volume; for root and the owner alone
 *     clawfs.archive.state.N  hash and sum of the state after batch N, as long as the journal has it
 *     clawfs.archive.drill    what the newest drill found, a JSON object; `clawfs drill` sets it
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/archive/archiving.h"
#include "fs/core/tier/tiering.h"
#include "fs/face/control_table.h"

static int get_own_policy(struct fs *fs, const char *key, struct buf *out)
{
	char value[FS_POLICY_MAX + 1];
	int r = fs_get_policy(fs, FS_ROOT_INO, key, false, value);

	if (r == 0)
		buf_put(out, value, strlen(value));
	return r;
}

static int get_archive(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)ino;
	(void)rest;
	return get_own_policy(fs, "archive", out);
}

static void set_archive(const struct setting *s, struct journal_waiter *w)
{
	char text[FS_POLICY_MAX + 1];

	if (s->value.len >= sizeof(text) || memchr(s->value.p, '\0', s->value.len)) {
		w->done(w, -EINVAL);
		return;
	}
	snprintf(text, sizeof(text), "%.*s", (int)s->value.len, (const char *)s->value.p);
	fs_tier_job(s->fs, s->cred, TIER_JOB_ARCHIVE, text, w);
}

static int remove_archive(struct fs *fs, const struct fs_cred *cred, uint64_t ino)
{
	return fs_set_policy(fs, cred, ino, "archive", NULL);
}

static void set_now(const struct setting *s, struct journal_waiter *w)
{
	fs_archive_now(s->fs, w);
}

static int get_key(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)ino;
	(void)rest;
	return fs_archive_key_text(fs, out);
}

static int get_state(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)ino;
	return fs_archive_state_text(fs, rest, out);
}

static int get_drill(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)ino;
	(void)rest;
	return get_own_policy(fs, "archive.drill", out);
}

static void set_drill(const struct setting *s, struct journal_waiter *w)
{
	control_set_policy(s, "archive.drill", w);
}

const struct control archive_controls[] = {
    {"archive", SCOPE_ROOT, get_archive, set_archive, remove_archive, .reader = READER_ADMIN},
    {"archive.drill", SCOPE_ROOT, get_drill, set_drill, .reader = READER_ADMIN},
    {"archive.key", SCOPE_ROOT, get_key, .reader = READER_ADMIN, .reveals = true},
    {"archive.now", SCOPE_ROOT, .set = set_now, .unlogged = true},
    {"archive.state.", SCOPE_ROOT, get_state, .reader = READER_ADMIN},
};
const size_t n_archive_controls = ARRAY_SIZE(archive_controls);
