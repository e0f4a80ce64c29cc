/*
 * test_squeeze: packed frames: their bytes and damage to them, leaves packed and changed in every way, space and snapshots by
 * enumeration, and a random file against a copy in memory.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "squeeze_world.h"
#include "tests/unit/tempdir.h"

static const char *const policies[] = {"lz4", "zstd", "zstd:1", "zstd:19"};

/* ---- frames ---- */

static const struct {
	enum pack_algorithm algorithm;
	int level;
} codecs[] = {{PACK_LZ4, 0}, {PACK_ZSTD, 1}, {PACK_ZSTD, SQUEEZE_LEVEL_DEFAULT}, {PACK_ZSTD, SQUEEZE_LEVEL_MAX}};

static uint8_t data[LEAF_DATA_BYTES], back[LEAF_DATA_BYTES], frame[PACK_BLOCKS_MAX * BLOCK_SIZE];

static void frames_of_every_length_come_back(void **state)
{
	struct rng g = {.state = test_seed(1)};
	struct codec *c;

	(void)state;
	OK(codec_new(&c));
	for (size_t k = 0; k < ARRAY_SIZE(codecs); k++)
		for (size_t blocks = 1; blocks <= LEAF_SLOTS; blocks++) {
			uint32_t bytes;

			fill_text(&g, data, blocks * BLOCK_SIZE);
			memset(data + blocks * BLOCK_SIZE, 0, sizeof(data) - blocks * BLOCK_SIZE);
			OK(codec_pack(c, codecs[k].algorithm, codecs[k].level, data, blocks * BLOCK_SIZE, frame, sizeof(frame),
				      &bytes));
			assert_in_range(bytes, 1, blocks * BLOCK_SIZE);
			memset(back, 0xa5, sizeof(back));
			OK(codec_unpack(c, codecs[k].algorithm, frame, bytes, back));
			assert_memory_equal(back, data, sizeof(data));
			/* Whatever room is too small is said, and never more used. */
			for (uint32_t cap = 0; cap < bytes; cap += bytes / 7 + 1) {
				uint32_t less;

				frame[cap] = 0x77;
				OK(codec_pack(c, codecs[k].algorithm, codecs[k].level, data, blocks * BLOCK_SIZE, frame, cap,
					      &less));
				assert_int_equal(less, 0);
				assert_int_equal(frame[cap], 0x77);
			}
		}
	codec_free(c);
}

/* Whatever the bytes are: refused, or a whole number of blocks; the memory behind is not touched (and ASan sees more). */
static void no_bytes_at_all_make_a_frame_write_too_far(void **state)
{
	struct rng g = {.state = test_seed(2)};
	uint8_t *exact = malloc(LEAF_DATA_BYTES), *from;
	unsigned opened = 0;
	struct codec *c;

	(void)state;
	assert_non_null(exact);
	OK(codec_new(&c));
	for (size_t k = 0; k < ARRAY_SIZE(codecs); k++) {
		uint32_t bytes;

		fill_text(&g, data, 4 * BLOCK_SIZE);
		OK(codec_pack(c, codecs[k].algorithm, codecs[k].level, data, 4 * BLOCK_SIZE, frame, sizeof(frame), &bytes));
		for (unsigned n = 0; n < 4000; n++) {
			uint32_t len = rng_percent(&g, 70) ? bytes : (uint32_t)rng_between(&g, 1, sizeof(frame));

			from = malloc(len);
			assert_non_null(from);
			if (rng_percent(&g, 20))
				fill_noise(&g, from, len);
			else
				for (uint32_t i = 0; i < len; i++)
					from[i] = i < bytes ? frame[i] : (uint8_t)i;
			for (uint64_t flips = rng_below(&g, 4); flips > 0; flips--)
				from[rng_below(&g, len)] ^= (uint8_t)(1u << rng_below(&g, 8));
			int r = codec_unpack(c, codecs[k].algorithm, from, len, exact);
			assert_true(r == 0 || r == -EBADMSG);
			opened += r == 0;
			free(from);
		}
	}
	assert_true(opened > 0);
	assert_int_equal(codec_unpack(c, PACK_LZ4, frame, 0, exact), -EBADMSG);
	assert_int_equal(codec_unpack(c, PACK_ZSTD, frame, sizeof(frame) + 1, exact), -EBADMSG);
	assert_int_equal(codec_unpack(c, (enum pack_algorithm)3, frame, 100, exact), -EBADMSG);
	codec_free(c);
	free(exact);
}

