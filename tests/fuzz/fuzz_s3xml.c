/*
 * fuzz_s3xml.c: libFuzzer target over tier/s3/xml.h: what an S3 store may answer.
 *
 * The first byte chooses a listing or an error, and whether the rest is the document itself or a text in which control characters
 * stand for the elements such documents have, so that a fuzzer is soon inside of one.  The second says how large the pieces are
 * in which it arrives.  What is accepted is within the limits, and the same in pieces as in one.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "tier/s3/xml.h"

static const char *const words[32] = {
    "<ListBucketResult>",
    "</ListBucketResult>",
    "<Contents>",
    "</Contents>",
    "<Key>",
    "</Key>",
    "<Size>",
    "</Size>",
    "<LastModified>",
    "</LastModified>",
    "<IsTruncated>",
    "</IsTruncated>",
    "<NextContinuationToken>",
    "</NextContinuationToken>",
    "<EncodingType>",
    "</EncodingType>",
    "url",
    "true",
    "2013-05-24T00:00:00.000Z",
    "%2F",
    "<Error>",
    "</Error>",
    "<Code>",
    "</Code>",
    "<Message>",
    "</Message>",
    "<Region>",
    "</Region>",
    "<Contents><Key>a</Key><Size>1</Size></Contents>",
    "&#x263a;",
    "<!DOCTYPE a [<!ENTITY b 'c'>]>",
    "18446744073709551615",
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int parse(const uint8_t *p, size_t len, size_t step, struct s3_page *page)
{
	struct s3_list_parser *x;
	int r = s3_list_parser_new(page, &x);

	assert(r == 0);
	for (size_t at = 0; at < len && r == 0; at += step) {
		const size_t n = len - at < step ? len - at : step;
		CLEANUP_FREE uint8_t *copy = malloc(n);

		memcpy(copy, p + at, n);
		r = s3_list_feed(x, copy, n);
	}
	const int end = s3_list_end(x);
	s3_list_parser_free(x);
	return r < 0 ? r : end;
}

static void try_listing(const uint8_t *p, size_t len, size_t step)
{
	struct s3_page one = {0}, pieces = {0};
	const int r = parse(p, len, len + 1, &one);

	assert(parse(p, len, step, &pieces) == r);
	assert(s3_page_count(&one) <= S3_PAGE_MAX && strlen(one.token) <= S3_TOKEN_MAX);
	if (r == 0) {
		assert(s3_page_count(&one) == s3_page_count(&pieces) && one.truncated == pieces.truncated);
		for (unsigned i = 0; i < s3_page_count(&one); i++) {
			assert(s3_page_entry(&one, i)->name < one.names.len);
			assert(strcmp(s3_page_name(&one, i), s3_page_name(&pieces, i)) == 0);
			assert(s3_page_entry(&one, i)->size == s3_page_entry(&pieces, i)->size);
		}
	}
	s3_page_free(&one);
	s3_page_free(&pieces);
}

static void try_error(const uint8_t *p, size_t len)
{
	CLEANUP_FREE uint8_t *copy = malloc(len ? len : 1);
	struct s3_error e;

	if (len)
		memcpy(copy, p, len);
	if (s3_error_parse((struct slice){copy, len}, &e) < 0) {
		assert(!e.code[0] && !e.message[0]);
		return;
	}
	assert(e.code[0]);
	for (const char *c = e.message; *c; c++)
		assert(*c >= ' ' && *c < 127);
}

static void expand(const uint8_t *p, size_t len, struct buf *ret)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] < ARRAY_SIZE(words))
			buf_printf(ret, "%s", words[p[i]]);
		else
			buf_put_u8(ret, p[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP_BUF struct buf text = {0};

	if (size < 2)
		return 0;
	if (data[0] & 2)
		buf_put(&text, data + 2, size - 2);
	else
		expand(data + 2, size - 2, &text);
	if (data[0] & 1)
		try_error(text.p, text.len);
	else
		try_listing(text.p, text.len, 1 + data[1]);
	return 0;
}
