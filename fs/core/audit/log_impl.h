/*
 * log_impl.h: what the files of the log being written share: log.c (appends), log_open.c (what is there), log_keep.c (what goes).
 */
#pragma once

#include "fs/core/audit/log.h"

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
	int64_t began_ns;  /* real: when `segment` was begun */
	int64_t looked_ns; /* mono: when old segments were looked for by their age */
};

/* log.c */
MUST_CHECK int log_add_text(struct audit_log *log, uint64_t n, const struct buf *text); /* to the segment in memory; -EMSGSIZE */
MUST_CHECK int log_flush(struct audit_log *log);                                        /* and becomes durable */
MUST_CHECK int log_write_heads(struct audit_log *log, bool open);
MUST_CHECK int log_begin_segment(struct audit_log *log);

/* log_open.c */
MUST_CHECK int log_read_file(void *log, const char *name, struct buf *out);
/* What there is, and from where on to write. */
MUST_CHECK int log_find(struct audit_log *log, audit_entry_fn *fn, void *ctx, struct audit_log_found *found);

/* log_keep.c: segments beyond config.keep. */
MUST_CHECK int log_drop_old(struct audit_log *log);
