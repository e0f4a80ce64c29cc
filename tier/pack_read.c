/*
 * pack_read.c: the reader of packs, see pack.h: frames one by one, from any offset, and all of an object.
 *
 * A frame goes through four gates, each of which believes only what the one before has proved: its header by itself (magic,
 * checksum, lengths that can be), enough bytes, the tag, and then the structure of what zstd is given, whose size is known before
 * it begins.  No length of the object's decides how much memory is taken: a frame has 64 KiB at most, compressed or not.
 *
 * Contexts of OpenSSL and zstd and room for one frame cost more to make than a small frame to read.  Each thread keeps a set,
 * which ends with it.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <zstd.h>

#include "base/crc32c.h"
#include "tier/pack_crypto.h"

#define BLOCK_BYTES 4096u

/* ---- what a thread keeps ---- */

struct bench {
	EVP_CIPHER_CTX *cipher;
	ZSTD_DCtx *zstd;
	uint8_t decrypted[PACK_LEAF_BYTES];
};

static pthread_key_t bench_key;
static pthread_once_t bench_once = PTHREAD_ONCE_INIT;
static int bench_error; /* set once: there is no key */

static void bench_free(void *ctx)
{
	struct bench *b = ctx;

	if (!b)
		return;
	EVP_CIPHER_CTX_free(b->cipher);
	ZSTD_freeDCtx(b->zstd);
	free(b);
}

static void bench_init(void)
{
	bench_error = -pthread_key_create(&bench_key, bench_free);
}

static int bench_make(struct bench **ret)
{
	struct bench *b = calloc(1, sizeof(*b));
	int r = b ? pack_cipher_new(NULL, &b->cipher) : -ENOMEM;

	if (r == 0) {
		b->zstd = ZSTD_createDCtx();
		r = b->zstd ? -pthread_setspecific(bench_key, b) : -ENOMEM;
	}
	if (r < 0) {
		bench_free(b);
		return r;
	}
	*ret = b;
	return 0;
}

/* Borrowed; the calling thread's. */
static int bench_get(struct bench **ret)
{
	pthread_once(&bench_once, bench_init);
	if (bench_error)
		return -ENOMEM;
	*ret = pthread_getspecific(bench_key);
	return *ret ? 0 : bench_make(ret);
}

/* ---- frames ---- */

static size_t raw_bytes(uint16_t mask)
{
	return (size_t)__builtin_popcount(mask) * BLOCK_BYTES;
}

/* By itself: what it says can be, and came as it was written. */
static int check_header(const struct pack_frame_header *h, struct pack_frame *ret)
{
	size_t stored = le32_get(h->stored), raw = raw_bytes(le16_get(h->mask));
	uint16_t flags = le16_get(h->flags);

	if (le32_get(h->magic) != PACK_FRAME_MAGIC)
		return -EUCLEAN;
	if (le32_get(h->crc) != crc32c(0, h, offsetof(struct pack_frame_header, crc)))
		return -EBADMSG;
	if ((flags & ~PACK_COMPRESSED) || raw == 0 || le64_get(h->ino) == 0)
		return -EUCLEAN;
	if (flags & PACK_COMPRESSED ? stored == 0 || stored >= raw : stored != raw)
		return -EUCLEAN;
	*ret = (struct pack_frame){
	    .ino = le64_get(h->ino),
	    .leaf = le64_get(h->leaf),
	    .mask = le16_get(h->mask),
	    .len = (uint32_t)(PACK_FRAME_HEADER_BYTES + stored),
	};
	assert(ret->len <= PACK_FRAME_MAX_BYTES);
	return 0;
}

/*
 * RFC 8878, 3.1.1.1: magic number, then a byte of flags: bits 7-6 size of the content's size, 5 a single segment (the window is
 * the content), 4 unused, 3 reserved, 2 a checksum, 1-0 a dictionary.
 */
static bool is_single_segment(const uint8_t *p, size_t n)
{
	le32 magic;

	if (n <= sizeof(magic))
		return false;
	memcpy(&magic, p, sizeof(magic));
	return le32_get(magic) == ZSTD_MAGICNUMBER && (p[4] & 0x3f) == 0x20;
}

