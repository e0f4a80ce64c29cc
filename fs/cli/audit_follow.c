/*
 * audit_follow.c: tells new entries of an audit log that somebody else writes.
 *
 * A head says what is acknowledged; only that is told, so nothing that a crash takes back.  The segment is read from its anchor
 * on: its chain is checked, and that the entry told last is still the same.  It may be read while it is written, so what is wrong
 * once may be right the next time.
 */
#include "fs/cli/audit_follow.h"

#include <errno.h>
#include <string.h>

static int read_head(const struct audit_follow *f, const char *name, struct audit_head *ret)
{
	CLEANUP_BUF struct buf sector = {0};
	int r = f->source.read(f->source.ctx, name, &sector);

	return r < 0 ? r : audit_head_parse((struct slice){sector.p, sector.len}, ret);
}

/* The newer one of the two. */
static int newest_head(const struct audit_follow *f, struct audit_head *ret)
{
	struct audit_head too;
	int r = read_head(f, AUDIT_HEAD, ret), r_too = read_head(f, AUDIT_HEAD_TOO, &too);

	if (r_too == 0 && (r < 0 || too.at.n > ret->at.n))
		*ret = too;
	return r_too == 0 ? 0 : r;
}

int audit_follow_begin(struct audit_follow *f)
{
	struct audit_head head;
	int r = newest_head(f, &head);

	f->segment = r == 0 && head.segment ? head.segment - 1 : 0; /* the newest entry may be in the one before */
	return r;
}

struct telling {
	struct audit_follow *f;
	uint64_t until;
	bool other; /* the entry told last is another one now */
};

static int tell(void *ctx, const struct audit_line *line, const json_t *body)
{
	struct telling *t = ctx;
	struct audit_chain *told = &t->f->told;

	if (line->n == told->n)
		t->other = memcmp(line->hash, told->hash, sizeof(told->hash)) != 0;
	if (line->n <= told->n || line->n > t->until || t->other)
		return 0;
	told->n = line->n;
	memcpy(told->hash, line->hash, sizeof(told->hash));
	return t->f->fn(t->f->ctx, line, body);
}

static int tell_segment(struct audit_follow *f, uint32_t segment, uint64_t until)
{
	struct telling t = {.f = f, .until = until};
	CLEANUP_BUF struct buf text = {0};
	char name[AUDIT_NAME_MAX];
	struct audit_scan scan;

	audit_segment_name(segment, name);
	int r = f->source.read(f->source.ctx, name, &text);
	if (r == 0)
		r = audit_scan((struct slice){text.p, text.len}, until, tell, &t, &scan);
	return r == 0 && t.other ? -EBADMSG : r;
}

int audit_follow_step(struct audit_follow *f)
{
	struct audit_head head;
	int r = newest_head(f, &head);

	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? -EAGAIN : r;
	if (head.at.n == f->told.n)
		return memcmp(head.at.hash, f->told.hash, AUDIT_HASH_BYTES) == 0 ? 0 : -EBADMSG;
	if (head.at.n < f->told.n) /* the log was listed before it was acknowledged */
		return -EAGAIN;
	for (; r == 0 && f->segment < head.segment; f->segment++) {
		r = tell_segment(f, f->segment, head.at.n);
		if (r == -ENOENT) /* it went for its age */
			r = 0;
	}
	if (r == 0)
		r = tell_segment(f, f->segment, head.at.n);
	if (r == -ENOENT || r == -EBADMSG)
		return -EAGAIN;
	return r == 0 && f->told.n != head.at.n ? -EAGAIN : r;
}
