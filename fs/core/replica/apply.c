/*
 * apply.c: a follower appends a batch that it has taken whole, and applies it.
 *
 * In order, and all of it as one step to a checkpoint (under the gate, shared):
 *
 *     room in the ring and in memory, as before any operation
 *     a fence goes to the superblock before the batch whose data was superseded: nobody reads what only looks complete.  That is
 *     for a volume that has no state to keep any more; else the batch goes to a window (window.c), and only there
 *     space is promised, so that applying cannot fail for it; the blocks that the batch names are shown
 *     the batch is appended to the journal: from here on it survives kill -9, and nothing may refuse it any more
 *     operation by operation, under the stripes of the inodes it names, by the code that applied it on the leader
 *
 * What is left behind after an error is nothing but the blocks taken, which drop_batch() gives back; an error of applying itself
 * is damage, or no memory, and stops the volume, as it does on a leader.
 */
#include "fs/core/replica/impl.h"

#include <errno.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/snap/snap.h"

#define HOME_BLOCKS 4096u

/* ---- room ---- */

/* Without threads nobody else empties the ring, and who drives us cannot know how much comes. */
static int empty_ring(struct fs *fs)
{
	struct journal_status js;
	bool more = true;
	int r = 0;

	journal_get_status(fs->journal, &js);
	if (js.used_blocks < js.ring_blocks / 4) /* below where any writer waits */
		return 0;
	r = journal_commit_all(fs->journal, NULL);
	while (r == 0 && more)
		r = fs_home_step(fs, HOME_BLOCKS, &more);
	return r < 0 ? r : fs_checkpoint(fs);
}

int replica_wait_room(struct fs *fs)
{
	int r = fs->services_started ? 0 : empty_ring(fs);

	return r < 0 ? r : op_wait_room(fs);
}

/* ---- the fence ---- */

static int raise_fence(struct fs *fs, struct super *s, uint64_t fence)
{
	(void)fs;
	s->fence = max_u64(s->fence, fence);
	return 0;
}

/* The batch did not come in after all. */
static int lower_fence(struct fs *fs, struct super *s, uint64_t fence)
{
	(void)fs;
	s->fence = fence;
	return 0;
}

/* What was behind it is durable: the superblock need not say so any more. */
static int forget_fence(struct fs *fs, struct super *s, uint64_t durable_seq)
{
	(void)fs;
	if (s->fence <= durable_seq)
		s->fence = 0;
	return 0;
}

/* ---- append ---- */

static void show_blocks(struct fs *fs, const struct taken_batch *t, bool show)
{
	for (size_t i = 0; i < t->n_runs; i++)
		if (show)
			arena_show(fs->arena, t->runs[i]);
		else
			arena_hide(fs->arena, t->runs[i]);
}

int taken_append(struct fs *fs, struct taken_batch *t, struct batch_view *ret_view)
{
	t->view.local = t->local.p;
	t->view.n.local_bytes = (uint32_t)t->local.len;
	t->info.n = t->view.n;
	t->info.local_crc = crc32c(0, t->local.p, t->local.len);
	return journal_append_batch(fs->journal, &t->info, &t->view, ret_view);
}

static int append(struct fs *fs, struct taken_batch *t, struct batch_view *ret_view)
{
	show_blocks(fs, t, true);
	int r = taken_append(fs, t, ret_view);
	if (r < 0)
		show_blocks(fs, t, false);
	return r;
}

/* ---- apply ---- */

/* Steps over one operation; *ret are the inodes it names, at most as many as a lockset takes (replica_check()). */
static int operation_inodes(struct batch_cursor *ahead, uint64_t ret[RECORD_INODES_MAX], uint32_t *ret_n)
{
	uint64_t inos[RECORD_INODES_MAX];
	struct record rec;
	int r;

	*ret_n = 0;
	do {
		r = batch_next(ahead, &rec);
		if (r != 1)
			return r < 0 ? r : -EUCLEAN;
		uint32_t n = record_inodes(&rec, inos);
		for (uint32_t i = 0; i < n; i++) {
			uint32_t k = 0;

			while (k < *ret_n && ret[k] != inos[i])
				k++;
			if (k == RECORD_INODES_MAX)
				return -EUCLEAN;
			if (k == *ret_n)
				ret[(*ret_n)++] = inos[i];
		}
	} while (rec.flags & RECORD_MORE);
	return 0;
}

