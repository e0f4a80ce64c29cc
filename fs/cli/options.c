/*
 * options.c: every option of every verb as one table, which makes the parsing, the words of -o and --help (help.c).
 *
 * A row names the verbs that take it, where its value goes in struct args, and the bounds of that value.  Rows with IN_LIST
 * are also words of `-o a,b=1`, so `mount --commit=1` and `mount -o commit=1` are the same row.  What cannot be parsed, is out
 * of bounds or unknown is refused with the option's name, the value and what would be right: a mount with a mistyped option
 * must not come up with a default instead.
 */
#include "fs/cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "fs/cli/options.h"
#include "replicate/peers.h"

#define AT(member)    offsetof(struct args, member)
#define MOUNTING      (VERB_MOUNT | IN_LIST)
#define FORMATTING    (VERB_FORMAT | VERB_PEER_JOIN | VERB_RESTORE)
#define STORES        (VERB_TIER_ADD | VERB_RESTORE)
#define KEYS          (VERB_KEY_ADD | VERB_KEY_REMOVE | VERB_KEY_CHANGE)
#define KEEP_DAYS_MAX 36500u
#define SECONDS(n)    ((uint64_t)(n) * (uint64_t)NSEC_PER_SEC)

const struct option_row option_rows[] = {
    {FORMATTING, "journal-size", 0, KIND_SIZE, AT(journal_bytes), "SIZE", 12 * MIB, 256 * GIB,
     "room for changes on their way home (default 1G; of a peer: as the others)"},
    {FORMATTING, "segment-size", 0, KIND_SIZE, AT(segment_bytes), "SIZE", MIB, 4 * GIB,
     "size of one journal file; divides the journal's (default 64M; the same)"},
    {FORMATTING, "chunk-size", 0, KIND_SIZE, AT(chunk_bytes), "SIZE", MIB, 64 * GIB,
     "the store grows by this much at a time (default 1G; the same)"},
    {FORMATTING, "size", 0, KIND_SIZE, AT(max_bytes), "SIZE", MIB, UINT64_C(1) << 60,
     "most bytes of file data (default: as much as the host has)"},
    {FORMATTING, "reserve", 0, KIND_SIZE, AT(reserve_bytes), "SIZE", 0, UINT64_C(1) << 50,
     "bytes of the host left for the index (default 256M)"},
    {VERB_FORMAT, "label", 'L', KIND_TEXT, AT(label), "TEXT", 0, 64, "a name for people, up to 64 bytes"},
    {FORMATTING, "force", 0, KIND_FLAG, AT(force), NULL, 0, 0, "format over a volume; needs --confirm"},
    {FORMATTING, "confirm", 0, KIND_TEXT, AT(confirm), "WORD", 0, 64, "with --force: the word destroy"},

    {FORMATTING, "encrypt", 0, KIND_TEXT, AT(encrypt), "MODE", 0, 16,
     "xts: what is stored is encrypted; aead: and signed; needs --key"},
    {FORMATTING | VERB_FSCK | VERB_DUMP | VERB_DIVERGED_EXPORT | VERB_AUDIT | MOUNTING | KEYS, "key", 0, KIND_TEXT, AT(key),
     "WHERE", 0, PATH_MAX, "of an encrypted volume: FILE, command:CMD, passphrase:FILE or ask"},
    {VERB_KEY_ADD | VERB_KEY_CHANGE, "new-key", 0, KIND_TEXT, AT(new_key), "WHERE", 0, PATH_MAX,
     "the secret to open it with from now on"},
    {VERB_KEY_ADD | VERB_KEY_CHANGE, "slot", 0, KIND_TEXT, AT(slot), "NAME", 0, 32,
     "what the slot is called (default: file, command or passphrase; of one that is changed: as before)"},
    {FORMATTING | VERB_FSCK | VERB_DUMP | MOUNTING, "staging", 0, KIND_TEXT, AT(staging), "DIR", 0, PATH_MAX - 256,
     "a tmpfs for an encrypted volume's newest changes (default /run/clawfs)"},

    {VERB_MOUNT | VERB_HELPER, "options", 'o', KIND_LIST, 0, "OPTIONS", 0, 0, "mount options, as listed below"},
    {VERB_MOUNT | IN_LIST, "foreground", 'f', KIND_FLAG, AT(foreground), NULL, 0, 0,
     "do not become a daemon; messages go to stderr, the exit status tells how it ended"},
    {MOUNTING, "ro", 'r', KIND_FLAG, AT(read_only), NULL, 0, 0, "read-only"},
    {MOUNTING, "allow-other", 0, KIND_FLAG, AT(allow_other), NULL, 0, 0, "users other than the one who mounts may use it"},
    {MOUNTING, "noatime", 0, KIND_FLAG, AT(noatime), NULL, 0, 0, "reading changes no access times"},
    {MOUNTING, "strict-open", 0, KIND_FLAG, AT(strict_open), NULL, 0, 0,
     "the daemon is asked at each open: writing to a file of a snapshot fails at open, not at close"},
    {MOUNTING, "commit", 0, KIND_SECONDS, AT(commit_ns), "SEC", 0, SECONDS(5),
     "age at which changes nobody synced become durable: 0 to 5, as 0.5"},
    {MOUNTING, "memory", 0, KIND_SIZE, AT(memory_bytes), "SIZE", 128 * MIB, UINT64_C(1) << 40,
     "most memory to use (default 512M, at least 128M)"},
    {MOUNTING, "workers", 0, KIND_COUNT, AT(n_workers), "N", 1, 256,
     "requests served at once (default: twice the cores, 4 to 64)"},
    {MOUNTING, "checkpoint", 0, KIND_SECONDS, AT(checkpoint_ns), "SEC", SECONDS(1), SECONDS(3600),
     "time between checkpoints of the index: 1 to 3600"},
    {MOUNTING, "fsname", 0, KIND_TEXT, AT(fsname), "NAME", 0, 255, "first field of /proc/mounts (default: the directory)"},
    {MOUNTING, "log", 0, KIND_TEXT, AT(log_path), "FILE", 0, PATH_MAX, "the daemon's messages go here, not to syslog"},
    {MOUNTING, "listen", 0, KIND_ADDRESS, AT(listen), "HOST:PORT", 0, 512,
     "where peers connect to; makes a volume that is alone ready for them"},
    {MOUNTING, "advertise", 0, KIND_ADDRESS, AT(advertise), "HOST:PORT", 0, 512,
     "where peers reach this node (default: listen=, or this host's name)"},
    {MOUNTING | VERB_PEER_INVITE | VERB_PEER_JOIN, "name", 0, KIND_NAME, AT(name), "NODE", 0, 64,
     "what the node is called among its peers (default: its host's name)"},
    {MOUNTING, "replica-rate", 0, KIND_SIZE, AT(replica_rate), "SIZE", 16 * KIB, UINT64_C(1) << 40,
     "most bytes a second sent to each peer (default: no limit)"},
    {MOUNTING, "recall-rate", 0, KIND_SIZE, AT(recall_rate), "SIZE", 16 * KIB, UINT64_C(1) << 40,
     "most bytes a second fetched for reads of cold files (default: no limit)"},
    {MOUNTING, "scrub-rate", 0, KIND_SIZE, AT(scrub_rate), "SIZE", 64 * KIB, UINT64_C(1) << 40,
     "most bytes a second that a scrub reads (default 64M)"},
    {MOUNTING, "archive-wait", 0, KIND_SECONDS, AT(archive_wait_ns), "SEC", 0, SECONDS(600),
     "how long unmounting waits for the archive to have everything (default 10)"},
    {MOUNTING, "high-water", 0, KIND_COUNT, AT(high_water), "PERCENT", 10, 99,
     "space used above which the coldest files go to their store, whatever their age (default: never)"},
    {MOUNTING, "audit", 0, KIND_CHOICE, AT(audit), "admin|changes|off", 0, 16,
     "what goes into the audit log, where clawfs.audit says nothing: what admins do (default), also every change, nothing"},
    {MOUNTING, "audit-strict", 0, KIND_FLAG, AT(audit_strict), NULL, 0, 0, "refuse what admins do while it cannot be logged"},
    {MOUNTING, "audit-keep", 0, KIND_KEEP, AT(audit_keep), "SIZE|DAYS", 2 * MIB, UINT64_C(1) << 40,
     "size of the audit log beyond which its oldest part goes (default 64M), or its age, as 90d; both may be given"},
    {MOUNTING, "metrics", 0, KIND_TEXT, AT(metrics), "WHERE", 0, 255,
     "serve metrics and a status page there: the path of a unix socket, 127.0.0.1:PORT or [::1]:PORT (default: nowhere)"},
    {MOUNTING, "metrics-anywhere", 0, KIND_FLAG, AT(metrics_anywhere), NULL, 0, 0,
     "metrics= may name an address that other hosts reach: there is no password and no TLS"},
    {MOUNTING, "nosuid", 0, KIND_FLAG, AT(nosuid), NULL, 0, 0, "set-user-ID bits have no effect"},
    {MOUNTING, "nodev", 0, KIND_FLAG, AT(nodev), NULL, 0, 0, "device nodes have no effect"},
    {MOUNTING, "noexec", 0, KIND_FLAG, AT(noexec), NULL, 0, 0, "no program can be run from it"},

    /* What mount(8) calls a helper with. */
    {VERB_HELPER, "foreground", 'f', KIND_FLAG, AT(foreground), NULL, 0, 0,
     "of mount.clawfs: do all but mount (fake); of clawfs SOURCE MOUNTPOINT: do not become a daemon"},
    {VERB_HELPER, "fake", 'F', KIND_FLAG, AT(fake), NULL, 0, 0, "do all but mount"},
    {VERB_HELPER, "read-only", 'r', KIND_FLAG, AT(read_only), NULL, 0, 0, "the same as -o ro"},
    {VERB_HELPER, "rw", 'w', KIND_IGNORED, 0, NULL, 0, 0, "ignored"},
    {VERB_HELPER, "sloppy", 's', KIND_IGNORED, 0, NULL, 0, 0, "ignored"},
    {VERB_HELPER, "no-mtab", 'n', KIND_IGNORED, 0, NULL, 0, 0, "ignored"},
    {VERB_HELPER, "types", 't', KIND_IGNORED_VALUE, 0, "TYPE", 0, 0, "ignored"},
    {VERB_HELPER, "namespace", 'N', KIND_IGNORED_VALUE, 0, "NS", 0, 0, "ignored"},

    {VERB_UMOUNT, "timeout", 0, KIND_SECONDS, AT(timeout_ns), "SEC", 0, SECONDS(86400),
     "how long to wait until the daemon has let go of the store (default 60)"},
    {VERB_HANDOVER | VERB_WAIT, "timeout", 0, KIND_SECONDS, AT(timeout_ns), "SEC", 0, SECONDS(86400),
     "how long to wait (default 60)"},
    {VERB_STATS | VERB_TOP | VERB_PROFILE, "watch", 'w', KIND_SECONDS, AT(watch_ns), "SEC", SECONDS(1) / 10, SECONDS(86400),
     "print again after each SEC seconds, and what happened in them"},
    {VERB_STATS | VERB_TOP | VERB_PROFILE, "count", 'n', KIND_COUNT, AT(count), "N", 1, 1000000,
     "with --watch: end after N times (default: never)"},
    {VERB_PEER_INVITE, "address", 0, KIND_ADDRESS, AT(address), "HOST:PORT", 0, 512,
     "where the new node reaches this one (default: where it listens)"},
    {VERB_PEER_JOIN, "address", 0, KIND_ADDRESS, AT(address), "HOST:PORT", 0, 512,
     "where the others reach this node; it listens on that port (default: it only connects)"},
    {VERB_PEER_INVITE, "ttl", 0, KIND_SECONDS, AT(ttl_ns), "TIME", SECONDS(1), SECONDS(30 * 86400),
     "how long the token can be used, as 30m or 2h (default 1h)"},
    {STORES, "endpoint", 0, KIND_TEXT, AT(endpoint), "URL", 0, 255, "of an S3 service (default: Amazon's of the region)"},
    {STORES, "region", 0, KIND_TEXT, AT(region), "NAME", 0, 31, "of an S3 service (default us-east-1)"},
    {STORES, "credentials", 0, KIND_TEXT, AT(credentials), "FILE", 0, PATH_MAX,
     "with the access key and the secret key (default: AWS_ACCESS_KEY_ID and the like, or ~/.aws/credentials)"},
    {STORES, "profile", 0, KIND_TEXT, AT(profile), "NAME", 0, 64, "of the credentials file (default: default)"},
    {STORES, "path-style", 0, KIND_FLAG, AT(path_style), NULL, 0, 0, "the bucket is part of the path, not of the host's name"},
    {VERB_TIER_ADD, "storage-class", 0, KIND_TEXT, AT(storage_class), "CLASS", 0, 31, "of objects (default: the service's)"},
    {STORES, "ca", 0, KIND_TEXT, AT(ca_file), "FILE", 0, 255, "certificates to trust instead of the system's"},
    {STORES, "insecure", 0, KIND_FLAG, AT(insecure), NULL, 0, 0, "do not check the service's certificate"},
    {VERB_TIER_ADD, "no-encrypt", 0, KIND_FLAG, AT(no_encrypt), NULL, 0, 0, "objects are readable by whoever gets them"},
    {VERB_TIER_ADD, "verify", 0, KIND_TEXT, AT(verify), "HOW", 0, 16,
     "checksum: trust the one the store confirms (default); read: read every object back"},
    {VERB_TIER_ADD, "pack", 0, KIND_TEXT, AT(pack_size), "SIZE", 0, 16, "of an object, 8M to 64M (default 16M)"},
    {VERB_TIER_ADD, "rate", 0, KIND_TEXT, AT(store_rate), "SIZE", 0, 16, "most bytes a second, either way (default: no limit)"},
    {VERB_TIER_ADD, "requests", 0, KIND_TEXT, AT(store_requests), "N", 0, 16, "most requests a second (default: no limit)"},
    {VERB_TIER_ADD, "budget", 0, KIND_TEXT, AT(store_budget), "N", 0, 20,
     "most requests a month: beyond them nothing more is aged out (default: no limit)"},
    {VERB_TIER_ADD, "grace", 0, KIND_TEXT, AT(store_grace), "TIME", 0, 16,
     "between the last use of an object and its end in the store, as 24h or 30d"},
    {STORES, "timeout", 0, KIND_TEXT, AT(store_timeout), "TIME", 0, 16, "how long a reader of a cold file waits (default 30)"},
    {VERB_TIER_ADD, "prices", 0, KIND_TEXT, AT(prices), "PUT:GET:GB", 0, 64,
     "dollars for 1000 writes, 1000 reads and a GB for a month, for the estimate in the status"},
    {VERB_SCRUB_START, "rate", 0, KIND_SIZE, AT(scrub_rate), "SIZE", 64 * KIB, UINT64_C(1) << 40,
     "most bytes a second (default: scrub_rate= of the mount, or 64M)"},
    {VERB_SCRUB_START, "cold", 0, KIND_FLAG, AT(cold), NULL, 0, 0, "fetch and check what object stores have, too"},
    {VERB_SCRUB_START, "wait", 0, KIND_FLAG, AT(wait), NULL, 0, 0, "return when it is done; the exit code tells what it found"},
    {VERB_ARCHIVE_SET, "interval", 0, KIND_TEXT, AT(archive_interval), "TIME", 0, 16,
     "how long a change waits at most until it is archived (default 10s)"},
    {VERB_ARCHIVE_SET, "base", 0, KIND_TEXT, AT(archive_base), "TIME", 0, 16,
     "how old the newest whole image may become (default 1d)"},
    {VERB_ARCHIVE_SET, "keep", 0, KIND_TEXT, AT(archive_keep), "TIME", 0, 16,
     "how far back one can go, as 30d; what is older is removed (default: all is kept)"},
    {VERB_RESTORE, "from", 0, KIND_TEXT, AT(from), "URL", 0, 700, "the store, as `clawfs tier add` was given it"},
    {VERB_RESTORE, "at", 0, KIND_TEXT, AT(at), "WHEN", 0, 64,
     "a time (\"2026-01-31 14:05\", with Z: UTC; @SECONDS), the number of a batch, or latest (default)"},
    {VERB_RESTORE, "path", 0, KIND_TEXT, AT(path), "PATH", 0, PATH_MAX,
     "only this file or directory of the volume, into an ordinary directory DIR"},
    {VERB_RESTORE, "archive-key", 0, KIND_TEXT, AT(key_file), "FILE", 0, PATH_MAX, "what `clawfs archive key` printed"},
    {VERB_RESTORE, "list", 0, KIND_FLAG, AT(list), NULL, 0, 0, "only print what can be restored"},
    {VERB_DRILL, "dir", 0, KIND_TEXT, AT(aside), "DIR", 0, PATH_MAX,
     "where the copy is made, and removed again (default: the volume's directory with .drill behind it)"},
    {VERB_COMPRESS, "dry-run", 'n', KIND_FLAG, AT(dry_run), NULL, 0, 0, "change nothing: only say what the files take"},
    {VERB_GC, "dry-run", 'n', KIND_FLAG, AT(dry_run), NULL, 0, 0, "only say what would be removed"},
    {VERB_SNAP_ROLLBACK, "no-keep", 0, KIND_FLAG, AT(no_keep), NULL, 0, 0,
     "do not make a snapshot of what the volume is now: it is lost"},
    {VERB_UPGRADE, "check", 0, KIND_FLAG, AT(check), NULL, 0, 0, "only say whether this release can mount the volume"},
    {VERB_WATCH, "from", 0, KIND_TEXT, AT(from), "PLACE", 0, 32,
     "go on behind this place: SEQ or SEQ.N of a line; 0: all that is still there (default: from now on)"},
    {VERB_WATCH | VERB_AUDIT, "path", 0, KIND_TEXT, AT(path), "PATH", 0, PATH_MAX,
     "only changes of PATH, from the root of the volume, and of what is below it"},
    {VERB_AUDIT, "since", 0, KIND_TEXT, AT(since), "WHEN", 0, 32,
     "from then on: a time in UTC as 2026-01-31T12:00 or 2026-01-31, 2h or 30d ago, or a batch"},
    {VERB_AUDIT, "until", 0, KIND_TEXT, AT(until), "WHEN", 0, 32, "up to then, the same"},
    {VERB_AUDIT, "uid", 0, KIND_COUNT, AT(uid), "N", 0, UINT32_MAX, "only what this user did"},
    {VERB_AUDIT, "follow", 'f', KIND_FLAG, AT(follow), NULL, 0, 0, "go on with entries as they come"},
    {VERB_AUDIT, "verify", 0, KIND_FLAG, AT(verify_log), NULL, 0, 0, "say whether the log is as it was written"},
    {VERB_AUDIT, "head", 0, KIND_FLAG, AT(head), NULL, 0, 0, "print number and hash of the newest entry, to be kept elsewhere"},
    {VERB_AUDIT, "expect", 0, KIND_TEXT, AT(expect), "HEAD", 0, 96, "with --verify: a head that was kept must be in the log"},
    {VERB_WATCH, "ops", 0, KIND_TEXT, AT(ops), "LIST", 0, 256, "only these: create,write,rename and so on"},
    {VERB_WATCH, "once", 0, KIND_FLAG, AT(once), NULL, 0, 0, "end when nothing is left to tell, do not wait for more"},
    {VERB_FSCK, "no-data", 0, KIND_FLAG, AT(no_data), NULL, 0, 0, "do not read file data; check structure only"},
    {VERB_QUOTA_SET, "max-bytes", 0, KIND_TEXT, AT(max_quota_bytes), "SIZE", 0, 31, "most bytes of files below, as 10G, or none"},
    {VERB_QUOTA_SET, "max-files", 0, KIND_TEXT, AT(max_quota_files), "N", 0, 31, "most files and directories below, or none"},
    {VERB_DUMP, "super", 0, KIND_FLAG, AT(only_super), NULL, 0, 0, "the superblock"},
    {VERB_DUMP, "journal", 0, KIND_FLAG, AT(only_journal), NULL, 0, 0, "the batches of the journal and their records"},
    {VERB_DUMP, "index", 0, KIND_FLAG, AT(only_index), NULL, 0, 0, "the index, table by table"},
    {VERB_STATUS | VERB_INFO | VERB_FSCK | VERB_DUMP | VERB_PEER_LIST | VERB_DIVERGED_LIST | VERB_TIER_LIST | VERB_UPGRADE |
	 VERB_DU | VERB_QUOTA_SHOW | VERB_SNAP_LIST | VERB_AUDIT | VERB_KEY_LIST | VERB_SCRUB_STATUS | VERB_STATS | VERB_TOP |
	 VERB_PROFILE | VERB_ARCHIVE_STATUS | VERB_RESTORE | VERB_DRILL | VERB_COMPRESS,
     "json", 'j', KIND_FLAG, AT(json), NULL, 0, 0, "print JSON"},
    {VERB_MOUNT | VERB_HELPER | VERB_FSCK | VERB_DUMP | IN_LIST, "verbose", 'v', KIND_FLAG, AT(verbose), NULL, 0, 0,
     "more messages"},
    {VERB_ALL, "help", 'h', KIND_FLAG, AT(help), NULL, 0, 0, "this text"},
};

