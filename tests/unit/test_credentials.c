/* test_credentials.c: files of credentials in both formats, the environment, who may read them, rotation, and that no message
 * tells. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/lib/rng.h"
#include "tests/unit/tempdir.h"
#include "tier/object.h"
#include "tier/s3/credentials.h"

#define SECRET "s3cr3t/of+ours"
#define OURS   "access_key = AKIA1\nsecret_key=" SECRET "\n"

static char dir[256], path[300];

static const char *const variables[] = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",       "AWS_SESSION_TOKEN",
					"AWS_PROFILE",       "AWS_SHARED_CREDENTIALS_FILE", "HOME"};

static int set_up(void **state)
{
	(void)state;
	tempdir_make(dir);
	snprintf(path, sizeof(path), "%s/credentials", dir);
	for (unsigned i = 0; i < ARRAY_SIZE(variables); i++)
		unsetenv(variables[i]);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	tempdir_remove(dir);
	return 0;
}

static void write_file(const char *name, const char *text, mode_t mode)
{
	FILE *f = fopen(name, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(chmod(name, mode), 0);
}

static struct slice slice_of(const char *text)
{
	return (struct slice){text, strlen(text)};
}

/* Opens, or returns the error; what is said holds no secret. */
static int open_source(const char *file, const char *profile, struct credentials *ret)
{
	char message[OBJECT_MESSAGE_MAX] = "";
	struct credential_source *s;

	int r = credential_source_open(file, profile, &s, message);
	assert_null(strstr(message, SECRET));
	if (r < 0) {
		assert_true(message[0] != 0);
		return r;
	}
	credential_source_get(s, ret);
	credential_source_close(s);
	return 0;
}

/* ---- the formats */

static void parsed_files(void **state)
{
	static const struct {
		const char *text, *profile, *access_key, *secret_key, *token; /* access_key NULL: refused */
		int error;
	} table[] = {
	    {OURS, "default", "AKIA1", SECRET, "", 0},
	    {OURS, "any", "AKIA1", SECRET, "", 0},
	    {"# c\n; d\n\n \t\naccess_key=A\r\nsecret_key = S \r\nsession_token=T", "default", "A", "S", "T", 0},
	    {"aws_access_key_id=A\naws_secret_access_key=S\n", "default", "A", "S", "", 0},
	    {"secret_key=S=/+=\naccess_key=A\n", "default", "A", "S=/+=", "", 0},
	    {"[default]\naws_access_key_id=A\naws_secret_access_key=S\naws_session_token=T\nregion = x\n", "default", "A", "S",
	     "T", 0},
	    {"[a]\naws_access_key_id=1\naws_secret_access_key=2\n[b]\naws_access_key_id=3\naws_secret_access_key=4\n", "b", "3",
	     "4", "", 0},
	    {"[a]\naws_access_key_id=1\naws_secret_access_key=2\n[b]\naws_access_key_id=3\naws_secret_access_key=4\n", "a", "1",
	     "2", "", 0},
	    {"[ spaced name ]\naws_access_key_id=1\naws_secret_access_key=2", "spaced name", "1", "2", "", 0},
	    {"[a]\naws_access_key_id=1\naws_secret_access_key=2\n", "default", NULL, NULL, NULL, -ENOENT},
	    {"", "default", NULL, NULL, NULL, -EINVAL},
	    {"access_key=A\n", "default", NULL, NULL, NULL, -EINVAL},
	    {"secret_key=" SECRET "\n", "default", NULL, NULL, NULL, -EINVAL},
	    {"access_key=A\nsecret_key=\n", "default", NULL, NULL, NULL, -EINVAL},
	    {OURS OURS, "default", NULL, NULL, NULL, -EINVAL},
	    {OURS "secret=" SECRET "\n", "default", NULL, NULL, NULL, -EINVAL},
	    {"access_key=A\nsecret_key=" SECRET " x\n", "default", NULL, NULL, NULL, -EINVAL},
	    {"access_key=A\nsecret_key=a\x80z\n", "default", NULL, NULL, NULL, -EINVAL},
	    {SECRET "\n", "default", NULL, NULL, NULL, -EINVAL},
	    {"[default\naws_access_key_id=A\naws_secret_access_key=S\n", "default", NULL, NULL, NULL, -EINVAL},
	    {"[a]\naws_access_key_id=A\naws_secret_access_key=S\n[a]\n", "a", NULL, NULL, NULL, -EINVAL},
	    {"[default]\naws_access_key_id=A\n[b]\naws_secret_access_key=S\n", "default", NULL, NULL, NULL, -EINVAL},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		char message[OBJECT_MESSAGE_MAX] = "";
		struct credentials c = {0};

		int r = credentials_parse(slice_of(table[i].text), table[i].profile, &c, message);
		if (r != table[i].error)
			fail_msg("case %u: %d (%s)", i, r, message);
		assert_null(strstr(message, SECRET));
		if (r < 0) {
			assert_true(message[0] != 0);
			continue;
		}
		assert_string_equal(c.access_key, table[i].access_key);
		assert_string_equal(c.secret_key, table[i].secret_key);
		assert_string_equal(c.session_token, table[i].token);
	}
}

