/* test_guard.c: the guard of an object store, in a simulated time, before a store that does what a script says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <time.h>

#include "base/log.h"
#include "tests/lib/rng.h"
#include "tests/unit/guard_world.h"
#include "tests/unit/tempdir.h"
#include "tier/breaker.h"
#include "tier/bucket.h"
#include "tier/month.h"

static const int passing[] = {-EBUSY, -ETIMEDOUT, -ECONNREFUSED, -ECONNRESET, -EHOSTUNREACH, -EIO, -EBADMSG, -ENODEV};
static const int final[] = {-ENOENT, -EEXIST, -EACCES,    -ENOSPC, -EOPNOTSUPP, -EPROTO,
			    -EINVAL, -ENOMEM, -ECANCELED, -EDQUOT, -EPERM};
static const int away[] = {-ETIMEDOUT, -ECONNREFUSED, -ECONNRESET, -EHOSTUNREACH, -EIO, -ENODEV};

#define FOREGROUND(...) ((struct object_call){.purpose = OBJECT_FOREGROUND, ##__VA_ARGS__})
#define BACKGROUND(...) ((struct object_call){.purpose = OBJECT_BACKGROUND, ##__VA_ARGS__})

static const char bytes[4096];

static int put(struct world *w, struct object_call *call, size_t len, unsigned flags)
{
	struct iovec iov = {(void *)(uintptr_t)bytes, len}; /* the store of these tests looks at lengths alone */

	return w->guard->ops->put(w->guard, call, "a/b", &iov, 1, flags);
}
static int get(struct world *w, struct object_call *call, size_t len)
{
	return w->guard->ops->get(w->guard, call, "a/b", 0, len, NULL);
}
static int list_nothing(void *ctx, const char *key, const struct object_info *info)
{
	(void)ctx, (void)key, (void)info;
	return 0;
}
static int call_kind(struct world *w, enum object_kind kind, struct object_call *call)
{
	struct object_info info;

	switch (kind) {
	case OBJECT_PUT:
		return put(w, call, 10, 0);
	case OBJECT_GET:
		return get(w, call, 10);
	case OBJECT_HEAD:
		return w->guard->ops->head(w->guard, call, "a/b", &info);
	case OBJECT_REMOVE:
		return w->guard->ops->remove(w->guard, call, "a/b");
	default:
		return w->guard->ops->list(w->guard, call, "a/", "", list_nothing, NULL);
	}
}
static struct guard_status status(struct world *w)
{
	struct guard_status s;

	guard_get_status(w->guard, &s);
	return s;
}

/* ---- retries ---- */

static void errors_that_pass_are_those_of_the_list(void **state)
{
	(void)state;
	for (int e = 1; e < 200; e++) {
		bool expected = false;
		for (size_t i = 0; i < ARRAY_SIZE(passing); i++)
			expected |= passing[i] == -e;
		assert_int_equal(object_error_passes(-e), expected);
	}
	assert_false(object_error_passes(0));
}

static void what_passes_is_tried_again_and_what_does_not_is_not(void **state)
{
	(void)state;
	for (int kind = 0; kind < OBJECT_KINDS; kind++)
		for (size_t i = 0; i < ARRAY_SIZE(passing) + ARRAY_SIZE(final); i++) {
			bool passes = i < ARRAY_SIZE(passing);
			int error = passes ? passing[i] : final[i - ARRAY_SIZE(passing)];
			struct world *w = world_new();
			world_guard(w);
			world_script(w, 2, (struct step[]){{.error = error, .message = "no"}, {.error = error, .message = "no"}});
			struct object_call call = FOREGROUND();
			assert_int_equal(call_kind(w, kind, &call), passes ? 0 : error);
			assert_int_equal(w->n_made, passes ? 3 : 1);
			if (passes) {
				assert_string_equal(call.message, "");
				assert_int_equal(call.status, 200);
				assert_true(call.verified);
			} else {
				assert_string_equal(call.message, "store cold: no");
			}
			struct guard_status s = status(w);
			bool counts = error != -ENOENT && error != -EEXIST && error != -ECANCELED;
			assert_int_equal(s.requests[kind], w->n_made);
			assert_int_equal(s.errors[kind], passes ? 2 : counts);
			assert_int_equal(s.retries, w->n_made - 1);
			assert_int_equal(s.last_error, counts ? error : 0);
			world_free(w);
		}
}

static void tries_are_bounded(void **state)
{
	(void)state;
	for (unsigned tries = 1; tries < 9; tries++)
		for (size_t i = 0; i < ARRAY_SIZE(passing); i++) {
			struct world *w = world_new();
			w->config.tries = tries;
			w->config.trip = 100;
			world_guard(w);
			w->otherwise = (struct step){.error = passing[i], .message = "ill"};
			struct object_call call = BACKGROUND();
			assert_int_equal(put(w, &call, 1, 0), passing[i]);
			unsigned expected = passing[i] == -EBADMSG && tries > 3 ? 3 : tries;
			assert_int_equal(w->n_made, expected);
			char message[80];
			snprintf(message, sizeof(message), "store cold: ill (after %u tries)", expected);
			assert_string_equal(call.message, expected > 1 ? message : "store cold: ill");
			world_free(w);
		}
}

/* Each wait is below base * 2^n and the cap, spread over all of that, and different for different seeds. */
static void waits_grow_with_full_jitter(void **state)
{
	double sum[8] = {0}, least[8], most[8] = {0};
	const int rounds = 400;

	(void)state;
	for (int n = 0; n < 8; n++)
		least[n] = 1;
	for (int seed = 1; seed <= rounds; seed++) {
		struct world *w = world_new();
		w->config.seed = (uint64_t)seed;
		w->config.tries = 9;
		w->config.trip = 100;
		w->config.base_ns = 100 * MS;
		w->config.cap_ns = 3 * S;
		world_guard(w);
		w->otherwise = (struct step){.error = -EIO};
		struct object_call call = BACKGROUND();
		assert_int_equal(get(w, &call, 1), -EIO);
		assert_int_equal(w->n_made, 9);
		for (int n = 0; n < 8; n++) {
			int64_t range = 100 * MS << n, wait = w->made[n + 1].at_ns - w->made[n].at_ns;
			range = range < 3 * S ? range : 3 * S;
			assert_in_range(wait, 0, range - 1);
			double part = (double)wait / (double)range;
			sum[n] += part;
			least[n] = fmin(least[n], part);
			most[n] = fmax(most[n], part);
		}
		world_free(w);
	}
	for (int n = 0; n < 8; n++) {
		assert_true(fabs(sum[n] / rounds - 0.5) < 0.1);
		assert_true(least[n] < 0.05 && most[n] > 0.95);
	}
}

