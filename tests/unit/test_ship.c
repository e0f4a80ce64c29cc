/*
 * test_ship.c: whole batches out of one journal and into another, over crashes of the one that takes them.
 *
 * A leader appends operations 1, 2, 3, ...; a follower gets its batches, puts out-of-line data elsewhere (run_shift), and must
 * hold the same batches at any moment.
 */
#include "tests/unit/journal_world.h"

#include <malloc.h>
#include <pthread.h>

#include "base/log.h"
#include "journal/ship.h"
#include "tests/lib/simstore.h"

static struct journal_status status_of(struct world *w)
{
	struct journal_status s;

	journal_get_status(w->journal, &s);
	return s;
}

/* Appends n operations from *id + 1 on and commits them as one batch, which the return value names. */
static uint64_t commit_ops(struct world *w, uint64_t *id, uint64_t n)
{
	uint64_t seq = 0;

	for (uint64_t i = 0; i < n; i++)
		assert_int_equal(world_append(w, ++*id, &seq), 0);
	assert_int_equal(journal_commit(w->journal, seq), 0);
	return seq;
}

/* Copies */

static unsigned n_reads;
static void count_read(void *ctx, const char *name, uint64_t off, size_t len)
{
	(void)ctx, (void)name, (void)off, (void)len;
	n_reads++;
}

static void check_copy(struct world *w, const struct journal_batch *b, uint64_t seq)
{
	struct journal_point before, after;

	assert_int_equal(journal_history_point(w->journal, seq - 1, &before), 0);
	assert_int_equal(journal_history_point(w->journal, seq, &after), 0);
	assert_int_equal(b->info.seq, seq);
	assert_int_equal(b->info.pos, before.pos);
	assert_int_equal(b->info.prev_hash, before.hash);
	assert_int_equal(b->info.hash, after.hash);
	assert_int_equal(b->view.pos, before.pos);
	assert_int_equal(batch_blocks(&b->info.n), after.pos - before.pos);
	for (uint64_t i = 0; i < after.pos - before.pos; i++)
		assert_memory_equal(b->memory + i * BLOCK_SIZE, world_block(w, before.pos + i), BLOCK_SIZE);
}

static void copies_are_what_the_ring_holds(void **state)
{
	struct world *w = world_started();
	struct rng rng = {.state = test_seed(21)};
	struct journal_batch b = {0};
	uint64_t id = 0, seq = 0;

	(void)state;
	w->store.on_read = count_read;
	while (seq < 40) {
		seq = commit_ops(w, &id, rng_between(&rng, 1, seq % 8 ? 12 : 60));
		/* the newest: from memory when it is small */
		n_reads = 0;
		assert_int_equal(journal_copy_batch(w->journal, seq, &b), 0);
		bool small = batch_blocks(&b.info.n) * (uint64_t)BLOCK_SIZE <= 256 * KIB;
		assert_true(small ? n_reads == 0 : n_reads > 0);
		check_copy(w, &b, seq);
		/* an older one */
		uint64_t older = rng_between(&rng, journal_oldest(w->journal), seq);
		assert_int_equal(journal_copy_batch(w->journal, older, &b), 0);
		check_copy(w, &b, older);
		journal_trim(w->journal, seq > 3 ? seq - 3 : 0);
	}
	journal_batch_free(&b);
	world_free(w);
}

static void what_is_not_durable_is_not_copied(void **state)
{
	struct world *w = world_started();
	struct journal_batch b = {0};
	uint64_t id = 0, seq;

	(void)state;
	assert_int_equal(journal_oldest(w->journal), 1);
	assert_int_equal(journal_copy_batch(w->journal, 0, &b), -ENOENT);
	assert_int_equal(journal_copy_batch(w->journal, 1, &b), -EAGAIN);
	assert_int_equal(world_append(w, ++id, &seq), 0);
	assert_int_equal(journal_copy_batch(w->journal, 1, &b), -EAGAIN);
	/* sealed, but its write failed */
	w->store.fail_write_from = w->store.writes + 1;
	assert_int_equal(journal_commit(w->journal, seq), -EIO);
	assert_int_equal(journal_copy_batch(w->journal, 1, &b), -EAGAIN);
	journal_batch_free(&b);
	world_free(w);
}

