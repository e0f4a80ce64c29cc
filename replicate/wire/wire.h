/*
 * wire.h: the messages of replication as bytes.  docs/PROTOCOL.md tells the same in words; a test compares the two.
 *
 * A connection carries frames: a frame_header, then `bytes` of body.  Frames of each direction are numbered from 0; a gap, a
 * repetition, a wrong CRC or a body above the limit of its type ends the connection.  Nothing is allocated for a frame before its
 * header was checked; no decoder reads outside the body, and every count is bounded before it is used.
 * Ownership: decoded messages borrow the body.  Threads: no state.
 * Errors: -EBADMSG wrong CRC, -EUCLEAN anything else that is not a valid frame or body, -EPROTONOSUPPORT another version.
 */
#pragma once

#include "base/buf.h"
#include "base/le.h"
#include "journal/replica.h"

#define WIRE_MAGIC 0x46574c43u /* "CLWF" */
#define WIRE_VERSION 1u

enum message_type {
	MESSAGE_HELLO = 1,  /* dialer -> listener, first: who I am and where I stand */
	MESSAGE_WELCOME,    /* listener -> dialer: who I am and what follows */
	MESSAGE_REFUSE,     /* either way, last: why the connection ends */
	MESSAGE_BATCH,      /* leader -> follower: logical section and inline data */
	MESSAGE_DATA,       /* leader -> follower: out-of-line data of one WRITE of the batch before */
	MESSAGE_ACK,        /* follower -> leader: durable and applied seq */
	MESSAGE_STATE,      /* leader -> follower: state sum of a batch sent earlier */
	MESSAGE_PING,       /* either way, answered by PONG with the same value */
	MESSAGE_PONG,
	MESSAGE_PEERS,      /* leader -> follower: the list of peers, JSON */
	/* RESYNC: the follower asks, the leader answers in the same order. */
	MESSAGE_VIEW,       /* leader: the moment that rows are of; first, unasked */
	MESSAGE_GET_HASHES, /* follower: ranges from a key on */
	MESSAGE_HASHES,
	MESSAGE_GET_ROWS,   /* follower: the rows of one range */
	MESSAGE_ROWS,       /* several; the last one says so */
	MESSAGE_GET_LEAVES, /* follower: data of leaves */
	MESSAGE_LEAVES,     /* several; the last one says so */
	MESSAGE_RESYNCED,   /* follower: I am the view; the stream goes on after it; no body */
	/* Planned hand-over. */
	MESSAGE_HANDOVER,   /* leader -> follower: nothing is written after this seq; lead with this epoch */
	MESSAGE_LEADING,    /* follower -> old leader: I do; no body */
	/* Joining (join.h), on a connection authenticated by an invitation instead of certificates. */
	MESSAGE_JOIN,       /* joiner: JSON */
	MESSAGE_JOINED,     /* inviter: JSON */
	/* Repairs, on a stream, either way: of a peer that has said that it answers (FEATURE_BLOCKS). */
	MESSAGE_BLOCK_WANTED, /* the block of that slot, with that CRC */
	MESSAGE_BLOCK,        /* it, or that it is not here */
	MESSAGE_TYPE_MAX = MESSAGE_BLOCK,
};
const char *message_type_name(unsigned type); /* "HELLO"; "?" when unknown */

struct frame_header {
	le32 magic;
	uint8_t type;
	uint8_t zero[3];
	le64 number; /* of this frame in its direction */
	le32 bytes;  /* of the body */
	le32 crc;    /* CRC-32C of the header up to here, then the body */
};
_Static_assert(sizeof(struct frame_header) == 24, "");
#define FRAME_HEADER_BYTES sizeof(struct frame_header)

