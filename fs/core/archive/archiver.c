/*
 * archiver.c: the archive's thread, and the round it goes.
 *
 * A round: is there a policy, and does this node lead; the store; where the archive stands (attach.c), if that is not known; all
 * that became durable, in segments; a part of a base, when one is made; what is too old.  An error ends the round, stays in the
 * status until one succeeds, and loses nothing: the next round goes on where this one stopped.  The journal does not wait for the
 * archive: when its ring comes round before a batch was stored, that is a gap, which is told, recorded, and closed by a new base.
 */
#include <errno.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/archive/impl.h"
#include "journal/ship.h"

#define POLL_NS       (NSEC_PER_SEC / 4)
#define IDLE_NS       (2 * NSEC_PER_SEC)
#define MANIFEST_NS   (600 * NSEC_PER_SEC) /* a manifest is written as often, if there are new segments */
#define MANIFEST_MOST 1024u                /* or after so many */

static const struct replica_ops *ops_of(struct archiver *a)
{
	return fs_replica(a->fs)->ops;
}

static uint64_t durable_seq(struct fs *fs)
{
	struct journal_status js;

	journal_get_status(fs->journal, &js);
	return js.durable_seq;
}

/* ---- the policy ---- */

static int read_key(struct archiver *a, const struct tier_store *s)
{
	int r = s->d.encrypt ? stores_key(a->fs, &a->key) : 0;

	a->place.key = s->d.encrypt ? &a->key : NULL;
	a->place.read_back = s->d.verify == VERIFY_READ;
	return r;
}

/* -ENOENT: there is none. */
static int read_policy(struct archiver *a)
{
	char text[FS_POLICY_MAX + 1];
	uint64_t generation = policies_generation(a->fs);
	struct archive_policy p;

	if (generation == a->policies)
		return a->v.on ? 0 : -ENOENT;
	int r = fs_get_policy(a->fs, FS_ROOT_INO, "archive", false, text);
	if (r < 0 && r != -ENODATA)
		return r;
	if (r == 0 && archive_policy_parse(text, &p) < 0) {
		log_warn("clawfs.archive: not understood here, and nothing is archived: %s", text);
		r = -ENODATA;
	}
	if (a->attached && (r < 0 || strcmp(p.store, a->policy.store) != 0))
		archiver_detach(a);
	a->v.on = r == 0;
	if (!a->v.on)
		atomic_store(&a->fs->archive_floor, 0);
	a->policy = r == 0 ? p : (struct archive_policy){0};
	a->policies = generation;
	snprintf(a->v.store, sizeof(a->v.store), "%s", a->policy.store);
	return r == 0 ? 0 : -ENOENT;
}

/* ---- a round ---- */

/* Of another epoch than it was attached with, or no leader: what is in memory belongs to that. */
static int check_role(struct archiver *a)
{
	struct replica_point p;

	ops_of(a)->get_point(fs_replica(a->fs), &p);
	bool leads = p.role == ROLE_LEADER && fs_takes_changes(a->fs) && !p.failed;
	if (a->attached && (!leads || p.promised != a->epoch))
		archiver_detach(a);
	if (!leads)
		atomic_store(&a->fs->archive_floor, 0);
	return leads ? 0 : -EROFS;
}

/* The next batch is not in the journal any more. */
static int close_gap(struct archiver *a)
{
	struct archive_stream *s = archiver_stream(a);
	uint64_t from = a->taken + 1;

	a->v.gap = true;
	a->v.gap_from = from;
	a->v.gap_to = durable_seq(a->fs);
	int r = segment_due(a, true) ? segment_store(a) : 0;
	if (r < 0)
		return r;
	log_error(
	    "archive: batch %llu is not in the journal any more and was not archived: states from there up to the next base "
	    "cannot be restored",
	    (unsigned long long)from);
	s->end = STREAM_GAP;
	s->lost_from = from;
	return archiver_begin_stream(a);
}

