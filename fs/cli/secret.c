/*
 * secret.c: what opens a volume, from where an admin keeps it.
 *
 *     FILE, file:FILE     32 bytes, or 64 hexadecimal digits and perhaps a newline
 *     command:CMD         the same, from what a shell command prints
 *     passphrase:FILE     a passphrase: the first line of the file
 *     ask                 a passphrase, asked for at the terminal without showing it
 *
 * A secret is never an argument, a variable of the environment, or part of a message.  Whoever can read the file of a key has the
 * key, so one that others can read is refused.
 */
#include "fs/cli/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

#include "fs/cli/cli.h"

#define COMMAND_NS (60 * NSEC_PER_SEC)
#define CTRL_C     3

extern char **environ;

/* Up to TEXT_MAX bytes; `until` on the monotonic clock, 0: no limit.  -ETIMEDOUT, -EMSGSIZE. */
static int read_all(int fd, int64_t until, struct secret *ret)
{
	uint8_t more;

	for (ret->len = 0;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		int64_t left = until ? until - clock_mono_ns(&clock_system) : INT64_MAX;
		bool full = ret->len == sizeof(ret->bytes);

		if (left <= 0)
			return -ETIMEDOUT;
		int n_ready = poll(&p, 1, until ? (int)(left / 1000000) + 1 : -1);
		if (n_ready < 0 && errno != EINTR)
			return -errno;
		if (n_ready <= 0)
			continue;
		ssize_t n = read(fd, full ? &more : ret->bytes + ret->len, full ? 1 : sizeof(ret->bytes) - ret->len);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return 0;
		if (n > 0 && full)
			return -EMSGSIZE;
		ret->len += n > 0 ? (size_t)n : 0;
	}
}

