/*
 * model.c: written to be read, not to be fast.  Everything that a clone shares is a counted struct blob that nobody changes:
 * an operation makes a new blob and puts it in the old one's place.
 */
#include "tests/lib/model.h"

#include <errno.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "tests/lib/cow.h"

struct blob {
	uint32_t refs;
	size_t len;
	uint64_t hash;
	bool hashed;
	uint8_t b[]; /* and a NUL */
};
/* A name with what stands behind it: an inode (directories) or a value (attributes). */
struct pair {
	struct blob *name;
	uint64_t ino;
	struct blob *value;
};
struct pairs {
	struct pair *p;
	size_t n;
};
struct inode {
	struct model_inode i;
	struct blob *data; /* bytes of a file, target of a symlink */
	struct pairs entries, xattrs;
};
/* A tree that does not change any more. */
struct frozen {
	uint32_t refs;
	char *name;
	struct tree tree;
	struct model *state; /* without its snapshots */
};
struct model {
	struct frozen **snaps;
	size_t n_snaps;
	struct inode *inodes;
	size_t n, cap;
	int64_t now_ns;
	uint64_t hash; /* of the tree, valid when `hashed` */
	bool hashed;
};

/* ---- blobs and pairs ---- */

static struct blob *blob_new(const void *p, size_t len)
{
	struct blob *b = malloc(sizeof(*b) + len + 1);

	if (!b)
		abort();
	*b = (struct blob){.refs = 1, .len = len};
	if (p)
		memcpy(b->b, p, len);
	else
		memset(b->b, 0, len);
	b->b[len] = 0;
	return b;
}

static struct blob *blob_ref(struct blob *b)
{
	if (b)
		b->refs++;
	return b;
}

static void blob_unref(struct blob *b)
{
	if (b && --b->refs == 0)
		free(b);
}

static uint64_t blob_hash(struct blob *b)
{
	if (!b->hashed) {
		b->hash = tree_hash_bytes(b->b, b->len);
		b->hashed = true;
	}
	return b->hash;
}

static const char *blob_text(const struct blob *b)
{
	return (const char *)b->b;
}

static struct pair *pairs_find(const struct pairs *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(blob_text(s->p[i].name), name) == 0)
			return &s->p[i];
	return NULL;
}

static void pairs_add(struct pairs *s, struct pair p)
{
	s->p = realloc(s->p, (s->n + 1) * sizeof(*s->p));
	if (!s->p)
		abort();
	s->p[s->n++] = p;
}

static void pair_unref(struct pair *p)
{
	blob_unref(p->name);
	blob_unref(p->value);
}

static void pairs_remove(struct pairs *s, struct pair *p)
{
	pair_unref(p);
	*p = s->p[--s->n];
}

static struct pairs pairs_clone(const struct pairs *s)
{
	struct pairs c = {.n = s->n, .p = test_alloc(s->n * sizeof(*s->p))};

	for (size_t i = 0; i < s->n; i++)
		c.p[i] = (struct pair){blob_ref(s->p[i].name), s->p[i].ino, blob_ref(s->p[i].value)};
	return c;
}

static void pairs_free(struct pairs *s)
{
	for (size_t i = 0; i < s->n; i++)
		pair_unref(&s->p[i]);
	free(s->p);
}

/* ---- the table ---- */

static struct inode *find(const struct model *m, uint64_t ino)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->inodes[i].i.ino == ino)
			return &m->inodes[i];
	return NULL;
}

static struct inode *find_type(const struct model *m, uint64_t ino, uint32_t type, int *error, int wrong_type)
{
	struct inode *i = find(m, ino);

	if (!i)
		*error = -ENOENT;
	else if ((i->i.mode & S_IFMT) != type)
		*error = wrong_type;
	else
		*error = 0;
	return *error ? NULL : i;
}

