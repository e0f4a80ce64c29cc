/*
 * test_keys.c: the file `keys`: who opens it and who does not, each bit of it, and the algorithms against published examples.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/store/crypt/keys.h"
#include "fs/store/crypt/siv.h"
#include "fs/store/crypt/xts.h"
#include "tests/unit/tempdir.h"

/* The real cost takes half a second each time. */
static const struct key_cost cheap = {.log2_n = 10, .r = 8, .p = 1};
#define GOLDEN_SECTOR 0x9d43c9d9u
#define GOLDEN_ROW    0x24bdad57u
#define GOLDEN_EMPTY  0x8f712d97u
static const uint8_t volume[16] = {1, 2, 3};

static void from_hex(const char *hex, uint8_t *ret)
{
	for (; *hex; hex += 2)
		assert_int_equal(sscanf(hex, "%2hhx", ret++), 1);
}

static struct secret raw_secret(uint8_t n)
{
	struct secret s = {.kind = KEY_RAW, .len = RAW_KEY_BYTES};

	memset(s.bytes, n, RAW_KEY_BYTES);
	return s;
}

static struct secret passphrase(const char *words)
{
	struct secret s = {.kind = KEY_PASSPHRASE, .len = strlen(words)};

	memcpy(s.bytes, words, s.len);
	return s;
}

static void fix_crc(struct keys_block *b)
{
	b->crc = le32_make(crc32c(0, b, offsetof(struct keys_block, crc)));
}

/* A raw key in slot 0 and a passphrase in slot 1. */
static void make_two(struct keys_block *b, struct data_key *key)
{
	const struct secret raw = raw_secret(7), words = passphrase("correct horse");

	assert_int_equal(data_key_random(ENCRYPTION_XTS, key), 0);
	keys_init(b, volume, ENCRYPTION_XTS);
	assert_int_equal(keys_add(b, key, &raw, &cheap, "file", 1), 0);
	assert_int_equal(keys_add(b, key, &words, &cheap, "words", 2), 0);
	assert_int_equal(keys_check(b), 0);
}

static void each_secret_opens_its_slot_and_no_other_does(void **state)
{
	const struct secret raw = raw_secret(7), words = passphrase("correct horse");
	const struct secret wrong[] = {raw_secret(8), passphrase("correct hors"), passphrase("correct horse "), passphrase("\7")};
	struct keys_block b;
	struct data_key key, got;
	unsigned slot;

	(void)state;
	make_two(&b, &key);
	assert_int_equal(keys_open(&b, &raw, &got, &slot), 0);
	assert_int_equal(slot, 0);
	assert_memory_equal(&got, &key, sizeof(key));
	assert_int_equal(keys_open(&b, &words, &got, &slot), 0);
	assert_int_equal(slot, 1);
	assert_memory_equal(&got, &key, sizeof(key));
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(keys_open(&b, &wrong[i], &got, &slot), -ENOKEY);
}

static void a_slot_that_was_removed_opens_no_more(void **state)
{
	const struct secret raw = raw_secret(7), words = passphrase("correct horse");
	struct keys_block b;
	struct data_key key, got;

	(void)state;
	make_two(&b, &key);
	keys_remove(&b, 0);
	assert_int_equal(keys_check(&b), 0);
	assert_int_equal(keys_count(&b), 1);
	assert_int_equal(keys_open(&b, &raw, &got, NULL), -ENOKEY);
	assert_int_equal(keys_open(&b, &words, &got, NULL), 0);
}

static void names_are_unique_and_slots_are_eight(void **state)
{
	const char *const bad[] = {"", "a name that has more than 32 bytes!"};
	struct keys_block b;
	struct data_key key;
	struct secret raw = raw_secret(1);
	unsigned slot;
	char name[16];

	(void)state;
	make_two(&b, &key);
	assert_int_equal(keys_add(&b, &key, &raw, &cheap, "file", 1), -EEXIST);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(keys_add(&b, &key, &raw, &cheap, bad[i], 1), -EINVAL);
	for (unsigned i = 2; i < KEYS_SLOTS; i++) {
		snprintf(name, sizeof(name), "slot %u", i);
		assert_int_equal(keys_add(&b, &key, &raw, &cheap, name, 1), 0);
	}
	assert_int_equal(keys_add(&b, &key, &raw, &cheap, "one more", 1), -ENOSPC);
	assert_int_equal(keys_find(&b, "slot 5", &slot), 0);
	assert_int_equal(slot, 5);
	assert_int_equal(keys_find(&b, "slot 55", &slot), -ENOENT);
	/* the longest, which fills its field */
	keys_remove(&b, 5);
	assert_int_equal(keys_add(&b, &key, &raw, &cheap, "0123456789abcdef0123456789abcdef", 1), 0);
	assert_int_equal(keys_find(&b, "0123456789abcdef0123456789abcdef", &slot), 0);
	assert_int_equal(keys_find(&b, "0123456789abcdef0123456789abcdefg", &slot), -ENOENT);
	assert_int_equal(keys_check(&b), 0);
}

