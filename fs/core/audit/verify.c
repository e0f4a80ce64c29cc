/*
 * verify.c: walks an audit log from its oldest segment to its end.
 *
 * Heads are read before segments, so a log that is being written has at least what they say.  Each segment is read from its own
 * anchor on: damage in one does not hide the next.  The first damage is kept, with the entry where it is met.
 */
#include "fs/core/audit/verify.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SEGMENTS_MAX 1000000u

void audit_segment_name(uint32_t segment, char ret_name[AUDIT_NAME_MAX])
{
	snprintf(ret_name, AUDIT_NAME_MAX, AUDIT_DIR "/seg.%08" PRIu32, segment);
}

/* ---- heads ---- */

int audit_head_make(const struct audit_head *h, uint8_t ret_sector[AUDIT_HEAD_BYTES])
{
	char text[AUDIT_HASH_TEXT], body[256];
	struct audit_chain none = {0};
	CLEANUP_BUF struct buf out = {0};

	audit_hash_text(h->at.hash, text);
	snprintf(body, sizeof(body), "\"kind\":\"head\",\"segment\":%" PRIu32 ",\"hash\":\"%s\",\"open\":%s", h->segment, text,
		 h->open ? "true" : "false");
	int r = audit_chain_add(&none, h->at.n, (struct slice){body, strlen(body)}, &out);
	if (r < 0)
		return r;
	assert(out.len <= AUDIT_HEAD_BYTES);
	memset(ret_sector, 0, AUDIT_HEAD_BYTES);
	memcpy(ret_sector, out.p, out.len);
	return 0;
}

static bool all_zeros(struct slice s)
{
	const uint8_t *p = s.p;

	for (size_t i = 0; i < s.len; i++)
		if (p[i])
			return false;
	return true;
}

static int parse_hash(const json_t *object, const char *key, uint8_t ret_hash[AUDIT_HASH_BYTES])
{
	const json_t *text = json_object_get(object, key);

	return json_is_string(text) ? audit_hash_parse(json_string_value(text), json_string_length(text), ret_hash) : -EINVAL;
}

static bool parse_number(const json_t *object, const char *key, uint64_t max, uint64_t *ret)
{
	const json_t *n = json_object_get(object, key);

	if (!json_is_integer(n) || json_integer_value(n) < 0 || (uint64_t)json_integer_value(n) > max)
		return false;
	*ret = (uint64_t)json_integer_value(n);
	return true;
}

static bool is_kind(const json_t *body, const char *kind)
{
	const char *text = json_string_value(json_object_get(body, "kind"));

	return text && strcmp(text, kind) == 0;
}

int audit_head_parse(struct slice sector, struct audit_head *ret)
{
	static const uint8_t none[AUDIT_HASH_BYTES];
	struct audit_line line;
	uint64_t segment;
	int r = audit_line_read(none, sector, &line);

	if (r != 1 || !all_zeros((struct slice){(const uint8_t *)sector.p + line.bytes, sector.len - line.bytes}))
		return r < 0 && r != -EBADMSG ? r : -EBADMSG;
	json_t *body = json_loadb(line.body.p, line.body.len, 0, NULL);
	*ret = (struct audit_head){.at.n = line.n, .open = json_is_true(json_object_get(body, "open"))};
	r = is_kind(body, "head") && parse_number(body, "segment", UINT32_MAX, &segment) ? 0 : -EBADMSG;
	if (r == 0 && parse_hash(body, "hash", ret->at.hash) < 0)
		r = -EBADMSG;
	ret->segment = r == 0 ? (uint32_t)segment : 0;
	json_decref(body);
	return r;
}

/* ---- one segment ---- */

static int anchor_parse(const json_t *body, uint64_t n, struct audit_anchor *ret)
{
	uint64_t segment, time_ns;
	const json_t *lost = json_object_get(body, "lost");

	*ret = (struct audit_anchor){.n = n, .cut = json_is_true(json_object_get(body, "cut"))};
	if (!is_kind(body, "anchor") || !parse_number(body, "segment", UINT32_MAX, &segment) ||
	    !parse_number(body, "after", n - 1, &ret->after.n) || parse_hash(body, "prev", ret->after.hash) < 0)
		return -EBADMSG;
	if (lost && (!parse_number(lost, "from", n, &ret->lost_from) || !parse_number(lost, "to", n, &ret->lost_to)))
		return -EBADMSG;
	ret->segment = (uint32_t)segment;
	if (parse_number(body, "time_ns", INT64_MAX, &time_ns))
		ret->time_ns = (int64_t)time_ns;
	return 0;
}

