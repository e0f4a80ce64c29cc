/*
 * replay.c: what the ring and the staging files hold after a crash, and the start of a new life from it.
 *
 * The ring is read forward from the point the index is at.  A batch counts if and only if it has the expected position, seq
 * and previous hash and passes batch_verify() as a whole; its records are applied only then.  The first one that does not
 * is the end, and there are two kinds of it:
 *
 *   torn tail   the batch in flight when the lights went out: nobody was told that it is durable.  Dropped.
 *   damage      a batch that was durable.  Seen by evidence: a later batch in the ring (its commit_seq says so: one batch is
 *               in flight, so the next is written only when this one is durable), or the floor in the staging files.
 *               A header in the right place with the wrong previous hash is damage as well: a header is one CRC, so it is
 *               not torn, and only a damaged chain before it explains it.  Reported as -EBADMSG, never skipped.
 *
 * Batches that were cut off (config.cut) lie where they lay, and are neither: the ring ends before the first of them, and they
 * are no evidence of anything.  Those that took their place were written by a later incarnation.
 *
 * Behind the end of the ring follow the staging files, at most two batches: one that was in flight and the one that was
 * open.  What they hold was acked but never durable, so any prefix of its operations may be kept: they are taken up to the
 * first operation whose data is not there, and the second file only if the first was complete.  A batch of another node is
 * taken whole or not at all: it must stay the batch it is there, and that node sends it again.
 *
 * Until journal_start() nothing is written, so running it twice, or dying in it, changes nothing.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "journal/state.h"

#define WINDOW_BLOCKS (2 * BATCH_MAX_BLOCKS) /* 10.5 MiB: a whole batch, and room to read ahead */
#define PIECE_MIN     64u                    /* reads grow to 4 MiB, so that a short journal costs little */
#define PIECE_MAX     1024u

/* A part of the ring in memory, moving forward. */
struct window {
	const struct ring *ring;
	uint8_t *p;        /* WINDOW_BLOCKS blocks */
	uint64_t pos, end; /* of the first block in it; first position that belongs to the lap before */
	uint32_t n, piece; /* blocks in it; to read next */
};

struct replay {
	struct journal *journal;
	const struct journal_replay_ops *ops;
	struct journal_replay_result *result;
	struct window window;
	uint64_t floor;
};

/* Reads at least `need` blocks behind what the window holds, more when that is free to have. */
static int window_grow(struct window *w, uint32_t need)
{
	uint64_t from = w->pos + w->n;
	uint32_t n = (uint32_t)min_u64(min_u64(w->end - from, WINDOW_BLOCKS - w->n), need > w->piece ? need : w->piece);
	uint8_t *to = w->p + (size_t)w->n * BLOCK_SIZE;

	assert(n >= need);
	w->piece = w->piece * 2 < PIECE_MAX ? w->piece * 2 : PIECE_MAX;
	int r = ring_read(w->ring, from, n, to);
	if (r && n > need) { /* a bad sector further on is none of our business yet */
		n = need;
		r = ring_read(w->ring, from, n, to);
	}
	if (!r)
		w->n += n;
	return r;
}

/*
 * Makes [pos, pos + n) stand in memory; *ret_p is borrowed until the next call, `pos` never goes back.  -ENODATA when it
 * would reach a whole lap after the start.
 */
static int window_get(struct window *w, uint64_t pos, uint32_t n, const uint8_t **ret_p)
{
	assert(pos >= w->pos && n <= BATCH_MAX_BLOCKS);
	if (n > w->end - pos)
		return -ENODATA;
	uint64_t skip = min_u64(pos - w->pos, w->n);
	if (skip + n > w->n) {
		memmove(w->p, w->p + skip * BLOCK_SIZE, (w->n - skip) * BLOCK_SIZE);
		w->n -= (uint32_t)skip;
		w->pos = w->n ? w->pos + skip : pos;
		int r = w->n < n ? window_grow(w, n - w->n) : 0;
		if (r)
			return r;
	}
	*ret_p = w->p + (pos - w->pos) * BLOCK_SIZE;
	return 0;
}

