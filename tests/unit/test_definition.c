/* test_definition.c: a store's definition as text: each option, each wrong value, limits, round trips, and bytes that mean
 * nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/rng.h"
#include "tests/unit/tempdir.h"
#include "tier/definition.h"
#include "tier/object.h"
#include "tier/values.h"

#define S3  "s3://bucket/pre/fix"
#define DIR "file:///mnt/cold"

static struct store_definition parse(const char *text)
{
	struct store_definition d;
	char message[OBJECT_MESSAGE_MAX];

	if (store_definition_parse(text, &d, message) != 0)
		fail_msg("%s: %s", text, message);
	assert_string_equal(message, "");
	return d;
}

/* Refused, with a message that has `word` in it; the result is untouched. */
static void refuse(const char *text, const char *word)
{
	struct store_definition d, before;
	char message[OBJECT_MESSAGE_MAX] = "";

	memset(&d, 0xa5, sizeof(d));
	before = d;
	if (store_definition_parse(text, &d, message) != -EINVAL)
		fail_msg("taken: %s", text);
	assert_memory_equal(&d, &before, sizeof(d));
	if (!strstr(message, word))
		fail_msg("%s: the message does not name \"%s\": %s", text, word, message);
}

static void assert_same(const struct store_definition *a, const struct store_definition *b)
{
	assert_int_equal(a->kind, b->kind);
	assert_int_equal(a->id, b->id);
	assert_string_equal(a->path, b->path);
	assert_string_equal(a->bucket, b->bucket);
	assert_string_equal(a->prefix, b->prefix);
	assert_string_equal(a->endpoint, b->endpoint);
	assert_string_equal(a->region, b->region);
	assert_string_equal(a->storage_class, b->storage_class);
	assert_string_equal(a->ca_file, b->ca_file);
	assert_int_equal(a->path_style, b->path_style);
	assert_int_equal(a->insecure, b->insecure);
	assert_int_equal(a->encrypt, b->encrypt);
	assert_int_equal(a->verify, b->verify);
	assert_int_equal(a->pack_bytes, b->pack_bytes);
	assert_int_equal(a->rate_bytes, b->rate_bytes);
	assert_int_equal(a->requests, b->requests);
	assert_int_equal(a->budget, b->budget);
	assert_int_equal(a->timeout_ns, b->timeout_ns);
	assert_int_equal(a->grace_ns, b->grace_ns);
	assert_true(a->price_put == b->price_put && a->price_get == b->price_get && a->price_gb_month == b->price_gb_month);
}

/* Parses, prints, parses: the same; printing again gives the same text.  Returns the text. */
static const char *round_trip(const char *text)
{
	static char printed[STORE_TEXT_MAX + 1];
	char again[STORE_TEXT_MAX + 1];
	struct store_definition a = parse(text), b;

	assert_int_equal(store_definition_print(&a, printed, sizeof(printed)), 0);
	b = parse(printed);
	assert_same(&a, &b);
	assert_int_equal(store_definition_print(&b, again, sizeof(again)), 0);
	assert_string_equal(printed, again);
	return printed;
}

static void defaults_are_those_of_the_header_and_are_not_printed(void **state)
{
	(void)state;
	for (int s3 = 0; s3 < 2; s3++) {
		struct store_definition d = parse(s3 ? S3 : DIR);
		assert_int_equal(d.kind, s3 ? STORE_S3 : STORE_DIRECTORY);
		assert_int_equal(d.id, 0);
		assert_true(d.encrypt);
		assert_false(d.insecure);
		assert_int_equal(d.verify, VERIFY_CHECKSUM);
		assert_int_equal(d.pack_bytes, 16 * MIB);
		assert_int_equal(d.rate_bytes + d.requests + d.budget, 0);
		assert_int_equal(d.timeout_ns, 30 * NSEC_PER_SEC);
		assert_int_equal(d.grace_ns, 7 * 86400 * NSEC_PER_SEC);
		assert_string_equal(d.region, "us-east-1");
		assert_string_equal(d.endpoint, "");
		assert_string_equal(round_trip(s3 ? S3 : DIR), s3 ? S3 : DIR);
	}
	assert_string_equal(parse(DIR).path, "/mnt/cold");
	assert_string_equal(parse(S3).bucket, "bucket");
	assert_string_equal(parse(S3).prefix, "pre/fix");
	/* All of them spelled out are left out again. */
	assert_string_equal(round_trip(S3 " encrypt=on pack=16M verify=checksum rate=0 requests=0 budget=0 timeout=30 grace=168h "
					  "region=us-east-1 style=host insecure=off prices=0.005:0.0004:0.023"),
			    S3);
}

