/*
 * test_pack_memory.c: pack.h without memory or random numbers: each allocation fails once, nothing is lost or left behind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <zstd.h>

#include "tests/unit/pack_case.h"

/* ---- memory and random numbers that run out ---- */

static __thread unsigned fail_at; /* the n-th call from now, 1: the next; 0: none */
static __thread bool no_compressing;

static bool fails(void)
{
	return fail_at > 0 && --fail_at == 0;
}

/* clang-format off */
#define ALLOCATOR(type, name, parameters, arguments)         \
	type __real_##name parameters;                       \
	type __wrap_##name parameters;                       \
	type __wrap_##name parameters                        \
	{                                                    \
		return fails() ? NULL : __real_##name arguments; \
	}
ALLOCATOR(void *, malloc, (size_t n), (n))
ALLOCATOR(void *, calloc, (size_t n, size_t size), (n, size))
ALLOCATOR(void *, realloc, (void *p, size_t n), (p, n))
ALLOCATOR(ZSTD_CCtx *, ZSTD_createCCtx, (void), ())
ALLOCATOR(ZSTD_DCtx *, ZSTD_createDCtx, (void), ())
ALLOCATOR(EVP_CIPHER_CTX *, EVP_CIPHER_CTX_new, (void), ())
/* clang-format on */

size_t __real_ZSTD_compress2(ZSTD_CCtx *c, void *to, size_t cap, const void *from, size_t n);
size_t __wrap_ZSTD_compress2(ZSTD_CCtx *c, void *to, size_t cap, const void *from, size_t n);
size_t __wrap_ZSTD_compress2(ZSTD_CCtx *c, void *to, size_t cap, const void *from, size_t n)
{
	return no_compressing ? (size_t)-64 /* ZSTD_error_memory_allocation */ : __real_ZSTD_compress2(c, to, cap, from, n);
}

static int random_fails(void *p, size_t n)
{
	return fails() ? -EIO : packs_random(p, n);
}

static void a_writer_that_cannot_be_made_leaves_nothing(void **state)
{
	struct pack_config c = packs_config(true);
	struct pack_writer *w = NULL;
	unsigned n = 0;
	int r;

	(void)state;
	c.random = random_fails;
	do {
		fail_at = ++n;
		r = pack_writer_new(&c, &w);
		bool reached = fail_at == 0;
		fail_at = 0;
		assert_int_equal(r == 0, !reached);
		assert_true(r == 0 || r == -ENOMEM || r == -EIO);
		assert_true(r == 0 || !w);
	} while (r < 0);
	/* The writer, its bytes, zstd; key and nonce; one context to seal the key and one for the frames. */
	assert_int_equal(n, 7 + 1);
	pack_writer_free(w);
}

static void a_leaf_that_found_no_memory_can_be_added_again(void **state)
{
	struct pack_writer *w = writer(true);
	struct pack_place at = {0}, next;
	unsigned failed = 0;

	(void)state;
	fill_blocks(1, FILL_NOISE, blocks, sizeof(blocks));
	for (unsigned i = 0; i < 100; i++) {
		fail_at = 1;
		int r = pack_add(w, 1, i, UINT16_MAX, blocks, &next);
		fail_at = 0;
		if (r < 0) {
			assert_int_equal(r, -ENOMEM);
			failed++;
			next = add(w, 1, i, UINT16_MAX);
		}
		assert_int_equal(next.offset, i == 0 ? PACK_HEADER_BYTES : at.offset + at.len);
		at = next;
	}
	assert_int_equal(failed, 3); /* at 1, 2 and 4 MiB */
	struct finished f = finish(w);
	reads_as(&f, &at, 1, 99, UINT16_MAX);
	pack_writer_free(w);
}

static void zstd_without_memory_stores_leaves_as_they_are(void **state)
{
	struct pack_writer *w = writer(true);

	(void)state;
	fill_blocks(1, FILL_TEXT, blocks, sizeof(blocks));
	no_compressing = true;
	struct pack_place at = add(w, 1, 0, UINT16_MAX);
	no_compressing = false;
	assert_int_equal(at.len, PACK_FRAME_MAX_BYTES);
	struct finished f = finish(w);
	reads_as(&f, &at, 1, 0, UINT16_MAX);
	pack_writer_free(w);
}

struct starved {
	const struct finished *f;
	const struct pack_place *at;
	unsigned n; /* call that fails */
	int first, second;
	int walked, header;
};

static int count_walked(void *ctx, const struct pack_place *place, const struct pack_frame *f, int error, const uint8_t *data)
{
	(void)ctx, (void)place, (void)f, (void)data;
	return error;
}

/* On a thread that has read nothing yet, and then once more. */
static void *read_starved(void *ctx)
{
	struct starved *s = ctx;
	static uint8_t own[PACK_LEAF_BYTES];
	struct pack_frame frame;
	struct pack_header h;

	fail_at = s->n;
	s->first = pack_read_frame(&s->f->key, s->at->offset, s->f->p + s->at->offset, s->at->len, &frame, own);
	fail_at = 0;
	s->second = pack_read_frame(&s->f->key, s->at->offset, s->f->p + s->at->offset, s->at->len, &frame, own);
	fail_at = 1;
	s->walked = pack_walk(&s->f->key, s->f->p, s->f->len, count_walked, NULL);
	fail_at = 0;
	s->header = pack_verify_header(&s->f->key, s->f->p, &h);
	return NULL;
}

static void a_reader_without_memory_says_so_and_reads_later(void **state)
{
	struct pack_writer *w = writer(true);

	(void)state;
	fill_blocks(1, FILL_TEXT, blocks, sizeof(blocks));
	struct pack_place at = add(w, 1, 0, UINT16_MAX);
	struct finished f = finish(w);
	for (unsigned n = 1; n <= 4; n++) {
		struct starved s = {.f = &f, .at = &at, .n = n};
		pthread_t t;

		assert_int_equal(pthread_create(&t, NULL, read_starved, &s), 0);
		pthread_join(t, NULL);
		assert_int_equal(s.first, n <= 3 ? -ENOMEM : 0); /* the thread's own, OpenSSL's, zstd's */
		assert_int_equal(s.second, 0);
		assert_int_equal(s.walked, -ENOMEM);
		assert_int_equal(s.header, 0);
	}
	fail_at = 1;
	struct pack_key k = {.object = 1};
	assert_int_equal(pack_unseal(packs_volume, PACKS_OBJECT, &packs_key, f.sealed, &k), -ENOMEM);
	fail_at = 0;
	assert_int_equal(k.object, 1);
	pack_writer_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_writer_that_cannot_be_made_leaves_nothing),
	    cmocka_unit_test(a_leaf_that_found_no_memory_can_be_added_again),
	    cmocka_unit_test(zstd_without_memory_stores_leaves_as_they_are),
	    cmocka_unit_test(a_reader_without_memory_says_so_and_reads_later),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
