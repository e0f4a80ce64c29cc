/*
 * test_guard_breaker.c: a store that is away is left alone for ever longer, and only for that.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "tests/unit/guard_case.h"
#include "tier/breaker.h"

/* Every state, what may happen in it, and what it becomes. */
static void the_breaker_has_these_transitions_and_no_other(void **state)
{
	static const struct {
		enum breaker_state state;
		unsigned failures;
		enum breaker_pass pass;
		enum breaker_outcome outcome;
		enum breaker_state then;
		unsigned failures_then;
		int64_t pause_then, retry_in;
		bool tripped;
	} table[] = {
	    {BREAKER_CLOSED, 0, BREAKER_GO, BREAKER_WELL, BREAKER_CLOSED, 0, 4, -1, false},
	    {BREAKER_CLOSED, 2, BREAKER_GO, BREAKER_WELL, BREAKER_CLOSED, 0, 4, -1, false},
	    {BREAKER_CLOSED, 0, BREAKER_GO, BREAKER_FAILED, BREAKER_CLOSED, 1, 4, -1, false},
	    {BREAKER_CLOSED, 2, BREAKER_GO, BREAKER_FAILED, BREAKER_OPEN, 3, 2, 2, true},
	    {BREAKER_CLOSED, 2, BREAKER_GO, BREAKER_UNKNOWN, BREAKER_CLOSED, 2, 4, -1, false},
	    {BREAKER_OPEN, 3, BREAKER_GO, BREAKER_WELL, BREAKER_OPEN, 3, 4, -1, false},
	    {BREAKER_OPEN, 3, BREAKER_GO, BREAKER_FAILED, BREAKER_OPEN, 3, 4, -1, false},
	    {BREAKER_OPEN, 3, BREAKER_GO, BREAKER_UNKNOWN, BREAKER_OPEN, 3, 4, -1, false},
	    {BREAKER_HALF_OPEN, 3, BREAKER_GO, BREAKER_WELL, BREAKER_HALF_OPEN, 3, 4, -1, false},
	    {BREAKER_HALF_OPEN, 3, BREAKER_GO, BREAKER_FAILED, BREAKER_HALF_OPEN, 3, 4, -1, false},
	    {BREAKER_HALF_OPEN, 3, BREAKER_GO, BREAKER_UNKNOWN, BREAKER_HALF_OPEN, 3, 4, -1, false},
	    {BREAKER_HALF_OPEN, 3, BREAKER_PROBE, BREAKER_WELL, BREAKER_CLOSED, 0, 4, -1, false},
	    {BREAKER_HALF_OPEN, 3, BREAKER_PROBE, BREAKER_FAILED, BREAKER_OPEN, 3, 7, 7, false},
	    {BREAKER_HALF_OPEN, 3, BREAKER_PROBE, BREAKER_UNKNOWN, BREAKER_OPEN, 3, 4, 0, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct breaker b = {.trip = 3,
				    .open_ns = 2,
				    .open_max_ns = 7,
				    .state = table[i].state,
				    .failures = table[i].failures,
				    .pause_ns = 4,
				    .retry_at_ns = 50};
		bool changed = breaker_leave(&b, table[i].pass, table[i].outcome, 100);
		assert_int_equal(b.state, table[i].then);
		assert_int_equal(changed, table[i].state != table[i].then);
		assert_int_equal(b.failures, table[i].failures_then);
		assert_int_equal(b.pause_ns, table[i].pause_then);
		assert_int_equal(b.retry_at_ns, table[i].retry_in < 0 ? 50 : 100 + table[i].retry_in);
		assert_int_equal(b.trips, table[i].tripped);
	}
	struct breaker b = {.trip = 3, .open_ns = 2, .open_max_ns = 7, .retry_at_ns = 50};
	for (int64_t now = 0; now < 100; now++) {
		b.state = BREAKER_CLOSED;
		assert_int_equal(breaker_look(&b, now), BREAKER_GO);
		breaker_enter(&b, BREAKER_GO);
		assert_int_equal(b.state, BREAKER_CLOSED);
		b.state = BREAKER_HALF_OPEN;
		assert_int_equal(breaker_look(&b, now), BREAKER_STOP);
		b.state = BREAKER_OPEN;
		assert_int_equal(breaker_look(&b, now), now < 50 ? BREAKER_STOP : BREAKER_PROBE);
	}
	breaker_enter(&b, BREAKER_PROBE);
	assert_int_equal(b.state, BREAKER_HALF_OPEN);
}

static void a_store_that_is_away_is_left_alone_for_ever_longer(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(away); i++) {
		struct world *w = world_new();
		w->config.tries = 1;
		world_guard(w);
		w->otherwise = (struct step){.error = away[i], .message = "nobody there"};
		struct object_call call;
		for (unsigned n = 0; n < 5; n++) {
			assert_int_equal(status(w).breaker, BREAKER_CLOSED);
			call = BACKGROUND();
			assert_int_equal(put(w, &call, 1, 0), away[i]);
		}
		int64_t pause = S;
		for (int n = 0; n < 9; n++) {
			struct guard_status s = status(w);
			assert_int_equal(s.breaker, BREAKER_OPEN);
			assert_int_equal(s.trips, 1);
			assert_true(s.retry_at_ns == w->mono_ns + pause);
			w->mono_ns += pause - 1;
			call = BACKGROUND();
			assert_int_equal(put(w, &call, 1, 0), -ECANCELED);
			assert_non_null(strstr(call.message, "store cold: away"));
			assert_non_null(strstr(call.message, "nobody there"));
			assert_int_equal(w->n_made, 5 + n);
			w->mono_ns += 1;
			call = BACKGROUND();
			assert_int_equal(put(w, &call, 1, 0), away[i]);
			pause = pause * 2 < 60 * S ? pause * 2 : 60 * S;
		}
		w->otherwise = (struct step){0};
		w->mono_ns += pause;
		call = BACKGROUND();
		assert_int_equal(put(w, &call, 1, 0), 0);
		assert_int_equal(status(w).breaker, BREAKER_CLOSED);
		/* And the next time it begins with a second again. */
		w->otherwise = (struct step){.error = away[i]};
		for (unsigned n = 0; n < 5; n++) {
			call = BACKGROUND();
			assert_int_equal(put(w, &call, 1, 0), away[i]);
		}
		assert_true(status(w).retry_at_ns == w->mono_ns + S);
		assert_int_equal(status(w).trips, 2);
		world_free(w);
	}
}

