/*
 * quarantine.c: blocks of the arena that failed: a home whose content was not what was written there, or could not be read.
 *
 * While a slot still has its home there, the block only is known.  When the slot gets another home, by a repair or because the
 * file changes, the block stays marked used, and belongs to nobody: nothing is written to it any more.  Its row and that change
 * reach the disk by the same checkpoint.  An admin may have such blocks tested (quarantine_release()): one that keeps two
 * patterns is freed, and used again after the next checkpoint.  One that a snapshot or a clone may name is left alone.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/scrub/tables.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"

static size_t lower(const struct quarantine *q, pointer_t home) REQUIRES(q->lock)
{
	size_t low = 0, high = q->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (q->block[mid].home < home)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static bool is_at(const struct quarantine *q, size_t i, pointer_t home) REQUIRES(q->lock)
{
	return i < q->n && q->block[i].home == home;
}

static bool insert(struct quarantine *q, const struct quarantined *b) REQUIRES(q->lock)
{
	size_t i = lower(q, b->home);

	if (is_at(q, i, b->home)) {
		q->block[i] = *b;
		return true;
	}
	if (q->n == q->cap && q->n < QUARANTINE_MAX) {
		size_t cap = q->cap ? q->cap * 2 : 16;
		struct quarantined *block = realloc(q->block, cap * sizeof(*block));

		if (block) {
			q->block = block;
			q->cap = cap;
		}
	}
	if (q->n == q->cap || q->n == QUARANTINE_MAX) {
		q->beyond++;
		return false;
	}
	memmove(&q->block[i + 1], &q->block[i], (q->n - i) * sizeof(q->block[0]));
	q->block[i] = *b;
	atomic_store(&q->n_all, ++q->n);
	return true;
}

void quarantine_add(struct fs *fs, const struct quarantined *b)
{
	struct quarantine *q = fs->quarantine;
	struct quarantined fresh = *b;

	fresh.dirty = true;
	mutex_lock(&q->lock);
	q->dirty |= insert(q, &fresh);
	mutex_unlock(&q->lock);
}

void quarantine_remove(struct fs *fs, pointer_t home)
{
	struct quarantine *q = fs->quarantine;

	if (!atomic_load(&q->n_all))
		return;
	mutex_lock(&q->lock);
	size_t i = lower(q, home);
	if (is_at(q, i, home)) {
		if (q->n_gone == q->cap_gone) {
			size_t cap = q->cap_gone ? q->cap_gone * 2 : 16;
			struct damage_key *gone = realloc(q->gone, cap * sizeof(*gone));

			if (gone) {
				q->gone = gone;
				q->cap_gone = cap;
			}
		}
		if (q->n_gone < q->cap_gone) { /* else it stays: better than a row without its entry */
			q->gone[q->n_gone++] = (struct damage_key){QUARANTINE_ROWS, home};
			memmove(&q->block[i], &q->block[i + 1], (q->n - i - 1) * sizeof(q->block[0]));
			atomic_store(&q->n_all, --q->n);
			q->dirty = true;
		}
	}
	mutex_unlock(&q->lock);
}

bool quarantine_has(struct fs *fs, pointer_t home)
{
	struct quarantine *q = fs->quarantine;

	if (!q || !atomic_load_explicit(&q->n_all, memory_order_relaxed))
		return false;
	mutex_lock(&q->lock);
	bool has = is_at(q, lower(q, home), home);
	mutex_unlock(&q->lock);
	return has;
}

void quarantine_share(struct fs *fs, pointer_t home)
{
	struct quarantine *q = fs->quarantine;

	if (!q || !atomic_load_explicit(&q->n_all, memory_order_relaxed))
		return;
	mutex_lock(&q->lock);
	size_t i = lower(q, home);
	if (is_at(q, i, home) && q->block[i].birth != QUARANTINE_SHARED) {
		q->block[i].birth = QUARANTINE_SHARED;
		q->block[i].dirty = q->dirty = true;
	}
	mutex_unlock(&q->lock);
}

bool quarantine_next(struct fs *fs, pointer_t home, struct quarantined *ret)
{
	struct quarantine *q = fs->quarantine;

	mutex_lock(&q->lock);
	size_t i = lower(q, home);
	bool found = i < q->n;
	if (found)
		*ret = q->block[i];
	mutex_unlock(&q->lock);
	return found;
}

uint64_t quarantine_count(struct fs *fs)
{
	return atomic_load(&fs->quarantine->n_all);
}

/* ---- testing ---- */

