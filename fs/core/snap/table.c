/*
 * table.c: tables S and K in memory, and what the two records do to them.
 *
 * SNAP adds a row to S on every node.  Whether this node holds the snapshot is decided before: whoever applies the record live
 * has made the index's copy (create.c) and says so in `prepared`; in recovery the copy is there, whole, or it is not, and its
 * anchor says of which batch it is.  Both decide alike, because a copy is durable before the record is appended.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/replica/impl.h"
#include "fs/core/snap/marks.h"
#include "fs/core/snap/snap_impl.h"
#include "fs/store/super_format.h"

#define VERSION 1

int snaps_open(struct fs *fs)
{
	struct snaps *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	mutex_init(&s->lock);
	mutex_init(&s->making);
	cond_init(&s->idle);
	fs->snaps = s;
	return 0;
}

static void clear(struct fs *fs)
{
	struct snaps *s = fs->snaps;

	mutex_lock(&fs->snaps->lock);
	for (size_t i = 0; i < s->n_held; i++) {
		while (s->held[i]->users > 0)
			cond_wait(&s->idle, &fs->snaps->lock);
		held_close_locked(fs, s->held[i]);
		free(s->held[i]);
	}
	s->n_held = s->n = 0;
	mutex_unlock(&fs->snaps->lock);
}

void snaps_close(struct fs *fs)
{
	struct snaps *s = fs->snaps;

	if (!s)
		return;
	clear(fs);
	free(s->held);
	free(s->snap);
	free(s->gone);
	cond_destroy(&s->idle);
	mutex_destroy(&s->making);
	mutex_destroy(&s->lock);
	free(s);
	fs->snaps = NULL;
}

/* ---- looking ---- */

struct snap *snaps_find_name(struct snaps *s, struct slice name)
{
	for (size_t i = 0; i < s->n; i++)
		if (strlen(s->snap[i].name) == name.len && memcmp(s->snap[i].name, name.p, name.len) == 0)
			return &s->snap[i];
	return NULL;
}

struct snap *snaps_find_gen(struct snaps *s, uint64_t gen)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->snap[i].gen == gen)
			return &s->snap[i];
	return NULL;
}

struct held *snaps_find_top(struct snaps *s, uint64_t top)
{
	for (size_t i = 0; i < s->n_held; i++)
		if (s->held[i]->top == top)
			return s->held[i];
	return NULL;
}

struct held *snaps_find_held(struct snaps *s, uint64_t gen)
{
	for (size_t i = 0; i < s->n_held; i++)
		if (s->held[i]->gen == gen && !s->held[i]->dropping)
			return s->held[i];
	return NULL;
}

struct held *snaps_held_before(struct snaps *s, uint32_t top)
{
	for (size_t i = s->n_held; i-- > 0;)
		if (s->held[i]->top < top && !s->held[i]->dropping)
			return s->held[i];
	return NULL;
}

void snaps_set_line(struct fs *fs)
{
	struct snaps *s = fs->snaps;
	const struct held *newest = snaps_held_before(s, UINT32_MAX), *next = newest ? snaps_held_before(s, newest->top) : NULL;
	uint64_t oldest = UINT64_MAX;

	for (size_t i = 0; i < s->n; i++)
		oldest = min_u64(oldest, s->snap[i].seq);
	int64_t now = clock_real_ns(fs->clock), was = atomic_load(&s->changed_ns);

	atomic_store(&s->changed_ns, now > was ? now : was + 1);
	atomic_store(&s->line, newest ? newest->top + 1 : 0);
	atomic_store(&s->below, next ? next->top + 1 : 0);
	atomic_store(&s->n_snaps, s->n);
	atomic_store(&s->oldest_seq, oldest);
}

int64_t fs_snap_changed_ns(struct fs *fs)
{
	return atomic_load(&fs->snaps->changed_ns);
}

bool snap_shares(struct fs *fs, uint32_t birth)
{
	return birth < atomic_load_explicit(&fs->snaps->line, memory_order_relaxed);
}

bool snaps_dropping(struct fs *fs)
{
	struct snaps *s = fs->snaps;

	mutex_lock(&s->lock);
	bool any = marks_left_over(fs);
	for (size_t i = 0; i < s->n_held; i++)
		any |= s->held[i]->dropping;
	mutex_unlock(&s->lock);
	return any;
}

bool snaps_any(struct fs *fs)
{
	return atomic_load(&fs->snaps->n_snaps) > 0;
}

bool snaps_reach(struct fs *fs, uint64_t seq)
{
	return snaps_any(fs) && atomic_load(&fs->snaps->oldest_seq) <= seq;
}

