/* snapshots.c: .clawfs/snapshots as FUSE operations of one directory, and the generations of files somebody tried to write to. */
#include "fs/face/snapshots.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/lock.h"
#include "fs/face/virtual.h"

/* ---- generations ---- */

#define SPOILED_MAX 1024u

struct spoiled {
	struct mutex lock;
	/* guarded by lock */
	struct {
		uint64_t ino, generation;
	} node[SPOILED_MAX];
	uint32_t n, next;
	uint64_t newest; /* generation */
};

int spoiled_new(struct spoiled **ret)
{
	struct spoiled *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	mutex_init(&s->lock);
	*ret = s;
	return 0;
}

struct spoiled *spoiled_free(struct spoiled *s)
{
	if (!s)
		return NULL;
	mutex_destroy(&s->lock);
	free(s);
	return NULL;
}

uint64_t spoiled_generation(struct spoiled *s, uint64_t ino)
{
	uint64_t generation = 0;

	mutex_lock(&s->lock);
	for (uint32_t i = 0; i < s->n; i++)
		if (s->node[i].ino == ino)
			generation = s->node[i].generation;
	mutex_unlock(&s->lock);
	return generation;
}

/* A number that falls out is at generation 0 again, which is not what the kernel has of it either. */
void spoiled_add(struct spoiled *s, uint64_t ino)
{
	uint32_t at = 0;

	mutex_lock(&s->lock);
	while (at < s->n && s->node[at].ino != ino)
		at++;
	if (at == s->n && s->n < SPOILED_MAX)
		s->n++;
	else if (at == s->n)
		at = s->next++ % SPOILED_MAX;
	s->node[at].ino = ino;
	s->node[at].generation = ++s->newest;
	mutex_unlock(&s->lock);
}

/* ---- attributes and names ---- */

static void dir_attr(struct face *f, uint64_t ino, struct fs_attr *ret)
{
	virtual_attr(f, ino, virtual_rows[virtual_row_of(ino)].mode, ret);
	ret->mtime_ns = ret->ctime_ns = fs_snap_changed_ns(f->fs);
}

static void snapshots_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs_attr a;
	struct stat st;

	(void)fi;
	dir_attr(request_face(req), ino, &a);
	attr_to_stat(&a, &st);
	(void)fuse_reply_attr(req, &st, 0);
}

static void reply_self(fuse_req_t req, uint64_t ino)
{
	struct fuse_entry_param e = {.ino = ino};
	struct fs_attr a;

	dir_attr(request_face(req), ino, &a);
	attr_to_stat(&a, &e.attr);
	(void)fuse_reply_entry(req, &e);
}

/* A name is believed for no time: snapshots come and go otherwise than by this directory, too. */
static void reply_root(fuse_req_t req, uint64_t root)
{
	struct fuse_entry_param e;
	struct fs_attr a;
	int r = fs_getattr(request_fs(req), root, &a);

	if (r < 0) {
		reply_err(req, r);
		return;
	}
	attr_to_entry(request_face(req), &a, &e);
	e.entry_timeout = 0;
	(void)fuse_reply_entry(req, &e);
}

static void snapshots_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	uint64_t root;

	if (strcmp(name, ".") == 0) {
		reply_self(req, parent);
		return;
	}
	if (strcmp(name, "..") == 0) {
		virtual_reply_dir(req);
		return;
	}
	int r = fs_readable(request_fs(req));
	if (r == 0)
		r = fs_snap_root(request_fs(req), name, &root);
	if (r < 0)
		reply_err(req, r);
	else
		reply_root(req, root);
}

/* ---- the list ---- */

struct listing {
	fuse_req_t req;
	bool plus;
	char *p;
	size_t used, cap;
	uint64_t after; /* cookies up to this one were told before */
	bool full;
};

