/*
 * test_format.c: docs/FORMAT.md against the structures (see document.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>

#include "fs/core/index_format.h"
#include "fs/core/leaf.h"
#include "fs/store/arena.h"
#include "fs/store/super_format.h"
#include "journal/journal_format.h"
#include "tests/unit/document.h"

/* clang-format off */
static struct layout layouts[] = {
#define S batch_header
	STRUCT(batch_header, M(S, magic), M(S, version), M(S, flags), M(S, n_records), M(S, volume), M(S, epoch), M(S, incarnation),
	       M(S, seq), M(S, pos), M(S, tail_seq), M(S, commit_seq), M(S, time_ns), M(S, prev_hash), M(S, hash),
	       M(S, n_payload_blocks), M(S, logical_bytes), M(S, local_bytes), M(S, local_crc), M(S, zero), M(S, crc)),
#undef S
#define S record_header
	STRUCT(record_header, M(S, crc), M(S, bytes), M(S, type), M(S, flags), M(S, zero), M(S, uid), M(S, gid), M(S, pid),
	       M(S, unique), M(S, time_ns), M(S, ino)),
#undef S
#define S body_mknode
	STRUCT(body_mknode, M(S, parent), M(S, cookie), M(S, rdev), M(S, mode), M(S, uid), M(S, gid), M(S, name_len), M(S, target_len)),
#undef S
#define S body_link
	STRUCT(body_link, M(S, parent), M(S, cookie), M(S, name_len), M(S, zero)),
#undef S
#define S body_unlink
	STRUCT(body_unlink, M(S, parent), M(S, name_len), M(S, zero)),
#undef S
#define S body_rename
	STRUCT(body_rename, M(S, parent), M(S, new_parent), M(S, new_cookie), M(S, target), M(S, whiteout_ino), M(S, flags),
	       M(S, name_len), M(S, new_name_len)),
#undef S
#define S body_setattr
	STRUCT(body_setattr, M(S, mask), M(S, mode), M(S, uid), M(S, gid), M(S, size), M(S, atime_ns), M(S, mtime_ns), M(S, ctime_ns)),
#undef S
#define S body_xattr
	STRUCT(body_xattr, M(S, value_len), M(S, name_len), M(S, zero)),
#undef S
#define S body_write
	STRUCT(body_write, M(S, block), M(S, size), M(S, mtime_ns), M(S, n_blocks), M(S, out_of_line), M(S, zero)),
#undef S
#define S body_zero
	STRUCT(body_zero, M(S, block), M(S, n_blocks), M(S, size), M(S, mode), M(S, zero)),
#undef S
#define S body_reap
	STRUCT(body_reap, M(S, from_leaf)),
#undef S
#define S body_config
	STRUCT(body_config, M(S, key_len), M(S, value_len), M(S, zero)),
#undef S
#define S body_epoch
	STRUCT(body_epoch, M(S, epoch), M(S, incarnation)),
#undef S
#define S local_run
	STRUCT(local_run, M(S, start), M(S, n_blocks)),
#undef S
#define S staging_mark
	STRUCT(staging_mark, M(S, hash), M(S, n_records), M(S, logical_bytes), M(S, n_payload_blocks), M(S, local_bytes),
	       M(S, local_crc), M(S, zero)),
#undef S
#define S staging_header
	STRUCT(staging_header, M(S, magic), M(S, volume), M(S, incarnation), M(S, seq), M(S, pos), M(S, prev_hash),
	       M(S, durable_seq), M(S, published), M(S, mark), M(S, epoch), M(S, time_ns), M(S, zero)),
#undef S
#define S super_block
	STRUCT(super_block, M(S, magic), M(S, version), M(S, chunk_kib), M(S, volume), M(S, node), M(S, compat), M(S, ro_compat),
	       M(S, incompat), M(S, generation), M(S, epoch), M(S, incarnation), M(S, flags), M(S, journal_segments),
	       M(S, journal_segment_kib), M(S, max_blocks), M(S, created_ns), M(S, host_reserve), M(S, label), M(S, node_id),
	       M(S, fence), M(S, zero), M(S, crc)),
#undef S
#define S inode_value
	STRUCT(inode_value, M(S, version), M(S, zero), M(S, mode), M(S, uid), M(S, gid), M(S, nlink), M(S, n_xattr), M(S, size),
	       M(S, blocks), M(S, atime_ns), M(S, mtime_ns), M(S, ctime_ns), M(S, btime_ns), M(S, rdev), M(S, parent), M(S, cookie),
	       M(S, next_cookie)),
#undef S
#define S dentry_value
	STRUCT(dentry_value, M(S, ino), M(S, cookie), M(S, type)),
#undef S
#define S cookie_value
	STRUCT(cookie_value, M(S, ino), M(S, type)),
#undef S
#define S anchor_value
	STRUCT(anchor_value, M(S, magic), M(S, volume), M(S, applied_seq), M(S, tail_seq), M(S, tail_pos), M(S, tail_hash),
	       M(S, next_ino), M(S, epoch), M(S, snapshot_generation), M(S, reserved_blocks), M(S, n_inodes), M(S, n_chunks), M(S, crc)),
#undef S
};

static struct constant constants[] = {
	CONSTANT(BATCH_MAGIC), CONSTANT(STAGING_MAGIC), CONSTANT(JOURNAL_FORMAT_VERSION), CONSTANT(BATCH_PAYLOAD_MAX_BLOCKS),
	CONSTANT(BATCH_LOGICAL_MAX_BYTES), CONSTANT(BATCH_LOCAL_MAX_BYTES),
	CONSTANT(SUPER_MAGIC), CONSTANT(SUPER_BYTES), CONSTANT(SUPER_FORMAT_VERSION), CONSTANT(SUPER_CLEAN),
	CONSTANT(SUPER_FOLLOWER), CONSTANT(SUPER_RESYNCING), CONSTANT(SUPER_SAVE), CONSTANT(SUPER_DIFFERS),
	CONSTANT(ANCHOR_MAGIC), CONSTANT(INDEX_KEY_MAX), CONSTANT(LEAF_SLOTS), CONSTANT(LEAF_BYTES_MAX),
	CONSTANT(ARENA_PAGE_BLOCKS), CONSTANT(ARENA_PAGE_BYTES),
};
/* clang-format on */

int main(int argc, char **argv)
{
	struct document d = {
	    .layouts = layouts, .n_layouts = ARRAY_SIZE(layouts), .constants = constants, .n_constants = ARRAY_SIZE(constants)};

	return document_main(&d, argc, argv);
}
