/*
 * fake_volume.h: a volume in memory behind journal/replica.h, for tests of replicate/: batches with a hash chain, rows in a sorted
 * array, leaves with their blocks.  It does what the contract says, checks what the contract says it checks, and breaks on demand.
 */
#pragma once

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "journal/replica.h"

#define FAKE_SLOTS  16u
#define FAKE_LEAF   ((size_t)FAKE_SLOTS * BLOCK_SIZE)
#define FAKE_KEY    64u
#define FAKE_VALUE  72u
#define FAKE_BLOCKS 16u

enum fake_type { FAKE_PUT = 1, FAKE_DROP, FAKE_WRITE, FAKE_EPOCH };
struct fake_record {
	uint32_t type, key_len, value_len, slot, n_blocks;
	uint32_t repeat; /* of PUT: the value is that many times value[], 0: once */
	uint64_t ino, leaf, epoch;
	uint32_t crc[FAKE_BLOCKS];
	uint8_t key[FAKE_KEY], value[FAKE_VALUE];
};
struct fake_batch {
	struct shipped_batch b;
	struct fake_record *records; /* owned */
	uint64_t sum;                /* of the state behind it */
};
struct fake_row {
	uint8_t key[FAKE_KEY];
	uint32_t key_len, value_len;
	uint8_t *value;  /* owned */
	uint8_t *blocks; /* owned; E rows */
};
struct fake_rows {
	struct fake_row *row; /* owned */
	uint32_t n, cap;
};

#define FAKE_WANTED_MAX 64u
struct fake {
	struct replica_volume volume;
	struct replica_point point;
	struct fake_rows rows;
	struct fake_batch *batch; /* seq base_seq + 1 ... */
	uint32_t n_batches, cap_batches;
	uint64_t base_seq, base_hash;
	bool held, save, begun;
	uint32_t n_kept, n_puts, n_views, n_commits, n_promotes, n_offers;
	/* a batch on its way in */
	struct fake_batch taken;
	uint8_t *taken_blocks[FAKE_BLOCKS * 64];
	uint32_t taken_data, want_data;
	bool taking;
	uint64_t taken_fence;
	void (*offering)(void *ctx); /* while it notes an offer */
	void *offering_ctx;
	/* faults */
	int fail_finish, fail_commit, fail_promote, fail_note, fail_offer; /* -errno, until cleared */
	uint64_t damaged_seq, late_sum_seq, wrong_sum_seq;
	bool lying_rows;
	/* blocks it wants, what it was given, how often it was asked */
	struct block_wanted wanted[FAKE_WANTED_MAX];
	uint32_t n_wanted, n_given, n_asked;
	struct {
		uint64_t number;
		bool here;
		uint8_t block[BLOCK_SIZE];
	} given[FAKE_WANTED_MAX];
};

static struct fake *fake_of(struct replica_volume *v) { return (struct fake *)v; }

/* ---- rows ---- */

static int fake_key_compare(const void *a, size_t a_len, const void *b, size_t b_len)
{
	size_t len = a_len < b_len ? a_len : b_len;
	int c = len ? memcmp(a, b, len) : 0;

	return c ? c : (a_len > b_len) - (a_len < b_len);
}

