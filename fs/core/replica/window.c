/*
 * window.c: a follower behind a fence keeps the state before it.
 *
 * A batch whose data was superseded before it came cannot be led from, and nobody may read what it leaves: what is missing comes
 * with the batch of its fence at the latest.  So from that batch on the volume only journals, until the batch of the fence is
 * durable here, and then applies them all in order:
 *
 *      s | s+1  ...  fence | ...         s+1 has superseded data: the window begins.  The superblock says so (`window` is s + 1,
 *        | journaled only  |             `fence`) before batch s+1 is appended; a later fence is raised in the same way.
 *
 * Up to then the volume is, in all that counts, at s: it is read there, says that it is there, acks nothing beyond, and can lead
 * from there.  What an fsync at level K was answered for is in s, since a leader does not count what is behind a fence.
 *
 * What the window holds is the leader's and nobody has counted on it, so it may go at any time: a higher epoch, a promotion, a
 * resync, or a stream that begins at s + 1 again, cut it off (journal_cut()).  The superblock makes that one step: it forgets the
 * window and says which batches of the ring are void.
 *
 * Blocks with data of the window are hidden from checkpoints (take.c) until their batch is applied; recovery claims and hides
 * them anew.  Records are checked against the volume when they are applied: until then there is nothing to check them against.
 * So a batch that does not fit is found late, when those before it were applied; the window ends there, behind its fence.
 *
 * Recovery applies what came before the window, and what the index had of it already: a checkpoint in the middle of its being
 * applied commits first, so the fence is durable then.  The rest is applied by window_resume(), as it would have been.
 *
 * The window is bounded by the ring: everything before it goes home when room is needed.  When that is not enough, or blocks for
 * data run out (it holds what it is about to free), the window is given up: it is applied as far as it is there.  The volume is
 * behind its fence then, as after a resync with superseded data: neither readable nor promotable, and no copy, until it is
 * reached.
 */
#include "fs/core/replica/impl.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/snap/snap.h"

/* More batches than this are told as one change of everything. */
#define TELL_BATCHES 256u

/* Where a window stands. */
struct window {
	uint64_t first, fence;    /* first 0: there is none */
	uint64_t applied, newest; /* batches */
};

static struct window window_now(struct fs *fs)
{
	struct super s;

	replica_get_super(fs, &s);
	return (struct window){
	    .first = s.window, .fence = s.fence, .applied = atomic_load(&fs->applied_seq), .newest = replica_newest(fs)};
}

static bool has_begun(const struct window *w)
{
	return w->applied >= w->first;
}

bool window_is_open(struct fs *fs)
{
	return window_now(fs).first != 0;
}

uint64_t window_bound(struct fs *fs, uint64_t durable_seq)
{
	const struct window w = window_now(fs);

	return w.first ? min_u64(durable_seq, max_u64(w.first - 1, atomic_load(&fs->last_ckpt_seq))) : durable_seq;
}

/* ---- the superblock ---- */

static int raise_fence(struct fs *fs, struct super *s, uint64_t fence)
{
	uint64_t applied = atomic_load(&fs->applied_seq);

	if (!s->window)
		s->window = applied + 1;
	s->fence = s->fence > applied ? max_u64(s->fence, fence) : fence;
	return 0;
}

static int lower_fence(struct fs *fs, struct super *s, uint64_t fence)
{
	(void)fs;
	s->fence = fence;
	return 0;
}

static int forget(struct fs *fs, struct super *s, uint64_t arg)
{
	(void)fs;
	(void)arg;
	s->window = s->fence = 0;
	return 0;
}

/* All of it is applied: what is left is the fence, when that has not come. */
static int close_window(struct fs *fs, struct super *s, uint64_t applied)
{
	(void)fs;
	s->window = 0;
	if (s->fence <= applied)
		s->fence = 0;
	return 0;
}

/* Batches behind `applied` are void.  What was applied of the window stays behind the fence. */
static int make_void(struct fs *fs, struct super *s, uint64_t applied)
{
	if (applied < s->window)
		s->fence = 0;
	s->window = 0;
	s->incarnation++;
	s->cut = applied + 1;
	s->cut_incarnation = s->incarnation;
	(void)fs;
	return 0;
}

/* ---- blocks ---- */

