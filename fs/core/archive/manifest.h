/*
 * manifest.h: what an archive has, as one small object: streams of segments, and bases to begin a restore from.
 *
 * A *stream* is an unbroken run of batches of one epoch, in segments that each name the next; it ends where a batch could not be
 * archived any more, or another node leads, or the archive was switched off.  A *base* is the volume as it was after one batch
 * of a stream.  So what can be restored is, for each base, everything from its `ready_seq` to the end of its stream.
 *
 * The manifest is rewritten as a whole, its two copies in turn, when a base or a stream begins or ends, before objects are
 * removed, and now and then; `known` is a segment not far from the newest, found by asking for the next one and the next.
 *
 * Format: JSON in the body of an object of an archive (tier/archive/object.h); docs/FORMAT.md.  What is read is checked whole.
 * Ownership: manifest_free().  Threads: one.  Errors: -EUCLEAN; those of object.h; -ENOENT: there is no archive.
 */
#pragma once

#include "tier/archive/object.h"

#define MANIFEST_STREAMS_MAX 4096u
#define MANIFEST_BASES_MAX   4096u

/* Which segment. */
struct archive_at {
	uint64_t seq;
	uint32_t part;
};
enum stream_end { STREAM_OPEN, STREAM_GAP, STREAM_OTHER, STREAM_OFF, STREAM_BACK, STREAM_ENDS };
struct archive_stream {
	uint64_t epoch;
	struct archive_at first;    /* oldest segment that is not removed, or being removed */
	struct archive_at removing; /* segments before `first` from here on may still be there; seq 0: none */
	uint32_t going;             /* all of its segments are being removed */
	uint32_t zero;
	struct archive_at known;    /* a segment that was the next one to come once; its part is 0 */
	uint64_t known_hash;        /* of the history before it */
	int64_t known_ns;           /* time of the newest batch before it */
	enum stream_end end;
	uint64_t lost_from;         /* STREAM_GAP, STREAM_BACK: the first batch that is not in it */
};
enum base_state { BASE_BEGUN, BASE_DONE, BASE_GOING };
struct archive_base {
	enum base_state state;
	uint64_t epoch;             /* of its stream */
	uint64_t seq, hash;         /* the state after this batch */
	uint64_t history, next_ino, n_inodes, snapshot_generation, fence; /* as replica_view_info and resync_end() have them */
	uint64_t ready_seq;         /* from this batch on it can be restored */
	int64_t view_ns, ready_ns;  /* when it was taken; time of the batch ready_seq */
	uint64_t rows, bytes, sum;  /* rows; bytes in the store; XXH64 over the bodies of its parts, each seeded with that before */
	uint64_t lost;              /* leaves whose data no store gave when it was made */
	uint32_t parts;
};
struct archive_manifest {
	uint64_t generation; /* 0: none was read or written yet */
	uint64_t writer;     /* epoch of the leader that wrote it */
	struct archive_stream *stream; /* owned; by time */
	size_t n_streams;
	struct archive_base *base;     /* owned; by time */
	size_t n_bases;
};

void manifest_free(struct archive_manifest *m);
/* The newer copy of those that are whole, and a warning in p->message when one is damaged; -ENOENT: there is neither. */
MUST_CHECK int manifest_read(struct archive_place *p, struct archive_manifest *ret);
/*
 * Writes the next generation; `writer` is this leader's epoch.  -ESTALE: somebody else has written since: read again.  After an error the generation is as it
 * was, and what is in the store is either.
 */
MUST_CHECK int manifest_write(struct archive_place *p, int64_t now_ns, uint64_t writer, struct archive_manifest *m);
/* A new one at the end, zeros; NULL: no memory, or too many. */
struct archive_stream *manifest_add_stream(struct archive_manifest *m);
struct archive_base *manifest_add_base(struct archive_manifest *m);
void manifest_drop_stream(struct archive_manifest *m, size_t i);
void manifest_drop_base(struct archive_manifest *m, size_t i);
/*
 * Takes what the heads of the streams' epochs say into `known`: they are written with every segment, the manifest now and then.  One
 * that is damaged or missing is left at that.  An error of the store.
 */
MUST_CHECK int manifest_follow_heads(struct archive_place *p, struct archive_manifest *m);
const char *stream_end_name(enum stream_end end); /* "open", "gap", "other leader", "off" */
