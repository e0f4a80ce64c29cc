/*
 * deferred.c: requests that wait for data in an object store, which may take long, without holding a worker meanwhile.
 *
 * An operation that comes upon cold data returns -EINPROGRESS and has changed nothing.  request_deferred() defers
 * the request then: its bytes are kept, libfuse's side of it is freed without an answer, and the volume is asked for the data
 * (fs_recall_async).  Once that is in memory the bytes are served again from the start, by one of a few lanes: threads with the
 * buffers of a worker.  It may be deferred again, for other data; what was fetched for it stays in memory until it was answered.
 *
 * States: waiting -> ready -> running -> answered, or waiting again.  An error of the recall answers from whichever thread brings
 * it.
 *
 * Bounded: DEFERRED_MAX requests, DEFERRED_BYTES of them.  Beyond that workers wait for a place: then hot data waits too, rather
 * than a reader of cold data being told an error that is none.
 *
 * Signals: the kernel tells of the first one that its caller gets, and waits for an answer whatever comes later.  Only a caller
 * that is about to die is answered before its data is here (EINTR), as of other filesystems on a disk; so after the first signal
 * the caller is looked at once a second.
 *
 * The end: deferrals_shut() lets workers go, deferrals_stop() ends the lanes, and fs_end_waits() answers what is still waiting.
 */
#include "fs/face/face_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/lock.h"

#define DEFERRED_MAX   1024u
#define DEFERRED_BYTES (32 * MIB)
#define LOOK_NS        NSEC_PER_SEC /* at callers that got a signal */

enum deferred_state { DEFERRED_WAITING, DEFERRED_READY, DEFERRED_RUNNING, DEFERRED_ANSWERED };

struct deferred {
	struct deferred *next, **at; /* among all; guarded by lock */
	struct deferred *next_ready; /* guarded by lock */
	struct deferrals *deferrals;
	struct journal_waiter waiter;
	enum deferred_state state; /* guarded by lock */
	bool interrupted;          /* guarded by lock */
	int64_t looked_ns;         /* at its caller, last; guarded by lock */
	unsigned looks;            /* threads about to cancel it; guarded by lock */
	size_t len;
	uint8_t request[]; /* as it was received */
};
struct lane {
	struct deferrals *deferrals;
	struct worker worker;
	pthread_t thread;
	bool started;
};
struct deferrals {
	struct face *face;
	struct mutex lock;
	struct cond wake, room;
	/* guarded by lock */
	struct deferred *all, *ready, **last_ready;
	uint32_t n, n_interrupted;
	uint64_t bytes;
	int64_t looked_ns;
	bool shut, stop, started;
	struct lane lane[FACE_LANES]; /* set up by the first request that is deferred */
};

/* What this lane is serving; NULL in a worker, and once it was deferred again. */
static _Thread_local struct deferred *serving;

static const struct fuse_in_header *header_of(const struct deferred *p)
{
	return (const struct fuse_in_header *)(const void *)p->request;
}

/* ---- the list ---- */

static void insert(struct deferrals *ds, struct deferred *p) REQUIRES(ds->lock)
{
	p->next = ds->all;
	p->at = &ds->all;
	if (p->next)
		p->next->at = &p->next;
	ds->all = p;
	ds->n++;
	ds->bytes += p->len;
}

/* Answered: its place is free.  Whoever looks at it still frees it later. */
static void take_out(struct deferrals *ds, struct deferred *p) EXCLUDES(ds->lock)
{
	fs_recall_end(ds->face->fs, &p->waiter);
	mutex_lock(&ds->lock);
	*p->at = p->next;
	if (p->next)
		p->next->at = p->at;
	ds->n--;
	ds->bytes -= p->len;
	ds->n_interrupted -= p->interrupted;
	p->state = DEFERRED_ANSWERED;
	bool looked_at = p->looks > 0;
	cond_broadcast(&ds->room);
	mutex_unlock(&ds->lock);
	if (!looked_at)
		free(p);
}

static void answer_error(struct deferrals *ds, struct deferred *p, int error)
{
	worker_reply_error(ds->face, header_of(p)->unique, error);
	take_out(ds, p);
}

/* The data is there, or will not come. */
static void recalled(struct journal_waiter *w, int result)
{
	struct deferred *p = container_of(w, struct deferred, waiter);
	struct deferrals *ds = p->deferrals;

	if (result < 0) {
		answer_error(ds, p, errno_for_kernel(result));
		return;
	}
	mutex_lock(&ds->lock);
	bool over = ds->stop;
	if (!over) {
		p->state = DEFERRED_READY;
		p->next_ready = NULL;
		*ds->last_ready = p;
		ds->last_ready = &p->next_ready;
		cond_signal(&ds->wake);
	}
	mutex_unlock(&ds->lock);
	if (over)
		answer_error(ds, p, ENOTCONN);
}

