/*
 * replica.c: the volume as replication sees it: where it stands, which role it has, and how that changes.
 *
 * The role is in the superblock, and in fs->role, where every operation looks.  It changes under the gate, held exclusively, so
 * that no operation is half in one role:
 *
 *     leader -> follower   (note_epoch of a higher epoch) commit everything, promise the epoch durably, take no change from then
 * on follower -> leader   (promote) commit what came, durably promise the epoch and lead, log the EPOCH record and commit it,
 * then take changes; orphans are queued for the reaper
 *
 * A crash in between leaves one or the other: the superblock decides, and a leader logs its EPOCH record at every mount.  A
 * leader that cannot write its promise stops for good: it must not go on leading, and cannot promise.
 *
 * Which history is a prefix of which is told by table H: a row an epoch, with the batch before it.
 */
#include "fs/core/replica/impl.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
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

/* The batch that the state lacks something of; 0: none, or nothing of the window that it ends is applied (window.c). */
static uint64_t fence_of(struct fs *fs, const struct super *s)
{
	uint64_t applied = atomic_load(&fs->applied_seq);

	return s->fence <= applied || (applied < s->window && !atomic_load(&fs->replica->applying)) ? 0 : s->fence;
}

/* One that led is shown again once it has something of the new epoch: by then it is a prefix of its leader. */
static void judge_locked(struct fs *fs) REQUIRES(fs->replica->super_lock)
{
	const struct super *s = &fs->super;

	fs->replica->led = fs->replica->led && s->follower && atomic_load(&fs->history) < s->epoch;
	bool hidden = s->follower && (s->resyncing || s->differs || fence_of(fs, s) || fs->replica->led);

	atomic_store(&fs->unreadable, hidden ? -EBUSY : 0);
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
	    .failed = atomic_load(&fs->failed),
	};
	memcpy(ret->volume, s.volume, sizeof(ret->volume));
	memcpy(ret->node, s.node, sizeof(ret->node));
	ret->fence = fence_of(fs, &s);
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

/* ---- roles ---- */

static int log_epoch(struct fs *fs)
{
	struct record rec = {0};

	op_stamp(fs, NULL, &rec, RECORD_EPOCH, 0);
	rec.epoch.epoch = replica_promised(fs);
	rec.epoch.incarnation = fs->super.incarnation;
	return fs_log(fs, &rec, 1, 0);
}

int replica_begin_leading(struct fs *fs) NO_THREAD_SAFETY /* also where the volume is not open yet, and nobody else there */
{
	int r = 0;

	rwlock_rdlock(&fs->gate);
	if (fs_takes_changes(fs)) {
		fs->replica->begun = true;
		r = log_epoch(fs);
	}
	rwlock_rdunlock(&fs->gate);
	return r < 0 ? r : journal_commit_all(fs->journal, NULL);
}

int fs_lead(struct fs *fs)
{
	int r = fs->config.read_only ? -EROFS : op_wait_room(fs);

	if (r < 0)
		return r;
	mutex_lock(&fs->replica->role_lock);
	r = replica_begin_leading(fs);
	atomic_store(&fs->held, false);
	mutex_unlock(&fs->replica->role_lock);
	return r;
}

static int promise(struct fs *fs, struct super *s, uint64_t epoch)
{
	(void)fs;
	s->epoch = epoch;
	return 0;
}

static int promise_and_follow(struct fs *fs, struct super *s, uint64_t epoch) REQUIRES(fs->replica->super_lock)
{
	fs->replica->led = true;
	s->follower = true;
	return promise(fs, s, epoch);
}

static int stop_leading(struct fs *fs, uint64_t epoch)
{
	rwlock_wrlock(&fs->gate);
	/* Failed, it has told everybody already, and the volume takes no change any more. */
	int committed = journal_commit_all(fs->journal, NULL), r = replica_change_super(fs, promise_and_follow, epoch);
	atomic_store(&fs->role, ROLE_FOLLOWER);
	rwlock_wrunlock(&fs->gate);
	reap_forget(fs);
	durability_role(fs, ROLE_FOLLOWER);
	if (r < 0)
		fs_fail(fs, r, "writing the superblock, to follow another leader");
	if (epoch_node(epoch) != fs->super.node_id)
		log_warn("node %u leads with epoch %llu", epoch_node(epoch), (unsigned long long)epoch_counter(epoch));
	log_warn("this node has stopped writing%s and follows",
		 committed < 0 ? ", with changes that could not be committed," : "");
	return r;
}

/* A window waits for a batch of the leader it came from: another one's may not have what it lacks. */
static int promise_on(struct replica *rep, uint64_t epoch) REQUIRES(rep->follow_lock)
{
	int r = window_leave(rep);

	return r < 0 ? r : replica_change_super(rep->fs, promise, epoch);
}

static int note_epoch(struct replica_volume *v, uint64_t epoch)
{
	struct replica *rep = replica_of(v);
	struct fs *fs = rep->fs;
	int r = 0;

	if (fs->config.read_only)
		return -EROFS;
	mutex_lock(&rep->role_lock);
	mutex_lock(&rep->follow_lock); /* no batch of a lower epoch is half taken in when this returns */
	if (epoch > replica_promised(fs))
		r = fs_role(fs) == ROLE_FOLLOWER ? promise_on(rep, epoch) : stop_leading(fs, epoch);
	mutex_unlock(&rep->follow_lock);
	mutex_unlock(&rep->role_lock);
	window_tell(rep);
	return r;
}

