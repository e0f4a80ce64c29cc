/*
 * pack.c: the writer of packs, see pack.h: choose, compress, encrypt, append; the header last.
 *
 * A leaf is compressed by zstd at level 1 and kept so where that saves at least an eighth.  Trying costs more than everything
 * else, so data that looks like noise is tried less and less often: a sample of its bytes is counted, and where no byte value is
 * much more frequent than another, only repetitions could be found.  Of such leaves every second, fourth, ... sixteenth is tried
 * for as long as it does not pay.
 *
 * Nothing is encrypted before it is known to fit, and what was encrypted under an offset is never taken back: an offset is a
 * nonce, and of two texts under one nonce both can be read.
 */
#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <string.h>
#include <zstd.h>

#include "base/crc32c.h"
#include "tier/pack_crypto.h"

#define BLOCK_BYTES      4096u
#define LEVEL            1
#define SAVES_AT_LEAST   8u /* an eighth */
#define COMPRESSED_MAX   (PACK_LEAF_BYTES - PACK_LEAF_BYTES / SAVES_AT_LEAST)
#define FIRST_CAPACITY   MIB
#define SKIP_MAX         15u /* leaves that look like noise between two tries */
#define SAMPLE_RUNS      16u /* evenly over the leaf */
#define SAMPLE_RUN_BYTES 64u

struct pack_writer {
	struct pack_key key;
	uint8_t sealed[PACK_SEALED_BYTES];
	int64_t time_ns;
	size_t max, len, cap; /* bytes: at most, so far, of p */
	uint8_t *p;           /* owned */
	uint32_t n_frames;
	bool finished;
	EVP_CIPHER_CTX *cipher; /* with the object's key; NULL: not encrypted */
	ZSTD_CCtx *zstd;
	unsigned skip, skipped; /* noise: leaves to let pass between tries, and that passed since the last */
	uint8_t compressed[COMPRESSED_MAX];
};

/* ---- making ---- */

static int make_key(struct pack_writer *w, const struct pack_config *c)
{
	int (*random)(void *p, size_t n) = c->random ? c->random : pack_random;
	uint8_t nonce[PACK_NONCE_BYTES];
	int r = random(w->key.bytes, PACK_KEY_BYTES);

	if (r == 0)
		r = random(nonce, sizeof(nonce));
	if (r == 0)
		r = pack_seal_key(&w->key, c->key, nonce, w->sealed);
	return r == 0 ? pack_cipher_new(w->key.bytes, &w->cipher) : r;
}

static int make_zstd(struct pack_writer *w)
{
	w->zstd = ZSTD_createCCtx();
	if (!w->zstd)
		return -ENOMEM;
	return ZSTD_isError(ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_compressionLevel, LEVEL)) ? -EIO : 0;
}

static int make(struct pack_writer *w, const struct pack_config *c)
{
	memcpy(w->key.volume, c->volume, sizeof(w->key.volume));
	w->key.object = c->object;
	w->key.encrypted = c->key;
	w->time_ns = c->time_ns;
	w->max = c->max_bytes;
	w->len = PACK_HEADER_BYTES;
	w->cap = min_u64(FIRST_CAPACITY, w->max);
	w->p = calloc(1, w->cap);
	if (!w->p)
		return -ENOMEM;
	int r = make_zstd(w);
	return r == 0 && c->key ? make_key(w, c) : r;
}

int pack_writer_new(const struct pack_config *c, struct pack_writer **ret)
{
	if (c->object == 0 || c->max_bytes < PACK_BYTES_MIN || c->max_bytes > PACK_BYTES_MAX)
		return -EINVAL;
	struct pack_writer *w = calloc(1, sizeof(*w));
	int r = w ? make(w, c) : -ENOMEM;
	if (r < 0) {
		pack_writer_free(w);
		return r;
	}
	*ret = w;
	return 0;
}

struct pack_writer *pack_writer_free(struct pack_writer *w)
{
	if (!w)
		return NULL;
	EVP_CIPHER_CTX_free(w->cipher);
	ZSTD_freeCCtx(w->zstd);
	free(w->p);
	OPENSSL_cleanse(&w->key, sizeof(w->key));
	free(w);
	return NULL;
}

/* ---- compressing ---- */

/*
 * Whether a sample of the bytes is as evenly spread as noise.  The sum of squared counts grows with the chance that two bytes are
 * the same; of n bytes of noise it is n + n * (n - 1) / 256 and varies by n / 11: a quarter more stands for 0.3 bits a byte.
 */
static bool looks_like_noise(const uint8_t *p, size_t len)
{
	uint16_t count[256] = {0};
	uint32_t n = SAMPLE_RUNS * SAMPLE_RUN_BYTES, sum = 0;
	size_t step = len / SAMPLE_RUNS;

	assert(step >= SAMPLE_RUN_BYTES);
	for (size_t run = 0; run < SAMPLE_RUNS; run++)
		for (size_t i = 0; i < SAMPLE_RUN_BYTES; i++)
			count[p[run * step + i]]++;
	for (size_t i = 0; i < ARRAY_SIZE(count); i++)
		sum += (uint32_t)count[i] * count[i];
	return sum < (n + n * n / 256) * 5 / 4;
}

