/*
 * xattr.c: extended attributes, one key each in table X, up to 64 KiB a value.
 *
 * POSIX ACLs are attributes whose value and the file's mode follow each other; a default ACL belongs on directories only.
 * An ACL that says no more than the mode is not kept.
 */
#include "fs/core/xattr.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "fs/core/acl.h"
#include "fs/core/index.h"
#include "fs/core/snap/snap.h"

static int check_name(const char *name)
{
	size_t len = strlen(name);

	return len == 0 ? -EINVAL : len > RECORD_NAME_MAX ? -ERANGE : 0;
}

/* What may be set: the namespaces the kernel knows, and a name within. */
static int check_namespace(const char *name)
{
	static const char *const spaces[] = {"user.", "trusted.", "security."};

	for (size_t i = 0; i < ARRAY_SIZE(spaces); i++)
		if (strncmp(name, spaces[i], strlen(spaces[i])) == 0)
			return name[strlen(spaces[i])] ? 0 : -EINVAL;
	return strcmp(name, ACL_ACCESS) == 0 || strcmp(name, ACL_DEFAULT) == 0 ? 0 : -EOPNOTSUPP;
}

int xattr_read(struct fs *fs, uint64_t ino, const char *name, void *value, size_t cap, size_t *ret_len)
{
	struct index_key k = key_name(TABLE_XATTR, ino, slice_of(name));
	int r = kv_get(fs->kv, key_slice(&k), value, cap, ret_len);

	if (r == -ENOENT)
		return -ENODATA;
	return r == -EBADMSG ? fs_damaged(fs, ino, 0, "extended attribute") : r;
}

int fs_getxattr(struct fs *fs, uint64_t ino, const char *name, void *value, size_t cap, size_t *ret_len)
{
	struct inode in;
	int r = fs_readable(fs);

	if (r == 0 && snap_is_ino(ino))
		return snap_getxattr(fs, ino, name, value, cap, ret_len);
	if (r == 0)
		r = check_name(name);
	if (r == 0)
		r = icache_copy(fs->icache, ino, &in);
	if (r < 0)
		return r;
	if (in.n_xattr == 0)
		return -ENODATA;
	r = xattr_read(fs, ino, name, value, cap, ret_len);
	return r == -ERANGE && cap == 0 ? 0 : r; /* kv_get sets the length all the same */
}

static int exists(struct fs *fs, uint64_t ino, const char *name, bool *ret)
{
	size_t len;
	uint8_t byte;
	int r = xattr_read(fs, ino, name, &byte, sizeof(byte), &len);

	*ret = r != -ENODATA;
	return r == -ENODATA || r == -ERANGE ? 0 : r;
}

static void stamp_xattr(struct fs *fs, const struct fs_cred *cred, struct record *rec, unsigned type, uint64_t ino,
			const char *name, struct slice value)
{
	op_stamp(fs, cred, rec, type, ino);
	rec->xattr.name = slice_of(name);
	rec->xattr.value = value;
}

/* The records that set an ACL: the mode, and the ACL itself or its removal when it says nothing more. */
static int plan_acl(struct fs *fs, const struct fs_cred *cred, const struct inode *in, const char *name, struct slice value,
		    int flags, bool had, struct record *rec, size_t *n)
{
	uint32_t mode = in->mode;
	bool minimal, access = strcmp(name, ACL_ACCESS) == 0;
	int r = acl_to_mode(value.p, value.len, &mode, &minimal);

	if (r < 0)
		return r;
	if (S_ISLNK(in->mode))
		return -EOPNOTSUPP;
	if (!access && !S_ISDIR(in->mode))
		return -EACCES;
	if (flags & FS_XATTR_DROP_SGID)
		mode &= ~(uint32_t)S_ISGID;
	if (access && mode != in->mode) {
		op_stamp(fs, cred, &rec[*n], RECORD_SETATTR, in->ino);
		rec[*n].attr = (struct record_attr){.mask = ATTR_MODE | ATTR_CTIME, .mode = mode, .ctime_ns = rec[*n].time_ns};
		(*n)++;
	}
	if (!access || !minimal)
		stamp_xattr(fs, cred, &rec[(*n)++], RECORD_SETXATTR, in->ino, name, value);
	else if (had)
		stamp_xattr(fs, cred, &rec[(*n)++], RECORD_RMXATTR, in->ino, name, (struct slice){0});
	return 0;
}

