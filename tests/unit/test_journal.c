/*
 * test_journal.c: the life of a journal without a crash: append, commit, read back, wrap, trim, room, failures, threads.
 */
#include "tests/unit/journal_world.h"

#include <pthread.h>
#include <time.h>

static struct journal_status status_of(struct world *w)
{
	struct journal_status s;

	journal_get_status(w->journal, &s);
	return s;
}

static void a_fresh_journal_is_empty(void **state)
{
	struct world *w = world_started();

	(void)state;
	assert_int_equal(w->result.n_batches, 0);
	assert_int_equal(w->result.end.pos, 1);
	struct journal_status s = status_of(w);
	assert_int_equal(s.open_seq, 1);
	assert_int_equal(s.durable_seq, 0);
	assert_int_equal(s.used_blocks, 0);
	assert_int_equal(s.ring_blocks, RING_BLOCKS);
	uint64_t seq = 7;
	assert_int_equal(journal_commit_all(w->journal, &seq), 0);
	assert_int_equal(seq, 0);
	assert_int_equal(status_of(w).commits, 0);
	assert_int_equal(journal_commit(w->journal, 1), -EINVAL);
	world_free(w);
}

static void committed_operations_come_back(void **state)
{
	struct world *w = world_started();
	uint64_t seq, id = 0;

	(void)state;
	for (int batch = 1; batch <= 20; batch++) {
		for (int i = 0; i < batch; i++)
			assert_int_equal(world_append(w, ++id, &seq), 0);
		assert_int_equal(seq, batch);
		assert_int_equal(journal_commit(w->journal, seq), 0);
		assert_int_equal(status_of(w).durable_seq, seq);
	}
	assert_int_equal(status_of(w).operations, id);
	assert_int_equal(status_of(w).commits, 20);
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, id);
	assert_int_equal(w->result.n_batches, 20);
	assert_int_equal(w->batch_ends, 20);
	assert_int_equal(w->result.end.seq, 20);
	assert_int_equal(w->result.n_staged_records, 0);
	assert_int_equal(w->result.bytes, (w->result.end.pos - 1) * BLOCK_SIZE);
	world_free(w);
}

static void every_batch_write_is_durable_and_commits_once(void **state)
{
	struct world *w = world_started();
	uint64_t seq;

	(void)state;
	unsigned long before = w->store.durable_writes;
	assert_int_equal(world_append(w, 1, &seq), 0);
	assert_int_equal(journal_commit(w->journal, seq), 0);
	assert_int_equal(w->store.durable_writes, before + 1);
	assert_int_equal(journal_commit(w->journal, seq), 0);
	assert_int_equal(journal_commit_all(w->journal, NULL), 0);
	assert_int_equal(w->store.writes, before + 1);
	world_free(w);
}

/* Rule R1, and that a batch without out-of-line data does not pay for it. */
static unsigned flushes_at_write;
static void note_flushes(void *ctx, const char *name, uint64_t off, unsigned flags)
{
	(void)name, (void)off, (void)flags;
	flushes_at_write = atomic_load(&((struct world *)ctx)->flushes);
}

static void out_of_line_data_is_flushed_before_its_batch_is_written(void **state)
{
	struct world *w = world_started();
	uint64_t seq, id = 0;

	(void)state;
	w->store.on_write = note_flushes;
	w->store.ctx = w;
	for (int i = 0; i < 40; i++) {
		struct op op;
		op_make(&op, ++id);
		bool direct = false;
		for (size_t k = 0; k < op.n; k++)
			direct |= op.records[k].type == RECORD_WRITE && op.records[k].write.out_of_line;
		op_free(&op);
		unsigned before = w->flushes;
		flushes_at_write = UINT32_MAX;
		assert_int_equal(world_append(w, id, &seq), 0);
		assert_int_equal(journal_commit(w->journal, seq), 0);
		assert_int_equal(flushes_at_write, before + direct);
		assert_int_equal(w->flushes, before + direct);
	}
	assert_true(w->flushes > 0);
	world_free(w);
}

