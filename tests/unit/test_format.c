/*
 * test_format.c: docs/FORMAT.md against the structures (see document.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>

#include "fs/core/scrub/scrub_format.h"
#include "fs/core/archive/frames_format.h"
#include "fs/core/index_format.h"
#include "fs/core/leaf.h"
#include "fs/core/tier/stores/usage_format.h"
#include "fs/store/arena.h"
#include "fs/store/crypt/gcm.h"
#include "fs/store/crypt/keys_format.h"
#include "fs/store/super_format.h"
#include "journal/journal_format.h"
#include "journal/record.h"
#include "tests/unit/document.h"
#include "tier/archive/archive_format.h"
#include "tier/pack_format.h"

/* clang-format off */
static struct layout layouts[] = {
#define S usage_copy
	STRUCT(usage_copy, M(S, magic), M(S, version), M(S, n), M(S, generation), M(S, volume), M(S, entry), M(S, zero), M(S, crc)),
#undef S
#define S usage_entry
	STRUCT(usage_entry, M(S, store), M(S, month), M(S, requests), M(S, bytes_in), M(S, bytes_out), M(S, by_kind)),
#undef S
#define S gcm_tag
	STRUCT(gcm_tag, M(S, nonce), M(S, tag), M(S, zero)),
#undef S
#define S keys_block
	STRUCT(keys_block, M(S, magic), M(S, version), M(S, mode), M(S, volume), M(S, generation), M(S, slot), M(S, zero), M(S, crc)),
#undef S
#define S key_slot
	STRUCT(key_slot, M(S, kind), M(S, log2_n), M(S, r), M(S, p), M(S, salt), M(S, created_ns), M(S, name), M(S, sealed), M(S, tag), M(S, zero)),
#undef S
#define S batch_header
	STRUCT(batch_header, M(S, magic), M(S, version), M(S, flags), M(S, n_records), M(S, volume), M(S, epoch), M(S, incarnation),
	       M(S, seq), M(S, pos), M(S, tail_seq), M(S, commit_seq), M(S, time_ns), M(S, prev_hash), M(S, hash),
	       M(S, n_payload_blocks), M(S, logical_bytes), M(S, local_bytes), M(S, local_crc), M(S, mac), M(S, zero), M(S, crc)),
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
#define S body_clone
	STRUCT(body_clone, M(S, from), M(S, from_block), M(S, block), M(S, size), M(S, mtime_ns), M(S, n_blocks), M(S, zero)),
#undef S
#define S body_reap
	STRUCT(body_reap, M(S, from_leaf)),
#undef S
#define S body_tier
	STRUCT(body_tier, M(S, object), M(S, object_bytes), M(S, store), M(S, n_blocks), M(S, n_places), M(S, change), M(S, zero), M(S, sealed)),
#undef S
#define S tier_place
	STRUCT(tier_place, M(S, leaf), M(S, offset), M(S, len), M(S, mask)),
#undef S
#define S object_value
	STRUCT(object_value, M(S, version), M(S, zero), M(S, store), M(S, n_blocks), M(S, n_live), M(S, bytes), M(S, born_ns), M(S, moved_ns),
	       M(S, sealed)),
#undef S
#define S body_snap
	STRUCT(body_snap, M(S, gen), M(S, name_len), M(S, zero)),
#undef S
#define S scrub_state_value
	STRUCT(scrub_state_value, M(S, version), M(S, state), M(S, phase), M(S, flags), M(S, zero), M(S, cursor_len), M(S, cursor),
	       M(S, errors), M(S, rate), M(S, pass), M(S, started_ns), M(S, checked_bytes), M(S, total_bytes), M(S, bad_blocks),
	       M(S, repaired_blocks), M(S, bad_rows), M(S, next_ino), M(S, last_started_ns), M(S, last_ended_ns), M(S, last_bad_blocks),
	       M(S, last_repaired_blocks), M(S, last_next_ino)),
#undef S
#define S damaged_value
	STRUCT(damaged_value, M(S, version), M(S, state), M(S, zero), M(S, found_ns), M(S, changed_ns)),
#undef S
#define S quarantine_value
	STRUCT(quarantine_value, M(S, version), M(S, zero), M(S, birth), M(S, ino), M(S, block)),
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
	       M(S, fence), M(S, offered), M(S, window), M(S, cut), M(S, cut_incarnation), M(S, zero), M(S, crc)),
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
#define S usage_value
	STRUCT(usage_value, M(S, version), M(S, zero), M(S, parent), M(S, bytes), M(S, files), M(S, subdirs), M(S, ctime_ns)),
#undef S
#define S usage_mark_value
	STRUCT(usage_mark_value, M(S, version), M(S, zero), M(S, applied_seq)),
#undef S
#define S object_value_2
	STRUCT(object_value_2, M(S, v), M(S, moved_seq)),
#undef S
#define S snap_value
	STRUCT(snap_value, M(S, version), M(S, zero), M(S, uid), M(S, seq), M(S, time_ns)),
#undef S
#define S mark_header_value
	STRUCT(mark_header_value, M(S, version), M(S, zero), M(S, since), M(S, applied_seq)),
#undef S
#define S held_value
	STRUCT(held_value, M(S, version), M(S, dropping), M(S, zero), M(S, gen)),
#undef S
#define S anchor_value
	STRUCT(anchor_value, M(S, magic), M(S, volume), M(S, applied_seq), M(S, tail_seq), M(S, tail_pos), M(S, tail_hash),
	       M(S, next_ino), M(S, epoch), M(S, snapshot_generation), M(S, reserved_blocks), M(S, n_inodes), M(S, n_chunks), M(S, crc)),
