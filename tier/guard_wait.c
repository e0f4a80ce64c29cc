/*
 * guard_wait.c: what a call waits for before it goes: the breaker, the store's wish to be left alone, limits, budget.
 *
 * Waiting calls stand in a queue, in the order in which they came.  Where bytes are limited, those that take from the same bucket
 * go one after the other, foreground first; a call of the other direction, or without bytes, does not wait for them.  A token of
 * the limit of requests goes to a foreground call that waits for one.  Whoever waits looks again when woken, so nothing that was
 * true before a wait is taken to be true after it.
 */
#include "tier/guard_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "tier/month.h"

#define WAIT_MAX_NS (60 * NSEC_PER_SEC) /* of one real wait: the clock may have counted a suspend */

void guard_say(const struct guard *g, struct object_call *call, const char *fmt, ...)
{
	char text[OBJECT_MESSAGE_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* The name is short: what does not fit is the end of the text. */
	snprintf(call->message, sizeof(call->message), "store %s: %.*s", g->name, (int)(sizeof(text) - sizeof(g->name) - 10),
		 text);
}

void guard_wait_until(struct guard *g, int64_t until_ns)
{
	int64_t ns = until_ns - guard_now_ns(g);

	if (g->config.sleep_until) {
		mutex_unlock(&g->lock);
		g->config.sleep_until(g->config.sleep_ctx, until_ns);
		mutex_lock(&g->lock);
	} else if (ns > 0) {
		cond_wait_ns(&g->wake, &g->lock, ns < WAIT_MAX_NS ? ns : WAIT_MAX_NS);
	}
}

static void queue_enter(struct guard *g, struct waiter *w) REQUIRES(&g->lock)
{
	struct waiter **at = &g->queue;

	while (*at)
		at = &(*at)->next;
	*at = w;
}

static void queue_leave(struct guard *g, const struct waiter *w) REQUIRES(&g->lock)
{
	struct waiter **at = &g->queue;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	cond_broadcast(&g->wake);
}

static const struct waiter *queue_first(const struct guard *g, const struct bucket *bucket, enum object_purpose purpose)
    REQUIRES(&g->lock)
{
	const struct waiter *w = g->queue;

	while (w && (w->purpose != purpose || w->bucket != bucket))
		w = w->next;
	return w;
}

/* Whether all who go before this one are gone. */
static bool queue_turn(const struct guard *g, const struct waiter *w) REQUIRES(&g->lock)
{
	const struct waiter *first = queue_first(g, w->bucket, OBJECT_FOREGROUND);

	if (w->bucket && w != (first ? first : queue_first(g, w->bucket, OBJECT_BACKGROUND)))
		return false;
	for (const struct waiter *o = g->queue; o && w->purpose == OBJECT_BACKGROUND; o = o->next)
		if (o->purpose == OBJECT_FOREGROUND && o->wants_request)
			return false;
	return true;
}

/* Lets time pass for a bucket of bytes.  What the first background call needs may gather while others come and go. */
static void fill(struct guard *g, struct bucket *b) REQUIRES(&g->lock)
{
	const struct waiter *first = queue_first(g, b, OBJECT_BACKGROUND);

	bucket_fill(b, first ? first->bytes : 0, guard_now_ns(g));
}

/* How long until the limits let it go; 0: now. */
static int64_t limits_wait_ns(struct guard *g, struct waiter *me) REQUIRES(&g->lock)
{
	int64_t bytes = 0, requests;

	if (me->bucket) {
		fill(g, me->bucket);
		bytes = bucket_wait_ns(me->bucket, me->purpose == OBJECT_FOREGROUND ? 0 : me->bytes);
	}
	bucket_fill(&g->requests, 0, guard_now_ns(g));
	requests = bucket_wait_ns(&g->requests, 1);
	me->wants_request = requests > bytes;
	return bytes > requests ? bytes : requests;
}

static int refuse_open(struct guard *g, struct object_call *call) REQUIRES(&g->lock)
{
	int64_t pause = g->breaker.retry_at_ns - guard_now_ns(g);

	if (g->breaker.state == BREAKER_OPEN && pause > 0)
		guard_say(g, call, "away, not asked again for %.1f s: %s", (double)pause / (double)NSEC_PER_SEC,
			  g->status.last_message);
	else
		guard_say(g, call, "away, another call is asking: %s", g->status.last_message);
	return -ECANCELED;
}

bool guard_budget_spent(struct guard *g)
{
	month_roll(&g->usage, clock_real_ns(g->config.clock));
	return g->config.budget && g->usage.requests >= g->config.budget;
}

/* One look at everything: 0 to go, 1 to wait until *ret_until_ns or a wake-up, or the error to end with. */
static int look(struct guard *g, struct object_call *call, struct work *w, struct waiter *me, int64_t *ret_until_ns)
    REQUIRES(&g->lock)
{
	int64_t now = guard_now_ns(g), limits;

	*ret_until_ns = INT64_MAX;
	me->wants_request = false;
	if (atomic_load(&g->shut)) {
		guard_say(g, call, "closing");
		return -ECANCELED;
	}
	if (call->purpose == OBJECT_BACKGROUND && guard_budget_spent(g)) {
		guard_say(g, call, "the month's budget of %ju requests is used up", (uintmax_t)g->config.budget);
		return -EDQUOT;
	}
	w->pass = breaker_look(&g->breaker, now);
	if (w->pass == BREAKER_STOP) {
		if (call->purpose == OBJECT_BACKGROUND || now >= w->deadline_ns)
			return refuse_open(g, call);
		if (g->breaker.state == BREAKER_OPEN)
			*ret_until_ns = g->breaker.retry_at_ns;
		return 1;
	}
	if (now >= w->deadline_ns) {
		guard_say(g, call, "no time left after waiting for its limits");
		return -ETIMEDOUT;
	}
	if (now < g->quiet_until_ns) {
		*ret_until_ns = g->quiet_until_ns;
		if (g->quiet_until_ns < w->deadline_ns)
			return 1;
		call->retry_after_ns = g->quiet_until_ns - now;
		guard_say(g, call, "asked to be left alone for %.1f s", (double)call->retry_after_ns / (double)NSEC_PER_SEC);
		return -EBUSY;
	}
	if (!queue_turn(g, me))
		return 1;
	limits = limits_wait_ns(g, me);
	if (limits)
		*ret_until_ns = now + limits;
	return limits ? 1 : 0;
}

int guard_admit(struct guard *g, struct object_call *call, struct work *w)
{
	struct waiter me = {.purpose = call->purpose, .bytes = (double)(w->bytes_in + w->bytes_out)};
	int64_t until;
	int r;

	mutex_lock(&g->lock);
	me.bucket = w->kind == OBJECT_PUT ? &g->out : w->kind == OBJECT_GET ? &g->in : NULL;
	queue_enter(g, &me);
	while ((r = look(g, call, w, &me, &until)) > 0)
		guard_wait_until(g, until < w->deadline_ns ? until : w->deadline_ns);
	if (r == 0) {
		breaker_enter(&g->breaker, w->pass);
		if (me.bucket)
			bucket_take(me.bucket, me.bytes);
		bucket_take(&g->requests, 1);
		month_roll(&g->usage, clock_real_ns(g->config.clock));
		g->usage.requests++;
		g->usage.by_kind[w->kind]++;
		g->status.requests[w->kind]++;
		g->status.retries += w->failed != 0;
		g->under_way++;
	}
	queue_leave(g, &me);
	mutex_unlock(&g->lock);
	return r;
}