static void payload_is_read_from_memory_and_from_the_ring(void **state)
{
	struct world *w = world_started();
	uint64_t seq;
	uint8_t *memory = aligned_alloc(BLOCK_SIZE, 4 * OP_BLOCKS_MAX * BLOCK_SIZE);

	(void)state;
	for (uint64_t id = 1; id <= 60; id++) {
		struct op op;
		op_make(&op, id);
		assert_int_equal(journal_append(w->journal, op.records, op.n, &seq), 0);
		for (size_t k = 0; k < op.n; k++) {
			const struct record *r = &op.records[k];
			if (r->type != RECORD_WRITE || r->write.out_of_line)
				continue;
			size_t len = (size_t)r->write.n_blocks * BLOCK_SIZE;
			/* while open; when durable but still in memory; after the file went to the next batch; unaligned */
			for (int age = 0; age < 4; age++) {
				uint8_t *to = memory + (age == 3 ? 8 : 0);
				memset(to, 0, len);
				assert_int_equal(journal_read(w->journal, pointer_block(r->write.staged), r->write.n_blocks, to),
						 0);
				assert_memory_equal(to, op.data, len);
				assert_int_equal(journal_commit_all(w->journal, NULL), 0);
				if (age == 1)
					for (int i = 0; i < 2; i++) {
						struct record other = sample_base(RECORD_REAP);
						assert_int_equal(journal_append(w->journal, &other, 1, &seq), 0);
						assert_int_equal(journal_commit(w->journal, seq), 0);
					}
			}
		}
		op_free(&op);
		journal_trim(w->journal, seq - 1);
	}
	free(memory);
	world_free(w);
}

static void positions_that_hold_nothing_are_refused(void **state)
{
	struct world *w = world_started();
	uint8_t *block = aligned_alloc(BLOCK_SIZE, 2 * BLOCK_SIZE);
	struct journal_point p;
	uint64_t seq;

	(void)state;
	assert_int_equal(journal_read(w->journal, 1, 1, block), -EUCLEAN);
	for (uint64_t id = 1; id <= 30; id++) {
		assert_int_equal(world_append(w, id, &seq), 0);
		assert_int_equal(journal_commit(w->journal, seq), 0);
	}
	assert_int_equal(journal_point_after(w->journal, 20, &p), 0);
	assert_int_equal(journal_read(w->journal, p.pos - 1, 2, block), 0);
	journal_trim(w->journal, 20);
	assert_int_equal(journal_read(w->journal, p.pos - 1, 1, block), -EUCLEAN);
	assert_int_equal(journal_read(w->journal, p.pos, 1, block), 0);
	assert_int_equal(journal_point_after(w->journal, 30, &p), 0);
	assert_int_equal(journal_read(w->journal, p.pos, 1, block), -EUCLEAN);
	assert_int_equal(journal_read(w->journal, p.pos - 1, 2, block), -EUCLEAN);
	assert_int_equal(journal_read(w->journal, UINT64_MAX - 1, 1, block), -EUCLEAN);
	free(block);
	world_free(w);
}

static void the_ring_wraps_and_replays_from_any_point_in_it(void **state)
{
	struct world *w = world_started();
	struct rng rng = {.state = test_seed(2)};
	struct journal_point from = format_point;
	uint64_t seq = 0, id = 0, id_at_seq[4096] = {0};

	(void)state;
	while (from.pos < 6 * RING_BLOCKS) {
		for (uint64_t k = rng_between(&rng, 1, 12); k; k--)
			assert_int_equal(world_append(w, ++id, &seq), 0);
		assert_int_equal(journal_commit(w->journal, seq), 0);
		assert_true(seq < ARRAY_SIZE(id_at_seq));
		id_at_seq[seq] = id;
		if (status_of(w).used_blocks > RING_BLOCKS - 400) {
			uint64_t tail = status_of(w).tail_seq;
			uint64_t keep = rng_between(&rng, tail + 1, seq);
			journal_trim(w->journal, keep);
			assert_int_equal(journal_point_after(w->journal, keep, &from), 0);
			assert_int_equal(journal_point_after(w->journal, keep - 1, &from), -ENOENT);
			assert_int_equal(world_replay(w, &from, id_at_seq[keep] + 1), 0);
			assert_int_equal(w->replayed, id);
			assert_int_equal(w->result.end.seq, seq);
			assert_int_equal(journal_start(w->journal), 0);
		}
	}
	world_free(w);
}