int snap_feature(struct fs *fs)
{
	return replica_set_feature(fs, SUPER_SNAPSHOTS);
}

/* ---- changing ---- */

/* Room for one more; in steps, so that adding cannot fail afterwards. */
static int reserve(struct snaps *s)
{
	if (s->n == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 16;
		struct snap *p = realloc(s->snap, cap * sizeof(*p));

		if (!p)
			return -ENOMEM;
		s->snap = p;
		s->cap = cap;
	}
	if (s->n_held == s->cap_held) {
		size_t cap = s->cap_held ? s->cap_held * 2 : 16;
		struct held **p = realloc(s->held, cap * sizeof(*p));

		if (!p)
			return -ENOMEM;
		s->held = p;
		s->cap_held = cap;
	}
	return 0;
}

static void add_snap(struct snaps *s, const struct snap *snap)
{
	size_t i = s->n++;

	for (; i > 0 && s->snap[i - 1].gen > snap->gen; i--)
		s->snap[i] = s->snap[i - 1];
	s->snap[i] = *snap;
}

static void remove_snap(struct snaps *s, const struct snap *snap)
{
	size_t i = (size_t)(snap - s->snap);

	memmove(&s->snap[i], &s->snap[i + 1], (--s->n - i) * sizeof(*s->snap));
}

static struct held *held_new(uint64_t top, uint64_t gen, bool dropping)
{
	struct held *h = calloc(1, sizeof(*h));

	if (h)
		*h = (struct held){.top = (uint32_t)top, .gen = gen, .dropping = dropping};
	return h;
}

static void add_held(struct snaps *s, struct held *h)
{
	size_t i = s->n_held++;

	for (; i > 0 && s->held[i - 1]->top > h->top; i--)
		s->held[i] = s->held[i - 1];
	s->held[i] = h;
}

static void put_held(struct kv_batch *b, const struct held *h)
{
	struct index_key k = key_ino(TABLE_DEAD, h->top);
	const struct held_value v = {.version = VERSION, .dropping = h->dropping, .gen = le64_make(h->gen)};

	kv_batch_put(b, key_slice(&k), (struct slice){&v, sizeof(v)});
}

static int note_gone(struct snaps *s, uint32_t top) REQUIRES(s->lock)
{
	if (s->n_gone == s->cap_gone) {
		size_t cap = s->cap_gone ? s->cap_gone * 2 : 16;
		uint32_t *p = realloc(s->gone, cap * sizeof(*p));

		if (!p)
			return -ENOMEM; /* the next mount removes the directory */
		s->gone = p;
		s->cap_gone = cap;
	}
	s->gone[s->n_gone++] = top;
	return 0;
}

int snaps_forget_held(struct fs *fs, struct held *h)
{
	struct snaps *s = fs->snaps;
	struct index_key k = key_ino(TABLE_DEAD, h->top);
	struct kv_batch *b = index_batch();
	size_t i = 0;

	kv_batch_delete(b, key_slice(&k));
	int r = kv_write(fs->kv, b);
	if (r < 0)
		return r;
	mutex_lock(&s->lock);
	while (s->held[i] != h)
		i++;
	memmove(&s->held[i], &s->held[i + 1], (--s->n_held - i) * sizeof(struct held *));
	if (note_gone(s, h->top) < 0)
		log_warn("snapshot %llu is gone; its directory is removed by the next mount", (unsigned long long)h->gen);
	mutex_unlock(&s->lock);
	free(h);
	return 0;
}

/* Nobody reads it any more when this returns, and its blocks are on nobody's account but its list's. */
static int drop_held(struct fs *fs, struct held *h)
{
	struct snaps *s = fs->snaps;
	struct kv_batch *b = index_batch();

	mutex_lock(&fs->snaps->lock);
	h->dropping = true;
	while (h->users > 0)
		cond_wait(&s->idle, &fs->snaps->lock);
	held_close_locked(fs, h);
	for (size_t i = 0; i < s->n_held; i++) /* what its neighbours have alone is another number now */
		s->held[i]->counted = false;
	mutex_unlock(&fs->snaps->lock);
	put_held(b, h);
	return kv_write(fs->kv, b);
}

/* ---- records ---- */

static size_t encode_row(const struct snap *snap, uint8_t *p)
{
	const struct snap_value v = {.version = VERSION,
				     .uid = le32_make(snap->uid),
				     .seq = le64_make(snap->seq),
				     .time_ns = le64_make((uint64_t)snap->time_ns)};
	size_t len = strlen(snap->name);

	memcpy(p, &v, sizeof(v));
	memcpy(p + sizeof(v), snap->name, len);
	return sizeof(v) + len;
}

