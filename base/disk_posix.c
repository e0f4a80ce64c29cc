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
 * What the host may refuse, and what happens then:
 *   O_DIRECT (EINVAL at open or at the first I/O)  -> the page cache, for this disk
 *   RWF_DSYNC (EOPNOTSUPP)                         -> write, then fdatasync, for this store
 *   io_uring (EPERM, ENOSYS, ENOMEM)               -> one write after the other
 * Each answer is remembered.  Short transfers are continued, EINTR is retried, every other error is returned: EFBIG of
 * RLIMIT_FSIZE too (SIGXFSZ is for the program to ignore).
 */
#include "base/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#ifdef HAVE_URING
#include <liburing.h>
#endif

#include "base/lock.h"
#include "base/log.h"

#define SUBDIRS_MAX 16
#define RINGS_MAX   4
#define RING_DEPTH  32u
#define ZERO_PIECE  (1u << 20)
#define IOV_BATCH   64 /* iovecs a system call: the copy that short writes advance lives on the stack */

struct subdir {
	char name[NAME_MAX + 1];
	int fd;
};

struct posix_store {
	struct store base;
	int fd;
	atomic_bool no_dsync; /* the host refused RWF_DSYNC */
	struct mutex lock;
	struct subdir subdirs[SUBDIRS_MAX]; /* guarded by lock; those in place never change again */
	int n_subdirs;                      /* guarded by lock */
#ifdef HAVE_URING
	struct io_uring *idle[RINGS_MAX]; /* guarded by lock */
	int n_idle, n_rings;              /* guarded by lock */
	bool no_uring;                    /* guarded by lock; the host refused, once is for ever */
#endif
};

struct posix_disk {
	struct disk base;
	struct posix_store *store;
	int fd;
	bool read_only;
	atomic_bool direct;
	void *map;
	size_t map_len;
};

static struct posix_store *to_store(struct store *s)
{
	return container_of(s, struct posix_store, base);
}
static struct posix_disk *to_disk(struct disk *d)
{
	return container_of(d, struct posix_disk, base);
}

static int set_direct(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	return fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) < 0 ? -errno : 0;
}

/* An EINVAL from aligned I/O on an O_DIRECT file is the host refusing late: true when worth another try, buffered. */
static bool retry_buffered(struct posix_disk *d, int error)
{
	return error == EINVAL && atomic_exchange(&d->direct, false) && set_direct(d->fd, false) == 0;
}

static bool in_bounds(const struct disk *d, uint64_t len, uint64_t off)
{
	return off <= d->size && len <= d->size - off;
}

