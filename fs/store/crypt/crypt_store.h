/*
 * crypt_store.h: a store whose files are encrypted in another store.
 *
 * What becomes of a file:
 *     super, keys, ballast*   as they are: read before there is a key, or zeros
 *     journal/staging.*       as they are, in the store `memory`: they are mapped, and what is in memory is not at rest
 *     arena.*                 in aead mode: as signed_disk.h has it
 *     everything else         sectors of 4 KiB by xts.h, at the same offsets
 *
 * Durability: as that of the store below.  A write of more than ROOM_BYTES goes down in pieces; with DISK_DURABLE it is flushed
 * after the last.  Files in `memory` survive the process and not the host: one that is missing when it is opened is made anew of
 * zeros, which say nothing to the journal; the host's death loses them where it would have torn them.  When the store is closed and the
 * superblock says that the volume was left clean, nothing in them is needed, and they are removed.
 * Ownership: the caller's memory is never written to by a write.  Up to ROOMS buffers of ROOM_BYTES (rooms.h).
 * Threads: as disk.h.  Errors: those of the store below; -EINVAL for lengths or offsets that are no whole sectors, -ENOTSUP for
 * mapping an encrypted file, -EIO when the cryptographic library fails.
 */
#pragma once

#include "base/disk.h"
#include "fs/store/crypt/key.h"

/*
 * Over `inner`, which it owns from here on, as it does `memory`; NULL: mapped files stay in `inner`, readable (the simulator).
 * `mapped_bytes`: the size of a mapped file that is made anew.  On an error both stay the caller's.
 */
MUST_CHECK int crypt_store_new(struct store *inner, struct store *memory, uint64_t mapped_bytes, const struct data_key *key,
			       struct store **ret);
/* The bytes of the encrypted file `name`, read past the store, decrypted in place; not of signed ones. */
MUST_CHECK int crypt_store_decrypt(const struct data_key *key, const char *name, void *p, size_t len);
