/*
 * test_replay.c: what the journal makes of every kind of end: torn tails, kill -9, lost power, damage.
 *
 * In all of them replay must give operations 1 .. n in order and whole, with n at least what was durable, or name damage.
 */
#include "tests/unit/journal_world.h"

#include <malloc.h>

#include "base/log.h"

/* Appends operations and commits after each `batch` of them; returns the newest durable operation. */
static uint64_t fill(struct world *w, uint64_t first, uint64_t n, uint64_t batch, bool commit_last)
{
	uint64_t seq, durable = first - 1;

	for (uint64_t id = first; id < first + n; id++) {
		assert_int_equal(world_append(w, id, &seq), 0);
		if ((id - first + 1) % batch == 0 || (commit_last && id == first + n - 1)) {
			assert_int_equal(journal_commit(w->journal, seq), 0);
			durable = id;
		}
	}
	return durable;
}

static struct journal_point point_after(struct world *w, uint64_t seq)
{
	struct journal_point p;

	assert_int_equal(journal_point_after(w->journal, seq, &p), 0);
	return p;
}

static uint64_t newest_seq(struct world *w)
{
	struct journal_status s;

	journal_get_status(w->journal, &s);
	return s.durable_seq;
}

/* The blocks of one batch as they were before it was written, and as they are. */
struct last_batch {
	uint64_t pos;
	uint32_t n_blocks;
	uint8_t *before, *after;
};

/* `durable` operations in batches of 5, then one more batch of `n` whose write can be taken back in part. */
static struct last_batch write_last(struct world *w, uint64_t durable, uint64_t n)
{
	struct last_batch b;

	fill(w, 1, durable, 5, true);
	uint64_t seq = newest_seq(w);
	b.pos = point_after(w, seq).pos;
	uint8_t *before = malloc((size_t)BATCH_MAX_BLOCKS * BLOCK_SIZE);
	for (uint32_t i = 0; i < BATCH_MAX_BLOCKS; i++)
		memcpy(before + (size_t)i * BLOCK_SIZE, world_block(w, b.pos + i), BLOCK_SIZE);
	fill(w, durable + 1, n, n, true);
	b.n_blocks = (uint32_t)(point_after(w, seq + 1).pos - b.pos);
	b.before = before;
	b.after = malloc((size_t)b.n_blocks * BLOCK_SIZE);
	for (uint32_t i = 0; i < b.n_blocks; i++)
		memcpy(b.after + (size_t)i * BLOCK_SIZE, world_block(w, b.pos + i), BLOCK_SIZE);
	w->journal = journal_close(w->journal);
	return b;
}

static void last_free(struct last_batch *b)
{
	free(b->before);
	free(b->after);
}

/* Sector `i` of the batch as before or after. */
static void put_sector(struct world *w, const struct last_batch *b, uint64_t i, bool after)
{
	const uint8_t *from = (after ? b->after : b->before) + i * 512;

	memcpy(world_block(w, b->pos + i / 8) + i % 8 * 512, from, 512);
}

/* True when the two ages of the batch differ nowhere but in sectors `kept` says are the new ones. */
static bool whole(const struct last_batch *b, const uint8_t *kept)
{
	for (uint64_t i = 0; i < b->n_blocks * 8ull; i++)
		if (!kept[i] && memcmp(b->before + i * 512, b->after + i * 512, 512) != 0)
			return false;
	return true;
}

static void a_tail_torn_at_any_sector_is_dropped(void **state)
{
	struct world *w = world_started();
	struct last_batch b = write_last(w, 23, 7);
	uint8_t *kept = calloc(b.n_blocks, 8);

	(void)state;
	world_lose_staging(w);
	for (uint64_t cut = 0; cut <= b.n_blocks * 8ull; cut++) {
		for (uint64_t i = 0; i < b.n_blocks * 8ull; i++) {
			put_sector(w, &b, i, i < cut);
			kept[i] = i < cut;
		}
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_int_equal(w->replayed, whole(&b, kept) ? 30 : 23);
		assert_int_equal(w->result.end.seq, whole(&b, kept) ? 6 : 5);
	}
	free(kept);
	last_free(&b);
	world_free(w);
}

