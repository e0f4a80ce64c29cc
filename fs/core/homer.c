/*
 * homer.c: moves data from the journal to its home in the arena, oldest first, so that the ring can be reused.
 *
 * One step: take staged writes from the head of the queue, of durable batches only (rule R2); find which of their blocks
 * are still what the file's slot points to; give homes to those that have none, in file order and contiguous (this is
 * delayed allocation); read the data from the ring, write it at queue depth in order of homes; then, inode by inode, look
 * at each slot again and turn it to its home.  A slot that changed meanwhile keeps what it has.
 *
 * In place is right because no record names the home's old content any more: the slot's staged copy wins on read, also
 * after a crash, for as long as the ring keeps it, and the ring keeps it until an index that says "homed" is durable (R5).
 *
 * A step excludes the two critical moments of a checkpoint (maint): blocks freed while data is on its way to them cannot be
 * given to somebody else, and no checkpoint saves an allocation that no leaf names.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/metric.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/share/share.h"
#include "fs/core/squeeze/squeeze.h"

/* Ring blocks read in one go. */
#define READ_BLOCKS 256u
/* Stretches of new homes that one step asks for. */
#define RUNS_MAX 512u
/* Of one step of homer_drain(). */
#define DRAIN_BLOCKS 4096u

static struct staged_write *at(struct homer *h, size_t i) REQUIRES(h->lock)
{
	return &h->ring[(h->head + i) & (h->cap - 1)];
}

static int grow(struct homer *h) REQUIRES(h->lock)
{
	size_t cap = h->cap ? h->cap * 2 : 1024;
	struct staged_write *ring = malloc(cap * sizeof(*ring));

	if (!ring)
		return -ENOMEM;
	for (size_t i = 0; i < h->count; i++)
		ring[i] = *at(h, i);
	free(h->ring);
	h->ring = ring;
	h->cap = cap;
	h->head = 0;
	return 0;
}

int homer_queue(struct fs *fs, const struct staged_write *w)
{
	struct homer *h = &fs->homer;
	int r = 0;

	mutex_lock(&h->lock);
	if (h->count == h->cap)
		r = grow(h);
	if (r == 0) {
		/* In the order of batches: a thread may get here later than others that appended after it. */
		size_t i = h->count++;

		for (; i > 0 && at(h, i - 1)->seq > w->seq; i--)
			*at(h, i) = *at(h, i - 1);
		*at(h, i) = *w;
		h->queued_blocks += w->n_blocks;
	}
	mutex_unlock(&h->lock);
	return r;
}

void homer_point(struct fs *fs, uint64_t applied_seq, uint64_t *ret_seq)
{
	struct homer *h = &fs->homer;

	mutex_lock(&h->lock);
	*ret_seq = h->count && at(h, 0)->seq <= applied_seq ? at(h, 0)->seq - 1 : applied_seq;
	mutex_unlock(&h->lock);
}

uint64_t homer_backlog(struct fs *fs)
{
	mutex_lock(&fs->homer.lock);
	uint64_t n = fs->homer.queued_blocks;
	mutex_unlock(&fs->homer.lock);
	return n;
}

uint64_t homer_oldest(struct fs *fs, uint64_t seq)
{
	struct homer *h = &fs->homer;

	mutex_lock(&h->lock);
	uint64_t oldest = h->count ? min_u64(at(h, 0)->seq, seq) : seq;
	oldest = h->taken_seq ? min_u64(h->taken_seq, oldest) : oldest;
	mutex_unlock(&h->lock);
	return oldest;
}

void homer_destroy(struct homer *h) NO_THREAD_SAFETY
{
	mutex_destroy(&h->lock);
	free(h->ring);
}

/* A block on its way home. */
struct move {
	uint64_t ino, block, pos;
	pointer_t home;
	uint32_t crc;
	bool fresh; /* home was allocated by this step */
};
struct step {
	struct staged_write *taken;
	size_t n_taken;
	struct move *moves;
	size_t n_moves, n_fresh;
	bool any_shared; /* a home was that of other slots, too */
	uint8_t *data;   /* n_moves blocks, in the order of moves */
};

static void step_free(struct step *s)
{
	free(s->taken);
	free(s->moves);
	free(s->data);
}

/*
 * Takes whole writes of durable batches from the head of the queue, up to max_blocks and at least one.  A step that fails puts
 * them back; no checkpoint looks at the queue meanwhile (maint).
 */
