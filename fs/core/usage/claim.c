/*
 * claim.c: what an operation will need of the quotas above, reserved before its record is appended.
 *
 * An operation that lets something grow states what it wants (a *claim*) under its stripes.  fs_log_claimed() holds that against
 * every quota above before it appends the record; what is held counts as used for all others, and in the moment in which the
 * record is counted the hold ends (usage_after()).  So no number of threads gets beyond a limit, and none is refused what would
 * fit.
 *
 * A directory that moves from below one quota to below another brings what is in it, which may change meanwhile by operations
 * that know nothing of the move.  So these operations have the *gate* shared from claim to end, and the move has it alone, as the
 * making of the list of quotas has.  Whoever has the gate waits for no stripe.
 */
#include <errno.h>
#include <sys/stat.h>

#include "fs/core/usage/usage_impl.h"

void claim_add(struct quota_claim *c, uint64_t dir, int64_t bytes, int64_t entries)
{
	c->want[c->n_wants].dir = dir;
	c->want[c->n_wants].bytes = bytes;
	c->want[c->n_wants++].entries = entries;
}

void claim_size(struct quota_claim *c, const struct inode *in, uint64_t size)
{
	if (in->nlink > 0 && size > in->size)
		claim_add(c, in->parent, (int64_t)(size - in->size), 0);
}

void claim_move(struct quota_claim *c, const struct inode *in, uint64_t from, uint64_t to)
{
	if (S_ISDIR(in->mode)) {
		if (from == to)
			return;
		c->move[c->n_moves].dir = in->ino;
		c->move[c->n_moves].from = from;
		c->move[c->n_moves++].to = to;
	} else {
		claim_add(c, in->parent, -(int64_t)in->size, -1);
		claim_add(c, to, (int64_t)in->size, 1);
	}
}

static void forget_wants(struct quota *q, int64_t bytes, int64_t entries)
{
	(void)bytes;
	(void)entries;
	q->want_bytes = q->want_entries = 0;
}

static void want(struct quota *q, int64_t bytes, int64_t entries)
{
	q->want_bytes += bytes;
	q->want_entries += entries;
}

/* Once a quota: what it wants is dealt with, and gone. */
static void hold(struct quota *q, int64_t bytes, int64_t entries)
{
	(void)bytes;
	(void)entries;
	q->held_bytes += q->want_bytes > 0 ? q->want_bytes : 0;
	q->held_entries += q->want_entries > 0 ? q->want_entries : 0;
	q->want_bytes = q->want_entries = 0;
}

static void unhold(struct quota *q, int64_t bytes, int64_t entries)
{
	(void)bytes;
	(void)entries;
	q->held_bytes -= q->want_bytes > 0 ? q->want_bytes : 0;
	q->held_entries -= q->want_entries > 0 ? q->want_entries : 0;
	q->want_bytes = q->want_entries = 0;
}

static bool fits(int64_t used, int64_t held, int64_t wanted, uint64_t max)
{
	return wanted <= 0 || (used + held <= (int64_t)min_u64(max, INT64_MAX) &&
			       (uint64_t)wanted <= max - (uint64_t)(used + held > 0 ? used + held : 0));
}

static int each_wanted(struct fs *fs, const struct quota_claim *c, quota_fn *fn) REQUIRES(fs->usage->lock)
{
	int r = 0;

	for (uint32_t i = 0; i < c->n_wants && r == 0; i++)
		r = quota_each_above(fs, c->want[i].dir, fn, c->want[i].bytes, c->want[i].entries);
	return r;
}

/* What the claim's directories bring to the quotas that they move to, and take from those that they leave. */
static int each_moved(struct fs *fs, const struct quota_claim *c, quota_fn *fn) REQUIRES(fs->usage->lock)
{
	struct usage_sum sum;
	int r = 0;

	for (uint32_t i = 0; i < c->n_moves && r == 0; i++) {
		r = usage_total(fs, c->move[i].dir, &sum);
		if (r == 0)
			r = quota_each_above(fs, c->move[i].from, fn, -sum.bytes, -sum.files - sum.subdirs - 1);
		if (r == 0)
			r = quota_each_above(fs, c->move[i].to, fn, sum.bytes, sum.files + sum.subdirs + 1);
	}
	return r;
}

static int check_above(struct fs *fs, uint64_t dir) REQUIRES(fs->usage->lock)
{
	int32_t at;
	int r = quota_nearest(fs, dir, &at);

	while (r == 0 && at >= 0) {
		const struct quota *q = &fs->usage->quotas.quota[at];

		if (!fits(q->bytes, q->held_bytes, q->want_bytes, q->max_bytes) ||
		    !fits(q->entries, q->held_entries, q->want_entries, q->max_entries))
			return -EDQUOT;
		r = quota_above(fs, &at);
	}
	return r;
}

