/*
 * repack.c: objects that are mostly dead are packed again, and those that are all dead leave the store.
 *
 * An object under half live, and not quite new, is fetched; its live leaves go into the open pack, together with those of others,
 * and placing them there takes them from the old one.  When none is left the object is dead, and that is all repacking does: how
 * much of an object is live is counted by records alone.  Homes are not touched: what is cold stays cold, what was kept stays
 * kept.
 *
 * A dead object is removed from its store after the grace time, then forgotten (a record).  Before the first removal of a pass,
 * what made those objects dead is made durable, at the level of the root directory: a record that a crash could take back must
 * not have cost the object that it took the last leaf from.  The grace time should be longer than any follower may lag.
 *
 * A crash at any point is harmless:
 *     before the new object is stored      nothing has changed
 *     stored, not placed                   it is an orphan, for gc
 *     some leaves placed                   both objects are partly live; the next pass goes on
 *     all placed, not durable              recovery may bring back an earlier state, in which the old object is live, and is
 * there removed, not forgotten               the row is still dead, nothing refers to it; the next pass finds the store without
 * it (404 is fine) and forgets it
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/tier/ageing/impl.h"

#define INTERVAL_NS    (300 * NSEC_PER_SEC)
#define MIN_AGE_NS     (600 * NSEC_PER_SEC)
#define SKIP_NS        (3600 * NSEC_PER_SEC)
#define ROUND_OBJECTS  16u /* packed again before others have a turn */
#define HALF(n_blocks) ((n_blocks) / 2)

/* ---- which ones ---- */

struct search {
	struct ageing *a;
	int64_t now_ns; /* steady */
	bool dead;      /* those to remove; else those to pack again */
	struct object_row row[REMOVALS_MAX];
	size_t n, max;
};

static bool is_skipped(const struct ageing *a, uint64_t object)
{
	for (size_t i = 0; i < a->repack.n_skipped && !a->eager; i++)
		if (a->repack.skipped[i % REPACK_SKIPS] == object)
			return true;
	return false;
}

static void skip(struct ageing *a, uint64_t object)
{
	struct repack_state *s = &a->repack;

	s->skipped[s->next_skip++ % REPACK_SKIPS] = object;
	if (s->n_skipped < REPACK_SKIPS)
		s->n_skipped++;
}

/* And in no snapshot. */
static bool is_dead(struct fs *fs, const struct object_row *o)
{
	return !objects_needed(fs, o) && o->dead_ns;
}

static int consider(void *ctx, const struct object_row *o)
{
	struct search *s = ctx;
	int64_t age_ns;

	if (s->dead ? !is_dead(s->a->fs, o) : o->n_live == 0 || o->n_live >= HALF(o->n_blocks) || is_skipped(s->a, o->object))
		return 0;
	if (__builtin_sub_overflow(s->now_ns, s->dead ? o->dead_ns : o->born_ns, &age_ns) ||
	    age_ns < (s->dead || s->a->eager || s->a->repack.hurried ? 0 : MIN_AGE_NS) || ageing_is_writing(s->a->fs, o->object))
		return 0;
	s->row[s->n++] = *o;
	return s->n == s->max;
}

/* Rows from `from` on; freed by the caller. */
static int find(struct ageing *a, bool dead, uint64_t from, size_t max, struct search **ret)
{
	struct search *s = malloc(sizeof(*s));

	if (!s)
		return -ENOMEM;
	*s = (struct search){.a = a, .now_ns = steady_now(a), .dead = dead, .max = max};
	int r = objects_each(a->fs, from, consider, s);
	if (r < 0) {
		free(s);
		return r;
	}
	*ret = s;
	return 0;
}

/* A store that can be asked, counted; NULL: not now, or there is none. */
static const struct tier_store *store_of(struct ageing *a, uint32_t id)
{
	const struct tier_store *s;
	struct tier_store known;
	int64_t until_ns;

	if (stores_find(a->fs, id, &known) < 0)
		return NULL;
	return ageing_store_get(a, known.name, &s, &until_ns) == 0 ? s : NULL;
}

/* ---- packing again ---- */

struct repack {
	struct ageing *a;
	const struct object_row *o;
	struct item *item; /* the file at hand */
	uint64_t end;      /* its leaves from here on may come */
	uint8_t *blocks;
};

static void leave_file(struct repack *k)
{
	if (k->item)
		ageing_release(k->a, TAKE_PTR(k->item));
}

