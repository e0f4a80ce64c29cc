/*
 * test_metrics_text.c: the table of metrics, and what is printed of it (fs/metrics/table.c, text.c).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <ctype.h>
#include <string.h>

#include "fs/metrics/table.h"
#include "fs/metrics/text.h"

static struct requests *r;

static int make(void **state)
{
	(void)state;
	return requests_new(&r);
}

static int drop(void **state)
{
	(void)state;
	r = requests_free(r);
	return 0;
}

/* What is printed for a status; valid until the next call. */
static const char *print(const char *status)
{
	static struct buf out;
	json_t *o = json_loads(status, 0, NULL);

	assert_non_null(o);
	buf_reset(&out);
	metrics_print(o, r, &out);
	buf_put_u8(&out, 0);
	assert_false(out.failed);
	json_decref(o);
	return (const char *)out.p;
}

static unsigned count(const char *text, char c)
{
	unsigned n = 0;

	for (; text && *text; text++)
		n += *text == c;
	return n;
}

static void every_row_has_a_good_name_a_meaning_and_the_labels_it_needs(void **state)
{
	(void)state;
	for (size_t i = 0; i < n_metric_rows; i++) {
		const struct metric_row *m = &metric_rows[i];

		assert_true(strncmp(m->name, "clawfs_", 7) == 0);
		for (const char *p = m->name; *p; p++)
			assert_true(islower((unsigned char)*p) || isdigit((unsigned char)*p) || *p == '_');
		assert_true(strlen(m->help) > 10 && m->help[strlen(m->help) - 1] == '.');
		assert_null(strpbrk(m->help, "\\\n"));
		const unsigned labels = m->labels ? count(m->labels, ',') + 1 : 0;
		const bool more = m->type == METRIC_STATE || m->type == METRIC_TEXT;

		assert_int_equal(labels, count(m->path, '*') + more);
		assert_int_equal(m->type == METRIC_STATE, m->states != NULL);
		for (size_t k = 0; k < i; k++)
			assert_string_not_equal(m->name, metric_rows[k].name);
	}
}

/* Each counter and histogram that the process has is in the table. */
static void everything_that_is_counted_is_told(void **state)
{
	bool counter[COUNTER_N] = {false}, histogram[HISTOGRAM_N] = {false};

	(void)state;
	for (size_t i = 0; i < n_metric_rows; i++) {
		if (metric_rows[i].path)
			continue;
		if (metric_rows[i].type == METRIC_COUNTER)
			counter[metric_rows[i].which] = true;
		if (metric_rows[i].type == METRIC_HISTOGRAM)
			histogram[metric_rows[i].which] = true;
	}
	for (size_t i = 0; i < COUNTER_N; i++)
		assert_true(counter[i]);
	for (size_t i = 0; i < HISTOGRAM_N; i++)
		assert_true(histogram[i]);
}

static void what_the_status_has_not_is_not_told(void **state)
{
	(void)state;
	assert_null(strstr(print("{}"), "clawfs_peer_lag_seconds"));
	assert_null(strstr(print("{\"peers\": {}}"), "clawfs_peer_lag_seconds"));
	assert_null(strstr(print("{\"peers\": 5}"), "clawfs_peer_lag_seconds"));
	assert_null(strstr(print("{\"peers\": {\"a\": {\"lag_seconds\": \"long\"}}}"), "clawfs_peer_lag_seconds"));
	assert_null(strstr(print("{\"health\": {\"reason\": \"\"}}"), "clawfs_health_reason_info"));
}

static void values_of_each_kind_are_printed_as_the_format_wants_them(void **state)
{
	const char *text = print(
	    "{\"index\": {\"inodes\": 9007199254740993, \"checkpoint_age_ns\": 1500000000},"
	    "\"replica\": {\"readable\": true, \"differs\": false, \"role\": \"leader\"},"
	    "\"durability\": {\"short_since_ns\": 5}, \"forecast\": {\"full_seconds\": null, \"fill_bytes_per_second\": -0.5}}");

	(void)state;
	assert_non_null(strstr(text, "\nclawfs_checkpoint_age_seconds 1.5\n"));
	assert_non_null(strstr(text, "\nclawfs_readable 1\n"));
	assert_non_null(strstr(text, "\nclawfs_differs 0\n"));
	assert_non_null(strstr(text, "\nclawfs_durability_degraded 1\n"));
	assert_non_null(strstr(text, "\nclawfs_role{role=\"leader\"} 1\nclawfs_role{role=\"follower\"} 0\n"));
	assert_non_null(strstr(text, "\nclawfs_forecast_full_seconds +Inf\n"));
	assert_non_null(strstr(text, "\nclawfs_forecast_fill_bytes_per_second -0.5\n"));
	assert_non_null(
	    strstr(text, "# HELP clawfs_readable Whether this node shows its files.\n# TYPE clawfs_readable gauge\n"));
}

