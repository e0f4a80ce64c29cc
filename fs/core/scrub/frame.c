/*
 * frame.c: a packed frame that a snapshot has is repaired where it lies, since nothing else can be named by the snapshot's index.
 *
 * One block cannot be put into a frame: it is made anew, of the data of all its slots, and the bytes have to come out as many as
 * they were, which is what the index says.  So what each slot has is brought together: what the frame still gives, what was found
 * elsewhere, and else what the sources of repair.c have; slots are those of every leaf that names the frame, in the live tree and
 * in all snapshots, each compared with its CRC.  What no leaf wants any more is taken from the frame as it is, or is zeros. Level
 * and length are not in the index: those there are, are tried.
 *
 * Why that cannot make it worse: a frame that cannot be unpacked gives nobody anything.  One that can is written over only by
 * what gives every slot at least what it gives now, and only when most of it stays as it is: then it is the frame that was
 * written once, but for the damage, and a power cut on the way leaves less of that.  Blocks that are right are not written.  At
 * the end the frame is read back.  As with a home (repair.c) it needs no checkpoint.
 *
 * All who share the frame have it back.  The snapshot is held, or the live file's stripe, so its blocks are nobody else's.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/tier/tier.h"

#define SECTOR 512u /* of which a disk loses or keeps the whole */

struct frame {
	struct leaf l;                       /* its slots are those of all leaves that name it */
	struct block_question q[LEAF_SLOTS]; /* of whom that has the slot */
	enum repair_from from[LEAF_SLOTS];
	uint16_t good; /* slots that it gives as it is */
	uint16_t have; /* slots whose data is at hand */
	bool unpacks;
	bool unread[PACK_BLOCKS_MAX]; /* the block cannot be read */
	struct codec *codec;          /* owned, as the next four; aligned where blocks are read */
	uint8_t *data, *back;         /* a leaf's */
	uint8_t *old, *new;           /* the frame's blocks */
};

static void frame_close(struct frame *f)
{
	codec_free(f->codec);
	free(f->data);
	free(f->back);
	free(f->old);
	free(f->new);
}

static int frame_open(struct frame *f)
{
	size_t blocks = PACK_BLOCKS_MAX * BLOCK_SIZE;

	*f = (struct frame){.unpacks = false};
	int r = codec_new(&f->codec);
	if (r < 0)
		return r;
	f->data = calloc(1, LEAF_DATA_BYTES);
	f->back = malloc(LEAF_DATA_BYTES);
	if (!f->data || !f->back || posix_memalign((void **)&f->old, DISK_BLOCK, blocks) ||
	    posix_memalign((void **)&f->new, DISK_BLOCK, blocks))
		r = -ENOMEM;
	if (r < 0)
		frame_close(f);
	return r;
}

/* ---- who has it ---- */

static bool is_same(const struct leaf_pack *a, const struct leaf_pack *b)
{
	return a->start == b->start && a->n_blocks == b->n_blocks && a->bytes == b->bytes && a->algorithm == b->algorithm &&
	       a->birth == b->birth;
}

static void add_leaf(struct frame *f, uint64_t ino, uint64_t leaf, const struct leaf *l)
{
	uint16_t more = is_same(&l->pack, &f->l.pack) ? leaf_packed(l) & (uint16_t)~leaf_packed(&f->l) : 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (!(more >> i & 1))
			continue;
		f->l.slot[i] = l->slot[i];
		f->q[i] = (struct block_question){.ino = ino, .leaf = leaf, .slot = i, .crc = l->slot[i].crc};
		if (l->slot[i].tiered)
			f->q[i].object = l->object;
	}
}

static void add_live(struct fs *fs, struct frame *f, uint64_t ino, uint64_t leaf)
{
	struct leaf l;

	icache_rdlock(fs->icache, ino);
	int r = lcache_get(fs->lcache, ino, leaf, &l);
	icache_rdunlock(fs->icache, ino);
	if (r == 0)
		add_leaf(f, ino, leaf, &l);
}

/* Those that are as new as the frame; one that cannot be read has nothing to lose. */
static void add_snapshots(struct fs *fs, struct frame *f, uint64_t own, uint64_t leaf)
{
	uint32_t top;

	for (uint64_t below = SNAP_TOP_MAX; snap_held_below(fs, below, &top) && top >= f->l.pack.birth; below = top - 1) {
		struct held *held;
		struct kv *kv;
		struct leaf l;

		if (snap_get(fs, top, &held, &kv) == 0) {
			if (index_get_leaf(kv, own, leaf, &l) == 0)
				add_leaf(f, snap_ino(top, own), leaf, &l);
			snap_put(fs, held);
		}
		if (top == 0)
			break;
	}
}

