/*
 * restore_tree.c: files of a volume that is open but not mounted become files of the host: bytes with their holes, modes, owners,
 * times, extended attributes, symbolic links, and hard links among what is written.
 *
 * Names come from the volume and were checked there: no '/', no "..".  Nothing that exists is written over.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "base/write_all.h"
#include "fs/cli/restore.h"

#define DEPTH_MAX 900u
#define READ_MAX  MIB

struct linked {
	uint64_t ino;
	char path[]; /* below the output directory */
};
struct tree_job {
	struct fs *fs;
	int out_fd;
	uint8_t *bytes; /* READ_MAX and room for alignment */
	void *links;    /* tsearch() */
	char path[PATH_MAX];
	uint64_t n, unset; /* files; attributes that the host does not take */
};

static int failed(const struct tree_job *j, const char *what, int error)
{
	complain("%s: cannot be %s: %s", *j->path ? j->path : "/", what, strerror(-error));
	return error;
}

/* ---- one file ---- */

static int copy_xattrs(struct tree_job *j, uint64_t ino, int fd)
{
	CLEANUP_FREE char *list = NULL, *value = malloc(65536);
	size_t len, n;
	int r = fs_listxattr(j->fs, ino, NULL, 0, &len);

	if (r < 0 || len == 0)
		return r;
	list = malloc(len);
	if (!list || !value)
		return -ENOMEM;
	r = fs_listxattr(j->fs, ino, list, len, &len);
	for (const char *name = list; r == 0 && name < list + len; name += strlen(name) + 1) {
		r = fs_getxattr(j->fs, ino, name, value, 65536, &n);
		if (r == 0 && fsetxattr(fd, name, value, n, 0) < 0)
			j->unset++;
	}
	return r;
}

static void times_of(const struct fs_attr *a, struct timespec ret[2])
{
	ret[0] = (struct timespec){a->atime_ns / NSEC_PER_SEC, a->atime_ns % NSEC_PER_SEC};
	ret[1] = (struct timespec){a->mtime_ns / NSEC_PER_SEC, a->mtime_ns % NSEC_PER_SEC};
}

/* Of an open file or directory: owner first, which takes set-user-ID away, times last. */
static int set_attributes(struct tree_job *j, const struct fs_attr *a, int fd)
{
	struct timespec times[2];
	int r = fchown(fd, a->uid, a->gid) < 0 && geteuid() == 0 ? -errno : 0;

	if (r == 0)
		r = copy_xattrs(j, a->ino, fd);
	times_of(a, times);
	if (r == 0 && (fchmod(fd, a->mode & 07777) < 0 || futimens(fd, times) < 0))
		r = -errno;
	return r;
}

static int copy_bytes(struct tree_job *j, const struct fs_attr *a, int fd)
{
	uint64_t at = 0, end;
	int r = 0;

	while (at < a->size && r == 0) {
		r = fs_lseek(j->fs, a->ino, at, SEEK_DATA, &at);
		if (r < 0)
			break;
		r = fs_lseek(j->fs, a->ino, at, SEEK_HOLE, &end);
		while (r == 0 && at < end) {
			void *p;
			size_t n;

			r = fs_read(j->fs, a->ino, at, (size_t)min_u64(end - at, READ_MAX), j->bytes, &p, &n);
			if (r == 0 && n == 0)
				r = -EIO;
			if (r == 0)
				r = write_all(fd, p, n, at);
			at += r == 0 ? n : 0;
		}
	}
	if (r == -ENXIO) /* nothing but a hole is left */
		r = 0;
	return r == 0 && ftruncate(fd, (off_t)a->size) < 0 ? -errno : r;
}

static int make_file(struct tree_job *j, const struct fs_attr *a, int dir_fd, const char *name)
{
	CLEANUP_FD int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r = fd < 0 ? -errno : copy_bytes(j, a, fd);

	return r < 0 ? r : set_attributes(j, a, fd);
}

