/*
 * log.c: appends to the audit log.
 *
 *     lines behind the newest entry -> written through to disk -> both heads -> acknowledged
 *
 * The segment being written is in memory as a whole; its last block is written again with what is added, in which sectors that
 * were acknowledged get the bytes they have.  A sector is written or not, so an acknowledged entry is never torn.
 *
 * A new segment is made when an entry does not fit, and also
 *   - after a failed write: what reached the disk is not known;
 *   - where a crash left a part of an entry;
 *   - where the newest entries are damaged or gone.
 * In the last three its anchor is a *cut*: it names the entry that it follows, and what stands behind that one in the old segment
 * was never acknowledged or, in the last, is said to be lost.  Numbers go on behind all that were ever given.
 *
 * Old segments go when there are more than `keep`: the log says so first, with the hash of their last entry, so that one that was
 * removed by somebody else is told from one that was dropped.
 */
#include "fs/core/audit/log.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/store/super.h"

#define SEGMENT_MAX (16 * MIB)
#define BEYOND_MAX  16u /* segments that were begun in vain, one after the other */

struct audit_log {
	struct audit_log_config config;
	struct disk *disk, *head[2]; /* owned; the segment being written, and both heads */
	uint8_t *image;              /* owned; segment_bytes, aligned: what the segment is to hold */
	size_t used, written;        /* bytes of it; those that are acknowledged */
	struct audit_chain end;      /* of `used` */
	struct audit_chain acked;    /* of `written`: what the heads say */
	uint64_t top;                /* highest number ever given */
	uint32_t segment, oldest;
	bool begun;                  /* `segment` is there */
	bool open;                   /* and the heads say that the log goes on */
	bool cut;                    /* the next entry needs a new segment, which is a cut */
	uint64_t lost_from, lost_to; /* for its anchor; 0: none */
	const char *carried;
};

/* ---- files ---- */

static int read_file(void *ctx, const char *name, struct buf *out)
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

/* Opened, and made when it is not there. */
static int open_head(struct audit_log *log, unsigned i)
{
	const char *name = i == 0 ? AUDIT_HEAD : AUDIT_HEAD_TOO;
	int r = store_open(log->config.store, name, 0, DISK_BLOCK, &log->head[i]);

	if (r == -ENOENT) {
		r = store_open(log->config.store, name, DISK_CREATE | DISK_ZERO, DISK_BLOCK, &log->head[i]);
		if (r == 0)
			r = store_sync_names(log->config.store);
	}
	return r;
}

static int write_heads(struct audit_log *log, bool open)
{
	struct audit_head h = {.at = log->acked, .segment = log->segment, .open = open};
	CLEANUP_FREE uint8_t *block = aligned_alloc(DISK_BLOCK, DISK_BLOCK);
	int r = block ? 0 : -ENOMEM;

	if (block) {
		memset(block, 0, DISK_BLOCK);
		r = audit_head_make(&h, block);
	}
	for (unsigned i = 0; r == 0 && i < 2; i++) {
		if (!log->head[i])
			r = open_head(log, i);
		if (r == 0)
			r = disk_write(log->head[i], block, DISK_BLOCK, 0, DISK_DURABLE);
	}
	log->open = r == 0 && open;
	return r;
}

/* Blocks from the last acknowledged byte on. */
static int write_image(struct audit_log *log)
{
	size_t from = log->written / DISK_BLOCK * DISK_BLOCK, to = div_round_up(log->used, DISK_BLOCK) * DISK_BLOCK;

	return to == from ? 0 : disk_write(log->disk, log->image + from, to - from, from, DISK_DURABLE);
}

/* What is in memory becomes durable and acknowledged.  After an error nobody knows what is on disk. */
static int flush(struct audit_log *log)
{
	if (log->used == log->written)
		return 0;
	int r = write_image(log);
	const struct audit_chain was = log->acked;
	if (r == 0) {
		log->acked = log->end;
		r = write_heads(log, true);
	}
	if (r == 0) {
		log->written = log->used;
		return 0;
	}
	log->acked = log->end = was;
	log->cut = true;
	return r;
}

/* ---- lines ---- */

/* To the segment in memory; -EMSGSIZE when it does not fit. */
static int add_line(struct audit_log *log, uint64_t n, struct slice members)
{
	CLEANUP_BUF struct buf line = {0};
	struct audit_chain end = log->end;
	int r = audit_chain_add(&end, n, members, &line);

	if (r < 0)
		return r;
	if (line.len > log->config.segment_bytes - log->used)
		return -EMSGSIZE;
	memcpy(log->image + log->used, line.p, line.len);
	log->used += line.len;
	log->end = end;
	log->top = n;
	return 0;
}

