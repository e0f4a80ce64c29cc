/* test_simstore.c: the simulated store, index and model that the crash suite trusts. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "tests/lib/kv_mem.h"
#include "tests/lib/model.h"
#include "tests/lib/simstore.h"

#define FILE_BYTES (64 * 1024u)

static uint8_t page_a[4096] __attribute__((aligned(4096)));
static uint8_t page_b[4096] __attribute__((aligned(4096)));

static struct disk *open_file(struct store *store, const char *name, unsigned flags)
{
	struct disk *d = NULL;

	assert_int_equal(store_open(store, name, flags, FILE_BYTES, &d), 0);
	return d;
}

/* Byte `off` of `name` in the image of cut `event`. */
static int byte_at(struct simstore *s, uint64_t event, enum simcut_variant v, const char *name, uint64_t off)
{
	struct rng rng = {.state = event};
	struct simcut *c = simcut_new(s);
	struct simstore_file f;
	uint8_t byte = 0;

	simcut_advance(c, event);
	struct simstore *image = simcut_image(c, v, &rng, false);
	int there = (int)simstore_files(image, &f, 1);
	if (there)
		simstore_peek(image, name, &byte, 1, off);
	simstore_free(image);
	simcut_free(c);
	return there ? byte : -1;
}

static void unflushed_write_is_lost_and_flushed_write_is_kept(void **state)
{
	struct simstore *s = simstore_new();
	struct store *store = simstore_open(s);
	struct disk *d = open_file(store, "a", DISK_CREATE); /* event 1 */

	(void)state;
	assert_int_equal(store_sync_names(store), 0);              /* 2 */
	assert_int_equal(disk_write(d, page_a, 4096, 4096, 0), 0); /* 3 */
	assert_int_equal(disk_flush(d), 0);                        /* 4 */
	assert_int_equal(byte_at(s, 1, SIMCUT_LOST, "a", 0), -1);
	assert_int_equal(byte_at(s, 1, SIMCUT_KEPT, "a", 0), 0);
	assert_int_equal(byte_at(s, 2, SIMCUT_LOST, "a", 0), 0);
	assert_int_equal(byte_at(s, 3, SIMCUT_LOST, "a", 4096), 0);
	assert_int_equal(byte_at(s, 3, SIMCUT_KEPT, "a", 4096), 'a');
	assert_int_equal(byte_at(s, 3, SIMCUT_KILL, "a", 4096), 'a');
	assert_int_equal(byte_at(s, 4, SIMCUT_LOST, "a", 4096), 'a');
	disk_close(d);
	store_close(store);
	simstore_free(s);
}

static void durable_write_is_torn_by_sectors_only_while_under_way(void **state)
{
	struct simstore *s = simstore_new();
	struct store *store = simstore_open(s);
	struct disk *d = open_file(store, "a", DISK_CREATE | DISK_DIRECT);
	int n_torn = 0;

	(void)state;
	assert_int_equal(store_sync_names(store), 0);
	assert_int_equal(disk_write(d, page_a, 4096, 0, DISK_DURABLE), 0); /* 3 */
	assert_int_equal(byte_at(s, 3, SIMCUT_LOST, "a", 0), 'a');
	struct simcut *c = simcut_new(s);
	simcut_advance(c, 2);
	for (unsigned i = 0; i < 50; i++) {
		struct rng rng = {.state = i};
		struct simstore *image = simcut_image(c, SIMCUT_TORN, &rng, false);
		uint8_t got[4096];
		unsigned n = 0;

		simstore_peek(image, "a", got, sizeof(got), 0);
		for (unsigned sector = 0; sector < 8; sector++) {
			n += got[sector * 512] == 'a';
			assert_memory_equal(got + sector * 512, got[sector * 512] ? page_a : (uint8_t[512]){0}, 512);
		}
		n_torn += n > 0 && n < 8;
		simstore_free(image);
	}
	assert_true(n_torn > 3);
	simcut_free(c);
	disk_close(d);
	store_close(store);
	simstore_free(s);
}

