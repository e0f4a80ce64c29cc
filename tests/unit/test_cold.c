/*
 * test_cold.c: files whose data lies in an object store: what every operation does with them, what they cost, and what the
 * records and local changes that make them so may do.
 *
 * The store is a table (tests/lib/cold.h), so a case decides when data that was missed is there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "fs/core/index.h"
#include "fs/core/tier/recalled.h"
#include "tests/lib/cold.h"
#include "tests/lib/simstore.h"
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
static int64_t test_now(const struct clock *c)
{
	(void)c;
	return now_ns;
}
static const struct clock test_clock = {.real_ns = test_now, .mono_ns = test_now};

static void fill(uint8_t *p, size_t len, uint64_t seed)
{
	struct rng g = {.state = seed};

	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)rng_u64(&g);
}

static void home_all(struct fs *fs)
{
	bool more = true;

	assert_int_equal(fs_sync(fs), 0);
	while (more)
		assert_int_equal(fs_home_step(fs, 4096, &more), 0);
	assert_int_equal(fs_checkpoint(fs), 0);
}

static void put(struct world *w, uint64_t off, size_t len)
{
	assert_int_equal(fs_write(w->v.fs, &owner, w->v.file, off, len, w->want + off, false), 0);
}

/* /sub/name has 40 blocks but for a hole, the last one in part, all of them at home. */
static struct world *world_new(void)
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
	home_all(w->v.fs);
	return w;
}

static void make_cold(struct world *w)
{
	struct tier_file f;

	assert_int_equal(cold_tier(w->cold, w->v.fs, w->v.file, NULL), 0);
	assert_int_equal(cold_evict(w->v.fs, w->v.file), 0);
	assert_int_equal(tier_file_state(w->v.fs, w->v.file, &f), 0);
	assert_int_equal(f.cold_blocks, f.data_blocks);
	assert_int_equal(fs_checkpoint(w->v.fs), 0);
}

static void world_free(struct world *w)
{
	volume_close(&w->v);
	cold_close(w->cold);
	free(w->want);
	free(w->bytes);
	free(w->room);
	free(w);
}

static void on_line(void *ctx, const char *line)
{
	(void)ctx;
	print_error("%s\n", line);
}

static void assert_clean(struct world *w)
{
	struct fs_check_result r;
	char why[200];

	assert_int_equal(fs_check(w->v.fs, true, on_line, NULL, &r), 0);
	assert_int_equal(r.damaged_blocks + r.structure_errors + r.accounting_errors, 0);
	if (!cold_check(w->cold, w->v.fs, why, sizeof(why)))
		fail_msg("%s", why);
}

static void assert_bytes(struct world *w)
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
static int copy_row(void *ctx, const struct object_row *o)
{
	struct object_row *ret = ctx;

	assert_int_equal(ret->object, 0);
	*ret = *o;
	return 0;
}
static struct object_row only_object(struct world *w)
{
	struct object_row o = {0};

	assert_int_equal(objects_each(w->v.fs, 0, copy_row, &o), 0);
	return o;
}

/* ---- what a cold file is ---- */

static void a_cold_file_looks_as_it_did(void **state)
{
	struct world *w = world_new();
	struct fs_attr before, after;
	struct tier_file f;
	struct arena_status as, as_before;
	uint64_t off, used;

	(void)state;
	assert_int_equal(fs_getattr(w->v.fs, w->v.file, &before), 0);
	arena_get_status(w->v.fs->arena, &as_before);
	used = as_before.used_blocks;
	assert_int_equal(cold_tier(w->cold, w->v.fs, w->v.file, NULL), 0);
	assert_int_equal(tier_file_state(w->v.fs, w->v.file, &f), 0);
	assert_true(f.data_blocks == FILE_BLOCKS - 1 && f.tiered_blocks == f.data_blocks && f.cold_blocks == 0);
	assert_int_equal(cold_evict(w->v.fs, w->v.file), 0);
	assert_int_equal(tier_file_state(w->v.fs, w->v.file, &f), 0);
	assert_true(f.data_blocks == FILE_BLOCKS - 1 && f.tiered_blocks == f.data_blocks && f.cold_blocks == f.data_blocks);
	assert_int_equal(fs_getattr(w->v.fs, w->v.file, &after), 0);
	assert_memory_equal(&before, &after, sizeof(before)); /* a file of 0 blocks is a hole to tar and cp */
	assert_int_equal(fs_lseek(w->v.fs, w->v.file, 0, SEEK_HOLE, &off), 0);
	assert_int_equal(off, HOLE * BLOCK);
	assert_int_equal(fs_lseek(w->v.fs, w->v.file, off, SEEK_DATA, &off), 0);
	assert_int_equal(off, (HOLE + 1) * BLOCK);
	arena_get_status(w->v.fs->arena, &as);
	assert_int_equal(as.used_blocks + as.limbo_blocks, used);
	assert_int_equal(as.limbo_blocks - as_before.limbo_blocks, FILE_BLOCKS - 1);
	assert_int_equal(fs_checkpoint(w->v.fs), 0);
	arena_get_status(w->v.fs->arena, &as);
	assert_int_equal(as.used_blocks, used - (FILE_BLOCKS - 1)); /* and the space is there */
	assert_int_equal(as.limbo_blocks, 0);
	assert_clean(w);
	assert_bytes(w);
	for (int killed = 0; killed < 2; killed++) {
		volume_reopen(&w->v, killed);
		assert_int_equal(tier_file_state(w->v.fs, w->v.file, &f), 0);
		assert_int_equal(f.cold_blocks, FILE_BLOCKS - 1);
		assert_bytes(w);
		assert_clean(w);
	}
	world_free(w);
}

/* ---- operations that need data ---- */

struct act {
	const char *name;
	int (*fn)(struct world *w, bool model); /* on the volume, or on w->want */
};

static int write_at(struct world *w, bool model, uint64_t off, size_t len, size_t shift)
{
	fill(w->bytes + shift, len, off + len);
	if (!model)
		return fs_write(w->v.fs, &owner, w->v.file, off, len, w->bytes + shift, false);
	memcpy(w->want + off, w->bytes + shift, len);
	w->size = max_u64(w->size, off + len);
	return 0;
}

