/*
 * diverged_read.c: tails of a divergent history, for an admin to look at: a list of them, and one of them as a tree.
 *
 * Export goes over the rows several times: those with data, so that each file is copied to its path; inodes, which give files
 * their sizes and make what was empty; links.  A row that is no JSON was being written when the host died: the index had
 * the row itself then, and it is in a later tail.
 *
 * Paths come out of a file, and may have been chosen by anybody who could write into the volume: each component is opened
 * without following links, and links are made after everything else.  What finds its place taken goes to unnamed/.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/write_all.h"
#include "fs/store/crypt/diverged_crypt.h"
#include "fs/store/diverged.h"

#define DIR_FLAGS  (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define COPY_BYTES (256 * KIB)
#define BLOCK      4096

static bool id_ok(const char *id)
{
	return id[0] && id[0] != '.' && !strchr(id, '/') && strlen(id) < DIVERGED_ID_MAX;
}

static int open_all(const char *dir, int *ret_fd)
{
	CLEANUP_FD int volume = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fd = volume < 0 ? -1 : openat(volume, "diverged", DIR_FLAGS);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static int open_tail(int all, const char *id, int *ret_fd)
{
	int fd = openat(all, id, DIR_FLAGS);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static int open_stream(int at, const char *name, FILE **ret)
{
	CLEANUP_FD int fd = openat(at, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	*ret = fdopen(fd, "r");
	if (!*ret)
		return -errno;
	(void)TAKE_FD(fd);
	return 0;
}

/* ---- the list ---- */

/* A tail whose resync never came to a checkpoint has no info.json: it is named all the same. */
static json_t *tail_info(int all, const char *id)
{
	CLEANUP_FD int tail = -1;
	json_t *info = NULL;
	FILE *f;

	if (open_tail(all, id, &tail) == 0 && open_stream(tail, "info.json", &f) == 0) {
		info = json_loadf(f, JSON_REJECT_DUPLICATES, NULL);
		fclose(f);
	}
	if (json_is_object(info))
		return info;
	json_decref(info);
	return json_pack("{s:s, s:b}", "id", id, "complete", 0);
}

/* Those without a time are the newest, whose resync goes on. */
static int64_t time_of(json_t *info)
{
	json_t *when = json_object_get(info, "when_ns");

	return when ? json_integer_value(when) : INT64_MAX;
}

/* Takes `info` over, into its place in the list. */
static void insert(json_t *list, json_t *info)
{
	size_t i = json_array_size(list);

	while (i > 0 && time_of(json_array_get(list, i - 1)) > time_of(info))
		i--;
	json_array_insert_new(list, i, info);
}

static int collect(int all, json_t *list)
{
	int fd = openat(all, ".", DIR_FLAGS);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d) {
		int r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	while ((e = readdir(d)))
		if (id_ok(e->d_name))
			insert(list, tail_info(all, e->d_name));
	closedir(d);
	return 0;
}

int diverged_list(const char *dir, struct buf *out)
{
	CLEANUP_FD int all = -1;
	json_t *list = json_array();
	int r = open_all(dir, &all);

	if (r == 0)
		r = collect(all, list);
	if (r == -ENOENT) /* nothing was ever kept */
		r = 0;
	CLEANUP_FREE char *text = json_dumps(list, JSON_INDENT(2));
	json_decref(list);
	if (r < 0)
		return r;
	buf_put(out, text, text ? strlen(text) : 0);
	return text && !out->failed ? 0 : -ENOMEM;
}

/* ---- the tree ---- */

struct export
{
	int files, tree, unnamed; /* directories: of the tail; of what is made */
	FILE *rows, *changes;
	uint64_t last_ino;          /* its data was copied last */
	struct diverged_keys *keys; /* NULL: it is not encrypted */
	struct buf opened;          /* the row at hand, of one that is */
};

static int from_hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A member of bytes, as they were: malloc'ed and terminated; NULL when there is none or it holds a NUL. */
static char *get_bytes(json_t *o, const char *name)
{
	char member[64];
	const char *text = json_string_value(json_object_get(o, name));

	if (text)
		return strlen(text) == json_string_length(json_object_get(o, name)) ? strdup(text) : NULL;
	snprintf(member, sizeof(member), "%s_hex", name);
	text = json_string_value(json_object_get(o, member));
	size_t len = text ? strlen(text) / 2 : 0;
	CLEANUP_FREE char *bytes = text ? malloc(len + 1) : NULL;
	for (size_t i = 0; bytes && i < len; i++) {
		int hi = from_hex(text[2 * i]), lo = from_hex(text[2 * i + 1]);

		if (hi < 0 || lo < 0 || (hi == 0 && lo == 0))
			return NULL;
		bytes[i] = (char)(hi << 4 | lo);
	}
	if (bytes)
		bytes[len] = '\0';
	return TAKE_PTR(bytes);
}

static uint64_t get_int(json_t *o, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(o, name));
}

