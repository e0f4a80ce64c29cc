/*
 * heal_archive.c: damaged blocks looked for in the archive (fs/core/archive): in a base, then in the segments behind it.
 *
 * A base's parts hold rows in the order of keys, so the part that has a leaf is found by halves: what a part's first and last row
 * say of each block that is wanted bounds where it can be.  No part is fetched twice, so many blocks cost no more than reading
 * the base once, and one block costs as many parts as the base has bits.  What was written after the base is in segments, which
 * are read one after the other, once, for all of them, until nothing is wanted any more or the archive ends.
 *
 * Which base: the newest that is not newer than what is wanted; for the live tree the newest of all.  For a snapshot that is
 * older than every base the oldest base, which may have the block still, without segments.
 *
 * An object that is damaged or missing is passed over: of a base the parts beside it are looked at, of segments the header of the
 * damaged one is enough to find the next.  What was wanted and not found by such a base is then looked for in the one before.  A
 * store that does not answer ends the search, for another time.  Nothing here is believed but the CRC of a block: a forged
 * archive costs time.  The store is not listed.
 *
 * Memory: one object, and its body.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/archive/archiving.h"
#include "fs/core/archive/frames.h"
#include "fs/core/archive/manifest.h"
#include "fs/core/index.h"
#include "fs/core/replica/rows.h"
#include "fs/core/scrub/heal.h"
#include "fs/core/tier/tier.h"

#define BAD_PARTS_MAX 16u
#define NO_BASE       UINT32_MAX

/* Of a want, by its number in wants: in which base it is looked for, and which of its parts it can be in. */
struct place {
	uint32_t base, low, high;
};
/* A batch whose data goes on in later frames. */
struct open_batch {
	struct buf logical;
	struct batch_counts n;
	uint32_t n_data, next;
};
struct archive_search {
	struct wants *w; /* borrowed */
	struct archive_manifest m;
	struct place *place; /* owned */
	struct buf body, scratch;
	uint32_t base; /* being looked in; NO_BASE: the next one is to be chosen */
	bool in_segments, damaged;
	uint32_t bad[BAD_PARTS_MAX], n_bad;
	struct archive_id segment;
	struct open_batch batch;
};

void archive_search_free(struct archive_search *s)
{
	if (!s)
		return;
	manifest_free(&s->m);
	buf_free(&s->body);
	buf_free(&s->scratch);
	buf_free(&s->batch.logical);
	free(s->place);
	free(s);
}

/* ---- the archive's place, for one step ---- */

struct opened {
	const struct tier_store *store;
	struct pack_volume_key key;
	struct archive_place place;
};

/* -ENOENT: there is no archive. */
static int place_open(struct fs *fs, struct opened *o)
{
	char text[FS_POLICY_MAX + 1];
	struct archive_policy p;
	int r = fs_get_policy(fs, FS_ROOT_INO, "archive", false, text);

	*o = (struct opened){0};
	if (r == 0)
		r = archive_policy_parse(text, &p);
	if (r < 0)
		return -ENOENT;
	r = stores_get_by_name(fs, p.store, &o->store);
	if (r < 0) {
		snprintf(o->place.message, sizeof(o->place.message), "store %s cannot be used", p.store);
		return -EIO;
	}
	o->place.store = o->store->guard;
	o->place.purpose = OBJECT_BACKGROUND;
	memcpy(o->place.volume, fs->super.volume, sizeof(o->place.volume));
	r = o->store->d.encrypt ? stores_key(fs, &o->key) : 0;
	o->place.key = o->store->d.encrypt ? &o->key : NULL;
	if (r < 0)
		stores_put(fs, o->store);
	return r < 0 ? -ENOKEY : 0;
}

static void place_close(struct fs *fs, struct opened *o)
{
	stores_put(fs, o->store);
	OPENSSL_cleanse(&o->key, sizeof(o->key));
}

/* ---- bases ---- */

static uint32_t older_base(const struct archive_manifest *m, uint32_t i)
{
	while (i-- > 0)
		if (m->base[i].state == BASE_DONE)
			return i;
	return NO_BASE;
}

static uint32_t base_for(const struct archive_manifest *m, uint64_t seq)
{
	uint32_t oldest = NO_BASE;

	for (size_t i = m->n_bases; i-- > 0;) {
		if (m->base[i].state != BASE_DONE)
			continue;
		if (m->base[i].seq <= seq)
			return (uint32_t)i;
		oldest = (uint32_t)i;
	}
	return oldest;
}