static int make_symlink(struct tree_job *j, const struct fs_attr *a, int dir_fd, const char *name)
{
	char target[4097];
	struct timespec times[2];
	int r = fs_readlink(j->fs, a->ino, target, sizeof(target));

	if (r < 0)
		return r;
	times_of(a, times);
	if (symlinkat(target, dir_fd, name) < 0 ||
	    (fchownat(dir_fd, name, a->uid, a->gid, AT_SYMLINK_NOFOLLOW) < 0 && geteuid() == 0) ||
	    utimensat(dir_fd, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return 0;
}

static int make_special(const struct fs_attr *a, int dir_fd, const char *name)
{
	struct timespec times[2];

	times_of(a, times);
	if (mknodat(dir_fd, name, (a->mode & S_IFMT) | 0600, (dev_t)a->rdev) < 0 ||
	    (fchownat(dir_fd, name, a->uid, a->gid, AT_SYMLINK_NOFOLLOW) < 0 && geteuid() == 0) ||
	    fchmodat(dir_fd, name, a->mode & 07777, 0) < 0 || utimensat(dir_fd, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return 0;
}

/* ---- hard links ---- */

static int compare(const void *a, const void *b)
{
	const struct linked *x = a, *y = b;

	return (x->ino > y->ino) - (x->ino < y->ino);
}

/* 1: it is there under its other name now too. */
static int make_link(struct tree_job *j, const struct fs_attr *a, int dir_fd, const char *name)
{
	struct linked *l = malloc(sizeof(*l) + strlen(j->path) + 1), **found;

	if (!l)
		return -ENOMEM;
	l->ino = a->ino;
	strcpy(l->path, j->path);
	found = tsearch(l, &j->links, compare);
	if (!found || *found == l)
		return found ? 0 : -ENOMEM;
	free(l);
	return linkat(j->out_fd, (*found)->path, dir_fd, name, 0) < 0 ? -errno : 1;
}

/* ---- trees ---- */

static int make(struct tree_job *j, uint64_t parent, const char *name, int dir_fd, unsigned depth);

struct names {
	struct buf text; /* each ends with NUL */
};

static int note_name(void *ctx, const struct fs_dirent *e)
{
	struct names *n = ctx;

	if (strcmp(e->name, ".") != 0 && strcmp(e->name, "..") != 0)
		buf_put(&n->text, e->name, strlen(e->name) + 1);
	return n->text.failed ? -ENOMEM : 0;
}

static int fill_directory(struct tree_job *j, uint64_t ino, int fd, unsigned depth)
{
	struct names names = {0};
	int r = depth == DEPTH_MAX ? -ELOOP : fs_readdir(j->fs, ino, 0, false, note_name, &names);

	if (names.text.failed)
		r = -ENOMEM;
	for (size_t at = 0; r == 0 && at < names.text.len;) {
		const char *name = (const char *)names.text.p + at;

		at += strlen(name) + 1;
		r = make(j, ino, name, fd, depth + 1);
	}
	buf_free(&names.text);
	return r;
}

static int make_directory(struct tree_job *j, const struct fs_attr *a, int dir_fd, const char *name, unsigned depth)
{
	if (mkdirat(dir_fd, name, 0700) < 0)
		return -errno;
	CLEANUP_FD int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r = fd < 0 ? -errno : fill_directory(j, a->ino, fd, depth);

	return r < 0 ? r : set_attributes(j, a, fd);
}

static int make_any(struct tree_job *j, const struct fs_attr *a, int dir_fd, const char *name, unsigned depth)
{
	int r = !S_ISDIR(a->mode) && a->nlink > 1 ? make_link(j, a, dir_fd, name) : 0;

	if (r != 0)
		return r < 0 ? r : 0;
	switch (a->mode & S_IFMT) {
	case S_IFDIR:
		return make_directory(j, a, dir_fd, name, depth);
	case S_IFREG:
		return make_file(j, a, dir_fd, name);
	case S_IFLNK:
		return make_symlink(j, a, dir_fd, name);
	default:
		return make_special(a, dir_fd, name);
	}
}

static int make(struct tree_job *j, uint64_t parent, const char *name, int dir_fd, unsigned depth)
{
	size_t len = strlen(j->path), add = strlen(name) + 1;
	struct fs_attr a;
	int r = fs_lookup(j->fs, parent, name, &a);

	if (r < 0)
		return failed(j, "read", r);
	if (len + add >= sizeof(j->path))
		return failed(j, "written", -ENAMETOOLONG);
	snprintf(j->path + len, sizeof(j->path) - len, "%s%s", len ? "/" : "", name);
	uint64_t files = j->n++;
	r = make_any(j, &a, dir_fd, name, depth);
	fs_forget(j->fs, a.ino, 1);
	if (r < 0 && j->n == files + 1)
		failed(j, "written", r); /* once, for the innermost */
	j->path[len] = '\0';
	return r;
}

/* The directory that `path` is in, and its name there; "" for the root. */
static int find(struct fs *fs, const char *path, uint64_t *ret_parent, char name[NAME_MAX + 1])
{
	uint64_t ino = FS_ROOT_INO;

	*name = '\0';
	*ret_parent = ino;
	for (const char *p = path + strspn(path, "/"); *p;) {
		size_t n = strcspn(p, "/");
		struct fs_attr a;

		if (n > NAME_MAX)
			return -ENAMETOOLONG;
		memcpy(name, p, n);
		name[n] = '\0';
		int r = strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ? -EINVAL : fs_lookup(fs, ino, name, &a);
		if (r < 0)
			return r;
		fs_forget(fs, a.ino, 1);
		*ret_parent = ino;
		ino = a.ino;
		p += n + strspn(p + n, "/");
	}
	return 0;
}

static int run(struct tree_job *j, const char *path)
{
	char name[NAME_MAX + 1];
	uint64_t parent;
	int r = find(j->fs, path, &parent, name);

	if (r < 0) {
		complain("%s: not in the state that was restored: %s", path, strerror(-r));
		return r;
	}
	return *name ? make(j, parent, name, j->out_fd, 0) : fill_directory(j, FS_ROOT_INO, j->out_fd, 0);
}

int restore_tree(struct fs *fs, const char *path, const char *outdir, uint64_t *ret_files)
{
	struct tree_job j = {.fs = fs};

	if (mkdir(outdir, 0700) < 0 && errno != EEXIST) {
		complain("%s: %s", outdir, strerror(errno));
		return -errno;
	}
	CLEANUP_FD int fd = open(outdir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || posix_memalign((void **)&j.bytes, 4096, READ_MAX + 2 * 4096)) {
		complain("%s: %s", outdir, strerror(fd < 0 ? errno : ENOMEM));
		return fd < 0 ? -errno : -ENOMEM;
	}
	process_need_files(DEPTH_MAX + 100);
	j.out_fd = fd;
	int r = run(&j, path);
	if (r == 0 && syncfs(fd) < 0)
		r = -errno;
	if (j.unset)
		complain("%" PRIu64 " extended attributes are of a kind that %s does not take", j.unset, outdir);
	tdestroy(j.links, free);
	free(j.bytes);
	*ret_files = j.n;
	return r;
}
