/*
 * test_snap: deadlists against a model by enumeration, what may be called a snapshot, reading in one, and what is refused there.
 *
 * The model knows of each block only which write made its content.  A content that the live file or some snapshot has takes one
 * block, whoever has it: that is what deleting must leave, exactly.
 */
#include <errno.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fs/core/core.h"
#include "fs/core/snap/snap.h"
#include "memvolume.h"
#include "tests/lib/history.h"

#define OK(call) assert_int_equal(call, 0)

/* ---- a file of two blocks, and its model ---- */

#define SNAPS_CAP 8u

struct state {
	unsigned version[SLOTS]; /* which write it has; 0: none */
};
struct history {
	struct memvolume m;
	struct fs *fs; /* of m */
	struct state live, snap[SNAPS_CAP];
	unsigned name[SNAPS_CAP]; /* number in its name */
	unsigned n_snaps, n_names, n_writes;
};

enum letter { WRITE_0, WRITE_1, CUT, SNAP, DROP_OLDEST, DROP_NEWEST, STEP, HOME, LETTERS };
static const char letter_names[] = "01csonth"; /* in the order above */

static void put_slot(struct history *h, unsigned slot)
{
	h->live.version[slot] = ++h->n_writes;
	slot_write(h->fs, h->m.v.file, slot, h->n_writes);
}

static void cut_file(struct history *h)
{
	file_resize(h->fs, h->m.v.file, 0);
	h->live = (struct state){{0}};
}

static void drop(struct history *h, unsigned i)
{
	char name[16];

	snap_name(h->name[i], name);
	OK(fs_snap_delete(h->fs, &root, name));
	memmove(&h->snap[i], &h->snap[i + 1], (h->n_snaps - i - 1) * sizeof(h->snap[0]));
	memmove(&h->name[i], &h->name[i + 1], (h->n_snaps - i - 1) * sizeof(h->name[0]));
	h->n_snaps--;
}

/* False when there is nothing to do it with. */
static bool act(void *ctx, uint8_t letter)
{
	struct history *h = ctx;
	bool more;

	switch ((enum letter)letter) {
	case WRITE_0:
	case WRITE_1:
		put_slot(h, letter - WRITE_0);
		return true;
	case CUT:
		cut_file(h);
		return true;
	case SNAP: {
		char name[16];

		snap_name(++h->n_names, name);
		OK(fs_snap_create(h->fs, &root, name));
		h->name[h->n_snaps] = h->n_names;
		h->snap[h->n_snaps++] = h->live;
		return true;
	}
	case DROP_OLDEST:
	case DROP_NEWEST:
		if (h->n_snaps == 0)
			return false;
		drop(h, letter == DROP_OLDEST ? 0 : h->n_snaps - 1);
		return true;
	case STEP:
		OK(fs_snap_step(h->fs, &more));
		return true;
	case HOME:
		steps_home(h->fs);
		return true;
	case LETTERS:
		break;
	}
	return false;
}

static bool has(const struct state *s, unsigned version)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (version && s->version[i] == version)
			return true;
	return false;
}

/* Contents that only snapshot `only` has (UINT_MAX: that anybody has). */
static uint64_t count(const struct history *h, unsigned only)
{
	uint64_t n = 0;

	for (unsigned v = 1; v <= h->n_writes; v++) {
		unsigned holders = has(&h->live, v);
		bool mine = only < h->n_snaps && has(&h->snap[only], v);

		for (unsigned i = 0; i < h->n_snaps; i++)
			holders += has(&h->snap[i], v);
		n += only == UINT32_MAX ? holders > 0 : mine && holders == 1;
	}
	return n;
}

struct seen {
	struct history *h;
	unsigned n;
};

static int see(void *ctx, const struct fs_snap *s)
{
	struct seen *seen = ctx;
	struct history *h = seen->h;
	struct fs_attr dir, file;
	char name[16];

	snap_name(h->name[seen->n], name);
	assert_string_equal(s->name, name);
	assert_true(s->held);
	SAME(s->only_bytes / BLOCK_SIZE, count(h, seen->n));
	OK(fs_lookup(h->fs, s->root, "sub", &dir));
	OK(fs_lookup(h->fs, dir.ino, "name", &file));
	slots_check(h->fs, file.ino, h->snap[seen->n].version);
	seen->n++;
	return 0;
}

