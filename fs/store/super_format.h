/*
 * super_format.h: the superblock: file `super`, two copies of 4 KiB written in turn.  docs/FORMAT.md tells the same in words.
 */
#pragma once

#include "base/le.h"

#define SUPER_MAGIC UINT64_C(0x3130534657414c43) /* "CLAWFS01" */
#define SUPER_BYTES 4096u
#define SUPER_FORMAT_VERSION 1
#define SUPER_SNAPSHOTS UINT64_C(2) /* bit of `incompat`: there may be snapshots, and blocks that only they have */
#define SUPER_TIERED UINT64_C(1) /* bit of `incompat`: there may be TIER records, leaves that name objects, and rows of these */
#define SUPER_COMPRESSED UINT64_C(64) /* there may be packed leaves */
#define SUPER_ENCRYPTED UINT64_C(16) /* everything but superblock, keys and ballast is encrypted: fs/store/crypt */
#define SUPER_SHARED UINT64_C(32) /* bit of `incompat`: there may be CLONE records, and homes that several slots have */
#define SUPER_ROLLBACK UINT64_C(128) /* bit of `incompat`: SNAPROLL records, and deadlists with blocks that their snapshots have not */
#define SUPER_INCOMPAT_KNOWN (SUPER_TIERED | SUPER_SNAPSHOTS | SUPER_ENCRYPTED | SUPER_SHARED | SUPER_COMPRESSED | \
			      SUPER_ROLLBACK)

/*
 * Valid if and only if magic and crc are right.  Of two valid copies the one with the higher generation counts; copy
 * number = generation % 2, so that a write never touches the copy in force.  A version above SUPER_FORMAT_VERSION or an
 * unknown incompat bit refuses the mount; an unknown ro_compat bit allows a read-only one.
 */
struct super_block {
	le64 magic;
	le32 version;
	le32 chunk_kib;         /* KiB an arena chunk */
	uint8_t volume[16];     /* uuid of the volume, the same on every node */
	uint8_t node[16];       /* uuid of this copy of it */
	le64 compat, ro_compat, incompat;
	le64 generation;
	le64 epoch;             /* the highest the node has heard of: it accepts nothing below */
	le64 incarnation;       /* grows by one with every mount, durably before anything else is written, and with every cut */
	le64 flags;             /* SUPER_* below */
	le32 journal_segments;
	le32 journal_segment_kib;
	le64 max_blocks;        /* size limit; all ones: none */
	le64 created_ns;
	le64 host_reserve;      /* bytes left to the host */
	uint8_t label[64];      /* UTF-8, zero-padded */
	le32 node_id;           /* of this node within the volume, 1 .. 65535; 0, as older releases wrote it, is 1 */
	le64 fence;             /* data up to here was superseded before it came: see window; without one the follower is not readable */
	le64 offered;           /* epoch offered to the node it names, which has not said whether it took it; above `epoch`; 0: none */
	le64 window;            /* first batch that a follower journals and does not apply before `fence` is durable; 0: none */
	le64 cut;               /* batches from here on that an incarnation before cut_incarnation wrote are void; 0: none */
	le64 cut_incarnation;
	uint8_t zero[3848];
	le32 crc;               /* CRC-32C of the block up to here */
};
_Static_assert(sizeof(struct super_block) == SUPER_BYTES, "");

#define SUPER_CLEAN UINT64_C(1)     /* the last mount ended with a checkpoint; replay has nothing to do */
#define SUPER_FOLLOWER UINT64_C(2)  /* the node follows: what it appends comes from its leader */
#define SUPER_RESYNCING UINT64_C(4) /* a follower between two states: its journal counts for nothing */
#define SUPER_SAVE UINT64_C(8)      /* the resync that was begun keeps what it replaces */
#define SUPER_DIFFERS UINT64_C(16)  /* a follower whose state was seen to differ from its leader's */
