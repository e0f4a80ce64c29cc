/*
 * snaps.c: blocks that only snapshots have: what no leaf of the live tree names any more, and a deadlist does.
 *
 * A deadlist has places and no files, so a snapshot's blocks are found through its own index.  A pass takes the snapshots one
 * after the other, newest first, and of each the part of its list that fits into a *round*: up to ROUND_BLOCKS places, in order.
 * The rows of the snapshot's index are walked once a round; a slot whose home is in the round is read and compared, and once all
 * of them were met the walk ends.  Where it is known which inodes changed between this snapshot and the next one (snap/marks.h),
 * only their rows are looked at, since no other block was lost on the way; should any be missing then, all rows are.  Each block
 * is on one list only, that of a snapshot as new as the last that has it or newer, so each is read once, however many snapshots
 * share it; and a snapshot whose list is empty costs nothing.  What is damaged is named by its path below .clawfs/snapshots, and
 * repaired where it is (repair.c).
 *
 * Once the tree was set back, a list may have blocks that only older snapshots have, or none any more; and so has the list of a
 * snapshot that is being deleted.  So what was not met goes on to the *view* of the snapshot before, newest first, as long as one
 * is as new as the birth of any of them.  A view that is read by marks comes after all newer ones, so what it has and the next
 * one has not lies in an inode that changed between the two.
 *
 * Newest first, because a list that is taken apart moves its blocks to the snapshot before: nothing is missed by that.  What the
 * live tree gives up meanwhile was looked at when it was live; what it takes back meanwhile, by going back, is left to the next
 * pass.
 *
 * The cursor is the key of the first place of the round.  A restart repeats the round it was in.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/snap/marks.h"
#include "fs/core/snap/snap.h"

#define ROUND_BLOCKS 262144u /* 1 GiB of data; 4 MiB of memory */
#define ROWS_A_STEP  1024u
#define ENTRY_BYTES  21u /* of a row of a deadlist, about what reading one costs */

struct snap_round {
	uint32_t top;  /* of the list */
	uint32_t view; /* of the index that is walked: that snapshot's, or an older one's */
	uint32_t n, cap, n_seen;
	bool last; /* the list ends with it; else it goes on at `next` */
	pointer_t next;
	bool saved;  /* what was lost until now is marked */
	bool own;    /* no other view was walked */
	bool marked; /* only rows of inodes that changed after `view`, up to `upto`, are looked at */
	uint64_t upto;
	struct dead_place {
		pointer_t home;
		uint32_t birth;
		bool seen;
	} * place;        /* owned; by home, rising */
	uint8_t from[17]; /* key of the next row of the view's index */
	size_t from_len;
};

void snap_round_free(struct snap_round *r)
{
	if (!r)
		return;
	free(r->place);
	free(r);
}

static void drop_round(struct fs *fs)
{
	snap_round_free(fs->scrub->round);
	fs->scrub->round = NULL;
}

static void set_cursor(struct scrub_pass *p, uint64_t top, pointer_t home)
{
	struct index_key k = key_pair(TABLE_DEAD, top, home);

	memcpy(p->cursor, k.b, k.len);
	p->cursor_len = (uint8_t)k.len;
}

/* What the cursor says; at the beginning of the phase every snapshot is still to come. */
static void get_cursor(const struct scrub_pass *p, uint64_t *ret_top, pointer_t *ret_home)
{
	bool set = p->cursor_len == 17;

	*ret_top = set ? be64_get(p->cursor + 1) : SNAP_TOP_MAX;
	*ret_home = set ? be64_get(p->cursor + 9) : 0;
}

static void leave_snapshot(struct fs *fs, struct scrub_pass *p, uint64_t top)
{
	drop_round(fs);
	if (top == 0)
		begin_phase(p, PHASE_PARTS, TABLE_EXTENT);
	else
		set_cursor(p, top - 1, 0);
}

/* ---- a round ---- */

static int grow(struct snap_round *r)
{
	uint32_t cap = r->cap ? 2 * r->cap : 1024;

	if (r->n < r->cap)
		return 0;
	struct dead_place *place = realloc(r->place, cap * sizeof(*place));
	if (!place)
		return -ENOMEM;
	r->place = place;
	r->cap = cap;
	return 0;
}

