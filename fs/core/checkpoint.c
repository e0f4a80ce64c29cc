/*
 * checkpoint.c: makes the index durable, so that the journal behind it can be reused (rules R3, R4, R5).
 *
 * The gate is held while the line is drawn, not while the index is written: commit; flush the arena; dirty inodes, bitmap
 * pages and the anchor into the index; freeze it.  Everything put before the freeze becomes durable together, later, in the
 * background; only then are blocks freed before the line free, and only then may the ring forget what the *persisted*
 * anchor says is homed.  A little of it is kept longer, for peers that are slightly behind.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/metric.h"
#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/share/share.h"
#include "fs/core/snap/marks.h"
#include "fs/core/snap/snap.h"
#include "fs/core/usage/usage.h"
#include "fs/core/scrub/impl.h"

#define KEEP_SHARE 8u /* of the ring, for peers */

/* What the checkpoint promises once it is durable. */
struct line {
	uint64_t applied_seq, tail_seq, generation, freed;
};

static int put_page(void *ctx, unsigned device, uint64_t page, const uint8_t *bits)
{
	struct fs *fs = ctx;
	struct index_key k = key_pair(TABLE_BITMAP, device, page);
	struct kv_batch *b = index_batch();

	kv_batch_put(b, key_slice(&k), (struct slice){bits, ARENA_PAGE_BYTES});
	return kv_write(fs->kv, b);
}

static uint64_t lower_floor(uint64_t a, uint64_t b)
{
	return a && b ? min_u64(a, b) : max_u64(a, b);
}

/*
 * Where replay is to start, `homed` or earlier: batches that a peer, the archive, a reader of the change feed or the audit log
 * still needs are kept, also over a restart, as far as an eighth of the ring holds them.
 */
static int choose_tail(struct fs *fs, uint64_t homed, struct journal_point *ret)
{
	uint64_t kept = lower_floor(atomic_load(&fs->ship_floor), atomic_load(&fs->archive_floor)),
		 floor = lower_floor(kept, lower_floor(feed_floor(fs), audit_floor(fs)));
	struct journal_status js;
	struct journal_point end;
	int r = journal_point_after(fs->journal, homed, &end);

	*ret = end;
	if (r < 0 || floor == 0 || floor > homed)
		return r;
	journal_get_status(fs->journal, &js);
	uint64_t from = max_u64(floor - 1, js.tail_seq), to = homed, room = js.ring_blocks / KEEP_SHARE;
	while (from < to) { /* the oldest batch within reach */
		uint64_t mid = from + (to - from) / 2;

		r = journal_point_after(fs->journal, mid, ret);
		if (r < 0)
			return r;
		if (end.pos - ret->pos > room)
			from = mid + 1;
		else
			to = mid;
	}
	return journal_point_after(fs->journal, to, ret);
}

static int put_anchor(struct fs *fs, uint64_t applied_seq, uint64_t *ret_tail)
{
	struct anchor a = {.applied_seq = applied_seq,
			   .next_ino = atomic_load(&fs->next_ino),
			   .epoch = atomic_load(&fs->history),
			   .snapshot_generation = atomic_load(&fs->snapshot_generation),
			   .n_inodes = atomic_load(&fs->n_inodes)};
	struct journal_point tail;
	struct arena_status as;
	uint64_t homed;

	homer_point(fs, applied_seq, &homed);
	int r = choose_tail(fs, homed, &tail);
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
	usage_put_mark(fs, b, applied_seq);
	marks_put_header(fs, b, applied_seq);
	*ret_tail = tail.seq;
	return kv_write(fs->kv, b);
}

/* `all`: to the last one, because the gate is held. */
static int save_caches(struct fs *fs, bool all)
{
	int r = icache_save(fs->icache);

	if (r == 0)
		r = lcache_save(fs->lcache);
	return r == 0 ? usage_keep(fs, all) : r;
}

/* Rule R4, up to the freeze; the gate is held exclusive. */
static int draw_line(struct fs *fs, struct line *ret)
{
	uint64_t applied = 0;
	int r = journal_commit_all(fs->journal, &applied);

	applied = min_u64(applied, atomic_load(&fs->applied_seq)); /* a fence window is in the journal and nowhere else */
	applied = snap_roll_bound(fs, applied);
	ret->applied_seq = applied;
	if (r == 0 && !(fs->config.sabotage & FS_SABOTAGE_R4_CKPT_NO_FLUSH))
		r = arena_flush(fs->arena);
	if (r < 0) {
		fs_fail(fs, r, "flushing before a checkpoint");
		return r;
	}
	r = save_caches(fs, true);
	if (r == 0)
		r = resync_settle(fs);
	if (r == 0)
		r = scrub_save(fs);
	if (r == 0)
		r = arena_save(fs->arena, put_page, fs);
	if (r == 0)
		r = put_anchor(fs, applied, &ret->tail_seq);
	if (r == 0)
		r = fs->kv->ops->freeze(fs->kv);
	if (r == 0) {
		ret->generation = arena_rotate(fs->arena);
		ret->freed = atomic_exchange(&fs->freed_since_ckpt, 0);
		snap_draw_line(fs);
		share_draw_line(fs);
	}
	if (r == 0 && (fs->config.sabotage & FS_SABOTAGE_R5_TRIM_EARLY))
		journal_trim(fs->journal, ret->tail_seq);
	return r;
}

