/*
 * reaper.c: removes orphans: inodes without a name that the kernel has forgotten.
 *
 * A large file goes in slices from its end, one REAP record each, so that no operation waits long and a crash between two
 * slices leaves a smaller orphan for the next mount.
 *
 * A follower's orphans are its leader's to reap.  Once it leads itself, those in the index are queued.
 */
#include <errno.h>

#include "base/log.h"
#include "fs/core/core.h"
#include "fs/core/index.h"

/* Leaves a slice: 4,096 x 64 KiB = 256 MiB of data. */
#define SLICE_LEAVES 4096u

static void queue(struct fs *fs, uint64_t ino)
{
	mutex_lock(&fs->reap_lock);
	if (fs->n_reap == fs->cap_reap) {
		size_t cap = fs->cap_reap ? fs->cap_reap * 2 : 64;
		uint64_t *reap = realloc(fs->reap, cap * sizeof(*reap));

		if (reap) {
			fs->reap = reap;
			fs->cap_reap = cap;
		}
	}
	if (fs->n_reap < fs->cap_reap)
		fs->reap[fs->n_reap++] = ino;
	else /* out of memory: the orphan is on disk, the next mount finds it */
		log_warn("inode %llu stays an orphan until the next mount: out of memory", (unsigned long long)ino);
	mutex_unlock(&fs->reap_lock);
}

void reap_push(struct fs *fs, uint64_t ino)
{
	if (fs_role(fs) != ROLE_LEADER)
		return;
	queue(fs, ino);
	if (fs->services_started)
		service_wake(&fs->reaper);
}

void reap_forget(struct fs *fs)
{
	mutex_lock(&fs->reap_lock);
	fs->n_reap = 0;
	mutex_unlock(&fs->reap_lock);
}

int reap_queue_orphans(struct fs *fs, uint64_t *ret_n)
{
	static const uint8_t first[] = {TABLE_ORPHAN};
	struct kv_iter *it;
	int r = fs->kv->ops->iter_open(fs->kv, &it);

	*ret_n = 0;
	if (r < 0)
		return r;
	for (fs->kv->ops->iter_seek(it, (struct slice){first, 1}); fs->kv->ops->iter_valid(it); fs->kv->ops->iter_next(it)) {
		struct slice key = fs->kv->ops->iter_key(it);

		if (key.len != 9 || *(const uint8_t *)key.p != TABLE_ORPHAN)
			break;
		uint64_t ino = be64_get((const uint8_t *)key.p + 1);
		if (refs_orphan(fs->refs, ino))
			reap_push(fs, ino);
		++*ret_n;
	}
	r = fs->kv->ops->iter_error(it);
	fs->kv->ops->iter_close(it);
	return r;
}

static bool pop(struct fs *fs, uint64_t *ret_ino, bool *ret_more)
{
	mutex_lock(&fs->reap_lock);
	bool have = fs->n_reap > 0;
	if (have)
		*ret_ino = fs->reap[--fs->n_reap];
	*ret_more = fs->n_reap > 0;
	mutex_unlock(&fs->reap_lock);
	return have;
}

/*
 * Where the last slice of the file starts; 0 when one slice takes all.  Guessed from how dense the file is: a slice too
 * small or too large is no harm, and each takes at least its share of what is left of the file's length.
 */
static uint64_t slice_start(const struct inode *in)
{
	uint64_t leaves = in->size / (LEAF_SLOTS * BLOCK_SIZE) + 1, slices = in->blocks / (SLICE_LEAVES * LEAF_SLOTS);

	return slices == 0 ? 0 : leaves - max_u64(leaves / (slices + 1), 1);
}

static int reap_slice(struct fs *fs, uint64_t ino, bool *ret_done)
{
	struct record rec = {0};
	struct lockset ls;
	struct inode *in;
	uint64_t from = 0;
	int r = op_begin(fs);

	if (r < 0)
		return r;
	lockset_lock(fs->icache, &ls, &ino, 1);
	r = icache_get(fs->icache, ino, &in);
	if (r == 0 && in->nlink == 0) {
		from = slice_start(in);
		r = extent_check(fs, in, from * LEAF_SLOTS, UINT64_MAX);
	}
	if (r == 0 && in->nlink == 0) {
		op_stamp(fs, NULL, &rec, RECORD_REAP, ino);
		rec.reap.from_leaf = from;
		r = fs_log(fs, &rec, 1, 0);
	}
	lockset_unlock(fs->icache, &ls);
	op_end(fs);
	*ret_done = from == 0;
	return r;
}

int fs_reap_step(struct fs *fs, bool *ret_more)
{
	uint64_t ino;
	bool done = false;

	*ret_more = false;
	if (!fs_takes_changes(fs) || !pop(fs, &ino, ret_more))
		return 0;
	int r = reap_slice(fs, ino, &done);
	if (r == -ENOENT)
		return 0; /* reaped already */
	if (r == -ENOSPC) /* the index has no room: at the next interval */
		queue(fs, ino);
	else if (r < 0 && r != -EROFS)
		log_warn("inode %llu could not be reaped: %d; the next mount tries again", (unsigned long long)ino, r);
	else if (!done) {
		reap_push(fs, ino);
		*ret_more = true;
	}
	return r;
}
