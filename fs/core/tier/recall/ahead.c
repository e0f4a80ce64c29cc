/*
 * ahead.c: files that are read in order from their store: what comes next is wanted before anybody asks.
 *
 * A miss that goes on where the one before ended makes a stream of the file; its window begins at WINDOW_FIRST leaves and doubles
 * with each miss up to a part of the memory that recalls have.  Frames ahead are in memory by the time they are read, so nothing
 * is missed any more: fs_read() tells what it read while there are streams, and one that comes past the middle of the window
 * moves it on.  The window is got in ranges by several threads at once, which is what keeps a store with some latency busy.
 *
 * Reads of the kernel's own read-ahead come in any order: a miss a little behind or beyond is in order.
 */
#include <errno.h>

#include "fs/core/tier/recall/impl.h"

#define WINDOW_FIRST 64u  /* leaves: 4 MiB */
#define WINDOW_MAX   512u /* 32 MiB */
#define PLAN_LEAVES  64u  /* looked at in one go */
#define SLACK        32u  /* leaves: two of the kernel's requests */
#define IDLE_NS      (30 * NSEC_PER_SEC)

static struct stream *find_stream(struct recall *rc, uint64_t ino) REQUIRES(rc->lock)
{
	for (unsigned i = 0; i < STREAMS; i++)
		if (rc->stream[i].ino == ino)
			return &rc->stream[i];
	return NULL;
}

static void set_window(struct recall *rc, struct stream *s, uint32_t window) REQUIRES(rc->lock)
{
	atomic_fetch_add(&rc->n_streams, (window > 0) - (s->window > 0));
	s->window = window;
}

static void forget_idle(struct recall *rc, int64_t now_ns) REQUIRES(rc->lock)
{
	for (unsigned i = 0; i < STREAMS; i++) {
		struct stream *s = &rc->stream[i];

		if (s->window && !s->planning && now_ns - s->used_ns > IDLE_NS)
			set_window(rc, s, 0);
	}
}

/* In place of the one that was read longest ago; NULL when all are being looked at. */
static struct stream *new_stream(struct recall *rc) REQUIRES(rc->lock)
{
	struct stream *oldest = NULL;

	for (unsigned i = 0; i < STREAMS; i++) {
		struct stream *s = &rc->stream[i];

		if (!s->planning && (!oldest || s->used_ns < oldest->used_ns))
			oldest = s;
	}
	if (oldest)
		set_window(rc, oldest, 0);
	return oldest;
}

/* What is ahead of all of them together stays in memory until it is read. */
static uint32_t window_max(const struct recall *rc) REQUIRES(rc->lock)
{
	uint64_t share = rc->ahead_bytes / FRAME_BYTES / max_u64(atomic_load(&rc->n_streams), 1);

	return (uint32_t)min_u64(WINDOW_MAX, max_u64(share, 1));
}

static void aim(const struct recall *rc, struct stream *s, uint64_t read_to) REQUIRES(rc->lock)
{
	uint64_t window = min_u64(s->window, window_max(rc));

	s->target = max_u64(s->target, read_to + window);
	s->trigger = read_to + window / 2;
}

void stream_missed(struct recall *rc, uint64_t ino, uint64_t leaf, uint64_t n, int64_t now_ns)
{
	struct stream *s = find_stream(rc, ino);

	forget_idle(rc, now_ns);
	if (s && leaf >= s->from && leaf <= s->planned + SLACK) {
		uint64_t window = s->window ? 2 * (uint64_t)s->window : WINDOW_FIRST;

		set_window(rc, s, (uint32_t)min_u64(window, window_max(rc)));
		s->from = max_u64(s->from, leaf > SLACK ? leaf - SLACK : 0);
		if (!s->planning)
			s->planned = max_u64(s->planned, leaf + n);
		aim(rc, s, leaf + n);
		s->used_ns = now_ns;
		return;
	}
	if (s && s->planning)
		return;
	s = s ? s : new_stream(rc);
	if (!s)
		return;
	set_window(rc, s, 0);
	*s = (struct stream){.ino = ino, .from = leaf, .planned = leaf + n, .used_ns = now_ns};
}

void recall_note_read(struct fs *fs, uint64_t ino, uint64_t off, uint64_t len)
{
	struct recall *rc = fs->recall;

	if (!rc || !atomic_load_explicit(&rc->n_streams, memory_order_relaxed) || !len)
		return;
	int64_t now_ns = clock_mono_ns(fs->clock);
	uint64_t end = div_round_up(off + len, FRAME_BYTES);

	mutex_lock(&rc->lock);
	forget_idle(rc, now_ns);
	struct stream *s = find_stream(rc, ino);
	if (s && s->window) {
		s->used_ns = now_ns;
		if (end >= s->trigger && end <= s->target + SLACK) {
			aim(rc, s, end);
			s->from = max_u64(s->from, end > SLACK ? end - SLACK : 0);
			if (stream_due(rc))
				threads_wake(rc); /* none: then what comes next is missed, and asked for */
		}
	}
	mutex_unlock(&rc->lock);
}

struct stream *stream_due(struct recall *rc)
{
	if (rc->ahead_now >= rc->ahead_bytes || keep_is_behind(rc))
		return NULL;
	for (unsigned i = 0; i < STREAMS; i++) {
		struct stream *s = &rc->stream[i];

		if (s->window && !s->planning && !s->ended && s->planned < s->target)
			return s;
	}
	return NULL;
}

void stream_plan(struct recall *rc, struct stream *s)
{
	struct frame_ref frame[PLAN_LEAVES];
	uint64_t ino = s->ino, from = s->planned, n = min_u64(PLAN_LEAVES, s->target - from), end = 0;
	uint32_t n_frames = 0;

	s->planning = true;
	mutex_unlock(&rc->lock);
	int r = frames_of(rc->fs, ino, from, n, true, frame, &n_frames, &end);
	mutex_lock(&rc->lock);
	for (uint32_t i = 0; r == 0 && i < n_frames; i++)
		if (!recalled_has(rc->fs, frame[i].at.id, frame[i].at.offset))
			want_ahead(rc, &frame[i]);
	s->planned = from + n;
	s->ended = r < 0 || s->planned >= end;
	s->planning = false;
}
