/*
 * store_dir_root.c: the directory store's root and the way down from it.
 *
 * The root is opened for each call.  Its marker tells it from an empty mountpoint; what the marker says is read when the file is
 * another one than before (device, inode, change time), and another store's marker counts as no marker.
 *
 * Names are resolved one part at a time with O_NOFOLLOW, so nothing below the root leads out of it.  A directory on the way of a
 * put has its own name flushed by this process once: whoever made it may have died before he did.
 */
#include "tier/store_dir_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>

#define MARKER_FORMAT "clawfs object store\nversion 1\nid "
#define MARKER_MAX    128
#define TEMP_AGE_NS   (86400 * NSEC_PER_SEC)

int store_dir_fail(const struct store_dir *s, struct object_call *call, const char *key, const char *what, int error)
{
	/* A long path or key is cut so that what happened is still there. */
	snprintf(call->message, sizeof(call->message), "directory %.90s: %.60s%s%.80s", s->path, key ? key : "", key ? ": " : "",
		 what);
	return error;
}

static int translate(int host_errno)
{
	switch (host_errno) {
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return -ENOSPC;
	case EACCES:
	case EPERM:
	case EROFS:
	case ELOOP:
		return -EACCES;
	case ENODEV:
	case ENXIO:
	case ENOTCONN:
	case ESHUTDOWN:
		return -ENODEV;
	case ENAMETOOLONG:
		return -EINVAL;
	case ENOENT:
	case EEXIST:
	case ENOMEM:
	case ETIMEDOUT:
	case EOPNOTSUPP:
		return -host_errno;
	default:
		return -EIO;
	}
}

int store_dir_host_error(const struct store_dir *s, struct object_call *call, const char *key, const char *what, int host_errno)
{
	char text[128];

	snprintf(text, sizeof(text), "%s: %s", what, strerror(host_errno));
	return store_dir_fail(s, call, key, text, translate(host_errno));
}

int store_dir_check_time(const struct store_dir *s, struct object_call *call, const char *key)
{
	if (call->cancel && atomic_load(call->cancel))
		return store_dir_fail(s, call, key, "given up", -ECANCELED);
	if (call->deadline_ns && clock_mono_ns(s->clock) >= call->deadline_ns)
		return store_dir_fail(s, call, key, "took too long", -ETIMEDOUT);
	return 0;
}

/* ---- temporary files ---- */

