/*
 * snapshots.h: the directory .clawfs/snapshots, and what the kernel is told of inodes in snapshots.
 *
 * mkdir makes a snapshot, rmdir deletes one, each when it is durable; the directory is that of the owner of the volume's root, and the
 * kernel lets nobody else do it.  Below a name is the tree as it was, with the permissions of the originals, served by the volume.
 *
 * Nothing in a snapshot can be changed: EROFS, at once.  On a leader's mount without strict-open one way to try is not noticed at once: its
 * kernel sends no OPEN and caches writes, so write(2) to a file of a snapshot that the caller could write to when it was a file
 * succeeds, and close(2) fails with EIO.  The file then looks as it was written until the kernel looks its name up again, a second later at most: then it gets
 * the same number with another generation, by which it knows that what it has is not that file.
 */
#pragma once

#include "fs/face/face_internal.h"

extern const struct fuse_lowlevel_ops snapshots_ops;

/* The generation of an inode in a snapshot. */
struct spoiled;
MUST_CHECK int spoiled_new(struct spoiled **ret);
struct spoiled *spoiled_free(struct spoiled *s); /* NULL is fine */
uint64_t spoiled_generation(struct spoiled *s, uint64_t ino);
/* The kernel has in its cache what was never there. */
void spoiled_add(struct spoiled *s, uint64_t ino);
#define SNAPSHOT_ENTRY_TIMEOUT_S 1.0