/* The next batch cannot be carried out by who restores: the stream ends before it, and a base of what came of it begins the next.
 */
static int follow_back(struct archiver *a)
{
	struct archive_stream *s = archiver_stream(a);
	uint64_t from = a->taken + 1;
	int r = segment_due(a, true) ? segment_store(a) : 0;

	if (r < 0)
		return r;
	log_info("archive: with batch %llu the tree went back to a snapshot: states from there up to the next base, which is "
		 "made now, "
		 "cannot be restored",
		 (unsigned long long)from);
	s->end = STREAM_BACK;
	s->lost_from = from;
	a->back = false;
	return archiver_begin_stream(a);
}

/* What is durable into the segment, and the segment into the store when it is time. */
static int store_segment(struct archiver *a, bool now, bool *ret_more)
{
	bool gap = false;
	int r = segment_take(a, &gap);

	if (r == 0 && gap)
		return close_gap(a);
	if (r == 0 && a->back && !a->sealed.len)
		return follow_back(a);
	*ret_more = r == 0 && segment_due(a, now);
	return *ret_more ? segment_store(a) : r;
}

static int make_base(struct archiver *a)
{
	struct replica_view_info info;
	int r;

	if (base_due(a)) {
		r = base_begin(a, &info);
		if (r == 0)
			a->cut = info.seq > a->v.archived_seq ? info.seq : 0;
		if (r == 0)
			r = archiver_save(a);
		return r;
	}
	if (!a->job)
		return 0;
	r = base_step(a);
	return r < 0 ? r : base_settle(a);
}

static bool manifest_due(const struct archiver *a)
{
	bool old = clock_mono_ns(a->fs->clock) - a->manifest_ns >= MANIFEST_NS;

	return a->dirty || a->manifest_age >= MANIFEST_MOST || (a->manifest_age > 0 && old);
}

static int go_round(struct archiver *a, bool now, bool *ret_more)
{
	int r = a->attached ? 0 : archiver_attach(a);

	if (r == 0)
		r = store_segment(a, now, ret_more);
	if (r == 0 && a->attached)
		r = make_base(a);
	if (r == 0 && a->attached)
		r = retention_step(a);
	if (r == 0 && a->attached && manifest_due(a))
		r = archiver_save(a);
	*ret_more = *ret_more || a->job;
	return r;
}

static int with_store(struct archiver *a, bool now, bool *ret_more)
{
	const struct tier_store *s;
	uint64_t unknown = 0;

	/* How far the archive is, is not known yet: the journal keeps what it may. */
	atomic_compare_exchange_strong(&a->fs->archive_floor, &unknown, 1);
	int r = stores_get_by_name(a->fs, a->policy.store, &s);
	a->place.message[0] = '\0';
	if (r < 0) {
		snprintf(a->place.message, sizeof(a->place.message), "store %s cannot be used", a->policy.store);
		return r;
	}
	a->place.store = s->guard;
	a->place.purpose = OBJECT_BACKGROUND;
	memcpy(a->place.volume, a->fs->super.volume, sizeof(a->place.volume));
	r = read_key(a, s);
	if (r == 0)
		r = go_round(a, now, ret_more);
	a->place.store = NULL;
	stores_put(a->fs, s);
	return r;
}

/* The stream that is written is ended: an archive that is switched off says so, while its store is known. */
static void say_off(struct archiver *a)
{
	const struct tier_store *s;
	struct archive_stream *stream = a->attached ? archiver_stream(a) : NULL;

	if (!stream || stores_get_by_name(a->fs, a->policy.store, &s) < 0)
		return;
	a->place.store = s->guard;
	stream->end = STREAM_OFF;
	int r = archiver_save(a);
	if (r < 0)
		log_warn("archive: that it ended could not be written: %s", strerror(-r));
	a->place.store = NULL;
	stores_put(a->fs, s);
}

/* ---- status ---- */

