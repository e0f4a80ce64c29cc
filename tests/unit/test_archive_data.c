/*
 * test_archive_data.c: data that lies elsewhere when it is archived: in an object store, in batches larger than a segment, or
 * nowhere any more.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "fs/core/archive/restore.h"
#include "tests/unit/archive_case.h"

static struct tiered t;

static int make(void **state)
{
	(void)state;
	tiered_open(&t);
	assert_int_equal(fs_archive_set(t.v.fs, &root, "store=s interval=5s"), 0);
	archive_rounds(t.v.fs);
	return 0;
}

static int drop(void **state)
{
	(void)state;
	tiered_close(&t);
	return 0;
}

struct copy {
	struct volume v;
	struct restore_result res;
	char message[400];
};

static int restore_to(uint64_t seq, struct copy *c)
{
	const struct restore_target target = {.by = seq ? RESTORE_SEQ : RESTORE_LATEST, .seq = seq};
	const struct fs_format_options o = {
	    .journal = {.n_segments = 16, .segment_blocks = 512}, .chunk_bytes = 16 * MIB, .follower = true};
	struct archive_place p = {.store = simobject_open(t.so, "s")};
	struct archive_manifest m = {0};
	struct pack_volume_key key;

	memcpy(p.volume, t.v.fs->super.volume, sizeof(p.volume));
	assert_int_equal(stores_key(t.v.fs, &key), 0);
	p.key = &key;
	*c = (struct copy){.v = {.sim = simstore_new(), .config = t.v.config}};
	c->v.index = kv_disk_new(c->v.sim);
	c->v.config.kv_ctx = c->v.index;
	c->v.config.store = simstore_open(c->v.sim);
	c->v.config.object_store_open = NULL; /* nothing but the archive is there */
	assert_int_equal(fs_format(&c->v.config, &o), 0);
	assert_int_equal(fs_open(&c->v.config, &c->v.fs), 0);
	assert_int_equal(manifest_read(&p, &m), 0);
	assert_int_equal(manifest_follow_heads(&p, &m), 0);
	int r = restore_run(c->v.fs, &p, &m, &target, NULL, NULL, &c->res);
	snprintf(c->message, sizeof(c->message), "%s", p.message);
	manifest_free(&m);
	object_store_close(p.store);
	return r;
}

static void restored(uint64_t seq, struct copy *c)
{
	int r = restore_to(seq, c);

	if (r < 0)
		fail_msg("%s: %s", strerror(-r), c->message);
}

static void copy_close(struct copy *c)
{
	expect_sound(c->v.fs);
	volume_close(&c->v);
}

static uint64_t find(struct fs *fs, const char *name)
{
	struct fs_attr dir, file;

	assert_int_equal(fs_lookup(fs, FS_ROOT_INO, "sub", &dir), 0);
	assert_int_equal(fs_lookup(fs, dir.ino, name, &file), 0);
	fs_forget(fs, dir.ino, 1);
	fs_forget(fs, file.ino, 1);
	return file.ino;
}

static void evict(uint64_t ino)
{
	assert_int_equal(ageing_evict(t.v.fs, ino), 0);
	assert_int_equal(ageing_step(t.v.fs), 0);
	assert_true(is_cold(t.v.fs, ino));
}

static uint64_t durable(void)
{
	struct journal_status js;

	assert_int_equal(fs_sync(t.v.fs), 0);
	journal_get_status(t.v.fs->journal, &js);
	return js.durable_seq;
}

static void cold_data_is_in_the_base_and_hot_in_the_copy(void **state)
{
	uint64_t a = file_of(t.v.fs, t.v.dir, "a", 300 * KIB + 5, 1), b = file_of(t.v.fs, t.v.dir, "b", 2 * MIB, 2);
	struct objects_sum sum;
	struct copy c;
	char value[FS_POLICY_MAX + 1];

	(void)state;
	evict(a);
	evict(b);
	archive_new_base(t.v.fs);
	assert_true(is_cold(t.v.fs, a) && is_cold(t.v.fs, b)); /* reading it kept nothing */
	restored(0, &c);
	assert_int_equal(c.res.unreachable, 0);
	assert_true(is_hot(c.v.fs, find(c.v.fs, "a")) && is_hot(c.v.fs, find(c.v.fs, "b")));
	expect_content(c.v.fs, find(c.v.fs, "a"), 300 * KIB + 5, 1);
	expect_content(c.v.fs, find(c.v.fs, "b"), 2 * MIB, 2);
	assert_int_equal(objects_sum(c.v.fs, 0, &sum), 0);
	assert_int_equal(sum.n_objects, 0);
	assert_int_equal(fs_get_policy(c.v.fs, FS_ROOT_INO, "tier.store.s", false, value), -ENODATA);
	assert_int_equal(fs_get_policy(c.v.fs, FS_ROOT_INO, "archive", false, value), -ENODATA);
	assert_memory_not_equal(c.v.fs->super.volume, t.v.fs->super.volume, 16);
	copy_close(&c);
}

