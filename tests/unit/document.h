/*
 * document.h: a document's tables against the structures: every field's name, offset and size, and every constant.
 *
 * A table of fields begins with "| offset | size | field |" and belongs to the `struct NAME` mentioned last before it; one of
 * constants begins with "| constant | value |".  The lists of a test name what must be in the document; a field that was added to a
 * structure and not to its list leaves a gap, which is a failure too.
 */
#pragma once

#include <ctype.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

#define MEMBERS_MAX 28
struct member {
	const char *name;
	size_t offset, size;
	unsigned seen;
};
struct layout {
	const char *name;
	size_t size;
	struct member m[MEMBERS_MAX]; /* up to the first without a name */
};
struct constant {
	const char *name;
	uint64_t value;
	unsigned seen;
};
struct document {
	const char *path;
	struct layout *layouts;
	size_t n_layouts;
	struct constant *constants;
	size_t n_constants;
	unsigned wrong; /* findings so far, a line each on standard error */
	unsigned line_no;
};

#define STRUCT(s, ...) {#s, sizeof(struct s), {__VA_ARGS__}}
#define M(s, f) {#f, offsetof(struct s, f), sizeof(((struct s *)NULL)->f), 0}
#define CONSTANT(c) {#c, (c), 0}

static inline void document_complain(struct document *d, const char *fmt, ...) PRINTF_LIKE(2, 3);
static inline void document_complain(struct document *d, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s:%u: ", d->path, d->line_no);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	d->wrong++;
}

/* The next cell of a table's row, without blanks, backticks and a [count]; NULL at the end. */
static inline char *document_cell(char **at)
{
	char *p = *at, *end = p ? strchr(p, '|') : NULL;

	if (!end)
		return NULL;
	*at = end + 1;
	*end = '\0';
	while (*p == ' ' || *p == '`')
		p++;
	p[strcspn(p, " `[")] = '\0';
	return p;
}

static inline struct layout *document_layout(struct document *d, const char *name)
{
	for (size_t i = 0; i < d->n_layouts; i++)
		if (strcmp(d->layouts[i].name, name) == 0)
			return &d->layouts[i];
	return NULL;
}

static inline struct member *document_member(struct layout *l, const char *name)
{
	for (size_t i = 0; i < MEMBERS_MAX && l->m[i].name; i++)
		if (strcmp(l->m[i].name, name) == 0)
			return &l->m[i];
	return NULL;
}

static inline void document_field_row(struct document *d, struct layout *l, char *at)
{
	char *offset = document_cell(&at), *size = document_cell(&at), *name = document_cell(&at);
	struct member *m = name ? document_member(l, name) : NULL;

	if (!m) {
		document_complain(d, "struct %s has no field '%s'", l->name, name ? name : "");
		return;
	}
	m->seen++;
	if (!isdigit((unsigned char)*offset) || strtoull(offset, NULL, 0) != m->offset)
		document_complain(d, "%s.%s is at offset %zu, the document says %s", l->name, name, m->offset, offset);
	if (!isdigit((unsigned char)*size) || strtoull(size, NULL, 0) != m->size)
		document_complain(d, "%s.%s has %zu bytes, the document says %s", l->name, name, m->size, size);
}

static inline void document_constant_row(struct document *d, char *at)
{
	char *name = document_cell(&at), *value = document_cell(&at);

	for (size_t i = 0; name && value && i < d->n_constants; i++) {
		struct constant *c = &d->constants[i];

		if (strcmp(c->name, name) != 0)
			continue;
		c->seen++;
		if (strtoull(value, NULL, 0) != c->value)
			document_complain(d, "%s is %#llx, the document says %s", name, (unsigned long long)c->value, value);
		return;
	}
	document_complain(d, "no constant '%s' is known to this test", name ? name : "");
}

/* The last `struct NAME` of a line of text. */
static inline void document_note_struct(struct document *d, const char *line, struct layout **current)
{
	static const char mark[] = "`struct ";

	for (const char *p = line; (p = strstr(p, mark)); p += sizeof(mark) - 1) {
		char name[64] = {0};

		snprintf(name, sizeof(name), "%.*s", (int)strcspn(p + sizeof(mark) - 1, "`"), p + sizeof(mark) - 1);
		*current = document_layout(d, name);
		if (!*current)
			document_complain(d, "no structure '%s' is known to this test", name);
	}
}