static void settle_run(struct arena *a, struct run run, enum block_fate fate)
{
	if (fate == BLOCKS_HIDE) {
		arena_hide(a, run);
		return;
	}
	arena_show(a, run);
	if (fate == BLOCKS_GIVE_BACK)
		arena_unalloc(a, run);
}

int replica_blocks(struct fs *fs, const struct batch_view *v, enum block_fate fate)
{
	struct batch_cursor c;
	struct record rec;
	int r;

	batch_cursor_start(&c, v);
	while ((r = batch_next(&c, &rec)) == 1)
		for (uint32_t i = 0; rec.type == RECORD_WRITE && rec.write.out_of_line && i < rec.write.n_runs; i++)
			settle_run(fs->arena, rec.write.runs[i], fate);
	return r;
}

int replica_window_keep(struct fs *fs, const struct record *r)
{
	int e = 0;

	if (fs->config.read_only || r->type != RECORD_WRITE || !r->write.out_of_line)
		return 0;
	for (uint32_t i = 0; i < r->write.n_runs && e == 0; i++) {
		e = arena_claim(fs->arena, r->write.runs[i]);
		if (e == 0)
			arena_hide(fs->arena, r->write.runs[i]);
	}
	return e;
}

/* ---- put ---- */

bool window_takes(struct replica *rep)
{
	const struct taken_batch *t = &rep->taken;
	const struct window w = window_now(rep->fs);

	if (rep->fs->config.sabotage & FS_SABOTAGE_APPLY_IN_WINDOW)
		return false;
	/* What is superseded within the batch is whole with it.  Behind a fence already, there is no state to keep. */
	return w.first || (t->fence > t->info.seq && w.fence <= w.applied);
}

/* Its blocks stay hidden. */
static int append(struct replica *rep) REQUIRES(rep->follow_lock)
{
	struct taken_batch *t = &rep->taken;
	struct fs *fs = rep->fs;
	struct batch_view view;

	rwlock_rdlock(&fs->gate);
	int r = taken_append(fs, t, &view);
	rwlock_rdunlock(&fs->gate);
	if (r < 0)
		return r;
	t->n_runs = 0; /* the journal names them */
	rep->finished.seq = t->info.seq;
	rep->finished.hash = t->info.hash;
	return 0;
}

static int append_with_room(struct replica *rep) REQUIRES(rep->follow_lock)
{
	int r = append(rep);

	if (r != -ENOSPC)
		return r;
	r = replica_empty_ring(rep->fs);
	return r < 0 ? r : append(rep);
}

int window_put(struct replica *rep)
{
	const struct window w = window_now(rep->fs);
	uint64_t fence = rep->taken.fence > rep->taken.info.seq ? rep->taken.fence : 0;
	bool raised = !w.first || fence > w.fence;
	int r = raised ? replica_change_super(rep->fs, raise_fence, fence) : 0;

	if (r == 0)
		r = append_with_room(rep);
	if (r < 0 && raised && !atomic_load(&rep->fs->failed)) {
		int e = replica_change_super(rep->fs, w.first ? lower_fence : forget, w.fence);
		(void)e; /* fenced for longer than need be; recovery forgets a window without batches */
	}
	return r;
}

/* ---- apply ---- */

/* Without threads nobody else makes a checkpoint. */
static int wait_memory(struct fs *fs)
{
	if (!fs->services_started && fs->kv->ops->memory_bytes(fs->kv) >= fs->config.memory_bytes / 8)
		return fs_checkpoint(fs);
	return op_wait_memory(fs);
}

/* One step to a checkpoint, under the gate, shared. */
static int apply_locked(struct replica *rep, const struct journal_batch *b, uint64_t promised) REQUIRES(rep->follow_lock)
{
	struct fs *fs = rep->fs;
	int r = promised ? arena_reserve(fs->arena, promised) : 0;

	if (r < 0)
		return r;
	r = replica_blocks(fs, &b->view, BLOCKS_SHOW);
	if (r == 0)
		r = replica_apply(fs, &b->view, b->info.seq, promised);
	if (r < 0) { /* half of it: only a recovery can tell */
		fs_fail(fs, r, "applying batch %llu", (unsigned long long)b->info.seq);
		return r;
	}
	rep->finished.seq = b->info.seq;
	rep->finished.hash = b->info.hash;
	atomic_store(&fs->applied_seq, b->info.seq);
	return 0;
}

