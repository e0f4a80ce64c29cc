/*
 * store_dir_list.c: the keys of a directory store in byte order.
 *
 * A directory is read from end to end, and the smallest PAGE of its names that are wanted and come after the last one delivered
 * are kept, sorted and delivered; a directory with more is read again for the next page.  A directory's name sorts with a slash
 * behind it, as it stands in the keys.  It is closed before anything is delivered: the reader may take its time, and put and
 * remove meanwhile.
 *
 * What is no object is passed over: names that are no part of a key (the marker, temporary files, lost+found), and everything but
 * files and directories.
 */
#include "tier/store_dir_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define PAGE 4096u

struct entry {
	char *name; /* owned; a directory's ends with a slash */
	struct object_info info;
};
struct page {
	struct entry *entries; /* room for 2 * PAGE; the first n are used */
	size_t n, cap;
	bool more; /* some were left out */
};
struct listing {
	struct store_dir *s;
	struct object_call *call;
	int root;
	const char *prefix, *after;
	object_list_fn *fn;
	void *ctx;
	char key[OBJECT_KEY_MAX + 1]; /* of the directory that is read, with its slash; then of what is delivered */
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static void page_cut(struct page *p, size_t n)
{
	while (p->n > n)
		free(p->entries[--p->n].name);
}

/* Sorts, and lets go of all but the smallest. */
static void page_trim(struct page *p)
{
	if (p->n)
		qsort(p->entries, p->n, sizeof(*p->entries), by_name);
	p->more |= p->n > PAGE;
	page_cut(p, PAGE);
}

static int page_add(struct page *p, const char *name, bool is_dir)
{
	size_t len = strlen(name);

	if (p->n == p->cap) {
		size_t cap = p->cap ? p->cap * 2 : 64;
		struct entry *e = reallocarray(p->entries, cap, sizeof(*e));
		if (!e)
			return -ENOMEM;
		p->entries = e;
		p->cap = cap;
	}
	char *copy = malloc(len + 2);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, name, len);
	strcpy(copy + len, is_dir ? "/" : "");
	p->entries[p->n++] = (struct entry){.name = copy};
	if (p->n == (size_t)2 * PAGE)
		page_trim(p);
	return 0;
}

/* Whether keys can be wanted that are, or begin with, l->key (a directory's up to its slash) and `name`. */
static bool wanted(const struct listing *l, const char *name, bool is_dir)
{
	char key[OBJECT_KEY_MAX + 2];
	int len = snprintf(key, sizeof(key), "%s%s%s", l->key, name, is_dir ? "/" : "");
	size_t prefix_len = strlen(l->prefix), n = (size_t)len;

	if (len > (int)OBJECT_KEY_MAX || !object_key_valid(name))
		return false;
	if (is_dir)
		return strncmp(key, l->prefix, n < prefix_len ? n : prefix_len) == 0 && strncmp(key, l->after, n) >= 0;
	return strncmp(key, l->prefix, prefix_len) == 0 && strcmp(key, l->after) > 0;
}

enum what { NOTHING, FILE_THERE, DIRECTORY_THERE };
static enum what look_at(int dir, const struct dirent *e)
{
	struct stat st;

