/*
 * test_scrub_frame.c: packed frames that snapshots have: every kind of damage to every block of one is repaired where it lies,
 * byte for byte, from a peer, the journal or another copy, for all snapshots that have it and the live file; and sound wherever
 * the power goes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

#include "fs/core/squeeze/squeeze.h"
#include "tests/unit/scrub_world.h"

#define OK(call) assert_int_equal(call, 0)
#define KINDS    DAMAGE_EIO /* and that one does not take a write */

static struct scrub_world world;
static uint8_t original[PACK_BLOCKS_MAX * BLOCK_SIZE];
static struct leaf_pack frame;

static struct leaf leaf_of(uint64_t ino)
{
	struct leaf l;

	icache_rdlock(world.v.fs->icache, ino);
	OK(extent_get(world.v.fs, ino, 0, &l));
	icache_rdunlock(world.v.fs->icache, ino);
	return l;
}

static void snap(const char *name)
{
	OK(fs_snap_create(world.v.fs, &root, name));
}

static struct scrub_world view_of(const char *name, uint64_t seed)
{
	struct scrub_world s = world;
	struct fs_attr dir, file;
	uint64_t at;

	OK(fs_snap_root(world.v.fs, name, &at));
	OK(fs_lookup(world.v.fs, at, "sub", &dir));
	OK(fs_lookup(world.v.fs, dir.ino, "name", &file));
	s.ino = file.ino;
	s.seed = seed;
	return s;
}

static struct scrub_pass scrub(void)
{
	world_now_ns += 60 * NSEC_PER_SEC;
	OK(scrub_command(world.v.fs, "start"));
	return scrub_to_the_end(world.v.fs);
}

static void at_frame(uint32_t block, bool put, uint8_t *p)
{
	char name[64];
	uint64_t off;

	place_of_home(&world, pointer_add(frame.start, block), name, &off);
	if (put)
		simstore_poke(world.v.sim, name, p, BLOCK_SIZE, off);
	else
		simstore_peek(world.v.sim, name, p, BLOCK_SIZE, off);
}

/* Block by block, so that it goes through the journal. */
static void fill_by_journal(void)
{
	uint8_t p[BLOCK_SIZE];

	world.ino = world.v.file;
	world.seed++;
	for (uint64_t i = 0; i < LEAF_SLOTS; i++) {
		fill_block(world.seed, i, p);
		OK(fs_write(world.v.fs, &root, world.ino, i * BLOCK_SIZE, BLOCK_SIZE, p, false));
	}
}

/* The first half of what is there again, through the journal. */
static void repeat_half(void)
{
	uint8_t p[BLOCK_SIZE];

	for (uint64_t i = 0; i < LEAF_SLOTS / 2; i++) {
		fill_block(world.seed, i, p);
		OK(fs_write(world.v.fs, &root, world.ino, i * BLOCK_SIZE, BLOCK_SIZE, p, false));
	}
}

/* In one large write, of which the journal has no copy. */
static void fill_past_journal(void)
{
	const struct record_attr half = {.mask = ATTR_SIZE, .size = LEAF_SLOTS * BLOCK_SIZE};
	struct fs_attr now;

	world_fill(&world, 2 * LEAF_SLOTS);
	OK(fs_setattr(world.v.fs, &root, world.ino, &half, &now));
}

static void squeeze_all(void)
{
	world_home(&world);
	for (bool more = true; more;)
		OK(fs_squeeze_step(world.v.fs, &more));
	OK(fs_checkpoint(world.v.fs));
}

/* A file of one leaf, packed, in snapshot "old". */
enum way { PAST_JOURNAL, BY_JOURNAL, HALF_BY_JOURNAL };
static void begin(const char *policy, enum way way)
{
	world_packs = true;
	world_now_ns = NSEC_PER_SEC;
	world_open(&world);
	OK(fs_set_policy(world.v.fs, &root, world.v.dir, "compression", policy));
	if (way == BY_JOURNAL)
		fill_by_journal();
	else
		fill_past_journal();
	if (way == HALF_BY_JOURNAL)
		repeat_half();
	squeeze_all();
	struct leaf l = leaf_of(world.ino);
	assert_int_equal(leaf_packed(&l), UINT16_MAX);
	frame = l.pack;
	for (uint32_t i = 0; i < frame.n_blocks; i++)
		at_frame(i, false, original + i * BLOCK_SIZE);
	snap("old");
}

