/*
 * secret.h: buffers that hold keys: wiped before their memory is given back.
 *
 * Ownership: as struct buf.  A buffer that grows leaves a copy behind: secret_reserve() what it may need first.
 * Threads: no state.  Errors: as struct buf.
 */
#pragma once

#include <openssl/crypto.h>

#include "base/buf.h"

static inline void secret_free(struct buf *b)
{
	if (b->p)
		OPENSSL_cleanse(b->p, b->cap);
	buf_free(b);
}
#define CLEANUP_SECRET __attribute__((cleanup(secret_free)))

static inline void secret_reserve(struct buf *b, size_t n)
{
	if (buf_grow(b, n))
		b->len -= n;
}

static inline struct slice buf_slice(const struct buf *b) { return (struct slice){b->p, b->len}; }
#define TAKE_BUF(b)               \
	({                        \
		struct buf t_ = (b); \
		(b) = (struct buf){0}; \
		t_;               \
	})
