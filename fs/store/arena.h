/*
 * arena.h: the 4 KiB blocks of a volume: chunk files, the bitmap allocator, reservations, and the rule about reuse.
 *
 * A chunk is a file arena.1/chunk.NNNNN of chunk_blocks blocks: created with its space allocated and flushed, its name made
 * durable, and only then used.  Device numbers are those of pointers (1-199); there is one device so far.
 *
 * States of a block: free -> used (arena_alloc) -> limbo (arena_free) -> free.  A block leaves limbo only when the
 * checkpoint that follows the free is durable (rule R3): arena_rotate() at the gate closes a generation of freed blocks,
 * arena_release() gives it back.  What a checkpoint saves as used is what the index refers to: limbo counts as free there.
 *
 * Reservations (guarantee G7): a block promised to data that is in the journal or preallocated but has no home yet.
 * free blocks >= reserved blocks always; arena_alloc() with `from_reserved` turns promises into blocks and cannot fail
 * for lack of space.
 *
 * Durability: arena_write*() is not durable until arena_flush() returned 0; flush covers every write that returned before
 * it was called.  A failed flush or write is sticky for flush.
 * Threads: any, but open, load, save, rotate, release and close, which their caller serialises.
 * Errors: -ENOSPC, -EIO and other -errno of the disk; -EUCLEAN for a pointer outside the arena (never reads there).
 */
#pragma once

#include "base/disk.h"
#include "journal/pointer.h"

struct arena;

struct arena_config {
	struct store *store;    /* borrowed */
	uint64_t chunk_blocks;  /* blocks a chunk; a multiple of 32768 but for test volumes (>= 64, multiple of 64) */
	uint64_t max_blocks;    /* the volume's size limit; UINT64_MAX: as the host allows */
	uint64_t host_reserve;  /* bytes never taken from the host: left for the index and its log */
	uint32_t n_chunks_known;/* chunks the index knows of: each must exist, else -ENOENT naming it in the log */
	bool no_threads;        /* chunks are made only when needed, never ahead in the background */
};
MUST_CHECK int arena_open(const struct arena_config *c, struct arena **ret_arena);
struct arena *arena_close(struct arena *a);

/*
 * Allocates exactly `n` blocks in as few runs as it can, near `hint` (0: anywhere), into runs[0 .. *ret_n_runs).  Grows the
 * arena by a chunk when needed and possible.  With from_reserved, `n` reservations are used up.
 * -ENOSPC when fewer than n + reserved are free, -E2BIG when it would take more than max_runs runs: nothing is allocated.
 */
MUST_CHECK int arena_alloc(struct arena *a, uint64_t n, pointer_t hint, bool from_reserved, struct run *runs, uint32_t max_runs,
			   uint32_t *ret_n_runs);
/* Into limbo.  A block that is not used is a bug of the caller, or a damaged index: -EUCLEAN, nothing changes. */
MUST_CHECK int arena_free(struct arena *a, struct run r);
/* Back to free at once: for blocks allocated by this process and never named by any record or leaf. */
void arena_unalloc(struct arena *a, struct run r);
/* The same for blocks allocated with from_reserved: what they used up is promised again, in one step. */
void arena_unalloc_reserved(struct arena *a, struct run r);
/*
 * Allocated blocks that no record names for a while, so that checkpoints come between: a hidden one is given to nobody else, but
 * what arena_save() says is used does not have it, and a crash loses nothing.  Shown again under the gate under which its record
 * is appended, or before arena_unalloc().
 */
void arena_hide(struct arena *a, struct run r);
void arena_show(struct arena *a, struct run r);
/* Replay of a record that names blocks: marks them used.  -EUCLEAN when outside the arena or already used. */
MUST_CHECK int arena_claim(struct arena *a, struct run r);

MUST_CHECK int arena_reserve(struct arena *a, uint64_t n); /* -ENOSPC */
void arena_unreserve(struct arena *a, uint64_t n);
/* At mount, from the saved counters: may exceed what is free, until chunks are there. */
void arena_set_reserved(struct arena *a, uint64_t n);

MUST_CHECK int arena_read(struct arena *a, pointer_t at, uint32_t n, void *p);
MUST_CHECK int arena_writev(struct arena *a, pointer_t at, const struct iovec *iov, int n_iov);
struct arena_write {
	pointer_t at;
	uint32_t n_blocks;
	const void *p;
};
/* At queue depth; sorts nothing: give it in the order of pointers. */
MUST_CHECK int arena_write_many(struct arena *a, const struct arena_write *w, size_t n);
MUST_CHECK int arena_flush(struct arena *a);
/* One block that is allocated and nobody's, to see whether it keeps what is written: an error says that of it and nothing of the arena. */
MUST_CHECK int arena_test_write(struct arena *a, pointer_t at, const struct iovec *iov);

/* The allocation bitmap as pages of ARENA_PAGE_BLOCKS bits for the index: bit set = used. */
#define ARENA_PAGE_BLOCKS 32768u
#define ARENA_PAGE_BYTES (ARENA_PAGE_BLOCKS / 8)
/* Calls put for each page changed since the last save. */
MUST_CHECK int arena_save(struct arena *a, int (*put)(void *ctx, unsigned device, uint64_t page, const uint8_t *bits), void *ctx);
/* At mount, for each page the index has, before anything else. */
MUST_CHECK int arena_load(struct arena *a, unsigned device, uint64_t page, const uint8_t *bits);

/* Under the gate: closes the current generation of limbo and returns its number; release gives it and all older ones back. */
uint64_t arena_rotate(struct arena *a);
void arena_release(struct arena *a, uint64_t generation);

bool arena_is_used(struct arena *a, pointer_t at); /* for fsck */

struct arena_status {
	uint32_t n_chunks;
	uint64_t total_blocks;    /* in chunks */
	uint64_t used_blocks, limbo_blocks, reserved_blocks, free_blocks; /* free counts neither limbo nor used; includes reserved */
	uint64_t growable_blocks; /* that the host and max_blocks allow beyond total */
	uint64_t blocks_read, blocks_written;
	int error;                /* sticky */
};
void arena_get_status(struct arena *a, struct arena_status *ret);
