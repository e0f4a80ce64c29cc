/*
 * take.c: a follower takes a batch in pieces: what it says first, then the data that its records name in the arena.
 *
 *     take_batch   copied, then checked whole: hash chain, every record, every block, and whether it fits this volume
 *     take_data    each in order: blocks allocated, checked against the record and written
 *     finish_batch (apply.c)
 *
 * Nothing of it counts before it is finished: the blocks are hidden from checkpoints, so that a crash leaves nothing allocated
 * that no record names, and drop_batch() gives them back.
 *
 * Blocks that were superseded on the leader are zeros here.  Until the batch is applied that the leader named with them (the
 * fence) their place in the file cannot be read, for their CRC says what they should be; so before that is here, nothing of it is
 * applied (window.c).
 */
#include "fs/core/replica/impl.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"

#define BOUNCE_BYTES ((size_t)RECORD_WRITE_BLOCKS_MAX * BLOCK_SIZE)

void taken_free(struct taken_batch *t)
{
	free(t->memory);
	free(t->data_at);
	free(t->runs);
	buf_free(&t->local);
	*t = (struct taken_batch){0};
}

void taken_reset(struct taken_batch *t)
{
	struct taken_batch empty = {
	    .memory = t->memory, .cap = t->cap, .local = t->local, .runs = t->runs, .cap_runs = t->cap_runs};

	free(t->data_at);
	buf_reset(&empty.local);
	*t = empty;
}

void taken_drop(struct replica *rep)
{
	struct taken_batch *t = &rep->taken;
	struct fs *fs = rep->fs;

	if (t->n_runs > 0) {
		rwlock_rdlock(&fs->gate); /* no checkpoint may see them shown and not yet given back */
		for (size_t i = 0; i < t->n_runs; i++) {
			arena_show(fs->arena, t->runs[i]);
			arena_unalloc(fs->arena, t->runs[i]);
		}
		rwlock_rdunlock(&fs->gate);
	}
	taken_reset(t);
}

void replica_drop_batch(struct replica_volume *v)
{
	struct replica *rep = replica_of(v);

	mutex_lock(&rep->follow_lock);
	taken_drop(rep);
	mutex_unlock(&rep->follow_lock);
}

/* ---- the batch ---- */

int replica_check_sender(struct fs *fs, uint64_t epoch)
{
	struct super s;
	int r = replica_failed(fs);

	if (r < 0)
		return r;
	replica_get_super(fs, &s);
	if (epoch == 0 || epoch < s.epoch)
		return -ESTALE;
	return s.follower && !s.resyncing ? 0 : -EINVAL;
}

/* What is allocated for a batch is bounded before. */
static int copy_batch(struct taken_batch *t, const struct shipped_batch *b)
{
	if (b->logical_bytes > BATCH_LOGICAL_MAX_BYTES || b->n_payload > BATCH_PAYLOAD_MAX_BLOCKS)
		return -EUCLEAN;
	size_t payload = (size_t)b->n_payload * BLOCK_SIZE, bytes = payload + b->logical_bytes;
	if (bytes > t->cap) {
		uint8_t *memory = malloc(bytes);

		if (!memory)
			return -ENOMEM;
		free(t->memory);
		t->memory = memory;
		t->cap = bytes;
	}
	if (payload)
		memcpy(t->memory, b->payload, payload);
	if (b->logical_bytes)
		memcpy(t->memory + payload, b->logical, b->logical_bytes);
	t->view = (struct batch_view){
	    .payload = t->memory,
	    .logical = t->memory + payload,
	    .n = {.n_records = b->n_records, .n_payload = b->n_payload, .logical_bytes = b->logical_bytes},
	};
	t->info = (struct batch_info){.epoch = b->epoch,
				      .incarnation = b->incarnation,
				      .seq = b->seq,
				      .prev_hash = b->prev_hash,
				      .hash = b->hash,
				      .time_ns = b->time_ns,
				      .n = t->view.n};
	t->epoch = b->epoch;
	return 0;
}

/* Whether it continues what is here.  The journal knows the hash of a batch once it is sealed, until then we do. */
static int check_place(struct replica *rep, const struct batch_info *info)
{
	uint64_t seq = replica_newest(rep->fs);
	struct journal_point newest;
	int r = journal_history_point(rep->fs->journal, seq, &newest);

	if (r == -ENOENT && rep->finished.seq == seq) {
		newest.hash = rep->finished.hash;
		r = 0;
	}
	return r == 0 && (info->seq != seq + 1 || info->prev_hash != newest.hash) ? -EINVAL : r;
}

