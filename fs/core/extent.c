/*
 * extent.c: the leaves of a file: reading them, replacing them, and reading blocks through them.
 *
 * Replacing compares the old leaf with the new one slot by slot; from the difference alone follow which homes go back to
 * the arena, how the file's block count moves and what happens to reservations.  No caller does that arithmetic itself.
 *
 * Reading verifies every block against its slot's CRC-32C.  A mismatch is damage: named once in the log and in status, and
 * returned as -EBADMSG for the range.
 *
 * Where a peer may have what is damaged here, the read waits for that in the same way (fs/core/scrub/parked.c): -EINPROGRESS.
 *
 * Packed slots are read through their frame (squeeze/packed.c), and where that is damaged each slot on its own is: what happens
 * then is as with a damaged home.
 *
 * Data that only an object store has comes from memory, if it was recalled; else the read is -EINPROGRESS, and what it missed is
 * kept for the thread (tier_missed()).  Where a home turns out to be damaged and the data is tiered as well, the object has the
 * good copy.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/share/share.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/tier/tier.h"

int extent_get(struct fs *fs, uint64_t ino, uint64_t leaf, struct leaf *ret)
{
	int r = snap_is_ino(ino) ? snap_leaf(fs, ino, leaf, ret) : lcache_get(fs->lcache, ino, leaf, ret);

	if (r == -EBADMSG || r == -EUCLEAN)
		return fs_damaged(fs, ino, leaf * LEAF_SLOTS * BLOCK_SIZE, "extent leaf");
	return r;
}

bool slot_has_own_space(struct fs *fs, const struct slot *s)
{
	return slot_has_space(s) && !(s->home && (snap_shares(fs, s->birth) || share_has_others(fs, s)));
}

void slot_sever(struct fs *fs, struct slot *s)
{
	bool others = share_has_others(fs, s) && !(fs->config.sabotage & FS_SABOTAGE_SHARE_IN_PLACE),
	     snapped = s->home && snap_shares(fs, s->birth) && !(fs->config.sabotage & FS_SABOTAGE_SNAP_IN_PLACE);

	if (others || snapped) {
		s->home = 0;
		s->birth = 0;
		s->shared = false;
	}
}

uint32_t slot_birth_of_space(struct fs *fs, const struct slot *s)
{
	return s->birth == BIRTH_SUPERSEDED ? (uint32_t)atomic_load(&fs->snapshot_generation) : s->birth;
}

static void free_home(struct fs *fs, uint64_t ino, pointer_t home)
{
	if (quarantine_has(fs, home)) /* it failed: in use by nobody, and not free */
		return;
	int r = arena_free(fs->arena, (struct run){.start = home, .n_blocks = 1});

	if (r < 0) /* the bitmap disagrees with the leaf: fsck will say more; nothing is lost by leaving the block alone */
		log_error("inode %llu: block %llu of device %u was not in use when freed", (unsigned long long)ino,
			  (unsigned long long)pointer_block(home), pointer_device(home));
	atomic_fetch_add_explicit(&fs->freed_since_ckpt, 1, memory_order_relaxed);
}

/* A home, or a block of a packed frame, that the live tree has no more. */
static void drop_home(struct fs *fs, uint64_t ino, pointer_t home, uint32_t birth, struct kv_batch **buried)
{
	if (!snap_shares(fs, birth) || (fs->config.sabotage & FS_SABOTAGE_SNAP_FREE)) {
		free_home(fs, ino, home);
		return;
	}
	if (!*buried)
		*buried = index_batch();
	snap_bury(fs, *buried, home, birth);
}

void extent_replaced(struct fs *fs, struct inode *in, uint64_t ino, const struct leaf *old, const struct leaf *new,
		     struct applied *applied)
{
	const uint16_t others = share_drop(fs, old, new, applied ? applied->seq : 0);
	struct kv_batch *buried = NULL;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const struct slot *was = &old->slot[i], *is = &new->slot[i];

