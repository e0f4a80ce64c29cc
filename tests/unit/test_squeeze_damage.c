/*
 * test_squeeze_damage: every kind of damage to every block of a packed frame: told where nobody has the data, repaired from a
 * peer or an object where somebody has, by a read or a scrub, and the blocks are used no more until they are tested.
 */
#include <errno.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "tests/lib/cold.h"
#include "tests/unit/scrub_world.h"

static struct leaf packed_leaf(struct scrub_world *w)
{
	struct leaf l;

	icache_rdlock(w->v.fs->icache, w->ino);
	assert_int_equal(extent_get(w->v.fs, w->ino, 0, &l), 0);
	icache_rdunlock(w->v.fs->icache, w->ino);
	return l;
}

static void squeeze_all(struct scrub_world *w)
{
	bool more = true;

	while (more)
		assert_int_equal(fs_squeeze_step(w->v.fs, &more), 0);
	assert_int_equal(fs_checkpoint(w->v.fs), 0);
}

/* A file of one leaf, packed. */
static void begin(struct scrub_world *w, const char *policy)
{
	world_packs = true;
	world_open(w);
	assert_int_equal(fs_set_policy(w->v.fs, &root, w->v.dir, "compression", policy), 0);
	world_fill(w, 2 * LEAF_SLOTS); /* in one large write: the journal has no copy of it */
	const struct record_attr half = {.mask = ATTR_SIZE, .size = LEAF_SLOTS * BLOCK_SIZE};
	struct fs_attr now;
	assert_int_equal(fs_setattr(w->v.fs, &root, w->ino, &half, &now), 0);
	world_home(w);
	squeeze_all(w);
	struct leaf l = packed_leaf(w);
	assert_int_equal(leaf_packed(&l), UINT16_MAX);
	assert_true(l.pack.n_blocks >= 2 && l.pack.n_blocks <= 8);
}

static void end(struct scrub_world *w)
{
	w->bad.on = false;
	world_close(w);
	world_packs = false;
}

static void damage_frame(struct scrub_world *w, uint32_t block, enum damage_kind kind)
{
	struct leaf l = packed_leaf(w);
	uint8_t p[BLOCK_SIZE];
	char name[64];
	uint64_t off;

	place_of_home(w, pointer_add(l.pack.start, block), name, &off);
	simstore_peek(w->v.sim, name, p, sizeof(p), off);
	damage_frame_block(block, kind, p);
	simstore_poke(w->v.sim, name, p, sizeof(p), off);
	if (kind == DAMAGE_EIO) {
		w->bad = (struct bad_place){.off = off, .on = true};
		strcpy(w->bad.name, name);
	}
	world_reopen(w, true); /* what was read is forgotten */
}

/* Each block of a frame but its last, which may be mostly padding, damaged in each way. */
static void each_damage(const char *policy, enum peer_mood mood, void (*then)(struct scrub_world *w, struct leaf *was))
{
	for (unsigned kind = 0; kind < DAMAGE_KINDS; kind++)
		for (uint32_t block = 0;; block++) {
			struct scrub_world w;

			begin(&w, policy);
			struct leaf was = packed_leaf(&w);
			if (block + 1 >= was.pack.n_blocks) {
				end(&w);
				break;
			}
			damage_frame(&w, block, (enum damage_kind)kind);
			w.mood = mood;
			then(&w, &was);
			end(&w);
		}
}

static void some_reads_fail_and_none_is_wrong(struct scrub_world *w, struct leaf *was)
{
	unsigned n_bad = 0;
	struct fs_attr a;

	(void)was;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		int r = read_block(w, i);
		assert_true(r == 0 || r == -EBADMSG);
		n_bad += r != 0;
	}
	assert_true(n_bad > 0);
	struct scrub_pass p;
	assert_int_equal(scrub_command(w->v.fs, "start"), 0);
	p = scrub_to_the_end(w->v.fs);
	assert_int_equal(p.bad_blocks, n_bad);
	assert_int_equal(fsck(w->v.fs), n_bad);
	/* Given up, they read as zeros, and the rest is what it was. */
	assert_int_equal(scrub_clear(w->v.fs, w->ino), 0);
	assert_int_equal(fsck(w->v.fs), 0);
	assert_int_equal(fs_getattr(w->v.fs, w->ino, &a), 0);
	assert_int_equal(a.blocks_512, (LEAF_SLOTS - n_bad) * (BLOCK_SIZE / 512));
}

static void damage_that_nobody_can_repair_is_told(void **state)
{
	(void)state;
	each_damage("lz4", PEER_ABSENT, some_reads_fail_and_none_is_wrong);
	each_damage("zstd", PEER_ABSENT, some_reads_fail_and_none_is_wrong);
}

static bool all_quarantined(struct scrub_world *w, const struct leaf *was)
{
	for (uint32_t i = 0; i < was->pack.n_blocks; i++)
		if (!quarantine_has(w->v.fs, pointer_add(was->pack.start, i)))
			return false;
	return true;
}

