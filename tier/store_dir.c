/*
 * store_dir.c: see store_dir.h.  Each call opens the root, walks down to the object's directory, and does its work there by name.
 *
 * A put, step by step, and what is left when it ends after the step:
 *   temporary file, space, data, fsync     a temporary file, swept a day later
 *   read back and compared                 the same
 *   rename                                 the object, or after a loss of power the temporary file: the caller does not know yet
 *   fsync of the directory                 the object: 0 is returned
 */
#include "tier/store_dir_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define PIECE ((size_t)1 << 20)
#define ALIGN 4096u

/* ---- put ---- */

static int write_all(const struct store_dir *s, struct object_call *call, const char *key, int fd, const struct iovec *iov,
		     int n_iov)
{
	for (int i = 0; i < n_iov; i++)
		for (size_t done = 0; done < iov[i].iov_len;) {
			size_t left = iov[i].iov_len - done;
			ssize_t n = write(fd, (const char *)iov[i].iov_base + done, left < PIECE ? left : PIECE);
			int r = n < 0 && errno != EINTR ? store_dir_host_error(s, call, key, "writing it", errno)
							: store_dir_check_time(s, call, key);
			if (r < 0)
				return r;
			done += n > 0 ? (size_t)n : 0;
		}
	return 0;
}

/* Where a comparison is in what was given. */
struct cursor {
	const struct iovec *iov;
	int n_iov;
	size_t off;
};

static bool matches(struct cursor *c, const char *p, size_t len)
{
	while (len && c->n_iov) {
		size_t left = c->iov->iov_len - c->off, n = left < len ? left : len;
		if (n && memcmp((const char *)c->iov->iov_base + c->off, p, n) != 0)
			return false;
		p += n;
		len -= n;
		c->off += n;
		if (c->off == c->iov->iov_len) {
			c->iov++;
			c->n_iov--;
			c->off = 0;
		}
	}
	return len == 0;
}

/* One piece; a host that refuses O_DIRECT only now gives it through the page cache. */
static ssize_t read_piece(int fd, char *p, uint64_t off)
{
	ssize_t n;

	do
		n = pread(fd, p, PIECE, (off_t)off);
	while (n < 0 && errno == EINTR);
	if (n >= 0 || errno != EINVAL || fcntl(fd, F_SETFL, 0) < 0)
		return n;
	return pread(fd, p, PIECE, (off_t)off);
}

/* Compares what the disk has, not what the page cache remembers, where the host can tell. */
static int verify(const struct store_dir *s, struct object_call *call, const char *key, int dir, const char *name,
		  const struct iovec *iov, int n_iov, uint64_t size)
{
	struct cursor c = {iov, n_iov, 0};
	CLEANUP_FREE void *p = NULL;
	CLEANUP_FD int fd = openat(dir, name, O_RDONLY | O_DIRECT | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return store_dir_host_error(s, call, key, "reading it back", errno);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* of use where there is no O_DIRECT */
	if (posix_memalign(&p, ALIGN, PIECE))
		return -ENOMEM;
	for (uint64_t off = 0; off < size;) {
		ssize_t n = read_piece(fd, p, off);
		int r = n < 0 ? store_dir_host_error(s, call, key, "reading it back", errno) : store_dir_check_time(s, call, key);
		if (r < 0)
			return r;
		if (n == 0 || !matches(&c, p, (size_t)n))
			return store_dir_fail(s, call, key, "the disk gives back other bytes than it was given", -EBADMSG);
		off += (uint64_t)n;
	}
	return 0;
}

/* Space first: a full disk is found before anything is written, and the file is in one piece. */
static int write_temp(const struct store_dir *s, struct object_call *call, const char *key, int dir, int fd, const char *temp,
		      const struct iovec *iov, int n_iov)
{
	uint64_t size = 0;
	int r;

	for (int i = 0; i < n_iov; i++)
		size += iov[i].iov_len;
	if (size && fallocate(fd, 0, 0, (off_t)size) < 0 && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR)
		return store_dir_host_error(s, call, key, "finding room for it", errno);
	r = write_all(s, call, key, fd, iov, n_iov);
	if (r == 0 && fsync(fd) < 0)
		r = store_dir_host_error(s, call, key, "flushing it", errno);
	if (r == 0)
		r = verify(s, call, key, dir, temp, iov, n_iov, size);
	return r;
}

/* What is there already under the name. */
static int check_place(const struct store_dir *s, struct object_call *call, const char *key, int dir, const char *name,
		       unsigned flags)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : store_dir_host_error(s, call, key, "looking for it", errno);
	if (S_ISDIR(st.st_mode))
		return store_dir_fail(s, call, key, "other objects are below it", -EINVAL);
	if (!S_ISREG(st.st_mode))
		return store_dir_fail(s, call, key, "what is there is no file", -EACCES);
	return flags & OBJECT_CREATE ? store_dir_fail(s, call, key, "is there already", -EEXIST) : 0;
}

