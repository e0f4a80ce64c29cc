/*
 * tier_files.c: the verbs about cold files: show, evict, recall, pin, unpin, for a file or all files below a directory.
 *
 * The walk is here and the work is in the daemon, to which files are named by their inode numbers, many at a time, so that small
 * ones travel together.  When it does not take such a list its files are named one by one, and those that it refuses are told of.
 * Evicting waits once at the end, recalling for each list.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fts.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define PROGRESS_NS NSEC_PER_SEC
#define LIST_FILES  1024u
#define LIST_BYTES  (256 * MIB) /* of files, so that there is progress to tell of */

/* Files on their way to the daemon. */
struct list {
	const char *attribute; /* of the root, that takes their numbers */
	uint64_t ino[LIST_FILES], bytes;
	char *path[LIST_FILES]; /* owned */
	unsigned n;
};
struct walk {
	uint64_t n, n_failed;
	int64_t told_ns;
	const char *doing;
	const char *root;                             /* of the mount */
	int (*one)(struct walk *w, const char *path); /* 0, or -errno: counted and said */
	struct list *list;                            /* NULL: each file is named by itself */
	uint64_t data, tiered, cold;                  /* bytes: of show */
};

static void tell_progress(struct walk *w)
{
	int64_t now = clock_mono_ns(&clock_system);

	if (!w->doing || !isatty(STDERR_FILENO) || now - w->told_ns < PROGRESS_NS)
		return;
	w->told_ns = now;
	fprintf(stderr, "\r%s: %" PRIu64 " files", w->doing, w->n);
}

static const char *reason_of(int error)
{
	switch (-error) {
	case EPERM:
		return "pinned, or only root and the owner of the mount's root directory may do this";
	case ENODATA:
		return "its directory names no store: setfattr -n clawfs.tier";
	case EOPNOTSUPP:
		return "not on a clawfs mount";
	case EROFS:
		return "this node does not lead: only what its leader has sent to a store can be evicted here";
	default:
		return strerror(-error);
	}
}

static void visit(struct walk *w, const char *path)
{
	int r = w->one(w, path);

	w->n++;
	if (r < 0) {
		w->n_failed++;
		complain("%s: %s", path, reason_of(r));
	}
	tell_progress(w);
}

static int send_list(const struct walk *w)
{
	CLEANUP_BUF struct buf text = {0};

	for (unsigned i = 0; i < w->list->n; i++)
		buf_printf(&text, "%s%" PRIu64, i ? " " : "", w->list->ino[i]);
	return text.failed ? -ENOMEM : attribute_set(w->root, w->list->attribute, (const char *)text.p);
}

/* What is refused as a whole may be taken but for one. */
static void list_done(struct walk *w)
{
	struct list *l = w->list;
	int r = l && l->n ? send_list(w) : 0;

	for (unsigned i = 0; l && i < l->n; i++) {
		if (r < 0)
			visit(w, l->path[i]);
		free(l->path[i]);
	}
	if (!l)
		return;
	w->n += r < 0 ? 0 : l->n;
	l->n = 0;
	l->bytes = 0;
	tell_progress(w);
}

static void list_add(struct walk *w, const FTSENT *e)
{
	struct list *l = w->list;
	char *path = strdup(e->fts_path);

	if (!path) {
		visit(w, e->fts_path);
		return;
	}
	l->ino[l->n] = e->fts_statp->st_ino;
	l->path[l->n++] = path;
	l->bytes += (uint64_t)e->fts_statp->st_size;
	if (l->n == LIST_FILES || l->bytes >= LIST_BYTES)
		list_done(w);
}

/* Every regular file at or below `path`, within its filesystem. */
static int walk_files(const char *path, struct walk *w)
{
	char *const paths[] = {(char *)path, NULL};
	FTS *fts = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
	FTSENT *e;

	if (!fts)
		return -errno;
	while ((e = fts_read(fts))) {
		if (e->fts_info == FTS_F && S_ISREG(e->fts_statp->st_mode))
			w->list ? list_add(w, e) : visit(w, e->fts_path);
		else if (e->fts_info == FTS_ERR || e->fts_info == FTS_DNR || e->fts_info == FTS_NS) {
			complain("%s: %s", e->fts_path, strerror(e->fts_errno));
			w->n_failed++;
		}
	}
	int r = errno ? -errno : 0;
	fts_close(fts);
	list_done(w);
	return r;
}

static int set_command(const char *path, const char *name, const char *value)
{
	return lsetxattr(path, name, value, strlen(value), 0) < 0 ? -errno : 0;
}

/* When the queue is full, what is in it goes out first. */
static int evict_one(struct walk *w, const char *path)
{
	int r = set_command(path, "clawfs.tier.evict", "1");

	if (r != -EAGAIN)
		return r;
	r = attribute_set(w->root, "tier.flush", "1");
	return r < 0 ? r : set_command(path, "clawfs.tier.evict", "1");
}

struct usage {
	uint64_t data, tiered, cold; /* bytes */
};

