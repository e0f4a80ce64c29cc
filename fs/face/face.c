/*
 * face.c: the life of a mount.
 *
 * face_mount() mounts; the kernel queues its first request, INIT, and makes every user wait for the answer.  face_run()
 * starts the workers, and its own thread only waits on an eventfd for: INIT answered (the mount's cache can be tuned), the last
 * worker gone (somebody unmounted), the caller's word to stop, or the volume's turn to follow.
 *
 * Stop: unmount as umount(8) does, which writes dirty pages and waits.  While files are open that fails with EBUSY; it is
 * tried for RELEASE_TRIES rounds, then the mount is written out, taken out of the tree, and the connection is cut: whoever
 * still has files open gets ENOTCONN.  Workers end by ENODEV, or are cancelled where the connection outlives the
 * unmount (a mount namespace that copied it).  All of it stays below 30 s (guarantee G16).
 *
 * A leader that turns follower under its mount leaves the kernel with a cache of writes that nobody takes any more and of names
 * and attributes that never expire.  Such a mount is taken away without tries: what the kernel holds dirty is refused with EROFS,
 * and the caller mounts anew.  So is a leader's mount whose tree went back to a snapshot where the kernel cannot be told so
 * (rolled.c).
 */
#include "fs/face/snapshots.h"
#include "fs/face/virtual.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"

#define RELEASE_TRIES   30
#define RELEASE_STEP_NS (100 * 1000 * 1000)
#define WORKERS_END_MS  5000

uint32_t face_default_workers(void)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	if (cores < 1)
		cores = 1;
	return (uint32_t)min_u64(max_u64(2 * (uint64_t)cores, 4), 64);
}

/* libfuse's own messages go where ours go. */
static PRINTF_LIKE(2, 0) void log_from_libfuse(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char line[512];

	vsnprintf(line, sizeof(line), fmt, ap);
	line[strcspn(line, "\n")] = '\0';
	if (level <= FUSE_LOG_ERR)
		log_error("%s", line);
	else
		log_debug("%s", line);
}