		if (in)
			in->blocks += (uint64_t)slot_used(is) - (uint64_t)slot_used(was);
		if (applied)
			applied->reserved += (int64_t)slot_reserved(is) - (int64_t)slot_reserved(was);
		if (was->home && was->home != is->home && !(others >> i & 1))
			drop_home(fs, ino, was->home, was->birth, &buried);
	}
	for (uint32_t i = 0; old->pack.start != new->pack.start &&i < old->pack.n_blocks; i++)
		drop_home(fs, ino, pointer_add(old->pack.start, i), old->pack.birth, &buried);
	/* An index that takes no more changes has stopped the volume, or is about to: what it has on disk knows the blocks as
	 * used. */
	int r = buried ? kv_write(fs->kv, buried) : 0;
	if (r < 0)
		fs_fail(fs, r, "blocks of inode %llu that belong to a snapshot could not be entered in its list",
			(unsigned long long)ino);
	if (in)
		in->dirty = true;
	if (fs->config.sabotage & FS_SABOTAGE_R3_REUSE_NOW)
		arena_release(fs->arena, arena_rotate(fs->arena));
}

int extent_put(struct fs *fs, struct inode *in, uint64_t ino, uint64_t leaf, const struct leaf *old, const struct leaf *new,
	       struct applied *applied)
{
	int r = lcache_put(fs->lcache, ino, leaf, new);

	if (r < 0)
		return r;
	extent_replaced(fs, in, ino, old, new, applied);
	if (!in)
		return 0;
	tier_touched(fs, ino);
	damage_replaced(fs, ino, leaf, old, new);
	return objects_moved(fs, old, new, applied);
}

/* Files of up to this many leaves are walked leaf by leaf, without asking the index for what it has. */
#define SMALL_LEAVES 16u

/*
 * A small file's leaves, all of them: true when they hold every block of the inode (space may be promised beyond the end of a
 * file: then only the index can tell).
 */
static int small_leaves(struct fs *fs, const struct inode *in, struct leaf *ret, uint64_t n, bool *ret_all)
{
	uint64_t used = 0;

	for (uint64_t no = 0; no < n; no++) {
		int r = extent_get(fs, in->ino, no, &ret[no]);

		if (r < 0)
			return r;
		for (unsigned i = 0; i < LEAF_SLOTS; i++)
			used += slot_used(&ret[no].slot[i]);
	}
	*ret_all = used == in->blocks;
	return 0;
}

static int each_stored(struct fs *fs, uint64_t ino, uint64_t leaf, extent_fn *fn, void *ctx)
{
	struct index_key k = key_pair(TABLE_EXTENT, ino, leaf);
	struct kv_iter *it;
	int r = lcache_save_inode(fs->lcache, ino);

	if (r == 0)
		r = fs->kv->ops->iter_open(fs->kv, &it);
	if (r < 0)
		return r;
	for (fs->kv->ops->iter_seek(it, key_slice(&k)); r == 0 && fs->kv->ops->iter_valid(it); fs->kv->ops->iter_next(it)) {
		struct slice key = fs->kv->ops->iter_key(it), value = fs->kv->ops->iter_value(it);
		struct leaf l;

		if (!key_within(key, TABLE_EXTENT, ino))
			break;
		if (key.len != 17) {
			r = -EUCLEAN;
			break;
		}
		uint64_t no = be64_get((const uint8_t *)key.p + 9);
		r = leaf_decode(value.p, value.len, &l);
		if (r < 0)
			r = fs_damaged(fs, ino, no * LEAF_SLOTS * BLOCK_SIZE, "extent leaf");
		else
			r = fn(ctx, no, &l);
	}
	if (r == 0)
		r = fs->kv->ops->iter_error(it);
	fs->kv->ops->iter_close(it);
	return r;
}

