/*
 * source.c: a leader's batches on their way: copied out of the journal, with the data that their records name in the
 * arena.
 *
 * Nothing is pinned for those that follow.  By the time a batch is sent, a block it wrote to the arena may have been
 * overwritten in place, or freed and given to another file: its content then has not the CRC that the record names.  Such a block
 * is sent as superseded.  Whatever changed it was in the journal before, so the newest batch there is by now (the fence) is one
 * after which nothing refers to the lost content any more.  A block that cannot be read is treated alike: it is not made up,
 * and the CRC tells on the follower what it tells here.  So is one whose home was dropped because its data is in an object: the
 * TIER record is durable before that, so the fence is not before it, and with it the follower's slot is cold.  Data that was only
 * moved, to be packed (squeeze/), is still what the slot has, and no record would take its place: it is read where it is now.
 *
 * What is sent carries the epoch of the leader that sends it, not of the one that once made the batch: by it a follower tells a
 * leader that is none any more.
 */
#include "fs/core/replica/impl.h"

#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "fs/core/squeeze/squeeze.h"

struct replica_cursor {
	struct journal_batch batch;
	struct batch_cursor at; /* behind record number `next` - 1 of those with data out of line */
	uint32_t next;
	uint8_t *blocks; /* owned: RECORD_WRITE_BLOCKS_MAX, made when first needed */
};

void replica_cursor_free(struct replica_cursor *c)
{
	if (!c)
		return;
	journal_batch_free(&c->batch);
	free(c->blocks);
	free(c);
}

/* The next record with data out of line; 0 at the end. */
static int next_data(struct replica_cursor *c, struct record *ret)
{
	int r;

	while ((r = batch_next(&c->at, ret)) == 1)
		if (ret->type == RECORD_WRITE && ret->write.out_of_line) {
			c->next++;
			return 1;
		}
	return r;
}

static void rewind_data(struct replica_cursor *c)
{
	batch_cursor_start(&c->at, &c->batch.view);
	c->next = 0;
}

static int count_data(struct replica_cursor *c, uint32_t *ret)
{
	struct record rec;
	int r;

	rewind_data(c);
	while ((r = next_data(c, &rec)) == 1)
		;
	*ret = c->next;
	rewind_data(c);
	return r;
}

/* The epoch to send under.  A node that leads no more has none, whatever it promised. */
static int leading_epoch(struct fs *fs, uint64_t *ret)
{
	struct super s;

	replica_get_super(fs, &s);
	*ret = s.epoch;
	return s.follower ? -EROFS : 0;
}

int replica_read_batch(struct replica_volume *v, struct replica_cursor **cursor, uint64_t seq, struct shipped_batch *ret,
		       uint32_t *ret_n_data)
{
	struct fs *fs = replica_fs(v);
	uint64_t epoch;
	int r = leading_epoch(fs, &epoch);

	if (r < 0)
		return r;
	if (!*cursor)
		*cursor = calloc(1, sizeof(**cursor));
	struct replica_cursor *c = *cursor;
	if (!c)
		return -ENOMEM;
	r = journal_copy_batch(fs->journal, seq, &c->batch);
	if (r == 0)
		r = count_data(c, ret_n_data);
	if (r < 0)
		return r;
	const struct batch_info *info = &c->batch.info;
	*ret = (struct shipped_batch){
	    .seq = seq,
	    .epoch = epoch,
	    .incarnation = info->incarnation,
	    .prev_hash = info->prev_hash,
	    .hash = info->hash,
	    .time_ns = info->time_ns,
	    .n_records = info->n.n_records,
	    .logical_bytes = info->n.logical_bytes,
	    .n_payload = info->n.n_payload,
	    .logical = c->batch.view.logical,
	    .payload = c->batch.view.payload,
	};
	sums_expect(fs, seq, info->n.n_records);
	return 0;
}

/* Whole runs where that works, else block by block; what cannot be read is zeros. */
static void read_runs(struct fs *fs, const struct record *r, uint8_t *to)
{
	for (uint32_t i = 0; i < r->write.n_runs; i++) {
		const struct run *run = &r->write.runs[i];

		if (arena_read(fs->arena, run->start, run->n_blocks, to) < 0)
			for (uint32_t b = 0; b < run->n_blocks; b++)
				if (arena_read(fs->arena, pointer_add(run->start, b), 1, to + (size_t)b * BLOCK_SIZE) < 0)
					memset(to + (size_t)b * BLOCK_SIZE, 0, BLOCK_SIZE);
		to += (size_t)run->n_blocks * BLOCK_SIZE;
	}
}

/* What was moved since: false when the slot has other data by now, or it cannot be read. */
static bool read_moved(struct fs *fs, const struct record *r, uint32_t i, uint8_t *block)
{
	uint64_t no = r->write.block + i;
	uint16_t mask = (uint16_t)(1u << no % LEAF_SLOTS), good = 0;
	struct leaf l;

	icache_rdlock(fs->icache, r->ino);
	if (extent_get(fs, r->ino, no / LEAF_SLOTS, &l) == 0 && l.slot[no % LEAF_SLOTS].crc == r->write.crc[i]) {
		if (l.slot[no % LEAF_SLOTS].packed && packed_read(fs, &l, mask, no % LEAF_SLOTS, block, &good) < 0)
			good = 0;
		else if (l.slot[no % LEAF_SLOTS].home)
			good = arena_read(fs->arena, l.slot[no % LEAF_SLOTS].home, 1, block) == 0;
	}
	icache_rdunlock(fs->icache, r->ino);
	return good && crc32c(0, block, BLOCK_SIZE) == r->write.crc[i];
}

/* True when any block is not what the record says it was. */
static bool find_superseded(struct fs *fs, const struct record *r, uint8_t *blocks, struct shipped_data *ret)
{
	bool any = false;

	for (uint32_t i = 0; i < r->write.n_blocks; i++) {
		uint8_t *block = blocks + (size_t)i * BLOCK_SIZE;

		if (crc32c(0, block, BLOCK_SIZE) == r->write.crc[i] || read_moved(fs, r, i, block))
			continue;
		memset(block, 0, BLOCK_SIZE);
		ret->superseded[i / 8] |= (uint8_t)(1 << i % 8);
		any = true;
	}
	return any;
}

int replica_read_data(struct replica_volume *v, struct replica_cursor *c, uint32_t index, struct shipped_data *ret)
{
	struct fs *fs = replica_fs(v);
	struct record rec;
	int r = 1;

	if (!c->blocks && posix_memalign((void **)&c->blocks, DISK_BLOCK, RECORD_WRITE_BLOCKS_MAX * BLOCK_SIZE))
		return -ENOMEM;
	if (index < c->next)
		rewind_data(c);
	while (r == 1 && c->next <= index)
		r = next_data(c, &rec);
	if (r != 1)
		return r < 0 ? r : -EINVAL;
	*ret = (struct shipped_data){.index = index, .n_blocks = rec.write.n_blocks, .blocks = c->blocks};
	read_runs(fs, &rec, c->blocks);
	if (find_superseded(fs, &rec, c->blocks, ret))
		ret->fence = replica_newest(fs);
	return 0;
}
