/*
 * ring.c: segment files journal/seg.NNNN as one ring of blocks.
 *
 * The files are written with zeros and flushed once, by format, and never change size, so a batch write allocates nothing
 * and converts nothing in the host filesystem.  A range is cut where a segment ends; most batches need one write, and with
 * segments of the default size no batch needs more than two.
 */
#include "journal/ring.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "journal/journal_format.h"

#define SEGMENTS_MAX       4096u
#define SEGMENT_BLOCKS_MIN 256u
#define RING_BLOCKS_MAX    (UINT64_C(1) << 40) /* keeps every product below in range */

struct segment_name {
	char s[24];
};

static struct segment_name segment_name(uint32_t i)
{
	struct segment_name name;

	snprintf(name.s, sizeof(name.s), "journal/seg.%04u", i);
	return name;
}

int ring_geometry_check(const struct journal_geometry *g)
{
	if (g->n_segments < 2 || g->n_segments > SEGMENTS_MAX || g->segment_blocks < SEGMENT_BLOCKS_MIN ||
	    g->segment_blocks > RING_BLOCKS_MAX / g->n_segments ||
	    g->n_segments * g->segment_blocks < 2 * (uint64_t)BATCH_MAX_BLOCKS)
		return -EINVAL;
	return 0;
}

int ring_format(struct store *store, const struct journal_geometry *g)
{
	int r = ring_geometry_check(g);

	for (uint32_t i = 0; !r && i < g->n_segments; i++) {
		struct disk *disk;
		r = store_open(store, segment_name(i).s, DISK_CREATE | DISK_ZERO | DISK_DIRECT, g->segment_blocks * BLOCK_SIZE,
			       &disk);
		if (!r)
			disk_close(disk);
	}
	return r;
}

static int segment_open(struct store *store, uint32_t i, uint64_t bytes, struct disk **ret)
{
	struct disk *disk;
	int r = store_open(store, segment_name(i).s, DISK_DIRECT, 0, &disk);

	if (r) {
		log_error("journal: cannot open %s: %s", segment_name(i).s, strerror(-r));
		return r;
	}
	if (disk->size != bytes) {
		log_error("journal: %s has %llu bytes, the superblock says %llu", segment_name(i).s,
			  (unsigned long long)disk->size, (unsigned long long)bytes);
		disk_close(disk);
		return -EUCLEAN;
	}
	*ret = disk;
	return 0;
}

int ring_open(struct store *store, const struct journal_geometry *g, struct ring *ret)
{
	int r = ring_geometry_check(g);

	if (r)
		return r;
	struct ring ring = {.segment_blocks = g->segment_blocks, .n_blocks = g->n_segments * g->segment_blocks};
	ring.segments = calloc(g->n_segments, sizeof(struct disk *));
	if (!ring.segments)
		return -ENOMEM;
	for (; !r && ring.n_segments < g->n_segments; ring.n_segments += !r)
		r = segment_open(store, ring.n_segments, g->segment_blocks * BLOCK_SIZE, &ring.segments[ring.n_segments]);
	if (r) {
		ring_close(&ring);
		return r;
	}
	*ret = ring;
	return 0;
}

void ring_close(struct ring *r)
{
	for (uint32_t i = 0; i < r->n_segments; i++)
		disk_close(r->segments[i]);
	free(r->segments);
	*r = (struct ring){0};
}

/* Where `pos` lies, and how many of `n` blocks follow it in the same segment. */
struct place {
	uint32_t segment;
	uint64_t off, n;
};
static struct place ring_place(const struct ring *r, uint64_t pos, uint64_t n)
{
	uint64_t block = pos % r->segment_blocks;

	return (struct place){
	    .segment = (uint32_t)(pos / r->segment_blocks % r->n_segments),
	    .off = block * BLOCK_SIZE,
	    .n = min_u64(n, r->segment_blocks - block),
	};
}

/* Moves up to `len` bytes from the front of `iov` into `ret`; returns how many entries of ret it took. */
static int iov_take(struct iovec *iov, int n_iov, size_t len, struct iovec *ret)
{
	int n = 0;

	for (int i = 0; i < n_iov && len; i++) {
		size_t part = min_u64(iov[i].iov_len, len);
		if (!part)
			continue;
		ret[n++] = (struct iovec){iov[i].iov_base, part};
		iov[i].iov_base = (uint8_t *)iov[i].iov_base + part;
		iov[i].iov_len -= part;
		len -= part;
	}
	return n;
}

int ring_write(const struct ring *r, const struct iovec *iov, int n_iov, uint64_t pos, unsigned flags, uint32_t *ret_segment)
{
	struct iovec rest[RING_IOV_MAX], part[RING_IOV_MAX];
	uint64_t bytes = 0;

	assert(n_iov <= RING_IOV_MAX);
	for (int i = 0; i < n_iov; i++)
		bytes += iov[i].iov_len;
	assert(bytes % BLOCK_SIZE == 0 && bytes / BLOCK_SIZE <= r->n_blocks);
	memcpy(rest, iov, (size_t)n_iov * sizeof(*iov));
	for (uint64_t n = bytes / BLOCK_SIZE; n;) {
		struct place at = ring_place(r, pos, n);
		int n_part = iov_take(rest, n_iov, at.n * BLOCK_SIZE, part);
		int error = disk_writev(r->segments[at.segment], part, n_part, at.off, flags);
		if (error) {
			*ret_segment = at.segment;
			return error;
		}
		pos += at.n;
		n -= at.n;
	}
	return 0;
}

int ring_read(const struct ring *r, uint64_t pos, uint32_t n, void *p)
{
	uint8_t *to = p;

	for (uint64_t left = n; left;) {
		struct place at = ring_place(r, pos, left);
		int error = disk_read(r->segments[at.segment], to, at.n * BLOCK_SIZE, at.off);
		if (error)
			return error;
		pos += at.n;
		left -= at.n;
		to += at.n * BLOCK_SIZE;
	}
	return 0;
}

/* One piece of the search: in one read, or block by block around those that cannot be read. */
static bool search_piece(const struct ring *r, uint64_t pos, uint32_t n, uint8_t *memory, ring_look_fn *look, void *ctx)
{
	bool whole = ring_read(r, pos, n, memory) == 0;

	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *block = whole ? memory + (size_t)i * BLOCK_SIZE : memory;
		if (!whole && ring_read(r, pos + i, 1, memory))
			continue;
		if (look(ctx, block, pos + i))
			return true;
	}
	return false;
}

bool ring_search(const struct ring *r, uint64_t pos, uint64_t n, uint8_t *memory, ring_look_fn *look, void *ctx)
{
	for (uint64_t end = pos + n; pos < end; pos += RING_SEARCH_BLOCKS)
		if (search_piece(r, pos, (uint32_t)min_u64(RING_SEARCH_BLOCKS, end - pos), memory, look, ctx))
			return true;
	return false;
}

int ring_flush(const struct ring *r, uint64_t pos, uint64_t n)
{
	while (n) {
		struct place at = ring_place(r, pos, n);
		int error = disk_flush(r->segments[at.segment]);
		if (error)
			return error;
		pos += at.n;
		n -= at.n;
	}
	return 0;
}
