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

static void facts_print_at(const json_t *value, const char *name, int indent);

static void list_print(const json_t *list, const char *name, int indent)
{
	size_t i;
	json_t *item;

	printf("%*s%s\n", indent, "", name);
	json_array_foreach(list, i, item) facts_print_at(item, "-", indent + 2);
}

static void facts_print_at(const json_t *value, const char *name, int indent)
{
	char text[96];
	const char *key;
	json_t *member;

	switch (json_typeof(value)) {
	case JSON_OBJECT:
		printf("%*s%s\n", indent, "", name);
		json_object_foreach((json_t *)(uintptr_t)value, key, member) facts_print_at(member, key, indent + 2);
		return;
	case JSON_ARRAY:
		list_print(value, name, indent);
		return;
	case JSON_STRING:
		printf("%*s%-*s %s\n", indent, "", 28 - indent, name, json_string_value(value));
		return;
	case JSON_INTEGER:
		integer_text(name, json_integer_value(value), text, sizeof(text));
		break;
	case JSON_REAL:
		snprintf(text, sizeof(text), "%.3f", json_real_value(value));
		break;
	default:
		snprintf(text, sizeof(text), "%s", json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-");
	}
	printf("%*s%-*s %s\n", indent, "", 28 - indent, name, text);
}

void facts_print(const json_t *object)
{
	const char *key;
	json_t *member;

	json_object_foreach((json_t *)(uintptr_t)object, key, member) facts_print_at(member, key, 0);
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