static struct inode *add(struct model *m, uint64_t ino)
{
	m->inodes = test_grow(m->inodes, m->n, &m->cap, sizeof(*m->inodes));
	struct inode *i = &m->inodes[m->n++];

	*i = (struct inode){.i.ino = ino};
	return i;
}

static void inode_free(struct inode *i)
{
	blob_unref(i->data);
	pairs_free(&i->entries);
	pairs_free(&i->xattrs);
}

struct model *model_new(uint32_t root_mode, uint32_t uid, uint32_t gid)
{
	struct model *m = test_alloc(sizeof(*m));
	struct inode *root = add(m, FS_ROOT_INO);

	root->i = (struct model_inode){
	    .ino = FS_ROOT_INO, .mode = S_IFDIR | (root_mode & 07777), .nlink = 2, .uid = uid, .gid = gid, .parent = FS_ROOT_INO};
	return m;
}

void model_set_time(struct model *m, int64_t now_ns)
{
	m->now_ns = now_ns;
}

static void clone_inodes(struct model *c, const struct model *m)
{
	c->n = c->cap = m->n;
	c->inodes = test_alloc((m->n + 1) * sizeof(*c->inodes));
	for (size_t i = 0; i < m->n; i++) {
		const struct inode *from = &m->inodes[i];

		c->inodes[i] = (struct inode){.i = from->i,
					      .data = blob_ref(from->data),
					      .entries = pairs_clone(&from->entries),
					      .xattrs = pairs_clone(&from->xattrs)};
	}
}

struct model *model_clone(const struct model *m)
{
	struct model *c = test_alloc(sizeof(*c));

	*c = (struct model){.now_ns = m->now_ns, .hash = m->hash, .hashed = m->hashed};
	clone_inodes(c, m);
	c->snaps = test_alloc((m->n_snaps + 1) * sizeof(struct frozen *));
	c->n_snaps = m->n_snaps;
	for (size_t i = 0; i < m->n_snaps; i++) {
		c->snaps[i] = m->snaps[i];
		c->snaps[i]->refs++;
	}
	return c;
}

static void frozen_unref(struct frozen *z)
{
	if (--z->refs > 0)
		return;
	tree_free(&z->tree);
	model_free(z->state);
	free(z->name);
	free(z);
}

void model_free(struct model *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->n_snaps; i++)
		frozen_unref(m->snaps[i]);
	free(m->snaps);
	for (size_t i = 0; i < m->n; i++)
		inode_free(&m->inodes[i]);
	free(m->inodes);
	free(m);
}

static void tree_of(const struct model *m, const struct inode *i, const char *path, struct tree *t)
{
	struct tree_entry e = {.ino = i->i.ino,
			       .mode = i->i.mode,
			       .nlink = i->i.nlink,
			       .uid = i->i.uid,
			       .gid = i->i.gid,
			       .rdev = i->i.rdev,
			       .size = i->i.size,
			       .mtime_ns = i->i.mtime_ns};

	if (i->data)
		e.data_hash = blob_hash(i->data);
	for (size_t x = 0; x < i->xattrs.n; x++)
		e.xattr_hash +=
		    tree_hash_xattr(blob_text(i->xattrs.p[x].name), i->xattrs.p[x].value->b, i->xattrs.p[x].value->len);
	tree_add(t, path, &e);
	for (size_t n = 0; n < i->entries.n; n++) {
		char child[8192];

		snprintf(child, sizeof(child), "%s/%s", path, blob_text(i->entries.p[n].name));
		tree_of(m, find(m, i->entries.p[n].ino), child, t);
	}
}

void model_tree(const struct model *m, struct tree *ret)
{
	*ret = (struct tree){0};
	tree_of(m, find(m, FS_ROOT_INO), "", ret);
	for (size_t i = 0; i < m->n_snaps; i++)
		for (size_t k = 0; k < m->snaps[i]->tree.n; k++)
			tree_add(ret, m->snaps[i]->tree.e[k].path, &m->snaps[i]->tree.e[k]);
	tree_sort(ret);
}

