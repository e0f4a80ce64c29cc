/*
 * volume.c: from the directory an admin names to what fs_open() and fs_format() want.
 *
 * The store is opened with its lock held, so only one clawfs at a time works on a volume.  `info`, `mount` and `umount` also
 * look at the superblock of a volume that somebody else holds: volume_peek() reads the file past the lock and never writes.
 * Every error an admin can meet has one line of advice here, in one table.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "fs/store/crypt/batch_mac.h"
#include "fs/store/diverged.h"
#include "fs/store/super_format.h"

#define MEMORY_DEFAULT   (512 * MIB)
#define INDEX_FILES_OPEN 64u /* 256 descriptors serve a volume (guarantee G14); table files are 64 MiB and more */

static const struct {
	int error;
	const char *reason, *advice;
} advice_table[] = {
    {ENODATA, "not a clawfs volume", "`clawfs format DIR` makes one in a new or empty directory"},
    {EBUSY, "in use", "it is mounted already, or another clawfs command works on it"},
    {EPROTONOSUPPORT, "made by a newer clawfs, or with features this one does not know", "upgrade clawfs on this machine"},
    {EBADMSG, "damaged: a checksum is wrong",
     "the lines above name the place; run `clawfs fsck DIR`, restore what it lists from a backup"},
    {EUCLEAN, "damaged: the structure is impossible", "the lines above name the place; run `clawfs fsck DIR`"},
    {ENOENT, "a file of the volume is missing", "bring back the file named above, or the directory if it is not there at all"},
    {ELOOP, "a file of the volume is a symbolic link", "clawfs follows none: put the file itself into the directory"},
    {ENOTDIR, "not a directory", "name the directory of the volume"},
    {EINPROGRESS, "a restore into it was interrupted", "run the same `clawfs restore` again"},
    {EROFS, "the host filesystem is read-only",
     "remount it read-write: the index cannot be opened without writing to its log, not even to read it"},
    {ENOSPC, "the host filesystem is full", "free some space there"},
    {EACCES, "permission denied", "run this as root, or as the owner of the directory"},
    {EPERM, "not permitted", "run this as root, or as the owner of the directory"},
    {EIO, "input/output error", "the host could not read or write the store: see its kernel log"},
};

void volume_complain(const char *what, const char *dir, int error)
{
	for (size_t i = 0; i < ARRAY_SIZE(advice_table); i++)
		if (advice_table[i].error == -error) {
			complain("%s %s: %s: %s", what, dir, advice_table[i].reason, advice_table[i].advice);
			return;
		}
	complain("%s %s: %s", what, dir, strerror(-error));
}

static int open_index(void *ctx, bool create, struct kv **ret_kv)
{
	const struct volume_config *v = ctx;
	char path[PATH_MAX], snap[PATH_MAX];
	const struct kv_rocksdb_options o = {
	    .cache_bytes = v->cache_bytes, .max_open_files = INDEX_FILES_OPEN, .create = create, .snap_dir = snap};

	if ((size_t)snprintf(path, sizeof(path), "%s/index", v->dir) >= sizeof(path) ||
	    (size_t)snprintf(snap, sizeof(snap), "%s/snap", v->dir) >= sizeof(snap))
		return -ENAMETOOLONG;
	int r = kv_rocksdb_open(path, &o, ret_kv);
	return r < 0 ? r : volume_wrap_index(v, ret_kv);
}

static bool is_half_restored(const char *dir)
{
	CLEANUP_FD int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return dir_fd >= 0 && faccessat(dir_fd, VOLUME_RESTORING, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int volume_open(const char *dir, bool create, uint64_t memory_bytes, struct volume_config *v)
{
	int r;

	*v = (struct volume_config){0};
	if (create && mkdir(dir, 0700) < 0 && errno != EEXIST) {
		r = -errno;
		if (r == -ENOENT) {
			complain("cannot make %s: the directory that it would be in is not there", dir);
			volume_close(v);
			return r;
		}
	} else
		r = (v->dir = realpath(dir, NULL)) ? 0 : -errno;
	if (r == 0 && !create && is_half_restored(v->dir))
		r = -EINPROGRESS;
	if (r == 0)
		r = store_posix_open(v->dir, false, &v->fs.store);
	if (r == 0)
		r = diverged_dir_new(v->dir, &v->fs.diverged);
	if (r < 0) {
		volume_complain("cannot open", dir, r);
		volume_close(v);
		return r;
	}
	/* A quarter caches blocks of the index; fs/core keeps its own share of the whole: changes wait in up to three eighths. */
	if (!memory_bytes)
		memory_bytes = MEMORY_DEFAULT;
	v->cache_bytes = memory_bytes / 4;
	v->fs.memory_bytes = memory_bytes;
	v->fs.kv_open = open_index;
	v->fs.kv_ctx = v;
	v->fs.source = v->dir;
	v->fs.n_workers = 1;
	return 0;
}

void volume_close(struct volume_config *v)
{
	v->fs.store = store_close(v->fs.store);
	v->fs.diverged = diverged_free(v->fs.diverged);
	v->mac = batch_mac_free(v->mac);
	data_key_wipe(&v->key);
	free(v->dir);
	v->dir = NULL;
}

int volume_peek(const char *dir, struct super ret_copy[2], bool ret_valid[2])
{
	uint8_t block[SUPER_BYTES];
	CLEANUP_FD int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dir_fd < 0)
		return -errno;
	CLEANUP_FD int fd = openat(dir_fd, "super", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ENODATA : -errno;
	for (int i = 0; i < 2; i++)
		ret_valid[i] = pread(fd, block, sizeof(block), i * (off_t)SUPER_BYTES) == (ssize_t)sizeof(block) &&
			       super_decode(block, &ret_copy[i]) == 0;
	return 0;
}

const struct super *volume_newest(const struct super copy[2], const bool valid[2])
{
	if (valid[0] && valid[1])
		return &copy[copy[1].generation > copy[0].generation];
	return valid[0] ? &copy[0] : valid[1] ? &copy[1] : NULL;
}

int volume_wait_free(const char *dir, uint64_t timeout_ns)
{
	const struct timespec step = {.tv_nsec = 20 * 1000 * 1000};
	const int64_t end = clock_mono_ns(&clock_system) + (int64_t)timeout_ns;
	CLEANUP_FD int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	while (flock(fd, LOCK_SH | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return -errno;
		if (clock_mono_ns(&clock_system) >= end)
			return -ETIMEDOUT;
		nanosleep(&step, NULL);
	}
	return 0;
}
