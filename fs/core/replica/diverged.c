/*
 * diverged.c: a resync that replaces a history keeps what only this node had: each row and each block, before it goes.
 *
 * Paths are told from the index as it was when the resync began: an iterator opened then is a snapshot, and stays while names
 * change under it.  It also says what is this node's own: a row that the index has no longer as the snapshot has it was
 * replaced by this resync already, and kept then; of a leaf that holds slot by slot.
 *
 * A resync that goes on after a restart has a snapshot of a volume half changed.  It keeps into a tail of its own, in which rows
 * of the leader's earlier state may be found beside this node's ("resumed" in info.json); nothing kept earlier is written over.
 *
 * A row is a line of JSON: "table" as in index_format.h and what the row says in words; "gone" when the leader has none in its
 * place, or only until it is reaped (resync_keep.c); "path" where there is one.  Bytes that are no UTF-8 are told in hexadecimal,
 * under the member's name and "_hex".
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/replica/diverged_impl.h"

/* Tails of the same epoch and second. */
#define IDS_MAX 1000u

/* ---- the index as it was ---- */

int diverged_row_before(struct diverged *d, struct slice key, struct slice *ret_value)
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

int diverged_inode_before(struct diverged *d, uint64_t ino, struct inode *ret)
{
	struct index_key k = key_ino(TABLE_INODE, ino);
	struct slice value;
	int r = diverged_row_before(d, key_slice(&k), &value);

	return r < 0 ? r : inode_decode(value, ino, ret);
}

/* ---- the tail ---- */

/* "e3.1-20250102T030405Z": the epoch that ends here, and when. */
int diverged_open_tail(struct diverged *d)
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
int diverged_put_line(struct diverged *d, json_t *o)
{
	CLEANUP_FREE char *text = json_dumps(o, JSON_COMPACT);
	int r = diverged_open_tail(d);

	json_decref(o);
	if (r == 0)
		r = text ? d->sink->ops->put_line(d->sink, slice_of(text)) : -ENOMEM;
	if (r == 0) {
		d->dirty = true;
		d->rows++;
	}
	return r;
}

/* ---- what goes ---- */

int diverged_still_here(struct diverged *d, struct slice key)
{
	size_t len;
	int r = kv_get(d->fs->kv, key, d->now, RECORD_VALUE_MAX, &len);

	if (r == -ENOENT)
		return 0;
	return r < 0 ? r : len == d->old.len && memcmp(d->now, d->old.p, len) == 0;
}

/* An inode that waits to be reaped. */
static bool is_nameless(const struct row *r)
{
	struct inode in;

	return row_table(r->key) == TABLE_INODE && r->value.p && inode_decode(r->value, row_ino(r->key), &in) == 0 &&
	       in.nlink == 0;
}

static int keep_row(struct diverged *d, const struct row *r)
{
	json_t *o = line_new(r->key, !r->value.p || is_nameless(r));

	line_row(o, r->key, (struct slice){d->old.p, d->old.len});
	line_path(d, o, r->key);
	return diverged_put_line(d, o);
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
	return leaf_row_equal(&was, &is);
}

/* One that cannot be read may have had a name. */
static int named_before(struct diverged *d, uint64_t ino, bool *ret)
{
	struct inode in;
	int r = diverged_inode_before(d, ino, &in);

	*ret = r == -EUCLEAN || (r == 0 && in.nlink > 0);
	return r == -EUCLEAN || r == -ENOENT ? 0 : r;
}

/* It had a name when the resync began, and the index has it without by now: it was kept whole before (resync_keep.c). */
static int lost_its_name(struct diverged *d, uint64_t ino, bool *ret)
{
	struct inode in;
	int r = index_get_inode(d->fs->kv, ino, &in);

	*ret = false;
	if (r == 0 && in.nlink == 0)
		return named_before(d, ino, ret);
	return r == -EUCLEAN || r == -ENOENT ? 0 : r;
}

int diverged_loses_name(struct diverged *d, const struct row *r, bool *ret)
{
	bool had = false, lost = false;
	int e = is_nameless(r) ? named_before(d, row_ino(r->key), &had) : 0;

	if (e == 0 && had)
		e = lost_its_name(d, row_ino(r->key), &lost);
	*ret = had && !lost;
	return e;
}

static bool is_of_inode(enum index_table table)
{
	return table == TABLE_EXTENT || table == TABLE_TARGET || table == TABLE_POLICY || table == TABLE_XATTR;
}

int diverged_next(struct diverged *d, enum index_table table, uint64_t ino, struct index_key *at)
{
	const struct kv_ops *ops = d->fs->kv->ops;
	const struct index_key first = key_ino(table, ino);

	ops->iter_seek(d->before, at->len ? key_slice(at) : key_slice(&first));
	if (at->len && ops->iter_valid(d->before))
		ops->iter_next(d->before);
	if (!ops->iter_valid(d->before)) {
		int r = ops->iter_error(d->before);
		return r < 0 ? r : -ENOENT;
	}
	struct slice key = ops->iter_key(d->before);
	if (key.len > INDEX_KEY_MAX || !key_within(key, table, ino))
		return -ENOENT;
	memcpy(at->b, key.p, key.len);
	at->len = key.len;
	return 0;
}

static bool kept_last(const struct diverged *d, struct slice key)
{
	return d->last.len == key.len && memcmp(d->last.p, key.p, key.len) == 0;
}

int diverged_keep(struct diverged *d, const struct row *r)
{
	struct slice value;
	bool whole = false;
	int e = diverged_row_before(d, r->key, &value);

	if (e < 0)
		return e == -ENOENT ? 0 : e;
	buf_reset(&d->old);
	buf_put(&d->old, value.len ? value.p : "", value.len);
	if (d->old.failed)
		return -ENOMEM;
	e = says_the_same(d, r) || kept_last(d, r->key) ? 0
	    : row_table(r->key) == TABLE_EXTENT         ? 1
							: diverged_still_here(d, r->key);
	if (e <= 0)
		return e;
	e = is_of_inode(row_table(r->key)) ? lost_its_name(d, row_ino(r->key), &whole) : 0;
	if (e < 0 || whole)
		return e;
	e = row_table(r->key) == TABLE_EXTENT ? diverged_keep_leaf(d, r) : keep_row(d, r);
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

	if (diverged_row_before(d, key_slice(&k), &value) == 0 && value.len == sizeof(seq))
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