static int zero_at(struct world *w, bool model, int mode, uint64_t off, uint64_t len)
{
	if (!model)
		return fs_fallocate(w->v.fs, &owner, w->v.file, mode, off, len);
	memset(w->want + off, 0, len);
	if (!(mode & FALLOC_FL_KEEP_SIZE))
		w->size = max_u64(w->size, off + len);
	return 0;
}

static int cut_at(struct world *w, bool model, uint64_t size)
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

static int read_at(struct world *w, bool model, uint64_t off, size_t len)
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

static int copy_at(struct world *w, bool model, uint64_t from, uint64_t to, size_t len)
{
	size_t n = 0;

	if (!model) {
		int r = fs_copy_range(w->v.fs, &owner, w->v.file, from, w->v.file, to, len, &n);

		assert_true(r < 0 || n == len);
		return r;
	}
	memcpy(w->want + to, w->want + from, len);
	w->size = max_u64(w->size, to + len);
	return 0;
}

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO  FALLOC_FL_ZERO_RANGE
#define KEEP  FALLOC_FL_KEEP_SIZE
#define ACT(name, call)                                                                                                          \
	static int name(struct world *w, bool model)                                                                             \
	{                                                                                                                        \
		return call;                                                                                                     \
	}
ACT(read_a_byte, read_at(w, model, 5 * BLOCK + 7, 1))
ACT(read_the_last_block, read_at(w, model, w->size - 10, BLOCK))
ACT(read_across_leaves, read_at(w, model, 10 * BLOCK, 22 * BLOCK))
ACT(read_all, read_at(w, model, 0, FILE_BLOCKS *BLOCK))
ACT(write_into_a_block, write_at(w, model, 3 * BLOCK + 100, 200, 0))
ACT(write_from_within_a_block, write_at(w, model, 3 * BLOCK + 100, 5 * BLOCK - 100, 0))
ACT(write_to_within_a_block, write_at(w, model, 14 * BLOCK, 4 * BLOCK + 9, 0))
ACT(write_between_blocks, write_at(w, model, 15 * BLOCK + 9, 3 * BLOCK, 0))
ACT(write_directly_between_blocks, write_at(w, model, BLOCK + 9, 30 * BLOCK, 0))
ACT(write_directly_from_anywhere, write_at(w, model, BLOCK + 9, 30 * BLOCK, 9))
ACT(write_directly_to_within_a_block, write_at(w, model, 0, 33 * BLOCK + 9, 0))
ACT(write_past_the_end, write_at(w, model, w->size - 10, 30, 0))
ACT(punch_within_a_block, zero_at(w, model, PUNCH, 4 * BLOCK + 8, 100))
ACT(punch_between_blocks, zero_at(w, model, PUNCH, 4 * BLOCK + 8, 20 * BLOCK))
ACT(punch_from_a_block, zero_at(w, model, PUNCH, 4 * BLOCK, 100))
ACT(zero_within_a_block, zero_at(w, model, ZERO, 4 * BLOCK + 8, 100))
ACT(zero_between_blocks, zero_at(w, model, ZERO | KEEP, 4 * BLOCK + 8, 20 * BLOCK))
ACT(zero_past_the_end, zero_at(w, model, ZERO, 38 * BLOCK + 1, 20 * BLOCK))
ACT(cut_within_a_block, cut_at(w, model, 7 * BLOCK + 11))
ACT(cut_within_the_last_block, cut_at(w, model, 39 * BLOCK + 11))
ACT(copy_out_of_it, copy_at(w, model, 5 * BLOCK, 50 * BLOCK, 3 * BLOCK))
ACT(copy_into_a_block, copy_at(w, model, 41 * BLOCK, 6 * BLOCK + 5, 0 * BLOCK + 10))

static const struct act need_data[] = {
    {"read a byte", read_a_byte},
    {"read the last block", read_the_last_block},
    {"read across leaves", read_across_leaves},
    {"read all", read_all},
    {"write into a block", write_into_a_block},
    {"write from within a block", write_from_within_a_block},
    {"write to within a block", write_to_within_a_block},
    {"write between blocks", write_between_blocks},
    {"write directly between blocks", write_directly_between_blocks},
    {"write directly from anywhere", write_directly_from_anywhere},
    {"write directly to within a block", write_directly_to_within_a_block},
    {"write past the end", write_past_the_end},
    {"punch within a block", punch_within_a_block},
    {"punch between blocks", punch_between_blocks},
    {"punch from a block", punch_from_a_block},
    {"zero within a block", zero_within_a_block},
    {"zero between blocks", zero_between_blocks},
    {"zero past the end", zero_past_the_end},
    {"cut within a block", cut_within_a_block},
    {"cut within the last block", cut_within_the_last_block},
    {"copy out of it", copy_out_of_it},
};

/* Everything that an operation that waits for data must leave as it was. */
struct facts {
	struct journal_status journal;
	struct arena_status arena;
	struct fs_attr attr;
	struct object_row object;
	uint64_t pos;
};

static struct facts facts_of(struct world *w)
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

static void assert_unchanged(const char *name, const struct facts *a, const struct facts *b)
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

/* -EINPROGRESS with nothing changed until the data is there, in as many rounds as it takes; then it is done. */
static void do_with_recall(struct world *w, const struct act *a, bool must_wait)
{
	unsigned rounds = 0;
	int r;

	do {
		struct facts before = facts_of(w);

		r = a->fn(w, false);
		if (r != -EINPROGRESS)
			break;
		struct facts after = facts_of(w);
		assert_unchanged(a->name, &before, &after);
		assert_int_equal(cold_recall(w->cold, w->v.fs), 0);
	} while (++rounds < 10);
	if (r != 0 || (rounds > 0) != must_wait)
		fail_msg("%s: %s after %u rounds of recalls", a->name, strerror(-r), rounds);
	a->fn(w, true);
	assert_int_equal(tier_take_miss().n_leaves, 0);
	assert_bytes(w);
	assert_clean(w);
	home_all(w->v.fs);
	assert_bytes(w);
	volume_reopen(&w->v, true);
	assert_bytes(w);
	assert_clean(w);
}

