/* test_node.c: node.h: the stream, peers, resyncs, who leads, dead and busy peers, failures; and all of it at random. */
#include "tests/unit/node_world.h"

/* ---- stream ---- */

static void a_follower_gets_every_batch_in_any_chunks(void **state)
{
	static const uint32_t chunks[] = {1, 7, 100, 5000, 1 << 20};

	(void)state;
	for (uint32_t k = 0; k < ARRAY_SIZE(chunks); k++) {
		begin_pair(k + 1);
		w.planned = true;
		w.chunk_max = chunks[k];
		for (uint32_t i = 0; i < 30; i++) {
			write_rows(0, 1 + (uint32_t)rng_below(&w.rng, chunks[k] < 100 ? 2 : 50));
			for (uint32_t s = (uint32_t)rng_below(&w.rng, 3); s > 0; s--)
				step();
		}
		w.chunk_max = 1 << 20;
		until(is_same(0, 1) && w.seat[0].acked[0] == w.seat[0].f->point.durable_seq);
		assert_int_equal(w.seat[0].n_live, 1);
		assert_int_equal(w.seat[0].n_known, 1);
		assert_int_equal(status_of(0, 1).lag_batches, 0);
		assert_true(status_of(1, 0).leads && state_of(1, 0) == PEER_STREAMING);
		world_end();
	}
}

static void batches_that_arrive_together_share_a_commit(void **state)
{
	(void)state;
	begin_pair(1);
	uint32_t before = w.seat[1].f->n_commits;
	for (uint32_t i = 0; i < 100; i++)
		write_rows(0, 1);
	until(is_same(0, 1));
	assert_true(w.seat[1].f->n_commits - before < 10);
	world_end();
}

static void out_of_line_data_comes_piece_by_piece(void **state)
{
	(void)state;
	begin_pair(2);
	w.planned = true;
	/* 400 pieces of 34 KiB: six times what may wait to be sent, which flush_end() looks at. */
	write_data(0, 400, 1000000);
	write_data(0, 3, 1000000);
	until(is_same(0, 1));
	assert_true(w.seat[0].f->point.fence == 0);
	world_end();
}

static void data_that_changed_before_it_was_shipped_leaves_a_fence(void **state)
{
	bool fenced = false;

	(void)state;
	begin_pair(3);
	w.chunk_max = 3000;
	for (uint32_t i = 0; i < 20; i++)
		write_data(0, 2, 1);
	for (uint32_t i = 0; i < STEPS_MAX && !is_same(0, 1); i++) {
		uint64_t acked = w.seat[0].acked[0];
		step();
		if (w.seat[1].f->point.fence == 0)
			continue;
		fenced = true; /* what lacks data can neither lead nor count for an fsync */
		assert_int_equal(node_promote(w.seat[1].node), -EAGAIN);
		if (w.seat[0].acked[0] != acked)
			assert_true(w.seat[0].acked[0] < w.seat[1].f->point.durable_seq);
	}
	assert_true(fenced && is_same(0, 1));
	world_end();
}

static void a_stream_goes_on_after_any_cut(void **state)
{
	(void)state;
	for (uint64_t cut = 1; cut < 3000; cut += 37) {
		begin_pair(cut);
		w.planned = true;
		w.cut_at = w.moved + cut;
		for (uint32_t i = 0; i < 5; i++) {
			write_rows(0, 3);
			write_data(0, 1, 10);
			step();
		}
		until(is_same(0, 1) && state_of(0, 1) == PEER_STREAMING);
		assert_int_equal(w.seat[0].f->n_views, 0);
		world_end();
	}
}

