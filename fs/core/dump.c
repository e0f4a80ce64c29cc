/* dump.c: one printer a table; values that cannot be read are shown as hex, never skipped. */
#include "fs/core/dump.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/snap/marks.h"
#include "fs/core/tier/tier.h"

struct dump_row {
	struct slice key, value;
	json_t *out; /* filled by the printer */
};

static void put_int(json_t *o, const char *name, uint64_t v)
{
	json_object_set_new(o, name, json_integer((json_int_t)v));
}

/* As it is named in its store. */
static void put_object_id(json_t *o, uint64_t object)
{
	char text[24];

	snprintf(text, sizeof(text), "%016llx", (unsigned long long)object);
	json_object_set_new(o, "object", json_string(text));
}

/* Bytes as text; those that are no UTF-8 as \xNN. */
static void put_bytes(json_t *o, const char *name, struct slice s)
{
	json_t *text = json_stringn(s.p, s.len);
	struct buf hex = {0};

	for (size_t i = 0; !text && i < s.len; i++)
		buf_printf(&hex, "\\x%02x", ((const uint8_t *)s.p)[i]);
	json_object_set_new(o, name, text ? text : json_stringn((const char *)hex.p, hex.len));
	buf_free(&hex);
}

static struct slice after(struct slice s, size_t n)
{
	return (struct slice){(const uint8_t *)s.p + n, s.len - n};
}

static int row_inode(struct dump_row *w, uint64_t ino)
{
	struct inode in;
	char mode[16];
	int r = inode_decode(w->value, ino, &in);

	if (r < 0)
		return r;
	snprintf(mode, sizeof(mode), "%06o", in.mode);
	json_object_set_new(w->out, "mode", json_string(mode));
	put_int(w->out, "uid", in.uid);
	put_int(w->out, "gid", in.gid);
	put_int(w->out, "nlink", in.nlink);
	put_int(w->out, "size", in.size);
	put_int(w->out, "blocks", in.blocks);
	put_int(w->out, "xattrs", in.n_xattr);
	put_int(w->out, "parent", in.parent);
	put_int(w->out, "mtime_ns", (uint64_t)in.mtime_ns);
	return 0;
}

static int row_dentry(struct dump_row *w, uint64_t parent)
{
	struct dentry_value v;

	if (w->value.len != sizeof(v))
		return -EUCLEAN;
	memcpy(&v, w->value.p, sizeof(v));
	put_int(w->out, "parent", parent);
	put_bytes(w->out, "name", after(w->key, 9));
	put_int(w->out, "ino", le64_get(v.ino));
	put_int(w->out, "cookie", le64_get(v.cookie));
	return 0;
}

static int row_leaf(struct dump_row *w)
{
	struct leaf l;
	json_t *slots = json_array();
	int r = leaf_decode(w->value.p, w->value.len, &l);

	if (w->key.len == 17)
		put_int(w->out, "leaf", be64_get((const uint8_t *)w->key.p + 9));
	for (unsigned i = 0; i < LEAF_SLOTS && r == 0; i++) {
		const struct slot *s = &l.slot[i];
		char text[144];

		if (!slot_used(s))
			continue;
		snprintf(text, sizeof(text), "%u: %s home %u:%llu journal %llu crc %08x%s%s%s", i,
			 s->unwritten ? "unwritten" : "data", pointer_device(s->home), (unsigned long long)pointer_block(s->home),
			 (unsigned long long)pointer_block(s->staged), s->crc, s->tiered ? " tiered" : "",
			 s->shared ? " shared" : "", s->packed ? " packed" : "");
		json_array_append_new(slots, json_string(text));
	}
	json_object_set_new(w->out, "slots", slots);
	if (r == 0 && l.object.id) {
		put_object_id(w->out, l.object.id);
		put_int(w->out, "frame_offset", l.object.offset);
		put_int(w->out, "frame_bytes", l.object.len);
	}
	if (r == 0 && l.pack.n_blocks) {
		json_object_set_new(w->out, "packed", json_string(l.pack.algorithm == PACK_ZSTD ? "zstd" : "lz4"));
		put_int(w->out, "packed_device", pointer_device(l.pack.start));
		put_int(w->out, "packed_start", pointer_block(l.pack.start));
		put_int(w->out, "packed_blocks", l.pack.n_blocks);
		put_int(w->out, "packed_bytes", l.pack.bytes);
	}
	return r;
}

