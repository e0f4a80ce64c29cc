/*
 * test_record.c: record.h: every type there and back, and that nothing but a whole valid record is taken for one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>

#include "journal/journal_format.h"
#include "tests/unit/records.h"

#define SAMPLES_MAX 32

static bool same_slice(struct slice a, struct slice b)
{
	return a.len == b.len && (!a.len || memcmp(a.p, b.p, a.len) == 0);
}

static bool same_places(const struct record *a, const struct record *b)
{
	for (uint32_t i = 0; a->tier.n_places == b->tier.n_places && i < a->tier.n_places; i++) {
		struct record_place x = record_place_at(a, i), y = record_place_at(b, i);

		if (x.leaf != y.leaf || x.offset != y.offset || x.len != y.len || x.mask != y.mask)
			return false;
	}
	return a->tier.n_places == b->tier.n_places;
}

static bool same_body(const struct record *a, const struct record *b)
{
	switch (a->type) {
	case RECORD_MKNODE:
		return a->mknode.parent == b->mknode.parent && a->mknode.cookie == b->mknode.cookie &&
		       a->mknode.mode == b->mknode.mode && a->mknode.uid == b->mknode.uid && a->mknode.gid == b->mknode.gid &&
		       a->mknode.rdev == b->mknode.rdev && same_slice(a->mknode.name, b->mknode.name) &&
		       same_slice(a->mknode.target, b->mknode.target);
	case RECORD_LINK:
		return a->link.parent == b->link.parent && a->link.cookie == b->link.cookie &&
		       same_slice(a->link.name, b->link.name);
	case RECORD_UNLINK:
		return a->unlink.parent == b->unlink.parent && same_slice(a->unlink.name, b->unlink.name);
	case RECORD_RENAME:
		return a->rename.parent == b->rename.parent && a->rename.new_parent == b->rename.new_parent &&
		       a->rename.new_cookie == b->rename.new_cookie && a->rename.target == b->rename.target &&
		       a->rename.whiteout_ino == b->rename.whiteout_ino && a->rename.flags == b->rename.flags &&
		       same_slice(a->rename.name, b->rename.name) && same_slice(a->rename.new_name, b->rename.new_name);
	case RECORD_SETATTR:
		return memcmp(&a->attr, &b->attr, sizeof(a->attr)) == 0;
	case RECORD_SETXATTR:
	case RECORD_RMXATTR:
		return same_slice(a->xattr.name, b->xattr.name) && same_slice(a->xattr.value, b->xattr.value);
	case RECORD_WRITE:
		return a->write.block == b->write.block && a->write.n_blocks == b->write.n_blocks &&
		       a->write.size == b->write.size && a->write.out_of_line == b->write.out_of_line &&
		       a->write.mtime_ns == b->write.mtime_ns &&
		       memcmp(a->write.crc, b->write.crc, 4 * (size_t)a->write.n_blocks) == 0;
	case RECORD_ZERO:
		return a->zero.block == b->zero.block && a->zero.n_blocks == b->zero.n_blocks && a->zero.mode == b->zero.mode &&
		       a->zero.size == b->zero.size;
	case RECORD_CLONE:
		return a->clone.from == b->clone.from && a->clone.from_block == b->clone.from_block &&
		       a->clone.block == b->clone.block && a->clone.n_blocks == b->clone.n_blocks &&
		       a->clone.size == b->clone.size && a->clone.mtime_ns == b->clone.mtime_ns;
	case RECORD_REAP:
		return a->reap.from_leaf == b->reap.from_leaf;
	case RECORD_TIER:
		return a->tier.change == b->tier.change && a->tier.store == b->tier.store && a->tier.object == b->tier.object &&
		       a->tier.object_bytes == b->tier.object_bytes && a->tier.n_blocks == b->tier.n_blocks &&
		       memcmp(a->tier.sealed, b->tier.sealed, RECORD_SEALED_BYTES) == 0 && same_places(a, b);
	case RECORD_SNAP:
	case RECORD_SNAPDROP:
	case RECORD_SNAPROLL:
		return a->snap.gen == b->snap.gen && same_slice(a->snap.name, b->snap.name);
	case RECORD_CONFIG:
		return same_slice(a->config.key, b->config.key) && same_slice(a->config.value, b->config.value);
	default:
		return a->epoch.epoch == b->epoch.epoch && a->epoch.incarnation == b->epoch.incarnation;
	}
}

static bool same(const struct record *a, const struct record *b)
{
	return a->type == b->type && a->flags == b->flags && a->uid == b->uid && a->gid == b->gid && a->pid == b->pid &&
	       a->unique == b->unique && a->time_ns == b->time_ns && a->ino == b->ino && same_body(a, b);
}

static void every_type_comes_back_as_it_was(void **state)
{
	struct record samples[SAMPLES_MAX], back;
	size_t n = sample_records(samples, SAMPLES_MAX), used;
	bool seen[RECORD_TYPE_MAX + 1] = {false};

	(void)state;
	for (size_t i = 0; i < n; i++) {
		CLEANUP_BUF struct buf buf = {0};
		bool alone =
		    samples[i].type == RECORD_SNAP || samples[i].type == RECORD_SNAPDROP || samples[i].type == RECORD_SNAPROLL;
		samples[i].flags = i % 2 && !alone ? RECORD_MORE : 0;
		assert_int_equal(record_encode(&samples[i], &buf), 0);
		assert_int_equal(buf.len % 8, 0);
		assert_int_equal(record_decode(buf.p, buf.len, &back, &used), 0);
		assert_int_equal(used, buf.len);
		assert_true(same(&samples[i], &back));
		assert_int_equal(back.write.n_data * (back.type == RECORD_WRITE), 0);
		seen[samples[i].type] = true;
	}
	for (unsigned type = 1; type <= RECORD_TYPE_MAX; type++)
		assert_int_equal(seen[type], strcmp(record_type_name(type), "?") != 0);
}

static void records_follow_one_another(void **state)
{
	struct record samples[SAMPLES_MAX], back;
	size_t n = sample_records(samples, SAMPLES_MAX), used, at = 0;
	CLEANUP_BUF struct buf buf = {0};

	(void)state;
	for (size_t i = 0; i < n; i++)
		assert_int_equal(record_encode(&samples[i], &buf), 0);
	for (size_t i = 0; i < n; i++, at += used) {
		assert_int_equal(record_decode(buf.p + at, buf.len - at, &back, &used), 0);
		assert_true(same(&samples[i], &back));
	}
	assert_int_equal(at, buf.len);
}

static void every_truncation_is_refused(void **state)
{
	struct record samples[SAMPLES_MAX], back;
	size_t n = sample_records(samples, SAMPLES_MAX), used;

	(void)state;
	for (size_t i = 0; i < n; i++) {
		CLEANUP_BUF struct buf buf = {0};
		assert_int_equal(record_encode(&samples[i], &buf), 0);
		for (size_t len = 0; len<buf.len; len += buf.len> 8192 ? 61 : 1) {
			/* a copy of just that length, so that a sanitizer sees a read behind it */
			CLEANUP_FREE uint8_t *copy = malloc(len ? len : 1);
			memcpy(copy, buf.p, len);
			assert_int_equal(record_decode(copy, len, &back, &used), -EUCLEAN);
		}
	}
}

