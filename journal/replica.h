/*
 * replica.h: what replication asks of a volume, as a table of functions: the seam between replicate/, which knows peers and
 * messages, and fs/, which knows files.  fs/core/replica/ is the implementation; tests have others.
 *
 * Roles.  One node leads: it writes.  The others follow: they append and apply what the leader ships and refuse every change
 * of their own.  An epoch is the reign of one leader: the counter in the upper 48 bits, the leader's node id in the lower 16, so
 * that no two nodes ever open the same epoch.  `promised` is the highest epoch the node has heard of, kept durably: nothing
 * from a lower one is accepted any more.  `history` is the epoch of the newest batch it has applied.
 *
 * Rows.  RESYNC compares volumes as rows (key, value) in the order of keys: what the index says, without what differs between
 * nodes.  Keys are those of the index (docs/FORMAT.md): I inode, D name, X xattr, L symlink target, O orphan, P policy,
 * H epoch history, Q object, E leaf.  Values are those of the index, but for E: le16 mapped, le16 unwritten, then le32 CRC-32C of
 * each slot that is mapped and not unwritten; then, when slots are tiered, le16 tiered, le64 object, le32 offset, le32 length.
 *
 * Ownership: the volume outlives its users.  Threads: any function from any thread, but those marked "follower" and "resync",
 * which one thread calls at a time.
 * Errors: 0 or -errno; -EROFS once the volume failed.
 */
#pragma once

#include "base/util.h"
#include "journal/journal_format.h"

enum replica_role { ROLE_LEADER, ROLE_FOLLOWER };

#define EPOCH_NODE_BITS 16
static inline uint64_t epoch_make(uint64_t counter, uint32_t node_id) { return counter << EPOCH_NODE_BITS | node_id; }
static inline uint64_t epoch_counter(uint64_t epoch) { return epoch >> EPOCH_NODE_BITS; }
static inline uint32_t epoch_node(uint64_t epoch) { return epoch & ((1u << EPOCH_NODE_BITS) - 1); }

/* Where a volume stands. */
struct replica_point {
	uint8_t volume[16], node[16];
	uint32_t node_id;          /* of this node within the volume, 1 .. 65535 */
	enum replica_role role;
	uint64_t promised;         /* epoch */
	uint64_t offered;          /* epoch that another node may lead with by now (ops->offer); above `promised`; 0: none */
	uint64_t history;          /* epoch of the newest batch applied */
	uint64_t durable_seq, hash;/* newest durable batch */
	uint64_t applied_seq;      /* newest batch applied; >= durable_seq */
	uint64_t fence;            /* follower: not readable and not promotable before this batch is applied; 0: none, or it waits for
				    * one with a whole state: applied_seq is before the batch that lacks something */
	bool resyncing;            /* follower: neither readable nor promotable: between two states */
	bool differs;              /* follower: its state was seen to differ from the leader's: not readable until resynced */
	bool lacks;                /* follower: cannot apply its leader's next batch; what it has is whole, readable and promotable */
	int failed;                /* -errno when the volume stopped */
};

/* The fixed part of a batch on its way. */
struct shipped_batch {
	uint64_t seq, incarnation, prev_hash, hash;
	uint64_t epoch;            /* of the leader that ships it, whoever made it: a follower takes none below what it promised */
	int64_t time_ns;
	uint32_t n_records, logical_bytes, n_payload; /* blocks of inline data */
	const uint8_t *logical;    /* 8-aligned */
	const uint8_t *payload;    /* inline data in the order of records */
};

/* Data of one out-of-line WRITE of a batch, the index-th of its records that has any. */
struct shipped_data {
	uint32_t index, n_blocks;  /* 1 .. RECORD_WRITE_BLOCKS_MAX */
	const uint8_t *blocks;     /* superseded ones are zeros */
	uint8_t superseded[512 / 8]; /* bit i: block i changed on the leader before it was shipped */
	uint64_t fence;            /* newest batch there may be that changed them; 0 when nothing is superseded */
};