static void a_tail_with_any_subset_of_sectors_is_dropped(void **state)
{
	struct world *w = world_started();
	struct rng rng = {.state = test_seed(4)};
	struct last_batch b = write_last(w, 23, 7);
	uint8_t *kept = calloc(b.n_blocks, 8);

	(void)state;
	world_lose_staging(w);
	for (int round = 0; round < 200; round++) {
		unsigned percent = round % 2 ? 99 : (unsigned)rng_below(&rng, 100);
		for (uint64_t i = 0; i < b.n_blocks * 8ull; i++) {
			kept[i] = rng_percent(&rng, percent);
			put_sector(w, &b, i, kept[i]);
		}
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_int_equal(w->replayed, whole(&b, kept) ? 30 : 23);
	}
	free(kept);
	last_free(&b);
	world_free(w);
}

/* A journal that went on over a torn tail is as good as one that never had one. */
static void the_journal_goes_on_over_a_torn_tail(void **state)
{
	struct world *w = world_started();
	struct last_batch b = write_last(w, 23, 7);
	uint64_t sectors = b.n_blocks * 8ull;

	(void)state;
	world_lose_staging(w);
	for (uint64_t cut = 1; cut < sectors - 8; cut += 13) {
		for (uint64_t i = 0; i < sectors; i++)
			put_sector(w, &b, i, i < cut);
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_int_equal(w->replayed, 23);
		assert_int_equal(journal_start(w->journal), 0);
		uint64_t durable = fill(w, 24, 4, 2, true);
		world_lose_staging(w);
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_int_equal(w->replayed, durable);
		/* back to before */
		w->journal = journal_close(w->journal);
		for (uint64_t i = 0; i < BATCH_MAX_BLOCKS * 8ull; i++)
			memcpy(world_block(w, b.pos + i / 8) + i % 8 * 512, b.before + i * 512, 512);
		world_lose_staging(w);
	}
	last_free(&b);
	world_free(w);
}

static void a_torn_batch_that_was_acked_is_damage(void **state)
{
	struct world *w = world_started();
	struct last_batch b = write_last(w, 23, 7);

	(void)state;
	for (uint64_t cut = 0; cut < b.n_blocks * 8ull - 8; cut += 5) {
		for (uint64_t i = 0; i < b.n_blocks * 8ull; i++)
			put_sector(w, &b, i, i < cut);
		/* the staging files have the floor; either one is enough */
		assert_int_equal(world_replay(w, &format_point, 1), -EBADMSG);
		assert_int_equal(w->result.bad_seq, 6);
		assert_int_equal(w->result.bad_pos, b.pos);
		struct memfile *staging = world_staging(w, cut % 2);
		uint8_t magic = staging->p[0];
		staging->p[0] = 0;
		assert_int_equal(world_replay(w, &format_point, 1), -EBADMSG);
		staging->p[0] = magic;
	}
	last_free(&b);
	world_free(w);
}