static void damage_in_the_ring_is_named_damage(void **state)
{
	struct world *w = world_started();
	struct journal_batch b = {0};
	struct journal_point p, q;
	uint64_t id = 0;

	(void)state;
	for (int i = 0; i < 6; i++)
		commit_ops(w, &id, 8);
	assert_int_equal(journal_history_point(w->journal, 2, &p), 0);
	assert_int_equal(journal_history_point(w->journal, 3, &q), 0);
	for (uint64_t pos = p.pos; pos < q.pos; pos++)
		for (unsigned bit = 3; bit < BLOCK_SIZE * 8; bit += 7001) {
			world_block(w, pos)[bit / 8] ^= (uint8_t)(1 << bit % 8);
			int r = journal_copy_batch(w->journal, 3, &b);
			assert_true(r == -EBADMSG || r == -EUCLEAN);
			world_block(w, pos)[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
	assert_int_equal(journal_copy_batch(w->journal, 3, &b), 0);
	w->store.bad_sector = world_block(w, q.pos - 1);
	assert_int_equal(journal_copy_batch(w->journal, 3, &b), -EIO);
	assert_int_equal(journal_copy_batch(w->journal, 4, &b), 0);
	journal_batch_free(&b);
	world_free(w);
}

static void another_batch_in_the_place_of_one_is_damage(void **state)
{
	struct world *w = world_started();
	struct record r = sample_base(RECORD_REAP);
	struct journal_batch b = {0};
	struct journal_point p[6];
	uint64_t seq;

	(void)state;
	for (int i = 0; i < 6; i++) {
		assert_int_equal(journal_point_after(w->journal, (uint64_t)i, &p[i]), 0);
		assert_int_equal(journal_append(w->journal, &r, 1, &seq), 0);
		assert_int_equal(journal_commit(w->journal, seq), 0);
	}
	/* whole and valid by itself, as a misdirected write leaves it */
	for (uint64_t i = 0; i < p[3].pos - p[2].pos; i++)
		memcpy(world_block(w, p[2].pos + i), world_block(w, p[1].pos + i), BLOCK_SIZE);
	assert_int_equal(journal_copy_batch(w->journal, 3, &b), -EBADMSG);
	assert_int_equal(journal_copy_batch(w->journal, 2, &b), 0);
	journal_batch_free(&b);
	world_free(w);
}

/* History: what is behind the tail stays until positions one lap further on are given out. */

#define HISTORY_MAX 8192
static struct journal_point points[HISTORY_MAX];
static uint64_t id_at[HISTORY_MAX]; /* the last operation up to that batch */

/* Batches up to `newest`, of which those after `first` were ever known to this mount. */
static void check_history(struct world *w, uint64_t first, uint64_t newest)
{
	struct journal_batch b = {0};
	struct journal_point p;
	uint64_t oldest = newest + 1;

	while (oldest > first + 1 && points[newest].pos - points[oldest - 2].pos <= RING_BLOCKS)
		oldest--;
	assert_int_equal(journal_oldest(w->journal), oldest);
	assert_int_equal(journal_history_point(w->journal, oldest - 1, &p), 0);
	assert_memory_equal(&p, &points[oldest - 1], sizeof(p));
	assert_int_equal(journal_history_point(w->journal, newest, &p), 0);
	assert_int_equal(journal_history_point(w->journal, newest + 1, &p), -ENOENT);
	if (newest % 7 == 0)
		assert_int_equal(journal_copy_batch(w->journal, oldest, &b), 0);
	if (oldest >= 2) {
		assert_int_equal(journal_history_point(w->journal, oldest - 2, &p), -ENOENT);
		assert_int_equal(journal_copy_batch(w->journal, oldest - 1, &b), -ENOENT);
	}
	journal_batch_free(&b);
}

static uint64_t commit_next(struct world *w, bool tiny, struct rng *rng, uint64_t *id)
{
	struct record r = sample_base(RECORD_REAP);
	uint64_t seq;

	if (!tiny)
		return commit_ops(w, id, rng_between(rng, 1, 20));
	assert_int_equal(journal_append(w->journal, &r, 1, &seq), 0);
	assert_int_equal(journal_commit(w->journal, seq), 0);
	return seq;
}

static void history_reaches_back_exactly_one_lap(void **state)
{
	(void)state;
	for (int tiny = 0; tiny < 2; tiny++) {
		struct world *w = world_started();
		struct rng rng = {.state = test_seed(22)};
		uint64_t seq = 0, id = 0, first = 0;
		points[0] = format_point;
		while (points[seq].pos < 4 * RING_BLOCKS) {
			seq = commit_next(w, tiny, &rng, &id);
			assert_true(seq < HISTORY_MAX);
			assert_int_equal(journal_point_after(w->journal, seq, &points[seq]), 0);
			id_at[seq] = id;
			uint64_t tail = status_of(w).tail_seq;
			if (status_of(w).used_blocks > RING_BLOCKS - 800)
				journal_trim(w->journal, rng_between(&rng, (tail + 3 * seq) / 4, seq));
			check_history(w, first, seq);
			if (tiny || rng_percent(&rng, 97))
				continue;
			/* a mount knows what it replayed, from the tail on */
			first = status_of(w).tail_seq;
			assert_int_equal(world_replay(w, &points[first], id_at[first] + 1), 0);
			assert_int_equal(w->replayed, id);
			assert_int_equal(journal_start(w->journal), 0);
			check_history(w, first, seq);
		}
		assert_true(tiny || first > 0);
		world_free(w);
	}
}

/* The first read of a batch finds that another one was just written. */
struct overwrite {
	struct world *w;
	uint64_t id;
	bool done;
};
static void overwrite_it(void *ctx, const char *name, uint64_t off, size_t len)
{
	struct overwrite *o = ctx;

	(void)name, (void)off, (void)len;
	if (!o->done) {
		o->done = true;
		commit_ops(o->w, &o->id, 40);
	}
}

static void a_batch_overwritten_while_it_is_read_is_gone_not_damaged(void **state)
{
	struct world *w = world_started();
	struct overwrite o = {.w = w};
	struct journal_batch b = {0};
	uint64_t oldest;

	(void)state;
	do {
		uint64_t seq = commit_ops(w, &o.id, 9);
		journal_trim(w->journal, seq);
		oldest = journal_oldest(w->journal);
	} while (oldest < 5);
	w->store.on_read = overwrite_it;
	w->store.ctx = &o;
	assert_int_equal(journal_copy_batch(w->journal, oldest, &b), -ENOENT);
	assert_true(o.done && journal_oldest(w->journal) > oldest);
	/* a batch that is written elsewhere meanwhile does no harm */
	o.done = false;
	assert_int_equal(journal_copy_batch(w->journal, journal_oldest(w->journal) + 12, &b), 0);
	assert_true(o.done);
	/* nor does an error of the disk count where there is nothing to be read any more */
	struct journal_point p;
	oldest = journal_oldest(w->journal);
	assert_int_equal(journal_history_point(w->journal, oldest - 1, &p), 0);
	o.done = false;
	w->store.bad_sector = world_block(w, p.pos);
	assert_int_equal(journal_copy_batch(w->journal, oldest, &b), -ENOENT);
	assert_true(o.done);
	journal_batch_free(&b);
	world_free(w);
}

/* A leader and a follower */

#define SHIFT 100000u

static struct world *follower_started(void)
{
	struct world *w = world_new();

	w->config.whole_batches = true;
	w->run_shift = SHIFT;
	w->config.epoch = 99; /* what it has promised: not what its batches carry */
	world_start(w);
	return w;
}

/* The local section of the batch with its data SHIFT blocks further on. */
static void make_local(const struct batch_view *v, struct buf *out)
{
	struct run runs[RECORD_WRITE_BLOCKS_MAX];
	struct batch_cursor c;
	struct record r;

	batch_cursor_start(&c, v);
	while (batch_next(&c, &r) == 1) {
		uint32_t bytes = batch_local_bytes(&r);
		for (uint32_t i = 0; bytes && i < r.write.n_runs; i++)
			runs[i] = (struct run){pointer_add(r.write.runs[i].start, SHIFT), r.write.runs[i].n_blocks};
		r.write.runs = bytes ? runs : NULL;
		if (bytes)
			batch_put_local(buf_grow(out, bytes), &r);
	}
}

struct shipment {
	struct journal_batch b;
	struct buf local;
	struct batch_view view; /* with the follower's local section */
};
static void shipment_free(struct shipment *s)
{
	journal_batch_free(&s->b);
	buf_free(&s->local);
}

static void fetch(struct world *leader, uint64_t seq, struct shipment *ret)
{
	assert_int_equal(journal_copy_batch(leader->journal, seq, &ret->b), 0);
	buf_reset(&ret->local);
	make_local(&ret->b.view, &ret->local);
	ret->view = ret->b.view;
	ret->view.local = NULL;
	ret->view.n.local_bytes = 0;
	assert_int_equal(batch_verify_parts(&ret->b.info, &ret->view), 0);
	ret->view.local = ret->local.p;
	ret->view.n.local_bytes = (uint32_t)ret->local.len;
	assert_int_equal(batch_verify_parts(&ret->b.info, &ret->view), 0);
}

static int append(struct world *follower, const struct shipment *s)
{
	struct batch_view v;
	int r = journal_append_batch(follower->journal, &s->b.info, &s->view, &v);

	if (r)
		return r;
	assert_memory_equal(&v.n, &s->view.n, sizeof(v.n));
	assert_memory_equal(v.logical, s->view.logical, v.n.logical_bytes);
	assert_memory_equal(v.payload, s->view.payload, v.n.n_payload * (size_t)BLOCK_SIZE);
	assert_memory_equal(v.local, s->view.local, v.n.local_bytes);
	assert_int_equal(batch_verify_parts(&s->b.info, &v), 0);
	return 0;
}

static void ship(struct world *leader, struct world *follower, uint64_t seq)
{
	struct shipment s = {0};

	fetch(leader, seq, &s);
	assert_int_equal(append(follower, &s), 0);
	shipment_free(&s);
}

/* Both hold the same batch. */
static void check_same(struct world *leader, struct world *follower, uint64_t seq)
{
	struct journal_batch a = {0}, b = {0};

	assert_int_equal(journal_copy_batch(leader->journal, seq, &a), 0);
	assert_int_equal(journal_copy_batch(follower->journal, seq, &b), 0);
	assert_int_equal(a.info.hash, b.info.hash);
	assert_int_equal(a.info.prev_hash, b.info.prev_hash);
	assert_int_equal(a.info.epoch, b.info.epoch);
	assert_int_equal(a.info.time_ns, b.info.time_ns);
	assert_memory_equal(&a.info.n, &b.info.n, sizeof(a.info.n));
	assert_memory_equal(a.view.logical, b.view.logical, a.info.n.logical_bytes);
	assert_memory_equal(a.view.payload, b.view.payload, a.info.n.n_payload * (size_t)BLOCK_SIZE);
	assert_true(a.info.n.local_bytes == 0 || memcmp(a.view.local, b.view.local, a.info.n.local_bytes) != 0);
	journal_batch_free(&a);
	journal_batch_free(&b);
}

/* Killed at any time, the follower has every batch that was appended, and goes on. */
static void a_follower_holds_the_leader_s_batches(void **state)
{
	struct world *leader = world_started(), *follower = follower_started();
	struct rng rng = {.state = test_seed(23)};
	uint64_t id = 0, seq = 0;

	(void)state;
	while (seq < 60) {
		if (rng_percent(&rng, 20))
			journal_set_epoch(leader->journal, seq + 1000);
		seq = commit_ops(leader, &id, rng_between(&rng, 1, seq % 20 ? 9 : 100));
		ship(leader, follower, seq);
		assert_int_equal(status_of(follower).open_seq, seq);
		assert_true(status_of(follower).open_since_ns != 0);
		if (rng_percent(&rng, 40)) {
			assert_int_equal(journal_commit(follower->journal, seq), 0);
			check_same(leader, follower, seq);
		}
		if (rng_percent(&rng, 30)) {
			assert_int_equal(world_replay(follower, &format_point, 1), 0);
			assert_int_equal(follower->replayed, id);
			assert_int_equal(journal_start(follower->journal), 0);
		}
	}
	assert_int_equal(journal_commit_all(follower->journal, NULL), 0);
	for (uint64_t s = 1; s <= seq; s++)
		check_same(leader, follower, s);
	/* and the follower can ship them on */
	struct world *third = follower_started();
	third->run_shift = 2 * SHIFT;
	for (uint64_t s = 1; s <= seq; s++)
		ship(follower, third, s);
	assert_int_equal(world_replay(third, &format_point, 1), 0);
	assert_int_equal(third->replayed, id);
	world_free(third);
	world_free(leader);
	world_free(follower);
}

/* Rule R1 holds for what another node sent as well, also when the batch is found in staging. */
static void shipped_data_is_flushed_before_its_batch_is_written(void **state)
{
	struct world *leader = world_started(), *follower = follower_started();
	uint64_t id = 0;

	(void)state;
	for (uint64_t seq = 1; seq <= 20; seq++) {
		commit_ops(leader, &id, 1);
		struct shipment s = {0};
		fetch(leader, seq, &s);
		unsigned before = follower->flushes, direct = s.local.len > 0;
		assert_int_equal(append(follower, &s), 0);
		if (seq % 2) {
			assert_int_equal(world_replay(follower, &format_point, 1), 0);
			assert_int_equal(journal_start(follower->journal), 0);
		}
		assert_int_equal(follower->flushes, before);
		assert_int_equal(journal_commit(follower->journal, seq), 0);
		assert_int_equal(follower->flushes, before + direct);
		shipment_free(&s);
	}
	assert_true(follower->flushes > 2);
	world_free(leader);
	world_free(follower);
}

static void a_batch_stays_in_memory_until_the_one_after_the_next(void **state)
{
	struct world *leader = world_started(), *follower = follower_started();
	struct shipment s[3] = {0};
	struct batch_view v[3];
	uint64_t id = 0;

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		commit_ops(leader, &id, 5);
		fetch(leader, i + 1, &s[i]);
	}
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(journal_append_batch(follower->journal, &s[i].b.info, &s[i].view, &v[i]), 0);
		assert_int_equal(status_of(follower).durable_seq, i); /* the one before */
		for (unsigned k = i ? i - 1 : 0; k <= i; k++)
			assert_int_equal(batch_verify_parts(&s[k].b.info, &v[k]), 0);
	}
	for (unsigned i = 0; i < 3; i++)
		shipment_free(&s[i]);
	world_free(leader);
	world_free(follower);
}

