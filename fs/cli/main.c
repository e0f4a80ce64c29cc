/*
 * main.c: the `clawfs` program: finds the verb, parses its options and runs it.
 *
 * Three ways in: `clawfs VERB ...`; `clawfs SOURCE MOUNTPOINT -o ...`, which is how `mount -t fuse.clawfs` and fstab call it;
 * and the same under the name mount.clawfs, which is how `mount -t clawfs` does.  In the last two every failure is exit 32,
 * as mount(8) wants it of a helper.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

const struct verb verbs[] = {
    {"format", VERB_FORMAT, "DIR", 1, "make a volume in a new or empty directory",
     "Creates DIR when it is not there, writes the journal and the first chunk with zeros and, last of all, the superblock.\n"
     "A directory that holds anything else is refused.  Exit codes: 0 made; 1 not made; 16 wrong usage.",
     verb_format},
    {"mount", VERB_MOUNT, "DIR MOUNTPOINT", 2, "mount the volume in DIR",
     "Returns once the volume is mounted and answers; a daemon then serves it until it is unmounted or gets SIGTERM.\n"
     "Exit codes: 0 mounted; 16 wrong usage; 32 not mounted.  With --foreground: 0 ended cleanly; 1 ended with an error.",
     verb_mount},
    {"umount", VERB_UMOUNT, "MOUNTPOINT", 1, "unmount, and wait until everything is on disk",
     "Returns once the daemon has written its last checkpoint and let go of the store.\n"
     "Exit codes: 0 unmounted; 1 busy (the processes in the way are named), late, or not closed cleanly; 16 wrong usage.",
     verb_umount},
    {"status", VERB_STATUS, "MOUNTPOINT", 1, "how a mounted volume does",
     "The same as the extended attribute clawfs.status.  Exit codes: 0 printed; 1 not a mounted volume; 16 wrong usage.",
     verb_status},
    {"info", VERB_INFO, "MOUNTPOINT", 1, "what a volume is: names, format, geometry",
     "MOUNTPOINT may also be the directory of a volume that is not mounted.\n"
     "Exit codes: 0 printed; 1 not a volume; 16 wrong usage.",
     verb_info},
    {"sync", VERB_SYNC, "MOUNTPOINT", 1, "make everything written so far durable",
     "sync(2) does not reach a filesystem in user space; this does.  Exit codes: 0 durable; 1 not; 16 wrong usage.", verb_sync},
    {"fsck", VERB_FSCK, "DIR", 1, "check a volume that is not mounted",
     "Replays the journal as a mount does, then compares index, allocation, link counts and the checksum of every block.\n"
     "Exit codes: 0 clean; 1 repaired; 4 damaged; 8 could not check; 16 wrong usage.",
     verb_fsck},
    {"dump", VERB_DUMP, "DIR", 1, "print what is on disk in a volume that is not mounted",
     "Superblock, journal and index; all of them unless some are named.  Writes nothing.  With --json: one object a line.\n"
     "Exit codes: 0 printed; 1 could not read; 4 damage was found; 16 wrong usage.",
     verb_dump},
    {"mount.clawfs", VERB_HELPER, "SOURCE MOUNTPOINT", 2, "as mount(8) calls it", "", verb_mount},
};
const size_t n_verbs = ARRAY_SIZE(verbs);

void complain_line(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

static const struct verb *verb_find(const char *name)
{
	for (size_t i = 0; i < n_verbs; i++)
		if (strcmp(verbs[i].name, name) == 0)
			return &verbs[i];
	return NULL;
}

static bool is_mount_helper(const char *program)
{
	const char *slash = strrchr(program, '/');

	return strcmp(slash ? slash + 1 : program, "mount.clawfs") == 0;
}

/* mount.clawfs -f means "fake" to mount(8), the foreground to everybody else. */
static int run_helper(int argc, char **argv, bool by_mount)
{
	const struct verb *verb = verb_find("mount.clawfs");
	struct args a;

	if (args_parse(verb, argc, argv, &a) < 0)
		return EXIT_MOUNT;
	if (a.help) {
		help_print(NULL);
		return EXIT_OK;
	}
	if (by_mount) {
		a.fake |= a.foreground;
		a.foreground = false;
	}
	return a.fake ? EXIT_OK : verb_mount(&a);
}

static int run_verb(const struct verb *verb, int argc, char **argv)
{
	struct args a;

	if (args_parse(verb, argc, argv, &a) < 0)
		return EXIT_USAGE;
	if (a.help) {
		help_print(verb);
		return EXIT_OK;
	}
	return verb->run(&a);
}

int main(int argc, char **argv)
{
	umask(0077); /* whatever makes files of a volume, RocksDB too: nobody else may read them */
	if (argc > 0 && is_mount_helper(argv[0]))
		return run_helper(argc, argv, true);
	if (argc < 2) {
		help_print(NULL);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
		help_print(argc > 2 ? verb_find(argv[2]) : NULL);
		return EXIT_OK;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		printf("clawfs %s\n", CLAWFS_VERSION);
		return EXIT_OK;
	}
	const struct verb *verb = verb_find(argv[1]);
	if (verb)
		return run_verb(verb, argc - 1, argv + 1);
	if (argc == 2 || (argv[1][0] != '-' && !strchr(argv[1], '/') && access(argv[1], F_OK) < 0)) {
		complain("%s: no such command, and no directory to mount; see `clawfs --help`", argv[1]);
		return EXIT_USAGE;
	}
	return run_helper(argc, argv, false);
}
