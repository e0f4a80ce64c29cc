/*
 * keep.c: recalled data that was read gets a home again, by the policy "recall" of its file.
 *
 * recalled_get() tells of each frame that somebody read for the first time, so what was got and never read takes no space here.
 * Such leaves wait in a queue, their frames pinned, and are given homes by the fetch threads when nothing is to be got, several
 * at once.  A queue that is full takes no more: those leaves stay cold and are recalled again another time.  Nothing is kept of
 * the last part of the space (SHARE), nor above the high-water mark, where it would be aged out at once.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "fs/core/tier/recall/impl.h"

#define SHARE        20u /* of the space: a twentieth is for those who write */
#define RUN_LEAVES   16u /* of one file, in one go: homes lie in order */
#define RUN_BYTES    (RUN_LEAVES * FRAME_BYTES)
#define KEEPERS      2u
#define SMALL_LEAVES 16u                  /* of a file that is recalled together with others */
#define HEADS        512u                 /* so many of them are asked for ahead of the one that gets its homes */
#define GATHER_NS    (NSEC_PER_SEC / 100) /* the first waits as long for others to go with it */

/* ---- space ---- */

static bool has_space(struct fs *fs, bool below_mark)
{
	struct arena_status as;

	arena_get_status(fs->arena, &as);
	uint64_t total = as.total_blocks + as.growable_blocks;
	uint64_t left = as.free_blocks + as.growable_blocks - min_u64(as.free_blocks, as.reserved_blocks);
	uint32_t mark = below_mark ? fs->config.high_water : 0;

	return left > total / SHARE && (!mark || (total - left) * 100 < total * mark);
}

static bool can_write(struct fs *fs)
{
	return !fs->config.read_only && !atomic_load(&fs->failed);
}

/* ---- what was read ---- */

void recall_served(struct fs *fs, const struct leaf_object *at, uint64_t ino, uint64_t leaf, uint16_t mask,
		   enum recalled_tell why)
{
	struct recall *rc = fs->recall;
	uint64_t bytes = (unsigned)__builtin_popcount(mask) * (uint64_t)BLOCK_SIZE;

	mutex_lock(&rc->lock);
	rc->window_used += why == TELL_BESIDE;
	bool room = can_write(fs) && !atomic_load(&rc->stop) && rc->keep && rc->n_keep < KEEP_JOBS &&
		    rc->keep_bytes + bytes <= rc->memory_bytes / 4;
	if (room && recalled_pin(fs, at->id, at->offset, NULL)) {
		rc->keep[(rc->keep_first + rc->n_keep++) % KEEP_JOBS] =
		    (struct keep_job){.at = *at, .ino = ino, .leaf = leaf, .mask = mask};
		rc->keep_bytes += bytes;
		if (rc->n_keep == 1)
			rc->keep_since_ns = clock_mono_ns(fs->clock);
		if (rc->n_keep % KEEP_LEAVES_MAX <= 1 || rc->keep_bytes / RUN_BYTES != (rc->keep_bytes - bytes) / RUN_BYTES)
			threads_wake(rc);
	}
	mutex_unlock(&rc->lock);
}

bool keep_is_behind(const struct recall *rc)
{
	return rc->n_keep > KEEP_JOBS / 2 || rc->keep_bytes > rc->memory_bytes / 8;
}

/* Where the space is scattered leaves go one by one. */
static int keep_leaves(struct fs *fs, struct keep_leaf *v, uint32_t n)
{
	int r = tier_keep_leaves(fs, v, n);

	for (uint32_t i = 0; r == -E2BIG && n > 1 && i < n; i++)
		r = tier_keep_leaves(fs, &v[i], 1) == 0 ? -E2BIG : -ENOSPC;
	return r == -E2BIG ? 0 : r;
}

