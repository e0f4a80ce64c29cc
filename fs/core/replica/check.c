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
#include "fs/core/replica/impl.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/share/share.h"
#include "fs/core/snap/snap.h"
#include "fs/core/tier/tier.h"

#define FILE_BLOCKS_MAX (FILE_SIZE_MAX / BLOCK_SIZE)
#define NUMBER_MAX      (UINT64_C(1) << 62) /* of inodes and cookies, so that counting on never wraps */
#define DEPTH_MAX       65536u
#define SLAB_ITEMS      256u
#define WIDE_LEAVES     4096u /* a ZERO of more is counted in one walk */

enum item_kind { ITEM_INODE, ITEM_NAME, ITEM_LEAF };

/* One inode, name or leaf of the trial. */
struct item {
	struct item *next; /* in its bucket */
	enum item_kind kind;
	uint64_t a, b;     /* inode; or parent and hash of the name; or inode and leaf */
	struct slice name; /* borrowed from the batch */
	union {
		struct {
			bool exists;
			bool cut; /* which of its blocks are in use is not known any more */
			uint32_t mode, nlink;
			uint64_t size, next_cookie, parent;
		} inode;
		uint64_t ino; /* of the name; 0: there is none */
		struct {
			/* bit i for slot i: has a block or a promise; has data; an object has it; may be in the ring */
			uint16_t space, data, tiered, staged;
		} leaf;
	};
};
struct slab {
	struct slab *next;
	uint32_t n;
	struct item item[SLAB_ITEMS];
};
struct trial {
	struct fs *fs;
	uint64_t seq, epoch, history, promised;
	uint32_t n_records; /* of the batch */
	struct item **bucket;
	uint32_t n_buckets; /* a power of two */
	struct slab *slabs;
};

static void trial_free(struct trial *t)
{
	for (struct slab *s = t->slabs, *next; s; s = next) {
		next = s->next;
		free(s);
	}
	free(t->bucket);
}

/* ---- what the trial knows ---- */

static struct item *new_item(struct trial *t)
{
	if (!t->slabs || t->slabs->n == SLAB_ITEMS) {
		struct slab *s = malloc(sizeof(*s));

		if (!s)
			return NULL;
		s->n = 0;
		s->next = t->slabs;
		t->slabs = s;
	}
	struct item *i = &t->slabs->item[t->slabs->n++];
	memset(i, 0, sizeof(*i));
	return i;
}

static struct item **bucket_of(struct trial *t, enum item_kind kind, uint64_t a, uint64_t b)
{
	uint64_t h = (a * UINT64_C(0x9e3779b97f4a7c15) ^ b ^ kind) * UINT64_C(0xff51afd7ed558ccd);

	return &t->bucket[h >> 40 & (t->n_buckets - 1)];
}

static bool same_name(const struct item *i, struct slice name)
{
	return i->name.len == name.len && (name.len == 0 || memcmp(i->name.p, name.p, name.len) == 0);
}

/* 1: it was new, and is to be loaded. */
static int find_item(struct trial *t, enum item_kind kind, uint64_t a, uint64_t b, struct slice name, struct item **ret)
{
	struct item **bucket = bucket_of(t, kind, a, b);

	for (struct item *i = *bucket; i; i = i->next)
		if (i->kind == kind && i->a == a && i->b == b && same_name(i, name)) {
			*ret = i;
			return 0;
		}
	struct item *i = new_item(t);
	if (!i)
		return -ENOMEM;
	i->kind = kind;
	i->a = a;
	i->b = b;
	i->name = name;
	i->next = *bucket;
	*ret = *bucket = i;
	return 1;
}

static int get_inode(struct trial *t, uint64_t ino, struct item **ret)
{
	struct inode in;
	int r = find_item(t, ITEM_INODE, ino, 0, (struct slice){0}, ret);

	if (r != 1)
		return r;
	r = icache_copy(t->fs->icache, ino, &in);
	if (r == 0) {
		(*ret)->inode.exists = true;
		(*ret)->inode.mode = in.mode;
		(*ret)->inode.nlink = in.nlink;
		(*ret)->inode.size = in.size;
		(*ret)->inode.next_cookie = in.next_cookie;
		(*ret)->inode.parent = in.parent;
	}
	return r == -ENOENT ? 0 : r;
}

