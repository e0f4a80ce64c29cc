/*
 * test_scrub_snaps.c: a pass over what only snapshots have: each block once, whoever shares it; named, repaired where it is, and
 * sound wherever the power goes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

#include "tests/unit/scrub_world.h"

#define BLOCKS 70u
#define SNAPS  5u

static struct scrub_world world;

static int make_world(void **state)
{
	(void)state;
	world_now_ns = NSEC_PER_SEC;
	world_open(&world);
	world_fill(&world, BLOCKS);
	world_home(&world);
	return 0;
}

static int free_world(void **state)
{
	(void)state;
	world.bad.on = false;
	world_close(&world);
	return 0;
}

static void snap(const char *name)
{
	assert_int_equal(fs_snap_create(world.v.fs, &root, name), 0);
}

static uint64_t ino_in(struct fs *fs, const char *name)
{
	struct fs_attr dir, file;
	uint64_t at;

	assert_int_equal(fs_snap_root(fs, name, &at), 0);
	assert_int_equal(fs_lookup(fs, at, "sub", &dir), 0);
	assert_int_equal(fs_lookup(fs, dir.ino, "name", &file), 0);
	return file.ino;
}

/* The world of a reader of the file as the snapshot has it. */
static struct scrub_world view_of(const struct scrub_world *w, const char *name, uint64_t seed)
{
	struct scrub_world s = *w;

	s.ino = ino_in(w->v.fs, name);
	s.seed = seed;
	return s;
}

/* New content everywhere, at home: what was there is in snapshots only. */
static void rewrite(void)
{
	world_fill(&world, BLOCKS);
	world_home(&world);
}

static struct scrub_pass scrub(void)
{
	assert_int_equal(scrub_command(world.v.fs, "start"), 0);
	return scrub_to_the_end(world.v.fs);
}

static void every_block_that_only_a_snapshot_has_is_found_in_every_kind_of_damage(void **state)
{
	(void)state;
	snap("old");
	rewrite();
	struct scrub_world old = view_of(&world, "old", world.seed - 1);
	world.mood = PEER_RIGHT;
	for (uint64_t block = 0; block < BLOCKS; block++) {
		enum damage_kind kind = block % DAMAGE_EIO; /* that does not take a write either */
		pointer_t was = damage_block(&old, block, kind);
		struct scrub_pass p = scrub();

		assert_int_equal(p.bad_blocks, 1);
		assert_int_equal(p.repaired_blocks, 1);
		assert_true(strstr(world.v.fs->damage, "/.clawfs/snapshots/old/sub/name") != NULL);
		assert_true(slot_of(&old, block).home == was);
		assert_false(quarantine_has(world.v.fs, was));
		assert_int_equal(read_block(&old, block), 0);
		assert_int_equal(read_block(&world, block), 0);
	}
	assert_int_equal(world.asked, BLOCKS);
	assert_int_equal(fsck(world.v.fs), 0);
}

/* Nothing of the file is the same in any two. */
static void each_block_is_read_once_however_many_snapshots_share_it(void **state)
{
	char name[8];

	(void)state;
	for (unsigned i = 0; i < SNAPS; i++) {
		snprintf(name, sizeof(name), "s%u", i);
		snap(name);
	}
	assert_int_equal(scrub().checked_bytes, BLOCKS * BLOCK_SIZE); /* all of it is live */
	rewrite();
	assert_int_equal(scrub().checked_bytes, 2 * BLOCKS * BLOCK_SIZE);
	snap("t0");
	snap("t1");
	assert_int_equal(scrub().checked_bytes, 2 * BLOCKS * BLOCK_SIZE);
	rewrite();
	struct scrub_pass p = scrub();
	assert_int_equal(p.checked_bytes, 3 * BLOCKS * BLOCK_SIZE);
	assert_int_equal(p.bad_blocks + p.bad_rows + p.errors, 0);
	assert_true(p.checked_bytes <= p.total_bytes);
	assert_int_equal(fs_snap_delete(world.v.fs, &root, "t1"), 0);
	steps_snaps(world.v.fs);
	assert_int_equal(scrub().checked_bytes, 3 * BLOCKS * BLOCK_SIZE);
}

/* Bytes that are read for the blocks of snapshots, rows and data. */
static uint64_t cost_of_snapshots(void)
{
	struct scrub_pass p = {.state = SCRUB_RUNNING};
	uint64_t bytes, sum = 0;
	void *room = NULL;

	assert_int_equal(posix_memalign(&room, DISK_BLOCK, LEAF_SLOTS * BLOCK_SIZE), 0);
	begin_phase(&p, PHASE_SNAPS, TABLE_DEAD);
	while (p.phase == PHASE_SNAPS) {
		assert_int_equal(walk_step(world.v.fs, &p, room, &bytes), 0);
		sum += bytes;
	}
	free(room);
	return sum;
}

