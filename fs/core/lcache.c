/*
 * lcache.c: a set-associative cache of leaves, least recently used out first, sharded by lock.
 *
 * `stored` says whether the index may have the leaf: a leaf that came and went between two checkpoints leaves no trace
 * there, not even a deletion.
 */
#include "fs/core/lcache.h"

#include <errno.h>
#include <string.h>

#include "base/lock.h"
#include "base/metric.h"
#include "fs/core/index.h"

#define WAYS     8u
#define N_SHARDS 64u

struct way {
	uint64_t ino, no; /* ino 0: empty */
	uint32_t used;
	bool dirty, stored;
	struct leaf leaf;
};
struct shard {
	struct mutex lock;
	/* guarded by lock */
	struct way *way; /* n_sets * WAYS */
	uint32_t clock, n_dirty;
};
struct lcache {
	struct kv *kv;
	uint32_t n_sets; /* a shard */
	struct shard shard[N_SHARDS];
};

int lcache_new(struct kv *kv, uint32_t n_leaves, struct lcache **ret)
{
	struct lcache *lc = calloc(1, sizeof(*lc));
	int r = 0;

	if (!lc)
		return -ENOMEM;
	lc->kv = kv;
	lc->n_sets = n_leaves / (N_SHARDS * WAYS) + 1;
	for (unsigned i = 0; i < N_SHARDS; i++) {
		mutex_init(&lc->shard[i].lock);
		lc->shard[i].way = calloc((size_t)lc->n_sets * WAYS, sizeof(struct way));
		if (!lc->shard[i].way)
			r = -ENOMEM;
	}
	if (r < 0)
		lc = lcache_free(lc);
	*ret = lc;
	return r;
}

struct lcache *lcache_free(struct lcache *lc)
{
	if (!lc)
		return NULL;
	for (unsigned i = 0; i < N_SHARDS; i++) {
		mutex_destroy(&lc->shard[i].lock);
		free(lc->shard[i].way);
	}
	free(lc);
	return NULL;
}

static uint64_t hash(uint64_t ino, uint64_t no)
{
	uint64_t h = (ino ^ no * UINT64_C(0xff51afd7ed558ccd)) * UINT64_C(0x9e3779b97f4a7c15);

	return h ^ h >> 29;
}

static int write_back(struct lcache *lc, struct shard *s, struct way *w) REQUIRES(s->lock)
{
	int r = 0;

	if (!w->dirty)
		return 0;
	if (w->stored || !leaf_empty(&w->leaf)) {
		struct kv_batch *b = index_batch();

		index_put_leaf(b, w->ino, w->no, &w->leaf);
		r = kv_write(lc->kv, b);
	}
	if (r == 0) {
		w->stored = !leaf_empty(&w->leaf);
		w->dirty = false;
		s->n_dirty--;
	}
	return r;
}

/* The WAYS places where a leaf may be. */
static struct way *set_of(struct lcache *lc, struct shard *s, uint64_t ino, uint64_t no) REQUIRES(s->lock)
{
	return &s->way[(hash(ino, no) >> 6) % lc->n_sets * WAYS];
}

/* The leaf's way; read from the index, over the least recently used of its set, when it was not cached. */
static int find(struct lcache *lc, struct shard *s, uint64_t ino, uint64_t no, struct way **ret) REQUIRES(s->lock)
{
	struct way *set = set_of(lc, s, ino, no), *victim = set;

	for (struct way *w = set; w < set + WAYS; w++) {
		if (w->ino == ino && w->no == no) {
			w->used = ++s->clock;
			metric_count(COUNTER_LCACHE_HITS);
			*ret = w;
			return 0;
		}
		if (!w->ino || (victim->ino && (int32_t)(w->used - victim->used) < 0))
			victim = w;
	}
	metric_count(COUNTER_LCACHE_MISSES);
	int r = victim->ino ? write_back(lc, s, victim) : 0;
	if (r < 0)
		return r;
	victim->ino = 0;
	struct leaf leaf;
	r = index_get_leaf(lc->kv, ino, no, &leaf);
	if (r < 0 && r != -ENOENT)
		return r;
	*victim = (struct way){.ino = ino, .no = no, .used = ++s->clock, .stored = r == 0};
	if (r == 0)
		victim->leaf = leaf;
	*ret = victim;
	return 0;
}

int lcache_get(struct lcache *lc, uint64_t ino, uint64_t leaf, struct leaf *ret)
{
	struct shard *s = &lc->shard[hash(ino, leaf) % N_SHARDS];
	struct way *w;

	mutex_lock(&s->lock);
	int r = find(lc, s, ino, leaf, &w);
	if (r == 0)
		*ret = w->leaf;
	mutex_unlock(&s->lock);
	return r;
}

int lcache_put(struct lcache *lc, uint64_t ino, uint64_t leaf, const struct leaf *l)
{
	struct shard *s = &lc->shard[hash(ino, leaf) % N_SHARDS];
	struct way *w;

	mutex_lock(&s->lock);
	int r = find(lc, s, ino, leaf, &w);
	if (r == 0) {
		w->leaf = *l;
		s->n_dirty += !w->dirty;
		w->dirty = true;
	}
	mutex_unlock(&s->lock);
	return r;
}

void lcache_forget(struct lcache *lc, uint64_t ino, uint64_t leaf)
{
	struct shard *s = &lc->shard[hash(ino, leaf) % N_SHARDS];

	mutex_lock(&s->lock);
	struct way *set = set_of(lc, s, ino, leaf);
	for (struct way *w = set; w < set + WAYS; w++) {
		if (w->ino != ino || w->no != leaf)
			continue;
		s->n_dirty -= w->dirty;
		*w = (struct way){0};
	}
	mutex_unlock(&s->lock);
}

void lcache_clear(struct lcache *lc)
{
	for (unsigned i = 0; i < N_SHARDS; i++) {
		struct shard *s = &lc->shard[i];

		mutex_lock(&s->lock);
		memset(s->way, 0, (size_t)lc->n_sets * WAYS * sizeof(*s->way));
		s->n_dirty = 0;
		mutex_unlock(&s->lock);
	}
}

static int save(struct lcache *lc, uint64_t ino)
{
	int r = 0;

	for (unsigned i = 0; i < N_SHARDS && r == 0; i++) {
		struct shard *s = &lc->shard[i];

		mutex_lock(&s->lock);
		struct way *end = s->way + (size_t)lc->n_sets * WAYS;
		for (struct way *w = s->way; w < end && s->n_dirty > 0 && r == 0; w++)
			if (w->ino && (!ino || w->ino == ino))
				r = write_back(lc, s, w);
		mutex_unlock(&s->lock);
	}
	return r;
}

int lcache_save(struct lcache *lc)
{
	return save(lc, 0);
}

int lcache_save_inode(struct lcache *lc, uint64_t ino)
{
	return save(lc, ino);
}