/* One entry; what was born after the view was made is in no snapshot any more, and is freed soon. */
static int add_place(struct snap_round *r, struct slice key, struct slice value)
{
	le32 birth;

	if (key.len != 17 || value.len != sizeof(birth)) /* said by the pass over the rows */
		return 0;
	memcpy(&birth, value.p, sizeof(birth));
	if (le32_get(birth) > r->view)
		return 0;
	int e = grow(r);
	if (e == 0)
		r->place[r->n++] = (struct dead_place){.home = be64_get((const uint8_t *)key.p + 9), .birth = le32_get(birth)};
	return e;
}

static int read_places(struct fs *fs, struct kv_iter *it, struct snap_round *r, uint64_t *ret_bytes)
{
	const struct kv_ops *ops = fs->kv->ops;
	int e = 0;

	r->last = true;
	for (uint32_t n = 0; e == 0 && ops->iter_valid(it); ops->iter_next(it), n++) {
		struct slice key = ops->iter_key(it);

		if (!key_within(key, TABLE_DEAD, r->top))
			break;
		if (n >= ROUND_BLOCKS && key.len == 17) {
			r->last = false;
			r->next = be64_get((const uint8_t *)key.p + 9);
			break;
		}
		e = add_place(r, key, ops->iter_value(it));
		*ret_bytes += ENTRY_BYTES;
	}
	return e < 0 ? e : ops->iter_error(it);
}

static void begin_rows(struct snap_round *r)
{
	struct index_key first = key_pair(TABLE_EXTENT, 0, 0);

	memcpy(r->from, first.b, first.len);
	r->from_len = first.len;
}

static bool any_born(const struct snap_round *r, uint32_t upto)
{
	for (uint32_t i = 0; i < r->n; i++)
		if (!r->place[i].seen && r->place[i].birth <= upto)
			return true;
	return false;
}

/* The newest snapshot of those up to `top` is walked next; false: none of them can have what was not met. */
static bool begin_view(struct fs *fs, struct snap_round *r, uint64_t top)
{
	uint32_t next;

	if (!snap_held_below(fs, top, &r->view) || !any_born(r, r->view))
		return false;
	r->marked = r->saved && marks_reach(fs, r->view);
	r->upto = snap_held_above(fs, r->view, &next) ? next : SNAP_TOP_MAX;
	begin_rows(r);
	return true;
}

static int load_round(struct fs *fs, struct snap_round *r, pointer_t from, uint64_t *ret_bytes)
{
	struct index_key k = key_pair(TABLE_DEAD, r->top, from);
	struct kv_iter *it;
	int e = fs->kv->ops->iter_open(fs->kv, &it);

	if (e < 0)
		return e;
	fs->kv->ops->iter_seek(it, key_slice(&k));
	e = read_places(fs, it, r, ret_bytes);
	fs->kv->ops->iter_close(it);
	if (e < 0 || !r->n)
		return e;
	/* What was lost is in the cache of leaves since before it was on the list: saved, it is marked, too. */
	r->saved = !fs->config.read_only && lcache_save(fs->lcache) == 0;
	r->own = true;
	return begin_view(fs, r, r->top) ? 0 : -ESTALE;
}

static void end_round(struct fs *fs, struct scrub_pass *p, const struct snap_round *r)
{
	if (r->last)
		leave_snapshot(fs, p, r->top);
	else
		set_cursor(p, r->top, r->next);
	drop_round(fs);
}

/* What was not met yet may be in the snapshot before. */
static void end_view(struct fs *fs, struct scrub_pass *p, struct snap_round *r)
{
	r->own = false;
	if (r->n_seen == r->n || r->view == 0 || !begin_view(fs, r, r->view - 1))
		end_round(fs, p, r);
}

