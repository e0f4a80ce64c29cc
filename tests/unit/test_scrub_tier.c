/* test_scrub_tier.c: damage where an object store has the data, too: repaired from there; and objects looked at themselves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "fs/core/scrub/impl.h"
#include "tests/unit/recall_world.h"

static struct recall_world world;

static int make_world(void **state)
{
	(void)state;
	world_open(&world, false);
	return 0;
}

static int free_world(void **state)
{
	(void)state;
	world_close(&world);
	return 0;
}

/* A file that is in an object and at home as well. */
static uint64_t make_kept(const char *name, size_t len)
{
	uint64_t ino = make_cold(&world, FS_ROOT_INO, name, len), kept;

	assert_int_equal(recall_file(world.v.fs, ino, &kept), 0);
	assert_int_equal(kept, len / BLOCK_SIZE);
	assert_int_equal(fs_checkpoint(world.v.fs), 0);
	return ino;
}

/* Of an inode of a snapshot, or one whose stripe is held. */
static pointer_t damage_slot(uint64_t ino, uint64_t block)
{
	struct leaf l;
	uint8_t byte;
	char name[64];

	assert_int_equal(extent_get(world.v.fs, ino, block / LEAF_SLOTS, &l), 0);
	pointer_t home = l.slot[block % LEAF_SLOTS].home;
	uint64_t chunk = 16 * MIB / BLOCK_SIZE, off = pointer_block(home) % chunk * BLOCK_SIZE + 5;
	assert_true(home && l.slot[block % LEAF_SLOTS].tiered);
	snprintf(name, sizeof(name), "arena.1/chunk.%05u", (unsigned)(pointer_block(home) / chunk));
	simstore_peek(world.v.sim, name, &byte, 1, off);
	byte ^= 0x20;
	simstore_poke(world.v.sim, name, &byte, 1, off);
	return home;
}

static pointer_t damage(uint64_t ino, uint64_t block)
{
	icache_rdlock(world.v.fs->icache, ino);
	pointer_t home = damage_slot(ino, block);
	icache_rdunlock(world.v.fs->icache, ino);
	return home;
}

/* Those of leaves; and nothing of them is in memory any more. */
static void erase_objects(void)
{
	struct simobject_entry e;

	for (uint64_t n = simobject_count(world.so); n-- > 0;)
		if (simobject_entry(world.so, n, &e) && strncmp(e.key, "packs/", 6) == 0)
			simobject_erase(world.so, e.store, e.key);
	world_reopen(&world);
}

static void command_done(struct journal_waiter *w, int result)
{
	(void)w;
	assert_int_equal(result, 0);
}

static struct scrub_pass scrub(const char *command)
{
	struct journal_waiter w = {.done = command_done};
	struct scrub_pass p;
	bool more = true;

	fs_scrub_command(world.v.fs, (struct slice){command, strlen(command)}, &w);
	while (more)
		assert_int_equal(fs_scrub_step(world.v.fs, &more), 0);
	scrub_get(world.v.fs, &p);
	return p;
}

static void every_block_of_a_kept_file_is_repaired_from_its_object(void **state)
{
	uint64_t ino = make_kept("f", 20 * BLOCK_SIZE);

	(void)state;
	for (uint64_t block = 0; block < 20; block++) {
		pointer_t was = damage(ino, block);
		struct scrub_pass p = scrub("start");

		assert_int_equal(p.bad_blocks, 1);
		assert_int_equal(p.repaired_blocks, 1);
		assert_true(quarantine_has(world.v.fs, was));
	}
	assert_int_equal(atomic_load(&world.v.fs->scrub->repairs.by_tier), 20);
	assert_int_equal(read_whole(&world, ino, 20 * BLOCK_SIZE, 64 * KIB), 0);
}

