/*
 * recall_world.h: a volume whose files lie in an object store in memory ("s"), packed by the test in the order it likes, and
 * readers that say how often they had to wait.
 *
 * With or without threads of recalls; the clock goes on by itself and can be moved.  Threads: the test's, and those of the
 * volume. Errors: none; the tests assert, in their own thread only.
 */
#pragma once

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fs/core/core.h"
#include "fs/core/tier/recall/recalled.h"
#include "fs/core/tier/tier.h"
#include "tests/lib/rng.h"
#include "tests/lib/simobject.h"
#include "tests/lib/steps.h"
#include "tests/unit/volume.h"

#define STORE_TEXT   "file:///cold id=1 pack=64M timeout=1"
#define LEAF_SIZE    (LEAF_SLOTS * (size_t)BLOCK_SIZE)
#define FIRST_OBJECT UINT64_C(0x5f00000000000001)

struct recall_world {
	struct volume v;
	struct simobject *so;
	uint64_t objects; /* made so far */
};

static _Atomic int64_t mono_ahead_ns;
static int64_t world_real_ns(const struct clock *c)
{
	(void)c;
	return INT64_C(1700000000) * NSEC_PER_SEC + atomic_load(&mono_ahead_ns);
}
static int64_t world_mono_ns(const struct clock *c)
{
	struct timespec t;

	(void)c;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NSEC_PER_SEC + t.tv_nsec + atomic_load(&mono_ahead_ns);
}
static const struct clock world_clock = {.real_ns = world_real_ns, .mono_ns = world_mono_ns};

static inline void pass_ns(int64_t ns)
{
	atomic_fetch_add(&mono_ahead_ns, ns);
}

static inline void world_define(struct recall_world *w, const char *text)
{
	assert_int_equal(fs_set_policy(w->v.fs, &root, FS_ROOT_INO, "tier.store.s", text), 0);
	stores_changed(w->v.fs);
}

static inline void world_bind(struct recall_world *w)
{
	struct object_store *s = simobject_open(w->so, "s");
	char message[OBJECT_MESSAGE_MAX];

	assert_int_equal(stores_bind(w->v.fs, s, message), 0);
	object_store_close(s);
}

/* Opens it again, with w->v.config as it is now. */
static inline void world_reopen(struct recall_world *w)
{
	volume_reopen(&w->v, false);
}

static inline void world_open(struct recall_world *w, bool threads)
{
	*w = (struct recall_world){0};
	volume_open(&w->v, &world_clock);
	w->so = simobject_new(NULL, &world_clock);
	w->v.config.object_store_open = simobject_hook;
	w->v.config.object_store_ctx = w->so;
	w->v.config.no_threads = !threads;
	world_reopen(w);
	world_define(w, STORE_TEXT);
	world_bind(w);
	assert_int_equal(stores_make_key(w->v.fs), 0);
}

static inline void world_close(struct recall_world *w)
{
	simobject_clear(w->so);
	volume_close(&w->v);
	simobject_free(w->so);
}

/* ---- files ---- */

/* What they hold packs to less than a half. */
static bool world_packs;

static inline void content(uint64_t seed, uint64_t off, uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		struct rng g = {.state = seed * 1000003 + (off + i) / 8};

		p[i] = world_packs && (off + i) % 4 ? 7 : (uint8_t)(rng_u64(&g) >> (off + i) % 8 * 8);
	}
}

static inline void write_file(struct recall_world *w, uint64_t ino, uint64_t seed, size_t len)
{
	uint8_t *p = malloc(MIB);

	for (size_t done = 0; done < len; done += MIB) {
		size_t n = min_u64(len - done, MIB);

		content(seed, done, p, n);
		assert_int_equal(fs_write(w->v.fs, &root, ino, done, n, p, false), 0);
	}
	free(p);
}

/* A file in `dir` whose content its inode number tells. */
static inline uint64_t make_file(struct recall_world *w, uint64_t dir, const char *name, size_t len)
{
	struct fs_attr a;

	assert_int_equal(fs_mknod(w->v.fs, &root, dir, name, S_IFREG | 0644, 0, &a), 0);
	write_file(w, a.ino, a.ino, len);
	return a.ino;
}

static inline void home_all(struct recall_world *w)
{
	steps_settle(w->v.fs);
}