static void what_does_not_continue_the_journal_is_refused(void **state)
{
	struct world *leader = world_started(), *follower = follower_started();
	struct shipment s = {0};
	struct batch_view v;
	uint64_t id = 0;

	(void)state;
	for (int i = 0; i < 3; i++)
		commit_ops(leader, &id, 5);
	for (uint64_t committed = 0; committed < 2; committed++) {
		ship(leader, follower, committed + 1);
		if (committed)
			assert_int_equal(journal_commit_all(follower->journal, NULL), 0);
		struct journal_status before = status_of(follower);
		for (uint64_t seq = 1; seq <= 3; seq++) {
			fetch(leader, seq, &s);
			if (seq != committed + 2)
				assert_int_equal(append(follower, &s), -EINVAL);
		}
		fetch(leader, committed + 2, &s);
		s.b.info.prev_hash ^= 1;
		assert_int_equal(append(follower, &s), -EINVAL);
		s.b.info.prev_hash ^= 1;
		for (int off = -1; off <= 1; off += 2) {
			s.b.info.seq += (uint64_t)off;
			assert_int_equal(append(follower, &s), -EINVAL);
			s.b.info.seq -= (uint64_t)off;
		}
		s.b.info.epoch = 0;
		assert_int_equal(append(follower, &s), -EINVAL);
		struct journal_status after = status_of(follower);
		assert_int_equal(after.open_seq, before.open_seq);
		assert_int_equal(after.open_bytes, before.open_bytes);
		assert_int_equal(after.durable_seq, before.durable_seq);
	}
	fetch(leader, 3, &s);
	s.view.n.n_records = 0;
	assert_int_equal(journal_append_batch(follower->journal, &s.b.info, &s.view, &v), -EINVAL);
	s.view.n.n_payload = BATCH_PAYLOAD_MAX_BLOCKS + 1;
	assert_int_equal(journal_append_batch(follower->journal, &s.b.info, &s.view, &v), -EINVAL);
	/* bytes that are not what the hash says: nothing of them is ever seen, killed or not */
	fetch(leader, 3, &s);
	s.b.info.hash ^= 1;
	assert_int_equal(append(follower, &s), -EBADMSG);
	assert_int_equal(status_of(follower).open_bytes, 0);
	assert_int_equal(world_replay(follower, &format_point, 1), 0);
	assert_int_equal(follower->replayed, 10);
	assert_int_equal(append(follower, &s), -EROFS);
	assert_int_equal(journal_start(follower->journal), 0);
	assert_int_equal(append(follower, &s), -EBADMSG);
	fetch(leader, 3, &s);
	assert_int_equal(append(follower, &s), 0);
	assert_int_equal(journal_commit_all(follower->journal, NULL), 0);
	check_same(leader, follower, 3);
	shipment_free(&s);
	world_free(leader);
	world_free(follower);
}

