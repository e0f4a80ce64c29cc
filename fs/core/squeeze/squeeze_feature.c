/*
 * squeeze_feature.c: the bit of the superblock that keeps releases away that cannot read packed leaves.
 *
 * It tells one thing more: a node that never packed anything has no packed leaf in any index that a recovery begins with.
 */
#include "fs/core/replica/impl.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/store/super_format.h"

static int set_feature(struct fs *fs, struct super *s, uint64_t bit)
{
	(void)fs;
	s->incompat |= bit;
	return 0;
}

int squeeze_feature(struct fs *fs)
{
	if (squeeze_was_used(fs))
		return 0;
	int r = replica_change_super(fs, set_feature, SUPER_COMPRESSED);
	if (r == 0)
		atomic_store(&fs->packing_used, true);
	return r;
}

bool squeeze_was_used(struct fs *fs)
{
	return atomic_load(&fs->packing_used);
}
