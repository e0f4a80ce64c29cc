/*
 * roles.c: a volume leads or follows, and how that changes.
 *
 * The role is in the superblock, and in fs->role, where every operation looks.  It changes under the gate, held exclusively, so
 * that no operation is half in one role:
 *
 *     leader -> follower   (note_epoch of a higher epoch) commit everything, promise the epoch durably, take no change any more
 *     follower -> leader   (promote) commit what came, durably promise the epoch and lead, log the EPOCH record and commit it,
 *                          then take changes; orphans are queued for the reaper
 *
 * A crash in between leaves one or the other: the superblock decides, and a leader logs its EPOCH record at every mount.  A
 * leader that cannot write its promise stops for good: it must not go on leading, and cannot promise.
 */
#include "fs/core/replica/impl.h"

#include <errno.h>

#include "base/log.h"

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

int replica_note_epoch(struct replica_volume *v, uint64_t epoch)
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
	const char *why = s->resyncing              ? "it is between two states: a resync has to be completed"
			  : s->differs              ? "its state differs from its leader's: it needs a resync"
			  : replica_fence_of(fs, s) ? "data of it was superseded on the leader and the newer has not come yet"
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
	atomic_store(&rep->lacks, false);
	durability_role(fs, ROLE_LEADER);
	atomic_store(&fs->role, ROLE_LEADER);
	log_info("this node leads with epoch %llu, after batch %llu", (unsigned long long)epoch_counter(epoch),
		 (unsigned long long)atomic_load(&fs->applied_seq) - 1);
	r = reap_queue_orphans(fs, &n_orphans);
	if (r < 0)
		log_warn("orphans cannot be listed (%s): the next mount removes them", strerror(-r));
	return 0;
}

int replica_promote(struct replica_volume *v, uint64_t epoch)
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

int replica_hold_writers(struct replica_volume *v, bool hold)
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
int replica_offer(struct replica_volume *v, uint64_t epoch)
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
int replica_step_down(struct replica_volume *v)
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

int replica_set_differs(struct replica_volume *v, uint64_t seq)
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
