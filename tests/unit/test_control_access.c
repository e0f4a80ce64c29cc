/*
 * test_control_access.c: who may read, set and remove which attribute of what.
 *
 * The table here is written by hand and compared with the rows there are: a new row fails until somebody decided whose it is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/audit_volume.h"

/* Who: '-' nobody, there is no such thing; 'r' root; 'a' root and the owner; 'e' everyone.  Where: '/' the root directory, '*'
 * anything. */
static const struct rule {
	const char *name;
	char where, get, set, remove;
} rules[] = {
    {"archive", '/', 'a', 'a', 'a'},
    {"archive.drill", '/', 'a', 'a', '-'},
    {"archive.key", '/', 'a', '-', '-'},
    {"archive.now", '/', '-', 'a', '-'},
    {"archive.state.", '/', 'a', '-', '-'},
    {"audit", '*', 'a', 'r', 'r'},
    {"audit.note", '/', '-', 'r', '-'},
    {"checkpoint", '/', '-', 'a', '-'},
    {"compression", '*', 'e', 'a', 'a'},
    {"compression.now", '*', '-', 'a', '-'},
    {"compression.usage", '*', 'e', '-', '-'},
    {"dir.rbytes", '*', 'e', '-', '-'},
    {"dir.rctime", '*', 'e', '-', '-'},
    {"dir.rfiles", '*', 'e', '-', '-'},
    {"dir.rsubdirs", '*', 'e', '-', '-'},
    {"durability", '*', 'e', 'a', 'a'},
    {"epoch", '/', 'e', '-', '-'},
    {"feed", '/', 'a', '-', '-'},
    {"feed.", '/', 'a', '-', '-'},
    {"feed.wait", '/', '-', 'a', '-'},
    {"health", '*', 'e', '-', '-'},
    {"path", '*', 'a', '-', '-'},
    {"pos", '/', 'e', '-', '-'},
    {"quota", '*', 'e', '-', '-'},
    {"quota.list", '/', 'a', '-', '-'},
    {"quota.max_bytes", '*', 'e', 'a', 'a'},
    {"quota.max_files", '*', 'e', 'a', 'a'},
    {"recall", '*', 'e', 'a', 'a'},
    {"role", '/', 'e', '-', '-'},
    {"scrub", '/', 'a', 'a', '-'},
    {"scrub.clear", '*', '-', 'a', '-'},
    {"scrub.files.", '/', 'a', '-', '-'},
    {"snap.create", '/', '-', 'a', '-'},
    {"snap.delete", '/', '-', 'a', '-'},
    {"snap.diff.", '/', 'a', '-', '-'},
    {"snap.list", '/', 'e', '-', '-'},
    {"snap.list.", '/', 'e', '-', '-'},
    {"snap.rollback", '/', '-', 'a', '-'},
    {"snap.rollback.discard", '/', '-', 'a', '-'},
    {"snap.schedule", '/', 'e', 'a', 'a'},
    {"status", '/', 'a', '-', '-'},
    {"sync", '/', '-', 'a', '-'},
    {"tier", '*', 'e', 'a', 'a'},
    {"tier.evict", '*', '-', 'a', '-'},
    {"tier.evict-inodes", '/', '-', 'a', '-'},
    {"tier.flush", '/', '-', 'a', '-'},
    {"tier.pin", '*', 'e', 'a', 'a'},
    {"tier.recall", '*', '-', 'a', '-'},
    {"tier.recall-inodes", '/', '-', 'a', '-'},
    {"tier.result.", '/', 'a', '-', '-'},
    {"tier.scan", '/', '-', 'a', '-'},
    {"tier.state", '*', 'e', '-', '-'},
    {"tier.store.", '/', 'a', 'a', '-'},
    {"tier.store-gc", '/', '-', 'a', '-'},
    {"tier.store-remove", '/', '-', 'a', '-'},
    {"tier.store-test", '/', '-', 'a', '-'},
    {"tier.usage", '*', 'e', '-', '-'},
    {"version", '/', 'e', '-', '-'},
    {"wait", '/', '-', 'e', '-'},
};

enum actor { ROOT, VOLUME_OWNER, OTHER, IN_NAMESPACE, ACTORS };
/* Who is root in a user namespace is seen by a mount outside as the user whom that maps to, or as nobody at all. */
static const struct fs_cred actors[ACTORS] = {{.uid = 0}, {.uid = OWNER}, {.uid = OWNER + 1}, {.uid = 65534}};

