/*
 * test_audit.c: what the volume puts into its audit log: acts and their results, every change once, and what happens when the log
 * cannot be written.
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

/* ---- acts ---- */

static void every_setting_is_logged_with_who_and_what_came_of_it(void **state)
{
	const char *result;

	(void)state;
	open_with(FS_AUDIT_ADMIN, false);
	assert_int_equal(set_as(&owner, vol.file, "clawfs.durability", "local"), 0);
	const json_t *act = last_act(&result);
	assert_string_equal(text(act, "what"), "set clawfs.durability");
	assert_string_equal(text(act, "value"), "local");
	assert_string_equal(text(act, "path"), "/sub/name");
	assert_int_equal(number(act, "uid"), OWNER);
	assert_string_equal(result, "ok");
	assert_true(number(act, "seq") > 0);
	assert_int_equal(strlen(text(act, "batch")), 16);

	assert_int_equal(control_remove(vol.fs, &root, vol.file, "clawfs.durability"), 0);
	assert_string_equal(text(last_act(&result), "what"), "remove clawfs.durability");
	assert_int_equal(set_as(&root, vol.file, "clawfs.durability", "nonsense"), -EINVAL);
	assert_string_equal(text(last_act(&result), "value"), "nonsense");
	assert_string_equal(result, strerror(EINVAL));
	size_t n = all.n;
	assert_int_equal(set_as(&stranger, FS_ROOT_INO, "clawfs.wait", "0"), 0);
	read_log();
	assert_int_equal(all.n, n);
	forget_log();
}

static void every_row_that_can_be_set_is_logged_unless_it_only_waits(void **state)
{
	const struct control *c;
	char name[64];

	(void)state;
	open_with(FS_AUDIT_ADMIN, false);
	for (size_t i = 0; (c = control_row(i)); i++) {
		if (!c->set)
			continue;
		bool waits =
		    strcmp(c->name, "wait") == 0 || strcmp(c->name, "feed.wait") == 0 || strcmp(c->name, "archive.now") == 0;
		assert_true(c->unlogged == waits);
		snprintf(name, sizeof(name), "clawfs.%s%s", c->name, c->name[strlen(c->name) - 1] == '.' ? "x" : "");
		if (strncmp(c->name, "tier.", 5) != 0) /* those start work that this volume has no threads for */
			set_as(&root, c->scope == SCOPE_ROOT ? FS_ROOT_INO : vol.file, name, "0");
	}
	read_log();
	size_t n = 0;
	for (size_t i = 0; i < all.n; i++)
		n += strcmp(text(all.entry[i], "kind"), "act") == 0;
	assert_true(n >= 3); /* checkpoint, durability, sync */
	forget_log();
}

static void a_long_value_is_cut_and_its_length_told(void **state)
{
	static char value[5000];
	const char *result;

	(void)state;
	open_with(FS_AUDIT_ADMIN, false);
	memset(value, 'v', sizeof(value) - 1);
	assert_int_equal(set_as(&root, vol.file, "clawfs.durability", value), -EINVAL);
	const json_t *act = last_act(&result);
	assert_int_equal(strlen(text(act, "value")), AUDIT_VALUE_MAX);
	assert_int_equal(number(act, "value_bytes"), sizeof(value) - 1);
	forget_log();
}

/* The entry is durable before the act is: a crash in between leaves an act without a result, never one without an entry. */
static void an_act_is_in_the_log_before_it_is_done(void **state)
{
	struct rng rng = {.state = seed()};
	const char *result;

	(void)state;
	open_with(FS_AUDIT_ADMIN, false);
	uint64_t act;
	assert_int_equal(fs_audit_act(vol.fs, &root, "what", 0, NULL, &act), 0);
	struct simcut *cut = simcut_new(vol.sim);
	simcut_advance(cut, simstore_count(vol.sim));
	struct simstore *kept = vol.sim;
	for (unsigned v = 0; v < SIMCUT_VARIANTS; v++) {
		vol.sim = simcut_image(cut, v, &rng, false);
		assert_string_equal(text(last_act(&result), "what"), "what");
		assert_string_equal(result, "");
		simstore_free(vol.sim);
	}
	vol.sim = kept;
	simcut_free(cut);
	forget_log();
}

/* ---- a log that fails ---- */

/* The next write, which is the log's: acts are logged before they are done. */
static void fail_log(void)
{
	simstore_fail(vol.sim, simstore_count(vol.sim) + 1, 1, -ENOSPC);
}

static void without_the_log_the_volume_goes_on_and_says_so(void **state)
{
	struct buf status = {0};
	const char *result;

	(void)state;
	open_with(FS_AUDIT_ADMIN, false);
	fail_log();
	assert_int_equal(set_as(&root, vol.file, "clawfs.durability", "local"), 0);
	fs_status_json(vol.fs, &status);
	buf_put_u8(&status, '\0');
	json_t *o = json_loads((const char *)status.p, 0, NULL);
	const json_t *audit = json_object_get(o, "audit");
	assert_int_equal(number(audit, "lost"), 1); /* its result has nothing to be of */
	assert_string_equal(text(audit, "error"), strerror(ENOSPC));
	json_decref(o);
	buf_free(&status);
	simstore_fail(vol.sim, 0, 0, 0);
	assert_int_equal(set_as(&root, vol.file, "clawfs.durability", "local"), 0);
	assert_string_equal(text(last_act(&result), "what"), "set clawfs.durability");
	bool told = false;
	for (size_t i = 0; i < all.n; i++)
		told |= strcmp(text(all.entry[i], "kind"), "found") == 0 && number(all.entry[i], "lost") == 1;
	assert_true(told);
	forget_log();
}