static void check(void *ctx)
{
	struct history *h = ctx;
	struct seen seen = {.h = h};

	steps_home(h->fs);
	steps_snaps(h->fs);
	SAME(used_blocks(h->fs), h->m.base + count(h, UINT32_MAX));
	SAME(reserved_blocks(h->fs), 0);
	slots_check(h->fs, h->m.v.file, h->live.version);
	OK(fs_snap_each(h->fs, true, see, &seen));
	SAME(seen.n, h->n_snaps);
}

static void start_over(void *ctx)
{
	struct history *h = ctx;

	while (h->n_snaps)
		drop(h, 0);
	cut_file(h);
	check(h);
	OK(fs_checkpoint(h->fs));
	h->n_writes = 0;
}

static const struct acts acts = {.names = letter_names, .act = act, .check = check, .start_over = start_over, .fsck_every = 16};

static struct history *history_open(void)
{
	struct history *h = calloc(1, sizeof(*h));

	memvolume_open(&h->m);
	h->fs = h->m.v.fs;
	return h;
}

static void history_close(struct history *h)
{
	memvolume_close(&h->m);
	free(h);
}

static void each_history_leaves_the_blocks_that_somebody_has(void **state)
{
	static const uint8_t all[] = {WRITE_0, WRITE_1, CUT, SNAP, DROP_OLDEST, DROP_NEWEST, STEP, HOME},
			     few[] = {WRITE_0, SNAP, DROP_OLDEST, DROP_NEWEST};
	struct history *h = history_open();

	(void)state;
	for (unsigned n = 1; n <= 5; n++)
		every_word(&acts, h, h->fs, all, ARRAY_SIZE(all), n);
	every_word(&acts, h, h->fs, few, ARRAY_SIZE(few), 8);
	assert_sound(h->fs);
	history_close(h);
}

/* Deletes in every order of four snapshots with a write between each two, and steps between, or at the end. */
static void any_order_of_deleting_frees_the_same(void **state)
{
	struct history *h = history_open();

	(void)state;
	for (unsigned order = 0; order < 4 * 3 * 2; order++)
		for (unsigned steps = 0; steps < 16; steps++) {
			unsigned rest = order;

			for (unsigned i = 0; i < 4; i++) {
				put_slot(h, i % SLOTS);
				act(h, SNAP);
			}
			put_slot(h, 0);
			for (unsigned left = 4; left > 0; rest /= left--) {
				drop(h, rest % left);
				if (steps >> (left - 1) & 1)
					check(h);
			}
			check(h);
			start_over(h);
		}
	assert_sound(h->fs);
	history_close(h);
}

/* ---- names and numbers ---- */

static void only_names_are_names(void **state)
{
	static const char *const bad[] = {"", ".", "..", "a/b", "/", "a\nb", "\x7f", "\x1f"};
	char longest[RECORD_NAME_MAX + 2];
	struct volume v;

	(void)state;
	volume_open(&v, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(fs_snap_create(v.fs, &root, bad[i]), -EINVAL);
		assert_int_equal(fs_snap_delete(v.fs, &root, bad[i]), -ENOENT);
	}
	memset(longest, 'n', sizeof(longest));
	longest[RECORD_NAME_MAX + 1] = 0;
	assert_int_equal(fs_snap_create(v.fs, &root, longest), -ENAMETOOLONG);
	longest[RECORD_NAME_MAX] = 0;
	OK(fs_snap_create(v.fs, &root, longest));
	assert_int_equal(fs_snap_create(v.fs, &root, longest), -EEXIST);
	OK(fs_snap_create(v.fs, &root, "..."));
	OK(fs_snap_create(v.fs, &root, "\xff not UTF-8"));
	volume_reopen(&v, true);
	uint64_t ino;
	OK(fs_snap_root(v.fs, longest, &ino));
	OK(fs_snap_root(v.fs, "\xff not UTF-8", &ino));
	OK(fs_snap_delete(v.fs, &root, longest));
	assert_int_equal(fs_snap_delete(v.fs, &root, longest), -ENOENT);
	assert_int_equal(fs_snap_root(v.fs, longest, &ino), -ENOENT);
	volume_close(&v);
}

