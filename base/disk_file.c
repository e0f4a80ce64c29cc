/*
 * disk_file.c: disk.h over one regular file of fixed size: reads, writes, many writes at once, flushes.
 *
 * What the host may refuse, and what happens then:
 *   O_DIRECT (EINVAL at open or at the first I/O)  -> the page cache, for this disk
 *   RWF_DSYNC (EOPNOTSUPP)                         -> write, then fdatasync, for this store
 *   io_uring (EPERM, ENOSYS, ENOMEM)               -> one write after the other
 * Each answer is remembered.  Short transfers are continued, EINTR is retried, every other error is returned: EFBIG of
 * RLIMIT_FSIZE too (SIGXFSZ is for the program to ignore).
 */
#include "base/disk_posix_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#define IOV_BATCH 64 /* iovecs a system call: the copy that short writes advance lives on the stack */

int posix_set_direct(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	return fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) < 0 ? -errno : 0;
}

/* An EINVAL from aligned I/O on an O_DIRECT file is the host refusing late: true when worth another try, buffered. */
static bool retry_buffered(struct posix_disk *d, int error)
{
	return error == EINVAL && atomic_exchange(&d->direct, false) && posix_set_direct(d->fd, false) == 0;
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

int posix_write_many(struct disk *disk, const struct disk_write *w, size_t n)
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

void posix_rings_close(struct posix_store *s) NO_THREAD_SAFETY
{
	while (s->n_idle)
		ring_free(s->idle[--s->n_idle]);
}
#else
int posix_write_many(struct disk *disk, const struct disk_write *w, size_t n)
{
	return write_each(disk, w, n);
}
void posix_rings_close(struct posix_store *s)
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

const struct disk_ops disk_posix_ops = {
    .read = posix_read,
    .write = posix_write,
    .write_many = posix_write_many,
    .flush = posix_flush,
    .map = posix_map,
    .close = posix_disk_close,
};
