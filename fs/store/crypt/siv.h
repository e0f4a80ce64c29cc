/*
 * siv.h: AES-256-SIV (RFC 5297) through OpenSSL: deterministic authenticated encryption, with one string of additional data.
 *
 * Nothing has to be unique, so nothing can be used twice: equal bytes with equal additional data give equal bytes, and that is all that
 * shows.  16 bytes come before what is encrypted.  The library does not seal an empty string: that is 16 bytes too, the tag of one zero
 * byte with the word "empty" as second additional data.
 *
 * Threads: any; contexts are kept as in xts.h.  Errors: -EBADMSG for bytes that were not sealed with this key and this additional
 * data, -ENOMEM, -EIO.
 */
#pragma once

#include "base/util.h"

#define SIV_KEY_BYTES 64u
#define SIV_TAG_BYTES 16u

struct siv;
MUST_CHECK int siv_new(const uint8_t key[SIV_KEY_BYTES], struct siv **ret);
struct siv *siv_free(struct siv *s);
/* `out` gets in.len + SIV_TAG_BYTES bytes.  `aad` has at least one byte. */
MUST_CHECK int siv_seal(struct siv *s, struct slice aad, struct slice in, uint8_t *out);
/* `out` gets in.len - SIV_TAG_BYTES bytes. */
MUST_CHECK int siv_open(struct siv *s, struct slice aad, struct slice in, uint8_t *out);
