/*
 * thread.c: the threads that get things, started when there is something to get.
 *
 * What a thread does next, in this order: a range that somebody waits for; the next leaves of a file that is read in order; a
 * range that is read ahead; homes for what was read.  Whoever finds that there is more wakes the next one, so as many work as
 * there is work for. They stay once they were started, and hold nothing while they sleep.
 */
#include <errno.h>
#include <signal.h>

#include "fs/core/tier/recall/impl.h"

#define THREAD_STACK (512 * KIB)

/* True when something was done, which took the lock away. */
static bool do_next(struct recall *rc, int64_t *ret_wait_ns) REQUIRES(rc->lock)
{
	int64_t now_ns = clock_mono_ns(rc->fs->clock);
	struct stream *s;
	struct fetch f;

	*ret_wait_ns = INT64_MAX;
	bool fetch = fetch_take(rc, false, &f, now_ns, ret_wait_ns);
	if (!fetch && (s = stream_due(rc))) {
		stream_plan(rc, s);
		return true;
	}
	if (!fetch)
		fetch = fetch_take(rc, true, &f, now_ns, ret_wait_ns);
	if (fetch) {
		threads_wake(rc); /* for what else there is */
		mutex_unlock(&rc->lock);
		fetch_run(rc, &f);
		mutex_lock(&rc->lock);
		return true;
	}
	if (!keep_is_due(rc, now_ns, ret_wait_ns))
		return false;
	keep_run(rc);
	return true;
}

static void *thread_main(void *arg)
{
	struct recall *rc = arg;
	int64_t wait_ns;

	pthread_setname_np(pthread_self(), "recall");
	mutex_lock(&rc->lock);
	while (!atomic_load(&rc->stop)) {
		if (do_next(rc, &wait_ns))
			continue;
		rc->n_idle++;
		if (wait_ns == INT64_MAX)
			cond_wait(&rc->wake, &rc->lock);
		else
			cond_wait_ns(&rc->wake, &rc->lock, wait_ns);
		rc->n_idle--;
	}
	mutex_unlock(&rc->lock);
	return NULL;
}

static int start_thread(struct recall *rc) REQUIRES(rc->lock)
{
	sigset_t all, before;
	pthread_attr_t attr;
	int r = pthread_attr_init(&attr);

	if (!rc->keep)
		rc->keep = calloc(KEEP_JOBS, sizeof(*rc->keep)); /* without it nothing is kept */
	if (r)
		return -r;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_attr_setstacksize(&attr, THREAD_STACK);
	if (r == 0)
		r = pthread_create(&rc->thread[rc->n_threads], &attr, thread_main, rc);
	rc->n_threads += r == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return -r;
}

int threads_wake(struct recall *rc)
{
	int r = 0;

	if (rc->fs->config.no_threads || atomic_load(&rc->stop))
		return 0;
	if (rc->n_idle == 0 && rc->n_threads < FETCH_THREADS)
		r = start_thread(rc);
	cond_signal(&rc->wake);
	return rc->n_threads ? 0 : r;
}

void threads_stop(struct recall *rc)
{
	mutex_lock(&rc->lock);
	atomic_store(&rc->stop, true);
	cond_broadcast(&rc->wake);
	cond_broadcast(&rc->told);
	uint32_t n = rc->n_threads;
	mutex_unlock(&rc->lock);
	for (uint32_t i = 0; i < n; i++)
		pthread_join(rc->thread[i], NULL);
}

void recall_step(struct recall *rc)
{
	int64_t wait_ns;
	struct fetch f;

	mutex_lock(&rc->lock);
	while (fetch_take(rc, false, &f, clock_mono_ns(rc->fs->clock), &wait_ns)) {
		mutex_unlock(&rc->lock);
		fetch_run(rc, &f);
		mutex_lock(&rc->lock);
	}
	mutex_unlock(&rc->lock);
}
