/*
 * test_snap_resync: what a resync does to snapshots: which there are is the leader's affair, and what this node holds of them
 * stays its own; what it held of others goes, and its blocks come back.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/replica/impl.h"
#include "fs/core/replica/rows.h"
#include "tests/crash/sim_run.h"
#include "tests/lib/cow.h"
#include "tests/lib/steps.h"
#include "pull.h"

static const struct fs_cred root = {.uid = 0};

static void lead(struct sim_run *run, uint64_t seed, unsigned n)
{
	must(run, sim_format(run, seed, SIM_MIXED, 0));
	run->snapshots = true;
	must(run, sim_mount(run));
	go_on(run, n);
}

struct held {
	struct fs_snap s[64];
	size_t n;
};

static int note(void *ctx, const struct fs_snap *s)
{
	struct held *h = ctx;

	assert_true(h->n < ARRAY_SIZE(h->s));
	h->s[h->n++] = *s;
	return 0;
}

/* Two histories may have made one each with the same number, in the batch of the same number. */
static const struct fs_snap *find(const struct held *h, const struct fs_snap *s)
{
	for (size_t i = 0; i < h->n; i++)
		if (h->s[i].gen == s->gen && h->s[i].seq == s->seq && strcmp(h->s[i].name, s->name) == 0 && h->s[i].held)
			return &h->s[i];
	return NULL;
}

/* Entries of one snapshot out of a tree of everything. */
static size_t of_snapshot(const struct tree *t, const char *name, struct tree *ret)
{
	char prefix[512];
	int len = snprintf(prefix, sizeof(prefix), "/.clawfs/snapshots/%s", name);

	*ret = (struct tree){0};
	for (size_t i = 0; i < t->n; i++)
		if (strncmp(t->e[i].path, prefix, (size_t)len) == 0 && (t->e[i].path[len] == '/' || !t->e[i].path[len]))
			tree_add(ret, t->e[i].path, &t->e[i]);
	return ret->n;
}

static void assert_same_snapshot(struct fs *a, struct fs *b, const char *name)
{
	struct tree x, y, sx, sy;
	char why[512];

	if (tree_read(a, &x, why, sizeof(why)) || tree_read(b, &y, why, sizeof(why)))
		fail_msg("%s", why);
	assert_true(of_snapshot(&x, name, &sx) > 0);
	of_snapshot(&y, name, &sy);
	if (tree_diff(&sx, &sy, why, sizeof(why)))
		fail_msg("%s", why);
	tree_free(&x);
	tree_free(&y);
	tree_free(&sx);
	tree_free(&sy);
}

/* Returns how many snapshots of the leader the follower holds. */
static size_t check_after(struct sim_run *leader, struct sim_run *follower, const struct held *before)
{
	struct row_list want, got;
	struct held l = {.n = 0}, f = {.n = 0};
	size_t n = 0;

	rows_of(leader->fs, &want);
	rows_of(follower->fs, &got);
	assert_same_rows(&got, &want);
	row_list_free(&want);
	row_list_free(&got);
	assert_clean(follower);
	steps_snaps(follower->fs);
	assert_clean(follower);
	assert_int_equal(fs_snap_each(leader->fs, false, note, &l), 0);
	assert_int_equal(fs_snap_each(follower->fs, false, note, &f), 0);
	assert_int_equal(l.n, f.n);
	for (size_t i = 0; i < l.n; i++) {
		assert_string_equal(l.s[i].name, f.s[i].name);
		assert_int_equal(f.s[i].held, find(before, &l.s[i]) != NULL);
		if (!f.s[i].held)
			continue;
		assert_same_snapshot(follower->fs, leader->fs, l.s[i].name);
		n++;
	}
	return n;
}

static void what_is_held_of_the_common_past_stays(void **state)
{
	size_t kept = 0, went = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct sim_run leader, follower;
		struct held before = {.n = 0};

		print_message("seed %llu\n", (unsigned long long)seed);
		lead(&leader, seed, COMMON_STEPS);
		assert_int_equal(fs_sync(leader.fs), 0);
		lead(&follower, seed, COMMON_STEPS);
		assert_int_equal(fs_sync(follower.fs), 0);
		go_on(&leader, 60);
		follower.rng = rng_derive(seed, 77, 1);
		go_on(&follower, 60);
		node_follow(follower.fs);
		assert_int_equal(fs_snap_each(follower.fs, false, note, &before), 0);
		struct pull p = {.leader = leader.fs, .follower = follower.fs};
		assert_int_equal(pull_run(&p), 0);
		pull_free(&p);
		size_t n = check_after(&leader, &follower, &before);
		kept += n;
		went += before.n - n;
		assert_int_equal(fs_close(follower.fs), 0);
		assert_int_equal(sim_open_image(&follower, &follower.image, &follower.fs), 0);
		check_after(&leader, &follower, &before);
		sim_free(&follower);
		sim_free(&leader);
	}
	assert_true(kept > 0 && went > 0);
}

static void a_new_follower_knows_of_snapshots_and_holds_none(void **state)
{
	const struct held none = {.n = 0};
	struct sim_run leader, follower;
	uint64_t ino;

	(void)state;
	lead(&leader, 3, 50);
	assert_int_equal(fs_snap_create(leader.fs, &root, "before"), 0);
	node_join(&follower, &leader, 0);
	struct pull p = {.leader = leader.fs, .follower = follower.fs};
	assert_int_equal(pull_run(&p), 0);
	pull_free(&p);
	assert_int_equal(check_after(&leader, &follower, &none), 0);
	assert_int_equal(fs_snap_root(follower.fs, "before", &ino), -ENOENT);
	sim_free(&follower);
	sim_free(&leader);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_held_of_the_common_past_stays),
	    cmocka_unit_test(a_new_follower_knows_of_snapshots_and_holds_none),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
