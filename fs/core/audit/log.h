/*
 * log.h: the audit log being written: entries at its end, durable before the call returns.
 *
 * Durability: after audit_log_append() returned 0 its entries are on disk, and both heads say so.  Of an append that failed, or was
 * cut off by a crash, any part may be there; the next segment says that it does not count.
 * Ownership: the log borrows its store.  Threads: one at a time; the caller locks.
 * Errors: -errno of the store.  After a failed write the segment is left alone, for nobody knows what it holds; the next append begins
 * another one.
 */
#pragma once

#include "base/clock.h"
#include "base/disk.h"
#include "fs/core/audit/verify.h"

struct audit_log;
struct audit_log_config {
	struct store *store;       /* borrowed */
	const struct clock *clock; /* borrowed */
	uint8_t volume[16], node[16];
	uint64_t segment_bytes;    /* multiple of DISK_BLOCK, at least two of them */
	uint32_t keep;             /* segments, at least 2; older ones go */
	int64_t keep_ns;           /* entries that are older go, a while later; 0: whatever their age */
};
/* What was there. */
struct audit_log_found {
	bool begun;     /* a log of an earlier mount */
	char what[256]; /* damage; "" when there was none */
};
/*
 * Goes on with the log in the store, or begins one.  Each entry of the newest segment goes to `fn`, oldest first, for who wants to know
 * where he was.  Damage at its end does not keep the log from going on: it is told, and its place in the log shows it for ever.
 */
MUST_CHECK int audit_log_open(const struct audit_log_config *c, audit_entry_fn *fn, void *ctx, struct audit_log_found *ret_found,
			      struct audit_log **ret_log);
/* Both heads say that the log ends here.  NULL is fine.  Returns NULL. */
struct audit_log *audit_log_close(struct audit_log *log);
/* As after kill -9. */
struct audit_log *audit_log_abandon(struct audit_log *log);

/* What each anchor from now on has besides its own members: text as of audit_chain_add(), borrowed until the next call; "": nothing. */
void audit_log_set_carried(struct audit_log *log, const char *members);
/*
 * Adds `n` entries, each given by its members (audit_chain_add()).  *ret_n (may be NULL) is the number of the first; they follow each
 * other but where a segment begins.  -E2BIG, and nothing was added: one does not fit into a segment.
 */
MUST_CHECK int audit_log_append(struct audit_log *log, const struct slice *members, size_t n, uint64_t *ret_n);
/* What is too old goes; to be called now and then, it looks once an hour.  Errors as of an append. */
MUST_CHECK int audit_log_expire(struct audit_log *log);
void audit_log_head(const struct audit_log *log, struct audit_chain *ret);
