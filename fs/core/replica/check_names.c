/*
 * check_names.c: records of another node that make, move and remove names: that they are there or are not, of the right type, and
 * that what is left is a tree.
 */
#include <errno.h>

#include "fs/core/replica/trial.h"

#define NUMBER_MAX (UINT64_C(1) << 62) /* of inodes and cookies, so that counting on never wraps */
#define DEPTH_MAX  65536u

static void gain_name(struct item *dir, struct item *name, uint64_t ino, bool subdir)
{
	name->ino = ino;
	dir->inode.size++;
	dir->inode.nlink += subdir;
	dir->inode.next_cookie++;
}

static void lose_name(struct item *dir, struct item *name, bool subdir)
{
	name->ino = 0;
	dir->inode.size--;
	dir->inode.nlink -= subdir;
}

/* The next name of `dir` has this cookie, as on the leader. */
static bool cookie_ok(const struct item *dir, uint64_t cookie)
{
	return cookie == dir->inode.next_cookie && cookie < NUMBER_MAX;
}

static void begin_inode(struct item *i, uint32_t mode, uint64_t size, uint64_t parent)
{
	i->inode.exists = true;
	i->inode.mode = mode;
	i->inode.nlink = S_ISDIR(mode) ? 2 : 1;
	i->inode.size = size;
	i->inode.next_cookie = 3;
	i->inode.parent = parent;
}

/* A name in a directory, and the inode that the record is about. */
static int get_place(struct trial *t, uint64_t parent, struct slice name, uint64_t ino, struct item **ret_dir,
		     struct item **ret_name, struct item **ret_in)
{
	int e = trial_inode(t, parent, ret_dir);

	if (e == 0)
		e = trial_inode(t, ino, ret_in);
	return e < 0 ? e : trial_name(t, parent, name, ret_name);
}

int trial_mknode(struct trial *t, const struct record *r)
{
	struct item *dir, *in, *name;
	int e = get_place(t, r->mknode.parent, r->mknode.name, r->ino, &dir, &name, &in);

	if (e < 0)
		return e;
	if (in->inode.exists || r->ino >= NUMBER_MAX)
		return trial_misfit(t, r, "there is one of that number");
	if (!is_live_dir(dir) || name->ino || !cookie_ok(dir, r->mknode.cookie))
		return trial_misfit(t, r, "its directory cannot take the name");
	begin_inode(in, r->mknode.mode, r->mknode.target.len, r->mknode.parent);
	gain_name(dir, name, r->ino, S_ISDIR(r->mknode.mode));
	return 0;
}

int trial_link(struct trial *t, const struct record *r)
{
	struct item *dir, *in, *name;
	int e = get_place(t, r->link.parent, r->link.name, r->ino, &dir, &name, &in);

	if (e < 0)
		return e;
	if (!in->inode.exists || S_ISDIR(in->inode.mode) || in->inode.nlink == 0 || in->inode.nlink == UINT32_MAX)
		return trial_misfit(t, r, "it cannot have another name");
	if (!is_live_dir(dir) || name->ino || !cookie_ok(dir, r->link.cookie))
		return trial_misfit(t, r, "its directory cannot take the name");
	in->inode.nlink++;
	in->inode.parent = r->link.parent;
	gain_name(dir, name, r->ino, false);
	return 0;
}

/* A name of `i` may go: it is no directory with entries. */
static bool may_lose_name(const struct item *i)
{
	return i->inode.exists && i->inode.nlink > 0 && (!S_ISDIR(i->inode.mode) || i->inode.size == 0);
}

static void drop_link(struct item *i)
{
	i->inode.nlink = S_ISDIR(i->inode.mode) ? 0 : i->inode.nlink - 1;
}

int trial_unlink(struct trial *t, const struct record *r)
{
	struct item *dir, *in, *name;
	int e = get_place(t, r->unlink.parent, r->unlink.name, r->ino, &dir, &name, &in);

	if (e < 0)
		return e;
	if (!is_live_dir(dir) || name->ino != r->ino || !may_lose_name(in))
		return trial_misfit(t, r, "the name is not there, or may not go");
	lose_name(dir, name, S_ISDIR(in->inode.mode));
	drop_link(in);
	return 0;
}

struct rename_items {
	struct item *from, *to, *name, *new_name, *in, *target, *whiteout;
};

