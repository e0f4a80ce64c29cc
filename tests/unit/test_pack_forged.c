/*
 * test_pack_forged.c: pack.h over frames that were made up: headers that cannot be, and what zstd could be given.
 *
 * Where nothing is encrypted whoever can write to the store can make a frame whose checksums are right.  Bytes that are read lie
 * in memory of exactly their length, so that the sanitizers see a read beyond them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <zstd.h>

#include "tests/unit/packs.h"

static uint8_t blocks[PACK_LEAF_BYTES];

static struct pack_key plain_key(void)
{
	struct pack_key k = {.object = PACKS_OBJECT};

	memcpy(k.volume, packs_volume, sizeof(k.volume));
	return k;
}

static int read_made(struct pack_frame_header h, const uint8_t *data)
{
	const struct pack_key k = plain_key();
	uint8_t *p = malloc(PACK_FRAME_HEADER_BYTES + le32_get(h.stored));
	struct pack_frame f;

	assert_non_null(p);
	h.magic = le32_make(PACK_FRAME_MAGIC);
	size_t len = packs_frame(&k, PACK_HEADER_BYTES, h, data, p);
	int r = pack_read_frame(&k, PACK_HEADER_BYTES, p, len, &f, blocks);
	free(p);
	return r;
}

static struct pack_frame_header header(uint16_t flags, uint16_t mask, uint64_t ino, uint32_t stored)
{
	return (struct pack_frame_header){
	    .flags = le16_make(flags), .mask = le16_make(mask), .ino = le64_make(ino), .stored = le32_make(stored)};
}

static void headers_of_frames_that_cannot_be_are_refused(void **state)
{
	static uint8_t data[2 * PACK_LEAF_BYTES];

	(void)state;
	assert_int_equal(read_made(header(0, 1, 1, PACK_BLOCK), data), 0);
	for (unsigned bit = 1; bit < 16; bit++)
		assert_int_equal(read_made(header((uint16_t)(1u << bit), 1, 1, PACK_BLOCK), data), -EUCLEAN);
	assert_int_equal(read_made(header(0, 1, 0, PACK_BLOCK), data), -EUCLEAN);
	assert_int_equal(read_made(header(0, 0, 1, 0), data), -EUCLEAN);
	assert_int_equal(read_made(header(PACK_COMPRESSED, 0, 1, 0), data), -EUCLEAN);
	for (unsigned n = 1; n <= PACK_SLOTS; n++) {
		const uint16_t mask = (uint16_t)((1u << n) - 1);
		const uint32_t raw = n * PACK_BLOCK,
			       wrong[] = {0, 1, raw - PACK_BLOCK, raw - 1, raw + 1, raw + PACK_BLOCK, 2 * raw};
		const uint32_t too_long[] = {0, raw, raw + 1, 2 * raw};

		for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
			assert_int_equal(read_made(header(0, mask, 1, wrong[i]), data), -EUCLEAN);
		for (size_t i = 0; i < ARRAY_SIZE(too_long); i++)
			assert_int_equal(read_made(header(PACK_COMPRESSED, mask, 1, too_long[i]), data), -EUCLEAN);
	}
	/* Lengths with no bytes behind them: no reader is told to fetch so much. */
	for (unsigned bit = 17; bit < 32; bit++) {
		struct pack_frame_header h = header(bit & 1, UINT16_MAX, 1, 1u << bit);
		const struct pack_key k = plain_key();
		struct pack_frame f = {.len = 99};

		h.magic = le32_make(PACK_FRAME_MAGIC);
		h.crc = le32_make(crc32c(0, &h, offsetof(struct pack_frame_header, crc)));
		assert_int_equal(pack_read_frame(&k, PACK_HEADER_BYTES, (uint8_t *)&h, sizeof(h), &f, blocks), -EUCLEAN);
		assert_int_equal(f.len, 99);
	}
}

/* zstd's own ways to say more or other than a leaf. */
struct way {
	const char *name;
	int checksum, size, window_log;
	bool stream; /* size not known at the start */
	size_t raw;
	int expected;
};

static size_t compress_so(const struct way *x, uint8_t *to, size_t cap)
{
	static uint8_t from[4 * PACK_LEAF_BYTES];
	ZSTD_CCtx *c = ZSTD_createCCtx();
	ZSTD_outBuffer out = {to, cap, 0};
	ZSTD_inBuffer in = {from, x->raw, 0}, none = {from, 0, 0};

	assert_non_null(c);
	ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, x->checksum);
	ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, x->size);
	ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, x->window_log);
	if (x->stream) {
		while (in.pos < in.size)
			assert_false(ZSTD_isError(ZSTD_compressStream2(c, &out, &in, ZSTD_e_continue)));
		assert_int_equal(ZSTD_compressStream2(c, &out, &none, ZSTD_e_end), 0);
	} else {
		assert_int_equal(ZSTD_compressStream2(c, &out, &in, ZSTD_e_end), 0);
	}
	ZSTD_freeCCtx(c);
	return out.pos;
}

