/*
 * rows.c: from index to rows, and what a row from elsewhere must look like before anything is done with it (guarantee G11).
 *
 * The checks are of one row by itself: that its key belongs to a table that is compared, that names are names, that a value is
 * one that this version writes.  Whether rows fit one another is the leader's affair, and fsck's.
 */
#include "fs/core/replica/rows.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/snap/snap.h"
#include "fs/core/tier/tier.h"

#define LEAF_MAX     (FILE_SIZE_MAX / (LEAF_SLOTS * BLOCK_SIZE))
#define FIRST_COOKIE 3u /* 1 and 2 are "." and ".." */

/* ---- E rows ---- */

struct leaf_row leaf_row_of(const struct leaf *l)
{
	struct leaf_row row = {0};

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const struct slot *s = &l->slot[i];

		row.mapped |= (uint16_t)(slot_used(s) << i);
		row.unwritten |= (uint16_t)(s->unwritten << i);
		if (slot_has_data(s))
			row.crc[i] = s->crc;
	}
	row.tiered = leaf_tiered(l);
	row.object = l->object;
	return row;
}

size_t leaf_row_encode(const struct leaf_row *l, uint8_t *p)
{
	size_t at = 4;

	memcpy(p, le16_make(l->mapped).b, 2);
	memcpy(p + 2, le16_make(l->unwritten).b, 2);
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(leaf_row_data(l) >> i & 1))
			continue;
		memcpy(p + at, le32_make(l->crc[i]).b, 4);
		at += 4;
	}
	if (!l->tiered)
		return at;
	memcpy(p + at, le16_make(l->tiered).b, 2);
	memcpy(p + at + 2, le64_make(l->object.id).b, 8);
	memcpy(p + at + 10, le32_make(l->object.offset).b, 4);
	memcpy(p + at + 14, le32_make(l->object.len).b, 4);
	return at + LEAF_ROW_OBJECT_BYTES;
}

/* What stands behind the CRCs: which slots are in which frame. */
static bool take_object(const uint8_t *p, struct leaf_row *row)
{
	le64 id;
	le32 word[2];
	le16 half;

	memcpy(half.b, p, 2);
	memcpy(id.b, p + 2, 8);
	memcpy(word, p + 10, 8);
	row->tiered = le16_get(half);
	row->object = (struct leaf_object){.id = le64_get(id), .offset = le32_get(word[0]), .len = le32_get(word[1])};
	return row->tiered && !(row->tiered & ~leaf_row_data(row)) && row->object.id &&
	       record_frame_ok(row->object.offset, row->object.len);
}

int leaf_row_decode(struct slice value, struct leaf_row *ret)
{
	const uint8_t *p = value.p;
	struct leaf_row row = {0};
	le16 half;
	le32 word;
	size_t at = 4;

	if (value.len < 4 || value.len > LEAF_ROW_BYTES_MAX)
		return -EUCLEAN;
	memcpy(half.b, p, 2);
	row.mapped = le16_get(half);
	memcpy(half.b, p + 2, 2);
	row.unwritten = le16_get(half);
	size_t end = 4 + 4 * (size_t)__builtin_popcount(leaf_row_data(&row));
	if (!row.mapped || (row.unwritten & ~row.mapped) || (value.len != end && value.len != end + LEAF_ROW_OBJECT_BYTES))
		return -EUCLEAN;
	if (value.len > end && !take_object(p + end, &row))
		return -EUCLEAN;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(leaf_row_data(&row) >> i & 1))
			continue;
		memcpy(word.b, p + at, 4);
		row.crc[i] = le32_get(word);
		at += 4;
	}
	*ret = row;
	return 0;
}

uint16_t leaf_row_held(const struct leaf_row *row, const struct leaf *l)
{
	uint16_t mask = 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const struct slot *s = &l->slot[i];

		if ((leaf_row_data(row) >> i & 1) && slot_has_data(s) && !slot_cold(s) && s->crc == row->crc[i])
			mask |= (uint16_t)(1u << i);
	}
	return mask;
}

