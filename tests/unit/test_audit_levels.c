/*
 * test_audit_levels.c: what is logged of which part of the tree, who may say so, and what becomes of attempts that are refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "fs/core/core.h"
#include "tests/lib/rng.h"
#include "tests/unit/audit_volume.h"

#define ACTOR 7u /* who makes changes, and nothing else does */

static const char *const words[] = {NULL, "off", "admin", "changes"}; /* NULL: says nothing */

static int64_t now_ns = 1000 * NSEC_PER_SEC;

static int64_t now(const struct clock *c)
{
	(void)c;
	return now_ns;
}
static const struct clock stepped = {now, now};

static struct fs_cred actor(uint64_t request)
{
	return (struct fs_cred){.uid = ACTOR, .unique = request};
}

static void change(uint64_t ino, uint64_t request)
{
	const struct record_attr mode = {.mask = ATTR_MODE, .mode = 0600};
	const struct fs_cred who = actor(request);
	struct fs_attr after;

	assert_int_equal(fs_setattr(vol.fs, &who, ino, &mode, &after), 0);
}

static void say(uint64_t ino, const char *word)
{
	int r = word ? set_as(&root, ino, "clawfs.audit", word) : control_remove(vol.fs, &root, ino, "clawfs.audit");

	assert_true(r == 0 || (!word && r == -ENODATA));
}

/* All that was done is in the log, or is not going to be. */
static void settle(void)
{
	assert_int_equal(fs_sync(vol.fs), 0);
	assert_int_equal(audit_archive(vol.fs), 0);
}

static bool is_of_actor(const json_t *entry, uint64_t request)
{
	const json_t *event = json_object_get(entry, "event");

	return event && number(event, "uid") == ACTOR && number(event, "request") == request;
}

/* How many entries there are of a change; the log was read. */
static size_t count(uint64_t request)
{
	size_t n = 0;

	for (size_t i = 0; i < all.n; i++)
		n += is_of_actor(all.entry[i], request);
	return n;
}

static size_t count_kind(const char *kind, const char *what)
{
	size_t n = 0;

	for (size_t i = 0; i < all.n; i++)
		n += strcmp(text(all.entry[i], "kind"), kind) == 0 && (!what || strcmp(text(all.entry[i], "what"), what) == 0);
	return n;
}

static const char *level_of(uint64_t ino)
{
	static char p[64];
	size_t len = 0;

	assert_int_equal(control_get(vol.fs, NULL, &owner, ino, "clawfs.audit", p, sizeof(p) - 1, &len), 0);
	p[len] = '\0';
	return p;
}

/* ---- levels ---- */

/* One combination: what holds for the file, and that acts and changes of it are logged as that says. */
static void try(enum fs_audit mount, const char *const said[3], uint64_t request)
{
	static const char *const mounts[] = {"off", "admin", "changes"};
	const uint64_t ino[] = {FS_ROOT_INO, vol.dir, vol.file};
	const char *want = mounts[mount], *seen;

	for (size_t i = 0; i < ARRAY_SIZE(ino); i++) {
		say(ino[i], said[i]);
		want = said[i] ? said[i] : want;
		seen = level_of(ino[i]);
		if (strcmp(seen, want) != 0)
			fail_msg("mount %s, %s/%s/%s: inode %llu has %s", mounts[mount], said[0], said[1], said[2],
				 (unsigned long long)ino[i], seen);
	}
	settle();
	read_log();
	size_t acts = count_kind("act", "set clawfs.durability"), levels = count_kind("act", "set clawfs.audit");
	change(vol.file, request);
	settle();
	assert_int_equal(set_as(&root, vol.file, "clawfs.durability", "local"), 0);
	say(vol.file, said[2]); /* it is logged that it is set, whatever the level */
	read_log();
	bool logs_changes = strcmp(want, "changes") == 0, logs_acts = strcmp(want, "off") != 0;
	if (count(request) != logs_changes || count_kind("act", "set clawfs.durability") != acts + logs_acts ||
	    count_kind("act", "set clawfs.audit") != levels + (said[2] != NULL))
		fail_msg("mount %s, %s/%s/%s: not what %s means", mounts[mount], said[0], said[1], said[2], want);
}

