/*
 * test_quota_threads.c: many threads against two quotas, in the product's own surroundings: a host directory, RocksDB, the
 * services.
 *
 * The threads create, grow, cut, move and remove files below two directories with quotas and one without, and move whole trees
 * between them, while another thread looks: no moment may be beyond a limit.  At the end every total is what a walk counts, and
 * both limits were met; so after a kill.  CLAWFS_SEED=N repeats the choices; the order of the threads is the machine's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/core.h"
#include "journal/journal_format.h"
#include "tests/lib/recount.h"
#include "tests/lib/rng.h"
#include "tests/unit/tempdir.h"

#define N_THREADS 6u
#define N_PLACES  3u /* two with quotas, one without */
#define N_TREES   4u /* directories that are moved between places */
#define N_NAMES   6u
#define SEGMENT   512u /* blocks */
#define RUN_NS    (2 * NSEC_PER_SEC)
#define MAX_BYTES (700 * KIB)
#define MAX_FILES 18u
#define WRITE_MAX (200 * KIB)

struct actor {
	unsigned no;
	struct rng g;
	pthread_t thread;
	uint8_t *buf;
};
static struct {
	char dir[256];
	unsigned long seed;
	struct fs *fs;
	uint64_t place[N_PLACES];
	struct actor actor[N_THREADS];
	_Atomic bool stop;
	_Atomic uint64_t n_ops, n_refused, n_moved, n_looked, most_bytes[N_PLACES], most_files[N_PLACES];
	_Atomic int unexpected; /* the first */
	_Atomic uint64_t beyond;
} w;
static const struct fs_cred cred = {.pid = 1};

static int open_index(void *ctx, bool create, struct kv **ret)
{
	const struct kv_rocksdb_options o = {.cache_bytes = 8 * MIB, .max_open_files = 32, .create = create};
	char path[300];

	(void)ctx;
	snprintf(path, sizeof(path), "%s/index", w.dir);
	return kv_rocksdb_open(path, &o, ret);
}

static struct fs_config config(bool threads)
{
	struct fs_config c = {.kv_open = open_index,
			      .n_workers = N_THREADS + 1,
			      .memory_bytes = 64 * MIB,
			      .checkpoint_interval_ns = NSEC_PER_SEC / 5,
			      .no_threads = !threads};

	assert_int_equal(store_posix_open(w.dir, false, &c.store), 0);
	return c;
}

static void open_volume(bool threads)
{
	struct fs_config c = config(threads);

	assert_int_equal(fs_open(&c, &w.fs), 0);
}

static uint64_t make_dir(uint64_t parent, const char *name)
{
	struct fs_attr a;

	assert_int_equal(fs_mknod(w.fs, &cred, parent, name, S_IFDIR | 0755, 0, &a), 0);
	fs_forget(w.fs, a.ino, 1);
	return a.ino;
}

static void make_world(void)
{
	const struct fs_format_options o = {
	    .journal = {.n_segments = 2 * BATCH_MAX_BLOCKS / SEGMENT + 2, .segment_blocks = SEGMENT}, .chunk_bytes = 16 * MIB};
	struct fs_config c = config(false);
	char text[32];

	assert_int_equal(fs_format(&c, &o), 0);
	store_close(c.store);
	open_volume(true);
	for (unsigned i = 0; i < N_PLACES; i++) {
		snprintf(text, sizeof(text), "place%u", i);
		w.place[i] = make_dir(FS_ROOT_INO, text);
	}
	for (unsigned i = 0; i < N_TREES; i++) {
		snprintf(text, sizeof(text), "tree%u", i);
		make_dir(make_dir(w.place[i % N_PLACES], text), "deep");
	}
	for (unsigned i = 0; i < 2; i++) {
		snprintf(text, sizeof(text), "%u", (unsigned)MAX_BYTES);
		assert_int_equal(fs_set_quota(w.fs, &cred, w.place[i], QUOTA_BYTES, text), 0);
		snprintf(text, sizeof(text), "%u", MAX_FILES);
		assert_int_equal(fs_set_quota(w.fs, &cred, w.place[i], QUOTA_FILES, text), 0);
	}
}

/* ---- what the threads do ---- */

static void note(int r)
{
	int none = 0;

	atomic_fetch_add(&w.n_ops, 1);
	if (r == -EDQUOT)
		atomic_fetch_add(&w.n_refused, 1);
	else if (r < 0 && r != -ENOENT && r != -EEXIST && r != -ENOTDIR && r != -EISDIR && r != -ENOTEMPTY && r != -EINVAL)
		atomic_compare_exchange_strong(&w.unexpected, &none, r);
}

static uint64_t look_up(uint64_t parent, const char *name)
{
	struct fs_attr a;

	if (!parent || fs_lookup(w.fs, parent, name, &a) < 0)
		return 0;
	fs_forget(w.fs, a.ino, 1);
	return a.ino;
}

/* A place, a tree in it, or the directory in that. */
static uint64_t some_dir(struct actor *a)
{
	uint64_t dir = w.place[rng_below(&a->g, N_PLACES)];
	char tree[16];

	if (rng_percent(&a->g, 40))
		return dir;
	snprintf(tree, sizeof(tree), "tree%u", (unsigned)rng_below(&a->g, N_TREES));
	uint64_t in = look_up(dir, tree);
	if (!in)
		return dir;
	uint64_t deep = rng_percent(&a->g, 50) ? look_up(in, "deep") : 0;
	return deep ? deep : in;
}

static void some_name(struct actor *a, char name[16])
{
	snprintf(name, 16, "f%u", (unsigned)rng_below(&a->g, N_NAMES));
}