static int take(struct fs *fs, uint64_t durable, uint32_t max_blocks, struct step *s, bool *ret_more)
{
	struct homer *h = &fs->homer;
	uint32_t blocks = 0;
	size_t n = 0;
	int r = 0;

	mutex_lock(&h->lock);
	for (; n < h->count && at(h, n)->ready <= durable && (n == 0 || blocks + at(h, n)->n_blocks <= max_blocks); n++)
		blocks += at(h, n)->n_blocks;
	if (n > 0) {
		s->taken = malloc(n * sizeof(*s->taken));
		s->moves = malloc(blocks * sizeof(*s->moves));
		if (!s->taken || !s->moves)
			r = -ENOMEM;
	}
	for (; r == 0 && s->n_taken < n; s->n_taken++)
		s->taken[s->n_taken] = *at(h, s->n_taken);
	if (s->n_taken > 0) {
		h->taken_seq = s->taken[0].seq;
		h->head = (h->head + n) & (h->cap - 1);
		h->count -= n;
		h->queued_blocks -= blocks;
	}
	*ret_more = h->count > 0 && at(h, 0)->ready <= durable;
	mutex_unlock(&h->lock);
	return r;
}

static void put_back(struct fs *fs, const struct step *s)
{
	for (size_t i = 0; i < s->n_taken; i++)
		if (homer_queue(fs, &s->taken[i]) < 0) /* the ring may never be trimmed past it, and now nobody would know */
			fs_fail(fs, -ENOMEM, "the queue of data to move out of the journal");
}

static void work_done(struct homer *h)
{
	mutex_lock(&h->lock);
	h->taken_seq = 0;
	mutex_unlock(&h->lock);
}

static int by_place(const void *a, const void *b)
{
	const struct staged_write *x = a, *y = b;

	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return x->block < y->block ? -1 : x->block > y->block;
}

/* The blocks of one staged write that still are what their slots point to. */
static int collect(struct fs *fs, const struct staged_write *w, struct step *s)
{
	struct leaf l;
	int r = 0;

	icache_rdlock(fs->icache, w->ino);
	for (uint32_t i = 0; i < w->n_blocks && r == 0; i++) {
		uint64_t block = w->block + i;
		const struct slot *slot = &l.slot[block % LEAF_SLOTS];

		if (i == 0 || block % LEAF_SLOTS == 0)
			r = extent_get(fs, w->ino, block / LEAF_SLOTS, &l);
		if (r == -EBADMSG) { /* said; what it maps cannot be read, now or later, and must not hold up the rest */
			memset(&l, 0, sizeof(l));
			r = 0;
		}
		if (r < 0 || slot->staged != pointer_make(DEVICE_JOURNAL, w->pos + i))
			continue;
		s->moves[s->n_moves++] = (struct move){
		    .ino = w->ino, .block = block, .pos = w->pos + i, .home = slot->home, .crc = slot->crc, .fresh = !slot->home};
		s->n_fresh += !slot->home;
		s->any_shared |= slot->shared;
	}
	icache_rdunlock(fs->icache, w->ino);
	return r;
}

static int by_file(const void *a, const void *b)
{
	const struct move *x = a, *y = b;

	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return x->block < y->block ? -1 : x->block > y->block;
}

/* A file into which the same was cloned twice waits twice.  File order is also what makes new homes contiguous. */
static void once_each(struct step *s)
{
	size_t n = 0;

	qsort(s->moves, s->n_moves, sizeof(*s->moves), by_file);
	s->n_fresh = 0;
	for (size_t i = 0; i < s->n_moves; i++) {
		if (n > 0 && by_file(&s->moves[n - 1], &s->moves[i]) == 0)
			continue;
		s->moves[n++] = s->moves[i];
		s->n_fresh += s->moves[i].fresh;
	}
	s->n_moves = n;
}

/* Homes for blocks that have none, contiguous in file order.  They were reserved when the data was accepted. */
static int give_homes(struct fs *fs, struct step *s)
{
	CLEANUP_FREE struct run *runs = malloc(RUNS_MAX * sizeof(*runs));
	size_t next = 0;

	if (!runs)
		return -ENOMEM;
	for (size_t left = s->n_fresh; left > 0;) {
		uint64_t want = left;
		uint32_t n_runs;
		int r;

		do { /* a fragmented arena: in smaller pieces */
			r = arena_alloc(fs->arena, want, 0, true, runs, RUNS_MAX, &n_runs);
		} while (r == -E2BIG && (want = (want + 1) / 2) >= 1);
		if (r < 0)
			return r;
		left -= want;
		for (uint32_t k = 0; k < n_runs; k++)
			for (uint32_t b = 0; b < runs[k].n_blocks; b++) {
				while (s->moves[next].home)
					next++;
				s->moves[next].home = pointer_add(runs[k].start, b);
			}
	}
	return 0;
}

