/*
 * test_fence.c: a follower behind a fence: it stays at the batch before, can be read there and lead from there, whatever happens
 * in the window, and is its leader once the fence is there.  Crashes are at every event of its store.
 *
 * The leader writes a file to the arena, then overwrites it piece by piece, a batch each, before anything of it was shipped: the
 * first of these batches, `first`, comes with zeros and the fence, which is the last.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <xxhash.h>

#include "tests/unit/superseded.h"

#define SIZE (300 * KIB)
#define STEP (5 * BLOCK_SIZE)

struct late {
	struct message *m; /* batches first .. last at [seq - first] */
	uint64_t before;   /* of the tree before `first` */
	uint64_t after;    /* and after the last */
	uint64_t first, last, ino;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	world_make(w, 11, SIM_MIXED);
	*state = w;
	return 0;
}

static struct message *batch(const struct late *l, uint64_t seq)
{
	assert_true(seq >= l->first && seq <= l->last);
	return &l->m[seq - l->first];
}

/* Some of what comes in between needs inodes, names and space of its own. */
static void overwrite(struct world *w, const struct late *l)
{
	char name[16];

	for (size_t off = 0; off < SIZE; off += STEP) {
		snprintf(name, sizeof(name), "n%zu", off / STEP);
		put_bytes(leader(w), make_file(leader(w), name), 0, off % 3 ? 70 * KIB : 9000, (uint8_t)off);
		put_bytes(leader(w), l->ino, off, BLOCK_SIZE, 0xb2);
		OK(fs_sync(leader(w)));
	}
	steps_settle(leader(w)); /* in place */
}

static void late_make(struct world *w, struct late *ret)
{
	struct late l = {.ino = make_file(leader(w), "f")};

	put_bytes(leader(w), l.ino, 0, SIZE, 0x11);
	steps_settle(leader(w));
	ship_all(w);
	for (unsigned i = 0; i < N_FOLLOWERS; i++)
		commit(w->follower[i].fs);
	l.before = hash_of(leader(w));
	l.first = point_of(leader(w)).durable_seq + 1;
	put_bytes(leader(w), l.ino, 0, SIZE, 0xa1);
	OK(fs_sync(leader(w)));
	overwrite(w, &l);
	l.last = point_of(leader(w)).durable_seq;
	l.after = hash_of(leader(w));
	l.m = test_alloc((l.last - l.first + 1) * sizeof(*l.m));
	for (uint64_t seq = l.first; seq <= l.last; seq++)
		OK(message_read(leader(w), &w->cursor, seq, batch(&l, seq)));
	assert_int_equal(batch(&l, l.first)->d[0].fence, l.last);
	assert_true(l.last > l.first + 12);
	*ret = l;
}

static void late_free(struct late *l)
{
	for (uint64_t seq = l->first; seq <= l->last; seq++)
		message_free(batch(l, seq));
	free(l->m);
}

static void deliver(struct fs *fs, const struct late *l, uint64_t from, uint64_t to)
{
	for (uint64_t seq = from; seq <= to; seq++)
		OK(message_deliver(fs, batch(l, seq)));
}

static void assert_stays(struct fs *fs, const struct late *l)
{
	struct replica_point p = point_of(fs);

	OK(fs_readable(fs));
	assert_int_equal(p.applied_seq, l->first - 1);
	assert_int_equal(p.durable_seq, l->first - 1);
	assert_int_equal(p.fence, 0);
	assert_true(hash_of(fs) == l->before);
}

static void assert_arrived(struct fs *fs, const struct late *l)
{
	struct replica_point p = point_of(fs);

	OK(fs_readable(fs));
	assert_int_equal(p.applied_seq, l->last);
	assert_int_equal(p.fence, 0);
	assert_true(hash_of(fs) == l->after);
}

/* It leads from where it stood, and the other follower, who was there, too, gets what it writes. */
static void assert_leads(struct world *w, struct fs *fs, struct fs *other, uint64_t tree)
{
	struct replica_cursor *c = NULL;

	OK(fs_readable(fs));
	assert_true(hash_of(fs) == tree);
	put_bytes(fs, make_file(fs, "new"), 0, SIZE, 0xcc);
	OK(fs_sync(fs));
	if (other) {
		assert_true(ship(fs, &c, other) > 0);
		ops_of(fs)->cursor_free(c);
		assert_same_tree(other, fs);
	}
	steps_settle(fs);
	assert_clean(w, fs);
}

