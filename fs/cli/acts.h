/*
 * acts.h: which verbs are acts of an admin, and how those that work past the daemon get into the audit log.
 *
 * Each verb has one row in acts.c, which says who enters it.  Those that enter themselves do it in the volume's log and under the
 * volume's lock; where a daemon holds that, it is asked to (the attribute clawfs.audit.note).
 * Threads: one.  Errors: what is wrong is printed here.
 */
#pragma once

#include "fs/cli/cli.h"

enum act_kind {
	ACT_UNDECIDED, /* no row: a test fails */
	ACT_NONE,      /* it changes nothing of a volume, and no secret is read */
	ACT_DAEMON,    /* by the daemon: an attribute is set, or a mount made or ended */
	ACT_SELF,      /* by the verb itself */
};
enum act_kind act_kind_of(const char *verb);
const char *act_kind_name(enum act_kind kind);

/* An act under way. */
struct act {
	const char *verb;
	char value[512];
	char *mountpoint;    /* owned; a daemon enters it; NULL: */
	struct store *store; /* the volume, locked */
	bool own_store;      /* opened here */
	uint64_t n;          /* of the entry; 0: there is none */
};
/*
 * Enters that `verb` is about to be done to the volume in `dir`, with `value`; `key` opens an encrypted one.  `place` is what the admin
 * named: DIR or MOUNTPOINT.  On an error nothing must be done.
 */
MUST_CHECK int act_begin(const char *verb, const char *dir, const char *place, const struct data_key *key, const char *value,
			 struct act *ret);
/* The same with a store that the caller has open, locked, and keeps open until act_end(). */
MUST_CHECK int act_begin_in(const char *verb, struct store *store, const char *value, struct act *ret);
/* What came of it: 0, or -errno; `words` (may be NULL) instead of those of the error.  Only says so when it cannot be entered. */
void act_end(struct act *act, int result, const char *words);
/* What came of it was entered otherwise: 0, or -errno. */
void act_leave(struct act *act, int error);
