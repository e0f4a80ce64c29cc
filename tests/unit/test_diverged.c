/*
 * test_diverged.c: what a resync kept, in a directory of the host, listed and exported; and tails that somebody tampered with.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/store/crypt/diverged_crypt.h"
#include "fs/store/diverged.h"
#include "tests/unit/pull.h"
#include "tests/unit/tempdir.h"

static const struct fs_cred root = {.uid = 0};

struct place {
	char dir[256], out[300];
	const struct data_key *key; /* NULL: it is not encrypted */
};

static const struct data_key some_key = {.mode = ENCRYPTION_XTS, .bytes = {1, 2, 3}};

static int place_make(void **state)
{
	struct place *p = test_alloc(sizeof(*p));

	tempdir_make(p->dir);
	snprintf(p->out, sizeof(p->out), "%s/out", p->dir);
	*state = p;
	return 0;
}

static int place_make_encrypted(void **state)
{
	int r = place_make(state);

	((struct place *)*state)->key = &some_key;
	return r;
}

static int place_remove(void **state)
{
	struct place *p = *state;

	tempdir_remove(p->dir);
	free(p);
	return 0;
}

/* ---- files ---- */

static uint64_t make_node(struct fs *fs, uint64_t dir, const char *name, uint32_t mode)
{
	struct fs_attr a;

	assert_int_equal(fs_mknod(fs, &root, dir, name, mode, 0, &a), 0);
	fs_forget(fs, a.ino, 1);
	return a.ino;
}

static void fill(struct fs *fs, uint64_t ino, uint64_t off, size_t len, int byte)
{
	uint8_t *p = test_alloc(len);

	memset(p, byte, len);
	assert_int_equal(fs_write(fs, &root, ino, off, len, p, false), 0);
	free(p);
}

static char *read_file(const struct place *p, const char *name, size_t *ret_len)
{
	CLEANUP_FREE char *path = NULL;
	char *bytes = NULL;
	size_t cap = 0;

	assert_true(asprintf(&path, "%s/%s", p->out, name) > 0);
	FILE *f = fopen(path, "r");
	if (!f)
		fail_msg("%s: %s", path, strerror(errno));
	ssize_t n = getdelim(&bytes, &cap, EOF, f);
	*ret_len = n < 0 ? 0 : (size_t)n;
	fclose(f);
	return bytes;
}

static bool all_are(const char *p, size_t from, size_t to, char byte)
{
	while (from < to && p[from] == byte)
		from++;
	return from == to;
}

static mode_t mode_of(const struct place *p, const char *name)
{
	CLEANUP_FREE char *path = NULL;
	struct stat st;

	assert_true(asprintf(&path, "%s/%s", p->out, name) > 0);
	return lstat(path, &st) < 0 ? 0 : st.st_mode;
}