static void a_batch_for_which_the_ring_has_no_room_is_refused(void **state)
{
	struct world *leader = world_started(), *follower = follower_started();
	struct shipment s = {0};
	uint64_t id = 0, seq = 0;
	int r = 0;

	(void)state;
	while (r == 0) {
		seq = commit_ops(leader, &id, 30);
		journal_trim(leader->journal, seq);
		fetch(leader, seq, &s);
		r = append(follower, &s);
	}
	assert_int_equal(r, -ENOSPC);
	assert_true(status_of(follower).used_blocks <= RING_BLOCKS);
	assert_true(follower->pressures > 0);
	journal_trim(follower->journal, seq / 2);
	assert_int_equal(append(follower, &s), 0);
	assert_int_equal(journal_commit(follower->journal, seq), 0);
	check_same(leader, follower, seq);
	shipment_free(&s);
	world_free(leader);
	world_free(follower);
}

/* A follower that is made a leader while its newest batch is not durable yet, before or after a crash. */
static void an_operation_after_a_whole_batch_begins_the_next_one(void **state)
{
	(void)state;
	for (int crash = 0; crash < 3; crash++) {
		struct world *leader = world_started(), *follower = follower_started();
		uint64_t id = 0, seq;
		follower->run_shift = 0; /* so that its own operations look the same */
		commit_ops(leader, &id, 7);
		struct shipment s = {0};
		fetch(leader, 1, &s);
		s.view = s.b.view;
		assert_int_equal(append(follower, &s), 0);
		shipment_free(&s);
		if (crash) {
			follower->config.whole_batches = crash == 1;
			assert_int_equal(world_replay(follower, &format_point, 1), 0);
			assert_int_equal(follower->replayed, 7);
			assert_int_equal(journal_start(follower->journal), 0);
		}
		journal_set_epoch(follower->journal, 100);
		assert_int_equal(world_append(follower, 8, &seq), 0);
		assert_int_equal(seq, 2);
		assert_int_equal(journal_commit(follower->journal, seq), 0);
		struct journal_batch a = {0}, b = {0};
		assert_int_equal(journal_copy_batch(leader->journal, 1, &a), 0);
		assert_int_equal(journal_copy_batch(follower->journal, 1, &b), 0);
		assert_int_equal(a.info.hash, b.info.hash);
		assert_int_equal(b.info.epoch, 1);
		assert_int_equal(a.info.time_ns, b.info.time_ns);
		assert_int_equal(journal_copy_batch(follower->journal, 2, &b), 0);
		assert_int_equal(b.info.epoch, 100);
		journal_batch_free(&a);
		journal_batch_free(&b);
		/* the file of the whole batch takes operations again */
		follower->config.whole_batches = false;
		for (uint64_t own = 9; own < 60; own++)
			assert_int_equal(world_append(follower, own, &seq), 0);
		follower->verify_until = 12;
		assert_int_equal(world_replay(follower, &format_point, 1), 0);
		assert_in_range(follower->replayed, 11, 58);
		world_lose_staging(follower);
		assert_int_equal(world_replay(follower, &format_point, 1), 0);
		assert_int_equal(follower->replayed, 8);
		world_free(leader);
		world_free(follower);
	}
}

