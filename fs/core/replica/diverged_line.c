/*
 * diverged_line.c: rows that are kept aside as lines of JSON, in words, and the paths that they were reached by.
 *
 * Paths are told from the index as it was when the resync began.  Bytes that are no UTF-8 are told in hexadecimal, under the
 * member's name and "_hex".  Where memory is short a member is missing; a line as a whole fails when it is put.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/replica/diverged_impl.h"
#include "fs/core/tier/tier.h"

/* Deeper directories, and longer paths, are told by inode number. */
#define DEPTH_MAX      256u
#define PATH_BYTES_MAX (16 * KIB)

/* ---- paths ---- */

/* The name of `in`, borrowed until the iterator moves; -ENOENT when it has lost it. */
static int before_name(struct diverged *d, const struct inode *in, struct slice *ret)
{
	struct index_key k = key_pair(TABLE_COOKIE, in->parent, in->cookie);
	struct dentry named;
	struct slice value;
	int r = diverged_row_before(d, key_slice(&k), &value);

	if (r == 0)
		r = cookie_decode(value, &named, ret);
	return r == 0 && named.ino != in->ino ? -ENOENT : r;
}

/* A path that is written from its end. */
struct path {
	char b[PATH_BYTES_MAX];
	size_t at;
};

static bool path_prepend(struct path *p, struct slice name)
{
	if (p->at < name.len + 1)
		return false;
	p->at -= name.len;
	memcpy(p->b + p->at, name.p, name.len);
	p->b[--p->at] = '/';
	return true;
}

/* Puts the path of `ino` before what is in `p`; false when it cannot be told. */
static bool path_of(struct diverged *d, uint64_t ino, struct path *p)
{
	struct inode in;
	struct slice name;

	for (unsigned depth = 0; ino != FS_ROOT_INO; ino = in.parent, depth++)
		if (depth == DEPTH_MAX || diverged_inode_before(d, ino, &in) < 0 || before_name(d, &in, &name) < 0 ||
		    !path_prepend(p, name))
			return false;
	return true;
}

/* ---- members ---- */

void line_int(json_t *o, const char *name, uint64_t v)
{
	json_object_set_new(o, name, json_integer((json_int_t)v));
}

void line_hex(json_t *o, const char *name, struct slice s)
{
	CLEANUP_BUF struct buf hex = {0}, member = {0};

	for (size_t i = 0; i < s.len; i++)
		buf_printf(&hex, "%02x", ((const uint8_t *)s.p)[i]);
	buf_printf(&member, "%s_hex", name);
	if (!hex.failed && !member.failed)
		json_object_set_new(o, (const char *)member.p, json_stringn((const char *)hex.p, hex.len));
}

static void line_text(json_t *o, const char *name, struct slice s)
{
	json_t *text = json_stringn(s.p, s.len); /* NULL: no UTF-8 */

	if (text)
		json_object_set_new(o, name, text);
	else
		line_hex(o, name, s);
}

static void put_path(struct diverged *d, json_t *o, uint64_t ino, struct slice name)
{
	CLEANUP_FREE struct path *p = malloc(sizeof(*p));

	if (!p)
		return;
	p->at = sizeof(p->b);
	if ((!name.len || path_prepend(p, name)) && path_of(d, ino, p)) {
		struct slice path = {p->b + p->at, sizeof(p->b) - p->at};
		line_text(o, "path", path.len ? path : (struct slice){"/", 1});
	}
}

static void tell_inode(json_t *o, uint64_t ino, struct slice value)
{
	struct inode in;
	char mode[16];

	if (inode_decode(value, ino, &in) < 0) {
		line_hex(o, "unreadable", value);
		return;
	}
	snprintf(mode, sizeof(mode), "%06o", in.mode);
	json_object_set_new(o, "mode", json_string(mode));
	line_int(o, "uid", in.uid);
	line_int(o, "gid", in.gid);
	line_int(o, "nlink", in.nlink);
	line_int(o, "size", in.size);
	line_int(o, "rdev", in.rdev);
	line_int(o, "atime_ns", (uint64_t)in.atime_ns);
	line_int(o, "mtime_ns", (uint64_t)in.mtime_ns);
	line_int(o, "ctime_ns", (uint64_t)in.ctime_ns);
	line_int(o, "btime_ns", (uint64_t)in.btime_ns);
}

static void tell_dentry(json_t *o, struct slice key, struct slice value)
{
	struct dentry_value v;

	line_int(o, "parent", row_ino(key));
	line_text(o, "name", row_name(key));
	if (value.len != sizeof(v)) {
		line_hex(o, "unreadable", value);
		return;
	}
	memcpy(&v, value.p, sizeof(v));
	line_int(o, "ino", le64_get(v.ino));
	line_int(o, "cookie", le64_get(v.cookie));
}

static void tell_epoch(json_t *o, struct slice key, struct slice value)
{
	le64 seq;

	line_int(o, "epoch", row_ino(key));
	if (value.len != sizeof(seq))
		return;
	memcpy(&seq, value.p, sizeof(seq));
	line_int(o, "seq", le64_get(seq));
}

/* As it is named in its store. */
void line_object(json_t *o, uint64_t object)
{
	char text[24];

	snprintf(text, sizeof(text), "%016llx", (unsigned long long)object);
	json_object_set_new(o, "object", json_string(text));
}

static void tell_object(json_t *o, uint64_t object, struct slice value)
{
	struct object_row row;

	line_object(o, object);
	if (object_row_decode(object, value, &row) < 0) {
		line_hex(o, "unreadable", value);
		return;
	}
	line_int(o, "store", row.store);
	line_int(o, "bytes", row.bytes);
	line_int(o, "live", row.n_live);
}

void line_row(json_t *o, struct slice key, struct slice value)
{
	switch (row_table(key)) {
	case TABLE_DENTRY:
		tell_dentry(o, key, value);
		return;
	case TABLE_HISTORY:
		tell_epoch(o, key, value);
		return;
	case TABLE_OBJECT:
		tell_object(o, row_ino(key), value);
		return;
	case TABLE_SNAP:
		line_int(o, "snapshot", row_ino(key));
		if (value.len > sizeof(struct snap_value))
			line_text(o, "name",
				  (struct slice){(const uint8_t *)value.p + sizeof(struct snap_value),
						 value.len - sizeof(struct snap_value)});
		return;
	default:
		line_int(o, "ino", row_ino(key));
	}
	switch (row_table(key)) {
	case TABLE_INODE:
		tell_inode(o, row_ino(key), value);
		return;
	case TABLE_TARGET:
		line_text(o, "target", value);
		return;
	case TABLE_POLICY:
		line_text(o, "key", row_name(key));
		line_text(o, "value", value);
		return;
	case TABLE_XATTR:
		line_text(o, "name", row_name(key));
		line_hex(o, "value", value);
		return;
	default: /* an orphan says no more */
		return;
	}
}

void line_path(struct diverged *d, json_t *o, struct slice key)
{
	if (row_table(key) == TABLE_DENTRY)
		put_path(d, o, row_ino(key), row_name(key));
	else if (row_table(key) != TABLE_HISTORY && row_table(key) != TABLE_OBJECT && row_table(key) != TABLE_SNAP)
		put_path(d, o, row_ino(key), (struct slice){0});
}

json_t *line_new(struct slice key, bool gone)
{
	const char table[2] = {(char)row_table(key), '\0'};

	return json_pack("{s:s, s:b}", "table", table, "gone", gone);
}
