/*
 * restore.c: from a base and segments to a volume (restore.h).
 *
 *     choose     the newest base from which the target can be reached
 *     base       its rows, as a resync puts them; the volume is at the base's batch then, perhaps behind its fence
 *     batches    segment after segment, each named by the one before, into the volume as from a leader, up to the target
 *     detach     what binds it to peers and stores goes (restore_detach.c)
 *     promote    it leads, in an epoch above all that the archive has
 */
#include "fs/core/archive/restore.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "fs/core/archive/frames.h"
#include "fs/core/core.h"

#define COMMIT_BATCHES 256u /* so many are taken before they are made durable */
#define SUMS_KEPT      4096u

struct sum {
	uint64_t seq, sum;
};
struct restore {
	struct fs *fs;
	struct replica_volume *v;
	struct archive_place *p;
	const struct restore_target *t;
	const struct archive_base *base;
	struct restore_result res;
	void (*what)(void *ctx, const char *line);
	void *ctx;
	struct buf body, scratch;
	uint64_t epoch; /* that the batches are sent under */
	/* the batch that is coming */
	bool taking, skipping, done; /* skipping: it was begun, and is behind the target */
	uint64_t seq, hash;          /* newest batch finished */
	int64_t ns;
	uint64_t coming_seq, coming_hash;
	int64_t coming_ns;
	uint32_t n_data, n_taken;
	/* what the newest states were, until it is known whether they are applied; batch seq at seq % SUMS_KEPT */
	struct passed {
		uint64_t seq, hash, sum;
		int64_t ns;
		bool has_sum;
	} * passed;       /* owned; SUMS_KEPT */
	uint64_t checked; /* sums up to this batch were compared */
};

static void say(const struct restore *rs, const char *line)
{
	if (rs->what)
		rs->what(rs->ctx, line);
}

static int damaged(struct restore *rs, const struct archive_id *id, int error, const char *what)
{
	char key[ARCHIVE_NAME_MAX];

	archive_name(id, key);
	snprintf(rs->p->message, sizeof(rs->p->message), "%s: %s", key, what);
	return error;
}

/* ---- the base ---- */

static bool base_fits(const struct archive_base *b, const struct restore_target *t)
{
	if (b->state != BASE_DONE)
		return false;
	return t->by == RESTORE_LATEST || (t->by == RESTORE_SEQ ? b->ready_seq <= t->seq : b->ready_ns <= t->ns);
}

/* Of histories that went apart the later one counts: those of later epochs come later. */
static const struct archive_base *choose(const struct archive_manifest *m, const struct restore_target *t)
{
	for (size_t i = m->n_bases; i-- > 0;)
		if (base_fits(&m->base[i], t))
			return &m->base[i];
	return NULL;
}

static int put_row(struct restore *rs, const struct archive_id *id, const struct frame *f)
{
	uint16_t missing;
	int r = rs->v->ops->resync_missing(rs->v, &f->row, &missing);

	/* Cold slots come with data, too: what the row names of an object is not relied upon. */
	if (r == 0 && missing & ~f->leaf.wanted)
		r = -EUCLEAN;
	if (r == 0)
		r = rs->v->ops->resync_put(rs->v, &f->row, f->leaf.wanted ? &f->leaf : NULL, f->blocks);
	return r == -EUCLEAN || r == -EBADMSG ? damaged(rs, id, r, "a row in it cannot be") : r;
}

static int put_part(struct restore *rs, const struct archive_id *id, const struct archive_info *info)
{
	struct frame f = {0};
	uint32_t n = 0;
	size_t at = 0;
	int r;

	while ((r = frames_next((struct slice){rs->body.p, rs->body.len}, &at, &f)) == 0 && f.kind == FRAME_IS_ROW) {
		r = put_row(rs, id, &f);
		if (r < 0)
			return r;
		n++;
	}
	if (r < 0 || f.kind != FRAME_END || n != info->n_items)
		return damaged(rs, id, -EUCLEAN, "its contents are impossible");
	rs->res.rows += n;
	return 0;
}

static int put_base(struct restore *rs)
{
	const struct archive_base *b = rs->base;
	struct archive_id id = {.kind = ARCHIVE_BASE, .epoch = b->epoch, .seq = b->seq};
	struct archive_info info;
	uint64_t sum = 0;

	for (; id.part < b->parts; id.part++) {
		int r = archive_fetch(rs->p, &id, &info, &rs->body, &rs->scratch);

		if (r < 0)
			return r;
		sum = XXH64(rs->body.p, rs->body.len, sum);
		rs->res.bytes += info.stored_bytes;
		r = put_part(rs, &id, &info);
		if (r < 0)
			return r;
	}
	id.part = 0;
	if (sum != b->sum || rs->res.rows != b->rows)
		return damaged(rs, &id, -EBADMSG, "the parts of this base are not those that the manifest speaks of");
	return 0;
}

