/*
 * test_squeeze_clone.c: files that are packed, or were until a moment ago, and clones of them: what is shared, what is copied,
 * and that a recovery, which may begin with the source still packed, has both.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "fs/core/core.h"
#include "fs/core/squeeze/squeeze.h"
#include "tests/lib/simstore.h"
#include "tests/lib/steps.h"
#include "volume.h"

#define OK(call) assert_int_equal(call, 0)

static uint8_t want[LEAF_SLOTS * BLOCK_SIZE];

static uint64_t make_file(struct fs *fs, const char *name)
{
	struct fs_attr a;

	OK(fs_mknod(fs, &root, FS_ROOT_INO, name, S_IFREG | 0644, 0, &a));
	fs_forget(fs, a.ino, 1);
	return a.ino;
}

static void settle(struct fs *fs)
{
	bool more = true;

	steps_home(fs);
	while (more)
		OK(fs_squeeze_step(fs, &more));
	OK(fs_checkpoint(fs));
}

static void unpack(struct fs *fs, uint64_t ino)
{
	bool more = true;

	OK(fs_set_policy(fs, &root, ino, "compression", "off"));
	OK(fs_compress(fs, ino));
	while (more)
		OK(fs_squeeze_step(fs, &more));
}

static bool is_packed(struct fs *fs, uint64_t ino)
{
	struct leaf l;

	OK(extent_get(fs, ino, 0, &l));
	return l.pack.n_blocks > 0;
}

/* One call; true when the target's blocks are those of the source. */
static bool copy(struct fs *fs, uint64_t from, uint64_t to)
{
	struct leaf a, b;
	size_t n;

	for (uint64_t done = 0; done < sizeof(want); done += n)
		OK(fs_copy_range(fs, &root, from, done, to, done, sizeof(want) - done, &n));
	OK(extent_get(fs, from, 0, &a));
	OK(extent_get(fs, to, 0, &b));
	return b.slot[0].home && a.slot[0].home == b.slot[0].home;
}

static void check(struct fs *fs, uint64_t ino)
{
	static uint8_t room[sizeof(want) + 2 * BLOCK_SIZE] __attribute__((aligned(DISK_BLOCK)));
	size_t n;
	void *at;

	OK(fs_read(fs, ino, 0, sizeof(want), room, &at, &n));
	assert_int_equal(n, sizeof(want));
	assert_memory_equal(at, want, sizeof(want));
	assert_sound(fs);
}

/* A file that a checkpoint has packed. */
static uint64_t open_packed(struct volume *v)
{
	*v = (struct volume){.sim = simstore_new()};
	volume_make(v, simstore_open(v->sim), NULL);
	uint64_t ino = make_file(v->fs, "a");

	memset(want, 'x', sizeof(want));
	OK(fs_set_policy(v->fs, &root, ino, "compression", "lz4"));
	OK(fs_write(v->fs, &root, ino, 0, sizeof(want), want, false));
	settle(v->fs);
	assert_true(is_packed(v->fs, ino));
	return ino;
}

static void what_is_packed_is_copied(void **state)
{
	struct volume v;
	uint64_t from = open_packed(&v), to = make_file(v.fs, "b");

	(void)state;
	assert_false(copy(v.fs, from, to));
	assert_true(is_packed(v.fs, from));
	OK(fs_sync(v.fs));
	volume_reopen(&v, true);
	check(v.fs, from);
	check(v.fs, to);
	volume_close(&v);
}

static void other_files_of_the_volume_are_shared(void **state)
{
	struct volume v;

	(void)state;
	open_packed(&v);
	uint64_t from = make_file(v.fs, "raw"), to = make_file(v.fs, "b");
	OK(fs_write(v.fs, &root, from, 0, sizeof(want), want, false));
	settle(v.fs);
	assert_true(copy(v.fs, from, to));
	OK(fs_sync(v.fs));
	volume_reopen(&v, true);
	check(v.fs, from);
	check(v.fs, to);
	volume_close(&v);
}

/* The index that a recovery begins with has it packed: it must meet no CLONE of it. */
static void what_was_unpacked_is_shared_after_two_checkpoints(void **state)
{
	(void)state;
	for (unsigned checkpoints = 0; checkpoints < 4; checkpoints++) {
		struct volume v;
		uint64_t from = open_packed(&v), to = make_file(v.fs, "b");

		unpack(v.fs, from);
		assert_false(is_packed(v.fs, from));
		for (unsigned i = 0; i < checkpoints; i++) {
			make_file(v.fs, (char[]){(char)('p' + i), 0});
			OK(fs_checkpoint(v.fs));
		}
		assert_int_equal(copy(v.fs, from, to), checkpoints >= 2);
		OK(fs_sync(v.fs));
		volume_reopen(&v, true);
		assert_int_equal(is_packed(v.fs, from), checkpoints == 0);
		check(v.fs, from);
		check(v.fs, to);
		volume_close(&v);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_packed_is_copied),
	    cmocka_unit_test(other_files_of_the_volume_are_shared),
	    cmocka_unit_test(what_was_unpacked_is_shared_after_two_checkpoints),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