int store_dir_temp(int dir, char ret_name[TEMP_NAME_MAX], int *ret_fd)
{
	for (int i = 0; i < 8; i++) {
		uint64_t n;
		if (getrandom(&n, sizeof(n), 0) != sizeof(n))
			return -errno;
		snprintf(ret_name, TEMP_NAME_MAX, TEMP_PREFIX "%016jx", (uintmax_t)n);
		int fd = openat(dir, ret_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd >= 0) {
			flock(fd, LOCK_EX | LOCK_NB); /* where the host has no locks, age alone has to do */
			*ret_fd = fd;
			return 0;
		}
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

/* Old by the clock, which may jump, and held by nobody on this host. */
void store_dir_sweep_one(const struct store_dir *s, int dir, const char *name)
{
	struct stat st;
	CLEANUP_FD int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	int64_t age = clock_real_ns(s->clock) / NSEC_PER_SEC - st.st_mtim.tv_sec;
	if (age > TEMP_AGE_NS / NSEC_PER_SEC && (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK))
		unlinkat(dir, name, 0);
}

void store_dir_sweep(const struct store_dir *s, int dir)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;

	if (!d) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((e = readdir(d)))
		if (strncmp(e->d_name, TEMP_PREFIX, strlen(TEMP_PREFIX)) == 0)
			store_dir_sweep_one(s, dir, e->d_name);
	closedir(d);
}

/* Not every filesystem can rename without replacing; those without links either cannot do this at all. */
int store_dir_rename_new(int dir, const char *temp, const char *name)
{
	if (renameat2(dir, temp, dir, name, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
		return -errno;
	if (linkat(dir, temp, dir, name, 0) < 0)
		return errno == EPERM || errno == ENOSYS ? -EOPNOTSUPP : -errno;
	unlinkat(dir, temp, 0); /* what is left if this fails is swept one day */
	return 0;
}

/* ---- the marker ---- */

/* The id in a marker's text; false: it is none of ours. */
static bool marker_parse(const char *text, size_t len, char ret_id[33])
{
	size_t head = strlen(MARKER_FORMAT);

	if (len != head + 33 || memcmp(text, MARKER_FORMAT, head) != 0 || text[len - 1] != '\n')
		return false;
	for (size_t i = head; i < len - 1; i++)
		if (!strchr("0123456789abcdef", text[i]) || !text[i])
			return false;
	memcpy(ret_id, text + head, 32);
	ret_id[32] = '\0';
	return true;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
	       a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static int marker_read(struct store_dir *s, struct object_call *call, int root, const struct stat *st)
{
	char text[MARKER_MAX], id[33];
	CLEANUP_FD int fd = openat(root, MARKER_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text), 0);
	bool other;

	if (n < 0)
		return store_dir_host_error(s, call, NULL, "reading the marker " MARKER_NAME, errno);
	if (!marker_parse(text, (size_t)n, id))
		return store_dir_fail(s, call, NULL, "the marker " MARKER_NAME " is not one that this version wrote", -EPROTO);
	mutex_lock(&s->lock);
	other = s->id[0] && strcmp(s->id, id) != 0;
	if (!other) {
		memcpy(s->id, id, sizeof(id));
		s->marker = *st;
	}
	mutex_unlock(&s->lock);
	return other ? store_dir_fail(s, call, NULL, "another store than before is mounted there", -ENODEV) : 0;
}

static int marker_check(struct store_dir *s, struct object_call *call, int root)
{
	struct stat st;
	bool known;

	if (fstatat(root, MARKER_NAME, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno == ENOENT)
			return store_dir_fail(s, call, NULL, "not mounted, or no store: there is no " MARKER_NAME, -ENODEV);
		return store_dir_host_error(s, call, NULL, "looking for " MARKER_NAME, errno);
	}
	mutex_lock(&s->lock);
	known = same_file(&s->marker, &st);
	mutex_unlock(&s->lock);
	return known ? 0 : marker_read(s, call, root, &st);
}

static int marker_write(int root)
{
	char text[MARKER_MAX], temp[TEMP_NAME_MAX];
	uint64_t id[2];
	CLEANUP_FD int fd = -1;
	int r, len;

	if (getrandom(id, sizeof(id), 0) != sizeof(id))
		return -errno;
	len = snprintf(text, sizeof(text), MARKER_FORMAT "%016jx%016jx\n", (uintmax_t)id[0], (uintmax_t)id[1]);
	r = store_dir_temp(root, temp, &fd);
	if (r < 0)
		return r;
	errno = EIO; /* of a short write */
	if (write(fd, text, (size_t)len) != len || fsync(fd) < 0)
		r = -errno;
	if (r == 0)
		r = store_dir_rename_new(root, temp, MARKER_NAME);
	if (r < 0)
		unlinkat(root, temp, 0);
	if (r == -EEXIST) /* somebody else was first: his is the marker */
		r = 0;
	return r == 0 && fsync(root) < 0 ? -errno : r;
}

/* ---- the root ---- */

static int open_root(struct store_dir *s, struct object_call *call, int *ret_fd)
{
	int fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return store_dir_fail(s, call, NULL, "there is no such directory; its disk may not be mounted", -ENODEV);
	if (fd < 0)
		return store_dir_host_error(s, call, NULL, "opening it", errno);
	*ret_fd = fd;
	return 0;
}

int store_dir_root(struct store_dir *s, struct object_call *call, int *ret_fd)
{
	CLEANUP_FD int fd = -1;
	int r = open_root(s, call, &fd);

	if (r == 0)
		r = marker_check(s, call, fd);
	if (r == 0)
		*ret_fd = TAKE_FD(fd);
	return r;
}

/* The directory alone, and its name in its parent durable. */
static int make_root(struct store_dir *s, struct object_call *call)
{
	char parent[PATH_MAX];
	char *slash;

	if (mkdir(s->path, 0700) < 0)
		return errno == EEXIST ? 0 : store_dir_host_error(s, call, NULL, "making it", errno);
	snprintf(parent, sizeof(parent), "%s", s->path);
	slash = strrchr(parent, '/');
	slash[slash == parent] = '\0';
	CLEANUP_FD int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? store_dir_host_error(s, call, NULL, "making it", errno) : 0;
}

/* What a fresh filesystem has, and what a first use that failed left, is nothing. */
static bool is_nothing(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, "lost+found") == 0 ||
	       strncmp(name, TEMP_PREFIX, strlen(TEMP_PREFIX)) == 0;
}

static int check_empty(struct store_dir *s, struct object_call *call, int root)
{
	int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;

	if (!d) {
		r = store_dir_host_error(s, call, NULL, "reading it", errno);
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (r == 0 && (e = readdir(d)))
		if (!is_nothing(e->d_name) && strcmp(e->d_name, MARKER_NAME) != 0)
			r = store_dir_fail(s, call, NULL, "holds other files: a new store begins in an empty directory", -EEXIST);
	closedir(d);
	return r;
}

int store_dir_create(struct store_dir *s, struct object_call *call)
{
	CLEANUP_FD int root = -1;
	struct stat st;
	int r = make_root(s, call);

	if (r == 0)
		r = open_root(s, call, &root);
	if (r == 0 && fstatat(root, MARKER_NAME, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		r = check_empty(s, call, root);
		if (r == 0) {
			r = marker_write(root);
			if (r < 0)
				r = store_dir_host_error(s, call, NULL, "writing " MARKER_NAME, -r);
		}
	}
	return r == 0 ? marker_check(s, call, root) : r;
}

/* ---- below the root ---- */

/* Whether this process saw to it that the directory's name is durable; remembers that it will have. */
static bool dir_known(struct store_dir *s, const struct stat *st)
{
	struct store_dir_known *k = &s->known[(st->st_ino ^ st->st_dev) % KNOWN_DIRS];
	bool known;

	mutex_lock(&s->lock);
	known = k->ino == st->st_ino && k->dev == st->st_dev;
	mutex_unlock(&s->lock);
	return known;
}
static void dir_remember(struct store_dir *s, const struct stat *st)
{
	mutex_lock(&s->lock);
	s->known[(st->st_ino ^ st->st_dev) % KNOWN_DIRS] = (struct store_dir_known){st->st_dev, st->st_ino};
	mutex_unlock(&s->lock);
}

static int open_part(const struct store_dir *s, struct object_call *call, int dir, const char *part, const char *key, int *ret_fd)
{
	int fd = openat(dir, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), error = errno;
	struct stat st;

	if (fd >= 0) {
		*ret_fd = fd;
		return 0;
	}
	if (error == ELOOP || (error == ENOTDIR && fstatat(dir, part, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode)))
		return store_dir_fail(s, call, key, "there is a symbolic link in its way", -EACCES);
	if (error == ENOTDIR)
		return store_dir_fail(s, call, key, "another object is in its way", -ENOTDIR);
	return store_dir_host_error(s, call, key, "opening its directory", error);
}

/* Makes one directory of the way where it is missing; durable when it returns. */
static int make_part(struct store_dir *s, struct object_call *call, int dir, const char *part, const char *key, int *ret_fd)
{
	CLEANUP_FD int fd = -1;
	struct stat st;
	int r;

	if (mkdirat(dir, part, 0700) < 0 && errno != EEXIST)
		return store_dir_host_error(s, call, key, "making its directory", errno);
	r = open_part(s, call, dir, part, key, &fd);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return store_dir_host_error(s, call, key, "looking at its directory", errno);
	if (!dir_known(s, &st)) {
		if (fsync(dir) < 0)
			return store_dir_host_error(s, call, key, "flushing a directory", errno);
		store_dir_sweep(s, fd);
		dir_remember(s, &st);
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int store_dir_walk(struct store_dir *s, struct object_call *call, int root, const char *key, bool make, int *ret_fd,
		   const char **ret_name)
{
	CLEANUP_FD int dir = fcntl(root, F_DUPFD_CLOEXEC, 3);
	const char *from = key, *slash;

	if (dir < 0)
		return store_dir_host_error(s, call, key, "opening its directory", errno);
	while ((slash = strchr(from, '/'))) {
		char part[NAME_MAX + 1];
		int next = -1, r;
		if ((size_t)(slash - from) >= sizeof(part))
			return store_dir_host_error(s, call, key, "a part of its key", ENAMETOOLONG);
		memcpy(part, from, (size_t)(slash - from));
		part[slash - from] = '\0';
		r = make ? make_part(s, call, dir, part, key, &next) : open_part(s, call, dir, part, key, &next);
		if (r == -ENOTDIR) /* then there is no object of that key either, and there cannot be one */
			r = make ? -EINVAL : -ENOENT;
		if (r < 0)
			return r;
		close(dir);
		dir = next;
		from = slash + 1;
	}
	*ret_fd = TAKE_FD(dir);
	*ret_name = from;
	return 0;
}