static void every_bit_flip_is_refused(void **state)
{
	struct record samples[SAMPLES_MAX], back;
	size_t n = sample_records(samples, SAMPLES_MAX), used;

	(void)state;
	for (size_t i = 0; i < n; i++) {
		CLEANUP_BUF struct buf buf = {0};
		assert_int_equal(record_encode(&samples[i], &buf), 0);
		for (size_t bit = 0; bit<buf.len * 8; bit += buf.len> 4096 ? 509 : 1) {
			buf.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
			assert_int_equal(record_decode(buf.p, buf.len, &back, &used), -EUCLEAN);
			buf.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
	}
}

static void seal(uint8_t *p, size_t len)
{
	le32 crc = le32_make(crc32c(0, p + 4, len - 4));

	memcpy(p, &crc, 4);
}

/* As by a hostile peer: the CRC is right, the fields are anything.  Nothing is read outside, and what is accepted could be
 * written again. */
static void damage_under_a_right_crc_is_refused_or_harmless(void **state)
{
	struct record samples[SAMPLES_MAX], back;
	size_t n = sample_records(samples, SAMPLES_MAX), used;
	struct rng rng = {.state = 1};

	(void)state;
	for (size_t i = 0; i < n; i++) {
		CLEANUP_BUF struct buf buf = {0};
		assert_int_equal(record_encode(&samples[i], &buf), 0);
		for (int round = 0; round < 3000; round++) {
			CLEANUP_FREE uint8_t *copy = malloc(buf.len);
			CLEANUP_BUF struct buf again = {0};
			memcpy(copy, buf.p, buf.len);
			for (uint64_t k = rng_between(&rng, 1, 3); k; k--)
				copy[rng_between(&rng, 4, buf.len < 160 ? buf.len - 1 : 159)] = (uint8_t)rng_u64(&rng);
			seal(copy, buf.len);
			if (record_decode(copy, buf.len, &back, &used) == 0) {
				assert_int_equal(record_encode(&back, &again), 0);
				assert_int_equal(again.len, used);
				assert_memory_equal(again.p, copy, used);
			}
		}
	}
}

static void names_that_are_none_are_refused(void **state)
{
	static const char too_long[RECORD_NAME_MAX + 1] = {[0 ... RECORD_NAME_MAX] = 'n'};
	const struct slice bad[] = {
	    {"", 0}, {".", 1}, {"..", 2}, {"a/b", 3}, {"/", 1}, {"a\0b", 3}, {too_long, sizeof(too_long)}};
	CLEANUP_BUF struct buf buf = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct record link = sample_base(RECORD_LINK);
		link.link.parent = 1;
		link.link.name = bad[i];
		assert_int_equal(record_encode(&link, &buf), -EINVAL);
		struct record rename = sample_base(RECORD_RENAME);
		rename.rename.parent = rename.rename.new_parent = 1;
		rename.rename.name = sample_text("fine");
		rename.rename.new_name = bad[i];
		assert_int_equal(record_encode(&rename, &buf), -EINVAL);
	}
}

