/*
 * apply_names.c: what records of names do to the index: MKNODE, LINK, UNLINK, RENAME.
 *
 * Each changes the entry, the directory's size, links and times, and the inode that gains or loses the name; one that loses its
 * last name becomes an orphan.  That a name is not there is damage: the record was made after a look.
 */
#include <errno.h>
#include <sys/stat.h>

#include "fs/core/apply_impl.h"
#include "fs/core/index.h"
#include "fs/core/usage/usage.h"

static void touch_dir(struct inode *dir, int64_t time_ns)
{
	dir->mtime_ns = dir->ctime_ns = time_ns;
	dir->dirty = true;
}

/* The directory gains a name with `cookie`. */
static void dir_gain(struct inode *dir, uint64_t cookie, bool subdir, int64_t time_ns)
{
	dir->size++;
	dir->nlink += subdir;
	if (dir->next_cookie <= cookie)
		dir->next_cookie = cookie + 1;
	touch_dir(dir, time_ns);
}

static void dir_lose(struct inode *dir, bool subdir, int64_t time_ns)
{
	dir->size--;
	dir->nlink -= subdir;
	touch_dir(dir, time_ns);
}

/* `in` loses its name at `cookie` of `parent`; without any left it becomes an orphan. */
static int lose_name(struct fs *fs, struct inode *in, uint64_t parent, uint64_t cookie, int64_t time_ns)
{
	in->nlink = S_ISDIR(in->mode) ? 0 : in->nlink - 1;
	in->ctime_ns = time_ns;
	in->dirty = true;
	if (in->nlink > 0)
		return names_lose(fs, in, parent, cookie);
	struct index_key k = key_ino(TABLE_ORPHAN, in->ino);
	struct kv_batch *b = index_batch();

	kv_batch_put(b, key_slice(&k), (struct slice){"", 0});
	int r = kv_write(fs->kv, b);
	if (r == 0 && !fs->replaying && fs_role(fs) == ROLE_LEADER && refs_orphan(fs->refs, in->ino))
		reap_push(fs, in->ino);
	return r;
}

static int create_inode(struct fs *fs, const struct record *r, uint64_t ino, uint32_t mode, uint32_t uid, uint32_t gid,
			uint64_t rdev, uint64_t parent, uint64_t cookie)
{
	struct inode *in;
	int e = icache_create(fs->icache, ino, &in);

	if (e < 0)
		return e;
	in->mode = mode;
	in->uid = uid;
	in->gid = gid;
	in->rdev = rdev;
	in->nlink = S_ISDIR(mode) ? 2 : 1;
	in->atime_ns = in->mtime_ns = in->ctime_ns = in->btime_ns = r->time_ns;
	in->parent = parent;
	in->cookie = cookie;
	in->next_cookie = 3; /* 1 and 2 are "." and ".." */
	raise_u64(&fs->next_ino, ino + 1);
	atomic_fetch_add(&fs->n_inodes, 1);
	return 0;
}

int apply_mknode(struct fs *fs, const struct record *r)
{
	struct inode *dir, *in;
	struct kv_batch *b;
	int e = icache_get(fs->icache, r->mknode.parent, &dir);

	if (e < 0)
		return e;
	e = create_inode(fs, r, r->ino, r->mknode.mode, r->mknode.uid, r->mknode.gid, r->mknode.rdev, r->mknode.parent,
			 r->mknode.cookie);
	if (e < 0)
		return e;
	dir_gain(dir, r->mknode.cookie, S_ISDIR(r->mknode.mode), r->time_ns);
	if (S_ISLNK(r->mknode.mode)) {
		e = icache_get(fs->icache, r->ino, &in);
		if (e < 0)
			return e;
		in->size = r->mknode.target.len;
	}
	b = index_batch();
	index_put_dentry(b, r->mknode.parent, r->mknode.name,
			 &(struct dentry){.ino = r->ino, .cookie = r->mknode.cookie, .type = r->mknode.mode & S_IFMT});
	if (S_ISLNK(r->mknode.mode)) {
		struct index_key k = key_ino(TABLE_TARGET, r->ino);

		kv_batch_put(b, key_slice(&k), r->mknode.target);
	}
	return kv_write(fs->kv, b);
}

int apply_link(struct fs *fs, const struct record *r)
{
	struct inode *dir, *in;
	int e = icache_get(fs->icache, r->link.parent, &dir);

	if (e == 0)
		e = icache_get(fs->icache, r->ino, &in);
	if (e == 0)
		e = names_gain(fs, in, r->link.parent, r->link.cookie);
	if (e < 0)
		return e;
	in->nlink++;
	in->ctime_ns = r->time_ns;
	in->parent = r->link.parent;
	in->cookie = r->link.cookie;
	in->dirty = true;
	dir_gain(dir, r->link.cookie, false, r->time_ns);
	struct kv_batch *b = index_batch();
	index_put_dentry(b, r->link.parent, r->link.name,
			 &(struct dentry){.ino = r->ino, .cookie = r->link.cookie, .type = in->mode & S_IFMT});
	return kv_write(fs->kv, b);
}

/* Takes (parent, name) away; *ret_type says what it named. */
static int remove_name(struct fs *fs, uint64_t parent, struct slice name, struct dentry *ret)
{
	int e = index_get_dentry(fs->kv, parent, name, ret);

	if (e < 0)
		return e == -ENOENT ? -EUCLEAN : e;
	struct kv_batch *b = index_batch();
	index_delete_dentry(b, parent, name, ret->cookie);
	return kv_write(fs->kv, b);
}

