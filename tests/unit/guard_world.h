/*
 * guard_world.h: what a guard has around it in a test: a clock that moves when told, and a store that does what a script says.
 *
 * Time: a wait of the guard moves the clock to where the wait ends (`driven` false), or waits for world_advance() (`driven`: tests
 * with threads, which announce how many there are).  Steps of the script move it by what they take.
 * Threads: any.
 */
#pragma once

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "tier/guard.h"

#define MS INT64_C(1000000)
#define S  NSEC_PER_SEC

struct step {
	int error;
	int64_t takes_ns, retry_after_ns;
	const char *message;
};
struct made { /* a call of the store behind, as it came */
	enum object_kind kind;
	enum object_purpose purpose;
	int64_t at_ns, deadline_ns;
	uint64_t bytes;
	char after[32];
};
#define MADE_MAX 20000
#define KEYS_MAX 3000

struct world {
	struct object_store store;
	struct clock clock;
	struct guard_config config;
	struct object_store *guard;
	pthread_mutex_t lock;
	pthread_cond_t moved, still;
	/* guarded by lock */
	int64_t mono_ns, real_ns;
	bool driven;
	unsigned n_threads, n_still, generation;
	struct step steps[64];
	unsigned n_steps, at_step;
	struct step otherwise; /* when the script is over */
	struct made made[MADE_MAX];
	unsigned n_made;
	bool closed;
	/* listing: keys "k0000" on; the script's step fails after `list_until` keys */
	unsigned n_keys, list_until;
};

static inline int64_t world_mono(const struct clock *c)
{
	struct world *w = container_of((struct clock *)(uintptr_t)c, struct world, clock);

	pthread_mutex_lock(&w->lock);
	int64_t ns = w->mono_ns;
	pthread_mutex_unlock(&w->lock);
	return ns;
}
static inline int64_t world_real(const struct clock *c)
{
	struct world *w = container_of((struct clock *)(uintptr_t)c, struct world, clock);

	pthread_mutex_lock(&w->lock);
	int64_t ns = w->real_ns;
	pthread_mutex_unlock(&w->lock);
	return ns;
}

static inline void world_move_locked(struct world *w, int64_t ns)
{
	w->mono_ns += ns;
	w->real_ns += ns;
}

/* Waits for the next world_advance(). */
static inline void world_rest_locked(struct world *w)
{
	unsigned generation = w->generation;

	w->n_still++;
	pthread_cond_broadcast(&w->still);
	while (w->generation == generation)
		pthread_cond_wait(&w->moved, &w->lock);
}

static inline void world_sleep(void *ctx, int64_t until_ns)
{
	struct world *w = ctx;

	pthread_mutex_lock(&w->lock);
	if (w->driven)
		world_rest_locked(w);
	else if (until_ns > w->mono_ns)
		world_move_locked(w, until_ns - w->mono_ns);
	pthread_mutex_unlock(&w->lock);
}

/* Moves the clock, and returns when every thread waits again or has ended. */
static inline void world_advance(struct world *w, int64_t ns)
{
	pthread_mutex_lock(&w->lock);
	world_move_locked(w, ns);
	w->generation++;
	w->n_still = 0;
	pthread_cond_broadcast(&w->moved);
	while (w->n_still < w->n_threads)
		pthread_cond_wait(&w->still, &w->lock);
	pthread_mutex_unlock(&w->lock);
}
/* Another thread begins, or ends: from now on world_advance() waits for it too, or no more. */
static inline void world_thread(struct world *w, int change)
{
	pthread_mutex_lock(&w->lock);
	w->n_threads += (unsigned)change;
	pthread_cond_broadcast(&w->still);
	pthread_mutex_unlock(&w->lock);
}

