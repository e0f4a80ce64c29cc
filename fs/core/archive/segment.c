/*
 * segment.c: durable batches, and their data, into segments.
 *
 * What is durable is taken at once and waits in memory, so that little of the data outside the journal can change before it is
 * read; a segment is stored when it is large enough, or its first batch waited long enough.  A batch may have more data than a
 * segment: then it goes on in the next one, whose name says so (part).
 *
 * A segment that is sealed stays the same bytes until the store has it, and is put only where nothing of its name is: a try whose
 * answer was lost, of this mount or of one before it, can so never take the place of a segment that others already follow.  What
 * is there already is read, and gone on from.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/archive/impl.h"
#include "fs/core/replica/impl.h"

static const struct replica_ops *ops_of(struct archiver *a)
{
	return fs_replica(a->fs)->ops;
}

void segment_drop(struct archiver *a)
{
	ops_of(a)->cursor_free(a->cursor);
	a->cursor = NULL;
	a->n_data = a->data_next = 0;
	buf_free(&a->body);
	buf_free(&a->sealed);
	a->n_sums = 0;
}

/* ---- taking ---- */

/* The first frame of a segment is about to come: of batch `seq`. */
static void begin(struct archiver *a, int64_t time_ns)
{
	if (a->body.len)
		return;
	a->info = (struct archive_info){
	    .id = {.kind = ARCHIVE_SEGMENT, .epoch = a->epoch, .seq = a->next.seq, .part = a->next.part},
	    .last_seq = a->taken,
	    .hash_before = a->hash,
	    .hash_after = a->hash,
	    .first_ns = time_ns,
	    .last_ns = time_ns,
	};
	memcpy(a->info.volume, a->fs->super.volume, sizeof(a->info.volume));
	a->began_ns = clock_mono_ns(a->fs->clock);
}