static bool in_frame(const struct leaf_pack *k, pointer_t home)
{
	return k->n_blocks && home >= k->start && home < pointer_add(k->start, k->n_blocks);
}

/* Whether the slot whose home it was has it still; then *ret_good: with the data it should have.  The stripe is held. */
static int look_at_slot(struct fs *fs, const struct quarantined *b, uint8_t *block, bool *ret_named, bool *ret_good)
{
	struct leaf l;
	int r = extent_get(fs, b->ino, b->block / LEAF_SLOTS, &l);

	*ret_named = *ret_good = false;
	if (r < 0)
		return r == -ESTALE ? 0 : r; /* of a snapshot that is gone */
	if (in_frame(&l.pack, b->home)) {
		uint16_t packed = leaf_packed(&l), good = 0;

		*ret_named = true;
		*ret_good = packed_verify(fs, &l, packed, LEAF_SLOTS, NULL, &good) == 0 && good == packed;
		return 0;
	}
	const struct slot *s = &l.slot[b->block % LEAF_SLOTS];
	*ret_named = s->home == b->home;
	*ret_good = *ret_named && slot_has_data(s) && !s->staged && verify_slot(fs, &l, b->block % LEAF_SLOTS, block) == 0;
	return 0;
}

static bool keeps(struct fs *fs, pointer_t home, uint8_t *block, uint8_t pattern)
{
	const struct iovec iov = {block, BLOCK_SIZE};

	memset(block, pattern, BLOCK_SIZE);
	uint32_t crc = crc32c(0, block, BLOCK_SIZE);
	if (arena_test_write(fs->arena, home, &iov) < 0)
		return false;
	memset(block, ~pattern, BLOCK_SIZE);
	return arena_read(fs->arena, home, 1, block) == 0 && crc32c(0, block, BLOCK_SIZE) == crc;
}

/* 1: it was given back. */
static int release_one(struct fs *fs, const struct quarantined *b, uint8_t *block)
{
	bool named, good;

	if (snap_shares(fs, b->birth))
		return 0;
	icache_rdlock(fs->icache, b->ino);
	int r = look_at_slot(fs, b, block, &named, &good);
	icache_rdunlock(fs->icache, b->ino);
	if (r < 0) /* a leaf that cannot be read may name it */
		return r == -EBADMSG ? 0 : r;
	if (good)
		quarantine_remove(fs, b->home);
	if (named || b->birth == QUARANTINE_SHARED)
		return 0;
	if (!keeps(fs, b->home, block, 0x5a) || !keeps(fs, b->home, block, 0xa5)) {
		log_warn("block %llu of the arena failed a test by writing: it stays in quarantine",
			 (unsigned long long)pointer_block(b->home));
		return 0;
	}
	quarantine_remove(fs, b->home);
	r = arena_free(fs->arena, (struct run){.start = b->home, .n_blocks = 1});
	atomic_fetch_add(&fs->freed_since_ckpt, r == 0);
	return r == 0;
}

int quarantine_release(struct fs *fs, uint64_t *ret_n)
{
	CLEANUP_FREE void *block = NULL;
	struct quarantined b;
	int r = fs->config.read_only || atomic_load(&fs->failed) ? -EROFS : 0;

	*ret_n = 0;
	if (r == 0 && posix_memalign(&block, DISK_BLOCK, BLOCK_SIZE))
		r = -ENOMEM;
	for (pointer_t at = 0; r == 0 && quarantine_next(fs, at, &b); at = b.home + 1) {
		rwlock_rdlock(&fs->gate); /* the row goes and the block is freed before the same line */
		r = release_one(fs, &b, block);
		rwlock_rdunlock(&fs->gate);
		*ret_n += r == 1;
		r = r < 0 ? r : 0;
	}
	return r;
}

/* ---- life ---- */

void quarantine_load(struct fs *fs, const struct quarantined *b)
{
	struct quarantine *q = fs->quarantine;

	mutex_lock(&q->lock);
	insert(q, b);
	mutex_unlock(&q->lock);
}

int quarantine_open(struct fs *fs)
{
	struct quarantine *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	mutex_init(&q->lock);
	fs->quarantine = q;
	return 0;
}

void quarantine_close(struct fs *fs) NO_THREAD_SAFETY
{
	struct quarantine *q = fs->quarantine;

	if (!q)
		return;
	mutex_destroy(&q->lock);
	free(q->block);
	free(q->gone);
	free(q);
	fs->quarantine = NULL;
}