static void out_of_line_data_that_is_lost_takes_its_batch_with_it(void **state)
{
	(void)state;
	for (int whole = 0; whole < 2; whole++) { /* without the setting the file says whose batch it is */
		struct world *leader = world_started(), *follower = follower_started();
		uint64_t id = 0;
		follower->config.whole_batches = whole;
		commit_ops(leader, &id, 10);
		commit_ops(leader, &id, 30);
		ship(leader, follower, 1);
		ship(leader, follower, 2);
		for (uint64_t until = 45; until > 10; until--) {
			follower->verify_until = until;
			assert_int_equal(world_replay(follower, &format_point, 1), 0);
			assert_true(follower->replayed == 10 || follower->replayed == 40);
			assert_true(follower->replayed == 40 || until <= 40);
		}
		assert_int_equal(follower->replayed, 10);
		/* it comes again */
		assert_int_equal(journal_start(follower->journal), 0);
		ship(leader, follower, 2);
		follower->verify_until = UINT64_MAX;
		assert_int_equal(world_replay(follower, &format_point, 1), 0);
		assert_int_equal(follower->replayed, 40);
		assert_int_equal(journal_start(follower->journal), 0);
		assert_int_equal(journal_commit_all(follower->journal, NULL), 0);
		check_same(leader, follower, 2);
		world_free(leader);
		world_free(follower);
	}
}

