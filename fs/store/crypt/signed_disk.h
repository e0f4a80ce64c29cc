/*
 * signed_disk.h: a file whose sectors of 4 KiB are encrypted and signed, each by itself: AES-256-GCM (NIST SP 800-38D).
 *
 * The ciphertext lies in the file itself, at the same offset; nonce and tag of each sector in a second file, NAME.tags, of 32 bytes a
 * sector.  The key is that of the file, the additional data the sector's number, so a sector is good at one place of one volume only.
 * The nonce is random: 2^32 writes to one file, 16 TiB to a chunk, keep the chance that two of them are alike below 2^-32.
 *
 * Durability: flush() flushes both.  A crash may leave a sector without the tag that belongs to it, or the tag without the sector, as
 * long as neither was flushed: then the sector cannot be read (-EBADMSG).  Whoever writes in place must not need what such a sector
 * held before, nor what it was to hold, until a flush returned: rule R1, R2 and R3 say so of blocks of the arena, where their CRC-32C
 * would refuse a torn block likewise.
 * Reading what was never written is -EBADMSG: zeros could have been put there.
 * Threads: as disk.h; writes to sectors of one page of tags wait for each other while the page is changed.
 * Errors: as crypt_store.h, and -EBADMSG for a sector that was not written so, there, with this key.
 */
#pragma once

#include "base/disk.h"
#include "fs/store/crypt/key.h"
#include "fs/store/crypt/rooms.h"

#define SIGNED_TAG_BYTES 32u
#define SIGNED_SHARE     129u /* one part of so many goes to the tags */

/* As store_ops.open; `inner` and `rooms` outlive the disk. */
MUST_CHECK int signed_disk_open(struct store *inner, struct rooms *rooms, const struct data_key *key, const char *name, unsigned flags,
				uint64_t size, struct disk **ret);
/* Both files. */
MUST_CHECK int signed_disk_remove(struct store *inner, const char *name);
