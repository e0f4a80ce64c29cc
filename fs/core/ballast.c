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

/* Laid down only where the host has this many times as much. */
#define PLENTY 8u
/* What opening the index takes: a manifest and a few tables of what replay adds. */
#define OPENING_BYTES (4 * MIB)

static const char *const names[] = {"ballast", "ballast.open"};

static uint64_t ballast_bytes(const struct fs *fs, size_t i)
{
	return i == 0 ? min_u64(64 * MIB, (uint64_t)fs->super.chunk_kib * KIB) : OPENING_BYTES;
}

void ballast_lay(struct fs *fs)
{
	uint64_t free_bytes, total;
	struct disk *d;

	if (fs->ballast_laid || store_space(fs->store, &free_bytes, &total) < 0)
		return;
	fs->ballast_laid = true;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		bool plenty = free_bytes >= PLENTY * ballast_bytes(fs, i);
		int r = plenty ? store_open(fs->store, names[i], DISK_CREATE, ballast_bytes(fs, i), &d) : -ENOSPC;

		if (r == 0)
			disk_close(d);
		else if (r != -EEXIST)
			fs->ballast_laid = false;
	}
}

bool ballast_drop(struct fs *fs, bool opening)
{
	for (size_t i = 0; i < (opening ? ARRAY_SIZE(names) : 1); i++) {
		if (store_remove(fs->store, names[i]) < 0)
			continue;
		fs->ballast_laid = false;
		log_warn("the host is full: %llu MiB of ballast were given up for the index; make room on the host",
			 (unsigned long long)(ballast_bytes(fs, i) / MIB));
		return true;
	}
	return false;
}