/* ---- callers that die ---- */

/* Whether the thread that asked has been killed: it has SIGKILL pending, as every fatal signal ends up, or is gone. */
static bool is_dying(uint32_t pid)
{
	char path[64], line[128];
	uint64_t pending = 0;

	if (pid == 0) /* of another pid namespace: a signal is all that is known */
		return true;
	snprintf(path, sizeof(path), "/proc/%u/status", pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return errno == ENOENT || errno == ESRCH;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "SigPnd: %" SCNx64, &pending) == 1)
			break;
	fclose(f);
	return pending >> (SIGKILL - 1) & 1;
}

/* Answers `p` with EINTR when its caller is dying.  The lock is given up meanwhile. */
static void look_at(struct deferrals *ds, struct deferred *p) REQUIRES(ds->lock)
{
	p->looks++;
	mutex_unlock(&ds->lock);
	if (is_dying(header_of(p)->pid))
		fs_recall_cancel(ds->face->fs, &p->waiter);
	mutex_lock(&ds->lock);
	if (--p->looks == 0 && p->state == DEFERRED_ANSWERED)
		free(p);
}

/* From now on a lane looks at its caller. */
static void note_interrupt(struct deferrals *ds, struct deferred *p) REQUIRES(ds->lock)
{
	ds->n_interrupted += !p->interrupted;
	p->interrupted = true;
	cond_broadcast(&ds->wake);
}

bool deferrals_interrupt(struct deferrals *ds, uint64_t unique)
{
	struct deferred *p;

	mutex_lock(&ds->lock);
	for (p = ds->all; p && header_of(p)->unique != unique; p = p->next)
		;
	bool ours = p && p->state != DEFERRED_RUNNING; /* then libfuse knows it */
	if (ours) {
		note_interrupt(ds, p);
		look_at(ds, p);
	}
	mutex_unlock(&ds->lock);
	return ours;
}

/* The list may change while one is looked at: it is walked again until all were seen. */
static void look_at_all(struct deferrals *ds, int64_t now_ns) REQUIRES(ds->lock)
{
	struct deferred *p = ds->all;

	ds->looked_ns = now_ns;
	while (p) {
		if (!p->interrupted || p->state != DEFERRED_WAITING || p->looked_ns >= now_ns) {
			p = p->next;
			continue;
		}
		p->looked_ns = now_ns;
		look_at(ds, p);
		p = ds->all;
	}
}

/* ---- lanes ---- */

static void serve_again(struct lane *l, struct deferred *p)
{
	memcpy(l->worker.in, p->request, p->len);
	serving = p;
	worker_serve(&l->worker, p->len);
	if (serving)
		take_out(l->deferrals, p);
	serving = NULL;
}

static struct deferred *take_ready(struct deferrals *ds) REQUIRES(ds->lock)
{
	struct deferred *p = ds->ready;

	if (!p)
		return NULL;
	ds->ready = p->next_ready;
	if (!ds->ready)
		ds->last_ready = &ds->ready;
	p->state = DEFERRED_RUNNING;
	return p;
}

/* Until there is one: NULL at the end. */
static struct deferred *wait_ready(struct deferrals *ds) REQUIRES(ds->lock)
{
	struct deferred *p = NULL;

	while (!ds->stop && !(p = take_ready(ds))) {
		int64_t now_ns = ds->n_interrupted ? clock_mono_ns(&clock_system) : 0;

		if (ds->n_interrupted == 0)
			cond_wait(&ds->wake, &ds->lock);
		else if (now_ns - ds->looked_ns >= LOOK_NS)
			look_at_all(ds, now_ns);
		else
			cond_wait_ns(&ds->wake, &ds->lock, ds->looked_ns + LOOK_NS - now_ns);
	}
	return p;
}

static void *lane_main(void *arg)
{
	struct lane *l = arg;
	struct deferrals *ds = l->deferrals;
	struct deferred *p;

	pthread_setname_np(pthread_self(), "deferred");
	worker_self = &l->worker;
	mutex_lock(&ds->lock);
	while ((p = wait_ready(ds))) {
		mutex_unlock(&ds->lock);
		serve_again(l, p);
		mutex_lock(&ds->lock);
	}
	mutex_unlock(&ds->lock);
	return NULL;
}