/* Limits; docs/PROTOCOL.md has the table. */
#define WIRE_NAME_MAX       64u  /* of a peer */
#define WIRE_TEXT_MAX       512u
#define WIRE_JSON_MAX       (64u * 1024u)
#define WIRE_BODY_MAX       (BATCH_LOGICAL_MAX_BYTES + BATCH_PAYLOAD_MAX_BLOCKS * BLOCK_SIZE + 4096u)
#define WIRE_RANGES_MAX     64u  /* in one HASHES */
#define WIRE_RANGE_ROWS_MAX 4096u
#define WIRE_ROWS_BYTES     (256u * 1024u) /* of one ROWS, before a row that is longer by itself */
#define WIRE_LEAVES_MAX     256u /* in one GET_LEAVES */
#define WIRE_LEAVES_BYTES   (1024u * 1024u) /* of blocks in one LEAVES */
#define WIRE_KEY_MAX        264u
#define WIRE_VALUE_MAX      65536u

/* Largest body of a type; 0 for one that has none, and for a type that is none. */
uint32_t message_body_max(unsigned type);

/* Appends a frame around the body that `begin` .. is written between; see wire.c.  Usage:
 *     size_t at = frame_begin(out, MESSAGE_PING); ... buf_put(out, ...); frame_end(out, at, number++);
 * Running out of memory is sticky in out->failed. */
size_t frame_begin(struct buf *out, enum message_type type);
void frame_end(struct buf *out, size_t at, uint64_t number);

/*
 * Looks at the bytes received so far: 0 with *ret_need = bytes of header and body that the first frame takes in all, once the
 * header is there (len >= FRAME_HEADER_BYTES) and right: magic, type, zeros, number == expect, size within its type's limit;
 * 24 while it is not all there.
 */
MUST_CHECK int frame_peek(const void *p, size_t len, uint64_t expect, size_t *ret_need);
/* A whole frame, checked by frame_peek(): checks the CRC. */
MUST_CHECK int frame_open(const void *p, size_t len, enum message_type *ret_type, struct slice *ret_body);

/*
 * A PING with this bit says which messages its sender understands beyond those of version 1; any node answers it as every PING, so
 * older ones need not know.  No epoch, which is what other PINGs carry, has the bit.
 */
#define FEATURES_BIT   (UINT64_C(1) << 63)
#define FEATURE_BLOCKS (UINT64_C(1) << 0) /* BLOCK_WANTED is answered */

/* HELLO and WELCOME */
enum { HELLO_ANNOUNCE = 1 << 0 /* I lead and want you to know; I follow nobody */, HELLO_RESYNCING = 1 << 1, HELLO_DIFFERS = 1 << 2,
       HELLO_RESYNC_WANTED = 1 << 3 /* an admin gave up what only this node has */ };
enum welcome_action {
	WELCOME_STREAM,      /* batches follow from hello.seq + 1 on */
	WELCOME_RESYNC,      /* VIEW follows */
	WELCOME_RESYNC_SAVE, /* the same; what only the follower has is to be kept aside */
	WELCOME_CONFLICT,    /* same epoch, other history: an admin must say which one counts */
	WELCOME_NOT_LEADER,  /* leader_id (0: unknown) leads as far as I know */
	WELCOME_NOTED,       /* answer to an announcement */
};
struct hello {
	uint32_t version;
	uint8_t volume[16], node[16];
	uint32_t node_id, role, flags;
	uint64_t promised, history, seq, hash, fence;
	char name[WIRE_NAME_MAX + 1];    /* of the sender, as peers know it */
	char address[WIRE_TEXT_MAX + 1]; /* where it listens, "host:port"; empty: nowhere */
};
struct welcome {
	struct hello self; /* of the one who answers */
	enum welcome_action action;
	uint32_t leader_id;
};
struct refuse {
	int error; /* -errno */
	char text[WIRE_TEXT_MAX + 1];
};
struct ack {
	uint64_t durable_seq, applied_seq;
};
struct state {
	uint64_t seq, sum;
};
struct range_hash {
	struct slice to; /* the range ends before this key; empty: at the end of everything */
	uint64_t hash;   /* XXH64 chain of le32 key length, le32 value length, key, value of its rows */
	uint32_t n_rows;
};
struct hashes {
	uint32_t n;
	struct range_hash range[WIRE_RANGES_MAX];
};
struct get_hashes {
	struct slice from;
	uint32_t n_ranges, rows_each;
};
struct get_rows {
	struct slice from, to; /* to empty: to the end */
};
struct get_leaves {
	uint32_t n;
	struct leaf_data leaf[WIRE_LEAVES_MAX]; /* superseded unused */
};
struct block_answer {
	uint64_t number;      /* of the question */
	const uint8_t *block; /* borrowed; NULL: it is not here */
};
struct handover {
	uint64_t seq, hash, epoch;
};