static uint32_t fake_lower(const struct fake_rows *rows, struct slice key)
{
	uint32_t lo = 0, hi = rows->n;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;
		const struct fake_row *r = &rows->row[mid];
		if (fake_key_compare(r->key, r->key_len, key.p, key.len) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct fake_row *fake_find(const struct fake_rows *rows, struct slice key)
{
	uint32_t i = fake_lower(rows, key);

	if (i == rows->n || fake_key_compare(rows->row[i].key, rows->row[i].key_len, key.p, key.len) != 0)
		return NULL;
	return &rows->row[i];
}

static void fake_set_value(struct fake_row *r, const void *p, size_t len, uint32_t repeat)
{
	free(r->value);
	r->value = malloc(len * repeat + 1);
	assert(r->value);
	for (uint32_t i = 0; len && i < repeat; i++)
		memcpy(r->value + i * len, p, len);
	r->value_len = (uint32_t)(len * repeat);
}

static void fake_drop_row(struct fake_rows *rows, struct slice key)
{
	struct fake_row *r = fake_find(rows, key);

	if (!r)
		return;
	free(r->blocks);
	free(r->value);
	rows->n--;
	memmove(r, r + 1, (size_t)(rows->row + rows->n - r) * sizeof(*r));
}

static struct fake_row *fake_make_row(struct fake_rows *rows, struct slice key)
{
	uint32_t i = fake_lower(rows, key);
	struct fake_row *r = fake_find(rows, key);

	if (r)
		return r;
	if (rows->n == rows->cap) {
		rows->cap = rows->cap ? 2 * rows->cap : 64;
		rows->row = realloc(rows->row, rows->cap * sizeof(*rows->row));
		assert(rows->row);
	}
	memmove(&rows->row[i + 1], &rows->row[i], (rows->n++ - i) * sizeof(*rows->row));
	r = &rows->row[i];
	*r = (struct fake_row){.key_len = (uint32_t)key.len};
	memcpy(r->key, key.p, key.len);
	return r;
}

static void fake_rows_free(struct fake_rows *rows)
{
	for (uint32_t i = 0; i < rows->n; i++) {
		free(rows->row[i].blocks);
		free(rows->row[i].value);
	}
	free(rows->row);
	*rows = (struct fake_rows){0};
}

static void fake_leaf_key(uint8_t key[17], uint64_t ino, uint64_t leaf)
{
	key[0] = 'E';
	be64_put(key + 1, ino);
	be64_put(key + 9, leaf);
}

static void fake_leaf_crcs(struct slice value, uint16_t *ret_mapped, uint32_t crc[FAKE_SLOTS])
{
	const uint8_t *p = value.p;
	le16 mapped = {{0}};
	le32 c;
	uint32_t n = 0;

	memset(crc, 0, FAKE_SLOTS * sizeof(*crc));
	if (value.len)
		memcpy(&mapped, p, sizeof(mapped));
	*ret_mapped = le16_get(mapped);
	for (uint32_t slot = 0; slot < FAKE_SLOTS; slot++)
		if (*ret_mapped >> slot & 1) {
			memcpy(&c, p + 4 + 4 * (size_t)n++, sizeof(c));
			crc[slot] = le32_get(c);
		}
}

static struct slice fake_value(const struct fake_row *r)
{
	return (struct slice){r->value, r->value_len};
}

static void fake_set_crcs(struct fake_row *r, uint16_t mapped, const uint32_t crc[FAKE_SLOTS])
{
	const le16 masks[2] = {le16_make(mapped), le16_make(0)};
	uint8_t value[FAKE_VALUE];
	size_t len = sizeof(masks);

	memcpy(value, masks, sizeof(masks));
	for (uint32_t slot = 0; slot < FAKE_SLOTS; slot++)
		if (mapped >> slot & 1) {
			const le32 c = le32_make(crc[slot]);
			memcpy(value + len, &c, sizeof(c));
			len += sizeof(c);
		}
	fake_set_value(r, value, len, 1);
}

/* ---- applying ---- */

static void fake_apply_write(struct fake *f, const struct fake_record *rec, const uint8_t *blocks)
{
	uint8_t key[17];
	uint32_t crc[FAKE_SLOTS];
	uint16_t mapped;

	fake_leaf_key(key, rec->ino, rec->leaf);
	struct fake_row *r = fake_make_row(&f->rows, (struct slice){key, sizeof(key)});
	if (!r->blocks)
		r->blocks = calloc(1, FAKE_LEAF);
	assert(r->blocks);
	fake_leaf_crcs(fake_value(r), &mapped, crc);
	for (uint32_t i = 0; i < rec->n_blocks; i++) {
		mapped |= (uint16_t)(1u << (rec->slot + i));
		crc[rec->slot + i] = rec->crc[i];
	}
	memcpy(r->blocks + (size_t)rec->slot * BLOCK_SIZE, blocks, (size_t)rec->n_blocks * BLOCK_SIZE);
	fake_set_crcs(r, mapped, crc);
}

static void fake_apply(struct fake *f, const struct fake_record *rec, uint64_t seq, const uint8_t *blocks)
{
	struct slice key = {rec->key, rec->key_len};
	struct fake_row *r;
	uint8_t h[9] = {'H'};

	switch (rec->type) {
	case FAKE_PUT:
		r = fake_make_row(&f->rows, key);
		fake_set_value(r, rec->value, rec->value_len, rec->repeat ? rec->repeat : 1);
		return;
	case FAKE_DROP:
		fake_drop_row(&f->rows, key);
		return;
	case FAKE_WRITE:
		fake_apply_write(f, rec, blocks);
		return;
	default:
		f->point.history = rec->epoch;
		be64_put(h + 1, rec->epoch);
		r = fake_make_row(&f->rows, (struct slice){h, sizeof(h)});
		if (r->value_len == 0) {
			const le64 before = le64_make(seq - 1);
			fake_set_value(r, &before, sizeof(before), 1);
		}
	}
}

static uint64_t fake_sum(const struct fake *f)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < f->rows.n; i++) {
		sum = XXH64(f->rows.row[i].key, f->rows.row[i].key_len, sum);
		sum = XXH64(f->rows.row[i].value, f->rows.row[i].value_len, sum);
	}
	return sum;
}

