/*
 * durability.c: fsync at the level that a policy asks for: here, or here and on K followers.
 *
 *     "local"                 durable here
 *     "replicas=K"            and on K followers; waits for as long as that takes
 *     "replicas=K,else=local" the same, but local is enough while fewer than K followers are connected; counted
 *
 * Without any policy fsync is the journal's commit, and nothing here is touched.  Otherwise a request at a level above local is
 * kept in a list from before its commit, so that nothing that happens meanwhile is missed:
 *
 *     committing: the journal has it; an error of the commit is its answer
 *     waiting:    durable here; the followers' acks (fs_acked) or the end of the waiting answer it
 *
 * All waiting requests are judged anew whenever something changed, in the order in which they came: after an ack, after a
 * connection came or went, and when a policy was set, which is an admin's way out when followers stay away.  Policies are
 * looked up without the lock, because an inode's stripe is taken for it and a commit may be led by a thread that holds some.
 *
 * Who is interrupted stops waiting for followers, and is told that nothing is known of them (-EINTR).  The commit is not undone:
 * one that is interrupted before it is answered by its end.
 *
 * A follower answers when its own commit is done: what it has came from the leader, where somebody else waited for it.  An old
 * leader is no such follower: what it took and its followers did not is lost to them, and it says so (-EROFS).
 *
 * Requests are answered without the lock, by whichever thread brought the news.
 */
#include <assert.h>
#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>

#include "base/log.h"
#include "base/metric.h"
#include "fs/core/core.h"

#define REPLICAS_MAX 15u

/* An fsync that followers have a say in. */
struct request {
	struct journal_waiter local;   /* what the journal is given */
	struct journal_waiter *waiter; /* whom to tell */
	struct fs *fs;
	struct request *next;
	uint64_t ino;
	struct durability_level level;
	uint64_t generation; /* of the policies that level is from */
	bool committed;
	bool interrupted; /* it is not to wait */
	int64_t since_ns; /* mono: when it was */
	int result;
};

struct durability {
	struct mutex lock;
	struct cond answered;
	/* guarded by lock */
	struct request *first, **end;
	uint64_t n_open;              /* in the list, or being told */
	uint64_t acked[REPLICAS_MAX]; /* newest batch durable on each follower, highest first; 0: none */
	uint32_t n_live;              /* followers connected */
	bool led;                     /* and does no more: nobody waits, -EROFS */
	uint32_t ending;              /* calls of fs_end_waits(): nobody waits, -EIO */
	uint32_t short_of;            /* followers that were asked for and not there; 0: enough */
	int64_t short_since_ns, last_fallback_ns;
	uint64_t fallbacks;
	/* not guarded */
	_Atomic bool follows;        /* and has never led since the mount */
	_Atomic uint64_t generation; /* grows with each change of a policy */
};

/* What came of looking at the list: to be done without the lock. */
struct outcome {
	struct request *first, **end;
	struct durability_level began; /* too few followers for this, since now */
	uint32_t n_live;
	const char *ended; /* why that is over */
};

int durability_parse(const char *value, struct durability_level *ret)
{
	static const char head[] = "replicas=", tail[] = ",else=local";
	uint32_t n = 0;

	*ret = (struct durability_level){0};
	if (strcmp(value, "local") == 0)
		return 0;
	if (strncmp(value, head, strlen(head)) != 0)
		return -EINVAL;
	const char *p = value + strlen(head);
	if (*p == '0')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9' && n <= REPLICAS_MAX; p++)
		n = n * 10 + (uint32_t)(*p - '0');
	if (n == 0 || n > REPLICAS_MAX || (*p && strcmp(p, tail) != 0))
		return -EINVAL;
	*ret = (struct durability_level){.replicas = n, .else_local = *p};
	return 0;
}

/* -EIO also for a level that a newer version has set: whatever it asks for, it cannot be claimed here. */
static int level_of(struct fs *fs, uint64_t ino, struct durability_level *ret)
{
	char value[FS_POLICY_MAX + 1];
	int r = fs_get_policy(fs, ino, "durability", true, value);

	*ret = (struct durability_level){0};
	if (r == 0)
		r = durability_parse(value, ret);
	return r == 0 || r == -ENODATA ? 0 : -EIO;
}

/* Why a durable point cannot be had; a read-only volume has nothing to make durable. */
static int sync_error(struct fs *fs)
{
	int failed = atomic_load(&fs->failed);

	return failed == 0 || failed == -ENOSPC ? failed : -EIO;
}