static void set_base(struct archive_search *s, size_t i, uint32_t base)
{
	s->place[i] = (struct place){.base = base, .high = base == NO_BASE ? 0 : s->m.base[base].parts};
}

/* The newest one that anything is to be looked for in. */
static bool choose_base(struct archive_search *s)
{
	s->base = NO_BASE;
	for (size_t i = 0; i < s->w->n; i++)
		if (!s->w->want[i].done && s->place[i].base != NO_BASE && (s->base == NO_BASE || s->place[i].base > s->base))
			s->base = s->place[i].base;
	s->in_segments = s->damaged = false;
	s->n_bad = 0;
	return s->base != NO_BASE;
}

static bool is_here(const struct archive_search *s, size_t i)
{
	return !s->w->want[i].done && s->place[i].base == s->base;
}

/* What is wanted and was not found goes to the base before, if that may help. */
static void leave_base(struct archive_search *s)
{
	uint32_t next = s->damaged ? older_base(&s->m, s->base) : NO_BASE;

	for (size_t i = 0; i < s->w->n; i++)
		if (is_here(s, i))
			set_base(s, i, next);
	s->base = NO_BASE;
}

/* ---- parts of a base ---- */

static bool is_bad(const struct archive_search *s, uint32_t part)
{
	for (uint32_t i = 0; i < s->n_bad; i++)
		if (s->bad[i] == part)
			return true;
	return false;
}

/* The part nearest to the middle that is not known as bad; false: there is none. */
static bool part_between(const struct archive_search *s, uint32_t low, uint32_t high, uint32_t *ret)
{
	uint32_t mid = low + (high - low) / 2;

	for (uint32_t d = 0; d <= s->n_bad && low < high; d++) {
		if (mid + d < high && !is_bad(s, mid + d)) {
			*ret = mid + d;
			return true;
		}
		if (mid >= low + d && !is_bad(s, mid - d)) {
			*ret = mid - d;
			return true;
		}
	}
	return false;
}

/* Of the first block that some part may still have. */
static bool next_part(const struct archive_search *s, uint32_t *ret)
{
	for (size_t i = 0; i < s->w->n; i++)
		if (is_here(s, i) && part_between(s, s->place[i].low, s->place[i].high, ret))
			return true;
	return false;
}

static int compare_keys(struct slice a, struct slice b)
{
	int c = memcmp(a.p, b.p, min_u64(a.len, b.len));

	return c ? c : a.len < b.len ? -1 : a.len > b.len;
}

/* What the first and the last row of the part say. */
static void bound(struct archive_search *s, uint32_t part, struct slice first, struct slice last)
{
	for (size_t i = 0; i < s->w->n; i++) {
		struct place *p = &s->place[i];
		struct index_key k = key_pair(TABLE_EXTENT, s->w->want[i].ino, s->w->want[i].q.leaf);

		if (!is_here(s, i))
			continue;
		if (compare_keys(key_slice(&k), first) < 0)
			p->high = part < p->high ? part : p->high;
		else if (compare_keys(key_slice(&k), last) > 0)
			p->low = part + 1 > p->low ? part + 1 : p->low;
		else
			p->low = p->high;
	}
}

static int give_row(struct fs *fs, struct archive_search *s, const struct frame *f)
{
	const uint8_t *at = f->blocks;
	int r = 0;

	for (unsigned i = 0; i < LEAF_SLOTS && r == 0; i++) {
		uint64_t block = f->leaf.leaf * LEAF_SLOTS + i;

		if (!(f->leaf.wanted & ~f->leaf.superseded & 1u << i))
			continue;
		if (wants_match(s->w, f->leaf.ino, block, f->leaf.crc[i]))
			r = wants_give(fs, s->w, f->leaf.ino, block, f->leaf.crc[i], at, REPAIR_ARCHIVE);
		at += BLOCK_SIZE;
	}
	return r;
}