static struct fake_batch *fake_batch_at(struct fake *f, uint64_t seq)
{
	return seq > f->base_seq && seq <= f->base_seq + f->n_batches ? &f->batch[seq - f->base_seq - 1] : NULL;
}

static uint64_t fake_newest_hash(struct fake *f)
{
	return f->n_batches ? f->batch[f->n_batches - 1].b.hash : f->base_hash;
}

static void fake_push(struct fake *f, const struct fake_batch *b)
{
	if (f->n_batches == f->cap_batches) {
		f->cap_batches = f->cap_batches ? 2 * f->cap_batches : 64;
		f->batch = realloc(f->batch, f->cap_batches * sizeof(*f->batch));
		assert(f->batch);
	}
	f->batch[f->n_batches++] = *b;
}

static void fake_set_durable(struct fake *f)
{
	f->point.durable_seq = f->point.applied_seq;
	f->point.hash = fake_newest_hash(f);
}

static uint32_t fake_count_data(const struct fake_record *rec, uint32_t n)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < n; i++)
		count += rec[i].type == FAKE_WRITE;
	return count;
}

/* Leader: a durable batch of these records; blocks[i] is the data of the i-th WRITE. */
static uint64_t fake_append(struct fake *f, const struct fake_record *rec, uint32_t n, uint8_t *const *blocks)
{
	struct fake_batch b = {0};
	uint32_t data = 0;
	size_t bytes = n * sizeof(*rec);

	assert(f->point.role == ROLE_LEADER && !f->held && !f->point.offered);
	f->begun = true;
	b.records = malloc(bytes);
	assert(b.records);
	memcpy(b.records, rec, bytes);
	b.b = (struct shipped_batch){
	    .seq = f->base_seq + f->n_batches + 1,
	    .epoch = f->point.promised,
	    .prev_hash = fake_newest_hash(f),
	    .n_records = n,
	    .logical_bytes = (uint32_t)bytes,
	    .logical = (const uint8_t *)b.records,
	    .payload = (const uint8_t *)b.records,
	};
	b.b.hash = XXH64(b.records, bytes, b.b.prev_hash);
	for (uint32_t i = 0; i < n; i++)
		fake_apply(f, &rec[i], b.b.seq, rec[i].type == FAKE_WRITE ? blocks[data++] : NULL);
	b.sum = fake_sum(f);
	fake_push(f, &b);
	f->point.applied_seq = b.b.seq;
	fake_set_durable(f);
	return b.b.seq;
}

static uint64_t fake_append_epoch(struct fake *f)
{
	const struct fake_record rec = {.type = FAKE_EPOCH, .epoch = f->point.promised};

	return fake_append(f, &rec, 1, NULL);
}

/* The ring forgets what is not among the newest `keep` batches. */
static void fake_trim(struct fake *f, uint32_t keep)
{
	uint32_t n = f->n_batches > keep ? f->n_batches - keep : 0;

	if (n == 0)
		return;
	f->base_seq += n;
	f->base_hash = f->batch[n - 1].b.hash;
	for (uint32_t i = 0; i < n; i++)
		free(f->batch[i].records);
	f->n_batches -= n;
	memmove(f->batch, f->batch + n, f->n_batches * sizeof(*f->batch));
}

/* ---- the table: where it stands ---- */

static void fake_get_point(struct replica_volume *v, struct replica_point *ret) { *ret = fake_of(v)->point; }

