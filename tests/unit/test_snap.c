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
#include "memstore.h"
#include "tests/lib/tree.h"
#include "volume.h"

#define OK(call) assert_int_equal(call, 0)

/* ---- a file of two blocks, and its model ---- */

#define SLOTS     2u
#define SNAPS_CAP 8u

struct state {
	unsigned version[SLOTS]; /* which write it has; 0: none */
};
struct history {
	struct volume v;
	struct memstore store;
	struct state live, snap[SNAPS_CAP];
	unsigned name[SNAPS_CAP]; /* number in its name */
	unsigned n_snaps, n_names, n_writes;
	uint64_t base; /* blocks in use without the file */
	unsigned long n_checks;
};

enum letter { WRITE_0, WRITE_1, CUT, SNAP, DROP_OLDEST, DROP_NEWEST, STEP, HOME, LETTERS };
static const char letter_names[] = "01csonth"; /* in the order above */

/* The history under way, so that one that fails is said. */
static char said[16];
#define SAME(got, want)                                                                                                          \
	do {                                                                                                                     \
		unsigned long long got_ = (got), want_ = (want);                                                                 \
		if (got_ != want_)                                                                                               \
			fail_msg("after \"%s\": %s is %llu, expected %llu", said, #got, got_, want_);                            \
	} while (0)

static void name_of(unsigned number, char ret[16])
{
	snprintf(ret, 16, "s%u", number);
}

static void put_slot(struct history *h, unsigned slot)
{
	uint8_t block[BLOCK_SIZE];

	h->live.version[slot] = ++h->n_writes;
	memset(block, 0, sizeof(block));
	memcpy(block, &h->n_writes, sizeof(h->n_writes));
	OK(fs_write(h->v.fs, &root, h->v.file, slot * BLOCK_SIZE, sizeof(block), block, false));
}

static void cut_file(struct history *h)
{
	const struct record_attr a = {.mask = ATTR_SIZE};
	struct fs_attr now;

	OK(fs_setattr(h->v.fs, &root, h->v.file, &a, &now));
	h->live = (struct state){{0}};
}

static void drop(struct history *h, unsigned i)
{
	char name[16];

	name_of(h->name[i], name);
	OK(fs_snap_delete(h->v.fs, &root, name));
	memmove(&h->snap[i], &h->snap[i + 1], (h->n_snaps - i - 1) * sizeof(h->snap[0]));
	memmove(&h->name[i], &h->name[i + 1], (h->n_snaps - i - 1) * sizeof(h->name[0]));
	h->n_snaps--;
}

static void home_all(struct fs *fs)
{
	bool more = true;

	OK(journal_commit_all(fs->journal, NULL));
	while (more)
		OK(fs_home_step(fs, 64, &more));
}

/* False when there is nothing to do it with. */
static bool act(struct history *h, enum letter a)
{
	bool more;

	switch (a) {
	case WRITE_0:
	case WRITE_1:
		put_slot(h, a - WRITE_0);
		return true;
	case CUT:
		cut_file(h);
		return true;
	case SNAP: {
		char name[16];

		name_of(++h->n_names, name);
		OK(fs_snap_create(h->v.fs, &root, name));
		h->name[h->n_snaps] = h->n_names;
		h->snap[h->n_snaps++] = h->live;
		return true;
	}
	case DROP_OLDEST:
	case DROP_NEWEST:
		if (h->n_snaps == 0)
			return false;
		drop(h, a == DROP_OLDEST ? 0 : h->n_snaps - 1);
		return true;
	case STEP:
		OK(fs_snap_step(h->v.fs, &more));
		return true;
	case HOME:
		home_all(h->v.fs);
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

static void check_content(struct history *h, uint64_t ino, const struct state *want)
{
	_Alignas(DISK_BLOCK) uint8_t room[(SLOTS + 2) * BLOCK_SIZE];
	void *at;
	size_t len;

	OK(fs_read(h->v.fs, ino, 0, SLOTS * BLOCK_SIZE, room, &at, &len));
	for (unsigned i = 0; i < SLOTS; i++) {
		unsigned got = 0;

		if (len >= (i + 1) * BLOCK_SIZE)
			memcpy(&got, (uint8_t *)at + i * BLOCK_SIZE, sizeof(got));
		SAME(got, want->version[i]);
	}
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

	name_of(h->name[seen->n], name);
	assert_string_equal(s->name, name);
	assert_true(s->held);
	SAME(s->only_bytes / BLOCK_SIZE, count(h, seen->n));
	OK(fs_lookup(h->v.fs, s->root, "sub", &dir));
	OK(fs_lookup(h->v.fs, dir.ino, "name", &file));
	check_content(h, file.ino, &h->snap[seen->n]);
	seen->n++;
	return 0;
}

static void fsck_line(void *ctx, const char *line)
{
	(void)ctx;
	print_error("%s\n", line);
}

static void fsck(struct fs *fs)
{
	struct fs_check_result c;

	OK(fs_check(fs, true, fsck_line, NULL, &c));
	assert_int_equal(c.damaged_blocks + c.structure_errors + c.accounting_errors, 0);
}

static void check(struct history *h)
{
	struct seen seen = {.h = h};
	struct arena_status as;
	bool more = true;

	home_all(h->v.fs);
	while (more)
		OK(fs_snap_step(h->v.fs, &more));
	arena_get_status(h->v.fs->arena, &as);
	SAME(as.used_blocks, h->base + count(h, UINT32_MAX));
	SAME(as.reserved_blocks, 0);
	check_content(h, h->v.file, &h->live);
	OK(fs_snap_each(h->v.fs, true, see, &seen));
	SAME(seen.n, h->n_snaps);
	h->n_checks++;
}

static void start_over(struct history *h)
{
	while (h->n_snaps)
		drop(h, 0);
	cut_file(h);
	check(h);
	OK(fs_checkpoint(h->v.fs));
	h->n_writes = 0;
}

static void run_history(struct history *h, const enum letter *word, unsigned n)
{
	bool done = true;

	for (unsigned i = 0; i < n && done; i++)
		done = act(h, word[i]);
	if (done) {
		check(h);
		if (h->n_checks % 16 == 0)
			fsck(h->v.fs);
	}
	start_over(h);
}

/* Every word of `n` of the letters; the one that fails is said. */
static void every_word(struct history *h, const enum letter *letters, unsigned n_letters, unsigned n)
{
	unsigned long words = 1;

	for (unsigned i = 0; i < n; i++)
		words *= n_letters;
	for (unsigned long w = 0; w < words; w++) {
		enum letter word[8];
		unsigned long rest = w;

		for (unsigned i = 0; i < n; i++, rest /= n_letters) {
			word[i] = letters[rest % n_letters];
			said[i] = letter_names[word[i]];
		}
		said[n] = 0;
		run_history(h, word, n);
	}
}

static int much_space(struct store *s, uint64_t *ret_free, uint64_t *ret_total)
{
	(void)s;
	*ret_free = *ret_total = 100 * GIB;
	return 0;
}

static void history_open(struct history *h)
{
	static struct store_ops ops;
	struct arena_status as;

	memset(h, 0, sizeof(*h));
	memstore_init(&h->store);
	ops = *h->store.base.ops;
	ops.space = much_space;
	h->store.base.ops = &ops;
	volume_make(&h->v, &h->store.base, NULL);
	home_all(h->v.fs);
	arena_get_status(h->v.fs->arena, &as);
	h->base = as.used_blocks;
}

static void history_close(struct history *h)
{
	OK(fs_close(h->v.fs));
	kv_disk_free(h->v.index);
	memstore_free(&h->store);
	free(h);
}

static void each_history_leaves_the_blocks_that_somebody_has(void **state)
{
	static const enum letter all[] = {WRITE_0, WRITE_1, CUT, SNAP, DROP_OLDEST, DROP_NEWEST, STEP, HOME},
				 few[] = {WRITE_0, SNAP, DROP_OLDEST, DROP_NEWEST};
	struct history *h = malloc(sizeof(*h));

	(void)state;
	history_open(h);
	for (unsigned n = 1; n <= 5; n++)
		every_word(h, all, ARRAY_SIZE(all), n);
	every_word(h, few, ARRAY_SIZE(few), 8);
	fsck(h->v.fs);
	history_close(h);
}

/* Deletes in every order of four snapshots with a write between each two, and steps between, or at the end. */
static void any_order_of_deleting_frees_the_same(void **state)
{
	struct history *h = malloc(sizeof(*h));

	(void)state;
	history_open(h);
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
	fsck(h->v.fs);
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
	struct history *h = malloc(sizeof(*h));
	unsigned n = 0, pages = 0;
	uint64_t from = 0;
	char name[256];

	(void)state;
	history_open(h);
	struct fs *fs = h->v.fs;
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
	struct history *h = malloc(sizeof(*h));
	struct fs_attr dir, file;
	uint64_t top;
	struct leaf l;
	size_t len;
	void *at;

	(void)state;
	history_open(h);
	struct fs *fs = h->v.fs;
	put_slot(h, 0);
	OK(fs_snap_create(fs, &root, "s"));
	put_slot(h, 0);
	home_all(fs);
	OK(fs_snap_root(fs, "s", &top));
	OK(fs_lookup(fs, top, "sub", &dir));
	OK(fs_lookup(fs, dir.ino, "name", &file));
	OK(fs_read(fs, file.ino, 0, BLOCK_SIZE, room, &at, &len));
	OK(extent_get(fs, file.ino, 0, &l));
	memset(room, 0x55, BLOCK_SIZE);
	OK(arena_write_many(fs->arena, &(struct arena_write){.at = l.slot[0].home, .n_blocks = 1, .p = room}, 1));
	assert_int_equal(fs_read(fs, file.ino, 0, BLOCK_SIZE, room, &at, &len), -EBADMSG);
	assert_non_null(strstr(fs->damage, "/.clawfs/snapshots/s/sub/name"));
	struct fs_check_result c;
	OK(fs_check(fs, true, fsck_line, NULL, &c));
	assert_int_equal(c.damaged_blocks, 1);
	assert_int_equal(c.structure_errors + c.accounting_errors, 0);
	history_close(h);
}

/* Somebody took the copy of the index away: the snapshot says so, the volume lives, and deleting it frees its blocks. */
static void a_snapshot_without_its_index_can_be_deleted(void **state)
{
	struct history *h = malloc(sizeof(*h));
	struct fs_check_result c;
	struct fs_attr a;
	uint64_t top;

	(void)state;
	history_open(h);
	struct fs *fs = h->v.fs;
	put_slot(h, 0);
	OK(fs_snap_create(fs, &root, "s"));
	put_slot(h, 0);
	OK(fs->kv->ops->snapshot_remove(fs->kv, 0));
	OK(fs_snap_root(fs, "s", &top));
	assert_int_equal(fs_lookup(fs, top, "sub", &a), -EIO);
	home_all(fs);
	OK(fs_check(fs, true, fsck_line, NULL, &c));
	assert_int_equal(c.structure_errors, 1);
	OK(fs_snap_delete(fs, &root, "s"));
	check(h);
	fsck(fs);
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