/* The file has other data since; the object stays, because of the snapshot. */
static void a_block_of_a_snapshot_is_repaired_from_the_object_it_is_in(void **state)
{
	uint64_t ino = make_kept("f", 20 * BLOCK_SIZE);
	struct fs_attr file;
	uint64_t top;

	(void)state;
	assert_int_equal(fs_snap_create(world.v.fs, &root, "s"), 0);
	assert_int_equal(fs_snap_root(world.v.fs, "s", &top), 0);
	assert_int_equal(fs_lookup(world.v.fs, top, "f", &file), 0);
	write_file(&world, ino, ino + 1, 20 * BLOCK_SIZE);
	home_all(&world);
	for (uint64_t block = 0; block < 20; block++) {
		damage_slot(file.ino, block);
		struct scrub_pass p = scrub("start");

		assert_int_equal(p.bad_blocks, 1);
		assert_int_equal(p.repaired_blocks, 1);
		assert_false(damage_is_bad(world.v.fs, file.ino, block));
	}
	assert_int_equal(atomic_load(&world.v.fs->scrub->repairs.by_tier), 20);
	assert_int_equal(read_seed(world.v.fs, file.ino, ino, 0, 20 * BLOCK_SIZE), 0);
	assert_int_equal(read_seed(world.v.fs, ino, ino + 1, 0, 20 * BLOCK_SIZE), 0);
}

static void a_reader_is_served_from_the_object_meanwhile(void **state)
{
	uint64_t ino = make_kept("f", 5 * BLOCK_SIZE);

	(void)state;
	damage(ino, 2);
	assert_int_equal(read_whole(&world, ino, 5 * BLOCK_SIZE, 64 * KIB), 0);
	assert_true(damage_is_bad(world.v.fs, ino, 2));
	assert_int_equal(scrub("start").repaired_blocks, 1);
	assert_false(damage_is_bad(world.v.fs, ino, 2));
}

static void a_packed_frame_is_repaired_from_the_object(void **state)
{
	bool more = true;
	struct leaf l;

	(void)state;
	world_packs = true;
	assert_int_equal(fs_set_policy(world.v.fs, &root, FS_ROOT_INO, "compression", "zstd"), 0);
	uint64_t ino = make_kept("f", 20 * BLOCK_SIZE);
	while (more)
		assert_int_equal(fs_squeeze_step(world.v.fs, &more), 0);
	assert_int_equal(fs_checkpoint(world.v.fs), 0);
	for (unsigned leaf = 0; leaf < 2; leaf++) {
		icache_rdlock(world.v.fs->icache, ino);
		assert_int_equal(extent_get(world.v.fs, ino, leaf, &l), 0);
		icache_rdunlock(world.v.fs->icache, ino);
		assert_int_equal(leaf_packed(&l), leaf == 0 ? UINT16_MAX : 0xf);
		assert_int_equal(leaf_tiered(&l), leaf_packed(&l));
		uint8_t junk[64];
		memset(junk, 0x3c, sizeof(junk));
		simstore_poke(world.v.sim, "arena.1/chunk.00000", junk, sizeof(junk), pointer_block(l.pack.start) * BLOCK_SIZE);
	}
	/* The first leaf by a reader, who is served meanwhile; the other one by a scrub. */
	world_reopen(&world);
	assert_int_equal(read_whole(&world, ino, 16 * BLOCK_SIZE, 64 * KIB), 0);
	assert_true(damage_is_bad(world.v.fs, ino, 2));
	struct scrub_pass p = scrub("start");
	assert_int_equal(p.bad_blocks, 20);
	assert_int_equal(p.repaired_blocks, 20);
	assert_false(damage_is_bad(world.v.fs, ino, 2));
	assert_int_equal(read_whole(&world, ino, 20 * BLOCK_SIZE, 64 * KIB), 0);
	assert_true(quarantine_has(world.v.fs, l.pack.start));
	world_packs = false;
}