int apply_unlink(struct fs *fs, const struct record *r)
{
	struct inode *dir, *in;
	struct dentry d;
	int e = icache_get(fs->icache, r->unlink.parent, &dir);

	if (e == 0)
		e = icache_get(fs->icache, r->ino, &in);
	if (e == 0)
		e = remove_name(fs, r->unlink.parent, r->unlink.name, &d);
	if (e < 0)
		return e;
	dir_lose(dir, S_ISDIR(in->mode), r->time_ns);
	return lose_name(fs, in, r->unlink.parent, d.cookie, r->time_ns);
}

static void place(struct inode *in, uint64_t parent, uint64_t cookie, int64_t time_ns)
{
	in->parent = parent;
	in->cookie = cookie;
	in->ctime_ns = time_ns;
	in->dirty = true;
}

static int apply_exchange(struct fs *fs, const struct record *r, struct inode *from, struct inode *to)
{
	struct dentry a, b;
	struct inode *x, *y;
	int e = index_get_dentry(fs->kv, r->rename.parent, r->rename.name, &a);

	if (e == 0)
		e = index_get_dentry(fs->kv, r->rename.new_parent, r->rename.new_name, &b);
	if (e == 0)
		e = icache_get(fs->icache, a.ino, &x);
	if (e == 0)
		e = icache_get(fs->icache, b.ino, &y);
	if (e < 0)
		return e == -ENOENT ? -EUCLEAN : e;
	struct kv_batch *batch = index_batch();
	index_put_dentry(batch, r->rename.parent, r->rename.name,
			 &(struct dentry){.ino = b.ino, .cookie = a.cookie, .type = b.type});
	index_put_dentry(batch, r->rename.new_parent, r->rename.new_name,
			 &(struct dentry){.ino = a.ino, .cookie = b.cookie, .type = a.type});
	e = kv_write(fs->kv, batch);
	if (e < 0)
		return e;
	from->nlink += (uint32_t)S_ISDIR(b.type) - (uint32_t)S_ISDIR(a.type);
	to->nlink += (uint32_t)S_ISDIR(a.type) - (uint32_t)S_ISDIR(b.type);
	e = names_move(fs, x, r->rename.parent, a.cookie, r->rename.new_parent, b.cookie);
	if (e == 0)
		e = names_move(fs, y, r->rename.new_parent, b.cookie, r->rename.parent, a.cookie);
	if (e < 0)
		return e;
	place(x, r->rename.new_parent, b.cookie, r->time_ns);
	place(y, r->rename.parent, a.cookie, r->time_ns);
	touch_dir(from, r->time_ns);
	touch_dir(to, r->time_ns);
	return 0;
}

/* The name that a rename writes over. */
static int replace_target(struct fs *fs, const struct record *r, struct inode *to)
{
	struct dentry d;
	struct inode *target;
	int e = icache_get(fs->icache, r->rename.target, &target);

	if (e == 0)
		e = remove_name(fs, r->rename.new_parent, r->rename.new_name, &d);
	if (e < 0)
		return e;
	dir_lose(to, S_ISDIR(target->mode), r->time_ns);
	return lose_name(fs, target, r->rename.new_parent, d.cookie, r->time_ns);
}

static int leave_whiteout(struct fs *fs, const struct record *r, struct inode *from, uint64_t cookie)
{
	int e = create_inode(fs, r, r->rename.whiteout_ino, S_IFCHR, r->uid, r->gid, 0, r->rename.parent, cookie);

	if (e < 0)
		return e;
	struct kv_batch *b = index_batch();
	index_put_dentry(b, r->rename.parent, r->rename.name,
			 &(struct dentry){.ino = r->rename.whiteout_ino, .cookie = cookie, .type = S_IFCHR});
	e = kv_write(fs->kv, b);
	if (e == 0)
		dir_gain(from, cookie, false, r->time_ns);
	return e;
}

int apply_rename(struct fs *fs, const struct record *r)
{
	struct inode *from, *to, *in;
	struct dentry d;
	int e = icache_get(fs->icache, r->rename.parent, &from);

	if (e == 0)
		e = icache_get(fs->icache, r->rename.new_parent, &to);
	if (e < 0)
		return e;
	if (r->rename.flags & RENAME_F_EXCHANGE)
		return apply_exchange(fs, r, from, to);
	if (r->rename.target)
		e = replace_target(fs, r, to);
	if (e == 0)
		e = icache_get(fs->icache, r->ino, &in);
	if (e == 0)
		e = remove_name(fs, r->rename.parent, r->rename.name, &d);
	if (e < 0)
		return e;
	struct kv_batch *b = index_batch();
	index_put_dentry(b, r->rename.new_parent, r->rename.new_name,
			 &(struct dentry){.ino = r->ino, .cookie = r->rename.new_cookie, .type = d.type});
	e = kv_write(fs->kv, b);
	if (e < 0)
		return e;
	e = names_move(fs, in, r->rename.parent, d.cookie, r->rename.new_parent, r->rename.new_cookie);
	if (e < 0)
		return e;
	dir_lose(from, S_ISDIR(d.type), r->time_ns);
	dir_gain(to, r->rename.new_cookie, S_ISDIR(d.type), r->time_ns);
	place(in, r->rename.new_parent, r->rename.new_cookie, r->time_ns);
	return r->rename.flags & RENAME_F_WHITEOUT ? leave_whiteout(fs, r, from, d.cookie) : 0;
}
