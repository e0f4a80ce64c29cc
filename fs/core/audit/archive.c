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
	struct buf text;
	size_t begin[PIECE_ENTRIES + 1];
	size_t n;
	struct feed_place after;
};

static int gather(void *ctx, const struct feed_line *line)
{
	struct piece *p = ctx;

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
	struct slice *members = calloc(p->n, sizeof(*members));

	if (!members)
		return -ENOMEM;
	for (size_t i = 0; i < p->n; i++)
		members[i] = (struct slice){p->text.p + p->begin[i], p->begin[i + 1] - p->begin[i]};
	int r = audit_write_locked(a, members, p->n, NULL);
	free(members);
	if (r < 0) {
		feed_names_forget(a->names); /* its records come once more */
		return r;
	}
	a->changes += p->n;
	a->place = p->after;
	audit_carry_locked(a);
	return 0;
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

static int archive_piece(struct audit *a, bool *ret_more) REQUIRES(a->lock)
{
	struct piece *p = calloc(1, sizeof(*p));
	uint64_t newest = position_settled(a->fs);
	struct feed_place place = a->place;
	int r = 0;

	*ret_more = false;
	if (!p)
		return -ENOMEM;
	if (newest && place.seq > newest && fs_role(a->fs) == ROLE_FOLLOWER)
		r = skip_history(a, newest, p);
	else
		r = feed_read(a->fs, a->names, &place, gather, p, ret_more);
	if (r == 0 && p->n)
		r = write_piece(a, p);
	*ret_more = *ret_more && p->n;
	buf_free(&p->text);
	free(p);
	return r;
}

uint64_t audit_floor(struct fs *fs)
{
	return fs->audit ? atomic_load(&fs->audit->floor) : 0;
}

int audit_archive(struct fs *fs)
{
	struct audit *a = fs->audit;
	bool more = true;
	int r = 0;

	if (!a || fs->config.audit != FS_AUDIT_CHANGES)
		return 0;
	while (r == 0 && more) {
		mutex_lock(&a->lock);
		if (!a->log || !a->was_changes) /* until an act has opened it */
			more = false;
		else
			r = archive_piece(a, &more);
		mutex_unlock(&a->lock);
	}
	return r;
}
