/*
 * replica.c: the volume as replication sees it: where it stands, what of that is in the superblock, and the table of all that can
 * be asked of it.  How its role changes is roles.c.
 *
 * Which history is a prefix of which is told by table H: a row an epoch, with the batch before it.
 */
#include "fs/core/replica/impl.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/snap/snap.h"
#include "fs/core/index.h"

static struct replica_volume *volume_of(struct fs *fs)
{
	return &fs->replica->volume;
}

struct replica_volume *fs_replica(struct fs *fs)
{
	return volume_of(fs);
}

struct fs *replica_fs(struct replica_volume *v)
{
	return replica_of(v)->fs;
}

enum replica_role fs_role(struct fs *fs)
{
	return (enum replica_role)atomic_load_explicit(&fs->role, memory_order_relaxed);
}

bool fs_takes_changes(struct fs *fs)
{
	return fs_role(fs) == ROLE_LEADER && !atomic_load_explicit(&fs->offered, memory_order_relaxed);
}

int fs_readable(struct fs *fs)
{
	return atomic_load_explicit(&fs->unreadable, memory_order_relaxed);
}

/* What the kernel may still have cached from before a batch is told of is not shown yet.  `telling` is set before `applied`. */
uint64_t fs_pos(struct fs *fs)
{
	uint64_t applied = atomic_load(&fs->applied_seq), telling = atomic_load(&fs->telling_seq);

	return telling && telling <= applied ? telling - 1 : applied;
}

void fs_set_ship_floor(struct fs *fs, uint64_t seq)
{
	atomic_store(&fs->ship_floor, seq);
}

void fs_set_hooks(struct fs *fs, const struct fs_hooks *h)
{
	fs->hooks = *h;
	atomic_store(&fs->replica->has_hooks, true);
}

bool replica_has_hooks(struct fs *fs)
{
	return atomic_load(&fs->replica->has_hooks);
}

void replica_durable(void *ctx, uint64_t seq)
{
	struct fs *fs = ctx;

	if (replica_has_hooks(fs) && fs->hooks.durable)
		fs->hooks.durable(fs->hooks.ctx, seq);
	positions_durable(fs);
}

int replica_failed(struct fs *fs)
{
	return fs->config.read_only || atomic_load(&fs->failed) ? -EROFS : 0;
}

uint64_t replica_newest(struct fs *fs)
{
	struct journal_status js;

	journal_get_status(fs->journal, &js);
	return js.open_bytes > 0 ? js.open_seq : js.sealed_seq;
}

/* ---- the superblock ---- */

uint64_t replica_fence_of(struct fs *fs, const struct super *s)
{
	uint64_t applied = atomic_load(&fs->applied_seq);

	return s->fence <= applied || (applied < s->window && !atomic_load(&fs->replica->applying)) ? 0 : s->fence;
}

/* One that led is shown again once it has something of the new epoch: by then it is a prefix of its leader. */
static void judge_locked(struct fs *fs) REQUIRES(fs->replica->super_lock)
{
	const struct super *s = &fs->super;

	fs->replica->led = fs->replica->led && s->follower && atomic_load(&fs->history) < s->epoch;
	bool hidden = s->follower && (s->resyncing || s->differs || replica_fence_of(fs, s) || fs->replica->led);

	bool half = snap_rolling(fs) && atomic_load(&fs->failed);

	atomic_store(&fs->unreadable, half ? -EIO : hidden ? -EBUSY : 0);
}

void replica_judge(struct fs *fs)
{
	mutex_lock(&fs->replica->super_lock);
	judge_locked(fs);
	mutex_unlock(&fs->replica->super_lock);
}

void replica_get_super(struct fs *fs, struct super *ret)
{
	mutex_lock(&fs->replica->super_lock);
	*ret = fs->super;
	mutex_unlock(&fs->replica->super_lock);
}

uint64_t replica_promised(struct fs *fs)
{
	struct super s;

	replica_get_super(fs, &s);
	return s.epoch;
}

