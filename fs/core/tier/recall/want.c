/*
 * want.c: frames that should be in memory and are not, each of them once, whoever waits for it.
 *
 * States: queued, among those somebody asked for or those that are read ahead; on its way with a fetch; ended.  One that is read
 * ahead and then asked for goes to the other queue.  A frame that a fetch under way brings along is waited for there.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "fs/core/tier/recall/impl.h"

/* ---- the lists ---- */

void queue_init(struct want_queue *q)
{
	q->first = NULL;
	q->last = &q->first;
}

static void queue_put(struct want_queue *q, struct want *w)
{
	w->next = NULL;
	w->at = q->last;
	*q->last = w;
	q->last = &w->next;
}

static void queue_put_first(struct want_queue *q, struct want *w)
{
	w->next = q->first;
	w->at = &q->first;
	if (w->next)
		w->next->at = &w->next;
	else
		q->last = &w->next;
	q->first = w;
}

static struct want_queue *queue_of(struct recall *rc, struct want *w) REQUIRES(rc->lock)
{
	return w->fetch ? &w->fetch->wants : w->ahead ? &rc->ahead : &rc->asked;
}

void want_unlink(struct recall *rc, struct want *w)
{
	struct want_queue *q = queue_of(rc, w);

	if (!w->at) /* its fetch is looking at it */
		return;
	*w->at = w->next;
	if (w->next)
		w->next->at = w->at;
	else
		q->last = w->at;
	w->at = NULL;
}

static struct want **bucket_of(struct recall *rc, const struct leaf_object *at) REQUIRES(rc->lock)
{
	return &rc->hash[(at->id ^ at->offset * UINT64_C(0x9e3779b97f4a7c15) >> 40) % WANT_BUCKETS];
}

static struct want *find_want(struct recall *rc, const struct leaf_object *at) REQUIRES(rc->lock)
{
	struct want *w = *bucket_of(rc, at);

	while (w && (w->frame.at.id != at->id || w->frame.at.offset != at->offset))
		w = w->next_hash;
	return w;
}

static struct fetch *find_fetch(struct recall *rc, const struct leaf_object *at) REQUIRES(rc->lock)
{
	struct fetch *f = rc->active;

	while (f && (f->object != at->id || at->offset < f->off || at->offset + (uint64_t)at->len > f->off + f->len))
		f = f->next;
	return f;
}

static struct want *want_new(struct recall *rc, const struct frame_ref *frame, bool ahead) REQUIRES(rc->lock)
{
	struct want *w = calloc(1, sizeof(*w)), **bucket = bucket_of(rc, &frame->at);

	if (!w)
		return NULL;
	w->frame = *frame;
	w->fetch = find_fetch(rc, &frame->at);
	w->ahead = ahead;
	w->next_hash = *bucket;
	*bucket = w;
	queue_put(queue_of(rc, w), w);
	if (ahead)
		rc->ahead_now += frame->bytes;
	return w;
}

static void want_free(struct recall *rc, struct want *w) REQUIRES(rc->lock)
{
	struct want **at = bucket_of(rc, &w->frame.at);

	assert(!w->waiters);
	want_unlink(rc, w);
	while (*at != w)
		at = &(*at)->next_hash;
	*at = w->next_hash;
	if (w->ahead)
		rc->ahead_now -= w->frame.bytes;
	free(w);
}

/* ---- what happens to them ---- */

/* Somebody waits for it from now on. */
static void make_asked(struct recall *rc, struct want *w) REQUIRES(rc->lock)
{
	if (!w->ahead)
		return;
	if (!w->fetch)
		want_unlink(rc, w);
	rc->ahead_now -= w->frame.bytes;
	w->ahead = false;
	if (!w->fetch)
		queue_put(&rc->asked, w);
}

int want_join(struct recall *rc, struct link *l)
{
	struct want *w = find_want(rc, &l->frame.at);

	if (!w)
		w = want_new(rc, &l->frame, false);
	if (!w)
		return -ENOMEM;
	make_asked(rc, w);
	l->want = w;
	l->next = w->waiters;
	w->waiters = l;
	return 0;
}

void want_ahead(struct recall *rc, const struct frame_ref *f)
{
	if (!find_want(rc, &f->at))
		want_new(rc, f, true); /* no memory: then it is asked for later */
}

void want_leave(struct recall *rc, struct link *l)
{
	struct want *w = l->want;
	struct link **at = &w->waiters;

	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	l->want = NULL;
	if (!w->waiters && !w->fetch && !w->ahead)
		want_free(rc, w);
}

void want_end(struct recall *rc, struct want *w, int r)
{
	while (w->waiters) {
		struct link *l = w->waiters;

		w->waiters = l->next;
		l->want = NULL;
		link_answer(rc, l, r);
	}
	want_free(rc, w);
}

void want_again(struct recall *rc, struct want *w, int64_t retry_ns)
{
	want_unlink(rc, w);
	w->fetch = NULL;
	w->retry_ns = retry_ns;
	queue_put_first(w->ahead ? &rc->ahead : &rc->asked, w);
}

void want_take(struct recall *rc, struct want *w, struct fetch *f)
{
	want_unlink(rc, w);
	w->fetch = f;
	queue_put(&f->wants, w);
}
