/*
 * archiving.h: the archive of a volume as the rest of fs/core and the control table see it.
 *
 * A leader with a policy "archive" on its root directory sends every durable batch, and now and then a whole image, to a store of
 * the volume, from which any state in between can be rebuilt (restore.h).  docs/ARCHITECTURE.md has the whole of it.
 *
 * Policy: "store=NAME interval=TIME base=TIME keep=TIME": the store (`clawfs tier add`), how long a batch waits at most for others to
 * share its object (10s), how old the newest base may become (1d), how long what can be restored is kept (0, the default: for ever).
 *
 * Threads: any, but archiver_step().  Errors: -errno; what a store says stays readable in the status.
 */
#pragma once

#include "base/buf.h"
#include "fs/core/fs.h"
#include "tier/definition.h"

struct archive_policy {
	char store[STORE_NAME_MAX + 1];
	int64_t interval_ns, base_ns, keep_ns;
};
MUST_CHECK int archive_policy_parse(const char *text, struct archive_policy *ret); /* -EINVAL */
/* "archive" and "archive.drill"; and whether a value (NULL: unset) can be meant: -EINVAL. */
bool archive_policy_is(struct slice key);
MUST_CHECK int archive_policy_check(struct slice key, const char *value);
/* Whether the archive lies in this store. */
bool archive_uses_store(struct fs *fs, const char *name);

MUST_CHECK int archiver_open(struct fs *fs);
void archiver_stop(struct fs *fs);  /* who waits gets -ESHUTDOWN, and the thread ends; stores are shut before.  Again: nothing */
void archiver_close(struct fs *fs); /* NULL is fine */
/*
 * One round: batches that became durable, a segment when one is due, a part of a base, removal of what is too old.  0, or why the
 * archive does not get on (-ENOENT: no policy; -EROFS: this node does not lead).  *ret_more: there is more to do now.
 * Called by the archiver's thread, or without threads by who drives the volume.
 */
MUST_CHECK int archiver_step(struct fs *fs, bool now, bool *ret_more);
struct json_t *archiver_status_json(struct fs *fs);
struct gc_result;
struct tier_store;
/* Its part of gc_run() (fs/core/tier/tier.h): objects of the archive in this store that it does not need. */
MUST_CHECK int archive_gc(struct fs *fs, const struct tier_store *store, bool dry, void (*fn)(void *ctx, const char *line), void *ctx,
			  struct gc_result *res);

/* ---- what an admin asks for ---- */

/* Sets the policy, once the store answers, and makes a key for the volume.  -ENODEV: no such store; -EIO: it does not answer. */
MUST_CHECK int fs_archive_set(struct fs *fs, const struct fs_cred *cred, const char *text);
/* w->done once all that is durable now is in the archive, and can be restored; or the first error. */
void fs_archive_now(struct fs *fs, struct journal_waiter *w);
/*
 * Before the volume is closed: as fs_archive_now(), waiting at most `wait_ns` (0: not at all).  *ret_behind: durable batches that are
 * not in the archive by then; 0 where there is none, or another node archives.  -ETIMEDOUT, or what keeps the archive from getting on.
 */
MUST_CHECK int fs_archive_settle(struct fs *fs, int64_t wait_ns, uint64_t *ret_behind);
/* The key that opens the archive, 64 hexadecimal digits; "none" when the store does not encrypt; -ENODATA. */
MUST_CHECK int fs_archive_key_text(struct fs *fs, struct buf *out);
/* "HASH SUM" of the state after batch `seq`, for a drill; SUM is "-" where it is not known any more; -ENODATA. */
MUST_CHECK int fs_archive_state_text(struct fs *fs, const char *seq, struct buf *out);
