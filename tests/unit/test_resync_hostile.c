/*
 * test_resync_hostile.c: what a leader may send in a resync that no leader can have, and what the follower does with it: it
 * refuses, says so, and has lost nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <sys/stat.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "tests/unit/resync_case.h"

struct bad_row {
	const char *what;
	struct index_key key;
	const void *value;
	size_t len;
};

static struct inode_value an_inode(uint32_t mode)
{
	return (struct inode_value){.version = 1,
				    .mode = le32_make(mode),
				    .nlink = le32_make(1),
				    .parent = le64_make(FS_ROOT_INO),
				    .cookie = le64_make(3),
				    .next_cookie = le64_make(3)};
}

static struct index_key cut_key(struct index_key k, size_t len)
{
	k.len = len;
	return k;
}

struct tiered_leaf {
	uint8_t b[27];
};
/* An E row: slot 0 has data, and what is tiered. */
static struct tiered_leaf *make_tiered_leaf(struct tiered_leaf *l, uint16_t tiered, uint64_t object, uint32_t offset,
					    uint32_t len)
{
	*l = (struct tiered_leaf){{1, 0, 0, 0, 9, 9, 9, 9}};
	memcpy(l->b + 8, le16_make(tiered).b, 2);
	memcpy(l->b + 10, le64_make(object).b, 8);
	memcpy(l->b + 18, le32_make(offset).b, 4);
	memcpy(l->b + 22, le32_make(len).b, 4);
	return l;
}
#define tiered_leaf(...) (*make_tiered_leaf(&(struct tiered_leaf){{0}}, __VA_ARGS__))

