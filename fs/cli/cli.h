/*
 * cli.h: what the verbs of the `clawfs` program share: their arguments, exit codes and the words said to an admin.
 *
 * Threads: one, but for a mount once it serves.  Errors: a verb prints what went wrong and what to do, and returns an exit
 * code; helpers return 0 or -errno and print nothing unless said so.
 */
#pragma once

#include <jansson.h>

#include "base/log.h"
#include "fs/core/fs.h"
#include "fs/store/crypt/keys.h"
#include "fs/store/super.h"

/* Documented in --help and docs/OPERATIONS.md; those of fsck are those of fsck(8), those of mount those of mount(8). */
enum exit_code {
	EXIT_OK = 0,
	EXIT_FAILED = 1,     /* fsck: the volume was repaired; upgrade: it can only be read */
	EXIT_DAMAGED = 4,    /* fsck, dump and audit: damage that stays; upgrade: it cannot be mounted */
	EXIT_FSCK_ERROR = 8, /* fsck, upgrade, audit --verify: could not check */
	EXIT_USAGE = 16,
	EXIT_MOUNT = 32, /* mount, mount.clawfs and `clawfs SOURCE MOUNTPOINT`: not mounted */
};

/* One bit of 64 a verb: which verbs take an option.  IN_LIST: the option is also a word of -o. */
enum {
	VERB_FORMAT = 1 << 0,
	VERB_MOUNT = 1 << 1,
	VERB_UMOUNT = 1 << 2,
	VERB_STATUS = 1 << 3,
	VERB_INFO = 1 << 4,
	VERB_SYNC = 1 << 5,
	VERB_FSCK = 1 << 6,
	VERB_DUMP = 1 << 7,
	VERB_HELPER = 1 << 8, /* as mount(8) calls it: mount.clawfs SOURCE MOUNTPOINT -o ... */
	VERB_PEER_INVITE = 1 << 9,
	VERB_PEER_JOIN = 1 << 10,
	VERB_PEER_LIST = 1 << 11,
	VERB_PEER_REMOVE = 1 << 12,
	VERB_PEER_RENAME = 1 << 13,
	VERB_PROMOTE = 1 << 14,
	VERB_HANDOVER = 1 << 15,
	VERB_RESYNC = 1 << 16,
	VERB_DIVERGED_LIST = 1 << 17,
	VERB_DIVERGED_EXPORT = 1 << 18,
	VERB_DURABILITY = 1 << 19,
	VERB_WAIT = 1 << 20,
	VERB_TIER_ADD = 1 << 21,
	VERB_TIER_LIST = 1 << 22,
	VERB_TIER_TEST = 1 << 23,
	VERB_TIER_REMOVE = 1 << 24,
	VERB_TIER_SHOW = 1 << 25,
	VERB_TIER_EVICT = 1 << 26,
	VERB_TIER_RECALL = 1 << 27,
	VERB_TIER_PIN = 1 << 28, /* and unpin, which take no options of their own either */
	VERB_GC = 1 << 29,
	VERB_UPGRADE = 1 << 30,
	/* From here on UINT64_C(1) << n: beyond int, which C11 leaves to the compiler and C23 allows. */
#define VERB_DU             (UINT64_C(1) << 31)
#define VERB_QUOTA_SET      (UINT64_C(1) << 32)
#define VERB_QUOTA_SHOW     (UINT64_C(1) << 33) /* and list */
#define VERB_SNAP           (UINT64_C(1) << 34) /* create and delete, which take no options of their own */
#define VERB_SNAP_LIST      (UINT64_C(1) << 35) /* and diff */
#define VERB_SCRUB_START    (UINT64_C(1) << 36)
#define VERB_SCRUB_STATUS   (UINT64_C(1) << 37)
#define VERB_SCRUB          (UINT64_C(1) << 38) /* pause, stop, clear and release, which take no options of their own */
#define VERB_WATCH          (UINT64_C(1) << 39)
#define VERB_AUDIT          (UINT64_C(1) << 40)
#define VERB_STATS          (UINT64_C(1) << 41)
#define VERB_TOP            (UINT64_C(1) << 42)
#define VERB_PROFILE        (UINT64_C(1) << 43)
#define VERB_ARCHIVE_SET    (UINT64_C(1) << 44)
#define VERB_ARCHIVE_STATUS (UINT64_C(1) << 45)
#define VERB_ARCHIVE        (UINT64_C(1) << 46) /* off, now and key, which take no options of their own */
#define VERB_RESTORE        (UINT64_C(1) << 47)
#define VERB_DRILL          (UINT64_C(1) << 48)
#define VERB_KEY_LIST       (UINT64_C(1) << 49)
#define VERB_KEY_ADD        (UINT64_C(1) << 50)
#define VERB_KEY_REMOVE     (UINT64_C(1) << 51)
#define VERB_KEY_CHANGE     (UINT64_C(1) << 52)
#define VERB_SNAP_ROLLBACK  (UINT64_C(1) << 53)
#define VERB_CLONE          (UINT64_C(1) << 54)
#define VERB_COMPRESS       (UINT64_C(1) << 55)
	IN_LIST = UINT64_C(1) << 63,
	VERB_ALL = IN_LIST - 1,
};

