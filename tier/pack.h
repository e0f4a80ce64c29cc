/*
 * pack.h: many leaves of many files as one object: each compressed where that pays, encrypted, and readable by itself.
 *
 * Format (pack_format.h, docs/FORMAT.md): a header that names volume, object and time and holds the object's key, sealed by the
 * volume's; then frames, one a leaf, each with a header of its own in clear (inode, leaf, slots, lengths), so that a reader can
 * begin at any frame, go on from frame to frame, and a rebuild needs nothing but the objects and the volume's key.
 * A frame is bound to volume, object, offset, inode, leaf and slots: it cannot be taken for another one.
 *
 * Encryption: AES-256-GCM with a fresh key for each object and the frame's offset as nonce (NIST SP 800-38D: a nonce never
 * repeats under a key); the key itself sealed with AES-256-GCM by the volume's key, a random nonce, bound to volume and object.
 * Without encryption frames carry XXH64 in the tag's place, which finds accidents and no forgery.  Lengths are in clear either
 * way: who reads the store learns how well each leaf compresses.
 *
 * A hostile store: nothing of an object is believed before its tag is right, nothing is allocated by what it says, and no byte
 * of it reaches the decompressor unverified.  Whether an object may be one that is not encrypted is for the caller to know: from
 * the sealed key that the volume keeps, or, where only the object's own header is left, from the store's definition.
 *
 * Memory: a writer has the object itself, in one piece that starts at 1 MiB and doubles up to max_bytes (large pieces are moved
 * by the kernel, not copied), 56 KiB for what zstd makes and about 300 KiB of zstd's own; a thread that reads keeps 64 KiB and
 * about 100 KiB of zstd's until it ends.
 * Ownership: bytes of a finished pack belong to the writer.  Threads: one at a time for each writer; reading is free of state
 * but for what each thread keeps for the next time.
 * Errors: -EBADMSG a tag, checksum or key that does not fit; -EUCLEAN a structure that cannot be; -EOPNOTSUPP a later version;
 * -ENOMEM; -EIO from the crypto library.
 */
#pragma once

#include <sys/uio.h>

#include "base/util.h"

#define PACK_KEY_BYTES 32u
#define PACK_SEALED_BYTES 60u /* nonce 12, key 32, tag 16 */
#define PACK_SLOTS 16u
#define PACK_LEAF_BYTES (PACK_SLOTS * 4096u)
#define PACK_HEADER_BYTES 4096u
#define PACK_FRAME_HEADER_BYTES 48u
#define PACK_FRAME_MAX_BYTES (PACK_FRAME_HEADER_BYTES + PACK_LEAF_BYTES) /* no frame is longer */
#define PACK_BYTES_MAX (64u * 1024u * 1024u) /* of an object; so offsets fit in 32 bits by far */
#define PACK_BYTES_MIN (PACK_HEADER_BYTES + PACK_FRAME_MAX_BYTES) /* room for any one leaf */

/* Of the volume; random, made once. */
struct pack_volume_key {
	uint8_t bytes[PACK_KEY_BYTES];
};
/* Opens the frames of one object. */
struct pack_key {
	uint8_t volume[16];
	uint64_t object;
	bool encrypted;
	uint8_t bytes[PACK_KEY_BYTES];
};

struct pack_config {
	uint8_t volume[16];
	uint64_t object;      /* not 0 */
	int64_t time_ns;      /* real time, before the first leaf was read: tells a rebuild which of two is newer */
	size_t max_bytes;     /* of the whole object: PACK_BYTES_MIN to PACK_BYTES_MAX, else -EINVAL */
	const struct pack_volume_key *key; /* NULL: not encrypted; not needed once the writer is made */
	/* Key and nonce are made of it: 0 or negative.  NULL: OpenSSL's.  Tests that compare bytes have one of their own. */
	int (*random)(void *p, size_t n);
};
/* Where a leaf's frame lies in the object, its header included. */
struct pack_place {
	uint32_t offset, len;
};

