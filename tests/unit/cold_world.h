/*
 * cold_world.h: a volume with one file whose data lies in an object store, for tests of what becomes of it.
 *
 * The store is a table (tests/lib/cold.h), so a case decides when data that was missed is there.  What a case does to the file it
 * does to w->want as well, so that the file can be compared whole at any time.
 *
 * Ownership: the world owns all of it.  Threads: one.  Errors: a failed assertion.
 */
#pragma once

#include <linux/falloc.h>

#include "tests/lib/cold.h"
#include "tests/lib/steps.h"
#include "tests/lib/tree.h"
#include "tests/unit/volume.h"

#define BLOCK       ((uint64_t)BLOCK_SIZE)
#define FILE_BLOCKS 40u /* of the cold file: three leaves */
#define HOLE        20u /* one of them is a hole */
#define ROOM_BYTES  (2 * MIB)

struct world {
	struct volume v;
	struct cold *cold;
	uint8_t *want; /* what the file must hold, with zeros behind its end */
	uint64_t size;
	uint8_t *bytes, *room;
};

static int64_t now_ns;
static inline int64_t test_now(const struct clock *c)
{
	(void)c;
	return now_ns;
}
static const struct clock test_clock = {.real_ns = test_now, .mono_ns = test_now};

static inline void fill(uint8_t *p, size_t len, uint64_t seed)
{
	struct rng g = {.state = seed};

	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)rng_u64(&g);
}

static inline void put(struct world *w, uint64_t off, size_t len)
{
	assert_int_equal(fs_write(w->v.fs, &owner, w->v.file, off, len, w->want + off, false), 0);
}

/* /sub/name has 40 blocks but for a hole, the last one in part, all of them at home. */
static inline struct world *world_new(void)
{
	struct world *w = calloc(1, sizeof(*w));

	now_ns = 1700000000 * NSEC_PER_SEC;
	volume_open(&w->v, &test_clock);
	w->cold = cold_open();
	w->want = aligned_alloc(DISK_BLOCK, ROOM_BYTES);
	w->bytes = aligned_alloc(DISK_BLOCK, ROOM_BYTES);
	w->room = aligned_alloc(DISK_BLOCK, ROOM_BYTES);
	memset(w->want, 0, ROOM_BYTES);
	w->size = FILE_BLOCKS * BLOCK - 1000;
	fill(w->want, w->size, 1);
	memset(w->want + HOLE * BLOCK, 0, BLOCK);
	put(w, 0, HOLE * BLOCK);
	put(w, (HOLE + 1) * BLOCK, w->size - (HOLE + 1) * BLOCK);
	steps_settle(w->v.fs);
	return w;
}

static inline void make_cold(struct world *w)
{
	struct tier_file f;

	assert_int_equal(cold_tier(w->cold, w->v.fs, w->v.file, NULL), 0);
	assert_int_equal(cold_evict(w->v.fs, w->v.file), 0);
	assert_int_equal(tier_file_state(w->v.fs, w->v.file, &f), 0);
	assert_int_equal(f.cold_blocks, f.data_blocks);
	assert_int_equal(fs_checkpoint(w->v.fs), 0);
}

static inline void world_free(struct world *w)
{
	volume_close(&w->v);
	cold_close(w->cold);
	free(w->want);
	free(w->bytes);
	free(w->room);
	free(w);
}

static inline void assert_clean(struct world *w)
{
	char why[200];

	assert_sound(w->v.fs);
	if (!cold_check(w->cold, w->v.fs, why, sizeof(why)))
		fail_msg("%s", why);
}

static inline void assert_bytes(struct world *w)
{
	struct fs_attr a;
	uint8_t *p;

	assert_int_equal(fs_getattr(w->v.fs, w->v.file, &a), 0);
	assert_int_equal(a.size, w->size);
	assert_int_equal(tree_read_file(w->v.fs, w->v.file, w->size, &p), 0);
	assert_memory_equal(p, w->want, w->size);
	free(p);
}

