/*
 * test_ageing.c: cold files on their way out (fs/core/tier/ageing*.c): what goes, in which objects, and what every failure
 * leaves.
 *
 * Steps, not threads: each case is the same each time.  After whatever happened every file reads as it was written, the volume
 * has no findings, and once gc ran the store has exactly the objects that rows name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <jansson.h>
#include <linux/falloc.h>

#include "base/log.h"
#include "tests/unit/tier_volume.h"

static struct tiered t;

static int make(void **state)
{
	(void)state;
	tiered_open(&t);
	return 0;
}

static int drop(void **state)
{
	(void)state;
	tiered_close(&t);
	return 0;
}

static void evict(uint64_t ino)
{
	assert_int_equal(ageing_evict(t.v.fs, ino), 0);
}

static void step(void)
{
	assert_int_equal(ageing_step(t.v.fs), 0);
}

static struct ageing_status status(void)
{
	struct ageing_status s;

	ageing_get_status(t.v.fs, &s);
	return s;
}

static struct gc_result gc(bool dry)
{
	struct gc_result res;

	assert_int_equal(gc_run(t.v.fs, "s", dry, ignore_line, NULL, &res), 0);
	return res;
}

static uint64_t n_rows(void)
{
	struct objects_sum sum;

	assert_int_equal(objects_sum(t.v.fs, 0, &sum), 0);
	return sum.n_objects;
}

static void set_policy(uint64_t ino, const char *key, const char *value)
{
	assert_int_equal(fs_set_policy(t.v.fs, &root, ino, key, value), 0);
}

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
		for (bool more = true; more;)
			assert_int_equal(fs_reap_step(t.v.fs, &more), 0);
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

/* ---- failures ---- */

#define N_FILES 5u
static const size_t sizes[N_FILES] = {10 * KIB, 9 * MIB, 200 * KIB, 1, 70 * KIB};

static void make_files(uint64_t ino[N_FILES])
{
	char name[16];

	for (unsigned i = 0; i < N_FILES; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		ino[i] = file_of(t.v.fs, t.v.dir, name, sizes[i], i);
	}
}

static void expect_files(const uint64_t ino[N_FILES])
{
	for (unsigned i = 0; i < N_FILES; i++)
		expect_content(t.v.fs, ino[i], sizes[i], i);
}

static void evict_files(const uint64_t ino[N_FILES])
{
	for (unsigned i = 0; i < N_FILES; i++)
		evict(ino[i]);
}

/* Once gc ran, what is in the store is what rows name, each object whole. */
static void expect_no_leak(void)
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
static bool fail_once(uint64_t n, enum simobject_how how, int error)
{
	uint64_t before = simobject_faults(t.so);

	simobject_fault(t.so, OBJECT_KINDS, simobject_calls(t.so, OBJECT_KINDS) + n, 1, how, error);
	int r = ageing_step(t.v.fs);
	bool met = simobject_faults(t.so) > before;
	simobject_clear(t.so);
	assert_true(r == 0 || met);
	return met;
}

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
	for (bool more = true; more;)
		assert_int_equal(fs_reap_step(t.v.fs, &more), 0);
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
	for (bool more = true; more;)
		assert_int_equal(fs_reap_step(t.v.fs, &more), 0);
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
	for (bool more = true; more;)
		assert_int_equal(fs_reap_step(t.v.fs, &more), 0);
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
	log_setup(LOG_LEVEL_ERROR, false);
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
	    cmocka_unit_test(nothing_is_lost_whatever_call_fails),
	    cmocka_unit_test(nothing_is_lost_at_a_store_without_conditions),
	    cmocka_unit_test(nothing_is_lost_at_a_store_that_is_read_back),
	    cmocka_unit_test(a_lying_store_is_found_out_by_reading_back),
	    cmocka_unit_test_setup_teardown(an_object_of_that_number_is_left_alone, make, drop),
	    cmocka_unit_test_setup_teardown(a_failed_store_is_said_and_left_alone_for_a_while, make, drop),
	    cmocka_unit_test_setup_teardown(a_store_that_is_gone_or_unknown_keeps_nobody_from_the_data, make, drop),
	    cmocka_unit_test_setup_teardown(a_flush_waits_for_what_was_asked_before_and_for_nothing_else, make, drop),
	    cmocka_unit_test_setup_teardown(status_tells_stores_objects_and_work, make, drop),
	    cmocka_unit_test_setup_teardown(the_scan_finds_what_its_policy_calls_cold, make, drop),
	    cmocka_unit_test_setup_teardown(without_a_policy_there_is_no_scan, make, drop),
	    cmocka_unit_test_setup_teardown(a_clock_that_jumps_is_believed_after_a_day, make, drop),
	    cmocka_unit_test_setup_teardown(above_the_high_water_mark_the_coldest_go_first, make, drop),
	    cmocka_unit_test_setup_teardown(objects_under_half_live_are_packed_again_and_leave_after_their_grace_time, make,
					    drop),
	    cmocka_unit_test(nothing_is_lost_whatever_call_of_packing_again_fails),
	    cmocka_unit_test_setup_teardown(an_object_that_is_gone_already_is_forgotten, make, drop),
	    cmocka_unit_test_setup_teardown(gc_finds_exactly_the_orphans, make, drop),
	    cmocka_unit_test_setup_teardown(gc_names_objects_that_are_missing, make, drop),
	    cmocka_unit_test_setup_teardown(gc_of_many_objects_sees_each_once, make, drop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