static void errors_of_a_store_that_answers_do_not_open_the_breaker(void **state)
{
	static const int answers[] = {-ENOENT, -EEXIST,  -EACCES,     -ENOSPC, -EPROTO,
				      -EBUSY,  -EBADMSG, -EOPNOTSUPP, -EINVAL, -ENOMEM};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		struct world *w = world_new();
		w->config.tries = 1;
		world_guard(w);
		w->otherwise = (struct step){.error = answers[i]};
		for (int n = 0; n < 20; n++) {
			struct object_call call = BACKGROUND();
			assert_int_equal(put(w, &call, 1, 0), answers[i]);
		}
		assert_int_equal(status(w).breaker, BREAKER_CLOSED);
		world_free(w);
	}
}

/* A time-out of a call that had hardly any time says nothing about the store. */
static void the_impatience_of_callers_does_not_open_the_breaker(void **state)
{
	struct world *w = world_new();

	(void)state;
	w->config.tries = 1;
	world_guard(w);
	w->otherwise = (struct step){.error = -ETIMEDOUT};
	for (int n = 0; n < 20; n++) {
		struct object_call call = FOREGROUND(.deadline_ns = w->mono_ns + 999 * MS);
		assert_int_equal(get(w, &call, 1), -ETIMEDOUT);
	}
	assert_int_equal(status(w).breaker, BREAKER_CLOSED);
	for (int n = 0; n < 5; n++) {
		struct object_call call = FOREGROUND(.deadline_ns = w->mono_ns + 1000 * MS);
		assert_int_equal(get(w, &call, 1), -ETIMEDOUT);
	}
	assert_int_equal(status(w).breaker, BREAKER_OPEN);
	world_free(w);
}

static void a_foreground_call_lasts_until_the_store_is_back_or_its_time_is_over(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(away); i++)
		for (int back = 0; back < 2; back++) {
			struct world *w = world_new();
			world_guard(w);
			w->otherwise = (struct step){.error = back ? 0 : away[i], .message = back ? NULL : "nobody there"};
			struct step steps[8];
			for (int n = 0; n < 8; n++)
				steps[n] = (struct step){.error = away[i], .message = "nobody there"};
			world_script(w, 8, steps);
			int64_t deadline = w->mono_ns + 40 * S;
			struct object_call call = FOREGROUND(.deadline_ns = deadline);
			assert_int_equal(get(w, &call, 1), back ? 0 : away[i]);
			if (back) {
				assert_int_equal(w->n_made, 9); /* more than the 6 tries that count */
				assert_int_equal(status(w).breaker, BREAKER_CLOSED);
			} else {
				assert_true(w->mono_ns <= deadline && w->mono_ns > deadline - 11 * S);
				assert_non_null(strstr(call.message, "store cold: nobody there (after "));
			}
			world_free(w);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_breaker_has_these_transitions_and_no_other),
	    cmocka_unit_test(a_store_that_is_away_is_left_alone_for_ever_longer),
	    cmocka_unit_test(errors_of_a_store_that_answers_do_not_open_the_breaker),
	    cmocka_unit_test(the_impatience_of_callers_does_not_open_the_breaker),
	    cmocka_unit_test(a_foreground_call_lasts_until_the_store_is_back_or_its_time_is_over),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
