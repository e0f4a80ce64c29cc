/*
 * repair.c: a damaged block gets its data back, from whoever has it, and a new home.
 *
 * Who may have it is a table of sources, asked in order.  Nothing that a source says is believed: what it gives has the CRC that
 * the slot wants, or is thrown away.  The good copy goes to a fresh block, is read back, and then the slot is turned to it, as
 * the homer does it: not logged, under the gate and the stripe, so that a checkpoint has allocation, leaf and quarantine of the
 * old home together, and a crash before it leaves the damage as it was.  Never over the old block: it failed, and what it holds
 * may still tell why.  Only where there is no space at all the good data is written there, since what it replaces is no data.
 *
 * A home that a snapshot or a clone may name, too, is first written anew where it is and read back: the same bytes, so rule R2 is
 * not broken, and all who share it have it back.  When the disk does not keep them there, the live slot gets another home and who
 * shared the old one has none. A block of a snapshot is repaired in that way only; the snapshot cannot go meanwhile, so its block
 * is nobody else's.
 *
 * A packed slot gets a home of its own and leaves its frame, which goes with its last slot.  Where a snapshot may have the frame,
 * it is first made anew where it is, and in a snapshot that is all there is (frame.c).
 *
 * Data that waits in the ring is brought home first; the homer takes its CRC along, so a repair finds it there.
 *
 * Where the file changed meanwhile nothing is done: it has other data by now.  What neither of the sources has is looked for by
 * heal.c, later, in places that are not searched for a single block.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/tier/recall/recalled.h"
#include "fs/core/tier/tier.h"

#define HOME_POLL_US 5000u
#define HOME_POLLS   1000u /* 5 s */
#define CHANGES_MAX  3u

/* ---- sources ---- */

bool frame_copy(struct fs *fs, const struct leaf_object *at, uint16_t mask, uint8_t *blocks)
{
	uint16_t has;
	const uint8_t *from = recalled_borrow(fs, at->id, at->offset, &has);

	if (!from)
		return false;
	for (unsigned i = 0, n = 0; i < LEAF_SLOTS; i++) {
		if (mask & has & 1u << i)
			memcpy(blocks + (size_t)i * BLOCK_SIZE, from + (size_t)n * BLOCK_SIZE, BLOCK_SIZE);
		n += has >> i & 1;
	}
	recalled_unpin(fs, at->id, at->offset);
	return !(mask & ~has);
}

int repair_fetch_tier(struct fs *fs, const struct block_question *q, uint8_t *block)
{
	CLEANUP_FREE uint8_t *room = q->object.id ? malloc(LEAF_SLOTS * BLOCK_SIZE) : NULL;

	if (!room)
		return q->object.id ? -ENOMEM : -ENOENT;
	int r = recall_leaves(fs, q->ino, q->leaf, 1, OBJECT_FOREGROUND);
	if (r < 0)
		return r;
	if (!frame_copy(fs, &q->object, (uint16_t)(1u << q->slot), room))
		return -ENOENT;
	memcpy(block, room + (size_t)q->slot * BLOCK_SIZE, BLOCK_SIZE);
	return 0;
}

static const struct {
	const char *name;
	size_t counter; /* of struct repair_status */
} froms[] = {
    [REPAIR_REPLICA] = {"a replica", offsetof(struct repair_status, by_replica)},
    [REPAIR_TIER] = {"its object", offsetof(struct repair_status, by_tier)},
    [REPAIR_COPY] = {"another copy of it", offsetof(struct repair_status, by_copy)},
    [REPAIR_JOURNAL] = {"the journal", offsetof(struct repair_status, by_journal)},
    [REPAIR_ARCHIVE] = {"the archive", offsetof(struct repair_status, by_archive)},
};

/* Those that are asked at once.  Each says -ENOENT when it does not have the block, and gives bytes that are compared here. */
static const struct repair_source {
	enum repair_from from;
	int (*fetch)(struct fs *fs, const struct block_question *q, uint8_t *block);
} sources[] = {
    {REPAIR_REPLICA, asks_fetch},
    {REPAIR_TIER, repair_fetch_tier},
};

bool repair_has_source(struct fs *fs)
{
	return replica_has_hooks(fs) && fs->hooks.ask_block && fs->hooks.ask_block(fs->hooks.ctx) > 0;
}