/* The anchor says what its own hash follows, so it is parsed before it is believed. */
int audit_anchor_read(struct slice text, struct audit_anchor *ret, struct audit_line *ret_line)
{
	const char *end = text.len ? memchr(text.p, '\n', min_u64(text.len, AUDIT_LINE_MAX)) : NULL;
	json_t *body = end ? json_loadb(text.p, (size_t)(end - (const char *)text.p), JSON_DISABLE_EOF_CHECK, NULL) : NULL;
	uint64_t n;
	int r = parse_number(body, "n", INT64_MAX, &n) && n > 0 ? anchor_parse(body, n, ret) : -EBADMSG;

	json_decref(body);
	if (r == 0 && audit_line_read(ret->after.hash, text, ret_line) != 1)
		r = -EBADMSG;
	return r;
}

static int give(const struct audit_line *line, audit_entry_fn *fn, void *ctx)
{
	json_t *body = json_loadb(line->body.p, line->body.len, 0, NULL);
	int r = body ? fn(ctx, line, body) : -EBADMSG;

	json_decref(body);
	return r;
}

static struct slice rest_of(struct slice text, size_t used)
{
	return (struct slice){(const uint8_t *)text.p + used, text.len - used};
}

int audit_scan(struct slice text, uint64_t until, audit_entry_fn *fn, void *ctx, struct audit_scan *ret)
{
	struct audit_line line;
	int r = audit_anchor_read(text, &ret->anchor, &line), more = 1;

	if (r < 0)
		return r;
	*ret = (struct audit_scan){.anchor = ret->anchor, .end = ret->anchor.after};
	do {
		r = give(&line, fn, ctx);
		if (r < 0)
			return r;
		ret->end.n = line.n;
		memcpy(ret->end.hash, line.hash, sizeof(line.hash));
		ret->used += line.bytes;
		if (ret->end.n == until)
			break;
		more = audit_line_read(ret->end.hash, rest_of(text, ret->used), &line);
		if (more < 0 && more != -EBADMSG)
			return more;
	} while (more == 1 && line.n == ret->end.n + 1);
	ret->rest = !all_zeros(rest_of(text, ret->used));
	return 0;
}

/* ---- the whole ---- */

struct walk {
	const struct audit_source *source;
	const struct audit_chain *expected;
	audit_entry_fn *fn;
	void *ctx;
	struct audit_report *report;
	struct audit_head head[2];
	bool has_head[2], met[2];
	bool open;
	uint32_t segment;           /* being read */
	struct audit_chain end;     /* of the one before */
	struct audit_chain dropped; /* what the oldest segment follows; n 0: nothing */
	bool drop_found, begun;     /* a segment was read */
	/* Of each segment: its anchor, n 0 when it has none; and the newest entry that no later cut makes void. */
	struct place {
		struct audit_anchor anchor;
		uint64_t until;
	} * place; /* owned */
};