static void return_homes(struct fs *fs, const struct step *s)
{
	for (size_t i = 0; i < s->n_moves; i++)
		if (s->moves[i].fresh && s->moves[i].home)
			arena_unalloc_reserved(fs->arena, (struct run){.start = s->moves[i].home, .n_blocks = 1});
}

static int by_home(const void *a, const void *b)
{
	const struct move *x = a, *y = b;

	return x->home < y->home ? -1 : x->home > y->home;
}

/* Indices of moves in the order of the ring. */
struct ring_order {
	uint64_t pos;
	size_t move;
};

static int by_pos(const void *a, const void *b)
{
	const struct ring_order *x = a, *y = b;

	return x->pos < y->pos ? -1 : x->pos > y->pos;
}

static int read_stretch(struct fs *fs, struct step *s, const struct ring_order *o, size_t n, uint8_t *scratch)
{
	uint32_t blocks = (uint32_t)(o[n - 1].pos - o[0].pos + 1);
	int r = journal_read(fs->journal, o[0].pos, blocks, scratch);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		const struct move *m = &s->moves[o[i].move];
		const uint8_t *from = scratch + (o[i].pos - o[0].pos) * BLOCK_SIZE;

		/* Damaged in the ring: it goes home as it is.  Its CRC goes with it, so that a read still tells. */
		if (crc32c(0, from, BLOCK_SIZE) != m->crc) {
			damage_note(fs, m->ino, m->block);
			fs_damaged(fs, m->ino, m->block * BLOCK_SIZE, "data in the journal");
		}
		memcpy(s->data + o[i].move * BLOCK_SIZE, from, BLOCK_SIZE);
	}
	return 0;
}

static int read_ring(struct fs *fs, struct step *s)
{
	CLEANUP_FREE struct ring_order *order = malloc(s->n_moves * sizeof(*order));
	CLEANUP_FREE void *scratch = NULL;

	if (!order || posix_memalign(&scratch, DISK_BLOCK, READ_BLOCKS * BLOCK_SIZE) ||
	    posix_memalign((void **)&s->data, DISK_BLOCK, s->n_moves * BLOCK_SIZE))
		return -ENOMEM;
	for (size_t i = 0; i < s->n_moves; i++)
		order[i] = (struct ring_order){s->moves[i].pos, i};
	qsort(order, s->n_moves, sizeof(*order), by_pos);
	for (size_t i = 0; i < s->n_moves;) {
		size_t n = 1;

		/* A few dead blocks between are read along: one request costs more than they do. */
		while (i + n < s->n_moves && order[i + n].pos - order[i].pos < READ_BLOCKS &&
		       order[i + n].pos - order[i + n - 1].pos <= 8)
			n++;
		int r = read_stretch(fs, s, order + i, n, scratch);
		if (r < 0)
			return r;
		i += n;
	}
	return 0;
}

static int write_homes(struct fs *fs, const struct step *s)
{
	CLEANUP_FREE struct arena_write *w = malloc(s->n_moves * sizeof(*w));
	size_t n = 0;

	if (!w)
		return -ENOMEM;
	for (size_t i = 0; i < s->n_moves; i++) {
		if (n > 0 && s->moves[i].home == pointer_add(w[n - 1].at, w[n - 1].n_blocks) && w[n - 1].n_blocks < READ_BLOCKS)
			w[n - 1].n_blocks++;
		else
			w[n++] = (struct arena_write){.at = s->moves[i].home, .n_blocks = 1, .p = s->data + i * BLOCK_SIZE};
	}
	return arena_write_many(fs->arena, w, n);
}

/* Turns the slot to its home; a fresh home that the slot no longer needs goes back. */
static void settle(struct fs *fs, struct slot *slot, const struct move *m)
{
	bool current = slot->staged == pointer_make(DEVICE_JOURNAL, m->pos);

	if (!m->fresh) {
		if (current && slot->home == m->home) {
			slot->staged = 0;
			slot->shared = false;
			slot->birth = slot_birth_of_space(fs, slot); /* it holds data again */
		}
		return;
	}
	if (!slot_reserved(slot)) { /* cut off or written directly meanwhile: the promise was given back once already */
		arena_unalloc_reserved(fs->arena, (struct run){.start = m->home, .n_blocks = 1});
		return;
	}
	/* Newer data waits in the journal, or none: the home is as good for it. */
	slot->home = m->home;
	slot->birth = (uint32_t)atomic_load(&fs->snapshot_generation);
	if (current)
		slot->staged = 0;
}

