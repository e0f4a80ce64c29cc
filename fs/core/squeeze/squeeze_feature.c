/*
 * squeeze_feature.c: the bit of the superblock that keeps releases away that cannot read packed leaves.
 *
 * And what clones need to know (share/clone.c): whether a recovery may begin with slots packed that have homes of their own by
 * now.
 */
#include "fs/core/replica/impl.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/store/super_format.h"

int squeeze_feature(struct fs *fs)
{
	if (atomic_load(&fs->packing_used))
		return 0;
	int r = replica_set_feature(fs, SUPER_COMPRESSED);
	if (r == 0)
		atomic_store(&fs->packing_used, true);
	return r;
}

/* The next checkpoint to end may have begun before; the one after it has the homes. */
void squeeze_unpacked(struct fs *fs)
{
	atomic_store(&fs->unpacked_until, atomic_load(&fs->checkpoints) + 2);
}

bool squeeze_is_settled(struct fs *fs)
{
	return atomic_load(&fs->checkpoints) >= atomic_load(&fs->unpacked_until);
}
