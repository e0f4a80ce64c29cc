/*
 * format.c: makes a volume, and makes sure that nothing else is lost by it.
 *
 * A directory is taken when it is new, or empty but for lost+found.  One that holds a volume, or what an interrupted format or
 * erase left, needs --force and the word destroy.  One that holds anything else is always refused.  The superblock is written
 * last and erased first, so what is half made or half erased is never taken for a volume.
 *
 * `clawfs peer join` makes a follower's volume with the same three steps, and what another machine told in between.
 */
#include "fs/cli/acts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/printable.h"
#include "journal/journal_format.h"

#define CHUNK_GRAIN     (256 * KIB) /* 64 blocks, one word of the bitmap */
#define ERASE_DEPTH_MAX 8
#define BESIDES_BYTES   (16 * MIB) /* two staging files of 5.3 MiB, a new index, and what the host needs to have these files */

enum content { CONTENT_EMPTY, CONTENT_VOLUME, CONTENT_REMAINS, CONTENT_FOREIGN };

/* Names that make up a volume; arena.N by its prefix. */
static bool is_volume_name(const char *name)
{
	static const char *const names[] = {"super", "journal", "index",      "snap", "ballast",     "ballast.open",  "diverged",
					    "peers", "audit",   "audit.head", "keys", "credentials", VOLUME_RESTORING};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return strncmp(name, "arena.", 6) == 0;
}

static int directory_content(int dir_fd, enum content *ret, char ret_foreign[NAME_MAX + 1])
{
	bool super = false, parts = false, foreign = false;
	CLEANUP_FD int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d)
		return -errno;
	fd = -1; /* d's now */
	for (struct dirent *e; (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || strcmp(e->d_name, "lost+found") == 0)
			continue;
		if (strcmp(e->d_name, "super") == 0)
			super = true;
		else if (is_volume_name(e->d_name))
			parts = true;
		else {
			foreign = true;
			strcpy(ret_foreign, e->d_name);
		}
	}
	closedir(d);
	*ret = foreign ? CONTENT_FOREIGN : super ? CONTENT_VOLUME : parts ? CONTENT_REMAINS : CONTENT_EMPTY;
	return 0;
}

/* Removes `name` and what is below it, without ever following a link. */
static int erase_name(int parent_fd, const char *name, int depth)
{
	int r = 0;

	if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	if (depth == ERASE_DEPTH_MAX)
		return -ELOOP;
	CLEANUP_FD int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(dup(fd));
	if (!d)
		return -errno;
	for (struct dirent *e; r == 0 && (e = readdir(d));)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = erase_name(fd, e->d_name, depth + 1);
	closedir(d);
	if (r == 0 && unlinkat(parent_fd, name, AT_REMOVEDIR) < 0)
		r = -errno;
	return r;
}

static int erase_volume(int dir_fd)
{
	int r = erase_name(dir_fd, "super", 0);
	CLEANUP_FD int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d)
		return -errno;
	fd = -1; /* d's now */
	if (r == 0 && fsync(dir_fd) < 0)
		r = -errno;
	for (struct dirent *e; r == 0 && (e = readdir(d));)
		if (is_volume_name(e->d_name))
			r = erase_name(dir_fd, e->d_name, 0);
	closedir(d);
	return r;
}

static bool is_printable(const char *text)
{
	CLEANUP_FREE char *clean = strdup(text);

	if (clean)
		make_printable(clean);
	return clean && strcmp(clean, text) == 0;
}

static uint64_t given_or(uint64_t given, uint64_t otherwise)
{
	return given ? given : otherwise;
}

