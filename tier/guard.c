/*
 * guard.c: see guard.h.
 *
 * Life of a call: guard_admit() waits until breaker, limits and budget let one try go, which takes its tokens and counts as a
 * request; the try is made without the lock; settle() tells breaker and counters how it went; then the call ends, or pauses and
 * begins again.
 */
#include "tier/guard_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "tier/month.h"

#define MS             INT64_C(1000000)
#define BADMSG_TRIES   3
#define LIST_PAGE      1000u                 /* keys a request, as S3 lists them */
#define BLAME_NS       (1000 * MS)           /* a time-out sooner than this may be the caller's impatience */
#define BURST_FRACTION 4                     /* of a second */
#define ASKED_MAX_NS   (3600 * NSEC_PER_SEC) /* what a store may ask for is bounded by sense */

static const struct object_store_ops guard_ops;

static struct guard *to_guard(struct object_store *s)
{
	assert(s->ops == &guard_ops);
	return container_of(s, struct guard, base);
}

/* splitmix64 (Steele, Lea, Flood 2014): nothing depends on it but that calls do not come back together. */
static int64_t random_below(struct guard *g, int64_t n) REQUIRES(&g->lock)
{
	uint64_t z = g->random += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return n > 0 ? (int64_t)((z ^ z >> 31) % (uint64_t)n) : 0;
}

/* ---- one try ---- */

/* Passes a listing on, and keeps how far it came. */
static int list_key(void *ctx, const char *key, const struct object_info *info)
{
	struct work *w = ctx;
	int r;

	if (strnlen(key, OBJECT_KEY_MAX + 1) > OBJECT_KEY_MAX)
		return -EPROTO;
	w->n_keys++;
	strcpy(w->after, key);
	r = w->fn(w->ctx, key, info);
	if (r < 0)
		w->fn_result = r;
	return r;
}

static int attempt(struct object_store *s, struct object_call *call, struct work *w)
{
	switch (w->kind) {
	case OBJECT_PUT:
		return s->ops->put(s, call, w->key, w->iov, w->n_iov, w->flags);
	case OBJECT_GET:
		return s->ops->get(s, call, w->key, w->off, w->len, w->p);
	case OBJECT_HEAD:
		return s->ops->head(s, call, w->key, w->info);
	case OBJECT_REMOVE:
		return s->ops->remove(s, call, w->key);
	case OBJECT_LIST: {
		char after[sizeof(w->after)];
		strcpy(after, w->after); /* list_key() moves the other one on */
		return s->ops->list(s, call, w->key, after, list_key, w);
	}
	case OBJECT_KINDS:
		break;
	}
	return -EINVAL;
}

/* `given_ns`: how long the try was allowed to take. */
static enum breaker_outcome outcome_of(const struct work *w, int error, int64_t given_ns)
{
	if (w->fn_result)
		return BREAKER_WELL;
	switch (error) {
	case -ETIMEDOUT:
		return given_ns < BLAME_NS ? BREAKER_UNKNOWN : BREAKER_FAILED;
	case -ECONNREFUSED:
	case -ECONNRESET:
	case -EHOSTUNREACH:
	case -EIO:
	case -ENODEV:
		return BREAKER_FAILED;
	case -ENOMEM:
	case -ECANCELED:
	case -EINVAL:
	case -EOPNOTSUPP:
		return BREAKER_UNKNOWN;
	default:
		return BREAKER_WELL;
	}
}

static bool is_answer(const struct work *w, int error)
{
	return w->fn_result || error == 0 || error == -ENOENT || error == -EEXIST || error == -ECANCELED;
}