/* A leader's own open batch, found when the node has become a follower: whole as well, and committed before the next. */
static void operations_of_a_former_leader_are_kept_whole(void **state)
{
	struct world *w = world_started();
	struct journal_batch b = {0};
	uint64_t seq;

	(void)state;
	for (uint64_t id = 1; id <= 20; id++)
		assert_int_equal(world_append(w, id, &seq), 0);
	w->config.whole_batches = true;
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, 20);
	w->verify_until = 15; /* whether it is operation 15 or a later one that is lost */
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(w->replayed, 0);
	w->verify_until = UINT64_MAX;
	assert_int_equal(world_replay(w, &format_point, 1), 0);
	assert_int_equal(journal_start(w->journal), 0);
	assert_int_equal(journal_commit_all(w->journal, NULL), 0);
	assert_int_equal(journal_copy_batch(w->journal, 1, &b), 0);
	assert_int_equal(b.info.epoch, w->config.epoch);
	assert_true(b.info.time_ns != 0);
	journal_batch_free(&b);
	world_free(w);
}

/* Power loss: every page of the staging files of any age. */

#define AGES 10
struct ages {
	uint8_t *page[AGES][2];
	int n;
};

static void remember(struct world *w, struct ages *a)
{
	assert_true(a->n < AGES);
	for (unsigned i = 0; i < 2; i++) {
		const struct memfile *f = world_staging(w, i);
		a->page[a->n][i] = malloc(f->size);
		memcpy(a->page[a->n][i], f->p, f->size);
	}
	a->n++;
}

