/*
 * test_snap_marks: differences between snapshots that look only at what was marked, against those that look at every inode.
 *
 * Random histories of every kind of change, of snapshots made and deleted, of homing, checkpoints, crashes and closing; then each
 * pair of snapshots, both ways, and each with the live tree, is compared in both ways: the same lines in the same order.  What is
 * looked at is bounded by what was written in between.
 *
 *     test_snap_marks [SEED [ROUNDS]]
 */
#include <errno.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fs/core/core.h"
#include "fs/core/snap/marks.h"
#include "fs/core/snap/snap_impl.h"
#include "tests/lib/rng.h"
#include "tests/lib/simstore.h"
#include "tests/lib/steps.h"
#include "volume.h"

#define OK(call) assert_int_equal(call, 0)
#define NODES    96u
#define SNAPS    10u
#define LIVE     UINT64_MAX

static uint64_t first_seed = 1;
static unsigned n_rounds = 40;

/* What there is, as far as the test has to know to choose: a name in a directory, never more than one place behind the truth. */
struct node {
	uint64_t ino, parent;
	char name[16];
	bool dir;
};
struct world {
	struct volume v;
	struct rng rng;
	struct node node[NODES];
	unsigned n, named, n_snaps;
	uint64_t gen[SNAPS];
	char snap[SNAPS][16];
	unsigned snap_named;
};

static const struct node *any(struct world *w)
{
	return w->n ? &w->node[rng_below(&w->rng, w->n)] : NULL;
}

static uint64_t any_dir(struct world *w)
{
	for (unsigned i = 0; i < 8; i++) {
		const struct node *n = any(w);

		if (n && n->dir)
			return n->ino;
	}
	return rng_percent(&w->rng, 50) ? FS_ROOT_INO : w->v.dir;
}

static void remember(struct world *w, uint64_t ino, uint64_t parent, const char *name, bool dir)
{
	struct node *n = &w->node[w->n++];

	*n = (struct node){.ino = ino, .parent = parent, .dir = dir};
	snprintf(n->name, sizeof(n->name), "%s", name);
}

static void new_name(struct world *w, char ret[16])
{
	snprintf(ret, 16, "n%u", w->named++);
}

static void make(struct world *w)
{
	static const uint32_t types[] = {S_IFREG, S_IFREG, S_IFREG, S_IFDIR, S_IFIFO};
	uint32_t type = types[rng_below(&w->rng, ARRAY_SIZE(types))];
	uint64_t parent = any_dir(w);
	struct fs_attr a;
	char name[16];

	if (w->n == NODES)
		return;
	new_name(w, name);
	if (fs_mknod(w->v.fs, &root, parent, name, type | 0755, 0, &a) == 0)
		remember(w, a.ino, parent, name, type == S_IFDIR);
}

static void make_link(struct world *w)
{
	const struct node *n = any(w);
	uint64_t parent = any_dir(w);
	struct fs_attr a;
	char name[16];

	if (!n || n->dir || w->n == NODES)
		return;
	new_name(w, name);
	if (fs_link(w->v.fs, &root, n->ino, parent, name, &a) == 0)
		remember(w, a.ino, parent, name, false);
}

static void take_away(struct world *w)
{
	const struct node *n = any(w);

	if (!n)
		return;
	int r = n->dir ? fs_rmdir(w->v.fs, &root, n->parent, n->name) : fs_unlink(w->v.fs, &root, n->parent, n->name);
	if (r == 0)
		w->node[n - w->node] = w->node[--w->n];
}

static void move(struct world *w)
{
	const struct node *n = any(w);
	uint64_t parent = any_dir(w);
	char name[16];

	if (!n)
		return;
	new_name(w, name);
	if (fs_rename(w->v.fs, &root, n->parent, n->name, parent, name, 0) == 0) {
		struct node *moved = &w->node[n - w->node];

		moved->parent = parent;
		snprintf(moved->name, sizeof(moved->name), "%s", name);
	}
}

/* With times of the kernel's a write moves no time: only the leaf tells of it. */
static void put_data(struct world *w)
{
	uint8_t block[3 * BLOCK_SIZE];
	const struct node *n = any(w);

	if (!n || n->dir)
		return;
	memset(block, (int)rng_below(&w->rng, 256), sizeof(block));
	int r = fs_write(w->v.fs, &root, n->ino, rng_below(&w->rng, 40) * 1000, rng_between(&w->rng, 1, sizeof(block)), block,
			 rng_percent(&w->rng, 50));
	(void)r; /* a pipe has no data */
}

