/*
 * disk_posix.c: disk.h over a directory of the host.
 *
 * A store is a directory fd that holds an exclusive flock; its subdirectories are opened once and kept, because
 * sync_names() fsyncs every directory in which a name may have changed.  Names are resolved one component at a time with
 * O_NOFOLLOW, so nothing below the directory can redirect us elsewhere.
 *
 * A disk is one regular file of fixed size.  Creation: O_EXCL, fallocate (where the host has none: ftruncate and zeros),
 * zeros when asked, fdatasync; on any error the name goes again.  A crash in between leaves a file of the wrong size or an
 * unwritten one of the right size: opening the first is refused, the second reads as zeros and is as good as new.
 *
 * Reading and writing it is disk_file.c.
 */
#include "base/disk_posix_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/log.h"

#define ZERO_PIECE (1u << 20)

static bool name_part_ok(const char *p, size_t len)
{
	return len && len <= NAME_MAX && !(p[0] == '.' && (len == 1 || (len == 2 && p[1] == '.')));
}

/* The fd of subdirectory `name`, opened once, made when `create`. */
static int subdir_fd_locked(struct posix_store *s, const char *name, bool create) REQUIRES(&s->lock)
{
	for (int i = 0; i < s->n_subdirs; i++)
		if (strcmp(s->subdirs[i].name, name) == 0)
			return s->subdirs[i].fd;
	if (s->n_subdirs == SUBDIRS_MAX)
		return -EMFILE;
	if (create && mkdirat(s->fd, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	int fd = openat(s->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	struct subdir *sub = &s->subdirs[s->n_subdirs++];
	strcpy(sub->name, name); /* name_part_ok() bounded it */
	sub->fd = fd;
	return fd;
}

/* Splits "dir/file" or "file" into the fd of the directory and the last part. */
static int resolve(struct posix_store *s, const char *name, bool create, int *ret_dir, const char **ret_last)
{
	char dir[NAME_MAX + 1];
	const char *slash = strchr(name, '/');
	const char *last = slash ? slash + 1 : name;

	if (!name_part_ok(last, strlen(last)) || strchr(last, '/') || (slash && !name_part_ok(name, (size_t)(slash - name))))
		return -EINVAL;
	int fd = s->fd;
	if (slash) {
		memcpy(dir, name, (size_t)(slash - name));
		dir[slash - name] = 0;
		mutex_lock(&s->lock);
		fd = subdir_fd_locked(s, dir, create);
		mutex_unlock(&s->lock);
		if (fd < 0)
			return fd;
	}
	*ret_dir = fd;
	*ret_last = last;
	return 0;
}

/* *ret_promised: the host keeps the space; else only zeros written over it do. */
static int allocate(int fd, uint64_t size, bool *ret_promised)
{
	int r;

	if (size > INT64_MAX)
		return -EFBIG;
	do
		r = size ? fallocate(fd, 0, 0, (off_t)size) : 0;
	while (r < 0 && errno == EINTR);
	*ret_promised = r == 0;
	if (r < 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
		r = ftruncate(fd, (off_t)size);
	return r < 0 ? -errno : 0;
}

/* Zeros at queue depth where the host has one: the pieces share one buffer. */
static int fill_zeros(struct posix_disk *d)
{
	struct disk_write w[RING_DEPTH];
	CLEANUP_FREE void *zeros = NULL;
	int r = 0;

	if (posix_memalign(&zeros, DISK_BLOCK, ZERO_PIECE))
		return -ENOMEM;
	memset(zeros, 0, ZERO_PIECE);
	for (uint64_t off = 0; off < d->base.size && r == 0;) {
		size_t n = 0;
		for (; n < RING_DEPTH && off < d->base.size; n++) {
			w[n] = (struct disk_write){.p = zeros, .len = min_u64(ZERO_PIECE, d->base.size - off), .off = off};
			off += w[n].len;
		}
		r = posix_write_many(&d->base, w, n);
	}
	return r;
}

/* A new file gets its blocks, and zeros without going through the page cache whatever it is used for later. */
static int fill_new(struct posix_disk *d, unsigned flags)
{
	bool promised;
	int r = allocate(d->fd, d->base.size, &promised);

	if (r < 0)
		return r;
	if ((flags & DISK_ZERO) || !promised) {
		if (!(flags & DISK_DIRECT) && d->base.size % DISK_BLOCK == 0)
			atomic_store(&d->direct, posix_set_direct(d->fd, true) == 0);
		r = fill_zeros(d);
		if (r < 0)
			return r;
		if (!(flags & DISK_DIRECT) && atomic_exchange(&d->direct, false)) {
			r = posix_set_direct(d->fd, false);
			if (r < 0)
				return r;
		}
	}
	return fdatasync(d->fd) < 0 ? -errno : 0;
}

static int check_existing(const char *name, int fd, uint64_t size, uint64_t *ret_size)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode)) {
		log_error("store: '%s' is not a regular file", name);
		return -EINVAL;
	}
	if (size && (uint64_t)st.st_size != size) {
		log_error("store: '%s' has %lld bytes and should have %llu: it was cut short, or its creation was", name,
			  (long long)st.st_size, (unsigned long long)size);
		return -EUCLEAN;
	}
	*ret_size = (uint64_t)st.st_size;
	return 0;
}

static int posix_open(struct store *store, const char *name, unsigned flags, uint64_t size, struct disk **ret_disk)
{
	struct posix_store *s = to_store(store);
	bool create = flags & DISK_CREATE;
	const char *last;
	int dir;

	int r = resolve(s, name, create, &dir, &last);
	if (r < 0)
		return r;
	/* O_NONBLOCK: a fifo in the file's place must not hang us. */
	int mode = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (flags & DISK_READONLY ? O_RDONLY : O_RDWR);
	CLEANUP_FD int fd = openat(dir, last, mode | (create ? O_CREAT | O_EXCL : 0), 0600);
	if (fd < 0)
		return -errno;
	if (!create && (r = check_existing(name, fd, size, &size)) < 0)
		return r;
	/* Off again: io_uring would hand back EAGAIN instead of waiting. */
	if (fcntl(fd, F_SETFL, 0) < 0)
		return -errno;
	struct posix_disk *d = calloc(1, sizeof(*d));
	if (!d) {
		r = -ENOMEM;
		goto err_after_open;
	}
	*d = (struct posix_disk){.base = {.ops = &disk_posix_ops, .size = size}, .store = s, .fd = fd};
	/* By fcntl and not at open, where a host that refuses has already made the file. */
	atomic_init(&d->direct, (flags & DISK_DIRECT) && posix_set_direct(fd, true) == 0);
	if (create && (r = fill_new(d, flags)) < 0)
		goto err_after_alloc;
	d->read_only = flags & DISK_READONLY;
	TAKE_FD(fd);
	*ret_disk = &d->base;
	return 0;

err_after_alloc:
	free(d);
err_after_open:
	if (create)
		unlinkat(dir, last, 0);
	return r;
}

static int posix_remove(struct store *store, const char *name)
{
	const char *last;
	int dir;
	int r = resolve(to_store(store), name, false, &dir, &last);

	if (r < 0)
		return r;
	return unlinkat(dir, last, 0) < 0 ? -errno : 0;
}

static int posix_sync_names(struct store *store)
{
	struct posix_store *s = to_store(store);
	int fds[SUBDIRS_MAX + 1], n = 0;

	mutex_lock(&s->lock);
	fds[n++] = s->fd;
	for (int i = 0; i < s->n_subdirs; i++)
		fds[n++] = s->subdirs[i].fd;
	mutex_unlock(&s->lock);
	for (int i = 0; i < n; i++)
		if (fsync(fds[i]) < 0)
			return errno == EINTR ? -EIO : -errno;
	return 0;
}

static int posix_space(struct store *store, uint64_t *ret_free, uint64_t *ret_total)
{
	struct statvfs st;

	if (fstatvfs(to_store(store)->fd, &st) < 0)
		return -errno;
	*ret_free = (uint64_t)st.f_bavail * st.f_frsize;
	*ret_total = (uint64_t)st.f_blocks * st.f_frsize;
	return 0;
}

static void posix_store_close(struct store *store) NO_THREAD_SAFETY
{
	struct posix_store *s = to_store(store);

	posix_rings_close(s);
	for (int i = 0; i < s->n_subdirs; i++)
		close(s->subdirs[i].fd);
	close(s->fd);
	mutex_destroy(&s->lock);
	free(s);
}

static const struct store_ops store_posix_ops = {
    .open = posix_open,
    .remove = posix_remove,
    .sync_names = posix_sync_names,
    .space = posix_space,
    .close = posix_store_close,
};

/* Makes `path` and its name durable. */
static int make_directory(const char *path)
{
	if (mkdir(path, 0700) < 0)
		return errno == EEXIST ? 0 : -errno;
	CLEANUP_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	CLEANUP_FD int parent = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return parent < 0 || fsync(parent) < 0 ? -errno : 0;
}

int store_posix_open(const char *path, bool create, struct store **ret_store)
{
	int r = create ? make_directory(path) : 0;

	if (r < 0)
		return r;
	CLEANUP_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	struct posix_store *s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->base.ops = &store_posix_ops;
	s->fd = TAKE_FD(fd);
	mutex_init(&s->lock);
	*ret_store = &s->base;
	return 0;
}
