/*
 * keep.c: recalled data gets homes: many leaves, of one file or of many, written in one go.
 *
 * Nothing is logged.  Under the gate (shared) blocks are allocated and written, then leaf by leaf, under the stripe of its file,
 * the slots that still are cold are turned to them.  The next checkpoint makes that durable: it flushes the arena before it saves
 * a leaf that names the data (R4), and as all happens within one hold of the gate, none saves an allocation without its leaf.  A
 * crash before it leaves the slots cold and the blocks nobody's.
 */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "base/crc32c.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/tier/tier.h"

#define RUNS_MAX (KEEP_LEAVES_MAX * LEAF_SLOTS)

/* Leaves on their way to homes. */
struct keep {
	struct fs *fs;
	struct keep_leaf *leaf;
	uint32_t n, n_blocks;
	const uint8_t **from; /* the blocks of all masks one after the other, where they are */
	pointer_t *home;      /* of each of them */
	struct run *runs;     /* RUNS_MAX */
	struct arena_write *writes;
	struct iovec *iov;
};

static bool same_frame(const struct leaf *l, const struct leaf_object *at)
{
	return l->object.id == at->id && l->object.offset == at->offset;
}

/* Narrows the mask to what is cold now, and compares data with what the slots want. */
static int plan_leaf(struct keep *k, struct keep_leaf *v)
{
	const uint8_t **from = k->from + k->n_blocks, *block = v->blocks;
	struct leaf l;

	icache_rdlock(k->fs->icache, v->ino);
	int r = extent_get(k->fs, v->ino, v->leaf, &l);
	icache_rdunlock(k->fs->icache, v->ino);
	if (r < 0)
		return r;
	if (!same_frame(&l, &v->at))
		return -ESTALE;
	v->mask &= leaf_cold(&l) & v->has;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (v->mask >> i & 1) {
			if (crc32c(0, block, BLOCK_SIZE) != l.slot[i].crc)
				return -EBADMSG;
			*from++ = block;
		}
		block += (v->has >> i & 1) * (size_t)BLOCK_SIZE;
	}
	return 0;
}

/* One that cannot be kept drops out with its reason. */
static void plan(struct keep *k)
{
	for (uint32_t i = 0; i < k->n; i++) {
		struct keep_leaf *v = &k->leaf[i];

		v->result = plan_leaf(k, v);
		if (v->result < 0)
			v->mask = 0;
		k->n_blocks += (uint32_t)__builtin_popcount(v->mask);
	}
}

/* One after the other on disk, from wherever they are: one write. */
static int write_together(struct keep *k)
{
	int n = 0;

	for (uint32_t i = 0; i < k->n_blocks; i++) {
		if (i > 0 && k->from[i] == k->from[i - 1] + BLOCK_SIZE)
			k->iov[n - 1].iov_len += BLOCK_SIZE;
		else
			k->iov[n++] = (struct iovec){(void *)(uintptr_t)k->from[i], BLOCK_SIZE};
	}
	return arena_writev(k->fs->arena, k->home[0], k->iov, n);
}

/* Where space is scattered: pieces that lie together on both sides. */
static int write_pieces(struct keep *k)
{
	struct arena_write *last = NULL;
	size_t n = 0;

	for (uint32_t i = 0; i < k->n_blocks; i++) {
		if (last && k->from[i] == k->from[i - 1] + BLOCK_SIZE && k->home[i] == pointer_add(k->home[i - 1], 1)) {
			last->n_blocks++;
			continue;
		}
		last = &k->writes[n++];
		*last = (struct arena_write){.at = k->home[i], .n_blocks = 1, .p = k->from[i]};
	}
	return arena_write_many(k->fs->arena, k->writes, n);
}

static int write_blocks(struct keep *k)
{
	uint32_t n_runs, at = 0;
	int r = arena_alloc(k->fs->arena, k->n_blocks, 0, false, k->runs, RUNS_MAX, &n_runs);

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < n_runs; i++)
		for (uint32_t b = 0; b < k->runs[i].n_blocks; b++)
			k->home[at++] = pointer_add(k->runs[i].start, b);
	r = n_runs == 1 ? write_together(k) : write_pieces(k);
	if (r == 0)
		return 0;
	for (uint32_t i = 0; i < n_runs; i++)
		arena_unalloc(k->fs->arena, k->runs[i]);
	fs_fail(k->fs, r, "writing data to the arena");
	return r;
}

