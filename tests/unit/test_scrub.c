/* test_scrub.c: fs/core/scrub/: damage of every kind on every block: found, named, repaired from who has it, never from a liar.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <stdio.h>

#include "tests/unit/scrub_world.h"

#define BLOCKS 70u /* five leaves, the last one not full */

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

/* ---- on read ---- */

static void every_block_damaged_in_every_way_is_repaired_on_read_at_a_new_place(void **state)
{
	struct fs *fs = world.v.fs;

	(void)state;
	world.mood = PEER_RIGHT;
	for (uint64_t block = 0; block < BLOCKS; block++)
		for (enum damage_kind kind = 0; kind < DAMAGE_KINDS; kind++) {
			pointer_t was = damage_block(&world, block, kind);

			assert_int_equal(read_block(&world, block), 0);
			assert_true(slot_of(&world, block).home != was);
			assert_true(quarantine_has(fs, was));
			assert_true(arena_is_used(fs->arena, was));
			world.bad.on = false;
		}
	assert_int_equal(quarantine_count(fs), BLOCKS * DAMAGE_KINDS);
	assert_int_equal(world.asked, BLOCKS * DAMAGE_KINDS);
	world_reopen(&world, false);
	for (uint64_t block = 0; block < BLOCKS; block++)
		assert_int_equal(read_block(&world, block), 0);
	assert_int_equal(quarantine_count(world.v.fs), BLOCKS * DAMAGE_KINDS);
	assert_int_equal(fsck(world.v.fs), 0);
}

static void without_a_source_exactly_the_damaged_block_is_eio_and_its_path_is_named(void **state)
{
	static const enum peer_mood moods[] = {PEER_ABSENT, PEER_HAS_NOTHING, PEER_LIES, PEER_SILENT};
	struct fs *fs = world.v.fs;

	(void)state;
	for (size_t m = 0; m < ARRAY_SIZE(moods); m++)
		for (enum damage_kind kind = 0; kind < DAMAGE_KINDS; kind++) {
			uint64_t bad = 3 + 4 * kind + 13 * m;

			world.mood = moods[m];
			world_now_ns += 60 * NSEC_PER_SEC;
			damage_block(&world, bad, kind);
			for (uint64_t block = bad - 1; block <= bad + 1; block++)
				assert_int_equal(read_block(&world, block), block == bad ? -EBADMSG : 0);
			assert_true(strstr(fs->damage, "/sub/name") != NULL);
			assert_true(damage_is_bad(fs, world.ino, bad));
			world.mood = PEER_RIGHT; /* and it comes back as soon as somebody has it */
			world_now_ns += 60 * NSEC_PER_SEC;
			assert_int_equal(read_block(&world, bad), 0);
			assert_false(damage_is_bad(fs, world.ino, bad));
			world.bad.on = false;
		}
	assert_true(atomic_load(&fs->scrub->repairs.lies) >= DAMAGE_KINDS);
}

static void a_block_that_could_not_be_repaired_is_not_asked_for_with_each_read(void **state)
{
	(void)state;
	world.mood = PEER_HAS_NOTHING;
	damage_block(&world, 9, DAMAGE_FLIP);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(read_block(&world, 9), -EBADMSG);
	assert_int_equal(world.asked, 1);
	world_now_ns += 30 * NSEC_PER_SEC;
	assert_int_equal(read_block(&world, 9), -EBADMSG);
	assert_int_equal(world.asked, 2);
}

static void a_write_of_a_part_of_a_damaged_block_needs_the_rest(void **state)
{
	struct fs *fs = world.v.fs;
	uint8_t byte = 0xee;

	(void)state;
	damage_block(&world, 20, DAMAGE_FLIP);
	assert_int_equal(fs_write(fs, &root, world.ino, 20 * BLOCK_SIZE + 7, 1, &byte, false), -EBADMSG);
	world.mood = PEER_RIGHT;
	world_now_ns += 60 * NSEC_PER_SEC;
	assert_int_equal(fs_write(fs, &root, world.ino, 20 * BLOCK_SIZE + 7, 1, &byte, false), -EINPROGRESS);
	assert_int_equal(fs_recall(fs), 0);
	assert_int_equal(fs_write(fs, &root, world.ino, 20 * BLOCK_SIZE + 7, 1, &byte, false), 0);
}

