/*
 * tree.c: the recovered filesystem is read only through fs_ calls, each fact by the call an application would use: names by
 * readdir and again by lookup, attributes by getattr, bytes by read.
 */
#include "tests/lib/tree.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "fs/core/snap/snap.h"
#include "tests/lib/cow.h"

#define READ_STEP (256 * KIB)

uint64_t tree_hash_bytes(const void *p, size_t len)
{
	return XXH64(p, len, 0);
}

uint64_t tree_hash_xattr(const char *name, const void *value, size_t len)
{
	return XXH64(value, len, XXH64(name, strlen(name), 1));
}

void tree_add(struct tree *t, const char *path, const struct tree_entry *e)
{
	t->e = test_grow(t->e, t->n, &t->cap, sizeof(*t->e));
	t->e[t->n] = *e;
	t->e[t->n].path = strdup(path);
	t->n++;
}

static int entry_compare(const void *a, const void *b)
{
	return strcmp(((const struct tree_entry *)a)->path, ((const struct tree_entry *)b)->path);
}

void tree_sort(struct tree *t)
{
	if (t->n)
		qsort(t->e, t->n, sizeof(*t->e), entry_compare);
}

void tree_free(struct tree *t)
{
	for (size_t i = 0; i < t->n; i++)
		free(t->e[i].path);
	free(t->e);
	*t = (struct tree){0};
}

uint64_t tree_hash(const struct tree *t)
{
	uint64_t h = t->n;

	for (size_t i = 0; i < t->n; i++) {
		const struct tree_entry *e = &t->e[i];
		const uint64_t facts[] = {h,
					  e->ino,
					  e->size,
					  e->rdev,
					  e->mode,
					  e->nlink,
					  e->uid,
					  e->gid,
					  e->data_hash,
					  e->xattr_hash,
					  (uint64_t)e->mtime_ns};

		h = XXH64(e->path, strlen(e->path), XXH64(facts, sizeof(facts), 0));
	}
	return h;
}

static bool entry_diff(const struct tree_entry *got, const struct tree_entry *want, char *text, size_t cap)
{
	const struct {
		const char *what;
		uint64_t got, want;
	} facts[] = {
	    {"inode", got->ino, want->ino},
	    {"mode (octal shown as decimal)", got->mode, want->mode},
	    {"links", got->nlink, want->nlink},
	    {"uid", got->uid, want->uid},
	    {"gid", got->gid, want->gid},
	    {"device", got->rdev, want->rdev},
	    {"size", got->size, want->size},
	    {"hash of the bytes", got->data_hash, want->data_hash},
	    {"hash of the xattrs", got->xattr_hash, want->xattr_hash},
	    {"mtime", (uint64_t)got->mtime_ns, (uint64_t)want->mtime_ns},
	};

	for (size_t i = 0; i < ARRAY_SIZE(facts); i++) {
		if (facts[i].got == facts[i].want)
			continue;
		snprintf(text, cap, "%s (inode %llu): %s is %llu, expected %llu", want->path, (unsigned long long)want->ino,
			 facts[i].what, (unsigned long long)facts[i].got, (unsigned long long)facts[i].want);
		return true;
	}
	return false;
}

bool tree_diff(const struct tree *got, const struct tree *want, char *text, size_t cap)
{
	size_t i = 0, j = 0;

	while (i < got->n || j < want->n) {
		int c = i == got->n ? 1 : j == want->n ? -1 : strcmp(got->e[i].path, want->e[j].path);

		if (c) {
			snprintf(text, cap, c < 0 ? "%s is there, unexpected" : "%s is missing",
				 c < 0 ? got->e[i].path : want->e[j].path);
			return true;
		}
		if (entry_diff(&got->e[i++], &want->e[j++], text, cap))
			return true;
	}
	return false;
}

/* ---- from a volume ---- */

struct names {
	struct fs_dirent *e;
	size_t n, cap;
};

