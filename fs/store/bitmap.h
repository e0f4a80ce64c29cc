/*
 * bitmap.h: a growing row of bits in pages of 32768, with the number of set bits of each page, so that a search steps over
 * full and empty pages without looking at their words.
 *
 * Ownership: a struct bitmap owns its memory until bitmap_free(); all zeros is an empty one.  Threads: none of its own.
 * Errors: -ENOMEM of bitmap_grow(); ranges outside [0, n_bits) are a bug of the caller.
 */
#pragma once

#include "base/util.h"

#define BITMAP_PAGE_BITS  32768u
#define BITMAP_PAGE_BYTES (BITMAP_PAGE_BITS / 8)

struct bitmap {
	uint64_t *words;
	uint32_t *page_set; /* set bits of each page */
	uint64_t n_bits, n_set;
	uint64_t cap_pages;
};

/* More bits, clear; nothing changes on -ENOMEM. */
MUST_CHECK int bitmap_grow(struct bitmap *b, uint64_t n_bits);
void bitmap_free(struct bitmap *b);

bool bitmap_test(const struct bitmap *b, uint64_t bit);
/* [bit, bit + n); bits that are so already are fine. */
void bitmap_set(struct bitmap *b, uint64_t bit, uint64_t n);
void bitmap_clear(struct bitmap *b, uint64_t bit, uint64_t n);
uint64_t bitmap_count(const struct bitmap *b, uint64_t bit, uint64_t n); /* set bits in the range */

/* The first clear bit in [from, end), or `end`. */
uint64_t bitmap_next_clear(const struct bitmap *b, uint64_t from, uint64_t end);
/* How many bits from `from` on are clear, up to `max` and the end. */
uint64_t bitmap_clear_run(const struct bitmap *b, uint64_t from, uint64_t max);

/* A page as bytes, bit 0 of byte 0 first; bits past n_bits are zero, and put() refuses others with false. */
static inline uint64_t bitmap_pages(const struct bitmap *b)
{
	return div_round_up(b->n_bits, BITMAP_PAGE_BITS);
}
void bitmap_page_get(const struct bitmap *b, uint64_t page, uint8_t *ret_bits);
MUST_CHECK bool bitmap_page_put(struct bitmap *b, uint64_t page, const uint8_t *bits);
