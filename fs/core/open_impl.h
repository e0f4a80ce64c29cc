/*
 * open_impl.h: what the files of a volume's beginning and end share: format.c, open.c, close.c.
 */
#pragma once

#include "fs/core/core.h"

/* open.c */
MUST_CHECK int fs_new(const struct fs_config *c, struct fs **ret); /* locks, caches and counters; no I/O */
/* fs->super and the store are there; n_chunks: as many there must be. */
MUST_CHECK int fs_open_arena(struct fs *fs, uint32_t n_chunks);

/* close.c */
void fs_free(struct fs *fs); /* whatever there is of it */