static void what_needs_cold_data_changes_nothing_before_it_is_there(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(need_data); i++) {
		struct world *w = world_new();

		make_cold(w);
		do_with_recall(w, &need_data[i], true);
		world_free(w);
	}
}

/* From a hot file into a block of the cold one: what was read is not even marked as read. */
static void a_copy_that_must_wait_leaves_no_trace_of_its_source(void **state)
{
	const struct act copy = {"copy into a block", copy_into_a_block};
	struct world *w = world_new();

	(void)state;
	write_at(w, true, 41 * BLOCK, BLOCK, 0);
	put(w, 41 * BLOCK, BLOCK);
	home_all(w->v.fs);
	assert_int_equal(cold_tier(w->cold, w->v.fs, w->v.file, NULL), 0);
	uint64_t blocks;
	assert_int_equal(tier_drop_homes(w->v.fs, w->v.file, 0, 2, &blocks), 0); /* not the last leaf, which is copied from */
	assert_int_equal(blocks, 31);
	now_ns += 100 * 3600 * NSEC_PER_SEC;
	do_with_recall(w, &copy, true);
	world_free(w);
}

/* ---- operations that need none ---- */

ACT(write_a_block, write_at(w, model, 3 * BLOCK, BLOCK, 0))
ACT(write_blocks, write_at(w, model, 10 * BLOCK, 12 * BLOCK, 0))
ACT(write_blocks_directly, write_at(w, model, 1 * BLOCK, 30 * BLOCK, 0))
ACT(write_the_whole_last_block, write_at(w, model, 39 * BLOCK, BLOCK, 0))
ACT(write_what_is_left_of_the_file, write_at(w, model, 39 * BLOCK, BLOCK - 1000, 0))
ACT(write_behind_it, write_at(w, model, 60 * BLOCK + 3, 100, 0))
ACT(write_into_its_hole, write_at(w, model, HOLE *BLOCK + 3, 100, 0))
ACT(punch_blocks, zero_at(w, model, PUNCH, 4 * BLOCK, 20 * BLOCK))
ACT(zero_blocks, zero_at(w, model, ZERO, 4 * BLOCK, 20 * BLOCK))
ACT(zero_blocks_keeping_size, zero_at(w, model, ZERO | KEEP, 4 * BLOCK, 100 * BLOCK))
ACT(cut_at_a_block, cut_at(w, model, 17 * BLOCK))
ACT(cut_to_nothing, cut_at(w, model, 0))
ACT(grow, cut_at(w, model, 100 * BLOCK + 1))
ACT(read_its_hole, read_at(w, model, HOLE *BLOCK + 9, 100))

static int allocate_it(struct world *w, bool model)
{
	return model ? 0 : fs_fallocate(w->v.fs, &owner, w->v.file, KEEP, 0, 60 * BLOCK);
}
static int rename_it(struct world *w, bool model)
{
	return model ? 0 : fs_rename(w->v.fs, &root, w->v.dir, "name", FS_ROOT_INO, "other", 0);
}
static int link_it(struct world *w, bool model)
{
	struct fs_attr a;

	return model ? 0 : fs_link(w->v.fs, &root, w->v.file, w->v.dir, "another", &a);
}
static int chmod_it(struct world *w, bool model)
{
	const struct record_attr a = {.mask = ATTR_MODE, .mode = 0600};
	struct fs_attr after;

	return model ? 0 : fs_setattr(w->v.fs, &root, w->v.file, &a, &after);
}
static int set_xattr(struct world *w, bool model)
{
	return model ? 0 : fs_setxattr(w->v.fs, &root, w->v.file, "user.a", "b", 1, 0);
}

static const struct act need_none[] = {
    {"write a block", write_a_block},
    {"write blocks", write_blocks},
    {"write blocks directly", write_blocks_directly},
    {"write the whole last block", write_the_whole_last_block},
    {"write what is left of the file", write_what_is_left_of_the_file},
    {"write behind it", write_behind_it},
    {"write into its hole", write_into_its_hole},
    {"punch blocks", punch_blocks},
    {"zero blocks", zero_blocks},
    {"zero blocks keeping the size", zero_blocks_keeping_size},
    {"cut at a block", cut_at_a_block},
    {"cut to nothing", cut_to_nothing},
    {"grow", grow},
    {"read its hole", read_its_hole},
    {"allocate", allocate_it},
    {"rename", rename_it},
    {"link", link_it},
    {"chmod", chmod_it},
    {"set an attribute", set_xattr},
};

static void what_needs_no_cold_data_waits_for_none(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(need_none); i++) {
		struct world *w = world_new();

		make_cold(w);
		do_with_recall(w, &need_none[i], false);
		world_free(w);
	}
}

static void removing_a_cold_file_touches_no_object_and_leaves_a_dead_one(void **state)
{
	struct world *w = world_new();
	bool more = true;

	(void)state;
	make_cold(w);
	struct object_row o = only_object(w);
	assert_int_equal(o.n_live, FILE_BLOCKS - 1);
	assert_int_equal(o.dead_ns, 0);
	assert_int_equal(tier_forget(w->v.fs, o.object), -EBUSY);
	fs_forget(w->v.fs, w->v.file, 1);
	now_ns += 77;
	assert_int_equal(fs_unlink(w->v.fs, &root, w->v.dir, "name"), 0);
	while (more)
		assert_int_equal(fs_reap_step(w->v.fs, &more), 0);
	assert_int_equal(tier_take_miss().n_leaves, 0);
	o = only_object(w);
	assert_true(o.n_live == 0 && o.n_blocks == FILE_BLOCKS - 1 && o.dead_ns == now_ns);
	volume_reopen(&w->v, true);
	struct object_row again = only_object(w);
	assert_memory_equal(&o, &again, sizeof(o));
	assert_int_equal(tier_forget(w->v.fs, o.object), 0);
	assert_int_equal(only_object(w).object, 0);
	assert_int_equal(tier_forget(w->v.fs, o.object), -ENOENT);
	volume_reopen(&w->v, true);
	assert_int_equal(only_object(w).object, 0);
	assert_clean(w);
	world_free(w);
}

