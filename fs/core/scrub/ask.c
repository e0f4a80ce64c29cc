/*
 * ask.c: peers as a source of repairs, and answers to what they ask.
 *
 * A question waits in a list, numbered; the hook ask_block tells who speaks with peers, and each connection that can looks for
 * questions it has not passed on (next_wanted) and brings answers (give_block).  A question ends with the first answer that has
 * its CRC, when all who could be asked do not have it, or after ASK_WAIT_NS; then peers count as silent for a while, so that a
 * file full of damage does not wait as often as it has blocks.
 *
 * To be asked is one read of a block that is as the peer wants it, or no.  Nothing is repaired because of it, and nobody is asked
 * in turn: two nodes with the same damage do not keep each other busy.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "fs/core/replica/impl.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/snap/snap.h"

#define ASK_WAIT_NS (5 * NSEC_PER_SEC)
#define SILENT_NS   (10 * NSEC_PER_SEC)
#define UNCOUNTED   INT64_C(1000000) /* how many can answer is known only after they may have begun to */

struct ask {
	struct ask *next;
	struct block_wanted wanted;
	int64_t n_open; /* answers that may come */
	bool done;
	uint8_t *block; /* borrowed: where the data goes */
};
struct asks {
	struct mutex lock;
	struct cond answered;
	/* guarded by lock */
	struct ask *first; /* by number */
	uint64_t number;
	int64_t silent_ns; /* mono: until then nobody is asked */
	bool stop;
};

/* ---- asking ---- */

static void enlist(struct asks *a, struct ask *q) EXCLUDES(a->lock)
{
	mutex_lock(&a->lock);
	struct ask **at = &a->first;
	while (*at)
		at = &(*at)->next;
	q->wanted.number = ++a->number;
	*at = q;
	mutex_unlock(&a->lock);
}

static void remove_ask(struct asks *a, struct ask *q) REQUIRES(a->lock)
{
	struct ask **at = &a->first;

	while (*at != q)
		at = &(*at)->next;
	*at = q->next;
}

/* Until it is answered; false: nobody has it, or they do not say. */
static bool wait_for_answer(struct fs *fs, struct asks *a, struct ask *q, uint32_t n_asked) EXCLUDES(a->lock)
{
	int64_t end_ns = clock_mono_ns(fs->clock) + ASK_WAIT_NS, left_ns = ASK_WAIT_NS;

	mutex_lock(&a->lock);
	q->n_open += (int64_t)n_asked - UNCOUNTED; /* less the answers that were there before */
	while (!q->done && q->n_open > 0 && !a->stop && left_ns > 0 && !fs->config.no_threads) {
		cond_wait_ns(&a->answered, &a->lock, left_ns);
		left_ns = end_ns - clock_mono_ns(fs->clock);
	}
	if (left_ns <= 0 && !q->done)
		a->silent_ns = clock_mono_ns(fs->clock) + SILENT_NS;
	remove_ask(a, q);
	bool done = q->done;
	mutex_unlock(&a->lock);
	return done;
}

static bool may_ask(struct fs *fs, struct asks *a) EXCLUDES(a->lock)
{
	mutex_lock(&a->lock);
	bool may = !a->stop && clock_mono_ns(fs->clock) >= a->silent_ns;
	mutex_unlock(&a->lock);
	return may && replica_has_hooks(fs) && fs->hooks.ask_block;
}

static int ask_for(struct fs *fs, const struct block_question *b, uint64_t ino, uint8_t *block)
{
	struct asks *a = fs->asks;
	struct ask q = {
	    .wanted = {.ino = ino, .leaf = b->leaf, .slot = b->slot, .crc = b->crc}, .n_open = UNCOUNTED, .block = block};

	if (!may_ask(fs, a))
		return -ENOENT;
	enlist(a, &q);
	return wait_for_answer(fs, a, &q, fs->hooks.ask_block(fs->hooks.ctx)) ? 0 : -ENOENT;
}

/*
 * Of a snapshot: the peer's own, by the number that all nodes know it by; then what its file is now, which may be the same, for a
 * peer that does not hold the snapshot, or is of a release that knows only live files.
 */