static void give_back(struct keep *k, pointer_t home)
{
	arena_unalloc(k->fs->arena, (struct run){.start = home, .n_blocks = 1});
}

/* Turns the leaf's cold slots to `home`, of which each slot of the mask has one; what changed since the plan keeps what it has.
 */
static int settle_locked(struct keep *k, const struct keep_leaf *v, const pointer_t *home)
{
	uint32_t birth = (uint32_t)atomic_load(&k->fs->snapshot_generation), n = 0;
	struct leaf old, new;
	int r = extent_get(k->fs, v->ino, v->leaf, &old);
	uint16_t cold = r == 0 && same_frame(&old, &v->at) ? leaf_cold(&old) : 0, kept = v->mask & cold;

	new = old;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(v->mask >> i & 1))
			continue;
		if (kept >> i & 1) {
			new.slot[i].home = home[n];
			new.slot[i].birth = birth;
		}
		n++;
	}
	if (r == 0 && kept)
		r = extent_put(k->fs, NULL, v->ino, v->leaf, &old, &new, NULL);
	if (r == 0 && kept)
		squeeze_offer(k->fs, v->ino, v->leaf, 1);
	n = 0;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(v->mask >> i & 1))
			continue;
		if (r < 0 || !(kept >> i & 1))
			give_back(k, home[n]);
		n++;
	}
	return r == 0 && !cold ? -ESTALE : r;
}

static void settle(struct keep *k)
{
	const pointer_t *home = k->home;

	for (uint32_t i = 0; i < k->n; i++) {
		struct keep_leaf *v = &k->leaf[i];
		struct lockset ls;

		if (!v->mask)
			continue;
		lockset_lock(k->fs->icache, &ls, &v->ino, 1);
		v->result = settle_locked(k, v, home);
		lockset_unlock(k->fs->icache, &ls);
		home += __builtin_popcount(v->mask);
	}
}

static int keep_gated(struct keep *k)
{
	int r = write_blocks(k);

	if (r == 0)
		settle(k);
	return r;
}

static int keep_prepare(struct keep *k)
{
	size_t blocks = (size_t)k->n * LEAF_SLOTS;

	k->from = malloc(blocks * sizeof(*k->from));
	k->iov = malloc(blocks * sizeof(*k->iov));
	k->home = malloc(blocks * sizeof(*k->home));
	k->runs = malloc(RUNS_MAX * sizeof(*k->runs));
	k->writes = malloc(RUNS_MAX * sizeof(*k->writes));
	return k->from && k->iov && k->home && k->runs && k->writes ? 0 : -ENOMEM;
}

static void keep_end(struct keep *k)
{
	free(k->from);
	free(k->iov);
	free(k->home);
	free(k->runs);
	free(k->writes);
}

int tier_keep_leaves(struct fs *fs, struct keep_leaf *v, uint32_t n)
{
	struct keep k = {.fs = fs, .leaf = v, .n = n};
	int r = tier_may_change(fs);

	if (r == 0)
		r = keep_prepare(&k);
	if (r == 0) {
		plan(&k);
		rwlock_rdlock(&fs->gate);
		r = k.n_blocks ? keep_gated(&k) : 0;
		rwlock_rdunlock(&fs->gate);
	}
	keep_end(&k);
	return r;
}

int tier_keep_leaf(struct fs *fs, uint64_t ino, uint64_t leaf, const struct leaf_object *at, uint16_t mask, const uint8_t *blocks)
{
	struct keep_leaf v = {.ino = ino, .leaf = leaf, .at = *at, .mask = mask, .has = UINT16_MAX};
	void *room;

	if (posix_memalign(&room, DISK_BLOCK, LEAF_SLOTS * BLOCK_SIZE))
		return -ENOMEM;
	memcpy(room, blocks, LEAF_SLOTS * BLOCK_SIZE);
	v.blocks = room;
	int r = tier_keep_leaves(fs, &v, 1);
	free(room);
	return r < 0 ? r : v.result;
}
