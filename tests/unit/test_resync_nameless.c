/*
 * test_resync_nameless.c: what a node has under a name, and its leader only as an orphan that waits to be reaped, is kept aside
 * whole, although rows and data of it are equal on both: they go with the orphan.
 *
 * Both nodes have the file, and a snapshot of it.  On the leader it loses its names, in the common past or behind it; the other
 * never took them away, or went back to the snapshot and has the file again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>

#include "base/log.h"
#include "tests/unit/memory_sink.h"
#include "tests/unit/resync_case.h"

#define OK(call) assert_int_equal(call, 0)

/* Where the node that follows has the files from. */
enum past {
	NEVER_GONE,   /* the leader alone takes their names */
	BACK,         /* both do; then this one goes back */
	BACK_AND_OUT, /* and deletes the snapshot, so that nobody else has the data */
	PASTS,
};
/* What becomes of the orphans. */
enum fate {
	STAYS,
	REAPED_BEFORE,
	REAPED_MEANWHILE, /* between two attempts */
	FATES,
};

enum { PLAIN, LINKED, SPARSE, BARE, SYMLINK, DIR, FILES };
static const char *const names[FILES] = {"plain", "linked", "sparse", "bare", "symlink", "dir"};

struct node {
	struct sim_run run;
	uint64_t ino[FILES];
};

static void fill(struct fs *fs, uint64_t ino, uint64_t off, size_t len)
{
	uint8_t *p = test_alloc(len);

	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(1 + (i / BLOCK_SIZE + ino * 31 + off / BLOCK_SIZE * 7) % 255);
	OK(fs_write(fs, &root, ino, off, len, p, false));
	free(p);
}

/* The kernel knows them all, so they stay until it forgets them. */
static void make_files(struct node *n)
{
	struct fs *fs = n->run.fs;
	struct fs_attr a;

	for (unsigned i = 0; i < FILES; i++) {
		if (i == SYMLINK)
			OK(fs_symlink(fs, &root, FS_ROOT_INO, names[i], "to/somewhere", &a));
		else if (i == DIR)
			OK(fs_mknod(fs, &root, FS_ROOT_INO, names[i], S_IFDIR | 0755, 0, &a));
		else
			OK(fs_mknod(fs, &root, FS_ROOT_INO, names[i], S_IFREG | 0640, 0, &a));
		n->ino[i] = a.ino;
		if (i != SYMLINK)
			OK(fs_setxattr(fs, &root, a.ino, "user.kept", names[i], strlen(names[i]), 0));
	}
	fill(fs, n->ino[PLAIN], 0, 200 * KIB);
	fill(fs, n->ino[LINKED], 5, 3000);
	OK(fs_link(fs, &root, n->ino[LINKED], FS_ROOT_INO, "other", &a));
	fill(fs, n->ino[SPARSE], 3 * MIB, 64 * KIB);
	fill(fs, n->ino[SPARSE], 100 * MIB, 1);
	OK(fs_fallocate(fs, &root, n->ino[SPARSE], FALLOC_FL_KEEP_SIZE, 101 * MIB, 100 * KIB));
	OK(fs_set_policy(fs, &root, n->ino[DIR], "durability", "replicas=1"));
	OK(fs_snap_create(fs, &root, "s"));
}

static void take_names(struct node *n)
{
	struct fs *fs = n->run.fs;

	for (unsigned i = 0; i < FILES; i++)
		OK(i == DIR ? fs_rmdir(fs, &root, FS_ROOT_INO, names[i]) : fs_unlink(fs, &root, FS_ROOT_INO, names[i]));
	OK(fs_unlink(fs, &root, FS_ROOT_INO, "other"));
	OK(fs_sync(fs));
}

static void reap(struct node *n)
{
	struct fs_attr a;
	bool more = true;

	for (unsigned i = 0; i < FILES; i++)
		fs_forget(n->run.fs, n->ino[i], i == LINKED ? 2 : 1);
	while (more)
		OK(fs_reap_step(n->run.fs, &more));
	assert_int_equal(fs_getattr(n->run.fs, n->ino[PLAIN], &a), -ENOENT);
}

