/*
 * arena_growth.c: the arena grows.
 *
 * One chunk at a time, by the thread that needs it or, ahead, by a thread of the arena when the free blocks fall
 * under half a chunk.  The lock is released meanwhile; `growing` keeps others from doing the same.  A crash during growth
 * leaves a chunk that neither index nor journal knows: it is adopted when whole, else replaced.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/store/arena_impl.h"

#define RETRY_NS NSEC_PER_SEC

static int resize_locked(struct arena *a, uint64_t n_blocks) REQUIRES(&a->lock)
{
	uint64_t n_pages = div_round_up(n_blocks, BITMAP_PAGE_BITS);
	int r = bitmap_grow(&a->used, n_blocks);

	if (r == 0)
		r = bitmap_grow(&a->busy, n_blocks);
	if (r == 0 && n_pages > a->n_pages) {
		bool *dirty = realloc(a->page_dirty, n_pages);
		if (!dirty)
			return -ENOMEM;
		memset(dirty + a->n_pages, 0, n_pages - a->n_pages);
		a->page_dirty = dirty;
		a->n_pages = n_pages;
	}
	return r;
}

int chunk_add_locked(struct arena *a, struct chunk *c) REQUIRES(&a->lock)
{
	uint32_t index = atomic_load(&a->n_chunks);
	int r = resize_locked(a, (index + UINT64_C(1)) * a->c.chunk_blocks);

	if (r < 0) {
		/* A bitmap that did grow shows no chunk: shrink what can be seen of it again. */
		a->used.n_bits = a->busy.n_bits = index * a->c.chunk_blocks;
		chunk_close(c);
		return r;
	}
	a->chunks[index] = c;
	atomic_store(&a->n_chunks, index + 1);
	return 0;
}

uint64_t arena_growable(struct arena *a, uint64_t host_free)
{
	uint64_t n_chunks = atomic_load(&a->n_chunks), total = arena_total(a);
	uint64_t by_host = (host_free - min_u64(host_free, a->c.host_reserve)) / (a->c.chunk_blocks * BLOCK_SIZE);
	uint64_t by_limit = (a->c.max_blocks - min_u64(a->c.max_blocks, total)) / a->c.chunk_blocks;

	return min_u64(min_u64(by_host, by_limit), ARENA_CHUNKS_MAX - n_chunks);
}

static int create_chunk(struct arena *a, uint64_t host_free, uint64_t n_wanted, struct chunk **ret_chunk)
{
	uint32_t index = atomic_load(&a->n_chunks);

	if (arena_growable(a, host_free) < n_wanted)
		return -ENOSPC;
	int r = chunk_create(a, index, ret_chunk);
	if (r < 0 && r != -ENOSPC)
		log_error("arena: chunk %u cannot be made: %s", index, strerror(-r));
	return r;
}

/*
 * One chunk more, or one attempt of another thread waited for: look again.  Where not all `n_wanted` chunks can be had,
 * none is made in vain.
 */
static int grow_locked(struct arena *a, uint64_t n_wanted) REQUIRES(&a->lock)
{
	uint64_t host_free = 0, host_total;
	struct chunk *c = NULL;

	if (a->growing) {
		cond_wait(&a->changed, &a->lock);
		return 0;
	}
	a->growing = true;
	mutex_unlock(&a->lock);
	int r = store_space(a->c.store, &host_free, &host_total);
	mutex_lock(&a->lock);
	a->free_before_growth = host_free;
	mutex_unlock(&a->lock);
	if (r == 0)
		r = create_chunk(a, host_free, n_wanted, &c);
	mutex_lock(&a->lock);
	if (r == 0)
		r = chunk_add_locked(a, c);
	a->growing = false;
	a->free_before_growth = 0;
	cond_broadcast(&a->changed);
	return r;
}

int arena_make_room_locked(struct arena *a, uint64_t n, bool from_reserved) REQUIRES(&a->lock)
{
	if (n > POINTER_BLOCK_MAX)
		return -ENOSPC;
	for (;;) {
		uint64_t need = from_reserved ? max_u64(n, reserved_locked(a)) : n + reserved_locked(a), have = free_locked(a);
		if (have >= need)
			return 0;
		int r = grow_locked(a, div_round_up(need - have, a->c.chunk_blocks));
		if (r < 0)
			return r;
	}
}

static bool low_locked(struct arena *a) REQUIRES(&a->lock)
{
	return spare_locked(a) < a->c.chunk_blocks / 2;
}

void arena_wake_if_low_locked(struct arena *a) REQUIRES(&a->lock)
{
	if (a->has_thread && low_locked(a))
		cond_signal(&a->wake);
}

void *arena_ahead_thread(void *arg)
{
	struct arena *a = arg;

	mutex_lock(&a->lock);
	while (!a->stop) {
		if (!low_locked(a)) {
			cond_wait(&a->wake, &a->lock);
		} else if (grow_locked(a, 1) < 0) {
			/* A full host stays so for a while: not with every block that is allocated. */
			cond_wait_ns(&a->changed, &a->lock, RETRY_NS);
			if (!a->stop)
				cond_wait(&a->wake, &a->lock);
		}
	}
	mutex_unlock(&a->lock);
	return NULL;
}
