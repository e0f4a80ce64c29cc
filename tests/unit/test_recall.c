/*
 * test_recall.c: what a touch of a cold file brings back, how many requests that takes, and what is said when it cannot.
 *
 * Without threads: a recall is over when the call that asks for it returns, and a store that fails is asked once.  What threads
 * add is in test_recall_threads.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/recall_case.h"

/* ---- reading ---- */

static void data_comes_back_as_it_was(void **state)
{
	static const size_t len[] = {1, 4095, 4096, 4097, 65535, 65536, 65537, 3 * 65536 + 5, MIB + 12345};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(len); i++) {
		char name[16];

		snprintf(name, sizeof(name), "f%zu", i);
		uint64_t ino = make_cold(&w, w.v.dir, name, len[i]);
		assert_int_equal(read_whole(&w, ino, len[i], MIB), 0);
		assert_int_equal(cold_blocks(&w, ino), div_round_up(len[i], BLOCK_SIZE)); /* nobody keeps it without threads */
	}
}

static void every_stretch_of_a_file_reads_right(void **state)
{
	const size_t len = 5 * LEAF_SIZE + 100;
	struct rng g = {.state = 11};

	(void)state;
	uint64_t ino = make_cold(&w, w.v.dir, "f", len);
	for (unsigned i = 0; i < 200; i++) {
		uint64_t off = rng_below(&g, len);
		size_t n = 1 + (size_t)rng_below(&g, len - off);

		if (i % 10 == 0)
			world_reopen(&w); /* and memory is empty again */
		assert_int_equal(read_part(&w, ino, off, n), 0);
	}
}

static void one_read_takes_one_request(void **state)
{
	uint64_t ino = make_cold(&w, w.v.dir, "f", 3 * MIB);

	(void)state;
	uint64_t before = gets(&w);
	assert_int_equal(read_part(&w, ino, 0, MIB), 0);
	assert_int_equal(gets(&w), before + 2); /* the mark of the store, and sixteen frames */
	assert_int_equal(read_part(&w, ino, MIB, MIB), 0);
	assert_int_equal(gets(&w), before + 3);
	assert_int_equal(read_part(&w, ino, 0, 2 * MIB), 0);
	assert_int_equal(gets(&w), before + 3);
}

enum { SMALL_FILES = 600, SMALL_LEN = 10 * 1024 };

/* `n` files, tiered together. */
static void make_packed_files(uint64_t *ino, unsigned n, size_t len)
{
	struct packing p;

	for (unsigned i = 0; i < n; i++) {
		char name[16];

		snprintf(name, sizeof(name), "f%u", i);
		ino[i] = make_file(&w, w.v.dir, name, len);
	}
	home_all(&w);
	pack_begin(&w, &p);
	for (unsigned i = 0; i < n; i++)
		pack_file(&w, &p, ino[i]);
	pack_end(&w, &p);
}

static void small_files_lie_beside_others(void **state)
{
	uint64_t ino[SMALL_FILES];

	(void)state;
	make_packed_files(ino, SMALL_FILES, SMALL_LEN);
	uint64_t before = gets(&w);
	for (unsigned i = 0; i < SMALL_FILES; i++)
		assert_int_equal(read_part(&w, ino[i], 0, SMALL_LEN), 0);
	assert_in_range(gets(&w) - before, 1, 16); /* 7 MiB in windows of 256 KiB and 1 MiB */
}

static void small_files_are_made_local_by_few_requests(void **state)
{
	uint64_t ino[SMALL_FILES], kept;

	(void)state;
	make_packed_files(ino, SMALL_FILES, SMALL_LEN);
	uint64_t before = gets(&w);
	for (unsigned i = 0; i < SMALL_FILES; i++) {
		assert_int_equal(recall_file(w.v.fs, ino[i], &kept), 0);
		assert_int_equal(kept, div_round_up(SMALL_LEN, BLOCK_SIZE));
	}
	assert_in_range(gets(&w) - before, 1, 16);
	assert_int_equal(status_of(&w).blocks_kept, SMALL_FILES * div_round_up(SMALL_LEN, BLOCK_SIZE));
}