static void data_damaged_in_the_ring_is_repaired_once_it_is_at_home(void **state)
{
	struct fs *fs = world.v.fs;
	uint8_t block[BLOCK_SIZE], page[BLOCK_SIZE];
	static uint64_t pages[65536];
	bool found = false;

	(void)state;
	world_fill(&world, 4);
	fill_block(world.seed, 2, block);
	for (unsigned i = 0; i < 4; i++) { /* until the batch is nowhere but in the ring */
		assert_int_equal(fs_sync(fs), 0);
		assert_int_equal(fs_write(fs, &root, world.ino, 3 * BLOCK_SIZE, BLOCK_SIZE, block, false), 0);
	}
	for (unsigned seg = 0; seg < 16; seg++) {
		char name[64];

		snprintf(name, sizeof(name), "journal/seg.%04u", seg);
		size_t n = simstore_written_pages(world.v.sim, name, pages, ARRAY_SIZE(pages));
		for (size_t i = 0; i < n; i++) {
			simstore_peek(world.v.sim, name, page, sizeof(page), pages[i] * BLOCK_SIZE);
			if (memcmp(page, block, sizeof(block)) != 0)
				continue;
			page[100] ^= 4;
			simstore_poke(world.v.sim, name, page, sizeof(page), pages[i] * BLOCK_SIZE);
			found = true;
		}
	}
	assert_true(found);
	assert_true(slot_of(&world, 2).staged);
	world.mood = PEER_RIGHT;
	assert_int_equal(read_block(&world, 2), 0);
	assert_false(slot_of(&world, 2).staged);
	assert_int_equal(atomic_load(&fs->scrub->repairs.repaired), 1);
	world_home(&world);
	assert_int_equal(fsck(fs), 0);
}

static void where_there_is_no_space_the_good_data_goes_where_the_bad_was(void **state)
{
	struct fs *fs = world.v.fs;
	uint64_t reserved = 0;

	(void)state;
	simstore_set_space(world.v.sim, 0); /* no further chunk */
	for (uint64_t n = 4096; n; n /= 2)
		while (arena_reserve(fs->arena, n) == 0)
			reserved += n;
	world.mood = PEER_RIGHT;
	pointer_t was = damage_block(&world, 33, DAMAGE_ZEROED);
	assert_int_equal(read_block(&world, 33), 0);
	assert_true(slot_of(&world, 33).home == was);
	assert_int_equal(atomic_load(&fs->scrub->repairs.in_place), 1);
	arena_unreserve(fs->arena, reserved);
	simstore_set_space(world.v.sim, UINT64_C(1) << 40);
	assert_int_equal(fsck(fs), 0);
}

/* ---- the pass ---- */

static void a_pass_finds_and_repairs_what_nobody_has_read(void **state)
{
	struct fs *fs = world.v.fs;
	uint64_t n = 0;

	(void)state;
	for (uint64_t block = 0; block < BLOCKS; block += 9, n++)
		damage_block(&world, block, (enum damage_kind)(block % DAMAGE_EIO));
	assert_int_equal(scrub_command(fs, "start"), 0);
	struct scrub_pass p = scrub_to_the_end(fs);
	assert_int_equal(p.state, SCRUB_DONE);
	assert_int_equal(p.checked_bytes, BLOCKS * BLOCK_SIZE);
	assert_int_equal(p.bad_blocks, n);
	assert_int_equal(p.repaired_blocks, 0);
	assert_int_equal(fsck(fs), n);
	world.mood = PEER_RIGHT;
	world_now_ns += 60 * NSEC_PER_SEC;
	assert_int_equal(scrub_command(fs, "start rate=1M"), 0);
	p = scrub_to_the_end(fs);
	assert_int_equal(p.bad_blocks, n);
	assert_int_equal(p.repaired_blocks, n);
	assert_int_equal(p.bad_rows, 0);
	assert_int_equal(quarantine_count(fs), n);
	assert_int_equal(fsck(fs), 0);
	assert_int_equal(scrub_command(fs, "start"), 0);
	p = scrub_to_the_end(fs);
	assert_int_equal(p.bad_blocks, 0);
}

