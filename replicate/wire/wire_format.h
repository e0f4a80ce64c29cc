/*
 * wire_format.h: bytes of the bodies of messages: their fixed parts.  docs/PROTOCOL.md tells the same in words; a test compares
 * the two.  What follows a fixed part, in the order of its lengths and counts, is said beside each.
 *
 * No structure has padding: all are made of le.h's integers and bytes.  Bytes called zero are zeros.
 */
#pragma once

#include "base/le.h"
#include "journal/record.h"
#include "replicate/wire/wire.h"

/* HELLO; then name and address. */
struct wire_hello {
	le32 version;        /* first, in every version */
	le32 node_id;        /* 1 .. 65535 */
	le32 role;           /* enum replica_role */
	le32 flags;          /* HELLO_* */
	uint8_t volume[16];
	uint8_t node[16];
	le64 promised;
	le64 history;
	le64 seq;
	le64 hash;
	le64 fence;
	le16 name_len;
	le16 address_len;
	le32 zero;
};
/* WELCOME; then a whole HELLO. */
struct wire_welcome { le32 action, leader_id; };
/* REFUSE; then the text. */
struct wire_refuse { le32 error /* an errno of Linux, positive */; le16 text_len, zero; };
/* BATCH; then the logical section and the payload. */
struct wire_batch {
	le64 seq;
	le64 epoch;
	le64 incarnation;
	le64 prev_hash;
	le64 hash;
	le64 time_ns;
	le32 n_records;
	le32 logical_bytes;
	le32 n_payload;      /* blocks */
	le32 zero;
};
/* DATA; then n_blocks blocks. */
struct wire_data { le32 index, n_blocks; le64 fence; uint8_t superseded[64]; };
struct wire_ack { le64 durable_seq, applied_seq; };
struct wire_state { le64 seq, sum; };
struct wire_ping { le64 value; };
struct wire_view { le64 seq, hash, epoch, next_ino, n_inodes, snapshot_generation; };
/* GET_HASHES; then the key. */
struct wire_get_hashes { le32 n_ranges, rows_each; le16 from_len; uint8_t zero[6]; };
/* HASHES; then n of the next, each followed by its key. */
struct wire_hashes { le32 n, zero; };
struct wire_range { le64 hash; le32 n_rows; le16 to_len, zero; };
/* GET_ROWS; then both keys. */
struct wire_get_rows { le16 from_len, to_len; le32 zero; };
/* ROWS; then rows up to the end of the body, each followed by key and value. */
struct wire_rows { uint8_t last; };
struct wire_row { le32 value_len; le16 key_len, zero; };
/* GET_LEAVES; then n leaves, each followed by the CRC-32C of its wanted slots. */
struct wire_get_leaves { le32 n, zero; };
/* LEAVES; then leaves up to the end of the body, each followed by its CRCs and the blocks of the slots that are wanted and not
 * superseded. */
struct wire_leaves { uint8_t last; le64 fence; };
struct wire_leaf { le64 ino, leaf; le16 wanted, superseded; le32 zero; };
struct wire_handover { le64 seq, hash, epoch; };
struct wire_block_wanted { le64 number, ino, leaf; le32 slot, crc; };
/* BLOCK; then the block, when it is here. */
struct wire_block { le64 number; le32 bytes /* of the block: 4096 or 0 */, zero; };

#define WIRE_SLOTS 16u /* of a leaf */

_Static_assert(sizeof(struct wire_hello) == 96 && offsetof(struct wire_hello, version) == 0, "");
_Static_assert(sizeof(struct wire_batch) == 64, "a logical section that follows is 8-aligned");
_Static_assert(sizeof(struct wire_data) == 80 && sizeof(((struct wire_data *)0)->superseded) * 8 == RECORD_WRITE_BLOCKS_MAX, "");
_Static_assert(sizeof(struct wire_welcome) == 8 && sizeof(struct wire_refuse) == 8 && sizeof(struct wire_ping) == 8, "");
_Static_assert(sizeof(struct wire_ack) == 16 && sizeof(struct wire_state) == 16 && sizeof(struct wire_view) == 48, "");
_Static_assert(sizeof(struct wire_get_hashes) == 16 && sizeof(struct wire_hashes) == 8 && sizeof(struct wire_range) == 16, "");
_Static_assert(sizeof(struct wire_get_rows) == 8 && sizeof(struct wire_rows) == 1 && sizeof(struct wire_row) == 8, "");
_Static_assert(sizeof(struct wire_get_leaves) == 8 && sizeof(struct wire_leaves) == 9 && sizeof(struct wire_leaf) == 24, "");
_Static_assert(sizeof(struct wire_handover) == 24, "");
_Static_assert(sizeof(struct wire_block_wanted) == 32 && sizeof(struct wire_block) == 16, "");