static int add_text(struct audit_log *log, uint64_t n, const struct buf *text)
{
	return text->failed ? -ENOMEM : add_line(log, n, (struct slice){text->p, text->len});
}

static int add_anchor(struct audit_log *log)
{
	char volume[UUID_TEXT], node[UUID_TEXT], prev[AUDIT_HASH_TEXT];
	CLEANUP_BUF struct buf text = {0};

	uuid_text(log->config.volume, volume);
	uuid_text(log->config.node, node);
	audit_hash_text(log->end.hash, prev);
	buf_printf(&text,
		   "\"kind\":\"anchor\",\"segment\":%" PRIu32 ",\"volume\":\"%s\",\"node\":\"%s\",\"after\":%" PRIu64
		   ",\"prev\":\"%s\",\"time_ns\":%" PRId64,
		   log->segment, volume, node, log->end.n, prev, clock_real_ns(log->config.clock));
	if (log->cut)
		buf_printf(&text, ",\"cut\":true");
	if (log->lost_from)
		buf_printf(&text, ",\"lost\":{\"from\":%" PRIu64 ",\"to\":%" PRIu64 "}", log->lost_from, log->lost_to);
	if (log->carried && *log->carried)
		buf_printf(&text, ",%s", log->carried);
	return add_text(log, log->top + 1, &text);
}

/* ---- segments ---- */

/* One of that number may have been made before a crash, with nothing acknowledged in it. */
static int make_segment(struct audit_log *log, uint32_t segment)
{
	char name[AUDIT_NAME_MAX];
	struct disk *d;

	audit_segment_name(segment, name);
	int r = store_open(log->config.store, name, DISK_CREATE | DISK_ZERO, log->config.segment_bytes, &d);
	if (r == -EEXIST) {
		r = store_remove(log->config.store, name);
		if (r == 0)
			r = store_sync_names(log->config.store);
		if (r == 0)
			r = store_open(log->config.store, name, DISK_CREATE | DISK_ZERO, log->config.segment_bytes, &d);
	}
	if (r < 0)
		return r;
	r = store_sync_names(log->config.store);
	if (r < 0) {
		disk_close(d);
		return r;
	}
	disk_close(log->disk);
	log->disk = d;
	return 0;
}

/* The entry that the segment behind `segment` follows. */
static int last_of(struct audit_log *log, uint32_t segment, struct audit_chain *ret)
{
	CLEANUP_BUF struct buf text = {0};
	char name[AUDIT_NAME_MAX];
	struct audit_anchor next;
	struct audit_line line;

	audit_segment_name(segment + 1, name);
	int r = read_file(log, name, &text);
	if (r == 0)
		r = audit_anchor_read((struct slice){text.p, text.len}, &next, &line);
	if (r == 0)
		*ret = next.after;
	return r;
}

/* Old segments go once the log says so durably. */
static int drop_old(struct audit_log *log)
{
	char hash[AUDIT_HASH_TEXT], name[AUDIT_NAME_MAX];
	CLEANUP_BUF struct buf text = {0};
	struct audit_chain last;

	if (log->segment - log->oldest < log->config.keep)
		return 0;
	uint32_t newest = log->segment - log->config.keep; /* of those that go */
	int r = last_of(log, newest, &last);
	if (r == -EBADMSG || r == -ENOENT) {
		log_warn("audit: segment %" PRIu32 " is damaged: nothing is dropped", newest + 1);
		return 0;
	}
	if (r < 0)
		return r;
	audit_hash_text(last.hash, hash);
	buf_printf(&text, "\"kind\":\"drop\",\"segment\":%" PRIu32 ",\"last\":%" PRIu64 ",\"hash\":\"%s\",\"time_ns\":%" PRId64,
		   newest, last.n, hash, clock_real_ns(log->config.clock));
	r = add_text(log, log->top + 1, &text);
	if (r == 0)
		r = flush(log);
	for (; r == 0 && log->oldest <= newest; log->oldest++) {
		audit_segment_name(log->oldest, name);
		r = store_remove(log->config.store, name);
		r = r == -ENOENT ? 0 : r;
	}
	return r < 0 ? r : store_sync_names(log->config.store);
}

