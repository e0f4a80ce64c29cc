/*
 * resync.c: a follower becomes what its leader was at one moment, row by row (view.c is the leader's side).
 *
 * It is between two states from begin to end, and the superblock says so (RESYNCING): it serves nothing, and what a crash
 * leaves is resynced anew, where rows that are equal by then cost only their hash.
 *
 *     begin   everything goes home and to a checkpoint: no slot points into the journal, which has nothing more to say;
 *             then the mark, durably
 *     put     a row goes straight into the index (resync_put.c), under the gate, shared, and the inode's stripe: a checkpoint
 *             sees all of it or nothing
 *     save    a checkpoint like any other; its anchor names the end of the journal as begin left it
 *     end     the journal goes on after the view's batch; a checkpoint whose anchor says so; the mark goes
 *
 * So background checkpoints are harmless at any time, and needed: they give back the blocks that go (rule R3), which is why new
 * data never lands on blocks whose old content an index on disk still names.  A crash before the end's checkpoint finds the old
 * anchor, one after it the new one, either under the mark: the next resync goes on, or finds nothing to do.
 *
 * Data that is superseded leaves zeros behind, with the CRC of the row, so that a read says EIO and not zeros; such a slot is
 * marked in its leaf (BIRTH_SUPERSEDED) and equals no row in a later resync.  Blocks that a stream superseded are not marked: a
 * resync that begins with a fence not reached looks at the data of every block.
 *
 * What a resync was told to keep is durable before the index that no longer has it: the checkpoint asks for that itself
 * (resync_settle()), whoever makes it.
 */
#include "fs/core/replica/resync.h"

#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/replica/impl.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/tier/tier.h"
#include "fs/core/usage/usage.h"

/* Put since the last save: one is due, so that little is lost to a crash. */
#define SAVE_BYTES (256 * MIB)
#define SAVE_ROWS  65536u
#define HOME_STEP  4096u
/* So many rows are put before memtables are looked at again. */
#define LOOK_ROWS 64u

/* ---- begin ---- */

int replica_empty_ring(struct fs *fs)
{
	int r = journal_commit_all(fs->journal, NULL);
	bool more = true;

	/* A step of the homer's own thread may be under way, and put back what it took: look at the queue after each of ours. */
	while (r == 0 && more) {
		r = fs_home_step(fs, HOME_STEP, &more);
		more = more || homer_backlog(fs) > 0;
	}
	return r < 0 ? r : fs_checkpoint(fs);
}

static int mark(struct fs *fs, struct super *s, bool save)
{
	if (s->resyncing && s->save == save)
		return 0;
	s->resyncing = true;
	s->save = save;
	return replica_save_super(fs, s);
}

static struct resync *resync_drop(struct resync *rs)
{
	if (!rs)
		return NULL;
	diverged_end(rs->kept);
	free(rs->room);
	free(rs);
	return NULL;
}

static int resync_new(bool verify, struct resync **ret)
{
	struct resync *rs = calloc(1, sizeof(*rs));

	if (!rs)
		return -ENOMEM;
	if (posix_memalign((void **)&rs->room, DISK_BLOCK, LEAF_SLOTS * BLOCK_SIZE)) {
		free(rs);
		return -ENOMEM;
	}
	rs->verify = verify;
	*ret = rs;
	return 0;
}

/* A checkpoint looks at it, under the gate. */
static void publish(struct fs *fs, struct resync *rs)
{
	rwlock_wrlock(&fs->gate);
	struct resync *old = fs->resync;
	fs->resync = rs;
	rwlock_wrunlock(&fs->gate);
	resync_drop(old);
}

static int start(struct fs *fs, struct super *s, uint64_t epoch, bool save)
{
	struct resync *rs;
	int r = resync_new(s->fence > atomic_load(&fs->applied_seq), &rs);

	if (r < 0)
		return r;
	if (save)
		r = diverged_new(fs, epoch, s->resyncing, &rs->kept);
	if (r == 0)
		r = mark(fs, s, save);
	if (r < 0) {
		resync_drop(rs);
		return r;
	}
	publish(fs, rs);
	usage_forget(fs);
	return 0;
}