static void points_are_known_from_tail_to_newest(void **state)
{
	struct world *w = world_started();
	struct journal_point p, q;
	uint64_t seq;

	(void)state;
	assert_int_equal(journal_point_after(w->journal, 0, &p), 0);
	assert_int_equal(p.pos, 1);
	for (uint64_t id = 1; id <= 10; id++) {
		assert_int_equal(world_append(w, id, &seq), 0);
		assert_int_equal(journal_point_after(w->journal, seq, &q), -ENOENT);
		assert_int_equal(journal_commit(w->journal, seq), 0);
		assert_int_equal(journal_point_after(w->journal, seq, &q), 0);
		assert_true(q.pos > p.pos && q.hash != p.hash);
		p = q;
	}
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(journal_point_after(w->journal, 10, &q), 0);
	assert_memory_equal(&p, &q, sizeof(p));
	assert_memory_equal(&p, &w->result.end, sizeof(p));
	world_free(w);
}

static void an_operation_too_large_for_any_batch_is_refused(void **state)
{
	struct world *w = world_started();
	static struct record many[17];
	static char value[RECORD_VALUE_MAX];
	static uint8_t data[RECORD_WRITE_BLOCKS_MAX * BLOCK_SIZE];
	uint64_t seq;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
		many[i] = sample_base(RECORD_SETXATTR);
		many[i].xattr.name = sample_text("user.a");
		many[i].xattr.value = (struct slice){value, sizeof(value)};
	}
	assert_int_equal(journal_append(w->journal, many, 16, &seq), -E2BIG);
	for (size_t i = 0; i < 3; i++) {
		many[i] = sample_base(RECORD_WRITE);
		many[i].write.crc = sample_crcs;
		many[i].write.n_blocks = RECORD_WRITE_BLOCKS_MAX;
		many[i].write.data[0] = (struct iovec){data, sizeof(data)};
		many[i].write.n_data = 1;
	}
	assert_int_equal(journal_append(w->journal, many, 3, &seq), -E2BIG);
	assert_int_equal(journal_append(w->journal, many, 2, &seq), 0);
	assert_int_equal(journal_append(w->journal, many, 0, &seq), -EINVAL);
	many[0].write.data[0].iov_len -= 1;
	assert_int_equal(journal_append(w->journal, many, 1, &seq), -EINVAL);
	world_free(w);
}

static void a_full_batch_commits_itself(void **state)
{
	struct world *w = world_started();
	static uint8_t data[32 * BLOCK_SIZE];
	uint64_t seq = 0, positions = 0;

	(void)state;
	struct record r = sample_base(RECORD_WRITE);
	r.write.crc = sample_crcs;
	r.write.n_blocks = 32;
	r.write.data[0] = (struct iovec){data, sizeof(data)};
	r.write.n_data = 1;
	for (int i = 0; i < 33; i++) {
		assert_int_equal(journal_append(w->journal, &r, 1, &seq), 0);
		assert_true(pointer_block(r.write.staged) > positions);
		positions = pointer_block(r.write.staged) + 31;
	}
	assert_int_equal(seq, 2);
	assert_int_equal(status_of(w).durable_seq, 1);
	assert_int_equal(status_of(w).commit_blocks, 1 + BATCH_PAYLOAD_MAX_BLOCKS + 2);
	world_free(w);
}

static void pressure_is_told_at_a_quarter_and_at_one_mebibyte(void **state)
{
	struct world *w = world_started();
	uint64_t seq, id = 0;

	(void)state;
	while (status_of(w).open_bytes < MIB) {
		assert_int_equal(w->pressures, 0);
		assert_int_equal(world_append(w, ++id, &seq), 0);
	}
	assert_int_equal(w->pressures, 1);
	while (status_of(w).used_blocks < RING_BLOCKS / 4) {
		assert_int_equal(world_append(w, ++id, &seq), 0);
		assert_int_equal(journal_commit(w->journal, seq), 0);
	}
	unsigned at_quarter = w->pressures;
	assert_true(at_quarter >= 2);
	while (status_of(w).used_blocks < RING_BLOCKS / 2) {
		assert_int_equal(world_append(w, ++id, &seq), 0);
		assert_int_equal(journal_commit(w->journal, seq), 0);
	}
	assert_int_equal(w->pressures, at_quarter + 4);
	world_free(w);
}