static bool component_ok(const char *s)
{
	return *s && strlen(s) <= NAME_MAX && strcmp(s, ".") != 0 && strcmp(s, "..") != 0;
}

/* One directory down; *dir goes on to name it.  False when that is no place for a directory. */
static bool descend(int *dir, const char *name)
{
	if (!component_ok(name) || (mkdirat(*dir, name, 0700) < 0 && errno != EEXIST))
		return false;
	int next = openat(*dir, name, DIR_FLAGS);
	if (next < 0)
		return false;
	close(*dir);
	*dir = next;
	return true;
}

/* The directory that `path` lies in, made when needed, and its last component, which points into `path` (changed). */
static bool find_place(int tree, char *path, int *ret_dir, const char **ret_name)
{
	CLEANUP_FD int dir = openat(tree, ".", DIR_FLAGS);
	char *at = path[0] == '/' ? path + 1 : path;

	for (char *slash; dir >= 0 && (slash = strchr(at, '/')); at = slash + 1) {
		*slash = '\0';
		if (!descend(&dir, at))
			return false;
	}
	if (dir < 0 || !component_ok(at))
		return false;
	*ret_dir = TAKE_FD(dir);
	*ret_name = at;
	return true;
}

/* What becomes of a row: calls fn at its path, or by its number in unnamed/ when the path is not known or taken. */
static int make(struct export *x, json_t *o, int (*fn)(struct export *x, json_t *o, int dir, const char *name))
{
	CLEANUP_FREE char *path = get_bytes(o, "path");
	CLEANUP_FD int dir = -1;
	const char *name;
	char number[32];

	if (path && strcmp(path, "/") == 0)
		return 0;
	int r = path && find_place(x->tree, path, &dir, &name) ? fn(x, o, dir, name) : -ENOTDIR;
	if (r != -ENOTDIR && r != -EISDIR && r != -EEXIST && r != -ELOOP)
		return r;
	snprintf(number, sizeof(number), "%llu", (unsigned long long)get_int(o, "ino"));
	r = fn(x, o, x->unnamed, number);
	return r == -EEXIST ? 0 : r;
}

/* Both are whole sectors.  One that a crash cut off at the end of an encrypted file cannot be opened and is left out. */
static int copy_range(struct export *x, uint64_t ino, int from, int to, off_t at, off_t end, void *room)
{
	while (at < end) {
		ssize_t n = pread(from, room, min_u64(COPY_BYTES, (uint64_t)(end - at)), at);
		if (n < 0)
			return -errno;
		if (x->keys)
			n -= n % BLOCK;
		if (n == 0)
			return 0;
		int r = x->keys ? diverged_open_data(x->keys, ino, (uint64_t)at, room, (size_t)n) : 0;
		if (r < 0)
			return r;
		r = write_all(to, room, (size_t)n, (uint64_t)at);
		if (r < 0)
			return r;
		at += n;
	}
	return 0;
}

static int copy_sparse(struct export *x, uint64_t ino, int from, int to)
{
	CLEANUP_FREE void *room = malloc(COPY_BYTES);
	off_t end = lseek(from, 0, SEEK_END);
	int r = room ? 0 : -ENOMEM;

	for (off_t at = 0; r == 0 && at < end;) {
		off_t data = lseek(from, at, SEEK_DATA), hole = data < 0 ? end : lseek(from, data, SEEK_HOLE);

		if (data < 0 && errno == ENXIO)
			break;
		r = copy_range(x, ino, from, to, (data < 0 ? at : data) / BLOCK * BLOCK, (hole + BLOCK - 1) / BLOCK * BLOCK,
			       room);
		at = hole;
	}
	return r;
}

/* One too long for this host keeps what data it has. */
static int set_size(int fd, json_t *o)
{
	if (!json_object_get(o, "size"))
		return 0;
	return ftruncate(fd, (off_t)get_int(o, "size")) < 0 && errno != EFBIG ? -errno : 0;
}

