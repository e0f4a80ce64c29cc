/*
 * test_scrub_archive.c: damage that nothing here can repair is repaired from the archive, whatever is wrong with the archive:
 * found in few requests, never believed, and nothing is lost when it is away.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/snap/snap.h"
#include "tests/unit/archive_case.h"

#define FILES      4u
#define FILE_BYTES (15 * MIB) /* two parts of a base, nearly */

static struct tiered t;
static uint64_t file[FILES];

static void home(void)
{
	assert_int_equal(fs_sync(t.v.fs), 0);
	for (bool more = true; more;)
		assert_int_equal(fs_home_step(t.v.fs, 4096, &more), 0);
	assert_int_equal(fs_checkpoint(t.v.fs), 0);
}

/* What comes through the journal is in the ring, and would be found there: the ring's batches are forgotten. */
static void forget_ring(void)
{
	uint64_t other = make_file(t.v.fs, t.v.dir, "other");

	for (unsigned i = 0; i < 45; i++) {
		for (uint64_t k = 0; k < 32; k++)
			write_content(t.v.fs, other, 0, 32 * KIB, i);
		home();
	}
	assert_int_equal(fs_unlink(t.v.fs, &root, t.v.dir, "other"), 0);
	for (bool more = true; more;)
		assert_int_equal(fs_reap_step(t.v.fs, &more), 0);
	home();
}

static int make_with(const char *options)
{
	char name[16];

	tiered_open_with(&t, options);
	for (unsigned i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		file[i] = file_of(t.v.fs, t.v.dir, name, FILE_BYTES, i + 1);
	}
	home();
	assert_int_equal(fs_archive_set(t.v.fs, &root, "store=s interval=5s"), 0);
	archive_rounds(t.v.fs);
	return 0;
}

static int make(void **state)
{
	(void)state;
	return make_with(STORE_OPTIONS);
}

static int make_plain(void **state)
{
	(void)state;
	return make_with(STORE_OPTIONS " encrypt=off");
}

static int drop(void **state)
{
	(void)state;
	tiered_close(&t);
	return 0;
}

/* An inode of a snapshot, or a live one. */
static void damage(uint64_t ino, uint64_t block)
{
	struct leaf l;
	uint8_t byte;
	char name[64];

	if (!snap_is_ino(ino))
		icache_rdlock(t.v.fs->icache, ino);
	assert_int_equal(extent_get(t.v.fs, ino, block / LEAF_SLOTS, &l), 0);
	if (!snap_is_ino(ino))
		icache_rdunlock(t.v.fs->icache, ino);
	const struct slot *s = &l.slot[block % LEAF_SLOTS];
	assert_true(s->home && !s->staged);
	uint64_t chunk = 16 * MIB / BLOCK_SIZE, off = pointer_block(s->home) % chunk * BLOCK_SIZE + 77;
	snprintf(name, sizeof(name), "arena.1/chunk.%05u", (unsigned)(pointer_block(s->home) / chunk));
	simstore_peek(t.v.sim, name, &byte, 1, off);
	byte ^= 0x10;
	simstore_poke(t.v.sim, name, &byte, 1, off);
}

static void command_done(struct journal_waiter *w, int result)
{
	(void)w;
	assert_int_equal(result, 0);
}

static struct scrub_pass scrub(void)
{
	struct journal_waiter w = {.done = command_done};
	struct scrub_pass p;
	bool more = true;

	fs_scrub_command(t.v.fs, (struct slice){"start", 5}, &w);
	while (more)
		assert_int_equal(fs_scrub_step(t.v.fs, &more), 0);
	scrub_get(t.v.fs, &p);
	return p;
}

static uint64_t gets(void)
{
	return simobject_calls(t.so, OBJECT_GET);
}

static uint64_t from_archive(void)
{
	return atomic_load(&t.v.fs->scrub->repairs.by_archive);
}

