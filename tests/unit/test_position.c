/* test_position.c: waits for fs_pos(): answered when it is there, when their time is over, or at the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <time.h>

#include "fs/core/core.h"
#include "tests/unit/volume.h"

#define UNANSWERED 1 /* as a result */

static struct volume vol;
static int64_t now_ns;

static int64_t test_mono(const struct clock *c)
{
	(void)c;
	return now_ns;
}

static const struct clock test_clock = {.real_ns = test_mono, .mono_ns = test_mono};

struct asker {
	struct journal_waiter w;
	int result;
	sem_t wake; /* of the case with threads */
};

static void answered(struct journal_waiter *w, int result)
{
	struct asker *a = container_of(w, struct asker, w);

	assert_int_equal(a->result, UNANSWERED);
	a->result = result;
	sem_post(&a->wake);
}

static int make_volume(void **state)
{
	(void)state;
	now_ns = NSEC_PER_SEC;
	volume_open(&vol, &test_clock);
	return 0;
}

static int free_volume(void **state)
{
	(void)state;
	volume_close(&vol);
	return 0;
}

static void ask(struct asker *a, uint64_t seq, int64_t timeout_ns)
{
	*a = (struct asker){.w.done = answered, .result = UNANSWERED};
	sem_init(&a->wake, 0, 0);
	fs_wait_pos_async(vol.fs, seq, timeout_ns, &a->w);
}

static void change(void)
{
	const struct record_attr mode = {.mask = ATTR_MODE, .mode = 0600};
	struct fs_attr after;

	assert_int_equal(fs_setattr(vol.fs, &root, vol.file, &mode, &after), 0);
}

static void what_is_there_needs_no_wait(void **state)
{
	struct asker a;

	(void)state;
	for (uint64_t seq = 0; seq <= fs_pos(vol.fs); seq++) {
		ask(&a, seq, 0);
		assert_int_equal(a.result, 0);
	}
}

/* The position a writer reads is one that others reach without another change. */
static void the_position_is_that_of_the_newest_change(void **state)
{
	(void)state;
	change();
	uint64_t pos = fs_pos(vol.fs);
	assert_int_equal(fs_sync(vol.fs), 0);
	assert_int_equal(fs_pos(vol.fs), pos);
	change();
	assert_int_equal(fs_pos(vol.fs), pos + 1);
}

static void each_is_answered_when_its_batch_is_there(void **state)
{
	struct asker a[5];

	(void)state;
	uint64_t pos = fs_pos(vol.fs);
	for (unsigned i = 0; i < 5; i++)
		ask(&a[i], pos + 5 - i, NSEC_PER_SEC);
	for (unsigned moved = 0; moved <= 5; moved++) {
		for (unsigned i = 0; i < 5; i++)
			assert_int_equal(a[i].result, 5 - i <= moved ? 0 : UNANSWERED);
		assert_int_equal(fs_sync(vol.fs), 0);
		change();
	}
}

static void time_that_is_over_is_told(void **state)
{
	struct asker soon, later;
	int64_t next;

	(void)state;
	fs_wait_step(vol.fs, &next);
	assert_true(next >= 60 * NSEC_PER_SEC);
	ask(&later, fs_pos(vol.fs) + 9, 5 * NSEC_PER_SEC);
	ask(&soon, fs_pos(vol.fs) + 9, 2 * NSEC_PER_SEC);
	fs_wait_step(vol.fs, &next);
	assert_int_equal(next, 2 * NSEC_PER_SEC);
	now_ns += 2 * NSEC_PER_SEC - 1;
	fs_wait_step(vol.fs, &next);
	assert_int_equal(soon.result, UNANSWERED);
	assert_int_equal(next, 1);
	now_ns++;
	fs_wait_step(vol.fs, &next);
	assert_int_equal(soon.result, -ETIMEDOUT);
	assert_int_equal(later.result, UNANSWERED);
	assert_int_equal(next, 3 * NSEC_PER_SEC);
	now_ns += next;
	fs_wait_step(vol.fs, &next);
	assert_int_equal(later.result, -ETIMEDOUT);
}

