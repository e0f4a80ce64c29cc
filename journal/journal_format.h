/*
 * journal_format.h: bytes of batches, records and the staging files.  docs/FORMAT.md tells the same in words; a test
 * compares the two.
 *
 * A batch lies in the ring from block position `pos` on, contiguous in positions (it may cross from one segment file into
 * the next, and from the last into the first):
 *
 *     header (1 block) | payload blocks | logical section | local section | zeros up to a whole block
 *
 * The payload comes right behind the header, before the records, because a block's position must be known when its
 * record is executed, long before the number and size of the batch's records are.
 */
#pragma once

#include "base/le.h"
#include "journal/pointer.h"

#define BATCH_MAGIC UINT64_C(0x484354424657414c) /* "LAWFBTCH" */
#define STAGING_MAGIC UINT64_C(0x4741545346574c43) /* "CLWFSTAG" */
#define JOURNAL_FORMAT_VERSION 1

#define BATCH_PAYLOAD_MAX_BLOCKS 1024u        /* 4 MiB */
#define BATCH_LOGICAL_MAX_BYTES (1024u * 1024u)
#define BATCH_LOCAL_MAX_BYTES (256u * 1024u)
#define BATCH_MAX_BLOCKS (1 + BATCH_PAYLOAD_MAX_BLOCKS + (BATCH_LOGICAL_MAX_BYTES + BATCH_LOCAL_MAX_BYTES) / BLOCK_SIZE)

/* Valid if and only if: magic, version, volume, crc right; pos is where it was read; counts within the limits above. */
struct batch_header {
	le64 magic;
	le16 version;
	le16 flags;          /* 0 */
	le32 n_records;
	uint8_t volume[16];
	le64 epoch;
	le64 incarnation;    /* of the mount that wrote it */
	le64 seq;            /* one more than the batch before */
	le64 pos;            /* of this block */
	le64 tail_seq;       /* oldest batch the ring still needed when this one was sealed */
	le64 commit_seq;     /* newest batch known durable when this one was sealed */
	le64 time_ns;
	le64 prev_hash;      /* `hash` of batch seq - 1 */
	le64 hash;           /* XXH64 of the logical section, seeded with prev_hash */
	le32 n_payload_blocks;
	le32 logical_bytes;
	le32 local_bytes;
	le32 local_crc;
	uint8_t mac[32];     /* of an encrypted volume in aead mode: signs the batch; else zeros */
	uint8_t zero[3940];
	le32 crc;            /* CRC-32C of the block up to here */
};
_Static_assert(sizeof(struct batch_header) == BLOCK_SIZE, "a batch header is one block");

/* A record in the logical section, padded with zeros to 8 bytes; `bytes` counts header, body and padding. */
struct record_header {
	le32 crc;    /* CRC-32C of the record from `bytes` to its end */
	le32 bytes;
	uint8_t type;
	uint8_t flags;
	le16 zero;
	le32 uid, gid, pid;
	le64 unique;
	le64 time_ns;
	le64 ino;
};
_Static_assert(sizeof(struct record_header) == 48, "");

/* Bodies.  Names, targets, values and CRC arrays follow the fixed part in the order of their lengths. */
struct body_mknode { le64 parent, cookie, rdev; le32 mode, uid, gid; le16 name_len, target_len; };
struct body_link { le64 parent, cookie; le16 name_len; le16 zero[3]; };
struct body_unlink { le64 parent; le16 name_len; le16 zero[3]; };
struct body_rename { le64 parent, new_parent, new_cookie, target, whiteout_ino; le32 flags; le16 name_len, new_name_len; };
struct body_setattr { le32 mask, mode, uid, gid; le64 size, atime_ns, mtime_ns, ctime_ns; };
struct body_xattr { le32 value_len; le16 name_len; le16 zero; };
struct body_write { le64 block, size, mtime_ns; le32 n_blocks; uint8_t out_of_line; uint8_t zero[3]; };
struct body_zero { le64 block, n_blocks, size; uint8_t mode; uint8_t zero[7]; };
struct body_clone { le64 from, from_block, block, size, mtime_ns; le32 n_blocks; uint8_t zero[4]; };
struct body_reap { le64 from_leaf; };
struct body_tier { le64 object, object_bytes; le32 store, n_blocks; le16 n_places; uint8_t change; uint8_t zero; uint8_t sealed[60]; };
struct tier_place { le64 leaf; le32 offset, len; le16 mask; }; /* n_places of them follow */
struct body_snap { le64 gen; le16 name_len; le16 zero[3]; }; /* SNAP, SNAPDROP, SNAPROLL */
struct body_config { le16 key_len, value_len; le32 zero; };
struct body_epoch { le64 epoch, incarnation; };
_Static_assert(sizeof(struct body_clone) == 48, "");
_Static_assert(sizeof(struct body_tier) == 88 && sizeof(struct tier_place) == 18, "");
_Static_assert(sizeof(struct body_mknode) == 40 && sizeof(struct body_rename) == 48 && sizeof(struct body_write) == 32, "");

/* Local section: for each out-of-line WRITE in order, le32 n_runs, then n_runs of these. */
struct local_run { le64 start; le32 n_blocks; };

/*
 * Staging: two files, staging.0 and staging.1, mapped shared: the batch being built in one, the batch being written in
 * the other.  They keep what was acked but not yet committed over a kill -9 (guarantee G3); after a power loss they hold
 * anything, so every record is checked again before it is used.  Laid out as
 *
 *     staging_header (1 block) | batch header | payload | logical section | local section, each at its full size
 *
 * `published` is stored last, with release order, once a whole operation stands in the file; it counts operations since
 * the file was begun, and mark[published % 2] says how far they reach.  The other mark is the one being written.
 *
 * A batch of another node is published in one piece, so it stands in the file whole or not at all, and it is never added to.
 *
 * The mark's hash ties the bytes to this place in the chain: after a power loss a page may be older than the header, and
 * the records of an earlier batch that stand in it have good CRCs of their own.
 */
#define STAGING_BYTES ((1 + (uint64_t)BATCH_MAX_BLOCKS) * BLOCK_SIZE) /* of a file */

struct staging_mark {
	le64 hash;           /* XXH64 of the logical bytes so far, seeded with prev_hash */
	le32 n_records, logical_bytes, n_payload_blocks, local_bytes;
	le32 local_crc;      /* CRC-32C of the local bytes so far */
	le32 zero;
};
struct staging_header {
	le64 magic;
	uint8_t volume[16];
	le64 incarnation;
	le64 seq;            /* of the batch in this file */
	le64 pos;
	le64 prev_hash;
	le64 durable_seq;    /* newest batch acked durable when last written: a floor for recovery; never above seq */
	le64 published;
	struct staging_mark mark[2];
	le64 epoch, time_ns; /* of a batch that came whole from another node; 0: of operations of this one */
	uint8_t zero[4096 - 152];
};
_Static_assert(sizeof(struct staging_mark) == 32, "");
_Static_assert(sizeof(struct staging_header) == BLOCK_SIZE, "");