/* To exactly `raw` bytes, from exactly `n`. */
static int decompress(struct bench *b, const uint8_t *p, size_t n, uint8_t *blocks, size_t raw)
{
	if (!is_single_segment(p, n) || ZSTD_getFrameContentSize(p, n) != raw || ZSTD_findFrameCompressedSize(p, n) != n)
		return -EUCLEAN;
	return ZSTD_decompressDCtx(b->zstd, blocks, raw, p, n) == raw ? 0 : -EUCLEAN;
}

/* The data of a frame whose header is good, verified, to `to` (its own size). */
static int read_sealed(struct bench *b, const struct pack_key *key, uint32_t offset, const struct pack_frame_header *h,
		       const uint8_t *data, uint8_t *to)
{
	const struct pack_frame_bound bound = pack_frame_bind(key, offset, h);
	const struct pack_seal s = pack_seal_at(key->bytes, offset, &bound, sizeof(bound));

	return pack_decrypt(b->cipher, &s, data, le32_get(h->stored), to, h->tag);
}

static int verify_plain(const struct pack_key *key, uint32_t offset, const struct pack_frame_header *h, const uint8_t *data)
{
	const struct pack_frame_bound bound = pack_frame_bind(key, offset, h);
	uint8_t tag[PACK_TAG_BYTES];

	pack_frame_sum(&bound, data, le32_get(h->stored), tag);
	return memcmp(tag, h->tag, sizeof(tag)) == 0 ? 0 : -EBADMSG;
}

static int read_data(const struct pack_key *key, uint32_t offset, const struct pack_frame_header *h, const uint8_t *data,
		     uint8_t *blocks)
{
	bool compressed = le16_get(h->flags) & PACK_COMPRESSED;
	size_t raw = raw_bytes(le16_get(h->mask)), stored = le32_get(h->stored);
	struct bench *b;
	int r = bench_get(&b);

	if (r < 0)
		return r;
	if (!key->encrypted)
		r = verify_plain(key, offset, h, data);
	else
		r = read_sealed(b, key, offset, h, data, compressed ? b->decrypted : blocks);
	if (r < 0)
		return r;
	if (compressed)
		return decompress(b, key->encrypted ? b->decrypted : data, stored, blocks, raw);
	if (!key->encrypted)
		memcpy(blocks, data, raw);
	return 0;
}

/* The header at the head of [p, p + len): -ENODATA, with f->len, when the frame does not end in there. */
static int look(uint32_t offset, const uint8_t *p, size_t len, struct pack_frame_header *ret_h, struct pack_frame *ret_f)
{
	if (offset < PACK_HEADER_BYTES || offset > PACK_BYTES_MAX - PACK_FRAME_HEADER_BYTES)
		return -EUCLEAN;
	if (len < PACK_FRAME_HEADER_BYTES) {
		*ret_f = (struct pack_frame){0};
		return -ENODATA;
	}
	memcpy(ret_h, p, sizeof(*ret_h));
	int r = check_header(ret_h, ret_f);
	if (r == 0 && ret_f->len > PACK_BYTES_MAX - offset)
		return -EUCLEAN;
	return r == 0 && ret_f->len > len ? -ENODATA : r;
}

int pack_look_frame(uint32_t offset, const uint8_t *p, size_t len, struct pack_frame *ret)
{
	struct pack_frame_header h;
	struct pack_frame f;
	int r = look(offset, p, len, &h, &f);

	if (r == 0 || r == -ENODATA)
		*ret = f;
	return r;
}

int pack_read_frame(const struct pack_key *key, uint32_t offset, const uint8_t *p, size_t len, struct pack_frame *ret,
		    uint8_t *blocks)
{
	struct pack_frame_header h;
	struct pack_frame f;
	int r = look(offset, p, len, &h, &f);

	if (r == -ENODATA)
		ret->len = f.len;
	if (r == 0)
		r = read_data(key, offset, &h, p + PACK_FRAME_HEADER_BYTES, blocks);
	if (r == 0)
		*ret = f;
	return r;
}

/* ---- the header ---- */