static int get_rename(struct trial *t, const struct record *r, struct rename_items *x)
{
	int e = trial_inode(t, r->rename.parent, &x->from);

	if (e == 0)
		e = trial_inode(t, r->rename.new_parent, &x->to);
	if (e == 0)
		e = trial_name(t, r->rename.parent, r->rename.name, &x->name);
	if (e == 0)
		e = trial_name(t, r->rename.new_parent, r->rename.new_name, &x->new_name);
	if (e == 0)
		e = trial_inode(t, r->ino, &x->in);
	if (e == 0 && r->rename.target)
		e = trial_inode(t, r->rename.target, &x->target);
	if (e == 0 && r->rename.whiteout_ino)
		e = trial_inode(t, r->rename.whiteout_ino, &x->whiteout);
	return e;
}

/* Whether `dir` is `ino` or lies below it.  Rows that a peer has sent may form a loop, so the way up is bounded. */
static int is_below(struct trial *t, uint64_t dir, uint64_t ino, bool *ret)
{
	*ret = false;
	for (unsigned depth = 0; dir != FS_ROOT_INO && !*ret; depth++) {
		struct item *i;
		int e = trial_inode(t, dir, &i);

		if (e < 0)
			return e;
		if (!is_live_dir(i) || depth == DEPTH_MAX)
			return -EUCLEAN;
		*ret = dir == ino;
		dir = i->inode.parent;
	}
	*ret |= ino == FS_ROOT_INO;
	return 0;
}

/* Moving what lies under one directory to another makes no loop. */
static int check_loops(struct trial *t, const struct record *r, const struct rename_items *x)
{
	bool below = false;
	int e = 0;

	if (x->from == x->to)
		return 0;
	if (is_dir(x->in))
		e = is_below(t, r->rename.new_parent, r->ino, &below);
	if (e == 0 && !below && x->target && is_dir(x->target))
		e = is_below(t, r->rename.parent, r->rename.target, &below);
	return e == 0 && below ? trial_misfit(t, r, "a directory would lie in itself") : e;
}

static bool rename_names_ok(const struct record *r, const struct rename_items *x)
{
	bool exchange = r->rename.flags & RENAME_F_EXCHANGE, whiteout = r->rename.flags & RENAME_F_WHITEOUT;

	if (!is_live_dir(x->from) || !is_live_dir(x->to) || !x->in->inode.exists || x->name->ino != r->ino ||
	    x->new_name->ino != r->rename.target || r->rename.target == r->ino)
		return false;
	if (exchange ? whiteout || !x->target : !cookie_ok(x->to, r->rename.new_cookie))
		return false;
	if (whiteout != (x->whiteout != NULL) || (whiteout && (x->whiteout->inode.exists || x->whiteout->a >= NUMBER_MAX)))
		return false;
	return !x->target || x->target->inode.exists;
}

static void exchange_names(const struct record *r, struct rename_items *x)
{
	uint32_t in_dir = is_dir(x->in), target_dir = is_dir(x->target);

	x->name->ino = r->rename.target;
	x->new_name->ino = r->ino;
	x->from->inode.nlink += target_dir - in_dir;
	x->to->inode.nlink += in_dir - target_dir;
	x->in->inode.parent = r->rename.new_parent;
	x->target->inode.parent = r->rename.parent;
}

static void move_name(const struct record *r, struct rename_items *x)
{
	bool dir = is_dir(x->in);

	if (x->target) {
		lose_name(x->to, x->new_name, is_dir(x->target));
		drop_link(x->target);
	}
	lose_name(x->from, x->name, dir);
	gain_name(x->to, x->new_name, r->ino, dir);
	x->in->inode.parent = r->rename.new_parent;
	if (!x->whiteout)
		return;
	begin_inode(x->whiteout, S_IFCHR, 0, r->rename.parent);
	x->name->ino = r->rename.whiteout_ino;
	x->from->inode.size++; /* under the cookie that the moved name had */
}

int trial_rename(struct trial *t, const struct record *r)
{
	struct rename_items x = {0};
	int e = get_rename(t, r, &x);

	if (e < 0)
		return e;
	if (!rename_names_ok(r, &x))
		return trial_misfit(t, r, "the names are not what it says, or not free");
	e = check_loops(t, r, &x);
	if (e < 0)
		return e;
	if (r->rename.flags & RENAME_F_EXCHANGE) {
		exchange_names(r, &x);
		return 0;
	}
	if (x.target && (is_dir(x.in) != is_dir(x.target) || !may_lose_name(x.target)))
		return trial_misfit(t, r, "what it replaces may not go");
	move_name(r, &x);
	return 0;
}
