/*
 * arena.c: which block is free, used, in limbo or promised.  The arena grows in arena_growth.c, chunks are arena_chunk.c.
 *
 * Two bitmaps: `used` is what the index refers to and what a checkpoint saves; `busy` is used or limbo and is what
 * arena_alloc() looks at.  A free clears the bit in `used` and notes the run in the newest limbo generation; a release
 * clears the bits in `busy` (rule R3: between the two lies a durable checkpoint).
 *
 * Search: from the hint, or from where the last search ended, onwards and around.  It stops at the first run that holds
 * all that is asked for; having passed SEARCH_BLOCKS it takes several runs, the largest it saw.  Pages without a free
 * block are stepped over by their counts.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/store/arena_impl.h"

#define SEARCH_BLOCKS (8 * BITMAP_PAGE_BITS)

_Static_assert(ARENA_PAGE_BLOCKS == BITMAP_PAGE_BITS && ARENA_PAGE_BYTES == BITMAP_PAGE_BYTES, "");

/* So many released at once make the search start again where the lowest of them lies. */
#define REUSE_BLOCKS 256u

/* ---- open and close ---- */

static int open_chunks_locked(struct arena *a) REQUIRES(&a->lock)
{
	for (uint32_t i = 0; i < ARENA_CHUNKS_MAX; i++) {
		struct chunk *c;
		int r = chunk_open(a, i, &c);
		if (r < 0 && i < a->c.n_chunks_known) {
			log_error("arena: chunk %u of %u %s", i, a->c.n_chunks_known,
				  r == -ENOENT    ? "is missing"
				  : r == -EUCLEAN ? "has the wrong size"
						  : strerror(-r));
			return r;
		}
		/* Beyond those known: made since the last checkpoint, or by a creation that did not end. */
		if (r == -ENOENT || r == -EUCLEAN)
			return 0;
		if (r == 0)
			r = chunk_add_locked(a, c);
		if (r < 0)
			return r;
	}
	return 0;
}

int arena_open(const struct arena_config *c, struct arena **ret_arena)
{
	if (c->chunk_blocks < 64 || c->chunk_blocks % 64 || c->chunk_blocks > POINTER_BLOCK_MAX / ARENA_CHUNKS_MAX ||
	    c->n_chunks_known > ARENA_CHUNKS_MAX)
		return -EUCLEAN;
	struct arena *a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->c = *c;
	a->generation = 1;
	mutex_init(&a->lock);
	cond_init(&a->changed);
	cond_init(&a->wake);
	a->chunks = calloc(ARENA_CHUNKS_MAX, sizeof(struct chunk *));
	mutex_lock(&a->lock);
	int r = a->chunks ? open_chunks_locked(a) : -ENOMEM;
	mutex_unlock(&a->lock);
	if (r == 0 && !c->no_threads) {
		a->has_thread = true;
		r = -pthread_create(&a->thread, NULL, arena_ahead_thread, a);
		if (r < 0)
			a->has_thread = false;
	}
	if (r < 0) {
		arena_close(a);
		return r;
	}
	*ret_arena = a;
	return 0;
}

static void limbo_free(struct limbo *l)
{
	free(l->runs);
	free(l);
}

static void stop_thread(struct arena *a)
{
	if (!a->has_thread)
		return;
	mutex_lock(&a->lock);
	a->stop = true;
	cond_broadcast(&a->wake);
	cond_broadcast(&a->changed);
	mutex_unlock(&a->lock);
	pthread_join(a->thread, NULL);
}

struct arena *arena_close(struct arena *a)
{
	if (!a)
		return NULL;
	stop_thread(a);
	mutex_lock(&a->lock);
	for (uint32_t i = 0; i < atomic_load(&a->n_chunks); i++)
		chunk_close(a->chunks[i]);
	for (struct limbo *l = a->limbo_oldest, *next; l; l = next) {
		next = l->next;
		limbo_free(l);
	}
	bitmap_free(&a->used);
	bitmap_free(&a->busy);
	free(a->page_dirty);
	mutex_unlock(&a->lock);
	free(a->chunks);
	cond_destroy(&a->wake);
	cond_destroy(&a->changed);
	mutex_destroy(&a->lock);
	free(a);
	return NULL;
}

/* ---- allocation ---- */

static void touch_pages_locked(struct arena *a, uint64_t block, uint64_t n) REQUIRES(&a->lock)
{
	for (uint64_t page = block / BITMAP_PAGE_BITS; page <= (block + n - 1) / BITMAP_PAGE_BITS; page++)
		a->page_dirty[page] = true;
}

