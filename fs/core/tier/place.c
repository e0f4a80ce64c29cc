/*
 * place.c: TIER records: that leaves have a copy in an object, and that an object is not needed any more.
 *
 * A leaf names one frame of one object for all of its tiered slots, so a new frame must have each slot that the old one had: else
 * a slot that is cold on some node would lose its only copy there.  tier_place() leaves such leaves out, replica/check.c
 * refuses a record that has one, and tier_apply() passes it over, so that no record whatsoever can lose data.
 *
 * A file that is being packed is watched from before its leaves are read until they are placed.  Any logged change of its data
 * marks the watch, under the stripe under which tier_place() looks at it; so what was packed is what the slots hold.
 *
 * On a follower a home may hold zeros: its leader sent the data too late, when it had dropped its own home already, and promised
 * that what takes its place is in the batches up to a fence.  That is this record, and with it the home goes.  Homes that a
 * resync wrote are marked (BIRTH_SUPERSEDED); of those that a stream wrote the checksum tells, and is looked at only where there
 * can be any.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/replica/impl.h"
#include "fs/core/tier/tier.h"
#include "fs/store/super_format.h"

#define BUCKETS 256u

struct watch {
	struct watch *next; /* in its bucket */
	uint64_t ino;
	uint32_t n;
	bool touched;
};
struct tier_watches {
	struct mutex log_lock;         /* one TIER record at a time; taken before the gate */
	struct mutex lock;             /* a leaf in the order of locks */
	struct watch *bucket[BUCKETS]; /* guarded by lock; owned */
	_Atomic uint32_t n;
};

int watches_open(struct fs *fs)
{
	fs->watches = calloc(1, sizeof(*fs->watches));
	if (!fs->watches)
		return -ENOMEM;
	mutex_init(&fs->watches->log_lock);
	mutex_init(&fs->watches->lock);
	return 0;
}

void watches_close(struct fs *fs) NO_THREAD_SAFETY
{
	struct tier_watches *ws = fs->watches;

	if (!ws)
		return;
	for (unsigned i = 0; i < BUCKETS; i++)
		for (struct watch *w = ws->bucket[i], *next; w; w = next) {
			next = w->next;
			free(w);
		}
	mutex_destroy(&ws->lock);
	mutex_destroy(&ws->log_lock);
	free(ws);
	fs->watches = NULL;
}

/* ---- watching ---- */

/* Where the pointer to the watch of `ino` is; it points to NULL when there is none. */
static struct watch **find(struct tier_watches *ws, uint64_t ino) REQUIRES(ws->lock)
{
	struct watch **at = &ws->bucket[ino * UINT64_C(0x9e3779b97f4a7c15) >> 56];

	while (*at && (*at)->ino != ino)
		at = &(*at)->next;
	return at;
}

int tier_watch(struct fs *fs, uint64_t ino)
{
	struct tier_watches *ws = fs->watches;
	struct watch *fresh = malloc(sizeof(*fresh));

	if (!fresh)
		return -ENOMEM;
	mutex_lock(&ws->lock);
	struct watch **at = find(ws, ino);
	if (*at) {
		(*at)->n++;
	} else {
		*fresh = (struct watch){.ino = ino, .n = 1};
		*at = fresh;
		fresh = NULL;
		atomic_fetch_add(&ws->n, 1);
	}
	mutex_unlock(&ws->lock);
	free(fresh);
	return 0;
}

void tier_unwatch(struct fs *fs, uint64_t ino)
{
	struct tier_watches *ws = fs->watches;
	struct watch *gone = NULL;

	mutex_lock(&ws->lock);
	struct watch **at = find(ws, ino);
	if (*at && --(*at)->n == 0) {
		gone = *at;
		*at = gone->next;
		atomic_fetch_sub(&ws->n, 1);
	}
	mutex_unlock(&ws->lock);
	free(gone);
}

void tier_touched(struct fs *fs, uint64_t ino)
{
	struct tier_watches *ws = fs->watches;

	if (atomic_load_explicit(&ws->n, memory_order_acquire) == 0)
		return;
	mutex_lock(&ws->lock);
	struct watch *w = *find(ws, ino);
	if (w)
		w->touched = true;
	mutex_unlock(&ws->lock);
}

