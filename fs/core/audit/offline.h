/*
 * offline.h: entries of the audit log of a volume that is not mounted.
 *
 * Durability: an entry is on disk when a call returned 0.  Ownership: the store, whose lock the caller holds, is borrowed for the call.
 * Threads: one at a time.  Errors: -errno of the store; -ENODATA: no volume is there.  Format: docs/FORMAT.md, "Audit log".
 */
#pragma once

#include "base/disk.h"
#include "fs/core/fs.h"

/* `what` is about to be done, with `value`; *ret_act is for the result. */
MUST_CHECK int audit_offline_act(struct store *store, const struct fs_cred *who, const char *what, const char *value,
				 uint64_t *ret_act);
/* What came of it: "ok", or words. */
MUST_CHECK int audit_offline_result(struct store *store, uint64_t act, const char *result);
