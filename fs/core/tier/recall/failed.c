/*
 * failed.c: what becomes of those who wait when a store does not give what it should.
 *
 * The store is away, ill, refuses us, or is not even there: wants go back to the queue, and requests that have waited for the
 * store's timeout fail with EIO; the others go on waiting, and go on without help when it is back.  That is logged once, when the
 * first one fails, and once when the store answers again. An object that is known and not there, or a frame that came damaged
 * BAD_MAX times, is damage, which time does not heal: EIO at once, with the path, unless the leaf has its data elsewhere by now.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/tier/recall/impl.h"

#define PAUSE_NS (NSEC_PER_SEC / 5) /* before a store that failed is asked again */

/* One that failed for all to see, and where. */
struct news {
	bool any;
	uint64_t ino;
	int64_t waited_ns;
	char name[STORE_NAME_MAX + 1];
};

static bool needs_store(const struct recall_request *q, const struct store_state *s)
{
	for (uint32_t i = 0; i < q->n; i++)
		if (q->link[i].frame.store == s->id && (q->state == REQUEST_PENDING || q->link[i].want))
			return true;
	return false;
}

/* Those of one list that have waited for the store as long as it may take. */
static void fail_expired(struct recall *rc, struct recall_request *q, struct store_state *s, bool now, struct news *news)
    REQUIRES(rc->lock)
{
	int64_t now_ns = clock_mono_ns(rc->fs->clock);

	for (struct recall_request *next; q; q = next) {
		int64_t waited_ns = now_ns - q->began_ns;

		next = q->next;
		if ((!now && waited_ns < s->timeout_ns) || !needs_store(q, s))
			continue;
		if (!s->said && !news->any) {
			*news = (struct news){.any = true, .ino = q->ino, .waited_ns = waited_ns};
			memcpy(news->name, s->name, sizeof(news->name));
		}
		s->n_failed++;
		request_fail(rc, q, -EIO);
	}
	s->said |= news->any;
}

static void note_error(struct recall *rc, const struct store_state *s, int r, const char *message) REQUIRES(rc->lock)
{
	rc->status.last_error_ns = clock_real_ns(rc->fs->clock);
	if (*message) /* names it */
		snprintf(rc->status.last_message, sizeof(rc->status.last_message), "%s", message);
	else
		snprintf(rc->status.last_message, sizeof(rc->status.last_message), "store %s: %s", s->name, strerror(-r));
}

static void log_news(struct recall *rc, const struct news *n, int r, const char *message)
{
	char path[256];

	if (!n->any)
		return;
	fs_path(rc->fs, n->ino, path, sizeof(path));
	log_error("store %s did not give the data of %s within %lld s: %s; reads of cold files there fail until it answers",
		  n->name, path, SECONDS(n->waited_ns), *message ? message : strerror(-r));
}

/* Takes the fetch out of those under way; its wants stay in its list. */
static void let_go(struct recall *rc, struct fetch *f) REQUIRES(rc->lock)
{
	struct fetch **at = &rc->active;

	while (*at != f)
		at = &(*at)->next;
	*at = f->next;
	f->state->active--;
}

/* The first want, out of the fetch's list; NULL at the end, and the fetch is over. */
static struct want *take_first(struct recall *rc, struct fetch *f) EXCLUDES(rc->lock)
{
	mutex_lock(&rc->lock);
	struct want *w = f->wants.first;

	if (w)
		want_unlink(rc, w);
	else
		let_go(rc, f);
	mutex_unlock(&rc->lock);
	return w;
}

/* All of what was to be got is not there, or cannot be read: each want is looked at by itself. */
static void object_damaged(struct recall *rc, struct fetch *f, const char *what) EXCLUDES(rc->lock)
{
	struct want *w;

	while ((w = take_first(rc, f)))
		want_damaged(rc, w, what);
}

/* The range came damaged however often it was got: the frames in it are got one by one before that is believed. */
static void range_damaged(struct recall *rc, struct fetch *f) EXCLUDES(rc->lock)
{
	struct want *w;

	while ((w = take_first(rc, f))) {
		mutex_lock(&rc->lock);
		bool again = ++w->bad < BAD_MAX && !atomic_load(&rc->stop);

		w->alone = true;
		if (again)
			want_again(rc, w, 0);
		mutex_unlock(&rc->lock);
		if (!again)
			want_damaged(rc, w, "object");
	}
}

static void store_failed(struct recall *rc, struct fetch *f, int r, const char *message) EXCLUDES(rc->lock)
{
	int64_t retry_ns = clock_mono_ns(rc->fs->clock) + PAUSE_NS;
	bool now = rc->fs->config.no_threads || !rc->fs->config.object_store_open || r == -ENODEV;
	struct store_state *s = f->state;
	struct news news = {0};
	struct want *w;

	mutex_lock(&rc->lock);
	s->failing = true;
	note_error(rc, s, r, message);
	let_go(rc, f);
	while ((w = f->wants.first)) {
		if (w->waiters)
			want_again(rc, w, retry_ns);
		else
			want_end(rc, w, r); /* nobody waits */
	}
	if (!atomic_load(&rc->stop)) {
		fail_expired(rc, rc->waiting, s, now, &news);
		fail_expired(rc, rc->pending, s, now, &news);
	}
	mutex_unlock(&rc->lock);
	log_news(rc, &news, r, message);
}

void fetch_failed(struct recall *rc, struct fetch *f, int r, const char *message)
{
	switch (r) {
	case -ENOENT:
		object_damaged(rc, f, "object missing from its store");
		return;
	case -EBADMSG:
		range_damaged(rc, f);
		return;
	default:
		store_failed(rc, f, r, message);
	}
}

void fetch_succeeded(struct recall *rc, struct fetch *f, uint64_t bytes)
{
	struct store_state *s = f->state;

	mutex_lock(&rc->lock);
	bool again = s->said;
	uint64_t n_failed = s->n_failed;
	char name[STORE_NAME_MAX + 1];
	memcpy(name, s->name, sizeof(name));
	s->failing = s->said = false;
	s->n_failed = 0;
	rc->status.bytes_fetched += bytes;
	rc->status.last_success_ns = clock_real_ns(rc->fs->clock);
	mutex_unlock(&rc->lock);
	if (again)
		log_info("store %s answers again; %llu reads of cold files had failed", name, (unsigned long long)n_failed);
}

/* Data that is elsewhere by now is looked for there by who asked; only they can say that it is damaged. */
void want_damaged(struct recall *rc, struct want *w, const char *what)
{
	struct frame_ref frame = w->frame; /* does not change */

	mutex_lock(&rc->lock);
	bool wanted = w->waiters;
	mutex_unlock(&rc->lock);
	int r = wanted && frame_is_current(rc->fs, &frame) ? -EIO : 0;
	if (r < 0)
		(void)fs_damaged(rc->fs, frame.ino, frame.leaf * FRAME_BYTES, what);
	mutex_lock(&rc->lock);
	if (r < 0)
		snprintf(rc->status.last_message, sizeof(rc->status.last_message), "object %016llx: %s",
			 (unsigned long long)frame.at.id, what);
	want_end(rc, w, r);
	mutex_unlock(&rc->lock);
}