static int may_lead(struct fs *fs, const struct super *s, uint64_t epoch)
{
	const char *why = s->resyncing      ? "it is between two states: a resync has to be completed"
			  : s->differs      ? "its state differs from its leader's: it needs a resync"
			  : fence_of(fs, s) ? "data of it was superseded on the leader and the newer has not come yet"
					    : NULL;

	if (epoch <= s->epoch || epoch <= s->offered)
		return -ESTALE;
	if (!why)
		return replica_failed(fs);
	log_error("this node cannot lead: %s", why);
	return -EAGAIN;
}

static int promise_and_lead(struct fs *fs, struct super *s, uint64_t epoch)
{
	int r = may_lead(fs, s, epoch);

	s->follower = s->save = false;
	s->fence = s->window = 0;
	s->epoch = epoch;
	return r;
}

/* The promise and the EPOCH record, before anybody else may write: one that led, and was in doubt, takes changes by both. */
static int begin_epoch(struct fs *fs, uint64_t epoch)
{
	rwlock_wrlock(&fs->gate);
	int r = replica_change_super(fs, promise_and_lead, epoch);
	if (r == 0) {
		fs->replica->begun = true;
		sums_begin_after(fs, atomic_load(&fs->applied_seq));
		journal_set_epoch(fs->journal, epoch);
		r = log_epoch(fs);
	}
	rwlock_wrunlock(&fs->gate);
	return r < 0 ? r : journal_commit_all(fs->journal, NULL);
}

static int lead(struct replica *rep, uint64_t epoch) REQUIRES(rep->role_lock, rep->follow_lock)
{
	struct fs *fs = rep->fs;
	uint64_t n_orphans;

	taken_drop(rep);
	int r = journal_commit_all(fs->journal, NULL);
	if (r == 0)
		r = window_leave(rep);
	if (r == 0)
		r = replica_wait_room(fs);
	if (r == 0)
		r = begin_epoch(fs, epoch);
	if (r < 0)
		return r;
	durability_role(fs, ROLE_LEADER);
	atomic_store(&fs->role, ROLE_LEADER);
	log_info("this node leads with epoch %llu, after batch %llu", (unsigned long long)epoch_counter(epoch),
		 (unsigned long long)atomic_load(&fs->applied_seq) - 1);
	r = reap_queue_orphans(fs, &n_orphans);
	if (r < 0)
		log_warn("orphans cannot be listed (%s): the next mount removes them", strerror(-r));
	return 0;
}

static int promote(struct replica_volume *v, uint64_t epoch)
{
	struct replica *rep = replica_of(v);

	mutex_lock(&rep->role_lock);
	mutex_lock(&rep->follow_lock);
	int r = lead(rep, epoch);
	mutex_unlock(&rep->follow_lock);
	mutex_unlock(&rep->role_lock);
	window_tell(rep);
	return r;
}

static int hold_writers(struct replica_volume *v, bool hold)
{
	struct fs *fs = replica_fs(v);

	atomic_store(&fs->held, hold);
	if (!hold)
		return 0;
	rwlock_wrlock(&fs->gate); /* whoever is in has finished; whoever comes sees that writers are held */
	rwlock_wrunlock(&fs->gate);
	return journal_commit_all(fs->journal, NULL);
}

static int put_offer(struct fs *fs, struct super *s, uint64_t epoch)
{
	(void)fs;
	if (epoch && (s->follower || epoch <= s->epoch))
		return -ESTALE;
	s->offered = epoch;
	return 0;
}

/*
 * A leader that came up with the promise has not begun: it does once that is over, or with fs_lead() when that is still to come.
 * What keeps it from its EPOCH record, which only proves that it can write, keeps every other change from it, too, and says so.
 */
static int offer(struct replica_volume *v, uint64_t epoch)
{
	struct replica *rep = replica_of(v);
	struct fs *fs = rep->fs;

	if (fs->config.read_only)
		return -EROFS;
	mutex_lock(&rep->role_lock);
	int r = atomic_load(&fs->offered) == epoch ? 0 : replica_change_super(fs, put_offer, epoch);
	bool begins = r == 0 && !epoch && !rep->begun && !atomic_load(&fs->held);
	mutex_unlock(&rep->role_lock);
	int begun = begins ? fs_lead(fs) : 0;
	if (begun < 0)
		log_warn("this node leads on, and could not note so in its journal: %s", strerror(-begun));
	return r;
}

/* Its epoch stays promised, and the next leader's is above it. */
static int step_down(struct replica_volume *v)
{
	struct replica *rep = replica_of(v);
	struct fs *fs = rep->fs;

	if (fs->config.read_only)
		return -EROFS;
	mutex_lock(&rep->role_lock);
	mutex_lock(&rep->follow_lock);
	int r = fs_role(fs) == ROLE_FOLLOWER ? -EALREADY : rep->begun ? -EBUSY : stop_leading(fs, replica_promised(fs));
	mutex_unlock(&rep->follow_lock);
	mutex_unlock(&rep->role_lock);
	return r;
}

static int differ(struct fs *fs, struct super *s, uint64_t seq)
{
	(void)fs;
	(void)seq;
	s->differs = true;
	return s->follower ? 0 : -EINVAL;
}

static int set_differs(struct replica_volume *v, uint64_t seq)
{
	struct fs *fs = replica_fs(v);
	int r = replica_change_super(fs, differ, seq);

	if (r < 0)
		return r;
	log_error("after batch %llu this node's state differs from its leader's: nothing is served any more until a resync",
		  (unsigned long long)seq);
	replica_changed(fs, &(struct fs_change){.kind = CHANGE_ALL});
	return 0;
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
    .set_differs = set_differs,
    .note_epoch = note_epoch,
    .promote = promote,
    .offer = offer,
    .step_down = step_down,
    .hold_writers = hold_writers,
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
