/*
 * test_ageing_scan.c: which files the scan finds cold (fs/core/tier/ageing/scan.c, ageing/clock.c): by policy, by a clock that
 * jumps, and when space is short.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/ageing_case.h"

/* ---- the scan ---- */

static void touch(uint64_t ino, int64_t age_ns)
{
	int64_t at = atomic_load(&clock_real_at) - age_ns;
	struct record_attr in = {.mask = ATTR_ATIME | ATTR_MTIME, .atime_ns = at, .mtime_ns = at - NSEC_PER_SEC};
	struct fs_attr a;

	assert_int_equal(fs_setattr(t.v.fs, &root, ino, &in, &a), 0);
}

static void scan(void)
{
	ageing_scan_now(t.v.fs);
	step();
}

static void the_scan_finds_what_its_policy_calls_cold(void **state)
{
	const int64_t day = 24 * HOUR_NS;
	static const char *const names[] = {"old", "young", "edge", "small", "pinned", "none", "own"};
	uint64_t ino[ARRAY_SIZE(names)], dir = t.v.dir;
	const bool want[ARRAY_SIZE(names)] = {true, false, true, false, false, false, true};

	(void)state;
	set_policy(dir, "tier", "after=30d min=64K store=s");
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		ino[i] = file_of(t.v.fs, dir, names[i], i == 3 ? 65535 : 65536, i);
	set_policy(ino[4], "tier.pin", "on");
	set_policy(ino[5], "tier", "none");
	set_policy(ino[6], "tier", "after=1h store=s");
	touch(ino[0], 40 * day);
	touch(ino[1], 30 * day - NSEC_PER_SEC);
	touch(ino[2], 30 * day);
	touch(ino[3], 40 * day);
	touch(ino[4], 40 * day);
	touch(ino[5], 40 * day);
	touch(ino[6], 2 * HOUR_NS);
	scan();
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		assert_int_equal(is_cold(t.v.fs, ino[i]), want[i]);
	assert_int_equal(status().scans, 1);
	assert_int_equal(n_packs(&t), 1);
	uint64_t puts = simobject_calls(t.so, OBJECT_PUT);
	scan(); /* finds nothing new */
	assert_int_equal(simobject_calls(t.so, OBJECT_PUT), puts);
	pass(day);
	scan();
	assert_true(is_cold(t.v.fs, ino[1]));
	expect_sound(t.v.fs);
}

static void without_a_policy_there_is_no_scan(void **state)
{
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", MIB, 1);

	(void)state;
	set_policy(FS_ROOT_INO, "tier", NULL);
	touch(ino, 4000 * 24 * HOUR_NS);
	scan();
	assert_int_equal(status().scans, 0);
	assert_true(is_hot(t.v.fs, ino));
}

static void a_clock_that_jumps_is_believed_after_a_day(void **state)
{
	const int64_t year = 365 * 24 * HOUR_NS;
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", MIB, 1);

	(void)state;
	scan();
	atomic_fetch_add(&clock_real_at, 10 * year);
	scan();
	assert_true(is_hot(t.v.fs, ino));
	pass(23 * HOUR_NS);
	scan();
	assert_true(is_hot(t.v.fs, ino));
	atomic_fetch_sub(&clock_real_at, 10 * year); /* set right in time */
	scan();
	pass(2 * HOUR_NS);
	scan();
	assert_true(is_hot(t.v.fs, ino));
	atomic_fetch_add(&clock_real_at, 10 * year); /* it was right */
	scan();
	assert_true(is_hot(t.v.fs, ino));
	pass(25 * HOUR_NS);
	scan();
	assert_true(is_cold(t.v.fs, ino));
	atomic_fetch_sub(&clock_real_at, 20 * year); /* the other way: nothing is cold, nothing is lost */
	uint64_t other = file_of(t.v.fs, t.v.dir, "g", MIB, 2);
	pass(25 * HOUR_NS);
	scan();
	pass(25 * HOUR_NS);
	scan();
	assert_true(is_hot(t.v.fs, other));
	expect_content(t.v.fs, ino, MIB, 1);
	atomic_fetch_add(&clock_real_at, 10 * year);
}

static void above_the_high_water_mark_the_coldest_go_first(void **state)
{
	struct fs_statfs s;
	uint64_t ino[24];
	char name[16];
	unsigned n_cold = 0;

	(void)state;
	simstore_set_space(t.v.sim, 160 * MIB);
	for (unsigned i = 0; i < ARRAY_SIZE(ino); i++) {
		snprintf(name, sizeof(name), "f%u", i);
		ino[i] = file_of(t.v.fs, t.v.dir, name, MIB, i);
		touch(ino[i], (int64_t)(100 + i) * NSEC_PER_SEC); /* young, the last one the coldest */
	}
	fs_statfs(t.v.fs, &s);
	uint32_t used = (uint32_t)((s.total_blocks - s.free_blocks) * 100 / s.total_blocks);
	t.v.config.high_water = used + 2;
	tiered_reopen(&t, false);
	step();
	assert_false(status().high_water);
	t.v.config.high_water = used - 1;
	tiered_reopen(&t, false);
	step();
	fs_statfs(t.v.fs, &s);
	assert_true((s.total_blocks - s.free_blocks) * 100 < s.total_blocks * (used - 6 + 1));
	for (unsigned i = 0; i < ARRAY_SIZE(ino); i++) {
		n_cold += is_cold(t.v.fs, ino[i]);
		if (i > 0)
			assert_true(is_cold(t.v.fs, ino[i]) || is_hot(t.v.fs, ino[i - 1]));
	}
	assert_true(n_cold > 0 && n_cold < ARRAY_SIZE(ino));
	step();
	assert_false(status().high_water);
	expect_sound(t.v.fs);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(the_scan_finds_what_its_policy_calls_cold, make, drop),
	    cmocka_unit_test_setup_teardown(without_a_policy_there_is_no_scan, make, drop),
	    cmocka_unit_test_setup_teardown(a_clock_that_jumps_is_believed_after_a_day, make, drop),
	    cmocka_unit_test_setup_teardown(above_the_high_water_mark_the_coldest_go_first, make, drop),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