static void the_ring_never_overwrites_what_is_still_needed(void **state)
{
	struct world *w = world_started();
	uint64_t seq, id = 0;
	int r;

	(void)state;
	/* a writer that does not call journal_wait_room() */
	while ((r = world_append(w, id + 1, &seq)) == 0) {
		id++;
		assert_int_equal(journal_commit(w->journal, seq), 0);
	}
	assert_int_equal(r, -ENOSPC);
	assert_true(status_of(w).used_blocks <= RING_BLOCKS);
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, id);
	assert_int_equal(journal_start(w->journal), 0);
	journal_trim(w->journal, w->result.end.seq / 2);
	assert_int_equal(world_append(w, id + 1, &seq), 0);
	assert_int_equal(journal_commit(w->journal, seq), 0);
	world_free(w);
}

static void trim_keeps_what_is_not_durable(void **state)
{
	struct world *w = world_started();
	uint64_t seq;

	(void)state;
	assert_int_equal(world_append(w, 1, &seq), 0);
	journal_trim(w->journal, 5);
	assert_int_equal(status_of(w).tail_seq, 0);
	assert_int_equal(journal_commit(w->journal, seq), 0);
	journal_trim(w->journal, 5);
	assert_int_equal(status_of(w).tail_seq, 1);
	journal_trim(w->journal, 0);
	assert_int_equal(status_of(w).tail_seq, 1);
	world_free(w);
}

static int64_t timed_wait_room(struct world *w)
{
	int64_t start = clock_mono_ns(&clock_system);

	assert_int_equal(journal_wait_room(w->journal), 0);
	return clock_mono_ns(&clock_system) - start;
}

static void *trim_soon(void *arg)
{
	struct world *w = arg;

	nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	journal_trim(w->journal, status_of(w).durable_seq);
	return NULL;
}

static void writers_are_slowed_then_stopped_until_the_tail_moves(void **state)
{
	struct world *w = world_started();
	uint64_t seq, id = 0, full = RING_BLOCKS - BATCH_MAX_BLOCKS - 4 * 50;
	pthread_t thread;

	(void)state;
	timed_wait_room(w);
	assert_int_equal(status_of(w).throttled, 0);
	while (status_of(w).used_blocks <= full / 4 * 3 + 40) {
		assert_int_equal(world_append(w, ++id, &seq), 0);
		assert_int_equal(journal_commit(w->journal, seq), 0);
	}
	timed_wait_room(w);
	assert_int_equal(status_of(w).throttled, 1);
	while (status_of(w).used_blocks < full) {
		assert_int_equal(world_append(w, ++id, &seq), 0);
		assert_int_equal(journal_commit(w->journal, seq), 0);
	}
	assert_int_equal(pthread_create(&thread, NULL, trim_soon, w), 0);
	assert_true(timed_wait_room(w) > 10000000);
	pthread_join(thread, NULL);
	assert_int_equal(status_of(w).throttled, 2);
	world_free(w);
}

static void a_failed_write_is_for_ever_and_says_why(void **state)
{
	struct world *w = world_started();
	char text[256];
	uint64_t seq;

	(void)state;
	assert_int_equal(world_append(w, 1, &seq), 0);
	assert_int_equal(journal_commit(w->journal, seq), 0);
	assert_int_equal(world_append(w, 2, &seq), 0);
	w->store.fail_write_from = w->store.writes + 1;
	assert_int_equal(journal_commit(w->journal, seq), -EIO);
	w->store.fail_write_from = 0;
	assert_int_equal(w->failures, 1);
	assert_non_null(strstr(w->what, "journal/seg.0000"));
	assert_non_null(strstr(w->what, "batch 2"));
	assert_non_null(strstr(w->what, strerror(EIO)));
	journal_failure(w->journal, text, sizeof(text));
	assert_string_equal(text, w->what);
	/* not even for what is durable, and without another write */
	unsigned long writes = w->store.writes;
	assert_int_equal(journal_commit(w->journal, seq), -EIO);
	assert_int_equal(journal_commit(w->journal, 1), -EIO);
	assert_int_equal(journal_commit_all(w->journal, NULL), -EIO);
	assert_int_equal(world_append(w, 3, &seq), -EIO);
	assert_int_equal(journal_wait_room(w->journal), -EROFS);
	assert_int_equal(w->store.writes, writes);
	assert_int_equal(w->failures, 1);
	assert_int_equal(status_of(w).error, -EIO);
	/* the next mount has it all */
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, 2);
	world_free(w);
}

