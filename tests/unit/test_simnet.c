/*
 * test_simnet.c: simnet.h: what a connection keeps, whatever the network does, and what it may lose.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/lib/simnet.h"

#define LATE  (600 * NSEC_PER_SEC)
#define BYTES (300 * KIB)
#define SEEDS 40u

/* Two hosts, and what each end has heard. */
struct pair {
	struct simnet *net;
	simnet_end dialer, listener; /* 0: not there, or gone */
	uint8_t got[BYTES];          /* by the listener */
	size_t n_got;
	bool dialer_closed, listener_closed;
};

static uint8_t byte_at(size_t i)
{
	return (uint8_t)(i * 7 + i / 256);
}

static void take(struct pair *p, const struct simnet_event *e)
{
	switch (e->kind) {
	case SIMNET_CONNECTED:
		assert_int_equal(e->end, p->dialer);
		break;
	case SIMNET_ACCEPTED:
		p->listener = e->end;
		break;
	case SIMNET_DATA:
		assert_int_equal(e->end, p->listener);
		assert_true(e->len >= 1 && p->n_got + e->len <= BYTES);
		for (size_t i = 0; i < e->len; i++)
			assert_int_equal(e->p[i], byte_at(p->n_got + i));
		p->n_got += e->len;
		break;
	case SIMNET_CLOSED:
		p->dialer_closed = p->dialer_closed || e->end == p->dialer;
		p->listener_closed = p->listener_closed || e->end == p->listener;
		if (e->end == p->dialer)
			p->dialer = 0;
		else
			p->listener = 0;
		break;
	}
}

/* Everything that happens until then. */
static unsigned run(struct pair *p, int64_t ns)
{
	int64_t until = simnet_now(p->net) + ns;
	struct simnet_event e;
	unsigned n = 0;

	for (; simnet_step(p->net, until, &e); n++)
		take(p, &e);
	assert_int_equal(simnet_now(p->net), until);
	return n;
}

static struct pair *pair_new(uint64_t seed)
{
	struct pair *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	p->net = simnet_new(seed, 2);
	p->dialer = simnet_dial(p->net, 0, 1);
	run(p, 10 * NSEC_PER_SEC);
	assert_true(p->dialer && p->listener);
	return p;
}

static void pair_free(struct pair *p)
{
	simnet_free(p->net);
	free(p);
}

/* As much of [from, BYTES) as is taken now; returns where it ends. */
static size_t send_from(struct pair *p, size_t from)
{
	uint8_t bytes[1000];
	size_t n = sizeof(bytes);

	while (from < BYTES && n == sizeof(bytes)) {
		size_t len = min_u64(sizeof(bytes), BYTES - from);

		for (size_t i = 0; i < len; i++)
			bytes[i] = byte_at(from + i);
		n = simnet_send(p->net, p->dialer, bytes, len);
		from += n;
	}
	return from;
}

static void bytes_arrive_in_order_in_pieces_and_once(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= SEEDS; seed++) {
		struct pair *p = pair_new(seed);
		size_t sent = 0;
		unsigned events = 0;

		while (sent < BYTES) {
			sent = send_from(p, sent);
			events += run(p, NSEC_PER_SEC);
		}
		simnet_close(p->net, p->dialer);
		events += run(p, LATE);
		assert_int_equal(p->n_got, BYTES);
		assert_true(p->listener_closed && events > 2);
		assert_true(simnet_next(p->net) == INT64_MAX);
		pair_free(p);
	}
}

static void a_cut_holds_bytes_back_and_the_connection_outlives_it(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= SEEDS; seed++) {
		struct pair *p = pair_new(seed);

		simnet_cut(p->net, 0, 1, true);
		size_t sent = send_from(p, 0);
		assert_int_equal(run(p, LATE), 0);
		simnet_cut(p->net, 0, 1, false);
		run(p, LATE);
		assert_int_equal(p->n_got, sent);
		pair_free(p);
	}
}