static void retries_never_go_past_the_deadline(void **state)
{
	struct rng r = {test_seed(81)};

	(void)state;
	for (int round = 0; round < 3000; round++) {
		struct world *w = world_new();
		w->config.seed = rng_u64(&r) | 1;
		w->config.tries = 50;
		w->config.trip = (unsigned)rng_between(&r, 1, 60);
		world_guard(w);
		int64_t took = (int64_t)rng_below(&r, 300) * MS;
		w->otherwise = (struct step){.error = away[rng_below(&r, ARRAY_SIZE(away))],
					     .takes_ns = took,
					     .retry_after_ns = rng_below(&r, 2) ? 700 * MS : 0};
		int64_t deadline = w->mono_ns + (int64_t)rng_between(&r, 1, 20000) * MS;
		struct object_call call = {.deadline_ns = deadline, .purpose = rng_below(&r, 2)};
		int error = call_kind(w, (enum object_kind)rng_below(&r, OBJECT_KINDS), &call);
		assert_int_equal(error, w->otherwise.error);
		assert_true(w->n_made >= 1);
		for (unsigned i = 0; i < w->n_made; i++) {
			assert_true(w->made[i].at_ns < deadline);
			assert_true(w->made[i].deadline_ns == deadline);
		}
		/* The store does not know of deadlines: what it takes may go past, nothing else. */
		assert_true(w->mono_ns <= deadline + took);
		assert_int_equal(call.deadline_ns, deadline);
		world_free(w);
	}
}

static void a_foreground_call_has_a_time_and_a_background_call_the_stores(void **state)
{
	struct world *w = world_new();
	struct object_call call = FOREGROUND();

	(void)state;
	w->config.timeout_ns = 7 * S;
	world_guard(w);
	int64_t from = w->mono_ns;
	assert_int_equal(get(w, &call, 1), 0);
	assert_true(w->made[0].deadline_ns == from + 7 * S);
	call = BACKGROUND();
	assert_int_equal(get(w, &call, 1), 0);
	assert_int_equal(w->made[1].deadline_ns, 0);
	call = BACKGROUND(.deadline_ns = w->mono_ns);
	assert_int_equal(get(w, &call, 1), -ETIMEDOUT);
	assert_non_null(strstr(call.message, "store cold: "));
	assert_int_equal(w->n_made, 2);
	world_free(w);
}

static void what_the_store_asks_is_honoured(void **state)
{
	(void)state;
	for (int64_t asked = 100 * MS; asked < 40 * S; asked += 700 * MS) {
		struct world *w = world_new();
		world_guard(w);
		world_script(w, 1, (struct step[]){{.error = -EBUSY, .retry_after_ns = asked}});
		int64_t from = w->mono_ns;
		struct object_call call = FOREGROUND();
		int r = get(w, &call, 1);
		if (asked < 29 * S) { /* of the 30 it has */
			assert_int_equal(r, 0);
			assert_in_range(w->made[1].at_ns - from, asked, asked + 100 * MS);
		} else if (asked >= 30 * S) {
			assert_int_equal(r, -EBUSY);
			assert_true(w->mono_ns == from); /* at once */
			assert_true(call.retry_after_ns == asked);
			/* Another call leaves it alone as well, and says so at once when it has no time for that. */
			call = FOREGROUND();
			assert_int_equal(get(w, &call, 1), -EBUSY);
			assert_int_equal(w->n_made, 1);
			assert_true(call.retry_after_ns == asked);
			call = BACKGROUND();
			assert_int_equal(get(w, &call, 1), 0);
			assert_in_range(w->made[1].at_ns - from, asked, asked);
		}
		assert_int_equal(status(w).breaker, BREAKER_CLOSED);
		world_free(w);
	}
}

/* A store that asks for years is asked again after the longest pause of the breaker. */
static void a_wish_without_end_is_cut(void **state)
{
	struct world *w = world_new();
	struct object_call call = BACKGROUND();

	(void)state;
	w->config.tries = 1;
	world_guard(w);
	world_script(w, 1, (struct step[]){{.error = -EBUSY, .retry_after_ns = INT64_MAX}});
	assert_int_equal(get(w, &call, 1), -EBUSY);
	int64_t from = w->mono_ns;
	call = BACKGROUND();
	assert_int_equal(get(w, &call, 1), 0);
	assert_true(w->mono_ns == from + 60 * S);
	world_free(w);
}

/* A repeated put that creates would be told "exists" by its own first try. */
static void a_put_that_creates_is_not_repeated_when_its_outcome_is_unknown(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(passing); i++) {
		bool known =
		    passing[i] == -EBUSY || passing[i] == -ECONNREFUSED || passing[i] == -EHOSTUNREACH || passing[i] == -ENODEV;
		struct world *w = world_new();
		world_guard(w);
		world_script(w, 1, (struct step[]){{.error = passing[i]}});
		struct object_call call = FOREGROUND();
		assert_int_equal(put(w, &call, 1, OBJECT_CREATE), known ? 0 : passing[i]);
		assert_int_equal(w->n_made, known ? 2 : 1);
		world_script(w, 1, (struct step[]){{.error = passing[i]}});
		call = FOREGROUND();
		assert_int_equal(put(w, &call, 1, 0), 0);
		world_free(w);
	}
}

struct keys {
	unsigned n, stop_at;
	int result;
	char last[16];
};
static int take_key(void *ctx, const char *key, const struct object_info *info)
{
	struct keys *k = ctx;

	assert_true(strcmp(key, k->last) > 0);
	assert_int_equal(info->size, k->n);
	snprintf(k->last, sizeof(k->last), "%s", key);
	return ++k->n == k->stop_at ? k->result : 0;
}

