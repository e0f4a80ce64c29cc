/*
 * kv_snapdir.c: a directory of files becomes durable as one: every file is flushed, then the directory, then it gets its name,
 * then the directory above is flushed.  Removing goes the other way: the name first, durably.
 *
 * The directories are flat: RocksDB makes no others in a checkpoint.
 */
#include "fs/store/kv_snapdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"
#include "base/log.h"

#define NEW_SUFFIX ".new"

char *snapdir_path(const char *dir, uint64_t id)
{
	char *path;

	return asprintf(&path, "%s/%" PRIu64, dir, id) < 0 ? NULL : path;
}

static char *new_path(const char *dir, uint64_t id)
{
	char *path;

	return asprintf(&path, "%s/%" PRIu64 NEW_SUFFIX, dir, id) < 0 ? NULL : path;
}

static int sync_fd_of(int at, const char *name, int flags)
{
	CLEANUP_FD int fd = openat(at, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | flags);

	if (fd < 0)
		return -errno;
	return fsync(fd) < 0 ? -errno : 0;
}

typedef int name_fn(int dir, const char *name, void *ctx);

static int each_name(const char *path, name_fn *fn, void *ctx)
{
	DIR *d = opendir(path);
	int r = 0;

	if (!d)
		return -errno;
	for (;;) {
		errno = 0;
		const struct dirent *e = readdir(d);
		if (!e) {
			r = -errno;
			break;
		}
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		r = fn(dirfd(d), e->d_name, ctx);
		if (r != 0)
			break;
	}
	closedir(d);
	return r;
}

static int sync_file(int dir, const char *name, void *ctx)
{
	(void)ctx;
	return sync_fd_of(dir, name, 0);
}

static int unlink_file(int dir, const char *name, void *ctx)
{
	(void)ctx;
	return unlinkat(dir, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

/* A directory and the files in it; none is fine. */
static int remove_dir(const char *path)
{
	int r = each_name(path, unlink_file, NULL);

	if (r == -ENOENT)
		return 0;
	return r < 0 ? r : rmdir(path) < 0 ? -errno : 0;
}

int snapdir_prepare(const char *dir, uint64_t id, char **ret_path)
{
	CLEANUP_FREE char *path = new_path(dir, id), *taken = snapdir_path(dir, id), *tmp = NULL;
	struct stat st;

	if (!path || !taken || asprintf(&tmp, "%s.tmp", path) < 0)
		return -ENOMEM;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	if (lstat(taken, &st) == 0)
		return -EEXIST;
	int r = remove_dir(path);
	if (r == 0)
		r = remove_dir(tmp); /* where RocksDB builds it first */
	if (r == 0)
		*ret_path = TAKE_PTR(path);
	return r;
}

/* The directory above `dir` too: `dir` may have been made just now. */
static int sync_above(const char *dir)
{
	CLEANUP_FREE char *above = NULL;

	if (asprintf(&above, "%s/..", dir) < 0)
		return -ENOMEM;
	return sync_fd_of(AT_FDCWD, above, O_DIRECTORY);
}

int snapdir_publish(const char *dir, uint64_t id)
{
	CLEANUP_FREE char *from = new_path(dir, id), *to = snapdir_path(dir, id);

	if (!from || !to)
		return -ENOMEM;
	int r = each_name(from, sync_file, NULL);
	if (r == 0)
		r = sync_fd_of(AT_FDCWD, from, O_DIRECTORY);
	if (r == 0)
		r = sync_above(dir);
	if (r == 0 && rename(from, to) < 0)
		r = -errno;
	return r < 0 ? r : sync_fd_of(AT_FDCWD, dir, O_DIRECTORY);
}

void snapdir_discard(const char *dir, uint64_t id)
{
	CLEANUP_FREE char *path = new_path(dir, id), *whole = snapdir_path(dir, id);
	int r = path && whole ? remove_dir(path) : -ENOMEM;

	if (r == 0)
		r = remove_dir(whole);
	if (r < 0)
		log_warn("what an unfinished snapshot left in '%s' cannot be removed: %s", dir, strerror(-r));
}

int snapdir_remove(const char *dir, uint64_t id)
{
	CLEANUP_FREE char *path = snapdir_path(dir, id), *gone = new_path(dir, id);

	if (!path || !gone)
		return -ENOMEM;
	int r = remove_dir(gone);
	if (r == 0 && rename(path, gone) < 0)
		r = -errno;
	if (r == 0)
		r = sync_fd_of(AT_FDCWD, dir, O_DIRECTORY);
	return r < 0 ? r : remove_dir(gone);
}

struct each {
	const char *dir;
	int (*fn)(void *ctx, uint64_t id);
	void *ctx;
};

/* A number as snapdir_path() writes it; *ret_rest is what follows. */
static bool parse_id(const char *name, uint64_t *ret_id, const char **ret_rest)
{
	uint64_t id = 0;
	const char *p = name;

	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(id, 10, &id) || __builtin_add_overflow(id, (uint64_t)(*p - '0'), &id))
			return false;
	*ret_id = id;
	*ret_rest = p;
	return p > name && (*name != '0' || p == name + 1);
}

static int show(int dir, const char *name, void *ctx)
{
	const struct each *e = ctx;
	const char *rest;
	uint64_t id;

	(void)dir;
	if (!parse_id(name, &id, &rest))
		return 0;
	if (!*rest)
		return e->fn(e->ctx, id);
	if (strcmp(rest, NEW_SUFFIX) != 0 && strcmp(rest, NEW_SUFFIX ".tmp") != 0)
		return 0;
	CLEANUP_FREE char *path = NULL;
	if (asprintf(&path, "%s/%s", e->dir, name) < 0)
		return -ENOMEM;
	int r = remove_dir(path);
	if (r < 0)
		log_warn("'%s' is left over and cannot be removed: %s", path, strerror(-r));
	return 0;
}

int snapdir_each(const char *dir, int (*fn)(void *ctx, uint64_t id), void *ctx)
{
	struct each e = {dir, fn, ctx};
	int r = each_name(dir, show, &e);

	return r == -ENOENT ? 0 : r;
}
