/*
 * diverged_dir.c: tails of a divergent history as directories of the host, written once.
 *
 * Rows go to the end of one file; blocks to the file of their inode.  They come in the order of inodes, so one such file is
 * open at a time: it is flushed when the next one begins, and sync() has only the last of them, the rows and the names to
 * flush.  info.json is replaced as a whole, last, so what it counts is there.
 *
 * Names are resolved one component at a time with O_NOFOLLOW.  A write that fails for space may be asked again: it goes to the
 * same place.  Any error of a flush is kept (G6).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "base/write_all.h"
#include "fs/store/diverged.h"

#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

struct dir_sink {
	struct diverged_sink base;
	int volume, tail, files; /* directories; -1: closed */
	int rows, file;          /* rows.jsonl; files/INO of file_ino */
	uint64_t file_ino, rows_end;
	int error; /* sticky, of a flush */
};

static struct dir_sink *to_dir(struct diverged_sink *s)
{
	return container_of(s, struct dir_sink, base);
}

static int keep_error(struct dir_sink *s, int r)
{
	if (r < 0 && s->error == 0)
		s->error = r;
	return r;
}

static int flush(struct dir_sink *s, int fd)
{
	return fsync(fd) < 0 ? keep_error(s, -errno) : 0;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* The directory `name` in `at`; made when it is not there, -EEXIST when it is and must not be. */
static int open_dir(int at, const char *name, bool exclusive, int *ret_fd)
{
	if (mkdirat(at, name, 0700) < 0 && (errno != EEXIST || exclusive))
		return -errno;
	int fd = openat(at, name, DIR_FLAGS);
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static int create_file(int at, const char *name, unsigned flags, int *ret_fd)
{
	int fd = openat(at, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | (int)flags, 0600);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static void dir_close(struct diverged_sink *base)
{
	struct dir_sink *s = to_dir(base);

	close_fd(&s->file);
	close_fd(&s->rows);
	close_fd(&s->files);
	close_fd(&s->tail);
}

static int dir_open(struct diverged_sink *base, const char *id)
{
	struct dir_sink *s = to_dir(base);
	CLEANUP_FD int all = -1;
	int r = s->error ? s->error : open_dir(s->volume, "diverged", false, &all);

	if (r == 0)
		r = open_dir(all, id, true, &s->tail);
	if (r < 0)
		return r;
	s->rows_end = 0;
	s->file_ino = 0;
	r = open_dir(s->tail, "files", true, &s->files);
	if (r == 0)
		r = create_file(s->tail, "rows.jsonl", O_EXCL, &s->rows);
	if (r == 0)
		r = flush(s, all);
	if (r == 0)
		r = flush(s, s->volume);
	if (r < 0)
		dir_close(base);
	return r;
}

static int dir_put_line(struct diverged_sink *base, struct slice line)
{
	struct dir_sink *s = to_dir(base);
	int r = s->error ? s->error : write_all(s->rows, line.p, line.len, s->rows_end);

	if (r == 0)
		r = write_all(s->rows, "\n", 1, s->rows_end + line.len);
	if (r == 0)
		s->rows_end += line.len + 1;
	return r;
}

/* What was put into the file of the inode before is flushed when it is left. */
static int switch_file(struct dir_sink *s, uint64_t ino)
{
	char name[32];
	int r = s->file >= 0 ? flush(s, s->file) : 0;

	close_fd(&s->file);
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "%llu", (unsigned long long)ino);
	r = create_file(s->files, name, 0, &s->file);
	if (r == 0)
		s->file_ino = ino;
	return r;
}

static int dir_put_data(struct diverged_sink *base, uint64_t ino, uint64_t off, const void *p, size_t len)
{
	struct dir_sink *s = to_dir(base);
	int r = s->error;

	if (r == 0 && (s->file < 0 || s->file_ino != ino))
		r = switch_file(s, ino);
	return r < 0 ? r : write_all(s->file, p, len, off);
}

static int write_info(struct dir_sink *s, struct slice info)
{
	CLEANUP_FD int fd = -1;
	int r = create_file(s->tail, "info.json.new", O_TRUNC, &fd);

	if (r == 0)
		r = write_all(fd, info.p, info.len, 0);
	if (r == 0)
		r = flush(s, fd);
	if (r == 0 && renameat(s->tail, "info.json.new", s->tail, "info.json") < 0)
		r = -errno;
	return r;
}

static int dir_sync(struct diverged_sink *base, struct slice info)
{
	struct dir_sink *s = to_dir(base);
	int r = s->error;

	if (r == 0 && s->file >= 0)
		r = flush(s, s->file);
	if (r == 0)
		r = flush(s, s->files);
	if (r == 0)
		r = flush(s, s->rows);
	if (r == 0)
		r = write_info(s, info);
	return r < 0 ? r : flush(s, s->tail);
}

static void dir_free(struct diverged_sink *base)
{
	struct dir_sink *s = to_dir(base);

	dir_close(base);
	close_fd(&s->volume);
	free(s);
}

static const struct diverged_ops dir_ops = {
    .open = dir_open,
    .put_line = dir_put_line,
    .put_data = dir_put_data,
    .sync = dir_sync,
    .close = dir_close,
    .free = dir_free,
};

int diverged_dir_new(const char *dir, struct diverged_sink **ret)
{
	CLEANUP_FD int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	struct dir_sink *s = malloc(sizeof(*s));
	if (!s)
		return -ENOMEM;
	*s = (struct dir_sink){.base = {.ops = &dir_ops}, .volume = TAKE_FD(fd), .tail = -1, .files = -1, .rows = -1, .file = -1};
	*ret = &s->base;
	return 0;
}