/* ---- leaves ---- */

static void what_pays_is_packed_and_what_does_not_is_not(void **state)
{
	struct rng g = {.state = test_seed(3)};

	(void)state;
	for (size_t p = 0; p < ARRAY_SIZE(policies); p++) {
		struct squeeze_world w;

		squeeze_world_open(&w, policies[p]);
		uint64_t before = world_space(&w).used_blocks;
		fill_text(&g, w.want, LEAF_DATA_BYTES);                           /* inline */
		fill_noise(&g, w.want + LEAF_DATA_BYTES, LEAF_DATA_BYTES);        /* noise */
		fill_text(&g, w.want + 2 * LEAF_DATA_BYTES, 2 * LEAF_DATA_BYTES); /* a large write */
		OK(world_write(&w, 0, LEAF_DATA_BYTES));
		OK(world_write(&w, LEAF_DATA_BYTES, LEAF_DATA_BYTES));
		OK(world_write(&w, 2 * LEAF_DATA_BYTES, 2 * LEAF_DATA_BYTES));
		world_home(&w);
		assert_int_equal(world_space(&w).used_blocks, before + FILE_LEAVES * LEAF_SLOTS);
		world_squeeze(&w);
		uint64_t used = 0;
		for (unsigned i = 0; i < FILE_LEAVES; i++) {
			struct leaf l = world_leaf(&w, i);

			assert_int_equal(leaf_packed(&l), i == 1 ? 0 : UINT16_MAX);
			used += i == 1 ? LEAF_SLOTS : l.pack.n_blocks;
			assert_true(l.pack.n_blocks < 10);
		}
		assert_int_equal(world_space(&w).used_blocks, before + used);
		world_check(&w);
		world_fsck(&w);
		for (unsigned killed = 0; killed < 2; killed++) {
			squeeze_world_reopen(&w, killed);
			world_check(&w);
			world_fsck(&w);
		}
		squeeze_world_close(&w);
	}
}

static void nothing_is_packed_where_no_policy_says_so(void **state)
{
	struct rng g = {.state = test_seed(4)};
	struct squeeze_world w;
	struct leaf l;

	(void)state;
	squeeze_world_open(&w, "off");
	fill_text(&g, w.want, LEAF_DATA_BYTES);
	OK(world_write(&w, 0, LEAF_DATA_BYTES));
	world_home(&w);
	world_squeeze(&w);
	l = world_leaf(&w, 0);
	assert_int_equal(leaf_packed(&l), 0);
	assert_false(w.v.fs->super.incompat & 64);
	/* Asked for, it is made as the policy says by now; and back. */
	OK(fs_set_policy(w.v.fs, &root, w.v.file, "compression", "lz4"));
	OK(fs_compress(w.v.fs, w.v.file));
	world_squeeze(&w);
	l = world_leaf(&w, 0);
	assert_int_equal(leaf_packed(&l), UINT16_MAX);
	assert_true(w.v.fs->super.incompat & 64);
	world_check(&w);
	OK(fs_set_policy(w.v.fs, &root, w.v.file, "compression", "off"));
	OK(fs_compress(w.v.fs, w.v.file));
	world_squeeze(&w);
	l = world_leaf(&w, 0);
	assert_int_equal(leaf_packed(&l), 0);
	world_check(&w);
	world_fsck(&w);
	assert_int_equal(fs_compress(w.v.fs, w.v.dir), -EINVAL);
	assert_int_equal(fs_compress(w.v.fs, 4711), -ENOENT);
	squeeze_world_close(&w);
}

static void words_of_the_policy(void **state)
{
	static const char *const good[] = {"off", "lz4", "zstd", "zstd:1", "zstd:19"};
	static const char *const bad[] = {"",        "on",      "LZ4",     "zstd:", "zstd:0",  "zstd:20",
					  "zstd:-1", "zstd:1 ", "zstd: 1", "lz4:1", "zstd:1x", "zstd:99999999999999999999",
					  "lz4hc",   " lz4",    "zlib",    "off:1", "lz4 zstd"};
	struct squeeze_world w;

	(void)state;
	squeeze_world_open(&w, "off");
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		OK(fs_set_policy(w.v.fs, &root, w.v.file, "compression", good[i]));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(fs_set_policy(w.v.fs, &root, w.v.file, "compression", bad[i]), -EINVAL);
	OK(fs_set_policy(w.v.fs, &root, w.v.file, "compression", NULL));
	assert_int_equal(fs_set_policy(w.v.fs, &root, w.v.file, "compression", NULL), -ENODATA);
	squeeze_world_close(&w);
}