static void lag_is_told_in_batches_and_seconds(void **state)
{
	(void)state;
	begin_pair(4);
	w.frozen[1] = true;
	for (uint32_t i = 0; i < 100; i++) {
		write_rows(0, 2);
		step();
	}
	struct peer_status st = status_of(0, 1);
	assert_int_equal(st.lag_batches, 100);
	assert_true(st.lag_bytes > 100 * 300);
	assert_true(st.lag_seconds > 1.9 && st.lag_seconds < 2.1);
	w.frozen[1] = false;
	until(is_same(0, 1) && status_of(0, 1).lag_batches == 0);
	assert_true(status_of(0, 1).lag_seconds == 0);
	world_end();
}

/* ---- peers ---- */

static void the_list_of_peers_goes_to_followers(void **state)
{
	(void)state;
	world_begin(3, 5);
	until(is_same(0, 1) && is_same(0, 2));
	struct peers p = make_peers(3, 7);
	snprintf(p.peer[2].name, sizeof(p.peer[2].name), "renamed");
	assert_int_equal(node_set_peers(w.seat[0].node, &p), 0);
	steps_for(NSEC_PER_SEC);
	assert_true(w.seat[1].n_peers_changed == 2 && w.seat[1].peers.version == 7); /* the first one was of no reign yet */
	assert_int_equal(w.seat[1].peers.epoch, epoch_make(1, 1));
	assert_string_equal(status_of(1, 2).name, "renamed");
	world_end();
}

static void who_does_not_know_the_leader_learns_of_it_from_who_does(void **state)
{
	(void)state;
	world_begin(3, 44);
	until(is_same(0, 1) && is_same(0, 2));
	const struct peers old = without_the_first(0, 0);
	assert_int_equal(node_set_peers(w.seat[2].node, &old), 0);
	drop_all();
	write_rows(0, 3);
	until(is_same(0, 2) && state_of(2, 0) == PEER_STREAMING);
	assert_true(w.seat[2].peers.n == 3 && w.seat[2].peers.epoch == epoch_make(1, 1));
	world_end();
}

static void a_removed_peers_session_ends_and_none_begins(void **state)
{
	struct session *s;

	(void)state;
	begin_pair(6);
	struct peers p = make_peers(1, 2);
	assert_int_equal(node_set_peers(w.seat[0].node, &p), 0);
	steps_for(NSEC_PER_SEC);
	assert_int_equal(session_new(w.seat[0].node, 2, false, &s), -EACCES);
	assert_int_equal(w.seat[0].n_known, 0);
	write_one(0, "Dnew", "1");
	steps_for(5 * NSEC_PER_SEC);
	assert_false(is_same(0, 1));
	world_end();
}

static void a_newer_connection_replaces_a_half_open_one(void **state)
{
	(void)state;
	begin_pair(7);
	struct conn *old = &w.conn[0];
	while (!old->used || old->end[0].node != 1)
		old++;
	/* Node 2 sees its end closed; node 1 hears nothing of that. */
	end_over(&old->end[0], -ECONNRESET);
	write_one(0, "Dnew", "1");
	until(is_same(0, 1));
	assert_null(old->end[1].s);
	assert_int_equal(old->end[1].error, -ECONNABORTED);
	world_end();
}

/* ---- resync ---- */

static void fill(uint32_t i, uint32_t batches)
{
	for (uint32_t k = 0; k < batches; k++) {
		write_rows(i, 300);
		write_data(i, 10, 30);
	}
}

static void an_empty_follower_resyncs(void **state)
{
	(void)state;
	world_begin(2, 8);
	fill(0, 20);
	until(is_same(0, 1));
	assert_int_equal(w.seat[1].f->n_kept, 0);
	assert_true(status_of(1, 0).resync_share == 1 && status_of(0, 1).resync_share == 1);
	assert_true(status_of(1, 0).resync_rows > 1000 && status_of(1, 0).resync_bytes > 100000);
	write_rows(0, 5);
	until(is_same(0, 1));
	world_end();
}