static int begin(struct replica *rep, uint64_t epoch, bool save) REQUIRES(rep->follow_lock)
{
	struct fs *fs = rep->fs;
	struct super s;
	int r = replica_failed(fs);

	replica_get_super(fs, &s);
	if (r == 0 && !s.follower)
		r = -EPERM;
	if (r == 0 && epoch < s.epoch)
		r = -ESTALE;
	if (r == 0 && !s.resyncing)
		r = window_leave(rep);
	if (r == 0 && !s.resyncing)
		r = replica_empty_ring(fs);
	replica_get_super(fs, &s);
	save = save || s.save; /* once begun */
	if (r < 0 || (fs->resync && (fs->resync->kept || !save)))
		return r; /* one of this mount goes on, with what it knows of the index before it */
	return start(fs, &s, epoch, save);
}

int replica_resync_begin(struct replica_volume *v, uint64_t epoch, bool save)
{
	struct replica *rep = replica_of(v);

	mutex_lock(&rep->follow_lock);
	taken_drop(rep);
	int r = begin(rep, epoch, save);
	mutex_unlock(&rep->follow_lock);
	window_tell(rep);
	if (r == 0)
		replica_changed(rep->fs, &(struct fs_change){.kind = CHANGE_ALL});
	return r;
}

void resync_free(struct fs *fs)
{
	fs->resync = resync_drop(fs->resync);
}

int resync_settle(struct fs *fs)
{
	return fs->resync && fs->resync->kept ? diverged_sync(fs->resync->kept, false) : 0;
}

/* ---- what is here ---- */

/* Slots [i, i + n), whose homes lie one after the other, into `room`; returns those that are what their CRC says. */
static uint16_t read_run(struct fs *fs, const struct leaf *l, unsigned i, unsigned n, uint8_t *room)
{
	uint16_t good = 0;

	if (arena_read(fs->arena, l->slot[i].home, n, room + (size_t)i * BLOCK_SIZE) < 0) {
		for (unsigned k = i; n > 1 && k < i + n; k++)
			good |= read_run(fs, l, k, 1, room);
		return good;
	}
	for (unsigned k = i; k < i + n; k++)
		if (crc32c(0, room + (size_t)k * BLOCK_SIZE, BLOCK_SIZE) == l->slot[k].crc)
			good |= (uint16_t)(1u << k);
	return good;
}

uint16_t resync_read_homes(struct fs *fs, const struct leaf *l, uint16_t wanted, uint8_t *room)
{
	uint16_t packed = wanted & leaf_packed(l), good = 0;

	if (packed && packed_read(fs, l, packed, 0, room, &good) < 0)
		good = 0;
	for (unsigned i = 0, n; i < LEAF_SLOTS; i += n) {
		n = 1;
		if (!(wanted >> i & 1) || !l->slot[i].home)
			continue;
		while (i + n < LEAF_SLOTS && (wanted >> (i + n) & 1) && l->slot[i + n].home == pointer_add(l->slot[i].home, n))
			n++;
		good |= read_run(fs, l, i, n, room);
	}
	return good;
}

uint16_t resync_doubtful(struct fs *fs, const struct leaf *l)
{
	uint16_t here = 0, marked = 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const struct slot *s = &l->slot[i];
		bool local = slot_has_data(s) && !slot_cold(s);

		here |= (uint16_t)(local << i);
		marked |= (uint16_t)((local && s->birth == BIRTH_SUPERSEDED) << i);
	}
	if (fs->resync->verify)
		return here & (uint16_t) ~(resync_read_homes(fs, l, here, fs->resync->room) & ~marked);
	return marked;
}

static uint16_t doubtful(void *ctx, const struct leaf *l)
{
	return resync_doubtful(ctx, l);
}

int replica_resync_rows(struct replica_volume *v, struct slice from, struct slice to, replica_row_fn *fn, void *ctx)
{
	struct fs *fs = replica_fs(v);
	struct rows rows = {.kv = fs->kv, .doubtful = doubtful, .ctx = fs};

	if (!fs->resync)
		return -EINVAL;
	int r = fs->kv->ops->iter_open(fs->kv, &rows.it);
	if (r < 0)
		return r;
	r = rows_walk(&rows, from, to, fn, ctx);
	fs->kv->ops->iter_close(rows.it);
	return r;
}

