/*
 * batch_mac.h: the signature of the journal's batches in aead mode: HMAC-SHA256 (RFC 2104) with a key of its own.
 *
 * Threads: any.  Errors: -ENOMEM, -EIO.
 */
#pragma once

#include <sys/uio.h>

#include "fs/store/crypt/key.h"

#define BATCH_MAC_KEY_BYTES 32u

struct batch_mac;
MUST_CHECK int batch_mac_new(const struct data_key *key, struct batch_mac **ret);
struct batch_mac *batch_mac_free(struct batch_mac *m);
/* For struct batch_signer (journal/batch.h); `batch_mac` is the context. */
int batch_mac_sign(void *batch_mac, const struct iovec *iov, int n, uint8_t ret[32]);