static void a_resync_while_the_leader_writes_ends_equal(void **state)
{
	uint32_t fenced = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 10; seed++) {
		world_begin(2, seed);
		w.chunk_max = 20000;
		fill(0, 10);
		const struct replica_point *at = &w.seat[1].f->point;
		for (uint32_t i = 0; i < STEPS_MAX && at->resyncing; i++) {
			if (i < 2000 && i % 4 == 0) {
				write_data(0, 1, 30);
				write_rows(0, 2);
			}
			step();
		}
		assert_true(at->fence || fake_is_sound(w.seat[1].f));
		fenced += at->fence != 0;
		w.chunk_max = 1 << 20;
		until(is_same(0, 1));
		world_end();
	}
	assert_true(fenced > 0);
}

static void a_resync_may_be_cut_anywhere(void **state)
{
	(void)state;
	for (uint64_t cut = 100; cut < 600000; cut += 20011) {
		world_begin(2, cut);
		fill(0, 4);
		w.cut_at = cut;
		until(is_same(0, 1));
		world_end();
	}
}

static void a_resync_moves_what_differs(void **state)
{
	(void)state;
	begin_pair(9);
	fill(0, 60);
	until(is_same(0, 1));
	uint64_t all = w.moved;
	w.link[1][0] = false;
	drop_all();
	write_data(0, 1, 30);
	write_one(0, "D00001", "new");
	fake_trim(w.seat[0].f, 1);
	w.moved = 0;
	w.seat[1].f->n_puts = 0;
	w.link[1][0] = true;
	until(is_same(0, 1));
	assert_true(w.moved > 0 && w.moved < all / 8);
	assert_in_range(w.seat[1].f->n_puts, 2, 2);
	assert_int_equal(w.seat[1].f->n_kept, 0);
	world_end();
}

static void a_follower_behind_the_ring_resyncs(void **state)
{
	(void)state;
	begin_pair(10);
	w.frozen[1] = true;
	fill(0, 3);
	fake_trim(w.seat[0].f, 1);
	w.frozen[1] = false;
	until(is_same(0, 1));
	world_end();
}

static void a_damaged_batch_in_the_ring_is_gone_around(void **state)
{
	(void)state;
	begin_pair(11);
	w.seat[0].f->damaged_seq = write_rows(0, 3);
	write_rows(0, 3);
	until(is_same(0, 1));
	assert_true(w.seat[1].f->base_seq >= w.seat[0].f->damaged_seq);
	world_end();
}

static void a_follower_that_differs_says_so_and_resyncs(void **state)
{
	(void)state;
	begin_pair(12);
	w.seat[0].f->late_sum_seq = w.seat[0].f->point.durable_seq + 1;
	uint64_t seq = write_rows(0, 3);
	write_rows(0, 3);
	w.seat[1].f->wrong_sum_seq = seq;
	steps_for(NSEC_PER_SEC);
	assert_false(w.seat[1].f->point.differs);
	w.seat[0].f->late_sum_seq = 0;
	until(w.seat[1].f->point.differs);
	assert_int_equal(node_promote(w.seat[1].node), -EAGAIN);
	until(is_same(0, 1) && !w.seat[1].f->point.differs);
	assert_true(w.seat[1].f->base_seq > seq);
	world_end();
}

static void rows_that_are_not_what_was_hashed_are_refused(void **state)
{
	(void)state;
	world_begin(2, 13);
	fill(0, 3);
	w.seat[0].f->lying_rows = true;
	steps_for(3 * NSEC_PER_SEC);
	assert_true(w.seat[1].f->point.resyncing);
	assert_non_null(strstr(status_of(1, 0).reason, "hash"));
	w.seat[0].f->lying_rows = false;
	until(is_same(0, 1));
	world_end();
}

/* ---- roles ---- */

