/*
 * leaf.h: the mapping of one 64 KiB slice of a file: 16 slots of 4 KiB.
 *
 * A slot is a hole (all zero); or data with a home in the arena, staged in the journal, or both (staged wins on read and
 * the home is where it will go); or unwritten: space promised, reads as zeros.  One CRC serves: staged and home only
 * coexist while the home's content is dead.
 *
 * Format (leaf_encode): u8 version 1 | u8 zero | le16 mapped | le16 unwritten | le16 staged | le16 homed (bit i = slot i)
 * | le32 crc of each mapped slot that is not unwritten | runs {le64 start, u8 n} of homes in slot order | runs of staged
 * positions | le32 birth, once when all homes share it (flag in `zero` bit 0), else one a homed slot | le32 CRC-32C.
 * Errors: leaf_decode returns -EUCLEAN for anything else, -EBADMSG for a wrong CRC.
 */
#pragma once

#include "base/util.h"
#include "journal/pointer.h"

#define LEAF_SLOTS 16u
#define LEAF_BYTES_MAX (10 + LEAF_SLOTS * (4 + 9 + 9 + 4) + 4)

struct slot {
	pointer_t home, staged;
	uint32_t crc;
	uint32_t birth; /* snapshot generation in which `home` was allocated, or BIRTH_SUPERSEDED */
	bool unwritten;
};
/* On a follower: in place of the data that the CRC is of, which nobody has any more, the home holds zeros. */
#define BIRTH_SUPERSEDED UINT32_MAX
struct leaf {
	struct slot slot[LEAF_SLOTS];
};

static inline bool slot_used(const struct slot *s) { return s->home || s->staged || s->unwritten; }
/* Counts in the arena's reservations. */
static inline bool slot_reserved(const struct slot *s) { return !s->home && (s->staged || s->unwritten); }
static inline bool slot_has_data(const struct slot *s) { return (s->home || s->staged) && !s->unwritten; }

bool leaf_empty(const struct leaf *l);
/* Bytes written to p (LEAF_BYTES_MAX of room). */
size_t leaf_encode(const struct leaf *l, uint8_t *p);
MUST_CHECK int leaf_decode(const uint8_t *p, size_t len, struct leaf *ret);
