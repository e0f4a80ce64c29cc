/*
 * tempdir.h: a directory for one test case, removed with all it holds.
 *
 * Under $TMPDIR, else /var/tmp: a real disk, because tmpfs refuses some of what is tested.
 */
#pragma once

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void tempdir_make(char path[256])
{
	const char *base = getenv("TMPDIR");

	snprintf(path, 256, "%s/clawfs-test.XXXXXX", base ? base : "/var/tmp");
	if (!mkdtemp(path)) {
		perror(path);
		abort();
	}
}

static inline int tempdir_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static inline void tempdir_remove(const char *path)
{
	nftw(path, tempdir_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* The seed of a random test: $CLAWFS_SEED, else `fallback`; printed, so that a failure can be run again. */
static inline unsigned long test_seed(unsigned long fallback)
{
	const char *text = getenv("CLAWFS_SEED");
	unsigned long seed = text ? strtoul(text, NULL, 0) : fallback;

	fprintf(stderr, "# CLAWFS_SEED=%lu\n", seed);
	return seed;
}