static int get_name(struct trial *t, uint64_t parent, struct slice name, struct item **ret)
{
	struct dentry d;
	int r = find_item(t, ITEM_NAME, parent, XXH64(name.p, name.len, 0), name, ret);

	if (r != 1)
		return r;
	r = index_get_dentry(t->fs->kv, parent, name, &d);
	(*ret)->ino = r == 0 ? d.ino : 0;
	return r == -ENOENT ? 0 : r;
}

static int get_leaf(struct trial *t, const struct item *file, uint64_t leaf, struct item **ret)
{
	struct leaf l;
	int r = find_item(t, ITEM_LEAF, file->a, leaf, (struct slice){0}, ret);

	if (r != 1)
		return r;
	r = extent_get(t->fs, file->a, leaf, &l);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		(*ret)->leaf.space |= (uint16_t)(slot_has_own_space(t->fs, &l.slot[i]) << i);
		(*ret)->leaf.staged |= (uint16_t)((l.slot[i].staged != 0) << i);
	}
	(*ret)->leaf.data = leaf_data(&l);
	(*ret)->leaf.tiered = leaf_tiered(&l);
	return 0;
}

/* ---- findings ---- */

static int misfit(const struct trial *t, const struct record *r, const char *why)
{
	log_error("batch %llu from the leader does not fit this volume: %s of inode %llu: %s", (unsigned long long)t->seq,
		  record_type_name(r->type), (unsigned long long)r->ino, why);
	return -EUCLEAN;
}

static bool is_dir(const struct item *i)
{
	return i->inode.exists && S_ISDIR(i->inode.mode);
}

/* A directory that names can be put into and taken from. */
static bool is_live_dir(const struct item *i)
{
	return is_dir(i) && i->inode.nlink > 0;
}

static bool is_file(const struct item *i)
{
	return i->inode.exists && S_ISREG(i->inode.mode);
}

/* ---- names ---- */

static void gain_name(struct item *dir, struct item *name, uint64_t ino, bool subdir)
{
	name->ino = ino;
	dir->inode.size++;
	dir->inode.nlink += subdir;
	dir->inode.next_cookie++;
}

static void lose_name(struct item *dir, struct item *name, bool subdir)
{
	name->ino = 0;
	dir->inode.size--;
	dir->inode.nlink -= subdir;
}

/* The next name of `dir` has this cookie, as on the leader. */
static bool cookie_ok(const struct item *dir, uint64_t cookie)
{
	return cookie == dir->inode.next_cookie && cookie < NUMBER_MAX;
}

static void begin_inode(struct item *i, uint32_t mode, uint64_t size, uint64_t parent)
{
	i->inode.exists = true;
	i->inode.mode = mode;
	i->inode.nlink = S_ISDIR(mode) ? 2 : 1;
	i->inode.size = size;
	i->inode.next_cookie = 3;
	i->inode.parent = parent;
}

/* A name in a directory, and the inode that the record is about. */
static int get_place(struct trial *t, uint64_t parent, struct slice name, uint64_t ino, struct item **ret_dir,
		     struct item **ret_name, struct item **ret_in)
{
	int e = get_inode(t, parent, ret_dir);

	if (e == 0)
		e = get_inode(t, ino, ret_in);
	return e < 0 ? e : get_name(t, parent, name, ret_name);
}

static int check_mknode(struct trial *t, const struct record *r)
{
	struct item *dir, *in, *name;
	int e = get_place(t, r->mknode.parent, r->mknode.name, r->ino, &dir, &name, &in);

	if (e < 0)
		return e;
	if (in->inode.exists || r->ino >= NUMBER_MAX)
		return misfit(t, r, "there is one of that number");
	if (!is_live_dir(dir) || name->ino || !cookie_ok(dir, r->mknode.cookie))
		return misfit(t, r, "its directory cannot take the name");
	begin_inode(in, r->mknode.mode, r->mknode.target.len, r->mknode.parent);
	gain_name(dir, name, r->ino, S_ISDIR(r->mknode.mode));
	return 0;
}