/* ---- space ---- */

/* Takes all blocks there are; returns how many are left that nobody was promised. */
static void fill_up(struct world *w)
{
	struct arena_status as;
	struct fs_attr a;
	uint64_t off = 0;

	assert_int_equal(fs_mknod(w->v.fs, &root, FS_ROOT_INO, "filler", S_IFREG | 0644, 0, &a), 0);
	for (uint64_t step = 256; step > 0;) {
		int r = fs_fallocate(w->v.fs, &root, a.ino, 0, off, step * BLOCK);

		assert_true(r == 0 || r == -ENOSPC);
		if (r == 0)
			off += step * BLOCK;
		else
			step /= 2;
	}
	arena_get_status(w->v.fs->arena, &as);
	assert_int_equal(as.free_blocks, as.reserved_blocks);
}

static void on_a_full_volume_what_needs_a_block_says_so_at_once(void **state)
{
	static const struct act need_space[] = {
	    {"write a block", write_a_block},
	    {"write blocks", write_blocks},
	    {"write blocks directly", write_blocks_directly},
	    {"zero blocks", zero_blocks},
	    {"write into a block", write_into_a_block},
	    {"write directly between blocks", write_directly_between_blocks},
	    {"punch within a block", punch_within_a_block},
	    {"zero within a block", zero_within_a_block},
	    {"cut within a block", cut_within_a_block},
	};
	static const struct act need_nothing[] = {
	    {"read all", read_all}, {"punch blocks", punch_blocks}, {"cut at a block", cut_at_a_block}};
	struct world *w = world_new();

	(void)state;
	now_ns += 1;
	simstore_set_space(w->v.sim, 0); /* no chunk more */
	make_cold(w);
	fill_up(w);
	for (size_t i = 0; i < ARRAY_SIZE(need_space); i++) {
		struct facts before = facts_of(w);
		int r;

		while ((r = need_space[i].fn(w, false)) == -EINPROGRESS)
			assert_int_equal(cold_recall(w->cold, w->v.fs), 0);
		if (r != -ENOSPC)
			fail_msg("%s: %s", need_space[i].name, strerror(-r));
		struct facts after = facts_of(w);
		assert_unchanged(need_space[i].name, &before, &after);
	}
	assert_int_equal(cold_keep(w->cold, w->v.fs, w->v.file), -ENOSPC);
	for (size_t i = 0; i < ARRAY_SIZE(need_nothing); i++) {
		int r;

		while ((r = need_nothing[i].fn(w, false)) == -EINPROGRESS)
			assert_int_equal(cold_recall(w->cold, w->v.fs), 0);
		if (r != 0)
			fail_msg("%s: %s", need_nothing[i].name, strerror(-r));
		need_nothing[i].fn(w, true);
	}
	assert_int_equal(fs_unlink(w->v.fs, &root, FS_ROOT_INO, "filler"), 0);
	assert_bytes(w);
	assert_clean(w);
	world_free(w);
}

/* ---- placing ---- */

static int unlink_it(struct world *w, bool model)
{
	return model ? 0 : fs_unlink(w->v.fs, &root, w->v.dir, "name");
}

static void a_file_whose_data_changes_meanwhile_is_not_placed(void **state)
{
	static const struct act changes[] = {
	    {"write into a block", write_into_a_block},
	    {"write blocks", write_blocks},
	    {"write blocks directly", write_blocks_directly},
	    {"write behind it", write_behind_it},
	    {"write into its hole", write_into_its_hole},
	    {"punch blocks", punch_blocks},
	    {"punch within a block", punch_within_a_block},
	    {"zero blocks", zero_blocks},
	    {"allocate", allocate_it},
	    {"cut within a block", cut_within_a_block},
	    {"cut at a block", cut_at_a_block},
	    {"cut to nothing", cut_to_nothing},
	    {"unlink", unlink_it},
	};
	static const struct act others[] = {
	    {"read all", read_all}, {"rename", rename_it},           {"link", link_it},
	    {"chmod", chmod_it},    {"set an attribute", set_xattr}, {"grow", grow},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(changes) + ARRAY_SIZE(others); i++) {
		bool touches = i < ARRAY_SIZE(changes);
		const struct act *a = touches ? &changes[i] : &others[i - ARRAY_SIZE(changes)];
		struct world *w = world_new();
		struct cold_pack p;
		size_t placed;

		assert_int_equal(cold_pack(w->cold, w->v.fs, w->v.file, NULL, &p), 0);
		assert_int_equal(a->fn(w, false), 0);
		int r = cold_place(w->v.fs, w->v.file, &p, &placed);
		if (r != (touches ? -ESTALE : 0) || placed != (touches ? 0u : 3u))
			fail_msg("%s meanwhile: %s, %zu leaves placed", a->name, strerror(-r), placed);
		assert_int_equal(only_object(w).n_live, touches ? 0 : FILE_BLOCKS - 1);
		assert_clean(w);
		world_free(w);
	}
}

static void homing_and_evicting_are_no_changes(void **state)
{
	struct world *w = world_new();
	struct cold_pack p;
	size_t placed;

	(void)state;
	write_at(w, true, 0, 9 * BLOCK, 0);
	put(w, 0, 9 * BLOCK);
	assert_int_equal(cold_tier(w->cold, w->v.fs, w->v.file, NULL), 0);
	assert_int_equal(cold_evict(w->v.fs, w->v.file), 0); /* but for what is staged */
	assert_int_equal(cold_pack(w->cold, w->v.fs, w->v.file, NULL, &p), 0);
	home_all(w->v.fs);
	assert_int_equal(cold_evict(w->v.fs, w->v.file), 0);
	assert_int_equal(cold_keep(w->cold, w->v.fs, w->v.file), 0);
	assert_int_equal(cold_place(w->v.fs, w->v.file, &p, &placed), 0);
	assert_int_equal(placed, 3);
	assert_bytes(w);
	assert_clean(w);
	world_free(w);
}

