/*
 * test_rollback: going back to a snapshot: whole trees with everything a tree can have, to each of several snapshots and from
 * each; what is deleted afterwards, in every order; what is refused.  Which blocks are in use then: test_rollback_blocks.c.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/snap/snap.h"
#include "tests/lib/history.h"
#include "tests/lib/steps.h"
#include "tests/lib/tree.h"
#include "volume.h"

#define OK(call) assert_int_equal(call, 0)

#define STAGES 4u

static uint64_t at_path(struct fs *fs, uint64_t dir, const char *name)
{
	struct fs_attr a;

	OK(fs_lookup(fs, dir, name, &a));
	fs_forget(fs, a.ino, 1);
	return a.ino;
}

static uint64_t make(struct fs *fs, uint64_t dir, const char *name, uint32_t mode)
{
	struct fs_attr a;

	OK(fs_mknod(fs, &root, dir, name, mode, S_ISCHR(mode) ? 0x501 : 0, &a));
	fs_forget(fs, a.ino, 1);
	return a.ino;
}

static void fill(struct fs *fs, uint64_t ino, uint64_t off, size_t len, char byte)
{
	void *p = malloc(len);

	memset(p, byte, len);
	OK(fs_write(fs, &root, ino, off, len, p, false));
	free(p);
}

static void link_to(struct fs *fs, uint64_t ino, uint64_t dir, const char *name)
{
	struct fs_attr a;

	OK(fs_link(fs, &root, ino, dir, name, &a));
	fs_forget(fs, a.ino, 1);
}

static void chmod_to(struct fs *fs, uint64_t ino, uint32_t mode)
{
	const struct record_attr a = {.mask = ATTR_MODE | ATTR_UID, .mode = mode, .uid = 77};
	struct fs_attr now;

	OK(fs_setattr(fs, &root, ino, &a, &now));
}

static void first_tree(struct fs *fs)
{
	struct fs_attr a;
	uint64_t d = make(fs, FS_ROOT_INO, "d", S_IFDIR | 0755), e = make(fs, d, "e", S_IFDIR | 0700), f;

	f = make(fs, d, "small", S_IFREG | 0644);
	fill(fs, f, 0, 5, 'a');
	f = make(fs, d, "large", S_IFREG | 0644);
	fill(fs, f, 0, 300000, 'b');
	f = make(fs, d, "sparse", S_IFREG | 0644);
	fill(fs, f, 10 * MIB, 5000, 'c');
	f = make(fs, d, "promised", S_IFREG | 0644);
	OK(fs_fallocate(fs, &root, f, 0, 0, 200000));
	f = make(fs, d, "named twice", S_IFREG | 0644);
	fill(fs, f, 0, 8192, 'd');
	link_to(fs, f, e, "second name");
	OK(fs_setxattr(fs, &root, f, "user.one", "1", 1, 0));
	OK(fs_setxattr(fs, &root, d, "user.of.dir", "x", 1, 0));
	OK(fs_symlink(fs, &root, d, "link", "to/nowhere", &a));
	fs_forget(fs, a.ino, 1);
	make(fs, e, "fifo", S_IFIFO | 0600);
	make(fs, e, "device", S_IFCHR | 0600);
	make(fs, e, "goes", S_IFREG | 0600);
	make(fs, FS_ROOT_INO, "empty", S_IFDIR | 0711);
	OK(fs_set_policy(fs, &root, d, "quota.max_bytes", "99000000"));
}

/* Everything that can become of what first_tree() made. */
static void second_tree(struct fs *fs)
{
	uint64_t d = at_path(fs, FS_ROOT_INO, "d"), e = at_path(fs, d, "e"), f;

	fill(fs, at_path(fs, d, "small"), 3, 5000, 'A');
	fill(fs, at_path(fs, d, "large"), 100000, 100, 'B');
	file_resize(fs, at_path(fs, d, "sparse"), 10 * MIB + 1);
	fill(fs, at_path(fs, d, "promised"), 4096, 4096, 'p');
	f = at_path(fs, d, "named twice");
	OK(fs_unlink(fs, &root, d, "named twice"));
	link_to(fs, f, FS_ROOT_INO, "third name");
	OK(fs_setxattr(fs, &root, f, "user.one", "2", 1, 0));
	OK(fs_setxattr(fs, &root, f, "user.two", "22", 2, 0));
	OK(fs_removexattr(fs, &root, d, "user.of.dir"));
	OK(fs_unlink(fs, &root, d, "link"));
	OK(fs_unlink(fs, &root, e, "goes"));
	OK(fs_rename(fs, &root, e, "fifo", d, "moved fifo", 0));
	OK(fs_rename(fs, &root, d, "e", FS_ROOT_INO, "e moved", 0));
	OK(fs_rmdir(fs, &root, FS_ROOT_INO, "empty"));
	chmod_to(fs, e, 0755);
	fill(fs, make(fs, d, "new", S_IFREG | 0640), 0, 70000, 'n');
	OK(fs_set_policy(fs, &root, d, "quota.max_bytes", NULL));
	OK(fs_set_policy(fs, &root, e, "quota.max_files", "50"));
	OK(fs_set_policy(fs, &root, FS_ROOT_INO, "durability", "local"));
}