static void take_locked(struct arena *a, uint64_t block, uint64_t n) REQUIRES(&a->lock)
{
	bitmap_set(&a->used, block, n);
	bitmap_set(&a->busy, block, n);
	touch_pages_locked(a, block, n);
}

/* The largest runs seen so far, as a heap whose root is the smallest of them. */
struct search {
	uint64_t want, sum;
	struct run *runs;
	uint32_t n, max;
};

static void swap_runs(struct run *a, struct run *b)
{
	struct run t = *a;

	*a = *b;
	*b = t;
}

static void heap_sink(struct search *s)
{
	for (uint32_t i = 0, child; (child = 2 * i + 1) < s->n; i = child) {
		if (child + 1 < s->n && s->runs[child + 1].n_blocks < s->runs[child].n_blocks)
			child++;
		if (s->runs[i].n_blocks <= s->runs[child].n_blocks)
			return;
		swap_runs(&s->runs[i], &s->runs[child]);
	}
}

static void heap_add(struct search *s, struct run r)
{
	if (s->n == s->max) {
		if (r.n_blocks <= s->runs[0].n_blocks)
			return;
		s->sum += r.n_blocks - s->runs[0].n_blocks;
		s->runs[0] = r;
		heap_sink(s);
		return;
	}
	s->sum += r.n_blocks;
	s->runs[s->n] = r;
	for (uint32_t i = s->n++; i && s->runs[i].n_blocks < s->runs[(i - 1) / 2].n_blocks; i = (i - 1) / 2)
		swap_runs(&s->runs[i], &s->runs[(i - 1) / 2]);
}

/* Looks through [from, end); true when nothing better need be looked for. */
static bool search_range(const struct bitmap *busy, struct search *s, uint64_t from, uint64_t end, uint64_t *seen)
{
	uint64_t begin = from;

	while ((from = bitmap_next_clear(busy, from, end)) < end) {
		uint64_t n = bitmap_clear_run(busy, from, min_u64(min_u64(s->want, UINT32_MAX), end - from));
		struct run r = {.start = pointer_make(ARENA_DEVICE, from), .n_blocks = (uint32_t)n};

		if (n == s->want) {
			s->runs[0] = r;
			s->n = 1;
			s->sum = n;
			return true;
		}
		heap_add(s, r);
		from += n;
		if (s->sum >= s->want && *seen + (from - begin) > SEARCH_BLOCKS)
			return true;
	}
	*seen += end - begin;
	return false;
}

static int by_size_down(const void *x, const void *y)
{
	const struct run *a = x, *b = y;

	return a->n_blocks > b->n_blocks ? -1 : a->n_blocks < b->n_blocks;
}

static int by_start(const void *x, const void *y)
{
	const struct run *a = x, *b = y;

	return a->start < b->start ? -1 : a->start > b->start;
}

/* Keeps the largest runs that make up what is wanted, the last of them cut, in the order of the disk. */
static void search_finish(struct search *s)
{
	uint64_t sum = 0;
	uint32_t n = 0;

	qsort(s->runs, s->n, sizeof(*s->runs), by_size_down);
	while (sum < s->want)
		sum += s->runs[n++].n_blocks;
	s->runs[n - 1].n_blocks -= (uint32_t)(sum - s->want);
	s->n = n;
	qsort(s->runs, s->n, sizeof(*s->runs), by_start);
}

static bool search_from(const struct bitmap *busy, struct search *s, uint64_t from)
{
	uint64_t seen = 0;

	s->n = 0;
	s->sum = 0;
	return search_range(busy, s, from, busy->n_bits, &seen) || search_range(busy, s, 0, from, &seen) || s->sum >= s->want;
}

static int search_locked(struct arena *a, struct search *s, uint64_t from) REQUIRES(&a->lock)
{
	/* A free run around `from` counted as two: once more from the start before giving up. */
	if (!search_from(&a->busy, s, from) && !search_from(&a->busy, s, 0))
		return -E2BIG;
	search_finish(s);
	return 0;
}

static int alloc_locked(struct arena *a, uint64_t n, pointer_t hint, bool from_reserved, struct search *s) REQUIRES(&a->lock)
{
	int r = arena_make_room_locked(a, n, from_reserved);
	uint64_t from = 0;

	if (r < 0)
		return r;
	bool hinted = hint && arena_range(a, hint, 1, &from) == 0;
	if (!hinted)
		from = a->cursor < a->busy.n_bits ? a->cursor : 0;
	r = search_locked(a, s, from);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < s->n; i++)
		take_locked(a, pointer_block(s->runs[i].start), s->runs[i].n_blocks);
	if (from_reserved)
		a->reserved -= (int64_t)n;
	if (!hinted)
		a->cursor = pointer_block(s->runs[s->n - 1].start) + s->runs[s->n - 1].n_blocks;
	arena_wake_if_low_locked(a);
	return 0;
}