static void each_value_is_read_and_printed(void **state)
{
	static const char *const same[] = {/* printed as they are */
					   "id=1",       "id=4294967295",    "encrypt=off",  "verify=read",
					   "pack=8M",    "pack=64M",         "pack=8388609", "pack=33333K",
					   "rate=16K",   "rate=1G",          "rate=16385",   "rate=1T",
					   "requests=1", "requests=1000000", "budget=1",     "budget=1000000000000",
					   "timeout=1",  "timeout=3600",     "grace=0",      "grace=1s",
					   "grace=90s",  "grace=3m",         "grace=36h",    "grace=3650d"};
	static const char *const same_s3[] = {"endpoint=https://s3.example.org",
					      "endpoint=http://127.0.0.1:8000",
					      "endpoint=https://[::1]:443",
					      "endpoint=https://a-b.c:65535",
					      "region=eu-1",
					      "region=x",
					      "region=a_2345678901234567890123456789-",
					      "class=STANDARD_IA",
					      "class=my-Cold_1",
					      "ca=/etc/ssl/own.pem",
					      "ca=/a%20b",
					      "insecure=on",
					      "style=path",
					      "prices=0:0:0",
					      "prices=1.5:0.000000001:999999.999999999"};
	static const char *const other[][2] = {{"pack=16777217", "pack=16777217"}, {"pack=8192K", "pack=8M"},
					       {"pack=65536k", "pack=64M"},        {"rate=1024G", "rate=1T"},
					       {"timeout=2m", "timeout=120"},      {"grace=3600", "grace=1h"},
					       {"grace=52w", "grace=364d"},        {"id=007", "id=7"}};
	static const char *const other_s3[][2] = {
	    {"endpoint=https://h/", "endpoint=https://h"}, {"ca=//a///b/", "ca=/a/b"}, {"prices=1.50:00:2.0", "prices=1.5:0:2"}};
	char text[2 * STORE_TEXT_MAX], expected[2 * STORE_TEXT_MAX];

	(void)state;
	for (int s3 = 0; s3 < 2; s3++) {
		const char *url = s3 ? S3 : DIR;
		for (size_t i = 0; i < ARRAY_SIZE(same); i++) {
			snprintf(text, sizeof(text), "%s %s", url, same[i]);
			assert_string_equal(round_trip(text), text);
		}
		for (size_t i = 0; i < ARRAY_SIZE(other); i++) {
			snprintf(text, sizeof(text), "%s %s", url, other[i][0]);
			snprintf(expected, sizeof(expected), "%s %s", url, other[i][1]);
			assert_string_equal(round_trip(text), expected);
		}
	}
	for (size_t i = 0; i < ARRAY_SIZE(same_s3); i++) {
		snprintf(text, sizeof(text), S3 " %s", same_s3[i]);
		assert_string_equal(round_trip(text), text);
	}
	for (size_t i = 0; i < ARRAY_SIZE(other_s3); i++) {
		snprintf(text, sizeof(text), S3 " %s", other_s3[i][0]);
		snprintf(expected, sizeof(expected), S3 " %s", other_s3[i][1]);
		assert_string_equal(round_trip(text), expected);
	}
	struct store_definition d =
	    parse(S3 " id=9 encrypt=off verify=read pack=9M rate=2M requests=3 budget=4 timeout=5 grace=6m insecure=on "
		     "endpoint=https://e region=r class=c prices=1:2:3.25 style=host");
	assert_int_equal(d.id, 9);
	assert_false(d.encrypt);
	assert_int_equal(d.verify, VERIFY_READ);
	assert_int_equal(d.pack_bytes, 9 * MIB);
	assert_int_equal(d.rate_bytes, 2 * MIB);
	assert_int_equal(d.requests, 3);
	assert_int_equal(d.budget, 4);
	assert_int_equal(d.timeout_ns, 5 * NSEC_PER_SEC);
	assert_int_equal(d.grace_ns, 360 * NSEC_PER_SEC);
	assert_true(d.insecure && !d.path_style);
	assert_true(d.price_put == 1 && d.price_get == 2 && d.price_gb_month == 3.25);
	assert_string_equal(d.endpoint, "https://e");
	assert_string_equal(d.region, "r");
	assert_string_equal(d.storage_class, "c");
}