static size_t find_snap(const struct model *m, const char *name)
{
	size_t i = 0;

	while (i < m->n_snaps && strcmp(m->snaps[i]->name, name) != 0)
		i++;
	return i;
}

int model_snap(struct model *m, const char *name)
{
	struct frozen *z;
	char path[512];

	if (find_snap(m, name) < m->n_snaps)
		return -EEXIST;
	z = test_alloc(sizeof(*z));
	*z = (struct frozen){.refs = 1, .name = strdup(name)};
	snprintf(path, sizeof(path), "/.clawfs/snapshots/%s", name);
	tree_of(m, find(m, FS_ROOT_INO), path, &z->tree);
	z->state = test_alloc(sizeof(*z->state));
	*z->state = (struct model){0};
	clone_inodes(z->state, m);
	m->snaps = realloc(m->snaps, (m->n_snaps + 1) * sizeof(struct frozen *));
	if (!m->snaps || !z->name)
		abort();
	m->snaps[m->n_snaps++] = z;
	m->hashed = false;
	return 0;
}

int model_snap_drop(struct model *m, const char *name)
{
	size_t i = find_snap(m, name);

	if (i == m->n_snaps)
		return -ENOENT;
	frozen_unref(m->snaps[i]);
	m->snaps[i] = m->snaps[--m->n_snaps];
	m->hashed = false;
	return 0;
}

int model_snap_back(struct model *m, const char *name)
{
	size_t at = find_snap(m, name);

	if (at == m->n_snaps)
		return -ENOENT;
	for (size_t i = 0; i < m->n; i++)
		inode_free(&m->inodes[i]);
	free(m->inodes);
	clone_inodes(m, m->snaps[at]->state);
	m->hashed = false;
	return 0;
}

size_t model_snaps(const struct model *m)
{
	return m->n_snaps;
}

const char *model_snap_name(const struct model *m, size_t i)
{
	return m->snaps[i]->name;
}

uint64_t model_hash(const struct model *m)
{
	struct model *w = (struct model *)(uintptr_t)m; /* the hash is a cache */
	struct tree t;

	if (!m->hashed) {
		model_tree(m, &t);
		w->hash = tree_hash(&t);
		w->hashed = true;
		tree_free(&t);
	}
	return m->hash;
}

/* ---- questions ---- */

const struct model_inode *model_get(const struct model *m, uint64_t ino)
{
	const struct inode *i = find(m, ino);

	return i ? &i->i : NULL;
}

uint64_t model_lookup(const struct model *m, uint64_t dir, const char *name)
{
	const struct inode *d = find(m, dir);
	const struct pair *p = d ? pairs_find(&d->entries, name) : NULL;

	return p ? p->ino : 0;
}

bool model_is_above(const struct model *m, uint64_t dir, uint64_t other)
{
	while (other != dir && other != FS_ROOT_INO)
		other = find(m, other)->i.parent;
	return other == dir;
}

const uint8_t *model_bytes(const struct model *m, uint64_t ino)
{
	return find(m, ino)->data->b;
}

bool model_has_xattr(const struct model *m, uint64_t ino, const char *name)
{
	const struct inode *i = find(m, ino);

	return i && pairs_find(&i->xattrs, name);
}

uint64_t model_pick(const struct model *m, struct rng *rng, uint32_t type, bool orphan)
{
	uint64_t found = 0;
	size_t seen = 0;

	for (size_t i = 0; i < m->n; i++) {
		const struct model_inode *x = &m->inodes[i].i;

		if ((type == 0 || (x->mode & S_IFMT) == type) && (x->nlink == 0) == orphan && rng_below(rng, ++seen) == 0)
			found = x->ino;
	}
	return found;
}

