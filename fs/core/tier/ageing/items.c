/*
 * items.c: files that are to go out: those that somebody asked for, and those that the scan found.
 *
 * An item is in the queue or taken; a hash by inode holds both kinds, so that no file is there twice and none is on two ways out
 * at once.  What is asked for while it is on its way goes once more afterwards.  The queue is bounded: the scan stops where it is
 * full and goes on later, and who asks is told to come back.
 *
 * Flushes are points in the order of asking: an item belongs to the newest point there was when it came; a point is done when it
 * and all older ones have no items.  An item that has failed once belongs to none any more, however often it is tried again.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "fs/core/tier/ageing/impl.h"

#define BUCKETS_MIN 64u
/* Found files wait this long for enough others to make a pack of good size. */
#define HOLD_NS (3600 * NSEC_PER_SEC)

static int point_new(struct flush_point **ret)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : -ENOMEM;
}

int items_init(struct queue *q, size_t max)
{
	*q = (struct queue){.max = max, .n_buckets = BUCKETS_MIN};
	TAILQ_INIT(&q->asked);
	TAILQ_INIT(&q->found);
	while (q->n_buckets < max / 4)
		q->n_buckets *= 2;
	q->bucket = calloc(q->n_buckets, sizeof(*q->bucket));
	if (!q->bucket || point_new(&q->first) < 0) {
		free(q->bucket);
		q->bucket = NULL;
		return -ENOMEM;
	}
	q->last = q->first;
	return 0;
}

void items_destroy(struct queue *q)
{
	if (!q->bucket)
		return;
	assert(q->n == 0 && q->first == q->last && q->first->n_open == 0);
	free(q->first);
	free(q->bucket);
}

/* ---- the hash ---- */

static struct item **place_of(struct queue *q, uint64_t ino)
{
	struct item **at = &q->bucket[(size_t)(ino * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (q->n_buckets - 1)];

	while (*at && (*at)->ino != ino)
		at = &(*at)->chain;
	return at;
}

static int add(struct queue *q, uint64_t ino, struct item **ret)
{
	struct item *it = calloc(1, sizeof(*it));

	if (!it)
		return -ENOMEM;
	it->ino = ino;
	*place_of(q, ino) = it;
	q->n++;
	*ret = it;
	return 0;
}

/* ---- lists ---- */

static bool is_asked(const struct item *it)
{
	return it->reason == ITEM_EXPLICIT;
}

static void enlist(struct queue *q, struct item *it, bool at_front)
{
	struct item_list *list = is_asked(it) ? &q->asked : &q->found;

	if (at_front)
		TAILQ_INSERT_HEAD(list, it, link);
	else
		TAILQ_INSERT_TAIL(list, it, link);
	if (is_asked(it)) {
		q->n_asked++;
	} else {
		q->n_found++;
		q->found_bytes += it->bytes;
	}
}

static void delist(struct queue *q, struct item *it)
{
	if (is_asked(it)) {
		TAILQ_REMOVE(&q->asked, it, link);
		q->n_asked--;
	} else {
		TAILQ_REMOVE(&q->found, it, link);
		q->n_found--;
		q->found_bytes -= it->bytes;
	}
}

/* ---- flushes ---- */

static void join_point(struct queue *q, struct item *it)
{
	if (it->point)
		return;
	it->point = q->last;
	it->point->n_open++;
}

void items_settle(struct ageing *a, struct item *it)
{
	(void)a;
	if (!it->point)
		return;
	assert(it->point->n_open > 0);
	it->point->n_open--;
	it->point = NULL;
}

/* New items belong to a point of their own from here on; without memory they belong to this one, and are waited for too. */
void items_add_waiter(struct ageing *a, struct journal_waiter *w)
{
	struct queue *q = &a->queue;
	struct flush_point *next;

	w->next = q->last->waiters;
	q->last->waiters = w;
	if (point_new(&next) < 0)
		return;
	q->last->next = next;
	q->last = next;
}

bool items_have_waiters(const struct ageing *a)
{
	const struct flush_point *p = a->queue.first;

	while (p && !p->waiters)
		p = p->next;
	return p;
}

struct journal_waiter *items_take_waiters(struct ageing *a, bool all)
{
	struct queue *q = &a->queue;
	struct journal_waiter *first = NULL, **end = &first;