static uint64_t ino_in(const char *snapshot, const char *name)
{
	struct fs_attr dir, a;
	uint64_t at;

	assert_int_equal(fs_snap_root(t.v.fs, snapshot, &at), 0);
	assert_int_equal(fs_lookup(t.v.fs, at, "sub", &dir), 0);
	assert_int_equal(fs_lookup(t.v.fs, dir.ino, name, &a), 0);
	return a.ino;
}

/* ---- where it is found ---- */

static void one_block_is_found_in_a_base_by_few_requests(void **state)
{
	static const uint64_t blocks[] = {0, 1, 15, 16, 1000, 2047, 2048, 2049, 3839};

	(void)state;
	assert_true(t.v.fs->archiver->m.base[0].parts >= 8);
	for (unsigned f = 0; f < FILES; f++)
		for (size_t i = 0; i < ARRAY_SIZE(blocks); i++) {
			uint64_t before = gets();

			damage(file[f], blocks[i]);
			struct scrub_pass p = scrub();
			assert_int_equal(p.bad_blocks, 1);
			assert_int_equal(p.repaired_blocks, 1);
			assert_int_equal(p.errors, 0);
			assert_true(gets() - before <= 2 + 4); /* the manifest's copies; log2 of 8 parts, and one */
		}
	assert_int_equal(from_archive(), FILES * ARRAY_SIZE(blocks));
	for (unsigned f = 0; f < FILES; f++)
		expect_content(t.v.fs, file[f], FILE_BYTES, f + 1);
	expect_sound(t.v.fs);
}

static void many_blocks_are_found_by_reading_the_base_once(void **state)
{
	uint64_t before = gets(), n = 0;

	(void)state;
	for (unsigned f = 0; f < FILES; f++)
		for (uint64_t block = f; block < FILE_BYTES / BLOCK_SIZE; block += 37, n++)
			damage(file[f], block);
	struct scrub_pass p = scrub();
	assert_int_equal(p.bad_blocks, n);
	assert_int_equal(p.repaired_blocks, n);
	assert_true(gets() - before <= 2 + t.v.fs->archiver->m.base[0].parts);
	for (unsigned f = 0; f < FILES; f++)
		expect_content(t.v.fs, file[f], FILE_BYTES, f + 1);
	expect_sound(t.v.fs);
}

/* Through the journal, out of line, and a batch that is larger than a segment. */
static void what_was_written_after_the_base_is_found_in_segments(void **state)
{
	uint64_t small = make_file(t.v.fs, t.v.dir, "small"), large, huge;

	(void)state;
	for (uint64_t at = 0; at < MIB; at += 32 * KIB)
		write_content(t.v.fs, small, at, 32 * KIB, 21);
	large = file_of(t.v.fs, t.v.dir, "large", 3 * MIB, 22);
	archive_rounds(t.v.fs);
	huge = file_of(t.v.fs, t.v.dir, "huge", 24 * MIB, 23);
	home();
	archive_rounds(t.v.fs);
	forget_ring();
	for (uint64_t block = 3; block < 256; block += 50)
		damage(small, block);
	damage(large, 700);
	for (uint64_t block = 0; block < 24 * 256; block += 1000)
		damage(huge, block);
	struct scrub_pass p = scrub();
	assert_int_equal(p.bad_blocks, 6 + 1 + 7);
	assert_int_equal(p.repaired_blocks, p.bad_blocks);
	assert_int_equal(from_archive(), p.bad_blocks);
	expect_content(t.v.fs, small, MIB, 21);
	expect_content(t.v.fs, large, 3 * MIB, 22);
	expect_content(t.v.fs, huge, 24 * MIB, 23);
}

static void what_the_archive_never_had_stays_damaged(void **state)
{
	uint64_t late = file_of(t.v.fs, t.v.dir, "late", MIB, 9);

	(void)state;
	home();
	damage(late, 5);
	damage(file[0], 5);
	struct scrub_pass p = scrub();
	assert_int_equal(p.bad_blocks, 2);
	assert_int_equal(p.repaired_blocks, 1);
	assert_int_equal(p.errors, 0);
	assert_true(damage_is_bad(t.v.fs, late, 5));
	assert_int_equal(read_error(t.v.fs, late, MIB, 9), -EBADMSG);
}

