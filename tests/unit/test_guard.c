/*
 * test_guard.c: the guard of an object store, in a simulated time, before a store that does what a script says: what is tried
 * again, how long, and what of a store's answers it believes.
 *
 * Its breaker, budgets and limits, and many threads at once have tests of their own: test_guard_breaker.c, test_guard_budget.c,
 * test_guard_threads.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>

#include "base/log.h"
#include "tests/lib/rng.h"
#include "tests/unit/guard_case.h"
#include "tests/unit/tempdir.h"

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
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