static bool is_void(const struct replay *rp, const struct batch_info *info)
{
	const struct journal_cut *cut = &rp->journal->config.cut;

	return info->seq >= cut->seq && info->incarnation < cut->incarnation;
}

/* A batch header at `pos` that shows that the batch behind the end was durable.  One of a later lap counts too. */
static bool is_evidence(void *ctx, const uint8_t *block, uint64_t pos)
{
	const struct replay *rp = ctx;
	uint64_t after = rp->result->end.seq;
	struct batch_info info;

	if (batch_header_check((const void *)block, rp->journal->config.volume, &info) || is_void(rp, &info))
		return false;
	return info.pos >= pos && (info.pos - pos) % rp->journal->ring.n_blocks == 0 && info.commit_seq > after &&
	       info.seq > info.commit_seq;
}

/*
 * Looks for a later batch where the next two must begin if they exist.  The window's memory is free for it, because nobody
 * needs the window afterwards; a block that cannot be read is no evidence.
 */
static bool later_batch_exists(struct replay *rp)
{
	uint64_t pos = rp->result->end.pos, n = min_u64(2 * BATCH_MAX_BLOCKS, rp->window.end - pos);

	return ring_search(&rp->journal->ring, pos, n, rp->window.p, is_evidence, rp);
}

static int damaged(struct replay *rp, int error, const char *what)
{
	const struct journal_point *end = &rp->result->end;
	const struct ring *ring = &rp->journal->ring;

	rp->result->bad_seq = end->seq + 1;
	rp->result->bad_pos = end->pos;
	log_error("journal: batch %llu, at position %llu in journal/seg.%04u, %s", (unsigned long long)end->seq + 1,
		  (unsigned long long)end->pos, (unsigned)(end->pos / ring->segment_blocks % ring->n_segments), what);
	return error;
}

/* There is no valid batch behind result->end: 0 when that is how it should be. */
static int end_of_ring(struct replay *rp)
{
	if (rp->floor > rp->result->end.seq)
		return damaged(rp, -EBADMSG, "is damaged: the staging files say it was durable");
	if (later_batch_exists(rp))
		return damaged(rp, -EBADMSG, "is damaged: a later batch follows it");
	return 0;
}

static int unreadable(struct replay *rp, int error)
{
	char what[96];

	snprintf(what, sizeof(what), "cannot be read: %s", strerror(-error));
	return damaged(rp, error, what);
}

/* 1 and the batch after result->end; 0 at the end of the ring; -errno. */
static int next_batch(struct replay *rp, struct batch_info *ret_info, struct batch_view *ret_view)
{
	const struct journal_point *end = &rp->result->end;
	const uint8_t *p;

	int r = window_get(&rp->window, end->pos, 1, &p);
	if (r == -ENODATA)
		return end_of_ring(rp); /* a full lap */
	if (r)
		return unreadable(rp, r);
	if (batch_header_check((const void *)p, rp->journal->config.volume, ret_info) || ret_info->pos != end->pos ||
	    ret_info->seq != end->seq + 1 || is_void(rp, ret_info))
		return end_of_ring(rp);
	if (ret_info->prev_hash != end->hash)
		return damaged(rp, -EBADMSG, "does not continue the one before it");
	r = window_get(&rp->window, end->pos, batch_blocks(&ret_info->n), &p);
	if (r == -ENODATA)
		return end_of_ring(rp);
	if (r)
		return unreadable(rp, r);
	if (batch_verify(p, ret_info, ret_view))
		return end_of_ring(rp);
	const struct batch_signer *signer = &rp->journal->config.signer;
	r = signer->sign ? batch_check_signature(signer, p, ret_info) : 0;
	if (r == -EBADMSG) /* each of its checksums is right: no crash leaves that */
		return damaged(rp, r, "was not signed with the key of this volume: somebody changed it");
	return r ? r : 1;
}