static void an_old_leader_saves_what_only_it_has_and_follows(void **state)
{
	(void)state;
	world_begin(3, 14);
	fill(0, 2);
	until(is_same(0, 1) && is_same(0, 2));
	cut_off(0, true);
	write_one(0, "Dlost", "only here");
	assert_int_equal(node_promote(w.seat[1].node), 0);
	assert_int_equal(w.seat[1].n_roles, 1);
	write_one(1, "Dnew", "of the new leader");
	until(is_same(1, 2));
	assert_int_equal(w.seat[0].f->point.role, ROLE_LEADER);
	assert_int_equal(state_of(1, 0), PEER_FENCED);
	cut_off(0, false);
	until(is_same(1, 0));
	assert_int_equal(w.seat[0].f->point.role, ROLE_FOLLOWER);
	assert_int_equal(w.seat[0].n_roles, 1);
	assert_true(w.seat[0].f->n_kept > 0);
	assert_int_equal(w.seat[2].f->n_kept, 0);
	world_end();
}

static void an_old_leader_without_more_just_follows(void **state)
{
	(void)state;
	begin_pair(15);
	cut_off(0, true);
	assert_int_equal(node_promote(w.seat[1].node), 0);
	assert_int_equal(node_promote(w.seat[1].node), -EALREADY);
	write_rows(1, 10);
	cut_off(0, false);
	until(is_same(1, 0));
	assert_true(w.seat[0].f->base_seq == 0 && w.seat[0].f->n_kept == 0);
	world_end();
}

/* Only the way that `from` dials is open: whoever hears of whom, the older epoch ends. */
static void either_side_that_dials_learns_or_teaches_the_epoch(void **state)
{
	(void)state;
	for (uint32_t from = 0; from < 2; from++) {
		begin_pair(16);
		cut_off(0, true);
		assert_int_equal(node_promote(w.seat[1].node), 0);
		w.link[from][!from] = true;
		until(w.seat[0].f->point.role == ROLE_FOLLOWER);
		assert_int_equal(w.seat[0].f->point.promised, w.seat[1].f->point.promised);
		world_end();
	}
}

static void a_follower_that_promised_more_ends_a_leader(void **state)
{
	(void)state;
	begin_pair(17);
	cut_off(0, true);
	w.seat[1].f->point.promised = epoch_make(9, 3);
	node_refresh(w.seat[1].node);
	cut_off(0, false);
	until(w.seat[0].f->point.role == ROLE_FOLLOWER);
	assert_int_equal(w.seat[0].f->point.promised, epoch_make(9, 3));
	world_end();
}

static void same_epoch_and_other_history_is_a_conflict_until_an_admin_decides(void **state)
{
	(void)state;
	begin_pair(18);
	cut_off(0, true);
	/* Node 2 led a moment in the same epoch: what no correct node does. */
	w.seat[1].f->point.role = ROLE_LEADER;
	write_one(1, "Dmine", "2");
	w.seat[1].f->point.role = ROLE_FOLLOWER;
	write_one(0, "Dtheirs", "1");
	cut_off(0, false);
	until(state_of(0, 1) == PEER_CONFLICT && state_of(1, 0) == PEER_CONFLICT);
	steps_for(5 * NSEC_PER_SEC);
	assert_int_equal(w.seat[1].f->n_kept, 0);
	assert_false(is_same(0, 1));
	assert_int_equal(node_resync(w.seat[0].node), -EINVAL);
	assert_int_equal(node_resync(w.seat[1].node), 0);
	until(is_same(0, 1));
	assert_true(w.seat[1].f->n_kept > 0);
	world_end();
}

/* Its disk is as it was `n` batches before. */
static void lose_batches(struct fake *f, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		free(f->batch[--f->n_batches].records);
	f->point.applied_seq -= n;
	fake_set_durable(f);
}