static void a_flipped_bit_in_any_block_before_the_last_batch_is_named(void **state)
{
	struct world *w = world_started();
	struct rng rng = {.state = test_seed(5)};

	(void)state;
	fill(w, 1, 60, 6, true);
	world_lose_staging(w);
	for (uint64_t seq = 1; seq < 10; seq++) {
		struct journal_point p = point_after(w, seq - 1), q = point_after(w, seq);
		for (uint64_t pos = p.pos; pos < q.pos; pos++) {
			uint64_t bit = rng_below(&rng, BLOCK_SIZE * 8ull);
			uint8_t *block = world_block(w, pos);
			block[bit / 8] ^= (uint8_t)(1 << bit % 8);
			assert_int_equal(world_replay(w, &format_point, 1), -EBADMSG);
			assert_int_equal(w->result.bad_seq, seq);
			assert_int_equal(w->result.bad_pos, p.pos);
			assert_int_equal(w->replayed, (seq - 1) * 6);
			block[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_int_equal(w->replayed, 60);
	}
	world_free(w);
}

static void a_batch_lost_or_misplaced_as_a_whole_is_named(void **state)
{
	struct world *w = world_started();

	(void)state;
	fill(w, 1, 60, 6, true);
	world_lose_staging(w);
	struct journal_point p = point_after(w, 3), q = point_after(w, 4);
	/* zeros, as of a write the device swallowed */
	for (uint64_t pos = p.pos; pos < q.pos; pos++)
		memset(world_block(w, pos), 0, BLOCK_SIZE);
	assert_int_equal(world_replay(w, &format_point, 1), -EBADMSG);
	assert_int_equal(w->result.bad_seq, 4);
	/* another batch in its place */
	memcpy(world_block(w, p.pos), world_block(w, 1), BLOCK_SIZE);
	assert_int_equal(world_replay(w, &format_point, 1), -EBADMSG);
	assert_int_equal(w->result.bad_seq, 4);
	world_free(w);
}

static void an_index_older_than_the_ring_is_named(void **state)
{
	struct world *w = world_started();
	struct journal_point old = format_point;
	uint64_t seq, id = 0;

	(void)state;
	while (old.pos < 3 * RING_BLOCKS) {
		assert_int_equal(world_append(w, ++id, &seq), 0);
		assert_int_equal(journal_commit(w->journal, seq), 0);
		if (seq % 50 == 0)
			journal_trim(w->journal, seq - 1);
		old = point_after(w, seq);
	}
	world_lose_staging(w);
	assert_int_equal(world_replay(w, &format_point, 1), -EBADMSG);
	world_free(w);
}

static void an_unreadable_block_is_an_error_only_where_it_is_needed(void **state)
{
	struct world *w = world_started();

	(void)state;
	fill(w, 1, 60, 6, true);
	world_lose_staging(w);
	struct journal_point p = point_after(w, 4), end = point_after(w, 10);
	w->store.bad_sector = world_block(w, p.pos + 1);
	assert_int_equal(world_replay(w, &format_point, 1), -EIO);
	assert_int_equal(w->result.bad_seq, 5);
	assert_int_equal(w->replayed, 24);
	w->store.bad_sector = world_block(w, end.pos + 3);
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, 60);
	world_free(w);
}

static void another_volume_s_batches_are_not_ours(void **state)
{
	struct world *w = world_started();

	(void)state;
	fill(w, 1, 30, 6, false);
	w->config.volume[3] ^= 1;
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, 0);
	world_free(w);
}

