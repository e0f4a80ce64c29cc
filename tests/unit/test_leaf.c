/*
 * test_leaf.c: leaf.h: random leaves there and back, the bytes of one leaf by hand, and that damage is never taken for a leaf.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "tests/unit/leaves.h"
#include "tests/unit/tempdir.h"

/* Where the fixed part has its bits. */
enum { AT_VERSION = 0, AT_FLAGS = 1, AT_MAPPED = 2, AT_UNWRITTEN = 4, AT_STAGED = 6, AT_HOMED = 8, AT_CRCS = 10 };

static void seal(uint8_t *p, size_t len)
{
	le32 crc = le32_make(crc32c(0, p, len - 4));

	memcpy(p + len - 4, crc.b, 4);
}

static size_t encode(const struct leaf *l, uint8_t p[LEAF_BYTES_MAX])
{
	size_t len = leaf_encode(l, p);

	assert_in_range(len, 18, LEAF_BYTES_MAX);
	return len;
}

/* Slot 0 and 1 at home side by side, 2 staged over a home elsewhere, 3 staged, 4 unwritten with and 5 without a home. */
static struct leaf sample(void)
{
	struct leaf l = {0};

	l.slot[0] = (struct slot){.home = pointer_make(1, 0x100), .crc = 0x11121314, .birth = 7};
	l.slot[1] = (struct slot){.home = pointer_make(1, 0x101), .crc = 0x21222324, .birth = 7};
	l.slot[2] = (struct slot){.home = pointer_make(2, 0x5), .staged = pointer_make(0, 0x30), .crc = 0x31323334, .birth = 7};
	l.slot[3] = (struct slot){.staged = pointer_make(0, 0x31), .crc = 0x41424344};
	l.slot[4] = (struct slot){.home = pointer_make(1, 0x104), .birth = 7, .unwritten = true};
	l.slot[5] = (struct slot){.unwritten = true};
	return l;
}

static void the_bytes_are_those_of_the_format(void **state)
{
	/* clang-format off */
	static const uint8_t golden[] = {
		1, 1,                                   /* version, one birth for all */
		0x3f, 0x00, 0x30, 0x00,                 /* mapped 0-5, unwritten 4 5 */
		0x0c, 0x00, 0x17, 0x00,                 /* staged 2 3, homed 0 1 2 4 */
		0x14, 0x13, 0x12, 0x11, 0x24, 0x23, 0x22, 0x21, 0x34, 0x33, 0x32, 0x31, 0x44, 0x43, 0x42, 0x41,
		0x00, 0x00, 0x01, 0x00, 0, 0, 0, 1,  2, /* homes 0 and 1: device 1, block 0x100 */
		0x00, 0x05, 0x00, 0x00, 0, 0, 0, 2,  1, /* 2: device 2, block 5 */
		0x00, 0x04, 0x01, 0x00, 0, 0, 0, 1,  1, /* 4: device 1, block 0x104 */
		0x00, 0x30, 0x00, 0x00, 0, 0, 0, 0,  2, /* staged 2 and 3: journal position 0x30 */
		7, 0, 0, 0,                             /* birth */
		0xe0, 0xfa, 0x44, 0x88,                 /* CRC-32C of all before */
	};
	/* clang-format on */
	uint8_t p[LEAF_BYTES_MAX];
	struct leaf l = sample(), back;

	(void)state;
	assert_int_equal(encode(&l, p), sizeof(golden));
	assert_memory_equal(p, golden, sizeof(golden));
	assert_int_equal(leaf_decode(golden, sizeof(golden), &back), 0);
	assert_true(same_leaf(&l, &back));
}

/* Slots 0 and 1 of the sample tiered, and 6, which is cold. */
static struct leaf tiered_sample(void)
{
	struct leaf l = sample();

	l.slot[0].tiered = l.slot[1].tiered = true;
	l.slot[6] = (struct slot){.crc = 0x61626364, .tiered = true};
	l.object = (struct leaf_object){.id = 0x0102030405060708, .offset = 0x11121314, .len = 0x2122};
	return l;
}

