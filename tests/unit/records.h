/*
 * records.h: sample records of every type, and random ones, for the tests of the journal.
 *
 * Ownership: names and data point into static memory or into the caller's.
 */
#pragma once

#include <string.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "journal/record.h"
#include "tests/lib/rng.h"

static inline struct slice sample_text(const char *s)
{
	return (struct slice){s, strlen(s)};
}

static inline struct record sample_base(uint8_t type)
{
	return (struct record){.type = type,
			       .uid = 1000,
			       .gid = 100,
			       .pid = 4711,
			       .unique = 0x1122334455667788,
			       .time_ns = 1700000000000000001,
			       .ino = type == RECORD_CONFIG || type == RECORD_EPOCH ? 0 : 42};
}

static const uint32_t sample_crcs[RECORD_WRITE_BLOCKS_MAX] = {0x01020304, 0xa0b0c0d0, 0xffffffff, 7};

static const uint8_t sample_sealed[RECORD_SEALED_BYTES] = {9, 8, 7, [RECORD_SEALED_BYTES - 1] = 1};
static const struct record_place sample_places[] = {
    {.leaf = 0, .offset = 4096, .len = 300, .mask = 1},
    {.leaf = 1, .offset = 4396, .len = 65584, .mask = 0xffff},
    {.leaf = (UINT64_C(1) << 47) - 1, .offset = 69980, .len = 20, .mask = 0x8001},
};
static inline const struct record_place *sample_many_places(void)
{
	static struct record_place p[RECORD_PLACES_MAX];

	for (uint32_t i = 0; i < RECORD_PLACES_MAX; i++)
		p[i] =
		    (struct record_place){.leaf = 3 * (uint64_t)i, .offset = 4096 + 50 * i, .len = 49, .mask = (uint16_t)(i + 1)};
	return p;
}

