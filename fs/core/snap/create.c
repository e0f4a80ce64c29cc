/*
 * create.c: making a snapshot, and deleting one.
 *
 *     1  what is in the journal goes home, and a checkpoint takes most of the rest along: operations go on meanwhile
 *     2  the gate is taken, exclusive.  What came since goes home: no slot points into the journal any more, which will forget
 *     3  a checkpoint like any other, still under the gate: the index on disk is the state of this moment, all of it
 *     4  the index is copied (by links), durably, under the number of the top
 *     5  the SNAP record is appended, applied and committed, the only one in its batch
 *
 * The record decides.  Before it is durable there is no snapshot, and the copy is left over, for the next mount to remove; from
 * then on there is one: recovery begins at the checkpoint of 3 or later, so it comes by the record with the copy already
 * there, and does what 5 did.  What it costs depends on what is in the journal and in memory, not on how many files there are.
 *
 * Deleting is a record, too; from then on nobody sees the snapshot.  Its blocks are freed in steps (dead.c), its directory goes
 * when a checkpoint without it is durable: until then recovery may come by the time when it was there.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/replica/impl.h"
#include "fs/core/snap/snap_impl.h"

#define HOME_BLOCKS 4096u
#define TRIES       10u

static int check_name(const char *name)
{
	size_t len = strlen(name);

	if (len > RECORD_NAME_MAX)
		return -ENAMETOOLONG;
	return record_snap_name_ok((struct slice){name, len}) ? 0 : -EINVAL;
}

/* ---- the record ---- */

struct change {
	struct fs *fs;
	struct record rec;
	uint64_t top;
	int (*then)(void *ctx); /* of a follower */
	void *ctx;
	bool hold;
};

/* The gate is held, exclusive.  It is alone in its batch. */
int snap_log_alone(struct fs *fs, struct record *rec)
{
	const uint64_t root = FS_ROOT_INO;
	struct lockset ls;
	int r = op_may_write(fs);

	if (r == 0)
		r = journal_commit_all(fs->journal, NULL);
	if (r < 0)
		return r;
	lockset_lock(fs->icache, &ls, &root, 1);
	r = fs_log(fs, rec, 1, 0);
	lockset_unlock(fs->icache, &ls);
	return r < 0 ? r : journal_commit_all(fs->journal, NULL);
}

/* Steps 4 and 5; the gate is held, exclusive, and the index on disk is the live one. */
static int copy_and_log(void *ctx)
{
	struct change *c = ctx;
	struct fs *fs = c->fs;
	int r = fs->kv->ops->snapshot_create(fs->kv, c->top);

	if (r == -EEXIST) { /* left over by an attempt that failed */
		r = fs->kv->ops->snapshot_remove(fs->kv, c->top);
		if (r == 0)
			r = fs->kv->ops->snapshot_create(fs->kv, c->top);
	}
	if (r < 0)
		return r;
	fs->snaps->prepared = c->top + 1;
	r = c->then ? c->then(c->ctx) : snap_log_alone(fs, &c->rec);
	fs->snaps->prepared = 0;
	if (r < 0 && !atomic_load(&fs->failed) && !snaps_find_top(fs->snaps, c->top)) {
		int e = fs->kv->ops->snapshot_remove(fs->kv, c->top);
		(void)e; /* the next attempt, or mount, does */
	}
	return r;
}

/* ---- create ---- */

int snap_may_create(struct fs *fs, const char *name)
{
	struct snaps *s = fs->snaps;

	mutex_lock(&s->lock);
	int r = snaps_find_name(s, slice_of(name)) ? -EEXIST : s->n >= SNAPS_MAX ? -EMLINK : 0;
	mutex_unlock(&s->lock);
	if (r == 0 && atomic_load(&fs->snapshot_generation) >= SNAP_TOP_MAX)
		r = -EOVERFLOW;
	return r;
}

/* The gate is held, exclusive, and everything is home and on disk. */
static int create_gated(void *ctx)
{
	struct change *c = ctx;

	c->top = atomic_load(&c->fs->snapshot_generation);
	c->rec.snap.gen = c->top;
	op_stamp(c->fs, NULL, &c->rec, RECORD_SNAP, FS_ROOT_INO);
	return copy_and_log(c);
}

/* What is in the journal now goes home; what others put there meanwhile need not. */
static int home_backlog(struct fs *fs)
{
	int r = journal_commit_all(fs->journal, NULL);
	uint64_t steps = homer_backlog(fs) / HOME_BLOCKS + 1;
	bool more = true;

	while (r == 0 && more && steps-- > 0)
		r = fs_home_step(fs, HOME_BLOCKS, &more);
	return r;
}

/* So that little is left to do under the gate. */
int snap_go_ahead(struct fs *fs)
{
	int r = home_backlog(fs);

	if (r == 0)
		r = fs_checkpoint(fs);
	return r < 0 ? r : home_backlog(fs);
}

int snap_create_gated(struct fs *fs, const struct fs_cred *cred, const char *name)
{
	struct change c = {.fs = fs};

	op_stamp(fs, cred, &c.rec, RECORD_SNAP, FS_ROOT_INO);
	c.rec.snap.name = slice_of(name);
	return create_gated(&c);
}

static int create_locked(struct fs *fs, const struct fs_cred *cred, const char *name)
{
	struct change c = {.fs = fs};
	bool tried = false;
	int r = snap_may_create(fs, name);

	if (r == 0)
		r = snap_feature(fs);
	if (r < 0)
		return r;
	op_stamp(fs, cred, &c.rec, RECORD_SNAP, FS_ROOT_INO);
	c.rec.snap.name = slice_of(name);
	do {
		r = snap_go_ahead(fs);
		if (r == 0)
			r = op_wait_room(fs);
		if (r == 0)
			r = checkpoint_closed(fs, create_gated, &c);
	} while (op_retry_space(fs, r, &tried));
	return r;
}