static void durable_write_leaves_other_pending_writes_pending(void **state)
{
	struct simstore *s = simstore_new();
	struct store *store = simstore_open(s);
	struct disk *d = open_file(store, "a", DISK_CREATE);

	(void)state;
	assert_int_equal(store_sync_names(store), 0);
	assert_int_equal(disk_write(d, page_a, 4096, 0, 0), 0);
	assert_int_equal(disk_write(d, page_a, 4096, 8192, 0), 0);
	assert_int_equal(disk_write(d, page_b, 4096, 8192, DISK_DURABLE), 0); /* 5 */
	for (int v = 0; v < SIMCUT_VARIANTS; v++)
		assert_int_equal(byte_at(s, 5, (enum simcut_variant)v, "a", 8192), 'b');
	assert_int_equal(byte_at(s, 5, SIMCUT_LOST, "a", 0), 0);
	disk_close(d);
	store_close(store);
	simstore_free(s);
}

static void mapped_memory_survives_kill_but_not_power_loss(void **state)
{
	struct simstore *s = simstore_new();
	struct store *store = simstore_open(s);
	struct disk *d = open_file(store, "a", DISK_CREATE);
	uint8_t *p;

	(void)state;
	assert_int_equal(store_sync_names(store), 0);
	assert_int_equal(disk_map(d, FILE_BYTES, (void **)&p), 0);
	p[5000] = 'm';
	assert_int_equal(simstore_mark(s), 3);
	p[5000] = 'n';
	assert_int_equal(simstore_mark(s), 4);
	assert_int_equal(byte_at(s, 3, SIMCUT_LOST, "a", 5000), 0);
	assert_int_equal(byte_at(s, 4, SIMCUT_KILL, "a", 5000), 'n');
	int at_3 = byte_at(s, 3, SIMCUT_KILL, "a", 5000);
	assert_true(at_3 == 'm' || at_3 == 'n');
	uint8_t byte;
	assert_int_equal(disk_read(d, &byte, 1, 5000), 0);
	assert_int_equal(byte, 'n');
	disk_close(d);
	simstore_peek(s, "a", &byte, 1, 5000);
	assert_int_equal(byte, 'n');
	store_close(store);
	simstore_free(s);
}

static void image_of_a_kill_can_still_lose_what_the_host_held(void **state)
{
	struct simstore *s = simstore_new();
	struct store *store = simstore_open(s);
	struct disk *d = open_file(store, "a", DISK_CREATE);
	struct rng rng = {.state = 1};

	(void)state;
	assert_int_equal(store_sync_names(store), 0);
	assert_int_equal(disk_write(d, page_a, 4096, 0, 0), 0);
	struct simcut *c = simcut_new(s);
	simcut_advance(c, 3);
	struct simstore *killed = simcut_image(c, SIMCUT_KILL, &rng, true);
	struct simstore *lost = simcut_image(c, SIMCUT_LOST, &rng, true);
	uint8_t byte;
	simstore_peek(killed, "a", &byte, 1, 0);
	assert_int_equal(byte, 'a');
	assert_int_equal(byte_at(killed, 0, SIMCUT_LOST, "a", 0), 0);
	assert_int_equal(byte_at(killed, 0, SIMCUT_KEPT, "a", 0), 'a');
	assert_int_equal(byte_at(lost, 0, SIMCUT_KEPT, "a", 0), 0);
	/* Images outlive what they came from. */
	simcut_free(c);
	disk_close(d);
	store_close(store);
	simstore_free(s);
	simstore_peek(killed, "a", &byte, 1, 0);
	assert_int_equal(byte, 'a');
	simstore_free(killed);
	simstore_free(lost);
}

static void removed_file_may_come_back_until_names_are_synced(void **state)
{
	struct simstore *s = simstore_new();
	struct store *store = simstore_open(s);

	(void)state;
	disk_close(open_file(store, "a", DISK_CREATE));
	assert_int_equal(store_sync_names(store), 0);
	assert_int_equal(store_remove(store, "a"), 0); /* 3 */
	assert_int_equal(store_sync_names(store), 0);  /* 4 */
	assert_int_equal(store_remove(store, "a"), -ENOENT);
	assert_int_equal(byte_at(s, 3, SIMCUT_LOST, "a", 0), 0);
	assert_int_equal(byte_at(s, 3, SIMCUT_KILL, "a", 0), -1);
	assert_int_equal(byte_at(s, 4, SIMCUT_LOST, "a", 0), -1);
	store_close(store);
	simstore_free(s);
}