/* Aged out, evicted, written and packed again between bases: all of it comes with the batches. */
static void what_ages_out_after_the_base_is_whole_at_each_batch(void **state)
{
	uint64_t a = file_of(t.v.fs, t.v.dir, "a", MIB, 1);
	uint64_t first = durable(), last;
	struct copy c;

	(void)state;
	archive_rounds(t.v.fs);
	evict(a);
	archive_rounds(t.v.fs);
	write_content(t.v.fs, a, 0, MIB, 7);
	last = durable();
	evict(a);
	archive_rounds(t.v.fs);
	restored(first, &c);
	expect_content(c.v.fs, find(c.v.fs, "a"), MIB, 1);
	copy_close(&c);
	restored(last, &c);
	expect_content(c.v.fs, find(c.v.fs, "a"), MIB, 7);
	copy_close(&c);
	restored(0, &c);
	assert_int_equal(c.res.unreachable, 0);
	copy_close(&c);
}

/* A store of a tier that lost an object: the base waits for it, and in the end is made without. */
static void cold_data_that_no_store_gives_does_not_end_the_archive(void **state)
{
	uint64_t a = file_of(t.v.fs, t.v.dir, "a", 300 * KIB, 1), b = file_of(t.v.fs, t.v.dir, "b", 300 * KIB, 2);
	struct simobject_entry e;
	struct copy c;
	bool more;

	(void)state;
	evict(a);
	for (uint64_t i = 0; simobject_entry(t.so, i, &e); i++)
		if (strncmp(e.key, "packs/", 6) == 0)
			simobject_erase(t.so, e.store, e.key);
	t.v.fs->archiver->since_base = UINT64_MAX / 2;
	unsigned failed = 0;
	for (unsigned i = 0; i < 20; i++) {
		failed += archiver_step(t.v.fs, true, &more) < 0;
		pass(61 * NSEC_PER_SEC);
	}
	assert_int_equal(failed, 3);
	assert_int_equal(t.v.fs->archiver->v.bases, 2);
	assert_true(t.v.fs->archiver->v.lost > 0);
	restored(0, &c);
	assert_int_equal(c.res.unreachable, 75);
	assert_int_equal(read_error(c.v.fs, find(c.v.fs, "a"), 300 * KIB, 1), -EIO);
	expect_content(c.v.fs, find(c.v.fs, "b"), 300 * KIB, 2);
	(void)b;
	volume_close(&c.v);
}

static uint64_t n_parts(void)
{
	struct simobject_entry e;
	uint64_t n = 0;

	for (uint64_t i = 0; simobject_entry(t.so, i, &e); i++)
		n += strstr(e.key, "/s/") && strcmp(e.key + strlen(e.key) - 4, "0000") != 0;
	return n;
}

