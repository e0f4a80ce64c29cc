/*
 * test_requests.c: times of requests, whoever answers them (fs/metrics/requests.c), and who asks most (top.c).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>

#include "fs/metrics/requests.h"
#include "fs/metrics/top.h"
#include "tests/lib/rng.h"

static struct requests *r;
static struct top *t;

static int make(void **state)
{
	(void)state;
	return requests_new(&r) || top_new(&t);
}

static int drop(void **state)
{
	(void)state;
	r = requests_free(r);
	t = top_free(t);
	return 0;
}

struct message {
	struct fuse_in_header h;
	struct fuse_write_in w;
};

static struct message message(uint64_t unique, uint32_t opcode, uint32_t size)
{
	return (struct message){.h = {.len = sizeof(struct message), .opcode = opcode, .unique = unique, .uid = 5, .pid = 7},
				.w = {.size = size}};
}

static void begin(uint64_t unique, uint32_t opcode)
{
	const struct message m = message(unique, opcode, 4096);

	requests_begin(r, &m.h, false);
}

static uint64_t count(enum request_op op)
{
	struct histogram_view v;

	requests_latency(r, op, &v);
	return v.n;
}

static void every_operation_has_a_name_of_its_own(void **state)
{
	(void)state;
	for (unsigned i = 0; i < OP_N; i++) {
		assert_non_null(request_op_names[i]);
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(request_op_names[i], request_op_names[k]);
	}
	assert_int_equal(request_op(FUSE_WRITE), OP_WRITE);
	assert_int_equal(request_op(FUSE_READDIRPLUS), OP_READDIR);
	assert_int_equal(request_op(0), OP_OTHER);
	assert_int_equal(request_op(UINT32_MAX), OP_OTHER);
}

static void every_error_has_a_kind(void **state)
{
	unsigned n[ERROR_N] = {0};

	(void)state;
	for (int e = 1; e < 200; e++)
		n[request_error(e)]++;
	for (unsigned i = 0; i < ERROR_N; i++)
		assert_true(n[i] > 0);
	assert_int_equal(request_error(EIO), ERROR_IO);
	assert_int_equal(request_error(ENOSPC), ERROR_SPACE);
	assert_int_equal(request_error(EROFS), ERROR_REFUSED);
	assert_int_equal(request_error(ENOENT), ERROR_ANSWER);
}

static void an_answer_at_once_is_counted_once(void **state)
{
	(void)state;
	begin(2, FUSE_LOOKUP);
	requests_replied(r, 2, ENOENT, 0);
	requests_end(r);
	assert_int_equal(count(OP_LOOKUP), 1);
	assert_int_equal(requests_errors(r, OP_LOOKUP, ERROR_ANSWER), 1);
	assert_int_equal(requests_waiting(r), 0);
}

static void bytes_are_those_of_what_succeeded(void **state)
{
	(void)state;
	begin(2, FUSE_WRITE);
	requests_replied(r, 2, 0, 8);
	requests_end(r);
	begin(4, FUSE_WRITE);
	requests_replied(r, 4, ENOSPC, 0);
	requests_end(r);
	begin(6, FUSE_READ);
	requests_replied(r, 6, 0, 100);
	requests_end(r);
	begin(8, FUSE_GETXATTR);
	requests_replied(r, 8, 0, 100);
	requests_end(r);
	assert_int_equal(requests_bytes(r, true), 4096);
	assert_int_equal(requests_bytes(r, false), 100);
	assert_int_equal(requests_errors(r, OP_WRITE, ERROR_SPACE), 1);
}

static void an_answer_after_the_end_of_serving_is_counted(void **state)
{
	(void)state;
	begin(2, FUSE_FSYNC);
	requests_end(r);
	assert_int_equal(count(OP_FSYNC), 0);
	assert_int_equal(requests_waiting(r), 1);
	requests_replied(r, 2, 0, 0);
	assert_int_equal(count(OP_FSYNC), 1);
	assert_int_equal(requests_waiting(r), 0);
}

static void what_has_no_answer_and_what_is_none_counts_nothing(void **state)
{
	static const uint32_t silent[] = {FUSE_FORGET, FUSE_BATCH_FORGET, FUSE_INTERRUPT};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(silent); i++) {
		begin(2, silent[i]);
		requests_end(r);
	}
	requests_replied(r, 0, 0, 0);      /* a notice to the kernel */
	requests_replied(r, 3, EAGAIN, 0); /* the answer to an INTERRUPT */
	assert_int_equal(requests_waiting(r), 0);
	for (unsigned op = 0; op < OP_N; op++)
		assert_int_equal(count((enum request_op)op), 0);
}

static void one_that_is_served_again_is_timed_from_its_first_receipt(void **state)
{
	const struct message m = message(2, FUSE_READ, 0);
	const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
	struct histogram_view v;

	(void)state;
	requests_begin(r, &m.h, false);
	requests_end(r); /* deferred */
	nanosleep(&pause, NULL);
	requests_begin(r, &m.h, true);
	requests_replied(r, 2, 0, 10);
	requests_end(r);
	requests_latency(r, OP_READ, &v);
	assert_int_equal(v.n, 1);
	assert_true(v.sum >= 20 * 1000 * 1000);
	assert_int_equal(requests_waiting(r), 0);
}

static sem_t go, done;

static void *answer(void *arg)
{
	sem_wait(&go);
	requests_replied(r, *(const uint64_t *)arg, 0, 0);
	sem_post(&done);
	return NULL;
}

