/*
 * kv_crypt.h: an index whose values and names are encrypted in another index.
 *
 *     key                     stored as it is, but for the name in `D parent name`, which is SIV(name; "D" parent)
 *     value                   SIV(value; the key as stored)
 *
 * So a row that was changed, or put under another key, is refused with -EBADMSG; one that was put back to what it was before is not
 * seen to be.  What stays readable: how many rows of which table there are, numbers of inodes, parents, cookies, leaves and objects, names
 * of extended attributes and of policies, lengths.
 *
 * Iterators tell rows in the order of the readable keys.  The names of a directory lie in another order, so an iterator sorts them,
 * as many at a time as fit into KV_CRYPT_WINDOW bytes: for a directory with more it goes through the directory once for each
 * window.  (Only resync, fsck and dump walk through names.  Directories are read by table C.)
 *
 * Snapshots hold sealed rows, and are opened with the same key.
 *
 * Ownership: owns the index below.  Threads: as kv.h.  Errors: as kv.h; keys of up to 284 bytes, values of up to 69,984.
 */
#pragma once

#include "fs/store/crypt/key.h"
#include "fs/store/kv.h"

#define KV_CRYPT_WINDOW (8u * 1024 * 1024)

/* On an error `inner` stays the caller's.  `window` 0: KV_CRYPT_WINDOW; tests take less. */
MUST_CHECK int kv_crypt_new(struct kv *inner, const struct data_key *key, size_t window, struct kv **ret_kv);