/* ---- without a crash ---- */

static void a_follower_stays_readable_before_the_fence(void **state)
{
	struct world *w = *state;
	struct fs *fs = w->follower[0].fs;
	struct late l;
	uint64_t sum;

	late_make(w, &l);
	for (uint64_t seq = l.first; seq < l.last; seq++) {
		deliver(fs, &l, seq, seq);
		assert_stays(fs, &l);
		if (seq % 2)
			assert_int_equal(commit(fs), l.first - 1);
		FAILS(-EAGAIN, ops_of(fs)->state_sum(fs_replica(fs), seq, &sum));
		if (seq % 5 == 0)
			steps_settle(fs);
		assert_clean(w, fs);
	}
	deliver(fs, &l, l.last, l.last);
	assert_arrived(fs, &l);
	assert_int_equal(commit(fs), l.last);
	for (uint64_t seq = l.first; seq <= l.last; seq++)
		assert_true(sum_of(leader(w), seq) == sum_of(fs, seq));
	steps_settle(fs);
	assert_clean(w, fs);
	late_free(&l);
}

/* The window lives in the journal: a restart goes on with it, and so does a stream that begins behind it. */
static void a_window_outlives_restarts(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	struct late l;

	late_make(w, &l);
	for (uint64_t seq = l.first; seq <= l.last; seq++) {
		deliver(n->fs, &l, seq, seq);
		/* What superseded data a batch has cannot be told from data that was lost, before the batch is durable. */
		commit(n->fs);
		if (seq % 2)
			node_close(n);
		else
			node_kill(n);
		node_open(w, n);
		if (seq < l.last)
			assert_stays(n->fs, &l);
		assert_clean(w, n->fs);
	}
	assert_arrived(n->fs, &l);
	late_free(&l);
}

static void a_stream_that_begins_again_replaces_the_window(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	struct late l;

	late_make(w, &l);
	for (uint64_t seq = l.first; seq < l.last; seq += 3) {
		deliver(n->fs, &l, l.first, seq);
		assert_stays(n->fs, &l);
		FAILS(-EINVAL,
		      message_deliver(n->fs, batch(&l, seq > l.first ? seq : seq + 2))); /* out of place changes nothing */
		assert_stays(n->fs, &l);
		if (seq % 2 == 0)
			continue;
		node_kill(n);
		node_open(w, n);
	}
	deliver(n->fs, &l, l.first, l.last);
	assert_arrived(n->fs, &l);
	steps_settle(n->fs);
	assert_clean(w, n->fs);
	late_free(&l);
}

/* Its batches may never come to who leads then, and what the window lacks comes with others. */
static void a_higher_epoch_ends_the_window(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	struct late l;

	late_make(w, &l);
	deliver(n->fs, &l, l.first, l.last - 1);
	OK(ops_of(n->fs)->note_epoch(fs_replica(n->fs), epoch_make(2, 3)));
	assert_stays(n->fs, &l);
	FAILS(-EINVAL, message_deliver(n->fs, &(struct message){.b = {.seq = l.last, .epoch = epoch_make(2, 3)}}));
	OK(ops_of(w->follower[1].fs)->promote(fs_replica(w->follower[1].fs), epoch_make(2, 3)));
	assert_leads(w, w->follower[1].fs, n->fs, l.before);
	late_free(&l);
}

static void promote(struct fs *fs, uint64_t epoch)
{
	OK(ops_of(fs)->promote(fs_replica(fs), epoch));
	assert_int_equal(point_of(fs).role, ROLE_LEADER);
}

static void a_follower_leads_from_before_the_fence(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	struct late l;

	late_make(w, &l);
	deliver(n->fs, &l, l.first, l.last - 1);
	promote(n->fs, epoch_make(2, 2));
	assert_leads(w, n->fs, w->follower[1].fs, l.before);
	node_kill(n);
	node_open(w, n);
	assert_same_tree(n->fs, w->follower[1].fs);
	assert_clean(w, n->fs);
	late_free(&l);
}

static void a_resync_takes_the_place_of_a_window(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	struct late l;

	late_make(w, &l);
	deliver(n->fs, &l, l.first, l.last - 2);
	OK(ops_of(n->fs)->resync_begin(fs_replica(n->fs), point_of(n->fs).promised, false));
	assert_true(point_of(n->fs).resyncing);
	node_kill(n);
	node_open(w, n);
	assert_true(point_of(n->fs).resyncing);
	assert_int_equal(point_of(n->fs).applied_seq, l.first - 1);
	assert_clean(w, n->fs);
	late_free(&l);
}

