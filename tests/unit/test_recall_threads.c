/*
 * test_recall_threads.c: many who wait for cold data at once: who shares what, what comes before it is asked for, how much memory
 * that takes, what is kept, how long anybody waits for a store that is away, and how it all ends.
 *
 * The store hangs where a case wants to see what is under way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/recall_world.h"

static struct recall_world w;

static int open_world(void **state)
{
	(void)state;
	world_open(&w, true);
	return 0;
}

static int close_world(void **state)
{
	(void)state;
	world_close(&w);
	return 0;
}

static struct recalled_status memory_now(void)
{
	struct recalled_status s;

	recalled_get_status(w.v.fs, &s);
	return s;
}

/* From the next one on. */
static void hang_gets(void)
{
	simobject_fault(w.so, OBJECT_GET, gets(&w) + 1, UINT64_MAX, SIMOBJECT_HANG, 0);
}

/* The store is open, so that what follows is only data. */
static uint64_t warm(void)
{
	uint64_t ino = make_cold(&w, w.v.dir, "warm", LEAF_SIZE);

	assert_int_equal(read_part(&w, ino, 0, 1), 0);
	return ino;
}

/* ---- who shares what ---- */

static void many_readers_of_a_frame_share_a_request(void **state)
{
	enum { READERS = 12 };
	struct reader reader[READERS];

	(void)state;
	warm();
	uint64_t ino = make_cold(&w, w.v.dir, "f", LEAF_SIZE), before = gets(&w);
	hang_gets();
	for (unsigned i = 0; i < READERS; i++)
		reader_start(&reader[i], &w, ino, i * 100, 1000);
	EVENTUALLY(status_of(&w).waiting == READERS && simobject_hanging(w.so) == 1);
	usleep(20000);
	assert_int_equal(simobject_hanging(w.so), 1);
	assert_true(recall_is_active(w.v.fs, ino));
	simobject_clear(w.so);
	for (unsigned i = 0; i < READERS; i++)
		assert_int_equal(reader_end(&reader[i]), 0);
	assert_int_equal(gets(&w), before + 1);
	assert_int_equal(status_of(&w).waiting, 0);
	assert_false(recall_is_active(w.v.fs, ino));
}

static void a_reader_waits_for_the_range_that_brings_its_frame(void **state)
{
	struct reader whole, part;

	(void)state;
	warm();
	uint64_t ino = make_cold(&w, w.v.dir, "f", MIB), before = gets(&w);
	hang_gets();
	reader_start(&whole, &w, ino, 0, MIB);
	EVENTUALLY(simobject_hanging(w.so) == 1);
	reader_start(&part, &w, ino, 5 * LEAF_SIZE, 100);
	EVENTUALLY(status_of(&w).waiting == 2);
	usleep(20000);
	simobject_clear(w.so);
	assert_int_equal(reader_end(&whole), 0);
	assert_int_equal(reader_end(&part), 0);
	assert_int_equal(gets(&w), before + 1);
}

static void readers_of_many_files_are_right(void **state)
{
	enum { READERS = 8, FILES = 5, LEN = 9 * LEAF_SIZE + 321 };
	uint64_t ino[FILES];
	struct reader reader[READERS];

	(void)state;
	for (unsigned i = 0; i < FILES; i++)
		ino[i] = make_cold(&w, w.v.dir, (const char[]){(char)('a' + i), 0}, LEN);
	for (unsigned turn = 0; turn < 12; turn++) {
		struct rng g = {.state = turn + 1};

		for (unsigned i = 0; i < READERS; i++) {
			uint64_t off = rng_below(&g, LEN);

			reader_start(&reader[i], &w, ino[rng_below(&g, FILES)], off, 1 + (size_t)rng_below(&g, LEN - off));
		}
		for (unsigned i = 0; i < READERS; i++)
			assert_int_equal(reader_end(&reader[i]), 0);
	}
}

/* ---- what comes before it is asked for ---- */

static void a_file_read_in_order_is_got_by_several_requests_at_once(void **state)
{
	struct parked p = {0};
	const size_t len = 24 * MIB;

	(void)state;
	warm();
	uint64_t ino = make_cold(&w, w.v.dir, "f", len);
	assert_int_equal(read_part(&w, ino, 0, 256 * KIB), 0);
	hang_gets();
	assert_int_equal(park_read(&w, &p, ino, 256 * KIB, 256 * KIB), -EINPROGRESS);
	EVENTUALLY(simobject_hanging(w.so) >= 4);
	simobject_clear(w.so);
	EVENTUALLY(atomic_load(&p.calls) == 1);
	assert_int_equal(p.result, 0);
	fs_recall_end(w.v.fs, &p.w);
	uint64_t recalls = status_of(&w).recalls;
	assert_int_equal(read_whole(&w, ino, len, 256 * KIB), 0);
	assert_in_range(status_of(&w).recalls - recalls, 0, 48); /* of 96 reads: the rest found it there */
}