static int begin_segment(struct audit_log *log)
{
	uint32_t segment = log->begun ? log->segment + 1 : 0;
	int r = log->begun ? 0 : write_heads(log, true); /* a log without heads is a damaged one */

	if (r == 0)
		r = make_segment(log, segment);
	if (r < 0)
		return r;
	log->segment = segment;
	log->begun = true;
	log->used = log->written = 0;
	log->end = log->acked;
	memset(log->image, 0, log->config.segment_bytes);
	r = add_anchor(log);
	if (r < 0)
		return r;
	log->cut = false;
	r = flush(log); /* the heads name it: from here on it is known to be there */
	if (r < 0)
		return r;
	log->lost_from = log->lost_to = 0;
	return drop_old(log);
}

/* ---- taking up what is there ---- */

static int load_heads(struct audit_log *log, struct audit_head *ret, bool *ret_any, struct audit_log_found *found)
{
	static const char *const names[] = {AUDIT_HEAD, AUDIT_HEAD_TOO};
	struct audit_head h;

	for (unsigned i = 0; i < 2; i++) {
		CLEANUP_BUF struct buf sector = {0};
		int r = read_file(log, names[i], &sector);

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
	int r = read_file(t->log, name, ret_text);
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

/* What there is, and from where on to write. */
static int find(struct audit_log *log, audit_entry_fn *fn, void *ctx, struct audit_log_found *found)
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

int audit_log_open(const struct audit_log_config *c, audit_entry_fn *fn, void *ctx, struct audit_log_found *ret_found,
		   struct audit_log **ret_log)
{
	struct audit_log *log = calloc(1, sizeof(*log));

	assert(c->segment_bytes % DISK_BLOCK == 0 && c->segment_bytes >= 2 * DISK_BLOCK && c->keep >= 2);
	*ret_found = (struct audit_log_found){0};
	if (!log)
		return -ENOMEM;
	log->config = *c;
	log->image = aligned_alloc(DISK_BLOCK, c->segment_bytes);
	if (log->image)
		memset(log->image, 0, c->segment_bytes);
	int r = log->image ? find(log, fn, ctx, ret_found) : -ENOMEM;
	if (r < 0)
		audit_log_abandon(log);
	else
		*ret_log = log;
	return r;
}

struct audit_log *audit_log_abandon(struct audit_log *log)
{
	if (!log)
		return NULL;
	disk_close(log->disk);
	disk_close(log->head[0]);
	disk_close(log->head[1]);
	free(log->image);
	free(log);
	return NULL;
}

struct audit_log *audit_log_close(struct audit_log *log)
{
	if (log && log->begun && !log->cut && write_heads(log, false) < 0)
		log_warn("audit: the log could not be closed; the next mount looks at its end");
	return audit_log_abandon(log);
}

void audit_log_set_carried(struct audit_log *log, const char *members)
{
	log->carried = members;
}

/* One entry, in a new segment where it does not fit. */
static int append_one(struct audit_log *log, struct slice members)
{
	bool fresh = !log->disk || log->cut;
	int r = fresh ? begin_segment(log) : 0;

	if (r == 0)
		r = add_line(log, log->top + 1, members);
	if (r != -EMSGSIZE)
		return r;
	if (fresh)
		return -E2BIG;
	r = flush(log);
	if (r == 0)
		r = begin_segment(log);
	if (r == 0)
		r = add_line(log, log->top + 1, members);
	return r == -EMSGSIZE ? -E2BIG : r;
}

int audit_log_append(struct audit_log *log, const struct slice *members, size_t n, uint64_t *ret_n)
{
	uint64_t first = 0;
	int r = 0;

	for (size_t i = 0; i < n; i++)
		if (members[i].len + 256 > log->config.segment_bytes - DISK_BLOCK)
			return -E2BIG;
	/* Where entries were lost the heads go on naming them until the next anchor says so. */
	if (log->begun && !log->open && !log->lost_from)
		r = write_heads(log, true);
	for (size_t i = 0; r == 0 && i < n; i++) {
		r = append_one(log, members[i]);
		if (i == 0)
			first = log->top;
	}
	if (r == 0)
		r = flush(log);
	else if (log->begun)
		log->cut = true; /* what is in memory only is forgotten */
	if (r < 0) {
		log->end = log->acked;
		return r;
	}
	if (ret_n)
		*ret_n = first;
	return 0;
}

void audit_log_head(const struct audit_log *log, struct audit_chain *ret)
{
	*ret = log->acked;
}