static void a_pass_goes_on_after_a_kill_wherever_it_was_and_misses_nothing(void **state)
{
	struct fs *fs = world.v.fs;
	unsigned steps = 0;
	bool more = true;

	(void)state;
	damage_block(&world, 1, DAMAGE_FLIP);
	damage_block(&world, BLOCKS - 1, DAMAGE_ZEROED);
	assert_int_equal(scrub_command(fs, "start"), 0);
	for (; more; steps++)
		assert_int_equal(fs_scrub_step(fs, &more), 0);
	for (unsigned cut = 0; cut < steps; cut++) {
		assert_int_equal(scrub_command(world.v.fs, "start"), 0);
		for (unsigned i = 0; i < cut; i++)
			assert_int_equal(fs_scrub_step(world.v.fs, &more), 0);
		assert_int_equal(fs_checkpoint(world.v.fs), 0);
		struct scrub_pass at, end;
		scrub_get(world.v.fs, &at);
		world_reopen(&world, true);
		scrub_get(world.v.fs, &end);
		assert_memory_equal(end.cursor, at.cursor, at.cursor_len);
		assert_int_equal(end.checked_bytes, at.checked_bytes);
		end = scrub_to_the_end(world.v.fs);
		assert_int_equal(end.checked_bytes, BLOCKS * BLOCK_SIZE);
		assert_int_equal(end.bad_blocks, 2);
		assert_int_equal(end.pass, cut + 2);
	}
	assert_true(steps > 6);
}

static void commands_follow_the_states(void **state)
{
	static const struct {
		const char *text;
		int result;
		enum scrub_state after;
	} acts[] = {
	    {"pause", -ENOENT, SCRUB_IDLE},
	    {"resume", -ENOENT, SCRUB_IDLE},
	    {"stop", -ENOENT, SCRUB_IDLE},
	    {"start", 0, SCRUB_RUNNING},
	    {"start", -EALREADY, SCRUB_RUNNING},
	    {"resume", -EALREADY, SCRUB_RUNNING},
	    {"pause", 0, SCRUB_PAUSED},
	    {"pause", -EALREADY, SCRUB_PAUSED},
	    {"start rate=2M", 0, SCRUB_RUNNING},
	    {"pause", 0, SCRUB_PAUSED},
	    {"resume", 0, SCRUB_RUNNING},
	    {"stop", 0, SCRUB_IDLE},
	    {"", -EINVAL, SCRUB_IDLE},
	    {"  ", -EINVAL, SCRUB_IDLE},
	    {"start rate=63K", -EINVAL, SCRUB_IDLE},
	    {"start rate=", -EINVAL, SCRUB_IDLE},
	    {"start rate=2M2", -EINVAL, SCRUB_IDLE},
	    {"start rate=2T", -EINVAL, SCRUB_IDLE},
	    {"start rate=-1", -EINVAL, SCRUB_IDLE},
	    {"start warm", -EINVAL, SCRUB_IDLE},
	    {"pause now", -EINVAL, SCRUB_IDLE},
	    {"release it", -EINVAL, SCRUB_IDLE},
	    {"release", 0, SCRUB_IDLE},
	    {" start  cold  rate=64K ", 0, SCRUB_RUNNING},
	};
	struct scrub_pass p;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(acts); i++) {
		assert_int_equal(scrub_command(world.v.fs, acts[i].text), acts[i].result);
		scrub_get(world.v.fs, &p);
		assert_int_equal(p.state, acts[i].after);
	}
	assert_int_equal(p.rate, 64 * KIB);
	assert_true(p.cold);
}