/* ---- judging ---- */

static void note_short(struct durability *d, const struct request *q, struct outcome *o) REQUIRES(d->lock)
{
	if (d->short_of == 0) {
		d->short_since_ns = clock_real_ns(q->fs->clock);
		o->began = q->level;
		o->n_live = d->n_live;
	}
	d->short_of = q->level.replicas > d->short_of ? q->level.replicas : d->short_of;
}

/* Why nobody waits. */
static int refusal(const struct durability *d, struct fs *fs) REQUIRES(d->lock)
{
	int r = sync_error(fs);

	if (r == 0)
		r = d->ending ? -EIO : d->led ? -EROFS : 0;
	return r;
}

/* True when there is an answer: q->result. */
static bool judge(struct durability *d, struct request *q, struct outcome *o) REQUIRES(d->lock)
{
	const struct durability_level *l = &q->level;

	if (!q->committed)
		return false;
	q->result = 0;
	if (l->replicas == 0 || (d->acked[l->replicas - 1] && d->acked[l->replicas - 1] >= q->local.seq))
		return true;
	q->result = refusal(d, q->fs);
	if (q->result < 0)
		return true;
	if (q->interrupted) {
		q->result = -EINTR;
		return true;
	}
	if (d->n_live >= l->replicas)
		return false;
	note_short(d, q, o);
	if (!l->else_local)
		return false;
	d->fallbacks++;
	d->last_fallback_ns = clock_real_ns(q->fs->clock);
	return true;
}

/* Takes `*at` out, to be told. */
static void take(struct durability *d, struct request **at, struct outcome *o) REQUIRES(d->lock)
{
	struct request *q = *at;

	*at = q->next;
	if (d->end == &q->next)
		d->end = at;
	q->next = NULL;
	if (!o->end)
		o->end = &o->first;
	*o->end = q;
	o->end = &q->next;
}

static void judge_all(struct durability *d, struct outcome *o) REQUIRES(d->lock)
{
	struct request **at = &d->first;

	while (*at)
		if (judge(d, *at, o))
			take(d, at, o);
		else
			at = &(*at)->next;
}

static void say(const struct outcome *o)
{
	if (o->began.replicas)
		log_warn("durability: %u followers are connected, %u are asked for: %s", o->n_live, o->began.replicas,
			 o->began.else_local ? "fsync falls back to this node alone" : "fsync waits");
	if (o->ended)
		log_info("durability: %s", o->ended);
}

/* Tells those who have an answer. */
static void deliver(struct durability *d, const struct outcome *o) EXCLUDES(d->lock)
{
	uint64_t n = 0;

	say(o);
	for (struct request *q = o->first, *next; q; q = next, n++) {
		next = q->next;
		if (q->committed && q->result == 0)
			metric_record(HISTOGRAM_ACK, clock_mono_ns(q->fs->clock) - q->since_ns);
		q->waiter->done(q->waiter, q->result);
		free(q);
	}
	if (n == 0)
		return;
	mutex_lock(&d->lock);
	d->n_open -= n;
	cond_broadcast(&d->answered);
	mutex_unlock(&d->lock);
}

/* ---- a request ---- */

/* From the thread that commits, which may hold stripes. */
static void committed(struct journal_waiter *w, int result)
{
	struct request *q = container_of(w, struct request, local), **at;
	struct durability *d = q->fs->durability;
	struct outcome o = {0};

	mutex_lock(&d->lock);
	q->committed = true;
	q->since_ns = clock_mono_ns(q->fs->clock);
	for (at = &d->first; *at != q; at = &(*at)->next)
		;
	if (result < 0)
		q->result = result;
	if (result < 0 || judge(d, q, &o))
		take(d, at, &o);
	mutex_unlock(&d->lock);
	deliver(d, &o);
}

static void enlist(struct durability *d, struct request *q)
{
	mutex_lock(&d->lock);
	*d->end = q;
	d->end = &q->next;
	d->n_open++;
	mutex_unlock(&d->lock);
}

