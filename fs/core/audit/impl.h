/*
 * impl.h: what the files of the audit log share.
 */
#pragma once

#include "base/lock.h"
#include "fs/core/audit/audit.h"
#include "fs/core/audit/log.h"
#include "fs/core/audit/wanted.h"
#include "fs/core/core.h"
#include "fs/core/feed/feed.h"
#include "journal/ship.h"

/* refused.c: how many entries of refusals may still be written; one more comes with each interval, up to a burst. */
struct audit_allowance {
	uint32_t left;
	int64_t since_ns; /* mono: when it was last added to */
};
#define AUDIT_USERS 16u
struct audit_refusals {
	struct mutex lock;
	/* guarded by lock */
	struct {
		bool used;
		uint32_t uid;
		struct audit_allowance allowance;
		int64_t seen_ns; /* mono */
	} user[AUDIT_USERS];
	struct audit_allowance all;
	uint64_t refused, suppressed;  /* since the mount */
	uint64_t untold;               /* suppressed, and in no entry yet */
	int64_t untold_real_ns;        /* the first of them */
	int64_t told_ns;               /* mono: of the newest such entry */
};

struct audit {
	struct fs *fs;
	struct audit_wanted wanted;
	struct audit_refusals refusals;
	struct mutex lock; /* guards all below, and is held over I/O */
	struct audit_log *log; /* NULL: it could not be opened, or was closed */
	bool finished;
	bool begun; /* the log has entries */
	/* Records up to here are archived or, without changes, passed over. */
	struct feed_place place;
	uint64_t kept_seq;      /* as the log has it */
	int64_t kept_ns;        /* mono: since then */
	enum audit_scope told;  /* what the log says is logged */
	char carried[128];
	struct feed_names *names; /* of the archiver */
	_Atomic uint64_t floor; /* the batch behind `place` while changes are logged, else 0: for a checkpoint, which must not wait here */
	uint64_t entries, lost, lost_now, changes; /* lost_now: since the last entry that was written */
	int error;                                 /* of the newest attempt */
	char damage[256];                          /* found when it was opened */
};

/* Writes `n` entries; counts what is lost otherwise.  -errno. */
MUST_CHECK int audit_write_locked(struct audit *a, const struct slice *members, size_t n, uint64_t *ret_n) REQUIRES(a->lock);
/* One entry, of the members of `object` (NULL: -ENOMEM), which stays the caller's; *ret_n (may be NULL) is its number. */
MUST_CHECK int audit_write_object(struct audit *a, json_t *object, uint64_t *ret_n) EXCLUDES(a->lock);
/* What anchors carry: where the archive is. */
void audit_carry_locked(struct audit *a) REQUIRES(a->lock);
/* An entry of the newest segment, for audit_log_open(): what it says of `told` and `place` of the struct audit. */
int audit_recall_entry(void *audit, const struct audit_line *line, const json_t *body);
/* The log is to say what is logged from here on, when that has changed. */
MUST_CHECK int audit_follow_scope_locked(struct audit *a) REQUIRES(a->lock);
/* The log is to say where the archive is, when that is due or `now`. */
MUST_CHECK int audit_keep_place_locked(struct audit *a, bool now) REQUIRES(a->lock);

/* "kind" and "time", and who did it. */
json_t *audit_entry_new(const struct clock *clock, const char *kind, const struct fs_cred *who);
/* "what", and of an inode (0: none) number and path. */
void audit_entry_what(struct fs *fs, json_t *object, const char *what, uint64_t ino);

/* refused.c */
void audit_refusals_open(struct audit *a);
void audit_refusals_close(struct audit *a);
void audit_refusals_status(struct audit *a, json_t *status);