static void create(uint64_t dir, const char *name)
{
	struct fs_attr attr;
	int r = fs_mknod(w.fs, &cred, dir, name, S_IFREG | 0644, 0, &attr);

	if (r == 0)
		fs_forget(w.fs, attr.ino, 1);
	note(r);
}

static void change(struct actor *a, uint64_t dir, const char *name)
{
	uint64_t ino = look_up(dir, name), off = rng_below(&a->g, 150 * KIB);
	struct fs_attr attr;

	if (!ino)
		return;
	if (rng_percent(&a->g, 60)) {
		note(fs_write(w.fs, &cred, ino, off, 1 + rng_below(&a->g, WRITE_MAX), a->buf, false));
	} else if (rng_percent(&a->g, 70)) {
		const struct record_attr size = {.mask = ATTR_SIZE, .size = off};

		note(fs_setattr(w.fs, &cred, ino, &size, &attr));
	} else {
		note(fs_fallocate(w.fs, &cred, ino, 0, off, 1 + rng_below(&a->g, WRITE_MAX)));
	}
}

static void move_tree(struct actor *a)
{
	uint64_t from = w.place[rng_below(&a->g, N_PLACES)], to = w.place[rng_below(&a->g, N_PLACES)];
	char name[16];

	snprintf(name, sizeof(name), "tree%u", (unsigned)rng_below(&a->g, N_TREES));
	int r = fs_rename(w.fs, &cred, from, name, to, name, RENAME_NOREPLACE);
	if (r == 0 && from != to)
		atomic_fetch_add(&w.n_moved, 1);
	note(r);
}

static void act(struct actor *a)
{
	uint64_t dir = some_dir(a), other = some_dir(a);
	unsigned what = (unsigned)rng_below(&a->g, 100);
	char name[16], new_name[16];

	some_name(a, name);
	some_name(a, new_name);
	if (what < 25)
		create(dir, name);
	else if (what < 60)
		change(a, dir, name);
	else if (what < 75)
		note(fs_unlink(w.fs, &cred, dir, name));
	else if (what < 88)
		note(fs_rename(w.fs, &cred, dir, name, other, new_name, what % 3 ? 0 : RENAME_EXCHANGE));
	else
		move_tree(a);
}

static void *act_main(void *p)
{
	struct actor *a = p;

	while (!atomic_load(&w.stop))
		act(a);
	return NULL;
}

static void look(void)
{
	for (unsigned i = 0; i < 2; i++) {
		struct fs_usage u;

		if (fs_dir_usage(w.fs, w.place[i], &u) < 0) {
			atomic_fetch_add(&w.beyond, 1);
			return;
		}
		uint64_t files = u.files + u.subdirs;
		if (u.bytes > MAX_BYTES || files > MAX_FILES)
			atomic_fetch_add(&w.beyond, 1);
		raise_u64(&w.most_bytes[i], u.bytes);
		raise_u64(&w.most_files[i], files);
	}
	atomic_fetch_add(&w.n_looked, 1);
}

static void run_threads(void)
{
	int64_t until = clock_mono_ns(&clock_system) + RUN_NS;

	atomic_store(&w.stop, false);
	for (unsigned i = 0; i < N_THREADS; i++) {
		struct actor *a = &w.actor[i];

		*a = (struct actor){
		    .no = i, .g = rng_derive(w.seed, i, 0), .buf = aligned_alloc(DISK_BLOCK, WRITE_MAX + DISK_BLOCK)};
		memset(a->buf, (int)i, WRITE_MAX + DISK_BLOCK);
		assert_int_equal(pthread_create(&a->thread, NULL, act_main, a), 0);
	}
	while (clock_mono_ns(&clock_system) < until) {
		look();
		usleep(200);
	}
	atomic_store(&w.stop, true);
	for (unsigned i = 0; i < N_THREADS; i++) {
		pthread_join(w.actor[i].thread, NULL);
		free(w.actor[i].buf);
	}
}

static void finding(void *ctx, const char *line)
{
	(void)ctx;
	print_message("%s\n", line);
}

static void check_all(void)
{
	struct fs_check_result res;
	char why[400];

	if (recount_check(w.fs, FS_ROOT_INO, why, sizeof(why)) != 0)
		fail_msg("%s", why);
	assert_int_equal(fs_check(w.fs, false, finding, NULL, &res), 0);
	assert_int_equal(res.structure_errors + res.accounting_errors, 0);
}

static void no_moment_is_beyond_a_quota(void **state)
{
	(void)state;
	make_world();
	run_threads();
	print_message("%llu operations, %llu refused, %llu trees moved, looked %llu times; most %llu bytes, %llu files\n",
		      (unsigned long long)w.n_ops, (unsigned long long)w.n_refused, (unsigned long long)w.n_moved,
		      (unsigned long long)w.n_looked, (unsigned long long)w.most_bytes[0], (unsigned long long)w.most_files[0]);
	assert_int_equal(atomic_load(&w.unexpected), 0);
	assert_int_equal(atomic_load(&w.beyond), 0);
	assert_true(w.n_refused > 0 && w.n_looked > 0);
	for (unsigned i = 0; i < 2; i++) { /* both ends were met, or nothing was tried */
		assert_true(w.most_bytes[i] > MAX_BYTES / 2);
		assert_true(w.most_files[i] > MAX_FILES / 2);
	}
	fs_abandon(w.fs);
	open_volume(false);
	check_all();
	assert_int_equal(fs_close(w.fs), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(no_moment_is_beyond_a_quota)};

	w.seed = test_seed((unsigned long)clock_mono_ns(&clock_system));
	tempdir_make(w.dir);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	tempdir_remove(w.dir);
	return failed;
}