static int usage_of(const char *path, struct usage *ret)
{
	char text[128];
	ssize_t n = lgetxattr(path, "clawfs.tier.usage", text, sizeof(text) - 1);

	if (n < 0)
		return -errno;
	text[n] = '\0';
	return sscanf(text, "data=%" SCNu64 " tiered=%" SCNu64 " cold=%" SCNu64, &ret->data, &ret->tiered, &ret->cold) == 3
		   ? 0
		   : -EPROTO;
}

static int recall_one(struct walk *w, const char *path)
{
	(void)w;
	return set_command(path, "clawfs.tier.recall", "1");
}

int mountpoint_of(const char *path, char *ret)
{
	char above[PATH_MAX];
	struct stat st, up;

	if (!realpath(path, ret) || stat(ret, &st) < 0)
		return -errno;
	while (strcmp(ret, "/") != 0) {
		strcpy(above, ret);
		const char *dir = dirname(above);

		if (stat(dir, &up) < 0)
			return -errno;
		if (up.st_dev != st.st_dev)
			break;
		memmove(ret, dir, strlen(dir) + 1);
	}
	return getxattr(ret, "clawfs.version", NULL, 0) < 0 ? -errno : 0;
}

static uint64_t failed_files(const char *mountpoint, char *ret_message, size_t cap)
{
	uint64_t n = 0;
	json_t *facts;

	if (status_read(mountpoint, &facts) < 0)
		return 0;
	const json_t *ageing = json_object_get(json_object_get(facts, "tier"), "ageing");
	const char *message = json_string_value(json_object_get(ageing, "last_message"));
	n = (uint64_t)json_integer_value(json_object_get(ageing, "failed_files"));
	snprintf(ret_message, cap, "%s", message ? message : "");
	json_decref(facts);
	return n;
}

static int finish(const struct walk *w, int r, const char *path)
{
	if (w->told_ns)
		fputc('\n', stderr);
	if (r < 0)
		complain("%s: %s", path, r == -EOPNOTSUPP ? reason_of(r) : strerror(-r));
	return r < 0 || w->n_failed ? EXIT_FAILED : EXIT_OK;
}

int verb_tier_evict(const struct args *a)
{
	char root[PATH_MAX], message[256];
	struct list list = {.attribute = "tier.evict-inodes"};
	struct walk w = {.one = evict_one, .doing = "evicting", .root = root, .list = &list};
	int r = mountpoint_of(a->operand[0], root);

	if (r == 0)
		r = mount_flush(root);
	uint64_t before = r == 0 ? failed_files(root, message, sizeof(message)) : 0;
	if (r == 0)
		r = walk_files(a->operand[0], &w);
	if (r == 0)
		r = attribute_set(root, "tier.flush", "1");
	uint64_t failed = r == 0 ? failed_files(root, message, sizeof(message)) - before : 0;
	if (failed) {
		complain("%" PRIu64 " files are not out: %s", failed, message);
		w.n_failed += failed;
	}
	return finish(&w, r, a->operand[0]);
}

int verb_tier_recall(const struct args *a)
{
	char root[PATH_MAX];
	struct list list = {.attribute = "tier.recall-inodes"};
	struct walk w = {.one = recall_one, .doing = "recalling", .root = root, .list = &list};
	int r = mountpoint_of(a->operand[0], root);

	if (r == 0)
		r = walk_files(a->operand[0], &w);
	return finish(&w, r, a->operand[0]);
}

int verb_tier_pin(const struct args *a)
{
	int r = attribute_set(a->operand[0], "tier.pin", "on");

	if (r < 0) {
		complain("%s: not pinned: %s", a->operand[0], reason_of(r));
		return EXIT_FAILED;
	}
	return verb_tier_recall(a);
}

int verb_tier_unpin(const struct args *a)
{
	int r = attribute_remove(a->operand[0], "tier.pin");

	if (r < 0)
		complain("%s: not unpinned: %s", a->operand[0], reason_of(r));
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}

static int show_one(struct walk *w, const char *path)
{
	struct usage u;
	int r = usage_of(path, &u);

	if (r < 0)
		return r;
	w->data += u.data;
	w->tiered += u.tiered;
	w->cold += u.cold;
	return 0;
}

static void show_attribute(const char *path, const char *label, const char *name)
{
	CLEANUP_BUF struct buf text = {0};

	if (attribute_read(path, name, &text) == 0)
		printf("%-8s %s\n", label, (const char *)text.p);
}

static void show_bytes(const char *label, uint64_t bytes)
{
	char text[32];

	size_text(bytes, text, sizeof(text));
	printf("%-8s %s\n", label, text);
}

int verb_tier_show(const struct args *a)
{
	struct walk w = {.one = show_one};
	const char *path = a->operand[0];
	char root[PATH_MAX];
	int r = mountpoint_of(path, root);

	if (r < 0)
		return finish(&w, r, path);
	show_attribute(path, "policy", "tier");
	show_attribute(path, "recall", "recall");
	show_attribute(path, "pin", "tier.pin");
	show_attribute(path, "state", "tier.state");
	r = walk_files(path, &w);
	printf("%-8s %" PRIu64 "\n", "files", w.n);
	show_bytes("data", w.data);
	show_bytes("tiered", w.tiered);
	show_bytes("cold", w.cold);
	return finish(&w, r, path);
}
