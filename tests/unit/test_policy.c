/*
 * test_policy.c: policies of policy.c: what may be set, what is inherited, and what outlives what.
 *
 * The table in memory is compared with a model over random changes; the one in the index by closing and killing the volume.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/core.h"
#include "fs/core/dump.h"
#include "fs/core/index.h"
#include "tests/lib/rng.h"
#include "tests/lib/steps.h"
#include "tests/unit/volume.h"

#define KEY "durability"

static struct volume vol;

static int make_volume(void **state)
{
	(void)state;
	volume_open(&vol, NULL);
	return 0;
}

static int free_volume(void **state)
{
	(void)state;
	volume_close(&vol);
	return 0;
}

static void set(uint64_t ino, const char *value)
{
	assert_int_equal(fs_set_policy(vol.fs, &root, ino, KEY, value), 0);
}

/* "" for none. */
static void expect(uint64_t ino, bool inherited, const char *want)
{
	char value[FS_POLICY_MAX + 1] = "";
	int r = fs_get_policy(vol.fs, ino, KEY, inherited, value);

	assert_int_equal(r, *want ? 0 : -ENODATA);
	assert_string_equal(value, want);
}

static uint64_t make(uint64_t parent, const char *name, uint32_t mode)
{
	struct fs_attr a;

	assert_int_equal(fs_mknod(vol.fs, &root, parent, name, mode, 0, &a), 0);
	return a.ino;
}

static struct fs_check_result check(char *ret_lines, size_t cap);

/* ---- the syntax ---- */

static void every_level_is_read_back(void **state)
{
	struct durability_level level;
	char text[64];

	(void)state;
	assert_int_equal(durability_parse("local", &level), 0);
	assert_int_equal(level.replicas, 0);
	for (uint32_t k = 1; k <= 15; k++)
		for (int els = 0; els < 2; els++) {
			snprintf(text, sizeof(text), "replicas=%u%s", k, els ? ",else=local" : "");
			assert_int_equal(durability_parse(text, &level), 0);
			assert_int_equal(level.replicas, k);
			assert_int_equal(level.else_local, els);
		}
}

static void anything_else_is_no_level(void **state)
{
	static const char *const wrong[] = {
	    "",
	    " ",
	    "Local",
	    "LOCAL",
	    " local",
	    "local ",
	    "local\n",
	    "local,",
	    "loca",
	    "locals",
	    "local,else=local",
	    "replicas",
	    "replicas=",
	    "replicas=,else=local",
	    "replicas=0",
	    "replicas=00",
	    "replicas=01",
	    "replicas=0,else=local",
	    "replicas=16",
	    "replicas=150",
	    "replicas=4294967297",
	    "replicas=18446744073709551617",
	    "replicas=99999999999999999999999999999999999999",
	    "replicas=-1",
	    "replicas=+1",
	    "replicas= 1",
	    "replicas=1 ",
	    "replicas=1\n",
	    "replicas=0x1",
	    "replicas=1.0",
	    "replicas=1e0",
	    "replicas=one",
	    "replicas=1,",
	    "replicas=1,else",
	    "replicas=1,else=",
	    "replicas=1,else=locals",
	    "replicas=1,else=wait",
	    "replicas=1, else=local",
	    "replicas=1,else=local,",
	    "replicas=1,else=local,else=local",
	    "replicas=1;else=local",
	    "replicas=1else=local",
	    "else=local,replicas=1",
	    "replicas=1,replicas=2",
	    "replicas==1",
	    "REPLICAS=1",
	    "replica=1",
	    "\xff\xfe",
	};
	struct durability_level level;
	char text[320];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		if (durability_parse(wrong[i], &level) != -EINVAL)
			fail_msg("\"%s\" was taken", wrong[i]);
		assert_int_equal(fs_set_policy(vol.fs, &root, vol.dir, KEY, wrong[i]), -EINVAL);
	}
	for (size_t len = 1; len < sizeof(text) - 1; len++) { /* digits without end */
		snprintf(text, sizeof(text), "replicas=%.*d", (int)len, 1);
		if (len > 1)
			assert_int_equal(durability_parse(text, &level), -EINVAL);
	}
	expect(vol.dir, false, "");
}

