/*
 * test_tier_policy.c: the policies of cold data (tier_policy.c): what may be said, what it means, and what is inherited.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/tier_volume.h"

#define DAY (24 * HOUR_NS)

static struct tiered t;

static int make(void **state)
{
	(void)state;
	tiered_open_with(&t, STORE_OPTIONS);
	return 0;
}

static int drop(void **state)
{
	(void)state;
	tiered_close(&t);
	return 0;
}

static void what_is_said_is_understood(void **state)
{
	static const struct {
		const char *text;
		int64_t after_ns;
		uint64_t min_bytes;
		const char *store;
	} cases[] = {
	    {"after=30d min=64K store=s3", 30 * DAY, 64 * KIB, "s3"},
	    {"store=s3 min=64k after=30d", 30 * DAY, 64 * KIB, "s3"},
	    {"store=a", 30 * DAY, 0, "a"},
	    {" store=a ", 30 * DAY, 0, "a"},
	    {"store=a  after=0", 0, 0, "a"},
	    {"after=90 store=a", 90 * NSEC_PER_SEC, 0, "a"},
	    {"after=90s store=a", 90 * NSEC_PER_SEC, 0, "a"},
	    {"after=5m store=a", 300 * NSEC_PER_SEC, 0, "a"},
	    {"after=12h store=a", 12 * HOUR_NS, 0, "a"},
	    {"after=2w store=a", 14 * DAY, 0, "a"},
	    {"after=36600d store=a", 36600 * DAY, 0, "a"},
	    {"min=1 store=a", 30 * DAY, 1, "a"},
	    {"min=10M store=a", 30 * DAY, 10 * MIB, "a"},
	    {"min=1G store=a-b_c0", 30 * DAY, GIB, "a-b_c0"},
	    {"store=abcdefghijklmnopqrstuvwxyz012345", 30 * DAY, 0, "abcdefghijklmnopqrstuvwxyz012345"},
	};
	struct tier_policy p;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(tier_policy_parse(cases[i].text, &p), 0);
		assert_false(p.off || p.pinned);
		assert_int_equal(p.after_ns, cases[i].after_ns);
		assert_int_equal(p.min_bytes, cases[i].min_bytes);
		assert_string_equal(p.store, cases[i].store);
	}
	assert_int_equal(tier_policy_parse("none", &p), 0);
	assert_true(p.off);
}

static const char *const nonsense[] = {
    "",
    " ",
    "all",
    "None",
    "none ",
    "none store=a",
    "after=30d",
    "after=30d min=64K",
    "store",
    "store=",
    "store=A",
    "store=-a",
    "store=a/b",
    "store=abcdefghijklmnopqrstuvwxyz0123456",
    "store=a store=a",
    "store=a after=1d after=1d",
    "store=a min=1 min=2",
    "store=a after=",
    "store=a after=-1d",
    "store=a after=1.5d",
    "store=a after=1y",
    "store=a after=36601d",
    "store=a after=99999999999999999999d",
    "store=a min=",
    "store=a min=-1",
    "store=a min=1X",
    "store=a min=99999999999999999999",
    "store=a min=2000000T",
    "store=a what=1",
    "store=a =1",
    "store=a,after=1d",
    "store=a\tafter=1d",
    "store=a after=1d\n",
    "store="
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    "aaaaaa",
};

static void nonsense_is_refused_and_changes_nothing(void **state)
{
	char value[FS_POLICY_MAX + 1];
	struct tier_policy p;

	(void)state;
	assert_int_equal(fs_set_policy(t.v.fs, &root, t.v.dir, "tier", "store=s"), 0);
	for (size_t i = 0; i < ARRAY_SIZE(nonsense); i++) {
		p.min_bytes = 77;
		assert_int_equal(tier_policy_parse(nonsense[i], &p), -EINVAL);
		assert_int_equal(p.min_bytes, 77);
		assert_int_equal(fs_set_policy(t.v.fs, &root, t.v.dir, "tier", nonsense[i]), -EINVAL);
	}
	assert_int_equal(fs_get_policy(t.v.fs, t.v.dir, "tier", false, value), 0);
	assert_string_equal(value, "store=s");
}

static void pins_and_recalls_take_their_words_only(void **state)
{
	static const char *const good[][2] = {
	    {"tier.pin", "on"}, {"tier.pin", "off"}, {"recall", "cache"}, {"recall", "stream"}, {"recall", "deny"}};
	static const char *const bad[][2] = {{"tier.pin", ""},   {"tier.pin", "yes"}, {"tier.pin", "on "}, {"recall", ""},
					     {"recall", "none"}, {"recall", "Deny"},  {"recall", "cache "}};
	static const char *const unknown[] = {"tier.", "tier.pins", "tier.store.", "recalls", "tie", "tier.key", "tier.keys", ""};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(fs_set_policy(t.v.fs, &root, t.v.dir, good[i][0], good[i][1]), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(fs_set_policy(t.v.fs, &root, t.v.dir, bad[i][0], bad[i][1]), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
		assert_int_equal(fs_set_policy(t.v.fs, &root, FS_ROOT_INO, unknown[i], "on"), -EOPNOTSUPP);
		assert_int_equal(fs_set_policy(t.v.fs, &root, FS_ROOT_INO, unknown[i], NULL), -EOPNOTSUPP);
	}
}

/* The volume's key is there, and cannot be read, replaced or unset from outside. */
static void the_key_is_nobodys_policy(void **state)
{
	char value[FS_POLICY_MAX + 1];
	struct pack_volume_key key;

	(void)state;
	assert_int_equal(stores_key(t.v.fs, &key), 0);
	assert_int_equal(fs_get_policy(t.v.fs, FS_ROOT_INO, "tier.key", false, value), -ENODATA);
	assert_int_equal(fs_get_policy(t.v.fs, t.v.dir, "tier.key", true, value), -ENODATA);
	assert_int_equal(fs_set_policy(t.v.fs, &root, FS_ROOT_INO, "tier.key", "00"), -EOPNOTSUPP);
	assert_int_equal(fs_set_policy(t.v.fs, &root, FS_ROOT_INO, "tier.key", NULL), -EOPNOTSUPP);
}

