/*
 * kv_snapdir.h: the directories in which the snapshots of an index lie: DIR/ID, and DIR/ID.new while one is being made.
 *
 * Durability: snapdir_publish() returns once every file of the new directory, and its name, is durable; a crash before leaves
 * DIR/ID whole or not there.  A removal that a crash cuts leaves DIR/ID.new, which counts for nothing.
 * Threads: one at a time for one DIR.  Errors: -errno of the host.
 */
#pragma once

#include "base/util.h"

char *snapdir_path(const char *dir, uint64_t id); /* malloc'ed; NULL: no memory */
/* Makes `dir` when absent; *ret_path (malloc'ed) is free for somebody to make a directory of.  -EEXIST: there is a snapshot `id`. */
MUST_CHECK int snapdir_prepare(const char *dir, uint64_t id, char **ret_path);
/* What was made there becomes snapshot `id`. */
MUST_CHECK int snapdir_publish(const char *dir, uint64_t id);
/* What was made there, or of it, goes. */
void snapdir_discard(const char *dir, uint64_t id);
MUST_CHECK int snapdir_remove(const char *dir, uint64_t id); /* -ENOENT */
/* Calls fn for each whole one, and removes what unfinished ones left; fn returns 0 to go on. */
MUST_CHECK int snapdir_each(const char *dir, int (*fn)(void *ctx, uint64_t id), void *ctx);
