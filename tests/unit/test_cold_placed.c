/*
 * test_cold_placed.c: the records that say where a file's data is in an object, and the local changes that follow: which homes
 * go, which come back, and that no slot is ever without a copy.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>

#include "base/crc32c.h"
#include "fs/core/tier/recall/recalled.h"
#include "tests/unit/cold_world.h"

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
	steps_settle(w->v.fs);
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
	steps_settle(w->v.fs);
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
	steps_settle(w->v.fs);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