static void reads_without_order_bring_nothing_more(void **state)
{
	uint64_t ino = make_cold(&w, w.v.dir, "f", 36 * MIB);

	(void)state;
	for (uint64_t i = 0; i < 12; i++)
		assert_int_equal(read_part(&w, ino, i * 7 % 12 * 3 * MIB, 100), 0);
	assert_in_range(status_of(&w).bytes_fetched, 12 * LEAF_SIZE, 12 * (LEAF_SIZE + 100));
}

/* ---- memory ---- */

struct watcher {
	atomic_bool stop;
	_Atomic uint64_t most;
	pthread_t thread;
};

static void *watch_memory(void *arg)
{
	struct watcher *x = arg;

	while (!atomic_load(&x->stop)) {
		struct recalled_status s = memory_now();
		uint64_t now = s.bytes + s.reserved_bytes;

		if (now > atomic_load(&x->most))
			atomic_store(&x->most, now);
		usleep(200);
	}
	return NULL;
}

static void memory_stays_within_its_bound(void **state)
{
	enum { READERS = 6, LEN = 12 * MIB };
	struct reader reader[READERS];
	struct watcher x = {0};

	(void)state;
	assert_int_equal(fs_set_policy(w.v.fs, &root, FS_ROOT_INO, "recall", "stream"), 0);
	uint64_t ino[2] = {make_cold(&w, w.v.dir, "a", LEN), make_cold(&w, w.v.dir, "b", LEN)};
	assert_int_equal(memory_now().max_bytes, 16 * MIB);
	pthread_create(&x.thread, NULL, watch_memory, &x);
	for (unsigned step = 0; step < LEN / MIB; step += 2) {
		for (unsigned i = 0; i < READERS; i++)
			reader_start(&reader[i], &w, ino[i % 2], (step + i / 3) * MIB, MIB);
		for (unsigned i = 0; i < READERS; i++)
			assert_int_equal(reader_end(&reader[i]), 0);
	}
	atomic_store(&x.stop, true);
	pthread_join(x.thread, NULL);
	assert_in_range(x.most, MIB, 16 * MIB);
	EVENTUALLY(memory_now().pinned_bytes == 0); /* what waits for a home is pinned, too */
	EVENTUALLY(memory_now().reserved_bytes == 0);
}

static void what_was_got_for_a_request_stays_until_it_ran(void **state)
{
	struct parked p = {0};

	(void)state;
	assert_int_equal(fs_set_policy(w.v.fs, &root, FS_ROOT_INO, "recall", "stream"), 0);
	uint64_t ino = make_cold(&w, w.v.dir, "f", MIB), other = make_cold(&w, w.v.dir, "g", 30 * MIB);
	assert_int_equal(park_read(&w, &p, ino, 0, MIB), -EINPROGRESS);
	EVENTUALLY(atomic_load(&p.calls) == 1);
	assert_int_equal(read_whole(&w, other, 30 * MIB, MIB), 0); /* twice what memory has */
	assert_int_equal(memory_now().pinned_bytes > MIB, true);
	assert_int_equal(park_read(&w, &p, ino, 0, MIB), 0);
	fs_recall_end(w.v.fs, &p.w);
	EVENTUALLY(memory_now().pinned_bytes == 0); /* what waits for a home is pinned, too */
}

/* An operation that reads two stretches, and comes upon what is missing one after the other. */
static int two_reads(struct parked *p, uint64_t ino, unsigned i)
{
	int r = park_read(&w, p, ino, 2 * i * MIB, MIB);

	return r < 0 ? r : park_read(&w, p, ino, (2 * i + 1) * MIB, LEAF_SIZE);
}