/* ---- what does not fit ---- */

/* An earlier fence than it is true: the window closes with a batch that the leader does not call whole, and that is believed. */
static void a_later_fence_makes_the_window_longer(void **state)
{
	struct world *w = *state;
	struct fs *fs = w->follower[0].fs;
	struct late l;

	late_make(w, &l);
	for (uint64_t seq = l.first; seq <= l.last; seq++)
		for (uint32_t i = 0; i < batch(&l, seq)->n_data; i++)
			if (batch(&l, seq)->d[i].fence && seq == l.first)
				batch(&l, seq)->d[i].fence = seq + 3;
	/* of the data of a later batch something is missing, too, before the first fence is there */
	uint64_t later = l.first;
	for (uint64_t seq = l.first + 1; seq < l.first + 3 && later == l.first; seq++)
		if (batch(&l, seq)->n_data)
			later = seq;
	assert_true(later > l.first);
	struct shipped_data *d = &batch(&l, later)->d[0];
	memset((void *)(uintptr_t)d->blocks, 0, BLOCK_SIZE);
	d->superseded[0] |= 1;
	d->fence = l.last - 1;
	deliver(fs, &l, l.first, l.last - 2);
	assert_stays(fs, &l);
	deliver(fs, &l, l.last - 1, l.last - 1);
	assert_int_equal(point_of(fs).applied_seq, l.last - 1);
	OK(fs_readable(fs));
	late_free(&l);
}

/* More than the ring holds: the follower is behind its fence then, until that is there. */
static void a_window_larger_than_the_ring_is_given_up(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	struct replica_cursor *c = NULL;
	struct message m;
	struct late l;
	bool given_up = false;

	late_make(w, &l);
	for (uint32_t i = 0; i < batch(&l, l.first)->n_data; i++)
		if (batch(&l, l.first)->d[i].fence)
			batch(&l, l.first)->d[i].fence = l.last + 300;
	deliver(n->fs, &l, l.first, l.last);
	assert_stays(n->fs, &l);
	for (uint64_t seq = l.last + 1; seq <= l.last + 300; seq++) {
		put_bytes(leader(w), l.ino, seq % 60 * BLOCK_SIZE, 15 * BLOCK_SIZE, (uint8_t)seq);
		OK(fs_sync(leader(w)));
		if (seq % 40 == 0)
			steps_settle(leader(w));
		OK(message_read(leader(w), &c, seq, &m));
		OK(message_deliver(n->fs, &m));
		message_free(&m);
		struct replica_point p = point_of(n->fs);
		if (p.applied_seq >= l.first && seq < l.last + 300) { /* and no way back */
			assert_int_equal(p.applied_seq, seq);
			assert_int_equal(p.fence, l.last + 300);
			FAILS(-EBUSY, fs_readable(n->fs));
			FAILS(-EAGAIN, ops_of(n->fs)->promote(fs_replica(n->fs), epoch_make(2, 2)));
			given_up = true;
			if (seq % 50 == 0) {
				commit(n->fs);
				node_kill(n);
				node_open(w, n);
				assert_int_equal(point_of(n->fs).fence, l.last + 300);
			}
		}
	}
	assert_true(given_up);
	OK(fs_readable(n->fs));
	commit(n->fs);
	ops_of(leader(w))->cursor_free(c);
	assert_same_tree(n->fs, leader(w));
	steps_settle(n->fs);
	assert_clean(w, n->fs);
	late_free(&l);
}

/* ---- hostile ---- */

