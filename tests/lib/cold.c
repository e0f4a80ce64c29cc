/*
 * cold.c: objects in a hash table, each with an array of frames.
 *
 * An object is named after what it holds and when it was made, so that the same history makes the same names wherever and however
 * often it is run, and another one makes others.
 */
#include "tests/lib/cold.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/crc32c.h"
#include "fs/core/index.h"
#include "fs/core/tier/recall/recalled.h"
#include "tests/lib/cow.h"
#include "tests/lib/tree.h"

#define BUCKETS     1024u
#define FIRST_FRAME 4096u
#define STORE_ID    1u
#define LEAF_BYTES  ((size_t)LEAF_SLOTS * BLOCK_SIZE)

struct frame {
	uint32_t offset, len;
	uint64_t ino, leaf;
	uint16_t mask;
	uint8_t *blocks; /* owned: LEAF_SLOTS, by slot */
};
struct object {
	struct object *next; /* in its bucket */
	uint64_t id;
	struct frame *frame; /* owned */
	size_t n, cap;
};
struct cold {
	struct object *bucket[BUCKETS]; /* owned */
	unsigned users;
};

static struct cold *shared;

static int serve_tree(struct fs *fs)
{
	return cold_recall(shared, fs);
}

struct cold *cold_open(void)
{
	if (!shared)
		shared = test_alloc(sizeof(*shared));
	shared->users++;
	tree_recall = serve_tree;
	return shared;
}

static void object_free(struct object *o)
{
	for (size_t i = 0; i < o->n; i++)
		free(o->frame[i].blocks);
	free(o->frame);
	free(o);
}

struct cold *cold_close(struct cold *c)
{
	if (!c || --c->users > 0)
		return NULL;
	for (unsigned i = 0; i < BUCKETS; i++)
		for (struct object *o = c->bucket[i], *next; o; o = next) {
			next = o->next;
			object_free(o);
		}
	free(c);
	shared = NULL;
	tree_recall = NULL;
	return NULL;
}

static struct object *find_object(const struct cold *c, uint64_t id)
{
	struct object *o = c->bucket[id % BUCKETS];

	while (o && o->id != id)
		o = o->next;
	return o;
}

static const struct frame *find(const struct cold *c, const struct leaf_object *at)
{
	const struct object *o = find_object(c, at->id);

	for (size_t k = 0; o && k < o->n; k++)
		if (o->frame[k].offset == at->offset && o->frame[k].len == at->len)
			return &o->frame[k];
	return NULL;
}

const uint8_t *cold_frame(struct cold *c, const struct leaf_object *at, uint16_t *ret_mask)
{
	const struct frame *f = find(c, at);

	if (f)
		*ret_mask = f->mask;
	return f ? f->blocks : NULL;
}

/* ---- recall ---- */

