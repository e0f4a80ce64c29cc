/*
 * space.c: fallocate, SEEK_DATA and SEEK_HOLE, copy_file_range.
 *
 * A range's whole blocks change by one ZERO record; partial blocks at its ends are inline writes of the same operation.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include "fs/core/core.h"
#include "fs/core/share/share.h"
#include "fs/core/snap/snap.h"
#include "fs/core/usage/usage.h"

struct range {
	uint64_t off, end;    /* bytes */
	uint64_t first, last; /* whole blocks [first, last) */
	unsigned mode;        /* enum zero_mode */
	bool keep_size;
};

/* Zeros the part of block `no` inside the range. */
static int zero_edge(struct fs *fs, const struct fs_cred *cred, const struct inode *in, const struct range *z, uint64_t no,
		     struct record *rec, size_t *n, uint8_t *block, uint32_t *crc, uint64_t *promised)
{
	uint64_t start = no * BLOCK_SIZE;

	return write_zero_part(fs, cred, in, max_u64(z->off, start), min_u64(z->end, start + BLOCK_SIZE), rec, n, block, crc,
			       promised);
}

struct count {
	struct fs *fs;
	const struct range *range;
	uint64_t kept; /* slots that need no promise */
};

static int count_kept(void *ctx, uint64_t leaf, const struct leaf *l)
{
	struct count *c = ctx;

	if (leaf * LEAF_SLOTS >= c->range->last)
		return 1;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		uint64_t block = leaf * LEAF_SLOTS + i;
		const struct slot *s = &l->slot[i];
		bool kept = c->range->mode == ZERO_ALLOCATE ? slot_used(s) : slot_has_own_space(c->fs, s);

		c->kept += block >= c->range->first && block < c->range->last && kept;
	}
	return 0;
}

/*
 * Blocks that the range has to be promised: those that have no space yet.  Reads every leaf it will change.  Allocation leaves
 * cold data where it is, without a promise: its space is found when it is written or recalled.
 */
static int count_promised(struct fs *fs, const struct inode *in, const struct range *z, uint64_t *ret)
{
	struct count c = {.fs = fs, .range = z};
	int r = z->last > z->first ? extent_each(fs, in, z->first / LEAF_SLOTS, count_kept, &c) : 0;

	*ret = z->mode == ZERO_PUNCH ? 0 : z->last - z->first - c.kept;
	return r < 0 ? r : 0;
}

static int zero_range_locked(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const struct range *z)
{
	_Alignas(DISK_BLOCK) uint8_t head[BLOCK_SIZE], tail[BLOCK_SIZE];
	uint32_t crc[2];
	struct quota_claim claim = {0};
	struct record rec[3] = {0};
	struct inode *in;
	uint64_t promised, edges = 0;
	size_t n = 0;
	int r = icache_get(fs->icache, ino, &in);

	if (r < 0)
		return r;
	if (!S_ISREG(in->mode))
		return S_ISDIR(in->mode) ? -EISDIR : -ENODEV;
	uint64_t size = z->keep_size ? in->size : max_u64(in->size, z->end);
	if (z->mode != ZERO_ALLOCATE) {
		bool head_partial = z->off % BLOCK_SIZE != 0, one = z->off / BLOCK_SIZE == z->end / BLOCK_SIZE;

		if (head_partial || (one && z->end % BLOCK_SIZE != 0))
			r = zero_edge(fs, cred, in, z, z->off / BLOCK_SIZE, rec, &n, head, &crc[0], &edges);
		if (r == 0 && z->end % BLOCK_SIZE != 0 && !one)
			r = zero_edge(fs, cred, in, z, z->end / BLOCK_SIZE, rec, &n, tail, &crc[1], &edges);
		if (r < 0)
			return r;
	}
	r = count_promised(fs, in, z, &promised);
	promised += edges;
	if (r == 0 && promised)
		r = arena_reserve(fs->arena, promised);
	if (r < 0)
		return r;
	op_stamp(fs, cred, &rec[n], RECORD_ZERO, ino);
	rec[n].zero.block = z->first;
	rec[n].zero.n_blocks = z->last - z->first;
	rec[n].zero.mode = (uint8_t)z->mode;
	rec[n].zero.size = size;
	claim_size(&claim, in, size);
	return fs_log_claimed(fs, rec, n + 1, promised, &claim);
}

static int plan_range(int mode, uint64_t off, uint64_t len, struct range *ret)
{
	if (len == 0)
		return -EINVAL;
	if (off > FILE_SIZE_MAX || len > FILE_SIZE_MAX - off)
		return -EFBIG;
	*ret = (struct range){.off = off, .end = off + len, .keep_size = mode & FALLOC_FL_KEEP_SIZE};
	switch (mode & ~FALLOC_FL_KEEP_SIZE) {
	case 0:
		ret->mode = ZERO_ALLOCATE;
		break;
	case FALLOC_FL_PUNCH_HOLE:
		if (!ret->keep_size)
			return -EOPNOTSUPP;
		ret->mode = ZERO_PUNCH;
		break;
	case FALLOC_FL_ZERO_RANGE:
		ret->mode = ZERO_RANGE;
		break;
	default:
		return -EOPNOTSUPP;
	}
	/* Allocation takes in partial blocks; punching and zeroing leave them to the edges. */
	ret->first = ret->mode == ZERO_ALLOCATE ? off / BLOCK_SIZE : div_round_up(off, BLOCK_SIZE);
	ret->last = ret->mode == ZERO_ALLOCATE ? div_round_up(off + len, BLOCK_SIZE) : (off + len) / BLOCK_SIZE;
	if (ret->last < ret->first)
		ret->last = ret->first;
	return 0;
}