/* Hands the records of a batch that was checked before to the callbacks. */
static int apply_batch(struct replay *rp, const struct batch_view *v, uint64_t seq, uint64_t *n_records)
{
	struct batch_cursor c;
	struct record record;
	int r;

	batch_cursor_start(&c, v);
	while ((r = batch_next(&c, &record)) == 1) {
		r = rp->ops->apply(rp->ops->ctx, &record, seq);
		if (r)
			return r;
		++*n_records;
	}
	if (r == 0 && rp->ops->batch_end)
		r = rp->ops->batch_end(rp->ops->ctx, seq);
	return r;
}

static int replay_ring(struct replay *rp)
{
	struct journal *j = rp->journal;
	struct journal_replay_result *result = rp->result;
	struct batch_info info;
	struct batch_view view;
	int r;

	while ((r = next_batch(rp, &info, &view)) == 1) {
		uint32_t blocks = batch_blocks(&info.n);
		result->end = (struct journal_point){.seq = info.seq, .pos = info.pos + blocks, .hash = info.hash};
		mutex_lock(&j->lock); /* before applying, so that apply can read what it applies */
		journal_point_push_locked(j, &result->end);
		j->durable_seq = info.seq;
		mutex_unlock(&j->lock);
		r = apply_batch(rp, &view, info.seq, &result->n_records);
		if (r)
			return r;
		result->n_batches++;
		result->bytes += (uint64_t)blocks * BLOCK_SIZE;
	}
	return r;
}

/* Whether the data of a staged record is there. */
static bool staged_data_ok(struct replay *rp, const struct record *r)
{
	if (r->type == RECORD_WRITE && r->write.out_of_line)
		return rp->ops->verify && rp->ops->verify(rp->ops->ctx, r);
	return batch_payload_ok(r);
}

/* How far the whole operations of a staged batch reach whose data is there; true when that is all of it. */
static bool staged_extent(struct replay *rp, const struct batch_view *v, struct batch_counts *ret)
{
	struct batch_cursor c;
	struct record record;
	int r;

	*ret = (struct batch_counts){0};
	batch_cursor_start(&c, v);
	while ((r = batch_next(&c, &record)) == 1 && staged_data_ok(rp, &record))
		if (!(record.flags & RECORD_MORE))
			*ret = c.used;
	return r == 0;
}

/* Takes up the batch after `end` from staging file i, or its beginning.  1: complete; 0: cut short, or nothing there. */
static int take_staged(struct replay *rp, unsigned i, struct journal_point *end)
{
	struct journal *j = rp->journal;
	struct batch_counts extent;
	struct batch_view view;
	uint64_t seq = end->seq + 1;

	mutex_lock(&j->lock);
	struct staging *s = &j->staging[i];
	int r = staging_load(s, j->config.volume, j->config.incarnation, end);
	if (r == 0)
		staging_view(s, &view);
	mutex_unlock(&j->lock);
	if (r == -EBADMSG)
		log_warn("journal: what staging file %u held of batch %llu was lost with the power", i, (unsigned long long)seq);
	if (r)
		return 0;
	bool complete = staged_extent(rp, &view, &extent);
	mutex_lock(&j->lock);
	if (!complete && (s->epoch || j->config.whole_batches))
		extent = (struct batch_counts){0};
	if (!complete)
		staging_cut(s, &extent);
	if (extent.n_records)
		staging_point_after(s, end);
	else
		staging_forget(s);
	staging_view(s, &view);
	mutex_unlock(&j->lock);
	if (!complete)
		log_warn("journal: of staged batch %llu the first %u records are kept, the rest was lost with the power",
			 (unsigned long long)seq, extent.n_records);
	if (!extent.n_records)
		return 0;
	mutex_lock(&j->lock);
	j->open = i;
	j->n_staged++;
	mutex_unlock(&j->lock);
	r = apply_batch(rp, &view, seq, &rp->result->n_staged_records);
	return r ? r : complete;
}

