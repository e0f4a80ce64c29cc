/*
 * arena_chunk.c: the files of the arena, and reading, writing and flushing their blocks.
 *
 * Contiguous pointers may cross from one chunk into the next: every transfer is cut there.
 *
 * Flush: a chunk is dirty from the return of a write until a flush of it begins; who flushes clears the mark first, so a
 * write that returns meanwhile marks it again.  Who finds the mark clear but a flush under way waits for its end: that
 * flush began after the mark was cleared, so after the write returned, and covers it.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/store/arena_impl.h"

#define MERGE_MAX (1u << 20) /* bytes of neighbouring writes made one */
#define BATCH_MAX 256        /* writes handed to the disk at once */

static void chunk_name(uint32_t index, char ret_name[32])
{
	snprintf(ret_name, 32, "arena.%u/chunk.%05u", ARENA_DEVICE, index);
}

static int chunk_new(struct disk *disk, struct chunk **ret_chunk)
{
	struct chunk *c = calloc(1, sizeof(*c));

	if (!c) {
		disk_close(disk);
		return -ENOMEM;
	}
	c->disk = disk;
	*ret_chunk = c;
	return 0;
}

struct chunk *chunk_close(struct chunk *c)
{
	if (c)
		disk_close(c->disk);
	free(c);
	return NULL;
}

int chunk_open(struct arena *a, uint32_t index, struct chunk **ret_chunk)
{
	struct disk *disk;
	char name[32];

	chunk_name(index, name);
	int r = store_open(a->c.store, name, DISK_DIRECT, 0, &disk);
	if (r == -EROFS) /* a store on read-only storage can still be read */
		r = store_open(a->c.store, name, DISK_DIRECT | DISK_READONLY, 0, &disk);
	if (r < 0)
		return r;
	if (disk->size != a->c.chunk_blocks * BLOCK_SIZE) {
		disk_close(disk);
		return -EUCLEAN;
	}
	r = chunk_new(disk, ret_chunk);
	/* A process that was killed may have left writes that only the host's cache holds, and recovery builds on them. */
	if (r == 0)
		(*ret_chunk)->dirty = true;
	return r;
}

int chunk_create(struct arena *a, uint32_t index, struct chunk **ret_chunk)
{
	/*
	 * Not DISK_ZERO: the arena is flushed per checkpoint and per large write, not per commit, so the host's conversion of
	 * unwritten extents is rare, while zeros would double the cost of everything written for the first time.
	 */
	const unsigned flags = DISK_CREATE | DISK_DIRECT;
	struct disk *disk;
	char name[32];

	chunk_name(index, name);
	int r = store_open(a->c.store, name, flags, a->c.chunk_blocks * BLOCK_SIZE, &disk);
	if (r == -EEXIST) { /* of a creation that did not end: the index and the journal know nothing of it */
		log_info("arena: replacing the leftover '%s'", name);
		r = store_remove(a->c.store, name);
		if (r == 0)
			r = store_open(a->c.store, name, flags, a->c.chunk_blocks * BLOCK_SIZE, &disk);
	}
	if (r < 0)
		return r;
	r = store_sync_names(a->c.store);
	if (r < 0) {
		disk_close(disk);
		return r;
	}
	return chunk_new(disk, ret_chunk);
}

int arena_range(struct arena *a, pointer_t at, uint64_t n, uint64_t *ret_block)
{
	uint64_t block = pointer_block(at), total = arena_total(a);

	if (pointer_device(at) != ARENA_DEVICE || (at & 0xff) || n == 0 || block >= total || n > total - block)
		return -EUCLEAN;
	*ret_block = block;
	return 0;
}

/* The part of [block, block + n) that lies in one chunk. */
struct piece {
	struct chunk *chunk;
	uint64_t off; /* bytes in the chunk */
	uint64_t n;
};

static struct piece piece_of(struct arena *a, uint64_t block, uint64_t n)
{
	uint64_t in_chunk = block % a->c.chunk_blocks;

	return (struct piece){.chunk = a->chunks[block / a->c.chunk_blocks],
			      .off = in_chunk * BLOCK_SIZE,
			      .n = min_u64(n, a->c.chunk_blocks - in_chunk)};
}

int arena_read(struct arena *a, pointer_t at, uint32_t n, void *p)
{
	uint64_t block, left = n;
	int r = arena_range(a, at, n, &block);

	if (r < 0)
		return r;
	while (left) {
		struct piece part = piece_of(a, block, left);
		r = disk_read(part.chunk->disk, p, part.n * BLOCK_SIZE, part.off);
		if (r < 0)
			return r;
		p = (char *)p + part.n * BLOCK_SIZE;
		block += part.n;
		left -= part.n;
	}
	atomic_fetch_add(&a->blocks_read, n);
	return 0;
}

/* After every write: what came of it is what a later flush must know. */
static int written(struct arena *a, struct chunk *c, uint64_t n, int error)
{
	mutex_lock(&a->lock);
	c->dirty = true; /* after an error too: part of it may have been written */
	if (error < 0 && a->error == 0)
		a->error = error;
	mutex_unlock(&a->lock);
	if (error == 0)
		atomic_fetch_add(&a->blocks_written, n);
	return error;
}

