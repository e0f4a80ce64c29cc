/*
 * test_scrub_heal.c: damage that no peer and no object repairs is looked for in other copies and in the journal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

#include "fs/core/scrub/wants.h"
#include "tests/unit/scrub_world.h"

#define BLOCKS  40u
#define A_WRITE 8u /* blocks: goes through the journal */

static struct scrub_world world;

/* /sub/name has content world.seed, written through the journal, at home. */
static void fill_small(void)
{
	uint8_t *p = aligned_alloc(DISK_BLOCK, A_WRITE * BLOCK_SIZE);

	world.ino = world.v.file;
	world.seed++;
	for (uint64_t at = 0; at < BLOCKS; at += A_WRITE) {
		for (uint64_t i = 0; i < A_WRITE; i++)
			fill_block(world.seed, at + i, p + i * BLOCK_SIZE);
		assert_int_equal(fs_write(world.v.fs, &root, world.ino, at * BLOCK_SIZE, A_WRITE * BLOCK_SIZE, p, false), 0);
	}
	free(p);
	world_home(&world);
}

/* The same with content that is not in the journal. */
static void fill_large(void)
{
	world_fill(&world, BLOCKS);
	world_home(&world);
}

static int make_world(void **state)
{
	(void)state;
	world_now_ns = NSEC_PER_SEC;
	world_open(&world);
	return 0;
}

static int free_world(void **state)
{
	(void)state;
	world.bad.on = false;
	world_close(&world);
	return 0;
}

static struct scrub_pass scrub(void)
{
	assert_int_equal(scrub_command(world.v.fs, "start"), 0);
	return scrub_to_the_end(world.v.fs);
}

static struct repair_status *repairs(void)
{
	return &world.v.fs->scrub->repairs;
}

static struct scrub_world view_of(const char *name, uint64_t seed)
{
	struct scrub_world s = world;
	struct fs_attr dir, file;
	uint64_t at;

	assert_int_equal(fs_snap_root(world.v.fs, name, &at), 0);
	assert_int_equal(fs_lookup(world.v.fs, at, "sub", &dir), 0);
	assert_int_equal(fs_lookup(world.v.fs, dir.ino, "name", &file), 0);
	s.ino = file.ino;
	s.seed = seed;
	return s;
}

/* ---- the journal ---- */

static void every_block_that_went_through_the_journal_is_repaired_from_it(void **state)
{
	(void)state;
	fill_small();
	for (uint64_t block = 0; block < BLOCKS; block++) {
		enum damage_kind kind = block % DAMAGE_KINDS;
		pointer_t was = damage_block(&world, block, kind);
		struct scrub_pass p = scrub();

		assert_int_equal(p.bad_blocks, 1);
		assert_int_equal(p.repaired_blocks, 1);
		assert_int_equal(p.errors, 0);
		assert_true(slot_of(&world, block).home != was);
		assert_true(quarantine_has(world.v.fs, was));
		assert_int_equal(read_block(&world, block), 0);
		world.bad.on = false;
	}
	assert_int_equal(atomic_load(&repairs()->by_journal), BLOCKS);
	assert_int_equal(fsck(world.v.fs), 0);
}

static void all_of_it_at_once_is_repaired_by_reading_the_journal_once(void **state)
{
	(void)state;
	fill_small();
	for (uint64_t block = 0; block < BLOCKS; block++)
		damage_block(&world, block, DAMAGE_FLIP);
	struct scrub_pass p = scrub();
	assert_int_equal(p.bad_blocks, BLOCKS);
	assert_int_equal(p.repaired_blocks, BLOCKS);
	for (uint64_t block = 0; block < BLOCKS; block++)
		assert_int_equal(read_block(&world, block), 0);
	world_reopen(&world, false);
	assert_int_equal(fsck(world.v.fs), 0);
}

/* By other mounts, which left nothing to replay. */
static void what_went_home_before_the_mount_is_found_in_the_ring(void **state)
{
	struct fs_attr other;
	uint8_t *p = aligned_alloc(DISK_BLOCK, 32 * KIB);
	unsigned mounts;

	(void)state;
	assert_int_equal(fs_mknod(world.v.fs, &root, world.v.dir, "other", S_IFREG | 0644, 0, &other), 0);
	fill_small();
	memset(p, 9, 32 * KIB);
	for (mounts = 0; mounts < 60; mounts++) {
		world_reopen(&world, mounts % 3 == 2);
		damage_block(&world, mounts % BLOCKS, DAMAGE_FLIP + mounts % 3);
		struct scrub_pass pass = scrub();
		assert_int_equal(pass.bad_blocks, 1);
		if (pass.repaired_blocks == 0)
			break;
		assert_int_equal(read_block(&world, mounts % BLOCKS), 0);
		for (unsigned i = 0; i < 32; i++)
			assert_int_equal(fs_write(world.v.fs, &root, other.ino, 0, 32 * KIB, p, false), 0);
		world_home(&world);
	}
	assert_true(mounts > 20 && mounts < 60); /* until the ring of 32 MiB came round */
	free(p);
}

