/* test_node_handover.c: handover.c: the lead moves by plan, is in doubt, and comes back. */
#include "tests/unit/node_world.h"

/* ---- hand-over ---- */

static void a_hand_over_moves_the_lead_and_loses_nothing(void **state)
{
	(void)state;
	world_begin(3, 28);
	until(is_same(0, 1) && is_same(0, 2) && state_of(0, 1) == PEER_STREAMING);
	w.planned = true;
	uint64_t seq = write_rows(0, 20);
	assert_int_equal(node_handover_begin(w.seat[0].node, "n9", NSEC_PER_SEC), -ENOENT);
	assert_int_equal(node_handover_begin(w.seat[1].node, "n1", NSEC_PER_SEC), -EINVAL);
	assert_int_equal(node_handover_begin(w.seat[0].node, "n2", 10 * NSEC_PER_SEC), 0);
	assert_int_equal(node_handover_begin(w.seat[0].node, "n3", 10 * NSEC_PER_SEC), -EBUSY);
	assert_true(w.seat[0].f->held);
	until(node_handover_poll(w.seat[0].node) != -EAGAIN);
	assert_int_equal(node_handover_poll(w.seat[0].node), 0);
	assert_true(w.seat[1].f->point.role == ROLE_LEADER && w.seat[0].f->point.role == ROLE_FOLLOWER && !w.seat[0].f->held);
	assert_non_null(fake_batch_at(w.seat[1].f, seq));
	write_rows(1, 5);
	until(is_same(1, 0) && is_same(1, 2));
	assert_true(w.seat[0].f->n_kept == 0 && w.seat[0].f->base_seq == 0);
	world_end();
}

static void a_hand_over_that_takes_too_long_leaves_the_lead_here(void **state)
{
	(void)state;
	begin_pair(29);
	w.planned = true;
	w.frozen[1] = true;
	write_rows(0, 2);
	assert_int_equal(node_handover_begin(w.seat[0].node, "n2", NSEC_PER_SEC), 0);
	until(node_handover_poll(w.seat[0].node) != -EAGAIN);
	assert_int_equal(node_handover_poll(w.seat[0].node), -ETIMEDOUT);
	assert_true(is_writable(w.seat[0].f));
	w.frozen[1] = false;
	steps_for(10 * NSEC_PER_SEC);
	until(is_same(0, 1));
	assert_int_equal(w.seat[1].f->n_promotes, 0);
	world_end();
}

/* Whatever byte the connection is cut at, exactly one node writes in the end, and never two. */
static void a_hand_over_may_be_cut_at_any_byte(void **state)
{
	uint32_t last = 0, taken = 0, kept = 0;

	(void)state;
	for (uint64_t cut = 1; cut <= 400; cut++) {
		begin_pair(cut);
		steps_for(NSEC_PER_SEC / 5);
		w.planned = true;
		w.chunk_max = 64;
		w.cut_at = w.moved + cut;
		assert_int_equal(node_handover_begin(w.seat[0].node, "n2", 3 * NSEC_PER_SEC), 0);
		until(node_handover_poll(w.seat[0].node) != -EAGAIN && node_handover_poll(w.seat[0].node) != -EINPROGRESS);
		until(leaders(&last) == 1);
		int r = node_handover_poll(w.seat[0].node);
		assert_int_equal(last, r == 0);
		taken += r == 0;
		kept += r != 0;
		write_rows(last, 1);
		until(is_same(last, !last));
		assert_int_equal(w.seat[0].f->n_kept + w.seat[1].f->n_kept, 0);
		world_end();
	}
	assert_true(taken > 100 && kept > 10);
}

/* The peer is gone after HANDOVER may have reached it. */
static void begin_doubt(uint64_t seed, bool taken)
{
	begin_pair(seed);
	steps_for(NSEC_PER_SEC / 5);
	w.planned = true;
	w.seat[1].f->fail_promote = taken ? 0 : -EIO;
	assert_int_equal(node_handover_begin(w.seat[0].node, "n2", 2 * NSEC_PER_SEC), 0);
	for (uint32_t i = 0; w.seat[0].node->handover.phase != HANDOVER_SENT; i++) {
		assert_true(i < 1000);
		step();
	}
	if (taken)
		until(w.seat[1].f->n_promotes || w.seat[0].f->point.role == ROLE_FOLLOWER);
	cut_off(0, true);
	w.frozen[1] = true;
	steps_for(20 * NSEC_PER_SEC);
}