static void files_that_did_not_change_cost_nothing(void **state)
{
	uint8_t block[BLOCK_SIZE] = {1};
	char name[16];

	(void)state;
	for (unsigned i = 0; i < 3000; i++) {
		struct fs_attr a;

		snprintf(name, sizeof(name), "other%u", i);
		assert_int_equal(fs_mknod(world.v.fs, &root, world.v.dir, name, S_IFREG | 0644, 0, &a), 0);
		assert_int_equal(fs_write(world.v.fs, &root, a.ino, 0, sizeof(block), block, false), 0);
		if (i % 500 == 0)
			world_home(&world);
	}
	world_home(&world);
	snap("s0");
	assert_int_equal(cost_of_snapshots(), 0); /* all of it is live */
	rewrite();
	snap("s1");
	uint64_t cost = cost_of_snapshots();
	assert_true(cost >= BLOCKS * BLOCK_SIZE && cost < (BLOCKS + 4) * BLOCK_SIZE);
	for (unsigned i = 0; i < SNAPS; i++) {
		snprintf(name, sizeof(name), "t%u", i);
		snap(name);
	}
	assert_int_equal(cost_of_snapshots(), cost);
	rewrite();
	assert_true(cost_of_snapshots() < 2 * cost + BLOCK_SIZE);
}

static void shared_damage_is_found_once_and_healed_for_all(void **state)
{
	char name[8];

	(void)state;
	for (unsigned i = 0; i < SNAPS; i++) {
		snprintf(name, sizeof(name), "s%u", i);
		snap(name);
	}
	rewrite();
	struct scrub_world first = view_of(&world, "s0", world.seed - 1);
	damage_block(&first, 33, DAMAGE_TORN);
	struct scrub_pass p = scrub();
	assert_int_equal(p.bad_blocks, 1);
	assert_int_equal(p.repaired_blocks, 0);
	assert_true(strstr(world.v.fs->damage, "/.clawfs/snapshots/s4/sub/name") != NULL);
	world.mood = PEER_RIGHT;
	world_now_ns += 60 * NSEC_PER_SEC;
	p = scrub();
	assert_int_equal(p.repaired_blocks, 1);
	for (unsigned i = 0; i < SNAPS; i++) {
		snprintf(name, sizeof(name), "s%u", i);
		struct scrub_world s = view_of(&world, name, world.seed - 1);
		assert_int_equal(read_block(&s, 33), 0);
	}
}

static void a_peer_that_has_not_the_snapshot_is_asked_for_the_file(void **state)
{
	(void)state;
	snap("old");
	world.seed = 0; /* the same content again, elsewhere */
	rewrite();
	struct scrub_world old = view_of(&world, "old", world.seed);
	pointer_t was = damage_block(&old, 5, DAMAGE_ZEROED);
	assert_true(slot_of(&world, 5).home != was);
	world.mood = PEER_LIVE_ONLY;
	assert_int_equal(scrub().repaired_blocks, 1);
	assert_int_equal(world.asked, 2);
	assert_int_equal(read_block(&old, 5), 0);
}

static void a_peer_answers_from_its_snapshot_by_the_number_that_all_know(void **state)
{
	_Alignas(DISK_BLOCK) uint8_t block[BLOCK_SIZE];
	uint8_t want[BLOCK_SIZE];
	uint64_t gen;

	(void)state;
	snap("old");
	rewrite();
	struct scrub_world old = view_of(&world, "old", world.seed - 1);
	struct replica_volume *v = fs_replica(world.v.fs);
	assert_true(snap_gen_of(world.v.fs, snap_ino_top(old.ino), &gen));
	struct block_wanted b = {
	    .number = 1, .ino = snap_ino(gen, world.ino), .leaf = 1, .slot = 3, .crc = slot_of(&old, 19).crc};
	assert_int_equal(v->ops->answer_block(v, &b, block), 0);
	fill_block(old.seed, 19, want);
	assert_memory_equal(block, want, BLOCK_SIZE);
	b.ino = world.ino; /* the live file has other data */
	assert_int_equal(v->ops->answer_block(v, &b, block), -ENOENT);
	for (uint64_t other = 0; other < 8; other++) { /* of another snapshot, of an inode that is not there, elsewhere in it */
		b.ino = snap_ino(gen + 1 + other, world.ino);
		assert_int_equal(v->ops->answer_block(v, &b, block), -ENOENT);
		b.ino = snap_ino(gen, world.ino + 1 + other);
		assert_int_equal(v->ops->answer_block(v, &b, block), -ENOENT);
	}
	b.ino = snap_ino(gen, world.ino);
	b.leaf = 77;
	assert_int_equal(v->ops->answer_block(v, &b, block), -ENOENT);
	b.leaf = UINT64_MAX;
	assert_int_equal(v->ops->answer_block(v, &b, block), -EUCLEAN);
	b = (struct block_wanted){.number = 1, .ino = UINT64_MAX, .slot = 3, .crc = slot_of(&old, 19).crc};
	assert_int_equal(v->ops->answer_block(v, &b, block), -ENOENT);
	damage_block(&old, 19, DAMAGE_FLIP); /* what it has is not what it should be */
	b = (struct block_wanted){
	    .number = 1, .ino = snap_ino(gen, world.ino), .leaf = 1, .slot = 3, .crc = slot_of(&old, 19).crc};
	assert_int_equal(v->ops->answer_block(v, &b, block), -ENOENT);
}