/* Each byte of a good value, by each other byte: only the digit may be another one. */
static void a_changed_byte_is_another_level_or_none(void **state)
{
	static const char good[] = "replicas=3,else=local";
	struct durability_level level;
	char text[sizeof(good)];
	unsigned taken = 0;

	(void)state;
	for (size_t at = 0; at < sizeof(good) - 1; at++)
		for (int byte = 0; byte < 256; byte++) {
			memcpy(text, good, sizeof(good));
			text[at] = (char)byte;
			int r = durability_parse(text, &level);
			bool same = text[at] == good[at], digit = at == 9 && byte >= '1' && byte <= '9',
			     end = byte == 0 && at == 10; /* "replicas=3" */
			assert_int_equal(r, same || digit || end ? 0 : -EINVAL);
			taken += r == 0;
		}
	assert_int_equal(taken, sizeof(good) - 1 + 8 + 1);
}

static void only_known_keys_are_set(void **state)
{
	static const char *const keys[] = {"", "durabilit", "durabilityx", "Durability", "sync", "status", "a/b"};
	char value[FS_POLICY_MAX + 1];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		assert_int_equal(fs_set_policy(vol.fs, &root, vol.dir, keys[i], "local"), -EOPNOTSUPP);
		assert_int_equal(fs_set_policy(vol.fs, &root, vol.dir, keys[i], NULL), -EOPNOTSUPP);
		assert_int_equal(fs_get_policy(vol.fs, vol.dir, keys[i], true, value), -ENODATA);
	}
	assert_int_equal(fs_set_policy(vol.fs, &root, 12345, KEY, "local"), -ENOENT);
}

/* ---- what is inherited ---- */

static void what_lies_below_inherits_what_is_nearest(void **state)
{
	uint64_t deep = make(vol.dir, "deep", S_IFDIR | 0755), file = make(deep, "file", S_IFREG | 0644);

	(void)state;
	expect(file, true, "");
	set(FS_ROOT_INO, "replicas=1");
	expect(FS_ROOT_INO, true, "replicas=1");
	expect(file, true, "replicas=1");
	expect(file, false, "");
	set(vol.dir, "replicas=2,else=local");
	expect(file, true, "replicas=2,else=local");
	expect(FS_ROOT_INO, true, "replicas=1");
	set(deep, "local");
	expect(file, true, "local");
	expect(vol.file, true, "replicas=2,else=local");
	set(file, "replicas=15");
	expect(file, true, "replicas=15");
	expect(file, false, "replicas=15");
	set(file, NULL);
	set(deep, NULL);
	expect(file, true, "replicas=2,else=local");
	set(vol.dir, NULL);
	set(FS_ROOT_INO, NULL);
	expect(file, true, "");
	assert_false(fs_has_policies(vol.fs));
}

static void unsetting_what_is_not_set_says_so(void **state)
{
	(void)state;
	set(FS_ROOT_INO, "replicas=1");
	assert_int_equal(fs_set_policy(vol.fs, &root, vol.dir, KEY, NULL), -ENODATA);
	set(FS_ROOT_INO, NULL);
	assert_int_equal(fs_set_policy(vol.fs, &root, FS_ROOT_INO, KEY, NULL), -ENODATA);
}

static void what_is_moved_inherits_where_it_is(void **state)
{
	uint64_t other = make(FS_ROOT_INO, "other", S_IFDIR | 0755);
	struct fs_attr a;

	(void)state;
	set(vol.dir, "replicas=1");
	set(other, "replicas=2");
	expect(vol.file, true, "replicas=1");
	assert_int_equal(fs_rename(vol.fs, &root, vol.dir, "name", other, "name", 0), 0);
	expect(vol.file, true, "replicas=2");
	assert_int_equal(fs_link(vol.fs, &root, vol.file, vol.dir, "name", &a), 0); /* the newest name counts */
	expect(vol.file, true, "replicas=1");
}