static void end(void)
{
	world.bad.on = false;
	world_close(&world);
	world_packs = false;
}

/* The live file has other data. */
static void leave(void)
{
	fill_past_journal();
	world_home(&world);
}

static void damage(uint32_t block, enum damage_kind kind)
{
	uint8_t p[BLOCK_SIZE];

	memcpy(p, original + block * BLOCK_SIZE, sizeof(p));
	damage_frame_block(block, kind, p);
	at_frame(block, true, p);
}

static void is_original(void)
{
	uint8_t p[BLOCK_SIZE];

	for (uint32_t i = 0; i < frame.n_blocks; i++) {
		at_frame(i, false, p);
		assert_memory_equal(p, original + i * BLOCK_SIZE, BLOCK_SIZE);
		assert_false(quarantine_has(world.v.fs, pointer_add(frame.start, i)));
	}
}

static void is_whole(struct scrub_world *old)
{
	is_original();
	for (uint64_t i = 0; i < LEAF_SLOTS; i++)
		OK(read_block(old, i));
	assert_int_equal(fsck(world.v.fs), 0);
}

/* `before` the damage and `between` it and the pass; the last block may be mostly padding, and is left. */
static void each_damage(const char *policy, enum way way, void (*before)(void), enum peer_mood mood,
			_Atomic uint64_t *(*counter)(void))
{
	begin(policy, way);
	before();
	struct scrub_world old = view_of("old", 1);
	world.mood = mood;
	for (uint32_t block = 0; block + 1 < frame.n_blocks; block++)
		for (unsigned kind = 0; kind < KINDS; kind++) {
			uint64_t was = atomic_load(counter());

			damage(block, (enum damage_kind)kind);
			struct scrub_pass p = scrub();
			assert_true(p.bad_blocks > 0);
			assert_int_equal(p.repaired_blocks, p.bad_blocks);
			assert_int_equal(atomic_load(counter()) - was, p.bad_blocks);
			is_whole(&old);
		}
	end();
}

static _Atomic uint64_t *by_peer(void)
{
	return &world.v.fs->scrub->repairs.by_replica;
}
static _Atomic uint64_t *by_copy(void)
{
	return &world.v.fs->scrub->repairs.by_copy;
}
static _Atomic uint64_t *by_journal(void)
{
	return &world.v.fs->scrub->repairs.by_journal;
}

static const char *const policies[] = {"lz4", "zstd", "zstd:1", "zstd:19"};

static void what_only_a_snapshot_has_is_repaired_from_a_peer(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(policies); i++)
		each_damage(policies[i], PAST_JOURNAL, leave, PEER_RIGHT, by_peer);
}

static void and_from_the_journal(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(policies); i++)
		each_damage(policies[i], BY_JOURNAL, leave, PEER_ABSENT, by_journal);
}

/* The same data again, elsewhere. */
static void write_the_same(void)
{
	leave();
	world.seed = 0;
	leave();
}

static void and_from_another_copy(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(policies); i++)
		each_damage(policies[i], PAST_JOURNAL, write_the_same, PEER_ABSENT, by_copy);
}

/* Neither the peer nor the journal has all of it. */
static void and_from_several_of_them(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(policies); i++) {
		begin(policies[i], HALF_BY_JOURNAL);
		leave();
		struct scrub_world old = view_of("old", 1);
		world.mood = PEER_SECOND_HALF;
		damage(0, DAMAGE_ZEROED);
		struct scrub_pass p = scrub();
		assert_int_equal(p.bad_blocks, LEAF_SLOTS);
		assert_int_equal(p.repaired_blocks, LEAF_SLOTS);
		assert_int_equal(atomic_load(by_peer()), LEAF_SLOTS / 2);
		assert_int_equal(atomic_load(by_journal()), LEAF_SLOTS / 2);
		is_whole(&old);
		end();
	}
}

static void nothing(void) {}

static void what_the_live_file_has_too_is_repaired_for_both(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(policies); i++)
		each_damage(policies[i], PAST_JOURNAL, nothing, PEER_RIGHT, by_peer);
}