static void what_the_disk_does_not_keep_stays_damage_of_the_snapshot(void **state)
{
	(void)state;
	snap("old");
	rewrite();
	struct scrub_world old = view_of(&world, "old", world.seed - 1);
	world.mood = PEER_RIGHT;
	damage_block(&old, 8, DAMAGE_EIO);
	world.bad = old.bad;
	world.bad.stuck = true;
	struct scrub_pass p = scrub();
	assert_int_equal(p.bad_blocks, 1);
	assert_int_equal(p.repaired_blocks, 0);
	assert_int_equal(read_block(&old, 8), -EBADMSG);
	assert_int_equal(read_block(&world, 8), 0);
	world.bad.on = world.bad.stuck = false;
	world_now_ns += 60 * NSEC_PER_SEC;
	assert_int_equal(scrub().bad_blocks, 0);
	assert_int_equal(read_block(&old, 8), 0);
}

/* A kill after every step, with or without a checkpoint; a snapshot goes in the middle of one of them. */
static void a_pass_goes_on_after_a_kill_wherever_it_was(void **state)
{
	unsigned steps = 0;

	(void)state;
	snap("a");
	rewrite();
	snap("b");
	rewrite();
	struct scrub_world a = view_of(&world, "a", world.seed - 2), b = view_of(&world, "b", world.seed - 1);
	damage_block(&a, 66, DAMAGE_FLIP);
	damage_block(&b, 3, DAMAGE_ZEROED);
	assert_int_equal(scrub_command(world.v.fs, "start"), 0);
	assert_int_equal(fs_checkpoint(world.v.fs), 0);
	for (bool more = true; more; steps++) {
		assert_int_equal(fs_scrub_step(world.v.fs, &more), 0);
		if (steps % 2 == 0)
			assert_int_equal(fs_checkpoint(world.v.fs), 0);
		if (steps % 5 == 0 && more && steps < 60) {
			world_reopen(&world, steps % 10 != 0);
			a.v = b.v = world.v;
		}
		assert_true(steps < 1000);
	}
	struct scrub_pass p;
	scrub_get(world.v.fs, &p);
	assert_int_equal(p.state, SCRUB_DONE);
	a.v = b.v = world.v;
	assert_true(damage_is_bad(world.v.fs, a.ino, 66));
	assert_true(damage_is_bad(world.v.fs, b.ino, 3));
}

static void a_snapshot_that_goes_in_the_middle_of_its_part_ends_that_part(void **state)
{
	static const char *const names[] = {"a", "b"};

	(void)state;
	for (unsigned after = 0; after < 30; after++) {
		bool more = true;

		snap("a");
		rewrite();
		snap("b");
		rewrite();
		struct scrub_world a = view_of(&world, "a", world.seed - 2);
		damage_block(&a, 20, DAMAGE_FLIP);
		assert_int_equal(scrub_command(world.v.fs, "start"), 0);
		for (unsigned i = 0; i < after && more; i++)
			assert_int_equal(fs_scrub_step(world.v.fs, &more), 0);
		assert_int_equal(fs_snap_delete(world.v.fs, &root, names[after % 2]), 0);
		struct scrub_pass p = scrub_to_the_end(world.v.fs);
		assert_int_equal(p.bad_rows, 0);
		assert_int_equal(p.errors, 0);
		if (after % 2)
			assert_true(damage_is_bad(world.v.fs, a.ino, 20));
		assert_int_equal(fs_snap_delete(world.v.fs, &root, names[1 - after % 2]), 0);
		assert_int_equal(fs_forget_all(world.v.fs), 0);
		steps_snaps(world.v.fs);
	}
}

static void health_of_a_file_of_a_snapshot_says_when_it_was_checked(void **state)
{
	struct buf out = {0};

	(void)state;
	snap("old");
	rewrite();
	struct scrub_world old = view_of(&world, "old", world.seed - 1);
	assert_int_equal(fs_health_text(world.v.fs, old.ino, &out), 0);
	buf_put(&out, "", 1);
	assert_string_equal(out.p, "unchecked");
	buf_reset(&out);
	world_now_ns += NSEC_PER_SEC;
	scrub();
	assert_int_equal(fs_health_text(world.v.fs, old.ino, &out), 0);
	buf_put(&out, "", 1);
	assert_memory_equal(out.p, "ok checked=", 11);
	buf_reset(&out);
	damage_block(&old, 2, DAMAGE_FLIP);
	scrub();
	assert_int_equal(fs_health_text(world.v.fs, old.ino, &out), 0);
	buf_put(&out, "", 1);
	assert_memory_equal(out.p, "damaged blocks=1 seen=", 22);
	buf_free(&out);
}

