/*
 * test_pack.c: pack.h: every shape of leaf there and back, what is compressed, what fits, and the bytes of packs.  Damaged packs
 * are test_pack_damage.c's, forged ones test_pack_forged.c's, memory that runs out test_pack_memory.c's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <xxhash.h>

#include "tests/unit/pack_case.h"

/* ---- there and back ---- */

/* Each slot's block different, so that their order shows. */
static void fill_slots(uint16_t mask)
{
	uint8_t *p = blocks;

	for (unsigned slot = 0; slot < PACK_SLOTS; slot++)
		if (mask & 1u << slot) {
			memset(p, (int)slot + 1, PACK_BLOCK);
			memcpy(p + 100, &mask, 2);
			p += PACK_BLOCK;
		}
}

static void every_mask_reads_back(void **state)
{
	static struct pack_place at[1 << PACK_SLOTS];

	(void)state;
	for (int encrypted = 0; encrypted < 2; encrypted++) {
		struct pack_writer *w = writer(encrypted);

		for (uint32_t mask = 1; mask < 1 << PACK_SLOTS; mask++) {
			fill_slots((uint16_t)mask);
			at[mask] = add(w, mask, UINT64_MAX - mask, (uint16_t)mask);
		}
		struct finished f = finish(w);
		for (uint32_t mask = 1; mask < 1 << PACK_SLOTS; mask++) {
			fill_slots((uint16_t)mask);
			reads_as(&f, &at[mask], mask, UINT64_MAX - mask, (uint16_t)mask);
		}
		pack_writer_free(w);
	}
}

static void every_number_of_blocks_of_every_kind_reads_back(void **state)
{
	(void)state;
	for (unsigned n = 1; n <= PACK_SLOTS; n++)
		for (unsigned kind = 0; kind < 2 * FILLS; kind++) {
			struct pack_writer *w = writer(kind & 1);
			uint16_t mask = (uint16_t)((1u << n) - 1);

			fill_blocks(n, kind / 2, blocks, sizeof(blocks));
			struct pack_place at = add(w, 1, n, mask);
			struct finished f = finish(w);
			assert_int_equal(at.offset, PACK_HEADER_BYTES);
			assert_int_equal(f.len, at.offset + at.len);
			reads_as(&f, &at, 1, n, mask);
			pack_writer_free(w);
		}
}

struct added {
	uint64_t ino, leaf, seed;
	enum fill kind;
	uint16_t mask;
	struct pack_place at;
};
struct adding {
	struct added all[300];
	uint32_t n, seen;
	uint32_t stop_at; /* the walk ends there; 0: it does not */
};

static int check_walked(void *ctx, const struct pack_place *place, const struct pack_frame *f, int error, const uint8_t *data)
{
	struct adding *a = ctx;
	const struct added *x = &a->all[a->seen++];

	assert_int_equal(error, 0);
	assert_in_range(a->seen, 1, a->n);
	assert_memory_equal(place, &x->at, sizeof(*place));
	assert_true(f->ino == x->ino && f->leaf == x->leaf && f->mask == x->mask && f->len == x->at.len);
	fill_blocks(x->seed, x->kind, blocks, mask_bytes(x->mask));
	assert_memory_equal(data, blocks, mask_bytes(x->mask));
	return a->seen == a->stop_at ? 77 : 0;
}

static void add_random(struct rng *g, struct pack_writer *w, struct adding *a)
{
	a->n = (uint32_t)rng_between(g, 1, ARRAY_SIZE(a->all));
	for (uint32_t i = 0; i < a->n; i++) {
		struct added *x = &a->all[i];

		*x = (struct added){
		    .ino = rng_u64(g) | 1, .leaf = rng_u64(g), .seed = rng_u64(g), .kind = (enum fill)rng_below(g, FILLS)};
		x->mask = (uint16_t)rng_between(g, 1, UINT16_MAX);
		fill_blocks(x->seed, x->kind, blocks, mask_bytes(x->mask));
		x->at = add(w, x->ino, x->leaf, x->mask);
	}
}

/* At its own length and with all that follows it. */
static void read_in_any_order(struct rng *g, const struct finished *f, struct adding *a)
{
	for (unsigned n = 0; n < a->n; n++) {
		const struct added *x = &a->all[rng_below(g, a->n)];
		struct pack_frame frame;

		fill_blocks(x->seed, x->kind, blocks, mask_bytes(x->mask));
		reads_as(f, &x->at, x->ino, x->leaf, x->mask);
		assert_int_equal(pack_read_frame(&f->key, x->at.offset, f->p + x->at.offset, f->len - x->at.offset, &frame, back),
				 0);
		assert_int_equal(frame.len, x->at.len);
	}
}

