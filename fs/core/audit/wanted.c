/*
 * wanted.c: which records of the journal go into the log.
 *
 * Where nothing but the volume as a whole has a level, that is all of them or none, and costs a load.  Where directories have
 * levels of their own, each record is judged when it is applied, with the tree as it was before: later its files may have another
 * place. What is wanted is kept as (batch, inode) until the archive has passed the batch.
 *
 * These notes are in memory.  What a crash cut off, or what they have no room for, is wanted as a whole (`all_until`): there may
 * be more in the log than was asked for, and never less.
 */
#include "fs/core/audit/wanted.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/core/audit/impl.h"

#define NOTES_FIRST 1024u
#define NOTES_MAX   65536u /* places; three quarters are used */

/* ---- the set ---- */

static size_t place_of(const struct audit_wanted *w, uint64_t seq, uint64_t ino) REQUIRES(w->lock)
{
	return (size_t)(((seq * UINT64_C(0x9e3779b97f4a7c15)) ^ ino) * UINT64_C(0xd6e8feb86659fd93) >> 32) & (w->cap - 1);
}

/* Where it is, or the free place where it belongs. */
static size_t find(const struct audit_wanted *w, uint64_t seq, uint64_t ino) REQUIRES(w->lock)
{
	size_t at = place_of(w, seq, ino);

	while (w->note[at].seq && (w->note[at].seq != seq || w->note[at].ino != ino))
		at = (at + 1) & (w->cap - 1);
	return at;
}

/* Those behind `seq`, in a table of `cap` places. */
static int rebuild(struct audit_wanted *w, size_t cap, uint64_t seq) REQUIRES(w->lock)
{
	struct audit_note *old = w->note, *note = calloc(cap, sizeof(*note));
	size_t old_cap = w->cap;

	if (!note)
		return -ENOMEM;
	w->note = note;
	w->cap = cap;
	w->n = 0;
	for (size_t i = 0; i < old_cap; i++)
		if (old[i].seq > seq) {
			note[find(w, old[i].seq, old[i].ino)] = old[i];
			w->n++;
		}
	free(old);
	return 0;
}

static int put(struct audit_wanted *w, uint64_t seq, uint64_t ino) REQUIRES(w->lock)
{
	if (!w->cap || (w->n >= w->cap / 4 * 3 && w->cap < NOTES_MAX)) {
		int r = rebuild(w, w->cap ? 2 * w->cap : NOTES_FIRST, 0);

		if (r < 0)
			return r;
	}
	size_t at = find(w, seq, ino);
	if (w->note[at].seq)
		return 0;
	if (w->n >= w->cap / 4 * 3)
		return -ENOSPC;
	w->note[at] = (struct audit_note){seq, ino};
	w->n++;
	return 0;
}

static bool has(struct audit_wanted *w, uint64_t seq, uint64_t ino) EXCLUDES(w->lock)
{
	mutex_lock(&w->lock);
	bool found = w->cap && w->note[find(w, seq, ino)].seq;
	mutex_unlock(&w->lock);
	return found;
}

/* ---- scope ---- */

struct levels {
	bool below, changes; /* policies of others than the root; one of them says "changes" */
	enum fs_audit whole; /* of the root: its own, or the mount's */
};

static int look(void *ctx, uint64_t ino, struct slice key, const char *value)
{
	struct levels *l = ctx;
	enum fs_audit level;

	if (!policy_key_is(key, "audit") || audit_level_parse(value, &level) < 0)
		return 0;
	if (ino == FS_ROOT_INO) {
		l->whole = level;
		return 0;
	}
	l->below = true;
	l->changes |= level == FS_AUDIT_CHANGES;
	return 0;
}

static enum audit_scope scope_now(struct fs *fs)
{
	struct levels l = {.whole = fs->config.audit};

	if (policies_scan(fs, "audit", look, &l) < 0 || (l.below && (l.changes || l.whole == FS_AUDIT_CHANGES)))
		return AUDIT_SOME;
	return l.whole == FS_AUDIT_CHANGES ? AUDIT_ALL : l.whole == FS_AUDIT_ADMIN ? AUDIT_ACTS : AUDIT_NOTHING;
}

/* Policies have changed with batch `seq`. */
static void update(struct fs *fs, struct audit_wanted *w, uint64_t generation, uint64_t seq) EXCLUDES(w->lock)
{
	mutex_lock(&w->lock);
	enum audit_scope was = audit_scope_of(w), is = scope_now(fs);

	if (was == AUDIT_ALL && is != AUDIT_ALL)
		raise_u64(&w->all_until, seq);
	if (!audit_has_changes(was) && audit_has_changes(is))
		atomic_store(&w->began, seq);
	if (audit_has_changes(was) && !audit_has_changes(is))
		atomic_store(&w->ended, seq);
	atomic_store(&w->scope, (int)is);
	atomic_store(&w->generation, generation);
	mutex_unlock(&w->lock);
}

void audit_wanted_open(struct fs *fs, struct audit_wanted *w)
{
	mutex_init(&w->lock);
	atomic_store(&w->scope, (int)scope_now(fs));
	atomic_store(&w->generation, policies_generation(fs));
	atomic_store(&w->all_until, position_settled(fs)); /* nobody noted what these are of */
	atomic_store(&w->ended, position_settled(fs));
}

void audit_wanted_close(struct audit_wanted *w) NO_THREAD_SAFETY
{
	free(w->note);
	mutex_destroy(&w->lock);
}

/* ---- records ---- */

static bool is_wanted(struct fs *fs, const struct record *r)
{
	uint64_t ino[RECORD_INODES_MAX];
	uint32_t n = record_inodes(r, ino);
	enum fs_audit level;

	if (n == 0)
		return audit_level_at(fs, FS_ROOT_INO, NULL, 0, &level) < 0 || level == FS_AUDIT_CHANGES;
	for (uint32_t i = 0; i < n; i++) {
		bool is_new =
		    ino[i] == r->ino ? r->type == RECORD_MKNODE : r->type == RECORD_RENAME && ino[i] == r->rename.whiteout_ino;

		if (is_new) /* it is not there yet */
			continue;
		if (audit_level_at(fs, ino[i], ino, n, &level) < 0 ? r->type != RECORD_REAP : level == FS_AUDIT_CHANGES)
			return true;
	}
	return false;
}

void audit_before(struct fs *fs, const struct record *r, uint64_t seq)
{
	struct audit_wanted *w = audit_wanted_of(fs);

	if (!w || audit_scope_of(w) != AUDIT_SOME || !is_wanted(fs, r))
		return;
	mutex_lock(&w->lock);
	int e = put(w, seq, r->ino);
	mutex_unlock(&w->lock);
	if (e < 0)
		raise_u64(&w->all_until, seq);
}

void audit_after(struct fs *fs, uint64_t seq)
{
	struct audit_wanted *w = audit_wanted_of(fs);
	uint64_t generation = policies_generation(fs);

	if (w && atomic_load_explicit(&w->generation, memory_order_relaxed) != generation)
		update(fs, w, generation, seq);
}

bool audit_wants(struct audit_wanted *w, uint64_t seq, const struct record *r)
{
	return seq <= atomic_load(&w->all_until) || audit_scope_of(w) == AUDIT_ALL || has(w, seq, r->ino);
}

void audit_wanted_passed(struct audit_wanted *w, uint64_t seq)
{
	mutex_lock(&w->lock);
	if (w->n && rebuild(w, w->n < NOTES_FIRST / 2 ? NOTES_FIRST : w->cap, seq) < 0) { /* they stay a while */
	}
	mutex_unlock(&w->lock);
}
