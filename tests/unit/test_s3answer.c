/* test_s3answer.c: what answers of an S3 store mean: ranges, times to wait, clocks that differ, and errors in words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tier/object.h"
#include "tier/s3/answer.h"

#define NOW      INT64_C(1440938160) /* Sun, 30 Aug 2015 12:36:00 GMT */
#define NOW_TEXT "Sun, 30 Aug 2015 12:36:00 GMT"

static void ranges(void **state)
{
	static const struct {
		const char *text;
		int error;
		uint64_t from, to, size;
	} table[] = {
	    {"bytes 0-9/100", 0, 0, 9, 100},
	    {"bytes 0-0/1", 0, 0, 0, 1},
	    {"bytes 5-99/100", 0, 5, 99, 100},
	    {"bytes 0-9/*", 0, 0, 9, 0},
	    {"bytes 18446744073709551614-18446744073709551614/18446744073709551615", 0, UINT64_MAX - 1, UINT64_MAX - 1,
	     UINT64_MAX},
	    {"bytes 0-18446744073709551616/*", -EPROTO, 0, 0, 0},
	    {"bytes 0-100/100", -EPROTO, 0, 0, 0},
	    {"bytes 9-8/100", -EPROTO, 0, 0, 0},
	    {"bytes */100", -EPROTO, 0, 0, 0},
	    {"bytes 0-9", -EPROTO, 0, 0, 0},
	    {"bytes 0-9/", -EPROTO, 0, 0, 0},
	    {"bytes 0-9/100x", -EPROTO, 0, 0, 0},
	    {"bytes 0-9/**", -EPROTO, 0, 0, 0},
	    {"bytes -1-9/100", -EPROTO, 0, 0, 0},
	    {"bytes  0-9/100", -EPROTO, 0, 0, 0},
	    {"items 0-9/100", -EPROTO, 0, 0, 0},
	    {"", -EPROTO, 0, 0, 0},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		struct s3_range r = {0};

		if (s3_range_parse(table[i].text, &r) != table[i].error)
			fail_msg("%s", table[i].text);
		assert_true(r.from == table[i].from && r.to == table[i].to && r.size == table[i].size);
	}
}

static void times_to_wait(void **state)
{
	static const struct {
		const char *text;
		int64_t seconds;
	} table[] = {
	    {"", 0},
	    {"0", 0},
	    {"7", 7},
	    {"3600", 3600},
	    {"3601", 3600},
	    {"99999999999999999999", 3600},
	    {"-5", 0},
	    {"7 s", 0},
	    {"soon", 0},
	    {"Sun, 30 Aug 2015 12:36:30 GMT", 30},
	    {"Sun, 30 Aug 2015 12:35:30 GMT", 0},
	    {"Mon, 30 Aug 2055 12:36:30 GMT", 3600},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		struct s3_answer a = {0};

		snprintf(a.http.retry_after, sizeof(a.http.retry_after), "%s", table[i].text);
		assert_int_equal(s3_answer_retry_after(&a, NOW * NSEC_PER_SEC), table[i].seconds * NSEC_PER_SEC);
	}
}

static void clocks_that_differ(void **state)
{
	static const struct {
		int status;
		const char *code, *date;
		int64_t used_s; /* what the request carried, from the date on */
		bool corrects;
	} table[] = {
	    {403, "RequestTimeTooSkewed", NOW_TEXT, 3600, true},
	    {403, "RequestTimeTooSkewed", NOW_TEXT, -3600, true},
	    {403, "RequestTimeTooSkewed", NOW_TEXT, 1, true}, /* the store says so */
	    {403, "RequestTimeTooSkewed", "", 3600, false},
	    {403, "RequestTimeTooSkewed", "yesterday", 3600, false},
	    {403, "AccessDenied", NOW_TEXT, 3600, false}, /* another reason */
	    {403, "", NOW_TEXT, 3600, true},              /* an answer to HEAD */
	    {403, "", NOW_TEXT, -3600, true},
	    {403, "", NOW_TEXT, 100, false},
	    {400, "", NOW_TEXT, 3600, false},
	    {200, "", NOW_TEXT, 3600, false},
	};
	const int64_t ours = 12345 * NSEC_PER_SEC;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		struct s3_answer a = {.http.status = table[i].status};
		int64_t skew = 77;

		snprintf(a.http.date, sizeof(a.http.date), "%s", table[i].date);
		snprintf(a.error.code, sizeof(a.error.code), "%s", table[i].code);
		assert_int_equal(s3_answer_skew(&a, ours, (NOW + table[i].used_s) * NSEC_PER_SEC, &skew), table[i].corrects);
		assert_int_equal(skew, table[i].corrects ? NOW * NSEC_PER_SEC - ours : 77);
	}
}

/* No status and no code makes a success of a failure, and a put with a condition loses to 409 and 412 whatever they say. */
static void every_status_means_something(void **state)
{
	static const char *const codes[] = {"", "NoSuchKey", "SlowDown", "Unknown"};

	(void)state;
	for (int status = 0; status < 1000; status++)
		for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
			struct s3_answer a = {.http.status = status};
			const bool success = status >= 200 && status < 300;
			char text[OBJECT_MESSAGE_MAX];

			snprintf(a.error.code, sizeof(a.error.code), "%s", codes[i]);
			assert_int_equal(s3_answer_error(&a, false) == 0, success);
			assert_int_equal(s3_answer_error(&a, true) == 0, success);
			if (status == 409 || status == 412)
				assert_int_equal(s3_answer_error(&a, true), -EEXIST);
			/* Only a store can say that something is not there. */
			if (i != 1)
				assert_int_not_equal(s3_answer_error(&a, false), -ENOENT);
			if (status >= 500 && status < 600 && i == 3 && status != 501 && status != 507)
				assert_true(object_error_passes(s3_answer_error(&a, false)));
			s3_answer_text(&a, text, sizeof(text));
			assert_int_equal(atoi(text), status);
		}
}

static void a_redirect_says_where_to(void **state)
{
	struct s3_answer a = {.http.status = 301, .error.code = "PermanentRedirect"};
	char text[OBJECT_MESSAGE_MAX], small[12];

	(void)state;
	s3_answer_text(&a, text, sizeof(text));
	assert_non_null(strstr(text, "endpoint="));
	snprintf(a.http.region, sizeof(a.http.region), "eu-7");
	s3_answer_text(&a, text, sizeof(text));
	assert_non_null(strstr(text, "eu-7"));
	a = (struct s3_answer){.http.status = 400, .error = {.code = "AuthorizationHeaderMalformed", .region = "eu-8"}};
	s3_answer_text(&a, text, sizeof(text));
	assert_non_null(strstr(text, "eu-8"));
	s3_answer_text(&a, small, sizeof(small));
	assert_string_equal(small, "400 Authori");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(ranges),
	    cmocka_unit_test(times_to_wait),
	    cmocka_unit_test(clocks_that_differ),
	    cmocka_unit_test(every_status_means_something),
	    cmocka_unit_test(a_redirect_says_where_to),
	};

	return cmocka_run_group_tests_name("s3answer", tests, NULL, NULL);
}
