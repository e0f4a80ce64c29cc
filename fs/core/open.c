/*
 * open.c: opens a volume: recovery, then the first writes of this mount, then threads.
 *
 * Recovery, in order: superblock; index, and in it the anchor; arena and its bitmap; journal, replayed from the anchor's
 * tail (recover.c).  Up to here nothing was written.  Then the incarnation is raised durably, the journal starts, and an
 * EPOCH record, committed, proves that this node can write.
 *
 * A follower writes no record of its own: what its staging files held is committed as it is, and is what its leader goes on
 * after.  Batches of a fence window (replica/window.c) stay in the journal, unapplied.  A follower that was between two states
 * replays nothing: its journal begins anew and nothing is readable until a resync is complete.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/core/audit/audit.h"
#include "fs/core/archive/archiving.h"
#include "fs/core/index.h"
#include "fs/core/open_impl.h"
#include "fs/core/share/share.h"
#include "fs/core/snap/marks.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/tier/tier.h"
#include "fs/core/usage/usage.h"
#include "fs/store/super_format.h"
#include "journal/ship.h"

#define MEMORY_DEFAULT   (512 * MIB)
#define STRIPES          4096u
#define LEAF_CACHE_SHARE 16 /* of memory_bytes */
#define LEAVES_SMALL     512u
#define STRIPES_SMALL    64u /* without threads there is nobody to wait for */

static void journal_failed_hook(void *ctx, int error, const char *what)
{
	fs_fail(ctx, error, "%s", what);
}

static int flush_data_hook(void *ctx)
{
	struct fs *fs = ctx;

	return arena_flush(fs->arena);
}

int fs_new(const struct fs_config *c, struct fs **ret)
{
	CLEANUP_FREE struct fs *fs = calloc(1, sizeof(*fs));

	if (!fs)
		return -ENOMEM;
	fs->config = *c;
	fs->store = c->store;
	fs->clock = c->clock ? c->clock : &clock_system;
	if (!fs->config.memory_bytes)
		fs->config.memory_bytes = MEMORY_DEFAULT;
	if (!fs->config.n_workers)
		fs->config.n_workers = 1;
	int r = refs_new(&fs->refs);
	if (r == 0)
		r = snaps_open(fs);
	if (r == 0)
		r = shares_open(fs);
	if (r < 0) {
		snaps_close(fs);
		refs_free(fs->refs);
		return r;
	}
	rwlock_init(&fs->gate);
	mutex_init(&fs->ckpt_lock);
	mutex_init(&fs->maint);
	mutex_init(&fs->wide_lock);
	mutex_init(&fs->rename_lock);
	mutex_init(&fs->homer.lock);
	mutex_init(&fs->reap_lock);
	mutex_init(&fs->failure_lock);
	*ret = TAKE_PTR(fs);
	return 0;
}

static struct journal_geometry geometry_of(const struct super *s)
{
	return (struct journal_geometry){.n_segments = s->journal_segments,
					 .segment_blocks = (uint64_t)s->journal_segment_kib * KIB / BLOCK_SIZE};
}

int fs_open_arena(struct fs *fs, uint32_t n_chunks)
{
	const struct arena_config ac = {.store = fs->store,
					.chunk_blocks = (uint64_t)fs->super.chunk_kib * KIB / BLOCK_SIZE,
					.max_blocks = fs->super.max_blocks,
					.host_reserve = fs->super.host_reserve,
					.n_chunks_known = n_chunks,
					.no_threads = fs->config.no_threads || fs->config.read_only};

	return arena_open(&ac, &fs->arena);
}

static int open_caches(struct fs *fs)
{
	bool small = fs->config.no_threads;
	uint32_t leaves = small ? LEAVES_SMALL : (uint32_t)(fs->config.memory_bytes / LEAF_CACHE_SHARE / sizeof(struct leaf));
	int r = icache_new(fs->kv, small ? STRIPES_SMALL : STRIPES, &fs->icache);

	return r < 0 ? r : lcache_new(fs->kv, leaves, &fs->lcache);
}

