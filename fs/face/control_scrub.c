/*
 * control_scrub.c: the scrub and what it found as attributes.
 *
 *     clawfs.scrub           of the root: state, progress and damaged files as JSON; set to start, pause, resume, stop or release
 *     clawfs.scrub.files.N   of the root: the same, with the damaged files from number N on
 *     clawfs.scrub.clear     set on a file: its blocks that cannot be repaired become zeros
 *     clawfs.health          of a file: ok, damaged, repaired or unchecked
 */
#include <errno.h>

#include "fs/core/scrub/scrub.h"
#include "fs/face/control_table.h"

static int get_scrub(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)ino;
	(void)rest;
	return fs_scrub_text(fs, 0, out);
}

static int get_files(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	uint64_t first = 0;

	(void)ino;
	for (; *rest >= '0' && *rest <= '9' && first < UINT32_MAX; rest++)
		first = first * 10 + (uint64_t)(*rest - '0');
	return *rest ? -ENODATA : fs_scrub_text(fs, first, out);
}

static void set_scrub(const struct setting *s, struct journal_waiter *w)
{
	fs_scrub_command(s->fs, s->value, w);
}

static int get_health(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	return fs_health_text(fs, ino, out);
}

static void set_clear(const struct setting *s, struct journal_waiter *w)
{
	fs_scrub_clear(s->fs, s->cred, s->ino, w);
}

const struct control scrub_controls[] = {
    {"health", SCOPE_ANY, get_health},
    {"scrub", SCOPE_ROOT, get_scrub, set_scrub, .reader = READER_ADMIN},
    {"scrub.clear", SCOPE_ANY, .set = set_clear},
    {"scrub.files.", SCOPE_ROOT, get_files, .reader = READER_ADMIN},
};
const size_t n_scrub_controls = ARRAY_SIZE(scrub_controls);
