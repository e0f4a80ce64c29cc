/*
 * diverged.c: a resync that replaces a history keeps what only this node had: each row and each block, before it goes.
 *
 * Paths are told from the index as it was when the resync began: an iterator opened then is a snapshot, and stays while names
 * change under it.  It also says what is this node's own: a row that the index has no longer as the snapshot has it was
 * replaced by this resync already, and kept then.
 *
 * A resync that goes on after a restart has a snapshot of a volume half changed.  It keeps into a tail of its own, in which rows
 * of the leader's earlier state may be found beside this node's ("resumed" in info.json); nothing kept earlier is written over.
 *
 * A row is a line of JSON: "table" as in index_format.h and what the row says in words; "gone" when the leader has none in its
 * place; "path" where there is one.  Bytes that are no UTF-8 are told in hexadecimal, under the member's name and "_hex".
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/replica/resync.h"
#include "fs/core/tier/tier.h"
#include "fs/store/diverged.h"

/* Deeper directories, and longer paths, are told by inode number. */
#define DEPTH_MAX      256u
#define PATH_BYTES_MAX (16 * KIB)
/* Tails of the same epoch and second. */
#define IDS_MAX 1000u

struct diverged {
	struct fs *fs;
	struct diverged_sink *sink; /* borrowed */
	struct kv_iter *before;
	bool resumed, opened, dirty; /* something was kept; since the last sync */
	char id[DIVERGED_ID_MAX];
	uint64_t epoch, leader_epoch, first_seq, last_seq; /* of the history that ends here; whose takes its place */
	int64_t began_ns;
	uint64_t rows, files, bytes, lost_bytes, cold_bytes;
	uint64_t last_ino;   /* data was put of it last */
	struct buf old;      /* the row as it was */
	struct buf last;     /* key of the row kept last: a put that is tried again for want of space keeps it once */
	uint8_t *now, *data; /* a value of the index; a leaf's blocks */
};

/* ---- the index as it was ---- */

static int before_get(struct diverged *d, struct slice key, struct slice *ret_value)
{
	const struct kv_ops *ops = d->fs->kv->ops;

	ops->iter_seek(d->before, key);
	if (!ops->iter_valid(d->before)) {
		int r = ops->iter_error(d->before);
		return r < 0 ? r : -ENOENT;
	}
	struct slice found = ops->iter_key(d->before);
	if (found.len != key.len || memcmp(found.p, key.p, key.len) != 0)
		return -ENOENT;
	*ret_value = ops->iter_value(d->before);
	return 0;
}

static int before_inode(struct diverged *d, uint64_t ino, struct inode *ret)
{
	struct index_key k = key_ino(TABLE_INODE, ino);
	struct slice value;
	int r = before_get(d, key_slice(&k), &value);

	return r < 0 ? r : inode_decode(value, ino, ret);
}

/* The name of `in`, borrowed until the iterator moves; -ENOENT when it has lost it. */
static int before_name(struct diverged *d, const struct inode *in, struct slice *ret)
{
	struct index_key k = key_pair(TABLE_COOKIE, in->parent, in->cookie);
	struct dentry named;
	struct slice value;
	int r = before_get(d, key_slice(&k), &value);

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
		if (depth == DEPTH_MAX || before_inode(d, ino, &in) < 0 || before_name(d, &in, &name) < 0 ||
		    !path_prepend(p, name))
			return false;
	return true;
}

/* ---- lines ---- */

static void put_int(json_t *o, const char *name, uint64_t v)
{
	json_object_set_new(o, name, json_integer((json_int_t)v));
}

static void put_hex(json_t *o, const char *name, struct slice s)
{
	CLEANUP_BUF struct buf hex = {0}, member = {0};

	for (size_t i = 0; i < s.len; i++)
		buf_printf(&hex, "%02x", ((const uint8_t *)s.p)[i]);
	buf_printf(&member, "%s_hex", name);
	if (!hex.failed && !member.failed)
		json_object_set_new(o, (const char *)member.p, json_stringn((const char *)hex.p, hex.len));
}