static bool may(char who, enum actor actor)
{
	bool runs_it = actors[actor].uid == geteuid();

	return who == 'e' || (who == 'a' && actor <= VOLUME_OWNER) || (who == 'r' && (actor == ROOT || runs_it));
}

static const struct rule *rule_of(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
		if (strcmp(rules[i].name, name) == 0)
			return &rules[i];
	fail_msg("clawfs.%s is new: say here who may do what with it", name);
	return NULL;
}

/* What is wanted of a call: refused as what is not there, refused, or let through to whatever comes of it. */
static void expect(const char *verb, const char *name, enum actor actor, uint64_t ino, char who, bool here, int absent, int r)
{
	bool there = who != '-' && here;
	int refused = !there ? absent : may(who, actor) ? 0 : -EPERM;

	if (refused ? r != refused : r == -EPERM || r == -EOPNOTSUPP)
		fail_msg("%s %s of inode %llu by actor %d: %d", verb, name, (unsigned long long)ino, actor, r);
}

/* Those start work that this volume has no threads for; that others may not is tried all the same. */
static bool starts_work(const struct rule *rule, enum actor actor)
{
	return actor <= VOLUME_OWNER && (strncmp(rule->name, "tier.", 5) == 0 || strncmp(rule->name, "archive", 7) == 0 ||
					 strncmp(rule->name, "scrub", 5) == 0);
}

static void try_all(const struct rule *rule, enum actor actor, uint64_t ino)
{
	bool here = rule->where == '*' || ino == FS_ROOT_INO;
	static char p[65536];
	char name[64];
	size_t len;

	snprintf(name, sizeof(name), "clawfs.%s%s", rule->name, rule->name[strlen(rule->name) - 1] == '.' ? "0" : "");
	expect("get", name, actor, ino, rule->get, here, -ENODATA,
	       control_get(vol.fs, NULL, &actors[actor], ino, name, p, sizeof(p), &len));
	if (!starts_work(rule, actor))
		expect("set", name, actor, ino, rule->set, here, -EOPNOTSUPP, set_as(&actors[actor], ino, name, "0"));
	expect("remove", name, actor, ino, rule->remove, here, -EOPNOTSUPP, control_remove(vol.fs, &actors[actor], ino, name));
}

static void everyone_may_what_the_table_says_and_nothing_else(void **state)
{
	const struct control *c;
	size_t n = 0;

	(void)state;
	open_with(FS_AUDIT_ADMIN, false);
	const uint64_t inos[] = {FS_ROOT_INO, vol.dir, vol.file};
	for (; (c = control_row(n)); n++) {
		const struct rule *rule = rule_of(c->name);

		assert_true((rule->where == '/') == (c->scope == SCOPE_ROOT));
		assert_true((rule->set == '-') == !c->set && (rule->remove == '-') == !c->remove);
		for (int actor = ROOT; actor < ACTORS; actor++)
			for (size_t i = 0; i < ARRAY_SIZE(inos); i++)
				try_all(rule, (enum actor)actor, inos[i]);
	}
	assert_int_equal(n, ARRAY_SIZE(rules));
}

/* What is for everyone to read names nothing: neither the file, nor what is above it, nor where the volume is. */
static void what_everyone_may_read_names_no_file(void **state)
{
	static char p[65536];
	const struct control *c;
	size_t len;
	char name[64];

	(void)state;
	open_with(FS_AUDIT_ADMIN, false);
	const uint64_t inos[] = {FS_ROOT_INO, vol.dir, vol.file};
	assert_int_equal(set_as(&root, vol.dir, "clawfs.quota.max_files", "100"), 0);
	for (size_t i = 0; (c = control_row(i)); i++)
		for (size_t k = 0; k < ARRAY_SIZE(inos); k++) {
			snprintf(name, sizeof(name), "clawfs.%s%s", c->name, c->name[strlen(c->name) - 1] == '.' ? "0" : "");
			len = 0;
			if (control_get(vol.fs, NULL, &stranger, inos[k], name, p, sizeof(p) - 1, &len) < 0)
				continue;
			p[len] = '\0';
			if (strstr(p, "sub") || strstr(p, "/a/store"))
				fail_msg("%s tells a stranger: %s", name, p);
		}
	assert_int_equal(control_get(vol.fs, NULL, &owner, vol.file, "clawfs.quota", p, sizeof(p) - 1, &len), 0);
	p[len] = '\0';
	assert_non_null(strstr(p, "/sub"));
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, NULL, free_volume)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(everyone_may_what_the_table_says_and_nothing_else),
	    CASE(what_everyone_may_read_names_no_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