int extent_each(struct fs *fs, const struct inode *in, uint64_t leaf, extent_fn *fn, void *ctx)
{
	struct leaf small[SMALL_LEAVES];
	uint64_t n = div_round_up(in->size, LEAF_SLOTS * BLOCK_SIZE);
	bool all = false;
	int r = n <= SMALL_LEAVES ? small_leaves(fs, in, small, n, &all) : 0;

	if (r < 0)
		return r;
	if (!all)
		return each_stored(fs, in->ino, leaf, fn, ctx);
	for (; leaf < n && r == 0; leaf++)
		if (!leaf_empty(&small[leaf]))
			r = fn(ctx, leaf, &small[leaf]);
	return r;
}

static int readable(void *ctx, uint64_t leaf, const struct leaf *l)
{
	(void)l;
	return leaf >= *(const uint64_t *)ctx; /* the last one wanted: stop */
}

int extent_check(struct fs *fs, const struct inode *in, uint64_t block, uint64_t end)
{
	uint64_t first = block / LEAF_SLOTS, last = end ? (end - 1) / LEAF_SLOTS : 0;
	struct leaf l;
	int r = 0;

	if (end <= block)
		return 0;
	if (last - first > SMALL_LEAVES)
		r = extent_each(fs, in, first, readable, &last);
	else
		for (uint64_t no = first; no <= last && r == 0; no++)
			r = extent_get(fs, in->ino, no, &l);
	return r < 0 ? r : 0;
}

/* Where up to READ_BATCH blocks are; 0: reads as zeros, or was recalled or unpacked and is in its place already. */
#define READ_BATCH 288u
struct block_map {
	pointer_t at[READ_BATCH];
	uint32_t crc[READ_BATCH];
	bool tiered[READ_BATCH];
};

/* One leaf's part of a read: slots [first, first + n), the first of which goes to p. */
struct piece {
	uint64_t ino, leaf;
	unsigned first, n;
	uint8_t *p;
};

static uint16_t piece_mask(const struct piece *c)
{
	return (uint16_t)((1u << (c->first + c->n)) - (1u << c->first));
}

/* The recalled blocks of `mask` to their places; false: they are not in memory, and the reader is told so. */
static bool get_recalled(struct fs *fs, const struct piece *c, const struct leaf *l, uint16_t mask)
{
	CLEANUP_FREE uint8_t *room = NULL;
	uint8_t *blocks = c->p;

	if (c->n < LEAF_SLOTS) {
		blocks = room = malloc(LEAF_SLOTS * BLOCK_SIZE);
		if (!room)
			return false;
	}
	if (!recalled_get(fs, &l->object, mask, blocks)) {
		tier_missed(c->ino, c->leaf);
		return false;
	}
	for (unsigned i = 0; room && i < c->n; i++)
		if (mask >> (c->first + i) & 1)
			memcpy(c->p + (size_t)i * BLOCK_SIZE, room + (size_t)(c->first + i) * BLOCK_SIZE, BLOCK_SIZE);
	return true;
}

/* -EINPROGRESS: not in memory; -EBADMSG: what the object has is not what the slot wants. */
static int read_recalled(struct fs *fs, const struct piece *c, const struct leaf *l, uint16_t mask)
{
	if (!get_recalled(fs, c, l, mask))
		return -EINPROGRESS;
	for (unsigned i = 0; i < c->n; i++)
		if ((mask >> (c->first + i) & 1) &&
		    crc32c(0, c->p + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) != l->slot[c->first + i].crc)
			return fs_damaged(fs, c->ino, (c->leaf * LEAF_SLOTS + c->first + i) * BLOCK_SIZE, "recalled data");
	return 0;
}