bool model_pick_name(const struct model *m, struct rng *rng, uint64_t *ret_dir, const char **ret_name)
{
	size_t seen = 0;

	for (size_t i = 0; i < m->n; i++) {
		const struct inode *d = &m->inodes[i];

		for (size_t n = 0; n < d->entries.n; n++) {
			if (rng_below(rng, ++seen) == 0) {
				*ret_dir = d->i.ino;
				*ret_name = blob_text(d->entries.p[n].name);
			}
		}
	}
	return seen > 0;
}

const char *model_pick_xattr(const struct model *m, struct rng *rng, uint64_t ino)
{
	const struct inode *i = find(m, ino);

	return i && i->xattrs.n ? blob_text(i->xattrs.p[rng_below(rng, i->xattrs.n)].name) : NULL;
}

size_t model_count(const struct model *m)
{
	return m->n;
}

uint64_t model_total_bytes(const struct model *m)
{
	uint64_t n = 0;

	for (size_t i = 0; i < m->n; i++)
		n += m->inodes[i].data ? m->inodes[i].data->len : 0;
	return n;
}

/* ---- names ---- */

static void dir_add(struct model *m, struct inode *d, const char *name, uint64_t ino)
{
	d->i.mtime_ns = m->now_ns;
	pairs_add(&d->entries, (struct pair){.name = blob_new(name, strlen(name)), .ino = ino});
	d->i.n_entries = d->entries.n;
}

static void dir_remove(struct model *m, struct inode *d, struct pair *p)
{
	d->i.mtime_ns = m->now_ns;
	pairs_remove(&d->entries, p);
	d->i.n_entries = d->entries.n;
}

/* A name fewer; a directory loses its own "." too. */
static void drop_link(struct inode *i)
{
	i->i.nlink = S_ISDIR(i->i.mode) ? 0 : i->i.nlink - 1;
}

int model_mknod(struct model *m, uint64_t dir, const char *name, uint32_t mode, uint32_t uid, uint32_t gid, uint64_t rdev,
		const char *target, uint64_t ino)
{
	int r;
	struct inode *d = find_type(m, dir, S_IFDIR, &r, -ENOTDIR);

	if (!d || d->i.nlink == 0)
		return r ? r : -ENOENT;
	if (pairs_find(&d->entries, name))
		return -EEXIST;
	if (ino == 0)
		return 0;
	if (d->i.mode & S_ISGID) {
		gid = d->i.gid;
		mode |= S_ISDIR(mode) ? S_ISGID : 0;
	}
	dir_add(m, d, name, ino);
	d->i.nlink += S_ISDIR(mode) ? 1 : 0;
	struct inode *i = add(m, ino);
	i->i = (struct model_inode){.ino = ino,
				    .mode = mode,
				    .nlink = S_ISDIR(mode) ? 2 : 1,
				    .uid = uid,
				    .gid = gid,
				    .parent = dir,
				    .mtime_ns = m->now_ns};
	if (S_ISCHR(mode) || S_ISBLK(mode))
		i->i.rdev = rdev;
	if (S_ISREG(mode) || S_ISLNK(mode)) {
		i->data = blob_new(target, target ? strlen(target) : 0);
		i->i.size = i->data->len;
	}
	m->hashed = false;
	return 0;
}

int model_link(struct model *m, uint64_t ino, uint64_t dir, const char *name)
{
	int r;
	struct inode *i = find(m, ino), *d = find_type(m, dir, S_IFDIR, &r, -ENOTDIR);

	if (!i || i->i.nlink == 0 || !d)
		return r ? r : -ENOENT;
	if (S_ISDIR(i->i.mode))
		return -EPERM;
	if (d->i.nlink == 0)
		return -ENOENT;
	if (pairs_find(&d->entries, name))
		return -EEXIST;
	dir_add(m, d, name, ino);
	i->i.nlink++;
	m->hashed = false;
	return 0;
}