static void the_nearest_directory_that_says_something_decides(void **state)
{
	uint64_t request = 0;

	(void)state;
	for (unsigned mount = FS_AUDIT_OFF; mount <= FS_AUDIT_CHANGES; mount++) {
		open_with((enum fs_audit)mount, false);
		for (size_t i = 0; i < 64; i++) {
			const char *const said[] = {words[i / 16], words[i / 4 % 4], words[i % 4]};

			try((enum fs_audit)mount, said, ++request);
		}
		forget_log();
		if (mount != FS_AUDIT_CHANGES)
			volume_close(&vol);
	}
}

static void what_means_nothing_is_refused(void **state)
{
	static const char *const wrong[] = {"", "x", "all", "Admin", "admin ", "changes,off", "off\n"};

	(void)state;
	open_with(FS_AUDIT_ADMIN, false);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(set_as(&root, vol.dir, "clawfs.audit", wrong[i]), -EINVAL);
	assert_string_equal(level_of(vol.dir), "admin");
	assert_int_equal(set_as(&root, FS_ROOT_INO, "clawfs.audit.note", ""), -EINVAL);
	assert_int_equal(set_as(&root, vol.dir, "clawfs.audit.note", "x"), -EOPNOTSUPP);
}

static void only_root_sets_a_level_and_nobody_in_silence(void **state)
{
	const char *result;

	(void)state;
	open_with(FS_AUDIT_OFF, false);
	assert_int_equal(set_as(&owner, vol.dir, "clawfs.audit", "off"), -EPERM);
	assert_int_equal(set_as(&stranger, FS_ROOT_INO, "clawfs.audit", "off"), -EPERM);
	assert_int_equal(control_remove(vol.fs, &owner, vol.dir, "clawfs.audit"), -EPERM);
	read_log();
	assert_int_equal(count_kind("refused", NULL), 3);
	say(FS_ROOT_INO, "off");
	assert_string_equal(text(last_act(&result), "what"), "set clawfs.audit");
	assert_string_equal(result, "ok");
	simstore_fail(vol.sim, simstore_count(vol.sim) + 1, 1, -ENOSPC); /* the log's */
	assert_int_equal(set_as(&root, FS_ROOT_INO, "clawfs.audit", "admin"), -EIO);
	simstore_fail(vol.sim, simstore_count(vol.sim) + 1, 1, -ENOSPC);
	assert_int_equal(control_remove(vol.fs, &root, FS_ROOT_INO, "clawfs.audit"), -EIO);
	simstore_fail(vol.sim, 0, 0, 0);
	assert_string_equal(level_of(FS_ROOT_INO), "off");
	forget_log();
}

/* A mount with audit=off cannot be made without a trace where there is a log. */
static void the_log_says_when_a_mount_logs_less(void **state)
{
	size_t n = 0;

	(void)state;
	open_with(FS_AUDIT_ADMIN, false);
	assert_int_equal(set_as(&root, FS_ROOT_INO, "clawfs.checkpoint", "1"), 0);
	vol.config.audit = FS_AUDIT_OFF;
	volume_reopen(&vol, false);
	read_log();
	for (size_t i = 0; i < all.n; i++)
		n += strcmp(text(all.entry[i], "kind"), "level") == 0 && strcmp(text(all.entry[i], "level"), "off") == 0;
	assert_int_equal(n, 1);
	forget_log();
}

/* ---- what is moved ---- */

static uint64_t make(uint64_t dir, const char *name, uint32_t mode)
{
	struct fs_attr a;

	assert_int_equal(fs_mknod(vol.fs, &root, dir, name, mode, 0, &a), 0);
	return a.ino;
}

