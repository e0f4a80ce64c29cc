/*
 * scrub_format.h: rows of table Z, which each node has for itself: how far its scrub is, what it found, what it does not use again.
 * docs/FORMAT.md tells the same in words; a test compares the two.
 *
 *     Z 0 0        -> scrub_state_value
 *     Z ino block  -> damaged_value       a block of a file that was damaged
 *     Z ~0 pointer -> quarantine_value    a block of the arena that failed
 */
#pragma once

#include "base/le.h"

#define SCRUB_CURSOR_BYTES 20u /* of a key: no more is needed to go on near it */

struct scrub_state_value {
	uint8_t version;      /* 1 */
	uint8_t state;        /* enum scrub_state */
	uint8_t phase;        /* enum scrub_phase */
	uint8_t flags;        /* bit 0: cold data too */
	uint8_t zero[3];
	uint8_t cursor_len;   /* up to SCRUB_CURSOR_BYTES */
	uint8_t cursor[SCRUB_CURSOR_BYTES]; /* of the key in the index to go on from, its beginning */
	le32 errors;          /* of this pass: things that could not be looked at */
	le64 rate;            /* bytes a second */
	le64 pass;            /* passes begun */
	le64 started_ns;      /* of this pass, real time; as all times here */
	le64 checked_bytes;   /* of this pass, as what follows */
	le64 total_bytes;     /* there were to check */
	le64 bad_blocks;      /* found */
	le64 repaired_blocks;
	le64 bad_rows;        /* of the index */
	le64 next_ino;        /* files from this one on were made since it began */
	le64 last_started_ns; /* of the newest pass that got to its end; 0: there is none */
	le64 last_ended_ns;
	le64 last_bad_blocks;
	le64 last_repaired_blocks;
	le64 last_next_ino;
};
_Static_assert(sizeof(struct scrub_state_value) == 144, "");

struct damaged_value {
	uint8_t version;      /* 1 */
	uint8_t state;        /* enum damage_state */
	uint8_t zero[6];
	le64 found_ns;
	le64 changed_ns;      /* repaired, or seen last */
};
_Static_assert(sizeof(struct damaged_value) == 24, "");

struct quarantine_value {
	uint8_t version;      /* 1 */
	uint8_t zero[3];
	le32 birth;           /* as of the slot that had its home there */
	le64 ino, block;      /* of the file whose it was */
};
_Static_assert(sizeof(struct quarantine_value) == 24, "");
