/*
 * parked.c: reads that came upon damage and wait, bounded, for it to be repaired: guarantee G9.
 *
 * It is the wait of a cold file: the operation ends with -EINPROGRESS, having changed nothing, its request is kept without a
 * worker, and is served again when the answer is there (fs/face/deferred.c).  A thread, started when first needed, repairs the
 * blocks that were noted, one after the other; how long that takes is for the sources to bound.  The answer is always "again":
 * where no source had the data the block counts as tried for a while, and then a read of it is EIO at once.
 *
 * Nobody waits where nobody could have the data, nor on a volume without threads that has no peers.
 */
#include <errno.h>
#include <pthread.h>

#include "fs/core/scrub/impl.h"
#include "fs/core/tier/tier.h"

struct waiting {
	struct waiting *next;
	struct journal_waiter *w; /* NULL: nobody waits any more */
	struct tier_miss miss;
	bool later; /* counts in n_later */
};
#define LATER_MAX 256u
struct parked {
	struct fs *fs;
	struct mutex lock;
	struct cond wake, told;
	/* guarded by lock */
	struct waiting *first, **last;
	struct waiting *current; /* being repaired for */
	pthread_t thread;
	bool has_thread, stop;
	uint32_t ending; /* calls of fs_end_waits(): nobody waits, -EIO */
	uint32_t n_telling;
	uint32_t n_later;
};

bool parked_missed(struct fs *fs, uint64_t ino, uint64_t block)
{
	if (!fs->parked || fs->config.read_only || atomic_load(&fs->failed) || atomic_load(&fs->closing) || fs_readable(fs) ||
	    damage_tried_lately(fs, ino, block) || !repair_has_source(fs))
		return false;
	tier_missed_bad(ino, block);
	return true;
}

static void repair_all(struct fs *fs, const struct tier_miss *m)
{
	for (uint32_t i = 0; i < m->n_bad; i++)
		if (!damage_tried_lately(fs, m->bad_ino, m->bad[i]) && repair_block(fs, m->bad_ino, m->bad[i]) < 0 &&
		    atomic_load(&fs->closing))
			return;
}

/* ---- the thread ---- */

static struct waiting *take_first(struct parked *p) REQUIRES(p->lock)
{
	struct waiting *q = p->first;

	p->first = q->next;
	if (!p->first)
		p->last = &p->first;
	return q;
}

static void tell(struct parked *p, struct waiting *q, int result) REQUIRES(p->lock)
{
	struct journal_waiter *w = q->w;

	p->n_telling++;
	p->n_later -= q->later;
	mutex_unlock(&p->lock);
	free(q);
	if (w)
		w->done(w, result);
	mutex_lock(&p->lock);
	p->n_telling--;
	cond_broadcast(&p->told);
}

static void *parked_main(void *arg)
{
	struct parked *p = arg;

	pthread_setname_np(pthread_self(), "repair");
	mutex_lock(&p->lock);
	while (!p->stop) {
		if (!p->first) {
			cond_wait(&p->wake, &p->lock);
			continue;
		}
		struct waiting *q = p->current = take_first(p);
		mutex_unlock(&p->lock);
		repair_all(p->fs, &q->miss);
		mutex_lock(&p->lock);
		p->current = NULL;
		tell(p, q, p->ending || p->stop ? -EIO : 0);
	}
	mutex_unlock(&p->lock);
	return NULL;
}

static int enlist(struct parked *p, struct waiting *q) REQUIRES(p->lock)
{
	if (p->stop || p->ending)
		return -EIO;
	if (!p->has_thread) {
		int r = -pthread_create(&p->thread, NULL, parked_main, p);

		if (r < 0)
			return r;
		p->has_thread = true;
	}
	*p->last = q;
	p->last = &q->next;
	cond_signal(&p->wake);
	return 0;
}