static void failed_flush_makes_nothing_durable_and_the_nth_event_fails(void **state)
{
	struct simstore *s = simstore_new();
	struct store *store = simstore_open(s);
	struct disk *d = open_file(store, "a", DISK_CREATE);

	(void)state;
	assert_int_equal(store_sync_names(store), 0);
	simstore_fail(s, 4, 1, -EIO);
	assert_int_equal(disk_write(d, page_a, 4096, 0, 0), 0);
	assert_int_equal(disk_flush(d), -EIO);
	assert_int_equal(byte_at(s, 4, SIMCUT_LOST, "a", 0), 0);
	assert_int_equal(disk_flush(d), 0);
	simstore_fail(s, 6, UINT64_MAX, -ENOSPC);
	assert_int_equal(disk_write(d, page_b, 4096, 0, 0), -ENOSPC);
	assert_int_equal(disk_flush(d), -ENOSPC);
	assert_int_equal(simstore_failures(s), 3);
	simstore_fail(s, 0, 0, 0);
	uint8_t got[4096];
	assert_int_equal(disk_read(d, got, 4096, 0), 0);
	assert_memory_equal(got, page_a, 4096);
	simstore_fail_reads(s, 2, 1, -EIO);
	assert_int_equal(disk_read(d, got, 4096, 0), -EIO);
	assert_int_equal(disk_read(d, got, 4096, 0), 0);
	disk_close(d);
	store_close(store);
	simstore_free(s);
}

static void direct_disk_refuses_what_the_host_would(void **state)
{
	struct simstore *s = simstore_new();
	struct store *store = simstore_open(s);
	struct disk *d = open_file(store, "a", DISK_CREATE | DISK_DIRECT), *same = NULL;

	(void)state;
	assert_int_equal(disk_write(d, page_a + 1, 4096, 0, 0), -EINVAL);
	assert_int_equal(disk_write(d, page_a, 512, 0, 0), -EINVAL);
	assert_int_equal(disk_write(d, page_a, 4096, 512, 0), -EINVAL);
	assert_int_equal(disk_write(d, page_a, 4096, FILE_BYTES, 0), -EINVAL);
	assert_int_equal(disk_read(d, page_b, 4096, FILE_BYTES), -EIO);
	assert_int_equal(store_open(store, "a", DISK_CREATE, 4096, &same), -EEXIST);
	assert_int_equal(store_open(store, "b", 0, 0, &same), -ENOENT);
	disk_close(d);
	store_close(store);
	simstore_free(s);
}

/* ---- the index ---- */

static struct slice text(const char *s)
{
	return (struct slice){s, strlen(s)};
}

static void put(struct kv *kv, const char *key, const char *value)
{
	struct kv_batch b = {0};

	if (value)
		kv_batch_put(&b, text(key), text(value));
	else
		kv_batch_delete(&b, text(key));
	assert_int_equal(kv_write(kv, &b), 0);
	kv_batch_free(&b);
}

static void expect(struct kv_disk *d, const char *key, const char *want)
{
	char got[64] = {0};
	struct kv *kv;
	size_t n;

	assert_int_equal(kv_mem_open(d, false, &kv), 0);
	assert_int_equal(kv_get(kv, text(key), got, sizeof(got), &n), want ? 0 : -ENOENT);
	if (want)
		assert_string_equal(got, want);
	kv_close(kv);
}

