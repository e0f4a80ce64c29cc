/* keys_file.c: the file `keys`, read past the lock of the volume and replaced as a whole. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "base/replace_file.h"
#include "fs/store/crypt/keys.h"

struct keys_file {
	struct keys_block copy[KEYS_COPIES];
};

static int open_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int open_keys(int at, int flags)
{
	int fd = openat(at, KEYS_NAME, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	return fd >= 0 ? fd : errno == ENOENT ? -ENODATA : -errno;
}

int keys_load(const char *dir, struct keys_block *ret)
{
	struct keys_block block;
	int r = -EBADMSG;
	CLEANUP_FD int at = open_dir(dir);
	CLEANUP_FD int fd = at < 0 ? at : open_keys(at, O_RDONLY);

	if (fd < 0)
		return fd;
	for (unsigned i = 0; i < KEYS_COPIES; i++) {
		ssize_t n = pread(fd, &block, sizeof(block), (off_t)(i * sizeof(block)));
		int e = n == (ssize_t)sizeof(block) ? keys_check(&block) : n < 0 ? -errno : -EBADMSG;

		if (e == 0) {
			*ret = block;
			return 0;
		}
		r = e == -EBADMSG ? r : e;
		log_warn("copy %u of the file '" KEYS_NAME "' is damaged", i);
	}
	return r;
}

/* Its name is gone: nobody reads it any more, and what it said shall not stay on the disk. */
static void overwrite(int fd)
{
	static const struct keys_file zeros;

	if (pwrite(fd, &zeros, sizeof(zeros), 0) != (ssize_t)sizeof(zeros) || fdatasync(fd) < 0)
		log_warn("the former file '" KEYS_NAME "' is deleted, its bytes could not be overwritten");
}

int keys_save(const char *dir, struct keys_block *b)
{
	struct keys_file file;
	struct keys_block next = *b;
	CLEANUP_FD int at = open_dir(dir);

	if (at < 0)
		return at;
	next.generation = le64_make(le64_get(b->generation) + 1);
	next.crc = le32_make(crc32c(0, &next, offsetof(struct keys_block, crc)));
	for (unsigned i = 0; i < KEYS_COPIES; i++)
		file.copy[i] = next;
	CLEANUP_FD int former = open_keys(at, O_RDWR);
	if (former < 0 && former != -ENODATA)
		return former;
	int r = replace_file(at, KEYS_NAME, (struct slice){&file, sizeof(file)});
	if (r < 0)
		return r;
	if (former >= 0)
		overwrite(former);
	*b = next;
	return 0;
}

/* The lock is of the file that has the name: who waited while it was replaced looks again. */
int keys_lock(const char *dir, int *ret_fd)
{
	struct stat locked, named;
	CLEANUP_FD int at = open_dir(dir);

	if (at < 0)
		return at;
	for (;;) {
		CLEANUP_FD int fd = open_keys(at, O_RDONLY);

		if (fd < 0)
			return fd;
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			return errno == EWOULDBLOCK ? -EBUSY : -errno;
		if (fstat(fd, &locked) < 0 || fstatat(at, KEYS_NAME, &named, AT_SYMLINK_NOFOLLOW) < 0)
			return -errno;
		if (locked.st_dev == named.st_dev && locked.st_ino == named.st_ino) {
			*ret_fd = TAKE_FD(fd);
			return 0;
		}
	}
}
