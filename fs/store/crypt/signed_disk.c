/*
 * signed_disk.c: the two files of a signed one.
 *
 * A page of tags is 4 KiB, of 128 sectors.  Tags are read and written in whole pages, through the host's page cache, which keeps
 * them: they are 1/128 of the data.  A page that changes in part is read, changed and written under a lock; the tags of its other
 * sectors are written again as they were, so no crash can harm them.
 */
#include "fs/store/crypt/signed_disk.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/lock.h"
#include "fs/store/crypt/gcm.h"

#define PAGE_TAGS    (DISK_BLOCK / SIGNED_TAG_BYTES)
#define STRIPES      16u
#define ROUND_WRITES 256u
#define NAME_BYTES   96u

_Static_assert(GCM_SECTOR == DISK_BLOCK && sizeof(struct gcm_tag) == SIGNED_TAG_BYTES, "");
_Static_assert(ROOM_BESIDE == ROOM_SECTORS * sizeof(struct gcm_tag), "");

struct signed_disk {
	struct disk base;
	struct disk *data, *tags;
	struct rooms *rooms;
	struct gcm *gcm;
	struct mutex page_lock[STRIPES]; /* of page number % STRIPES */
};

static struct signed_disk *to_signed(struct disk *d)
{
	return container_of(d, struct signed_disk, base);
}

static bool in_sectors(const struct disk *d, uint64_t len, uint64_t off)
{
	return len % DISK_BLOCK == 0 && off % DISK_BLOCK == 0 && off <= d->size && len <= d->size - off;
}

/* ---- tags ---- */

union page {
	struct gcm_tag tag[PAGE_TAGS];
	uint8_t aligned[DISK_BLOCK] __attribute__((aligned(4096)));
};

/* Tags [at, at + n) of page `page`. */
static int put_page(struct signed_disk *d, uint64_t page, unsigned at, unsigned n, const struct gcm_tag *tags, unsigned flags)
{
	struct mutex *lock = &d->page_lock[page % STRIPES];
	union page p;
	int r = 0;

	mutex_lock(lock);
	if (n < PAGE_TAGS)
		r = disk_read(d->tags, &p, sizeof(p), page * sizeof(p));
	if (r == 0) {
		memcpy(&p.tag[at], tags, n * sizeof(*tags));
		r = disk_write(d->tags, &p, sizeof(p), page * sizeof(p), flags);
	}
	mutex_unlock(lock);
	return r;
}

static int put_tags(struct signed_disk *d, uint64_t first, size_t n, const struct gcm_tag *tags, unsigned flags)
{
	int r = 0;

	while (r == 0 && n) {
		unsigned at = (unsigned)(first % PAGE_TAGS), part = (unsigned)min_u64(n, PAGE_TAGS - at);

		r = put_page(d, first / PAGE_TAGS, at, part, tags, flags);
		first += part;
		n -= part;
		tags += part;
	}
	return r;
}

/* ---- reading ---- */

/* Sectors of one page of tags. */
static int open_part(struct signed_disk *d, uint64_t first, size_t n, uint8_t *p)
{
	union page page;
	int r = disk_read(d->tags, &page, sizeof(page), first / PAGE_TAGS * sizeof(page));

	return r < 0 ? r : gcm_open(d->gcm, first, p, p, n, &page.tag[first % PAGE_TAGS]);
}

static int signed_read(struct disk *disk, void *p, size_t len, uint64_t off)
{
	struct signed_disk *d = to_signed(disk);
	uint64_t first = off / DISK_BLOCK;
	size_t n = len / DISK_BLOCK;
	uint8_t *at = p;
	int r = in_sectors(disk, len, off) ? disk_read(d->data, p, len, off) : -EINVAL;

	while (r == 0 && n) {
		size_t part = min_u64(n, PAGE_TAGS - first % PAGE_TAGS);

		r = open_part(d, first, part, at);
		first += part;
		n -= part;
		at += part * DISK_BLOCK;
	}
	return r;
}

/* ---- writing ---- */

