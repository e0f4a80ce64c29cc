/* virtual_rows.c: what .clawfs has, as one table; virtual.h says what a row is. */
#include "fs/face/snapshots.h"
#include "fs/face/virtual.h"

#include <sys/stat.h>

static int make_status(struct face *f, struct buf *out)
{
	fs_status_json(f->fs, out);
	buf_put_u8(out, '\n');
	return 0;
}

/* Everyone who reaches the mount may read the attribute clawfs.status, and so these files. */
const struct virtual_row virtual_rows[] = {
    {VIRTUAL_NAME, S_IFDIR | 0555},
    {"snapshots", S_IFDIR | 0755, .tree = &snapshots_ops},
    {"status", S_IFREG | 0444, .make = make_status},
};
const size_t n_virtual_rows = ARRAY_SIZE(virtual_rows);
