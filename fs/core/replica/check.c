/*
 * check.c: whether a batch of another node fits this volume.
 *
 * Applying a record cannot refuse: it is in the journal by then, and would be met again at every mount.  A leader validates
 * before it logs; a follower does the same here, with what a whole batch says, since a peer may send anything, a valid
 * certificate or not (guarantee G11).  Bytes, lengths and names were checked when the records were decoded; here it is what they
 * mean: that names and inodes are there or are not, of the right type, in a tree, and that the space exists.
 *
 * The batch is played through on a trial: inodes, names and leaves that it touches, as they are here and then as each
 * record leaves them.  Of an inode the trial knows what the checks need; of a leaf, which blocks are in use, for the space
 * that inline data must be promised.  Where a file was cut or punched, what it still has counts as nothing: that promises too
 * much rather than too little, and what was not needed is given back.
 *
 * Only this thread changes the volume meanwhile (the homer moves blocks, which changes nothing here).
 */
#include "fs/core/replica/trial.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/share/share.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/tier/tier.h"

#define FILE_BLOCKS_MAX (FILE_SIZE_MAX / BLOCK_SIZE)
#define WIDE_LEAVES     4096u /* a ZERO of more is counted in one walk */

/* ---- data ---- */

/* Blocks [block, ...) of the file go: what must be read for that can be. */
static int cut_file(struct trial *t, struct item *i, uint64_t block, uint64_t end)
{
	struct inode now;
	int e = icache_copy(t->fs->icache, i->a, &now);

	if (e == 0) /* else it is a file of this batch */
		e = extent_check(t->fs, &now, block, end);
	i->inode.cut = true;
	return e == -ENOENT ? 0 : e;
}

/* What becomes of blocks. */
enum use { USE_INLINE, USE_DIRECT, USE_ZERO, USE_ALLOCATE };

/* Slots in `mask` change; returns those that must be promised. */
static uint16_t use_slots(struct item *leaf, uint16_t mask, enum use use)
{
	uint16_t spaceless = mask & (uint16_t)~leaf->leaf.space;

	if (use == USE_ALLOCATE) { /* only what is a hole: cold data stays where it is */
		spaceless &= (uint16_t)~leaf->leaf.data;
		leaf->leaf.space |= spaceless;
		return spaceless;
	}
	leaf->leaf.space |= mask;
	leaf->leaf.tiered &= (uint16_t)~mask;
	if (use == USE_ZERO)
		leaf->leaf.data &= (uint16_t)~mask;
	else
		leaf->leaf.data |= mask;
	if (use == USE_INLINE)
		leaf->leaf.staged |= mask;
	return use == USE_DIRECT ? 0 : spaceless;
}

/* Blocks [first, first + n) come into use; those that have no space yet must be promised. */
static int use_blocks(struct trial *t, struct item *i, uint64_t first, uint64_t n, enum use use)
{
	if (i->inode.cut) {
		t->promised += use == USE_DIRECT ? 0 : n;
		return 0;
	}
	for (uint64_t at = first, end = first + n; at < end;) {
		uint64_t last = min_u64(end, (at / LEAF_SLOTS + 1) * LEAF_SLOTS);
		unsigned from = at % LEAF_SLOTS, to = from + (unsigned)(last - at);
		uint16_t mask = (uint16_t)((1u << to) - (1u << from));
		struct item *leaf;
		int e = trial_leaf(t, i, at / LEAF_SLOTS, &leaf);

		if (e < 0)
			return e;
		t->promised += (unsigned)__builtin_popcount(use_slots(leaf, mask, use));
		at = last;
	}
	return 0;
}

struct count {
	struct fs *fs;
	uint64_t first, end, kept;
	bool allocate;
};

static int count_kept(void *ctx, uint64_t leaf, const struct leaf *l)
{
	struct count *c = ctx;

	if (leaf * LEAF_SLOTS >= c->end)
		return 1;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		uint64_t block = leaf * LEAF_SLOTS + i;
		const struct slot *s = &l->slot[i];

		c->kept += block >= c->first && block < c->end && (c->allocate ? slot_used(s) : slot_has_own_space(c->fs, s));
	}
	return 0;
}