static int check_link(struct trial *t, const struct record *r)
{
	struct item *dir, *in, *name;
	int e = get_place(t, r->link.parent, r->link.name, r->ino, &dir, &name, &in);

	if (e < 0)
		return e;
	if (!in->inode.exists || S_ISDIR(in->inode.mode) || in->inode.nlink == 0 || in->inode.nlink == UINT32_MAX)
		return misfit(t, r, "it cannot have another name");
	if (!is_live_dir(dir) || name->ino || !cookie_ok(dir, r->link.cookie))
		return misfit(t, r, "its directory cannot take the name");
	in->inode.nlink++;
	in->inode.parent = r->link.parent;
	gain_name(dir, name, r->ino, false);
	return 0;
}

/* A name of `i` may go: it is no directory with entries. */
static bool may_lose_name(const struct item *i)
{
	return i->inode.exists && i->inode.nlink > 0 && (!S_ISDIR(i->inode.mode) || i->inode.size == 0);
}

static void drop_link(struct item *i)
{
	i->inode.nlink = S_ISDIR(i->inode.mode) ? 0 : i->inode.nlink - 1;
}

static int check_unlink(struct trial *t, const struct record *r)
{
	struct item *dir, *in, *name;
	int e = get_place(t, r->unlink.parent, r->unlink.name, r->ino, &dir, &name, &in);

	if (e < 0)
		return e;
	if (!is_live_dir(dir) || name->ino != r->ino || !may_lose_name(in))
		return misfit(t, r, "the name is not there, or may not go");
	lose_name(dir, name, S_ISDIR(in->inode.mode));
	drop_link(in);
	return 0;
}

struct rename_items {
	struct item *from, *to, *name, *new_name, *in, *target, *whiteout;
};

static int get_rename(struct trial *t, const struct record *r, struct rename_items *x)
{
	int e = get_inode(t, r->rename.parent, &x->from);

	if (e == 0)
		e = get_inode(t, r->rename.new_parent, &x->to);
	if (e == 0)
		e = get_name(t, r->rename.parent, r->rename.name, &x->name);
	if (e == 0)
		e = get_name(t, r->rename.new_parent, r->rename.new_name, &x->new_name);
	if (e == 0)
		e = get_inode(t, r->ino, &x->in);
	if (e == 0 && r->rename.target)
		e = get_inode(t, r->rename.target, &x->target);
	if (e == 0 && r->rename.whiteout_ino)
		e = get_inode(t, r->rename.whiteout_ino, &x->whiteout);
	return e;
}

/* Whether `dir` is `ino` or lies below it.  Rows that a peer has sent may form a loop, so the way up is bounded. */
static int is_below(struct trial *t, uint64_t dir, uint64_t ino, bool *ret)
{
	*ret = false;
	for (unsigned depth = 0; dir != FS_ROOT_INO && !*ret; depth++) {
		struct item *i;
		int e = get_inode(t, dir, &i);

		if (e < 0)
			return e;
		if (!is_live_dir(i) || depth == DEPTH_MAX)
			return -EUCLEAN;
		*ret = dir == ino;
		dir = i->inode.parent;
	}
	*ret |= ino == FS_ROOT_INO;
	return 0;
}

/* Moving what lies under one directory to another makes no loop. */
static int check_loops(struct trial *t, const struct record *r, const struct rename_items *x)
{
	bool below = false;
	int e = 0;

	if (x->from == x->to)
		return 0;
	if (is_dir(x->in))
		e = is_below(t, r->rename.new_parent, r->ino, &below);
	if (e == 0 && !below && x->target && is_dir(x->target))
		e = is_below(t, r->rename.parent, r->rename.target, &below);
	return e == 0 && below ? misfit(t, r, "a directory would lie in itself") : e;
}

static bool rename_names_ok(const struct record *r, const struct rename_items *x)
{
	bool exchange = r->rename.flags & RENAME_F_EXCHANGE, whiteout = r->rename.flags & RENAME_F_WHITEOUT;

	if (!is_live_dir(x->from) || !is_live_dir(x->to) || !x->in->inode.exists || x->name->ino != r->ino ||
	    x->new_name->ino != r->rename.target || r->rename.target == r->ino)
		return false;
	if (exchange ? whiteout || !x->target : !cookie_ok(x->to, r->rename.new_cookie))
		return false;
	if (whiteout != (x->whiteout != NULL) || (whiteout && (x->whiteout->inode.exists || x->whiteout->a >= NUMBER_MAX)))
		return false;
	return !x->target || x->target->inode.exists;
}