static int take_name(void *ctx, const struct fs_dirent *e)
{
	struct names *names = ctx;

	if (strcmp(e->name, ".") == 0 || strcmp(e->name, "..") == 0)
		return 0;
	names->e = test_grow(names->e, names->n, &names->cap, sizeof(*names->e));
	names->e[names->n] = *e;
	names->e[names->n].name = strdup(e->name);
	names->n++;
	return 0;
}

static void names_free(struct names *names)
{
	for (size_t i = 0; i < names->n; i++)
		free((char *)(uintptr_t)names->e[i].name);
	free(names->e);
}

int (*tree_recall)(struct fs *fs);

int tree_read_file(struct fs *fs, uint64_t ino, uint64_t size, uint8_t **ret_p)
{
	CLEANUP_FREE uint8_t *all = test_alloc(size + 1);
	CLEANUP_FREE void *room = aligned_alloc(DISK_BLOCK, READ_STEP + 2 * DISK_BLOCK);

	for (uint64_t off = 0; off < size;) {
		void *at = NULL;
		size_t n = 0;
		int r;

		do {
			r = fs_read(fs, ino, off, READ_STEP, room, &at, &n);
		} while (r == -EINPROGRESS && tree_recall && (r = tree_recall(fs)) == 0);
		if (r)
			return r;
		if (n == 0 || n > size - off)
			return -EPROTO; /* the size says otherwise */
		memcpy(all + off, at, n);
		off += n;
	}
	*ret_p = TAKE_PTR(all);
	return 0;
}

static int read_data(struct fs *fs, struct tree_entry *e)
{
	if (S_ISLNK(e->mode)) {
		char target[4096];
		int r = fs_readlink(fs, e->ino, target, sizeof(target));

		e->data_hash = r ? 0 : tree_hash_bytes(target, strlen(target));
		return r;
	}
	CLEANUP_FREE uint8_t *p = NULL;
	int r = tree_read_file(fs, e->ino, e->size, &p);
	if (r == 0)
		e->data_hash = tree_hash_bytes(p, e->size);
	return r;
}

static int read_xattrs(struct fs *fs, struct tree_entry *e)
{
	CLEANUP_FREE char *list = test_alloc(65536), *value = test_alloc(65536 + 1);
	size_t len = 0;
	int r = fs_listxattr(fs, e->ino, list, 65536, &len);

	for (size_t at = 0; r == 0 && at < len; at += strlen(list + at) + 1) {
		size_t n = 0;

		r = fs_getxattr(fs, e->ino, list + at, value, 65536, &n);
		if (r == 0)
			e->xattr_hash += tree_hash_xattr(list + at, value, n);
	}
	return r;
}

static int read_inode(struct fs *fs, uint64_t ino, const char *path, struct tree *t, char *why, size_t cap)
{
	struct fs_attr a;
	const char *what = "getattr";
	int r = fs_getattr(fs, ino, &a);

	if (r == 0) {
		struct tree_entry e = {
		    .ino = a.ino, .mode = a.mode, .nlink = a.nlink, .uid = a.uid, .gid = a.gid, .mtime_ns = a.mtime_ns};

		if (S_ISREG(a.mode) || S_ISLNK(a.mode)) {
			e.size = a.size;
			what = "read";
			r = read_data(fs, &e);
		} else if (!S_ISDIR(a.mode)) {
			e.rdev = a.rdev;
		}
		if (r == 0) {
			what = "xattrs";
			r = read_xattrs(fs, &e);
		}
		e.ino = fs_is_snap(a.ino) ? snap_ino_own(a.ino) : a.ino;
		tree_add(t, path, &e);
	}
	if (r)
		snprintf(why, cap, "%s (inode %llu): %s: %s", path, (unsigned long long)ino, what, strerror(-r));
	return r;
}

/* A name that readdir gave must be one that lookup finds. */
static int check_name(struct fs *fs, uint64_t dir, const struct fs_dirent *e, const char *path, char *why, size_t cap)
{
	struct fs_attr a;
	int r = fs_lookup(fs, dir, e->name, &a);

	if (r == 0)
		fs_forget(fs, a.ino, 1);
	if (r == 0 && (a.ino != e->ino || (a.mode & S_IFMT) != (e->type & S_IFMT)))
		r = -EUCLEAN;
	if (r)
		snprintf(why, cap, "%s: readdir and lookup disagree: %s", path, strerror(-r));
	return r;
}