/* Every seventh of many, so that what lies beside is not read: the window closes. */
static void what_lies_beside_and_is_not_read_is_not_got(void **state)
{
	enum { FILES = 700, LEN = 12 * 1024 };
	uint64_t ino[FILES];

	(void)state;
	make_packed_files(ino, FILES, LEN);
	for (unsigned i = FILES; i >= 40; i -= 33) /* backwards */
		assert_int_equal(read_part(&w, ino[i - 33], 0, LEN), 0);
	assert_in_range(status_of(&w).bytes_fetched, 20 * LEN, 20 * LEN + 8 * 256 * 1024);
}

static void a_write_recalls_only_what_it_needs(void **state)
{
	uint64_t ino = make_cold(&w, w.v.dir, "f", 4 * MIB);
	uint8_t byte[LEAF_SIZE] = {7};
	int r;

	(void)state;
	uint64_t before = gets(&w);
	assert_int_equal(fs_write(w.v.fs, &root, ino, MIB, LEAF_SIZE, byte, false), 0); /* whole blocks */
	assert_int_equal(gets(&w), before);
	assert_int_equal(fs_write(w.v.fs, &root, ino, 100, 1, byte, false), -EINPROGRESS);
	while ((r = fs_write(w.v.fs, &root, ino, 100, 1, byte, false)) == -EINPROGRESS)
		assert_int_equal(fs_recall(w.v.fs), 0);
	assert_int_equal(r, 0);
	assert_in_range(status_of(&w).bytes_fetched, 1, LEAF_SIZE + 100);
	assert_int_equal(read_part(&w, ino, 0, 100), 0);
	assert_int_equal(read_part(&w, ino, 101, MIB - 101), 0);
	assert_int_equal(read_part(&w, ino, MIB + LEAF_SIZE, 1000), 0);
}

static void names_and_lengths_change_without_a_request(void **state)
{
	uint64_t ino = make_cold(&w, w.v.dir, "f", 4 * LEAF_SIZE);
	const struct record_attr half = {.mask = ATTR_SIZE, .size = 2 * LEAF_SIZE};
	struct fs_attr a;

	(void)state;
	uint64_t before = simobject_calls(w.so, OBJECT_KINDS);
	assert_int_equal(fs_rename(w.v.fs, &root, w.v.dir, "f", FS_ROOT_INO, "g", 0), 0);
	assert_int_equal(fs_setattr(w.v.fs, &root, ino, &half, &a), 0);
	assert_int_equal(fs_unlink(w.v.fs, &root, FS_ROOT_INO, "g"), 0);
	fs_forget(w.v.fs, ino, 1);
	steps_reap(w.v.fs);
	assert_int_equal(simobject_calls(w.so, OBJECT_KINDS), before);
}

/* ---- policies ---- */

static void deny_refuses_before_any_request(void **state)
{
	uint64_t ino = make_cold(&w, w.v.dir, "f", LEAF_SIZE);

	(void)state;
	assert_int_equal(fs_set_policy(w.v.fs, &root, w.v.dir, "recall", "deny"), 0);
	uint64_t before = simobject_calls(w.so, OBJECT_KINDS);
	assert_int_equal(read_part(&w, ino, 0, 100), -EACCES);
	assert_int_equal(simobject_calls(w.so, OBJECT_KINDS), before);
	assert_int_equal(status_of(&w).denied, 1);
	assert_int_equal(fs_set_policy(w.v.fs, &root, ino, "recall", "stream"), 0);
	assert_int_equal(read_part(&w, ino, 0, 100), 0);
}

/* ---- what goes wrong ---- */

static void a_store_that_fails_is_an_error_that_names_it(void **state)
{
	static const int error[] = {-EIO, -EACCES, -ETIMEDOUT, -ECONNREFUSED, -EBUSY, -ENODEV};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(error); i++) {
		uint64_t ino = make_cold(&w, w.v.dir, (const char[]){(char)('a' + i), 0}, LEAF_SIZE),
			 failures = status_of(&w).failures;

		simobject_fault(w.so, OBJECT_GET, 1, UINT64_MAX, SIMOBJECT_FAIL, error[i]);
		assert_int_equal(read_part(&w, ino, 0, 1), -EIO);
		assert_non_null(strstr(status_of(&w).last_message, "store s"));
		assert_int_equal(status_of(&w).failures, failures + 1);
		simobject_clear(w.so);
		pass_ns(2 * NSEC_PER_SEC);
		assert_int_equal(read_part(&w, ino, 0, 1), 0);
	}
}

