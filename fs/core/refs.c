/* refs.c: 64 shards of an open-addressing hash table with linear probing and backward-shift deletion (Knuth 6.4, algorithm R). */
#include "fs/core/refs.h"

#include <errno.h>
#include <stdatomic.h>

#include "base/lock.h"

#define N_SHARDS 64u
#define ORPHAN   (UINT64_C(1) << 63)
/* Bits 62 to 48: its generation. */
#define GENERATION_SHIFT 48u
#define GENERATION_MAX   UINT64_C(0x7fff)
#define COUNT            ((UINT64_C(1) << GENERATION_SHIFT) - 1)

struct entry {
	uint64_t ino;   /* 0: empty */
	uint64_t count; /* ORPHAN and a generation or'ed in */
};
struct shard {
	struct mutex lock;
	/* guarded by lock */
	struct entry *table;
	size_t cap, n;
};
struct refs {
	struct shard shard[N_SHARDS];
	_Atomic uint64_t n;
};

static uint64_t hash(uint64_t ino)
{
	return ino * UINT64_C(0x9e3779b97f4a7c15);
}
static struct shard *shard_of(struct refs *r, uint64_t ino)
{
	return &r->shard[hash(ino) >> 58];
}
static size_t home_of(uint64_t ino, size_t cap)
{
	return (size_t)(hash(ino) >> 20) & (cap - 1);
}

int refs_new(struct refs **ret)
{
	struct refs *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	for (unsigned i = 0; i < N_SHARDS; i++)
		mutex_init(&r->shard[i].lock);
	*ret = r;
	return 0;
}

struct refs *refs_free(struct refs *r) NO_THREAD_SAFETY
{
	if (!r)
		return NULL;
	for (unsigned i = 0; i < N_SHARDS; i++) {
		mutex_destroy(&r->shard[i].lock);
		free(r->shard[i].table);
	}
	free(r);
	return NULL;
}

/* The entry of `ino`, or the empty one where it belongs; NULL when there is no table. */
static struct entry *probe(struct shard *s, uint64_t ino) REQUIRES(s->lock)
{
	if (!s->cap)
		return NULL;
	size_t i = home_of(ino, s->cap);
	while (s->table[i].ino && s->table[i].ino != ino)
		i = (i + 1) & (s->cap - 1);
	return &s->table[i];
}

static int grow(struct shard *s) REQUIRES(s->lock)
{
	size_t old_cap = s->cap;
	struct entry *old = s->table, *table = calloc(old_cap ? old_cap * 2 : 64, sizeof(*table));

	if (!table)
		return -ENOMEM;
	s->table = table;
	s->cap = old_cap ? old_cap * 2 : 64;
	for (size_t i = 0; i < old_cap; i++)
		if (old[i].ino)
			*probe(s, old[i].ino) = old[i];
	free(old);
	return 0;
}

static void erase(struct shard *s, struct entry *e) REQUIRES(s->lock)
{
	size_t hole = (size_t)(e - s->table);

	for (size_t i = (hole + 1) & (s->cap - 1); s->table[i].ino; i = (i + 1) & (s->cap - 1)) {
		size_t home = home_of(s->table[i].ino, s->cap);

		if (((i - home) & (s->cap - 1)) >= ((i - hole) & (s->cap - 1))) {
			s->table[hole] = s->table[i];
			hole = i;
		}
	}
	s->table[hole] = (struct entry){0};
	s->n--;
}

int refs_add(struct refs *r, uint64_t ino, uint64_t n)
{
	struct shard *s = shard_of(r, ino);
	int err = 0;

	mutex_lock(&s->lock);
	if (s->n * 4 >= s->cap * 3)
		err = grow(s);
	if (err == 0) {
		struct entry *e = probe(s, ino);

		if (!e->ino) {
			e->ino = ino;
			s->n++;
			atomic_fetch_add_explicit(&r->n, 1, memory_order_relaxed);
		}
		e->count += n;
	}
	mutex_unlock(&s->lock);
	return err;
}

bool refs_drop(struct refs *r, uint64_t ino, uint64_t n)
{
	struct shard *s = shard_of(r, ino);
	bool reap = false;

	mutex_lock(&s->lock);
	struct entry *e = probe(s, ino);
	if (e && e->ino) {
		uint64_t count = e->count & COUNT;

		e->count -= n < count ? n : count;
		if ((e->count & COUNT) == 0) {
			reap = e->count & ORPHAN;
			erase(s, e);
			atomic_fetch_sub_explicit(&r->n, 1, memory_order_relaxed);
		}
	}
	mutex_unlock(&s->lock);
	return reap;
}

bool refs_orphan(struct refs *r, uint64_t ino)
{
	struct shard *s = shard_of(r, ino);

	mutex_lock(&s->lock);
	struct entry *e = probe(s, ino);
	bool known = e && e->ino;
	if (known)
		e->count |= ORPHAN;
	mutex_unlock(&s->lock);
	return !known;
}

void refs_changed(struct refs *r, uint64_t ino)
{
	struct shard *s = shard_of(r, ino);

	mutex_lock(&s->lock);
	struct entry *e = probe(s, ino);
	if (e && e->ino) {
		uint64_t generation = (e->count >> GENERATION_SHIFT & GENERATION_MAX) % GENERATION_MAX + 1;

		e->count = (e->count & (ORPHAN | COUNT)) | generation << GENERATION_SHIFT;
	}
	mutex_unlock(&s->lock);
}

uint64_t refs_generation(struct refs *r, uint64_t ino)
{
	struct shard *s = shard_of(r, ino);

	mutex_lock(&s->lock);
	struct entry *e = probe(s, ino);
	uint64_t generation = e && e->ino ? e->count >> GENERATION_SHIFT & GENERATION_MAX : 0;
	mutex_unlock(&s->lock);
	return generation;
}

void refs_not_orphans(struct refs *r)
{
	for (unsigned i = 0; i < N_SHARDS; i++) {
		struct shard *s = &r->shard[i];

		mutex_lock(&s->lock);
		for (size_t k = 0; k < s->cap; k++)
			s->table[k].count &= ~ORPHAN;
		mutex_unlock(&s->lock);
	}
}

uint64_t refs_get(struct refs *r, uint64_t ino)
{
	struct shard *s = shard_of(r, ino);

	mutex_lock(&s->lock);
	struct entry *e = probe(s, ino);
	uint64_t n = e && e->ino ? e->count & COUNT : 0;
	mutex_unlock(&s->lock);
	return n;
}

uint64_t refs_count(struct refs *r)
{
	return atomic_load_explicit(&r->n, memory_order_relaxed);
}

/* The inodes of one shard as an array of *ret_n to free; NULL when out of memory, or empty. */
static uint64_t *shard_inodes(struct shard *s, size_t *ret_n)
{
	mutex_lock(&s->lock);
	uint64_t *inodes = s->n ? malloc(s->n * sizeof(*inodes)) : NULL;
	size_t n = 0;

	for (size_t i = 0; inodes && i < s->cap; i++)
		if (s->table[i].ino)
			inodes[n++] = s->table[i].ino;
	*ret_n = s->n;
	mutex_unlock(&s->lock);
	return inodes;
}

int refs_each(struct refs *r, void (*fn)(void *ctx, uint64_t ino), void *ctx)
{
	for (unsigned i = 0; i < N_SHARDS; i++) {
		size_t n;
		CLEANUP_FREE uint64_t *inodes = shard_inodes(&r->shard[i], &n);

		if (n && !inodes)
			return -ENOMEM;
		for (size_t j = 0; j < n; j++)
			fn(ctx, inodes[j]);
	}
	return 0;
}
