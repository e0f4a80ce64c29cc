/*
 * apply.c: what each record does to the index.  One function a type, the same live, in recovery and on a follower.
 *
 * Records are resolved: nothing here looks at a clock, chooses a number or can refuse.  The caller holds the stripes of
 * all inodes a record names (live), or is alone (recovery).  An error means the index is damaged or out of memory.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/share/share.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/tier/tier.h"
#include "fs/core/usage/usage.h"

void raise_u64(_Atomic uint64_t *at, uint64_t value)
{
	uint64_t was = atomic_load_explicit(at, memory_order_relaxed);

	while (was < value && !atomic_compare_exchange_weak(at, &was, value))
		;
}

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

static int apply_mknode(struct fs *fs, const struct record *r)
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

static int apply_link(struct fs *fs, const struct record *r)
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

static int apply_unlink(struct fs *fs, const struct record *r)
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

static int apply_rename(struct fs *fs, const struct record *r)
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

/* Drops what lies in slots [from, LEAF_SLOTS) of `leaf` and in all later leaves. */
struct drop {
	struct fs *fs;
	struct inode *in;
	uint64_t leaf;
	unsigned from;
	struct applied *applied;
};

static int drop_leaf(void *ctx, uint64_t leaf, const struct leaf *l)
{
	const struct drop *d = ctx;
	struct leaf new = *l;

	for (unsigned i = leaf == d->leaf ? d->from : 0; i < LEAF_SLOTS; i++)
		new.slot[i] = (struct slot){0};
	leaf_settle(&new);
	return extent_put(d->fs, d->in, d->in->ino, leaf, l, &new, d->applied);
}

static int drop_from(struct fs *fs, struct inode *in, uint64_t block, struct applied *applied)
{
	struct drop d = {.fs = fs, .in = in, .leaf = block / LEAF_SLOTS, .from = block % LEAF_SLOTS, .applied = applied};

	return extent_each(fs, in, d.leaf, drop_leaf, &d);
}

static int apply_setattr(struct fs *fs, const struct record *r, struct applied *applied)
{
	const struct record_attr *a = &r->attr;
	struct inode *in;
	int e = icache_get(fs->icache, r->ino, &in);

	if (e < 0)
		return e;
	if (a->mask & ATTR_SIZE) {
		if (a->size < in->size)
			e = drop_from(fs, in, div_round_up(a->size, BLOCK_SIZE), applied);
		if (e < 0)
			return e;
		in->size = a->size;
	}
	if (a->mask & ATTR_MODE)
		in->mode = (in->mode & S_IFMT) | (a->mode & 07777);
	if (a->mask & ATTR_UID)
		in->uid = a->uid;
	if (a->mask & ATTR_GID)
		in->gid = a->gid;
	if (a->mask & ATTR_ATIME)
		in->atime_ns = a->atime_ns;
	if (a->mask & ATTR_MTIME)
		in->mtime_ns = a->mtime_ns;
	if (a->mask & ATTR_CTIME)
		in->ctime_ns = a->ctime_ns;
	in->dirty = true;
	return 0;
}

static int apply_xattr(struct fs *fs, const struct record *r)
{
	struct index_key k = key_name(TABLE_XATTR, r->ino, r->xattr.name);
	struct inode *in;
	uint8_t probe;
	size_t len;

	if (policy_is(r->xattr.name))
		return policy_apply(fs, r);
	int e = icache_get(fs->icache, r->ino, &in);
	if (e < 0)
		return e;
	e = kv_get(fs->kv, key_slice(&k), &probe, sizeof(probe), &len);
	if (e < 0 && e != -ENOENT && e != -ERANGE)
		return e;
	bool had = e != -ENOENT, set = r->type == RECORD_SETXATTR;
	struct kv_batch *b = index_batch();
	if (set)
		kv_batch_put(b, key_slice(&k), r->xattr.value);
	else
		kv_batch_delete(b, key_slice(&k));
	in->n_xattr += (uint32_t)set - (uint32_t)had;
	in->ctime_ns = r->time_ns;
	in->dirty = true;
	return kv_write(fs->kv, b);
}