/* Each way to take a file out of a logged directory before the archive comes by; what was done to it before is there. */
static void what_leaves_a_logged_directory_was_logged_until_then(void **state)
{
	enum { MOVED, LINKED, UNLINKED, DIR_MOVED, DIR_GONE, WAYS };

	(void)state;
	for (unsigned way = 0; way < 2 * WAYS; way++) {
		open_with(FS_AUDIT_ADMIN, false);
		uint64_t other = make(FS_ROOT_INO, "other", S_IFDIR | 0755), below = make(vol.dir, "below", S_IFDIR | 0755);
		uint64_t file = make(below, "file", S_IFREG | 0644);
		struct fs_attr a;

		say(vol.dir, "changes");
		settle();
		change(file, 1);
		if (way >= WAYS)
			assert_int_equal(fs_sync(vol.fs), 0);
		switch (way % WAYS) {
		case MOVED:
			assert_int_equal(fs_rename(vol.fs, &root, below, "file", other, "file", 0), 0);
			break;
		case LINKED:
			assert_int_equal(fs_link(vol.fs, &root, file, other, "too", &a), 0);
			change(file, 2); /* by which name nobody knows */
			assert_int_equal(fs_unlink(vol.fs, &root, below, "file"), 0);
			break;
		case DIR_MOVED:
			assert_int_equal(fs_rename(vol.fs, &root, vol.dir, "below", other, "below", 0), 0);
			break;
		default:
			assert_int_equal(fs_unlink(vol.fs, &root, below, "file"), 0);
			if (way % WAYS == DIR_GONE)
				assert_int_equal(fs_rmdir(vol.fs, &root, vol.dir, "below"), 0);
		}
		bool there = way % WAYS != UNLINKED && way % WAYS != DIR_GONE;
		assert_int_equal(fs_sync(vol.fs), 0);
		if (there)
			change(file, 3); /* elsewhere now */
		settle();
		read_log();
		if (count(1) != 1 || count(3) != 0 || (way % WAYS == LINKED && count(2) != 1))
			fail_msg("way %u: %zu, %zu, %zu", way, count(1), count(2), count(3));
		forget_log();
		if (way + 1 < 2 * WAYS)
			volume_close(&vol);
	}
}

/* Changes in a tree whose levels change, some of it killed: what should be there is, and nothing that comes twice. */
static void nothing_that_is_to_be_logged_is_missing(void **state)
{
	enum { DIRS = 6, OPS = 1500 };
	struct rng rng = {.state = seed()};
	uint64_t dir[DIRS], file[DIRS], request = 0;
	static bool wanted[OPS + 1];
	unsigned at[DIRS]; /* where each file is; the directories are in a row, each in the one before */
	const char *said[DIRS] = {NULL};
	char name[16];

	(void)state;
	open_with(FS_AUDIT_ADMIN, false);
	for (unsigned i = 0; i < DIRS; i++) {
		dir[i] = make(i ? dir[i - 1] : FS_ROOT_INO, "d", S_IFDIR | 0755);
		snprintf(name, sizeof(name), "f%u", i);
		file[i] = make(dir[i], name, S_IFREG | 0644);
		at[i] = i;
	}
	while (request < OPS) {
		unsigned i = (unsigned)rng_below(&rng, DIRS), k = (unsigned)rng_below(&rng, DIRS);

		if (rng_percent(&rng, 3)) {
			said[k] = words[rng_below(&rng, ARRAY_SIZE(words))];
			say(dir[k], said[k]);
		} else if (rng_percent(&rng, 10)) {
			snprintf(name, sizeof(name), "f%u", i);
			if (at[i] != k)
				assert_int_equal(fs_rename(vol.fs, &root, dir[at[i]], name, dir[k], name, 0), 0);
			at[i] = k;
		} else if (rng_percent(&rng, 3)) {
			bool killed = rng_percent(&rng, 50);

			assert_int_equal(fs_sync(vol.fs), 0);
			volume_reopen(&vol, killed);
		} else if (rng_percent(&rng, 10)) {
			settle();
		} else {
			change(file[i], ++request);
			unsigned d = at[i];
			while (d && !said[d])
				d--;
			wanted[request] = said[d] && strcmp(said[d], "changes") == 0;
		}
	}
	settle();
	read_log();
	size_t extra = 0;
	for (uint64_t n = 1; n <= OPS; n++) {
		if (count(n) > 1 || (wanted[n] && count(n) != 1))
			fail_msg("seed %llu: change %llu is there %zu times", (unsigned long long)seed(), (unsigned long long)n,
				 count(n));
		extra += !wanted[n] && count(n);
	}
	if (extra > OPS / 2) /* those that were cut off by a crash, or in a batch with another level */
		fail_msg("seed %llu: %zu changes too many", (unsigned long long)seed(), extra);
	forget_log();
}

/* ---- refusals ---- */

