/*
 * restore.h: an archive becomes a volume again: a base, and the batches behind it, by the code that makes a follower of one.
 *
 * The volume that is made is a new one: its uuid and node are its own, and it has no peers, stores, archive or demands on
 * followers.  So it can be mounted beside the one that the archive is of, and neither can take the other for its own.  All data is
 * in it: what was tiered is not any more.
 *
 * What can be restored are states after a batch.  Where data changed before it was archived, the states from the first batch
 * that lacks some up to the one before its fence are none that ever was whole: asked for one of those, the newest before it is made.
 * Never a later one than was asked for.
 *
 * Verified are: every object (tag, name), the chain of them, of every batch its records and data (hash chain, CRCs) and what it left in
 * the inodes it names (state sums), and of the base the number of rows and the sum over its parts.  What is missing, damaged,
 * another's or in another's place ends it with the object's name; nothing is ever left out.
 *
 * Ownership: the caller's.  Threads: one.  Errors: -ENOENT nothing to begin from that is as old as was asked for, or an object is
 * missing; -EBADMSG, -EUCLEAN, -ENOKEY as tier/archive/object.h; those of the volume.
 */
#pragma once

#include "fs/core/archive/manifest.h"
#include "fs/core/fs.h"

enum restore_by { RESTORE_LATEST, RESTORE_SEQ, RESTORE_TIME };
struct restore_target {
	enum restore_by by;
	uint64_t seq;
	int64_t ns;          /* real time: the newest state all of whose batches are not later */
};
/* "latest", a seq, "@" and seconds since 1970, or "YYYY-MM-DD[ T]HH:MM[:SS][Z]" (local time without Z); -EINVAL. */
MUST_CHECK int restore_target_parse(const char *text, struct restore_target *ret);

struct restore_result {
	uint64_t epoch, base_seq;  /* of the base that it began from */
	uint64_t seq, hash;        /* the state that was made */
	int64_t ns;                /* time of its newest batch */
	bool has_sum;
	uint64_t sum;              /* what that batch left in the inodes it names */
	uint64_t rows, batches, bytes; /* fetched */
	uint64_t passed_over;      /* batches behind it, not later than asked for, that lack data whose fence did not come */
	uint64_t unreachable;      /* slots that the archive has not, because only a store of a tier had them by then */
};

/* A run of states that can be restored. */
struct restore_range {
	uint64_t epoch, base_seq, from_seq, to_seq;
	int64_t from_ns, to_ns;
	uint64_t bytes;        /* of the base */
	bool gap;              /* behind it batches are missing */
	int damage;            /* -errno: the segment behind it cannot be read; `place` says which */
};
typedef int restore_range_fn(void *ctx, const struct restore_range *r);
/* Ranges by time; asks for the header of each segment. */
MUST_CHECK int restore_list(struct archive_place *p, const struct archive_manifest *m, restore_range_fn *fn, void *ctx);

/*
 * `fs` is a follower, just formatted (fs_format_options.follower) and opened.  When this returns 0 it leads, and may be closed and mounted.
 * After an error it is of no use.  *what: words for people about what is under way, now and then; may be NULL.
 */
MUST_CHECK int restore_run(struct fs *fs, struct archive_place *p, const struct archive_manifest *m, const struct restore_target *t,
			   void (*what)(void *ctx, const char *line), void *ctx, struct restore_result *ret);

/* restore_detach.c: a volume that is between two states, at its last batch, loses what binds it to others. */
MUST_CHECK int restore_detach(struct fs *fs, uint64_t epoch, uint64_t seq, uint64_t hash, uint64_t *ret_unreachable);
