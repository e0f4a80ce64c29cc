/*
 * diverged.h: what only this node had when a resync replaced its history: kept aside, and read back by admins.
 *
 * A tail is what one resync kept: rows of the index as lines of JSON (fs/core/replica/diverged.c), and the blocks of files.  In the
 * volume's directory it is diverged/ID/ with
 *     info.json    whose history it was, when, how much; "complete" once the resync reached its end
 *     rows.jsonl   one row a line: what it was, and the path it was reached by
 *     files/INO    the blocks of a file that were replaced or went, at their offsets; the rest is holes
 * Durability: what was put is durable once sync() returned 0, which is before the index that no longer has it is.  A line or
 * block may be torn by a crash before that; the index then still has it, and the next resync keeps it again, in a tail of its own.
 * Ownership: a sink has at most one tail open.  Threads: one at a time.
 * Errors: -errno of the host; one of a flush is kept and returned for ever (guarantee G6).
 */
#pragma once

#include "base/buf.h"

#define DIVERGED_ID_MAX 64u

struct data_key;
struct diverged_sink;
struct diverged_ops {
	/* Begins the tail `id`, a file name; -EEXIST when there is one. */
	int (*open)(struct diverged_sink *s, const char *id);
	int (*put_line)(struct diverged_sink *s, struct slice line); /* without its newline */
	int (*put_data)(struct diverged_sink *s, uint64_t ino, uint64_t off, const void *p, size_t len);
	/* Everything put so far, and `info` as the tail's description. */
	int (*sync)(struct diverged_sink *s, struct slice info);
	/* Nothing more comes; what was not synced may be lost. */
	void (*close)(struct diverged_sink *s);
	void (*free)(struct diverged_sink *s);
};
struct diverged_sink {
	const struct diverged_ops *ops;
};

/* Tails in the volume's directory `dir`, which must stay; made when the first row is kept.  Files are 0600, directories 0700,
 * symbolic links are refused. */
MUST_CHECK int diverged_dir_new(const char *dir, struct diverged_sink **ret);
static inline struct diverged_sink *diverged_free(struct diverged_sink *s)
{
	if (s)
		s->ops->free(s);
	return NULL;
}

/* For admins; any process may read while the volume is mounted.
 * The tails of the volume in `dir` as a JSON array of their info.json, oldest first; "[]" when there is none. */
MUST_CHECK int diverged_list(const char *dir, struct buf *out);
/*
 * Makes the directory `to` (-EEXIST) with the tail as a tree to look at: tree/PATH the files that had data, links and
 * directories that only this node had, at their old paths; unnamed/INO those whose path is not known; changes.jsonl all rows.
 * Files are sparse and hold what the tail kept.  Owner and mode are those of the caller: the rows say what they were.
 * `key`: of an encrypted volume, else NULL.  -ENOENT no such tail; -EINVAL an id that is no name.
 */
MUST_CHECK int diverged_export(const char *dir, const char *id, const char *to, const struct data_key *key);