/* -EBUSY: it is on its way out anyway. */
static int enter_file(struct repack *k, uint64_t ino)
{
	struct ageing *a = k->a;

	if (k->item && k->item->ino == ino)
		return 0;
	leave_file(k);
	k->end = 0;
	mutex_lock(&a->lock);
	int r = items_claim(a, ino, &k->item);
	mutex_unlock(&a->lock);
	if (r < 0)
		return r;
	r = tier_watch(a->fs, ino);
	k->item->watched = r == 0;
	return r;
}

/* The slots of the frame that its leaf still has from it. */
static int live_slots(struct fs *fs, const struct pack_frame *f, uint64_t object, uint32_t offset, struct leaf *ret,
		      uint16_t *ret_mask)
{
	struct inode *in;
	int r = icache_rdlock_get(fs->icache, f->ino, &in);

	*ret_mask = 0;
	if (r < 0)
		return r;
	r = in->nlink ? extent_get(fs, f->ino, f->leaf, ret) : -ENOENT;
	icache_rdunlock(fs->icache, f->ino);
	if (r == 0 && ret->object.id == object && ret->object.offset == offset)
		*ret_mask = leaf_tiered(ret);
	return r;
}

/* Of the blocks of f->mask those of `mask`, compared with what their slots want. */
static int choose_blocks(struct repack *k, const struct pack_frame *f, const struct leaf *l, uint16_t mask, const uint8_t *blocks)
{
	uint8_t *to = k->blocks;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(f->mask >> i & 1))
			continue;
		if (mask >> i & 1) {
			if (crc32c(0, blocks, BLOCK_SIZE) != l->slot[i].crc)
				return fs_damaged(k->a->fs, f->ino, (f->leaf * LEAF_SLOTS + i) * BLOCK_SIZE, "data in an object");
			memcpy(to, blocks, BLOCK_SIZE);
			to += BLOCK_SIZE;
		}
		blocks += BLOCK_SIZE;
	}
	return 0;
}

static int add_frame(void *ctx, const struct pack_frame *f, uint32_t offset, const uint8_t *blocks)
{
	struct repack *k = ctx;
	struct leaf l;
	uint16_t mask;

	if (ageing_stopping(k->a))
		return -ECANCELED;
	int r = enter_file(k, f->ino);
	if (r == 0 && f->leaf < k->end)
		return 0; /* not in order: another time */
	if (r == 0)
		r = live_slots(k->a->fs, f, k->o->object, offset, &l, &mask);
	if (r == 0 && mask && !(mask & ~f->mask))
		r = choose_blocks(k, f, &l, mask, blocks);
	else
		mask = 0;
	if (r == 0 && mask)
		r = fill_add(k->a, k->o->store, k->item, f->leaf, mask, k->blocks);
	if (r == 0)
		k->end = f->leaf + 1;
	return r == -EBUSY || r == -ENOENT || r == -EBADMSG || r == -EUCLEAN ? 0 : r;
}

static int repack_object(struct ageing *a, const struct object_row *o)
{
	struct repack k = {.a = a, .o = o, .blocks = malloc(LEAF_BYTES)};
	int r = k.blocks ? recall_object(a->fs, o->object, add_frame, &k) : -ENOMEM;

	leave_file(&k);
	free(k.blocks);
	if (r < 0) {
		char line[OBJECT_MESSAGE_MAX];

		snprintf(line, sizeof(line), "object %016llx cannot be packed again: %s", (unsigned long long)o->object,
			 strerror(-r));
		ageing_note_error(a, r, line);
		return r;
	}
	mutex_lock(&a->lock);
	a->status.repacked_objects++;
	mutex_unlock(&a->lock);
	return 0;
}

/* True when there may be more of them. */
static bool repack_some(struct ageing *a, bool all)
{
	struct search *s;
	bool more = false;
	int r = find(a, false, a->repack.next_object, all ? REMOVALS_MAX : ROUND_OBJECTS, &s);

	if (r < 0) {
		ageing_note_error(a, r, NULL);
		return false;
	}
	for (size_t i = 0; i < s->n && !ageing_stopping(a); i++) {
		const struct tier_store *store = store_of(a, s->row[i].store);

		if (!store)
			continue;
		stores_put(a->fs, store);
		skip(a, s->row[i].object); /* comes again, if it has to, after a while */
		if (repack_object(a, &s->row[i]) < 0 && a->eager)
			break;
	}
	more = s->n == s->max && s->row[s->n - 1].object < UINT64_MAX;
	a->repack.next_object = more ? s->row[s->n - 1].object + 1 : 0;
	free(s);
	fill_ship(a);
	return more;
}

/* ---- removing ---- */

