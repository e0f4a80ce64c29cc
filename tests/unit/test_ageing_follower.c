/*
 * test_ageing_follower.c: what ageing does on a node that follows: it drops homes of what its leader has placed, and nothing
 * else.
 *
 * The two are joined by nothing but the table of journal/replica.h; both see the same object store.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "tests/unit/replica_world.h"
#include "tests/unit/tier_volume.h"

static struct tiered t; /* the leader */
static struct volume f; /* its follower */
static struct replica_cursor *cursor;

static void follow(struct store *store)
{
	struct super s;

	OK(super_read(store, &s));
	s.follower = true;
	s.node_id = 2;
	s.epoch = 0;
	OK(super_write(store, &s));
}

static void follower_make(void)
{
	struct fs_format_options o = {
	    .journal = {.n_segments = 16, .segment_blocks = 512},
	    .chunk_bytes = 16 * MIB,
	    .root_uid = OWNER,
	    .root_mode = 0755,
	    .node_id = 2,
	};

	memcpy(o.volume, point_of(t.v.fs).volume, sizeof(o.volume));
	f = (struct volume){.sim = simstore_new(), .config = t.v.config};
	f.index = kv_disk_new(f.sim);
	f.config.kv_ctx = f.index;
	f.config.store = simstore_open(f.sim);
	OK(fs_format(&f.config, &o));
	follow(f.config.store);
	OK(fs_open(&f.config, &f.fs));
}

static int make(void **state)
{
	(void)state;
	tiered_open(&t);
	follower_make();
	cursor = NULL;
	return 0;
}

static int drop(void **state)
{
	(void)state;
	ops_of(t.v.fs)->cursor_free(cursor);
	volume_close(&f);
	tiered_close(&t);
	return 0;
}

static void send(void)
{
	OK(fs_sync(t.v.fs));
	ship(t.v.fs, &cursor, f.fs);
	commit(f.fs);
}

static void only_what_the_leader_has_placed_is_dropped(void **state)
{
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", MIB, 1), later = file_of(t.v.fs, t.v.dir, "g", MIB, 2);
	struct ageing_status s;

	(void)state;
	send();
	uint64_t puts = simobject_calls(t.so, OBJECT_PUT);
	OK(ageing_evict(f.fs, ino));
	OK(ageing_step(f.fs));
	assert_int_equal(simobject_calls(t.so, OBJECT_PUT), puts);
	assert_true(is_hot(f.fs, ino));

	OK(ageing_evict(t.v.fs, ino));
	OK(ageing_step(t.v.fs));
	assert_true(is_cold(t.v.fs, ino));
	assert_true(is_hot(f.fs, ino));
	send();
	assert_int_equal(state_of(f.fs, ino).tiered_blocks, 256);
	assert_int_equal(state_of(f.fs, ino).cold_blocks, 0); /* each node has its own mind */
	OK(ageing_evict(f.fs, ino));
	OK(ageing_step(f.fs));
	assert_true(is_cold(f.fs, ino));
	assert_true(is_hot(f.fs, later));
	expect_content(f.fs, ino, MIB, 1);
	expect_content(f.fs, later, MIB, 2);
	ageing_get_status(f.fs, &s);
	assert_int_equal(s.packs, 0);
	assert_int_equal(s.evicted_blocks, 256);
	expect_sound(f.fs);
	expect_sound(t.v.fs);
}

static void its_own_scan_drops_what_is_cold_by_the_policy(void **state)
{
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", MIB, 1), other = file_of(t.v.fs, t.v.dir, "g", MIB, 2);

	(void)state;
	OK(ageing_evict(t.v.fs, ino));
	OK(ageing_step(t.v.fs));
	send();
	ageing_scan_now(f.fs);
	OK(ageing_step(f.fs));
	assert_false(is_cold(f.fs, ino));
	pass(31 * 24 * HOUR_NS);
	ageing_scan_now(f.fs);
	OK(ageing_step(f.fs));
	assert_true(is_cold(f.fs, ino));
	assert_true(is_hot(f.fs, other)); /* old enough, and not placed */
	expect_content(f.fs, ino, MIB, 1);
}

/* Objects are the leader's affair. */
static void it_removes_nothing_from_the_store(void **state)
{
	uint64_t ino = file_of(t.v.fs, t.v.dir, "f", MIB, 1);
	struct gc_result res;

	(void)state;
	OK(ageing_evict(t.v.fs, ino));
	OK(ageing_step(t.v.fs));
	OK(fs_unlink(t.v.fs, &root, t.v.dir, "f"));
	for (bool more = true; more;)
		OK(fs_reap_step(t.v.fs, &more));
	send();
	pass(2 * HOUR_NS);
	OK(ageing_step(f.fs));
	assert_int_equal(n_packs(&t), 1);
	FAILS(-EROFS, gc_run(f.fs, "s", false, ignore_line, NULL, &res));
	OK(gc_run(f.fs, "s", true, ignore_line, NULL, &res));
	assert_int_equal(res.listed, 1);
	assert_int_equal(res.orphans + res.missing + res.removed, 0);
	OK(ageing_step(t.v.fs));
	assert_int_equal(n_packs(&t), 0);
	send();
	struct objects_sum sum;
	OK(objects_sum(f.fs, 0, &sum));
	assert_int_equal(sum.n_objects, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(only_what_the_leader_has_placed_is_dropped, make, drop),
	    cmocka_unit_test_setup_teardown(its_own_scan_drops_what_is_cold_by_the_policy, make, drop),
	    cmocka_unit_test_setup_teardown(it_removes_nothing_from_the_store, make, drop),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
