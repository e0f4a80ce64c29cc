/*
 * arena_world.h: an arena for tests, over a host directory behind a table that says how much is free, counts flushes and fails on
 * demand.
 *
 * Ownership: the fixture owns its arena, store and buffers.  Threads: any may change what the store is told.
 */
#pragma once

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "fs/store/arena.h"
#include "tests/unit/tempdir.h"

#define CHUNK 64u

/* --- a store that can be told what to do --- */

struct odd_store {
	struct store base;
	struct store *real;
	_Atomic uint64_t free_bytes;
	atomic_int fail_flush, fail_write, fail_create; /* -errno */
	atomic_int flushes, creates, slow_us;
};
struct odd_disk {
	struct disk base;
	struct disk *real;
	struct odd_store *s;
};

static inline struct odd_disk *odd(struct disk *d)
{
	return container_of(d, struct odd_disk, base);
}
static inline int odd_read(struct disk *d, void *p, size_t len, uint64_t off)
{
	return disk_read(odd(d)->real, p, len, off);
}

static inline int odd_write(struct disk *d, const struct iovec *iov, int n_iov, uint64_t off, unsigned flags)
{
	int e = atomic_load(&odd(d)->s->fail_write);

	return e ? e : disk_writev(odd(d)->real, iov, n_iov, off, flags);
}

static inline int odd_write_many(struct disk *d, const struct disk_write *w, size_t n)
{
	int e = atomic_load(&odd(d)->s->fail_write);

	return e ? e : disk_write_many(odd(d)->real, w, n);
}

static inline int odd_flush(struct disk *d)
{
	int e = atomic_load(&odd(d)->s->fail_flush);

	usleep((useconds_t)atomic_load(&odd(d)->s->slow_us));
	atomic_fetch_add(&odd(d)->s->flushes, 1);
	return e ? e : disk_flush(odd(d)->real);
}

static inline int odd_map(struct disk *d, size_t len, void **ret_p)
{
	return disk_map(odd(d)->real, len, ret_p);
}

static inline void odd_disk_close(struct disk *d)
{
	disk_close(odd(d)->real);
	free(odd(d));
}

static const struct disk_ops odd_disk_ops = {odd_read, odd_write, odd_write_many, odd_flush, odd_map, odd_disk_close};

static inline int odd_open(struct store *s, const char *name, unsigned flags, uint64_t size, struct disk **ret_disk)
{
	struct odd_store *o = container_of(s, struct odd_store, base);
	struct disk *real;
	int e = flags & DISK_CREATE ? atomic_load(&o->fail_create) : 0;

	if (e == 0)
		e = store_open(o->real, name, flags, size, &real);
	if (e < 0)
		return e;
	if (flags & DISK_CREATE) {
		atomic_fetch_add(&o->creates, 1);
		usleep((useconds_t)atomic_load(&o->slow_us));
		atomic_fetch_sub(&o->free_bytes, size);
	}
	struct odd_disk *d = calloc(1, sizeof(*d));
	*d = (struct odd_disk){.base = {&odd_disk_ops, real->size}, .real = real, .s = o};
	*ret_disk = &d->base;
	return 0;
}

static inline int odd_remove(struct store *s, const char *name)
{
	return store_remove(container_of(s, struct odd_store, base)->real, name);
}
static inline int odd_sync_names(struct store *s)
{
	return store_sync_names(container_of(s, struct odd_store, base)->real);
}

static inline int odd_space(struct store *s, uint64_t *ret_free, uint64_t *ret_total)
{
	*ret_free = atomic_load(&container_of(s, struct odd_store, base)->free_bytes);
	*ret_total = 100 * GIB;
	return 0;
}

static inline void odd_close(struct store *s)
{
	store_close(container_of(s, struct odd_store, base)->real);
}

static const struct store_ops odd_ops = {odd_open, odd_remove, odd_sync_names, odd_space, odd_close};

/* --- fixture --- */

struct fixture {
	char dir[256];
	struct odd_store store;
	struct arena_config c;
	struct arena *a;
	uint8_t *p, *q; /* 1 MiB each, aligned */
};

static inline int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	tempdir_make(f->dir);
	f->store.base.ops = &odd_ops;
	atomic_store(&f->store.free_bytes, 10 * GIB);
	assert_int_equal(store_posix_open(f->dir, false, &f->store.real), 0);
	f->c =
	    (struct arena_config){.store = &f->store.base, .chunk_blocks = CHUNK, .max_blocks = UINT64_MAX, .no_threads = true};
	assert_int_equal(posix_memalign((void **)&f->p, BLOCK_SIZE, MIB), 0);
	assert_int_equal(posix_memalign((void **)&f->q, BLOCK_SIZE, MIB), 0);
	for (size_t i = 0; i < MIB; i++)
		f->p[i] = (uint8_t)(i * 2654435761u >> 11);
	assert_int_equal(arena_open(&f->c, &f->a), 0);
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	arena_close(f->a);
	store_close(&f->store.base);
	tempdir_remove(f->dir);
	free(f->p);
	free(f->q);
	free(f);
	return 0;
}

static inline struct arena_status status_of(struct fixture *f)
{
	struct arena_status s;

	arena_get_status(f->a, &s);
	return s;
}

static inline void reopen(struct fixture *f, uint32_t n_known)
{
	f->a = arena_close(f->a);
	f->c.n_chunks_known = n_known;
	assert_int_equal(arena_open(&f->c, &f->a), 0);
}

static inline struct run one(uint64_t block, uint32_t n)
{
	return (struct run){pointer_make(1, block), n};
}

static inline struct run alloc_one(struct fixture *f, uint64_t n)
{
	struct run r;
	uint32_t n_runs;

	assert_int_equal(arena_alloc(f->a, n, 0, false, &r, 1, &n_runs), 0);
	assert_int_equal(n_runs, 1);
	assert_int_equal(r.n_blocks, n);
	return r;
}

static inline int alloc_error(struct fixture *f, uint64_t n, bool from_reserved)
{
	struct run r[64];
	uint32_t n_runs;

	return arena_alloc(f->a, n, 0, from_reserved, r, 64, &n_runs);
}
