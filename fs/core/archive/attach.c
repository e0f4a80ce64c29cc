/*
 * attach.c: where the archive ended, and whether this volume goes on from there.
 *
 * The manifest names a segment that came next once; from it the newest is found by asking for the next one until there is none.
 * Then one of these holds, and each but the first begins a new stream, with a base of its own:
 *
 *     the stream is of this leader's epoch, and ends with a state of this volume's own history: it goes on
 *     its next batch is not in the journal any more: a gap, which is recorded for good
 *     it is of another epoch: another node has led since
 *     it was ended: the archive was switched off, or had a gap before
 *
 * An archive that a later epoch has written to is left alone: this node does not know yet that it leads no more.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/archive/impl.h"

struct archive_stream *archiver_stream(struct archiver *a)
{
	struct archive_stream *s = a->m.n_streams ? &a->m.stream[a->m.n_streams - 1] : NULL;

	return s && s->end == STREAM_OPEN ? s : NULL;
}

int archiver_save(struct archiver *a)
{
	int r = manifest_write(&a->place, clock_real_ns(a->fs->clock), a->epoch, &a->m);

	if (r == -ESTALE)
		archiver_detach(a);
	if (r < 0)
		return r;
	a->dirty = false;
	a->manifest_age = 0;
	a->manifest_ns = clock_mono_ns(a->fs->clock);
	return 0;
}

void archiver_detach(struct archiver *a)
{
	base_drop(a);
	segment_drop(a);
	manifest_free(&a->m);
	a->attached = a->dirty = false;
	a->cut = 0;
}

int archiver_begin_stream(struct archiver *a)
{
	struct replica_view_info info;

	base_drop(a);
	segment_drop(a);
	int r = base_begin(a, &info);
	if (r < 0)
		return r;
	struct archive_stream *s = manifest_add_stream(&a->m);
	if (!s) {
		archiver_detach(a);
		return -ENOMEM;
	}
	*s = (struct archive_stream){.epoch = a->epoch,
				     .first = {info.seq + 1, 0},
				     .known = {info.seq + 1, 0},
				     .known_hash = info.hash,
				     .known_ns = clock_real_ns(a->fs->clock)};
	a->next = s->first;
	a->hash = info.hash;
	a->taken = info.seq;
	a->v.archived_seq = info.seq;
	a->v.archived_ns = s->known_ns;
	atomic_store(&a->fs->archive_floor, info.seq + 1);
	r = archiver_save(a); /* before anything is stored that only it names */
	if (r < 0)
		archiver_detach(a);
	return r;
}

/* ---- the end of a stream ---- */

static bool is_damage(int error)
{
	return error == -EBADMSG || error == -EUCLEAN;
}

/*
 * The newest segment that is there whole, by the names; *ret stays when there is none behind `known`.  Each was verified before
 * the next one was made, but the last: what a put left behind that was cut off counts as not there, and will be replaced.
 */
static int walk(struct archiver *a, const struct archive_stream *s, struct archive_info *ret)
{
	struct archive_id id = {.kind = ARCHIVE_SEGMENT, .epoch = s->epoch, .seq = s->known.seq, .part = s->known.part},
			  last = id;
	CLEANUP_BUF struct buf body = {0}, scratch = {0};
	struct archive_info info, before = *ret;
	bool any = false;
	int r;

	while ((r = archive_fetch_header(&a->place, &id, &info)) == 0) {
		if (info.next_seq < id.seq || (info.next_seq == id.seq && info.next_part <= id.part) ||
		    info.last_seq >= info.next_seq)
			return -EUCLEAN;
		before = *ret;
		*ret = info;
		last = id;
		any = true;
		id.seq = info.next_seq;
		id.part = info.next_part;
	}
	if (r == -ENOENT || is_damage(r))
		r = any ? archive_fetch(&a->place, &last, &info, &body, &scratch) : 0;
	if (!is_damage(r))
		return r;
	log_warn("archive: %s: it is made anew", a->place.message);
	*ret = before;
	return 0;
}

static void end_stream(struct archiver *a, struct archive_stream *s, enum stream_end end, uint64_t lost_from)
{
	s->end = end;
	s->lost_from = lost_from;
	a->dirty = true;
	if (end == STREAM_GAP) {
		a->v.gap = true;
		a->v.gap_from = lost_from;
	}
}

/* Goes on behind `info`, if this volume's history does: 1; 0: the stream was ended. */
static int go_on(struct archiver *a, struct archive_stream *s, const struct archive_info *info)
{
	struct replica_volume *v = fs_replica(a->fs);
	struct journal_status js;
	uint64_t hash;
	int r = v->ops->hash_after(v, info->last_seq, &hash);

	journal_get_status(a->fs->journal, &js);
	if (r == 0 && hash == info->hash_after && info->last_seq <= js.durable_seq) {
		r = segment_resume(a, info);
		if (r != -ENOENT)
			return r < 0 ? r : 1;
	}
	if (r < 0 && r != -ENOENT)
		return r;
	bool lost = r == -ENOENT && info->last_seq < js.durable_seq;
	if (!lost)
		log_error("archive: what it ends with is not of this volume's history: a new stream begins");
	end_stream(a, s, lost ? STREAM_GAP : STREAM_OTHER, info->last_seq + 1);
	return 0;
}

/* As if it was the last segment: where the stream stood, between two batches, when the manifest was written. */
static struct archive_info known_info(const struct archive_stream *s)
{
	return (struct archive_info){
	    .last_seq = s->known.seq - 1, .next_seq = s->known.seq, .hash_after = s->known_hash, .last_ns = s->known_ns};
}

static int resume_stream(struct archiver *a, struct archive_stream *s)
{
	struct archive_info info = known_info(s);
	int r = walk(a, s, &info);

	if (r < 0)
		return r;
	return s->epoch == a->epoch ? go_on(a, s, &info) : 0;
}

/* Bases that were not finished, by this mount or another. */
static void give_up_begun(struct archiver *a)
{
	for (size_t i = 0; i < a->m.n_bases; i++)
		if (a->m.base[i].state == BASE_BEGUN) {
			a->m.base[i].state = BASE_GOING;
			a->dirty = true;
		}
}

int archiver_attach(struct archiver *a)
{
	struct replica_point p;

	fs_replica(a->fs)->ops->get_point(fs_replica(a->fs), &p);
	a->epoch = p.promised;
	int r = manifest_read(&a->place, &a->m);
	if (r < 0 && r != -ENOENT)
		return r;
	a->place.message[0] = '\0';
	r = manifest_follow_heads(&a->place, &a->m);
	if (r < 0) {
		archiver_detach(a);
		return r;
	}
	for (size_t i = 0; i < a->m.n_streams; i++)
		if (a->m.stream[i].epoch > a->epoch) {
			snprintf(a->place.message, sizeof(a->place.message), "a node with a later epoch writes to the archive");
			manifest_free(&a->m);
			return -ESTALE;
		}
	give_up_begun(a);
	struct archive_stream *s = archiver_stream(a);
	r = s ? resume_stream(a, s) : 0;
	if (r >= 0 && s && s->epoch != a->epoch)
		end_stream(a, s, STREAM_OTHER, 0);
	if (r == 0)
		r = archiver_begin_stream(a);
	if (r < 0) {
		archiver_detach(a);
		return r;
	}
	a->attached = true;
	return 0;
}
