/*
 * retention.c: what nobody will restore any more goes.
 *
 * `keep` says how far back one may go.  The newest base that is older than that is needed to get there; everything before it is
 * not.  In this order, so that a crash leaves nothing that no manifest names, and no manifest that names what is gone:
 *
 *     the manifest says what goes: bases GOING, segments from `removing` to `first`, or whole streams
 *     their objects are removed, segments newest first: each is found from the one before it, so the rest of the way stays
 *     the manifest forgets them
 *
 * Ages are told by the clock of ageing, which does not believe jumps (ageing/clock.c).  A leader does it, by names alone: the
 * store is never listed.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/archive/impl.h"
#include "fs/core/tier/ageing/impl.h"

#define LOOK_NS   (60 * NSEC_PER_SEC)
#define PARTS_MAX (1u << 22)

/* ---- what goes ---- */

/* The newest base that is as old as `keep` asks for: the first that is needed. */
static size_t oldest_needed(const struct archiver *a, int64_t now_ns)
{
	size_t oldest = 0;

	for (size_t i = 0; i < a->m.n_bases; i++)
		if (a->m.base[i].state == BASE_DONE && now_ns - a->m.base[i].ready_ns >= a->policy.keep_ns)
			oldest = i;
	return oldest;
}

/* The stream that the base begins from, or is in: the last one of its epoch that does not begin behind it. */
static bool find_stream(const struct archiver *a, const struct archive_base *b, size_t *ret)
{
	for (*ret = a->m.n_streams; (*ret)-- > 0;)
		if (a->m.stream[*ret].epoch == b->epoch && a->m.stream[*ret].first.seq <= b->seq + 1)
			return true;
	return false;
}

static void mark_before(struct archiver *a, size_t oldest)
{
	const struct archive_base *b = &a->m.base[oldest];
	size_t own;

	if (!find_stream(a, b, &own))
		return;
	for (size_t k = 0; k < oldest; k++)
		a->m.base[k].state = BASE_GOING;
	for (size_t i = 0; i < own; i++)
		a->m.stream[i].going = 1;
	struct archive_stream *s = &a->m.stream[own];
	if (s->first.seq > b->seq)
		return;
	if (!s->removing.seq)
		s->removing = s->first;
	s->first = (struct archive_at){b->seq + 1, 0};
}

static bool anything_goes(const struct archiver *a)
{
	for (size_t i = 0; i < a->m.n_bases; i++)
		if (a->m.base[i].state == BASE_GOING)
			return true;
	for (size_t i = 0; i < a->m.n_streams; i++)
		if (a->m.stream[i].going || a->m.stream[i].removing.seq)
			return true;
	return false;
}

/* ---- bases ---- */

/* How many parts are there, of one that was never finished: by asking for one after the other. */
static int count_parts(struct archiver *a, const struct archive_base *b, uint32_t *ret)
{
	struct archive_id id = {.kind = ARCHIVE_BASE, .epoch = b->epoch, .seq = b->seq};
	struct archive_info info;
	int r;

	while (((r = archive_fetch_header(&a->place, &id, &info)) == 0 || r == -EBADMSG || r == -EUCLEAN) && id.part < PARTS_MAX)
		id.part++;
	*ret = id.part;
	return r == -ENOENT ? 0 : r;
}

/* Last part first: a second try counts what is left. */
static int remove_base(struct archiver *a, const struct archive_base *b)
{
	uint32_t n = b->parts;
	int r = n ? 0 : count_parts(a, b, &n);

	while (r == 0 && n-- > 0) {
		const struct archive_id id = {.kind = ARCHIVE_BASE, .epoch = b->epoch, .seq = b->seq, .part = n};

		r = archive_remove(&a->place, &id);
		a->v.removed += r == 0;
	}
	return r;
}

/* One that is being made under the same name stays. */
static bool is_made_now(const struct archiver *a, const struct archive_base *b)
{
	return a->job && a->job->epoch == b->epoch && a->job->seq == b->seq;
}