int format_plan(const struct args *a, const struct volume_sizes *usual, struct fs_format_options *ret)
{
	const uint64_t journal = given_or(a->journal_bytes, usual->journal_bytes),
		       segment = given_or(a->segment_bytes, usual->segment_bytes),
		       chunk = given_or(a->chunk_bytes, usual->chunk_bytes), n_segments = journal / segment;

	if (segment % BLOCK_SIZE || journal % segment)
		complain("--segment-size=%" PRIu64 " must be a multiple of 4K and divide --journal-size=%" PRIu64, segment,
			 journal);
	else if (n_segments < 2 || n_segments > 4096)
		complain("the journal would have %" PRIu64 " segments; choose --segment-size so that there are 2 to 4096",
			 n_segments);
	else if (journal < UINT64_C(2) * BATCH_MAX_BLOCKS * BLOCK_SIZE)
		complain("--journal-size must be at least 12M: room for two batches");
	else if (chunk % CHUNK_GRAIN)
		complain("--chunk-size must be a multiple of 256K");
	else if (a->label && !is_printable(a->label))
		complain("--label must be text: UTF-8 without control characters");
	else if (a->max_bytes && (a->max_bytes < chunk || a->max_bytes % BLOCK_SIZE))
		complain("--size must be a multiple of 4K and no less than --chunk-size");
	else {
		*ret = (struct fs_format_options){
		    .journal = {.n_segments = (uint32_t)n_segments, .segment_blocks = segment / BLOCK_SIZE},
		    .chunk_bytes = chunk,
		    .max_bytes = a->max_bytes,
		    .host_reserve = a->reserve_bytes,
		    .root_uid = geteuid(),
		    .root_gid = getegid(),
		    .root_mode = 0755,
		    .label = a->label ? a->label : "",
		};
		return 0;
	}
	return -EINVAL;
}

static int check_space(const struct fs_format_options *o, const char *dir, struct store *store)
{
	uint64_t journal = o->journal.n_segments * o->journal.segment_blocks * BLOCK_SIZE;
	uint64_t available, total, needed = journal + o->chunk_bytes + o->host_reserve + BESIDES_BYTES;
	char have[32], need[32];
	int r = store_space(store, &available, &total);

	if (r < 0 || available >= needed)
		return r;
	size_text(available, have, sizeof(have));
	size_text(needed, need, sizeof(need));
	complain(
	    "%s: journal, first chunk and reserve take %s, the host has %s free: choose smaller --journal-size, --chunk-size or "
	    "--reserve",
	    dir, need, have);
	return -ENOSPC;
}

static void complain_taken(const char *dir, enum content content)
{
	struct super copy[2];
	bool valid[2] = {false, false};
	char volume[UUID_TEXT] = "unreadable";
	const char *label = "";

	if (content == CONTENT_VOLUME && volume_peek(dir, copy, valid) == 0 && volume_newest(copy, valid)) {
		uuid_text(volume_newest(copy, valid)->volume, volume);
		label = volume_newest(copy, valid)->label;
	}
	if (content == CONTENT_VOLUME)
		complain("%s holds a volume already (%s%s%s): mount it; to lose everything in it, add --force --confirm=destroy",
			 dir, volume, *label ? ", " : "", label);
	else
		complain("%s holds parts of a volume without its superblock: an interrupted format, or a volume that lost it; to "
			 "lose them, add "
			 "--force --confirm=destroy",
			 dir);
}

bool format_force_is_right(const struct args *a, const char *dir)
{
	if (a->force == (a->confirm != NULL) && (!a->confirm || strcmp(a->confirm, "destroy") == 0))
		return true;
	complain("--force and --confirm=destroy go together: they erase the volume in %s", dir);
	return false;
}

/* Leaves the directory empty, or says why it may not be used. */
static int make_room(const struct args *a, const char *dir, int dir_fd)
{
	char foreign[NAME_MAX + 1];
	enum content content = CONTENT_FOREIGN;
	int r = directory_content(dir_fd, &content, foreign);

	if (r == 0 && content == CONTENT_FOREIGN) {
		complain("%s is not empty: it holds \"%s\", which is no part of a volume; choose a new or empty directory", dir,
			 foreign);
		return -ENOTEMPTY;
	}
	if (r == 0 && content != CONTENT_EMPTY) {
		if (!a->force || !a->confirm) {
			complain_taken(dir, content);
			return -EEXIST;
		}
		r = erase_volume(dir_fd);
	}
	if (r < 0)
		volume_complain("cannot prepare", dir, r);
	return r;
}

