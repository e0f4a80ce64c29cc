/*
 * test_control.c: the clawfs.* attributes of control.h, on a real volume over a store and an index in memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/face/control_table.h"
#include "tests/unit/volume.h"

#define UNANSWERED 1 /* as a result */

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

struct answer {
	struct journal_waiter w;
	int result;
};

static void answered(struct journal_waiter *w, int result)
{
	container_of(w, struct answer, w)->result = result;
}

static int set_as(const struct fs_cred *cred, uint64_t ino, const char *name, const void *value, size_t len)
{
	struct answer a = {.w.done = answered, .result = UNANSWERED};
	uint64_t act;

	control_set(vol.fs, NULL, cred, ino, name, value, len, &a.w, &act);
	return a.result;
}

static int set(uint64_t ino, const char *name, const char *value)
{
	return set_as(&root, ino, name, value, strlen(value));
}

/* Of `ino`; "" when it is not there. */
static const char *get(uint64_t ino, const char *name)
{
	static char p[65536];
	size_t len = 0;
	int r = control_get(vol.fs, NULL, &owner, ino, name, p, sizeof(p) - 1, &len);

	assert_true(r == 0 || r == -ENODATA);
	p[len] = '\0';
	return p;
}

static void a_name_outside_the_namespace_is_not_ours(void **state)
{
	(void)state;
	assert_true(control_is("clawfs.status"));
	assert_true(control_is("clawfs."));
	assert_false(control_is("clawfs"));
	assert_false(control_is("user.clawfs.status"));
}

static void an_unknown_name_is_unset_and_cannot_be_set(void **state)
{
	static const char *const names[] = {"clawfs.", "clawfs.nothing", "clawfs.statusx", "clawfs.stat",
					    "clawfs.durability.own"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		assert_string_equal(get(FS_ROOT_INO, names[i]), "");
		assert_int_equal(set(FS_ROOT_INO, names[i], "1"), -EOPNOTSUPP);
		assert_int_equal(control_remove(vol.fs, &root, FS_ROOT_INO, names[i]), -EOPNOTSUPP);
	}
}

static void size_0_asks_for_the_length_and_a_short_buffer_is_refused(void **state)
{
	const char path[] = "/sub/name";
	char p[sizeof(path)];
	size_t len = 0;

	(void)state;
	assert_int_equal(control_get(vol.fs, NULL, &root, vol.file, "clawfs.path", NULL, 0, &len), 0);
	assert_int_equal(len, strlen(path));
	assert_int_equal(control_get(vol.fs, NULL, &root, vol.file, "clawfs.path", p, len - 1, &len), -ERANGE);
	memset(p, '#', sizeof(p));
	assert_int_equal(control_get(vol.fs, NULL, &root, vol.file, "clawfs.path", p, len, &len), 0);
	assert_memory_equal(p, path, len);
	assert_int_equal(p[len], '#'); /* no trailing NUL */
}

static void what_belongs_to_the_volume_lives_on_its_root_alone(void **state)
{
	static const char *const names[] = {"clawfs.status", "clawfs.version", "clawfs.pos", "clawfs.epoch", "clawfs.role"};
	static const char *const commands[] = {"clawfs.sync", "clawfs.checkpoint", "clawfs.wait"};

	(void)state;
	assert_int_equal(get(FS_ROOT_INO, "clawfs.status")[0], '{');
	assert_non_null(strstr(get(FS_ROOT_INO, "clawfs.status"), "/a/store"));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		assert_string_not_equal(get(FS_ROOT_INO, names[i]), "");
		assert_string_equal(get(vol.file, names[i]), "");
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		assert_int_equal(set(vol.file, commands[i], "0"), -EOPNOTSUPP);
}