static void a_file_nobody_watches_is_not_placed(void **state)
{
	struct world *w = world_new();
	const struct object_row o = {.object = 5, .store = 1, .bytes = 10000, .n_blocks = 16};
	const struct packed_leaf p[] = {{.ino = w->v.file, .leaf = 0, .offset = 4096, .len = 10, .mask = 1},
					{.ino = w->v.file, .leaf = 1, .offset = 5096, .len = 10, .mask = 1}};
	struct packed_leaf falling[] = {p[1], p[0]}, two_files[] = {p[0], p[1]};
	size_t placed;

	(void)state;
	assert_int_equal(tier_place(w->v.fs, &o, p, 2, &placed), -ESTALE);
	assert_int_equal(tier_watch(w->v.fs, w->v.dir), 0);
	assert_int_equal(tier_watch(w->v.fs, w->v.file), 0);
	assert_int_equal(tier_place(w->v.fs, &o, falling, 2, &placed), -EINVAL);
	two_files[1].ino++;
	assert_int_equal(tier_place(w->v.fs, &o, two_files, 2, &placed), -EINVAL);
	two_files[0].ino = w->v.dir; /* no file */
	assert_int_equal(tier_place(w->v.fs, &o, two_files, 1, &placed), -ESTALE);
	two_files[0].ino = 4711; /* nothing at all */
	assert_int_equal(tier_watch(w->v.fs, 4711), 0);
	assert_int_equal(tier_place(w->v.fs, &o, two_files, 1, &placed), -ESTALE);
	two_files[0] = p[0];
	two_files[0].len = 20000; /* behind the object's end */
	assert_int_equal(tier_place(w->v.fs, &o, two_files, 1, &placed), -EINVAL);
	assert_int_equal(only_object(w).object, 0);
	assert_int_equal(tier_place(w->v.fs, &o, p, 2, &placed), 0);
	assert_int_equal(placed, 2);
	/* Another object of the same name. */
	struct object_row other = o;
	other.bytes++;
	assert_int_equal(tier_place(w->v.fs, &other, p, 2, &placed), -EUCLEAN);
	tier_unwatch(w->v.fs, w->v.file);
	tier_unwatch(w->v.fs, w->v.file); /* once too often */
	assert_int_equal(tier_place(w->v.fs, &o, p, 2, &placed), -ESTALE);
	assert_int_equal(only_object(w).n_live, 2);
	world_free(w);
}

/* A leaf has one frame: a new one must have every slot that the old one had. */
static void no_slot_loses_its_copy_by_a_new_frame(void **state)
{
	struct world *w = world_new();
	struct object_row o = {.object = 5, .store = 1, .bytes = 10000, .n_blocks = 16};
	struct packed_leaf p = {.ino = w->v.file, .leaf = 0, .offset = 4096, .len = 10, .mask = 0x00ff};
	static const struct {
		uint16_t mask;
		size_t placed;
		uint32_t live;
	} next[] = {{0x0fff, 1, 12}, {0x00ff, 0, 0}, {0xfffe, 0, 0}, {0x0fff, 1, 12}, {0xffff, 1, 16}};
	uint64_t had = 5;
	size_t placed;

	(void)state;
	assert_int_equal(tier_watch(w->v.fs, w->v.file), 0);
	assert_int_equal(tier_place(w->v.fs, &o, &p, 1, &placed), 0);
	assert_int_equal(placed, 1);
	for (size_t i = 0; i < ARRAY_SIZE(next); i++) {
		struct object_row old, new = o;
		size_t n = 99;

		new.object = 100 + i;
		p.mask = next[i].mask;
		assert_int_equal(tier_place(w->v.fs, &new, &p, 1, &n), 0);
		assert_int_equal(n, next[i].placed);
		assert_int_equal(objects_get(w->v.fs, new.object, &new), n ? 0 : -ENOENT);
		if (!n)
			continue;
		assert_int_equal(new.n_live, next[i].live);
		assert_int_equal(objects_get(w->v.fs, had, &old), 0);
		assert_int_equal(old.n_live, 0);
		had = new.object;
	}
	/* More of the same object, in another frame of it: counted once. */
	p.offset = 6000;
	o.object = had;
	assert_int_equal(tier_place(w->v.fs, &o, &p, 1, &placed), 0);
	assert_int_equal(objects_get(w->v.fs, had, &o), 0);
	assert_int_equal(o.n_live, 16);
	/* Slots without data. */
	p.leaf = 1;
	p.mask = 1u << (HOLE - 16);
	assert_int_equal(tier_place(w->v.fs, &o, &p, 1, &placed), 0);
	assert_int_equal(placed, 0);
	p.leaf = 1000;
	p.mask = 1;
	assert_int_equal(tier_place(w->v.fs, &o, &p, 1, &placed), 0);
	assert_int_equal(placed, 0);
	world_free(w);
}

/* As a record from outside may say it: what does not fit is passed over, and nothing is lost. */
static void a_record_that_does_not_fit_loses_nothing(void **state)
{
	static const uint8_t sealed[RECORD_SEALED_BYTES] = {1};
	struct world *w = world_new();
	struct record r = {.type = RECORD_TIER, .ino = w->v.file, .time_ns = now_ns};
	struct record_place p[] = {{.leaf = 0, .offset = 4096, .len = 10, .mask = 0x0001},
				   {.leaf = 1, .offset = 5000, .len = 10, .mask = 1u << (HOLE - 16)},
				   {.leaf = 500, .offset = 6000, .len = 10, .mask = 0xffff}};
	struct applied applied = {0};
	struct object_row o;

	(void)state;
	make_cold(w);
	r.tier.change = TIER_PLACE;
	r.tier.store = 2;
	r.tier.object = 77;
	r.tier.object_bytes = 10000;
	r.tier.n_blocks = 100;
	r.tier.sealed = sealed;
	r.tier.places = p;
	r.tier.n_places = ARRAY_SIZE(p);
	assert_int_equal(apply_record(w->v.fs, &r, fs_pos(w->v.fs), &applied), 0);
	assert_int_equal(applied.reserved, 0);
	assert_int_equal(objects_get(w->v.fs, 77, &o), 0);
	assert_int_equal(o.n_live, 0);
	assert_bytes(w);
	/* An object that is live is not forgotten. */
	r.ino = FS_ROOT_INO;
	r.tier.change = TIER_FORGET;
	r.tier.n_places = 0;
	assert_int_equal(apply_record(w->v.fs, &r, fs_pos(w->v.fs), &applied), 0);
	o = only_object(w);
	r.tier.object = o.object;
	assert_int_equal(apply_record(w->v.fs, &r, fs_pos(w->v.fs), &applied), 0);
	assert_int_equal(only_object(w).n_live, FILE_BLOCKS - 1);
	assert_clean(w);
	world_free(w);
}

