/*
 * super.h: reading, checking and writing the superblock.
 *
 * Durability: super_write() returns once the new copy is flushed; the old copy stays valid until then.
 * Threads: one at a time.
 * Errors: -ENODATA no superblock at all (not a volume), -EBADMSG both copies damaged, -EPROTONOSUPPORT written by a newer
 * clawfs, -EUCLEAN impossible geometry or flags.  Each logs one line that tells the admin what to do.
 */
#pragma once

#include "base/disk.h"

struct super {
	uint8_t volume[16], node[16];
	uint64_t compat, ro_compat, incompat;
	uint64_t generation, epoch, incarnation;
	bool clean;
	bool follower, resyncing, save, differs; /* SUPER_*: the last three only of a follower */
	uint32_t node_id;
	uint64_t fence;
	uint64_t window;               /* not 0: at most fence */
	uint64_t cut, cut_incarnation; /* both or none */
	uint64_t offered; /* epoch; 0: none */
	uint32_t journal_segments, journal_segment_kib, chunk_kib;
	uint64_t max_blocks, host_reserve;
	int64_t created_ns;
	char label[64 + 1];
	uint32_t version;
	/* How it was read: which of the copies 0 and 1 were valid. */
	bool copy_valid[2];
};

/* Creates the file `super` with both copies; -EEXIST. */
MUST_CHECK int super_create(struct store *store, const struct super *s);
MUST_CHECK int super_read(struct store *store, struct super *ret);
/* The same without a word in the log, for who looks at a volume that is open: -EBADMSG when neither copy is whole. */
MUST_CHECK int super_peek(struct store *store, struct super *ret);
/* generation + 1, into the other copy. */
MUST_CHECK int super_write(struct store *store, struct super *s);
/* A whole copy as read from disk; for super_read, fuzzing and fsck. */
MUST_CHECK int super_decode(const void *block, struct super *ret);

#define UUID_TEXT 37
void uuid_text(const uint8_t uuid[16], char ret_text[UUID_TEXT]);
MUST_CHECK int uuid_random(uint8_t ret_uuid[16]);