/* Walks the runs of an out-of-line WRITE block by block. */
struct run_walk {
	const struct run *run;
	uint32_t at;
};

static pointer_t run_next(struct run_walk *w)
{
	pointer_t p = pointer_add(w->run->start, w->at++);

	if (w->at == w->run->n_blocks) {
		w->run++;
		w->at = 0;
	}
	return p;
}

static int apply_write(struct fs *fs, const struct record *r, uint64_t seq, struct applied *applied)
{
	struct run_walk walk = {.run = r->write.runs};
	uint32_t birth = (uint32_t)atomic_load(&fs->snapshot_generation);
	struct inode *in;
	int e = icache_get(fs->icache, r->ino, &in);

	for (uint32_t i = 0; fs->replaying && r->write.out_of_line && i < r->write.n_runs && e == 0; i++)
		e = arena_claim(fs->arena, r->write.runs[i]);
	for (uint32_t i = 0; i < r->write.n_blocks && e == 0;) {
		uint64_t block = r->write.block + i;
		struct leaf old, new;

		e = extent_get(fs, r->ino, block / LEAF_SLOTS, &old);
		if (e < 0)
			break;
		new = old;
		for (unsigned s = block % LEAF_SLOTS; s < LEAF_SLOTS && i < r->write.n_blocks; s++, i++) {
			struct slot *slot = &new.slot[s];

			slot->crc = r->write.crc[i];
			slot->unwritten = slot->tiered = slot->packed = false;
			if (r->write.out_of_line) {
				slot->home = run_next(&walk);
				slot->birth = birth;
				slot->staged = 0;
				slot->shared = false;
			} else {
				slot_sever(fs, slot);
				slot->staged = pointer_add(r->write.staged, i);
			}
		}
		leaf_settle(&new);
		e = extent_put(fs, in, r->ino, block / LEAF_SLOTS, &old, &new, applied);
	}
	if (e == 0 && r->write.out_of_line)
		squeeze_offer(fs, r->ino, r->write.block / LEAF_SLOTS,
			      div_round_up(r->write.block + r->write.n_blocks, LEAF_SLOTS) - r->write.block / LEAF_SLOTS);
	if (e == 0 && !r->write.out_of_line)
		e = homer_queue(fs, &(struct staged_write){.ino = r->ino,
							   .block = r->write.block,
							   .pos = pointer_block(r->write.staged),
							   .seq = seq,
							   .ready = seq,
							   .n_blocks = r->write.n_blocks});
	if (e < 0)
		return e;
	in->size = r->write.size;
	if (r->write.mtime_ns != INT64_MIN)
		in->mtime_ns = in->ctime_ns = r->write.mtime_ns;
	in->dirty = true;
	return 0;
}

static void zero_slot(struct fs *fs, struct slot *s, unsigned mode)
{
	switch (mode) {
	case ZERO_PUNCH:
		*s = (struct slot){0};
		break;
	case ZERO_RANGE: /* a home stays: it is the space promised */
		slot_sever(fs, s);
		*s = (struct slot){.home = s->home, .birth = slot_birth_of_space(fs, s), .unwritten = true, .shared = s->shared};
		break;
	case ZERO_ALLOCATE:
		if (!slot_used(s))
			s->unwritten = true;
		break;
	}
}

struct zero_walk {
	struct fs *fs;
	struct inode *in;
	uint64_t block, end; /* blocks */
	unsigned mode;
	struct applied *applied;
};

