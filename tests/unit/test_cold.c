/*
 * test_cold.c: files whose data lies in an object store: what every operation does with them, before their data is there and
 * after, while they are packed, and on a full volume.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>

#include "tests/unit/cold_world.h"

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

#define KEEP FALLOC_FL_KEEP_SIZE
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
	steps_settle(w->v.fs);
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
	steps_settle(w->v.fs);
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

	(void)state;
	make_cold(w);
	struct object_row o = only_object(w);
	assert_int_equal(o.n_live, FILE_BLOCKS - 1);
	assert_int_equal(o.dead_ns, 0);
	assert_int_equal(tier_forget(w->v.fs, o.object), -EBUSY);
	fs_forget(w->v.fs, w->v.file, 1);
	now_ns += 77;
	assert_int_equal(fs_unlink(w->v.fs, &root, w->v.dir, "name"), 0);
	steps_reap(w->v.fs);
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