static void more_leaves_than_a_record_has_take_several(void **state)
{
	struct world *w = world_new();
	struct object_row o = {.object = 9, .store = 1, .bytes = UINT32_MAX, .n_blocks = 3000};
	struct packed_leaf *p = calloc(2500, sizeof(*p));
	size_t placed;

	(void)state;
	for (unsigned i = 0; i < 2500; i++) {
		p[i] = (struct packed_leaf){.ino = w->v.file, .leaf = 10 + 2 * i, .offset = 4096 + 10 * i, .len = 10, .mask = 1};
		assert_int_equal(fs_write(w->v.fs, &owner, w->v.file, p[i].leaf * LEAF_SLOTS * BLOCK, 1, "x", false), 0);
	}
	assert_int_equal(tier_watch(w->v.fs, w->v.file), 0);
	assert_int_equal(tier_place(w->v.fs, &o, p, 2500, &placed), 0);
	assert_int_equal(placed, 2500);
	assert_int_equal(objects_get(w->v.fs, 9, &o), 0);
	assert_int_equal(o.n_live, 2500);
	home_all(w->v.fs);
	uint64_t blocks;
	assert_int_equal(tier_drop_homes(w->v.fs, w->v.file, 0, UINT64_MAX, &blocks), 0);
	assert_int_equal(blocks, 2500);
	volume_reopen(&w->v, true);
	assert_int_equal(objects_get(w->v.fs, 9, &o), 0);
	assert_int_equal(o.n_live, 2500);
	free(p);
	world_free(w);
}

/* ---- homes ---- */

static void a_staged_slot_keeps_its_home(void **state)
{
	struct world *w = world_new();
	struct tier_file f;
	uint64_t blocks;

	(void)state;
	write_at(w, true, 2 * BLOCK, 3 * BLOCK, 0);
	put(w, 2 * BLOCK, 3 * BLOCK);
	assert_int_equal(cold_tier(w->cold, w->v.fs, w->v.file, NULL), 0);
	assert_int_equal(tier_drop_homes(w->v.fs, w->v.file, 0, 1, &blocks), 0);
	assert_int_equal(blocks, 13);
	assert_int_equal(tier_drop_homes(w->v.fs, w->v.file, 0, 1, &blocks), 0);
	assert_int_equal(blocks, 0);
	home_all(w->v.fs);
	assert_bytes(w);
	assert_int_equal(tier_drop_homes(w->v.fs, w->v.file, 0, UINT64_MAX, &blocks), 0);
	assert_int_equal(blocks, FILE_BLOCKS - 1 - 13);
	assert_int_equal(tier_file_state(w->v.fs, w->v.file, &f), 0);
	assert_int_equal(f.cold_blocks, FILE_BLOCKS - 1);
	assert_bytes(w);
	assert_clean(w);
	world_free(w);
}

static void what_is_not_tiered_is_not_dropped(void **state)
{
	struct world *w = world_new();
	uint64_t blocks = 99;

	(void)state;
	assert_int_equal(tier_drop_homes(w->v.fs, w->v.file, 0, UINT64_MAX, &blocks), 0);
	assert_int_equal(blocks, 0);
	assert_int_equal(tier_drop_homes(w->v.fs, w->v.dir, 0, UINT64_MAX, &blocks), -EINVAL);
	assert_int_equal(tier_drop_homes(w->v.fs, 4711, 0, UINT64_MAX, &blocks), -ENOENT);
	assert_bytes(w);
	world_free(w);
}

/* What made data cold is durable when its homes go. */
static void a_record_is_durable_before_homes_go(void **state)
{
	struct world *w = world_new();
	struct journal_status before, after;

	(void)state;
	assert_int_equal(cold_tier(w->cold, w->v.fs, w->v.file, NULL), 0);
	journal_get_status(w->v.fs->journal, &before);
	assert_true(before.durable_seq < fs_pos(w->v.fs));
	assert_int_equal(cold_evict(w->v.fs, w->v.file), 0);
	journal_get_status(w->v.fs->journal, &after);
	assert_true(after.durable_seq >= before.open_seq);
	world_free(w);
}

static struct leaf leaf_of(struct world *w, uint64_t no)
{
	struct leaf l;

	assert_int_equal(extent_get(w->v.fs, w->v.file, no, &l), 0);
	return l;
}