struct pack_writer;
MUST_CHECK int pack_writer_new(const struct pack_config *c, struct pack_writer **ret);
struct pack_writer *pack_writer_free(struct pack_writer *w); /* NULL is fine; keys are wiped */
/*
 * `blocks`: the 4 KiB blocks of the slots in `mask` (not 0), in order; ino is not 0.  Any error: nothing was added, and another
 * leaf may be.  -E2BIG: no room for this one.  Never after pack_finish().
 */
MUST_CHECK int pack_add(struct pack_writer *w, uint64_t ino, uint64_t leaf, uint16_t mask, const uint8_t *blocks,
			struct pack_place *ret);
/*
 * The whole object, borrowed until the writer is freed, and its key as the volume keeps it (zeros when not encrypted).
 * -ENODATA: nothing was added.  Again: the same.
 */
MUST_CHECK int pack_finish(struct pack_writer *w, const uint8_t **ret_p, size_t *ret_len, uint8_t ret_sealed[PACK_SEALED_BYTES]);

/* Opens a sealed key; all zeros: an object not encrypted, and `key` may be NULL.  -EBADMSG: of another volume or object. */
MUST_CHECK int pack_unseal(const uint8_t volume[16], uint64_t object, const struct pack_volume_key *key,
			   const uint8_t sealed[PACK_SEALED_BYTES], struct pack_key *ret);

struct pack_frame {
	uint64_t ino, leaf;
	uint16_t mask;
	uint32_t len; /* in the object, header included */
};
/*
 * What the header of a frame says, which is checked by itself and not authenticated: good for making room.  As pack_read_frame(), and
 * -ENODATA, with *ret set, when only the header is there.
 */
MUST_CHECK int pack_look_frame(uint32_t offset, const uint8_t *p, size_t len, struct pack_frame *ret);
/*
 * The frame at `offset` of the object, whose bytes from there on are [p, p + len), `len` may go beyond the frame: its blocks into
 * `blocks` (room for those of its mask, at most PACK_LEAF_BYTES), verified.  -ENODATA: len ends before the frame does (ret->len is set when its header is
 * there and has a good checksum, else 0; it is at most PACK_FRAME_MAX_BYTES).  After another error ret is as it was, and blocks
 * hold nothing of use.
 */
MUST_CHECK int pack_read_frame(const struct pack_key *key, uint32_t offset, const uint8_t *p, size_t len, struct pack_frame *ret,
			       uint8_t *blocks);

struct pack_header {
	uint8_t volume[16];
	uint64_t object;
	int64_t time_ns;
	uint32_t n_frames, first; /* offset of the first frame */
	uint64_t bytes;           /* of the whole object: at most PACK_BYTES_MAX */
	bool encrypted;
	uint8_t sealed[PACK_SEALED_BYTES];
};
/* The first PACK_HEADER_BYTES of an object: as they are, which is enough to ask for the key and not to be believed. */
MUST_CHECK int pack_read_header(const uint8_t *p, struct pack_header *ret);
/* The same, and that they are those of the object of the key, by their tag.  -EBADMSG: another object, or forged. */
MUST_CHECK int pack_verify_header(const struct pack_key *key, const uint8_t *p, struct pack_header *ret);

/*
 * One frame of a walk.  `error` 0: verified, and `blocks` holds the blocks of f->mask in order, for the call.  -EBADMSG or
 * -EUCLEAN: the frame is damaged, f is what it says of itself, and blocks is NULL.  0 to go on, anything else ends the walk.
 */
typedef int pack_walk_fn(void *ctx, const struct pack_place *place, const struct pack_frame *f, int error, const uint8_t *blocks);
/*
 * Every frame of the object whose first bytes are [p, p + len), in their order, the header verified first: for a rebuild and for
 * checks, which need no index.  What `fn` returned, when not 0; -ENODATA: len ends before the object does (frames that are whole
 * were shown); -EBADMSG or -EUCLEAN: the header, or that of a frame, so that where the next one begins is not known; 0: all of
 * them were shown, damaged ones too.
 */
MUST_CHECK int pack_walk(const struct pack_key *key, const uint8_t *p, size_t len, pack_walk_fn *fn, void *ctx);