static void look_at_manifest(struct archiver *a)
{
	const struct archive_base *newest = base_newest(a);
	int64_t oldest_ns = 0;

	a->v.gaps = a->v.bases = 0;
	for (size_t i = 0; i < a->m.n_streams; i++)
		a->v.gaps += a->m.stream[i].end == STREAM_GAP;
	for (size_t i = a->m.n_bases; i-- > 0;)
		if (a->m.base[i].state == BASE_DONE) {
			oldest_ns = a->m.base[i].ready_ns;
			a->v.bases++;
		}
	a->v.oldest_ns = oldest_ns;
	a->v.base_ns = newest ? newest->view_ns : 0;
	a->v.base_seq = newest ? newest->seq : 0;
	a->v.lost = newest ? newest->lost : 0;
	const struct archive_stream *s = archiver_stream(a);
	a->v.based = s && newest && newest->epoch == s->epoch && newest->seq + 1 >= s->first.seq;
	/* Once the stream that follows a gap has a base, the gap is closed. */
	a->v.gap = s && !a->v.based && a->m.n_streams > 1 && a->m.stream[a->m.n_streams - 2].end == STREAM_GAP;
	if (a->v.gap) {
		a->v.gap_from = a->m.stream[a->m.n_streams - 2].lost_from;
		a->v.gap_to = s->first.seq - 1;
	}
}

/* Known while the store is away, too: the ring has come round to what waits. */
static void look_at_ring(struct archiver *a)
{
	uint64_t oldest = journal_oldest(a->fs->journal);

	if (a->taken >= a->v.durable_seq || oldest <= a->taken + 1 || a->v.gap)
		return;
	a->v.gap = true;
	a->v.gap_from = a->taken + 1;
	a->v.gap_to = oldest - 1;
}

static void publish(struct archiver *a, int r)
{
	struct archiver_view *v = &a->v;
	bool was_open = a->view.error != 0;

	v->attached = a->attached;
	v->durable_seq = durable_seq(a->fs);
	v->making_base = a->job != NULL;
	v->making_rows = a->job ? a->job->rows : 0;
	if (a->attached) {
		look_at_manifest(a);
		look_at_ring(a);
	}
	if (v->gap && !a->view.gap)
		log_error("archive: batches from %llu on left the journal before they were archived: states from there up to the "
			  "next base cannot be restored",
			  (unsigned long long)v->gap_from);
	else if (a->view.gap && !v->gap)
		log_info("archive: a base has closed the gap");
	if (v->archived_seq >= v->durable_seq)
		v->behind_since_ns = 0;
	else if (!v->behind_since_ns)
		v->behind_since_ns = clock_real_ns(a->fs->clock);
	if (r == 0) {
		v->last_success_ns = clock_real_ns(a->fs->clock);
		if (was_open)
			log_info("archive: it goes on");
	} else if (r != -ENOENT || v->on) {
		snprintf(v->message, sizeof(v->message), "%s", *a->place.message ? a->place.message : strerror(-r));
		v->last_error_ns = clock_real_ns(a->fs->clock);
		if (v->error != r)
			log_error("archive: %s; it will try again", v->message);
	}
	v->error = r;
	mutex_lock(&a->lock);
	a->view = *v;
	mutex_unlock(&a->lock);
}

int archiver_step(struct fs *fs, bool now, bool *ret_more)
{
	struct archiver *a = fs->archiver;
	int r;

	*ret_more = false;
	r = check_role(a);
	if (r == 0 && a->attached && policies_generation(fs) != a->policies) {
		char text[FS_POLICY_MAX + 1];

		if (fs_get_policy(fs, FS_ROOT_INO, "archive", false, text) == -ENODATA)
			say_off(a);
	}
	if (r == 0)
		r = read_policy(a);
	if (r == 0)
		r = with_store(a, now, ret_more);
	publish(a, r == -EROFS ? 0 : r);
	return r;
}

/* ---- who waits ---- */

