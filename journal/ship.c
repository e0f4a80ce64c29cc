/*
 * ship.c: whole batches out of the journal and into it, and a journal that begins anew.
 *
 * Out: positions only grow, so what lies behind the tail stays in the ring until the write of a later batch reaches it, one lap
 * further on.  A batch is sealed, and its end becomes a point, before it is written: so batch s is untouched for as long as
 * the newest point is no more than a lap behind where s begins.  A copy is read without the lock, verified against the points
 * on both sides of it, and when that fails the points say whether it was damaged or overwritten meanwhile.
 *
 * In: the batch before it is committed, then the sections go to the empty staging file and are published in one step.  From then
 * on it is a batch like any other, but nothing is added to it (staging_fits) and a recovery takes it whole or not at all.
 *
 * Reset: the journal goes on after another seq, which may be lower than those it held: a leader's history that replaces ours.
 * What the ring holds cannot be wiped in one step, so it is left where it is and made meaningless by its position: the new
 * place lies beyond everything ever written, and neither a batch nor evidence of one (replay.c) counts from before the place
 * where replay looks.  The staging files are begun anew and claim no floor, so until the caller has made the new point durable a
 * replay from the old one finds the old batches, and from then on one from the new point finds none of them.
 *
 * Cut: the newest batches go, and others of the same seqs come at the same places.  Nothing of the ring is written: the batches
 * stay where they are until they are written over, and are told by the incarnation that wrote them (replay.c).  A torn write over
 * one of them leaves a batch that is void or one that is not whole: the end, both times.
 */
#include "journal/ship.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "journal/state.h"

#define COPY_LOCKED_MAX_BLOCKS ((uint32_t)(256 * KIB / BLOCK_SIZE)) /* 20 us; a larger one comes from the ring */

/* A batch by the points on both sides of it. */
struct span {
	struct journal_point before, after;
};

static uint32_t span_blocks(const struct span *s)
{
	assert(s->after.pos - s->before.pos <= BATCH_MAX_BLOCKS);
	return (uint32_t)(s->after.pos - s->before.pos);
}

/* Out */

void journal_batch_free(struct journal_batch *b)
{
	free(b->memory);
	*b = (struct journal_batch){0};
}