static struct gcm_tag *tags_of(uint8_t *room)
{
	return (struct gcm_tag *)(void *)(room + ROOM_BYTES);
}

/* What fits into one room, in whole sectors. */
static int write_piece(struct signed_disk *d, uint8_t *room, size_t len, uint64_t off, unsigned flags)
{
	const size_t n = len / DISK_BLOCK;
	int r = gcm_seal(d->gcm, off / DISK_BLOCK, room, room, n, tags_of(room));

	if (r == 0)
		r = disk_write(d->data, room, len, off, flags);
	return r < 0 ? r : put_tags(d, off / DISK_BLOCK, n, tags_of(room), flags);
}

/* Fills the room from iov[*i] on, of which *at bytes were taken before. */
static size_t gather(const struct iovec *iov, int n_iov, int *i, size_t *at, uint8_t *room)
{
	size_t done = 0;

	while (*i < n_iov && done < ROOM_BYTES) {
		size_t n = min_u64(iov[*i].iov_len - *at, ROOM_BYTES - done);

		if (n)
			memcpy(room + done, (const uint8_t *)iov[*i].iov_base + *at, n);
		done += n;
		*at += n;
		if (*at == iov[*i].iov_len) {
			++*i;
			*at = 0;
		}
	}
	return done;
}

static int signed_write(struct disk *disk, const struct iovec *iov, int n_iov, uint64_t off, unsigned flags)
{
	struct signed_disk *d = to_signed(disk);
	size_t len = 0, at = 0;
	int i = 0, r = 0;

	for (int k = 0; k < n_iov; k++)
		len += iov[k].iov_len;
	if (!in_sectors(disk, len, off))
		return -EINVAL;
	uint8_t *room = room_take(d->rooms, true);
	if (!room)
		return -ENOMEM;
	while (r == 0 && len) {
		size_t n = gather(iov, n_iov, &i, &at, room);

		r = write_piece(d, room, n, off, flags);
		off += n;
		len -= n;
	}
	room_give(d->rooms, room);
	return r;
}

/* Writes of one round: they lie one behind the other in a room, their tags behind it. */
struct round {
	struct disk_write w[ROUND_WRITES];
	size_t n, used;
};

static int round_add(struct signed_disk *d, struct round *round, uint8_t *room, const void *p, size_t len, uint64_t off)
{
	uint8_t *to = room + round->used;
	int r = gcm_seal(d->gcm, off / DISK_BLOCK, p, to, len / DISK_BLOCK, tags_of(room) + round->used / DISK_BLOCK);

	round->w[round->n++] = (struct disk_write){.p = to, .len = len, .off = off};
	round->used += len;
	return r;
}

static int round_write(struct signed_disk *d, struct round *round, uint8_t *room)
{
	int r = disk_write_many(d->data, round->w, round->n);

	for (size_t i = 0; r == 0 && i < round->n; i++) {
		const struct disk_write *w = &round->w[i];
		size_t at = (size_t)((const uint8_t *)w->p - room);

		r = put_tags(d, w->off / DISK_BLOCK, w->len / DISK_BLOCK, tags_of(room) + at / DISK_BLOCK, 0);
	}
	round->n = round->used = 0;
	return r;
}

static int signed_write_many(struct disk *disk, const struct disk_write *w, size_t n)
{
	struct signed_disk *d = to_signed(disk);
	struct round round = {.n = 0};
	int r = 0;

	for (size_t i = 0; i < n; i++)
		if (!in_sectors(disk, w[i].len, w[i].off))
			return -EINVAL;
	uint8_t *room = room_take(d->rooms, true);
	if (!room)
		return -ENOMEM;
	for (size_t i = 0, done = 0; r == 0 && i < n;) {
		size_t len = min_u64(w[i].len - done, ROOM_BYTES - round.used);

		if (len)
			r = round_add(d, &round, room, (const uint8_t *)w[i].p + done, len, w[i].off + done);
		done += len;
		if (done == w[i].len) {
			i++;
			done = 0;
		}
		if (r == 0 && (round.used == ROOM_BYTES || round.n == ROUND_WRITES))
			r = round_write(d, &round, room);
	}
	if (r == 0 && round.n)
		r = round_write(d, &round, room);
	room_give(d->rooms, room);
	return r;
}

