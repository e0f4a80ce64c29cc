/*
 * mount.c: `clawfs mount`, and what mount(8) calls: from two directories to a mount that answers, and back.
 *
 *     check what can be checked -> fork (daemon.c) -> lock and open the store -> fs_open (recovery) -> peers -> face_mount
 *     -> word to the parent -> face_run ... unmount or SIGTERM ... face_close -> peers leave -> fs_close (checkpoint)
 *
 * What goes wrong before the word is told at the terminal; later messages go to syslog or the file of -o log.  SIGTERM and
 * SIGINT end face_run(), which unmounts, so that the kernel hands over the dirty pages it holds while they can be taken.
 * Before the mount is there they kill the process, which harms nothing: recovery is idempotent.
 *
 * In the foreground the steps are told to systemd too (sdnotify.c), where it started this.
 *
 * A leader that has to follow loses its mount, which suits a leader only, and is mounted anew at the same place.  For that moment
 * the directory underneath is seen.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/log.h"
#include "fs/cli/sdnotify.h"
#include "fs/core/archive/archiving.h"
#include "fs/face/face.h"
#include "fs/metrics/exporter.h"

#define ARCHIVE_WAIT_NS   (10 * NSEC_PER_SEC)
#define COMMIT_NS_MIN     1000000 /* of the timer; shorter would only burn the processor */
#define DESCRIPTORS_SPARE 160     /* the index, the FUSE device, libraries, and some for an admin's surprise */
#define DESCRIPTORS_PEERS 80      /* connections, at most */

struct serving {
	char dir[PATH_MAX], mountpoint[PATH_MAX];
	struct startup startup;
	struct data_key key;             /* mode none: not encrypted */
	struct replication *replication; /* NULL: the volume is alone */
	struct face *face;
	struct metrics *metrics;
	struct exporter_address metrics_at;
	struct exporter *exporter;
};

/* Readable from the first signal on, for whichever face there is: a handler has no other way to it. */
static int signal_fd = -1;

static void on_signal(int signo)
{
	const uint64_t one = 1;
	const int e = errno; /* belongs to whatever was interrupted */
	ssize_t n = write(signal_fd, &one, sizeof(one));

	(void)signo;
	(void)n;
	errno = e;
}

static bool is_inside(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0' || n == 1);
}

static int complain_mountpoint(const char *mountpoint, int error)
{
	if (error == -ENOENT)
		complain("mountpoint %s is not there: create it with mkdir -p %s", mountpoint, mountpoint);
	else if (error == -ENOTCONN)
		complain("mountpoint %s has a mount whose daemon is gone: clawfs umount %s first", mountpoint, mountpoint);
	else
		complain("mountpoint %s: %s", mountpoint, strerror(-error));
	return error;
}

/* Resolves both directories, for the daemon works in /, and says what is wrong with the pair. */
static int check_places(const char *dir, const char *mountpoint, struct serving *s)
{
	struct stat st;

	if (!realpath(dir, s->dir)) {
		int r = -errno;

		volume_complain("cannot mount", dir, r);
		return r;
	}
	if (!realpath(mountpoint, s->mountpoint) || stat(s->mountpoint, &st) < 0)
		return complain_mountpoint(mountpoint, -errno);
	if (!S_ISDIR(st.st_mode))
		return complain_mountpoint(mountpoint, -ENOTDIR);
	if (is_inside(s->dir, s->mountpoint) || is_inside(s->mountpoint, s->dir)) {
		complain("%s and %s: the mount would hide or fill its own store; choose a mountpoint elsewhere", s->dir,
			 s->mountpoint);
		return -EINVAL;
	}
	return 0;
}

static int check_device(void)
{
	if (access("/dev/fuse", R_OK | W_OK) == 0)
		return 0;
	int r = -errno;
	complain("cannot open /dev/fuse: %s: %s", strerror(-r),
		 r == -ENOENT ? "load the kernel module (modprobe fuse), or give the container the device" : "mount as root");
	return r;
}

static bool has_peers(const char *dir)
{
	char path[PATH_MAX];

	return snprintf(path, sizeof(path), "%s/peers", dir) < (int)sizeof(path) && access(path, F_OK) == 0;
}

