/*
 * icache.c: a set-associative cache of inodes, one set a lock stripe, least recently used out first.
 *
 * A dirty inode is written to the index by whoever evicts it, under the stripe's lock, so that a reader of the index never
 * misses it; a checkpoint's gate keeps writers out, so what icache_save() leaves clean stays clean until the freeze.
 */
#include "fs/core/icache.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/metric.h"
#include "fs/core/index.h"

struct stripe {
	struct rwlock lock;
	uint32_t clock;
	struct inode way[ICACHE_WAYS]; /* ino 0: empty */
};

struct icache {
	struct kv *kv;
	uint32_t n_stripes;
	bool all_locked; /* changes under all of them */
	struct stripe *stripe;
};

int icache_new(struct kv *kv, uint32_t n_stripes, struct icache **ret)
{
	CLEANUP_FREE struct icache *ic = calloc(1, sizeof(*ic));

	if (!ic)
		return -ENOMEM;
	ic->stripe = calloc(n_stripes, sizeof(*ic->stripe));
	if (!ic->stripe)
		return -ENOMEM;
	ic->kv = kv;
	ic->n_stripes = n_stripes;
	for (uint32_t i = 0; i < n_stripes; i++)
		rwlock_init(&ic->stripe[i].lock);
	*ret = TAKE_PTR(ic);
	return 0;
}

struct icache *icache_free(struct icache *ic)
{
	if (!ic)
		return NULL;
	for (uint32_t i = 0; i < ic->n_stripes; i++)
		rwlock_destroy(&ic->stripe[i].lock);
	free(ic->stripe);
	free(ic);
	return NULL;
}

static uint32_t stripe_of(const struct icache *ic, uint64_t ino)
{
	return (uint32_t)((ino * UINT64_C(0x9e3779b97f4a7c15) >> 32) % ic->n_stripes);
}

void lockset_lock(struct icache *ic, struct lockset *ls, const uint64_t *inos, uint32_t n) NO_THREAD_SAFETY
{
	assert(n <= ARRAY_SIZE(ls->stripe));
	ls->n = 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t s = stripe_of(ic, inos[i]), at = ls->n;
		bool have = inos[i] == 0;

		for (uint32_t k = 0; k < ls->n && !have; k++)
			have = ls->stripe[k] == s;
		if (have)
			continue;
		for (; at > 0 && ls->stripe[at - 1] > s; at--)
			ls->stripe[at] = ls->stripe[at - 1];
		ls->stripe[at] = s;
		ls->n++;
	}
	for (uint32_t i = 0; i < ls->n; i++)
		rwlock_wrlock(&ic->stripe[ls->stripe[i]].lock);
}

void lockset_unlock(struct icache *ic, struct lockset *ls) NO_THREAD_SAFETY
{
	while (ls->n > 0)
		rwlock_wrunlock(&ic->stripe[ls->stripe[--ls->n]].lock);
}

void icache_rdlock(struct icache *ic, uint64_t ino) NO_THREAD_SAFETY
{
	rwlock_rdlock(&ic->stripe[stripe_of(ic, ino)].lock);
}
void icache_rdunlock(struct icache *ic, uint64_t ino) NO_THREAD_SAFETY
{
	rwlock_rdunlock(&ic->stripe[stripe_of(ic, ino)].lock);
}

static struct inode *find(struct stripe *s, uint64_t ino)
{
	for (unsigned i = 0; i < ICACHE_WAYS; i++)
		if (s->way[i].ino == ino)
			return &s->way[i];
	return NULL;
}

static int write_back(struct icache *ic, struct inode *in)
{
	if (!in->dirty)
		return 0;
	int r = index_put_inode(ic->kv, in);
	if (r == 0)
		in->dirty = false;
	return r;
}

/* An empty way, its old inode written back. */
static int evict(struct icache *ic, struct stripe *s, struct inode **ret)
{
	struct inode *victim = &s->way[0];

	for (unsigned i = 0; i < ICACHE_WAYS; i++) {
		if (s->way[i].ino == 0) {
			victim = &s->way[i];
			break;
		}
		if ((int32_t)(s->way[i].used - victim->used) < 0)
			victim = &s->way[i];
	}
	if (victim->ino) {
		int r = write_back(ic, victim);
		if (r < 0)
			return r;
	}
	memset(victim, 0, sizeof(*victim));
	*ret = victim;
	return 0;
}