/* ---- the new home ---- */

static bool wants(const struct slot *s, uint32_t crc)
{
	return slot_has_data(s) && (s->home || s->packed) && !s->staged && s->crc == crc;
}

static int read_back(struct fs *fs, pointer_t at, uint32_t crc, uint8_t *room)
{
	int r = arena_read(fs->arena, at, 1, room);

	if (r < 0)
		return r;
	return crc32c(0, room, BLOCK_SIZE) == crc ? 0 : -EBADMSG;
}

/* An error says something of that block and nothing of the arena; what a crash undoes is damage as before. */
static int write_in_place(struct fs *fs, pointer_t home, const uint8_t *good, uint32_t crc, uint8_t *room)
{
	const struct iovec iov = {(void *)(uintptr_t)good, BLOCK_SIZE};
	int r = arena_test_write(fs->arena, home, &iov);

	if (r == 0)
		r = read_back(fs, home, crc, room);
	if (r < 0)
		return -EBADMSG;
	quarantine_remove(fs, home);
	atomic_fetch_add(&fs->scrub->repairs.in_place, 1);
	return 0;
}

/* The stripe is held.  `home` 0: the old home has to do. */
static int settle_locked(struct fs *fs, const struct block_question *q, const uint8_t *good, pointer_t home, uint8_t *room)
{
	struct leaf old, new;
	int r = extent_get(fs, q->ino, q->leaf, &old);

	if (r < 0)
		return r;
	new = old;
	struct slot *s = &new.slot[q->slot];
	if (!wants(s, q->crc))
		return -ESTALE;
	if (!home)
		return s->packed ? -ENOSPC : write_in_place(fs, s->home, good, q->crc, room);
	if (!s->packed) /* the blocks of a frame are there since it was found to be bad */
		quarantine_add(fs, &(struct quarantined){.home = s->home,
							 .ino = q->ino,
							 .block = q->leaf * LEAF_SLOTS + q->slot,
							 .birth = s->shared ? QUARANTINE_SHARED : s->birth});
	else
		squeeze_unpacked(fs);
	s->packed = false;
	s->home = home;
	s->shared = false;
	s->birth = (uint32_t)atomic_load(&fs->snapshot_generation);
	leaf_settle(&new);
	return extent_put(fs, NULL, q->ino, q->leaf, &old, &new, NULL);
}

static int write_fresh(struct fs *fs, const uint8_t *good, uint32_t crc, struct run *run, uint8_t *room)
{
	const struct iovec iov = {(void *)(uintptr_t)good, BLOCK_SIZE};
	uint32_t n_runs;
	int r = arena_alloc(fs->arena, 1, 0, false, run, 1, &n_runs);

	if (r < 0)
		return r;
	r = arena_writev(fs->arena, run->start, &iov, 1);
	if (r < 0)
		fs_fail(fs, r, "writing repaired data to the arena");
	else
		r = read_back(fs, run->start, crc, room);
	if (r < 0)
		arena_unalloc(fs->arena, *run);
	return r;
}

static int settle(struct fs *fs, const struct block_question *q, const uint8_t *good, pointer_t home, uint8_t *room)
{
	struct lockset ls;

	if (snap_is_ino(q->ino)) /* nobody changes it, and repair_block() keeps it */
		return settle_locked(fs, q, good, home, room);
	lockset_lock(fs->icache, &ls, &q->ino, 1);
	int r = settle_locked(fs, q, good, home, room);
	lockset_unlock(fs->icache, &ls);
	return r;
}

static int rewrite_gated(struct fs *fs, const struct block_question *q, const uint8_t *good, uint8_t *room)
{
	struct run run = {0};
	int r = q->shared ? settle(fs, q, good, 0, room) : -EBADMSG;

	if (r != -EBADMSG || snap_is_ino(q->ino))
		return r;
	r = write_fresh(fs, good, q->crc, &run, room);
	if (r < 0 && r != -ENOSPC)
		return r;
	r = settle(fs, q, good, run.start, room);
	if (r < 0 && run.start)
		arena_unalloc(fs->arena, run);
	return r;
}