static int zero_leaf(void *ctx, uint64_t leaf, const struct leaf *l)
{
	const struct zero_walk *z = ctx;
	struct leaf new = *l;

	if (leaf * LEAF_SLOTS >= z->end)
		return 1; /* past the range: stops the walk */
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if (leaf * LEAF_SLOTS + i >= z->block && leaf * LEAF_SLOTS + i < z->end)
			zero_slot(z->fs, &new.slot[i], z->mode);
	leaf_settle(&new);
	return extent_put(z->fs, z->in, z->in->ino, leaf, l, &new, z->applied);
}

static int apply_zero(struct fs *fs, const struct record *r, struct applied *applied)
{
	struct inode *in;
	int e = icache_get(fs->icache, r->ino, &in);

	if (e < 0)
		return e;
	struct zero_walk z = {.fs = fs,
			      .in = in,
			      .block = r->zero.block,
			      .end = r->zero.block + r->zero.n_blocks,
			      .mode = r->zero.mode,
			      .applied = applied};
	if (z.mode == ZERO_PUNCH) { /* only what is there */
		e = extent_each(fs, in, z.block / LEAF_SLOTS, zero_leaf, &z);
	} else {
		for (uint64_t leaf = z.block / LEAF_SLOTS; leaf * LEAF_SLOTS < z.end && e == 0; leaf++) {
			struct leaf l;

			e = extent_get(fs, r->ino, leaf, &l);
			if (e == 0)
				e = zero_leaf(&z, leaf, &l);
		}
	}
	if (e < 0)
		return e;
	in->size = r->zero.size;
	in->mtime_ns = in->ctime_ns = r->time_ns;
	in->dirty = true;
	return 0;
}

static int delete_xattrs(struct fs *fs, uint64_t ino)
{
	struct index_key k = key_ino(TABLE_XATTR, ino);
	struct kv_batch names = {0};
	struct kv_iter *it;
	int e = fs->kv->ops->iter_open(fs->kv, &it);

	if (e < 0)
		return e;
	for (fs->kv->ops->iter_seek(it, key_slice(&k)); fs->kv->ops->iter_valid(it); fs->kv->ops->iter_next(it)) {
		struct slice key = fs->kv->ops->iter_key(it);

		if (!key_within(key, TABLE_XATTR, ino))
			break;
		kv_batch_delete(&names, key);
	}
	e = fs->kv->ops->iter_error(it);
	fs->kv->ops->iter_close(it);
	if (e == 0)
		e = kv_write(fs->kv, &names);
	kv_batch_free(&names);
	return e;
}

static int apply_reap(struct fs *fs, const struct record *r, struct applied *applied)
{
	struct inode *in;
	int e = icache_get(fs->icache, r->ino, &in);

	if (e == 0)
		e = drop_from(fs, in, r->reap.from_leaf * LEAF_SLOTS, applied);
	if (e < 0)
		return e;
	in->size = min_u64(in->size, r->reap.from_leaf * LEAF_SLOTS * BLOCK_SIZE);
	in->dirty = true;
	if (r->reap.from_leaf > 0)
		return 0;
	e = in->n_xattr ? delete_xattrs(fs, r->ino) : 0;
	if (e == 0)
		e = policy_drop(fs, r->ino);
	if (e < 0)
		return e;
	struct index_key orphan = key_ino(TABLE_ORPHAN, r->ino), target = key_ino(TABLE_TARGET, r->ino);
	struct kv_batch *b = index_batch();
	kv_batch_delete(b, key_slice(&orphan));
	if (S_ISLNK(in->mode))
		kv_batch_delete(b, key_slice(&target));
	e = kv_write(fs->kv, b);
	if (e == 0)
		e = icache_remove(fs->icache, r->ino);
	if (e == 0)
		atomic_fetch_sub(&fs->n_inodes, 1);
	return e;
}

