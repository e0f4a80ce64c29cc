/*
 * peerfile.c: see peerfile.h.
 *
 * A write goes to a temporary name beside the file, is flushed, renamed and the directory flushed.  What a crash leaves of a
 * temporary file is removed by the next write of the same name.
 */
#include "replicate/peerfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/lock.h"
#include "base/replace_file.h"
#include "base/log.h"

static struct mutex write_lock = {PTHREAD_MUTEX_INITIALIZER};

static int complain(const char *dir, const char *name, const char *what, int r)
{
	log_error("%s/peers/%s: %s: %s", dir, name, what, strerror(-r));
	return r;
}

/* A file descriptor of DIR/peers. */
static int open_dir(const char *dir, bool create)
{
	CLEANUP_FD int parent = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (parent < 0)
		return -errno;
	if (create && mkdirat(parent, "peers", 0700) == 0 && fsync(parent) < 0)
		return -errno;
	int fd = openat(parent, "peers", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int check_secret(const char *dir, const char *name, const struct stat *st)
{
	if (st->st_mode & (S_IRWXG | S_IRWXO)) {
		log_error("%s/peers/%s: others can read this key (mode %04o): make it 0600, and replace it if somebody may have",
			  dir, name, st->st_mode & 07777);
		return -EACCES;
	}
	if (st->st_uid != geteuid() && st->st_uid != 0) {
		log_error("%s/peers/%s: this key belongs to another user (uid %u)", dir, name, st->st_uid);
		return -EACCES;
	}
	return 0;
}

static int read_all(int fd, size_t n, struct buf *ret)
{
	size_t done = 0;
	uint8_t *p = buf_grow(ret, n);

	if (!p)
		return -ENOMEM;
	while (done < n) {
		ssize_t got = read(fd, p + done, n - done);

		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		done += (size_t)got;
	}
	return 0;
}

int peerfile_read(const char *dir, const char *name, enum peerfile_kind kind, struct buf *ret)
{
	struct stat st;
	CLEANUP_FD int at = open_dir(dir, false);
	CLEANUP_FD int fd = at < 0 ? -1 : openat(at, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0) {
		int r = at < 0 ? at : -errno;
		return r == -ENOENT ? r : complain(dir, name, "cannot be opened", r);
	}
	if (fstat(fd, &st) < 0)
		return complain(dir, name, "cannot be read", -errno);
	if (!S_ISREG(st.st_mode))
		return complain(dir, name, "is no regular file", -EACCES);
	if (st.st_size > PEERFILE_MAX)
		return complain(dir, name, "cannot be read", -E2BIG);
	int r = kind == PEERFILE_SECRET ? check_secret(dir, name, &st) : 0;
	if (r < 0)
		return r;
	r = read_all(fd, (size_t)st.st_size, ret);
	return r < 0 ? complain(dir, name, "cannot be read", r) : 0;
}

int peerfile_write(const char *dir, const char *name, struct slice content)
{
	CLEANUP_FD int at = open_dir(dir, true);

	if (at < 0)
		return complain(dir, name, "cannot be written", at);
	mutex_lock(&write_lock);
	int r = replace_file(at, name, content);
	mutex_unlock(&write_lock);
	return r < 0 ? complain(dir, name, "cannot be written", r) : 0;
}