static void an_object_that_is_missing_is_damage_and_no_empty_file(void **state)
{
	char key[OBJECT_NAME_MAX];
	uint64_t ino = make_cold(&w, w.v.dir, "f", 2 * LEAF_SIZE), before = w.v.fs->damaged_reads;

	(void)state;
	object_name(object_of(&w, ino, 0).id, key);
	simobject_erase(w.so, "s", key);
	assert_int_equal(read_part(&w, ino, 0, 100), -EIO);
	assert_true(w.v.fs->damaged_reads > before);
	assert_non_null(strstr(w.v.fs->damage, "/sub/f"));
}

static void a_damaged_frame_is_an_error_of_its_leaf_alone(void **state)
{
	enum { LEAVES = 6 };
	uint64_t ino = make_cold(&w, w.v.dir, "f", LEAVES * LEAF_SIZE);
	char key[OBJECT_NAME_MAX];
	struct rng g = {.state = 5};

	(void)state;
	struct leaf_object at = object_of(&w, ino, 2);
	object_name(at.id, key);
	for (unsigned i = 0; i < 40; i++) {
		uint64_t off = at.offset + rng_below(&g, at.len), before = w.v.fs->damaged_reads;

		simobject_corrupt(w.so, "s", key, off);
		world_reopen(&w);
		for (unsigned leaf = 0; leaf < LEAVES; leaf++)
			assert_int_equal(read_part(&w, ino, leaf * LEAF_SIZE, 10), leaf == 2 ? -EIO : 0);
		assert_int_equal(read_part(&w, ino, 0, LEAVES * LEAF_SIZE), -EIO);
		assert_true(w.v.fs->damaged_reads > before || i > 0);
		simobject_corrupt(w.so, "s", key, off); /* as it was */
	}
	world_reopen(&w);
	assert_int_equal(read_part(&w, ino, 0, LEAVES * LEAF_SIZE), 0);
}

static void another_frame_in_its_place_is_damage(void **state)
{
	uint64_t a = make_cold(&w, w.v.dir, "a", LEAF_SIZE), b = make_cold(&w, w.v.dir, "b", LEAF_SIZE);
	char key_a[OBJECT_NAME_MAX], key_b[OBJECT_NAME_MAX];
	uint8_t *p = malloc(MIB);

	(void)state;
	object_name(object_of(&w, a, 0).id, key_a);
	object_name(object_of(&w, b, 0).id, key_b);
	int64_t n = simobject_peek(w.so, "s", key_b, p, MIB);
	assert_true(n > 0);
	simobject_plant(w.so, "s", key_a, p, (size_t)n, 1);
	assert_int_equal(read_part(&w, a, 0, 10), -EIO);
	assert_int_equal(read_part(&w, b, 0, 10), 0);
	free(p);
}

static void an_object_that_is_shorter_than_it_was_is_damage(void **state)
{
	uint64_t ino = make_cold(&w, w.v.dir, "f", 4 * LEAF_SIZE);
	char key[OBJECT_NAME_MAX];
	uint8_t *p = malloc(MIB);

	(void)state;
	struct leaf_object last = object_of(&w, ino, 3);
	object_name(last.id, key);
	int64_t n = simobject_peek(w.so, "s", key, p, MIB);
	simobject_plant(w.so, "s", key, p, last.offset + 10, 1);
	assert_true(n > last.offset + 10);
	assert_int_equal(read_part(&w, ino, 0, 3 * LEAF_SIZE), 0);
	assert_int_equal(read_part(&w, ino, 0, 4 * LEAF_SIZE), -EIO);
	free(p);
}

static void what_is_damaged_on_its_way_is_got_again(void **state)
{
	uint64_t ino = make_cold(&w, w.v.dir, "f", 4 * LEAF_SIZE);

	(void)state;
	assert_int_equal(read_part(&w, ino, 0, 1), 0);
	for (unsigned n = 1; n <= 2; n++) {
		uint64_t before = w.v.fs->damaged_reads;

		simobject_fault(w.so, OBJECT_GET, gets(&w) + 1, n, SIMOBJECT_CORRUPT, 0);
		assert_int_equal(read_part(&w, ino, n * LEAF_SIZE, 10), 0);
		assert_int_equal(w.v.fs->damaged_reads, before);
		simobject_clear(w.so);
	}
}