/* Those whose batches are stored, with a base to begin from; all of them with an error. */
static struct archive_waiter *take_waiters(struct archiver *a, int r) REQUIRES(a->lock)
{
	struct archive_waiter *taken = NULL, **at = &a->waiters;
	bool ready = a->view.attached && a->view.based;

	while (*at) {
		struct archive_waiter *w = *at;

		if (r == 0 && !(ready && a->view.archived_seq >= w->seq)) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		w->next = taken;
		taken = w;
	}
	return taken;
}

static void answer(struct archive_waiter *w, int r)
{
	for (struct archive_waiter *next; w; w = next) {
		next = w->next;
		w->w->done(w->w, r);
		free(w);
	}
}

void fs_archive_now(struct fs *fs, struct journal_waiter *w)
{
	struct archive_waiter *aw = calloc(1, sizeof(*aw));
	struct archiver *a = fs->archiver;
	char text[FS_POLICY_MAX + 1];
	int r = aw ? fs_get_policy(fs, FS_ROOT_INO, "archive", false, text) : -ENOMEM;

	if (r == 0)
		r = !a->started ? -EROFS : fs_takes_changes(fs) ? journal_commit_all(fs->journal, NULL) : -EROFS;
	if (r == 0) {
		aw->w = w;
		aw->seq = durable_seq(fs);
		mutex_lock(&a->lock);
		r = a->stop ? -ESHUTDOWN : 0;
		if (r == 0) {
			aw->next = a->waiters;
			a->waiters = aw;
			a->woken = true;
			cond_signal(&a->wake);
		}
		mutex_unlock(&a->lock);
	}
	if (r < 0) {
		free(aw);
		w->done(w, r);
	}
}

/* ---- life ---- */

static void *archiver_main(void *arg)
{
	struct archiver *a = arg;
	bool more = false;

	pthread_setname_np(pthread_self(), "archiver");
	mutex_lock(&a->lock);
	while (!a->stop) {
		if (!more && !a->woken)
			cond_wait_ns(&a->wake, &a->lock, a->view.on ? POLL_NS : IDLE_NS);
		if (a->stop)
			break;
		bool now = a->waiters != NULL;
		a->woken = false;
		mutex_unlock(&a->lock);
		int r = archiver_step(a->fs, now, &more);
		more = more && r == 0;
		mutex_lock(&a->lock);
		struct archive_waiter *done = now ? take_waiters(a, r) : NULL;
		mutex_unlock(&a->lock);
		answer(done, r);
		mutex_lock(&a->lock);
	}
	mutex_unlock(&a->lock);
	return NULL;
}

int archiver_open(struct fs *fs)
{
	struct archiver *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->fs = fs;
	a->policies = UINT64_MAX;
	a->woken = true;
	mutex_init(&a->lock);
	cond_init(&a->wake);
	fs->archiver = a;
	if (fs->config.no_threads || fs->config.read_only)
		return 0;
	int r = -pthread_create(&a->thread, NULL, archiver_main, a);
	a->started = r == 0;
	return r;
}

void archiver_stop(struct fs *fs)
{
	struct archiver *a = fs->archiver;

	if (!a)
		return;
	mutex_lock(&a->lock);
	a->stop = true;
	cond_signal(&a->wake);
	mutex_unlock(&a->lock);
	if (a->started)
		pthread_join(a->thread, NULL);
	a->started = false;
	archiver_detach(a); /* its view of the index is closed before that */
	mutex_lock(&a->lock);
	struct archive_waiter *left = take_waiters(a, -ESHUTDOWN);
	mutex_unlock(&a->lock);
	answer(left, -ESHUTDOWN);
}

void archiver_close(struct fs *fs)
{
	struct archiver *a = fs->archiver;

	if (!a)
		return;
	archiver_stop(fs);
	OPENSSL_cleanse(&a->key, sizeof(a->key));
	free(a->sums);
	cond_destroy(&a->wake);
	mutex_destroy(&a->lock);
	free(a);
	fs->archiver = NULL;
}
