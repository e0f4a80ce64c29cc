/*
 * verify.c: a leaf's blocks read from where they are, past every cache, and compared with the CRCs of their slots.
 *
 * The file's stripe is held shared meanwhile, as a reader holds it: what is mapped cannot be moved or used again.  Blocks that
 * lie one after the other are read in one go; one by one only where that fails, so that each bad one is known.  Of a slot that is
 * staged the copy in the ring counts, and what its home holds is dead; a cold slot has nothing here.  Packed slots are unpacked
 * together; when one of them is bad, all blocks of their frame are suspect.
 */
#include <errno.h>

#include "base/crc32c.h"
#include "fs/core/scrub/impl.h"
#include "fs/core/squeeze/squeeze.h"

static pointer_t place_of(const struct slot *s)
{
	return slot_has_data(s) ? s->staged ? s->staged : s->home : 0;
}

static int read_run(struct fs *fs, pointer_t at, uint32_t n, void *p)
{
	if (pointer_device(at) == DEVICE_JOURNAL)
		return journal_read(fs->journal, pointer_block(at), n, p);
	return arena_read(fs->arena, at, n, p);
}

static int verify_packed(struct fs *fs, const struct leaf *l, unsigned i, uint8_t *block)
{
	uint16_t good;
	int r = packed_verify(fs, l, (uint16_t)(1u << i), i, block, &good);

	return r < 0 ? r : good ? 0 : -EBADMSG;
}

int verify_slot(struct fs *fs, const struct leaf *l, unsigned i, uint8_t *block)
{
	const struct slot *s = &l->slot[i];
	int r = s->packed ? verify_packed(fs, l, i, block) : read_run(fs, place_of(s), 1, block);

	if (r < 0)
		return r;
	return crc32c(0, block, BLOCK_SIZE) == s->crc ? 0 : -EBADMSG;
}

static bool is_damage(int r)
{
	return r == -EBADMSG || r == -EIO || r == -EUCLEAN;
}

int verify_failed(struct fs *fs, uint64_t ino, uint64_t block, const struct leaf *l, int why)
{
	const struct slot *s = l ? &l->slot[block % LEAF_SLOTS] : NULL;

	if (damage_note(fs, ino, block))
		heal_want(fs);
	for (uint32_t i = 0; s && s->packed && i < l->pack.n_blocks; i++)
		quarantine_add(fs,
			       &(struct quarantined){
				   .home = pointer_add(l->pack.start, i), .ino = ino, .block = block, .birth = l->pack.birth});
	if (s && s->home && !s->staged)
		quarantine_add(
		    fs, &(struct quarantined){
			    .home = s->home, .ino = ino, .block = block, .birth = s->shared ? QUARANTINE_SHARED : s->birth});
	return fs_damaged(fs, ino, block * BLOCK_SIZE,
			  why == -EBADMSG ? "data checksum"
			  : why == -EIO   ? "unreadable data"
					  : "block pointer");
}

/* Slots of `mask` from `first` on whose blocks lie one after the other. */
static unsigned run_length(const struct leaf *l, uint16_t mask, unsigned first)
{
	pointer_t at = place_of(&l->slot[first]);
	unsigned n = 1;

	while (first + n < LEAF_SLOTS && (mask >> (first + n) & 1) && place_of(&l->slot[first + n]) == pointer_add(at, n))
		n++;
	return n;
}

static int check_one(struct fs *fs, uint64_t ino, uint64_t leaf, unsigned i, uint8_t *room, struct leaf_verdict *v)
{
	const struct slot *s = &v->leaf.slot[i];
	uint64_t block = leaf * LEAF_SLOTS + i;
	int r = verify_slot(fs, &v->leaf, i, room);

	if (r < 0 && !is_damage(r))
		return r;
	v->checked |= (uint16_t)(1u << i);
	if (r == 0) {
		if (damage_is_bad(fs, ino, block)) { /* it could not be read for a while */
			damage_repaired(fs, ino, block);
			quarantine_remove(fs, s->home);
		}
		return 0;
	}
	v->bad |= (uint16_t)(1u << i);
	verify_failed(fs, ino, block, &v->leaf, r);
	return 0;
}