static struct tier_policy get(uint64_t ino)
{
	struct tier_policy p;

	assert_int_equal(tier_policy_get(t.v.fs, ino, &p), 0);
	return p;
}

static enum recall_mode mode(uint64_t ino)
{
	enum recall_mode m;

	assert_int_equal(recall_mode_get(t.v.fs, ino, &m), 0);
	return m;
}

static void the_nearest_counts_each_by_itself(void **state)
{
	struct fs *fs = t.v.fs;

	(void)state;
	assert_true(get(t.v.file).off && !get(t.v.file).pinned);
	assert_int_equal(mode(t.v.file), RECALL_CACHE);
	assert_int_equal(fs_set_policy(fs, &root, FS_ROOT_INO, "tier", "store=a min=5"), 0);
	assert_int_equal(fs_set_policy(fs, &root, FS_ROOT_INO, "recall", "deny"), 0);
	assert_string_equal(get(t.v.file).store, "a");
	assert_int_equal(mode(t.v.file), RECALL_DENY);
	assert_int_equal(fs_set_policy(fs, &root, t.v.dir, "tier.pin", "on"), 0);
	assert_string_equal(get(t.v.file).store, "a");
	assert_true(get(t.v.file).pinned && !get(FS_ROOT_INO).pinned);
	assert_int_equal(fs_set_policy(fs, &root, t.v.file, "tier.pin", "off"), 0);
	assert_false(get(t.v.file).pinned);
	assert_int_equal(fs_set_policy(fs, &root, t.v.dir, "tier", "none"), 0);
	assert_true(get(t.v.file).off);
	assert_int_equal(fs_set_policy(fs, &root, t.v.file, "tier", "store=b"), 0);
	assert_string_equal(get(t.v.file).store, "b");
	assert_int_equal(fs_set_policy(fs, &root, t.v.file, "recall", "stream"), 0);
	assert_int_equal(mode(t.v.file), RECALL_STREAM);
	tiered_reopen(&t, true);
	assert_string_equal(get(t.v.file).store, "b");
}

/* As a newer version could have set it. */
static void what_is_not_understood_lets_nothing_go(void **state)
{
	struct fs *fs = t.v.fs;

	(void)state;
	assert_int_equal(fs_set_policy(fs, &root, FS_ROOT_INO, "tier", "store=a"), 0);
	assert_int_equal(policy_set(fs, &root, t.v.dir, "tier", "store=a phase=moon"), 0);
	assert_int_equal(policy_set(fs, &root, t.v.file, "tier.pin", "gently"), 0);
	assert_int_equal(policy_set(fs, &root, t.v.file, "recall", "tomorrow"), 0);
	assert_true(get(t.v.dir).off);
	assert_true(get(t.v.file).off && get(t.v.file).pinned);
	assert_int_equal(mode(t.v.file), RECALL_STREAM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_said_is_understood),
	    cmocka_unit_test_setup_teardown(nonsense_is_refused_and_changes_nothing, make, drop),
	    cmocka_unit_test_setup_teardown(pins_and_recalls_take_their_words_only, make, drop),
	    cmocka_unit_test_setup_teardown(the_key_is_nobodys_policy, make, drop),
	    cmocka_unit_test_setup_teardown(the_nearest_counts_each_by_itself, make, drop),
	    cmocka_unit_test_setup_teardown(what_is_not_understood_lets_nothing_go, make, drop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
