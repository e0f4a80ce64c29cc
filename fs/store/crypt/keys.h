/*
 * keys.h: the file `keys` of an encrypted volume: who can open it, and changing that without touching what is encrypted.
 *
 * Durability: keys_save() returns once the new file is on disk; a crash leaves the old one or the new one.  The bytes of the old one are
 * overwritten, as far as the host lets a file be overwritten: whoever copied them before has them.
 * Threads: one at a time for each file; keys_lock() keeps other processes out.
 * Errors: -ENODATA no such file, -EBADMSG both copies damaged, -EUCLEAN a block that cannot be, -EPROTONOSUPPORT of a newer clawfs,
 * -ENOKEY the secret opens no slot, -ENOSPC no free slot, -EEXIST a name that is taken, -ENOENT no slot of that name.
 */
#pragma once

#include "fs/store/crypt/keys_format.h"

#define PASSPHRASE_MAX 1024u
#define RAW_KEY_BYTES  32u

/* What an admin gave: a passphrase, or the 32 bytes of a key. */
struct secret {
	enum key_kind kind;
	size_t len;
	uint8_t bytes[PASSPHRASE_MAX];
};
static inline void secret_wipe(struct secret *s) { key_wipe(s, sizeof(*s)); }

/* The cost of a passphrase: 128 * r * 2^log2_n bytes of memory, p times the work. */
struct key_cost {
	uint32_t log2_n, r, p;
};
#define KEY_COST_USUAL ((struct key_cost){.log2_n = 17, .r = 8, .p = 1}) /* 128 MiB, about half a second */

/* Anything from disk; bounds the cost of each slot too. */
MUST_CHECK int keys_check(const struct keys_block *b);

void keys_init(struct keys_block *b, const uint8_t volume[16], enum encryption mode);
/* Seals `key` in a free slot for `secret`; `name` of 1 to KEY_NAME_BYTES bytes. */
MUST_CHECK int keys_add(struct keys_block *b, const struct data_key *key, const struct secret *secret, const struct key_cost *cost,
			const char *name, int64_t now_ns);
/* Tries the slots of the secret's kind; *ret_slot (may be NULL): which one it was. */
MUST_CHECK int keys_open(const struct keys_block *b, const struct secret *secret, struct data_key *ret, unsigned *ret_slot);
MUST_CHECK int keys_find(const struct keys_block *b, const char *name, unsigned *ret_slot);
void keys_remove(struct keys_block *b, unsigned slot);
unsigned keys_count(const struct keys_block *b);

/* keys_file.c; `dir` is the volume's directory. */
MUST_CHECK int keys_load(const char *dir, struct keys_block *ret);
MUST_CHECK int keys_save(const char *dir, struct keys_block *b); /* generation + 1; makes the file */
/* Until *ret_fd is closed no other process changes the file; -EBUSY when one does. */
MUST_CHECK int keys_lock(const char *dir, int *ret_fd);
