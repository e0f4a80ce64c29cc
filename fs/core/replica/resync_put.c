/*
 * resync_put.c: a row of the leader takes its place in the index, with what is local beside it.
 *
 * A name brings its place in the order of the directory (table C), an inode the count of inodes, a leaf its blocks: new ones
 * for the data that was brought, those it had for data that is the same, promises for what is unwritten; what it had and does
 * not need goes into limbo.  Each row is one batch of the index, so nothing is ever done by halves; doing it again changes
 * nothing.  What the row replaces is kept first, when that was asked for.
 *
 * The caller holds the gate, shared, and the stripe of the row's inode.  Caches are not written through: they forget what they
 * had.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/replica/resync.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"

/* ---- a leaf ---- */

/* A leaf on its way to become what a row says. */
struct change {
	struct fs *fs;
	const struct row *row;
	struct leaf_row want;
	struct leaf old, new;
	uint16_t fresh; /* slots that get new blocks, whose data is in resync->room */
	struct run runs[LEAF_SLOTS];
	uint32_t n_runs;
	uint64_t promised; /* blocks reserved */
};

/* The data brought for the slots in c->fresh, checked, to their places in the room. */
static int take_data(struct change *c, const struct leaf_data *d, const uint8_t *blocks)
{
	uint8_t *room = c->fs->resync->room;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		uint8_t *to = room + (size_t)i * BLOCK_SIZE;
		bool superseded = d && (d->superseded >> i & 1);

		if (!d || !(d->wanted >> i & 1))
			continue;
		if (c->fresh >> i & 1) {
			if (d->crc[i] != c->want.crc[i])
				return -EUCLEAN;
			if (superseded)
				memset(to, 0, BLOCK_SIZE);
			else if (crc32c(0, blocks, BLOCK_SIZE) != d->crc[i])
				return -EBADMSG;
			else
				memcpy(to, blocks, BLOCK_SIZE);
		}
		if (!superseded)
			blocks += BLOCK_SIZE;
	}
	return 0;
}

/*
 * What each slot becomes, but for the homes of fresh ones.  What is brought is taken, what is not must be here, or in the row's
 * object: then it is cold, and so is what the leader has not any more.
 */
static int plan(struct change *c, const struct leaf_data *d, const uint8_t *blocks)
{
	uint16_t data = leaf_row_data(&c->want), brought = d ? d->wanted : 0, held = leaf_row_held(&c->want, &c->old);
	uint32_t birth = (uint32_t)atomic_load(&c->fs->snapshot_generation);

	c->fresh = data & brought & (uint16_t) ~(d ? d->superseded & c->want.tiered : 0);
	if (data & ~brought & ~held & ~c->want.tiered)
		return -EINVAL;
	if (held & c->want.tiered & ~c->fresh)
		held &= (uint16_t) ~(resync_doubtful(c->fs, &c->old) & c->want.tiered);
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const struct slot *was = &c->old.slot[i];
		struct slot *is = &c->new.slot[i];

		if (c->fresh >> i & 1)
			*is = (struct slot){.crc = c->want.crc[i], .birth = d->superseded >> i & 1 ? BIRTH_SUPERSEDED : birth};
		else if (data & held & ~brought & 1u << i)
			*is = *was;
		else if (data >> i & 1)
			*is = (struct slot){.crc = c->want.crc[i]};
		else if (c->want.unwritten >> i & 1) /* a home of its own is the space promised */
			*is = was->shared
				  ? (struct slot){.unwritten = true}
				  : (struct slot){.home = was->home, .birth = slot_birth_of_space(c->fs, was), .unwritten = true};
		is->tiered = c->want.tiered >> i & 1;
	}
	c->new.object = c->want.object;
	c->new.pack = c->old.pack;
	leaf_settle(&c->new);
	return take_data(c, d, blocks);
}

static int64_t count_reserved(const struct leaf *l)
{
	int64_t n = 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		n += slot_reserved(&l->slot[i]);
	return n;
}

static void undo(struct change *c)
{
	for (uint32_t i = 0; i < c->n_runs; i++)
		arena_unalloc(c->fs->arena, c->runs[i]);
	arena_unreserve(c->fs->arena, c->promised);
}

