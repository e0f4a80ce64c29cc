/* values.c: see values.h. */
#include "tier/values.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define PRICE_DIGITS 9
#define PRICE_UNIT   1000000000u /* 10 ^ PRICE_DIGITS */
#define PRICE_MAX    999999u

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}
static bool is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
static int hex_digit(char c)
{
	if (is_digit(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The number at the beginning of *text, which moves behind it. */
static bool read_digits(const char **text, uint64_t *ret)
{
	const char *p = *text;
	uint64_t n = 0;

	for (; is_digit(*p); p++)
		if (__builtin_mul_overflow(n, 10u, &n) || __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
			return false;
	if (p == *text)
		return false;
	*text = p;
	*ret = n;
	return true;
}

bool value_read_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	uint64_t n;

	if (!read_digits(&text, &n) || *text || n < min || n > max)
		return false;
	*ret = n;
	return true;
}

/* A number and one letter of `letters`, worth `units` each; no letter is a unit of 1. */
static bool read_with_unit(const char *text, const char *letters, const uint64_t *units, uint64_t *ret)
{
	const char *at;
	uint64_t n;

	if (!read_digits(&text, &n))
		return false;
	if (!*text) {
		*ret = n;
		return true;
	}
	at = strchr(letters, *text);
	return at && !text[1] && !__builtin_mul_overflow(n, units[at - letters], ret);
}

static const uint64_t size_units[] = {KIB, MIB, GIB, GIB * 1024, KIB, MIB, GIB, GIB * 1024};
static const uint64_t time_units[] = {1, 60, 3600, 86400, 7 * 86400};

bool value_read_size(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	uint64_t n;

	if (!read_with_unit(text, "KMGTkmgt", size_units, &n) || n < min || n > max)
		return false;
	*ret = n;
	return true;
}

/* The largest of the first n_units that goes into n without a rest; the number alone when none does. */
static void print_with_unit(uint64_t n, const char *letters, const uint64_t *units, int n_units, char *ret_text)
{
	for (int i = n_units - 1; i >= 0; i--)
		if (n && n % units[i] == 0) {
			snprintf(ret_text, VALUE_TEXT_MAX, "%ju%c", (uintmax_t)(n / units[i]), letters[i]);
			return;
		}
	snprintf(ret_text, VALUE_TEXT_MAX, "%ju", (uintmax_t)n);
}

void value_print_size(uint64_t bytes, char *ret_text)
{
	print_with_unit(bytes, "KMGT", size_units, 4, ret_text);
}

bool value_read_time(const char *text, uint64_t min_s, uint64_t max_s, int64_t *ret_ns)
{
	uint64_t s;

	if (!read_with_unit(text, "smhdw", time_units, &s) || s < min_s || s > max_s || s > INT64_MAX / NSEC_PER_SEC)
		return false;
	*ret_ns = (int64_t)s * NSEC_PER_SEC;
	return true;
}

void value_print_time(int64_t ns, char *ret_text)
{
	print_with_unit((uint64_t)(ns / NSEC_PER_SEC), "smhd", time_units, 4, ret_text);
}

bool value_read_switch(const char *text, bool *ret)
{
	bool on = strcmp(text, "on") == 0;

	if (!on && strcmp(text, "off") != 0)
		return false;
	*ret = on;
	return true;
}

/* One price, in units of 10^-9 dollars, so that it is exact both ways. */
static bool read_price(const char **text, uint64_t *ret)
{
	uint64_t whole, rest = 0;

	if (!read_digits(text, &whole) || whole > PRICE_MAX)
		return false;
	if (**text == '.') {
		const char *from = ++*text;
		if (!read_digits(text, &rest) || *text - from > PRICE_DIGITS)
			return false;
		for (ptrdiff_t i = *text - from; i < PRICE_DIGITS; i++)
			rest *= 10;
	}
	*ret = whole * PRICE_UNIT + rest;
	return true;
}

bool value_read_prices(const char *text, double ret[3])
{
	uint64_t n[3];

	for (int i = 0; i < 3; i++) {
		if (!read_price(&text, &n[i]) || *text != (i < 2 ? ':' : '\0'))
			return false;
		text++;
	}
	for (int i = 0; i < 3; i++)
		ret[i] = (double)n[i] / PRICE_UNIT;
	return true;
}

void value_print_prices(const double prices[3], char *ret_text)
{
	size_t len = 0;

	for (int i = 0; i < 3; i++) {
		uint64_t n = (uint64_t)llround(fmin(fmax(prices[i], 0), PRICE_MAX + 1) * PRICE_UNIT);
		char rest[PRICE_DIGITS + 1];
		size_t digits = PRICE_DIGITS;

		snprintf(rest, sizeof(rest), "%09u", (unsigned)(n % PRICE_UNIT));
		while (digits && rest[digits - 1] == '0')
			digits--;
		rest[digits] = '\0';
		len += (size_t)snprintf(ret_text + len, VALUE_TEXT_MAX - len, "%s%ju%s%s", i ? ":" : "",
					(uintmax_t)(n / PRICE_UNIT), digits ? "." : "", rest);
	}
}

/* Without the escapes; false: one that is no escape, a NUL, or no room. */
static bool unescape(const char *text, char *ret, size_t cap)
{
	size_t len = 0;

	for (; *text; text++) {
		int c = (unsigned char)*text;
		if (c == '%') {
			int high = hex_digit(text[1]), low = high < 0 ? -1 : hex_digit(text[2]);
			if (low < 0)
				return false;
			c = high * 16 + low;
			text += 2;
		}
		if (!c || len + 1 >= cap)
			return false;
		ret[len++] = (char)c;
	}
	ret[len] = '\0';
	return true;
}

bool value_read_path(const char *text, char *ret, size_t cap)
{
	char raw[1024], path[1024];
	size_t len = 0;

	if (!unescape(text, raw, sizeof(raw)) || raw[0] != '/')
		return false;
	for (const char *p = raw; *p;) {
		size_t n;

		while (*p == '/')
			p++;
		n = strcspn(p, "/");
		if (!n)
			break;
		if (p[0] == '.' && (n == 1 || (n == 2 && p[1] == '.')))
			return false;
		path[len++] = '/';
		memcpy(path + len, p, n);
		len += n;
		p += n;
	}
	if (!len || len >= cap)
		return false;
	memcpy(ret, path, len);
	ret[len] = '\0';
	return true;
}

void value_print_path(const char *path, char *ret_text)
{
	for (; *path; path++)
		if (is_letter(*path) || is_digit(*path) || strchr("/._-+@,:=~", *path))
			*ret_text++ = *path;
		else
			ret_text += sprintf(ret_text, "%%%02X", (unsigned char)*path);
	*ret_text = '\0';
}

bool value_read_word(const char *text, const char *others, char *ret, size_t cap)
{
	size_t len = strlen(text);

	if (!len || len >= cap)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!is_letter(text[i]) && !is_digit(text[i]) && !strchr(others, text[i]))
			return false;
	memcpy(ret, text, len + 1);
	return true;
}

/* Where the host that begins at p ends; NULL when it is none. */
static const char *host_end(const char *p)
{
	const char *from = p;

	if (*p == '[') {
		while (hex_digit(*++p) >= 0 || *p == ':' || *p == '.')
			;
		return *p == ']' && p > from + 2 ? p + 1 : NULL;
	}
	for (; is_letter(*p) || is_digit(*p) || *p == '-' || *p == '.'; p++)
		if ((p == from || p[-1] == '.') && (*p == '-' || *p == '.'))
			return NULL;
	return p > from ? p : NULL;
}

bool value_read_endpoint(const char *text, char *ret, size_t cap)
{
	size_t len = strlen(text);
	const char *p = text;
	uint64_t port;

	if (strncmp(p, "https://", 8) == 0)
		p += 8;
	else if (strncmp(p, "http://", 7) == 0)
		p += 7;
	else
		return false;
	p = host_end(p);
	if (!p)
		return false;
	if (*p == ':') {
		p++;
		if (!read_digits(&p, &port) || !port || port > 65535)
			return false;
	}
	if (*p == '/') {
		p++;
		len--;
	}
	if (*p || len >= cap)
		return false;
	memcpy(ret, text, len);
	ret[len] = '\0';
	return true;
}

bool value_each_word(const char *text, bool (*fn)(void *ctx, const char *word), void *ctx)
{
	while (*text) {
		char word[VALUE_WORD_MAX + 1];
		size_t n = strcspn(text, " ");

		if (n > VALUE_WORD_MAX)
			return false;
		memcpy(word, text, n);
		word[n] = '\0';
		if (n > 0 && !fn(ctx, word))
			return false;
		text += n + (text[n] == ' ');
	}
	return true;
}

bool value_of_word(const char *word, const char *name, const char **ret_value)
{
	size_t n = strlen(name);
	bool is = strncmp(word, name, n) == 0 && word[n] == '=';

	if (is)
		*ret_value = word + n + 1;
	return is;
}