static void a_listing_goes_on_where_it_broke_off(void **state)
{
	(void)state;
	for (unsigned until = 0; until < 5; until++) {
		struct world *w = world_new();
		struct keys k = {0};
		struct object_call call = FOREGROUND();
		world_guard(w);
		w->n_keys = 12;
		w->list_until = until;
		world_script(w, 3, (struct step[]){{.error = -ECONNRESET}, {.error = -EIO}, {.error = -EBUSY}});
		assert_int_equal(w->guard->ops->list(w->guard, &call, "", "", take_key, &k), 0);
		assert_int_equal(k.n, 12);
		assert_int_equal(w->n_made, until == 4 ? 3 + 1 : 4);
		assert_string_equal(w->made[0].after, "");
		char after[16];
		snprintf(after, sizeof(after), "k%04u", until - 1);
		assert_string_equal(w->made[1].after, until ? after : "");
		world_free(w);
	}
}

static void a_reader_that_stops_a_listing_is_not_the_stores_failure(void **state)
{
	static const int results[] = {1, -EIO, -ETIMEDOUT, -ENOMEM, -ENOENT};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(results); i++) {
		struct world *w = world_new();
		w->config.trip = 1;
		world_guard(w);
		w->n_keys = 12;
		struct keys k = {.stop_at = 5, .result = results[i]};
		struct object_call call = FOREGROUND();
		assert_int_equal(w->guard->ops->list(w->guard, &call, "", "", take_key, &k), results[i] < 0 ? results[i] : 0);
		assert_int_equal(k.n, 5);
		assert_int_equal(w->n_made, 1);
		assert_int_equal(status(w).breaker, BREAKER_CLOSED);
		assert_int_equal(status(w).errors[OBJECT_LIST], 0);
		world_free(w);
	}
}

static void bad_keys_do_not_reach_the_store(void **state)
{
	static const char *const keys[] = {"", "/", "a//b", "..", "a/../b", "a b", "\xff"};
	struct world *w = world_new();
	char longest[OBJECT_KEY_MAX + 2];

	(void)state;
	world_guard(w);
	memset(longest, 'a', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	for (size_t i = 0; i <= ARRAY_SIZE(keys); i++) {
		const char *key = i < ARRAY_SIZE(keys) ? keys[i] : longest;
		struct object_call call = FOREGROUND(.verified = true, .status = 7, .retry_after_ns = 8);
		struct object_info info;
		assert_int_equal(w->guard->ops->put(w->guard, &call, key, NULL, 0, 0), -EINVAL);
		assert_true(!call.verified && !call.status && !call.retry_after_ns && call.message[0]);
		assert_int_equal(w->guard->ops->get(w->guard, &call, key, 0, 0, NULL), -EINVAL);
		assert_int_equal(w->guard->ops->head(w->guard, &call, key, &info), -EINVAL);
		assert_int_equal(w->guard->ops->remove(w->guard, &call, key), -EINVAL);
	}
	struct object_call call = FOREGROUND();
	assert_int_equal(w->guard->ops->list(w->guard, &call, "", longest, list_nothing, NULL), -EINVAL);
	assert_int_equal(w->n_made, 0);
	world_free(w);
}

/* ---- breaker ---- */

/* Every state, what may happen in it, and what it becomes. */
static void the_breaker_has_these_transitions_and_no_other(void **state)
{
	static const struct {
		enum breaker_state state;
		unsigned failures;
		enum breaker_pass pass;
		enum breaker_outcome outcome;
		enum breaker_state then;
		unsigned failures_then;
		int64_t pause_then, retry_in;
		bool tripped;
	} table[] = {
	    {BREAKER_CLOSED, 0, BREAKER_GO, BREAKER_WELL, BREAKER_CLOSED, 0, 4, -1, false},
	    {BREAKER_CLOSED, 2, BREAKER_GO, BREAKER_WELL, BREAKER_CLOSED, 0, 4, -1, false},
	    {BREAKER_CLOSED, 0, BREAKER_GO, BREAKER_FAILED, BREAKER_CLOSED, 1, 4, -1, false},
	    {BREAKER_CLOSED, 2, BREAKER_GO, BREAKER_FAILED, BREAKER_OPEN, 3, 2, 2, true},
	    {BREAKER_CLOSED, 2, BREAKER_GO, BREAKER_UNKNOWN, BREAKER_CLOSED, 2, 4, -1, false},
	    {BREAKER_OPEN, 3, BREAKER_GO, BREAKER_WELL, BREAKER_OPEN, 3, 4, -1, false},
	    {BREAKER_OPEN, 3, BREAKER_GO, BREAKER_FAILED, BREAKER_OPEN, 3, 4, -1, false},
	    {BREAKER_OPEN, 3, BREAKER_GO, BREAKER_UNKNOWN, BREAKER_OPEN, 3, 4, -1, false},
	    {BREAKER_HALF_OPEN, 3, BREAKER_GO, BREAKER_WELL, BREAKER_HALF_OPEN, 3, 4, -1, false},
	    {BREAKER_HALF_OPEN, 3, BREAKER_GO, BREAKER_FAILED, BREAKER_HALF_OPEN, 3, 4, -1, false},
	    {BREAKER_HALF_OPEN, 3, BREAKER_GO, BREAKER_UNKNOWN, BREAKER_HALF_OPEN, 3, 4, -1, false},
	    {BREAKER_HALF_OPEN, 3, BREAKER_PROBE, BREAKER_WELL, BREAKER_CLOSED, 0, 4, -1, false},
	    {BREAKER_HALF_OPEN, 3, BREAKER_PROBE, BREAKER_FAILED, BREAKER_OPEN, 3, 7, 7, false},
	    {BREAKER_HALF_OPEN, 3, BREAKER_PROBE, BREAKER_UNKNOWN, BREAKER_OPEN, 3, 4, 0, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct breaker b = {.trip = 3,
				    .open_ns = 2,
				    .open_max_ns = 7,
				    .state = table[i].state,
				    .failures = table[i].failures,
				    .pause_ns = 4,
				    .retry_at_ns = 50};
		bool changed = breaker_leave(&b, table[i].pass, table[i].outcome, 100);
		assert_int_equal(b.state, table[i].then);
		assert_int_equal(changed, table[i].state != table[i].then);
		assert_int_equal(b.failures, table[i].failures_then);
		assert_int_equal(b.pause_ns, table[i].pause_then);
		assert_int_equal(b.retry_at_ns, table[i].retry_in < 0 ? 50 : 100 + table[i].retry_in);
		assert_int_equal(b.trips, table[i].tripped);
	}
	struct breaker b = {.trip = 3, .open_ns = 2, .open_max_ns = 7, .retry_at_ns = 50};
	for (int64_t now = 0; now < 100; now++) {
		b.state = BREAKER_CLOSED;
		assert_int_equal(breaker_look(&b, now), BREAKER_GO);
		breaker_enter(&b, BREAKER_GO);
		assert_int_equal(b.state, BREAKER_CLOSED);
		b.state = BREAKER_HALF_OPEN;
		assert_int_equal(breaker_look(&b, now), BREAKER_STOP);
		b.state = BREAKER_OPEN;
		assert_int_equal(breaker_look(&b, now), now < 50 ? BREAKER_STOP : BREAKER_PROBE);
	}
	breaker_enter(&b, BREAKER_PROBE);
	assert_int_equal(b.state, BREAKER_HALF_OPEN);
}

static void a_store_that_is_away_is_left_alone_for_ever_longer(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(away); i++) {
		struct world *w = world_new();
		w->config.tries = 1;
		world_guard(w);
		w->otherwise = (struct step){.error = away[i], .message = "nobody there"};
		struct object_call call;
		for (unsigned n = 0; n < 5; n++) {
			assert_int_equal(status(w).breaker, BREAKER_CLOSED);
			call = BACKGROUND();
			assert_int_equal(put(w, &call, 1, 0), away[i]);
		}
		int64_t pause = S;
		for (int n = 0; n < 9; n++) {
			struct guard_status s = status(w);
			assert_int_equal(s.breaker, BREAKER_OPEN);
			assert_int_equal(s.trips, 1);
			assert_true(s.retry_at_ns == w->mono_ns + pause);
			w->mono_ns += pause - 1;
			call = BACKGROUND();
			assert_int_equal(put(w, &call, 1, 0), -ECANCELED);
			assert_non_null(strstr(call.message, "store cold: away"));
			assert_non_null(strstr(call.message, "nobody there"));
			assert_int_equal(w->n_made, 5 + n);
			w->mono_ns += 1;
			call = BACKGROUND();
			assert_int_equal(put(w, &call, 1, 0), away[i]);
			pause = pause * 2 < 60 * S ? pause * 2 : 60 * S;
		}
		w->otherwise = (struct step){0};
		w->mono_ns += pause;
		call = BACKGROUND();
		assert_int_equal(put(w, &call, 1, 0), 0);
		assert_int_equal(status(w).breaker, BREAKER_CLOSED);
		/* And the next time it begins with a second again. */
		w->otherwise = (struct step){.error = away[i]};
		for (unsigned n = 0; n < 5; n++) {
			call = BACKGROUND();
			assert_int_equal(put(w, &call, 1, 0), away[i]);
		}
		assert_true(status(w).retry_at_ns == w->mono_ns + S);
		assert_int_equal(status(w).trips, 2);
		world_free(w);
	}
}

static void errors_of_a_store_that_answers_do_not_open_the_breaker(void **state)
{
	static const int answers[] = {-ENOENT, -EEXIST,  -EACCES,     -ENOSPC, -EPROTO,
				      -EBUSY,  -EBADMSG, -EOPNOTSUPP, -EINVAL, -ENOMEM};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		struct world *w = world_new();
		w->config.tries = 1;
		world_guard(w);
		w->otherwise = (struct step){.error = answers[i]};
		for (int n = 0; n < 20; n++) {
			struct object_call call = BACKGROUND();
			assert_int_equal(put(w, &call, 1, 0), answers[i]);
		}
		assert_int_equal(status(w).breaker, BREAKER_CLOSED);
		world_free(w);
	}
}

