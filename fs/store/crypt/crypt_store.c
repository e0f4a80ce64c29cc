/*
 * crypt_store.c: files that are encrypted on their way down and decrypted on their way up.
 *
 * A read is decrypted where it was read to.  A write is encrypted into a room, of which there are few: who finds none waits for
 * one that writes.  A call that has one and would like more takes what is free and never waits, so nobody waits for two.
 */
#include "fs/store/crypt/crypt_store.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/store/crypt/rooms.h"
#include "fs/store/crypt/signed_disk.h"
#include "fs/store/crypt/xts.h"
#include "fs/store/super.h"

#define ROUND_ROOMS  4u   /* of one write_many: its queue depth in rooms */
#define ROUND_WRITES 256u /* of one write_many handed down at once */

_Static_assert(XTS_SECTOR == DISK_BLOCK, "whatever is a write to a disk is whole sectors");

struct crypt_store {
	struct store base;
	struct store *inner, *memory;
	struct data_key key;
	uint64_t mapped_bytes;
	struct xts_cache *xts;
	struct rooms *rooms;
};
struct crypt_disk {
	struct disk base;
	struct crypt_store *store;
	struct disk *inner;
	uint8_t key[XTS_KEY_BYTES];
};

static struct crypt_store *to_crypt(struct store *s)
{
	return container_of(s, struct crypt_store, base);
}

static struct crypt_disk *to_disk(struct disk *d)
{
	return container_of(d, struct crypt_disk, base);
}

/* ---- disks ---- */

static bool in_sectors(const struct disk *d, uint64_t len, uint64_t off)
{
	return len % XTS_SECTOR == 0 && off % XTS_SECTOR == 0 && off <= d->size && len <= d->size - off;
}

static int crypt_read(struct disk *disk, void *p, size_t len, uint64_t off)
{
	struct crypt_disk *d = to_disk(disk);

	if (!in_sectors(disk, len, off))
		return -EINVAL;
	int r = disk_read(d->inner, p, len, off);
	return r < 0 ? r : xts_decrypt(d->store->xts, d->key, off / XTS_SECTOR, p, p, len / XTS_SECTOR);
}

/* Where reading stands in an array of iovecs. */
struct source {
	const struct iovec *iov;
	int n;
	size_t at; /* in the first */
};

static void gather(struct source *from, uint8_t *to, size_t len)
{
	while (len) {
		assert(from->n > 0);
		size_t n = min_u64(from->iov->iov_len - from->at, len);
		if (n)
			memcpy(to, (const uint8_t *)from->iov->iov_base + from->at, n);
		to += n;
		len -= n;
		from->at += n;
		if (from->at == from->iov->iov_len) {
			from->iov++;
			from->n--;
			from->at = 0;
		}
	}
}

static int write_pieces(struct crypt_disk *d, uint8_t *room, struct source *from, uint64_t len, uint64_t off, unsigned flags)
{
	bool whole = len <= ROOM_BYTES;
	int r = 0;

	while (r == 0 && len) {
		size_t n = min_u64(len, ROOM_BYTES);

		gather(from, room, n);
		r = xts_encrypt(d->store->xts, d->key, off / XTS_SECTOR, room, room, n / XTS_SECTOR);
		if (r == 0)
			r = disk_write(d->inner, room, n, off, whole ? flags : flags & ~(unsigned)DISK_DURABLE);
		off += n;
		len -= n;
	}
	return r == 0 && !whole && (flags & DISK_DURABLE) ? disk_flush(d->inner) : r;
}

static int crypt_write(struct disk *disk, const struct iovec *iov, int n_iov, uint64_t off, unsigned flags)
{
	struct crypt_disk *d = to_disk(disk);
	struct source from = {.iov = iov, .n = n_iov};
	uint64_t len = 0;

	for (int i = 0; i < n_iov; i++)
		len += iov[i].iov_len;
	if (!in_sectors(disk, len, off))
		return -EINVAL;
	uint8_t *room = room_take(d->store->rooms, true);
	if (!room)
		return -ENOMEM;
	int r = write_pieces(d, room, &from, len, off, flags);
	room_give(d->store->rooms, room);
	return r;
}

/* One round of write_many: what fits into the rooms at hand. */
struct round {
	struct crypt_disk *d;
	uint8_t *room[ROUND_ROOMS];
	unsigned n_rooms;
	struct disk_write w[ROUND_WRITES];
	size_t n;
};