/* While its data was on its way the file was changed. */
static uint64_t changed_ino;
static void change_file(void *ctx, enum object_kind kind, const char *key)
{
	(void)ctx;
	if (kind != OBJECT_GET || strcmp(key, "clawfs.volume") == 0 || !changed_ino)
		return;
	uint64_t ino = changed_ino;

	changed_ino = 0;
	write_file(&w, ino, 4711, 2 * LEAF_SIZE);
}

static void a_file_that_is_written_meanwhile_reads_as_written(void **state)
{
	(void)state;
	for (unsigned missing = 0; missing < 2; missing++) {
		uint64_t ino = make_cold(&w, w.v.dir, missing ? "f" : "g", 2 * LEAF_SIZE);
		char key[OBJECT_NAME_MAX];

		object_name(object_of(&w, ino, 0).id, key);
		if (missing) /* nobody needs it any more by the time that it is found missing */
			simobject_erase(w.so, "s", key);
		changed_ino = ino;
		simobject_on_call(w.so, change_file, NULL);
		assert_int_equal(read_seed(w.v.fs, ino, 4711, 0, 2 * LEAF_SIZE), 0);
		assert_int_equal(w.v.fs->damaged_reads, 0);
		simobject_on_call(w.so, NULL, NULL);
	}
}

static void without_a_way_to_open_stores_it_is_an_error(void **state)
{
	uint64_t ino = make_cold(&w, w.v.dir, "f", LEAF_SIZE);

	(void)state;
	w.v.config.object_store_open = NULL;
	world_reopen(&w);
	assert_int_equal(read_part(&w, ino, 0, 1), -EIO);
	w.v.config.object_store_open = simobject_hook;
	world_reopen(&w);
	assert_int_equal(read_part(&w, ino, 0, 1), 0);
}

static void a_store_that_is_not_defined_is_an_error(void **state)
{
	uint64_t ino = make_cold(&w, w.v.dir, "f", LEAF_SIZE);

	(void)state;
	assert_int_equal(fs_set_policy(w.v.fs, &root, FS_ROOT_INO, "tier.store.s", NULL), 0);
	assert_int_equal(read_part(&w, ino, 0, 1), -EIO);
	world_define(&w, STORE_TEXT);
	assert_int_equal(read_part(&w, ino, 0, 1), 0);
}

/* ---- whole files and objects ---- */

static void a_file_is_made_local(void **state)
{
	const size_t len = 40 * LEAF_SIZE + 777;
	uint64_t ino = make_cold(&w, w.v.dir, "f", len), kept = 0;

	(void)state;
	assert_int_equal(fs_set_policy(w.v.fs, &root, w.v.dir, "recall", "deny"), 0); /* whatever its policy */
	assert_int_equal(recall_file(w.v.fs, ino, &kept), 0);
	assert_int_equal(kept, div_round_up(len, BLOCK_SIZE));
	assert_int_equal(cold_blocks(&w, ino), 0);
	uint64_t before = gets(&w);
	assert_int_equal(recall_file(w.v.fs, ino, &kept), 0);
	assert_int_equal(kept, 0);
	assert_int_equal(read_whole(&w, ino, len, MIB), 0);
	assert_int_equal(gets(&w), before);
	world_reopen(&w);
	assert_int_equal(read_whole(&w, ino, len, MIB), 0);
	assert_int_equal(cold_blocks(&w, ino), 0);
	assert_in_range(before, 1, 45);
}

static void a_file_that_cannot_be_got_stays_as_it_is(void **state)
{
	uint64_t ino = make_cold(&w, w.v.dir, "f", 20 * LEAF_SIZE), kept = 99;

	(void)state;
	simobject_fault(w.so, OBJECT_GET, 1, UINT64_MAX, SIMOBJECT_FAIL, -EIO);
	assert_int_equal(recall_file(w.v.fs, ino, &kept), -EIO);
	assert_int_equal(cold_blocks(&w, ino), 20 * LEAF_SLOTS);
	simobject_clear(w.so);
	pass_ns(2 * NSEC_PER_SEC);
	assert_int_equal(recall_file(w.v.fs, ino, &kept), 0);
	assert_int_equal(cold_blocks(&w, ino), 0);
}

