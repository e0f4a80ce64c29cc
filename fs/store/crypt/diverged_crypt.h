/*
 * diverged_crypt.h: what a resync keeps aside on an encrypted volume, encrypted (fs/store/diverged.h).
 *
 *     rows.jsonl   each line is the base64 of SIV(line; the tail's id)
 *     files/INO    sectors of 4 KiB by xts.h; the name of the file is "diverged/ID/INO"
 *     info.json    as it is: ids, numbers and times
 *
 * Ownership: the sink owns the one below.  Threads: one at a time.  Errors: those of the sink below, -EINVAL for data that is no whole
 * sectors; of opening -EBADMSG for a line that was not sealed so.
 */
#pragma once

#include "fs/store/crypt/key.h"
#include "fs/store/diverged.h"

/* On an error `inner` stays the caller's. */
MUST_CHECK int diverged_crypt_new(struct diverged_sink *inner, const struct data_key *key, struct diverged_sink **ret);

/* The keys of one tail, for who reads it. */
struct diverged_keys;
MUST_CHECK int diverged_keys_new(const struct data_key *key, const char *id, struct diverged_keys **ret);
struct diverged_keys *diverged_keys_free(struct diverged_keys *k);
/* A line without its newline; *out is what was sealed. */
MUST_CHECK int diverged_open_line(struct diverged_keys *k, struct slice line, struct buf *out);
/* In place; `off` and `len` are whole sectors. */
MUST_CHECK int diverged_open_data(struct diverged_keys *k, uint64_t ino, uint64_t off, void *p, size_t len);