/* The base from before the snapshot has some, segments up to it others; the newest base has other content. */
static void a_snapshot_is_repaired_from_the_base_and_the_segments_before_it(void **state)
{
	(void)state;
	write_content(t.v.fs, file[1], 0, 2 * MIB, 31);
	home();
	archive_rounds(t.v.fs);
	assert_int_equal(fs_snap_create(t.v.fs, &root, "s"), 0);
	uint64_t f0 = ino_in("s", "f0"), f1 = ino_in("s", "f1");
	for (unsigned f = 0; f < 2; f++)
		write_content(t.v.fs, file[f], 0, FILE_BYTES, 40 + f);
	home();
	archive_new_base(t.v.fs);
	damage(f0, 9);
	damage(f1, 9);
	damage(f1, 3000);
	damage(file[0], 9);
	damage(file[2], 9);
	struct scrub_pass p = scrub();
	assert_int_equal(p.bad_blocks, 5);
	assert_int_equal(p.repaired_blocks, 5);
	assert_int_equal(from_archive(), 5);
	expect_content(t.v.fs, f0, FILE_BYTES, 1);
	expect_content(t.v.fs, file[0], FILE_BYTES, 40);
	expect_sound(t.v.fs);
}

/* ---- what is wrong with it ---- */

static bool is_archive(const char *key)
{
	return strncmp(key, "archive/", 8) == 0;
}

static void an_archive_that_is_away_loses_nothing_and_repairs_when_it_is_back(void **state)
{
	static const int errors[] = {-EIO, -ETIMEDOUT, -EACCES, -ECONNREFUSED};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		damage(file[i], 100 + i);
		simobject_fault(t.so, OBJECT_KINDS, simobject_calls(t.so, OBJECT_KINDS) + 1, UINT64_MAX, SIMOBJECT_FAIL,
				errors[i]);
		struct scrub_pass p = scrub();
		assert_int_equal(p.bad_blocks, 1);
		assert_int_equal(p.repaired_blocks, 0);
		assert_true(p.errors > 0);
		assert_true(*t.v.fs->scrub->heal_text);
		assert_int_equal(read_error(t.v.fs, file[i], FILE_BYTES, i + 1), -EBADMSG);
		simobject_clear(t.so);
		pass(HOUR_NS);
		p = scrub();
		assert_int_equal(p.repaired_blocks, 1);
		assert_int_equal(p.errors, 0);
		expect_content(t.v.fs, file[i], FILE_BYTES, i + 1);
	}
	expect_sound(t.v.fs);
}

/* The call fails once, each in turn. */
static void each_call_of_the_store_may_fail(void **state)
{
	(void)state;
	for (enum simobject_how how = SIMOBJECT_FAIL; how <= SIMOBJECT_TEAR; how++)
		for (uint64_t n = 1; n <= 6; n++) {
			if (how == SIMOBJECT_LATE)
				continue;
			damage(file[n % FILES], 10 * n + how);
			simobject_fault(t.so, OBJECT_KINDS, simobject_calls(t.so, OBJECT_KINDS) + n, 1, how,
					how == SIMOBJECT_FAIL ? -EIO : 0);
			struct scrub_pass p = scrub();
			assert_int_equal(p.bad_blocks, 1);
			simobject_clear(t.so);
			pass(HOUR_NS);
			scrub();
			expect_content(t.v.fs, file[n % FILES], FILE_BYTES, n % FILES + 1);
		}
	expect_sound(t.v.fs);
}

enum spoil { SPOIL_FLIP, SPOIL_ERASE, SPOIL_OTHER, SPOIL_EMPTY, SPOILS };