/* Space for what is promised and for what has data; homes for the latter. */
static int give_space(struct change *c)
{
	int64_t more = count_reserved(&c->new) - count_reserved(&c->old);
	int r = more > 0 ? arena_reserve(c->fs->arena, (uint64_t)more) : 0;

	if (r < 0)
		return r;
	c->promised = more > 0 ? (uint64_t)more : 0;
	if (!c->fresh)
		return 0;
	r = arena_alloc(c->fs->arena, (uint64_t)__builtin_popcount(c->fresh), 0, false, c->runs, ARRAY_SIZE(c->runs), &c->n_runs);
	for (uint32_t run = 0, at = 0, i = 0; r == 0 && run < c->n_runs; i++) {
		if (!(c->fresh >> i & 1))
			continue;
		c->new.slot[i].home = pointer_add(c->runs[run].start, at++);
		if (at == c->runs[run].n_blocks) {
			run++;
			at = 0;
		}
	}
	return r;
}

static int write_data(struct change *c)
{
	struct arena_write w[LEAF_SLOTS];
	size_t n = 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const uint8_t *from = c->fs->resync->room + (size_t)i * BLOCK_SIZE;
		struct arena_write *last = n ? &w[n - 1] : NULL;
		pointer_t home = c->new.slot[i].home;

		if (!(c->fresh >> i & 1))
			continue;
		if (last && home == pointer_add(last->at, last->n_blocks) &&
		    from == (const uint8_t *)last->p + last->n_blocks * BLOCK_SIZE)
			last->n_blocks++;
		else
			w[n++] = (struct arena_write){.at = home, .n_blocks = 1, .p = from};
	}
	int r = n ? arena_write_many(c->fs->arena, w, n) : 0;
	if (r < 0)
		fs_fail(c->fs, r, "writing data to the arena");
	return r;
}

static int store_leaf(struct change *c)
{
	uint64_t ino = row_ino(c->row->key), leaf = row_leaf(c->row->key);
	struct kv_batch *b = index_batch();

	index_put_leaf(b, ino, leaf, &c->new);
	int r = kv_write(c->fs->kv, b);
	if (r < 0)
		return r;
	lcache_forget(c->fs->lcache, ino, leaf);
	extent_replaced(c->fs, NULL, ino, &c->old, &c->new, NULL);
	if (c->fresh)
		squeeze_offer(c->fs, ino, leaf, 1);
	int64_t back = count_reserved(&c->old) - count_reserved(&c->new);
	if (back > 0)
		arena_unreserve(c->fs->arena, (uint64_t)back);
	return 0;
}

/* The counts are right at each moment between two rows; of a row nothing is done by halves. */
static int put_leaf(struct fs *fs, const struct row *r, const struct leaf_data *d, const uint8_t *blocks)
{
	struct change c = {.fs = fs, .row = r};
	int e = r->value.p ? leaf_row_decode(r->value, &c.want) : 0;

	if (e == 0)
		e = resync_leaf_here(fs, r->key, &c.old);
	if (e == 0)
		e = plan(&c, d, blocks);
	if (e == 0)
		e = give_space(&c);
	if (e == 0)
		e = write_data(&c);
	if (e == 0)
		e = store_leaf(&c);
	if (e < 0)
		undo(&c);
	else
		fs->resync->bytes += (uint64_t)__builtin_popcount(c.fresh) * BLOCK_SIZE;
	return e;
}

/* ---- other rows ---- */

static int exists(struct fs *fs, struct slice key, bool *ret)
{
	uint8_t byte;
	size_t len;
	int r = kv_get(fs->kv, key, &byte, sizeof(byte), &len);

	*ret = r == 0 || r == -ERANGE;
	return r == -ENOENT || r == -ERANGE ? 0 : r;
}

static void put_or_delete(struct kv_batch *b, const struct row *r)
{
	if (r->value.p)
		kv_batch_put(b, r->key, r->value);
	else
		kv_batch_delete(b, r->key);
}