/* -ESTALE: the leaf has no frame any more. */
static int find_all(struct fs *fs, struct frame *f, const struct block_question *q)
{
	uint64_t own = snap_is_ino(q->ino) ? snap_ino_own(q->ino) : q->ino;
	struct leaf l;

	if (!snap_is_ino(q->ino))
		icache_rdlock(fs->icache, q->ino);
	int r = extent_get(fs, q->ino, q->leaf, &l);
	if (!snap_is_ino(q->ino))
		icache_rdunlock(fs->icache, q->ino);
	if (r < 0)
		return r;
	if (!l.slot[q->slot].packed || l.slot[q->slot].crc != q->crc)
		return -ESTALE;
	f->l.pack = l.pack;
	add_leaf(f, q->ino, q->leaf, &l);
	add_live(fs, f, own, q->leaf);
	add_snapshots(fs, f, own, q->leaf);
	return 0;
}

/* ---- what it has ---- */

static void take(struct frame *f, unsigned slot, const uint8_t *block, enum repair_from from)
{
	memcpy(f->data + (size_t)slot * BLOCK_SIZE, block, BLOCK_SIZE);
	f->have |= (uint16_t)(1u << slot);
	f->from[slot] = from;
}

static void read_blocks(struct fs *fs, struct frame *f)
{
	for (uint32_t i = 0; i < f->l.pack.n_blocks; i++) {
		uint8_t *p = f->old + (size_t)i * BLOCK_SIZE;

		f->unread[i] = arena_read(fs->arena, pointer_add(f->l.pack.start, i), 1, p) < 0;
		if (f->unread[i])
			memset(p, 0, BLOCK_SIZE);
	}
}

static int read_old(struct fs *fs, struct frame *f)
{
	bool whole = true;

	read_blocks(fs, f);
	for (uint32_t i = 0; i < f->l.pack.n_blocks; i++)
		whole &= !f->unread[i];
	int r = whole ? codec_unpack(f->codec, f->l.pack.algorithm, f->old, f->l.pack.bytes, f->back) : -EBADMSG;
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	f->unpacks = true;
	memcpy(f->data, f->back, LEAF_DATA_BYTES);
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if ((leaf_packed(&f->l) >> i & 1) && crc32c(0, f->back + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) == f->l.slot[i].crc)
			f->good |= (uint16_t)(1u << i);
	f->have = f->good;
	return 0;
}

/* -EBADMSG: of a slot there is nothing. */
static int fetch_slot(struct fs *fs, struct frame *f, unsigned slot, uint8_t *room)
{
	enum repair_from from = REPAIR_REPLICA;

	if (!((leaf_packed(&f->l) & (uint16_t)~f->have) >> slot & 1))
		return 0;
	int r = repair_fetch(fs, &f->q[slot], room, &from);
	if (r == 0)
		take(f, slot, room, from);
	return r;
}

static int fetch_rest(struct fs *fs, struct frame *f)
{
	CLEANUP_FREE uint8_t *room = malloc(BLOCK_SIZE);
	int r = room ? 0 : -ENOMEM;

	for (unsigned i = 0; i < LEAF_SLOTS && r == 0; i++)
		r = fetch_slot(fs, f, i, room);
	return r;
}

static void take_given(struct frame *f, const struct frame_given *given)
{
	uint16_t wanted = leaf_packed(&f->l) & (uint16_t)~f->have;

	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if ((wanted >> i & 1) && given->block[i] && crc32c(0, given->block[i], BLOCK_SIZE) == f->l.slot[i].crc)
			take(f, i, given->block[i], given->from[i]);
}

/* ---- made anew ---- */

static bool stays_mostly(const struct frame *f)
{
	uint32_t n = (uint32_t)div_round_up(f->l.pack.bytes, SECTOR), n_other = 0;

	for (uint32_t i = 0; i < n; i++)
		n_other += memcmp(f->old + (size_t)i * SECTOR, f->new + (size_t)i *SECTOR, SECTOR) != 0;
	return 2 * n_other < n;
}