static void put_text(json_t *o, const char *name, struct slice s)
{
	json_t *text = json_stringn(s.p, s.len); /* NULL: no UTF-8 */

	if (text)
		json_object_set_new(o, name, text);
	else
		put_hex(o, name, s);
}

static void put_path(struct diverged *d, json_t *o, uint64_t ino, struct slice name)
{
	CLEANUP_FREE struct path *p = malloc(sizeof(*p));

	if (!p)
		return;
	p->at = sizeof(p->b);
	if ((!name.len || path_prepend(p, name)) && path_of(d, ino, p)) {
		struct slice path = {p->b + p->at, sizeof(p->b) - p->at};
		put_text(o, "path", path.len ? path : (struct slice){"/", 1});
	}
}

static void tell_inode(json_t *o, uint64_t ino, struct slice value)
{
	struct inode in;
	char mode[16];

	if (inode_decode(value, ino, &in) < 0) {
		put_hex(o, "unreadable", value);
		return;
	}
	snprintf(mode, sizeof(mode), "%06o", in.mode);
	json_object_set_new(o, "mode", json_string(mode));
	put_int(o, "uid", in.uid);
	put_int(o, "gid", in.gid);
	put_int(o, "nlink", in.nlink);
	put_int(o, "size", in.size);
	put_int(o, "rdev", in.rdev);
	put_int(o, "atime_ns", (uint64_t)in.atime_ns);
	put_int(o, "mtime_ns", (uint64_t)in.mtime_ns);
	put_int(o, "ctime_ns", (uint64_t)in.ctime_ns);
	put_int(o, "btime_ns", (uint64_t)in.btime_ns);
}

static void tell_dentry(json_t *o, struct slice key, struct slice value)
{
	struct dentry_value v;

	put_int(o, "parent", row_ino(key));
	put_text(o, "name", row_name(key));
	if (value.len != sizeof(v)) {
		put_hex(o, "unreadable", value);
		return;
	}
	memcpy(&v, value.p, sizeof(v));
	put_int(o, "ino", le64_get(v.ino));
	put_int(o, "cookie", le64_get(v.cookie));
}

static void tell_epoch(json_t *o, struct slice key, struct slice value)
{
	le64 seq;

	put_int(o, "epoch", row_ino(key));
	if (value.len != sizeof(seq))
		return;
	memcpy(&seq, value.p, sizeof(seq));
	put_int(o, "seq", le64_get(seq));
}

/* As it is named in its store. */
static void put_object(json_t *o, uint64_t object)
{
	char text[24];

	snprintf(text, sizeof(text), "%016llx", (unsigned long long)object);
	json_object_set_new(o, "object", json_string(text));
}

static void tell_object(json_t *o, uint64_t object, struct slice value)
{
	struct object_row row;

	put_object(o, object);
	if (object_row_decode(object, value, &row) < 0) {
		put_hex(o, "unreadable", value);
		return;
	}
	put_int(o, "store", row.store);
	put_int(o, "bytes", row.bytes);
	put_int(o, "live", row.n_live);
}

/* All but E rows. */
static void tell(json_t *o, struct slice key, struct slice value)
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
		put_int(o, "snapshot", row_ino(key));
		if (value.len > sizeof(struct snap_value))
			put_text(o, "name",
				 (struct slice){(const uint8_t *)value.p + sizeof(struct snap_value),
						value.len - sizeof(struct snap_value)});
		return;
	default:
		put_int(o, "ino", row_ino(key));
	}
	switch (row_table(key)) {
	case TABLE_INODE:
		tell_inode(o, row_ino(key), value);
		return;
	case TABLE_TARGET:
		put_text(o, "target", value);
		return;
	case TABLE_POLICY:
		put_text(o, "key", row_name(key));
		put_text(o, "value", value);
		return;
	case TABLE_XATTR:
		put_text(o, "name", row_name(key));
		put_hex(o, "value", value);
		return;
	default: /* an orphan says no more */
		return;
	}
}

static void tell_path(struct diverged *d, json_t *o, struct slice key)
{
	if (row_table(key) == TABLE_DENTRY)
		put_path(d, o, row_ino(key), row_name(key));
	else if (row_table(key) != TABLE_HISTORY && row_table(key) != TABLE_OBJECT && row_table(key) != TABLE_SNAP)
		put_path(d, o, row_ino(key), (struct slice){0});
}