static void count(struct guard *g, const struct object_call *call, const struct work *w, int error) REQUIRES(&g->lock)
{
	struct guard_status *s = &g->status;
	uint64_t pages = w->n_keys ? (w->n_keys - 1) / LIST_PAGE : 0; /* beside the one that was counted before */

	s->requests[w->kind] += pages;
	g->usage.requests += pages;
	g->usage.by_kind[w->kind] += pages;
	if (is_answer(w, error)) {
		s->last_success_ns = clock_real_ns(g->config.clock);
	} else {
		s->errors[w->kind]++;
		s->last_error = error;
		s->last_error_ns = clock_real_ns(g->config.clock);
		snprintf(s->last_message, sizeof(s->last_message), "%s", call->message[0] ? call->message : strerror(-error));
	}
	if (error == 0) {
		s->bytes_in += w->bytes_in;
		s->bytes_out += w->bytes_out;
		g->usage.bytes_in += w->bytes_in;
		g->usage.bytes_out += w->bytes_out;
	}
}

/* A try is over: tells breaker, counters and log. */
static void settle(struct guard *g, const struct object_call *call, struct work *w, int error, int64_t given_ns)
{
	struct breaker now;
	bool changed;

	mutex_lock(&g->lock);
	count(g, call, w, error);
	changed = breaker_leave(&g->breaker, w->pass, outcome_of(w, error, given_ns), guard_now_ns(g));
	now = g->breaker;
	if (error == -EBUSY && call->retry_after_ns > 0) {
		int64_t quiet = call->retry_after_ns < g->config.open_max_ns ? call->retry_after_ns : g->config.open_max_ns;
		if (guard_now_ns(g) + quiet > g->quiet_until_ns)
			g->quiet_until_ns = guard_now_ns(g) + quiet;
	}
	g->under_way--;
	cond_broadcast(&g->wake);
	mutex_unlock(&g->lock);

	if (changed && now.state == BREAKER_CLOSED)
		log_info("store %s: answers again", g->name);
	else if (changed && w->pass == BREAKER_GO)
		log_warn("store %s: %u failures in a row, asked again from time to time: %s", g->name, now.failures,
			 call->message[0] ? call->message : strerror(-error));
}

/* ---- retries ---- */

/* Whether the store may have done what it was asked for all the same. */
static bool outcome_unknown(int error)
{
	return error != -EBUSY && error != -ECONNREFUSED && error != -EHOSTUNREACH && error != -ENODEV;
}

static bool worth_another(const struct guard *g, const struct work *w, int error)
{
	if (!object_error_passes(error) || w->fn_result)
		return false;
	if (w->kind == OBJECT_PUT && (w->flags & OBJECT_CREATE) && outcome_unknown(error))
		return false;
	return w->counted < g->config.tries && !(error == -EBADMSG && w->failed >= BADMSG_TRIES);
}

/* Full jitter below base * 2^n, or as long as the store asked and a little more, so that all do not come at once. */
static int64_t backoff_ns(struct guard *g, const struct object_call *call, const struct work *w, int error) REQUIRES(&g->lock)
{
	int64_t range = g->config.base_ns;

	if (error == -EBUSY && call->retry_after_ns > 0)
		return call->retry_after_ns + random_below(g, range);
	for (unsigned i = 1; i < w->failed && range < g->config.cap_ns; i++)
		range *= 2;
	return random_below(g, range < g->config.cap_ns ? range : g->config.cap_ns);
}

/* Waits before the next try; false: there is no time for one, or the guard was shut. */
static bool pause_call(struct guard *g, const struct object_call *call, const struct work *w, int error)
{
	bool go;

	mutex_lock(&g->lock);
	int64_t now = guard_now_ns(g), wait = backoff_ns(g, call, w, error);
	go = wait < w->deadline_ns - now;
	while (go && !atomic_load(&g->shut) && guard_now_ns(g) < now + wait)
		guard_wait_until(g, now + wait);
	mutex_unlock(&g->lock);
	return go;
}

/* The store's error in words that name the store. */
static int end_failed(const struct guard *g, struct object_call *call, const struct work *w, int error)
{
	char text[OBJECT_MESSAGE_MAX];

	snprintf(text, sizeof(text), "%s", call->message[0] ? call->message : strerror(-error));
	if (w->failed > 1)
		guard_say(g, call, "%.150s (after %u tries)", text, w->failed);
	else
		guard_say(g, call, "%s", text);
	return error;
}