int icache_get(struct icache *ic, uint64_t ino, struct inode **ret)
{
	struct stripe *s = &ic->stripe[stripe_of(ic, ino)];
	struct inode *in = ino ? find(s, ino) : NULL;

	if (!ino)
		return -ENOENT;
	metric_count(in ? COUNTER_ICACHE_HITS : COUNTER_ICACHE_MISSES);
	if (!in) {
		struct inode loaded;
		int r = index_get_inode(ic->kv, ino, &loaded);
		if (r < 0)
			return r;
		r = evict(ic, s, &in);
		if (r < 0)
			return r;
		*in = loaded;
	}
	in->used = ++s->clock;
	*ret = in;
	return 0;
}

struct inode *icache_peek(struct icache *ic, uint64_t ino)
{
	return ino ? find(&ic->stripe[stripe_of(ic, ino)], ino) : NULL;
}

int icache_rdlock_get(struct icache *ic, uint64_t ino, struct inode **ret)
{
	for (;;) {
		struct lockset ls;
		struct inode *in;

		icache_rdlock(ic, ino);
		*ret = icache_peek(ic, ino);
		if (*ret) {
			metric_count(COUNTER_ICACHE_HITS);
			return 0;
		}
		icache_rdunlock(ic, ino);
		lockset_lock(ic, &ls, &ino, 1);
		int r = icache_get(ic, ino, &in);
		lockset_unlock(ic, &ls);
		if (r < 0)
			return r;
	}
}

int icache_copy(struct icache *ic, uint64_t ino, struct inode *ret)
{
	struct inode *in;
	int r = icache_rdlock_get(ic, ino, &in);

	if (r < 0)
		return r;
	*ret = *in;
	icache_rdunlock(ic, ino);
	return 0;
}

int icache_try(struct icache *ic, uint64_t ino, struct inode *ret) NO_THREAD_SAFETY
{
	struct rwlock *lock = &ic->stripe[stripe_of(ic, ino)].lock;

	if (pthread_rwlock_tryrdlock(&lock->rw) != 0)
		return -EAGAIN;
	struct inode *in = icache_peek(ic, ino);
	if (in)
		*ret = *in;
	rwlock_rdunlock(lock);
	return in != NULL;
}

bool icache_try_copy(struct icache *ic, uint64_t ino, struct inode *ret)
{
	return icache_try(ic, ino, ret) == 1;
}

bool icache_same_stripe(const struct icache *ic, uint64_t a, uint64_t b)
{
	return stripe_of(ic, a) == stripe_of(ic, b);
}

int icache_create(struct icache *ic, uint64_t ino, struct inode **ret)
{
	struct stripe *s = &ic->stripe[stripe_of(ic, ino)];
	struct inode *in;

	assert(ino != 0 && !find(s, ino));
	int r = evict(ic, s, &in);
	if (r < 0)
		return r;
	in->ino = ino;
	in->dirty = true;
	in->used = ++s->clock;
	*ret = in;
	return 0;
}

void icache_forget(struct icache *ic, uint64_t ino)
{
	struct inode *in = find(&ic->stripe[stripe_of(ic, ino)], ino);

	if (in)
		memset(in, 0, sizeof(*in));
}

int icache_remove(struct icache *ic, uint64_t ino)
{
	icache_forget(ic, ino);
	return index_delete_inode(ic->kv, ino);
}

void icache_lock_all(struct icache *ic) NO_THREAD_SAFETY
{
	for (uint32_t i = 0; i < ic->n_stripes; i++)
		rwlock_wrlock(&ic->stripe[i].lock);
	ic->all_locked = true;
}

void icache_unlock_all(struct icache *ic) NO_THREAD_SAFETY
{
	ic->all_locked = false;
	for (uint32_t i = ic->n_stripes; i-- > 0;)
		rwlock_wrunlock(&ic->stripe[i].lock);
}

void icache_clear(struct icache *ic)
{
	for (uint32_t i = 0; i < ic->n_stripes; i++)
		memset(ic->stripe[i].way, 0, sizeof(ic->stripe[i].way));
}

int icache_save(struct icache *ic) NO_THREAD_SAFETY
{
	for (uint32_t i = 0; i < ic->n_stripes; i++) {
		struct stripe *s = &ic->stripe[i];
		int r = 0;

		if (!ic->all_locked)
			rwlock_wrlock(&s->lock);
		for (unsigned w = 0; w < ICACHE_WAYS && r == 0; w++)
			if (s->way[w].dirty)
				r = write_back(ic, &s->way[w]);
		if (!ic->all_locked)
			rwlock_wrunlock(&s->lock);
		if (r < 0)
			return r;
	}
	return 0;
}