/* Content that the file had before, or that another has, is never given to it. */
static void older_content_of_the_same_block_is_not_taken(void **state)
{
	(void)state;
	fill_small();
	fill_large();
	damage_block(&world, 7, DAMAGE_TORN);
	struct scrub_pass p = scrub();
	assert_int_equal(p.bad_blocks, 1);
	assert_int_equal(p.repaired_blocks, 0);
	assert_int_equal(read_block(&world, 7), -EBADMSG);
	assert_int_equal(atomic_load(&repairs()->lies), 0);
}

static void what_the_ring_has_written_over_is_not_found(void **state)
{
	uint8_t *p = aligned_alloc(DISK_BLOCK, 32 * KIB);
	struct fs_attr other;

	(void)state;
	fill_small();
	assert_int_equal(fs_mknod(world.v.fs, &root, world.v.dir, "other", S_IFREG | 0644, 0, &other), 0);
	memset(p, 3, 32 * KIB);
	for (unsigned i = 0; i < 1500; i++) { /* 48 MiB through a ring of 32 */
		assert_int_equal(fs_write(world.v.fs, &root, other.ino, 0, 32 * KIB, p, false), 0);
		if (i % 64 == 0)
			world_home(&world);
	}
	world_home(&world);
	free(p);
	damage_block(&world, 11, DAMAGE_FLIP);
	struct scrub_pass pass = scrub();
	assert_int_equal(pass.bad_blocks, 1);
	assert_int_equal(pass.repaired_blocks, 0);
	assert_int_equal(pass.errors, 0);
	assert_true(damage_is_bad(world.v.fs, world.ino, 11));
}

/* A read comes upon the first one only. */
static void what_is_damaged_around_a_block_is_wanted_with_it(void **state)
{
	static const uint64_t bad[] = {1, 2, 3, 9, 15, 16, 31, 33};
	struct wants w;

	(void)state;
	fill_large();
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		damage_block(&world, bad[i], DAMAGE_FLIP);
	assert_int_equal(read_block(&world, 9), -EBADMSG);
	assert_int_equal(wants_collect(world.v.fs, 0, false, &w), 0);
	assert_int_equal(w.n, ARRAY_SIZE(bad));
	for (size_t i = 0; i < w.n; i++) {
		assert_int_equal(w.want[i].block, bad[i]);
		damage_searched(world.v.fs, world.ino, bad[i]);
	}
	wants_free(&w);
	assert_int_equal(wants_collect(world.v.fs, 0, false, &w), 0);
	assert_int_equal(w.n, 0); /* looked for just now */
	assert_int_equal(wants_collect(world.v.fs, 0, true, &w), 0);
	assert_int_equal(w.n, ARRAY_SIZE(bad));
	wants_free(&w);
	world_now_ns += 2 * 3600 * NSEC_PER_SEC;
	assert_int_equal(wants_collect(world.v.fs, world.ino, false, &w), 0);
	assert_int_equal(w.n, ARRAY_SIZE(bad));
	wants_free(&w);
}

/* ---- other copies ---- */

static void the_same_content_elsewhere_in_a_snapshot_repairs_the_file(void **state)
{
	(void)state;
	fill_large();
	assert_int_equal(fs_snap_create(world.v.fs, &root, "s"), 0);
	world.seed--;
	fill_large(); /* again, at other homes */
	struct scrub_world s = view_of("s", world.seed);
	for (uint64_t block = 0; block < BLOCKS; block++) {
		assert_true(slot_of(&world, block).home != slot_of(&s, block).home);
		damage_block(&world, block, block % DAMAGE_EIO);
	}
	struct scrub_pass p = scrub();
	assert_int_equal(p.bad_blocks, BLOCKS);
	assert_int_equal(p.repaired_blocks, BLOCKS);
	assert_int_equal(atomic_load(&repairs()->by_copy), BLOCKS);
	for (uint64_t block = 0; block < BLOCKS; block++)
		assert_int_equal(read_block(&world, block), 0);
	assert_int_equal(fsck(world.v.fs), 0);
}

