/*
 * rolled.c: a leader's mount while its tree goes back to a snapshot: the one change that the kernel did not make itself.
 *
 * Before it, what the kernel has not written yet is written, or it would be a change of the tree that came back.  After it, and
 * before the request is answered that asked for it, the kernel is told that nothing is as it was: attributes, pages, lists,
 * names. Of a regular file it would believe its own length and times all the same, so each one that changed has another
 * generation (attr_to_entry()): its next look at the name finds another inode, and who has the old one open gets EIO.
 *
 * Before Linux 6.16 names cannot be ended all at once.  There the mount is made anew, as when a leader turns follower (face.c).
 */
#include "fs/face/face_internal.h"

#include "base/log.h"

static void watch(void *ctx, const struct fs_change *c)
{
	struct face *f = ctx;

	if (c->kind != CHANGE_ALL && c->kind != CHANGE_SOON)
		return; /* it follows by now, and is on its way out */
	kernel_end_inodes(f);
	if (c->kind == CHANGE_SOON || kernel_end_names(f) == 0)
		return;
	log_info("%s: this kernel cannot be told that all names changed: it is mounted anew", f->mountpoint);
	atomic_store(&f->outdated, true);
	face_wake(f);
}

void rolled_watch(struct face *f)
{
	if (!f->follower && !f->read_only)
		fs_set_watcher(f->fs, watch, f);
}

void rolled_unwatch(struct face *f)
{
	if (!f->follower && !f->read_only)
		fs_set_watcher(f->fs, NULL, NULL);
}