const size_t n_option_rows = ARRAY_SIZE(option_rows);

const char *const ignored_words[] = {
    "rw",    "dev",     "suid",  "exec",  "auto",     "defaults", "_netdev", "nofail", "noauto", "nouser",
    "users", "nousers", "async", "atime", "relatime", "diratime", "user",    "owner",  "group",
};
const size_t n_ignored_words = ARRAY_SIZE(ignored_words);

/* "--commit=9: ..." or "-o commit=9: ...": how the user wrote it. */
static int refuse(const struct option_row *row, bool in_list, const char *value, const char *why)
{
	complain("%s%s%s%s: %s; see --help", in_list ? "-o " : "--", row->name, value ? "=" : "", value ? value : "", why);
	return -EINVAL;
}

static int refuse_bounds(const struct option_row *row, bool in_list, const char *value)
{
	char low[32], high[32], why[128];

	switch (row->kind) {
	case KIND_SIZE:
		size_text(row->min, low, sizeof(low));
		size_text(row->max, high, sizeof(high));
		snprintf(why, sizeof(why), "must be a size from %s to %s, as 64M or 1G", low, high);
		break;
	case KIND_SECONDS:
		snprintf(why, sizeof(why), "must be %" PRIu64 " to %" PRIu64 " seconds, as 5, 0.5 or 500ms",
			 row->min / (uint64_t)NSEC_PER_SEC, row->max / (uint64_t)NSEC_PER_SEC);
		break;
	case KIND_KEEP:
		size_text(row->min, low, sizeof(low));
		size_text(row->max, high, sizeof(high));
		snprintf(why, sizeof(why), "must be a size from %s to %s, as 64M, or an age from 1d to %ud", low, high,
			 KEEP_DAYS_MAX);
		break;
	case KIND_NAME:
		snprintf(why, sizeof(why), "must be letters, digits, '-', '_' and '.', up to 64, the first a letter or digit");
		break;
	case KIND_ADDRESS:
		snprintf(why, sizeof(why), "must be HOST:PORT, as 10.0.0.1:7440, [fd00::1]:7440 or host.example:7440");
		break;
	case KIND_CHOICE:
		snprintf(why, sizeof(why), "must be one of %s", row->arg);
		break;
	case KIND_TEXT:
		snprintf(why, sizeof(why), "must have 1 to %" PRIu64 " bytes", row->max);
		break;
	default:
		snprintf(why, sizeof(why), "must be a number from %" PRIu64 " to %" PRIu64, row->min, row->max);
	}
	return refuse(row, in_list, value, why);
}