static int rewrite(struct fs *fs, const struct block_question *q, const uint8_t *good)
{
	CLEANUP_FREE void *room = NULL;
	int r = tier_may_change(fs);

	if (r == 0 && posix_memalign(&room, DISK_BLOCK, BLOCK_SIZE))
		r = -ENOMEM;
	if (r < 0)
		return r;
	rwlock_rdlock(&fs->gate);
	r = rewrite_gated(fs, q, good, room);
	rwlock_rdunlock(&fs->gate);
	return r;
}

/* ---- a block ---- */

/* 0: nothing is wrong with it; 1: *ret says what is wanted; 2: it waits in the ring. */
static int look_locked(struct fs *fs, uint64_t ino, uint64_t block, uint8_t *room, struct block_question *ret)
{
	struct leaf l;
	int r = fs_readable(fs) ? -EBUSY : extent_get(fs, ino, block / LEAF_SLOTS, &l);

	if (r < 0)
		return r;
	const struct slot *s = &l.slot[block % LEAF_SLOTS];
	if (!slot_has_data(s))
		return -ENOENT;
	if (slot_cold(s))
		return 0;
	r = verify_slot(fs, &l, (unsigned)(block % LEAF_SLOTS), room);
	if (r == 0)
		return 0;
	if (r != -EBADMSG && r != -EIO && r != -EUCLEAN)
		return r;
	*ret = (struct block_question){
	    .ino = ino, .leaf = block / LEAF_SLOTS, .slot = (unsigned)(block % LEAF_SLOTS), .crc = s->crc, .home = s->home};
	if (s->tiered)
		ret->object = l.object;
	if (s->packed && (snap_is_ino(ino) || snap_shares(fs, l.pack.birth)))
		ret->frame = l.pack.start;
	ret->shared = s->home && (snap_is_ino(ino) || s->shared || snap_shares(fs, s->birth));
	return s->staged ? 2 : 1;
}

static int look(struct fs *fs, uint64_t ino, uint64_t block, uint8_t *room, struct block_question *ret)
{
	struct inode *in;

	if (snap_is_ino(ino))
		return look_locked(fs, ino, block, room, ret);
	int r = icache_rdlock_get(fs->icache, ino, &in);
	if (r < 0)
		return r;
	r = look_locked(fs, ino, block, room, ret);
	icache_rdunlock(fs->icache, ino);
	return r;
}

/* As look(), once it is at home. */
static int look_at_home(struct fs *fs, uint64_t ino, uint64_t block, uint8_t *room, struct block_question *ret)
{
	int r = look(fs, ino, block, room, ret);
	bool more;

	for (unsigned i = 0; r == 2 && i < HOME_POLLS && !atomic_load(&fs->closing); i++) {
		if (fs->config.no_threads) {
			r = fs_home_step(fs, 4096, &more);
			if (r < 0)
				return r;
		} else {
			service_wake(&fs->homer_service);
			usleep(HOME_POLL_US);
		}
		r = look(fs, ino, block, room, ret);
	}
	return r;
}

void repair_say(struct fs *fs, const struct block_question *q, enum repair_from from)
{
	struct repair_status *st = &fs->scrub->repairs;
	uint64_t block = q->leaf * LEAF_SLOTS + q->slot;
	char path[256];

	damage_repaired(fs, q->ino, block);
	atomic_fetch_add(&st->repaired, 1);
	atomic_fetch_add((_Atomic uint64_t *)(void *)((char *)st + froms[from].counter), 1);
	atomic_store(&st->last_ns, clock_real_ns(fs->clock));
	fs_path(fs, q->ino, path, sizeof(path));
	log_warn("repaired: byte %llu of %s (inode %llu), from %s", (unsigned long long)(block * BLOCK_SIZE), path,
		 (unsigned long long)q->ino, froms[from].name);
}

bool repair_is_wanted(struct fs *fs, const struct block_question *q, const uint8_t *block)
{
	if (crc32c(0, block, BLOCK_SIZE) == q->crc)
		return true;
	atomic_fetch_add(&fs->scrub->repairs.lies, 1);
	return false;
}

/* From one source after the other; -EBADMSG: none has it. */
int repair_fetch(struct fs *fs, const struct block_question *q, uint8_t *block, enum repair_from *ret_from)
{
	for (size_t i = 0; i < ARRAY_SIZE(sources); i++)
		if (sources[i].fetch(fs, q, block) == 0 && repair_is_wanted(fs, q, block)) {
			*ret_from = sources[i].from;
			return 0;
		}
	return -EBADMSG;
}