static int posix_read(struct disk *disk, void *p, size_t len, uint64_t off)
{
	struct posix_disk *d = to_disk(disk);

	while (len) {
		ssize_t n = pread(d->fd, p, len, (off_t)off);
		if (n < 0) {
			if (errno == EINTR || retry_buffered(d, errno))
				continue;
			return -errno;
		}
		if (n == 0)
			return -EIO;
		p = (char *)p + n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* One pwritev, durable when asked: 0 .. bytes written, or -errno. */
static ssize_t write_some(struct posix_disk *d, const struct iovec *iov, int n_iov, uint64_t off, unsigned flags)
{
	bool durable = flags & DISK_DURABLE;

	if (durable && !atomic_load_explicit(&d->store->no_dsync, memory_order_relaxed)) {
		ssize_t n = pwritev2(d->fd, iov, n_iov, (off_t)off, RWF_DSYNC);
		if (n >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS))
			return n < 0 ? -errno : n;
		atomic_store(&d->store->no_dsync, true);
	}
	ssize_t n = pwritev(d->fd, iov, n_iov, (off_t)off);
	if (n < 0)
		return -errno;
	if (durable && fdatasync(d->fd) < 0)
		return errno == EINTR ? -EIO : -errno; /* never fsync the same pages again */
	return n;
}

/* Drops `n` written bytes from the front of iov; returns how many iovecs are done. */
static int iov_advance(struct iovec *iov, int n_iov, size_t n)
{
	int i = 0;

	while (i < n_iov && n >= iov[i].iov_len)
		n -= iov[i++].iov_len;
	if (n) {
		iov[i].iov_base = (char *)iov[i].iov_base + n;
		iov[i].iov_len -= n;
	}
	return i;
}

static int write_batch(struct posix_disk *d, struct iovec *iov, int n_iov, uint64_t off, unsigned flags)
{
	while (n_iov) {
		ssize_t n = write_some(d, iov, n_iov, off, flags);
		if (n < 0) {
			if (n == -EINTR || retry_buffered(d, (int)-n))
				continue;
			return (int)n;
		}
		int done = iov_advance(iov, n_iov, (size_t)n);
		if (n == 0 && done < n_iov)
			return -EIO;
		iov += done;
		n_iov -= done;
		off += (uint64_t)n;
	}
	return 0;
}

static uint64_t iov_bytes(const struct iovec *iov, int n_iov)
{
	uint64_t sum = 0;

	for (int i = 0; i < n_iov; i++)
		sum += iov[i].iov_len;
	return sum;
}

static int posix_write(struct disk *disk, const struct iovec *iov, int n_iov, uint64_t off, unsigned flags)
{
	struct posix_disk *d = to_disk(disk);
	struct iovec part[IOV_BATCH];

	if (d->read_only)
		return -EROFS;
	if (!in_bounds(disk, iov_bytes(iov, n_iov), off))
		return -EINVAL;
	while (n_iov) {
		int n = n_iov < IOV_BATCH ? n_iov : IOV_BATCH;

		memcpy(part, iov, (size_t)n * sizeof(*iov));
		uint64_t bytes = iov_bytes(part, n);
		int r = write_batch(d, part, n, off, flags);
		if (r < 0)
			return r;
		iov += n;
		n_iov -= n;
		off += bytes;
	}
	return 0;
}

static int write_each(struct disk *disk, const struct disk_write *w, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int r = disk_write(disk, w[i].p, w[i].len, w[i].off, 0);
		if (r < 0)
			return r;
	}
	return 0;
}

#ifdef HAVE_URING
static struct io_uring *ring_take(struct posix_store *s)
{
	struct io_uring *ring = NULL;

	mutex_lock(&s->lock);
	if (s->n_idle) {
		ring = s->idle[--s->n_idle];
	} else if (!s->no_uring && s->n_rings < RINGS_MAX && (ring = calloc(1, sizeof(*ring)))) {
		if (io_uring_queue_init(RING_DEPTH, ring, 0) == 0) {
			s->n_rings++;
		} else {
			free(ring);
			ring = NULL;
			s->no_uring = s->n_rings == 0; /* a later ring may fail for want of descriptors only */
		}
	}
	mutex_unlock(&s->lock);
	return ring;
}

static void ring_free(struct io_uring *ring)
{
	io_uring_queue_exit(ring);
	free(ring);
}

static void ring_give(struct posix_store *s, struct io_uring *ring)
{
	mutex_lock(&s->lock);
	s->idle[s->n_idle++] = ring;
	mutex_unlock(&s->lock);
}

static void ring_break(struct posix_store *s, struct io_uring *ring)
{
	ring_free(ring);
	mutex_lock(&s->lock);
	s->n_rings--;
	s->no_uring = true;
	mutex_unlock(&s->lock);
}

/* What came back of one write: a short one, or one the kernel gave back, is finished the plain way. */
static int ring_finish(struct disk *disk, const struct disk_write *w, int res)
{
	if (res == -EINTR || res == -EAGAIN || res == -EINVAL || res == -EOPNOTSUPP)
		res = 0;
	if (res < 0 || (size_t)res == w->len)
		return res < 0 ? res : 0;
	return disk_write(disk, (const char *)w->p + res, w->len - (size_t)res, w->off + (uint64_t)res, 0);
}

static void ring_fill(struct io_uring *ring, const struct posix_disk *d, const struct disk_write *w, size_t n, size_t *next)
{
	struct io_uring_sqe *sqe;

	while (*next < n && (sqe = io_uring_get_sqe(ring))) {
		io_uring_prep_write(sqe, d->fd, w[*next].p, (unsigned)w[*next].len, w[*next].off);
		io_uring_sqe_set_data64(sqe, *next);
		(*next)++;
	}
}

/*
 * Keeps up to RING_DEPTH writes in flight until all are done.  Returns only when none is: the kernel reads the caller's
 * memory until then.  *ret_broken: the ring itself failed and the result says nothing about the writes.
 */