struct args {
	const char *operand[3]; /* borrowed from argv, as all text here */
	int n_operands;
	bool help, json, verbose;
	mode_t umask; /* of the caller, for files that are not the volume's */

	uint64_t journal_bytes, segment_bytes, chunk_bytes; /* 0: not given */
	uint64_t max_bytes, reserve_bytes;
	const char *label, *confirm;
	bool force;

	bool foreground, fake, read_only, allow_other, noatime, strict_open, nosuid, nodev, noexec;
	uint64_t memory_bytes, n_workers;
	uint64_t commit_ns, checkpoint_ns;
	bool commit_given;
	const char *fsname, *log_path, *metrics;
	bool metrics_anywhere;

	const char *listen, *advertise, *name, *address;
	uint64_t replica_rate, ttl_ns;

	uint64_t recall_rate, high_water;
	uint64_t scrub_rate, archive_wait_ns;
	bool archive_wait_given;
	bool cold, wait;
	/* of `tier add`, as words of a store's definition */
	const char *endpoint, *region, *storage_class, *ca_file, *prices, *verify;
	const char *store_rate, *store_requests, *store_budget, *store_grace, *store_timeout, *pack_size;
	bool path_style, insecure, no_encrypt;
	const char *credentials, *profile;
	bool dry_run;
	bool no_keep;

	const char *archive_interval, *archive_base, *archive_keep;
	const char *at, *key_file, *aside; /* beside `from` and `path` */
	bool list;

	uint64_t timeout_ns;
	uint64_t watch_ns, count;

	const char *encrypt, *key, *new_key, *staging, *slot; /* key, new_key: where a secret is (secret.h) */

	bool no_data;
	bool only_super, only_journal, only_index;
	bool check;

	const char *max_quota_bytes, *max_quota_files; /* as the attributes take them */

	const char *from, *path, *ops; /* of `watch`; from and path of `restore`, too */
	bool once;

	const char *since, *until, *expect; /* of `audit` */
	bool verify_log, head, follow, uid_given;
	uint64_t uid;

	const char *audit; /* of mount */
	bool audit_strict;
	uint64_t audit_keep, audit_keep_ns;
};

struct verb {
	const char *name; /* one word, or two: "peer list" */
	uint64_t bit;
	const char *operands; /* for the usage line: "DIR MOUNTPOINT" */
	int n_operands;
	const char *summary, *details;
	int (*run)(const struct args *a);
	int n_optional; /* operands that may be left out, the first ones */
};
extern const struct verb verbs[];
extern const size_t n_verbs;
/* The part of `verb`'s name after the word `group`, when that is its first; else NULL. */
const char *verb_in_group(const struct verb *verb, const char *group);

/* options.c: prints what is wrong and returns -EINVAL; argv[0] is skipped. */
MUST_CHECK int args_parse(const struct verb *verb, int argc, char **argv, struct args *ret);

/* help.c */
void help_print(const struct verb *verb); /* NULL: the program */
void help_group(const char *group);       /* the verbs that begin with this word */
void help_table(void);                    /* all of it for programs */

/* units.c */
MUST_CHECK int size_parse(const char *text, uint64_t *ret_bytes); /* "64M"; -EINVAL, -ERANGE */
MUST_CHECK int seconds_parse(const char *text, uint64_t *ret_ns); /* "0.5", "500ms", "2h"; -EINVAL, -ERANGE */