/* ---- packing: as ageing does it, with nothing left to it ---- */

static uint32_t world_store_of_next_pack = 1; /* "s" */
struct packing {
	struct pack_writer *writer;
	struct packed_leaf *leaf;
	size_t n;
	uint64_t object;
};

static inline void pack_begin(struct recall_world *w, struct packing *p)
{
	struct pack_volume_key key;
	struct pack_config c = {.object = FIRST_OBJECT + w->objects++, .time_ns = 1, .max_bytes = PACK_BYTES_MAX, .key = &key};

	memcpy(c.volume, w->v.fs->super.volume, sizeof(c.volume));
	assert_int_equal(stores_key(w->v.fs, &key), 0);
	*p = (struct packing){.object = c.object, .leaf = calloc(4096, sizeof(*p->leaf))};
	assert_int_equal(pack_writer_new(&c, &p->writer), 0);
}

static inline void pack_file(struct recall_world *w, struct packing *p, uint64_t ino)
{
	uint8_t *blocks = aligned_alloc(DISK_BLOCK, LEAF_SIZE);
	struct fs_attr a;

	assert_int_equal(fs_getattr(w->v.fs, ino, &a), 0);
	assert_int_equal(tier_watch(w->v.fs, ino), 0);
	for (uint64_t leaf = 0; leaf * LEAF_SIZE < a.size; leaf++) {
		uint64_t n = div_round_up(min_u64(a.size - leaf * LEAF_SIZE, LEAF_SIZE), BLOCK_SIZE);
		uint16_t mask = (uint16_t)((1u << n) - 1);
		struct pack_place place;

		icache_rdlock(w->v.fs->icache, ino);
		assert_int_equal(extent_read(w->v.fs, ino, leaf * LEAF_SLOTS, (uint32_t)n, blocks), 0);
		icache_rdunlock(w->v.fs->icache, ino);
		assert_int_equal(pack_add(p->writer, ino, leaf, mask, blocks, &place), 0);
		assert_true(p->n < 4096);
		p->leaf[p->n++] = (struct packed_leaf){ino, leaf, place.offset, place.len, mask};
	}
	free(blocks);
}

/* The object is stored, its leaves name it, and their homes are gone. */
static inline void pack_end(struct recall_world *w, struct packing *p)
{
	struct object_row row = {.object = p->object, .store = world_store_of_next_pack, .born_ns = 1};
	char key[OBJECT_NAME_MAX];
	const uint8_t *bytes;
	size_t len, placed;
	uint64_t dropped;

	assert_int_equal(pack_finish(p->writer, &bytes, &len, row.sealed), 0);
	row.bytes = len;
	for (size_t i = 0; i < p->n; i++)
		row.n_blocks += (unsigned)__builtin_popcount(p->leaf[i].mask);
	object_name(p->object, key);
	simobject_plant(w->so, row.store == 1 ? "s" : "t", key, bytes, len, 1);
	for (size_t i = 0, n; i < p->n; i += n) {
		uint64_t ino = p->leaf[i].ino;

		for (n = 1; i + n < p->n && p->leaf[i + n].ino == ino && n < 512; n++)
			;
		assert_int_equal(tier_place(w->v.fs, &row, &p->leaf[i], n, &placed), 0);
		assert_int_equal(placed, n);
		if (i + n == p->n || p->leaf[i + n].ino != ino)
			tier_unwatch(w->v.fs, ino);
	}
	for (size_t i = 0; i < p->n; i++)
		assert_int_equal(tier_drop_homes(w->v.fs, p->leaf[i].ino, p->leaf[i].leaf, 1, &dropped), 0);
	pack_writer_free(p->writer);
	free(p->leaf);
}

static inline uint64_t cold_blocks(struct recall_world *w, uint64_t ino)
{
	struct tier_file f;

	assert_int_equal(tier_file_state(w->v.fs, ino, &f), 0);
	return f.cold_blocks;
}

/* Where a leaf's frame is. */
static inline struct leaf_object object_of(struct recall_world *w, uint64_t ino, uint64_t leaf)
{
	struct leaf l;

	icache_rdlock(w->v.fs->icache, ino);
	assert_int_equal(extent_get(w->v.fs, ino, leaf, &l), 0);
	icache_rdunlock(w->v.fs->icache, ino);
	return l.object;
}