static void a_command_reads_as_unset_and_a_fact_cannot_be_set(void **state)
{
	static const char *const commands[] = {"clawfs.sync", "clawfs.checkpoint", "clawfs.wait"};
	static const char *const facts[] = {"clawfs.status", "clawfs.path",  "clawfs.version",
					    "clawfs.pos",    "clawfs.epoch", "clawfs.role"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		assert_string_equal(get(FS_ROOT_INO, commands[i]), "");
	for (size_t i = 0; i < ARRAY_SIZE(facts); i++) {
		assert_int_equal(set(FS_ROOT_INO, facts[i], "1"), -EOPNOTSUPP);
		assert_int_equal(control_remove(vol.fs, &root, FS_ROOT_INO, facts[i]), -EOPNOTSUPP);
	}
}

static void commands_are_for_root_and_the_owner_of_the_root_directory(void **state)
{
	(void)state;
	assert_int_equal(set_as(&root, FS_ROOT_INO, "clawfs.sync", "1", 1), 0);
	assert_int_equal(set_as(&owner, FS_ROOT_INO, "clawfs.sync", NULL, 0), 0);
	assert_int_equal(set_as(&stranger, FS_ROOT_INO, "clawfs.sync", "1", 1), -EPERM);
	assert_int_equal(set_as(&stranger, FS_ROOT_INO, "clawfs.checkpoint", "1", 1), -EPERM);
	assert_int_equal(set_as(&owner, FS_ROOT_INO, "clawfs.checkpoint", "1", 1), 0);
	assert_int_equal(set_as(&stranger, vol.file, "clawfs.durability", "local", 5), -EPERM);
	assert_int_equal(set_as(&owner, vol.file, "clawfs.durability", "local", 5), 0);
	assert_int_equal(control_remove(vol.fs, &stranger, vol.file, "clawfs.durability"), -EPERM);
	assert_int_equal(control_remove(vol.fs, &owner, vol.file, "clawfs.durability"), 0);
	assert_int_equal(set_as(&stranger, FS_ROOT_INO, "clawfs.wait", "0", 1), 0); /* waiting is for everyone */
}

/* What others may know: nothing that names files, hosts or stores, or tells what somebody did. */
static const char *const open_to_all[] = {"compression", "compression.usage", "durability",      "dir.rbytes", "dir.rctime",
					  "dir.rfiles",  "dir.rsubdirs",      "epoch",           "health",     "pos",
					  "quota",       "quota.max_bytes",   "quota.max_files", "recall",     "role",
					  "snap.list",   "snap.list.",        "snap.schedule",   "tier",       "tier.pin",
					  "tier.state",  "tier.usage",        "version"};

static bool is_open(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(open_to_all); i++)
		if (strcmp(open_to_all[i], name) == 0)
			return true;
	return false;
}

static void every_row_is_for_admins_unless_it_reveals_nothing(void **state)
{
	const struct control *c;
	char name[64], p[4096];
	size_t len, n_open = 0;

	(void)state;
	for (size_t i = 0; (c = control_row(i)); i++) {
		uint64_t ino = c->scope == SCOPE_ROOT ? FS_ROOT_INO : vol.file;
		bool family = c->name[strlen(c->name) - 1] == '.';

		snprintf(name, sizeof(name), "clawfs.%s%s", c->name, family ? "0" : "");
		int r = control_get(vol.fs, NULL, &stranger, ino, name, p, sizeof(p), &len);
		if (c->get && is_open(c->name) ? r != 0 && r != -ENODATA : r != (c->get ? -EPERM : -ENODATA))
			fail_msg("%s: a stranger who reads it gets %d", name, r);
		n_open += c->get && is_open(c->name);
		bool waits = strcmp(c->name, "wait") == 0;
		r = set_as(&stranger, ino, name, "0", 1);
		if (r != (waits ? 0 : c->set ? -EPERM : -EOPNOTSUPP))
			fail_msg("%s: a stranger who sets it gets %d", name, r);
		r = control_remove(vol.fs, &stranger, ino, name);
		if (r != (c->remove ? -EPERM : -EOPNOTSUPP))
			fail_msg("%s: a stranger who removes it gets %d", name, r);
	}
	assert_int_equal(n_open, ARRAY_SIZE(open_to_all));
}