/* A time-out of a call that had hardly any time says nothing about the store. */
static void the_impatience_of_callers_does_not_open_the_breaker(void **state)
{
	struct world *w = world_new();

	(void)state;
	w->config.tries = 1;
	world_guard(w);
	w->otherwise = (struct step){.error = -ETIMEDOUT};
	for (int n = 0; n < 20; n++) {
		struct object_call call = FOREGROUND(.deadline_ns = w->mono_ns + 999 * MS);
		assert_int_equal(get(w, &call, 1), -ETIMEDOUT);
	}
	assert_int_equal(status(w).breaker, BREAKER_CLOSED);
	for (int n = 0; n < 5; n++) {
		struct object_call call = FOREGROUND(.deadline_ns = w->mono_ns + 1000 * MS);
		assert_int_equal(get(w, &call, 1), -ETIMEDOUT);
	}
	assert_int_equal(status(w).breaker, BREAKER_OPEN);
	world_free(w);
}

static void a_foreground_call_lasts_until_the_store_is_back_or_its_time_is_over(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(away); i++)
		for (int back = 0; back < 2; back++) {
			struct world *w = world_new();
			world_guard(w);
			w->otherwise = (struct step){.error = back ? 0 : away[i], .message = back ? NULL : "nobody there"};
			struct step steps[8];
			for (int n = 0; n < 8; n++)
				steps[n] = (struct step){.error = away[i], .message = "nobody there"};
			world_script(w, 8, steps);
			int64_t deadline = w->mono_ns + 40 * S;
			struct object_call call = FOREGROUND(.deadline_ns = deadline);
			assert_int_equal(get(w, &call, 1), back ? 0 : away[i]);
			if (back) {
				assert_int_equal(w->n_made, 9); /* more than the 6 tries that count */
				assert_int_equal(status(w).breaker, BREAKER_CLOSED);
			} else {
				assert_true(w->mono_ns <= deadline && w->mono_ns > deadline - 11 * S);
				assert_non_null(strstr(call.message, "store cold: nobody there (after "));
			}
			world_free(w);
		}
}

/* ---- budget ---- */

