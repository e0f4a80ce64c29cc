/*
 * chain.h: one entry of the audit log as a line of text, bound to the one before by its hash.
 *
 *     BODY ' ' HASH '\n'     BODY: a JSON object on one line, its first member "n"; HASH: SHA-256 of (the hash before, BODY) as 64
 *                            lower-case hex digits.  Before the first entry ever the hash is 32 zeros.
 *
 * Whatever is changed in a line, this one or one after it no longer has its hash.  Format: docs/FORMAT.md, "Audit log".
 * Threads: no state.  Errors: -EBADMSG for anything that is no entry; nothing is read outside what is given.
 */
#pragma once

#include "base/buf.h"

#define AUDIT_HASH_BYTES 32u
#define AUDIT_HASH_TEXT  65u     /* hex digits, and a NUL */
#define AUDIT_LINE_MAX   100000u /* bytes of an entry */

/* Where a chain stands: its newest entry. */
struct audit_chain {
	uint64_t n; /* 0: none yet */
	uint8_t hash[AUDIT_HASH_BYTES];
};

void audit_hash_text(const uint8_t hash[AUDIT_HASH_BYTES], char ret_text[AUDIT_HASH_TEXT]);
MUST_CHECK int audit_hash_parse(const char *text, size_t len, uint8_t ret_hash[AUDIT_HASH_BYTES]); /* -EINVAL */
/* SHA-256 of `before` (may be NULL: nothing) and `body`; -EIO when the library cannot. */
MUST_CHECK int audit_hash(const uint8_t *before, struct slice body, uint8_t ret_hash[AUDIT_HASH_BYTES]);

/*
 * Appends the line of entry `n` behind *chain, which then is at it.  `members`: what its object has behind "n", as text without
 * braces, not empty.  -E2BIG, -ENOMEM, -EIO.
 */
MUST_CHECK int audit_chain_add(struct audit_chain *chain, uint64_t n, struct slice members, struct buf *out);

struct audit_line {
	uint64_t n;
	struct slice body; /* borrows the text */
	size_t bytes;      /* of the line */
	uint8_t hash[AUDIT_HASH_BYTES];
};
/*
 * The first line of `text`, which must follow the hash `before`.  1; 0: none, `text` is empty or begins with a NUL; -EBADMSG.
 * That its number follows is for the caller to see.
 */
MUST_CHECK int audit_line_read(const uint8_t before[AUDIT_HASH_BYTES], struct slice text, struct audit_line *ret);