static void rows_that_no_leader_can_have_are_refused(void **state)
{
	static const uint8_t zeros[RECORD_VALUE_MAX + 1], none[1];
	static char text[RECORD_TARGET_MAX + 1];
	const struct dentry_value good_d = a_dentry(7, 3, S_IFREG), no_ino = a_dentry(0, 3, S_IFREG),
				  dot = a_dentry(7, 2, S_IFREG), no_type = a_dentry(7, 3, 0),
				  mode_too = a_dentry(7, 3, S_IFREG | 0644), far_ino = a_dentry(ROW_NUMBER_MAX, 3, S_IFREG),
				  far = a_dentry(7, UINT64_MAX, S_IFREG);
	struct inode_value good_i = an_inode(S_IFREG | 0644), no_mode = an_inode(0644), odd_mode = an_inode(S_IFREG | 0100000000),
			   odd_type = an_inode(0130000), long_file = good_i, not_zero = good_i, version = good_i, orphan = good_i;
	const uint8_t leaf_none[4] = {0}, leaf_odd[4] = {1, 0, 2, 0}, leaf_short[7] = {1}, leaf_long[12] = {1},
		      leaf_good[4] = {1, 0, 1};
	const struct tiered_leaf leaf_tiered = tiered_leaf(1, 5, 4096, 100);
	const struct object_value good_o = {.version = 1, .store = le32_make(1), .bytes = le64_make(9), .born_ns = le64_make(1)};
	struct object_value object_version = good_o, object_zero = good_o, object_store = good_o, object_bytes = good_o,
			    object_born = good_o, object_moved = good_o;
	struct sim_run leader, follower;
	struct row_list before, after;

	(void)state;
	object_version.version = 2;
	object_zero.zero[2] = 1;
	object_store.store = le32_make(0);
	object_bytes.bytes = le64_make(UINT64_C(1) << 32);
	object_born.born_ns = le64_make(0);
	object_moved.moved_ns = le64_make(UINT64_MAX);
	memset(text, 'x', sizeof(text));
	long_file.size = le64_make(FILE_SIZE_MAX + 1);
	not_zero.zero[1] = 1;
	version.version = 2;
	orphan.parent = le64_make(0);
	node_lead(&leader, 1, SIM_TREE, 40);
	node_join(&follower, &leader, 0);
	struct replica_volume *v = fs_replica(follower.fs);
	assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch, false), 0);
	const struct bad_row bad[] = {
	    {"no key", {.len = 0}, zeros, 0},
	    {"a key of one byte", cut_key(key_ino(TABLE_INODE, 5), 1), &good_i, sizeof(good_i)},
	    {"the anchor", {.b = "A", .len = 1}, zeros, 104},
	    {"the anchor's table", key_ino(TABLE_ANCHOR, 1), zeros, 104},
	    {"a page of the bitmap", key_pair(TABLE_BITMAP, 1, 0), zeros, 4096},
	    {"a cookie", key_pair(TABLE_COOKIE, 1, 9), zeros, 20},
	    {"a table nobody knows", key_ino((enum index_table)'Z', 1), zeros, 8},
	    {"a name with a slash", named(TABLE_DENTRY, 1, "a/b", 3), &good_d, sizeof(good_d)},
	    {"a name with NUL", named(TABLE_DENTRY, 1, "a\0b", 3), &good_d, sizeof(good_d)},
	    {"the name .", named(TABLE_DENTRY, 1, ".", 1), &good_d, sizeof(good_d)},
	    {"the name ..", named(TABLE_DENTRY, 1, "..", 2), &good_d, sizeof(good_d)},
	    {"no name", named(TABLE_DENTRY, 1, "", 0), &good_d, sizeof(good_d)},
	    {"a name in directory 0", named(TABLE_DENTRY, 0, "a", 1), &good_d, sizeof(good_d)},
	    {"a name of no inode", named(TABLE_DENTRY, 1, "a", 1), &no_ino, sizeof(no_ino)},
	    {"a name of an inode too far", named(TABLE_DENTRY, 1, "a", 1), &far_ino, sizeof(far_ino)},
	    {"the cookie of ..", named(TABLE_DENTRY, 1, "a", 1), &dot, sizeof(dot)},
	    {"a cookie too far", named(TABLE_DENTRY, 1, "a", 1), &far, sizeof(far)},
	    {"no type", named(TABLE_DENTRY, 1, "a", 1), &no_type, sizeof(no_type)},
	    {"more than a type", named(TABLE_DENTRY, 1, "a", 1), &mode_too, sizeof(mode_too)},
	    {"a short name row", named(TABLE_DENTRY, 1, "a", 1), &good_d, sizeof(good_d) - 1},
	    {"inode 0", key_ino(TABLE_INODE, 0), &good_i, sizeof(good_i)},
	    {"an inode too far", key_ino(TABLE_INODE, ROW_NUMBER_MAX), &good_i, sizeof(good_i)},
	    {"a root that is a file", key_ino(TABLE_INODE, FS_ROOT_INO), &good_i, sizeof(good_i)},
	    {"no root", key_ino(TABLE_INODE, FS_ROOT_INO), NULL, 0},
	    {"an inode without type", key_ino(TABLE_INODE, 5), &no_mode, sizeof(no_mode)},
	    {"an inode with odd bits", key_ino(TABLE_INODE, 5), &odd_mode, sizeof(odd_mode)},
	    {"an inode of an odd type", key_ino(TABLE_INODE, 5), &odd_type, sizeof(odd_type)},
	    {"a file too long", key_ino(TABLE_INODE, 5), &long_file, sizeof(long_file)},
	    {"an inode with bytes where zeros are", key_ino(TABLE_INODE, 5), &not_zero, sizeof(not_zero)},
	    {"an inode of another version", key_ino(TABLE_INODE, 5), &version, sizeof(version)},
	    {"an inode without parent", key_ino(TABLE_INODE, 5), &orphan, sizeof(orphan)},
	    {"a short inode", key_ino(TABLE_INODE, 5), &good_i, sizeof(good_i) - 1},
	    {"an inode key with more", key_pair(TABLE_INODE, 5, 6), &good_i, sizeof(good_i)},
	    {"an empty leaf", key_pair(TABLE_EXTENT, 5, 0), leaf_none, 4},
	    {"a leaf that is unwritten where nothing is", key_pair(TABLE_EXTENT, 5, 0), leaf_odd, 4},
	    {"a leaf short of a CRC", key_pair(TABLE_EXTENT, 5, 0), leaf_short, 7},
	    {"a leaf with a CRC too many", key_pair(TABLE_EXTENT, 5, 0), leaf_long, 12},
	    {"a leaf of three bytes", key_pair(TABLE_EXTENT, 5, 0), leaf_good, 3},
	    {"a leaf beyond all files", key_pair(TABLE_EXTENT, 5, UINT64_C(1) << 44), leaf_good, 4},
	    {"a leaf key cut short", cut_key(key_pair(TABLE_EXTENT, 5, 0), 16), leaf_good, 4},
	    {"a leaf short of its object", key_pair(TABLE_EXTENT, 5, 0), leaf_tiered.b, 25},
	    {"a leaf with more than its object", key_pair(TABLE_EXTENT, 5, 0), leaf_tiered.b, 27},
	    {"a leaf with an object and nothing in it", key_pair(TABLE_EXTENT, 5, 0), tiered_leaf(0, 5, 4096, 100).b, 26},
	    {"a leaf tiered where nothing is", key_pair(TABLE_EXTENT, 5, 0), tiered_leaf(3, 5, 4096, 100).b, 26},
	    {"a leaf tiered in no object", key_pair(TABLE_EXTENT, 5, 0), tiered_leaf(1, 0, 4096, 100).b, 26},
	    {"a leaf with an empty frame", key_pair(TABLE_EXTENT, 5, 0), tiered_leaf(1, 5, 4096, 0).b, 26},
	    {"a leaf with a vast frame", key_pair(TABLE_EXTENT, 5, 0), tiered_leaf(1, 5, 4096, RECORD_FRAME_MAX + 1).b, 26},
	    {"a leaf with a frame past all", key_pair(TABLE_EXTENT, 5, 0), tiered_leaf(1, 5, UINT32_MAX - 9, 10).b, 26},
	    {"object 0", key_ino(TABLE_OBJECT, 0), &good_o, sizeof(good_o)},
	    {"an object's key with more", key_pair(TABLE_OBJECT, 5, 6), &good_o, sizeof(good_o)},
	    {"a short object", key_ino(TABLE_OBJECT, 5), &good_o, sizeof(good_o) - 1},
	    {"an object of another version", key_ino(TABLE_OBJECT, 5), &object_version, sizeof(good_o)},
	    {"an object with bytes where zeros are", key_ino(TABLE_OBJECT, 5), &object_zero, sizeof(good_o)},
	    {"an object of no store", key_ino(TABLE_OBJECT, 5), &object_store, sizeof(good_o)},
	    {"an object too large", key_ino(TABLE_OBJECT, 5), &object_bytes, sizeof(good_o)},
	    {"an object never born", key_ino(TABLE_OBJECT, 5), &object_born, sizeof(good_o)},
	    {"an object of before all time", key_ino(TABLE_OBJECT, 5), &object_moved, sizeof(good_o)},
	    {"a link to nowhere", key_ino(TABLE_TARGET, 5), none, 0},
	    {"a link with NUL", key_ino(TABLE_TARGET, 5), zeros, 5},
	    {"a link too long", key_ino(TABLE_TARGET, 5), text, RECORD_TARGET_MAX + 1},
	    {"an orphan with a value", key_ino(TABLE_ORPHAN, 5), zeros, 1},
	    {"an epoch without seq", key_ino(TABLE_HISTORY, 65537), zeros, 4},
	    {"epoch 0", key_ino(TABLE_HISTORY, 0), zeros, 8},
	    {"an attribute without name", named(TABLE_XATTR, 5, "", 0), zeros, 5},
	    {"an attribute's name with NUL", named(TABLE_XATTR, 5, "user.a\0", 7), zeros, 5},
	    {"an attribute too long", named(TABLE_XATTR, 5, "user.a", 6), zeros, RECORD_VALUE_MAX + 1},
	    {"a policy without key", named(TABLE_POLICY, 5, "", 0), text, 5},
	    {"a policy with NUL", named(TABLE_POLICY, 5, "durability", 10), zeros, 5},
	    {"a policy too long", named(TABLE_POLICY, 5, "durability", 10), text, FS_POLICY_MAX + 1},
	    {"a policy's key too long", named(TABLE_POLICY, 5, text, 249), text, 5},
	};
	rows_of(follower.fs, &before);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const struct row r = {.key = key_slice(&bad[i].key), .value = {bad[i].value, bad[i].len}};
		uint16_t slots;

		if (v->ops->resync_put(v, &r, NULL, NULL) != -EUCLEAN || v->ops->resync_missing(v, &r, &slots) != -EUCLEAN)
			fail_msg("%s", bad[i].what);
	}
	rows_of(follower.fs, &after);
	assert_same_rows(&after, &before);
	row_list_free(&before);
	row_list_free(&after);
	/* The good ones they were made from. */
	const struct index_key dk = named(TABLE_DENTRY, 1, "a", 1), ik = key_ino(TABLE_INODE, 5),
			       ek = key_pair(TABLE_EXTENT, 5, 0), ok = key_ino(TABLE_OBJECT, UINT64_MAX);
	const struct row tiered = {key_slice(&ek), {leaf_tiered.b, 26}};
	uint16_t slots = 99;
	assert_int_equal(v->ops->resync_put(v, &(struct row){key_slice(&ok), {&good_o, sizeof(good_o)}}, NULL, NULL), 0);
	assert_int_equal(v->ops->resync_missing(v, &tiered, &slots), 0);
	assert_int_equal(slots, 0);
	assert_int_equal(v->ops->resync_put(v, &tiered, NULL, NULL), 0);
	assert_int_equal(v->ops->resync_put(v, &(struct row){key_slice(&dk), {&good_d, sizeof(good_d)}}, NULL, NULL), 0);
	assert_int_equal(v->ops->resync_put(v, &(struct row){key_slice(&ik), {&good_i, sizeof(good_i)}}, NULL, NULL), 0);
	assert_int_equal(v->ops->resync_put(v, &(struct row){key_slice(&ek), {leaf_good, 4}}, NULL, NULL), 0);
	sim_free(&follower);
	sim_free(&leader);
}

