/*
 * ageing.c: what is cold goes out: the life of the packer and its uploaders, what makes them pause, and what they say.
 *
 * A round of the packer is one of these, in this order: a batch of what is queued; what was begun goes on its way though it is
 * small; some inodes of the scan; an object that is to be packed again or removed.  So what somebody asked for never waits long.
 *
 * Pauses: of the whole, while the volume may not change (failed, read-only, between two states, being handed over); of one store,
 * after it failed, while its breaker is open, or when its requests of the month are used up.  Files of a store that pauses stay
 * queued, others go on.  Nothing has to be done when the reason goes away.  A follower packs nothing: it drops homes of what its
 * leader has placed, by its own clock and space.
 *
 * Memory: packs may take a quarter of the volume's; a small volume has everything else to feed, and makes one pack of 8 MiB at a
 * time.
 *
 * End: the stores are shut and waits for followers ended, so that whoever is inside comes out; packs under way are given up.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/core/tier/ageing/impl.h"

#define MEMORY_SMALL (256 * MIB)
#define PACK_SMALL   (8 * MIB)
#define QUEUE_MIN    4096u
#define QUEUE_SHARE  64u /* of memory_bytes */
#define RETRY_NS     (5 * NSEC_PER_SEC)
#define IDLE_NS      (30 * NSEC_PER_SEC)
#define PAUSED_NS    NSEC_PER_SEC
#define LONG_WAIT_NS (10 * NSEC_PER_SEC)
#define END_POLL_NS  (NSEC_PER_SEC / 100)
#define GATHER_NS    (NSEC_PER_SEC / 2)

/* ---- items ---- */

void ageing_deliver(struct ageing *a, int error)
{
	mutex_lock(&a->lock);
	struct journal_waiter *w = items_take_waiters(a, error < 0);
	mutex_unlock(&a->lock);
	for (struct journal_waiter *next; w; w = next) {
		next = w->next;
		w->done(w, error);
	}
}

static void kick(struct ageing *a) REQUIRES(a->lock)
{
	a->kicked = true;
	cond_signal(&a->wake);
}

/* The packer may sleep for longer than this one has to wait: it looks again. */
static void try_again(struct ageing *a, struct item *it) REQUIRES(a->lock)
{
	int64_t soonest = clock_mono_ns(a->fs->clock) + RETRY_NS;

	if (!it->failed)
		a->status.failed_files++;
	it->failed = true;
	items_settle(a, it);
	if (it->not_before_ns < soonest)
		it->not_before_ns = soonest;
	items_return(a, it);
	kick(a);
}

/* The last one who had it is done. */
static void decide(struct ageing *a, struct item *it) REQUIRES(a->lock)
{
	if (a->stop || it->reason == ITEM_REPACK) {
		if (it->again && !a->stop)
			goto once_more;
		items_forget(a, it);
		return;
	}
	if (it->again)
		goto once_more;
	if (it->retry && !it->error && !it->stale) {
		try_again(a, it);
		return;
	}
	a->status.failed_files += it->error < 0;
	a->status.skipped_files += !it->error && (it->stale || it->skip);
	a->status.aged_files += !it->error && !it->stale && !it->skip;
	items_forget(a, it);
	return;
once_more:
	it->reason = ITEM_EXPLICIT;
	it->not_before_ns = 0;
	items_return(a, it);
	kick(a);
}

void ageing_release(struct ageing *a, struct item *it)
{
	mutex_lock(&a->lock);
	assert(it->refs > 0);
	if (it->refs == 1 && it->watched) {
		it->watched = false; /* nobody else has it */
		mutex_unlock(&a->lock);
		tier_unwatch(a->fs, it->ino);
		mutex_lock(&a->lock);
	}
	if (--it->refs == 0)
		decide(a, it);
	mutex_unlock(&a->lock);
	ageing_deliver(a, 0);
}

bool ageing_is_writing(struct fs *fs, uint64_t object)
{
	struct ageing *a = fs->ageing;
	const struct pack *p;

	mutex_lock(&a->lock);
	LIST_FOREACH(p, &a->packs, link)
	{
		if (p->object == object)
			break;
	}
	mutex_unlock(&a->lock);
	return p != NULL;
}

/* ---- asked from outside ---- */

