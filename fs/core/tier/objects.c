/*
 * objects.c: table Q: what is in object stores, and how much of each object is live.
 *
 * A row comes into being with the first TIER record that names the object and goes with the one that forgets it.  Between, each
 * change of a leaf moves the counts of the objects it pointed to and points to.  Only records do that, and the order in which
 * those of different files are applied does not matter: counts are added up, times are the lowest or the highest there was.  So
 * the rows are the same on every node after each batch.
 *
 * A row that cannot be read does not stop the change of a file: the count is then too high, so that the object is kept for longer
 * than need be, and fsck says so.
 *
 * Threads: a row is read, changed and written under objects.lock, a leaf in the order of locks.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/snap/snap.h"
#include "fs/core/tier/tier.h"

#define ROW_VERSION         1
#define ROW_VERSION_SNAPPED 2
/* Rows read in one go by those who walk the table. */
#define WALK_ROWS 64u

_Static_assert(sizeof(((struct object_value *)0)->sealed) == PACK_SEALED_BYTES, "");
_Static_assert(RECORD_SEALED_BYTES == PACK_SEALED_BYTES && RECORD_FRAME_MAX >= PACK_FRAME_MAX_BYTES, "");

struct tier_objects {
	struct mutex lock;
};

int objects_open(struct fs *fs)
{
	fs->objects = calloc(1, sizeof(*fs->objects));
	if (!fs->objects)
		return -ENOMEM;
	mutex_init(&fs->objects->lock);
	return 0;
}

void objects_close(struct fs *fs)
{
	if (!fs->objects)
		return;
	mutex_destroy(&fs->objects->lock);
	free(fs->objects);
	fs->objects = NULL;
}

/* ---- a row ---- */

int object_row_decode(uint64_t object, struct slice value, struct object_row *ret)
{
	static const uint8_t zero[sizeof(((struct object_value *)0)->zero)];
	struct object_value_2 whole = {0};
	struct object_value v;

	if (value.len != sizeof(v) && value.len != sizeof(whole))
		return -EUCLEAN;
	memcpy(&whole, value.p, value.len);
	v = whole.v;
	uint8_t version = value.len == sizeof(v) ? ROW_VERSION : ROW_VERSION_SNAPPED;
	if (v.version != version || (version == ROW_VERSION_SNAPPED && le64_get(whole.moved_seq) == 0) ||
	    memcmp(v.zero, zero, sizeof(zero)) != 0 || object == 0 || le32_get(v.store) == 0)
		return -EUCLEAN;
	*ret = (struct object_row){
	    .object = object,
	    .store = le32_get(v.store),
	    .n_blocks = le32_get(v.n_blocks),
	    .n_live = le32_get(v.n_live),
	    .bytes = le64_get(v.bytes),
	    .born_ns = (int64_t)le64_get(v.born_ns),
	    .moved_ns = (int64_t)le64_get(v.moved_ns),
	    .moved_seq = le64_get(whole.moved_seq),
	};
	if (ret->bytes > UINT32_MAX || ret->born_ns < 1 || ret->moved_ns < 0)
		return -EUCLEAN;
	if (ret->n_live == 0)
		ret->dead_ns = ret->moved_ns > ret->born_ns ? ret->moved_ns : ret->born_ns;
	memcpy(ret->sealed, v.sealed, sizeof(v.sealed));
	return 0;
}

int objects_get(struct fs *fs, uint64_t object, struct object_row *ret)
{
	struct index_key k = key_ino(TABLE_OBJECT, object);
	struct object_value_2 v;
	size_t len;
	int r = kv_get(fs->kv, key_slice(&k), &v, sizeof(v), &len);

	if (r < 0)
		return r == -ERANGE ? -EUCLEAN : r;
	return object_row_decode(object, (struct slice){&v, len}, ret);
}

