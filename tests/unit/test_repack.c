/*
 * test_repack.c: objects that are packed again, that leave their store, and that nobody needs or that are missing
 * (fs/core/tier/repack.c, gc.c).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/ageing_case.h"

/* ---- packing again, and the end of objects ---- */

#define N_PACKED 40u
static void name_packed(unsigned round, unsigned i, char name[16])
{
	snprintf(name, 16, "r%u-%u", round, i);
}

/* 40 files of 200 KiB in an object. */
static void make_packed(unsigned round, uint64_t ino[N_PACKED])
{
	char name[16];

	for (unsigned i = 0; i < N_PACKED; i++) {
		name_packed(round, i, name);
		ino[i] = file_of(t.v.fs, t.v.dir, name, 200 * KIB, round * 100 + i);
		evict(ino[i]);
	}
	step();
	for (unsigned i = 0; i < N_PACKED; i++)
		assert_true(is_cold(t.v.fs, ino[i]));
}

/* All but every `keep`-th are deleted. */
static void thin_out(unsigned round, unsigned keep, uint64_t ino[N_PACKED])
{
	char name[16];

	for (unsigned i = 0; i < N_PACKED; i++) {
		name_packed(round, i, name);
		if (i % keep == 0)
			continue;
		ino[i] = 0;
		assert_int_equal(fs_unlink(t.v.fs, &root, t.v.dir, name), 0);
	}
	steps_reap(t.v.fs);
}

static void expect_kept(unsigned round, const uint64_t ino[N_PACKED])
{
	for (unsigned i = 0; i < N_PACKED; i++)
		if (ino[i])
			expect_content(t.v.fs, ino[i], 200 * KIB, round * 100 + i);
}

static void expect_kept_cold(const uint64_t ino[N_PACKED])
{
	for (unsigned i = 0; i < N_PACKED; i++)
		assert_true(!ino[i] || is_cold(t.v.fs, ino[i]));
}

static void objects_under_half_live_are_packed_again_and_leave_after_their_grace_time(void **state)
{
	uint64_t a[N_PACKED], b[N_PACKED], c[N_PACKED];

	(void)state;
	set_policy(FS_ROOT_INO, "recall", "stream");
	make_packed(1, a);
	make_packed(2, b);
	make_packed(3, c);
	thin_out(1, 4, a);
	thin_out(2, 5, b);
	thin_out(3, 2, c); /* half of it lives, no less */
	assert_int_equal(n_packs(&t), 3);
	step();
	assert_int_equal(status().repacked_objects, 2);
	assert_int_equal(n_packs(&t), 4); /* one new one for both, and both wait for the end of their grace time */
	assert_int_equal(n_rows(), 4);
	step();
	assert_int_equal(n_packs(&t), 4);
	pass(HOUR_NS - 10 * NSEC_PER_SEC);
	step();
	assert_int_equal(n_packs(&t), 4);
	pass(20 * NSEC_PER_SEC);
	step();
	assert_int_equal(n_packs(&t), 2);
	assert_int_equal(n_rows(), 2);
	assert_int_equal(status().removed_objects, 2);
	expect_kept_cold(a);
	expect_kept_cold(b);
	expect_kept(1, a);
	expect_kept(2, b);
	expect_kept(3, c);
	expect_sound(t.v.fs);
	expect_no_leak();
}

static int expect_half_live(void *ctx, const struct object_row *o)
{
	(void)ctx;
	assert_true(o->n_live >= o->n_blocks / 2);
	return 0;
}

static void nothing_is_lost_whatever_call_of_packing_again_fails(void **state)
{
	uint64_t a[N_PACKED], b[N_PACKED], n_faults = 0;

	(void)state;
	for (unsigned w = 0; w < ARRAY_SIZE(ways); w++) {
		bool met = true;

		for (uint64_t n = 1; met; n++) {
			tiered_open(&t);
			set_policy(FS_ROOT_INO, "recall", "stream");
			make_packed(1, a);
			make_packed(2, b);
			thin_out(1, 4, a);
			thin_out(2, 5, b);
			met = fail_once(n, ways[w].how, ways[w].error);
			n_faults += met;
			pass(2 * HOUR_NS);
			if (n % 2)
				tiered_reopen(&t, true);
			expect_kept(1, a);
			expect_kept(2, b);
			for (unsigned i = 0; i < 3; i++) {
				step();
				pass(2 * HOUR_NS);
			}
			expect_kept(1, a);
			expect_kept(2, b);
			expect_sound(t.v.fs);
			expect_no_leak();
			assert_int_equal(objects_each(t.v.fs, 0, expect_half_live, NULL), 0);
			tiered_close(&t);
		}
	}
	print_message("%llu calls went wrong\n", (unsigned long long)n_faults);
}

