/*
 * apply_data.c: what records of data do to leaves: WRITE, ZERO, and what cutting and reaping drop.
 *
 * Inline data is pointed to in the journal, and queued to go home; data out of line is where its runs say.
 */
#include "fs/core/apply_impl.h"
#include "fs/core/squeeze/squeeze.h"

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

int apply_drop_from(struct fs *fs, struct inode *in, uint64_t block, struct applied *applied)
{
	struct drop d = {.fs = fs, .in = in, .leaf = block / LEAF_SLOTS, .from = block % LEAF_SLOTS, .applied = applied};

	return extent_each(fs, in, d.leaf, drop_leaf, &d);
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

int apply_write(struct fs *fs, const struct record *r, uint64_t seq, struct applied *applied)
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

int apply_zero(struct fs *fs, const struct record *r, struct applied *applied)
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