static void random_packs_read_back_in_any_order_and_by_a_walk(void **state)
{
	static struct adding a;

	(void)state;
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct rng g = {.state = seed};
		struct pack_writer *w = writer(seed & 1);
		struct pack_header h;

		print_message("seed %llu\n", (unsigned long long)seed);
		add_random(&g, w, &a);
		struct finished f = finish(w), again = finish(w);
		assert_true(f.p == again.p && f.len == again.len && memcmp(f.sealed, again.sealed, sizeof(f.sealed)) == 0);
		assert_int_equal(pack_verify_header(&f.key, f.p, &h), 0);
		assert_true(h.object == PACKS_OBJECT && h.time_ns == PACKS_TIME_NS && h.n_frames == a.n && h.bytes == f.len);
		assert_true(h.first == PACK_HEADER_BYTES && h.encrypted == (seed & 1));
		assert_memory_equal(h.volume, packs_volume, sizeof(h.volume));
		assert_memory_equal(h.sealed, f.sealed, sizeof(h.sealed));
		read_in_any_order(&g, &f, &a);
		a.seen = a.stop_at = 0;
		assert_int_equal(pack_walk(&f.key, f.p, f.len, check_walked, &a), 0);
		assert_int_equal(a.seen, a.n);
		a.seen = 0;
		a.stop_at = (uint32_t)rng_between(&g, 1, a.n);
		assert_int_equal(pack_walk(&f.key, f.p, f.len, check_walked, &a), 77);
		assert_int_equal(a.seen, a.stop_at);
		pack_writer_free(w);
	}
}

struct shared {
	const struct finished *f;
	const struct adding *a;
	bool well;
};

static void *read_all(void *ctx)
{
	struct shared *s = ctx;
	CLEANUP_FREE uint8_t *own = malloc(2 * PACK_LEAF_BYTES);

	s->well = own;
	for (uint32_t i = 0; i < s->a->n && s->well; i++) {
		const struct added *x = &s->a->all[i];
		struct pack_frame frame;
		int r = pack_read_frame(&s->f->key, x->at.offset, s->f->p + x->at.offset, x->at.len, &frame, own);

		fill_blocks(x->seed, x->kind, own + PACK_LEAF_BYTES, mask_bytes(x->mask));
		s->well = r == 0 && memcmp(own, own + PACK_LEAF_BYTES, mask_bytes(x->mask)) == 0;
	}
	return NULL;
}

static void threads_read_one_pack_at_once(void **state)
{
	static struct adding a;
	struct rng g = {.state = 5};
	struct pack_writer *w = writer(true);
	pthread_t t[4];
	struct shared s[ARRAY_SIZE(t)];

	(void)state;
	add_random(&g, w, &a);
	struct finished f = finish(w);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		s[i] = (struct shared){&f, &a, false};
		assert_int_equal(pthread_create(&t[i], NULL, read_all, &s[i]), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		pthread_join(t[i], NULL);
		assert_true(s[i].well);
	}
	pack_writer_free(w);
}

/* ---- compression ---- */

static void only_what_saves_an_eighth_is_compressed(void **state)
{
	struct pack_writer *w = writer(true);

	(void)state;
	for (size_t noise = 0; noise <= PACK_LEAF_BYTES; noise += 1024) {
		fill_blocks(1, FILL_NOISE, blocks, noise);
		memset(blocks + noise, 0, PACK_LEAF_BYTES - noise);
		uint32_t len = add(w, 1, noise, UINT16_MAX).len - PACK_FRAME_HEADER_BYTES;
		if (noise < PACK_LEAF_BYTES / 8 * 6)
			assert_in_range(len, noise, noise + 1024);
		if (noise > PACK_LEAF_BYTES / 8 * 7)
			assert_int_equal(len, PACK_LEAF_BYTES);
		assert_true(len == PACK_LEAF_BYTES || len <= PACK_LEAF_BYTES / 8 * 7);
	}
	pack_writer_free(w);
}

