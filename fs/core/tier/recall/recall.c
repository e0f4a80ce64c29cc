/*
 * recall.c: what happens when a cold file is touched: those who wait for its data, from their question to their answer.
 *
 * An operation returned -EINPROGRESS, and fs_recall_async() makes a request of what its thread missed: one link for each frame.
 * A request is admitted once there is memory for what it needs, in the order in which requests came; then each link is answered
 * by what is in memory already, or waits for a want (want.c), together with whoever else waits for that frame.  When no
 * link is open the request is told, without a lock.  Frames it was answered with are pinned until recall_let_go(), so that the
 * operation finds them however long it takes to be called again; one that holds some is admitted at once, so two cannot wait for
 * each other.
 *
 * Errors: one link that fails is the request's result; the others are left.  See failed.c for when they fail.
 *
 * Without threads (fs_config.no_threads) the caller does all of it, and a store that fails is not asked twice.
 *
 * Memory: an eighth of the budget, RECALL_MEMORY_MIN at least.  A quarter of that may be pinned by requests, up to a half is in
 * flight, a quarter may be ahead of readers in order, and what was read and waits for a home has another quarter at most.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/tier/recall/impl.h"

#define RECALL_MEMORY_MIN (16 * MIB)
#define RANGE_MAX         (4 * MIB)
#define HEADERS_ROOM      (32 * KIB) /* so that frames of as much data fit */

/* ---- lists ---- */

static void list_put(struct recall_request **first, struct recall_request *q)
{
	q->next = *first;
	q->at = first;
	if (q->next)
		q->next->at = &q->next;
	*first = q;
}

static void unlink_request(struct recall *rc, struct recall_request *q) REQUIRES(rc->lock)
{
	*q->at = q->next;
	if (q->next)
		q->next->at = q->at;
	else if (rc->last_pending == &q->next)
		rc->last_pending = q->at;
}

static void put_pending(struct recall *rc, struct recall_request *q) REQUIRES(rc->lock)
{
	q->next = NULL;
	q->at = rc->last_pending;
	*rc->last_pending = q;
	rc->last_pending = &q->next;
}

static struct recall_request **held_bucket(struct recall *rc, const struct journal_waiter *w) REQUIRES(rc->lock)
{
	return &rc->held[(uintptr_t)w / 64 % HELD_BUCKETS];
}

static struct recall_request *find_held(struct recall *rc, const struct journal_waiter *w) REQUIRES(rc->lock)
{
	struct recall_request *q = *held_bucket(rc, w);

	while (q && q->waiter != w)
		q = q->next;
	return q;
}

/* ---- answers ---- */

static void finish(struct recall *rc, struct recall_request *q) REQUIRES(rc->lock)
{
	unlink_request(rc, q);
	q->state = REQUEST_TELLING;
	list_put(&rc->telling, q);
	rc->n_telling++;
	rc->n_waiting--;
	rc->status.failures += q->result < 0 && q->result != -EINTR;
}

void request_fail(struct recall *rc, struct recall_request *q, int r)
{
	for (uint32_t i = 0; i < q->n; i++)
		if (q->link[i].want)
			want_leave(rc, &q->link[i]);
	q->n_open = 0;
	q->result = r;
	finish(rc, q);
}

void link_answer(struct recall *rc, struct link *l, int r)
{
	struct recall_request *q = l->request;

	if (r < 0) {
		request_fail(rc, q, r == -EBADMSG ? -EIO : r);
		return;
	}
	l->pinned = recalled_pin(rc->fs, l->frame.at.id, l->frame.at.offset, NULL);
	if (--q->n_open == 0)
		finish(rc, q);
}

/* Its memory is free for others. */
static void release(struct recall *rc, struct recall_request *q) REQUIRES(rc->lock)
{
	for (uint32_t i = 0; i < q->n; i++)
		if (q->link[i].pinned)
			recalled_unpin(rc->fs, q->link[i].frame.at.id, q->link[i].frame.at.offset);
	rc->admitted -= q->bytes;
	free(q);
}

/* ---- admission ---- */