static void spoil(const struct simobject_entry *e, enum spoil how, const uint8_t *other, size_t other_len, struct rng *g)
{
	if (how == SPOIL_FLIP)
		simobject_corrupt(t.so, e->store, e->key, rng_u64(g) % e->size);
	else if (how == SPOIL_ERASE)
		simobject_erase(t.so, e->store, e->key);
	else if (how == SPOIL_OTHER)
		simobject_plant(t.so, e->store, e->key, other, other_len, e->modified_ns);
	else
		simobject_plant(t.so, e->store, e->key, "", 0, e->modified_ns);
}

/*
 * Each object of the archive in turn is damaged, missing, or another one: what is repaired is right, and what is not stays
 * damaged; and with the object again all is well.
 */
static void no_object_of_the_archive_is_believed(void **state)
{
	struct simobject_entry e;
	unsigned not_repaired = 0, tries = 0;
	struct rng g = {.state = 5};

	(void)state;
	write_content(t.v.fs, file[3], 0, 8 * MIB, 77);
	home();
	archive_rounds(t.v.fs);
	size_t cap = 80 * MIB;
	uint8_t *whole = malloc(cap), *other = malloc(cap);
	for (uint64_t i = 0; simobject_entry(t.so, i, &e); i++) {
		if (!is_archive(e.key))
			continue;
		int64_t len = simobject_peek(t.so, e.store, e.key, whole, cap), other_len = 0;
		struct simobject_entry o;
		for (uint64_t k = 0; simobject_entry(t.so, k, &o); k++)
			if (is_archive(o.key) && strcmp(o.key, e.key) != 0)
				other_len = simobject_peek(t.so, o.store, o.key, other, cap);
		for (enum spoil how = 0; how < SPOILS; how++) {
			uint64_t block = 64 + tries++ * 5;

			spoil(&e, how, other, (size_t)other_len, &g);
			for (unsigned f = 0; f < FILES; f++)
				damage(file[f], block);
			struct scrub_pass p = scrub();
			assert_int_equal(p.bad_blocks, FILES);
			not_repaired += p.bad_blocks - p.repaired_blocks;
			for (unsigned f = 0; f < FILES; f++) {
				int r = read_error(t.v.fs, file[f], f == 3 ? 8 * MIB : FILE_BYTES, f == 3 ? 77 : f + 1);
				assert_true(r == 0 || (r == -EBADMSG && damage_is_bad(t.v.fs, file[f], block)));
			}
			simobject_plant(t.so, e.store, e.key, whole, (size_t)len, e.modified_ns);
			pass(HOUR_NS);
			scrub();
			for (unsigned f = 0; f < FILES; f++)
				expect_content(t.v.fs, file[f], f == 3 ? 8 * MIB : FILE_BYTES, f == 3 ? 77 : f + 1);
		}
	}
	free(whole);
	free(other);
	assert_true(tries >= 10 * SPOILS);
	assert_true(not_repaired > 0);
	expect_sound(t.v.fs);
}

/* As who can write to a store that does not encrypt can make them: sealed as they should be, with other data, or frames that
 * cannot be. */
