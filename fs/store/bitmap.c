/*
 * bitmap.c: bits in 64-bit words; every change keeps the count of its page.
 *
 * Bits past n_bits inside the last page are always clear, so that counts and pages need no special case; searches end at
 * n_bits by their own limits.
 */
#include "fs/store/bitmap.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define PAGE_WORDS (BITMAP_PAGE_BITS / 64)

static uint64_t pages_for(uint64_t n_bits)
{
	return div_round_up(n_bits, BITMAP_PAGE_BITS);
}

int bitmap_grow(struct bitmap *b, uint64_t n_bits)
{
	uint64_t need = pages_for(n_bits);

	assert(n_bits >= b->n_bits);
	if (need > b->cap_pages) {
		/* By half as much again: growing copies, and a large arena grows often. */
		uint64_t cap = max_u64(need, b->cap_pages + b->cap_pages / 2);
		if (cap > SIZE_MAX / BITMAP_PAGE_BYTES)
			return -ENOMEM;
		uint64_t *words = realloc(b->words, cap * BITMAP_PAGE_BYTES);
		if (!words)
			return -ENOMEM;
		b->words = words;
		uint32_t *page_set = realloc(b->page_set, cap * sizeof(*page_set));
		if (!page_set)
			return -ENOMEM;
		b->page_set = page_set;
		memset(words + b->cap_pages * PAGE_WORDS, 0, (cap - b->cap_pages) * BITMAP_PAGE_BYTES);
		memset(page_set + b->cap_pages, 0, (cap - b->cap_pages) * sizeof(*page_set));
		b->cap_pages = cap;
	}
	b->n_bits = n_bits;
	return 0;
}

void bitmap_free(struct bitmap *b)
{
	free(b->words);
	free(b->page_set);
	*b = (struct bitmap){0};
}

bool bitmap_test(const struct bitmap *b, uint64_t bit)
{
	assert(bit < b->n_bits);
	return b->words[bit / 64] >> bit % 64 & 1;
}

/* The part of the range [bit, bit + n) in the word of `bit`, as a mask; *ret_n is how many bits that is. */
static uint64_t word_mask(uint64_t bit, uint64_t n, uint64_t *ret_n)
{
	uint64_t in_word = min_u64(n, 64 - bit % 64);

	*ret_n = in_word;
	return (in_word == 64 ? ~UINT64_C(0) : (UINT64_C(1) << in_word) - 1) << bit % 64;
}

void bitmap_set(struct bitmap *b, uint64_t bit, uint64_t n)
{
	assert(bit <= b->n_bits && n <= b->n_bits - bit);
	for (uint64_t step; n; bit += step, n -= step) {
		uint64_t *word = &b->words[bit / 64], mask = word_mask(bit, n, &step);
		unsigned fresh = (unsigned)__builtin_popcountll(mask & ~*word);

		*word |= mask;
		b->page_set[bit / BITMAP_PAGE_BITS] += fresh;
		b->n_set += fresh;
	}
}

void bitmap_clear(struct bitmap *b, uint64_t bit, uint64_t n)
{
	assert(bit <= b->n_bits && n <= b->n_bits - bit);
	for (uint64_t step; n; bit += step, n -= step) {
		uint64_t *word = &b->words[bit / 64], mask = word_mask(bit, n, &step);
		unsigned gone = (unsigned)__builtin_popcountll(mask & *word);

		*word &= ~mask;
		b->page_set[bit / BITMAP_PAGE_BITS] -= gone;
		b->n_set -= gone;
	}
}

uint64_t bitmap_count(const struct bitmap *b, uint64_t bit, uint64_t n)
{
	uint64_t sum = 0;

	assert(bit <= b->n_bits && n <= b->n_bits - bit);
	for (uint64_t step; n; bit += step, n -= step) {
		uint64_t mask = word_mask(bit, n, &step);
		sum += (unsigned)__builtin_popcountll(mask & b->words[bit / 64]);
	}
	return sum;
}

static bool page_starts(uint64_t bit)
{
	return bit % BITMAP_PAGE_BITS == 0;
}

uint64_t bitmap_next_clear(const struct bitmap *b, uint64_t from, uint64_t end)
{
	assert(end <= b->n_bits);
	while (from < end) {
		if (page_starts(from) && b->page_set[from / BITMAP_PAGE_BITS] == BITMAP_PAGE_BITS) {
			from += BITMAP_PAGE_BITS;
			continue;
		}
		uint64_t clear = ~b->words[from / 64] >> from % 64;
		if (clear)
			return min_u64(from + (unsigned)__builtin_ctzll(clear), end);
		from += 64 - from % 64;
	}
	return end;
}

uint64_t bitmap_clear_run(const struct bitmap *b, uint64_t from, uint64_t max)
{
	assert(from <= b->n_bits);
	uint64_t end = from + min_u64(max, b->n_bits - from), at = from;

	while (at < end) {
		if (page_starts(at) && b->page_set[at / BITMAP_PAGE_BITS] == 0) {
			at += BITMAP_PAGE_BITS;
			continue;
		}
		uint64_t set = b->words[at / 64] >> at % 64;
		if (set)
			return min_u64(at + (unsigned)__builtin_ctzll(set), end) - from;
		at += 64 - at % 64;
	}
	return end - from;
}

void bitmap_page_get(const struct bitmap *b, uint64_t page, uint8_t *ret_bits)
{
	assert(page < bitmap_pages(b));
	memcpy(ret_bits, b->words + page * PAGE_WORDS, BITMAP_PAGE_BYTES); /* little endian: le.h asserts it */
}

bool bitmap_page_put(struct bitmap *b, uint64_t page, const uint8_t *bits)
{
	uint32_t n_set = 0;

	if (page >= bitmap_pages(b))
		return false;
	uint64_t in_page = min_u64(BITMAP_PAGE_BITS, b->n_bits - page * BITMAP_PAGE_BITS);
	for (uint64_t i = in_page; i < BITMAP_PAGE_BITS; i++)
		if (bits[i / 8] >> i % 8 & 1)
			return false;
	uint64_t *words = b->words + page * PAGE_WORDS;
	memcpy(words, bits, BITMAP_PAGE_BYTES);
	for (unsigned i = 0; i < PAGE_WORDS; i++)
		n_set += (unsigned)__builtin_popcountll(words[i]);
	b->n_set += n_set;
	b->n_set -= b->page_set[page];
	b->page_set[page] = n_set;
	return true;
}
