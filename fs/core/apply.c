/*
 * apply.c: what each record does to the index.  One function a type, the same live, in recovery and on a follower: those of names
 * in apply_names.c, those of data in apply_data.c.
 *
 * Records are resolved: nothing here looks at a clock, chooses a number or can refuse.  The caller holds the stripes of
 * all inodes a record names (live), or is alone (recovery).  An error means the index is damaged or out of memory.
 */
#include <errno.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/core/apply_impl.h"
#include "fs/core/index.h"
#include "fs/core/share/share.h"
#include "fs/core/snap/snap.h"
#include "fs/core/tier/tier.h"
#include "fs/core/usage/usage.h"

void raise_u64(_Atomic uint64_t *at, uint64_t value)
{
	uint64_t was = atomic_load_explicit(at, memory_order_relaxed);

	while (was < value && !atomic_compare_exchange_weak(at, &was, value))
		;
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
			e = apply_drop_from(fs, in, div_round_up(a->size, BLOCK_SIZE), applied);
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
		e = apply_drop_from(fs, in, r->reap.from_leaf * LEAF_SLOTS, applied);
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
