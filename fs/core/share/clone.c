/*
 * clone.c: a part of a file becomes a part of another one, or of itself elsewhere, without a copy of its data.
 *
 * One record, CLONE, says which blocks, and no more: what they hold is what the journal's order makes of them, on every node.
 * What each slot becomes depends on what its source is here and now, and reads the same whatever that is:
 *
 *     a hole, or unwritten   a hole
 *     at home                that home, one more reference to it (share.c); both slots bear the mark
 *     in the journal         the same place in the journal, and a home of its own when the homer comes by: it holds one until
 * then cold                   there is none: nobody logs a clone of data that an object has, no follower takes one
 *
 * So nodes need not agree on what is at home, and a follower, or a recovery, that meets a source in the ring which its leader had
 * at home already, has the same file and one block more in use.
 *
 * A block of the ring that two slots want is kept for both (rule R5): the second one waits in the homer's queue from the oldest
 * batch on that may hold it, and its home is made when the batch of the CLONE is durable, too (rule R2).  It is always a new
 * home: the target of a clone keeps nothing of what it had.
 *
 * Nor is one logged of what is packed (squeeze/), or of anything while a recovery might begin with a source that is packed there,
 * and got homes without a record before it was cloned: until the checkpoint after the next.  A follower whose source is packed
 * gives it homes, durably, before it takes the record (replica/check.c).
 *
 * Copies are written, not shared, while a view is open (replica/view.c).  A node that is brought in by one may get less than the
 * view has: what changed since comes with the batches that follow.  A CLONE among those, of what has changed, would find nothing.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/core/share/share.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/usage/usage.h"

#define HOME_BLOCKS 4096u
#define HOME_WORTH  16u /* blocks in the journal from which on it pays to bring them home first */

/* ---- the record ---- */

/* What lies one after the other in file and journal is one entry of the homer's queue. */
struct clone_staged {
	struct fs *fs;
	struct staged_write w; /* n_blocks 0: none is open */
};

static int staged_end(struct clone_staged *q)
{
	int r = q->w.n_blocks ? homer_queue(q->fs, &q->w) : 0;

	q->w.n_blocks = 0;
	return r;
}

static int staged_add(struct clone_staged *q, uint64_t block, pointer_t staged)
{
	uint64_t pos = pointer_block(staged);

	if (q->w.n_blocks && block == q->w.block + q->w.n_blocks && pos == q->w.pos + q->w.n_blocks) {
		q->w.n_blocks++;
		return 0;
	}
	int r = staged_end(q);
	q->w.block = block;
	q->w.pos = pos;
	q->w.n_blocks = 1;
	return r;
}

static struct clone_staged staged_begin(struct fs *fs, uint64_t ino, uint64_t seq)
{
	uint64_t oldest = fs->config.sabotage & FS_SABOTAGE_SHARE_TRIM ? seq : homer_oldest(fs, seq);

	return (struct clone_staged){.fs = fs, .w = {.ino = ino, .seq = oldest, .ready = seq}};
}

/* Slots of one leaf that become slots of one leaf. */
struct clone_part {
	uint64_t from, to; /* blocks */
	unsigned n;
	struct leaf source, marked; /* before and after; the same leaf as `old` when `within` */
	struct leaf old, new;
	bool within;
	pointer_t gained[LEAF_SLOTS]; /* homes that get a reference */
	uint16_t was_marked;
};

static void share_slot(struct clone_part *p, unsigned i)
{
	unsigned at = (unsigned)((p->from + i) % LEAF_SLOTS);
	const struct slot *s = &p->source.slot[at];
	struct slot *to = &p->new.slot[(p->to + i) % LEAF_SLOTS];
	const pointer_t had = to->home;

	*to = (struct slot){0};
	if (!slot_has_data(s) || slot_cold(s))
		return;
	to->crc = s->crc;
	if (s->staged) {
		to->staged = s->staged;
		return;
	}
	to->home = s->home;
	to->birth = s->birth;
	to->shared = true;
	(p->within ? &p->new : &p->marked)->slot[at].shared = true;
	if (had == s->home) /* it was a clone of that before */
		return;
	p->gained[i] = s->home;
	p->was_marked |= (uint16_t)(s->shared << i);
}

/* Fills in the leaves. */
static int get_part(struct fs *fs, const struct record *r, struct clone_part *p)
{
	int e = extent_get(fs, r->clone.from, p->from / LEAF_SLOTS, &p->source);

	p->marked = p->source;
	for (unsigned i = 0; i < p->n && e == 0; i++)
		if (p->source.slot[(p->from + i) % LEAF_SLOTS].packed) /* whoever took the record saw to it that none is */
			e = -EUCLEAN;
	p->within = r->clone.from == r->ino && p->from / LEAF_SLOTS == p->to / LEAF_SLOTS;
	p->old = p->source;
	if (e == 0 && !p->within)
		e = extent_get(fs, r->ino, p->to / LEAF_SLOTS, &p->old);
	p->new = p->old;
	p->was_marked = 0;
	memset(p->gained, 0, sizeof(p->gained));
	return e;
}