static void a_row_of_the_pass_or_the_table_that_cannot_be_is_passed_over(void **state)
{
	struct scrub_pass p = {.state = SCRUB_PAUSED, .phase = PHASE_DATA, .cursor_len = 18, .rate = MIB, .pass = 3}, again;
	uint8_t row[144];
	unsigned refused = 0;

	(void)state;
	scrub_row_encode(&p, row);
	assert_int_equal(scrub_row_decode((struct slice){row, sizeof(row)}, &again), 0);
	assert_memory_equal(&p, &again, sizeof(p));
	for (size_t len = 0; len < sizeof(row); len++)
		assert_int_equal(scrub_row_decode((struct slice){row, len}, &again), -EUCLEAN);
	for (size_t bit = 0; bit < 64; bit++) { /* what bounds something */
		row[bit / 8] ^= (uint8_t)(1u << bit % 8);
		refused += scrub_row_decode((struct slice){row, sizeof(row)}, &again) == -EUCLEAN;
		row[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_true(refused > 48);
}

/* ---- giving up, quarantine ---- */

static void clear_makes_a_hole_of_the_damaged_block_and_of_no_other(void **state)
{
	struct fs *fs = world.v.fs;

	(void)state;
	pointer_t was = damage_block(&world, 40, DAMAGE_TORN);
	assert_int_equal(read_block(&world, 40), -EBADMSG);
	assert_int_equal(scrub_clear(fs, world.ino), 0);
	assert_false(slot_used(&(struct slot){0}) || slot_has_data(&(struct slot){0}));
	struct slot s = slot_of(&world, 40);
	assert_false(slot_used(&s));
	for (uint64_t block = 0; block < BLOCKS; block++)
		if (block != 40)
			assert_int_equal(read_block(&world, block), 0);
	assert_false(damage_is_bad(fs, world.ino, 40));
	assert_true(quarantine_has(fs, was) && arena_is_used(fs->arena, was));
	world_reopen(&world, true);
	s = slot_of(&world, 40);
	assert_false(slot_used(&s));
	assert_int_equal(fsck(world.v.fs), 0);
	assert_int_equal(scrub_clear(world.v.fs, world.v.dir), -EINVAL);
	assert_int_equal(scrub_clear(world.v.fs, 999), -ENOENT);
}

static void clear_repairs_what_can_be_repaired(void **state)
{
	(void)state;
	damage_block(&world, 8, DAMAGE_FLIP);
	assert_int_equal(read_block(&world, 8), -EBADMSG);
	world.mood = PEER_RIGHT;
	assert_int_equal(scrub_clear(world.v.fs, world.ino), 0);
	assert_int_equal(read_block(&world, 8), 0);
}

static void a_block_in_quarantine_is_given_back_only_when_nobody_names_it_and_it_keeps_what_is_written(void **state)
{
	struct fs *fs = world.v.fs;

	(void)state;
	pointer_t named = damage_block(&world, 50, DAMAGE_FLIP);
	assert_int_equal(read_block(&world, 50), -EBADMSG);
	assert_int_equal(scrub_command(fs, "release"), 0);
	assert_true(quarantine_has(fs, named)); /* its slot has it still */
	assert_true(slot_of(&world, 50).home == named);
	assert_int_equal(scrub_clear(fs, world.ino), 0);
	assert_int_equal(scrub_command(fs, "release"), 0);
	assert_false(quarantine_has(fs, named));
	assert_false(arena_is_used(fs->arena, named));
	assert_int_equal(fsck(fs), 0);
	world_reopen(&world, false);
	assert_int_equal(quarantine_count(world.v.fs), 0);
	assert_int_equal(fsck(world.v.fs), 0);
}

static void other_data_in_its_place_ends_the_damage_and_the_bad_block_is_not_used_again(void **state)
{
	struct fs *fs = world.v.fs;
	uint8_t *p = aligned_alloc(DISK_BLOCK, 128 * KIB);

	(void)state;
	pointer_t was = damage_block(&world, 10, DAMAGE_ZEROED);
	assert_int_equal(read_block(&world, 10), -EBADMSG);
	world.seed++;
	for (uint64_t i = 0; i < 32; i++)
		fill_block(world.seed, i, p + i * BLOCK_SIZE);
	assert_int_equal(fs_write(fs, &root, world.ino, 0, 128 * KIB, p, false), 0); /* to new blocks */
	free(p);
	assert_false(damage_is_bad(fs, world.ino, 10));
	assert_int_equal(read_block(&world, 10), 0);
	world_home(&world);
	world_home(&world);
	assert_true(quarantine_has(fs, was) && arena_is_used(fs->arena, was));
	assert_int_equal(fsck(fs), 0);
}

/* ---- snapshots ---- */

static uint64_t ino_in_snapshot(struct fs *fs, const char *name)
{
	struct fs_attr dir, file;
	uint64_t top;

	assert_int_equal(fs_snap_root(fs, name, &top), 0);
	assert_int_equal(fs_lookup(fs, top, "sub", &dir), 0);
	assert_int_equal(fs_lookup(fs, dir.ino, "name", &file), 0);
	return file.ino;
}

/* The world's reader and peer, of the snapshot's file with the content of that time. */
static struct scrub_world in_snapshot(uint64_t ino, uint64_t seed)
{
	struct scrub_world s = world;

	s.ino = ino;
	s.seed = seed;
	return s;
}

static void a_block_that_a_snapshot_shares_is_repaired_where_it_is_for_both(void **state)
{
	struct fs *fs = world.v.fs;

	(void)state;
	assert_int_equal(fs_snap_create(fs, &root, "s"), 0);
	struct scrub_world s = in_snapshot(ino_in_snapshot(fs, "s"), world.seed);
	world.mood = PEER_RIGHT;
	pointer_t was = damage_block(&world, 12, DAMAGE_FLIP);
	assert_int_equal(read_block(&world, 12), 0);
	assert_true(slot_of(&world, 12).home == was);
	assert_false(quarantine_has(fs, was));
	assert_int_equal(read_block(&s, 12), 0);
	assert_int_equal(fsck(fs), 0);
}

static void a_block_of_a_snapshot_is_repaired_through_the_snapshot(void **state)
{
	struct fs *fs = world.v.fs;

	(void)state;
	assert_int_equal(fs_snap_create(fs, &root, "s"), 0);
	struct scrub_world s = in_snapshot(ino_in_snapshot(fs, "s"), world.seed);
	damage_block(&world, 12, DAMAGE_ZEROED);
	assert_int_equal(read_block(&s, 12), -EBADMSG);
	assert_int_equal(read_block(&s, 11), 0);
	world.mood = PEER_RIGHT;
	world_now_ns += 60 * NSEC_PER_SEC;
	assert_int_equal(read_block(&s, 12), 0);
	assert_int_equal(read_block(&world, 12), 0);
	assert_int_equal(world.asked, 1);
}

static void a_failed_block_of_a_snapshot_that_goes_is_not_used_again(void **state)
{
	struct fs *fs = world.v.fs;
	uint8_t *p = aligned_alloc(DISK_BLOCK, 128 * KIB);

	(void)state;
	assert_int_equal(fs_snap_create(fs, &root, "s"), 0);
	struct scrub_world s = in_snapshot(ino_in_snapshot(fs, "s"), world.seed);
	pointer_t was = damage_block(&world, 12, DAMAGE_TORN);
	memset(p, 7, 128 * KIB);
	assert_int_equal(fs_write(fs, &root, world.ino, 0, 128 * KIB, p, false), 0);
	free(p);
	assert_int_equal(read_block(&s, 12), -EBADMSG);
	assert_true(quarantine_has(fs, was));
	assert_int_equal(scrub_command(fs, "release"), 0);
	assert_true(quarantine_has(fs, was));
	assert_int_equal(fs_forget_all(fs), 0);
	assert_int_equal(fs_snap_delete(fs, &root, "s"), 0);
	steps_snaps(fs);
	assert_true(arena_is_used(fs->arena, was));
	assert_int_equal(fsck(fs), 0);
	assert_int_equal(scrub_command(fs, "release"), 0);
	assert_false(quarantine_has(fs, was) || arena_is_used(fs->arena, was));
	assert_int_equal(fsck(fs), 0);
}

/* ---- the table ---- */

static void the_table_is_bounded_in_files_and_blocks_and_counts_the_rest(void **state)
{
	struct fs *fs = world.v.fs;
	struct damage_sum sum;

	(void)state;
	for (uint64_t ino = 1000; ino < 1000 + DAMAGE_FILES_MAX; ino++)
		assert_true(damage_note(fs, ino, ino));
	assert_false(damage_note(fs, 5, 5));
	assert_true(damage_note(fs, 1000, 7)); /* of a file it has */
	damage_get_sum(fs, &sum);
	assert_int_equal(sum.n_files, DAMAGE_FILES_MAX);
	assert_int_equal(sum.beyond, 1);
	damage_repaired(fs, 1500, 1500);
	assert_true(damage_note(fs, 5, 5)); /* what was repaired makes room */
	for (uint64_t block = 100; block < 100 + DAMAGE_BLOCKS_MAX; block++)
		damage_note(fs, 1000, block);
	damage_get_sum(fs, &sum);
	assert_int_equal(sum.n_bad + sum.n_repaired, DAMAGE_BLOCKS_MAX);
	assert_int_equal(fs_checkpoint(fs), 0);
	world_reopen(&world, true);
	damage_get_sum(world.v.fs, &sum);
	assert_int_equal(sum.n_bad + sum.n_repaired, DAMAGE_BLOCKS_MAX);
	damage_forget(world.v.fs, 1000, UINT64_MAX);
	assert_false(damage_is_bad(world.v.fs, 1000, 100));
	world_reopen(&world, false);
	assert_false(damage_is_bad(world.v.fs, 1000, 100));
	assert_true(damage_is_bad(world.v.fs, 1001, 1001));
}

static void what_is_said_is_json_of_bounded_size_and_all_pages_have_all_files(void **state)
{
	struct fs *fs = world.v.fs;
	struct fs_attr a;
	char name[200];
	size_t n = 0;

	(void)state;
	memset(name, 'n', sizeof(name));
	name[199] = '\0';
	for (unsigned i = 0; i < 700; i++) {
		snprintf(name + 190, 9, "%08u", i);
		assert_int_equal(fs_mknod(fs, &root, world.v.dir, name, S_IFREG | 0644, 0, &a), 0);
		damage_note(fs, a.ino, i);
	}
	for (json_int_t first = 0; first >= 0;) {
		CLEANUP_BUF struct buf out = {0};

		assert_int_equal(fs_scrub_text(fs, (uint64_t)first, &out), 0);
		assert_true(out.len <= 64 * KIB);
		json_t *o = json_loadb((const char *)out.p, out.len, 0, NULL);
		assert_non_null(o);
		n += json_array_size(json_object_get(o, "files"));
		const json_t *next = json_object_get(o, "next_file");
		assert_true(!next || json_integer_value(next) > first);
		first = next ? json_integer_value(next) : -1;
		json_decref(o);
	}
	assert_int_equal(n, 700);
}

static void health_is_told_in_words(void **state)
{
	struct fs *fs = world.v.fs;
	static const char *const want[] = {"unchecked", "damaged blocks=2 seen=", "ok checked=", "repaired blocks=1 repaired="};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
		CLEANUP_BUF struct buf out = {0};

		if (i == 1) {
			damage_note(fs, world.ino, 1);
			damage_note(fs, world.ino, 2);
		} else if (i == 2) {
			damage_forget(fs, world.ino, UINT64_MAX);
			assert_int_equal(scrub_command(fs, "start"), 0);
			scrub_to_the_end(fs);
		} else if (i == 3) {
			damage_note(fs, world.ino, 2);
			damage_repaired(fs, world.ino, 2);
		}
		assert_int_equal(fs_health_text(fs, world.ino, &out), 0);
		buf_put_u8(&out, '\0');
		assert_int_equal(strncmp((const char *)out.p, want[i], strlen(want[i])), 0);
	}
}

/* ---- crashes ---- */

/*
 * A block is damaged, a read repairs it, a checkpoint follows; the power goes after each event in between, in each way.
 * Afterwards the volume is sound, and the block is whole or still damaged; with a peer it is whole again.
 */
static void a_crash_at_any_moment_of_a_repair_leaves_a_sound_volume(void **state)
{
	struct simcut *cut = simcut_new(world.v.sim);
	unsigned cuts = 0, whole = 0;
	uint8_t bad[BLOCK_SIZE];
	char name[64];
	uint64_t off;

	(void)state;
	pointer_t was = damage_block(&world, 30, DAMAGE_MISDIRECTED);
	place_of_home(&world, was, name, &off);
	simstore_peek(world.v.sim, name, bad, sizeof(bad), off);
	world.mood = PEER_RIGHT;
	uint64_t first = simstore_count(world.v.sim);
	assert_int_equal(read_block(&world, 30), 0);
	assert_int_equal(fs_checkpoint(world.v.fs), 0);
	uint64_t last = simstore_count(world.v.sim);
	assert_true(last > first);
	for (uint64_t event = first; event <= last; event++) {
		simcut_advance(cut, event);
		for (enum simcut_variant how = 0; how < SIMCUT_VARIANTS; how++) {
			struct rng g = {.state = event * 31 + how};
			struct scrub_world after = {.v = world.v, .mood = PEER_ABSENT, .ino = world.ino, .seed = world.seed};

			after.v.sim = simcut_image(cut, how, &g, false);
			simstore_poke(after.v.sim, name, bad, sizeof(bad), off);
			after.v.index = kv_disk_at(world.v.index, event, after.v.sim);
			after.v.config.kv_ctx = after.v.index;
			after.v.config.store = badstore_open(simstore_open(after.v.sim), &after.bad);
			assert_int_equal(fs_open(&after.v.config, &after.v.fs), 0);
			world_hooks(&after);
			uint64_t damaged = fsck(after.v.fs);
			assert_true(damaged <= 1);
			assert_int_equal(read_block(&after, 30), damaged ? -EBADMSG : 0);
			whole += !damaged;
			after.mood = PEER_RIGHT;
			world_now_ns += 60 * NSEC_PER_SEC;
			assert_int_equal(read_block(&after, 30), 0);
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
	    CASE(every_block_damaged_in_every_way_is_repaired_on_read_at_a_new_place),
	    CASE(without_a_source_exactly_the_damaged_block_is_eio_and_its_path_is_named),
	    CASE(a_block_that_could_not_be_repaired_is_not_asked_for_with_each_read),
	    CASE(a_write_of_a_part_of_a_damaged_block_needs_the_rest),
	    CASE(data_damaged_in_the_ring_is_repaired_once_it_is_at_home),
	    CASE(where_there_is_no_space_the_good_data_goes_where_the_bad_was),
	    CASE(a_pass_finds_and_repairs_what_nobody_has_read),
	    CASE(a_pass_goes_on_after_a_kill_wherever_it_was_and_misses_nothing),
	    CASE(commands_follow_the_states),
	    CASE(a_row_of_the_pass_or_the_table_that_cannot_be_is_passed_over),
	    CASE(clear_makes_a_hole_of_the_damaged_block_and_of_no_other),
	    CASE(clear_repairs_what_can_be_repaired),
	    CASE(a_block_in_quarantine_is_given_back_only_when_nobody_names_it_and_it_keeps_what_is_written),
	    CASE(other_data_in_its_place_ends_the_damage_and_the_bad_block_is_not_used_again),
	    CASE(a_block_that_a_snapshot_shares_is_repaired_where_it_is_for_both),
	    CASE(a_block_of_a_snapshot_is_repaired_through_the_snapshot),
	    CASE(a_failed_block_of_a_snapshot_that_goes_is_not_used_again),
	    CASE(the_table_is_bounded_in_files_and_blocks_and_counts_the_rest),
	    CASE(what_is_said_is_json_of_bounded_size_and_all_pages_have_all_files),
	    CASE(health_is_told_in_words),
	    CASE(a_crash_at_any_moment_of_a_repair_leaves_a_sound_volume),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
