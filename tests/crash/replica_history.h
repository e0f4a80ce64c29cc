/*
 * replica_history.h: what the nodes of a simulated volume have promised: every batch that a leader made durable, as a tree of
 * histories, and every fsync that was answered.
 *
 * A batch is known by its hash, which stands for everything before it.  Each has the model of the filesystem after it, so a node
 * is an exact prefix of a leader when the hash it stands at is in the tree and its files are that model's.
 *
 * Ownership: the test owns the histories, they own their models.  Threads: one.
 * Errors: false with words in `why`; running out of memory aborts.
 */
#pragma once

#include "tests/lib/model.h"

#define NO_BATCH UINT32_MAX

struct known_batch {
	uint64_t hash, seq;
	uint64_t epoch;      /* of the leader that made it */
	uint32_t parent;     /* NO_BATCH: nothing was before */
	uint64_t tree;       /* hash of the model */
	struct model *model; /* owned */
	bool doubtful;       /* its leader crashed about then: it may never have been there */
};
/* An fsync that was answered. */
struct known_ack {
	unsigned level;  /* followers that hold it durably, beside the leader */
	uint32_t batch;  /* the last one it covers */
	bool waived;     /* lost by an admin's decision, or with all disks that had it */
	bool disk_lost;  /* one that had it */
};
struct histories {
	struct known_batch *batch;
	struct known_ack *ack;
	size_t n_batches, batches_cap, n_acks, acks_cap;
	/* An epoch whose leader's disk went back to an older image: its batches may exist twice. */
	uint64_t split[32];
	size_t n_split;
};

/* The batch with this hash; NO_BATCH. */
uint32_t batches_find(const struct histories *h, uint64_t hash);
/* False when another batch has this seq in this epoch. */
bool batches_add(struct histories *h, const struct known_batch *b, uint32_t *ret);
/* Whether the history that ends with `tip` has `b` in it; NO_BATCH as `tip` has nothing. */
bool batches_contain(const struct histories *h, uint32_t tip, uint32_t b);
void batches_split(struct histories *h, uint64_t epoch);
bool batches_is_split(const struct histories *h, uint64_t epoch);
void acks_add(struct histories *h, unsigned level, uint32_t batch, bool waived);
void histories_free(struct histories *h);
