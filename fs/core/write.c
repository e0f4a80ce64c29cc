/*
 * write.c: file data in.
 *
 * Up to INLINE_MAX_BYTES travel in the batch.  Above, the whole blocks of the write go to fresh blocks of the arena before
 * anything is locked or logged (rule R1: the batch that names them flushes first), and only the partial blocks at its
 * ends travel inline.  All records of one write are one operation: it happens whole or not at all.
 *
 * A journal block is whole: a partial one is merged with what is there.  Bytes beyond the end of a file are always zero in
 * its last block, so a write at the end has nothing to read.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "base/trace.h"
#include "fs/core/core.h"
#include "fs/core/snap/snap.h"
#include "fs/core/usage/usage.h"

#define WRITE_RUNS_MAX 256u

/* The pieces of one write: at most one partial block at either end, whole blocks between. */
struct write_plan {
	uint64_t off, len, first, end; /* bytes; blocks touched: [first, end) */
	const uint8_t *p;
	bool head_partial, tail_partial; /* a single partial block counts as head */
	uint64_t mid_first, mid_end;     /* whole blocks */
	const uint8_t *mid;              /* their bytes */
};

static struct write_plan plan_write(uint64_t off, size_t len, const uint8_t *p)
{
	struct write_plan w = {.off = off, .len = len, .p = p};

	w.first = off / BLOCK_SIZE;
	w.end = div_round_up(off + len, BLOCK_SIZE);
	w.head_partial = off % BLOCK_SIZE != 0 || len < BLOCK_SIZE;
	w.tail_partial = (off + len) % BLOCK_SIZE != 0 && !(w.head_partial && w.end - w.first == 1);
	w.mid_first = w.first + w.head_partial;
	w.mid_end = w.end - w.tail_partial;
	w.mid = p + (w.mid_first * BLOCK_SIZE - off);
	return w;
}

/* A block as it is, zeros beyond the end of the file, for merging. */
static int merge_block(struct fs *fs, const struct inode *in, uint64_t block, void *p)
{
	if (block * BLOCK_SIZE >= in->size) { /* nothing but zeros there */
		memset(p, 0, BLOCK_SIZE);
		return 0;
	}
	return extent_read(fs, in->ino, block, 1, p);
}

/* Block `no` as it will be after the write, in `block`. */
static int merge_edge(struct fs *fs, const struct inode *in, const struct write_plan *w, uint64_t no, uint8_t *block)
{
	uint64_t start = no * BLOCK_SIZE;
	uint64_t from = max_u64(w->off, start), to = min_u64(w->off + w->len, start + BLOCK_SIZE);

	if (from == start && to >= in->size) /* covers all that the file has here */
		memset(block, 0, BLOCK_SIZE);
	else {
		int r = merge_block(fs, in, no, block);
		if (r < 0)
			return r;
	}
	memcpy(block + (from - start), w->p + (from - w->off), to - from);
	return 0;
}

/* The partial blocks at both ends as they will be; and every leaf that will change can be read. */
static int read_edges(struct fs *fs, const struct inode *in, const struct write_plan *w, uint8_t *head, uint8_t *tail)
{
	int r = w->head_partial ? merge_edge(fs, in, w, w->first, head) : 0;

	if (r == 0 && w->tail_partial)
		r = merge_edge(fs, in, w, w->end - 1, tail);
	return r < 0 ? r : extent_check(fs, in, w->first, w->end);
}

static void stamp_write(struct fs *fs, const struct fs_cred *cred, struct record *rec, uint64_t ino, uint64_t block, uint32_t n,
			const uint32_t *crc)
{
	op_stamp(fs, cred, rec, RECORD_WRITE, ino);
	rec->write.block = block;
	rec->write.n_blocks = n;
	rec->write.crc = crc;
	rec->write.mtime_ns = INT64_MIN;
}

/* One whole block, inline. */
static void stamp_edge(struct fs *fs, const struct fs_cred *cred, struct record *rec, uint64_t ino, uint64_t no, uint8_t *block,
		       uint32_t *crc)
{
	*crc = crc32c(0, block, BLOCK_SIZE);
	stamp_write(fs, cred, rec, ino, no, 1, crc);
	rec->write.data[0] = (struct iovec){block, BLOCK_SIZE};
	rec->write.n_data = 1;
}

int write_zero_part(struct fs *fs, const struct fs_cred *cred, const struct inode *in, uint64_t from, uint64_t to,
		    struct record *rec, size_t *n, uint8_t *block, uint32_t *crc, uint64_t *promised)
{
	uint64_t no = from / BLOCK_SIZE;
	struct leaf l;
	int r = extent_get(fs, in->ino, no / LEAF_SLOTS, &l);

	if (r < 0 || !slot_has_data(&l.slot[no % LEAF_SLOTS]))
		return r;
	r = extent_read(fs, in->ino, no, 1, block);
	if (r < 0)
		return r;
	memset(block + from % BLOCK_SIZE, 0, to - from);
	stamp_edge(fs, cred, &rec[*n], in->ino, no, block, crc);
	rec[(*n)++].write.size = in->size;
	*promised += !slot_has_own_space(fs, &l.slot[no % LEAF_SLOTS]);
	return 0;
}