/* The sealed key is left out: who has the volume's key needs no dump. */
static int row_object(struct dump_row *w, uint64_t object)
{
	struct object_row o;
	int r = w->key.len == 9 ? object_row_decode(object, w->value, &o) : -EUCLEAN;

	if (r < 0)
		return r;
	put_object_id(w->out, object);
	put_int(w->out, "store", o.store);
	put_int(w->out, "bytes", o.bytes);
	put_int(w->out, "blocks", o.n_blocks);
	put_int(w->out, "live", o.n_live);
	put_int(w->out, "born_ns", (uint64_t)o.born_ns);
	put_int(w->out, "moved_ns", (uint64_t)o.moved_ns);
	return 0;
}

static int row_shared(struct dump_row *w, pointer_t home)
{
	le32 n;

	if (w->key.len != 9 || w->value.len != sizeof(n))
		return -EUCLEAN;
	memcpy(&n, w->value.p, sizeof(n));
	put_int(w->out, "device", pointer_device(home));
	put_int(w->out, "block", pointer_block(home));
	put_int(w->out, "references", 1 + (uint64_t)le32_get(n));
	return 0;
}

static int row_history(struct dump_row *w, uint64_t epoch)
{
	le64 seq;

	if (w->key.len != 9 || w->value.len != sizeof(seq))
		return -EUCLEAN;
	memcpy(&seq, w->value.p, sizeof(seq));
	put_int(w->out, "epoch", epoch_counter(epoch));
	put_int(w->out, "node", epoch_node(epoch));
	put_int(w->out, "after_seq", le64_get(seq));
	return 0;
}

static int row_usage(struct dump_row *w, uint64_t ino)
{
	struct usage_mark_value mark;
	struct usage_value v;

	if (w->value.len != (ino ? sizeof(v) : sizeof(mark)))
		return -EUCLEAN;
	if (ino == 0) {
		memcpy(&mark, w->value.p, sizeof(mark));
		put_int(w->out, "applied_seq", le64_get(mark.applied_seq));
		return 0;
	}
	memcpy(&v, w->value.p, sizeof(v));
	put_int(w->out, "parent", le64_get(v.parent));
	put_int(w->out, "bytes", le64_get(v.bytes));
	put_int(w->out, "files", le64_get(v.files));
	put_int(w->out, "subdirs", le64_get(v.subdirs));
	put_int(w->out, "ctime_ns", le64_get(v.ctime_ns));
	return 0;
}

static int row_mark(struct dump_row *w)
{
	struct mark_header_value v;
	struct mark m;
	int r = mark_decode(w->key, w->value, &m);

	if (r < 0)
		return r;
	if (w->value.len == 0) {
		put_int(w->out, "clock", m.clock);
		put_int(w->out, "ino", m.ino);
		return 0;
	}
	memcpy(&v, w->value.p, sizeof(v));
	put_int(w->out, "since", le64_get(v.since));
	put_int(w->out, "applied_seq", le64_get(v.applied_seq));
	return 0;
}

static int row_anchor(struct dump_row *w, struct kv *kv)
{
	struct anchor a;
	int r = index_get_anchor(kv, &a);

	if (r < 0)
		return r;
	put_int(w->out, "applied_seq", a.applied_seq);
	put_int(w->out, "tail_seq", a.tail.seq);
	put_int(w->out, "tail_pos", a.tail.pos);
	put_int(w->out, "next_ino", a.next_ino);
	put_int(w->out, "epoch", a.epoch);
	put_int(w->out, "reserved_blocks", a.reserved_blocks);
	put_int(w->out, "inodes", a.n_inodes);
	put_int(w->out, "chunks", a.n_chunks);
	return 0;
}

