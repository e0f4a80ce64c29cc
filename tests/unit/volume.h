/*
 * volume.h: a whole volume for one test case, over an index in memory, and a store in memory unless given another one.
 *
 * Without threads unless asked for.  `/sub` and `/sub/name` are there.  Threads: one.  Errors: none; the tests assert.
 */
#pragma once

#include <sys/stat.h>

#include "fs/core/fs.h"
#include "tests/lib/kv_mem.h"

#define OWNER 1234u

struct volume {
	struct simstore *sim; /* NULL: the store is another one */
	struct kv_disk *index;
	struct fs_config config;
	struct fs *fs;
	uint64_t dir, file; /* inodes of /sub and /sub/name */
};

static const struct fs_cred root = {.uid = 0}, owner = {.uid = OWNER}, stranger = {.uid = OWNER + 1};

/* In an empty store; v->sim is set. */
static inline void volume_make(struct volume *v, struct store *store, const struct clock *clock)
{
	struct fs_attr dir, file;

	v->index = kv_disk_new(v->sim);
	v->config = (struct fs_config){
	    .store = store,
	    .source = "/a/store",
	    .kv_open = kv_mem_open,
	    .kv_ctx = v->index,
	    .clock = clock,
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
	assert_int_equal(fs_format(&v->config, &o), 0);
	assert_int_equal(fs_open(&v->config, &v->fs), 0);
	assert_int_equal(fs_mknod(v->fs, &root, FS_ROOT_INO, "sub", S_IFDIR | 0755, 0, &dir), 0);
	assert_int_equal(fs_mknod(v->fs, &root, dir.ino, "name", S_IFREG | 0644, 0, &file), 0);
	v->dir = dir.ino;
	v->file = file.ino;
}

static inline void volume_open(struct volume *v, const struct clock *clock)
{
	*v = (struct volume){.sim = simstore_new()};
	volume_make(v, simstore_open(v->sim), clock);
}

/* Closes it, as kill -9 does or properly, and opens it again. */
static inline void volume_reopen(struct volume *v, bool killed)
{
	if (killed)
		fs_abandon(v->fs);
	else
		assert_int_equal(fs_close(v->fs), 0);
	v->config.store = simstore_open(v->sim);
	assert_int_equal(fs_open(&v->config, &v->fs), 0);
}

static inline void volume_close(struct volume *v)
{
	assert_int_equal(fs_close(v->fs), 0);
	kv_disk_free(v->index);
	if (v->sim)
		simstore_free(v->sim);
}