static void crc_blocks(const uint8_t *p, uint64_t n, uint32_t *crc)
{
	for (uint64_t i = 0; i < n; i++)
		crc[i] = crc32c(0, p + i * BLOCK_SIZE, BLOCK_SIZE);
}

/* Blocks of [first, first + n) that have no space yet: what an inline write must promise. */
static int count_spaceless(struct fs *fs, uint64_t ino, uint64_t first, uint64_t n, uint64_t *ret)
{
	struct leaf l;

	*ret = 0;
	for (uint64_t i = 0; i < n; i++) {
		uint64_t block = first + i;

		if (i == 0 || block % LEAF_SLOTS == 0) {
			int r = extent_get(fs, ino, block / LEAF_SLOTS, &l);
			if (r < 0)
				return r;
		}
		*ret += !slot_has_own_space(fs, &l.slot[block % LEAF_SLOTS]);
	}
	return 0;
}

/* Promises space for an inline write of blocks [first, first + n): all of them when that is easy, only those without any when
 * space is short, so that overwriting works on a full volume. */
static int promise(struct fs *fs, uint64_t ino, uint64_t first, uint64_t n, uint64_t *ret_promised)
{
	int r = arena_reserve(fs->arena, n);

	*ret_promised = n;
	if (r != -ENOSPC)
		return r;
	r = count_spaceless(fs, ino, first, n, ret_promised);
	return r == 0 && *ret_promised ? arena_reserve(fs->arena, *ret_promised) : r;
}

static int check_file(struct fs *fs, uint64_t ino, struct inode **ret)
{
	int r = icache_get(fs->icache, ino, ret);

	if (r < 0)
		return r;
	return S_ISREG((*ret)->mode) ? 0 : S_ISDIR((*ret)->mode) ? -EISDIR : -EINVAL;
}

static void finish(struct fs *fs, struct record *last, const struct inode *in, uint64_t end, bool kernel_times)
{
	last->write.size = max_u64(in->size, end);
	if (!kernel_times)
		last->write.mtime_ns = clock_real_ns(fs->clock);
}

static int write_inline_locked(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const struct write_plan *w,
			       bool kernel_times)
{
	_Alignas(DISK_BLOCK) uint8_t head[BLOCK_SIZE], tail[BLOCK_SIZE];
	uint32_t crc[WRITE_MAX_BYTES / BLOCK_SIZE + 2], n = (uint32_t)(w->end - w->first), at = 0;
	struct quota_claim claim = {0};
	struct record rec = {0};
	struct inode *in;
	uint64_t promised = 0;
	int r = check_file(fs, ino, &in);

	if (r == 0)
		r = read_edges(fs, in, w, head, tail);
	if (r == 0)
		r = promise(fs, ino, w->first, n, &promised);
	if (r < 0)
		return r;
	stamp_write(fs, cred, &rec, ino, w->first, n, crc);
	if (w->head_partial) {
		rec.write.data[rec.write.n_data++] = (struct iovec){head, BLOCK_SIZE};
		crc[at++] = crc32c(0, head, BLOCK_SIZE);
	}
	if (w->mid_end > w->mid_first) {
		uint64_t blocks = w->mid_end - w->mid_first;

		rec.write.data[rec.write.n_data++] = (struct iovec){(void *)(uintptr_t)w->mid, blocks * BLOCK_SIZE};
		crc_blocks(w->mid, blocks, crc + at);
		at += (uint32_t)blocks;
	}
	if (w->tail_partial) {
		rec.write.data[rec.write.n_data++] = (struct iovec){tail, BLOCK_SIZE};
		crc[at++] = crc32c(0, tail, BLOCK_SIZE);
	}
	finish(fs, &rec, in, w->off + w->len, kernel_times);
	claim_size(&claim, in, w->off + w->len);
	return fs_log_claimed(fs, &rec, 1, promised, &claim);
}

static int write_inline(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const struct write_plan *w, bool kernel_times)
{
	struct lockset ls;

	lockset_lock(fs->icache, &ls, &ino, 1);
	TRACE_STAGE(locked, HISTOGRAM_WRITE_LOCK, 0);
	int r = write_inline_locked(fs, cred, ino, w, kernel_times);
	lockset_unlock(fs->icache, &ls);
	return r;
}

/* The whole blocks of a large write, already in the arena. */
struct direct {
	struct run runs[WRITE_RUNS_MAX];
	uint32_t n_runs;
	uint32_t crc[WRITE_MAX_BYTES / BLOCK_SIZE + 1];
};

static void direct_undo(struct fs *fs, const struct direct *d)
{
	for (uint32_t i = 0; i < d->n_runs; i++)
		arena_unalloc(fs->arena, d->runs[i]);
}