/* More wait than there is memory for, and they hold some while they wait for more: all of them get on. */
static void requests_take_turns_when_memory_is_short(void **state)
{
	enum { PARKED = 24 };
	struct parked p[PARKED] = {0};
	int calls[PARKED] = {0};
	unsigned done = 0;

	(void)state;
	assert_int_equal(fs_set_policy(w.v.fs, &root, FS_ROOT_INO, "recall", "stream"), 0);
	uint64_t ino = make_cold(&w, w.v.dir, "f", 2 * PARKED * MIB);
	hang_gets();
	for (unsigned i = 0; i < PARKED; i++)
		assert_int_equal(two_reads(&p[i], ino, i), -EINPROGRESS);
	assert_int_equal(status_of(&w).waiting, PARKED);
	simobject_clear(w.so);
	for (unsigned turn = 0; done < PARKED && turn < 100000; turn++) {
		unsigned i = turn % PARKED;

		if (calls[i] < 0 || atomic_load(&p[i].calls) == calls[i]) {
			usleep(100);
			continue;
		}
		calls[i]++;
		assert_int_equal(p[i].result, 0);
		if (two_reads(&p[i], ino, i) == -EINPROGRESS) {
			assert_true(calls[i] <= 2);
			continue;
		}
		fs_recall_end(w.v.fs, &p[i].w);
		calls[i] = -1;
		done++;
	}
	assert_int_equal(done, PARKED);
	EVENTUALLY(memory_now().pinned_bytes == 0); /* what waits for a home is pinned, too */
}

/* ---- what is kept ---- */

static void what_was_read_is_kept_and_nothing_else(void **state)
{
	(void)state;
	uint64_t ino = make_cold(&w, w.v.dir, "f", 8 * LEAF_SIZE);
	assert_int_equal(read_part(&w, ino, 2 * LEAF_SIZE + 5, 10), 0);
	EVENTUALLY(cold_blocks(&w, ino) == 7 * LEAF_SLOTS);
	assert_int_equal(read_part(&w, ino, 0, 8 * LEAF_SIZE), 0);
	EVENTUALLY(cold_blocks(&w, ino) == 0);
	EVENTUALLY(status_of(&w).blocks_kept == 8 * LEAF_SLOTS);
	uint64_t before = gets(&w);
	world_reopen(&w);
	assert_int_equal(read_part(&w, ino, 0, 8 * LEAF_SIZE), 0);
	assert_int_equal(gets(&w), before);
}

static void a_stream_is_not_kept(void **state)
{
	(void)state;
	assert_int_equal(fs_set_policy(w.v.fs, &root, w.v.dir, "recall", "stream"), 0);
	uint64_t ino = make_cold(&w, w.v.dir, "f", 8 * LEAF_SIZE);
	assert_int_equal(read_part(&w, ino, 0, 8 * LEAF_SIZE), 0);
	usleep(50000);
	assert_int_equal(cold_blocks(&w, ino), 8 * LEAF_SLOTS);
	assert_int_equal(status_of(&w).blocks_kept, 0);
}

static void nothing_is_kept_above_the_high_water_mark(void **state)
{
	(void)state;
	uint64_t ino = make_cold(&w, w.v.dir, "f", 16 * LEAF_SIZE), kept;
	w.v.config.high_water = 1;
	simstore_set_space(w.v.sim, 256 * MIB);
	world_reopen(&w);
	make_file(&w, w.v.dir, "g", 8 * MIB);
	assert_int_equal(read_part(&w, ino, 0, 16 * LEAF_SIZE), 0);
	usleep(50000);
	assert_int_equal(cold_blocks(&w, ino), 16 * LEAF_SLOTS);
	assert_int_equal(recall_file(w.v.fs, ino, &kept), 0); /* but when somebody says so */
	assert_int_equal(cold_blocks(&w, ino), 0);
}

/* Readers leave the last twentieth to those who write. */
static void nothing_is_kept_of_the_last_space(void **state)
{
	struct fs_statfs space;
	struct fs_attr a;
	uint64_t kept;
	int r = 0;

	(void)state;
	uint64_t ino = make_cold(&w, w.v.dir, "f", 16 * LEAF_SIZE);
	simstore_set_space(w.v.sim, 192 * MIB);
	world_reopen(&w);
	assert_int_equal(fs_mknod(w.v.fs, &root, w.v.dir, "full", S_IFREG | 0644, 0, &a), 0);
	uint8_t *p = calloc(1, MIB);
	for (uint64_t n = 0; r == 0; n++) {
		memcpy(p, &n, sizeof(n));
		r = fs_write(w.v.fs, &root, a.ino, n * MIB, MIB, p, false);
	}
	free(p);
	assert_int_equal(r, -ENOSPC);
	fs_statfs(w.v.fs, &space);
	assert_int_equal(read_part(&w, ino, 0, 16 * LEAF_SIZE), 0);
	usleep(50000);
	assert_int_equal(cold_blocks(&w, ino), 16 * LEAF_SLOTS);
	assert_int_equal(recall_file(w.v.fs, ino, &kept), -ENOSPC);
	assert_int_equal(cold_blocks(&w, ino), 16 * LEAF_SLOTS);
}

