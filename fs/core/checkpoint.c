/*
 * checkpoint.c: makes the index durable, so that the journal behind it can be reused (rules R3, R4, R5).
 *
 * The gate is held while the line is drawn, not while the index is written: commit; flush the arena; dirty inodes, bitmap
 * pages and the anchor into the index; freeze it.  Everything put before the freeze becomes durable together, later, in the
 * background; only then are blocks freed before the line free, and only then may the ring forget what the *persisted*
 * anchor says is homed.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/core.h"
#include "fs/core/index.h"

/* What the checkpoint promises once it is durable. */
struct line {
	uint64_t applied_seq, homed_seq, generation, freed;
};

static int put_page(void *ctx, unsigned device, uint64_t page, const uint8_t *bits)
{
	struct fs *fs = ctx;
	struct index_key k = key_pair(TABLE_BITMAP, device, page);
	struct kv_batch *b = index_batch();

	kv_batch_put(b, key_slice(&k), (struct slice){bits, ARENA_PAGE_BYTES});
	return kv_write(fs->kv, b);
}

static int put_anchor(struct fs *fs, uint64_t applied_seq, uint64_t *ret_homed)
{
	struct anchor a = {.applied_seq = applied_seq,
			   .next_ino = atomic_load(&fs->next_ino),
			   .epoch = fs->super.epoch,
			   .snapshot_generation = atomic_load(&fs->snapshot_generation),
			   .n_inodes = atomic_load(&fs->n_inodes)};
	struct journal_point tail;
	struct arena_status as;
	uint64_t homed;

	homer_point(fs, applied_seq, &homed);
	int r = journal_point_after(fs->journal, homed, &tail);
	if (r < 0)
		return r;
	arena_get_status(fs->arena, &as);
	memcpy(a.volume, fs->super.volume, sizeof(a.volume));
	a.tail.seq = tail.seq;
	a.tail.pos = tail.pos;
	a.tail.hash = tail.hash;
	a.reserved_blocks = as.reserved_blocks;
	a.n_chunks = as.n_chunks;
	struct kv_batch *b = index_batch();
	index_put_anchor(b, &a);
	*ret_homed = homed;
	return kv_write(fs->kv, b);
}

static int save_caches(struct fs *fs)
{
	int r = icache_save(fs->icache);

	return r < 0 ? r : lcache_save(fs->lcache);
}

/* Rule R4, up to the freeze; the gate is held exclusive. */
static int draw_line(struct fs *fs, struct line *ret)
{
	uint64_t applied = 0;
	int r = journal_commit_all(fs->journal, &applied);

	ret->applied_seq = applied;
	if (r == 0 && !(fs->config.sabotage & FS_SABOTAGE_R4_CKPT_NO_FLUSH))
		r = arena_flush(fs->arena);
	if (r < 0) {
		fs_fail(fs, r, "flushing before a checkpoint");
		return r;
	}
	r = save_caches(fs);
	if (r == 0)
		r = arena_save(fs->arena, put_page, fs);
	if (r == 0)
		r = put_anchor(fs, applied, &ret->homed_seq);
	if (r == 0)
		r = fs->kv->ops->freeze(fs->kv);
	if (r == 0) {
		ret->generation = arena_rotate(fs->arena);
		ret->freed = atomic_exchange(&fs->freed_since_ckpt, 0);
	}
	if (r == 0 && (fs->config.sabotage & FS_SABOTAGE_R5_TRIM_EARLY))
		journal_trim(fs->journal, ret->homed_seq);
	return r;
}

static int checkpoint_locked(struct fs *fs)
{
	struct line line = {0};
	int r = 0;

	/* Most of the arena's dirty data goes out here, while operations run; what is left under the gate is little. */
	if (!(fs->config.sabotage & FS_SABOTAGE_R4_CKPT_NO_FLUSH))
		r = arena_flush(fs->arena);
	if (r < 0) {
		fs_fail(fs, r, "flushing the arena");
		return r;
	}
	/* The same for the caches: the index is not frozen yet, so it may see states that are no line. */
	r = save_caches(fs);
	if (r < 0)
		return r;
	mutex_lock(&fs->maint);
	rwlock_wrlock(&fs->gate);
	r = draw_line(fs, &line);
	rwlock_wrunlock(&fs->gate);
	mutex_unlock(&fs->maint);
	if (r < 0)
		return r;
	r = fs->kv->ops->flush_frozen(fs->kv);
	if (r < 0) {
		atomic_fetch_add(&fs->freed_since_ckpt, line.freed);
		log_error("checkpoint: the index could not be written (%s); the journal keeps everything", strerror(-r));
		return r;
	}
	mutex_lock(&fs->maint); /* no homer step may be writing to a block that becomes free here */
	arena_release(fs->arena, line.generation);
	mutex_unlock(&fs->maint);
	journal_trim(fs->journal, line.homed_seq);
	atomic_store(&fs->last_ckpt_seq, line.applied_seq);
	atomic_store(&fs->last_ckpt_ns, clock_mono_ns(fs->clock));
	atomic_fetch_add(&fs->checkpoints, 1);
	return 0;
}

int fs_checkpoint(struct fs *fs)
{
	if (fs->config.read_only || atomic_load(&fs->failed))
		return -EROFS;
	mutex_lock(&fs->ckpt_lock);
	int r = checkpoint_locked(fs);
	if (r == -ENOSPC && ballast_drop(fs, false))
		r = checkpoint_locked(fs);
	if (r == 0)
		ballast_lay(fs);
	atomic_store(&fs->index_full, r == -ENOSPC);
	mutex_unlock(&fs->ckpt_lock);
	if (r < 0 && r != -ENOSPC && r != -ENOMEM && r != -EROFS)
		fs_fail(fs, r, "writing the index");
	return r;
}

/* Why a durable point cannot be had; a read-only volume has nothing to make durable. */
static int sync_error(struct fs *fs)
{
	int failed = atomic_load(&fs->failed);

	return failed == 0 || failed == -ENOSPC ? failed : -EIO;
}

int fs_sync(struct fs *fs)
{
	int r = sync_error(fs);

	return r < 0 || fs->config.read_only ? r : journal_commit_all(fs->journal, NULL);
}

void fs_sync_async(struct fs *fs, struct journal_waiter *w)
{
	int r = sync_error(fs);

	if (r < 0 || fs->config.read_only)
		w->done(w, r);
	else
		journal_commit_async(fs->journal, w);
}