static void add(struct listing *l, const char *name, uint64_t ino, uint64_t cookie)
{
	const struct fuse_entry_param plus = {.attr = {.st_ino = ino, .st_mode = S_IFDIR}};
	char *at = l->p + l->used;
	size_t left = l->cap - l->used;

	if (l->full || cookie <= l->after)
		return;
	size_t n = l->plus ? fuse_add_direntry_plus(l->req, at, left, name, &plus, (off_t)cookie)
			   : fuse_add_direntry(l->req, at, left, name, &plus.attr, (off_t)cookie);
	l->full = n > left;
	l->used += l->full ? 0 : n;
}

/* A snapshot's number is its place, for good. */
static int add_snapshot(void *ctx, const struct fs_snap *s)
{
	if (s->held)
		add(ctx, s->name, s->root, s->gen + 3);
	return 0;
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	struct listing l = {
	    .req = req, .plus = plus, .p = (char *)worker_self->reply, .cap = min_u64(size, FACE_IO_MAX), .after = (uint64_t)off};

	add(&l, ".", ino, 1);
	add(&l, "..", VIRTUAL_DIR, 2);
	int r = fs_snap_each(request_fs(req), false, add_snapshot, &l);
	if (r == 0 && l.full && !l.used)
		r = -EINVAL;
	reply_bytes(req, r, l.p, l.used);
}

static void snapshots_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	list(req, ino, size, off, false);
}

static void snapshots_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	list(req, ino, size, off, true);
}

/* ---- making and deleting ---- */

/* Done here; it is answered when it is where the volume's policy wants it. */
struct pending {
	struct awaited awaited; /* first */
	bool made;
	uint64_t act; /* of the audit log; 0: none */
	char name[RECORD_NAME_MAX + 1];
};

static void answer(struct awaited *awaited, int result)
{
	const struct pending *p = container_of(awaited, struct pending, awaited);
	uint64_t root;

	fs_audit_result(p->awaited.fs, p->act, result);
	if (result == 0 && p->made)
		result = fs_snap_root(p->awaited.fs, p->name, &root);
	if (result < 0 || !p->made)
		reply_err(awaited->req, result);
	else
		reply_root(awaited->req, root);
}

static int may_change(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	struct fs_attr root;
	int r = ctx->uid == 0 ? 0 : fs_getattr(request_fs(req), FS_ROOT_INO, &root);

	return r < 0 ? r : ctx->uid == 0 || ctx->uid == root.uid ? 0 : -EPERM;
}

static void change(fuse_req_t req, const char *name, bool make)
{
	const char *what = make ? "set clawfs.snap.create" : "set clawfs.snap.delete"; /* the attribute that does the same */
	const struct fs_cred cred = request_cred(req);
	struct fs *fs = request_fs(req);
	int r = strlen(name) > RECORD_NAME_MAX ? -ENAMETOOLONG : may_change(req);

	if (r == -EPERM)
		fs_audit_refused(fs, &cred, what, FS_ROOT_INO, false, r);
	struct pending *p = r < 0 ? NULL : malloc(sizeof(*p));

	if (r == 0 && !p)
		r = -ENOMEM;
	uint64_t act = 0;
	if (r == 0)
		r = fs_audit_act(fs, &cred, what, FS_ROOT_INO, &(struct slice){name, strlen(name)}, &act);
	if (r == 0)
		r = make ? fs_snap_create_here(fs, &cred, name) : fs_snap_delete_here(fs, &cred, name);
	if (r < 0) {
		fs_audit_result(fs, act, r);
		free(p);
		reply_err(req, r);
		return;
	}
	p->made = make;
	p->act = act;
	memcpy(p->name, name, strlen(name) + 1);
	await_begin(&p->awaited, req, answer);
	fs_sync_async(fs, FS_ROOT_INO, &p->awaited.waiter);
	await_end(&p->awaited);
}

static void snapshots_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	(void)parent;
	(void)mode;
	change(req, name, true);
}

static void snapshots_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	(void)parent;
	change(req, name, false);
}

const struct fuse_lowlevel_ops snapshots_ops = {
    .lookup = snapshots_lookup,
    .getattr = snapshots_getattr,
    .readdir = snapshots_readdir,
    .readdirplus = snapshots_readdirplus,
    .mkdir = snapshots_mkdir,
    .rmdir = snapshots_rmdir,
};
