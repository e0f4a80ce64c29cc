/*
 * keys_format.h: bytes of the file `keys`: the data key, sealed once for each secret that opens it.  docs/FORMAT.md tells the same in
 * words.
 *
 * Two copies of a block, the same in each: the file is replaced as a whole, the second copy is for a sector that cannot be read.
 */
#pragma once

#include "base/le.h"
#include "fs/store/crypt/key.h"

#define KEYS_MAGIC      UINT64_C(0x305359454b574c43) /* "CLWKEYS0" */
#define KEYS_VERSION    1
#define KEYS_SLOTS      8u
#define KEYS_COPIES     2u
#define KEY_NAME_BYTES  32u
#define KEY_SALT_BYTES  32u
#define KEY_TAG_BYTES   16u
#define KEYS_NAME       "keys"

enum key_kind {
	KEY_NONE,
	KEY_RAW,        /* 32 bytes of a file or a command: the sealing key is HKDF-SHA256(them, salt, "clawfs slot") */
	KEY_PASSPHRASE, /* it is scrypt(passphrase, salt, N = 2^log2_n, r, p), RFC 7914 */
	KEY_KINDS,
};

/*
 * `sealed` is AES-256-GCM with 12 zero bytes as nonce, for the salt makes each sealing key one that is used once.  The additional data
 * are volume, version, mode and the slot up to `sealed`.
 */
struct key_slot {
	le32 kind;      /* 0: free, all zeros */
	le32 log2_n, r, p;
	uint8_t salt[KEY_SALT_BYTES];
	le64 created_ns;
	uint8_t name[KEY_NAME_BYTES]; /* for people: UTF-8, zero-padded */
	uint8_t sealed[DATA_KEY_BYTES];
	uint8_t tag[KEY_TAG_BYTES];
	uint8_t zero[88];
};
_Static_assert(sizeof(struct key_slot) == 256, "");

/* Valid if and only if magic, version and crc are right, mode is known, and each slot is one that can be used or free. */
struct keys_block {
	le64 magic;
	le32 version;
	le32 mode;      /* enum encryption: 1 xts, 2 aead */
	uint8_t volume[16];
	le64 generation; /* grows by one each time */
	struct key_slot slot[KEYS_SLOTS];
	uint8_t zero[2004];
	le32 crc;       /* CRC-32C of the block up to here */
};
_Static_assert(sizeof(struct keys_block) == 4096, "");
