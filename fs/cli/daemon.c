/*
 * daemon.c: how a mount becomes a daemon, and what a process under a filesystem has to be.
 *
 * The fork comes before anything that starts threads: RocksDB hangs at its first flush in a child forked later.  The parent waits
 * at a pipe for the daemon's word, the exit code in one byte: 0 once it is mounted, another when it is not, after the daemon told
 * the reason at the terminal, which it keeps until then; the end of the pipe without a word means that it died.  After the good
 * word the parent asks the mount something and ends with 0 only when that was answered, so that whoever waits for the
 * command may use the mount.
 *
 * Until it is mounted the daemon stays in the process group of whoever called: autofs lets only that of the one who serves an
 * automount reach the place that is being mounted, and everybody else waits for it.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

/* Heaps that the threads share, and from where on a buffer is a mapping of its own. */
#define HEAPS           2
#define HEAP_BUFFER_MAX (1 << 20)

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

static int parent_wait(int fd, pid_t daemon, const char *mountpoint)
{
	struct statvfs st;
	unsigned char word;
	int status;
	ssize_t n;

	while ((n = read(fd, &word, 1)) < 0 && errno == EINTR)
		;
	if (n == 1 && word != EXIT_OK)
		return word;
	if (n == 1) {
		if (statvfs(mountpoint, &st) == 0)
			return EXIT_OK;
		complain("%s: mounted, but does not answer: %s; the daemon's log says why", mountpoint, strerror(errno));
		return EXIT_MOUNT;
	}
	if (waitpid(daemon, &status, 0) == daemon && WIFSIGNALED(status))
		complain("%s: not mounted: the daemon was killed by signal %d", mountpoint, WTERMSIG(status));
	else
		complain("%s: not mounted: the daemon ended without a word", mountpoint);
	return EXIT_MOUNT;
}

int startup_fork(const char *mountpoint, struct startup *s)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid < 0) {
		int r = -errno;

		close(fds[0]);
		close(fds[1]);
		return r;
	}
	if (pid > 0) {
		close(fds[1]);
		_exit(parent_wait(fds[0], pid, mountpoint));
	}
	/* What the parent inherited (a shell's pipes, say) must not stay open for as long as the mount lives. */
	s->fd = fds[1];
	unsigned low = (unsigned)(s->log_fd < 0 || s->fd < s->log_fd ? s->fd : s->log_fd);
	unsigned high = (unsigned)(s->log_fd < s->fd ? s->fd : s->log_fd);
	if (low > STDERR_FILENO + 1)
		close_range(STDERR_FILENO + 1, low - 1, 0);
	if (high > low + 1)
		close_range(low + 1, high - 1, 0);
	close_range(high + 1, ~0u, 0);
	return chdir("/") < 0 ? -errno : 0;
}

void startup_to_log(const struct startup *s)
{
	if (s->log_fd >= 0 && dup2(s->log_fd, STDERR_FILENO) < 0)
		log_warn("messages cannot go to the log file: %s", strerror(errno));
}

/* The terminal is let go before the word is given: whoever reads the command's output must see its end. */
static void terminal_release(const struct startup *s)
{
	CLEANUP_FD int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return;
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (s->log_fd < 0)
		dup2(null, STDERR_FILENO);
}

void startup_finish(struct startup *s, enum exit_code code)
{
	const unsigned char word = (unsigned char)code;

	startup_to_log(s);
	if (s->fd < 0)
		return;
	setsid();
	if (code == EXIT_OK)
		terminal_release(s);
	while (write(s->fd, &word, 1) < 0 && errno == EINTR)
		;
	close(s->fd);
	s->fd = -1;
}

static void signal_ignore(int signo)
{
	const struct sigaction ignore = {.sa_handler = SIG_IGN};

	sigaction(signo, &ignore, NULL);
}

/*
 * glibc gives eight heaps to each processor, and what one thread freed in one heap no other heap can use: some 30 threads that
 * come and go let them grow to twice what is in use.  Memory that is locked cannot be given back by malloc_trim() either
 * (MADV_DONTNEED is refused), but a mapping can: the buffers of packs, parts and segments are such, always.
 */
static void heaps_bound(void)
{
	if (!mallopt(M_ARENA_MAX, HEAPS) || !mallopt(M_MMAP_THRESHOLD, HEAP_BUFFER_MAX))
		log_debug("the number of heaps is left as it is");
}

/* MCL_FUTURE turns a limit into failing mmaps later on, so lock only where there is none. */
static void memory_lock(void)
{
	const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
	struct rlimit now;

	if (getrlimit(RLIMIT_MEMLOCK, &now) < 0 || (now.rlim_cur != RLIM_INFINITY && setrlimit(RLIMIT_MEMLOCK, &none) < 0))
		log_debug("memory is not locked: RLIMIT_MEMLOCK is limited");
	else if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		log_debug("memory is not locked: mlockall: %s", strerror(errno));
}

/* The kernel must not kill what it needs to write its dirty pages to. */
static void oom_protect(void)
{
	CLEANUP_FD int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "-900", 4) != 4)
		log_debug("not protected from the OOM killer: %s", strerror(errno));
}

void process_harden(void)
{
	signal_ignore(SIGHUP);
	signal_ignore(SIGPIPE);
	signal_ignore(SIGXFSZ); /* a write past RLIMIT_FSIZE is then an error, and the error stops the volume in good order */
	/* Memory this process allocates must never wait for dirty pages that only it can write. */
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		log_debug("PR_SET_IO_FLUSHER: %s", strerror(errno));
	heaps_bound();
	memory_lock();
	oom_protect();
}

void process_need_files(uint64_t n)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= n)
		return;
	limit.rlim_cur = limit.rlim_max < n ? limit.rlim_max : (rlim_t)n;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < n)
		log_warn("only %llu descriptors are allowed, %llu may be needed as the volume grows: raise the hard limit "
			 "(ulimit -Hn)",
			 (unsigned long long)limit.rlim_cur, (unsigned long long)n);
}