/* -EDQUOT, or everything is held; of moves, which are alone, nothing need be. */
static int reserve(struct fs *fs, struct quota_claim *c) REQUIRES(fs->usage->lock)
{
	bool moves = c->held == CLAIM_ALONE;
	int r = each_wanted(fs, c, forget_wants);

	if (r == 0 && moves)
		r = each_moved(fs, c, forget_wants);
	if (r == 0)
		r = each_wanted(fs, c, want);
	if (r == 0 && moves)
		r = each_moved(fs, c, want);
	for (uint32_t i = 0; i < c->n_wants && r == 0; i++)
		r = check_above(fs, c->want[i].dir);
	for (uint32_t i = 0; i < c->n_moves && r == 0 && moves; i++)
		r = check_above(fs, c->move[i].to);
	for (uint32_t i = 0; i < c->n_moves && r == 0 && moves; i++)
		r = check_above(fs, c->move[i].from); /* of an exchange */
	if (r == 0 && !moves) {
		r = each_wanted(fs, c, hold);
		c->reserved = r == 0;
	}
	return r;
}

void claim_release(struct fs *fs, struct quota_claim *c) REQUIRES(fs->usage->lock)
{
	if (!c->reserved)
		return;
	c->reserved = false;
	if (!atomic_load(&fs->usage->quotas.any))
		return;
	int r = each_wanted(fs, c, forget_wants);
	if (r == 0)
		r = each_wanted(fs, c, want);
	if (r == 0)
		r = each_wanted(fs, c, unhold);
	if (r < 0)
		usage_lost(fs, r);
}

/* Whether a directory leaves quotas or comes below others. */
static int crosses(struct fs *fs, const struct quota_claim *c, bool *ret) REQUIRES(fs->usage->lock)
{
	int r = 0;

	*ret = false;
	for (uint32_t i = 0; i < c->n_moves && r == 0; i++) {
		int32_t from, to = -1;

		r = quota_nearest(fs, c->move[i].from, &from);
		if (r == 0)
			r = quota_nearest(fs, c->move[i].to, &to);
		*ret |= r == 0 && from != to;
	}
	return r;
}

/* -EAGAIN: it has to be alone. */
static int take_locked(struct fs *fs, struct quota_claim *c) REQUIRES(fs->usage->lock)
{
	bool alone = false;

	if (!atomic_load(&fs->usage->quotas.any))
		return 0;
	int r = crosses(fs, c, &alone);
	if (r == 0 && alone && c->held != CLAIM_ALONE)
		return -EAGAIN;
	if (r == 0)
		r = reserve(fs, c);
	if (r < 0 && r != -EDQUOT) {
		usage_lost(fs, r);
		r = 0;
	}
	return r;
}

static void gate_leave(struct fs *fs, struct quota_claim *c) NO_THREAD_SAFETY
{
	struct quotas *qs = &fs->usage->quotas;

	if (c->held == CLAIM_SHARED)
		rwlock_rdunlock(&qs->gate);
	else if (c->held == CLAIM_ALONE)
		rwlock_wrunlock(&qs->gate);
	c->held = CLAIM_NONE;
}

int claim_take(struct fs *fs, struct quota_claim *c) NO_THREAD_SAFETY
{
	c->held = CLAIM_NONE;
	c->reserved = false;
	if (c->n_wants + c->n_moves == 0)
		return 0;
	quotas_refresh(fs);
	if (!atomic_load_explicit(&fs->usage->quotas.any, memory_order_relaxed))
		return 0;
	rwlock_rdlock(&fs->usage->quotas.gate);
	c->held = CLAIM_SHARED;
	mutex_lock(&fs->usage->lock);
	int r = take_locked(fs, c);
	mutex_unlock(&fs->usage->lock);
	if (r == -EAGAIN) {
		gate_leave(fs, c);
		rwlock_wrlock(&fs->usage->quotas.gate);
		c->held = CLAIM_ALONE;
		mutex_lock(&fs->usage->lock);
		r = take_locked(fs, c);
		mutex_unlock(&fs->usage->lock);
	}
	if (r < 0)
		gate_leave(fs, c);
	return r;
}

void claim_end(struct fs *fs, struct quota_claim *c)
{
	if (c->reserved) {
		mutex_lock(&fs->usage->lock);
		claim_release(fs, c);
		mutex_unlock(&fs->usage->lock);
	}
	gate_leave(fs, c);
}
