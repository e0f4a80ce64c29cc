/* kv_current.c: see kv_current.h. */
#include "fs/store/kv_current.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/replace_file.h"

#define PREFIX     "MANIFEST-"
#define DIGITS_MAX 19
#define NAME_BYTES 32

/* "MANIFEST-000005" and nothing behind it. */
static bool manifest_number(const char *name, uint64_t *ret)
{
	const char *digits = name + strlen(PREFIX);

	if (strncmp(name, PREFIX, strlen(PREFIX)) != 0)
		return false;
	size_t n = strspn(digits, "0123456789");
	*ret = 0;
	for (size_t i = 0; i < n && n <= DIGITS_MAX; i++)
		*ret = *ret * 10 + (uint64_t)(digits[i] - '0');
	return n > 0 && n <= DIGITS_MAX && digits[n] == '\0';
}

/* The name that CURRENT holds: a line. */
static bool read_current(int at, char ret_name[NAME_BYTES], uint64_t *ret_number)
{
	CLEANUP_FD int fd = openat(at, "CURRENT", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n = fd < 0 ? -1 : read(fd, ret_name, NAME_BYTES - 1);

	if (n <= 0 || ret_name[n - 1] != '\n')
		return false;
	ret_name[n - 1] = '\0';
	return manifest_number(ret_name, ret_number);
}

/* The newest manifest before `number`; false: there is none. */
static int find_before(int at, uint64_t number, char ret_name[NAME_BYTES], bool *ret_found)
{
	int fd = openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	uint64_t best = 0, n;
	struct dirent *e;

	*ret_found = false;
	if (!dir) {
		int r = -errno;

		if (fd >= 0)
			close(fd);
		return r;
	}
	while ((errno = 0, e = readdir(dir))) {
		if (!manifest_number(e->d_name, &n) || n >= number || (*ret_found && n <= best))
			continue;
		best = n;
		*ret_found = true;
		memcpy(ret_name, e->d_name, strlen(e->d_name) + 1); /* as long as DIGITS_MAX lets it be */
	}
	int r = -errno;
	closedir(dir);
	return r;
}

int kv_current_mend(const char *dir)
{
	CLEANUP_FD int at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	char named[NAME_BYTES], before[NAME_BYTES], line[NAME_BYTES + 1];
	uint64_t number;
	struct stat st;
	bool found;

	if (at < 0 || !read_current(at, named, &number) || fstatat(at, named, &st, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT)
		return 0;
	int r = find_before(at, number, before, &found);
	if (r < 0 || !found)
		return r;
	log_warn("index '%s': %s is not there, as after a crash while it was made: going on with %s", dir, named, before);
	snprintf(line, sizeof(line), "%s\n", before);
	return replace_file(at, "CURRENT", (struct slice){line, strlen(line)});
}