/*
 * As memory has it: data that was recalled is given homes meanwhile, and a home may have been dropped just before it began.  A
 * leaf that cannot be read: what it mapped is lost to fsck, and what the leader has takes its place.
 */
int resync_leaf_here(struct fs *fs, struct slice key, struct leaf *ret)
{
	int r = lcache_get(fs->lcache, row_ino(key), row_leaf(key), ret);

	if (r == -EUCLEAN || r == -EBADMSG)
		log_warn("inode %llu: leaf %llu cannot be read and is replaced; fsck will find its blocks in use",
			 (unsigned long long)row_ino(key), (unsigned long long)row_leaf(key));
	else if (r != -ENOENT)
		return r;
	memset(ret, 0, sizeof(*ret));
	return 0;
}

int replica_resync_missing(struct replica_volume *v, const struct row *r, uint16_t *ret_slots)
{
	struct fs *fs = replica_fs(v);
	struct leaf_row want = {0};
	struct leaf here;

	if (!fs->resync)
		return -EINVAL;
	int e = row_check(r);
	if (e < 0)
		return e;
	if (row_table(r->key) == TABLE_EXTENT && r->value.p) {
		e = leaf_row_decode(r->value, &want);
		if (e == 0)
			e = resync_leaf_here(fs, r->key, &here);
		if (e < 0)
			return e;
	}
	*ret_slots = leaf_row_data(&want);
	if (*ret_slots) /* what an object has is not sent: it is cold here until it is read */
		*ret_slots &= (uint16_t) ~((leaf_row_held(&want, &here) & ~resync_doubtful(fs, &here)) | want.tiered);
	return 0;
}

/* ---- put ---- */

static int put_locked(struct fs *fs, const struct row *r, const struct leaf_data *d, const uint8_t *blocks)
{
	enum index_table table = row_table(r->key);
	uint64_t ino = table == TABLE_HISTORY || table == TABLE_OBJECT || table == TABLE_SNAP ? 0 : row_ino(r->key);
	struct lockset ls;

	rwlock_rdlock(&fs->gate);
	lockset_lock(fs->icache, &ls, &ino, 1);
	int e = resync_put_row(fs, r, d, blocks);
	lockset_unlock(fs->icache, &ls);
	rwlock_rdunlock(&fs->gate);
	return e;
}

static int save(struct fs *fs)
{
	int r = fs_checkpoint(fs);

	if (r == 0)
		fs->resync->rows = fs->resync->bytes = 0;
	return r;
}

static bool save_due(struct fs *fs)
{
	return fs->resync->bytes >= SAVE_BYTES || fs->resync->rows >= SAVE_ROWS ||
	       (fs->resync->rows % LOOK_ROWS == 0 && fs->kv->ops->memory_bytes(fs->kv) >= fs->config.memory_bytes / 8);
}

static bool belongs(const struct row *r, const struct leaf_data *d, const uint8_t *blocks)
{
	return row_table(r->key) == TABLE_EXTENT && d->ino == row_ino(r->key) && d->leaf == row_leaf(r->key) &&
	       (blocks || !(d->wanted & ~d->superseded));
}

static bool is_tiered(const struct row *r)
{
	struct leaf_row l;

	if (row_table(r->key) == TABLE_OBJECT)
		return true;
	return row_table(r->key) == TABLE_EXTENT && r->value.p && leaf_row_decode(r->value, &l) == 0 && l.tiered;
}