/* ---- the tail ---- */

/* "e3.1-20250102T030405Z": the epoch that ends here, and when. */
static int open_tail(struct diverged *d)
{
	time_t seconds = (time_t)(d->began_ns / NSEC_PER_SEC);
	char when[32], again[16] = "";
	struct tm tm;
	int r = -EEXIST;

	if (d->opened)
		return 0;
	gmtime_r(&seconds, &tm);
	strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &tm);
	for (unsigned i = 1; i < IDS_MAX && r == -EEXIST; i++) {
		if (i > 1)
			snprintf(again, sizeof(again), "-%u", i);
		snprintf(d->id, sizeof(d->id), "e%llu.%u-%s%s", (unsigned long long)epoch_counter(d->epoch), epoch_node(d->epoch),
			 when, again);
		r = d->sink->ops->open(d->sink, d->id);
	}
	d->opened = r == 0;
	if (r < 0)
		log_error("what only this node had cannot be kept under diverged/: %s", strerror(-r));
	else
		log_warn("what only this node had is kept under diverged/%s", d->id);
	return r;
}

static json_t *info_json(struct diverged *d, bool complete)
{
	const struct super *s = &d->fs->super;
	char volume[UUID_TEXT], node[UUID_TEXT];

	uuid_text(s->volume, volume);
	uuid_text(s->node, node);
	return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:I, s:I, s:I, s:I, s:I}", "id", d->id,
			 "volume", volume, "node", node, "node_id", (json_int_t)s->node_id, "epoch", (json_int_t)d->epoch,
			 "leader_epoch", (json_int_t)d->leader_epoch, "first_seq", (json_int_t)d->first_seq, "last_seq",
			 (json_int_t)d->last_seq, "when_ns", (json_int_t)d->began_ns, "complete", complete, "resumed", d->resumed,
			 "rows", (json_int_t)d->rows, "files", (json_int_t)d->files, "bytes", (json_int_t)d->bytes, "lost_bytes",
			 (json_int_t)d->lost_bytes, "cold_bytes", (json_int_t)d->cold_bytes);
}

int diverged_sync(struct diverged *d, bool complete)
{
	if (!d->opened || (!d->dirty && !complete))
		return 0;
	json_t *info = info_json(d, complete);
	CLEANUP_FREE char *text = info ? json_dumps(info, JSON_INDENT(2)) : NULL;
	json_decref(info);
	int r = text ? d->sink->ops->sync(d->sink, slice_of(text)) : -ENOMEM;
	if (r == 0)
		d->dirty = false;
	return r;
}

/* Takes `o` over. */
static int put_line(struct diverged *d, json_t *o)
{
	CLEANUP_FREE char *text = json_dumps(o, JSON_COMPACT);
	int r = open_tail(d);

	json_decref(o);
	if (r == 0)
		r = text ? d->sink->ops->put_line(d->sink, slice_of(text)) : -ENOMEM;
	if (r == 0) {
		d->dirty = true;
		d->rows++;
	}
	return r;
}

static json_t *line_new(struct slice key, bool gone)
{
	const char table[2] = {(char)row_table(key), '\0'};

	return json_pack("{s:s, s:b}", "table", table, "gone", gone);
}

/* ---- what goes ---- */

static int keep_blocks(struct diverged *d, struct slice key, unsigned slot, unsigned n)
{
	uint64_t off = (row_leaf(key) * LEAF_SLOTS + slot) * BLOCK_SIZE;
	int r = open_tail(d);

	if (r == 0)
		r = d->sink->ops->put_data(d->sink, row_ino(key), off, d->data + (size_t)slot * BLOCK_SIZE,
					   (size_t)n * BLOCK_SIZE);
	if (r == 0)
		d->dirty = true;
	return r;
}

static void count_blocks(struct diverged *d, uint64_t ino, uint16_t kept, uint16_t lost)
{
	d->bytes += (uint64_t)__builtin_popcount(kept) * BLOCK_SIZE;
	d->lost_bytes += (uint64_t)__builtin_popcount(lost) * BLOCK_SIZE;
	if (!kept)
		return;
	d->files += d->last_ino != ino;
	d->last_ino = ino;
}

