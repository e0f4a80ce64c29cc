/*
 * key.h: the data key of an encrypted volume, and the keys derived from it.
 *
 * 64 random bytes, made by format and never changed: everything that is encrypted depends on them.  Nothing is encrypted with them;
 * each use has a key of its own, HKDF-SHA256 (RFC 5869) without salt, with the words of the use as `info`:
 *     "clawfs xts NAME"       the file NAME of the store: AES-256-XTS, 64 bytes
 *     "clawfs gcm NAME"       in aead mode, the file NAME of the arena: AES-256-GCM, 32 bytes
 *     "clawfs batches"        in aead mode, batches of the journal: HMAC-SHA256, 32 bytes
 *     "clawfs index names"    names in keys of the index: AES-256-SIV, 64 bytes
 *     "clawfs index values"   values of the index: AES-256-SIV, 64 bytes
 *     "clawfs diverged rows"  lines kept in diverged/: AES-256-SIV, 64 bytes
 * So the same bytes at the same place of two files, or of two nodes, are different on disk.
 *
 * Ownership: the caller wipes what it was given (key_wipe()).  Threads: no state.  Errors: -ENOMEM, -EIO when the cryptographic
 * library fails.
 */
#pragma once

#include "base/util.h"

#define DATA_KEY_BYTES 64u

enum encryption {
	ENCRYPTION_NONE,
	ENCRYPTION_XTS = 1, /* as in keys_format.h */
	ENCRYPTION_AEAD = 2, /* the same, and data is signed: signed_disk.h, batch_mac.h */
};

struct data_key {
	enum encryption mode;
	uint8_t bytes[DATA_KEY_BYTES];
};

/* "none", "xts", "aead". */
const char *encryption_name(enum encryption mode);
/* -EINVAL for any other word. */
MUST_CHECK int encryption_parse(const char *word, enum encryption *ret);

MUST_CHECK int data_key_random(enum encryption mode, struct data_key *ret);
/* `prefix` and `name` (may be "") together are the use. */
MUST_CHECK int data_key_derive(const struct data_key *key, const char *prefix, const char *name, uint8_t *ret, size_t len);
/* HKDF-SHA256 of any secret, for a key that encrypts a data key. */
MUST_CHECK int key_derive(struct slice secret, struct slice salt, struct slice info, uint8_t *ret, size_t len);
void key_wipe(void *p, size_t len);
static inline void data_key_wipe(struct data_key *key) { key_wipe(key, sizeof(*key)); }