/* The oldest point with nothing overwritten behind it.  From the tail on nothing ever is. */
static uint64_t history_locked(struct journal *j) REQUIRES(j->lock)
{
	uint64_t end = point_at(j, j->sealed_seq)->pos, high = j->tail_seq,
		 low = max_u64(j->origin_seq, j->sealed_seq < j->points_cap ? 0 : j->sealed_seq + 1 - j->points_cap);

	assert(low <= high && end - point_at(j, high)->pos <= j->ring.n_blocks);
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		if (end - point_at(j, middle)->pos <= j->ring.n_blocks)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static int find_locked(struct journal *j, uint64_t seq, struct span *ret) REQUIRES(j->lock)
{
	if (seq > j->durable_seq)
		return -EAGAIN;
	if (seq <= history_locked(j))
		return -ENOENT;
	*ret = (struct span){.before = *point_at(j, seq - 1), .after = *point_at(j, seq)};
	return 0;
}

/* False once a later batch may have been written over it. */
static bool is_still_there(struct journal *j, const struct span *at)
{
	struct span now;

	mutex_lock(&j->lock);
	int r = find_locked(j, at->after.seq, &now);
	mutex_unlock(&j->lock);
	return r == 0 && now.before.pos == at->before.pos; /* after a reset the same seq may be another batch */
}

static int make_room(struct journal_batch *b, size_t bytes)
{
	if (bytes <= b->cap)
		return 0;
	uint8_t *memory = aligned_alloc(BLOCK_SIZE, bytes);
	if (!memory)
		return -ENOMEM;
	free(b->memory);
	b->memory = memory;
	b->cap = bytes;
	return 0;
}

/* True when a staging file still has it. */
static bool copy_memory(struct journal *j, const struct span *at, uint8_t *to)
{
	bool found = false;

	if (span_blocks(at) > COPY_LOCKED_MAX_BLOCKS)
		return false;
	mutex_lock(&j->lock);
	for (unsigned i = 0; !found && i < STAGING_FILES; i++) {
		const struct staging *s = &j->staging[i];
		found = s->n.n_records && s->prev.pos == at->before.pos;
		if (found)
			staging_copy(s, to);
	}
	mutex_unlock(&j->lock);
	return found;
}

/* The bytes in b->memory, against what is known of the batch.  A header alone bounds nothing: it is compared first. */
static int verify_copy(const struct journal *j, const struct span *at, struct journal_batch *b)
{
	struct batch_info info;
	int r = batch_header_check((const void *)b->memory, j->config.volume, &info);

	if (r)
		return r;
	if (info.seq != at->after.seq || info.pos != at->before.pos || info.prev_hash != at->before.hash ||
	    info.hash != at->after.hash || batch_blocks(&info.n) != span_blocks(at))
		return -EBADMSG;
	r = batch_verify(b->memory, &info, &b->view);
	if (r == 0)
		b->info = info;
	return r;
}

int journal_copy_batch(struct journal *j, uint64_t seq, struct journal_batch *b)
{
	struct span at;

	mutex_lock(&j->lock);
	int r = find_locked(j, seq, &at);
	mutex_unlock(&j->lock);
	if (!r)
		r = make_room(b, (size_t)span_blocks(&at) * BLOCK_SIZE);
	if (r)
		return r;
	if (!copy_memory(j, &at, b->memory))
		r = ring_read(&j->ring, at.before.pos, span_blocks(&at), b->memory);
	if (!r)
		r = verify_copy(j, &at, b);
	return r && !is_still_there(j, &at) ? -ENOENT : r;
}

uint64_t journal_oldest(struct journal *j)
{
	mutex_lock(&j->lock);
	uint64_t seq = history_locked(j) + 1;
	mutex_unlock(&j->lock);
	return seq;
}

int journal_history_point(struct journal *j, uint64_t seq, struct journal_point *ret)
{
	mutex_lock(&j->lock);
	bool known = seq >= history_locked(j) && seq <= j->sealed_seq;
	if (known)
		*ret = *point_at(j, seq);
	mutex_unlock(&j->lock);
	return known ? 0 : -ENOENT;
}

/* In */

/* Whether a batch of that seq and prev_hash is the next one. */
static bool continues_locked(struct journal *j, const struct batch_info *info) REQUIRES(j->lock)
{
	struct journal_point newest = *point_at(j, j->sealed_seq);

	if (open_staging(j)->n.n_records)
		staging_point_after(open_staging(j), &newest);
	return info->seq == newest.seq + 1 && info->prev_hash == newest.hash;
}

static int check_next(struct journal *j, const struct batch_info *info)
{
	mutex_lock(&j->lock);
	int r = j->started ? j->error : -EROFS;
	if (!r && (info->epoch == 0 || !continues_locked(j, info)))
		r = -EINVAL;
	mutex_unlock(&j->lock);
	return r;
}

/* The open batch, empty now that the one before is durable.  It stays empty, since nobody else appends. */
static int empty_batch(struct journal *j, const struct batch_counts *need, struct staging **ret)
{
	mutex_lock(&j->lock);
	struct staging *s = open_staging(j);
	assert(s->n.n_records == 0);
	int r = need->n_records == 0 || !staging_fits(s, need) ? -EINVAL : 0;
	if (!r && !journal_ring_has_room_locked(j, need))
		r = -ENOSPC;
	mutex_unlock(&j->lock);
	*ret = s;
	return r;
}

/* True when homer or committer should be woken. */
static bool publish(struct journal *j, struct staging *s, const struct batch_info *info, const struct batch_counts *n,
		    struct batch_view *ret_view)
{
	mutex_lock(&j->lock);
	assert(s == open_staging(j) && staging_seq(s) == info->seq);
	staging_publish_whole(s, info, n);
	staging_view(s, ret_view);
	j->open_since_ns = clock_mono_ns(j->config.clock);
	bool wake = journal_appended_locked(j, 0);
	mutex_unlock(&j->lock);
	return wake;
}

int journal_append_batch(struct journal *j, const struct batch_info *info, const struct batch_view *v,
			 struct batch_view *ret_view)
{
	struct staging *s;
	int r = check_next(j, info);

	if (!r)
		r = journal_commit(j, info->seq - 1);
	if (!r)
		r = empty_batch(j, &v->n, &s);
	if (!r)
		r = staging_fill(s, info, v); /* up to 5 MiB, so without the lock */
	if (!r && publish(j, s, info, &v->n, ret_view))
		journal_notify_pressure(j);
	return r;
}

void journal_set_epoch(struct journal *j, uint64_t epoch)
{
	mutex_lock(&j->lock);
	j->config.epoch = epoch;
	mutex_unlock(&j->lock);
}

/* Reset */

struct furthest {
	const struct journal *journal;
	uint64_t end;
};

static bool note_batch(void *ctx, const uint8_t *block, uint64_t pos)
{
	struct furthest *f = ctx;
	struct batch_info info;

	if (batch_header_check((const void *)block, f->journal->config.volume, &info) == 0 &&
	    info.pos % f->journal->ring.n_blocks == pos)
		f->end = max_u64(f->end, info.pos + batch_blocks(&info.n));
	return false;
}

/* The end of the furthest batch that the ring holds any trace of. */
static int scan_ring(struct journal *j, uint64_t *ret_end)
{
	CLEANUP_FREE uint8_t *memory = aligned_alloc(BLOCK_SIZE, (size_t)RING_SEARCH_BLOCKS * BLOCK_SIZE);
	struct furthest f = {.journal = j};

	if (!memory)
		return -ENOMEM;
	ring_search(&j->ring, 0, j->ring.n_blocks, memory, note_batch, &f);
	*ret_end = f.end;
	return 0;
}

/* What has been used so far: a running journal knows its end, once nothing is under way; of another only the ring can tell. */
static int find_end(struct journal *j, uint64_t *ret_end)
{
	mutex_lock(&j->lock);
	bool started = j->started;
	mutex_unlock(&j->lock);
	if (!started)
		return scan_ring(j, ret_end);
	int r = journal_commit_all(j, NULL);
	mutex_lock(&j->lock);
	*ret_end = journal_end_locked(j);
	mutex_unlock(&j->lock);
	return r;
}

static void begin_anew_locked(struct journal *j, const struct journal_point *at) REQUIRES(j->lock)
{
	journal_begin_at_locked(j, at);
	for (unsigned i = 0; i < STAGING_FILES; i++)
		staging_begin(&j->staging[i], j->config.volume, j->config.incarnation, at, 0);
	j->open_since_ns = 0;
	j->pressure_step = 0;
	j->started = true;
	cond_broadcast(&j->trimmed);
}

/* What the staging files say on disk is not known any more, so nothing may be appended. */
static void fail_staging(struct journal *j, int error, const char *in)
{
	mutex_lock(&j->lock);
	j->error = error;
	snprintf(j->failure, sizeof(j->failure), "journal: flush of the staging files in a %s failed: %s", in, strerror(-error));
	mutex_unlock(&j->lock);
}

int journal_reset(struct journal *j, struct journal_point *at)
{
	uint64_t end;
	int r = find_end(j, &end);

	if (r)
		return r;
	/* A lap further on, in case the newest batch could not be read, or the floor is a tail with batches behind it. */
	const struct journal_point to = {.seq = at->seq, .pos = max_u64(at->pos, end) + j->ring.n_blocks, .hash = at->hash};
	if (to.pos > POINTER_BLOCK_MAX - j->ring.n_blocks)
		return -EUCLEAN;
	mutex_lock(&j->lock);
	begin_anew_locked(j, &to);
	mutex_unlock(&j->lock);
	r = journal_flush_staging(j);
	if (r)
		fail_staging(j, r, "reset");
	else
		*at = to;
	return r;
}

/* Cut */

static void cut_locked(struct journal *j, const struct journal_cut *cut) REQUIRES(j->lock)
{
	const struct journal_point end = *point_at(j, cut->seq - 1);

	assert(!j->committing && open_staging(j)->n.n_records == 0);
	j->origin_seq = history_locked(j); /* what the batches that go were written over is gone, too */
	j->sealed_seq = j->durable_seq = end.seq;
	j->config.cut = *cut;
	j->config.incarnation = cut->incarnation;
	for (unsigned i = 0; i < STAGING_FILES; i++)
		staging_begin(&j->staging[i], j->config.volume, cut->incarnation, &end, end.seq);
	j->open_since_ns = 0;
	j->pressure_step = 0;
	cond_broadcast(&j->trimmed);
}

int journal_cut(struct journal *j, const struct journal_cut *cut)
{
	int r = journal_commit_all(j, NULL);

	if (r)
		return r;
	mutex_lock(&j->lock);
	if (!j->started || cut->seq <= j->tail_seq || cut->seq > j->sealed_seq + 1 || cut->incarnation <= j->config.incarnation)
		r = -EINVAL;
	else
		cut_locked(j, cut);
	mutex_unlock(&j->lock);
	if (r)
		return r;
	r = journal_flush_staging(j);
	if (r)
		fail_staging(j, r, "cut");
	return r;
}
