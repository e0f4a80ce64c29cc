/* virtual_rows.c: what .clawfs has, as one table; virtual.h says what a row is. */
#include "fs/face/snapshots.h"
#include "fs/face/virtual.h"

#include <sys/stat.h>

static int make_metrics(struct face *f, struct buf *out)
{
	metrics_text(f->metrics, out);
	return 0;
}

static int make_stats(struct face *f, struct buf *out)
{
	metrics_stats(f->metrics, out);
	return 0;
}

static int make_status(struct face *f, struct buf *out)
{
	metrics_status(f->metrics, out);
	return 0;
}

static int make_top(struct face *f, struct buf *out)
{
	metrics_top(f->metrics, out);
	return 0;
}

/*
 * What names files, peers, stores or processes is for root and the owner of the root directory, as the attributes are; what is no
 * more than numbers of the whole is for everyone who reaches the mount.
 */
const struct virtual_row virtual_rows[] = {
    {VIRTUAL_NAME, S_IFDIR | 0555},
    {"snapshots", S_IFDIR | 0755, .tree = &snapshots_ops},
    {"metrics", S_IFREG | 0400, .make = make_metrics},
    {"stats", S_IFREG | 0444, .make = make_stats},
    {"status", S_IFREG | 0400, .make = make_status},
    {"top", S_IFREG | 0400, .make = make_top},
};
const size_t n_virtual_rows = ARRAY_SIZE(virtual_rows);