static int run(struct guard *g, struct object_call *call, struct work *w)
{
	struct object_call last = {0};
	int error = 0, r;

	w->deadline_ns = call->deadline_ns;
	if (!w->deadline_ns)
		w->deadline_ns = call->purpose == OBJECT_FOREGROUND ? guard_now_ns(g) + g->config.timeout_ns : INT64_MAX;
	for (;;) {
		r = guard_admit(g, call, w);
		if (r < 0)
			break;
		last = (struct object_call){.purpose = call->purpose, .cancel = &g->shut};
		last.deadline_ns = w->deadline_ns == INT64_MAX ? 0 : w->deadline_ns;
		w->n_keys = 0;
		int64_t given = w->deadline_ns - guard_now_ns(g);
		error = attempt(g->behind, &last, w);
		if (last.retry_after_ns > ASKED_MAX_NS)
			last.retry_after_ns = ASKED_MAX_NS;
		settle(g, &last, w, error, given);
		if (error >= 0 || w->fn_result)
			break;
		w->failed++;
		w->counted += call->purpose == OBJECT_BACKGROUND || w->pass == BREAKER_GO;
		if (!worth_another(g, w, error) || !pause_call(g, &last, w, error))
			break;
	}
	if (r < 0 && (!w->failed || atomic_load(&g->shut))) /* never tried, or closing: admit() said why */
		return r;
	last.deadline_ns = call->deadline_ns;
	last.cancel = call->cancel;
	*call = last;
	return error < 0 && !w->fn_result ? end_failed(g, call, w, error) : w->fn_result ? w->fn_result : error;
}

/* ---- the table ---- */

static void clear(struct object_call *call)
{
	call->retry_after_ns = 0;
	call->verified = false;
	call->status = 0;
	call->message[0] = '\0';
}

/* What can be said without asking the store. */
static int check_key(const struct guard *g, struct object_call *call, const char *key)
{
	clear(call);
	if (object_key_valid(key))
		return 0;
	guard_say(g, call, "a key that cannot be");
	return -EINVAL;
}

static int guard_put(struct object_store *s, struct object_call *call, const char *key, const struct iovec *iov, int n_iov,
		     unsigned flags)
{
	struct guard *g = to_guard(s);
	struct work w = {.kind = OBJECT_PUT, .key = key, .iov = iov, .n_iov = n_iov, .flags = flags};
	int r = check_key(g, call, key);

	for (int i = 0; i < n_iov; i++)
		w.bytes_out += iov[i].iov_len;
	return r < 0 ? r : run(g, call, &w);
}

static int guard_get(struct object_store *s, struct object_call *call, const char *key, uint64_t off, size_t len, void *p)
{
	struct guard *g = to_guard(s);
	struct work w = {.kind = OBJECT_GET, .key = key, .off = off, .len = len, .p = p, .bytes_in = len};
	int r = check_key(g, call, key);

	return r < 0 ? r : run(g, call, &w);
}

static int guard_head(struct object_store *s, struct object_call *call, const char *key, struct object_info *ret)
{
	struct guard *g = to_guard(s);
	struct work w = {.kind = OBJECT_HEAD, .key = key, .info = ret};
	int r = check_key(g, call, key);

	return r < 0 ? r : run(g, call, &w);
}

static int guard_remove(struct object_store *s, struct object_call *call, const char *key)
{
	struct guard *g = to_guard(s);
	struct work w = {.kind = OBJECT_REMOVE, .key = key};
	int r = check_key(g, call, key);

	return r < 0 ? r : run(g, call, &w);
}

static int guard_list(struct object_store *s, struct object_call *call, const char *prefix, const char *after, object_list_fn *fn,
		      void *ctx)
{
	struct guard *g = to_guard(s);
	struct work w = {.kind = OBJECT_LIST, .key = prefix, .fn = fn, .ctx = ctx};

	clear(call);
	if (strlen(after) > OBJECT_KEY_MAX) {
		guard_say(g, call, "a key that cannot be");
		return -EINVAL;
	}
	strcpy(w.after, after);
	return run(g, call, &w);
}

