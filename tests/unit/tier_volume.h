/*
 * tier_volume.h: a volume for one test case with an object store in memory, named "s", and a clock that moves when told.
 *
 * Without threads unless asked for.  Monotonic time goes on by itself too, so that waits end; real time is where it was put.
 * Threads: the test's, and those of the volume.  Errors: none; the tests assert.
 */
#pragma once

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "fs/core/core.h"
#include "fs/core/tier/tier.h"
#include "tests/lib/rng.h"
#include "tests/lib/simobject.h"
#include "tests/lib/steps.h"
#include "tests/unit/volume.h"

#define STORE_OPTIONS "file:///cold pack=8M grace=1h"
#define HOUR_NS       (3600 * NSEC_PER_SEC)

static _Atomic int64_t clock_real_at = INT64_C(1700000000) * 1000000000, clock_mono_ahead;

static int64_t moved_real(const struct clock *c)
{
	(void)c;
	return atomic_load(&clock_real_at);
}
static int64_t moved_mono(const struct clock *c)
{
	struct timespec t;

	(void)c;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NSEC_PER_SEC + t.tv_nsec + atomic_load(&clock_mono_ahead);
}
static const struct clock moved_clock = {.real_ns = moved_real, .mono_ns = moved_mono};

/* Both clocks, as time that passes. */
static inline void pass(int64_t ns)
{
	atomic_fetch_add(&clock_real_at, ns);
	atomic_fetch_add(&clock_mono_ahead, ns);
}

struct tiered {
	struct volume v;
	struct simobject *so;
};

static inline void add_store(struct fs *fs, const char *text)
{
	struct buf out = {0};
	int r = admin_run(fs, &root, TIER_JOB_ADD, text, &out);

	if (r < 0)
		fprintf(stderr, "%.*s\n", (int)out.len, (const char *)out.p);
	assert_int_equal(r, 0);
	buf_free(&out);
}

/* With another configuration, as a restart would bring it. */
static inline void tiered_reopen(struct tiered *t, bool killed)
{
	volume_reopen(&t->v, killed);
}

/* As tiered_open(), with other options of the store. */
static inline void tiered_open_with(struct tiered *t, const char *options)
{
	char text[512];

	*t = (struct tiered){0};
	volume_open(&t->v, &moved_clock);
	t->so = simobject_new(NULL, &moved_clock);
	t->v.config.object_store_open = simobject_hook;
	t->v.config.object_store_ctx = t->so;
	tiered_reopen(t, true); /* so that the journal has everything from the first batch on */
	snprintf(text, sizeof(text), "s %s", options);
	add_store(t->v.fs, text);
}

/* "/" has the policy "after=30d store=s". */
static inline void tiered_open(struct tiered *t)
{
	tiered_open_with(t, STORE_OPTIONS);
	assert_int_equal(fs_set_policy(t->v.fs, &root, FS_ROOT_INO, "tier", "after=30d store=s"), 0);
}

static inline void tiered_close(struct tiered *t)
{
	volume_close(&t->v);
	simobject_free(t->so);
}

/* ---- files with content that a number tells ---- */

static inline uint64_t make_file(struct fs *fs, uint64_t parent, const char *name)
{
	struct fs_attr a;

	assert_int_equal(fs_mknod(fs, &root, parent, name, S_IFREG | 0644, 0, &a), 0);
	fs_forget(fs, a.ino, 1);
	return a.ino;
}

/* Bytes that do not compress; any eight of them tell where they are from. */
static inline void fill_content(uint8_t *p, size_t len, uint64_t seed, uint64_t off)
{
	for (size_t i = 0; i < len;) {
		struct rng g = {.state = seed * 1000003 + (off + i) / 8};
		uint64_t word = rng_u64(&g);

		do
			p[i] = (uint8_t)(word >> (off + i) % 8 * 8);
		while (++i < len && (off + i) % 8);
	}
}

/* Bytes [off, off + len) of content `seed`. */
static inline void write_content(struct fs *fs, uint64_t ino, uint64_t off, size_t len, uint64_t seed)
{
	uint8_t *p = malloc(MIB);

	for (size_t done = 0; done < len;) {
		size_t n = min_u64(len - done, MIB);
		int r;

		fill_content(p, n, seed, off + done);
		while ((r = fs_write(fs, &root, ino, off + done, n, p, false)) == -EINPROGRESS)
			assert_int_equal(fs_recall(fs), 0);
		assert_int_equal(r, 0);
		done += n;
	}
	free(p);
}

/* The error of reading it all, or 0 when it is content `seed`. */
static inline int read_error(struct fs *fs, uint64_t ino, size_t len, uint64_t seed)
{
	uint8_t *want = malloc(MIB);
	void *p = NULL, *at;
	size_t n;
	int r = 0;

	assert_int_equal(posix_memalign(&p, 4096, MIB + 2 * 4096), 0);
	for (size_t done = 0; done < len && r == 0; done += n) {
		n = 0;
		while ((r = fs_read(fs, ino, done, MIB, p, &at, &n)) == -EINPROGRESS && (r = fs_recall(fs)) == 0)
			;
		if (r < 0)
			break;
		assert_int_equal(n, min_u64(len - done, MIB));
		fill_content(want, n, seed, done);
		assert_memory_equal(at, want, n);
	}
	free(want);
	free(p);
	return r;
}

static inline void expect_content(struct fs *fs, uint64_t ino, size_t len, uint64_t seed)
{
	assert_int_equal(read_error(fs, ino, len, seed), 0);
}

static inline uint64_t file_of(struct fs *fs, uint64_t parent, const char *name, size_t len, uint64_t seed)
{
	uint64_t ino = make_file(fs, parent, name);

	write_content(fs, ino, 0, len, seed);
	return ino;
}

static inline struct tier_file state_of(struct fs *fs, uint64_t ino)
{
	struct tier_file f;

	assert_int_equal(tier_file_state(fs, ino, &f), 0);
	return f;
}
static inline bool is_cold(struct fs *fs, uint64_t ino)
{
	struct tier_file f = state_of(fs, ino);

	return f.data_blocks > 0 && f.cold_blocks == f.data_blocks;
}
static inline bool is_hot(struct fs *fs, uint64_t ino)
{
	return state_of(fs, ino).tiered_blocks == 0;
}

/* Packs in the store, which has a mark besides. */
static inline uint64_t n_packs(struct tiered *t)
{
	struct simobject_entry e;
	uint64_t n = 0, object;

	for (uint64_t i = 0; simobject_entry(t->so, i, &e); i++)
		n += object_name_parse(e.key, &object) == 0;
	return n;
}

static inline void ignore_line(void *ctx, const char *line)
{
	(void)ctx;
	(void)line;
}

/* Index, allocation, leaves and rows agree, and all data is there. */
static inline void expect_sound(struct fs *fs)
{
	assert_sound(fs);
}