/*
 * The block of a snapshot is written where it is.  Whatever of that write the disk has when the power goes, the snapshot has the
 * block, or has damage there as before, and everything else is as it was: with a peer it is whole again.
 */
static void a_crash_at_any_moment_of_a_repair_in_place_makes_nothing_worse(void **state)
{
	unsigned cuts = 0, whole = 0;
	uint8_t bad[BLOCK_SIZE];
	char name[64];
	uint64_t off;

	(void)state;
	snap("old");
	rewrite();
	struct scrub_world old = view_of(&world, "old", world.seed - 1);
	struct simcut *cut = simcut_new(world.v.sim);
	pointer_t was = damage_block(&old, 30, DAMAGE_MISDIRECTED);
	place_of_home(&world, was, name, &off);
	simstore_peek(world.v.sim, name, bad, sizeof(bad), off);
	world.mood = PEER_RIGHT;
	uint64_t first = simstore_count(world.v.sim);
	assert_int_equal(scrub().repaired_blocks, 1);
	assert_int_equal(fs_checkpoint(world.v.fs), 0);
	uint64_t last = simstore_count(world.v.sim);
	assert_true(last > first);
	for (uint64_t event = first; event <= last; event++) {
		simcut_advance(cut, event);
		for (enum simcut_variant how = 0; how < SIMCUT_VARIANTS; how++) {
			struct rng g = {.state = event * 31 + how};
			struct scrub_world after = {.v = world.v, .mood = PEER_ABSENT, .ino = world.ino, .seed = world.seed};
			uint8_t there[BLOCK_SIZE], good[BLOCK_SIZE];

			after.v.sim = simcut_image(cut, how, &g, false);
			/* The damage is below the log of writes: what of the repair is on the disk lies over it. */
			fill_block(old.seed, 30, good);
			simstore_peek(after.v.sim, name, there, sizeof(there), off);
			for (size_t s = 0; s < BLOCK_SIZE; s += 512)
				if (event == first || (how && rng_u64(&g) % 2))
					memcpy(there + s, bad + s, 512);
			simstore_poke(after.v.sim, name, there, sizeof(there), off);
			after.v.index = kv_disk_at(world.v.index, event, after.v.sim);
			after.v.config.kv_ctx = after.v.index;
			after.v.config.store = badstore_open(simstore_open(after.v.sim), &after.bad);
			assert_int_equal(fs_open(&after.v.config, &after.v.fs), 0);
			world_hooks(&after);
			struct scrub_world s = view_of(&after, "old", old.seed);
			bool damaged = memcmp(there, good, BLOCK_SIZE) != 0;
			assert_int_equal(fsck(after.v.fs), damaged);
			for (uint64_t block = 0; block < BLOCKS; block++) {
				assert_int_equal(read_block(&after, block), 0);
				assert_int_equal(read_block(&s, block), damaged && block == 30 ? -EBADMSG : 0);
			}
			whole += !damaged;
			after.mood = PEER_RIGHT;
			world_now_ns += 60 * NSEC_PER_SEC;
			assert_true(scrub_command(after.v.fs, "start") == 0 || scrub_command(after.v.fs, "resume") == -EALREADY);
			scrub_to_the_end(after.v.fs);
			assert_int_equal(read_block(&s, 30), 0);
			assert_int_equal(fsck(after.v.fs), 0);
			volume_close(&after.v);
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
	    CASE(every_block_that_only_a_snapshot_has_is_found_in_every_kind_of_damage),
	    CASE(each_block_is_read_once_however_many_snapshots_share_it),
	    CASE(files_that_did_not_change_cost_nothing),
	    CASE(shared_damage_is_found_once_and_healed_for_all),
	    CASE(a_peer_that_has_not_the_snapshot_is_asked_for_the_file),
	    CASE(a_peer_answers_from_its_snapshot_by_the_number_that_all_know),
	    CASE(what_the_disk_does_not_keep_stays_damage_of_the_snapshot),
	    CASE(a_pass_goes_on_after_a_kill_wherever_it_was),
	    CASE(a_snapshot_that_goes_in_the_middle_of_its_part_ends_that_part),
	    CASE(health_of_a_file_of_a_snapshot_says_when_it_was_checked),
	    CASE(a_crash_at_any_moment_of_a_repair_in_place_makes_nothing_worse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
