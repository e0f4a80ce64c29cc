/*
 * disk_posix_impl.h: a directory of the host as a store (disk_posix.c), and a file in it as a disk (disk_file.c).
 */
#pragma once

#include "base/disk.h"

#include <limits.h>
#include <stdatomic.h>
#ifdef HAVE_URING
#include <liburing.h>
#endif

#include "base/lock.h"

#define SUBDIRS_MAX 16
#define RINGS_MAX   4
#define RING_DEPTH  32u /* writes in flight at once */

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

static inline struct posix_store *to_store(struct store *s)
{
	return container_of(s, struct posix_store, base);
}
static inline struct posix_disk *to_disk(struct disk *d)
{
	return container_of(d, struct posix_disk, base);
}

/* ---- disk_file.c ---- */

extern const struct disk_ops disk_posix_ops;
/* O_DIRECT on or off; -EINVAL where the host has none. */
MUST_CHECK int posix_set_direct(int fd, bool on);
/* disk_ops.write_many: at queue depth where the host has io_uring. */
MUST_CHECK int posix_write_many(struct disk *disk, const struct disk_write *w, size_t n);
/* Gives back what writing many has kept; nothing is in flight. */
void posix_rings_close(struct posix_store *s);
