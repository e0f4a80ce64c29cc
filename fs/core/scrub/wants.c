/* wants.c: see wants.h. */
#include "fs/core/scrub/wants.h"

#include <errno.h>
#include <string.h>

#include "fs/core/snap/snap.h"

#define AGAIN_NS      (3600 * NSEC_PER_SEC)
#define AROUND_LEAVES 64u

/* ---- collecting ---- */

static int add(struct fs *fs, struct wants *w, const struct block_question *q)
{
	bool of_snapshot = snap_is_ino(q->ino);
	uint64_t seq = UINT64_MAX;
	int64_t made_ns;

	if (w->n == w->cap) {
		size_t cap = w->cap ? 2 * w->cap : 64;
		struct want *grown = realloc(w->want, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		w->want = grown;
		w->cap = cap;
	}
	if (of_snapshot && !snap_made(fs, q->ino, &seq, &made_ns))
		return 0; /* it goes just now */
	w->want[w->n++] = (struct want){
	    .ino = of_snapshot ? snap_ino_own(q->ino) : q->ino, .block = q->leaf * LEAF_SLOTS + q->slot, .q = *q, .seq = seq};
	w->n_open++;
	return 0;
}

static int look_at(struct fs *fs, struct wants *w, uint64_t ino, uint64_t block)
{
	struct block_question q;
	int r = repair_look(fs, ino, block, &q);

	if (r == 0)
		damage_repaired(fs, ino, block);
	else if (r == 1)
		r = add(fs, w, &q);
	else if (r == -ENOENT)
		damage_forget(fs, ino, block);
	return r == -ENOMEM || r == -EBUSY || r == -EROFS ? r : 0; /* what cannot be looked at stays as it is */
}

/*
 * A disk damages blocks that lie side by side, and a read stops at the first of them: what is around it in the file is looked at,
 * as long as that is damaged, too, so that one search does for all of it.
 */
static int look_around(struct fs *fs, uint64_t ino, uint64_t leaf)
{
	CLEANUP_FREE void *room = NULL;
	struct leaf_verdict v = {.bad = 1};
	int r = 0;

	if (posix_memalign(&room, DISK_BLOCK, LEAF_SLOTS * BLOCK_SIZE))
		return -ENOMEM;
	for (unsigned i = 0; i < AROUND_LEAVES && r == 0 && v.bad; i++)
		r = leaf_verify(fs, ino, leaf + i, room, &v);
	return r == -ENOMEM || r == -EBUSY ? r : 0;
}

static int collect_file(struct fs *fs, struct wants *w, uint64_t ino, bool again)
{
	uint64_t block = 0, around = 0; /* leaves before `around` were looked at */
	int r = 0;

	for (; r == 0 && damage_next_block(fs, ino, block, &block); block++) {
		if (!again && damage_searched_lately(fs, ino, block, AGAIN_NS))
			continue;
		if (again || snap_is_ino(ino) || block / LEAF_SLOTS < around) {
			r = look_at(fs, w, ino, block);
			continue;
		}
		r = look_around(fs, ino, block / LEAF_SLOTS);
		around = block / LEAF_SLOTS + 1;
		block = block / LEAF_SLOTS * LEAF_SLOTS - 1; /* again, with what was found before it */
	}
	return r;
}

static int compare(const void *a, const void *b)
{
	const struct want *x = a, *y = b;

	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return x->block < y->block ? -1 : x->block > y->block;
}

int wants_collect(struct fs *fs, uint64_t ino, bool again, struct wants *ret)
{
	struct wants w = {0};
	struct damage_file f;
	int r = 0;

	if (ino)
		r = collect_file(fs, &w, ino, again);
	for (uint64_t at = 1; !ino && r == 0 && damage_next(fs, at, &f); at = f.ino + 1)
		r = f.n_bad ? collect_file(fs, &w, f.ino, again) : 0;
	if (r < 0) {
		wants_free(&w);
		return r;
	}
	if (w.n)
		qsort(w.want, w.n, sizeof(w.want[0]), compare);
	*ret = w;
	return 0;
}

void wants_free(struct wants *w)
{
	for (size_t i = 0; i < w->n; i++)
		free(w->want[i].kept);
	free(w->want);
	*w = (struct wants){0};
}

/* ---- finding ---- */

static size_t lower(const struct wants *w, uint64_t ino, uint64_t block)
{
	const struct want key = {.ino = ino, .block = block};
	size_t low = 0, high = w->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (compare(&w->want[mid], &key) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

struct want *wants_next(struct wants *w, uint64_t ino, uint64_t block, uint64_t end, size_t *at)
{
	if (*at == SIZE_MAX)
		*at = lower(w, ino, block);
	while (*at < w->n && w->want[*at].ino == ino && w->want[*at].block < end) {
		struct want *want = &w->want[(*at)++];

		if (!want->done)
			return want;
	}
	return NULL;
}

bool wants_match(struct wants *w, uint64_t ino, uint64_t block, uint32_t crc)
{
	size_t at = SIZE_MAX;
	const struct want *want;

	while ((want = wants_next(w, ino, block, block + 1, &at)))
		if (want->q.crc == crc)
			return true;
	return false;
}

static void end_want(struct wants *w, struct want *want, bool repaired)
{
	want->done = true;
	w->n_open--;
	w->repaired += repaired;
}

/* Of the wants of one frame: those that are open and found, in `ret`; false: there are more, of which nothing was found yet. */
static bool collect_frame(struct wants *w, const struct want *of, struct want *ret[LEAF_SLOTS], struct frame_given *ret_given)
{
	uint64_t first = of->q.leaf * LEAF_SLOTS;
	size_t at = SIZE_MAX;
	struct want *want;
	bool all = true;

	while ((want = wants_next(w, of->ino, first, first + LEAF_SLOTS, &at))) {
		if (want->q.frame != of->q.frame || !snap_is_ino(want->q.ino))
			continue;
		all &= want->kept != NULL;
		if (!want->kept)
			continue;
		ret[want->q.slot] = want;
		ret_given->block[want->q.slot] = want->kept;
		ret_given->from[want->q.slot] = want->from;
	}
	return all;
}

static int give_to_frame(struct fs *fs, struct wants *w, struct want *want, const uint8_t *p, enum repair_from from)
{
	struct frame_given given = {.block = {NULL}};
	struct want *of_frame[LEAF_SLOTS] = {NULL};

	if (want->kept || !repair_is_wanted(fs, &want->q, p))
		return -EBADMSG;
	want->kept = malloc(BLOCK_SIZE);
	if (!want->kept)
		return -ENOMEM;
	memcpy(want->kept, p, BLOCK_SIZE);
	want->from = from;
	if (!collect_frame(w, want, of_frame, &given))
		return -EBADMSG;
	int r = repair_given_frame(fs, &want->q, &given, false);
	for (unsigned i = 0; r == 0 && i < LEAF_SLOTS; i++)
		if (of_frame[i] && of_frame[i] != want)
			end_want(w, of_frame[i], true);
	return r;
}

void wants_end_frame(struct fs *fs, struct wants *w, struct want *want)
{
	struct frame_given given = {.block = {NULL}};
	struct want *of_frame[LEAF_SLOTS] = {NULL};

	if (!want->kept || collect_frame(w, want, of_frame, &given))
		return;
	(void)!repair_given_frame(fs, &want->q, &given, true); /* who looks finds what came of it */
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if (of_frame[i]) {
			free(of_frame[i]->kept);
			of_frame[i]->kept = NULL;
		}
}

int wants_give(struct fs *fs, struct wants *w, uint64_t ino, uint64_t block, uint32_t crc, const uint8_t *p,
	       enum repair_from from)
{
	size_t at = SIZE_MAX;
	struct want *want;

	while ((want = wants_next(w, ino, block, block + 1, &at))) {
		bool in_frame = want->q.frame && snap_is_ino(want->q.ino);
		int r = want->q.crc != crc ? -EBADMSG
			: in_frame         ? give_to_frame(fs, w, want, p, from)
					   : repair_given(fs, &want->q, p, from);

		if (r == 0 || r == -ESTALE || r == -ENOENT)
			end_want(w, want, r == 0);
		else if (r == -EROFS || r == -ENOMEM || r == -ENOSPC)
			return r;
	}
	return 0;
}

int wants_give_write(struct fs *fs, struct wants *w, const struct record *r, const uint8_t *p, const uint8_t *skip,
		     enum repair_from from)
{
	uint64_t first = r->write.block, end = first + r->write.n_blocks;
	size_t at = SIZE_MAX;
	const struct want *want;
	int e = 0;

	while (e == 0 && (want = wants_next(w, r->ino, first, end, &at))) {
		uint64_t i = want->block - first;

		if (r->write.crc[i] == want->q.crc && !(skip && (skip[i / 8] >> i % 8 & 1)))
			e = wants_give(fs, w, r->ino, want->block, want->q.crc, p + i * BLOCK_SIZE, from);
	}
	return e;
}