static int put_in(const struct store_dir *s, struct object_call *call, const char *key, int dir, const char *name,
		  const struct iovec *iov, int n_iov, unsigned flags)
{
	char temp[TEMP_NAME_MAX];
	CLEANUP_FD int fd = -1;
	int r = check_place(s, call, key, dir, name, flags);

	if (r < 0)
		return r;
	r = store_dir_temp(dir, temp, &fd);
	if (r < 0)
		return store_dir_host_error(s, call, key, "making a file", -r);
	r = write_temp(s, call, key, dir, fd, temp, iov, n_iov);
	if (r == 0) {
		r = flags & OBJECT_CREATE                ? store_dir_rename_new(dir, temp, name)
		    : renameat(dir, temp, dir, name) < 0 ? -errno
							 : 0;
		if (r < 0)
			r = r == -ENOENT ? store_dir_fail(s, call, key, "somebody removed its temporary file", -EIO)
					 : store_dir_host_error(s, call, key, "naming it", -r);
	}
	if (r < 0) {
		unlinkat(dir, temp, 0);
		return r;
	}
	return fsync(dir) < 0 ? store_dir_host_error(s, call, key, "flushing its directory", errno) : 0;
}

/* ---- the table ---- */

/* What every call begins with: root and, below it, the key's directory. */
static int begin(struct store_dir *s, struct object_call *call, const char *key, bool make, int *ret_dir, const char **ret_name)
{
	CLEANUP_FD int root = -1;
	int r;

	call->retry_after_ns = 0;
	call->verified = false;
	call->status = 0;
	call->message[0] = '\0';
	if (!object_key_valid(key))
		return store_dir_fail(s, call, NULL, "a key that cannot be", -EINVAL);
	r = store_dir_check_time(s, call, key);
	if (r == 0)
		r = store_dir_root(s, call, &root);
	return r == 0 ? store_dir_walk(s, call, root, key, make, ret_dir, ret_name) : r;
}

static int dir_put(struct object_store *store, struct object_call *call, const char *key, const struct iovec *iov, int n_iov,
		   unsigned flags)
{
	struct store_dir *s = store_dir_of(store);
	CLEANUP_FD int dir = -1;
	const char *name;
	int r = begin(s, call, key, true, &dir, &name);

	if (r == 0)
		r = put_in(s, call, key, dir, name, iov, n_iov, flags);
	call->verified = r == 0;
	return r;
}

static int no_object(const struct store_dir *s, struct object_call *call, const char *key)
{
	return store_dir_fail(s, call, key, "there is no such object", -ENOENT);
}

/* An object's file, which is nothing but a file. */
static int open_object(const struct store_dir *s, struct object_call *call, const char *key, int dir, const char *name,
		       int *ret_fd, struct stat *ret_st)
{
	CLEANUP_FD int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 && (errno == ENOENT || errno == ENXIO)) /* a socket is ENXIO */
		return no_object(s, call, key);
	if (fd < 0)
		return store_dir_host_error(s, call, key, "opening it", errno);
	if (fstat(fd, ret_st) < 0)
		return store_dir_host_error(s, call, key, "looking at it", errno);
	if (!S_ISREG(ret_st->st_mode))
		return no_object(s, call, key);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* The same without opening it. */
