/*
 * archive.c: every change into the audit log, when that is asked for.
 *
 * The journal is the audit trail, but a ring: what is settled is copied out of it by way of the change feed, a few hundred
 * records a write.  A place moves only once its entries are durable; after a crash, or when the log could not be written, the
 * records are still in the ring and follow then.  Should they be overwritten first, the gap is an entry.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/audit/impl.h"

#define PIECE_ENTRIES 512u
#define PIECE_BYTES   (256 * KIB)

struct piece {
	struct audit *a;
	uint64_t newest; /* batches behind this one are left for the next time */
	struct buf text;
	size_t begin[PIECE_ENTRIES + 1];
	size_t n;
	struct feed_place after;
};

static int gather(void *ctx, const struct feed_line *line)
{
	struct piece *p = ctx;

	if (line->after.seq > p->newest)
		return 1;
	if (line->record && !audit_wants(&p->a->wanted, line->after.seq, line->record)) {
		p->after = line->after;
		return 0;
	}
	if (p->n == PIECE_ENTRIES || p->text.len >= PIECE_BYTES)
		return 1;
	CLEANUP_FREE char *event = json_dumps(line->event, JSON_COMPACT);
	if (!event)
		return -ENOMEM;
	p->begin[p->n++] = p->text.len;
	buf_printf(&p->text, "\"kind\":\"change\",\"batch\":\"%016" PRIx64 "\",\"event\":", line->batch_hash);
	buf_put(&p->text, event, strlen(event));
	p->begin[p->n] = p->text.len;
	p->after = line->after;
	return p->text.failed ? -ENOMEM : 0;
}

static int write_piece(struct audit *a, const struct piece *p) REQUIRES(a->lock)
{
	struct slice *members = calloc(max_u64(p->n, 1), sizeof(*members));

	if (!members)
		return -ENOMEM;
	for (size_t i = 0; i < p->n; i++)
		members[i] = (struct slice){p->text.p + p->begin[i], p->begin[i + 1] - p->begin[i]};
	int r = p->n ? audit_write_locked(a, members, p->n, NULL) : 0;
	free(members);
	if (r < 0) {
		feed_names_forget(a->names); /* its records come once more */
		return r;
	}
	a->changes += p->n;
	a->place = p->after;
	if (p->n) {
		a->kept_seq = a->place.seq;
		a->kept_ns = clock_mono_ns(a->fs->clock);
	}
	audit_carry_locked(a);
	return audit_keep_place_locked(a, false);
}

/* A resync replaced the history that was archived: there is no telling from where on. */
static int skip_history(struct audit *a, uint64_t newest, struct piece *p) REQUIRES(a->lock)
{
	json_t *event = json_pack("{s:I, s:s, s:I, s:I, s:s}", "seq", (json_int_t)newest, "op", "gap", "from",
				  (json_int_t)a->place.seq, "to", (json_int_t)newest, "why", "history");
	const struct feed_line line = {.after = {newest, FEED_WHOLE}, .event = event};

	feed_names_forget(a->names);
	int r = event ? gather(p, &line) : -ENOMEM;
	json_decref(event);
	return r;
}

static int archive_piece(struct audit *a, uint64_t newest, bool *ret_more) REQUIRES(a->lock)
{
	struct piece *p = calloc(1, sizeof(*p));
	struct feed_place place = a->place;
	int r = 0;

	*ret_more = false;
	if (!p)
		return -ENOMEM;
	p->a = a;
	p->newest = newest;
	p->after = place;
	if (newest && place.seq > newest && fs_role(a->fs) == ROLE_FOLLOWER)
		r = skip_history(a, newest, p);
	else
		r = feed_read(a->fs, a->names, &place, gather, p, ret_more);
	bool moved = p->after.seq != a->place.seq || p->after.next != a->place.next;
	if (r == 0 && moved)
		r = write_piece(a, p);
	*ret_more = *ret_more && moved;
	buf_free(&p->text);
	free(p);
	return r;
}

uint64_t audit_floor(struct fs *fs)
{
	return fs->audit ? atomic_load(&fs->audit->floor) : 0;
}

/*
 * The newest batch that can be archived.  Where a part of the tree is logged, that is one whose records were all judged: an
 * operation appends a record before it applies it, and whoever got the gate exclusively has seen the end of those under way.
 */
static uint64_t newest_judged(struct audit *a)
{
	uint64_t newest = position_settled(a->fs), floor = atomic_load(&a->floor);

	if (audit_scope_of(&a->wanted) == AUDIT_ALL || (floor ? floor > newest : audit_scope_of(&a->wanted) != AUDIT_SOME))
		return newest;
	rwlock_wrlock(&a->fs->gate);
	rwlock_wrunlock(&a->fs->gate);
	return newest;
}

static int archive_some(struct audit *a, uint64_t newest, bool *ret_more) REQUIRES(a->lock)
{
	int r = audit_follow_scope_locked(a);

	if (r == 0 && audit_has_changes(a->told))
		r = archive_piece(a, newest, ret_more);
	if (r == 0 && !*ret_more)
		r = audit_follow_scope_locked(a);
	return r < 0 || *ret_more ? r : audit_log_expire(a->log);
}

int audit_archive(struct fs *fs)
{
	struct audit *a = fs->audit;
	bool more = true;
	int r = 0;

	if (!a)
		return 0;
	uint64_t newest = newest_judged(a), passed = 0;
	while (r == 0 && more) {
		more = false;
		mutex_lock(&a->lock);
		if (a->log) /* else an act opens it */
			r = archive_some(a, newest, &more);
		passed = a->place.next == FEED_WHOLE ? a->place.seq : a->place.seq - 1;
		mutex_unlock(&a->lock);
	}
	audit_wanted_passed(&a->wanted, passed);
	return r;
}