static void a_leader_with_a_shorter_history_is_a_conflict(void **state)
{
	(void)state;
	begin_pair(19);
	for (uint32_t i = 0; i < 5; i++)
		write_rows(0, 2);
	until(is_same(0, 1));
	drop_all();
	lose_batches(w.seat[0].f, 2);
	until(state_of(0, 1) == PEER_CONFLICT);
	uint64_t kept = w.seat[1].f->point.durable_seq;
	steps_for(5 * NSEC_PER_SEC);
	assert_int_equal(w.seat[1].f->point.durable_seq, kept);
	/* The follower's counts: it is promoted, and the other one becomes its follower. */
	assert_int_equal(node_promote(w.seat[1].node), 0);
	until(is_same(1, 0));
	world_end();
}

/* It came up with an older disk and has written nothing: whoever dials, no second history of its epoch begins. */
static void a_leader_that_went_back_and_wrote_nothing_follows(void **state)
{
	(void)state;
	for (uint32_t from = 0; from < 2; from++) {
		begin_pair(45);
		for (uint32_t i = 0; i < 5; i++)
			write_rows(0, 2);
		until(is_same(0, 1));
		drop_all();
		w.link[!from][from] = false;
		lose_batches(w.seat[0].f, 2);
		w.seat[0].f->begun = false;
		node_refresh(w.seat[0].node);
		until(w.seat[0].f->point.role == ROLE_FOLLOWER);
		assert_int_equal(w.seat[0].n_roles, 1);
		steps_for(20 * NSEC_PER_SEC);
		assert_true(state_of(1, 0) != PEER_CONFLICT && w.seat[0].f->point.promised == epoch_make(1, 1));
		w.link[!from][from] = true;
		assert_int_equal(node_promote(w.seat[1].node), 0);
		until(is_same(1, 0));
		assert_int_equal(w.seat[0].f->n_kept + w.seat[1].f->n_kept, 0);
		world_end();
	}
}

/* A peer that has no more than the leader gave away, or is between two states, says nothing about the leader's disk. */
static void a_leader_that_has_begun_nothing_leads_on_where_nobody_has_more(void **state)
{
	(void)state;
	for (uint32_t resyncing = 0; resyncing < 2; resyncing++) {
		begin_pair(46);
		drop_all();
		w.seat[0].f->begun = false;
		struct session *s;
		struct hello h = hello_of(1);
		h.flags = resyncing ? HELLO_RESYNCING : 0;
		h.seq += resyncing;
		assert_int_equal(session_new(w.seat[0].node, 2, false, &s), 0);
		assert_int_equal(say(s, &h), 0);
		assert_int_equal(w.seat[0].f->point.role, ROLE_LEADER);
		session_free(s, 0, NULL);
		world_end();
	}
}

static void followers_find_the_leader_through_each_other(void **state)
{
	(void)state;
	world_begin(3, 20);
	until(is_same(0, 1) && is_same(0, 2));
	cut_off(0, true);
	w.link[1][2] = false; /* the new leader cannot dial the other one */
	assert_int_equal(node_promote(w.seat[1].node), 0);
	write_one(1, "Dnew", "1");
	until(is_same(1, 2));
	world_end();
}

static void nobody_follows_two_leaders_at_once(void **state)
{
	(void)state;
	begin_pair(21);
	uint32_t n = 0;
	for (uint32_t i = 0; i < 50; i++) {
		n += connect_nodes(1, 0) != NULL;
		step();
	}
	assert_int_equal(n, 0);
	world_end();
}

static void dialing_waits_longer_and_longer(void **state)
{
	uint32_t ids[PEERS_MAX], tries = 0;

	(void)state;
	world_begin(2, 22);
	int64_t last_ns = 0;
	for (uint32_t i = 0; i < 3000; i++) {
		if (node_dial(w.seat[1].node, ids, PEERS_MAX)) {
			assert_true(tries == 0 || w.mono_ns - last_ns >= NSEC_PER_SEC);
			assert_true(w.mono_ns - last_ns <= 11 * NSEC_PER_SEC);
			last_ns = w.mono_ns;
			tries++;
		}
		w.mono_ns += STEP_NS;
	}
	assert_in_range(tries, 7, 12);
	world_end();
}