static int signed_flush(struct disk *disk)
{
	struct signed_disk *d = to_signed(disk);
	int r = disk_flush(d->data);

	return r < 0 ? r : disk_flush(d->tags);
}

static int signed_map(struct disk *disk, size_t len, void **ret_p)
{
	(void)disk;
	(void)len;
	(void)ret_p;
	return -ENOTSUP;
}

static void signed_close(struct disk *disk)
{
	struct signed_disk *d = to_signed(disk);

	disk_close(d->data);
	disk_close(d->tags);
	gcm_free(d->gcm);
	for (unsigned i = 0; i < STRIPES; i++)
		mutex_destroy(&d->page_lock[i]);
	free(d);
}

static const struct disk_ops signed_ops = {
    .read = signed_read,
    .write = signed_write,
    .write_many = signed_write_many,
    .flush = signed_flush,
    .map = signed_map,
    .close = signed_close,
};

/* ---- the two files ---- */

static int tags_name(const char *name, char ret[NAME_BYTES])
{
	return (size_t)snprintf(ret, NAME_BYTES, "%s.tags", name) < NAME_BYTES ? 0 : -ENAMETOOLONG;
}

static uint64_t tags_bytes(uint64_t size)
{
	return div_round_up(size / DISK_BLOCK, PAGE_TAGS) * DISK_BLOCK;
}

/* The data first: when it is there already, nothing is touched.  Tags without data are what an unfinished creation left. */
static int open_files(struct signed_disk *d, struct store *inner, const char *name, unsigned flags, uint64_t size)
{
	char tags[NAME_BYTES];
	int r = tags_name(name, tags);

	if (r == 0)
		r = store_open(inner, name, flags, size, &d->data);
	if (r < 0)
		return r;
	/* Through the page cache; zeros are written, so that there is space for every tag. */
	const unsigned tag_flags = (flags & ~(unsigned)DISK_DIRECT) | (flags & DISK_CREATE ? DISK_ZERO : 0);
	if (flags & DISK_CREATE) {
		r = store_remove(inner, tags);
		r = r == -ENOENT ? 0 : r;
	}
	if (r == 0)
		r = store_open(inner, tags, tag_flags, flags & DISK_CREATE ? tags_bytes(size) : 0, &d->tags);
	if (r == 0 && d->tags->size != tags_bytes(d->data->size))
		r = -EUCLEAN;
	if (r < 0 && (flags & DISK_CREATE) && store_remove(inner, name) < 0)
		return r; /* the next creation replaces it */
	return r;
}

int signed_disk_open(struct store *inner, struct rooms *rooms, const struct data_key *key, const char *name, unsigned flags,
		     uint64_t size, struct disk **ret)
{
	uint8_t bytes[GCM_KEY_BYTES];
	struct signed_disk *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	for (unsigned i = 0; i < STRIPES; i++)
		mutex_init(&d->page_lock[i]);
	d->rooms = rooms;
	int r = data_key_derive(key, "gcm ", name, bytes, sizeof(bytes));
	if (r == 0)
		r = gcm_new(bytes, &d->gcm);
	key_wipe(bytes, sizeof(bytes));
	if (r == 0)
		r = open_files(d, inner, name, flags, size);
	if (r < 0) {
		signed_close(&d->base);
		return r;
	}
	d->base = (struct disk){.ops = &signed_ops, .size = d->data->size};
	*ret = &d->base;
	return 0;
}

int signed_disk_remove(struct store *inner, const char *name)
{
	char tags[NAME_BYTES];
	int r = tags_name(name, tags);

	if (r == 0)
		r = store_remove(inner, name);
	if (r < 0)
		return r;
	r = store_remove(inner, tags);
	return r == -ENOENT ? 0 : r;
}