static int apply_operation(struct fs *fs, struct batch_cursor *ahead, struct batch_cursor *at, uint64_t seq,
			   struct applied *applied)
{
	uint64_t inos[RECORD_INODES_MAX];
	struct lockset ls;
	struct record rec;
	uint32_t n;
	int r = operation_inodes(ahead, inos, &n);

	if (r < 0)
		return r;
	lockset_lock(fs->icache, &ls, inos, n);
	do {
		r = batch_next(at, &rec);
		if (r == 1)
			r = apply_record(fs, &rec, seq, applied);
	} while (r == 0 && rec.flags & RECORD_MORE);
	lockset_unlock(fs->icache, &ls);
	return r;
}

static int apply_batch(struct fs *fs, const struct batch_view *v, uint64_t seq, struct applied *applied)
{
	struct batch_cursor ahead, at;
	int r = 0;

	sums_restart(fs, seq, v->n.n_records);
	batch_cursor_start(&ahead, v);
	batch_cursor_start(&at, v);
	while (r == 0 && at.used.n_records < v->n.n_records)
		r = apply_operation(fs, &ahead, &at, seq, applied);
	if (r < 0)
		fs_fail(fs, r, "batch %llu of the leader could not be applied to the index", (unsigned long long)seq);
	return r;
}

int replica_apply(struct fs *fs, const struct batch_view *v, uint64_t seq, uint64_t promised)
{
	struct applied applied = {0};
	int r = apply_batch(fs, v, seq, &applied);
	int64_t back = (int64_t)promised - applied.reserved;

	if (back > 0)
		arena_unreserve(fs->arena, (uint64_t)back);
	return r;
}

static int append_and_apply(struct fs *fs, struct taken_batch *t)
{
	struct batch_view view;
	int r = t->promised ? arena_reserve(fs->arena, t->promised) : 0;

	if (r < 0)
		return r;
	r = append(fs, t, &view);
	if (r < 0) {
		arena_unreserve(fs->arena, t->promised);
		return r;
	}
	t->n_runs = 0; /* the journal names them */
	return replica_apply(fs, &view, t->info.seq, t->promised);
}

static void finished(struct replica *rep, const struct batch_info *info) REQUIRES(rep->follow_lock)
{
	struct fs *fs = rep->fs;

	rep->finished.seq = info->seq;
	rep->finished.hash = info->hash;
	atomic_store(&fs->telling_seq, rep->untold ? rep->untold : info->seq);
	atomic_store(&fs->applied_seq, info->seq);
	if (fs_readable(fs) < 0)
		replica_judge(fs);
}

static int bring_in(struct replica *rep) REQUIRES(rep->follow_lock)
{
	struct taken_batch *t = &rep->taken;
	struct fs *fs = rep->fs;
	bool tried = false;
	int r;

	do {
		rwlock_rdlock(&fs->gate);
		r = append_and_apply(fs, t);
		if (r == 0)
			finished(rep, &t->info);
		rwlock_rdunlock(&fs->gate);
	} while (op_retry_space(fs, r, &tried));
	return r;
}

bool replica_batch_is_snap(const struct batch_view *v, struct record *ret)
{
	struct batch_cursor c;

	if (v->n.n_records != 1)
		return false;
	batch_cursor_start(&c, v);
	return batch_next(&c, ret) == 1 &&
	       (ret->type == RECORD_SNAP || ret->type == RECORD_SNAPDROP || ret->type == RECORD_SNAPROLL);
}