int asks_fetch(struct fs *fs, const struct block_question *b, uint8_t *block)
{
	uint64_t gen, own = snap_ino_own(b->ino);

	if (!snap_is_ino(b->ino))
		return ask_for(fs, b, b->ino, block);
	if (snap_gen_of(fs, snap_ino_top(b->ino), &gen) && ask_for(fs, b, snap_ino(gen, own), block) == 0)
		return 0;
	return ask_for(fs, b, own, block);
}

int replica_next_wanted(struct replica_volume *v, uint64_t after, struct block_wanted *ret)
{
	struct asks *a = replica_fs(v)->asks;
	int r = -ENOENT;

	mutex_lock(&a->lock);
	for (const struct ask *q = a->first; q && r < 0; q = q->next) {
		if (q->wanted.number <= after || q->done)
			continue;
		*ret = q->wanted;
		r = 0;
	}
	mutex_unlock(&a->lock);
	return r;
}

void replica_give_block(struct replica_volume *v, uint64_t number, const void *block)
{
	struct fs *fs = replica_fs(v);
	struct asks *a = fs->asks;

	mutex_lock(&a->lock);
	struct ask *q = a->first;
	while (q && q->wanted.number != number)
		q = q->next;
	if (q && !q->done) {
		q->done = block && crc32c(0, block, BLOCK_SIZE) == q->wanted.crc;
		if (q->done)
			memcpy(q->block, block, BLOCK_SIZE);
		else
			q->n_open--;
		if (block && !q->done)
			atomic_fetch_add(&fs->scrub->repairs.lies, 1);
		cond_broadcast(&a->answered);
	}
	mutex_unlock(&a->lock);
}

/* ---- being asked ---- */

static int read_slot(struct fs *fs, const struct block_wanted *b, const struct leaf *l, uint8_t *block)
{
	const struct slot *s = &l->slot[b->slot];

	if (!slot_has_data(s) || slot_cold(s) || s->crc != b->crc)
		return -ENOENT;
	return verify_slot(fs, l, b->slot, block) == 0 ? 0 : -ENOENT;
}

static int read_live(struct fs *fs, const struct block_wanted *b, uint8_t *block)
{
	struct leaf l;

	icache_rdlock(fs->icache, b->ino);
	int r = lcache_get(fs->lcache, b->ino, b->leaf, &l) < 0 ? -ENOENT : read_slot(fs, b, &l, block);
	icache_rdunlock(fs->icache, b->ino);
	return r;
}

/* Its inode is that of a snapshot, by the number in table S. */
static int read_of_snapshot(struct fs *fs, const struct block_wanted *b, uint8_t *block)
{
	uint64_t top;
	struct held *held;
	struct kv *kv;
	struct leaf l;

	if (!snap_top_of(fs, snap_ino_top(b->ino), &top) || snap_get(fs, top, &held, &kv) < 0)
		return -ENOENT;
	int r = index_get_leaf(kv, snap_ino_own(b->ino), b->leaf, &l) < 0 ? -ENOENT : read_slot(fs, b, &l, block);
	snap_put(fs, held);
	return r;
}

int replica_answer_block(struct replica_volume *v, const struct block_wanted *b, void *block)
{
	struct fs *fs = replica_fs(v);

	if (b->ino == 0 || b->slot >= LEAF_SLOTS || b->leaf >= FILE_SIZE_MAX / (LEAF_SLOTS * BLOCK_SIZE))
		return -EUCLEAN;
	int r = snap_is_ino(b->ino) ? read_of_snapshot(fs, b, block) : read_live(fs, b, block);
	atomic_fetch_add(r == 0 ? &fs->scrub->repairs.answered : &fs->scrub->repairs.refused, 1);
	return r;
}

/* ---- life ---- */

int asks_open(struct fs *fs)
{
	struct asks *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	mutex_init(&a->lock);
	cond_init(&a->answered);
	fs->asks = a;
	return 0;
}

void asks_shut(struct fs *fs)
{
	struct asks *a = fs->asks;

	if (!a)
		return;
	mutex_lock(&a->lock);
	a->stop = true;
	cond_broadcast(&a->answered);
	mutex_unlock(&a->lock);
}

void asks_close(struct fs *fs)
{
	struct asks *a = fs->asks;

	if (!a)
		return;
	cond_destroy(&a->answered);
	mutex_destroy(&a->lock);
	free(a);
	fs->asks = NULL;
}