/* Where in the logical section the records with data out of line are. */
static int find_data(struct taken_batch *t)
{
	struct batch_cursor c;
	struct record rec;
	uint32_t at = 0;
	int r;

	t->data_at = malloc(t->view.n.n_records * sizeof(*t->data_at));
	if (!t->data_at)
		return -ENOMEM;
	batch_cursor_start(&c, &t->view);
	for (; (r = batch_next(&c, &rec)) == 1; at = c.used.logical_bytes)
		if (rec.type == RECORD_WRITE && rec.write.out_of_line)
			t->data_at[t->n_data++] = at;
	return r;
}

/* A stream that begins where the state is: what waits in the window comes once more, and what it lacks may be another. */
static int begin_again(struct replica *rep, uint64_t seq) REQUIRES(rep->follow_lock)
{
	bool again = seq == atomic_load(&rep->fs->applied_seq) + 1 && seq <= replica_newest(rep->fs);

	return again ? window_leave(rep) : 0;
}

static int take_locked(struct replica *rep, const struct shipped_batch *b) REQUIRES(rep->follow_lock)
{
	struct taken_batch *t = &rep->taken;
	struct fs *fs = rep->fs;
	int r = replica_check_sender(fs, b->epoch);

	if (r == 0 && t->begun)
		r = -EINVAL;
	if (r == 0)
		r = window_settle(rep);
	if (r == 0)
		r = begin_again(rep, b->seq);
	if (r < 0)
		return r;
	r = copy_batch(t, b);
	if (r == 0)
		r = check_place(rep, &t->info);
	if (r == 0)
		r = batch_verify_parts(&t->info, &t->view);
	t->checked = !window_is_open(fs);
	if (r == 0 && t->checked)
		r = replica_check(fs, &t->view, b->seq, b->epoch, &t->promised);
	if (r == 0)
		r = find_data(t);
	t->begun = r == 0;
	return r;
}

int replica_take_batch(struct replica_volume *v, const struct shipped_batch *b, uint32_t *ret_n_data)
{
	struct replica *rep = replica_of(v);
	/* A batch of a higher epoch than any heard of is a promise, too. */
	int r = b->epoch > replica_promised(rep->fs) ? v->ops->note_epoch(v, b->epoch) : 0;

	if (r < 0)
		return r;
	mutex_lock(&rep->follow_lock);
	r = take_locked(rep, b);
	*ret_n_data = rep->taken.n_data;
	mutex_unlock(&rep->follow_lock);
	window_tell(rep);
	return r;
}

/* ---- its data ---- */

static bool is_superseded(const struct shipped_data *d, uint32_t block)
{
	return d->superseded[block / 8] >> block % 8 & 1;
}

/* A fence is named with superseded blocks and only with them, and is no batch before this one. */
static int check_fence(const struct taken_batch *t, const struct shipped_data *d)
{
	bool any = false;

	for (uint32_t i = 0; i < 8 * sizeof(d->superseded); i++) {
		if (is_superseded(d, i) && i >= d->n_blocks)
			return -EUCLEAN;
		any |= is_superseded(d, i);
	}
	return any ? d->fence >= t->info.seq ? 0 : -EUCLEAN : d->fence ? -EUCLEAN : 0;
}

/* Into aligned memory, each block with the CRC that the record names or zeros. */
static int copy_data(struct replica *rep, const struct record *r, const struct shipped_data *d) REQUIRES(rep->follow_lock)
{
	if (!rep->bounce && posix_memalign(&rep->bounce, DISK_BLOCK, BOUNCE_BYTES))
		return -ENOMEM;
	for (uint32_t i = 0; i < d->n_blocks; i++) {
		const uint8_t *from = d->blocks + (size_t)i * BLOCK_SIZE;
		uint8_t *to = (uint8_t *)rep->bounce + (size_t)i * BLOCK_SIZE;

		if (is_superseded(d, i))
			memset(to, 0, BLOCK_SIZE);
		else if (crc32c(0, from, BLOCK_SIZE) == r->write.crc[i])
			memcpy(to, from, BLOCK_SIZE);
		else
			return -EBADMSG;
	}
	return 0;
}

/* How many runs it may take, so that what follows still fits into the local section. */
static uint32_t runs_allowed(const struct taken_batch *t, uint32_t n_blocks)
{
	size_t share = (BATCH_LOCAL_MAX_BYTES - t->local.len) / (t->n_data - t->n_taken);
	size_t n = (share - sizeof(le32)) / sizeof(struct local_run);

	assert(n >= 1); /* a record of one block has more bytes than its run */
	return (uint32_t)min_u64(n, n_blocks);
}

