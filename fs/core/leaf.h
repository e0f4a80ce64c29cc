/*
 * leaf.h: the mapping of one 64 KiB slice of a file: 16 slots of 4 KiB.
 *
 * A slot is a hole (all zero); or data with a home in the arena, staged in the journal, or both (staged wins on read and
 * the home is where it will go); or unwritten: space promised, reads as zeros.  One CRC serves: staged and home only
 * coexist while the home's content is dead.
 * Data may have a copy in an object store besides (tiered): the leaf's frame in one object, the same on every node.  A tiered slot
 * with neither home nor staged copy is cold; each node drops its homes as it likes.  A slot that changes is not tiered any more.
 * A home may be that of slots of other leaves, too (shared): the mark says that table R may have a row of it (share/share.h).
 * Or data lies in the leaf's packed frame (squeeze/): compressed, in a run of homes that the leaf has for all of its packed slots
 * together.  A packed slot has no home of its own, nor the promise of one.  A slot that changes is not packed any more, and when none
 * is, the run goes.
 *
 * Format (leaf_encode): u8 version 1 | u8 flags | le16 mapped | le16 unwritten | le16 staged | le16 homed (bit i = slot i)
 * | flags bit 1: le16 tiered, le64 object, le32 offset, le32 len of the frame | flags bit 2: le16 shared, some of homed
 * | flags bit 3: le16 packed, le64 start, u8 blocks, le32 bytes, u8 algorithm, le32 birth of the packed frame
 * | le32 crc of each mapped slot that is not unwritten | runs {le64 start, u8 n} of homes in slot order | runs of staged
 * positions | le32 birth, once when all homes share it (flags bit 0), else one a homed slot | le32 CRC-32C.
 * Errors: leaf_decode returns -EUCLEAN for anything else, -EBADMSG for a wrong CRC.
 */
#pragma once

#include "base/util.h"
#include "journal/pointer.h"

#define LEAF_SLOTS 16u
/* A packed frame's 20 bytes are less than what its first slot would take as one with a home and staged. */
#define LEAF_BYTES_MAX (10 + 18 + 2 + LEAF_SLOTS * (4 + 9 + 9 + 4) + 4)

struct slot {
	pointer_t home, staged;
	uint32_t crc;
	uint32_t birth; /* snapshot generation in which `home` was allocated, or BIRTH_SUPERSEDED */
	bool unwritten;
	bool tiered;    /* the leaf's object has this data */
	bool shared;    /* other slots may have the same home; never without one */
	bool packed;    /* the leaf's packed frame has this data; `home` and `staged` are 0 */
};
/* On a follower: in place of the data that the CRC is of, which nobody has any more, the home holds zeros. */
#define BIRTH_SUPERSEDED UINT32_MAX
/* The frame of a pack (tier/pack.h) that has the tiered slots; all zero when none is tiered. */
struct leaf_object {
	uint64_t id;
	uint32_t offset, len;
};
/* The frame of the packed slots (squeeze/codec.h); all zero when none is packed. */
struct leaf_pack {
	pointer_t start;
	uint32_t n_blocks, bytes; /* bytes is above (n_blocks - 1) blocks and at most n_blocks */
	uint32_t birth;           /* as a slot's, of all blocks; never BIRTH_SUPERSEDED */
	uint8_t algorithm;        /* enum pack_algorithm */
};
enum pack_algorithm { PACK_LZ4 = 1, PACK_ZSTD = 2 };
/* A frame has at least one block less than the slots that it was made of. */
#define PACK_BLOCKS_MAX (LEAF_SLOTS - 1)
struct leaf {
	struct slot slot[LEAF_SLOTS];
	struct leaf_object object;
	struct leaf_pack pack;
};

static inline bool slot_used(const struct slot *s) { return s->home || s->staged || s->unwritten || s->tiered || s->packed; }
static inline bool slot_cold(const struct slot *s) { return s->tiered && !s->home && !s->staged && !s->packed; }
/* Counts in the arena's reservations. */
static inline bool slot_reserved(const struct slot *s) { return !s->home && (s->staged || s->unwritten); }
/* Has a block of its own, or the promise of one: what an inline write of it needs. */
static inline bool slot_has_space(const struct slot *s) { return s->home || s->staged || s->unwritten; }
static inline bool slot_has_data(const struct slot *s) { return (s->home || s->staged || s->tiered || s->packed) && !s->unwritten; }

bool leaf_empty(const struct leaf *l);
uint16_t leaf_data(const struct leaf *l);   /* slots with data */
uint16_t leaf_tiered(const struct leaf *l); /* slots whose data the object has */
uint16_t leaf_cold(const struct leaf *l);   /* slots whose data only the object has */
uint16_t leaf_packed(const struct leaf *l); /* slots whose data the packed frame has */
/* After slots changed: names an object no longer when none is tiered, nor a frame when none is packed. */
void leaf_settle(struct leaf *l);
/* Bytes written to p (LEAF_BYTES_MAX of room). */
size_t leaf_encode(const struct leaf *l, uint8_t *p);
MUST_CHECK int leaf_decode(const uint8_t *p, size_t len, struct leaf *ret);
