/*
 * parts.c: what snapshots have and no place in the arena leads to: data that is in an object, which only a pass over cold data
 * looks at, and slots of a packed frame that newer leaves are in with fewer slots, so that whoever read it there did not compare
 * them.
 *
 * A pass takes the snapshots one after the other, newest first.  A row differs from that of the next snapshot, or of the live
 * tree, only where its inode changed between the two, so only those are looked at where that is known (snap/marks.h), and of a
 * row what neither of them has in the same object or frame: so each slot of an object is read once, for the newest that has it.
 * Once the tree was set back, those two may both differ from an older one that is like a newer one, and then it is read again.
 *
 * A frame that neither has is on a deadlist, where it was read with the slots of the newest that has it (snaps.c); with the tree
 * set back that may be another one than this, so its slots are then compared here, too.
 *
 * The cursor is a key of leaves, its inode that of the snapshot.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/snap/marks.h"
#include "fs/core/snap/snap.h"

#define ROWS_A_STEP 1024u

/* Where a pass is; rows are of the snapshot `top`, inodes their own numbers. */
struct at {
	uint64_t top, ino, leaf;
};
/* The snapshot at hand, and what its rows are compared with. */
struct view {
	struct fs *fs;
	uint32_t top;
	struct held *held, *newer_held; /* owned; the latter NULL: the live tree comes next */
	struct kv *kv, *newer;
	uint64_t upto;
	bool cold;
};
/* A leaf that has any. */
struct part {
	uint16_t cold, packed;
	uint64_t ino, leaf;
	struct leaf_verdict verdict;
};

static void set_cursor(struct scrub_pass *p, const struct at *at)
{
	struct index_key k = key_pair(TABLE_EXTENT, snap_ino(at->top, at->ino), at->leaf);

	memcpy(p->cursor, k.b, k.len);
	p->cursor_len = (uint8_t)k.len;
}

static struct at get_cursor(const struct scrub_pass *p)
{
	if (p->cursor_len != 17)
		return (struct at){.top = SNAP_TOP_MAX};
	uint64_t ino = be64_get(p->cursor + 1);
	return (struct at){snap_ino_top(ino), snap_ino_own(ino), be64_get(p->cursor + 9)};
}

static void leave_snapshot(struct scrub_pass *p, uint64_t top)
{
	if (top == 0)
		begin_phase(p, PHASE_HEAL, 0);
	else
		set_cursor(p, &(struct at){.top = top - 1});
}

/* ---- a row ---- */

static bool has_frame(const struct leaf *l, const struct leaf *other)
{
	return other->pack.n_blocks && other->pack.start == l->pack.start && other->pack.birth == l->pack.birth;
}

static void take_away(struct part *part, const struct leaf *other)
{
	const struct leaf *l = &part->verdict.leaf;

	if (other->object.id == l->object.id && other->object.offset == l->object.offset)
		part->cold &= (uint16_t)~leaf_tiered(other);
	if (has_frame(l, other))
		part->packed &= (uint16_t)~leaf_packed(other);
}

/* What a newer leaf has of it was looked at there; what cannot be read has nothing. */
static void compare(const struct view *v, struct part *part)
{
	const struct leaf *l = &part->verdict.leaf;
	struct leaf live = {0}, newer = {0};

	icache_rdlock(v->fs->icache, part->ino);
	if (lcache_get(v->fs->lcache, part->ino, part->leaf, &live) < 0)
		live = (struct leaf){0};
	icache_rdunlock(v->fs->icache, part->ino);
	if (v->newer && index_get_leaf(v->newer, part->ino, part->leaf, &newer) < 0)
		newer = (struct leaf){0};
	if (!has_frame(l, &live) && !has_frame(l, &newer) && !snap_was_rolled(v->fs))
		part->packed = 0;
	take_away(part, &live);
	take_away(part, &newer);
}

static void look_at_row(const struct view *v, struct slice key, struct slice value, struct part *part)
{
	const uint8_t *k = key.p;
	struct leaf *l = &part->verdict.leaf;

	part->cold = part->packed = 0;
	if (leaf_decode(value.p, value.len, l) < 0)
		return; /* it was live, or is met by snaps.c: said there */
	part->ino = be64_get(k + 1);
	part->leaf = be64_get(k + 9);
	part->cold = v->cold ? leaf_tiered(l) : 0;
	part->packed = leaf_packed(l);
	if (part->cold | part->packed)
		compare(v, part);
}

/* ---- rows ---- */

