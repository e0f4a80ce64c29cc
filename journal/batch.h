/*
 * batch.h: one batch as bytes: its header in host form, and a cursor over its records.
 *
 * Ownership: a view borrows the memory of its sections; records that a cursor gives borrow that and the cursor.
 * Threads: no state.  Errors: -EBADMSG for a checksum, -EUCLEAN for a structure.  Nothing here trusts a length that was
 * not bounded before.
 * Format: journal_format.h.
 */
#pragma once

#include "journal/journal_format.h"
#include "journal/record.h"

/* What a batch is made of. */
struct batch_counts {
	uint32_t n_records, n_payload, logical_bytes, local_bytes;
};

/* Blocks that a batch of these counts takes in the ring. */
static inline uint32_t batch_blocks(const struct batch_counts *n)
{
	uint32_t sections = n->logical_bytes + n->local_bytes;

	return 1 + n->n_payload + (sections + BLOCK_SIZE - 1) / BLOCK_SIZE;
}

/* batch_header in host form. */
struct batch_info {
	uint64_t epoch, incarnation, seq, pos, tail_seq, commit_seq, prev_hash, hash;
	int64_t time_ns;
	struct batch_counts n;
	uint32_t local_crc;
};

void batch_header_make(struct batch_header *ret, const uint8_t volume[16], const struct batch_info *info);

#define BATCH_MAC_BYTES 32u

/* Signs batches: a keyed hash over all bytes of one, with zeros for `mac` in its header and the `crc` that goes with these. */
struct batch_signer {
	int (*sign)(void *ctx, const struct iovec *iov, int n, uint8_t ret_mac[BATCH_MAC_BYTES]); /* NULL: they are not signed */
	void *ctx;
};
/* `iov` is the whole batch, its header first, as batch_header_make() made it; signs it in place.  Errors: those of the signer. */
MUST_CHECK int batch_sign(const struct batch_signer *signer, const struct iovec *iov, int n);
/* A batch that batch_verify() let through, at p: -EBADMSG when it was not signed so. */
MUST_CHECK int batch_check_signature(const struct batch_signer *signer, const uint8_t *p, const struct batch_info *info);

/* The checks a header can be put to alone; `pos` in it is for the caller to compare.  -EBADMSG when it is none. */
MUST_CHECK int batch_header_check(const struct batch_header *h, const uint8_t volume[16], struct batch_info *ret);

/* The sections of one batch, wherever they lie; logical is 8-aligned. */
struct batch_view {
	uint64_t pos;
	const uint8_t *payload; /* NULL: only the records were read */
	const uint8_t *logical;
	const uint8_t *local; /* NULL: where out-of-line data lies is not known; records come without runs */
	struct batch_counts n;
};
struct batch_cursor {
	struct batch_view view;
	struct batch_counts used;
	struct run runs[RECORD_WRITE_BLOCKS_MAX]; /* of the record given last */
};

void batch_cursor_start(struct batch_cursor *c, const struct batch_view *v);
/*
 * The next record, with write.staged and write.data or write.runs set where the view has them.  1; 0 at the end, when all sections are used up
 * exactly; -EUCLEAN.
 */
MUST_CHECK int batch_next(struct batch_cursor *c, struct record *ret);

/* Whether the inline data of a WRITE has the CRCs that the record names; true for any other record. */
bool batch_payload_ok(const struct record *r);

/*
 * A whole batch as it lies in the ring, batch_blocks() of `info` blocks at p, against its checked header: hash chain, local
 * CRC, every record, every payload block, zeros behind.  *ret_view borrows p.  -EBADMSG or -EUCLEAN.
 */
MUST_CHECK int batch_verify(const uint8_t *p, const struct batch_info *info, struct batch_view *ret_view);
/*
 * The same for sections that lie apart, as they come from another node: counts, hash chain, every record, every payload block.
 * The counts are those of `v`, not bounded by anybody before; of `info` only hash and prev_hash count.  v->local may be NULL,
 * with no local bytes: records are then checked, and given by a cursor, without runs.
 */
MUST_CHECK int batch_verify_parts(const struct batch_info *info, const struct batch_view *v);

/* Bytes the record takes in the local section; 0 when it has no out-of-line data. */
uint32_t batch_local_bytes(const struct record *r);
/* Writes them; returns their end. */
uint8_t *batch_put_local(uint8_t *p, const struct record *r);
