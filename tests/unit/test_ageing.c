/*
 * test_ageing.c: cold files on their way out (fs/core/tier/ageing*.c): what goes, in which objects, what happens to files that
 * change meanwhile, and what is told of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <jansson.h>
#include <linux/falloc.h>

#include "tests/unit/ageing_case.h"

/* ---- out and back ---- */

static void an_evicted_file_is_in_an_object_and_reads_as_before(void **state)
{
	struct arena_status before, after;
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", 300 * KIB + 17, 1);

	(void)state;
	arena_get_status(t.v.fs->arena, &before);
	evict(ino);
	assert_false(is_cold(t.v.fs, ino));
	step();
	assert_true(is_cold(t.v.fs, ino));
	assert_int_equal(n_packs(&t), 1);
	assert_int_equal(status().aged_files, 1);
	assert_int_equal(status().aged_blocks, 76);
	assert_int_equal(status().evicted_blocks, 76);
	assert_int_equal(fs_checkpoint(t.v.fs), 0);
	arena_get_status(t.v.fs->arena, &after);
	assert_int_equal(after.used_blocks, 0);
	expect_content(t.v.fs, ino, 300 * KIB + 17, 1);
	tiered_reopen(&t, true);
	expect_content(t.v.fs, ino, 300 * KIB + 17, 1);
	expect_sound(t.v.fs);
}

static void a_thousand_small_files_are_in_a_few_objects(void **state)
{
	uint64_t ino[1000];
	char name[16];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(ino); i++) {
		snprintf(name, sizeof(name), "f%u", i);
		ino[i] = file_of(t.v.fs, t.v.dir, name, 10 * KIB, i);
		evict(ino[i]);
	}
	step();
	/* 10,000 KiB that do not compress, with their frames, in objects of 8 MiB */
	assert_int_equal(n_packs(&t), 2);
	assert_int_equal(status().aged_files, 1000);
	for (unsigned i = 0; i < ARRAY_SIZE(ino); i++) {
		assert_true(is_cold(t.v.fs, ino[i]));
		expect_content(t.v.fs, ino[i], 10 * KIB, i);
	}
	expect_sound(t.v.fs);
}

static void a_file_larger_than_an_object_is_in_several(void **state)
{
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", 20 * MIB, 3);

	(void)state;
	evict(ino);
	step();
	assert_true(is_cold(t.v.fs, ino));
	assert_int_equal(n_packs(&t), 3);
	expect_content(t.v.fs, ino, 20 * MIB, 3);
	expect_sound(t.v.fs);
}

static void holes_and_promised_space_are_not_packed(void **state)
{
	uint64_t ino = make_file(t.v.fs, t.v.dir, "f");

	(void)state;
	write_content(t.v.fs, ino, 0, 4096, 1);
	write_content(t.v.fs, ino, 1000 * 4096, 4096, 1);
	assert_int_equal(fs_fallocate(t.v.fs, &root, ino, FALLOC_FL_KEEP_SIZE, 2000 * 4096, 64 * 4096), 0);
	evict(ino);
	step();
	assert_true(is_cold(t.v.fs, ino));
	assert_int_equal(status().aged_blocks, 2);
	expect_sound(t.v.fs);
}

/* A leaf that has changed in part goes whole again, and what the old object had of it is fetched for that. */
static void what_changed_since_goes_out_again(void **state)
{
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", 4 * MIB, 1);
	struct objects_sum sum;

	(void)state;
	evict(ino);
	step();
	write_content(t.v.fs, ino, 100 * KIB, 8 * KIB, 1); /* the same bytes, written anew */
	assert_false(is_cold(t.v.fs, ino));
	evict(ino);
	step();
	assert_true(is_cold(t.v.fs, ino));
	assert_int_equal(n_packs(&t), 2);
	assert_int_equal(status().aged_blocks, 1024 + 16);
	assert_int_equal(objects_sum(t.v.fs, 0, &sum), 0);
	assert_int_equal(sum.n_live, 1024);
	expect_content(t.v.fs, ino, 4 * MIB, 1);
	expect_sound(t.v.fs);
}

