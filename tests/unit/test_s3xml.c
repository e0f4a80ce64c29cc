/* test_s3xml.c: listings and errors of S3 stores: whole, in pieces, cut, damaged, out of bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/rng.h"
#include "tests/unit/tempdir.h"
#include "tier/s3/xml.h"

#define HEAD             "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
#define TAIL             "</ListBucketResult>"
#define ENTRY(key, size) "<Contents><Key>" key "</Key><Size>" size "</Size></Contents>"

/* As a server writes it, with things nobody asked for. */
static const char listing[] =
    HEAD "<Name>b</Name><Prefix>p/</Prefix><KeyCount>2</KeyCount><MaxKeys>2</MaxKeys><IsTruncated>true</IsTruncated>"
	 "<NextContinuationToken>to&amp;ken==</NextContinuationToken>"
	 "<Contents><Key>p/one</Key><LastModified>2013-05-24T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag>"
	 "<Size>434234</Size><StorageClass>STANDARD</StorageClass><Owner><ID>x</ID></Owner></Contents>\n"
	 "<Contents><Size>0</Size><Key>p/t&lt;o&#x263a;</Key></Contents>"
	 "<CommonPrefixes><Prefix>q</Prefix></CommonPrefixes>" TAIL;

/* In pieces of `step` bytes, each in memory of its own. */
static int parse(const char *p, size_t len, size_t step, struct s3_page *page)
{
	struct s3_list_parser *x;
	int r = s3_list_parser_new(page, &x);

	assert_int_equal(r, 0);
	for (size_t at = 0; at < len && r == 0; at += step) {
		const size_t n = len - at < step ? len - at : step;
		CLEANUP_FREE char *copy = malloc(n);

		memcpy(copy, p + at, n);
		r = s3_list_feed(x, copy, n);
	}
	int end = s3_list_end(x);
	s3_list_parser_free(x);
	return r < 0 ? r : end;
}

static int parse_text(const char *text, struct s3_page *page)
{
	return parse(text, strlen(text), SIZE_MAX / 2, page);
}

static void check_listing(const struct s3_page *page)
{
	assert_int_equal(s3_page_count(page), 2);
	assert_string_equal(s3_page_name(page, 0), "p/one");
	assert_int_equal(s3_page_entry(page, 0)->size, 434234);
	assert_int_equal(s3_page_entry(page, 0)->modified_ns, INT64_C(1369353600) * NSEC_PER_SEC);
	assert_string_equal(s3_page_name(page, 1), "p/t<o\xe2\x98\xba");
	assert_int_equal(s3_page_entry(page, 1)->size, 0);
	assert_int_equal(s3_page_entry(page, 1)->modified_ns, 0);
	assert_true(page->truncated);
	assert_string_equal(page->token, "to&ken==");
}

static void a_listing_comes_in_pieces_of_any_size(void **state)
{
	(void)state;
	for (size_t step = 1; step <= sizeof(listing); step++) {
		struct s3_page page = {0};

		assert_int_equal(parse(listing, sizeof(listing) - 1, step, &page), 0);
		check_listing(&page);
		s3_page_free(&page);
	}
}

static void a_listing_that_is_cut_is_none(void **state)
{
	(void)state;
	for (size_t len = 0; len < sizeof(listing) - 1; len++) {
		struct s3_page page = {0};

		assert_int_equal(parse(listing, len, 4096, &page), -EPROTO);
		s3_page_free(&page);
	}
}

static void damaged_listings_are_within_bounds(void **state)
{
	struct rng r = {test_seed(3)};
	unsigned taken = 0, refused = 0;

	(void)state;
	for (unsigned round = 0; round < 20000; round++) {
		struct s3_page page = {0};
		char text[sizeof(listing)];

		memcpy(text, listing, sizeof(listing));
		for (uint64_t k = rng_between(&r, 1, 3); k > 0; k--)
			text[rng_below(&r, sizeof(listing) - 1)] ^= (char)(1 << rng_below(&r, 8));
		const int e = parse(text, sizeof(listing) - 1, rng_between(&r, 1, 600), &page);
		assert_true(e == 0 || e == -EPROTO);
		for (unsigned i = 0; i < s3_page_count(&page); i++)
			assert_true(s3_page_entry(&page, i)->name < page.names.len);
		taken += e == 0;
		refused += e < 0;
		s3_page_free(&page);
	}
	assert_true(taken > 100 && refused > 100);
}