static void kept_data_is_local_again(void **state)
{
	struct world *w = world_new();
	struct tier_file f;
	struct leaf l;
	uint16_t mask;

	(void)state;
	make_cold(w);
	l = leaf_of(w, 0);
	const uint8_t *blocks = cold_frame(w->cold, &l.object, &mask);
	assert_int_equal(mask, 0xffff);
	/* A part of it, then more than is cold. */
	assert_int_equal(tier_keep_leaf(w->v.fs, w->v.file, 0, &l.object, 0x0f0f, blocks), 0);
	l = leaf_of(w, 0);
	assert_int_equal(leaf_cold(&l), 0xf0f0);
	assert_int_equal(leaf_tiered(&l), 0xffff);
	assert_int_equal(tier_keep_leaf(w->v.fs, w->v.file, 0, &l.object, 0xffff, blocks), 0);
	l = leaf_of(w, 0);
	assert_int_equal(leaf_cold(&l), 0);
	assert_int_equal(tier_keep_leaf(w->v.fs, w->v.file, 0, &l.object, 0xffff, blocks), 0);
	assert_int_equal(read_at(w, false, 0, 16 * BLOCK), 0); /* without the object */
	assert_int_equal(tier_file_state(w->v.fs, w->v.file, &f), 0);
	assert_int_equal(f.cold_blocks, FILE_BLOCKS - 1 - 16);
	assert_clean(w);
	/* Without a checkpoint it is cold again after a crash, and nothing is lost either way. */
	volume_reopen(&w->v, true);
	l = leaf_of(w, 0);
	assert_int_equal(leaf_cold(&l), 0xffff);
	assert_clean(w);
	assert_int_equal(cold_keep(w->cold, w->v.fs, w->v.file), 0);
	assert_int_equal(fs_checkpoint(w->v.fs), 0);
	volume_reopen(&w->v, true);
	assert_int_equal(tier_file_state(w->v.fs, w->v.file, &f), 0);
	assert_int_equal(f.cold_blocks, 0);
	assert_int_equal(read_at(w, false, 0, w->size), 0);
	assert_clean(w);
	world_free(w);
}

static void what_is_kept_must_be_the_leafs_data(void **state)
{
	struct world *w = world_new();
	struct leaf l;
	uint16_t mask;

	(void)state;
	make_cold(w);
	l = leaf_of(w, 0);
	struct leaf_object other = l.object;
	const uint8_t *blocks = cold_frame(w->cold, &l.object, &mask);
	struct facts before = facts_of(w);
	assert_int_equal(tier_keep_leaf(w->v.fs, w->v.file, 1, &l.object, 0xffff, blocks), -ESTALE);
	other.offset++;
	assert_int_equal(tier_keep_leaf(w->v.fs, w->v.file, 0, &other, 0xffff, blocks), -ESTALE);
	memcpy(w->room, blocks, LEAF_SLOTS * BLOCK);
	w->room[7 * BLOCK]++;
	assert_int_equal(tier_keep_leaf(w->v.fs, w->v.file, 0, &l.object, 0xffff, w->room), -EBADMSG);
	struct facts after = facts_of(w);
	assert_unchanged("keeping other data", &before, &after);
	assert_int_equal(tier_keep_leaf(w->v.fs, w->v.file, 0, &l.object, 0xff7f, w->room), 0);
	/* Written to meanwhile: no longer tiered, and not written over. */
	write_at(w, true, 7 * BLOCK, BLOCK, 0);
	put(w, 7 * BLOCK, BLOCK);
	assert_int_equal(tier_keep_leaf(w->v.fs, w->v.file, 0, &l.object, 0xffff, blocks), 0);
	assert_int_equal(cut_at(w, false, 0), 0);
	cut_at(w, true, 0);
	assert_int_equal(tier_keep_leaf(w->v.fs, w->v.file, 0, &l.object, 0xffff, blocks), -ESTALE);
	assert_clean(w);
	world_free(w);
}

/* ---- damage ---- */

/* The home of one block holds something else. */
static void damage_home(struct world *w, uint64_t block)
{
	struct leaf l = leaf_of(w, block / LEAF_SLOTS);
	uint8_t junk[BLOCK_SIZE];

	fill(junk, sizeof(junk), 99);
	assert_true(l.slot[block % LEAF_SLOTS].home != 0);
	simstore_poke(w->v.sim, "arena.1/chunk.00000", junk, sizeof(junk),
		      pointer_block(l.slot[block % LEAF_SLOTS].home) * BLOCK);
}

static void a_damaged_home_of_tiered_data_is_no_loss(void **state)
{
	struct world *w = world_new();
	struct fs_check_result res;

	(void)state;
	damage_home(w, 3);
	assert_int_equal(read_at(w, false, 0, w->size), -EBADMSG);
	world_free(w);

	w = world_new();
	assert_int_equal(cold_tier(w->cold, w->v.fs, w->v.file, NULL), 0);
	home_all(w->v.fs);
	damage_home(w, 3);
	damage_home(w, 5);
	assert_int_equal(fs_check(w->v.fs, true, on_line, NULL, &res), 0);
	assert_int_equal(res.damaged_blocks, 2);
	assert_int_equal(read_at(w, false, 0, w->size), -EINPROGRESS);
	struct tier_miss m = tier_take_miss();
	assert_true(m.ino == w->v.file && m.leaf == 0 && m.n_leaves == 1);
	assert_bytes(w);
	assert_true(atomic_load(&w->v.fs->damaged_reads) > 0);
	/* Evicted, it is whole. */
	assert_int_equal(cold_evict(w->v.fs, w->v.file), 0);
	assert_clean(w);
	world_free(w);
}

/* What a resync or a late stream left in place of data that the leader had not any more goes with the record that says where it
 * is. */
static void zeros_in_place_of_superseded_data_go(void **state)
{
	struct world *w = world_new();
	struct leaf old = leaf_of(w, 0), new = old;
	struct arena_status before, after;

	(void)state;
	for (unsigned i = 4; i < 8; i++)
		new.slot[i].birth = BIRTH_SUPERSEDED;
	assert_int_equal(extent_put(w->v.fs, NULL, w->v.file, 0, &old, &new, NULL), 0);
	struct cold_pack p;
	size_t placed;
	assert_int_equal(cold_pack(w->cold, w->v.fs, w->v.file, NULL, &p), 0);
	for (unsigned i = 4; i < 8; i++)
		damage_home(w, i);
	arena_get_status(w->v.fs->arena, &before);
	assert_int_equal(cold_place(w->v.fs, w->v.file, &p, &placed), 0);
	arena_get_status(w->v.fs->arena, &after);
	assert_int_equal(after.limbo_blocks - before.limbo_blocks, 4);
	new = leaf_of(w, 0);
	assert_int_equal(leaf_cold(&new), 0x00f0);
	assert_bytes(w);
	assert_clean(w);
	world_free(w);
}

