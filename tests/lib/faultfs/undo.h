/*
 * undo.h: the bytes of one file, and what they were before they were last durable.
 *
 * The file `fd` always holds the newest bytes.  Before a 512-byte sector changes, undo_save() keeps its old content; a
 * flush forgets it; undo_cut() puts it back, for all sectors or a random part.
 *
 * A failed flush does what Linux does: the pages count as clean, a later flush succeeds without having written them, and
 * only writing them again helps: their old content is kept as *stuck*.
 *
 * Ownership: the caller owns fd.  Threads: one at a time.  Errors: running out of memory or a failing host ends the
 * process: this is a test tool.
 */
#pragma once

#include "base/util.h"

#define UNDO_SECTOR 512u
#define UNDO_PAGE   4096u

/* xorshift64*: seeded, so that a power cut of the same state can be had again. */
struct dice {
	uint64_t state;
};
void dice_seed(struct dice *d, uint64_t seed);
uint64_t dice_roll(struct dice *d);

enum cut_mode {
	CUT_ALL,   /* everything unflushed is lost */
	CUT_PAGES, /* each 4 KiB page, and each name, by itself */
	CUT_TORN,  /* each 512-byte sector, and each name, by itself */
};

struct saved;
struct undo {
	int fd;
	struct saved **leaves;
	size_t n_leaves, n_pages; /* pages with something unflushed */
	off_t durable_size;
};

/* Keeps what [off, off + len) holds now, where that is not kept yet: call before changing it. */
void undo_save(struct undo *u, uint64_t off, uint64_t len);
/* All that is written is durable, except what a failed flush lost before. */
void undo_flush(struct undo *u);
/* The same for [off, off + len) only: a write with O_DSYNC. */
void undo_flush_range(struct undo *u, uint64_t off, uint64_t len);
void undo_flush_failed(struct undo *u);
/* A power cut; `odds` of 16 that a page or sector is lost. */
void undo_cut(struct undo *u, enum cut_mode mode, struct dice *d, unsigned odds);
void undo_free(struct undo *u);