static int look_into_part(struct fs *fs, struct archive_search *s, uint32_t part)
{
	const struct slice body = {s->body.p, s->body.len};
	struct slice first = {0}, last = {0};
	struct frame f = {0};
	size_t at = 0;
	int r;

	while ((r = frames_next(body, &at, &f)) == 0 && f.kind != FRAME_END) {
		if (f.kind != FRAME_IS_ROW)
			return -EUCLEAN;
		first = first.len ? first : f.row.key;
		last = f.row.key;
		r = f.leaf.wanted ? give_row(fs, s, &f) : 0;
		if (r < 0)
			return r;
	}
	if (r == 0 && first.len)
		bound(s, part, first, last);
	return r < 0 || first.len ? r : -EUCLEAN;
}

static bool is_damage(int r)
{
	return r == -EBADMSG || r == -EUCLEAN || r == -ENOENT || r == -EPROTONOSUPPORT;
}

/* Another part than this has to do. */
static void note_bad(struct archive_search *s, uint32_t part)
{
	s->damaged = true;
	if (s->n_bad < BAD_PARTS_MAX) {
		s->bad[s->n_bad++] = part;
		return;
	}
	for (size_t i = 0; i < s->w->n; i++) /* too much of it is: its segments may still help */
		if (is_here(s, i))
			s->place[i].low = s->place[i].high;
}

static void begin_segments(struct archive_search *s)
{
	const struct archive_base *b = &s->m.base[s->base];

	s->in_segments = true;
	s->segment = (struct archive_id){.kind = ARCHIVE_SEGMENT, .epoch = b->epoch, .seq = b->seq + 1};
	s->batch.n_data = s->batch.next = 0;
}

static int step_base(struct fs *fs, struct archive_search *s, struct archive_place *p, uint64_t *ret_bytes)
{
	const struct archive_base *b = &s->m.base[s->base];
	struct archive_info info;
	uint32_t part;

	if (!next_part(s, &part)) {
		begin_segments(s);
		return 0;
	}
	const struct archive_id id = {.kind = ARCHIVE_BASE, .epoch = b->epoch, .seq = b->seq, .part = part};
	int r = archive_fetch(p, &id, &info, &s->body, &s->scratch);
	if (r == 0) {
		*ret_bytes += info.stored_bytes;
		r = look_into_part(fs, s, part);
	}
	if (is_damage(r)) {
		note_bad(s, part);
		r = 0;
	}
	return r;
}

/* ---- segments ---- */

/* The record of the batch's next data out of line; 0: it has none. */
static int next_data(struct open_batch *b, struct record *ret)
{
	CLEANUP_FREE struct batch_cursor *c = malloc(sizeof(*c));
	const struct batch_view view = {.logical = b->logical.p, .n = b->n};
	uint32_t i = 0;
	int r;

	if (!c)
		return -ENOMEM;
	batch_cursor_start(c, &view);
	while ((r = batch_next(c, ret)) == 1)
		if (ret->type == RECORD_WRITE && ret->write.out_of_line && i++ == b->next)
			return 1;
	return r;
}

static int look_into_batch(struct fs *fs, struct archive_search *s, const struct frame *f)
{
	const struct batch_info info = {.prev_hash = f->batch.prev_hash, .hash = f->batch.hash};
	const struct batch_view view = {
	    .logical = f->batch.logical,
	    .payload = f->batch.payload,
	    .n = {.n_records = f->batch.n_records, .n_payload = f->batch.n_payload, .logical_bytes = f->batch.logical_bytes}};
	CLEANUP_FREE struct batch_cursor *c = malloc(sizeof(*c));
	struct record rec;
	int r = c ? batch_verify_parts(&info, &view) : -ENOMEM, e = 0;

	if (r < 0)
		return r;
	batch_cursor_start(c, &view);
	while (e == 0 && (r = batch_next(c, &rec)) == 1)
		if (rec.type == RECORD_WRITE && !rec.write.out_of_line && rec.write.n_data == 1)
			e = wants_give_write(fs, s->w, &rec, rec.write.data[0].iov_base, NULL, REPAIR_ARCHIVE);
	buf_reset(&s->batch.logical);
	buf_put(&s->batch.logical, view.logical, view.n.logical_bytes);
	s->batch.n = view.n;
	s->batch.n_data = f->n_data;
	s->batch.next = 0;
	return e < 0 ? e : r < 0 ? r : s->batch.logical.failed ? -ENOMEM : 0;
}

