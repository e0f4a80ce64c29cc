/*
 * share_case.h: what the tests of shared blocks begin with: test_share.c (how many refer to each), test_clone.c (what a clone has),
 * test_share_place.c (when a home that was shared is written over).
 *
 * Threads: one.  Errors: a failed assertion.
 */
#pragma once

#include <linux/falloc.h>

#include "fs/core/index.h"
#include "fs/core/share/share.h"
#include "memvolume.h"
#include "tests/lib/history.h"

#define OK(call) assert_int_equal(call, 0)

/* Homes that several slots have. */
static inline uint64_t count_rows(struct fs *fs)
{
	static const uint8_t first[] = {TABLE_SHARED};
	struct kv_iter *it;
	uint64_t n = 0;

	OK(fs->kv->ops->iter_open(fs->kv, &it));
	for (fs->kv->ops->iter_seek(it, (struct slice){first, 1}); fs->kv->ops->iter_valid(it); fs->kv->ops->iter_next(it)) {
		if (*(const uint8_t *)fs->kv->ops->iter_key(it).p != TABLE_SHARED)
			break;
		n++;
	}
	fs->kv->ops->iter_close(it);
	return n;
}

static inline uint64_t make_file(struct fs *fs, const char *name)
{
	struct fs_attr a;

	OK(fs_mknod(fs, &root, FS_ROOT_INO, name, S_IFREG | 0644, 0, &a));
	fs_forget(fs, a.ino, 1);
	return a.ino;
}

/* All of it, in as many calls as it takes. */
static inline void copy(struct fs *fs, uint64_t from, uint64_t from_off, uint64_t to, uint64_t to_off, uint64_t len)
{
	size_t n;

	for (uint64_t done = 0; done < len; done += n) {
		OK(fs_copy_range(fs, &root, from, from_off + done, to, to_off + done, len - done, &n));
		assert_true(n > 0 && n <= len - done);
	}
}
