/*
 * watch.c: tells what a follower's batches and resyncs changed, so that the kernel forgets what it has cached of it.
 *
 * It is told after the change was applied, and with no lock held: what the kernel asks for next is the new state, and to ask it
 * may need any of our locks.
 */
#include "fs/core/replica/impl.h"

void fs_set_watcher(struct fs *fs, void (*changed)(void *ctx, const struct fs_change *c), void *ctx)
{
	struct replica *rep = fs->replica;

	mutex_lock(&rep->watch_lock);
	rep->changed = changed;
	rep->changed_ctx = ctx;
	while (rep->n_watching > 0)
		cond_wait(&rep->watch_idle, &rep->watch_lock);
	mutex_unlock(&rep->watch_lock);
}

void replica_changed(struct fs *fs, const struct fs_change *c)
{
	struct replica *rep = fs->replica;

	mutex_lock(&rep->watch_lock);
	void (*changed)(void *ctx, const struct fs_change *c) = rep->changed;
	void *ctx = rep->changed_ctx;
	rep->n_watching++;
	mutex_unlock(&rep->watch_lock);
	if (changed)
		changed(ctx, c);
	mutex_lock(&rep->watch_lock);
	if (--rep->n_watching == 0)
		cond_broadcast(&rep->watch_idle);
	mutex_unlock(&rep->watch_lock);
}

static void entry_changed(struct fs *fs, uint64_t dir, struct slice name)
{
	replica_changed(fs, &(struct fs_change){.kind = CHANGE_ENTRY, .ino = dir, .name = name});
}

static void attr_changed(struct fs *fs, uint64_t ino)
{
	if (ino)
		replica_changed(fs, &(struct fs_change){.kind = CHANGE_ATTR, .ino = ino});
}

/* To the end when `n_blocks` is 0. */
static void data_changed(struct fs *fs, uint64_t ino, uint64_t off, uint64_t n_blocks)
{
	replica_changed(fs, &(struct fs_change){.kind = CHANGE_DATA, .ino = ino, .off = off, .len = n_blocks * BLOCK_SIZE});
}

static void rename_changed(struct fs *fs, const struct record *r)
{
	entry_changed(fs, r->rename.parent, r->rename.name);
	entry_changed(fs, r->rename.new_parent, r->rename.new_name);
	attr_changed(fs, r->ino);
	attr_changed(fs, r->rename.target);
}

static void record_changed(struct fs *fs, const struct record *r)
{
	switch (r->type) {
	case RECORD_MKNODE:
		entry_changed(fs, r->mknode.parent, r->mknode.name);
		break;
	case RECORD_LINK:
		entry_changed(fs, r->link.parent, r->link.name);
		attr_changed(fs, r->ino);
		break;
	case RECORD_UNLINK:
		entry_changed(fs, r->unlink.parent, r->unlink.name);
		attr_changed(fs, r->ino);
		break;
	case RECORD_RENAME:
		rename_changed(fs, r);
		break;
	case RECORD_SETATTR:
		if (r->attr.mask & ATTR_SIZE)
			data_changed(fs, r->ino, r->attr.size, 0);
		else
			attr_changed(fs, r->ino);
		break;
	case RECORD_SETXATTR:
	case RECORD_RMXATTR:
		attr_changed(fs, r->ino);
		break;
	case RECORD_WRITE:
		data_changed(fs, r->ino, r->write.block * BLOCK_SIZE, r->write.n_blocks);
		break;
	case RECORD_ZERO:
		data_changed(fs, r->ino, r->zero.block * BLOCK_SIZE, r->zero.n_blocks);
		break;
	case RECORD_CLONE:
		data_changed(fs, r->ino, r->clone.block * BLOCK_SIZE, r->clone.n_blocks);
		break;
	case RECORD_SNAPROLL:
		replica_changed(fs, &(struct fs_change){.kind = CHANGE_ALL});
		break;
	default: /* nobody can name what is reaped; tiered data is the same as before */
		break;
	}
}

void replica_report(struct fs *fs, const struct batch_view *v)
{
	struct batch_cursor c;
	struct record rec;

	mutex_lock(&fs->replica->watch_lock);
	bool watched = fs->replica->changed;
	mutex_unlock(&fs->replica->watch_lock);
	if (!watched)
		return;
	batch_cursor_start(&c, v);
	while (batch_next(&c, &rec) == 1)
		record_changed(fs, &rec);
}
