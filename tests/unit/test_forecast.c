/*
 * test_forecast.c: the formulas of fs/metrics/forecast.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>

#include "fs/metrics/forecast.h"
#include "tests/lib/rng.h"

#define DT 10.0

static bool near(double a, double b, double share)
{
	return fabs(a - b) <= fabs(b) * share + 1e-9;
}

static void a_steady_rate_is_found_at_once_and_stays(void **state)
{
	struct slope s = {0};

	(void)state;
	for (int i = 0; i < 500; i++) {
		slope_add(&s, 1000.0 + 7 * DT * i, DT, FORECAST_SPACE_S);
		if (i > 0)
			assert_true(near(s.per_second, 7, 1e-9));
	}
	assert_true(near(slope_seconds(&s, 700), 100, 1e-9));
}

static void one_sample_says_nothing(void **state)
{
	struct slope s = {0};

	(void)state;
	assert_true(slope_seconds(&s, 100) < 0);
	slope_add(&s, 5, DT, 60);
	assert_true(slope_seconds(&s, 100) < 0);
	assert_true(near(s.value, 5, 0));
}

/* After one time constant 1 - 1/e of a new rate is there, after five nearly all. */
static void a_new_rate_is_taken_over_with_its_time_constant(void **state)
{
	struct slope s = {0};
	double x = 0;

	(void)state;
	for (int i = 0; i < 1000; i++)
		slope_add(&s, 0, DT, 600);
	for (int i = 0; i < 60; i++)
		slope_add(&s, x += 100 * DT, DT, 600);
	assert_true(near(s.per_second, 100 * (1 - exp(-1)), 0.01));
	for (int i = 0; i < 240; i++)
		slope_add(&s, x += 100 * DT, DT, 600);
	assert_true(near(s.per_second, 100, 0.01));
}

static void the_length_of_intervals_does_not_matter(void **state)
{
	struct slope fine = {0}, coarse = {0};

	(void)state;
	for (int i = 0; i <= 3000; i++) {
		const double x = i < 1000 ? 0 : 5.0 * (i - 1000);

		slope_add(&fine, x, 1, 600);
		if (i % 100 == 0)
			slope_add(&coarse, x, 100, 600);
	}
	assert_true(near(fine.per_second, coarse.per_second, 0.02));
}

static void what_goes_the_other_way_never_arrives(void **state)
{
	struct slope s = {0};

	(void)state;
	for (int i = 0; i < 10; i++)
		slope_add(&s, 1000 - 10.0 * i, DT, 60);
	assert_true(slope_seconds(&s, 500) < 0);
	assert_true(near(slope_seconds(&s, -910), 910, 1e-6));
}

static void no_time_between_samples_counts_nothing(void **state)
{
	struct slope s = {0};

	(void)state;
	slope_add(&s, 0, 0, 60);
	slope_add(&s, 100, 10, 60);
	slope_add(&s, 1e9, 0, 60);
	slope_add(&s, 1e9, -5, 60);
	assert_true(near(s.per_second, 10, 1e-9));
	assert_int_equal(s.n, 2);
}

static double noise(struct rng *rng)
{
	return 0.8 + 0.4 * (double)rng_below(rng, 1000) / 1000;
}

static void usual_latencies_are_no_anomaly_and_unusual_ones_are(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 50; seed++) {
		struct rng rng = {seed};
		struct normal w = {0};

		for (int i = 0; i < 400; i++) {
			normal_add(&w, 100 * 1000 * noise(&rng), 100, DT, FORECAST_LATENCY_S);
			assert_false(w.anomaly);
		}
		assert_true(near(w.mean, 1000, 0.05));
		normal_add(&w, 100 * 2500, 100, DT, FORECAST_LATENCY_S);
		assert_true(w.anomaly);
		assert_true(w.z > 4);
		normal_add(&w, 100 * 1000, 100, DT, FORECAST_LATENCY_S);
		assert_false(w.anomaly);
	}
}

/* Half an hour of tenfold latency is still an anomaly: it does not become what is usual. */
static void an_anomaly_that_lasts_is_told_for_long(void **state)
{
	struct rng rng = {4};
	struct normal w = {0};

	(void)state;
	for (int i = 0; i < 400; i++)
		normal_add(&w, 100 * 1000 * noise(&rng), 100, DT, FORECAST_LATENCY_S);
	for (int i = 0; i < 30; i++) {
		normal_add(&w, 100 * 10000, 100, DT, FORECAST_LATENCY_S);
		assert_true(w.anomaly);
	}
}

static void nothing_is_told_before_enough_was_seen(void **state)
{
	struct normal w = {0};

	(void)state;
	for (unsigned i = 0; i < FORECAST_WARM - 1; i++) {
		normal_add(&w, (i + 1.0) * (i + 1.0) * 1e6, 10, DT, FORECAST_LATENCY_S);
		assert_false(w.anomaly);
	}
}

static void an_interval_with_few_operations_says_nothing(void **state)
{
	struct normal w = {0};

	(void)state;
	for (int i = 0; i < 100; i++)
		normal_add(&w, 1000, 10, DT, FORECAST_LATENCY_S);
	const struct normal before = w;
	normal_add(&w, 1e12, FORECAST_FEW - 1, DT, FORECAST_LATENCY_S);
	normal_add(&w, 0, 0, DT, FORECAST_LATENCY_S);
	assert_false(w.anomaly);
	assert_true(near(w.mean, before.mean, 0));
	assert_int_equal(w.n, before.n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_steady_rate_is_found_at_once_and_stays),
	    cmocka_unit_test(one_sample_says_nothing),
	    cmocka_unit_test(a_new_rate_is_taken_over_with_its_time_constant),
	    cmocka_unit_test(the_length_of_intervals_does_not_matter),
	    cmocka_unit_test(what_goes_the_other_way_never_arrives),
	    cmocka_unit_test(no_time_between_samples_counts_nothing),
	    cmocka_unit_test(usual_latencies_are_no_anomaly_and_unusual_ones_are),
	    cmocka_unit_test(an_anomaly_that_lasts_is_told_for_long),
	    cmocka_unit_test(nothing_is_told_before_enough_was_seen),
	    cmocka_unit_test(an_interval_with_few_operations_says_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
