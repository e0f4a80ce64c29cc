/*
 * fuzz_pack.c: libFuzzer target over what an object store may answer: headers, frames, whole packs.
 *
 * No input may make the reader read outside its bytes or write more than a leaf; what it takes for a frame has the lengths the
 * format allows; and of an encrypted pack nothing is ever shown that was not written into it.  Checksums and sums are set right
 * in most of the runs, and some begin with a good pack that the input changes, because no fuzzer would guess either.
 */
#include <assert.h>
#include <errno.h>

#include "tests/unit/packs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FRAMES_MAX 4u

static uint8_t *copy(const uint8_t *p, size_t n)
{
	uint8_t *exact = malloc(n ? n : 1);

	assert(exact);
	memcpy(exact, p, n);
	return exact;
}

static struct pack_key plain_key(void)
{
	struct pack_key k = {.object = PACKS_OBJECT};

	memcpy(k.volume, packs_volume, sizeof(k.volume));
	return k;
}

static void header_is_within_limits(const uint8_t *p)
{
	const struct pack_key k = plain_key();
	struct pack_header h;

	if (pack_read_header(p, &h) < 0)
		return;
	assert(h.object != 0 && h.n_frames >= 1 && h.bytes <= PACK_BYTES_MAX && h.first < h.bytes);
	if (pack_verify_header(&k, p, &h) == 0)
		assert(h.object == k.object && !h.encrypted);
}

static void fuzz_header(const uint8_t *data, size_t size, bool fix)
{
	uint8_t *p = calloc(1, PACK_HEADER_BYTES);
	le64 magic = le64_make(PACK_MAGIC);

	assert(p);
	memcpy(p, data, size < PACK_HEADER_BYTES ? size : PACK_HEADER_BYTES);
	if (fix) {
		memcpy(p, magic.b, sizeof(magic));
		packs_fix_header(p);
	}
	header_is_within_limits(p);
	free(p);
}

static void frame_is_within_limits(uint32_t offset, const uint8_t *p, size_t len)
{
	const struct pack_key k = plain_key();
	struct pack_frame f = {0};
	uint8_t *blocks = malloc(PACK_LEAF_BYTES);

	assert(blocks);
	int r = pack_read_frame(&k, offset, p, len, &f, blocks);
	assert(r == 0 || r == -ENODATA || r == -EBADMSG || r == -EUCLEAN);
	assert(f.len <= PACK_FRAME_MAX_BYTES);
	if (r == 0)
		assert(f.mask != 0 && f.ino != 0 && f.len <= len && f.len <= PACK_FRAME_HEADER_BYTES + mask_bytes(f.mask));
	free(blocks);
}

static void fuzz_frame(const uint8_t *data, size_t size)
{
	uint32_t offset = 0;

	if (size < sizeof(offset))
		return;
	memcpy(&offset, data, sizeof(offset));
	uint8_t *p = copy(data + sizeof(offset), size - sizeof(offset));
	frame_is_within_limits(offset, p, size - sizeof(offset));
	free(p);
}

/* u8 flags, u16 mask, then the data, for which header and sum are made: what zstd would be given. */
static void fuzz_frame_data(const uint8_t *data, size_t size)
{
	const struct pack_key k = plain_key();

	if (size < 3)
		return;
	struct pack_frame_header h = {
	    .magic = le32_make(PACK_FRAME_MAGIC),
	    .flags = le16_make(data[0] & 3),
	    .mask = le16_make((uint16_t)(data[1] | data[2] << 8)),
	    .ino = le64_make(1),
	    .stored = le32_make((uint32_t)size - 3),
	};
	uint8_t *p = malloc(sizeof(h) + size);
	assert(p);
	size_t len = packs_frame(&k, PACK_HEADER_BYTES, h, data + 3, p);
	uint8_t *exact = copy(p, len);
	frame_is_within_limits(PACK_HEADER_BYTES, exact, len);
	free(exact);
	free(p);
}

struct walked {
	uint64_t seed;
	bool encrypted;
	struct pack_place at[FRAMES_MAX];
	unsigned n;
};

static uint16_t frame_mask(uint64_t seed, unsigned i)
{
	return (uint16_t)(1u << (seed + i) % PACK_SLOTS);
}

static int check_walked(void *ctx, const struct pack_place *place, const struct pack_frame *f, int error, const uint8_t *blocks)
{
	const struct walked *w = ctx;
	uint8_t expected[PACK_BLOCK];

	assert(place->offset >= PACK_HEADER_BYTES && place->len == f->len && f->len <= PACK_FRAME_MAX_BYTES);
	assert(!error == !!blocks && (!error || error == -EBADMSG || error == -EUCLEAN));
	if (error || !w->encrypted)
		return 0;
	unsigned i = (unsigned)f->leaf;
	assert(i < w->n && w->at[i].offset == place->offset && w->at[i].len == place->len);
	assert(f->ino == 7 && f->mask == frame_mask(w->seed, i));
	fill_blocks(w->seed + i, (enum fill)((w->seed + i) % FILLS), expected, sizeof(expected));
	assert(memcmp(expected, blocks, sizeof(expected)) == 0);
	return 0;
}

/* u64 seed of a pack, u8: encrypted and whether the header's checksum is set right, then {u16 where, u8 what} changes of its
 * bytes. */
static void fuzz_changed_pack(const uint8_t *data, size_t size)
{
	struct walked x = {0};
	struct pack_writer *w;
	struct pack_key k;
	uint8_t sealed[PACK_SEALED_BYTES], one[PACK_BLOCK];
	const uint8_t *p;
	size_t len;

	if (size < 9)
		return;
	memcpy(&x.seed, data, 8);
	x.encrypted = data[8] & 1;
	x.n = 1 + data[8] / 4 % FRAMES_MAX;
	struct pack_config c = packs_config(x.encrypted);
	c.max_bytes = PACK_BYTES_MIN;
	int r = pack_writer_new(&c, &w);
	for (unsigned i = 0; i < x.n && r == 0; i++) {
		fill_blocks(x.seed + i, (enum fill)((x.seed + i) % FILLS), one, sizeof(one));
		r = pack_add(w, 7, i, frame_mask(x.seed, i), one, &x.at[i]);
	}
	assert(r == 0);
	r = pack_finish(w, &p, &len, sealed);
	assert(r == 0);
	r = pack_unseal(packs_volume, PACKS_OBJECT, &packs_key, sealed, &k);
	assert(r == 0);
	uint8_t *changed = copy(p, len);
	bool fix = data[8] & 2;
	for (data += 9, size -= 9; size >= 3; data += 3, size -= 3)
		changed[(data[0] | (size_t)data[1] << 8) % len] = data[2];
	if (fix)
		packs_fix_header(changed);
	(void)!pack_walk(&k, changed, len, check_walked, &x);
	free(changed);
	pack_writer_free(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (data[0] % 5) {
	case 0:
		fuzz_header(data + 1, size - 1, false);
		break;
	case 1:
		fuzz_header(data + 1, size - 1, true);
		break;
	case 2:
		fuzz_frame(data + 1, size - 1);
		break;
	case 3:
		fuzz_frame_data(data + 1, size - 1);
		break;
	case 4:
		fuzz_changed_pack(data + 1, size - 1);
		break;
	}
	return 0;
}