static bool round_begin(struct round *round, uint64_t len)
{
	const uint64_t want = div_round_up(len, ROOM_BYTES);

	while (round->n_rooms < ROUND_ROOMS && round->n_rooms < max_u64(want, 1)) {
		uint8_t *room = room_take(round->d->store->rooms, round->n_rooms == 0);

		if (!room)
			break;
		round->room[round->n_rooms++] = room;
	}
	return round->n_rooms > 0;
}

/* Fills the rooms from w[*at] on, of which *done bytes went down before; moves both on. */
static int round_fill(struct round *round, const struct disk_write *w, size_t n, size_t *at, size_t *done)
{
	unsigned room = 0;
	size_t used = 0;

	round->n = 0;
	while (*at < n && round->n < ROUND_WRITES && room < round->n_rooms) {
		size_t len = min_u64(w[*at].len - *done, ROOM_BYTES - used);
		uint64_t off = w[*at].off + *done;
		int r = xts_encrypt(round->d->store->xts, round->d->key, off / XTS_SECTOR, (const uint8_t *)w[*at].p + *done,
				    round->room[room] + used, len / XTS_SECTOR);
		if (r < 0)
			return r;
		if (len)
			round->w[round->n++] = (struct disk_write){.p = round->room[room] + used, .len = len, .off = off};
		used += len;
		*done += len;
		if (*done == w[*at].len) {
			++*at;
			*done = 0;
		}
		if (used == ROOM_BYTES) {
			room++;
			used = 0;
		}
	}
	return 0;
}

static int crypt_write_many(struct disk *disk, const struct disk_write *w, size_t n)
{
	struct round round = {.d = to_disk(disk)};
	size_t at = 0, done = 0;
	uint64_t len = 0;
	int r = 0;

	for (size_t i = 0; i < n; i++) {
		if (!in_sectors(disk, w[i].len, w[i].off))
			return -EINVAL;
		len += w[i].len;
	}
	if (!round_begin(&round, len))
		return -ENOMEM;
	while (r == 0 && at < n) {
		r = round_fill(&round, w, n, &at, &done);
		if (r == 0 && round.n)
			r = disk_write_many(round.d->inner, round.w, round.n);
	}
	while (round.n_rooms)
		room_give(round.d->store->rooms, round.room[--round.n_rooms]);
	return r;
}

static int crypt_flush(struct disk *disk)
{
	return disk_flush(to_disk(disk)->inner);
}

static int crypt_map(struct disk *disk, size_t len, void **ret_p)
{
	(void)disk;
	(void)len;
	(void)ret_p;
	return -ENOTSUP;
}

static void crypt_disk_close(struct disk *disk)
{
	struct crypt_disk *d = to_disk(disk);

	disk_close(d->inner);
	key_wipe(d->key, sizeof(d->key));
	free(d);
}

static const struct disk_ops crypt_disk_ops = {
    .read = crypt_read,
    .write = crypt_write,
    .write_many = crypt_write_many,
    .flush = crypt_flush,
    .map = crypt_map,
    .close = crypt_disk_close,
};

/* ---- the store ---- */

static bool begins_with(const char *name, const char *prefix)
{
	return strncmp(name, prefix, strlen(prefix)) == 0;
}

static bool is_plain(const char *name)
{
	return strcmp(name, "super") == 0 || strcmp(name, "keys") == 0 || begins_with(name, "ballast");
}

static bool is_mapped(const char *name)
{
	return begins_with(name, "journal/staging.");
}

static int make_mapped(struct store *memory, const char *name, uint64_t size, struct disk **ret)
{
	int r = store_remove(memory, name);

	if (r < 0 && r != -ENOENT)
		return r;
	return store_open(memory, name, DISK_CREATE | DISK_ZERO, size, ret);
}

/* One that is missing or whose creation was cut off says nothing. */
static int open_mapped(struct crypt_store *s, const char *name, unsigned flags, uint64_t size, struct disk **ret)
{
	struct store *memory = s->memory ? s->memory : s->inner;

	if (flags & DISK_CREATE)
		return make_mapped(memory, name, size, ret);
	int r = store_open(memory, name, flags, 0, ret);
	if (r == 0 && (*ret)->size != s->mapped_bytes) {
		*ret = disk_close(*ret);
		r = -ENOENT;
	}
	return r == -ENOENT ? make_mapped(memory, name, s->mapped_bytes, ret) : r;
}

/* Of a volume in aead mode the blocks of files are signed, each by itself; the journal signs its batches. */
static bool is_signed(const struct crypt_store *s, const char *name)
{
	return s->key.mode == ENCRYPTION_AEAD && begins_with(name, "arena.");
}