static int clone_part(struct fs *fs, const struct record *r, struct inode *in, struct clone_part *p, struct clone_staged *q,
		      struct applied *applied)
{
	int e = get_part(fs, r, p);

	if (e < 0)
		return e;
	for (unsigned i = 0; i < p->n; i++)
		share_slot(p, i);
	leaf_settle(&p->new);
	/* First the references: a home that comes and goes in one leaf is never without any. */
	e = share_gain(fs, p->gained, p->was_marked);
	if (e == 0 && !p->within && memcmp(&p->marked, &p->source, sizeof(p->source)) != 0)
		e = extent_put(fs, NULL, r->clone.from, p->from / LEAF_SLOTS, &p->source, &p->marked, NULL);
	if (e == 0)
		e = extent_put(fs, in, r->ino, p->to / LEAF_SLOTS, &p->old, &p->new, applied);
	for (unsigned i = 0; i < p->n && e == 0; i++) {
		const struct slot *s = &p->new.slot[(p->to + i) % LEAF_SLOTS];

		if (s->staged)
			e = staged_add(q, p->to + i, s->staged);
	}
	return e;
}

static unsigned part_blocks(uint64_t from, uint64_t to, uint64_t left)
{
	unsigned n = LEAF_SLOTS - (unsigned)(from % LEAF_SLOTS), m = LEAF_SLOTS - (unsigned)(to % LEAF_SLOTS);

	return (unsigned)min_u64(left, n < m ? n : m);
}

int clone_apply(struct fs *fs, const struct record *r, uint64_t seq, struct applied *applied)
{
	struct clone_staged q = staged_begin(fs, r->ino, seq);
	struct clone_part p;
	struct inode *in;
	int e = icache_get(fs->icache, r->ino, &in);

	for (uint32_t i = 0; i < r->clone.n_blocks && e == 0; i += p.n) {
		p.from = r->clone.from_block + i;
		p.to = r->clone.block + i;
		p.n = part_blocks(p.from, p.to, r->clone.n_blocks - i);
		e = clone_part(fs, r, in, &p, &q, applied);
	}
	if (e == 0)
		e = staged_end(&q);
	if (e < 0)
		return e;
	in->size = r->clone.size;
	in->mtime_ns = in->ctime_ns = r->clone.mtime_ns;
	in->dirty = true;
	return 0;
}

int clone_requeue(struct fs *fs, const struct record *r, uint64_t seq)
{
	struct clone_staged q = staged_begin(fs, r->ino, seq);
	struct leaf l;
	int e = 0;

	for (uint32_t i = 0; i < r->clone.n_blocks && e == 0; i++) {
		uint64_t block = r->clone.block + i;

		if (i == 0 || block % LEAF_SLOTS == 0)
			e = extent_get(fs, r->ino, block / LEAF_SLOTS, &l);
		if (e == -EBADMSG) { /* said; nothing that it maps can be read */
			memset(&l, 0, sizeof(l));
			e = 0;
		}
		if (e == 0 && l.slot[block % LEAF_SLOTS].staged)
			e = staged_add(&q, block, l.slot[block % LEAF_SLOTS].staged);
	}
	return e < 0 ? e : staged_end(&q);
}

/* ---- the operation ---- */

static int get_files(struct fs *fs, const struct clone_range *c, struct inode **ret_from, struct inode **ret_to)
{
	int r = icache_get(fs->icache, c->from, ret_from);

	if (r == 0)
		r = icache_get(fs->icache, c->to, ret_to);
	if (r < 0)
		return r;
	if (S_ISDIR((*ret_from)->mode) || S_ISDIR((*ret_to)->mode))
		return -EISDIR;
	return S_ISREG((*ret_from)->mode) && S_ISREG((*ret_to)->mode) ? 0 : -EINVAL;
}

/* How much of it one record shares. */
struct clone_plan {
	uint64_t len; /* bytes */
	uint32_t n_blocks;
	uint32_t n_staged; /* of them in the journal: each will want a home */
};

/* Up to the first block that an object has, or the end of what one record says. */
static int plan_blocks(struct fs *fs, const struct clone_range *c, uint64_t n, struct clone_plan *ret)
{
	struct leaf l;

	*ret = (struct clone_plan){0};
	for (; ret->n_blocks < n; ret->n_blocks++) {
		uint64_t block = c->from_off / BLOCK_SIZE + ret->n_blocks;
		const struct slot *s = &l.slot[block % LEAF_SLOTS];

		if (ret->n_blocks == 0 || block % LEAF_SLOTS == 0) {
			int r = extent_get(fs, c->from, block / LEAF_SLOTS, &l);

			if (r < 0)
				return r;
		}
		if (s->tiered || s->packed)
			return 0;
		ret->n_staged += s->staged != 0;
	}
	return 0;
}

