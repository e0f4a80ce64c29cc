/*
 * rollback.c: the live tree becomes again what a snapshot has, in place.
 *
 *     1  the snapshot is read, all rows of it: one that is damaged is refused before anything changes
 *     2  as for a new snapshot (create.c): what is in the journal goes home, a checkpoint, under the gate, exclusive
 *     3  the present is kept as a snapshot of its own, unless that is not wanted
 *     4  the SNAPROLL record is appended and committed, the only one in its batch.  It decides: from then on the tree is the
 * snapshot's 5  every stripe is locked, so that nobody sees half of it, and the indexes are compared, row by row
 * (rollback_walk.c) 6  a checkpoint; then the gate is left
 *
 * Until 6 is durable the record is the last one of the journal, and every anchor says that it was not applied
 * (snap_roll_bound()), also those of checkpoints that are made on the way because memory is full.  So recovery finds it, notes it
 * as it did live, and walks again before anything else is written: what is done is equal by then.  No mark is needed besides. The
 * same on a follower, with its own copy of the snapshot and its own blocks; one that does not hold the snapshot needs a resync.
 *
 * An error on the way stops the volume: a restart goes on.
 *
 * Other snapshots stay as they are, the newer ones too: see dead.c and docs/FORMAT.md for what that means to deadlists.
 */
#include "fs/core/snap/rollback.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "fs/core/replica/impl.h"
#include "fs/core/usage/usage.h"
#include "fs/store/super_format.h"

/* ---- the record ---- */

int snap_roll_note(struct fs *fs, const struct record *r, uint64_t seq)
{
	struct snaps *s = fs->snaps;

	if (!snaps_find_gen(s, r->snap.gen))
		return -EUCLEAN;
	s->roll.gen = r->snap.gen;
	s->roll.time_ns = r->time_ns;
	atomic_store(&s->roll.seq, seq);
	return 0;
}

bool snap_rolling(struct fs *fs)
{
	return atomic_load(&fs->snaps->roll.seq) != 0;
}

uint64_t snap_roll_bound(struct fs *fs, uint64_t applied_seq)
{
	uint64_t seq = atomic_load(&fs->snaps->roll.seq);

	return seq && !(fs->config.sabotage & FS_SABOTAGE_ROLL_APPLIED) ? min_u64(applied_seq, seq - 1) : applied_seq;
}

int snap_roll_feature(struct fs *fs)
{
	return replica_set_feature(fs, SUPER_ROLLBACK);
}

static bool has_feature(struct fs *fs, uint64_t bit)
{
	struct super s;

	replica_get_super(fs, &s);
	return s.incompat & bit;
}

bool snap_was_rolled(struct fs *fs)
{
	return has_feature(fs, SUPER_ROLLBACK);
}

/* ---- the walk ---- */

static uint64_t reserved_now(struct fs *fs)
{
	struct arena_status as;

	arena_get_status(fs->arena, &as);
	return as.reserved_blocks;
}

static void settle_reserved(struct roll *w)
{
	arena_set_reserved(w->fs->arena, w->reserved > 0 ? (uint64_t)w->reserved : 0);
}

int roll_pause(struct roll *w)
{
	struct fs *fs = w->fs;

	settle_reserved(w);
	return checkpoint_if_full(fs);
}

/* Its counters; whoever has the index has them. */
static int then_anchor(struct kv *kv, struct anchor *ret)
{
	int r = index_get_anchor(kv, ret);

	return r == -ENOENT ? -EUCLEAN : r;
}

/* What is known in memory of the tree as it was counts for nothing. */
static void forget_tree(struct fs *fs)
{
	usage_forget(fs);
	reap_forget(fs);
	refs_not_orphans(fs->refs);
	icache_clear(fs->icache);
	lcache_clear(fs->lcache);
}

static void counts_are_old(struct snaps *s)
{
	mutex_lock(&s->lock);
	for (size_t i = 0; i < s->n_held; i++)
		s->held[i]->counted = false;
	mutex_unlock(&s->lock);
}

/* Every stripe is held, or nobody else is there. */
static int walk(struct fs *fs, uint32_t top, struct kv *kv)
{
	const struct rolling *roll = &fs->snaps->roll;
	struct roll w = {.fs = fs,
			 .top = top,
			 .kv = kv,
			 .applied = {.seq = roll->seq, .time_ns = roll->time_ns},
			 .reserved = (int64_t)reserved_now(fs),
			 .shares = has_feature(fs, SUPER_SHARED),
			 .list = top};
	uint64_t orphans;
	struct anchor a;
	int r = then_anchor(kv, &a);

	if (r < 0)
		return r;
	forget_tree(fs);
	r = roll_walk(&w);
	settle_reserved(&w);
	if (r < 0)
		return r;
	atomic_store(&fs->n_inodes, a.n_inodes);
	raise_u64(&fs->next_ino, a.next_ino);
	counts_are_old(fs->snaps);
	r = policies_load(fs);
	if (r == 0)
		r = usage_rebuild(fs);
	if (r == 0)
		r = reap_queue_orphans(fs, &orphans);
	return r;
}

