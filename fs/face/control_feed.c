/*
 * control_feed.c: the change feed as attributes of the root.
 *
 *     clawfs.feed              what there is to read: volume, role, epoch, oldest and newest batch
 *     clawfs.feed.PLACE        up to 64 KiB of lines behind PLACE ("SEQ" or "SEQ.N"), empty when there is nothing yet
 *     clawfs.feed.wait         set to "SEQ" or "SEQ SECONDS": until batch SEQ can be read
 *
 * The feed names every file of the volume, whoever may see it, so it is for admins.  Waiting goes by ioctl(2) alone (control.h):
 * setxattr(2) would hold the root directory's lock all the while, and the change that is waited for might need it.
 */
#include <errno.h>

#include "fs/core/feed/feed.h"
#include "fs/face/control_table.h"

static int get_state(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)ino;
	(void)rest;
	return feed_state_text(fs, out);
}

static int get_lines(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)ino;
	return feed_text(fs, rest, out);
}

static void set_wait(const struct setting *s, struct journal_waiter *w)
{
	control_wait(s, fs_wait_settled_async, w);
}

const struct control feed_controls[] = {
    {"feed", SCOPE_ROOT, get_state, .reader = READER_ADMIN},
    {"feed.wait", SCOPE_ROOT, .set = set_wait, .reader = READER_ADMIN, .unlogged = true},
    {"feed.", SCOPE_ROOT, get_lines, .reader = READER_ADMIN}, /* behind feed.wait, whose name begins so too */
};
const size_t n_feed_controls = ARRAY_SIZE(feed_controls);
