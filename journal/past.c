/*
 * past.c: see past.h.
 *
 * A window of the ring, that ends where the next batch to be found ends, is searched for its header from the end to the
 * beginning. It is read anew when it may not hold all of a batch any more.  What writers write over meanwhile does not verify:
 * the end.
 */
#include "journal/past.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "journal/state.h"

#define WINDOW_BLOCKS 2048u
_Static_assert(WINDOW_BLOCKS >= BATCH_MAX_BLOCKS, "a batch fits");

struct journal_past {
	struct journal *journal;
	struct journal_point at;
	uint64_t first;  /* position of the window's first block */
	uint64_t n;      /* blocks in it, up to at.pos */
	bool bottom;     /* what is before it was written over */
	uint8_t *window; /* owned: WINDOW_BLOCKS */
};

int journal_past_open(struct journal *j, struct journal_past **ret)
{
	struct journal_past *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->journal = j;
	p->window = aligned_alloc(BLOCK_SIZE, (size_t)WINDOW_BLOCKS * BLOCK_SIZE);
	int r = p->window ? 0 : -ENOMEM;
	for (unsigned i = 0; r == 0 && (i == 0 || r == -ENOENT) && i < 3; i++) /* writers may come round to it in between */
		r = journal_history_point(j, journal_oldest(j) - 1, &p->at);
	if (r == -ENOENT) { /* nothing is before a point that is not known */
		p->at = (struct journal_point){0};
		r = 0;
	}
	if (r < 0) {
		journal_past_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

void journal_past_free(struct journal_past *p)
{
	if (!p)
		return;
	free(p->window);
	free(p);
}

/* The oldest position that nothing was written over. */
static uint64_t oldest_pos(struct journal *j)
{
	mutex_lock(&j->lock);
	uint64_t end = journal_end_locked(j);
	mutex_unlock(&j->lock);
	return end > j->ring.n_blocks ? end - j->ring.n_blocks : 1;
}

static int load(struct journal_past *p, uint64_t *ret_blocks)
{
	uint64_t oldest = oldest_pos(p->journal), first = p->at.pos > WINDOW_BLOCKS ? p->at.pos - WINDOW_BLOCKS : 1;

	first = max_u64(first, oldest);
	if (first >= p->at.pos)
		return -ENOENT;
	uint32_t n = (uint32_t)(p->at.pos - first);
	p->n = 0;
	int r = ring_read(&p->journal->ring, first, n, p->window);
	if (r < 0)
		return r == -ENOMEM ? r : -ENOENT;
	p->first = first;
	p->n = n;
	p->bottom = first <= oldest;
	*ret_blocks += n;
	return 0;
}

static bool is_before(const struct journal_point *at, const struct batch_info *info, uint64_t pos)
{
	return info->pos == pos && info->seq == at->seq && info->hash == at->hash && pos + batch_blocks(&info->n) == at->pos;
}

/* In the window: 0, or -ENOENT. */
static int find(const struct journal_past *p, struct batch_info *ret)
{
	const le64 magic = le64_make(BATCH_MAGIC); /* most blocks are told by it, without a checksum */

	for (uint64_t pos = p->at.pos; pos-- > p->first && p->at.pos - pos <= BATCH_MAX_BLOCKS;) {
		const uint8_t *block = p->window + (pos - p->first) * BLOCK_SIZE;

		if (memcmp(block, &magic, sizeof(magic)) != 0)
			continue;
		if (batch_header_check((const void *)block, p->journal->config.volume, ret) == 0 && is_before(&p->at, ret, pos))
			return 0;
	}
	return -ENOENT;
}

int journal_past_next(struct journal_past *p, struct batch_info *ret_info, struct batch_view *ret_view, uint64_t *ret_blocks)
{
	struct batch_info info;
	int r = p->at.pos > 1 && p->at.seq > 0 ? 0 : -ENOENT;

	*ret_blocks = 0;
	bool holds = p->n && p->at.pos > p->first && (p->at.pos - p->first >= BATCH_MAX_BLOCKS || p->bottom);
	if (r == 0 && !holds)
		r = load(p, ret_blocks);
	if (r == 0)
		r = find(p, &info);
	if (r == 0)
		r = batch_verify(p->window + (info.pos - p->first) * BLOCK_SIZE, &info, ret_view);
	if (r == -EBADMSG || r == -EUCLEAN)
		r = -ENOENT;
	if (r < 0)
		return r;
	p->at = (struct journal_point){.seq = info.seq - 1, .pos = info.pos, .hash = info.prev_hash};
	*ret_info = info;
	return 0;
}