static void a_flipped_bit_anywhere_is_damage(void **state)
{
	struct keys_block b;
	struct data_key key;

	(void)state;
	make_two(&b, &key);
	for (size_t bit = 0; bit < sizeof(b) * 8; bit++) {
		((uint8_t *)&b)[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(keys_check(&b), -EBADMSG);
		((uint8_t *)&b)[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
}

/* Somebody who can write may make the CRC right.  What follows the generation has nothing to do with opening. */
static void a_forged_bit_that_matters_is_refused(void **state)
{
	const struct secret secrets[] = {raw_secret(7), passphrase("correct horse")};
	const size_t slots = offsetof(struct keys_block, slot), generation = offsetof(struct keys_block, generation);
	struct keys_block b;
	struct data_key key, got;

	(void)state;
	make_two(&b, &key);
	for (size_t bit = 64; bit < offsetof(struct keys_block, crc) * 8; bit++) {
		size_t byte = bit / 8;
		struct keys_block forged = b;

		if (byte >= generation && byte < slots)
			continue;
		((uint8_t *)&forged)[byte] ^= (uint8_t)(1 << bit % 8);
		fix_crc(&forged);
		if (keys_check(&forged) < 0)
			continue;
		/* the slot it is in, or all of them */
		for (unsigned i = 0; i < ARRAY_SIZE(secrets); i++)
			if (byte < slots || (byte - slots) / sizeof(struct key_slot) == i)
				assert_int_equal(keys_open(&forged, &secrets[i], &got, NULL), -ENOKEY);
	}
}

static void a_cost_beyond_all_bounds_is_refused_before_it_is_paid(void **state)
{
	static const struct key_cost bad[] = {{9, 8, 1},   {23, 8, 1}, {UINT32_MAX, 8, 1}, {17, 0, 1},  {17, 65, 1},
					      {17, 33, 1}, {20, 8, 1}, {17, 8, 0},         {17, 8, 17}, {0, 0, 0}};
	const struct secret words = passphrase("correct horse");
	struct keys_block b;
	struct data_key key;

	(void)state;
	make_two(&b, &key);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct keys_block forged = b;

		forged.slot[1].log2_n = le32_make(bad[i].log2_n);
		forged.slot[1].r = le32_make(bad[i].r);
		forged.slot[1].p = le32_make(bad[i].p);
		fix_crc(&forged);
		assert_int_equal(keys_check(&forged), -EUCLEAN);
		assert_int_equal(keys_add(&b, &key, &words, &bad[i], "new", 1), -EINVAL);
	}
}

static void what_no_version_wrote_is_refused(void **state)
{
	struct keys_block b, c;
	struct data_key key;

	(void)state;
	make_two(&b, &key);
	for (unsigned n = 0; n < 6; n++) {
		static const int want[] = {-EPROTONOSUPPORT, -EUCLEAN, -EUCLEAN, -EUCLEAN, -EUCLEAN, -EUCLEAN};

		c = b;
		if (n == 0)
			c.version = le32_make(2);
		else if (n == 1)
			c.version = le32_make(0);
		else if (n == 2)
			c.mode = le32_make(ENCRYPTION_NONE);
		else if (n == 3)
			c.slot[0].kind = le32_make(KEY_KINDS);
		else if (n == 4)
			c.slot[2].sealed[0] = 1; /* of a free one */
		else
			memset(c.slot[0].name, 0, sizeof(c.slot[0].name));
		fix_crc(&c);
		assert_int_equal(keys_check(&c), want[n]);
	}
}

/* ---- the file ---- */

static void damage(const char *dir, unsigned copy)
{
	char path[300];
	const off_t at = (off_t)copy * 4096 + 200;
	uint8_t byte;

	snprintf(path, sizeof(path), "%s/keys", dir);
	int fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

static void either_copy_of_the_file_is_enough(void **state)
{
	struct keys_block b, got;
	struct data_key key;
	char dir[256];

	(void)state;
	for (unsigned copy = 0; copy < KEYS_COPIES; copy++) {
		tempdir_make(dir);
		assert_int_equal(keys_load(dir, &got), -ENODATA);
		make_two(&b, &key);
		assert_int_equal(keys_save(dir, &b), 0);
		damage(dir, copy);
		assert_int_equal(keys_load(dir, &got), 0);
		assert_memory_equal(&got, &b, sizeof(b));
		damage(dir, !copy);
		assert_int_equal(keys_load(dir, &got), -EBADMSG);
		tempdir_remove(dir);
	}
}

static void the_former_file_is_overwritten(void **state)
{
	static const uint8_t zeros[2 * 4096];
	uint8_t bytes[2 * 4096];
	struct keys_block b, got;
	struct data_key key;
	char dir[256], path[300], link_path[300];

	(void)state;
	tempdir_make(dir);
	make_two(&b, &key);
	assert_int_equal(keys_save(dir, &b), 0);
	/* a second name keeps the former file in sight */
	snprintf(path, sizeof(path), "%s/keys", dir);
	snprintf(link_path, sizeof(link_path), "%s/former", dir);
	assert_int_equal(link(path, link_path), 0);
	keys_remove(&b, 0);
	assert_int_equal(keys_save(dir, &b), 0);
	int fd = open(link_path, O_RDONLY);
	assert_int_equal(read(fd, bytes, sizeof(bytes)), sizeof(bytes));
	close(fd);
	assert_memory_equal(bytes, zeros, sizeof(zeros));
	assert_int_equal(keys_load(dir, &got), 0);
	assert_memory_equal(&got, &b, sizeof(b));
	assert_int_equal(le64_get(got.generation), 2);
	tempdir_remove(dir);
}

static void one_at_a_time_changes_the_file(void **state)
{
	struct keys_block b;
	struct data_key key;
	char dir[256];
	int first, second;

	(void)state;
	tempdir_make(dir);
	assert_int_equal(keys_lock(dir, &first), -ENODATA);
	make_two(&b, &key);
	assert_int_equal(keys_save(dir, &b), 0);
	assert_int_equal(keys_lock(dir, &first), 0);
	assert_int_equal(keys_lock(dir, &second), -EBUSY);
	close(first);
	assert_int_equal(keys_lock(dir, &second), 0);
	close(second);
	tempdir_remove(dir);
}

/* ---- algorithms ---- */

/* RFC 5869, A.1. */
static void keys_are_derived_as_published(void **state)
{
	uint8_t secret[22], salt[13], info[10], want[42], got[42];

	(void)state;
	from_hex("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", secret);
	from_hex("000102030405060708090a0b0c", salt);
	from_hex("f0f1f2f3f4f5f6f7f8f9", info);
	from_hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865", want);
	assert_int_equal(key_derive((struct slice){secret, sizeof(secret)}, (struct slice){salt, sizeof(salt)},
				    (struct slice){info, sizeof(info)}, got, sizeof(got)),
			 0);
	assert_memory_equal(got, want, sizeof(want));
}

/* IEEE 1619-2007, vector 10, whose unit of 512 bytes is the beginning of one of ours: blocks of a unit do not hang together. */
static void sectors_are_encrypted_as_published(void **state)
{
	uint8_t key[XTS_KEY_BYTES], want[64], *sector = malloc(XTS_SECTOR), *got = malloc(XTS_SECTOR);
	struct xts_cache *c;

	(void)state;
	from_hex("271828182845904523536028747135266249775724709369995957496696762731415926535897932384626433832795028841971693993"
		 "75105820974944592",
		 key);
	from_hex("1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3"
		 "345befecb4bb188fd",
		 want);
	for (unsigned i = 0; i < XTS_SECTOR; i++)
		sector[i] = (uint8_t)i;
	assert_int_equal(xts_cache_new(&c), 0);
	assert_int_equal(xts_encrypt(c, key, 0xff, sector, got, 1), 0);
	assert_memory_equal(got, want, sizeof(want));
	assert_int_equal(xts_decrypt(c, key, 0xff, got, got, 1), 0);
	assert_memory_equal(got, sector, XTS_SECTOR);
	xts_cache_free(c);
	free(sector);
	free(got);
}

static void what_was_sealed_opens_and_nothing_else_does(void **state)
{
	uint8_t key[SIV_KEY_BYTES], in[64], sealed[64 + SIV_TAG_BYTES], out[64 + 1];
	const struct slice aad = {"place", 5}, other = {"plac", 4};
	struct siv *s;

	(void)state;
	memset(key, 3, sizeof(key));
	key[0] = 1;
	memset(in, 0, sizeof(in));
	assert_int_equal(siv_new(key, &s), 0);
	for (size_t len = 0; len <= sizeof(in); len++) {
		struct slice all = {sealed, len + SIV_TAG_BYTES};

		assert_int_equal(siv_seal(s, aad, (struct slice){in, len}, sealed), 0);
		assert_int_equal(siv_open(s, aad, all, out), 0);
		assert_memory_equal(out, in, len);
		assert_int_equal(siv_open(s, other, all, out), -EBADMSG);
		for (size_t cut = 0; cut < all.len; cut++)
			assert_int_equal(siv_open(s, aad, (struct slice){sealed, cut}, out), -EBADMSG);
		for (size_t bit = 0; bit < 8 * all.len; bit++) {
			sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
			assert_int_equal(siv_open(s, aad, all, out), -EBADMSG);
			sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
	}
	siv_free(s);
}

/* What a volume of this release has on disk must open with every later one. */
static void the_format_stays_what_it_is(void **state)
{
	struct data_key key = {.mode = ENCRYPTION_XTS};
	uint8_t derived[64], sealed[5 + SIV_TAG_BYTES], *sector = calloc(1, XTS_SECTOR);
	struct xts_cache *c;
	struct siv *s;

	(void)state;
	for (unsigned i = 0; i < sizeof(key.bytes); i++)
		key.bytes[i] = (uint8_t)i;
	assert_int_equal(data_key_derive(&key, "xts ", "journal/seg.0000", derived, sizeof(derived)), 0);
	assert_int_equal(xts_cache_new(&c), 0);
	assert_int_equal(xts_encrypt(c, derived, 5, sector, sector, 1), 0);
	assert_int_equal(crc32c(0, sector, XTS_SECTOR), GOLDEN_SECTOR);
	assert_int_equal(data_key_derive(&key, "index values", "", derived, sizeof(derived)), 0);
	assert_int_equal(siv_new(derived, &s), 0);
	assert_int_equal(siv_seal(s, (struct slice){"key", 3}, (struct slice){"value", 5}, sealed), 0);
	assert_int_equal(crc32c(0, sealed, sizeof(sealed)), GOLDEN_ROW);
	assert_int_equal(siv_seal(s, (struct slice){"key", 3}, (struct slice){0}, sealed), 0);
	assert_int_equal(crc32c(0, sealed, SIV_TAG_BYTES), GOLDEN_EMPTY);
	siv_free(s);
	xts_cache_free(c);
	free(sector);
}

int main(void)
{
	const struct CMUnitTest cases[] = {
	    cmocka_unit_test(each_secret_opens_its_slot_and_no_other_does),
	    cmocka_unit_test(a_slot_that_was_removed_opens_no_more),
	    cmocka_unit_test(names_are_unique_and_slots_are_eight),
	    cmocka_unit_test(a_flipped_bit_anywhere_is_damage),
	    cmocka_unit_test(a_forged_bit_that_matters_is_refused),
	    cmocka_unit_test(a_cost_beyond_all_bounds_is_refused_before_it_is_paid),
	    cmocka_unit_test(what_no_version_wrote_is_refused),
	    cmocka_unit_test(either_copy_of_the_file_is_enough),
	    cmocka_unit_test(the_former_file_is_overwritten),
	    cmocka_unit_test(one_at_a_time_changes_the_file),
	    cmocka_unit_test(keys_are_derived_as_published),
	    cmocka_unit_test(sectors_are_encrypted_as_published),
	    cmocka_unit_test(what_was_sealed_opens_and_nothing_else_does),
	    cmocka_unit_test(the_format_stays_what_it_is),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