/* Data of frames that are in memory gets homes.  -ENOSPC, -EROFS; what changed meanwhile is left alone. */
static int keep_frames(struct fs *fs, const struct keep_job *k, uint32_t n, uint64_t *kept)
{
	struct keep_leaf v[KEEP_LEAVES_MAX];
	uint32_t n_leaves = 0;
	int r;

	for (uint32_t i = 0; i < n; i++) {
		struct keep_leaf *to = &v[n_leaves];

		if (k[i].dropped)
			continue;
		*to = (struct keep_leaf){.ino = k[i].ino, .leaf = k[i].leaf, .at = k[i].at, .mask = k[i].mask};
		to->blocks = recalled_borrow(fs, k[i].at.id, k[i].at.offset, &to->has);
		n_leaves += to->blocks != NULL;
	}
	r = n_leaves ? keep_leaves(fs, v, n_leaves) : 0;
	for (uint32_t i = 0; i < n_leaves; i++)
		recalled_unpin(fs, v[i].at.id, v[i].at.offset);
	for (uint32_t i = 0; r == 0 && i < n_leaves; i++) {
		if (v[i].result == 0)
			*kept += (unsigned)__builtin_popcount(v[i].mask);
		else if (v[i].result != -ESTALE && v[i].result != -ENOENT)
			r = v[i].result;
	}
	return r;
}

/* Of a file that is only looked at nothing is kept. */
static uint64_t keep_jobs(struct fs *fs, struct keep_job *k, uint32_t n)
{
	uint64_t kept = 0;

	if (!can_write(fs) || !has_space(fs, true))
		return 0;
	for (uint32_t i = 0; i < n; i++) {
		enum recall_mode mode;

		k[i].dropped |= recall_mode_get(fs, k[i].ino, &mode) < 0 || mode != RECALL_CACHE;
	}
	int r = keep_frames(fs, k, n, &kept);
	if (r < 0 && r != -EBADMSG && r != -ENOMEM && r != -ENOSPC && r != -EROFS) /* bad data: said by who read it */
		log_debug("recalled data is not kept: error %d", -r);
	return kept;
}

static uint64_t bytes_of(uint16_t mask)
{
	return (unsigned)__builtin_popcount(mask) * (uint64_t)BLOCK_SIZE;
}

/* At most KEEP_LEAVES_MAX. */
static uint32_t take_jobs(struct recall *rc, struct keep_job *ret) REQUIRES(rc->lock)
{
	uint64_t bytes = 0;
	uint32_t n = 0;

	while (n < KEEP_LEAVES_MAX && rc->n_keep > 0 && bytes < RUN_BYTES) {
		ret[n++] = rc->keep[rc->keep_first];
		bytes += bytes_of(ret[n - 1].mask);
		rc->keep_first = (rc->keep_first + 1) % KEEP_JOBS;
		rc->n_keep--;
	}
	return n;
}

static void give_back(struct recall *rc, const struct keep_job *k, uint32_t n) REQUIRES(rc->lock)
{
	for (uint32_t i = 0; i < n; i++) {
		rc->keep_bytes -= bytes_of(k[i].mask);
		recalled_unpin(rc->fs, k[i].at.id, k[i].at.offset);
	}
}

bool keep_is_due(const struct recall *rc, int64_t now_ns, int64_t *ret_wait_ns)
{
	int64_t left_ns = rc->keep_since_ns + GATHER_NS - now_ns;

	if (!rc->n_keep || rc->n_keepers >= KEEPERS)
		return false;
	if (rc->n_keep >= KEEP_LEAVES_MAX || rc->keep_bytes >= RUN_BYTES || left_ns <= 0)
		return true;
	if (left_ns < *ret_wait_ns)
		*ret_wait_ns = left_ns;
	return false;
}

void keep_run(struct recall *rc)
{
	struct keep_job k[KEEP_LEAVES_MAX];
	uint32_t n = take_jobs(rc, k);

	rc->n_keepers++;
	mutex_unlock(&rc->lock);
	uint64_t kept = keep_jobs(rc->fs, k, n);
	mutex_lock(&rc->lock);
	rc->n_keepers--;
	rc->status.blocks_kept += kept;
	give_back(rc, k, n);
}

void recall_drop_keeps(struct fs *fs, uint64_t ino)
{
	struct recall *rc = fs->recall;

	mutex_lock(&rc->lock);
	for (uint32_t i = 0; i < rc->n_keep; i++) {
		struct keep_job *k = &rc->keep[(rc->keep_first + i) % KEEP_JOBS];

		k->dropped |= k->ino == ino;
	}
	mutex_unlock(&rc->lock);
}