static void an_object_that_is_gone_already_is_forgotten(void **state)
{
	uint64_t a[N_PACKED], object;
	struct simobject_entry e;

	(void)state;
	make_packed(1, a);
	thin_out(1, 100, a);
	assert_int_equal(fs_unlink(t.v.fs, &root, t.v.dir, "r1-0"), 0);
	steps_reap(t.v.fs);
	for (uint64_t i = 0; simobject_entry(t.so, i, &e); i++)
		if (object_name_parse(e.key, &object) == 0)
			break;
	simobject_erase(t.so, "s", e.key);
	pass(2 * HOUR_NS);
	step();
	assert_int_equal(n_rows(), 0);
}

/* ---- gc ---- */

static void plant(uint64_t object, int64_t age_ns)
{
	char key[OBJECT_NAME_MAX];

	object_name(object, key);
	simobject_plant(t.so, "s", key, "x", 1, atomic_load(&clock_real_at) - age_ns);
}

static void gc_finds_exactly_the_orphans(void **state)
{
	static const uint64_t old[] = {1, 0x5f00000000000000, UINT64_MAX - 1}, young[] = {2, UINT64_MAX - 2};
	uint64_t ino[N_FILES], n;

	(void)state;
	make_files(ino);
	evict_files(ino);
	step();
	n = n_packs(&t);
	assert_int_equal(gc(false).orphans, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(old); i++)
		plant(old[i], HOUR_NS + NSEC_PER_SEC);
	for (unsigned i = 0; i < ARRAY_SIZE(young); i++)
		plant(young[i], HOUR_NS - NSEC_PER_SEC);
	simobject_plant(t.so, "s", "packs/readme", "x", 1, 1);
	simobject_plant(t.so, "s", "other/thing", "x", 1, 1);
	plant(3, 0);
	simobject_plant(t.so, "s", "packs/00/0000000000000004", "x", 1, 0); /* of an age that nobody knows */
	struct gc_result res = gc(true);
	assert_int_equal(res.orphans, 3);
	assert_int_equal(res.orphan_bytes, 3);
	assert_int_equal(res.removed + res.missing, 0);
	assert_int_equal(res.listed, n + 7);
	assert_int_equal(n_packs(&t), n + 7);
	/* A clock that jumped makes nothing old. */
	atomic_fetch_add(&clock_real_at, 1000 * 24 * HOUR_NS);
	assert_int_equal(gc(true).orphans, 3);
	atomic_fetch_sub(&clock_real_at, 1000 * 24 * HOUR_NS);
	res = gc(false);
	assert_int_equal(res.orphans, 3);
	assert_int_equal(res.removed, 3);
	assert_int_equal(n_packs(&t), n + 4);
	assert_true(simobject_peek(t.so, "s", "other/thing", NULL, 0) == 1);
	pass(2 * HOUR_NS);
	assert_int_equal(gc(false).removed, 3); /* those with an age */
	expect_files(ino);
}

static void gc_names_objects_that_are_missing(void **state)
{
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", MIB, 1), object = 0;
	struct simobject_entry e;

	(void)state;
	evict(ino);
	step();
	for (uint64_t i = 0; simobject_entry(t.so, i, &e); i++)
		if (object_name_parse(e.key, &object) == 0)
			break;
	/* A listing without it proves nothing. */
	simobject_fault(t.so, OBJECT_LIST, 0, UINT64_MAX, SIMOBJECT_LOSE, 0);
	assert_int_equal(gc(false).missing, 0);
	simobject_clear(t.so);
	simobject_erase(t.so, "s", e.key);
	assert_int_equal(gc(true).missing, 1);
	assert_int_equal(gc(false).missing, 1);
	assert_int_equal(n_rows(), 1);
}

/* Through several portions of a listing. */
static void gc_of_many_objects_sees_each_once(void **state)
{
	struct rng g = {.state = 42};
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", MIB, 1);

	(void)state;
	evict(ino);
	step();
	for (unsigned i = 0; i < 3000; i++)
		plant(rng_u64(&g), 2 * HOUR_NS);
	struct gc_result res = gc(false);
	assert_int_equal(res.listed, 3001);
	assert_int_equal(res.removed, 3000);
	assert_int_equal(res.missing, 0);
	assert_int_equal(n_packs(&t), 1);
	expect_content(t.v.fs, ino, MIB, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(objects_under_half_live_are_packed_again_and_leave_after_their_grace_time, make,
					    drop),
	    cmocka_unit_test(nothing_is_lost_whatever_call_of_packing_again_fails),
	    cmocka_unit_test_setup_teardown(an_object_that_is_gone_already_is_forgotten, make, drop),
	    cmocka_unit_test_setup_teardown(gc_finds_exactly_the_orphans, make, drop),
	    cmocka_unit_test_setup_teardown(gc_names_objects_that_are_missing, make, drop),
	    cmocka_unit_test_setup_teardown(gc_of_many_objects_sees_each_once, make, drop),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
