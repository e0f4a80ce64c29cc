/*
 * log_open.c: goes on with an audit log that is there: where its end is, against what the heads say.
 *
 * Damage, and entries that were acknowledged and are gone, do not keep the log from going on: the next segment says so.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/audit/log_impl.h"

#define SEGMENT_MAX (16 * MIB)
#define BEYOND_MAX  16u /* segments that were begun in vain, one after the other */

int log_read_file(void *ctx, const char *name, struct buf *out)
{
	const struct audit_log *log = ctx;
	struct disk *d;
	int r = store_open(log->config.store, name, DISK_READONLY, 0, &d);

	if (r < 0)
		return r;
	uint8_t *to = d->size <= SEGMENT_MAX ? buf_grow(out, d->size) : NULL;
	r = !to ? -ENOMEM : disk_read(d, to, d->size, 0);
	disk_close(d);
	return r;
}

static int load_heads(struct audit_log *log, struct audit_head *ret, bool *ret_any, struct audit_log_found *found)
{
	static const char *const names[] = {AUDIT_HEAD, AUDIT_HEAD_TOO};
	struct audit_head h;

	for (unsigned i = 0; i < 2; i++) {
		CLEANUP_BUF struct buf sector = {0};
		int r = log_read_file(log, names[i], &sector);

		if (r < 0 && r != -ENOENT)
			return r;
		if (r == 0 && audit_head_parse((struct slice){sector.p, sector.len}, &h) == 0) {
			if (!*ret_any || h.at.n > ret->at.n)
				*ret = h;
			*ret_any = true;
		} else if (r == 0 && !*found->what) { /* zeros: made, and not written before a crash */
			bool zeros = true;
			for (size_t b = 0; b < sector.len; b++)
				zeros = zeros && sector.p[b] == 0;
			if (!zeros)
				snprintf(found->what, sizeof(found->what), "the head %s is damaged", names[i]);
		}
	}
	return 0;
}

static int find_oldest(struct audit_log *log)
{
	char name[AUDIT_NAME_MAX];
	struct disk *d;

	for (log->oldest = log->segment; log->oldest > 0; log->oldest--) {
		audit_segment_name(log->oldest - 1, name);
		int r = store_open(log->config.store, name, DISK_READONLY, 0, &d);
		if (r == -ENOENT)
			return 0;
		if (r < 0)
			return r;
		disk_close(d);
	}
	return 0;
}

struct taking_up {
	struct audit_log *log;
	audit_entry_fn *fn;
	void *ctx;
	const struct audit_head *head;
	bool met; /* the entry that the head names */
};

static int take_entry(void *ctx, const struct audit_line *line, const json_t *body)
{
	struct taking_up *t = ctx;

	if (line->n == t->head->at.n)
		t->met = memcmp(line->hash, t->head->at.hash, sizeof(line->hash)) == 0;
	return t->fn ? t->fn(t->ctx, line, body) : 0;
}

/* What can be believed of segment `segment`; -EBADMSG: nothing.  *ret_text holds its bytes. */
static int scan_segment(struct taking_up *t, uint32_t segment, struct buf *ret_text, struct audit_scan *ret)
{
	char name[AUDIT_NAME_MAX];

	audit_segment_name(segment, name);
	int r = log_read_file(t->log, name, ret_text);
	if (r < 0)
		return r == -ENOENT ? -EBADMSG : r;
	return audit_scan((struct slice){ret_text->p, ret_text->len}, 0, take_entry, t, ret);
}

/* The segment goes on where it ends. */
static int go_on(struct audit_log *log, const struct buf *text, const struct audit_scan *scan)
{
	char name[AUDIT_NAME_MAX];

	audit_segment_name(log->segment, name);
	if (text->len != log->config.segment_bytes) { /* of another size: the next one is right */
		log->cut = true;
		return 0;
	}
	memcpy(log->image, text->p, scan->used);
	log->used = log->written = scan->used;
	log->began_ns = scan->anchor.time_ns;
	return store_open(log->config.store, name, 0, log->config.segment_bytes, &log->disk);
}