void keep_drop_all(struct recall *rc)
{
	struct keep_job k[KEEP_LEAVES_MAX];
	uint32_t n;

	while ((n = take_jobs(rc, k)) > 0)
		give_back(rc, k, n);
}

/* ---- a whole file ---- */

/* A part of a file whose frames are asked for, and then kept. */
struct part {
	struct recall_sleeper sleeper;
	struct frame_ref frame[LEAVES_MAX];
	uint32_t n;
	uint64_t leaf, next;
	bool begun;
};

/* The next cold leaves of the file, on their way; p->n is 0 at its end. */
static int part_begin(struct fs *fs, uint64_t ino, uint64_t leaf, struct part *p)
{
	uint64_t step = min_u64(LEAVES_MAX, max_u64(fs->recall->admit_bytes / 2 / FRAME_BYTES, 1)), end;
	int r;

	p->n = 0;
	p->next = leaf;
	do {
		p->leaf = p->next;
		r = frames_of(fs, ino, p->leaf, step, true, p->frame, &p->n, &end);
		p->next = p->leaf + step;
	} while (r == 0 && p->n == 0 && p->next < end);
	p->begun = r == 0 && p->n > 0;
	if (!p->begun)
		return r;
	sleeper_init(&p->sleeper);
	recall_begin(fs, ino, p->leaf, step, OBJECT_FOREGROUND, BEGIN_COLD | BEGIN_HOLD | BEGIN_QUIET, &p->sleeper.waiter);
	return 0;
}

/* Those of its frames that [from, from + n) names. */
static int part_keep(struct fs *fs, const struct part *p, uint32_t from, uint32_t n, uint64_t *kept)
{
	struct keep_job k[RUN_LEAVES];

	for (uint32_t i = 0; i < n; i++) {
		const struct frame_ref *f = &p->frame[from + i];

		k[i] = (struct keep_job){.at = f->at, .ino = f->ino, .leaf = f->leaf, .mask = f->mask};
	}
	return has_space(fs, false) ? keep_frames(fs, k, n, kept) : -ENOSPC;
}

/* Waits for it, and keeps it unless an error came before. */
static int part_end(struct fs *fs, struct part *p, int error, uint64_t *kept)
{
	if (!p->begun)
		return error;
	p->begun = false;
	int r = sleeper_wait(&p->sleeper);
	r = error < 0 ? error : r;
	for (uint32_t i = 0; r == 0 && i < p->n; i += RUN_LEAVES)
		r = part_keep(fs, p, i, (uint32_t)min_u64(RUN_LEAVES, p->n - i), kept);
	recall_let_go(fs, &p->sleeper.waiter);
	return r;
}

/* While one part is given homes the next is on its way. */
static int recall_parts(struct fs *fs, uint64_t ino, struct part p[2], uint64_t *kept)
{
	int r = part_begin(fs, ino, 0, &p[0]);

	for (unsigned i = 0; r == 0 && p[i].n > 0; i = !i) {
		r = part_begin(fs, ino, p[i].next, &p[!i]);
		r = part_end(fs, &p[i], r, kept);
	}
	for (unsigned i = 0; i < 2; i++)
		r = part_end(fs, &p[i], r, kept);
	return r;
}

int recall_file(struct fs *fs, uint64_t ino, uint64_t *ret_blocks)
{
	CLEANUP_FREE struct part *p = calloc(2, sizeof(*p));
	uint64_t kept = 0;

	if (!p)
		return -ENOMEM;
	if (!can_write(fs))
		return -EROFS;
	int r = recall_parts(fs, ino, p, &kept);
	mutex_lock(&fs->recall->lock);
	fs->recall->status.blocks_kept += kept;
	mutex_unlock(&fs->recall->lock);
	if (r == 0)
		*ret_blocks = kept;
	return r;
}

/* ---- many small files ---- */