static struct object_row only_object(struct world *w);
static inline int copy_row(void *ctx, const struct object_row *o)
{
	struct object_row *ret = ctx;

	assert_int_equal(ret->object, 0);
	*ret = *o;
	return 0;
}
static inline struct object_row only_object(struct world *w)
{
	struct object_row o = {0};

	assert_int_equal(objects_each(w->v.fs, 0, copy_row, &o), 0);
	return o;
}

static inline struct leaf leaf_of(struct world *w, uint64_t no)
{
	struct leaf l;

	assert_int_equal(extent_get(w->v.fs, w->v.file, no, &l), 0);
	return l;
}

/* ---- acts: on the volume, or on w->want ---- */

struct act {
	const char *name;
	int (*fn)(struct world *w, bool model); /* on the volume, or on w->want */
};

static inline int write_at(struct world *w, bool model, uint64_t off, size_t len, size_t shift)
{
	fill(w->bytes + shift, len, off + len);
	if (!model)
		return fs_write(w->v.fs, &owner, w->v.file, off, len, w->bytes + shift, false);
	memcpy(w->want + off, w->bytes + shift, len);
	w->size = max_u64(w->size, off + len);
	return 0;
}

static inline int zero_at(struct world *w, bool model, int mode, uint64_t off, uint64_t len)
{
	if (!model)
		return fs_fallocate(w->v.fs, &owner, w->v.file, mode, off, len);
	memset(w->want + off, 0, len);
	if (!(mode & FALLOC_FL_KEEP_SIZE))
		w->size = max_u64(w->size, off + len);
	return 0;
}

static inline int cut_at(struct world *w, bool model, uint64_t size)
{
	const struct record_attr a = {.mask = ATTR_SIZE, .size = size};
	struct fs_attr after;

	if (!model)
		return fs_setattr(w->v.fs, &owner, w->v.file, &a, &after);
	if (size < w->size)
		memset(w->want + size, 0, w->size - size);
	w->size = size;
	return 0;
}

static inline int read_at(struct world *w, bool model, uint64_t off, size_t len)
{
	size_t n = 0, want = off < w->size ? min_u64(len, w->size - off) : 0;
	void *at = NULL;

	if (model)
		return 0;
	int r = fs_read(w->v.fs, w->v.file, off, len, w->room, &at, &n);
	if (r == 0) {
		assert_int_equal(n, want);
		assert_memory_equal(at, w->want + off, n);
	}
	return r;
}

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO  FALLOC_FL_ZERO_RANGE

/* ---- what is seen of a change ---- */

/* Everything that an operation that waits for data must leave as it was. */
struct facts {
	struct journal_status journal;
	struct arena_status arena;
	struct fs_attr attr;
	struct object_row object;
	uint64_t pos;
};

static inline struct facts facts_of(struct world *w)
{
	struct facts f = {0};

	journal_get_status(w->v.fs->journal, &f.journal);
	arena_get_status(w->v.fs->arena, &f.arena);
	f.arena.blocks_read = f.arena.blocks_written = 0;
	assert_int_equal(fs_getattr(w->v.fs, w->v.file, &f.attr), 0);
	f.object = only_object(w);
	f.pos = fs_pos(w->v.fs);
	return f;
}

static inline void assert_unchanged(const char *name, const struct facts *a, const struct facts *b)
{
	if (a->journal.operations != b->journal.operations || a->journal.open_bytes != b->journal.open_bytes || a->pos != b->pos)
		fail_msg("%s: something was logged", name);
	if (memcmp(&a->arena, &b->arena, sizeof(a->arena)) != 0)
		fail_msg("%s: space was taken: used %llu, reserved %llu, free %llu", name,
			 (unsigned long long)b->arena.used_blocks, (unsigned long long)b->arena.reserved_blocks,
			 (unsigned long long)b->arena.free_blocks);
	if (memcmp(&a->attr, &b->attr, sizeof(a->attr)) != 0 || memcmp(&a->object, &b->object, sizeof(a->object)) != 0)
		fail_msg("%s: attributes or what is live changed", name);
}
