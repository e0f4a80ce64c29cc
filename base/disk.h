/*
 * disk.h: the store as two small tables of functions: a directory (struct store) of random-access files (struct disk).
 *
 * Everything clawfs keeps outside the index goes through here, so the fault injector and the simulated disk of the
 * tests are one more implementation each.
 *
 * Durability: what is trusted, and nothing else: write() without DISK_DURABLE may be lost, reordered or torn at 512
 * bytes until flush() of the same disk returned 0; a file's name may be lost until sync_names() returned 0.  A failed
 * flush may drop the data and succeed later: callers never retry it (guarantee G6).
 * Ownership: open() gives the caller a disk to close; a store outlives its disks.
 * Threads: every function may be called from any thread at once; overlapping writes have no order.
 * Errors: 0 or -errno.  A short read at the end of a file is -EIO: sizes are fixed at creation.
 * Alignment: offsets, lengths and memory are multiples of DISK_BLOCK for disks opened with DISK_DIRECT.
 */
#pragma once

#include <sys/uio.h>

#include "base/util.h"

#define DISK_BLOCK 4096u

enum {
	DISK_CREATE = 1 << 0,   /* make it, `size` bytes allocated; -EEXIST when the name is taken */
	DISK_ZERO = 1 << 1,     /* with CREATE: write zeros over it and flush, so that no later write allocates */
	DISK_DIRECT = 1 << 2,   /* bypass the host's page cache where the host can */
	DISK_READONLY = 1 << 3,
};
enum { DISK_DURABLE = 1 << 0 }; /* write flag: return only once on stable storage (RWF_DSYNC) */

struct disk;
struct disk_write {
	const void *p;
	size_t len;
	uint64_t off;
};

struct disk_ops {
	int (*read)(struct disk *d, void *p, size_t len, uint64_t off);
	int (*write)(struct disk *d, const struct iovec *iov, int n_iov, uint64_t off, unsigned flags);
	/* All of `w`, in any order and at once (queue depth 16 and more); returns the first error. */
	int (*write_many)(struct disk *d, const struct disk_write *w, size_t n);
	int (*flush)(struct disk *d);
	/* Shared memory over the file: survives the death of the process, not of the host.  Unmapped by close(). */
	int (*map)(struct disk *d, size_t len, void **ret_p);
	void (*close)(struct disk *d);
};
struct disk {
	const struct disk_ops *ops;
	uint64_t size; /* bytes, fixed */
};

struct store;
struct store_ops {
	/* `name` is relative, at most one directory deep ("journal/seg.0003"); the directory is made on CREATE. */
	int (*open)(struct store *s, const char *name, unsigned flags, uint64_t size, struct disk **ret_disk);
	int (*remove)(struct store *s, const char *name); /* -ENOENT when absent */
	int (*sync_names)(struct store *s);
	/* Bytes free and in all on the host filesystem under the store. */
	int (*space)(struct store *s, uint64_t *ret_free, uint64_t *ret_total);
	void (*close)(struct store *s);
};
struct store {
	const struct store_ops *ops;
};

static inline MUST_CHECK int disk_read(struct disk *d, void *p, size_t len, uint64_t off) { return d->ops->read(d, p, len, off); }
static inline MUST_CHECK int disk_writev(struct disk *d, const struct iovec *iov, int n, uint64_t off, unsigned flags)
{
	return d->ops->write(d, iov, n, off, flags);
}
static inline MUST_CHECK int disk_write(struct disk *d, const void *p, size_t len, uint64_t off, unsigned flags)
{
	const struct iovec iov = {.iov_base = (void *)(uintptr_t)p, .iov_len = len};
	return d->ops->write(d, &iov, 1, off, flags);
}
static inline MUST_CHECK int disk_write_many(struct disk *d, const struct disk_write *w, size_t n) { return d->ops->write_many(d, w, n); }
static inline MUST_CHECK int disk_flush(struct disk *d) { return d->ops->flush(d); }
static inline MUST_CHECK int disk_map(struct disk *d, size_t len, void **ret_p) { return d->ops->map(d, len, ret_p); }
static inline struct disk *disk_close(struct disk *d)
{
	if (d)
		d->ops->close(d);
	return NULL;
}

static inline MUST_CHECK int store_open(struct store *s, const char *name, unsigned flags, uint64_t size, struct disk **ret)
{
	return s->ops->open(s, name, flags, size, ret);
}
static inline MUST_CHECK int store_remove(struct store *s, const char *name) { return s->ops->remove(s, name); }
static inline MUST_CHECK int store_sync_names(struct store *s) { return s->ops->sync_names(s); }
static inline MUST_CHECK int store_space(struct store *s, uint64_t *ret_free, uint64_t *ret_total) { return s->ops->space(s, ret_free, ret_total); }
static inline struct store *store_close(struct store *s)
{
	if (s)
		s->ops->close(s);
	return NULL;
}

/*
 * The host directory `path` as a store (disk_posix.c).  Refuses symlinks (O_NOFOLLOW) below `path`; files are 0600,
 * directories 0700.  Takes an exclusive flock on `path` for as long as the store is open: -EBUSY when another process
 * (or this one) has it.  With `create`, makes `path` when absent.
 */
MUST_CHECK int store_posix_open(const char *path, bool create, struct store **ret_store);
