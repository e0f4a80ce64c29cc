/*
 * test_archive_gc.c: objects of an archive that nothing needs are found and removed, and no others: whatever becomes of the
 * manifest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "tests/unit/archive_case.h"

static struct tiered t;

/* Three bases, and segments around them; some of a base with several parts. */
static int make(void **state)
{
	(void)state;
	tiered_open_with(&t, STORE_OPTIONS);
	assert_int_equal(fs_archive_set(t.v.fs, &root, "store=s interval=5s"), 0);
	for (unsigned i = 0; i < 3; i++) {
		char name[8];

		snprintf(name, sizeof(name), "f%u", i);
		file_of(t.v.fs, t.v.dir, name, 4 * MIB, i);
		archive_rounds(t.v.fs);
		archive_new_base(t.v.fs);
		make_file(t.v.fs, t.v.dir, i ? "x" : "y");
		archive_rounds(t.v.fs);
		if (i == 1)
			assert_int_equal(fs_unlink(t.v.fs, &root, t.v.dir, "x"), 0);
	}
	return 0;
}

static int drop(void **state)
{
	(void)state;
	tiered_close(&t);
	return 0;
}

static struct gc_result gc(bool dry)
{
	struct gc_result res;

	assert_int_equal(gc_run(t.v.fs, "s", dry, ignore_line, NULL, &res), 0);
	return res;
}

static uint64_t n_archive(void)
{
	struct simobject_entry e;
	uint64_t n = 0;

	for (uint64_t i = 0; simobject_entry(t.so, i, &e); i++)
		n += strncmp(e.key, "archive/", 8) == 0;
	return n;
}

/* A manifest is written twice, so that both copies are of these streams and bases. */
static void settle(void)
{
	for (unsigned i = 0; i < 2; i++) {
		t.v.fs->archiver->dirty = true;
		archive_rounds(t.v.fs);
	}
}

/* Time passes, a little at a time, as the clock of ageing believes it. */
static void grow_old(void)
{
	for (unsigned i = 0; i < 3; i++) {
		pass(HOUR_NS);
		(void)gc(true);
	}
}

static void plant(const struct archive_id *id)
{
	char key[ARCHIVE_NAME_MAX];

	archive_name(id, key);
	simobject_plant(t.so, "s", key, "left behind", 11, atomic_load(&clock_real_at));
}

/* One of each kind that can be left behind; how many. */
static uint64_t plant_orphans(void)
{
	const struct archive_base *b = base_newest(t.v.fs->archiver);
	const struct archive_stream *s = archiver_stream(t.v.fs->archiver);
	const struct archive_id ids[] = {
	    {.kind = ARCHIVE_BASE, .epoch = b->epoch, .seq = b->seq, .part = b->parts},
	    {.kind = ARCHIVE_BASE, .epoch = b->epoch, .seq = b->seq, .part = b->parts + 7},
	    {.kind = ARCHIVE_BASE, .epoch = b->epoch, .seq = b->seq + 1},
	    {.kind = ARCHIVE_BASE, .epoch = b->epoch + 1, .seq = b->seq},
	    {.kind = ARCHIVE_SEGMENT, .epoch = s->epoch, .seq = s->first.seq - 1, .part = 3},
	    {.kind = ARCHIVE_SEGMENT, .epoch = s->epoch + 1, .seq = s->first.seq},
	    {.kind = ARCHIVE_HEAD, .epoch = s->epoch + 1},
	};

	for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
		plant(&ids[i]);
	return ARRAY_SIZE(ids);
}

static void nothing_of_an_archive_is_an_orphan(void **state)
{
	(void)state;
	settle();
	grow_old();
	uint64_t n = n_archive();
	assert_true(n > 10);
	struct gc_result res = gc(false);
	assert_int_equal(res.listed, n);
	assert_int_equal(res.orphans + res.removed + res.missing, 0);
	assert_int_equal(n_archive(), n);
}

static void what_was_left_behind_goes_once_it_is_old(void **state)
{
	(void)state;
	settle();
	uint64_t n = n_archive(), orphans = plant_orphans();
	struct gc_result res = gc(false);
	assert_int_equal(res.orphans + res.removed, 0); /* it may be being stored just now */
	grow_old();
	res = gc(true);
	assert_int_equal(res.orphans, orphans);
	assert_int_equal(res.orphan_bytes, 11 * orphans);
	assert_int_equal(res.removed, 0);
	assert_int_equal(n_archive(), n + orphans);
	res = gc(false);
	assert_int_equal(res.removed, orphans);
	assert_int_equal(n_archive(), n);
	assert_int_equal(gc(false).orphans, 0);
}

static void other_names_are_left_alone(void **state)
{
	static const char *const names[] = {"archive/x",
					    "archive/manifest-2",
					    "archive/manifest-1.old",
					    "archive/0000000000000001/s/00000000000000A1-0000",
					    "archive/1/head",
					    "archive/0000000000000001/headless",
					    "archive/0000000000000001/s/1-0000",
					    "archive/0000000000000001/b/0000000000000001/1",
					    "archive/0000000000000001/s/+000000000000001-0000",
					    "archive/-000000000000001/head"};

	(void)state;
	settle();
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct archive_id id;

		assert_int_equal(archive_name_parse(names[i], &id), -EINVAL);
		if (object_key_valid(names[i]))
			simobject_plant(t.so, "s", names[i], "x", 1, atomic_load(&clock_real_at));
	}
	uint64_t n = n_archive();
	grow_old();
	assert_int_equal(gc(false).removed, 0);
	assert_int_equal(n_archive(), n);
}

