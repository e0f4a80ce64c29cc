/* impl.h: what the files of the stores share: stores.c, mark.c, usage.c.  Others use tier.h. */
#pragma once

#include "fs/core/tier/tier.h"
#include "fs/core/tier/stores/usage_format.h"

/* mark.c: 0 when the store says that it is this volume's; -EPERM: another one's; -ENODATA: it says nothing; else as the
 * store failed.  call->message says what. */
MUST_CHECK int stores_check_mark(struct fs *fs, struct object_store *store, struct object_call *call);

/* usage.c: requests used up this month by each store, in a file of this node. */
struct usage_row {
	uint32_t store;
	struct guard_usage usage;
};
struct usage_table {
	uint64_t generation;
	uint32_t n;
	struct usage_row row[USAGE_STORES_MAX];
};
/* A file that is not there, or damaged, is one without rows: counting begins anew, and that is logged. */
void usage_load(struct fs *fs, struct usage_table *ret);
MUST_CHECK int usage_save(struct fs *fs, struct usage_table *t); /* raises the generation */
/* The row of a store, made when there is none; NULL when there are too many. */
struct usage_row *usage_row_of(struct usage_table *t, uint32_t store);