static const char *const names[] = {"id",    "encrypt",  "pack",   "verify", "rate",  "requests", "budget",   "timeout",
				    "grace", "endpoint", "region", "style",  "class", "ca",       "insecure", "prices"};
static const char *const good[] = {"1",  "on",        "8M", "read", "1M", "1",  "1",  "1",
				   "1d", "https://e", "r",  "path", "c",  "/c", "on", "1:1:1"};
#define N_BOTH 9

static void each_wrong_value_is_refused_by_name(void **state)
{
	static const char *const wrong[ARRAY_SIZE(names)][16] = {
	    {"0", "-1", "+1", "4294967296", "18446744073709551617", "1K", "x", "0x1"},
	    {"yes", "ON", "1", "onn", "o"},
	    {"7M", "65M", "8388607", "67108865", "16MB", "16 M", "M", "-16M", "16.5M", "99999999999999999999",
	     "18014398509481984K", "8m8"},
	    {"checksums", "Read", "none"},
	    {"16383", "1", "1025G", "2T", "10M/s", "18446744073709551615T", "-1"},
	    {"1000001", "10/s", "1K", "-1"},
	    {"1000000000001", "1e6", "1M", "-1"},
	    {"0", "3601", "61m", "1d", "-5", "5.5", "18446744073709551616"},
	    {"3651d", "522w", "1y", "7 d", "-1d", "d", "18446744073709551615w", "9223372036854775807s"},
	    {"e", "s3.example.org", "ftp://e", "https://", "https:///", "https://e/path", "https://e:0", "https://e:65536",
	     "https://e:", "https://u:p@e", "https://e?x", "https://[::1", "https://[]", "https://-e", "https://.e",
	     "https://a..b"},
	    {"eu 1", "a.b", "a/b", "01234567890123456789012345678901"},
	    {"virtual", "PATH", "hosts"},
	    {"GLACIER", "DEEP_ARCHIVE", "A B", "A.B", "01234567890123456789012345678901"},
	    {"ca.pem", "/", "./x", "/a/../b", "/a/.", "/a%0", "/a%zz", "/a%00b", "%2", "/%"},
	    {"yes", "true", "1"},
	    {"1", "1:2", "1:2:3:4", "-1:0:0", "1,5:0:0", "1.:0:0", ".5:0:0", "1000000:0:0", "0.0000000001:0:0", "a:b:c",
	     "1:2:", "::", "1e3:0:0", "18446744073709551616:0:0"}};
	char text[STORE_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(text, sizeof(text), S3 " %s=", names[i]);
		refuse(text, names[i]);
		snprintf(text, sizeof(text), S3 " %s", names[i]);
		refuse(text, "no option");
		snprintf(text, sizeof(text), S3 " %s=%s", names[i], good[i]);
		parse(text);
		snprintf(text, sizeof(text), S3 " %s=%s %s=%s", names[i], good[i], names[i], good[i]);
		refuse(text, names[i]);
		snprintf(text, sizeof(text), DIR " %s=%s", names[i], good[i]);
		if (i < N_BOTH)
			parse(text);
		else
			refuse(text, names[i]);
		for (size_t k = 0; k < ARRAY_SIZE(wrong[i]) && wrong[i][k]; k++) {
			snprintf(text, sizeof(text), S3 " %s=%s", names[i], wrong[i][k]);
			refuse(text, strchr(wrong[i][k], ' ') ? "" : names[i]);
		}
	}
}

