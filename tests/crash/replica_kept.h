/*
 * replica_kept.h: what a node of the simulator kept aside when a resync replaced its history: a diverged_sink in memory, and the
 * question whether everything that went is in it.
 *
 * Durability: what was put is lost with a crash until sync().  Ownership: the test owns it.  Threads: one.
 */
#pragma once

#include "fs/store/diverged.h"
#include "tests/lib/model.h"

struct kept_item {
	uint64_t ino, off; /* of a block */
	uint8_t *p;        /* owned; a line, terminated, when len is 0 */
	size_t len;
	bool synced;
};
struct kept {
	struct diverged_sink sink;
	struct kept_item *item;
	size_t n, cap;
	bool open;
	unsigned tails;
};
void kept_open(struct kept *k);
void kept_crash(struct kept *k); /* what was not synced is gone */
void kept_forget(struct kept *k); /* everything */
void kept_free(struct kept *k);
/*
 * Whether every name and inode of `old` that `now` has not under a name is here, and, if `old` was there `whole`, every block; says what
 * is missing.  Not even a block that both histories come from may be missing: the one that goes on without it has deleted it, perhaps
 * before the other one had it again.
 */
bool kept_has_all(const struct kept *k, const struct model *old, const struct model *now, bool whole, char *ret_why,
		  size_t cap);