static void a_leader_in_doubt_holds_until_the_peer_is_heard_of(void **state)
{
	(void)state;
	begin_doubt(30, false);
	assert_int_equal(node_handover_poll(w.seat[0].node), -EINPROGRESS);
	assert_true(w.seat[0].f->held);
	w.frozen[1] = false;
	cut_off(0, false);
	until(is_writable(w.seat[0].f));
	assert_int_equal(node_handover_poll(w.seat[0].node), -ECANCELED);
	assert_int_equal(w.seat[1].f->n_promotes, 0);
	write_rows(0, 1);
	until(is_same(0, 1));
	world_end();
}

static void a_promotion_here_ends_the_doubt(void **state)
{
	(void)state;
	for (unsigned peer_leads = 0; peer_leads < 2; peer_leads++) {
		begin_doubt(31, false);
		if (peer_leads) { /* it did take the lead, which nobody here can know */
			w.seat[1].f->fail_promote = 0;
			w.planned = false;
			assert_int_equal(fake_promote(&w.seat[1].f->volume, epoch_make(2, 2)), 0);
			node_refresh(w.seat[1].node);
		}
		assert_int_equal(node_promote(w.seat[0].node), 0);
		assert_true(is_writable(w.seat[0].f));
		assert_int_equal(w.seat[0].f->point.promised, epoch_make(3, 1));
		w.frozen[1] = false;
		cut_off(0, false);
		until(is_same(0, 1));
		assert_int_equal(w.seat[1].f->point.role, ROLE_FOLLOWER);
		world_end();
	}
}

/* The process of node 1 ends and begins again; its volume has written nothing since. */
static void restart(void)
{
	struct seat *t = &w.seat[0];

	node_cancel_handover(t->node);
	assert_false(is_writable(t->f)); /* nor while it stops */
	assert_false(t->f->held);
	assert_int_equal(node_handover_poll(t->node), -EINPROGRESS);
	t->node = node_free(t->node);
	t->f->begun = false;
	start_node(0);
}

static void a_restart_does_not_end_the_doubt(void **state)
{
	enum { NOT_TAKEN, TAKEN, PROMOTED, ENDS };

	(void)state;
	for (unsigned end = NOT_TAKEN; end < ENDS; end++) {
		begin_doubt(47, false);
		w.seat[1].f->fail_promote = 0;
		if (end == TAKEN) { /* and could not say so */
			assert_int_equal(fake_promote(&w.seat[1].f->volume, epoch_make(2, 2)), 0);
			node_refresh(w.seat[1].node);
		}
		restart();
		steps_for(20 * NSEC_PER_SEC);
		assert_int_equal(node_handover_poll(w.seat[0].node), -EINPROGRESS);
		assert_int_equal(node_handover_begin(w.seat[0].node, "n2", NSEC_PER_SEC), -EBUSY);
		assert_false(is_writable(w.seat[0].f));
		if (end == PROMOTED) {
			assert_int_equal(node_promote(w.seat[0].node), 0);
			assert_true(is_writable(w.seat[0].f) && w.seat[0].f->point.promised == epoch_make(3, 1));
		}
		w.frozen[1] = false;
		cut_off(0, false);
		uint32_t last = end == TAKEN;
		until(is_writable(w.seat[last].f) && !is_writable(w.seat[!last].f));
		write_rows(last, 1);
		until(is_same(0, 1));
		assert_int_equal(w.seat[0].f->n_kept + w.seat[1].f->n_kept, 0);
		assert_int_equal(w.seat[last].f->point.offered, 0);
		world_end();
	}
}

/* What is known to nobody else: a peer that was asked and is gone from the list leaves the doubt to an admin. */
static void a_peer_that_is_gone_leaves_the_doubt_to_an_admin(void **state)
{
	(void)state;
	begin_doubt(48, false);
	const struct peers alone = make_peers(1, 2);
	assert_int_equal(node_set_peers(w.seat[0].node, &alone), 0);
	restart();
	assert_int_equal(node_set_peers(w.seat[0].node, &alone), 0);
	steps_for(20 * NSEC_PER_SEC);
	assert_false(is_writable(w.seat[0].f));
	assert_int_equal(node_promote(w.seat[0].node), 0);
	assert_true(is_writable(w.seat[0].f));
	assert_int_equal(node_promote(w.seat[0].node), -EALREADY);
	world_end();
}

static void nothing_is_offered_that_cannot_be_promised(void **state)
{
	(void)state;
	begin_pair(49);
	w.seat[0].f->fail_offer = -EIO;
	assert_int_equal(node_handover_begin(w.seat[0].node, "n2", 10 * NSEC_PER_SEC), 0);
	until(node_handover_poll(w.seat[0].node) != -EAGAIN);
	assert_int_equal(node_handover_poll(w.seat[0].node), -EIO);
	assert_true(is_writable(w.seat[0].f));
	steps_for(10 * NSEC_PER_SEC);
	assert_int_equal(w.seat[1].f->n_promotes, 0);
	world_end();
}

