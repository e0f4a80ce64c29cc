/*
 * rollback_leaf.c: a leaf becomes again what the snapshot has of it, with its blocks.
 *
 * A block that the live leaf has and the snapshot's has not goes as any other does: it is freed, or put on the deadlist of the
 * newest snapshot.  One that it has *again* is on a deadlist, for the snapshot has it: on its own, or on that of a later one to
 * which it went when the live tree had had it again and lost it.  From there it is taken back: a block in use is named by one
 * leaf of the live tree, or on one list.  What is on the list of a snapshot is never in a newer one, so the lists of older ones
 * need not be looked at.
 *
 * Where files share blocks, one that it has again may also be in use by another leaf: by a clone that kept it, or by one that the
 * walk gave it to.  Then it is one more reference (fs/core/share).  The marks of slots are the snapshot's, and tell of the
 * references that there were then and will be in the end; on the way a block may have more than its slots say, so each that goes
 * is looked up.
 *
 * A block in quarantine is not gone back to where the live tree has the same data elsewhere.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/share/share.h"
#include "fs/core/snap/rollback.h"
#include "fs/core/tier/tier.h"

static bool is_on(struct roll *w, uint32_t top, pointer_t home, int *ret)
{
	struct index_key k = key_pair(TABLE_DEAD, top, home);
	le32 birth;
	size_t len;

	*ret = kv_get(w->fs->kv, key_slice(&k), &birth, sizeof(birth), &len);
	return *ret == 0;
}

/* The list that has it; -ENOENT.  Blocks that died together are on one list, so the last one is looked at first. */
static int find_list(struct roll *w, pointer_t home, uint32_t *ret_top)
{
	const struct snaps *s = w->fs->snaps;
	int r;

	*ret_top = w->list;
	if (is_on(w, w->list, home, &r))
		return 0;
	for (size_t i = 0; i < s->n_held && r == -ENOENT; i++) {
		*ret_top = s->held[i]->top;
		if (*ret_top >= w->top && *ret_top != w->list && is_on(w, *ret_top, home, &r))
			w->list = *ret_top;
	}
	return r;
}

/* Homes that a leaf gains, from a list or from another leaf. */
struct gain {
	pointer_t taken[LEAF_SLOTS], shared[LEAF_SLOTS];
	bool any_shared;
};

static bool was_taken(const struct gain *g, pointer_t home)
{
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if (g->taken[i] == home)
			return true;
	return false;
}

/* From its list, together with what else is in `b`; -ENOENT: it is on none. */
static int take_back(struct roll *w, struct kv_batch *b, pointer_t home)
{
	uint32_t top;
	int r = find_list(w, home, &top);

	if (r == 0) {
		struct index_key k = key_pair(TABLE_DEAD, top, home);

		kv_batch_delete(b, key_slice(&k));
	}
	return r;
}

/* Its leaf could not be read, and so it was never given up. */
static void say_on_no_list(uint64_t ino, pointer_t home)
{
	log_error("inode %llu: block %llu of device %u, which a snapshot has, is on no list: run clawfs fsck",
		  (unsigned long long)ino, (unsigned long long)pointer_block(home), pointer_device(home));
}

/* The live tree has a block of the snapshot again. */
static int gain_home(struct roll *w, struct kv_batch *b, struct gain *g, uint64_t ino, unsigned slot, pointer_t home)
{
	int r = was_taken(g, home) ? -ENOENT : take_back(w, b, home);

	if (r == 0)
		g->taken[slot] = home;
	if (r != -ENOENT)
		return r;
	if (w->shares) {
		g->shared[slot] = home;
		g->any_shared = true;
		return 0;
	}
	say_on_no_list(ino, home);
	return 0;
}

/* Blocks of a packed frame are of one leaf: clones do not share them. */
static int gain_frame(struct roll *w, struct kv_batch *b, uint64_t ino, const struct leaf_pack *frame)
{
	for (uint32_t i = 0; i < frame->n_blocks; i++) {
		int r = take_back(w, b, pointer_add(frame->start, i));

		if (r == -ENOENT)
			say_on_no_list(ino, pointer_add(frame->start, i));
		else if (r < 0)
			return r;
	}
	return 0;
}

/* What the leaf is to be: the snapshot's, but for what is known to be lost there and is here. */
static void avoid_quarantine(struct fs *fs, const struct leaf *now, struct leaf *new)
{
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const struct slot *is = &now->slot[i];
		struct slot *to = &new->slot[i];

		if (to->home && to->home != is->home && quarantine_has(fs, to->home) && is->home && slot_has_data(is) &&
		    slot_has_data(to) && is->crc == to->crc) {
			to->home = is->home;
			to->birth = is->birth;
			to->shared = is->shared;
		}
	}
}

/* What cannot be read here is replaced; fsck finds its blocks. */
static void decode_now(uint64_t ino, uint64_t leaf, struct slice now, struct leaf *ret)
{
	*ret = (struct leaf){0};
	if (now.p && leaf_decode(now.p, now.len, ret) < 0) {
		*ret = (struct leaf){0};
		log_warn("inode %llu: leaf %llu cannot be read and is replaced; fsck will find its blocks in use",
			 (unsigned long long)ino, (unsigned long long)leaf);
	}
}

static int store(struct roll *w, uint64_t ino, uint64_t leaf, const struct leaf *old, const struct leaf *new)
{
	struct kv_batch b = {0};
	struct gain g = {.any_shared = false};
	int r = 0;

	for (unsigned i = 0; i < LEAF_SLOTS && r == 0; i++)
		if (new->slot[i].home &&new->slot[i].home != old->slot[i].home)
			r = gain_home(w, &b, &g, ino, i, new->slot[i].home);
	if (r == 0 && new->pack.start != old->pack.start)
		r = gain_frame(w, &b, ino, &new->pack);
	index_put_leaf(&b, ino, leaf, new);
	if (r == 0 && g.any_shared)
		r = share_gain(w->fs, g.shared, UINT16_MAX);
	if (r == 0)
		r = kv_write(w->fs->kv, &b);
	kv_batch_free(&b);
	return r;
}

int roll_leaf(struct roll *w, uint64_t ino, uint64_t leaf, struct slice then, struct slice now)
{
	struct fs *fs = w->fs;
	struct leaf old, new = {0};
	int r = then.p ? leaf_decode(then.p, then.len, &new) : 0;

	if (r < 0)
		return r;
	decode_now(ino, leaf, now, &old);
	avoid_quarantine(fs, &old, &new);
	r = store(w, ino, leaf, &old, &new);
	if (r < 0)
		return r;
	if (w->shares)
		for (unsigned i = 0; i < LEAF_SLOTS; i++) /* whatever its mark was */
			old.slot[i].shared = old.slot[i].home != 0;
	w->applied.reserved = 0;
	extent_replaced(fs, NULL, ino, &old, &new, &w->applied);
	w->reserved += w->applied.reserved;
	tier_touched(fs, ino);
	damage_replaced(fs, ino, leaf, &old, &new);
	r = objects_moved(fs, &old, &new, &w->applied);
	return r < 0 ? r : objects_gained(fs, &old, &new);
}