static void a_point_that_is_no_point_is_refused(void **state)
{
	struct world *w = world_new();
	const struct journal_point bad[] = {{0, 0, 0}, {1, UINT64_MAX, 0}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(world_replay(w, &bad[i], 1), -EUCLEAN);
	world_free(w);
}

static void a_batch_that_does_not_continue_the_chain_is_damage(void **state)
{
	struct world *w = world_started();

	(void)state;
	fill(w, 1, 12, 6, true);
	world_lose_staging(w);
	struct journal_point p = point_after(w, 1);
	p.hash ^= 1;
	assert_int_equal(world_replay(w, &p, 7), -EBADMSG);
	assert_int_equal(w->result.bad_seq, 2);
	world_free(w);
}

static void a_batch_of_an_earlier_lap_is_not_taken(void **state)
{
	struct world *w = world_started();
	const struct journal_point next_lap = {0, 1 + RING_BLOCKS, 0};

	(void)state;
	fill(w, 1, 12, 6, true);
	world_lose_staging(w);
	assert_int_equal(world_replay(w, &next_lap, 1), 0);
	assert_int_equal(w->replayed, 0);
	world_free(w);
}

static int refuse_apply(void *ctx, const struct record *r, uint64_t seq)
{
	(void)ctx, (void)r, (void)seq;
	return -ENOMEM;
}

static void a_callback_s_error_stops_the_replay(void **state)
{
	struct world *w = world_started();
	const struct journal_replay_ops ops = {.apply = refuse_apply};

	(void)state;
	fill(w, 1, 5, 5, true);
	w->journal = journal_close(w->journal);
	assert_int_equal(journal_open(&w->config, &w->journal), 0);
	assert_int_equal(journal_replay(w->journal, &format_point, &ops, &w->result), -ENOMEM);
	world_free(w);
}

/* Kill -9: the ring and the staging files as they stand. */

static void kill_at_any_moment_loses_nothing_appended(void **state)
{
	struct world *w = world_started();
	struct rng rng = {.state = test_seed(6)};
	struct journal_point from = format_point;
	uint64_t id = 0, first = 1, seq;

	(void)state;
	for (int round = 0; round < 150; round++) {
		for (uint64_t k = rng_below(&rng, 20); k; k--) {
			assert_int_equal(world_append(w, ++id, &seq), 0);
			if (rng_percent(&rng, 25))
				assert_int_equal(journal_commit(w->journal, seq), 0);
		}
		assert_int_equal(world_replay(w, &from, first), 0);
		assert_int_equal(w->replayed, id);
		/* again, without a start: the same */
		struct journal_replay_result result = w->result;
		assert_int_equal(world_replay(w, &from, first), 0);
		assert_int_equal(w->replayed, id);
		assert_memory_equal(&result, &w->result, sizeof(result));
		assert_int_equal(journal_start(w->journal), 0);
		if (rng_percent(&rng, 30)) {
			assert_int_equal(journal_commit_all(w->journal, &seq), 0);
			journal_trim(w->journal, seq);
			from = point_after(w, seq);
			first = id + 1;
		}
	}
	world_free(w);
}

/* The write of a batch never reached the disk, or did in part, and the one after it was open: both are in staging. */
static void kill_with_a_batch_in_flight_loses_nothing_appended(void **state)
{
	(void)state;
	for (uint64_t n_open = 0; n_open < 6; n_open++) {
		struct world *w = world_started();
		uint64_t seq;
		fill(w, 1, 20, 4, true);
		fill(w, 21, 5, 100, false);
		struct journal_point at = point_after(w, 5);
		w->store.fail_write_from = w->store.writes + 1;
		assert_int_equal(journal_commit_all(w->journal, NULL), -EIO);
		w->store.fail_write_from = 0;
		/* the journal has failed and takes no more; the next case is the one with operations behind it */
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_int_equal(w->replayed, 25);
		/* half of it on the ring */
		memset(world_block(w, at.pos), 0xa5, BLOCK_SIZE);
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_int_equal(w->replayed, 25);
		assert_int_equal(w->result.end.seq, 5);
		assert_int_equal(journal_start(w->journal), 0);
		for (uint64_t id = 26; id < 26 + n_open; id++)
			assert_int_equal(world_append(w, id, &seq), 0);
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_int_equal(w->replayed, 25 + n_open);
		world_free(w);
	}
}

/* Stops the world inside a batch write: what stands in the files then is what a kill at that moment leaves. */
struct freeze {
	struct world *w;
	uint64_t next_id;
	uint64_t at_write;
	bool appended;
	struct memfile copy[2];
};

static void append_during_write(void *ctx, const char *name, uint64_t off, unsigned flags)
{
	struct freeze *f = ctx;
	uint64_t seq;

	(void)name, (void)off, (void)flags;
	if (f->appended || f->w->store.writes < f->at_write)
		return;
	f->appended = true;
	/* the lock is free while a batch is written: another thread appends to the next one */
	for (int i = 0; i < 3; i++)
		assert_int_equal(world_append(f->w, f->next_id++, &seq), 0);
	for (unsigned i = 0; i < 2; i++) {
		f->copy[i] = *world_staging(f->w, i);
		f->copy[i].p = malloc(f->copy[i].size);
		memcpy(f->copy[i].p, world_staging(f->w, i)->p, f->copy[i].size);
	}
}

static void both_staged_batches_come_back_in_order(void **state)
{
	(void)state;
	for (int start_fails = 0; start_fails < 3; start_fails++) {
		struct world *w = world_started();
		struct freeze f = {.w = w, .next_id = 26};
		uint64_t seq;
		fill(w, 1, 20, 4, true);
		fill(w, 21, 5, 100, false);
		struct journal_point at = point_after(w, 5);
		f.at_write = w->store.writes + 1;
		w->store.on_write = append_during_write;
		w->store.ctx = &f;
		assert_int_equal(journal_commit_all(w->journal, NULL), 0);
		w->store.on_write = NULL;
		assert_true(f.appended);
		w->journal = journal_close(w->journal);
		for (unsigned i = 0; i < 2; i++) {
			memcpy(world_staging(w, i)->p, f.copy[i].p, f.copy[i].size);
			free(f.copy[i].p);
		}
		/* 0: the batch in flight had reached the disk; else it had not */
		if (start_fails)
			memset(world_block(w, at.pos), 0, BLOCK_SIZE);
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_int_equal(w->replayed, 28);
		assert_int_equal(w->result.end.seq, start_fails ? 5 : 6);
		assert_int_equal(w->batch_ends, 7);
		if (start_fails == 2) { /* a start that dies in the middle leaves it as it was */
			w->store.fail_write_from = w->store.writes + 1;
			assert_int_equal(journal_start(w->journal), -EIO);
			w->store.fail_write_from = 0;
			assert_int_equal(world_replay(w, &format_point, 1), 0);
			assert_int_equal(w->replayed, 28);
		}
		assert_int_equal(journal_start(w->journal), 0);
		assert_int_equal(newest_seq(w), 6);
		assert_int_equal(world_append(w, 29, &seq), 0);
		assert_int_equal(seq, 7);
		assert_int_equal(journal_commit(w->journal, seq), 0);
		world_lose_staging(w);
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_int_equal(w->replayed, 29);
		assert_int_equal(w->result.n_batches, 7);
		world_free(w);
	}
}

/* The newest batch may have been written but not flushed when the process was killed; later ones must not stand on sand. */
static void start_flushes_the_newest_batch(void **state)
{
	struct world *w = world_started();

	(void)state;
	fill(w, 1, 20, 4, true);
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	unsigned long flushes = w->store.flushes, writes = w->store.writes;
	assert_int_equal(writes, w->store.writes);
	assert_int_equal(journal_start(w->journal), 0);
	assert_true(w->store.flushes >= flushes + 3); /* a segment, both staging files */
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	w->store.fail_flush_from = w->store.flushes + 1;
	assert_int_equal(journal_start(w->journal), -EIO);
	world_free(w);
}

/* Power loss: every page of the staging files of any age. */

#define AGES 8
struct ages {
	uint8_t *page[AGES][2];
	int n;
};

static void remember(struct world *w, struct ages *a)
{
	for (unsigned i = 0; i < 2; i++) {
		const struct memfile *f = world_staging(w, i);
		a->page[a->n][i] = malloc(f->size);
		memcpy(a->page[a->n][i], f->p, f->size);
	}
	a->n++;
}

static void put_ages(struct world *w, const struct ages *a, struct rng *rng)
{
	int kind = (int)rng_below(rng, 4), base = (int)rng_below(rng, (uint64_t)a->n);

	for (unsigned i = 0; i < 2; i++) {
		struct memfile *f = world_staging(w, i);
		for (uint64_t off = 0; off < f->size; off += BLOCK_SIZE) {
			int age = kind == 0 ? (int)rng_below(rng, (uint64_t)a->n) : base;
			if (kind == 1 && rng_percent(rng, 10))
				age = (int)rng_below(rng, (uint64_t)a->n);
			if (kind == 2 && rng_percent(rng, 10))
				memset(f->p + off, 0, BLOCK_SIZE);
			else
				memcpy(f->p + off, a->page[age][i] + off, BLOCK_SIZE);
		}
	}
}

static void a_power_loss_leaves_a_prefix_that_holds_all_that_was_durable(void **state)
{
	struct world *w = world_started();
	struct rng rng = {.state = test_seed(7)};
	struct ages ages = {.n = 0};
	uint64_t durable = 0, id = 0, seq, beyond = 0;

	(void)state;
	while (ages.n < AGES) {
		for (uint64_t k = rng_between(&rng, 3, 9); k; k--)
			assert_int_equal(world_append(w, ++id, &seq), 0);
		if (ages.n % 2 == 0) {
			assert_int_equal(journal_commit(w->journal, seq), 0);
			durable = id;
			assert_int_equal(world_append(w, ++id, &seq), 0);
		}
		remember(w, &ages);
	}
	assert_true(durable < id);
	w->journal = journal_close(w->journal);
	for (int round = 0; round < 300; round++) {
		put_ages(w, &ages, &rng);
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_in_range(w->replayed, durable, id);
		beyond += w->replayed > durable;
	}
	assert_true(beyond > 0);
	for (int i = 0; i < AGES; i++)
		for (unsigned k = 0; k < 2; k++)
			free(ages.page[i][k]);
	world_free(w);
}

static void staging_files_of_random_bytes_are_ignored(void **state)
{
	struct world *w = world_started();
	struct rng rng = {.state = test_seed(8)};

	(void)state;
	uint64_t durable = fill(w, 1, 43, 10, false);
	for (int round = 0; round < 40; round++) {
		for (unsigned i = 0; i < 2; i++) {
			struct memfile *f = world_staging(w, i);
			/* sometimes behind a header that looks right */
			for (uint64_t off = round % 2 ? BLOCK_SIZE : 0; off < f->size; off += 8) {
				uint64_t v = rng_u64(&rng);
				memcpy(f->p + off, &v, 8);
			}
		}
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_int_equal(w->replayed, durable);
	}
	world_free(w);
}

/* Marks that claim anything: counts are bounded before they are used. */
static void staging_headers_with_random_counts_are_refused(void **state)
{
	struct world *w = world_started();
	struct rng rng = {.state = test_seed(9)};

	(void)state;
	uint64_t durable = fill(w, 1, 43, 10, false);
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, 43);
	for (int round = 0; round < 600; round++) {
		struct staging_header saved[2];
		for (unsigned i = 0; i < 2; i++) {
			struct staging_header *h = (void *)world_staging(w, i)->p;
			saved[i] = *h;
			size_t at = offsetof(struct staging_header, mark) + rng_below(&rng, sizeof(h->mark));
			uint64_t v = rng_percent(&rng, 50) ? rng_u64(&rng) : rng_below(&rng, 2000);
			memcpy((uint8_t *)h + at, &v, 1 + rng_below(&rng, 8));
		}
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_true(w->replayed == durable || w->replayed == 43);
		for (unsigned i = 0; i < 2; i++)
			memcpy(world_staging(w, i)->p, &saved[i], sizeof(saved[i]));
	}
	world_free(w);
}

