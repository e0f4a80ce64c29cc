/*
 * event.c: one record as one JSON object.
 *
 * What an attribute is set to is never told, and of a file's data only where it lies.  Offsets and lengths of writes are the
 * record's, whole blocks, cut at the end of the file.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fs/core/core.h"
#include "fs/core/feed/feed.h"

struct event {
	struct fs *fs;
	const struct feed_names *names;
	json_t *json;
};

void feed_set_bytes(json_t *object, const char *key, struct slice bytes)
{
	static const char digits[] = "0123456789abcdef";
	json_t *text = json_stringn(bytes.p, bytes.len);
	const uint8_t *p = bytes.p;
	char hex[2 * FEED_PATH_CAP + 1], name[32];

	if (text) {
		json_object_set_new(object, key, text);
		return;
	}
	size_t n = min_u64(bytes.len, FEED_PATH_CAP);
	for (size_t i = 0; i < n; i++) {
		hex[2 * i] = digits[p[i] >> 4];
		hex[2 * i + 1] = digits[p[i] & 15];
	}
	snprintf(name, sizeof(name), "%s_hex", key);
	json_object_set_new(object, name, json_stringn(hex, 2 * n));
}

void feed_set_time(json_t *object, const char *key, int64_t time_ns)
{
	int64_t ns = time_ns % NSEC_PER_SEC;
	char text[64];
	struct tm tm;

	ns += ns < 0 ? NSEC_PER_SEC : 0;
	time_t seconds = (time_t)((time_ns - ns) / NSEC_PER_SEC);
	gmtime_r(&seconds, &tm);
	snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d.%09dZ", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
		 tm.tm_hour, tm.tm_min, tm.tm_sec, (int)ns);
	json_object_set_new(object, key, json_string(text));
}

static void set_number(const struct event *e, const char *key, uint64_t n)
{
	json_object_set_new(e->json, key, json_integer((json_int_t)n));
}

static void set_op(const struct event *e, const char *op)
{
	json_object_set_new(e->json, "op", json_string(op));
}

static void set_path(const struct event *e, const char *key, uint64_t ino)
{
	char path[FEED_PATH_CAP];

	if (feed_names_path(e->fs, e->names, ino, path) == 0)
		feed_set_bytes(e->json, key, (struct slice){path, strlen(path)});
	else
		json_object_set_new(e->json, key, json_null());
}

/* The path of `name` in the directory `parent`, whatever is there now. */
static void set_path_in(const struct event *e, const char *key, uint64_t parent, struct slice name)
{
	char path[FEED_PATH_CAP + RECORD_NAME_MAX + 1];

	if (feed_names_path(e->fs, e->names, parent, path) < 0) {
		json_object_set_new(e->json, key, json_null());
		return;
	}
	size_t len = strlen(path);
	if (len == 0 || path[len - 1] != '/')
		path[len++] = '/';
	memcpy(path + len, name.p, name.len);
	feed_set_bytes(e->json, key, (struct slice){path, len + name.len});
}

/* What the record says of a name: the directory and the name in it. */
static void set_entry(const struct event *e, uint64_t dir, struct slice name)
{
	set_number(e, "dir", dir);
	feed_set_bytes(e->json, "name", name);
	set_path_in(e, "path", dir, name);
}

static const char *mknode_op(uint32_t mode)
{
	if (S_ISREG(mode))
		return "create";
	if (S_ISDIR(mode))
		return "mkdir";
	return S_ISLNK(mode) ? "symlink" : "mknod";
}

static void set_mknode(const struct event *e, const struct record *r)
{
	set_op(e, mknode_op(r->mknode.mode));
	set_entry(e, r->mknode.parent, r->mknode.name);
	set_number(e, "mode", r->mknode.mode & 07777);
	if (S_ISLNK(r->mknode.mode))
		feed_set_bytes(e->json, "target", r->mknode.target);
}

static void set_rename(const struct event *e, const struct record *r)
{
	set_op(e, r->rename.flags & RENAME_F_EXCHANGE ? "exchange" : "rename");
	set_entry(e, r->rename.parent, r->rename.name);
	set_number(e, "to_dir", r->rename.new_parent);
	feed_set_bytes(e->json, "to_name", r->rename.new_name);
	set_path_in(e, "to", r->rename.new_parent, r->rename.new_name);
	if (r->rename.target)
		set_number(e, r->rename.flags & RENAME_F_EXCHANGE ? "with" : "replaced", r->rename.target);
	if (r->rename.flags & RENAME_F_WHITEOUT)
		json_object_set_new(e->json, "whiteout", json_true());
}