/* ---- liveness ---- */

static void a_dead_peer_is_noticed_and_a_silent_one_is_not(void **state)
{
	(void)state;
	begin_pair(23);
	uint64_t connects = status_of(0, 1).connects;
	steps_for(60 * NSEC_PER_SEC);
	assert_int_equal(status_of(0, 1).connects, connects);
	assert_int_equal(state_of(0, 1), PEER_STREAMING);
	w.frozen[1] = true;
	steps_for(4 * NSEC_PER_SEC);
	assert_int_equal(state_of(0, 1), PEER_STREAMING);
	steps_for(3 * NSEC_PER_SEC);
	assert_int_equal(state_of(0, 1), PEER_DISCONNECTED);
	assert_int_equal(w.seat[0].n_live, 0);
	assert_non_null(strstr(status_of(0, 1).reason, "nothing heard"));
	world_end();
}

static int slow_finish(struct replica_volume *v)
{
	w.mono_ns += 20 * NSEC_PER_SEC;
	return fake_finish_batch(v);
}

static int slow_commit(struct replica_volume *v, uint64_t *ret)
{
	w.mono_ns += 20 * NSEC_PER_SEC;
	return fake_commit(v, ret);
}

static void a_busy_node_does_not_call_its_peer_dead(void **state)
{
	struct replica_ops slow = fake_ops;
	int64_t deadline_ns;

	(void)state;
	slow.finish_batch = slow_finish;
	slow.commit = slow_commit;
	begin_pair(24);
	w.seat[1].f->volume.ops = &slow;
	struct conn *c = &w.conn[0];
	while (!c->used || c->end[0].node != 1)
		c++;
	w.frozen[1] = true;
	write_rows(0, 1);
	step();
	struct end *e = &c->end[0];
	assert_true(e->in.len > 0);
	assert_int_equal(session_input(e->s, e->in.p, e->in.len), 0);
	e->in.len = 0;
	assert_int_equal(session_pump(e->s, &deadline_ns), 0);
	assert_int_equal(session_pump(e->s, &deadline_ns), 0);
	w.seat[1].f->volume.ops = &fake_ops;
	world_end();
}

static void a_stranger_that_never_says_hello_is_dropped(void **state)
{
	struct session *s;
	int64_t deadline_ns;
	int r = 0;

	(void)state;
	world_begin(2, 25);
	assert_int_equal(session_new(w.seat[0].node, 2, false, &s), 0);
	/* A byte now and then is no HELLO. */
	for (uint32_t i = 0; i < 20 && !r; i++) {
		w.mono_ns += NSEC_PER_SEC / 2;
		r = session_input(s, &"CLWF"[i % 4], i < 4);
		if (!r)
			r = session_pump(s, &deadline_ns);
	}
	assert_int_equal(r, -ETIMEDOUT);
	session_free(s, 0, NULL);
	world_end();
}

/* ---- failures of the volume ---- */

static void a_full_disk_ends_the_session_and_is_tried_again_with_pauses(void **state)
{
	(void)state;
	begin_pair(26);
	w.seat[1].f->fail_finish = -ENOSPC;
	write_rows(0, 2);
	uint32_t dials = w.seat[1].n_dials;
	steps_for(120 * NSEC_PER_SEC);
	assert_non_null(strstr(status_of(1, 0).reason, "disk full"));
	assert_non_null(strstr(status_of(0, 1).reason, "disk full"));
	assert_in_range(w.seat[1].n_dials - dials, 4, 12);
	assert_int_equal(w.seat[1].f->point.applied_seq + 1, w.seat[0].f->point.applied_seq);
	w.seat[1].f->fail_finish = 0;
	until(is_same(0, 1));
	world_end();
}