static void a_tiered_file_is_only_dropped(void **state)
{
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", MIB, 1), kept;

	(void)state;
	evict(ino);
	step();
	assert_int_equal(recall_file(t.v.fs, ino, &kept), 0);
	assert_int_equal(kept, 256);
	assert_int_equal(state_of(t.v.fs, ino).cold_blocks, 0);
	uint64_t puts = simobject_calls(t.so, OBJECT_PUT);
	evict(ino);
	step();
	assert_true(is_cold(t.v.fs, ino));
	assert_int_equal(simobject_calls(t.so, OBJECT_PUT), puts);
	expect_content(t.v.fs, ino, MIB, 1);
	expect_sound(t.v.fs);
}

static void evict_refuses_what_cannot_go(void **state)
{
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", MIB, 1);

	(void)state;
	assert_int_equal(ageing_evict(t.v.fs, t.v.dir), -EINVAL);
	assert_int_equal(ageing_evict(t.v.fs, 12345), -ENOENT);
	set_policy(t.v.dir, "tier.pin", "on");
	assert_int_equal(ageing_evict(t.v.fs, ino), -EPERM);
	set_policy(t.v.dir, "tier.pin", NULL);
	set_policy(t.v.dir, "tier", "none");
	assert_int_equal(ageing_evict(t.v.fs, ino), -ENODATA);
	set_policy(t.v.dir, "tier", NULL);
	evict(ino);
	set_policy(t.v.dir, "tier.pin", "on"); /* pinned while it waits */
	step();
	assert_true(is_hot(t.v.fs, ino));
	assert_int_equal(status().skipped_files, 1);
}

static void a_full_queue_says_so_and_has_room_again(void **state)
{
	uint64_t refused = 0;
	char name[16];

	(void)state;
	for (unsigned i = 0; i < 20000 && !refused; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		uint64_t ino = make_file(t.v.fs, t.v.dir, name);
		int r = ageing_evict(t.v.fs, ino);

		if (r < 0) {
			assert_int_equal(r, -EAGAIN);
			refused = ino;
		}
	}
	assert_true(refused);
	step();
	assert_int_equal(status().queued_files, 0);
	evict(refused);
	step();
}

/* ---- what changes meanwhile ---- */

static uint64_t victim;
static void (*change)(void);
static bool changing;

static void on_put(void *ctx, enum object_kind kind, const char *key)
{
	uint64_t object;

	(void)ctx;
	if (kind != OBJECT_PUT || changing || object_name_parse(key, &object) < 0)
		return;
	changing = true;
	change();
}

static void overwrite(void)
{
	write_content(t.v.fs, victim, 0, 64, 2);
}
static void append(void)
{
	write_content(t.v.fs, victim, MIB, 10, 2);
}
static void cut(void)
{
	struct record_attr in = {.mask = ATTR_SIZE, .size = 5000};
	struct fs_attr a;

	assert_int_equal(fs_setattr(t.v.fs, &root, victim, &in, &a), 0);
}
static void punch(void)
{
	assert_int_equal(fs_fallocate(t.v.fs, &root, victim, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 4096), 0);
}
static void unlink_it(void)
{
	assert_int_equal(fs_unlink(t.v.fs, &root, t.v.dir, "f"), 0);
}
static void rename_it(void)
{
	assert_int_equal(fs_rename(t.v.fs, &root, t.v.dir, "f", FS_ROOT_INO, "g", 0), 0);
}
static void nothing(void) {}