static void what_was_unlinked_belongs_where_it_was_or_to_the_volume(void **state)
{
	uint64_t dir = make(FS_ROOT_INO, "gone", S_IFDIR | 0755), file = make(dir, "file", S_IFREG | 0644);

	(void)state;
	set(FS_ROOT_INO, "replicas=3");
	set(dir, "replicas=1");
	assert_int_equal(fs_unlink(vol.fs, &root, dir, "file"), 0);
	expect(file, true, "replicas=1");
	assert_int_equal(fs_rmdir(vol.fs, &root, FS_ROOT_INO, "gone"), 0);
	fs_forget(vol.fs, dir, 1);
	steps_reap(vol.fs);
	expect(dir, false, "");
	expect(file, true, "replicas=3");
}

static void what_lies_too_deep_has_the_policy_of_the_volume(void **state)
{
	enum { DEPTH = 4200, ABOVE = 50 };
	uint64_t dir[DEPTH + 1] = {FS_ROOT_INO};

	(void)state;
	for (unsigned i = 1; i <= DEPTH; i++)
		dir[i] = make(dir[i - 1], "d", S_IFDIR | 0755);
	set(dir[ABOVE], "replicas=1");
	expect(dir[ABOVE + 4000], true, "replicas=1");
	expect(dir[DEPTH], true, "");
	set(FS_ROOT_INO, "replicas=2");
	expect(dir[ABOVE + 4000], true, "replicas=1");
	expect(dir[DEPTH], true, "replicas=2");
}

/* ---- what it is and is not ---- */

static void a_policy_changes_ctime_and_is_no_attribute(void **state)
{
	struct fs_attr before, after;
	size_t len = 1;
	char byte;

	(void)state;
	volume_reopen(&vol, false); /* nothing is dirty */
	assert_int_equal(fs_getattr(vol.fs, vol.file, &before), 0);
	set(vol.file, "replicas=1");
	assert_int_equal(fs_getattr(vol.fs, vol.file, &after), 0);
	assert_true(after.ctime_ns > before.ctime_ns);
	assert_int_equal(after.mtime_ns, before.mtime_ns);
	int64_t ctime_ns = after.ctime_ns;
	volume_reopen(&vol, false);
	assert_int_equal(fs_getattr(vol.fs, vol.file, &after), 0);
	assert_int_equal(after.ctime_ns, ctime_ns);
	assert_int_equal(fs_listxattr(vol.fs, vol.file, NULL, 0, &len), 0);
	assert_int_equal(len, 0);
	assert_int_equal(fs_getxattr(vol.fs, vol.file, "clawfs." KEY, &byte, 1, &len), -ENODATA);
	assert_int_equal(fs_removexattr(vol.fs, &root, vol.file, "clawfs." KEY), -ENODATA);
	expect(vol.file, false, "replicas=1");
}