static void data_that_is_wrong_or_not_there_is_refused(void **state)
{
	struct sim_run leader, follower;
	uint8_t block[BLOCK_SIZE] = {1}, value[LEAF_ROW_BYTES_MAX];
	struct leaf_row leaf = {.mapped = 1};
	const struct index_key k = key_pair(TABLE_EXTENT, 5, 0);
	struct arena_status as, was;

	(void)state;
	node_lead(&leader, 1, SIM_TREE, 10);
	node_join(&follower, &leader, 0);
	struct replica_volume *v = fs_replica(follower.fs);
	leaf.crc[0] = crc32c(0, block, sizeof(block));
	const struct row r = {key_slice(&k), {value, leaf_row_encode(&leaf, value)}};
	struct leaf_data d = {.ino = 5, .leaf = 0, .wanted = 1, .crc = {leaf.crc[0]}};
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), -EINVAL); /* before it began */
	assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch, false), 0);
	arena_get_status(follower.fs->arena, &was);
	assert_int_equal(v->ops->resync_put(v, &r, NULL, NULL), -EINVAL);
	block[7] = 1;
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), -EBADMSG);
	block[7] = 0;
	d.crc[0]++;
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), -EUCLEAN);
	d.crc[0]--;
	d.leaf = 1;
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), -EUCLEAN);
	d.leaf = 0;
	d.ino = 6;
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), -EUCLEAN);
	arena_get_status(follower.fs->arena, &as);
	assert_true(as.used_blocks == was.used_blocks && as.reserved_blocks == was.reserved_blocks);
	d.ino = 5;
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), 0);
	sim_free(&follower);
	sim_free(&leader);
}