/* The first cold leaves of a file, asked for together with those of others. */
struct head {
	struct recall_sleeper sleeper;
	struct frame_ref frame[SMALL_LEAVES];
	uint32_t n;
	bool begun;
};

/* 1: there is more of the file than that, and it is left alone. */
static int head_begin(struct fs *fs, uint64_t ino, struct head *h)
{
	uint64_t end;
	int r = frames_of(fs, ino, 0, SMALL_LEAVES, true, h->frame, &h->n, &end);

	if (r == 0 && end > SMALL_LEAVES)
		r = 1;
	h->begun = r == 0 && h->n > 0;
	if (!h->begun)
		return r;
	sleeper_init(&h->sleeper);
	recall_begin(fs, ino, 0, SMALL_LEAVES, OBJECT_FOREGROUND, BEGIN_COLD | BEGIN_HOLD | BEGIN_QUIET, &h->sleeper.waiter);
	return 0;
}

/* Files [first, next) were asked for; of those up to the one that is looked at the leaves are given homes together. */
struct batch {
	struct head *head; /* HEADS: file i has that of i modulo HEADS */
	struct keep_job job[KEEP_LEAVES_MAX];
	uint32_t n, first, next;
	uint64_t bytes, kept;
};

static void batch_flush(struct fs *fs, struct batch *b, uint32_t end, int *result)
{
	int r = b->n == 0 ? 0 : has_space(fs, false) ? keep_frames(fs, b->job, b->n, &b->kept) : -ENOSPC;

	for (; b->first < end; b->first++) {
		struct head *h = &b->head[b->first % HEADS];

		if (!h->begun)
			continue;
		h->begun = false;
		result[b->first] = result[b->first] < 0 ? result[b->first] : r;
		recall_let_go(fs, &h->sleeper.waiter);
	}
	b->n = 0;
	b->bytes = 0;
}

/*
 * What the batch holds is little beside what requests may have pinned, and goes before more is waited for: it keeps no file from
 * being admitted.
 */
static void batch_add(struct fs *fs, struct batch *b, uint32_t i, int *result)
{
	struct head *h = &b->head[i % HEADS];
	uint64_t bytes = 0;

	for (uint32_t j = 0; j < h->n; j++)
		bytes += bytes_of(h->frame[j].mask);
	if (b->n + h->n > KEEP_LEAVES_MAX || b->bytes + bytes > RUN_BYTES)
		batch_flush(fs, b, i, result);
	result[i] = sleeper_wait(&h->sleeper);
	for (uint32_t j = 0; result[i] == 0 && j < h->n; j++) {
		const struct frame_ref *f = &h->frame[j];

		b->job[b->n++] = (struct keep_job){.at = f->at, .ino = f->ino, .leaf = f->leaf, .mask = f->mask};
	}
	b->bytes += bytes;
}

static void recall_heads(struct fs *fs, struct batch *b, const uint64_t *ino, uint32_t n, int *result)
{
	for (uint32_t i = 0; i < n; i++) {
		for (; b->next < n && b->next < b->first + HEADS; b->next++)
			result[b->next] = head_begin(fs, ino[b->next], &b->head[b->next % HEADS]);
		if (b->head[i % HEADS].begun)
			batch_add(fs, b, i, result);
		if (i + 1 - b->first >= HEADS / 2)
			batch_flush(fs, b, i + 1, result);
	}
	batch_flush(fs, b, n, result);
}

void recall_files(struct fs *fs, const uint64_t *ino, uint32_t n, int *ret_result)
{
	CLEANUP_FREE struct head *head = calloc(HEADS, sizeof(*head));
	struct batch b = {.head = head};
	uint64_t kept;

	if (!head || !can_write(fs)) {
		for (uint32_t i = 0; i < n; i++)
			ret_result[i] = head ? -EROFS : -ENOMEM;
		return;
	}
	recall_heads(fs, &b, ino, n, ret_result);
	mutex_lock(&fs->recall->lock);
	fs->recall->status.blocks_kept += b.kept;
	mutex_unlock(&fs->recall->lock);
	for (uint32_t i = 0; i < n; i++)
		if (ret_result[i] == 1)
			ret_result[i] = recall_file(fs, ino[i], &kept);
}
