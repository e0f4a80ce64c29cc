/*
 * pack_format.h: bytes of a pack: an object that holds leaves of many files.  docs/FORMAT.md tells the same in words; a test
 * compares the two.
 *
 *     header (4096 bytes) | frame | frame | ...      a frame: header (48 bytes) | data
 *
 * Frames follow each other without gaps, so that each is found from the one before, and any of them from its offset alone.
 */
#pragma once

#include "base/le.h"
#include "tier/pack.h"

#define PACK_MAGIC UINT64_C(0x4b43415057414c43)       /* "CLAWPACK" */
#define PACK_FRAME_MAGIC 0x4d524643u                  /* "CFRM" */
#define PACK_FORMAT_VERSION 1
#define PACK_ENCRYPTED 1u                             /* flag of a header */
#define PACK_COMPRESSED 1u                            /* flag of a frame */
#define PACK_TAG_BYTES 16u
#define PACK_NONCE_BYTES 12u

/*
 * Valid if and only if: magic, version, crc right; no other flags; object and n_frames not 0, first = 4096, zeros are zeros;
 * bytes within first + n_frames * (PACK_FRAME_HEADER_BYTES + 1) .. PACK_BYTES_MAX; sealed (and tag) is all zeros if and only if
 * the pack is not encrypted.  With the object's key: the tag is right.
 */
struct pack_object_header {
	le64 magic;
	le16 version;
	le16 flags;                        /* PACK_ENCRYPTED */
	le32 n_frames;
	uint8_t volume[16];
	le64 object;
	le64 time_ns;
	le64 bytes;                        /* of the whole object */
	le32 first;                        /* offset of the first frame */
	uint8_t sealed[PACK_SEALED_BYTES]; /* nonce, key, tag: struct pack_seal_bound is bound to it */
	uint8_t tag[PACK_TAG_BYTES];       /* GCM over the bytes before it, with nonce 0, which no frame has */
	uint8_t zero[3956];
	le32 crc;                          /* CRC-32C of the bytes before */
};
_Static_assert(sizeof(struct pack_object_header) == PACK_HEADER_BYTES, "");
_Static_assert(offsetof(struct pack_object_header, tag) == 120, "");

/*
 * Valid if and only if: magic and crc right; no other flags; mask and ino not 0; stored is the blocks' size, or with
 * PACK_COMPRESSED from 1 to less than that; the tag is right; and the data, decrypted, is the blocks, or one zstd frame
 * (RFC 8878) of exactly them: a single segment with its size, no dictionary, no checksum, nothing behind it.
 */
struct pack_frame_header {
	le32 magic;
	le16 flags;                        /* PACK_COMPRESSED */
	le16 mask;                         /* slots, lowest first in the data */
	le64 ino;
	le64 leaf;
	le32 stored;                       /* bytes of data behind this header */
	le32 crc;                          /* CRC-32C of the 28 bytes before: a length that can be believed */
	uint8_t tag[PACK_TAG_BYTES];       /* GCM; not encrypted: XXH64, then 8 zeros */
};
_Static_assert(sizeof(struct pack_frame_header) == PACK_FRAME_HEADER_BYTES, "");
_Static_assert(offsetof(struct pack_frame_header, tag) == 32, "");

/* Never stored: what a frame's tag covers beside its data.  The nonce is the offset too, followed by 8 zeros. */
struct pack_frame_bound {
	uint8_t volume[16];
	le64 object;
	le32 offset;                       /* of the frame */
	uint8_t header[32];                /* of the frame, up to the tag */
};
_Static_assert(sizeof(struct pack_frame_bound) == 60, "");

/* Never stored: what the tag of a sealed key covers beside the key. */
struct pack_seal_bound {
	le64 magic;                        /* PACK_MAGIC */
	uint8_t volume[16];
	le64 object;
};
_Static_assert(sizeof(struct pack_seal_bound) == 32, "");
