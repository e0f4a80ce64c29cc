/*
 * share.c: table R: how many slots have the same home.
 *
 * A leaf's homes are looked up and written in one step, as one batch of the index: up to 16 rows.  The same home may be in a leaf
 * twice (a file cloned into itself), so what was read is kept beside and counted there.
 */
#include "fs/core/share/share.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/replica/impl.h"
#include "fs/core/scrub/impl.h"
#include "fs/store/super_format.h"

#define LOST_MAX 65536u

int shares_open(struct fs *fs) NO_THREAD_SAFETY
{
	struct shares *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	mutex_init(&s->lock);
	fs->shares = s;
	int r = refs_new(&s->lost);
	if (r == 0)
		r = refs_new(&s->lost_before);
	if (r < 0)
		shares_close(fs);
	return r;
}

void shares_close(struct fs *fs) NO_THREAD_SAFETY
{
	struct shares *s = fs->shares;

	if (!s)
		return;
	refs_free(s->lost);
	refs_free(s->lost_before);
	mutex_destroy(&s->lock);
	free(s);
	fs->shares = NULL;
}

int share_feature(struct fs *fs)
{
	if (atomic_load_explicit(&fs->shares->feature, memory_order_relaxed))
		return 0;
	int r = replica_set_feature(fs, SUPER_SHARED);
	if (r == 0)
		atomic_store(&fs->shares->feature, true);
	return r;
}

/* ---- rows ---- */

/* Those of one leaf's homes. */
struct share_rows {
	struct {
		pointer_t home;
		uint32_t n, was; /* references beyond the first */
	} row[LEAF_SLOTS];
	unsigned n;
};

static int read_row(struct fs *fs, pointer_t home, uint32_t *ret) REQUIRES(fs->shares->lock)
{
	struct index_key k = key_ino(TABLE_SHARED, home);
	size_t len;
	le32 n;
	int r = kv_get(fs->kv, key_slice(&k), &n, sizeof(n), &len);

	*ret = 0;
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r == -ERANGE ? -EUCLEAN : r;
	if (len != sizeof(n) || le32_get(n) == 0)
		return -EUCLEAN;
	*ret = le32_get(n);
	return 0;
}

/* The row of `home`, read when it is met first; `absent`: it is known that there is none. */
static int find_row(struct fs *fs, struct share_rows *rows, pointer_t home, bool absent, uint32_t **ret)
    REQUIRES(fs->shares->lock)
{
	uint32_t n = 0;
	unsigned i = 0;

	while (i < rows->n && rows->row[i].home != home)
		i++;
	if (i == rows->n) {
		int r = absent ? 0 : read_row(fs, home, &n);

		if (r < 0)
			return r;
		rows->row[i].home = home;
		rows->row[i].n = rows->row[i].was = n;
		rows->n++;
	}
	*ret = &rows->row[i].n;
	return 0;
}

static int write_rows(struct fs *fs, const struct share_rows *rows) REQUIRES(fs->shares->lock)
{
	struct kv_batch *b = index_batch();

	for (unsigned i = 0; i < rows->n; i++) {
		struct index_key k = key_ino(TABLE_SHARED, rows->row[i].home);
		const le32 n = le32_make(rows->row[i].n);

		if (rows->row[i].n == rows->row[i].was)
			continue;
		if (rows->row[i].n)
			kv_batch_put(b, key_slice(&k), (struct slice){&n, sizeof(n)});
		else
			kv_batch_delete(b, key_slice(&k));
	}
	return kv_write(fs->kv, b);
}

/* ---- homes that lost a reference without a record ---- */

static bool is_lost(const struct shares *s, pointer_t home) REQUIRES(s->lock)
{
	return refs_get(s->lost, home) || refs_get(s->lost_before, home);
}

