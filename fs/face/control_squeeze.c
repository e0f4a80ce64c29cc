/*
 * control_squeeze.c: compression as attributes.
 *
 *     clawfs.compression         policy: of a file or directory, inherited
 *     clawfs.compression.usage   of a file: what of its data is packed, and what that takes
 *     clawfs.compression.now     set on a file: all that it has is made as its policy says, soon
 */
#include <errno.h>

#include "fs/face/control_table.h"

static int get_compression(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	char value[FS_POLICY_MAX + 1] = "off";
	int r = fs_get_policy(fs, ino, "compression", true, value);

	(void)rest;
	buf_printf(out, "%s", value);
	return r == -ENODATA ? 0 : r;
}

static void set_compression(const struct setting *s, struct journal_waiter *w)
{
	control_set_policy(s, "compression", w);
}

static int remove_compression(struct fs *fs, const struct fs_cred *cred, uint64_t ino)
{
	return fs_set_policy(fs, cred, ino, "compression", NULL);
}

static int get_usage(struct fs *fs, uint64_t ino, const char *rest, struct buf *out)
{
	(void)rest;
	return fs_compression_text(fs, ino, out);
}

static void set_now(const struct setting *s, struct journal_waiter *w)
{
	w->done(w, fs_compress(s->fs, s->ino));
}

const struct control squeeze_controls[] = {
    {"compression", SCOPE_ANY, get_compression, set_compression, remove_compression},
    {"compression.now", SCOPE_ANY, .set = set_now},
    {"compression.usage", SCOPE_ANY, get_usage},
};
const size_t n_squeeze_controls = ARRAY_SIZE(squeeze_controls);