int model_unlink(struct model *m, uint64_t dir, const char *name)
{
	int r;
	struct inode *d = find_type(m, dir, S_IFDIR, &r, -ENOTDIR);
	struct pair *p = d ? pairs_find(&d->entries, name) : NULL;

	if (!p)
		return r ? r : -ENOENT;
	struct inode *i = find(m, p->ino);
	if (S_ISDIR(i->i.mode))
		return -EISDIR;
	dir_remove(m, d, p);
	drop_link(i);
	m->hashed = false;
	return 0;
}

int model_rmdir(struct model *m, uint64_t dir, const char *name)
{
	int r;
	struct inode *d = find_type(m, dir, S_IFDIR, &r, -ENOTDIR);
	struct pair *p = d ? pairs_find(&d->entries, name) : NULL;

	if (!p)
		return r ? r : -ENOENT;
	struct inode *i = find(m, p->ino);
	if (!S_ISDIR(i->i.mode))
		return -ENOTDIR;
	if (i->entries.n)
		return -ENOTEMPTY;
	dir_remove(m, d, p);
	drop_link(i);
	d->i.nlink--;
	m->hashed = false;
	return 0;
}

static void reparent(struct inode *i, struct inode *from, struct inode *to)
{
	if (!S_ISDIR(i->i.mode))
		return;
	from->i.nlink--;
	to->i.nlink++;
	i->i.parent = to->i.ino;
}

static int exchange(struct model *m, struct inode *d, struct pair *p, struct inode *nd, struct pair *np)
{
	struct inode *a = find(m, p->ino), *b = find(m, np->ino);

	if (a == b)
		return 0;
	reparent(a, d, nd);
	reparent(b, nd, d);
	p->ino = b->i.ino;
	np->ino = a->i.ino;
	d->i.mtime_ns = nd->i.mtime_ns = m->now_ns;
	m->hashed = false;
	return 0;
}

static int replace_error(const struct inode *from, const struct inode *to)
{
	if (S_ISDIR(to->i.mode) && !S_ISDIR(from->i.mode))
		return -EISDIR;
	if (!S_ISDIR(to->i.mode) && S_ISDIR(from->i.mode))
		return -ENOTDIR;
	return to->entries.n ? -ENOTEMPTY : 0;
}