/* The moves [*at, ...) of one leaf. */
static int settle_leaf(struct fs *fs, const struct step *s, size_t *next)
{
	uint64_t ino = s->moves[*next].ino, leaf = s->moves[*next].block / LEAF_SLOTS;
	struct lockset ls;
	struct leaf old, new;

	lockset_lock(fs->icache, &ls, &ino, 1);
	int r = extent_get(fs, ino, leaf, &old);
	new = old;
	for (; *next < s->n_moves && s->moves[*next].ino == ino && s->moves[*next].block / LEAF_SLOTS == leaf; (*next)++)
		if (r == 0)
			settle(fs, &new.slot[s->moves[*next].block % LEAF_SLOTS], &s->moves[*next]);
		else if (s->moves[*next].fresh)
			arena_unalloc_reserved(fs->arena, (struct run){.start = s->moves[*next].home, .n_blocks = 1});
	if (r == 0 && memcmp(&old, &new, sizeof(old)) != 0) {
		/* Reservations were turned into blocks by arena_alloc: nothing to count here. */
		r = extent_put(fs, NULL, ino, leaf, &old, &new, NULL);
		if (r == 0)
			squeeze_offer(fs, ino, leaf, 1);
	}
	lockset_unlock(fs->icache, &ls);
	return r == -EBADMSG ? 0 : r;
}

/* Whoever let go of a home that is written here does so in what a crash leaves, too (share/share.h). */
static int commit_drops(struct fs *fs, const struct step *s)
{
	struct journal_status js;

	if (!s->any_shared)
		return 0;
	journal_get_status(fs->journal, &js);
	return atomic_load(&fs->shares->drop_seq) > js.durable_seq ? journal_commit_all(fs->journal, NULL) : 0;
}

static int move_all(struct fs *fs, struct step *s)
{
	int r = commit_drops(fs, s);

	if (r == 0 && s->n_fresh)
		r = give_homes(fs, s);
	if (r == 0) {
		qsort(s->moves, s->n_moves, sizeof(*s->moves), by_home);
		r = read_ring(fs, s);
	}
	if (r == 0)
		r = write_homes(fs, s);
	if (r < 0) {
		return_homes(fs, s);
		return r;
	}
	qsort(s->moves, s->n_moves, sizeof(*s->moves), by_file);
	for (size_t i = 0; i < s->n_moves;) { /* every leaf, the first error kept */
		int e = settle_leaf(fs, s, &i);

		r = r < 0 ? r : e;
	}
	atomic_fetch_add(&fs->homer.homed_blocks, s->n_moves);
	return r;
}

static int home_step_locked(struct fs *fs, uint32_t max_blocks, bool *ret_more)
{
	struct journal_status js;
	struct step s = {0};

	journal_get_status(fs->journal, &js);
	uint64_t durable = fs->config.sabotage & FS_SABOTAGE_R2_HOME_EARLY ? UINT64_MAX : js.durable_seq;
	int r = take(fs, durable, max_blocks, &s, ret_more);
	if (r == 0 && s.n_taken > 0) {
		/* In file order, so that new homes are contiguous; the copy is sorted, the queue is not. */
		qsort(s.taken, s.n_taken, sizeof(*s.taken), by_place);
		for (size_t i = 0; i < s.n_taken && r == 0; i++)
			r = collect(fs, &s.taken[i], &s);
		if (r == 0 && s.n_moves > 0) {
			once_each(&s);
			r = move_all(fs, &s);
		}
		if (r < 0)
			put_back(fs, &s);
		work_done(&fs->homer);
	}
	step_free(&s);
	return r;
}

int homer_drain(struct fs *fs)
{
	bool more = true;
	int r = 0;

	while (r == 0 && more)
		r = home_step_locked(fs, DRAIN_BLOCKS, &more);
	return r < 0 ? r : homer_backlog(fs) ? -EAGAIN : 0;
}

int fs_home_step(struct fs *fs, uint32_t max_blocks, bool *ret_more)
{
	*ret_more = false;
	if (fs->config.read_only || atomic_load(&fs->failed))
		return -EROFS;
	mutex_lock(&fs->maint);
	const int64_t start_ns = metric_now_ns();
	int r = home_step_locked(fs, max_blocks, ret_more);
	metric_record(HISTOGRAM_HOME, metric_now_ns() - start_ns);
	mutex_unlock(&fs->maint);
	if (r == -EIO || r == -EUCLEAN)
		fs_fail(fs, r, "moving data from the journal to the arena");
	return r;
}