/* Those that were bad have homes of their own; when all do, the frame is nobody's, and its blocks are not used again. */
static void is_repaired(struct scrub_world *w, struct leaf *was)
{
	struct leaf l;
	uint64_t n;

	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		assert_int_equal(read_block(w, i), 0);
	assert_int_equal(fsck(w->v.fs), 0);
	l = packed_leaf(w);
	assert_int_not_equal(leaf_packed(&l), UINT16_MAX);
	assert_true(all_quarantined(w, was));
	world_reopen(w, false);
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		assert_int_equal(read_block(w, i), 0);
	assert_true(all_quarantined(w, was));
	assert_int_equal(fsck(w->v.fs), 0);
	/* Packed anew when the rest rests; then the old frame's blocks are tested, and used again if they hold what is written.
	 */
	assert_int_equal(fs_compress(w->v.fs, w->ino), 0);
	squeeze_all(w);
	assert_int_equal(quarantine_release(w->v.fs, &n), 0);
	assert_int_equal(fsck(w->v.fs), 0);
	l = packed_leaf(w);
	if (!leaf_packed(&l) || l.pack.start != was->pack.start)
		assert_int_equal(n, was->pack.n_blocks);
}

static void a_read_repairs_from_a_peer(void **state)
{
	(void)state;
	each_damage("lz4", PEER_RIGHT, is_repaired);
	each_damage("zstd", PEER_RIGHT, is_repaired);
}

static void scrubbed(struct scrub_world *w, struct leaf *was)
{
	assert_int_equal(scrub_command(w->v.fs, "start"), 0);
	struct scrub_pass p = scrub_to_the_end(w->v.fs);
	assert_true(p.bad_blocks > 0);
	assert_int_equal(p.repaired_blocks, p.bad_blocks);
	w->mood = PEER_ABSENT; /* nothing is left to be asked */
	is_repaired(w, was);
}

static void a_scrub_repairs_from_a_peer(void **state)
{
	(void)state;
	each_damage("zstd", PEER_RIGHT, scrubbed);
}

static void a_liar_is_not_believed(void **state)
{
	(void)state;
	each_damage("lz4", PEER_LIES, some_reads_fail_and_none_is_wrong);
}

static void a_peer_is_given_what_is_packed(void **state)
{
	struct scrub_world w;
	struct leaf l;

	(void)state;
	begin(&w, "lz4");
	l = packed_leaf(&w);
	struct replica_volume *v = fs_replica(w.v.fs);
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		struct block_wanted b = {.ino = w.ino, .leaf = 0, .slot = i, .crc = l.slot[i].crc};
		uint8_t block[BLOCK_SIZE], want[BLOCK_SIZE];

		assert_int_equal(v->ops->answer_block(v, &b, block), 0);
		fill_block(w.seed, i, want);
		assert_memory_equal(block, want, BLOCK_SIZE);
		b.crc++;
		assert_int_equal(v->ops->answer_block(v, &b, block), -ENOENT);
	}
	end(&w);
}

/* Packed here, and in an object; evicted, the frame is gone, and recalled, it may be packed again. */
static void what_is_tiered_besides_is_evicted_with_its_frame(void **state)
{
	struct scrub_world w;
	struct arena_status as;

	(void)state;
	begin(&w, "zstd");
	struct cold *cold = cold_open();
	assert_int_equal(cold_tier(cold, w.v.fs, w.ino, NULL), 0);
	struct leaf l = packed_leaf(&w);
	assert_int_equal(leaf_tiered(&l), UINT16_MAX);
	assert_int_equal(cold_evict(w.v.fs, w.ino), 0);
	l = packed_leaf(&w);
	assert_int_equal(leaf_cold(&l), UINT16_MAX);
	assert_int_equal(l.pack.n_blocks, 0);
	assert_int_equal(cold_keep(cold, w.v.fs, w.ino), 0);
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		assert_int_equal(read_block(&w, i), 0);
	assert_int_equal(fs_compress(w.v.fs, w.ino), 0);
	squeeze_all(&w);
	l = packed_leaf(&w);
	assert_int_equal(leaf_packed(&l), UINT16_MAX);
	assert_int_equal(leaf_tiered(&l), UINT16_MAX);
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		assert_int_equal(read_block(&w, i), 0);
	/* Evicted with a good frame, its blocks come back. */
	arena_get_status(w.v.fs->arena, &as);
	uint64_t used = as.used_blocks;
	assert_int_equal(cold_evict(w.v.fs, w.ino), 0);
	arena_get_status(w.v.fs->arena, &as);
	assert_int_equal(as.used_blocks, used - l.pack.n_blocks);
	cold_close(cold);
	end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(damage_that_nobody_can_repair_is_told),
	    cmocka_unit_test(a_read_repairs_from_a_peer),
	    cmocka_unit_test(a_scrub_repairs_from_a_peer),
	    cmocka_unit_test(a_liar_is_not_believed),
	    cmocka_unit_test(a_peer_is_given_what_is_packed),
	    cmocka_unit_test(what_is_tiered_besides_is_evicted_with_its_frame),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
