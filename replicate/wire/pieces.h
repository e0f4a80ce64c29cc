/*
 * pieces.h: what every decoder of a body is made of (wire.c says how bodies are built).
 *
 * Ownership: what is taken lies in the body.  Threads: any.
 */
#pragma once

#include "base/buf.h"
#include "replicate/wire/wire_format.h"

/* The next `n` bytes of what is left of a body; NULL when it has fewer. */
static inline const void *take(struct slice *left, size_t n)
{
	const uint8_t *p = left->p;

	if (n > left->len)
		return NULL;
	left->p = p + n;
	left->len -= n;
	return p;
}

/* A body that is nothing but its fixed part; NULL when it has another size. */
static inline const void *whole(struct slice body, size_t n)
{
	return body.len == n ? body.p : NULL;
}

static inline bool is_zero(const uint8_t *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0); /* each byte is as the one before */
}