static void a_view_that_cannot_be_does_not_end_a_resync(void **state)
{
	struct sim_run leader, follower;

	(void)state;
	node_lead(&leader, 1, SIM_TREE, 10);
	node_join(&follower, &leader, 0);
	struct replica_volume *v = fs_replica(follower.fs);
	struct pull p = {.leader = leader.fs, .follower = follower.fs};
	assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch - 1, false), -ESTALE);
	assert_int_equal(fs_replica(leader.fs)->ops->resync_begin(fs_replica(leader.fs), UINT64_MAX, false), -EPERM);
	assert_becomes(&leader, &follower, &p);
	v = fs_replica(follower.fs); /* it was mounted again */
	assert_int_equal(v->ops->resync_end(v, &p.info, 0), -EINVAL);

	assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch, false), 0);
	struct replica_view_info bad[6];
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		bad[i] = p.info;
	bad[0].epoch = leader.fs->super.epoch + 1;
	bad[1].next_ino = 1;
	bad[2].next_ino = UINT64_MAX;
	bad[3].n_inodes = 0;
	bad[4].snapshot_generation = UINT32_MAX;
	bad[5].seq = UINT64_MAX;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(v->ops->resync_end(v, &bad[i], 0), -EUCLEAN);
	assert_int_equal(fs_readable(follower.fs), -EBUSY);
	assert_int_equal(v->ops->resync_end(v, &p.info, 0), 0);
	assert_int_equal(fs_readable(follower.fs), 0);
	sim_free(&follower);
	sim_free(&leader);
}