static int fake_hash_after(struct replica_volume *v, uint64_t seq, uint64_t *ret)
{
	struct fake *f = fake_of(v);
	struct fake_batch *b = fake_batch_at(f, seq);

	if (!b && seq != f->base_seq)
		return -ENOENT;
	*ret = b ? b->b.hash : f->base_hash;
	return 0;
}

static bool fake_is_prefix(struct replica_volume *v, uint64_t history, uint64_t seq)
{
	struct fake *f = fake_of(v);
	uint8_t h[9] = {'H'};
	le64 before;

	be64_put(h + 1, history);
	struct fake_row *r = fake_find(&f->rows, (struct slice){h, sizeof(h)});
	if (!r)
		return false;
	r++;
	if (r == f->rows.row + f->rows.n || r->key[0] != 'H')
		return true;
	memcpy(&before, r->value, sizeof(before));
	return le64_get(before) >= seq;
}

static int fake_state_sum(struct replica_volume *v, uint64_t seq, uint64_t *ret)
{
	struct fake *f = fake_of(v);
	struct fake_batch *b = fake_batch_at(f, seq);

	if (!b)
		return -ENOENT;
	if (f->late_sum_seq && seq >= f->late_sum_seq)
		return -EAGAIN;
	*ret = b->sum + (seq == f->wrong_sum_seq);
	return 0;
}

/* ---- the table: leader's stream ---- */

struct replica_cursor {
	uint64_t seq;
	uint8_t blocks[FAKE_LEAF];
};

static void fake_cursor_free(struct replica_cursor *c) { free(c); }

static int fake_read_batch(struct replica_volume *v, struct replica_cursor **c, uint64_t seq, struct shipped_batch *ret,
			   uint32_t *ret_n_data)
{
	struct fake *f = fake_of(v);
	struct fake_batch *b = fake_batch_at(f, seq);

	if (seq > f->point.durable_seq)
		return -EAGAIN;
	if (!b)
		return -ENOENT;
	if (seq == f->damaged_seq)
		return -EBADMSG;
	if (!*c)
		*c = calloc(1, sizeof(**c));
	assert(*c);
	(*c)->seq = seq;
	*ret = b->b;
	ret->epoch = f->point.promised;
	*ret_n_data = fake_count_data(b->records, b->b.n_records);
	return 0;
}

static const struct fake_record *fake_data_record(const struct fake_batch *b, uint32_t index)
{
	for (uint32_t i = 0;; i++)
		if (b->records[i].type == FAKE_WRITE && index-- == 0)
			return &b->records[i];
}

/* From what the leaf is now, as an arena would have it. */
static int fake_read_data(struct replica_volume *v, struct replica_cursor *c, uint32_t index, struct shipped_data *ret)
{
	struct fake *f = fake_of(v);
	const struct fake_batch *b = fake_batch_at(f, c->seq);
	uint8_t key[17];

	if (!b)
		return -ENOENT;
	const struct fake_record *rec = fake_data_record(b, index);
	fake_leaf_key(key, rec->ino, rec->leaf);
	const struct fake_row *r = fake_find(&f->rows, (struct slice){key, sizeof(key)});
	memset(c->blocks, 0, sizeof(c->blocks));
	*ret = (struct shipped_data){.index = index, .n_blocks = rec->n_blocks, .blocks = c->blocks};
	for (uint32_t i = 0; i < rec->n_blocks; i++) {
		uint8_t *to = c->blocks + (size_t)i * BLOCK_SIZE;
		if (r)
			memcpy(to, r->blocks + (size_t)(rec->slot + i) * BLOCK_SIZE, BLOCK_SIZE);
		if (crc32c(0, to, BLOCK_SIZE) == rec->crc[i])
			continue;
		memset(to, 0, BLOCK_SIZE);
		ret->superseded[i / 8] |= (uint8_t)(1u << i % 8);
		ret->fence = f->point.applied_seq;
	}
	return 0;
}

/* ---- the table: follower's stream ---- */

static void fake_drop_batch(struct replica_volume *v)
{
	struct fake *f = fake_of(v);

	for (uint32_t i = 0; i < f->taken_data; i++)
		free(f->taken_blocks[i]);
	f->taken_data = 0;
	f->taken_fence = 0;
	free(f->taken.records);
	f->taken.records = NULL;
	f->taking = false;
}

