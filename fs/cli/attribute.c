/*
 * attribute.c: what a verb asks of a daemon and tells it: the extended attributes "clawfs.NAME" of a path on its mount.
 *
 * They are read by getxattr(2), and set by an ioctl where the path can be opened: setxattr(2) would wait behind what it is to
 * end.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "fs/face/control.h"

#define ATTRIBUTE_BYTES_MAX 65536

static void attribute_name(const char *name, char ret[XATTR_NAME_MAX + 1])
{
	snprintf(ret, XATTR_NAME_MAX + 1, "clawfs.%s", name);
}

int attribute_read(const char *path, const char *name, struct buf *ret_text)
{
	char full[XATTR_NAME_MAX + 1];
	char *text = buf_grow(ret_text, ATTRIBUTE_BYTES_MAX + 1);

	if (!text)
		return -ENOMEM;
	attribute_name(name, full);
	ssize_t n = getxattr(path, full, text, ATTRIBUTE_BYTES_MAX);
	if (n < 0)
		return errno == EOPNOTSUPP ? -ENODATA : -errno;
	text[n] = '\0';
	ret_text->len -= ATTRIBUTE_BYTES_MAX + 1 - (size_t)n; /* the NUL stands behind it */
	return 0;
}

int json_parse(const struct buf *text, json_t **ret)
{
	json_t *value = json_loadb((const char *)text->p, text->len, 0, NULL);

	if (!value)
		return -EPROTO;
	*ret = value;
	return 0;
}

int attribute_json(const char *path, const char *name, json_t **ret)
{
	CLEANUP_BUF struct buf text = {0};
	int r = attribute_read(path, name, &text);

	return r < 0 ? r : json_parse(&text, ret);
}

/* -ENOTTY where that is not possible.  setxattr() would wait behind an fsync of `path`, which may wait for what is to be set. */
static int attribute_ioctl(const char *path, unsigned long cmd, const char *full, const char *value)
{
	struct control_ioctl c = {{0}};
	struct stat st;

	if (strlen(full) >= sizeof(c.name) || strlen(value) >= sizeof(c.value))
		return -ENOTTY;
	if (stat(path, &st) < 0 || (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)))
		return -ENOTTY;
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -ENOTTY;
	strcpy(c.name, full);
	strcpy(c.value, value);
	return ioctl(fd, cmd, &c) < 0 ? -errno : 0;
}

int attribute_set(const char *path, const char *name, const char *value)
{
	char full[XATTR_NAME_MAX + 1];

	attribute_name(name, full);
	int r = attribute_ioctl(path, CONTROL_IOCTL_SET, full, value);
	if (r != -ENOTTY)
		return r;
	return setxattr(path, full, value, strlen(value), 0) < 0 ? -errno : 0;
}

int attribute_command(const char *path, const char *name, const char *value)
{
	char full[XATTR_NAME_MAX + 1];

	attribute_name(name, full);
	return attribute_ioctl(path, CONTROL_IOCTL_SET, full, value);
}

int attribute_remove(const char *path, const char *name)
{
	char full[XATTR_NAME_MAX + 1];

	attribute_name(name, full);
	int r = attribute_ioctl(path, CONTROL_IOCTL_REMOVE, full, "");
	if (r == -ENOTTY)
		r = removexattr(path, full) < 0 ? -errno : 0;
	return r == -ENODATA ? 0 : r;
}
