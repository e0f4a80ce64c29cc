/*
 * resync_keep.c: what is done for what is kept aside before a row takes its place, while no lock is held.
 *
 * Two things are not done by diverged_keep(), which sees one row at a time, under the gate.  Cold data is fetched.  And an inode
 * that has a name here, and at the leader none, is kept whole: what the leader has is an orphan that waits to be reaped, and with
 * it goes all that belongs to the inode, also the rows that are equal on both and so are never put.  It was deleted there,
 * perhaps before the two histories parted, and here it was not, or is back because this node went back to a snapshot; from here
 * on no node has it under a name.  That it is kept must be as durable as its own row's end, so it is done when that row is about
 * to be put and not at the end of the resync.
 *
 * Each row is kept under a hold of its own of the gate and the stripe, so that a large file keeps nobody waiting; the session
 * that put the row waits for all of it.
 */
#include <errno.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/replica/resync.h"
#include "fs/core/tier/tier.h"

/* Cold data that only this node's history has is fetched before it goes; diverged.c says what was not. */
static void recall_what_goes(struct fs *fs, const struct row *r)
{
	struct leaf here;

	if (fs->resync->unrecallable || row_table(r->key) != TABLE_EXTENT ||
	    lcache_get(fs->lcache, row_ino(r->key), row_leaf(r->key), &here) < 0)
		return;
	const struct leaf_row was = leaf_row_of(&here);
	if (!(leaf_row_going(&was, r) & leaf_cold(&here)))
		return;
	int e = recall_leaves(fs, row_ino(r->key), row_leaf(r->key), 1, OBJECT_BACKGROUND);
	if (e == 0)
		return;
	fs->resync->unrecallable = true;
	log_warn("cold data that only this node had cannot be fetched to be kept: %s; under diverged/ stands where it is",
		 strerror(-e));
}

/* One row, which stays where it is for now. */
static int keep_one(struct fs *fs, const struct row *r)
{
	uint64_t ino = row_ino(r->key);
	struct lockset ls;

	recall_what_goes(fs, r);
	rwlock_rdlock(&fs->gate);
	lockset_lock(fs->icache, &ls, &ino, 1);
	int e = diverged_keep(fs->resync->kept, r);
	lockset_unlock(fs->icache, &ls);
	rwlock_rdunlock(&fs->gate);
	return e;
}

/* All but the inode's own row. */
static int keep_whole(struct fs *fs, uint64_t ino)
{
	static const enum index_table tables[] = {TABLE_EXTENT, TABLE_TARGET, TABLE_POLICY, TABLE_XATTR};
	int e = 0;

	for (size_t i = 0; i < ARRAY_SIZE(tables) && e == 0; i++) {
		struct index_key at = {.len = 0};

		while ((e = diverged_next(fs->resync->kept, tables[i], ino, &at)) == 0) {
			e = keep_one(fs, &(struct row){.key = key_slice(&at)});
			if (e < 0)
				return e;
		}
		e = e == -ENOENT ? 0 : e;
	}
	return e;
}

int resync_keep_first(struct fs *fs, const struct row *r)
{
	bool loses = false;

	if (!fs->resync->kept)
		return 0;
	recall_what_goes(fs, r);
	int e = diverged_loses_name(fs->resync->kept, r, &loses);
	if (fs->config.sabotage & FS_SABOTAGE_KEEP_REPLACED)
		return e;
	return e == 0 && loses ? keep_whole(fs, row_ino(r->key)) : e;
}
