/*
 * clone.c: the verb clone: a file that has the blocks of another one.
 *
 * The kernel does not pass FICLONE on to a filesystem in user space; copy_file_range(2) it does, and a mount answers that by
 * sharing.  So this is what `cp` does of itself, and refuses where `cp` would quietly copy: on another filesystem, or from one
 * mount to another.  Whoever may read the one file and write the other may do it; the kernel looks after that.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

/* One call; the kernel and the daemon cut it into what they like. */
#define STEP ((size_t)1 << 30)

struct clone {
	const char *from, *to;
	int in, out;
	struct stat st; /* of what is cloned */
	bool made;      /* the target was not there before */
	mode_t umask;
};

/* Any file of a mount has this one, and who may read the file may read it. */
static bool on_clawfs(int fd)
{
	return fgetxattr(fd, "clawfs.health", NULL, 0) >= 0;
}

static int open_from(struct clone *c)
{
	c->in = open(c->from, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (c->in < 0 || fstat(c->in, &c->st) < 0) {
		complain("%s: %s", c->from, strerror(errno));
		return -1;
	}
	if (!S_ISREG(c->st.st_mode)) {
		complain("%s: not a regular file", c->from);
		return -1;
	}
	if (on_clawfs(c->in))
		return 0;
	complain("%s: not on a clawfs mount", c->from);
	return -1;
}

/* Looked at before anything in it is lost. */
static int open_to(struct clone *c)
{
	struct stat st;

	c->out = open(c->to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, c->st.st_mode & 0777);
	c->made = c->out >= 0;
	if (c->out < 0 && errno == EEXIST)
		c->out = open(c->to, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (c->out < 0 || fstat(c->out, &st) < 0) {
		complain("%s: %s", c->to, strerror(errno));
		return -1;
	}
	if (st.st_dev != c->st.st_dev)
		complain("%s and %s are not on one mount: a clone shares blocks of one volume", c->from, c->to);
	else if (st.st_ino == c->st.st_ino)
		complain("%s and %s are the same file", c->from, c->to);
	else if (!S_ISREG(st.st_mode))
		complain("%s: not a regular file", c->to);
	else if (c->made && fchmod(c->out, c->st.st_mode & 0777 & ~c->umask) < 0)
		complain("%s: %s", c->to, strerror(errno));
	else
		return 0;
	return -1;
}

static int clone_data(const struct clone *c)
{
	if (ftruncate(c->out, 0) < 0)
		return -errno;
	for (;;) {
		ssize_t n = copy_file_range(c->in, NULL, c->out, NULL, STEP, 0);

		if (n == 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

static int clone_file(struct clone *c)
{
	if (open_from(c) < 0)
		return EXIT_FAILED;
	if (open_to(c) == 0) {
		int r = clone_data(c);

		if (close(c->out) < 0 && r == 0)
			r = -errno;
		c->out = -1;
		if (r == 0)
			return EXIT_OK;
		complain("%s: %s", c->to, strerror(-r));
	}
	if (c->made)
		unlink(c->to);
	return EXIT_FAILED;
}

int verb_clone(const struct args *a)
{
	struct clone c = {.from = a->operand[0], .to = a->operand[1], .umask = a->umask, .in = -1, .out = -1};
	int code = clone_file(&c);

	if (c.in >= 0)
		close(c.in);
	if (c.out >= 0)
		close(c.out);
	return code;
}
