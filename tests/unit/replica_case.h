/*
 * replica_case.h: what the tests of the volume's side of replication begin with: a world of one seed, and a leader's batches kept
 * to be delivered again and again.
 *
 * Ownership: a stream owns its messages.  Threads: one.  Errors: a failed assertion.
 */
#pragma once

#include "tests/unit/superseded.h"

static inline struct world *setup_world(void **state, enum sim_profile profile)
{
	struct world *w = calloc(1, sizeof(*w));

	world_make(w, 7, profile);
	*state = w;
	return w;
}

static inline int setup(void **state)
{
	setup_world(state, SIM_MIXED);
	return 0;
}

/* ---- a stream kept ---- */

struct stream {
	struct message *m; /* batches 1 .. n at [1 .. n] */
	uint64_t *tree;    /* of the leader after each */
	uint64_t n;
};

/* The leader's batches, with a tree for each: what it does is synced step by step. */
static inline void record_stream(struct world *w, unsigned steps, struct stream *ret)
{
	struct stream s = {.m = test_alloc((4 * steps + 8) * sizeof(*s.m)),
			   .tree = test_alloc((4 * steps + 8) * sizeof(*s.tree))};

	for (unsigned i = 0; i < steps; i++) {
		leader_step(w);
		OK(fs_sync(leader(w)));
		for (uint64_t end = point_of(leader(w)).durable_seq; s.n < end;) {
			s.n++;
			OK(message_read(leader(w), &w->cursor, s.n, &s.m[s.n]));
			s.tree[s.n] = s.n == end ? hash_of(leader(w)) : 0; /* 0: not looked at */
		}
	}
	*ret = s;
}

static inline void stream_free(struct stream *s)
{
	for (uint64_t i = 1; i <= s->n; i++)
		message_free(&s->m[i]);
	free(s->m);
	free(s->tree);
}

/* ---- roles ---- */

static inline void promote(struct fs *fs, uint64_t epoch)
{
	OK(ops_of(fs)->promote(fs_replica(fs), epoch));
	assert_true(fs_role(fs) == ROLE_LEADER && point_of(fs).promised == epoch && point_of(fs).history == epoch);
	assert_true(point_of(fs).durable_seq == point_of(fs).applied_seq);
}