static int fake_take_batch(struct replica_volume *v, const struct shipped_batch *b, uint32_t *ret_n_data)
{
	struct fake *f = fake_of(v);

	assert(!f->taking && f->point.role == ROLE_FOLLOWER && (uintptr_t)b->logical % 8 == 0);
	if (b->epoch < f->point.promised)
		return -ESTALE;
	if (b->seq != f->point.applied_seq + 1 || b->prev_hash != fake_newest_hash(f) || f->point.resyncing)
		return -EINVAL;
	if (b->logical_bytes != b->n_records * sizeof(struct fake_record))
		return -EUCLEAN;
	if (XXH64(b->logical, b->logical_bytes, b->prev_hash) != b->hash)
		return -EBADMSG;
	f->taken = (struct fake_batch){.b = *b, .records = malloc(b->logical_bytes)};
	assert(f->taken.records);
	memcpy(f->taken.records, b->logical, b->logical_bytes);
	f->taken.b.logical = f->taken.b.payload = (const uint8_t *)f->taken.records;
	f->taking = true;
	f->want_data = fake_count_data(f->taken.records, b->n_records);
	*ret_n_data = f->want_data;
	return 0;
}

static int fake_take_data(struct replica_volume *v, const struct shipped_data *d)
{
	struct fake *f = fake_of(v);
	size_t bytes = (size_t)d->n_blocks * BLOCK_SIZE;

	assert(f->taking && f->taken_data < f->want_data);
	const struct fake_record *rec = fake_data_record(&f->taken, f->taken_data);
	if (d->n_blocks != rec->n_blocks)
		return -EUCLEAN;
	for (uint32_t i = 0; i < d->n_blocks; i++)
		if (!(d->superseded[i / 8] & 1u << i % 8) &&
		    crc32c(0, d->blocks + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) != rec->crc[i])
			return -EBADMSG;
	f->taken_blocks[f->taken_data] = malloc(bytes);
	assert(f->taken_blocks[f->taken_data]);
	memcpy(f->taken_blocks[f->taken_data++], d->blocks, bytes);
	f->taken_fence = d->fence > f->taken_fence ? d->fence : f->taken_fence;
	return 0;
}

static int fake_finish_batch(struct replica_volume *v)
{
	struct fake *f = fake_of(v);
	struct fake_batch b = f->taken;
	uint32_t data = 0;

	assert(f->taking && f->taken_data == f->want_data);
	if (f->fail_finish)
		return f->fail_finish;
	for (uint32_t i = 0; i < b.b.n_records; i++)
		fake_apply(f, &b.records[i], b.b.seq, b.records[i].type == FAKE_WRITE ? f->taken_blocks[data++] : NULL);
	b.sum = fake_sum(f);
	fake_push(f, &b);
	f->point.applied_seq = b.b.seq;
	if (f->taken_fence > f->point.fence)
		f->point.fence = f->taken_fence;
	if (f->point.fence <= f->point.applied_seq)
		f->point.fence = 0;
	f->taken.records = NULL;
	fake_drop_batch(v);
	return 0;
}

static int fake_commit(struct replica_volume *v, uint64_t *ret_durable_seq)
{
	struct fake *f = fake_of(v);

	if (f->fail_commit)
		return f->fail_commit;
	f->n_commits++;
	fake_set_durable(f);
	*ret_durable_seq = f->point.durable_seq;
	return 0;
}

static int fake_set_differs(struct replica_volume *v, uint64_t seq)
{
	(void)seq;
	fake_of(v)->point.differs = true;
	return 0;
}

/* ---- the table: roles ---- */

static int fake_note_epoch(struct replica_volume *v, uint64_t epoch)
{
	struct fake *f = fake_of(v);

	if (f->fail_note)
		return f->fail_note;
	if (epoch <= f->point.promised)
		return 0;
	f->point.promised = epoch;
	f->point.role = ROLE_FOLLOWER;
	f->point.offered = f->point.offered > epoch ? f->point.offered : 0;
	return 0;
}

static int fake_promote(struct replica_volume *v, uint64_t epoch)
{
	struct fake *f = fake_of(v);
	bool held = f->held;

	assert(!f->taking);
	if (f->fail_promote)
		return f->fail_promote;
	if (f->point.resyncing || f->point.differs || f->point.fence > f->point.applied_seq)
		return -EAGAIN;
	if (epoch <= f->point.promised || epoch <= f->point.offered)
		return -ESTALE;
	f->n_promotes++;
	f->begun = true;
	f->point.promised = epoch;
	f->point.offered = 0;
	f->point.role = ROLE_LEADER;
	f->held = false; /* the EPOCH record is no change of a writer */
	fake_append_epoch(f);
	f->held = held;
	return 0;
}