static int put_row(struct fs *fs, const struct object_row *o)
{
	struct index_key k = key_ino(TABLE_OBJECT, o->object);
	struct object_value_2 whole = {.moved_seq = le64_make(o->moved_seq)};
	struct object_value v = {
	    .version = o->moved_seq ? ROW_VERSION_SNAPPED : ROW_VERSION,
	    .store = le32_make(o->store),
	    .n_blocks = le32_make(o->n_blocks),
	    .n_live = le32_make(o->n_live),
	    .bytes = le64_make(o->bytes),
	    .born_ns = le64_make((uint64_t)o->born_ns),
	    .moved_ns = le64_make((uint64_t)o->moved_ns),
	};
	struct kv_batch *b = index_batch();

	memcpy(v.sealed, o->sealed, sizeof(v.sealed));
	whole.v = v;
	kv_batch_put(b, key_slice(&k), (struct slice){&whole, o->moved_seq ? sizeof(whole) : sizeof(v)});
	return kv_write(fs->kv, b);
}

/* Of a record; 0 and what lies before 1970 mean something else here. */
static int64_t time_of(int64_t time_ns)
{
	return time_ns < 1 ? 1 : time_ns;
}

/* 1: there is a row, and it is in `ret`.  One that cannot be read is as good as none to those who count. */
static int find(struct fs *fs, uint64_t object, struct object_row *ret)
{
	int r = objects_get(fs, object, ret);

	if (r == 0)
		return 1;
	if (r != -ENOENT && r != -EUCLEAN && r != -EBADMSG)
		return r;
	log_error("object %016llx: its row %s: how much of it is live is not known any more; run clawfs fsck",
		  (unsigned long long)object, r == -ENOENT ? "is missing" : "cannot be read");
	return 0;
}

/* ---- what records do ---- */

static int take_from(struct fs *fs, uint64_t object, uint32_t n, const struct applied *applied)
{
	int64_t time_ns = applied->time_ns;
	struct object_row o;

	mutex_lock(&fs->objects->lock);
	int r = find(fs, object, &o);
	if (r == 1) {
		o.n_live -= n < o.n_live ? n : o.n_live;
		o.moved_ns = o.moved_ns > time_of(time_ns) ? o.moved_ns : time_of(time_ns);
		if (snaps_any(fs))
			o.moved_seq = max_u64(o.moved_seq, applied->seq);
		r = put_row(fs, &o);
	}
	mutex_unlock(&fs->objects->lock);
	return r;
}

/*
 * What a snapshot refers to of an object was live when it was made: the object has lost something since, in a later batch.  So a
 * dead object is in no snapshot that is newer than its last change; whether it is in an older one nobody has counted.
 */
bool objects_needed(struct fs *fs, const struct object_row *o)
{
	return o->n_live > 0 || (o->moved_seq && snaps_reach(fs, o->moved_seq));
}

static uint32_t count_tiered(const struct leaf *l)
{
	return (uint32_t)__builtin_popcount(leaf_tiered(l));
}

int objects_moved(struct fs *fs, const struct leaf *old, const struct leaf *new, const struct applied *applied)
{
	uint32_t had = old->object.id ? count_tiered(old) : 0;

	if (!had)
		return 0;
	uint32_t has = new->object.id == old->object.id ? count_tiered(new) : 0;
	return has < had ? take_from(fs, old->object.id, had - has, applied) : 0;
}

int objects_gained(struct fs *fs, const struct leaf *old, const struct leaf *new)
{
	uint32_t has = new->object.id ? count_tiered(new) : 0,
		 had = has && old->object.id == new->object.id ? count_tiered(old) : 0;
	struct object_row o;

	if (has <= had)
		return 0;
	mutex_lock(&fs->objects->lock);
	int r = find(fs, new->object.id, &o);
	if (r == 1) {
		o.n_live = has - had <= UINT32_MAX - o.n_live ? o.n_live + (has - had) : UINT32_MAX;
		r = put_row(fs, &o);
	}
	mutex_unlock(&fs->objects->lock);
	return r;
}

/* The same of each record that names the object, but for the time. */
static void begin_row(const struct record *r, struct object_row *ret)
{
	*ret = (struct object_row){.object = r->tier.object,
				   .store = r->tier.store,
				   .n_blocks = r->tier.n_blocks,
				   .bytes = r->tier.object_bytes,
				   .born_ns = time_of(r->time_ns)};
	memcpy(ret->sealed, r->tier.sealed, sizeof(ret->sealed));
}

