/*
 * marks.c: table M: a kv that writes down which inodes it was given rows of, and what is done with that.
 *
 * Of what it marked lately it keeps a small table in memory, so that a file that is written all the time costs one row a
 * snapshot.  A place in it is taken only when the mark was written.
 */
#include "fs/core/snap/marks.h"

#include <errno.h>
#include <string.h>

#include "fs/core/index.h"
#include "fs/core/snap/snap_impl.h"

#define VERSION   1
#define SEEN_BITS 14u
#define STEP_ROWS 4096u
#define ROW_BYTES 17u

struct marks {
	struct kv kv; /* first */
	struct kv_ops ops;
	struct kv *inner;
	struct fs *fs;
	_Atomic uint64_t since; /* complete for snapshots with this top or a higher one */
	_Atomic uint64_t gone;  /* no row is marked with a clock below */
	struct mark at;         /* where the next step begins; one step at a time */
	_Atomic uint64_t seen[1u << SEEN_BITS];
};

static struct marks *to_marks(struct kv *kv)
{
	return container_of(kv, struct marks, kv);
}

/* ---- rows ---- */

int mark_decode(struct slice key, struct slice value, struct mark *ret)
{
	struct mark_header_value v;

	if (key.len == ROW_BYTES && value.len == 0) {
		*ret = (struct mark){be64_get((const uint8_t *)key.p + 1), be64_get((const uint8_t *)key.p + 9)};
		return ret->clock <= SNAP_TOP_MAX ? 0 : -EUCLEAN;
	}
	if (key.len != 9 || value.len != sizeof(v) || be64_get((const uint8_t *)key.p + 1) != 0)
		return -EUCLEAN;
	memcpy(&v, value.p, sizeof(v));
	*ret = (struct mark){0, 0};
	return v.version == VERSION ? 0 : -EUCLEAN;
}

/* The first row at or behind `from`; -ENOENT. */
static int seek(const struct kv_ops *ops, struct kv_iter *it, struct mark from, struct mark *ret)
{
	struct index_key k = key_pair(TABLE_MARK, from.clock, from.ino);

	ops->iter_seek(it, key_slice(&k));
	if (!ops->iter_valid(it)) {
		int r = ops->iter_error(it);
		return r < 0 ? r : -ENOENT;
	}
	struct slice key = ops->iter_key(it);
	if (*(const uint8_t *)key.p != TABLE_MARK)
		return -ENOENT;
	return key.len == ROW_BYTES ? mark_decode(key, ops->iter_value(it), ret) : -EUCLEAN;
}

/* ---- marking ---- */

static _Atomic uint64_t *place_of(struct marks *m, uint64_t clock, uint64_t ino)
{
	uint64_t h = (ino ^ clock << 32) * UINT64_C(0x9e3779b97f4a7c15);

	return &m->seen[h >> (64 - SEEN_BITS)];
}

/* 0: too large a number to be remembered. */
static uint64_t entry_of(uint64_t clock, uint64_t ino)
{
	return ino <= SNAP_INO_MASK && clock <= SNAP_TOP_MAX ? snap_ino(clock, ino) : 0;
}

static bool is_told_of(struct slice key)
{
	const uint8_t *k = key.p;

	return key.len >= 9 && (k[0] == TABLE_INODE || k[0] == TABLE_EXTENT || k[0] == TABLE_NAME);
}

static void add_mark(struct marks *m, struct kv_batch *to, uint64_t clock, uint64_t ino)
{
	uint64_t entry = entry_of(clock, ino);

	if (entry && atomic_load_explicit(place_of(m, clock, ino), memory_order_relaxed) == entry)
		return;
	struct index_key k = key_pair(TABLE_MARK, clock, ino);
	kv_batch_put(to, key_slice(&k), (struct slice){0});
}

