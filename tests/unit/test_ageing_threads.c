/*
 * test_ageing_threads.c: ageing as it runs: a packer and its uploaders beside writers and readers, stores that go away and come
 * back, followers that are late, and the end in the middle of it.
 *
 * SEED=N repeats the choices; the order of the threads is the machine's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <pthread.h>

#include "base/log.h"
#include "tests/unit/tier_volume.h"

#define PATIENCE_S 30
#define EVENTUALLY(cond)                                                                                                         \
	do {                                                                                                                     \
		for (unsigned i_ = 0; !(cond) && i_ < PATIENCE_S * 200; i_++)                                                    \
			usleep(5000);                                                                                            \
		assert_true(cond);                                                                                               \
	} while (0)

static struct tiered t;
static uint64_t seed;

static void open_with(uint64_t memory_bytes)
{
	tiered_open(&t);
	t.v.config.no_threads = false;
	t.v.config.n_workers = 8;
	t.v.config.memory_bytes = memory_bytes;
	tiered_reopen(&t, false);
}

static int make(void **state)
{
	(void)state;
	open_with(512 * MIB);
	return 0;
}

static int drop(void **state)
{
	(void)state;
	tiered_close(&t);
	return 0;
}

static struct ageing_status status(void)
{
	struct ageing_status s;

	ageing_get_status(t.v.fs, &s);
	return s;
}

struct told {
	struct journal_waiter w;
	_Atomic bool done;
	_Atomic int result;
};

static void tell(struct journal_waiter *w, int result)
{
	struct told *f = container_of(w, struct told, w);

	atomic_store(&f->result, result);
	atomic_store(&f->done, true);
}

static void flush(void)
{
	struct told f = {.w.done = tell};

	ageing_flush_async(t.v.fs, &f.w);
	EVENTUALLY(atomic_load(&f.done));
	assert_int_equal(f.result, 0);
}

#define N_FILES 60u
static size_t size_of(unsigned i)
{
	return i == 7 ? 30 * MIB : (i * 37 % 23 + 1) * 9 * KIB;
}

static void make_files(uint64_t ino[N_FILES])
{
	char name[16];

	for (unsigned i = 0; i < N_FILES; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		ino[i] = file_of(t.v.fs, t.v.dir, name, size_of(i), i);
	}
}

static void evict_files(const uint64_t ino[N_FILES])
{
	for (unsigned i = 0; i < N_FILES; i++)
		assert_int_equal(ageing_evict(t.v.fs, ino[i]), 0);
}

static bool all_cold(const uint64_t ino[N_FILES])
{
	for (unsigned i = 0; i < N_FILES; i++)
		if (!is_cold(t.v.fs, ino[i]))
			return false;
	return true;
}

static void expect_files(const uint64_t ino[N_FILES])
{
	for (unsigned i = 0; i < N_FILES; i++)
		expect_content(t.v.fs, ino[i], size_of(i), i);
}

static void what_is_asked_for_goes_out_with_any_memory(void **state)
{
	static const uint64_t memory[] = {128 * MIB, 256 * MIB, 512 * MIB, 4 * GIB};
	uint64_t ino[N_FILES];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(memory); i++) {
		open_with(memory[i]);
		make_files(ino);
		evict_files(ino);
		flush();
		assert_true(all_cold(ino));
		assert_int_equal(status().aged_files, N_FILES);
		assert_int_equal(status().failed_files, 0);
		expect_files(ino);
		tiered_close(&t);
	}
}

static void the_scan_runs_by_itself_when_asked(void **state)
{
	uint64_t ino[N_FILES];

	(void)state;
	make_files(ino);
	pass(40 * 24 * HOUR_NS);
	ageing_scan_now(t.v.fs);
	EVENTUALLY(all_cold(ino));
	assert_true(status().scans >= 1);
}

static void a_scan_that_finds_more_than_there_is_room_for_goes_on(void **state)
{
	enum { N = 9000 }; /* more than the queue of a small volume takes */
	char name[16];

	(void)state;
	open_with(64 * MIB);
	for (unsigned i = 0; i < N; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		file_of(t.v.fs, t.v.dir, name, 1, i);
	}
	pass(40 * 24 * HOUR_NS);
	simobject_fault(t.so, OBJECT_KINDS, 0, UINT64_MAX, SIMOBJECT_FAIL, -EACCES); /* so that it fills up */
	ageing_scan_now(t.v.fs);
	EVENTUALLY(status().scanned > 4096 && status().failed_files > 4096);
	uint64_t queued;
	do {
		queued = status().queued_files;
		usleep(300000);
	} while (status().queued_files > queued);
	assert_true(queued < N);
	assert_int_equal(status().scans, 0);
	simobject_clear(t.so);
	pass(600 * NSEC_PER_SEC);
	EVENTUALLY(status().aged_files == N);
	assert_int_equal(status().scans, 1);
	tiered_close(&t);
}

