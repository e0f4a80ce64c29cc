/*
 * thread.h: threads of replication: named, and without signals, which are for the threads of the filesystem.
 *
 * Ownership: the caller joins or detaches.  Threads: any.  Errors: -EAGAIN, -EPERM of pthread_create().
 */
#pragma once

#include <pthread.h>
#include <signal.h>

#include "base/util.h"

/* `name` is cut at 15 characters. */
static inline MUST_CHECK int thread_start(pthread_t *ret, const char *name, void *(*run)(void *), void *ctx)
{
	sigset_t all, before;
	char cut[16] = "";

	sigfillset(&all);
	for (size_t i = 0; i < sizeof(cut) - 1 && name[i]; i++)
		cut[i] = name[i];
	pthread_sigmask(SIG_SETMASK, &all, &before); /* a new thread has the mask of the one that makes it */
	int r = -pthread_create(ret, NULL, run, ctx);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r == 0)
		pthread_setname_np(*ret, cut);
	return r;
}
