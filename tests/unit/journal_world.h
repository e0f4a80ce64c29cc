/*
 * journal_world.h: a journal over a memstore, operations whose every byte follows from their number, and a replay that
 * checks that what comes back is the prefix 1, 2, 3, ... of them.
 *
 * Ownership: a world owns its store and its journal.  Threads: world_append() and the journal from any, the rest from one.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>

#include "journal/journal.h"
#include "journal/journal_format.h"
#include "tests/unit/memstore.h"
#include "tests/unit/records.h"
#include "tests/unit/tempdir.h"

#define SEGMENTS       11u
#define SEGMENT_BLOCKS 256u /* small, so that batches cross segments often */
#define RING_BLOCKS    (SEGMENTS * SEGMENT_BLOCKS)
#define OP_RECORDS_MAX 2
#define OP_BLOCKS_MAX  16u

static const struct journal_point format_point = {0, 1, 0};
static const uint8_t test_volume[16] = "a test's volume";

struct world {
	struct memstore store;
	struct journal *journal;
	struct journal_config config;
	/* what the hooks saw */
	atomic_uint flushes, pressures, failures;
	char what[256];
	int flush_error;
	/* numbers of operations whose out-of-line data is lost: verify says no from this one on */
	uint64_t verify_until;
	/* where this node puts out-of-line data, other than where op_make() says */
	uint64_t run_shift;
	/* replay: the last whole operation seen, and the record it stopped within */
	uint64_t replayed, first_expected;
	unsigned n_partial;
	uint64_t batch_ends;
	struct journal_replay_result result;
};

/* What operation `id` consists of. */
struct op {
	struct record records[OP_RECORDS_MAX];
	size_t n;
	uint32_t crc[OP_BLOCKS_MAX];
	struct run runs[2];
	uint8_t *data; /* owned */
};

static inline void op_fill(uint64_t id, uint32_t block, uint8_t *p)
{
	struct rng rng = rng_derive(id, block, 0);

	for (size_t i = 0; i < BLOCK_SIZE; i += 8) {
		uint64_t v = rng_u64(&rng);
		memcpy(p + i, &v, 8);
	}
}

static inline void op_write(struct op *op, struct record *r, uint64_t id, uint32_t n_blocks, bool out_of_line)
{
	*r = sample_base(RECORD_WRITE);
	r->write.n_blocks = n_blocks;
	r->write.out_of_line = out_of_line;
	r->write.crc = op->crc;
	op->data = malloc((size_t)n_blocks * BLOCK_SIZE);
	assert_non_null(op->data);
	for (uint32_t i = 0; i < n_blocks; i++) {
		op_fill(id, i, op->data + (size_t)i * BLOCK_SIZE);
		op->crc[i] = crc32c(0, op->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
	}
	if (out_of_line) {
		op->runs[0] = (struct run){pointer_make(DEVICE_ARENA_FIRST, id), 1};
		op->runs[1] = (struct run){pointer_make(DEVICE_ARENA_FIRST, id + 1000), n_blocks - 1};
		r->write.runs = op->runs;
		r->write.n_runs = n_blocks > 1 ? 2 : 1;
		return;
	}
	size_t half = (size_t)n_blocks * BLOCK_SIZE / 3;
	r->write.data[0] = (struct iovec){op->data, half};
	r->write.data[1] = (struct iovec){op->data + half, (size_t)n_blocks * BLOCK_SIZE - half};
	r->write.n_data = 2;
}

enum op_kind { OP_META, OP_WRITE, OP_DIRECT, OP_PAIR, OP_LONG, OP_KINDS };

static inline void op_make(struct op *op, uint64_t id)
{
	static const char value[12000];
	struct rng rng = rng_derive(id, 77, 0);
	uint32_t blocks = (uint32_t)rng_between(&rng, 1, OP_BLOCKS_MAX);

	memset(op, 0, sizeof(*op));
	op->n = 1;
	op->records[0] = sample_base(RECORD_SETATTR);
	switch ((enum op_kind)rng_below(&rng, OP_KINDS)) {
	case OP_WRITE:
		op_write(op, &op->records[0], id, blocks, false);
		break;
	case OP_DIRECT:
		op_write(op, &op->records[0], id, blocks, true);
		break;
	case OP_PAIR:
		op->n = 2;
		op_write(op, &op->records[rng_below(&rng, 2)], id, blocks, rng_percent(&rng, 30));
		if (op->records[0].type == RECORD_WRITE)
			op->records[1] = sample_base(RECORD_REAP);
		break;
	case OP_LONG:
		op->records[0] = sample_base(RECORD_SETXATTR);
		op->records[0].xattr.name = sample_text("user.long");
		op->records[0].xattr.value = (struct slice){value, rng_below(&rng, sizeof(value))};
		break;
	default:
		break;
	}
	for (size_t i = 0; i < op->n; i++)
		op->records[i].unique = id;
}

static inline void op_free(struct op *op)
{
	free(op->data);
}

/* Appends operation `id`. */
static inline int world_append(struct world *w, uint64_t id, uint64_t *ret_seq)
{
	struct op op;

	op_make(&op, id);
	int r = journal_append(w->journal, op.records, op.n, ret_seq);
	op_free(&op);
	return r;
}

static inline int world_flush_data(void *ctx)
{
	struct world *w = ctx;

	atomic_fetch_add(&w->flushes, 1);
	return w->flush_error;
}

static inline void world_pressure(void *ctx)
{
	atomic_fetch_add(&((struct world *)ctx)->pressures, 1);
}

static inline void world_failed(void *ctx, int error, const char *what)
{
	struct world *w = ctx;

	assert_true(error < 0);
	atomic_fetch_add(&w->failures, 1);
	snprintf(w->what, sizeof(w->what), "%s", what);
}

static inline struct world *world_new(void)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	memstore_init(&w->store);
	w->verify_until = UINT64_MAX;
	w->first_expected = 1;
	w->config = (struct journal_config){
	    .store = &w->store.base,
	    .clock = &clock_system,
	    .epoch = 1,
	    .geometry = {.n_segments = SEGMENTS, .segment_blocks = SEGMENT_BLOCKS},
	    .hooks = {.ctx = w, .flush_data = world_flush_data, .pressure = world_pressure, .failed = world_failed},
	    .n_writers = 4,
	};
	memcpy(w->config.volume, test_volume, sizeof(test_volume));
	assert_int_equal(journal_format(&w->store.base, &w->config.geometry), 0);
	return w;
}