int arena_alloc(struct arena *a, uint64_t n, pointer_t hint, bool from_reserved, struct run *runs, uint32_t max_runs,
		uint32_t *ret_n_runs)
{
	struct search s = {.want = n, .runs = runs, .max = max_runs};

	assert(n && max_runs);
	mutex_lock(&a->lock);
	int r = alloc_locked(a, n, hint, from_reserved, &s);
	mutex_unlock(&a->lock);
	if (r == 0)
		*ret_n_runs = s.n;
	return r;
}

static void set_hidden(struct arena *a, struct run r, bool hidden)
{
	uint64_t block;

	mutex_lock(&a->lock);
	int e = arena_range(a, r.start, r.n_blocks, &block);
	assert(e == 0 && bitmap_count(&a->busy, block, r.n_blocks) == r.n_blocks);
	if (e == 0 && hidden)
		bitmap_clear(&a->used, block, r.n_blocks);
	else if (e == 0)
		bitmap_set(&a->used, block, r.n_blocks);
	if (e == 0)
		touch_pages_locked(a, block, r.n_blocks);
	mutex_unlock(&a->lock);
}

void arena_hide(struct arena *a, struct run r)
{
	set_hidden(a, r, true);
}

void arena_show(struct arena *a, struct run r)
{
	set_hidden(a, r, false);
}

int arena_claim(struct arena *a, struct run r)
{
	uint64_t block;

	mutex_lock(&a->lock);
	int e = arena_range(a, r.start, r.n_blocks, &block);
	if (e == 0 && bitmap_count(&a->busy, block, r.n_blocks))
		e = -EUCLEAN;
	if (e == 0)
		take_locked(a, block, r.n_blocks);
	mutex_unlock(&a->lock);
	return e;
}

bool arena_is_used(struct arena *a, pointer_t at)
{
	uint64_t block;

	mutex_lock(&a->lock);
	bool is = arena_range(a, at, 1, &block) == 0 && bitmap_test(&a->used, block);
	mutex_unlock(&a->lock);
	return is;
}

/* ---- freeing ---- */

/* The newest generation's list with room for one more run. */
static struct limbo *limbo_room_locked(struct arena *a) REQUIRES(&a->lock)
{
	struct limbo *l = a->limbo_newest;

	if (!l || l->generation != a->generation) {
		l = calloc(1, sizeof(*l));
		if (!l)
			return NULL;
		l->generation = a->generation;
		if (a->limbo_newest)
			a->limbo_newest->next = l;
		else
			a->limbo_oldest = l;
		a->limbo_newest = l;
	}
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		struct run *runs = realloc(l->runs, cap * sizeof(*runs));
		if (!runs)
			return NULL;
		l->runs = runs;
		l->cap = cap;
	}
	return l;
}

static void limbo_add(struct limbo *l, struct run r)
{
	struct run *last = l->n ? &l->runs[l->n - 1] : NULL;

	if (last && pointer_add(last->start, last->n_blocks) == r.start && last->n_blocks <= UINT32_MAX - r.n_blocks)
		last->n_blocks += r.n_blocks;
	else
		l->runs[l->n++] = r;
	l->n_blocks += r.n_blocks;
}

static int free_run_locked(struct arena *a, struct run r) REQUIRES(&a->lock)
{
	uint64_t block;
	int e = arena_range(a, r.start, r.n_blocks, &block);

	if (e < 0)
		return e;
	if (bitmap_count(&a->used, block, r.n_blocks) != r.n_blocks)
		return -EUCLEAN;
	struct limbo *l = limbo_room_locked(a);
	if (!l)
		return -ENOMEM;
	limbo_add(l, r);
	bitmap_clear(&a->used, block, r.n_blocks);
	touch_pages_locked(a, block, r.n_blocks);
	a->limbo_blocks += r.n_blocks;
	return 0;
}

int arena_free(struct arena *a, struct run r)
{
	mutex_lock(&a->lock);
	int e = free_run_locked(a, r);
	mutex_unlock(&a->lock);
	return e;
}

static bool unalloc_locked(struct arena *a, struct run r) REQUIRES(&a->lock)
{
	uint64_t block;

	if (arena_range(a, r.start, r.n_blocks, &block) < 0 || bitmap_count(&a->used, block, r.n_blocks) != r.n_blocks) {
		log_error("arena: %u blocks from %llu were given back but not allocated", r.n_blocks,
			  (unsigned long long)pointer_block(r.start));
		return false;
	}
	bitmap_clear(&a->used, block, r.n_blocks);
	bitmap_clear(&a->busy, block, r.n_blocks);
	touch_pages_locked(a, block, r.n_blocks);
	return true;
}