	for (struct flush_point *p = q->first; p && (all || p->n_open == 0); p = q->first) {
		*end = p->waiters;
		p->waiters = NULL;
		while (*end)
			end = &(*end)->next;
		if (p == q->last || p->n_open > 0) /* those that have items are kept for them */
			break;
		q->first = p->next;
		free(p);
	}
	return first;
}

/* ---- in and out ---- */

static void promote(struct queue *q, struct item *it, enum item_reason reason, int64_t now)
{
	if (it->refs == 0)
		delist(q, it);
	it->reason = reason;
	it->not_before_ns = 0;
	it->queued_ns = now;
	if (it->refs == 0)
		enlist(q, it, false);
}

int items_push(struct ageing *a, uint64_t ino, enum item_reason reason, uint64_t bytes)
{
	struct queue *q = &a->queue;
	struct item *it = *place_of(q, ino);
	int64_t now = clock_mono_ns(a->fs->clock);

	assert(reason != ITEM_REPACK);
	if (!it) {
		if (q->n >= q->max)
			return -EAGAIN;
		int r = add(q, ino, &it);
		if (r < 0)
			return r;
		it->reason = reason;
		it->bytes = bytes;
		it->queued_ns = now;
		enlist(q, it, false);
	} else if (it->refs > 0) {
		it->again = it->again || reason == ITEM_EXPLICIT;
	} else if (reason > it->reason || reason == ITEM_EXPLICIT) {
		promote(q, it, reason, now);
	}
	if (reason == ITEM_EXPLICIT)
		join_point(q, it);
	return 0;
}

int items_claim(struct ageing *a, uint64_t ino, struct item **ret)
{
	struct item *it;

	if (*place_of(&a->queue, ino))
		return -EBUSY;
	int r = add(&a->queue, ino, &it);
	if (r < 0)
		return r;
	it->reason = ITEM_REPACK;
	it->refs = 1;
	*ret = it;
	return 0;
}

/* Found files are held back until there are enough for packs of good size; not when somebody waits for them or space is short. */
static bool found_may_go(const struct ageing *a, const struct item *it, int64_t now)
{
	const struct queue *q = &a->queue;

	return q->let_go || it->reason == ITEM_HIGH_WATER || q->found_bytes >= 2 * a->pack_bytes_max ||
	       now - it->queued_ns >= HOLD_NS;
}

static size_t take_from(struct ageing *a, struct item_list *list, bool all, struct item **ret, size_t max) REQUIRES(a->lock)
{
	int64_t now = clock_mono_ns(a->fs->clock);
	struct item *it, *next;
	size_t n = 0;

	if (list == &a->queue.found && !all && !TAILQ_EMPTY(list) && !found_may_go(a, TAILQ_FIRST(list), now))
		return 0;
	for (it = TAILQ_FIRST(list); it && n < max; it = next) {
		next = TAILQ_NEXT(it, link);
		if (!all && it->not_before_ns > now)
			continue;
		delist(&a->queue, it);
		it->refs = 1;
		ret[n++] = it;
	}
	return n;
}

size_t items_take(struct ageing *a, bool all, struct item **ret, size_t max)
{
	size_t n = take_from(a, &a->queue.asked, all, ret, max);

	return n + take_from(a, &a->queue.found, all, ret + n, max - n);
}

static int64_t next_of(const struct item_list *list, int64_t from)
{
	const struct item *it;
	int64_t next = INT64_MAX;

	TAILQ_FOREACH(it, list, link)
	{
		if (it->not_before_ns <= from)
			return from;
		if (it->not_before_ns < next)
			next = it->not_before_ns;
	}
	return next;
}

int64_t items_next_ns(const struct ageing *a)
{
	const struct queue *q = &a->queue;
	int64_t now = clock_mono_ns(a->fs->clock), asked = next_of(&q->asked, now), found = next_of(&q->found, now);

	if (found == now && !found_may_go(a, TAILQ_FIRST(&q->found), now))
		found = TAILQ_FIRST(&q->found)->queued_ns + HOLD_NS;
	return asked < found ? asked : found;
}

void items_return(struct ageing *a, struct item *it)
{
	assert(it->refs == 0 && it->reason != ITEM_REPACK);
	it->again = it->stale = it->skip = it->retry = it->watched = false;
	it->error = 0;
	it->covered = 0;
	enlist(&a->queue, it, false);
}

void items_forget(struct ageing *a, struct item *it)
{
	struct item **at = place_of(&a->queue, it->ino);

	assert(*at == it && !it->watched);
	items_settle(a, it);
	*at = it->chain;
	a->queue.n--;
	free(it);
}