static int open_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0) {
		fd = -errno;
		volume_complain("cannot open", dir, fd);
	}
	return fd;
}

int format_begin(const struct args *a, const char *dir, struct format_target *t)
{
	t->made_dir = access(dir, F_OK) < 0;
	log_setup(LOG_LEVEL_WARN, false);
	int r = volume_open(dir, true, 0, &t->v);
	if (r < 0)
		return r;
	CLEANUP_FD int dir_fd = open_dir(t->v.dir);
	r = dir_fd < 0 ? dir_fd : make_room(a, t->v.dir, dir_fd);
	if (r < 0) {
		if (t->made_dir)
			rmdir(t->v.dir);
		volume_close(&t->v);
	}
	return r;
}

int format_volume(const struct args *a, struct format_target *t, struct fs_format_options *o)
{
	const char *dir = t->v.dir;
	int r = check_space(o, dir, t->v.fs.store);

	if (r < 0)
		return r;
	if (chmod(dir, 0700) < 0)
		r = -errno;
	if (r == 0) {
		r = format_encrypt(a, &t->v, o);
		if (r < 0)
			return r;
		r = fs_format(&t->v.fs, o);
	}
	if (r < 0)
		volume_complain("cannot format", dir, r);
	return r;
}

static void take_back(const struct format_target *t)
{
	CLEANUP_FD int dir_fd = open_dir(t->v.dir);

	if (dir_fd >= 0 && erase_volume(dir_fd) < 0)
		complain("%s: what was made so far is still there", t->v.dir);
	if (t->made_dir)
		rmdir(t->v.dir);
}

/* The directory's own name must be durable too. */
static int sync_parent(const char *dir)
{
	char path[PATH_MAX];

	if ((size_t)snprintf(path, sizeof(path), "%s/..", dir) >= sizeof(path))
		return -ENAMETOOLONG;
	CLEANUP_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int format_end(struct format_target *t, int r)
{
	if (r == 0) {
		r = sync_parent(t->v.dir);
		if (r < 0)
			volume_complain("cannot make durable", t->v.dir, r);
	}
	if (r < 0)
		take_back(t);
	volume_close(&t->v);
	return r;
}

/* The volume that is there; "" when it is none, or cannot be told. */
static void name_volume(const char *dir, char ret_volume[UUID_TEXT])
{
	struct super copy[2];
	bool valid[2] = {false, false};

	if (volume_peek(dir, copy, valid) == 0 && volume_newest(copy, valid))
		uuid_text(volume_newest(copy, valid)->volume, ret_volume);
}

/* The audit log of the volume that went is gone with it, so the new one begins with that. */
static int enter(const struct format_target *t, const char *before)
{
	char value[UUID_TEXT + 16];
	struct act act;

	snprintf(value, sizeof(value), "over volume %s", before);
	int r = act_begin_in("format", t->v.fs.store, value, &act);
	if (r < 0)
		volume_complain("cannot begin the audit log of", t->v.dir, r);
	else
		act_end(&act, 0, NULL);
	return r;
}

int verb_format(const struct args *a)
{
	static const struct volume_sizes usual = {.journal_bytes = GIB, .segment_bytes = 64 * MIB, .chunk_bytes = GIB};
	const char *dir = a->operand[0];
	struct fs_format_options o;
	struct format_target t;
	enum encryption mode;

	if (format_plan(a, &usual, &o) < 0 || format_encryption(a, &mode) < 0 || !format_force_is_right(a, dir))
		return EXIT_USAGE;
	char before[UUID_TEXT] = "";
	if (a->force)
		name_volume(dir, before);
	if (format_begin(a, dir, &t) < 0)
		return EXIT_FAILED;
	int r = format_volume(a, &t, &o);
	if (r == 0 && *before)
		r = enter(&t, before);
	if (format_end(&t, r) < 0)
		return EXIT_FAILED;
	text_print(dir);
	printf(": a volume now; mount it with: clawfs mount ");
	text_print(dir);
	printf(" MOUNTPOINT\n");
	return EXIT_OK;
}
