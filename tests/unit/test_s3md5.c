/* test_s3md5.c: MD5 of several bodies at once is that of each; bodies wait for company only where the store stays busy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/rng.h"
#include "tests/unit/tempdir.h"
#include "tier/s3/sums.h"

#define BLOCK     64u
#define LARGE     SUMS_MIN_BYTES
#define PIECES    8u
#define MOMENT_US 1000u

/* ---- md5_bodies ---- */

struct test_body {
	struct md5_body body;
	struct iovec iov[PIECES];
};

static void one_piece(struct test_body *t, const void *p, size_t len)
{
	t->iov[0] = (struct iovec){(void *)(uintptr_t)p, len};
	t->body = (struct md5_body){.iov = t->iov, .n_iov = 1};
}

static void fill(void *p, size_t n, struct rng *rng)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = (uint8_t)rng_u64(rng);
}

/* In pieces of random lengths, some of them empty. */
static void many_pieces(struct test_body *t, uint8_t *p, size_t len, struct rng *rng)
{
	size_t at = 0;

	for (unsigned i = 0; i < PIECES; i++) {
		size_t n = i + 1 == PIECES ? len - at : rng_below(rng, 3) ? rng_below(rng, len - at + 1) / 2 : 0;

		t->iov[i] = (struct iovec){p + at, n};
		at += n;
	}
	t->body = (struct md5_body){.iov = t->iov, .n_iov = PIECES};
}

static void sum(struct test_body *t, unsigned n)
{
	struct md5_body *body[MD5_LANES];

	for (unsigned i = 0; i < n; i++)
		body[i] = &t[i].body;
	md5_bodies(body, n);
}

/* What OpenSSL makes of the same bytes. */
static void check_digest(const uint8_t digest[MD5_BYTES], const struct iovec *iov, int n_iov)
{
	uint8_t expected[MD5_BYTES];
	EVP_MD_CTX *c = EVP_MD_CTX_new();

	assert_true(EVP_DigestInit_ex(c, EVP_md5(), NULL));
	for (int i = 0; i < n_iov; i++)
		assert_true(EVP_DigestUpdate(c, iov[i].iov_base, iov[i].iov_len));
	assert_true(EVP_DigestFinal_ex(c, expected, NULL));
	EVP_MD_CTX_free(c);
	assert_memory_equal(digest, expected, MD5_BYTES);
}

static void check_all(const struct test_body *t, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		check_digest(t[i].body.digest, t[i].iov, t[i].body.n_iov);
}

/* RFC 1321, A.5. */
static void vectors_of_the_rfc_pass(void **state)
{
	static const struct {
		const char *text, *hex;
	} vector[] = {
	    {"", "d41d8cd98f00b204e9800998ecf8427e"},
	    {"a", "0cc175b9c0f1b6a831c399e269772661"},
	    {"abc", "900150983cd24fb0d6963f7d28e17f72"},
	    {"message digest", "f96b697d7cb7938d525a2f31aaf161d0"},
	    {"abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"},
	    {"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", "d174ab98d277d9f5a5611c2c9f419d9f"},
	    {"12345678901234567890123456789012345678901234567890123456789012345678901234567890",
	     "57edf4a22be3c955ac49da2e2107b67a"},
	};
	struct test_body t;
	char hex[2 * MD5_BYTES + 1];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(vector); i++) {
		one_piece(&t, vector[i].text, strlen(vector[i].text));
		sum(&t, 1);
		for (unsigned k = 0; k < MD5_BYTES; k++)
			snprintf(hex + 2 * k, 3, "%02x", t.body.digest[k]);
		assert_string_equal(hex, vector[i].hex);
	}
}

/* Lengths about two ends of blocks, each beside each other: lanes end one, two and no blocks apart. */
static void every_pair_of_short_lengths_is_right(void **state)
{
	uint8_t p[MD5_LANES][3 * BLOCK];
	struct test_body t[MD5_LANES];
	struct rng rng = {1};

	(void)state;
	fill(p, sizeof(p), &rng);
	for (size_t a = 0; a <= 2 * BLOCK + 2; a++)
		for (size_t b = 0; b <= 2 * BLOCK + 2; b++) {
			one_piece(&t[0], p[0], a);
			one_piece(&t[1], p[1], b);
			one_piece(&t[2], p[2], (a * 7 + b) % sizeof(p[2]));
			for (unsigned n = 1; n <= MD5_LANES; n++) {
				sum(t, n);
				check_all(t, n);
			}
		}
}

static void bodies_in_pieces_are_right(void **state)
{
	uint8_t p[MD5_LANES][40 * BLOCK];
	struct test_body t[MD5_LANES];
	struct rng rng = {test_seed(7)};

	(void)state;
	fill(p, sizeof(p), &rng);
	for (unsigned round = 0; round < 20000; round++) {
		unsigned n = 1 + round % MD5_LANES;

		for (unsigned i = 0; i < n; i++)
			many_pieces(&t[i], p[i], rng_below(&rng, sizeof(p[i]) + 1), &rng);
		sum(t, n);
		check_all(t, n);
	}
}

/* ---- sums ---- */

/* Time stands still unless a test moves it. */
struct stopped_clock {
	struct clock base;
	_Atomic int64_t mono_ns;
};
static int64_t stopped_mono(const struct clock *c)
{
	return atomic_load(&container_of(c, struct stopped_clock, base)->mono_ns);
}
static struct stopped_clock stopped = {.base = {.mono_ns = stopped_mono}};

