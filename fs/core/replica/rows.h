/*
 * rows.h: the index as rows that are the same on every node, and the checks that a row of another node must pass.
 *
 * What is local (tables A, B and C: anchor, bitmap, the order of directories) is left out; the leaf of an E row is told by
 * what its slots hold, not by where (journal/replica.h has the format).
 * Ownership: rows given to callbacks are borrowed for the call.  Threads: no state but the iterator's.
 * Errors: row_check() and leaf_row_decode() return -EUCLEAN for anything a node of this volume cannot have sent.
 */
#pragma once

#include "base/le.h"
#include "fs/core/index_format.h"
#include "fs/core/leaf.h"
#include "fs/store/kv.h"
#include "journal/replica.h"

/* An inode number or cookie is below: the kernel keeps cookies in signed offsets. */
#define ROW_NUMBER_MAX (UINT64_C(1) << 63)

/* What an E row says of a leaf. */
struct leaf_row {
	uint16_t mapped, unwritten;
	uint32_t crc[LEAF_SLOTS]; /* of slots with data */
	uint16_t tiered;          /* slots whose data `object` has */
	struct leaf_object object;
};
#define LEAF_ROW_OBJECT_BYTES 18u
#define LEAF_ROW_BYTES_MAX (4 + 4 * LEAF_SLOTS + LEAF_ROW_OBJECT_BYTES)

static inline uint16_t leaf_row_data(const struct leaf_row *l) { return l->mapped & (uint16_t)~l->unwritten; }
struct leaf_row leaf_row_of(const struct leaf *l);
/* Slots of the row whose data `l` has on this node, as far as that says. */
uint16_t leaf_row_held(const struct leaf_row *row, const struct leaf *l);
/* Both say the same; where else the data is does not count. */
bool leaf_row_equal(const struct leaf_row *a, const struct leaf_row *b);
/* Slots with data that is the same in both. */
uint16_t leaf_row_same(const struct leaf_row *a, const struct leaf_row *b);
/* Slots of `old` with data that is not the same in `r`, an E row. */
uint16_t leaf_row_going(const struct leaf_row *old, const struct row *r);
/* Bytes written to p (LEAF_ROW_BYTES_MAX of room). */
size_t leaf_row_encode(const struct leaf_row *l, uint8_t *p);
MUST_CHECK int leaf_row_decode(struct slice value, struct leaf_row *ret);

/* A row with this key and value, or without a value (it goes), could be a leader's. */
MUST_CHECK int row_check(const struct row *r);

/* Parts of a key that row_check() let through, or of the index itself. */
static inline enum index_table row_table(struct slice key) { return (enum index_table)*(const uint8_t *)key.p; }
static inline uint64_t row_ino(struct slice key) { return be64_get((const uint8_t *)key.p + 1); } /* of H: the epoch; of Q: the object */
static inline struct slice row_name(struct slice key) { return (struct slice){(const uint8_t *)key.p + 9, key.len - 9}; }
static inline uint64_t row_leaf(struct slice key) { return be64_get((const uint8_t *)key.p + 9); }

/* Where rows are read from. */
struct rows {
	struct kv *kv;
	struct kv_iter *it;
	/* Slots whose data is not what their CRC says: their rows shall equal no other node's.  May be NULL. */
	uint16_t (*doubtful)(void *ctx, const struct leaf *l);
	void *ctx;
};
/* Rows with from <= key, and key < to unless to.p is NULL, in order. */
MUST_CHECK int rows_walk(const struct rows *rows, struct slice from, struct slice to, replica_row_fn *fn, void *ctx);