static void the_same_content_elsewhere_repairs_a_snapshot(void **state)
{
	(void)state;
	fill_large();
	assert_int_equal(fs_snap_create(world.v.fs, &root, "a"), 0);
	world.seed--;
	fill_large();
	assert_int_equal(fs_snap_create(world.v.fs, &root, "b"), 0);
	struct scrub_world a = view_of("a", world.seed), b = view_of("b", world.seed);
	pointer_t was = damage_block(&a, 5, DAMAGE_ZEROED); /* the live file has it, and so has b */
	assert_int_equal(scrub().repaired_blocks, 1);
	assert_true(slot_of(&a, 5).home == was);
	assert_int_equal(read_block(&a, 5), 0);
	fill_large(); /* other content */
	damage_block(&a, 6, DAMAGE_ZEROED);
	assert_int_equal(scrub().repaired_blocks, 1); /* only b has it */
	damage_block(&b, 7, DAMAGE_FLIP);
	assert_int_equal(scrub().repaired_blocks, 1); /* only a has it */
	assert_int_equal(read_block(&a, 6), 0);
	assert_int_equal(read_block(&b, 7), 0);
	damage_block(&a, 8, DAMAGE_FLIP);
	damage_block(&b, 8, DAMAGE_FLIP);
	struct scrub_pass p = scrub();
	assert_int_equal(p.bad_blocks, 2);
	assert_int_equal(p.repaired_blocks, 0);
	assert_int_equal(read_block(&a, 8), -EBADMSG);
	assert_int_equal(read_block(&b, 8), -EBADMSG);
	assert_int_equal(atomic_load(&repairs()->by_copy), 3);
}

static void a_snapshot_that_shares_the_block_has_the_same_damage(void **state)
{
	(void)state;
	fill_large();
	assert_int_equal(fs_snap_create(world.v.fs, &root, "s"), 0);
	damage_block(&world, 5, DAMAGE_FLIP);
	struct scrub_pass p = scrub();
	assert_int_equal(p.bad_blocks, 1);
	assert_int_equal(p.repaired_blocks, 0);
}

/* ---- changes meanwhile ---- */

/* Before each step another block is damaged, wherever the pass is; the next pass has found and repaired all of them. */
static void damage_that_comes_during_a_pass_is_repaired_by_it_or_the_next(void **state)
{
	(void)state;
	fill_small();
	for (unsigned run = 0; run < 10; run++) {
		struct rng g = {.state = run + 1};
		bool more = true;

		assert_int_equal(scrub_command(world.v.fs, "start"), 0);
		for (unsigned i = 0; more; i++) {
			if (i < 12)
				damage_block(&world, rng_u64(&g) % BLOCKS, DAMAGE_FLIP + rng_u64(&g) % 3);
			assert_int_equal(fs_scrub_step(world.v.fs, &more), 0);
		}
		world_now_ns += 60 * NSEC_PER_SEC;
		struct scrub_pass p = scrub();
		assert_int_equal(p.bad_blocks, p.repaired_blocks);
		for (uint64_t block = 0; block < BLOCKS; block++)
			assert_int_equal(read_block(&world, block), 0);
	}
	assert_int_equal(fsck(world.v.fs), 0);
}

/* The file changes between two steps of the search, at each of them: what is repaired is what it has by then. */
static void a_file_that_changes_meanwhile_keeps_what_was_written(void **state)
{
	(void)state;
	fill_small();
	for (unsigned at = 0; at < 12; at++) {
		uint8_t block[BLOCK_SIZE];
		bool more = true;

		damage_block(&world, 9, DAMAGE_FLIP);
		damage_block(&world, 10, DAMAGE_FLIP);
		assert_int_equal(scrub_command(world.v.fs, "start"), 0);
		bool wrote = false;
		for (unsigned i = 0; more; i++) {
			if (i == at) {
				wrote = true;
				fill_block(world.seed + 100 + at, 9, block);
				assert_int_equal(fs_write(world.v.fs, &root, world.ino, 9 * BLOCK_SIZE, BLOCK_SIZE, block, false),
						 0);
			}
			assert_int_equal(fs_scrub_step(world.v.fs, &more), 0);
		}
		struct scrub_world changed = world;
		changed.seed = wrote ? world.seed + 100 + at : world.seed;
		assert_int_equal(read_block(&changed, 9), 0);
		assert_int_equal(read_block(&world, 10), 0);
		fill_block(world.seed, 9, block);
		assert_int_equal(fs_write(world.v.fs, &root, world.ino, 9 * BLOCK_SIZE, BLOCK_SIZE, block, false), 0);
		world_home(&world);
	}
	assert_int_equal(fsck(world.v.fs), 0);
}

