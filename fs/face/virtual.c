/*
 * virtual.c: the directory .clawfs itself and its generated files, as FUSE operations (virtual.h).
 *
 * Changes of .clawfs/shadowed, the real entry that the directory's name hides, are changes of that name in the root.
 */
#include "fs/face/virtual.h"

#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/stat.h>

void virtual_attr(struct face *f, uint64_t ino, uint32_t mode, struct fs_attr *ret)
{
	struct fs_attr root;

	*ret = (struct fs_attr){.ino = ino, .mode = mode, .nlink = S_ISDIR(mode) ? 2 : 1};
	if (fs_getattr(f->fs, FS_ROOT_INO, &root) < 0)
		return; /* the root cannot be read: it is nobody's but root's, and of no time */
	ret->uid = root.uid;
	ret->gid = root.gid;
	ret->atime_ns = root.atime_ns;
	ret->mtime_ns = root.mtime_ns;
	ret->ctime_ns = root.ctime_ns;
}

/* st_ino of a file is the row's, whatever the number of its text. */
static int get_attr(struct face *f, uint64_t ino, struct fs_attr *ret)
{
	const unsigned row = virtual_row_of(ino);
	uint64_t size = 0;
	int64_t made_ns = 0;
	/* A number that was never given out finds no text. */
	int r = ino == VIRTUAL_DIR ? 0 : virtual_text_stat(f->texts, ino, &size, &made_ns);

	if (r < 0)
		return r;
	virtual_attr(f, virtual_ino(row, 0), virtual_rows[row].mode, ret);
	if (ino != VIRTUAL_DIR) {
		ret->size = size;
		ret->blocks_512 = div_round_up(size, 512);
		ret->atime_ns = ret->mtime_ns = ret->ctime_ns = made_ns;
	}
	return 0;
}

/* A text never changes; the directory's attributes may. */
static double attr_timeout_s(const struct face *f, uint64_t ino)
{
	return ino == VIRTUAL_DIR ? 0 : face_timeout_s(f);
}

/* With a reference, where `ino` is a text. */
static void reply_node(fuse_req_t req, uint64_t ino)
{
	struct face *f = request_face(req);
	struct fs_attr a;
	int r = get_attr(f, ino, &a);

	if (r < 0) {
		reply_err(req, r);
		return;
	}
	struct fuse_entry_param e = {.ino = ino, .attr_timeout = attr_timeout_s(f, ino), .entry_timeout = 0};

	attr_to_stat(&a, &e.attr);
	if (fuse_reply_entry(req, &e) < 0 && ino != VIRTUAL_DIR)
		virtual_text_forget(f->texts, ino, 1);
}

void virtual_reply_dir(fuse_req_t req)
{
	reply_node(req, VIRTUAL_DIR);
}

static void reply_new_text(fuse_req_t req, unsigned row)
{
	struct face *f = request_face(req);
	CLEANUP_BUF struct buf text = {0};
	uint64_t ino;
	int r = virtual_rows[row].make(f, &text);

	if (r == 0)
		r = text.failed ? -ENOMEM : virtual_text_add(f->texts, row, &text, &ino);
	if (r < 0)
		reply_err(req, r);
	else
		reply_node(req, ino);
}

static void reply_row(fuse_req_t req, unsigned row)
{
	const struct virtual_row *v = &virtual_rows[row];

	if (!v->tree) {
		reply_new_text(req, row);
		return;
	}
	/* Its own directory, with what the tree says of it. */
	if (v->tree->lookup)
		v->tree->lookup(req, virtual_ino(row, 0), ".");
	else
		reply_err(req, -ENOENT);
}

/* "." and ".." come over NFS. */
static void lookup_dots(fuse_req_t req, uint64_t parent, bool up)
{
	if (parent == VIRTUAL_DIR && up) {
		op_lookup(req, FS_ROOT_INO, ".");
		return;
	}
	if (parent != VIRTUAL_DIR && !up)
		virtual_text_ref(request_face(req)->texts, parent);
	reply_node(req, up ? VIRTUAL_DIR : parent);
}

static void own_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
		lookup_dots(req, parent, name[1]);
		return;
	}
	for (unsigned i = 1; parent == VIRTUAL_DIR && i < n_virtual_rows; i++)
		if (strcmp(name, virtual_rows[i].name) == 0) {
			reply_row(req, i);
			return;
		}
	if (parent == VIRTUAL_DIR && strcmp(name, VIRTUAL_SHADOWED) == 0)
		op_lookup(req, FS_ROOT_INO, VIRTUAL_NAME);
	else
		reply_err(req, parent == VIRTUAL_DIR ? -ENOENT : -ENOTDIR);
}

static void own_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct face *f = request_face(req);
	struct stat st;
	struct fs_attr a;
	int r = get_attr(f, ino, &a);

	(void)fi;
	if (r < 0) {
		reply_err(req, r);
		return;
	}
	attr_to_stat(&a, &st);
	(void)fuse_reply_attr(req, &st, attr_timeout_s(f, ino));
}

static void own_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	size_t len = 0;
	int r =
	    virtual_text_read(request_face(req)->texts, ino, (uint64_t)off, min_u64(size, FACE_IO_MAX), worker_self->reply, &len);

	(void)fi;
	reply_bytes(req, r, worker_self->reply, len);
}

