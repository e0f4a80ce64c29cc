/*
 * recalled.c: see recalled.h.
 *
 * A hash table by object and offset, and a list in the order of use.  A frame is copied out without the lock, pinned meanwhile,
 * so readers of different files do not wait for each other's copying.
 */
#include "fs/core/tier/recall/recalled.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define BUCKETS_MIN 256u

struct entry {
	struct entry *next_hash;
	struct entry *newer, *older; /* in the order of use */
	uint64_t object;
	uint32_t offset, len;
	uint64_t ino, leaf;
	uint16_t mask;
	enum recalled_tell tell;
	unsigned pins;
	uint32_t bytes;
	uint8_t *blocks; /* owned */
};
struct recalled {
	struct mutex lock;
	uint64_t max_bytes; /* fixed */
	uint64_t n_buckets; /* fixed; a power of two */
	/* guarded by lock */
	struct entry **bucket, *newest, *oldest;
	struct recalled_status status;
	/* not guarded */
	_Atomic uint64_t n; /* entries: readers of hot data look no further */
};

/* ---- the table ---- */

static struct entry **bucket_of(struct recalled *rd, uint64_t object, uint32_t offset) REQUIRES(rd->lock)
{
	return &rd->bucket[(object + offset * UINT64_C(0x9e3779b97f4a7c15)) >> 20 & (rd->n_buckets - 1)];
}

static struct entry *find(struct recalled *rd, uint64_t object, uint32_t offset) REQUIRES(rd->lock)
{
	struct entry *e = *bucket_of(rd, object, offset);

	while (e && (e->object != object || e->offset != offset))
		e = e->next_hash;
	return e;
}

static void list_remove(struct recalled *rd, struct entry *e) REQUIRES(rd->lock)
{
	*(e->newer ? &e->newer->older : &rd->newest) = e->older;
	*(e->older ? &e->older->newer : &rd->oldest) = e->newer;
}

static void list_put(struct recalled *rd, struct entry *e) REQUIRES(rd->lock)
{
	e->newer = NULL;
	e->older = rd->newest;
	*(rd->newest ? &rd->newest->newer : &rd->oldest) = e;
	rd->newest = e;
}

static void use(struct recalled *rd, struct entry *e) REQUIRES(rd->lock)
{
	list_remove(rd, e);
	list_put(rd, e);
}

static void entry_free(struct entry *e)
{
	free(e->blocks);
	free(e);
}

static void drop(struct recalled *rd, struct entry *e) REQUIRES(rd->lock)
{
	struct entry **at = bucket_of(rd, e->object, e->offset);

	while (*at != e)
		at = &(*at)->next_hash;
	*at = e->next_hash;
	list_remove(rd, e);
	rd->status.frames--;
	rd->status.bytes -= e->bytes;
	atomic_fetch_sub(&rd->n, 1);
	entry_free(e);
}

static void pin(struct recalled *rd, struct entry *e, unsigned n) REQUIRES(rd->lock)
{
	if (n && !e->pins)
		rd->status.pinned_bytes += e->bytes;
	e->pins += n;
}

static void unpin(struct recalled *rd, struct entry *e) REQUIRES(rd->lock)
{
	assert(e->pins > 0);
	if (--e->pins == 0)
		rd->status.pinned_bytes -= e->bytes;
}

static bool can_have_room(const struct recalled *rd, uint64_t bytes) REQUIRES(rd->lock)
{
	return rd->status.pinned_bytes + rd->status.reserved_bytes + bytes <= rd->max_bytes;
}

static void make_room(struct recalled *rd, uint64_t bytes) REQUIRES(rd->lock)
{
	struct entry *e = rd->oldest;

	while (rd->status.bytes + rd->status.reserved_bytes + bytes > rd->max_bytes && e) {
		struct entry *newer = e->newer;

		if (!e->pins)
			drop(rd, e);
		e = newer;
	}
}

/* ---- in ---- */

static size_t bytes_of(uint16_t mask)
{
	return (unsigned)__builtin_popcount(mask) * (size_t)BLOCK_SIZE;
}

uint8_t *recalled_room(uint16_t mask)
{
	void *p;

	return posix_memalign(&p, DISK_BLOCK, bytes_of(mask)) == 0 ? p : NULL;
}

static struct entry *entry_new(const struct leaf_object *at, const struct pack_frame *f, uint8_t *blocks, enum recalled_tell tell)
{
	struct entry *e = malloc(sizeof(*e));

	if (!e)
		return NULL;
	*e = (struct entry){
	    .object = at->id,
	    .offset = at->offset,
	    .len = f->len,
	    .ino = f->ino,
	    .leaf = f->leaf,
	    .mask = f->mask,
	    .tell = tell,
	    .bytes = (uint32_t)(sizeof(*e) + bytes_of(f->mask)),
	    .blocks = blocks,
	};
	return e;
}

static int insert(struct recalled *rd, struct entry *e, unsigned pins) REQUIRES(rd->lock)
{
	struct entry *same = find(rd, e->object, e->offset), **bucket = bucket_of(rd, e->object, e->offset);

	if (same) {
		pin(rd, same, pins);
		return -EEXIST;
	}
	if (!pins && !can_have_room(rd, e->bytes))
		return -ENOSPC;
	make_room(rd, e->bytes);
	e->next_hash = *bucket;
	*bucket = e;
	list_put(rd, e);
	rd->status.frames++;
	rd->status.bytes += e->bytes;
	pin(rd, e, pins);
	atomic_fetch_add(&rd->n, 1);
	return 0;
}

int recalled_put(struct fs *fs, const struct leaf_object *at, const struct pack_frame *f, uint8_t *blocks, unsigned pins,
		 enum recalled_tell tell)
{
	struct recalled *rd = fs->recalled;
	struct entry *e = entry_new(at, f, blocks, tell);