static void a_failed_flush_of_data_keeps_its_batch_from_the_ring(void **state)
{
	struct world *w = world_started();
	uint64_t seq = 0, id = 0;

	(void)state;
	w->flush_error = -ENOSPC;
	while (status_of(w).error == 0) {
		assert_int_equal(world_append(w, ++id, &seq), 0);
		int r = journal_commit(w->journal, seq);
		assert_true(r == 0 || r == -ENOSPC);
	}
	uint64_t durable = status_of(w).durable_seq;
	assert_int_equal(durable, seq - 1);
	assert_non_null(strstr(w->what, "flush of file data"));
	w->flush_error = 0;
	w->verify_until = id; /* and the data of that operation was lost */
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, id - 1);
	assert_int_equal(w->result.end.seq, durable);
	world_free(w);
}

static void missing_or_short_files_refuse_to_open(void **state)
{
	struct world *w = world_new();

	(void)state;
	for (unsigned i = 0; i < w->store.n_files; i++) {
		struct memfile *f = &w->store.files[i];
		f->size -= BLOCK_SIZE;
		assert_int_equal(journal_open(&w->config, &w->journal), -EUCLEAN);
		f->size += BLOCK_SIZE;
		f->name[0] ^= 1;
		assert_int_equal(journal_open(&w->config, &w->journal), -ENOENT);
		f->name[0] ^= 1;
	}
	assert_int_equal(journal_format(&w->store.base, &w->config.geometry), -EEXIST);
	w->config.geometry.n_segments = 1;
	assert_int_equal(journal_open(&w->config, &w->journal), -EINVAL);
	world_free(w);
}

static void a_journal_that_was_not_started_takes_nothing(void **state)
{
	struct world *w = world_new();
	uint64_t seq;

	(void)state;
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(world_append(w, 1, &seq), -EROFS);
	assert_int_equal(w->store.writes, 0);
	world_free(w);
}

static void sabotage_breaks_just_its_rule(void **state)
{
	struct world *w = world_new();
	uint64_t seq;

	(void)state;
	w->config.hooks.sabotage = JOURNAL_SABOTAGE_SKIP_FLUSH_DATA | JOURNAL_SABOTAGE_NOT_DURABLE;
	world_start(w);
	for (uint64_t id = 1; id < 20; id++) {
		assert_int_equal(world_append(w, id, &seq), 0);
		assert_int_equal(journal_commit(w->journal, seq), 0);
	}
	assert_int_equal(w->flushes, 0);
	assert_int_equal(w->store.durable_writes, 0);
	assert_true(w->store.writes >= 19);
	world_free(w);
}

/*
 * Many threads: each appends its own operations and commits some, checks that what it committed is durable, and reads back
 * what it wrote.  In the end the ring holds each thread's operations in its order.
 */
#define STRESS_THREADS 8
#define STRESS_OPS     150

struct stress {
	struct world *world;
	uint64_t number;
	int error;
};

static int stress_step(struct stress *s, struct rng *rng, uint64_t i, uint8_t *block)
{
	struct journal *j = s->world->journal;
	struct op op;
	uint64_t seq;

	int r = journal_wait_room(j);
	if (r)
		return r;
	op_make(&op, rng_below(rng, 1000));
	for (size_t k = 0; k < op.n; k++) {
		op.records[k].pid = (uint32_t)s->number;
		op.records[k].time_ns = (int64_t)i;
	}
	r = journal_append(j, op.records, op.n, &seq);
	if (!r && rng_percent(rng, 60))
		r = journal_commit(j, seq);
	struct journal_status status;
	journal_get_status(j, &status);
	for (size_t k = 0; !r && k < op.n; k++) {
		const struct record *w = &op.records[k];
		if (w->type == RECORD_WRITE && !w->write.out_of_line && status.tail_seq < seq) {
			r = journal_read(j, pointer_block(w->write.staged) + w->write.n_blocks - 1, 1, block);
			if (r == -EUCLEAN)
				r = 0; /* trimmed in between */
			else if (!r && crc32c(0, block, BLOCK_SIZE) != op.crc[w->write.n_blocks - 1]) {
				journal_get_status(j, &status);
				r = status.tail_seq < seq ? -EBADMSG : 0;
			}
		}
	}
	op_free(&op);
	return r;
}

static void *stress_thread(void *arg)
{
	struct stress *s = arg;
	struct rng rng = rng_derive(3, s->number, 0);
	uint8_t *block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);

	for (uint64_t i = 1; !s->error && i <= STRESS_OPS; i++)
		s->error = stress_step(s, &rng, i, block);
	free(block);
	return NULL;
}

