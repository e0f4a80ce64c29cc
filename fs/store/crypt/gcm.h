/*
 * gcm.h: sectors of 4 KiB by AES-256-GCM, through OpenSSL, each with a tag of its own; contexts are kept as in xts.h.
 *
 * Threads: any.  Errors: -EBADMSG for a sector that does not go with its tag, -ENOMEM, -EIO.
 */
#pragma once

#include "base/util.h"

#define GCM_KEY_BYTES 32u
#define GCM_SECTOR    4096u

/* Of one sector, as it is stored. */
struct gcm_tag {
	uint8_t nonce[12], tag[16], zero[4];
};
_Static_assert(sizeof(struct gcm_tag) == 32, "no tag crosses a sector of the host");

struct gcm;
MUST_CHECK int gcm_new(const uint8_t key[GCM_KEY_BYTES], struct gcm **ret);
struct gcm *gcm_free(struct gcm *g);
/* `n` sectors from number `first` on; `in` and `out` may be the same.  Makes the tags, with new nonces. */
MUST_CHECK int gcm_seal(struct gcm *g, uint64_t first, const void *in, void *out, size_t n, struct gcm_tag *ret_tags);
MUST_CHECK int gcm_open(struct gcm *g, uint64_t first, const void *in, void *out, size_t n, const struct gcm_tag *tags);
