/*
 * main.c: the `clawfs` program: finds the verb, of one word or two, parses its options and runs it.
 *
 * Three ways in: `clawfs VERB ...`; `clawfs SOURCE MOUNTPOINT -o ...`, which is how `mount -t fuse.clawfs` and fstab call it;
 * and the same under the name mount.clawfs, which is how `mount -t clawfs` does.  In the last two every failure is exit 32,
 * as mount(8) wants it of a helper.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/printable.h"

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
    {"peer invite", VERB_PEER_INVITE, "MOUNTPOINT", 1, "let one more machine hold the volume: prints a token for it",
     "The leader's mount must have been given -o listen=HOST:PORT once.  The token is a secret, can be used once and ends after\n"
     "--ttl; hand it to `clawfs peer join` on the other machine.  Exit codes: 0 printed; 1 not made; 16 wrong usage.",
     verb_peer_invite},
    {"peer join", VERB_PEER_JOIN, "TOKEN DIR", 2, "make a follower's volume in a new or empty directory",
     "Asks the machine that made the token for a certificate and makes the volume; mounting it then fetches everything.\n"
     "TOKEN - reads it from standard input.  Exit codes: 0 joined; 1 not; 16 wrong usage.",
     verb_peer_join},
    {"peer list", VERB_PEER_LIST, "MOUNTPOINT", 1, "the machines that hold the volume, and how they do",
     "Exit codes: 0 printed; 1 no mounted volume with peers; 16 wrong usage.", verb_peer_list},
    {"peer remove", VERB_PEER_REMOVE, "NAME MOUNTPOINT", 2, "refuse a peer from now on",
     "On the leader.  What the peer has stays there.  Exit codes: 0 removed; 1 not; 16 wrong usage.", verb_peer_remove},
    {"peer rename", VERB_PEER_RENAME, "OLD NEW MOUNTPOINT", 3, "call a peer otherwise",
     "On the leader.  Exit codes: 0 renamed; 1 not; 16 wrong usage.", verb_peer_rename},
    {"promote", VERB_PROMOTE, "MOUNTPOINT", 1, "make this follower the leader, because the old one is lost",
     "The old leader is shut out by every peer that hears of it, and follows when it comes back; what only it had is kept aside\n"
     "there (`clawfs diverged`).  Use `clawfs handover` while it works.  Exit codes: 0 it leads; 1 it does not; 16 wrong usage.",
     verb_promote},
    {"handover", VERB_HANDOVER, "PEER MOUNTPOINT", 2, "let a peer lead, with nothing lost",
     "On the leader.  Writers wait until the peer has everything and leads; then this mount is made anew as a follower's, and "
     "files\n"
     "that were open on it are cut off.  Exit codes: 0 the peer leads; 1 it does not; 16 wrong usage.",
     verb_handover},
    {"resync", VERB_RESYNC, "MOUNTPOINT", 1, "on a follower in conflict: the leader's history counts",
     "What only this node has is kept aside (`clawfs diverged`) and replaced.  Exit codes: 0 asked for; 1 not; 16 wrong usage.",
     verb_resync},
    {"diverged list", VERB_DIVERGED_LIST, "DIR|MOUNTPOINT", 1, "what was kept aside when this node followed another history",
     "Exit codes: 0 printed; 1 not a volume; 16 wrong usage.", verb_diverged_list},
    {"diverged export", VERB_DIVERGED_EXPORT, "ID DIR|MOUNTPOINT OUTDIR", 3, "write what was kept aside as files",
     "OUTDIR is made.  Exit codes: 0 written; 1 not, or not all; 16 wrong usage.", verb_diverged_export},
    {"durability", VERB_DURABILITY, "[VALUE] PATH", 2, "what fsync waits for, below a directory",
     "VALUE is local, replicas=K (K followers have it too; without them fsync waits), replicas=K,else=local (without them it "
     "does\n"
     "not), or inherit.  Without VALUE: prints what holds for PATH.  Exit codes: 0 done; 1 not; 16 wrong usage.",
     verb_durability, .n_optional = 1},
    {"wait", VERB_WAIT, "SEQ MOUNTPOINT", 2, "until this mount shows all changes up to SEQ",
     "SEQ is what another node's clawfs.pos said after the changes.  Exit codes: 0 it does; 1 not in time; 16 wrong usage.",
     verb_wait},
    {"tier add", VERB_TIER_ADD, "NAME URL MOUNTPOINT", 3, "give the volume a store for cold files",
     "URL is s3://BUCKET[/PREFIX] or file:///DIRECTORY.  On the leader: asks the store, binds it to the volume and tells all "
     "nodes.\n"
     "On every other node, and again when they change: only keeps this node's credentials.  Files go there by the policy of "
     "their\n"
     "directory: setfattr -n clawfs.tier -v 'after=30d min=64K store=NAME' DIR.  Exit codes: 0 added; 1 not; 16 wrong usage.",
     verb_tier_add},
    {"tier list", VERB_TIER_LIST, "MOUNTPOINT", 1, "the stores, what they hold and how they do",
     "Exit codes: 0 printed; 1 no mounted volume; 16 wrong usage.", verb_tier_list},
    {"tier test", VERB_TIER_TEST, "NAME MOUNTPOINT", 2, "try everything that a store must be able to do",
     "Exit codes: 0 it can; 1 it cannot, and what it lacks is printed; 16 wrong usage.", verb_tier_test},
    {"tier remove", VERB_TIER_REMOVE, "NAME MOUNTPOINT", 2, "take a store away that holds nothing any more",
     "Exit codes: 0 removed; 1 not; 16 wrong usage.", verb_tier_remove},
    {"tier show", VERB_TIER_SHOW, "PATH", 1, "where the data of a file or of everything below a directory is",
     "Exit codes: 0 printed; 1 not; 16 wrong usage.", verb_tier_show},
    {"tier evict", VERB_TIER_EVICT, "PATH", 1, "send files to their store now, and free their space here",
     "Returns when that is done; shows how far it is.  Exit codes: 0 all are out; 1 not all; 16 wrong usage.", verb_tier_evict},
    {"tier recall", VERB_TIER_RECALL, "PATH", 1, "fetch files back",
     "Returns when they are here.  Exit codes: 0 all are; 1 not all; 16 wrong usage.", verb_tier_recall},
    {"tier pin", VERB_TIER_PIN, "PATH", 1, "fetch files back and keep them here",
     "New files below a directory stay here too.  Exit codes: 0 done; 1 not; 16 wrong usage.", verb_tier_pin},
    {"tier unpin", VERB_TIER_PIN, "PATH", 1, "let the policy of the directory decide again",
     "Exit codes: 0 done; 1 not; 16 wrong usage.", verb_tier_unpin},
    {"scrub start", VERB_SCRUB_START, "MOUNTPOINT", 1, "look for damage in all data, and repair it",
     "Goes on where a paused one is, also after a restart of the daemon.  Damage is repaired from a peer or a store that has the "
     "data;\n"
     "what cannot be is named by `clawfs scrub status`.  Exit codes: 0 started, or with --wait: nothing is damaged, or it was "
     "repaired;\n"
     "1 not started, or not done; 4 there is damage; 16 wrong usage.",
     verb_scrub_start},
    {"scrub pause", VERB_SCRUB, "MOUNTPOINT", 1, "halt it; scrub start goes on from there",
     "Exit codes: 0 halted; 1 none is running; 16 wrong usage.", verb_scrub_pause},
    {"scrub stop", VERB_SCRUB, "MOUNTPOINT", 1, "end it; the next one begins anew",
     "Exit codes: 0 ended; 1 there is none; 16 wrong usage.", verb_scrub_stop},
    {"scrub status", VERB_SCRUB_STATUS, "MOUNTPOINT", 1, "how far it is, and which files are damaged",
     "Exit codes: 0 no file is damaged; 1 not a mounted volume; 4 files are damaged; 16 wrong usage.", verb_scrub_status},
    {"scrub clear", VERB_SCRUB, "PATH", 1, "give up what of a file cannot be repaired",
     "On the leader.  Blocks that nobody has become zeros, and the file can be read again.  Exit codes: 0 done; 1 not; 16 wrong "
     "usage.",
     verb_scrub_clear},
    {"scrub release", VERB_SCRUB, "MOUNTPOINT", 1, "test blocks that failed, and use those again that pass",
     "Exit codes: 0 tested; 1 not; 16 wrong usage.", verb_scrub_release},
    {"gc", VERB_GC, "MOUNTPOINT", 1, "remove objects from the stores that no file and no archive needs",
     "What an upload that was cut off left behind, and what was not used for the store's grace time.\n"
     "Exit codes: 0 done; 1 a store could not be looked through, or lacks objects; 16 wrong usage.",
     verb_gc},
    {"stats", VERB_STATS, "MOUNTPOINT", 1, "what requests cost: rates and latencies by operation",
     "Since the mount, or with --watch in each interval; first what there was until now.  Exit codes: 0 printed; 1 no mounted\n"
     "volume; 16 wrong usage.",
     verb_stats},
    {"top", VERB_TOP, "MOUNTPOINT", 1, "who asks most: requests and bytes by process in the last ten seconds",
     "For root and the owner of the volume's root directory.  Process 0 is the kernel writing what programs left with it.\n"
     "Exit codes: 0 printed; 1 not; 16 wrong usage.",
     verb_top},
    {"profile", VERB_PROFILE, "MOUNTPOINT", 1, "where the time of a write goes, stage by stage",
     "Since the mount, or with --watch in each interval.  Exit codes: 0 printed; 1 no mounted volume; 16 wrong usage.",
     verb_profile},
    {"archive set", VERB_ARCHIVE_SET, "STORE MOUNTPOINT", 2, "keep every change in a store, to go back to any moment",
     "STORE is one that `clawfs tier add` gave the volume.  On the leader.  Then print the key (`clawfs archive key`) and keep "
     "it\n"
     "elsewhere: without it nobody can read the archive once the volume is lost.  Exit codes: 0 set; 1 not; 16 wrong usage.",
     verb_archive_set},
    {"archive status", VERB_ARCHIVE_STATUS, "MOUNTPOINT", 1, "how far the archive is, and whether anything is missing in it",
     "Exit codes: 0 it is well, or off; 1 it has a gap, or its store is away, or no mounted volume; 16 wrong usage.",
     verb_archive_status},
    {"archive off", VERB_ARCHIVE, "MOUNTPOINT", 1, "archive no more; what is archived stays",
     "Exit codes: 0 off; 1 not; 16 wrong usage.", verb_archive_off},
    {"archive now", VERB_ARCHIVE, "MOUNTPOINT", 1, "wait until everything written so far is in the archive",
     "Exit codes: 0 it is; 1 it is not; 16 wrong usage.", verb_archive_now},
    {"archive key", VERB_ARCHIVE, "MOUNTPOINT", 1, "print the key that opens the archive when the volume is lost",
     "As root or the volume's owner.  It is a secret.  Exit codes: 0 printed; 1 not; 16 wrong usage.", verb_archive_key},
    {"restore", VERB_RESTORE, "[DIR]", 1, "make a volume of what an archive holds, as it was at a moment",
     "DIR is new or empty, and becomes a volume of its own: it has another uuid, no peers and no stores.  The one that was "
     "archived\n"
     "need not exist.  An interrupted restore is run again with the same command.  With --path DIR is an ordinary directory;\n"
     "meanwhile DIR.restoring needs room for the whole volume.  Exit codes: 0 restored; 1 not, or not all; 16 wrong usage.",
     verb_restore, .n_optional = 1},
    {"drill", VERB_DRILL, "MOUNTPOINT", 1, "restore the newest archived state beside the volume, and compare",
     "Says, and records in clawfs.status, how much would be lost (recovery point) and how long it took (recovery time).\n"
     "Exit codes: 0 it can be restored and is right; 1 not; 16 wrong usage.",
     verb_drill},
    {"upgrade", VERB_UPGRADE, "DIR|MOUNTPOINT", 1, "with --check: whether this release can mount a volume",
     "Prints the volume's format version and features, and the access that this release has: read-write, read-only or none.\n"
     "Changes nothing, and may be asked while another release has it mounted.  Exit codes: 0 read-write; 1 read-only\n"
     "(mount -o ro); 4 none: use a newer release; 8 could not check: not a volume, or damaged; 16 wrong usage.",
     verb_upgrade},
    {"snap create", VERB_SNAP, "NAME MOUNTPOINT", 2, "keep the volume as it is now, under a name",
     "Costs the same whatever the volume holds; it can be read below MOUNTPOINT/.clawfs/snapshots/NAME, by those who may read "
     "the\n"
     "originals.  Exit codes: 0 made, and durable; 1 not; 16 wrong usage.",
     verb_snap_create},
    {"snap delete", VERB_SNAP, "NAME MOUNTPOINT", 2, "delete a snapshot, and free what only it held",
     "The space comes back in the background.  Exit codes: 0 deleted; 1 not; 16 wrong usage.", verb_snap_delete},
    {"snap diff", VERB_SNAP_LIST, "NAME [NAME] MOUNTPOINT", 3, "what changed since a snapshot, or from one to another",
     "With one NAME: to the tree as it is now.  Paths that were created, deleted, modified or renamed, by comparing the two "
     "indexes.\n"
     "Exit codes: 0 printed; 1 not; 16 wrong usage.",
     verb_snap_diff, .n_optional = 1},
    {"snap list", VERB_SNAP_LIST, "MOUNTPOINT", 1, "the snapshots, when they were made, and what deleting each would free",
     "Exit codes: 0 printed; 1 not; 16 wrong usage.", verb_snap_list},
    {"snap rotate", VERB_SNAP, "SCHEDULE MOUNTPOINT", 2,
     "take a snapshot when one is due, and delete those that a schedule does not keep",
     "For timers: SCHEDULE is as that of snap schedule, which needs no timer.  Only snapshots named timer-... are counted and "
     "deleted.  "
     "On a node that follows it does nothing.  Exit codes: 0 done; 1 not; 16 wrong usage.",
     verb_snap_rotate},
    {"snap rollback", VERB_SNAP_ROLLBACK, "NAME MOUNTPOINT", 2, "make the volume again what it was when a snapshot was made",
     "In place, whole or not at all; nothing else reads or writes meanwhile.  What it was before is kept as a snapshot,\n"
     "before-rollback-DATE-TIME, and all other snapshots stay.  Files that are open and changed by it must be opened again.\n"
     "Exit codes: 0 done, and durable; 1 not; 16 wrong usage.",
     verb_snap_rollback},
    {"snap schedule", VERB_SNAP, "[SCHEDULE] MOUNTPOINT", 2, "show or set which snapshots are taken and dropped by themselves",
     "SCHEDULE is counts with units, as 24h7d4w: the newest of each of the last 24 hours, 7 days and 4 weeks that have one; "
     "units are q "
     "(quarters of an hour), h, d, w, m (months) and y; none ends it.  Only snapshots named auto-... are ever dropped.  "
     "Exit codes: 0 done; 1 not; 16 wrong usage.",
     verb_snap_schedule, .n_optional = 1},
    {"clone", VERB_CLONE, "SRC DST", 2, "make a file that has the blocks of another one, and takes no space",
     "Both on one mount.  DST is made, with the permission bits of SRC, or its data is replaced; what is written to either file\n"
     "later goes to new blocks.  `cp` does the same by itself, and copies where this refuses.  Data in an object store is "
     "copied.\n"
     "Exit codes: 0 cloned; 1 not; 16 wrong usage.",
     verb_clone},
    {"du", VERB_DU, "PATH", 1, "what is below a directory, at once",
     "Bytes of all files, files, directories, and when anything was changed last.  Nothing is walked: the volume keeps these "
     "sums.\n"
     "Exit codes: 0 printed; 1 not a directory of a mounted volume; 16 wrong usage.",
     verb_du},
    {"compress", VERB_COMPRESS, "PATH", 1, "make files what the policy of their directory says about compression, now",
     "setfattr -n clawfs.compression -v zstd DIR sets the policy (off, lz4, zstd or zstd:LEVEL), and what is written from then "
     "on\n"
     "follows it by itself.  This is for what was there before; with the policy off it is unpacked.  Prints what the files "
     "take.\n"
     "Exit codes: 0 done; 1 not, or not all; 16 wrong usage.",
     verb_compress},
    {"quota set", VERB_QUOTA_SET, "PATH", 1, "limit what is below a directory",
     "Holds for everybody, root too.  What would go beyond it is refused (EDQUOT); what is there already stays.\n"
     "Exit codes: 0 set; 1 not; 16 wrong usage.",
     verb_quota_set},
    {"quota show", VERB_QUOTA_SHOW, "PATH", 1, "the quotas that a file or directory is under, and what is in use",
     "The nearest one first.  Exit codes: 0 printed; 1 not; 16 wrong usage.", verb_quota_show},
    {"quota list", VERB_QUOTA_SHOW, "MOUNTPOINT", 1, "all quotas of a volume",
     "For root and the owner of the root directory.  Exit codes: 0 printed; 1 not; 16 wrong usage.", verb_quota_list},
    {"audit", VERB_AUDIT, "DIR|MOUNTPOINT", 1, "who did what: the audit log of this node",
     "What admins did here, and every change of a file where clawfs.audit or the mount say so.  With --verify: whether\n"
     "the log is as it was written; --expect also finds a log that was written anew.  Reads the volume's directory.\n"
     "Exit codes: 0 printed, or whole; 1 no log, or not readable; 4 the log is damaged; 8 could not check, or the entry of a "
     "kept head\n"
     "went for its age; 16 wrong usage.",
     verb_audit},
    {"watch", VERB_WATCH, "MOUNTPOINT", 1, "what changes on a volume, as lines of JSON, from now on or from a place on",
     "The first line says where it starts.  Each line has seq and n, the place to go on from: --from SEQ.N, or --from SEQ behind "
     "a\n"
     "line with \"last\":true.  A line with \"op\":\"gap\" names batches that cannot be read any more.  For root and the owner "
     "of\n"
     "the mount's root directory.  Exit codes: 0 with --once: nothing is left; 1 the mount is gone, or refused; 16 wrong usage.",
     verb_watch},
    {"key list", VERB_KEY_LIST, "DIR|MOUNTPOINT", 1, "who can open an encrypted volume",
     "Prints each slot's name, kind and age; no secret.  Exit codes: 0 printed; 1 not an encrypted volume; 16 wrong usage.",
     verb_key_list},
    {"key add", VERB_KEY_ADD, "DIR|MOUNTPOINT", 1, "let one more secret open the volume",
     "The data key is sealed for --new-key as well, in one of eight slots; nothing else is written.  Needs --key, which opens "
     "the\n"
     "volume now.  Exit codes: 0 added; 1 not; 16 wrong usage.",
     verb_key_add},
    {"key remove", VERB_KEY_REMOVE, "SLOT DIR|MOUNTPOINT", 2, "let a secret open the volume no more",
     "Needs --key, which opens another slot.  Who copied the file `keys` before, and has the secret, can still open the volume.\n"
     "Exit codes: 0 removed; 1 not; 16 wrong usage.",
     verb_key_remove},
    {"key change", VERB_KEY_CHANGE, "DIR|MOUNTPOINT", 1, "another secret in place of one",
     "The slot that --key opens is sealed anew, for --new-key; nothing else is written.\n"
     "Exit codes: 0 changed; 1 not; 16 wrong usage.",
     verb_key_change},
    {"mount.clawfs", VERB_HELPER, "SOURCE MOUNTPOINT", 2, "as mount(8) calls it", "", verb_mount},
};
const size_t n_verbs = ARRAY_SIZE(verbs);

static char complaint[PATH_MAX + 512];

void complain_line(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(complaint, sizeof(complaint), fmt, ap);
	va_end(ap);
	make_printable(complaint);
	fprintf(stderr, "%s%s\n", log_mark(LOG_LEVEL_ERROR), complaint);
}

const char *complained_last(void)
{
	return complaint;
}

const char *verb_in_group(const struct verb *verb, const char *group)
{
	size_t n = strlen(group);

	return strncmp(verb->name, group, n) == 0 && verb->name[n] == ' ' ? verb->name + n + 1 : NULL;
}

static bool is_group(const char *word)
{
	for (size_t i = 0; i < n_verbs; i++)
		if (verb_in_group(&verbs[i], word))
			return true;
	return false;
}

/* `second` may be NULL. */
static const struct verb *verb_find(const char *first, const char *second)
{
	for (size_t i = 0; i < n_verbs; i++) {
		const char *rest = verb_in_group(&verbs[i], first);

		if (rest ? second && strcmp(rest, second) == 0 : strcmp(verbs[i].name, first) == 0)
			return &verbs[i];
	}
	return NULL;
}