static void a_failed_commit_acks_nothing(void **state)
{
	(void)state;
	begin_pair(27);
	uint64_t acked = w.seat[0].acked[0];
	w.seat[1].f->fail_commit = -EIO;
	write_rows(0, 2);
	steps_for(30 * NSEC_PER_SEC);
	assert_true(w.seat[0].acked[0] <= acked);
	w.seat[1].f->fail_commit = 0;
	until(is_same(0, 1) && w.seat[0].acked[0] > acked);
	world_end();
}

/* ---- decisions ---- */

static void a_leader_decides_by_prefix_hash_and_epoch(void **state)
{
	(void)state;
	world_begin(1, 39);
	struct fake *f = w.seat[0].f;
	for (uint32_t i = 0; i < 10; i++)
		write_rows(0, 1); /* epoch 1: 1 .. 11 */
	assert_int_equal(fake_promote(&f->volume, epoch_make(2, 1)), 0);
	for (uint32_t i = 0; i < 5; i++)
		write_rows(0, 1); /* epoch 2: 12 .. 17 */
	fake_trim(f, 12);         /* 6 .. 17 are there */
	uint64_t hash9 = fake_batch_at(f, 9)->b.hash, e1 = epoch_make(1, 1), e2 = epoch_make(2, 1);
	const struct {
		uint64_t seq, hash, history;
		uint32_t flags;
		enum welcome_action expect;
	} cases[] = {
	    {17, f->point.hash, e2, 0, WELCOME_STREAM},
	    {9, hash9, e1, 0, WELCOME_STREAM},
	    {9, hash9, e1, HELLO_DIFFERS, WELCOME_RESYNC},
	    {9, hash9, e1, HELLO_RESYNCING, WELCOME_RESYNC},
	    {9, hash9, e1, HELLO_RESYNC_WANTED, WELCOME_RESYNC_SAVE},
	    {9, hash9 + 1, e1, 0, WELCOME_RESYNC_SAVE}, /* older epoch, another batch */
	    {3, 77, e1, 0, WELCOME_RESYNC},             /* too old to compare, a prefix by the table */
	    {12, 77, e1, 0, WELCOME_RESYNC_SAVE},       /* longer than its epoch was */
	    {50, 77, e1, 0, WELCOME_RESYNC_SAVE},
	    {50, 77, e2, 0, WELCOME_CONFLICT},                 /* longer than this leader */
	    {15, 77, e2, 0, WELCOME_CONFLICT},                 /* another batch of this epoch */
	    {3, 77, epoch_make(1, 9), 0, WELCOME_RESYNC_SAVE}, /* an epoch that never was here */
	};
	for (uint32_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct hello h = {
		    .seq = cases[i].seq, .hash = cases[i].hash, .history = cases[i].history, .flags = cases[i].flags};
		if (leader_decide(w.seat[0].node, &f->point, &h) != cases[i].expect)
			fail_msg("case %u", i);
	}
	world_end();
}

/* ---- all of it at random ---- */

/* Any answer will do. */
static void ignore(int r)
{
	(void)r;
}

