/*
 * heal.h: looking for the data of damaged blocks that neither a peer nor an object had, in places where nothing is found by asking
 * for one block: all of them in one go, a piece at a time.
 *
 *     copies    snapshots, and the live tree for those of snapshots: the same block of the same file, with that CRC, elsewhere
 *     journal   the ring: data of inline writes is in it until the ring comes round, long after it went home
 *     archive   the newest base, and the segments behind it (heal_archive.c)
 *
 * Nothing found is believed: it repairs what has its CRC (repair_given()).
 *
 * Threads: who makes passes of the scrub.  Errors: -ENOMEM; -EROFS, -ENOSPC: the volume takes no repairs now; those of the archive's
 * store.
 */
#pragma once

#include "fs/core/scrub/wants.h"

struct archive_search;
struct journal_past;
enum heal_place { HEAL_COPIES, HEAL_JOURNAL, HEAL_ARCHIVE, HEAL_END };
struct heal {
	bool again;            /* by a pass: also what was looked for lately */
	uint64_t pass;         /* whose; 0: nobody's */
	struct wants wants;
	enum heal_place at;
	uint64_t top;          /* copies: snapshots up to this one are still to come; UINT64_MAX: the live tree is, too */
	uint64_t seq;          /* journal: the next batch, falling; 0: not begun */
	struct journal_past *past; /* owned: and then those that are not known by their seq */
	struct archive_search *search; /* owned */
	char message[160];     /* what an archive's store said */
};

/* *ret NULL: nothing is wanted.  ino 0: of all files. */
MUST_CHECK int heal_begin(struct fs *fs, uint64_t ino, bool again, struct heal **ret);
/* A piece; *ret_bytes: what it read.  h->at is HEAL_END when there is none left.  After an error it may be called again, or given up. */
MUST_CHECK int heal_step(struct fs *fs, struct heal *h, uint64_t *ret_bytes);
struct heal *heal_free(struct heal *h); /* NULL is fine */

/* The same, of the archive.  open: -ENOENT where there is none. */
MUST_CHECK int archive_search_open(struct fs *fs, struct wants *w, struct archive_search **ret, char message[160]);
MUST_CHECK int archive_search_step(struct fs *fs, struct archive_search *s, uint64_t *ret_bytes, bool *ret_more, char message[160]);
void archive_search_free(struct archive_search *s); /* NULL is fine */
