/*
 * test_printable.c: base/printable.h against jansson, which takes a text as JSON only when it is UTF-8: every character there is,
 * all pairs of bytes, and all that four bytes of the edges of the ranges make.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdbool.h>
#include <string.h>

#include "base/log.h"
#include "base/printable.h"

static bool is_utf8(const char *text)
{
	json_t *j = json_string(text);
	const bool is = j != NULL;

	json_decref(j);
	return is;
}

static bool has_control(const char *text)
{
	for (const unsigned char *s = (const void *)text; *s; s++)
		if (*s < 0x20 || *s == 0x7f || (*s == 0xc2 && s[1] >= 0x80 && s[1] < 0xa0))
			return true;
	return false;
}

/* What holds for any text. */
static void check(const char *text)
{
	const bool good = is_utf8(text) && !has_control(text);
	char after[64];

	strcpy(after, text);
	make_printable(after);
	assert_int_equal(strlen(after), strlen(text));
	assert_true(is_utf8(after));
	assert_false(has_control(after));
	if (good)
		assert_string_equal(after, text);
	else
		assert_string_not_equal(after, text);
	for (size_t i = 0; text[i]; i++) /* nothing but question marks comes in */
		assert_true(after[i] == text[i] || after[i] == '?');
}

static void every_character(void **state)
{
	(void)state;
	for (uint32_t c = 1; c < 0x110000; c++) {
		char text[8] = "";
		size_t n = 0;

		if (c < 0x80) {
			text[n++] = (char)c;
		} else if (c < 0x800) {
			text[n++] = (char)(0xc0 | c >> 6);
			text[n++] = (char)(0x80 | (c & 63));
		} else if (c < 0x10000) {
			text[n++] = (char)(0xe0 | c >> 12);
			text[n++] = (char)(0x80 | (c >> 6 & 63));
			text[n++] = (char)(0x80 | (c & 63));
		} else {
			text[n++] = (char)(0xf0 | c >> 18);
			text[n++] = (char)(0x80 | (c >> 12 & 63));
			text[n++] = (char)(0x80 | (c >> 6 & 63));
			text[n++] = (char)(0x80 | (c & 63));
		}
		text[n] = 'z';
		check(text);
		text[n - 1] = '\0'; /* cut off */
		if (n > 1)
			check(text);
	}
}

static void every_pair_of_bytes(void **state)
{
	(void)state;
	for (unsigned a = 1; a < 256; a++)
		for (unsigned b = 0; b < 256; b++)
			check((const char[]){(char)a, (char)b, '\0'});
}

static void four_bytes_at_the_edges_of_the_ranges(void **state)
{
	static const unsigned char edges[] = {0x00, 0x1f, 'a',  0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2,
					      0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf4, 0xf5, 0xff};
	const size_t n = sizeof(edges);

	(void)state;
	for (size_t i = 0; i < n * n * n * n; i++)
		check((const char[]){(char)edges[i % n], (char)edges[i / n % n], (char)edges[i / n / n % n],
				     (char)edges[i / n / n / n], '\0'});
}

static void a_log_line_is_one_line_of_text_also_where_it_is_cut_off(void **state)
{
	char last[512], name[1024];

	(void)state;
	log_setup(LOG_LEVEL_ERROR, false);
	for (size_t len = 500; len < 520; len++) {
		for (size_t i = 0; i + 1 < sizeof(name); i++)
			name[i] = i < len ? 'a' : "\xc3\xa9"[(i - len) % 2];
		name[len + 10] = '\0';
		log_error("damaged: %s\n\033[2J\xff", name);
		log_last_error(last, sizeof(last));
		assert_true(is_utf8(last));
		assert_false(has_control(last));
	}
	log_error("/a\nclawfs: info: all is well");
	log_last_error(last, sizeof(last));
	assert_string_equal(last, "/a?clawfs: info: all is well");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_character),
	    cmocka_unit_test(every_pair_of_bytes),
	    cmocka_unit_test(four_bytes_at_the_edges_of_the_ranges),
	    cmocka_unit_test(a_log_line_is_one_line_of_text_also_where_it_is_cut_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
