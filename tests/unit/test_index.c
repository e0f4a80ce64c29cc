/*
 * test_index.c: index.h over an index in memory: keys sort as their numbers do, values come back, and what is no value is
 * refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/index.h"
#include "tests/unit/leaves.h"
#include "tests/unit/memindex.h"
#include "tests/unit/tempdir.h"

static struct memindex mem;

static int open_index(void **state)
{
	memindex_open(&mem);
	*state = mem.kv;
	return 0;
}

static int close_index(void **state)
{
	(void)state;
	memindex_close(&mem);
	return 0;
}

static int compare(const struct index_key *a, const struct index_key *b)
{
	int r = memcmp(a->b, b->b, a->len < b->len ? a->len : b->len);

	return r ? r : (a->len > b->len) - (a->len < b->len);
}

static int sign(int n)
{
	return (n > 0) - (n < 0);
}
static int order(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

/* Numbers at which a byte order that is not the numeric one would show. */
static uint64_t telling(struct rng *g)
{
	uint64_t n = rng_u64(g) >> rng_below(g, 64);

	return rng_percent(g, 30) ? (UINT64_C(1) << rng_below(g, 64)) - rng_below(g, 2) : n;
}

static void keys_sort_as_their_numbers_do(void **state)
{
	struct rng g = {.state = test_seed(1)};

	(void)state;
	for (unsigned n = 0; n < 100000; n++) {
		uint64_t a = telling(&g), b = telling(&g), c = telling(&g), d = rng_percent(&g, 50) ? c : telling(&g);
		struct index_key ka = key_ino(TABLE_INODE, a), kb = key_ino(TABLE_INODE, b);
		struct index_key pa = key_pair(TABLE_EXTENT, c, a), pb = key_pair(TABLE_EXTENT, d, b);

		assert_int_equal(sign(compare(&ka, &kb)), order(a, b));
		assert_int_equal(sign(compare(&pa, &pb)), c == d ? order(a, b) : order(c, d));
	}
}

static void names_sort_within_their_directory(void **state)
{
	static const char *const names[] = {"a", "a\x01", "aa", "b", "\xc3\xa4", "\xff"};

	(void)state;
	for (size_t i = 0; i + 1 < ARRAY_SIZE(names); i++) {
		struct index_key a = key_name(TABLE_DENTRY, 5, slice_of(names[i])),
				 b = key_name(TABLE_DENTRY, 5, slice_of(names[i + 1]));
		struct index_key next = key_name(TABLE_DENTRY, 6, slice_of(names[0]));

		assert_true(compare(&a, &b) < 0);
		assert_true(compare(&b, &next) < 0);
	}
}

static void the_bytes_of_keys_are_those_of_the_format(void **state)
{
	const uint8_t ino[] = {'I', 0, 0, 0, 0, 0, 0, 1, 2}, leaf[] = {'E', 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9};
	const uint8_t name[] = {'D', 0, 0, 0, 0, 0, 0, 0, 1, 'x', 'y'};
	struct index_key k = key_ino(TABLE_INODE, 0x102);

	(void)state;
	assert_int_equal(k.len, sizeof(ino));
	assert_memory_equal(k.b, ino, sizeof(ino));
	k = key_pair(TABLE_EXTENT, 0x0102030405060708, 9);
	assert_int_equal(k.len, sizeof(leaf));
	assert_memory_equal(k.b, leaf, sizeof(leaf));
	k = key_name(TABLE_DENTRY, 1, slice_of("xy"));
	assert_int_equal(k.len, sizeof(name));
	assert_memory_equal(k.b, name, sizeof(name));
}

static void the_longest_name_fits_and_no_key_grows_beyond_it(void **state)
{
	char longest[300];

	(void)state;
	memset(longest, 'n', sizeof(longest));
	struct index_key k = key_name(TABLE_DENTRY, UINT64_MAX, (struct slice){longest, 255});
	assert_int_equal(k.len, INDEX_KEY_MAX);
	k = key_name(TABLE_DENTRY, UINT64_MAX, (struct slice){longest, sizeof(longest)});
	assert_int_equal(k.len, INDEX_KEY_MAX);
}

