/*
 * test_ageing_faults.c: every call of a store goes wrong once, in every way, while files are on their way out.
 *
 * After whatever happened every file reads as it was written, the volume has no findings, and once gc ran the store has exactly
 * the objects that rows name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/ageing_case.h"

/* ---- each call, each way ---- */

static void every_call_fails_once(bool conditions, bool verifies, const char *options)
{
	uint64_t ino[N_FILES], n_faults = 0;

	for (unsigned w = 0; w < ARRAY_SIZE(ways); w++) {
		bool met = true;

		for (uint64_t n = 1; met; n++) {
			tiered_open_with(&t, options);
			simobject_set_conditions(t.so, conditions);
			simobject_set_verifies(t.so, verifies);
			set_policy(FS_ROOT_INO, "tier", "store=s");
			make_files(ino);
			evict_files(ino);
			met = fail_once(n, ways[w].how, ways[w].error);
			n_faults += met;
			expect_files(ino);
			expect_sound(t.v.fs);
			pass(HOUR_NS);
			evict_files(ino);
			for (unsigned i = 0; i < 3 && status().queued_files; i++)
				step();
			for (unsigned i = 0; i < N_FILES; i++)
				assert_true(is_cold(t.v.fs, ino[i]));
			tiered_reopen(&t, n % 2);
			expect_files(ino);
			expect_sound(t.v.fs);
			expect_no_leak();
			tiered_close(&t);
		}
	}
	print_message("%llu calls went wrong\n", (unsigned long long)n_faults);
	assert_true(n_faults >= 2 * ARRAY_SIZE(ways));
}

static void nothing_is_lost_whatever_call_fails(void **state)
{
	(void)state;
	every_call_fails_once(true, true, STORE_OPTIONS);
}

static void nothing_is_lost_at_a_store_without_conditions(void **state)
{
	(void)state;
	every_call_fails_once(false, true, STORE_OPTIONS);
}

static void nothing_is_lost_at_a_store_that_is_read_back(void **state)
{
	(void)state;
	every_call_fails_once(true, false, STORE_OPTIONS);
}

/* A store that says it is all well and keeps something else. */
static void a_lying_store_is_found_out_by_reading_back(void **state)
{
	static const enum simobject_how lies[] = {SIMOBJECT_LOSE, SIMOBJECT_CORRUPT, SIMOBJECT_TEAR};
	uint64_t ino[N_FILES];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		tiered_open_with(&t, STORE_OPTIONS " verify=read");
		set_policy(FS_ROOT_INO, "tier", "store=s");
		make_files(ino);
		evict_files(ino);
		simobject_set_lies(t.so, true);
		simobject_fault(t.so, OBJECT_PUT, simobject_calls(t.so, OBJECT_PUT) + 1, UINT64_MAX, lies[i], 0);
		assert_true(ageing_step(t.v.fs) < 0);
		for (unsigned f = 0; f < N_FILES; f++)
			assert_true(is_hot(t.v.fs, ino[f]));
		expect_files(ino);
		simobject_clear(t.so);
		tiered_close(&t);
	}
}

static char planted[OBJECT_KEY_MAX + 1];

static void plant_first(void *ctx, enum object_kind kind, const char *key)
{
	uint64_t object;

	if (kind != *(const enum object_kind *)ctx || *planted || object_name_parse(key, &object) < 0)
		return;
	strcpy(planted, key);
	simobject_plant(t.so, "s", key, "somebody else's", 15, 1);
}

static void an_object_of_that_number_is_left_alone(void **state)
{
	static const enum object_kind first[] = {OBJECT_PUT, OBJECT_HEAD};
	char is[16] = "";

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(first); i++) {
		uint64_t ino = file_of(t.v.fs, t.v.dir, i ? "f" : "g", MIB, 1);

		*planted = '\0';
		simobject_set_conditions(t.so, i == 0);
		simobject_on_call(t.so, plant_first, (void *)(uintptr_t)&first[i]);
		evict(ino);
		assert_true(ageing_step(t.v.fs) < 0);
		simobject_on_call(t.so, NULL, NULL);
		assert_true(is_hot(t.v.fs, ino));
		assert_int_equal(simobject_peek(t.so, "s", planted, is, 15), 15);
		assert_string_equal(is, "somebody else's");
		step(); /* under another number */
		assert_true(is_cold(t.v.fs, ino));
		assert_int_equal(simobject_peek(t.so, "s", planted, is, 15), 15);
		expect_content(t.v.fs, ino, MIB, 1);
	}
}

static void a_failed_store_is_said_and_left_alone_for_a_while(void **state)
{
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", MIB, 1);

	(void)state;
	evict(ino);
	simobject_fault(t.so, OBJECT_PUT, 0, UINT64_MAX, SIMOBJECT_FAIL, -EACCES);
	assert_int_equal(ageing_step(t.v.fs), -EACCES);
	assert_true(strstr(status().paused, "store s"));
	assert_true(strstr(status().last_message, "store s"));
	assert_int_equal(status().failed_files, 1);
	assert_int_equal(status().queued_files, 1);
	assert_int_equal(ageing_step(t.v.fs), -EACCES);
	assert_int_equal(status().failed_files, 1); /* counted once */
	simobject_clear(t.so);
	step();
	assert_string_equal(status().paused, "");
	assert_true(is_cold(t.v.fs, ino));
}

static void a_store_that_is_gone_or_unknown_keeps_nobody_from_the_data(void **state)
{
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", MIB, 1);

	(void)state;
	set_policy(t.v.dir, "tier", "store=nowhere");
	evict(ino);
	assert_true(ageing_step(t.v.fs) < 0);
	assert_true(strstr(status().last_message, "nowhere"));
	expect_content(t.v.fs, ino, MIB, 1);
	set_policy(t.v.dir, "tier", NULL);
	step();
	assert_true(is_cold(t.v.fs, ino));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(nothing_is_lost_whatever_call_fails),
	    cmocka_unit_test(nothing_is_lost_at_a_store_without_conditions),
	    cmocka_unit_test(nothing_is_lost_at_a_store_that_is_read_back),
	    cmocka_unit_test(a_lying_store_is_found_out_by_reading_back),
	    cmocka_unit_test_setup_teardown(an_object_of_that_number_is_left_alone, make, drop),
	    cmocka_unit_test_setup_teardown(a_failed_store_is_said_and_left_alone_for_a_while, make, drop),
	    cmocka_unit_test_setup_teardown(a_store_that_is_gone_or_unknown_keeps_nobody_from_the_data, make, drop),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