/* Without a policy there is no store for it, but what is tiered can be dropped. */
static int check_evict(struct fs *fs, uint64_t ino)
{
	struct tier_policy policy;
	struct tier_file f;
	struct inode in;
	int r = icache_copy(fs->icache, ino, &in);

	if (r == 0)
		r = S_ISREG(in.mode) ? tier_policy_get(fs, ino, &policy) : -EINVAL;
	if (r == 0 && policy.pinned)
		r = -EPERM;
	if (r < 0 || !policy.off || fs_role(fs) != ROLE_LEADER)
		return r;
	r = tier_file_state(fs, ino, &f);
	return r < 0 ? r : f.tiered_blocks || !f.data_blocks ? 0 : -ENODATA;
}

int ageing_evict(struct fs *fs, uint64_t ino)
{
	struct ageing *a = fs->ageing;
	int r = fs->config.read_only || atomic_load(&fs->failed) ? -EROFS : fs_readable(fs);

	if (r == 0)
		r = check_evict(fs, ino);
	if (r < 0)
		return r;
	recall_drop_keeps(fs, ino);
	mutex_lock(&a->lock);
	r = a->stop ? -ESHUTDOWN : items_push(a, ino, ITEM_EXPLICIT, 0);
	if (r == 0) {
		a->asked_ns = clock_mono_ns(fs->clock);
		kick(a);
	}
	mutex_unlock(&a->lock);
	return r;
}

/* Why nobody should wait: it may last for as long as an admin does nothing.  A hand-over is over soon. */
static int end_of_waiting(struct ageing *a)
{
	struct fs *fs = a->fs;

	if (ageing_stopping(a))
		return -ESHUTDOWN;
	if (atomic_load(&fs->failed))
		return -EIO;
	return fs_readable(fs) < 0 || (atomic_load(&fs->offered) && fs_role(fs) == ROLE_LEADER) ? -EBUSY : 0;
}

void ageing_flush_async(struct fs *fs, struct journal_waiter *w)
{
	struct ageing *a = fs->ageing;

	mutex_lock(&a->lock);
	items_add_waiter(a, w);
	kick(a);
	mutex_unlock(&a->lock);
	ageing_deliver(a, end_of_waiting(a));
}

void ageing_scan_now(struct fs *fs)
{
	struct ageing *a = fs->ageing;

	mutex_lock(&a->lock);
	a->scan_asked = a->repack_asked = a->queue.let_go = true;
	kick(a);
	mutex_unlock(&a->lock);
}

/* ---- status ---- */

/* Why less is done than could be: a store that pauses, followers that do not ack. */
static void tell_pause(struct ageing *a, int64_t now, char why[OBJECT_MESSAGE_MAX]) REQUIRES(a->lock)
{
	const struct pack *p;

	for (unsigned i = 0; i < PAUSES_MAX && !*why; i++)
		if (*a->pause[i].name && a->pause[i].until_ns + LONG_WAIT_NS > now && a->queue.n)
			snprintf(why, OBJECT_MESSAGE_MAX, "%s", a->pause[i].why);
	LIST_FOREACH(p, &a->packs, link)
	{
		if (!*why && p->phase == PACK_SYNCING && now - p->phase_since_ns > LONG_WAIT_NS)
			snprintf(why, OBJECT_MESSAGE_MAX, "homes stay until enough followers have what was placed");
	}
}

void ageing_get_status(struct fs *fs, struct ageing_status *ret)
{
	struct ageing *a = fs->ageing;
	char why[OBJECT_MESSAGE_MAX];
	bool leads;

	(void)ageing_may_work(a, &leads, why);
	mutex_lock(&a->lock);
	*ret = a->status;
	ret->queued_files = a->queue.n;
	tell_pause(a, clock_mono_ns(fs->clock), why);
	mutex_unlock(&a->lock);
	memcpy(ret->paused, why, sizeof(ret->paused));
}

/* ---- rounds ---- */

static size_t take_batch(struct ageing *a, bool all, struct item **item, size_t max)
{
	mutex_lock(&a->lock);
	size_t n = items_take(a, all, item, max);
	if (n == 0 && a->queue.n_found == 0 && !a->scan.running && !a->scan_asked)
		a->queue.let_go = false;
	mutex_unlock(&a->lock);
	return n;
}

/*
 * Files named one after the other, as `clawfs tier evict` does, go together, however slowly they come: an open pack waits for
 * the next one until somebody flushes, or no name came for a while.  False: it need not wait.
 */