static void a_tiered_leaf_names_its_frame_behind_the_masks(void **state)
{
	/* clang-format off */
	static const uint8_t golden[] = {
		1, 3,                                   /* version, one birth for all, tiered */
		0x7f, 0x00, 0x30, 0x00,                 /* mapped 0-6, unwritten 4 5 */
		0x0c, 0x00, 0x17, 0x00,                 /* staged 2 3, homed 0 1 2 4 */
		0x43, 0x00,                             /* tiered 0 1 6 */
		0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, 0x14, 0x13, 0x12, 0x11, 0x22, 0x21, 0x00, 0x00,
		0x14, 0x13, 0x12, 0x11, 0x24, 0x23, 0x22, 0x21, 0x34, 0x33, 0x32, 0x31, 0x44, 0x43, 0x42, 0x41,
		0x64, 0x63, 0x62, 0x61,
		0x00, 0x00, 0x01, 0x00, 0, 0, 0, 1,  2, 0x00, 0x05, 0x00, 0x00, 0, 0, 0, 2,  1,
		0x00, 0x04, 0x01, 0x00, 0, 0, 0, 1,  1, 0x00, 0x30, 0x00, 0x00, 0, 0, 0, 0,  2,
		7, 0, 0, 0,
	};
	/* clang-format on */
	uint8_t p[LEAF_BYTES_MAX];
	struct leaf l = tiered_sample(), back;

	(void)state;
	assert_int_equal(encode(&l, p), sizeof(golden) + 4);
	assert_memory_equal(p, golden, sizeof(golden));
	assert_int_equal(leaf_decode(p, sizeof(golden) + 4, &back), 0);
	assert_true(same_leaf(&l, &back));
	assert_int_equal(leaf_tiered(&back), 0x43);
	assert_int_equal(leaf_cold(&back), 0x40);
	assert_int_equal(leaf_data(&back), 0x4f);
	assert_true(slot_used(&back.slot[6]) && slot_has_data(&back.slot[6]));
	assert_false(slot_reserved(&back.slot[6]) || slot_has_space(&back.slot[6]));
}

static void marks_stand_behind_the_frame(void **state)
{
	uint8_t p[LEAF_BYTES_MAX], plain[LEAF_BYTES_MAX];
	struct leaf l = tiered_sample(), back;
	size_t len = encode(&l, plain);

	(void)state;
	l.slot[1].shared = l.slot[4].shared = true;
	assert_int_equal(encode(&l, p), len + 2);
	assert_int_equal(p[AT_FLAGS], plain[AT_FLAGS] | 4);
	assert_memory_equal(p + 2, plain + 2, 26);
	assert_int_equal(p[28] | p[29] << 8, 0x12);
	assert_memory_equal(p + 30, plain + 28, len - 28 - 4);
	assert_int_equal(leaf_decode(p, len + 2, &back), 0);
	assert_true(same_leaf(&l, &back));
	for (unsigned i = 0; i < 16; i++) { /* homed are 0 1 2 4 */
		unsigned mask = 1u << i;

		p[28] = (uint8_t)mask;
		p[29] = (uint8_t)(mask >> 8);
		seal(p, len + 2);
		assert_int_equal(leaf_decode(p, len + 2, &back), 0x17 >> i & 1 ? 0 : -EUCLEAN);
	}
	p[28] = p[29] = 0; /* none is marked, and yet it says so */
	seal(p, len + 2);
	assert_int_equal(leaf_decode(p, len + 2, &back), -EUCLEAN);
}

static void a_leaf_names_no_object_when_nothing_is_tiered(void **state)
{
	struct leaf l = tiered_sample();

	(void)state;
	leaf_settle(&l);
	assert_int_equal(l.object.id, 0x0102030405060708);
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		l.slot[i].tiered = false;
	leaf_settle(&l);
	assert_true(l.object.id == 0 && l.object.offset == 0 && l.object.len == 0);
}

static void a_file_written_in_order_takes_91_bytes_a_leaf(void **state)
{
	uint8_t p[LEAF_BYTES_MAX];
	struct leaf l = {0};

	(void)state;
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		l.slot[i] = (struct slot){.home = pointer_make(1, 1000 + i), .crc = i, .birth = 3};
	assert_int_equal(encode(&l, p), 10 + 64 + 9 + 4 + 4);
}

