/*
 * mounts.c: the mount table, and who keeps a mount busy.
 *
 * All of it comes from /proc, because a mount whose daemon is dead or stuck answers no system call: looking it up by path
 * would fail or hang just when it has to be unmounted.
 */
#include "fs/cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/program.h"

#define USERS_PRINTED_MAX 10

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void unescape(char *s)
{
	char *out = s;

	for (; *s; s++) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
			*out++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 3;
		} else {
			*out++ = *s;
		}
	}
	*out = '\0';
}

void mount_entry_free(struct mount_entry *m)
{
	free(m->mountpoint);
	free(m->type);
	free(m->source);
	free(m->options);
	*m = (struct mount_entry){0};
}

/* One line of mountinfo: "36 35 98:0 /root /mountpoint options optional... - type source super-options". */
static bool line_parse(char *line, struct mount_entry *ret)
{
	struct mount_entry m = {0};
	char *tail = strstr(line, " - ");

	if (!tail)
		return false;
	int n = sscanf(line, "%*u %*u %u:%u %*s %ms %ms", &m.major, &m.minor, &m.mountpoint, &m.options);
	int n_tail = sscanf(tail, " - %ms %ms", &m.type, &m.source);
	if (n != 4 || n_tail != 2) {
		mount_entry_free(&m);
		return false;
	}
	unescape(m.mountpoint);
	unescape(m.source);
	*ret = m;
	return true;
}

static int find_exactly(const char *path, struct mount_entry *ret)
{
	CLEANUP_FREE char *line = NULL;
	size_t cap = 0;
	struct mount_entry m, found = {0};
	FILE *f = fopen("/proc/self/mountinfo", "re");

	if (!f)
		return -errno;
	while (getline(&line, &cap, f) > 0) {
		if (!line_parse(line, &m))
			continue;
		if (strcmp(m.mountpoint, path) == 0) {
			mount_entry_free(&found);
			found = m;
		} else {
			mount_entry_free(&m);
		}
	}
	fclose(f);
	if (!found.mountpoint)
		return -ENOENT;
	*ret = found;
	return 0;
}

/* The path with its directory resolved and its last name as given: asks nothing of what is mounted there. */
static int resolve_parent(const char *path, char ret_path[PATH_MAX])
{
	char copy[PATH_MAX], parent[PATH_MAX];
	size_t len = strlen(path);

	while (len > 1 && path[len - 1] == '/')
		len--;
	if (len == 0 || len >= sizeof(copy))
		return -ENOENT;
	memcpy(copy, path, len);
	copy[len] = '\0';
	char *slash = strrchr(copy, '/');
	const char *name = slash ? slash + 1 : copy;
	if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return -ENOENT;
	if (slash)
		*slash = '\0';
	if (!realpath(!slash ? "." : *copy ? copy : "/", parent))
		return -errno;
	if (snprintf(ret_path, PATH_MAX, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, name) >= PATH_MAX)
		return -ENAMETOOLONG;
	return 0;
}

int mounts_find(const char *path, struct mount_entry *ret)
{
	char resolved[PATH_MAX];
	int r = resolve_parent(path, resolved);

	if (r == 0)
		r = find_exactly(resolved, ret);
	if (r == 0)
		return 0;
	if (!realpath(path, resolved))
		return -errno;
	return find_exactly(resolved, ret);
}

bool mount_is_clawfs(const struct mount_entry *m)
{
	return strcmp(m->type, "fuse.clawfs") == 0;
}

/* The newest one of that source; another first field (-o fsname) is found only by its mountpoint. */
static int find_source(const char *dir, char **ret_mountpoint)
{
	CLEANUP_FREE char *line = NULL, *found = NULL;
	size_t cap = 0;
	struct mount_entry m;
	FILE *f = fopen("/proc/self/mountinfo", "re");

	if (!f)
		return -errno;
	while (getline(&line, &cap, f) > 0) {
		if (!line_parse(line, &m))
			continue;
		if (mount_is_clawfs(&m) && strcmp(m.source, dir) == 0) {
			free(found);
			found = TAKE_PTR(m.mountpoint);
		}
		mount_entry_free(&m);
	}
	fclose(f);
	if (!found)
		return -ENOENT;
	*ret_mountpoint = TAKE_PTR(found);
	return 0;
}

int mounts_of_volume(const char *dir, const char *place, char **ret_mountpoint)
{
	struct mount_entry m;

	if (mounts_find(place, &m) == 0) {
		bool here = mount_is_clawfs(&m);

		if (here)
			*ret_mountpoint = TAKE_PTR(m.mountpoint);
		mount_entry_free(&m);
		if (here)
			return 0;
	}
	return find_source(dir, ret_mountpoint);
}

static bool is_below(const char *path, const char *mountpoint)
{
	size_t n = strlen(mountpoint);

	return strncmp(path, mountpoint, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static bool link_is_below(const char *link, const char *mountpoint, char ret_target[PATH_MAX])
{
	ssize_t n = readlink(link, ret_target, PATH_MAX - 1);

	if (n < 0)
		return false;
	ret_target[n] = '\0';
	return is_below(ret_target, mountpoint);
}

/* The first file below the mountpoint that process `pid` holds. */
static bool process_uses(const char *pid, const char *mountpoint, char ret_target[PATH_MAX])
{
	static const char *const links[] = {"cwd", "root", "exe"};
	char path[64 + NAME_MAX];
	bool found = false;

	for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
		snprintf(path, sizeof(path), "/proc/%.20s/%s", pid, links[i]);
		if (link_is_below(path, mountpoint, ret_target))
			return true;
	}
	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	DIR *d = opendir(path);
	for (struct dirent *e; d && !found && (e = readdir(d));) {
		snprintf(path, sizeof(path), "/proc/%.20s/fd/%s", pid, e->d_name);
		found = link_is_below(path, mountpoint, ret_target);
	}
	if (d)
		closedir(d);
	return found;
}

int mounts_print_users(const char *mountpoint)
{
	char target[PATH_MAX], path[64], name[64];
	DIR *d = opendir("/proc");
	int n = 0;

	for (struct dirent *e; d && n < USERS_PRINTED_MAX && (e = readdir(d));) {
		if (e->d_name[0] < '1' || e->d_name[0] > '9' || !process_uses(e->d_name, mountpoint, target))
			continue;
		snprintf(path, sizeof(path), "/proc/%.20s/comm", e->d_name);
		FILE *f = fopen(path, "re");
		if (!f || !fgets(name, sizeof(name), f))
			strcpy(name, "?");
		if (f)
			fclose(f);
		name[strcspn(name, "\n")] = '\0';
		complain("  in use by process %s (%s): %s", e->d_name, name, target);
		n++;
	}
	if (d)
		closedir(d);
	return n;
}

int mounts_detach(const char *mountpoint)
{
	const char *const argv[] = {"fusermount3", "-u", "-q", "--", mountpoint, NULL};
	int status;

	if (umount2(mountpoint, UMOUNT_NOFOLLOW) == 0)
		return 0;
	if (errno != EPERM)
		return -errno;
	int r = program_run(argv, &status);
	if (r < 0)
		return r;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

int mount_flush(const char *mountpoint)
{
	CLEANUP_FD int fd = open(mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	/*
	 * The kernel tells here once of any file whose pages were refused since somebody asked last, perhaps long ago; its writer
	 * hears of it by fsync and close.  What found no room is no reason not to go on with the others.
	 */
	return syncfs(fd) < 0 && errno != EDQUOT && errno != ENOSPC ? -errno : 0;
}