static int add_runs(struct taken_batch *t, const struct run *runs, uint32_t n)
{
	if (t->n_runs + n > t->cap_runs) {
		size_t cap = 2 * t->cap_runs + n;
		struct run *grown = realloc(t->runs, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		t->runs = grown;
		t->cap_runs = cap;
	}
	memcpy(t->runs + t->n_runs, runs, n * sizeof(*runs));
	t->n_runs += n;
	return 0;
}

/* Blocks for the data, hidden under the same gate under which they were allocated. */
static int allocate(struct fs *fs, struct taken_batch *t, uint32_t n_blocks, struct run *runs, uint32_t *ret_n)
{
	rwlock_rdlock(&fs->gate);
	int r = arena_alloc(fs->arena, n_blocks, 0, false, runs, runs_allowed(t, n_blocks), ret_n);
	if (r == 0) {
		r = add_runs(t, runs, *ret_n);
		for (uint32_t i = 0; i < *ret_n; i++)
			if (r == 0)
				arena_hide(fs->arena, runs[i]);
			else
				arena_unalloc(fs->arena, runs[i]);
	}
	rwlock_rdunlock(&fs->gate);
	return r == -E2BIG ? -ENOSPC : r; /* too scattered to be named */
}

static int write_data(struct replica *rep, const struct run *runs, uint32_t n) REQUIRES(rep->follow_lock)
{
	uint8_t *from = rep->bounce;

	for (uint32_t i = 0; i < n; i++) {
		const struct iovec iov = {from, (size_t)runs[i].n_blocks * BLOCK_SIZE};
		int r = arena_writev(rep->fs->arena, runs[i].start, &iov, 1);

		if (r < 0) {
			fs_fail(rep->fs, r, "writing data to the arena");
			return r;
		}
		from += iov.iov_len;
	}
	return 0;
}

static int put_local(struct taken_batch *t, const struct run *runs, uint32_t n)
{
	const struct record rec = {.type = RECORD_WRITE, .write = {.out_of_line = true, .runs = runs, .n_runs = n}};
	uint8_t *p = buf_grow(&t->local, batch_local_bytes(&rec));

	if (!p)
		return -ENOMEM;
	batch_put_local(p, &rec);
	return 0;
}

static int place_data(struct replica *rep, const struct shipped_data *d) REQUIRES(rep->follow_lock)
{
	struct taken_batch *t = &rep->taken;
	struct run runs[RECORD_WRITE_BLOCKS_MAX];
	bool tried = false;
	uint32_t n;
	int r;

	do
		r = allocate(rep->fs, t, d->n_blocks, runs, &n);
	while (op_retry_space(rep->fs, r, &tried));
	if (r == -ENOSPC && window_is_open(rep->fs)) { /* it holds what it is about to free */
		r = window_give_up(rep);
		return r < 0 ? r : place_data(rep, d);
	}
	if (r == 0)
		r = write_data(rep, runs, n);
	return r < 0 ? r : put_local(t, runs, n);
}

static int take_data_locked(struct replica *rep, const struct shipped_data *d) REQUIRES(rep->follow_lock)
{
	struct taken_batch *t = &rep->taken;
	struct record rec;
	size_t used;

	if (!t->begun || t->n_taken == t->n_data || d->index != t->n_taken)
		return -EINVAL;
	uint32_t at = t->data_at[t->n_taken];
	int r = record_decode(t->view.logical + at, t->view.n.logical_bytes - at, &rec, &used);
	if (r == 0 && d->n_blocks != rec.write.n_blocks)
		r = -EUCLEAN;
	if (r == 0)
		r = check_fence(t, d);
	if (r == 0)
		r = copy_data(rep, &rec, d);
	if (r == 0)
		r = place_data(rep, d);
	if (r < 0)
		return r;
	t->fence = max_u64(t->fence, d->fence);
	t->n_taken++;
	return 0;
}

int replica_take_data(struct replica_volume *v, const struct shipped_data *d)
{
	struct replica *rep = replica_of(v);
	int r = replica_failed(rep->fs);

	if (r < 0)
		return r;
	mutex_lock(&rep->follow_lock);
	r = take_data_locked(rep, d);
	mutex_unlock(&rep->follow_lock);
	window_tell(rep);
	return r;
}