static int hex_value(uint8_t c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int parse_raw(struct secret *s)
{
	s->kind = KEY_RAW;
	if (s->len == RAW_KEY_BYTES)
		return 0;
	size_t len = s->len && s->bytes[s->len - 1] == '\n' ? s->len - 1 : s->len;
	if (len != 2 * RAW_KEY_BYTES)
		return -EINVAL;
	for (size_t i = 0; i < RAW_KEY_BYTES; i++) {
		int high = hex_value(s->bytes[2 * i]), low = hex_value(s->bytes[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EINVAL;
		s->bytes[i] = (uint8_t)(high << 4 | low);
	}
	s->len = RAW_KEY_BYTES;
	return 0;
}

static int parse_passphrase(struct secret *s)
{
	const uint8_t *end = memchr(s->bytes, '\n', s->len);

	s->kind = KEY_PASSPHRASE;
	s->len = end ? (size_t)(end - s->bytes) : s->len;
	return s->len ? 0 : -EINVAL;
}

static int read_file(const char *path, struct secret *ret)
{
	struct stat st;
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0 || fstat(fd, &st) < 0) {
		int r = -errno;

		complain("key file %s: %s", path, strerror(-r));
		return r;
	}
	if (S_ISREG(st.st_mode) && (st.st_mode & 077)) {
		complain("key file %s: others may read or change it: chmod 600 %s", path, path);
		return -EACCES;
	}
	int r = S_ISDIR(st.st_mode) ? -EISDIR : read_all(fd, 0, ret);
	if (r < 0)
		complain("key file %s: %s", path, r == -EMSGSIZE ? "too long" : strerror(-r));
	return r;
}

static int spawn(const char *command, int write_end, pid_t *ret_pid)
{
	const char *const argv[] = {"sh", "-c", command, NULL};
	posix_spawn_file_actions_t actions;
	int e = posix_spawn_file_actions_init(&actions);

	if (e)
		return -e;
	e = posix_spawn_file_actions_adddup2(&actions, write_end, STDOUT_FILENO);
	if (e == 0)
		e = posix_spawn(ret_pid, "/bin/sh", &actions, NULL, (char *const *)(uintptr_t)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	return -e;
}

/* One that closed its output and stays is not waited for longer than it may take. */
static int wait_for(pid_t pid, int64_t until)
{
	int status;

	for (;;) {
		pid_t done = waitpid(pid, &status, WNOHANG);

		if (done < 0 && errno != EINTR)
			return -errno;
		if (done == pid)
			return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ECHILD;
		if (clock_mono_ns(&clock_system) > until)
			return -ETIMEDOUT;
		poll(NULL, 0, 10);
	}
}

static int run_command(const char *command, struct secret *ret)
{
	int64_t until = clock_mono_ns(&clock_system) + COMMAND_NS;
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	CLEANUP_FD int from = fds[0];
	int r = spawn(command, fds[1], &pid);
	close(fds[1]);
	if (r == 0) {
		r = read_all(from, until, ret);
		int waited = r == 0 ? wait_for(pid, until) : r;
		if (waited < 0 && waited != -ECHILD) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
		}
		r = waited;
	}
	if (r < 0) /* not the command's words: they may hold a secret */
		complain("the command for the key: %s", r == -ECHILD      ? "it failed"
							: r == -EMSGSIZE  ? "it printed too much"
							: r == -ETIMEDOUT ? "it took more than a minute"
									  : strerror(-r));
	return r;
}

/* Ctrl-C ends the line instead of the process, which would leave the terminal silent. */
static int read_hidden(int tty, struct secret *ret)
{
	struct termios usual, hidden;
	ssize_t n;

	if (tcgetattr(tty, &usual) < 0)
		return -errno;
	hidden = usual;
	hidden.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
	hidden.c_lflag |= ICANON | ECHONL;
	hidden.c_cc[VEOL] = CTRL_C;
	if (tcsetattr(tty, TCSAFLUSH, &hidden) < 0)
		return -errno;
	do
		n = read(tty, ret->bytes, sizeof(ret->bytes));
	while (n < 0 && errno == EINTR);
	int r = n < 0 ? -errno : 0;
	if (tcsetattr(tty, TCSAFLUSH, &usual) < 0 && r == 0)
		r = -errno;
	ret->len = n > 0 ? (size_t)n : 0;
	if (ret->len && ret->bytes[ret->len - 1] == CTRL_C)
		return -EINTR;
	if (r == 0 && ret->len == sizeof(ret->bytes))
		return -EMSGSIZE;
	return r;
}

static int prompt(int tty, const char *words, const char *what, struct secret *ret)
{
	if (dprintf(tty, "%s %s: ", words, what) < 0)
		return -errno;
	int r = read_hidden(tty, ret);
	return r < 0 ? r : parse_passphrase(ret);
}

static void complain_asked(int error)
{
	complain("no passphrase: %s", error == -EINVAL     ? "it was empty"
				      : error == -EMSGSIZE ? "it was too long"
							   : strerror(-error));
}

static int ask(const char *what, bool twice, struct secret *ret)
{
	struct secret again;
	CLEANUP_FD int tty = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (tty < 0) {
		complain("key=ask: there is no terminal to ask at");
		return -ENOTTY;
	}
	int r = prompt(tty, "Passphrase for", what, ret);
	if (r == 0 && twice) {
		r = prompt(tty, "Again, passphrase for", what, &again);
		if (r == 0 && (again.len != ret->len || memcmp(again.bytes, ret->bytes, again.len) != 0)) {
			complain("these were two different passphrases");
			r = -EINVAL;
		} else if (r < 0) {
			complain_asked(r);
		}
		secret_wipe(&again);
	} else if (r < 0) {
		complain_asked(r);
	}
	return r;
}

static const char *behind(const char *spec, const char *prefix)
{
	size_t n = strlen(prefix);

	return strncmp(spec, prefix, n) == 0 ? spec + n : NULL;
}

static int get(const char *spec, const char *what, bool twice, struct secret *ret)
{
	const char *rest;
	int r;

	if (strcmp(spec, "ask") == 0)
		return ask(what, twice, ret);
	if ((rest = behind(spec, "passphrase:"))) {
		r = read_file(rest, ret);
		if (r == 0 && (r = parse_passphrase(ret)) < 0)
			complain("passphrase file %s: its first line is empty", rest);
		return r;
	}
	if ((rest = behind(spec, "command:")))
		r = run_command(rest, ret);
	else
		r = read_file((rest = behind(spec, "file:")) ? rest : spec, ret);
	if (r == 0 && (r = parse_raw(ret)) < 0)
		complain("the key is neither 32 bytes nor 64 hexadecimal digits: head -c 32 /dev/urandom makes one");
	return r;
}

int secret_get(const char *spec, const char *what, bool twice, struct secret *ret)
{
	*ret = (struct secret){0};
	int r = get(spec, what, twice, ret);
	if (r < 0)
		secret_wipe(ret);
	return r;
}

const char *secret_source(const char *spec)
{
	return strcmp(spec, "ask") == 0 || behind(spec, "passphrase:") ? "passphrase"
	       : behind(spec, "command:")                              ? "command"
								       : "file";
}