static void map_piece(const struct piece *c, const struct leaf *l, uint32_t at, struct block_map *m)
{
	for (unsigned k = 0; k < c->n; k++) {
		const struct slot *s = &l->slot[c->first + k];

		m->at[at + k] = !slot_has_data(s) ? 0 : s->staged ? s->staged : s->home;
		m->crc[at + k] = s->crc;
		m->tiered[at + k] = s->tiered;
		if (!m->at[at + k] && !s->tiered && !s->packed)
			memset(c->p + (size_t)k * BLOCK_SIZE, 0, BLOCK_SIZE);
	}
}

static bool is_damage(int r)
{
	return r == -EUCLEAN || r == -EBADMSG || r == -EIO;
}

/* -EBADMSG, once it is noted; the caller says what it waits for. */
static int damaged(struct fs *fs, uint64_t ino, uint64_t block, int r)
{
	struct leaf l;
	int e = extent_get(fs, ino, block / LEAF_SLOTS, &l);

	return verify_failed(fs, ino, block, e == 0 ? &l : NULL, r == 0 ? -EBADMSG : r);
}

/* A packed slot that its frame does not give: its object may, or a peer.  As read_either(). */
static int read_unpacked(struct fs *fs, const struct piece *c, const struct leaf *l, unsigned i, int r)
{
	const uint64_t block = c->leaf * LEAF_SLOTS + i;
	const struct piece one = {
	    .ino = c->ino, .leaf = c->leaf, .first = i, .n = 1, .p = c->p + (size_t)(i - c->first) * BLOCK_SIZE};

	r = damaged(fs, c->ino, block, r);
	if (!l->slot[i].tiered)
		return parked_missed(fs, c->ino, block) ? -EINPROGRESS : r;
	parked_later(fs, c->ino, block);
	return read_recalled(fs, &one, l, (uint16_t)(1u << i));
}

/* -EINPROGRESS: some of it is waited for. */
static int read_packed(struct fs *fs, const struct piece *c, const struct leaf *l, uint16_t mask)
{
	uint16_t good;
	int r = packed_read(fs, l, mask, c->first, c->p, &good), missed = 0;

	if (r < 0 && !is_damage(r))
		return r;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!((mask & ~good) >> i & 1))
			continue;
		int e = read_unpacked(fs, c, l, i, r);
		if (e < 0 && e != -EINPROGRESS)
			return e;
		missed = e < 0 ? e : missed;
	}
	return missed;
}

/* The part of blocks [block, block + n) that is in the leaf of block + i. */
static struct piece piece_at(uint64_t ino, uint64_t block, uint32_t n, uint32_t i, uint8_t *p)
{
	unsigned first = (unsigned)((block + i) % LEAF_SLOTS), left = n - i;

	return (struct piece){.ino = ino,
			      .leaf = (block + i) / LEAF_SLOTS,
			      .first = first,
			      .n = left < LEAF_SLOTS - first ? left : LEAF_SLOTS - first,
			      .p = p + (size_t)i * BLOCK_SIZE};
}

/* Zeros, recalled and unpacked data are in their places afterwards.  -EINPROGRESS only after all leaves were looked at. */
static int map_blocks(struct fs *fs, uint64_t ino, uint64_t block, uint32_t n, struct block_map *m, uint8_t *p)
{
	struct leaf l;
	int missed = 0;

	for (uint32_t i = 0; i < n;) {
		const struct piece c = piece_at(ino, block, n, i, p);
		int r = extent_get(fs, ino, c.leaf, &l);

		if (r < 0)
			return r;
		map_piece(&c, &l, i, m);
		uint16_t cold = l.object.id ? leaf_cold(&l) & piece_mask(&c) : 0;
		r = cold ? read_recalled(fs, &c, &l, cold) : 0;
		if (r < 0 && r != -EINPROGRESS)
			return r;
		missed = r < 0 ? r : missed;
		uint16_t packed = l.pack.n_blocks ? leaf_packed(&l) & piece_mask(&c) : 0;
		r = packed ? read_packed(fs, &c, &l, packed) : 0;
		if (r < 0 && r != -EINPROGRESS)
			return r;
		missed = r < 0 ? r : missed;
		i += c.n;
	}
	return missed;
}

