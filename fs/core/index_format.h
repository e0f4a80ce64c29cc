/*
 * index_format.h: keys and values of the index.  docs/FORMAT.md tells the same in words; a test compares the two.
 *
 * A key is one table byte and big-endian fields, so that byte order is numeric order; a value is little endian.
 *
 *     I ino           -> inode_value
 *     D parent name   -> dentry_value
 *     C parent cookie -> cookie_value, name     the directory in its stable order
 *     L ino           -> target of a symlink
 *     X ino name      -> value of an extended attribute
 *     E ino leaf      -> leaf (leaf.h)
 *     O ino           -> nothing                 an orphan: no name, not yet reaped
 *     B device page   -> ARENA_PAGE_BYTES of bitmap
 *     P ino key       -> policy                  "durability" -> "replicas=1"
 *     H epoch         -> le64 seq                the batch before the first one of that epoch
 *     N ino parent cookie -> nothing             a name of a file that has several; derived from table C
 *     U ino           -> usage_value             what is below a directory; derived from table I.  Of ino 0: usage_mark_value
 *     R pointer       -> le32                    references to a home in the arena beyond the first, of the live tree
 *     Q object        -> object_value            of an object store: what it is, how much of it is live
 *     S gen           -> snap_value, name        a snapshot, the same on every node
 *     K top           -> held_value              what this node keeps of one
 *     K top ptr       -> le32 birth              its deadlist: a block of it that nothing newer has
 *     M clock ino     -> nothing                 something of the inode was written at that snapshot clock; of this node
 *     M 0             -> mark_header_value
 *     Z               -> scrub_format.h          what this node's scrub knows
 *     A               -> anchor_value
 */
#pragma once

#include "base/le.h"

enum index_table {
	TABLE_ANCHOR = 'A', TABLE_BITMAP = 'B', TABLE_COOKIE = 'C', TABLE_DENTRY = 'D', TABLE_EXTENT = 'E',
	TABLE_HISTORY = 'H', TABLE_INODE = 'I', TABLE_DEAD = 'K', TABLE_TARGET = 'L', TABLE_MARK = 'M', TABLE_NAME = 'N', TABLE_ORPHAN = 'O',
	TABLE_POLICY = 'P', TABLE_OBJECT = 'Q', TABLE_SHARED = 'R', TABLE_SNAP = 'S', TABLE_USAGE = 'U', TABLE_XATTR = 'X', TABLE_SCRUB = 'Z',
};
#define INDEX_KEY_MAX (1 + 8 + 255)

struct inode_value {
	uint8_t version;     /* 1 */
	uint8_t zero[3];
	le32 mode, uid, gid, nlink;
	le32 n_xattr;
	le64 size;           /* bytes; of a directory: its entries */
	le64 blocks;         /* 4 KiB blocks mapped or reserved */
	le64 atime_ns, mtime_ns, ctime_ns, btime_ns;
	le64 rdev;
	le64 parent, cookie; /* its newest name: where a path is told from */
	le64 next_cookie;    /* of a directory */
};
_Static_assert(sizeof(struct inode_value) == 104, "");

struct dentry_value {
	le64 ino, cookie;
	le32 type;           /* S_IFMT bits */
};
_Static_assert(sizeof(struct dentry_value) == 20, "");

struct cookie_value {    /* the name follows */
	le64 ino;
	le32 type;
};
_Static_assert(sizeof(struct cookie_value) == 12, "");

/* The same on every node: only logged changes move it, and in whatever order those of a batch are applied. */
struct object_value {
	uint8_t version;     /* 1 */
	uint8_t zero[3];
	le32 store;          /* its id */
	le32 n_blocks;       /* of files, that it was made with */
	le32 n_live;         /* slots of leaves that are tiered in it */
	le64 bytes;          /* in the store */
	le64 born_ns;        /* time of its oldest TIER record */
	le64 moved_ns;       /* of the newest record that took a slot from it; 0: none did */
	uint8_t sealed[60];
};
_Static_assert(sizeof(struct object_value) == 100, "");
/* Version 2, from the time on that there are snapshots: behind version 1. */
struct object_value_2 {
	struct object_value v;
	le64 moved_seq;      /* batch of the newest record that took a slot from it while there was a snapshot; 0: none did */
};
_Static_assert(sizeof(struct object_value_2) == 108, "");

struct snap_value {      /* the name follows */
	uint8_t version;     /* 1 */
	uint8_t zero[3];
	le32 uid;            /* who made it */
	le64 seq;            /* batch of its SNAP record: it is the state before that */
	le64 time_ns;        /* of that record */
};
_Static_assert(sizeof(struct snap_value) == 24, "");

struct held_value {
	uint8_t version;     /* 1 */
	uint8_t dropping;    /* 1: its deadlist is being taken apart */
	uint8_t zero[6];
	le64 gen;            /* of the snapshot */
};
_Static_assert(sizeof(struct held_value) == 16, "");

/* Sums of everything below a directory, without itself. */
struct usage_value {
	uint8_t version;     /* 1 */
	uint8_t zero[7];
	le64 parent;
	le64 bytes;          /* sizes of files and symlinks */
	le64 files;          /* whatever is no directory */
	le64 subdirs;
	le64 ctime_ns;       /* the newest of it and of the directory itself */
};
_Static_assert(sizeof(struct usage_value) == 48, "");

/* The rows of tables U and N are those of the anchor if and only if both name the same batch. */
struct usage_mark_value {
	uint8_t version;     /* 1 */
	uint8_t zero[7];
	le64 applied_seq;
};
_Static_assert(sizeof(struct usage_mark_value) == 16, "");

/* Table M is complete if and only if its header is there and names the same batch as the anchor. */
struct mark_header_value {
	uint8_t version;     /* 1 */
	uint8_t zero[7];
	le64 since;          /* what changed after a snapshot whose top is this or more is marked */
	le64 applied_seq;
};
_Static_assert(sizeof(struct mark_header_value) == 24, "");

#define ANCHOR_MAGIC UINT64_C(0x3152484341574c43) /* "CLWACHR1" */
struct anchor_value {
	le64 magic;
	uint8_t volume[16];
	le64 applied_seq;               /* every record up to this batch is in the index */
	le64 tail_seq, tail_pos, tail_hash; /* everything up to tail_seq is homed: replay starts behind it */
	le64 next_ino;
	le64 epoch;
	le64 snapshot_generation;       /* birth of blocks allocated now; above every snapshot this node knows */
	le64 reserved_blocks;           /* slots with data or space promised and no home */
	le64 n_inodes;
	le32 n_chunks;
	le32 crc;                       /* CRC-32C of all before */
};
_Static_assert(sizeof(struct anchor_value) == 104, "");