int verb_format(const struct args *a);
int verb_mount(const struct args *a);
int verb_umount(const struct args *a);
int verb_status(const struct args *a);
int verb_info(const struct args *a);
int verb_sync(const struct args *a);
int verb_fsck(const struct args *a);
int verb_dump(const struct args *a);
int verb_peer_invite(const struct args *a);
int verb_peer_join(const struct args *a);
int verb_peer_list(const struct args *a);
int verb_peer_remove(const struct args *a);
int verb_peer_rename(const struct args *a);
int verb_promote(const struct args *a);
int verb_handover(const struct args *a);
int verb_resync(const struct args *a);
int verb_diverged_list(const struct args *a);
int verb_diverged_export(const struct args *a);
int verb_durability(const struct args *a);
int verb_wait(const struct args *a);
int verb_clone(const struct args *a);
int verb_snap_create(const struct args *a);
int verb_snap_delete(const struct args *a);
int verb_snap_list(const struct args *a);
int verb_snap_diff(const struct args *a);
int verb_snap_rotate(const struct args *a);
int verb_snap_rollback(const struct args *a);
int verb_snap_schedule(const struct args *a);
int verb_tier_add(const struct args *a);
int verb_tier_list(const struct args *a);
int verb_tier_test(const struct args *a);
int verb_tier_remove(const struct args *a);
int verb_tier_show(const struct args *a);
int verb_tier_evict(const struct args *a);
int verb_tier_recall(const struct args *a);
int verb_tier_pin(const struct args *a);
int verb_tier_unpin(const struct args *a);
int verb_gc(const struct args *a);
int verb_upgrade(const struct args *a);
int verb_du(const struct args *a);
int verb_quota_set(const struct args *a);
int verb_quota_show(const struct args *a);
int verb_quota_list(const struct args *a);
int verb_watch(const struct args *a);
int verb_audit(const struct args *a);
int verb_stats(const struct args *a);
int verb_top(const struct args *a);
int verb_profile(const struct args *a);
int verb_key_list(const struct args *a);
int verb_key_add(const struct args *a);
int verb_key_remove(const struct args *a);
int verb_key_change(const struct args *a);
int verb_scrub_start(const struct args *a);
int verb_scrub_pause(const struct args *a);
int verb_scrub_stop(const struct args *a);
int verb_scrub_status(const struct args *a);
int verb_scrub_clear(const struct args *a);
int verb_scrub_release(const struct args *a);
int verb_archive_set(const struct args *a);
int verb_archive_status(const struct args *a);
int verb_archive_off(const struct args *a);
int verb_archive_now(const struct args *a);
int verb_archive_key(const struct args *a);
int verb_compress(const struct args *a);
int verb_restore(const struct args *a);
int verb_drill(const struct args *a);

/* tier.c: the definition of a store that `url` and options make, as text that ends with NUL. */
void tier_definition_text(const struct args *a, const char *url, struct buf *out);

/* tier_files.c: the root of the mount that `path` is on: the highest directory of the same device; PATH_MAX bytes. */
MUST_CHECK int mountpoint_of(const char *path, char *ret);

/* volume.c: a volume's directory as the other folders want it.  The file of this name is there while a restore makes it. */
#define VOLUME_RESTORING "restoring"
struct volume_config {
	char *dir; /* absolute; owned */
	uint64_t cache_bytes;
	struct data_key key; /* of an encrypted one; wiped by volume_close() */
	struct batch_mac *mac; /* in aead mode */
	struct fs_config fs; /* fs.diverged is owned here, and outlives the mounted volume */
};
/*
 * Resolves `dir`, locks the store and fills in v->fs (store, kv_open, memory).  Prints what is wrong.  `memory_bytes` 0: the
 * default.  The store is the volume's until fs_open() took it over: volume_close() gives back what is still here.
 */
MUST_CHECK int volume_open(const char *dir, bool create, uint64_t memory_bytes, struct volume_config *v);
void volume_close(struct volume_config *v);
/* The superblock's copies read past the lock, for a volume that may be mounted; ret_valid[i]: copy i is good. -ENODATA. */
MUST_CHECK int volume_peek(const char *dir, struct super ret_copy[2], bool ret_valid[2]);
/* The copy in force of those, NULL when none is. */
const struct super *volume_newest(const struct super copy[2], const bool valid[2]);
/* Prints "clawfs: WHAT DIR: reason" and what to do about it. */
void volume_complain(const char *what, const char *dir, int error);
/* Waits until nobody holds the lock of the store; -ETIMEDOUT. */
MUST_CHECK int volume_wait_free(const char *dir, uint64_t timeout_ns);