static void fields_out_of_bounds_are_refused(void **state)
{
	CLEANUP_BUF struct buf buf = {0};
	struct record r;

	(void)state;
#define REFUSED(type_, ...)                                                                                                      \
	do {                                                                                                                     \
		r = sample_base(type_);                                                                                          \
		__VA_ARGS__;                                                                                                     \
		assert_int_equal(record_encode(&r, &buf), -EINVAL);                                                              \
	} while (0)
	REFUSED(0, (void)0);
	REFUSED(RECORD_SNAP, (void)0);
	REFUSED(RECORD_SNAPDROP, (void)0);
	REFUSED(RECORD_SNAPROLL, (void)0);
#define SNAP_REFUSED(...) REFUSED(RECORD_SNAP, r.ino = 1, r.snap.name = sample_text("x"), __VA_ARGS__)
	SNAP_REFUSED(r.ino = 2);
	SNAP_REFUSED(r.flags = RECORD_MORE);
	SNAP_REFUSED(r.snap.name = sample_text(""));
	SNAP_REFUSED(r.snap.name = sample_text("."));
	SNAP_REFUSED(r.snap.name = sample_text(".."));
	SNAP_REFUSED(r.snap.name = sample_text("a/b"));
	for (unsigned c = 0; c < 0x20; c++)
		SNAP_REFUSED(r.snap.name = ((struct slice){&(uint8_t){(uint8_t)c}, 1}));
	SNAP_REFUSED(r.snap.name = sample_text("a\177"));
	SNAP_REFUSED(r.snap.name = ((struct slice){sample_many_places(), RECORD_NAME_MAX + 1}));
#undef SNAP_REFUSED
#define CLONE_REFUSED(...) REFUSED(RECORD_CLONE, r.clone.from = 7, r.clone.n_blocks = 8, __VA_ARGS__)
	CLONE_REFUSED(r.clone.from = 0);
	CLONE_REFUSED(r.clone.n_blocks = 0);
	CLONE_REFUSED(r.clone.n_blocks = RECORD_CLONE_BLOCKS_MAX + 1);
	CLONE_REFUSED(r.clone.size = UINT64_MAX);
	CLONE_REFUSED(r.clone.block = UINT64_MAX);
	CLONE_REFUSED(r.clone.from_block = (UINT64_C(1) << 51) - 7);
	CLONE_REFUSED(r.clone.from = r.ino);                    /* all of it */
	CLONE_REFUSED(r.clone.from = r.ino, r.clone.block = 7); /* its last block */
	CLONE_REFUSED(r.clone.from = r.ino, r.clone.from_block = 7);
#undef CLONE_REFUSED
	REFUSED(RECORD_TYPE_MAX + 1, (void)0);
	REFUSED(RECORD_REAP, r.ino = 0);
	REFUSED(RECORD_REAP, r.flags = 2);
	REFUSED(RECORD_EPOCH, r.ino = 1);
	REFUSED(RECORD_SETATTR, r.attr.mask = ATTR_ALL + 1);
	REFUSED(RECORD_SETATTR, r.attr.size = UINT64_MAX);
	REFUSED(RECORD_ZERO, r.zero.mode = 3);
	REFUSED(RECORD_ZERO, r.zero.block = UINT64_MAX, r.zero.n_blocks = 1);
	REFUSED(RECORD_WRITE, r.write.crc = sample_crcs);
	REFUSED(RECORD_WRITE, r.write.crc = sample_crcs, r.write.n_blocks = RECORD_WRITE_BLOCKS_MAX + 1);
	REFUSED(RECORD_WRITE, r.write.crc = sample_crcs, r.write.n_blocks = 1, r.write.block = UINT64_MAX);
	REFUSED(RECORD_WRITE, r.write.n_blocks = 1);
	REFUSED(RECORD_RMXATTR, r.xattr.name = sample_text("a"), r.xattr.value = sample_text("b"));
	REFUSED(RECORD_MKNODE, r.mknode.parent = 1, r.mknode.name = sample_text("a"), r.mknode.mode = S_IFLNK | 0777);
	REFUSED(RECORD_MKNODE, r.mknode.parent = 1, r.mknode.name = sample_text("a"), r.mknode.mode = 0644);
	REFUSED(RECORD_MKNODE, r.mknode.parent = 1, r.mknode.name = sample_text("a"), r.mknode.mode = S_IFREG,
		r.mknode.target = sample_text("t"));
#undef REFUSED
	assert_int_equal(buf.len, 0);
}