static void users_cannot_make_one_as_an_attribute(void **state)
{
	static const char *const names[] = {"clawfs.durability", "clawfs.", "clawfs.x", "clawfs.status"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		assert_int_equal(fs_setxattr(vol.fs, &root, vol.file, names[i], "local", 5, 0), -EOPNOTSUPP);
	assert_false(fs_has_policies(vol.fs));
}

static void records_are_told_from_those_of_attributes_by_their_name(void **state)
{
	(void)state;
	assert_true(policy_is(slice_of("clawfs.durability")));
	assert_true(policy_is(slice_of("clawfs.")));
	assert_false(policy_is(slice_of("clawfs")));
	assert_false(policy_is(slice_of("user.clawfs.")));
	assert_false(policy_is((struct slice){"clawfs.x", 6}));
}

static void a_record_that_cannot_be_is_refused(void **state)
{
	char long_value[FS_POLICY_MAX + 1];
	struct record r = {.type = RECORD_SETXATTR, .ino = vol.file, .xattr = {.name = slice_of("clawfs.x")}};

	(void)state;
	memset(long_value, 'x', sizeof(long_value));
	r.xattr.value = (struct slice){long_value, sizeof(long_value)};
	assert_int_equal(policy_apply(vol.fs, &r), -EUCLEAN);
	r.xattr.value = (struct slice){"a\0b", 3};
	assert_int_equal(policy_apply(vol.fs, &r), -EUCLEAN);
	r.xattr.value = (struct slice){"", 0};
	assert_int_equal(policy_apply(vol.fs, &r), -EUCLEAN);
	r.xattr.value = slice_of("v");
	r.xattr.name = slice_of("clawfs.");
	assert_int_equal(policy_apply(vol.fs, &r), -EUCLEAN);
	r.type = RECORD_RMXATTR;
	assert_int_equal(policy_apply(vol.fs, &r), -EUCLEAN);
	assert_false(fs_has_policies(vol.fs));
}

/* As a newer version may have set it: kept, shown, and no fsync relies on it. */
static void what_this_version_does_not_know_is_kept(void **state)
{
	struct record r = {.type = RECORD_SETXATTR, .ino = vol.file};

	(void)state;
	r.xattr.name = slice_of("clawfs." KEY);
	r.xattr.value = slice_of("quorum");
	assert_int_equal(policy_apply(vol.fs, &r), 0);
	expect(vol.file, true, "quorum");
	set(FS_ROOT_INO, "local"); /* the journal has it, so that replay gives the same */
	assert_int_equal(fs_sync(vol.fs), 0);
}

static void a_follower_refuses(void **state)
{
	(void)state;
	atomic_store(&vol.fs->role, ROLE_FOLLOWER);
	assert_int_equal(fs_set_policy(vol.fs, &root, vol.dir, KEY, "local"), -EROFS);
	assert_int_equal(fs_set_policy(vol.fs, &root, vol.dir, KEY, NULL), -EROFS);
	atomic_store(&vol.fs->role, ROLE_LEADER);
}

/* ---- what outlives what ---- */

static void it_survives_a_clean_end_and_a_kill(void **state)
{
	(void)state;
	for (int killed = 0; killed < 2; killed++) {
		set(FS_ROOT_INO, "replicas=1");
		set(vol.dir, "replicas=2,else=local");
		set(vol.file, "local");
		volume_reopen(&vol, killed);
		expect(FS_ROOT_INO, false, "replicas=1");
		expect(vol.dir, false, "replicas=2,else=local");
		expect(vol.file, false, "local");
		set(vol.file, NULL);
		set(FS_ROOT_INO, "local");
		volume_reopen(&vol, killed);
		expect(FS_ROOT_INO, false, "local");
		expect(vol.dir, false, "replicas=2,else=local");
		expect(vol.file, false, "");
	}
}

static void it_goes_with_its_inode(void **state)
{
	uint64_t later = make(FS_ROOT_INO, "later", S_IFREG | 0644);

	(void)state;
	set(later, "local");
	set(vol.file, "local");
	set(vol.dir, "local");
	assert_int_equal(fs_unlink(vol.fs, &root, vol.dir, "name"), 0);
	expect(vol.file, false, "local"); /* it is still open */
	fs_forget(vol.fs, vol.file, 1);
	steps_reap(vol.fs);
	expect(vol.file, false, "");
	expect(vol.dir, false, "local");
	expect(later, false, "local");
	volume_reopen(&vol, true);
	expect(vol.file, false, "");
	expect(later, false, "local");
	assert_int_equal(check(NULL, 0).structure_errors, 0);
}

/* The rows of the index are loaded as they are, also over others in memory: as after a resync. */
static void loading_takes_what_the_index_says(void **state)
{
	struct index_key k = key_name(TABLE_POLICY, vol.dir, slice_of(KEY));
	struct kv_batch *b = index_batch();

	(void)state;
	set(vol.file, "local");
	kv_batch_put(b, key_slice(&k), slice_of("replicas=7"));
	k = key_name(TABLE_POLICY, vol.file, slice_of(KEY));
	kv_batch_delete(b, key_slice(&k));
	assert_int_equal(kv_write(vol.fs->kv, b), 0);
	expect(vol.dir, false, "");
	assert_int_equal(policies_load(vol.fs), 0);
	expect(vol.dir, false, "replicas=7");
	expect(vol.file, false, "");
}

static void rows_that_cannot_be_are_not_loaded(void **state)
{
	static const struct {
		const char *key;
		size_t key_len;
		const char *value;
		size_t value_len;
	} bad[] = {{"", 0, "v", 1}, {"k", 1, "", 0}, {"k\0", 2, "v", 1}, {"k", 1, "v\0", 2}};

	(void)state;
	set(vol.dir, "local");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct index_key k = key_name(TABLE_POLICY, vol.file, (struct slice){bad[i].key, bad[i].key_len});
		struct kv_batch *b = index_batch();

		kv_batch_put(b, key_slice(&k), (struct slice){bad[i].value, bad[i].value_len});
		assert_int_equal(kv_write(vol.fs->kv, b), 0);
		assert_int_equal(policies_load(vol.fs), -EUCLEAN);
		expect(vol.dir, false, "local"); /* what was there stays */
		b = index_batch();
		kv_batch_delete(b, key_slice(&k));
		assert_int_equal(kv_write(vol.fs->kv, b), 0);
	}
	assert_int_equal(policies_load(vol.fs), 0);
}

