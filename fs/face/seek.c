/*
 * seek.c: SEEK_DATA and SEEK_HOLE in files with unwritten pages.
 *
 * With the writeback cache the kernel passes LSEEK on without writing the file's dirty pages first (Linux 6.18), so the
 * answer would miss data: cp would take a file just written for a hole.  The daemon therefore asks the kernel to
 * invalidate the file's cache before it looks, which writes dirty pages as ordinary WRITE requests.  That call returns
 * when these were answered, so no worker may make it: one thread, the seeker, takes LSEEK requests over from the workers,
 * makes the call with no lock held, and replies.  Clean pages go too and are read again; programs that seek for data
 * are about to read the file once.
 *
 * States of a request: queued by a worker -> taken by the seeker -> replied to.  The seeker is stopped while the workers
 * still serve, or once the connection is over, so that its call returns; it empties the queue first, and what comes later is
 * answered by the worker at once.
 */
#include "fs/face/face_internal.h"

#include <errno.h>
#include <signal.h>

#include "base/lock.h"

struct seek {
	struct seek *next;
	fuse_req_t req;
	fuse_ino_t ino;
	uint64_t off;
	int whence;
};

struct seeker {
	struct fuse_session *session;
	pthread_t thread;
	struct mutex lock;
	struct cond wake;
	struct seek *first, **last; /* guarded by lock */
	bool stop;                  /* guarded by lock */
};

static void answer(fuse_req_t req, fuse_ino_t ino, uint64_t off, int whence)
{
	uint64_t found = 0;
	int r = fs_lseek(request_fs(req), ino, off, whence, &found);

	if (r < 0)
		reply_err(req, r);
	else
		(void)fuse_reply_lseek(req, (off_t)found);
}

/* The next request, or NULL at the end. */
static struct seek *seeker_take(struct seeker *s)
{
	mutex_lock(&s->lock);
	while (!s->first && !s->stop)
		cond_wait(&s->wake, &s->lock);
	struct seek *k = s->first;

	if (k) {
		s->first = k->next;
		if (!s->first)
			s->last = &s->first;
	}
	mutex_unlock(&s->lock);
	return k;
}

static void *seeker_main(void *arg)
{
	struct seeker *s = arg;
	struct seek *k;

	while ((k = seeker_take(s))) {
		/* From the page of `off` on; fails when the kernel no longer knows the inode: then nothing is dirty. */
		(void)fuse_lowlevel_notify_inval_inode(s->session, k->ino, (off_t)k->off, 0);
		answer(k->req, k->ino, k->off, k->whence);
		free(k);
	}
	return NULL;
}

int seeker_start(struct fuse_session *session, struct seeker **ret_seeker)
{
	struct seeker *s = calloc(1, sizeof(*s));
	sigset_t all, before;

	if (!s)
		return -ENOMEM;
	s->session = session;
	s->last = &s->first;
	mutex_init(&s->lock);
	cond_init(&s->wake);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = pthread_create(&s->thread, NULL, seeker_main, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r) {
		cond_destroy(&s->wake);
		mutex_destroy(&s->lock);
		free(s);
		return -r;
	}
	*ret_seeker = s;
	return 0;
}

void seeker_stop(struct seeker *s)
{
	mutex_lock(&s->lock);
	s->stop = true;
	cond_signal(&s->wake);
	mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
}

struct seeker *seeker_free(struct seeker *s)
{
	if (!s)
		return NULL;
	cond_destroy(&s->wake);
	mutex_destroy(&s->lock);
	free(s);
	return NULL;
}

/* False when it takes no more. */
static bool seeker_give(struct seeker *s, struct seek *k)
{
	mutex_lock(&s->lock);
	bool taken = !s->stop;

	if (taken) {
		*s->last = k;
		s->last = &k->next;
		cond_signal(&s->wake);
	}
	mutex_unlock(&s->lock);
	return taken;
}

void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct face *f = request_face(req);

	(void)fi;
	if (!f->writeback) {
		answer(req, ino, (uint64_t)off, whence);
		return;
	}
	struct seek *k = malloc(sizeof(*k));
	if (!k) {
		reply_err(req, -ENOMEM);
		return;
	}
	*k = (struct seek){.req = req, .ino = ino, .off = (uint64_t)off, .whence = whence};
	if (!seeker_give(f->seeker, k)) {
		free(k);
		answer(req, ino, (uint64_t)off, whence);
	}
}