static void everything_goes_on_when_the_store_is_back(void **state)
{
	static const int errors[] = {-EACCES, -ECONNREFUSED};
	uint64_t ino[N_FILES];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(errors); i++) {
		open_with(512 * MIB);
		make_files(ino);
		simobject_fault(t.so, OBJECT_KINDS, 0, UINT64_MAX, SIMOBJECT_FAIL, errors[i]);
		evict_files(ino);
		flush(); /* told that they are not out */
		assert_int_equal(status().failed_files, N_FILES);
		assert_int_equal(status().queued_files, N_FILES);
		assert_true(strlen(status().last_message) > 0);
		expect_files(ino);
		simobject_clear(t.so);
		pass(600 * NSEC_PER_SEC); /* whatever waits for its next try is due */
		EVENTUALLY(all_cold(ino));
		expect_files(ino);
		tiered_close(&t);
	}
}

/* Their copies here stay for as long as a follower does not have the records. */
static void homes_wait_for_as_many_followers_as_the_policy_says(void **state)
{
	const uint64_t all = UINT64_MAX;
	uint64_t ino[N_FILES];

	(void)state;
	make_files(ino);
	assert_int_equal(fs_set_policy(t.v.fs, &root, FS_ROOT_INO, "durability", "replicas=1"), 0);
	evict_files(ino);
	EVENTUALLY(state_of(t.v.fs, ino[0]).tiered_blocks > 0);
	usleep(50000);
	for (unsigned i = 0; i < N_FILES; i++)
		assert_int_equal(state_of(t.v.fs, ino[i]).cold_blocks, 0);
	pass(60 * NSEC_PER_SEC);
	EVENTUALLY(strstr(status().paused, "followers"));
	fs_acked(t.v.fs, &all, 1, 1);
	EVENTUALLY(all_cold(ino));
	expect_files(ino);
}

static void it_ends_while_it_waits(void **state)
{
	uint64_t ino[N_FILES];

	(void)state;
	for (unsigned way = 0; way < 4; way++) {
		open_with(512 * MIB);
		make_files(ino);
		if (way < 2)
			assert_int_equal(fs_set_policy(t.v.fs, &root, FS_ROOT_INO, "durability", "replicas=1"), 0);
		else
			simobject_fault(t.so, OBJECT_PUT, 0, UINT64_MAX, SIMOBJECT_FAIL, -ECONNREFUSED);
		evict_files(ino);
		if (way < 2)
			EVENTUALLY(state_of(t.v.fs, ino[0]).tiered_blocks > 0);
		else
			EVENTUALLY(simobject_faults(t.so) > 0);
		tiered_reopen(&t, way % 2);
		simobject_clear(t.so);
		for (unsigned i = 0; i < N_FILES; i++)
			assert_int_equal(state_of(t.v.fs, ino[i]).cold_blocks, 0);
		expect_files(ino);
		assert_int_equal(fs_set_policy(t.v.fs, &root, FS_ROOT_INO, "durability", "local"), 0);
		evict_files(ino); /* without another upload of what is there */
		flush();
		assert_true(all_cold(ino));
		expect_files(ino);
		tiered_close(&t);
	}
}

/* ---- beside writers ---- */

#define N_WRITERS 3u
#define N_OWNED   8u
#define OWNED_MAX (600 * KIB)
#define RUN_S     2

struct writer {
	pthread_t thread;
	struct rng rng;
	uint64_t ino[N_OWNED];
	uint8_t *want[N_OWNED];
	size_t size[N_OWNED];
	_Atomic bool *stop;
	uint64_t n_writes, n_reads;
	char why[128];
};

static int do_write(struct writer *w, unsigned f)
{
	size_t len = 1 + rng_below(&w->rng, 40 * KIB), off = rng_below(&w->rng, OWNED_MAX - len);
	uint8_t p[40 * KIB];
	int r;

	fill_content(p, len, rng_u64(&w->rng), 0);
	while ((r = fs_write(t.v.fs, &root, w->ino[f], off, len, p, false)) == -EINPROGRESS)
		if ((r = fs_recall(t.v.fs)) < 0)
			return r;
	if (r < 0)
		return r;
	memcpy(w->want[f] + off, p, len);
	if (off + len > w->size[f])
		w->size[f] = off + len;
	w->n_writes++;
	return 0;
}

static int do_cut(struct writer *w, unsigned f)
{
	struct record_attr in = {.mask = ATTR_SIZE, .size = rng_below(&w->rng, w->size[f] + 1)};
	struct fs_attr a;
	int r;

	while ((r = fs_setattr(t.v.fs, &root, w->ino[f], &in, &a)) == -EINPROGRESS)
		if ((r = fs_recall(t.v.fs)) < 0)
			return r;
	if (r == 0) {
		memset(w->want[f] + in.size, 0, w->size[f] - in.size);
		w->size[f] = in.size;
	}
	return r;
}