static void put_ages(struct world *w, const struct ages *a, struct rng *rng)
{
	int base = rng_percent(rng, 50) ? a->n - 1 : (int)rng_below(rng, (uint64_t)a->n);
	unsigned other = (unsigned)rng_below(rng, 30), lost = (unsigned)rng_below(rng, 5);

	for (unsigned i = 0; i < 2; i++) {
		struct memfile *f = world_staging(w, i);
		for (uint64_t off = 0; off < f->size; off += BLOCK_SIZE) {
			int age = rng_percent(rng, other) ? (int)rng_below(rng, (uint64_t)a->n) : base;
			memcpy(f->p + off, a->page[age][i] + off, BLOCK_SIZE);
			if (rng_percent(rng, lost))
				memset(f->p + off, 0, BLOCK_SIZE);
		}
	}
}

static void a_power_loss_takes_a_staged_batch_whole_or_not_at_all(void **state)
{
	struct world *leader = world_started(), *follower = follower_started();
	struct rng rng = {.state = test_seed(24)};
	struct ages ages = {.n = 0};
	uint64_t id = 0, ends[AGES], n_kept = 0, n_lost = 0, n = AGES / 2;

	(void)state;
	journal_set_epoch(leader->journal, 55);
	for (uint64_t seq = 1; seq <= n; seq++) {
		assert_int_equal(commit_ops(leader, &id, 3 + seq % 3), seq);
		ends[seq] = id;
		ship(leader, follower, seq);
		remember(follower, &ages);
		if (seq < n)
			assert_int_equal(journal_commit(follower->journal, seq), 0);
		remember(follower, &ages);
	}
	for (int round = 0; round < 400; round++) {
		follower->journal = journal_close(follower->journal);
		put_ages(follower, &ages, &rng);
		assert_int_equal(world_replay(follower, &format_point, 1), 0);
		assert_true(follower->replayed == ends[n - 1] || follower->replayed == ends[n]);
		if (follower->replayed == ends[n - 1]) {
			n_lost++;
			continue;
		}
		n_kept++;
		if (n_kept % 20)
			continue;
		/* it is what it was: committed, then taken off the ring again for the next round */
		struct journal_point end = follower->result.end;
		assert_int_equal(journal_start(follower->journal), 0);
		assert_int_equal(journal_commit_all(follower->journal, NULL), 0);
		check_same(leader, follower, n);
		memset(world_block(follower, end.pos), 0, BLOCK_SIZE);
	}
	assert_true(n_kept > 20 && n_lost > 20);
	for (int i = 0; i < ages.n; i++)
		for (unsigned k = 0; k < 2; k++)
			free(ages.page[i][k]);
	world_free(leader);
	world_free(follower);
}

/* The hook */

struct heard {
	struct world *w;
	uint64_t seq;
};
static void hear(void *ctx, uint64_t seq)
{
	struct heard *h = ctx;

	assert_int_equal(seq, h->seq + 1);
	assert_true(status_of(h->w).durable_seq >= seq); /* takes the lock */
	h->seq = seq;
}

static int flush_nothing(void *ctx)
{
	(void)ctx;
	return 0;
}