/* One of each, more where variants differ; returns how many. */
static inline size_t sample_records(struct record *out, size_t cap)
{
	static char longest[RECORD_TARGET_MAX], value[RECORD_VALUE_MAX];
	size_t n = 0;

	memset(longest, 'x', sizeof(longest));
	memset(value, 0, sizeof(value));
#define SAMPLE(type_, ...)                                                                                                       \
	do {                                                                                                                     \
		if (n < cap) {                                                                                                   \
			out[n] = sample_base(type_);                                                                             \
			struct record *r = &out[n++];                                                                            \
			__VA_ARGS__;                                                                                             \
		}                                                                                                                \
	} while (0)
	SAMPLE(RECORD_MKNODE, r->mknode.parent = 1, r->mknode.cookie = 3, r->mknode.name = sample_text("file"),
	       r->mknode.mode = S_IFREG | 0644, r->mknode.uid = 1, r->mknode.gid = 2);
	SAMPLE(RECORD_MKNODE, r->mknode.parent = 1, r->mknode.cookie = 4, r->mknode.name = sample_text("link"),
	       r->mknode.mode = S_IFLNK | 0777, r->mknode.target = (struct slice){longest, RECORD_TARGET_MAX});
	SAMPLE(RECORD_MKNODE, r->mknode.parent = 1, r->mknode.cookie = 5,
	       r->mknode.name = (struct slice){longest, RECORD_NAME_MAX}, r->mknode.mode = S_IFCHR | 0600,
	       r->mknode.rdev = 0x10003);
	SAMPLE(RECORD_LINK, r->link.parent = 7, r->link.cookie = 9, r->link.name = sample_text("..."));
	SAMPLE(RECORD_UNLINK, r->unlink.parent = 7, r->unlink.name = sample_text("a"));
	SAMPLE(RECORD_RENAME, r->rename.parent = 7, r->rename.new_parent = 8, r->rename.new_cookie = 10, r->rename.target = 11,
	       r->rename.whiteout_ino = 12, r->rename.flags = RENAME_F_WHITEOUT, r->rename.name = sample_text("old name"),
	       r->rename.new_name = sample_text("new\xff"));
	SAMPLE(RECORD_SETATTR, r->attr = (struct record_attr){.mask = ATTR_ALL,
							      .mode = 04755,
							      .uid = 5,
							      .gid = 6,
							      .size = 123456789,
							      .atime_ns = -1,
							      .mtime_ns = 2,
							      .ctime_ns = 3});
	SAMPLE(RECORD_SETXATTR, r->xattr.name = sample_text("user.a"), r->xattr.value = sample_text("value"));
	SAMPLE(RECORD_SETXATTR, r->xattr.name = sample_text("trusted.a/b"),
	       r->xattr.value = (struct slice){value, RECORD_VALUE_MAX});
	SAMPLE(RECORD_SETXATTR, r->xattr.name = sample_text("user.empty"));
	SAMPLE(RECORD_RMXATTR, r->xattr.name = sample_text("user.a"));
	SAMPLE(RECORD_WRITE, r->write.block = 17, r->write.n_blocks = 3, r->write.size = 20 * 4096, r->write.mtime_ns = INT64_MIN,
	       r->write.crc = sample_crcs);
	SAMPLE(RECORD_WRITE, r->write.block = 0, r->write.n_blocks = RECORD_WRITE_BLOCKS_MAX, r->write.size = INT64_MAX,
	       r->write.out_of_line = true, r->write.crc = sample_crcs);
	SAMPLE(RECORD_ZERO, r->zero.block = 5, r->zero.n_blocks = UINT64_C(1) << 40, r->zero.mode = ZERO_RANGE,
	       r->zero.size = 4096);
	SAMPLE(RECORD_REAP, r->reap.from_leaf = 99);
	SAMPLE(RECORD_TIER, r->tier.change = TIER_PLACE, r->tier.store = 3, r->tier.object = UINT64_MAX,
	       r->tier.object_bytes = 70000, r->tier.n_blocks = 40, r->tier.sealed = sample_sealed,
	       r->tier.places = sample_places, r->tier.n_places = ARRAY_SIZE(sample_places));
	SAMPLE(RECORD_TIER, r->tier.change = TIER_PLACE, r->tier.store = UINT32_MAX, r->tier.object = 1,
	       r->tier.object_bytes = UINT32_MAX, r->tier.n_blocks = UINT32_MAX, r->tier.sealed = sample_sealed,
	       r->tier.places = sample_many_places(), r->tier.n_places = RECORD_PLACES_MAX);
	SAMPLE(RECORD_TIER, r->ino = 1, r->tier.change = TIER_FORGET, r->tier.store = 1, r->tier.object = 7,
	       r->tier.object_bytes = 4096, r->tier.n_blocks = 1, r->tier.sealed = sample_sealed);
	SAMPLE(RECORD_SNAP, r->ino = 1, r->flags = 0, r->snap.gen = 7, r->snap.name = sample_text("before the upgrade"));
	SAMPLE(RECORD_SNAPDROP, r->ino = 1, r->flags = 0, r->snap.gen = UINT64_MAX,
	       r->snap.name = (struct slice){longest, RECORD_NAME_MAX});
	SAMPLE(RECORD_SNAPROLL, r->ino = 1, r->flags = 0, r->snap.gen = 8, r->snap.name = sample_text("before the upgrade"));
	SAMPLE(RECORD_CONFIG, r->config.key = sample_text("compression"), r->config.value = sample_text("zstd"));
	SAMPLE(RECORD_CLONE, r->clone.from = 7, r->clone.from_block = 3, r->clone.block = UINT64_C(1) << 40, r->clone.n_blocks = 1,
	       r->clone.size = INT64_MAX, r->clone.mtime_ns = 1700000000000000002);
	SAMPLE(RECORD_CLONE, r->clone.from = r->ino, r->clone.block = RECORD_CLONE_BLOCKS_MAX,
	       r->clone.n_blocks = RECORD_CLONE_BLOCKS_MAX, r->clone.size = 1, r->clone.mtime_ns = -1);
	SAMPLE(RECORD_EPOCH, r->epoch.epoch = 3, r->epoch.incarnation = 4);
#undef SAMPLE
	return n;
}