static int start_lane(struct deferrals *ds, struct lane *l)
{
	sigset_t all, before;

	l->deferrals = ds;
	l->worker = (struct worker){.face = ds->face, .fd = ds->face->fd, .lane = true};
	int r = worker_make_buffers(&l->worker);
	if (r < 0)
		return r;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = -pthread_create(&l->thread, NULL, lane_main, l);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	l->started = r == 0;
	if (r < 0)
		worker_free_buffers(&l->worker);
	return r;
}

/* One lane is enough to go on with. */
static int start_lanes(struct deferrals *ds) REQUIRES(ds->lock)
{
	int r = 0;

	for (unsigned i = 0; i < FACE_LANES && r == 0; i++)
		r = ds->lane[i].started ? 0 : start_lane(ds, &ds->lane[i]);
	ds->started = r == 0;
	return ds->lane[0].started ? 0 : r;
}

/* ---- deferrals ---- */

/* A place for what this worker serves: -ENOTCONN at the end. */
static int find_place(struct deferrals *ds, struct deferred *p) EXCLUDES(ds->lock)
{
	mutex_lock(&ds->lock);
	while (!ds->shut && (ds->n >= DEFERRED_MAX || ds->bytes + p->len > DEFERRED_BYTES))
		cond_wait(&ds->room, &ds->lock);
	int r = ds->shut ? -ENOTCONN : ds->started ? 0 : start_lanes(ds);
	if (r == 0)
		insert(ds, p);
	mutex_unlock(&ds->lock);
	return r;
}

static int make_deferred(struct deferrals *ds, struct deferred **ret)
{
	size_t len = request_header()->len;
	struct deferred *p = malloc(sizeof(*p) + len);

	if (!p)
		return -ENOMEM;
	*p = (struct deferred){.deferrals = ds, .waiter.done = recalled, .len = len, .state = DEFERRED_WAITING};
	memcpy(p->request, worker_self->in, len);
	int r = find_place(ds, p);
	if (r < 0) {
		free(p);
		return r;
	}
	*ret = p;
	return 0;
}

bool request_deferred(fuse_req_t req, int result)
{
	struct face *f = request_face(req);
	struct deferrals *ds = f->deferrals;
	struct deferred *p = serving;

	if (result != -EINPROGRESS)
		return false;
	int r = p ? 0 : make_deferred(ds, &p);
	if (r < 0) {
		reply_err(req, r);
		return true;
	}
	serving = NULL;
	mutex_lock(&ds->lock);
	p->state = DEFERRED_WAITING; /* a signal that comes now finds it here */
	if (fuse_req_interrupted(req))
		note_interrupt(ds, p);
	mutex_unlock(&ds->lock);
	fuse_reply_none(req);
	fs_recall_async(f->fs, &p->waiter); /* and it may be gone */
	return true;
}

/* ---- life ---- */

int deferrals_new(struct face *f, struct deferrals **ret)
{
	struct deferrals *ds = calloc(1, sizeof(*ds));

	if (!ds)
		return -ENOMEM;
	ds->face = f;
	ds->last_ready = &ds->ready;
	mutex_init(&ds->lock);
	cond_init(&ds->wake);
	cond_init(&ds->room);
	*ret = ds;
	return 0;
}

void deferrals_shut(struct deferrals *ds)
{
	mutex_lock(&ds->lock);
	ds->shut = true;
	cond_broadcast(&ds->room);
	mutex_unlock(&ds->lock);
}

void deferrals_stop(struct deferrals *ds)
{
	struct deferred *p;

	mutex_lock(&ds->lock);
	ds->stop = true;
	cond_broadcast(&ds->wake);
	mutex_unlock(&ds->lock);
	for (unsigned i = 0; i < FACE_LANES; i++) {
		struct lane *l = &ds->lane[i];

		if (l->started)
			pthread_join(l->thread, NULL);
		l->started = false;
		worker_free_buffers(&l->worker);
	}
	mutex_lock(&ds->lock);
	while ((p = take_ready(ds))) {
		mutex_unlock(&ds->lock);
		answer_error(ds, p, ENOTCONN);
		mutex_lock(&ds->lock);
	}
	mutex_unlock(&ds->lock);
}

struct deferrals *deferrals_free(struct deferrals *ds)
{
	if (!ds)
		return NULL;
	assert(!ds->all);
	cond_destroy(&ds->room);
	cond_destroy(&ds->wake);
	mutex_destroy(&ds->lock);
	free(ds);
	return NULL;
}
