/*
 * packs.h: packs for the tests of pack.h: blocks of all kinds, writers whose keys are the same every time, frames made by hand.
 *
 * Threads: no state.  Errors: what cannot fail is asserted.
 */
#pragma once

#include <assert.h>
#include <string.h>

#include "base/crc32c.h"
#include "tests/lib/rng.h"
#include "tier/pack_crypto.h"

#define PACK_BLOCK 4096u

static const uint8_t packs_volume[16] = {0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7,
					 0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf};
static const struct pack_volume_key packs_key = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}};
#define PACKS_OBJECT  UINT64_C(0x1122334455667788)
#define PACKS_TIME_NS INT64_C(1700000000123456789)

/* In place of OpenSSL's: as random as 7, 8, 9. */
static inline int packs_random(void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = (uint8_t)(i + 7);
	return 0;
}

static inline struct pack_config packs_config(bool encrypted)
{
	struct pack_config c = {.object = PACKS_OBJECT,
				.time_ns = PACKS_TIME_NS,
				.max_bytes = PACK_BYTES_MAX,
				.key = encrypted ? &packs_key : NULL,
				.random = packs_random};

	memcpy(c.volume, packs_volume, sizeof(c.volume));
	return c;
}

static inline size_t mask_bytes(uint16_t mask)
{
	return (size_t)__builtin_popcount(mask) * PACK_BLOCK;
}

/* No sample that is taken at even distances sees anything twice. */
#define FILL_PERIOD 2600u

enum fill { FILL_ZEROS, FILL_TEXT, FILL_NOISE, FILL_REPEATED_NOISE, FILLS };

/* Contents that a seed tells. */
static inline void fill_blocks(uint64_t seed, enum fill kind, uint8_t *p, size_t n)
{
	struct rng g = {.state = seed};

	for (size_t i = 0; i < n; i += 8) {
		uint64_t v = kind == FILL_NOISE || kind == FILL_REPEATED_NOISE ? rng_u64(&g) : 0;

		if (kind == FILL_TEXT)
			v = UINT64_C(0x2020616161616161) + rng_below(&g, 26 * 26);
		memcpy(p + i, &v, 8);
		if (kind == FILL_REPEATED_NOISE && i >= FILL_PERIOD)
			memcpy(p + i, p + i - FILL_PERIOD, 8);
	}
}

/* A frame made by hand: header, checksum, and, where the key is that of no encryption, the sum.  Returns its length. */
static inline size_t packs_frame(const struct pack_key *k, uint32_t offset, struct pack_frame_header h, const uint8_t *data,
				 uint8_t *to)
{
	size_t n = le32_get(h.stored);

	assert(!k->encrypted);
	h.crc = le32_make(crc32c(0, &h, offsetof(struct pack_frame_header, crc)));
	const struct pack_frame_bound b = pack_frame_bind(k, offset, &h);
	pack_frame_sum(&b, data, n, h.tag);
	memcpy(to, &h, sizeof(h));
	memcpy(to + sizeof(h), data, n);
	return sizeof(h) + n;
}

static inline void packs_fix_frame(uint8_t *frame)
{
	le32 crc = le32_make(crc32c(0, frame, offsetof(struct pack_frame_header, crc)));

	memcpy(frame + offsetof(struct pack_frame_header, crc), crc.b, sizeof(crc));
}

static inline void packs_fix_header(uint8_t *p)
{
	le32 crc = le32_make(crc32c(0, p, offsetof(struct pack_object_header, crc)));

	memcpy(p + offsetof(struct pack_object_header, crc), crc.b, sizeof(crc));
}

static inline struct pack_writer *writer(bool encrypted)
{
	const struct pack_config c = packs_config(encrypted);
	struct pack_writer *w = NULL;
	int r = pack_writer_new(&c, &w);

	assert(r == 0);
	(void)r;
	return w;
}

struct finished {
	const uint8_t *p; /* the writer's */
	size_t len;
	uint8_t sealed[PACK_SEALED_BYTES];
	struct pack_key key;
};

static inline struct finished finish(struct pack_writer *w)
{
	struct finished f;
	int r = pack_finish(w, &f.p, &f.len, f.sealed);

	assert(r == 0);
	r = pack_unseal(packs_volume, PACKS_OBJECT, &packs_key, f.sealed, &f.key);
	assert(r == 0);
	(void)r;
	return f;
}