static void third_tree(struct fs *fs)
{
	uint64_t d = at_path(fs, FS_ROOT_INO, "d"), e = at_path(fs, FS_ROOT_INO, "e moved");

	OK(fs_rename(fs, &root, d, "large", d, "new", 0));
	OK(fs_rename(fs, &root, d, "small", e, "device", RENAME_EXCHANGE));
	OK(fs_unlink(fs, &root, FS_ROOT_INO, "third name"));
	OK(fs_unlink(fs, &root, e, "second name"));
	OK(fs_fallocate(fs, &root, at_path(fs, d, "sparse"), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 10 * MIB));
	make(fs, FS_ROOT_INO, "empty", S_IFDIR | 0700);
	fill(fs, make(fs, FS_ROOT_INO, "late", S_IFREG | 0600), MIB, 100000, 'l');
	OK(fs_unlink(fs, &root, d, "promised"));
}

/* Nothing of the others is left. */
static void fourth_tree(struct fs *fs)
{
	uint64_t d = at_path(fs, FS_ROOT_INO, "d"), e = at_path(fs, FS_ROOT_INO, "e moved");

	OK(fs_unlink(fs, &root, d, "new"));
	OK(fs_unlink(fs, &root, d, "small"));
	OK(fs_unlink(fs, &root, d, "sparse"));
	OK(fs_unlink(fs, &root, d, "moved fifo"));
	OK(fs_unlink(fs, &root, e, "device"));
	OK(fs_rmdir(fs, &root, FS_ROOT_INO, "e moved"));
	OK(fs_unlink(fs, &root, FS_ROOT_INO, "late"));
}

static void (*const stage[STAGES])(struct fs *fs) = {first_tree, second_tree, third_tree, fourth_tree};

struct world {
	struct volume v;
	struct tree tree[STAGES]; /* when snapshot "sI" was made */
};

/* Without what is below .clawfs: snapshots come and go. */
static void read_tree(struct fs *fs, struct tree *ret)
{
	char why[512] = "";
	size_t n = 0;

	if (tree_read(fs, ret, why, sizeof(why)) < 0)
		fail_msg("%s", why);
	for (size_t i = 0; i < ret->n; i++)
		if (strncmp(ret->e[i].path, "/.clawfs", 8) == 0)
			free(ret->e[i].path);
		else
			ret->e[n++] = ret->e[i];
	ret->n = n;
	tree_sort(ret);
}

static void is_tree(struct fs *fs, const struct tree *want, const char *when)
{
	struct tree got = {0};
	char text[512];

	read_tree(fs, &got);
	if (tree_diff(&got, want, text, sizeof(text)))
		fail_msg("%s: %s", when, text);
	tree_free(&got);
}

static struct world *world_open(void)
{
	struct world *w = calloc(1, sizeof(*w));
	char name[16];

	volume_open(&w->v, NULL);
	for (unsigned i = 0; i < STAGES; i++) {
		stage[i](w->v.fs);
		read_tree(w->v.fs, &w->tree[i]);
		snap_name(i, name);
		OK(fs_snap_create(w->v.fs, &root, name));
		steps_reap(w->v.fs);
	}
	return w;
}

static void world_close(struct world *w)
{
	for (unsigned i = 0; i < STAGES; i++)
		tree_free(&w->tree[i]);
	volume_close(&w->v);
	free(w);
}

static void back_to(struct world *w, unsigned i, bool keep)
{
	char name[16];

	snap_name(i, name);
	OK(fs_snap_rollback(w->v.fs, &root, name, keep));
	is_tree(w->v.fs, &w->tree[i], name);
}

static bool has_policy(struct fs *fs, uint64_t ino, const char *key)
{
	char text[FS_POLICY_MAX + 1];

	return fs_get_policy(fs, ino, key, false, text) == 0;
}

static void check_policies(struct fs *fs, unsigned i)
{
	assert_int_equal(has_policy(fs, at_path(fs, FS_ROOT_INO, "d"), "quota.max_bytes"), i == 0);
	assert_true(has_policy(fs, FS_ROOT_INO, "durability"));
}