static int fake_offer(struct replica_volume *v, uint64_t epoch)
{
	struct fake *f = fake_of(v);

	if (f->fail_offer)
		return f->fail_offer;
	if (epoch && (f->point.role != ROLE_LEADER || epoch <= f->point.promised))
		return -ESTALE;
	f->n_offers += epoch != 0;
	if (epoch && f->offering)
		f->offering(f->offering_ctx);
	f->point.offered = epoch;
	return 0;
}

static int fake_step_down(struct replica_volume *v)
{
	struct fake *f = fake_of(v);

	if (f->begun || f->point.role != ROLE_LEADER)
		return f->begun ? -EBUSY : -EALREADY;
	f->point.role = ROLE_FOLLOWER;
	return 0;
}

static int fake_hold_writers(struct replica_volume *v, bool hold)
{
	fake_of(v)->held = hold;
	return 0;
}

/* ---- the table: resync ---- */

struct replica_view {
	struct fake *f;
	struct fake_rows rows; /* without blocks */
	bool hashed;
};

static int fake_walk(const struct fake_rows *rows, struct slice from, struct slice to, replica_row_fn *fn, void *ctx)
{
	for (uint32_t i = fake_lower(rows, from); i < rows->n; i++) {
		const struct fake_row *r = &rows->row[i];
		const struct row row = {.key = {r->key, r->key_len}, .value = {r->value, r->value_len}};
		if (to.p && fake_key_compare(r->key, r->key_len, to.p, to.len) >= 0)
			break;
		int stop = fn(ctx, &row);
		if (stop)
			return stop < 0 ? stop : 0;
	}
	return 0;
}

static int fake_view_open(struct replica_volume *v, struct replica_view **ret_view, struct replica_view_info *ret)
{
	struct fake *f = fake_of(v);
	struct replica_view *view = calloc(1, sizeof(*view));

	assert(view);
	view->f = f;
	view->rows = (struct fake_rows){malloc((f->rows.n + 1) * sizeof(struct fake_row)), f->rows.n, f->rows.n};
	assert(view->rows.row);
	if (f->rows.n)
		memcpy(view->rows.row, f->rows.row, f->rows.n * sizeof(struct fake_row));
	for (uint32_t i = 0; i < view->rows.n; i++) {
		struct fake_row *r = &view->rows.row[i];
		r->blocks = NULL;
		r->value = NULL;
		fake_set_value(r, f->rows.row[i].value, f->rows.row[i].value_len, 1);
	}
	f->n_views++;
	*ret_view = view;
	*ret = (struct replica_view_info){
	    .seq = f->point.durable_seq, .hash = f->point.hash, .epoch = f->point.history, .n_inodes = f->rows.n};
	return 0;
}

static void fake_view_close(struct replica_view *view)
{
	view->f->n_views--;
	fake_rows_free(&view->rows);
	free(view);
}

/* A liar's rows are not those whose hashes it gave first. */
static int fake_view_rows(struct replica_view *view, struct slice from, struct slice to, replica_row_fn *fn, void *ctx)
{
	if (view->f->lying_rows && view->hashed && view->rows.n)
		view->rows.row[view->rows.n - 1].value[0]++;
	view->hashed = true;
	return fake_walk(&view->rows, from, to, fn, ctx);
}

static int fake_read_leaf(struct replica_volume *v, struct leaf_data *d, uint8_t *blocks, uint64_t *ret_fence)
{
	struct fake *f = fake_of(v);
	uint8_t key[17];

	fake_leaf_key(key, d->ino, d->leaf);
	const struct fake_row *r = fake_find(&f->rows, (struct slice){key, sizeof(key)});
	d->superseded = 0;
	for (uint32_t slot = 0; slot < FAKE_SLOTS; slot++) {
		if (!(d->wanted >> slot & 1))
			continue;
		memset(blocks, 0, BLOCK_SIZE);
		if (r)
			memcpy(blocks, r->blocks + (size_t)slot * BLOCK_SIZE, BLOCK_SIZE);
		if (crc32c(0, blocks, BLOCK_SIZE) != d->crc[slot]) {
			memset(blocks, 0, BLOCK_SIZE);
			d->superseded |= (uint16_t)(1u << slot);
		}
		blocks += BLOCK_SIZE;
	}
	*ret_fence = d->superseded ? f->point.applied_seq : 0;
	return 0;
}