/* The pages of the local section have checksums of their own, since out-of-line blocks of two files may have equal bytes. */
static void a_staged_local_section_of_another_age_is_refused(void **state)
{
	struct world *w = world_started();

	(void)state;
	uint64_t durable = fill(w, 1, 20, 20, true);
	fill(w, 21, 30, 100, false);
	unsigned open = newest_seq(w) % 2;
	struct staging_header h;
	memcpy(&h, world_staging(w, open)->p, sizeof(h));
	uint32_t bytes = le32_get(h.mark[le64_get(h.published) % 2].local_bytes);
	assert_true(bytes > sizeof(le32) + sizeof(struct local_run));
	uint8_t *local =
	    world_staging(w, open)->p + (2 + BATCH_PAYLOAD_MAX_BLOCKS) * (size_t)BLOCK_SIZE + BATCH_LOGICAL_MAX_BYTES;
	/* the first run: another block of the same arena */
	le64 start;
	memcpy(&start, local + sizeof(le32), sizeof(start));
	start = le64_make(pointer_add(le64_get(start), 1));
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, 50);
	memcpy(local + sizeof(le32), &start, sizeof(start));
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, durable);
	world_free(w);
}

static void lost_out_of_line_data_ends_the_staged_operations(void **state)
{
	struct world *w = world_started();
	uint64_t seq;

	(void)state;
	uint64_t durable = fill(w, 1, 20, 20, true);
	fill(w, 21, 30, 100, false);
	for (uint64_t until = 60; until > 20; until--) {
		w->verify_until = until;
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_in_range(w->replayed, until - 1 > 50 ? 50 : until - 1, 50);
		assert_true(w->replayed >= durable);
	}
	/* what was cut off is gone for good, and its place in the order is taken by what follows */
	uint64_t left = w->replayed;
	assert_true(left < 50);
	w->verify_until = UINT64_MAX;
	assert_int_equal(journal_start(w->journal), 0);
	assert_int_equal(world_append(w, left + 1, &seq), 0);
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, left + 1);
	assert_int_equal(journal_start(w->journal), 0);
	assert_int_equal(journal_commit_all(w->journal, NULL), 0);
	world_lose_staging(w);
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, left + 1);
	world_free(w);
}