#undef S
#define S pack_object_header
	STRUCT(pack_object_header, M(S, magic), M(S, version), M(S, flags), M(S, n_frames), M(S, volume), M(S, object), M(S, time_ns),
	       M(S, bytes), M(S, first), M(S, sealed), M(S, tag), M(S, zero), M(S, crc)),
#undef S
#define S pack_frame_header
	STRUCT(pack_frame_header, M(S, magic), M(S, flags), M(S, mask), M(S, ino), M(S, leaf), M(S, stored), M(S, crc), M(S, tag)),
#undef S
#define S pack_frame_bound
	STRUCT(pack_frame_bound, M(S, volume), M(S, object), M(S, offset), M(S, header)),
#undef S
#define S archive_header
	STRUCT(archive_header, M(S, magic), M(S, version), M(S, flags), M(S, kind), M(S, volume), M(S, object), M(S, epoch), M(S, seq), M(S, part),
	       M(S, n_items), M(S, last_seq), M(S, next_seq), M(S, next_part), M(S, zero), M(S, hash_before), M(S, hash_after),
	       M(S, first_ns), M(S, last_ns), M(S, plain), M(S, stored), M(S, sealed), M(S, tag), M(S, rest), M(S, crc)),
#undef S
#define S frame_batch
	STRUCT(frame_batch, M(S, magic), M(S, n_data), M(S, seq), M(S, epoch), M(S, incarnation), M(S, prev_hash), M(S, hash), M(S, time_ns),
	       M(S, sum), M(S, n_records), M(S, logical_bytes), M(S, n_payload), M(S, flags)),
#undef S
#define S frame_data
	STRUCT(frame_data, M(S, magic), M(S, index), M(S, n_blocks), M(S, zero), M(S, fence), M(S, superseded)),
#undef S
#define S frame_row
	STRUCT(frame_row, M(S, magic), M(S, key_len), M(S, wanted), M(S, superseded), M(S, zero), M(S, value_len)),
#undef S
#define S pack_seal_bound
	STRUCT(pack_seal_bound, M(S, magic), M(S, volume), M(S, object)),
#undef S
};

static struct constant constants[] = {
	CONSTANT(BATCH_MAGIC), CONSTANT(STAGING_MAGIC), CONSTANT(JOURNAL_FORMAT_VERSION), CONSTANT(BATCH_PAYLOAD_MAX_BLOCKS),
	CONSTANT(BATCH_LOGICAL_MAX_BYTES), CONSTANT(BATCH_LOCAL_MAX_BYTES),
	CONSTANT(SUPER_MAGIC), CONSTANT(SUPER_BYTES), CONSTANT(SUPER_FORMAT_VERSION), CONSTANT(SUPER_TIERED), CONSTANT(SUPER_SNAPSHOTS),
	CONSTANT(SUPER_ENCRYPTED), CONSTANT(SUPER_SHARED), CONSTANT(SUPER_COMPRESSED), CONSTANT(SUPER_ROLLBACK), CONSTANT(KEYS_MAGIC), CONSTANT(KEYS_VERSION), CONSTANT(KEYS_SLOTS), CONSTANT(KEYS_COPIES),
	CONSTANT(SUPER_CLEAN),
	CONSTANT(SUPER_FOLLOWER), CONSTANT(SUPER_RESYNCING), CONSTANT(SUPER_SAVE), CONSTANT(SUPER_DIFFERS),
	CONSTANT(ANCHOR_MAGIC), CONSTANT(INDEX_KEY_MAX), CONSTANT(LEAF_SLOTS), CONSTANT(LEAF_BYTES_MAX),
	CONSTANT(SCRUB_CURSOR_BYTES),
	CONSTANT(RECORD_FRAME_MAX), CONSTANT(RECORD_PLACES_MAX), CONSTANT(RECORD_CLONE_BLOCKS_MAX),
	CONSTANT(ARENA_PAGE_BLOCKS), CONSTANT(ARENA_PAGE_BYTES),
	CONSTANT(USAGE_MAGIC), CONSTANT(USAGE_VERSION), CONSTANT(USAGE_STORES_MAX), CONSTANT(USAGE_COPY_BYTES),
	CONSTANT(PACK_MAGIC), CONSTANT(PACK_FRAME_MAGIC), CONSTANT(PACK_FORMAT_VERSION), CONSTANT(PACK_ENCRYPTED),
	CONSTANT(ARCHIVE_MAGIC), CONSTANT(ARCHIVE_VERSION), CONSTANT(ARCHIVE_ENCRYPTED), CONSTANT(ARCHIVE_COMPRESSED),
	CONSTANT(ARCHIVE_HEADER_BYTES), CONSTANT(ARCHIVE_BODY_MAX), CONSTANT(FRAME_BATCH), CONSTANT(FRAME_DATA), CONSTANT(FRAME_ROW),
	CONSTANT(FRAME_HAS_SUM), CONSTANT(FRAME_ALIGN),
	CONSTANT(PACK_COMPRESSED), CONSTANT(PACK_SLOTS), CONSTANT(PACK_FRAME_MAX_BYTES), CONSTANT(PACK_BYTES_MAX),
};
/* clang-format on */

int main(int argc, char **argv)
{
	struct document d = {
	    .layouts = layouts, .n_layouts = ARRAY_SIZE(layouts), .constants = constants, .n_constants = ARRAY_SIZE(constants)};

	return document_main(&d, argc, argv);
}