static int do_read(struct writer *w, unsigned f, void *room)
{
	size_t n = 0;
	void *at;
	int r;

	while ((r = fs_read(t.v.fs, w->ino[f], 0, OWNED_MAX, room, &at, &n)) == -EINPROGRESS)
		if ((r = fs_recall(t.v.fs)) < 0)
			return r;
	if (r == 0 && (n != w->size[f] || memcmp(at, w->want[f], n) != 0)) {
		snprintf(w->why, sizeof(w->why), "file %u is not as it was written", f);
		return -EBADMSG;
	}
	w->n_reads++;
	return r;
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	void *room;
	int r = 0;

	if (posix_memalign(&room, 4096, OWNED_MAX + 8192))
		return NULL;
	while (r == 0 && !atomic_load(w->stop)) {
		unsigned f = (unsigned)rng_below(&w->rng, N_OWNED), what = (unsigned)rng_below(&w->rng, 10);

		r = what < 4 ? do_write(w, f) : what == 4 ? do_cut(w, f) : do_read(w, f, room);
		if (rng_percent(&w->rng, 30))
			usleep((useconds_t)rng_below(&w->rng, 3000));
	}
	for (unsigned f = 0; r == 0 && f < N_OWNED; f++)
		r = do_read(w, f, room);
	if (r < 0 && !*w->why)
		snprintf(w->why, sizeof(w->why), "%s", strerror(-r));
	free(room);
	return NULL;
}

static void writers_make(struct writer *w, unsigned n, _Atomic bool *stop)
{
	char name[24];

	for (unsigned i = 0; i < n; i++) {
		w[i] = (struct writer){.rng = rng_derive(seed, 1, i), .stop = stop};
		for (unsigned f = 0; f < N_OWNED; f++) {
			snprintf(name, sizeof(name), "w%u-%u", i, f);
			w[i].ino[f] = make_file(t.v.fs, t.v.dir, name);
			w[i].want[f] = calloc(1, OWNED_MAX);
		}
	}
}

/* Each file as its writer left it, read by somebody else. */
static void writers_check(struct writer *w, unsigned n)
{
	void *room = NULL;

	assert_int_equal(posix_memalign(&room, 4096, OWNED_MAX + 8192), 0);
	for (unsigned i = 0; i < n; i++)
		for (unsigned f = 0; f < N_OWNED; f++)
			assert_int_equal(do_read(&w[i], f, room), 0);
	free(room);
}

static void writers_free(struct writer *w, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		for (unsigned f = 0; f < N_OWNED; f++)
			free(w[i].want[f]);
}

static void files_are_as_written_while_they_go_out_and_come_back(void **state)
{
	struct rng g = rng_derive(seed, 2, 0);
	struct writer w[N_WRITERS];
	_Atomic bool stop = false;
	struct timespec from, now;

	(void)state;
	print_message("SEED=%llu\n", (unsigned long long)seed);
	writers_make(w, N_WRITERS, &stop);
	for (unsigned i = 0; i < N_WRITERS; i++)
		assert_int_equal(pthread_create(&w[i].thread, NULL, writer_main, &w[i]), 0);
	clock_gettime(CLOCK_MONOTONIC, &from);
	do {
		int r = ageing_evict(t.v.fs, w[rng_below(&g, N_WRITERS)].ino[rng_below(&g, N_OWNED)]);

		assert_int_equal(r, 0);
		if (rng_percent(&g, 5)) /* one call of the store goes wrong now and then */
			simobject_fault(t.so, OBJECT_KINDS, simobject_calls(t.so, OBJECT_KINDS) + 1 + rng_below(&g, 5), 1,
					SIMOBJECT_AFTER, -EIO);
		else if (rng_percent(&g, 5))
			simobject_clear(t.so);
		if (rng_percent(&g, 2))
			ageing_scan_now(t.v.fs);
		usleep((useconds_t)rng_below(&g, 4000));
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - from.tv_sec < RUN_S);
	simobject_clear(t.so);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < N_WRITERS; i++) {
		pthread_join(w[i].thread, NULL);
		assert_string_equal(w[i].why, "");
		assert_true(w[i].n_writes > 10 && w[i].n_reads > 10);
	}
	flush();
	writers_check(w, N_WRITERS);
	tiered_reopen(&t, rng_percent(&g, 50));
	writers_check(w, N_WRITERS);
	flush();
	writers_free(w, N_WRITERS);
	t.v.config.no_threads = true;
	tiered_reopen(&t, false);
	expect_sound(t.v.fs);
}

int main(void)
{
	const char *env = getenv("SEED");
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_asked_for_goes_out_with_any_memory),
	    cmocka_unit_test_setup_teardown(the_scan_runs_by_itself_when_asked, make, drop),
	    cmocka_unit_test(a_scan_that_finds_more_than_there_is_room_for_goes_on),
	    cmocka_unit_test(everything_goes_on_when_the_store_is_back),
	    cmocka_unit_test_setup_teardown(homes_wait_for_as_many_followers_as_the_policy_says, make, drop),
	    cmocka_unit_test(it_ends_while_it_waits),
	    cmocka_unit_test_setup_teardown(files_are_as_written_while_they_go_out_and_come_back, make, drop),
	};

	seed = env ? strtoull(env, NULL, 10) : (uint64_t)time(NULL);
	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