static int decode_row(uint64_t gen, struct slice value, struct snap *ret)
{
	struct snap_value v;

	if (value.len <= sizeof(v) || value.len > sizeof(v) + RECORD_NAME_MAX)
		return -EUCLEAN;
	memcpy(&v, value.p, sizeof(v));
	struct slice name = {(const uint8_t *)value.p + sizeof(v), value.len - sizeof(v)};
	if (v.version != VERSION || v.zero[0] || v.zero[1] || v.zero[2] || !record_snap_name_ok(name))
		return -EUCLEAN;
	*ret = (struct snap){.gen = gen, .seq = le64_get(v.seq), .time_ns = (int64_t)le64_get(v.time_ns), .uid = le32_get(v.uid)};
	memcpy(ret->name, name.p, name.len);
	return ret->seq ? 0 : -EUCLEAN;
}

int snap_row_check(struct slice value)
{
	struct snap probe;

	return decode_row(0, value, &probe);
}

static int put_snap(struct fs *fs, const struct snap *snap)
{
	uint8_t value[sizeof(struct snap_value) + RECORD_NAME_MAX];
	struct index_key k = key_ino(TABLE_SNAP, snap->gen);
	struct kv_batch *b = index_batch();

	kv_batch_put(b, key_slice(&k), (struct slice){value, encode_row(snap, value)});
	return kv_write(fs->kv, b);
}

static int delete_snap(struct fs *fs, uint64_t gen)
{
	struct index_key k = key_ino(TABLE_SNAP, gen);
	struct kv_batch *b = index_batch();

	kv_batch_delete(b, key_slice(&k));
	return kv_write(fs->kv, b);
}

/* Whether this node has the index of the snapshot that is about to be `top`. */
static bool is_held(struct fs *fs, uint64_t top, uint64_t seq)
{
	return fs->replaying ? snap_is_whole(fs, top, seq) : fs->snaps->prepared == top + 1;
}

static int apply_snap(struct fs *fs, const struct record *r, uint64_t seq)
{
	struct snaps *s = fs->snaps;
	struct snap snap = {.gen = r->snap.gen, .seq = seq, .time_ns = r->time_ns, .uid = r->uid};
	uint64_t top = max_u64(atomic_load(&fs->snapshot_generation), r->snap.gen);
	struct held *h = NULL;

	memcpy(snap.name, r->snap.name.p, r->snap.name.len);
	if (top >= SNAP_TOP_MAX || snaps_find_gen(s, snap.gen) || snaps_find_name(s, r->snap.name))
		return -EUCLEAN;
	if (is_held(fs, top, seq)) {
		h = held_new(top, snap.gen, false);
		if (!h)
			return -ENOMEM;
	}
	mutex_lock(&s->lock);
	int e = reserve(s);
	if (e == 0)
		add_snap(s, &snap);
	if (e == 0 && h)
		add_held(s, h);
	mutex_unlock(&s->lock);
	if (e < 0) {
		free(h);
		return e;
	}
	e = put_snap(fs, &snap);
	if (e == 0 && h) {
		struct kv_batch *b = index_batch();

		put_held(b, h);
		e = kv_write(fs->kv, b);
	}
	raise_u64(&fs->snapshot_generation, top + 1);
	snaps_set_line(fs);
	return e;
}

static int apply_drop(struct fs *fs, const struct record *r)
{
	struct snaps *s = fs->snaps;
	struct snap *snap = snaps_find_gen(s, r->snap.gen);
	struct held *h = snaps_find_held(s, r->snap.gen);

	if (!snap)
		return -EUCLEAN;
	int e = h ? drop_held(fs, h) : 0;
	if (e == 0)
		e = delete_snap(fs, r->snap.gen);
	if (e < 0)
		return e;
	mutex_lock(&s->lock);
	remove_snap(s, snap);
	mutex_unlock(&s->lock);
	snaps_set_line(fs);
	return 0;
}

int snap_apply(struct fs *fs, const struct record *r, uint64_t seq)
{
	switch (r->type) {
	case RECORD_SNAP:
		return apply_snap(fs, r, seq);
	case RECORD_SNAPROLL:
		return snap_roll_note(fs, r, seq);
	default:
		return apply_drop(fs, r);
	}
}

int snap_check(struct fs *fs, const struct record *r)
{
	struct snaps *s = fs->snaps;
	int e = 0;

	mutex_lock(&s->lock);
	const struct snap *same = snaps_find_gen(s, r->snap.gen), *named = snaps_find_name(s, r->snap.name);
	if (r->type == RECORD_SNAP && (same || named || r->snap.gen >= SNAP_TOP_MAX || s->n >= SNAPS_MAX))
		e = -EUCLEAN;
	if (r->type != RECORD_SNAP && (!same || same != named))
		e = -EUCLEAN;
	mutex_unlock(&s->lock);
	return e;
}