/* The stripes are held: what it left is in the sum of its batch. */
static void add_sum(struct fs *fs)
{
	const struct rolling *roll = &fs->snaps->roll;
	const struct record rec = {.type = RECORD_SNAPROLL, .ino = FS_ROOT_INO};

	sums_add(fs, roll->seq, &rec);
}

static int finish_with(struct fs *fs, const struct held *of)
{
	struct snaps *s = fs->snaps;
	struct held *h;
	struct kv *kv;
	int r = snap_get(fs, of->top, &h, &kv);

	if (r < 0)
		return r;
	icache_lock_all(fs->icache);
	r = walk(fs, h->top, kv);
	if (r == 0) {
		add_sum(fs);
		atomic_store(&s->roll.seq, 0);
	}
	icache_unlock_all(fs->icache);
	snap_put(fs, h);
	return r;
}

/* The tree is neither, or nobody knows whether the record is durable: nothing is shown, and a restart goes on. */
static void stop(struct fs *fs, int error)
{
	fs_fail(fs, error, "going back to a snapshot; the next mount goes on with it");
	replica_judge(fs);
}

/* The record is in the journal; the gate is held, exclusive, and nothing is staged, or nobody else uses the volume yet. */
static int finish(struct fs *fs)
{
	const struct held *h = snaps_find_held(fs->snaps, fs->snaps->roll.gen);
	int r = h ? finish_with(fs, h) : -ENODATA;

	if (r == 0 && !fs->config.read_only)
		r = checkpoint_again(fs);
	if (r < 0)
		stop(fs, r);
	return r;
}

static int resume_closed(void *ctx)
{
	return finish(ctx);
}

int snap_roll_resume(struct fs *fs)
{
	if (!snap_rolling(fs))
		return 0;
	log_info("going on with the way back to a snapshot, which was cut off");
	return fs->config.read_only ? finish(fs) : checkpoint_closed(fs, resume_closed, fs);
}

/* ---- before it ---- */

/* The index of the snapshot is whole.  -ENOENT: there is none of that name; -ENODATA: this node does not have its index. */
static int check_snap(struct fs *fs, uint64_t gen)
{
	struct snaps *s = fs->snaps;
	struct held *h;
	struct kv *kv;

	mutex_lock(&s->lock);
	const struct held *of = snaps_find_held(s, gen);
	uint64_t top = of ? of->top : SNAP_TOP_MAX;
	mutex_unlock(&s->lock);
	int r = snap_get(fs, top, &h, &kv);
	if (r < 0)
		return r == -ESTALE ? -ENODATA : r;
	r = roll_check(kv);
	snap_put(fs, h);
	if (r == -EUCLEAN || r == -EBADMSG)
		log_error("a snapshot cannot be gone back to, its index is damaged: %s", strerror(-r));
	return r;
}

/* Promises that the snapshot's files have and the live ones have not must find their space.  The gate is held. */
static int check_space(struct fs *fs, uint64_t gen)
{
	const struct held *of = snaps_find_held(fs->snaps, gen);
	uint64_t now = reserved_now(fs);
	struct anchor a;
	struct held *h;
	struct kv *kv;
	int r = of ? snap_get(fs, of->top, &h, &kv) : -ENODATA;

	if (r < 0)
		return r;
	r = then_anchor(kv, &a);
	snap_put(fs, h);
	if (r < 0 || a.reserved_blocks <= now)
		return r;
	r = arena_reserve(fs->arena, a.reserved_blocks - now);
	if (r == 0)
		arena_unreserve(fs->arena, a.reserved_blocks - now);
	return r;
}

/* ---- here ---- */

struct back {
	struct fs *fs;
	const struct fs_cred *cred;
	const char *name; /* of the snapshot */
	const char *keep; /* of the one that is made of the present; NULL: none is */
	uint64_t gen;
	bool kept;
};

/* The gate is held, exclusive, and everything is home and on disk. */
static int back_gated(void *ctx)
{
	struct back *b = ctx;
	struct fs *fs = b->fs;
	struct record rec = {0};
	int r = check_space(fs, b->gen);

	if (r == 0 && b->keep)
		r = snap_create_gated(fs, b->cred, b->keep);
	if (r < 0)
		return r;
	b->kept = b->keep != NULL;
	op_stamp(fs, b->cred, &rec, RECORD_SNAPROLL, FS_ROOT_INO);
	rec.snap.gen = b->gen;
	rec.snap.name = slice_of(b->name);
	r = snap_log_alone(fs, &rec);
	if (!snap_rolling(fs))
		return r;
	if (r < 0) {
		stop(fs, r);
		return r;
	}
	return finish(fs);
}