/* The row says which batch was the last before this epoch, the same on every node: by it one history is told from another. */
static int apply_epoch(struct fs *fs, const struct record *r, uint64_t seq)
{
	struct index_key k = key_ino(TABLE_HISTORY, r->epoch.epoch);
	le64 value = le64_make(seq - 1), known;
	size_t len;
	int e = kv_get(fs->kv, key_slice(&k), &known, sizeof(known), &len);

	if (e == -ENOENT) {
		struct kv_batch *b = index_batch();

		kv_batch_put(b, key_slice(&k), (struct slice){&value, sizeof(value)});
		e = kv_write(fs->kv, b);
	} else if (e == -EBADMSG || e == -ERANGE) {
		e = 0; /* a damaged row is as good as none to those who read it */
	}
	if (e == 0)
		atomic_store(&fs->history, r->epoch.epoch);
	return e;
}

static int dispatch(struct fs *fs, const struct record *r, uint64_t seq, struct applied *applied)
{
	switch (r->type) {
	case RECORD_MKNODE:
		return apply_mknode(fs, r);
	case RECORD_LINK:
		return apply_link(fs, r);
	case RECORD_UNLINK:
		return apply_unlink(fs, r);
	case RECORD_RENAME:
		return apply_rename(fs, r);
	case RECORD_SETATTR:
		return apply_setattr(fs, r, applied);
	case RECORD_SETXATTR:
	case RECORD_RMXATTR:
		return apply_xattr(fs, r);
	case RECORD_WRITE:
		return apply_write(fs, r, seq, applied);
	case RECORD_ZERO:
		return apply_zero(fs, r, applied);
	case RECORD_CLONE:
		return clone_apply(fs, r, seq, applied);
	case RECORD_REAP:
		return apply_reap(fs, r, applied);
	case RECORD_TIER:
		return tier_apply(fs, r, applied);
	case RECORD_SNAP:
	case RECORD_SNAPDROP:
	case RECORD_SNAPROLL:
		return snap_apply(fs, r, seq);
	case RECORD_EPOCH:
		return apply_epoch(fs, r, seq);
	default: /* written by a newer clawfs: the format version should have stopped the mount */
		log_error("journal: %s records are not known to this version", record_type_name(r->type));
		return -EPROTONOSUPPORT;
	}
}

int apply_record(struct fs *fs, const struct record *r, uint64_t seq, struct applied *applied)
{
	struct usage_step step;

	if (snap_rolling(fs)) {
		log_error("journal: batch %llu follows one that goes back to a snapshot, which was not done",
			  (unsigned long long)seq);
		return -EUCLEAN;
	}
	applied->time_ns = r->time_ns;
	applied->seq = seq;
	usage_before(fs, r, &step);
	audit_before(fs, r, seq);
	int e = dispatch(fs, r, seq, applied);

	if (e < 0)
		return e;
	audit_after(fs, seq);
	usage_after(fs, &step, applied->claim);
	if (r->type != RECORD_SNAPROLL) /* that is not carried out yet */
		sums_add(fs, seq, r);
	return 0;
}

static uint32_t put_inode(uint64_t *inos, uint32_t n, uint64_t ino)
{
	for (uint32_t i = 0; i < n; i++)
		if (inos[i] == ino)
			return n;
	if (ino)
		inos[n++] = ino;
	return n;
}

uint32_t record_inodes(const struct record *r, uint64_t ret[RECORD_INODES_MAX])
{
	uint32_t n = put_inode(ret, 0, r->ino);

	switch (r->type) {
	case RECORD_MKNODE:
		return put_inode(ret, n, r->mknode.parent);
	case RECORD_LINK:
		return put_inode(ret, n, r->link.parent);
	case RECORD_UNLINK:
		return put_inode(ret, n, r->unlink.parent);
	case RECORD_RENAME:
		n = put_inode(ret, n, r->rename.parent);
		n = put_inode(ret, n, r->rename.new_parent);
		n = put_inode(ret, n, r->rename.target);
		return put_inode(ret, n, r->rename.whiteout_ino);
	case RECORD_CLONE:
		return put_inode(ret, n, r->clone.from);
	default:
		return n;
	}
}