static void a_reader_of_the_snapshot_is_served(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(policies); i++) {
		begin(policies[i], PAST_JOURNAL);
		leave();
		struct scrub_world old = view_of("old", 1);
		world.mood = PEER_RIGHT;
		damage(0, DAMAGE_ZEROED);
		world_reopen(&world, true);
		old.v = world.v;
		OK(read_block(&old, 7));
		is_whole(&old);
		end();
	}
}

static void who_lies_or_has_nothing_changes_nothing(void **state)
{
	static const enum peer_mood moods[] = {PEER_LIES, PEER_HAS_NOTHING, PEER_ABSENT};
	uint8_t was[BLOCK_SIZE], is[BLOCK_SIZE];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(moods); i++)
		for (unsigned kind = 0; kind < KINDS; kind++) {
			begin("lz4", PAST_JOURNAL);
			leave();
			struct scrub_world old = view_of("old", 1);
			world.mood = moods[i];
			damage(0, (enum damage_kind)kind);
			at_frame(0, false, was);
			struct scrub_pass p = scrub();
			assert_true(p.bad_blocks > 0);
			assert_int_equal(p.repaired_blocks, 0);
			at_frame(0, false, is);
			assert_memory_equal(is, was, BLOCK_SIZE);
			assert_int_equal(fsck(world.v.fs), p.bad_blocks);
			world.mood = PEER_RIGHT;
			p = scrub();
			assert_int_equal(p.repaired_blocks, p.bad_blocks);
			is_whole(&old);
			end();
		}
}

static void what_the_disk_does_not_keep_stays_damage(void **state)
{
	char name[64];
	uint64_t off;

	(void)state;
	begin("zstd", PAST_JOURNAL);
	leave();
	struct scrub_world old = view_of("old", 1);
	world.mood = PEER_RIGHT;
	place_of_home(&world, frame.start, name, &off);
	world.bad = (struct bad_place){.off = off, .on = true, .stuck = true};
	strcpy(world.bad.name, name);
	struct scrub_pass p = scrub();
	assert_int_equal(p.bad_blocks, LEAF_SLOTS);
	assert_int_equal(p.repaired_blocks, 0);
	world.bad.on = world.bad.stuck = false;
	assert_int_equal(scrub().bad_blocks, 0);
	is_whole(&old);
	end();
}

/* Slots were written anew between snapshots: no leaf but the oldest knows what all of the frame is. */
static void a_frame_that_each_snapshot_has_less_of_is_repaired_for_all(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(policies); i++)
		for (unsigned kind = 0; kind < KINDS; kind++)
			for (unsigned last = 0; last < 2; last++) {
				const uint64_t gone = last ? LEAF_SLOTS - 1 : 3;
				uint8_t p[BLOCK_SIZE];

				begin(policies[i], PAST_JOURNAL);
				struct scrub_world old = view_of("old", 1);
				fill_block(77, gone, p);
				OK(fs_write(world.v.fs, &root, world.ino, gone * BLOCK_SIZE, BLOCK_SIZE, p, false));
				world_home(&world);
				snap("less");
				leave();
				world.mood = PEER_RIGHT;
				damage(0, (enum damage_kind)kind);
				struct scrub_pass pass = scrub();
				assert_true(pass.bad_blocks > 0);
				assert_int_equal(pass.repaired_blocks, pass.bad_blocks);
				is_whole(&old);
				end();
			}
}

/* Slots of the frame that are damaged with one bit of it being another. */
static uint16_t flip(struct scrub_world *old, uint32_t off)
{
	struct leaf l = leaf_of(old->ino);
	uint8_t p[BLOCK_SIZE];
	uint16_t good;

	at_frame(off / BLOCK_SIZE, false, p);
	p[off % BLOCK_SIZE] ^= 0x10;
	at_frame(off / BLOCK_SIZE, true, p);
	if (packed_verify(world.v.fs, &l, UINT16_MAX, LEAF_SLOTS, NULL, &good) < 0)
		good = 0;
	return (uint16_t)~good;
}

static void put_slot(unsigned slot)
{
	uint8_t p[BLOCK_SIZE];

	fill_block(77, slot, p);
	OK(fs_write(world.v.fs, &root, world.ino, slot * BLOCK_SIZE, BLOCK_SIZE, p, false));
	world_home(&world);
}

