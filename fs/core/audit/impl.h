/*
 * impl.h: what audit.c and archive.c share.
 */
#pragma once

#include "base/lock.h"
#include "fs/core/audit/audit.h"
#include "fs/core/audit/log.h"
#include "fs/core/core.h"
#include "fs/core/feed/feed.h"
#include "journal/ship.h"

struct audit {
	struct fs *fs;
	struct mutex lock; /* guards all below, and is held over I/O */
	struct audit_log *log; /* NULL: it could not be opened, or was closed */
	bool finished;
	/* Records up to here are archived or, without changes, passed over. */
	struct feed_place place;
	bool was_changes; /* the newest entry says that changes are logged */
	char carried[128];
	struct feed_names *names; /* of the archiver */
	_Atomic uint64_t floor; /* the batch behind `place` while changes are logged, else 0: for a checkpoint, which must not wait here */
	uint64_t entries, lost, lost_now, changes; /* lost_now: since the last entry that was written */
	int error;                                 /* of the newest attempt */
	char damage[256];                          /* found when it was opened */
};

/* Writes `n` entries; counts what is lost otherwise.  -errno. */
MUST_CHECK int audit_write_locked(struct audit *a, const struct slice *members, size_t n, uint64_t *ret_n) REQUIRES(a->lock);
/* What anchors carry: where the archive is. */
void audit_carry_locked(struct audit *a) REQUIRES(a->lock);