/* ---- rows ---- */

/* What the index says, not the table in memory: that is of before a resync, which may have begun more than once since. */
static bool row_is(struct fs *fs, uint64_t gen, struct slice value)
{
	uint8_t here[sizeof(struct snap_value) + RECORD_NAME_MAX];
	struct index_key k = key_ino(TABLE_SNAP, gen);
	size_t len;

	return kv_get(fs->kv, key_slice(&k), here, sizeof(here), &len) == 0 && len == value.len &&
	       memcmp(here, value.p, len) == 0;
}

/* In a resync, which has the table to itself: snaps_load() brings it to what the index says at the end. */
int snap_put_row(struct fs *fs, uint64_t gen, struct slice value)
{
	struct snaps *s = fs->snaps;
	struct held *h = snaps_find_held(s, gen);
	bool same = value.p && row_is(fs, gen, value);
	int e = value.p ? snap_feature(fs) : 0;

	if (e < 0 || same)
		return e;
	if (h)
		e = drop_held(fs, h);
	snaps_set_line(fs);
	if (e < 0 || !value.p)
		return e < 0 ? e : delete_snap(fs, gen);
	struct snap snap;
	e = decode_row(gen, value, &snap);
	return e < 0 ? e : put_snap(fs, &snap);
}

/* ---- loading ---- */

static int load_snap(struct snaps *s, struct slice key, struct slice value)
{
	struct snap snap;

	if (key.len != 9 || decode_row(be64_get((const uint8_t *)key.p + 1), value, &snap) < 0 || s->n >= SNAPS_MAX)
		return -EUCLEAN;
	int r = reserve(s);
	if (r == 0)
		add_snap(s, &snap);
	return r;
}

static int load_held(struct snaps *s, struct slice key, struct slice value)
{
	struct held_value v;

	if (key.len == K_ENTRY_BYTES)
		return 0;
	uint64_t top = key.len == 9 ? be64_get((const uint8_t *)key.p + 1) : SNAP_TOP_MAX;
	if (top >= SNAP_TOP_MAX || value.len != sizeof(v))
		return -EUCLEAN;
	memcpy(&v, value.p, sizeof(v));
	if (v.version != VERSION || v.dropping > 1)
		return -EUCLEAN;
	int r = reserve(s);
	if (r < 0)
		return r;
	struct held *h = held_new(top, le64_get(v.gen), v.dropping);
	if (!h)
		return -ENOMEM;
	add_held(s, h);
	return 0;
}

static int load_table(struct fs *fs, enum index_table table, int (*load)(struct snaps *s, struct slice key, struct slice value))
{
	const struct kv_ops *ops = fs->kv->ops;
	const uint8_t first[] = {(uint8_t)table};
	struct kv_iter *it;
	int r = ops->iter_open(fs->kv, &it);

	if (r < 0)
		return r;
	for (ops->iter_seek(it, (struct slice){first, 1}); r == 0 && ops->iter_valid(it);) {
		struct slice key = ops->iter_key(it);
		bool header = key.len == 9;

		if (*(const uint8_t *)key.p != (uint8_t)table)
			break;
		uint64_t number = header ? be64_get((const uint8_t *)key.p + 1) : 0;
		r = load(fs->snaps, key, ops->iter_value(it));
		if (r < 0 || table != TABLE_DEAD || !header || number == UINT64_MAX) {
			ops->iter_next(it);
			continue;
		}
		/* A deadlist may be long: past it in one step. */
		struct index_key next = key_ino(TABLE_DEAD, number + 1);
		ops->iter_seek(it, key_slice(&next));
	}
	if (r == 0)
		r = ops->iter_error(it);
	ops->iter_close(it);
	return r;
}

int snaps_load(struct fs *fs)
{
	struct snaps *s = fs->snaps;

	clear(fs);
	int r = load_table(fs, TABLE_SNAP, load_snap);
	if (r == 0)
		r = load_table(fs, TABLE_DEAD, load_held);
	for (size_t i = 0; r == 0 && i < s->n_held; i++)
		if (!s->held[i]->dropping && !snaps_find_gen(s, s->held[i]->gen))
			r = -EUCLEAN;
	if (r == -EUCLEAN)
		log_error("the index's table of snapshots contradicts itself: run clawfs fsck, or restore from a replica");
	snaps_set_line(fs);
	return r;
}