static void exchange_names(const struct record *r, struct rename_items *x)
{
	uint32_t in_dir = is_dir(x->in), target_dir = is_dir(x->target);

	x->name->ino = r->rename.target;
	x->new_name->ino = r->ino;
	x->from->inode.nlink += target_dir - in_dir;
	x->to->inode.nlink += in_dir - target_dir;
	x->in->inode.parent = r->rename.new_parent;
	x->target->inode.parent = r->rename.parent;
}

static void move_name(const struct record *r, struct rename_items *x)
{
	bool dir = is_dir(x->in);

	if (x->target) {
		lose_name(x->to, x->new_name, is_dir(x->target));
		drop_link(x->target);
	}
	lose_name(x->from, x->name, dir);
	gain_name(x->to, x->new_name, r->ino, dir);
	x->in->inode.parent = r->rename.new_parent;
	if (!x->whiteout)
		return;
	begin_inode(x->whiteout, S_IFCHR, 0, r->rename.parent);
	x->name->ino = r->rename.whiteout_ino;
	x->from->inode.size++; /* under the cookie that the moved name had */
}

static int check_rename(struct trial *t, const struct record *r)
{
	struct rename_items x = {0};
	int e = get_rename(t, r, &x);

	if (e < 0)
		return e;
	if (!rename_names_ok(r, &x))
		return misfit(t, r, "the names are not what it says, or not free");
	e = check_loops(t, r, &x);
	if (e < 0)
		return e;
	if (r->rename.flags & RENAME_F_EXCHANGE) {
		exchange_names(r, &x);
		return 0;
	}
	if (x.target && (is_dir(x.in) != is_dir(x.target) || !may_lose_name(x.target)))
		return misfit(t, r, "what it replaces may not go");
	move_name(r, &x);
	return 0;
}

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
		int e = get_leaf(t, i, at / LEAF_SLOTS, &leaf);

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
	int e = get_inode(t, r->ino, &i);

	if (e < 0)
		return e;
	if (!range_ok(i, r->write.block, r->write.n_blocks, r->write.size))
		return misfit(t, r, "it cannot be written there");
	i->inode.size = r->write.size;
	return use_blocks(t, i, r->write.block, r->write.n_blocks, r->write.out_of_line ? USE_DIRECT : USE_INLINE);
}

static int check_zero(struct trial *t, const struct record *r)
{
	uint64_t first = r->zero.block, n = r->zero.n_blocks;
	struct item *i;
	int e = get_inode(t, r->ino, &i);

	if (e < 0)
		return e;
	if (!range_ok(i, first, n, r->zero.size))
		return misfit(t, r, "there is no such range");
	i->inode.size = r->zero.size;
	if (r->zero.mode == ZERO_PUNCH)
		return cut_file(t, i, first, first + n);
	enum use use = r->zero.mode == ZERO_ALLOCATE ? USE_ALLOCATE : USE_ZERO;
	return n > WIDE_LEAVES * LEAF_SLOTS ? use_wide(t, i, first, n, use) : use_blocks(t, i, first, n, use);
}

/* The part of a CLONE that lies in one leaf on either side: n blocks from `a` on become those from `b` on. */
static int clone_leaf(struct trial *t, const struct record *r, struct item *from, struct item *to, uint64_t a, uint64_t b,
		      unsigned n)
{
	unsigned at = a % LEAF_SLOTS, into = b % LEAF_SLOTS, mask = (1u << n) - 1;
	uint16_t data = 0, staged = (uint16_t)mask;
	struct item *x, *y;
	int e = 0;

	if (!from->inode.cut) {
		e = get_leaf(t, from, a / LEAF_SLOTS, &x);
		if (e < 0)
			return e;
		if (x->leaf.tiered >> at & mask)
			return misfit(t, r, "an object has its data");
		data = (uint16_t)(x->leaf.data >> at & mask);
		staged = x->leaf.staged >> at & data;
		x->leaf.space &= (uint16_t) ~(mask << at);
	}
	/* Those in the ring will want homes of their own. */
	t->promised += (unsigned)__builtin_popcount(staged);
	if (to->inode.cut)
		return 0;
	e = get_leaf(t, to, b / LEAF_SLOTS, &y);
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
	int e = get_inode(t, r->clone.from, &from);

	if (e == 0)
		e = get_inode(t, r->ino, &to);
	if (e == 0)
		e = share_feature(t->fs);
	if (e < 0)
		return e;
	if (!range_ok(to, r->clone.block, n, r->clone.size) || !is_file(from) || r->clone.from_block > FILE_BLOCKS_MAX - n)
		return misfit(t, r, "there is no such range");
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
	int e = get_inode(t, r->ino, &i);

	if (e < 0)
		return e;
	if (!i->inode.exists || i->inode.nlink > 0 || r->reap.from_leaf > FILE_BLOCKS_MAX / LEAF_SLOTS)
		return misfit(t, r, "it is no orphan");
	i->inode.exists = r->reap.from_leaf > 0;
	i->inode.size = min_u64(i->inode.size, r->reap.from_leaf * LEAF_SLOTS * BLOCK_SIZE);
	return cut_file(t, i, r->reap.from_leaf * LEAF_SLOTS, UINT64_MAX);
}