static void sync_at_level(struct fs *fs, uint64_t ino, struct journal_waiter *w)
{
	struct durability *d = fs->durability;
	uint64_t generation = atomic_load(&d->generation);
	struct durability_level level;
	struct request *q;
	int r = level_of(fs, ino, &level);

	if (r < 0) {
		w->done(w, r);
		return;
	}
	if (level.replicas == 0 || atomic_load(&d->follows)) {
		journal_commit_async(fs->journal, w);
		return;
	}
	q = malloc(sizeof(*q));
	if (!q) {
		w->done(w, -ENOMEM);
		return;
	}
	*q = (struct request){
	    .local.done = committed, .waiter = w, .fs = fs, .ino = ino, .level = level, .generation = generation};
	enlist(d, q);
	if (atomic_load(&d->generation) != generation) /* whoever changed it may have looked before */
		durability_policy_changed(fs);
	journal_commit_async(fs->journal, &q->local);
}

void fs_sync_async(struct fs *fs, uint64_t ino, struct journal_waiter *w)
{
	int r = sync_error(fs);

	if (fs_is_snap(ino)) /* what is durable for good needs no level */
		ino = FS_ROOT_INO;
	if (r < 0 || fs->config.read_only)
		w->done(w, r);
	else if (!fs_has_policies(fs))
		journal_commit_async(fs->journal, w);
	else
		sync_at_level(fs, ino, w);
}

struct sleeper {
	struct journal_waiter waiter;
	sem_t wake;
	int result;
};

static void wake_sleeper(struct journal_waiter *w, int result)
{
	struct sleeper *s = container_of(w, struct sleeper, waiter);

	s->result = result;
	sem_post(&s->wake); /* and it is gone */
}

int fs_sync_inode(struct fs *fs, uint64_t ino)
{
	struct sleeper s = {.waiter.done = wake_sleeper};

	sem_init(&s.wake, 0, 0);
	fs_sync_async(fs, ino, &s.waiter);
	while (sem_wait(&s.wake)) /* EINTR */
		;
	sem_destroy(&s.wake);
	return s.result;
}

int fs_sync(struct fs *fs)
{
	int r = sync_error(fs);

	if (r < 0 || fs->config.read_only)
		return r;
	if (!fs_has_policies(fs))
		return journal_commit_all(fs->journal, NULL);
	return fs_sync_inode(fs, FS_ROOT_INO);
}

/* ---- news ---- */

/* Highest first; no policy asks for more than REPLICAS_MAX. */
static void note_acked(struct durability *d, uint64_t seq) REQUIRES(d->lock)
{
	for (uint32_t i = 0; i < REPLICAS_MAX; i++)
		if (seq > d->acked[i]) {
			uint64_t lower = d->acked[i];

			d->acked[i] = seq;
			seq = lower;
		}
}

/* Enough followers for everyone who missed some. */
static void note_enough(struct durability *d, struct outcome *o) REQUIRES(d->lock)
{
	if (d->short_of == 0 || d->n_live < d->short_of)
		return;
	d->short_of = 0;
	o->ended = "there are followers enough again";
}

void fs_acked(struct fs *fs, const uint64_t *durable, uint32_t n_known, uint32_t n_live)
{
	struct durability *d = fs->durability;
	struct outcome o = {0};

	mutex_lock(&d->lock);
	memset(d->acked, 0, sizeof(d->acked));
	for (uint32_t i = 0; i < n_known; i++)
		note_acked(d, durable[i]);
	d->n_live = n_live;
	note_enough(d, &o);
	judge_all(d, &o);
	mutex_unlock(&d->lock);
	deliver(d, &o);
}

/* A request whose level is from before `generation`. */
static bool find_outdated(struct durability *d, uint64_t generation, uint64_t *ret_ino)
{
	struct request *q;

	mutex_lock(&d->lock);
	for (q = d->first; q && q->generation >= generation; q = q->next)
		;
	if (q)
		*ret_ino = q->ino;
	mutex_unlock(&d->lock);
	return q;
}

/* All requests of `ino`; an inode whose policy cannot be read keeps what it had. */
static void update(struct durability *d, uint64_t ino, uint64_t generation, const struct durability_level *level)
{
	mutex_lock(&d->lock);
	for (struct request *q = d->first; q; q = q->next) {
		if (q->ino != ino || q->generation >= generation)
			continue;
		q->generation = generation;
		if (level)
			q->level = *level;
	}
	mutex_unlock(&d->lock);
}

