/*
 * fetch.c: a range of an object: got, taken apart, verified, put into memory, answered.
 *
 * What somebody waits for comes first, frame by frame; while that is done others may join.  Then what the range has beside it
 * goes into memory as well, as far as it is verified and there is room: nobody has to be right about it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/core/snap/snap.h"
#include "fs/core/tier/recall/impl.h"
#include "fs/core/tier/stores/impl.h"
#include "tier/pack.h"

#define TIMEOUT_DEFAULT_NS (30 * NSEC_PER_SEC)
#define TRY_MIN_NS         NSEC_PER_SEC /* a store is given at least as long, even if some have waited long already */

/* What a thread has in its hands. */
struct range {
	struct recall *rc;
	struct fetch *f;
	struct object_key_entry e;
	uint8_t *p;
	uint64_t reserved;
	uint64_t beside; /* bytes of blocks that came along */
	char message[OBJECT_MESSAGE_MAX];
};

/* ---- getting it ---- */

/* The call has what time those who wait have left, of what the store is given; it is in the background when they all are. */
static void prepare_call(struct recall *rc, const struct fetch *f, struct object_call *ret) EXCLUDES(rc->lock)
{
	int64_t now_ns = clock_mono_ns(rc->fs->clock), began_ns = now_ns;
	bool any = false, foreground = false;

	mutex_lock(&rc->lock);
	int64_t timeout_ns = f->state->timeout_ns ? f->state->timeout_ns : TIMEOUT_DEFAULT_NS;
	for (const struct want *w = f->wants.first; w; w = w->next)
		for (const struct link *l = w->waiters; l; l = l->next) {
			any = true;
			foreground |= l->request->purpose == OBJECT_FOREGROUND;
			if (l->request->began_ns < began_ns)
				began_ns = l->request->began_ns;
		}
	mutex_unlock(&rc->lock);
	*ret = (struct object_call){
	    .deadline_ns = began_ns + timeout_ns > now_ns + TRY_MIN_NS ? began_ns + timeout_ns : now_ns + TRY_MIN_NS,
	    .purpose = any && !foreground ? OBJECT_BACKGROUND : OBJECT_FOREGROUND,
	};
}

/* Name and timeout as they are now, and why it could not be opened.  -ENODEV: nobody knows the store (any more). */
static int note_store(struct range *g)
{
	struct store_state *s = g->f->state;
	struct tier_store now;
	int r = stores_find(g->rc->fs, s->id, &now);

	if (r < 0) {
		now.d.timeout_ns = TIMEOUT_DEFAULT_NS;
		snprintf(now.name, sizeof(now.name), "number %u", s->id);
		snprintf(now.message, sizeof(now.message), "no store has that number (%u)", s->id);
	}
	memcpy(g->message, now.message, sizeof(g->message));
	mutex_lock(&g->rc->lock);
	memcpy(s->name, now.name, sizeof(s->name));
	s->timeout_ns = now.d.timeout_ns;
	mutex_unlock(&g->rc->lock);
	return r;
}

static int get_range(struct range *g)
{
	struct fs *fs = g->rc->fs;
	const struct tier_store *s;
	struct object_call call;
	char key[OBJECT_NAME_MAX];
	int r = stores_get(fs, g->f->state->id, &s);

	if (r < 0)
		return note_store(g) < 0 ? -ENODEV : r; /* and what was wrong with it */
	object_name(g->f->object, key);
	prepare_call(g->rc, g->f, &call);
	r = s->guard->ops->get(s->guard, &call, key, g->f->off, g->f->len, g->p);
	memcpy(g->message, call.message, sizeof(g->message));
	stores_put(fs, s);
	return r;
}

/* Nothing lies behind the end of an object; what should was asked for in vain. */
static int cut_range(struct range *g)
{
	struct fetch *f = g->f;

	mutex_lock(&g->rc->lock);
	if (f->off >= g->e.bytes)
		f->len = 0;
	else if (f->off + f->len > g->e.bytes)
		f->len = (uint32_t)(g->e.bytes - f->off);
	uint32_t len = f->len;
	mutex_unlock(&g->rc->lock);
	return len ? 0 : -EBADMSG;
}

static int get(struct range *g)
{
	int r = note_store(g);

	if (r == 0)
		r = object_key_get(g->rc, g->f->object, &g->e);
	if (r == 0)
		r = cut_range(g);
	if (r < 0)
		return r;
	if (recalled_reserve(g->rc->fs, g->f->len))
		g->reserved = g->f->len;
	g->p = malloc(g->f->len);
	if (!g->p)
		return -ENOMEM;
	return rate_take(g->rc, g->f->len) ? get_range(g) : -ECANCELED;
}

/* ---- taking it apart ---- */

int frames_walk(const struct pack_key *key, uint32_t off, const uint8_t *p, size_t len, uint32_t *at, frame_walk_fn *fn,
		void *ctx)
{
	struct pack_frame f;
	int r = 0;

	while (r == 0 && *at >= off && *at - off < len) {
		const uint8_t *from = p + (*at - off);
		size_t left = len - (*at - off);
		int e = pack_look_frame(*at, from, left, &f);

		if (e == -ENODATA)
			return 0;
		if (e < 0) /* where the next one begins is not known */
			return -EUCLEAN;
		r = fn(ctx, key, from, left, *at, f.len);
		*at += f.len;
	}
	return r;
}