static void no_time_is_over_at_once(void **state)
{
	struct asker a;

	(void)state;
	ask(&a, fs_pos(vol.fs) + 1, 0);
	assert_int_equal(a.result, -ETIMEDOUT);
	ask(&a, UINT64_MAX, 0);
	assert_int_equal(a.result, -ETIMEDOUT);
}

static void the_end_of_a_mount_answers_and_the_next_one_waits_again(void **state)
{
	struct asker a, after;

	(void)state;
	ask(&a, fs_pos(vol.fs) + 1, NSEC_PER_SEC);
	fs_end_waits(vol.fs);
	assert_int_equal(a.result, -EIO);
	assert_int_equal(fs_sync(vol.fs), 0);
	ask(&after, fs_pos(vol.fs) + 1, NSEC_PER_SEC);
	assert_int_equal(after.result, UNANSWERED);
	change();
	assert_int_equal(after.result, 0);
}

static void closing_and_failing_answer(void **state)
{
	struct asker a, b;

	(void)state;
	ask(&a, fs_pos(vol.fs) + 1, NSEC_PER_SEC);
	volume_reopen(&vol, false);
	assert_int_equal(a.result, -EIO);
	ask(&a, fs_pos(vol.fs) + 1, NSEC_PER_SEC);
	fs_fail(vol.fs, -EIO, "a test");
	assert_int_equal(a.result, -EIO);
	ask(&b, fs_pos(vol.fs) + 1, NSEC_PER_SEC);
	assert_int_equal(b.result, -EIO);
	ask(&b, fs_pos(vol.fs), NSEC_PER_SEC);
	assert_int_equal(b.result, 0); /* it can be read */
	volume_reopen(&vol, true);
}

static void where_nothing_moves_nobody_waits(void **state)
{
	struct asker a;

	(void)state;
	vol.config.read_only = true;
	volume_reopen(&vol, false);
	ask(&a, fs_pos(vol.fs) + 1, NSEC_PER_SEC);
	assert_int_equal(a.result, -ETIMEDOUT);
	ask(&a, fs_pos(vol.fs), NSEC_PER_SEC);
	assert_int_equal(a.result, 0);
}

static void one_that_is_interrupted_waits_no_more_and_the_others_do(void **state)
{
	struct asker a[3];

	(void)state;
	for (unsigned which = 0; which < 3; which++) {
		uint64_t pos = fs_pos(vol.fs) + 1;
		assert_int_equal(fs_sync(vol.fs), 0);
		for (unsigned i = 0; i < 3; i++)
			ask(&a[i], pos, NSEC_PER_SEC);
		assert_true(fs_interrupt(vol.fs, &a[which].w));
		assert_false(fs_interrupt(vol.fs, &a[which].w));
		change();
		for (unsigned i = 0; i < 3; i++) {
			assert_int_equal(a[i].result, i == which ? UNANSWERED : 0);
			assert_false(fs_interrupt(vol.fs, &a[i].w));
		}
	}
}

/* In the product a thread watches the time. */
static void a_thread_watches_the_time(void **state)
{
	struct asker a, b;

	(void)state;
	vol.config.no_threads = false;
	vol.config.clock = NULL;
	volume_reopen(&vol, false);
	ask(&a, fs_pos(vol.fs) + 1000, 600 * NSEC_PER_SEC);
	for (int i = 0; i < 2; i++) { /* the thread sleeps until the later one's time when the second one comes */
		ask(&b, fs_pos(vol.fs) + 1000, NSEC_PER_SEC / 20);
		while (sem_wait(&b.wake))
			;
		assert_int_equal(b.result, -ETIMEDOUT);
	}
	fs_end_waits(vol.fs);
	assert_int_equal(a.result, -EIO);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make_volume, free_volume)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(what_is_there_needs_no_wait),
	    CASE(the_position_is_that_of_the_newest_change),
	    CASE(each_is_answered_when_its_batch_is_there),
	    CASE(time_that_is_over_is_told),
	    CASE(no_time_is_over_at_once),
	    CASE(the_end_of_a_mount_answers_and_the_next_one_waits_again),
	    CASE(closing_and_failing_answer),
	    CASE(where_nothing_moves_nobody_waits),
	    CASE(one_that_is_interrupted_waits_no_more_and_the_others_do),
	    CASE(a_thread_watches_the_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