/*
 * Bytes in w->compressed, 0: not worth it.  zstd's errors count as that: it says so when the room does not do, and without
 * memory the leaf is stored as it is.
 */
static size_t compress(struct pack_writer *w, const uint8_t *p, size_t len)
{
	bool noise = looks_like_noise(p, len);

	if (noise && w->skipped < w->skip) {
		w->skipped++;
		return 0;
	}
	size_t n = ZSTD_compress2(w->zstd, w->compressed, len - len / SAVES_AT_LEAST, p, len);
	if (ZSTD_isError(n))
		n = 0;
	if (noise) {
		w->skipped = 0;
		w->skip = n ? 0 : min_u64(2 * w->skip + 1, SKIP_MAX);
	}
	return n;
}

/* ---- adding ---- */

static int reserve(struct pack_writer *w, size_t n)
{
	size_t cap = w->cap;

	if (n > w->max - w->len)
		return -E2BIG;
	while (cap < w->len + n)
		cap = min_u64(2 * cap, w->max);
	if (cap > w->cap) {
		uint8_t *p = realloc(w->p, cap);

		if (!p)
			return -ENOMEM;
		w->p = p;
		w->cap = cap;
	}
	return 0;
}

/* Data and tag of a frame, its header up to there already in place. */
static int put_data(struct pack_writer *w, struct pack_frame_header *h, const uint8_t *p, size_t n)
{
	const struct pack_frame_bound b = pack_frame_bind(&w->key, (uint32_t)w->len, h);
	const struct pack_seal s = pack_seal_at(NULL, (uint32_t)w->len, &b, sizeof(b));
	uint8_t *to = w->p + w->len + PACK_FRAME_HEADER_BYTES;

	if (w->cipher)
		return pack_encrypt(w->cipher, &s, p, n, to, h->tag);
	memcpy(to, p, n);
	pack_frame_sum(&b, p, n, h->tag);
	return 0;
}

int pack_add(struct pack_writer *w, uint64_t ino, uint64_t leaf, uint16_t mask, const uint8_t *blocks, struct pack_place *ret)
{
	size_t raw = (size_t)__builtin_popcount(mask) * BLOCK_BYTES;

	assert(!w->finished && ino != 0 && mask != 0);
	size_t compressed = compress(w, blocks, raw), n = compressed ? compressed : raw;
	int r = reserve(w, PACK_FRAME_HEADER_BYTES + n);
	if (r < 0)
		return r;
	struct pack_frame_header *h = (struct pack_frame_header *)(w->p + w->len);
	*h = (struct pack_frame_header){
	    .magic = le32_make(PACK_FRAME_MAGIC),
	    .flags = le16_make(compressed ? PACK_COMPRESSED : 0),
	    .mask = le16_make(mask),
	    .ino = le64_make(ino),
	    .leaf = le64_make(leaf),
	    .stored = le32_make((uint32_t)n),
	};
	h->crc = le32_make(crc32c(0, h, offsetof(struct pack_frame_header, crc)));
	r = put_data(w, h, compressed ? w->compressed : blocks, n);
	if (r < 0)
		return r;
	*ret = (struct pack_place){(uint32_t)w->len, (uint32_t)(PACK_FRAME_HEADER_BYTES + n)};
	w->len += ret->len;
	w->n_frames++;
	assert(w->len <= w->cap && w->cap <= w->max);
	return 0;
}

/* ---- finishing ---- */

static int put_header(struct pack_writer *w)
{
	struct pack_object_header *h = (struct pack_object_header *)w->p;
	const struct pack_seal s = pack_seal_at(NULL, 0, h, offsetof(struct pack_object_header, tag));

	*h = (struct pack_object_header){
	    .magic = le64_make(PACK_MAGIC),
	    .version = le16_make(PACK_FORMAT_VERSION),
	    .flags = le16_make(w->cipher ? PACK_ENCRYPTED : 0),
	    .n_frames = le32_make(w->n_frames),
	    .object = le64_make(w->key.object),
	    .time_ns = le64_make((uint64_t)w->time_ns),
	    .bytes = le64_make(w->len),
	    .first = le32_make(PACK_HEADER_BYTES),
	};
	memcpy(h->volume, w->key.volume, sizeof(h->volume));
	memcpy(h->sealed, w->sealed, sizeof(h->sealed));
	if (w->cipher) {
		int r = pack_encrypt(w->cipher, &s, NULL, 0, NULL, h->tag);

		if (r < 0)
			return r;
	}
	h->crc = le32_make(crc32c(0, h, offsetof(struct pack_object_header, crc)));
	return 0;
}

int pack_finish(struct pack_writer *w, const uint8_t **ret_p, size_t *ret_len, uint8_t ret_sealed[PACK_SEALED_BYTES])
{
	if (w->n_frames == 0)
		return -ENODATA;
	if (!w->finished) {
		int r = put_header(w);

		if (r < 0)
			return r;
		w->finished = true;
	}
	*ret_p = w->p;
	*ret_len = w->len;
	memcpy(ret_sealed, w->sealed, PACK_SEALED_BYTES);
	return 0;
}
