/*
 * test_ageing_crash.c: the power goes, or the process, at every event of ageing: files on their way out, packed again, recalled,
 * and objects on their way out of the store.
 *
 * One run does all of that once, over a store and an object store that record it.  Then each cut of it is recovered in every
 * variant, with the object store as it was at that moment, and with a change of an object that was under way, or without it.
 * Every file that is there must read as it was written.  Then everything is aged out again, and after gc the store holds
 * what rows name.
 *
 * SEED=N repeats the choices.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "tests/unit/tier_volume.h"

#define N_KEPT 4u
#define N_GONE 12u

static const size_t sizes[N_KEPT] = {3, 10 * KIB, 64 * KIB + 1, 300 * KIB};
#define GONE_BYTES (100 * KIB)

static uint64_t seed;

static void name_file(bool kept, unsigned i, char name[16])
{
	snprintf(name, 16, "%c%u", kept ? 'k' : 'g', i);
}

/* ---- the run ---- */

struct story {
	struct tiered t;
	uint64_t kept[N_KEPT], gone[N_GONE];
	uint64_t first, last; /* events */
};

static void make_files(struct story *run)
{
	char name[16];

	for (unsigned i = 0; i < N_KEPT; i++) {
		name_file(true, i, name);
		run->kept[i] = file_of(run->t.v.fs, run->t.v.dir, name, sizes[i], i);
	}
	for (unsigned i = 0; i < N_GONE; i++) {
		name_file(false, i, name);
		run->gone[i] = file_of(run->t.v.fs, run->t.v.dir, name, GONE_BYTES, 100 + i);
	}
	assert_int_equal(fs_sync(run->t.v.fs), 0);
}

static void step(struct story *run)
{
	assert_int_equal(ageing_step(run->t.v.fs), 0);
}

static void age_out(struct story *run)
{
	struct fs *fs = run->t.v.fs;

	for (unsigned i = 0; i < N_KEPT; i++)
		assert_int_equal(ageing_evict(fs, run->kept[i]), 0);
	for (unsigned i = 0; i < N_GONE / 2; i++)
		assert_int_equal(ageing_evict(fs, run->gone[i]), 0);
	step(run);
	assert_true(is_cold(fs, run->kept[3]));
	for (unsigned i = N_GONE / 2; i < N_GONE; i++) /* in an object of their own: all of it will be dead at once */
		assert_int_equal(ageing_evict(fs, run->gone[i]), 0);
	step(run);
	assert_int_equal(n_packs(&run->t), 2);
	assert_int_equal(fs_checkpoint(fs), 0);
}

static void remove_gone(struct story *run, unsigned from, unsigned to)
{
	struct fs *fs = run->t.v.fs;
	char name[16];

	for (unsigned i = from; i < to; i++) {
		name_file(false, i, name);
		assert_int_equal(fs_unlink(fs, &root, run->t.v.dir, name), 0);
	}
	steps_reap(fs);
}

static void do_all(struct story *run)
{
	struct fs *fs = run->t.v.fs;
	uint64_t kept;

	run->first = simstore_count(run->t.v.sim);
	age_out(run);
	remove_gone(run, N_GONE / 2, N_GONE);
	step(run); /* there is no grace time */
	assert_int_equal(n_packs(&run->t), 1);
	remove_gone(run, 0, N_GONE / 2);
	step(run); /* packs what is left again */
	assert_int_equal(n_packs(&run->t), 1);
	assert_int_equal(recall_file(fs, run->kept[3], &kept), 0);
	assert_true(kept > 0);
	assert_int_equal(fs_checkpoint(fs), 0);
	assert_int_equal(ageing_evict(fs, run->kept[3]), 0);
	step(run);
	write_content(fs, run->kept[3], 5000, 5000, 3); /* the same bytes again */
	assert_int_equal(ageing_evict(fs, run->kept[3]), 0);
	step(run);
	assert_int_equal(fs_checkpoint(fs), 0);
	run->last = simstore_count(run->t.v.sim);
}

/* As tiered_open(), with every change of an object among the events of the store. */
static void run_open(struct story *run)
{
	*run = (struct story){0};
	volume_open(&run->t.v, &moved_clock);
	run->t.so = simobject_new(run->t.v.sim, &moved_clock);
	run->t.v.config.object_store_open = simobject_hook;
	run->t.v.config.object_store_ctx = run->t.so;
	tiered_reopen(&run->t, false);
	add_store(run->t.v.fs, "s file:///cold pack=8M grace=0");
	assert_int_equal(fs_set_policy(run->t.v.fs, &root, FS_ROOT_INO, "tier", "after=30d store=s"), 0);
	assert_int_equal(fs_set_policy(run->t.v.fs, &root, FS_ROOT_INO, "recall", "stream"), 0);
}