/* From the newest segment that says anything, against the head. */
static int take_up(struct audit_log *log, const struct audit_head *head, audit_entry_fn *fn, void *ctx,
		   struct audit_log_found *found)
{
	CLEANUP_BUF struct buf text = {0}, next_text = {0};
	struct taking_up t = {.log = log, .fn = fn, .ctx = ctx, .head = head};
	struct audit_scan scan, next;
	int r = scan_segment(&t, head->segment, &text, &scan);

	log->begun = true;
	log->segment = head->segment;
	if (r < 0 && r != -EBADMSG)
		return r;
	if (r == -EBADMSG && head->at.n == 0) { /* the first segment was being made */
		log->begun = false;
		return 0;
	}
	if (r == -EBADMSG)
		scan = (struct audit_scan){.end = head->at, .rest = true};
	/* A crash after the next one was begun, before the heads said so: there is none behind that. */
	int r_next = r == 0 ? scan_segment(&t, head->segment + 1, &next_text, &next) : -EBADMSG;
	if (r_next == 0 && next.anchor.after.n == scan.end.n &&
	    memcmp(next.anchor.after.hash, scan.end.hash, AUDIT_HASH_BYTES) == 0) {
		log->segment++;
		scan = next;
		buf_free(&text);
		text = next_text;
		next_text = (struct buf){0};
	} else if (r_next < 0 && r_next != -EBADMSG) {
		return r_next;
	}
	log->end = log->acked = scan.end;
	log->top = max_u64(scan.end.n, head->at.n);
	log->cut = scan.rest;
	bool gone = r == -EBADMSG || head->at.n > scan.end.n;
	if (gone || (!t.met && head->at.n)) {
		log->lost_from = gone && r == 0 ? scan.end.n + 1 : head->at.n;
		log->lost_to = head->at.n;
		log->cut = true;
		snprintf(found->what, sizeof(found->what),
			 "entries %" PRIu64 " to %" PRIu64 " (segment %" PRIu32 ") are damaged or gone", log->lost_from,
			 log->lost_to, head->segment);
	}
	return log->cut ? 0 : go_on(log, &text, &scan);
}

/* Behind the newest segment there may be some that were begun in vain: nothing in them was acknowledged. */
static int remove_beyond(struct audit_log *log)
{
	char name[AUDIT_NAME_MAX];

	for (uint32_t i = 1; i <= BEYOND_MAX; i++) {
		audit_segment_name(log->segment + i, name);
		int r = store_remove(log->config.store, name);
		if (r < 0 && r != -ENOENT)
			return r;
	}
	return store_sync_names(log->config.store);
}

/* Without heads: the first mount crashed early, or they are gone.  *ret_any: there are segments. */
static int guess_head(struct audit_log *log, struct audit_head *ret, bool *ret_any, struct audit_log_found *found)
{
	char name[AUDIT_NAME_MAX];
	struct disk *d;
	uint32_t n = 0;
	int r;

	for (;; n++) {
		audit_segment_name(n, name);
		r = store_open(log->config.store, name, DISK_READONLY, 0, &d);
		if (r < 0)
			break;
		disk_close(d);
	}
	*ret_any = n > 0;
	*ret = (struct audit_head){.segment = n ? n - 1 : 0};
	if (n > 1)
		snprintf(found->what, sizeof(found->what), "both heads are missing");
	return r == -ENOENT ? 0 : r;
}

int log_find(struct audit_log *log, audit_entry_fn *fn, void *ctx, struct audit_log_found *found)
{
	struct audit_head head;
	bool heads = false;
	int r = load_heads(log, &head, &heads, found);

	found->begun = heads;
	if (r == 0 && !heads)
		r = guess_head(log, &head, &found->begun, found);
	if (r < 0 || !found->begun)
		return r;
	r = take_up(log, &head, fn, ctx, found);
	if (r == 0 && heads)
		r = remove_beyond(log);
	return r < 0 ? r : find_oldest(log);
}