	if (!e) {
		free(blocks);
		return -ENOMEM;
	}
	mutex_lock(&rd->lock);
	int r = insert(rd, e, pins);
	mutex_unlock(&rd->lock);
	if (r < 0)
		entry_free(e);
	return r == -EEXIST ? 0 : r;
}

/* ---- out ---- */

static void copy_out(const struct entry *e, uint16_t mask, uint8_t *to)
{
	const uint8_t *from = e->blocks;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(e->mask >> i & 1))
			continue;
		if (mask >> i & 1)
			memcpy(to + (size_t)i * BLOCK_SIZE, from, BLOCK_SIZE);
		from += BLOCK_SIZE;
	}
}

bool recalled_get(struct fs *fs, const struct leaf_object *at, uint16_t mask, uint8_t *blocks)
{
	struct recalled *rd = fs->recalled;

	if (!rd || !atomic_load_explicit(&rd->n, memory_order_relaxed))
		return false;
	mutex_lock(&rd->lock);
	struct entry *e = find(rd, at->id, at->offset);
	if (!e || (mask & ~e->mask)) {
		mutex_unlock(&rd->lock);
		return false;
	}
	enum recalled_tell tell = e->tell;
	e->tell = TELL_NOTHING;
	rd->status.blocks_served += (unsigned)__builtin_popcount(mask);
	use(rd, e);
	pin(rd, e, 1);
	mutex_unlock(&rd->lock);
	copy_out(e, mask, blocks);
	if (tell != TELL_NOTHING) {
		const struct leaf_object whole = {.id = e->object, .offset = e->offset, .len = e->len};

		recall_served(fs, &whole, e->ino, e->leaf, e->mask, tell);
	}
	mutex_lock(&rd->lock);
	unpin(rd, e);
	mutex_unlock(&rd->lock);
	return true;
}

const uint8_t *recalled_borrow(struct fs *fs, uint64_t object, uint32_t offset, uint16_t *ret_mask)
{
	struct recalled *rd = fs->recalled;

	mutex_lock(&rd->lock);
	struct entry *e = find(rd, object, offset);
	if (e)
		pin(rd, e, 1);
	mutex_unlock(&rd->lock);
	*ret_mask = e ? e->mask : 0;
	return e ? e->blocks : NULL;
}

/* ---- pins and room ---- */

bool recalled_pin(struct fs *fs, uint64_t object, uint32_t offset, bool *ret_beside)
{
	struct recalled *rd = fs->recalled;

	mutex_lock(&rd->lock);
	struct entry *e = find(rd, object, offset);
	if (e)
		pin(rd, e, 1);
	if (ret_beside) {
		*ret_beside = e && e->tell == TELL_BESIDE;
		if (*ret_beside)
			e->tell = TELL_READ;
	}
	mutex_unlock(&rd->lock);
	return e;
}

void recalled_unpin(struct fs *fs, uint64_t object, uint32_t offset)
{
	struct recalled *rd = fs->recalled;

	mutex_lock(&rd->lock);
	struct entry *e = find(rd, object, offset);
	assert(e);
	unpin(rd, e);
	mutex_unlock(&rd->lock);
}

bool recalled_has(struct fs *fs, uint64_t object, uint32_t offset)
{
	struct recalled *rd = fs->recalled;

	mutex_lock(&rd->lock);
	bool found = find(rd, object, offset);
	mutex_unlock(&rd->lock);
	return found;
}

bool recalled_reserve(struct fs *fs, uint64_t bytes)
{
	struct recalled *rd = fs->recalled;

	mutex_lock(&rd->lock);
	bool room = can_have_room(rd, bytes);
	if (room) {
		make_room(rd, bytes);
		rd->status.reserved_bytes += bytes;
	}
	mutex_unlock(&rd->lock);
	return room;
}

void recalled_unreserve(struct fs *fs, uint64_t bytes)
{
	struct recalled *rd = fs->recalled;

	mutex_lock(&rd->lock);
	assert(rd->status.reserved_bytes >= bytes);
	rd->status.reserved_bytes -= bytes;
	mutex_unlock(&rd->lock);
}

void recalled_get_status(struct fs *fs, struct recalled_status *ret)
{
	struct recalled *rd = fs->recalled;

	mutex_lock(&rd->lock);
	*ret = rd->status;
	mutex_unlock(&rd->lock);
	ret->max_bytes = rd->max_bytes;
}

/* ---- life ---- */

int recalled_open(struct fs *fs, uint64_t max_bytes)
{
	struct recalled *rd = calloc(1, sizeof(*rd));
	uint64_t n = BUCKETS_MIN;

	while (n < max_bytes / (16 * KIB))
		n *= 2;
	struct entry **bucket = rd ? calloc(n, sizeof(struct entry *)) : NULL;
	if (!bucket) {
		free(rd);
		return -ENOMEM;
	}
	rd->max_bytes = max_bytes;
	rd->n_buckets = n;
	mutex_init(&rd->lock);
	mutex_lock(&rd->lock);
	rd->bucket = bucket;
	mutex_unlock(&rd->lock);
	fs->recalled = rd;
	return 0;
}

void recalled_close(struct fs *fs)
{
	struct recalled *rd = fs->recalled;

	if (!rd)
		return;
	mutex_lock(&rd->lock);
	while (rd->oldest) {
		assert(!rd->oldest->pins);
		drop(rd, rd->oldest);
	}
	assert(!rd->status.reserved_bytes);
	mutex_unlock(&rd->lock);
	mutex_destroy(&rd->lock);
	free(rd->bucket);
	free(rd);
	fs->recalled = NULL;
}
