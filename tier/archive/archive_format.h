/*
 * archive_format.h: bytes of an object of an archive: a header, then a body that is compressed where that pays and encrypted as
 * packs are.  docs/FORMAT.md tells the same in words; a test compares the two.
 */
#pragma once

#include "base/le.h"
#include "tier/pack.h"

#define ARCHIVE_MAGIC UINT64_C(0x4843524157414c43) /* "CLAWARCH" */
#define ARCHIVE_VERSION 1
#define ARCHIVE_ENCRYPTED 1u                       /* flags of a header */
#define ARCHIVE_COMPRESSED 2u
#define ARCHIVE_HEADER_BYTES 256u
#define ARCHIVE_BODY_MAX (64u * 1024u * 1024u)     /* of a body, as it is and as it is stored */

/*
 * Valid if and only if: magic, version, kind and crc right; no other flags; zeros are zeros; plain and stored at most
 * ARCHIVE_BODY_MAX, not 0, and the same unless ARCHIVE_COMPRESSED, then stored is less; sealed is all zeros if and only if the
 * body is not encrypted.  With the key: the tag is right, and decompressed the body has `plain` bytes.
 */
struct archive_header {
	le64 magic;
	le16 version;
	le16 flags;
	le32 kind;         /* enum archive_kind */
	uint8_t volume[16];
	le64 object;       /* random, not 0: the sealed key is bound to it */
	le64 epoch, seq;   /* with kind and part: which object this is */
	le32 part;
	le32 n_items;      /* frames of the body; of a manifest: 1 */
	le64 last_seq;     /* segment: newest batch that is whole when this object is read; 0: none yet */
	le64 next_seq;     /* segment: name of the next one */
	le32 next_part;
	le32 zero;
	le64 hash_before;  /* segment: of the history before its first batch, and after last_seq */
	le64 hash_after;
	le64 first_ns, last_ns; /* segment: times of its first batch and its last; base and manifest: when it was made */
	le64 plain, stored;/* bytes of the body */
	uint8_t sealed[PACK_SEALED_BYTES];
	uint8_t tag[16];   /* GCM with the object's key and nonce 0 over the body, bound to the 196 bytes before; else XXH64 and zeros */
	uint8_t rest[40];  /* 0 */
	le32 crc;          /* CRC-32C of the bytes before */
};
_Static_assert(sizeof(struct archive_header) == ARCHIVE_HEADER_BYTES, "");
_Static_assert(offsetof(struct archive_header, tag) == 196, "");