static void admit(struct recall *rc, struct recall_request *q) REQUIRES(rc->lock)
{
	unlink_request(rc, q);
	q->state = REQUEST_WAITING;
	list_put(&rc->waiting, q);
	for (uint32_t i = 0; i < q->n; i++)
		q->bytes += q->link[i].frame.bytes;
	rc->admitted += q->bytes;
	q->n_open = q->n + 1; /* one for this */
	for (uint32_t i = 0; i < q->n; i++) {
		struct link *l = &q->link[i];

		bool beside;

		l->pinned = recalled_pin(rc->fs, l->frame.at.id, l->frame.at.offset, &beside);
		rc->window_used += beside;
		int r = l->pinned ? 0 : want_join(rc, l);
		if (r < 0) {
			request_fail(rc, q, r);
			return;
		}
		q->n_open -= l->pinned;
	}
	if (--q->n_open == 0)
		finish(rc, q);
}

static uint64_t needed(const struct recall_request *q)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < q->n; i++)
		bytes += q->link[i].frame.bytes;
	return bytes;
}

/* Those there is memory for, in order, and those that hold some already. */
static void admit_pending(struct recall *rc) REQUIRES(rc->lock)
{
	bool room = true;

	for (struct recall_request *q = rc->pending, *next; q; q = next) {
		next = q->next;
		room = room && (!rc->admitted || rc->admitted + needed(q) <= rc->admit_bytes);
		if (room || find_held(rc, q->waiter))
			admit(rc, q);
	}
}

void recall_tell(struct recall *rc)
{
	struct recall_request *q;

	mutex_lock(&rc->lock);
	while ((q = rc->telling)) {
		struct journal_waiter *w = q->waiter;
		int result = q->result;

		unlink_request(rc, q);
		if ((q->flags & BEGIN_HOLD) && result == 0) {
			q->state = REQUEST_HELD;
			list_put(held_bucket(rc, w), q);
			rc->n_held++;
		} else {
			release(rc, q);
			admit_pending(rc);
		}
		mutex_unlock(&rc->lock);
		w->done(w, result);
		mutex_lock(&rc->lock);
		rc->n_telling--;
		cond_broadcast(&rc->told);
	}
	if (rc->asked.first && threads_wake(rc) < 0)
		log_error("recalls: no thread can be started");
	mutex_unlock(&rc->lock);
}

void recall_let_go(struct fs *fs, struct journal_waiter *w)
{
	struct recall *rc = fs->recall;
	struct recall_request *q;

	mutex_lock(&rc->lock);
	while ((q = find_held(rc, w))) {
		unlink_request(rc, q);
		rc->n_held--;
		release(rc, q);
	}
	admit_pending(rc);
	mutex_unlock(&rc->lock);
	recall_tell(rc);
}

/* ---- questions ---- */

static int make_request(struct fs *fs, uint64_t ino, uint64_t leaf, uint64_t n, unsigned flags, struct recall_request **ret)
{
	CLEANUP_FREE struct frame_ref *frame = malloc(n * sizeof(*frame));
	uint64_t end;
	uint32_t n_frames = 0;
	int r = frame ? frames_of(fs, ino, leaf, n, flags & BEGIN_COLD, frame, &n_frames, &end) : -ENOMEM;

	if (r < 0)
		return r;
	struct recall_request *q = calloc(1, sizeof(*q) + n_frames * sizeof(q->link[0]));
	if (!q)
		return -ENOMEM;
	*q = (struct recall_request){
	    .ino = ino, .leaf = leaf, .began_ns = clock_mono_ns(fs->clock), .flags = flags, .n = n_frames};
	for (uint32_t i = 0; i < n_frames; i++)
		q->link[i] = (struct link){.request = q, .frame = frame[i]};
	*ret = q;
	return 0;
}

/* False: the volume ends. */
static bool enlist(struct recall *rc, struct recall_request *q, uint64_t n_leaves) EXCLUDES(rc->lock)
{
	mutex_lock(&rc->lock);
	bool open = !rc->ending && !atomic_load(&rc->stop);
	if (open) {
		rc->status.recalls++;
		if (q->flags & BEGIN_AHEAD)
			stream_missed(rc, q->ino, q->leaf, n_leaves, q->began_ns);
		put_pending(rc, q);
		rc->n_waiting++;
		admit_pending(rc);
		int r = rc->asked.first || stream_due(rc) ? threads_wake(rc) : 0;
		if (r < 0 && q->state != REQUEST_TELLING)
			request_fail(rc, q, r);
	}
	mutex_unlock(&rc->lock);
	return open;
}

