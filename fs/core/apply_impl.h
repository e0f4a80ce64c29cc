/*
 * apply_impl.h: what the files of apply_record() share: apply.c, apply_names.c (names), apply_data.c (data).
 *
 * Threads and errors: as apply_record() (core.h).
 */
#pragma once

#include "fs/core/core.h"

/* apply_names.c */
MUST_CHECK int apply_mknode(struct fs *fs, const struct record *r);
MUST_CHECK int apply_link(struct fs *fs, const struct record *r);
MUST_CHECK int apply_unlink(struct fs *fs, const struct record *r);
MUST_CHECK int apply_rename(struct fs *fs, const struct record *r);

/* apply_data.c; what becomes of reservations is added to *applied */
MUST_CHECK int apply_write(struct fs *fs, const struct record *r, uint64_t seq, struct applied *applied);
MUST_CHECK int apply_zero(struct fs *fs, const struct record *r, struct applied *applied);
/* Drops what the file has from `block` on; its size stays. */
MUST_CHECK int apply_drop_from(struct fs *fs, struct inode *in, uint64_t block, struct applied *applied);