struct alone {
	struct replica *rep;
	const struct journal_batch *batch;
	uint64_t promised;
};

/* The gate is held, exclusive, and with it the follower's lock. */
static int apply_alone(void *ctx) NO_THREAD_SAFETY
{
	const struct alone *a = ctx;

	return apply_locked(a->rep, a->batch, a->promised);
}

static int apply_next(struct replica *rep, struct journal_batch *b) REQUIRES(rep->follow_lock)
{
	struct fs *fs = rep->fs;
	uint64_t seq = atomic_load(&fs->applied_seq) + 1, promised = 0;
	bool tried = false;
	struct record snap;
	int r = wait_memory(fs);

	if (r == 0)
		r = journal_copy_batch(fs->journal, seq, b);
	if (r == 0)
		r = replica_check(fs, &b->view, seq, b->info.epoch, &promised);
	if (r < 0)
		return r;
	if (replica_batch_is_snap(&b->view, &snap) && snap.type == RECORD_SNAPROLL) {
		struct alone alone = {.rep = rep, .batch = b, .promised = promised};

		return snap_follow(fs, &snap, apply_alone, &alone);
	}
	/* A snapshot that is made or dropped changes what is shared, which nobody may be looking at. */
	if (replica_batch_is_snap(&b->view, &snap)) {
		rwlock_wrlock(&fs->gate);
		r = apply_locked(rep, b, promised);
		rwlock_wrunlock(&fs->gate);
		return r;
	}
	do {
		rwlock_rdlock(&fs->gate);
		r = apply_locked(rep, b, promised);
		rwlock_rdunlock(&fs->gate);
	} while (op_retry_space(fs, r, &tried));
	return r;
}

static int apply_batches(struct replica *rep, uint64_t newest) REQUIRES(rep->follow_lock)
{
	struct journal_batch b = {0};
	int r = 0;

	while (r == 0 && atomic_load(&rep->fs->applied_seq) < newest)
		r = apply_next(rep, &b);
	journal_batch_free(&b);
	return r;
}

/* ---- cut ---- */

static int give_back_blocks(struct fs *fs, const struct window *w)
{
	struct journal_batch b = {0};
	int r = 0;

	for (uint64_t seq = w->applied + 1; seq <= w->newest && r == 0; seq++) {
		r = journal_copy_batch(fs->journal, seq, &b);
		if (r == -EBADMSG || r == -EUCLEAN) {
			log_warn("batch %llu cannot be read back: the blocks it names stay in use until the next mount",
				 (unsigned long long)seq);
			r = 0;
		} else if (r == 0) {
			r = replica_blocks(fs, &b.view, BLOCKS_GIVE_BACK);
		}
	}
	journal_batch_free(&b);
	return r;
}

/* No homer step may take the blocks, and no checkpoint look at the journal, before the window is gone for good. */
static int cut_locked(struct fs *fs, const struct window *w) REQUIRES(fs->ckpt_lock, fs->maint)
{
	struct super s;
	int r = journal_commit_all(fs->journal, NULL);

	if (r < 0)
		return r;
	replica_get_super(fs, &s);
	r = give_back_blocks(fs, w);
	if (r == 0)
		r = journal_cut(fs->journal, &(struct journal_cut){w->applied + 1, s.incarnation + 1});
	if (r == 0)
		r = replica_change_super(fs, make_void, w->applied);
	if (r < 0)
		fs_fail(fs, r, "cutting off batches that were not applied");
	return r;
}

static int cut(struct replica *rep, const struct window *w) REQUIRES(rep->follow_lock)
{
	struct fs *fs = rep->fs;

	log_info("batches %llu to %llu, which waited for the newer data of batch %llu, are dropped: this node is at batch %llu",
		 (unsigned long long)w->applied + 1, (unsigned long long)w->newest, (unsigned long long)w->fence,
		 (unsigned long long)w->applied);
	mutex_lock(&fs->ckpt_lock);
	mutex_lock(&fs->maint);
	int r = cut_locked(fs, w);
	mutex_unlock(&fs->maint);
	mutex_unlock(&fs->ckpt_lock);
	return r;
}