static void set_attributes(struct world *w)
{
	const struct node *n = any(w);
	struct record_attr in = {0};
	struct fs_attr a;

	if (!n)
		return;
	switch (rng_below(&w->rng, 4)) {
	case 0:
		in = (struct record_attr){.mask = ATTR_MODE, .mode = (uint32_t)rng_below(&w->rng, 01000)};
		break;
	case 1:
		in = (struct record_attr){.mask = ATTR_UID, .uid = (uint32_t)rng_below(&w->rng, 3)};
		break;
	case 2:
		in = (struct record_attr){.mask = ATTR_MTIME, .mtime_ns = (int64_t)rng_below(&w->rng, 5)};
		break;
	default:
		in = (struct record_attr){.mask = ATTR_SIZE, .size = rng_below(&w->rng, 50000)};
	}
	int r = fs_setattr(w->v.fs, &root, n->ino, &in, &a);
	(void)r; /* a directory has no size to set */
}

static void set_xattr(struct world *w)
{
	const struct node *n = any(w);
	char value[2] = {(char)('a' + rng_below(&w->rng, 26)), 0};

	if (!n)
		return;
	int r = rng_percent(&w->rng, 70) ? fs_setxattr(w->v.fs, &root, n->ino, "user.x", value, 1, 0)
					 : fs_removexattr(w->v.fs, &root, n->ino, "user.x");
	(void)r; /* there may be none */
}

/* ---- snapshots ---- */

struct search {
	const char *name;
	uint64_t gen;
};

static int find(void *ctx, const struct fs_snap *s)
{
	struct search *search = ctx;

	if (strcmp(s->name, search->name) == 0)
		search->gen = s->gen;
	return 0;
}

static void make_snapshot(struct world *w)
{
	struct search search = {.gen = LIVE};

	if (w->n_snaps == SNAPS)
		return;
	snprintf(w->snap[w->n_snaps], sizeof(w->snap[0]), "s%u", w->snap_named++);
	OK(fs_snap_create(w->v.fs, &root, w->snap[w->n_snaps]));
	search.name = w->snap[w->n_snaps];
	OK(fs_snap_each(w->v.fs, false, find, &search));
	assert_true(search.gen != LIVE);
	w->gen[w->n_snaps++] = search.gen;
}

static void delete_snapshot(struct world *w)
{
	if (w->n_snaps == 0)
		return;
	size_t i = rng_percent(&w->rng, 50) ? 0 : rng_below(&w->rng, w->n_snaps);
	OK(fs_snap_delete(w->v.fs, &root, w->snap[i]));
	w->n_snaps--;
	memmove(&w->gen[i], &w->gen[i + 1], (w->n_snaps - i) * sizeof(w->gen[0]));
	memmove(w->snap[i], w->snap[i + 1], (w->n_snaps - i) * sizeof(w->snap[0]));
}

static void step_snapshots(struct world *w)
{
	steps_snaps(w->v.fs);
}

static void home(struct world *w)
{
	bool more = true;

	OK(journal_commit_all(w->v.fs->journal, NULL));
	while (more)
		OK(fs_home_step(w->v.fs, 64, &more));
}

static void act(struct world *w)
{
	uint64_t what = rng_below(&w->rng, 100);

	if (what < 22)
		make(w);
	else if (what < 30)
		make_link(w);
	else if (what < 42)
		take_away(w);
	else if (what < 50)
		move(w);
	else if (what < 66)
		put_data(w);
	else if (what < 74)
		set_attributes(w);
	else if (what < 80)
		set_xattr(w);
	else if (what < 87)
		make_snapshot(w);
	else if (what < 90)
		delete_snapshot(w);
	else if (what < 92)
		step_snapshots(w);
	else if (what < 96)
		home(w);
	else
		OK(fs_checkpoint(w->v.fs));
}

/* ---- differences ---- */

/* All pages, as text; *ret_looked: inodes compared. */
static char *difference(struct fs *fs, uint64_t a, uint64_t b, bool all, uint64_t *ret_looked)
{
	json_t *list = json_array();
	uint64_t from = 0;

	*ret_looked = 0;
	do {
		struct buf out = {0};

		OK(snap_diff_page(fs, a, b, from, all, &out));
		json_t *page = json_loadb((const char *)out.p, out.len, 0, NULL);
		assert_non_null(page);
		json_array_extend(list, json_object_get(page, "changes"));
		*ret_looked += (uint64_t)json_integer_value(json_object_get(page, "looked"));
		from = (uint64_t)json_integer_value(json_object_get(page, "next"));
		json_decref(page);
		buf_free(&out);
	} while (from);
	char *text = json_dumps(list, JSON_COMPACT);
	json_decref(list);
	return text;
}

static unsigned long n_compared, n_lines;