/* A name twice in one directory: seen only when the batches before it are applied. */
static void a_batch_that_does_not_fit_ends_the_window(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	struct late l;

	late_make(w, &l);
	struct message bad = {0};
	uint64_t at = l.first + 5;
	deliver(n->fs, &l, l.first, at - 1);
	struct record rec = {.type = RECORD_MKNODE, .ino = 1 << 20};
	struct buf logical = {0};
	rec.mknode.parent = FS_ROOT_INO;
	rec.mknode.mode = S_IFREG | 0644;
	rec.mknode.cookie = 3;
	rec.mknode.name = (struct slice){"f", 1};
	OK(record_encode(&rec, &logical));
	bad.b = batch(&l, at)->b;
	bad.b.n_records = 1;
	bad.b.n_payload = 0;
	bad.b.logical = logical.p;
	bad.b.logical_bytes = (uint32_t)logical.len;
	bad.b.hash = XXH64(logical.p, logical.len, bad.b.prev_hash);
	OK(message_deliver(n->fs, &bad));
	assert_stays(n->fs, &l);
	/* a fence reached with it: what was before is applied, and there it ends */
	struct message end = {.b = bad.b};
	end.b.seq = at + 1;
	end.b.prev_hash = bad.b.hash;
	rec.mknode.cookie = 4;
	for (uint64_t seq = at + 1; seq <= l.last; seq++) {
		end.b.seq = seq;
		end.b.hash = XXH64(logical.p, logical.len, end.b.prev_hash);
		int r = message_deliver(n->fs, &end);
		if (seq < l.last)
			OK(r);
		else
			FAILS(-EUCLEAN, r);
		end.b.prev_hash = end.b.hash;
	}
	struct replica_point p = point_of(n->fs);
	assert_int_equal(p.applied_seq, at - 1);
	assert_int_equal(p.fence, l.last);
	FAILS(-EBUSY, fs_readable(n->fs)); /* the zeros of the first batch are in it */
	commit(n->fs);
	node_kill(n);
	node_open(w, n);
	assert_int_equal(point_of(n->fs).applied_seq, at - 1);
	deliver(n->fs, &l, at, l.last); /* what the leader did make */
	assert_arrived(n->fs, &l);
	steps_settle(n->fs);
	assert_clean(w, n->fs);
	buf_free(&logical);
	late_free(&l);
}

/* ---- crashes ---- */

typedef void survivor_fn(struct world *w, const struct late *l, struct node *n, unsigned turn);

/* The images that crashes of `n` between two of its events leave, kill -9 and loss of power in turn. */
static void each_crash(struct world *w, const struct late *l, struct node *n, uint64_t from, survivor_fn *check)
{
	uint64_t to = simstore_count(n->image.store);
	struct simcut *c = simcut_new(n->image.store);
	struct rng rng = rng_derive(5, from, to);

	assert_true(to > from);
	for (uint64_t turn = 2 * from; turn <= 2 * to + 1; turn++) {
		simcut_advance(c, turn / 2);
		enum simcut_variant v = turn % 2 ? SIMCUT_KILL : (enum simcut_variant)rng_below(&rng, SIMCUT_KILL);
		bool newer = simcut_in_index_flush(c) && v != SIMCUT_LOST && rng_percent(&rng, 50);
		struct node s = {.image.store = simcut_image(c, v, &rng, false)};
		s.image.index = kv_disk_at(n->image.index, turn / 2 + newer, s.image.store);
		node_open(w, &s);
		check(w, l, &s, (unsigned)(turn / 2));
		node_kill(&s);
		sim_image_free(&s.image);
	}
	simcut_free(c);
}

/* One state or the other, never between, and then each of what can follow. */
static void check_follower(struct world *w, const struct late *l, struct node *n, unsigned turn)
{
	uint64_t at = point_of(n->fs).applied_seq;

	assert_int_equal(point_of(n->fs).durable_seq, at);
	assert_true(at == l->first - 1 || at == l->last);
	if (at == l->last)
		assert_arrived(n->fs, l);
	else
		assert_stays(n->fs, l);
	if (turn % 3 == 0) {
		promote(n->fs, epoch_make(3, 2));
		assert_leads(w, n->fs, NULL, at == l->last ? l->after : l->before);
		return;
	}
	if (turn % 3 == 1)
		OK(ops_of(n->fs)->note_epoch(fs_replica(n->fs), epoch_make(1, 1)));
	if (at < l->last)
		deliver(n->fs, l, l->first, l->last);
	assert_arrived(n->fs, l);
	steps_settle(n->fs);
	assert_clean(w, n->fs);
}

static void a_crash_at_any_moment_of_the_window_leaves_one_state_or_the_other(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	struct late l;

	late_make(w, &l);
	uint64_t from = simstore_count(n->image.store);
	for (uint64_t seq = l.first; seq <= l.last; seq++) {
		deliver(n->fs, &l, seq, seq);
		if (seq % 4 == 0)
			commit(n->fs);
		if (seq % 9 == 0)
			steps_settle(n->fs);
	}
	commit(n->fs);
	steps_settle(n->fs);
	each_crash(w, &l, n, from, check_follower);
	late_free(&l);
}

