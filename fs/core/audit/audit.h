/*
 * audit.h: what admins do on this node, and if asked for every change, in the audit log.
 *
 *     an act     entry "act" before it is carried out, entry "result" before it is answered; both are durable then
 *     a change   entry "change" for each record of the journal, at most a second after it was settled (archive.c)
 *     a refusal  entry "refused" before it is answered, as long as there are not too many of them (refused.c)
 *
 * Which of these, is said for the volume by its mount and for any directory by a policy (level.c, wanted.c).
 *
 * An act is one of this node: the log is not replicated, for a follower has acts of its own and a journal that is its leader's.  Each
 * entry of an act names the newest durable batch and its hash, each change its batch's, so the log is tied to the journal.
 *
 * When the log cannot be written the volume goes on: what is missing is counted, and the log says how much once it can be written
 * again.  With `audit_strict` an act that cannot be logged is not carried out.
 * Threads: any; the log is written under one lock, which is held over I/O.  Entries: docs/FORMAT.md, "Audit log".
 */
#pragma once

#include <jansson.h>

#include "fs/core/fs.h"

#define AUDIT_SEGMENT_BYTES MIB
#define AUDIT_KEEP_DEFAULT  (64 * MIB)
#define AUDIT_VALUE_MAX     1024u /* bytes of a value that are logged */

MUST_CHECK int audit_open(struct fs *fs); /* the journal runs; a log that cannot be opened is tried again with each entry */
void audit_finish(struct fs *fs);         /* all that is settled is archived, and the log is closed */
void audit_close(struct fs *fs);          /* NULL is fine */
/* archive.c, a step of the service "audit": until all settled records are in the log, when changes are logged. */
MUST_CHECK int audit_archive(struct fs *fs);

/* refused.c, of the same service: how many refusals were not entered one by one, when that is due or at the `end`. */
void audit_tell_suppressed(struct fs *fs, bool end);

/* Members "audit" of the status. */
json_t *audit_status_json(struct fs *fs);