/* 1: it is; 0: not so. */
static int try_to_make(struct frame *f, int level, uint32_t n_slots)
{
	const struct leaf_pack *k = &f->l.pack;
	size_t cap = (size_t)k->n_blocks * BLOCK_SIZE;
	uint32_t bytes;
	int r = codec_pack(f->codec, k->algorithm, level, f->data, n_slots * (size_t)BLOCK_SIZE, f->new, cap, &bytes);

	if (r < 0 || bytes != k->bytes)
		return r;
	memset(f->new + bytes, 0, cap - bytes);
	r = codec_unpack(f->codec, k->algorithm, f->new, bytes, f->back);
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	return memcmp(f->back, f->data, LEAF_DATA_BYTES) == 0 && (!f->unpacks || stays_mostly(f));
}

static int make(struct frame *f)
{
	uint32_t first = LEAF_SLOTS - (uint32_t)__builtin_clz((unsigned)leaf_packed(&f->l) << 16);
	int levels = f->l.pack.algorithm == PACK_ZSTD ? SQUEEZE_LEVEL_MAX : 1, r = 0;

	for (int i = 0; i <= levels && r == 0; i++)
		for (uint32_t n = first; n <= LEAF_SLOTS && r == 0; n++)
			r = try_to_make(f, i ? i : SQUEEZE_LEVEL_DEFAULT, n);
	return r == 1 ? 0 : r < 0 ? r : -EBADMSG;
}

/* ---- written ---- */

static int write_blocks(struct fs *fs, struct frame *f)
{
	for (uint32_t i = 0; i < f->l.pack.n_blocks; i++) {
		const struct iovec iov = {f->new + (size_t)i *BLOCK_SIZE, BLOCK_SIZE};

		if (!f->unread[i] && memcmp(iov.iov_base, f->old + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) == 0)
			continue;
		if (arena_test_write(fs->arena, pointer_add(f->l.pack.start, i), &iov) < 0)
			return -EBADMSG;
	}
	return 0;
}

static int write_locked(struct fs *fs, const struct block_question *q, struct frame *f)
{
	struct leaf l;
	uint16_t good = 0;
	int r = extent_get(fs, q->ino, q->leaf, &l);

	if (r < 0)
		return r;
	if (!is_same(&l.pack, &f->l.pack))
		return -ESTALE;
	r = write_blocks(fs, f);
	if (r == 0)
		r = packed_verify(fs, &f->l, leaf_packed(&f->l), LEAF_SLOTS, NULL, &good);
	if (r < 0 || good != leaf_packed(&f->l))
		return r == -ENOMEM ? r : -EBADMSG;
	for (uint32_t i = 0; i < f->l.pack.n_blocks; i++)
		quarantine_remove(fs, pointer_add(f->l.pack.start, i));
	atomic_fetch_add(&fs->scrub->repairs.in_place, 1);
	return 0;
}

static int write_frame(struct fs *fs, const struct block_question *q, struct frame *f)
{
	struct lockset ls;
	int r = tier_may_change(fs);

	if (r < 0)
		return r;
	rwlock_rdlock(&fs->gate);
	if (snap_is_ino(q->ino)) { /* nobody changes it, and it is held */
		r = write_locked(fs, q, f);
	} else {
		lockset_lock(fs->icache, &ls, &q->ino, 1);
		r = write_locked(fs, q, f);
		lockset_unlock(fs->icache, &ls);
	}
	rwlock_rdunlock(&fs->gate);
	return r;
}

static void say(struct fs *fs, const struct frame *f)
{
	uint16_t bad = leaf_packed(&f->l) & (uint16_t)~f->good;

	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if (bad >> i & 1)
			repair_say(fs, &f->q[i], f->from[i]);
}

static int repair(struct fs *fs, const struct block_question *q, const struct frame_given *given, bool ask, struct frame *f)
{
	int r = find_all(fs, f, q);

	if (r == 0)
		r = read_old(fs, f);
	if (r < 0)
		return r;
	take_given(f, given);
	if (ask)
		r = fetch_rest(fs, f);
	if (r == 0 && f->have != leaf_packed(&f->l))
		r = -EBADMSG;
	if (r == 0)
		r = make(f);
	if (r == 0)
		r = write_frame(fs, q, f);
	if (r == 0)
		say(fs, f);
	return r;
}

int repair_frame(struct fs *fs, const struct block_question *q, const struct frame_given *given, bool ask)
{
	struct frame f;
	int r = frame_open(&f);

	if (r < 0)
		return r;
	r = repair(fs, q, given, ask, &f);
	frame_close(&f);
	return r;
}