static bool all_zeros(const uint8_t *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

static bool header_can_be(const struct pack_object_header *h)
{
	uint16_t flags = le16_get(h->flags);
	bool encrypted = flags & PACK_ENCRYPTED;
	uint64_t n = le32_get(h->n_frames), bytes = le64_get(h->bytes);

	if ((flags & ~PACK_ENCRYPTED) || le64_get(h->object) == 0 || le32_get(h->first) != PACK_HEADER_BYTES)
		return false;
	if (n == 0 || bytes > PACK_BYTES_MAX || bytes < PACK_HEADER_BYTES + n * (PACK_FRAME_HEADER_BYTES + 1))
		return false;
	return all_zeros(h->zero, sizeof(h->zero)) && all_zeros(h->sealed, sizeof(h->sealed)) == !encrypted &&
	       (encrypted || all_zeros(h->tag, sizeof(h->tag)));
}

int pack_read_header(const uint8_t *p, struct pack_header *ret)
{
	struct pack_object_header h;

	memcpy(&h, p, sizeof(h));
	if (le64_get(h.magic) != PACK_MAGIC)
		return -EUCLEAN;
	if (le32_get(h.crc) != crc32c(0, &h, offsetof(struct pack_object_header, crc)))
		return -EBADMSG;
	if (le16_get(h.version) > PACK_FORMAT_VERSION)
		return -EOPNOTSUPP;
	if (le16_get(h.version) != PACK_FORMAT_VERSION || !header_can_be(&h))
		return -EUCLEAN;
	*ret = (struct pack_header){
	    .object = le64_get(h.object),
	    .time_ns = (int64_t)le64_get(h.time_ns),
	    .n_frames = le32_get(h.n_frames),
	    .first = le32_get(h.first),
	    .bytes = le64_get(h.bytes),
	    .encrypted = le16_get(h.flags) & PACK_ENCRYPTED,
	};
	memcpy(ret->volume, h.volume, sizeof(ret->volume));
	memcpy(ret->sealed, h.sealed, sizeof(ret->sealed));
	return 0;
}

int pack_verify_header(const struct pack_key *key, const uint8_t *p, struct pack_header *ret)
{
	const size_t bound = offsetof(struct pack_object_header, tag);
	const struct pack_seal s = pack_seal_at(key->bytes, 0, p, bound);
	struct pack_header h;
	struct bench *b;
	int r = pack_read_header(p, &h);

	if (r < 0)
		return r;
	if (h.object != key->object || memcmp(h.volume, key->volume, sizeof(h.volume)) != 0 || h.encrypted != key->encrypted)
		return -EBADMSG;
	if (key->encrypted) {
		r = bench_get(&b);
		if (r == 0)
			r = pack_decrypt(b->cipher, &s, NULL, 0, NULL, p + bound);
		if (r < 0)
			return r;
	}
	*ret = h;
	return 0;
}

/* ---- all of an object ---- */

/* One frame, whose header is good and which is there whole. */
static int show(const struct pack_key *key, const struct pack_place *at, const uint8_t *p, const struct pack_frame_header *h,
		const struct pack_frame *f, uint8_t *blocks, pack_walk_fn *fn, void *ctx)
{
	int r = read_data(key, at->offset, h, p + at->offset + PACK_FRAME_HEADER_BYTES, blocks);

	if (r < 0 && r != -EBADMSG && r != -EUCLEAN)
		return r;
	return fn(ctx, at, f, r, r == 0 ? blocks : NULL);
}

int pack_walk(const struct pack_key *key, const uint8_t *p, size_t len, pack_walk_fn *fn, void *ctx)
{
	struct pack_header header;
	struct pack_frame_header h;
	struct pack_frame f;
	uint32_t offset;

	if (len < PACK_HEADER_BYTES)
		return -ENODATA;
	int r = pack_verify_header(key, p, &header);
	if (r < 0)
		return r;
	if (len > header.bytes)
		return -EUCLEAN;
	CLEANUP_FREE uint8_t *blocks = malloc(PACK_LEAF_BYTES);
	if (!blocks)
		return -ENOMEM;
	offset = header.first;
	for (uint32_t n = 0; n < header.n_frames; n++, offset += f.len) {
		r = look(offset, p + offset, len - offset, &h, &f);
		if (r == -ENODATA && len == header.bytes)
			return -EUCLEAN; /* a frame that does not fit into what is all of the object */
		if (r == 0)
			r = show(key, &(struct pack_place){offset, f.len}, p, &h, &f, blocks, fn, ctx);
		if (r != 0)
			return r;
	}
	return offset == header.bytes ? 0 : -EUCLEAN;
}