static int recall_leaf(struct cold *c, struct fs *fs, uint64_t ino, uint64_t leaf)
{
	struct leaf l;
	size_t n = 0;

	icache_rdlock(fs->icache, ino);
	int r = extent_get(fs, ino, leaf, &l);
	icache_rdunlock(fs->icache, ino);
	if (r < 0 || !l.object.id)
		return r;
	const struct frame *f = find(c, &l.object);
	if (!f)
		return -ENOENT;
	uint8_t *blocks = recalled_room(f->mask);
	if (!blocks)
		return -ENOMEM;
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if (f->mask >> i & 1)
			memcpy(blocks + n++ * BLOCK_SIZE, f->blocks + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
	const struct pack_frame pf = {.ino = f->ino, .leaf = f->leaf, .mask = f->mask, .len = f->len};
	return recalled_put(fs, &l.object, &pf, blocks, 0, TELL_NOTHING);
}

int cold_recall(struct cold *c, struct fs *fs)
{
	struct tier_miss m = tier_take_miss();
	int r = m.n_leaves ? 0 : -ENODATA;

	for (uint64_t i = 0; r == 0 && i < m.n_leaves; i++)
		r = recall_leaf(c, fs, m.ino, m.leaf + i);
	return r;
}

/* ---- leaves of a file ---- */

struct leaves {
	uint64_t *no;
	size_t n, cap;
};

static int add_leaf(void *ctx, uint64_t leaf, const struct leaf *l)
{
	struct leaves *ls = ctx;

	(void)l;
	ls->no = test_grow(ls->no, ls->n, &ls->cap, sizeof(*ls->no));
	ls->no[ls->n++] = leaf;
	return 0;
}

static int list_leaves(struct fs *fs, uint64_t ino, struct leaves *ret)
{
	struct inode *in;
	int r = icache_rdlock_get(fs->icache, ino, &in);

	*ret = (struct leaves){0};
	if (r < 0)
		return r;
	r = S_ISREG(in->mode) ? extent_each(fs, in, 0, add_leaf, ret) : -EINVAL;
	icache_rdunlock(fs->icache, ino);
	return r;
}

/* ---- tier ---- */

/* The data of a leaf as it is, all that is in *ret_mask by slot. */
static int read_leaf(struct cold *c, struct fs *fs, uint64_t ino, uint64_t leaf, struct leaf *ret, uint8_t *blocks)
{
	int r;

	do {
		icache_rdlock(fs->icache, ino);
		r = extent_get(fs, ino, leaf, ret);
		if (r == 0)
			r = extent_read(fs, ino, leaf * LEAF_SLOTS, LEAF_SLOTS, blocks);
		icache_rdunlock(fs->icache, ino);
	} while (r == -EINPROGRESS && (r = cold_recall(c, fs)) == 0);
	return r;
}

/* Slots to pack: all, or some, but never without one that has a copy already. */
static uint16_t choose_mask(const struct leaf *l, struct rng *rng)
{
	uint16_t data = leaf_data(l);

	if (!rng || rng_percent(rng, 70))
		return data;
	return (uint16_t)(data & rng_u64(rng)) | leaf_tiered(l);
}

static int pack_leaf(struct cold *c, struct fs *fs, uint64_t ino, uint64_t leaf, struct rng *rng, struct object *o)
{
	CLEANUP_FREE uint8_t *blocks = aligned_alloc(DISK_BLOCK, LEAF_BYTES);
	struct leaf l;
	int r = read_leaf(c, fs, ino, leaf, &l, blocks);
	uint16_t mask = r == 0 ? choose_mask(&l, rng) : 0;
	uint32_t end = o->n ? o->frame[o->n - 1].offset + o->frame[o->n - 1].len : FIRST_FRAME;

	if (!mask)
		return r;
	o->frame = test_grow(o->frame, o->n, &o->cap, sizeof(*o->frame));
	o->frame[o->n++] = (struct frame){.offset = end,
					  .len = (uint32_t)(rng ? rng_between(rng, 49, RECORD_FRAME_MAX) : 1000),
					  .ino = ino,
					  .leaf = leaf,
					  .mask = mask,
					  .blocks = TAKE_PTR(blocks)};
	return 0;
}

static uint64_t name_of(const struct object *o, int64_t now_ns)
{
	uint64_t h = (uint64_t)now_ns;

	for (size_t i = 0; i < o->n; i++) {
		const struct frame *f = &o->frame[i];
		const uint64_t words[] = {f->offset, f->len, f->ino, f->leaf, f->mask};

		h = XXH64(f->blocks, LEAF_BYTES, XXH64(words, sizeof(words), h));
	}
	return h | 1;
}

/* Takes the object over. */
static void describe(struct cold *c, struct object *o, struct cold_pack *ret)
{
	ret->row = (struct object_row){.object = o->id, .store = STORE_ID, .bytes = FIRST_FRAME};
	memset(ret->row.sealed, (int)(o->id >> 8 & 0xff), sizeof(ret->row.sealed));
	ret->leaf = test_alloc((o->n + 1) * sizeof(*ret->leaf));
	for (ret->n = 0; ret->n < o->n; ret->n++) {
		const struct frame *f = &o->frame[ret->n];

		ret->leaf[ret->n] =
		    (struct packed_leaf){.ino = f->ino, .leaf = f->leaf, .offset = f->offset, .len = f->len, .mask = f->mask};
		ret->row.bytes = f->offset + (uint64_t)f->len;
		ret->row.n_blocks += (uint32_t)__builtin_popcount(f->mask);
	}
	if (!o->n || find_object(c, o->id)) { /* nothing, or made before by the same history */
		object_free(o);
		return;
	}
	o->next = c->bucket[o->id % BUCKETS];
	c->bucket[o->id % BUCKETS] = o;
}

int cold_pack(struct cold *c, struct fs *fs, uint64_t ino, struct rng *rng, struct cold_pack *ret)
{
	struct object *o = test_alloc(sizeof(*o));
	struct leaves ls = {0};
	int r = tier_watch(fs, ino);
	bool watched = r == 0;

	if (r == 0)
		r = list_leaves(fs, ino, &ls);
	for (size_t i = 0; r == 0 && i < ls.n; i++)
		r = pack_leaf(c, fs, ino, ls.no[i], rng, o);
	free(ls.no);
	if (r < 0) {
		object_free(o);
		if (watched)
			tier_unwatch(fs, ino);
		return r;
	}
	o->id = name_of(o, clock_real_ns(fs->clock));
	describe(c, o, ret);
	return 0;
}

int cold_place(struct fs *fs, uint64_t ino, struct cold_pack *p, size_t *ret_placed)
{
	*ret_placed = 0;
	int r = p->n ? tier_place(fs, &p->row, p->leaf, p->n, ret_placed) : 0;
	free(p->leaf);
	tier_unwatch(fs, ino);
	return r;
}

int cold_tier(struct cold *c, struct fs *fs, uint64_t ino, struct rng *rng)
{
	struct cold_pack p;
	size_t placed;
	int r = cold_pack(c, fs, ino, rng, &p);

	return r < 0 ? r : cold_place(fs, ino, &p, &placed);
}

int cold_evict(struct fs *fs, uint64_t ino)
{
	uint64_t blocks;

	return tier_drop_homes(fs, ino, 0, UINT64_MAX, &blocks);
}

int cold_keep(struct cold *c, struct fs *fs, uint64_t ino)
{
	struct leaves ls;
	int r = list_leaves(fs, ino, &ls);

	for (size_t i = 0; r == 0 && i < ls.n; i++) {
		struct leaf l;

		icache_rdlock(fs->icache, ino);
		r = extent_get(fs, ino, ls.no[i], &l);
		icache_rdunlock(fs->icache, ino);
		const struct frame *f = r == 0 && l.object.id ? find(c, &l.object) : NULL;
		if (r == 0 && leaf_cold(&l))
			r = f ? tier_keep_leaf(fs, ino, ls.no[i], &l.object, leaf_cold(&l), f->blocks) : -ENOENT;
	}
	free(ls.no);
	return r;
}

/* ---- check ---- */

struct check {
	struct cold *c;
	char *why;
	size_t cap;
};

static int check_leaf(const struct check *k, uint64_t ino, uint64_t leaf, const struct leaf *l)
{
	const struct frame *f = l->object.id ? find(k->c, &l->object) : NULL;

	if (l->object.id && !f) {
		snprintf(k->why, k->cap, "leaf %llu of inode %llu names object %llx, which is not there",
			 (unsigned long long)leaf, (unsigned long long)ino, (unsigned long long)l->object.id);
		return -EUCLEAN;
	}
	for (unsigned i = 0; f && i < LEAF_SLOTS; i++)
		if (l->slot[i].tiered &&
		    (!(f->mask >> i & 1) || crc32c(0, f->blocks + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) != l->slot[i].crc)) {
			snprintf(k->why, k->cap, "slot %u of leaf %llu of inode %llu: its object has other data", i,
				 (unsigned long long)leaf, (unsigned long long)ino);
			return -EUCLEAN;
		}
	return 0;
}

static int check_row(void *ctx, const struct object_row *o)
{
	const struct check *k = ctx;

	if (find_object(k->c, o->object))
		return 0;
	snprintf(k->why, k->cap, "there is a row for object %llx, which never was", (unsigned long long)o->object);
	return -EUCLEAN;
}

bool cold_check(struct cold *c, struct fs *fs, char *why, size_t cap)
{
	const struct check k = {.c = c, .why = why, .cap = cap};
	const struct kv_ops *ops = fs->kv->ops;
	struct index_key first = key_ino(TABLE_EXTENT, 0);
	struct kv_iter *it;
	struct leaf l;

	snprintf(why, cap, "the leaves or the table of objects cannot be read");
	int r = objects_each(fs, 0, check_row, (void *)(uintptr_t)&k);
	if (r == 0)
		r = lcache_save(fs->lcache);
	if (r == 0)
		r = ops->iter_open(fs->kv, &it);
	if (r < 0)
		return false;
	for (ops->iter_seek(it, key_slice(&first)); r == 0 && ops->iter_valid(it); ops->iter_next(it)) {
		struct slice key = ops->iter_key(it), value = ops->iter_value(it);
		const uint8_t *p = key.p;

		if (*p != TABLE_EXTENT || key.len != 17)
			break;
		r = leaf_decode(value.p, value.len, &l);
		if (r == 0)
			r = check_leaf(&k, be64_get(p + 1), be64_get(p + 9), &l);
	}
	ops->iter_close(it);
	return r == 0;
}
