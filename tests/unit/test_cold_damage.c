/*
 * test_cold_damage.c: damage where data is in an object as well: what is no loss, what fsck finds, and what older releases must
 * not open.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "fs/core/index.h"
#include "tests/lib/simstore.h"
#include "tests/unit/cold_world.h"

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
	steps_settle(w->v.fs);
	damage_home(w, 3);
	damage_home(w, 5);
	assert_int_equal(fs_check(w->v.fs, true, steps_finding, NULL, &res), 0);
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
	assert_int_equal(fs_check(w->v.fs, true, steps_finding, NULL, &res), 0);
	assert_true(res.objects == 1 && res.cold_blocks == FILE_BLOCKS - 1);
	assert_int_equal(res.damaged_blocks + res.structure_errors + res.accounting_errors, 0);
	/* A leaf that lost its copies without a record: the row counts too many. */
	old = new = leaf_of(w, 2);
	memset(&new, 0, sizeof(new));
	assert_int_equal(extent_put(w->v.fs, NULL, w->v.file, 2, &old, &new, NULL), 0);
	assert_int_equal(fs_check(w->v.fs, false, steps_finding, NULL, &res), 0);
	assert_int_equal(res.accounting_errors, 2); /* and the inode's blocks */
	assert_int_equal(extent_put(w->v.fs, NULL, w->v.file, 2, &new, &old, NULL), 0);
	/* A frame behind the end of its object. */
	new = old;
	new.object.offset = UINT32_MAX - RECORD_FRAME_MAX;
	assert_int_equal(extent_put(w->v.fs, NULL, w->v.file, 2, &old, &new, NULL), 0);
	assert_int_equal(fs_check(w->v.fs, false, steps_finding, NULL, &res), 0);
	assert_true(res.structure_errors == 1 && res.accounting_errors == 0);
	/* An object that nobody knows. */
	new = old;
	new.object.id = 4711;
	assert_int_equal(extent_put(w->v.fs, NULL, w->v.file, 2, &old, &new, NULL), 0);
	assert_int_equal(fs_check(w->v.fs, false, steps_finding, NULL, &res), 0);
	assert_true(res.structure_errors == 1 && res.accounting_errors == 1);
	assert_int_equal(extent_put(w->v.fs, NULL, w->v.file, 2, &new, &old, NULL), 0);
	/* A row that is none. */
	struct index_key k = key_ino(TABLE_OBJECT, 12);
	struct kv_batch *b = index_batch();
	kv_batch_put(b, key_slice(&k), (struct slice){"junk", 4});
	assert_int_equal(kv_write(w->v.fs->kv, b), 0);
	assert_int_equal(fs_check(w->v.fs, false, steps_finding, NULL, &res), 0);
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
	    cmocka_unit_test(a_damaged_home_of_tiered_data_is_no_loss),
	    cmocka_unit_test(zeros_in_place_of_superseded_data_go),
	    cmocka_unit_test(fsck_finds_objects_and_leaves_that_disagree),
	    cmocka_unit_test(a_row_that_cannot_be_read_stops_no_change_of_a_file),
	    cmocka_unit_test(the_first_record_marks_the_volume),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