/* The same for more blocks than the trial should remember one by one. */
static int use_wide(struct trial *t, struct item *i, uint64_t first, uint64_t n, enum use use)
{
	struct count c = {.fs = t->fs, .first = first, .end = first + n, .allocate = use == USE_ALLOCATE};
	struct inode now;
	int e = i->inode.cut ? -ENOENT : icache_copy(t->fs->icache, i->a, &now);

	if (e == 0)
		e = extent_each(t->fs, &now, first / LEAF_SLOTS, count_kept, &c);
	t->promised += n - c.kept;
	i->inode.cut = true;
	return e == -ENOENT || e > 0 ? 0 : e;
}

/* A range and a size that a file can have; a size that does not cut it. */
static bool range_ok(const struct item *i, uint64_t block, uint64_t n, uint64_t size)
{
	return is_file(i) && n <= FILE_BLOCKS_MAX && block <= FILE_BLOCKS_MAX - n && size >= i->inode.size &&
	       size <= FILE_SIZE_MAX;
}

static int check_write(struct trial *t, const struct record *r)
{
	struct item *i;
	int e = trial_inode(t, r->ino, &i);

	if (e < 0)
		return e;
	if (!range_ok(i, r->write.block, r->write.n_blocks, r->write.size))
		return trial_misfit(t, r, "it cannot be written there");
	i->inode.size = r->write.size;
	return use_blocks(t, i, r->write.block, r->write.n_blocks, r->write.out_of_line ? USE_DIRECT : USE_INLINE);
}

static int check_zero(struct trial *t, const struct record *r)
{
	uint64_t first = r->zero.block, n = r->zero.n_blocks;
	struct item *i;
	int e = trial_inode(t, r->ino, &i);

	if (e < 0)
		return e;
	if (!range_ok(i, first, n, r->zero.size))
		return trial_misfit(t, r, "there is no such range");
	i->inode.size = r->zero.size;
	if (r->zero.mode == ZERO_PUNCH)
		return cut_file(t, i, first, first + n);
	enum use use = r->zero.mode == ZERO_ALLOCATE ? USE_ALLOCATE : USE_ZERO;
	return n > WIDE_LEAVES * LEAF_SLOTS ? use_wide(t, i, first, n, use) : use_blocks(t, i, first, n, use);
}

/* What is packed here gets homes that can be shared, and a recovery finds them: it may begin before the record. */
static int clone_source(struct trial *t, uint64_t ino, uint64_t leaf, uint16_t mask)
{
	struct fs *fs = t->fs;
	struct leaf l;

	for (unsigned tries = 0; tries < 2; tries++) {
		icache_rdlock(fs->icache, ino);
		int e = extent_get(fs, ino, leaf, &l);
		icache_rdunlock(fs->icache, ino);
		if (e == 0 && !(leaf_packed(&l) & mask)) /* one that was got its homes without a record */
			return squeeze_is_settled(fs) ? 0 : fs_checkpoint(fs);
		if (e < 0)
			return e;
		if (tries == 0)
			e = unpack_leaf(fs, ino, leaf);
		if (e == 0 && tries == 0)
			e = fs_checkpoint(fs);
		if (e < 0)
			return e;
	}
	return -ENOSPC; /* there is no room for them, or they are damaged: another time */
}

/* The part of a CLONE that lies in one leaf on either side: n blocks from `a` on become those from `b` on. */
static int clone_leaf(struct trial *t, const struct record *r, struct item *from, struct item *to, uint64_t a, uint64_t b,
		      unsigned n)
{
	unsigned at = a % LEAF_SLOTS, into = b % LEAF_SLOTS, mask = (1u << n) - 1;
	uint16_t data = 0, staged = (uint16_t)mask;
	struct item *x, *y;
	int e = clone_source(t, from->a, a / LEAF_SLOTS, (uint16_t)(mask << at));

	if (e < 0) /* where it was cut, too: not all of it may have gone */
		return e;
	if (!from->inode.cut) {
		e = trial_leaf(t, from, a / LEAF_SLOTS, &x);
		if (e < 0)
			return e;
		if (x->leaf.tiered >> at & mask)
			return trial_misfit(t, r, "an object has its data");
		data = (uint16_t)(x->leaf.data >> at & mask);
		staged = x->leaf.staged >> at & data;
		x->leaf.space &= (uint16_t) ~(mask << at);
	}
	/* Those in the ring will want homes of their own. */
	t->promised += (unsigned)__builtin_popcount(staged);
	if (to->inode.cut)
		return 0;
	e = trial_leaf(t, to, b / LEAF_SLOTS, &y);
	if (e < 0)
		return e;
	mask <<= into;
	y->leaf.space &= (uint16_t)~mask;
	y->leaf.tiered &= (uint16_t)~mask;
	y->leaf.data = (uint16_t)((y->leaf.data & ~mask) | (unsigned)data << into);
	y->leaf.staged = (uint16_t)((y->leaf.staged & ~mask) | (unsigned)staged << into);
	to->inode.cut |= from->inode.cut; /* what it has now is not known either */
	return 0;
}

