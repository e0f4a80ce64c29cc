/*
 * open.c: the indexes of snapshots, opened when somebody looks and closed when others are wanted more.
 *
 * There may be hundreds of snapshots and each open one costs descriptors and memory, so at most OPEN_MAX stay open that nobody
 * uses; the one used longest ago goes first.  Those in use are counted and stay.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/snap/snap_impl.h"

#define OPEN_MAX 8u

void held_close_locked(struct fs *fs, struct held *h)
{
	if (!h->kv)
		return;
	h->kv = kv_close(h->kv);
	fs->snaps->n_open--;
}

static void close_oldest(struct fs *fs) REQUIRES(fs->snaps->lock)
{
	struct snaps *s = fs->snaps;
	struct held *oldest = NULL;

	for (size_t i = 0; i < s->n_held; i++) {
		struct held *h = s->held[i];

		if (h->kv && h->users == 0 && (!oldest || h->used < oldest->used))
			oldest = h;
	}
	if (oldest)
		held_close_locked(fs, oldest);
}

/* 0 when it is an index of this volume, as it was before batch `seq`. */
static int check_anchor(struct fs *fs, struct kv *kv, uint64_t seq)
{
	struct anchor a;
	int r = index_get_anchor(kv, &a);

	if (r < 0)
		return r;
	return memcmp(a.volume, fs->super.volume, sizeof(a.volume)) == 0 && a.applied_seq + 1 == seq ? 0 : -EUCLEAN;
}

static int open_checked(struct fs *fs, uint64_t top, uint64_t seq, struct kv **ret)
{
	struct kv *kv;
	int r = fs->kv->ops->snapshot_open(fs->kv, top, &kv);

	if (r < 0)
		return r;
	r = check_anchor(fs, kv, seq);
	if (r < 0) {
		kv_close(kv);
		return r;
	}
	*ret = kv;
	return 0;
}

bool snap_is_whole(struct fs *fs, uint64_t top, uint64_t seq)
{
	struct kv *kv;
	int r = open_checked(fs, top, seq, &kv);

	if (r == 0)
		kv_close(kv);
	else if (r != -ENOENT && r != -EUCLEAN)
		log_error("the index of snapshot %llu cannot be read: %s", (unsigned long long)top, strerror(-r));
	return r == 0;
}

static int open_locked(struct fs *fs, struct held *h) REQUIRES(fs->snaps->lock)
{
	struct snaps *s = fs->snaps;
	const struct snap *snap = snaps_find_gen(s, h->gen);

	if (h->kv)
		return 0;
	if (!snap)
		return -ESTALE;
	if (s->n_open >= OPEN_MAX)
		close_oldest(fs);
	int r = open_checked(fs, h->top, snap->seq, &h->kv);
	if (r == 0) {
		s->n_open++;
		return 0;
	}
	if (!h->broken)
		log_error("snapshot \"%s\" cannot be read, its index is missing or damaged: %s", snap->name, strerror(-r));
	h->broken = true;
	return r == -ENOMEM ? r : -EIO;
}

int snap_get(struct fs *fs, uint64_t top, struct held **ret, struct kv **ret_kv)
{
	struct snaps *s = fs->snaps;

	mutex_lock(&fs->snaps->lock);
	struct held *h = snaps_find_top(s, top);
	int r = h && !h->dropping ? open_locked(fs, h) : -ESTALE;
	if (r == 0) {
		h->users++;
		h->used = ++s->clock;
		*ret = h;
		*ret_kv = h->kv;
	}
	mutex_unlock(&fs->snaps->lock);
	return r;
}

void snap_put(struct fs *fs, struct held *h)
{
	mutex_lock(&fs->snaps->lock);
	if (--h->users == 0) {
		if (fs->snaps->n_open > OPEN_MAX)
			close_oldest(fs);
		cond_broadcast(&fs->snaps->idle);
	}
	mutex_unlock(&fs->snaps->lock);
}

bool snap_held_below(struct fs *fs, uint64_t top, uint32_t *ret_top)
{
	struct snaps *s = fs->snaps;

	mutex_lock(&s->lock);
	const struct held *h = snaps_held_before(s, top < UINT32_MAX ? (uint32_t)top + 1 : UINT32_MAX);
	if (h)
		*ret_top = h->top;
	mutex_unlock(&s->lock);
	return h != NULL;
}

bool snap_list_below(struct fs *fs, uint64_t top, uint32_t *ret_top)
{
	struct snaps *s = fs->snaps;
	bool found = false;

	mutex_lock(&s->lock);
	for (size_t i = s->n_held; i-- > 0 && !found;) {
		found = s->held[i]->top <= top;
		*ret_top = s->held[i]->top;
	}
	mutex_unlock(&s->lock);
	return found;
}

bool snap_held_above(struct fs *fs, uint64_t top, uint32_t *ret_top)
{
	struct snaps *s = fs->snaps;
	bool found = false;

	mutex_lock(&s->lock);
	for (size_t i = 0; i < s->n_held && !found; i++) {
		found = s->held[i]->top > top && !s->held[i]->dropping;
		*ret_top = s->held[i]->top;
	}
	mutex_unlock(&s->lock);
	return found;
}

bool snap_gen_of(struct fs *fs, uint64_t top, uint64_t *ret_gen)
{
	struct snaps *s = fs->snaps;

	mutex_lock(&s->lock);
	const struct held *h = snaps_find_top(s, top);
	if (h)
		*ret_gen = h->gen;
	mutex_unlock(&s->lock);
	return h != NULL;
}

bool snap_top_of(struct fs *fs, uint64_t gen, uint64_t *ret_top)
{
	struct snaps *s = fs->snaps;

	mutex_lock(&s->lock);
	const struct held *h = snaps_find_held(s, gen);
	if (h)
		*ret_top = h->top;
	mutex_unlock(&s->lock);
	return h != NULL;
}

bool snap_made(struct fs *fs, uint64_t ino, uint64_t *ret_seq, int64_t *ret_ns)
{
	struct snaps *s = fs->snaps;

	mutex_lock(&s->lock);
	const struct held *h = snaps_find_top(s, snap_ino_top(ino));
	const struct snap *snap = h ? snaps_find_gen(s, h->gen) : NULL;
	if (snap) {
		*ret_seq = snap->seq - 1;
		*ret_ns = snap->time_ns;
	}
	mutex_unlock(&s->lock);
	return snap != NULL;
}
