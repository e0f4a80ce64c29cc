/* heal.c: see heal.h. */
#include "fs/core/scrub/heal.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/snap/snap.h"
#include "journal/past.h"

#define RING_STEP_BYTES (1 * MIB)
#define BATCHES_A_STEP  256u
#define LOOKUP_BYTES    128u /* about what a row costs */

int heal_begin(struct fs *fs, uint64_t ino, bool again, struct heal **ret)
{
	struct heal *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->again = again;
	h->top = UINT64_MAX;
	int r = wants_collect(fs, ino, again, &h->wants);
	if (r < 0 || !h->wants.n_open)
		h = heal_free(h);
	*ret = h;
	return r;
}

struct heal *heal_free(struct heal *h)
{
	if (!h)
		return NULL;
	archive_search_free(h->search);
	journal_past_free(h->past);
	wants_free(&h->wants);
	free(h);
	return NULL;
}

/* ---- other copies ---- */

/* The leaf of the want's file at its place: in a snapshot's index, or (`kv` NULL) the live one, whose stripe is held. */
static int get_leaf(struct fs *fs, struct kv *kv, const struct want *want, struct leaf *ret)
{
	return kv ? index_get_leaf(kv, want->ino, want->q.leaf, ret) : lcache_get(fs->lcache, want->ino, want->q.leaf, ret);
}

/* 1: its block is in `room`; 2: only the object that *ret says has it; 0: it has none.  With the home that is damaged it is no
 * copy. */
static int read_copy(struct fs *fs, struct kv *kv, const struct want *want, uint8_t *room, struct leaf_object *ret)
{
	struct leaf l;
	int r = get_leaf(fs, kv, want, &l);
	const struct slot *s = &l.slot[want->q.slot];

	if (r < 0 || !slot_has_data(s) || s->crc != want->q.crc)
		return 0;
	if ((s->staged || s->packed || (s->home && s->home != want->q.home)) && verify_slot(fs, &l, want->q.slot, room) == 0)
		return 1;
	*ret = l.object;
	return s->tiered ? 2 : 0;
}

static int try_copy(struct fs *fs, struct wants *w, const struct want *want, uint64_t ino, struct kv *kv, uint8_t *room)
{
	struct block_question q = {.ino = ino, .leaf = want->q.leaf, .slot = want->q.slot};

	if (!kv)
		icache_rdlock(fs->icache, ino);
	int r = read_copy(fs, kv, want, room, &q.object);
	if (!kv)
		icache_rdunlock(fs->icache, ino);
	if (r == 2 && repair_fetch_tier(fs, &q, room) < 0)
		r = 0;
	if (r == 0)
		return 0;
	return wants_give(fs, w, want->ino, want->block, want->q.crc, room, r == 1 ? REPAIR_COPY : REPAIR_TIER);
}

static int look_for_copies(struct fs *fs, struct heal *h, uint64_t top, struct kv *kv, uint64_t *ret_bytes)
{
	CLEANUP_FREE void *room = NULL;
	int r = 0;

	if (posix_memalign(&room, DISK_BLOCK, BLOCK_SIZE))
		return -ENOMEM;
	for (size_t i = 0; i < h->wants.n && r == 0; i++) {
		const struct want *want = &h->wants.want[i];
		uint64_t ino = kv ? snap_ino(top, want->ino) : want->ino;

		if (want->done || want->q.ino == ino)
			continue;
		*ret_bytes += LOOKUP_BYTES;
		r = try_copy(fs, &h->wants, want, ino, kv, room);
		*ret_bytes += want->done ? BLOCK_SIZE : 0;
	}
	return r;
}

static int step_copies(struct fs *fs, struct heal *h, uint64_t *ret_bytes)
{
	bool live = h->top == UINT64_MAX;
	struct held *held;
	struct kv *kv;
	uint32_t top;

	if (live) {
		h->top = SNAP_TOP_MAX;
		return look_for_copies(fs, h, 0, NULL, ret_bytes);
	}
	if (!snap_held_below(fs, h->top, &top)) {
		h->at = HEAL_JOURNAL;
		return 0;
	}
	if (top == 0)
		h->at = HEAL_JOURNAL;
	h->top = top ? top - 1 : 0;
	int r = snap_get(fs, top, &held, &kv);
	if (r < 0) /* gone, or said already */
		return r == -ENOMEM ? r : 0;
	r = look_for_copies(fs, h, top, kv, ret_bytes);
	snap_put(fs, held);
	return r;
}

/* ---- the ring ---- */

