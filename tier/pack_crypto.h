/*
 * pack_crypto.h: what packs need of OpenSSL: random bytes, AES-256-GCM, and the sums of frames that are not encrypted.
 *
 * Source: NIST SP 800-38D; nonces of 96 bits, tags of 128.  Decryption verifies: unverified bytes never reach a caller.
 * Ownership: a context is freed with EVP_CIPHER_CTX_free(), which wipes its key.  Threads: one at a time for each context.
 * Errors: -EBADMSG a tag that does not fit; -EIO OpenSSL fails; -ENOMEM.  OpenSSL's own queue of errors is left empty.
 */
#pragma once

#include <openssl/evp.h>

#include "tier/pack_format.h"

/* One use of a key: no two may have both key and nonce in common. */
struct pack_seal {
	const uint8_t *key; /* PACK_KEY_BYTES; NULL: the context's, from the call before */
	uint8_t nonce[PACK_NONCE_BYTES];
	struct slice bound; /* covered by the tag and not encrypted */
};
/* With the offset as nonce. */
struct pack_seal pack_seal_at(const uint8_t *key, uint32_t offset, const void *bound, size_t n);

MUST_CHECK int pack_random(void *p, size_t n);
/* `key` NULL: each use brings its own. */
MUST_CHECK int pack_cipher_new(const uint8_t *key, EVP_CIPHER_CTX **ret);
/* `n` bytes, which may be 0, from `from` to `to`: the same, or apart. */
MUST_CHECK int pack_encrypt(EVP_CIPHER_CTX *c, const struct pack_seal *s, const uint8_t *from, size_t n, uint8_t *to,
			    uint8_t ret_tag[PACK_TAG_BYTES]);
/* After an error `to` holds zeros. */
MUST_CHECK int pack_decrypt(EVP_CIPHER_CTX *c, const struct pack_seal *s, const uint8_t *from, size_t n, uint8_t *to,
			    const uint8_t tag[PACK_TAG_BYTES]);

/* The opposite of pack_unseal(); `nonce` is random. */
MUST_CHECK int pack_seal_key(const struct pack_key *k, const struct pack_volume_key *volume_key,
			     const uint8_t nonce[PACK_NONCE_BYTES], uint8_t ret_sealed[PACK_SEALED_BYTES]);

/* What a frame is bound to: its place and its header up to the tag. */
struct pack_frame_bound pack_frame_bind(const struct pack_key *k, uint32_t offset, const struct pack_frame_header *h);
/* The tag of a frame that is not encrypted. */
void pack_frame_sum(const struct pack_frame_bound *b, const uint8_t *data, size_t n, uint8_t ret_tag[PACK_TAG_BYTES]);
