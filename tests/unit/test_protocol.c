/*
 * test_protocol.c: docs/PROTOCOL.md against replicate/wire/wire.h, wire_format.h and node.h (see document.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>

#include "replicate/node.h"
#include "replicate/wire/wire_format.h"
#include "tests/unit/document.h"

/* clang-format off */
static struct layout layouts[] = {
#define S frame_header
	STRUCT(frame_header, M(S, magic), M(S, type), M(S, zero), M(S, number), M(S, bytes), M(S, crc)),
#undef S
#define S wire_hello
	STRUCT(wire_hello, M(S, version), M(S, node_id), M(S, role), M(S, flags), M(S, volume), M(S, node), M(S, promised),
	       M(S, history), M(S, seq), M(S, hash), M(S, fence), M(S, name_len), M(S, address_len), M(S, zero)),
#undef S
#define S wire_welcome
	STRUCT(wire_welcome, M(S, action), M(S, leader_id)),
#undef S
#define S wire_refuse
	STRUCT(wire_refuse, M(S, error), M(S, text_len), M(S, zero)),
#undef S
#define S wire_batch
	STRUCT(wire_batch, M(S, seq), M(S, epoch), M(S, incarnation), M(S, prev_hash), M(S, hash), M(S, time_ns), M(S, n_records),
	       M(S, logical_bytes), M(S, n_payload), M(S, zero)),
#undef S
#define S wire_data
	STRUCT(wire_data, M(S, index), M(S, n_blocks), M(S, fence), M(S, superseded)),
#undef S
#define S wire_ack
	STRUCT(wire_ack, M(S, durable_seq), M(S, applied_seq)),
#undef S
#define S wire_state
	STRUCT(wire_state, M(S, seq), M(S, sum)),
#undef S
#define S wire_ping
	STRUCT(wire_ping, M(S, value)),
#undef S
#define S wire_view
	STRUCT(wire_view, M(S, seq), M(S, hash), M(S, epoch), M(S, next_ino), M(S, n_inodes), M(S, snapshot_generation)),
#undef S
#define S wire_get_hashes
	STRUCT(wire_get_hashes, M(S, n_ranges), M(S, rows_each), M(S, from_len), M(S, zero)),
#undef S
#define S wire_hashes
	STRUCT(wire_hashes, M(S, n), M(S, zero)),
#undef S
#define S wire_range
	STRUCT(wire_range, M(S, hash), M(S, n_rows), M(S, to_len), M(S, zero)),
#undef S
#define S wire_get_rows
	STRUCT(wire_get_rows, M(S, from_len), M(S, to_len), M(S, zero)),
#undef S
#define S wire_rows
	STRUCT(wire_rows, M(S, last)),
#undef S
#define S wire_row
	STRUCT(wire_row, M(S, value_len), M(S, key_len), M(S, zero)),
#undef S
#define S wire_get_leaves
	STRUCT(wire_get_leaves, M(S, n), M(S, zero)),
#undef S
#define S wire_leaves
	STRUCT(wire_leaves, M(S, last), M(S, fence)),
#undef S
#define S wire_leaf
	STRUCT(wire_leaf, M(S, ino), M(S, leaf), M(S, wanted), M(S, superseded), M(S, zero)),
#undef S
#define S wire_handover
	STRUCT(wire_handover, M(S, seq), M(S, hash), M(S, epoch)),
#undef S
#define S wire_block_wanted
	STRUCT(wire_block_wanted, M(S, number), M(S, ino), M(S, leaf), M(S, slot), M(S, crc)),
#undef S
#define S wire_block
	STRUCT(wire_block, M(S, number), M(S, bytes), M(S, zero)),
#undef S
};

static const struct constant fixed[] = {
	CONSTANT(WIRE_MAGIC), CONSTANT(WIRE_VERSION), CONSTANT(WIRE_NAME_MAX), CONSTANT(WIRE_TEXT_MAX), CONSTANT(WIRE_JSON_MAX),
	CONSTANT(WIRE_BODY_MAX), CONSTANT(WIRE_RANGES_MAX), CONSTANT(WIRE_RANGE_ROWS_MAX), CONSTANT(WIRE_ROWS_BYTES),
	CONSTANT(WIRE_LEAVES_MAX), CONSTANT(WIRE_LEAVES_BYTES), CONSTANT(WIRE_KEY_MAX), CONSTANT(WIRE_VALUE_MAX),
	CONSTANT(SESSION_OUT_MAX), CONSTANT(SESSION_MEMORY_MAX), CONSTANT(SESSION_PING_NS), CONSTANT(SESSION_DEAD_NS),
	CONSTANT(HELLO_ANNOUNCE), CONSTANT(HELLO_RESYNCING), CONSTANT(HELLO_DIFFERS), CONSTANT(HELLO_RESYNC_WANTED),
	CONSTANT(WELCOME_STREAM), CONSTANT(WELCOME_RESYNC), CONSTANT(WELCOME_RESYNC_SAVE), CONSTANT(WELCOME_CONFLICT),
	CONSTANT(WELCOME_NOT_LEADER), CONSTANT(WELCOME_NOTED), CONSTANT(FEATURES_BIT), CONSTANT(FEATURE_BLOCKS),
};
/* clang-format on */

/* The fixed ones, then number and largest body of each type of message. */
static struct constant constants[ARRAY_SIZE(fixed) + 2 * MESSAGE_TYPE_MAX];
static char names[2 * MESSAGE_TYPE_MAX][32];

static void list_constants(void)
{
	size_t n = ARRAY_SIZE(fixed), k = 0;

	memcpy(constants, fixed, sizeof(fixed));
	for (unsigned type = 1; type <= MESSAGE_TYPE_MAX; type++) {
		snprintf(names[k], sizeof(names[k]), "MESSAGE_%s", message_type_name(type));
		constants[n++] = (struct constant){names[k++], type, 0};
		snprintf(names[k], sizeof(names[k]), "body(%s)", message_type_name(type));
		constants[n++] = (struct constant){names[k++], message_body_max(type), 0};
	}
}

int main(int argc, char **argv)
{
	struct document d = {
	    .layouts = layouts, .n_layouts = ARRAY_SIZE(layouts), .constants = constants, .n_constants = ARRAY_SIZE(constants)};

	list_constants();
	return document_main(&d, argc, argv);
}
