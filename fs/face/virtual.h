/*
 * virtual.h: the directory .clawfs of the mount's root: what the daemon shows as files and is no part of the volume.
 *
 * Reachable by name, never listed in the root.  Its entries are the rows of virtual_rows[] (virtual_rows.c), each one of two
 * kinds:
 *
 *     a generated file: `make` writes its text when its name is looked up.
 *     a subtree:        `tree` serves everything below, as a table of FUSE operations of its own.
 *
 * Numbers.  Bit 63 marks a node of this directory; inodes of a volume stay below 2^62 (records of a leader with more are refused, and
 * counting there from 1 takes longer than the hardware lasts).  With bit 62 besides it is an inode in a snapshot, which the volume
 * serves like its own (fs/core/snap/snap.h).  Without, bits 56 to 61 are the row (0: the directory itself), the rest belongs to
 * the row.  A subtree's own directory is 0 there.
 *
 * Fresh contents.  The kernel of a leader's mount, as it owns sizes there, believes the size of a regular file only
 * when it meets its number for the first time.  So each lookup of a generated file makes a text, and answers with a number that
 * was never used before; st_ino stays the same.  The name is believed for no time at all, so each open(2) sees a new text, with its
 * true size; whoever has it open can read it as often and map it, and finds the same.
 *
 * Memory.  A text lives until the kernel forgets its number, but only the newest VIRTUAL_TEXTS_MAX and VIRTUAL_BYTES_MAX of them are
 * kept: reading an older one fails with ESTALE.  So nobody can make others see old texts, or the daemon grow, by holding files open.
 *
 * Changes.  Nothing can be created, removed or renamed in .clawfs, nor .clawfs itself: EPERM; creating it: EEXIST.  A volume may have
 * a real entry of that name in its root, made before the name was taken.  It is not listed, and is the entry .clawfs/shadowed
 * instead, which can be removed, or renamed to another place of the volume.
 *
 * Threads: any.  Requests for nodes of this directory are served whatever fs_readable() says; a tree that reads the volume asks it.
 */
#pragma once

#include "fs/face/face_internal.h"

#define VIRTUAL_NAME      ".clawfs"
#define VIRTUAL_SHADOWED  "shadowed"
#define VIRTUAL_BIT       (UINT64_C(1) << 63)
#define VIRTUAL_ROW_SHIFT 56u
#define VIRTUAL_OWN_MASK  ((UINT64_C(1) << VIRTUAL_ROW_SHIFT) - 1)
#define VIRTUAL_DIR       VIRTUAL_BIT /* .clawfs itself */
#define VIRTUAL_TEXTS_MAX 256u
#define VIRTUAL_BYTES_MAX (16 * MIB)

struct virtual_row {
	const char *name;
	uint32_t mode; /* type and permissions; it belongs to the owner of the root directory */
	/* Appends the text; 0 or -errno, which the lookup fails with. */
	int (*make)(struct face *f, struct buf *out);
	/*
	 * Serves the nodes of this row, as the functions of ops_*.c serve those of the volume; must have getattr.  Members that are NULL
	 * refuse: ENOENT for lookup, ENODATA for getxattr, EPERM for changes; open, opendir, flush, fsync, statfs and listxattr (an empty
	 * list) are fine.  A directory that changes by itself needs an mtime that moves and timeouts of 0, or the kernel
	 * goes on showing its old list.  Its `lookup` of "." in its own directory is what a lookup of the row's name answers.
	 */
	const struct fuse_lowlevel_ops *tree;
	/* The kernel gave up `n` of its references to a node of the tree, one for each entry it was given; NULL: they are not counted. */
	void (*forget)(struct face *f, uint64_t ino, uint64_t n);
};
extern const struct virtual_row virtual_rows[]; /* row 0 is nobody's */
extern const size_t n_virtual_rows;             /* 64 at most */

static inline bool virtual_is(uint64_t ino)
{
	return ino >> 62 == VIRTUAL_BIT >> 62;
}
static inline uint64_t virtual_ino(unsigned row, uint64_t own)
{
	return VIRTUAL_BIT | (uint64_t)row << VIRTUAL_ROW_SHIFT | (own & VIRTUAL_OWN_MASK);
}
static inline unsigned virtual_row_of(uint64_t ino)
{
	return (unsigned)((ino & ~VIRTUAL_BIT) >> VIRTUAL_ROW_SHIFT);
}
/* The name that the directory has in the root. */
static inline bool virtual_is_name(uint64_t parent, const char *name)
{
	return parent == FS_ROOT_INO && __builtin_strcmp(name, VIRTUAL_NAME) == 0;
}

/* What serves node `ino`; NULL for one of the volume. */
const struct fuse_lowlevel_ops *virtual_ops(uint64_t ino);
/* The kernel gave up `n` of its references to node `ino`. */
void virtual_forget(struct face *f, uint64_t ino, uint64_t n);
/* Answers the lookup of .clawfs in the root. */
void virtual_reply_dir(fuse_req_t req);
/* Attributes of a node of a row with `mode` and size 0, owned by the owner of the root directory; times are those of the root. */
void virtual_attr(struct face *f, uint64_t ino, uint32_t mode, struct fs_attr *ret);
/* A request that reads no volume: not refused while that is not readable. */
bool virtual_request(const struct fuse_in_header *h);

/* virtual_text.c: the texts of generated files that the kernel knows */
struct virtual_texts;
MUST_CHECK int virtual_texts_new(struct virtual_texts **ret);
struct virtual_texts *virtual_texts_free(struct virtual_texts *t); /* NULL is fine */
/* Takes the memory of `text` and makes its number, with one reference. */
MUST_CHECK int virtual_text_add(struct virtual_texts *t, unsigned row, struct buf *text, uint64_t *ret_ino);
void virtual_text_ref(struct virtual_texts *t, uint64_t ino);
void virtual_text_forget(struct virtual_texts *t, uint64_t ino, uint64_t n);
/* -ESTALE: not known. */
MUST_CHECK int virtual_text_stat(struct virtual_texts *t, uint64_t ino, uint64_t *ret_size, int64_t *ret_made_ns);
/* Up to `cap` bytes at `off`; -ESTALE: not kept any more. */
MUST_CHECK int virtual_text_read(struct virtual_texts *t, uint64_t ino, uint64_t off, size_t cap, void *p, size_t *ret_len);
