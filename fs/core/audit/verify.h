/*
 * verify.h: reading an audit log: segments, heads, and whether all of it is as it was written.
 *
 * A segment is a file of fixed size: lines (chain.h), then zeros.  Its first line is its *anchor*, which names the segment and the
 * entry that it follows, so that a log can be read from any segment on.  The *heads*, two files in two places, name the newest entry
 * that was acknowledged: what is missing at the end is found by them.
 *
 * What is found: every changed, missing, doubled or moved byte, entry or segment, by whoever does not also rewrite everything behind
 * it and both heads.  Who can do that can only be found by a head that was kept elsewhere (`expected`).
 * Threads: no state.  Errors: -errno of the source; damage is no error but said in the report.
 */
#pragma once

#include <jansson.h>

#include "fs/core/audit/chain.h"

#define AUDIT_DIR       "audit"
#define AUDIT_HEAD      "audit/head"
#define AUDIT_HEAD_TOO  "audit.head" /* beside the directory: it is not lost with it */
#define AUDIT_NAME_MAX  32u
void audit_segment_name(uint32_t segment, char ret_name[AUDIT_NAME_MAX]); /* "audit/seg.00000000" */

/* The newest entry that was acknowledged. */
struct audit_head {
	struct audit_chain at;
	uint32_t segment; /* it is in this one or, when that was begun since, the one before */
	bool open;        /* written by a log that goes on: after a crash the log may have more, and a torn tail */
};
#define AUDIT_HEAD_BYTES 512u /* a sector: written or not */
MUST_CHECK int audit_head_make(const struct audit_head *h, uint8_t ret_sector[AUDIT_HEAD_BYTES]);
MUST_CHECK int audit_head_parse(struct slice sector, struct audit_head *ret); /* -EBADMSG */

struct audit_anchor {
	uint64_t n;
	uint32_t segment;
	int64_t time_ns;             /* real: when it was begun; 0: it does not say */
	struct audit_chain after;    /* the entry before */
	bool cut;                    /* what the segment before has behind that entry was never acknowledged */
	uint64_t lost_from, lost_to; /* entries that were acknowledged and are gone; 0: none */
};
/* Of the first line of a segment, which then is whole in itself; -EBADMSG. */
MUST_CHECK int audit_anchor_read(struct slice text, struct audit_anchor *ret, struct audit_line *ret_line);

/* Called for each entry that follows in the chain; `body` is its object.  Returns 0 to go on, or an error that ends it. */
typedef int audit_entry_fn(void *ctx, const struct audit_line *line, const json_t *body);
struct audit_scan {
	struct audit_anchor anchor;
	struct audit_chain end; /* behind the last good entry */
	size_t used;            /* bytes up to there */
	bool rest;              /* something that is no entry follows */
};
/* Entries of one segment, from its anchor on, up to the one numbered `until` (0: all).  -EBADMSG: it has no anchor. */
MUST_CHECK int audit_scan(struct slice text, uint64_t until, audit_entry_fn *fn, void *ctx, struct audit_scan *ret);

/* Where the files of a log are. */
struct audit_source {
	/* All of a file of at most 16 MiB; -ENOENT. */
	int (*read)(void *ctx, const char *name, struct buf *out);
	void *ctx;
	bool any;             /* there are segments: */
	uint32_t first, last; /* numbers of the lowest and highest */
};
struct audit_report {
	uint64_t entries, first, last; /* numbers of the oldest and newest good one */
	uint32_t segments;
	uint8_t head[AUDIT_HASH_BYTES]; /* hash of the newest good entry */
	bool damaged;
	char what[256];   /* the first damage, by entry and segment */
	bool torn;        /* an unacknowledged write at the end: a crash, no damage */
	bool kept_found;  /* `expected` is the hash of an entry, or of one that the log says was the last of those dropped */
	bool kept_gone;   /* it is of an entry that went for its age: nothing can be said of it */
};
/*
 * Walks the whole log; `fn` (may be NULL) gets every good entry, also behind damage.  `expected`: number (0: not known) and hash of an
 * entry, as they were once told, or NULL.  -ENOENT: there is no log.
 */
MUST_CHECK int audit_verify(const struct audit_source *s, const struct audit_chain *expected, audit_entry_fn *fn, void *ctx,
			    struct audit_report *ret);