/* ---- many ---- */

#define N_FILES 60u

static void many_are_told_apart(void **state)
{
	static const char *const values[] = {"", "local", "replicas=1", "replicas=2,else=local"};
	unsigned model[N_FILES] = {0};
	uint64_t ino[N_FILES];
	struct rng g = {.state = 7};

	(void)state;
	for (unsigned i = 0; i < N_FILES; i++) {
		char name[16];

		snprintf(name, sizeof(name), "f%u", i);
		ino[i] = make(vol.dir, name, S_IFREG | 0644);
	}
	for (unsigned turn = 0; turn < 2000; turn++) {
		unsigned i = (unsigned)rng_below(&g, N_FILES), to = (unsigned)rng_below(&g, ARRAY_SIZE(values));
		int r = fs_set_policy(vol.fs, &root, ino[i], KEY, to ? values[to] : NULL);

		assert_int_equal(r, to || model[i] ? 0 : -ENODATA);
		model[i] = to;
		if (turn % 50 == 0)
			for (unsigned k = 0; k < N_FILES; k++)
				expect(ino[k], false, values[model[k]]);
		if (turn % 500 == 499)
			volume_reopen(&vol, turn % 1000 == 999);
	}
	for (unsigned k = 0; k < N_FILES; k++)
		expect(ino[k], true, values[model[k]]);
}

/* ---- fsck and dump ---- */

struct lines {
	char *p;
	size_t cap, len;
};

static void report(void *ctx, const char *line)
{
	struct lines *l = ctx;

	if (l->cap > l->len + strlen(line) + 1)
		l->len += (size_t)sprintf(l->p + l->len, "%s\n", line);
}

static struct fs_check_result check(char *ret_lines, size_t cap)
{
	struct lines l = {ret_lines, cap, 0};
	struct fs_check_result res;

	assert_int_equal(fs_check(vol.fs, false, report, &l, &res), 0);
	return res;
}

