/*
 * mount.c: what concerns the mountpoint: options, letting go of it, and the kernel's cache for it.
 *
 * Root unmounts by itself; anyone else through fusermount3, which is setuid.  Nothing here stats or opens the mountpoint
 * before the workers run: the kernel would wait for an answer that nobody gives.
 */
#include "fs/face/face_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>

#include "base/log.h"
#include "base/program.h"

#define DRAIN_STEP_NS (20 * 1000 * 1000)
#define DRAIN_STEPS   500 /* 10 s */
#define DRAIN_IDLE    5   /* steps without a request that count as drained */

int mount_arguments(const struct face_options *o, struct fuse_args *ret_args)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	char *opts = NULL, *fsname = NULL;
	bool bad = asprintf(&fsname, "fsname=%s", o->fsname) < 0;

	bad = bad || fuse_opt_add_opt_escaped(&opts, fsname) < 0;
	bad = bad || fuse_opt_add_opt(&opts, "subtype=clawfs,default_permissions") < 0;
	/* libfuse starts from nosuid,nodev; mount(8) gives root's mounts both, unless the options say otherwise. */
	if (geteuid() == 0)
		bad = bad || fuse_opt_add_opt(&opts, "suid,dev") < 0;
	if (o->allow_other)
		bad = bad || fuse_opt_add_opt(&opts, "allow_other") < 0;
	if (o->extra_options && *o->extra_options)
		bad = bad || fuse_opt_add_opt(&opts, o->extra_options) < 0;
	if (o->read_only)
		bad = bad || fuse_opt_add_opt(&opts, "ro") < 0;
	bad = bad || fuse_opt_add_arg(&args, "clawfs") < 0 || fuse_opt_add_arg(&args, "-o") < 0 ||
	      fuse_opt_add_arg(&args, opts) < 0;
	free(fsname);
	free(opts);
	if (bad) {
		fuse_opt_free_args(&args);
		return -ENOMEM;
	}
	*ret_args = args;
	return 0;
}

static int run_fusermount(const char *mountpoint, bool lazy)
{
	const char *const argv[] = {"fusermount3", "-u", lazy ? "-qz" : "-q", "--", mountpoint, NULL};
	int status, r = program_run(argv, &status);

	if (r < 0)
		return r;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

static int unmount(const char *mountpoint, int flags)
{
	if (umount2(mountpoint, UMOUNT_NOFOLLOW | flags) == 0)
		return 0;
	return errno == EPERM ? run_fusermount(mountpoint, flags & MNT_DETACH) : -errno;
}

/* Waits until the kernel has had nothing more to ask for a while. */
static void drain(int fuse_fd)
{
	const struct timespec step = {.tv_nsec = DRAIN_STEP_NS};

	for (int i = 0, idle = 0; i < DRAIN_STEPS && idle < DRAIN_IDLE; i++) {
		struct pollfd p = {.fd = fuse_fd, .events = POLLIN};

		if (poll(&p, 1, 0) > 0 && (p.revents & POLLERR)) /* the connection is over */
			return;
		idle = p.revents & POLLIN ? 0 : idle + 1;
		nanosleep(&step, NULL);
	}
}

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static bool mountinfo_path_is(const char *escaped, const char *path)
{
	for (; *escaped; path++) {
		unsigned c = (unsigned char)*escaped;

		if (c == '\\' && sscanf(escaped + 1, "%3o", &c) == 1)
			escaped += 4;
		else
			escaped++;
		if (c != (unsigned char)*path)
			return false;
	}
	return !*path;
}

/* Of several on one place the last counts. */
int mount_find(const char *mountpoint, struct mount_device *ret_device)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	CLEANUP_FREE char *line = NULL;
	size_t cap = 0;
	int r = -ENOENT;

	if (!file)
		return -errno;
	while (getline(&line, &cap, file) > 0) {
		/* id parent major:minor root mountpoint ... */
		char path[4097];
		struct mount_device d;

		if (sscanf(line, "%*d %*d %u:%u %*s %4096s", &d.major, &d.minor, path) == 3 &&
		    mountinfo_path_is(path, mountpoint)) {
			*ret_device = d;
			r = 0;
		}
	}
	fclose(file);
	return r;
}

bool mount_is_there(const struct face *f)
{
	struct mount_device top;

	if (f->device.major == 0 && f->device.minor == 0) /* could not be told: no /proc */
		return f->fd >= 0;
	return mount_find(f->mountpoint, &top) == 0 && top.major == f->device.major && top.minor == f->device.minor;
}

int mount_release(const struct face *f)
{
	return mount_is_there(f) ? unmount(f->mountpoint, 0) : -ENOENT;
}

void mount_detach(const struct face *f)
{
	if (mount_is_there(f)) {
		CLEANUP_FD int fd = open(f->mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (fd >= 0 && syncfs(fd) < 0)
			log_warn("%s: writing cached data before a lazy unmount: %s", f->mountpoint, strerror(errno));
	}
	drain(f->fd);
	/* MNT_FORCE cuts the connection: whoever still has files open gets ENOTCONN. */
	int r = mount_is_there(f) ? unmount(f->mountpoint, MNT_DETACH | MNT_FORCE) : 0;

	if (r < 0)
		log_warn("%s: lazy unmount: %s", f->mountpoint, strerror(-r));
}

static int write_bdi(struct mount_device d, const char *name, unsigned long value)
{
	char path[96], text[32];
	int n = snprintf(text, sizeof(text), "%lu\n", value);

	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/%s", d.major, d.minor, name);
	CLEANUP_FD int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, (size_t)n) != n)
		return -errno;
	return 0;
}

/*
 * What the kernel assumes of a FUSE mount unless told otherwise.
 * Read-ahead of 128 KiB, which INIT can only lower: sequential reads want whole requests.
 * At most one percent of the dirty limit, strictly: writers into the page cache wait for the daemon after a few MiB (a 4 KiB
 * write then takes 4.6 us and not 1.3).  That guards against daemons whose own writes depend on the pages they hold up; this
 * one is marked as an I/O flusher and writes its store past the page cache, so it gets what a disk gets.
 */
void mount_tune(const struct face *f)
{
	static const struct {
		const char *name;
		unsigned long value;
	} settings[] = {{"read_ahead_kb", FACE_IO_MAX / KIB}, {"strict_limit", 0}, {"max_ratio", 100}};

	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		int r = write_bdi(f->device, settings[i].name, settings[i].value);

		if (r < 0)
			log_debug("%s: %s stays as it is: %s", f->mountpoint, settings[i].name, strerror(-r));
	}
}
