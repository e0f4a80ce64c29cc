/*
 * test_metric.c: counters, histograms and quantiles (base/metric.c).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/metric.h"
#include "tests/lib/rng.h"

#define N_THREADS 8u
#define N_EACH    20000u

static struct histogram h;
static struct counter c;

static int clear(void **state)
{
	(void)state;
	memset(&h, 0, sizeof(h));
	memset(&c, 0, sizeof(c));
	return 0;
}

/* A bucket has the values above the bound before its own, up to it. */
static void every_value_is_in_the_first_bucket_whose_bound_is_not_below_it(void **state)
{
	(void)state;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS - 1; i++) {
		const uint64_t bound = histogram_bound(i);

		assert_int_equal(histogram_bucket(bound), i);
		assert_int_equal(histogram_bucket(bound + 1), i + 1);
		assert_true(histogram_bound(i + 1) > bound);
	}
	for (uint64_t v = 0; v < 100000; v++) {
		const unsigned i = histogram_bucket(v);

		assert_true(v <= histogram_bound(i));
		assert_true(i == 0 || v > histogram_bound(i - 1));
	}
}

static void bounds_are_a_quarter_apart_and_powers_of_two_are_among_them(void **state)
{
	(void)state;
	for (unsigned i = 4; i < HISTOGRAM_BUCKETS - 1; i++)
		assert_true(histogram_bound(i) * 4 <= histogram_bound(i - 1) * 5);
	for (unsigned power = 0; power <= HISTOGRAM_POWERS; power++) {
		const uint64_t v = UINT64_C(1) << power;

		assert_true(histogram_bound(histogram_bucket(v)) == v || histogram_bucket(v) == HISTOGRAM_BUCKETS - 1);
	}
}

static void the_largest_values_are_in_the_last_bucket(void **state)
{
	(void)state;
	assert_int_equal(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
	assert_int_equal(histogram_bound(HISTOGRAM_BUCKETS - 1), UINT64_MAX);
	histogram_record(&h, UINT64_MAX);
	struct histogram_view v;
	histogram_read(&h, &v);
	assert_int_equal(v.n, 1);
	assert_true(histogram_quantile(&v, 1) > 1e11);
}

static void *move(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < N_EACH; i++) {
		counter_add(&c, 2);
		histogram_record(&h, i);
	}
	return NULL;
}

static void nothing_is_lost_between_threads(void **state)
{
	pthread_t t[N_THREADS];
	struct histogram_view v;

	(void)state;
	for (unsigned i = 0; i < N_THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, move, NULL), 0);
	for (unsigned i = 0; i < N_THREADS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(counter_read(&c), 2 * N_THREADS * N_EACH);
	histogram_read(&h, &v);
	assert_int_equal(v.n, N_THREADS * N_EACH);
	assert_int_equal(v.sum, (uint64_t)N_THREADS * N_EACH * (N_EACH - 1) / 2);
}

static int by_size(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Of the same values, sorted: right to within a bucket. */
static void quantiles_are_right_to_a_quarter(void **state)
{
	const char *given = getenv("SEED");
	struct rng rng = {given ? strtoull(given, NULL, 10) : 7};
	uint64_t value[5000];
	struct histogram_view v;

	(void)state;
	print_message("SEED=%llu\n", (unsigned long long)rng.state);
	for (size_t i = 0; i < ARRAY_SIZE(value); i++) {
		value[i] = rng_below(&rng, UINT64_C(1) << rng_between(&rng, 3, 34)) + 1;
		histogram_record(&h, value[i]);
	}
	qsort(value, ARRAY_SIZE(value), sizeof(*value), by_size);
	histogram_read(&h, &v);
	for (unsigned percent = 1; percent <= 100; percent++) {
		const double exact = (double)value[(ARRAY_SIZE(value) * percent + 99) / 100 - 1];
		const double got = histogram_quantile(&v, percent / 100.0);

		assert_true(got <= exact * 1.26 + 1);
		assert_true(got >= exact / 1.26 - 1);
	}
}

static void an_empty_histogram_has_no_quantiles(void **state)
{
	struct histogram_view v;

	(void)state;
	histogram_read(&h, &v);
	assert_int_equal(v.n, 0);
	assert_true(fabs(histogram_quantile(&v, 0.5)) < 1e-9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(every_value_is_in_the_first_bucket_whose_bound_is_not_below_it, clear),
	    cmocka_unit_test_setup(bounds_are_a_quarter_apart_and_powers_of_two_are_among_them, clear),
	    cmocka_unit_test_setup(the_largest_values_are_in_the_last_bucket, clear),
	    cmocka_unit_test_setup(nothing_is_lost_between_threads, clear),
	    cmocka_unit_test_setup(quantiles_are_right_to_a_quarter, clear),
	    cmocka_unit_test_setup(an_empty_histogram_has_no_quantiles, clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
