/*
 * local.c: what this node has of a tiered leaf: dropping its homes, and telling what there is.
 *
 * Dropping is not logged.  As with the homer, a change goes to the leaf in memory, under the gate (shared) and the file's stripe,
 * and the next checkpoint makes it durable with everything else of that moment.  A crash before it brings back what the index on
 * disk says, and that is right: the home is as it was, for its block went to limbo and is given to nobody before that checkpoint
 * is durable (rule R3).  The checkpoint's own commit comes before: an index that has no home any more is never older than the
 * TIER record.
 *
 * A slot that is staged keeps its home, of which the homer may be making use.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/replica/impl.h"
#include "fs/core/share/share.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/tier/tier.h"

/* Leaves looked up in one go, where a range is longer. */
#define STEP_LEAVES 1024u
/* Leaves looked at under one hold of a file's stripe. */
#define HOLD_LEAVES 16384u

int tier_may_change(struct fs *fs)
{
	return fs->config.read_only || atomic_load(&fs->failed) ? -EROFS : op_wait_memory(fs);
}

/* ---- drop ---- */

/* A home that clones may have is remembered until the next checkpoint, as long as these are not too many. */
static uint32_t drop_slots(struct fs *fs, struct leaf *l)
{
	bool may_lose = share_may_lose(fs);
	uint32_t n = 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		struct slot *s = &l->slot[i];

		if (!s->tiered || (!s->home && !s->packed) || s->staged || (s->shared && !may_lose))
			continue;
		if (s->packed) /* a home of its own is what it gets when it is recalled */
			squeeze_unpacked(fs);
		s->home = s->birth = 0;
		s->shared = s->packed = false;
		n++;
	}
	leaf_settle(l);
	return n;
}

static int drop_gated(struct fs *fs, uint64_t ino, uint64_t leaf, uint32_t *ret_n)
{
	struct leaf old, new;
	struct lockset ls;

	rwlock_rdlock(&fs->gate);
	lockset_lock(fs->icache, &ls, &ino, 1);
	int r = extent_get(fs, ino, leaf, &old);
	new = old;
	uint32_t n = r == 0 && !fs->resync ? drop_slots(fs, &new) : 0; /* a resync has asked its leader for what is not here */
	if (n)
		r = extent_put(fs, NULL, ino, leaf, &old, &new, NULL);
	*ret_n = r == 0 ? n : 0;
	if (n && (fs->config.sabotage & FS_SABOTAGE_TIER_DROP_EARLY))
		arena_release(fs->arena, arena_rotate(fs->arena));
	lockset_unlock(fs->icache, &ls);
	rwlock_rdunlock(&fs->gate);
	return r;
}

/* Of a follower's batch under way it was counted already how many blocks it may need: what is cold now needs more. */
static int drop_leaf(struct fs *fs, uint64_t ino, uint64_t leaf, uint64_t *blocks)
{
	struct replica *rep = fs->replica;
	uint32_t n;

	mutex_lock(&rep->follow_lock);
	int r = drop_gated(fs, ino, leaf, &n);
	if (n)
		rep->taken.checked = false;
	mutex_unlock(&rep->follow_lock);
	*blocks += n;
	return r;
}

/* ---- leaves of a file, however many ---- */

struct walk {
	extent_fn *fn;
	void *ctx;
	uint64_t left, next;
	bool more;
};

static int walk_leaf(void *ctx, uint64_t leaf, const struct leaf *l)
{
	struct walk *w = ctx;
	int r = w->fn(w->ctx, leaf, l);

	w->next = leaf + 1;
	if (r != 0)
		return r;
	w->more = --w->left == 0;
	return w->more;
}

/* Calls fn for some of the leaves from *leaf on, so that nobody waits for long.  1: there may be more, from *leaf on. */
static int walk_some(struct fs *fs, uint64_t ino, extent_fn *fn, void *ctx, uint64_t *leaf)
{
	struct walk w = {.fn = fn, .ctx = ctx, .left = HOLD_LEAVES, .next = *leaf};
	struct inode *in;
	int r = icache_rdlock_get(fs->icache, ino, &in);

	if (r < 0)
		return r;
	r = S_ISREG(in->mode) ? extent_each(fs, in, *leaf, walk_leaf, &w) : -EINVAL;
	icache_rdunlock(fs->icache, ino);
	*leaf = w.next;
	return r < 0 ? r : w.more;
}

/* Those that have homes to drop. */
struct search {
	struct fs *fs;
	uint64_t end;
	uint64_t found[STEP_LEAVES];
	uint32_t n;
};

static int add_found(void *ctx, uint64_t leaf, const struct leaf *l)
{
	struct search *s = ctx;
	struct leaf probe = *l;

	if (leaf >= s->end)
		return 1;
	if (drop_slots(s->fs, &probe))
		s->found[s->n++] = leaf;
	return s->n == STEP_LEAVES;
}

static int drop_range(struct fs *fs, uint64_t ino, uint64_t leaf, uint64_t end, uint64_t *blocks)
{
	CLEANUP_FREE struct search *s = malloc(sizeof(*s));
	int more = 1;

	if (!s)
		return -ENOMEM;
	s->fs = fs;
	s->end = end;
	while (more > 0) {
		int r = tier_may_change(fs);

		s->n = 0;
		more = r == 0 ? walk_some(fs, ino, add_found, s, &leaf) : r;
		for (uint32_t i = 0; more >= 0 && r == 0 && i < s->n; i++)
			r = drop_leaf(fs, ino, s->found[i], blocks);
		if (r < 0)
			return r;
		if (s->n == STEP_LEAVES)
			more = 1;
	}
	return more;
}

int tier_drop_homes(struct fs *fs, uint64_t ino, uint64_t leaf, uint64_t n, uint64_t *ret_blocks)
{
	uint64_t end = n <= UINT64_MAX - leaf ? leaf + n : UINT64_MAX;
	int r = tier_may_change(fs);

	*ret_blocks = 0;
	if (r == 0 && !(fs->config.sabotage & FS_SABOTAGE_TIER_DROP_EARLY))
		r = journal_commit_all(fs->journal, NULL);
	if (n > STEP_LEAVES)
		return r < 0 ? r : drop_range(fs, ino, leaf, end, ret_blocks);
	for (; r == 0 && leaf < end; leaf++)
		r = drop_leaf(fs, ino, leaf, ret_blocks);
	return r;
}

/* ---- state ---- */

static int count_leaf(void *ctx, uint64_t leaf, const struct leaf *l)
{
	struct tier_file *f = ctx;

	(void)leaf;
	f->data_blocks += (unsigned)__builtin_popcount(leaf_data(l));
	f->tiered_blocks += (unsigned)__builtin_popcount(leaf_tiered(l));
	f->cold_blocks += (unsigned)__builtin_popcount(leaf_cold(l));
	return 0;
}

int tier_file_state(struct fs *fs, uint64_t ino, struct tier_file *ret)
{
	struct tier_file f = {0};
	uint64_t leaf = 0;
	int r;

	do
		r = walk_some(fs, ino, count_leaf, &f, &leaf);
	while (r == 1);
	if (r == 0)
		*ret = f;
	return r;
}