/* Most of what is dirty goes out before the gate is taken, while operations run; what is left under it is little. */
static int go_ahead(struct fs *fs)
{
	int r = 0;

	if (!(fs->config.sabotage & FS_SABOTAGE_R4_CKPT_NO_FLUSH))
		r = arena_flush(fs->arena);
	if (r < 0) {
		fs_fail(fs, r, "flushing the arena");
		return r;
	}
	/* The same for the caches: the index is not frozen yet, so it may see states that are no line. */
	return save_caches(fs, false);
}

static int make_durable(struct fs *fs, const struct line *line)
{
	int r = fs->kv->ops->flush_frozen(fs->kv);

	if (r < 0) {
		atomic_fetch_add(&fs->freed_since_ckpt, line->freed);
		log_error("checkpoint: the index could not be written (%s); the journal keeps everything", strerror(-r));
	}
	return r;
}

/* What the line gives back, now that it is durable; no homer step may be writing to a block that becomes free here. */
static void release(struct fs *fs, const struct line *line) REQUIRES(fs->maint)
{
	arena_release(fs->arena, line->generation);
}

static void finished(struct fs *fs, const struct line *line)
{
	share_line_durable(fs);
	journal_trim(fs->journal, line->tail_seq);
	atomic_store(&fs->last_ckpt_seq, line->applied_seq);
	atomic_store(&fs->last_ckpt_ns, clock_mono_ns(fs->clock));
	atomic_fetch_add(&fs->checkpoints, 1);
}

static int checkpoint_locked(struct fs *fs)
{
	struct line line = {0};
	int r = go_ahead(fs);

	if (r < 0)
		return r;
	mutex_lock(&fs->maint);
	rwlock_wrlock(&fs->gate);
	int64_t shut_ns = metric_now_ns();
	r = draw_line(fs, &line);
	metric_record(HISTOGRAM_GATE, metric_now_ns() - shut_ns);
	rwlock_wrunlock(&fs->gate);
	mutex_unlock(&fs->maint);
	if (r == 0)
		r = make_durable(fs, &line);
	if (r < 0)
		return r;
	mutex_lock(&fs->maint);
	release(fs, &line);
	mutex_unlock(&fs->maint);
	finished(fs, &line);
	snap_line_durable(fs);
	return 0;
}

static int closed_locked(struct fs *fs) REQUIRES(fs->maint, fs->gate)
{
	struct line line = {0};
	int r = journal_commit_all(fs->journal, NULL);

	if (r == 0)
		r = homer_drain(fs);
	if (r == 0)
		r = draw_line(fs, &line);
	if (r == 0)
		r = make_durable(fs, &line);
	if (r < 0)
		return r;
	release(fs, &line);
	finished(fs, &line);
	return 0;
}

int checkpoint_again(struct fs *fs) NO_THREAD_SAFETY
{
	int r = closed_locked(fs);

	if (r == -ENOSPC && ballast_drop(fs, false))
		r = closed_locked(fs);
	return r;
}

bool checkpoint_is_due(struct fs *fs)
{
	return !fs->config.read_only && fs->kv->ops->memory_bytes(fs->kv) > fs->config.memory_bytes / 4;
}

int checkpoint_if_full(struct fs *fs)
{
	if (!checkpoint_is_due(fs))
		return 0;
	return fs->closed ? checkpoint_again(fs) : fs_checkpoint(fs);
}

static void judge(struct fs *fs, int r)
{
	atomic_store(&fs->index_full, r == -ENOSPC);
	if (r < 0 && r != -ENOSPC && r != -ENOMEM && r != -EROFS && r != -EAGAIN)
		fs_fail(fs, r, "writing the index");
}

int checkpoint_closed(struct fs *fs, int (*then)(void *ctx), void *ctx)
{
	if (fs->config.read_only || atomic_load(&fs->failed))
		return -EROFS;
	mutex_lock(&fs->ckpt_lock);
	int r = go_ahead(fs), done = -EAGAIN;
	mutex_lock(&fs->maint);
	rwlock_wrlock(&fs->gate);
	const int64_t shut_ns = metric_now_ns();
	if (r == 0)
		r = closed_locked(fs);
	fs->closed = true;
	if (r == 0)
		done = then(ctx);
	fs->closed = false;
	metric_record(HISTOGRAM_GATE, metric_now_ns() - shut_ns);
	rwlock_wrunlock(&fs->gate);
	mutex_unlock(&fs->maint);
	if (r == 0)
		snap_line_durable(fs);
	mutex_unlock(&fs->ckpt_lock);
	judge(fs, r);
	return r < 0 ? r : done;
}

int fs_checkpoint(struct fs *fs)
{
	if (fs->config.read_only || atomic_load(&fs->failed))
		return -EROFS;
	mutex_lock(&fs->ckpt_lock);
	const int64_t start_ns = metric_now_ns();
	int r = checkpoint_locked(fs);
	if (r == -ENOSPC && ballast_drop(fs, false))
		r = checkpoint_locked(fs);
	if (r == 0) {
		metric_record(HISTOGRAM_CHECKPOINT, metric_now_ns() - start_ns);
		ballast_lay(fs);
	}
	mutex_unlock(&fs->ckpt_lock);
	judge(fs, r);
	return r;
}