static void a_budget_stops_background_calls_alone(void **state)
{
	struct world *w = world_new();
	struct object_call call;

	(void)state;
	w->config.budget = 10;
	world_guard(w);
	world_script(w, 2, (struct step[]){{.error = -EIO}, {.error = -EIO}});
	for (int n = 0; n < 8; n++) { /* and two more tries */
		assert_false(status(w).budget_spent);
		call = BACKGROUND();
		assert_int_equal(put(w, &call, 1, 0), 0);
	}
	assert_true(status(w).budget_spent);
	for (int kind = 0; kind < OBJECT_KINDS; kind++) {
		call = BACKGROUND();
		assert_int_equal(call_kind(w, (enum object_kind)kind, &call), -EDQUOT);
		assert_non_null(strstr(call.message, "budget"));
		call = FOREGROUND();
		assert_int_equal(call_kind(w, (enum object_kind)kind, &call), 0);
	}
	assert_int_equal(status(w).usage.requests, 15);
	/* A try that the budget no longer has ends with the store's error. */
	w->real_ns += 31 * 86400 * S;
	assert_false(status(w).budget_spent);
	for (int n = 0; n < 9; n++) {
		call = BACKGROUND();
		assert_int_equal(put(w, &call, 1, 0), 0);
	}
	world_script(w, 1, (struct step[]){{.error = -ECONNRESET}});
	call = BACKGROUND();
	assert_int_equal(put(w, &call, 1, 0), -ECONNRESET);
	assert_int_equal(w->n_made, 1);
	world_free(w);
}

static int64_t real_of(int year, int month, int day)
{
	struct tm tm = {.tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day};

	return (int64_t)timegm(&tm) * S;
}

static void months_are_those_of_the_calendar(void **state)
{
	(void)state;
	for (int year = 1960; year < 2250; year++)
		for (int month = 1; month <= 12; month++) {
			uint32_t m = (uint32_t)(year * 12 + month - 1);
			assert_int_equal(month_of(real_of(year, month, 1)), m);
			assert_int_equal(month_of(real_of(year, month, 1) - 1), m - 1);
		}
	assert_true(month_of(INT64_MAX) > 0);
	assert_true(month_of(INT64_MIN) > 0);
}

static void the_count_begins_anew_with_the_month_whatever_the_clock_does(void **state)
{
	struct world *w = world_new();
	struct object_call call;

	(void)state;
	w->config.budget = 3;
	world_guard(w);
	for (int n = 0; n < 3; n++) {
		call = BACKGROUND();
		assert_int_equal(put(w, &call, 1, 0), 0);
	}
	assert_int_equal(status(w).usage.month, 2026 * 12);
	assert_true(status(w).budget_spent);
	/* Ten years back, to before such clocks: nothing is given back, nothing is lost. */
	w->real_ns = real_of(2016, 1, 15);
	assert_true(status(w).budget_spent);
	assert_int_equal(status(w).usage.month, 2026 * 12);
	/* A year back: still spent, but the next month counts. */
	w->real_ns = real_of(2025, 1, 15);
	assert_true(status(w).budget_spent);
	w->real_ns = real_of(2025, 2, 1);
	assert_false(status(w).budget_spent);
	/* Ten years ahead and back again: at most one more budget, and not paused for ten years. */
	call = BACKGROUND();
	assert_int_equal(put(w, &call, 1, 0), 0);
	w->real_ns = real_of(2035, 2, 1);
	for (int n = 0; n < 3; n++) {
		call = BACKGROUND();
		assert_int_equal(put(w, &call, 1, 0), 0);
	}
	call = BACKGROUND();
	assert_int_equal(put(w, &call, 1, 0), -EDQUOT);
	w->real_ns = real_of(2025, 2, 1);
	call = BACKGROUND();
	assert_int_equal(put(w, &call, 1, 0), -EDQUOT);
	w->real_ns = real_of(2025, 3, 1) - 1;
	assert_true(status(w).budget_spent);
	w->real_ns++;
	assert_false(status(w).budget_spent);
	assert_int_equal(status(w).usage.requests, 0);
	call = BACKGROUND();
	assert_int_equal(put(w, &call, 1, 0), 0);
	assert_int_equal(status(w).usage.by_kind[OBJECT_PUT], 1);
	world_free(w);
}

static void usage_survives_a_restart(void **state)
{
	static const struct {
		int year, month, now_year, now_month;
		bool kept;
	} table[] = {{2026, 1, 2026, 1, true}, {2025, 12, 2026, 1, false}, {2016, 1, 2026, 1, false}, {2026, 2, 2026, 1, true},
		     {2036, 1, 2026, 1, true}, {2026, 1, 1970, 1, true},   {2036, 7, 2016, 1, true}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct world *w = world_new();
		struct guard_usage u = {.month = (uint32_t)(table[i].year * 12 + table[i].month - 1),
					.requests = 100,
					.bytes_in = 7,
					.bytes_out = 8,
					.by_kind = {60, 40}};
		struct object_call call = BACKGROUND();
		w->config.budget = 101;
		w->real_ns = real_of(table[i].now_year, table[i].now_month, 3);
		world_guard(w);
		assert_int_equal(get(w, &call, 5), 0);
		guard_set_usage(w->guard, &u);
		struct guard_status s = status(w);
		assert_int_equal(s.usage.requests, table[i].kept ? 101 : 1);
		assert_int_equal(s.usage.by_kind[OBJECT_PUT], table[i].kept ? 60 : 0);
		assert_int_equal(s.usage.by_kind[OBJECT_GET], table[i].kept ? 41 : 1);
		assert_int_equal(s.usage.bytes_in, table[i].kept ? 12 : 5);
		assert_int_equal(s.usage.bytes_out, table[i].kept ? 8 : 0);
		assert_int_equal(s.budget_spent, table[i].kept);
		/* A clock that was not set yet at the start is set now: the same month goes on. */
		if (table[i].now_year < 2024) {
			w->real_ns = real_of(table[i].year, table[i].month, 4);
			assert_int_equal(status(w).usage.requests, 101);
		}
		world_free(w);
	}
}