static void a_cut_one_way_lets_the_other_pass(void **state)
{
	struct pair *p = pair_new(1);

	(void)state;
	simnet_cut(p->net, 1, 0, true);
	size_t sent = send_from(p, 0);
	run(p, LATE);
	assert_int_equal(p->n_got, sent);
	simnet_close(p->net, p->listener);
	p->listener = 0;
	run(p, LATE);
	assert_false(p->dialer_closed);
	simnet_cut(p->net, 1, 0, false);
	run(p, LATE);
	assert_true(p->dialer_closed);
	pair_free(p);
}

static void a_reset_loses_what_is_on_its_way(void **state)
{
	struct pair *p = pair_new(2);

	(void)state;
	assert_true(send_from(p, 0) > 0);
	simnet_reset(p->net, p->dialer, false);
	run(p, LATE);
	assert_int_equal(p->n_got, 0);
	assert_true(p->dialer_closed && p->listener_closed);
	pair_free(p);
}

/* kill -9: the kernel sends what it has and says goodbye.  Loss of power: nobody says anything. */
static void a_killed_host_is_missed_at_once_and_one_without_power_is_not(void **state)
{
	(void)state;
	for (unsigned killed = 0; killed < 2; killed++) {
		struct pair *p = pair_new(3);
		size_t sent = send_from(p, 0);

		simnet_host_down(p->net, 0, killed);
		p->dialer = 0;
		run(p, LATE);
		assert_int_equal(p->n_got, killed ? sent : 0);
		assert_int_equal(p->listener_closed, killed);
		pair_free(p);
	}
}

static void a_half_open_end_learns_of_it_when_the_host_is_back_and_it_speaks(void **state)
{
	struct pair *p = pair_new(4);

	(void)state;
	simnet_host_down(p->net, 1, false);
	p->listener = 0;
	assert_true(send_from(p, 0) > 0);
	run(p, LATE);
	assert_false(p->dialer_closed);
	simnet_host_up(p->net, 1);
	run(p, LATE);
	assert_true(p->dialer_closed);
	assert_int_equal(p->n_got, 0);
	pair_free(p);
}

static void nobody_answers_a_call_through_a_cut(void **state)
{
	struct pair *p = pair_new(5);

	(void)state;
	simnet_cut(p->net, 1, 0, true);
	p->dialer = simnet_dial(p->net, 0, 1);
	p->listener = 0;
	run(p, LATE);
	assert_true(p->dialer_closed);
	assert_int_equal(p->listener, 0);
	pair_free(p);
}

static void some_calls_are_taken_up_late_with_what_was_said_by_then(void **state)
{
	unsigned late = 0;

	(void)state;
	for (unsigned seed = 1; seed <= SEEDS; seed++) {
		struct pair *p = calloc(1, sizeof(*p));
		assert_non_null(p);
		p->net = simnet_new(seed, 2);
		p->dialer = simnet_dial(p->net, 0, 1);
		run(p, NSEC_PER_SEC / 2);
		if (!p->listener) {
			size_t sent = send_from(p, 0);

			late++;
			simnet_close(p->net, p->dialer);
			run(p, LATE);
			assert_int_equal(p->n_got, sent);
			assert_true(p->listener_closed);
		}
		pair_free(p);
	}
	assert_true(late > 0 && late < SEEDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(bytes_arrive_in_order_in_pieces_and_once),
	    cmocka_unit_test(a_cut_holds_bytes_back_and_the_connection_outlives_it),
	    cmocka_unit_test(a_cut_one_way_lets_the_other_pass),
	    cmocka_unit_test(a_reset_loses_what_is_on_its_way),
	    cmocka_unit_test(a_killed_host_is_missed_at_once_and_one_without_power_is_not),
	    cmocka_unit_test(a_half_open_end_learns_of_it_when_the_host_is_back_and_it_speaks),
	    cmocka_unit_test(nobody_answers_a_call_through_a_cut),
	    cmocka_unit_test(some_calls_are_taken_up_late_with_what_was_said_by_then),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