/* An offer counts until a higher epoch is known: that one is taken, or above it. */
static int save_locked(struct fs *fs, const struct super *s) REQUIRES(fs->replica->super_lock)
{
	struct super next = fs->super;

	if (s->generation != next.generation && s->follower != next.follower)
		return -ESTALE;
	next.follower = s->follower;
	next.resyncing = s->resyncing;
	next.save = s->save;
	next.differs = s->differs;
	next.fence = s->fence;
	next.window = s->window;
	next.cut = s->cut;
	next.cut_incarnation = s->cut_incarnation;
	next.incarnation = s->incarnation;
	next.incompat |= s->incompat;
	next.epoch = max_u64(next.epoch, s->epoch);
	next.offered = s->offered > next.epoch ? s->offered : 0;
	int r = super_write(fs->store, &next);
	if (r < 0)
		return r;
	/* Only what changed: the rest is read without the lock. */
	fs->super.follower = next.follower;
	fs->super.resyncing = next.resyncing;
	fs->super.save = next.save;
	fs->super.differs = next.differs;
	fs->super.fence = next.fence;
	fs->super.window = next.window;
	fs->super.cut = next.cut;
	fs->super.cut_incarnation = next.cut_incarnation;
	fs->super.incarnation = next.incarnation;
	fs->super.incompat = next.incompat;
	fs->super.epoch = next.epoch;
	fs->super.offered = next.offered;
	atomic_store(&fs->offered, next.offered);
	fs->super.generation = next.generation;
	memcpy(fs->super.copy_valid, next.copy_valid, sizeof(next.copy_valid));
	judge_locked(fs);
	return 0;
}

int replica_save_super(struct fs *fs, const struct super *s)
{
	mutex_lock(&fs->replica->super_lock);
	int r = save_locked(fs, s);
	mutex_unlock(&fs->replica->super_lock);
	return r;
}

int replica_change_super(struct fs *fs, super_change *change, uint64_t arg)
{
	mutex_lock(&fs->replica->super_lock);
	struct super s = fs->super;
	int r = change(fs, &s, arg);
	if (r == 0)
		r = save_locked(fs, &s);
	mutex_unlock(&fs->replica->super_lock);
	return r;
}

static int set_feature(struct fs *fs, struct super *s, uint64_t bit)
{
	(void)fs;
	s->incompat |= bit;
	return 0;
}

int replica_set_feature(struct fs *fs, uint64_t incompat)
{
	struct super s;

	replica_get_super(fs, &s);
	return s.incompat & incompat ? 0 : replica_change_super(fs, set_feature, incompat);
}

/* ---- where the volume stands ---- */

/* A batch counts as durable here once it is applied, too: what is said to have come can be read. */
static void newest_durable(struct fs *fs, struct replica_point *ret)
{
	struct journal_point p = {0};
	struct journal_status js;

	do {
		journal_get_status(fs->journal, &js);
		ret->durable_seq = window_bound(fs, min_u64(js.durable_seq, atomic_load(&fs->applied_seq)));
	} while (journal_history_point(fs->journal, ret->durable_seq, &p) < 0 && ret->durable_seq < js.tail_seq);
	ret->hash = p.hash;
}

static void get_point(struct replica_volume *v, struct replica_point *ret)
{
	struct fs *fs = replica_fs(v);
	struct super s;

	replica_get_super(fs, &s);
	*ret = (struct replica_point){
	    .node_id = s.node_id,
	    .role = fs_role(fs),
	    .promised = s.epoch,
	    .offered = s.offered,
	    .history = atomic_load(&fs->history),
	    .applied_seq = atomic_load(&fs->applied_seq),
	    .resyncing = s.resyncing,
	    .differs = s.differs,
	    .lacks = atomic_load(&fs->replica->lacks),
	    .failed = atomic_load(&fs->failed),
	};
	memcpy(ret->volume, s.volume, sizeof(ret->volume));
	memcpy(ret->node, s.node, sizeof(ret->node));
	ret->fence = replica_fence_of(fs, &s);
	newest_durable(fs, ret);
	ret->applied_seq = max_u64(ret->applied_seq, ret->durable_seq);
}

static int hash_after(struct replica_volume *v, uint64_t seq, uint64_t *ret_hash)
{
	struct journal_point p;
	int r = journal_history_point(replica_fs(v)->journal, seq, &p);

	if (r == 0)
		*ret_hash = p.hash;
	return r;
}