static int look_into_batch(struct fs *fs, struct heal *h, const struct batch_view *view)
{
	CLEANUP_FREE struct batch_cursor *c = malloc(sizeof(*c));
	struct record rec;
	int r = c ? 1 : -ENOMEM;

	if (c)
		batch_cursor_start(c, view);
	while (r == 1 && (r = batch_next(c, &rec)) == 1)
		if (rec.type == RECORD_WRITE && !rec.write.out_of_line && rec.write.n_data == 1) {
			r = wants_give_write(fs, &h->wants, &rec, rec.write.data[0].iov_base, NULL, REPAIR_JOURNAL);
			r = r == 0 ? 1 : r;
		}
	return r == -EUCLEAN ? 0 : r;
}

/* From the newest batch to the oldest one that is known; a damaged one is passed over, said by who needs it. */
static int look_into_known(struct fs *fs, struct heal *h, uint64_t *ret_bytes)
{
	struct journal_batch b = {0};
	int r = journal_copy_batch(fs->journal, h->seq - 1, &b);

	*ret_bytes += BLOCK_SIZE;
	if (r == 0) {
		*ret_bytes += (uint64_t)batch_blocks(&b.info.n) * BLOCK_SIZE;
		r = look_into_batch(fs, h, &b.view);
	} else if (r != -ENOMEM) {
		r = 0;
	}
	journal_batch_free(&b);
	if (r == 0)
		h->seq--;
	return r;
}

/* Then what was homed before this mount, as far as the ring has it; -ENOENT: no further. */
static int look_into_past(struct fs *fs, struct heal *h, uint64_t *ret_bytes)
{
	struct batch_info info;
	struct batch_view view;
	uint64_t n = 0;
	int r = h->past ? 0 : journal_past_open(fs->journal, &h->past);

	if (r == 0)
		r = journal_past_next(h->past, &info, &view, &n);
	*ret_bytes += n * BLOCK_SIZE;
	return r == 0 ? look_into_batch(fs, h, &view) : r;
}

static int step_journal(struct fs *fs, struct heal *h, uint64_t *ret_bytes)
{
	struct journal_status js;
	int r = 0;

	journal_get_status(fs->journal, &js);
	if (!h->seq)
		h->seq = js.durable_seq + 1;
	for (unsigned n = 0; r == 0 && n < BATCHES_A_STEP && *ret_bytes < RING_STEP_BYTES && h->wants.n_open; n++) {
		bool known = !h->past && h->seq > 1 && h->seq > journal_oldest(fs->journal);

		r = known ? look_into_known(fs, h, ret_bytes) : look_into_past(fs, h, ret_bytes);
	}
	if (r != -ENOENT)
		return r;
	journal_past_free(h->past);
	h->past = NULL;
	h->at = HEAL_ARCHIVE;
	return 0;
}

/* ---- the archive ---- */

static int step_archive(struct fs *fs, struct heal *h, uint64_t *ret_bytes)
{
	bool more = true;
	int r = h->search ? 0 : archive_search_open(fs, &h->wants, &h->search, h->message);

	if (r == 0)
		r = archive_search_step(fs, h->search, ret_bytes, &more, h->message);
	if (r == -ENOENT || (r == 0 && !more)) {
		h->at = HEAL_END;
		r = 0;
	}
	return r;
}

/* ---- all ---- */

/* What was looked for everywhere is not looked for again at once; a block that others share may have been repaired for them. */
static void note_searched(struct fs *fs, struct heal *h)
{
	for (size_t i = 0; i < h->wants.n; i++) {
		struct want *want = &h->wants.want[i];
		struct block_question q;

		if (want->done)
			continue;
		wants_end_frame(fs, &h->wants, want);
		want->done = repair_look(fs, want->q.ino, want->block, &q) == 0;
		if (want->done)
			damage_repaired(fs, want->q.ino, want->block);
		else
			damage_searched(fs, want->q.ino, want->block);
		h->wants.repaired += want->done;
	}
}

int heal_step(struct fs *fs, struct heal *h, uint64_t *ret_bytes)
{
	static int (*const steps[])(struct fs * fs, struct heal * h, uint64_t * ret_bytes) = {
	    [HEAL_COPIES] = step_copies, [HEAL_JOURNAL] = step_journal, [HEAL_ARCHIVE] = step_archive};
	int r = h->at == HEAL_END ? 0 : steps[h->at](fs, h, ret_bytes);

	if (r == 0 && !h->wants.n_open)
		h->at = HEAL_END;
	if (r == 0 && h->at == HEAL_END)
		note_searched(fs, h);
	return r;
}
