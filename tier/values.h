/*
 * values.h: the values of a store's options as text and back: numbers, sizes, times, prices, paths.
 *
 * Every reader takes the whole word or nothing: false leaves *ret as it was.  Every printer writes what its reader takes back to
 * the same value, and ends it with NUL; rooms are VALUE_TEXT_MAX unless said otherwise.
 * Threads: no state.  No locale: a decimal point is a point.
 */
#pragma once

#include "base/util.h"

#define VALUE_TEXT_MAX 80u

/* Calls fn for each word of `text`, with blanks between them: false when fn says so, or when one has more than VALUE_WORD_MAX bytes. */
#define VALUE_WORD_MAX 63u
MUST_CHECK bool value_each_word(const char *text, bool (*fn)(void *ctx, const char *word), void *ctx);
/* Whether `word` is NAME=VALUE; *ret_value borrows from it. */
MUST_CHECK bool value_of_word(const char *word, const char *name, const char **ret_value);
/* Decimal digits only. */
MUST_CHECK bool value_read_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret);
/* Digits and one of K, M, G, T (powers of 1024, either case) or none. */
MUST_CHECK bool value_read_size(const char *text, uint64_t min, uint64_t max, uint64_t *ret);
void value_print_size(uint64_t bytes, char *ret_text);
/* Digits and one of s, m, h, d, w, or none for seconds; limits in seconds, the value in nanoseconds. */
MUST_CHECK bool value_read_time(const char *text, uint64_t min_s, uint64_t max_s, int64_t *ret_ns);
void value_print_time(int64_t ns, char *ret_text);
MUST_CHECK bool value_read_switch(const char *text, bool *ret); /* "on", "off" */
/* Dollars as "A:B:C": each up to six digits, and up to nine behind a point. */
MUST_CHECK bool value_read_prices(const char *text, double ret[3]);
void value_print_prices(const double prices[3], char *ret_text);
/*
 * An absolute path with %XX for bytes that a word cannot hold: slashes once, none at the end, no part "." or "..", not "/" itself.
 * The text has room for three times the path.
 */
MUST_CHECK bool value_read_path(const char *text, char *ret, size_t cap);
void value_print_path(const char *path, char *ret_text);
/* 1 to cap - 1 letters, digits, or bytes of `others`. */
MUST_CHECK bool value_read_word(const char *text, const char *others, char *ret, size_t cap);
/* "http://HOST[:PORT]" or "https://...", HOST a name, an IPv4 address or an IPv6 one in brackets; a slash at the end goes. */
MUST_CHECK bool value_read_endpoint(const char *text, char *ret, size_t cap);