/* "90d"; no size ends so. */
static bool is_days(const char *text)
{
	size_t n = strspn(text, "0123456789");

	return n > 0 && strcmp(text + n, "d") == 0;
}

static int days_parse(const struct option_row *row, bool in_list, const char *value, uint64_t *ret_ns)
{
	const uint64_t day = UINT64_C(86400) * (uint64_t)NSEC_PER_SEC;

	if (seconds_parse(value, ret_ns) == 0 && *ret_ns >= day && *ret_ns <= KEEP_DAYS_MAX * day)
		return 0;
	return refuse_bounds(row, in_list, value);
}

static int number_parse(const struct option_row *row, const char *value, uint64_t *ret)
{
	int r;

	if (row->kind == KIND_SECONDS)
		return seconds_parse(value, ret);
	r = size_parse(value, ret);
	if (r == 0 && row->kind == KIND_COUNT && !isdigit((unsigned char)value[strlen(value) - 1]))
		r = -EINVAL;
	return r;
}

static int list_parse(struct args *a, char *list);

static bool is_choice(const char *words, const char *value)
{
	size_t n = strlen(value);

	for (const char *p = words; *p; p += strcspn(p, "|"), p += *p == '|')
		if (strcspn(p, "|") == n && memcmp(p, value, n) == 0)
			return true;
	return false;
}

