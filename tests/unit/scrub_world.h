/*
 * scrub_world.h: a volume without threads, blocks of which the test damages on the disk below it, and a peer that the test plays.
 *
 * Threads: one.  Errors: none; the tests assert.
 */
#pragma once

#include "base/crc32c.h"
#include "fs/core/core.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/snap/snap.h"
#include "fs/core/tier/tier.h"
#include "tests/lib/steps.h"
#include "tests/unit/badstore.h"
#include "tests/unit/volume.h"

enum damage_kind { DAMAGE_FLIP, DAMAGE_ZEROED, DAMAGE_TORN, DAMAGE_MISDIRECTED, DAMAGE_EIO, DAMAGE_KINDS };

/* What the peer does with a question. */
enum peer_mood {
	PEER_ABSENT,
	PEER_RIGHT,
	PEER_EVERYTHING /* that the file ever had */,
	PEER_LIVE_ONLY,
	PEER_SECOND_HALF /* of each leaf */,
	PEER_HAS_NOTHING,
	PEER_LIES,
	PEER_SILENT
};
struct scrub_world {
	struct volume v;
	struct bad_place bad;
	enum peer_mood mood;
	uint64_t asked;
	uint64_t last; /* question that was answered last */
	uint64_t ino;  /* of the file whose blocks the peer has */
	uint64_t seed;
};

static int64_t world_now_ns = NSEC_PER_SEC;
static int64_t scrub_clock_ns(const struct clock *c)
{
	(void)c;
	return world_now_ns;
}
static const struct clock scrub_clock = {.real_ns = scrub_clock_ns, .mono_ns = scrub_clock_ns};

/* Blocks of files are such that they pack to a quarter. */
static bool world_packs;

/* What block `no` of a file made with `seed` holds. */
static inline void fill_block(uint64_t seed, uint64_t no, uint8_t *p)
{
	struct rng g = {.state = seed * 7919 + no + 1};

	for (size_t i = 0; i < BLOCK_SIZE; i += 8) {
		uint64_t u = world_packs && i % 32 ? 7 : rng_u64(&g);
		memcpy(p + i, &u, 8);
	}
}

/* Damages the bytes of a block of a packed frame; DAMAGE_EIO does not show in them. */
static inline void damage_frame_block(uint32_t block, enum damage_kind kind, uint8_t p[BLOCK_SIZE])
{
	if (kind == DAMAGE_FLIP)
		p[block == 0 ? 40 : 500] ^= 0x10;
	else if (kind == DAMAGE_ZEROED)
		memset(p, 0, BLOCK_SIZE);
	else if (kind == DAMAGE_TORN)
		memset(p + 512, 0x77, BLOCK_SIZE - 512);
	else if (kind == DAMAGE_MISDIRECTED)
		fill_block(99, block, p);
}

/* What the file of the question has there, or had in one of its snapshots: false when it never had that. */
static inline bool peer_has(struct scrub_world *w, const struct block_wanted *b, uint8_t *block)
{
	bool of_snapshot = snap_is_ino(b->ino), any = of_snapshot || w->mood == PEER_EVERYTHING || w->mood == PEER_SECOND_HALF;

	assert_int_equal(of_snapshot ? snap_ino_own(b->ino) : b->ino, w->ino);
	for (uint64_t seed = w->seed; seed > 0 && (seed == w->seed || any); seed--) {
		fill_block(seed, b->leaf * LEAF_SLOTS + b->slot, block);
		if (crc32c(0, block, BLOCK_SIZE) == b->crc)
			return true;
		fill_block(seed, b->slot, block); /* a clone of the first leaf's */
		if (w->mood == PEER_EVERYTHING && crc32c(0, block, BLOCK_SIZE) == b->crc)
			return true;
	}
	assert_true(of_snapshot || w->mood == PEER_LIVE_ONLY);
	return false;
}

static inline void answer_question(struct scrub_world *w, struct replica_volume *v, const struct block_wanted *b)
{
	uint8_t block[BLOCK_SIZE];

	w->asked++;
	fill_block(w->seed, b->leaf * LEAF_SLOTS + b->slot, block);
	if (w->mood == PEER_RIGHT || w->mood == PEER_EVERYTHING || w->mood == PEER_LIVE_ONLY || w->mood == PEER_SECOND_HALF) {
		bool asked =
		    w->mood == PEER_SECOND_HALF ? b->slot >= LEAF_SLOTS / 2 : w->mood != PEER_LIVE_ONLY || !snap_is_ino(b->ino);
		bool has = asked && peer_has(w, b, block);

		v->ops->give_block(v, b->number, has ? block : NULL);
	} else if (w->mood == PEER_LIES) {
		block[w->asked % BLOCK_SIZE] ^= 1;
		v->ops->give_block(v, b->number, block);
		block[w->asked % BLOCK_SIZE] ^= 1;
		v->ops->give_block(v, b->number + 1000, block); /* the right data as an answer to something else */
	} else if (w->mood == PEER_HAS_NOTHING) {
		v->ops->give_block(v, b->number, NULL);
	}
}

static inline uint32_t peer_ask(void *ctx)
{
	struct scrub_world *w = ctx;
	struct replica_volume *v = fs_replica(w->v.fs);
	struct block_wanted b;

	if (w->mood == PEER_ABSENT)
		return 0;
	while (v->ops->next_wanted(v, w->last, &b) == 0) {
		w->last = b.number;
		answer_question(w, v, &b);
	}
	return 1;
}

static inline void world_hooks(struct scrub_world *w)
{
	w->last = 0;
	fs_set_hooks(w->v.fs, &(struct fs_hooks){.ctx = w, .ask_block = peer_ask});
}