static bool is_untouched(struct fs *fs, uint64_t ino)
{
	mutex_lock(&fs->watches->lock);
	const struct watch *w = *find(fs->watches, ino);
	bool r = w && !w->touched;
	mutex_unlock(&fs->watches->lock);
	return r;
}

/* ---- applying ---- */

uint16_t tier_placeable(uint16_t data, uint16_t tiered, uint16_t mask)
{
	mask &= data;
	return tiered & ~mask ? 0 : mask;
}

/* Whether a home may hold zeros that nothing marks: of records of another node, which a fence or a restart brings in. */
static bool may_hold_zeros(struct fs *fs)
{
	struct super s;

	if (epoch_node(atomic_load(&fs->history)) == fs->super.node_id)
		return false;
	replica_get_super(fs, &s);
	return fs->replaying || s.fence;
}

/* Takes the homes that do not have their slots' data from those slots of `l`, which are tiered now. */
static void drop_superseded(struct fs *fs, struct leaf *l, uint16_t mask)
{
	_Alignas(DISK_BLOCK) uint8_t block[BLOCK_SIZE];
	bool look = may_hold_zeros(fs);

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		struct slot *s = &l->slot[i];

		if (!(mask >> i & 1) || !s->home || s->staged)
			continue;
		if (s->birth == BIRTH_SUPERSEDED ||
		    (look && (arena_read(fs->arena, s->home, 1, block) < 0 || crc32c(0, block, BLOCK_SIZE) != s->crc)))
			*s = (struct slot){.crc = s->crc, .tiered = s->tiered};
	}
}

/* One place; *n_placed slots more are tiered in its object. */
static int apply_place(struct fs *fs, const struct record *r, const struct record_place *p, const struct applied *applied,
		       uint32_t *n_placed)
{
	struct leaf old, new;
	int e = extent_get(fs, r->ino, p->leaf, &old);

	if (e < 0)
		return e;
	uint16_t tiered = leaf_tiered(&old), mask = tier_placeable(leaf_data(&old), tiered, p->mask);
	if (!mask)
		return 0;
	new = old;
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		new.slot[i].tiered |= mask >> i & 1;
	new.object = (struct leaf_object){.id = r->tier.object, .offset = p->offset, .len = p->len};
	drop_superseded(fs, &new, mask);
	/* As a local change: what the file holds and needs stays as it was. */
	e = extent_put(fs, NULL, r->ino, p->leaf, &old, &new, NULL);
	if (e == 0)
		e = objects_moved(fs, &old, &new, applied);
	*n_placed += (uint32_t)(__builtin_popcount(mask) - (old.object.id == new.object.id ? __builtin_popcount(tiered) : 0));
	return e;
}

int tier_apply(struct fs *fs, const struct record *r, struct applied *applied)
{
	uint32_t n_placed = 0;
	int e = 0;

	if (r->tier.change == TIER_FORGET)
		return objects_forgotten(fs, r->tier.object);
	for (uint32_t i = 0; i < r->tier.n_places && e == 0; i++) {
		const struct record_place p = record_place_at(r, i);

		e = apply_place(fs, r, &p, applied, &n_placed);
	}
	return e < 0 ? e : objects_placed(fs, r, n_placed);
}

int tier_check(struct fs *fs, const struct record *r)
{
	struct object_row o;
	int e = objects_get(fs, r->tier.object, &o);

	if (e == -ENOENT || r->tier.change == TIER_FORGET)
		return 0;
	if (e < 0)
		return e;
	return o.store == r->tier.store && o.bytes == r->tier.object_bytes && o.n_blocks == r->tier.n_blocks &&
		       memcmp(o.sealed, r->tier.sealed, sizeof(o.sealed)) == 0
		   ? 0
		   : -EUCLEAN;
}

/* ---- logging ---- */

int tier_feature(struct fs *fs)
{
	return replica_set_feature(fs, SUPER_TIERED);
}

static void stamp(struct fs *fs, const struct object_row *o, enum tier_change change, uint64_t ino, struct record *ret)
{
	*ret = (struct record){0};
	op_stamp(fs, NULL, ret, RECORD_TIER, ino);
	ret->tier.change = (uint8_t)change;
	ret->tier.store = o->store;
	ret->tier.object = o->object;
	ret->tier.object_bytes = o->bytes;
	ret->tier.n_blocks = o->n_blocks;
	ret->tier.sealed = o->sealed;
}