static bool gather(struct ageing *a)
{
	mutex_lock(&a->lock);
	int64_t left_ns = a->asked_ns + GATHER_NS - clock_mono_ns(a->fs->clock);
	bool wait = a->asked_ns && left_ns > 0 && !a->stop && !items_have_waiters(a);
	if (wait && !a->kicked)
		cond_wait_ns(&a->wake, &a->lock, left_ns);
	a->kicked = false;
	mutex_unlock(&a->lock);
	return wait;
}

/* True when there may be more. */
static bool do_round(struct ageing *a)
{
	struct item *item[BATCH_ITEMS];
	scan_look_full(a);
	size_t n = take_batch(a, false, item, BATCH_ITEMS);
	if (n) {
		fill_batch(a, item, n);
		return true;
	}
	if (a->open || a->drops) {
		if (!gather(a))
			fill_ship(a);
		return true;
	}
	return scan_round(a, false) || repack_round(a, false);
}

static void sleep_until_needed(struct ageing *a, bool works)
{
	int64_t now = clock_mono_ns(a->fs->clock), until = now + (works ? IDLE_NS : PAUSED_NS);

	mutex_lock(&a->lock);
	int64_t next = works ? items_next_ns(a) : INT64_MAX;
	if (works && a->scan.due_ns < next)
		next = a->scan.due_ns;
	if (works && a->repack.due_ns < next)
		next = a->repack.due_ns;
	if (next < until)
		until = next;
	if (!a->stop && !a->kicked && until > now)
		cond_wait_ns(&a->wake, &a->lock, until - now);
	a->kicked = false;
	mutex_unlock(&a->lock);
}

static void end_thread(struct ageing *a)
{
	mutex_lock(&a->lock);
	a->n_threads--;
	cond_broadcast(&a->room);
	mutex_unlock(&a->lock);
}

static void *packer_main(void *arg)
{
	char why[OBJECT_MESSAGE_MAX];
	struct ageing *a = arg;
	bool leads;

	pthread_setname_np(pthread_self(), "tier-pack");
	while (!ageing_stopping(a)) {
		bool works = ageing_may_work(a, &leads, why);

		if (!works)
			ageing_deliver(a, end_of_waiting(a));
		if (!works || !do_round(a))
			sleep_until_needed(a, works);
	}
	end_thread(a);
	return NULL;
}

static struct pack *take_ready(struct ageing *a) REQUIRES(a->lock)
{
	struct pack *p = a->first_ready;

	if (!p)
		return NULL;
	a->first_ready = p->next;
	if (!a->first_ready)
		a->last_ready = &a->first_ready;
	return p;
}

static void *uploader_main(void *arg)
{
	struct ageing *a = arg;

	pthread_setname_np(pthread_self(), "tier-put");
	mutex_lock(&a->lock);
	while (!a->stop) {
		struct pack *p = take_ready(a);

		if (!p) {
			cond_wait(&a->ready, &a->lock);
			continue;
		}
		mutex_unlock(&a->lock);
		pack_run(a, p);
		mutex_lock(&a->lock);
	}
	mutex_unlock(&a->lock);
	end_thread(a);
	return NULL;
}

static int start_thread(struct ageing *a, pthread_t *t, void *(*fn)(void *))
{
	mutex_lock(&a->lock);
	a->n_threads++;
	mutex_unlock(&a->lock);
	int r = -pthread_create(t, NULL, fn, a);
	if (r < 0)
		end_thread(a);
	return r;
}

void ageing_start_uploaders(struct ageing *a)
{
	unsigned want = a->packer_runs && a->memory_bytes >= 2 * a->pack_bytes_max ? UPLOADERS : 0;

	while (a->n_uploaders < want && start_thread(a, &a->uploader[a->n_uploaders], uploader_main) == 0)
		a->n_uploaders++;
}

static bool had_error(struct ageing *a)
{
	mutex_lock(&a->lock);
	bool r = a->first_error;
	mutex_unlock(&a->lock);
	return r;
}

static void step(struct ageing *a, size_t n_left)
{
	struct item *item[BATCH_ITEMS];
	size_t n;

	while (n_left > 0 && !had_error(a) && (n = take_batch(a, true, item, min_u64(n_left, BATCH_ITEMS)))) {
		fill_batch(a, item, n);
		n_left -= n;
	}
	if (had_error(a)) {
		if (a->open)
			pack_abandon(a, TAKE_PTR(a->open));
		if (a->drops)
			pack_abandon(a, TAKE_PTR(a->drops));
		return;
	}
	fill_ship(a);
}