static void a_key_lies_within_its_inode_only(void **state)
{
	struct index_key k = key_pair(TABLE_EXTENT, 7, 9);

	(void)state;
	assert_true(key_within(key_slice(&k), TABLE_EXTENT, 7));
	assert_false(key_within(key_slice(&k), TABLE_EXTENT, 8));
	assert_false(key_within(key_slice(&k), TABLE_XATTR, 7));
	assert_false(key_within((struct slice){k.b, 8}, TABLE_EXTENT, 7));
	assert_false(key_within((struct slice){k.b, 0}, TABLE_EXTENT, 7));
}

static struct inode sample_inode(void)
{
	return (struct inode){.ino = 42,
			      .mode = S_IFREG | 04644,
			      .uid = 1,
			      .gid = 2,
			      .nlink = 3,
			      .n_xattr = 4,
			      .size = INT64_MAX,
			      .blocks = 6,
			      .atime_ns = -7,
			      .mtime_ns = INT64_MIN,
			      .ctime_ns = INT64_MAX,
			      .btime_ns = 10,
			      .rdev = 11,
			      .parent = 12,
			      .cookie = 13,
			      .next_cookie = UINT64_MAX};
}

static bool same_inode(const struct inode *a, const struct inode *b)
{
	return a->ino == b->ino && a->mode == b->mode && a->uid == b->uid && a->gid == b->gid && a->nlink == b->nlink &&
	       a->n_xattr == b->n_xattr && a->size == b->size && a->blocks == b->blocks && a->atime_ns == b->atime_ns &&
	       a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns && a->btime_ns == b->btime_ns && a->rdev == b->rdev &&
	       a->parent == b->parent && a->cookie == b->cookie && a->next_cookie == b->next_cookie;
}

static void an_inode_comes_back_as_it_was(void **state)
{
	struct kv *kv = *state;
	struct inode in = sample_inode(), back;

	assert_int_equal(index_get_inode(kv, 42, &back), -ENOENT);
	assert_int_equal(index_put_inode(kv, &in), 0);
	assert_int_equal(index_get_inode(kv, 42, &back), 0);
	assert_true(same_inode(&in, &back));
	assert_false(back.dirty);
	assert_int_equal(index_delete_inode(kv, 42), 0);
	assert_int_equal(index_get_inode(kv, 42, &back), -ENOENT);
}

/* Puts raw bytes under the key of inode 42 and reads it. */
static int get_inode_of(struct kv *kv, const void *p, size_t len)
{
	struct index_key k = key_ino(TABLE_INODE, 42);
	struct kv_batch b = {0};
	struct inode in;

	kv_batch_put(&b, key_slice(&k), (struct slice){p, len});
	assert_int_equal(kv_write(kv, &b), 0);
	kv_batch_free(&b);
	return index_get_inode(kv, 42, &in);
}

static void bytes_that_are_no_inode_are_refused(void **state)
{
	struct inode_value good = {.version = 1, .mode = le32_make(S_IFREG)}, v = good;
	uint8_t more[sizeof(v) + 1] = {1};
	struct kv *kv = *state;

	assert_int_equal(get_inode_of(kv, &v, sizeof(v)), 0);
	for (size_t len = 0; len < sizeof(v); len++)
		assert_int_equal(get_inode_of(kv, &v, len), -EUCLEAN);
	memcpy(more, &v, sizeof(v));
	assert_int_equal(get_inode_of(kv, more, sizeof(more)), -EUCLEAN);
	v.version = 2;
	assert_int_equal(get_inode_of(kv, &v, sizeof(v)), -EUCLEAN);
	v = good;
	v.mode = le32_make(0644); /* no type */
	assert_int_equal(get_inode_of(kv, &v, sizeof(v)), -EUCLEAN);
	v = good;
	v.size = le64_make((uint64_t)INT64_MAX + 1);
	assert_int_equal(get_inode_of(kv, &v, sizeof(v)), -EUCLEAN);
}

