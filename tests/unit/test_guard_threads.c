/*
 * test_guard_threads.c: many threads before one guard: who goes first, who waits for whom, who asks for all, and that a shut ends
 * every wait.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "tests/lib/rng.h"
#include "tests/unit/guard_case.h"

struct caller {
	struct world *w;
	struct object_call call;
	size_t len;
	int n, result;
	int64_t ended_ns;
	pthread_t thread;
	pthread_barrier_t *all;
};

static void *make_calls(void *arg)
{
	struct caller *c = arg;

	for (int i = 0; i < c->n && c->result == 0; i++) {
		struct object_call call = c->call;
		c->result = get(c->w, &call, c->len);
		c->call = call;
	}
	c->ended_ns = clock_mono_ns(&c->w->clock);
	world_thread(c->w, -1);
	return NULL;
}

/* Starts a thread and waits until it waits, or has ended. */
static void start(struct world *w, struct caller *c, enum object_purpose purpose, size_t len, int n)
{
	*c = (struct caller){.w = w, .call.purpose = purpose, .len = len, .n = n};
	world_thread(w, 1);
	assert_int_equal(pthread_create(&c->thread, NULL, make_calls, c), 0);
	world_advance(w, 0);
}

static void run_down(struct world *w, int64_t step_ns)
{
	for (;;) {
		pthread_mutex_lock(&w->lock);
		bool over = w->n_threads == 0;
		pthread_mutex_unlock(&w->lock);
		if (over)
			return;
		world_advance(w, step_ns);
	}
}

static void foreground_calls_go_first(void **state)
{
	struct world *w = world_new();
	struct caller background[3], foreground[2];

	(void)state;
	w->driven = true;
	w->config.rate_bytes = MIB;
	world_guard(w);
	for (int i = 0; i < 3; i++)
		start(w, &background[i], OBJECT_BACKGROUND, 16 * MIB, 2); /* 16 s each */
	for (int i = 0; i < 50; i++)
		world_advance(w, 20 * MS);
	unsigned before = w->n_made;
	assert_int_equal(before, 0);
	int64_t from = w->mono_ns;
	for (int i = 0; i < 2; i++)
		start(w, &foreground[i], OBJECT_FOREGROUND, 256 * KIB, 16); /* 8 MiB in all */
	run_down(w, 20 * MS);
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(w->made[i].purpose, OBJECT_FOREGROUND);
	assert_int_equal(w->n_made, 32 + 6);
	assert_true(w->made[0].at_ns == from); /* none of the others' debt in its way */
	for (int i = 0; i < 2; i++) {
		pthread_join(foreground[i].thread, NULL);
		assert_int_equal(foreground[i].result, 0);
		assert_true(foreground[i].ended_ns < from + 9 * S);
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(background[i].thread, NULL);
		assert_int_equal(background[i].result, 0);
	}
	/* 104 MiB at 1 MiB/s; background in the order of arrival. */
	double seconds = (double)(w->mono_ns - (from - S)) / S;
	assert_true(seconds > 104 * 0.8 && seconds < 104 * 1.2);
	world_free(w);
}

/* Recalls at their limit keep neither a put nor a call without bytes waiting. */
static void calls_wait_for_those_of_their_own_kind_alone(void **state)
{
	struct world *w = world_new();
	struct caller c;

	(void)state;
	w->driven = true;
	w->config.rate_bytes = MIB;
	world_guard(w);
	start(w, &c, OBJECT_FOREGROUND, 16 * MIB, 2);
	assert_int_equal(w->n_made, 1); /* its second get waits 16 seconds */
	struct object_call call = BACKGROUND();
	assert_int_equal(put(w, &call, 200 * KIB, 0), 0);
	assert_int_equal(call_kind(w, OBJECT_HEAD, &call), 0);
	assert_int_equal(call_kind(w, OBJECT_LIST, &call), 0);
	assert_int_equal(call_kind(w, OBJECT_REMOVE, &call), 0);
	run_down(w, S);
	pthread_join(c.thread, NULL);
	assert_int_equal(c.result, 0);
	world_free(w);
}

