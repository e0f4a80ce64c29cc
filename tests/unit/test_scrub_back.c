/*
 * test_scrub_back.c: a pass after going back to snapshots.  By enumeration of short histories: each block that the live tree or
 * any snapshot has is read once, and whichever of them is damaged is named and repaired.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>

#include "tests/lib/history.h"
#include "tests/unit/scrub_world.h"

#define OK(call) assert_int_equal(call, 0)
#define PLACES   256u
#define LENGTH   4u
#define SNAPS    16u

static struct scrub_world world;
static unsigned n_names;

/* Letters: a block is written, of one leaf or the other, or of the other one as a clone (c); a snapshot is made; the oldest or
 * newest goes, at once or (N) not yet with what is on its list; the tree is set back to the oldest or newest, or (k) to the
 * oldest and the present is kept. */
static const char letters[] = "01csonNBbk";

struct names {
	char name[SNAPS][RECORD_NAME_MAX + 1];
	unsigned n;
};

static int add_name(void *ctx, const struct fs_snap *s)
{
	struct names *names = ctx;

	assert_true(names->n < SNAPS);
	memcpy(names->name[names->n++], s->name, sizeof(s->name));
	return 0;
}

static struct names snapshots(void)
{
	struct names names = {.n = 0};

	OK(fs_snap_each(world.v.fs, false, add_name, &names));
	return names;
}

static void home_all(void)
{
	bool more = true;

	OK(fs_sync(world.v.fs));
	while (more)
		OK(fs_home_step(world.v.fs, 4096, &more));
	OK(fs_checkpoint(world.v.fs));
}

static void step_all(void)
{
	for (bool more = true; more;)
		OK(fs_snap_step(world.v.fs, &more));
}

static void put_block(uint64_t block)
{
	uint8_t data[BLOCK_SIZE];

	world.ino = world.v.file;
	fill_block(++world.seed, block, data);
	OK(fs_write(world.v.fs, &root, world.v.file, block * BLOCK_SIZE, sizeof(data), data, false));
}

/* The block of one leaf is the one of the other, too. */
static void clone_block(void)
{
	size_t n;

	home_all(); /* what waits in the ring would be copied */
	OK(fs_copy_range(world.v.fs, &root, world.v.file, 0, world.v.file, LEAF_SLOTS * BLOCK_SIZE, BLOCK_SIZE, &n));
	assert_int_equal(n, BLOCK_SIZE);
	assert_true(slot_of(&world, 0).home == slot_of(&world, LEAF_SLOTS).home);
}

/* False when there is nothing to do it with, or another letter does the same. */
static bool act(char letter)
{
	struct names names = snapshots();
	char name[16];

	if (letter == '0' || letter == '1') {
		put_block(letter == '0' ? 0 : LEAF_SLOTS + 3);
		return true;
	}
	if (letter == 'c') {
		clone_block();
		return true;
	}
	if (letter == 's') {
		snprintf(name, sizeof(name), "s%u", n_names++);
		OK(fs_snap_create(world.v.fs, &root, name));
		return true;
	}
	if (names.n == 0 || (names.n == 1 && strchr("nb", letter)))
		return false;
	bool oldest = strchr("oBk", letter) != NULL;
	const char *which = names.name[oldest ? 0 : names.n - 1];
	if (strchr("onN", letter))
		OK(fs_snap_delete(world.v.fs, &root, which));
	else
		OK(fs_snap_rollback(world.v.fs, &root, which, letter == 'k'));
	if (letter == 'o' || letter == 'n')
		step_all();
	return true;
}

/* ---- what there is ---- */

struct place {
	uint64_t ino, block;
	pointer_t home;
};
static struct place places[PLACES];
static unsigned n_places;
static unsigned n_again; /* the live tree has so many more times: each file is read whole */

static void add_place(uint64_t ino, uint64_t block, pointer_t home)
{
	for (unsigned i = 0; i < n_places; i++)
		if (places[i].home == home) {
			n_again += !snap_is_ino(ino);
			return;
		}
	assert_true(n_places < PLACES);
	places[n_places++] = (struct place){ino, block, home};
}

