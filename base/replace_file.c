/* replace_file.c: a temporary file beside it, flushed, renamed over it, and the directory flushed. */
#include "base/replace_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/write_all.h"

int replace_file(int at, const char *name, struct slice content)
{
	char temporary[REPLACE_NAME_MAX + 8];

	if (strlen(name) > REPLACE_NAME_MAX)
		return -ENAMETOOLONG;
	snprintf(temporary, sizeof(temporary), ".%s.new", name);
	if (unlinkat(at, temporary, 0) < 0 && errno != ENOENT)
		return -errno;
	CLEANUP_FD int fd = openat(at, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int r = write_all(fd, content.p, content.len, 0);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(at, temporary, at, name) < 0)
		r = -errno;
	if (r < 0) {
		unlinkat(at, temporary, 0);
		return r;
	}
	return fsync(at) < 0 ? -errno : 0;
}