static void the_change_feed_is_read_by_place(void **state)
{
	(void)state;
	assert_int_equal(set(FS_ROOT_INO, "clawfs.sync", "1"), 0);
	assert_int_equal(get(FS_ROOT_INO, "clawfs.feed")[0], '{');
	assert_non_null(strstr(get(FS_ROOT_INO, "clawfs.feed.0"), "\"path\":\"/sub/name\""));
	assert_string_equal(get(vol.file, "clawfs.feed.0"), "");
	assert_int_equal(set(FS_ROOT_INO, "clawfs.feed.0", "1"), -EOPNOTSUPP);
	assert_int_equal(set(FS_ROOT_INO, "clawfs.feed.wait", "1"), 0);
	assert_int_equal(set(FS_ROOT_INO, "clawfs.feed.wait", "99999 0"), -ETIMEDOUT);
	assert_int_equal(set(FS_ROOT_INO, "clawfs.feed.wait", "x"), -EINVAL);
	assert_int_equal(set(FS_ROOT_INO, "clawfs.feed.wait", "1 31"), -EINVAL);
}

static void a_sync_reaches_the_store(void **state)
{
	struct fs_attr a;

	(void)state;
	assert_int_equal(set(FS_ROOT_INO, "clawfs.sync", "1"), 0);
	uint64_t before = simstore_count(vol.sim);
	assert_int_equal(fs_mknod(vol.fs, &root, FS_ROOT_INO, "new", S_IFREG | 0644, 0, &a), 0);
	assert_int_equal(simstore_count(vol.sim), before); /* nothing is written until somebody asks */
	assert_int_equal(set(FS_ROOT_INO, "clawfs.sync", "1"), 0);
	assert_true(simstore_count(vol.sim) > before);
}

static void facts_of_replication_can_be_read(void **state)
{
	char want[32];

	(void)state;
	snprintf(want, sizeof(want), "%llu", (unsigned long long)fs_pos(vol.fs));
	assert_string_equal(get(FS_ROOT_INO, "clawfs.pos"), want);
	assert_string_equal(get(FS_ROOT_INO, "clawfs.role"), "leader");
	snprintf(want, sizeof(want), "%llu", (unsigned long long)epoch_make(1, 1));
	assert_string_equal(get(FS_ROOT_INO, "clawfs.epoch"), want);
}

/* ---- durability ---- */

static void durability_is_shown_as_it_is_inherited(void **state)
{
	(void)state;
	assert_string_equal(get(vol.file, "clawfs.durability"), "local");
	assert_int_equal(set(vol.dir, "clawfs.durability", "replicas=2,else=local"), 0);
	assert_string_equal(get(vol.file, "clawfs.durability"), "replicas=2,else=local");
	assert_string_equal(get(FS_ROOT_INO, "clawfs.durability"), "local");
	assert_int_equal(set(FS_ROOT_INO, "clawfs.durability", "replicas=1"), 0);
	assert_int_equal(set(vol.file, "clawfs.durability", "local"), 0);
	assert_string_equal(get(vol.file, "clawfs.durability"), "local");
	assert_int_equal(control_remove(vol.fs, &root, vol.file, "clawfs.durability"), 0);
	assert_int_equal(control_remove(vol.fs, &root, vol.file, "clawfs.durability"), -ENODATA);
	assert_int_equal(control_remove(vol.fs, &root, vol.dir, "clawfs.durability"), 0);
	assert_string_equal(get(vol.file, "clawfs.durability"), "replicas=1");
}