/* The row of `epoch` in table H, and the batch before the epoch that follows it (UINT64_MAX: none does). */
static int find_epoch(struct kv *kv, uint64_t epoch, bool *ret_known, uint64_t *ret_end)
{
	struct index_key k = key_ino(TABLE_HISTORY, epoch);
	struct kv_iter *it;
	int r = kv->ops->iter_open(kv, &it);

	*ret_known = false;
	*ret_end = UINT64_MAX;
	if (r < 0)
		return r;
	for (kv->ops->iter_seek(it, key_slice(&k)); kv->ops->iter_valid(it); kv->ops->iter_next(it)) {
		struct slice key = kv->ops->iter_key(it), value = kv->ops->iter_value(it);
		le64 end;

		if (key.len != 9 || *(const uint8_t *)key.p != TABLE_HISTORY || value.len != sizeof(end))
			break;
		if (be64_get((const uint8_t *)key.p + 1) == epoch) {
			*ret_known = true;
			continue;
		}
		memcpy(&end, value.p, sizeof(end));
		*ret_end = le64_get(end);
		break;
	}
	r = kv->ops->iter_error(it);
	kv->ops->iter_close(it);
	return r;
}

static bool is_prefix(struct replica_volume *v, uint64_t history, uint64_t seq)
{
	struct fs *fs = replica_fs(v);
	uint64_t end;
	bool known;

	if (seq == 0) /* nothing has happened there yet */
		return true;
	return find_epoch(fs->kv, history, &known, &end) == 0 && known && seq <= min_u64(end, atomic_load(&fs->applied_seq));
}

static int state_sum(struct replica_volume *v, uint64_t seq, uint64_t *ret_sum)
{
	struct fs *fs = replica_fs(v);

	if (fs_role(fs) == ROLE_FOLLOWER && seq > atomic_load(&fs->applied_seq))
		return -EAGAIN; /* in a window */
	return sums_get(fs, seq, ret_sum);
}

/* ---- the table ---- */

static const struct replica_ops ops = {
    .get_point = get_point,
    .hash_after = hash_after,
    .is_prefix = is_prefix,
    .state_sum = state_sum,
    .read_batch = replica_read_batch,
    .read_data = replica_read_data,
    .cursor_free = replica_cursor_free,
    .take_batch = replica_take_batch,
    .take_data = replica_take_data,
    .finish_batch = replica_finish_batch,
    .drop_batch = replica_drop_batch,
    .commit = replica_commit,
    .set_differs = replica_set_differs,
    .note_epoch = replica_note_epoch,
    .promote = replica_promote,
    .offer = replica_offer,
    .step_down = replica_step_down,
    .hold_writers = replica_hold_writers,
    .view_open = replica_view_open,
    .view_close = replica_view_close,
    .view_rows = replica_view_rows,
    .read_leaf = replica_read_leaf,
    .next_wanted = replica_next_wanted,
    .give_block = replica_give_block,
    .answer_block = replica_answer_block,
    .resync_begin = replica_resync_begin,
    .resync_rows = replica_resync_rows,
    .resync_missing = replica_resync_missing,
    .resync_put = replica_resync_put,
    .resync_save = replica_resync_save,
    .resync_end = replica_resync_end,
};

int replica_open(struct fs *fs)
{
	struct replica *rep = calloc(1, sizeof(*rep));

	if (!rep)
		return -ENOMEM;
	rep->volume.ops = &ops;
	rep->fs = fs;
	mutex_init(&rep->role_lock);
	mutex_init(&rep->super_lock);
	mutex_init(&rep->follow_lock);
	mutex_init(&rep->watch_lock);
	cond_init(&rep->watch_idle);
	fs->replica = rep;
	atomic_store(&fs->role, fs->super.follower ? ROLE_FOLLOWER : ROLE_LEADER);
	atomic_store(&fs->offered, fs->super.offered);
	return 0;
}

void replica_close(struct fs *fs) NO_THREAD_SAFETY
{
	struct replica *rep = fs->replica;

	if (!rep)
		return;
	taken_free(&rep->taken);
	free(rep->bounce);
	cond_destroy(&rep->watch_idle);
	mutex_destroy(&rep->watch_lock);
	mutex_destroy(&rep->follow_lock);
	mutex_destroy(&rep->super_lock);
	mutex_destroy(&rep->role_lock);
	free(rep);
	fs->replica = NULL;
}
