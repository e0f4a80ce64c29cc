/*
 * compress.c: the verb `compress`: files as the policy of their directory says, now, and what that saves.
 *
 * The work is in the daemon, to which each file is named by an attribute; here is the walk, the wait and the sum.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fts.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define POLL_US     100000u
#define PROGRESS_NS NSEC_PER_SEC

struct sum {
	uint64_t files, failed, data, packed, frames; /* the last three in bytes */
};

typedef int file_fn(const char *path, struct sum *s);

static int ask_one(const char *path, struct sum *s)
{
	int r;

	(void)s;
	/* A full queue empties. */
	while ((r = lsetxattr(path, "clawfs.compression.now", "1", 1, 0)) < 0 && errno == EAGAIN)
		usleep(POLL_US);
	return r < 0 ? -errno : 0;
}

static int add_one(const char *path, struct sum *s)
{
	uint64_t data, packed, frames;
	char text[128];
	ssize_t n = lgetxattr(path, "clawfs.compression.usage", text, sizeof(text) - 1);

	if (n < 0)
		return -errno;
	text[n] = '\0';
	if (sscanf(text, "data=%" SCNu64 " packed=%" SCNu64 " frames=%" SCNu64, &data, &packed, &frames) != 3)
		return -EPROTO;
	s->files++;
	s->data += data;
	s->packed += packed;
	s->frames += frames;
	return 0;
}

static void failed(struct sum *s, const char *path, int error)
{
	s->failed++;
	complain("%s: %s", path,
		 error == -EPERM        ? "only root and the owner of the mount's root directory may do this"
		 : error == -EOPNOTSUPP ? "not on a clawfs mount"
		 : error == -ENODATA    ? "not on a clawfs mount"
					: strerror(-error));
}

/* Every regular file at or below `path`, within its filesystem. */
static int each_file(const char *path, file_fn *fn, struct sum *s)
{
	char *const paths[] = {(char *)(uintptr_t)path, NULL};
	FTS *fts = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
	FTSENT *e;

	if (!fts)
		return -errno;
	while ((e = fts_read(fts))) {
		int r = 0;

		if (e->fts_info == FTS_F && S_ISREG(e->fts_statp->st_mode))
			r = fn(e->fts_path, s);
		else if (e->fts_info == FTS_ERR || e->fts_info == FTS_DNR || e->fts_info == FTS_NS)
			r = -e->fts_errno;
		if (r < 0)
			failed(s, e->fts_path, r);
	}
	int r = errno ? -errno : 0;
	fts_close(fts);
	return r;
}

/* Until none of those asked for waits. */
static int wait_done(const char *root)
{
	int64_t told_ns = clock_mono_ns(&clock_system);
	json_int_t left = 1;
	json_t *facts;

	while (left > 0) {
		int r = status_read(root, &facts);

		if (r < 0)
			return r;
		left = json_integer_value(json_object_get(json_object_get(facts, "compression"), "asked"));
		json_decref(facts);
		if (left > 0 && isatty(STDERR_FILENO) && clock_mono_ns(&clock_system) - told_ns >= PROGRESS_NS) {
			told_ns = clock_mono_ns(&clock_system);
			fprintf(stderr, "\rcompressing: %" JSON_INTEGER_FORMAT " files left ", left);
		}
		if (left > 0)
			usleep(POLL_US);
	}
	return 0;
}

static void print_sum(const struct args *a, const struct sum *s)
{
	uint64_t stored = s->data - s->packed + s->frames;

	if (a->json) {
		json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:I}", "files", (json_int_t)s->files, "data_bytes",
				      (json_int_t)s->data, "packed_bytes", (json_int_t)s->packed, "frame_bytes",
				      (json_int_t)s->frames, "stored_bytes", (json_int_t)stored);
		json_print(o);
		json_decref(o);
		return;
	}
	char data[32], kept[32];
	size_text(s->data, data, sizeof(data));
	size_text(stored, kept, sizeof(kept));
	printf("%" PRIu64 " files: %s of data in %s (%.0f %%)\n", s->files, data, kept,
	       s->data ? 100.0 * (double)stored / (double)s->data : 100.0);
}

int verb_compress(const struct args *a)
{
	const char *path = a->operand[0];
	struct sum s = {0};
	char root[PATH_MAX];
	int r = mountpoint_of(path, root);

	if (r == 0 && !a->dry_run)
		r = mount_flush(root);
	if (r == 0 && !a->dry_run)
		r = each_file(path, ask_one, &s);
	if (r == 0 && !a->dry_run)
		r = wait_done(root);
	if (r == 0)
		r = each_file(path, add_one, &s);
	if (r < 0) {
		complain("%s: %s", path, strerror(-r));
		return EXIT_FAILED;
	}
	print_sum(a, &s);
	return s.failed ? EXIT_FAILED : EXIT_OK;
}
