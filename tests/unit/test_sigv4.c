/*
 * test_sigv4.c: the published vectors of Signature Version 4, and what the signer makes of odd requests.
 *
 * Sources: AWS's Signature Version 4 test suite (requests of 30 August 2015 to example.amazonaws.com), and the examples of the
 * Amazon S3 API reference, "Signature Calculations for the Authorization Header" (24 May 2013, examplebucket).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/rng.h"
#include "tests/unit/tempdir.h"
#include "tier/s3/sigv4.h"

#define SUITE_TIME INT64_C(1440938160) /* 2015-08-30T12:36:00Z */
#define S3_TIME    INT64_C(1369353600) /* 2013-05-24T00:00:00Z */
#define FORM_BODY  "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"
#define UNRESERVED "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#define STS_TOKEN                                                                                                                \
	"AQoDYXdzEPT//////////"                                                                                                  \
	"wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/"                   \
	"qkPpKPi/"                                                                                                               \
	"kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+"               \
	"xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="

struct vector {
	const char *name, *method, *path;
	struct sigv4_field query[4], headers[8]; /* beside host and x-amz-date; ended by one without a name */
	const char *payload;                     /* NULL: empty */
	const char *canonical_target, *signature;
};

static const struct vector suite[] = {
    {.name = "get-vanilla",
     .method = "GET",
     .path = "/",
     .canonical_target = "/",
     .signature = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {.name = "get-vanilla-empty-query-key",
     .method = "GET",
     .path = "/",
     .query = {{"Param1", "value1"}},
     .canonical_target = "/?Param1=value1",
     .signature = "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"},
    {.name = "get-vanilla-query-order-key-case",
     .method = "GET",
     .path = "/",
     .query = {{"Param2", "value2"}, {"Param1", "value1"}},
     .canonical_target = "/?Param1=value1&Param2=value2",
     .signature = "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
    {.name = "get-vanilla-query-order-encoded",
     .method = "GET",
     .path = "/",
     .query = {{"Param-3", "Value3"}, {"Param", "Value2"}, {"\xe1\x88\xb4", "Value1"}},
     .canonical_target = "/?%E1%88%B4=Value1&Param=Value2&Param-3=Value3",
     .signature = "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac"},
    {.name = "get-vanilla-query-unreserved",
     .method = "GET",
     .path = "/",
     .query = {{UNRESERVED, UNRESERVED}},
     .canonical_target = "/?" UNRESERVED "=" UNRESERVED,
     .signature = "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"},
    {.name = "get-vanilla-utf8-query",
     .method = "GET",
     .path = "/",
     .query = {{"\xe1\x88\xb4", "bar"}},
     .canonical_target = "/?%E1%88%B4=bar",
     .signature = "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
    {.name = "get-unreserved",
     .method = "GET",
     .path = "/" UNRESERVED,
     .canonical_target = "/" UNRESERVED,
     .signature = "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
    {.name = "get-utf8",
     .method = "GET",
     .path = "/\xe1\x88\xb4",
     .canonical_target = "/%E1%88%B4",
     .signature = "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
    {.name = "get-space",
     .method = "GET",
     .path = "/example space/",
     .canonical_target = "/example%20space/",
     .signature = "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"},
    {.name = "get-slash-unnormalized",
     .method = "GET",
     .path = "//",
     .canonical_target = "//",
     .signature = "c88bcd3d312d75078c0cd961d6deae3f4c754924b01669efcfcb439fd5e5b76e"},
    {.name = "get-slashes-unnormalized",
     .method = "GET",
     .path = "//example//",
     .canonical_target = "//example//",
     .signature = "87cca117541a147f6df867677d98a7d80dff226d2bfca9e4ffa899665623c7e5"},
    {.name = "get-slash-dot-slash-unnormalized",
     .method = "GET",
     .path = "/./",
     .canonical_target = "/./",
     .signature = "68714168e6557f8f2de0ef956fc24dc2593a4bd2961f8df51898d8a134695145"},
    {.name = "get-slash-pointless-dot-unnormalized",
     .method = "GET",
     .path = "/./example",
     .canonical_target = "/./example",
     .signature = "beb03f223f7deae4146464f06e29eebbee9c8afbe15c290cf07aa8b119e14cff"},
    {.name = "get-relative-unnormalized",
     .method = "GET",
     .path = "/example/..",
     .canonical_target = "/example/..",
     .signature = "eca7ead57bb5aa5c8e28007acd4ff04e1ff9a0ff3b237ec1554a184887ff9282"},
    {.name = "get-relative-relative-unnormalized",
     .method = "GET",
     .path = "/example1/example2/../..",
     .canonical_target = "/example1/example2/../..",
     .signature = "dc33e0856fd4baca4d7aa2146c38958283844764f38c74252a333df5e613003b"},
    {.name = "get-header-key-duplicate",
     .method = "GET",
     .path = "/",
     .headers = {{"My-Header1", "value2"}, {"My-Header1", "value2"}, {"My-Header1", "value1"}},
     .canonical_target = "/",
     .signature = "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"},
    {.name = "get-header-value-multiline",
     .method = "GET",
     .path = "/",
     .headers = {{"My-Header1", "value1\n  value2\n     value3"}},
     .canonical_target = "/",
     .signature = "cfd34249e4b1c8d6b91ef74165d41a32e5fab3306300901bb65a51a73575eefd"},
    {.name = "get-header-value-order",
     .method = "GET",
     .path = "/",
     .headers = {{"My-Header1", "value4"}, {"My-Header1", "value1"}, {"My-Header1", "value3"}, {"My-Header1", "value2"}},
     .canonical_target = "/",
     .signature = "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"},
    {.name = "get-header-value-trim",
     .method = "GET",
     .path = "/",
     .headers = {{"My-Header1", " value1"}, {"My-Header2", " \"a   b   c\""}},
     .canonical_target = "/",
     .signature = "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
    {.name = "get-vanilla-with-session-token",
     .method = "GET",
     .path = "/",
     .headers = {{"X-Amz-Security-Token", "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"}},
     .canonical_target = "/",
     .signature = "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"},
    {.name = "post-vanilla",
     .method = "POST",
     .path = "/",
     .canonical_target = "/",
     .signature = "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
    {.name = "post-vanilla-query",
     .method = "POST",
     .path = "/",
     .query = {{"Param1", "value1"}},
     .canonical_target = "/?Param1=value1",
     .signature = "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"},
    {.name = "post-header-key-sort",
     .method = "POST",
     .path = "/",
     .headers = {{"My-Header1", "value1"}},
     .canonical_target = "/",
     .signature = "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"},
    {.name = "post-header-value-case",
     .method = "POST",
     .path = "/",
     .headers = {{"My-Header1", "VALUE1"}},
     .canonical_target = "/",
     .signature = "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d"},
    {.name = "post-sts-header-before",
     .method = "POST",
     .path = "/",
     .headers = {{"X-Amz-Security-Token", STS_TOKEN}},
     .canonical_target = "/",
     .signature = "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"},
    {.name = "post-x-www-form-urlencoded",
     .method = "POST",
     .path = "/",
     .headers = {{"Content-Type", "application/x-www-form-urlencoded"},
		 {"Content-Length", "13"},
		 {"x-amz-content-sha256", FORM_BODY}},
     .payload = FORM_BODY,
     .canonical_target = "/",
     .signature = "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b"},
    {.name = "post-x-www-form-urlencoded-parameters",
     .method = "POST",
     .path = "/",
     .headers = {{"Content-Type", "application/x-www-form-urlencoded; charset=utf-8"},
		 {"Content-Length", "13"},
		 {"x-amz-content-sha256", FORM_BODY}},
     .payload = FORM_BODY,
     .canonical_target = "/",
     .signature = "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422"},
};

#define EMPTY_HASH                                                                                                               \
	{                                                                                                                        \
		"x-amz-content-sha256", SIGV4_EMPTY_PAYLOAD                                                                      \
	}
static const struct vector s3_examples[] = {
    {.name = "GET Object",
     .method = "GET",
     .path = "/test.txt",
     .headers = {{"Range", "bytes=0-9"}, EMPTY_HASH},
     .canonical_target = "/test.txt",
     .signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
    {.name = "PUT Object",
     .method = "PUT",
     .path = "/test$file.text",
     .headers = {{"Date", "Fri, 24 May 2013 00:00:00 GMT"},
		 {"x-amz-storage-class", "REDUCED_REDUNDANCY"},
		 {"x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"}},
     .payload = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
     .canonical_target = "/test%24file.text",
     .signature = "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
    {.name = "GET Bucket Lifecycle",
     .method = "GET",
     .path = "/",
     .query = {{"lifecycle", ""}},
     .headers = {EMPTY_HASH},
     .canonical_target = "/?lifecycle=",
     .signature = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
    {.name = "GET Bucket (List Objects)",
     .method = "GET",
     .path = "/",
     .query = {{"prefix", "J"}, {"max-keys", "2"}},
     .headers = {EMPTY_HASH},
     .canonical_target = "/?max-keys=2&prefix=J",
     .signature = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
};

struct identity {
	const char *access_key, *secret_key, *host, *service;
	int64_t time_s;
};
static const struct identity of_suite = {"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "example.amazonaws.com",
					 "service", SUITE_TIME};
static const struct identity of_s3 = {"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
				      "examplebucket.s3.amazonaws.com", "s3", S3_TIME};

static unsigned count(const struct sigv4_field *f, unsigned max)
{
	unsigned n = 0;

	while (n < max && f[n].name)
		n++;
	return n;
}

/* Host and time go in between the others. */
static unsigned all_headers(const struct vector *v, const struct identity *who, const char *stamp, struct sigv4_field ret[12])
{
	const unsigned n = count(v->headers, ARRAY_SIZE(v->headers));

	memcpy(ret, v->headers, n * sizeof(*ret));
	ret[n] = (struct sigv4_field){"Host", who->host};
	ret[n + 1] = (struct sigv4_field){"X-Amz-Date", stamp};
	return n + 2;
}

static void check_vector(struct sigv4_signer *s, const struct vector *v, const struct identity *who)
{
	CLEANUP_BUF struct buf target = {0}, authorization = {0};
	struct sigv4_field headers[12];
	char stamp[SIGV4_TIME_TEXT];

	sigv4_time(who->time_s, stamp);
	assert_int_equal(sigv4_target(v->path, v->query, count(v->query, ARRAY_SIZE(v->query)), &target), 0);
	buf_put_u8(&target, 0);
	assert_string_equal((const char *)target.p, v->canonical_target);
	const struct sigv4_request q = {.method = v->method,
					.target = (const char *)target.p,
					.headers = headers,
					.n_headers = all_headers(v, who, stamp, headers),
					.payload = v->payload ? v->payload : SIGV4_EMPTY_PAYLOAD,
					.time_s = who->time_s};
	assert_int_equal(sigv4_sign(s, who->access_key, who->secret_key, &q, &authorization), 0);
	const char *found = strstr((const char *)authorization.p, "Signature=");
	assert_non_null(found);
	if (strcmp(found + 10, v->signature) != 0)
		fail_msg("%s: %s", v->name, (const char *)authorization.p);
}

static void the_vectors_of_the_suite_pass(void **state)
{
	struct sigv4_signer s;

	(void)state;
	sigv4_signer_init(&s, "us-east-1", of_suite.service);
	for (unsigned i = 0; i < ARRAY_SIZE(suite); i++)
		check_vector(&s, &suite[i], &of_suite);
	sigv4_signer_destroy(&s);
}

static void the_examples_of_s3_pass(void **state)
{
	struct sigv4_signer s;

	(void)state;
	sigv4_signer_init(&s, "us-east-1", of_s3.service);
	for (unsigned i = 0; i < ARRAY_SIZE(s3_examples); i++)
		check_vector(&s, &s3_examples[i], &of_s3);
	sigv4_signer_destroy(&s);
}

static void sha256_text(const struct buf *b, char ret[SIGV4_HASH_TEXT])
{
	uint8_t hash[32];

	assert_true(EVP_Digest(b->p, b->len, hash, NULL, EVP_sha256(), NULL));
	sigv4_hex(hash, ret);
}

/* The steps in between have published values as well. */
static void the_canonical_request_hashes_as_published(void **state)
{
	static const struct sigv4_field vanilla[] = {{"Host", "example.amazonaws.com"}, {"X-Amz-Date", "20150830T123600Z"}};
	static const struct sigv4_field listing[] = {
	    {"Host", "examplebucket.s3.amazonaws.com"}, {"x-amz-date", "20130524T000000Z"}, EMPTY_HASH};
	CLEANUP_BUF struct buf a = {0}, b = {0};
	char hash[SIGV4_HASH_TEXT];

	(void)state;
	struct sigv4_request q = {
	    .method = "GET", .target = "/", .headers = vanilla, .n_headers = 2, .payload = SIGV4_EMPTY_PAYLOAD};
	assert_int_equal(sigv4_canonical_request(&q, &a), 0);
	sha256_text(&a, hash);
	assert_string_equal(hash, "bb579772317eb040ac9ed261061d46c1f17a8133879d6129b6e1c25292927e63");
	q.target = "/?max-keys=2&prefix=J";
	q.headers = listing;
	q.n_headers = 3;
	assert_int_equal(sigv4_canonical_request(&q, &b), 0);
	sha256_text(&b, hash);
	assert_string_equal(hash, "df57d21db20da04d7fa30298dd4488ba3a2b47ca3a489c74750e0f1e7df1b9b7");
}

static void an_authorization_is_complete(void **state)
{
	static const struct sigv4_field h[] = {{"x-amz-date", "20150830T123600Z"}, {"Host", "example.amazonaws.com"}};
	CLEANUP_BUF struct buf b = {0};
	struct sigv4_signer s;

	(void)state;
	sigv4_signer_init(&s, "us-east-1", "service");
	const struct sigv4_request q = {
	    .method = "GET", .target = "/", .headers = h, .n_headers = 2, .payload = SIGV4_EMPTY_PAYLOAD, .time_s = SUITE_TIME};
	assert_int_equal(sigv4_sign(&s, of_suite.access_key, of_suite.secret_key, &q, &b), 0);
	assert_string_equal(
	    (const char *)b.p,
	    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, "
	    "Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
	assert_int_equal(b.len, strlen((const char *)b.p));
	sigv4_signer_destroy(&s);
}

/* Days and secrets alternate: a key kept from before would show. */
static void the_kept_key_is_of_that_day_and_secret(void **state)
{
	struct identity other = of_suite;
	struct sigv4_signer s;

	(void)state;
	other.secret_key = "another secret";
	other.time_s += 86400;
	sigv4_signer_init(&s, "us-east-1", "service");
	for (unsigned i = 0; i < 3; i++) {
		struct sigv4_request q = {.method = "GET", .target = "/", .payload = SIGV4_EMPTY_PAYLOAD, .time_s = other.time_s};
		CLEANUP_BUF struct buf b = {0};

		check_vector(&s, &suite[0], &of_suite);
		assert_int_equal(sigv4_sign(&s, "x", of_suite.secret_key, &q, &b), 0); /* another day, the same secret */
		check_vector(&s, &suite[0], &of_suite);
		q.time_s = SUITE_TIME;
		assert_int_equal(sigv4_sign(&s, "x", other.secret_key, &q, &b), 0); /* another secret on the same day */
	}
	check_vector(&s, &suite[0], &of_suite);
	sigv4_signer_destroy(&s);
}

struct signing_thread {
	pthread_t thread;
	struct sigv4_signer *signer;
	unsigned first;
};

static void *sign_many(void *ctx)
{
	struct signing_thread *t = ctx;

	for (unsigned i = 0; i < 200; i++)
		check_vector(t->signer, &suite[(t->first + i) % ARRAY_SIZE(suite)], &of_suite);
	return NULL;
}

static void threads_share_a_signer(void **state)
{
	struct signing_thread t[4];
	struct sigv4_signer s;

	(void)state;
	sigv4_signer_init(&s, "us-east-1", "service");
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		t[i] = (struct signing_thread){.signer = &s, .first = 7 * i};
		assert_int_equal(pthread_create(&t[i].thread, NULL, sign_many, &t[i]), 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		pthread_join(t[i].thread, NULL);
	sigv4_signer_destroy(&s);
}

static void every_byte_is_encoded_once(void **state)
{
	(void)state;
	for (unsigned c = 1; c < 256; c++) {
		const bool plain = strchr(UNRESERVED, (int)c) != NULL;
		const char path[] = {'/', (char)c, 0}, text[] = {(char)c, 0};
		CLEANUP_BUF struct buf b = {0};
		char expected[64], query[8];

		snprintf(query, sizeof(query), plain ? "%c" : "%%%02X", c);
		snprintf(expected, sizeof(expected), "/%s?%s=%s", c == '/' ? "/" : query, query, query);
		assert_int_equal(sigv4_target(path, &(struct sigv4_field){text, text}, 1, &b), 0);
		buf_put_u8(&b, 0);
		assert_string_equal((const char *)b.p, expected);
	}
}

/* The order is that of the encoded texts: sorted by what came out, nothing moves. */
static void queries_are_sorted_by_what_is_sent(void **state)
{
	static const char bytes[] = "aZ09-._~/?%&=+ :\x01\x7f\xc3\xa9\xff";
	struct rng r = {test_seed(1)};

	(void)state;
	for (unsigned round = 0; round < 2000; round++) {
		struct sigv4_field f[2];
		char text[4][4];
		CLEANUP_BUF struct buf both = {0};

		for (unsigned i = 0; i < 4; i++) {
			const unsigned n = (unsigned)rng_below(&r, 4);

			for (unsigned k = 0; k < n; k++)
				text[i][k] = bytes[rng_below(&r, sizeof(bytes) - 1)];
			text[i][n] = 0;
		}
		f[0] = (struct sigv4_field){text[0], text[1]};
		f[1] = (struct sigv4_field){text[2], text[3]};
		assert_int_equal(sigv4_target("/", f, 2, &both), 0);
		buf_put_u8(&both, 0);
		char *a = (char *)both.p + 2, *b = strchr(a, '&');
		*b++ = 0;
		/* Name and value apart: '=' would sort among the bytes of a name. */
		char *a_value = strchr(a, '='), *b_value = strchr(b, '=');
		*a_value++ = 0;
		*b_value++ = 0;
		assert_true(strcmp(a, b) < 0 || (strcmp(a, b) == 0 && strcmp(a_value, b_value) <= 0));
	}
}

static void too_many_fields_are_refused(void **state)
{
	struct sigv4_field f[SIGV4_FIELDS_MAX + 1];
	CLEANUP_BUF struct buf b = {0};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(f); i++)
		f[i] = (struct sigv4_field){"a", "b"};
	assert_int_equal(sigv4_target("/", f, SIGV4_FIELDS_MAX, &b), 0);
	assert_int_equal(sigv4_target("/", f, SIGV4_FIELDS_MAX + 1, &b), -E2BIG);
	const struct sigv4_request q = {
	    .method = "GET", .target = "/", .headers = f, .n_headers = SIGV4_FIELDS_MAX + 1, .payload = ""};
	assert_int_equal(sigv4_canonical_request(&q, &b), -E2BIG);
}

static void times_are_of_utc(void **state)
{
	static const struct {
		int64_t time_s;
		const char *text;
	} table[] = {{0, "19700101T000000Z"},
		     {SUITE_TIME, "20150830T123600Z"},
		     {S3_TIME, "20130524T000000Z"},
		     {951782400, "20000229T000000Z"},
		     {4102444799, "20991231T235959Z"}};
	char text[SIGV4_TIME_TEXT];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		sigv4_time(table[i].time_s, text);
		assert_string_equal(text, table[i].text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_vectors_of_the_suite_pass),
	    cmocka_unit_test(the_examples_of_s3_pass),
	    cmocka_unit_test(the_canonical_request_hashes_as_published),
	    cmocka_unit_test(an_authorization_is_complete),
	    cmocka_unit_test(the_kept_key_is_of_that_day_and_secret),
	    cmocka_unit_test(threads_share_a_signer),
	    cmocka_unit_test(every_byte_is_encoded_once),
	    cmocka_unit_test(queries_are_sorted_by_what_is_sent),
	    cmocka_unit_test(too_many_fields_are_refused),
	    cmocka_unit_test(times_are_of_utc),
	};

	return cmocka_run_group_tests_name("sigv4", tests, NULL, NULL);
}