/* From each state to each, and once more to where it is; a change between that is lost; a restart, cleanly or not. */
static void each_tree_comes_back_from_each(void **state)
{
	struct world *w = world_open();
	unsigned n = 0;

	(void)state;
	for (unsigned from = 0; from < STAGES; from++)
		for (unsigned to = 0; to < STAGES; to++, n++) {
			back_to(w, from, false);
			if (n % 3)
				fill(w->v.fs, make(w->v.fs, at_path(w->v.fs, FS_ROOT_INO, "d"), "between", S_IFREG | 0600), 0,
				     9000, '!');
			if (n % 2)
				steps_home(w->v.fs);
			if (n % 5 == 0)
				steps_reap(w->v.fs);
			back_to(w, to, false);
			check_policies(w->v.fs, to);
			steps_home(w->v.fs);
			assert_sound(w->v.fs);
			back_to(w, to, false);
			if (n % 4 == 1)
				volume_reopen(&w->v, n % 8 == 1);
			is_tree(w->v.fs, &w->tree[to], "after all of it");
			steps_reap(w->v.fs);
			steps_home(w->v.fs);
			assert_sound(w->v.fs);
		}
	world_close(w);
}

/* What was there before is a snapshot then; so nothing is lost by going back, and back again. */
static int last_name(void *ctx, const struct fs_snap *s)
{
	memcpy(ctx, s->name, sizeof(s->name));
	return 0;
}

static void the_present_is_kept(void **state)
{
	struct world *w = world_open();
	char kept[RECORD_NAME_MAX + 1], again[RECORD_NAME_MAX + 1];
	struct tree now = {0};

	(void)state;
	fill(w->v.fs, make(w->v.fs, FS_ROOT_INO, "just written", S_IFREG | 0600), 0, 100000, 'j');
	read_tree(w->v.fs, &now);
	back_to(w, 1, true);
	OK(fs_snap_each(w->v.fs, false, last_name, kept));
	assert_int_equal(strncmp(kept, "before-rollback-", 16), 0);
	assert_int_equal(strlen(kept), strlen("before-rollback-20000101-000000"));
	back_to(w, 2, true); /* within the same second, as likely as not */
	OK(fs_snap_each(w->v.fs, false, last_name, again));
	assert_string_not_equal(kept, again);
	volume_reopen(&w->v, true);
	OK(fs_snap_rollback(w->v.fs, &root, again, false));
	is_tree(w->v.fs, &w->tree[1], again);
	OK(fs_snap_rollback(w->v.fs, &root, kept, false));
	is_tree(w->v.fs, &now, kept);
	steps_reap(w->v.fs);
	steps_home(w->v.fs);
	assert_sound(w->v.fs);
	tree_free(&now);
	world_close(w);
}

/* Back and back, then every snapshot goes, in each order: what is in use then is what the tree has (fsck says so). */
static void all_snapshots_may_go_afterwards(void **state)
{
	(void)state;
	for (unsigned order = 0; order < 4 * 3 * 2; order++) {
		unsigned left[STAGES] = {0, 1, 2, 3}, rest = order;
		struct world *w = world_open();

		back_to(w, order % STAGES, false);
		fill(w->v.fs, make(w->v.fs, FS_ROOT_INO, "more", S_IFREG | 0600), 0, 30000, 'm');
		back_to(w, order / 6, false);
		for (unsigned n = STAGES; n > 0; rest /= n--) {
			unsigned i = rest % n;
			char name[16];

			snap_name(left[i], name);
			OK(fs_snap_delete(w->v.fs, &root, name));
			memmove(&left[i], &left[i + 1], (n - i - 1) * sizeof(*left));
			if (order % 2)
				steps_snaps(w->v.fs);
			is_tree(w->v.fs, &w->tree[order / 6], name);
			steps_home(w->v.fs);
			assert_sound(w->v.fs);
		}
		steps_snaps(w->v.fs);
		steps_reap(w->v.fs);
		OK(fs_checkpoint(w->v.fs));
		assert_sound(w->v.fs);
		volume_reopen(&w->v, order % 2);
		is_tree(w->v.fs, &w->tree[order / 6], "all are gone");
		world_close(w);
	}
}

/* No number of an inode is given out again, and no place in a directory. */
static void numbers_go_on(void **state)
{
	struct volume v;

	(void)state;
	volume_open(&v, NULL);
	OK(fs_snap_create(v.fs, &root, "s"));
	uint64_t ino = make(v.fs, v.dir, "a", S_IFREG | 0600);
	struct inode before, after;
	OK(icache_copy(v.fs->icache, v.dir, &before));
	for (unsigned i = 0; i < 3; i++) {
		OK(fs_snap_rollback(v.fs, &root, "s", false));
		OK(icache_copy(v.fs->icache, v.dir, &after));
		assert_int_equal(after.next_cookie, before.next_cookie);
		assert_int_equal(after.size, before.size - 1);
		uint64_t next = make(v.fs, v.dir, "a", S_IFREG | 0600);
		assert_true(next > ino);
		ino = next;
		OK(icache_copy(v.fs->icache, v.dir, &before));
		volume_reopen(&v, i == 1);
	}
	volume_close(&v);
}

