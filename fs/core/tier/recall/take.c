/*
 * take.c: which range of which object is got next.
 *
 * The oldest want that its store may be asked for now, and with it those of the same object that lie beside it, in one range: a
 * file read in order lies in order, and one request costs more than a few hundred kilobytes do.  Small files lie beside others
 * that were cold at the same time and are likely to be read at the same time: the range goes on behind them, by a window that
 * depends on how much of what came along that way was read so far.
 *
 * A store that does not answer gets few requests at a time, and no store gets all threads.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/core/tier/recall/impl.h"

#define TAKE_MAX         512u /* wants of one range */
#define GAP_BYTES        (64 * KIB)
#define WINDOW_FIRST     (256 * KIB)
#define WINDOW_MAX       MIB
#define WINDOW_TRIAL     64u   /* frames that come along before it is judged whether they are read */
#define WINDOW_SCORE_MAX 4096u /* older experience counts half */

struct store_state *store_state_of(struct recall *rc, uint32_t store)
{
	struct store_state *free_one = NULL;

	for (unsigned i = 0; i < STORE_STATES; i++) {
		struct store_state *s = &rc->store[i];

		if (s->id == store)
			return s;
		if (!free_one && (!s->id || (!s->active && !s->failing)))
			free_one = s;
	}
	if (!free_one) /* more stores at once than there is room for: some share what is known of them */
		return &rc->store[store % STORE_STATES];
	*free_one = (struct store_state){.id = store};
	return free_one;
}

static bool may_ask(const struct store_state *s)
{
	return s->active < (s->failing ? FETCHES_FAILING : FETCHES_A_STORE);
}

static struct want *oldest(struct recall *rc, struct want_queue *q, int64_t now_ns, int64_t *ret_wait_ns) REQUIRES(rc->lock)
{
	for (struct want *w = q->first; w; w = w->next) {
		if (!may_ask(store_state_of(rc, w->frame.store)))
			continue;
		if (w->retry_ns <= now_ns)
			return w;
		if (w->retry_ns - now_ns < *ret_wait_ns)
			*ret_wait_ns = w->retry_ns - now_ns;
	}
	return NULL;
}

static uint64_t end_of(const struct want *w)
{
	return w->frame.at.offset + (uint64_t)w->frame.at.len;
}

static int by_offset(const void *a, const void *b)
{
	const struct want *const *x = a, *const *y = b;

	return ((*x)->frame.at.offset > (*y)->frame.at.offset) - ((*x)->frame.at.offset < (*y)->frame.at.offset);
}

/* Wants of the object that may go with `w`, and near it. */
static uint32_t gather(struct recall *rc, const struct want *w, int64_t now_ns, struct want **ret) REQUIRES(rc->lock)
{
	struct want_queue *queue[] = {&rc->asked, &rc->ahead};
	uint32_t n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(queue); i++)
		for (struct want *o = queue[i]->first; o && n < TAKE_MAX; o = o->next)
			if (o != w && o->frame.at.id == w->frame.at.id && !o->alone && o->retry_ns <= now_ns &&
			    o->frame.at.offset < w->frame.at.offset + (uint64_t)rc->range_bytes &&
			    end_of(o) + rc->range_bytes > w->frame.at.offset)
				ret[n++] = o;
	return n;
}

/* Takes `w` and what lies beside it. */
static void take_range(struct recall *rc, struct want *w, int64_t now_ns, struct fetch *f) REQUIRES(rc->lock)
{
	struct want *near[TAKE_MAX + 1];
	uint32_t n = w->alone ? 0 : gather(rc, w, now_ns, near), at = 0;
	uint64_t begin = w->frame.at.offset, end = end_of(w);

	near[n++] = w;
	qsort(near, n, sizeof(*near), by_offset);
	while (near[at] != w)
		at++;
	uint32_t first = at, last = at;
	while (last + 1 < n && near[last + 1]->frame.at.offset <= end + GAP_BYTES &&
	       end_of(near[last + 1]) <= begin + rc->range_bytes)
		end = max_u64(end, end_of(near[++last]));
	while (first > 0 && end_of(near[first - 1]) + GAP_BYTES >= begin &&
	       near[first - 1]->frame.at.offset + (uint64_t)rc->range_bytes >= end)
		begin = near[--first]->frame.at.offset;
	for (uint32_t i = first; i <= last; i++)
		want_take(rc, near[i], f);
	f->off = begin;
	f->len = (uint32_t)(end - begin);
}

/* 0 where what came along was not read. */
static uint32_t window_bytes(struct recall *rc) REQUIRES(rc->lock)
{
	if (rc->window_put > WINDOW_SCORE_MAX) {
		rc->window_put /= 2;
		rc->window_used /= 2;
	}
	if (rc->window_put < WINDOW_TRIAL)
		return WINDOW_FIRST;
	if (rc->window_used * 4 >= rc->window_put)
		return WINDOW_MAX;
	if (rc->window_used * 16 >= rc->window_put)
		return WINDOW_FIRST;
	return 0;
}

bool fetch_take(struct recall *rc, bool ahead, struct fetch *f, int64_t now_ns, int64_t *ret_wait_ns)
{
	struct want *w = oldest(rc, ahead ? &rc->ahead : &rc->asked, now_ns, ret_wait_ns);

	if (!w)
		return false;
	*f = (struct fetch){.object = w->frame.at.id, .state = store_state_of(rc, w->frame.store), .next = rc->active};
	queue_init(&f->wants);
	bool small = w->frame.small && !w->alone && !f->state->failing;
	take_range(rc, w, now_ns, f);
	uint32_t window = small ? (uint32_t)min_u64(window_bytes(rc), rc->range_bytes) : 0;
	f->window = f->len < window;
	if (f->window)
		f->len = window;
	f->state->active++;
	rc->active = f;
	return true;
}
