/*
 * resync_internal.h: the state of a resync that resync.c and resync_rows.c share.
 *
 * resync.c compares: it asks for hashes, and for the rows and leaves that are wanted.  resync_rows.c makes equal: it puts what
 * comes.  Calls go from resync.c to resync_rows.c.
 *
 * Ownership: the session owns it.  Threads: the session's.
 */
#pragma once

#include "replicate/node_internal.h"

#define ROWS_EACH    512u
#define RANGES_MAX   (2 * WIRE_RANGES_MAX)
#define ROWS_ASKED   4u
#define LEAVES_MAX   4096u
#define LEAVES_ASKED 8u
#define ORDER_MAX    16u
#define ACTIONS_MAX  256u

/*
 * An E row (docs/PROTOCOL.md): 'E', be64 inode, be64 leaf -> le16 mapped, le16 unwritten, le32 CRC of each slot with data; then,
 * maybe, which of them an object has, which is the volume's affair.
 */
#define SLOTS          16u
#define LEAF_KEY       17u
#define LEAF_OBJECT    18u
#define LEAF_VALUE_MAX (4 + 4 * SLOTS + LEAF_OBJECT)

_Static_assert(1 + ROWS_ASKED + LEAVES_ASKED <= ORDER_MAX, "every request has its place in the order");
_Static_assert(LEAVES_MAX >= ROWS_ASKED * ROWS_EACH, "");

struct range {
	struct key from, to; /* to empty: to the end */
	uint64_t hash;
	uint32_t n_rows;
};

struct asked_rows {
	struct range range;
	struct key after; /* last row of the leader's that came */
	uint64_t hash;    /* of the rows that came */
	uint32_t n_rows;
};

struct wanted_leaf {
	uint8_t key[LEAF_KEY], value[LEAF_VALUE_MAX];
	size_t value_len;
	struct leaf_data d;
};

/* What a merge found: rows of the leader's borrow the message; a row that goes has its key here. */
struct action {
	struct row row;
	struct key key;
};

struct pull {
	struct replica_view_info view;
	bool save, viewing;
	uint64_t fence;
	enum message_type order[ORDER_MAX]; /* of the answers to come */
	uint32_t first_order, n_order;

	struct key frontier; /* hashes are known up to here */
	bool hashes_asked, hashes_done;
	struct range ranges[RANGES_MAX];
	uint32_t first_range, n_ranges;

	struct asked_rows rows[ROWS_ASKED];
	uint32_t first_rows, n_rows;

	struct wanted_leaf leaves[LEAVES_MAX];
	uint32_t first_leaf, n_leaves, n_asked; /* the first n_asked of them are on their way */
	uint32_t requests[LEAVES_ASKED];        /* leaves each GET_LEAVES still lacks */
	uint32_t first_request, n_requests;
	uint64_t data_asked;

	uint64_t compared, moved, unsaved_rows, unsaved_bytes;
	struct action actions[ACTIONS_MAX];
};

/* ---- the queue of leaves, and of answers to come ---- */

static inline void note_answered(struct pull *p)
{
	p->first_order = (p->first_order + 1) % ORDER_MAX;
	p->n_order--;
}

static inline struct wanted_leaf *leaf_at(struct pull *p, uint32_t i)
{
	return &p->leaves[(p->first_leaf + i) % LEAVES_MAX];
}

static inline uint64_t wanted_bytes(const struct wanted_leaf *w)
{
	return (uint64_t)__builtin_popcount(w->d.wanted) * BLOCK_SIZE;
}

/* ---- resync_rows.c ---- */

/* ROWS: of the range asked for first; what differs is put, and leaves whose blocks are not here become wanted. */
MUST_CHECK int pull_take_rows(struct session *s, struct slice body);
/* LEAVES: blocks of those wanted first. */
MUST_CHECK int pull_take_leaves(struct session *s, struct slice body);
