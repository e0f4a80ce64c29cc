/* test_bitmap.c: a bitmap against an array of bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "fs/store/bitmap.h"
#include "tests/unit/tempdir.h"

#define BITS (3 * BITMAP_PAGE_BITS + 777)

static uint64_t naive_next_clear(const uint8_t *m, uint64_t from, uint64_t end)
{
	while (from < end && m[from])
		from++;
	return from;
}

static uint64_t naive_clear_run(const uint8_t *m, uint64_t from, uint64_t max, uint64_t n_bits)
{
	uint64_t n = 0;

	while (n < max && from + n < n_bits && !m[from + n])
		n++;
	return n;
}

static void check_counts(const struct bitmap *b, const uint8_t *m)
{
	uint64_t sum = 0;

	for (uint64_t page = 0; page < bitmap_pages(b); page++) {
		uint64_t in_page = 0, end = min_u64(b->n_bits, (page + 1) * BITMAP_PAGE_BITS);
		for (uint64_t i = page * BITMAP_PAGE_BITS; i < end; i++)
			in_page += m[i];
		assert_int_equal(b->page_set[page], in_page);
		sum += in_page;
	}
	assert_int_equal(b->n_set, sum);
}

static void random_ranges_match_an_array(void **state)
{
	uint8_t *m = calloc(1, BITS);
	struct bitmap b = {0};

	(void)state;
	srand((unsigned)test_seed(7));
	assert_int_equal(bitmap_grow(&b, 100), 0);
	for (int i = 0; i < 3000; i++) {
		uint64_t at = (uint64_t)rand() % b.n_bits, n = (uint64_t)rand() % (rand() % 4 ? 70 : 40000);
		n = min_u64(n, b.n_bits - at);
		switch (rand() % 6) {
		case 0:
		case 1:
			bitmap_set(&b, at, n);
			memset(m + at, 1, n);
			break;
		case 2:
			bitmap_clear(&b, at, n);
			memset(m + at, 0, n);
			break;
		case 3:
			assert_int_equal(bitmap_next_clear(&b, at, at + n), naive_next_clear(m, at, at + n));
			break;
		case 4:
			assert_int_equal(bitmap_clear_run(&b, at, n), naive_clear_run(m, at, n, b.n_bits));
			break;
		default:
			assert_int_equal(bitmap_test(&b, at), m[at]);
			if (i % 20 == 0)
				assert_int_equal(bitmap_grow(&b, min_u64(BITS, b.n_bits + (uint64_t)rand() % 20000)), 0);
		}
		uint64_t count = 0;
		for (uint64_t k = at; k < at + n && i % 10 == 0; k++)
			count += m[k];
		if (i % 10 == 0)
			assert_int_equal(bitmap_count(&b, at, n), count);
		if (i % 100 == 0)
			check_counts(&b, m);
	}
	bitmap_free(&b);
	free(m);
}

static void whole_pages_are_stepped_over(void **state)
{
	struct bitmap b = {0};

	(void)state;
	assert_int_equal(bitmap_grow(&b, BITS), 0);
	assert_int_equal(bitmap_clear_run(&b, 5, UINT64_MAX), BITS - 5);
	bitmap_set(&b, 0, BITS);
	assert_int_equal(bitmap_next_clear(&b, 0, BITS), BITS);
	bitmap_clear(&b, BITS - 1, 1);
	assert_int_equal(bitmap_next_clear(&b, 0, BITS), BITS - 1);
	assert_int_equal(bitmap_next_clear(&b, 0, BITS - 1), BITS - 1);
	bitmap_free(&b);
}

static void pages_go_out_and_come_back(void **state)
{
	struct bitmap b = {0}, c = {0};
	uint8_t bits[BITMAP_PAGE_BYTES];

	(void)state;
	assert_int_equal(bitmap_grow(&b, BITS), 0);
	assert_int_equal(bitmap_grow(&c, BITS), 0);
	for (uint64_t i = 0; i < BITS; i += 3 + i % 7)
		bitmap_set(&b, i, 1 + i % 2 * (i + 1 < BITS));
	for (uint64_t page = 0; page < bitmap_pages(&b); page++) {
		bitmap_page_get(&b, page, bits);
		assert_true(bitmap_page_put(&c, page, bits));
		assert_true(bitmap_page_put(&c, page, bits)); /* twice counts once */
	}
	assert_int_equal(b.n_set, c.n_set);
	for (uint64_t i = 0; i < BITS; i++)
		assert_int_equal(bitmap_test(&b, i), bitmap_test(&c, i));
	bitmap_free(&b);
	bitmap_free(&c);
}

static void pages_with_bits_past_the_end_are_refused(void **state)
{
	struct bitmap b = {0};
	uint8_t bits[BITMAP_PAGE_BYTES] = {0};

	(void)state;
	assert_int_equal(bitmap_grow(&b, 100), 0);
	bits[12] = 1 << 3; /* bit 99 */
	assert_true(bitmap_page_put(&b, 0, bits));
	bits[12] = 1 << 4; /* bit 100 */
	assert_false(bitmap_page_put(&b, 0, bits));
	assert_int_equal(b.n_set, 1);
	memset(bits, 0, sizeof(bits));
	assert_false(bitmap_page_put(&b, 1, bits));
	bitmap_free(&b);
}

int main(void)
{
	const struct CMUnitTest cases[] = {
	    cmocka_unit_test(random_ranges_match_an_array),
	    cmocka_unit_test(whole_pages_are_stepped_over),
	    cmocka_unit_test(pages_go_out_and_come_back),
	    cmocka_unit_test(pages_with_bits_past_the_end_are_refused),
	};

	return cmocka_run_group_tests(cases, NULL, NULL);
}