/* Runs of slots in `mask` as [[offset, bytes], ...] in o; with `keep` their blocks go to the sink, too. */
static int tell_slots(struct diverged *d, json_t *o, const char *name, struct slice key, uint16_t mask, bool keep)
{
	json_t *list = json_array();
	int r = 0;

	for (unsigned i = 0, n; i < LEAF_SLOTS && r == 0; i += n) {
		for (n = 0; i + n < LEAF_SLOTS && (mask >> (i + n) & 1); n++)
			;
		if (n == 0) {
			n = 1;
			continue;
		}
		json_array_append_new(list, json_pack("[I, I]", (json_int_t)((row_leaf(key) * LEAF_SLOTS + i) * BLOCK_SIZE),
						      (json_int_t)(n * BLOCK_SIZE)));
		r = keep ? keep_blocks(d, key, i, n) : 0;
	}
	if (mask)
		json_object_set(o, name, list);
	json_decref(list);
	return r;
}

/* Slots of `cold` whose data was recalled, and is what their CRC says, to their places. */
static uint16_t take_recalled(struct diverged *d, const struct leaf *l, uint16_t cold)
{
	uint16_t good = 0;

	if (!cold || !recalled_get(d->fs, &l->object, cold, d->data))
		return 0;
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if ((cold >> i & 1) && crc32c(0, d->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) == l->slot[i].crc)
			good |= (uint16_t)(1u << i);
	return good;
}

/* Where the data of slots that were not recalled is. */
static int tell_cold(struct diverged *d, json_t *o, struct slice key, const struct leaf *l, uint16_t cold)
{
	if (!cold)
		return 0;
	put_object(o, l->object.id);
	json_object_set_new(o, "frame", json_pack("[I, I]", (json_int_t)l->object.offset, (json_int_t)l->object.len));
	d->cold_bytes += (uint64_t)__builtin_popcount(cold) * BLOCK_SIZE;
	return tell_slots(d, o, "cold", key, cold, false);
}

static int keep_leaf(struct diverged *d, const struct row *r)
{
	json_t *o = line_new(r->key, !r->value.p);
	uint16_t good = 0, lost = 0;
	struct inode in;
	struct leaf old;
	int e = 0;

	put_int(o, "ino", row_ino(r->key));
	if (before_inode(d, row_ino(r->key), &in) == 0) /* its own row may be the same as the leader's, and not be kept */
		put_int(o, "size", in.size);
	put_int(o, "offset", row_leaf(r->key) * LEAF_SLOTS * BLOCK_SIZE);
	if (leaf_decode(d->old.p, d->old.len, &old) < 0) {
		put_hex(o, "unreadable", (struct slice){d->old.p, d->old.len});
	} else {
		struct leaf_row was = leaf_row_of(&old);
		uint16_t mask = leaf_row_going(&was, r), cold = mask & leaf_cold(&old);

		good = resync_read_homes(d->fs, &old, mask, d->data) | take_recalled(d, &old, cold);
		cold &= (uint16_t)~good;
		lost = mask & (uint16_t)~good & (uint16_t)~cold;
		e = tell_slots(d, o, "data", r->key, good, true);
		if (e == 0)
			e = tell_cold(d, o, r->key, &old, cold);
		if (e == 0)
			e = tell_slots(d, o, "lost", r->key, lost, false);
		if (e == 0)
			e = tell_slots(d, o, "unwritten", r->key, was.unwritten, false);
	}
	tell_path(d, o, r->key);
	if (e < 0) {
		json_decref(o);
		return e;
	}
	e = put_line(d, o);
	if (e == 0)
		count_blocks(d, row_ino(r->key), good, lost);
	return e;
}

static int keep_row(struct diverged *d, const struct row *r)
{
	json_t *o = line_new(r->key, !r->value.p);

	tell(o, r->key, (struct slice){d->old.p, d->old.len});
	tell_path(d, o, r->key);
	return put_line(d, o);
}

