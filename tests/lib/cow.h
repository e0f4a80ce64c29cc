/*
 * cow.h: the bytes of a simulated file: sparse, and cheap to fork because pages are shared until written.
 *
 * Ownership: pages and chunks are counted; a struct cow owns one reference to each of its chunks.
 * Threads: one at a time over everything that shares pages.  Errors: running out of memory aborts, as in all of tests/lib.
 */
#pragma once

#include "base/util.h"

#define COW_PAGE        4096u
#define COW_SECTOR      512u
#define COW_SECTORS     (COW_PAGE / COW_SECTOR)
#define COW_ALL_SECTORS 0xffu

struct cow_page {
	uint32_t refs;
	uint8_t b[COW_PAGE];
};
struct cow_chunk;
struct cow {
	uint64_t size;
	uint32_t n_chunks;
	struct cow_chunk **chunk; /* NULL: zeros */
};

struct cow_page *cow_page_new(const void *bytes); /* NULL: zeros */
struct cow_page *cow_page_ref(struct cow_page *p);
void cow_page_unref(struct cow_page *p);

void cow_init(struct cow *c, uint64_t size);
struct cow cow_fork(const struct cow *c);
void cow_free(struct cow *c);

/* Page `n`, borrowed until the next write; NULL when it is all zeros and was never written. */
struct cow_page *cow_get(const struct cow *c, uint64_t n);
/* Page `n` becomes `p` (shared, not copied). */
void cow_set(struct cow *c, uint64_t n, struct cow_page *p);
/* Only the sectors of `mask` (bit 0: the first 512 bytes) are taken from `p`; NULL: zeros. */
void cow_set_sectors(struct cow *c, uint64_t n, struct cow_page *p, unsigned mask);
void cow_read(const struct cow *c, void *p, size_t len, uint64_t off);
void cow_write(struct cow *c, const void *p, size_t len, uint64_t off);

void *test_alloc(size_t n); /* zeroed */
void *test_grow(void *p, size_t n_have, size_t *cap, size_t item);