static void the_largest_leaf_fits(void **state)
{
	uint8_t p[LEAF_BYTES_MAX];
	struct leaf l = {0}, back;

	(void)state;
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		l.slot[i] = (struct slot){.home = pointer_make(1 + i, POINTER_BLOCK_MAX),
					  .staged = pointer_make(0, 1000 - 2 * i),
					  .crc = ~i,
					  .birth = i,
					  .tiered = true,
					  .shared = true};
	l.object = (struct leaf_object){.id = UINT64_MAX, .offset = UINT32_MAX - RECORD_FRAME_MAX, .len = RECORD_FRAME_MAX};
	assert_int_equal(encode(&l, p), LEAF_BYTES_MAX);
	assert_int_equal(leaf_decode(p, LEAF_BYTES_MAX, &back), 0);
	assert_true(same_leaf(&l, &back));
}

static void an_empty_leaf_comes_back_empty(void **state)
{
	uint8_t p[LEAF_BYTES_MAX];
	struct leaf l = {0}, back = sample();

	(void)state;
	assert_true(leaf_empty(&l));
	assert_false(leaf_empty(&back));
	assert_int_equal(leaf_decode(p, encode(&l, p), &back), 0);
	assert_true(leaf_empty(&back));
}

static void random_leaves_come_back_as_they_were(void **state)
{
	struct rng g = {.state = test_seed(1)};
	uint8_t p[LEAF_BYTES_MAX];
	struct leaf l, back;

	(void)state;
	for (unsigned n = 0; n < 20000; n++) {
		random_leaf(&g, &l);
		memset(&back, 0xa5, sizeof(back));
		assert_int_equal(leaf_decode(p, encode(&l, p), &back), 0);
		assert_true(same_leaf(&l, &back));
	}
}

static void every_truncation_is_refused(void **state)
{
	struct rng g = {.state = test_seed(2)};
	uint8_t p[LEAF_BYTES_MAX];
	struct leaf l, back, untouched;

	(void)state;
	memset(&untouched, 0x5a, sizeof(untouched));
	for (unsigned n = 0; n < 100; n++) {
		random_leaf(&g, &l);
		for (size_t len = encode(&l, p); len-- > 0;) {
			back = untouched;
			assert_int_equal(leaf_decode(p, len, &back), len < 18 ? -EUCLEAN : -EBADMSG);
			assert_memory_equal(&back, &untouched, sizeof(back));
		}
	}
}

static void bytes_behind_a_leaf_are_refused(void **state)
{
	uint8_t p[2 * LEAF_BYTES_MAX] = {0};
	struct leaf l = sample(), back;
	size_t len = leaf_encode(&l, p);

	(void)state;
	for (size_t more = 1; len + more <= LEAF_BYTES_MAX; more++) {
		assert_int_equal(leaf_decode(p, len + more, &back), -EBADMSG);
		seal(p, len + more);
		assert_int_equal(leaf_decode(p, len + more, &back), -EUCLEAN);
		len = leaf_encode(&l, p);
		memset(p + len, 0, sizeof(p) - len);
	}
	assert_int_equal(leaf_decode(p, LEAF_BYTES_MAX + 1, &back), -EUCLEAN);
}