/* ---- every pattern, every change ---- */

/* Which slots have data before: 0 to LEAF_SLOTS, a class each. */
static const uint16_t patterns[] = {0xffff, 0x0003, 0x8001, 0x00ff, 0xff00, 0x5555, 0xfffe, 0x7fff, 0x0ff0};

enum change {
	OVERWRITE_ONE,
	OVERWRITE_HALF,
	OVERWRITE_ALL,
	OVERWRITE_PART,
	OVERWRITE_WIDE,
	PUNCH_ONE,
	PUNCH_ALL,
	ZERO_ONE,
	ZERO_ALL,
	ALLOCATE_ALL,
	CUT_HALF,
	CUT_ALL,
	CUT_PART,
	NOTHING,
	CHANGES
};

static void set_size(struct squeeze_world *w, uint64_t size)
{
	const struct record_attr a = {.mask = ATTR_SIZE, .size = size};
	struct fs_attr now;

	OK(fs_setattr(w->v.fs, &root, w->v.file, &a, &now));
	if (size < w->size)
		memset(w->want + size, 0, w->size - size);
	w->size = size;
}

static void overwrite(struct squeeze_world *w, struct rng *g, uint64_t off, size_t len)
{
	fill_text(g, w->want + off, len);
	OK(world_write(w, off, len));
}

static void zeros(struct squeeze_world *w, int mode, uint64_t off, uint64_t len)
{
	OK(fs_fallocate(w->v.fs, &root, w->v.file, mode | FALLOC_FL_KEEP_SIZE, off, len));
	if (mode)
		memset(w->want + off, 0, len);
}

/* Of a file of two leaves, the first of which is packed. */
static void do_change(struct squeeze_world *w, struct rng *g, enum change c, unsigned slot)
{
	const uint64_t at = slot * (uint64_t)BLOCK_SIZE;

	switch (c) {
	case OVERWRITE_ONE:
		overwrite(w, g, at, BLOCK_SIZE);
		break;
	case OVERWRITE_HALF:
		overwrite(w, g, LEAF_DATA_BYTES / 2, LEAF_DATA_BYTES / 2);
		break;
	case OVERWRITE_ALL:
		overwrite(w, g, 0, LEAF_DATA_BYTES);
		break;
	case OVERWRITE_PART:
		overwrite(w, g, at + 100, 2000);
		break;
	case OVERWRITE_WIDE: /* out of line, with partial blocks at both ends */
		overwrite(w, g, at + 100, LEAF_DATA_BYTES + 7 * BLOCK_SIZE);
		break;
	case PUNCH_ONE:
		zeros(w, FALLOC_FL_PUNCH_HOLE, at, BLOCK_SIZE);
		break;
	case PUNCH_ALL:
		zeros(w, FALLOC_FL_PUNCH_HOLE, 0, LEAF_DATA_BYTES);
		break;
	case ZERO_ONE:
		zeros(w, FALLOC_FL_ZERO_RANGE, at, BLOCK_SIZE);
		break;
	case ZERO_ALL:
		zeros(w, FALLOC_FL_ZERO_RANGE, 0, LEAF_DATA_BYTES);
		break;
	case ALLOCATE_ALL:
		zeros(w, 0, 0, LEAF_DATA_BYTES);
		break;
	case CUT_HALF:
		set_size(w, LEAF_DATA_BYTES / 2);
		break;
	case CUT_ALL:
		set_size(w, 0);
		break;
	case CUT_PART:
		set_size(w, at + 1234);
		break;
	default:
		break;
	}
}

static void fill_pattern(struct squeeze_world *w, struct rng *g, uint16_t pattern)
{
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(pattern >> i & 1))
			continue;
		fill_text(g, w->want + i * BLOCK_SIZE, BLOCK_SIZE);
		OK(world_write(w, i * BLOCK_SIZE, BLOCK_SIZE));
	}
	set_size(w, 2 * LEAF_DATA_BYTES);
	world_home(w);
	world_squeeze(w);
}

