/*
 * scrub.h: looking for damage in a mounted volume, healing it, and what an admin may ask and say about it.
 *
 * A scrub reads what the volume has in the order of the index, at a set rate, and remembers where it is over restarts.  Damage is
 * named by path, kept in a table (damage.c), and repaired from whoever still has the data (repair.c); a read that comes upon
 * damage waits for the same (parked.c).
 *
 * Threads: any.  Errors: -errno as each call says.
 */
#pragma once

#include "base/buf.h"
#include "fs/core/fs.h"

/*
 * "start [rate=SIZE] [cold]", "pause", "resume", "stop", "release".  start goes on where a paused scrub is.  -EINVAL unknown words or a rate
 * out of bounds, -EALREADY it runs already, -ENOENT nothing to pause or resume.  release (which waits, and answers by w) tests
 * blocks in quarantine by writing and gives back those that are well.
 */
void fs_scrub_command(struct fs *fs, struct slice text, struct journal_waiter *w);
/* State, progress, counts and damaged paths from number `first` on, as a JSON object of at most SCRUB_TEXT_MAX bytes. */
#define SCRUB_TEXT_MAX (48 * KIB)
int fs_scrub_text(struct fs *fs, uint64_t first, struct buf *out);
/* "ok", "damaged blocks=N", "repaired blocks=N" or "unchecked", and when that was. */
int fs_health_text(struct fs *fs, uint64_t ino, struct buf *out);
/*
 * The admin accepts the loss: blocks of the file that cannot be read, after one more attempt to repair them, become holes, as logged
 * changes.  w->done: 0, -EINVAL no regular file, -EROFS not on the leader, -EBADMSG part of it cannot even be given up.
 */
void fs_scrub_clear(struct fs *fs, const struct fs_cred *cred, uint64_t ino, struct journal_waiter *w);
/*
 * For volumes without threads: one step of a scrub that was started.  *ret_more: there is more to do.
 */
MUST_CHECK int fs_scrub_step(struct fs *fs, bool *ret_more);
