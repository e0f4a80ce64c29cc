/*
 * staging.h: one of the two mapped files in which batches are built.
 *
 * Life of a file: staging_begin() for batch seq; staging_put_data() and staging_publish() for each operation, or once
 * staging_fill() and staging_publish_whole() for a batch of another node; the batch is written to the ring straight from here;
 * once it is durable the file waits for the batch after the next.
 * Durability: what was published survives kill -9.  After a power loss pages may be of any age: staging_load() accepts only
 * bytes that its mark's hash ties to the expected place in the chain.
 * Ownership: owns the disk and the mapping.  Threads: none of its own; the journal's lock guards it.
 * Errors: -errno of the store; -ENOENT and -EUCLEAN for a file that is missing or has the wrong size, named in the log.
 * Format: journal_format.h.
 */
#pragma once

#include <sys/uio.h>

#include "base/disk.h"
#include "journal/batch.h"
#include "journal/journal.h"

#define STAGING_FILES 2u
/* Pieces of memory that a batch is written from. */
#define STAGING_IOV 3

struct staging {
	struct disk *disk; /* owned */
	/* the mapping, and the areas in it */
	struct staging_header *head;
	struct batch_header *header;
	uint8_t *payload, *logical, *local;
	/* the batch in it, in host form; seq 0: none */
	struct journal_point prev; /* its pos, and seq and hash of the batch before */
	struct batch_counts n;
	uint64_t published; /* operations */
	uint32_t local_crc;
	bool out_of_line;
	uint64_t epoch; /* of a batch that came whole from another node: nothing is added to it; 0: of operations */
	int64_t time_ns; /* of such a batch */
	struct XXH64_state_s *hasher; /* owned */
};

MUST_CHECK int staging_format(struct store *store);
MUST_CHECK int staging_open(struct store *store, unsigned index, struct staging *ret);
void staging_close(struct staging *s);
/* Makes the whole file durable, for journal_start(). */
MUST_CHECK int staging_flush(struct staging *s);

static inline uint64_t staging_seq(const struct staging *s)
{
	return s->prev.seq + 1;
}

/* Starts an empty batch after `prev`, on behalf of a volume and a mount. */
void staging_begin(struct staging *s, const uint8_t volume[16], uint64_t incarnation, const struct journal_point *prev,
		   uint64_t durable_seq);
/* Forgets what stands in it, in memory: as after open. */
void staging_forget(struct staging *s);

/* What an operation adds to a batch. */
bool staging_fits(const struct staging *s, const struct batch_counts *more);
/* Copies payload and runs of one record to their places; sets write.staged. */
void staging_put_data(struct staging *s, struct record *r);
/* Copies the logical bytes of a whole operation and publishes it with the data put before. */
void staging_publish(struct staging *s, const void *logical, uint32_t bytes, uint32_t n_records);
/*
 * A whole batch of another node into an empty file.  fill() puts its sections there, published by nothing yet, and looks at
 * nothing that others may be reading, so the journal's lock need not be held; -EBADMSG when they do not have info's hash.
 */
MUST_CHECK int staging_fill(struct staging *s, const struct batch_info *info, const struct batch_view *v);
void staging_publish_whole(struct staging *s, const struct batch_info *info, const struct batch_counts *n);
/* The batch's hash so far, and where the next one begins. */
void staging_point_after(const struct staging *s, struct journal_point *ret);

/* The sections as they stand; borrowed until the next staging_begin(). */
void staging_view(const struct staging *s, struct batch_view *ret);
/* Whether payload block `pos` is here. */
static inline bool staging_holds(const struct staging *s, uint64_t pos)
{
	return pos > s->prev.pos && pos - s->prev.pos <= s->n.n_payload;
}

/*
 * The batch as memory to write: header block (filled in by the caller) and payload, whole blocks of records, and the rest
 * of them with the local section, put together in `scratch` of STAGING_SCRATCH_BYTES.
 */
#define STAGING_SCRATCH_BYTES (BATCH_LOCAL_MAX_BYTES + BLOCK_SIZE)
void staging_gather(const struct batch_view *v, const struct staging *s, uint8_t *scratch, struct iovec ret_iov[STAGING_IOV]);

/* A batch that was written, batch_blocks() blocks at `to`, as it lies in the ring. */
void staging_copy(const struct staging *s, uint8_t *to);

/* Newest batch acked as durable, stored in the file: a plain store, so a floor after power loss. */
void staging_set_durable(struct staging *s, uint64_t seq);
/* That floor; 0 when the file says nothing about this volume. */
uint64_t staging_floor(const struct staging *s, const uint8_t volume[16]);

/*
 * Recovery.  Takes up what stands complete in the file when it continues the chain after `expect`: then s->n and the
 * rest describe it.  -ENOENT: nothing that belongs here; -EBADMSG: claims to, but the bytes are of another age.
 */
MUST_CHECK int staging_load(struct staging *s, const uint8_t volume[16], uint64_t incarnation,
			    const struct journal_point *expect);
/* Keeps only the first `n` of what was loaded, in memory; the file stays as it is. */
void staging_cut(struct staging *s, const struct batch_counts *n);
/* Writes the header anew for this mount: the batch in it goes on being built. */
void staging_resume(struct staging *s, uint64_t incarnation, uint64_t durable_seq);
