/*
 * kv_current.h: the one name that tells RocksDB which manifest counts.
 *
 * RocksDB makes a new manifest at each open and at its roll-over, renames CURRENT to name it, and syncs the directory once, after
 * that.  Until then a crash may keep the new CURRENT and lose the name of the manifest, where the host orders names no more than it
 * must; RocksDB then refuses the directory.  As nothing was told to be durable before that sync, and the manifest before is removed
 * only after it, that one still says all that is.
 *
 * Source: what CURRENT and MANIFEST-* hold: RocksDB's wiki, "MANIFEST".  Threads: before the directory is opened, one.
 */
#pragma once

#include "base/util.h"

/*
 * Where CURRENT names a manifest that is not there, it names the newest one before it that is, from now on, and the log says so.
 * 0 also where there is nothing to be done, or nothing that can be: the open says what is wrong then.  Else -errno of the host.
 */
MUST_CHECK int kv_current_mend(const char *dir);