static void a_name_is_found_by_name_and_in_order(void **state)
{
	struct dentry d = {.ino = 5, .cookie = 9, .type = S_IFDIR}, back;
	struct index_key k = key_pair(TABLE_COOKIE, 1, 9);
	struct kv *kv = *state;
	uint8_t value[512];
	struct slice name;
	size_t len;

	struct kv_batch *b = index_batch();
	index_put_dentry(b, 1, slice_of("name"), &d);
	assert_int_equal(kv_write(kv, b), 0);
	assert_int_equal(index_get_dentry(kv, 1, slice_of("name"), &back), 0);
	assert_true(back.ino == 5 && back.cookie == 9 && back.type == S_IFDIR);
	assert_int_equal(kv_get(kv, key_slice(&k), value, sizeof(value), &len), 0);
	assert_int_equal(cookie_decode((struct slice){value, len}, &back, &name), 0);
	assert_true(back.ino == 5 && back.type == S_IFDIR && name.len == 4 && memcmp(name.p, "name", 4) == 0);
	assert_int_equal(index_get_dentry(kv, 1, slice_of("nam"), &back), -ENOENT);
	assert_int_equal(index_get_dentry(kv, 2, slice_of("name"), &back), -ENOENT);

	b = index_batch();
	index_delete_dentry(b, 1, slice_of("name"), 9);
	assert_int_equal(kv_write(kv, b), 0);
	assert_int_equal(index_get_dentry(kv, 1, slice_of("name"), &back), -ENOENT);
	assert_int_equal(kv_get(kv, key_slice(&k), value, sizeof(value), &len), -ENOENT);
}

static void bytes_that_are_no_directory_entry_are_refused(void **state)
{
	struct index_key k = key_name(TABLE_DENTRY, 1, slice_of("n"));
	uint8_t value[sizeof(struct cookie_value) + 256] = {0};
	struct kv *kv = *state;
	struct dentry d;
	struct slice name;

	for (size_t len = 0; len <= sizeof(value); len++) {
		bool good = len > sizeof(struct cookie_value) && len <= sizeof(struct cookie_value) + 255;

		assert_int_equal(cookie_decode((struct slice){value, len}, &d, &name), good ? 0 : -EUCLEAN);
		if (good)
			assert_true((const uint8_t *)name.p + name.len == value + len);
	}
	for (size_t len = 0; len < 64; len++) {
		struct kv_batch *b = index_batch();

		kv_batch_put(b, key_slice(&k), (struct slice){value, len});
		assert_int_equal(kv_write(kv, b), 0);
		assert_int_equal(index_get_dentry(kv, 1, slice_of("n"), &d), len == sizeof(struct dentry_value) ? 0 : -EUCLEAN);
	}
}

static void leaves_come_back_and_an_empty_one_goes(void **state)
{
	struct rng g = {.state = test_seed(2)};
	struct kv *kv = *state;
	struct leaf l, back;

	for (uint64_t n = 0; n < 2000; n++) {
		struct kv_batch *b = index_batch();

		random_leaf(&g, &l);
		index_put_leaf(b, 3, n % 7, &l);
		assert_int_equal(kv_write(kv, b), 0);
		int r = index_get_leaf(kv, 3, n % 7, &back);
		assert_int_equal(r, leaf_empty(&l) ? -ENOENT : 0);
		if (r == 0)
			assert_true(same_leaf(&l, &back));
	}
}

static void a_leaf_too_long_for_one_is_refused(void **state)
{
	static const uint8_t zeros[LEAF_BYTES_MAX + 1];
	struct index_key k = key_pair(TABLE_EXTENT, 3, 1);
	struct kv *kv = *state;
	struct leaf l;

	struct kv_batch *b = index_batch();
	kv_batch_put(b, key_slice(&k), (struct slice){zeros, sizeof(zeros)});
	assert_int_equal(kv_write(kv, b), 0);
	assert_int_equal(index_get_leaf(kv, 3, 1, &l), -EUCLEAN);
}

static void put_anchor_bytes(struct kv *kv, const void *p, size_t len)
{
	struct kv_batch *b = index_batch();

	kv_batch_put(b, (struct slice){"A", 1}, (struct slice){p, len});
	assert_int_equal(kv_write(kv, b), 0);
}