static bool text_is_right(const struct option_row *row, const char *value)
{
	char host[WIRE_TEXT_MAX + 1];
	uint16_t port;

	if (!value || !*value || strlen(value) > row->max)
		return false;
	if (row->kind == KIND_NAME)
		return peer_name_ok(value);
	if (row->kind == KIND_CHOICE)
		return is_choice(row->arg, value);
	/* port 0 is any free one: nobody would know which */
	return row->kind != KIND_ADDRESS || (address_parse(value, host, sizeof(host), &port) == 0 && port != 0);
}

/* Stores one option's value; `value` is NULL where none was given. */
static int row_apply(const struct option_row *row, bool in_list, char *value, struct args *a)
{
	char *at = (char *)a + row->offset;
	uint64_t n;

	switch (row->kind) {
	case KIND_FLAG:
		if (value)
			return refuse(row, in_list, value, "takes no value");
		*(bool *)at = true;
		return 0;
	case KIND_IGNORED:
	case KIND_IGNORED_VALUE:
		return 0;
	case KIND_LIST:
		return list_parse(a, value);
	case KIND_TEXT:
	case KIND_NAME:
	case KIND_ADDRESS:
	case KIND_CHOICE:
		if (!text_is_right(row, value))
			return refuse_bounds(row, in_list, value);
		*(const char **)at = value;
		return 0;
	case KIND_KEEP:
		if (value && is_days(value))
			return days_parse(row, in_list, value, &a->audit_keep_ns);
		/* fall through */
	default:
		if (!value || number_parse(row, value, &n) < 0 || n < row->min || n > row->max)
			return refuse_bounds(row, in_list, value);
		*(uint64_t *)at = n;
		if (row->offset == AT(commit_ns))
			a->commit_given = true;
		if (row->offset == AT(archive_wait_ns))
			a->archive_wait_given = true;
		if (row->offset == AT(uid))
			a->uid_given = true;
		return 0;
	}
}