static int set_locked(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *name, struct slice value, int flags)
{
	struct record rec[2] = {0};
	struct inode *in;
	size_t n = 0;
	bool had = false;
	int r = icache_get(fs->icache, ino, &in);

	if (r == 0)
		r = exists(fs, ino, name, &had);
	if (r < 0)
		return r;
	if (had && (flags & XATTR_CREATE))
		return -EEXIST;
	if (!had && (flags & XATTR_REPLACE))
		return -ENODATA;
	if (strcmp(name, ACL_ACCESS) == 0 || strcmp(name, ACL_DEFAULT) == 0) {
		r = plan_acl(fs, cred, in, name, value, flags, had, rec, &n);
		if (r < 0)
			return r;
	} else {
		stamp_xattr(fs, cred, &rec[n++], RECORD_SETXATTR, ino, name, value);
	}
	return n ? fs_log(fs, rec, n, 0) : 0;
}

int fs_setxattr(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *name, const void *value, size_t len,
		int flags)
{
	struct lockset ls;
	int r = check_name(name);

	if (r == 0)
		r = check_namespace(name);
	if (r == 0 && len > RECORD_VALUE_MAX)
		r = -E2BIG;
	if (r == 0)
		r = snap_is_ino(ino) ? -EROFS : op_begin(fs);
	if (r < 0)
		return r;
	lockset_lock(fs->icache, &ls, &ino, 1);
	r = set_locked(fs, cred, ino, name, (struct slice){value, len}, flags);
	lockset_unlock(fs->icache, &ls);
	op_end(fs);
	return r;
}

int fs_removexattr(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *name)
{
	struct record rec = {0};
	struct lockset ls;
	bool had = false;
	int r = check_name(name);

	if (r == 0)
		r = snap_is_ino(ino) ? -EROFS : op_begin(fs);
	if (r < 0)
		return r;
	lockset_lock(fs->icache, &ls, &ino, 1);
	r = exists(fs, ino, name, &had);
	if (r == 0 && !had)
		r = -ENODATA;
	if (r == 0) {
		stamp_xattr(fs, cred, &rec, RECORD_RMXATTR, ino, name, (struct slice){0});
		r = fs_log(fs, &rec, 1, 0);
	}
	lockset_unlock(fs->icache, &ls);
	op_end(fs);
	return r;
}

int fs_listxattr(struct fs *fs, uint64_t ino, char *list, size_t cap, size_t *ret_len)
{
	struct index_key k = key_ino(TABLE_XATTR, ino);
	struct kv_iter *it;
	struct inode in;
	size_t len = 0;
	int r = fs_readable(fs);

	*ret_len = 0;
	if (r == 0 && snap_is_ino(ino))
		return snap_listxattr(fs, ino, list, cap, ret_len);
	if (r == 0)
		r = icache_copy(fs->icache, ino, &in);
	if (r < 0 || in.n_xattr == 0)
		return r;
	r = fs->kv->ops->iter_open(fs->kv, &it);
	if (r < 0)
		return r;
	for (fs->kv->ops->iter_seek(it, key_slice(&k)); fs->kv->ops->iter_valid(it); fs->kv->ops->iter_next(it)) {
		struct slice key = fs->kv->ops->iter_key(it);

		if (!key_within(key, TABLE_XATTR, ino))
			break;
		size_t n = key.len - 9;
		if (cap >= len + n + 1) {
			memcpy(list + len, (const char *)key.p + 9, n);
			list[len + n] = '\0';
		}
		len += n + 1;
	}
	r = fs->kv->ops->iter_error(it);
	fs->kv->ops->iter_close(it);
	if (r < 0)
		return fs_damaged(fs, ino, 0, "extended attributes");
	*ret_len = len;
	return cap && len > cap ? -ERANGE : 0;
}
