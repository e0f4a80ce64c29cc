/*
 * squeeze.h: compression of what is stored.  Private to fs/core; fs.h has what the face calls.
 *
 * The policy "compression" says for a directory or file whether the leaves below are *packed*: their data compressed into one run of
 * homes, where that is smaller by an eighth and by a block at least.  Writes know nothing of it: data goes to the journal or to fresh
 * blocks as ever, with its space promised in full, and is packed once it lies at home and a while has passed (squeeze.c says why).
 * Packing is a local matter, like homing: not logged, not replicated, not part of the state that nodes compare.
 *
 * Life of a packed slot: home -> packed -> (changed: staged or a home of its own, no longer packed).  The frame's run goes when no slot
 * is packed in it any more, by way of extent_replaced() as homes do.
 *
 * Threads: any, but where said.  Locks: struct squeeze's are leaves in the order of locks.
 */
#pragma once

#include "fs/core/core.h"
#include "fs/core/squeeze/codec.h"

/* ---- squeeze_policy.c ---- */

struct squeeze_policy {
	bool on;
	enum pack_algorithm algorithm;
	int level; /* of zstd */
};
#define SQUEEZE_LEVEL_DEFAULT 3
#define SQUEEZE_LEVEL_MAX 19
bool squeeze_policy_is(struct slice key);
/* "off", "lz4", "zstd" or "zstd:LEVEL" (1 to SQUEEZE_LEVEL_MAX); NULL unsets it.  -EINVAL. */
MUST_CHECK int squeeze_policy_check(const char *value);
/* What holds for `ino`; a word that a newer version knows and this one does not is "off". */
MUST_CHECK int squeeze_policy_get(struct fs *fs, uint64_t ino, struct squeeze_policy *ret);

/* ---- squeeze.c ---- */

MUST_CHECK int squeeze_open(struct fs *fs); /* before the journal is replayed */
void squeeze_close(struct fs *fs);          /* NULL is fine */
/*
 * Leaves [leaf, leaf + n) of `ino` have data at home that may pay to be packed: by whoever gave it its home.  Remembered when a policy
 * may want that; two loads where there is none.  The inode's stripe may be held.
 */
void squeeze_offer(struct fs *fs, uint64_t ino, uint64_t leaf, uint64_t n);
/* As fs_squeeze_step(), of what has waited long enough. */
MUST_CHECK int squeeze_rested(struct fs *fs, bool *ret_more);
/* At the end of a mount: what waits still, until that time (mono). */
void squeeze_finish(struct fs *fs, int64_t until_ns);
void *squeeze_status_json(struct fs *fs); /* the member "compression" of the status: json_t, new */

/* ---- pack.c ---- */

struct packer; /* memory for PACK_LEAVES leaves */
MUST_CHECK int packer_new(struct packer **ret);
struct packer *packer_free(struct packer *p); /* NULL is fine */
#define PACK_LEAVES 16u
struct squeezed {
	uint64_t n_frames, blocks_before, blocks_after; /* leaves that were packed; slots with data; blocks of the frames */
	uint64_t n_raw;                                 /* leaves for which it does not pay */
};
/*
 * Packs leaves of one file as the policy says, or (policy off) gives their packed slots homes again; n is at most PACK_LEAVES, the leaves
 * rise.  What cannot be done now is left as it is: leaves that change meanwhile, that are staged, cold, damaged or a snapshot's, or for
 * which there is no space.  No lock is held.  Adds to *sum.  Errors end more than one leaf: -EROFS, -ENOMEM, -EIO.
 */
MUST_CHECK int pack_leaves(struct fs *fs, struct packer *p, const struct squeeze_policy *policy, uint64_t ino, const uint64_t *leaf,
			   uint32_t n, struct squeezed *sum);
/*
 * A follower's: the packed slots of a leaf get homes again, before a record of its leader shares them.  follow_lock is held.  0 also
 * where that was not possible; the caller looks.
 */
MUST_CHECK int unpack_leaf(struct fs *fs, uint64_t ino, uint64_t leaf);
/* Whether pack_leaves() would look at the data at all. */
bool pack_wanted(struct fs *fs, const struct leaf *l, bool on);

/* ---- packed.c ---- */

MUST_CHECK int packed_open(struct fs *fs);
void packed_close(struct fs *fs); /* NULL is fine */
/*
 * The data of the packed slots in `mask` to `blocks`, slot i at (i - first) blocks; *ret_good are those whose data has its CRC.
 * 0, with *ret_good less than `mask` where data is damaged; -EIO, -EUCLEAN, -EBADMSG: the frame cannot be read or unpacked, nothing is
 * good; -ENOMEM.  `first` LEAF_SLOTS: no data is wanted.  The stripe is held, as a reader
 * holds it.
 */
MUST_CHECK int packed_read(struct fs *fs, const struct leaf *l, uint16_t mask, unsigned first, uint8_t *blocks, uint16_t *ret_good);
/* The same past the memory of frames read before: from the disk. */
MUST_CHECK int packed_verify(struct fs *fs, const struct leaf *l, uint16_t mask, unsigned first, uint8_t *blocks, uint16_t *ret_good);

/* ---- squeeze_feature.c ---- */

/* Durably, before the first packed leaf is here: older releases refuse the volume. */
MUST_CHECK int squeeze_feature(struct fs *fs);
/* Packed slots get homes, or may get some later, without a record; called before, with the stripe held that clones of them take. */
void squeeze_unpacked(struct fs *fs);
/* Whether what was unpacked is so in every index that a recovery can begin with.  Two loads. */
bool squeeze_is_settled(struct fs *fs);