static void a_state_that_the_table_does_not_know_is_told_all_the_same(void **state)
{
	const char *text = print("{\"replica\": {\"role\": \"emperor\"}}");

	(void)state;
	assert_non_null(strstr(text, "clawfs_role{role=\"leader\"} 0\n"));
	assert_non_null(strstr(text, "clawfs_role{role=\"emperor\"} 1\n"));
}

static void names_that_others_chose_are_escaped(void **state)
{
	const char *text = print("{\"peers\": {\"a\\\"b\\\\c\\nd{}, 1\": {\"lag_bytes\": 7, \"state\": \"streaming\"}},"
				 "\"tier\": {\"stores\": {\"x\": {\"requests\": {\"put\": 3, \"get\": 4}}}}}");

	(void)state;
	assert_non_null(strstr(text, "clawfs_peer_lag_bytes{peer=\"a\\\"b\\\\c\\nd{}, 1\"} 7\n"));
	assert_non_null(strstr(text, "clawfs_peer_state{peer=\"a\\\"b\\\\c\\nd{}, 1\",state=\"streaming\"} 1\n"));
	assert_non_null(strstr(text, "clawfs_store_requests_total{store=\"x\",kind=\"put\"} 3\n"));
	assert_non_null(strstr(text, "clawfs_store_requests_total{store=\"x\",kind=\"get\"} 4\n"));
}

static void the_sums_of_a_histogram_are_exact_at_its_bounds(void **state)
{
	struct fuse_in_header h = {.len = sizeof(h), .opcode = FUSE_LOOKUP, .unique = 2};

	(void)state;
	metric_record(HISTOGRAM_BATCH_BYTES, 4096);
	metric_record(HISTOGRAM_BATCH_BYTES, 4097);
	requests_begin(r, &h, false);
	requests_replied(r, 2, 0, 0);
	requests_end(r);
	const char *text = print("{}");
	assert_non_null(strstr(text, "clawfs_commit_batch_bytes_bucket{le=\"1024\"} 0\n"));
	assert_non_null(strstr(text, "clawfs_commit_batch_bytes_bucket{le=\"4096\"} 1\n"));
	assert_non_null(strstr(text, "clawfs_commit_batch_bytes_bucket{le=\"16384\"} 2\n"));
	assert_non_null(strstr(text, "clawfs_commit_batch_bytes_bucket{le=\"+Inf\"} 2\n"));
	assert_non_null(strstr(text, "clawfs_commit_batch_bytes_sum 8193\n"));
	assert_non_null(strstr(text, "clawfs_commit_batch_bytes_count 2\n"));
	assert_non_null(strstr(text, "clawfs_fuse_request_seconds_bucket{op=\"lookup\",le=\"+Inf\"} 1\n"));
	assert_non_null(strstr(text, "clawfs_fuse_request_seconds_count{op=\"lookup\"} 1\n"));
	assert_non_null(strstr(text, "clawfs_fuse_request_seconds_bucket{op=\"lookup\",le=\"1.024e-06\"} "));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(every_row_has_a_good_name_a_meaning_and_the_labels_it_needs, make, drop),
	    cmocka_unit_test_setup_teardown(everything_that_is_counted_is_told, make, drop),
	    cmocka_unit_test_setup_teardown(what_the_status_has_not_is_not_told, make, drop),
	    cmocka_unit_test_setup_teardown(values_of_each_kind_are_printed_as_the_format_wants_them, make, drop),
	    cmocka_unit_test_setup_teardown(a_state_that_the_table_does_not_know_is_told_all_the_same, make, drop),
	    cmocka_unit_test_setup_teardown(names_that_others_chose_are_escaped, make, drop),
	    cmocka_unit_test_setup_teardown(the_sums_of_a_histogram_are_exact_at_its_bounds, make, drop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