/* Nothing is left over: reservations and blocks, whatever was done, go back with the file's data. */
static void start_over(struct squeeze_world *w, uint64_t used)
{
	set_size(w, 0);
	steps_snaps(w->v.fs);
	assert_int_equal(world_space(w).used_blocks, used);
	assert_int_equal(world_space(w).reserved_blocks, 0);
	OK(fs_checkpoint(w->v.fs));
}

static void every_change_of_every_pattern(struct squeeze_world *w, bool snapshot)
{
	struct rng g = {.state = test_seed(5)};
	static uint8_t then[FILE_BYTES];
	uint64_t used = world_space(w).used_blocks;

	for (size_t p = 0; p < ARRAY_SIZE(patterns); p++)
		for (unsigned c = 0; c < CHANGES; c++) {
			unsigned slot = (unsigned)rng_below(&g, LEAF_SLOTS);
			struct leaf l;

			fill_pattern(w, &g, patterns[p]);
			l = world_leaf(w, 0);
			assert_int_equal(leaf_packed(&l), patterns[p]);
			memcpy(then, w->want, sizeof(then));
			if (snapshot)
				OK(fs_snap_create(w->v.fs, &root, "s"));
			do_change(w, &g, (enum change)c, slot);
			world_check(w);
			world_fsck(w);
			world_home(w);
			world_check(w);
			world_squeeze(w);
			world_check(w);
			world_fsck(w);
			if (snapshot) {
				struct fs_attr dir, file;
				static uint8_t got[FILE_BYTES];
				uint64_t top;

				OK(fs_snap_root(w->v.fs, "s", &top));
				OK(fs_lookup(w->v.fs, top, "sub", &dir));
				OK(fs_lookup(w->v.fs, dir.ino, "name", &file));
				OK(world_read(w, file.ino, 0, 2 * LEAF_DATA_BYTES, got));
				assert_memory_equal(got, then, 2 * LEAF_DATA_BYTES);
				OK(fs_snap_delete(w->v.fs, &root, "s"));
			}
			start_over(w, used);
		}
}

static void every_change_of_every_pattern_leaves_the_data_and_the_counts_right(void **state)
{
	struct squeeze_world w;

	(void)state;
	squeeze_world_open(&w, "zstd");
	every_change_of_every_pattern(&w, false);
	squeeze_world_close(&w);
}

static void the_same_beside_a_snapshot_which_stays_as_it_was(void **state)
{
	struct squeeze_world w;

	(void)state;
	squeeze_world_open(&w, "lz4");
	every_change_of_every_pattern(&w, true);
	squeeze_world_close(&w);
}

static void what_a_snapshot_has_is_not_packed(void **state)
{
	struct rng g = {.state = test_seed(6)};
	struct squeeze_world w;
	struct leaf l;

	(void)state;
	squeeze_world_open(&w, "zstd");
	fill_text(&g, w.want, LEAF_DATA_BYTES);
	OK(world_write(&w, 0, LEAF_DATA_BYTES));
	world_home(&w);
	OK(fs_snap_create(w.v.fs, &root, "s"));
	uint64_t used = world_space(&w).used_blocks;
	world_squeeze(&w);
	l = world_leaf(&w, 0);
	assert_int_equal(leaf_packed(&l), 0);
	assert_int_equal(world_space(&w).used_blocks, used);
	OK(fs_snap_delete(w.v.fs, &root, "s"));
	steps_snaps(w.v.fs);
	OK(fs_compress(w.v.fs, w.v.file));
	world_squeeze(&w);
	l = world_leaf(&w, 0);
	assert_int_equal(leaf_packed(&l), UINT16_MAX);
	squeeze_world_close(&w);
}

static void a_leaf_is_packed_anew_when_half_of_it_is_not(void **state)
{
	struct rng g = {.state = test_seed(7)};
	struct squeeze_world w;

	(void)state;
	squeeze_world_open(&w, "lz4");
	overwrite(&w, &g, 0, LEAF_DATA_BYTES);
	world_home(&w);
	world_squeeze(&w);
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		overwrite(&w, &g, i * BLOCK_SIZE, BLOCK_SIZE);
		world_home(&w);
		world_squeeze(&w);
		struct leaf l = world_leaf(&w, 0);
		unsigned raw = (i + 1) % (LEAF_SLOTS / 2);
		assert_int_equal(__builtin_popcount(leaf_packed(&l)), LEAF_SLOTS - raw);
		world_check(&w);
	}
	/* Noise in most of it: the frame that is left would take more than it saves, and goes. */
	fill_noise(&g, w.want, LEAF_DATA_BYTES - BLOCK_SIZE);
	OK(world_write(&w, 0, LEAF_DATA_BYTES - BLOCK_SIZE));
	world_home(&w);
	world_squeeze(&w);
	struct leaf l = world_leaf(&w, 0);
	assert_int_equal(leaf_packed(&l), 0);
	world_check(&w);
	world_fsck(&w);
	squeeze_world_close(&w);
}