struct seen {
	uint64_t ino, leaf;
	unsigned n, stop_at;
};

static int see(void *ctx, const struct pack_frame *f, uint32_t offset, const uint8_t *blocks)
{
	struct seen *s = ctx;
	uint8_t *want = malloc(LEAF_SIZE);

	assert_int_equal(f->ino, s->ino);
	assert_int_equal(f->leaf, s->leaf++);
	assert_int_equal(offset, object_of(&w, f->ino, f->leaf).offset);
	content(f->ino, f->leaf * LEAF_SIZE, want, LEAF_SIZE);
	assert_memory_equal(blocks, want, LEAF_SIZE);
	free(want);
	return ++s->n == s->stop_at ? -ECANCELED : 0;
}

static void an_object_is_read_frame_by_frame(void **state)
{
	enum { LEAVES = 70 }; /* several ranges */
	uint64_t ino = make_cold(&w, w.v.dir, "f", LEAVES * LEAF_SIZE);
	struct seen all = {.ino = ino}, some = {.ino = ino, .stop_at = 5};

	(void)state;
	uint64_t object = object_of(&w, ino, 0).id;
	assert_int_equal(recall_object(w.v.fs, object, see, &all), 0);
	assert_int_equal(all.n, LEAVES);
	assert_int_equal(recall_object(w.v.fs, object, see, &some), -ECANCELED);
	assert_int_equal(some.n, 5);
	assert_int_equal(recall_object(w.v.fs, 12345, see, &all), -ENOENT);
}

static int count_frames(void *ctx, const struct pack_frame *f, uint32_t offset, const uint8_t *blocks)
{
	(void)f;
	(void)offset;
	(void)blocks;
	++*(unsigned *)ctx;
	return 0;
}

static void a_damaged_frame_of_an_object_is_passed_over(void **state)
{
	uint64_t ino = make_cold(&w, w.v.dir, "f", 30 * LEAF_SIZE);
	struct leaf_object at = object_of(&w, ino, 17);
	char key[OBJECT_NAME_MAX];
	unsigned n = 0;

	(void)state;
	object_name(at.id, key);
	simobject_corrupt(w.so, "s", key, at.offset + PACK_FRAME_HEADER_BYTES + 100);
	assert_int_equal(recall_object(w.v.fs, at.id, count_frames, &n), 0);
	assert_int_equal(n, 29);
	simobject_corrupt(w.so, "s", key, at.offset + 20); /* where the next one begins is not known any more */
	n = 0;
	assert_int_equal(recall_object(w.v.fs, at.id, count_frames, &n), -EUCLEAN);
	assert_int_equal(n, 17);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(data_comes_back_as_it_was),
	    CASE(every_stretch_of_a_file_reads_right),
	    CASE(one_read_takes_one_request),
	    CASE(small_files_lie_beside_others),
	    CASE(small_files_are_made_local_by_few_requests),
	    CASE(what_lies_beside_and_is_not_read_is_not_got),
	    CASE(a_write_recalls_only_what_it_needs),
	    CASE(names_and_lengths_change_without_a_request),
	    CASE(deny_refuses_before_any_request),
	    CASE(a_store_that_fails_is_an_error_that_names_it),
	    CASE(an_object_that_is_missing_is_damage_and_no_empty_file),
	    CASE(a_damaged_frame_is_an_error_of_its_leaf_alone),
	    CASE(another_frame_in_its_place_is_damage),
	    CASE(an_object_that_is_shorter_than_it_was_is_damage),
	    CASE(what_is_damaged_on_its_way_is_got_again),
	    CASE(a_file_that_is_written_meanwhile_reads_as_written),
	    CASE(without_a_way_to_open_stores_it_is_an_error),
	    CASE(a_store_that_is_not_defined_is_an_error),
	    CASE(a_file_is_made_local),
	    CASE(a_file_that_cannot_be_got_stays_as_it_is),
	    CASE(an_object_is_read_frame_by_frame),
	    CASE(a_damaged_frame_of_an_object_is_passed_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