static int note_sum(struct archiver *a, uint64_t seq, size_t at)
{
	if (a->n_sums == a->cap_sums) {
		size_t cap = a->cap_sums ? 2 * a->cap_sums : 64;
		struct sum_at *grown = realloc(a->sums, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		a->sums = grown;
		a->cap_sums = cap;
	}
	a->sums[a->n_sums++] = (struct sum_at){seq, at};
	return 0;
}

/* The last of the batch is in the body. */
static void complete(struct archiver *a)
{
	a->taken = a->batch.seq;
	a->info.last_seq = a->batch.seq;
	a->info.hash_after = a->batch.hash;
	a->info.last_ns = a->batch.time_ns;
	a->n_data = a->data_next = 0;
}

/* What it makes of the tree is in no batch, and whoever restores has no snapshots: a base has to say it. */
static bool goes_back(const struct shipped_batch *b)
{
	const struct batch_view v = {
	    .payload = b->payload,
	    .logical = b->logical,
	    .n = {.n_records = b->n_records, .n_payload = b->n_payload, .logical_bytes = b->logical_bytes},
	};
	struct record rec;

	return replica_batch_is_snap(&v, &rec) && rec.type == RECORD_SNAPROLL;
}

static int take_batch(struct archiver *a)
{
	struct replica_volume *v = fs_replica(a->fs);
	int r = v->ops->read_batch(v, &a->cursor, a->taken + 1, &a->batch, &a->n_data);

	if (r < 0) {
		a->n_data = 0;
		return r;
	}
	a->back = goes_back(&a->batch);
	if (a->back) {
		a->n_data = 0;
		return -EAGAIN;
	}
	begin(a, a->batch.time_ns);
	size_t at = a->body.len;
	r = note_sum(a, a->batch.seq, at);
	if (r < 0) {
		a->n_data = 0;
		return r;
	}
	frames_put_batch(&a->body, &a->batch, a->n_data);
	a->info.n_items++;
	if (a->n_data == 0)
		complete(a);
	return 0;
}

static int take_data(struct archiver *a)
{
	struct replica_volume *v = fs_replica(a->fs);
	struct shipped_data d;
	int r = v->ops->read_data(v, a->cursor, a->data_next, &d);

	if (r < 0)
		return r;
	begin(a, a->batch.time_ns);
	frames_put_data(&a->body, &d);
	a->info.n_items++;
	if (++a->data_next == a->n_data)
		complete(a);
	return 0;
}

/* A body that lost a frame is taken anew: the batches are in the journal yet, or there is a gap. */
static int lost_memory(struct archiver *a)
{
	archiver_detach(a);
	return -ENOMEM;
}

int segment_take(struct archiver *a, bool *ret_gap)
{
	int r = 0;

	*ret_gap = false;
	while (r == 0 && !a->sealed.len && a->body.len < SEGMENT_BYTES) {
		bool within = a->data_next < a->n_data;

		if (!within && a->cut && a->taken >= a->cut)
			break;
		r = within ? take_data(a) : take_batch(a);
		if (a->body.failed)
			return lost_memory(a);
	}
	*ret_gap = r == -ENOENT || r == -EBADMSG || r == -EUCLEAN; /* too old, or damaged in the ring */
	return r == -EAGAIN || *ret_gap ? 0 : r;
}

/* ---- storing ---- */

bool segment_due(const struct archiver *a, bool now)
{
	if (a->sealed.len)
		return true;
	if (!a->body.len)
		return false;
	return now || a->body.len >= SEGMENT_BYTES || (a->cut && a->taken >= a->cut) ||
	       clock_mono_ns(a->fs->clock) - a->began_ns >= a->policy.interval_ns;
}

/* By now most operations of the batches are applied, which their sums need. */
static void put_sums(struct archiver *a)
{
	struct replica_volume *v = fs_replica(a->fs);
	uint64_t sum;

	for (size_t i = 0; i < a->n_sums; i++)
		if (v->ops->state_sum(v, a->sums[i].seq, &sum) == 0)
			frames_set_sum(&a->body, a->sums[i].at, sum);
	a->n_sums = 0;
}

static struct archive_at next_of(const struct archiver *a)
{
	if (a->data_next == a->n_data)
		return (struct archive_at){a->info.last_seq + 1, 0};
	bool same = a->info.id.seq == a->batch.seq;
	return (struct archive_at){a->batch.seq, same ? a->info.id.part + 1 : 1};
}

static int seal(struct archiver *a)
{
	if (a->sealed.len)
		return 0;
	put_sums(a);
	const struct archive_at next = next_of(a);
	a->info.next_seq = next.seq;
	a->info.next_part = next.part;
	int r = archive_seal(&a->info, a->place.key, (struct slice){a->body.p, a->body.len}, &a->sealed);
	if (r == 0)
		buf_free(&a->body);
	else
		buf_free(&a->sealed);
	return r;
}

static void stored(struct archiver *a, const struct archive_info *info, uint64_t bytes)
{
	struct archive_stream *s = archiver_stream(a);

	a->next = (struct archive_at){info->next_seq, info->next_part};
	a->hash = info->hash_after;
	if (info->next_part == 0) { /* between two batches: whoever goes on from there needs nothing before it */
		s->known = a->next;
		s->known_hash = a->hash;
		s->known_ns = info->last_ns;
	}
	a->since_base += bytes;
	a->manifest_age++;
	a->v.segments++;
	a->v.bytes += bytes;
	a->v.archived_seq = info->last_seq;
	a->v.archived_ns = info->last_ns;
	atomic_store(&a->fs->archive_floor, info->last_seq + 1);
	if (a->cut && info->last_seq >= a->cut)
		a->cut = 0;
}

/* How many data frames of its last batch a segment has; a batch frame without any is 0. */
static int count_data(struct slice body, uint32_t *ret)
{
	struct frame f = {0};
	size_t at = 0;
	int r = 0;

	*ret = 0;
	do {
		r = frames_next(body, &at, &f);
		if (r == 0 && f.kind == FRAME_IS_BATCH)
			*ret = 0;
		else if (r == 0 && f.kind == FRAME_IS_DATA)
			*ret = f.data.index + 1;
	} while (r == 0 && f.kind != FRAME_END);
	return r;
}

/* It ends within a batch, whose data goes on with a known one. */
static int resume_within(struct archiver *a, const struct archive_info *stored)
{
	CLEANUP_BUF struct buf body = {0}, scratch = {0};
	struct replica_volume *v = fs_replica(a->fs);
	struct archive_info info;
	uint32_t n_taken = 0;
	int r = archive_fetch(&a->place, &stored->id, &info, &body, &scratch);

	if (r == 0)
		r = count_data((struct slice){body.p, body.len}, &n_taken);
	if (r == 0)
		r = v->ops->read_batch(v, &a->cursor, info.last_seq + 1, &a->batch, &a->n_data);
	if (r == 0 && n_taken >= a->n_data)
		r = -EUCLEAN;
	a->data_next = n_taken;
	if (r < 0)
		a->n_data = a->data_next = 0;
	return r;
}

int segment_resume(struct archiver *a, const struct archive_info *info)
{
	segment_drop(a);
	a->taken = info->last_seq;
	stored(a, info, 0);
	return info->next_part ? resume_within(a, info) : 0;
}

/*
 * Says which segment comes next, so that one that is missing before that is known to be missing, and not the end.  A hint: that
 * it could not be written costs nothing but that, until the next one.
 */
static void put_head(struct archiver *a)
{
	CLEANUP_BUF struct buf out = {0};
	struct archive_info info = a->info;
	static const char body[] = "head";

	if (a->info.next_part)
		return;
	info.id = (struct archive_id){.kind = ARCHIVE_HEAD, .epoch = a->epoch};
	info.n_items = 1;
	if (archive_seal(&info, a->place.key, slice_of(body), &out) < 0 ||
	    archive_put_hint(&a->place, &info.id, (struct slice){out.p, out.len}) < 0)
		log_debug("archive: the head could not be written");
}

static int is_stored(struct archiver *a)
{
	uint64_t bytes = a->sealed.len;

	buf_free(&a->sealed);
	stored(a, &a->info, bytes);
	put_head(a);
	return 0;
}

/* Something of that name is there: a try whose answer was lost.  It is ours if it continues what is stored, as our history does.
 */
static int adopt(struct archiver *a)
{
	CLEANUP_BUF struct buf body = {0}, scratch = {0};
	struct replica_volume *v = fs_replica(a->fs);
	struct archive_info info;
	uint64_t hash;
	int r = archive_fetch(&a->place, &a->info.id, &info, &body, &scratch);

	if (r == -EBADMSG || r == -EUCLEAN) { /* what a put left that was cut off */
		r = archive_put(&a->place, &a->info.id, (struct slice){a->sealed.p, a->sealed.len}, false);
		return r < 0 ? r : is_stored(a);
	}
	if (r < 0)
		return r;
	r = v->ops->hash_after(v, info.last_seq, &hash);
	if (r < 0 || hash != info.hash_after || info.hash_before != a->info.hash_before) {
		log_error("archive: %s", "the store has a segment of another history under the name of the next one");
		return -EEXIST;
	}
	return segment_resume(a, &info);
}

int segment_store(struct archiver *a)
{
	int r = seal(a);

	if (r == 0)
		r = archive_put(&a->place, &a->info.id, (struct slice){a->sealed.p, a->sealed.len}, true);
	if (r == -EEXIST)
		return adopt(a);
	return r < 0 ? r : is_stored(a);
}
