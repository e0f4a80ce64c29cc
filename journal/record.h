/*
 * record.h: one change to the filesystem, in memory, and its bytes.
 *
 * A record is redo, fully resolved (inode numbers, cookies and times included) and is applied by one function per type,
 * the same live, in recovery and on a follower.  Its bytes (journal_format.h) are identical on every node: what differs
 * between nodes (where out-of-line blocks lie) stands in the batch's local section.
 *
 * Ownership: slices and pointers in a decoded record borrow the bytes it was decoded from.
 * Threads: no state.  Errors: record_decode returns -EUCLEAN for anything that is not a whole valid record; it never
 * reads outside [p, p + len) and bounds every count before use.
 */
#pragma once

#include <sys/uio.h>

#include "base/buf.h"
#include "journal/pointer.h"

enum record_type {
	RECORD_MKNODE = 1, /* a new inode with its first name (any type but an anonymous one) */
	RECORD_LINK,       /* one more name for an inode */
	RECORD_UNLINK,     /* a name goes (rmdir too); the last one makes the inode an orphan */
	RECORD_RENAME,     /* a name moves; replaces, exchanges or leaves a whiteout */
	RECORD_SETATTR,
	RECORD_SETXATTR,
	RECORD_RMXATTR,
	RECORD_WRITE,      /* whole blocks, inline or out of line */
	RECORD_ZERO,       /* punch, zero or allocate a range of whole blocks */
	RECORD_REAP,       /* an orphan loses leaves from `from_leaf` on; from 0: itself too */
	RECORD_TIER,       /* leaves of a file have a copy in an object; or an object is forgotten */
	RECORD_SNAP,       /* the volume as it was before this record is kept under a name; alone in its batch */
	RECORD_SNAPDROP,   /* a snapshot goes; alone in its batch */
	RECORD_CONFIG,     /* a volume-wide setting, key = value */
	RECORD_EPOCH,      /* a node starts writing: first record after each mount */
	RECORD_SNAPROLL,   /* the tree is again what a snapshot has; alone in its batch */
	RECORD_CLONE,      /* blocks of a file become blocks of another one, or of itself elsewhere */
	RECORD_TYPE_MAX = RECORD_CLONE,
};

/* Bits of record.attr.mask: which fields of record.attr the record sets. */
enum {
	ATTR_MODE = 1 << 0, ATTR_UID = 1 << 1, ATTR_GID = 1 << 2, ATTR_SIZE = 1 << 3,
	ATTR_ATIME = 1 << 4, ATTR_MTIME = 1 << 5, ATTR_CTIME = 1 << 6,
	ATTR_ALL = (1 << 7) - 1,
};
struct record_attr {
	uint32_t mask, mode, uid, gid;
	uint64_t size;
	int64_t atime_ns, mtime_ns, ctime_ns;
};

enum zero_mode {
	ZERO_PUNCH,    /* the range becomes a hole */
	ZERO_RANGE,    /* reads as zeros, space reserved */
	ZERO_ALLOCATE, /* holes get reserved space, data stays */
};
enum { RENAME_F_EXCHANGE = 1 << 0, RENAME_F_WHITEOUT = 1 << 1 };

/*
 * An operation that needs several records writes them next to each other with RECORD_MORE on all but the last: they are
 * applied all or not at all, also when an open batch is recovered after kill -9.
 */
enum { RECORD_MORE = 1 << 0 };

#define RECORD_NAME_MAX 255u
#define RECORD_TARGET_MAX 4095u
#define RECORD_VALUE_MAX 65536u
#define RECORD_WRITE_BLOCKS_MAX 512u /* one WRITE request of 1 MiB, and room */
#define RECORD_CLONE_BLOCKS_MAX 4096u /* 16 MiB: what one operation does under its locks */
#define RECORD_PLACES_MAX 1024u      /* leaves of one TIER record: 64 MiB */
#define RECORD_FRAME_MAX (17u * 4096u) /* bytes of a leaf's frame in an object: the leaf, and room for what is around it */
#define RECORD_SEALED_BYTES 60u      /* the key of an object, as tier/pack.h seals it */

/* Where the copy of a leaf is: its frame in the object, and the slots it is of. */
struct record_place {
	uint64_t leaf;
	uint32_t offset, len; /* bytes */
	uint16_t mask;        /* slots whose data was the same when the record was logged */
};
/* Whether a frame can lie there; objects are smaller than 4 GiB. */
static inline bool record_frame_ok(uint32_t offset, uint32_t len)
{
	return len >= 1 && len <= RECORD_FRAME_MAX && offset <= UINT32_MAX - len;
}
enum tier_change {
	TIER_PLACE,  /* the leaves named have a copy in the object */
	TIER_FORGET, /* the object has no live data and is gone from its store; ino is the root directory */
};