struct tally {
	int64_t last[STRESS_THREADS];
	uint64_t n;
	bool counting; /* from the first record after the tail on */
};

static int tally_apply(void *ctx, const struct record *r, uint64_t seq)
{
	struct tally *t = ctx;

	(void)seq;
	assert_true(r->pid < STRESS_THREADS);
	int64_t *last = &t->last[r->pid];
	assert_true(*last == 0 || r->time_ns == *last || r->time_ns == *last + 1);
	*last = r->time_ns;
	t->n++;
	return 0;
}

static bool tally_verify(void *ctx, const struct record *r)
{
	(void)ctx, (void)r;
	return true;
}

/* Trims as a homer would, until told to stop. */
static atomic_bool stop_homer;
static void *homer_thread(void *arg)
{
	struct world *w = arg;

	while (!atomic_load(&stop_homer)) {
		struct journal_status s = status_of(w);
		if (s.used_blocks > RING_BLOCKS / 4)
			journal_trim(w->journal, s.tail_seq + (s.durable_seq - s.tail_seq + 1) / 2);
		nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
	}
	return NULL;
}

static void many_threads_share_commits_and_lose_nothing(void **state)
{
	struct world *w = world_started();
	struct stress stress[STRESS_THREADS] = {0};
	pthread_t threads[STRESS_THREADS], homer;
	struct journal_point from;
	struct tally tally = {0};
	const struct journal_replay_ops ops = {.ctx = &tally, .apply = tally_apply, .verify = tally_verify};

	(void)state;
	atomic_store(&stop_homer, false);
	assert_int_equal(pthread_create(&homer, NULL, homer_thread, w), 0);
	for (unsigned i = 0; i < STRESS_THREADS; i++) {
		stress[i] = (struct stress){.world = w, .number = i};
		assert_int_equal(pthread_create(&threads[i], NULL, stress_thread, &stress[i]), 0);
	}
	for (unsigned i = 0; i < STRESS_THREADS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(stress[i].error, 0);
	}
	atomic_store(&stop_homer, true);
	pthread_join(homer, NULL);
	struct journal_status s = status_of(w);
	assert_int_equal(s.operations, STRESS_THREADS * STRESS_OPS);
	assert_int_equal(journal_point_after(w->journal, s.tail_seq, &from), 0);
	/* kill -9: what was not committed is in the staging files */
	w->journal = journal_close(w->journal);
	assert_int_equal(journal_open(&w->config, &w->journal), 0);
	assert_int_equal(journal_replay(w->journal, &from, &ops, &w->result), 0);
	for (unsigned i = 0; i < STRESS_THREADS; i++)
		assert_true(tally.last[i] == STRESS_OPS || (tally.last[i] == 0 && from.seq > 0));
	assert_int_equal(tally.n, w->result.n_records + w->result.n_staged_records);
	world_free(w);
}

/*
 * Writers that outrun a slow disk and never commit fill batch after batch: they wait for room in the open batch, and go on
 * while the full one is written.  They do not call journal_wait_room(), which would slow them.
 */
#define STREAM_THREADS 4
#define STREAM_BLOCKS  48u

static void slow_write(void *ctx, const char *name, uint64_t off, unsigned flags)
{
	(void)ctx, (void)name, (void)off, (void)flags;
	nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
}

static void *stream_thread(void *arg)
{
	struct stress *s = arg;
	uint8_t *data = malloc(STREAM_BLOCKS * BLOCK_SIZE);
	uint32_t crc[STREAM_BLOCKS];
	uint64_t seq;

	for (uint32_t i = 0; i < STREAM_BLOCKS; i++) {
		op_fill(s->number, i, data + i * BLOCK_SIZE);
		crc[i] = crc32c(0, data + i * BLOCK_SIZE, BLOCK_SIZE);
	}
	for (int64_t i = 1; !s->error && i <= 100; i++) {
		struct record r = sample_base(RECORD_WRITE);
		r.pid = (uint32_t)s->number;
		r.time_ns = i;
		r.write.n_blocks = STREAM_BLOCKS;
		r.write.crc = crc;
		r.write.data[0] = (struct iovec){data, STREAM_BLOCKS * BLOCK_SIZE};
		r.write.n_data = 1;
		while ((s->error = journal_append(s->world->journal, &r, 1, &seq)) == -ENOSPC)
			nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
	}
	free(data);
	return NULL;
}