/* A source that was cut is not known leaf by leaf: should an object have of it, the clone has holes there (share/clone.c). */
static int check_clone(struct trial *t, const struct record *r)
{
	uint64_t n = r->clone.n_blocks;
	struct item *from, *to;
	int e = trial_inode(t, r->clone.from, &from);

	if (e == 0)
		e = trial_inode(t, r->ino, &to);
	if (e == 0)
		e = share_feature(t->fs);
	if (e < 0)
		return e;
	if (!range_ok(to, r->clone.block, n, r->clone.size) || !is_file(from) || r->clone.from_block > FILE_BLOCKS_MAX - n)
		return trial_misfit(t, r, "there is no such range");
	to->inode.size = r->clone.size;
	for (uint64_t i = 0, part; i < n && e == 0; i += part) {
		uint64_t a = r->clone.from_block + i, b = r->clone.block + i;

		part = min_u64(n - i, LEAF_SLOTS - max_u64(a % LEAF_SLOTS, b % LEAF_SLOTS));
		e = clone_leaf(t, r, from, to, a, b, (unsigned)part);
	}
	return e;
}

static int check_reap(struct trial *t, const struct record *r)
{
	struct item *i;
	int e = trial_inode(t, r->ino, &i);

	if (e < 0)
		return e;
	if (!i->inode.exists || i->inode.nlink > 0 || r->reap.from_leaf > FILE_BLOCKS_MAX / LEAF_SLOTS)
		return trial_misfit(t, r, "it is no orphan");
	i->inode.exists = r->reap.from_leaf > 0;
	i->inode.size = min_u64(i->inode.size, r->reap.from_leaf * LEAF_SLOTS * BLOCK_SIZE);
	return cut_file(t, i, r->reap.from_leaf * LEAF_SLOTS, UINT64_MAX);
}

/* Where a file was cut its leaves are not known: a place that does not fit is passed over when it is applied. */
static int check_tier(struct trial *t, const struct record *r)
{
	struct item *i, *leaf;
	int e = trial_inode(t, r->ino, &i);

	if (e == 0)
		e = tier_check(t->fs, r);
	if (e == -EUCLEAN)
		return trial_misfit(t, r, "its object is known as another one");
	if (e == 0)
		e = tier_feature(t->fs);
	if (e < 0)
		return e;
	if (r->tier.change == TIER_FORGET)
		return 0;
	if (!is_file(i))
		return trial_misfit(t, r, "it has no data");
	for (uint32_t k = 0; k < r->tier.n_places && !i->inode.cut; k++) {
		const struct record_place p = record_place_at(r, k);

		if (p.leaf >= FILE_BLOCKS_MAX / LEAF_SLOTS)
			return trial_misfit(t, r, "there is no such range");
		e = trial_leaf(t, i, p.leaf, &leaf);
		if (e < 0)
			return e;
		if (tier_placeable(leaf->leaf.data, leaf->leaf.tiered, p.mask) != p.mask)
			return trial_misfit(t, r, "it has not that data, or other data would lose its copy");
		leaf->leaf.tiered |= p.mask;
		/* A home that holds zeros in place of superseded data goes (tier/place.c): what comes after may need a block. */
		leaf->leaf.space &= (uint16_t)~p.mask;
	}
	return 0;
}

/* ---- attributes ---- */

static int check_setattr(struct trial *t, const struct record *r)
{
	struct item *i;
	int e = trial_inode(t, r->ino, &i);

	if (e < 0)
		return e;
	if (!i->inode.exists)
		return trial_misfit(t, r, "there is none");
	if (!(r->attr.mask & ATTR_SIZE))
		return 0;
	if (!is_file(i) || r->attr.size > FILE_SIZE_MAX)
		return trial_misfit(t, r, "it cannot have that size");
	uint64_t was = i->inode.size;
	i->inode.size = r->attr.size;
	return r->attr.size < was ? cut_file(t, i, div_round_up(r->attr.size, BLOCK_SIZE), UINT64_MAX) : 0;
}