enum document_table { DOCUMENT_TEXT, DOCUMENT_FIELDS, DOCUMENT_CONSTANTS, DOCUMENT_OTHER };

static inline enum document_table document_begin_table(struct document *d, const char *line, struct layout *current)
{
	if (strncmp(line, "| constant | value |", 20) == 0)
		return DOCUMENT_CONSTANTS;
	if (strncmp(line, "| offset | size | field |", 25) != 0)
		return DOCUMENT_OTHER;
	if (current)
		return DOCUMENT_FIELDS;
	document_complain(d, "a table of fields, and no structure named before it");
	return DOCUMENT_OTHER;
}

/* False when there is no such file. */
static inline bool document_read(struct document *d)
{
	char line[4096];
	struct layout *current = NULL;
	enum document_table table = DOCUMENT_TEXT;
	FILE *f = fopen(d->path, "re");

	if (!f)
		return false;
	for (d->line_no = 1; fgets(line, sizeof(line), f); d->line_no++) {
		if (*line != '|') {
			table = DOCUMENT_TEXT;
			document_note_struct(d, line, &current);
		} else if (table == DOCUMENT_TEXT) {
			table = document_begin_table(d, line, current);
		} else if (line[1] != '-') {
			if (table == DOCUMENT_FIELDS)
				document_field_row(d, current, line + 1);
			else if (table == DOCUMENT_CONSTANTS)
				document_constant_row(d, line + 1);
		}
	}
	fclose(f);
	return true;
}

/* Reads it and complains of what is wrong, missing or there twice; how much that is. */
static inline unsigned document_compare(struct document *d)
{
	if (!document_read(d))
		document_complain(d, "cannot be opened");
	d->line_no = 0;
	for (size_t i = 0; i < d->n_layouts; i++) {
		const struct layout *l = &d->layouts[i];

		for (size_t k = 0; k < MEMBERS_MAX && l->m[k].name; k++)
			if (l->m[k].seen != 1)
				document_complain(d, "%s.%s stands in it %u times", l->name, l->m[k].name, l->m[k].seen);
	}
	for (size_t i = 0; i < d->n_constants; i++)
		if (d->constants[i].seen != 1)
			document_complain(d, "%s stands in it %u times", d->constants[i].name, d->constants[i].seen);
	return d->wrong;
}

/* Whether the lists of a test name every byte of their structures; complains where not. */
static inline bool layouts_are_whole(const struct layout *l, size_t n)
{
	bool whole = true;

	for (size_t i = 0; i < n; i++) {
		size_t end = 0;

		for (size_t k = 0; k < MEMBERS_MAX && l[i].m[k].name; k++) {
			if (l[i].m[k].offset != end)
				fprintf(stderr, "struct %s: %s does not follow the field before it\n", l[i].name, l[i].m[k].name);
			whole = whole && l[i].m[k].offset == end;
			end = l[i].m[k].offset + l[i].m[k].size;
		}
		if (end != l[i].size)
			fprintf(stderr, "struct %s has %zu bytes, its fields here %zu\n", l[i].name, l[i].size, end);
		whole = whole && end == l[i].size;
	}
	return whole;
}

/* The two cases that each document has, and the program around them: its argument is the document's path. */

static struct document *document_tested;

static void the_lists_here_cover_the_structures(void **state)
{
	(void)state;
	assert_true(layouts_are_whole(document_tested->layouts, document_tested->n_layouts));
}

static void the_document_says_the_same_as_the_code(void **state)
{
	(void)state;
	assert_int_equal(document_compare(document_tested), 0);
}

static inline int document_main(struct document *d, int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_lists_here_cover_the_structures),
	    cmocka_unit_test(the_document_says_the_same_as_the_code),
	};

	if (argc != 2) {
		fprintf(stderr, "usage: %s DOCUMENT.md\n", argv[0]);
		return 2;
	}
	d->path = argv[1];
	document_tested = d;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