static int read_dir(struct fs *fs, uint64_t ino, const char *path, struct tree *t, unsigned depth, char *why, size_t cap)
{
	struct names names = {0};
	int r = fs_readdir(fs, ino, 0, false, take_name, &names);

	if (r)
		snprintf(why, cap, "%s (inode %llu): readdir: %s", path, (unsigned long long)ino, strerror(-r));
	if (r == 0 && depth > 64) {
		snprintf(why, cap, "%s: directories form a loop", path);
		r = -ELOOP;
	}
	for (size_t i = 0; r == 0 && i < names.n; i++) {
		CLEANUP_FREE char *child = NULL;

		if (asprintf(&child, "%s/%s", path, names.e[i].name) < 0)
			abort();
		r = check_name(fs, ino, &names.e[i], child, why, cap);
		if (r == 0)
			r = read_inode(fs, names.e[i].ino, child, t, why, cap);
		if (r == 0 && S_ISDIR(names.e[i].type))
			r = read_dir(fs, names.e[i].ino, child, t, depth + 1, why, cap);
	}
	names_free(&names);
	return r;
}

struct snap_list {
	struct fs_snap *s;
	size_t n, cap;
};

static int take_snap(void *ctx, const struct fs_snap *s)
{
	struct snap_list *l = ctx;

	l->s = test_grow(l->s, l->n, &l->cap, sizeof(*l->s));
	l->s[l->n++] = *s;
	return 0;
}

static bool is_within(const char *path, const char *top)
{
	size_t len = strlen(top);

	return strncmp(path, top, len) == 0 && (path[len] == '\0' || path[len] == '/');
}

/* False when there is nothing at or below `top`. */
static bool leave_out(struct tree *t, const char *top)
{
	size_t n = 0, was = t->n;

	for (size_t i = 0; i < was; i++) {
		if (is_within(t->e[i].path, top))
			free(t->e[i].path);
		else
			t->e[n++] = t->e[i];
	}
	t->n = n;
	return n < was;
}

bool tree_leave_out_unheld(struct fs *fs, struct tree *want, size_t *ret_n)
{
	struct snap_list l = {0};
	bool ok = fs_snap_each(fs, false, take_snap, &l) == 0;

	*ret_n = 0;
	for (size_t i = 0; ok && i < l.n; i++) {
		char path[512];

		if (l.s[i].held)
			continue;
		snprintf(path, sizeof(path), "/.clawfs/snapshots/%s", l.s[i].name);
		ok = leave_out(want, path);
		++*ret_n;
	}
	free(l.s);
	return ok;
}

/* What this node holds. */
static int read_snaps(struct fs *fs, struct tree *t, char *why, size_t cap)
{
	struct snap_list l = {0};
	int r = fs_snap_each(fs, false, take_snap, &l);

	for (size_t i = 0; r == 0 && i < l.n; i++) {
		char path[512];

		snprintf(path, sizeof(path), "/.clawfs/snapshots/%s", l.s[i].name);
		r = l.s[i].held ? read_inode(fs, l.s[i].root, path, t, why, cap) : 0;
		if (r == 0 && l.s[i].held)
			r = read_dir(fs, l.s[i].root, path, t, 0, why, cap);
	}
	free(l.s);
	return r;
}

int tree_read(struct fs *fs, struct tree *ret, char *why, size_t cap)
{
	struct tree t = {0};
	int r = read_inode(fs, FS_ROOT_INO, "", &t, why, cap);

	if (r == 0)
		r = read_dir(fs, FS_ROOT_INO, "", &t, 0, why, cap);
	if (r == 0)
		r = read_snaps(fs, &t, why, cap);
	if (r) {
		tree_free(&t);
		return r;
	}
	tree_sort(&t);
	*ret = t;
	return 0;
}