static void remember(struct marks *m, const struct kv_batch *marked)
{
	struct slice key, value;
	size_t at = 0;
	uint8_t op;

	while (kv_batch_next(marked, &at, &op, &key, &value)) {
		const uint8_t *k = key.p;
		uint64_t clock = be64_get(k + 1), ino = be64_get(k + 9), entry = entry_of(clock, ino);

		if (entry)
			atomic_store_explicit(place_of(m, clock, ino), entry, memory_order_relaxed);
	}
}

static int mark(struct marks *m, const struct kv_batch *b)
{
	uint64_t clock = atomic_load(&m->fs->snapshot_generation), last = 0;
	struct kv_batch marked = {0};
	struct slice key, value;
	size_t at = 0;
	uint8_t op;

	while (kv_batch_next(b, &at, &op, &key, &value)) {
		uint64_t ino = is_told_of(key) ? be64_get((const uint8_t *)key.p + 1) : last;

		if (ino != last)
			add_mark(m, &marked, clock, ino);
		last = ino;
	}
	int r = marked.n ? m->inner->ops->write(m->inner, &marked) : 0;
	if (r == 0)
		remember(m, &marked);
	kv_batch_free(&marked);
	return r;
}

static int marks_write(struct kv *kv, const struct kv_batch *b)
{
	struct marks *m = to_marks(kv);
	int r = b->ops.failed ? -ENOMEM : 0;

	if (r == 0 && atomic_load_explicit(&m->fs->snaps->line, memory_order_relaxed))
		r = mark(m, b);
	return r < 0 ? r : m->inner->ops->write(m->inner, b);
}

/* ---- the rest of a kv; iterators are those of the other ---- */

static int marks_get(struct kv *kv, struct slice key, void *p, size_t cap, size_t *ret_len)
{
	return kv_get(to_marks(kv)->inner, key, p, cap, ret_len);
}

static int marks_iter_open(struct kv *kv, struct kv_iter **ret_iter)
{
	struct kv *inner = to_marks(kv)->inner;

	return inner->ops->iter_open(inner, ret_iter);
}

static int marks_freeze(struct kv *kv)
{
	struct kv *inner = to_marks(kv)->inner;

	return inner->ops->freeze(inner);
}

static int marks_flush_frozen(struct kv *kv)
{
	struct kv *inner = to_marks(kv)->inner;

	return inner->ops->flush_frozen(inner);
}

static uint64_t marks_memory_bytes(struct kv *kv)
{
	struct kv *inner = to_marks(kv)->inner;

	return inner->ops->memory_bytes(inner);
}

static void marks_describe(struct kv *kv, struct buf *out)
{
	struct kv *inner = to_marks(kv)->inner;

	inner->ops->describe(inner, out);
}

static int marks_snapshot_create(struct kv *kv, uint64_t id)
{
	struct kv *inner = to_marks(kv)->inner;

	return inner->ops->snapshot_create(inner, id);
}

static int marks_snapshot_remove(struct kv *kv, uint64_t id)
{
	struct kv *inner = to_marks(kv)->inner;

	return inner->ops->snapshot_remove(inner, id);
}

static int marks_snapshot_open(struct kv *kv, uint64_t id, struct kv **ret_kv)
{
	struct kv *inner = to_marks(kv)->inner;

	return inner->ops->snapshot_open(inner, id, ret_kv);
}

static int marks_snapshot_each(struct kv *kv, int (*fn)(void *ctx, uint64_t id), void *ctx)
{
	struct kv *inner = to_marks(kv)->inner;

	return inner->ops->snapshot_each(inner, fn, ctx);
}

static void marks_close(struct kv *kv)
{
	struct marks *m = to_marks(kv);

	kv_close(m->inner);
	free(m);
}

int marks_wrap(struct fs *fs, struct kv **kv)
{
	struct marks *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->ops = *(*kv)->ops;
	m->ops.get = marks_get;
	m->ops.write = marks_write;
	m->ops.iter_open = marks_iter_open;
	m->ops.freeze = marks_freeze;
	m->ops.flush_frozen = marks_flush_frozen;
	m->ops.memory_bytes = marks_memory_bytes;
	m->ops.describe = marks_describe;
	m->ops.snapshot_create = marks_snapshot_create;
	m->ops.snapshot_remove = marks_snapshot_remove;
	m->ops.snapshot_open = marks_snapshot_open;
	m->ops.snapshot_each = marks_snapshot_each;
	m->ops.close = marks_close;
	m->kv.ops = &m->ops;
	m->inner = *kv;
	m->fs = fs;
	*kv = &m->kv;
	return 0;
}

