/*
 * lock.h: mutex, condition and writer-preferring rwlock with clang's thread-safety annotations.
 *
 * Threads: that is what it is for.  Errors: a failing pthread call is a bug of the caller and aborts.
 * The rwlock prefers writers: glibc's default kind starved the gate's writer for ever on two cores.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#if defined(__clang__)
#define THREAD_ATTR(x) __attribute__((x))
#else
#define THREAD_ATTR(x)
#endif
#define CAPABILITY(x) THREAD_ATTR(capability(x))
#define REQUIRES(...) THREAD_ATTR(requires_capability(__VA_ARGS__))
#define REQUIRES_SHARED(...) THREAD_ATTR(requires_shared_capability(__VA_ARGS__))
#define ACQUIRES(...) THREAD_ATTR(acquire_capability(__VA_ARGS__))
#define ACQUIRES_SHARED(...) THREAD_ATTR(acquire_shared_capability(__VA_ARGS__))
#define RELEASES(...) THREAD_ATTR(release_capability(__VA_ARGS__))
#define RELEASES_SHARED(...) THREAD_ATTR(release_shared_capability(__VA_ARGS__))
#define EXCLUDES(...) THREAD_ATTR(locks_excluded(__VA_ARGS__))
#define NO_THREAD_SAFETY THREAD_ATTR(no_thread_safety_analysis)

struct CAPABILITY("mutex") mutex {
	pthread_mutex_t m;
};
struct cond {
	pthread_cond_t c; /* CLOCK_MONOTONIC */
};
struct CAPABILITY("rwlock") rwlock {
	pthread_rwlock_t rw;
};

void mutex_init(struct mutex *m);
void mutex_destroy(struct mutex *m);
void mutex_lock(struct mutex *m) ACQUIRES(m);
void mutex_unlock(struct mutex *m) RELEASES(m);

void cond_init(struct cond *c);
void cond_destroy(struct cond *c);
void cond_signal(struct cond *c);
void cond_broadcast(struct cond *c);
void cond_wait(struct cond *c, struct mutex *m) REQUIRES(m);
/* Waits at most timeout_ns; true when woken, false on timeout.  Either may be spurious: re-check. */
bool cond_wait_ns(struct cond *c, struct mutex *m, int64_t timeout_ns) REQUIRES(m);

void rwlock_init(struct rwlock *l);
void rwlock_destroy(struct rwlock *l);
void rwlock_rdlock(struct rwlock *l) ACQUIRES_SHARED(l);
void rwlock_rdunlock(struct rwlock *l) RELEASES_SHARED(l);
void rwlock_wrlock(struct rwlock *l) ACQUIRES(l);
void rwlock_wrunlock(struct rwlock *l) RELEASES(l);