/* Where requests are limited, whatever their kind: foreground first. */
static void a_request_goes_to_the_foreground_first(void **state)
{
	struct world *w = world_new();
	struct caller background[3], foreground[3];

	(void)state;
	w->driven = true;
	w->config.requests = 1;
	world_guard(w);
	for (int i = 0; i < 3; i++)
		start(w, &background[i], OBJECT_BACKGROUND, 1, 4);
	assert_int_equal(w->n_made, 1); /* what had gathered */
	for (int i = 0; i < 3; i++)
		start(w, &foreground[i], OBJECT_FOREGROUND, 1, 4);
	run_down(w, 100 * MS);
	assert_int_equal(w->n_made, 24);
	for (unsigned i = 1; i < 24; i++)
		assert_int_equal(w->made[i].purpose, i <= 12 ? OBJECT_FOREGROUND : OBJECT_BACKGROUND);
	for (int i = 0; i < 3; i++) {
		pthread_join(background[i].thread, NULL);
		pthread_join(foreground[i].thread, NULL);
		assert_int_equal(background[i].result + foreground[i].result, 0);
	}
	world_free(w);
}

/* Several foreground calls wait for a store that is away; one of them asks, and all go on when it answers. */
static void one_call_asks_for_all(void **state)
{
	struct world *w = world_new();
	struct caller c[4], b;

	(void)state;
	w->driven = true;
	w->config.tries = 1;
	w->config.trip = 1;
	world_guard(w);
	world_script(w, 2, (struct step[]){{.error = -EIO}, {.error = 0, .takes_ns = 500 * MS}});
	start(w, &b, OBJECT_BACKGROUND, 1, 1); /* opens it */
	pthread_join(b.thread, NULL);
	assert_int_equal(b.result, -EIO);
	for (int i = 0; i < 4; i++)
		start(w, &c[i], OBJECT_FOREGROUND, 1, 1);
	for (int i = 0; i < 9; i++)
		world_advance(w, 100 * MS);
	assert_int_equal(w->n_made, 1);
	for (int i = 0; i < 3; i++)
		world_advance(w, 100 * MS);
	assert_int_equal(w->n_made, 2);
	assert_int_equal(status(w).breaker, BREAKER_HALF_OPEN);
	start(w, &b, OBJECT_BACKGROUND, 1, 1);
	pthread_join(b.thread, NULL);
	assert_int_equal(b.result, -ECANCELED);
	assert_non_null(strstr(b.call.message, "another call is asking"));
	run_down(w, 100 * MS);
	assert_int_equal(w->n_made, 5);
	for (int i = 0; i < 4; i++) {
		pthread_join(c[i].thread, NULL);
		assert_int_equal(c[i].result, 0);
	}
	assert_int_equal(status(w).breaker, BREAKER_CLOSED);
	world_free(w);
}

/* Whatever a call waits for, shutting the guard ends it. */
static void shut_ends_every_wait(void **state)
{
	enum { BACKOFF, OPEN, LIMIT, QUIET, UNDER_WAY, CASES };

	(void)state;
	for (int what = 0; what < CASES; what++) {
		struct world *w = world_new();
		struct caller c, first;
		w->driven = true;
		w->config.tries = 2;
		w->config.trip = what == OPEN ? 1 : 5;
		w->config.open_ns = 100 * S;
		w->config.base_ns = what == BACKOFF ? 1000 * S : 0;
		w->config.cap_ns = what == BACKOFF ? 1000 * S : 0;
		w->config.rate_bytes = what == LIMIT ? 16 * KIB : 0;
		w->config.timeout_ns = 2000 * S;
		world_guard(w);
		w->otherwise = (struct step){.error = what == BACKOFF ? -ECONNRESET
						      : what == OPEN  ? -EIO
						      : what == QUIET ? -EBUSY
								      : 0,
					     .retry_after_ns = what == QUIET ? 50 * S : 0,
					     .takes_ns = what == UNDER_WAY ? 1000 * S : 0};
		if (what == OPEN || what == QUIET || what == LIMIT)
			start(w, &first, what == LIMIT ? OBJECT_FOREGROUND : OBJECT_BACKGROUND, 16 * MIB, 1);
		start(w, &c, OBJECT_FOREGROUND, MIB, 1);
		for (int i = 0; i < 5; i++)
			world_advance(w, 100 * MS);
		assert_int_equal(c.ended_ns, 0);
		guard_shut(w->guard);
		int64_t at = w->mono_ns;
		run_down(w, 1);
		pthread_join(c.thread, NULL);
		assert_int_equal(c.result, -ECANCELED);
		assert_true(c.call.message[0] != '\0');
		assert_in_range(c.ended_ns - at, 0, 2);
		if (what == OPEN || what == QUIET || what == LIMIT)
			pthread_join(first.thread, NULL);
		struct object_call call = FOREGROUND();
		assert_int_equal(get(w, &call, 1), -ECANCELED);
		assert_string_equal(call.message, "store cold: closing");
		world_free(w);
	}
}