static void write_host(const struct place *p, const char *name, const char *text)
{
	CLEANUP_FREE char *path = NULL;

	assert_true(asprintf(&path, "%s/%s", p->dir, name) > 0);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static void make_host_dir(const struct place *p, const char *name)
{
	CLEANUP_FREE char *path = NULL;

	assert_true(asprintf(&path, "%s/%s", p->dir, name) > 0);
	assert_int_equal(mkdir(path, 0700), 0);
}

static json_t *list(const struct place *p)
{
	CLEANUP_BUF struct buf text = {0};

	assert_int_equal(diverged_list(p->dir, &text), 0);
	json_t *tails = json_loadb((const char *)text.p, text.len, 0, NULL);
	assert_true(json_is_array(tails));
	return tails;
}

static json_int_t number(json_t *tails, size_t i, const char *member)
{
	return json_integer_value(json_object_get(json_array_get(tails, i), member));
}

/* ---- a tail as a resync makes it ---- */

#define BYTES (10 * BLOCK_SIZE + 10)

/* Both have d/both, full of 'a'. */
static uint64_t common_past(struct fs *fs)
{
	uint64_t d = make_node(fs, FS_ROOT_INO, "d", S_IFDIR | 0755), both = make_node(fs, d, "both", S_IFREG | 0644);

	fill(fs, both, 0, BYTES, 'a');
	return both;
}

static void leader_future(struct fs *fs, uint64_t both)
{
	uint64_t theirs = make_node(fs, FS_ROOT_INO, "theirs", S_IFREG | 0644); /* takes the number of "mine" */

	fill(fs, theirs, 0, 3 * BLOCK_SIZE, 't');
	fill(fs, both, 5 * BLOCK_SIZE, BLOCK_SIZE, 'l');
}

static void follower_future(struct fs *fs, uint64_t both)
{
	uint64_t mine = make_node(fs, FS_ROOT_INO, "mine", S_IFREG | 04755);
	struct fs_attr a;

	fill(fs, mine, 0, 100, 'm');
	assert_int_equal(fs_setxattr(fs, &root, mine, "user.note", "a\0b", 3, 0), 0);
	assert_int_equal(fs_rename(fs, &root, FS_ROOT_INO, "d", FS_ROOT_INO, "e", 0), 0);
	fill(fs, both, 2 * BLOCK_SIZE, BLOCK_SIZE, 'f');
	make_node(fs, FS_ROOT_INO, "empty", S_IFREG | 0600);
	make_node(fs, FS_ROOT_INO, "\xff\xfe", S_IFREG | 0600);
	make_node(fs, FS_ROOT_INO, "alone", S_IFDIR | 0700);
	assert_int_equal(fs_symlink(fs, &root, FS_ROOT_INO, "link", "to/nowhere", &a), 0);
	fs_forget(fs, a.ino, 1);
}

static void resync_keeping(struct place *p, struct sim_run *leader, struct sim_run *follower)
{
	struct diverged_sink *sink;

	assert_int_equal(diverged_dir_new(p->dir, &sink), 0);
	if (p->key)
		assert_int_equal(diverged_crypt_new(sink, p->key, &sink), 0);
	node_lead(leader, 1, SIM_TREE, 0);
	node_lead(follower, 1, SIM_TREE, 0);
	uint64_t both = common_past(leader->fs);
	assert_int_equal(common_past(follower->fs), both);
	leader_future(leader->fs, both);
	follower_future(follower->fs, both);
	node_follow(follower->fs);
	follower->fs->config.diverged = sink;
	struct pull pull = {.leader = leader->fs, .follower = follower->fs, .save = true};
	assert_int_equal(pull_run(&pull), 0);
	pull_free(&pull);
	follower->fs->config.diverged = NULL;
	diverged_free(sink);
}

static void what_only_this_node_had_is_a_tree_again(void **state)
{
	struct place *p = *state;
	struct sim_run leader, follower;
	char target[64] = "";
	size_t len;

	resync_keeping(p, &leader, &follower);
	json_t *tails = list(p);
	assert_int_equal(json_array_size(tails), 1);
	const char *id = json_string_value(json_object_get(json_array_get(tails, 0), "id"));
	assert_true(json_is_true(json_object_get(json_array_get(tails, 0), "complete")));
	assert_true(json_is_false(json_object_get(json_array_get(tails, 0), "resumed")));
	assert_int_equal(number(tails, 0, "files"), 2);
	assert_int_equal(number(tails, 0, "bytes"), 3 * BLOCK_SIZE);
	assert_int_equal(number(tails, 0, "lost_bytes"), 0);
	assert_int_equal(number(tails, 0, "node_id"), 1);

	assert_int_equal(diverged_export(p->dir, id, p->out, p->key), 0);
	char *both = read_file(p, "tree/e/both", &len);
	assert_int_equal(len, BYTES);
	assert_true(all_are(both, 0, 2 * BLOCK_SIZE, 0) && all_are(both, 2 * BLOCK_SIZE, 3 * BLOCK_SIZE, 'f'));
	/* The leader has changed this one: what was here before is kept, too. */
	assert_true(all_are(both, 5 * BLOCK_SIZE, 6 * BLOCK_SIZE, 'a') && all_are(both, 6 * BLOCK_SIZE, BYTES, 0));
	char *mine = read_file(p, "tree/mine", &len);
	assert_true(len == 100 && all_are(mine, 0, 100, 'm'));
	assert_int_equal(mode_of(p, "tree/mine"), S_IFREG | 0600); /* no set-user-ID file is made by looking at it */
	assert_int_equal(mode_of(p, "tree/empty"), S_IFREG | 0600);
	assert_int_equal(mode_of(p, "tree/\xff\xfe"), S_IFREG | 0600);
	assert_int_equal(mode_of(p, "tree/alone"), S_IFDIR | 0700);
	assert_int_equal(mode_of(p, "tree/theirs"), 0);
	assert_int_equal(mode_of(p, "unnamed"), 0);
	CLEANUP_FREE char *link = NULL;
	assert_true(asprintf(&link, "%s/tree/link", p->out) > 0);
	assert_int_equal(readlink(link, target, sizeof(target)), 10);
	assert_string_equal(target, "to/nowhere");
	char *rows = read_file(p, "changes.jsonl", &len);
	assert_non_null(strstr(rows, "\"path\":\"/mine\""));
	assert_non_null(strstr(rows, "\"mode\":\"104755\""));
	assert_non_null(strstr(rows, "\"value_hex\":\"610062\""));
	assert_non_null(strstr(rows, "\"name_hex\":\"fffe\""));
	free(rows);
	free(mine);
	free(both);
	json_decref(tails);
	sim_free(&follower);
	sim_free(&leader);
}

/* Nor with a key that is not the right one. */
static void nothing_of_an_encrypted_tail_is_seen(void **state)
{
	static const char *const words[] = {"mine", "alone", "both", "nowhere", "table", "fffe", "mmmmmmmm", "ffffffff"};
	struct data_key other = some_key;
	struct place *p = *state;
	struct sim_run leader, follower;
	char file[600];
	size_t len;

	resync_keeping(p, &leader, &follower);
	json_t *tails = list(p);
	const char *id = json_string_value(json_object_get(json_array_get(tails, 0), "id"));
	other.bytes[0] ^= 1;
	assert_int_equal(diverged_export(p->dir, id, p->out, &other), 0);
	char *rows = read_file(p, "changes.jsonl", &len);
	assert_int_equal(len, 0);
	free(rows);
	snprintf(p->out, sizeof(p->out), "%s/diverged", p->dir);
	snprintf(file, sizeof(file), "%s/rows.jsonl", id);
	rows = read_file(p, file, &len);
	assert_true(len > 100);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		assert_null(memmem(rows, len, words[i], strlen(words[i])));
	free(rows);
	unsigned n_files = 0;
	for (unsigned ino = 1; ino < 100; ino++) {
		snprintf(file, sizeof(file), "%s/files/%u", id, ino);
		if (mode_of(p, file) == 0)
			continue;
		char *data = read_file(p, file, &len);
		for (size_t i = 0; i < ARRAY_SIZE(words); i++)
			assert_null(memmem(data, len, words[i], strlen(words[i])));
		free(data);
		n_files++;
	}
	assert_int_equal(n_files, 2);
	json_decref(tails);
	sim_free(&follower);
	sim_free(&leader);
}

static void files_are_private(void **state)
{
	struct place *p = *state;
	struct sim_run leader, follower;

	mode_t old = umask(0);
	resync_keeping(p, &leader, &follower);
	umask(old);
	json_t *tails = list(p);
	snprintf(p->out, sizeof(p->out), "%s/diverged", p->dir);
	assert_int_equal(mode_of(p, "."), S_IFDIR | 0700);
	snprintf(p->out, sizeof(p->out), "%s/diverged/%s", p->dir,
		 json_string_value(json_object_get(json_array_get(tails, 0), "id")));
	assert_int_equal(mode_of(p, "."), S_IFDIR | 0700);
	assert_int_equal(mode_of(p, "files"), S_IFDIR | 0700);
	assert_int_equal(mode_of(p, "rows.jsonl"), S_IFREG | 0600);
	assert_int_equal(mode_of(p, "info.json"), S_IFREG | 0600);
	json_decref(tails);
	sim_free(&follower);
	sim_free(&leader);
}

/* ---- the sink by itself ---- */

static void tails_of_one_second_have_names_of_their_own(void **state)
{
	struct place *p = *state;
	struct diverged_sink *s;

	assert_int_equal(diverged_dir_new(p->dir, &s), 0);
	assert_int_equal(s->ops->open(s, "one"), 0);
	assert_int_equal(s->ops->put_line(s, slice_of("{\"table\":\"O\"}")), 0);
	s->ops->close(s);
	assert_int_equal(s->ops->open(s, "one"), -EEXIST);
	assert_int_equal(s->ops->open(s, "two"), 0);
	assert_int_equal(s->ops->sync(s, slice_of("{\"id\":\"two\",\"when_ns\":7}")), 0);
	diverged_free(s);
	/* The first never said when it was: it counts as the newest. */
	json_t *tails = list(p);
	assert_int_equal(json_array_size(tails), 2);
	assert_int_equal(number(tails, 0, "when_ns"), 7);
	assert_string_equal(json_string_value(json_object_get(json_array_get(tails, 1), "id")), "one");
	assert_true(json_is_false(json_object_get(json_array_get(tails, 1), "complete")));
	json_decref(tails);
}

static void a_symbolic_link_in_its_place_is_refused(void **state)
{
	struct place *p = *state;
	CLEANUP_BUF struct buf text = {0};
	CLEANUP_FREE char *link = NULL;
	struct diverged_sink *s;

	make_host_dir(p, "elsewhere");
	assert_true(asprintf(&link, "%s/diverged", p->dir) > 0);
	assert_int_equal(symlink("elsewhere", link), 0);
	assert_int_equal(diverged_dir_new(p->dir, &s), 0);
	assert_int_equal(s->ops->open(s, "one"), -ENOTDIR);
	diverged_free(s);
	assert_int_equal(diverged_list(p->dir, &text), -ENOTDIR);
	assert_int_equal(diverged_export(p->dir, "one", p->out, p->key), -ENOTDIR);
	snprintf(p->out, sizeof(p->out), "%s/elsewhere", p->dir);
	assert_int_equal(mode_of(p, "one"), 0);
}

static void what_is_not_there_is_said(void **state)
{
	struct place *p = *state;
	json_t *tails = list(p);

	assert_int_equal(json_array_size(tails), 0);
	json_decref(tails);
	assert_int_equal(diverged_export(p->dir, "one", p->out, p->key), -ENOENT);
	make_host_dir(p, "diverged");
	assert_int_equal(diverged_export(p->dir, "one", p->out, p->key), -ENOENT);
	assert_int_equal(diverged_export(p->dir, "..", p->out, p->key), -EINVAL);
	assert_int_equal(diverged_export(p->dir, "a/b", p->out, p->key), -EINVAL);
	assert_int_equal(diverged_export(p->dir, "", p->out, p->key), -EINVAL);
	make_host_dir(p, "diverged/one");
	make_host_dir(p, "diverged/one/files");
	write_host(p, "diverged/one/rows.jsonl", "");
	make_host_dir(p, "out");
	assert_int_equal(diverged_export(p->dir, "one", p->out, p->key), -EEXIST);
}

/* ---- rows that somebody tampered with, or a crash tore ---- */

static void no_path_leads_out_of_the_tree(void **state)
{
	struct place *p = *state;
	size_t len;

	make_host_dir(p, "diverged");
	make_host_dir(p, "diverged/one");
	make_host_dir(p, "diverged/one/files");
	for (int ino = 10; ino < 18; ino++) {
		char name[64];

		snprintf(name, sizeof(name), "diverged/one/files/%d", ino);
		write_host(p, name, "data");
	}
	write_host(p, "diverged/one/rows.jsonl",
		   "{\"table\":\"E\",\"ino\":10,\"data\":[],\"path\":\"/../../escaped\"}\n"
		   "{\"table\":\"E\",\"ino\":11,\"data\":[],\"path\":\"/a/../../../escaped\"}\n"
		   "{\"table\":\"E\",\"ino\":12,\"data\":[],\"path\":\"//x\"}\n"
		   "{\"table\":\"E\",\"ino\":13,\"data\":[],\"path\":\"/a/.\"}\n"
		   "{\"table\":\"E\",\"ino\":14,\"data\":[],\"path\":\"/a\\u0000b\"}\n"
		   "{\"table\":\"E\",\"ino\":15,\"data\":[],\"path\":\"/file\"}\n"
		   "{\"table\":\"E\",\"ino\":16,\"data\":[],\"path\":\"/file/below\"}\n"
		   "{\"table\":\"E\",\"ino\":17,\"data\":[]}\n"
		   "{\"table\":\"L\",\"ino\":20,\"path\":\"/up\",\"target\":\"../..\"}\n"
		   "{\"table\":\"I\",\"ino\":21,\"gone\":true,\"mode\":\"100644\",\"size\":4,\"path\":\"/up/escaped\"}\n"
		   "{\"table\":\"I\",\"ino\":22,\"gone\":true,\"mode\":\"040755\",\"path\":\"/file\"}\n"
		   "[]\n17\n{\"table\":7}\nnot json\n{\"table\":\"E\",\"ino\":1");
	assert_int_equal(diverged_export(p->dir, "one", p->out, p->key), 0);
	for (int ino = 10; ino < 18; ino++) {
		char name[64];

		if (ino == 15)
			continue;
		snprintf(name, sizeof(name), "unnamed/%d", ino);
		char *bytes = read_file(p, name, &len);
		assert_int_equal(len, 4);
		free(bytes);
	}
	assert_int_equal(mode_of(p, "tree/file"), S_IFREG | 0600);
	assert_int_equal(mode_of(p, "tree/up") & S_IFMT, S_IFDIR); /* made for what lay in it; the link found its place taken */
	assert_int_equal(mode_of(p, "tree/up/escaped"), S_IFREG | 0600);
	assert_int_equal(mode_of(p, "unnamed/20") & S_IFMT, S_IFLNK);
	assert_int_equal(mode_of(p, "unnamed/22") & S_IFMT, S_IFDIR);
	assert_int_equal(mode_of(p, "../escaped"), 0);
	assert_int_equal(mode_of(p, "escaped"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(what_only_this_node_had_is_a_tree_again, place_make, place_remove),
	    cmocka_unit_test_setup_teardown(what_only_this_node_had_is_a_tree_again, place_make_encrypted, place_remove),
	    cmocka_unit_test_setup_teardown(nothing_of_an_encrypted_tail_is_seen, place_make_encrypted, place_remove),
	    cmocka_unit_test_setup_teardown(files_are_private, place_make, place_remove),
	    cmocka_unit_test_setup_teardown(tails_of_one_second_have_names_of_their_own, place_make, place_remove),
	    cmocka_unit_test_setup_teardown(a_symbolic_link_in_its_place_is_refused, place_make, place_remove),
	    cmocka_unit_test_setup_teardown(what_is_not_there_is_said, place_make, place_remove),
	    cmocka_unit_test_setup_teardown(no_path_leads_out_of_the_tree, place_make, place_remove),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