static int direct_write(struct fs *fs, const struct write_plan *w, struct direct *d)
{
	CLEANUP_FREE void *bounce = NULL;
	uint64_t n = w->mid_end - w->mid_first;
	const uint8_t *p = w->mid;
	int r = arena_alloc(fs->arena, n, 0, false, d->runs, WRITE_RUNS_MAX, &d->n_runs);

	if (r < 0)
		return r;
	if ((uintptr_t)p % DISK_BLOCK != 0) {
		if (posix_memalign(&bounce, DISK_BLOCK, n * BLOCK_SIZE)) {
			direct_undo(fs, d);
			return -ENOMEM;
		}
		memcpy(bounce, p, n * BLOCK_SIZE);
		p = bounce;
	}
	crc_blocks(p, n, d->crc);
	for (uint32_t i = 0; i < d->n_runs; i++) {
		struct iovec iov = {(void *)(uintptr_t)p, (size_t)d->runs[i].n_blocks * BLOCK_SIZE};

		r = arena_writev(fs->arena, d->runs[i].start, &iov, 1);
		if (r < 0) {
			direct_undo(fs, d);
			fs_fail(fs, r, "writing data to the arena");
			return r;
		}
		p += iov.iov_len;
	}
	return 0;
}

static int log_direct_locked(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const struct write_plan *w,
			     const struct direct *d, bool kernel_times)
{
	_Alignas(DISK_BLOCK) uint8_t head[BLOCK_SIZE], tail[BLOCK_SIZE];
	uint32_t crc[2];
	struct quota_claim claim = {0};
	struct record rec[3] = {0};
	struct inode *in;
	uint64_t promised = (uint64_t)w->head_partial + w->tail_partial;
	size_t n = 0;
	int r = check_file(fs, ino, &in);

	if (r == 0)
		r = read_edges(fs, in, w, head, tail);
	if (r == 0 && promised)
		r = arena_reserve(fs->arena, promised);
	if (r < 0)
		return r;
	if (w->head_partial)
		stamp_edge(fs, cred, &rec[n++], ino, w->first, head, &crc[0]);
	stamp_write(fs, cred, &rec[n], ino, w->mid_first, (uint32_t)(w->mid_end - w->mid_first), d->crc);
	rec[n].write.out_of_line = true;
	rec[n].write.runs = d->runs;
	rec[n++].write.n_runs = d->n_runs;
	if (w->tail_partial)
		stamp_edge(fs, cred, &rec[n++], ino, w->end - 1, tail, &crc[1]);
	for (size_t i = 0; i < n; i++)
		finish(fs, &rec[i], in, w->off + w->len, kernel_times);
	claim_size(&claim, in, w->off + w->len);
	return fs_log_claimed(fs, rec, n, promised, &claim);
}

static int write_direct(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const struct write_plan *w, bool kernel_times)
{
	struct direct d;
	struct lockset ls;
	int r = direct_write(fs, w, &d);

	if (r < 0)
		return r;
	TRACE_STAGE(placed, HISTOGRAM_WRITE_PLACE, 0);
	lockset_lock(fs->icache, &ls, &ino, 1);
	TRACE_STAGE(locked, HISTOGRAM_WRITE_LOCK, 0);
	r = log_direct_locked(fs, cred, ino, w, &d, kernel_times);
	lockset_unlock(fs->icache, &ls);
	if (r < 0 && !atomic_load(&fs->failed)) /* refused before it was logged: nobody knows the blocks */
		direct_undo(fs, &d);
	return r;
}

/* A large write inline: one at a time, which is what the ring's margin allows for. */
static int write_wide(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const struct write_plan *w, bool kernel_times)
{
	mutex_lock(&fs->wide_lock);
	int r = op_begin(fs);
	if (r == 0) {
		r = write_inline(fs, cred, ino, w, kernel_times);
		op_end(fs);
	}
	mutex_unlock(&fs->wide_lock);
	return r;
}

int fs_write(struct fs *fs, const struct fs_cred *cred, uint64_t ino, uint64_t off, size_t len, const void *p, bool kernel_times)
{
	bool tried = false;
	int r;

	if (snap_is_ino(ino))
		return -EROFS;
	if (len == 0)
		return 0;
	if (len > WRITE_MAX_BYTES)
		return -EINVAL;
	if (off > FILE_SIZE_MAX - len)
		return -EFBIG;
	struct write_plan w = plan_write(off, len, p);
	do {
		r = op_begin(fs);
		if (r < 0)
			return r;
		r = len <= INLINE_MAX_BYTES ? write_inline(fs, cred, ino, &w, kernel_times)
					    : write_direct(fs, cred, ino, &w, kernel_times);
		op_end(fs);
	} while (op_retry_space(fs, r, &tried));
	/* No fresh blocks, but those that the file has, or was promised, can still take it: through the journal. */
	return r == -ENOSPC && len > INLINE_MAX_BYTES ? write_wide(fs, cred, ino, &w, kernel_times) : r;
}