/* A word of -o names a row in its own spelling: "allow_other" for "allow-other". */
static bool word_is(const char *word, const char *name)
{
	for (; *word && *name; word++, name++)
		if (*word != *name && !(*word == '_' && *name == '-'))
			return false;
	return *word == *name;
}

static bool word_is_ignored(const char *word)
{
	if (strncmp(word, "x-", 2) == 0 || strcmp(word, "comment") == 0 || strcmp(word, "subtype") == 0)
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(ignored_words); i++)
		if (strcmp(word, ignored_words[i]) == 0)
			return true;
	return false;
}

/* As for any mount, the last of two opposite words counts: mount(8) puts what it was told behind what fstab has. */
static void word_takes_back(struct args *a, const char *word)
{
	const struct {
		const char *word;
		bool *flag;
	} opposites[] = {
	    {"rw", &a->read_only}, {"suid", &a->nosuid},   {"dev", &a->nodev},
	    {"exec", &a->noexec},  {"atime", &a->noatime}, {"relatime", &a->noatime},
	};

	for (size_t i = 0; i < ARRAY_SIZE(opposites); i++)
		if (strcmp(word, opposites[i].word) == 0)
			*opposites[i].flag = false;
}

static int word_parse(struct args *a, const char *word, char *value)
{
	for (size_t i = 0; i < ARRAY_SIZE(option_rows); i++)
		if (option_rows[i].verbs & IN_LIST && word_is(word, option_rows[i].name))
			return row_apply(&option_rows[i], true, value, a);
	word_takes_back(a, word);
	if (word_is_ignored(word))
		return 0;
	if (strcmp(word, "remount") == 0)
		complain("-o remount: clawfs cannot change a mount; use `clawfs umount` and mount again");
	else
		complain("-o %s: no such option; `clawfs mount --help` lists them", word);
	return -EINVAL;
}