static void clear_gives_up_only_what_is_nowhere(void **state)
{
	uint8_t zeros[BLOCK_SIZE] = {0};
	_Alignas(DISK_BLOCK) static uint8_t room[4 * BLOCK_SIZE];
	void *at;
	size_t n;

	(void)state;
	fill_small();
	uint8_t *p = aligned_alloc(DISK_BLOCK, 128 * KIB); /* the first 32 blocks are not in the journal any more */
	struct scrub_world large = world;
	large.seed = world.seed + 50;
	for (unsigned i = 0; i < 32; i++)
		fill_block(large.seed, i, p + i * BLOCK_SIZE);
	assert_int_equal(fs_write(world.v.fs, &root, world.ino, 0, 128 * KIB, p, false), 0);
	free(p);
	world_home(&world);
	damage_block(&large, 3, DAMAGE_FLIP);
	damage_block(&world, 35, DAMAGE_FLIP);
	assert_int_equal(read_block(&large, 3), -EBADMSG);
	assert_int_equal(read_block(&world, 35), -EBADMSG);
	assert_int_equal(scrub_clear(world.v.fs, world.ino), 0);
	assert_int_equal(read_block(&world, 35), 0);
	assert_int_equal(fs_read(world.v.fs, world.ino, 3 * BLOCK_SIZE, BLOCK_SIZE, room, &at, &n), 0);
	assert_memory_equal(at, zeros, BLOCK_SIZE);
	assert_int_equal(read_block(&large, 4), 0);
}

/* ---- crashes ---- */

static void a_crash_at_any_moment_of_a_repair_from_the_journal_leaves_a_sound_volume(void **state)
{
	unsigned cuts = 0, whole = 0;
	uint8_t bad[BLOCK_SIZE];
	char name[64];
	uint64_t off;

	(void)state;
	fill_small();
	struct simcut *cut = simcut_new(world.v.sim);
	pointer_t was = damage_block(&world, 30, DAMAGE_MISDIRECTED);
	place_of_home(&world, was, name, &off);
	simstore_peek(world.v.sim, name, bad, sizeof(bad), off);
	uint64_t first = simstore_count(world.v.sim);
	assert_int_equal(scrub().repaired_blocks, 1);
	assert_int_equal(fs_checkpoint(world.v.fs), 0);
	uint64_t last = simstore_count(world.v.sim);
	assert_true(last > first);
	for (uint64_t event = first; event <= last; event++) {
		simcut_advance(cut, event);
		for (enum simcut_variant how = 0; how < SIMCUT_VARIANTS; how++) {
			struct rng g = {.state = event * 31 + how};
			struct scrub_world kept = world;

			world = (struct scrub_world){.v = kept.v, .ino = kept.ino, .seed = kept.seed};
			world.v.sim = simcut_image(cut, how, &g, false);
			simstore_poke(world.v.sim, name, bad, sizeof(bad), off);
			world.v.index = kv_disk_at(kept.v.index, event, world.v.sim);
			world.v.config.kv_ctx = world.v.index;
			world.v.config.store = badstore_open(simstore_open(world.v.sim), &world.bad);
			assert_int_equal(fs_open(&world.v.config, &world.v.fs), 0);
			world_hooks(&world);
			uint64_t damaged = fsck(world.v.fs);
			assert_true(damaged <= 1);
			whole += !damaged;
			for (uint64_t block = 0; block < BLOCKS; block++)
				assert_int_equal(read_block(&world, block), damaged && block == 30 ? -EBADMSG : 0);
			(void)!scrub_command(world.v.fs, "stop");
			scrub();
			assert_int_equal(read_block(&world, 30), 0);
			assert_int_equal(fsck(world.v.fs), 0);
			volume_close(&world.v);
			world = kept;
			cuts++;
		}
	}
	assert_true(whole > 0 && whole < cuts);
	simcut_free(cut);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make_world, free_world)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(every_block_that_went_through_the_journal_is_repaired_from_it),
	    CASE(all_of_it_at_once_is_repaired_by_reading_the_journal_once),
	    CASE(what_went_home_before_the_mount_is_found_in_the_ring),
	    CASE(older_content_of_the_same_block_is_not_taken),
	    CASE(what_the_ring_has_written_over_is_not_found),
	    CASE(what_is_damaged_around_a_block_is_wanted_with_it),
	    CASE(the_same_content_elsewhere_in_a_snapshot_repairs_the_file),
	    CASE(the_same_content_elsewhere_repairs_a_snapshot),
	    CASE(a_snapshot_that_shares_the_block_has_the_same_damage),
	    CASE(damage_that_comes_during_a_pass_is_repaired_by_it_or_the_next),
	    CASE(a_file_that_changes_meanwhile_keeps_what_was_written),
	    CASE(clear_gives_up_only_what_is_nowhere),
	    CASE(a_crash_at_any_moment_of_a_repair_from_the_journal_leaves_a_sound_volume),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
