/*
 * read.c: file data out.
 *
 * A read holds the inode's shared lock while the disk works: nothing it maps can move or be used again meanwhile, and
 * readers of one file do not wait for each other.
 */
#include <errno.h>
#include <sys/stat.h>

#include "fs/core/core.h"
#include "fs/core/snap/snap.h"
#include "fs/core/tier/tier.h"

int read_range(struct fs *fs, const struct inode *in, uint64_t off, size_t len, uint8_t *p, void **ret_p, size_t *ret_len)
{
	if (S_ISDIR(in->mode))
		return -EISDIR;
	if (off >= in->size) {
		*ret_p = p;
		*ret_len = 0;
		return 0;
	}
	len = (size_t)min_u64(len, in->size - off);
	uint64_t first = off / BLOCK_SIZE, end = div_round_up(off + len, BLOCK_SIZE);
	int r = extent_read(fs, in->ino, first, (uint32_t)(end - first), p);
	if (r < 0)
		return r;
	*ret_p = p + off % BLOCK_SIZE;
	*ret_len = len;
	return 0;
}

int read_quietly(struct fs *fs, uint64_t ino, uint64_t off, size_t len, void *p, void **ret_p, size_t *ret_len)
{
	struct inode *in;
	int r = fs_readable(fs);

	if (r == 0 && snap_is_ino(ino))
		return snap_read(fs, ino, off, len, p, ret_p, ret_len);
	if (r == 0)
		r = icache_rdlock_get(fs->icache, ino, &in);
	if (r < 0)
		return r;
	r = read_range(fs, in, off, len, p, ret_p, ret_len);
	icache_rdunlock(fs->icache, ino);
	return r;
}

int fs_read(struct fs *fs, uint64_t ino, uint64_t off, size_t len, void *p, void **ret_p, size_t *ret_len)
{
	int r = read_quietly(fs, ino, off, len, p, ret_p, ret_len);

	if (r < 0 || snap_is_ino(ino))
		return r;
	attr_touch(fs, ino);
	recall_note_read(fs, ino, off, *ret_len);
	return 0;
}
