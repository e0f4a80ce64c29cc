/*
 * extent.c: the leaves of a file: reading them, replacing them, and reading blocks through them.
 *
 * Replacing compares the old leaf with the new one slot by slot; from the difference alone follow which homes go back to
 * the arena, how the file's block count moves and what happens to reservations.  No caller does that arithmetic itself.
 *
 * Reading verifies every block against its slot's CRC-32C.  A mismatch is damage: named once in the log and in status, and
 * returned as -EBADMSG for the range.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/core.h"
#include "fs/core/index.h"

int extent_get(struct fs *fs, uint64_t ino, uint64_t leaf, struct leaf *ret)
{
	int r = lcache_get(fs->lcache, ino, leaf, ret);

	if (r == -EBADMSG || r == -EUCLEAN)
		return fs_damaged(fs, ino, leaf * LEAF_SLOTS * BLOCK_SIZE, "extent leaf");
	return r;
}

static void free_home(struct fs *fs, uint64_t ino, pointer_t home)
{
	int r = arena_free(fs->arena, (struct run){.start = home, .n_blocks = 1});

	if (r < 0) /* the bitmap disagrees with the leaf: fsck will say more; nothing is lost by leaving the block alone */
		log_error("inode %llu: block %llu of device %u was not in use when freed", (unsigned long long)ino,
			  (unsigned long long)pointer_block(home), pointer_device(home));
	atomic_fetch_add_explicit(&fs->freed_since_ckpt, 1, memory_order_relaxed);
}

void extent_replaced(struct fs *fs, struct inode *in, uint64_t ino, const struct leaf *old, const struct leaf *new,
		     struct applied *applied)
{
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const struct slot *was = &old->slot[i], *is = &new->slot[i];

		if (in)
			in->blocks += (uint64_t)slot_used(is) - (uint64_t)slot_used(was);
		if (applied)
			applied->reserved += (int64_t)slot_reserved(is) - (int64_t)slot_reserved(was);
		if (was->home && was->home != is->home)
			free_home(fs, ino, was->home);
	}
	if (in)
		in->dirty = true;
	if (fs->config.sabotage & FS_SABOTAGE_R3_REUSE_NOW)
		arena_release(fs->arena, arena_rotate(fs->arena));
}

int extent_put(struct fs *fs, struct inode *in, uint64_t ino, uint64_t leaf, const struct leaf *old, const struct leaf *new,
	       struct applied *applied)
{
	int r = lcache_put(fs->lcache, ino, leaf, new);

	if (r == 0)
		extent_replaced(fs, in, ino, old, new, applied);
	return r;
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

/* Where up to READ_BATCH blocks are; 0: reads as zeros. */
#define READ_BATCH 288u
struct block_map {
	pointer_t at[READ_BATCH];
	uint32_t crc[READ_BATCH];
};

static int map_blocks(struct fs *fs, uint64_t ino, uint64_t block, uint32_t n, struct block_map *m)
{
	struct leaf l;

	for (uint32_t i = 0; i < n;) {
		uint32_t first = (uint32_t)((block + i) % LEAF_SLOTS), take = LEAF_SLOTS - first;
		int r = extent_get(fs, ino, (block + i) / LEAF_SLOTS, &l);

		if (r < 0)
			return r;
		if (take > n - i)
			take = n - i;
		for (uint32_t k = 0; k < take; k++) {
			const struct slot *s = &l.slot[first + k];

			m->at[i + k] = !slot_has_data(s) ? 0 : s->staged ? s->staged : s->home;
			m->crc[i + k] = s->crc;
		}
		i += take;
	}
	return 0;
}

static int read_run(struct fs *fs, pointer_t at, uint32_t n, void *p)
{
	if (!at) {
		memset(p, 0, (size_t)n * BLOCK_SIZE);
		return 0;
	}
	if (pointer_device(at) == DEVICE_JOURNAL)
		return journal_read(fs->journal, pointer_block(at), n, p);
	return arena_read(fs->arena, at, n, p);
}

static int read_mapped(struct fs *fs, uint64_t ino, uint64_t block, uint32_t n, const struct block_map *m, uint8_t *p)
{
	for (uint32_t i = 0; i < n;) {
		uint32_t run = 1;

		while (i + run < n && (m->at[i] ? m->at[i + run] == pointer_add(m->at[i], run) : !m->at[i + run]))
			run++;
		int r = read_run(fs, m->at[i], run, p + (size_t)i * BLOCK_SIZE);
		if (r == -EUCLEAN || r == -EBADMSG || r == -EIO)
			return fs_damaged(fs, ino, (block + i) * BLOCK_SIZE, r == -EIO ? "unreadable data" : "block pointer");
		if (r < 0)
			return r;
		for (uint32_t k = i; m->at[i] && k < i + run; k++)
			if (crc32c(0, p + (size_t)k * BLOCK_SIZE, BLOCK_SIZE) != m->crc[k])
				return fs_damaged(fs, ino, (block + k) * BLOCK_SIZE, "data checksum");
		i += run;
	}
	return 0;
}

int extent_read(struct fs *fs, uint64_t ino, uint64_t block, uint32_t n, void *p)
{
	struct block_map m;

	for (uint32_t done = 0; done < n;) {
		uint32_t now = n - done < READ_BATCH ? n - done : READ_BATCH;
		int r = map_blocks(fs, ino, block + done, now, &m);

		if (r == 0)
			r = read_mapped(fs, ino, block + done, now, &m, (uint8_t *)p + (size_t)done * BLOCK_SIZE);
		if (r < 0)
			return r;
		done += now;
	}
	return 0;
}