bool leaf_row_equal(const struct leaf_row *a, const struct leaf_row *b)
{
	return a->mapped == b->mapped && a->unwritten == b->unwritten && memcmp(a->crc, b->crc, sizeof(a->crc)) == 0;
}

uint16_t leaf_row_same(const struct leaf_row *a, const struct leaf_row *b)
{
	uint16_t both = leaf_row_data(a) & leaf_row_data(b), mask = 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if ((both >> i & 1) && a->crc[i] == b->crc[i])
			mask |= (uint16_t)(1u << i);
	return mask;
}

uint16_t leaf_row_going(const struct leaf_row *old, const struct row *r)
{
	struct leaf_row new;

	if (!r->value.p || leaf_row_decode(r->value, &new) < 0)
		return leaf_row_data(old);
	return leaf_row_data(old) & (uint16_t)~leaf_row_same(old, &new);
}

/* ---- rows of another node ---- */

static bool number_ok(uint64_t n)
{
	return n > 0 && n < ROW_NUMBER_MAX;
}

static bool has_nul(struct slice s)
{
	return memchr(s.p, 0, s.len) != NULL;
}

static bool text_ok(struct slice s, size_t max)
{
	return s.len >= 1 && s.len <= max && !has_nul(s);
}

/* One component of a path (guarantee G11). */
static bool name_ok(struct slice s)
{
	const char *p = s.p;

	if (!text_ok(s, RECORD_NAME_MAX) || memchr(p, '/', s.len))
		return false;
	return !(p[0] == '.' && (s.len == 1 || (s.len == 2 && p[1] == '.')));
}

static bool type_ok(uint32_t mode)
{
	uint32_t type = mode & S_IFMT;

	return type == S_IFREG || type == S_IFDIR || type == S_IFLNK || type == S_IFCHR || type == S_IFBLK || type == S_IFIFO ||
	       type == S_IFSOCK;
}

static bool key_ok(struct slice key)
{
	if (key.len < 9 || key.len > INDEX_KEY_MAX)
		return false;
	if (row_table(key) == TABLE_OBJECT) /* any number: they are not counted up */
		return key.len == 9 && row_ino(key) != 0;
	if (row_table(key) == TABLE_SNAP) /* from 0 on */
		return key.len == 9 && row_ino(key) < SNAP_TOP_MAX;
	if (!number_ok(row_ino(key)))
		return false;
	switch (row_table(key)) {
	case TABLE_DENTRY:
		return name_ok(row_name(key));
	case TABLE_XATTR:
		return text_ok(row_name(key), RECORD_NAME_MAX);
	case TABLE_POLICY: /* set by a record that names it behind "clawfs." */
		return text_ok(row_name(key), RECORD_NAME_MAX - strlen("clawfs."));
	case TABLE_EXTENT:
		return key.len == 17 && row_leaf(key) < LEAF_MAX;
	case TABLE_HISTORY:
	case TABLE_INODE:
	case TABLE_TARGET:
	case TABLE_ORPHAN:
		return key.len == 9;
	default:
		return false;
	}
}

static bool dentry_ok(struct slice value)
{
	struct dentry_value v;

	if (value.len != sizeof(v))
		return false;
	memcpy(&v, value.p, sizeof(v));
	uint64_t cookie = le64_get(v.cookie);
	uint32_t type = le32_get(v.type);
	return number_ok(le64_get(v.ino)) && cookie >= FIRST_COOKIE && number_ok(cookie) && type == (type & S_IFMT) &&
	       type_ok(type);
}

static bool inode_ok(uint64_t ino, struct slice value)
{
	static const uint8_t zero[sizeof(((struct inode_value *)0)->zero)];
	const struct inode_value *v = value.p;
	struct inode in;

	if (inode_decode(value, ino, &in) < 0 || memcmp(v->zero, zero, sizeof(zero)) != 0)
		return false;
	if (!type_ok(in.mode) || (in.mode & ~(uint32_t)(S_IFMT | 07777)) || (ino == FS_ROOT_INO && !S_ISDIR(in.mode)))
		return false;
	return in.size <= FILE_SIZE_MAX && number_ok(in.parent) && number_ok(in.cookie + 1) && number_ok(in.next_cookie);
}

