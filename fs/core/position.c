/*
 * position.c: waits until this node shows a batch: reading here what was written on another machine.  And until a batch is
 * settled, durable and shown: for who follows the change feed.
 *
 * A wait is in the list before the position is looked at, and the position has moved before the list is looked at, so one of
 * the two sees the other.  Waits end when the position is there, when their time is over (a thread of their own, asleep until
 * the next one's is), or when the volume ends.  They are answered without the lock.
 */
#include <assert.h>
#include <errno.h>
#include <stdatomic.h>

#include "fs/core/core.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/tier/tier.h"

#define IDLE_NS (3600 * NSEC_PER_SEC) /* nobody waits */

struct wait {
	struct wait *next;
	struct journal_waiter *waiter;
	uint64_t seq;
	bool settled;        /* it waits for position_settled() */
	int64_t deadline_ns; /* mono */
	int result;
};

struct positions {
	struct fs *fs;
	struct mutex lock;
	struct wait *first; /* guarded by lock */
	uint32_t ending;    /* guarded by lock: calls of fs_end_waits() */
	/* In the list, by what they wait for; they grow before the position is looked at. */
	_Atomic uint64_t n_shown, n_settled;
};

static _Atomic uint64_t *counter(struct positions *p, const struct wait *w)
{
	return w->settled ? &p->n_settled : &p->n_shown;
}

static bool somebody_waits(const struct positions *p)
{
	return atomic_load(&p->n_shown) + atomic_load(&p->n_settled) > 0;
}

/* Takes out those that `shown`, `settled`, `now_ns` or the end of the volume ends. */
static struct wait *take_ended(struct positions *p, uint64_t shown, uint64_t settled, int64_t now_ns) REQUIRES(p->lock)
{
	struct wait *taken = NULL, **end = &taken, **at = &p->first;
	bool over = p->ending || atomic_load(&p->fs->failed);

	while (*at) {
		struct wait *w = *at;
		uint64_t pos = w->settled ? settled : shown;

		if (w->seq > pos && w->deadline_ns > now_ns && !over) {
			at = &w->next;
			continue;
		}
		w->result = w->seq <= pos ? 0 : over ? -EIO : -ETIMEDOUT;
		*at = w->next;
		*end = w;
		end = &w->next;
		atomic_fetch_sub(counter(p, w), 1);
	}
	*end = NULL;
	return taken;
}

static void tell(struct wait *w)
{
	for (struct wait *next; w; w = next) {
		next = w->next;
		w->waiter->done(w->waiter, w->result);
		free(w);
	}
}

/*
 * The newest batch that can be read here.  A follower that has heard of an epoch and has nothing of it yet may hold batches that
 * its leader does not: their numbers say nothing until it has followed.
 */
static uint64_t position_shown(struct fs *fs)
{
	struct replica_point here;

	if (fs_role(fs) == ROLE_LEADER)
		return fs_pos(fs);
	fs_replica(fs)->ops->get_point(fs_replica(fs), &here);
	return fs_readable(fs) < 0 || here.history < here.promised ? 0 : fs_pos(fs);
}

/* A leader shows what it logs; what it logged and is durable cannot be taken back any more. */
uint64_t position_settled(struct fs *fs)
{
	struct journal_status js;

	journal_get_status(fs->journal, &js);
	return fs_role(fs) == ROLE_LEADER ? js.durable_seq : min_u64(js.durable_seq, position_shown(fs));
}

static void look(struct positions *p) EXCLUDES(p->lock)
{
	uint64_t shown = position_shown(p->fs), settled = position_settled(p->fs);
	int64_t now_ns = clock_mono_ns(p->fs->clock);

	mutex_lock(&p->lock);
	struct wait *ended = take_ended(p, shown, settled, now_ns);
	mutex_unlock(&p->lock);
	tell(ended);
}

