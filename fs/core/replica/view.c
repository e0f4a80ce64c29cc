/*
 * view.c: the leader's side of RESYNC: the rows of one moment, and the data of files as it is.
 *
 * A view is an iterator over the index, opened under the gate when everything was committed and the caches were saved: it
 * shows that moment for as long as it is open, at no cost to anybody who writes.  Data is not pinned.  A leaf is read when it
 * is asked for, under the inode's stripe; what no longer has the CRC of the view, or cannot be read, is superseded: what
 * changed it lies in the batches that follow, up to the fence, which is durable before it is told.  Among these there must be no
 * clone of what was changed, so nothing is shared while a view is open (share/clone.c).
 */
#include <errno.h>
#include <string.h>

#include "fs/core/replica/impl.h"
#include "fs/core/replica/rows.h"
#include "fs/core/share/share.h"
#include "fs/core/tier/tier.h"

struct replica_view {
	struct fs *fs;
	struct kv_iter *it;
};

static int save_caches(struct fs *fs)
{
	int r = icache_save(fs->icache);

	return r < 0 ? r : lcache_save(fs->lcache);
}

/* The gate is held exclusive: no operation is half done. */
static int take_view(struct fs *fs, struct replica_view *view, struct replica_view_info *ret)
{
	struct journal_point at;
	uint64_t seq = 0;
	int r = journal_commit_all(fs->journal, &seq);

	if (r == 0)
		r = save_caches(fs);
	if (r == 0)
		r = journal_history_point(fs->journal, seq, &at);
	if (r == 0)
		r = fs->kv->ops->iter_open(fs->kv, &view->it);
	if (r < 0)
		return r;
	atomic_fetch_add(&fs->shares->views, 1);
	*ret = (struct replica_view_info){.seq = seq,
					  .hash = at.hash,
					  .epoch = atomic_load(&fs->history),
					  .next_ino = atomic_load(&fs->next_ino),
					  .n_inodes = atomic_load(&fs->n_inodes),
					  .snapshot_generation = atomic_load(&fs->snapshot_generation)};
	return 0;
}

int replica_view_open(struct replica_volume *v, struct replica_view **ret_view, struct replica_view_info *ret)
{
	struct fs *fs = replica_fs(v);
	CLEANUP_FREE struct replica_view *view = calloc(1, sizeof(*view));
	int r = view ? save_caches(fs) : -ENOMEM; /* most of it while operations run */

	if (r < 0)
		return r;
	view->fs = fs;
	rwlock_wrlock(&fs->gate);
	r = take_view(fs, view, ret);
	rwlock_wrunlock(&fs->gate);
	if (r == 0)
		*ret_view = TAKE_PTR(view);
	return r;
}

void replica_view_close(struct replica_view *view)
{
	if (!view)
		return;
	view->fs->kv->ops->iter_close(view->it);
	atomic_fetch_sub(&view->fs->shares->views, 1);
	free(view);
}

int replica_view_rows(struct replica_view *view, struct slice from, struct slice to, replica_row_fn *fn, void *ctx)
{
	const struct rows rows = {.kv = view->fs->kv, .it = view->it};

	return rows_walk(&rows, from, to, fn, ctx);
}

/* Slots whose live data still is what the view has. */
static int unchanged(struct fs *fs, const struct leaf_data *d, uint16_t *ret)
{
	struct leaf l;
	int r = extent_get(fs, d->ino, d->leaf, &l);

	*ret = 0;
	for (unsigned i = 0; i < LEAF_SLOTS && r == 0; i++)
		if (slot_has_data(&l.slot[i]) && l.slot[i].crc == d->crc[i])
			*ret |= (uint16_t)(1u << i);
	return r == -EBADMSG ? 0 : r; /* said: what it mapped nobody has */
}

/* Slots [i, i + n) into `room`, block by block where not all can be read; takes those that cannot out of `mask`. */
static int read_slots(struct fs *fs, const struct leaf_data *d, unsigned i, unsigned n, uint8_t *room, uint16_t *mask)
{
	int r = extent_read(fs, d->ino, d->leaf * LEAF_SLOTS + i, n, room + (size_t)i * BLOCK_SIZE);

	if (r == -EINPROGRESS) { /* tiered since the view, or the follower would not ask: the record that says so follows */
		tier_take_miss();
		r = -EBADMSG;
	}
	if (r != -EBADMSG)
		return r;
	if (n == 1) {
		*mask &= (uint16_t) ~(1u << i);
		return 0;
	}
	for (unsigned k = i; k < i + n; k++) {
		r = read_slots(fs, d, k, 1, room, mask);
		if (r < 0)
			return r;
	}
	return 0;
}

/* How many slots from `i` on are in `mask`. */
static unsigned mask_run(uint16_t mask, unsigned i)
{
	unsigned n = 0;

	while (i + n < LEAF_SLOTS && (mask >> (i + n) & 1))
		n++;
	return n;
}

/* The stripe is held: what is looked up and what is read are the same.  *ret: the slots that are in `room`. */
static int read_live(struct fs *fs, const struct leaf_data *d, uint8_t *room, uint16_t *ret)
{
	int r = unchanged(fs, d, ret);

	*ret &= d->wanted;
	for (unsigned i = 0, n; i < LEAF_SLOTS && r == 0; i += n + !n) {
		n = mask_run(*ret, i);
		if (n)
			r = read_slots(fs, d, i, n, room, ret);
	}
	return r;
}

int replica_read_leaf(struct replica_volume *v, struct leaf_data *d, uint8_t *blocks, uint64_t *ret_fence)
{
	struct fs *fs = replica_fs(v);
	CLEANUP_FREE uint8_t *room = NULL;
	uint16_t good;

	if (d->ino == 0 || d->leaf >= FILE_SIZE_MAX / (LEAF_SLOTS * BLOCK_SIZE))
		return -EUCLEAN;
	if (posix_memalign((void **)&room, DISK_BLOCK, LEAF_SLOTS * BLOCK_SIZE))
		return -ENOMEM;
	icache_rdlock(fs->icache, d->ino);
	int r = read_live(fs, d, room, &good);
	icache_rdunlock(fs->icache, d->ino);
	if (r < 0)
		return r;
	d->superseded = d->wanted & (uint16_t)~good;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(d->wanted >> i & 1))
			continue;
		if (good >> i & 1)
			memcpy(blocks, room + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
		else
			memset(blocks, 0, BLOCK_SIZE);
		blocks += BLOCK_SIZE;
	}
	*ret_fence = 0;
	/* A crash must not take back what superseded it, when the follower waits for that. */
	return d->superseded ? journal_commit_all(fs->journal, ret_fence) : 0;
}