	if (e->d_type == DT_REG)
		return FILE_THERE;
	if (e->d_type == DT_DIR)
		return DIRECTORY_THERE;
	if (e->d_type != DT_UNKNOWN || fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return NOTHING;
	return S_ISREG(st.st_mode) ? FILE_THERE : S_ISDIR(st.st_mode) ? DIRECTORY_THERE : NOTHING;
}

/* Where a name is relative to the last one of the page before, with a directory's slash. */
static bool is_behind(const char *name, bool is_dir, const char *from)
{
	char sorted[NAME_MAX + 2];

	snprintf(sorted, sizeof(sorted), "%s%s", name, is_dir ? "/" : "");
	return strcmp(sorted, from) > 0;
}

static int read_names(struct listing *l, DIR *d, const char *from, struct page *ret)
{
	const struct dirent *e;
	int r = 0, dir = dirfd(d);

	for (errno = 0; r == 0 && (e = readdir(d)); errno = 0) {
		if (strncmp(e->d_name, TEMP_PREFIX, strlen(TEMP_PREFIX)) == 0) {
			store_dir_sweep_one(l->s, dir, e->d_name);
			continue;
		}
		enum what what = strcmp(e->d_name, ".") && strcmp(e->d_name, "..") ? look_at(dir, e) : NOTHING;
		bool is_dir = what == DIRECTORY_THERE;
		if (what != NOTHING && wanted(l, e->d_name, is_dir) && is_behind(e->d_name, is_dir, from))
			r = page_add(ret, e->d_name, is_dir);
	}
	if (r == 0 && errno)
		return store_dir_host_error(l->s, l->call, NULL, "reading a directory", errno);
	return r;
}

/* Sizes and times; what went meanwhile has no name any more. */
static void read_infos(int dir, struct page *p)
{
	struct stat st;

	for (size_t i = 0; i < p->n; i++) {
		struct entry *e = &p->entries[i];
		if (e->name[strlen(e->name) - 1] == '/')
			continue;
		if (fstatat(dir, e->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
			e->info =
			    (struct object_info){(uint64_t)st.st_size, st.st_mtim.tv_sec * NSEC_PER_SEC + st.st_mtim.tv_nsec};
		else
			e->info.modified_ns = INT64_MIN; /* gone */
	}
}

/* The next page of the directory l->key; an empty one when the directory went meanwhile. */
static int read_page(struct listing *l, const char *from, struct page *ret)
{
	int fd = -1, r;
	const char *rest;
	DIR *d;

	r = store_dir_check_time(l->s, l->call, NULL);
	if (r == 0)
		r = store_dir_walk(l->s, l->call, l->root, l->key, false, &fd, &rest);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	/* What walk gives for the root is a copy of l->root, which has one place in the directory with it. */
	int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	close(fd);
	d = own < 0 ? NULL : fdopendir(own);
	if (!d) {
		r = store_dir_host_error(l->s, l->call, NULL, "reading a directory", errno);
		if (own >= 0)
			close(own);
		return r;
	}
	r = read_names(l, d, from, ret);
	page_trim(ret);
	if (r == 0)
		read_infos(dirfd(d), ret);
	closedir(d);
	return r;
}

static int list_directory(struct listing *l);

/* l->key is the directory's before and after. */
static int deliver(struct listing *l, const struct page *p)
{
	size_t at = strlen(l->key);
	int r = 0;

	for (size_t i = 0; r == 0 && i < p->n; i++) {
		const struct entry *e = &p->entries[i];
		size_t len = strlen(e->name);
		memcpy(l->key + at, e->name, len + 1); /* wanted() saw that it fits */
		if (e->name[len - 1] == '/')
			r = list_directory(l);
		else if (e->info.modified_ns != INT64_MIN)
			r = l->fn(l->ctx, l->key, &e->info);
		l->key[at] = '\0';
	}
	return r;
}

static int list_directory(struct listing *l)
{
	char from[NAME_MAX + 2] = "";
	bool more = true;
	int r = 0;

	while (r == 0 && more) {
		struct page p = {0};
		r = read_page(l, from, &p);
		if (r == 0 && p.n) {
			snprintf(from, sizeof(from), "%s", p.entries[p.n - 1].name);
			r = deliver(l, &p);
		}
		more = p.more;
		page_cut(&p, 0);
		free(p.entries);
	}
	return r;
}

int store_dir_list(struct object_store *store, struct object_call *call, const char *prefix, const char *after,
		   object_list_fn *fn, void *ctx)
{
	struct listing l = {.s = store_dir_of(store), .call = call, .prefix = prefix, .after = after, .fn = fn, .ctx = ctx};
	CLEANUP_FD int root = -1;
	int r;

	call->retry_after_ns = 0;
	call->verified = false;
	call->status = 0;
	call->message[0] = '\0';
	r = store_dir_root(l.s, call, &root);
	if (r < 0)
		return r;
	l.root = root;
	r = list_directory(&l);
	if (r < 0)
		return r;
	call->message[0] = '\0'; /* a directory that went meanwhile is nothing to tell */
	return 0;
}