static void writers_that_outrun_the_disk_wait_for_room_in_the_batch(void **state)
{
	struct world *w = world_started();
	struct stress stress[STREAM_THREADS];
	pthread_t threads[STREAM_THREADS], homer;

	(void)state;
	w->store.on_write = slow_write;
	atomic_store(&stop_homer, false);
	assert_int_equal(pthread_create(&homer, NULL, homer_thread, w), 0);
	for (unsigned i = 0; i < STREAM_THREADS; i++) {
		stress[i] = (struct stress){.world = w, .number = i};
		assert_int_equal(pthread_create(&threads[i], NULL, stream_thread, &stress[i]), 0);
	}
	for (unsigned i = 0; i < STREAM_THREADS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(stress[i].error, 0);
	}
	atomic_store(&stop_homer, true);
	pthread_join(homer, NULL);
	assert_int_equal(status_of(w).operations, STREAM_THREADS * 100);
	assert_int_equal(status_of(w).commits, STREAM_THREADS * 100 / (BATCH_PAYLOAD_MAX_BLOCKS / STREAM_BLOCKS));
	assert_int_equal(journal_commit_all(w->journal, NULL), 0);
	world_free(w);
}

/* Commits without waiting. */

struct async {
	struct journal_waiter base;
	struct world *world;
	atomic_uint *told; /* counts answers; borrowed */
	int want;
};

static void async_done(struct journal_waiter *w, int result)
{
	struct async *a = (struct async *)w;

	assert_int_equal(result, a->want);
	if (!result)
		assert_true(status_of(a->world).durable_seq >= w->seq);
	atomic_fetch_add(a->told, 1);
	free(a);
}

static void async_commit(struct world *w, atomic_uint *told, int want)
{
	struct async *a = calloc(1, sizeof(*a));

	*a = (struct async){.base = {.done = async_done}, .world = w, .told = told, .want = want};
	journal_commit_async(w->journal, &a->base);
}

static void a_commit_without_waiting_is_answered_once(void **state)
{
	struct world *w = world_started();
	atomic_uint told = 0;
	uint64_t seq;

	(void)state;
	async_commit(w, &told, 0); /* nothing to do */
	assert_int_equal(told, 1);
	assert_int_equal(world_append(w, 1, &seq), 0);
	async_commit(w, &told, 0);
	assert_int_equal(told, 2);
	assert_int_equal(status_of(w).durable_seq, seq);
	async_commit(w, &told, 0);
	assert_int_equal(told, 3);
	assert_int_equal(world_append(w, 2, &seq), 0);
	w->store.fail_write_from = w->store.writes + 1;
	async_commit(w, &told, -EIO);
	async_commit(w, &told, -EIO);
	assert_int_equal(told, 5);
	world_free(w);
}

/* Threads that never wait, while one that does is to get away in time. */
#define ASYNC_THREADS 3
#define ASYNC_WAITS   100

static atomic_bool stop_async;
static atomic_uint async_asked, async_told;
static pthread_t waiting_thread;
static uint64_t written_by_waiting_thread, last_written; /* batches, and the last one's seq; used by that thread only */

static void note_writer(void *ctx, const char *name, uint64_t off, unsigned flags)
{
	(void)name, (void)off, (void)flags;
	if (pthread_equal(pthread_self(), waiting_thread)) {
		uint64_t seq = status_of(ctx).sealed_seq; /* a batch may take several writes */
		written_by_waiting_thread += seq != last_written;
		last_written = seq;
	}
	nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
}

static void *async_thread(void *arg)
{
	struct world *w = arg;
	uint64_t seq;

	while (!atomic_load(&stop_async)) {
		struct record r = sample_base(RECORD_REAP);
		assert_int_equal(journal_wait_room(w->journal), 0);
		assert_int_equal(journal_append(w->journal, &r, 1, &seq), 0);
		atomic_fetch_add(&async_asked, 1);
		async_commit(w, &async_told, 0);
	}
	return NULL;
}