static int stat_object(const struct store_dir *s, struct object_call *call, const char *key, int dir, const char *name,
		       struct stat *ret)
{
	if (fstatat(dir, name, ret, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? no_object(s, call, key) : store_dir_host_error(s, call, key, "looking at it", errno);
	if (S_ISLNK(ret->st_mode))
		return store_dir_host_error(s, call, key, "looking at it", ELOOP);
	return S_ISREG(ret->st_mode) ? 0 : no_object(s, call, key);
}

/* The object of this key without opening it: its directory, its name in there, and what it is. */
static int find_object(struct store_dir *s, struct object_call *call, const char *key, int *ret_dir, const char **ret_name,
		       struct stat *ret)
{
	int r = begin(s, call, key, false, ret_dir, ret_name);

	return r == 0 ? stat_object(s, call, key, *ret_dir, *ret_name, ret) : r;
}

static int read_range(const struct store_dir *s, struct object_call *call, const char *key, int fd, uint64_t off, size_t len,
		      char *p)
{
	while (len) {
		ssize_t n = pread(fd, p, len < PIECE ? len : PIECE, (off_t)off);
		int r = n < 0 && errno != EINTR ? store_dir_host_error(s, call, key, "reading it", errno)
						: store_dir_check_time(s, call, key);
		if (r < 0)
			return r;
		if (n == 0)
			return store_dir_fail(s, call, key, "shorter than it should be", -EBADMSG);
		n = n < 0 ? 0 : n;
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

static int dir_get(struct object_store *store, struct object_call *call, const char *key, uint64_t off, size_t len, void *p)
{
	struct store_dir *s = store_dir_of(store);
	CLEANUP_FD int dir = -1, fd = -1;
	const char *name;
	struct stat st;
	int r = begin(s, call, key, false, &dir, &name);

	if (r == 0)
		r = open_object(s, call, key, dir, name, &fd, &st);
	if (r < 0)
		return r;
	if (off > INT64_MAX || len > (uint64_t)INT64_MAX - off)
		return store_dir_fail(s, call, key, "a range that cannot be", -EINVAL);
	if (off + len > (uint64_t)st.st_size)
		return store_dir_fail(s, call, key, "shorter than it should be", -EBADMSG);
	return read_range(s, call, key, fd, off, len, p);
}

static int dir_head(struct object_store *store, struct object_call *call, const char *key, struct object_info *ret)
{
	struct store_dir *s = store_dir_of(store);
	CLEANUP_FD int dir = -1;
	const char *name;
	struct stat st;
	int r = find_object(s, call, key, &dir, &name, &st);

	if (r == 0)
		*ret = (struct object_info){(uint64_t)st.st_size, st.st_mtim.tv_sec * NSEC_PER_SEC + st.st_mtim.tv_nsec};
	return r;
}

static int dir_remove(struct object_store *store, struct object_call *call, const char *key)
{
	struct store_dir *s = store_dir_of(store);
	CLEANUP_FD int dir = -1;
	const char *name;
	struct stat st;
	int r = find_object(s, call, key, &dir, &name, &st);

	if (r < 0)
		return r;
	if (unlinkat(dir, name, 0) < 0)
		return store_dir_host_error(s, call, key, "removing it", errno);
	return fsync(dir) < 0 ? store_dir_host_error(s, call, key, "flushing its directory", errno) : 0;
}

static void dir_close(struct object_store *store)
{
	struct store_dir *s = store_dir_of(store);

	mutex_destroy(&s->lock);
	free(s);
}

static const struct object_store_ops dir_ops = {
    .put = dir_put,
    .get = dir_get,
    .head = dir_head,
    .remove = dir_remove,
    .list = store_dir_list,
    .close = dir_close,
};

int store_dir_open(const struct store_dir_config *c, struct object_store **ret, char *message)
{
	struct object_call call = {0};
	struct store_dir *s = calloc(1, sizeof(*s));
	int r = 0;

	message[0] = '\0';
	if (!s)
		return -ENOMEM;
	s->base.ops = &dir_ops;
	s->clock = c->clock ? c->clock : &clock_system;
	mutex_init(&s->lock);
	snprintf(s->path, sizeof(s->path), "%s", c->path);
	if (c->path[0] != '/' || strlen(c->path) >= sizeof(s->path))
		r = store_dir_fail(s, &call, NULL, "not an absolute path, or too long", -EINVAL);
	if (r == 0 && c->create)
		r = store_dir_create(s, &call);
	if (r < 0) {
		memcpy(message, call.message, OBJECT_MESSAGE_MAX);
		dir_close(&s->base);
		return r;
	}
	*ret = &s->base;
	return 0;
}