static int replay_staged(struct replay *rp)
{
	struct journal_point end = rp->result->end;
	bool taken[STAGING_FILES] = {false};
	int r = 1;

	/* whichever file continues the chain, then the other one */
	while (r == 1) {
		r = 0;
		for (unsigned i = 0; i < STAGING_FILES && r == 0; i++) {
			uint64_t before = end.seq;
			if (taken[i])
				continue;
			r = take_staged(rp, i, &end);
			taken[i] = end.seq != before;
			if (taken[i] && r == 0)
				return 0; /* cut short: nothing may follow */
		}
	}
	return r;
}

/* The newest batch that the staging files say was durable. */
static uint64_t floor_locked(struct journal *j) REQUIRES(j->lock)
{
	uint64_t floor = 0;

	for (unsigned i = 0; i < STAGING_FILES; i++)
		floor = max_u64(floor, staging_floor(&j->staging[i], j->config.volume));
	return floor;
}

int journal_replay(struct journal *j, const struct journal_point *from, const struct journal_replay_ops *ops,
		   struct journal_replay_result *ret)
{
	*ret = (struct journal_replay_result){.end = *from};
	if (from->pos < 1 || from->pos > POINTER_BLOCK_MAX - j->ring.n_blocks)
		return -EUCLEAN; /* comes from the index: not a place in a journal */
	CLEANUP_FREE uint8_t *memory = aligned_alloc(BLOCK_SIZE, (size_t)WINDOW_BLOCKS * BLOCK_SIZE);
	if (!memory)
		return -ENOMEM;
	struct replay rp = {
	    .journal = j,
	    .ops = ops,
	    .result = ret,
	    .window = {.ring = &j->ring, .p = memory, .pos = from->pos, .end = from->pos + j->ring.n_blocks, .piece = PIECE_MIN},
	};
	mutex_lock(&j->lock);
	assert(!j->started);
	rp.floor = floor_locked(j);
	journal_begin_at_locked(j, from);
	mutex_unlock(&j->lock);
	int r = replay_ring(&rp);
	return r ? r : replay_staged(&rp);
}

/*
 * The newest batch in the ring may have been in flight when the process died: written, but not yet to stable storage.  It
 * must not vanish later under batches that follow it.
 */
static int flush_newest(struct journal *j)
{
	mutex_lock(&j->lock);
	uint64_t end = point_at(j, j->sealed_seq)->pos;
	uint64_t from = j->sealed_seq > j->tail_seq ? point_at(j, j->sealed_seq - 1)->pos : end;
	mutex_unlock(&j->lock);
	int r = ring_flush(&j->ring, from, end - from);
	if (r)
		log_error("journal: flush of the newest batch failed: %s", strerror(-r));
	return r;
}

/* The file with the last staged batch goes on being built; with none an empty batch is begun. */
static void open_batch_locked(struct journal *j) REQUIRES(j->lock)
{
	struct staging *s = open_staging(j);

	if (s->n.n_records) {
		assert(s->prev.seq == j->sealed_seq);
		staging_resume(s, j->config.incarnation, j->durable_seq);
		j->open_since_ns = clock_mono_ns(j->config.clock);
	} else {
		staging_begin(s, j->config.volume, j->config.incarnation, point_at(j, j->sealed_seq), j->durable_seq);
	}
	j->pressure_step = 0;
	j->started = true;
}

int journal_flush_staging(struct journal *j) NO_THREAD_SAFETY /* nobody appends */
{
	int r = 0;

	for (unsigned i = 0; !r && i < STAGING_FILES; i++)
		r = staging_flush(&j->staging[i]);
	if (r)
		log_error("journal: flush of the staging files failed: %s", strerror(-r));
	return r;
}

int journal_start(struct journal *j)
{
	int r = flush_newest(j);

	if (r)
		return r;
	mutex_lock(&j->lock);
	assert(!j->started && point_at(j, j->sealed_seq)->pos >= 1); /* after a replay */
	struct staging *in_flight = j->n_staged == 2 ? &j->staging[!j->open] : NULL;
	mutex_unlock(&j->lock);
	r = in_flight ? journal_commit_staged(j, in_flight) : 0;
	if (r)
		return r;
	mutex_lock(&j->lock);
	open_batch_locked(j);
	mutex_unlock(&j->lock);
	return journal_flush_staging(j);
}