/* ---- settle, give up, leave ---- */

/* A batch that does not fit, or was damaged in the ring, ends it: it is not applied now or later. */
static int end_window(struct replica *rep, int error) REQUIRES(rep->follow_lock)
{
	const struct window w = window_now(rep->fs);

	if (error == 0)
		return replica_change_super(rep->fs, close_window, w.applied);
	if ((error == -EBADMSG || error == -EUCLEAN) && !atomic_load(&rep->fs->failed)) {
		int e = cut(rep, &w);
		(void)e; /* said; the volume has stopped */
	}
	return error;
}

static int apply_window(struct replica *rep) REQUIRES(rep->follow_lock)
{
	struct fs *fs = rep->fs;
	uint64_t applied = atomic_load(&fs->applied_seq);
	int r = journal_commit_all(fs->journal, NULL); /* it is read back, and the fence is durable before anything is applied */

	if (r < 0)
		return r;
	atomic_store(&rep->applying, true);
	replica_judge(fs);
	rep->untold = rep->untold ? rep->untold : applied + 1;
	atomic_store(&fs->telling_seq, rep->untold);
	r = end_window(rep, apply_batches(rep, replica_newest(fs)));
	atomic_store(&rep->applying, false);
	replica_judge(fs);
	services_pressure(fs); /* there is data to bring home again */
	return r;
}

int window_settle(struct replica *rep)
{
	const struct window w = window_now(rep->fs);

	return w.first && (has_begun(&w) || w.newest >= w.fence) ? apply_window(rep) : 0;
}

int window_give_up(struct replica *rep)
{
	const struct window w = window_now(rep->fs);

	if (!w.first)
		return 0;
	log_warn("there is no room for the batches from %llu on that wait for batch %llu: this node cannot be read or lead until "
		 "it has that",
		 (unsigned long long)w.first, (unsigned long long)w.fence);
	return apply_window(rep);
}

int window_leave(struct replica *rep)
{
	int r = window_settle(rep);
	const struct window w = window_now(rep->fs);

	if (!w.first || atomic_load(&rep->fs->failed))
		return replica_failed(rep->fs);
	if (r < 0)
		log_warn("batches that waited for the newer data of batch %llu cannot be applied: %s",
			 (unsigned long long)w.fence, strerror(-r));
	return w.newest >= w.first ? cut(rep, &w) : replica_change_super(rep->fs, forget, 0);
}

int replica_window_resume(struct fs *fs)
{
	struct replica *rep = fs->replica;
	const struct window w = window_now(fs);

	if (!w.first)
		return 0;
	if (w.newest < w.first) /* nothing came after the mark */
		return replica_change_super(fs, forget, 0);
	mutex_lock(&rep->follow_lock);
	int r = window_settle(rep);
	rep->untold = 0; /* nobody has seen anything yet */
	mutex_unlock(&rep->follow_lock);
	atomic_store(&fs->telling_seq, 0);
	if (r < 0 && !atomic_load(&fs->failed)) {
		log_warn("batches that waited for the newer data of batch %llu are not applied yet: %s",
			 (unsigned long long)w.fence, strerror(-r));
		r = 0;
	}
	return r;
}

/* ---- tell ---- */

static int report_batches(struct fs *fs, uint64_t first, uint64_t last)
{
	struct journal_batch b = {0};
	int r = last - first < TELL_BATCHES ? 0 : -E2BIG;

	for (uint64_t seq = first; seq <= last && r == 0; seq++) {
		r = journal_copy_batch(fs->journal, seq, &b);
		if (r == 0)
			replica_report(fs, &b.view);
	}
	journal_batch_free(&b);
	return r;
}

bool window_tell(struct replica *rep)
{
	struct fs *fs = rep->fs;

	mutex_lock(&rep->follow_lock);
	uint64_t first = rep->untold, last = atomic_load(&fs->applied_seq);
	rep->untold = 0;
	mutex_unlock(&rep->follow_lock);
	if (!first)
		return false;
	if (report_batches(fs, first, last) < 0)
		replica_changed(fs, &(struct fs_change){.kind = CHANGE_ALL});
	atomic_store(&fs->telling_seq, 0);
	positions_reached(fs);
	return true;
}
