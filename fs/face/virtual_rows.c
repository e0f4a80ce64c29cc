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

/* Who may read a file here is who may read the attribute it stands for: of the status the owner of the root directory, and root.
 */
const struct virtual_row virtual_rows[] = {
    {VIRTUAL_NAME, S_IFDIR | 0555},
    {"snapshots", S_IFDIR | 0755, .tree = &snapshots_ops},
    {"status", S_IFREG | 0400, .make = make_status},
};
const size_t n_virtual_rows = ARRAY_SIZE(virtual_rows);