static bool run_is_good(const struct leaf_verdict *v, unsigned first, unsigned n, const uint8_t *room)
{
	for (unsigned i = 0; i < n; i++)
		if (crc32c(0, room + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) != v->leaf.slot[first + i].crc)
			return false;
	return true;
}

static int check_run(struct fs *fs, uint64_t ino, uint64_t leaf, unsigned first, unsigned n, uint8_t *room,
		     struct leaf_verdict *v)
{
	struct damage_sum known;
	int r = read_run(fs, place_of(&v->leaf.slot[first]), n, room);

	if (r < 0 && !is_damage(r))
		return r;
	damage_get_sum(fs, &known);
	if (r == 0 && !known.n_bad && run_is_good(v, first, n, room)) {
		v->checked |= (uint16_t)(((1u << n) - 1) << first);
		return 0;
	}
	for (unsigned i = first; i < first + n; i++) {
		r = check_one(fs, ino, leaf, i, room, v);
		if (r < 0)
			return r;
	}
	return 0;
}

/* It could not be read for a while. */
static void frame_is_good(struct fs *fs, uint64_t ino, uint64_t leaf, const struct leaf *l, uint16_t packed)
{
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if ((packed >> i & 1) && damage_is_bad(fs, ino, leaf * LEAF_SLOTS + i))
			damage_repaired(fs, ino, leaf * LEAF_SLOTS + i);
	for (uint32_t i = 0; i < l->pack.n_blocks; i++)
		quarantine_remove(fs, pointer_add(l->pack.start, i));
}

static int check_packed(struct fs *fs, uint64_t ino, uint64_t leaf, uint16_t packed, uint8_t *room, struct leaf_verdict *v)
{
	uint16_t good;
	struct damage_sum known;
	int r = packed_verify(fs, &v->leaf, packed, 0, room, &good);

	if (r < 0 && !is_damage(r))
		return r;
	v->checked |= packed;
	v->bad |= packed & (uint16_t)~good;
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if ((packed & (uint16_t)~good) >> i & 1)
			verify_failed(fs, ino, leaf * LEAF_SLOTS + i, &v->leaf, r < 0 ? r : -EBADMSG);
	damage_get_sum(fs, &known);
	if (good == packed && packed == leaf_packed(&v->leaf) && known.n_bad)
		frame_is_good(fs, ino, leaf, &v->leaf, packed);
	return 0;
}

int slots_verify(struct fs *fs, uint64_t ino, uint64_t leaf, uint16_t mask, uint8_t *room, struct leaf_verdict *v)
{
	uint16_t packed = mask & leaf_packed(&v->leaf);
	int r = packed ? check_packed(fs, ino, leaf, packed, room, v) : 0;

	for (unsigned i = 0, n; i < LEAF_SLOTS && r == 0; i += n) {
		n = 1;
		if (!(mask >> i & 1) || !place_of(&v->leaf.slot[i]))
			continue;
		n = run_length(&v->leaf, mask, i);
		r = check_run(fs, ino, leaf, i, n, room, v);
	}
	return r;
}

static int verify_locked(struct fs *fs, uint64_t ino, uint64_t leaf, uint8_t *room, struct leaf_verdict *v)
{
	int r = extent_get(fs, ino, leaf, &v->leaf);

	if (r == -EBADMSG) { /* said; what it maps nobody can tell */
		v->bad_row = true;
		damage_note(fs, ino, leaf * LEAF_SLOTS);
		return 0;
	}
	return r < 0 ? r : slots_verify(fs, ino, leaf, UINT16_MAX, room, v);
}

int leaf_verify(struct fs *fs, uint64_t ino, uint64_t leaf, uint8_t *room, struct leaf_verdict *ret)
{
	struct inode *in;

	*ret = (struct leaf_verdict){0};
	int r = icache_rdlock_get(fs->icache, ino, &in);
	if (r < 0)
		return r;
	/* On a follower behind its fence a home may hold zeros for what is still to come. */
	r = fs_readable(fs) ? -EBUSY : verify_locked(fs, ino, leaf, room, ret);
	icache_rdunlock(fs->icache, ino);
	return r;
}