/* However much noise there was: text is seen to be text, and repetitions are found soon. */
static void noise_does_not_hide_what_comes_after_it(void **state)
{
	(void)state;
	for (unsigned leaves = 0; leaves < 200; leaves += 7) {
		struct pack_writer *w = writer(false);
		unsigned passed = 0;

		for (unsigned i = 0; i < leaves; i++) {
			fill_blocks(i, FILL_NOISE, blocks, sizeof(blocks));
			assert_int_equal(add(w, 1, i, UINT16_MAX).len, PACK_FRAME_MAX_BYTES);
		}
		fill_blocks(1, FILL_TEXT, blocks, sizeof(blocks));
		assert_in_range(add(w, 2, 0, UINT16_MAX).len, 1, PACK_FRAME_MAX_BYTES / 2);
		fill_blocks(1, FILL_REPEATED_NOISE, blocks, sizeof(blocks));
		while (add(w, 3, passed, UINT16_MAX).len == PACK_FRAME_MAX_BYTES)
			assert_in_range(++passed, 1, 15);
		for (unsigned i = 0; i < 20; i++)
			assert_in_range(add(w, 3, 100 + i, UINT16_MAX).len, 1, PACK_FRAME_MAX_BYTES / 8);
		pack_writer_free(w);
	}
}

/* ---- what fits ---- */

static void a_full_pack_takes_nothing_and_goes_on(void **state)
{
	static struct adding a;
	const uint32_t one = PACK_FRAME_HEADER_BYTES + PACK_BLOCK;

	(void)state;
	/* Room for a leaf, a frame of one block, and all that is less than another one, byte by byte. */
	for (uint32_t more = 0; more < one + 40; more += more < 40 || more > one - 40 ? 1 : 61) {
		struct pack_config c = packs_config(true);
		struct pack_writer *w;
		struct pack_place at = {1, 2};

		c.max_bytes = PACK_BYTES_MIN + one + more;
		assert_int_equal(pack_writer_new(&c, &w), 0);
		a.n = a.seen = a.stop_at = 0;
		for (unsigned i = 0; i < 3 + (more >= one); i++) {
			struct added x = {
			    .ino = 1, .leaf = i, .seed = i, .kind = FILL_NOISE, .mask = i == 0 ? UINT16_MAX : 1 << i};

			fill_blocks(x.seed, x.kind, blocks, mask_bytes(x.mask));
			int r = pack_add(w, x.ino, x.leaf, x.mask, blocks, &at);
			if (i == 2 + (more >= one)) {
				assert_int_equal(r, -E2BIG);
				assert_true(at.offset == a.all[a.n - 1].at.offset && at.len == a.all[a.n - 1].at.len);
				break;
			}
			assert_int_equal(r, 0);
			x.at = at;
			a.all[a.n++] = x;
		}
		/* A smaller one may still fit. */
		uint32_t left = (uint32_t)c.max_bytes - at.offset - at.len;
		struct added x = {.ino = 9, .kind = FILL_ZEROS, .mask = 1};
		fill_blocks(x.seed, x.kind, blocks, PACK_BLOCK);
		int r = pack_add(w, x.ino, x.leaf, x.mask, blocks, &x.at);
		assert_int_equal(r, r == 0 ? 0 : -E2BIG);
		assert_true(r == 0 ? x.at.len <= left : left < PACK_FRAME_HEADER_BYTES + 64);
		if (r == 0)
			a.all[a.n++] = x;
		struct finished f = finish(w);
		assert_in_range(f.len, 1, c.max_bytes);
		assert_int_equal(pack_walk(&f.key, f.p, f.len, check_walked, &a), 0);
		assert_int_equal(a.seen, a.n);
		pack_writer_free(w);
	}
}

static void the_largest_pack_is_filled_to_the_last_leaf(void **state)
{
	struct pack_writer *w = writer(true);
	struct pack_place at = {0};
	unsigned n = 0;
	int r;

	(void)state;
	fill_blocks(1, FILL_NOISE, blocks, sizeof(blocks));
	while ((r = pack_add(w, 1, n, UINT16_MAX, blocks, &at)) == 0)
		n++;
	assert_int_equal(r, -E2BIG);
	assert_int_equal(n, (PACK_BYTES_MAX - PACK_HEADER_BYTES) / PACK_FRAME_MAX_BYTES);
	struct finished f = finish(w);
	assert_int_equal(f.len, PACK_HEADER_BYTES + n * PACK_FRAME_MAX_BYTES);
	reads_as(&f, &at, 1, n - 1, UINT16_MAX);
	pack_writer_free(w);
}

static void what_no_pack_can_be_is_refused(void **state)
{
	struct pack_config c = packs_config(true);
	struct pack_writer *w = NULL;
	const size_t sizes[] = {0, PACK_HEADER_BYTES, PACK_BYTES_MIN - 1, (size_t)PACK_BYTES_MAX + 1, SIZE_MAX};
	struct finished f;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		c.max_bytes = sizes[i];
		assert_int_equal(pack_writer_new(&c, &w), -EINVAL);
	}
	c = packs_config(true);
	c.object = 0;
	assert_int_equal(pack_writer_new(&c, &w), -EINVAL);
	assert_null(w);
	assert_null(pack_writer_free(NULL));
	w = writer(true);
	assert_int_equal(pack_finish(w, &f.p, &f.len, f.sealed), -ENODATA);
	pack_writer_free(w);
}

