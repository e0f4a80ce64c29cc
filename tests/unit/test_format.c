/*
 * test_format.c: docs/FORMAT.md against the structures: every field's name, offset and size, and every constant.
 *
 * A table of fields begins with "| offset | size | field |" and belongs to the `struct NAME` mentioned last before it; one of
 * constants begins with "| constant | value |".  The lists below name what must be in the document; a field that was added to
 * a structure and not to its list leaves a gap, which is a failure too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/core/index_format.h"
#include "fs/core/leaf.h"
#include "fs/store/arena.h"
#include "fs/store/super_format.h"
#include "journal/journal_format.h"

static const char *path; /* of the document */

#define MEMBERS_MAX 24
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

/* clang-format off */
#define STRUCT(s, ...) {#s, sizeof(struct s), {__VA_ARGS__}}
#define M(s, f) {#f, offsetof(struct s, f), sizeof(((struct s *)NULL)->f), 0}

static struct layout layouts[] = {
#define S batch_header
	STRUCT(batch_header, M(S, magic), M(S, version), M(S, flags), M(S, n_records), M(S, volume), M(S, epoch), M(S, incarnation),
	       M(S, seq), M(S, pos), M(S, tail_seq), M(S, commit_seq), M(S, time_ns), M(S, prev_hash), M(S, hash),
	       M(S, n_payload_blocks), M(S, logical_bytes), M(S, local_bytes), M(S, local_crc), M(S, zero), M(S, crc)),
#undef S
#define S record_header
	STRUCT(record_header, M(S, crc), M(S, bytes), M(S, type), M(S, flags), M(S, zero), M(S, uid), M(S, gid), M(S, pid),
	       M(S, unique), M(S, time_ns), M(S, ino)),
#undef S
#define S body_mknode
	STRUCT(body_mknode, M(S, parent), M(S, cookie), M(S, rdev), M(S, mode), M(S, uid), M(S, gid), M(S, name_len), M(S, target_len)),
#undef S
#define S body_link
	STRUCT(body_link, M(S, parent), M(S, cookie), M(S, name_len), M(S, zero)),
#undef S
#define S body_unlink
	STRUCT(body_unlink, M(S, parent), M(S, name_len), M(S, zero)),
#undef S
#define S body_rename
	STRUCT(body_rename, M(S, parent), M(S, new_parent), M(S, new_cookie), M(S, target), M(S, whiteout_ino), M(S, flags),
	       M(S, name_len), M(S, new_name_len)),
#undef S
#define S body_setattr
	STRUCT(body_setattr, M(S, mask), M(S, mode), M(S, uid), M(S, gid), M(S, size), M(S, atime_ns), M(S, mtime_ns), M(S, ctime_ns)),
#undef S
#define S body_xattr
	STRUCT(body_xattr, M(S, value_len), M(S, name_len), M(S, zero)),
#undef S
#define S body_write
	STRUCT(body_write, M(S, block), M(S, size), M(S, mtime_ns), M(S, n_blocks), M(S, out_of_line), M(S, zero)),
#undef S
#define S body_zero
	STRUCT(body_zero, M(S, block), M(S, n_blocks), M(S, size), M(S, mode), M(S, zero)),
#undef S
#define S body_reap
	STRUCT(body_reap, M(S, from_leaf)),
#undef S
#define S body_config
	STRUCT(body_config, M(S, key_len), M(S, value_len), M(S, zero)),
#undef S
#define S body_epoch
	STRUCT(body_epoch, M(S, epoch), M(S, incarnation)),
#undef S
#define S local_run
	STRUCT(local_run, M(S, start), M(S, n_blocks)),
#undef S
#define S staging_mark
	STRUCT(staging_mark, M(S, hash), M(S, n_records), M(S, logical_bytes), M(S, n_payload_blocks), M(S, local_bytes),
	       M(S, local_crc), M(S, zero)),
#undef S
#define S staging_header
	STRUCT(staging_header, M(S, magic), M(S, volume), M(S, incarnation), M(S, seq), M(S, pos), M(S, prev_hash),
	       M(S, durable_seq), M(S, published), M(S, mark), M(S, zero)),
#undef S
#define S super_block
	STRUCT(super_block, M(S, magic), M(S, version), M(S, chunk_kib), M(S, volume), M(S, node), M(S, compat), M(S, ro_compat),
	       M(S, incompat), M(S, generation), M(S, epoch), M(S, incarnation), M(S, flags), M(S, journal_segments),
	       M(S, journal_segment_kib), M(S, max_blocks), M(S, created_ns), M(S, host_reserve), M(S, label), M(S, zero), M(S, crc)),
#undef S
#define S inode_value
	STRUCT(inode_value, M(S, version), M(S, zero), M(S, mode), M(S, uid), M(S, gid), M(S, nlink), M(S, n_xattr), M(S, size),
	       M(S, blocks), M(S, atime_ns), M(S, mtime_ns), M(S, ctime_ns), M(S, btime_ns), M(S, rdev), M(S, parent), M(S, cookie),
	       M(S, next_cookie)),
#undef S
#define S dentry_value
	STRUCT(dentry_value, M(S, ino), M(S, cookie), M(S, type)),
#undef S
#define S cookie_value
	STRUCT(cookie_value, M(S, ino), M(S, type)),
#undef S
#define S anchor_value
	STRUCT(anchor_value, M(S, magic), M(S, volume), M(S, applied_seq), M(S, tail_seq), M(S, tail_pos), M(S, tail_hash),
	       M(S, next_ino), M(S, epoch), M(S, snapshot_generation), M(S, reserved_blocks), M(S, n_inodes), M(S, n_chunks), M(S, crc)),
#undef S
};