void parked_later(struct fs *fs, uint64_t ino, uint64_t block)
{
	struct parked *p = fs->parked;

	if (!p || fs->config.no_threads || fs->config.read_only || atomic_load(&fs->failed) ||
	    damage_tried_lately(fs, ino, block))
		return;
	struct waiting *q = calloc(1, sizeof(*q));
	if (!q)
		return;
	q->miss.bad_ino = ino;
	q->miss.n_bad = 1;
	q->miss.bad[0] = block;
	mutex_lock(&p->lock);
	bool room = p->n_later < LATER_MAX && enlist(p, q) == 0;
	p->n_later += room;
	q->later = room;
	mutex_unlock(&p->lock);
	if (!room)
		free(q);
}

void parked_wait(struct fs *fs, const struct tier_miss *m, struct journal_waiter *w)
{
	struct parked *p = fs->parked;

	if (fs->config.no_threads) {
		repair_all(fs, m);
		w->done(w, 0);
		return;
	}
	struct waiting *q = malloc(sizeof(*q));
	if (!q) {
		w->done(w, -ENOMEM);
		return;
	}
	*q = (struct waiting){.w = w, .miss = *m};
	mutex_lock(&p->lock);
	int r = enlist(p, q);
	mutex_unlock(&p->lock);
	if (r < 0) {
		free(q);
		w->done(w, r);
	}
}

/* ---- ends ---- */

/* Out of the list, but for the one that is being worked for, who is not told any more. */
static struct waiting *take_waiter(struct parked *p, const struct journal_waiter *w, bool *ret_current) REQUIRES(p->lock)
{
	struct waiting **at = &p->first;

	*ret_current = p->current && p->current->w == w;
	if (*ret_current)
		return p->current;
	while (*at && (*at)->w != w)
		at = &(*at)->next;
	struct waiting *q = *at;
	if (!q)
		return NULL;
	*at = q->next;
	if (!q->next)
		p->last = at;
	return q;
}

void parked_cancel(struct fs *fs, const struct journal_waiter *w)
{
	struct parked *p = fs->parked;
	bool current;

	if (!p)
		return;
	mutex_lock(&p->lock);
	struct waiting *q = take_waiter(p, w, &current);
	struct journal_waiter *told = q ? q->w : NULL;
	if (current)
		q->w = NULL;
	mutex_unlock(&p->lock);
	if (!current)
		free(q);
	if (told)
		told->done(told, -EINTR);
}

void parked_end_waits(struct fs *fs)
{
	struct parked *p = fs->parked;

	if (!p)
		return;
	mutex_lock(&p->lock);
	p->ending++;
	while (p->first)
		tell(p, take_first(p), -EIO);
	struct journal_waiter *w = p->current ? p->current->w : NULL;
	if (p->current)
		p->current->w = NULL;
	mutex_unlock(&p->lock);
	if (w)
		w->done(w, -EIO);
	mutex_lock(&p->lock);
	while (p->n_telling > 0) /* by another thread */
		cond_wait(&p->told, &p->lock);
	p->ending--;
	mutex_unlock(&p->lock);
}

/* ---- life ---- */

int parked_open(struct fs *fs)
{
	struct parked *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->fs = fs;
	mutex_init(&p->lock);
	cond_init(&p->wake);
	cond_init(&p->told);
	mutex_lock(&p->lock);
	p->last = &p->first;
	mutex_unlock(&p->lock);
	fs->parked = p;
	return 0;
}

void parked_shut(struct fs *fs)
{
	struct parked *p = fs->parked;

	if (!p)
		return;
	parked_end_waits(fs);
	mutex_lock(&p->lock);
	p->stop = true;
	cond_signal(&p->wake);
	bool has_thread = p->has_thread;
	p->has_thread = false;
	mutex_unlock(&p->lock);
	if (has_thread)
		pthread_join(p->thread, NULL);
	parked_end_waits(fs); /* of those who came in between */
}

void parked_close(struct fs *fs)
{
	struct parked *p = fs->parked;

	if (!p)
		return;
	cond_destroy(&p->told);
	cond_destroy(&p->wake);
	mutex_destroy(&p->lock);
	free(p);
	fs->parked = NULL;
}