/* ---- keys ---- */

static void no_two_objects_have_a_key_or_a_nonce_in_common(void **state)
{
	struct pack_config c = packs_config(true);
	struct pack_writer *w[2];
	struct finished f[2];

	(void)state;
	c.random = NULL;
	fill_blocks(1, FILL_NOISE, blocks, sizeof(blocks));
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(pack_writer_new(&c, &w[i]), 0);
		add(w[i], 1, 0, 1);
		f[i] = finish(w[i]);
	}
	assert_int_not_equal(memcmp(f[0].key.bytes, f[1].key.bytes, PACK_KEY_BYTES), 0);
	assert_int_not_equal(memcmp(f[0].sealed, f[1].sealed, PACK_NONCE_BYTES), 0);
	const size_t at = PACK_HEADER_BYTES + PACK_FRAME_HEADER_BYTES;
	assert_int_not_equal(memcmp(f[0].p + at, f[1].p + at, PACK_BLOCK), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_null(memmem(f[i].p, f[i].len, blocks, 16));
		assert_null(memmem(f[i].p, f[i].len, f[i].key.bytes, 16));
		pack_writer_free(w[i]);
	}
}

/* ---- bytes ---- */

/*
 * One leaf of two slots, 0 and 15, as a's and b's, keys as packs_random() makes them: the header up to its zeros, its CRC, the
 * frame.  Written once, and taken apart by a second program that follows docs/FORMAT.md with other libraries than this one.
 */
/* clang-format off */
static const uint8_t golden_encrypted_head[136] = {
	0x43, 0x4c, 0x41, 0x57, 0x50, 0x41, 0x43, 0x4b, 0x01, 0x00, 0x01, 0x00, 0x01, 0x00, 0x00, 0x00,
	0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf,
	0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x15, 0xcd, 0x85, 0x3d, 0xfe, 0x9c, 0x97, 0x17,
	0x47, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x07, 0x08, 0x09, 0x0a,
	0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10, 0x11, 0x12, 0x51, 0x61, 0x60, 0x83, 0xf1, 0xbd, 0x0f, 0x3a,
	0x8b, 0x13, 0x56, 0x4b, 0x5a, 0xde, 0xc2, 0xd1, 0x85, 0xf5, 0x40, 0x7c, 0xd2, 0x39, 0xe8, 0x27,
	0x6c, 0x62, 0x93, 0xfc, 0x16, 0x25, 0x35, 0x29, 0x13, 0x77, 0x6b, 0x9b, 0xa3, 0x33, 0xf0, 0x0d,
	0x26, 0x5e, 0x33, 0x12, 0x5f, 0x07, 0x6d, 0x9b, 0xfc, 0xfa, 0xc0, 0xeb, 0x42, 0x6d, 0x2a, 0x77,
	0xdd, 0xee, 0x4b, 0x83, 0xc3, 0xba, 0xb6, 0x30,
};
static const uint8_t golden_encrypted_crc[4] = {0x58, 0x18, 0xc2, 0xde};
static const uint8_t golden_encrypted_frame[] = {
	0x43, 0x46, 0x52, 0x4d, 0x01, 0x00, 0x01, 0x80, 0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,
	0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0x17, 0x00, 0x00, 0x00, 0x65, 0xf4, 0xbc, 0x0a,
	0x9e, 0x15, 0x13, 0x9b, 0x1d, 0xf1, 0x72, 0x0d, 0x95, 0x3e, 0x4f, 0xdd, 0x2f, 0x83, 0xc1, 0x62,
	0xd1, 0x04, 0x7e, 0xe4, 0x92, 0x69, 0xe7, 0x99, 0x0f, 0xc3, 0x5b, 0x8b, 0xc6, 0x6b, 0xac, 0x8a,
	0xb7, 0x79, 0xf9, 0xc6, 0xd9, 0x51, 0x35,
};
static const uint8_t golden_plain_head[136] = {
	0x43, 0x4c, 0x41, 0x57, 0x50, 0x41, 0x43, 0x4b, 0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,
	0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf,
	0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x15, 0xcd, 0x85, 0x3d, 0xfe, 0x9c, 0x97, 0x17,
	0x47, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10,
};
static const uint8_t golden_plain_crc[4] = {0x60, 0x53, 0xf4, 0xbc};
static const uint8_t golden_plain_frame[] = {
	0x43, 0x46, 0x52, 0x4d, 0x01, 0x00, 0x01, 0x80, 0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,
	0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0x17, 0x00, 0x00, 0x00, 0x65, 0xf4, 0xbc, 0x0a,
	0xca, 0xf3, 0x99, 0x27, 0xad, 0xdb, 0x81, 0x0b, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x1f, 0x6d, 0x00, 0x00, 0x18, 0x61, 0x61, 0x62, 0x02, 0x00,
	0xfc, 0x07, 0xbe, 0xd8, 0xbf, 0x0f, 0xb0,
};
/* clang-format on */