/*
 * A file that is open while the tree goes back: one that the snapshot has not is gone for whoever has it open; one that had no
 * name any more and has it again is not reaped when it is closed.
 */
static void open_files_do_not_disturb(void **state)
{
	_Alignas(DISK_BLOCK) uint8_t room[3 * BLOCK_SIZE];
	struct fs_attr a, b;
	struct volume v;
	uint8_t *at;
	size_t len;

	(void)state;
	volume_open(&v, NULL);
	fs_forget(v.fs, v.file, 1); /* of making it */
	fill(v.fs, v.file, 0, 5, 'x');
	OK(fs_snap_create(v.fs, &root, "s"));
	OK(fs_lookup(v.fs, v.dir, "name", &a));
	OK(fs_unlink(v.fs, &root, v.dir, "name"));
	OK(fs_mknod(v.fs, &root, v.dir, "new", S_IFREG | 0600, 0, &b));
	fill(v.fs, b.ino, 0, 100000, 'y');
	OK(fs_snap_rollback(v.fs, &root, "s", false));
	assert_int_equal(fs_read(v.fs, b.ino, 0, 1, room, (void **)&at, &len), -ENOENT);
	assert_int_equal(fs_write(v.fs, &root, b.ino, 0, 1, "z", false), -ENOENT);
	assert_int_equal(fs_getattr(v.fs, b.ino, &b), -ENOENT);
	OK(fs_read(v.fs, a.ino, 0, 5, room, (void **)&at, &len));
	assert_int_equal(len, 5);
	assert_int_equal(at[4], 'x');
	fs_forget(v.fs, a.ino, 1);
	fs_forget(v.fs, b.ino, 1);
	steps_reap(v.fs);
	OK(fs_lookup(v.fs, v.dir, "name", &a));
	fs_forget(v.fs, a.ino, 1);
	steps_home(v.fs);
	assert_sound(v.fs);
	/* The other way round: it is an orphan in the snapshot, and open. */
	OK(fs_lookup(v.fs, v.dir, "name", &a));
	OK(fs_unlink(v.fs, &root, v.dir, "name"));
	OK(fs_snap_create(v.fs, &root, "orphan"));
	OK(fs_snap_rollback(v.fs, &root, "s", false));
	OK(fs_snap_rollback(v.fs, &root, "orphan", false));
	OK(fs_read(v.fs, a.ino, 0, 5, room, (void **)&at, &len));
	assert_int_equal(at[0], 'x');
	steps_reap(v.fs);
	OK(fs_getattr(v.fs, a.ino, &b));
	fs_forget(v.fs, a.ino, 1);
	steps_reap(v.fs);
	assert_int_equal(fs_getattr(v.fs, a.ino, &b), -ENOENT);
	steps_home(v.fs);
	assert_sound(v.fs);
	volume_close(&v);
}

/* What cannot be gone back to changes nothing. */
static void what_is_not_there_is_refused(void **state)
{
	char name[RECORD_NAME_MAX + 2];
	struct world *w = world_open();
	struct tree now = {0};

	(void)state;
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	read_tree(w->v.fs, &now);
	assert_int_equal(fs_snap_rollback(w->v.fs, &root, "none", true), -ENOENT);
	assert_int_equal(fs_snap_rollback(w->v.fs, &root, "", true), -ENOENT);
	assert_int_equal(fs_snap_rollback(w->v.fs, &root, name, true), -ENOENT);
	volume_reopen(&w->v, false); /* nothing is open */
	OK(w->v.fs->kv->ops->snapshot_remove(w->v.fs->kv, 1));
	assert_int_equal(fs_snap_rollback(w->v.fs, &root, "s1", true), -EIO);
	volume_reopen(&w->v, true);
	OK(fs_snap_delete(w->v.fs, &root, "s1"));
	is_tree(w->v.fs, &now, "refused");
	back_to(w, 0, false);
	tree_free(&now);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_tree_comes_back_from_each),  cmocka_unit_test(the_present_is_kept),
	    cmocka_unit_test(all_snapshots_may_go_afterwards), cmocka_unit_test(numbers_go_on),
	    cmocka_unit_test(open_files_do_not_disturb),       cmocka_unit_test(what_is_not_there_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