/* A cold file by itself in an object. */
static inline uint64_t make_cold(struct recall_world *w, uint64_t dir, const char *name, size_t len)
{
	uint64_t ino = make_file(w, dir, name, len);
	struct packing p;

	home_all(w);
	pack_begin(w, &p);
	pack_file(w, &p, ino);
	pack_end(w, &p);
	assert_int_equal(cold_blocks(w, ino), div_round_up(len, BLOCK_SIZE));
	return ino;
}

/* ---- readers ---- */

/* 0 when bytes [off, off + len) are the content that `seed` tells; -ENOTUNIQ when they are others. */
static inline int read_seed(struct fs *fs, uint64_t ino, uint64_t seed, uint64_t off, size_t len)
{
	uint8_t *room = aligned_alloc(DISK_BLOCK, len / DISK_BLOCK * DISK_BLOCK + 3 * DISK_BLOCK), *want = malloc(len);
	void *at;
	size_t n = 0;
	int r;

	while ((r = fs_read(fs, ino, off, len, room, &at, &n)) == -EINPROGRESS && (r = fs_recall(fs)) == 0)
		;
	if (r == 0) {
		content(seed, off, want, n);
		r = n == len && memcmp(at, want, n) == 0 ? 0 : -ENOTUNIQ;
	}
	free(room);
	free(want);
	return r;
}

static inline int read_part(struct recall_world *w, uint64_t ino, uint64_t off, size_t len)
{
	return read_seed(w->v.fs, ino, ino, off, len);
}

/* All of it, in steps; the first error. */
static inline int read_whole(struct recall_world *w, uint64_t ino, size_t len, size_t step)
{
	int r = 0;

	for (size_t off = 0; off < len && r == 0; off += step)
		r = read_part(w, ino, off, min_u64(len - off, step));
	return r;
}

static inline uint64_t gets(struct recall_world *w)
{
	return simobject_calls(w->so, OBJECT_GET);
}

static inline struct recall_status status_of(struct recall_world *w)
{
	struct recall_status s;

	recall_get_status(w->v.fs, &s);
	return s;
}

/* Waits until `condition` holds, for ten seconds at most. */
#define EVENTUALLY(condition)                                                                                                    \
	do {                                                                                                                     \
		int tries_ = 0;                                                                                                  \
		while (!(condition) && tries_++ < 5000)                                                                          \
			usleep(2000);                                                                                            \
		assert_true(condition);                                                                                          \
	} while (0)

/* One who waits without a thread, as the FUSE face does. */
struct parked {
	struct journal_waiter w;
	_Atomic int result, calls;
};
#define NO_ANSWER 1

static inline void parked_done(struct journal_waiter *w, int result)
{
	struct parked *p = container_of(w, struct parked, w);

	atomic_store(&p->result, result);
	atomic_fetch_add(&p->calls, 1);
}

/* Reads and, when data is missing, asks for it. */
static inline int park_read(struct recall_world *w, struct parked *p, uint64_t ino, uint64_t off, size_t len)
{
	uint8_t *room = aligned_alloc(DISK_BLOCK, len / DISK_BLOCK * DISK_BLOCK + 3 * DISK_BLOCK);
	size_t n;
	void *at;
	int r = fs_read(w->v.fs, ino, off, len, room, &at, &n);

	free(room);
	p->w.done = parked_done;
	atomic_store(&p->result, NO_ANSWER);
	if (r == -EINPROGRESS)
		fs_recall_async(w->v.fs, &p->w);
	return r;
}

/* A reader in a thread of its own. */
struct reader {
	struct recall_world *w;
	uint64_t ino, off;
	size_t len;
	_Atomic int result;
	pthread_t thread;
};

static inline void *reader_main(void *arg)
{
	struct reader *r = arg;

	atomic_store(&r->result, read_part(r->w, r->ino, r->off, r->len));
	return NULL;
}

static inline void reader_start(struct reader *r, struct recall_world *w, uint64_t ino, uint64_t off, size_t len)
{
	*r = (struct reader){.w = w, .ino = ino, .off = off, .len = len, .result = NO_ANSWER};
	assert_int_equal(pthread_create(&r->thread, NULL, reader_main, r), 0);
}

static inline int reader_end(struct reader *r)
{
	pthread_join(r->thread, NULL);
	return atomic_load(&r->result);
}
