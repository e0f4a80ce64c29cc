/*
 * recover.c: what the journal adds to the index when a volume is opened.
 *
 * Records that the index has already only queue their data for the homer again; later ones are applied by the code that applied
 * them first.  Nothing is written.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/share/share.h"
#include "journal/ship.h"

static int replay_apply(void *ctx, const struct record *r, uint64_t seq)
{
	struct fs *fs = ctx;
	struct applied applied = {0};

	if (seq <= fs->replay_applied) { /* in the index already; its data still waits in the ring */
		if (r->type == RECORD_CLONE)
			return clone_requeue(fs, r, seq);
		if (r->type != RECORD_WRITE || r->write.out_of_line)
			return 0;
		return homer_queue(fs, &(struct staged_write){.ino = r->ino,
							      .block = r->write.block,
							      .pos = pointer_block(r->write.staged),
							      .seq = seq,
							      .ready = seq,
							      .n_blocks = r->write.n_blocks});
	}
	if (seq > fs->replay_limit)
		return replica_window_keep(fs, r);
	int e = apply_record(fs, r, seq, &applied);
	fs->replay_reserved += applied.reserved;
	if (e < 0)
		log_error("replay: batch %llu: %s of inode %llu does not fit the index: %s", (unsigned long long)seq,
			  record_type_name(r->type), (unsigned long long)r->ino, strerror(-e));
	raise_u64(&fs->applied_seq, seq);
	return e == -ENOENT ? -EUCLEAN : e;
}

/* A staged write whose blocks never reached the disk was not durable, and nothing after it counts. */
static bool replay_verify(void *ctx, const struct record *r)
{
	CLEANUP_FREE void *block = NULL;
	struct fs *fs = ctx;
	uint32_t at = 0;

	if (posix_memalign(&block, DISK_BLOCK, BLOCK_SIZE))
		return false;
	for (uint32_t i = 0; i < r->write.n_runs; i++)
		for (uint32_t b = 0; b < r->write.runs[i].n_blocks; b++, at++)
			if (at >= r->write.n_blocks ||
			    arena_read(fs->arena, pointer_add(r->write.runs[i].start, b), 1, block) < 0 ||
			    crc32c(0, block, BLOCK_SIZE) != r->write.crc[at])
				return false;
	return at == r->write.n_blocks;
}

static int replay(struct fs *fs, const struct anchor *a)
{
	const struct journal_point from = {a->tail.seq, a->tail.pos, a->tail.hash};
	const struct journal_replay_ops ops = {.ctx = fs, .apply = replay_apply, .verify = replay_verify};
	struct journal_replay_result res = {0};
	int64_t began = clock_mono_ns(fs->clock);

	fs->replaying = true;
	fs->replay_applied = a->applied_seq;
	/* The index may have some of a window: then all of it is durable, and the rest is applied as it would have been. */
	fs->replay_limit = fs->super.window ? max_u64(fs->super.window - 1, a->applied_seq) : UINT64_MAX;
	int r = journal_replay(fs->journal, &from, &ops, &res);
	fs->replaying = false;
	if (r == -EBADMSG && res.bad_seq)
		log_error("the journal is damaged: batch %llu at block %llu was acknowledged and cannot be read; run clawfs "
			  "fsck, or restore from a replica",
			  (unsigned long long)res.bad_seq, (unsigned long long)res.bad_pos);
	if (r < 0)
		return r;
	if (res.end.seq < a->applied_seq) {
		log_error("the journal ends at batch %llu, before what the index has applied (%llu): segments are missing or "
			  "from an older copy",
			  (unsigned long long)res.end.seq, (unsigned long long)a->applied_seq);
		return -EBADMSG;
	}
	arena_set_reserved(fs->arena, (uint64_t)((int64_t)a->reserved_blocks + fs->replay_reserved));
	fs->last_ckpt_seq = a->applied_seq;
	fs->recovery = (struct fs_recovery){.batches = res.n_batches,
					    .records = res.n_records,
					    .staged_records = res.n_staged_records,
					    .bytes = res.bytes,
					    .nanoseconds = clock_mono_ns(fs->clock) - began,
					    .was_clean = fs->super.clean};
	return 0;
}

int recover_volume(struct fs *fs, const struct anchor *a)
{
	if (!fs->super.resyncing)
		return replay(fs, a);
	fs->recovery.was_clean = fs->super.clean;
	arena_set_reserved(fs->arena, a->reserved_blocks);
	return 0;
}