/* A promotion in a window: before it, or after. */
static void check_promoted(struct world *w, const struct late *l, struct node *n, unsigned turn)
{
	struct replica_point p = point_of(n->fs);

	(void)turn;
	if (p.role == ROLE_FOLLOWER) {
		assert_stays(n->fs, l);
		promote(n->fs, epoch_make(3, 2));
	}
	assert_leads(w, n->fs, NULL, l->before);
	node_kill(n);
	node_open(w, n);
	assert_clean(w, n->fs);
}

static void a_crash_at_any_moment_of_a_promotion_loses_nothing(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	struct late l;

	late_make(w, &l);
	deliver(n->fs, &l, l.first, l.last - 1);
	uint64_t from = simstore_count(n->image.store);
	promote(n->fs, epoch_make(2, 2));
	each_crash(w, &l, n, from, check_promoted);
	late_free(&l);
}

/* The window is cut off and another one takes its place, in the same blocks of the ring. */
static void a_crash_at_any_moment_of_a_second_window_finds_nothing_of_the_first(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	struct late l;

	late_make(w, &l);
	deliver(n->fs, &l, l.first, l.last - 1);
	commit(n->fs);
	uint64_t from = simstore_count(n->image.store);
	deliver(n->fs, &l, l.first, l.first + 6);
	commit(n->fs);
	each_crash(w, &l, n, from, check_follower);
	deliver(n->fs, &l, l.first + 7, l.last);
	assert_arrived(n->fs, &l);
	late_free(&l);
}

/* The same under another leader: other batches of the same seqs, and no window any more. */
static void check_other(struct world *w, const struct late *l, struct node *n, unsigned turn)
{
	struct replica_point p = point_of(n->fs);

	(void)turn;
	OK(fs_readable(n->fs));
	assert_true(p.applied_seq >= l->first - 1 && p.applied_seq < l->last);
	struct fs *other = w->follower[1].fs;
	struct replica_cursor *c = NULL;
	ship(other, &c, n->fs);
	ops_of(other)->cursor_free(c);
	assert_same_tree(n->fs, other);
	assert_clean(w, n->fs);
}

static void a_crash_at_any_moment_under_the_next_leader_finds_nothing_of_the_window(void **state)
{
	struct world *w = *state;
	struct node *n = &w->follower[0];
	struct fs *other = w->follower[1].fs;
	struct replica_cursor *c = NULL;
	struct late l;

	late_make(w, &l);
	deliver(n->fs, &l, l.first, l.last - 1);
	promote(other, epoch_make(2, 3));
	for (unsigned i = 0; i < 6; i++) {
		put_bytes(other, l.ino, i * STEP, i % 2 ? 100 * KIB : 5000, (uint8_t)i);
		OK(fs_sync(other));
	}
	uint64_t from = simstore_count(n->image.store);
	OK(ops_of(n->fs)->note_epoch(fs_replica(n->fs), epoch_make(2, 3)));
	assert_stays(n->fs, &l);
	assert_true(ship(other, &c, n->fs) > 5);
	commit(n->fs);
	assert_same_tree(n->fs, other);
	each_crash(w, &l, n, from, check_other);
	ops_of(other)->cursor_free(c);
	late_free(&l);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, world_teardown)
	const struct CMUnitTest tests[] = {
	    CASE(a_follower_stays_readable_before_the_fence),
	    CASE(a_window_outlives_restarts),
	    CASE(a_stream_that_begins_again_replaces_the_window),
	    CASE(a_higher_epoch_ends_the_window),
	    CASE(a_follower_leads_from_before_the_fence),
	    CASE(a_resync_takes_the_place_of_a_window),
	    CASE(a_later_fence_makes_the_window_longer),
	    CASE(a_window_larger_than_the_ring_is_given_up),
	    CASE(a_batch_that_does_not_fit_ends_the_window),
	    CASE(a_crash_at_any_moment_of_the_window_leaves_one_state_or_the_other),
	    CASE(a_crash_at_any_moment_of_a_promotion_loses_nothing),
	    CASE(a_crash_at_any_moment_of_a_second_window_finds_nothing_of_the_first),
	    CASE(a_crash_at_any_moment_under_the_next_leader_finds_nothing_of_the_window),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