/* "a,b=1", cut into words where it stands, in argv: the arguments borrow them.  A comma in a value is written "\,". */
static int list_parse(struct args *a, char *list)
{
	char *in = list, *out;
	int r = 0;

	while (r == 0 && *in) {
		char *word = out = in, *value = NULL;

		for (; *in && *in != ','; in++) {
			if (*in == '\\' && in[1])
				in++;
			else if (*in == '=' && !value) {
				*in = '\0';
				value = out + 1;
			}
			*out++ = *in;
		}
		if (*in)
			in++;
		*out = '\0';
		if (*word)
			r = word_parse(a, word, value);
	}
	return r;
}

static bool row_has_value(const struct option_row *row)
{
	return row->kind != KIND_FLAG && row->kind != KIND_IGNORED;
}

/* Long options carry the row's number, letters their own code. */
struct getopt_table {
	struct option long_options[ARRAY_SIZE(option_rows) + 1];
	char letters[2 * ARRAY_SIZE(option_rows) + 2];
};
#define LONG_BASE 1000

static void getopt_table_make(uint64_t verb, struct getopt_table *t)
{
	size_t n = 0, n_letters = 0;

	t->letters[n_letters++] = ':'; /* report missing values apart from unknown options, and print nothing */
	for (size_t i = 0; i < ARRAY_SIZE(option_rows); i++) {
		if (!(option_rows[i].verbs & verb))
			continue;
		t->long_options[n++] =
		    (struct option){option_rows[i].name, row_has_value(&option_rows[i]) ? required_argument : no_argument, NULL,
				    LONG_BASE + (int)i};
		if (option_rows[i].letter) {
			t->letters[n_letters++] = option_rows[i].letter;
			if (row_has_value(&option_rows[i]))
				t->letters[n_letters++] = ':';
		}
	}
	t->long_options[n] = (struct option){0};
	t->letters[n_letters] = '\0';
}