static int fill_row(struct dump_row *w, struct kv *kv)
{
	const uint8_t *k = w->key.p;
	uint64_t ino = w->key.len >= 9 ? be64_get(k + 1) : 0;
	char table[2] = {(char)k[0], '\0'};

	json_object_set_new(w->out, "table", json_string(table));
	if (k[0] != TABLE_ANCHOR)
		put_int(w->out, k[0] == TABLE_BITMAP ? "device" : "ino", ino);
	switch (k[0]) {
	case TABLE_ANCHOR:
		return row_anchor(w, kv);
	case TABLE_INODE:
		return row_inode(w, ino);
	case TABLE_DENTRY:
		json_object_del(w->out, "ino");
		return row_dentry(w, ino);
	case TABLE_COOKIE:
		if (w->key.len != 17 || w->value.len <= sizeof(struct cookie_value))
			return -EUCLEAN;
		put_int(w->out, "cookie", be64_get(k + 9));
		put_bytes(w->out, "name", after(w->value, sizeof(struct cookie_value)));
		return 0;
	case TABLE_TARGET:
		put_bytes(w->out, "target", w->value);
		return 0;
	case TABLE_XATTR:
		put_bytes(w->out, "name", after(w->key, 9));
		put_int(w->out, "bytes", w->value.len);
		return 0;
	case TABLE_POLICY:
		if (w->key.len <= 9)
			return -EUCLEAN;
		put_bytes(w->out, "key", after(w->key, 9));
		if (policy_is_secret(after(w->key, 9)))
			put_int(w->out, "secret_bytes", w->value.len);
		else
			put_bytes(w->out, "value", w->value);
		return 0;
	case TABLE_HISTORY:
		json_object_del(w->out, "ino");
		return row_history(w, ino);
	case TABLE_SNAP:
		json_object_del(w->out, "ino");
		put_int(w->out, "gen", ino);
		put_bytes(w->out, "name", after(w->value, sizeof(struct snap_value)));
		return 0;
	case TABLE_DEAD:
		json_object_del(w->out, "ino");
		put_int(w->out, "top", ino);
		if (w->key.len == 17)
			put_int(w->out, "block", pointer_block(be64_get(k + 9)));
		return 0;
	case TABLE_MARK:
		json_object_del(w->out, "ino");
		return row_mark(w);
	case TABLE_OBJECT:
		json_object_del(w->out, "ino");
		return row_object(w, ino);
	case TABLE_SHARED:
		json_object_del(w->out, "ino");
		return row_shared(w, ino);
	case TABLE_EXTENT:
		return row_leaf(w);
	case TABLE_BITMAP:
		if (w->key.len == 17)
			put_int(w->out, "page", be64_get(k + 9));
		return 0;
	case TABLE_SCRUB:
		if (w->key.len != 17)
			return -EUCLEAN;
		put_int(w->out, "block", be64_get(k + 9));
		put_int(w->out, "bytes", w->value.len);
		return 0;
	case TABLE_ORPHAN:
		return 0;
	case TABLE_USAGE:
		return row_usage(w, ino);
	case TABLE_NAME:
		if (w->key.len != 25)
			return -EUCLEAN;
		put_int(w->out, "parent", be64_get(k + 9));
		put_int(w->out, "cookie", be64_get(k + 17));
		return 0;
	default:
		return -EUCLEAN;
	}
}

static void print_row(FILE *out, json_t *o, bool json)
{
	const char *name;
	json_t *value;

	if (json) {
		json_dumpf(o, out, JSON_COMPACT);
		fputc('\n', out);
		return;
	}
	json_object_foreach(o, name, value)
	{
		char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

		fprintf(out, "%s=%s ", name, text ? text : "?");
		free(text);
	}
	fputc('\n', out);
}

int fs_dump_index(struct fs *fs, FILE *out, bool json)
{
	struct kv *kv = fs->kv;
	struct kv_iter *it;
	int r = icache_save(fs->icache);

	if (r == 0)
		r = lcache_save(fs->lcache);
	if (r == 0)
		r = kv->ops->iter_open(kv, &it);
	if (r < 0)
		return r;
	for (kv->ops->iter_seek(it, (struct slice){"", 0}); kv->ops->iter_valid(it); kv->ops->iter_next(it)) {
		struct dump_row w = {.key = kv->ops->iter_key(it), .value = kv->ops->iter_value(it), .out = json_object()};

		if (w.key.len == 0 || fill_row(&w, kv) < 0)
			put_bytes(w.out, "unreadable", w.key);
		print_row(out, w.out, json);
		json_decref(w.out);
	}
	r = kv->ops->iter_error(it);
	kv->ops->iter_close(it);
	return r;
}
