/*
 * write_all.h: bytes into a file of the host, all of them.
 *
 * Durability: none; flushing is the caller's.  Threads: any.  Errors: -errno of the host, with any part of the bytes written.
 */
#pragma once

#include "base/util.h"

/* `len` bytes at `off`: an interrupted or short write goes on. */
MUST_CHECK int write_all(int fd, const void *p, size_t len, uint64_t off);
