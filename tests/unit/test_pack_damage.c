/*
 * test_pack_damage.c: pack.h over bytes that are not what a writer wrote: every bit turned, every length cut, frames moved, other
 * keys, and headers of objects that cannot be.
 *
 * Bytes that are read lie in memory of exactly their length, so that the sanitizers see a read beyond them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>

#include "tests/unit/packs.h"

/* ---- a small pack: three leaves, the second one not compressed, first and third of the same length ---- */

#define FRAMES 3
struct small {
	uint8_t *p;
	size_t len;
	struct pack_place at[FRAMES];
	uint8_t sealed[PACK_SEALED_BYTES];
	struct pack_key key;
};

static uint8_t blocks[PACK_LEAF_BYTES];

static void small_blocks(unsigned i, uint8_t *p)
{
	if (i == 1)
		fill_blocks(1, FILL_NOISE, p, PACK_BLOCK);
	else
		memset(p, (int)i + 'a', 2 * PACK_BLOCK);
}

static void small_make(struct small *s, bool encrypted)
{
	struct pack_writer *w = writer(encrypted);

	for (unsigned i = 0; i < FRAMES; i++) {
		small_blocks(i, blocks);
		assert_int_equal(pack_add(w, 10 + i, 20 + i, i == 1 ? 0x10 : 0x6, blocks, &s->at[i]), 0);
	}
	assert_int_equal(s->at[0].len, s->at[2].len);
	struct finished f = finish(w);
	s->len = f.len;
	s->key = f.key;
	memcpy(s->sealed, f.sealed, sizeof(s->sealed));
	s->p = malloc(f.len);
	assert_non_null(s->p);
	memcpy(s->p, f.p, f.len);
	pack_writer_free(w);
}

/* What a walk shows: each frame as it was written, or as damaged. */
struct seen {
	const struct small *of;
	unsigned good, bad; /* masks of frames */
	unsigned n;
};

static int see(void *ctx, const struct pack_place *place, const struct pack_frame *f, int error, const uint8_t *data)
{
	struct seen *s = ctx;
	unsigned i = s->n++;

	assert_in_range(i, 0, FRAMES - 1);
	assert_memory_equal(place, &s->of->at[i], sizeof(*place));
	assert_int_equal(f->len, place->len);
	if (error) {
		assert_true(error == -EBADMSG || error == -EUCLEAN);
		assert_null(data);
		s->bad |= 1u << i;
		return 0;
	}
	small_blocks(i, blocks);
	assert_true(f->ino == 10 + i && f->leaf == 20 + i && f->mask == (i == 1 ? 0x10 : 0x6));
	assert_memory_equal(data, blocks, mask_bytes(f->mask));
	s->good |= 1u << i;
	return 0;
}

static int walk(const struct small *s, size_t len, struct seen *ret)
{
	*ret = (struct seen){.of = s};
	return pack_walk(&s->key, s->p, len, see, ret);
}

static int read_frame(const struct small *s, const struct pack_key *k, unsigned i, struct pack_frame *ret)
{
	return pack_read_frame(k, s->at[i].offset, s->p + s->at[i].offset, s->at[i].len, ret, blocks);
}

static unsigned frame_of(const struct small *s, size_t byte)
{
	unsigned i = 0;

	while (byte >= s->at[i].offset + s->at[i].len)
		i++;
	return i;
}

/* ---- bits ---- */

/* The frame with the bit, and those behind it when the bit is in its header, are not shown as good; all others are. */
static void a_bit_of_a_frame_is_noticed(const struct small *s, size_t byte)
{
	unsigned i = frame_of(s, byte), before = (1u << i) - 1, after = (1u << FRAMES) - 1 - before - (1u << i);
	struct pack_frame f = {.ino = 99};
	struct seen seen;
	int r = walk(s, s->len, &seen), one = read_frame(s, &s->key, i, &f);

	assert_true(one == -EBADMSG || one == -EUCLEAN);
	assert_int_equal(f.ino, 99);
	if (byte - s->at[i].offset < offsetof(struct pack_frame_header, tag)) {
		assert_int_equal(r, one);
		assert_true(seen.good == before && seen.bad == 0);
	} else {
		assert_int_equal(r, 0);
		assert_true(seen.good == (before | after) && seen.bad == 1u << i);
	}
}