/* The limit follows from how many files the volume can have. */
static void allow_descriptors(const struct args *a, const char *dir, enum encryption encryption)
{
	const uint64_t spare = DESCRIPTORS_SPARE + (a->listen || has_peers(dir) ? DESCRIPTORS_PEERS : 0);
	struct super copy[2];
	bool valid[2];
	struct statvfs host;

	if (volume_peek(dir, copy, valid) < 0 || !volume_newest(copy, valid) || statvfs(dir, &host) < 0)
		return; /* fs_open says what is wrong with it */
	const struct super *s = volume_newest(copy, valid);
	uint64_t most =
	    min_u64(host.f_blocks * host.f_frsize, s->max_blocks == UINT64_MAX ? UINT64_MAX : s->max_blocks * BLOCK_SIZE);
	const unsigned files = encryption == ENCRYPTION_AEAD ? 2 : 1; /* a chunk */
	process_need_files(s->journal_segments + files * div_round_up(most, max_u64(s->chunk_kib * KIB, MIB)) + spare);
}

static int catch_signals(void)
{
	const struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

	signal_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (signal_fd < 0)
		return -errno;
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGINT, &act, NULL);
	return 0;
}

/* Late signals find no face any more. */
static void drop_signals(void)
{
	const struct sigaction ignore = {.sa_handler = SIG_IGN};

	sigaction(SIGTERM, &ignore, NULL);
	sigaction(SIGINT, &ignore, NULL);
}

static void log_recovery(struct fs *fs, const struct serving *s)
{
	struct fs_recovery rec;

	fs_get_recovery(fs, &rec);
	log_info("%s mounted at %s%s%s", s->dir, s->mountpoint, fs_role(fs) == ROLE_FOLLOWER ? " as a follower" : "",
		 rec.was_clean ? "" : " after a crash");
	if (!rec.was_clean)
		log_info("replayed %" PRIu64 " batches with %" PRIu64 " records and %" PRIu64
			 " not yet committed ones in %" PRId64 " ms; %" PRIu64 " files were unlinked but open",
			 rec.batches, rec.records, rec.staged_records, rec.nanoseconds / 1000000, rec.orphans);
}

/* Nothing depends on a word that is lost but the unit that waits for it. */
static void tell_manager(const char *words)
{
	int r = sdnotify(words);

	if (r < 0)
		log_warn("the service manager cannot be told how it stands: %s", strerror(-r));
}

static int attach(const struct args *a, struct fs *fs, struct serving *s)
{
	char extra[32];
	struct face_options o = {
	    .mountpoint = s->mountpoint,
	    .fsname = a->fsname ? a->fsname : s->dir,
	    .extra_options = extra,
	    .allow_other = a->allow_other,
	    .read_only = a->read_only,
	    .strict_open = a->strict_open,
	    .follower = !fs_takes_changes(fs), /* it may follow, or offered the lead to one that may lead by now */
	    .stop_fd = signal_fd,
	    .stopping = replication_let_go,
	    .stopping_ctx = s->replication,
	    .provider = replication_provider(s->replication),
	    .metrics = s->metrics,
	    .n_workers = a->n_workers ? (uint32_t)a->n_workers : face_default_workers(),
	};

	snprintf(extra, sizeof(extra), "%s%s%s", a->nosuid ? "nosuid," : "", a->nodev ? "nodev," : "",
		 a->noexec ? "noexec," : "");
	if (*extra)
		extra[strlen(extra) - 1] = '\0';
	int r = face_mount(fs, &o, &s->face);
	if (r < 0)
		return r;
	replication_set_face(s->replication, s->face);
	return 0;
}

static void detach(struct serving *s)
{
	replication_set_face(s->replication, NULL);
	s->face = face_close(s->face);
}

/* What this program did, as the user who runs it; -EIO when it must be in the audit log and cannot be. */
static int log_act(struct fs *fs, const char *what, const char *value, int result)
{
	const struct fs_cred self = {.uid = getuid(), .gid = getgid(), .pid = (uint32_t)getpid()};
	uint64_t act;
	int r = fs_audit_act(fs, &self, what, 0, &(struct slice){value, strlen(value)}, &act);

	if (r == 0)
		fs_audit_result(fs, act, result);
	return r;
}

static int log_mount(struct fs *fs, const struct serving *s)
{
	char value[PATH_MAX + 64];

	snprintf(value, sizeof(value), "%s as a %s, clawfs %s", s->mountpoint, fs_role(fs) == ROLE_LEADER ? "leader" : "follower",
		 CLAWFS_VERSION);
	return log_act(fs, "mount", value, 0);
}