struct row {
	struct slice key, value;
};
/* Returns 0 to go on, 1 to stop, negative to fail. */
typedef int replica_row_fn(void *ctx, const struct row *r);

/* A moment of the leader, to resync from. */
struct replica_view;
struct replica_view_info {
	uint64_t seq, hash, epoch;  /* the state after this batch */
	uint64_t next_ino, n_inodes, snapshot_generation;
};

/* One leaf asked for, or given. */
struct leaf_data {
	uint64_t ino, leaf;
	uint16_t wanted;          /* slots */
	uint32_t crc[16];         /* by slot: of the wanted ones, as the row says; 0 for the others */
	uint16_t superseded;      /* of the wanted: changed since the view */
};

/* A block that a volume cannot read: the slot of a leaf, and what its data has to be. */
struct block_wanted {
	uint64_t number;          /* of the question, rising; only its volume knows it */
	uint64_t ino, leaf;
	uint32_t slot, crc;
};

/* What a leader's stream to one peer holds of the batch it is sending.  Start with NULL; cursor_free(NULL) is fine. */
struct replica_cursor;

struct replica_volume;
struct replica_ops {
	void (*get_point)(struct replica_volume *v, struct replica_point *ret);
	/* Hash after batch `seq`, as far back as the journal reaches; -ENOENT. */
	int (*hash_after)(struct replica_volume *v, uint64_t seq, uint64_t *ret_hash);
	/*
	 * Whether a node whose newest batch is `seq` of epoch `history` holds a prefix of this volume's history, by the table of
	 * epochs: true when that epoch is in it and the next one began at or after `seq`.
	 */
	bool (*is_prefix)(struct replica_volume *v, uint64_t history, uint64_t seq);
	/* Sum over what batch `seq` left in the inodes it names; the same on every node.  -EAGAIN: operations of it are still
	 * being applied, or wait for a fence; -ENOENT: too old, or of before the mount. */
	int (*state_sum)(struct replica_volume *v, uint64_t seq, uint64_t *ret_sum);

	/* Leader: the durable batch `seq`; borrowed until the next call with the same cursor.  -EAGAIN, -ENOENT, -EBADMSG as
	 * journal_copy_batch().  *ret_n_data: how many shipped_data follow. */
	int (*read_batch)(struct replica_volume *v, struct replica_cursor **c, uint64_t seq, struct shipped_batch *ret,
			  uint32_t *ret_n_data);
	/* Leader: the index-th data of the batch read last; blocks are borrowed until the next call. */
	int (*read_data)(struct replica_volume *v, struct replica_cursor *c, uint32_t index, struct shipped_data *ret);
	void (*cursor_free)(struct replica_cursor *c);

	/* Follower: a batch arrives in pieces: take_batch, take_data for each out-of-line WRITE in order, then finish_batch, which
	 * appends and applies it, or behind a fence keeps it to be applied when that is there.  Everything is verified: -EBADMSG wrong hash or CRC, -EUCLEAN impossible records, -EINVAL does
	 * not continue this volume, -ESTALE epoch lower than promised, -ENOSPC.  After an error drop_batch() gives back what
	 * was taken.  finish_batch applies but does not wait for the disk; commit does, and *ret is the newest batch that is
	 * durable and applied. */
	int (*take_batch)(struct replica_volume *v, const struct shipped_batch *b, uint32_t *ret_n_data);
	int (*take_data)(struct replica_volume *v, const struct shipped_data *d);
	int (*finish_batch)(struct replica_volume *v);
	void (*drop_batch)(struct replica_volume *v);
	int (*commit)(struct replica_volume *v, uint64_t *ret_durable_seq);
	/* Follower: its state differs from the leader's: nothing is served any more until a resync. */
	int (*set_differs)(struct replica_volume *v, uint64_t seq);