/* ---- from when on it is complete ---- */

static int read_header(struct marks *m, uint64_t applied_seq, uint64_t *ret_since)
{
	struct index_key k = key_ino(TABLE_MARK, 0);
	struct mark_header_value v;
	size_t len;
	int r = kv_get(m->inner, key_slice(&k), &v, sizeof(v), &len);

	if (r < 0)
		return r == -ERANGE ? -ENOENT : r;
	if (len != sizeof(v) || v.version != VERSION || le64_get(v.applied_seq) != applied_seq)
		return -ENOENT;
	*ret_since = le64_get(v.since);
	return 0;
}

/* Clocks below are of no use: what is different from the oldest snapshot is marked with a higher one. */
static uint64_t useless_below(struct fs *fs)
{
	const struct snaps *s = fs->snaps;

	for (size_t i = 0; i < s->n_held; i++)
		if (!s->held[i]->dropping)
			return s->held[i]->top + UINT64_C(1);
	return atomic_load(&fs->snapshot_generation) + 1;
}

static int look_for_rest(struct marks *m)
{
	const struct kv_ops *ops = m->inner->ops;
	uint64_t below = useless_below(m->fs);
	struct kv_iter *it;
	struct mark first;
	int r = ops->iter_open(m->inner, &it);

	if (r < 0)
		return r;
	r = seek(ops, it, (struct mark){0, 0}, &first);
	ops->iter_close(it);
	if (r == -ENOENT || (r == 0 && first.clock >= below))
		atomic_store(&m->gone, below);
	return r == -ENOENT || r == -EUCLEAN ? 0 : r; /* fsck names a row that cannot be */
}

int marks_open(struct fs *fs, uint64_t applied_seq)
{
	struct marks *m = to_marks(fs->kv);
	uint64_t since;
	int r = read_header(m, applied_seq, &since);

	if (r < 0 && r != -ENOENT)
		return r;
	atomic_store(&m->since, r == 0 ? since : atomic_load(&fs->snapshot_generation));
	return look_for_rest(m);
}

void marks_put_header(struct fs *fs, struct kv_batch *b, uint64_t applied_seq)
{
	const struct marks *m = to_marks(fs->kv);
	struct index_key k = key_ino(TABLE_MARK, 0);
	const struct mark_header_value v = {
	    .version = VERSION, .since = le64_make(atomic_load(&m->since)), .applied_seq = le64_make(applied_seq)};

	if (atomic_load(&fs->snaps->line))
		kv_batch_put(b, key_slice(&k), (struct slice){&v, sizeof(v)});
	else
		kv_batch_delete(b, key_slice(&k));
}

bool marks_reach(struct fs *fs, uint64_t top)
{
	return top >= atomic_load(&to_marks(fs->kv)->since);
}

/* ---- rows that go ---- */

bool marks_left_over(struct fs *fs)
{
	return atomic_load(&to_marks(fs->kv)->gone) < useless_below(fs);
}

int marks_step(struct fs *fs)
{
	struct marks *m = to_marks(fs->kv);
	const struct kv_ops *ops = m->inner->ops;
	uint64_t below = useless_below(fs);
	struct kv_batch b = {0};
	struct kv_iter *it;
	int r = ops->iter_open(m->inner, &it);

	if (r < 0)
		return r;
	for (r = seek(ops, it, m->at, &m->at); r == 0 && m->at.clock < below && b.n < STEP_ROWS;) {
		struct index_key k = key_pair(TABLE_MARK, m->at.clock, m->at.ino);

		kv_batch_delete(&b, key_slice(&k));
		r = seek(ops, it, (struct mark){m->at.clock, m->at.ino + 1}, &m->at);
	}
	ops->iter_close(it);
	bool all = r == -ENOENT || (r == 0 && m->at.clock >= below);
	if (r == 0 || r == -ENOENT)
		r = kv_write(m->inner, &b);
	kv_batch_free(&b);
	if (r == 0 && all)
		atomic_store(&m->gone, below);
	if (r < 0 || all)
		m->at = (struct mark){0, 0};
	return r;
}

