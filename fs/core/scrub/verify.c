/*
 * verify.c: a leaf's blocks read from where they are, past every cache, and compared with the CRCs of their slots.
 *
 * The file's stripe is held shared meanwhile, as a reader holds it: what is mapped cannot be moved or used again.  Blocks that
 * lie one after the other are read in one go; one by one only where that fails, so that each bad one is known.  Of a slot that is
 * staged the copy in the ring counts, and what its home holds is dead; a cold slot has nothing here.
 */
#include <errno.h>

#include "base/crc32c.h"
#include "fs/core/scrub/impl.h"

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

int verify_slot(struct fs *fs, const struct slot *s, uint8_t *block)
{
	int r = read_run(fs, place_of(s), 1, block);

	if (r < 0)
		return r;
	return crc32c(0, block, BLOCK_SIZE) == s->crc ? 0 : -EBADMSG;
}

static bool is_damage(int r)
{
	return r == -EBADMSG || r == -EIO || r == -EUCLEAN;
}

int verify_failed(struct fs *fs, uint64_t ino, uint64_t block, const struct slot *s, int why)
{
	if (damage_note(fs, ino, block))
		heal_want(fs);
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
	int r = verify_slot(fs, s, room);

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
	verify_failed(fs, ino, block, s, r);
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

int slots_verify(struct fs *fs, uint64_t ino, uint64_t leaf, uint16_t mask, uint8_t *room, struct leaf_verdict *v)
{
	int r = 0;

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