/* The round that the cursor says; fs->scrub->round stays NULL where there is nothing, and the cursor has moved. */
static int begin_round(struct fs *fs, struct scrub_pass *p, uint64_t *ret_bytes)
{
	pointer_t home;
	uint64_t top;
	uint32_t list, view;

	get_cursor(p, &top, &home);
	if (!snap_list_below(fs, top, &list) || !snap_held_below(fs, list, &view)) {
		begin_phase(p, PHASE_PARTS, TABLE_EXTENT);
		return 0;
	}
	struct snap_round *r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->top = list;
	r->view = view;
	int e = load_round(fs, r, list == top ? home : 0, ret_bytes);
	if (e == 0 && r->n) {
		set_cursor(p, list, r->place[0].home);
		fs->scrub->round = r;
		return 0;
	}
	if (e == 0 || e == -ESTALE)
		end_round(fs, p, r);
	else if (e != -ENOMEM)
		leave_snapshot(fs, p, list);
	p->errors += e < 0 && e != -ENOMEM && e != -ESTALE; /* a damaged index was said by the pass over the rows */
	snap_round_free(r);
	return e == -ENOMEM ? e : 0;
}

/* ---- leaves ---- */

/* Whether the place is in the round and was not met yet; from now on it was. */
static bool meet(struct snap_round *r, pointer_t home)
{
	uint32_t low = 0, high = r->n;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (r->place[mid].home < home)
			low = mid + 1;
		else
			high = mid;
	}
	if (low == r->n || r->place[low].home != home || r->place[low].seen)
		return false;
	r->place[low].seen = true;
	r->n_seen++;
	return true;
}

static uint16_t meet_slots(struct snap_round *r, const struct leaf *l)
{
	uint16_t mask = 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if (l->slot[i].home && meet(r, l->slot[i].home) && slot_has_data(&l->slot[i]))
			mask |= (uint16_t)(1u << i);
	for (uint32_t i = 0; i < l->pack.n_blocks; i++)
		if (meet(r, pointer_add(l->pack.start, i)))
			mask |= leaf_packed(l);
	return mask;
}

static int check_leaf(struct fs *fs, struct scrub_pass *p, uint64_t ino, uint64_t leaf, uint16_t mask, struct leaf_verdict *v,
		      uint8_t *room, uint64_t *ret_bytes)
{
	int r = slots_verify(fs, ino, leaf, mask, room, v);

	if (r < 0)
		return r;
	uint64_t bytes = (uint64_t)__builtin_popcount(v->checked) * BLOCK_SIZE;
	*ret_bytes += bytes;
	p->checked_bytes += bytes;
	if (v->bad)
		repair_found(fs, p, ino, leaf, v);
	return 0;
}

/* A leaf that has any of the round, and which of its slots; 0: none among the next rows, and r->from is behind them. */
struct met {
	uint64_t ino, leaf;
	uint16_t mask;
	struct leaf_verdict verdict;
};

static void look_at_row(struct fs *fs, struct scrub_pass *p, struct snap_round *r, struct slice key, struct slice value,
			struct met *m)
{
	const uint8_t *k = key.p;
	char path[300];

	if (key.len == 17 && leaf_decode(value.p, value.len, &m->verdict.leaf) == 0) {
		m->ino = snap_ino(r->view, be64_get(k + 1));
		m->leaf = be64_get(k + 9);
		m->mask = meet_slots(r, &m->verdict.leaf);
		return;
	}
	p->bad_rows++;
	fs_path(fs, snap_ino(r->view, key.len >= 9 ? be64_get(k + 1) & SNAP_INO_MASK : FS_ROOT_INO), path, sizeof(path));
	log_error("damaged: a leaf of %s: it cannot be read there any more", path);
}

int rows_to_marked(struct kv *kv, struct kv_iter *it, struct marks_walk *marks, uint64_t ino, uint64_t *at)
{
	int e = 0;

	while (e == 0 && *at < ino)
		e = marks_walk_next(marks, at);
	if (e < 0 || *at == ino)
		return e;
	struct index_key k = key_pair(TABLE_EXTENT, *at, 0);
	kv->ops->iter_seek(it, key_slice(&k));
	return 1;
}

/* Walks on to the next leaf that has any; *ret_end: there is no row left. */
static int walk_rows(struct fs *fs, struct scrub_pass *p, struct kv *kv, struct kv_iter *it, struct marks_walk *marks,
		     struct met *m, uint64_t *ret_bytes, bool *ret_end)
{
	const struct kv_ops *ops = kv->ops;
	uint64_t at = 0;

