/*
 * past.h: batches that lie behind what the journal knows, as long as the ring has not come round to them.
 *
 * A mount knows of batches from where its replay began (ship.h).  What was homed before that is in the ring still, and nothing says
 * where.  It is found backwards: the batch before a known point ends at its position, has its seq, and its hash is the point's; so
 * each is as sure as the newest one, and nothing that only looks like a batch, in the data of a file, is taken for one.
 *
 * Ownership: journal_past_free().  Threads: any, one struct each.  Errors: -errno as named.
 */
#pragma once

#include "journal/ship.h"

struct journal_past;

/* Begins before the oldest batch that journal_copy_batch() gives; -ENOMEM. */
MUST_CHECK int journal_past_open(struct journal *j, struct journal_past **ret);
/*
 * The batch before, verified, in memory that is used again.  -ENOENT: it is not there any more, or cannot be read: there is none
 * before it either.  *ret_blocks: how many were read.
 */
MUST_CHECK int journal_past_next(struct journal_past *p, struct batch_info *ret_info, struct batch_view *ret_view,
				 uint64_t *ret_blocks);
void journal_past_free(struct journal_past *p); /* NULL is fine */
