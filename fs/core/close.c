/*
 * close.c: the end of a volume: with everything at home and a last checkpoint, or as kill -9 would leave it.
 */
#include "fs/core/archive/archiving.h"
#include "fs/core/audit/audit.h"
#include "fs/core/open_impl.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/share/share.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/tier/tier.h"
#include "fs/core/usage/usage.h"

#define DRAIN_NS   (10 * NSEC_PER_SEC)
#define REAP_NS    (5 * NSEC_PER_SEC)
#define SQUEEZE_NS (5 * NSEC_PER_SEC)

/*
 * Those inside stores, and who waits for what they fetch, come out first; then who asked them, last who fetches for the others.
 * While there are services: a change that one of them is at may need room.  Again: does nothing.
 */
static void close_tiers(struct fs *fs)
{
	atomic_store(&fs->closing, true);
	stores_shut(fs);
	recall_shut(fs);
	scrub_shut(fs); /* its threads wait for both of these */
	jobs_close(fs);
	archiver_stop(fs);
	ageing_close(fs);
	recall_close(fs);
}

void fs_free(struct fs *fs) NO_THREAD_SAFETY
{
	close_tiers(fs);
	scrub_close(fs);
	archiver_close(fs);
	stores_close(fs);
	resync_free(fs);
	audit_close(fs);
	fs->journal = journal_close(fs->journal);
	durability_close(fs);
	positions_close(fs);
	usage_close(fs);
	feed_close(fs);
	squeeze_close(fs);
	policies_free(fs);
	fs->arena = arena_close(fs->arena);
	fs->icache = icache_free(fs->icache);
	fs->lcache = lcache_free(fs->lcache);
	snaps_close(fs);
	shares_close(fs);
	fs->kv = kv_close(fs->kv);
	fs->refs = refs_free(fs->refs);
	fs->sums = sums_free(fs->sums);
	objects_close(fs);
	watches_close(fs);
	damage_close(fs);
	replica_close(fs);
	homer_destroy(&fs->homer);
	free(fs->reap);
	mutex_destroy(&fs->failure_lock);
	mutex_destroy(&fs->reap_lock);
	mutex_destroy(&fs->rename_lock);
	mutex_destroy(&fs->wide_lock);
	mutex_destroy(&fs->maint);
	mutex_destroy(&fs->ckpt_lock);
	rwlock_destroy(&fs->gate);
	free(fs);
}

/* Data still in the ring goes home, so that the next mount has nothing to replay; bounded, for it is only a kindness. */
static void drain(struct fs *fs)
{
	int64_t until = clock_mono_ns(fs->clock) + DRAIN_NS;
	bool more = true;

	while (more && clock_mono_ns(fs->clock) < until)
		if (fs_home_step(fs, 4096, &more) < 0)
			return;
}

static bool ring_is_roomy(struct fs *fs)
{
	struct journal_status js;

	journal_get_status(fs->journal, &js);
	return js.used_blocks < js.ring_blocks / 4; /* below where any writer waits; a checkpoint may keep an eighth */
}

static int finish(struct fs *fs)
{
	int64_t until = clock_mono_ns(fs->clock) + REAP_NS;
	bool more = true;
	int r = journal_commit_all(fs->journal, NULL);

	/* Nobody but us makes room now.  Orphans left over are the next mount's. */
	if (r == 0 && !ring_is_roomy(fs)) {
		drain(fs);
		r = fs_checkpoint(fs);
	}
	while (r == 0 && more && ring_is_roomy(fs) && clock_mono_ns(fs->clock) < until)
		if (fs_reap_step(fs, &more) < 0)
			break;
	if (r == 0)
		r = journal_commit_all(fs->journal, NULL);
	if (r == 0) {
		drain(fs);
		squeeze_finish(fs, clock_mono_ns(fs->clock) + SQUEEZE_NS);
		r = fs_checkpoint(fs);
	}
	if (r < 0)
		return r;
	struct super s = fs->super;
	s.clean = true;
	if (s.fence <= atomic_load(&fs->applied_seq))
		s.fence = s.window = 0;
	return super_write(fs->store, &s);
}

int fs_close(struct fs *fs)
{
	int r = 0;

	close_tiers(fs);
	services_stop(fs);
	fs_end_waits(fs);
	stores_save(fs);
	if (!fs->config.read_only) {
		int failed = atomic_load(&fs->failed);

		r = failed ? failed : finish(fs);
		audit_finish(fs);
	}
	struct store *store = fs->store;
	fs_free(fs);
	store_close(store);
	return r;
}

void fs_abandon(struct fs *fs)
{
	close_tiers(fs);
	services_stop(fs);
	fs_end_waits(fs);
	struct store *store = fs->store;
	fs_free(fs);
	store_close(store);
}