static void random_worlds_converge(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 60; seed++) {
		world_begin(3, seed);
		for (uint32_t i = 0; i < 400; i++) {
			uint32_t k = (uint32_t)rng_below(&w.rng, 3);
			w.chunk_max = 1u << rng_between(&w.rng, 4, 20);
			if (is_writable(w.seat[k].f))
				rng_percent(&w.rng, 50) ? (void)write_rows(k, 3) : write_data(k, 1, 5);
			if (rng_percent(&w.rng, 3))
				cut_off(k, rng_percent(&w.rng, 50));
			if (rng_percent(&w.rng, 1))
				ignore(node_promote(w.seat[k].node));
			if (rng_percent(&w.rng, 1))
				ignore(node_handover_begin(w.seat[k].node, "n2", NSEC_PER_SEC));
			if (rng_percent(&w.rng, 2))
				fake_trim(w.seat[k].f, 5);
			ignore(node_handover_poll(w.seat[k].node));
			for (uint32_t s = (uint32_t)rng_below(&w.rng, 20); s > 0; s--)
				step();
		}
		for (uint32_t k = 0; k < 3; k++)
			cut_off(k, false);
		w.chunk_max = 1 << 20;
		steps_for(60 * NSEC_PER_SEC);
		uint32_t lead = 0, others[2], n = 0;
		if (leaders(&lead) == 0) { /* the last one to lead has promised another's epoch: an admin's turn */
			assert_int_equal(node_promote(w.seat[0].node), 0);
			lead = 0;
		}
		for (uint32_t k = 0; k < 3; k++)
			if (k != lead)
				others[n++] = k;
		until(leaders(&lead) == 1 && is_same(lead, others[0]) && is_same(lead, others[1]));
		world_end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_follower_gets_every_batch_in_any_chunks),
	    cmocka_unit_test(batches_that_arrive_together_share_a_commit),
	    cmocka_unit_test(out_of_line_data_comes_piece_by_piece),
	    cmocka_unit_test(data_that_changed_before_it_was_shipped_leaves_a_fence),
	    cmocka_unit_test(a_stream_goes_on_after_any_cut),
	    cmocka_unit_test(lag_is_told_in_batches_and_seconds),
	    cmocka_unit_test(the_list_of_peers_goes_to_followers),
	    cmocka_unit_test(who_does_not_know_the_leader_learns_of_it_from_who_does),
	    cmocka_unit_test(a_removed_peers_session_ends_and_none_begins),
	    cmocka_unit_test(a_newer_connection_replaces_a_half_open_one),
	    cmocka_unit_test(an_empty_follower_resyncs),
	    cmocka_unit_test(a_resync_while_the_leader_writes_ends_equal),
	    cmocka_unit_test(a_resync_may_be_cut_anywhere),
	    cmocka_unit_test(a_resync_moves_what_differs),
	    cmocka_unit_test(a_follower_behind_the_ring_resyncs),
	    cmocka_unit_test(a_damaged_batch_in_the_ring_is_gone_around),
	    cmocka_unit_test(a_follower_that_differs_says_so_and_resyncs),
	    cmocka_unit_test(rows_that_are_not_what_was_hashed_are_refused),
	    cmocka_unit_test(an_old_leader_saves_what_only_it_has_and_follows),
	    cmocka_unit_test(an_old_leader_without_more_just_follows),
	    cmocka_unit_test(either_side_that_dials_learns_or_teaches_the_epoch),
	    cmocka_unit_test(a_follower_that_promised_more_ends_a_leader),
	    cmocka_unit_test(same_epoch_and_other_history_is_a_conflict_until_an_admin_decides),
	    cmocka_unit_test(a_leader_with_a_shorter_history_is_a_conflict),
	    cmocka_unit_test(a_leader_that_went_back_and_wrote_nothing_follows),
	    cmocka_unit_test(a_leader_that_has_begun_nothing_leads_on_where_nobody_has_more),
	    cmocka_unit_test(followers_find_the_leader_through_each_other),
	    cmocka_unit_test(nobody_follows_two_leaders_at_once),
	    cmocka_unit_test(dialing_waits_longer_and_longer),
	    cmocka_unit_test(a_dead_peer_is_noticed_and_a_silent_one_is_not),
	    cmocka_unit_test(a_busy_node_does_not_call_its_peer_dead),
	    cmocka_unit_test(a_stranger_that_never_says_hello_is_dropped),
	    cmocka_unit_test(a_full_disk_ends_the_session_and_is_tried_again_with_pauses),
	    cmocka_unit_test(a_failed_commit_acks_nothing),
	    cmocka_unit_test(a_leader_decides_by_prefix_hash_and_epoch),
	    cmocka_unit_test(random_worlds_converge),
	};

	log_setup(LOG_LEVEL_ERROR, true);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