static inline void world_free(struct world *w)
{
	journal_close(w->journal);
	memstore_free(&w->store);
	free(w);
}

static inline bool world_verify(void *ctx, const struct record *r)
{
	const struct world *w = ctx;

	assert_true(r->type == RECORD_WRITE && r->write.out_of_line && r->write.n_runs >= 1);
	return r->unique < w->verify_until;
}

static inline void check_data(const struct world *w, const struct record *r)
{
	uint8_t block[BLOCK_SIZE];

	assert_int_equal(r->write.n_data, 1);
	assert_int_equal(r->write.data[0].iov_len, (size_t)r->write.n_blocks * BLOCK_SIZE);
	for (uint32_t i = 0; i < r->write.n_blocks; i++) {
		op_fill(r->unique, i, block);
		assert_memory_equal(block, (uint8_t *)r->write.data[0].iov_base + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
		assert_int_equal(journal_read(w->journal, pointer_block(r->write.staged) + i, 1, block), 0);
		assert_int_equal(crc32c(0, block, BLOCK_SIZE), r->write.crc[i]);
	}
}

/* The next record of the next operation, byte for byte. */
static inline int world_apply(void *ctx, const struct record *r, uint64_t seq)
{
	struct world *w = ctx;
	uint64_t id = w->replayed + 1;
	struct op op;

	assert_true(seq > 0);
	assert_int_equal(r->unique, id);
	op_make(&op, id);
	const struct record *want = &op.records[w->n_partial];
	assert_int_equal(r->type, want->type);
	assert_int_equal(r->flags, w->n_partial + 1 < op.n ? RECORD_MORE : 0);
	if (r->type == RECORD_WRITE) {
		assert_int_equal(r->write.n_blocks, want->write.n_blocks);
		assert_int_equal(r->write.out_of_line, want->write.out_of_line);
		if (r->write.out_of_line) {
			assert_int_equal(r->write.n_runs, want->write.n_runs);
			for (uint32_t i = 0; i < r->write.n_runs; i++) {
				assert_int_equal(r->write.runs[i].start, pointer_add(op.runs[i].start, w->run_shift));
				assert_int_equal(r->write.runs[i].n_blocks, op.runs[i].n_blocks);
			}
		} else {
			check_data(w, r);
		}
	}
	if (++w->n_partial == op.n) {
		w->n_partial = 0;
		w->replayed++;
	}
	op_free(&op);
	return 0;
}

static inline int world_batch_end(void *ctx, uint64_t seq)
{
	struct world *w = ctx;

	assert_true(seq > 0);
	assert_int_equal(w->n_partial, 0); /* an operation ends within its batch */
	w->batch_ends++;
	return 0;
}

/* Opens the journal as the next mount does and replays it; operations before `first` are taken as known. */
static inline int world_replay(struct world *w, const struct journal_point *from, uint64_t first)
{
	const struct journal_replay_ops ops = {
	    .ctx = w, .apply = world_apply, .batch_end = world_batch_end, .verify = world_verify};

	w->journal = journal_close(w->journal);
	w->config.incarnation++;
	w->replayed = first - 1;
	w->n_partial = 0;
	w->batch_ends = 0;
	assert_int_equal(journal_open(&w->config, &w->journal), 0);
	int r = journal_replay(w->journal, from, &ops, &w->result);
	assert_int_equal(w->n_partial, 0);
	return r;
}

static inline void world_start(struct world *w)
{
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(journal_start(w->journal), 0);
}

static inline struct world *world_started(void)
{
	struct world *w = world_new();

	world_start(w);
	return w;
}

static inline uint8_t *world_block(struct world *w, uint64_t pos)
{
	char name[32];

	snprintf(name, sizeof(name), "journal/seg.%04u", (unsigned)(pos / SEGMENT_BLOCKS % SEGMENTS));
	struct memfile *f = memstore_file(&w->store, name);
	assert_non_null(f);
	return f->p + pos % SEGMENT_BLOCKS * BLOCK_SIZE;
}

static inline struct memfile *world_staging(struct world *w, unsigned i)
{
	return memstore_file(&w->store, i ? "journal/staging.1" : "journal/staging.0");
}

/* A power loss before the host wrote any of the staging files back. */
static inline void world_lose_staging(struct world *w)
{
	for (unsigned i = 0; i < 2; i++)
		memset(world_staging(w, i)->p, 0, world_staging(w, i)->size);
}