static void node_make(struct node *n)
{
	must(&n->run, sim_format(&n->run, 3, SIM_MIXED, 0));
	n->run.snapshots = true;
	must(&n->run, sim_mount(&n->run));
	make_files(n);
}

static void node_go_its_way(struct node *n, enum past past)
{
	struct fs_attr a;

	if (past != NEVER_GONE) {
		take_names(n);
		OK(fs_snap_rollback(n->run.fs, &root, "s", false));
	}
	if (past == BACK_AND_OUT)
		OK(fs_snap_delete(n->run.fs, &root, "s"));
	OK(fs_mknod(n->run.fs, &root, FS_ROOT_INO, "its own", S_IFREG | 0600, 0, &a));
	OK(fs_sync(n->run.fs));
	node_follow(n->run.fs);
}

static bool is_of(const struct node *n, uint64_t ino)
{
	for (unsigned i = 0; i < FILES; i++)
		if (n->ino[i] == ino)
			return true;
	return false;
}

/* Lines about an inode in one table; of E those of the same leaf. */
static size_t count_lines(const struct memory_sink *s, const struct row *r)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n_lines; i++) {
		json_t *o = json_loads(s->lines[i], 0, NULL);
		const char table[2] = {(char)row_table(r->key), 0};
		bool same = strcmp(json_string_value(json_object_get(o, "table")), table) == 0 &&
			    (uint64_t)json_integer_value(json_object_get(o, "ino")) == row_ino(r->key);

		if (row_table(r->key) == TABLE_EXTENT)
			same = same && (uint64_t)json_integer_value(json_object_get(o, "offset")) ==
					   row_leaf(r->key) * LEAF_SLOTS * BLOCK_SIZE;
		if (same && row_table(r->key) == TABLE_INODE)
			assert_true(json_is_true(json_object_get(o, "gone"))); /* an export makes it */
		n += same;
		json_decref(o);
	}
	return n;
}

static size_t assert_data_kept(const struct memory_sink *s, const struct row *r, const uint8_t *bytes)
{
	struct leaf_row was;
	size_t n = 0;

	assert_int_equal(leaf_row_decode(r->value, &was), 0);
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(leaf_row_data(&was) >> i & 1))
			continue;
		const struct kept_data *k = kept(s, row_ino(r->key), (row_leaf(r->key) * LEAF_SLOTS + i) * BLOCK_SIZE);
		assert_non_null(k);
		assert_memory_equal(k->block, bytes + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
		n++;
	}
	return n;
}

/* What belongs to the files and has been on the node, with the data of leaves. */
struct before {
	struct row_list rows;
	uint8_t *bytes; /* of each row a leaf's */
};

static bool belongs(const struct node *n, const struct row *r)
{
	switch (row_table(r->key)) {
	case TABLE_EXTENT:
	case TABLE_INODE:
	case TABLE_TARGET:
	case TABLE_POLICY:
	case TABLE_XATTR:
		return is_of(n, row_ino(r->key));
	default:
		return false;
	}
}

static void look(const struct node *n, struct before *ret)
{
	rows_of(n->run.fs, &ret->rows);
	ret->bytes = aligned_alloc(DISK_BLOCK, (ret->rows.n + 1) * LEAF_SLOTS * BLOCK_SIZE);
	for (size_t i = 0; i < ret->rows.n; i++) {
		struct slice key = ret->rows.e[i].row.key;

		if (row_table(key) == TABLE_EXTENT && is_of(n, row_ino(key)))
			OK(extent_read(n->run.fs, row_ino(key), row_leaf(key) * LEAF_SLOTS, LEAF_SLOTS,
				       ret->bytes + i * LEAF_SLOTS * BLOCK_SIZE));
	}
}