/* ---- a crash ---- */

static void check_files(struct fs *fs, uint64_t dir)
{
	struct fs_attr a;
	char name[16];

	for (unsigned i = 0; i < N_KEPT; i++) {
		name_file(true, i, name);
		assert_int_equal(fs_lookup(fs, dir, name, &a), 0);
		expect_content(fs, a.ino, sizes[i], i);
		fs_forget(fs, a.ino, 1);
	}
	for (unsigned i = 0; i < N_GONE; i++) {
		name_file(false, i, name);
		if (fs_lookup(fs, dir, name, &a) == 0) {
			expect_content(fs, a.ino, GONE_BYTES, 100 + i);
			fs_forget(fs, a.ino, 1);
		}
	}
}

static void age_out_again(struct tiered *t)
{
	struct fs *fs = t->v.fs;
	struct gc_result res;
	struct fs_attr a;
	char name[16];

	for (unsigned i = 0; i < N_KEPT; i++) {
		name_file(true, i, name);
		assert_int_equal(fs_lookup(fs, t->v.dir, name, &a), 0);
		fs_forget(fs, a.ino, 1);
		assert_int_equal(ageing_evict(fs, a.ino), 0);
	}
	assert_int_equal(ageing_step(fs), 0);
	for (unsigned i = 0; i < N_KEPT; i++) {
		name_file(true, i, name);
		assert_int_equal(fs_lookup(fs, t->v.dir, name, &a), 0);
		fs_forget(fs, a.ino, 1);
		assert_true(is_cold(fs, a.ino));
	}
	for (unsigned i = 0; i < 2; i++) {
		pass(2 * HOUR_NS);
		assert_int_equal(ageing_step(fs), 0);
	}
	assert_int_equal(gc_run(fs, "s", false, ignore_line, NULL, &res), 0);
	assert_int_equal(res.missing, 0);
	struct objects_sum sum;
	assert_int_equal(objects_sum(fs, 0, &sum), 0);
	assert_int_equal(n_packs(t), sum.n_objects);
}

static void crash(struct story *run, struct simcut *c, uint64_t k, enum simcut_variant v, bool object_too, struct rng *g)
{
	int64_t real = atomic_load(&clock_real_at), mono = atomic_load(&clock_mono_ahead);
	struct tiered t = {.v = run->t.v};
	bool newer = simcut_in_index_flush(c) && rng_percent(g, 50);

	t.v.sim = simcut_image(c, v, g, false);
	t.v.index = kv_disk_at(run->t.v.index, k + newer, t.v.sim);
	t.so = simobject_at(run->t.so, k, object_too, NULL);
	t.v.config.store = simstore_open(t.v.sim);
	t.v.config.kv_ctx = t.v.index;
	t.v.config.object_store_ctx = t.so;
	int r = fs_open(&t.v.config, &t.v.fs);
	if (r < 0)
		fail_msg("cut at event %llu, %s: %s", (unsigned long long)k, simcut_variant_name(v), strerror(-r));
	check_files(t.v.fs, t.v.dir);
	expect_sound(t.v.fs);
	age_out_again(&t);
	check_files(t.v.fs, t.v.dir);
	expect_sound(t.v.fs);
	tiered_close(&t);
	atomic_store(&clock_real_at, real);
	atomic_store(&clock_mono_ahead, mono);
}

static void no_byte_is_lost_at_any_cut(void **state)
{
	struct rng g = rng_derive(seed, 1, 0);
	struct story run;

	(void)state;
	print_message("SEED=%llu\n", (unsigned long long)seed);
	run_open(&run);
	make_files(&run);
	do_all(&run);
	struct simcut *c = simcut_new(run.t.v.sim);
	for (uint64_t k = run.first; k < run.last; k++) {
		simcut_advance(c, k);
		for (unsigned i = 0; i < 2 * SIMCUT_VARIANTS; i++)
			crash(&run, c, k, (enum simcut_variant)(i / 2), i % 2, &g);
	}
	print_message("%llu cuts\n", (unsigned long long)(run.last - run.first));
	assert_true(run.last - run.first > 20);
	simcut_free(c);
	tiered_close(&run.t);
}

int main(void)
{
	const char *env = getenv("SEED");
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(no_byte_is_lost_at_any_cut),
	};

	seed = env ? strtoull(env, NULL, 10) : (uint64_t)time(NULL);
	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