static void zstd_frames_that_are_not_the_leaf_are_refused(void **state)
{
	static const struct way ways[] = {
	    {"as it should be", 0, 1, 0, false, 2 * PACK_BLOCK, 0},
	    {"a checksum", 1, 1, 0, false, 2 * PACK_BLOCK, -EUCLEAN},
	    {"no size", 0, 0, 0, false, 2 * PACK_BLOCK, -EUCLEAN},
	    {"a stream", 0, 1, 0, true, 2 * PACK_BLOCK, -EUCLEAN},
	    {"a window smaller than the leaf", 0, 1, 10, false, 2 * PACK_BLOCK, -EUCLEAN},
	    {"a stream with a window of 128 MiB", 0, 1, 27, true, 2 * PACK_BLOCK, -EUCLEAN},
	    {"a byte less", 0, 1, 0, false, 2 * PACK_BLOCK - 1, -EUCLEAN},
	    {"a byte more", 0, 1, 0, false, 2 * PACK_BLOCK + 1, -EUCLEAN},
	    {"a block less", 0, 1, 0, false, PACK_BLOCK, -EUCLEAN},
	    {"a leaf", 0, 1, 0, false, PACK_LEAF_BYTES, -EUCLEAN},
	    {"more than any leaf", 0, 1, 0, false, 4 * PACK_LEAF_BYTES, -EUCLEAN},
	    {"nothing", 0, 1, 0, false, 0, -EUCLEAN},
	};
	uint8_t p[1024];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		size_t n = compress_so(&ways[i], p, sizeof(p));

		if (read_made(header(PACK_COMPRESSED, 3, 1, (uint32_t)n), p) != ways[i].expected)
			fail_msg("%s: not %d", ways[i].name, ways[i].expected);
	}
}

/* A good one with every change of one byte, cut anywhere, and with anything behind it: the leaf's size, or refused. */
static void zstd_frames_that_were_changed_stay_in_their_bounds(void **state)
{
	const struct way good = {.size = 1, .raw = 2 * PACK_BLOCK};
	uint8_t p[1024], empty_frame[64];
	size_t n = compress_so(&good, p, sizeof(p));

	(void)state;
	assert_in_range(n, 10, 200);
	for (size_t i = 0; i < n; i++) {
		uint8_t was = p[i];

		for (unsigned v = 0; v < 256; v++) {
			p[i] = (uint8_t)v;
			int r = read_made(header(PACK_COMPRESSED, 3, 1, (uint32_t)n), p);
			assert_true(r == -EUCLEAN || (r == 0 && (v == was || i >= 5)));
		}
		p[i] = was;
	}
	for (size_t cut = 1; cut < n; cut++)
		assert_int_equal(read_made(header(PACK_COMPRESSED, 3, 1, (uint32_t)cut), p), -EUCLEAN);
	for (unsigned more = 1; more < 200; more++) {
		memset(p + n, 0, more);
		assert_int_equal(read_made(header(PACK_COMPRESSED, 3, 1, (uint32_t)n + more), p), -EUCLEAN);
	}
	/* A second frame, and one that zstd would skip. */
	const struct way nothing = {.size = 1};
	size_t m = compress_so(&nothing, empty_frame, sizeof(empty_frame));
	memcpy(p + n, empty_frame, m);
	assert_int_equal(read_made(header(PACK_COMPRESSED, 3, 1, (uint32_t)(n + m)), p), -EUCLEAN);
	memcpy(p + n, (uint8_t[]){0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, 12);
	assert_int_equal(read_made(header(PACK_COMPRESSED, 3, 1, (uint32_t)n + 12), p), -EUCLEAN);
	memmove(p + 12, p, n);
	memcpy(p, (uint8_t[]){0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, 12);
	assert_int_equal(read_made(header(PACK_COMPRESSED, 3, 1, (uint32_t)n + 12), p), -EUCLEAN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(headers_of_frames_that_cannot_be_are_refused),
	    cmocka_unit_test(zstd_frames_that_are_not_the_leaf_are_refused),
	    cmocka_unit_test(zstd_frames_that_were_changed_stay_in_their_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