int objects_placed(struct fs *fs, const struct record *r, uint32_t n)
{
	struct object_row o;

	mutex_lock(&fs->objects->lock);
	int e = objects_get(fs, r->tier.object, &o);
	bool damaged = e == -EUCLEAN || e == -EBADMSG;
	if (e == -ENOENT || damaged) {
		begin_row(r, &o);
		o.n_live = damaged ? UINT32_MAX : 0; /* nobody knows how much is: the object is never taken for dead */
		e = 0;
	}
	if (e == 0) {
		o.n_live = n <= UINT32_MAX - o.n_live ? o.n_live + n : UINT32_MAX;
		o.born_ns = o.born_ns < time_of(r->time_ns) ? o.born_ns : time_of(r->time_ns);
		e = put_row(fs, &o);
	}
	mutex_unlock(&fs->objects->lock);
	return e;
}

int objects_forgotten(struct fs *fs, uint64_t object)
{
	struct index_key k = key_ino(TABLE_OBJECT, object);
	struct object_row o;

	mutex_lock(&fs->objects->lock);
	int r = objects_get(fs, object, &o);
	if (r == 0 && !objects_needed(fs, &o)) {
		struct kv_batch *b = index_batch();

		kv_batch_delete(b, key_slice(&k));
		r = kv_write(fs->kv, b);
	}
	mutex_unlock(&fs->objects->lock);
	return r == -ENOENT || r == -EUCLEAN || r == -EBADMSG ? 0 : r;
}

/* ---- walking ---- */

/* Up to WALK_ROWS rows from `object` on. */
static int read_rows(struct fs *fs, uint64_t object, struct object_row *rows, uint32_t *ret_n)
{
	struct index_key k = key_ino(TABLE_OBJECT, object);
	const struct kv_ops *ops = fs->kv->ops;
	struct kv_iter *it;
	int r = ops->iter_open(fs->kv, &it);

	*ret_n = 0;
	if (r < 0)
		return r;
	for (ops->iter_seek(it, key_slice(&k)); r == 0 && *ret_n < WALK_ROWS && ops->iter_valid(it); ops->iter_next(it)) {
		struct slice key = ops->iter_key(it);

		if (*(const uint8_t *)key.p != TABLE_OBJECT)
			break;
		r = key.len != 9 ? -EUCLEAN
				 : object_row_decode(be64_get((const uint8_t *)key.p + 1), ops->iter_value(it), &rows[*ret_n]);
		if (r == 0)
			(*ret_n)++;
	}
	if (r == 0)
		r = ops->iter_error(it);
	ops->iter_close(it);
	return r;
}

int objects_each(struct fs *fs, uint64_t object, int (*fn)(void *ctx, const struct object_row *o), void *ctx)
{
	CLEANUP_FREE struct object_row *rows = malloc(WALK_ROWS * sizeof(*rows));
	uint32_t n = WALK_ROWS;
	int r = rows ? 0 : -ENOMEM;

	while (r == 0 && n == WALK_ROWS) {
		r = read_rows(fs, object, rows, &n);
		for (uint32_t i = 0; r == 0 && i < n; i++)
			r = fn(ctx, &rows[i]);
		if (r != 0 || n == 0 || rows[n - 1].object == UINT64_MAX)
			break;
		object = rows[n - 1].object + 1;
	}
	return r;
}

struct sum {
	uint32_t store;
	struct objects_sum *total;
};

static int add_up(void *ctx, const struct object_row *o)
{
	const struct sum *s = ctx;

	if (s->store && o->store != s->store)
		return 0;
	s->total->n_objects++;
	s->total->bytes += o->bytes;
	s->total->n_blocks += o->n_blocks;
	s->total->n_live += o->n_live;
	s->total->n_dead += o->n_live == 0;
	return 0;
}

int objects_sum(struct fs *fs, uint32_t store, struct objects_sum *ret)
{
	struct sum s = {.store = store, .total = ret};

	*ret = (struct objects_sum){0};
	return objects_each(fs, 0, add_up, &s);
}