/* ---- a store that is away ---- */

static void a_read_waits_for_the_stores_time_and_then_fails(void **state)
{
	enum { READERS = 5 };
	struct reader reader[READERS];
	struct timespec from, to;

	(void)state;
	warm();
	uint64_t ino[READERS];
	for (unsigned i = 0; i < READERS; i++)
		ino[i] = make_cold(&w, w.v.dir, (const char[]){(char)('a' + i), 0}, LEAF_SIZE);
	simobject_fault(w.so, OBJECT_GET, 1, UINT64_MAX, SIMOBJECT_FAIL, -ECONNREFUSED);
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (unsigned i = 0; i < READERS; i++)
		reader_start(&reader[i], &w, ino[i], 0, 10);
	for (unsigned i = 0; i < READERS; i++)
		assert_int_equal(reader_end(&reader[i]), -EIO);
	clock_gettime(CLOCK_MONOTONIC, &to);
	double took = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
	assert_true(took > 0.9 && took < 8);
	assert_non_null(strstr(status_of(&w).last_message, "store s"));
	assert_int_equal(status_of(&w).failures, READERS);
}

/* "when it returns everything continues without help" */
static void what_waits_goes_on_when_the_store_is_back(void **state)
{
	enum { READERS = 5 };
	struct reader reader[READERS];
	uint64_t ino[READERS];

	(void)state;
	world_define(&w, "file:///cold id=1 pack=64M timeout=60");
	warm();
	for (unsigned i = 0; i < READERS; i++)
		ino[i] = make_cold(&w, w.v.dir, (const char[]){(char)('a' + i), 0}, 3 * LEAF_SIZE);
	simobject_fault(w.so, OBJECT_KINDS, 1, UINT64_MAX, SIMOBJECT_FAIL, -ECONNREFUSED);
	for (unsigned i = 0; i < READERS; i++)
		reader_start(&reader[i], &w, ino[i], 0, 3 * LEAF_SIZE);
	EVENTUALLY(simobject_faults(w.so) >= 6); /* the breaker is open by now */
	for (unsigned i = 0; i < READERS; i++)
		assert_int_equal(reader[i].result, NO_ANSWER);
	simobject_clear(w.so);
	for (unsigned i = 0; i < READERS; i++)
		assert_int_equal(reader_end(&reader[i]), 0);
	assert_int_equal(status_of(&w).failures, 0);
}

static void a_store_that_cannot_be_opened_is_opened_later(void **state)
{
	struct reader r;

	(void)state;
	world_define(&w, "file:///cold id=1 pack=64M timeout=60");
	uint64_t ino = make_cold(&w, w.v.dir, "f", LEAF_SIZE);
	simobject_refuse(w.so, "s", -ENODEV);
	reader_start(&r, &w, ino, 0, 10);
	usleep(300000);
	assert_int_equal(r.result, NO_ANSWER);
	simobject_refuse(w.so, "s", 0);
	assert_int_equal(reader_end(&r), 0);
}

static void one_store_that_is_away_does_not_keep_another_from_answering(void **state)
{
	enum { STUCK = 20 };
	struct reader stuck[STUCK];
	struct packing p;

	(void)state;
	world_define(&w, "file:///cold id=1 pack=64M timeout=60");
	assert_int_equal(fs_set_policy(w.v.fs, &root, FS_ROOT_INO, "tier.store.t", "file:///other id=2 timeout=60"), 0);
	struct object_store *t = simobject_open(w.so, "t");
	char message[OBJECT_MESSAGE_MAX];
	assert_int_equal(stores_bind(w.v.fs, t, message), 0);
	object_store_close(t);
	warm();
	uint64_t ino[STUCK];
	for (unsigned i = 0; i < STUCK; i++)
		ino[i] = make_cold(&w, w.v.dir, (const char[]){(char)('a' + i), 0}, LEAF_SIZE);
	uint64_t there = make_file(&w, w.v.dir, "there", LEAF_SIZE);
	home_all(&w);
	pack_begin(&w, &p);
	pack_file(&w, &p, there);
	world_store_of_next_pack = 2;
	pack_end(&w, &p);
	world_store_of_next_pack = 1;
	hang_gets();
	for (unsigned i = 0; i < STUCK; i++)
		reader_start(&stuck[i], &w, ino[i], 0, 10);
	EVENTUALLY(simobject_hanging(w.so) == 8);
	simobject_fault(w.so, OBJECT_GET, 1, UINT64_MAX, SIMOBJECT_HANG, 0);
	struct reader other;
	reader_start(&other, &w, there, 0, 10);
	EVENTUALLY(simobject_hanging(w.so) == 9); /* it was asked although all of the other store's are stuck */
	simobject_clear(w.so);
	assert_int_equal(reader_end(&other), 0);
	for (unsigned i = 0; i < STUCK; i++)
		assert_int_equal(reader_end(&stuck[i]), 0);
}

