/*
 * umount_helper.c: the program as umount(8) calls it for mounts of the type fuse.clawfs, under the name umount.fuse.clawfs.
 *
 * So systemd's units for the lines of fstab end when the volume is closed, as `clawfs umount` does; without it they end as soon
 * as the kernel has let go of the mount, and what lies below the store is unmounted, or the volume mounted again, while the
 * daemon writes its last checkpoint.  systemd calls umount(8) with -c; without it libmount 2.38 does not read the mount table
 * where it need not, and then knows no type and looks for no helper.
 *
 * Lazy and forced unmounts are for mounts that do not answer: they ask the daemon nothing and wait for nobody.  The exit code is
 * about the mount, as umount(8) has it: 0 it is gone, whatever is said about the volume; 32 it is still there.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/program.h"

#define WAIT_NS (60 * (uint64_t)NSEC_PER_SEC) /* as `clawfs umount` */

/* -N: the mount is in another mount namespace. */
static int enter(const char *ns)
{
	CLEANUP_FD int fd = open(ns, O_RDONLY | O_CLOEXEC);

	return fd < 0 || setns(fd, CLONE_NEWNS) < 0 ? -errno : 0;
}

/* umount(8) puts the target first; -n, -v, -r and -t change nothing here. */
static int parse(int argc, char **argv, int *ret_flags, const char **ret_ns)
{
	int c;

	*ret_flags = 0;
	*ret_ns = NULL;
	while ((c = getopt(argc, argv, "nlfvrN:t:")) != -1) {
		if (c == '?')
			return -EINVAL; /* getopt has said why */
		if (c == 'l')
			*ret_flags |= MNT_DETACH;
		else if (c == 'f')
			*ret_flags |= MNT_FORCE;
		else if (c == 'N')
			*ret_ns = optarg;
	}
	if (argc - optind == 1)
		return 0;
	complain("usage: umount.fuse.clawfs MOUNTPOINT [-flnrv] [-N NS] [-t TYPE]");
	return -EINVAL;
}

static bool is_there(const char *mountpoint, struct mount_entry *m)
{
	if (mounts_find(mountpoint, m) < 0)
		return false;
	if (mount_is_clawfs(m))
		return true;
	mount_entry_free(m);
	return false;
}

/* The same mount as `was`, and not what was below it. */
static bool is_still_there(const struct mount_entry *was)
{
	struct mount_entry now;

	if (!is_there(was->mountpoint, &now))
		return false;
	const bool same = now.major == was->major && now.minor == was->minor;
	mount_entry_free(&now);
	return same;
}

static int unmount_asking_nobody(const char *mountpoint, int flags)
{
	const char *const argv[] = {"fusermount3", "-u", flags & MNT_DETACH ? "-qz" : "-q", "--", mountpoint, NULL};
	int status, r = umount2(mountpoint, flags | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;

	if (r == -EPERM && program_run(argv, &status) == 0)
		r = WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
	if (r == 0)
		return EXIT_OK;
	complain("cannot unmount %s: %s", mountpoint, strerror(-r));
	return EXIT_MOUNT;
}

static int unmount(const struct mount_entry *m, int flags)
{
	const struct args a = {.operand = {m->mountpoint}, .n_operands = 1, .timeout_ns = WAIT_NS};

	if (flags)
		return unmount_asking_nobody(m->mountpoint, flags);
	return verb_umount(&a) != EXIT_OK && is_still_there(m) ? EXIT_MOUNT : EXIT_OK;
}

int umount_helper(int argc, char **argv)
{
	struct mount_entry m;
	const char *ns;
	int flags, r;

	if (parse(argc, argv, &flags, &ns) < 0)
		return EXIT_MOUNT;
	const char *target = argv[optind];
	if (ns && (r = enter(ns)) < 0) {
		complain("%s: cannot enter that mount namespace: %s", ns, strerror(-r));
		return EXIT_MOUNT;
	}
	if (!is_there(target, &m)) {
		complain("%s: no clawfs volume is mounted here", target);
		return EXIT_MOUNT;
	}
	const int code = unmount(&m, flags);
	mount_entry_free(&m);
	return code;
}