/* As many as there can be, listed page by page, each once; and room for another when one went. */
static void there_is_an_end_to_how_many(void **state)
{
	struct history *h = history_open();
	unsigned n = 0, pages = 0;
	uint64_t from = 0;
	char name[256];

	(void)state;
	struct fs *fs = h->fs;
	for (unsigned i = 0; i < SNAPS_MAX; i++) {
		snprintf(name, sizeof(name), "a rather long name of a snapshot, so that there are pages: %u", i);
		OK(fs_snap_create(fs, &root, name));
	}
	assert_int_equal(fs_snap_create(fs, &root, "one more"), -EMLINK);
	do {
		CLEANUP_BUF struct buf text = {0};

		OK(fs_snap_list_json(fs, from, &text));
		assert_true(text.len < 65536);
		json_t *page = json_loadb((const char *)text.p, text.len, 0, NULL), *s;
		size_t i;
		json_array_foreach(json_object_get(page, "snapshots"), i, s)
		{
			snprintf(name, sizeof(name), "a rather long name of a snapshot, so that there are pages: %u", n++);
			assert_string_equal(json_string_value(json_object_get(s, "name")), name);
		}
		from = (uint64_t)json_integer_value(json_object_get(page, "next"));
		json_decref(page);
		pages++;
	} while (from);
	assert_int_equal(n, SNAPS_MAX);
	assert_true(pages > 1);
	OK(fs_snap_delete(fs, &root, name));
	OK(fs_snap_create(fs, &root, "one more"));
	history_close(h);
}

/* ---- inside ---- */

static void a_snapshot_cannot_be_changed(void **state)
{
	const struct record_attr mode = {.mask = ATTR_MODE, .mode = 0600};
	struct fs_attr a, dir, file;
	uint64_t top;
	size_t len;
	struct volume v;

	(void)state;
	volume_open(&v, NULL);
	OK(fs_link(v.fs, &root, v.file, v.dir, "again", &a));
	OK(fs_setxattr(v.fs, &root, v.file, "user.x", "1", 1, 0));
	OK(fs_snap_create(v.fs, &root, "s"));
	OK(fs_snap_root(v.fs, "s", &top));
	OK(fs_lookup(v.fs, top, "sub", &dir));
	OK(fs_lookup(v.fs, dir.ino, "name", &file));
	OK(fs_lookup(v.fs, dir.ino, "again", &a));
	assert_true(a.ino == file.ino && a.nlink == 2 && fs_is_snap(a.ino) && !fs_is_snap(v.file));
	assert_int_equal(fs_write(v.fs, &root, file.ino, 0, 1, "x", false), -EROFS);
	assert_int_equal(fs_fallocate(v.fs, &root, file.ino, 0, 0, 1), -EROFS);
	assert_int_equal(fs_copy_range(v.fs, &root, v.file, 0, file.ino, 0, 1, &len), 0); /* of an empty file: nothing */
	OK(fs_write(v.fs, &root, v.file, 0, 1, "x", false));
	assert_int_equal(fs_copy_range(v.fs, &root, v.file, 0, file.ino, 0, 1, &len), -EROFS);
	assert_int_equal(fs_setattr(v.fs, &root, file.ino, &mode, &a), -EROFS);
	assert_int_equal(fs_setxattr(v.fs, &root, file.ino, "user.x", "2", 1, 0), -EROFS);
	assert_int_equal(fs_removexattr(v.fs, &root, file.ino, "user.x"), -EROFS);
	assert_int_equal(fs_mknod(v.fs, &root, dir.ino, "new", S_IFREG, 0, &a), -EROFS);
	assert_int_equal(fs_symlink(v.fs, &root, dir.ino, "new", "t", &a), -EROFS);
	assert_int_equal(fs_unlink(v.fs, &root, dir.ino, "name"), -EROFS);
	assert_int_equal(fs_rmdir(v.fs, &root, top, "sub"), -EROFS);
	assert_int_equal(fs_link(v.fs, &root, v.file, dir.ino, "new", &a), -EROFS);
	assert_int_equal(fs_link(v.fs, &root, file.ino, v.dir, "new", &a), -EXDEV);
	assert_int_equal(fs_rename(v.fs, &root, dir.ino, "name", v.dir, "new", 0), -EROFS);
	assert_int_equal(fs_rename(v.fs, &root, v.dir, "name", dir.ino, "new", 0), -EROFS);
	OK(fs_snap_delete(v.fs, &root, "s"));
	assert_int_equal(fs_getattr(v.fs, file.ino, &a), -ESTALE);
	assert_int_equal(fs_lookup(v.fs, dir.ino, "name", &a), -ESTALE);
	volume_close(&v);
}