static bool is_same(const struct pack_frame *f, const struct frame_ref *want)
{
	/* A frame is of a file, whichever of its states is read. */
	uint64_t ino = snap_is_ino(want->ino) ? snap_ino_own(want->ino) : want->ino;

	return f->ino == ino && f->leaf == want->leaf && f->len == want->at.len && (want->mask & ~f->mask) == 0;
}

/* A frame, verified, in memory that can be kept as it is; as pack_read_frame(). */
static int read_frame(const struct pack_key *key, uint32_t offset, const uint8_t *p, size_t len, struct pack_frame *ret,
		      uint8_t **ret_blocks)
{
	int r = pack_look_frame(offset, p, len, ret);
	uint8_t *blocks = r == 0 ? recalled_room(ret->mask) : NULL;

	if (r == 0)
		r = blocks ? pack_read_frame(key, offset, p, len, ret, blocks) : -ENOMEM;
	if (r < 0)
		free(blocks);
	else
		*ret_blocks = blocks;
	return r;
}

/* The frame that `want` is of, verified and in memory, pinned once. */
static int put_wanted(struct range *g, const struct frame_ref *want, enum recalled_tell tell)
{
	struct fetch *f = g->f;
	struct pack_frame frame;
	uint32_t offset = want->at.offset;
	uint8_t *blocks = NULL;

	if (offset < f->off || offset - f->off >= f->len)
		return -EBADMSG;
	int r = read_frame(&g->e.key, offset, g->p + (offset - f->off), f->len - (offset - f->off), &frame, &blocks);
	if (r == 0 && is_same(&frame, want))
		return recalled_put(g->rc->fs, &want->at, &frame, blocks, 1, tell);
	free(blocks);
	return r == 0 || r == -ENODATA || r == -EUCLEAN || r == -EOPNOTSUPP ? -EBADMSG : r;
}

/* Whoever ages, repacks or copies reads what it will not need here again. */
static enum recalled_tell tell_of(const struct want *w)
{
	if (w->ahead)
		return TELL_READ;
	for (const struct link *l = w->waiters; l; l = l->next)
		if (!(l->request->flags & BEGIN_QUIET))
			return TELL_READ;
	return TELL_NOTHING;
}

/* What came is not what it should be: it is asked for again, by itself, before that is believed. */
static void came_damaged(struct range *g, struct want *w)
{
	struct recall *rc = g->rc;

	mutex_lock(&rc->lock);
	w->alone = true;
	bool again = ++w->bad < BAD_MAX && !atomic_load(&rc->stop);
	if (again)
		want_again(rc, w, 0);
	mutex_unlock(&rc->lock);
	if (!again)
		want_damaged(rc, w, "frame in its object");
}

/* One want of the fetch, that stays joinable until it is answered.  False: there are none any more, and the range is let go. */
static bool deliver_one(struct range *g)
{
	struct recall *rc = g->rc;
	struct fetch **at = &rc->active;

	mutex_lock(&rc->lock);
	struct want *w = g->f->wants.first;
	if (!w) {
		while (*at != g->f)
			at = &(*at)->next;
		*at = g->f->next;
		g->f->state->active--;
		mutex_unlock(&rc->lock);
		return false;
	}
	want_unlink(rc, w);
	struct frame_ref frame = w->frame;
	enum recalled_tell tell = tell_of(w);
	mutex_unlock(&rc->lock);
	int r = put_wanted(g, &frame, tell);
	if (r == -EBADMSG) {
		came_damaged(g, w);
		return true;
	}
	mutex_lock(&rc->lock);
	want_end(rc, w, r);
	mutex_unlock(&rc->lock);
	if (r == 0)
		recalled_unpin(rc->fs, frame.at.id, frame.at.offset);
	recall_tell(rc);
	return true;
}

static int put_beside(void *ctx, const struct pack_key *key, const uint8_t *p, size_t len, uint32_t offset, uint32_t frame_len)
{
	struct range *g = ctx;
	struct recall *rc = g->rc;
	struct leaf_object at = {.id = g->f->object, .offset = offset, .len = frame_len};
	enum recall_mode mode;
	struct pack_frame f;
	uint8_t *blocks;

	if (recalled_has(rc->fs, at.id, offset))
		return 0;
	if (read_frame(key, offset, p, len, &f, &blocks) < 0)
		return 0; /* whoever needs it will be told */
	if (recall_mode_get(rc->fs, f.ino, &mode) < 0 || mode == RECALL_DENY) {
		free(blocks);
		return 0; /* not by this way either */
	}
	g->beside += (unsigned)__builtin_popcount(f.mask) * (uint64_t)BLOCK_SIZE;
	if (g->beside > rc->memory_bytes / 8) {
		free(blocks);
		return 1;
	}
	if (recalled_put(rc->fs, &at, &f, blocks, 0, TELL_BESIDE) < 0)
		return 1;
	mutex_lock(&rc->lock);
	rc->window_put++;
	mutex_unlock(&rc->lock);
	return 0;
}

void fetch_run(struct recall *rc, struct fetch *f)
{
	struct range g = {.rc = rc, .f = f};
	uint32_t at = f->off;
	int r = get(&g);

	if (r == 0) {
		fetch_succeeded(rc, f, f->len);
		while (deliver_one(&g))
			;
		if (f->window)
			frames_walk(&g.e.key, f->off, g.p, f->len, &at, put_beside, &g);
	} else {
		fetch_failed(rc, f, r, g.message);
	}
	free(g.p);
	if (g.reserved)
		recalled_unreserve(rc->fs, g.reserved);
	object_key_wipe(&g.e);
	recall_tell(rc);
}