static bool is_called(const char *program, const char *name)
{
	const char *slash = strrchr(program, '/');

	return strcmp(slash ? slash + 1 : program, name) == 0;
}

/* mount.clawfs -f means "fake" to mount(8), the foreground to everybody else. */
static int run_helper(int argc, char **argv, bool by_mount)
{
	const struct verb *verb = verb_find("mount.clawfs", NULL);
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

static mode_t user_umask; /* as we were called with it */

/*
 * Verbs that ask the mount that their last operand is on: a path that is not there is said here, once for all of them, because
 * the daemon answers ENOENT for other things.
 */
static bool is_path_missing(const struct verb *verb, const struct args *a)
{
	const char *word = strrchr(verb->operands, ' '), *path = a->n_operands ? a->operand[a->n_operands - 1] : NULL;
	struct stat st;

	word = word ? word + 1 : verb->operands;
	if (!path || verb->bit == VERB_MOUNT || verb->bit == VERB_HELPER ||
	    (strcmp(word, "MOUNTPOINT") != 0 && strcmp(word, "PATH") != 0))
		return false;
	if (lstat(path, &st) == 0 || (errno != ENOENT && errno != ENOTDIR && errno != ENAMETOOLONG && errno != ELOOP))
		return false;
	complain("%s: %s", path, strerror(errno));
	return true;
}

/* What a verb printed may be all there is of it (a key, a token): it counts only once it is written. */
static int written(int code)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return code;
	complain("standard output: %s", strerror(errno));
	return code == EXIT_OK ? EXIT_FAILED : code;
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
	a.umask = user_umask;
	if (is_path_missing(verb, &a))
		return EXIT_FAILED;
	return written(verb->run(&a));
}

