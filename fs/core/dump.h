/* dump.h: the index in words, for `clawfs dump` and bug reports. */
#pragma once

#include <stdio.h>

#include "fs/core/fs.h"

/* Every row of the index, a line each (with json: one object a line).  Threads: the volume is open without threads. */
MUST_CHECK int fs_dump_index(struct fs *fs, FILE *out, bool json);