static void put_golden(uint8_t *p, const uint8_t *head, const uint8_t *crc, const uint8_t *frame, size_t n)
{
	memset(p, 0, PACK_HEADER_BYTES);
	memcpy(p, head, 136);
	memcpy(p + PACK_HEADER_BYTES - 4, crc, 4);
	memcpy(p + PACK_HEADER_BYTES, frame, n);
}

static int check_golden(void *ctx, const struct pack_place *place, const struct pack_frame *f, int error, const uint8_t *data)
{
	(*(unsigned *)ctx)++;
	assert_int_equal(error, 0);
	assert_true(place->offset == PACK_HEADER_BYTES && place->len == f->len);
	assert_true(f->ino == 0x0102030405060708 && f->leaf == 0x1112131415161718 && f->mask == 0x8001);
	for (size_t i = 0; i < 2 * (size_t)PACK_BLOCK; i++)
		assert_int_equal(data[i], i < PACK_BLOCK ? 'a' : 'b');
	return 0;
}

static void read_golden(const uint8_t *p, size_t len)
{
	struct pack_header h;
	struct pack_key k;
	unsigned seen = 0;

	assert_int_equal(pack_read_header(p, &h), 0);
	assert_true(h.object == PACKS_OBJECT && h.time_ns == PACKS_TIME_NS && h.n_frames == 1 && h.bytes == len);
	assert_int_equal(pack_unseal(packs_volume, PACKS_OBJECT, &packs_key, h.sealed, &k), 0);
	assert_int_equal(k.encrypted, h.encrypted);
	assert_int_equal(pack_walk(&k, p, len, check_golden, &seen), 0);
	assert_int_equal(seen, 1);
}

static void packs_of_this_version_are_read_for_ever(void **state)
{
	uint8_t p[PACK_HEADER_BYTES + sizeof(golden_plain_frame)];

	(void)state;
	put_golden(p, golden_plain_head, golden_plain_crc, golden_plain_frame, sizeof(golden_plain_frame));
	read_golden(p, sizeof(p));
	put_golden(p, golden_encrypted_head, golden_encrypted_crc, golden_encrypted_frame, sizeof(golden_encrypted_frame));
	read_golden(p, sizeof(p));
}

/* Of noise, because what zstd writes changes with its version. */
static void the_bytes_are_those_of_the_format(void **state)
{
	static const uint64_t expected[2] = {UINT64_C(0x35cf888faf51f956), UINT64_C(0x4c791b660b4c9f15)};

	(void)state;
	fill_blocks(1, FILL_NOISE, blocks, sizeof(blocks));
	for (int encrypted = 0; encrypted < 2; encrypted++) {
		struct pack_writer *w = writer(encrypted);

		add(w, 0x0102030405060708, 0x1112131415161718, 0x8421);
		add(w, 1, 0, UINT16_MAX);
		struct finished f = finish(w);
		assert_int_equal(XXH64(f.p, f.len, 0), expected[encrypted]);
		pack_writer_free(w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_mask_reads_back),
	    cmocka_unit_test(every_number_of_blocks_of_every_kind_reads_back),
	    cmocka_unit_test(random_packs_read_back_in_any_order_and_by_a_walk),
	    cmocka_unit_test(threads_read_one_pack_at_once),
	    cmocka_unit_test(only_what_saves_an_eighth_is_compressed),
	    cmocka_unit_test(noise_does_not_hide_what_comes_after_it),
	    cmocka_unit_test(a_full_pack_takes_nothing_and_goes_on),
	    cmocka_unit_test(the_largest_pack_is_filled_to_the_last_leaf),
	    cmocka_unit_test(what_no_pack_can_be_is_refused),
	    cmocka_unit_test(no_two_objects_have_a_key_or_a_nonce_in_common),
	    cmocka_unit_test(packs_of_this_version_are_read_for_ever),
	    cmocka_unit_test(the_bytes_are_those_of_the_format),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