/* Waits while it is not known who leads, also where that begins on the way; refuses where another node does. */
int snap_while_leading(struct fs *fs, const struct fs_cred *cred, const char *name,
		       int (*how)(struct fs *fs, const struct fs_cred *cred, const char *name))
{
	unsigned tries = 0;
	int r;

	do {
		r = op_begin(fs);
		if (r < 0)
			return r;
		op_end(fs);
		mutex_lock(&fs->snaps->making);
		r = how(fs, cred, name);
		mutex_unlock(&fs->snaps->making);
	} while (r == -EAGAIN && ++tries < TRIES);
	return r == -EAGAIN ? -EBUSY : r;
}

int fs_snap_create_here(struct fs *fs, const struct fs_cred *cred, const char *name)
{
	int r = check_name(name);

	return r < 0 ? r : snap_while_leading(fs, cred, name, create_locked);
}

int fs_snap_create(struct fs *fs, const struct fs_cred *cred, const char *name)
{
	int r = fs_snap_create_here(fs, cred, name);

	return r < 0 ? r : fs_sync(fs);
}

int snap_follow(struct fs *fs, const struct record *r, int (*then)(void *ctx), void *ctx)
{
	struct change c = {.fs = fs, .rec = *r, .then = then, .ctx = ctx};
	struct super s;
	int e = 0;

	if (r->type == RECORD_SNAPROLL)
		return snap_roll_follow(fs, r, then, ctx);
	replica_get_super(fs, &s);
	if (r->type == RECORD_SNAP && fs_readable(fs) == 0 && !s.window && s.fence <= atomic_load(&fs->applied_seq)) {
		c.top = max_u64(atomic_load(&fs->snapshot_generation), r->snap.gen);
		e = snap_go_ahead(fs);
		return e < 0 ? e : checkpoint_closed(fs, copy_and_log, &c);
	}
	rwlock_wrlock(&fs->gate);
	e = then(ctx);
	rwlock_wrunlock(&fs->gate);
	return e;
}

/* ---- delete ---- */

/* The gate is held, exclusive. */
static int delete_gated(struct fs *fs, const struct fs_cred *cred, const char *name)
{
	const struct snap *snap = snaps_find_name(fs->snaps, slice_of(name));
	struct record rec = {0};

	if (!snap)
		return -ENOENT;
	op_stamp(fs, cred, &rec, RECORD_SNAPDROP, FS_ROOT_INO);
	rec.snap.gen = snap->gen;
	rec.snap.name = slice_of(name);
	return snap_log_alone(fs, &rec);
}

static int delete_locked(struct fs *fs, const struct fs_cred *cred, const char *name)
{
	rwlock_wrlock(&fs->gate);
	int r = delete_gated(fs, cred, name);
	rwlock_wrunlock(&fs->gate);
	return r;
}

int fs_snap_delete_here(struct fs *fs, const struct fs_cred *cred, const char *name)
{
	int r = check_name(name) < 0 ? -ENOENT : snap_while_leading(fs, cred, name, delete_locked);

	if (r == 0 && fs->services_started)
		service_wake(&fs->snapper);
	return r;
}

int fs_snap_delete(struct fs *fs, const struct fs_cred *cred, const char *name)
{
	int r = fs_snap_delete_here(fs, cred, name);

	return r < 0 ? r : fs_sync(fs);
}

/* ---- directories ---- */

struct sweep {
	struct fs *fs;
	uint64_t left_over[64];
	size_t n;
};

static int sweep_one(void *ctx, uint64_t id)
{
	struct sweep *w = ctx;

	if (!snaps_find_top(w->fs->snaps, id) && w->n < ARRAY_SIZE(w->left_over))
		w->left_over[w->n++] = id;
	return 0;
}

static void remove_copy(struct fs *fs, uint64_t top)
{
	int r = fs->kv->ops->snapshot_remove(fs->kv, top);

	if (r < 0 && r != -ENOENT)
		log_warn("the copy of the index that snapshot %llu had cannot be removed, the next mount tries again: %s",
			 (unsigned long long)top, strerror(-r));
}

static int sweep_some(struct fs *fs)
{
	struct sweep w = {.fs = fs};
	int r;

	do {
		w.n = 0;
		r = fs->kv->ops->snapshot_each(fs->kv, sweep_one, &w);
		for (size_t i = 0; i < w.n && r == 0; i++)
			r = fs->kv->ops->snapshot_remove(fs->kv, w.left_over[i]);
	} while (r == 0 && w.n == ARRAY_SIZE(w.left_over));
	return r;
}

void snap_sweep_dirs(struct fs *fs)
{
	int r = sweep_some(fs);

	if (r < 0)
		log_warn("what is left of snapshots that are gone cannot be removed: %s", strerror(-r));
}

void snap_draw_line(struct fs *fs)
{
	struct snaps *s = fs->snaps;

	mutex_lock(&s->lock);
	s->n_gone_line = s->n_gone;
	mutex_unlock(&s->lock);
}

static bool take_gone(struct snaps *s, uint32_t *ret)
{
	mutex_lock(&s->lock);
	bool any = s->n_gone_line > 0;
	if (any) {
		*ret = s->gone[0];
		memmove(s->gone, s->gone + 1, --s->n_gone * sizeof(*s->gone));
		s->n_gone_line--;
	}
	mutex_unlock(&s->lock);
	return any;
}

void snap_line_durable(struct fs *fs)
{
	uint32_t top;

	while (take_gone(fs->snaps, &top))
		remove_copy(fs, top);
}