static void put_row(enum index_table table, uint64_t id, const char *key, struct slice value)
{
	struct index_key k = key_name(table, id, slice_of(key));
	struct kv_batch *b = index_batch();

	kv_batch_put(b, key_slice(&k), value);
	assert_int_equal(kv_write(vol.fs->kv, b), 0);
}

static void fsck_names_a_policy_without_an_inode(void **state)
{
	char lines[4096] = "";

	(void)state;
	set(vol.dir, "local");
	assert_int_equal(check(lines, sizeof(lines)).structure_errors, 0);
	put_row(TABLE_POLICY, 9999, KEY, slice_of("local"));
	assert_int_equal(check(lines, sizeof(lines)).structure_errors, 1);
	assert_non_null(strstr(lines, "9999"));
	assert_non_null(strstr(lines, "policies"));
}

static void fsck_names_a_history_that_contradicts_itself(void **state)
{
	const le64 seq[] = {le64_make(50), le64_make(40), le64_make(60)};
	char lines[4096] = "";

	(void)state;
	put_row(TABLE_HISTORY, epoch_make(20, 1), "", (struct slice){&seq[0], 8});
	put_row(TABLE_HISTORY, epoch_make(22, 1), "", (struct slice){&seq[2], 8});
	assert_int_equal(check(lines, sizeof(lines)).structure_errors, 0);
	put_row(TABLE_HISTORY, epoch_make(21, 1), "", (struct slice){&seq[1], 8});
	assert_int_equal(check(lines, sizeof(lines)).structure_errors, 1);
	assert_non_null(strstr(lines, "epochs"));
	put_row(TABLE_HISTORY, epoch_make(21, 1), "", (struct slice){&seq[0], 7});
	assert_int_equal(check(lines, sizeof(lines)).structure_errors, 1);
}

static void dump_shows_policies_and_epochs(void **state)
{
	const le64 seq = le64_make(1234);
	char *text = NULL;
	size_t len = 0;

	(void)state;
	set(vol.dir, "replicas=2");
	put_row(TABLE_HISTORY, epoch_make(77, 3), "", (struct slice){&seq, 8});
	FILE *f = open_memstream(&text, &len);
	assert_non_null(f);
	assert_int_equal(fs_dump_index(vol.fs, f, true), 0);
	fclose(f);
	assert_non_null(strstr(text, "\"key\":\"durability\",\"value\":\"replicas=2\""));
	assert_non_null(strstr(text, "\"epoch\":77,\"node\":3,\"after_seq\":1234"));
	assert_null(strstr(text, "unreadable"));
	free(text);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make_volume, free_volume)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_level_is_read_back),
	    CASE(anything_else_is_no_level),
	    cmocka_unit_test(a_changed_byte_is_another_level_or_none),
	    CASE(only_known_keys_are_set),
	    CASE(what_lies_below_inherits_what_is_nearest),
	    CASE(unsetting_what_is_not_set_says_so),
	    CASE(what_is_moved_inherits_where_it_is),
	    CASE(what_was_unlinked_belongs_where_it_was_or_to_the_volume),
	    CASE(what_lies_too_deep_has_the_policy_of_the_volume),
	    CASE(a_policy_changes_ctime_and_is_no_attribute),
	    CASE(users_cannot_make_one_as_an_attribute),
	    cmocka_unit_test(records_are_told_from_those_of_attributes_by_their_name),
	    CASE(a_record_that_cannot_be_is_refused),
	    CASE(what_this_version_does_not_know_is_kept),
	    CASE(a_follower_refuses),
	    CASE(it_survives_a_clean_end_and_a_kill),
	    CASE(it_goes_with_its_inode),
	    CASE(loading_takes_what_the_index_says),
	    CASE(rows_that_cannot_be_are_not_loaded),
	    CASE(many_are_told_apart),
	    CASE(fsck_names_a_policy_without_an_inode),
	    CASE(fsck_names_a_history_that_contradicts_itself),
	    CASE(dump_shows_policies_and_epochs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