static void add_file(uint64_t ino)
{
	struct leaf l;

	for (uint64_t leaf = 0; leaf < 2; leaf++) {
		icache_rdlock(world.v.fs->icache, ino);
		OK(extent_get(world.v.fs, ino, leaf, &l));
		icache_rdunlock(world.v.fs->icache, ino);
		for (unsigned i = 0; i < LEAF_SLOTS; i++)
			if (l.slot[i].home)
				add_place(ino, leaf * LEAF_SLOTS + i, l.slot[i].home);
	}
}

static uint64_t file_of(const char *name)
{
	struct fs_attr dir, file;
	uint64_t at;

	OK(fs_snap_root(world.v.fs, name, &at));
	OK(fs_lookup(world.v.fs, at, "sub", &dir));
	OK(fs_lookup(world.v.fs, dir.ino, "name", &file));
	return file.ino;
}

static void find_places(void)
{
	struct names names = snapshots();

	n_places = n_again = 0;
	add_file(world.v.file);
	for (unsigned i = 0; i < names.n; i++)
		add_file(file_of(names.name[i]));
}

/* ---- the pass ---- */

static struct scrub_pass scrub(void)
{
	world_now_ns += 60 * NSEC_PER_SEC;
	OK(scrub_command(world.v.fs, "start"));
	return scrub_to_the_end(world.v.fs);
}

static void flip(pointer_t home)
{
	char name[64];
	uint64_t off;
	uint8_t byte;

	place_of_home(&world, home, name, &off);
	simstore_peek(world.v.sim, name, &byte, 1, off + 77);
	byte ^= 0x08;
	simstore_poke(world.v.sim, name, &byte, 1, off + 77);
}

static void each_is_repaired(void)
{
	world.mood = PEER_EVERYTHING;
	for (unsigned i = 0; i < n_places; i++) {
		flip(places[i].home);
		struct scrub_pass p = scrub();
		SAME(p.bad_blocks, 1);
		SAME(p.repaired_blocks, 1);
		SAME(p.bad_rows + p.errors, 0);
	}
}

static void each_is_read_once(void)
{
	struct scrub_pass p = scrub();

	SAME(p.checked_bytes / BLOCK_SIZE, n_places + n_again);
	SAME(p.bad_blocks + p.bad_rows + p.errors, 0);
}

static bool history(const char *text)
{
	bool done = true;

	snprintf(said, sizeof(said), "%s", text);
	world_now_ns = NSEC_PER_SEC;
	n_names = 0;
	world_open(&world);
	for (; *text && done; text++)
		done = act(*text);
	if (done) {
		home_all();
		find_places();
		each_is_read_once();
		each_is_repaired();
		SAME(fsck(world.v.fs), 0);
	}
	world_close(&world);
	return done;
}

static void after_each_history_every_block_is_read_once_and_repaired(void **state)
{
	unsigned long n = sizeof(letters) - 1, count = 1, n_done = 0;

	(void)state;
	for (unsigned i = 0; i < LENGTH; i++)
		count *= n;
	for (unsigned long number = 0; number < count; number++) {
		char text[16] = "01s";
		unsigned long rest = number;

		for (unsigned i = 0; i < LENGTH; i++, rest /= n)
			text[3 + i] = letters[rest % n];
		n_done += history(text);
	}
	assert_true(n_done > count / 4);
	print_message("%lu histories\n", n_done);
}

/* Longer ones that the change was made for. */
static void what_only_older_snapshots_have_is_met_on_lists_of_newer_ones(void **state)
{
	static const char *const texts[] = {
	    "01s0sB0",         /* the oldest one's, on the list of the newest */
	    "01s0s1sB01",      /* of two files' parts, past one that has it, too */
	    "01s0s1sk01sn",    /* and the list moved on */
	    "01s0s1sk01so",    /* and nobody has it any more */
	    "01s0s1sk01sN",    /* the list of one that is being deleted */
	    "01s0s1sB01NN",    /* of two */
	    "01s0s0sB0sb1sB0", /* there and back again */
	    "0cs0s1sB01",      /* a clone's */
	    "0cs1s0sbB0s1",    /* which one of the two gave up before */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		assert_true(history(texts[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_only_older_snapshots_have_is_met_on_lists_of_newer_ones),
	    cmocka_unit_test(after_each_history_every_block_is_read_once_and_repaired),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