/* Serves, as a leader's mount and as a follower's in turn. */
static int serve(const struct args *a, struct fs *fs, struct serving *s)
{
	int r;

	while ((r = face_run(s->face)) == FACE_REMOUNT) {
		detach(s);
		r = fs_forget_all(fs);
		if (r == 0)
			r = attach(a, fs, s);
		if (r == 0)
			(void)log_mount(fs, s); /* nobody asked for it, so nobody can be refused */
		if (r < 0) {
			log_error("%s: mounting it anew: %s", s->mountpoint, strerror(-r));
			return r;
		}
		log_info("%s mounted anew at %s as a %s", s->dir, s->mountpoint,
			 fs_role(fs) == ROLE_LEADER ? "leader" : "follower");
	}
	detach(s);
	if (r < 0)
		log_error("%s: the FUSE connection failed: %s", s->mountpoint, strerror(-r));
	return r;
}

/* What is wrong with metrics= is told before anything else happens. */
static int check_metrics(const struct args *a, struct serving *s)
{
	const char *why = NULL;
	int r = a->metrics ? exporter_parse(a->metrics, a->metrics_anywhere, &s->metrics_at, &why) : 0;

	if (r < 0)
		complain("-o metrics=%s: %s; see --help", a->metrics, why);
	return r;
}

static int start_metrics(const struct args *a, struct fs *fs, struct serving *s)
{
	int r = metrics_new(fs, &s->metrics);

	if (r < 0 || !a->metrics)
		return r;
	r = exporter_start(s->metrics, &s->metrics_at, &s->exporter);
	if (r < 0)
		complain("cannot serve metrics at %s: %s", a->metrics, strerror(-r));
	return r;
}

static void stop_metrics(struct serving *s)
{
	s->exporter = exporter_stop(s->exporter);
	s->metrics = metrics_free(s->metrics);
}

/* What waits for others to share its object goes to the archive, if its store answers in time. */
static void settle_archive(const struct args *a, struct fs *fs)
{
	int64_t wait_ns = a->archive_wait_given ? (int64_t)a->archive_wait_ns : ARCHIVE_WAIT_NS;
	uint64_t behind;
	int r = fs_archive_settle(fs, wait_ns, &behind);

	if (behind)
		log_warn("unmounted with %" PRIu64 " batches that are not in the archive yet%s%s: the next mount sends them, and "
			 "until then the archive ends before them",
			 behind, wait_ns ? ": " : "",
			 !wait_ns          ? ""
			 : r == -ETIMEDOUT ? "there was no time"
					   : strerror(-r));
}

/* From the mount to a closed volume. */
static int run(const struct args *a, struct fs *fs, struct serving *s)
{
	if (s->startup.fd >= 0 && !a->log_path)
		log_setup(a->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, true);
	startup_to_log(&s->startup);
	log_recovery(fs, s);
	startup_finish(&s->startup, EXIT_OK);
	tell_manager("READY=1\nSTATUS=mounted");
	int r_run = serve(a, fs, s);
	drop_signals();
	tell_manager("STOPPING=1\nSTATUS=unmounted, writes the last checkpoint");
	stop_metrics(s);
	replication_stop(s->replication);
	(void)log_act(fs, "unmount", s->mountpoint, r_run);
	settle_archive(a, fs);
	int r = fs_close(fs);
	if (r < 0)
		log_error("%s was not closed cleanly: %s; the next mount replays the journal", s->dir, strerror(-r));
	else
		log_info("%s unmounted from %s", s->dir, s->mountpoint);
	return r < 0 || r_run < 0 ? EXIT_FAILED : EXIT_OK;
}