static int restore_base(struct restore *rs)
{
	const struct archive_base *b = rs->base;
	const struct replica_view_info info = {.seq = b->seq,
					       .hash = b->hash,
					       .epoch = b->history,
					       .next_ino = b->next_ino,
					       .n_inodes = b->n_inodes,
					       .snapshot_generation = b->snapshot_generation};
	char line[160];

	snprintf(line, sizeof(line), "base of batch %" PRIu64 ": %" PRIu64 " rows in %" PRIu32 " objects", b->seq, b->rows,
		 b->parts);
	say(rs, line);
	int r = rs->v->ops->note_epoch(rs->v, rs->epoch);
	if (r == 0)
		r = rs->v->ops->resync_begin(rs->v, rs->epoch, false);
	if (r == 0)
		r = put_base(rs);
	if (r == 0)
		r = rs->v->ops->resync_end(rs->v, &info, b->fence);
	rs->seq = rs->checked = b->seq;
	rs->hash = b->hash;
	rs->ns = b->view_ns;
	rs->passed[b->seq % SUMS_KEPT] = (struct passed){.seq = b->seq, .hash = b->hash, .ns = b->view_ns};
	return r;
}

/* ---- batches ---- */

static bool is_behind(const struct restore *rs, const struct shipped_batch *b)
{
	const struct restore_target *t = rs->t;

	return t->by != RESTORE_LATEST && (t->by == RESTORE_SEQ ? b->seq > t->seq : b->time_ns > t->ns);
}

/* What was applied by now, against what its leader said of it: behind a fence that is many at once. */
static int check_sums(struct restore *rs)
{
	uint64_t applied = atomic_load(&rs->fs->applied_seq), sum;

	for (; rs->checked < applied; rs->checked++) {
		const struct passed *p = &rs->passed[(rs->checked + 1) % SUMS_KEPT];

		if (p->seq != rs->checked + 1 || !p->has_sum || rs->v->ops->state_sum(rs->v, p->seq, &sum) < 0)
			continue;
		if (sum == p->sum)
			continue;
		snprintf(rs->p->message, sizeof(rs->p->message), "batch %" PRIu64 " left another state here than on the volume",
			 p->seq);
		return -EBADMSG;
	}
	return 0;
}

static int finish(struct restore *rs)
{
	uint64_t durable;
	int r = rs->v->ops->finish_batch(rs->v);

	if (r < 0)
		return r;
	rs->taking = false;
	rs->seq = rs->coming_seq;
	rs->hash = rs->coming_hash;
	rs->ns = rs->coming_ns;
	rs->res.batches++;
	if (rs->res.batches % COMMIT_BATCHES == 0)
		r = rs->v->ops->commit(rs->v, &durable);
	return r < 0 ? r : check_sums(rs);
}

static int take_batch(struct restore *rs, struct frame *f)
{
	if (rs->taking || f->batch.seq != rs->seq + 1 || f->batch.prev_hash != rs->hash)
		return -EUCLEAN;
	if (is_behind(rs, &f->batch)) {
		rs->done = true;
		return 0;
	}
	f->batch.epoch = rs->epoch;
	rs->coming_seq = f->batch.seq;
	rs->coming_hash = f->batch.hash;
	rs->coming_ns = f->batch.time_ns;
	rs->n_taken = 0;
	rs->passed[f->batch.seq % SUMS_KEPT] = (struct passed){
	    .seq = f->batch.seq, .hash = f->batch.hash, .sum = f->sum, .has_sum = f->has_sum, .ns = f->batch.time_ns};
	int r = rs->v->ops->take_batch(rs->v, &f->batch, &rs->n_data);
	if (r < 0)
		return r;
	if (rs->n_data != f->n_data)
		return -EUCLEAN;
	rs->taking = true;
	return rs->n_data ? 0 : finish(rs);
}

static int take_data(struct restore *rs, const struct frame *f)
{
	if (!rs->taking || rs->n_taken == rs->n_data)
		return -EUCLEAN;
	int r = rs->v->ops->take_data(rs->v, &f->data);
	if (r < 0)
		return r;
	return ++rs->n_taken == rs->n_data ? finish(rs) : 0;
}

static int take_segment(struct restore *rs, const struct archive_info *info)
{
	struct frame f = {0};
	uint32_t n = 0;
	size_t at = 0;
	int r = 0;

	while (!rs->done && (r = frames_next((struct slice){rs->body.p, rs->body.len}, &at, &f)) == 0 && f.kind != FRAME_END) {
		r = f.kind == FRAME_IS_BATCH ? take_batch(rs, &f) : f.kind == FRAME_IS_DATA ? take_data(rs, &f) : -EUCLEAN;
		if (r < 0)
			return r;
		n++;
	}
	if (rs->done)
		return 0;
	if (r < 0)
		return r;
	/* What the header says of the whole, which who archived it counted. */
	return n == info->n_items && rs->seq == info->last_seq && rs->hash == info->hash_after ? 0 : -EUCLEAN;
}