static bool asks_for_help(const char *word)
{
	return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

/* "peer" without a verb of its own after it. */
static int run_group(int argc, char **argv)
{
	if (argc > 2 && !asks_for_help(argv[2])) {
		complain("%s %s: no such command; see `clawfs %s --help`", argv[1], argv[2], argv[1]);
		return EXIT_USAGE;
	}
	help_group(argv[1]);
	return argc > 2 ? EXIT_OK : EXIT_USAGE;
}

static int print_help(int argc, char **argv)
{
	const struct verb *verb = argc > 2 ? verb_find(argv[2], argc > 3 ? argv[3] : NULL) : NULL;

	if (argc > 2 && strcmp(argv[2], "--table") == 0)
		help_table();
	else if (!verb && argc > 2 && is_group(argv[2]))
		help_group(argv[2]);
	else if (!verb && argc > 2) {
		complain("%s: no such command; see `clawfs --help`", argv[2]);
		return EXIT_USAGE;
	} else
		help_print(verb);
	return EXIT_OK;
}

/*
 * Whoever starts a program may leave out its standard descriptors.  A file of the volume that got the number of one would take
 * what is printed into its bytes, and a daemon that gives its own away would close it.
 */
static bool open_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

int main(int argc, char **argv)
{
	if (!open_standard_descriptors())
		return EXIT_FAILED;
	user_umask = umask(0077); /* whatever makes files of a volume, RocksDB too: nobody else may read them */
	if (argc > 0 && is_called(argv[0], "mount.clawfs"))
		return run_helper(argc, argv, true);
	if (argc > 0 && is_called(argv[0], "umount.fuse.clawfs"))
		return umount_helper(argc, argv);
	if (argc < 2) {
		help_print(NULL);
		return EXIT_USAGE;
	}
	if (asks_for_help(argv[1]))
		return written(print_help(argc, argv));
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		printf("clawfs %s\n", CLAWFS_VERSION);
		return written(EXIT_OK);
	}
	const struct verb *verb = verb_find(argv[1], argc > 2 ? argv[2] : NULL);
	if (verb) {
		int words = strchr(verb->name, ' ') ? 2 : 1;

		return run_verb(verb, argc - words, argv + words);
	}
	if (is_group(argv[1]))
		return run_group(argc, argv);
	if (argc == 2 || (argv[1][0] != '-' && !strchr(argv[1], '/') && access(argv[1], F_OK) < 0)) {
		complain("%s: no such command, and no directory to mount; see `clawfs --help`", argv[1]);
		return EXIT_USAGE;
	}
	return run_helper(argc, argv, false);
}