/* Bytes [off, off + len) of iov, as new iovecs. */
static int iov_cut(const struct iovec *iov, int n_iov, uint64_t off, uint64_t len, struct iovec *ret_iov)
{
	int n = 0;

	for (int i = 0; i < n_iov && len; i++) {
		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		size_t take = min_u64(len, iov[i].iov_len - off);
		ret_iov[n++] = (struct iovec){.iov_base = (char *)iov[i].iov_base + off, .iov_len = take};
		len -= take;
		off = 0;
	}
	return n;
}

static int writev_cut(struct arena *a, uint64_t block, uint64_t n, const struct iovec *iov, int n_iov)
{
	CLEANUP_FREE struct iovec *part_iov = malloc((size_t)n_iov * sizeof(*part_iov));
	uint64_t done = 0;

	if (!part_iov)
		return -ENOMEM;
	while (done < n) {
		struct piece part = piece_of(a, block + done, n - done);
		int n_part = iov_cut(iov, n_iov, done * BLOCK_SIZE, part.n * BLOCK_SIZE, part_iov);
		int r = written(a, part.chunk, part.n, disk_writev(part.chunk->disk, part_iov, n_part, part.off, 0));
		if (r < 0)
			return r;
		done += part.n;
	}
	return 0;
}

int arena_writev(struct arena *a, pointer_t at, const struct iovec *iov, int n_iov)
{
	uint64_t block, bytes = 0;

	for (int i = 0; i < n_iov; i++)
		bytes += iov[i].iov_len;
	assert(bytes % BLOCK_SIZE == 0);
	int r = arena_range(a, at, bytes / BLOCK_SIZE, &block);
	if (r < 0)
		return r;
	struct piece part = piece_of(a, block, bytes / BLOCK_SIZE);
	if (part.n < bytes / BLOCK_SIZE)
		return writev_cut(a, block, bytes / BLOCK_SIZE, iov, n_iov);
	return written(a, part.chunk, part.n, disk_writev(part.chunk->disk, iov, n_iov, part.off, 0));
}

int arena_test_write(struct arena *a, pointer_t at, const struct iovec *iov)
{
	uint64_t block;

	assert(iov->iov_len == BLOCK_SIZE);
	int r = arena_range(a, at, 1, &block);
	if (r < 0)
		return r;
	struct piece part = piece_of(a, block, 1);
	return disk_writev(part.chunk->disk, iov, 1, part.off, 0);
}

/* Writes collected for one chunk. */
struct write_batch {
	struct chunk *chunk;
	size_t n;
	uint64_t n_blocks;
	struct disk_write w[BATCH_MAX];
};

static int batch_write(struct arena *a, struct write_batch *b)
{
	int r = b->n ? written(a, b->chunk, b->n_blocks, disk_write_many(b->chunk->disk, b->w, b->n)) : 0;

	b->n = 0;
	b->n_blocks = 0;
	return r;
}

static int batch_add(struct arena *a, struct write_batch *b, struct piece part, const void *p)
{
	struct disk_write *last = b->n ? &b->w[b->n - 1] : NULL;

	/* The homer's blocks are neighbours in memory and on disk: one large write is far cheaper than many small. */
	if (last && b->chunk == part.chunk && last->off + last->len == part.off && (const char *)last->p + last->len == p &&
	    last->len + part.n * BLOCK_SIZE <= MERGE_MAX) {
		last->len += part.n * BLOCK_SIZE;
	} else {
		if (b->n == BATCH_MAX || b->chunk != part.chunk) {
			int r = batch_write(a, b);
			if (r < 0)
				return r;
		}
		b->chunk = part.chunk;
		b->w[b->n++] = (struct disk_write){.p = p, .len = part.n * BLOCK_SIZE, .off = part.off};
	}
	b->n_blocks += part.n;
	return 0;
}

int arena_write_many(struct arena *a, const struct arena_write *w, size_t n)
{
	struct write_batch b;

	b.chunk = NULL;
	b.n = 0;
	b.n_blocks = 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t block, done = 0;
		int r = arena_range(a, w[i].at, w[i].n_blocks, &block);
		while (r == 0 && done < w[i].n_blocks) {
			struct piece part = piece_of(a, block + done, w[i].n_blocks - done);
			r = batch_add(a, &b, part, (const char *)w[i].p + done * BLOCK_SIZE);
			done += part.n;
		}
		if (r < 0)
			return r;
	}
	return batch_write(a, &b);
}

static void flush_chunk_locked(struct arena *a, struct chunk *c) REQUIRES(&a->lock)
{
	while (c->flushing)
		cond_wait(&a->changed, &a->lock);
	if (!c->dirty)
		return;
	c->dirty = false;
	c->flushing = true;
	mutex_unlock(&a->lock);
	int r = disk_flush(c->disk);
	mutex_lock(&a->lock);
	c->flushing = false;
	if (r < 0 && a->error == 0)
		a->error = r;
	cond_broadcast(&a->changed);
}

int arena_flush(struct arena *a)
{
	mutex_lock(&a->lock);
	for (uint32_t i = 0; i < atomic_load(&a->n_chunks) && a->error == 0; i++)
		flush_chunk_locked(a, a->chunks[i]);
	int r = a->error;
	mutex_unlock(&a->lock);
	return r;
}