/* One body, and a thread that begins it. */
struct sender {
	struct sums *sums;
	uint8_t *p;
	struct iovec iov[2];
	uint8_t digest[MD5_BYTES];
	pthread_t thread;
};

static void sender_make(struct sender *b, struct sums *s, size_t len, uint64_t seed)
{
	struct rng rng = {seed};

	*b = (struct sender){.sums = s, .p = malloc(len)};
	assert_non_null(b->p);
	memset(b->p, (int)rng_below(&rng, 256), len);
	fill(b->p, 1000, &rng);
	b->iov[0] = (struct iovec){b->p, 777};
	b->iov[1] = (struct iovec){b->p + 777, len - 777};
}

static void *sender_begin(void *ctx)
{
	struct sender *b = ctx;

	sums_begin(b->sums, b->iov, 2, b->digest);
	return NULL;
}

static void sender_start(struct sender *b)
{
	assert_int_equal(pthread_create(&b->thread, NULL, sender_begin, b), 0);
}

static void sender_join(struct sender *b)
{
	pthread_join(b->thread, NULL);
	check_digest(b->digest, b->iov, 2);
}

static void sender_end(struct sender *b)
{
	sums_end(b->sums, b->iov, 2);
	free(b->p);
}

static unsigned waiting(struct sums *s)
{
	mutex_lock(&s->lock);
	unsigned n = s->n_waiting;
	mutex_unlock(&s->lock);
	return n;
}

static void wait_until_waiting(struct sums *s, unsigned n)
{
	while (waiting(s) != n)
		usleep(MOMENT_US);
}

/* A body that is being sent, and the next, which waits. */
static void begin_two(struct sums *s, struct sender *a, struct sender *b)
{
	sums_init(s, &stopped.base);
	sender_make(a, s, LARGE, 1);
	sender_make(b, s, LARGE + 100, 2);
	sender_begin(a);
	check_digest(a->digest, a->iov, 2);
	sender_start(b);
	wait_until_waiting(s, 1);
	usleep(20 * MOMENT_US);
	assert_int_equal(waiting(s), 1);
}

static void small_bodies_never_wait(void **state)
{
	struct sender a, b, small;
	struct sums s;

	(void)state;
	begin_two(&s, &a, &b);
	sender_make(&small, &s, LARGE - 1, 3);
	sender_begin(&small);
	check_digest(small.digest, small.iov, 2);
	assert_int_equal(waiting(&s), 1);
	sender_end(&small);
	sender_end(&a);
	sender_join(&b);
	sender_end(&b);
	sums_destroy(&s);
}

static void a_body_waits_until_nothing_is_sent(void **state)
{
	struct sender a, b;
	struct sums s;

	(void)state;
	begin_two(&s, &a, &b);
	sender_end(&a);
	sender_join(&b);
	sender_end(&b);
	sums_destroy(&s);
}

static void a_body_waits_for_a_limited_time(void **state)
{
	struct sender a, b;
	struct sums s;

	(void)state;
	begin_two(&s, &a, &b);
	atomic_fetch_add(&stopped.mono_ns, SUMS_WAIT_NS);
	sender_join(&b);
	sender_end(&a);
	sender_end(&b);
	sums_destroy(&s);
}

static void as_many_as_go_together_do_not_wait(void **state)
{
	struct sender a, b[MD5_LANES];
	struct sums s;

	(void)state;
	begin_two(&s, &a, &b[0]);
	for (unsigned i = 1; i < MD5_LANES; i++) {
		sender_make(&b[i], &s, LARGE + 64 * (size_t)i, 10 + i);
		sender_start(&b[i]);
		if (i + 1 < MD5_LANES)
			wait_until_waiting(&s, i + 1);
	}
	for (unsigned i = 0; i < MD5_LANES; i++)
		sender_join(&b[i]);
	assert_int_equal(waiting(&s), 0);
	sender_end(&a);
	for (unsigned i = 0; i < MD5_LANES; i++)
		sender_end(&b[i]);
	sums_destroy(&s);
}

static void *send_many(void *ctx)
{
	struct sender *b = ctx;

	for (unsigned i = 0; i < 20; i++) {
		sender_begin(b);
		check_digest(b->digest, b->iov, 2);
		sums_end(b->sums, b->iov, 2);
		b->p[i * 100]++;
	}
	return NULL;
}

static void many_senders_get_their_own_sums(void **state)
{
	struct sender b[8];
	struct sums s;

	(void)state;
	sums_init(&s, &clock_system);
	for (unsigned i = 0; i < ARRAY_SIZE(b); i++) {
		sender_make(&b[i], &s, LARGE + 4096 * (size_t)i, 100 + i);
		assert_int_equal(pthread_create(&b[i].thread, NULL, send_many, &b[i]), 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(b); i++) {
		pthread_join(b[i].thread, NULL);
		free(b[i].p);
	}
	sums_destroy(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(vectors_of_the_rfc_pass),
	    cmocka_unit_test(every_pair_of_short_lengths_is_right),
	    cmocka_unit_test(bodies_in_pieces_are_right),
	    cmocka_unit_test(small_bodies_never_wait),
	    cmocka_unit_test(a_body_waits_until_nothing_is_sent),
	    cmocka_unit_test(a_body_waits_for_a_limited_time),
	    cmocka_unit_test(as_many_as_go_together_do_not_wait),
	    cmocka_unit_test(many_senders_get_their_own_sums),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
