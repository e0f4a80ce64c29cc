/*
 * control.c: the admin's extended attributes, as one table.
 *
 * An attribute lives on the root inode or on every inode, and has a getter, a setter, or both.  A name that is not in the
 * table, or not on this inode, does not exist: -ENODATA to read, -EOPNOTSUPP to write.  One without a getter is a
 * command: it reads as unset, and setting it (to anything) carries it out before setxattr(2) returns.
 * Everyone who reaches the inode may read; only root and the owner of the root directory may set.
 */
#include "fs/face/control.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/buf.h"

enum control_scope { SCOPE_ROOT, SCOPE_ANY };

struct control {
	const char *name; /* after "clawfs." */
	enum control_scope scope;
	int (*get)(struct fs *fs, uint64_t ino, struct buf *out); /* NULL: reads as unset */
	int (*set)(struct fs *fs);                                /* NULL: read-only */
};

static int get_status(struct fs *fs, uint64_t ino, struct buf *out)
{
	(void)ino;
	fs_status_json(fs, out);
	return 0;
}

static int get_path(struct fs *fs, uint64_t ino, struct buf *out)
{
	char path[PATH_MAX];

	fs_path(fs, ino, path, sizeof(path));
	buf_put(out, path, strlen(path));
	return 0;
}

static int get_version(struct fs *fs, uint64_t ino, struct buf *out)
{
	(void)fs;
	(void)ino;
	buf_put(out, CLAWFS_VERSION, strlen(CLAWFS_VERSION));
	return 0;
}

static const struct control controls[] = {
    {"checkpoint", SCOPE_ROOT, NULL, fs_checkpoint}, {"path", SCOPE_ANY, get_path, NULL},
    {"status", SCOPE_ROOT, get_status, NULL},        {"sync", SCOPE_ROOT, NULL, fs_sync},
    {"version", SCOPE_ROOT, get_version, NULL},
};

static const struct control *control_find(uint64_t ino, const char *name)
{
	const char *rest = name + strlen("clawfs.");

	for (size_t i = 0; i < ARRAY_SIZE(controls); i++)
		if (strcmp(controls[i].name, rest) == 0)
			return controls[i].scope == SCOPE_ANY || ino == FS_ROOT_INO ? &controls[i] : NULL;
	return NULL;
}

int control_get(struct fs *fs, uint64_t ino, const char *name, void *p, size_t cap, size_t *ret_len)
{
	const struct control *c = control_find(ino, name);
	CLEANUP_BUF struct buf out = {0};

	if (!c || !c->get)
		return -ENODATA;
	int r = c->get(fs, ino, &out);
	if (r < 0)
		return r;
	if (out.failed)
		return -ENOMEM;
	if (cap > 0 && cap < out.len)
		return -ERANGE;
	if (cap > 0 && out.len > 0)
		memcpy(p, out.p, out.len);
	*ret_len = out.len;
	return 0;
}

static int may_set(struct fs *fs, const struct fs_cred *cred)
{
	struct fs_attr root;

	if (cred->uid == 0)
		return 0;
	int r = fs_getattr(fs, FS_ROOT_INO, &root);
	if (r < 0)
		return r;
	return cred->uid == root.uid ? 0 : -EPERM;
}

int control_set(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *name, const void *p, size_t len)
{
	const struct control *c = control_find(ino, name);

	(void)p;
	(void)len;
	if (!c || !c->set)
		return -EOPNOTSUPP;
	int r = may_set(fs, cred);
	return r < 0 ? r : c->set(fs);
}