static int read_run(struct fs *fs, pointer_t at, uint32_t n, void *p)
{
	if (pointer_device(at) == DEVICE_JOURNAL)
		return journal_read(fs->journal, pointer_block(at), n, p);
	return arena_read(fs->arena, at, n, p);
}

/* How many blocks from `i` on, lying one after the other, have what they should. */
static uint32_t count_good(const struct block_map *m, uint32_t i, uint32_t n, const uint8_t *p)
{
	uint32_t k = 0;

	while (k < n && crc32c(0, p + (size_t)(i + k) * BLOCK_SIZE, BLOCK_SIZE) == m->crc[i + k])
		k++;
	return k;
}

/* One block of which what is here may be damaged; the object may have it, too. */
static int read_either(struct fs *fs, uint64_t ino, uint64_t block, const struct block_map *m, uint32_t i, uint8_t *p)
{
	const struct piece c = piece_at(ino, block + i, 1, 0, p + (size_t)i * BLOCK_SIZE);
	struct leaf l;
	int r = read_run(fs, m->at[i], 1, c.p);

	if (r < 0 && !is_damage(r))
		return r;
	if (r == 0 && count_good(m, i, 1, p) == 1)
		return 0;
	r = damaged(fs, ino, block + i, r);
	if (!m->tiered[i])
		return parked_missed(fs, ino, block + i) ? -EINPROGRESS : r;
	parked_later(fs, ino, block + i);
	r = extent_get(fs, ino, c.leaf, &l);
	return r < 0 ? r : read_recalled(fs, &c, &l, piece_mask(&c));
}

/* Blocks [i, i + n) of the map, which lie one after the other. */
static int read_stretch(struct fs *fs, uint64_t ino, uint64_t block, const struct block_map *m, uint32_t i, uint32_t n,
			uint8_t *p)
{
	int r = read_run(fs, m->at[i], n, p + (size_t)i * BLOCK_SIZE), missed = 0;
	bool tiered = false;

	if (r < 0 && !is_damage(r))
		return r;
	uint32_t good = r == 0 ? count_good(m, i, n, p) : 0;
	if (good == n)
		return 0;
	for (uint32_t k = i; k < i + n; k++)
		tiered |= m->tiered[k];
	if (!tiered && !repair_has_source(fs))
		return damaged(fs, ino, block + i + good, r);
	for (uint32_t k = i + good; k < i + n; k++) {
		r = read_either(fs, ino, block, m, k, p);
		if (r < 0 && r != -EINPROGRESS)
			return r;
		missed = r < 0 ? r : missed;
	}
	return missed;
}

static int read_mapped(struct fs *fs, uint64_t ino, uint64_t block, uint32_t n, const struct block_map *m, uint8_t *p)
{
	int missed = 0;

	for (uint32_t i = 0; i < n;) {
		uint32_t run = 1;

		while (i + run < n && (m->at[i] ? m->at[i + run] == pointer_add(m->at[i], run) : !m->at[i + run]))
			run++;
		int r = m->at[i] ? read_stretch(fs, ino, block, m, i, run, p) : 0;
		if (r < 0 && r != -EINPROGRESS)
			return r;
		missed = r < 0 ? r : missed;
		i += run;
	}
	return missed;
}

int extent_read(struct fs *fs, uint64_t ino, uint64_t block, uint32_t n, void *p)
{
	struct block_map m;

	for (uint32_t done = 0; done < n;) {
		uint32_t now = n - done < READ_BATCH ? n - done : READ_BATCH;
		uint8_t *to = (uint8_t *)p + (size_t)done * BLOCK_SIZE;
		int r = map_blocks(fs, ino, block + done, now, &m, to);

		if (r == 0)
			r = read_mapped(fs, ino, block + done, now, &m, to);
		if (r < 0)
			return r;
		done += now;
	}
	return 0;
}