static int make_data(struct export *x, json_t *o, int dir, const char *name)
{
	char number[32];

	const uint64_t ino = get_int(o, "ino");

	snprintf(number, sizeof(number), "%llu", (unsigned long long)ino);
	CLEANUP_FD int from = openat(x->files, number, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (from < 0)
		return errno == ENOENT ? 0 : -errno;
	CLEANUP_FD int to = openat(dir, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r = to < 0 ? -errno : copy_sparse(x, ino, from, to);
	return r < 0 ? r : set_size(to, o);
}

/* The size that a file had; one without data here is made only when it was this node's alone. */
static int make_file(struct export *x, json_t *o, int dir, const char *name)
{
	int create = json_is_true(json_object_get(o, "gone")) ? O_CREAT : 0;
	CLEANUP_FD int fd = openat(dir, name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC | create, 0600);

	(void)x;
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	return set_size(fd, o);
}

static int make_dir(struct export *x, json_t *o, int dir, const char *name)
{
	struct stat st;

	(void)x;
	(void)o;
	if (mkdirat(dir, name, 0700) == 0)
		return 0;
	int error = errno;
	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode) ? 0 : -error;
}

static int make_link(struct export *x, json_t *o, int dir, const char *name)
{
	CLEANUP_FREE char *target = get_bytes(o, "target");

	(void)x;
	return target && symlinkat(target, dir, name) < 0 ? -errno : 0;
}

/* First pass. */
static int export_data(struct export *x, json_t *o, const char *table)
{
	uint64_t ino = get_int(o, "ino");

	if (strcmp(table, "E") != 0 || !json_object_get(o, "data") || ino == x->last_ino)
		return 0;
	x->last_ino = ino;
	return make(x, o, make_data);
}

/* Second pass. */
static int export_inode(struct export *x, json_t *o, const char *table)
{
	const char *mode = json_string_value(json_object_get(o, "mode"));
	uint32_t type = mode ? (uint32_t)strtoul(mode, NULL, 8) & S_IFMT : 0;

	if (strcmp(table, "I") != 0)
		return 0;
	if (type == S_IFREG)
		return make(x, o, make_file);
	return type == S_IFDIR && json_is_true(json_object_get(o, "gone")) ? make(x, o, make_dir) : 0;
}

/* Third pass. */
static int export_link(struct export *x, json_t *o, const char *table)
{
	return strcmp(table, "L") == 0 ? make(x, o, make_link) : 0;
}

/* A line as it was put in; one that a crash cut off is none. */
static json_t *load_row(struct export *x, struct slice line)
{
	if (x->keys) {
		if (diverged_open_line(x->keys, line, &x->opened) < 0)
			return NULL;
		line = (struct slice){x->opened.p, x->opened.len};
	}
	return json_loadb(line.p, line.len, JSON_ALLOW_NUL, NULL);
}

static int each_row(struct export *x, int (*fn)(struct export *x, json_t *o, const char *table))
{
	CLEANUP_FREE char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	int r = 0;

	rewind(x->rows);
	while (r == 0 && (n = getline(&line, &cap, x->rows)) > 0) {
		json_t *o = load_row(x, (struct slice){line, (size_t)n - (line[n - 1] == '\n')});
		const char *table = json_string_value(json_object_get(o, "table"));

		if (table)
			r = fn(x, o, table);
		json_decref(o);
	}
	return r;
}

static int copy_row(struct export *x, json_t *o, const char *table)
{
	(void)table;
	if (json_dumpf(o, x->changes, JSON_COMPACT) < 0 || fputc('\n', x->changes) == EOF)
		return -EIO;
	return 0;
}

static int export_all(struct export *x)
{
	int r = each_row(x, copy_row);

	if (r == 0 && fflush(x->changes) == EOF)
		r = -errno;
	if (r == 0)
		r = each_row(x, export_data);
	if (r == 0)
		r = each_row(x, export_inode);
	return r < 0 ? r : each_row(x, export_link);
}

static int make_out_dir(int at, const char *name, int *ret_fd)
{
	if (mkdirat(at, name, 0700) < 0)
		return -errno;
	*ret_fd = openat(at, name, DIR_FLAGS);
	return *ret_fd < 0 ? -errno : 0;
}

static int open_changes(int at, FILE **ret)
{
	int fd = openat(at, "changes.jsonl", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	*ret = fd < 0 ? NULL : fdopen(fd, "w");
	if (*ret)
		return 0;
	int r = -errno;
	if (fd >= 0)
		close(fd);
	return r;
}

int diverged_export(const char *dir, const char *id, const char *to, const struct data_key *key)
{
	CLEANUP_FD int all = -1, tail = -1, files = -1, out = -1, tree = -1, unnamed = -1;
	struct export x = {0};

	if (!id_ok(id))
		return -EINVAL;
	int r = open_all(dir, &all);
	if (r == 0)
		r = open_tail(all, id, &tail);
	if (r == 0 && key)
		r = diverged_keys_new(key, id, &x.keys);
	if (r < 0)
		return r;
	files = openat(tail, "files", DIR_FLAGS);
	r = files < 0 ? -errno : open_stream(tail, "rows.jsonl", &x.rows);
	if (r == 0)
		r = make_out_dir(AT_FDCWD, to, &out);
	if (r == 0)
		r = make_out_dir(out, "tree", &tree);
	if (r == 0)
		r = make_out_dir(out, "unnamed", &unnamed);
	if (r == 0)
		r = open_changes(out, &x.changes);
	x.files = files;
	x.tree = tree;
	x.unnamed = unnamed;
	if (r == 0)
		r = export_all(&x);
	diverged_keys_free(x.keys);
	buf_free(&x.opened);
	if (x.rows)
		fclose(x.rows);
	if (x.changes && fclose(x.changes) == EOF && r == 0)
		r = -errno;
	if (r == 0 && unlinkat(out, "unnamed", AT_REMOVEDIR) < 0 && errno != ENOTEMPTY && errno != EEXIST)
		r = -errno;
	return r;
}
