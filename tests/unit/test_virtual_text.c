/*
 * test_virtual_text.c: the texts of generated files (virtual_text.c): numbers, references, bounds.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/face/virtual.h"
#include "tests/lib/rng.h"

#define ROW 3u

static struct virtual_texts *texts;

static int make(void **state)
{
	(void)state;
	return virtual_texts_new(&texts);
}

static int drop(void **state)
{
	(void)state;
	texts = virtual_texts_free(texts);
	return 0;
}

static uint64_t add(size_t len, uint8_t fill)
{
	struct buf b = {0};
	uint64_t ino = 0;

	if (len)
		memset(buf_grow(&b, len), fill, len);
	assert_int_equal(virtual_text_add(texts, ROW, &b, &ino), 0);
	assert_null(b.p);
	return ino;
}

static int read_one(uint64_t ino)
{
	uint8_t byte;
	size_t len = 0;

	return virtual_text_read(texts, ino, 0, 1, &byte, &len);
}

static void numbers_are_of_their_row_grow_and_never_come_back(void **state)
{
	uint64_t before = 0;

	(void)state;
	for (int i = 0; i < 1000; i++) {
		uint64_t ino = add(1, 0);

		assert_true(virtual_is(ino));
		assert_int_equal(virtual_row_of(ino), ROW);
		assert_true(ino > before);
		before = ino;
		virtual_text_forget(texts, ino, 1);
		assert_int_equal(read_one(ino), -ESTALE);
	}
}

static void no_inode_of_a_volume_has_such_a_number(void **state)
{
	(void)state;
	assert_false(virtual_is(FS_ROOT_INO));
	assert_false(virtual_is((UINT64_C(1) << 62) - 1));
	for (unsigned row = 0; row < n_virtual_rows; row++)
		assert_true(virtual_ino(row, 0) >= UINT64_C(1) << 63);
	assert_true(n_virtual_rows <= 128);
	assert_int_equal(virtual_row_of(virtual_ino(127, UINT64_MAX)), 127);
}

static void a_text_is_read_at_every_place_and_ends_where_it_ends(void **state)
{
	uint8_t got[16];

	(void)state;
	struct buf b = {0};
	buf_printf(&b, "0123456789");
	uint64_t ino;
	assert_int_equal(virtual_text_add(texts, ROW, &b, &ino), 0);
	for (uint64_t off = 0; off < 14; off++)
		for (size_t cap = 0; cap < 14; cap++) {
			size_t len = 99, want = off < 10 ? min_u64(cap, 10 - off) : 0;

			assert_int_equal(virtual_text_read(texts, ino, off, cap, got, &len), 0);
			assert_int_equal(len, want);
			if (want)
				assert_memory_equal(got, &"0123456789"[off], want);
		}
	size_t len = 1;
	assert_int_equal(virtual_text_read(texts, ino, UINT64_MAX, 1, got, &len), 0);
	assert_int_equal(len, 0);
}

static void an_empty_text_is_a_text(void **state)
{
	uint64_t size = 1, ino = add(0, 0);
	int64_t made_ns = 0;

	(void)state;
	assert_int_equal(virtual_text_stat(texts, ino, &size, &made_ns), 0);
	assert_int_equal(size, 0);
	assert_true(made_ns > 0);
	assert_int_equal(read_one(ino), 0);
}

static void a_text_goes_with_its_last_reference(void **state)
{
	uint64_t ino = add(1, 0);

	(void)state;
	virtual_text_ref(texts, ino);
	virtual_text_ref(texts, ino);
	virtual_text_forget(texts, ino, 2);
	assert_int_equal(read_one(ino), 0);
	virtual_text_forget(texts, ino, UINT64_MAX);
	assert_int_equal(read_one(ino), -ESTALE);
	virtual_text_forget(texts, ino, 1);
	virtual_text_ref(texts, ino);
	assert_int_equal(read_one(ino), -ESTALE);
}

static void beyond_the_bound_of_texts_the_oldest_go(void **state)
{
	uint64_t ino[3 * VIRTUAL_TEXTS_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ino); i++) {
		ino[i] = add(10, (uint8_t)i);
		assert_int_equal(read_one(ino[i]), 0);
		if (i >= VIRTUAL_TEXTS_MAX)
			assert_int_equal(read_one(ino[i - VIRTUAL_TEXTS_MAX]), -ESTALE);
		if (i >= VIRTUAL_TEXTS_MAX - 1)
			assert_int_equal(read_one(ino[i - VIRTUAL_TEXTS_MAX + 1]), 0);
	}
}

static void beyond_the_bound_of_bytes_the_oldest_go_and_the_newest_stays(void **state)
{
	const size_t half = VIRTUAL_BYTES_MAX / 2;

	(void)state;
	uint64_t a = add(half, 1), b = add(half, 2);
	assert_int_equal(read_one(a), 0);
	uint64_t c = add(1, 3);
	assert_int_equal(read_one(a), -ESTALE);
	assert_int_equal(read_one(b), 0);
	uint64_t d = add(2 * VIRTUAL_BYTES_MAX, 4);
	assert_int_equal(read_one(b), -ESTALE);
	assert_int_equal(read_one(c), -ESTALE);
	assert_int_equal(read_one(d), 0);
}

/* Against a list that does the same in the simplest way. */
static void any_order_of_adding_and_forgetting_keeps_the_newest(void **state)
{
	struct {
		uint64_t ino;
		bool there;
	} all[4000];
	size_t n = 0;
	const char *given = getenv("SEED");
	uint64_t seed = given ? strtoull(given, NULL, 10) : 1;

	(void)state;
	print_message("SEED=%llu\n", (unsigned long long)seed);
	struct rng rng = {seed};
	while (n < ARRAY_SIZE(all)) {
		if (n == 0 || rng_percent(&rng, 60)) {
			all[n].ino = add(1 + rng_below(&rng, 100), 0);
			all[n++].there = true;
		} else {
			size_t i = n - 1 - rng_below(&rng, min_u64(n, 2 * VIRTUAL_TEXTS_MAX));

			if (all[i].there)
				virtual_text_forget(texts, all[i].ino, 1);
			all[i].there = false;
		}
		for (size_t i = n, newer = 0; i-- > 0 && newer <= VIRTUAL_TEXTS_MAX;) {
			if (all[i].there && newer < VIRTUAL_TEXTS_MAX / 2)
				assert_int_equal(read_one(all[i].ino), 0);
			if (!all[i].there)
				assert_int_equal(read_one(all[i].ino), -ESTALE);
			newer += all[i].there;
		}
	}
	for (size_t i = 0; i < n; i++)
		if (all[i].there)
			virtual_text_forget(texts, all[i].ino, 1);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(read_one(all[i].ino), -ESTALE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(numbers_are_of_their_row_grow_and_never_come_back, make, drop),
	    cmocka_unit_test_setup_teardown(no_inode_of_a_volume_has_such_a_number, make, drop),
	    cmocka_unit_test_setup_teardown(a_text_is_read_at_every_place_and_ends_where_it_ends, make, drop),
	    cmocka_unit_test_setup_teardown(an_empty_text_is_a_text, make, drop),
	    cmocka_unit_test_setup_teardown(a_text_goes_with_its_last_reference, make, drop),
	    cmocka_unit_test_setup_teardown(beyond_the_bound_of_texts_the_oldest_go, make, drop),
	    cmocka_unit_test_setup_teardown(beyond_the_bound_of_bytes_the_oldest_go_and_the_newest_stays, make, drop),
	    cmocka_unit_test_setup_teardown(any_order_of_adding_and_forgetting_keeps_the_newest, make, drop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