void recall_begin(struct fs *fs, uint64_t ino, uint64_t leaf, uint64_t n, enum object_purpose purpose, unsigned flags,
		  struct journal_waiter *w)
{
	struct recall *rc = fs->recall;
	struct recall_request *q = NULL;
	int r = make_request(fs, ino, leaf, min_u64(n, LEAVES_MAX), flags, &q);

	if (r < 0) { /* a file that is gone says so itself; the rest was logged */
		w->done(w, r == -ENOENT ? 0 : r == -ENOMEM ? r : -EIO);
		return;
	}
	q->waiter = w;
	q->purpose = purpose;
	if (!enlist(rc, q, n)) {
		free(q);
		w->done(w, -EIO);
		return;
	}
	if (fs->config.no_threads)
		recall_step(rc);
	recall_tell(rc);
}

static void count_denied(struct recall *rc)
{
	mutex_lock(&rc->lock);
	rc->status.denied++;
	mutex_unlock(&rc->lock);
}

static void recall_missed(struct fs *fs, unsigned flags, struct journal_waiter *w)
{
	struct tier_miss m = tier_take_miss();
	enum recall_mode mode = RECALL_CACHE;

	if (m.n_bad) { /* what is cold besides is missed again */
		parked_wait(fs, &m, w);
		return;
	}
	int r = m.n_leaves ? recall_mode_get(fs, m.ino, &mode) : -EIO;

	if (r == 0 && mode == RECALL_DENY) {
		count_denied(fs->recall);
		r = -EACCES;
	}
	if (r < 0)
		w->done(w, r == -ENOENT ? 0 : r);
	else
		recall_begin(fs, m.ino, m.leaf, m.n_leaves, OBJECT_FOREGROUND, flags, w);
}

void fs_recall_async(struct fs *fs, struct journal_waiter *w)
{
	recall_missed(fs, BEGIN_HOLD | BEGIN_AHEAD, w);
}

void fs_recall_end(struct fs *fs, struct journal_waiter *w)
{
	recall_let_go(fs, w);
}

void fs_recall_cancel(struct fs *fs, struct journal_waiter *w)
{
	struct recall *rc = fs->recall;
	struct recall_request *list[2];

	parked_cancel(fs, w);
	mutex_lock(&rc->lock);
	list[0] = rc->waiting;
	list[1] = rc->pending;
	for (unsigned i = 0; i < ARRAY_SIZE(list); i++)
		for (struct recall_request *q = list[i], *next; q; q = next) {
			next = q->next;
			if (q->waiter == w)
				request_fail(rc, q, -EINTR);
		}
	mutex_unlock(&rc->lock);
	recall_tell(rc);
}

/* ---- those who wait in their own thread ---- */

static void wake_sleeper(struct journal_waiter *w, int result)
{
	struct recall_sleeper *s = container_of(w, struct recall_sleeper, waiter);

	mutex_lock(&s->lock);
	s->result = result;
	s->done = true;
	cond_signal(&s->wake);
	mutex_unlock(&s->lock);
}

void sleeper_init(struct recall_sleeper *s)
{
	*s = (struct recall_sleeper){.waiter.done = wake_sleeper};
	mutex_init(&s->lock);
	cond_init(&s->wake);
}

int sleeper_wait(struct recall_sleeper *s)
{
	mutex_lock(&s->lock);
	while (!s->done)
		cond_wait(&s->wake, &s->lock);
	int r = s->result;
	mutex_unlock(&s->lock);
	cond_destroy(&s->wake);
	mutex_destroy(&s->lock);
	return r;
}

int fs_recall(struct fs *fs)
{
	struct recall_sleeper s;

	sleeper_init(&s);
	recall_missed(fs, BEGIN_AHEAD, &s.waiter);
	return sleeper_wait(&s);
}

int recall_leaves(struct fs *fs, uint64_t ino, uint64_t leaf, uint64_t n, enum object_purpose purpose)
{
	uint64_t step = min_u64(LEAVES_MAX, max_u64(fs->recall->admit_bytes / FRAME_BYTES, 1));
	int r = 0;

	for (uint64_t at = 0; at < n && r == 0; at += step) {
		struct recall_sleeper s;

		sleeper_init(&s);
		recall_begin(fs, ino, leaf + at, min_u64(step, n - at), purpose, BEGIN_QUIET, &s.waiter);
		r = sleeper_wait(&s);
	}
	return r;
}