static void synced(struct journal_waiter *w, int result)
{
	struct ageing *a = container_of(w, struct ageing, repack.waiter);

	mutex_lock(&a->lock);
	a->repack.sync = result == 0 ? SYNC_DONE : SYNC_NONE;
	a->kicked = true;
	cond_signal(&a->wake);
	cond_broadcast(&a->room); /* and it may be gone */
	mutex_unlock(&a->lock);
}

/* Rows dead for longer than their store's grace time, noted; then what made them so is made durable. */
static void begin_removals(struct ageing *a)
{
	struct repack_state *k = &a->repack;
	int64_t now = steady_now(a);
	struct search *s;

	k->n_removals = 0;
	if (find(a, true, k->next_dead, REMOVALS_MAX, &s) < 0)
		return;
	for (size_t i = 0; i < s->n; i++) {
		const struct tier_store *store = store_of(a, s->row[i].store);

		if (!store)
			continue;
		if (now - s->row[i].dead_ns >= store->d.grace_ns)
			k->removal[k->n_removals++] = s->row[i].object;
		stores_put(a->fs, store);
	}
	k->next_dead = s->n == s->max && s->row[s->n - 1].object < UINT64_MAX ? s->row[s->n - 1].object + 1 : 0;
	free(s);
	if (!k->n_removals)
		return;
	mutex_lock(&a->lock);
	k->sync = SYNC_ASKED;
	mutex_unlock(&a->lock);
	k->waiter = (struct journal_waiter){.done = synced};
	fs_sync_async(a->fs, FS_ROOT_INO, &k->waiter);
}

static int remove_object(struct ageing *a, const struct tier_store *store, uint64_t object)
{
	struct object_call call = {.purpose = OBJECT_BACKGROUND};
	char key[OBJECT_NAME_MAX];

	object_name(object, key);
	int r = store->guard->ops->remove(store->guard, &call, key);
	if (r < 0 && r != -ENOENT) {
		ageing_store_failed(a, store, r, call.message);
		return r;
	}
	r = tier_forget(a->fs, object);
	if (r < 0 && r != -ENOENT) {
		ageing_note_error(a, r, NULL);
		return r;
	}
	mutex_lock(&a->lock);
	a->status.removed_objects++;
	mutex_unlock(&a->lock);
	return 0;
}

static void finish_removals(struct ageing *a)
{
	struct repack_state *k = &a->repack;
	struct object_row o;
	int r = 0;

	for (size_t i = 0; i < k->n_removals && r == 0 && !ageing_stopping(a); i++) {
		if (objects_get(a->fs, k->removal[i], &o) < 0 || !is_dead(a->fs, &o) || ageing_is_writing(a->fs, o.object))
			continue;
		const struct tier_store *store = store_of(a, o.store);
		if (!store)
			continue;
		r = remove_object(a, store, o.object);
		stores_put(a->fs, store);
	}
	k->n_removals = 0;
	mutex_lock(&a->lock);
	k->sync = SYNC_NONE;
	mutex_unlock(&a->lock);
}

static enum repack_sync sync_state(struct ageing *a)
{
	mutex_lock(&a->lock);
	enum repack_sync s = a->repack.sync;
	mutex_unlock(&a->lock);
	return s;
}

/* ---- a round ---- */

/* Somebody asked: a pass begins now. */
static void take_asked(struct ageing *a)
{
	struct repack_state *k = &a->repack;

	mutex_lock(&a->lock);
	bool asked = a->repack_asked;
	a->repack_asked = false;
	mutex_unlock(&a->lock);
	if (!asked)
		return;
	k->hurried = true;
	k->due_ns = 0;
	k->next_object = k->next_dead = 0;
	k->n_skipped = k->next_skip = 0;
}

bool repack_round(struct ageing *a, bool now)
{
	int64_t mono_ns = clock_mono_ns(a->fs->clock);
	struct repack_state *k = &a->repack;
	bool more = false;

	if (sync_state(a) == SYNC_DONE)
		finish_removals(a);
	take_asked(a);
	if (!fs_takes_changes(a->fs) || (!now && mono_ns < k->due_ns))
		return false;
	if (k->next_object == 0) {
		steady_look(a);
		if (mono_ns - k->skips_since_ns >= SKIP_NS) {
			k->n_skipped = k->next_skip = 0;
			k->skips_since_ns = mono_ns;
		}
	}
	more = repack_some(a, now);
	if (sync_state(a) == SYNC_NONE)
		begin_removals(a);
	if (sync_state(a) == SYNC_DONE)
		finish_removals(a);
	if (!more && !k->next_dead) {
		k->due_ns = mono_ns + INTERVAL_NS;
		k->hurried = false;
	}
	return more || k->next_dead;
}