static void the_anchor_comes_back_and_every_bit_of_it_counts(void **state)
{
	const struct anchor a = {.volume = {1, 2, 3},
				 .applied_seq = 4,
				 .tail = {5, 6, 7},
				 .next_ino = 8,
				 .epoch = 9,
				 .snapshot_generation = 10,
				 .reserved_blocks = 11,
				 .n_inodes = 12,
				 .n_chunks = 13};
	struct kv *kv = *state;
	struct anchor back;
	uint8_t p[sizeof(struct anchor_value) + 1];
	size_t len;

	assert_int_equal(index_get_anchor(kv, &back), -ENOENT);
	struct kv_batch *b = index_batch();
	index_put_anchor(b, &a);
	assert_int_equal(kv_write(kv, b), 0);
	memset(&back, 0, sizeof(back));
	assert_int_equal(index_get_anchor(kv, &back), 0);
	assert_memory_equal(a.volume, back.volume, sizeof(a.volume));
	assert_true(a.applied_seq == back.applied_seq && a.tail.seq == back.tail.seq && a.tail.pos == back.tail.pos &&
		    a.tail.hash == back.tail.hash);
	assert_true(a.next_ino == back.next_ino && a.epoch == back.epoch && a.snapshot_generation == back.snapshot_generation);
	assert_true(a.reserved_blocks == back.reserved_blocks && a.n_inodes == back.n_inodes && a.n_chunks == back.n_chunks);

	assert_int_equal(kv_get(kv, (struct slice){"A", 1}, p, sizeof(p), &len), 0);
	assert_int_equal(len, sizeof(struct anchor_value));
	for (size_t bit = 0; bit < len * 8; bit++) {
		p[bit / 8] ^= (uint8_t)(1u << bit % 8);
		put_anchor_bytes(kv, p, len);
		assert_int_equal(index_get_anchor(kv, &back), bit < 64 ? -EUCLEAN : -EBADMSG);
		p[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	for (size_t n = 0; n < len; n++) {
		put_anchor_bytes(kv, p, n);
		assert_int_equal(index_get_anchor(kv, &back), -EUCLEAN);
	}
	p[len] = 0;
	put_anchor_bytes(kv, p, len + 1);
	assert_int_equal(index_get_anchor(kv, &back), -EUCLEAN);
}

static void damage_found_by_the_index_is_passed_on(void **state)
{
	struct inode in = sample_inode(), back;
	struct kv *kv = *state;
	struct leaf l = {.slot[0].unwritten = true}, got;

	assert_int_equal(index_put_inode(kv, &in), 0);
	struct kv_batch *b = index_batch();
	index_put_leaf(b, 42, 0, &l);
	assert_int_equal(kv_write(kv, b), 0);
	mem.flaky.get_error = -EBADMSG;
	assert_int_equal(index_get_inode(&mem.flaky.kv, 42, &back), -EBADMSG);
	assert_int_equal(index_get_leaf(&mem.flaky.kv, 42, 0, &got), -EBADMSG);
	assert_int_equal(index_get_dentry(&mem.flaky.kv, 1, slice_of("n"), &(struct dentry){0}), -EBADMSG);
	assert_int_equal(index_get_anchor(&mem.flaky.kv, &(struct anchor){0}), -EBADMSG);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, open_index, close_index)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(keys_sort_as_their_numbers_do),
	    cmocka_unit_test(names_sort_within_their_directory),
	    cmocka_unit_test(the_bytes_of_keys_are_those_of_the_format),
	    cmocka_unit_test(the_longest_name_fits_and_no_key_grows_beyond_it),
	    cmocka_unit_test(a_key_lies_within_its_inode_only),
	    CASE(an_inode_comes_back_as_it_was),
	    CASE(bytes_that_are_no_inode_are_refused),
	    CASE(a_name_is_found_by_name_and_in_order),
	    CASE(bytes_that_are_no_directory_entry_are_refused),
	    CASE(leaves_come_back_and_an_empty_one_goes),
	    CASE(a_leaf_too_long_for_one_is_refused),
	    CASE(the_anchor_comes_back_and_every_bit_of_it_counts),
	    CASE(damage_found_by_the_index_is_passed_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
