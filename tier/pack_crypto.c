/*
 * pack_crypto.c: see pack_crypto.h and pack.h.
 *
 * Keys: the volume's seals one key an object, under random nonces of 96 bits: SP 800-38D, 8.3, allows 2^32 of them under one key,
 * and no volume makes as many objects.  An object's key seals its frames under their offsets, and its header under 0.
 */
#include "tier/pack_crypto.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <string.h>
#include <xxhash.h>

static void free_cipher(EVP_CIPHER_CTX **c)
{
	EVP_CIPHER_CTX_free(*c);
}
#define CLEANUP_CIPHER __attribute__((cleanup(free_cipher)))

static int fail_with(int error)
{
	ERR_clear_error();
	return error;
}

int pack_random(void *p, size_t n)
{
	assert(n <= INT_MAX);
	return RAND_priv_bytes(p, (int)n) == 1 ? 0 : fail_with(-EIO);
}

struct pack_seal pack_seal_at(const uint8_t *key, uint32_t offset, const void *bound, size_t n)
{
	struct pack_seal s = {.key = key, .bound = {bound, n}};
	le32 at = le32_make(offset);

	memcpy(s.nonce, at.b, sizeof(at));
	return s;
}

/* The cipher is looked up here once, which takes longer than a small frame. */
int pack_cipher_new(const uint8_t *key, EVP_CIPHER_CTX **ret)
{
	CLEANUP_CIPHER EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();

	if (!c)
		return fail_with(-ENOMEM);
	if (EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, NULL) != 1)
		return fail_with(-EIO);
	_Static_assert(PACK_NONCE_BYTES == 12 && PACK_KEY_BYTES == 32, "the cipher's own lengths");
	*ret = TAKE_PTR(c);
	return 0;
}

int pack_encrypt(EVP_CIPHER_CTX *c, const struct pack_seal *s, const uint8_t *from, size_t n, uint8_t *to,
		 uint8_t ret_tag[PACK_TAG_BYTES])
{
	uint8_t rest[EVP_MAX_BLOCK_LENGTH];
	int done;

	assert(n <= INT_MAX && s->bound.len <= INT_MAX);
	if (EVP_EncryptInit_ex(c, NULL, NULL, s->key, s->nonce) != 1 ||
	    EVP_EncryptUpdate(c, NULL, &done, s->bound.p, (int)s->bound.len) != 1 ||
	    (n > 0 && EVP_EncryptUpdate(c, to, &done, from, (int)n) != 1) || EVP_EncryptFinal_ex(c, rest, &done) != 1 ||
	    EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, PACK_TAG_BYTES, ret_tag) != 1)
		return fail_with(-EIO);
	return 0;
}

static int decrypt(EVP_CIPHER_CTX *c, const struct pack_seal *s, const uint8_t *from, size_t n, uint8_t *to,
		   const uint8_t tag[PACK_TAG_BYTES])
{
	uint8_t rest[EVP_MAX_BLOCK_LENGTH], expected[PACK_TAG_BYTES];
	int done;

	memcpy(expected, tag, sizeof(expected));
	if (EVP_DecryptInit_ex(c, NULL, NULL, s->key, s->nonce) != 1 ||
	    EVP_DecryptUpdate(c, NULL, &done, s->bound.p, (int)s->bound.len) != 1 ||
	    (n > 0 && EVP_DecryptUpdate(c, to, &done, from, (int)n) != 1) ||
	    EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, PACK_TAG_BYTES, expected) != 1)
		return fail_with(-EIO);
	return EVP_DecryptFinal_ex(c, rest, &done) == 1 ? 0 : fail_with(-EBADMSG);
}

int pack_decrypt(EVP_CIPHER_CTX *c, const struct pack_seal *s, const uint8_t *from, size_t n, uint8_t *to,
		 const uint8_t tag[PACK_TAG_BYTES])
{
	assert(n <= INT_MAX && s->bound.len <= INT_MAX);
	int r = decrypt(c, s, from, n, to, tag);
	if (r < 0 && n > 0)
		OPENSSL_cleanse(to, n);
	return r;
}

/* ---- the key of an object ---- */

/* sealed: nonce, key, tag */
enum { AT_KEY = PACK_NONCE_BYTES, AT_TAG = AT_KEY + PACK_KEY_BYTES };
_Static_assert(AT_TAG + PACK_TAG_BYTES == PACK_SEALED_BYTES, "");

static struct pack_seal_bound bind_key(const uint8_t volume[16], uint64_t object)
{
	struct pack_seal_bound b = {.magic = le64_make(PACK_MAGIC), .object = le64_make(object)};

	memcpy(b.volume, volume, sizeof(b.volume));
	return b;
}

int pack_seal_key(const struct pack_key *k, const struct pack_volume_key *volume_key, const uint8_t nonce[PACK_NONCE_BYTES],
		  uint8_t ret_sealed[PACK_SEALED_BYTES])
{
	const struct pack_seal_bound b = bind_key(k->volume, k->object);
	struct pack_seal s = {.key = volume_key->bytes, .bound = {&b, sizeof(b)}};
	CLEANUP_CIPHER EVP_CIPHER_CTX *c = NULL;
	int r = pack_cipher_new(NULL, &c);

	if (r < 0)
		return r;
	memcpy(s.nonce, nonce, PACK_NONCE_BYTES);
	memcpy(ret_sealed, nonce, PACK_NONCE_BYTES);
	return pack_encrypt(c, &s, k->bytes, PACK_KEY_BYTES, ret_sealed + AT_KEY, ret_sealed + AT_TAG);
}

int pack_unseal(const uint8_t volume[16], uint64_t object, const struct pack_volume_key *key,
		const uint8_t sealed[PACK_SEALED_BYTES], struct pack_key *ret)
{
	static const uint8_t plain[PACK_SEALED_BYTES];
	const struct pack_seal_bound b = bind_key(volume, object);
	struct pack_seal s = {.bound = {&b, sizeof(b)}};
	struct pack_key k = {.object = object};
	CLEANUP_CIPHER EVP_CIPHER_CTX *c = NULL;

	memcpy(k.volume, volume, sizeof(k.volume));
	if (memcmp(sealed, plain, PACK_SEALED_BYTES) != 0) {
		if (!key)
			return -EBADMSG;
		int r = pack_cipher_new(NULL, &c);

		if (r < 0)
			return r;
		k.encrypted = true;
		s.key = key->bytes;
		memcpy(s.nonce, sealed, PACK_NONCE_BYTES);
		r = pack_decrypt(c, &s, sealed + AT_KEY, PACK_KEY_BYTES, k.bytes, sealed + AT_TAG);
		if (r < 0)
			return r;
	}
	*ret = k;
	OPENSSL_cleanse(&k, sizeof(k));
	return 0;
}

/* ---- frames ---- */

struct pack_frame_bound pack_frame_bind(const struct pack_key *k, uint32_t offset, const struct pack_frame_header *h)
{
	struct pack_frame_bound b = {.object = le64_make(k->object), .offset = le32_make(offset)};

	memcpy(b.volume, k->volume, sizeof(b.volume));
	memcpy(b.header, h, sizeof(b.header));
	return b;
}

void pack_frame_sum(const struct pack_frame_bound *b, const uint8_t *data, size_t n, uint8_t ret_tag[PACK_TAG_BYTES])
{
	le64 sum = le64_make(XXH64(data, n, XXH64(b, sizeof(*b), 0)));

	memcpy(ret_tag, sum.b, sizeof(sum));
	memset(ret_tag + sizeof(sum), 0, PACK_TAG_BYTES - sizeof(sum));
}