	/*
	 * Repairs, whatever the role.  next_wanted: the oldest question with a number above `after`; -ENOENT.  give_block: what a
	 * peer answered to question `number`: a block, which is believed only if it has the CRC, or NULL: it does not have it.
	 * answer_block: the block as a peer wants it, into BLOCK_SIZE aligned bytes; -ENOENT: it is not here, -EUCLEAN: there is no such.
	 */
	int (*next_wanted)(struct replica_volume *v, uint64_t after, struct block_wanted *ret);
	void (*give_block)(struct replica_volume *v, uint64_t number, const void *block);
	int (*answer_block)(struct replica_volume *v, const struct block_wanted *b, void *block);

	/* Roles.  note_epoch: durably promises to accept nothing below `epoch`; a leader whose own epoch is lower becomes a
	 * follower by it: it commits, stops writing and says so.  promote: -EAGAIN while fenced, resyncing or different,
	 * -ESTALE when `epoch` is not above the promised one and the offered one; a leader may promote itself to a higher one.
	 * Leads from then on, its EPOCH record durable.  step_down: a leader that has written nothing since it was mounted follows,
	 * although nobody else is known to lead; -EBUSY when it has, -EALREADY when it follows. */
	int (*note_epoch)(struct replica_volume *v, uint64_t epoch);
	int (*promote)(struct replica_volume *v, uint64_t epoch);
	int (*step_down)(struct replica_volume *v);

	/* Hand-over.  hold_writers: while held, changes wait at their beginning; returns once none is under way and everything is
	 * durable.  offer: durably notes that the node `epoch` names may lead with it; -ESTALE when this node does not lead, or
	 * has promised more.  From then on changes are refused (or wait while they are held), over restarts too, until a higher
	 * epoch is noted or led with, or offer(0) says that it was not taken. */
	int (*hold_writers)(struct replica_volume *v, bool hold);
	int (*offer)(struct replica_volume *v, uint64_t epoch);

	/* Resync, leader: a view stays as it is for as long as it is open. */
	int (*view_open)(struct replica_volume *v, struct replica_view **ret_view, struct replica_view_info *ret);
	void (*view_close)(struct replica_view *view);
	/* Rows with from <= key, and key < to unless to.p is NULL, in order. */
	int (*view_rows)(struct replica_view *view, struct slice from, struct slice to, replica_row_fn *fn, void *ctx);
	/* Leader: blocks of the wanted slots, in order, from what the file is now; those that changed are set in d->superseded and
	 * zeros.  *ret_fence: the newest batch there may be by now. */
	int (*read_leaf)(struct replica_volume *v, struct leaf_data *d, uint8_t *blocks, uint64_t *ret_fence);

	/* Resync, follower.  begin: journal emptied, durably marked as between two states; `save`: rows and data that go are
	 * kept under diverged/ first, readable.  Idempotent: a resync that was interrupted goes on. */
	int (*resync_begin)(struct replica_volume *v, uint64_t epoch, bool save);
	int (*resync_rows)(struct replica_volume *v, struct slice from, struct slice to, replica_row_fn *fn, void *ctx);
	/* Which slots of an E row need their data sent: those whose data is neither here with the row's CRC nor in an object. */
	int (*resync_missing)(struct replica_volume *v, const struct row *r, uint16_t *ret_slots);
	/* The row becomes what the leader says; value.p NULL: it goes.  For E rows `d` and `blocks` bring what resync_missing()
	 * named (NULL when nothing): blocks of the wanted slots that are not superseded, in order, as leaves_next() gives them.
	 * -EUCLEAN for a row no leader can have, -EBADMSG data without its CRC, -EINVAL data that was not brought, -ENOSPC. */
	int (*resync_put)(struct replica_volume *v, const struct row *r, const struct leaf_data *d, const uint8_t *blocks);
	/* Makes what was put so far durable. */
	int (*resync_save)(struct replica_volume *v);
	/* The volume is now the view: the journal goes on after its seq. */
	int (*resync_end)(struct replica_volume *v, const struct replica_view_info *info, uint64_t fence);
};
struct replica_volume {
	const struct replica_ops *ops;
};
