/*
 * test_replica_crash.c: followers that do not get to the end of a batch: cut at every write, by a checkpoint in the middle, by a
 * leader that goes away, by a full disk.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "tests/unit/replica_case.h"

struct delivery {
	uint64_t event;   /* after it was committed, or applied */
	uint64_t durable; /* newest batch that was durable by then */
	uint64_t applied; /* and newest one applied: the others wait for a fence */
};

/* What a follower gets that comes late: of what can still be read, data as it is now. */
static unsigned read_late(struct world *w, struct stream *s)
{
	unsigned n_superseded = 0;

	for (uint64_t seq = 1; seq <= s->n; seq++) {
		struct message m;

		if (message_read(leader(w), &w->cursor, seq, &m) < 0)
			continue;
		for (uint32_t i = 0; i < m.n_data; i++)
			n_superseded += m.d[i].fence > 0;
		message_free(&s->m[seq]);
		s->m[seq] = m;
	}
	return n_superseded;
}

/* A follower as a crash left it: an exact prefix with all that was durable, and what follows brings it to the end. */
static void check_survivor(struct world *w, const struct stream *s, struct node *n, uint64_t durable)
{
	node_open(w, n);
	uint64_t at = point_of(n->fs).applied_seq;
	assert_true(at >= durable && at <= s->n);
	assert_true(at == point_of(n->fs).durable_seq);
	OK(fs_readable(n->fs));
	if (at && s->tree[at])
		assert_true(hash_of(n->fs) == s->tree[at]);
	for (uint64_t seq = at + 1; seq <= s->n; seq++)
		OK(message_deliver(n->fs, &s->m[seq]));
	assert_true(hash_of(n->fs) == s->tree[s->n]);
	assert_clean(w, n->fs);
	node_kill(n);
}

/*
 * kill -9 loses nothing that was finished, but the last batch when it has superseded data: zeros there cannot be told from data
 * that never reached the disk.
 */
static uint64_t survives_kill(const struct stream *s, uint64_t seq)
{
	for (uint32_t i = 0; i < s->m[seq].n_data; i++)
		if (s->m[seq].d[i].fence == seq)
			return seq - 1;
	return seq;
}

static void crash_everywhere(struct world *w, bool late)
{
	struct node *n = &w->follower[0];
	struct stream s;
	struct delivery *log = test_alloc(4096 * sizeof(*log));
	size_t n_log = 0;
	uint64_t durable = 0;

	record_stream(w, 60, &s);
	if (late)
		assert_true(read_late(w, &s) > 0);
	uint64_t first = simstore_count(n->image.store);
	for (uint64_t seq = 1; seq <= s.n; seq++) {
		OK(message_deliver(n->fs, &s.m[seq]));
		if (seq % 3 == 0)
			durable = commit(n->fs);
		if (seq % 11 == 0)
			steps_settle(n->fs);
		log[n_log++] = (struct delivery){simstore_mark(n->image.store), durable, point_of(n->fs).applied_seq};
	}
	uint64_t last = simstore_count(n->image.store);
	struct simcut *c = simcut_new(n->image.store);
	struct rng rng = rng_derive(3, 1, 4);
	for (uint64_t turn = 2 * first; turn <= 2 * last + 1; turn++) {
		uint64_t cut = turn / 2, floor = 0;
		simcut_advance(c, cut);
		enum simcut_variant v = turn % 2 ? SIMCUT_KILL : (enum simcut_variant)rng_below(&rng, SIMCUT_KILL);
		for (size_t i = 0; i < n_log && log[i].event <= cut; i++)
			floor = v == SIMCUT_KILL ? survives_kill(&s, log[i].applied) : log[i].durable;
		bool newer = simcut_in_index_flush(c) && v != SIMCUT_LOST && rng_percent(&rng, 50);
		struct node image = {.image.store = simcut_image(c, v, &rng, false)};
		image.image.index = kv_disk_at(n->image.index, cut + newer, image.image.store);
		check_survivor(w, &s, &image, floor);
		sim_image_free(&image.image);
	}
	simcut_free(c);
	free(log);
	stream_free(&s);
}

static void a_follower_crashed_at_any_moment_goes_on(void **state)
{
	crash_everywhere(*state, false);
}

static void a_late_follower_crashed_at_any_moment_goes_on(void **state)
{
	crash_everywhere(*state, true);
}