static void a_durability_that_means_nothing_is_refused(void **state)
{
	static const struct {
		const char *p;
		size_t len;
	} values[] = {{"", 0}, {"x", 1}, {"local\0", 6}, {"loc\0al", 6}, {"replicas=1\n", 11}, {"replicas=16", 11}, {"\0", 1}};
	char large[4096];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		assert_int_equal(set_as(&root, vol.dir, "clawfs.durability", values[i].p, values[i].len), -EINVAL);
	assert_int_equal(set_as(&root, vol.dir, "clawfs.durability", NULL, 0), -EINVAL);
	memset(large, 'l', sizeof(large));
	for (size_t len = 1; len <= sizeof(large); len *= 2) {
		assert_int_equal(set_as(&root, vol.dir, "clawfs.durability", large, len - 1), -EINVAL);
		assert_int_equal(set_as(&root, vol.dir, "clawfs.durability", large, len), -EINVAL);
	}
	assert_string_equal(get(vol.dir, "clawfs.durability"), "local");
}

/* ---- waiting ---- */

static void wait_takes_a_number_and_seconds_up_to_30(void **state)
{
	static const char *const good[] = {"0", "1", "00001", "0 0", "0 30", "1 030"};
	static const char *const wrong[] = {"",
					    " ",
					    "x",
					    "-1",
					    "+1",
					    "1x",
					    "0x1",
					    "1.0",
					    "1 ",
					    " 1",
					    "1  2",
					    "1 x",
					    "1 31",
					    "1 2 3",
					    "1\n",
					    "1\t2",
					    "1 -1",
					    "1 +1",
					    "1,2",
					    "1 2 ",
					    "18446744073709551616",
					    "99999999999999999999999",
					    "1 18446744073709551616"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(set(FS_ROOT_INO, "clawfs.wait", good[i]), 0);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		if (set(FS_ROOT_INO, "clawfs.wait", wrong[i]) != -EINVAL)
			fail_msg("\"%s\" was taken", wrong[i]);
	assert_int_equal(set_as(&root, FS_ROOT_INO, "clawfs.wait", "1\0", 2), -EINVAL);
	assert_int_equal(set_as(&root, FS_ROOT_INO, "clawfs.wait", NULL, 0), -EINVAL);
	assert_int_equal(set(FS_ROOT_INO, "clawfs.wait", "18446744073709551615 0"), -ETIMEDOUT);
}

static void wait_answers_when_the_position_is_there(void **state)
{
	struct answer a = {.w.done = answered, .result = UNANSWERED};
	uint64_t act;
	struct fs_attr made;
	char value[32];
	int n;

	(void)state;
	assert_int_equal(fs_sync(vol.fs), 0);
	n = snprintf(value, sizeof(value), "%llu 10", (unsigned long long)fs_pos(vol.fs) + 1);
	control_set(vol.fs, NULL, &stranger, FS_ROOT_INO, "clawfs.wait", value, (size_t)n, &a.w, &act);
	assert_int_equal(a.result, UNANSWERED);
	assert_int_equal(fs_mknod(vol.fs, &root, FS_ROOT_INO, "awaited", S_IFREG | 0644, 0, &made), 0);
	assert_int_equal(a.result, 0);
}

/* ---- the provider ---- */

struct provided {
	char name[64], value[64];
	uint32_t uid;
	unsigned gets, sets;
};

static int provided_get(void *ctx, const struct fs_cred *cred, const char *name, struct buf *out)
{
	struct provided *p = ctx;

	p->gets++;
	p->uid = cred->uid;
	snprintf(p->name, sizeof(p->name), "%s", name);
	if (strcmp(name, "secret") == 0 && cred->uid != 0)
		return -EPERM;
	if (strncmp(name, "replica.", 8) != 0)
		return -ENODATA;
	buf_printf(out, "streaming");
	return 0;
}

static int provided_set(void *ctx, const struct fs_cred *cred, const char *name, const void *value, size_t len)
{
	struct provided *p = ctx;

	p->sets++;
	p->uid = cred->uid;
	snprintf(p->name, sizeof(p->name), "%s", name);
	snprintf(p->value, sizeof(p->value), "%.*s", (int)len, (const char *)value);
	return strcmp(name, "promote") == 0 ? 0 : -EOPNOTSUPP;
}

static int set_with(const struct control_provider *more, const struct fs_cred *cred, uint64_t ino, const char *name,
		    const char *value)
{
	struct answer a = {.w.done = answered, .result = UNANSWERED};
	uint64_t act;

	control_set(vol.fs, more, cred, ino, name, value, strlen(value), &a.w, &act);
	return a.result;
}

static void names_of_nobody_are_asked_of_the_provider(void **state)
{
	struct provided p = {0};
	const struct control_provider more = {&p, provided_get, provided_set};
	char text[64];
	size_t len;

	(void)state;
	assert_int_equal(control_get(vol.fs, &more, &stranger, FS_ROOT_INO, "clawfs.replica.b.state", text, sizeof(text), &len),
			 0);
	assert_int_equal(len, 9);
	assert_memory_equal(text, "streaming", 9);
	assert_string_equal(p.name, "replica.b.state");
	assert_int_equal(p.uid, stranger.uid);
	assert_int_equal(control_get(vol.fs, &more, &stranger, FS_ROOT_INO, "clawfs.secret", text, sizeof(text), &len), -EPERM);
	assert_int_equal(control_get(vol.fs, &more, &root, FS_ROOT_INO, "clawfs.secret", text, sizeof(text), &len), -ENODATA);
	assert_int_equal(set_with(&more, &owner, FS_ROOT_INO, "clawfs.promote", "yes"), 0);
	assert_string_equal(p.name, "promote");
	assert_string_equal(p.value, "yes");
	assert_int_equal(p.uid, OWNER);
	assert_int_equal(set_with(&more, &root, FS_ROOT_INO, "clawfs.nothing", ""), -EOPNOTSUPP);
	assert_int_equal(p.sets, 2);
}

static void the_provider_is_asked_for_the_root_and_by_admins_alone(void **state)
{
	struct provided p = {0};
	const struct control_provider more = {&p, provided_get, provided_set};
	char text[64];
	size_t len;

	(void)state;
	assert_int_equal(control_get(vol.fs, &more, &root, vol.file, "clawfs.replica.b.state", text, sizeof(text), &len),
			 -ENODATA);
	assert_int_equal(set_with(&more, &root, vol.file, "clawfs.promote", "yes"), -EOPNOTSUPP);
	assert_int_equal(set_with(&more, &stranger, FS_ROOT_INO, "clawfs.promote", "yes"), -EPERM);
	assert_int_equal(set_with(&more, &root, FS_ROOT_INO, "clawfs.status", "x"), -EOPNOTSUPP); /* the table's own */
	assert_int_equal(p.gets + p.sets, 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make_volume, free_volume)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_name_outside_the_namespace_is_not_ours),
	    CASE(an_unknown_name_is_unset_and_cannot_be_set),
	    CASE(size_0_asks_for_the_length_and_a_short_buffer_is_refused),
	    CASE(what_belongs_to_the_volume_lives_on_its_root_alone),
	    CASE(a_command_reads_as_unset_and_a_fact_cannot_be_set),
	    CASE(commands_are_for_root_and_the_owner_of_the_root_directory),
	    CASE(every_row_is_for_admins_unless_it_reveals_nothing),
	    CASE(the_change_feed_is_read_by_place),
	    CASE(a_sync_reaches_the_store),
	    CASE(facts_of_replication_can_be_read),
	    CASE(durability_is_shown_as_it_is_inherited),
	    CASE(a_durability_that_means_nothing_is_refused),
	    CASE(wait_takes_a_number_and_seconds_up_to_30),
	    CASE(wait_answers_when_the_position_is_there),
	    CASE(names_of_nobody_are_asked_of_the_provider),
	    CASE(the_provider_is_asked_for_the_root_and_by_admins_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