/* The file has other data since; what is in the object is as it was when it was packed. */
static void a_packed_frame_of_a_snapshot_is_repaired_from_the_object(void **state)
{
	bool more = true;
	struct fs_attr file;
	struct leaf l;
	uint64_t top;

	(void)state;
	world_packs = true;
	assert_int_equal(fs_set_policy(world.v.fs, &root, FS_ROOT_INO, "compression", "lz4"), 0);
	uint64_t ino = make_kept("f", 20 * BLOCK_SIZE);
	while (more)
		assert_int_equal(fs_squeeze_step(world.v.fs, &more), 0);
	assert_int_equal(fs_snap_create(world.v.fs, &root, "s"), 0);
	assert_int_equal(fs_snap_root(world.v.fs, "s", &top), 0);
	assert_int_equal(fs_lookup(world.v.fs, top, "f", &file), 0);
	write_file(&world, ino, ino + 1, 20 * BLOCK_SIZE);
	home_all(&world);
	for (unsigned leaf = 0; leaf < 2; leaf++) {
		assert_int_equal(extent_get(world.v.fs, file.ino, leaf, &l), 0);
		assert_int_equal(leaf_packed(&l), leaf == 0 ? UINT16_MAX : 0xf);
		assert_int_equal(leaf_tiered(&l), leaf_packed(&l));
		uint8_t junk[64];
		memset(junk, 0x3c, sizeof(junk));
		simstore_poke(world.v.sim, "arena.1/chunk.00000", junk, sizeof(junk), pointer_block(l.pack.start) * BLOCK_SIZE);
	}
	struct scrub_pass p = scrub("start");
	assert_int_equal(p.bad_blocks, 20);
	assert_int_equal(p.repaired_blocks, 20);
	assert_int_equal(atomic_load(&world.v.fs->scrub->repairs.by_tier), 20);
	assert_false(quarantine_has(world.v.fs, l.pack.start));
	assert_int_equal(read_seed(world.v.fs, file.ino, ino, 0, 20 * BLOCK_SIZE), 0);
	assert_int_equal(read_seed(world.v.fs, ino, ino + 1, 0, 20 * BLOCK_SIZE), 0);
	world_packs = false;
}

static void an_object_that_is_gone_repairs_nothing(void **state)
{
	uint64_t ino = make_kept("f", 20 * BLOCK_SIZE); /* more than goes through the journal */

	(void)state;
	damage(ino, 3);
	erase_objects();
	struct scrub_pass p = scrub("start");
	assert_int_equal(p.bad_blocks, 1);
	assert_int_equal(p.repaired_blocks, 0);
	assert_true(damage_is_bad(world.v.fs, ino, 3));
}

static void cold_data_is_looked_at_only_when_asked_for(void **state)
{
	make_cold(&world, FS_ROOT_INO, "f", 40 * BLOCK_SIZE);

	(void)state;
	uint64_t before = gets(&world);
	struct scrub_pass p = scrub("start");
	assert_int_equal(gets(&world), before);
	assert_int_equal(p.checked_bytes, 0);
	p = scrub("start cold");
	assert_true(gets(&world) > before);
	assert_int_equal(p.checked_bytes, 40 * BLOCK_SIZE);
	assert_int_equal(p.errors + p.bad_blocks, 0);
}

static void an_object_that_is_gone_is_an_error_of_a_cold_pass(void **state)
{
	make_cold(&world, FS_ROOT_INO, "f", 40 * BLOCK_SIZE);

	(void)state;
	erase_objects();
	struct scrub_pass p = scrub("start cold");
	assert_int_equal(p.errors, 3); /* one a leaf */
}

static uint64_t write_some(uint64_t ino, uint64_t seed, uint64_t first, uint64_t n)
{
	uint8_t *p = malloc(n * BLOCK_SIZE);

	content(seed, first * BLOCK_SIZE, p, n * BLOCK_SIZE);
	assert_int_equal(fs_write(world.v.fs, &root, ino, first * BLOCK_SIZE, n * BLOCK_SIZE, p, false), 0);
	free(p);
	home_all(&world);
	return n;
}

static void snap(const char *name)
{
	assert_int_equal(fs_snap_create(world.v.fs, &root, name), 0);
}

/*
 * Cold in three leaves of `f`, of which each later snapshot has less, two of them the same; the live file has none; and a file
 * that is as it was.
 */
static uint64_t make_cold_snapshots(void)
{
	uint64_t ino = make_cold(&world, FS_ROOT_INO, "f", 40 * BLOCK_SIZE);

	make_cold(&world, FS_ROOT_INO, "same", 20 * BLOCK_SIZE);
	snap("all");
	write_some(ino, 77, 0, 16);
	snap("less");
	snap("less again");
	write_some(ino, 78, 16, 10); /* part of a leaf: the rest stays in the object */
	snap("part");
	write_some(ino, 79, 0, 40);
	return ino;
}