static int next_segment(struct restore *rs, struct archive_id *id)
{
	struct archive_info info;
	int r = archive_fetch(rs->p, id, &info, &rs->body, &rs->scratch);

	if (r < 0)
		return r;
	rs->res.bytes += info.stored_bytes;
	r = info.hash_before == rs->hash ? take_segment(rs, &info) : -EUCLEAN;
	if (r == -EUCLEAN || r == -EBADMSG || r == -EINVAL)
		return *rs->p->message ? r : damaged(rs, id, -EUCLEAN, "its contents do not continue what is before it");
	if (r < 0)
		return r;
	if (info.next_seq < id->seq || (info.next_seq == id->seq && info.next_part <= id->part))
		return damaged(rs, id, -EUCLEAN, "it names no later one");
	id->seq = info.next_seq;
	id->part = info.next_part;
	return 0;
}

/* Where the stream is known to reach at least: a segment missing before that is damage, and not its end. */
static struct archive_at known_end(const struct archive_manifest *m, const struct archive_base *b)
{
	struct archive_at at = {0};

	for (size_t i = 0; i < m->n_streams; i++)
		if (m->stream[i].epoch == b->epoch && m->stream[i].first.seq <= b->seq + 1)
			at = m->stream[i].known;
	return at;
}

static int take_batches(struct restore *rs, const struct archive_manifest *m)
{
	struct archive_id id = {.kind = ARCHIVE_SEGMENT, .epoch = rs->base->epoch, .seq = rs->base->seq + 1};
	const struct archive_at known = known_end(m, rs->base);
	int r = 0;

	while (r == 0 && !rs->done) {
		if (rs->t->by == RESTORE_SEQ && rs->seq >= rs->t->seq)
			break;
		rs->p->message[0] = '\0';
		r = next_segment(rs, &id);
	}
	if (r == -ENOENT && (id.seq > known.seq || (id.seq == known.seq && id.part >= known.part))) {
		rs->p->message[0] = '\0';
		r = 0; /* the end of the stream */
	}
	if (r == 0 && rs->t->by == RESTORE_SEQ && rs->seq < rs->t->seq) {
		snprintf(rs->p->message, sizeof(rs->p->message), "the archive has nothing of batch %" PRIu64 " and later here",
			 rs->seq + 1);
		r = -ENOENT;
	}
	if (rs->taking) { /* its rest is behind the end */
		rs->v->ops->drop_batch(rs->v);
		rs->taking = false;
	}
	return r;
}

/* ---- the end ---- */

/* The newest state there is, which may be before batches whose data is not whole. */
static int settle(struct restore *rs)
{
	struct replica_point at;
	uint64_t durable;
	int r = rs->v->ops->commit(rs->v, &durable);

	if (r < 0)
		return r;
	rs->v->ops->get_point(rs->v, &at);
	const struct passed *p = &rs->passed[at.applied_seq % SUMS_KEPT];
	if (at.fence > at.applied_seq || p->seq != at.applied_seq) {
		snprintf(rs->p->message, sizeof(rs->p->message),
			 "data of batch %" PRIu64
			 " changed before it was archived, and the archive ends before what took its place",
			 at.applied_seq + 1);
		return -ENODATA;
	}
	rs->res.passed_over = rs->seq - at.applied_seq;
	rs->res.seq = p->seq;
	rs->res.hash = p->hash;
	rs->res.ns = p->ns;
	rs->res.sum = p->sum;
	rs->res.has_sum = p->has_sum;
	return 0;
}

static int run(struct restore *rs, const struct archive_manifest *m)
{
	int r = restore_base(rs);

	if (r == 0)
		r = take_batches(rs, m);
	if (r == 0)
		r = settle(rs);
	if (r == 0)
		r = restore_detach(rs->fs, rs->epoch, rs->res.seq, rs->res.hash, &rs->res.unreachable);
	if (r == 0)
		r = rs->v->ops->promote(rs->v, epoch_make(epoch_counter(rs->epoch) + 1, 1));
	return r;
}

int restore_run(struct fs *fs, struct archive_place *p, const struct archive_manifest *m, const struct restore_target *t,
		void (*what)(void *ctx, const char *line), void *ctx, struct restore_result *ret)
{
	struct restore rs = {.fs = fs, .v = fs_replica(fs), .p = p, .t = t, .base = choose(m, t), .what = what, .ctx = ctx};

	p->message[0] = '\0';
	if (!rs.base) {
		snprintf(p->message, sizeof(p->message), "the archive has no base that is as old as that");
		return -ENOENT;
	}
	rs.epoch = rs.base->epoch;
	rs.res.epoch = rs.base->epoch;
	rs.res.base_seq = rs.base->seq;
	rs.passed = calloc(SUMS_KEPT, sizeof(*rs.passed));
	int r = rs.passed ? run(&rs, m) : -ENOMEM;
	free(rs.passed);
	buf_free(&rs.body);
	buf_free(&rs.scratch);
	if (r == 0)
		*ret = rs.res;
	return r;
}
