/*
 * recount.c: a walk over names and attributes.  Which of a file's names is the primary one is asked of the inode; that it is one
 * of its names, and only one, is seen from the sums: the link counts of files with several names add up to as many as there are
 * names.
 */
#include "tests/lib/recount.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/core/core.h"

struct walk {
	struct fs *fs;
	char *why;
	size_t cap;
	uint64_t names, links; /* of files with several names: names met, link counts of those met by their primary name */
};
struct children {
	struct {
		uint64_t ino, cookie;
		uint32_t type;
	} * e;
	size_t n, cap;
};

static int take(void *ctx, const struct fs_dirent *d)
{
	struct children *c = ctx;

	if (strcmp(d->name, ".") == 0 || strcmp(d->name, "..") == 0)
		return 0;
	if (c->n == c->cap) {
		c->cap = c->cap ? c->cap * 2 : 16;
		c->e = realloc(c->e, c->cap * sizeof(*c->e));
		if (!c->e)
			abort();
	}
	c->e[c->n].ino = d->ino;
	c->e[c->n].cookie = d->cookie;
	c->e[c->n++].type = d->type;
	return 0;
}

static int count_dir(struct walk *w, uint64_t ino, struct fs_usage *ret);

static int count_child(struct walk *w, uint64_t dir, uint64_t ino, uint64_t cookie, uint32_t type, struct fs_usage *sum)
{
	struct fs_usage below;
	struct inode in;
	int r = icache_copy(w->fs->icache, ino, &in);

	if (r == 0 && S_ISDIR(type)) {
		r = count_dir(w, ino, &below);
		if (r < 0)
			return r;
		sum->bytes += below.bytes;
		sum->files += below.files;
		sum->subdirs += below.subdirs + 1;
		sum->ctime_ns = sum->ctime_ns > below.ctime_ns ? sum->ctime_ns : below.ctime_ns;
		return 0;
	}
	bool primary = r == 0 && in.parent == dir && in.cookie == cookie;
	if (r == 0 && in.nlink > 1) {
		w->names++;
		w->links += primary ? in.nlink : 0;
	} else if (r == 0 && !primary) {
		snprintf(w->why, w->cap, "inode %llu: its only name is not where it says", (unsigned long long)ino);
		return -EUCLEAN;
	}
	if (r < 0 || !primary)
		return r;
	sum->bytes += in.size;
	sum->files++;
	sum->ctime_ns = sum->ctime_ns > in.ctime_ns ? sum->ctime_ns : in.ctime_ns;
	return 0;
}

static int compare(struct walk *w, uint64_t ino, const struct fs_usage *counted)
{
	char path[200];
	struct fs_usage said;
	int r = fs_dir_usage(w->fs, ino, &said);

	if (r < 0) {
		snprintf(w->why, w->cap, "inode %llu: its totals cannot be told: %s", (unsigned long long)ino, strerror(-r));
		return r;
	}
	if (said.bytes == counted->bytes && said.files == counted->files && said.subdirs == counted->subdirs &&
	    said.ctime_ns >= counted->ctime_ns)
		return 0;
	fs_path(w->fs, ino, path, sizeof(path));
	snprintf(w->why, w->cap, "%s: says %llu bytes, %llu files, %llu directories, changed %lld; has %llu, %llu, %llu, %lld",
		 path, (unsigned long long)said.bytes, (unsigned long long)said.files, (unsigned long long)said.subdirs,
		 (long long)said.ctime_ns, (unsigned long long)counted->bytes, (unsigned long long)counted->files,
		 (unsigned long long)counted->subdirs, (long long)counted->ctime_ns);
	return -EUCLEAN;
}

static int count_dir(struct walk *w, uint64_t ino, struct fs_usage *ret)
{
	struct children c = {0};
	struct inode in;
	int r = icache_copy(w->fs->icache, ino, &in);

	if (r == 0)
		r = fs_readdir(w->fs, ino, 0, false, take, &c);
	*ret = (struct fs_usage){.ctime_ns = r == 0 ? in.ctime_ns : 0};
	for (size_t i = 0; i < c.n && r == 0; i++)
		r = count_child(w, ino, c.e[i].ino, c.e[i].cookie, c.e[i].type, ret);
	free(c.e);
	return r < 0 ? r : compare(w, ino, ret);
}

int recount_check(struct fs *fs, uint64_t ino, char *why, size_t cap)
{
	struct walk w = {.fs = fs, .why = why, .cap = cap};
	struct fs_usage sum;

	snprintf(why, cap, "reading");
	int r = count_dir(&w, ino, &sum);
	if (r == 0 && w.names != w.links) {
		snprintf(why, cap, "files with several names count %llu times for %llu names", (unsigned long long)w.links,
			 (unsigned long long)w.names);
		r = -EUCLEAN;
	}
	return r;
}