/* True when the leader's row says the same as the one that was. */
static bool says_the_same(const struct diverged *d, const struct row *r)
{
	struct leaf_row was, is;
	struct leaf old;

	if (!r->value.p)
		return false;
	if (row_table(r->key) != TABLE_EXTENT)
		return r->value.len == d->old.len && memcmp(r->value.p, d->old.p, d->old.len) == 0;
	if (leaf_decode(d->old.p, d->old.len, &old) < 0 || leaf_row_decode(r->value, &is) < 0)
		return false;
	was = leaf_row_of(&old);
	/* Where else the data is, is no loss. */
	return was.mapped == is.mapped && was.unwritten == is.unwritten && memcmp(was.crc, is.crc, sizeof(was.crc)) == 0;
}

/* 1: the index still has the row as it was; 0: this resync has replaced it before. */
static int still_here(struct diverged *d, struct slice key)
{
	size_t len;
	int r = kv_get(d->fs->kv, key, d->now, RECORD_VALUE_MAX, &len);

	if (r == -ENOENT)
		return 0;
	return r < 0 ? r : len == d->old.len && memcmp(d->now, d->old.p, len) == 0;
}

static bool kept_last(const struct diverged *d, struct slice key)
{
	return d->last.len == key.len && memcmp(d->last.p, key.p, key.len) == 0;
}

int diverged_keep(struct diverged *d, const struct row *r)
{
	struct slice value;
	int e = before_get(d, r->key, &value);

	if (e < 0)
		return e == -ENOENT ? 0 : e;
	buf_reset(&d->old);
	buf_put(&d->old, value.len ? value.p : "", value.len);
	if (d->old.failed)
		return -ENOMEM;
	e = says_the_same(d, r) || kept_last(d, r->key) ? 0 : still_here(d, r->key);
	if (e <= 0)
		return e;
	e = row_table(r->key) == TABLE_EXTENT ? keep_leaf(d, r) : keep_row(d, r);
	buf_reset(&d->last);
	if (e == 0)
		buf_put(&d->last, r->key.p, r->key.len);
	return d->last.failed ? -ENOMEM : e;
}

/* ---- begin and end ---- */

/* Which batches the history that ends here has: from where its epoch began. */
static void find_seqs(struct diverged *d)
{
	struct index_key k = key_ino(TABLE_HISTORY, d->epoch);
	struct journal_status js;
	struct slice value;
	le64 seq = {0};

	if (before_get(d, key_slice(&k), &value) == 0 && value.len == sizeof(seq))
		memcpy(&seq, value.p, sizeof(seq));
	journal_get_status(d->fs->journal, &js);
	d->first_seq = le64_get(seq) + 1;
	d->last_seq = js.durable_seq;
}

int diverged_new(struct fs *fs, uint64_t leader_epoch, bool resumed, struct diverged **ret)
{
	if (!fs->config.diverged) {
		log_error("a resync would replace what only this node has, and there is no place to keep it");
		return -EOPNOTSUPP;
	}
	struct diverged *d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	*d = (struct diverged){.fs = fs,
			       .sink = fs->config.diverged,
			       .resumed = resumed,
			       .epoch = atomic_load(&fs->history),
			       .leader_epoch = leader_epoch,
			       .began_ns = clock_real_ns(fs->clock),
			       .now = malloc(RECORD_VALUE_MAX)};
	int r = d->now && posix_memalign((void **)&d->data, DISK_BLOCK, LEAF_SLOTS * BLOCK_SIZE) == 0 ? 0 : -ENOMEM;
	if (r == 0)
		r = fs->kv->ops->iter_open(fs->kv, &d->before);
	if (r < 0) {
		diverged_end(d);
		return r;
	}
	find_seqs(d);
	*ret = d;
	return 0;
}

struct diverged *diverged_end(struct diverged *d)
{
	if (!d)
		return NULL;
	if (d->opened)
		d->sink->ops->close(d->sink);
	if (d->before)
		d->fs->kv->ops->iter_close(d->before);
	buf_free(&d->old);
	buf_free(&d->last);
	free(d->now);
	free(d->data);
	free(d);
	return NULL;
}
