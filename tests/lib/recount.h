/*
 * recount.h: what is below each directory, counted by walking, against what the volume says of it at once.
 *
 * Threads: one; nobody changes the volume meanwhile.  Errors: 0, or -EUCLEAN with the first difference in words, or -errno.
 */
#pragma once

#include "fs/core/fs.h"

/* Of directory `ino` and each one below it.  A file with several names must count at exactly one of those it has there. */
int recount_check(struct fs *fs, uint64_t ino, char *ret_why, size_t cap);