static void strict_refuses_what_cannot_be_logged(void **state)
{
	char value[FS_POLICY_MAX + 1];

	(void)state;
	open_with(FS_AUDIT_ADMIN, true);
	fail_log();
	assert_int_equal(set_as(&root, vol.file, "clawfs.durability", "local"), -EIO);
	fail_log();
	assert_int_equal(control_remove(vol.fs, &root, vol.file, "clawfs.durability"), -EIO);
	assert_int_equal(fs_get_policy(vol.fs, vol.file, "durability", false, value), -ENODATA);
	simstore_fail(vol.sim, 0, 0, 0);
	assert_int_equal(set_as(&root, vol.file, "clawfs.durability", "local"), 0);
	assert_int_equal(fs_get_policy(vol.fs, vol.file, "durability", false, value), 0);
}

/* ---- changes ---- */

static void change(uint64_t request)
{
	const struct fs_cred cred = {.uid = 7, .unique = request};
	const struct record_attr mode = {.mask = ATTR_MODE, .mode = 0600};
	struct fs_attr after;

	assert_int_equal(fs_setattr(vol.fs, &cred, vol.file, &mode, &after), 0);
}

/* Archived now and then, the log failing now and then, the volume killed or closed: each change is there once, in order. */
static void every_change_is_in_the_log_once(void **state)
{
	struct rng rng = {.state = seed()};
	uint64_t made = 0;

	(void)state;
	open_with(FS_AUDIT_CHANGES, false);
	for (unsigned i = 0; i < 600; i++) {
		change(++made);
		if (rng_percent(&rng, 20))
			assert_int_equal(fs_sync(vol.fs), 0);
		if (rng_percent(&rng, 10))
			assert_int_equal(audit_archive(vol.fs), 0);
		if (rng_percent(&rng, 2))
			assert_int_equal(set_as(&root, FS_ROOT_INO, "clawfs.checkpoint", "1"), 0);
		if (rng_percent(&rng, 2)) { /* one write of the log fails, or the one after the next */
			assert_int_equal(fs_sync(vol.fs), 0);
			simstore_fail(vol.sim, simstore_count(vol.sim) + 1 + rng_below(&rng, 3), 1, -EIO);
			(void)!audit_archive(vol.fs);
			simstore_fail(vol.sim, 0, 0, 0);
		}
		if (rng_percent(&rng, 3))
			volume_reopen(&vol, rng_percent(&rng, 50));
	}
	volume_reopen(&vol, false);
	read_log();
	uint64_t next = 1;
	for (size_t i = 0; i < all.n; i++) {
		const json_t *event = json_object_get(all.entry[i], "event");

		if (event)
			if (strcmp(text(event, "op"), "gap") == 0)
				fail_msg("seed %llu: %s", (unsigned long long)seed(), json_dumps(all.entry[i], 0));
		if (!event || number(event, "uid") != 7)
			continue;
		if (number(event, "request") != next)
			fail_msg("seed %llu: change %llu where %llu should be", (unsigned long long)seed(),
				 (unsigned long long)number(event, "request"), (unsigned long long)next);
		assert_string_equal(text(event, "path"), "/sub/name");
		next++;
	}
	assert_int_equal(next, made + 1);
	forget_log();
}

static void changes_are_logged_from_when_it_is_asked_for_to_when_it_is_not(void **state)
{
	static const enum fs_audit levels[] = {FS_AUDIT_ADMIN, FS_AUDIT_CHANGES, FS_AUDIT_ADMIN, FS_AUDIT_CHANGES};
	size_t n[5] = {0};

	(void)state;
	open_with(FS_AUDIT_ADMIN, false);
	for (unsigned i = 0; i < ARRAY_SIZE(levels); i++) {
		vol.config.audit = levels[i];
		volume_reopen(&vol, false);
		change(i + 1);
		assert_int_equal(fs_sync(vol.fs), 0);
	}
	volume_reopen(&vol, false);
	read_log();
	for (size_t i = 0; i < all.n; i++) {
		const json_t *event = json_object_get(all.entry[i], "event");

		if (event && number(event, "uid") == 7)
			n[number(event, "request")]++;
	}
	assert_true(n[1] == 0 && n[2] == 1 && n[3] == 0 && n[4] == 1);
	forget_log();
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, NULL, free_volume)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(every_setting_is_logged_with_who_and_what_came_of_it),
	    CASE(every_row_that_can_be_set_is_logged_unless_it_only_waits),
	    CASE(a_long_value_is_cut_and_its_length_told),
	    CASE(an_act_is_in_the_log_before_it_is_done),
	    CASE(without_the_log_the_volume_goes_on_and_says_so),
	    CASE(strict_refuses_what_cannot_be_logged),
	    CASE(every_change_is_in_the_log_once),
	    CASE(changes_are_logged_from_when_it_is_asked_for_to_when_it_is_not),
	};

	print_message("seed %llu\n", (unsigned long long)seed());
	return cmocka_run_group_tests(tests, NULL, NULL);
}