static void a_thread_that_waits_does_not_commit_for_others_for_long(void **state)
{
	struct world *w = world_started();
	pthread_t threads[ASYNC_THREADS], homer;
	uint64_t seq;

	(void)state;
	waiting_thread = pthread_self();
	w->store.on_write = note_writer;
	w->store.ctx = w;
	atomic_store(&stop_homer, false);
	atomic_store(&stop_async, false);
	assert_int_equal(pthread_create(&homer, NULL, homer_thread, w), 0);
	for (unsigned i = 0; i < ASYNC_THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, async_thread, w), 0);
	for (int i = 0; i < ASYNC_WAITS; i++) {
		struct record r = sample_base(RECORD_REAP);
		assert_int_equal(journal_append(w->journal, &r, 1, &seq), 0);
		written_by_waiting_thread = 0; /* the batch may have been full before */
		assert_int_equal(journal_commit(w->journal, seq), 0);
		assert_in_range(written_by_waiting_thread, 0, 2); /* its own, and one for those who came meanwhile */
	}
	atomic_store(&stop_async, true);
	for (unsigned i = 0; i < ASYNC_THREADS; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&stop_homer, true);
	pthread_join(homer, NULL);
	assert_int_equal(async_told, async_asked);
	world_free(w);
}

/* Every thread that waits is told when the write fails, and no append slips in behind. */
static void *commit_until_failure(void *arg)
{
	struct stress *s = arg;
	uint64_t seq;

	for (uint64_t id = 1;; id++) {
		struct record r = sample_base(RECORD_REAP);
		s->error = journal_append(s->world->journal, &r, 1, &seq);
		if (s->error)
			return NULL;
		s->error = journal_commit(s->world->journal, seq);
		if (s->error)
			return NULL;
	}
}

static void a_failure_reaches_every_waiting_thread(void **state)
{
	(void)state;
	for (unsigned long round = 1; round <= 30; round++) {
		struct world *w = world_started();
		struct stress stress[STRESS_THREADS] = {0};
		pthread_t threads[STRESS_THREADS];
		w->store.fail_write_from = w->store.writes + round;
		for (unsigned i = 0; i < STRESS_THREADS; i++) {
			stress[i] = (struct stress){.world = w, .number = i};
			assert_int_equal(pthread_create(&threads[i], NULL, commit_until_failure, &stress[i]), 0);
		}
		for (unsigned i = 0; i < STRESS_THREADS; i++) {
			pthread_join(threads[i], NULL);
			assert_int_equal(stress[i].error, -EIO);
		}
		assert_int_equal(w->failures, 1);
		assert_int_equal(status_of(w).durable_seq, round - 1);
		world_free(w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_fresh_journal_is_empty),
	    cmocka_unit_test(committed_operations_come_back),
	    cmocka_unit_test(every_batch_write_is_durable_and_commits_once),
	    cmocka_unit_test(out_of_line_data_is_flushed_before_its_batch_is_written),
	    cmocka_unit_test(payload_is_read_from_memory_and_from_the_ring),
	    cmocka_unit_test(positions_that_hold_nothing_are_refused),
	    cmocka_unit_test(the_ring_wraps_and_replays_from_any_point_in_it),
	    cmocka_unit_test(points_are_known_from_tail_to_newest),
	    cmocka_unit_test(an_operation_too_large_for_any_batch_is_refused),
	    cmocka_unit_test(a_full_batch_commits_itself),
	    cmocka_unit_test(pressure_is_told_at_a_quarter_and_at_one_mebibyte),
	    cmocka_unit_test(the_ring_never_overwrites_what_is_still_needed),
	    cmocka_unit_test(trim_keeps_what_is_not_durable),
	    cmocka_unit_test(writers_are_slowed_then_stopped_until_the_tail_moves),
	    cmocka_unit_test(a_failed_write_is_for_ever_and_says_why),
	    cmocka_unit_test(a_failed_flush_of_data_keeps_its_batch_from_the_ring),
	    cmocka_unit_test(missing_or_short_files_refuse_to_open),
	    cmocka_unit_test(a_journal_that_was_not_started_takes_nothing),
	    cmocka_unit_test(sabotage_breaks_just_its_rule),
	    cmocka_unit_test(many_threads_share_commits_and_lose_nothing),
	    cmocka_unit_test(writers_that_outrun_the_disk_wait_for_room_in_the_batch),
	    cmocka_unit_test(a_commit_without_waiting_is_answered_once),
	    cmocka_unit_test(a_thread_that_waits_does_not_commit_for_others_for_long),
	    cmocka_unit_test(a_failure_reaches_every_waiting_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