/* encrypt.c; each prints what is wrong. */
/* Before a fork: asks for the secret of the volume in `dir` if it is encrypted; ret->mode tells.  To be wiped. */
MUST_CHECK int volume_unlock(const struct args *a, const char *dir, struct data_key *ret);
/* After volume_open(): what v->fs stands on is encrypted with `key`; does nothing for ENCRYPTION_NONE. */
MUST_CHECK int volume_encrypt(const struct args *a, struct volume_config *v, const struct data_key *key);
/* The three in one, for those who do not fork. */
MUST_CHECK int volume_open_locked(const struct args *a, const char *dir, struct volume_config *v);
/* *kv becomes one around it, or on an error NULL. */
MUST_CHECK int volume_wrap_index(const struct volume_config *v, struct kv **kv);
/* What the options ask for. */
MUST_CHECK int format_encryption(const struct args *a, enum encryption *ret);
/* Makes the keys that the options ask for, and encrypts what v->fs stands on; sets the uuids in `o` that are not. */
MUST_CHECK int format_encrypt(const struct args *a, struct volume_config *v, struct fs_format_options *o);
/* The keys of the volume in `dir`, and its data key by the secret at `spec`.  To be wiped. */
MUST_CHECK int keys_unlock(const char *dir, const char *spec, struct keys_block *ret_keys, struct data_key *ret_key, unsigned *ret_slot);
void keys_complain(const char *dir, int error);

/* format.c: begin, volume, end; each prints what is wrong. */
struct volume_sizes {
	uint64_t journal_bytes, segment_bytes, chunk_bytes;
};
struct format_target {
	struct volume_config v;
	bool made_dir;
};
bool format_force_is_right(const struct args *a, const char *dir);
/* What the options ask for together, and `usual` where they say nothing; -EINVAL when that cannot be. */
MUST_CHECK int format_plan(const struct args *a, const struct volume_sizes *usual, struct fs_format_options *ret);
/* Takes the directory, new, empty, or to be formatted over, and leaves it empty. */
MUST_CHECK int format_begin(const struct args *a, const char *dir, struct format_target *t);
/* `o` gets the uuids of an encrypted volume. */
MUST_CHECK int format_volume(const struct args *a, struct format_target *t, struct fs_format_options *o);
/* With r == 0 makes the directory's name durable, else takes back what was made.  Returns r, or what failed here. */
MUST_CHECK int format_end(struct format_target *t, int r);

/* mounts.c: the mount table, read without touching any filesystem. */
struct mount_entry {
	char *mountpoint, *type, *source, *options; /* owned */
	unsigned major, minor;
};
/* The topmost mount at exactly `path`, as given or resolved; -ENOENT. */
MUST_CHECK int mounts_find(const char *path, struct mount_entry *ret);
bool mount_is_clawfs(const struct mount_entry *m);
/*
 * Where the volume in `dir` is mounted: at `place`, when that is a mountpoint, or as the mount table's first field says; owned.
 * -ENOENT.
 */
MUST_CHECK int mounts_of_volume(const char *dir, const char *place, char **ret_mountpoint);
void mount_entry_free(struct mount_entry *m);
/* Prints at most ten processes that use files below the mountpoint; returns how many lines that were. */
int mounts_print_users(const char *mountpoint);
/* umount2(2), or fusermount3 for those who may not. */
MUST_CHECK int mounts_detach(const char *mountpoint);
/* What programs wrote and the kernel still holds goes to the daemon. */
MUST_CHECK int mount_flush(const char *mountpoint);

/* umount_helper.c: as umount(8) calls it; argv[0] is the name it was called by.  Returns an exit code of umount(8). */
int umount_helper(int argc, char **argv);

/* print.c: facts for people.  A JSON object as an indented table; numbers by the unit their name ends in. */
void facts_print(const json_t *object);
void json_print(const json_t *object);
/* What may be the name of a file, or have one in it, as a line of text (printable.h). */
void text_print(const char *text);
/* A path that is a JSON string, or {"hex": DIGITS}, or something else (""): borrowed. */
const char *path_text(const json_t *path);
/* Any bytes as a JSON string: hex where they are not UTF-8. */
json_t *bytes_json(struct slice s);
void size_text(uint64_t bytes, char *ret_text, size_t cap);