/* ---- limits, and the end ---- */

static void the_rate_of_recalls_is_limited(void **state)
{
	struct timespec from, to;

	(void)state;
	uint64_t ino = make_cold(&w, w.v.dir, "f", 3 * MIB);
	w.v.config.recall_rate = MIB;
	world_reopen(&w);
	clock_gettime(CLOCK_MONOTONIC, &from);
	assert_int_equal(read_part(&w, ino, 0, MIB), 0);
	assert_int_equal(read_part(&w, ino, 2 * MIB, MIB), 0);
	clock_gettime(CLOCK_MONOTONIC, &to);
	double took = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
	assert_true(took > 0.8 && took < 10);
	assert_true(status_of(&w).limited > 0);
}

static void whoever_waits_is_answered_at_the_end(void **state)
{
	enum { PARKED = 40 };
	struct parked p[PARKED] = {0};

	(void)state;
	world_define(&w, "file:///cold id=1 pack=64M timeout=600");
	warm();
	uint64_t ino = make_cold(&w, w.v.dir, "f", PARKED * MIB);
	for (unsigned end = 0; end < 2; end++) {
		memset(p, 0, sizeof(p));
		simobject_fault(w.so, OBJECT_GET, 1, UINT64_MAX, SIMOBJECT_FAIL, -EIO);
		for (unsigned i = 0; i < PARKED; i++)
			assert_int_equal(park_read(&w, &p[i], ino, i * MIB, 100), -EINPROGRESS);
		if (end)
			world_reopen(&w); /* the volume is closed while they wait */
		else
			fs_end_waits(w.v.fs);
		for (unsigned i = 0; i < PARKED; i++) {
			assert_int_equal(p[i].calls, 1);
			assert_int_equal(p[i].result, -EIO);
		}
		simobject_clear(w.so);
	}
	assert_int_equal(read_part(&w, ino, 0, 100), 0);
}

static void one_that_is_withdrawn_is_answered_at_once(void **state)
{
	struct parked p[3] = {0};

	(void)state;
	warm();
	uint64_t ino = make_cold(&w, w.v.dir, "f", 2 * LEAF_SIZE);
	hang_gets();
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(park_read(&w, &p[i], ino, i / 2 * LEAF_SIZE, 10), -EINPROGRESS);
	EVENTUALLY(simobject_hanging(w.so) > 0);
	fs_recall_cancel(w.v.fs, &p[1].w);
	assert_int_equal(p[1].calls, 1);
	assert_int_equal(p[1].result, -EINTR);
	fs_recall_cancel(w.v.fs, &p[1].w);
	assert_int_equal(p[1].calls, 1);
	simobject_clear(w.so);
	EVENTUALLY(p[0].calls == 1 && p[2].calls == 1);
	assert_int_equal(p[0].result, 0);
	assert_int_equal(p[2].result, 0);
	for (unsigned i = 0; i < 3; i++)
		fs_recall_end(w.v.fs, &p[i].w);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(many_readers_of_a_frame_share_a_request),
	    CASE(a_reader_waits_for_the_range_that_brings_its_frame),
	    CASE(readers_of_many_files_are_right),
	    CASE(a_file_read_in_order_is_got_by_several_requests_at_once),
	    CASE(reads_without_order_bring_nothing_more),
	    CASE(memory_stays_within_its_bound),
	    CASE(what_was_got_for_a_request_stays_until_it_ran),
	    CASE(requests_take_turns_when_memory_is_short),
	    CASE(what_was_read_is_kept_and_nothing_else),
	    CASE(a_stream_is_not_kept),
	    CASE(nothing_is_kept_above_the_high_water_mark),
	    CASE(nothing_is_kept_of_the_last_space),
	    CASE(a_read_waits_for_the_stores_time_and_then_fails),
	    CASE(what_waits_goes_on_when_the_store_is_back),
	    CASE(a_store_that_cannot_be_opened_is_opened_later),
	    CASE(one_store_that_is_away_does_not_keep_another_from_answering),
	    CASE(the_rate_of_recalls_is_limited),
	    CASE(whoever_waits_is_answered_at_the_end),
	    CASE(one_that_is_withdrawn_is_answered_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