/* Walks on to the first leaf that has any; *at is where to go on.  -ENOENT: there is no row left. */
static int walk(const struct view *v, struct kv_iter *it, struct marks_walk *marks, struct at *at, struct part *part,
		uint64_t *ret_bytes)
{
	const struct kv_ops *ops = v->kv->ops;
	uint64_t marked = 0;

	for (uint32_t n = 0; n < ROWS_A_STEP;) {
		if (!ops->iter_valid(it)) {
			int r = ops->iter_error(it);
			return r < 0 ? r : -ENOENT;
		}
		struct slice key = ops->iter_key(it), value = ops->iter_value(it);
		const uint8_t *k = key.p;
		if (key.len == 0 || k[0] != TABLE_EXTENT || (key.len == 17 && be64_get(k + 1) > SNAP_INO_MASK))
			return -ENOENT;
		if (key.len != 17) {
			ops->iter_next(it);
			continue;
		}
		int r = marks ? rows_to_marked(v->kv, it, marks, be64_get(k + 1), &marked) : 0;
		if (r < 0)
			return r;
		if (r == 1)
			continue;
		*ret_bytes += key.len + value.len;
		look_at_row(v, key, value, part);
		at->leaf = be64_get(k + 9) + 1;
		at->ino = be64_get(k + 1) + (at->leaf == 0);
		if (part->cold | part->packed)
			return 0;
		ops->iter_next(it);
		n++;
	}
	return 0;
}

static int next_part(const struct view *v, struct at *at, struct part *part, uint64_t *ret_bytes)
{
	struct index_key k = key_pair(TABLE_EXTENT, at->ino, at->leaf);
	bool marked = !v->fs->config.read_only && marks_reach(v->fs, v->top);
	struct marks_walk *marks = NULL;
	struct kv_iter *it;
	int r = marked ? marks_walk_open(v->fs, v->top, v->upto, at->ino, &marks) : 0;

	if (r == 0)
		r = v->kv->ops->iter_open(v->kv, &it);
	if (r == 0) {
		v->kv->ops->iter_seek(it, key_slice(&k));
		r = walk(v, it, marks, at, part, ret_bytes);
		v->kv->ops->iter_close(it);
	}
	marks_walk_close(marks);
	return r;
}

static int check_part(struct fs *fs, struct scrub_pass *p, uint64_t top, struct part *part, uint8_t *room, uint64_t *ret_bytes)
{
	struct leaf_verdict *v = &part->verdict;
	uint64_t ino = snap_ino(top, part->ino);
	int r = part->packed ? slots_verify(fs, ino, part->leaf, part->packed, room, v) : 0;

	if (r < 0)
		return r;
	uint64_t bytes = (uint64_t)__builtin_popcount(v->checked) * BLOCK_SIZE;
	*ret_bytes += bytes;
	p->checked_bytes += bytes;
	if (v->bad)
		repair_found(fs, p, ino, part->leaf, v);
	if (part->cold)
		check_cold(fs, p, ino, part->leaf, &v->leaf, part->cold, room);
	return 0;
}

static int step_view(struct scrub_pass *p, const struct view *v, struct at at, uint8_t *room, uint64_t *ret_bytes)
{
	struct part part = {.cold = 0};
	int r = next_part(v, &at, &part, ret_bytes);

	if (r == 0 && (part.cold | part.packed))
		r = check_part(v->fs, p, v->top, &part, room, ret_bytes);
	if (r == -ENOMEM || r == -EBUSY)
		return r;
	if (r == 0) {
		set_cursor(p, &at);
		return 0;
	}
	if (r != -ENOENT) {
		p->bad_rows++;
		log_error("damaged: the index of a snapshot cannot be read to its end: %s; delete the snapshot", strerror(-r));
	}
	leave_snapshot(p, v->top);
	return 0;
}

/* ---- snapshots ---- */

static int open_view(struct fs *fs, struct view *v)
{
	uint32_t next;
	int r = snap_get(fs, v->top, &v->held, &v->kv);

	if (r < 0)
		return r;
	v->upto = SNAP_TOP_MAX;
	if (!snap_held_above(fs, v->top, &next))
		return 0;
	v->upto = next;
	if (snap_get(fs, next, &v->newer_held, &v->newer) < 0) { /* gone or damaged: then more is looked at */
		v->newer_held = NULL;
		v->newer = NULL;
	}
	return 0;
}

static void close_view(struct view *v)
{
	snap_put(v->fs, v->held);
	if (v->newer_held)
		snap_put(v->fs, v->newer_held);
}

/* What was lost is in the cache of leaves until it is saved, and marked then. */
static int begin(struct fs *fs, const struct scrub_pass *p)
{
	return p->cursor_len == 17 || fs->config.read_only ? 0 : lcache_save(fs->lcache);
}

int step_parts(struct fs *fs, struct scrub_pass *p, uint8_t *room, uint64_t *ret_bytes)
{
	struct at at = get_cursor(p);
	struct view v = {.fs = fs, .cold = p->cold};

	if ((!p->cold && !atomic_load(&fs->packing_used)) || !snap_held_below(fs, at.top, &v.top)) {
		begin_phase(p, PHASE_HEAL, 0);
		return 0;
	}
	if (v.top != at.top)
		at = (struct at){.top = v.top};
	int r = begin(fs, p);
	if (r == 0)
		r = open_view(fs, &v);
	if (r == -ENOMEM)
		return r;
	if (r < 0) { /* deleted meanwhile; or its index cannot be read, which is said once */
		p->errors += r != -ESTALE;
		leave_snapshot(p, v.top);
		return 0;
	}
	r = step_view(p, &v, at, room, ret_bytes);
	close_view(&v);
	return r;
}
