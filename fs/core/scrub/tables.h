/*
 * tables.h: the tables of damage.c and quarantine.c as damage_rows.c, which keeps them in the index, sees them.
 */
#pragma once

#include "fs/core/scrub/impl.h"

struct damage_key {
	uint64_t a, b;
};
struct damages {
	struct mutex lock;
	_Atomic size_t n_all; /* as n, for those who only want to know whether there is any */
	/* guarded by lock */
	struct damaged_block *block; /* owned; sorted */
	size_t n, cap;
	struct damage_key *gone; /* owned: rows that are to go */
	size_t n_gone, cap_gone;
	uint64_t beyond;
	bool dirty; /* a row is not what it should be */
};
struct quarantine {
	struct mutex lock;
	_Atomic size_t n_all;
	/* guarded by lock */
	struct quarantined *block; /* owned; sorted by home */
	size_t n, cap;
	struct damage_key *gone; /* owned */
	size_t n_gone, cap_gone;
	uint64_t beyond;
	bool dirty;
};
#define QUARANTINE_ROWS UINT64_MAX /* in place of an inode, in keys of table Z */

MUST_CHECK int quarantine_open(struct fs *fs);
void quarantine_close(struct fs *fs);
/* From rows, while nobody else is there; those there is no room for are counted. */
void damage_load(struct fs *fs, const struct damaged_block *b);
void quarantine_load(struct fs *fs, const struct quarantined *q);

/* damage_rows.c */
MUST_CHECK int damage_rows_load(struct fs *fs);
MUST_CHECK int damage_rows_save(struct fs *fs);
/* The row of the pass: -ENOENT, -EUCLEAN. */
MUST_CHECK int scrub_row_get(struct fs *fs, struct scrub_pass *ret);