static inline void world_open(struct scrub_world *w)
{
	*w = (struct scrub_world){.v.sim = simstore_new()};
	volume_make(&w->v, badstore_open(simstore_open(w->v.sim), &w->bad), &scrub_clock);
	world_hooks(w);
}

static inline void world_reopen(struct scrub_world *w, bool killed)
{
	if (killed)
		fs_abandon(w->v.fs);
	else
		assert_int_equal(fs_close(w->v.fs), 0);
	w->v.config.store = badstore_open(simstore_open(w->v.sim), &w->bad);
	assert_int_equal(fs_open(&w->v.config, &w->v.fs), 0);
	world_hooks(w);
}

static inline void world_close(struct scrub_world *w)
{
	volume_close(&w->v);
}

static inline void world_home(struct scrub_world *w)
{
	steps_settle(w->v.fs);
}

/* /sub/name gets `n` blocks, at home; the peer has them too. */
static inline void world_fill(struct scrub_world *w, uint64_t n)
{
	uint8_t *p = aligned_alloc(DISK_BLOCK, MIB);

	w->ino = w->v.file;
	w->seed++;
	for (uint64_t at = 0; at < n;) {
		uint64_t some = min_u64(n - at, MIB / BLOCK_SIZE);

		for (uint64_t i = 0; i < some; i++)
			fill_block(w->seed, at + i, p + i * BLOCK_SIZE);
		assert_int_equal(fs_write(w->v.fs, &root, w->ino, at * BLOCK_SIZE, some * BLOCK_SIZE, p, false), 0);
		at += some;
	}
	free(p);
}

static inline struct slot slot_of(struct scrub_world *w, uint64_t block)
{
	struct leaf l;

	icache_rdlock(w->v.fs->icache, w->ino);
	assert_int_equal(extent_get(w->v.fs, w->ino, block / LEAF_SLOTS, &l), 0);
	icache_rdunlock(w->v.fs->icache, w->ino);
	return l.slot[block % LEAF_SLOTS];
}

/* Where the block is on the disk. */
static inline void place_of_home(struct scrub_world *w, pointer_t home, char ret_name[64], uint64_t *ret_off)
{
	uint64_t chunk_blocks = (uint64_t)w->v.fs->super.chunk_kib * KIB / BLOCK_SIZE, b = pointer_block(home);

	assert_int_equal(pointer_device(home), DEVICE_ARENA_FIRST);
	snprintf(ret_name, 64, "arena.1/chunk.%05u", (unsigned)(b / chunk_blocks));
	*ret_off = b % chunk_blocks * BLOCK_SIZE;
}

/* Damages the home of a block as a disk would; returns that home. */
static inline pointer_t damage_block(struct scrub_world *w, uint64_t block, enum damage_kind kind)
{
	struct slot s = slot_of(w, block);
	uint8_t p[BLOCK_SIZE];
	char name[64];
	uint64_t off;

	assert_true(s.home && !s.staged);
	place_of_home(w, s.home, name, &off);
	simstore_peek(w->v.sim, name, p, sizeof(p), off);
	if (kind == DAMAGE_FLIP)
		p[block * 37 % BLOCK_SIZE] ^= (uint8_t)(1u << block % 8);
	else if (kind == DAMAGE_ZEROED)
		memset(p, 0, sizeof(p));
	else if (kind == DAMAGE_TORN)
		memset(p + 512, 0x77, sizeof(p) - 512);
	else if (kind == DAMAGE_MISDIRECTED)
		fill_block(w->seed, block + 1, p);
	simstore_poke(w->v.sim, name, p, sizeof(p), off);
	if (kind == DAMAGE_EIO) {
		w->bad = (struct bad_place){.off = off, .on = true};
		strcpy(w->bad.name, name);
	}
	return s.home;
}

/* One block as a reader gets it: what was missing is waited for. */
static inline int read_block(struct scrub_world *w, uint64_t block)
{
	_Alignas(DISK_BLOCK) static uint8_t room[4 * BLOCK_SIZE];
	uint8_t want[BLOCK_SIZE];
	void *at;
	size_t n;
	int r;

	while ((r = fs_read(w->v.fs, w->ino, block * BLOCK_SIZE, BLOCK_SIZE, room, &at, &n)) == -EINPROGRESS)
		assert_int_equal(fs_recall(w->v.fs), 0);
	if (r < 0)
		return r;
	assert_int_equal(n, BLOCK_SIZE);
	fill_block(w->seed, block, want);
	assert_memory_equal(at, want, BLOCK_SIZE);
	return 0;
}

struct command_answer {
	struct journal_waiter w;
	int result;
};
static inline void command_answered(struct journal_waiter *w, int result)
{
	container_of(w, struct command_answer, w)->result = result;
}

static inline int scrub_command(struct fs *fs, const char *text)
{
	struct command_answer a = {.w.done = command_answered, .result = 1};

	fs_scrub_command(fs, (struct slice){text, strlen(text)}, &a.w);
	return a.result;
}

static inline int scrub_clear(struct fs *fs, uint64_t ino)
{
	struct command_answer a = {.w.done = command_answered, .result = 1};

	fs_scrub_clear(fs, &root, ino, &a.w);
	return a.result;
}

static inline struct scrub_pass scrub_to_the_end(struct fs *fs)
{
	struct scrub_pass p;
	bool more = true;

	while (more)
		assert_int_equal(fs_scrub_step(fs, &more), 0);
	scrub_get(fs, &p);
	return p;
}

/* fsck of what is there; the number of blocks it finds damaged, and nothing else wrong. */
static inline uint64_t fsck(struct fs *fs)
{
	const struct fs_check_result res = fsck_result(fs);

	assert_int_equal(res.structure_errors, 0);
	assert_int_equal(res.accounting_errors, 0);
	return res.damaged_blocks;
}