bool share_may_lose(struct fs *fs)
{
	struct shares *s = fs->shares;

	mutex_lock(&s->lock);
	bool may = refs_count(s->lost) + refs_count(s->lost_before) < LOST_MAX;
	mutex_unlock(&s->lock);
	return may;
}

/* Those of a line that failed wait for the next one, and newer ones for the one behind it. */
void share_draw_line(struct fs *fs)
{
	struct shares *s = fs->shares;

	mutex_lock(&s->lock);
	if (refs_count(s->lost_before) == 0) {
		struct refs *empty = s->lost_before;

		s->lost_before = s->lost;
		s->lost = empty;
	}
	s->line = true;
	mutex_unlock(&s->lock);
}

void share_line_durable(struct fs *fs)
{
	struct shares *s = fs->shares;
	struct refs *empty;

	mutex_lock(&s->lock);
	if (s->line && refs_count(s->lost_before) > 0 && refs_new(&empty) == 0) { /* no memory: they wait */
		refs_free(s->lost_before);
		s->lost_before = empty;
	}
	s->line = false;
	mutex_unlock(&s->lock);
}

/* ---- references ---- */

bool share_has_others(struct fs *fs, const struct slot *s)
{
	uint32_t n = 0;

	if (!s->shared)
		return false;
	mutex_lock(&fs->shares->lock);
	int r = read_row(fs, s->home, &n);
	bool lost = is_lost(fs->shares, s->home);
	mutex_unlock(&fs->shares->lock);
	return r < 0 || n > 0 || lost;
}

static int gain_locked(struct fs *fs, const pointer_t homes[LEAF_SLOTS], uint16_t marked) REQUIRES(fs->shares->lock)
{
	struct share_rows rows = {.n = 0};
	uint32_t *n;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!homes[i])
			continue;
		int r = find_row(fs, &rows, homes[i], !(marked >> i & 1), &n);
		if (r == 0 && *n == UINT32_MAX)
			r = -EOVERFLOW;
		if (r < 0)
			return r;
		(*n)++;
	}
	return write_rows(fs, &rows);
}

int share_gain(struct fs *fs, const pointer_t homes[LEAF_SLOTS], uint16_t marked)
{
	mutex_lock(&fs->shares->lock);
	int r = gain_locked(fs, homes, marked);
	mutex_unlock(&fs->shares->lock);
	for (unsigned i = 0; i < LEAF_SLOTS && r == 0; i++)
		if (homes[i])
			quarantine_share(fs, homes[i]);
	return r;
}

static int drop_locked(struct fs *fs, const struct leaf *old, uint16_t going, uint64_t seq, uint16_t *ret)
    REQUIRES(fs->shares->lock)
{
	struct share_rows rows = {.n = 0};
	uint32_t *n;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(going >> i & 1))
			continue;
		int r = find_row(fs, &rows, old->slot[i].home, false, &n);
		if (r < 0)
			return r;
		if (*n == 0)
			continue;
		(*n)--;
		*ret |= (uint16_t)(1u << i);
		r = seq ? 0 : refs_add(fs->shares->lost, old->slot[i].home, 1);
		if (r < 0)
			return r;
	}
	if (*ret)
		raise_u64(&fs->shares->drop_seq, seq);
	return write_rows(fs, &rows);
}

uint16_t share_drop(struct fs *fs, const struct leaf *old, const struct leaf *new, uint64_t seq)
{
	uint16_t going = 0, others = 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if (old->slot[i].shared && old->slot[i].home != new->slot[i].home)
			going |= (uint16_t)(1u << i);
	if (!going || (fs->config.sabotage & FS_SABOTAGE_SHARE_FREE))
		return 0;
	mutex_lock(&fs->shares->lock);
	int r = drop_locked(fs, old, going, seq, &others);
	mutex_unlock(&fs->shares->lock);
	if (r == 0)
		return others;
	/* Nothing was counted: the blocks stay, and replay counts again. */
	fs_fail(fs, r, "the references to a shared block could not be counted");
	return going;
}