/* One batch with more data than fits: and the leader dies after each of its parts. */
static void a_batch_larger_than_a_segment_goes_on_in_the_next(void **state)
{
	struct copy c;

	(void)state;
	for (uint64_t at = 0; at < 6; at++) {
		char name[16];
		bool more;

		snprintf(name, sizeof(name), "big%d", (int)at);
		uint64_t ino = make_file(t.v.fs, t.v.dir, name), parts = n_parts();
		archive_rounds(t.v.fs);
		write_content(t.v.fs, ino, 0, 24 * MIB, at);
		durable();
		simobject_fault(t.so, OBJECT_PUT, simobject_calls(t.so, OBJECT_PUT) + 1 + at, UINT64_MAX, SIMOBJECT_FAIL,
				-ENOSPC);
		int r = 0;
		for (more = true; more && r == 0;)
			r = archiver_step(t.v.fs, true, &more);
		assert_true(r < 0 || at > 2);
		simobject_clear(t.so);
		tiered_reopen(&t, true);
		archive_rounds(t.v.fs);
		assert_true(n_parts() > parts);
		restored(0, &c);
		expect_content(c.v.fs, find(c.v.fs, name), 24 * MIB, at);
		copy_close(&c);
		assert_int_equal(fs_unlink(t.v.fs, &root, t.v.dir, name), 0);
		steps_reap(t.v.fs);
		archive_rounds(t.v.fs);
		assert_int_equal(fs_checkpoint(t.v.fs), 0);
	}
}

/* Data that went, and whose blocks others have by now, before it was archived. */
static void states_whose_data_went_are_passed_over(void **state)
{
	uint64_t keep = file_of(t.v.fs, t.v.dir, "keep", 100, 3), before = durable();
	struct copy c;

	(void)state;
	archive_rounds(t.v.fs);
	uint64_t gone = file_of(t.v.fs, t.v.dir, "gone", MIB, 1), with = durable();
	(void)keep;
	assert_int_equal(fs_unlink(t.v.fs, &root, t.v.dir, "gone"), 0);
	steps_reap(t.v.fs);
	(void)gone;
	assert_int_equal(fs_checkpoint(t.v.fs), 0);
	for (unsigned i = 0; i < 12; i++) {
		char name[16];

		snprintf(name, sizeof(name), "f%u", i);
		file_of(t.v.fs, t.v.dir, name, MIB, 50 + i);
	}
	uint64_t after = durable();
	archive_rounds(t.v.fs);
	restored(with, &c);
	assert_int_equal(c.res.seq, before);
	assert_int_equal(c.res.passed_over, with - before);
	expect_content(c.v.fs, find(c.v.fs, "keep"), 100, 3);
	copy_close(&c);
	restored(after, &c);
	assert_int_equal(c.res.seq, after);
	expect_content(c.v.fs, find(c.v.fs, "f7"), MIB, 57);
	copy_close(&c);
}

/* What a store may hold that does not encrypt: frames of any bytes are refused, or lie within the body. */
static void frames_of_any_bytes_stay_within_the_body(void **state)
{
	static const uint32_t magics[] = {FRAME_BATCH, FRAME_DATA, FRAME_ROW};
	struct rng rng = {.state = 1};
	unsigned n_good = 0;

	(void)state;
	for (unsigned i = 0; i < 200000; i++) {
		size_t len = rng_u64(&rng) % 200 + (i % 16 == 0) * 9000, at = 0;
		uint8_t *body = malloc(len + 1); /* its own, for the sanitizer */
		struct frame f;

		for (size_t k = 0; k < len; k++)
			body[k] = rng_u64(&rng) % 3 ? 0 : (uint8_t)(1 << rng_u64(&rng) % 8);
		if (len >= 4)
			memcpy(body, &magics[i % 3], 4);
		while (frames_next((struct slice){body, len}, &at, &f) == 0 && f.kind != FRAME_END) {
			const uint8_t *end = f.kind == FRAME_IS_BATCH  ? f.batch.payload + f.batch.n_payload * BLOCK_SIZE
					     : f.kind == FRAME_IS_DATA ? f.data.blocks + f.data.n_blocks * BLOCK_SIZE
								       : f.blocks;
			assert_true(end <= body + len);
			assert_true(at <= len);
			n_good++;
		}
		free(body);
	}
	assert_true(n_good > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(cold_data_is_in_the_base_and_hot_in_the_copy, make, drop),
	    cmocka_unit_test_setup_teardown(what_ages_out_after_the_base_is_whole_at_each_batch, make, drop),
	    cmocka_unit_test_setup_teardown(cold_data_that_no_store_gives_does_not_end_the_archive, make, drop),
	    cmocka_unit_test_setup_teardown(a_batch_larger_than_a_segment_goes_on_in_the_next, make, drop),
	    cmocka_unit_test(frames_of_any_bytes_stay_within_the_body),
	    cmocka_unit_test_setup_teardown(states_whose_data_went_are_passed_over, make, drop),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
