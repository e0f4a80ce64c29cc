/*
 * test_control.c: the clawfs.* attributes of control.h, on a real volume over a store and an index in memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/face/control.h"
#include "tests/lib/kv_mem.h"

#define OWNER 1234u

struct volume {
	struct simstore *sim;
	struct kv_disk *index;
	struct fs *fs;
	uint64_t file; /* an inode that is not the root: /sub/name */
};

static const struct fs_cred root = {.uid = 0}, owner = {.uid = OWNER}, stranger = {.uid = OWNER + 1};

static int make_volume(void **state)
{
	struct volume *v = calloc(1, sizeof(*v));
	struct fs_attr dir, file;

	assert_non_null(v);
	v->sim = simstore_new();
	v->index = kv_disk_new(v->sim);
	const struct fs_config c = {
	    .store = simstore_open(v->sim),
	    .source = "/a/store",
	    .kv_open = kv_mem_open,
	    .kv_ctx = v->index,
	    .n_workers = 1,
	    .memory_bytes = 64 * MIB,
	    .no_threads = true,
	};
	const struct fs_format_options o = {
	    .journal = {.n_segments = 16, .segment_blocks = 512},
	    .chunk_bytes = 16 * MIB,
	    .root_uid = OWNER,
	    .root_mode = 0755,
	};
	assert_int_equal(fs_format(&c, &o), 0);
	assert_int_equal(fs_open(&c, &v->fs), 0);
	assert_int_equal(fs_mknod(v->fs, &root, FS_ROOT_INO, "sub", S_IFDIR | 0755, 0, &dir), 0);
	assert_int_equal(fs_mknod(v->fs, &root, dir.ino, "name", S_IFREG | 0644, 0, &file), 0);
	v->file = file.ino;
	*state = v;
	return 0;
}

static int free_volume(void **state)
{
	struct volume *v = *state;

	assert_int_equal(fs_close(v->fs), 0);
	kv_disk_free(v->index);
	simstore_free(v->sim);
	free(v);
	return 0;
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
	struct volume *v = *state;
	static const char *const names[] = {"clawfs.", "clawfs.nothing", "clawfs.statusx", "clawfs.stat"};
	char p[64];
	size_t len;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		assert_int_equal(control_get(v->fs, FS_ROOT_INO, names[i], p, sizeof(p), &len), -ENODATA);
		assert_int_equal(control_set(v->fs, &root, FS_ROOT_INO, names[i], "1", 1), -EOPNOTSUPP);
	}
}

static void size_0_asks_for_the_length_and_a_short_buffer_is_refused(void **state)
{
	struct volume *v = *state;
	const char path[] = "/sub/name";
	char p[sizeof(path)];
	size_t len = 0;

	assert_int_equal(control_get(v->fs, v->file, "clawfs.path", NULL, 0, &len), 0);
	assert_int_equal(len, strlen(path));
	assert_int_equal(control_get(v->fs, v->file, "clawfs.path", p, len - 1, &len), -ERANGE);
	memset(p, '#', sizeof(p));
	assert_int_equal(control_get(v->fs, v->file, "clawfs.path", p, len, &len), 0);
	assert_memory_equal(p, path, len);
	assert_int_equal(p[len], '#'); /* no trailing NUL */
}

static void what_belongs_to_the_volume_lives_on_its_root_alone(void **state)
{
	struct volume *v = *state;
	char p[65536];
	size_t len = 0;

	assert_int_equal(control_get(v->fs, FS_ROOT_INO, "clawfs.status", p, sizeof(p) - 1, &len), 0);
	p[len] = '\0';
	assert_int_equal(p[0], '{');
	assert_non_null(strstr(p, "/a/store"));
	assert_int_equal(control_get(v->fs, FS_ROOT_INO, "clawfs.version", p, sizeof(p), &len), 0);
	assert_true(len > 0);
	assert_int_equal(control_get(v->fs, v->file, "clawfs.status", p, sizeof(p), &len), -ENODATA);
	assert_int_equal(control_get(v->fs, v->file, "clawfs.version", p, sizeof(p), &len), -ENODATA);
	assert_int_equal(control_set(v->fs, &root, v->file, "clawfs.sync", "", 0), -EOPNOTSUPP);
}

static void a_command_reads_as_unset_and_a_fact_cannot_be_set(void **state)
{
	struct volume *v = *state;
	char p[64];
	size_t len;

	assert_int_equal(control_get(v->fs, FS_ROOT_INO, "clawfs.sync", p, sizeof(p), &len), -ENODATA);
	assert_int_equal(control_get(v->fs, FS_ROOT_INO, "clawfs.checkpoint", p, sizeof(p), &len), -ENODATA);
	assert_int_equal(control_set(v->fs, &root, FS_ROOT_INO, "clawfs.status", "1", 1), -EOPNOTSUPP);
	assert_int_equal(control_set(v->fs, &root, FS_ROOT_INO, "clawfs.path", "1", 1), -EOPNOTSUPP);
}

static void commands_are_for_root_and_the_owner_of_the_root_directory(void **state)
{
	struct volume *v = *state;

	assert_int_equal(control_set(v->fs, &root, FS_ROOT_INO, "clawfs.sync", "1", 1), 0);
	assert_int_equal(control_set(v->fs, &owner, FS_ROOT_INO, "clawfs.sync", NULL, 0), 0);
	assert_int_equal(control_set(v->fs, &stranger, FS_ROOT_INO, "clawfs.sync", "1", 1), -EPERM);
	assert_int_equal(control_set(v->fs, &stranger, FS_ROOT_INO, "clawfs.checkpoint", "1", 1), -EPERM);
	assert_int_equal(control_set(v->fs, &owner, FS_ROOT_INO, "clawfs.checkpoint", "1", 1), 0);
}

static void a_sync_reaches_the_store(void **state)
{
	struct volume *v = *state;
	struct fs_attr a;

	assert_int_equal(control_set(v->fs, &root, FS_ROOT_INO, "clawfs.sync", "1", 1), 0);
	uint64_t before = simstore_count(v->sim);
	assert_int_equal(fs_mknod(v->fs, &root, FS_ROOT_INO, "new", S_IFREG | 0644, 0, &a), 0);
	assert_int_equal(simstore_count(v->sim), before); /* nothing is written until somebody asks */
	assert_int_equal(control_set(v->fs, &root, FS_ROOT_INO, "clawfs.sync", "1", 1), 0);
	assert_true(simstore_count(v->sim) > before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_name_outside_the_namespace_is_not_ours),
	    cmocka_unit_test(an_unknown_name_is_unset_and_cannot_be_set),
	    cmocka_unit_test(size_0_asks_for_the_length_and_a_short_buffer_is_refused),
	    cmocka_unit_test(what_belongs_to_the_volume_lives_on_its_root_alone),
	    cmocka_unit_test(a_command_reads_as_unset_and_a_fact_cannot_be_set),
	    cmocka_unit_test(commands_are_for_root_and_the_owner_of_the_root_directory),
	    cmocka_unit_test(a_sync_reaches_the_store),
	};

	return cmocka_run_group_tests(tests, make_volume, free_volume);
}
