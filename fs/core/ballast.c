/*
 * ballast.c: a file that takes space only to give it back: when the host is full and the index cannot be written, the ballast
 * goes and the next checkpoint has its room; once the host has plenty again it is laid down again.
 *
 * The arena leaves a reserve to the index, so this happens when something else on the host took the space.  Losing the file
 * loses nothing; nothing ever reads it.
 */
#include <errno.h>

#include "base/log.h"
#include "fs/core/core.h"

#define BALLAST_NAME "ballast"
/* Laid down only where the host has this many times as much. */
#define PLENTY 8u

static uint64_t ballast_bytes(const struct fs *fs)
{
	return min_u64(64 * MIB, (uint64_t)fs->super.chunk_kib * KIB);
}

void ballast_lay(struct fs *fs)
{
	uint64_t free_bytes, total;
	struct disk *d;

	if (fs->ballast_laid || store_space(fs->store, &free_bytes, &total) < 0 || free_bytes < PLENTY * ballast_bytes(fs))
		return;
	int r = store_open(fs->store, BALLAST_NAME, DISK_CREATE, ballast_bytes(fs), &d);
	if (r == 0)
		disk_close(d);
	fs->ballast_laid = r == 0 || r == -EEXIST;
}

bool ballast_drop(struct fs *fs)
{
	int r = store_remove(fs->store, BALLAST_NAME);

	fs->ballast_laid = false;
	if (r == 0)
		log_warn("the host is full: %llu MiB of ballast were given up for the index; make room on the host",
			 (unsigned long long)(ballast_bytes(fs) / MIB));
	return r == 0;
}