void hello_put(struct buf *out, const struct hello *m);
MUST_CHECK int hello_get(struct slice body, struct hello *ret);
void welcome_put(struct buf *out, const struct welcome *m);
MUST_CHECK int welcome_get(struct slice body, struct welcome *ret);
void refuse_put(struct buf *out, const struct refuse *m);
MUST_CHECK int refuse_get(struct slice body, struct refuse *ret);
void batch_put(struct buf *out, const struct shipped_batch *m);
/* m->logical points into the body, which must be 8-aligned as a frame in memory that starts 8-aligned is. */
MUST_CHECK int batch_get(struct slice body, struct shipped_batch *ret);
void data_put(struct buf *out, const struct shipped_data *m);
MUST_CHECK int data_get(struct slice body, struct shipped_data *ret);
void ack_put(struct buf *out, const struct ack *m);
MUST_CHECK int ack_get(struct slice body, struct ack *ret);
void state_put(struct buf *out, const struct state *m);
MUST_CHECK int state_get(struct slice body, struct state *ret);
void ping_put(struct buf *out, uint64_t value); /* PING and PONG */
MUST_CHECK int ping_get(struct slice body, uint64_t *ret);
void view_put(struct buf *out, const struct replica_view_info *m);
MUST_CHECK int view_get(struct slice body, struct replica_view_info *ret);
void get_hashes_put(struct buf *out, const struct get_hashes *m);
MUST_CHECK int get_hashes_get(struct slice body, struct get_hashes *ret);
void hashes_put(struct buf *out, const struct hashes *m);
MUST_CHECK int hashes_get(struct slice body, struct hashes *ret);
void get_rows_put(struct buf *out, const struct get_rows *m);
MUST_CHECK int get_rows_get(struct slice body, struct get_rows *ret);
/* ROWS: u8 last, then rows; the writer calls rows_begin once and row_put for each. */
void rows_begin(struct buf *out, bool last);
void row_put(struct buf *out, const struct row *r);
/* *at starts at 0; 1 and a row, 0 at the end, -EUCLEAN.  rows_last: the flag. */
MUST_CHECK int rows_next(struct slice body, size_t *at, struct row *ret);
MUST_CHECK int rows_last(struct slice body, bool *ret_last);
void get_leaves_put(struct buf *out, const struct get_leaves *m);
MUST_CHECK int get_leaves_get(struct slice body, struct get_leaves *ret);
/* LEAVES: u8 last, fence, then leaves with the blocks of their wanted slots that are not superseded. */
void leaves_begin(struct buf *out, bool last, uint64_t fence);
void leaf_put(struct buf *out, const struct leaf_data *d, const uint8_t *blocks /* of all wanted slots */);
/* blocks: of the wanted slots that are not superseded, in order; borrowed. */
MUST_CHECK int leaves_next(struct slice body, size_t *at, struct leaf_data *ret, const uint8_t **ret_blocks);
MUST_CHECK int leaves_head(struct slice body, bool *ret_last, uint64_t *ret_fence);
void handover_put(struct buf *out, const struct handover *m);
MUST_CHECK int handover_get(struct slice body, struct handover *ret);
void block_wanted_put(struct buf *out, const struct block_wanted *m);
MUST_CHECK int block_wanted_get(struct slice body, struct block_wanted *ret);
void block_answer_put(struct buf *out, const struct block_answer *m);
MUST_CHECK int block_answer_get(struct slice body, struct block_answer *ret);
/* PEERS, JOIN, JOINED: JSON text up to WIRE_JSON_MAX. */
void text_put(struct buf *out, const char *json);
MUST_CHECK int text_get(struct slice body, struct slice *ret);
