/*
 * service.c: the threads that call the steps: committer, homer, checkpointer, reaper.
 *
 * Each sleeps until it is woken or its interval is over, runs its step until there is nothing to do, and keeps when it last
 * succeeded and what last went wrong, for status.  Nothing here knows what a step does to the disk.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/audit/audit.h"
#include "fs/core/core.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"

#define HOMER_STEP_BLOCKS 4096u
/* The open batch is committed by the timer at this age (G3), or at this size. */
#define COMMIT_INTERVAL_NS     (NSEC_PER_SEC / 10)
#define COMMIT_BYTES           MIB
#define CHECKPOINT_INTERVAL_NS (30 * NSEC_PER_SEC)
#define SNAP_INTERVAL_NS       (5 * NSEC_PER_SEC)
#define SCHEDULE_INTERVAL_NS   (10 * NSEC_PER_SEC)
#define HOMER_INTERVAL_NS      (5 * NSEC_PER_SEC)
#define AUDIT_INTERVAL_NS      (NSEC_PER_SEC / 2) /* changes are in the log within a second */

void service_wake(struct service *s)
{
	mutex_lock(&s->lock);
	if (!s->woken) {
		s->woken = true;
		cond_signal(&s->wake);
	}
	mutex_unlock(&s->lock);
}

static void report(struct service *s, int r)
{
	atomic_fetch_add(&s->runs, 1);
	if (r == 0) {
		atomic_store(&s->last_success_ns, clock_real_ns(s->fs->clock));
		return;
	}
	atomic_fetch_add(&s->errors, 1);
	if (atomic_exchange(&s->last_error, r) != r && r != -EROFS)
		log_warn("%s: %s; it will try again", s->name, strerror(-r));
}

static void commit_step(struct fs *fs, struct service *s)
{
	struct journal_status js;

	journal_get_status(fs->journal, &js);
	if (js.error || js.open_bytes == 0)
		return;
	if (js.open_bytes >= COMMIT_BYTES || clock_mono_ns(fs->clock) - js.open_since_ns >= s->interval_ns / 2)
		report(s, journal_commit_all(fs->journal, NULL));
}

static bool ring_above(struct fs *fs, unsigned percent)
{
	struct journal_status js;

	journal_get_status(fs->journal, &js);
	return js.used_blocks * 100 >= js.ring_blocks * percent;
}

static void home_step(struct fs *fs, struct service *s)
{
	bool more = homer_backlog(fs) > 0;

	while (more && !atomic_load(&fs->closing) && !atomic_load(&fs->failed)) {
		int r = fs_home_step(fs, HOMER_STEP_BLOCKS, &more);

		report(s, r);
		if (r < 0)
			break;
		if (ring_above(fs, 50))
			service_wake(&fs->checkpointer);
	}
}

static uint64_t memtable_trigger(const struct fs *fs)
{
	return fs->config.memory_bytes / 8;
}

/* Freed blocks come back only with a checkpoint: before the arena grows for want of them. */
static bool space_is_short(struct fs *fs)
{
	struct arena_status as;

	if (atomic_load(&fs->freed_since_ckpt) == 0)
		return false;
	arena_get_status(fs->arena, &as);
	return as.free_blocks - min_u64(as.free_blocks, as.reserved_blocks) < as.total_blocks / 4;
}

static void checkpoint_step(struct fs *fs, struct service *s)
{
	struct journal_status js;
	int64_t age = clock_mono_ns(fs->clock) - atomic_load(&fs->last_ckpt_ns);

	journal_get_status(fs->journal, &js);
	bool due = age >= fs->config.checkpoint_interval_ns && (js.durable_seq != fs->last_ckpt_seq || js.open_bytes > 0);
	if (due || ring_above(fs, 50) || fs->kv->ops->memory_bytes(fs->kv) >= memtable_trigger(fs) ||
	    (age >= NSEC_PER_SEC && space_is_short(fs)))
		report(s, fs_checkpoint(fs));
}

static void reap_step(struct fs *fs, struct service *s)
{
	bool more = true;

	while (more && !atomic_load(&fs->closing) && !atomic_load(&fs->failed)) {
		int r = fs_reap_step(fs, &more);

		if (r < 0) {
			report(s, r);
			break;
		}
	}
}

