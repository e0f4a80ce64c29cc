/*
 * archive_case.h: the archive of a volume of tier_volume.h, with the rounds of the archiver made by the test.
 *
 * Threads: one.  Errors: a failed assertion.
 */
#pragma once

#include "fs/core/archive/impl.h"
#include "tests/unit/tier_volume.h"

/* Rounds until nothing is left to do. */
static inline void archive_rounds(struct fs *fs)
{
	bool more = true;

	assert_int_equal(fs_sync(fs), 0);
	for (unsigned i = 0; more; i++) {
		assert_true(i < 1000);
		assert_int_equal(archiver_step(fs, true, &more), 0);
	}
}

/* A base, now. */
static inline void archive_new_base(struct fs *fs)
{
	uint64_t n = fs->archiver->v.bases;

	fs->archiver->since_base = UINT64_MAX / 2;
	archive_rounds(fs);
	assert_int_equal(fs->archiver->v.bases, n + 1);
}