static void a_file_changed_on_its_way_is_not_placed(void **state)
{
	static void (*const changes[])(void) = {overwrite, append, cut, punch, unlink_it};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(changes); i++) {
		uint64_t other = file_of(t.v.fs, t.v.dir, "other", 2 * MIB, 7);

		victim = file_of(t.v.fs, t.v.dir, "f", MIB, 1);
		change = changes[i];
		changing = false;
		simobject_on_call(t.so, on_put, NULL);
		evict(victim);
		step();
		simobject_on_call(t.so, NULL, NULL);
		assert_true(changing);
		assert_int_equal(n_packs(&t), 0); /* nobody else was in it */
		assert_int_equal(n_rows(), 0);
		assert_int_equal(status().skipped_files, 1);
		if (change != unlink_it) {
			assert_true(is_hot(t.v.fs, victim));
			assert_int_equal(fs_unlink(t.v.fs, &root, t.v.dir, "f"), 0);
		}
		/* one that shares the object with a file that did not change */
		victim = file_of(t.v.fs, t.v.dir, "f", MIB, 1);
		changing = false;
		simobject_on_call(t.so, on_put, NULL);
		evict(victim);
		evict(other);
		step();
		simobject_on_call(t.so, NULL, NULL);
		assert_true(is_cold(t.v.fs, other));
		assert_int_equal(n_packs(&t), 1);
		expect_content(t.v.fs, other, 2 * MIB, 7);
		expect_sound(t.v.fs);
		if (change != unlink_it)
			assert_int_equal(fs_unlink(t.v.fs, &root, t.v.dir, "f"), 0);
		assert_int_equal(fs_unlink(t.v.fs, &root, t.v.dir, "other"), 0);
		steps_reap(t.v.fs);
		pass(2 * HOUR_NS);
		step(); /* dead for long enough */
		assert_int_equal(n_packs(&t), 0);
		tiered_close(&t);
		tiered_open(&t);
	}
}

static void a_file_renamed_on_its_way_is_placed(void **state)
{
	static void (*const changes[])(void) = {rename_it, nothing};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(changes); i++) {
		victim = file_of(t.v.fs, t.v.dir, "f", MIB, 1);
		change = changes[i];
		changing = false;
		simobject_on_call(t.so, on_put, NULL);
		evict(victim);
		step();
		simobject_on_call(t.so, NULL, NULL);
		assert_true(changing && is_cold(t.v.fs, victim));
		expect_content(t.v.fs, victim, MIB, 1);
	}
}

static void evict_again(void)
{
	write_content(t.v.fs, victim, 0, 64, 1);
	evict(victim);
}

static void a_file_asked_for_on_its_way_goes_once_more(void **state)
{
	(void)state;
	victim = file_of(t.v.fs, t.v.dir, "f", MIB, 1);
	change = evict_again;
	changing = false;
	simobject_on_call(t.so, on_put, NULL);
	evict(victim);
	step();
	simobject_on_call(t.so, NULL, NULL);
	assert_true(is_hot(t.v.fs, victim));
	assert_int_equal(status().queued_files, 1);
	step();
	assert_true(is_cold(t.v.fs, victim));
	expect_content(t.v.fs, victim, MIB, 1);
}

/* ---- flush ---- */

struct told {
	struct journal_waiter w;
	bool done;
	int result;
};

static void tell(struct journal_waiter *w, int result)
{
	struct told *f = container_of(w, struct told, w);

	assert_false(f->done);
	f->done = true;
	f->result = result;
}

static void a_flush_waits_for_what_was_asked_before_and_for_nothing_else(void **state)
{
	struct told empty = {.w.done = tell}, first = {.w.done = tell}, second = {.w.done = tell}, last = {.w.done = tell};
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", MIB, 1), other = file_of(t.v.fs, t.v.dir, "g", MIB, 2);

	(void)state;
	ageing_flush_async(t.v.fs, &empty.w);
	assert_true(empty.done && empty.result == 0);
	evict(ino);
	ageing_flush_async(t.v.fs, &first.w);
	ageing_flush_async(t.v.fs, &second.w);
	assert_false(first.done || second.done);
	simobject_fault(t.so, OBJECT_PUT, 0, UINT64_MAX, SIMOBJECT_FAIL, -EACCES);
	assert_int_equal(ageing_step(t.v.fs), -EACCES);
	assert_true(first.done && second.done && first.result == 0); /* failed once: nobody waits for it any more */
	evict(other);
	ageing_flush_async(t.v.fs, &last.w);
	assert_false(last.done);
	tiered_reopen(&t, false);
	assert_true(last.done);
	assert_int_equal(last.result, -ESHUTDOWN);
	simobject_clear(t.so);
}

/* ---- status ---- */