static void damage(struct walk *w, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void damage(struct walk *w, const char *fmt, ...)
{
	va_list ap;

	if (w->report->damaged)
		return;
	va_start(ap, fmt);
	vsnprintf(w->report->what, sizeof(w->report->what), fmt, ap);
	va_end(ap);
	w->report->damaged = true;
}

static int read_head(struct walk *w, unsigned i)
{
	static const char *const names[] = {AUDIT_HEAD, AUDIT_HEAD_TOO};
	CLEANUP_BUF struct buf sector = {0};
	int r = w->source->read(w->source->ctx, names[i], &sector);

	if (r < 0 && r != -ENOENT)
		return r;
	if (r == 0)
		r = audit_head_parse((struct slice){sector.p, sector.len}, &w->head[i]);
	w->has_head[i] = r == 0;
	if (r == -ENOENT)
		damage(w, "the head %s is missing", names[i]);
	else if (r == -EBADMSG)
		damage(w, "the head %s is damaged", names[i]);
	else if (r < 0)
		return r;
	return 0;
}

static bool is_dropped(const struct walk *w, const json_t *body)
{
	uint8_t hash[AUDIT_HASH_BYTES];
	uint64_t last;

	return is_kind(body, "drop") && parse_number(body, "last", INT64_MAX, &last) && last == w->dropped.n &&
	       parse_hash(body, "hash", hash) == 0 && memcmp(hash, w->dropped.hash, sizeof(hash)) == 0;
}

/* The hash that was kept is this entry's or, of a drop, that of the last entry that went. */
static bool is_expected(const struct walk *w, const struct audit_line *line, const json_t *body)
{
	uint8_t hash[AUDIT_HASH_BYTES];

	if (memcmp(w->expected->hash, line->hash, AUDIT_HASH_BYTES) == 0)
		return !w->expected->n || w->expected->n == line->n;
	return is_kind(body, "drop") && parse_hash(body, "hash", hash) == 0 &&
	       memcmp(w->expected->hash, hash, AUDIT_HASH_BYTES) == 0;
}

static int walk_entry(void *ctx, const struct audit_line *line, const json_t *body)
{
	struct walk *w = ctx;
	struct audit_report *rep = w->report;

	if (rep->entries++ == 0)
		rep->first = line->n;
	rep->last = line->n;
	memcpy(rep->head, line->hash, sizeof(rep->head));
	if (w->expected && is_expected(w, line, body))
		rep->kept_found = true;
	if (w->dropped.n && is_dropped(w, body))
		w->drop_found = true;
	for (unsigned i = 0; i < 2; i++)
		if (w->has_head[i] && w->head[i].at.n == line->n)
			w->met[i] = memcmp(w->head[i].at.hash, line->hash, AUDIT_HASH_BYTES) == 0;
	return w->fn ? w->fn(w->ctx, line, body) : 0;
}

/* How the segment hangs on what is before it. */
static void check_anchor(struct walk *w, const struct audit_anchor *a, bool first)
{
	static const uint8_t none[AUDIT_HASH_BYTES];

	if (a->segment != w->segment)
		damage(w, "segment %" PRIu32 " is another one's copy: it says it is %" PRIu32, w->segment, a->segment);
	else if (first && a->after.n)
		w->dropped = a->after;
	else if (first && memcmp(a->after.hash, none, sizeof(none)) != 0)
		damage(w, "segment %" PRIu32 " says it follows nothing, and has a hash to follow", w->segment);
	else if (!first && (a->after.n != w->end.n || memcmp(a->after.hash, w->end.hash, sizeof(none)) != 0))
		damage(w, "entry %" PRIu64 " (segment %" PRIu32 ") does not follow entry %" PRIu64, a->n, w->segment, w->end.n);
	if (a->n != a->after.n + 1 && !a->cut)
		damage(w, "entries %" PRIu64 " to %" PRIu64 " are missing before segment %" PRIu32, a->after.n + 1, a->n - 1,
		       w->segment);
	if (a->lost_from)
		damage(w,
		       "entries %" PRIu64 " to %" PRIu64 " were acknowledged, and were gone when segment %" PRIu32 " was begun",
		       a->lost_from, a->lost_to, w->segment);
}

/* All anchors.  A cut makes void what stands behind the entry that it follows, in all segments before it. */
static int read_anchors(struct walk *w)
{
	const struct audit_source *s = w->source;
	uint32_t n = s->last - s->first + 1;
	uint64_t until = UINT64_MAX;

	if (n > SEGMENTS_MAX)
		return -EFBIG;
	w->place = calloc(n, sizeof(*w->place));
	if (!w->place)
		return -ENOMEM;
	for (uint32_t i = n; i-- > 0;) {
		CLEANUP_BUF struct buf text = {0};
		char name[AUDIT_NAME_MAX];
		struct audit_anchor *a = &w->place[i].anchor;
		struct audit_line line;

		audit_segment_name(s->first + i, name);
		int r = s->read(s->ctx, name, &text);
		if (r < 0 && r != -ENOENT)
			return r;
		if (r < 0 || audit_anchor_read((struct slice){text.p, text.len}, a, &line) < 0)
			*a = (struct audit_anchor){0};
		w->place[i].until = until;
		if (a->n && a->cut)
			until = min_u64(until, a->after.n);
	}
	return 0;
}

/* Nothing in this segment or behind it was acknowledged: it was being begun when the log was cut off, by a crash or a failed
 * write. */
static bool is_vain(const struct walk *w, const struct place *p)
{
	const struct place *last = &w->place[w->source->last - w->source->first];

	if (p->anchor.n)
		return p->anchor.n > p->until;
	for (const struct place *later = p + 1; later <= last; later++)
		if (later->anchor.n)
			return later->anchor.cut && later->anchor.after.n == w->end.n;
	return w->open && (w->begun || max_u64(w->head[0].at.n, w->head[1].at.n) == 0);
}

/* What is behind the last entry of this one is no entry: whether that is as it should be. */
static bool may_be_torn(const struct walk *w, const struct place *p)
{
	const struct place *last = &w->place[w->source->last - w->source->first];

	for (const struct place *later = p + 1; later <= last; later++)
		if (later->anchor.n)
			return false;
	return w->open;
}

static int walk_segment(struct walk *w)
{
	const struct place *p = &w->place[w->segment - w->source->first];
	CLEANUP_BUF struct buf text = {0};
	char name[AUDIT_NAME_MAX];
	struct audit_scan scan;

	if (is_vain(w, p)) {
		w->report->torn |= may_be_torn(w, p);
		return 0;
	}
	if (!w->begun) /* the drop that says so may be in this very segment */
		w->dropped = p->anchor.after;
	audit_segment_name(w->segment, name);
	int r = w->source->read(w->source->ctx, name, &text);
	if (r == 0)
		r = audit_scan((struct slice){text.p, text.len}, p->until == UINT64_MAX ? 0 : p->until, walk_entry, w, &scan);
	if (r == -ENOENT) {
		damage(w, "segment %" PRIu32 " is missing, with what follows entry %" PRIu64, w->segment, w->end.n);
		return 0;
	}
	w->report->segments++;
	if (r == -EBADMSG) {
		damage(w, "entry %" PRIu64 ", the first of segment %" PRIu32 ", is damaged", w->end.n + 1, w->segment);
		return 0;
	}
	if (r < 0)
		return r;
	check_anchor(w, &scan.anchor, !w->begun);
	w->begun = true;
	w->end = scan.end;
	if (scan.rest && may_be_torn(w, p))
		w->report->torn = true;
	else if (scan.rest && scan.end.n != p->until)
		damage(w, "entry %" PRIu64 " (segment %" PRIu32 ", byte %zu) is damaged", scan.end.n + 1, w->segment, scan.used);
	return 0;
}

/* Whether the newest entries are those that the heads say. */
static void check_heads(struct walk *w)
{
	for (unsigned i = 0; i < 2; i++) {
		const struct audit_head *h = &w->head[i];

		if (!w->has_head[i] || h->at.n == 0)
			continue;
		if (h->at.n > w->report->last)
			damage(w, "entry %" PRIu64 " is damaged or missing: entries up to %" PRIu64 " were acknowledged",
			       w->report->last + 1, h->at.n);
		else if (!w->met[i])
			damage(w, "entry %" PRIu64 " is not the one that was acknowledged", h->at.n);
		else if (h->at.n < w->report->last && !w->open)
			damage(w, "entry %" PRIu64 " was added after the log was closed", h->at.n + 1);
	}
}

int audit_verify(const struct audit_source *s, const struct audit_chain *expected, audit_entry_fn *fn, void *ctx,
		 struct audit_report *ret)
{
	struct walk w = {.source = s, .expected = expected, .fn = fn, .ctx = ctx, .report = ret};

	*ret = (struct audit_report){0};
	int r = read_head(&w, 0);
	if (r == 0)
		r = read_head(&w, 1);
	if (r < 0)
		return r;
	if (!s->any && w.head[0].at.n + w.head[1].at.n == 0)
		return -ENOENT;
	w.open = (w.has_head[0] && w.head[0].open) || (w.has_head[1] && w.head[1].open);
	r = s->any ? read_anchors(&w) : 0;
	for (uint64_t i = s->first; r == 0 && s->any && i <= s->last; i++) {
		w.segment = (uint32_t)i;
		r = walk_segment(&w);
	}
	free(w.place);
	if (r < 0)
		return r;
	check_heads(&w);
	if (w.dropped.n && !w.drop_found)
		damage(&w, "entries up to %" PRIu64 " are missing, and were not dropped for their age", w.dropped.n);
	if (expected && !ret->kept_found && !ret->damaged && expected->n && expected->n < w.dropped.n)
		ret->kept_gone = true;
	else if (expected && !ret->kept_found)
		damage(
		    &w,
		    "no entry has the hash that was kept: the log was rewritten or cut, or that entry was dropped for its age");
	return 0;
}
