/*
 * restore_detach.c: what binds a restored volume to others goes: stores, objects, the archive, how many followers an fsync waits
 * for.
 *
 * It is one more resync, from the volume to itself at the same batch: rows of table Q go, leaves forget which object has them
 * too, since all of their data is here, and so do policies that name what only the other volume has.  A crash in between leaves a
 * volume between two states, which nobody serves.
 *
 * A slot whose data only a store of a tier had by the time its batch was archived cannot be made: it stays as it is, names its
 * object, cannot be read (EIO), and is counted.
 */
#include <errno.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "fs/core/archive/restore.h"
#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/replica/rows.h"

#define ROWS_MOST 256u

struct detach {
	struct fs *fs;
	struct buf rows; /* le16 length of key, le16 of value and 65535 for none, key, value */
	uint32_t n;
	uint8_t from[INDEX_KEY_MAX + 1]; /* the next row */
	size_t from_len;
	uint64_t unreachable;
	bool more;
};

static bool is_bound(struct slice key)
{
	static const char *const names[] = {"durability", "archive", "tier.key"};
	static const char prefixes[][16] = {"tier.store.", "archive."};
	struct slice name = row_name(key);

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (name.len == strlen(names[i]) && memcmp(name.p, names[i], name.len) == 0)
			return true;
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (name.len > strlen(prefixes[i]) && memcmp(name.p, prefixes[i], strlen(prefixes[i])) == 0)
			return true;
	return false;
}

static void change(struct detach *d, struct slice key, const uint8_t *value, size_t len)
{
	const le16 lens[2] = {le16_make((uint16_t)key.len), le16_make(value ? (uint16_t)len : UINT16_MAX)};

	buf_put(&d->rows, lens, sizeof(lens));
	buf_put(&d->rows, key.p, key.len);
	if (value)
		buf_put(&d->rows, value, len);
	d->n++;
}

static int change_leaf(struct detach *d, const struct row *r)
{
	uint8_t value[LEAF_ROW_BYTES_MAX];
	struct leaf_row leaf;
	struct leaf here;
	int e = leaf_row_decode(r->value, &leaf);

	if (e < 0 || !leaf.tiered)
		return e;
	e = index_get_leaf(d->fs->kv, row_ino(r->key), row_leaf(r->key), &here);
	if (e < 0)
		return e;
	uint16_t cold = leaf.tiered & (uint16_t)~leaf_row_held(&leaf, &here);
	if (cold) {
		d->unreachable += (uint64_t)__builtin_popcount(cold);
		return 0;
	}
	leaf.tiered = 0;
	leaf.object = (struct leaf_object){0};
	change(d, r->key, value, leaf_row_encode(&leaf, value));
	return 0;
}

static int look_at(void *ctx, const struct row *r)
{
	struct detach *d = ctx;

	if (d->n == ROWS_MOST) {
		memcpy(d->from, r->key.p, r->key.len);
		d->from_len = r->key.len;
		d->more = true;
		return 1;
	}
	switch (row_table(r->key)) {
	case TABLE_OBJECT:
		change(d, r->key, NULL, 0);
		return 0;
	case TABLE_POLICY:
		if (is_bound(r->key))
			change(d, r->key, NULL, 0);
		return 0;
	case TABLE_EXTENT:
		return change_leaf(d, r);
	default:
		return 0;
	}
}

static int put_changes(struct detach *d)
{
	const struct replica_ops *ops = fs_replica(d->fs)->ops;
	int r = d->rows.failed ? -ENOMEM : 0;

	for (size_t at = 0; at < d->rows.len && r == 0;) {
		le16 lens[2];
		const uint8_t *p = d->rows.p + at;

		memcpy(lens, p, sizeof(lens));
		size_t key = le16_get(lens[0]), value = le16_get(lens[1]);
		p += sizeof(lens);
		bool gone = value == UINT16_MAX;
		const struct row row = {.key = {p, key}, .value = {gone ? NULL : p + key, gone ? 0 : value}};
		r = ops->resync_put(fs_replica(d->fs), &row, NULL, NULL);
		at += sizeof(lens) + key + (gone ? 0 : value);
	}
	buf_reset(&d->rows);
	d->n = 0;
	return r;
}

static int detach_rows(struct detach *d)
{
	struct replica_volume *v = fs_replica(d->fs);
	int r;

	do {
		const struct slice from = {d->from_len ? d->from : NULL, d->from_len}, to = {0};

		d->more = false;
		r = v->ops->resync_rows(v, from, to, look_at, d);
		if (r == 0)
			r = put_changes(d);
	} while (r == 0 && d->more);
	return r;
}

int restore_detach(struct fs *fs, uint64_t epoch, uint64_t seq, uint64_t hash, uint64_t *ret_unreachable)
{
	struct replica_volume *v = fs_replica(fs);
	struct detach d = {.fs = fs};
	int r = v->ops->resync_begin(v, epoch, false);

	if (r == 0)
		r = detach_rows(&d);
	buf_free(&d.rows);
	if (r < 0)
		return r;
	const struct replica_view_info info = {.seq = seq,
					       .hash = hash,
					       .epoch = atomic_load(&fs->history),
					       .next_ino = atomic_load(&fs->next_ino),
					       .n_inodes = atomic_load(&fs->n_inodes),
					       .snapshot_generation = atomic_load(&fs->snapshot_generation)};
	*ret_unreachable = d.unreachable;
	return v->ops->resync_end(v, &info, 0);
}
