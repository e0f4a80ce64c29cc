/*
 * level.c: what is to be logged of an inode: the policy "audit" of the nearest directory that has one, else what the mount says.
 *
 *     off | admin | changes      of a file or directory, and of all below that says nothing else
 *
 * The walk goes up the directories as they are at this moment, also while an operation on the inode is under way: the caller may
 * hold stripes.  It never waits for a stripe that somebody else holds, so it can come to no end: -ENOENT, and the caller logs
 * rather more than was asked for than less.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/audit/impl.h"
#include "fs/core/index.h"
#include "fs/core/snap/snap.h"

#define DEPTH_MAX 4096u
#define TRIES     200u /* for a stripe: its holder changes something in memory, or waits for us */

static const char *const names[] = {[FS_AUDIT_OFF] = "off", [FS_AUDIT_ADMIN] = "admin", [FS_AUDIT_CHANGES] = "changes"};

int audit_level_parse(const char *value, enum fs_audit *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(value, names[i]) == 0) {
			*ret = (enum fs_audit)i;
			return 0;
		}
	return -EINVAL;
}

int audit_policy_check(const char *value)
{
	enum fs_audit level;

	return value ? audit_level_parse(value, &level) : 0;
}

/* A copy of an inode; `held`: those whose stripes the caller has. */
static int look_at(struct fs *fs, uint64_t ino, const uint64_t *held, uint32_t n_held, struct inode *ret)
{
	struct inode *in;

	for (uint32_t i = 0; i < n_held; i++) {
		if (!icache_same_stripe(fs->icache, ino, held[i]))
			continue;
		int r = icache_get(fs->icache, ino, &in);
		if (r == 0)
			*ret = *in;
		return r;
	}
	for (unsigned i = 0; i < TRIES; i++) {
		int r = icache_try(fs->icache, ino, ret);

		if (r > 0)
			return 0;
		if (r == 0)
			return index_get_inode(fs->kv, ino, ret);
		sched_yield();
	}
	return -ENOENT;
}

/* -ENODATA: it says nothing. */
static int own_level(struct fs *fs, uint64_t ino, enum fs_audit *ret)
{
	char value[FS_POLICY_MAX + 1];
	int r = fs_get_policy(fs, ino, "audit", false, value);

	return r == 0 && audit_level_parse(value, ret) < 0 ? -ENODATA : r;
}

int audit_level_at(struct fs *fs, uint64_t ino, const uint64_t *held, uint32_t n_held, enum fs_audit *ret)
{
	struct inode in;

	if (ino == 0 || snap_is_ino(ino))
		ino = FS_ROOT_INO;
	for (unsigned depth = 0; depth < DEPTH_MAX; depth++) {
		if (own_level(fs, ino, ret) == 0)
			return 0;
		if (ino == FS_ROOT_INO) {
			*ret = fs->config.audit;
			return 0;
		}
		if (look_at(fs, ino, held, n_held, &in) < 0)
			return -ENOENT;
		/* Which of its names was used cannot be told, and any may be where changes are logged. */
		if (depth == 0 && in.nlink > 1 && !S_ISDIR(in.mode))
			return -ENOENT;
		ino = in.parent;
	}
	return -ENOENT;
}

enum fs_audit audit_level_of(struct fs *fs, uint64_t ino)
{
	enum fs_audit level;

	if (!policies_have(fs, "audit"))
		return fs->config.audit;
	return audit_level_at(fs, ino, NULL, 0, &level) < 0 ? FS_AUDIT_CHANGES : level;
}

const char *fs_audit_level_name(struct fs *fs, uint64_t ino)
{
	return names[audit_level_of(fs, ino)];
}