static void every_durable_batch_is_told_once(void **state)
{
	struct world *w = world_new();
	struct heard h = {.w = w};
	uint64_t id = 0, seq;

	(void)state;
	w->config.hooks = (struct journal_hooks){.ctx = &h, .flush_data = flush_nothing, .durable = hear};
	world_start(w);
	for (int i = 1; i <= 10; i++) {
		commit_ops(w, &id, 3);
		assert_int_equal(h.seq, i); /* by the time commit returns */
	}
	assert_int_equal(world_append(w, ++id, &seq), 0);
	w->store.fail_write_from = w->store.writes + 1;
	assert_int_equal(journal_commit(w->journal, seq), -EIO);
	assert_int_equal(h.seq, 10);
	world_free(w);
}

/* Threads: one appends and trims for a few laps, another follows as fast as it can. */

struct chase {
	struct world *w;
	_Atomic bool done;
	uint64_t copied, skipped;
};

static void *chase_thread(void *arg)
{
	struct chase *c = arg;
	struct journal_batch b = {0};
	uint64_t next = 1, hash = 0;

	for (;;) {
		bool last = atomic_load(&c->done);
		int r = journal_copy_batch(c->w->journal, next, &b);
		if (r == -EAGAIN && last)
			break;
		if (r == -EAGAIN)
			continue;
		if (r == -ENOENT) { /* overtaken */
			uint64_t oldest = journal_oldest(c->w->journal);
			assert_true(oldest > next);
			next = oldest;
			c->skipped++;
			hash = 0;
			continue;
		}
		assert_int_equal(r, 0);
		assert_true(hash == 0 || b.info.prev_hash == hash);
		hash = b.info.hash;
		next++;
		c->copied++;
	}
	journal_batch_free(&b);
	return NULL;
}

static void a_reader_that_is_overtaken_sees_whole_batches_only(void **state)
{
	struct world *w = world_new();
	struct simstore *sim = simstore_new(); /* its reads and writes exclude each other, as a disk's sectors do */
	struct chase c = {.w = w};
	uint64_t id = 0, seq;
	pthread_t thread;

	(void)state;
	w->config.store = simstore_open(sim);
	assert_int_equal(journal_format(w->config.store, &w->config.geometry), 0);
	world_start(w);
	assert_int_equal(pthread_create(&thread, NULL, chase_thread, &c), 0);
	do {
		seq = commit_ops(w, &id, 1 + id % 30);
		journal_trim(w->journal, seq - 1);
	} while (status_of(w).commit_blocks < 5 * RING_BLOCKS);
	atomic_store(&c.done, true);
	pthread_join(thread, NULL);
	assert_true(c.copied > 0);
	struct store *store = w->config.store;
	world_free(w);
	store_close(store);
	simstore_free(sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(copies_are_what_the_ring_holds),
	    cmocka_unit_test(what_is_not_durable_is_not_copied),
	    cmocka_unit_test(damage_in_the_ring_is_named_damage),
	    cmocka_unit_test(another_batch_in_the_place_of_one_is_damage),
	    cmocka_unit_test(history_reaches_back_exactly_one_lap),
	    cmocka_unit_test(a_batch_overwritten_while_it_is_read_is_gone_not_damaged),
	    cmocka_unit_test(a_follower_holds_the_leader_s_batches),
	    cmocka_unit_test(shipped_data_is_flushed_before_its_batch_is_written),
	    cmocka_unit_test(a_batch_stays_in_memory_until_the_one_after_the_next),
	    cmocka_unit_test(what_does_not_continue_the_journal_is_refused),
	    cmocka_unit_test(a_batch_for_which_the_ring_has_no_room_is_refused),
	    cmocka_unit_test(an_operation_after_a_whole_batch_begins_the_next_one),
	    cmocka_unit_test(out_of_line_data_that_is_lost_takes_its_batch_with_it),
	    cmocka_unit_test(operations_of_a_former_leader_are_kept_whole),
	    cmocka_unit_test(a_power_loss_takes_a_staged_batch_whole_or_not_at_all),
	    cmocka_unit_test(every_durable_batch_is_told_once),
	    cmocka_unit_test(a_reader_that_is_overtaken_sees_whole_batches_only),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	mallopt(M_MMAP_THRESHOLD, 64 << 20); /* many replays, each with a window of 10 MiB: keep the memory */
	mallopt(M_TRIM_THRESHOLD, 64 << 20);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
