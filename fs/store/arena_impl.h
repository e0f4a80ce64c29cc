/*
 * arena_impl.h: what arena.c (which block is whose), arena_growth.c (more of them) and arena_chunk.c (files, reading, writing,
 * flushing) share.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/lock.h"
#include "fs/store/arena.h"
#include "fs/store/bitmap.h"

#define ARENA_DEVICE     DEVICE_ARENA_FIRST
#define ARENA_CHUNKS_MAX 65536u

struct chunk {
	struct disk *disk;
	/* Both guarded by the arena's lock. */
	bool dirty;    /* a write has returned since the flush that last began */
	bool flushing; /* somebody is in disk_flush(): wait for `changed` */
};

/* Blocks freed in one generation; a list from the oldest on. */
struct limbo {
	struct limbo *next;
	uint64_t generation, n_blocks;
	struct run *runs;
	size_t n, cap;
};

struct arena {
	struct arena_config c;
	struct mutex lock; /* never held during I/O */
	struct cond changed;
	/* A table of fixed size, so that readers need no lock; entries below n_chunks never change until close. */
	struct chunk **chunks;
	atomic_uint n_chunks; /* grows under lock */
	atomic_uint_fast64_t blocks_read, blocks_written;

	/* Guarded by lock. */
	struct bitmap used, busy; /* busy = used or limbo: what arena_alloc() must not give out */
	bool *page_dirty;         /* of `used`, since the last save */
	uint64_t n_pages;
	int64_t reserved;
	uint64_t cursor; /* where the next search without a hint begins */
	struct limbo *limbo_oldest, *limbo_newest;
	uint64_t limbo_blocks;
	uint64_t generation;
	int error;                   /* sticky, of a write or flush */
	bool growing;                /* one chunk at a time is made */
	uint64_t free_before_growth; /* bytes of the host when that began; 0 when not growing */
	bool stop;

	struct cond wake; /* of the thread that makes chunks ahead */
	pthread_t thread;
	bool has_thread;
};

static inline uint64_t arena_total(struct arena *a)
{
	return (uint64_t)atomic_load(&a->n_chunks) * a->c.chunk_blocks;
}

static inline uint64_t reserved_locked(const struct arena *a) REQUIRES(&a->lock)
{
	return a->reserved > 0 ? (uint64_t)a->reserved : 0;
}

static inline uint64_t free_locked(struct arena *a) REQUIRES(&a->lock)
{
	return a->busy.n_bits - a->busy.n_set;
}

/* Free and not promised. */
static inline uint64_t spare_locked(struct arena *a) REQUIRES(&a->lock)
{
	uint64_t n = free_locked(a);

	return n - min_u64(n, reserved_locked(a));
}

/* [at, at + n) as block numbers, or -EUCLEAN when any of it is not in a chunk. */
MUST_CHECK int arena_range(struct arena *a, pointer_t at, uint64_t n, uint64_t *ret_block);

/* Opens chunk `index`: -ENOENT, -EUCLEAN when its size is wrong. */
MUST_CHECK int chunk_open(struct arena *a, uint32_t index, struct chunk **ret_chunk);
/* Makes it, durably, its name too; a leftover of that name is replaced.  Takes seconds. */
MUST_CHECK int chunk_create(struct arena *a, uint32_t index, struct chunk **ret_chunk);
struct chunk *chunk_close(struct chunk *c);

/* ---- arena_growth.c ---- */

/* Takes `c` over, in case of error too. */
MUST_CHECK int chunk_add_locked(struct arena *a, struct chunk *c) REQUIRES(&a->lock);
/* Chunks that limits and `host_free` bytes allow beyond those there are. */
uint64_t arena_growable(struct arena *a, uint64_t host_free);
/* Until `n` blocks are free beyond those promised; with from_reserved they are of those.  The lock is released meanwhile. */
MUST_CHECK int arena_make_room_locked(struct arena *a, uint64_t n, bool from_reserved) REQUIRES(&a->lock);
/* The thread that makes chunks ahead, and what wakes it once they are needed. */
void *arena_ahead_thread(void *arena);
void arena_wake_if_low_locked(struct arena *a) REQUIRES(&a->lock);