/* ---- status ---- */

bool recall_is_active(struct fs *fs, uint64_t ino)
{
	struct recall *rc = fs->recall;
	bool found = false;

	mutex_lock(&rc->lock);
	for (const struct recall_request *q = rc->waiting; q && !found; q = q->next)
		found = q->ino == ino;
	for (const struct recall_request *q = rc->pending; q && !found; q = q->next)
		found = q->ino == ino;
	mutex_unlock(&rc->lock);
	return found;
}

static void look_at_waits(const struct recall_request *q, int64_t now_ns, struct recall_status *ret)
{
	for (; q; q = q->next)
		if (now_ns - q->began_ns > ret->longest_wait_ns)
			ret->longest_wait_ns = now_ns - q->began_ns;
}

void recall_get_status(struct fs *fs, struct recall_status *ret)
{
	struct recall *rc = fs->recall;
	int64_t now_ns = clock_mono_ns(fs->clock);
	struct recalled_status memory;

	recalled_get_status(fs, &memory);
	mutex_lock(&rc->lock);
	*ret = rc->status;
	ret->waiting = rc->n_waiting;
	look_at_waits(rc->waiting, now_ns, ret);
	look_at_waits(rc->pending, now_ns, ret);
	mutex_unlock(&rc->lock);
	ret->blocks_served = memory.blocks_served;
	ret->memory_bytes = memory.bytes + memory.reserved_bytes;
}

/* ---- life ---- */

int recall_open(struct fs *fs)
{
	uint64_t memory = max_u64(fs->config.memory_bytes / 8, RECALL_MEMORY_MIN);
	struct recall *rc = calloc(1, sizeof(*rc));
	int r = rc ? recalled_open(fs, memory) : -ENOMEM;

	if (r < 0) {
		free(rc);
		return r;
	}
	rc->fs = fs;
	rc->memory_bytes = memory;
	rc->range_bytes = (uint32_t)(min_u64(RANGE_MAX, memory / 2 / FETCHES_A_STORE) + HEADERS_ROOM);
	rc->admit_bytes = memory / 4;
	rc->ahead_bytes = memory / 4;
	mutex_init(&rc->lock);
	mutex_init(&rc->key_lock);
	cond_init(&rc->wake);
	cond_init(&rc->told);
	mutex_lock(&rc->lock);
	rc->last_pending = &rc->pending;
	queue_init(&rc->asked);
	queue_init(&rc->ahead);
	mutex_unlock(&rc->lock);
	fs->recall = rc;
	return 0;
}

static void fail_all(struct recall *rc) REQUIRES(rc->lock)
{
	while (rc->waiting)
		request_fail(rc, rc->waiting, -EIO);
	while (rc->pending)
		request_fail(rc, rc->pending, -EIO);
}

void recall_end_waits(struct fs *fs)
{
	struct recall *rc = fs->recall;

	if (!rc)
		return;
	mutex_lock(&rc->lock);
	rc->ending++;
	fail_all(rc);
	mutex_unlock(&rc->lock);
	recall_tell(rc);
	mutex_lock(&rc->lock);
	while (rc->n_telling > 0) /* by another thread */
		cond_wait(&rc->told, &rc->lock);
	rc->ending--;
	mutex_unlock(&rc->lock);
}

/* No thread is left. */
static void drop_wants(struct recall *rc) REQUIRES(rc->lock)
{
	assert(!rc->active && !rc->asked.first);
	while (rc->ahead.first)
		want_end(rc, rc->ahead.first, -EIO);
}

void recall_shut(struct fs *fs)
{
	if (!fs->recall)
		return;
	atomic_store(&fs->recall->stop, true);
	recall_end_waits(fs);
}

void recall_close(struct fs *fs)
{
	struct recall *rc = fs->recall;

	if (!rc)
		return;
	recall_shut(fs);
	threads_stop(rc);
	mutex_lock(&rc->lock);
	assert(!rc->n_held);
	keep_drop_all(rc);
	drop_wants(rc);
	mutex_unlock(&rc->lock);
	recalled_close(fs);
	object_keys_forget(rc);
	cond_destroy(&rc->told);
	cond_destroy(&rc->wake);
	mutex_destroy(&rc->key_lock);
	mutex_destroy(&rc->lock);
	free(rc->keep);
	free(rc);
	fs->recall = NULL;
}
