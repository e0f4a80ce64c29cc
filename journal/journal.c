/*
 * journal.c: the journal's life and everything beside the commit path: format, open, reading back, room, status.
 *
 * Room: positions only grow, and the ring holds those from the tail (the end of batch tail_seq) on.  Appends never wait
 * for the ring, so before each operation journal_wait_room() keeps a margin free for what all writers may append at once.
 * Past 75 % of what is left it slows them, longer the fuller the ring is, so that the homer catches up before they stop.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "journal/state.h"

#define WRITER_MARGIN_BLOCKS 50u /* 200 KiB: the largest operation of one writer, in a batch of its own */
#define WAIT_MAX_NS          INT64_C(100000000)
#define WIDE_MARGIN_BLOCKS   260u /* one write of 1 MiB inline */
#define THROTTLE_MAX_NS      INT64_C(20000000)
#define PRESSURE_STEPS       16u /* of the ring */
#define PRESSURE_FIRST       4u  /* 25 % */
#define BOUNCE_BLOCKS        64u

int journal_format(struct store *store, const struct journal_geometry *g)
{
	int r = ring_format(store, g);

	if (!r)
		r = staging_format(store);
	return r ? r : store_sync_names(store);
}

static void set_limits(struct journal *j)
{
	uint64_t ring = j->ring.n_blocks,
		 margin = j->config.n_writers * (uint64_t)WRITER_MARGIN_BLOCKS + WIDE_MARGIN_BLOCKS + BATCH_MAX_BLOCKS;

	/* A ring that is small for its writers still takes some; then the check in journal_append() is what protects it. */
	j->full_blocks = max_u64(ring > margin ? ring - margin : 0, ring / 4);
	j->throttle_blocks = j->full_blocks / 4 * 3;
}

static int open_files(struct journal *j)
{
	int r = ring_open(j->config.store, &j->config.geometry, &j->ring);

	for (unsigned i = 0; !r && i < STAGING_FILES; i++)
		r = staging_open(j->config.store, i, &j->staging[i]);
	return r;
}

int journal_open(const struct journal_config *c, struct journal **ret_journal)
{
	struct journal *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	j->config = *c;
	j->waiters_end = &j->waiters;
	mutex_init(&j->lock);
	cond_init(&j->trimmed);
	int r = open_files(j);
	if (r)
		goto err;
	set_limits(j);
	j->points_cap = j->ring.n_blocks / 2 + 2; /* a batch has two blocks at least; one point more than batches */
	j->points = calloc(j->points_cap, sizeof(*j->points));
	j->scratch = aligned_alloc(BLOCK_SIZE, STAGING_SCRATCH_BYTES);
	if (!j->points || !j->scratch) {
		r = -ENOMEM;
		goto err;
	}
	*ret_journal = j;
	return 0;
err:
	journal_close(j);
	return r;
}

struct journal *journal_close(struct journal *j)
{
	if (!j)
		return NULL;
	assert(!j->committing && !j->waiters);
	for (unsigned i = 0; i < STAGING_FILES; i++)
		staging_close(&j->staging[i]);
	ring_close(&j->ring);
	free(j->points);
	free(j->scratch);
	cond_destroy(&j->trimmed);
	mutex_destroy(&j->lock);
	free(j);
	return NULL;
}

void journal_begin_at_locked(struct journal *j, const struct journal_point *p)
{
	assert(!j->committing);
	j->origin_seq = j->tail_seq = j->sealed_seq = j->durable_seq = p->seq;
	*point_at(j, p->seq) = *p;
	j->open = 0;
	j->n_staged = 0;
	for (unsigned i = 0; i < STAGING_FILES; i++)
		staging_forget(&j->staging[i]);
}

uint64_t journal_end_locked(struct journal *j)
{
	uint64_t end = point_at(j, j->sealed_seq)->pos;

	for (unsigned i = 0; i < STAGING_FILES; i++) {
		const struct staging *s = &j->staging[i];
		if (s->n.n_records)
			end = max_u64(end, s->prev.pos + batch_blocks(&s->n));
	}
	return end;
}

uint64_t journal_used_locked(struct journal *j)
{
	return journal_end_locked(j) - point_at(j, j->tail_seq)->pos;
}

void journal_point_push_locked(struct journal *j, const struct journal_point *p)
{
	assert(p->seq == j->sealed_seq + 1 && p->pos > point_at(j, j->sealed_seq)->pos);
	assert(p->seq - j->tail_seq < j->points_cap);
	*point_at(j, p->seq) = *p;
	j->sealed_seq = p->seq;
}

bool journal_pressure_locked(struct journal *j)
{
	uint64_t step = journal_used_locked(j) * PRESSURE_STEPS / j->ring.n_blocks;
	bool rises = step > j->pressure_step && step >= PRESSURE_FIRST;

	j->pressure_step = step;
	return rises;
}

/*
 * Copies from a batch that is still in memory: returns how many of the n blocks from `pos` were; 0 when pos is not, then
 * *ret_on_disk of them lie before the first that is.
 */