static void guard_close(struct object_store *s)
{
	struct guard *g = to_guard(s);

	assert(g->under_way == 0 && !g->queue);
	object_store_close(g->behind);
	cond_destroy(&g->wake);
	mutex_destroy(&g->lock);
	free(g);
}

static const struct object_store_ops guard_ops = {
    .put = guard_put,
    .get = guard_get,
    .head = guard_head,
    .remove = guard_remove,
    .list = guard_list,
    .close = guard_close,
};

static void fill_defaults(struct guard_config *c)
{
	c->clock = c->clock ? c->clock : &clock_system;
	c->tries = c->tries ? c->tries : 6;
	c->base_ns = c->base_ns ? c->base_ns : 100 * MS;
	c->cap_ns = c->cap_ns ? c->cap_ns : 10 * NSEC_PER_SEC;
	c->trip = c->trip ? c->trip : 5;
	c->open_ns = c->open_ns ? c->open_ns : NSEC_PER_SEC;
	c->open_max_ns = c->open_max_ns ? c->open_max_ns : 60 * NSEC_PER_SEC;
	c->timeout_ns = c->timeout_ns ? c->timeout_ns : 30 * NSEC_PER_SEC;
	if (!c->seed && getrandom(&c->seed, sizeof(c->seed), 0) < 0)
		c->seed = (uint64_t)clock_mono_ns(c->clock); /* jitter need not be unpredictable */
}

int guard_new(const struct guard_config *c, struct object_store *behind, struct object_store **ret)
{
	struct guard *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	g->base.ops = &guard_ops;
	g->behind = behind;
	g->config = *c;
	fill_defaults(&g->config);
	snprintf(g->name, sizeof(g->name), "%s", c->name);
	g->config.name = g->name;
	mutex_init(&g->lock);
	cond_init(&g->wake);
	g->breaker = (struct breaker){.trip = g->config.trip, .open_ns = g->config.open_ns, .open_max_ns = g->config.open_max_ns};
	int64_t now = guard_now_ns(g);
	double rate = (double)c->rate_bytes, requests = c->requests;
	bucket_init(&g->in, rate, rate / BURST_FRACTION, now);
	bucket_init(&g->out, rate, rate / BURST_FRACTION, now);
	bucket_init(&g->requests, requests, requests > BURST_FRACTION ? requests / BURST_FRACTION : 1, now);
	g->random = g->config.seed;
	month_roll(&g->usage, clock_real_ns(g->config.clock));
	*ret = &g->base;
	return 0;
}

void guard_get_status(struct object_store *s, struct guard_status *ret)
{
	struct guard *g = to_guard(s);
	const struct guard_config *c = &g->config;

	mutex_lock(&g->lock);
	*ret = g->status;
	ret->budget_spent = guard_budget_spent(g);
	ret->breaker = g->breaker.state;
	ret->retry_at_ns = g->breaker.retry_at_ns;
	ret->trips = g->breaker.trips;
	ret->usage = g->usage;
	mutex_unlock(&g->lock);
	const uint64_t *n = ret->usage.by_kind;
	ret->cost_requests =
	    ((double)(n[OBJECT_PUT] + n[OBJECT_LIST]) * c->price_put + (double)(n[OBJECT_GET] + n[OBJECT_HEAD]) * c->price_get) /
	    1000;
}

void guard_set_usage(struct object_store *s, const struct guard_usage *u)
{
	struct guard *g = to_guard(s);

	mutex_lock(&g->lock);
	month_restore(&g->usage, u, clock_real_ns(g->config.clock));
	mutex_unlock(&g->lock);
}

void guard_shut(struct object_store *s)
{
	struct guard *g = to_guard(s);

	mutex_lock(&g->lock);
	atomic_store(&g->shut, true);
	cond_broadcast(&g->wake);
	mutex_unlock(&g->lock);
}