static void an_operation_of_two_records_is_recovered_whole_or_not_at_all(void **state)
{
	struct world *w = world_started();
	uint64_t seq;

	(void)state;
	fill(w, 1, 60, 100, false);
	/* lose one payload block after the other; world_apply() checks that operations are whole */
	struct staging_header h;
	memcpy(&h, world_staging(w, 0)->p, sizeof(h));
	uint32_t n = le32_get(h.mark[le64_get(h.published) % 2].n_payload_blocks);
	uint64_t before = 60;
	assert_true(n > 50);
	for (uint32_t i = n; i-- > 0;) {
		memset(world_staging(w, 0)->p + (2 + (size_t)i) * BLOCK_SIZE, 0, BLOCK_SIZE);
		assert_int_equal(world_replay(w, &format_point, 1), 0);
		assert_true(w->replayed <= before);
		before = w->replayed;
	}
	assert_true(before < 20);
	assert_int_equal(journal_start(w->journal), 0);
	assert_int_equal(world_append(w, before + 1, &seq), 0);
	assert_int_equal(journal_commit(w->journal, seq), 0);
	world_lose_staging(w);
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, before + 1);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_tail_torn_at_any_sector_is_dropped),
	    cmocka_unit_test(a_tail_with_any_subset_of_sectors_is_dropped),
	    cmocka_unit_test(the_journal_goes_on_over_a_torn_tail),
	    cmocka_unit_test(a_torn_batch_that_was_acked_is_damage),
	    cmocka_unit_test(a_flipped_bit_in_any_block_before_the_last_batch_is_named),
	    cmocka_unit_test(a_batch_lost_or_misplaced_as_a_whole_is_named),
	    cmocka_unit_test(an_index_older_than_the_ring_is_named),
	    cmocka_unit_test(an_unreadable_block_is_an_error_only_where_it_is_needed),
	    cmocka_unit_test(another_volume_s_batches_are_not_ours),
	    cmocka_unit_test(a_point_that_is_no_point_is_refused),
	    cmocka_unit_test(a_batch_that_does_not_continue_the_chain_is_damage),
	    cmocka_unit_test(a_batch_of_an_earlier_lap_is_not_taken),
	    cmocka_unit_test(a_callback_s_error_stops_the_replay),
	    cmocka_unit_test(kill_at_any_moment_loses_nothing_appended),
	    cmocka_unit_test(kill_with_a_batch_in_flight_loses_nothing_appended),
	    cmocka_unit_test(both_staged_batches_come_back_in_order),
	    cmocka_unit_test(start_flushes_the_newest_batch),
	    cmocka_unit_test(a_power_loss_leaves_a_prefix_that_holds_all_that_was_durable),
	    cmocka_unit_test(staging_files_of_random_bytes_are_ignored),
	    cmocka_unit_test(staging_headers_with_random_counts_are_refused),
	    cmocka_unit_test(a_staged_local_section_of_another_age_is_refused),
	    cmocka_unit_test(lost_out_of_line_data_ends_the_staged_operations),
	    cmocka_unit_test(an_operation_of_two_records_is_recovered_whole_or_not_at_all),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	mallopt(M_MMAP_THRESHOLD, 64 << 20); /* thousands of replays, each with a window of 10 MiB: keep the memory */
	mallopt(M_TRIM_THRESHOLD, 64 << 20);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