static void names_are_read_as_they_are_written(void **state)
{
	static const uint64_t numbers[] = {0, 1, 0xffff, UINT64_C(1) << 48, UINT64_MAX};

	(void)state;
	for (enum archive_kind kind = ARCHIVE_MANIFEST; kind < ARCHIVE_KINDS; kind++)
		for (size_t e = 0; e < ARRAY_SIZE(numbers); e++)
			for (size_t s = 0; s < ARRAY_SIZE(numbers); s++)
				for (size_t p = 0; p < ARRAY_SIZE(numbers); p++) {
					bool manifest = kind == ARCHIVE_MANIFEST, head = kind == ARCHIVE_HEAD;
					const struct archive_id id = {.kind = kind,
								      .epoch = manifest ? 0 : numbers[e],
								      .seq = manifest || head ? 0 : numbers[s],
								      .part = manifest ? p % 2
									      : head   ? 0
										       : (uint32_t)numbers[p]};
					char key[ARCHIVE_NAME_MAX];
					struct archive_id got;

					archive_name(&id, key);
					assert_int_equal(archive_name_parse(key, &got), 0);
					assert_true(got.kind == id.kind && got.epoch == id.epoch && got.seq == id.seq &&
						    got.part == id.part);
				}
}

/* Damaged, gone, or of a generation before: what it does not name may be needed. */
static void nothing_goes_while_a_manifest_is_not_whole(void **state)
{
	uint8_t whole[2][32 * KIB];
	int64_t len[2];
	static const char *const keys[] = {"archive/manifest-0", "archive/manifest-1"};

	(void)state;
	settle();
	uint64_t orphans = plant_orphans(), n = n_archive();
	grow_old();
	for (unsigned copy = 0; copy < 2; copy++)
		len[copy] = simobject_peek(t.so, "s", keys[copy], whole[copy], sizeof(whole[copy]));
	for (unsigned copy = 0; copy < 2; copy++)
		for (unsigned how = 0; how < 3; how++) {
			if (how == 0)
				simobject_corrupt(t.so, "s", keys[copy], (uint64_t)len[copy] - 1);
			else if (how == 1)
				simobject_erase(t.so, "s", keys[copy]);
			else
				simobject_plant(t.so, "s", keys[copy], whole[!copy], (size_t)len[!copy], 1);
			assert_int_equal(gc(false).removed, 0);
			simobject_plant(t.so, "s", keys[copy], whole[copy], (size_t)len[copy], 1);
			assert_int_equal(n_archive(), n);
		}
	assert_int_equal(gc(false).removed, orphans);
}

/* Each call of the store fails once: nothing that is needed goes, and another try removes the rest. */
static void each_call_of_the_store_may_fail(void **state)
{
	(void)state;
	settle();
	uint64_t n = n_archive();
	for (unsigned nth = 1; nth <= 14; nth++) {
		struct gc_result res;

		plant_orphans();
		grow_old();
		simobject_fault(t.so, OBJECT_KINDS, simobject_calls(t.so, OBJECT_KINDS) + nth, 1, SIMOBJECT_FAIL, -EACCES);
		(void)!gc_run(t.v.fs, "s", false, ignore_line, NULL, &res);
		simobject_clear(t.so);
		assert_true(n_archive() >= n);
		pass(HOUR_NS);
		(void)gc(false);
		assert_int_equal(n_archive(), n);
	}
}

/* A base that was cut off, and lost its first part: the parts behind the hole are found by nobody else. */
static void parts_of_a_base_that_was_cut_off_go(void **state)
{
	uint64_t n_failed = 0, seq;
	char prefix[64];
	struct simobject_entry e;
	bool more = true;

	(void)state;
	settle();
	file_of(t.v.fs, t.v.dir, "big", 24 * MIB, 9);
	archive_rounds(t.v.fs);
	t.v.fs->archiver->since_base = UINT64_MAX / 2;
	assert_int_equal(archiver_step(t.v.fs, true, &more), 0); /* it is begun */
	for (unsigned i = 0; i < 4; i++)
		n_failed += archiver_step(t.v.fs, true, &more) < 0;
	assert_int_equal(n_failed, 0);
	assert_true(t.v.fs->archiver->job != NULL);
	seq = t.v.fs->archiver->job->seq;
	snprintf(prefix, sizeof(prefix), "/b/%016llx/00000000", (unsigned long long)seq);
	for (uint64_t i = 0; simobject_entry(t.so, i, &e); i++)
		if (strstr(e.key, prefix)) {
			simobject_erase(t.so, e.store, e.key);
			break;
		}
	tiered_reopen(&t, true);
	archive_rounds(t.v.fs);
	settle();
	snprintf(prefix, sizeof(prefix), "/b/%016llx/", (unsigned long long)seq);
	uint64_t left = 0;
	for (uint64_t i = 0; simobject_entry(t.so, i, &e); i++)
		left += strstr(e.key, prefix) != NULL;
	assert_null(base_of(t.v.fs->archiver, t.v.fs->archiver->epoch, seq));
	assert_true(left > 0);
	grow_old();
	assert_int_equal(gc(false).removed, left);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(nothing_of_an_archive_is_an_orphan),
	    CASE(what_was_left_behind_goes_once_it_is_old),
	    CASE(other_names_are_left_alone),
	    cmocka_unit_test(names_are_read_as_they_are_written),
	    CASE(nothing_goes_while_a_manifest_is_not_whole),
	    CASE(each_call_of_the_store_may_fail),
	    CASE(parts_of_a_base_that_was_cut_off_go),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