/* What lies in the arena is not what it was: named with its path in the snapshot, and no wrong byte. */
static void damage_in_a_snapshot_is_told(void **state)
{
	_Alignas(DISK_BLOCK) uint8_t room[3 * BLOCK_SIZE];
	struct history *h = history_open();
	struct fs_attr dir, file;
	uint64_t top;
	struct leaf l;
	size_t len;
	void *at;

	(void)state;
	struct fs *fs = h->fs;
	put_slot(h, 0);
	OK(fs_snap_create(fs, &root, "s"));
	put_slot(h, 0);
	steps_home(fs);
	OK(fs_snap_root(fs, "s", &top));
	OK(fs_lookup(fs, top, "sub", &dir));
	OK(fs_lookup(fs, dir.ino, "name", &file));
	OK(fs_read(fs, file.ino, 0, BLOCK_SIZE, room, &at, &len));
	OK(extent_get(fs, file.ino, 0, &l));
	memset(room, 0x55, BLOCK_SIZE);
	OK(arena_write_many(fs->arena, &(struct arena_write){.at = l.slot[0].home, .n_blocks = 1, .p = room}, 1));
	assert_int_equal(fs_read(fs, file.ino, 0, BLOCK_SIZE, room, &at, &len), -EBADMSG);
	assert_non_null(strstr(fs->damage, "/.clawfs/snapshots/s/sub/name"));
	const struct fs_check_result c = fsck_result(fs);
	assert_int_equal(c.damaged_blocks, 1);
	assert_int_equal(c.structure_errors + c.accounting_errors, 0);
	history_close(h);
}

/* Somebody took the copy of the index away: the snapshot says so, the volume lives, and deleting it frees its blocks. */
static void a_snapshot_without_its_index_can_be_deleted(void **state)
{
	struct history *h = history_open();
	struct fs_attr a;
	uint64_t top;

	(void)state;
	struct fs *fs = h->fs;
	put_slot(h, 0);
	OK(fs_snap_create(fs, &root, "s"));
	put_slot(h, 0);
	OK(fs->kv->ops->snapshot_remove(fs->kv, 0));
	OK(fs_snap_root(fs, "s", &top));
	assert_int_equal(fs_lookup(fs, top, "sub", &a), -EIO);
	steps_home(fs);
	assert_int_equal(fsck_result(fs).structure_errors, 1);
	OK(fs_snap_delete(fs, &root, "s"));
	check(h);
	assert_sound(fs);
	history_close(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_history_leaves_the_blocks_that_somebody_has),
	    cmocka_unit_test(any_order_of_deleting_frees_the_same),
	    cmocka_unit_test(only_names_are_names),
	    cmocka_unit_test(there_is_an_end_to_how_many),
	    cmocka_unit_test(a_snapshot_cannot_be_changed),
	    cmocka_unit_test(damage_in_a_snapshot_is_told),
	    cmocka_unit_test(a_snapshot_without_its_index_can_be_deleted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