static void index_holds_exactly_what_was_frozen_and_flushed(void **state)
{
	struct simstore *s = simstore_new();
	struct kv_disk *d = kv_disk_new(s);
	struct kv *kv;

	(void)state;
	assert_int_equal(kv_mem_open(d, true, &kv), 0);
	put(kv, "a", "1");
	expect(d, "a", NULL);
	assert_int_equal(kv->ops->freeze(kv), 0);
	put(kv, "a", "2");
	put(kv, "b", "3");
	assert_int_equal(kv->ops->flush_frozen(kv), 0); /* event 1 */
	assert_int_equal(kv->ops->freeze(kv), 0);
	put(kv, "a", NULL);
	assert_int_equal(kv->ops->flush_frozen(kv), 0); /* event 2 */
	kv_close(kv);
	expect(d, "a", "2");
	expect(d, "b", "3");
	struct kv_disk *at_0 = kv_disk_at(d, 0, NULL), *at_1 = kv_disk_at(d, 1, NULL);
	expect(at_0, "a", NULL);
	expect(at_1, "a", "1");
	expect(at_1, "b", NULL);
	assert_int_equal(kv_mem_open(d, true, &kv), -EEXIST);
	kv_disk_damage(d, 1);
	assert_int_equal(kv_mem_open(d, false, &kv), 0);
	size_t n;
	char got[8];
	assert_int_equal(kv_get(kv, text("b"), got, sizeof(got), &n), -EBADMSG);
	kv_close(kv);
	kv_disk_free(at_0);
	kv_disk_free(at_1);
	kv_disk_free(d);
	simstore_free(s);
}

static void iterator_sees_the_index_as_it_was_and_in_order(void **state)
{
	struct kv_disk *d = kv_disk_new(NULL);
	struct rng rng = {.state = 7};
	bool there[1000] = {0};
	struct kv_iter *it;
	struct kv *kv;
	char key[16];

	(void)state;
	assert_int_equal(kv_mem_open(d, true, &kv), 0);
	for (int i = 0; i < 5000; i++) {
		unsigned n = (unsigned)rng_below(&rng, 1000);

		there[n] = !rng_percent(&rng, 40);
		snprintf(key, sizeof(key), "%03u", n);
		put(kv, key, there[n] ? key : NULL);
	}
	assert_int_equal(kv->ops->iter_open(kv, &it), 0);
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(key, sizeof(key), "%03u", i);
		put(kv, key, i % 2 ? "later" : NULL);
	}
	kv->ops->iter_seek(it, text(""));
	for (unsigned i = 0; i < 1000; i++) {
		if (!there[i])
			continue;
		snprintf(key, sizeof(key), "%03u", i);
		assert_true(kv->ops->iter_valid(it));
		assert_memory_equal(kv->ops->iter_key(it).p, key, 3);
		assert_memory_equal(kv->ops->iter_value(it).p, key, 3);
		kv->ops->iter_next(it);
	}
	assert_false(kv->ops->iter_valid(it));
	kv->ops->iter_close(it);
	kv_close(kv);
	kv_disk_free(d);
}

/* ---- the model ---- */

static void model_clone_keeps_what_it_was(void **state)
{
	struct model *m = model_new(0755, 0, 0), *old;
	struct tree got, want;
	char why[256];

	(void)state;
	assert_int_equal(model_mknod(m, 1, "f", S_IFREG | 0644, 1, 2, 0, NULL, 10), 0);
	assert_int_equal(model_write(m, 10, 3, "abc", 3, false), 0);
	old = model_clone(m);
	assert_int_equal(model_hash(old), model_hash(m));
	assert_int_equal(model_write(m, 10, 4, "X", 1, false), 0);
	assert_true(model_hash(old) != model_hash(m));
	assert_memory_equal(model_bytes(old, 10), "\0\0\0abc", 6);
	assert_memory_equal(model_bytes(m, 10), "\0\0\0aXc", 6);
	model_tree(m, &got);
	model_tree(old, &want);
	assert_true(tree_diff(&got, &want, why, sizeof(why)));
	assert_non_null(strstr(why, "/f (inode 10): hash of the bytes"));
	tree_free(&got);
	tree_free(&want);
	model_free(m);
	model_free(old);
}

