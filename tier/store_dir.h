/*
 * store_dir.h: a directory of the host as an object store (object.h): an object is a file, a key its path below the root.
 *
 * Durability: put() writes a temporary file beside the object, flushes it, reads it back (past the page cache where the host lets
 * us) and compares it byte for byte, then renames it and flushes the directory, and each directory it is in when this process uses
 * that for the first time.  `verified` is set by that comparison.  remove() flushes the directory.
 * The root: found anew for each call, so an admin can unmount it while nothing is under way, and a disk that comes back is used
 * again.  A marker file tells the store from an empty mountpoint: without it every call is -ENODEV, and nothing is written.
 * Below the root no symbolic link is followed: -EACCES.
 * Keys: a part is a file's name (255 bytes at most), and an object cannot lie below another one: -EINVAL.
 * OBJECT_CREATE: exact where the host can rename without replacing, or link; else -EOPNOTSUPP.
 * Deadlines: looked at between pieces of 1 MiB and between directories; what hangs in the host cannot be interrupted.
 * Lists: names are read at most 4096 at a time; a larger directory is read several times.
 * Leftovers: temporary files of writers that died go when they are a day old and nobody holds them, whenever their directory is
 * listed, or used for the first time.
 *
 * Format of a store: docs/FORMAT.md.  Several stores, processes and hosts may use one directory at once.
 * Ownership, threads, errors: as object.h says.
 */
#pragma once

#include "base/clock.h"
#include "tier/object.h"

struct store_dir_config {
	const char *path;          /* absolute; copied */
	const struct clock *clock; /* borrowed; NULL: the system's */
	/*
	 * First use: makes the directory (not its parents) and the marker when there is none.  A directory that holds anything else
	 * is -EEXIST.
	 */
	bool create;
};

/*
 * Without `create` nothing is looked at: a store whose disk is away is opened too.  -EINVAL, -ENOMEM; with `create` also what
 * object.h lists.  `message` (OBJECT_MESSAGE_MAX of room) gets what is wrong, or "".
 */
MUST_CHECK int store_dir_open(const struct store_dir_config *c, struct object_store **ret, char *message);