/* The gate is held, exclusive, and with it the follower's lock. */
static int bring_in_alone(void *ctx) NO_THREAD_SAFETY
{
	struct replica *rep = ctx;
	int r = append_and_apply(rep->fs, &rep->taken);

	if (r == 0)
		finished(rep, &rep->taken.info);
	return r;
}

static int bring_in_fenced(struct replica *rep) REQUIRES(rep->follow_lock)
{
	struct fs *fs = rep->fs;
	struct super s;

	replica_get_super(fs, &s);
	int r = replica_change_super(fs, raise_fence, rep->taken.fence);
	if (r < 0)
		return r;
	r = bring_in(rep);
	if (r < 0 && !atomic_load(&fs->failed)) {
		int e = replica_change_super(fs, lower_fence, s.fence);
		(void)e; /* fenced for longer than need be */
	}
	return r;
}

static int append_and_apply_now(struct replica *rep) REQUIRES(rep->follow_lock)
{
	struct taken_batch *t = &rep->taken;
	struct record snap;
	int r = replica_wait_room(rep->fs);

	if (r == 0 && !t->checked) /* the window that it was to go to was given up, or homes were evicted since */
		r = replica_check(rep->fs, &t->view, t->info.seq, t->epoch, &t->promised);
	if (r < 0)
		return r;
	if (replica_batch_is_snap(&t->view, &snap))
		return snap_follow(rep->fs, &snap, bring_in_alone, rep);
	return t->fence > t->info.seq ? bring_in_fenced(rep) : bring_in(rep);
}

/* *ret_applied: else it waits in the window, or was applied with all of that. */
static int finish_locked(struct replica *rep, bool *ret_applied) REQUIRES(rep->follow_lock)
{
	struct taken_batch *t = &rep->taken;
	int r = t->begun && t->n_taken == t->n_data ? replica_check_sender(rep->fs, t->epoch) : -EINVAL;

	*ret_applied = false;
	if (r < 0)
		return r;
	if (window_takes(rep)) {
		r = window_put(rep);
		if (r == 0)
			return window_settle(rep);
		if (r == -ENOSPC)
			r = window_give_up(rep);
	}
	*ret_applied = true;
	return r < 0 ? r : append_and_apply_now(rep);
}

int replica_finish_batch(struct replica_volume *v)
{
	struct replica *rep = replica_of(v);
	struct taken_batch done = {0};
	bool applied;

	mutex_lock(&rep->follow_lock);
	int r = finish_locked(rep, &applied);
	if (r == 0 && !applied)
		taken_reset(&rep->taken);
	if (r == 0 && applied) { /* whoever is told what changed may ask for a change of role, which needs the lock */
		done = rep->taken;
		rep->taken = (struct taken_batch){0};
	}
	mutex_unlock(&rep->follow_lock);
	applied = applied && r == 0;
	if (applied)
		replica_report(rep->fs, &done.view);
	if (!window_tell(rep) && applied) {
		atomic_store(&rep->fs->telling_seq, 0);
		positions_reached(rep->fs);
	}
	if (!applied)
		return r;
	taken_reset(&done);
	mutex_lock(&rep->follow_lock);
	if (!rep->taken.memory && !rep->taken.begun) {
		rep->taken = done;
		done = (struct taken_batch){0};
	}
	mutex_unlock(&rep->follow_lock);
	taken_free(&done);
	return 0;
}

int replica_commit(struct replica_volume *v, uint64_t *ret_durable_seq)
{
	struct fs *fs = replica_fs(v);
	struct super s;
	int r = journal_commit_all(fs->journal, ret_durable_seq);

	if (r < 0)
		return r;
	*ret_durable_seq = window_bound(fs, *ret_durable_seq);
	replica_get_super(fs, &s);
	if (s.window || s.fence == 0 || s.fence > *ret_durable_seq)
		return 0;
	return replica_change_super(fs, forget_fence, *ret_durable_seq);
}