static void every_bit_of_a_pack_is_noticed(void **state)
{
	(void)state;
	for (int encrypted = 0; encrypted < 2; encrypted++) {
		struct small s;
		struct pack_header h = {.object = 99};
		struct seen seen;

		small_make(&s, encrypted);
		assert_int_equal(walk(&s, s.len, &seen), 0);
		assert_int_equal(seen.good, 7);
		for (size_t bit = 0; bit < 8 * s.len; bit++) {
			s.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
			if (bit / 8 < PACK_HEADER_BYTES) {
				int r = pack_read_header(s.p, &h);

				assert_int_equal(r, bit / 8 < 8 ? -EUCLEAN : -EBADMSG);
				assert_int_equal(pack_verify_header(&s.key, s.p, &h), r);
				assert_int_equal(walk(&s, s.len, &seen), r);
				assert_true(seen.n == 0 && h.object == 99);
			} else {
				a_bit_of_a_frame_is_noticed(&s, bit / 8);
			}
			s.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		free(s.p);
	}
}

/* Whoever turns a bit can set the checksum right. */
static void every_bit_is_noticed_whose_checksum_was_set_right(void **state)
{
	struct small s;
	struct pack_header h;
	struct pack_frame f;

	(void)state;
	small_make(&s, true);
	for (size_t bit = 0; bit < 8 * offsetof(struct pack_object_header, crc); bit++) {
		s.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
		packs_fix_header(s.p);
		int r = pack_verify_header(&s.key, s.p, &h);
		assert_true(r == -EBADMSG || r == -EUCLEAN || (r == -EOPNOTSUPP && bit / 8 >= 8 && bit / 8 < 10));
		s.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	packs_fix_header(s.p);
	assert_int_equal(pack_verify_header(&s.key, s.p, &h), 0);
	free(s.p);
	for (int encrypted = 0; encrypted < 2; encrypted++) {
		small_make(&s, encrypted);
		for (unsigned i = 0; i < FRAMES; i++) {
			uint8_t *p = s.p + s.at[i].offset;

			for (size_t bit = 0; bit < 8 * offsetof(struct pack_frame_header, crc); bit++) {
				p[bit / 8] ^= (uint8_t)(1 << bit % 8);
				packs_fix_frame(p);
				int r = read_frame(&s, &s.key, i, &f);
				assert_true(r == -EBADMSG || r == -EUCLEAN || r == -ENODATA);
				p[bit / 8] ^= (uint8_t)(1 << bit % 8);
			}
			packs_fix_frame(p);
			assert_int_equal(read_frame(&s, &s.key, i, &f), 0);
		}
		free(s.p);
	}
}

/* ---- keys ---- */

static void every_bit_of_a_sealed_key_is_noticed(void **state)
{
	struct small s;
	struct pack_key k = {.object = 99};

	(void)state;
	small_make(&s, true);
	for (size_t bit = 0; bit < 8 * sizeof(s.sealed); bit++) {
		s.sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(pack_unseal(packs_volume, PACKS_OBJECT, &packs_key, s.sealed, &k), -EBADMSG);
		s.sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(k.object, 99);
	free(s.p);
}

static void a_key_opens_for_its_volume_and_object_only(void **state)
{
	struct small s;
	struct pack_key k = {.object = 99};
	uint8_t volume[16];

	(void)state;
	small_make(&s, true);
	for (size_t bit = 0; bit < 8 * sizeof(volume); bit++) {
		memcpy(volume, packs_volume, sizeof(volume));
		volume[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(pack_unseal(volume, PACKS_OBJECT, &packs_key, s.sealed, &k), -EBADMSG);
	}
	for (unsigned bit = 0; bit < 64; bit++)
		assert_int_equal(pack_unseal(packs_volume, PACKS_OBJECT ^ UINT64_C(1) << bit, &packs_key, s.sealed, &k),
				 -EBADMSG);
	for (size_t bit = 0; bit < 8 * sizeof(packs_key); bit++) {
		struct pack_volume_key other = packs_key;

		other.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(pack_unseal(packs_volume, PACKS_OBJECT, &other, s.sealed, &k), -EBADMSG);
	}
	assert_int_equal(pack_unseal(packs_volume, PACKS_OBJECT, NULL, s.sealed, &k), -EBADMSG);
	assert_int_equal(k.object, 99);
	free(s.p);
}

static void a_pack_that_is_not_encrypted_needs_no_key(void **state)
{
	const uint8_t zeros[PACK_SEALED_BYTES] = {0};
	struct small s;
	struct pack_key k;

	(void)state;
	small_make(&s, false);
	assert_memory_equal(s.sealed, zeros, sizeof(zeros));
	for (int with_key = 0; with_key < 2; with_key++) {
		assert_int_equal(pack_unseal(packs_volume, PACKS_OBJECT, with_key ? &packs_key : NULL, zeros, &k), 0);
		assert_true(!k.encrypted && k.object == PACKS_OBJECT);
	}
	free(s.p);
}

/* The volume says whether an object is encrypted; the object has no say in it. */
static void an_object_cannot_say_that_it_is_not_encrypted(void **state)
{
	struct small s[2];
	struct seen seen;
	struct pack_header h;
	struct pack_frame f;

	(void)state;
	small_make(&s[0], false);
	small_make(&s[1], true);
	for (unsigned i = 0; i < 2; i++) {
		struct small mixed = s[i];

		mixed.key = s[!i].key;
		assert_int_equal(pack_verify_header(&mixed.key, mixed.p, &h), -EBADMSG);
		assert_int_equal(walk(&mixed, mixed.len, &seen), -EBADMSG);
		for (unsigned k = 0; k < FRAMES; k++)
			assert_int_equal(read_frame(&mixed, &mixed.key, k, &f), -EBADMSG);
	}
	free(s[0].p);
	free(s[1].p);
}

/* ---- lengths ---- */

static void every_length_that_is_too_short_is_told(void **state)
{
	(void)state;
	for (int encrypted = 0; encrypted < 2; encrypted++) {
		struct small s;
		struct seen seen;

		small_make(&s, encrypted);
		for (size_t len = 0; len < s.len; len++) {
			struct small cut = s;
			unsigned whole = len < PACK_HEADER_BYTES ? 0 : (1u << frame_of(&s, len)) - 1;

			cut.p = malloc(len ? len : 1);
			assert_non_null(cut.p);
			memcpy(cut.p, s.p, len);
			assert_int_equal(walk(&cut, len, &seen), -ENODATA);
			assert_true(seen.good == whole && seen.bad == 0);
			free(cut.p);
		}
		for (unsigned i = 0; i < FRAMES; i++)
			for (size_t len = 0; len < s.at[i].len; len++) {
				struct pack_frame f = {.len = 99}, look = {.len = 99};
				uint8_t *p = malloc(len ? len : 1);

				assert_non_null(p);
				memcpy(p, s.p + s.at[i].offset, len);
				assert_int_equal(pack_read_frame(&s.key, s.at[i].offset, p, len, &f, blocks), -ENODATA);
				assert_int_equal(f.len, len < PACK_FRAME_HEADER_BYTES ? 0 : s.at[i].len);
				assert_int_equal(pack_look_frame(s.at[i].offset, p, len, &look), -ENODATA);
				assert_int_equal(look.len, f.len);
				free(p);
			}
		for (unsigned i = 0; i < FRAMES; i++) {
			struct pack_frame look = {0}, f = {0};

			assert_int_equal(pack_look_frame(s.at[i].offset, s.p + s.at[i].offset, s.at[i].len, &look), 0);
			assert_int_equal(read_frame(&s, &s.key, i, &f), 0);
			assert_true(look.mask == f.mask && look.len == f.len && look.ino == f.ino && look.leaf == f.leaf);
			s.p[s.at[i].offset + 1] ^= 1;
			assert_int_equal(pack_look_frame(s.at[i].offset, s.p + s.at[i].offset, s.at[i].len, &look), -EUCLEAN);
			s.p[s.at[i].offset + 1] ^= 1;
		}
		free(s.p);
	}
}

static void an_object_that_is_too_long_is_refused(void **state)
{
	struct small s;
	struct seen seen;

	(void)state;
	small_make(&s, true);
	s.p = realloc(s.p, s.len + 1);
	assert_non_null(s.p);
	s.p[s.len] = 0;
	assert_int_equal(walk(&s, s.len + 1, &seen), -EUCLEAN);
	assert_int_equal(seen.n, 0);
	free(s.p);
}

/* ---- frames in other places ---- */

static void frames_and_headers_are_refused_as_any_others(void **state)
{
	static const uint64_t others[] = {1, 2, 0x100, UINT64_C(1) << 32, UINT64_C(1) << 63};
	struct pack_header header_of;

	(void)state;
	for (int encrypted = 0; encrypted < 2; encrypted++) {
		struct small s;
		struct pack_frame f;

		small_make(&s, encrypted);
		uint8_t *p = s.p + s.at[0].offset;
		for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
			struct pack_key k = s.key;
			struct pack_frame_header h, good;

			k.object ^= others[i];
			assert_int_equal(read_frame(&s, &k, 0, &f), -EBADMSG);
			assert_int_equal(pack_verify_header(&k, s.p, &header_of), -EBADMSG);
			memcpy(&good, p, sizeof(good));
			h = good;
			h.ino = le64_make(le64_get(h.ino) ^ others[i]);
			memcpy(p, &h, sizeof(h));
			packs_fix_frame(p);
			assert_int_equal(read_frame(&s, &s.key, 0, &f), -EBADMSG);
			h = good;
			h.leaf = le64_make(le64_get(h.leaf) ^ others[i]);
			memcpy(p, &h, sizeof(h));
			packs_fix_frame(p);
			assert_int_equal(read_frame(&s, &s.key, 0, &f), -EBADMSG);
			memcpy(p, &good, sizeof(good));
		}
		for (unsigned i = 0; i < 16; i++) {
			struct pack_key k = s.key;

			k.volume[i] ^= 1;
			assert_int_equal(read_frame(&s, &k, 0, &f), -EBADMSG);
			assert_int_equal(pack_verify_header(&k, s.p, &header_of), -EBADMSG);
		}
		assert_int_equal(read_frame(&s, &s.key, 0, &f), 0);
		free(s.p);
	}
}

static void a_frame_is_refused_at_any_other_offset(void **state)
{
	(void)state;
	for (int encrypted = 0; encrypted < 2; encrypted++) {
		struct small s;
		struct pack_frame f;
		struct seen seen;

		small_make(&s, encrypted);
		const uint8_t *p = s.p + s.at[0].offset;
		for (uint32_t offset = 0; offset < 3 * PACK_HEADER_BYTES; offset++) {
			int r = pack_read_frame(&s.key, offset, p, s.at[0].len, &f, blocks);

			assert_int_equal(r, offset == s.at[0].offset ? 0 : offset < PACK_HEADER_BYTES ? -EUCLEAN : -EBADMSG);
		}
		for (unsigned bit = 13; bit < 32; bit++) {
			int r = pack_read_frame(&s.key, 1u << bit, p, s.at[0].len, &f, blocks);

			assert_int_equal(r, 1u << bit < PACK_BYTES_MAX ? -EBADMSG : -EUCLEAN);
		}
		assert_int_equal(pack_read_frame(&s.key, PACK_BYTES_MAX - s.at[0].len, p, s.at[0].len, &f, blocks), -EBADMSG);
		assert_int_equal(pack_read_frame(&s.key, PACK_BYTES_MAX - s.at[0].len + 1, p, s.at[0].len, &f, blocks), -EUCLEAN);
		/* First and third in each other's place. */
		uint8_t first[256];
		assert_in_range(s.at[0].len, 1, sizeof(first));
		memcpy(first, p, s.at[0].len);
		memcpy(s.p + s.at[0].offset, s.p + s.at[2].offset, s.at[0].len);
		memcpy(s.p + s.at[2].offset, first, s.at[0].len);
		assert_int_equal(walk(&s, s.len, &seen), 0);
		assert_true(seen.good == 2 && seen.bad == 5);
		free(s.p);
	}
}

/* ---- headers that cannot be ---- */

#define SET(field, value)                                                                                                        \
	do {                                                                                                                     \
		struct pack_object_header h_;                                                                                    \
		memcpy(&h_, good.p, sizeof(h_));                                                                                 \
		h_.field = (value);                                                                                              \
		memcpy(s.p, &h_, sizeof(h_));                                                                                    \
		packs_fix_header(s.p);                                                                                           \
	} while (0)
#define REFUSED(error, field, value)                                                                                             \
	do {                                                                                                                     \
		SET(field, value);                                                                                               \
		assert_int_equal(pack_read_header(s.p, &h), error);                                                              \
		assert_int_equal(walk(&s, s.len, &seen), error);                                                                 \
		assert_int_equal(seen.n, 0);                                                                                     \
	} while (0)

static void headers_of_objects_that_cannot_be_are_refused(void **state)
{
	struct small s, good;
	struct pack_header h;
	struct seen seen;

	(void)state;
	small_make(&s, false);
	small_make(&good, false);
	REFUSED(-EOPNOTSUPP, version, le16_make(2));
	REFUSED(-EOPNOTSUPP, version, le16_make(UINT16_MAX));
	REFUSED(-EUCLEAN, version, le16_make(0));
	for (unsigned bit = 0; bit < 16; bit++)
		REFUSED(-EUCLEAN, flags, le16_make((uint16_t)(1u << bit)));
	REFUSED(-EUCLEAN, object, le64_make(0));
	REFUSED(-EUCLEAN, first, le32_make(0));
	REFUSED(-EUCLEAN, first, le32_make(PACK_HEADER_BYTES - 1));
	REFUSED(-EUCLEAN, first, le32_make(UINT32_MAX));
	REFUSED(-EUCLEAN, n_frames, le32_make(0));
	REFUSED(-EUCLEAN, n_frames, le32_make(UINT32_MAX));
	REFUSED(-EUCLEAN, bytes, le64_make(0));
	REFUSED(-EUCLEAN, bytes, le64_make(PACK_HEADER_BYTES + 3 * (PACK_FRAME_HEADER_BYTES + 1) - 1));
	REFUSED(-EUCLEAN, bytes, le64_make(PACK_BYTES_MAX + 1));
	REFUSED(-EUCLEAN, bytes, le64_make(UINT64_MAX));
	for (size_t i = 0; i < PACK_SEALED_BYTES; i++)
		REFUSED(-EUCLEAN, sealed[i], 1);
	for (size_t i = 0; i < PACK_TAG_BYTES; i++)
		REFUSED(-EUCLEAN, tag[i], 1);
	for (size_t i = 0; i < sizeof(((struct pack_object_header *)NULL)->zero); i++)
		REFUSED(-EUCLEAN, zero[i], 1);
	SET(time_ns, le64_make(UINT64_MAX));
	assert_int_equal(pack_read_header(s.p, &h), 0);
	assert_int_equal(h.time_ns, -1);
	free(s.p);
	free(good.p);
}

/* Counts and sizes that are possible by themselves and not with these frames. */
static void a_walk_believes_no_count(void **state)
{
	struct small s, good;
	struct seen seen;

	(void)state;
	small_make(&s, false);
	small_make(&good, false);
	SET(n_frames, le32_make(2));
	assert_int_equal(walk(&s, s.len, &seen), -EUCLEAN);
	assert_int_equal(seen.good, 3);
	SET(n_frames, le32_make(4));
	assert_int_equal(walk(&s, s.len, &seen), -EUCLEAN);
	assert_int_equal(seen.good, 7);
	SET(bytes, le64_make(s.len - 1));
	assert_int_equal(walk(&s, s.len, &seen), -EUCLEAN);
	assert_int_equal(seen.n, 0);
	assert_int_equal(walk(&s, s.len - 1, &seen), -EUCLEAN);
	assert_int_equal(seen.good, 3);
	SET(bytes, le64_make(s.len + 1));
	assert_int_equal(walk(&s, s.len, &seen), -EUCLEAN);
	assert_int_equal(seen.good, 7);
	free(s.p);
	free(good.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_bit_of_a_pack_is_noticed),
	    cmocka_unit_test(every_bit_is_noticed_whose_checksum_was_set_right),
	    cmocka_unit_test(every_bit_of_a_sealed_key_is_noticed),
	    cmocka_unit_test(a_key_opens_for_its_volume_and_object_only),
	    cmocka_unit_test(a_pack_that_is_not_encrypted_needs_no_key),
	    cmocka_unit_test(an_object_cannot_say_that_it_is_not_encrypted),
	    cmocka_unit_test(every_length_that_is_too_short_is_told),
	    cmocka_unit_test(an_object_that_is_too_long_is_refused),
	    cmocka_unit_test(frames_and_headers_are_refused_as_any_others),
	    cmocka_unit_test(a_frame_is_refused_at_any_other_offset),
	    cmocka_unit_test(headers_of_objects_that_cannot_be_are_refused),
	    cmocka_unit_test(a_walk_believes_no_count),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