/* attribute.c: attribute "clawfs." `name` of `path`, of at most 64 KiB, as text; -ENODATA also on another filesystem. */
MUST_CHECK int attribute_read(const char *path, const char *name, struct buf *ret_text);
/* The same as JSON of any kind; -EPROTO when it is none. */
MUST_CHECK int attribute_json(const char *path, const char *name, json_t **ret);
MUST_CHECK int attribute_set(const char *path, const char *name, const char *value);
/* The same, only by ioctl(2); -ENOTTY where that is not possible. */
MUST_CHECK int attribute_command(const char *path, const char *name, const char *value);
MUST_CHECK int attribute_remove(const char *path, const char *name); /* also when it is not there */
/* A text that must be JSON, to be released with json_decref(); -EPROTO. */
MUST_CHECK int json_parse(const struct buf *text, json_t **ret);

/* status.c: the xattr clawfs.status of `path` as a JSON object; -errno of getxattr, -ENODATA on another filesystem. */
MUST_CHECK int status_read(const char *path, json_t **ret_object);
/* Prints why a daemon could not be asked. */
void complain_unreachable(const char *path, int error);
/* The volume's directory: what `path` is, or what the daemon mounted at `path` says; owned, NULL with errno. */
char *directory_of(const char *path);
/* What a superblock says, as a new JSON object. */
json_t *super_facts(const struct super *s);

/* stores.c: fs_config.object_store_open for the volume in `dir`, which is borrowed and outlives the volume. */
int stores_open_object_store(void *dir, const char *name, const struct store_definition *d, struct object_store **ret_store,
			     char *message);
/*
 * The credentials of store `name` on this node become those of `file`, or, with NULL, those of this program's environment; prints
 * what is wrong.  They are kept in a file that only the owner of the volume's directory can read.
 */
MUST_CHECK int stores_keep_credentials(const char *dir, const char *name, const char *file, const char *profile);
/* A directory becomes a store, or is one; prints what is wrong. */
MUST_CHECK int stores_make_directory(const struct store_definition *d);
int stores_drop_credentials(const char *dir, const char *name);

/* snap.c: adds what `clawfs snap list --json` prints for the volume at `path`. */
MUST_CHECK int snap_read_list(const char *path, json_t *all);

/* replica.c: prints "clawfs: WHAT: why" for an attribute that could not be set or read. */
void complain_admin(const char *what, const char *path, int error);

/*
 * replication.c: the mounted volume among its peers.  All but start do nothing with NULL, which is what a volume that is alone has.
 */
struct replication;
struct face;
struct control_provider;
/* Prints what is wrong.  *ret may be set with an error too: free it once the volume is closed. */
MUST_CHECK int replication_start(const struct args *a, const char *dir, struct fs *fs, struct replication **ret);
/* A leader gives its peers up to 2 s to say that another one leads: fs_role() tells then. */
void replication_ask(struct replication *r);
const struct control_provider *replication_provider(const struct replication *r);
/* Who is told of a new role; NULL before it goes. */
void replication_set_face(struct replication *r, struct face *face);
/* face_options.stopping: writers that wait for the end of a hand-over go on, as a restart would let them. */
void replication_let_go(void *replication);
/* The mount is gone: followers that are connected get up to 5 s for what they still lack, then the network is left. */
void replication_stop(struct replication *r);
/* Once the volume is closed. */
struct replication *replication_free(struct replication *r);

/* daemon.c */
struct startup {
	int fd;     /* the pipe to the parent; -1 in the foreground */
	int log_fd; /* the file of -o log; -1 when none */
};
/*
 * Splits off the daemon: returns 0 in it, with s->fd set; the parent never returns: it waits for the daemon's word and exits.
 * Call before anything starts a thread.  Until startup_finish() the daemon's stderr is the terminal.
 */
MUST_CHECK int startup_fork(const char *mountpoint, struct startup *s);
/* The daemon's word: EXIT_OK: mounted; else why not was printed.  From here on stderr is the log file or nothing. */
void startup_finish(struct startup *s, enum exit_code code);
/* stderr becomes the file of -o log, if any. */
void startup_to_log(const struct startup *s);
/* What a process under a filesystem needs: no swapping, no heap for each thread, no recursion into itself, no death by a signal. */
void process_harden(void);
/* At least `n` descriptors, as far as the hard limit goes. */
void process_need_files(uint64_t n);

#define complain(...) complain_line("clawfs: " __VA_ARGS__)
/* One line on stderr, printable (printable.h). */
void complain_line(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* The last one; empty when there was none. */
const char *complained_last(void);