/* ---- walking ---- */

/* One place for each clock that has rows left; the one with the lowest inode is first (a heap). */
struct marks_walk {
	const struct kv_ops *ops;
	struct kv_iter *it;
	struct mark *at;
	size_t n, cap;
};

static void sift_down(struct marks_walk *w, size_t i)
{
	for (;;) {
		size_t low = i, left = 2 * i + 1;

		for (size_t c = left; c < left + 2 && c < w->n; c++)
			if (w->at[c].ino < w->at[low].ino)
				low = c;
		if (low == i)
			return;
		struct mark swap = w->at[i];
		w->at[i] = w->at[low];
		w->at[low] = swap;
		i = low;
	}
}

static int add_clock(struct marks_walk *w, struct mark at)
{
	if (w->n == w->cap) {
		size_t cap = w->cap ? w->cap * 2 : 16;
		struct mark *p = realloc(w->at, cap * sizeof(*p));

		if (!p)
			return -ENOMEM;
		w->at = p;
		w->cap = cap;
	}
	w->at[w->n++] = at;
	return 0;
}

/* Each clock's first row from `ino` on. */
static int find_clocks(struct marks_walk *w, uint64_t after, uint64_t upto, uint64_t ino)
{
	struct mark from = {after + 1, ino}, at;
	int r;

	while ((r = seek(w->ops, w->it, from, &at)) == 0 && at.clock <= upto) {
		if (at.ino < ino) { /* of a later clock than was asked for */
			from = (struct mark){at.clock, ino};
			continue;
		}
		r = add_clock(w, at);
		if (r < 0 || at.clock == UINT64_MAX)
			break;
		from = (struct mark){at.clock + 1, ino};
	}
	for (size_t i = w->n / 2; i-- > 0;)
		sift_down(w, i);
	return r == -ENOENT ? 0 : r;
}

int marks_walk_open(struct fs *fs, uint64_t after, uint64_t upto, uint64_t ino, struct marks_walk **ret)
{
	struct marks_walk *w = calloc(1, sizeof(*w));
	int r = w ? fs->kv->ops->iter_open(fs->kv, &w->it) : -ENOMEM;

	if (r < 0) {
		free(w);
		return r;
	}
	w->ops = fs->kv->ops;
	r = find_clocks(w, after, upto, ino);
	if (r < 0) {
		marks_walk_close(w);
		return r;
	}
	*ret = w;
	return 0;
}

/* The first place goes on behind `ino`, or is no more. */
static int advance(struct marks_walk *w, uint64_t ino)
{
	struct mark at;
	int r = seek(w->ops, w->it, (struct mark){w->at[0].clock, ino + 1}, &at);

	if (r < 0 && r != -ENOENT)
		return r;
	if (r == 0 && at.clock == w->at[0].clock)
		w->at[0] = at;
	else
		w->at[0] = w->at[--w->n];
	sift_down(w, 0);
	return 0;
}

int marks_walk_next(struct marks_walk *w, uint64_t *ret_ino)
{
	int r = 0;

	if (w->n == 0)
		return -ENOENT;
	uint64_t ino = w->at[0].ino;
	while (r == 0 && w->n > 0 && w->at[0].ino == ino)
		r = advance(w, ino);
	if (r == 0)
		*ret_ino = ino;
	return r;
}

void marks_walk_close(struct marks_walk *w)
{
	if (!w)
		return;
	w->ops->iter_close(w->it);
	free(w->at);
	free(w);
}
