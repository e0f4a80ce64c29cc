/*
 * buf.h: a growable run of bytes.
 *
 * Ownership: a struct buf owns its memory until buf_free().  Threads: none of its own.
 * Errors: running out of memory is sticky: `failed` is set, later appends do nothing, the user checks once at the end.
 */
#pragma once

#include "base/util.h"

struct buf {
	uint8_t *p;
	size_t len, cap;
	bool failed;
};

/* Makes room for `n` more bytes and returns where they go (len already counts them); NULL when out of memory. */
void *buf_grow(struct buf *b, size_t n);
void buf_put(struct buf *b, const void *p, size_t n);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_reset(struct buf *b); /* keeps the memory */
void buf_free(struct buf *b);

static inline void buf_put_u8(struct buf *b, uint8_t v) { buf_put(b, &v, 1); }
#define CLEANUP_BUF __attribute__((cleanup(buf_free)))