/* RENAME_WHITEOUT: the caller makes the device behind it with model_mknod(). */
int model_rename(struct model *m, uint64_t dir, const char *name, uint64_t new_dir, const char *new_name, unsigned flags)
{
	int r, nr;
	struct inode *d = find_type(m, dir, S_IFDIR, &r, -ENOTDIR), *nd = find_type(m, new_dir, S_IFDIR, &nr, -ENOTDIR);
	struct pair *p = d ? pairs_find(&d->entries, name) : NULL, *np = nd ? pairs_find(&nd->entries, new_name) : NULL;

	if (!d || !nd || !p)
		return r ? r : nr ? nr : -ENOENT;
	if (flags & RENAME_EXCHANGE)
		return np ? exchange(m, d, p, nd, np) : -ENOENT;
	if (np && flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (nd->i.nlink == 0)
		return -ENOENT;
	struct inode *i = find(m, p->ino), *old = np ? find(m, np->ino) : NULL;
	if (old == i)
		return 0;
	if (old) {
		r = replace_error(i, old);
		if (r)
			return r;
		if (S_ISDIR(old->i.mode))
			nd->i.nlink--;
		drop_link(old);
		dir_remove(m, nd, np);
		p = pairs_find(&d->entries, name); /* it may have moved */
	}
	dir_remove(m, d, p);
	dir_add(m, nd, new_name, i->i.ino);
	reparent(i, d, nd);
	m->hashed = false;
	return 0;
}

uint64_t model_orphan(const struct model *m, size_t i)
{
	for (size_t at = 0; at < m->n; at++)
		if (m->inodes[at].i.nlink == 0 && i-- == 0)
			return m->inodes[at].i.ino;
	return 0;
}

void model_forget(struct model *m, uint64_t ino)
{
	struct inode *i = find(m, ino);

	if (!i || i->i.nlink)
		return;
	inode_free(i);
	*i = m->inodes[--m->n];
}

void model_forget_orphans(struct model *m)
{
	for (size_t i = m->n; i-- > 0;)
		if (m->inodes[i].i.nlink == 0)
			model_forget(m, m->inodes[i].i.ino);
}

/* ---- attributes and data ---- */

/* The bytes of `i`, `size` of them, ready to be changed. */
static uint8_t *own_bytes(struct model *m, struct inode *i, uint64_t size)
{
	struct blob *b = blob_new(NULL, size);

	memcpy(b->b, i->data->b, min_u64(size, i->data->len));
	blob_unref(i->data);
	i->data = b;
	i->i.size = size;
	m->hashed = false;
	return b->b;
}

int model_setattr(struct model *m, uint64_t ino, const struct record_attr *a)
{
	struct inode *i = find(m, ino);

	if (!i)
		return -ENOENT;
	if (a->mask & ATTR_SIZE) {
		if (!S_ISREG(i->i.mode))
			return S_ISDIR(i->i.mode) ? -EISDIR : -EINVAL;
		own_bytes(m, i, a->size);
		i->i.mtime_ns = m->now_ns;
	}
	if (a->mask & ATTR_MTIME)
		i->i.mtime_ns = a->mtime_ns;
	if (a->mask & ATTR_MODE)
		i->i.mode = (i->i.mode & S_IFMT) | (a->mode & 07777);
	if (a->mask & ATTR_UID)
		i->i.uid = a->uid;
	if (a->mask & ATTR_GID)
		i->i.gid = a->gid;
	m->hashed = false;
	return 0;
}

int model_write(struct model *m, uint64_t ino, uint64_t off, const void *p, size_t len, bool keep_mtime)
{
	int r;
	struct inode *i = find_type(m, ino, S_IFREG, &r, -EINVAL);

	if (!i || !len)
		return r;
	memcpy(own_bytes(m, i, max_u64(i->i.size, off + len)) + off, p, len);
	if (!keep_mtime)
		i->i.mtime_ns = m->now_ns;
	return 0;
}

int model_fallocate(struct model *m, uint64_t ino, int mode, uint64_t off, uint64_t len)
{
	int r;
	struct inode *i = find_type(m, ino, S_IFREG, &r, -ENODEV);

	if (!i)
		return r;
	uint64_t size = mode & FALLOC_FL_KEEP_SIZE ? i->i.size : max_u64(i->i.size, off + len);
	uint8_t *b = own_bytes(m, i, size);
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) && off < size)
		memset(b + off, 0, min_u64(len, size - off));
	i->i.mtime_ns = m->now_ns;
	return 0;
}

int model_setxattr(struct model *m, uint64_t ino, const char *name, const void *value, size_t len, int flags)
{
	struct inode *i = find(m, ino);
	struct pair *p = i ? pairs_find(&i->xattrs, name) : NULL;

	if (!i)
		return -ENOENT;
	if (p ? flags & XATTR_CREATE : flags & XATTR_REPLACE)
		return p ? -EEXIST : -ENODATA;
	if (p)
		pairs_remove(&i->xattrs, p);
	pairs_add(&i->xattrs, (struct pair){.name = blob_new(name, strlen(name)), .value = blob_new(value, len)});
	m->hashed = false;
	return 0;
}

int model_removexattr(struct model *m, uint64_t ino, const char *name)
{
	struct inode *i = find(m, ino);
	struct pair *p = i ? pairs_find(&i->xattrs, name) : NULL;

	if (!p)
		return i ? -ENODATA : -ENOENT;
	pairs_remove(&i->xattrs, p);
	m->hashed = false;
	return 0;
}