#define CONSTANT(c) {#c, (c), 0}
static struct constant {
	const char *name;
	uint64_t value;
	unsigned seen;
} constants[] = {
	CONSTANT(BATCH_MAGIC), CONSTANT(STAGING_MAGIC), CONSTANT(JOURNAL_FORMAT_VERSION), CONSTANT(BATCH_PAYLOAD_MAX_BLOCKS),
	CONSTANT(BATCH_LOGICAL_MAX_BYTES), CONSTANT(BATCH_LOCAL_MAX_BYTES),
	CONSTANT(SUPER_MAGIC), CONSTANT(SUPER_BYTES), CONSTANT(SUPER_FORMAT_VERSION), CONSTANT(SUPER_CLEAN),
	CONSTANT(ANCHOR_MAGIC), CONSTANT(INDEX_KEY_MAX), CONSTANT(LEAF_SLOTS), CONSTANT(LEAF_BYTES_MAX),
	CONSTANT(ARENA_PAGE_BLOCKS), CONSTANT(ARENA_PAGE_BYTES),
};
/* clang-format on */

/* What was found wrong in the document so far, a line each. */
static unsigned wrong;
static unsigned line_no;

static void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void complain(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s:%u: ", path, line_no);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	wrong++;
}

/* The next cell of a table's row, without blanks, backticks and a [count]; NULL at the end. */
static char *cell(char **at)
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

static struct layout *find_layout(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++)
		if (strcmp(layouts[i].name, name) == 0)
			return &layouts[i];
	return NULL;
}

static struct member *find_member(struct layout *l, const char *name)
{
	for (size_t i = 0; i < MEMBERS_MAX && l->m[i].name; i++)
		if (strcmp(l->m[i].name, name) == 0)
			return &l->m[i];
	return NULL;
}

static void field_row(struct layout *l, char *at)
{
	char *offset = cell(&at), *size = cell(&at), *name = cell(&at);
	struct member *m = name ? find_member(l, name) : NULL;

	if (!m) {
		complain("struct %s has no field '%s'", l->name, name ? name : "");
		return;
	}
	m->seen++;
	if (!isdigit((unsigned char)*offset) || strtoull(offset, NULL, 0) != m->offset)
		complain("%s.%s is at offset %zu, the document says %s", l->name, name, m->offset, offset);
	if (!isdigit((unsigned char)*size) || strtoull(size, NULL, 0) != m->size)
		complain("%s.%s has %zu bytes, the document says %s", l->name, name, m->size, size);
}