static int check_super(const struct fs *fs)
{
	const struct super *s = &fs->super;

	if (s->incompat & ~SUPER_INCOMPAT_KNOWN) {
		log_error("the volume uses features this version does not know (%llx): use a newer clawfs",
			  (unsigned long long)(s->incompat & ~SUPER_INCOMPAT_KNOWN));
		return -EPROTONOSUPPORT;
	}
	if (!(s->incompat & SUPER_ENCRYPTED) != !fs->config.encryption) {
		log_error(fs->config.encryption ? "the volume is not encrypted: it may be another one"
						: "the volume is encrypted: it can only be used with its key");
		return -ENOKEY;
	}
	if (s->ro_compat && !fs->config.read_only) {
		log_error("the volume uses features (%llx) with which this version can only read it: mount it read-only, or use "
			  "a newer clawfs",
			  (unsigned long long)s->ro_compat);
		return -EPROTONOSUPPORT;
	}
	return 0;
}

static int load_bitmap(struct fs *fs)
{
	static const uint8_t first[] = {TABLE_BITMAP};
	struct kv_iter *it;
	int r = fs->kv->ops->iter_open(fs->kv, &it);

	if (r < 0)
		return r;
	for (fs->kv->ops->iter_seek(it, (struct slice){first, 1}); r == 0 && fs->kv->ops->iter_valid(it);
	     fs->kv->ops->iter_next(it)) {
		struct slice key = fs->kv->ops->iter_key(it), value = fs->kv->ops->iter_value(it);
		const uint8_t *k = key.p;

		if (key.len == 0 || k[0] != TABLE_BITMAP)
			break;
		if (key.len != 17 || value.len != ARENA_PAGE_BYTES)
			r = -EUCLEAN;
		else
			r = arena_load(fs->arena, (unsigned)be64_get(k + 1), be64_get(k + 9), value.p);
	}
	if (r == 0)
		r = fs->kv->ops->iter_error(it);
	fs->kv->ops->iter_close(it);
	return r;
}

static int open_index(struct fs *fs, struct anchor *ret)
{
	int r = fs->config.kv_open(fs->config.kv_ctx, false, &fs->kv);

	while (r == -ENOSPC && !fs->config.read_only && ballast_drop(fs, true))
		r = fs->config.kv_open(fs->config.kv_ctx, false, &fs->kv);
	if (r < 0) {
		log_error("the index cannot be opened: %s", strerror(-r));
		return r;
	}
	r = marks_wrap(fs, &fs->kv);
	if (r < 0)
		return r;
	r = index_get_anchor(fs->kv, ret);
	if (r < 0) {
		log_error("the index has no valid anchor: it is damaged, or not this volume's");
		return r == -ENOENT ? -EUCLEAN : r;
	}
	if (memcmp(ret->volume, fs->super.volume, sizeof(ret->volume)) != 0) {
		log_error("the index belongs to another volume");
		return -EUCLEAN;
	}
	atomic_store(&fs->next_ino, ret->next_ino);
	atomic_store(&fs->n_inodes, ret->n_inodes);
	atomic_store(&fs->snapshot_generation, ret->snapshot_generation);
	atomic_store(&fs->history, ret->epoch);
	atomic_store(&fs->applied_seq, ret->applied_seq);
	sums_begin_after(fs, ret->applied_seq);
	return open_caches(fs);
}

static int open_journal(struct fs *fs)
{
	struct journal_config jc = {
	    .store = fs->store,
	    .clock = fs->clock,
	    .epoch = fs->super.epoch,
	    .incarnation = fs->super.incarnation + 1,
	    .geometry = geometry_of(&fs->super),
	    .cut = {fs->super.cut, fs->super.cut_incarnation},
	    .hooks = {.ctx = fs,
		      .flush_data = flush_data_hook,
		      .pressure = services_pressure,
		      .failed = journal_failed_hook,
		      .durable = replica_durable,
		      .sabotage = fs->config.sabotage & FS_SABOTAGE_R1_SKIP_FLUSH ? JOURNAL_SABOTAGE_SKIP_FLUSH_DATA : 0},
	    .signer = fs->config.signer,
	    .whole_batches = fs->super.follower,
	    .n_writers = fs->config.n_workers + 2,
	};

	memcpy(jc.volume, fs->super.volume, sizeof(jc.volume));
	return journal_open(&jc, &fs->journal);
}

/* A volume whose root cannot be read has nothing to serve (guarantee G8). */
static int check_root(struct fs *fs)
{
	struct inode root;
	int r = icache_copy(fs->icache, FS_ROOT_INO, &root);

	if (r == 0 && S_ISDIR(root.mode))
		return 0;
	log_error("the root directory cannot be read: the index is damaged; restore the volume from a backup or replica");
	return r == 0 || r == -ENOENT ? -EUCLEAN : r;
}