/* A name that no snapshot has, from the time. */
static int choose_name(struct fs *fs, char ret[RECORD_NAME_MAX + 1])
{
	time_t now = (time_t)(clock_real_ns(fs->clock) / NSEC_PER_SEC);
	char stamp[64];
	struct tm tm;

	if (!gmtime_r(&now, &tm) || strftime(stamp, sizeof(stamp), "before-rollback-%Y%m%d-%H%M%S", &tm) == 0)
		return -EOVERFLOW;
	snprintf(ret, RECORD_NAME_MAX + 1, "%s", stamp);
	for (unsigned i = 2; snap_may_create(fs, ret) == -EEXIST; i++)
		snprintf(ret, RECORD_NAME_MAX + 1, "%s-%u", stamp, i);
	return snap_may_create(fs, ret);
}

static int back_locked(struct fs *fs, const struct fs_cred *cred, const char *name, bool keep)
{
	char kept[RECORD_NAME_MAX + 1];
	struct back b = {.fs = fs, .cred = cred, .name = name, .keep = keep ? kept : NULL};
	bool tried = false;

	mutex_lock(&fs->snaps->lock);
	const struct snap *snap = snaps_find_name(fs->snaps, slice_of(name));
	int r = snap ? 0 : -ENOENT;
	b.gen = snap ? snap->gen : 0;
	mutex_unlock(&fs->snaps->lock);
	if (r == 0 && keep)
		r = choose_name(fs, kept);
	if (r == 0)
		r = check_snap(fs, b.gen);
	if (r == 0)
		r = snap_feature(fs);
	if (r == 0)
		r = snap_roll_feature(fs);
	if (r < 0)
		return r;
	do {
		r = snap_go_ahead(fs);
		if (r == 0)
			r = op_wait_room(fs);
		if (r == 0)
			r = checkpoint_closed(fs, back_gated, &b);
	} while (!b.kept && op_retry_space(fs, r, &tried)); /* what was kept may be the past by then */
	if (r == 0)
		log_info("the tree is again that of snapshot \"%s\"%s%s%s", name, keep ? "; what it was is snapshot \"" : "",
			 keep ? kept : "", keep ? "\"" : "");
	return r;
}

static int back_keep(struct fs *fs, const struct fs_cred *cred, const char *name)
{
	return back_locked(fs, cred, name, true);
}

static int back_discard(struct fs *fs, const struct fs_cred *cred, const char *name)
{
	return back_locked(fs, cred, name, false);
}

int fs_snap_rollback_here(struct fs *fs, const struct fs_cred *cred, const char *name, bool keep)
{
	/* What the kernel writes after it would be a change of the tree as it is then. */
	replica_changed(fs, &(struct fs_change){.kind = CHANGE_SOON});
	int r = snap_while_leading(fs, cred, name, keep ? back_keep : back_discard);

	if (r < 0)
		return r;
	durability_policy_changed(fs);
	replica_changed(fs, &(struct fs_change){.kind = CHANGE_ALL});
	if (fs->services_started)
		service_wake(&fs->reaper);
	return 0;
}

int fs_snap_rollback(struct fs *fs, const struct fs_cred *cred, const char *name, bool keep)
{
	int r = fs_snap_rollback_here(fs, cred, name, keep);

	return r < 0 ? r : fs_sync(fs);
}

/* ---- a follower ---- */

struct follow {
	struct fs *fs;
	uint64_t gen;
	int (*then)(void *ctx);
	void *ctx;
};

static int follow_gated(void *ctx)
{
	struct follow *f = ctx;
	int r = check_space(f->fs, f->gen);

	if (r == 0)
		r = f->then(f->ctx);
	return r == 0 && snap_rolling(f->fs) ? finish(f->fs) : r;
}

/*
 * The batch is not taken, and never can be: the leader is told so, and a resync brings its effect.  Until then what is here is
 * whole, is read, and can lead.
 */
static int need_resync(struct fs *fs, const struct record *r)
{
	atomic_store(&fs->replica->lacks, true);
	log_warn("the leader went back to snapshot \"%.*s\", which this node does not have: it needs a resync",
		 (int)r->snap.name.len, (const char *)r->snap.name.p);
	return -EUCLEAN;
}

int snap_roll_follow(struct fs *fs, const struct record *r, int (*then)(void *ctx), void *ctx)
{
	struct follow f = {.fs = fs, .gen = r->snap.gen, .then = then, .ctx = ctx};
	int e = check_snap(fs, r->snap.gen);

	if (e == -ENODATA || e == -EIO || e == -EUCLEAN || e == -EBADMSG)
		return need_resync(fs, r);
	if (e == 0)
		e = snap_roll_feature(fs);
	if (e == 0)
		e = snap_go_ahead(fs);
	return e < 0 ? e : checkpoint_closed(fs, follow_gated, &f);
}