/* Blocks of a snapshot that was deleted come back with the checkpoint after the last step. */
static void snap_step(struct fs *fs, struct service *s)
{
	bool more = true;
	int r = 0;

	if (!snaps_dropping(fs))
		return;
	while (r == 0 && more && !atomic_load(&fs->closing) && !atomic_load(&fs->failed))
		r = fs_snap_step(fs, &more);
	report(s, r < 0 ? r : fs_checkpoint(fs));
}

static void squeeze_step(struct fs *fs, struct service *s)
{
	bool more = true;

	while (more && !atomic_load(&fs->closing) && !atomic_load(&fs->failed))
		report(s, squeeze_rested(fs, &more));
}

static void schedule_step(struct fs *fs, struct service *s)
{
	bool acted;
	int r = fs_snap_schedule_step(fs, &acted);

	if (acted)
		report(s, r);
}

static void audit_step(struct fs *fs, struct service *s)
{
	int r = audit_archive(fs);

	audit_tell_suppressed(fs, false);
	report(s, r);
}

void services_pressure(void *ctx)
{
	struct fs *fs = ctx;

	if (!fs->services_started)
		return;
	service_wake(&fs->committer);
	if (ring_above(fs, 25))
		service_wake(&fs->homer_service);
}

static void *service_main(void *p)
{
	struct service *s = p;

	pthread_setname_np(pthread_self(), s->name);
	for (;;) {
		mutex_lock(&s->lock);
		if (!s->woken && !s->stop)
			cond_wait_ns(&s->wake, &s->lock, s->interval_ns);
		s->woken = false;
		bool stop = s->stop;
		mutex_unlock(&s->lock);
		if (stop)
			return NULL;
		if (!atomic_load(&s->fs->failed))
			s->step(s->fs, s);
	}
}

static int start(struct fs *fs, struct service *s, const char *name, void (*step)(struct fs *, struct service *),
		 int64_t interval_ns)
{
	s->name = name;
	s->step = step;
	s->fs = fs;
	s->interval_ns = interval_ns;
	mutex_init(&s->lock);
	cond_init(&s->wake);
	int r = -pthread_create(&s->thread, NULL, service_main, s);
	s->running = r == 0;
	return r;
}

static void stop(struct service *s)
{
	if (!s->running)
		return;
	mutex_lock(&s->lock);
	s->stop = true;
	cond_signal(&s->wake);
	mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	s->running = false;
}

int services_start(struct fs *fs)
{
	int64_t commit = fs->config.commit_interval_ns ? fs->config.commit_interval_ns : COMMIT_INTERVAL_NS;

	if (!fs->config.checkpoint_interval_ns)
		fs->config.checkpoint_interval_ns = CHECKPOINT_INTERVAL_NS;
	int r = start(fs, &fs->committer, "committer", commit_step, commit);
	if (r == 0)
		r = start(fs, &fs->homer_service, "homer", home_step, HOMER_INTERVAL_NS);
	if (r == 0)
		r = start(fs, &fs->checkpointer, "checkpointer", checkpoint_step, NSEC_PER_SEC / 2);
	if (r == 0)
		r = start(fs, &fs->reaper, "reaper", reap_step, NSEC_PER_SEC);
	if (r == 0)
		r = start(fs, &fs->snapper, "snapshots", snap_step, SNAP_INTERVAL_NS);
	if (r == 0)
		r = start(fs, &fs->scheduler, "schedule", schedule_step, SCHEDULE_INTERVAL_NS);
	if (r == 0)
		r = start(fs, &fs->squeezer, "squeezer", squeeze_step, NSEC_PER_SEC);
	if (r == 0)
		r = start(fs, &fs->position_timer, "positions", position_step, NSEC_PER_SEC);
	if (r == 0 && fs->audit)
		r = start(fs, &fs->auditor, "auditor", audit_step, AUDIT_INTERVAL_NS);
	fs->services_started = r == 0;
	if (r < 0)
		services_stop(fs);
	return r;
}

void services_stop(struct fs *fs)
{
	struct service *all[] = {&fs->committer, &fs->homer_service,  &fs->checkpointer, &fs->reaper,  &fs->snapper,
				 &fs->scheduler, &fs->position_timer, &fs->auditor,      &fs->squeezer};

	atomic_store(&fs->closing, true);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		stop(all[i]);
	fs->services_started = false;
}