static json_t *tier_status(json_t **ret_root)
{
	struct buf text = {0};

	fs_status_json(t.v.fs, &text);
	*ret_root = json_loadb((const char *)text.p, text.len, 0, NULL);
	assert_non_null(*ret_root);
	buf_free(&text);
	return json_object_get(*ret_root, "tier");
}

static int64_t number_of(const json_t *o, const char *key)
{
	const json_t *n = json_object_get(o, key);

	assert_true(json_is_number(n));
	return (int64_t)json_number_value(n);
}

static void status_tells_stores_objects_and_work(void **state)
{
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", MIB, 1), gone = file_of(t.v.fs, t.v.dir, "g", MIB, 1);
	json_t *root_object, *tier;

	(void)state;
	evict(ino);
	evict(gone);
	step();
	assert_int_equal(fs_unlink(t.v.fs, &root, t.v.dir, "g"), 0);
	steps_reap(t.v.fs);
	expect_content(t.v.fs, ino, MIB, 1);
	tier = tier_status(&root_object);
	const json_t *s = json_object_get(json_object_get(tier, "stores"), "s");
	assert_true(strstr(json_string_value(json_object_get(s, "definition")), "file:///cold"));
	assert_string_equal(json_string_value(json_object_get(s, "breaker")), "closed");
	assert_string_equal(json_string_value(json_object_get(s, "message")), "");
	assert_int_equal(number_of(s, "objects"), 1);
	assert_int_equal(number_of(s, "live_bytes"), MIB);
	assert_int_equal(number_of(s, "file_bytes"), 2 * MIB);
	assert_true(number_of(s, "stored_bytes") > (int64_t)(2 * MIB));
	assert_int_equal(number_of(json_object_get(s, "requests"), "put"),
			 1); /* of the guard: what was asked since it was opened */
	assert_true(number_of(json_object_get(s, "requests"), "get") >= 1);
	assert_true(number_of(s, "written_bytes") > (int64_t)(2 * MIB));
	assert_true(number_of(json_object_get(s, "month"), "requests") >= 2);
	assert_true(json_is_number(json_object_get(s, "cost_month")));
	const json_t *ageing = json_object_get(tier, "ageing");
	assert_int_equal(number_of(ageing, "aged_files"), 2);
	assert_int_equal(number_of(ageing, "aged_bytes"), 2 * MIB);
	assert_true(number_of(ageing, "last_success_ns") > 0);
	assert_string_equal(json_string_value(json_object_get(ageing, "paused")), "");
	assert_true(number_of(json_object_get(tier, "recall"), "fetched_bytes") > 0);
	assert_int_equal(number_of(json_object_get(tier, "objects"), "objects"), 1);
	json_decref(root_object);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(an_evicted_file_is_in_an_object_and_reads_as_before, make, drop),
	    cmocka_unit_test_setup_teardown(a_thousand_small_files_are_in_a_few_objects, make, drop),
	    cmocka_unit_test_setup_teardown(a_file_larger_than_an_object_is_in_several, make, drop),
	    cmocka_unit_test_setup_teardown(holes_and_promised_space_are_not_packed, make, drop),
	    cmocka_unit_test_setup_teardown(what_changed_since_goes_out_again, make, drop),
	    cmocka_unit_test_setup_teardown(a_tiered_file_is_only_dropped, make, drop),
	    cmocka_unit_test_setup_teardown(evict_refuses_what_cannot_go, make, drop),
	    cmocka_unit_test_setup_teardown(a_full_queue_says_so_and_has_room_again, make, drop),
	    cmocka_unit_test_setup_teardown(a_file_changed_on_its_way_is_not_placed, make, drop),
	    cmocka_unit_test_setup_teardown(a_file_renamed_on_its_way_is_placed, make, drop),
	    cmocka_unit_test_setup_teardown(a_file_asked_for_on_its_way_goes_once_more, make, drop),
	    cmocka_unit_test_setup_teardown(a_flush_waits_for_what_was_asked_before_and_for_nothing_else, make, drop),
	    cmocka_unit_test_setup_teardown(status_tells_stores_objects_and_work, make, drop),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