static void each_wrong_url_is_refused(void **state)
{
	static const char *const wrong[][2] = {{"", "file://"},
					       {"   ", "file://"},
					       {"/mnt/cold", "file://"},
					       {"http://x", "file://"},
					       {"FILE:///x", "file://"},
					       {"file:/x", "file://"},
					       {"file://", "file://"},
					       {"file:///", "file://"},
					       {"file:////", "file://"},
					       {"file://host/x", "file://"},
					       {"file://./x", "file://"},
					       {"file:///a/../b", "file://"},
					       {"file:///a/%2e%2e/b", "file://"},
					       {"file:///.", "file://"},
					       {"file:///a%00b", "file://"},
					       {"file:///a%1", "file://"},
					       {"encrypt=on", "file://"},
					       {"s3:bucket", "s3://"},
					       {"s3://", "bucket"},
					       {"s3:///x", "bucket"},
					       {"s3://ab", "bucket"},
					       {"s3://-abc", "bucket"},
					       {"s3://abc-", "bucket"},
					       {"s3://.abc", "bucket"},
					       {"s3://a_b_", "bucket"},
					       {"s3://a%20b", "bucket"},
					       {"s3://a:b", "bucket"},
					       {"s3://bucket/a/../b", "PREFIX"},
					       {"s3://bucket/a//b", "PREFIX"},
					       {"s3://bucket/.", "PREFIX"},
					       {"s3://bucket/a%20b", "PREFIX"},
					       {"s3://bucket/a?b", "PREFIX"},
					       {"s3://bucket file:///x", "no option"},
					       {"file:///x s3://b", "no option"},
					       {"s3://bucket\tid=1", "control"},
					       {"s3://bucket id=1\n", "control"},
					       {"s3://bucket\x7f", "control"},
					       {"s3://Bucket style=host", "style"},
					       {"s3://buck_et style=host", "style"},
					       {"s3://bucket style=host endpoint=http://127.0.0.1:80", "style"},
					       {"s3://bucket style=host endpoint=https://[::1]", "style"},
					       {"s3://bucket ca=/x insecure=on", "insecure"},
					       {"s3://bucket x=1", "x="},
					       {"s3://bucket ids=1", "ids="},
					       {"s3://bucket =1", "no option"}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		refuse(wrong[i][0], wrong[i][1]);
	assert_string_equal(round_trip("  s3://bucket/   id=1  "), "s3://bucket id=1");
	assert_string_equal(round_trip("s3://bucket//a/b///"), "s3://bucket/a/b");
	assert_string_equal(round_trip("file:////a//b/"), "file:///a/b");
	assert_string_equal(round_trip("file:///a%20b%25%c3%a4\xc3\xa4"), "file:///a%20b%25%C3%A4%C3%A4");
	assert_string_equal(parse("file:///a%20b").path, "/a b");
}

static void lengths_are_bounded_exactly(void **state)
{
	char text[2 * STORE_TEXT_MAX];

	(void)state;
	for (int len = 250; len < 260; len++) {
		snprintf(text, sizeof(text), "file:///%0*d", len - 1, 0);
		if (len < 256)
			assert_string_equal(round_trip(text), text);
		else
			refuse(text, "255");
		snprintf(text, sizeof(text), "s3://bucket/%0*d", len, 0);
		if (len < 256)
			assert_string_equal(round_trip(text), text);
		else
			refuse(text, "255");
		snprintf(text, sizeof(text), "s3://bucket endpoint=https://%0*d", len - 8, 0);
		if (len < 256)
			assert_string_equal(round_trip(text), text);
		else
			refuse(text, "endpoint");
		snprintf(text, sizeof(text), "s3://bucket ca=/%0*d", len - 1, 0);
		if (len < 256)
			assert_string_equal(round_trip(text), text);
		else
			refuse(text, "ca");
	}
	for (int len = 1; len < 70; len++) {
		snprintf(text, sizeof(text), "s3://%0*d", len, 0);
		if (len >= 3 && len <= 63)
			assert_string_equal(round_trip(text), text);
		else
			refuse(text, "63");
	}
	for (int len = (int)STORE_TEXT_MAX - 2; len <= (int)STORE_TEXT_MAX + 2; len++) {
		snprintf(text, sizeof(text), "%-*s", len, "s3://bucket");
		if (len <= (int)STORE_TEXT_MAX)
			assert_string_equal(round_trip(text), "s3://bucket");
		else
			refuse(text, "900");
	}
}

/* What is short as it came but long as it would be kept is refused, so that what parsed can always be kept. */
static void what_parses_can_be_printed(void **state)
{
	char text[STORE_TEXT_MAX + 1], printed[STORE_TEXT_MAX + 1];
	struct store_definition d;
	int at = sprintf(text, "s3://bucket ca=/");

	(void)state;
	for (int i = 0; i < 250; i++)
		text[at++] = '\xff';
	at += sprintf(text + at, "/x");
	d = parse(text);
	assert_int_equal(store_definition_print(&d, printed, sizeof(printed)), 0);
	size_t need = strlen(printed) + 1;
	for (size_t cap = 0; cap < need; cap++)
		assert_int_equal(store_definition_print(&d, printed, cap), -ENAMETOOLONG);
	assert_int_equal(store_definition_print(&d, printed, need), 0);
	sprintf(text + at, " endpoint=https://%0*d", 200, 0);
	refuse(text, "900");
}

/* AWS by its host's names, others by path; AWS's prices for AWS alone. */
static void defaults_follow_bucket_endpoint_and_class(void **state)
{
	static const struct {
		const char *text;
		bool path_style;
		double put;
	} table[] = {{"s3://bucket", false, 0.005},
		     {"s3://buc.ket", true, 0.005},
		     {"s3://Bucket", true, 0.005},
		     {"s3://bucket class=STANDARD_IA", false, 0.01},
		     {"s3://bucket class=GLACIER_IR", false, 0.02},
		     {"s3://bucket class=NEW", false, 0.005},
		     {"s3://bucket endpoint=https://s3.eu-west-1.amazonaws.com", true, 0.005},
		     {"s3://bucket endpoint=https://s3.cn-north-1.amazonaws.com.cn", true, 0.005},
		     {"s3://bucket endpoint=https://amazonaws.com.example.org", true, 0},
		     {"s3://bucket endpoint=https://s3.example.org", true, 0},
		     {"s3://bucket endpoint=https://s3.example.org style=host", false, 0},
		     {"s3://bucket endpoint=https://s3.example.org prices=0.005:0.0004:0.023", true, 0.005},
		     {"s3://bucket prices=0:0:0", false, 0},
		     {"s3://buc.ket style=host", false, 0.005},
		     {"s3://bucket style=path", true, 0.005}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct store_definition d = parse(table[i].text);
		if (d.path_style != table[i].path_style || d.price_put != table[i].put)
			fail_msg("%s: style %d, put %f", table[i].text, d.path_style, d.price_put);
		assert_string_equal(round_trip(table[i].text), table[i].text);
	}
	assert_true(parse(DIR).price_put == 0 && parse(DIR).price_gb_month == 0);
}

static void no_message_shows_a_value(void **state)
{
	static const char *const texts[] = {
	    S3 " secret=SeCrEtVaLuE",      S3 " SeCrEtVaLuE",   S3 " id=SeCrEtVaLuE", S3 " endpoint=https://k:SeCrEtVaLuE@h",
	    "s3://key:SeCrEtVaLuE@bucket", "SeCrEtVaLuE",       S3 " SeCrEtVaLuE=1",  S3 " =SeCrEtVaLuE",
	    S3 " prices=SeCrEtVaLuE",      S3 " ca=SeCrEtVaLuE"};
	struct store_definition d;
	char message[OBJECT_MESSAGE_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		assert_int_equal(store_definition_parse(texts[i], &d, message), -EINVAL);
		assert_true(message[0] && strlen(message) < OBJECT_MESSAGE_MAX);
		assert_null(strstr(message, "SeCrEtVaLuE"));
	}
}

/* Any subset of the options in any order is the same definition. */
static void options_combine_in_any_order(void **state)
{
	struct rng r = {test_seed(71)};
	char text[STORE_TEXT_MAX + 1], shuffled[STORE_TEXT_MAX + 1];

	(void)state;
	for (int round = 0; round < 3000; round++) {
		size_t order[ARRAY_SIZE(names)], n = 0;
		for (size_t i = 0; i < ARRAY_SIZE(names); i++)
			if (rng_below(&r, 2) && strcmp(names[i], "ca") != 0)
				order[n++] = i;
		int at = sprintf(text, S3);
		for (size_t i = 0; i < n; i++)
			at += sprintf(text + at, " %s=%s", names[order[i]], good[order[i]]);
		for (size_t i = n; i > 1; i--) {
			size_t k = rng_below(&r, i), keep = order[i - 1];
			order[i - 1] = order[k];
			order[k] = keep;
		}
		at = sprintf(shuffled, S3);
		for (size_t i = 0; i < n; i++)
			at += sprintf(shuffled + at, " %s=%s", names[order[i]], good[order[i]]);
		struct store_definition a = parse(text), b = parse(shuffled);
		assert_same(&a, &b);
		round_trip(shuffled);
	}
}

/* Whatever the bytes: refused with a message, or taken and the same after a round trip. */
static void random_bytes_are_refused_or_survive_a_round_trip(void **state)
{
	static const char *const pieces[] = {
	    "s3://",  "file://", "/",           "bucket", " ",    "=",  "id",    "pack=",  "16M",  "endpoint=https://",
	    "e",      ":",       "prices=",     "1.5:",   "ca=/", "%",  "41",    "style=", "host", "class=",
	    "grace=", "9d",      "insecure=on", "rate=",  "1G",   "..", "[::1]", "_"};
	struct rng r = {test_seed(72)};
	unsigned taken = 0;

	(void)state;
	for (int round = 0; round < 60000; round++) {
		char text[1200] = "", message[OBJECT_MESSAGE_MAX] = "";
		struct store_definition d;
		size_t len = 0, n = rng_below(&r, 30);
		if (rng_below(&r, 2))
			len = (size_t)sprintf(text, "%s", rng_below(&r, 2) ? S3 : DIR);
		for (size_t i = 0; i < n; i++) {
			if (rng_below(&r, 8) == 0)
				text[len++] = (char)(1 + rng_below(&r, 255));
			else
				len += (size_t)sprintf(text + len, "%s", pieces[rng_below(&r, ARRAY_SIZE(pieces))]);
		}
		text[len] = '\0';
		if (store_definition_parse(text, &d, message) == 0) {
			round_trip(text);
			taken++;
		} else {
			assert_true(message[0] != '\0');
		}
	}
	assert_true(taken > 1000);
}

static void names_have_small_letters_digits_and_two_signs(void **state)
{
	char name[64];

	(void)state;
	for (int c = 1; c < 256; c++) {
		bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
		sprintf(name, "%c", c);
		assert_int_equal(store_name_valid(name), plain);
		sprintf(name, "a%c", c);
		assert_int_equal(store_name_valid(name), plain || c == '-' || c == '_');
	}
	assert_false(store_name_valid(""));
	for (int len = 1; len < 40; len++) {
		sprintf(name, "%0*d", len, 0);
		assert_int_equal(store_name_valid(name), len <= (int)STORE_NAME_MAX);
	}
}

static void keys_have_parts_of_allowed_bytes(void **state)
{
	static const char *const wrong[] = {"",    "/",   "a/",   "/a",   "a//b",   ".",    "..",
					    "./a", "a/.", "a/..", "../a", "a/../b", "a/./b"};
	static const char *const right[] = {"a", ".a", "a.", "...", "..a", "a..", "a/b", "A/0/_/-/.x", "-", "a/.../b"};
	char key[OBJECT_KEY_MAX + 8];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_false(object_key_valid(wrong[i]));
	for (size_t i = 0; i < ARRAY_SIZE(right); i++)
		assert_true(object_key_valid(right[i]));
	for (int c = 1; c < 256; c++) {
		sprintf(key, "a%cb", c);
		bool fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '/' || c == '.' ||
			    c == '_' || c == '-';
		assert_int_equal(object_key_valid(key), fine);
	}
	for (unsigned len = OBJECT_KEY_MAX - 2; len < OBJECT_KEY_MAX + 3; len++) {
		sprintf(key, "%0*d", (int)len, 0);
		assert_int_equal(object_key_valid(key), len <= OBJECT_KEY_MAX);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(defaults_are_those_of_the_header_and_are_not_printed),
	    cmocka_unit_test(each_value_is_read_and_printed),
	    cmocka_unit_test(each_wrong_value_is_refused_by_name),
	    cmocka_unit_test(each_wrong_url_is_refused),
	    cmocka_unit_test(lengths_are_bounded_exactly),
	    cmocka_unit_test(what_parses_can_be_printed),
	    cmocka_unit_test(defaults_follow_bucket_endpoint_and_class),
	    cmocka_unit_test(no_message_shows_a_value),
	    cmocka_unit_test(options_combine_in_any_order),
	    cmocka_unit_test(random_bytes_are_refused_or_survive_a_round_trip),
	    cmocka_unit_test(names_have_small_letters_digits_and_two_signs),
	    cmocka_unit_test(keys_have_parts_of_allowed_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