static const struct option_row *row_of(uint64_t verb, int code)
{
	if (code >= LONG_BASE)
		return &option_rows[code - LONG_BASE];
	for (size_t i = 0; i < ARRAY_SIZE(option_rows); i++)
		if (option_rows[i].verbs & verb && option_rows[i].letter == code)
			return &option_rows[i];
	return NULL;
}

static int operands_take(const struct verb *verb, int argc, char **argv, struct args *a)
{
	if (a->help)
		return 0;
	a->n_operands = argc - optind;
	if (a->n_operands > verb->n_operands || a->n_operands < verb->n_operands - verb->n_optional) {
		complain("%s takes %s; see `clawfs %s --help`", verb->name, verb->operands, verb->name);
		return -EINVAL;
	}
	for (int i = 0; i < a->n_operands; i++)
		a->operand[i] = argv[optind + i];
	return 0;
}

int args_parse(const struct verb *verb, int argc, char **argv, struct args *ret)
{
	struct getopt_table table;
	int code, r;

	*ret = (struct args){.reserve_bytes = 256 * MIB, .ttl_ns = SECONDS(3600), .timeout_ns = SECONDS(60)};
	getopt_table_make(verb->bit, &table);
	optind = 1;
	while ((code = getopt_long(argc, argv, table.letters, table.long_options, NULL)) != -1) {
		const struct option_row *row = code == '?' || code == ':' ? NULL : row_of(verb->bit, code);

		if (!row) {
			complain("%s: %s; see `clawfs %s --help`", argv[optind - 1],
				 code == ':' ? "needs a value" : "no such option, or it takes no value", verb->name);
			return -EINVAL;
		}
		r = row_apply(row, false, optarg, ret);
		if (r < 0)
			return r;
	}
	return operands_take(verb, argc, argv, ret);
}