static void fake_forget_journal(struct fake *f)
{
	fake_trim(f, 0);
	f->point.history = 0;
}

static int fake_resync_begin(struct replica_volume *v, uint64_t epoch, bool save)
{
	struct fake *f = fake_of(v);

	assert(!f->taking && f->point.role == ROLE_FOLLOWER);
	if (epoch < f->point.promised)
		return -ESTALE;
	fake_forget_journal(f);
	f->save = save || (f->point.resyncing && f->save);
	f->point.resyncing = true;
	return 0;
}

static int fake_resync_rows(struct replica_volume *v, struct slice from, struct slice to, replica_row_fn *fn, void *ctx)
{
	return fake_walk(&fake_of(v)->rows, from, to, fn, ctx);
}

static int fake_resync_missing(struct replica_volume *v, const struct row *row, uint16_t *ret_slots)
{
	struct fake *f = fake_of(v);
	const struct fake_row *own = fake_find(&f->rows, row->key);
	uint32_t crc[FAKE_SLOTS];
	uint16_t mapped;

	fake_leaf_crcs(row->value, &mapped, crc);
	*ret_slots = 0;
	for (uint32_t slot = 0; slot < FAKE_SLOTS; slot++)
		if (mapped >> slot & 1 &&
		    (!own || !own->blocks || crc32c(0, own->blocks + (size_t)slot * BLOCK_SIZE, BLOCK_SIZE) != crc[slot]))
			*ret_slots |= (uint16_t)(1u << slot);
	return 0;
}

static int fake_resync_put(struct replica_volume *v, const struct row *row, const struct leaf_data *d, const uint8_t *blocks)
{
	struct fake *f = fake_of(v);

	assert(f->point.resyncing);
	f->n_puts++;
	if (f->save && fake_find(&f->rows, row->key))
		f->n_kept++;
	if (!row->value.p) {
		fake_drop_row(&f->rows, row->key);
		return 0;
	}
	struct fake_row *r = fake_make_row(&f->rows, row->key);
	fake_set_value(r, row->value.p, row->value.len, 1);
	if (r->key[0] == 'E' && !r->blocks)
		r->blocks = calloc(1, FAKE_LEAF);
	for (uint32_t slot = 0; d && slot < FAKE_SLOTS; slot++)
		if ((d->wanted & ~d->superseded) >> slot & 1) {
			memcpy(r->blocks + (size_t)slot * BLOCK_SIZE, blocks, BLOCK_SIZE);
			blocks += BLOCK_SIZE;
		} else if (d->superseded >> slot & 1) {
			memset(r->blocks + (size_t)slot * BLOCK_SIZE, 0, BLOCK_SIZE);
		}
	return 0;
}

static int fake_resync_save(struct replica_volume *v)
{
	(void)v;
	return 0;
}

static int fake_resync_end(struct replica_volume *v, const struct replica_view_info *info, uint64_t fence)
{
	struct fake *f = fake_of(v);

	assert(f->point.resyncing && f->n_batches == 0);
	f->base_seq = f->point.applied_seq = f->point.durable_seq = info->seq;
	f->base_hash = f->point.hash = info->hash;
	f->point.history = info->epoch;
	f->point.fence = fence > info->seq ? fence : 0;
	f->point.resyncing = f->point.differs = f->save = false;
	return 0;
}

/* ---- blocks ---- */

static int fake_next_wanted(struct replica_volume *v, uint64_t after, struct block_wanted *ret)
{
	const struct fake *f = fake_of(v);

	for (uint32_t i = 0; i < f->n_wanted; i++) {
		if (f->wanted[i].number <= after)
			continue;
		*ret = f->wanted[i];
		return 0;
	}
	return -ENOENT;
}

static void fake_give_block(struct replica_volume *v, uint64_t number, const void *block)
{
	struct fake *f = fake_of(v);

	assert(f->n_given < FAKE_WANTED_MAX);
	f->given[f->n_given].number = number;
	f->given[f->n_given].here = block != NULL;
	if (block)
		memcpy(f->given[f->n_given].block, block, BLOCK_SIZE);
	f->n_given++;
}