static int crypt_open(struct store *store, const char *name, unsigned flags, uint64_t size, struct disk **ret)
{
	struct crypt_store *s = to_crypt(store);

	if (is_plain(name))
		return store_open(s->inner, name, flags, size, ret);
	if (is_mapped(name))
		return open_mapped(s, name, flags, size, ret);
	if (size % XTS_SECTOR)
		return -EINVAL;
	if (is_signed(s, name))
		return signed_disk_open(s->inner, s->rooms, &s->key, name, flags, size, ret);
	struct crypt_disk *d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->store = s;
	int r = data_key_derive(&s->key, "xts ", name, d->key, sizeof(d->key));
	if (r == 0)
		r = store_open(s->inner, name, flags, size, &d->inner);
	if (r < 0) {
		key_wipe(d->key, sizeof(d->key));
		free(d);
		return r;
	}
	d->base = (struct disk){.ops = &crypt_disk_ops, .size = d->inner->size};
	*ret = &d->base;
	return 0;
}

static int crypt_remove(struct store *store, const char *name)
{
	struct crypt_store *s = to_crypt(store);

	if (is_signed(s, name))
		return signed_disk_remove(s->inner, name);
	return store_remove(is_mapped(name) && s->memory ? s->memory : s->inner, name);
}

static int crypt_sync_names(struct store *store)
{
	return store_sync_names(to_crypt(store)->inner);
}

static int crypt_space(struct store *store, uint64_t *ret_free, uint64_t *ret_total)
{
	struct crypt_store *s = to_crypt(store);
	int r = store_space(s->inner, ret_free, ret_total);

	if (r == 0 && s->key.mode == ENCRYPTION_AEAD) { /* what a chunk takes beside itself is not there for others */
		*ret_free -= *ret_free / SIGNED_SHARE;
		*ret_total -= *ret_total / SIGNED_SHARE;
	}
	return r;
}

/* A volume that was left clean, or that was never made, needs nothing from them. */
static void drop_mapped(struct crypt_store *s)
{
	static const char *const names[] = {"journal/staging.0", "journal/staging.1"};
	struct disk *d;
	struct super super;
	int r = s->memory ? store_open(s->inner, "super", DISK_READONLY | DISK_DIRECT, 0, &d) : -EINVAL;

	if (r == 0) {
		disk_close(d);
		r = super_read(s->inner, &super);
		r = r == 0 && super.clean ? -ENOENT : r;
	}
	for (size_t i = 0; r == -ENOENT && i < ARRAY_SIZE(names); i++)
		if (store_remove(s->memory, names[i]) < 0)
			log_debug("%s was not there to be removed", names[i]);
}

static void crypt_close(struct store *store)
{
	struct crypt_store *s = to_crypt(store);

	drop_mapped(s);
	rooms_free(s->rooms);
	xts_cache_free(s->xts);
	data_key_wipe(&s->key);
	store_close(s->memory);
	store_close(s->inner);
	free(s);
}

static const struct store_ops crypt_store_ops = {
    .open = crypt_open,
    .remove = crypt_remove,
    .sync_names = crypt_sync_names,
    .space = crypt_space,
    .close = crypt_close,
};

int crypt_store_new(struct store *inner, struct store *memory, uint64_t mapped_bytes, const struct data_key *key,
		    struct store **ret)
{
	struct crypt_store *s = calloc(1, sizeof(*s));
	int r = s ? xts_cache_new(&s->xts) : -ENOMEM;

	if (r == 0)
		r = rooms_new(&s->rooms);
	if (r < 0) {
		if (s)
			xts_cache_free(s->xts);
		free(s);
		return r;
	}
	s->base.ops = &crypt_store_ops;
	s->inner = inner;
	s->memory = memory;
	s->key = *key;
	s->mapped_bytes = mapped_bytes;
	*ret = &s->base;
	return 0;
}

int crypt_store_decrypt(const struct data_key *key, const char *name, void *p, size_t len)
{
	struct xts_cache *xts;
	uint8_t file[XTS_KEY_BYTES];

	if (len % XTS_SECTOR)
		return -EINVAL;
	int r = xts_cache_new(&xts);
	if (r < 0)
		return r;
	r = data_key_derive(key, "xts ", name, file, sizeof(file));
	if (r == 0)
		r = xts_decrypt(xts, file, 0, p, p, len / XTS_SECTOR);
	key_wipe(file, sizeof(file));
	xts_cache_free(xts);
	return r;
}