static int check_xattr(struct trial *t, const struct record *r)
{
	struct item *i;
	int e = trial_inode(t, r->ino, &i);

	if (e < 0)
		return e;
	if (!i->inode.exists)
		return trial_misfit(t, r, "there is none");
	return policy_is(r->xattr.name) && !policy_valid(r) ? trial_misfit(t, r, "it is no policy") : 0;
}

static int check_epoch(struct trial *t, const struct record *r)
{
	if (r->epoch.epoch < t->history || r->epoch.epoch > t->epoch || r->epoch.epoch == 0)
		return trial_misfit(t, r, "it does not follow the epoch before it");
	t->history = r->epoch.epoch;
	return 0;
}

/* Alone in its batch: the state it is of is that of a whole batch, on every node. */
static int check_snap(struct trial *t, const struct record *r)
{
	if (t->n_records != 1)
		return trial_misfit(t, r, "it is not alone in its batch");
	int e = snap_check(t->fs, r);
	if (e == -EUCLEAN)
		return trial_misfit(t, r, "there is no such snapshot, or there is one already");
	return e < 0 ? e : snap_feature(t->fs);
}

static int check_record(struct trial *t, const struct record *r)
{
	switch (r->type) {
	case RECORD_MKNODE:
		return trial_mknode(t, r);
	case RECORD_LINK:
		return trial_link(t, r);
	case RECORD_UNLINK:
		return trial_unlink(t, r);
	case RECORD_RENAME:
		return trial_rename(t, r);
	case RECORD_SETATTR:
		return check_setattr(t, r);
	case RECORD_SETXATTR:
	case RECORD_RMXATTR:
		return check_xattr(t, r);
	case RECORD_WRITE:
		return check_write(t, r);
	case RECORD_ZERO:
		return check_zero(t, r);
	case RECORD_CLONE:
		return check_clone(t, r);
	case RECORD_REAP:
		return check_reap(t, r);
	case RECORD_TIER:
		return check_tier(t, r);
	case RECORD_SNAP:
	case RECORD_SNAPDROP:
	case RECORD_SNAPROLL:
		return check_snap(t, r);
	case RECORD_EPOCH:
		return check_epoch(t, r);
	default:
		return trial_misfit(t, r, "no record of that type is known");
	}
}

/* The inodes of one operation, whose stripes are taken together (struct lockset). */
struct operation {
	uint64_t inos[RECORD_INODES_MAX];
	uint32_t n;
};

static bool operation_grow(struct operation *o, const struct record *r)
{
	uint64_t inos[RECORD_INODES_MAX];
	uint32_t n = record_inodes(r, inos);

	for (uint32_t i = 0; i < n; i++) {
		uint32_t k = 0;

		while (k < o->n && o->inos[k] != inos[i])
			k++;
		if (k == RECORD_INODES_MAX)
			return false;
		if (k == o->n)
			o->inos[o->n++] = inos[i];
	}
	return true;
}

static int check_records(struct trial *t, const struct batch_view *v)
{
	struct operation operation = {0};
	struct batch_cursor c;
	struct record rec;
	int r;

	batch_cursor_start(&c, v);
	while ((r = batch_next(&c, &rec)) == 1) {
		if (!operation_grow(&operation, &rec))
			return trial_misfit(t, &rec, "one operation changes more inodes than any does");
		r = check_record(t, &rec);
		if (r < 0)
			return r;
		if (!(rec.flags & RECORD_MORE))
			operation.n = 0;
	}
	return r;
}

int replica_check(struct fs *fs, const struct batch_view *v, uint64_t seq, uint64_t epoch, uint64_t *ret_promised)
{
	struct trial t = {.fs = fs,
			  .seq = seq,
			  .epoch = epoch,
			  .history = atomic_load(&fs->history),
			  .n_buckets = 64,
			  .n_records = v->n.n_records};

	while (t.n_buckets < 4 * v->n.n_records)
		t.n_buckets *= 2;
	t.bucket = calloc(t.n_buckets, sizeof(struct item *));
	if (!t.bucket)
		return -ENOMEM;
	int r = check_records(&t, v);
	trial_free(&t);
	*ret_promised = t.promised;
	return r;
}