static uint32_t read_memory_locked(struct journal *j, uint64_t pos, uint32_t n, uint8_t *to, uint32_t *ret_on_disk)
    REQUIRES(j->lock)
{
	*ret_on_disk = n;
	for (unsigned i = 0; i < STAGING_FILES; i++) {
		const struct staging *s = &j->staging[i];
		uint64_t first = s->prev.pos + 1;
		if (staging_holds(s, pos)) {
			n = (uint32_t)min_u64(n, first + s->n.n_payload - pos);
			memcpy(to, s->payload + (pos - first) * BLOCK_SIZE, (size_t)n * BLOCK_SIZE);
			return n;
		}
		if (s->n.n_payload && first > pos && first - pos < *ret_on_disk)
			*ret_on_disk = (uint32_t)(first - pos);
	}
	return 0;
}

static int read_ring(struct journal *j, uint64_t pos, uint32_t n, uint8_t *to)
{
	if ((uintptr_t)to % BLOCK_SIZE == 0)
		return ring_read(&j->ring, pos, n, to);
	CLEANUP_FREE uint8_t *bounce = aligned_alloc(BLOCK_SIZE, (size_t)BOUNCE_BLOCKS * BLOCK_SIZE);
	if (!bounce)
		return -ENOMEM;
	while (n) {
		uint32_t part = n < BOUNCE_BLOCKS ? n : BOUNCE_BLOCKS;
		int r = ring_read(&j->ring, pos, part, bounce);
		if (r)
			return r;
		memcpy(to, bounce, (size_t)part * BLOCK_SIZE);
		to += (size_t)part * BLOCK_SIZE;
		pos += part;
		n -= part;
	}
	return 0;
}

int journal_read(struct journal *j, uint64_t pos, uint32_t n, void *p)
{
	uint8_t *to = p;

	while (n) {
		uint32_t on_disk, part = 0;
		mutex_lock(&j->lock);
		uint64_t tail = point_at(j, j->tail_seq)->pos, end = journal_end_locked(j);
		bool inside = pos >= tail && pos < end && n <= end - pos;
		if (inside)
			part = read_memory_locked(j, pos, n, to, &on_disk);
		mutex_unlock(&j->lock);
		if (!inside)
			return -EUCLEAN; /* a pointer that never was, or is long gone */
		if (!part) {
			part = on_disk;
			int r = read_ring(j, pos, part, to);
			if (r)
				return r;
		}
		pos += part;
		n -= part;
		to += (size_t)part * BLOCK_SIZE;
	}
	return 0;
}

int journal_point_after(struct journal *j, uint64_t seq, struct journal_point *ret)
{
	mutex_lock(&j->lock);
	bool known = seq >= j->tail_seq && seq <= j->sealed_seq;
	if (known)
		*ret = *point_at(j, seq);
	mutex_unlock(&j->lock);
	return known ? 0 : -ENOENT;
}

void journal_trim(struct journal *j, uint64_t seq)
{
	mutex_lock(&j->lock);
	/* What is not durable is in no durable index either; the bound keeps a wrong caller from losing the newest batch. */
	seq = min_u64(seq, j->durable_seq);
	if (seq > j->tail_seq) {
		j->tail_seq = seq;
		journal_pressure_locked(j);
		cond_broadcast(&j->trimmed);
	}
	mutex_unlock(&j->lock);
}

/* How long a writer is held up at this fill. */
static int64_t throttle_ns(const struct journal *j, uint64_t used)
{
	return (int64_t)(used - j->throttle_blocks) * THROTTLE_MAX_NS / (int64_t)(j->full_blocks - j->throttle_blocks);
}

static int wait_full_locked(struct journal *j) REQUIRES(j->lock)
{
	while (!j->error && journal_used_locked(j) >= j->full_blocks)
		if (!cond_wait_ns(&j->trimmed, &j->lock, WAIT_MAX_NS))
			return -EAGAIN;
	return 0;
}

int journal_wait_room(struct journal *j)
{
	int r = 0;

	mutex_lock(&j->lock);
	uint64_t used = journal_used_locked(j);
	if (!j->error && used > j->throttle_blocks) {
		j->throttled++;
		mutex_unlock(&j->lock);
		journal_notify_pressure(j);
		mutex_lock(&j->lock);
		if (used < j->full_blocks)
			cond_wait_ns(&j->trimmed, &j->lock, throttle_ns(j, used));
		r = wait_full_locked(j);
	}
	if (j->error)
		r = -EROFS;
	mutex_unlock(&j->lock);
	return r;
}

void journal_get_status(struct journal *j, struct journal_status *ret)
{
	mutex_lock(&j->lock);
	*ret = (struct journal_status){
	    .open_seq = j->sealed_seq + 1,
	    .sealed_seq = j->sealed_seq,
	    .durable_seq = j->durable_seq,
	    .tail_seq = j->tail_seq,
	    .ring_blocks = j->ring.n_blocks,
	    .used_blocks = journal_used_locked(j),
	    .open_bytes = open_bytes_locked(j),
	    .open_since_ns = j->open_since_ns,
	    .commits = j->commits,
	    .commit_blocks = j->commit_blocks,
	    .commit_ns = j->commit_ns,
	    .operations = j->operations,
	    .throttled = j->throttled,
	    .error = j->error,
	};
	mutex_unlock(&j->lock);
}

void journal_failure(struct journal *j, char *ret_text, size_t cap)
{
	mutex_lock(&j->lock);
	snprintf(ret_text, cap, "%s", j->failure);
	mutex_unlock(&j->lock);
}