static void costs_follow_prices_and_pages(void **state)
{
	struct world *w = world_new();
	struct object_call call;

	(void)state;
	w->config.price_put = 5;
	w->config.price_get = 0.25;
	world_guard(w);
	for (int n = 0; n < 100; n++) {
		call = BACKGROUND();
		assert_int_equal(put(w, &call, 3000, 0), 0);
		assert_int_equal(w->guard->ops->remove(w->guard, &call, "x"), 0);
		for (int k = 0; k < 4; k++)
			assert_int_equal(get(w, &call, 7), 0);
	}
	assert_true(fabs(status(w).cost_requests - (100 * 5 + 400 * 0.25) / 1000) < 1e-9);
	assert_int_equal(status(w).bytes_out, 300000);
	assert_int_equal(status(w).bytes_in, 2800);
	static const struct {
		unsigned keys, pages;
	} lists[] = {{0, 1}, {1, 1}, {1000, 1}, {1001, 2}, {2000, 2}, {2001, 3}};
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		uint64_t before = status(w).usage.requests, kind = status(w).requests[OBJECT_LIST];
		w->n_keys = lists[i].keys;
		assert_int_equal(call_kind(w, OBJECT_LIST, &call), 0);
		assert_int_equal(status(w).usage.requests - before, lists[i].pages);
		assert_int_equal(status(w).requests[OBJECT_LIST] - kind, lists[i].pages);
	}
	world_free(w);
}

/* ---- limits ---- */

/* What a limit lets through in a long time is its rate, within 20 %, for each kind of call and purpose. */
static void limits_are_kept(void **state)
{
	static const uint64_t rates[] = {16 * KIB, 1 * MIB, 100 * MIB};
	static const size_t sizes[] = {1, 1000, 4096, 64 * KIB, 16 * MIB};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rates); i++)
		for (size_t k = 0; k < ARRAY_SIZE(sizes); k++)
			for (int which = 0; which < 4; which++) {
				struct world *w = world_new();
				w->config.rate_bytes = rates[i];
				world_guard(w);
				int64_t from = w->mono_ns;
				uint64_t n = max_u64(20, rates[i] * 4 / sizes[k]);
				n = min_u64(n, 200000);
				bool short_run = n * sizes[k] < rates[i] * 3; /* the burst is all there is to see */
				for (uint64_t c = 0; c < n && !short_run; c++) {
					struct object_call call = {.purpose = which & 1, .deadline_ns = INT64_MAX};
					assert_int_equal(which & 2 ? put(w, &call, sizes[k], 0) : get(w, &call, sizes[k]), 0);
				}
				double seconds = (double)(w->mono_ns - from) / S, rate = (double)n * (double)sizes[k] / seconds;
				if (!short_run && fabs(rate / (double)rates[i] - 1) > 0.2)
					fail_msg("rate %ju, size %zu, case %d: %f", (uintmax_t)rates[i], sizes[k], which, rate);
				world_free(w);
			}
	for (unsigned rate = 1; rate < 3000; rate = rate * 3 + 1)
		for (int purpose = 0; purpose < 2; purpose++) {
			struct world *w = world_new();
			w->config.requests = rate;
			world_guard(w);
			int64_t from = w->mono_ns;
			unsigned n = rate * 10;
			for (unsigned c = 0; c < n; c++) {
				struct object_call call = {.purpose = purpose, .deadline_ns = INT64_MAX};
				assert_int_equal(call_kind(w, (enum object_kind)(c % OBJECT_KINDS), &call), 0);
			}
			double got = n / ((double)(w->mono_ns - from) / S);
			assert_true(fabs(got / rate - 1) < 0.2);
			world_free(w);
		}
}

static void each_way_has_its_own_rate(void **state)
{
	struct world *w = world_new();

	(void)state;
	w->config.rate_bytes = MIB;
	world_guard(w);
	int64_t from = w->mono_ns;
	for (int n = 0; n < 80; n++) {
		struct object_call call = BACKGROUND();
		assert_int_equal(put(w, &call, 256 * KIB, 0), 0);
		assert_int_equal(get(w, &call, 256 * KIB), 0);
	}
	double seconds = (double)(w->mono_ns - from) / S;
	assert_true(seconds > 18 && seconds < 22); /* 20 MiB each way */
	world_free(w);
}

static void a_call_without_time_for_its_limit_says_so(void **state)
{
	struct world *w = world_new();
	struct object_call call = BACKGROUND();

	(void)state;
	w->config.rate_bytes = 16 * KIB;
	world_guard(w);
	int64_t from = w->mono_ns;
	call.deadline_ns = from + 5 * S;
	assert_int_equal(put(w, &call, MIB, 0), -ETIMEDOUT);
	assert_true(w->mono_ns == from + 5 * S);
	assert_int_equal(w->n_made, 0);
	assert_non_null(strstr(call.message, "limits"));
	assert_int_equal(status(w).breaker, BREAKER_CLOSED);
	/* Without one it takes as long as it takes. */
	call = BACKGROUND();
	assert_int_equal(put(w, &call, MIB, 0), 0);
	assert_true(w->mono_ns < from + 65 * S);
	world_free(w);
}

/* ---- threads ---- */

struct caller {
	struct world *w;
	struct object_call call;
	size_t len;
	int n, result;
	int64_t ended_ns;
	pthread_t thread;
	pthread_barrier_t *all;
};

static void *make_calls(void *arg)
{
	struct caller *c = arg;

	for (int i = 0; i < c->n && c->result == 0; i++) {
		struct object_call call = c->call;
		c->result = get(c->w, &call, c->len);
		c->call = call;
	}
	c->ended_ns = clock_mono_ns(&c->w->clock);
	world_thread(c->w, -1);
	return NULL;
}

/* Starts a thread and waits until it waits, or has ended. */
static void start(struct world *w, struct caller *c, enum object_purpose purpose, size_t len, int n)
{
	*c = (struct caller){.w = w, .call.purpose = purpose, .len = len, .n = n};
	world_thread(w, 1);
	assert_int_equal(pthread_create(&c->thread, NULL, make_calls, c), 0);
	world_advance(w, 0);
}

static void run_down(struct world *w, int64_t step_ns)
{
	for (;;) {
		pthread_mutex_lock(&w->lock);
		bool over = w->n_threads == 0;
		pthread_mutex_unlock(&w->lock);
		if (over)
			return;
		world_advance(w, step_ns);
	}
}