/* Of a volume between two states: what its journal holds belongs to neither. */
static int begin_anew(struct fs *fs, const struct anchor *a)
{
	struct journal_point at = {a->tail.seq, a->tail.pos, a->tail.hash};

	atomic_store(&fs->applied_seq, at.seq);
	return journal_reset(fs->journal, &at);
}

/* The first writes of this mount. */
static int begin_writing(struct fs *fs, const struct anchor *a)
{
	struct super s = fs->super;

	s.incarnation++;
	s.clean = false;
	/* A chunk whose maker was killed before its name was durable was adopted: data goes there from now on. */
	int r = store_sync_names(fs->store);
	if (r == 0)
		r = super_write(fs->store, &s);
	if (r < 0)
		return r;
	fs->super = s;
	snap_sweep_dirs(fs);
	r = s.resyncing ? begin_anew(fs, a) : journal_start(fs->journal);
	if (r == 0)
		r = snap_roll_resume(fs);
	atomic_store(&fs->held, fs->config.lead_later);
	if (r < 0)
		return r;
	return fs->config.lead_later ? journal_commit_all(fs->journal, NULL) : replica_begin_leading(fs);
}

static int open_all(struct fs *fs)
{
	struct anchor a;
	int r = super_read(fs->store, &fs->super);

	if (r == 0)
		r = check_super(fs);
	if (r == 0)
		r = replica_open(fs);
	if (r == 0)
		r = sums_new(&fs->sums);
	if (r == 0)
		r = objects_open(fs);
	if (r == 0)
		r = watches_open(fs);
	if (r == 0)
		r = open_index(fs, &a);
	if (r == 0)
		r = damage_open(fs);
	if (r == 0)
		r = policies_load(fs);
	if (r == 0)
		r = snaps_load(fs);
	if (r == 0)
		r = marks_open(fs, a.applied_seq);
	if (r == 0)
		r = squeeze_open(fs);
	if (r == 0)
		r = usage_open(fs, a.applied_seq);
	if (r == 0)
		r = fs_open_arena(fs, a.n_chunks);
	if (r == 0)
		r = load_bitmap(fs);
	if (r == 0)
		r = open_journal(fs);
	if (r == 0)
		r = recover_volume(fs, &a);
	if (r == 0 && fs->config.read_only)
		r = snap_roll_resume(fs);
	if (r == 0 && !fs->super.resyncing)
		r = check_root(fs);
	if (r == 0 && !fs->config.read_only)
		r = reap_queue_orphans(fs, &fs->recovery.orphans);
	if (r == 0 && !fs->config.read_only)
		r = begin_writing(fs, &a);
	if (r == 0 && !fs->config.read_only)
		ballast_lay(fs);
	if (r == 0 && !fs->config.read_only)
		r = usage_begin(fs);
	if (r == 0 && !fs->config.read_only)
		r = replica_window_resume(fs);
	atomic_store(&fs->last_ckpt_ns, clock_mono_ns(fs->clock));
	if (r == 0)
		replica_judge(fs);
	if (r == 0)
		r = durability_open(fs);
	if (r == 0)
		r = positions_open(fs);
	if (r == 0)
		r = feed_open(fs);
	if (r == 0)
		r = audit_open(fs);
	if (r == 0)
		r = stores_open(fs);
	if (r == 0)
		r = recall_open(fs);
	if (r == 0)
		r = ageing_open(fs);
	if (r == 0)
		r = jobs_open(fs);
	if (r == 0)
		r = scrub_open(fs);
	if (r == 0)
		r = archiver_open(fs);
	if (r == 0 && !fs->config.read_only && !fs->config.no_threads)
		r = services_start(fs);
	return r;
}

int fs_open(const struct fs_config *c, struct fs **ret)
{
	struct fs *fs;
	int r = fs_new(c, &fs);

	if (r < 0)
		return r;
	r = open_all(fs);
	if (r < 0) {
		fs_free(fs);
		return r;
	}
	*ret = fs;
	return 0;
}

void fs_get_recovery(struct fs *fs, struct fs_recovery *ret)
{
	*ret = fs->recovery;
}