static int look_into_data(struct fs *fs, struct archive_search *s, const struct frame *f)
{
	struct record rec;

	if (s->batch.next >= s->batch.n_data) /* of a batch whose beginning could not be read */
		return 0;
	int r = f->data.index == s->batch.next ? next_data(&s->batch, &rec) : -EUCLEAN;
	if (r != 1)
		return r < 0 ? r : -EUCLEAN;
	s->batch.next++;
	if (rec.write.n_blocks != f->data.n_blocks)
		return -EUCLEAN;
	return wants_give_write(fs, s->w, &rec, f->data.blocks, f->data.superseded, REPAIR_ARCHIVE);
}

static int look_into_segment(struct fs *fs, struct archive_search *s)
{
	const struct slice body = {s->body.p, s->body.len};
	struct frame f = {0};
	size_t at = 0;
	int r;

	while ((r = frames_next(body, &at, &f)) == 0 && f.kind != FRAME_END) {
		r = f.kind == FRAME_IS_BATCH  ? look_into_batch(fs, s, &f)
		    : f.kind == FRAME_IS_DATA ? look_into_data(fs, s, &f)
					      : -EUCLEAN;
		if (r < 0)
			return r;
	}
	return r;
}

/* Whether a later segment can have what is wanted here. */
static bool goes_on(const struct archive_search *s)
{
	for (size_t i = 0; i < s->w->n; i++)
		if (is_here(s, i) && s->segment.seq <= s->w->want[i].seq)
			return true;
	return false;
}

static int step_segment(struct fs *fs, struct archive_search *s, struct archive_place *p, uint64_t *ret_bytes)
{
	struct archive_info info;

	if (!goes_on(s)) {
		leave_base(s);
		return 0;
	}
	int r = archive_fetch(p, &s->segment, &info, &s->body, &s->scratch);
	if (r == 0) {
		*ret_bytes += info.stored_bytes;
		r = look_into_segment(fs, s);
	}
	if (r == -EBADMSG || r == -EUCLEAN) {
		s->damaged = true;
		s->batch.n_data = s->batch.next = 0;
		r = archive_fetch_header(p, &s->segment, &info);
	}
	bool rises =
	    r == 0 && (info.next_seq > s->segment.seq || (info.next_seq == s->segment.seq && info.next_part > s->segment.part));
	if (rises) {
		s->segment.seq = info.next_seq;
		s->segment.part = info.next_part;
		return 0;
	}
	if (r < 0 && !is_damage(r))
		return r;
	s->damaged |= r != -ENOENT;
	leave_base(s); /* it ends here, or is not to be followed any further */
	return 0;
}

/* ---- all ---- */

static int read_manifest(struct fs *fs, struct archive_search *s, char message[160])
{
	struct opened o;
	int r = place_open(fs, &o);

	if (r == 0) {
		r = manifest_read(&o.place, &s->m);
		place_close(fs, &o);
	}
	if (r < 0 && r != -ENOENT)
		snprintf(message, 160, "the archive: %.140s", *o.place.message ? o.place.message : strerror(-r));
	return r;
}

int archive_search_open(struct fs *fs, struct wants *w, struct archive_search **ret, char message[160])
{
	struct archive_search *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->w = w;
	s->place = calloc(w->n + 1, sizeof(*s->place));
	s->base = NO_BASE;
	int r = s->place ? read_manifest(fs, s, message) : -ENOMEM;
	if (r < 0) {
		archive_search_free(s);
		return r;
	}
	for (size_t i = 0; i < w->n; i++)
		set_base(s, i, base_for(&s->m, w->want[i].seq));
	*ret = s;
	return 0;
}

int archive_search_step(struct fs *fs, struct archive_search *s, uint64_t *ret_bytes, bool *ret_more, char message[160])
{
	struct opened o;
	int r = 0;

	*ret_more = s->w->n_open && (s->base != NO_BASE || choose_base(s));
	if (!*ret_more)
		return 0;
	r = place_open(fs, &o);
	if (r == 0) {
		r = (s->in_segments ? step_segment : step_base)(fs, s, &o.place, ret_bytes);
		place_close(fs, &o);
	}
	buf_free(&s->body); /* who waits between two steps keeps nothing large */
	buf_free(&s->scratch);
	if (r < 0 && r != -ENOENT)
		snprintf(message, 160, "the archive: %.140s", *o.place.message ? o.place.message : strerror(-r));
	return r;
}