static int remove_bases(struct archiver *a)
{
	for (size_t i = 0; i < a->m.n_bases;) {
		const struct archive_base *b = &a->m.base[i];

		if (b->state != BASE_GOING) {
			i++;
			continue;
		}
		int r = is_made_now(a, b) ? 0 : remove_base(a, b);
		if (r < 0)
			return r;
		manifest_drop_base(&a->m, i);
		a->dirty = true;
	}
	return 0;
}

/* ---- segments ---- */

struct names {
	struct archive_at *at; /* owned */
	size_t n, cap;
};

static int note_name(struct names *names, struct archive_at at)
{
	if (names->n == names->cap) {
		size_t cap = names->cap ? 2 * names->cap : 64;
		struct archive_at *grown = realloc(names->at, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		names->at = grown;
		names->cap = cap;
	}
	names->at[names->n++] = at;
	return 0;
}

/* Segments from `at` up to those of batch `end`. */
static int collect(struct archiver *a, uint64_t epoch, struct archive_at at, uint64_t end, struct names *names)
{
	int r = 0;

	while (r == 0 && at.seq < end) {
		const struct archive_id id = {.kind = ARCHIVE_SEGMENT, .epoch = epoch, .seq = at.seq, .part = at.part};
		struct archive_info info;

		r = archive_fetch_header(&a->place, &id, &info);
		if (r == 0 && (info.next_seq < at.seq || (info.next_seq == at.seq && info.next_part <= at.part)))
			r = -EUCLEAN;
		if (r == 0)
			r = note_name(names, at);
		at = (struct archive_at){info.next_seq, info.next_part};
	}
	return r == -ENOENT ? 0 : r;
}

static int remove_segments(struct archiver *a, uint64_t epoch, struct archive_at from, uint64_t end)
{
	struct names names = {0};
	int r = collect(a, epoch, from, end, &names);

	while (r == 0 && names.n-- > 0) {
		const struct archive_id id = {
		    .kind = ARCHIVE_SEGMENT, .epoch = epoch, .seq = names.at[names.n].seq, .part = names.at[names.n].part};

		r = archive_remove(&a->place, &id);
		a->v.removed += r == 0;
	}
	free(names.at);
	return r;
}

/* Segments of another stream of that epoch, which begins later, are not its own. */
static uint64_t end_of(const struct archiver *a, size_t i)
{
	bool followed = i + 1 < a->m.n_streams && a->m.stream[i + 1].epoch == a->m.stream[i].epoch;

	return followed ? a->m.stream[i + 1].first.seq : UINT64_MAX;
}

static int remove_streams(struct archiver *a)
{
	for (size_t i = 0; i < a->m.n_streams;) {
		struct archive_stream *s = &a->m.stream[i];
		const struct archive_at from = s->removing.seq ? s->removing : s->first;
		int r = 0;

		if (s->going)
			r = remove_segments(a, s->epoch, from, end_of(a, i));
		else if (s->removing.seq)
			r = remove_segments(a, s->epoch, from, s->first.seq);
		if (r < 0)
			return r;
		a->dirty |= s->going || s->removing.seq;
		s->removing = (struct archive_at){0};
		if (s->going)
			manifest_drop_stream(&a->m, i);
		else
			i++;
	}
	return 0;
}

/* ---- both ---- */

int retention_step(struct archiver *a)
{
	int64_t now_ns = clock_mono_ns(a->fs->clock);
	bool due = !a->retention_ns || now_ns - a->retention_ns >= LOOK_NS;
	size_t oldest;

	if (!due)
		return 0;
	steady_look(a->fs->ageing);
	oldest = a->policy.keep_ns ? oldest_needed(a, steady_now(a->fs->ageing)) : 0;
	if (oldest > 0) {
		mark_before(a, oldest);
		a->dirty = true;
	}
	int r = 0;
	if (anything_goes(a)) {
		r = archiver_save(a);
		if (r == 0)
			r = remove_bases(a);
		if (r == 0)
			r = remove_streams(a);
		if (r == 0 && a->dirty)
			r = archiver_save(a);
	}
	if (r == 0)
		a->retention_ns = now_ns;
	return r;
}