int ageing_step(struct fs *fs)
{
	struct ageing *a = fs->ageing;
	char why[OBJECT_MESSAGE_MAX];
	bool leads;

	assert(!a->packer_runs);
	if (!ageing_may_work(a, &leads, why))
		return atomic_load(&fs->failed) || fs->config.read_only ? -EROFS : 0;
	a->eager = true;
	mutex_lock(&a->lock);
	a->first_error = 0;
	bool asked = a->scan_asked;
	mutex_unlock(&a->lock);
	scan_look_full(a);
	if (asked || a->high_water)
		(void)scan_round(a, true);
	mutex_lock(&a->lock);
	size_t n = a->queue.n;
	mutex_unlock(&a->lock);
	step(a, n);
	if (!had_error(a))
		(void)repack_round(a, true);
	mutex_lock(&a->lock);
	int r = a->first_error;
	mutex_unlock(&a->lock);
	return r;
}

/* ---- life ---- */

static void size_up(struct ageing *a)
{
	uint64_t memory = a->fs->config.memory_bytes;

	a->memory_bytes = memory / 4;
	a->pack_bytes_max = min_u64(memory / 16, PACK_BYTES_MAX);
	if (memory < MEMORY_SMALL)
		a->memory_bytes = a->pack_bytes_max = PACK_SMALL;
}

int ageing_open(struct fs *fs)
{
	uint64_t items = fs->config.memory_bytes / QUEUE_SHARE / sizeof(struct item);
	struct ageing *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->fs = fs;
	if (items_init(&a->queue, max_u64(items, QUEUE_MIN)) < 0) {
		free(a);
		return -ENOMEM;
	}
	mutex_init(&a->lock);
	cond_init(&a->wake);
	cond_init(&a->ready);
	cond_init(&a->room);
	LIST_INIT(&a->packs);
	a->last_ready = &a->first_ready;
	size_up(a);
	steady_begin(a);
	a->scan.due_ns = a->repack.due_ns = clock_mono_ns(fs->clock) + IDLE_NS;
	fs->ageing = a;
	if (fs->config.no_threads || fs->config.read_only)
		return 0;
	int r = start_thread(a, &a->packer, packer_main);
	a->packer_runs = r == 0;
	return r;
}

/* Those inside come out by themselves, but for those who wait for followers; one may begin to after it was looked at. */
static void end_threads(struct ageing *a)
{
	mutex_lock(&a->lock);
	a->stop = true;
	cond_broadcast(&a->wake);
	cond_broadcast(&a->ready);
	cond_broadcast(&a->room);
	while (a->n_threads > 0 || a->repack.sync == SYNC_ASKED) {
		mutex_unlock(&a->lock);
		fs_end_waits(a->fs);
		mutex_lock(&a->lock);
		if (a->n_threads > 0 || a->repack.sync == SYNC_ASKED)
			cond_wait_ns(&a->room, &a->lock, END_POLL_NS);
	}
	mutex_unlock(&a->lock);
	if (a->packer_runs)
		pthread_join(a->packer, NULL);
	for (unsigned i = 0; i < a->n_uploaders; i++)
		pthread_join(a->uploader[i], NULL);
}

static void give_up_packs(struct ageing *a)
{
	struct pack *p;

	if (a->open)
		pack_abandon(a, TAKE_PTR(a->open));
	if (a->drops)
		pack_abandon(a, TAKE_PTR(a->drops));
	do {
		mutex_lock(&a->lock);
		p = take_ready(a);
		mutex_unlock(&a->lock);
		if (p)
			pack_abandon(a, p);
	} while (p);
}

static void empty_queue(struct ageing *a)
{
	struct item *it;

	mutex_lock(&a->lock);
	while (items_take(a, true, &it, 1)) {
		it->refs = 0;
		items_forget(a, it);
	}
	mutex_unlock(&a->lock);
	ageing_deliver(a, -ESHUTDOWN);
}

void ageing_close(struct fs *fs)
{
	struct ageing *a = fs->ageing;

	if (!a)
		return;
	end_threads(a);
	give_up_packs(a);
	empty_queue(a);
	scan_close(a);
	items_destroy(&a->queue);
	cond_destroy(&a->room);
	cond_destroy(&a->ready);
	cond_destroy(&a->wake);
	mutex_destroy(&a->lock);
	reader_free(a->reader);
	free(a);
	fs->ageing = NULL;
}