/* Has blocks that are their slot's number over and over. */
static int fake_answer_block(struct replica_volume *v, const struct block_wanted *b, void *block)
{
	struct fake *f = fake_of(v);

	f->n_asked++;
	memset(block, (int)b->slot, BLOCK_SIZE);
	return crc32c(0, block, BLOCK_SIZE) == b->crc ? 0 : -ENOENT;
}

static const struct replica_ops fake_ops = {
	.next_wanted = fake_next_wanted, .give_block = fake_give_block, .answer_block = fake_answer_block,
	.get_point = fake_get_point, .hash_after = fake_hash_after, .is_prefix = fake_is_prefix, .state_sum = fake_state_sum,
	.read_batch = fake_read_batch, .read_data = fake_read_data, .cursor_free = fake_cursor_free,
	.take_batch = fake_take_batch, .take_data = fake_take_data, .finish_batch = fake_finish_batch,
	.drop_batch = fake_drop_batch, .commit = fake_commit, .set_differs = fake_set_differs,
	.note_epoch = fake_note_epoch, .offer = fake_offer, .step_down = fake_step_down,
	.promote = fake_promote, .hold_writers = fake_hold_writers,
	.view_open = fake_view_open, .view_close = fake_view_close, .view_rows = fake_view_rows, .read_leaf = fake_read_leaf,
	.resync_begin = fake_resync_begin, .resync_rows = fake_resync_rows, .resync_missing = fake_resync_missing,
	.resync_put = fake_resync_put, .resync_save = fake_resync_save, .resync_end = fake_resync_end,
};

/* ---- life ---- */

/* A leader with its EPOCH record, or a follower that has never been resynced. */
static struct fake *fake_new(uint32_t node_id, enum replica_role role)
{
	struct fake *f = calloc(1, sizeof(*f));

	assert(f);
	f->volume.ops = &fake_ops;
	f->point = (struct replica_point){.node_id = node_id, .role = role, .promised = epoch_make(1, 1)};
	memcpy(f->point.volume, "volume of a test", 16);
	memset(f->point.node, (int)node_id, sizeof(f->point.node));
	f->point.resyncing = role == ROLE_FOLLOWER;
	if (role == ROLE_LEADER)
		fake_append_epoch(f);
	return f;
}

static struct fake *fake_free(struct fake *f)
{
	if (!f)
		return NULL;
	assert(f->n_views == 0 && !f->taking);
	fake_trim(f, 0);
	free(f->batch);
	fake_rows_free(&f->rows);
	free(f);
	return NULL;
}

static bool fake_same_data(const struct fake_row *x, const struct fake_row *y)
{
	uint32_t crc[FAKE_SLOTS];
	uint16_t mapped;

	fake_leaf_crcs(fake_value(x), &mapped, crc);
	for (size_t slot = 0; slot < FAKE_SLOTS; slot++)
		if (mapped >> slot & 1 && (crc32c(0, x->blocks + slot * BLOCK_SIZE, BLOCK_SIZE) != crc[slot] ||
					   memcmp(x->blocks + slot * BLOCK_SIZE, y->blocks + slot * BLOCK_SIZE, BLOCK_SIZE) != 0))
			return false;
	return true;
}

/* Every block has the CRC of its row. */
static inline bool fake_is_sound(const struct fake *f)
{
	for (uint32_t i = 0; i < f->rows.n; i++)
		if (f->rows.row[i].key[0] == 'E' && !fake_same_data(&f->rows.row[i], &f->rows.row[i]))
			return false;
	return true;
}

/* Rows and data are the same, and the data has the CRCs of its rows. */
static bool fake_equal(const struct fake *a, const struct fake *b)
{
	if (a->rows.n != b->rows.n)
		return false;
	for (uint32_t i = 0; i < a->rows.n; i++) {
		const struct fake_row *x = &a->rows.row[i], *y = &b->rows.row[i];
		if (fake_key_compare(x->key, x->key_len, y->key, y->key_len) != 0 ||
		    fake_key_compare(x->value, x->value_len, y->value, y->value_len) != 0)
			return false;
		if (x->key[0] == 'E' && !fake_same_data(x, y))
			return false;
	}
	return true;
}