/* Checkpoints between the pieces of a batch, and a crash: nothing is allocated that no record names, nothing is claimed twice. */
static void a_checkpoint_in_the_middle_of_a_batch_sees_nothing_of_it(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	uint64_t ino = make_file(leader(w), "f");
	struct replica_volume *v;
	struct message m;
	uint32_t n_data;

	ship_all(w);
	put_bytes(leader(w), ino, 0, 500 * KIB, 5);
	OK(fs_sync(leader(w)));
	OK(message_read(leader(w), &w->cursor, point_of(leader(w)).durable_seq, &m));
	for (unsigned turn = 0; turn < 3; turn++) {
		v = fs_replica(n->fs);
		OK(v->ops->take_batch(v, &m.b, &n_data));
		OK(v->ops->take_data(v, &m.d[0]));
		OK(fs_checkpoint(n->fs));
		if (turn == 1)
			v->ops->drop_batch(v);
		if (turn == 2)
			OK(v->ops->finish_batch(v));
		if (turn != 0) {
			assert_clean(w, n->fs);
			commit(n->fs);
		}
		node_kill(n);
		node_open(w, n);
		assert_clean(w, n->fs);
	}
	message_free(&m);
	assert_same_tree(n->fs, leader(w));
}

static uint64_t taken_blocks(struct fs *fs)
{
	struct arena_status as;

	arena_get_status(fs->arena, &as);
	return as.total_blocks - as.free_blocks + as.reserved_blocks;
}

static void a_dropped_batch_leaves_nothing_behind(void **state)
{
	struct world *w = *state;
	struct fs *f = w->follower[0].fs;
	struct replica_volume *v = fs_replica(f);
	uint64_t ino = make_file(leader(w), "f"), before;
	struct message m;
	uint32_t n_data;

	ship_all(w);
	put_bytes(leader(w), ino, 0, 200 * KIB, 5);
	put_bytes(leader(w), ino, MIB, 20 * KIB, 6);
	put_bytes(leader(w), ino, 2 * MIB, 200 * KIB, 7);
	OK(fs_sync(leader(w)));
	OK(message_read(leader(w), &w->cursor, point_of(leader(w)).durable_seq, &m));
	before = taken_blocks(f);
	for (unsigned pieces = 0; pieces <= 2; pieces++) {
		OK(v->ops->take_batch(v, &m.b, &n_data));
		assert_int_equal(n_data, 2);
		FAILS(-EINVAL, v->ops->take_batch(v, &m.b, &n_data)); /* one at a time */
		for (unsigned i = 0; i < pieces; i++)
			OK(v->ops->take_data(v, &m.d[i]));
		if (pieces < 2) {
			FAILS(-EINVAL, v->ops->finish_batch(v));             /* not all of it is there */
			FAILS(-EINVAL, v->ops->take_data(v, &m.d[!pieces])); /* out of turn */
		} else {
			FAILS(-EINVAL, v->ops->take_data(v, &m.d[1]));
		}
		v->ops->drop_batch(v);
		v->ops->drop_batch(v);
		assert_true(taken_blocks(f) == before);
		FAILS(-EINVAL, v->ops->finish_batch(v));
	}
	OK(message_deliver(f, &m));
	message_free(&m);
	assert_same_tree(f, leader(w));
	assert_clean(w, f);
}

static void a_full_follower_refuses_the_batch_and_takes_it_once_there_is_room(void **state)
{
	struct world *w = *state;
	struct node small = {0};
	struct message m;
	int r = 0;

	node_format(w, &small, 5, 2 * MIB);
	node_open(w, &small);
	uint64_t ino = make_file(leader(w), "f");
	for (unsigned i = 0; i < 16; i++) { /* out of line and inline, more than it can hold */
		put_bytes(leader(w), ino, i * 400 * KIB, i % 2 ? 300 * KIB : 60 * KIB, 1);
		OK(fs_sync(leader(w)));
	}
	for (unsigned i = 0; i < 2; i++) {
		while (r == 0) {
			r = message_read(leader(w), &w->cursor, point_of(small.fs).applied_seq + 1, &m);
			if (r == 0) {
				r = message_deliver(small.fs, &m);
				message_free(&m);
			}
		}
		FAILS(-ENOSPC, r);
		assert_clean(w, small.fs);
		r = 0;
	}
	/* What frees space comes behind what needs it: only more space helps. */
	commit(small.fs);
	node_kill(&small);
	struct fs_config c = sim_config(&w->run, &small.image);
	struct super s;
	OK(super_read(c.store, &s));
	s.max_blocks = UINT64_MAX;
	OK(super_write(c.store, &s));
	store_close(c.store);
	node_open(w, &small);
	ship(leader(w), &w->cursor, small.fs);
	assert_same_tree(small.fs, leader(w));
	assert_clean(w, small.fs);
	node_kill(&small);
	sim_image_free(&small.image);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, world_teardown)
	const struct CMUnitTest cases[] = {
	    CASE(a_follower_crashed_at_any_moment_goes_on),
	    CASE(a_late_follower_crashed_at_any_moment_goes_on),
	    CASE(a_checkpoint_in_the_middle_of_a_batch_sees_nothing_of_it),
	    CASE(a_dropped_batch_leaves_nothing_behind),
	    CASE(a_full_follower_refuses_the_batch_and_takes_it_once_there_is_room),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