static void cold_data_that_only_snapshots_have_is_read_once(void **state)
{
	(void)state;
	make_cold_snapshots();
	uint64_t before = gets(&world);
	struct scrub_pass warm = scrub("start"), p;
	assert_int_equal(gets(&world), before);
	p = scrub("start cold");
	assert_int_equal(p.checked_bytes - warm.checked_bytes, (20 + 40) * BLOCK_SIZE);
	assert_int_equal(p.errors + p.bad_blocks + p.bad_rows, 0);
	assert_int_equal(fs_unlink(world.v.fs, &root, FS_ROOT_INO, "same"), 0);
	assert_int_equal(fs_forget_all(world.v.fs), 0);
	home_all(&world);
	p = scrub("start cold");
	assert_int_equal(p.checked_bytes - scrub("start").checked_bytes, (20 + 40) * BLOCK_SIZE);
	assert_int_equal(fs_snap_delete(world.v.fs, &root, "all"), 0);
	p = scrub("start cold");
	assert_int_equal(p.checked_bytes - scrub("start").checked_bytes, (20 + 24) * BLOCK_SIZE);
}

static void cold_data_is_read_after_going_back(void **state)
{
	static const char *const names[] = {"all", "less", "less again", "part"};

	(void)state;
	make_cold_snapshots();
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		assert_int_equal(fs_snap_rollback(world.v.fs, &root, names[i], true), 0);
		struct scrub_pass p = scrub("start cold");
		uint64_t cold = p.checked_bytes - scrub("start").checked_bytes;
		assert_true(cold >= (20 + 40) * BLOCK_SIZE && cold <= 3 * (20 + 40) * BLOCK_SIZE);
		assert_int_equal(p.errors + p.bad_blocks + p.bad_rows, 0);
	}
}

/* Each object in turn, wherever in it the damage is. */
static void damage_of_each_object_that_only_snapshots_have_is_told(void **state)
{
	struct simobject_entry e;
	unsigned n = 0;

	(void)state;
	make_cold_snapshots();
	for (uint64_t i = 0; i < simobject_count(world.so); i++) {
		assert_true(simobject_entry(world.so, i, &e));
		if (strncmp(e.key, "packs/", 6) != 0)
			continue;
		for (uint64_t off = 4096; off < e.size - 4096; off += e.size / 7) {
			simobject_corrupt(world.so, e.store, e.key, off);
			world_reopen(&world);
			struct scrub_pass p = scrub("start cold");
			assert_true(p.errors + p.bad_blocks > 0);
			simobject_corrupt(world.so, e.store, e.key, off);
			world_reopen(&world);
			p = scrub("start cold");
			assert_int_equal(p.errors + p.bad_blocks, 0);
			n++;
		}
	}
	assert_true(n >= 10);
}

/* A mount after each step in the part of it that is of snapshots. */
static void a_cold_pass_goes_on_after_a_restart_wherever_it_was(void **state)
{
	struct journal_waiter w = {.done = command_done};
	struct scrub_pass p;
	unsigned steps = 0, n_mounts = 0;

	(void)state;
	make_cold_snapshots();
	struct scrub_pass whole = scrub("start cold");
	fs_scrub_command(world.v.fs, (struct slice){"start cold", 10}, &w);
	for (bool more = true; more; steps++) {
		assert_int_equal(fs_scrub_step(world.v.fs, &more), 0);
		scrub_get(world.v.fs, &p);
		assert_true(steps < 1000);
		if (p.phase != PHASE_PARTS)
			continue;
		assert_int_equal(fs_checkpoint(world.v.fs), 0);
		world_reopen(&world);
		n_mounts++;
	}
	assert_true(n_mounts > 4);
	assert_int_equal(p.state, SCRUB_DONE);
	assert_true(p.checked_bytes >= whole.checked_bytes);
	assert_int_equal(p.errors + p.bad_blocks + p.bad_rows, 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make_world, free_world)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(every_block_of_a_kept_file_is_repaired_from_its_object),
	    CASE(a_block_of_a_snapshot_is_repaired_from_the_object_it_is_in),
	    CASE(a_reader_is_served_from_the_object_meanwhile),
	    CASE(a_packed_frame_is_repaired_from_the_object),
	    CASE(a_packed_frame_of_a_snapshot_is_repaired_from_the_object),
	    CASE(an_object_that_is_gone_repairs_nothing),
	    CASE(cold_data_is_looked_at_only_when_asked_for),
	    CASE(an_object_that_is_gone_is_an_error_of_a_cold_pass),
	    CASE(cold_data_that_only_snapshots_have_is_read_once),
	    CASE(cold_data_is_read_after_going_back),
	    CASE(damage_of_each_object_that_only_snapshots_have_is_told),
	    CASE(a_cold_pass_goes_on_after_a_restart_wherever_it_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
