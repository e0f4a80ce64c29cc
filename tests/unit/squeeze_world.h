/*
 * squeeze_world.h: a volume without threads over a store in memory, whose blocks a test may look at, and one file in it with a copy in
 * memory of what it should have.
 *
 * Threads: one.  Errors: none; the tests assert.
 */
#pragma once

#include <stdio.h>
#include <string.h>

#include "fs/core/core.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "memstore.h"
#include "tests/lib/rng.h"
#include "tests/lib/steps.h"
#include "volume.h"

#define OK(call) assert_int_equal(call, 0)
#define FILE_LEAVES 4u
#define FILE_BYTES (FILE_LEAVES * LEAF_DATA_BYTES)

struct squeeze_world {
	struct volume v;
	struct memstore store;
	uint8_t want[FILE_BYTES];
	uint64_t size; /* of the file */
};

static inline void squeeze_world_open(struct squeeze_world *w, const char *policy)
{
	memset(w, 0, sizeof(*w));
	memstore_init(&w->store);
	volume_make(&w->v, &w->store.base, NULL);
	OK(fs_set_policy(w->v.fs, &root, w->v.dir, "compression", policy));
}

static inline void squeeze_world_close(struct squeeze_world *w)
{
	volume_close(&w->v);
	memstore_free(&w->store);
}

static inline void squeeze_world_reopen(struct squeeze_world *w, bool killed)
{
	if (killed)
		fs_abandon(w->v.fs);
	else
		OK(fs_close(w->v.fs));
	w->v.config.store = &w->store.base;
	OK(fs_open(&w->v.config, &w->v.fs));
}

/* Bytes that pack to about a third, or not at all. */
static inline void fill_text(struct rng *g, uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = i % 16 < 5 ? (uint8_t)rng_u64(g) : (uint8_t)("the same again.\n"[i % 16]);
}
static inline void fill_noise(struct rng *g, uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)rng_u64(g);
}

/* Writes what the copy has there. */
static inline int world_write(struct squeeze_world *w, uint64_t off, size_t len)
{
	int r = fs_write(w->v.fs, &root, w->v.file, off, len, w->want + off, false);

	if (r == 0)
		w->size = max_u64(w->size, off + len);
	return r;
}

static inline void world_home(struct squeeze_world *w)
{
	steps_home(w->v.fs);
}

static inline void world_squeeze(struct squeeze_world *w)
{
	bool more = true;

	while (more)
		OK(fs_squeeze_step(w->v.fs, &more));
}

static inline struct leaf world_leaf(struct squeeze_world *w, uint64_t leaf)
{
	struct leaf l;

	OK(extent_get(w->v.fs, w->v.file, leaf, &l));
	return l;
}

/* What `ino` has of bytes [off, off + len). */
static inline int world_read(struct squeeze_world *w, uint64_t ino, uint64_t off, size_t len, uint8_t *ret)
{
	static uint8_t room[FILE_BYTES + 2 * BLOCK_SIZE] __attribute__((aligned(DISK_BLOCK)));
	size_t n;
	void *at;
	int r = fs_read(w->v.fs, ino, off, len, room, &at, &n);

	if (r < 0)
		return r;
	assert_int_equal(n, len);
	memcpy(ret, at, n);
	return 0;
}

static inline void world_check(struct squeeze_world *w)
{
	static uint8_t got[FILE_BYTES];

	OK(world_read(w, w->v.file, 0, w->size, got));
	if (memcmp(got, w->want, w->size) != 0)
		fail_msg("the file is not what was written");
}

static inline void world_fsck(struct squeeze_world *w)
{
	assert_sound(w->v.fs);
}

static inline struct arena_status world_space(struct squeeze_world *w)
{
	struct arena_status as;

	arena_get_status(w->v.fs->arena, &as);
	return as;
}