static void fsck_finds_objects_and_leaves_that_disagree(void **state)
{
	struct world *w = world_new();
	struct fs_check_result res;
	struct leaf old, new;

	(void)state;
	make_cold(w);
	assert_int_equal(fs_check(w->v.fs, true, on_line, NULL, &res), 0);
	assert_true(res.objects == 1 && res.cold_blocks == FILE_BLOCKS - 1);
	assert_int_equal(res.damaged_blocks + res.structure_errors + res.accounting_errors, 0);
	/* A leaf that lost its copies without a record: the row counts too many. */
	old = new = leaf_of(w, 2);
	memset(&new, 0, sizeof(new));
	assert_int_equal(extent_put(w->v.fs, NULL, w->v.file, 2, &old, &new, NULL), 0);
	assert_int_equal(fs_check(w->v.fs, false, on_line, NULL, &res), 0);
	assert_int_equal(res.accounting_errors, 2); /* and the inode's blocks */
	assert_int_equal(extent_put(w->v.fs, NULL, w->v.file, 2, &new, &old, NULL), 0);
	/* A frame behind the end of its object. */
	new = old;
	new.object.offset = UINT32_MAX - RECORD_FRAME_MAX;
	assert_int_equal(extent_put(w->v.fs, NULL, w->v.file, 2, &old, &new, NULL), 0);
	assert_int_equal(fs_check(w->v.fs, false, on_line, NULL, &res), 0);
	assert_true(res.structure_errors == 1 && res.accounting_errors == 0);
	/* An object that nobody knows. */
	new = old;
	new.object.id = 4711;
	assert_int_equal(extent_put(w->v.fs, NULL, w->v.file, 2, &old, &new, NULL), 0);
	assert_int_equal(fs_check(w->v.fs, false, on_line, NULL, &res), 0);
	assert_true(res.structure_errors == 1 && res.accounting_errors == 1);
	assert_int_equal(extent_put(w->v.fs, NULL, w->v.file, 2, &new, &old, NULL), 0);
	/* A row that is none. */
	struct index_key k = key_ino(TABLE_OBJECT, 12);
	struct kv_batch *b = index_batch();
	kv_batch_put(b, key_slice(&k), (struct slice){"junk", 4});
	assert_int_equal(kv_write(w->v.fs->kv, b), 0);
	assert_int_equal(fs_check(w->v.fs, false, on_line, NULL, &res), 0);
	assert_int_equal(res.structure_errors, 1);
	struct object_row o;
	assert_int_equal(objects_get(w->v.fs, 12, &o), -EUCLEAN);
	assert_int_equal(objects_each(w->v.fs, 0, copy_row, &(struct object_row){0}), -EUCLEAN);
	world_free(w);
}

static void a_row_that_cannot_be_read_stops_no_change_of_a_file(void **state)
{
	struct world *w = world_new();

	(void)state;
	make_cold(w);
	struct index_key k = key_ino(TABLE_OBJECT, only_object(w).object);
	for (int missing = 0; missing < 2; missing++) {
		struct kv_batch *b = index_batch();

		if (missing)
			kv_batch_delete(b, key_slice(&k));
		else
			kv_batch_put(b, key_slice(&k), (struct slice){"junk", 4});
		assert_int_equal(kv_write(w->v.fs->kv, b), 0);
		assert_int_equal(zero_at(w, false, PUNCH, (uint64_t)missing * 8 * BLOCK, 8 * BLOCK), 0);
		zero_at(w, true, PUNCH, (uint64_t)missing * 8 * BLOCK, 8 * BLOCK);
		assert_bytes(w);
	}
	world_free(w);
}

/* Older releases take neither such records nor such leaves: the volume says so before there is one. */
static void the_first_record_marks_the_volume(void **state)
{
	struct world *w = world_new();
	struct super s;

	(void)state;
	assert_int_equal(super_read(w->v.config.store, &s), 0);
	assert_int_equal(s.incompat, 0);
	assert_int_equal(cold_tier(w->cold, w->v.fs, w->v.file, NULL), 0);
	assert_int_equal(super_read(w->v.config.store, &s), 0);
	assert_int_equal(s.incompat, 1);
	volume_reopen(&w->v, true);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_cold_file_looks_as_it_did),
	    cmocka_unit_test(what_needs_cold_data_changes_nothing_before_it_is_there),
	    cmocka_unit_test(a_copy_that_must_wait_leaves_no_trace_of_its_source),
	    cmocka_unit_test(what_needs_no_cold_data_waits_for_none),
	    cmocka_unit_test(removing_a_cold_file_touches_no_object_and_leaves_a_dead_one),
	    cmocka_unit_test(on_a_full_volume_what_needs_a_block_says_so_at_once),
	    cmocka_unit_test(a_file_whose_data_changes_meanwhile_is_not_placed),
	    cmocka_unit_test(homing_and_evicting_are_no_changes),
	    cmocka_unit_test(a_file_nobody_watches_is_not_placed),
	    cmocka_unit_test(no_slot_loses_its_copy_by_a_new_frame),
	    cmocka_unit_test(a_record_that_does_not_fit_loses_nothing),
	    cmocka_unit_test(more_leaves_than_a_record_has_take_several),
	    cmocka_unit_test(a_staged_slot_keeps_its_home),
	    cmocka_unit_test(what_is_not_tiered_is_not_dropped),
	    cmocka_unit_test(a_record_is_durable_before_homes_go),
	    cmocka_unit_test(kept_data_is_local_again),
	    cmocka_unit_test(what_is_kept_must_be_the_leafs_data),
	    cmocka_unit_test(a_damaged_home_of_tiered_data_is_no_loss),
	    cmocka_unit_test(zeros_in_place_of_superseded_data_go),
	    cmocka_unit_test(fsck_finds_objects_and_leaves_that_disagree),
	    cmocka_unit_test(a_row_that_cannot_be_read_stops_no_change_of_a_file),
	    cmocka_unit_test(the_first_record_marks_the_volume),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