/* The answer of another thread comes while this one still serves. */
static void an_answer_that_overtakes_is_counted_once(void **state)
{
	uint64_t unique = 2;
	pthread_t other;

	(void)state;
	sem_init(&go, 0, 0);
	sem_init(&done, 0, 0);
	assert_int_equal(pthread_create(&other, NULL, answer, &unique), 0);
	begin(unique, FUSE_FSYNC);
	sem_post(&go);
	sem_wait(&done);
	assert_int_equal(count(OP_FSYNC), 0);
	requests_end(r);
	pthread_join(other, NULL);
	assert_int_equal(count(OP_FSYNC), 1);
	assert_int_equal(requests_waiting(r), 0);
	sem_destroy(&go);
	sem_destroy(&done);
}

/* Beyond its bound the table says so, and goes on with what it has. */
static void more_waiting_requests_than_there_is_room_for_are_untracked(void **state)
{
	const uint64_t n = 20000;

	(void)state;
	for (uint64_t i = 1; i <= n; i++) {
		begin(2 * i, FUSE_FSYNC);
		requests_end(r);
	}
	const uint64_t waiting = requests_waiting(r), untracked = requests_untracked(r);
	assert_true(untracked > 0);
	assert_true(waiting > 7000);
	assert_int_equal(waiting + untracked, n);
	for (uint64_t i = 1; i <= n; i++)
		requests_replied(r, 2 * i, 0, 0);
	assert_true(count(OP_FSYNC) >= waiting);
}

/* ---- top ---- */

static void use(uint32_t uid, uint32_t pid, int64_t now_ns)
{
	top_add(t, &(struct top_use){.uid = uid, .pid = pid, .op = OP_WRITE, .ns = 1000, .read = 10, .written = 20}, now_ns);
}

static void rates_are_those_of_the_last_window(void **state)
{
	const int64_t window = TOP_WINDOW_S * NSEC_PER_SEC, start = 100 * window;
	struct top_row row[4];

	(void)state;
	for (int i = 0; i < 100; i++)
		use(1, 2, start + window - 1);
	assert_int_equal(top_read(t, start + window - 1, row, 4), 1);
	assert_int_equal(row[0].uid, 1);
	assert_int_equal(row[0].pid, 2);
	assert_true(fabs(row[0].requests - 100.0 / TOP_WINDOW_S) < 1e-6);
	assert_true(fabs(row[0].read - 1000.0 / TOP_WINDOW_S) < 1e-6);
	assert_true(fabs(row[0].written - 2000.0 / TOP_WINDOW_S) < 1e-6);
	assert_true(fabs(row[0].op[OP_WRITE] - 100.0 / TOP_WINDOW_S) < 1e-6);
	assert_int_equal(top_read(t, start + window + window / 2, row, 4), 1);
	assert_true(fabs(row[0].requests - 50.0 / TOP_WINDOW_S) < 1e-6);
	assert_int_equal(top_read(t, start + 2 * window, row, 4), 0);
}

static void those_that_ask_most_come_first(void **state)
{
	struct top_row row[10];

	(void)state;
	for (uint32_t pid = 1; pid <= 30; pid++)
		for (uint32_t i = 0; i < pid * 3; i++)
			use(0, pid, 1);
	assert_int_equal(top_read(t, 1, row, 10), 10);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(row[i].pid, 30 - i);
}

/* A crowd of which each asks once, and a few that ask much: those are found, and no count is too low. */
static void a_crowd_does_not_hide_who_asks_much(void **state)
{
	const char *given = getenv("SEED");
	struct rng rng = {given ? strtoull(given, NULL, 10) : 3};
	struct top_row row[TOP_SETS * TOP_WAYS];
	const uint32_t n_crowd = 100000, n_much = 5, each = 20000;

	(void)state;
	print_message("SEED=%llu\n", (unsigned long long)rng.state);
	for (uint32_t i = 0; i < n_crowd + n_much * each; i++)
		if (rng_below(&rng, n_crowd + n_much * each) < n_crowd)
			use(9, 1000 + i, 1);
		else
			use(9, 1 + i % n_much, 1);
	const unsigned n = top_read(t, 1, row, ARRAY_SIZE(row));
	assert_true(n <= TOP_SETS * TOP_WAYS);
	for (uint32_t i = 0; i < n_much; i++) {
		assert_true(row[i].pid >= 1 && row[i].pid <= n_much);
		assert_true(row[i].requests * TOP_WINDOW_S > each * 0.9);
		assert_true((row[i].requests - row[i].over) * TOP_WINDOW_S < each * 1.1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(every_operation_has_a_name_of_its_own, make, drop),
	    cmocka_unit_test_setup_teardown(every_error_has_a_kind, make, drop),
	    cmocka_unit_test_setup_teardown(an_answer_at_once_is_counted_once, make, drop),
	    cmocka_unit_test_setup_teardown(bytes_are_those_of_what_succeeded, make, drop),
	    cmocka_unit_test_setup_teardown(an_answer_after_the_end_of_serving_is_counted, make, drop),
	    cmocka_unit_test_setup_teardown(what_has_no_answer_and_what_is_none_counts_nothing, make, drop),
	    cmocka_unit_test_setup_teardown(one_that_is_served_again_is_timed_from_its_first_receipt, make, drop),
	    cmocka_unit_test_setup_teardown(an_answer_that_overtakes_is_counted_once, make, drop),
	    cmocka_unit_test_setup_teardown(more_waiting_requests_than_there_is_room_for_are_untracked, make, drop),
	    cmocka_unit_test_setup_teardown(rates_are_those_of_the_last_window, make, drop),
	    cmocka_unit_test_setup_teardown(those_that_ask_most_come_first, make, drop),
	    cmocka_unit_test_setup_teardown(a_crowd_does_not_hide_who_asks_much, make, drop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