static int put_plain(struct fs *fs, const struct row *r)
{
	struct kv_batch *b = index_batch();

	put_or_delete(b, r);
	return kv_write(fs->kv, b);
}

static int put_inode(struct fs *fs, const struct row *r)
{
	uint64_t ino = row_ino(r->key);
	bool had;
	int e = exists(fs, r->key, &had);

	if (e == 0)
		e = put_plain(fs, r);
	if (e < 0)
		return e;
	icache_forget(fs->icache, ino);
	if (r->value.p)
		raise_u64(&fs->next_ino, ino + 1);
	if (had != (r->value.p != NULL))
		atomic_fetch_add(&fs->n_inodes, had ? UINT64_MAX : 1);
	return 0;
}

/* The name at `cookie` of a directory, into `ret` (its memory is k); false when there is none. */
static bool name_at(struct fs *fs, uint64_t parent, uint64_t cookie, struct index_key *ret)
{
	struct index_key k = key_pair(TABLE_COOKIE, parent, cookie);
	uint8_t value[sizeof(struct cookie_value) + RECORD_NAME_MAX];
	struct dentry d;
	struct slice name;
	size_t len;

	if (kv_get(fs->kv, key_slice(&k), value, sizeof(value), &len) < 0 ||
	    cookie_decode((struct slice){value, len}, &d, &name) < 0)
		return false;
	*ret = key_name(TABLE_DENTRY, parent, name);
	return true;
}

/*
 * A name takes a cookie that another name has here, as it can where two histories gave it out.  In the leader's directory the
 * other one is gone, or has a new cookie: it goes now, so that each name is listed once and each cookie names one.
 */
static int give_way(struct fs *fs, const struct row *r, uint64_t cookie)
{
	uint64_t parent = row_ino(r->key);
	struct index_key other;
	struct dentry d;

	if (!name_at(fs, parent, cookie, &other) || (other.len == r->key.len && memcmp(other.b, r->key.p, other.len) == 0))
		return 0;
	const struct row gone = {.key = key_slice(&other)};
	int e = index_get_dentry(fs->kv, parent, row_name(gone.key), &d);
	if (e < 0 || d.cookie != cookie)
		return e == -ENOENT || e == -EUCLEAN ? 0 : e;
	e = fs->resync->kept ? diverged_keep(fs->resync->kept, &gone) : 0;
	return e < 0 ? e : put_plain(fs, &gone);
}

static int put_dentry(struct fs *fs, const struct row *r)
{
	uint64_t parent = row_ino(r->key);
	struct slice name = row_name(r->key);
	struct dentry old, new;
	struct dentry_value v;
	int e = index_get_dentry(fs->kv, parent, name, &old);
	bool had = e == 0;

	if (e < 0 && e != -ENOENT && e != -EUCLEAN)
		return e;
	if (r->value.p) {
		memcpy(&v, r->value.p, sizeof(v));
		new = (struct dentry){.ino = le64_get(v.ino), .cookie = le64_get(v.cookie), .type = le32_get(v.type)};
		e = give_way(fs, r, new.cookie);
		if (e < 0)
			return e;
	}
	struct kv_batch *b = index_batch();
	if (had)
		index_delete_dentry(b, parent, name, old.cookie);
	else if (!r->value.p)
		kv_batch_delete(b, r->key);
	if (r->value.p)
		index_put_dentry(b, parent, name, &new);
	return kv_write(fs->kv, b);
}

int resync_put_row(struct fs *fs, const struct row *r, const struct leaf_data *d, const uint8_t *blocks)
{
	int e = fs->resync->kept ? diverged_keep(fs->resync->kept, r) : 0;

	if (e < 0)
		return e;
	switch (row_table(r->key)) {
	case TABLE_DENTRY:
		return put_dentry(fs, r);
	case TABLE_EXTENT:
		return put_leaf(fs, r, d, blocks);
	case TABLE_INODE:
		return put_inode(fs, r);
	case TABLE_SNAP:
		return snap_put_row(fs, row_ino(r->key), r->value);
	default:
		return put_plain(fs, r);
	}
}