static void foreground_calls_go_first(void **state)
{
	struct world *w = world_new();
	struct caller background[3], foreground[2];

	(void)state;
	w->driven = true;
	w->config.rate_bytes = MIB;
	world_guard(w);
	for (int i = 0; i < 3; i++)
		start(w, &background[i], OBJECT_BACKGROUND, 16 * MIB, 2); /* 16 s each */
	for (int i = 0; i < 50; i++)
		world_advance(w, 20 * MS);
	unsigned before = w->n_made;
	assert_int_equal(before, 0);
	int64_t from = w->mono_ns;
	for (int i = 0; i < 2; i++)
		start(w, &foreground[i], OBJECT_FOREGROUND, 256 * KIB, 16); /* 8 MiB in all */
	run_down(w, 20 * MS);
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(w->made[i].purpose, OBJECT_FOREGROUND);
	assert_int_equal(w->n_made, 32 + 6);
	assert_true(w->made[0].at_ns == from); /* none of the others' debt in its way */
	for (int i = 0; i < 2; i++) {
		pthread_join(foreground[i].thread, NULL);
		assert_int_equal(foreground[i].result, 0);
		assert_true(foreground[i].ended_ns < from + 9 * S);
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(background[i].thread, NULL);
		assert_int_equal(background[i].result, 0);
	}
	/* 104 MiB at 1 MiB/s; background in the order of arrival. */
	double seconds = (double)(w->mono_ns - (from - S)) / S;
	assert_true(seconds > 104 * 0.8 && seconds < 104 * 1.2);
	world_free(w);
}

/* Recalls at their limit keep neither a put nor a call without bytes waiting. */
static void calls_wait_for_those_of_their_own_kind_alone(void **state)
{
	struct world *w = world_new();
	struct caller c;

	(void)state;
	w->driven = true;
	w->config.rate_bytes = MIB;
	world_guard(w);
	start(w, &c, OBJECT_FOREGROUND, 16 * MIB, 2);
	assert_int_equal(w->n_made, 1); /* its second get waits 16 seconds */
	struct object_call call = BACKGROUND();
	assert_int_equal(put(w, &call, 200 * KIB, 0), 0);
	assert_int_equal(call_kind(w, OBJECT_HEAD, &call), 0);
	assert_int_equal(call_kind(w, OBJECT_LIST, &call), 0);
	assert_int_equal(call_kind(w, OBJECT_REMOVE, &call), 0);
	run_down(w, S);
	pthread_join(c.thread, NULL);
	assert_int_equal(c.result, 0);
	world_free(w);
}

/* Where requests are limited, whatever their kind: foreground first. */
static void a_request_goes_to_the_foreground_first(void **state)
{
	struct world *w = world_new();
	struct caller background[3], foreground[3];

	(void)state;
	w->driven = true;
	w->config.requests = 1;
	world_guard(w);
	for (int i = 0; i < 3; i++)
		start(w, &background[i], OBJECT_BACKGROUND, 1, 4);
	assert_int_equal(w->n_made, 1); /* what had gathered */
	for (int i = 0; i < 3; i++)
		start(w, &foreground[i], OBJECT_FOREGROUND, 1, 4);
	run_down(w, 100 * MS);
	assert_int_equal(w->n_made, 24);
	for (unsigned i = 1; i < 24; i++)
		assert_int_equal(w->made[i].purpose, i <= 12 ? OBJECT_FOREGROUND : OBJECT_BACKGROUND);
	for (int i = 0; i < 3; i++) {
		pthread_join(background[i].thread, NULL);
		pthread_join(foreground[i].thread, NULL);
		assert_int_equal(background[i].result + foreground[i].result, 0);
	}
	world_free(w);
}

/* Several foreground calls wait for a store that is away; one of them asks, and all go on when it answers. */
static void one_call_asks_for_all(void **state)
{
	struct world *w = world_new();
	struct caller c[4], b;

	(void)state;
	w->driven = true;
	w->config.tries = 1;
	w->config.trip = 1;
	world_guard(w);
	world_script(w, 2, (struct step[]){{.error = -EIO}, {.error = 0, .takes_ns = 500 * MS}});
	start(w, &b, OBJECT_BACKGROUND, 1, 1); /* opens it */
	pthread_join(b.thread, NULL);
	assert_int_equal(b.result, -EIO);
	for (int i = 0; i < 4; i++)
		start(w, &c[i], OBJECT_FOREGROUND, 1, 1);
	for (int i = 0; i < 9; i++)
		world_advance(w, 100 * MS);
	assert_int_equal(w->n_made, 1);
	for (int i = 0; i < 3; i++)
		world_advance(w, 100 * MS);
	assert_int_equal(w->n_made, 2);
	assert_int_equal(status(w).breaker, BREAKER_HALF_OPEN);
	start(w, &b, OBJECT_BACKGROUND, 1, 1);
	pthread_join(b.thread, NULL);
	assert_int_equal(b.result, -ECANCELED);
	assert_non_null(strstr(b.call.message, "another call is asking"));
	run_down(w, 100 * MS);
	assert_int_equal(w->n_made, 5);
	for (int i = 0; i < 4; i++) {
		pthread_join(c[i].thread, NULL);
		assert_int_equal(c[i].result, 0);
	}
	assert_int_equal(status(w).breaker, BREAKER_CLOSED);
	world_free(w);
}