/* Those of the leaves that can be placed; the file is as it was when they were read. */
static int choose_places(struct fs *fs, const struct packed_leaf *p, size_t n, struct record_place *places, uint32_t *ret_n)
{
	struct leaf l;

	*ret_n = 0;
	for (size_t i = 0; i < n; i++) {
		int r = extent_get(fs, p[i].ino, p[i].leaf, &l);

		if (r < 0)
			return r;
		if (tier_placeable(leaf_data(&l), leaf_tiered(&l), p[i].mask) == p[i].mask)
			places[(*ret_n)++] =
			    (struct record_place){.leaf = p[i].leaf, .offset = p[i].offset, .len = p[i].len, .mask = p[i].mask};
	}
	return 0;
}

static int place_locked(struct fs *fs, const struct object_row *o, const struct packed_leaf *p, size_t n,
			struct record_place *places, size_t *placed)
{
	struct record rec;
	struct inode *in;
	int r = icache_get(fs->icache, p->ino, &in);

	if (r < 0)
		return r == -ENOENT ? -ESTALE : r;
	if (!S_ISREG(in->mode) || in->nlink == 0 || !is_untouched(fs, p->ino))
		return -ESTALE;
	stamp(fs, o, TIER_PLACE, p->ino, &rec);
	rec.tier.places = places;
	r = choose_places(fs, p, n, places, &rec.tier.n_places);
	if (r == 0 && rec.tier.n_places)
		r = tier_check(fs, &rec);
	if (r == 0 && rec.tier.n_places)
		r = fs_log(fs, &rec, 1, 0);
	if (r == 0)
		*placed += rec.tier.n_places;
	return r;
}

static int place_some(struct fs *fs, const struct object_row *o, const struct packed_leaf *p, size_t n,
		      struct record_place *places, size_t *placed)
{
	struct lockset ls;

	mutex_lock(&fs->watches->log_lock);
	int r = tier_feature(fs);
	if (r == 0)
		r = op_begin(fs);
	if (r == 0) {
		lockset_lock(fs->icache, &ls, &p->ino, 1);
		r = place_locked(fs, o, p, n, places, placed);
		lockset_unlock(fs->icache, &ls);
		op_end(fs);
	}
	mutex_unlock(&fs->watches->log_lock);
	return r;
}

static bool rises(const struct packed_leaf *p, size_t n)
{
	for (size_t i = 1; i < n; i++)
		if (p[i].ino != p->ino || p[i].leaf <= p[i - 1].leaf)
			return false;
	return true;
}

int tier_place(struct fs *fs, const struct object_row *o, const struct packed_leaf *p, size_t n, size_t *ret_placed)
{
	CLEANUP_FREE struct record_place *places = malloc(RECORD_PLACES_MAX * sizeof(*places));
	size_t placed = 0;
	int r = places ? 0 : -ENOMEM;

	if (!rises(p, n))
		return -EINVAL;
	for (size_t done = 0; r == 0 && done < n;) {
		size_t some = min_u64(n - done, RECORD_PLACES_MAX);

		r = place_some(fs, o, p + done, some, places, &placed);
		done += some;
	}
	if (r < 0 && !placed)
		return r;
	*ret_placed = placed;
	return 0;
}

static int forget_locked(struct fs *fs, uint64_t object)
{
	struct object_row o;
	struct record rec;
	int r = objects_get(fs, object, &o);

	if (r < 0)
		return r;
	if (objects_needed(fs, &o))
		return -EBUSY;
	stamp(fs, &o, TIER_FORGET, FS_ROOT_INO, &rec);
	return fs_log(fs, &rec, 1, 0);
}

int tier_forget(struct fs *fs, uint64_t object)
{
	const uint64_t root = FS_ROOT_INO;
	struct lockset ls;

	mutex_lock(&fs->watches->log_lock); /* nothing becomes live between looking and logging */
	int r = op_begin(fs);
	if (r == 0) {
		lockset_lock(fs->icache, &ls, &root, 1);
		r = forget_locked(fs, object);
		lockset_unlock(fs->icache, &ls);
		op_end(fs);
	}
	mutex_unlock(&fs->watches->log_lock);
	return r;
}
