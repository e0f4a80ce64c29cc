/*
 * badstore.h: a store in front of another one, with one block of one file that cannot be read (-EIO) until it is written,
 * or for ever.
 *
 * Threads: one.  Ownership: closing it closes the store behind it.
 */
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/disk.h"

struct bad_place {
	char name[64];
	uint64_t off; /* of a block */
	bool on;
	bool stuck; /* whatever is written to it */
};
struct badstore {
	struct store base;
	struct store *real;
	struct bad_place *bad; /* borrowed; outlives the store */
};
struct baddisk {
	struct disk base;
	struct disk *real;
	struct badstore *store;
	char name[64];
};

static inline struct baddisk *bad_of(struct disk *d)
{
	return container_of(d, struct baddisk, base);
}

static inline bool bad_touches(const struct baddisk *b, uint64_t off, uint64_t len)
{
	const struct bad_place *p = b->store->bad;

	return p->on && strcmp(p->name, b->name) == 0 && off < p->off + DISK_BLOCK && p->off < off + len;
}

static inline int bad_read(struct disk *d, void *p, size_t len, uint64_t off)
{
	struct baddisk *b = bad_of(d);

	return bad_touches(b, off, len) ? -EIO : b->real->ops->read(b->real, p, len, off);
}
static inline int bad_write(struct disk *d, const struct iovec *iov, int n, uint64_t off, unsigned flags)
{
	struct baddisk *b = bad_of(d);
	uint64_t len = 0;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	if (bad_touches(b, off, len))
		b->store->bad->on = b->store->bad->stuck;
	return b->real->ops->write(b->real, iov, n, off, flags);
}
static inline int bad_write_many(struct disk *d, const struct disk_write *w, size_t n)
{
	struct baddisk *b = bad_of(d);

	for (size_t i = 0; i < n; i++)
		if (bad_touches(b, w[i].off, w[i].len))
			b->store->bad->on = b->store->bad->stuck;
	return b->real->ops->write_many(b->real, w, n);
}
static inline int bad_flush(struct disk *d) { return bad_of(d)->real->ops->flush(bad_of(d)->real); }
static inline int bad_map(struct disk *d, size_t len, void **ret_p)
{
	return bad_of(d)->real->ops->map(bad_of(d)->real, len, ret_p);
}
static inline void bad_disk_close(struct disk *d)
{
	disk_close(bad_of(d)->real);
	free(bad_of(d));
}
static const struct disk_ops bad_disk_ops = {bad_read, bad_write, bad_write_many, bad_flush, bad_map, bad_disk_close};

static inline struct badstore *badstore_of(struct store *s) { return container_of(s, struct badstore, base); }
static inline int bad_open(struct store *s, const char *name, unsigned flags, uint64_t size, struct disk **ret)
{
	struct disk *real;
	int r = store_open(badstore_of(s)->real, name, flags, size, &real);

	if (r < 0)
		return r;
	struct baddisk *b = calloc(1, sizeof(*b));
	if (!b)
		abort();
	*b = (struct baddisk){.base = {.ops = &bad_disk_ops, .size = real->size}, .real = real, .store = badstore_of(s)};
	strncpy(b->name, name, sizeof(b->name) - 1);
	*ret = &b->base;
	return 0;
}
static inline int bad_remove(struct store *s, const char *name) { return store_remove(badstore_of(s)->real, name); }
static inline int bad_sync_names(struct store *s) { return store_sync_names(badstore_of(s)->real); }
static inline int bad_space(struct store *s, uint64_t *ret_free, uint64_t *ret_total)
{
	return store_space(badstore_of(s)->real, ret_free, ret_total);
}
static inline void bad_close(struct store *s)
{
	store_close(badstore_of(s)->real);
	free(badstore_of(s));
}
static const struct store_ops bad_store_ops = {bad_open, bad_remove, bad_sync_names, bad_space, bad_close};

/* Takes over `real`. */
static inline struct store *badstore_open(struct store *real, struct bad_place *bad)
{
	struct badstore *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	*s = (struct badstore){.base = {&bad_store_ops}, .real = real, .bad = bad};
	return &s->base;
}
