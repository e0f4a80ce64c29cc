/*
 * superseded.h: a leader of replica_world.h that makes data and changes it before anybody was sent it.
 *
 * Threads: one.  Errors: a failed assertion.
 */
#pragma once

#include "tests/lib/steps.h"
#include "tests/unit/replica_world.h"

static const struct fs_cred cred = {.pid = 1};

static inline struct fs *leader(struct world *w)
{
	return w->run.fs;
}

static inline uint64_t make_file(struct fs *fs, const char *name)
{
	struct fs_attr a;

	OK(fs_mknod(fs, &cred, FS_ROOT_INO, name, S_IFREG | 0644, 0, &a));
	return a.ino;
}

static inline void put_bytes(struct fs *fs, uint64_t ino, uint64_t off, size_t len, uint8_t byte)
{
	CLEANUP_FREE void *p = aligned_alloc(DISK_BLOCK, div_round_up(len, DISK_BLOCK) * DISK_BLOCK);

	memset(p, byte, len);
	OK(fs_write(fs, &cred, ino, off, len, p, false));
}

static inline uint64_t hash_of(struct fs *fs)
{
	struct tree t;
	char why[512];

	if (tree_read(fs, &t, why, sizeof(why)))
		fail_msg("%s", why);
	uint64_t hash = tree_hash(&t);
	tree_free(&t);
	return hash;
}