/* Should it lead one day, it gives no number out twice, whatever it was told. */
static void the_next_inode_is_beyond_all_that_are_here(void **state)
{
	struct sim_run leader, follower;
	const struct index_key k = key_ino(TABLE_INODE, 1000);
	const struct inode_value in = an_inode(S_IFREG | 0644);

	(void)state;
	node_lead(&leader, 1, SIM_TREE, 10);
	node_join(&follower, &leader, 0);
	struct replica_volume *v = fs_replica(follower.fs);
	const struct replica_view_info info = {.seq = 9, .epoch = leader.fs->super.epoch, .next_ino = 2, .n_inodes = 2};
	assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch, false), 0);
	assert_int_equal(v->ops->resync_put(v, &(struct row){key_slice(&k), {&in, sizeof(in)}}, NULL, NULL), 0);
	assert_int_equal(v->ops->resync_end(v, &info, 0), 0);
	assert_true(atomic_load(&follower.fs->next_ino) > 1000);
	sim_free(&follower);
	sim_free(&leader);
}

/* The index refuses one write. */
static int refuse(struct kv *kv, const struct kv_batch *b)
{
	(void)kv, (void)b;
	return -ENOSPC;
}

static void a_row_that_cannot_be_stored_leaves_nothing_behind(void **state)
{
	struct sim_run leader, follower;
	uint8_t block[BLOCK_SIZE] = {1}, value[LEAF_ROW_BYTES_MAX];
	struct leaf_row leaf = {.mapped = 3, .unwritten = 2};
	const struct index_key k = key_pair(TABLE_EXTENT, 5, 0);
	struct arena_status as, was;

	(void)state;
	node_lead(&leader, 1, SIM_TREE, 10);
	node_join(&follower, &leader, 0);
	struct replica_volume *v = fs_replica(follower.fs);
	assert_int_equal(v->ops->resync_begin(v, leader.fs->super.epoch, false), 0);
	leaf.crc[0] = crc32c(0, block, sizeof(block));
	const struct row r = {key_slice(&k), {value, leaf_row_encode(&leaf, value)}};
	struct leaf_data d = {.ino = 5, .leaf = 0, .wanted = 1, .crc = {leaf.crc[0]}};
	const struct kv_ops *ops = follower.fs->kv->ops;
	struct kv_ops refusing = *ops;
	refusing.write = refuse;
	arena_get_status(follower.fs->arena, &was);
	follower.fs->kv->ops = &refusing;
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), -ENOSPC);
	follower.fs->kv->ops = ops;
	arena_get_status(follower.fs->arena, &as);
	assert_true(as.used_blocks == was.used_blocks && as.reserved_blocks == was.reserved_blocks);
	assert_int_equal(v->ops->resync_put(v, &r, &d, block), 0);
	arena_get_status(follower.fs->arena, &as);
	assert_true(as.used_blocks == was.used_blocks + 1 && as.reserved_blocks == was.reserved_blocks + 1);
	sim_free(&follower);
	sim_free(&leader);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(rows_that_no_leader_can_have_are_refused),
	    cmocka_unit_test(data_that_is_wrong_or_not_there_is_refused),
	    cmocka_unit_test(a_view_that_cannot_be_does_not_end_a_resync),
	    cmocka_unit_test(the_next_inode_is_beyond_all_that_are_here),
	    cmocka_unit_test(a_row_that_cannot_be_stored_leaves_nothing_behind),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