static inline int world_step(struct world *w, enum object_kind kind, struct object_call *call, uint64_t bytes, const char *after)
{
	pthread_mutex_lock(&w->lock);
	struct step s = w->at_step < w->n_steps ? w->steps[w->at_step++] : w->otherwise;
	if (w->n_made < MADE_MAX) {
		struct made *m = &w->made[w->n_made++];
		*m = (struct made){kind, call->purpose, w->mono_ns, call->deadline_ns, bytes, ""};
		snprintf(m->after, sizeof(m->after), "%s", after);
	}
	int64_t end = w->mono_ns + s.takes_ns;
	if (!w->driven)
		world_move_locked(w, s.takes_ns);
	while (w->driven && w->mono_ns < end && !(call->cancel && atomic_load(call->cancel)))
		world_rest_locked(w);
	pthread_mutex_unlock(&w->lock);
	if (call->cancel && atomic_load(call->cancel))
		return -ECANCELED;
	call->retry_after_ns = s.retry_after_ns;
	call->verified = s.error == 0;
	call->status = s.error ? 500 : 200;
	if (s.message)
		snprintf(call->message, sizeof(call->message), "%s", s.message);
	return s.error;
}

static inline int world_put(struct object_store *s, struct object_call *call, const char *key, const struct iovec *iov, int n,
			    unsigned flags)
{
	uint64_t bytes = 0;

	(void)key, (void)flags;
	for (int i = 0; i < n; i++)
		bytes += iov[i].iov_len;
	return world_step(container_of(s, struct world, store), OBJECT_PUT, call, bytes, "");
}
static inline int world_get(struct object_store *s, struct object_call *call, const char *key, uint64_t off, size_t len, void *p)
{
	(void)key, (void)off, (void)p;
	return world_step(container_of(s, struct world, store), OBJECT_GET, call, len, "");
}
static inline int world_head(struct object_store *s, struct object_call *call, const char *key, struct object_info *ret)
{
	int r = world_step(container_of(s, struct world, store), OBJECT_HEAD, call, 0, "");

	(void)key;
	if (r == 0)
		*ret = (struct object_info){.size = 42};
	return r;
}
static inline int world_remove(struct object_store *s, struct object_call *call, const char *key)
{
	(void)key;
	return world_step(container_of(s, struct world, store), OBJECT_REMOVE, call, 0, "");
}
static inline int world_list(struct object_store *s, struct object_call *call, const char *prefix, const char *after,
			     object_list_fn *fn, void *ctx)
{
	struct world *w = container_of(s, struct world, store);
	int r = world_step(w, OBJECT_LIST, call, 0, after), given = 0;

	(void)prefix;
	for (unsigned i = 0; i < w->n_keys; i++) {
		char key[16];
		snprintf(key, sizeof(key), "k%04u", i);
		if (strcmp(key, after) <= 0)
			continue;
		if (r < 0 && given++ == (int)w->list_until)
			return r;
		int f = fn(ctx, key, &(struct object_info){.size = i});
		if (f)
			return f < 0 ? f : 0;
	}
	return r;
}
static inline void world_close_store(struct object_store *s)
{
	container_of(s, struct world, store)->closed = true;
}

static const struct object_store_ops world_ops = {world_put, world_get, world_head, world_remove, world_list, world_close_store};

/* 2026-01-15 00:00 UTC. */
#define WORLD_REAL_NS (INT64_C(1768435200) * S)

/* A world without a guard: set what differs in ->config, then world_guard(). */
static inline struct world *world_new(void)
{
	struct world *w = calloc(1, sizeof(*w));

	if (!w)
		abort();
	w->store.ops = &world_ops;
	w->clock = (struct clock){world_real, world_mono};
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->moved, NULL);
	pthread_cond_init(&w->still, NULL);
	w->mono_ns = 1000 * S;
	w->real_ns = WORLD_REAL_NS;
	w->config = (struct guard_config){.name = "cold", .clock = &w->clock, .sleep_until = world_sleep, .sleep_ctx = w, .seed = 1};
	return w;
}
static inline void world_guard(struct world *w)
{
	if (guard_new(&w->config, &w->store, &w->guard) < 0)
		abort();
}
static inline void world_free(struct world *w)
{
	if (w->guard)
		object_store_close(w->guard);
	if (w->guard && !w->closed)
		abort();
	pthread_cond_destroy(&w->still);
	pthread_cond_destroy(&w->moved);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
static inline void world_script(struct world *w, unsigned n, const struct step *steps)
{
	memcpy(w->steps, steps, n * sizeof(*steps));
	w->n_steps = n;
	w->at_step = 0;
	w->n_made = 0;
}
