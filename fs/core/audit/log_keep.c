/*
 * log_keep.c: which old segments of the audit log go, by how many there are and by how old they are.
 *
 * The log says so first, with the hash of their last entry: so one that was removed by somebody else is told from one that was
 * dropped, and the chain can be verified from there on.
 *
 * By age a segment goes once the one behind it was begun so long ago: then all of its entries are older.  So that there is one, a
 * segment is ended when it is a part of that time old.  Wall clocks jump: one segment an hour of running time may go for its age,
 * and none in the first hour; a clock that is set right again by then has cost nothing.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/audit/log_impl.h"

#define LOOK_NS (3600 * NSEC_PER_SEC)
#define PARTS   16u /* of the time that is kept: entries stay for one of them more, at most */

/* The anchor of a segment. */
static int anchor_of(struct audit_log *log, uint32_t segment, struct audit_anchor *ret)
{
	CLEANUP_BUF struct buf text = {0};
	char name[AUDIT_NAME_MAX];
	struct audit_line line;

	audit_segment_name(segment, name);
	int r = log_read_file(log, name, &text);
	return r < 0 ? r : audit_anchor_read((struct slice){text.p, text.len}, ret, &line);
}

static int say_dropped(struct audit_log *log, uint32_t newest, const struct audit_chain *last, const char *why)
{
	CLEANUP_BUF struct buf text = {0};
	char hash[AUDIT_HASH_TEXT];

	audit_hash_text(last->hash, hash);
	buf_printf(&text,
		   "\"kind\":\"drop\",\"segment\":%" PRIu32 ",\"last\":%" PRIu64
		   ",\"hash\":\"%s\",\"why\":\"%s\",\"time_ns\":%" PRId64,
		   newest, last->n, hash, why, clock_real_ns(log->config.clock));
	int r = log_add_text(log, log->top + 1, &text);
	return r < 0 ? r : log_flush(log);
}

/* Those up to `newest`, once the log says so durably; `next` is the anchor of the one behind. */
static int drop_up_to(struct audit_log *log, uint32_t newest, const struct audit_anchor *next, const char *why)
{
	char name[AUDIT_NAME_MAX];
	int r = say_dropped(log, newest, &next->after, why);

	while (r == 0 && log->oldest <= newest) {
		audit_segment_name(log->oldest, name);
		r = store_remove(log->config.store, name);
		r = r == -ENOENT ? 0 : r;
		log->oldest += r == 0; /* else it is the first to go the next time: none may stay behind one that went */
	}
	return r < 0 ? r : store_sync_names(log->config.store);
}

int log_drop_old(struct audit_log *log)
{
	struct audit_anchor next;

	if (log->segment - log->oldest < log->config.keep)
		return 0;
	uint32_t newest = log->segment - log->config.keep; /* of those that go */
	int r = anchor_of(log, newest + 1, &next);
	if (r == -EBADMSG || r == -ENOENT) {
		log_warn("audit: segment %" PRIu32 " is damaged: nothing is dropped", newest + 1);
		return 0;
	}
	return r < 0 ? r : drop_up_to(log, newest, &next, "size");
}

/* How old a segment becomes before the next one is begun: not so young that there were too many of them. */
static int64_t part_ns(const struct audit_log *log)
{
	return log->config.keep_ns / (int64_t)min_u64(PARTS, log->config.keep - 1);
}

static int drop_oldest(struct audit_log *log, int64_t now_ns)
{
	struct audit_anchor next;

	if (log->oldest == log->segment)
		return 0;
	int r = anchor_of(log, log->oldest + 1, &next);
	if (r == -EBADMSG || r == -ENOENT) /* damaged: it stays, to be looked at, until there are too many */
		return 0;
	if (r < 0 || now_ns - next.time_ns < log->config.keep_ns)
		return r;
	r = drop_up_to(log, log->oldest, &next, "age");
	return r == -EMSGSIZE ? 0 : r; /* the segment is full: after the next one is begun */
}

int audit_log_expire(struct audit_log *log)
{
	const struct clock *clock = log->config.clock;
	int64_t now_ns = clock_real_ns(clock);

	if (!log->config.keep_ns || clock_mono_ns(clock) - log->looked_ns < LOOK_NS)
		return 0;
	log->looked_ns = clock_mono_ns(clock);
	if (!log->disk || log->cut) /* the next entry begins a segment */
		return 0;
	int r = log->open ? 0 : log_write_heads(log, true);
	if (r == 0)
		r = drop_oldest(log, now_ns);
	if (r == 0 && now_ns - log->began_ns >= part_ns(log))
		r = log_begin_segment(log);
	if (r < 0) { /* nobody knows what is on disk: as after an append that failed */
		log->cut = true;
		log->end = log->acked;
	}
	return r;
}