static void own_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	uint64_t size = 0;
	int64_t made_ns;
	int r = virtual_text_stat(request_face(req)->texts, ino, &size, &made_ns);

	(void)fi;
	if (r == 0 && whence != SEEK_DATA && whence != SEEK_HOLE)
		r = -EINVAL;
	if (r == 0 && (off < 0 || (uint64_t)off >= size))
		r = -ENXIO;
	if (r < 0)
		reply_err(req, r);
	else
		(void)fuse_reply_lseek(req, whence == SEEK_DATA ? off : (off_t)size);
}

/* Entry `at` of .clawfs: ".", "..", the rows, and what its name shadows; NULL: no such. */
static const char *entry_name(struct fs *fs, uint64_t at, struct stat *ret)
{
	struct fs_attr a;

	*ret = (struct stat){.st_ino = at == 1 ? FS_ROOT_INO : VIRTUAL_DIR, .st_mode = S_IFDIR};
	if (at < 2)
		return at == 0 ? "." : "..";
	if (at - 1 < n_virtual_rows) {
		ret->st_ino = virtual_ino((unsigned)(at - 1), 0);
		ret->st_mode = virtual_rows[at - 1].mode & S_IFMT;
		return virtual_rows[at - 1].name;
	}
	if (at - 1 > n_virtual_rows || fs_lookup(fs, FS_ROOT_INO, VIRTUAL_NAME, &a) < 0)
		return NULL;
	fs_forget(fs, a.ino, 1);
	ret->st_ino = a.ino;
	ret->st_mode = a.mode & S_IFMT;
	return VIRTUAL_SHADOWED;
}

/* Names only, also when asked for attributes: making those of a file makes its text. */
static void read_entries(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	char *p = (char *)worker_self->reply;
	const size_t cap = min_u64(size, FACE_IO_MAX);
	size_t used = 0;
	struct stat st;
	const char *name;

	if (ino != VIRTUAL_DIR) {
		reply_err(req, -ENOTDIR);
		return;
	}
	for (uint64_t at = (uint64_t)off; (name = entry_name(request_fs(req), at, &st)); at++) {
		const struct fuse_entry_param entry = {.attr = st};
		size_t n = plus ? fuse_add_direntry_plus(req, p + used, cap - used, name, &entry, (off_t)at + 1)
				: fuse_add_direntry(req, p + used, cap - used, name, &st, (off_t)at + 1);
		if (n > cap - used)
			break;
		used += n;
	}
	reply_bytes(req, used || !name ? 0 : -EINVAL, p, used);
}

static void own_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	read_entries(req, ino, size, off, false);
}

static void own_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	read_entries(req, ino, size, off, true);
}

static bool is_shadowed(fuse_ino_t parent, const char *name)
{
	return parent == VIRTUAL_DIR && strcmp(name, VIRTUAL_SHADOWED) == 0;
}

static void own_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (is_shadowed(parent, name))
		op_unlink(req, FS_ROOT_INO, VIRTUAL_NAME);
	else
		reply_err(req, -EPERM);
}

static void own_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (is_shadowed(parent, name))
		op_rmdir(req, FS_ROOT_INO, VIRTUAL_NAME);
	else
		reply_err(req, -EPERM);
}

/* Away from here, into the volume.  With flags something else would come here. */
static void own_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name,
		       unsigned flags)
{
	if (is_shadowed(parent, name) && !virtual_is(new_parent) && !virtual_is_name(new_parent, new_name) &&
	    (flags & ~(unsigned)RENAME_NOREPLACE) == 0)
		op_rename(req, FS_ROOT_INO, VIRTUAL_NAME, new_parent, new_name, flags);
	else
		reply_err(req, -EPERM);
}

static const struct fuse_lowlevel_ops own_ops = {
    .lookup = own_lookup,
    .getattr = own_getattr,
    .read = own_read,
    .lseek = own_lseek,
    .readdir = own_readdir,
    .readdirplus = own_readdirplus,
    .unlink = own_unlink,
    .rmdir = own_rmdir,
    .rename = own_rename,
};

const struct fuse_lowlevel_ops *virtual_ops(uint64_t ino)
{
	if (!virtual_is(ino))
		return NULL;
	const unsigned row = virtual_row_of(ino);

	return row < n_virtual_rows && virtual_rows[row].tree ? virtual_rows[row].tree : &own_ops;
}

void virtual_forget(struct face *f, uint64_t ino, uint64_t n)
{
	const unsigned row = virtual_row_of(ino);

	if (row < n_virtual_rows && virtual_rows[row].tree) {
		if (virtual_rows[row].forget)
			virtual_rows[row].forget(f, ino, n);
	} else {
		virtual_text_forget(f->texts, ino, n);
	}
}

bool virtual_request(const struct fuse_in_header *h)
{
	const char *name = (const char *)(h + 1);

	if (virtual_is(h->nodeid))
		return true;
	return h->opcode == FUSE_LOOKUP && h->nodeid == FS_ROOT_INO && h->len == sizeof(*h) + sizeof(VIRTUAL_NAME) &&
	       memcmp(name, VIRTUAL_NAME, sizeof(VIRTUAL_NAME)) == 0;
}
