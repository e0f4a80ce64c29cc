/*
 * xts.h: sectors of 4 KiB by AES-256-XTS (IEEE 1619, NIST SP 800-38E), through OpenSSL.
 *
 * A sector is one data unit; its tweak is its number in the file, little endian in 16 bytes.  The key is that of the file, so no two
 * sectors of a volume are encrypted alike.  A sector of zeros in the file is one that was never written, and reads as zeros: format
 * writes zeros and a host gives them for what nobody wrote; that a sector is encrypted to zeros has a chance of 2^-32768.
 *
 * Ownership: xts_cache_new() .. xts_cache_free().  Threads: any; each call works with a context of its own, of which as many are kept as were
 * in use at once.  Errors: -ENOMEM, -EIO when the cryptographic library fails.
 */
#pragma once

#include "base/util.h"

#define XTS_SECTOR    4096u
#define XTS_KEY_BYTES 64u

struct xts_cache;
MUST_CHECK int xts_cache_new(struct xts_cache **ret);
struct xts_cache *xts_cache_free(struct xts_cache *c);

/* `n` sectors from number `first` on, from `in` to `out`, which may be the same. */
MUST_CHECK int xts_encrypt(struct xts_cache *c, const uint8_t key[XTS_KEY_BYTES], uint64_t first, const void *in, void *out, size_t n);
MUST_CHECK int xts_decrypt(struct xts_cache *c, const uint8_t key[XTS_KEY_BYTES], uint64_t first, const void *in, void *out, size_t n);