/* As judge_all(), when fewer followers may be asked for than before. */
static void judge_again(struct durability *d, struct outcome *o) REQUIRES(d->lock)
{
	int64_t since_ns = d->short_since_ns;
	bool was_short = d->short_of > 0;

	d->short_of = 0;
	judge_all(d, o);
	if (was_short && d->short_of > 0) { /* nothing new */
		d->short_since_ns = since_ns;
		o->began = (struct durability_level){0};
	} else if (was_short) {
		o->ended = "the policy was changed, and nobody waits for followers now";
	}
}

bool durability_interrupt(struct fs *fs, const struct journal_waiter *w)
{
	struct durability *d = fs->durability;
	struct request *q, **at;

	mutex_lock(&d->lock);
	for (at = &d->first; *at && (*at)->waiter != w; at = &(*at)->next)
		;
	q = *at;
	if (q)
		q->interrupted = true;
	bool waited = q && q->committed;
	if (waited) {
		*at = q->next;
		if (d->end == &q->next)
			d->end = at;
		free(q);
		d->n_open--;
		cond_broadcast(&d->answered);
	}
	mutex_unlock(&d->lock);
	return waited;
}

void durability_policy_changed(struct fs *fs)
{
	struct durability *d = fs->durability;
	uint64_t generation = atomic_fetch_add(&d->generation, 1) + 1, ino;
	struct durability_level level;
	struct outcome o = {0};

	while (find_outdated(d, generation, &ino))
		update(d, ino, generation, level_of(fs, ino, &level) == 0 ? &level : NULL);
	mutex_lock(&d->lock);
	judge_again(d, &o);
	mutex_unlock(&d->lock);
	deliver(d, &o);
}

/* ---- life ---- */

int durability_open(struct fs *fs)
{
	struct durability *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	mutex_init(&d->lock);
	cond_init(&d->answered);
	d->end = &d->first;
	atomic_init(&d->follows, atomic_load(&fs->role) == ROLE_FOLLOWER);
	fs->durability = d;
	return 0;
}

void durability_close(struct fs *fs)
{
	struct durability *d = fs->durability;

	if (!d)
		return;
	assert(!d->first);
	cond_destroy(&d->answered);
	mutex_destroy(&d->lock);
	free(d);
	fs->durability = NULL;
}

void durability_role(struct fs *fs, enum replica_role role)
{
	struct durability *d = fs->durability;
	struct outcome o = {0};

	if (role == ROLE_LEADER)
		atomic_store(&d->follows, false);
	if (atomic_load(&d->follows))
		return;
	mutex_lock(&d->lock);
	d->led = role == ROLE_FOLLOWER;
	memset(d->acked, 0, sizeof(d->acked));
	d->n_live = d->short_of = 0;
	judge_all(d, &o);
	mutex_unlock(&d->lock);
	deliver(d, &o);
}

void durability_failed(struct fs *fs)
{
	struct durability *d = fs->durability;
	struct outcome o = {0};

	if (!d) /* it may fail before it is open */
		return;
	mutex_lock(&d->lock);
	judge_all(d, &o);
	mutex_unlock(&d->lock);
	deliver(d, &o);
}

void durability_end_waits(struct fs *fs)
{
	struct durability *d = fs->durability;
	struct outcome o = {0};

	mutex_lock(&d->lock);
	d->ending++;
	judge_all(d, &o);
	mutex_unlock(&d->lock);
	deliver(d, &o);
	mutex_lock(&d->lock);
	while (d->n_open > 0) /* being committed, or told by another thread */
		cond_wait(&d->answered, &d->lock);
	d->ending--;
	mutex_unlock(&d->lock);
}

static void waiting_now(const struct durability *d, int64_t now_ns, struct durability_status *ret) REQUIRES(d->lock)
{
	for (const struct request *q = d->first; q; q = q->next) {
		if (!q->committed)
			continue;
		ret->waiting++;
		if (now_ns - q->since_ns > ret->longest_wait_ns)
			ret->longest_wait_ns = now_ns - q->since_ns;
	}
}

void durability_get_status(struct fs *fs, struct durability_status *ret)
{
	struct durability *d = fs->durability;

	*ret = (struct durability_status){0};
	if (fs_get_policy(fs, FS_ROOT_INO, "durability", true, ret->level) < 0)
		strcpy(ret->level, "local");
	mutex_lock(&d->lock);
	waiting_now(d, clock_mono_ns(fs->clock), ret);
	ret->short_since_ns = d->short_of ? d->short_since_ns : 0;
	ret->fallbacks = d->fallbacks;
	ret->last_fallback_ns = d->last_fallback_ns;
	mutex_unlock(&d->lock);
}