static void live_has_less(void)
{
	put_slot(3);
}
static void newer_snapshot_has_less(void)
{
	put_slot(3);
	snap("less");
	leave();
}
static void went_back_since(void)
{
	put_slot(3);
	snap("less");
	leave();
	snap("none");
	OK(fs_snap_rollback(world.v.fs, &root, "less", false));
	leave();
}

/* Damage of a slot that only an older snapshot has in a frame that newer leaves are in, too. */
static void damage_of_a_slot_that_newer_leaves_have_left_is_found(void **state)
{
	static void (*const ways[])(void) = {live_has_less, newer_snapshot_has_less, went_back_since};
	unsigned n_only = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		begin("lz4", PAST_JOURNAL);
		struct scrub_world old = view_of("old", 1);
		ways[i]();
		world.mood = PEER_RIGHT;
		for (uint32_t off = 0; off < frame.bytes; off += 23) {
			uint16_t bad = flip(&old, off);

			if (!bad) { /* the bit said nothing */
				flip(&old, off);
				continue;
			}
			n_only += bad == 1u << 3;
			struct scrub_pass p = scrub();
			assert_true(p.bad_blocks > 0);
			assert_int_equal(p.repaired_blocks, p.bad_blocks);
			is_original();
		}
		is_whole(&old);
		end();
	}
	assert_true(n_only >= ARRAY_SIZE(ways));
}

/* Whatever of the write the disk has when the power goes: what could be read before still can, and with a peer all is whole. */
static void a_crash_at_any_moment_makes_nothing_worse(void **state, const char *policy, enum damage_kind kind)
{
	uint8_t bad[PACK_BLOCKS_MAX * BLOCK_SIZE];
	uint16_t readable = 0;

	(void)state;
	begin(policy, PAST_JOURNAL);
	leave();
	struct scrub_world old = view_of("old", 1);
	damage(frame.n_blocks > 2 ? 1 : 0, kind);
	for (uint32_t i = 0; i < frame.n_blocks; i++)
		at_frame(i, false, bad + i * BLOCK_SIZE);
	struct leaf l = leaf_of(old.ino);
	if (packed_verify(world.v.fs, &l, UINT16_MAX, LEAF_SLOTS, NULL, &readable) < 0)
		readable = 0;
	for (unsigned seed = 0; seed < 64; seed++) {
		struct rng g = {.state = seed + 1};
		uint16_t now;

		print_message("seed %u\n", seed);
		for (uint32_t i = 0; i < frame.n_blocks; i++) { /* any sectors of it */
			uint8_t p[BLOCK_SIZE];

			for (size_t s = 0; s < BLOCK_SIZE; s += 512)
				memcpy(p + s, (rng_u64(&g) % 2 ? bad : original) + i * BLOCK_SIZE + s, 512);
			at_frame(i, true, p);
		}
		if (packed_verify(world.v.fs, &l, UINT16_MAX, LEAF_SLOTS, NULL, &now) < 0)
			now = 0;
		assert_int_equal(now & readable, readable);
		world.mood = PEER_RIGHT;
		struct scrub_pass p = scrub();
		assert_int_equal(p.repaired_blocks, p.bad_blocks);
		is_whole(&old);
	}
	end();
}

static void what_a_power_cut_leaves_of_the_write_is_repaired(void **state)
{
	for (unsigned kind = 0; kind < KINDS; kind++) {
		a_crash_at_any_moment_makes_nothing_worse(state, "lz4", (enum damage_kind)kind);
		a_crash_at_any_moment_makes_nothing_worse(state, "zstd", (enum damage_kind)kind);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_only_a_snapshot_has_is_repaired_from_a_peer),
	    cmocka_unit_test(and_from_the_journal),
	    cmocka_unit_test(and_from_another_copy),
	    cmocka_unit_test(and_from_several_of_them),
	    cmocka_unit_test(what_the_live_file_has_too_is_repaired_for_both),
	    cmocka_unit_test(a_reader_of_the_snapshot_is_served),
	    cmocka_unit_test(who_lies_or_has_nothing_changes_nothing),
	    cmocka_unit_test(what_the_disk_does_not_keep_stays_damage),
	    cmocka_unit_test(a_frame_that_each_snapshot_has_less_of_is_repaired_for_all),
	    cmocka_unit_test(damage_of_a_slot_that_newer_leaves_have_left_is_found),
	    cmocka_unit_test(what_a_power_cut_leaves_of_the_write_is_repaired),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