static void constant_row(char *at)
{
	char *name = cell(&at), *value = cell(&at);

	for (size_t i = 0; name && value && i < ARRAY_SIZE(constants); i++) {
		if (strcmp(constants[i].name, name) != 0)
			continue;
		constants[i].seen++;
		if (strtoull(value, NULL, 0) != constants[i].value)
			complain("%s is %#llx, the document says %s", name, (unsigned long long)constants[i].value, value);
		return;
	}
	complain("no constant '%s' is known to this test", name ? name : "");
}

/* The last `struct NAME` of a line of text. */
static void note_struct(const char *line, struct layout **current)
{
	static const char mark[] = "`struct ";

	for (const char *p = line; (p = strstr(p, mark)); p += sizeof(mark) - 1) {
		char name[64] = {0};

		snprintf(name, sizeof(name), "%.*s", (int)strcspn(p + sizeof(mark) - 1, "`"), p + sizeof(mark) - 1);
		*current = find_layout(name);
		if (!*current)
			complain("no structure '%s' is known to this test", name);
	}
}

enum table { TABLE_NONE, TABLE_FIELDS, TABLE_CONSTANTS, TABLE_OTHER };

static enum table begin_table(const char *line, struct layout *current)
{
	if (strncmp(line, "| constant | value |", 20) == 0)
		return TABLE_CONSTANTS;
	if (strncmp(line, "| offset | size | field |", 25) != 0)
		return TABLE_OTHER;
	if (current)
		return TABLE_FIELDS;
	complain("a table of fields, and no structure named before it");
	return TABLE_OTHER;
}

static void read_document(void)
{
	char line[4096];
	struct layout *current = NULL;
	enum table table = TABLE_NONE;
	FILE *f = fopen(path, "re");

	if (!f)
		fail_msg("cannot open %s", path);
	for (line_no = 1; fgets(line, sizeof(line), f); line_no++) {
		if (*line != '|') {
			table = TABLE_NONE;
			note_struct(line, &current);
		} else if (table == TABLE_NONE) {
			table = begin_table(line, current);
		} else if (line[1] != '-') {
			if (table == TABLE_FIELDS)
				field_row(current, line + 1);
			else if (table == TABLE_CONSTANTS)
				constant_row(line + 1);
		}
	}
	fclose(f);
}

static void the_lists_here_cover_the_structures(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		size_t end = 0;

		for (size_t k = 0; k < MEMBERS_MAX && layouts[i].m[k].name; k++) {
			if (layouts[i].m[k].offset != end)
				fail_msg("struct %s: %s does not follow the field before it", layouts[i].name,
					 layouts[i].m[k].name);
			end += layouts[i].m[k].size;
		}
		if (end != layouts[i].size)
			fail_msg("struct %s has %zu bytes, its fields here %zu", layouts[i].name, layouts[i].size, end);
	}
}

static void the_document_says_the_same_as_the_code(void **state)
{
	(void)state;
	read_document();
	line_no = 0;
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++)
		for (size_t k = 0; k < MEMBERS_MAX && layouts[i].m[k].name; k++)
			if (layouts[i].m[k].seen != 1)
				complain("%s.%s stands in it %u times", layouts[i].name, layouts[i].m[k].name,
					 layouts[i].m[k].seen);
	for (size_t i = 0; i < ARRAY_SIZE(constants); i++)
		if (constants[i].seen != 1)
			complain("%s stands in it %u times", constants[i].name, constants[i].seen);
	assert_int_equal(wrong, 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_lists_here_cover_the_structures),
	    cmocka_unit_test(the_document_says_the_same_as_the_code),
	};

	if (argc != 2) {
		fprintf(stderr, "usage: test_format FORMAT.md\n");
		return 2;
	}
	path = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