static void stop_while_offering(void *ctx)
{
	node_cancel_handover(ctx);
}

static void promote_while_offering(void *ctx)
{
	struct replica_volume *v = ctx;

	assert_int_equal(v->ops->note_epoch(v, epoch_make(5, 3)), 0);
	node_refresh(w.seat[0].node);
}

/* What another thread does while the offer is being noted comes too late to be seen before, and not too late to count. */
static void a_hand_over_that_ends_while_it_is_promised_is_not_offered(void **state)
{
	(void)state;
	for (unsigned deposed = 0; deposed < 2; deposed++) {
		begin_pair(50);
		struct fake *f = w.seat[0].f;
		f->offering = deposed ? promote_while_offering : stop_while_offering;
		f->offering_ctx = deposed ? (void *)&f->volume : w.seat[0].node;
		assert_int_equal(node_handover_begin(w.seat[0].node, "n2", 10 * NSEC_PER_SEC), 0);
		until(node_handover_poll(w.seat[0].node) != -EAGAIN);
		assert_int_equal(node_handover_poll(w.seat[0].node), deposed ? -ESTALE : -ECANCELED);
		assert_true(f->n_offers == 1 && f->point.offered == 0 && !f->held);
		assert_int_equal(f->point.role, deposed ? ROLE_FOLLOWER : ROLE_LEADER);
		steps_for(10 * NSEC_PER_SEC);
		assert_int_equal(w.seat[1].f->n_promotes, 0);
		world_end();
	}
}

/* The leader goes on to another epoch, and its sessions learn of it a moment later: what they ship till then is of neither. */
static void nothing_of_a_new_epoch_comes_on_an_old_conversation(void **state)
{
	(void)state;
	for (unsigned noted = 0; noted < 2; noted++) {
		begin_pair(52);
		assert_int_equal(fake_promote(&w.seat[0].f->volume, epoch_make(2, 1)), 0);
		if (noted) /* and the follower's volume has heard of it by itself */
			w.seat[1].f->point.promised = epoch_make(2, 1);
		uint64_t seq = write_rows(0, 1);
		for (unsigned i = 0; i < 3; i++)
			step();
		assert_true(w.seat[1].f->point.applied_seq < seq);
		node_refresh(w.seat[0].node);
		until(is_same(0, 1) && state_of(0, 1) == PEER_STREAMING);
		steps_for(SESSION_DEAD_NS);
		assert_int_equal(state_of(0, 1), PEER_STREAMING);
		world_end();
	}
}

static void a_promotion_elsewhere_ends_a_hand_over(void **state)
{
	(void)state;
	world_begin(3, 32);
	until(is_same(0, 1) && is_same(0, 2) && state_of(0, 1) == PEER_STREAMING);
	w.frozen[1] = true;
	write_rows(0, 1);
	assert_int_equal(node_handover_begin(w.seat[0].node, "n2", 100 * NSEC_PER_SEC), 0);
	assert_int_equal(node_promote(w.seat[2].node), 0);
	until(node_handover_poll(w.seat[0].node) != -EAGAIN);
	assert_int_equal(node_handover_poll(w.seat[0].node), -ESTALE);
	assert_false(w.seat[0].f->held);
	world_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_hand_over_moves_the_lead_and_loses_nothing),
	    cmocka_unit_test(a_hand_over_that_takes_too_long_leaves_the_lead_here),
	    cmocka_unit_test(a_hand_over_may_be_cut_at_any_byte),
	    cmocka_unit_test(a_leader_in_doubt_holds_until_the_peer_is_heard_of),
	    cmocka_unit_test(a_promotion_here_ends_the_doubt),
	    cmocka_unit_test(a_restart_does_not_end_the_doubt),
	    cmocka_unit_test(a_peer_that_is_gone_leaves_the_doubt_to_an_admin),
	    cmocka_unit_test(nothing_is_offered_that_cannot_be_promised),
	    cmocka_unit_test(a_hand_over_that_ends_while_it_is_promised_is_not_offered),
	    cmocka_unit_test(nothing_of_a_new_epoch_comes_on_an_old_conversation),
	    cmocka_unit_test(a_promotion_elsewhere_ends_a_hand_over),
	};

	log_setup(LOG_LEVEL_ERROR, true);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