static void attempts_that_are_refused_are_entered(void **state)
{
	char p[4096];
	size_t len;

	(void)state;
	open_with(FS_AUDIT_ADMIN, false);
	assert_int_equal(set_as(&stranger, vol.file, "clawfs.durability", "local"), -EPERM);
	assert_int_equal(control_remove(vol.fs, &stranger, vol.file, "clawfs.durability"), -EPERM);
	assert_int_equal(control_get(vol.fs, NULL, &stranger, FS_ROOT_INO, "clawfs.status", p, sizeof(p), &len), -EPERM);
	assert_int_equal(set_as(&stranger, FS_ROOT_INO, "clawfs.nothing", "x"), -EOPNOTSUPP); /* nothing to refuse */
	assert_int_equal(set_as(&root, vol.file, "clawfs.durability", "nonsense"), -EINVAL);  /* may, and was wrong */
	read_log();
	assert_int_equal(count_kind("refused", NULL), 3);
	assert_int_equal(count_kind("refused", "remove clawfs.durability"), 1);
	assert_int_equal(count_kind("refused", "get clawfs.status"), 1);
	for (size_t i = 0; i < all.n; i++)
		if (strcmp(text(all.entry[i], "what"), "set clawfs.durability") == 0 &&
		    strcmp(text(all.entry[i], "kind"), "refused") == 0) {
			assert_int_equal(number(all.entry[i], "uid"), stranger.uid);
			assert_string_equal(text(all.entry[i], "path"), "/sub/name");
			assert_string_equal(text(all.entry[i], "result"), strerror(EPERM));
			assert_string_equal(text(all.entry[i], "value"), ""); /* whatever a stranger wrote there */
		}
	say(vol.dir, "off");
	assert_int_equal(set_as(&stranger, vol.file, "clawfs.durability", "local"), -EPERM);
	read_log();
	assert_int_equal(count_kind("refused", NULL), 3);
	forget_log();
}

static void refuse(uint32_t uid, unsigned times)
{
	const struct fs_cred cred = {.uid = uid};

	for (unsigned i = 0; i < times; i++)
		assert_int_equal(set_as(&cred, vol.file, "clawfs.durability", "local"), -EPERM);
}

/* One user or many, for a moment or for a day: entries are few, and what was left out is counted. */
static void nobody_floods_the_log_by_being_refused(void **state)
{
	uint64_t told = 0;

	(void)state;
	now_ns = 1000 * NSEC_PER_SEC;
	open_at(FS_AUDIT_ADMIN, false, &stepped);
	refuse(5000, 1000);
	refuse(5001, 1);
	read_log();
	size_t n = count_kind("refused", NULL);
	assert_true(n >= 2 && n <= 10);
	assert_int_equal(number(all.entry[all.n - 1], "uid"), 5001); /* who is quiet is heard all the same */
	for (uint32_t uid = 6000; uid < 6500; uid++)
		refuse(uid, 2);
	read_log();
	n = count_kind("refused", NULL);
	assert_true(n <= 40);
	for (unsigned minute = 0; minute < 24 * 60; minute++) {
		now_ns += 60 * NSEC_PER_SEC;
		for (uint32_t uid = 7000; uid < 7020; uid++)
			refuse(uid, 2);
		audit_tell_suppressed(vol.fs, false);
	}
	audit_tell_suppressed(vol.fs, true);
	read_log();
	assert_true(count_kind("refused", NULL) <= n + 24 * 60);
	assert_true(count_kind("suppressed", NULL) <= 24 * 60 / 5 + 1);
	for (size_t i = 0; i < all.n; i++)
		told += number(all.entry[i], "refusals");
	assert_int_equal(told + count_kind("refused", NULL), 1001 + 1000 + 24 * 60 * 40);
	forget_log();
}

/* A counter that was not told is told when the volume is closed. */
static void what_was_suppressed_is_told_at_the_end(void **state)
{
	(void)state;
	open_with(FS_AUDIT_ADMIN, false);
	refuse(5000, 100);
	volume_reopen(&vol, false);
	read_log();
	assert_int_equal(count_kind("suppressed", NULL), 1);
	forget_log();
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, NULL, free_volume)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(the_nearest_directory_that_says_something_decides),
	    CASE(what_means_nothing_is_refused),
	    CASE(only_root_sets_a_level_and_nobody_in_silence),
	    CASE(the_log_says_when_a_mount_logs_less),
	    CASE(what_leaves_a_logged_directory_was_logged_until_then),
	    CASE(nothing_that_is_to_be_logged_is_missing),
	    CASE(attempts_that_are_refused_are_entered),
	    CASE(nobody_floods_the_log_by_being_refused),
	    CASE(what_was_suppressed_is_told_at_the_end),
	};

	print_message("seed %llu\n", (unsigned long long)seed());
	return cmocka_run_group_tests(tests, NULL, NULL);
}