static int ring_write(struct io_uring *ring, struct disk *disk, const struct disk_write *w, size_t n, bool *ret_broken)
{
	size_t next = 0, in_flight = 0;
	int result = 0;

	do {
		if (!*ret_broken && result == 0) {
			size_t limit = next + (RING_DEPTH - in_flight);
			ring_fill(ring, to_disk(disk), w, limit < n ? limit : n, &next);
		}
		int r = *ret_broken ? 0 : io_uring_submit(ring);
		if (r > 0)
			in_flight += (size_t)r;
		else if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY)
			*ret_broken = true;
		if (!in_flight)
			continue;
		struct io_uring_cqe *cqe;
		r = io_uring_wait_cqe(ring, &cqe);
		if (r < 0)
			continue; /* EINTR; there is nothing else to do than to wait for the kernel to let go */
		while (r == 0) {
			int done = ring_finish(disk, &w[io_uring_cqe_get_data64(cqe)], cqe->res);
			if (done < 0 && result == 0)
				result = done;
			io_uring_cqe_seen(ring, cqe);
			in_flight--;
			r = io_uring_peek_cqe(ring, &cqe);
		}
	} while (in_flight || (!*ret_broken && (io_uring_sq_ready(ring) || (result == 0 && next < n))));
	return result;
}

static int posix_write_many(struct disk *disk, const struct disk_write *w, size_t n)
{
	struct posix_disk *d = to_disk(disk);
	bool broken = false;

	if (d->read_only)
		return -EROFS;
	for (size_t i = 0; i < n; i++)
		if (!in_bounds(disk, w[i].len, w[i].off) || w[i].len > INT_MAX)
			return -EINVAL;
	struct io_uring *ring = n > 1 ? ring_take(d->store) : NULL;
	if (!ring)
		return write_each(disk, w, n);
	int r = ring_write(ring, disk, w, n, &broken);
	if (!broken) {
		ring_give(d->store, ring);
		return r;
	}
	ring_break(d->store, ring);
	return write_each(disk, w, n); /* writing the same bytes twice is harmless */
}

static void rings_close(struct posix_store *s) NO_THREAD_SAFETY
{
	while (s->n_idle)
		ring_free(s->idle[--s->n_idle]);
}
#else
static int posix_write_many(struct disk *disk, const struct disk_write *w, size_t n)
{
	return write_each(disk, w, n);
}
static void rings_close(struct posix_store *s)
{
	(void)s;
}
#endif

static int posix_flush(struct disk *disk)
{
	return fdatasync(to_disk(disk)->fd) < 0 ? (errno == EINTR ? -EIO : -errno) : 0;
}

static int posix_map(struct disk *disk, size_t len, void **ret_p)
{
	struct posix_disk *d = to_disk(disk);

	if (d->map)
		return -EBUSY;
	if (!len || len > disk->size)
		return -EINVAL;
	void *p = mmap(NULL, len, d->read_only ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	/* Every page now: a first touch later, of a store that meanwhile fails, would be SIGBUS instead of an error. */
	if (madvise(p, len, d->read_only ? MADV_POPULATE_READ : MADV_POPULATE_WRITE) < 0 && errno != EINVAL) {
		int r = -errno; /* EINVAL: a kernel before 5.14 */

		munmap(p, len);
		return r;
	}
	d->map = p;
	d->map_len = len;
	*ret_p = p;
	return 0;
}

static void posix_disk_close(struct disk *disk)
{
	struct posix_disk *d = to_disk(disk);

	if (d->map)
		munmap(d->map, d->map_len);
	close(d->fd);
	free(d);
}

static const struct disk_ops disk_posix_ops = {
    .read = posix_read,
    .write = posix_write,
    .write_many = posix_write_many,
    .flush = posix_flush,
    .map = posix_map,
    .close = posix_disk_close,
};

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
			atomic_store(&d->direct, set_direct(d->fd, true) == 0);
		r = fill_zeros(d);
		if (r < 0)
			return r;
		if (!(flags & DISK_DIRECT) && atomic_exchange(&d->direct, false)) {
			r = set_direct(d->fd, false);
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
	atomic_init(&d->direct, (flags & DISK_DIRECT) && set_direct(fd, true) == 0);
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

	rings_close(s);
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
