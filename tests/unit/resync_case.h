/*
 * resync_case.h: what the tests of a resync share: how one ends well, and rows made by hand.
 *
 * Both volumes are made by the simulator's random operations, which know every kind of file, hole and attribute.
 * Threads: one.  Errors: a failed assertion.
 */
#pragma once

#include "fs/core/index.h"
#include "tests/unit/pull.h"

#define SEEDS 12u

static const struct fs_cred root = {.uid = 0};

static inline void reopen(struct sim_run *run)
{
	assert_int_equal(fs_close(run->fs), 0);
	assert_int_equal(sim_open_image(run, &run->image, &run->fs), 0);
}

/* Ends the resync, and the follower is the leader, now and after a mount. */
static inline void assert_becomes(struct sim_run *leader, struct sim_run *follower, struct pull *p)
{
	struct replica_point at;

	assert_int_equal(pull_run(p), 0);
	assert_int_equal(p->n_superseded, 0);
	for (int mounts = 0; mounts < 2; mounts++) {
		assert_int_equal(fs_readable(follower->fs), 0);
		assert_equal_volumes(leader, follower);
		assert_clean(follower);
		fs_replica(follower->fs)->ops->get_point(fs_replica(follower->fs), &at);
		assert_true(at.durable_seq == p->info.seq && at.hash == p->info.hash && at.applied_seq == p->info.seq);
		assert_true(at.history == p->info.epoch && !at.resyncing && !at.differs && at.fence == 0);
		assert_true(atomic_load(&follower->fs->next_ino) >= p->info.next_ino);
		assert_int_equal(atomic_load(&follower->fs->n_inodes), p->info.n_inodes);
		if (mounts == 0)
			reopen(follower);
	}
	pull_free(p);
}

static inline struct dentry_value a_dentry(uint64_t ino, uint64_t cookie, uint32_t type)
{
	return (struct dentry_value){.ino = le64_make(ino), .cookie = le64_make(cookie), .type = le32_make(type)};
}

static inline struct index_key named(enum index_table table, uint64_t ino, const void *name, size_t len)
{
	return key_name(table, ino, (struct slice){name, len});
}