static void forged_objects_repair_nothing_and_do_no_harm(void **state)
{
	struct archive_place p = {.store = simobject_open(t.so, "s")};
	struct buf body = {0}, scratch = {0}, out = {0};
	struct simobject_entry e;
	struct rng g = {.state = 11};
	size_t cap = 80 * MIB;
	uint8_t *whole = malloc(cap);
	unsigned n = 0;

	(void)state;
	write_content(t.v.fs, file[3], 0, 4 * MIB, 78); /* in a segment */
	home();
	archive_rounds(t.v.fs);
	forget_ring();
	memcpy(p.volume, t.v.fs->super.volume, sizeof(p.volume));
	for (uint64_t i = 0; simobject_entry(t.so, i, &e); i++) {
		struct archive_info info;
		struct archive_id id;

		if (archive_name_parse(e.key, &id) < 0 || (id.kind != ARCHIVE_BASE && id.kind != ARCHIVE_SEGMENT))
			continue;
		int64_t len = simobject_peek(t.so, e.store, e.key, whole, cap);
		for (unsigned how = 0; how < 4; how++, n++) {
			assert_int_equal(archive_fetch(&p, &id, &info, &body, &scratch), 0);
			if (how == 0) /* all data is other data, and so is all else */
				for (size_t at = 0; at < body.len; at += 1024)
					body.p[at + 128 < body.len ? at + 128 : at] ^= 1;
			else if (how == 1) /* cut */
				body.len = 1 + rng_u64(&g) % body.len;
			else /* here and there */
				for (unsigned k = 0; k < (how == 2 ? 1 : 200); k++)
					body.p[rng_u64(&g) % min_u64(body.len, k % 2 ? 256 : body.len)] ^=
					    (uint8_t)(1u << rng_u64(&g) % 8);
			buf_reset(&out);
			assert_int_equal(archive_seal(&info, NULL, (struct slice){body.p, body.len}, &out), 0);
			simobject_plant(t.so, e.store, e.key, out.p, out.len, e.modified_ns);
			for (unsigned f = 0; f < FILES; f++)
				damage(file[f], 40 + 3 * n);
			struct scrub_pass pass_ = scrub();
			assert_int_equal(pass_.bad_blocks, FILES);
			simobject_plant(t.so, e.store, e.key, whole, (size_t)len, e.modified_ns);
			pass(HOUR_NS);
			scrub();
			for (unsigned f = 0; f < FILES; f++)
				expect_content(t.v.fs, file[f], f == 3 ? 4 * MIB : FILE_BYTES, f == 3 ? 78 : f + 1);
		}
	}
	assert_true(n >= 4 * 9);
	assert_true(atomic_load(&t.v.fs->scrub->repairs.lies) > 0);
	expect_sound(t.v.fs);
	object_store_close(p.store);
	buf_free(&body);
	buf_free(&scratch);
	buf_free(&out);
	free(whole);
}

static void a_base_that_is_damaged_is_replaced_by_the_one_before(void **state)
{
	struct simobject_entry e;
	char prefix[64];

	(void)state;
	make_file(t.v.fs, t.v.dir, "new");
	archive_new_base(t.v.fs);
	const struct archive_base *b = base_newest(t.v.fs->archiver);
	snprintf(prefix, sizeof(prefix), "/b/%016llx/", (unsigned long long)b->seq);
	unsigned n = 0;
	for (uint64_t i = 0; simobject_entry(t.so, i, &e); i++)
		if (strstr(e.key, prefix)) {
			simobject_corrupt(t.so, e.store, e.key, e.size / 2);
			n++;
		}
	assert_int_equal(n, b->parts);
	for (unsigned f = 0; f < FILES; f++)
		damage(file[f], 7 * f);
	struct scrub_pass p = scrub();
	assert_int_equal(p.repaired_blocks, FILES);
	for (unsigned f = 0; f < FILES; f++)
		expect_content(t.v.fs, file[f], FILE_BYTES, f + 1);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(one_block_is_found_in_a_base_by_few_requests),
	    cmocka_unit_test_setup_teardown(many_blocks_are_found_by_reading_the_base_once, make_plain, drop),
	    CASE(what_was_written_after_the_base_is_found_in_segments),
	    CASE(what_the_archive_never_had_stays_damaged),
	    CASE(a_snapshot_is_repaired_from_the_base_and_the_segments_before_it),
	    CASE(an_archive_that_is_away_loses_nothing_and_repairs_when_it_is_back),
	    CASE(each_call_of_the_store_may_fail),
	    CASE(no_object_of_the_archive_is_believed),
	    cmocka_unit_test_setup_teardown(forged_objects_repair_nothing_and_do_no_harm, make_plain, drop),
	    CASE(a_base_that_is_damaged_is_replaced_by_the_one_before),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
