/*
 * memstore.h: a store in memory for unit tests: files as flat memory that the test may look at and damage.
 *
 * Every write counts; the n-th can be made to fail, and a hook can see each before it happens.
 * Threads: as disk.h.  tests/lib/simstore.h is the one that knows what a crash leaves; this one forgets nothing.
 */
#pragma once

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/disk.h"

#define MEMSTORE_FILES 32
#define MEMSTORE_TOTAL (100 * GIB)

struct memfile {
	char name[64];
	uint8_t *p; /* page-aligned */
	uint64_t size;
};
struct memstore {
	struct store base;
	struct memfile files[MEMSTORE_FILES];
	unsigned n_files;
	atomic_ulong writes, flushes, durable_writes;
	/* that write (1 = the first) and all later ones fail; 0: none */
	unsigned long fail_write_from, fail_flush_from;
	int fail_error;
	uint64_t host_free; /* what the host says it has free; MEMSTORE_TOTAL at first */
	/* reads of these bytes of a file fail */
	const uint8_t *bad_sector;
	void (*on_write)(void *ctx, const char *name, uint64_t off, unsigned flags);
	void (*on_read)(void *ctx, const char *name, uint64_t off, size_t len);
	void *ctx;
};
struct memdisk {
	struct disk base;
	struct memstore *store;
	struct memfile *file;
};

static inline int memdisk_read(struct disk *d, void *p, size_t len, uint64_t off)
{
	const struct memdisk *m = (const struct memdisk *)d;
	const uint8_t *from = m->file->p + off;

	if (m->store->on_read)
		m->store->on_read(m->store->ctx, m->file->name, off, len);
	if (off + len > m->file->size || (m->store->bad_sector >= from && m->store->bad_sector < from + len))
		return -EIO;
	memcpy(p, from, len);
	return 0;
}

static inline int memdisk_write(struct disk *d, const struct iovec *iov, int n, uint64_t off, unsigned flags)
{
	const struct memdisk *m = (const struct memdisk *)d;
	unsigned long nr = atomic_fetch_add(&m->store->writes, 1) + 1;

	if (m->store->on_write)
		m->store->on_write(m->store->ctx, m->file->name, off, flags);
	if (m->store->fail_write_from && nr >= m->store->fail_write_from)
		return m->store->fail_error;
	for (int i = 0; i < n; i++) {
		assert((uintptr_t)iov[i].iov_base % DISK_BLOCK == 0 && iov[i].iov_len % DISK_BLOCK == 0 && iov[i].iov_len > 0);
		assert(off % DISK_BLOCK == 0 && off + iov[i].iov_len <= m->file->size);
		memcpy(m->file->p + off, iov[i].iov_base, iov[i].iov_len);
		off += iov[i].iov_len;
	}
	if (flags & DISK_DURABLE)
		atomic_fetch_add(&m->store->durable_writes, 1);
	return 0;
}

static inline int memdisk_write_many(struct disk *d, const struct disk_write *w, size_t n)
{
	int r = 0;

	for (size_t i = 0; !r && i < n; i++)
		r = disk_write(d, w[i].p, w[i].len, w[i].off, 0);
	return r;
}

static inline int memdisk_flush(struct disk *d)
{
	struct memstore *s = ((const struct memdisk *)d)->store;
	unsigned long nr = atomic_fetch_add(&s->flushes, 1) + 1;

	return s->fail_flush_from && nr >= s->fail_flush_from ? s->fail_error : 0;
}

static inline int memdisk_map(struct disk *d, size_t len, void **ret_p)
{
	const struct memdisk *m = (const struct memdisk *)d;

	if (len > m->file->size)
		return -EINVAL;
	*ret_p = m->file->p;
	return 0;
}

static inline void memdisk_close(struct disk *d)
{
	free(d);
}

static const struct disk_ops memdisk_ops = {
    .read = memdisk_read,
    .write = memdisk_write,
    .write_many = memdisk_write_many,
    .flush = memdisk_flush,
    .map = memdisk_map,
    .close = memdisk_close,
};

static inline struct memfile *memstore_file(struct memstore *s, const char *name)
{
	for (unsigned i = 0; i < s->n_files; i++)
		if (strcmp(s->files[i].name, name) == 0)
			return &s->files[i];
	return NULL;
}

static inline int memstore_op_open(struct store *base, const char *name, unsigned flags, uint64_t size, struct disk **ret)
{
	struct memstore *s = (struct memstore *)base;
	struct memfile *f = memstore_file(s, name);

	if (flags & DISK_CREATE) {
		if (f)
			return -EEXIST;
		assert(s->n_files < MEMSTORE_FILES);
		f = &s->files[s->n_files++];
		snprintf(f->name, sizeof(f->name), "%s", name);
		f->size = size;
		f->p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		assert(f->p != MAP_FAILED);
	}
	if (!f)
		return -ENOENT;
	struct memdisk *m = calloc(1, sizeof(*m));
	assert(m);
	*m = (struct memdisk){.base = {.ops = &memdisk_ops, .size = f->size}, .store = s, .file = f};
	*ret = &m->base;
	return 0;
}

static inline int memstore_op_remove(struct store *base, const char *name)
{
	struct memstore *s = (struct memstore *)base;
	struct memfile *f = memstore_file(s, name);

	if (!f)
		return -ENOENT;
	munmap(f->p, f->size);
	*f = s->files[--s->n_files];
	return 0;
}

static inline int memstore_op_sync_names(struct store *base)
{
	(void)base;
	return 0;
}

static inline int memstore_op_space(struct store *base, uint64_t *ret_free, uint64_t *ret_total)
{
	*ret_free = ((const struct memstore *)base)->host_free;
	*ret_total = MEMSTORE_TOTAL;
	return 0;
}

static inline void memstore_op_close(struct store *base)
{
	(void)base;
}

static const struct store_ops memstore_ops = {
    .open = memstore_op_open,
    .remove = memstore_op_remove,
    .sync_names = memstore_op_sync_names,
    .space = memstore_op_space,
    .close = memstore_op_close,
};

static inline void memstore_init(struct memstore *s)
{
	*s = (struct memstore){.base = {&memstore_ops}, .fail_error = -EIO, .host_free = MEMSTORE_TOTAL};
}

static inline void memstore_free(struct memstore *s)
{
	while (s->n_files) {
		s->n_files--;
		munmap(s->files[s->n_files].p, s->files[s->n_files].size);
	}
}
