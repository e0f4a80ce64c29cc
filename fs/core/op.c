/*
 * op.c: the frame of every operation that changes something: role, room, gate, order, apply.
 *
 * Waiting for room comes before the gate: what makes room (homer, checkpoint) needs the gate or excludes it.  Whether this node
 * may write at all is looked at again under the gate: a change of role or a hand-over takes it exclusively, and who comes
 * after that must see it.
 */
#include <errno.h>

#include "base/trace.h"
#include "fs/core/core.h"
#include "fs/core/usage/usage.h"

#define HELD_POLL_US 1000u

/* Memtables above this: wait for the checkpoint that empties them, so that memory stays bounded. */
static uint64_t memtable_limit(const struct fs *fs)
{
	return fs->config.memory_bytes * 3 / 8;
}

int op_wait_memory(struct fs *fs)
{
	while (fs->services_started && fs->kv->ops->memory_bytes(fs->kv) > memtable_limit(fs)) {
		if (atomic_load(&fs->failed))
			return -EROFS;
		if (atomic_load(&fs->index_full))
			return -ENOSPC;
		service_wake(&fs->checkpointer);
		usleep(1000);
	}
	return 0;
}

/*
 * While the index has no room on the host, changes are refused before the ring is full of what no checkpoint can take over:
 * an error now instead of a wait without end.  What was acked is safe, and fsync of it works.
 */
static bool index_has_no_room(struct fs *fs)
{
	struct journal_status js;

	if (!atomic_load_explicit(&fs->index_full, memory_order_relaxed))
		return false;
	journal_get_status(fs->journal, &js);
	return js.used_blocks > js.ring_blocks / 2;
}

int op_wait_room(struct fs *fs)
{
	int r;

	do {
		if (fs->config.read_only || atomic_load_explicit(&fs->failed, memory_order_relaxed))
			return -EROFS;
		if (index_has_no_room(fs))
			return -ENOSPC;
		r = journal_wait_room(fs->journal);
	} while (r == -EAGAIN && !atomic_load(&fs->closing));
	if (r == -EAGAIN) /* nobody makes room any more */
		return -EROFS;
	return r < 0 ? r : op_wait_memory(fs);
}

/* -EAGAIN while writers are held; -EROFS also where another node may lead by now, and nobody waits any more to hear of it. */
int op_may_write(struct fs *fs)
{
	if (atomic_load_explicit(&fs->role, memory_order_relaxed) != ROLE_LEADER)
		return -EROFS;
	if (atomic_load_explicit(&fs->held, memory_order_relaxed))
		return -EAGAIN;
	return atomic_load_explicit(&fs->offered, memory_order_relaxed) ? -EROFS : 0;
}

/*
 * Whether the `rank`-th that waits must not.  While another node may have taken the lead, only an admin may be able to end the
 * wait, and of the threads that receive requests one has to be free to hear him.
 */
static bool leaves_nobody_free(struct fs *fs, uint32_t rank)
{
	return atomic_load(&fs->offered) && rank >= (fs->config.n_receivers ? fs->config.n_receivers : 2);
}

static int wait_until_may_write(struct fs *fs)
{
	int r = op_may_write(fs);

	if (r != -EAGAIN)
		return r;
	uint32_t rank = atomic_fetch_add(&fs->n_held, 1) + 1;
	while ((r = op_may_write(fs)) == -EAGAIN) {
		if (atomic_load(&fs->failed) || atomic_load(&fs->closing) || leaves_nobody_free(fs, rank))
			r = -EROFS;
		if (r == -EROFS)
			break;
		usleep(HELD_POLL_US);
	}
	atomic_fetch_sub(&fs->n_held, 1);
	return r;
}

int op_begin(struct fs *fs) NO_THREAD_SAFETY
{
	int r;

	do {
		r = wait_until_may_write(fs);
		if (r == 0)
			r = op_wait_room(fs);
		if (r < 0)
			return r;
		rwlock_rdlock(&fs->gate);
		r = op_may_write(fs);
		if (r < 0)
			rwlock_rdunlock(&fs->gate);
	} while (r == -EAGAIN);
	if (r == 0)
		TRACE_STAGE(admitted, HISTOGRAM_WRITE_ADMIT, 0);
	return r;
}

void op_end(struct fs *fs) NO_THREAD_SAFETY
{
	rwlock_rdunlock(&fs->gate);
}

void op_stamp(struct fs *fs, const struct fs_cred *cred, struct record *r, unsigned type, uint64_t ino)
{
	r->type = (uint8_t)type;
	r->ino = ino;
	r->time_ns = clock_real_ns(fs->clock);
	if (cred) {
		r->uid = cred->uid;
		r->gid = cred->gid;
		r->pid = cred->pid;
		r->unique = cred->unique;
	}
}

static int append(struct fs *fs, struct record *records, size_t n, uint64_t promised, struct quota_claim *claim)
{
	struct applied applied = {.claim = claim};
	uint64_t seq;

	TRACE_STAGE(prepared, HISTOGRAM_WRITE_PREPARE, 0);
	int r = journal_append(fs->journal, records, n, &seq);

	if (r == 0) {
		TRACE_STAGE(logged, HISTOGRAM_WRITE_LOG, seq);
		for (size_t i = 0; i < n && r == 0; i++)
			r = apply_record(fs, &records[i], seq, &applied);
		if (r < 0) /* the journal has it, the index has half of it: only replay can say what is true */
			fs_fail(fs, r, "a change could not be applied to the index: %s of inode %llu",
				record_type_name(records[0].type), (unsigned long long)records[0].ino);
		raise_u64(&fs->applied_seq, seq);
		TRACE_STAGE(applied, HISTOGRAM_WRITE_APPLY, seq);
		positions_reached(fs);
	}
	int64_t back = (int64_t)promised - applied.reserved;
	if (back > 0)
		arena_unreserve(fs->arena, (uint64_t)back);
	return r;
}

int fs_log(struct fs *fs, struct record *records, size_t n, uint64_t promised)
{
	return append(fs, records, n, promised, NULL);
}

int fs_log_claimed(struct fs *fs, struct record *records, size_t n, uint64_t promised, struct quota_claim *claim)
{
	int r = claim_take(fs, claim);

	if (r < 0) {
		if (promised)
			arena_unreserve(fs->arena, promised);
		return r;
	}
	r = append(fs, records, n, promised, claim);
	claim_end(fs, claim);
	return r;
}

bool op_retry_space(struct fs *fs, int error, bool *tried)
{
	struct arena_status as;

	if (error != -ENOSPC || *tried)
		return false;
	arena_get_status(fs->arena, &as);
	if (as.limbo_blocks == 0)
		return false;
	*tried = true;
	return fs_checkpoint(fs) == 0;
}