static void assert_all_kept(const struct node *n, const struct before *b, const struct memory_sink *s, bool once)
{
	size_t n_rows = 0, n_blocks = 0;

	for (size_t i = 0; i < b->rows.n; i++) {
		const struct row *r = &b->rows.e[i].row;

		if (!belongs(n, r))
			continue;
		size_t found = count_lines(s, r);
		if (found == 0 || (once && found != 1))
			fail_msg("a row of table %c of inode %llu is kept %zu times", row_table(r->key),
				 (unsigned long long)row_ino(r->key), found);
		if (row_table(r->key) == TABLE_EXTENT)
			n_blocks += assert_data_kept(s, r, b->bytes + i * LEAF_SLOTS * BLOCK_SIZE);
		n_rows++;
	}
	/* Six inodes; five with an attribute; a target; a policy; leaves: 4, 1, and 1 + 1 + those promised. */
	assert_true(n_rows >= 6 + 5 + 1 + 1 + 4 + 1 + 2 && n_blocks == 50 + 1 + 16 + 1);
}

/* Which snapshots a node holds is its own. */
static void assert_equal_rows(const struct node *a, const struct node *b)
{
	struct row_list want, got;

	rows_of(a->run.fs, &want);
	rows_of(b->run.fs, &got);
	assert_same_rows(&got, &want);
	row_list_free(&want);
	row_list_free(&got);
}

static void run_case(enum past past, enum fate fate, uint64_t stop, bool twice)
{
	struct memory_sink sink = {.base = {.ops = &sink_ops}};
	struct node leader, other;
	struct before before;

	node_make(&leader);
	node_make(&other);
	take_names(&leader);
	if (fate == REAPED_BEFORE)
		reap(&leader);
	node_go_its_way(&other, past);
	other.run.fs->config.diverged = &sink.base;
	look(&other, &before);
	if (fate == REAPED_MEANWHILE) {
		struct pull first = {.leader = leader.run.fs, .follower = other.run.fs, .save = true, .stop_after = stop};
		int r = pull_run(&first);

		assert_true(r == 0 || r == 1);
		pull_free(&first);
		reap(&leader);
	}
	struct pull p = {.leader = leader.run.fs, .follower = other.run.fs, .save = true, .twice = twice};
	OK(pull_run(&p));
	pull_free(&p);
	assert_all_kept(&other, &before, &sink, fate != REAPED_MEANWHILE);
	assert_equal_rows(&leader, &other);
	assert_clean(&other.run);
	row_list_free(&before.rows);
	free(before.bytes);
	sim_free(&other.run);
	sim_free(&leader.run);
	diverged_free(&sink.base);
}

static void what_lost_its_name_on_the_leader_is_kept_whole(void **state)
{
	(void)state;
	for (unsigned past = 0; past < PASTS; past++)
		for (unsigned twice = 0; twice < 2; twice++)
			run_case((enum past)past, STAYS, 0, twice);
}

/* Whose index has names in another order. */
static void so_it_is_on_an_encrypted_volume(void **state)
{
	(void)state;
	sim_next_key = 1;
	for (unsigned past = 0; past < PASTS; past++)
		run_case((enum past)past, STAYS, 0, false);
	sim_next_key = 0;
}

static void it_is_kept_the_same_where_the_leader_has_it_no_more(void **state)
{
	(void)state;
	for (unsigned past = 0; past < PASTS; past++)
		run_case((enum past)past, REAPED_BEFORE, 0, false);
}

/* Whatever the first attempt had replaced when it ended. */
static void it_is_kept_when_it_is_reaped_between_two_attempts(void **state)
{
	(void)state;
	for (uint64_t stop = 1; stop <= 25; stop++)
		run_case(BACK, REAPED_MEANWHILE, stop, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_lost_its_name_on_the_leader_is_kept_whole),
	    cmocka_unit_test(so_it_is_on_an_encrypted_volume),
	    cmocka_unit_test(it_is_kept_the_same_where_the_leader_has_it_no_more),
	    cmocka_unit_test(it_is_kept_when_it_is_reaped_between_two_attempts),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
