/* lock.c: see lock.h. */
#include "base/lock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void check(int error, const char *what)
{
	if (error) {
		fprintf(stderr, "clawfs: %s: %s\n", what, strerror(error));
		abort();
	}
}

void mutex_init(struct mutex *m)
{
	check(pthread_mutex_init(&m->m, NULL), "mutex_init");
}
void mutex_destroy(struct mutex *m)
{
	check(pthread_mutex_destroy(&m->m), "mutex_destroy");
}
void mutex_lock(struct mutex *m) NO_THREAD_SAFETY
{
	check(pthread_mutex_lock(&m->m), "mutex_lock");
}
void mutex_unlock(struct mutex *m) NO_THREAD_SAFETY
{
	check(pthread_mutex_unlock(&m->m), "mutex_unlock");
}

void cond_init(struct cond *c)
{
	pthread_condattr_t attr;

	check(pthread_condattr_init(&attr), "condattr_init");
	check(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC), "condattr_setclock");
	check(pthread_cond_init(&c->c, &attr), "cond_init");
	pthread_condattr_destroy(&attr);
}

void cond_destroy(struct cond *c)
{
	check(pthread_cond_destroy(&c->c), "cond_destroy");
}
void cond_signal(struct cond *c)
{
	check(pthread_cond_signal(&c->c), "cond_signal");
}
void cond_broadcast(struct cond *c)
{
	check(pthread_cond_broadcast(&c->c), "cond_broadcast");
}
void cond_wait(struct cond *c, struct mutex *m)
{
	check(pthread_cond_wait(&c->c, &m->m), "cond_wait");
}

bool cond_wait_ns(struct cond *c, struct mutex *m, int64_t timeout_ns)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	int64_t ns = ts.tv_nsec + timeout_ns % 1000000000;
	ts.tv_sec += timeout_ns / 1000000000 + ns / 1000000000;
	ts.tv_nsec = ns % 1000000000;
	int r = pthread_cond_timedwait(&c->c, &m->m, &ts);
	if (r == ETIMEDOUT)
		return false;
	check(r, "cond_timedwait");
	return true;
}

void rwlock_init(struct rwlock *l)
{
	pthread_rwlockattr_t attr;

	check(pthread_rwlockattr_init(&attr), "rwlockattr_init");
	check(pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP), "rwlockattr_setkind");
	check(pthread_rwlock_init(&l->rw, &attr), "rwlock_init");
	pthread_rwlockattr_destroy(&attr);
}

void rwlock_destroy(struct rwlock *l)
{
	check(pthread_rwlock_destroy(&l->rw), "rwlock_destroy");
}
void rwlock_rdlock(struct rwlock *l) NO_THREAD_SAFETY
{
	check(pthread_rwlock_rdlock(&l->rw), "rwlock_rdlock");
}
void rwlock_rdunlock(struct rwlock *l) NO_THREAD_SAFETY
{
	check(pthread_rwlock_unlock(&l->rw), "rwlock_unlock");
}
void rwlock_wrlock(struct rwlock *l) NO_THREAD_SAFETY
{
	check(pthread_rwlock_wrlock(&l->rw), "rwlock_wrlock");
}
void rwlock_wrunlock(struct rwlock *l) NO_THREAD_SAFETY
{
	check(pthread_rwlock_unlock(&l->rw), "rwlock_unlock");
}