static int find_mountpoint(const char *path, char **ret_path)
{
	CLEANUP_FREE char *real = realpath(path, NULL);
	struct stat st;

	if (!real || stat(real, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	*ret_path = TAKE_PTR(real);
	return 0;
}

static int session_open(struct face *f, const struct face_options *o)
{
	struct fuse_args args;
	int r = mount_arguments(o, &args);

	if (r < 0)
		return r;
	fuse_set_log_func(log_from_libfuse);
	f->session = fuse_session_new(&args, &face_ops, sizeof(face_ops), f);
	fuse_opt_free_args(&args);
	if (!f->session)
		return -EINVAL; /* an option it does not know; libfuse said which */
	errno = 0;
	if (fuse_session_mount(f->session, f->mountpoint) < 0)
		return errno ? -errno : -EIO;
	f->fd = fuse_session_fd(f->session);
	r = mount_find(f->mountpoint, &f->device);
	if (r < 0)
		log_debug("%s: not found in mountinfo: %s", f->mountpoint, strerror(-r));
	return worker_attach_io(f);
}

int face_mount(struct fs *fs, const struct face_options *o, struct face **ret_face)
{
	struct face *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return -ENOMEM;
	f->fs = fs;
	f->fd = -1;
	f->stop_fd = o->stop_fd;
	f->stopping = o->stopping;
	f->stopping_ctx = o->stopping_ctx;
	f->read_only = o->read_only;
	f->follower = o->follower;
	f->strict_open = o->strict_open;
	f->provider = o->provider;
	f->metrics = o->metrics;
	f->requests = metrics_requests(o->metrics);
	f->n_workers = o->n_workers ? o->n_workers : face_default_workers();
	f->workers = calloc(f->n_workers, sizeof(*f->workers));
	f->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!f->workers)
		r = -ENOMEM;
	else if (f->event_fd < 0)
		r = -errno;
	else
		r = find_mountpoint(o->mountpoint, &f->mountpoint);
	if (r == 0)
		r = virtual_texts_new(&f->texts);
	if (r == 0)
		r = spoiled_new(&f->spoiled);
	if (r == 0)
		r = session_open(f, o);
	if (r < 0) {
		face_close(f);
		return r;
	}
	*ret_face = f;
	return 0;
}

static int start_workers(struct face *f)
{
	for (uint32_t i = 0; i < f->n_workers; i++) {
		struct worker *w = &f->workers[i];

		w->face = f;
		w->fd = f->fd;
		int r = worker_start(w);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Returns when something happened or after timeout_ms (-1: never). */
static void wait_event(struct face *f, int timeout_ms)
{
	struct pollfd p = {.fd = f->event_fd, .events = POLLIN};
	uint64_t count;

	if (poll(&p, 1, timeout_ms) > 0) {
		ssize_t n = read(f->event_fd, &count, sizeof(count));

		(void)n; /* only empties it */
	}
}

/* The same for ever; true for the word to stop. */
static bool wait_event_or_stop(struct face *f)
{
	struct pollfd p[] = {{.fd = f->event_fd, .events = POLLIN}, {.fd = f->stop_fd, .events = POLLIN}};
	bool stop = poll(p, ARRAY_SIZE(p), -1) > 0 && p[1].revents;

	wait_event(f, 0);
	return stop;
}

static void join_threads(struct face *f)
{
	const int64_t deadline = clock_mono_ns(&clock_system) + WORKERS_END_MS * INT64_C(1000000);

	if (f->deferrals)
		deferrals_shut(f->deferrals);
	while (atomic_load(&f->n_running) && clock_mono_ns(&clock_system) < deadline)
		wait_event(f, 100);
	if (f->seeker)
		seeker_stop(f->seeker);
	if (f->notifier)
		notifier_stop(f->notifier);
	rolled_unwatch(f);
	for (uint32_t i = 0; i < f->n_workers; i++) {
		struct worker *w = &f->workers[i];

		if (!w->started)
			continue;
		if (atomic_load(&f->n_running))
			pthread_cancel(w->thread); /* acts only in read(2) on the connection */
		pthread_join(w->thread, NULL);
		w->started = false;
		worker_free_buffers(w);
	}
	if (f->deferrals)
		deferrals_stop(f->deferrals);
}

static bool connection_is_over(const struct face *f)
{
	struct pollfd p = {.fd = f->fd};

	return poll(&p, 1, 0) > 0 && (p.revents & POLLERR);
}

/* The workers serve all the while: the kernel writes dirty pages and forgets inodes before it lets go. */
static void release_mount(struct face *f, int tries)
{
	const struct timespec step = {.tv_nsec = RELEASE_STEP_NS};
	int r = -EBUSY;

	for (int i = 0; i < tries && r == -EBUSY; i++) {
		if (connection_is_over(f))
			return;
		if (i > 0)
			nanosleep(&step, NULL);
		r = mount_release(f);
	}
	if (r == 0 || r == -ENOENT) /* gone already, but held by open files or another namespace */
		return;
	log_warn("%s: %s; unmounting lazily", f->mountpoint, r == -EBUSY ? "files are still open" : strerror(-r));
	mount_detach(f);
}

static int start_threads(struct face *f)
{
	int r = deferrals_new(f, &f->deferrals);

	if (r == 0)
		r = seeker_start(f->session, &f->seeker);
	if (r == 0 && f->follower)
		r = notifier_start(f, &f->notifier);
	rolled_watch(f);
	return r < 0 ? r : start_workers(f);
}

int face_run(struct face *f)
{
	bool tuned = false, stop = false, remount = false;
	int r = start_threads(f);

	if (r < 0) {
		log_error("starting threads: %s", strerror(-r));
		atomic_store(&f->error, r);
		stop = true;
	}
	while (atomic_load(&f->n_running) && !stop && !remount) {
		stop = wait_event_or_stop(f) || atomic_load(&f->error);
		if (!tuned && atomic_load(&f->connected)) {
			mount_tune(f);
			tuned = true;
		}
		remount = atomic_load(&f->n_running) && atomic_load(&f->connected) &&
			  (face_must_remount(f) || atomic_load(&f->outdated));
	}
	if (stop && f->stopping)
		f->stopping(f->stopping_ctx);
	if (atomic_load(&f->n_running))
		release_mount(f, remount ? 1 : RELEASE_TRIES);
	join_threads(f);
	fs_end_waits(f->fs); /* fsync, clawfs.wait and deferred requests, whose answers go through the notifier and the session */
	f->deferrals = deferrals_free(f->deferrals);
	f->seeker = seeker_free(f->seeker);
	f->notifier = notifier_free(f->notifier);
	r = atomic_load(&f->error);
	return r == 0 && remount ? FACE_REMOUNT : r;
}

void face_wake(struct face *f)
{
	const uint64_t one = 1;
	ssize_t n = write(f->event_fd, &one, sizeof(one));

	(void)n; /* full means it is already set */
}

void face_role_changed(struct face *f)
{
	face_wake(f);
}

/*
 * Ends a connection that outlives the mount, by giving up our end of it.  libfuse unmounts whatever lies at the path by now
 * unless poll(2) says that its descriptor's other end is gone: it is left one of which that is true, a pipe without reader.
 */
static void cut_connection(struct face *f)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return;
	close(ends[0]);
	dup3(ends[1], f->fd, O_CLOEXEC);
	close(ends[1]);
}

struct face *face_close(struct face *f)
{
	if (!f)
		return NULL;
	if (f->session) {
		if (f->fd >= 0 && !mount_is_there(f) && !connection_is_over(f))
			cut_connection(f);
		fuse_session_unmount(f->session);
		fuse_session_destroy(f->session);
	}
	if (f->event_fd >= 0)
		close(f->event_fd);
	virtual_texts_free(f->texts);
	spoiled_free(f->spoiled);
	free(f->workers);
	free(f->mountpoint);
	free(f);
	return NULL;
}