/* ---- damage ---- */

static uint8_t *block_of(struct squeeze_world *w, pointer_t at)
{
	struct memfile *f = memstore_file(&w->store, "arena.1/chunk.00000");

	assert_non_null(f);
	return f->p + pointer_block(at) * BLOCK_SIZE;
}

static void every_flipped_bit_of_a_frame_is_an_error_or_harmless(void **state)
{
	struct rng g = {.state = test_seed(8)};
	static uint8_t got[LEAF_DATA_BYTES];

	(void)state;
	for (size_t p = 0; p < 2; p++) {
		struct squeeze_world w;
		unsigned refused = 0, some = 0;

		squeeze_world_open(&w, policies[p]);
		/* Short, so that each bit can be tried. */
		fill_text(&g, w.want, 600);
		fill_text(&g, w.want + BLOCK_SIZE, 200);
		OK(world_write(&w, 0, 2 * BLOCK_SIZE));
		world_home(&w);
		world_squeeze(&w);
		struct leaf l = world_leaf(&w, 0);
		assert_int_equal(leaf_packed(&l), 3);
		uint8_t *at = block_of(&w, l.pack.start);
		for (size_t bit = 0; bit < l.pack.bytes * 8; bit++) {
			uint16_t good;

			at[bit / 8] ^= (uint8_t)(1u << bit % 8);
			int r = packed_verify(w.v.fs, &l, 3, 0, got, &good);
			assert_true(r == 0 || r == -EBADMSG);
			assert_true(r == 0 || good == 0);
			for (unsigned i = 0; i < 2; i++)
				if (good >> i & 1)
					assert_memory_equal(got + i * BLOCK_SIZE, w.want + i * BLOCK_SIZE, BLOCK_SIZE);
			refused += good != 3;
			some += good != 0 && good != 3;
			at[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		assert_true(refused > l.pack.bytes * 7);
		assert_true(some > 0); /* what is good of a bad frame is served */
		/* The same through a read, which says so and marks the blocks; the frame read before does not hide it. */
		OK(fs_checkpoint(w.v.fs));
		memset(block_of(&w, l.pack.start) + 8, 0xee, l.pack.bytes - 8);
		squeeze_world_reopen(&w, true);
		assert_int_equal(world_read(&w, w.v.file, 0, 2 * BLOCK_SIZE, got), -EBADMSG);
		squeeze_world_close(&w);
	}
}

/* ---- space ---- */

static void a_packed_block_is_overwritten_only_where_there_is_space_for_it(void **state)
{
	struct rng g = {.state = test_seed(9)};

	(void)state;
	for (unsigned left = 0; left <= LEAF_SLOTS; left++) {
		struct squeeze_world w;
		unsigned written = 0;

		squeeze_world_open(&w, "lz4");
		overwrite(&w, &g, 0, LEAF_DATA_BYTES);
		world_home(&w);
		world_squeeze(&w);
		w.store.host_free = 0; /* it grows no more */
		OK(fs_checkpoint(w.v.fs));
		/* All but so many blocks are promised to somebody else. */
		struct arena_status as = world_space(&w);
		uint64_t others = as.free_blocks + as.growable_blocks - as.reserved_blocks - left;
		OK(arena_reserve(w.v.fs->arena, others));
		for (unsigned i = 0; i < LEAF_SLOTS; i++) {
			uint8_t block[BLOCK_SIZE];

			fill_text(&g, block, sizeof(block));
			int r = fs_write(w.v.fs, &root, w.v.file, i * BLOCK_SIZE, BLOCK_SIZE, block, false);
			assert_int_equal(r, i < left ? 0 : -ENOSPC);
			if (r == 0) {
				memcpy(w.want + i * BLOCK_SIZE, block, BLOCK_SIZE);
				written++;
			}
		}
		assert_int_equal(written, left);
		world_home(&w); /* what was promised is there */
		world_squeeze(&w);
		world_check(&w);
		arena_unreserve(w.v.fs->arena, others);
		w.store.host_free = MEMSTORE_TOTAL;
		world_fsck(&w);
		squeeze_world_close(&w);
	}
}

/* ---- at random ---- */

static void random_step(struct squeeze_world *w, struct rng *g)
{
	uint64_t off = rng_below(g, FILE_BYTES), len = rng_below(g, rng_percent(g, 50) ? 3 * BLOCK_SIZE : FILE_BYTES) + 1;
	bool more;

	if (rng_percent(g, 60)) {
		off -= off % BLOCK_SIZE;
		len += BLOCK_SIZE - len % BLOCK_SIZE;
	}
	len = min_u64(len, FILE_BYTES - off);
	switch (rng_below(g, 16)) {
	case 0:
	case 1:
	case 2:
	case 3:
		if (rng_percent(g, 80))
			fill_text(g, w->want + off, len);
		else
			fill_noise(g, w->want + off, len);
		OK(world_write(w, off, len));
		break;
	case 4:
		OK(fs_fallocate(w->v.fs, &root, w->v.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len));
		memset(w->want + off, 0, len);
		break;
	case 5:
		OK(fs_fallocate(w->v.fs, &root, w->v.file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, off, len));
		memset(w->want + off, 0, len);
		break;
	case 6:
		OK(fs_fallocate(w->v.fs, &root, w->v.file, FALLOC_FL_KEEP_SIZE, off, len));
		break;
	case 7:
		set_size(w, off);
		break;
	case 8:
	case 9:
		world_home(w);
		break;
	case 10:
	case 11:
	case 12:
		OK(fs_squeeze_step(w->v.fs, &more));
		break;
	case 13:
		OK(fs_checkpoint(w->v.fs));
		break;
	case 14:
		OK(fs_set_policy(w->v.fs, &root, w->v.dir, "compression", policies[rng_below(g, 3)]));
		if (rng_percent(g, 20))
			OK(fs_set_policy(w->v.fs, &root, w->v.dir, "compression", "off"));
		if (rng_percent(g, 50))
			OK(fs_compress(w->v.fs, w->v.file));
		break;
	case 15:
		if (rng_percent(g, 20)) {
			int r = fs_snap_create(w->v.fs, &root, "s");
			if (r == -EEXIST)
				OK(fs_snap_delete(w->v.fs, &root, "s"));
			else
				OK(r);
		} else if (rng_percent(g, 30)) {
			OK(fs_sync(w->v.fs));
			squeeze_world_reopen(w, rng_percent(g, 50));
		} else {
			OK(fs_snap_step(w->v.fs, &more));
		}
		break;
	}
}

static void a_random_file_is_what_was_written(void **state)
{
	uint64_t seed = test_seed(10);

	(void)state;
	for (unsigned n = 0; n < 40; n++) {
		struct rng g = rng_derive(seed, n, 0);
		struct squeeze_world w;

		squeeze_world_open(&w, "zstd:1");
		for (unsigned i = 0; i < 150; i++) {
			random_step(&w, &g);
			world_check(&w);
			if (i % 10 == 9)
				world_fsck(&w);
		}
		world_fsck(&w);
		squeeze_world_close(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(frames_of_every_length_come_back),
	    cmocka_unit_test(no_bytes_at_all_make_a_frame_write_too_far),
	    cmocka_unit_test(what_pays_is_packed_and_what_does_not_is_not),
	    cmocka_unit_test(nothing_is_packed_where_no_policy_says_so),
	    cmocka_unit_test(words_of_the_policy),
	    cmocka_unit_test(every_change_of_every_pattern_leaves_the_data_and_the_counts_right),
	    cmocka_unit_test(the_same_beside_a_snapshot_which_stays_as_it_was),
	    cmocka_unit_test(what_a_snapshot_has_is_not_packed),
	    cmocka_unit_test(a_leaf_is_packed_anew_when_half_of_it_is_not),
	    cmocka_unit_test(every_flipped_bit_of_a_frame_is_an_error_or_harmless),
	    cmocka_unit_test(a_packed_block_is_overwritten_only_where_there_is_space_for_it),
	    cmocka_unit_test(a_random_file_is_what_was_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