int replica_resync_put(struct replica_volume *v, const struct row *r, const struct leaf_data *d, const uint8_t *blocks)
{
	struct fs *fs = replica_fs(v);
	bool tried = false;
	int e = fs->resync ? replica_failed(fs) : -EINVAL;

	if (e == 0)
		e = row_check(r);
	if (e == 0 && d && !belongs(r, d, blocks))
		e = -EUCLEAN;
	if (e < 0)
		return e;
	e = is_tiered(r) ? tier_feature(fs) : 0;
	if (e < 0)
		return e;
	e = resync_keep_first(fs, r);
	if (e < 0)
		return e;
	do {
		e = put_locked(fs, r, d, blocks);
	} while (op_retry_space(fs, e, &tried));
	if (e < 0)
		return e;
	fs->resync->rows++;
	return save_due(fs) ? save(fs) : 0;
}

/* ---- save and end ---- */

int replica_resync_save(struct replica_volume *v)
{
	struct fs *fs = replica_fs(v);

	return fs->resync ? save(fs) : -EINVAL;
}

static int check_view(struct fs *fs, const struct replica_view_info *info)
{
	bool ok = info->epoch <= replica_promised(fs) && info->seq < ROW_NUMBER_MAX && info->n_inodes > 0 &&
		  info->n_inodes < ROW_NUMBER_MAX && info->next_ino > FS_ROOT_INO && info->next_ino < ROW_NUMBER_MAX &&
		  info->snapshot_generation < BIRTH_SUPERSEDED;

	return ok ? 0 : -EUCLEAN;
}

/* The anchor of the next checkpoint says all of it. */
static int take_place(struct fs *fs, const struct replica_view_info *info) REQUIRES(fs->gate)
{
	struct journal_point at = {.seq = info->seq, .hash = info->hash};
	int r = journal_reset(fs->journal, &at);

	if (r < 0)
		return r;
	/* Not below any inode that was ever here: no number is given out twice. */
	raise_u64(&fs->next_ino, info->next_ino);
	atomic_store(&fs->n_inodes, info->n_inodes);
	raise_u64(&fs->snapshot_generation, info->snapshot_generation); /* births of what stays here are no lower than they say */
	atomic_store(&fs->history, info->epoch);
	atomic_store(&fs->applied_seq, info->seq);
	sums_begin_after(fs, info->seq);
	return 0;
}

/* A checkpoint of another thread is over before that or begins after it: its trim names batches of the journal as it was. */
static int become(struct fs *fs, const struct replica_view_info *info)
{
	mutex_lock(&fs->ckpt_lock);
	rwlock_wrlock(&fs->gate);
	int r = take_place(fs, info);
	rwlock_wrunlock(&fs->gate);
	mutex_unlock(&fs->ckpt_lock);
	if (r == 0)
		r = usage_rebuild(fs);
	return r < 0 ? r : save(fs);
}

static int unmark(struct fs *fs, uint64_t fence)
{
	struct super s;

	replica_get_super(fs, &s);
	s.resyncing = s.save = s.differs = false;
	s.fence = fence;
	atomic_store(&fs->replica->lacks, false);
	return replica_save_super(fs, &s);
}

/* Nobody may be looking at the table of what is shared. */
static int load_snapshots(struct fs *fs)
{
	rwlock_wrlock(&fs->gate);
	int r = snaps_load(fs);
	rwlock_wrunlock(&fs->gate);
	return r;
}

static int end(struct fs *fs, const struct replica_view_info *info, uint64_t fence)
{
	int r = check_view(fs, info);

	if (r == 0)
		r = become(fs, info);
	if (r == 0)
		r = policies_load(fs);
	if (r == 0)
		r = load_snapshots(fs);
	if (r == 0 && fs->resync->kept)
		r = diverged_sync(fs->resync->kept, true);
	if (r == 0)
		r = unmark(fs, fence > info->seq ? fence : 0);
	if (r == 0)
		publish(fs, NULL);
	return r;
}

int replica_resync_end(struct replica_volume *v, const struct replica_view_info *info, uint64_t fence)
{
	struct replica *rep = replica_of(v);
	struct fs *fs = rep->fs;

	mutex_lock(&rep->follow_lock);
	int r = fs->resync ? end(fs, info, fence) : -EINVAL;
	mutex_unlock(&rep->follow_lock);
	if (r < 0)
		return r;
	positions_reached(fs);
	replica_changed(fs, &(struct fs_change){.kind = CHANGE_ALL});
	return 0;
}