static void config_set(const struct args *a, struct fs_config *c)
{
	c->read_only = a->read_only;
	c->noatime = a->noatime;
	c->object_store_open = stores_open_object_store;
	c->recall_rate = a->recall_rate;
	c->scrub_rate = a->scrub_rate;
	c->high_water = (uint32_t)a->high_water;
	c->audited = true;
	c->audit = !a->audit || strcmp(a->audit, "admin") == 0 ? FS_AUDIT_ADMIN
		   : strcmp(a->audit, "changes") == 0          ? FS_AUDIT_CHANGES
							       : FS_AUDIT_OFF;
	c->audit_strict = a->audit_strict;
	c->audit_keep = a->audit_keep;
	c->audit_keep_ns = (int64_t)a->audit_keep_ns;
	c->lead_later = true; /* another node may lead by now */
	c->n_workers = (a->n_workers ? (uint32_t)a->n_workers : face_default_workers()) + FACE_LANES;
	c->n_receivers = a->n_workers ? (uint32_t)a->n_workers : face_default_workers();
	/* 0 means "the default" there and "as soon as possible" here. */
	c->commit_interval_ns = a->commit_given ? (int64_t)max_u64(a->commit_ns, COMMIT_NS_MIN) : 0;
	c->checkpoint_interval_ns = (int64_t)a->checkpoint_ns;
}

/* The reason was printed; the log file gets it too. */
static int not_mounted(struct serving *s)
{
	char reason[512];

	log_last_error(reason, sizeof(reason));
	if (!*reason)
		snprintf(reason, sizeof(reason), "%s", complained_last());
	startup_finish(&s->startup, EXIT_MOUNT);
	if (s->startup.log_fd >= 0)
		log_error("%s not mounted: %s", s->dir, reason);
	return EXIT_MOUNT;
}

/* From an open volume to a mount: among its peers, where it has any. */
static int bring_up(const struct args *a, struct fs *fs, struct serving *s)
{
	int r = a->read_only ? 0 : replication_start(a, s->dir, fs, &s->replication);

	if (r < 0) {
		complain("cannot mount %s: its peers: %s", s->dir, strerror(-r));
		return r;
	}
	replication_ask(s->replication);
	r = a->read_only ? 0 : fs_lead(fs);
	if (r < 0) {
		volume_complain("cannot mount", s->dir, r);
		return r;
	}
	r = catch_signals();
	if (r == 0)
		r = start_metrics(a, fs, s);
	if (r == 0)
		r = log_mount(fs, s);
	if (r == 0)
		r = attach(a, fs, s);
	if (r < 0)
		complain("cannot mount %s at %s: %s", s->dir, s->mountpoint, strerror(-r));
	return r;
}

static int open_and_run(const struct args *a, struct serving *s)
{
	struct volume_config v;
	struct fs *fs;

	log_setup(a->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, false);
	process_harden();
	tell_manager("STATUS=opens the store, replays the journal");
	if (volume_open(s->dir, false, a->memory_bytes, &v) < 0)
		return not_mounted(s);
	int r = volume_encrypt(a, &v, &s->key);
	data_key_wipe(&s->key);
	if (r < 0) {
		volume_close(&v);
		return not_mounted(s);
	}
	allow_descriptors(a, s->dir, v.fs.encryption);
	config_set(a, &v.fs);
	v.fs.object_store_ctx = v.dir;
	r = fs_open(&v.fs, &fs);
	if (r < 0) {
		volume_complain("cannot mount", s->dir, r);
		volume_close(&v);
		return not_mounted(s);
	}
	v.fs.store = NULL; /* fs has it now */
	r = bring_up(a, fs, s);
	if (r < 0) {
		stop_metrics(s);
		replication_stop(s->replication);
		fs_close(fs);
		r = not_mounted(s);
	} else {
		r = run(a, fs, s);
	}
	s->replication = replication_free(s->replication);
	volume_close(&v);
	return r;
}

int verb_mount(const struct args *a)
{
	struct serving s = {.startup = {.fd = -1, .log_fd = -1}};

	if (check_metrics(a, &s) < 0 || check_places(a->operand[0], a->operand[1], &s) < 0 || check_device() < 0 ||
	    volume_unlock(a, s.dir, &s.key) < 0)
		return EXIT_MOUNT;
	if (a->log_path) {
		s.startup.log_fd = open(a->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (s.startup.log_fd < 0) {
			complain("log file %s: %s", a->log_path, strerror(errno));
			return EXIT_MOUNT;
		}
	}
	if (!a->foreground) {
		unsetenv(SDNOTIFY_VARIABLE); /* the service is who called this, not the daemon */
		int r = startup_fork(s.mountpoint, &s.startup);

		if (r < 0) {
			complain("cannot become a daemon: %s", strerror(-r));
			return EXIT_MOUNT;
		}
	}
	return open_and_run(a, &s);
}