int fs_fallocate(struct fs *fs, const struct fs_cred *cred, uint64_t ino, int mode, uint64_t off, uint64_t len)
{
	struct lockset ls;
	struct range z;
	bool tried = false;
	int r = snap_is_ino(ino) ? -EROFS : plan_range(mode, off, len, &z);

	if (r < 0)
		return r;
	do {
		r = op_begin(fs);
		if (r < 0)
			return r;
		lockset_lock(fs->icache, &ls, &ino, 1);
		r = zero_range_locked(fs, cred, ino, &z);
		lockset_unlock(fs->icache, &ls);
		op_end(fs);
	} while (op_retry_space(fs, r, &tried));
	return r;
}

/* Looks for the first block at or after `block` that has data, or has not. */
struct seek {
	uint64_t block; /* wanted from here on; for holes: the first block not yet known to hold data */
	bool data, found;
};

static int seek_leaf(void *ctx, uint64_t leaf, const struct leaf *l)
{
	struct seek *s = ctx;

	if (!s->data && leaf * LEAF_SLOTS > s->block) { /* a leaf is missing between: a hole */
		s->found = true;
		return 1;
	}
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		uint64_t block = leaf * LEAF_SLOTS + i;

		if (block < s->block || slot_has_data(&l->slot[i]) != s->data) {
			if (!s->data && block == s->block)
				s->block++;
			continue;
		}
		s->block = block;
		s->found = true;
		return 1;
	}
	return 0;
}

static int seek_locked(struct fs *fs, const struct inode *in, uint64_t off, bool data, uint64_t *ret_off)
{
	struct seek s = {.block = off / BLOCK_SIZE, .data = data};

	if (!S_ISREG(in->mode))
		return -EINVAL;
	if (off >= in->size)
		return -ENXIO;
	int r = extent_each(fs, in, s.block / LEAF_SLOTS, seek_leaf, &s);
	if (r < 0)
		return r;
	if (data && (!s.found || s.block * BLOCK_SIZE >= in->size))
		return -ENXIO;
	/* Behind the last leaf there is a hole, and the end of the file is one too. */
	*ret_off = min_u64(max_u64(off, s.block * BLOCK_SIZE), in->size);
	return 0;
}

int fs_lseek(struct fs *fs, uint64_t ino, uint64_t off, int whence, uint64_t *ret_off)
{
	struct inode *in;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	int r = fs_readable(fs);
	if (r == 0 && snap_is_ino(ino))
		return snap_lseek(fs, ino, off, whence == SEEK_DATA, ret_off);
	if (r == 0)
		r = icache_rdlock_get(fs->icache, ino, &in);
	if (r < 0)
		return r;
	r = seek_locked(fs, in, off, whence == SEEK_DATA, ret_off);
	icache_rdunlock(fs->icache, ino);
	return r;
}

static int copy_bytes(struct fs *fs, const struct fs_cred *cred, const struct clone_range *c, size_t *ret_len)
{
	size_t len = (size_t)min_u64(c->len, WRITE_MAX_BYTES);
	CLEANUP_FREE void *p = NULL;
	void *at;

	if (posix_memalign(&p, DISK_BLOCK, WRITE_MAX_BYTES + 2 * (size_t)BLOCK_SIZE))
		return -ENOMEM;
	int r = read_quietly(fs, c->from, c->from_off, len, p, &at, ret_len);
	if (r == 0 && *ret_len > 0)
		r = fs_write(fs, cred, c->to, c->to_off, *ret_len, at, false);
	return r;
}

/* Pieces up to this long are copied in one go, whatever could be shared of them. */
#define COPY_PIECE (64 * KIB)

/*
 * Whole blocks are shared where both sides lie alike; what is before the first of them is copied by a call of its own, and so is
 * what is behind the last.  Each call is one operation, which happens whole or not at all.
 */
static int copy_or_share(struct fs *fs, const struct fs_cred *cred, struct clone_range *c, size_t *ret_len)
{
	uint64_t ahead = (BLOCK_SIZE - c->from_off % BLOCK_SIZE) % BLOCK_SIZE, shared = 0;

	if (snap_is_ino(c->from) || snap_is_ino(c->to) || c->from_off % BLOCK_SIZE != c->to_off % BLOCK_SIZE)
		return copy_bytes(fs, cred, c, ret_len);
	if (ahead > 0) {
		if (c->len > COPY_PIECE)
			c->len = ahead;
		return copy_bytes(fs, cred, c, ret_len);
	}
	int r = clone_range(fs, cred, c, &shared);
	*ret_len = (size_t)shared;
	return r < 0 || shared ? r : copy_bytes(fs, cred, c, ret_len);
}

int fs_copy_range(struct fs *fs, const struct fs_cred *cred, uint64_t from, uint64_t from_off, uint64_t to, uint64_t to_off,
		  size_t len, size_t *ret_len)
{
	struct clone_range c = {from, from_off, to, to_off, min_u64(len, (uint64_t)RECORD_CLONE_BLOCKS_MAX * BLOCK_SIZE)};
	int r = fs_readable(fs);

	*ret_len = 0;
	if (r < 0 || len == 0)
		return r;
	if (to_off > FILE_SIZE_MAX - c.len)
		return -EFBIG;
	if (from == to && from_off < to_off + c.len && to_off < from_off + c.len)
		return -EINVAL;
	r = copy_or_share(fs, cred, &c, ret_len);
	if (r == 0 && !snap_is_ino(from))
		attr_touch(fs, from);
	return r;
}
