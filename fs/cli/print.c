/*
 * print.c: facts for people.
 *
 * `status` and `info` have one source, a JSON object; the table for people is made from it, so that both always show the
 * same facts under the same names.  A number's unit is the end of its name: _bytes, _ns, _blocks.
 */
#include "fs/cli/cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/printable.h"
#include "journal/pointer.h"

void size_text(uint64_t bytes, char *ret_text, size_t cap)
{
	static const char units[] = "BKMGTPE";
	unsigned unit = 0;
	double n = (double)bytes;

	for (; n >= 1024 && units[unit + 1]; unit++)
		n /= 1024;
	if (unit == 0)
		snprintf(ret_text, cap, "%" PRIu64 " bytes", bytes);
	else
		snprintf(ret_text, cap, n == (double)(uint64_t)n ? "%.0f%c" : "%.1f%c", n, units[unit]);
}

static void time_text(int64_t ns, char *ret_text, size_t cap)
{
	double s = (double)ns / (double)NSEC_PER_SEC;

	if (s >= 1 || s == 0)
		snprintf(ret_text, cap, "%.1f s", s);
	else if (s >= 1e-3)
		snprintf(ret_text, cap, "%.1f ms", s * 1e3);
	else
		snprintf(ret_text, cap, "%.1f us", s * 1e6);
}

static bool ends_in(const char *name, const char *end)
{
	size_t n = strlen(name), m = strlen(end);

	return n >= m && strcmp(name + n - m, end) == 0;
}

static void integer_text(const char *name, json_int_t n, char *ret_text, size_t cap)
{
	char human[48];

	if (ends_in(name, "bytes") && n >= 1024)
		size_text((uint64_t)n, human, sizeof(human));
	else if (ends_in(name, "_blocks") && n > 0)
		size_text((uint64_t)n * BLOCK_SIZE, human, sizeof(human));
	else if (ends_in(name, "_ns") && n > 0 && n < 1000000 * NSEC_PER_SEC)
		time_text(n, human, sizeof(human));
	else
		*human = '\0';
	snprintf(ret_text, cap, *human ? "%" JSON_INTEGER_FORMAT " (%s)" : "%" JSON_INTEGER_FORMAT, n, human);
}

void text_print(const char *text)
{
	CLEANUP_FREE char *line = strdup(text);

	if (line)
		make_printable(line);
	fputs(line ? line : "?", stdout);
}

const char *path_text(const json_t *path)
{
	const char *text = json_string_value(json_is_object(path) ? json_object_get(path, "hex") : path);

	return text ? text : "";
}

/* A value in words; borrowed from it or written to `text`. */
static const char *value_text(const char *name, const json_t *value, char *text, size_t cap)
{
	switch (json_typeof(value)) {
	case JSON_STRING:
		return *json_string_value(value) ? json_string_value(value) : "-";
	case JSON_INTEGER:
		integer_text(name, json_integer_value(value), text, cap);
		return text;
	case JSON_REAL:
		snprintf(text, cap, "%.3f", json_real_value(value));
		return text;
	default:
		return json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-";
	}
}

/* "name  key=value key=value": what lies deeper than a section has one line. */
static void line_print(const char *name, const json_t *object)
{
	char text[96];
	const char *key;
	json_t *member;

	printf("  %-26s", name);
	json_object_foreach((json_t *)(uintptr_t)object, key, member)
	{
		printf(" %s=", key);
		text_print(value_text(key, member, text, sizeof(text)));
	}
	putchar('\n');
}

static void row_print(int indent, const char *key, const char *value)
{
	printf("%*s%-*s ", indent, "", 28 - indent, key);
	text_print(value);
	putchar('\n');
}

static void section_print(const char *name, const json_t *object)
{
	char text[96];
	const char *key;
	json_t *member;

	printf("%s\n", name);
	json_object_foreach((json_t *)(uintptr_t)object, key, member)
	{
		if (json_is_object(member))
			line_print(key, member);
		else
			row_print(2, key, value_text(key, member, text, sizeof(text)));
	}
}

void facts_print(const json_t *object)
{
	char text[96];
	const char *key;
	json_t *member;

	json_object_foreach((json_t *)(uintptr_t)object, key, member)
	{
		if (json_is_object(member))
			section_print(key, member);
		else
			row_print(0, key, value_text(key, member, text, sizeof(text)));
	}
}

json_t *bytes_json(struct slice s)
{
	json_t *text = json_stringn(s.len ? s.p : "", s.len);

	if (text)
		return text;
	struct buf hex = {0};
	for (size_t i = 0; i < s.len; i++)
		buf_printf(&hex, "%02x", ((const uint8_t *)s.p)[i]);
	text = hex.failed ? json_null() : json_stringn((const char *)hex.p, hex.len);
	buf_free(&hex);
	return text;
}

void json_print(const json_t *object)
{
	json_dumpf(object, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
	putchar('\n');
}
