/*
 * ageing_case.h: what the cases of ageing share: one volume at a time, steps instead of threads, some files, and the ways in
 * which one call of a store goes wrong.
 *
 * Threads: the test's.  Errors: none; the tests assert.
 */
#pragma once

#include "base/log.h"
#include "tests/unit/tier_volume.h"

static struct tiered t;

static inline int make(void **state)
{
	(void)state;
	tiered_open(&t);
	return 0;
}

static inline int drop(void **state)
{
	(void)state;
	tiered_close(&t);
	return 0;
}

static inline void evict(uint64_t ino)
{
	assert_int_equal(ageing_evict(t.v.fs, ino), 0);
}

static inline void step(void)
{
	assert_int_equal(ageing_step(t.v.fs), 0);
}

static inline struct ageing_status status(void)
{
	struct ageing_status s;

	ageing_get_status(t.v.fs, &s);
	return s;
}

static inline struct gc_result gc(bool dry)
{
	struct gc_result res;

	assert_int_equal(gc_run(t.v.fs, "s", dry, ignore_line, NULL, &res), 0);
	return res;
}

static inline uint64_t n_rows(void)
{
	struct objects_sum sum;

	assert_int_equal(objects_sum(t.v.fs, 0, &sum), 0);
	return sum.n_objects;
}

static inline void set_policy(uint64_t ino, const char *key, const char *value)
{
	assert_int_equal(fs_set_policy(t.v.fs, &root, ino, key, value), 0);
}

/* ---- files ---- */

#define N_FILES 5u
static const size_t sizes[N_FILES] = {10 * KIB, 9 * MIB, 200 * KIB, 1, 70 * KIB};

static inline void make_files(uint64_t ino[N_FILES])
{
	char name[16];

	for (unsigned i = 0; i < N_FILES; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		ino[i] = file_of(t.v.fs, t.v.dir, name, sizes[i], i);
	}
}

static inline void expect_files(const uint64_t ino[N_FILES])
{
	for (unsigned i = 0; i < N_FILES; i++)
		expect_content(t.v.fs, ino[i], sizes[i], i);
}

static inline void evict_files(const uint64_t ino[N_FILES])
{
	for (unsigned i = 0; i < N_FILES; i++)
		evict(ino[i]);
}

/* ---- failures ---- */

/* Once gc ran, what is in the store is what rows name, each object whole. */
static inline void expect_no_leak(void)
{
	pass(2 * HOUR_NS);
	step(); /* removes what is dead */
	assert_int_equal(gc(false).missing, 0);
	assert_int_equal(n_packs(&t), n_rows());
	struct gc_result res = gc(false);
	assert_int_equal(res.orphans + res.missing, 0);
}

static const struct {
	enum simobject_how how;
	int error;
	const char *name;
} ways[] = {
    {SIMOBJECT_FAIL, -EPROTO, "fails"},
    {SIMOBJECT_FAIL, -EACCES, "is refused"},
    {SIMOBJECT_FAIL, -ENOSPC, "finds it full"},
    {SIMOBJECT_AFTER, -EPROTO, "happens, and the answer is lost"},
    {SIMOBJECT_LATE, -EPROTO, "comes late"},
    {SIMOBJECT_LOSE, 0, "is lost"},
    {SIMOBJECT_CORRUPT, 0, "is corrupted"},
    {SIMOBJECT_TEAR, 0, "is torn"},
    {SIMOBJECT_TEAR, -EPROTO, "is torn, and fails"},
};

/* Call `n` of the store from now on goes wrong; false: there was none. */
static inline bool fail_once(uint64_t n, enum simobject_how how, int error)
{
	uint64_t before = simobject_faults(t.so);

	simobject_fault(t.so, OBJECT_KINDS, simobject_calls(t.so, OBJECT_KINDS) + n, 1, how, error);
	int r = ageing_step(t.v.fs);
	bool met = simobject_faults(t.so) > before;
	simobject_clear(t.so);
	assert_true(r == 0 || met);
	return met;
}