static void check_pair(struct world *w, uint64_t a, uint64_t b)
{
	uint64_t some, every;
	char *marked = difference(w->v.fs, a, b, false, &some), *full = difference(w->v.fs, a, b, true, &every);

	if (strcmp(marked, full) != 0)
		fail_msg("from %lld to %lld: marked %s, all %s", (long long)a, (long long)b, marked, full);
	n_compared++;
	n_lines += strlen(full) > 2;
	free(marked);
	free(full);
}

static void check_all(struct world *w)
{
	for (unsigned i = 0; i < w->n_snaps; i++) {
		check_pair(w, w->gen[i], LIVE);
		for (unsigned k = 0; k < w->n_snaps; k++)
			check_pair(w, w->gen[i], w->gen[k]);
	}
}

/* A crash takes back what was not committed: the names that the test knows are looked up again. */
static void crash(struct world *w, bool killed)
{
	OK(fs_sync(w->v.fs));
	volume_reopen(&w->v, killed);
}

static void run_round(uint64_t seed)
{
	struct world w = {.rng = {.state = seed}};

	volume_open(&w.v, NULL);
	for (unsigned part = 0; part < 4; part++) {
		for (unsigned i = 0; i < 60; i++)
			act(&w);
		check_all(&w);
		if (rng_percent(&w.rng, 60))
			crash(&w, rng_percent(&w.rng, 50));
		check_all(&w);
	}
	step_snapshots(&w);
	assert_sound(w.v.fs);
	volume_close(&w.v);
}

static void marked_and_full_differences_are_the_same(void **state)
{
	(void)state;
	for (unsigned i = 0; i < n_rounds; i++) {
		print_message("# seed %llu\n", (unsigned long long)(first_seed + i));
		run_round(first_seed + i);
	}
	assert_true(n_lines > n_rounds * 10);
	print_message("# %lu pairs, %lu with differences\n", n_compared, n_lines);
}

/* ---- what it costs ---- */

/* Without threads nobody else makes any in the journal. */
#define ROOM 400u
static void make_room(struct world *w)
{
	home(w);
	OK(fs_checkpoint(w->v.fs));
}

static void make_files(struct world *w, unsigned n)
{
	struct fs_attr a;
	char name[16];

	for (unsigned i = 0; i < n; i++) {
		if (i % ROOM == ROOM - 1)
			make_room(w);
		new_name(w, name);
		OK(fs_mknod(w->v.fs, &root, w->v.dir, name, S_IFREG | 0644, 0, &a));
	}
}

static uint64_t inode_of(struct world *w, unsigned i)
{
	struct fs_attr a;
	char name[16];

	snprintf(name, sizeof(name), "n%u", i);
	OK(fs_lookup(w->v.fs, w->v.dir, name, &a));
	return a.ino;
}

static void touch(struct world *w, unsigned i)
{
	OK(fs_write(w->v.fs, &root, inode_of(w, i), 0, 1, "x", false));
}

static uint64_t looked_at(struct world *w, unsigned a, uint64_t b)
{
	uint64_t looked;

	free(difference(w->v.fs, w->gen[a], b, false, &looked));
	return looked;
}

static uint64_t n_marks(struct fs *fs)
{
	struct marks_walk *walk;
	uint64_t ino, n = 0;

	OK(marks_walk_open(fs, 0, SNAP_TOP_MAX, 0, &walk));
	while (marks_walk_next(walk, &ino) == 0)
		n++;
	marks_walk_close(walk);
	return n;
}

static void what_did_not_change_is_not_looked_at(void **state)
{
	struct world w = {.rng = {.state = 7}};

	(void)state;
	volume_open(&w.v, NULL);
	make_files(&w, 3000);
	make_snapshot(&w);
	assert_int_equal(looked_at(&w, 0, LIVE), 0);
	for (unsigned i = 0; i < 10; i++)
		touch(&w, i * 100);
	make_snapshot(&w);
	touch(&w, 1);
	assert_int_equal(looked_at(&w, 0, w.gen[1]), 10);
	assert_int_equal(looked_at(&w, 1, LIVE), 1);
	assert_int_equal(looked_at(&w, 0, LIVE), 11);
	for (unsigned i = 0; i < 50; i++)
		touch(&w, 5); /* again and again */
	assert_int_equal(looked_at(&w, 1, LIVE), 2);
	volume_reopen(&w.v, true);
	volume_reopen(&w.v, false);
	assert_int_equal(looked_at(&w, 0, w.gen[1]), 10);
	assert_true(looked_at(&w, 1, LIVE) <= 2);
	volume_close(&w.v);
}