/* Where a file was cut its leaves are not known: a place that does not fit is passed over when it is applied. */
static int check_tier(struct trial *t, const struct record *r)
{
	struct item *i, *leaf;
	int e = get_inode(t, r->ino, &i);

	if (e == 0)
		e = tier_check(t->fs, r);
	if (e == -EUCLEAN)
		return misfit(t, r, "its object is known as another one");
	if (e == 0)
		e = tier_feature(t->fs);
	if (e < 0)
		return e;
	if (r->tier.change == TIER_FORGET)
		return 0;
	if (!is_file(i))
		return misfit(t, r, "it has no data");
	for (uint32_t k = 0; k < r->tier.n_places && !i->inode.cut; k++) {
		const struct record_place p = record_place_at(r, k);

		if (p.leaf >= FILE_BLOCKS_MAX / LEAF_SLOTS)
			return misfit(t, r, "there is no such range");
		e = get_leaf(t, i, p.leaf, &leaf);
		if (e < 0)
			return e;
		if (tier_placeable(leaf->leaf.data, leaf->leaf.tiered, p.mask) != p.mask)
			return misfit(t, r, "it has not that data, or other data would lose its copy");
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
	int e = get_inode(t, r->ino, &i);

	if (e < 0)
		return e;
	if (!i->inode.exists)
		return misfit(t, r, "there is none");
	if (!(r->attr.mask & ATTR_SIZE))
		return 0;
	if (!is_file(i) || r->attr.size > FILE_SIZE_MAX)
		return misfit(t, r, "it cannot have that size");
	uint64_t was = i->inode.size;
	i->inode.size = r->attr.size;
	return r->attr.size < was ? cut_file(t, i, div_round_up(r->attr.size, BLOCK_SIZE), UINT64_MAX) : 0;
}

static int check_xattr(struct trial *t, const struct record *r)
{
	struct item *i;
	int e = get_inode(t, r->ino, &i);

	if (e < 0)
		return e;
	if (!i->inode.exists)
		return misfit(t, r, "there is none");
	return policy_is(r->xattr.name) && !policy_valid(r) ? misfit(t, r, "it is no policy") : 0;
}

static int check_epoch(struct trial *t, const struct record *r)
{
	if (r->epoch.epoch < t->history || r->epoch.epoch > t->epoch || r->epoch.epoch == 0)
		return misfit(t, r, "it does not follow the epoch before it");
	t->history = r->epoch.epoch;
	return 0;
}

/* Alone in its batch: the state it is of is that of a whole batch, on every node. */
static int check_snap(struct trial *t, const struct record *r)
{
	if (t->n_records != 1)
		return misfit(t, r, "it is not alone in its batch");
	int e = snap_check(t->fs, r);
	if (e == -EUCLEAN)
		return misfit(t, r, "there is no such snapshot, or there is one already");
	return e < 0 ? e : snap_feature(t->fs);
}

static int check_record(struct trial *t, const struct record *r)
{
	switch (r->type) {
	case RECORD_MKNODE:
		return check_mknode(t, r);
	case RECORD_LINK:
		return check_link(t, r);
	case RECORD_UNLINK:
		return check_unlink(t, r);
	case RECORD_RENAME:
		return check_rename(t, r);
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
		return check_snap(t, r);
	case RECORD_EPOCH:
		return check_epoch(t, r);
	default:
		return misfit(t, r, "no record of that type is known");
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
			return misfit(t, &rec, "one operation changes more inodes than any does");
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