static void set_setattr(const struct event *e, const struct record *r)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} fields[] = {{ATTR_MODE, "mode"},   {ATTR_UID, "owner"},   {ATTR_GID, "group"},  {ATTR_SIZE, "size"},
		      {ATTR_ATIME, "atime"}, {ATTR_MTIME, "mtime"}, {ATTR_CTIME, "ctime"}};
	const struct record_attr *a = &r->attr;
	const uint64_t value[] = {a->mode & 07777, a->uid, a->gid, a->size};

	set_op(e, a->mask & ATTR_SIZE ? "truncate" : "setattr");
	set_path(e, "path", r->ino);
	json_t *set = json_array();
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		if (!(a->mask & fields[i].bit))
			continue;
		json_array_append_new(set, json_string(fields[i].name));
		if (i < ARRAY_SIZE(value))
			set_number(e, fields[i].name, value[i]);
	}
	json_object_set_new(e->json, "set", set);
}

static void set_range(const struct event *e, uint64_t block, uint64_t n_blocks, uint64_t size)
{
	uint64_t from = block * BLOCK_SIZE, len = n_blocks * BLOCK_SIZE;

	if (from < size && len > size - from)
		len = size - from;
	set_number(e, "offset", from);
	set_number(e, "length", len);
	set_number(e, "size", size);
}

static void set_zero(const struct event *e, const struct record *r)
{
	set_op(e, r->zero.mode == ZERO_PUNCH ? "punch" : r->zero.mode == ZERO_RANGE ? "zero" : "allocate");
	set_path(e, "path", r->ino);
	set_range(e, r->zero.block, r->zero.n_blocks, r->zero.size);
}

static void set_xattr(const struct event *e, const struct record *r)
{
	set_op(e, r->type == RECORD_SETXATTR ? "setxattr" : "removexattr");
	set_path(e, "path", r->ino);
	feed_set_bytes(e->json, "attribute", r->xattr.name);
}

/* Records of the volume itself, and those about which there is no more to say than their type. */
static void set_other(const struct event *e, const struct record *r)
{
	char op[16];
	const char *type = record_type_name(r->type);
	size_t n = 0;

	for (; type[n] && n < sizeof(op) - 1; n++)
		op[n] = type[n] >= 'A' && type[n] <= 'Z' ? (char)(type[n] - 'A' + 'a') : type[n];
	op[n] = '\0';
	set_op(e, op);
	if (r->type == RECORD_EPOCH) {
		set_number(e, "epoch", epoch_counter(r->epoch.epoch));
		set_number(e, "node", epoch_node(r->epoch.epoch));
		set_number(e, "incarnation", r->epoch.incarnation);
	} else if (r->type == RECORD_SNAP || r->type == RECORD_SNAPDROP || r->type == RECORD_SNAPROLL) {
		set_number(e, "snapshot", r->snap.gen);
		feed_set_bytes(e->json, "name", r->snap.name);
	} else if (r->type == RECORD_CONFIG) {
		feed_set_bytes(e->json, "key", r->config.key);
	} else if (r->type == RECORD_TIER && r->tier.change == TIER_PLACE) {
		set_path(e, "path", r->ino);
		set_number(e, "leaves", r->tier.n_places);
	}
}

static void set_record(const struct event *e, const struct record *r)
{
	switch (r->type) {
	case RECORD_MKNODE:
		set_mknode(e, r);
		break;
	case RECORD_LINK:
		set_op(e, "link");
		set_entry(e, r->link.parent, r->link.name);
		break;
	case RECORD_UNLINK:
		set_op(e, "unlink");
		set_entry(e, r->unlink.parent, r->unlink.name);
		break;
	case RECORD_RENAME:
		set_rename(e, r);
		break;
	case RECORD_SETATTR:
		set_setattr(e, r);
		break;
	case RECORD_SETXATTR:
	case RECORD_RMXATTR:
		set_xattr(e, r);
		break;
	case RECORD_WRITE:
		set_op(e, "write");
		set_path(e, "path", r->ino);
		set_range(e, r->write.block, r->write.n_blocks, r->write.size);
		break;
	case RECORD_ZERO:
		set_zero(e, r);
		break;
	case RECORD_CLONE:
		set_op(e, "clone");
		set_path(e, "path", r->ino);
		set_path(e, "from", r->clone.from);
		set_number(e, "from_offset", r->clone.from_block * BLOCK_SIZE);
		set_range(e, r->clone.block, r->clone.n_blocks, r->clone.size);
		break;
	default:
		set_other(e, r);
	}
}

json_t *feed_event_json(struct fs *fs, const struct feed_names *names, const struct record *r, uint64_t seq, uint32_t n,
			uint64_t at)
{
	struct event e = {.fs = fs, .names = names, .json = json_object()};

	if (!e.json)
		return NULL;
	set_number(&e, "seq", seq);
	set_number(&e, "n", n);
	feed_set_time(e.json, "time", r->time_ns);
	set_number(&e, "uid", r->uid);
	set_number(&e, "gid", r->gid);
	set_number(&e, "pid", r->pid);
	if (r->unique)
		set_number(&e, "request", r->unique);
	if (r->ino)
		set_number(&e, "ino", r->ino);
	set_record(&e, r);
	set_number(&e, "at", at);
	if (r->flags & RECORD_MORE)
		json_object_set_new(e.json, "more", json_true());
	return e.json;
}