/* A good TIER record and one that differs from it in what `change` does to it, or to a copy of its places. */
static void places_out_of_bounds_are_refused(void **state)
{
	CLEANUP_BUF struct buf buf = {0};
	struct record_place p[ARRAY_SIZE(sample_places)];
	struct record good = sample_base(RECORD_TIER), r;

	(void)state;
	good.tier.store = 1;
	good.tier.object = 5;
	good.tier.object_bytes = 70000;
	good.tier.n_blocks = 19;
	good.tier.sealed = sample_sealed;
	good.tier.places = p;
	good.tier.n_places = ARRAY_SIZE(p);
#define TIER(result, ...)                                                                                                        \
	do {                                                                                                                     \
		memcpy(p, sample_places, sizeof(p));                                                                             \
		r = good;                                                                                                        \
		__VA_ARGS__;                                                                                                     \
		buf_reset(&buf);                                                                                                 \
		assert_int_equal(record_encode(&r, &buf), result);                                                               \
	} while (0)
	TIER(0, (void)0);
	TIER(-EINVAL, r.ino = 0);
	TIER(-EINVAL, r.tier.change = 2);
	TIER(-EINVAL, r.tier.store = 0);
	TIER(-EINVAL, r.tier.object = 0);
	TIER(-EINVAL, r.tier.sealed = NULL);
	TIER(-EINVAL, r.tier.object_bytes = UINT64_C(1) << 32);
	TIER(-EINVAL, r.tier.object_bytes = 69999); /* the last frame ends behind it */
	TIER(-EINVAL, r.tier.n_blocks = 18);        /* more blocks than the object was made with */
	TIER(-EINVAL, r.tier.n_places = 0);
	TIER(-EINVAL, r.tier.n_places = RECORD_PLACES_MAX + 1);
	TIER(-EINVAL, p[1].leaf = 0); /* not rising */
	TIER(-EINVAL, p[2].leaf = 1); /* twice the same */
	TIER(-EINVAL, p[2].leaf++);   /* behind the last block a file can have */
	TIER(-EINVAL, p[0].mask = 0);
	TIER(-EINVAL, p[0].len = 0);
	TIER(-EINVAL, p[1].len = RECORD_FRAME_MAX + 1, r.tier.object_bytes = UINT32_MAX);
	TIER(-EINVAL, p[2].offset = UINT32_MAX - 10, r.tier.object_bytes = UINT32_MAX);
	TIER(-EINVAL, r.tier.change = TIER_FORGET, r.ino = 1);
	TIER(-EINVAL, r.tier.change = TIER_FORGET, r.tier.n_places = 0);
	TIER(0, r.tier.change = TIER_FORGET, r.tier.n_places = 0, r.ino = 1);
#undef TIER
}

static void every_type_has_a_name(void **state)
{
	(void)state;
	for (unsigned type = 1; type <= RECORD_TYPE_MAX; type++)
		assert_string_not_equal(record_type_name(type), "?");
	assert_string_equal(record_type_name(0), "?");
	assert_string_equal(record_type_name(RECORD_TYPE_MAX + 1), "?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_type_comes_back_as_it_was),
	    cmocka_unit_test(records_follow_one_another),
	    cmocka_unit_test(every_truncation_is_refused),
	    cmocka_unit_test(every_bit_flip_is_refused),
	    cmocka_unit_test(damage_under_a_right_crc_is_refused_or_harmless),
	    cmocka_unit_test(names_that_are_none_are_refused),
	    cmocka_unit_test(fields_out_of_bounds_are_refused),
	    cmocka_unit_test(places_out_of_bounds_are_refused),
	    cmocka_unit_test(every_type_has_a_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