/* With real clocks and real waits: nothing is lost or counted twice, and shutting ends calls that wait for minutes. */
static void *make_random_calls(void *arg)
{
	struct caller *c = arg;
	struct rng r = {(uint64_t)(uintptr_t)c->n};

	for (int i = 0; i < 300; i++) {
		struct object_call call = {.purpose = rng_below(&r, 2)};
		int error = call_kind(c->w, (enum object_kind)rng_below(&r, OBJECT_KINDS), &call);
		assert_true(error == 0 || error == -EIO || error == -ECANCELED);
		struct guard_status s = status(c->w);
		assert_true(s.usage.requests > 0);
	}
	pthread_barrier_wait(c->all);
	struct object_call call = FOREGROUND(.deadline_ns = INT64_MAX);
	while (c->result == 0)
		c->result = get(c->w, &call, 40 * MIB);
	return NULL;
}

static void threads_share_a_guard(void **state)
{
	struct world *w = world_new();
	struct caller c[8];

	(void)state;
	w->config.sleep_until = NULL;
	w->config.clock = NULL;
	w->config.seed = 0;
	w->config.base_ns = MS / 10;
	w->config.cap_ns = MS;
	w->config.open_ns = w->config.open_max_ns = MS;
	w->config.rate_bytes = 40 * MIB;
	w->config.requests = 1000000;
	world_guard(w);
	struct step steps[64];
	for (int i = 0; i < 64; i++)
		steps[i] = (struct step){.error = i % 3 ? -EIO : 0};
	world_script(w, 64, steps);
	pthread_barrier_t all;
	pthread_barrier_init(&all, NULL, 9);
	for (int i = 0; i < 8; i++) {
		c[i] = (struct caller){.w = w, .n = i, .all = &all};
		assert_int_equal(pthread_create(&c[i].thread, NULL, make_random_calls, &c[i]), 0);
	}
	pthread_barrier_wait(&all);
	nanosleep(&(struct timespec){.tv_nsec = 200 * MS}, NULL); /* all but the first wait for minutes now */
	guard_shut(w->guard);
	for (int i = 0; i < 8; i++) {
		pthread_join(c[i].thread, NULL);
		assert_int_equal(c[i].result, -ECANCELED);
	}
	pthread_barrier_destroy(&all);
	struct guard_status s = status(w);
	uint64_t sum = 0;
	for (int k = 0; k < OBJECT_KINDS; k++) {
		assert_int_equal(s.usage.by_kind[k], s.requests[k]);
		sum += s.requests[k];
	}
	assert_int_equal(sum, s.usage.requests);
	assert_int_equal(sum, w->n_made);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(foreground_calls_go_first),
	    cmocka_unit_test(calls_wait_for_those_of_their_own_kind_alone),
	    cmocka_unit_test(a_request_goes_to_the_foreground_first),
	    cmocka_unit_test(one_call_asks_for_all),
	    cmocka_unit_test(shut_ends_every_wait),
	    cmocka_unit_test(threads_share_a_guard),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
