/*
 * audit_follow.h: entries of an audit log as they come, for `clawfs audit --follow`.
 *
 * Threads: one.  Errors: -errno of the reader or of `fn`; -EBADMSG: what was acknowledged is not there, or not as it was.
 */
#pragma once

#include "fs/core/audit/verify.h"

struct audit_follow {
	struct audit_source source; /* `any` and the numbers of segments are not used */
	audit_entry_fn *fn;         /* gets each entry once */
	void *ctx;
	uint32_t segment;           /* entries behind `told` are in this one, or later */
	struct audit_chain told;    /* the newest one that was given; n 0: none */
};
/* Where the log is now: before what there is is listed. */
MUST_CHECK int audit_follow_begin(struct audit_follow *f);
/* What is acknowledged and was not told yet.  -EAGAIN: it cannot be read at this moment, ask again. */
MUST_CHECK int audit_follow_step(struct audit_follow *f);
