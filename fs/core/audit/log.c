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
 * What was there is taken up by log_open.c; old segments go by log_keep.c.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/audit/log_impl.h"
#include "fs/store/super.h"

/* ---- files ---- */

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

int log_write_heads(struct audit_log *log, bool open)
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
int log_flush(struct audit_log *log)
{
	if (log->used == log->written)
		return 0;
	int r = write_image(log);
	const struct audit_chain was = log->acked;
	if (r == 0) {
		log->acked = log->end;
		r = log_write_heads(log, true);
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

int log_add_text(struct audit_log *log, uint64_t n, const struct buf *text)
{
	return text->failed ? -ENOMEM : add_line(log, n, (struct slice){text->p, text->len});
}

static int add_anchor(struct audit_log *log)
{
	char volume[UUID_TEXT], node[UUID_TEXT], prev[AUDIT_HASH_TEXT];
	CLEANUP_BUF struct buf text = {0};

	log->began_ns = clock_real_ns(log->config.clock);
	uuid_text(log->config.volume, volume);
	uuid_text(log->config.node, node);
	audit_hash_text(log->end.hash, prev);
	buf_printf(&text,
		   "\"kind\":\"anchor\",\"segment\":%" PRIu32 ",\"volume\":\"%s\",\"node\":\"%s\",\"after\":%" PRIu64
		   ",\"prev\":\"%s\",\"time_ns\":%" PRId64,
		   log->segment, volume, node, log->end.n, prev, log->began_ns);
	if (log->cut)
		buf_printf(&text, ",\"cut\":true");
	if (log->lost_from)
		buf_printf(&text, ",\"lost\":{\"from\":%" PRIu64 ",\"to\":%" PRIu64 "}", log->lost_from, log->lost_to);
	if (log->carried && *log->carried)
		buf_printf(&text, ",%s", log->carried);
	return log_add_text(log, log->top + 1, &text);
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

int log_begin_segment(struct audit_log *log)
{
	uint32_t segment = log->begun ? log->segment + 1 : 0;
	int r = log->begun ? 0 : log_write_heads(log, true); /* a log without heads is a damaged one */

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
	r = log_flush(log); /* the heads name it: from here on it is known to be there */
	if (r < 0)
		return r;
	log->lost_from = log->lost_to = 0;
	return log_drop_old(log);
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
	log->looked_ns = clock_mono_ns(c->clock);
	int r = log->image ? log_find(log, fn, ctx, ret_found) : -ENOMEM;
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
	if (log && log->begun && !log->cut && log_write_heads(log, false) < 0)
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
	int r = fresh ? log_begin_segment(log) : 0;

	if (r == 0)
		r = add_line(log, log->top + 1, members);
	if (r != -EMSGSIZE)
		return r;
	if (fresh)
		return -E2BIG;
	r = log_flush(log);
	if (r == 0)
		r = log_begin_segment(log);
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
		r = log_write_heads(log, true);
	for (size_t i = 0; r == 0 && i < n; i++) {
		r = append_one(log, members[i]);
		if (i == 0)
			first = log->top;
	}
	if (r == 0)
		r = log_flush(log);
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