static void marks_that_nothing_needs_go(void **state)
{
	struct world w = {.rng = {.state = 8}};

	(void)state;
	volume_open(&w.v, NULL);
	make_files(&w, 10000);
	assert_int_equal(n_marks(w.v.fs), 0); /* no snapshot, no marks */
	make_snapshot(&w);
	for (unsigned i = 0; i < 9000; i++) {
		if (i % ROOM == ROOM - 1)
			make_room(&w);
		touch(&w, i);
	}
	make_snapshot(&w);
	touch(&w, 3);
	OK(fs_checkpoint(w.v.fs));
	assert_int_equal(n_marks(w.v.fs), 9000);
	assert_false(snaps_dropping(w.v.fs));
	OK(fs_snap_delete(w.v.fs, &root, w.snap[0]));
	assert_true(snaps_dropping(w.v.fs));
	volume_reopen(&w.v, true);
	assert_true(snaps_dropping(w.v.fs));
	step_snapshots(&w);
	assert_false(snaps_dropping(w.v.fs));
	assert_int_equal(n_marks(w.v.fs), 1);
	OK(fs_snap_delete(w.v.fs, &root, w.snap[1]));
	step_snapshots(&w);
	assert_int_equal(n_marks(w.v.fs), 0);
	touch(&w, 4);
	OK(fs_checkpoint(w.v.fs));
	assert_int_equal(n_marks(w.v.fs), 0);
	assert_sound(w.v.fs);
	volume_close(&w.v);
}

/* As after a release that writes no marks: its anchor is not that of the header. */
static void spoil_header(struct fs *fs, uint64_t seq)
{
	struct index_key k = key_ino(TABLE_MARK, 0);
	const struct mark_header_value v = {.version = 1, .applied_seq = le64_make(seq)};
	struct kv_batch b = {0};

	kv_batch_put(&b, key_slice(&k), (struct slice){&v, sizeof(v)});
	OK(kv_write(fs->kv, &b));
	kv_batch_free(&b);
	OK(fs->kv->ops->freeze(fs->kv));
	OK(fs->kv->ops->flush_frozen(fs->kv));
}

static void a_table_of_another_anchor_is_not_believed(void **state)
{
	struct world w = {.rng = {.state = 9}};

	(void)state;
	volume_open(&w.v, NULL);
	make_files(&w, 100);
	make_snapshot(&w);
	touch(&w, 1);
	OK(fs_checkpoint(w.v.fs));
	spoil_header(w.v.fs, 1);
	volume_reopen(&w.v, true);
	assert_false(marks_reach(w.v.fs, 0));
	assert_true(looked_at(&w, 0, LIVE) >= 100); /* all of them */
	touch(&w, 2);
	make_snapshot(&w);
	touch(&w, 3);
	assert_int_equal(looked_at(&w, 1, LIVE), 1); /* those made since are as quick as ever */
	assert_true(looked_at(&w, 0, LIVE) >= 100);
	check_all(&w);
	volume_reopen(&w.v, false);
	assert_int_equal(looked_at(&w, 1, LIVE), 1);
	assert_true(looked_at(&w, 0, LIVE) >= 100);
	volume_close(&w.v);
}

static void rows_that_cannot_be_are_refused(void **state)
{
	const uint8_t header[24] = {1}, other[24] = {2}, none = 0;
	uint8_t key[17] = {TABLE_MARK};
	struct mark m;

	(void)state;
	for (size_t key_len = 0; key_len <= sizeof(key); key_len++)
		for (size_t len = 0; len <= sizeof(header); len++) {
			bool good = (key_len == 17 && len == 0) || (key_len == 9 && len == sizeof(header));

			assert_int_equal(mark_decode((struct slice){key, key_len}, (struct slice){len ? header : &none, len}, &m),
					 good ? 0 : -EUCLEAN);
		}
	assert_int_equal(mark_decode((struct slice){key, 9}, (struct slice){other, sizeof(other)}, &m), -EUCLEAN);
	for (unsigned i = 1; i < 6; i++) { /* a clock beyond all clocks; a header elsewhere */
		uint8_t bad[17] = {TABLE_MARK};

		bad[i] = 1;
		assert_int_equal(mark_decode((struct slice){bad, 17}, (struct slice){&none, 0}, &m), -EUCLEAN);
		assert_int_equal(mark_decode((struct slice){bad, 9}, (struct slice){header, sizeof(header)}, &m), -EUCLEAN);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(marked_and_full_differences_are_the_same),
	    cmocka_unit_test(what_did_not_change_is_not_looked_at),
	    cmocka_unit_test(marks_that_nothing_needs_go),
	    cmocka_unit_test(a_table_of_another_anchor_is_not_believed),
	    cmocka_unit_test(rows_that_cannot_be_are_refused),
	};

	if (argc > 1)
		first_seed = strtoull(argv[1], NULL, 0);
	if (argc > 2)
		n_rounds = (unsigned)strtoul(argv[2], NULL, 0);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