void arena_unalloc(struct arena *a, struct run r)
{
	mutex_lock(&a->lock);
	unalloc_locked(a, r);
	mutex_unlock(&a->lock);
}

void arena_unalloc_reserved(struct arena *a, struct run r)
{
	mutex_lock(&a->lock);
	if (unalloc_locked(a, r))
		a->reserved += r.n_blocks;
	mutex_unlock(&a->lock);
}

uint64_t arena_rotate(struct arena *a)
{
	mutex_lock(&a->lock);
	uint64_t closed = a->generation++;
	mutex_unlock(&a->lock);
	return closed;
}

void arena_release(struct arena *a, uint64_t generation)
{
	uint64_t lowest = UINT64_MAX, released = 0;

	mutex_lock(&a->lock);
	assert(generation < a->generation); /* R3: the open generation's frees are in no checkpoint yet */
	while (a->limbo_oldest && a->limbo_oldest->generation <= generation) {
		struct limbo *l = a->limbo_oldest;
		for (size_t i = 0; i < l->n; i++) {
			bitmap_clear(&a->busy, pointer_block(l->runs[i].start), l->runs[i].n_blocks);
			lowest = min_u64(lowest, pointer_block(l->runs[i].start));
		}
		released += l->n_blocks;
		a->limbo_blocks -= l->n_blocks;
		a->limbo_oldest = l->next;
		if (!l->next)
			a->limbo_newest = NULL;
		limbo_free(l);
	}
	/* Blocks that were written before are faster than fresh ones on a thin or sparse host: back to them, when it pays. */
	if (released >= REUSE_BLOCKS)
		a->cursor = min_u64(a->cursor, lowest);
	mutex_unlock(&a->lock);
}

/* ---- reservations ---- */

int arena_reserve(struct arena *a, uint64_t n)
{
	mutex_lock(&a->lock);
	int r = arena_make_room_locked(a, n, false);
	if (r == 0) {
		a->reserved += n;
		arena_wake_if_low_locked(a);
	}
	mutex_unlock(&a->lock);
	return r;
}

void arena_unreserve(struct arena *a, uint64_t n)
{
	mutex_lock(&a->lock);
	a->reserved -= (int64_t)n;
	mutex_unlock(&a->lock);
}

void arena_set_reserved(struct arena *a, uint64_t n)
{
	mutex_lock(&a->lock);
	a->reserved = (int64_t)n;
	mutex_unlock(&a->lock);
}

/* ---- saving and loading ---- */

int arena_save(struct arena *a, int (*put)(void *ctx, unsigned device, uint64_t page, const uint8_t *bits), void *ctx)
{
	uint8_t bits[BITMAP_PAGE_BYTES];
	int r = 0;

	mutex_lock(&a->lock);
	for (uint64_t page = 0; page < a->n_pages && r == 0; page++) {
		if (!a->page_dirty[page])
			continue;
		a->page_dirty[page] = false;
		bitmap_page_get(&a->used, page, bits);
		mutex_unlock(&a->lock);
		r = put(ctx, ARENA_DEVICE, page, bits);
		mutex_lock(&a->lock);
		if (r < 0)
			a->page_dirty[page] = true;
	}
	mutex_unlock(&a->lock);
	return r;
}

int arena_load(struct arena *a, unsigned device, uint64_t page, const uint8_t *bits)
{
	if (device != ARENA_DEVICE)
		return -EUCLEAN;
	mutex_lock(&a->lock);
	bool ok = bitmap_page_put(&a->used, page, bits) && bitmap_page_put(&a->busy, page, bits);
	mutex_unlock(&a->lock);
	return ok ? 0 : -EUCLEAN;
}

void arena_get_status(struct arena *a, struct arena_status *ret)
{
	uint64_t host_free = 0, host_total;
	int r = store_space(a->c.store, &host_free, &host_total);

	mutex_lock(&a->lock);
	if (a->free_before_growth) /* the chunk being made still counts as growable */
		host_free = a->free_before_growth;
	*ret = (struct arena_status){
	    .n_chunks = atomic_load(&a->n_chunks),
	    .total_blocks = a->used.n_bits,
	    .used_blocks = a->used.n_set,
	    .limbo_blocks = a->limbo_blocks,
	    .reserved_blocks = reserved_locked(a),
	    .free_blocks = free_locked(a),
	    .growable_blocks = r < 0 ? 0 : arena_growable(a, host_free) * a->c.chunk_blocks,
	    .blocks_read = atomic_load(&a->blocks_read),
	    .blocks_written = atomic_load(&a->blocks_written),
	    .error = a->error,
	};
	mutex_unlock(&a->lock);
}