	for (uint32_t n = 0; n < ROWS_A_STEP && !m->mask && ops->iter_valid(it); n++) {
		struct slice key = ops->iter_key(it), value = ops->iter_value(it);
		const uint8_t *k = key.p;

		if (key.len == 0 || k[0] != TABLE_EXTENT)
			break;
		int e = marks && key.len >= 9 ? rows_to_marked(kv, it, marks, be64_get(k + 1), &at) : 0;
		if (e == 1)
			continue;
		if (e < 0) {
			*ret_end = e == -ENOENT;
			return e == -ENOENT ? 0 : e;
		}
		*ret_bytes += key.len + value.len;
		look_at_row(fs, p, fs->scrub->round, key, value, m);
		ops->iter_next(it);
	}
	int e = ops->iter_error(it);
	struct slice key = e == 0 && ops->iter_valid(it) ? ops->iter_key(it) : (struct slice){0};
	*ret_end = e == 0 && (key.len == 0 || *(const uint8_t *)key.p != TABLE_EXTENT);
	return e;
}

static int next_met(struct fs *fs, struct scrub_pass *p, struct snap_round *r, struct kv *kv, struct met *m, uint64_t *ret_bytes,
		    bool *ret_end)
{
	const struct kv_ops *ops = kv->ops;
	struct marks_walk *marks = NULL;
	struct kv_iter *it;
	int e = r->marked ? marks_walk_open(fs, r->view, r->upto, be64_get(r->from + 1), &marks) : 0;

	if (e == 0)
		e = ops->iter_open(kv, &it);
	if (e < 0) {
		marks_walk_close(marks);
		return e;
	}
	ops->iter_seek(it, (struct slice){r->from, r->from_len});
	e = walk_rows(fs, p, kv, it, marks, m, ret_bytes, ret_end);
	if (e == 0 && !*ret_end) {
		struct slice key = ops->iter_key(it);

		r->from_len = min_u64(key.len, sizeof(r->from));
		memcpy(r->from, key.p, r->from_len);
	}
	ops->iter_close(it);
	marks_walk_close(marks);
	return e;
}

static int step_held(struct fs *fs, struct scrub_pass *p, struct kv *kv, uint8_t *room, uint64_t *ret_bytes)
{
	struct snap_round *r = fs->scrub->round;
	struct met m = {0};
	bool end = false;
	int e = next_met(fs, p, r, kv, &m, ret_bytes, &end);

	if (e < 0 && e != -ENOMEM) {
		p->bad_rows++;
		log_error("damaged: the index of a snapshot cannot be read to its end: %s; delete the snapshot", strerror(-e));
		end_view(fs, p, r);
		return 0;
	}
	if (e == 0 && m.mask)
		e = check_leaf(fs, p, m.ino, m.leaf, m.mask, &m.verdict, room, ret_bytes);
	if (e == 0 && end && r->own && r->marked && r->n_seen < r->n && !snap_was_rolled(fs)) {
		r->marked = false;
		begin_rows(r);
	} else if (e == 0 && (end || r->n_seen == r->n)) {
		end_view(fs, p, r);
	}
	return e;
}

/* Whether the round is the one that the pass is at: a pass that was begun anew is not. */
static bool is_at(const struct snap_round *r, const struct scrub_pass *p)
{
	pointer_t home;
	uint64_t top;

	get_cursor(p, &top, &home);
	return r && r->top == top && r->place[0].home == home;
}

int step_snaps(struct fs *fs, struct scrub_pass *p, uint8_t *room, uint64_t *ret_bytes)
{
	struct held *held;
	struct kv *kv;

	if (!is_at(fs->scrub->round, p)) {
		drop_round(fs);
		return begin_round(fs, p, ret_bytes);
	}
	int r = snap_get(fs, fs->scrub->round->view, &held, &kv);
	if (r == -ENOMEM)
		return r;
	if (r < 0) { /* deleted meanwhile; or its index cannot be read, which is said once */
		p->errors += r != -ESTALE;
		end_view(fs, p, fs->scrub->round);
		return 0;
	}
	r = step_held(fs, p, kv, room, ret_bytes);
	if (r < 0) /* what was met and not looked at is met again */
		drop_round(fs);
	snap_put(fs, held);
	return r;
}