/* Whatever a call waits for, shutting the guard ends it. */
static void shut_ends_every_wait(void **state)
{
	enum { BACKOFF, OPEN, LIMIT, QUIET, UNDER_WAY, CASES };

	(void)state;
	for (int what = 0; what < CASES; what++) {
		struct world *w = world_new();
		struct caller c, first;
		w->driven = true;
		w->config.tries = 2;
		w->config.trip = what == OPEN ? 1 : 5;
		w->config.open_ns = 100 * S;
		w->config.base_ns = what == BACKOFF ? 1000 * S : 0;
		w->config.cap_ns = what == BACKOFF ? 1000 * S : 0;
		w->config.rate_bytes = what == LIMIT ? 16 * KIB : 0;
		w->config.timeout_ns = 2000 * S;
		world_guard(w);
		w->otherwise = (struct step){.error = what == BACKOFF ? -ECONNRESET
						      : what == OPEN  ? -EIO
						      : what == QUIET ? -EBUSY
								      : 0,
					     .retry_after_ns = what == QUIET ? 50 * S : 0,
					     .takes_ns = what == UNDER_WAY ? 1000 * S : 0};
		if (what == OPEN || what == QUIET || what == LIMIT)
			start(w, &first, what == LIMIT ? OBJECT_FOREGROUND : OBJECT_BACKGROUND, 16 * MIB, 1);
		start(w, &c, OBJECT_FOREGROUND, MIB, 1);
		for (int i = 0; i < 5; i++)
			world_advance(w, 100 * MS);
		assert_int_equal(c.ended_ns, 0);
		guard_shut(w->guard);
		int64_t at = w->mono_ns;
		run_down(w, 1);
		pthread_join(c.thread, NULL);
		assert_int_equal(c.result, -ECANCELED);
		assert_true(c.call.message[0] != '\0');
		assert_in_range(c.ended_ns - at, 0, 2);
		if (what == OPEN || what == QUIET || what == LIMIT)
			pthread_join(first.thread, NULL);
		struct object_call call = FOREGROUND();
		assert_int_equal(get(w, &call, 1), -ECANCELED);
		assert_string_equal(call.message, "store cold: closing");
		world_free(w);
	}
}

/* With real clocks and real waits: nothing is lost or counted twice, and shutting ends calls that wait for minutes. */
static void *make_random_calls(void *arg)
{
	struct caller *c = arg;
	struct rng r = {(uint64_t)(uintptr_t)c->n};

	for (int i = 0; i < 300; i++) {
		struct object_call call = {.purpose = rng_below(&r, 2)};
		int error = call_kind(c->w, (enum object_kind)rng_below(&r, OBJECT_KINDS), &call);
		assert_true(error == 0 || error == -EIO || error == -ECANCELED);
		struct guard_status s = status(c->w);
		assert_true(s.usage.requests > 0);
	}
	pthread_barrier_wait(c->all);
	struct object_call call = FOREGROUND(.deadline_ns = INT64_MAX);
	while (c->result == 0)
		c->result = get(c->w, &call, 40 * MIB);
	return NULL;
}

static void threads_share_a_guard(void **state)
{
	struct world *w = world_new();
	struct caller c[8];

	(void)state;
	w->config.sleep_until = NULL;
	w->config.clock = NULL;
	w->config.seed = 0;
	w->config.base_ns = MS / 10;
	w->config.cap_ns = MS;
	w->config.open_ns = w->config.open_max_ns = MS;
	w->config.rate_bytes = 40 * MIB;
	w->config.requests = 1000000;
	world_guard(w);
	struct step steps[64];
	for (int i = 0; i < 64; i++)
		steps[i] = (struct step){.error = i % 3 ? -EIO : 0};
	world_script(w, 64, steps);
	pthread_barrier_t all;
	pthread_barrier_init(&all, NULL, 9);
	for (int i = 0; i < 8; i++) {
		c[i] = (struct caller){.w = w, .n = i, .all = &all};
		assert_int_equal(pthread_create(&c[i].thread, NULL, make_random_calls, &c[i]), 0);
	}
	pthread_barrier_wait(&all);
	nanosleep(&(struct timespec){.tv_nsec = 200 * MS}, NULL); /* all but the first wait for minutes now */
	guard_shut(w->guard);
	for (int i = 0; i < 8; i++) {
		pthread_join(c[i].thread, NULL);
		assert_int_equal(c[i].result, -ECANCELED);
	}
	pthread_barrier_destroy(&all);
	struct guard_status s = status(w);
	uint64_t sum = 0;
	for (int k = 0; k < OBJECT_KINDS; k++) {
		assert_int_equal(s.usage.by_kind[k], s.requests[k]);
		sum += s.requests[k];
	}
	assert_int_equal(sum, s.usage.requests);
	assert_int_equal(sum, w->n_made);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(errors_that_pass_are_those_of_the_list),
	    cmocka_unit_test(what_passes_is_tried_again_and_what_does_not_is_not),
	    cmocka_unit_test(tries_are_bounded),
	    cmocka_unit_test(waits_grow_with_full_jitter),
	    cmocka_unit_test(retries_never_go_past_the_deadline),
	    cmocka_unit_test(a_foreground_call_has_a_time_and_a_background_call_the_stores),
	    cmocka_unit_test(what_the_store_asks_is_honoured),
	    cmocka_unit_test(a_wish_without_end_is_cut),
	    cmocka_unit_test(a_put_that_creates_is_not_repeated_when_its_outcome_is_unknown),
	    cmocka_unit_test(a_listing_goes_on_where_it_broke_off),
	    cmocka_unit_test(a_reader_that_stops_a_listing_is_not_the_stores_failure),
	    cmocka_unit_test(bad_keys_do_not_reach_the_store),
	    cmocka_unit_test(the_breaker_has_these_transitions_and_no_other),
	    cmocka_unit_test(a_store_that_is_away_is_left_alone_for_ever_longer),
	    cmocka_unit_test(errors_of_a_store_that_answers_do_not_open_the_breaker),
	    cmocka_unit_test(the_impatience_of_callers_does_not_open_the_breaker),
	    cmocka_unit_test(a_foreground_call_lasts_until_the_store_is_back_or_its_time_is_over),
	    cmocka_unit_test(a_budget_stops_background_calls_alone),
	    cmocka_unit_test(months_are_those_of_the_calendar),
	    cmocka_unit_test(the_count_begins_anew_with_the_month_whatever_the_clock_does),
	    cmocka_unit_test(usage_survives_a_restart),
	    cmocka_unit_test(costs_follow_prices_and_pages),
	    cmocka_unit_test(limits_are_kept),
	    cmocka_unit_test(each_way_has_its_own_rate),
	    cmocka_unit_test(a_call_without_time_for_its_limit_says_so),
	    cmocka_unit_test(foreground_calls_go_first),
	    cmocka_unit_test(calls_wait_for_those_of_their_own_kind_alone),
	    cmocka_unit_test(a_request_goes_to_the_foreground_first),
	    cmocka_unit_test(one_call_asks_for_all),
	    cmocka_unit_test(shut_ends_every_wait),
	    cmocka_unit_test(threads_share_a_guard),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
