/*
 * damage.c: which blocks of files are damaged, or were and have been repaired: a table in memory, bounded, that checkpoints keep
 * in the index (table Z), so that it is as old as everything else after a crash.
 *
 * An entry comes when a read, the scrub or the homer finds a block whose data is not what its slot says; it says "repaired" once
 * the block reads as it should, and goes when the file gets other data there, or is removed.  What does not fit is counted and
 * not remembered: entries of repaired blocks make room first.
 *
 * The table is sorted by file and block, and found in by halves.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/scrub/tables.h"

#define TRY_AGAIN_NS (10 * NSEC_PER_SEC)

/* ---- the array; the lock is held ---- */

static int compare(const struct damaged_block *b, uint64_t ino, uint64_t block)
{
	if (b->ino != ino)
		return b->ino < ino ? -1 : 1;
	return b->block < block ? -1 : b->block > block;
}

/* Where the first entry not before (ino, block) is. */
static size_t lower(const struct damages *d, uint64_t ino, uint64_t block) REQUIRES(d->lock)
{
	size_t low = 0, high = d->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (compare(&d->block[mid], ino, block) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static struct damaged_block *find(struct damages *d, uint64_t ino, uint64_t block) REQUIRES(d->lock)
{
	size_t i = lower(d, ino, block);

	return i < d->n && compare(&d->block[i], ino, block) == 0 ? &d->block[i] : NULL;
}

static void count(struct damages *d) REQUIRES(d->lock)
{
	atomic_store(&d->n_all, d->n);
}

/* Its row goes with the next checkpoint; one that cannot be remembered comes back at the next mount, and the next pass corrects
 * it. */
static void remove_at(struct damages *d, size_t i) REQUIRES(d->lock)
{
	if (d->n_gone == d->cap_gone) {
		size_t cap = d->cap_gone ? d->cap_gone * 2 : 16;
		struct damage_key *gone = realloc(d->gone, cap * sizeof(*gone));

		if (gone) {
			d->gone = gone;
			d->cap_gone = cap;
		}
	}
	if (d->n_gone < d->cap_gone)
		d->gone[d->n_gone++] = (struct damage_key){d->block[i].ino, d->block[i].block};
	memmove(&d->block[i], &d->block[i + 1], (d->n - i - 1) * sizeof(d->block[0]));
	d->n--;
	count(d);
}

static size_t count_files(const struct damages *d) REQUIRES(d->lock)
{
	size_t n = 0;

	for (size_t i = 0; i < d->n; i++)
		n += i == 0 || d->block[i].ino != d->block[i - 1].ino;
	return n;
}

/* Gives up one entry of a repaired block, the oldest. */
static bool drop_repaired(struct damages *d) REQUIRES(d->lock)
{
	size_t oldest = d->n;

	for (size_t i = 0; i < d->n; i++)
		if (d->block[i].state == DAMAGE_REPAIRED &&
		    (oldest == d->n || d->block[i].changed_ns < d->block[oldest].changed_ns))
			oldest = i;
	if (oldest == d->n)
		return false;
	remove_at(d, oldest);
	return true;
}

static bool has_file(const struct damages *d, uint64_t ino) REQUIRES(d->lock)
{
	size_t i = lower(d, ino, 0);

	return i < d->n && d->block[i].ino == ino;
}

static bool make_room(struct damages *d, uint64_t ino) REQUIRES(d->lock)
{
	while (d->n >= DAMAGE_BLOCKS_MAX || (!has_file(d, ino) && count_files(d) >= DAMAGE_FILES_MAX))
		if (!drop_repaired(d))
			return false;
	if (d->n < d->cap)
		return true;
	size_t cap = d->cap ? d->cap * 2 : 16;
	struct damaged_block *block = realloc(d->block, cap * sizeof(*block));
	if (!block)
		return false;
	d->block = block;
	d->cap = cap;
	return true;
}

static bool insert(struct damages *d, const struct damaged_block *b) REQUIRES(d->lock)
{
	if (!make_room(d, b->ino)) {
		d->beyond++;
		return false;
	}
	size_t i = lower(d, b->ino, b->block);
	memmove(&d->block[i + 1], &d->block[i], (d->n - i) * sizeof(d->block[0]));
	d->block[i] = *b;
	d->n++;
	count(d);
	return true;
}

/* ---- what others say ---- */

bool damage_note(struct fs *fs, uint64_t ino, uint64_t block)
{
	struct damages *d = fs->damages;
	int64_t now_ns = clock_real_ns(fs->clock);
	bool news = true;

	mutex_lock(&d->lock);
	struct damaged_block *b = find(d, ino, block);
	if (!b) {
		news = insert(d, &(struct damaged_block){.ino = ino,
							 .block = block,
							 .found_ns = now_ns,
							 .changed_ns = now_ns,
							 .state = DAMAGE_BAD,
							 .dirty = true});
	} else if (b->state == DAMAGE_BAD) {
		news = false;
	} else {
		b->state = DAMAGE_BAD;
		b->found_ns = b->changed_ns = now_ns;
		b->tried_ns = b->searched_ns = 0;
		b->dirty = true;
	}
	d->dirty = true;
	mutex_unlock(&d->lock);
	return news;
}

void damage_repaired(struct fs *fs, uint64_t ino, uint64_t block)
{
	struct damages *d = fs->damages;

	if (!atomic_load(&d->n_all))
		return;
	mutex_lock(&d->lock);
	struct damaged_block *b = find(d, ino, block);
	if (b && b->state == DAMAGE_BAD) {
		b->state = DAMAGE_REPAIRED;
		b->changed_ns = clock_real_ns(fs->clock);
		b->dirty = d->dirty = true;
	}
	mutex_unlock(&d->lock);
}

void damage_tried(struct fs *fs, uint64_t ino, uint64_t block)
{
	struct damages *d = fs->damages;

	mutex_lock(&d->lock);
	struct damaged_block *b = find(d, ino, block);
	if (b)
		b->tried_ns = clock_mono_ns(fs->clock);
	mutex_unlock(&d->lock);
}

bool damage_tried_lately(struct fs *fs, uint64_t ino, uint64_t block)
{
	struct damages *d = fs->damages;

	mutex_lock(&d->lock);
	const struct damaged_block *b = find(d, ino, block);
	/* One that the table has no room for would be asked for again and again: it counts as tried. */
	bool lately = !b || (b->tried_ns && clock_mono_ns(fs->clock) - b->tried_ns < TRY_AGAIN_NS);
	mutex_unlock(&d->lock);
	return lately;
}

void damage_searched(struct fs *fs, uint64_t ino, uint64_t block)
{
	struct damages *d = fs->damages;

	mutex_lock(&d->lock);
	struct damaged_block *b = find(d, ino, block);
	if (b)
		b->searched_ns = clock_mono_ns(fs->clock);
	mutex_unlock(&d->lock);
}

bool damage_searched_lately(struct fs *fs, uint64_t ino, uint64_t block, int64_t ago_ns)
{
	struct damages *d = fs->damages;

	mutex_lock(&d->lock);
	const struct damaged_block *b = find(d, ino, block);
	bool lately = b && b->searched_ns && clock_mono_ns(fs->clock) - b->searched_ns < ago_ns;
	mutex_unlock(&d->lock);
	return lately;
}

bool damage_is_bad(struct fs *fs, uint64_t ino, uint64_t block)
{
	struct damages *d = fs->damages;

	if (!atomic_load(&d->n_all))
		return false;
	mutex_lock(&d->lock);
	const struct damaged_block *b = find(d, ino, block);
	bool bad = b && b->state == DAMAGE_BAD;
	mutex_unlock(&d->lock);
	return bad;
}

void damage_forget(struct fs *fs, uint64_t ino, uint64_t block)
{
	struct damages *d = fs->damages;
	bool all = block == UINT64_MAX;

	if (!atomic_load(&d->n_all))
		return;
	mutex_lock(&d->lock);
	for (size_t i = lower(d, ino, all ? 0 : block);
	     i < d->n && d->block[i].ino == ino && (all || d->block[i].block == block);) {
		remove_at(d, i);
		d->dirty = true;
	}
	mutex_unlock(&d->lock);
}

static bool same_data(const struct slot *a, const struct slot *b)
{
	return slot_has_data(a) && slot_has_data(b) && a->crc == b->crc && a->staged == b->staged;
}

void damage_replaced(struct fs *fs, uint64_t ino, uint64_t leaf, const struct leaf *old, const struct leaf *new)
{
	if (!fs->damages || !atomic_load_explicit(&fs->damages->n_all, memory_order_relaxed))
		return;
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if (!same_data(&old->slot[i], &new->slot[i]))
			damage_forget(fs, ino, leaf * LEAF_SLOTS + i);
}

/* ---- looking at it ---- */

bool damage_next(struct fs *fs, uint64_t ino, struct damage_file *ret)
{
	struct damages *d = fs->damages;
	bool found = false;

	mutex_lock(&d->lock);
	for (size_t i = lower(d, ino, 0); i < d->n && (!found || d->block[i].ino == ret->ino); i++) {
		const struct damaged_block *b = &d->block[i];

		if (!found)
			*ret = (struct damage_file){.ino = b->ino};
		found = true;
		ret->n_bad += b->state == DAMAGE_BAD;
		ret->n_repaired += b->state == DAMAGE_REPAIRED;
		if (b->changed_ns > ret->changed_ns)
			ret->changed_ns = b->changed_ns;
	}
	mutex_unlock(&d->lock);
	return found;
}

bool damage_next_block(struct fs *fs, uint64_t ino, uint64_t block, uint64_t *ret_block)
{
	struct damages *d = fs->damages;
	bool found = false;

	mutex_lock(&d->lock);
	for (size_t i = lower(d, ino, block); i < d->n && d->block[i].ino == ino && !found; i++) {
		found = d->block[i].state == DAMAGE_BAD;
		*ret_block = d->block[i].block;
	}
	mutex_unlock(&d->lock);
	return found;
}

void damage_get_sum(struct fs *fs, struct damage_sum *ret)
{
	struct damages *d = fs->damages;

	mutex_lock(&d->lock);
	*ret = (struct damage_sum){.n_files = count_files(d), .beyond = d->beyond};
	for (size_t i = 0; i < d->n; i++) {
		ret->n_bad += d->block[i].state == DAMAGE_BAD;
		ret->n_repaired += d->block[i].state == DAMAGE_REPAIRED;
	}
	mutex_unlock(&d->lock);
}

/* ---- life ---- */

void damage_load(struct fs *fs, const struct damaged_block *b)
{
	struct damages *d = fs->damages;

	mutex_lock(&d->lock);
	insert(d, b);
	mutex_unlock(&d->lock);
}

int damage_open(struct fs *fs)
{
	struct damages *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	mutex_init(&d->lock);
	fs->damages = d;
	int r = quarantine_open(fs);
	return r < 0 ? r : damage_rows_load(fs);
}

void damage_close(struct fs *fs) NO_THREAD_SAFETY
{
	struct damages *d = fs->damages;

	quarantine_close(fs);
	if (!d)
		return;
	mutex_destroy(&d->lock);
	free(d->block);
	free(d->gone);
	free(d);
	fs->damages = NULL;
}