static bool value_ok(struct slice key, struct slice value)
{
	struct leaf_row leaf;
	struct object_row object;

	switch (row_table(key)) {
	case TABLE_DENTRY:
		return dentry_ok(value);
	case TABLE_OBJECT:
		return object_row_decode(row_ino(key), value, &object) == 0;
	case TABLE_EXTENT:
		return leaf_row_decode(value, &leaf) == 0;
	case TABLE_SNAP:
		return snap_row_check(value) == 0;
	case TABLE_HISTORY:
		return value.len == sizeof(le64);
	case TABLE_INODE:
		return inode_ok(row_ino(key), value);
	case TABLE_TARGET:
		return text_ok(value, RECORD_TARGET_MAX);
	case TABLE_POLICY:
		return text_ok(value, FS_POLICY_MAX);
	case TABLE_ORPHAN:
		return value.len == 0;
	default: /* TABLE_XATTR: key_ok() knows no other */
		return value.len <= RECORD_VALUE_MAX;
	}
}

int row_check(const struct row *r)
{
	if (!key_ok(r->key))
		return -EUCLEAN;
	if (r->value.p)
		return value_ok(r->key, r->value) ? 0 : -EUCLEAN;
	/* There is no volume without its root directory. */
	return row_table(r->key) == TABLE_INODE && row_ino(r->key) == FS_ROOT_INO ? -EUCLEAN : 0;
}

/* ---- walking ---- */

static bool is_logical(uint8_t table)
{
	switch (table) {
	case TABLE_DENTRY:
	case TABLE_EXTENT:
	case TABLE_HISTORY:
	case TABLE_INODE:
	case TABLE_TARGET:
	case TABLE_ORPHAN:
	case TABLE_POLICY:
	case TABLE_OBJECT:
	case TABLE_SNAP:
	case TABLE_XATTR:
		return true;
	default:
		return false;
	}
}

static bool key_before(struct slice a, struct slice b)
{
	int r = memcmp(a.p, b.p, min_u64(a.len, b.len));

	return r < 0 || (r == 0 && a.len < b.len);
}

/* A leaf that cannot be read is shown as its bytes are, which no leader's row equals: it will be replaced. */
static int give_leaf(const struct rows *rows, struct row *r, replica_row_fn *fn, void *ctx)
{
	uint8_t value[LEAF_ROW_BYTES_MAX];
	struct leaf l;

	if (leaf_decode(r->value.p, r->value.len, &l) < 0)
		return fn(ctx, r);
	struct leaf_row row = leaf_row_of(&l);
	uint16_t doubtful = rows->doubtful ? rows->doubtful(rows->ctx, &l) : 0;
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if (doubtful >> i & 1)
			row.crc[i] = ~row.crc[i];
	r->value = (struct slice){value, leaf_row_encode(&row, value)};
	return fn(ctx, r);
}

int rows_walk(const struct rows *rows, struct slice from, struct slice to, replica_row_fn *fn, void *ctx)
{
	const struct kv_ops *ops = rows->kv->ops;
	int r = 0;

	ops->iter_seek(rows->it, from.p ? from : (struct slice){"", 0});
	while (r == 0 && ops->iter_valid(rows->it)) {
		struct row row = {.key = ops->iter_key(rows->it), .value = ops->iter_value(rows->it)};
		uint8_t table = row_table(row.key);

		if (to.p && !key_before(row.key, to))
			break;
		if (!is_logical(table)) {
			table++;
			if (table == 0)
				break;
			ops->iter_seek(rows->it, (struct slice){&table, 1});
			continue;
		}
		if (!row.value.p) /* empty, not absent */
			row.value = (struct slice){"", 0};
		r = table == TABLE_EXTENT ? give_leaf(rows, &row, fn, ctx) : fn(ctx, &row);
		if (r == 0)
			ops->iter_next(rows->it);
	}
	return r < 0 ? r : r > 0 ? 0 : ops->iter_error(rows->it);
}
