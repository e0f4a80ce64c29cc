/*
 * test_guard_budget.c: what an admin allows a store: money by the calendar's month, and bytes and requests a second.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <time.h>

#include "base/log.h"
#include "tests/unit/guard_case.h"
#include "tests/unit/tempdir.h"
#include "tier/bucket.h"
#include "tier/month.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_budget_stops_background_calls_alone),
	    cmocka_unit_test(months_are_those_of_the_calendar),
	    cmocka_unit_test(the_count_begins_anew_with_the_month_whatever_the_clock_does),
	    cmocka_unit_test(usage_survives_a_restart),
	    cmocka_unit_test(costs_follow_prices_and_pages),
	    cmocka_unit_test(limits_are_kept),
	    cmocka_unit_test(each_way_has_its_own_rate),
	    cmocka_unit_test(a_call_without_time_for_its_limit_says_so),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