static void model_renames_as_posix_says(void **state)
{
	struct model *m = model_new(0755, 0, 0);

	(void)state;
	assert_int_equal(model_mknod(m, 1, "d", S_IFDIR | 0755, 0, 0, 0, NULL, 10), 0);
	assert_int_equal(model_mknod(m, 1, "e", S_IFDIR | 0755, 0, 0, 0, NULL, 11), 0);
	assert_int_equal(model_mknod(m, 10, "f", S_IFREG | 0644, 0, 0, 0, NULL, 12), 0);
	assert_int_equal(model_get(m, 1)->nlink, 4);
	assert_int_equal(model_rename(m, 1, "e", 1, "d", 0), -ENOTEMPTY);
	assert_int_equal(model_rename(m, 1, "d", 1, "e", RENAME_NOREPLACE), -EEXIST);
	assert_int_equal(model_rename(m, 10, "f", 1, "e", 0), -EISDIR);
	assert_int_equal(model_rename(m, 10, "f", 1, "e", RENAME_EXCHANGE), 0);
	assert_int_equal(model_get(m, 11)->parent, 10);
	assert_int_equal(model_get(m, 1)->nlink, 3);
	assert_int_equal(model_get(m, 10)->nlink, 3);
	assert_int_equal(model_lookup(m, 1, "e"), 12);
	assert_true(model_is_above(m, 10, 11));
	assert_false(model_is_above(m, 11, 10));
	assert_int_equal(model_link(m, 12, 11, "g"), 0);
	assert_int_equal(model_rename(m, 1, "e", 11, "g", 0), 0); /* the same inode: nothing happens */
	assert_int_equal(model_get(m, 12)->nlink, 2);
	assert_int_equal(model_unlink(m, 1, "e"), 0);
	assert_int_equal(model_unlink(m, 11, "g"), 0);
	assert_int_equal(model_get(m, 12)->nlink, 0);
	model_forget_orphans(m);
	assert_null(model_get(m, 12));
	model_free(m);
}

static void model_punches_and_truncates_to_the_byte(void **state)
{
	struct model *m = model_new(0755, 0, 0);
	struct record_attr a = {.mask = ATTR_SIZE, .size = 4};

	(void)state;
	assert_int_equal(model_mknod(m, 1, "f", S_IFREG | 0644, 0, 0, 0, NULL, 10), 0);
	assert_int_equal(model_write(m, 10, 0, "abcdefgh", 8, false), 0);
	assert_int_equal(model_fallocate(m, 10, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2, 3), 0);
	assert_memory_equal(model_bytes(m, 10), "ab\0\0\0fgh", 8);
	assert_int_equal(model_setattr(m, 10, &a), 0);
	assert_int_equal(model_fallocate(m, 10, 0, 0, 6), 0);
	assert_int_equal(model_get(m, 10)->size, 6);
	assert_memory_equal(model_bytes(m, 10), "ab\0\0\0\0", 6);
	model_free(m);
}

int main(void)
{
	memset(page_a, 'a', sizeof(page_a));
	memset(page_b, 'b', sizeof(page_b));
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(unflushed_write_is_lost_and_flushed_write_is_kept),
	    cmocka_unit_test(durable_write_is_torn_by_sectors_only_while_under_way),
	    cmocka_unit_test(durable_write_leaves_other_pending_writes_pending),
	    cmocka_unit_test(mapped_memory_survives_kill_but_not_power_loss),
	    cmocka_unit_test(image_of_a_kill_can_still_lose_what_the_host_held),
	    cmocka_unit_test(removed_file_may_come_back_until_names_are_synced),
	    cmocka_unit_test(failed_flush_makes_nothing_durable_and_the_nth_event_fails),
	    cmocka_unit_test(direct_disk_refuses_what_the_host_would),
	    cmocka_unit_test(index_holds_exactly_what_was_frozen_and_flushed),
	    cmocka_unit_test(iterator_sees_the_index_as_it_was_and_in_order),
	    cmocka_unit_test(model_clone_keeps_what_it_was),
	    cmocka_unit_test(model_renames_as_posix_says),
	    cmocka_unit_test(model_punches_and_truncates_to_the_byte),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
