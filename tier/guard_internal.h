/*
 * guard_internal.h: the guard's own structures, and those of its steps that several of its files need.
 * Threads: as each says.
 */
#pragma once

#include "base/lock.h"
#include "tier/breaker.h"
#include "tier/bucket.h"
#include "tier/guard.h"

/* A call that waits in guard_admit(). */
struct waiter {
	struct waiter *next;
	enum object_purpose purpose;
	struct bucket *bucket; /* that its bytes come from; NULL: it has none */
	double bytes;
	bool wants_request; /* it is the limit of requests that it waits for */
};

struct guard {
	struct object_store base;
	struct object_store *behind;
	struct guard_config config; /* with the defaults filled in */
	char name[64];
	atomic_bool shut;
	struct mutex lock;
	struct cond wake; /* anything that a waiting call looks at changed */
	/* guarded by lock */
	struct breaker breaker;
	struct bucket in, out, requests;
	struct waiter *queue;
	int64_t quiet_until_ns; /* the store asked to be left alone */
	uint64_t random;
	unsigned under_way;
	struct guard_status status; /* breaker, usage and what follows from them are filled in when asked for */
	struct guard_usage usage;
};

/* One call, whatever its kind: arguments, and what guard.c knows about it. */
struct work {
	enum object_kind kind;
	const char *key;
	const struct iovec *iov;
	int n_iov;
	unsigned flags;
	uint64_t off;
	size_t len;
	void *p;
	struct object_info *info;
	/* listing */
	object_list_fn *fn;
	void *ctx;
	int fn_result;
	uint64_t n_keys; /* of this try */
	char after[OBJECT_KEY_MAX + 1];
	/* all */
	uint64_t bytes_in, bytes_out;
	int64_t deadline_ns; /* INT64_MAX: none */
	enum breaker_pass pass;
	unsigned failed, counted; /* tries; those that count */
};

static inline int64_t guard_now_ns(const struct guard *g)
{
	return clock_mono_ns(g->config.clock);
}

/* The call's message, with the store's name before it. */
void guard_say(const struct guard *g, struct object_call *call, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Waits until then at most; the lock is released meanwhile. */
void guard_wait_until(struct guard *g, int64_t until_ns) REQUIRES(&g->lock);
/*
 * Waits for one try and takes what it costs; w->pass is how it goes through the breaker.  Otherwise the error to end with, and a
 * message: -ECANCELED, -EDQUOT, -ETIMEDOUT, -EBUSY.
 */
MUST_CHECK int guard_admit(struct guard *g, struct object_call *call, struct work *w);
bool guard_budget_spent(struct guard *g) REQUIRES(&g->lock);
