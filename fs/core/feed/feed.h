/*
 * feed.h: the change feed: what the journal's records say, as one line of JSON each, from any place of the ring on.
 *
 * Nothing is kept for who reads: a place is two numbers that the reader remembers, and what the ring has overwritten by the
 * time it is asked for is told as a gap.  So a slow or dead reader costs neither room nor memory.
 * Order: lines come in the order of records, each record once.  Only settled batches are told: durable here and, on a
 * follower, applied; so nothing that was told is ever taken back by a crash.
 * Paths are not in records: names.c finds what a file was called at the time of the event as far as records tell, and what it is
 * called now where they do not.
 * Threads: any.  Format of the lines: docs/FORMAT.md, "Change feed".
 */
#pragma once

#include <jansson.h>

#include "fs/core/fs.h"
#include "journal/batch.h"

/* Records of batches before `seq`, and the first `next` of that one, were seen.  As text: "SEQ.N" with N = next - 1, the last
 * one seen, or "SEQ": all of it. */
struct feed_place {
	uint64_t seq;
	uint32_t next;
};
#define FEED_WHOLE UINT32_MAX
/* -EINVAL for anything that is no place. */
MUST_CHECK int feed_place_parse(const char *text, struct feed_place *ret);

/* What records say of the names of inodes, before and after the one that is being told (names.c); bounded. */
struct feed_names;
struct feed_names *feed_names_new(void); /* NULL: out of memory */
struct feed_names *feed_names_free(struct feed_names *names);
/* Batch `v` is told next; borrowed until the next call.  -ENOMEM. */
MUST_CHECK int feed_names_batch(struct feed_names *names, const struct batch_view *v);
/* Its record number `n` is told next; `r` was told. */
void feed_names_at(struct feed_names *names, uint32_t n);
void feed_names_pass(struct feed_names *names, const struct record *r);
/* Batches were left out: what was learned counts no more. */
void feed_names_forget(struct feed_names *names);
/* A path that `ino` had at the record being told; -ENOENT. */
#define FEED_PATH_CAP 4096u
MUST_CHECK int feed_names_path(struct fs *fs, const struct feed_names *names, uint64_t ino, char ret_path[FEED_PATH_CAP]);

/* event.c: the line of record number `n` of batch `seq`, as a new object; NULL: out of memory. */
json_t *feed_event_json(struct fs *fs, const struct feed_names *names, const struct record *r, uint64_t seq, uint32_t n, uint64_t at);
/* Sets `key` to `bytes`, or key_hex to their hex digits where they are not UTF-8. */
void feed_set_bytes(json_t *object, const char *key, struct slice bytes);
/* Sets `key` to "2026-01-31T12:00:00.123456789Z". */
void feed_set_time(json_t *object, const char *key, int64_t time_ns);

/* One line on its way to a reader. */
struct feed_line {
	struct feed_place after;     /* where to go on behind it */
	const json_t *event;         /* borrowed, for the call */
	const struct record *record; /* NULL of a gap */
	uint32_t n;                  /* of the record in its batch */
	uint64_t batch_hash;         /* 0 of a gap */
};
/* 0: taken; 1: not taken, stop; negative: stop with that. */
typedef int feed_fn(void *ctx, const struct feed_line *line);
/*
 * Gives what is settled and lies behind *place, until `fn` stops it or nothing is left; *place moves behind what was taken.
 * At most FEED_BATCHES_MAX batches a call, so that no thread is held: *ret_more says that there are others.
 * Memory: one batch.  -ENOMEM; errors of fn.  A batch that cannot be read is a gap.
 */
#define FEED_BATCHES_MAX 64u
MUST_CHECK int feed_read(struct fs *fs, struct feed_names *names, struct feed_place *place, feed_fn *fn, void *ctx, bool *ret_more);

/* For the attributes: up to FEED_TEXT_MAX bytes of lines behind `place`, each ends with a newline; none when there is nothing. */
#define FEED_TEXT_MAX 65536u
MUST_CHECK int feed_text(struct fs *fs, const char *place, struct buf *out);
/* What there is to read: an object of one line.  Also the first line of a reader. */
MUST_CHECK int feed_state_text(struct fs *fs, struct buf *out);
