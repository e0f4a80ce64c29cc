/*
 * steps.h: what a mounted volume does by itself, done by a test until nothing is left to do, and how the volume must be then.
 *
 * For volumes without threads (fs_config.no_threads).  cmocka.h is included before this.
 * Threads: one.  Errors: a failed assertion.
 */
#pragma once

#include "fs/core/core.h"

/* All that was written is durable and at home, in small steps, so that there are several. */
static inline void steps_home(struct fs *fs)
{
	bool more = true;

	assert_int_equal(journal_commit_all(fs->journal, NULL), 0);
	while (more)
		assert_int_equal(fs_home_step(fs, 64, &more), 0);
}

/* At home, and the ring is not needed any more. */
static inline void steps_settle(struct fs *fs)
{
	steps_home(fs);
	assert_int_equal(fs_checkpoint(fs), 0);
}

/* What removed files had is given back. */
static inline void steps_reap(struct fs *fs)
{
	bool more = true;

	while (more)
		assert_int_equal(fs_reap_step(fs, &more), 0);
}

/* What only deleted snapshots had is given back. */
static inline void steps_snaps(struct fs *fs)
{
	bool more = true;

	while (more)
		assert_int_equal(fs_snap_step(fs, &more), 0);
}

static inline uint64_t used_blocks(struct fs *fs)
{
	struct arena_status as;

	arena_get_status(fs->arena, &as);
	return as.used_blocks;
}

static inline uint64_t reserved_blocks(struct fs *fs)
{
	struct arena_status as;

	arena_get_status(fs->arena, &as);
	return as.reserved_blocks;
}

static inline void steps_finding(void *ctx, const char *line)
{
	(void)ctx;
	print_message("fsck: %s\n", line);
}

/* What fsck counts, data read too; findings are printed. */
static inline struct fs_check_result fsck_result(struct fs *fs)
{
	struct fs_check_result c;

	assert_int_equal(fs_check(fs, true, steps_finding, NULL, &c), 0);
	return c;
}

/* fsck finds nothing. */
static inline void assert_sound(struct fs *fs)
{
	const struct fs_check_result c = fsck_result(fs);

	assert_int_equal(c.damaged_blocks + c.structure_errors + c.accounting_errors, 0);
}