void positions_reached(struct fs *fs)
{
	struct positions *p = fs->positions;

	if (!p)
		return;
	/* What a leader logs is not durable yet: positions_durable() follows. */
	bool settles = atomic_load(&p->n_settled) > 0 && (fs_role(fs) == ROLE_FOLLOWER || atomic_load(&fs->failed));
	if (settles || atomic_load(&p->n_shown) > 0)
		look(p);
}

void positions_durable(struct fs *fs)
{
	if (fs->positions && atomic_load(&fs->positions->n_settled) > 0)
		look(fs->positions);
}

static void begin_wait(struct fs *fs, uint64_t seq, bool settled, int64_t timeout_ns, struct journal_waiter *w)
{
	struct positions *p = fs->positions;
	struct wait *wait = malloc(sizeof(*wait));

	if (!wait) {
		w->done(w, -ENOMEM);
		return;
	}
	if (fs->config.read_only) /* nothing moves */
		timeout_ns = 0;
	*wait = (struct wait){.waiter = w, .seq = seq, .settled = settled, .deadline_ns = clock_mono_ns(fs->clock) + timeout_ns};
	mutex_lock(&p->lock);
	wait->next = p->first;
	p->first = wait;
	atomic_fetch_add(counter(p, wait), 1);
	mutex_unlock(&p->lock);
	look(p);
	if (fs->services_started && somebody_waits(p))
		service_wake(&fs->position_timer);
}

void fs_wait_pos_async(struct fs *fs, uint64_t seq, int64_t timeout_ns, struct journal_waiter *w)
{
	begin_wait(fs, seq, false, timeout_ns, w);
}

void fs_wait_settled_async(struct fs *fs, uint64_t seq, int64_t timeout_ns, struct journal_waiter *w)
{
	begin_wait(fs, seq, true, timeout_ns, w);
}

/* A wait that is over is being told, and not in the list. */
static bool give_up(struct positions *p, const struct journal_waiter *w)
{
	struct wait *found, **at;

	mutex_lock(&p->lock);
	for (at = &p->first; *at && (*at)->waiter != w; at = &(*at)->next)
		;
	found = *at;
	if (found) {
		*at = found->next;
		atomic_fetch_sub(counter(p, found), 1);
	}
	mutex_unlock(&p->lock);
	free(found);
	return found;
}

bool fs_interrupt(struct fs *fs, const struct journal_waiter *w)
{
	return durability_interrupt(fs, w) || give_up(fs->positions, w);
}

void fs_wait_step(struct fs *fs, int64_t *ret_next_ns)
{
	struct positions *p = fs->positions;
	int64_t now_ns = clock_mono_ns(fs->clock), next_ns = IDLE_NS;

	look(p);
	mutex_lock(&p->lock);
	for (const struct wait *w = p->first; w; w = w->next)
		if (w->deadline_ns - now_ns < next_ns)
			next_ns = w->deadline_ns - now_ns;
	mutex_unlock(&p->lock);
	*ret_next_ns = next_ns > 0 ? next_ns : 0;
}

void position_step(struct fs *fs, struct service *s)
{
	fs_wait_step(fs, &s->interval_ns);
}

int positions_open(struct fs *fs)
{
	struct positions *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->fs = fs;
	mutex_init(&p->lock);
	fs->positions = p;
	return 0;
}

void positions_close(struct fs *fs)
{
	struct positions *p = fs->positions;

	if (!p)
		return;
	assert(!p->first);
	mutex_destroy(&p->lock);
	free(p);
	fs->positions = NULL;
}

void fs_end_waits(struct fs *fs)
{
	struct positions *p = fs->positions;

	durability_end_waits(fs);
	parked_end_waits(fs);
	recall_end_waits(fs);
	mutex_lock(&p->lock);
	p->ending++;
	mutex_unlock(&p->lock);
	look(p);
	mutex_lock(&p->lock);
	p->ending--;
	mutex_unlock(&p->lock);
}
