/* snap_check.h: fsck's look at snapshots and deadlists. */
#pragma once

#include "fs/core/core.h"

struct snap_check {
	struct fs *fs;
	bool verify_data;
	uint64_t n_blocks;
	const uint64_t *live;     /* a bit a block: the live tree has it */
	uint64_t *dead;           /* set here: a deadlist has it */
	uint64_t *bytes_verified; /* added to */
	void (*found)(void *ctx, bool accounting, const char *line);
	void (*damaged)(void *ctx); /* one more block is; found() is called besides */
	void *ctx;
};
/* The volume is open without threads, the caches are saved.  Errors are those of the live index; what is wrong is told. */
MUST_CHECK int snap_check_blocks(struct snap_check *c);