static void every_bit_flip_is_a_wrong_checksum(void **state)
{
	struct rng g = {.state = test_seed(3)};
	uint8_t p[LEAF_BYTES_MAX];
	struct leaf l, back;

	(void)state;
	for (unsigned n = 0; n < 50; n++) {
		random_leaf(&g, &l);
		size_t len = encode(&l, p);
		for (size_t bit = 0; bit < len * 8; bit++) {
			p[bit / 8] ^= (uint8_t)(1u << bit % 8);
			assert_int_equal(leaf_decode(p, len, &back), -EBADMSG);
			p[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
	}
}

/* A flip that the checksum covers up (a bug, not rot): refused, or a leaf that is one. */
static void damage_under_a_right_checksum_is_refused_or_a_leaf(void **state)
{
	struct rng g = {.state = test_seed(4)};
	uint8_t p[LEAF_BYTES_MAX], again[LEAF_BYTES_MAX];
	struct leaf l, back, twice;
	unsigned taken = 0;

	(void)state;
	for (unsigned n = 0; n < 100; n++) {
		random_leaf(&g, &l);
		size_t len = encode(&l, p);
		for (size_t bit = 0; bit < (len - 4) * 8; bit++) {
			p[bit / 8] ^= (uint8_t)(1u << bit % 8);
			seal(p, len);
			int r = leaf_decode(p, len, &back);
			if (r == 0) {
				assert_int_equal(leaf_decode(again, encode(&back, again), &twice), 0);
				assert_true(same_leaf(&back, &twice));
				taken++;
			} else {
				assert_int_equal(r, -EUCLEAN);
			}
			p[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
	}
	assert_true(taken > 0); /* CRCs and births may be anything */
}

static void refuse(size_t at, uint8_t value)
{
	uint8_t p[LEAF_BYTES_MAX];
	struct leaf l = sample(), back;
	size_t len = encode(&l, p);

	assert_int_not_equal(p[at], value);
	p[at] = value;
	seal(p, len);
	assert_int_equal(leaf_decode(p, len, &back), -EUCLEAN);
}

static void contradictions_are_refused(void **state)
{
	const size_t homes = AT_CRCS + 16, staged = homes + 27;

	(void)state;
	refuse(AT_VERSION, 2);
	refuse(AT_MAPPED, 0x7f);    /* mapped, but neither home, staged nor unwritten */
	refuse(AT_MAPPED, 0x1f);    /* unwritten, but not mapped */
	refuse(AT_UNWRITTEN, 0x38); /* staged and unwritten */
	refuse(AT_HOMED, 0x1f);     /* a home without a run */
	refuse(AT_HOMED, 0x13);     /* a run without a home */
	refuse(homes + 7, 0);       /* a home in the journal */
	refuse(staged + 7, 1);      /* staged in an arena */
	refuse(homes + 8, 0);       /* a run of nothing */
	refuse(homes + 8, 3);       /* a run over a slot that has one of its own */
	refuse(homes + 8, 17);      /* a run past the end */
	refuse(AT_FLAGS, 0);        /* births for each, but only one is there */
	refuse(AT_FLAGS, 3);        /* tiered, and no frame is there */
	refuse(AT_FLAGS, 5);        /* marked, and no mask is there */
	refuse(AT_FLAGS, 9);        /* a flag that is none */
	refuse(staged + 1, 0);      /* no pointer */
	refuse(homes, 1);           /* flags in a pointer */
}

/* `n` bytes of a good tiered leaf are others. */
static void refuse_tiered(size_t at, const void *bytes, size_t n)
{
	uint8_t p[LEAF_BYTES_MAX];
	struct leaf l = tiered_sample(), back;
	size_t len = encode(&l, p);

	memcpy(p + at, bytes, n);
	seal(p, len);
	assert_int_equal(leaf_decode(p, len, &back), -EUCLEAN);
}

static void contradictions_of_what_is_tiered_are_refused(void **state)
{
	enum { AT_TIERED = 10, AT_OBJECT = 12, AT_OFFSET = 20, AT_LEN = 24 };
	static const uint8_t zeros[8], ones[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	le32 too_long = le32_make(RECORD_FRAME_MAX + 1), longest = le32_make(RECORD_FRAME_MAX);
	uint8_t past[8];

	(void)state;
	memcpy(past, ones, 4);
	memcpy(past + 4, longest.b, 4);
	refuse_tiered(AT_TIERED, zeros, 2);  /* a frame, and nothing in it */
	refuse_tiered(AT_TIERED, "\x03", 1); /* mapped, and nothing else */
	refuse_tiered(AT_TIERED, "\x53", 1); /* tiered and unwritten */
	refuse_tiered(AT_TIERED, "\xc3", 1); /* tiered and not mapped */
	refuse_tiered(AT_OBJECT, zeros, 8);  /* no object */
	refuse_tiered(AT_LEN, zeros, 4);     /* an empty frame */
	refuse_tiered(AT_LEN, too_long.b, 4);
	refuse_tiered(AT_OFFSET, past, 8);  /* a frame past what offsets can tell */
	refuse_tiered(AT_FLAGS, "\x01", 1); /* no frame, and yet it is there */
	refuse_tiered(AT_FLAGS, "\x07", 1); /* marked, and no mask is there */
	refuse_tiered(AT_FLAGS, "\x0b", 1); /* a flag that is none */
}

/* Slots 6 and 7 packed in a frame of two blocks; 0 and 1 are tiered besides, and 7 is. */
static struct leaf packed_sample(void)
{
	struct leaf l = tiered_sample();

	l.slot[6] = (struct slot){.crc = 0x61626364, .packed = true};
	l.slot[7] = (struct slot){.crc = 0x71727374, .packed = true, .tiered = true};
	l.pack = (struct leaf_pack){
	    .start = pointer_make(1, 0x200), .n_blocks = 2, .bytes = 0x1234, .birth = 9, .algorithm = PACK_ZSTD};
	return l;
}

static void a_packed_leaf_names_its_frame_behind_the_object(void **state)
{
	/* clang-format off */
	static const uint8_t golden[] = {
		1, 0x0b,                                /* version, one birth for all, tiered, packed */
		0xff, 0x00, 0x30, 0x00,                 /* mapped 0-7, unwritten 4 5 */
		0x0c, 0x00, 0x17, 0x00,                 /* staged 2 3, homed 0 1 2 4 */
		0x83, 0x00,                             /* tiered 0 1 7 */
		0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, 0x14, 0x13, 0x12, 0x11, 0x22, 0x21, 0x00, 0x00,
		0xc0, 0x00,                             /* packed 6 7 */
		0x00, 0x00, 0x02, 0x00, 0, 0, 0, 1,  2, /* device 1, block 0x200, two of them */
		0x34, 0x12, 0, 0,  2,  9, 0, 0, 0,      /* bytes, zstd, birth */
		0x14, 0x13, 0x12, 0x11, 0x24, 0x23, 0x22, 0x21, 0x34, 0x33, 0x32, 0x31, 0x44, 0x43, 0x42, 0x41,
		0x64, 0x63, 0x62, 0x61, 0x74, 0x73, 0x72, 0x71,
		0x00, 0x00, 0x01, 0x00, 0, 0, 0, 1,  2, 0x00, 0x05, 0x00, 0x00, 0, 0, 0, 2,  1,
		0x00, 0x04, 0x01, 0x00, 0, 0, 0, 1,  1, 0x00, 0x30, 0x00, 0x00, 0, 0, 0, 0,  2,
		7, 0, 0, 0,
	};
	/* clang-format on */
	uint8_t p[LEAF_BYTES_MAX];
	struct leaf l = packed_sample(), back;

	(void)state;
	assert_int_equal(encode(&l, p), sizeof(golden) + 4);
	assert_memory_equal(p, golden, sizeof(golden));
	assert_int_equal(leaf_decode(p, sizeof(golden) + 4, &back), 0);
	assert_true(same_leaf(&l, &back));
	assert_int_equal(leaf_packed(&back), 0xc0);
	assert_int_equal(leaf_data(&back), 0xcf);
	assert_int_equal(leaf_cold(&back), 0);
	assert_true(slot_used(&back.slot[6]) && slot_has_data(&back.slot[6]));
	assert_false(slot_reserved(&back.slot[6]) || slot_has_space(&back.slot[6]));
}

static void a_leaf_has_no_frame_when_nothing_is_packed(void **state)
{
	struct leaf l = packed_sample();

	(void)state;
	l.slot[7].packed = false;
	leaf_settle(&l);
	assert_int_equal(l.pack.n_blocks, 2);
	l.slot[6].packed = false;
	leaf_settle(&l);
	assert_true(l.pack.start == 0 && l.pack.n_blocks == 0 && l.pack.bytes == 0 && l.pack.birth == 0 && l.pack.algorithm == 0);
	assert_int_equal(l.object.id, 0x0102030405060708);
}

static void refuse_packed(size_t at, const void *bytes, size_t n)
{
	uint8_t p[LEAF_BYTES_MAX];
	struct leaf l = packed_sample(), back;
	size_t len = encode(&l, p);

	assert_memory_not_equal(p + at, bytes, n);
	memcpy(p + at, bytes, n);
	seal(p, len);
	assert_int_equal(leaf_decode(p, len, &back), -EUCLEAN);
}

static void contradictions_of_what_is_packed_are_refused(void **state)
{
	enum { AT_PACKED = 28, AT_START = 30, AT_BLOCKS = 38, AT_BYTES = 39, AT_ALGORITHM = 43, AT_BIRTH = 44 };

	(void)state;
	refuse_packed(AT_PACKED, "\x00\x00", 2);             /* a frame, and nothing in it */
	refuse_packed(AT_PACKED, "\x80", 1);                 /* 6 is mapped, and nothing else */
	refuse_packed(AT_PACKED, "\xc1", 1);                 /* packed and at home */
	refuse_packed(AT_PACKED, "\xc8", 1);                 /* packed and staged */
	refuse_packed(AT_PACKED, "\xd0", 1);                 /* packed and unwritten */
	refuse_packed(AT_PACKED, "\xc0\x01", 2);             /* packed and not mapped */
	refuse_packed(AT_START, "\0\0\0\0\0\0\0\0", 8);      /* no pointer */
	refuse_packed(AT_START, "\x01", 1);                  /* flags in a pointer */
	refuse_packed(AT_START + 7, "\0", 1);                /* in the journal */
	refuse_packed(AT_BLOCKS, "\0", 1);                   /* no blocks */
	refuse_packed(AT_BLOCKS, "\x01", 1);                 /* fewer than the bytes take */
	refuse_packed(AT_BLOCKS, "\x03", 1);                 /* more than they take */
	refuse_packed(AT_BLOCKS, "\x10\x00\x00\x01\x00", 5); /* as many as a leaf has */
	refuse_packed(AT_BYTES, "\0\0\0\0", 4);              /* no bytes */
	refuse_packed(AT_BYTES, "\xff\xff\xff\xff", 4);
	refuse_packed(AT_ALGORITHM, "\0", 1);
	refuse_packed(AT_ALGORITHM, "\x03", 1);
	refuse_packed(AT_BIRTH, "\xff\xff\xff\xff", 4); /* superseded */
	refuse_packed(AT_FLAGS, "\x03", 1);             /* no frame, and yet it is there */
}

/* The second block of a run that starts at the last one of its device would be the first one of the next, or no pointer. */
static void a_run_stays_on_its_device(void **state)
{
	static const unsigned devices[] = {DEVICE_ARENA_FIRST, DEVICE_ARENA_LAST, 255};
	const size_t homes = AT_CRCS + 16;
	uint8_t p[LEAF_BYTES_MAX];
	struct leaf back;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
		struct leaf l = sample();

		l.slot[0].home = pointer_make(devices[i], POINTER_BLOCK_MAX - 1);
		l.slot[1].home = pointer_make(devices[i], POINTER_BLOCK_MAX);
		size_t len = encode(&l, p);
		assert_int_equal(p[homes + 8], 2);
		assert_int_equal(leaf_decode(p, len, &back), 0);
		assert_true(same_leaf(&l, &back));
		p[homes + 1]++; /* one block further on */
		seal(p, len);
		assert_int_equal(leaf_decode(p, len, &back), -EUCLEAN);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_bytes_are_those_of_the_format),
	    cmocka_unit_test(a_tiered_leaf_names_its_frame_behind_the_masks),
	    cmocka_unit_test(marks_stand_behind_the_frame),
	    cmocka_unit_test(a_leaf_names_no_object_when_nothing_is_tiered),
	    cmocka_unit_test(a_file_written_in_order_takes_91_bytes_a_leaf),
	    cmocka_unit_test(the_largest_leaf_fits),
	    cmocka_unit_test(an_empty_leaf_comes_back_empty),
	    cmocka_unit_test(random_leaves_come_back_as_they_were),
	    cmocka_unit_test(every_truncation_is_refused),
	    cmocka_unit_test(bytes_behind_a_leaf_are_refused),
	    cmocka_unit_test(every_bit_flip_is_a_wrong_checksum),
	    cmocka_unit_test(damage_under_a_right_checksum_is_refused_or_a_leaf),
	    cmocka_unit_test(contradictions_are_refused),
	    cmocka_unit_test(contradictions_of_what_is_tiered_are_refused),
	    cmocka_unit_test(a_run_stays_on_its_device),
	    cmocka_unit_test(a_packed_leaf_names_its_frame_behind_the_object),
	    cmocka_unit_test(a_leaf_has_no_frame_when_nothing_is_packed),
	    cmocka_unit_test(contradictions_of_what_is_packed_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