static int try_sources(struct fs *fs, const struct block_question *q, uint8_t *block)
{
	struct frame_given given = {.block = {NULL}};
	enum repair_from from;
	int r = repair_fetch(fs, q, block, &from);

	if (r == 0 && q->frame) {
		given.block[q->slot] = block;
		given.from[q->slot] = from;
		r = repair_frame(fs, q, &given, true);
		if (r == 0 || snap_is_ino(q->ino))
			return r;
		r = 0; /* a home of its own, then */
	}
	if (r == 0)
		r = rewrite(fs, q, block);
	if (r == 0)
		repair_say(fs, q, from);
	return r;
}

static int repair(struct fs *fs, uint64_t ino, uint64_t block)
{
	CLEANUP_FREE void *room = NULL;
	struct block_question q;
	int r = -ESTALE;

	if (posix_memalign(&room, DISK_BLOCK, BLOCK_SIZE))
		return -ENOMEM;
	for (unsigned i = 0; r == -ESTALE && i < CHANGES_MAX; i++) {
		r = look_at_home(fs, ino, block, room, &q);
		if (r > 0)
			r = r == 1 ? try_sources(fs, &q, room) : -EBADMSG;
		else if (r == 0)
			damage_repaired(fs, ino, block);
	}
	if (r == -ENOENT)
		damage_forget(fs, ino, block);
	if (r < 0 && r != -ENOENT) {
		damage_tried(fs, ino, block);
		heal_want(fs);
		atomic_fetch_add(&fs->scrub->repairs.failed, 1);
	}
	return r == -ESTALE ? -EBADMSG : r;
}

/* A snapshot stays while a block of it is worked on: 0, or why there is nothing to be done.  *ret NULL: the inode is a live one.
 */
static int hold(struct fs *fs, uint64_t ino, struct held **ret)
{
	struct kv *kv;

	*ret = NULL;
	if (fs->config.read_only || atomic_load(&fs->failed))
		return -EROFS;
	int r = snap_is_ino(ino) ? snap_get(fs, snap_ino_top(ino), ret, &kv) : 0;
	if (r != -ESTALE)
		return r;
	damage_forget(fs, ino, UINT64_MAX); /* it is gone, and its damage with it */
	return -ENOENT;
}

static void let_go(struct fs *fs, struct held *held)
{
	if (held)
		snap_put(fs, held);
}

int repair_block(struct fs *fs, uint64_t ino, uint64_t block)
{
	struct held *held;
	int r = hold(fs, ino, &held);

	if (r < 0)
		return r;
	r = repair(fs, ino, block);
	let_go(fs, held);
	return r;
}

int repair_look(struct fs *fs, uint64_t ino, uint64_t block, struct block_question *ret)
{
	CLEANUP_FREE void *room = NULL;
	struct held *held;

	if (posix_memalign(&room, DISK_BLOCK, BLOCK_SIZE))
		return -ENOMEM;
	int r = hold(fs, ino, &held);
	if (r < 0)
		return r;
	r = look(fs, ino, block, room, ret);
	let_go(fs, held);
	return r;
}

int repair_given(struct fs *fs, const struct block_question *q, const uint8_t *block, enum repair_from from)
{
	CLEANUP_FREE void *good = NULL; /* as the arena wants it */
	struct held *held;

	if (!repair_is_wanted(fs, q, block) || (q->frame && snap_is_ino(q->ino)))
		return -EBADMSG;
	if (posix_memalign(&good, DISK_BLOCK, BLOCK_SIZE))
		return -ENOMEM;
	memcpy(good, block, BLOCK_SIZE);
	int r = hold(fs, q->ino, &held);
	if (r < 0)
		return r;
	r = rewrite(fs, q, good);
	let_go(fs, held);
	if (r == 0)
		repair_say(fs, q, from);
	return r;
}

int repair_given_frame(struct fs *fs, const struct block_question *q, const struct frame_given *given, bool ask)
{
	struct held *held;
	int r = hold(fs, q->ino, &held);

	if (r < 0)
		return r;
	r = repair_frame(fs, q, given, ask);
	let_go(fs, held);
	return r;
}