struct record {
	uint8_t type, flags;
	/* who asked: the audit trail.  unique is the FUSE request id. */
	uint32_t uid, gid, pid;
	uint64_t unique;
	int64_t time_ns; /* ctime, and mtime of the directories touched */
	uint64_t ino;    /* the inode the record is about; 0 for CONFIG and EPOCH */
	union {
		struct {
			uint64_t parent, cookie; /* directory, and the name's place in its order */
			struct slice name;
			uint32_t mode, uid, gid;
			uint64_t rdev;
			struct slice target; /* of a symlink */
		} mknode;
		struct {
			uint64_t parent, cookie;
			struct slice name;
		} link;
		struct {
			uint64_t parent;
			struct slice name;
		} unlink;
		struct {
			uint64_t parent, new_parent, new_cookie;
			uint64_t target;       /* inode under new_name before: replaced or exchanged; 0 when none */
			uint64_t whiteout_ino; /* RENAME_F_WHITEOUT: the device left behind */
			uint32_t flags;        /* RENAME_F_*; EXCHANGE keeps both cookies */
			struct slice name, new_name;
		} rename;
		struct record_attr attr; /* SETATTR; mask bits as above */
		struct {
			struct slice name, value; /* RMXATTR: no value */
		} xattr;
		struct {
			uint64_t block;      /* first block of the file, in blocks */
			uint32_t n_blocks;   /* 1 .. RECORD_WRITE_BLOCKS_MAX */
			bool out_of_line;    /* data went to the arena before the record was appended */
			uint64_t size;       /* of the file afterwards */
			int64_t mtime_ns;    /* INT64_MIN: leave mtime and ctime as they are (kernel owns them) */
			const uint32_t *crc; /* n_blocks CRC-32Cs, one a block */
			/*
			 * Inline: to append, up to three pieces that make n_blocks * BLOCK_SIZE bytes.  Decoded: data[0] is
			 * the whole, or n_data is 0 where only the record and not the payload was read.
			 */
			struct iovec data[3];
			int n_data;
			pointer_t staged;    /* inline: the journal position of the first block; set by journal_append */
			/* Out of line: where the blocks lie on this node. */
			const struct run *runs;
			uint32_t n_runs;
		} write;
		struct {
			uint64_t block, n_blocks; /* n_blocks may reach past the end of the file */
			uint8_t mode;             /* enum zero_mode */
			uint64_t size;            /* of the file afterwards */
		} zero;
		struct {
			uint64_t from;       /* inode */
			uint64_t from_block; /* n_blocks of it from here on, as they are when the record's turn comes, ... */
			uint64_t block;      /* ... become those of `ino` from here on; within one file they do not overlap */
			uint32_t n_blocks;   /* 1 .. RECORD_CLONE_BLOCKS_MAX */
			uint64_t size;       /* of the file `ino` afterwards */
			int64_t mtime_ns;    /* its mtime and ctime */
		} clone;
		struct {
			uint64_t from_leaf;
		} reap;
		struct {
			uint8_t change;        /* enum tier_change */
			uint32_t store;        /* id of the store that has the object */
			uint64_t object, object_bytes;
			uint32_t n_blocks;     /* of files, that the object was made with */
			const uint8_t *sealed; /* RECORD_SEALED_BYTES */
			uint32_t n_places;     /* 0 with FORGET */
			/* Leaves rising.  To append: `places`; decoded: `raw_places`, their bytes.  record_place_at() reads either. */
			const struct record_place *places;
			const void *raw_places;
		} tier;
		struct {
			uint64_t gen; /* number of the snapshot, never used twice */
			struct slice name;
		} snap; /* SNAP, SNAPDROP, SNAPROLL; ino is the root directory */
		struct {
			struct slice key, value;
		} config;
		struct {
			uint64_t epoch, incarnation;
		} epoch;
	};
};

/* Appends the record's logical bytes to `out`; -EINVAL when a field is out of bounds, -ENOMEM. */
MUST_CHECK int record_encode(const struct record *r, struct buf *out);

/*
 * Reads the first record of [p, p + len): fields of *ret_record, bytes used in *ret_used.  crc points into the bytes (they
 * are 4-aligned in a batch: record_encode pads each record to 8 bytes).  Payload and runs are not set: batch.h does.
 */
MUST_CHECK int record_decode(const void *p, size_t len, struct record *ret_record, size_t *ret_used);

/* 1 to 255 bytes without '/' and control characters, neither "." nor "..". */
bool record_snap_name_ok(struct slice name);

/* The i-th place of a TIER record, i < n_places. */
struct record_place record_place_at(const struct record *r, uint32_t i);

const char *record_type_name(unsigned type); /* "MKNODE"; "?" when unknown */