/*
 * A last block that is not whole is shared where both files end with it: beyond the end of a file its block holds zeros.
 */
static int plan(struct fs *fs, const struct clone_range *c, const struct inode *from, const struct inode *to,
		struct clone_plan *ret)
{
	uint64_t len = c->from_off < from->size ? min_u64(c->len, from->size - c->from_off) : 0, n = len / BLOCK_SIZE;
	bool ends = len % BLOCK_SIZE && c->from_off + len == from->size && c->to_off + len >= to->size;
	int r = plan_blocks(fs, c, min_u64(n + ends, RECORD_CLONE_BLOCKS_MAX), ret);

	ret->len = min_u64(len, (uint64_t)ret->n_blocks * BLOCK_SIZE);
	return r;
}

static int log_locked(struct fs *fs, const struct fs_cred *cred, const struct clone_range *c, const struct clone_plan *p,
		      const struct inode *to)
{
	struct quota_claim claim = {0};
	struct record rec = {0};
	int r = p->n_staged ? arena_reserve(fs->arena, p->n_staged) : 0;

	if (r < 0)
		return r;
	op_stamp(fs, cred, &rec, RECORD_CLONE, c->to);
	rec.clone.from = c->from;
	rec.clone.from_block = c->from_off / BLOCK_SIZE;
	rec.clone.block = c->to_off / BLOCK_SIZE;
	rec.clone.n_blocks = p->n_blocks;
	rec.clone.size = max_u64(to->size, c->to_off + p->len);
	rec.clone.mtime_ns = rec.time_ns;
	claim_size(&claim, to, c->to_off + p->len);
	return fs_log_claimed(fs, &rec, 1, p->n_staged, &claim);
}

/* 1: much of it is in the journal, and may come home first. */
static int clone_locked(struct fs *fs, const struct fs_cred *cred, const struct clone_range *c, bool may_home, uint64_t *ret_len)
{
	uint64_t block = c->to_off / BLOCK_SIZE;
	struct inode *from, *to;
	struct clone_plan p;
	int r = get_files(fs, c, &from, &to);

	if (r == 0)
		r = plan(fs, c, from, to, &p);
	if (r < 0 || p.n_blocks == 0)
		return r;
	if (may_home && p.n_staged >= HOME_WORTH)
		return 1;
	r = extent_check(fs, to, block, block + p.n_blocks);
	if (r == 0)
		r = log_locked(fs, cred, c, &p, to);
	if (r == 0)
		*ret_len = p.len;
	return r;
}

static int clone_once(struct fs *fs, const struct fs_cred *cred, const struct clone_range *c, bool may_home, uint64_t *ret_len)
{
	const uint64_t inos[] = {c->from, c->to};
	struct lockset ls;
	int r = op_begin(fs);

	if (r < 0)
		return r;
	if (atomic_load(&fs->shares->views) == 0) {
		lockset_lock(fs->icache, &ls, inos, c->from == c->to ? 1 : 2);
		if (squeeze_is_settled(fs))
			r = clone_locked(fs, cred, c, may_home, ret_len);
		lockset_unlock(fs->icache, &ls);
	}
	op_end(fs);
	return r;
}

/* What is in the journal now gets its home, so that it can be shared.  What stays there is cloned all the same. */
static void bring_home(struct fs *fs)
{
	int r = journal_commit_all(fs->journal, NULL);
	uint64_t steps = homer_backlog(fs) / HOME_BLOCKS + 1;
	bool more = true;

	while (r == 0 && more && steps-- > 0)
		r = fs_home_step(fs, HOME_BLOCKS, &more);
}

/* Before the first one: the superblock is written outside of the gate, and only where this node may change anything. */
static int prepare(struct fs *fs)
{
	int r;

	if (atomic_load(&fs->shares->feature))
		return 0;
	r = op_begin(fs);
	if (r < 0)
		return r;
	op_end(fs);
	return share_feature(fs); /* nothing to do where another one made the first one meanwhile */
}

int clone_range(struct fs *fs, const struct fs_cred *cred, const struct clone_range *c, uint64_t *ret_len)
{
	bool tried = false, homed = false;
	int r = prepare(fs);

	*ret_len = 0;
	if (r < 0)
		return r;
	do {
		r = clone_once(fs, cred, c, !homed, ret_len);
		if (r == 1) {
			bring_home(fs);
			homed = true;
		}
	} while (r == 1 || op_retry_space(fs, r, &tried));
	return r;
}
