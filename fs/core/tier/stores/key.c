/*
 * key.c: the key of the volume, which seals those of objects, and the names that objects have in a store.
 *
 * The key is 32 random bytes, made by the leader when the first store that encrypts is added, logged as a policy of the root
 * directory
 * ("tier.key", 64 hexadecimal digits) and so on every node.  It protects what lies in stores from those who can read the stores;
 * whoever can read a node's directory has the data anyway.  It is never changed: every object that was ever stored depends on it.
 */
#include <errno.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/tier/tier.h"

#define KEY_POLICY "tier.key"
#define KEY_DIGITS (2 * PACK_KEY_BYTES)
#define ID_DIGITS  16u
#define PREFIX     "packs/"

static int hex_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int parse_key(void *ctx, const char *key, const char *value)
{
	struct pack_volume_key *ret = ctx;

	if (strcmp(key, KEY_POLICY) != 0)
		return 0;
	if (strlen(value) != KEY_DIGITS)
		return -EUCLEAN;
	for (unsigned i = 0; i < PACK_KEY_BYTES; i++) {
		int high = hex_value(value[2 * i]), low = hex_value(value[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EUCLEAN;
		ret->bytes[i] = (uint8_t)(high << 4 | low);
	}
	return 1;
}

int stores_key(struct fs *fs, struct pack_volume_key *ret)
{
	int r = policies_each(fs, FS_ROOT_INO, KEY_POLICY, parse_key, ret);

	if (r == -EUCLEAN)
		log_error("the volume's key for objects is damaged: what is in object stores cannot be read");
	return r == 1 ? 0 : r == 0 ? -ENOENT : r;
}

int stores_make_key(struct fs *fs)
{
	char text[KEY_DIGITS + 1];
	struct pack_volume_key key;
	int r = stores_key(fs, &key);

	if (r == -ENOENT) {
		r = RAND_bytes(key.bytes, sizeof(key.bytes)) == 1 ? 0 : -EIO;
		for (unsigned i = 0; i < PACK_KEY_BYTES; i++)
			snprintf(text + 2 * i, 3, "%02x", key.bytes[i]);
		if (r == 0)
			r = policy_set(fs, NULL, FS_ROOT_INO, KEY_POLICY, text);
		OPENSSL_cleanse(text, sizeof(text));
	}
	OPENSSL_cleanse(&key, sizeof(key));
	return r;
}

/* The first byte as a directory of its own, so that a store in a directory has 256 of them. */
void object_name(uint64_t object, char ret_key[OBJECT_NAME_MAX])
{
	snprintf(ret_key, OBJECT_NAME_MAX, PREFIX "%02x/%016" PRIx64, (unsigned)(object >> 56), object);
}

int object_name_parse(const char *key, uint64_t *ret_object)
{
	char again[OBJECT_NAME_MAX];
	const size_t at = strlen(PREFIX) + 3;
	uint64_t object = 0;

	if (strlen(key) != at + ID_DIGITS)
		return -EINVAL;
	for (const char *p = key + at; *p; p++) {
		int v = hex_value(*p);

		if (v < 0)
			return -EINVAL;
		object = object << 4 | (unsigned)v;
	}
	object_name(object, again);
	if (!object || strcmp(again, key) != 0)
		return -EINVAL;
	*ret_object = object;
	return 0;
}