static void values_end_where_their_room_ends(void **state)
{
	static const struct {
		const char *name;
		size_t max;
	} table[] = {{"access_key", 128}, {"secret_key", 256}, {"session_token", 4096}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		for (unsigned over = 0; over < 2; over++) {
			CLEANUP_FREE char *value = calloc(1, table[i].max + 2);
			char text[8192], message[OBJECT_MESSAGE_MAX];
			struct credentials c;

			memset(value, 'x', table[i].max + over);
			int n = snprintf(text, sizeof(text), "%s=%s\n", table[i].name, value);
			for (unsigned k = 0; k < 2; k++)
				if (k != i)
					n += snprintf(text + n, sizeof(text) - (size_t)n, "%s=v\n", table[k].name);
			assert_int_equal(credentials_parse(slice_of(text), "default", &c, message), over ? -EINVAL : 0);
		}
}

/* A good file with random changes: what is taken is within bounds and printable. */
static void changed_files_are_taken_or_refused(void **state)
{
	static const char good[] = "# x\n[default]\naws_access_key_id = AKIA\naws_secret_access_key = s3\n[other]\nregion=r\n";
	struct rng r = {test_seed(2)};
	unsigned taken = 0, refused = 0;

	(void)state;
	for (unsigned round = 0; round < 20000; round++) {
		char text[sizeof(good)], message[OBJECT_MESSAGE_MAX];
		struct credentials c;

		memcpy(text, good, sizeof(good));
		for (unsigned k = (unsigned)rng_below(&r, 4); k > 0; k--)
			text[rng_below(&r, sizeof(good) - 1)] =
			    rng_below(&r, 2) ? (char)rng_below(&r, 256) : "[]=\n# \0"[rng_below(&r, 7)];
		if (credentials_parse((struct slice){text, rng_below(&r, 8) ? sizeof(good) - 1 : rng_below(&r, sizeof(good))},
				      "default", &c, message) < 0) {
			refused++;
			continue;
		}
		taken++;
		assert_in_range(strlen(c.access_key), 1, 128);
		assert_in_range(strlen(c.secret_key), 1, 256);
		for (const char *p = c.secret_key; *p; p++)
			assert_true(*p > ' ' && *p < 127);
	}
	assert_true(taken > 1000 && refused > 1000);
}

/* ---- files */

static void a_file_that_others_can_touch_is_refused(void **state)
{
	struct credentials c;

	(void)state;
	for (mode_t mode = 0; mode <= 0777; mode++) {
		if (!(mode & S_IRUSR))
			continue;
		write_file(path, OURS, mode);
		assert_int_equal(open_source(path, NULL, &c), mode & 077 ? -EACCES : 0);
		assert_int_equal(chmod(path, 0600), 0);
	}
}

static void other_kinds_of_files_are_refused(void **state)
{
	char other[320];
	struct credentials c;

	(void)state;
	assert_int_equal(open_source(path, NULL, &c), -ENOENT);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(open_source(path, NULL, &c), -EACCES);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(open_source(path, NULL, &c), -EACCES);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(open_source("/dev/null", NULL, &c), -EACCES);
	/* A link to a good one is fine: that is how secrets are mounted in containers. */
	snprintf(other, sizeof(other), "%s/real", dir);
	write_file(other, OURS, 0400);
	assert_int_equal(symlink(other, path), 0);
	assert_int_equal(open_source(path, NULL, &c), 0);
	assert_int_equal(chmod(other, 0644), 0);
	assert_int_equal(open_source(path, NULL, &c), -EACCES);
	if (geteuid() == 0) {
		assert_int_equal(chmod(other, 0600), 0);
		assert_int_equal(chown(other, 12345, 0), 0);
		assert_int_equal(open_source(path, NULL, &c), -EACCES);
	}
}

static void the_length_of_a_file_is_bounded(void **state)
{
	CLEANUP_FREE char *text = malloc(CREDENTIALS_FILE_MAX + 2);
	struct credentials c;

	(void)state;
	memset(text, '\n', CREDENTIALS_FILE_MAX + 1);
	memcpy(text, OURS, sizeof(OURS) - 1);
	text[CREDENTIALS_FILE_MAX] = 0;
	write_file(path, text, 0600);
	assert_int_equal(open_source(path, NULL, &c), 0);
	text[CREDENTIALS_FILE_MAX] = '\n';
	text[CREDENTIALS_FILE_MAX + 1] = 0;
	write_file(path, text, 0600);
	assert_int_equal(open_source(path, NULL, &c), -E2BIG);
}

/* ---- sources */

static void the_first_source_that_there_is_counts(void **state)
{
	char home[320], shared[340];
	struct credentials c;

	(void)state;
	assert_int_equal(open_source(NULL, NULL, &c), -ENOENT);
	/* ~/.aws/credentials */
	setenv("HOME", dir, 1);
	assert_int_equal(open_source(NULL, NULL, &c), -ENOENT);
	snprintf(home, sizeof(home), "%s/.aws", dir);
	snprintf(shared, sizeof(shared), "%s/credentials", home);
	assert_int_equal(mkdir(home, 0700), 0);
	write_file(
	    shared,
	    "[default]\naws_access_key_id=home\naws_secret_access_key=x\n[p]\naws_access_key_id=p\naws_secret_access_key=x\n",
	    0600);
	assert_int_equal(open_source(NULL, NULL, &c), 0);
	assert_string_equal(c.access_key, "home");
	/* Profiles: named, or of the environment. */
	assert_int_equal(open_source(NULL, "p", &c), 0);
	assert_string_equal(c.access_key, "p");
	setenv("AWS_PROFILE", "p", 1);
	assert_int_equal(open_source(NULL, NULL, &c), 0);
	assert_string_equal(c.access_key, "p");
	assert_int_equal(open_source(NULL, "default", &c), 0);
	assert_string_equal(c.access_key, "home");
	assert_int_equal(open_source(NULL, "none", &c), -ENOENT);
	unsetenv("AWS_PROFILE");
	/* Another shared file. */
	write_file(path, "[default]\naws_access_key_id=shared\naws_secret_access_key=x\n", 0600);
	setenv("AWS_SHARED_CREDENTIALS_FILE", path, 1);
	assert_int_equal(open_source(NULL, NULL, &c), 0);
	assert_string_equal(c.access_key, "shared");
	/* The environment. */
	setenv("AWS_ACCESS_KEY_ID", "env", 1);
	assert_int_equal(open_source(NULL, NULL, &c), -EINVAL);
	setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
	assert_int_equal(open_source(NULL, NULL, &c), 0);
	assert_string_equal(c.access_key, "env");
	assert_string_equal(c.secret_key, SECRET);
	assert_string_equal(c.session_token, "");
	setenv("AWS_SESSION_TOKEN", "token", 1);
	assert_int_equal(open_source(NULL, NULL, &c), 0);
	assert_string_equal(c.session_token, "token");
	/* A file that was named, even beside the environment. */
	assert_int_equal(open_source(shared, NULL, &c), 0);
	assert_string_equal(c.access_key, "home");
	assert_string_equal(c.session_token, "");
}

static void the_environment_is_checked_as_files_are(void **state)
{
	char text[400];
	struct credentials c;

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = 0;
	setenv("AWS_ACCESS_KEY_ID", "A", 1);
	setenv("AWS_SECRET_ACCESS_KEY", text, 1);
	assert_int_equal(open_source(NULL, NULL, &c), -EINVAL);
	/* A line's end would begin another header. */
	setenv("AWS_SECRET_ACCESS_KEY", "x", 1);
	setenv("AWS_SESSION_TOKEN", "x\r\nHost: y", 1);
	assert_int_equal(open_source(NULL, NULL, &c), -EINVAL);
}

/* Written beside and renamed over, as a careful tool does, or in place. */
static void replace_file(const char *text, bool in_place)
{
	char fresh[320];

	snprintf(fresh, sizeof(fresh), "%s/fresh", dir);
	write_file(in_place ? path : fresh, text, 0600);
	if (!in_place)
		assert_int_equal(rename(fresh, path), 0);
}

static void rotated_credentials_are_read_when_refused(void **state)
{
	char message[OBJECT_MESSAGE_MAX];
	struct credential_source *s;
	struct credentials c, used;

	(void)state;
	write_file(path, OURS, 0600);
	assert_int_equal(credential_source_open(path, NULL, &s, message), 0);
	credential_source_get(s, &used);
	assert_false(credential_source_renew(s, &used));
	for (unsigned i = 0; i < 4; i++) {
		char text[100];

		snprintf(text, sizeof(text), "access_key=A%u%.*s\nsecret_key=n\n", i, (int)i, "xxxx");
		replace_file(text, i % 2);
		/* Not before somebody asks. */
		credential_source_get(s, &c);
		assert_string_equal(c.access_key, used.access_key);
		assert_true(credential_source_renew(s, &used));
		/* Another call that was refused with the old ones learns of the new ones as well. */
		assert_true(credential_source_renew(s, &used));
		credential_source_get(s, &used);
		assert_non_null(strstr(text, used.access_key));
		assert_false(credential_source_renew(s, &used));
	}
	credential_source_close(s);
}

static void a_bad_rotation_changes_nothing(void **state)
{
	char message[OBJECT_MESSAGE_MAX];
	struct credential_source *s;
	struct credentials c, used;

	(void)state;
	write_file(path, OURS, 0600);
	assert_int_equal(credential_source_open(path, NULL, &s, message), 0);
	credential_source_get(s, &used);
	replace_file("access_key=B\n", false);
	assert_false(credential_source_renew(s, &used));
	write_file(path, "access_key=C\nsecret_key=D\n", 0644);
	assert_false(credential_source_renew(s, &used));
	assert_int_equal(unlink(path), 0);
	assert_false(credential_source_renew(s, &used));
	credential_source_get(s, &c);
	assert_memory_equal(&c, &used, sizeof(c));
	/* And a good one afterwards is taken. */
	replace_file("access_key=E\nsecret_key=F\n", false);
	assert_true(credential_source_renew(s, &used));
	credential_source_close(s);
}

static void wiped_is_wiped(void **state)
{
	static const struct credentials zero;
	struct credentials c = {.access_key = "a", .secret_key = SECRET, .session_token = "t"};

	(void)state;
	credentials_wipe(&c);
	assert_memory_equal(&c, &zero, sizeof(c));
	assert_null(credential_source_close(NULL));
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(parsed_files),
	    CASE(values_end_where_their_room_ends),
	    CASE(changed_files_are_taken_or_refused),
	    CASE(a_file_that_others_can_touch_is_refused),
	    CASE(other_kinds_of_files_are_refused),
	    CASE(the_length_of_a_file_is_bounded),
	    CASE(the_first_source_that_there_is_counts),
	    CASE(the_environment_is_checked_as_files_are),
	    CASE(rotated_credentials_are_read_when_refused),
	    CASE(a_bad_rotation_changes_nothing),
	    CASE(wiped_is_wiped),
	};

	return cmocka_run_group_tests_name("credentials", tests, NULL, NULL);
}
