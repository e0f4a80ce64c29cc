/*
 * clear.c: an admin gives up what cannot be repaired: each block of the file that is known to be damaged is tried once more, and
 * then becomes a hole, by a ZERO record like that of fallocate: logged, replicated, and in the trail of who did what.  The file
 * can be read again, with zeros there; the home stays in quarantine.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/core/scrub/impl.h"

static int give_up(struct fs *fs, const struct fs_cred *cred, uint64_t ino, uint64_t block)
{
	char path[256];
	int r = fs_fallocate(fs, cred, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, block * BLOCK_SIZE, BLOCK_SIZE);

	if (r < 0)
		return r;
	damage_forget(fs, ino, block);
	fs_path(fs, ino, path, sizeof(path));
	log_warn("given up: bytes %llu to %llu of %s (inode %llu) are zeros now, by user %u",
		 (unsigned long long)(block * BLOCK_SIZE), (unsigned long long)((block + 1) * BLOCK_SIZE - 1), path,
		 (unsigned long long)ino, cred->uid);
	return 0;
}

int clear_file(struct fs *fs, const struct fs_cred *cred, uint64_t ino)
{
	uint64_t block = 0, given_up = 0;
	struct fs_attr a;
	int r = fs_getattr(fs, ino, &a);

	if (r < 0)
		return r;
	if (!S_ISREG(a.mode))
		return -EINVAL;
	if (!fs_takes_changes(fs))
		return -EROFS;
	r = heal_file(fs, ino);
	if (r < 0)
		return r;
	for (; damage_next_block(fs, ino, block, &block); block++) {
		r = repair_block(fs, ino, block);
		if (r < 0 && r != -ENOENT && r != -EROFS) {
			r = give_up(fs, cred, ino, block);
			given_up += r == 0;
		}
		if (r < 0 && r != -ENOENT)
			return r;
	}
	return given_up ? fs_sync(fs) : 0;
}