static void keys_are_decoded_when_they_say_so(void **state)
{
	static const struct {
		const char *text, *key;
		int error;
	} table[] = {
	    {"a%2Fb%2fc", "a/b/c", 0}, {"a+b%2B", "a b+", 0},  {"%e1%88%B4", "\xe1\x88\xb4", 0},
	    {"a%00b", "a", 0},         {"%41", "A", 0},        {"%4", NULL, -EPROTO},
	    {"%", NULL, -EPROTO},      {"%4g", NULL, -EPROTO}, {"%%41", NULL, -EPROTO},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		for (unsigned where = 0; where < 3; where++) {
			static const char encoding[] = "<EncodingType>url</EncodingType>";
			struct s3_page page = {0};
			char text[512];

			/* Before, behind, not at all. */
			snprintf(text, sizeof(text), HEAD "%s" ENTRY("%s", "1") "%s" TAIL, where == 0 ? encoding : "",
				 table[i].text, where == 1 ? encoding : "");
			assert_int_equal(parse_text(text, &page), where == 2 ? 0 : table[i].error);
			if (where == 2 || table[i].error == 0)
				assert_string_equal(s3_page_name(&page, 0), where == 2 ? table[i].text : table[i].key);
			s3_page_free(&page);
		}
}

static void documents(void **state)
{
	static const struct {
		const char *text;
		int error;
	} table[] = {
	    {HEAD TAIL, 0},
	    {HEAD "<IsTruncated>false</IsTruncated>" TAIL "\n", 0},
	    {HEAD ENTRY("a", "18446744073709551615") TAIL, 0},
	    {HEAD ENTRY("a", "18446744073709551616") TAIL, -EPROTO},
	    {HEAD ENTRY("a", "-1") TAIL, -EPROTO},
	    {HEAD ENTRY("a", "") TAIL, -EPROTO},
	    {HEAD ENTRY("a", "1x") TAIL, -EPROTO},
	    {HEAD "<Contents><Key>a</Key></Contents>" TAIL, -EPROTO},
	    {HEAD "<Contents><Size>1</Size></Contents>" TAIL, -EPROTO},
	    {HEAD "<Contents><Key>a</Key><Key>b</Key><Size>1</Size></Contents>" TAIL, -EPROTO},
	    {HEAD TAIL TAIL, -EPROTO},
	    {HEAD TAIL "x", -EPROTO},
	    {"", -EPROTO},
	    {"not xml", -EPROTO},
	    {"<html><body/></html>", -EPROTO},
	    {"<Error><Code>NoSuchKey</Code></Error>", -EPROTO},
	    {"<!DOCTYPE x [<!ENTITY a \"b\">]>" TAIL, -EPROTO},
	    {"<!DOCTYPE ListBucketResult><ListBucketResult></ListBucketResult>", -EPROTO},
	    {"<!DOCTYPE x SYSTEM \"file:///etc/passwd\"><ListBucketResult></ListBucketResult>", -EPROTO},
	    {HEAD "&undefined;" TAIL, -EPROTO},
	    {HEAD "<a><b><c><d><e><f><g></g></f></e></d></c></b></a>" TAIL, 0},
	    {HEAD "<a><b><c><d><e><f><g><h></h></g></f></e></d></c></b></a>" TAIL, -EPROTO},
	    /* A key somewhere else is no entry. */
	    {HEAD "<Other><Key>a</Key><Size>1</Size></Other>" TAIL, 0},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		struct s3_page page = {0};

		int r = parse_text(table[i].text, &page);
		if (r != table[i].error)
			fail_msg("case %u: %d", i, r);
		s3_page_free(&page);
	}
}

static void put_repeated(struct buf *b, char c, size_t n)
{
	for (size_t i = 0; i < n; i++)
		buf_put_u8(b, (uint8_t)c);
}

static int parse_buf(const struct buf *b)
{
	struct s3_page page = {0};

	int r = parse((const char *)b->p, b->len, 65536, &page);
	s3_page_free(&page);
	return r;
}

static void lengths_are_bounded(void **state)
{
	static const size_t keys[] = {1024, 3072, 4095, 4096, 1000000};
	static const size_t tokens[] = {S3_TOKEN_MAX, S3_TOKEN_MAX + 1};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		CLEANUP_BUF struct buf b = {0};

		buf_printf(&b, HEAD "<Contents><Key>");
		put_repeated(&b, 'k', keys[i]);
		buf_printf(&b, "</Key><Size>1</Size></Contents>" TAIL);
		assert_int_equal(parse_buf(&b), keys[i] > 4095 ? -EPROTO : 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(tokens); i++) {
		CLEANUP_BUF struct buf b = {0};

		buf_printf(&b, HEAD "<NextContinuationToken>");
		put_repeated(&b, 't', tokens[i]);
		buf_printf(&b, "</NextContinuationToken>" TAIL);
		assert_int_equal(parse_buf(&b), tokens[i] > S3_TOKEN_MAX ? -EPROTO : 0);
	}
}

static void counts_are_bounded(void **state)
{
	(void)state;
	for (unsigned over = 0; over < 2; over++) {
		CLEANUP_BUF struct buf b = {0};

		buf_printf(&b, HEAD);
		for (unsigned i = 0; i < S3_PAGE_MAX + over; i++)
			buf_printf(&b, ENTRY("%05u", "%u"), i, i);
		buf_printf(&b, TAIL);
		assert_int_equal(parse_buf(&b), over ? -EPROTO : 0);
	}
	CLEANUP_BUF struct buf b = {0};
	buf_printf(&b, HEAD "<!--");
	put_repeated(&b, 'x', XML_LIST_MAX);
	buf_printf(&b, "-->" TAIL);
	assert_int_equal(parse_buf(&b), -EPROTO);
}

/* ---- errors */

static void error_bodies(void **state)
{
	static const struct {
		const char *text, *code, *message, *region; /* code NULL: none */
	} table[] = {
	    {"<Error><Code>NoSuchKey</Code><Message>There is none.</Message><Key>a</Key></Error>", "NoSuchKey", "There is none.",
	     ""},
	    {"<?xml version=\"1.0\"?>\n<Error xmlns=\"x\"><Message>m</Message><Code>C</Code><Region>eu-1</Region></Error>", "C",
	     "m", "eu-1"},
	    {"<Error><Code>C</Code><Message>a\x01</Message></Error>", NULL, NULL, NULL},
	    {"<Error><Code>C</Code><Message>a\nb\tc&#xe9;</Message></Error>", "C", "a b c  ", ""},
	    {"<Error><Code>C</Code><Details><Message>inner</Message></Details></Error>", "C", "", ""},
	    {"<Error><Message>m</Message></Error>", NULL, NULL, NULL},
	    {"<Error><Code>C</Code>", NULL, NULL, NULL},
	    {"<ErrorResponse><Error><Code>C</Code></Error></ErrorResponse>", NULL, NULL, NULL},
	    {"<html><Code>C</Code></html>", NULL, NULL, NULL},
	    {"", NULL, NULL, NULL},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		struct s3_error e;

		int r = s3_error_parse((struct slice){table[i].text, strlen(table[i].text)}, &e);
		assert_int_equal(r, table[i].code ? 0 : -EPROTO);
		assert_string_equal(e.code, table[i].code ? table[i].code : "");
		assert_string_equal(e.message, table[i].code ? table[i].message : "");
		assert_string_equal(e.region, table[i].code ? table[i].region : "");
	}
}

static void long_texts_of_errors_are_cut(void **state)
{
	CLEANUP_BUF struct buf b = {0};
	struct s3_error e;

	(void)state;
	buf_printf(&b, "<Error><Code>");
	put_repeated(&b, 'c', 5000);
	buf_printf(&b, "</Code><Message>");
	put_repeated(&b, 'm', 5000);
	buf_printf(&b, "</Message></Error>");
	assert_int_equal(s3_error_parse((struct slice){b.p, b.len}, &e), 0);
	assert_int_equal(strlen(e.code), sizeof(e.code) - 1);
	assert_int_equal(strlen(e.message), sizeof(e.message) - 1);
	put_repeated(&b, ' ', XML_ERROR_MAX);
	assert_int_equal(s3_error_parse((struct slice){b.p, b.len}, &e), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_listing_comes_in_pieces_of_any_size),
	    cmocka_unit_test(a_listing_that_is_cut_is_none),
	    cmocka_unit_test(damaged_listings_are_within_bounds),
	    cmocka_unit_test(keys_are_decoded_when_they_say_so),
	    cmocka_unit_test(documents),
	    cmocka_unit_test(lengths_are_bounded),
	    cmocka_unit_test(counts_are_bounded),
	    cmocka_unit_test(error_bodies),
	    cmocka_unit_test(long_texts_of_errors_are_cut),
	};

	return cmocka_run_group_tests_name("s3xml", tests, NULL, NULL);
}
