/*
 * diverged_leaf.c: a leaf is kept aside: the blocks that go, and a line that says of every slot what became of it.
 *
 * What the leader has the same is no loss.  Neither is what this resync has taken before, for it was kept then; so a leaf may be
 * kept in parts, each with a line of its own.  Data is read from where it is now, which may be elsewhere than when the resync
 * began: a row of the leader that says the same of it may have another object.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "fs/core/replica/diverged_impl.h"
#include "fs/core/tier/tier.h"

static int keep_blocks(struct diverged *d, struct slice key, unsigned slot, unsigned n)
{
	uint64_t off = (row_leaf(key) * LEAF_SLOTS + slot) * BLOCK_SIZE;
	int r = diverged_open_tail(d);

	if (r == 0)
		r = d->sink->ops->put_data(d->sink, row_ino(key), off, d->data + (size_t)slot * BLOCK_SIZE,
					   (size_t)n * BLOCK_SIZE);
	if (r == 0)
		d->dirty = true;
	return r;
}

static void count_blocks(struct diverged *d, uint64_t ino, uint16_t kept, uint16_t lost)
{
	d->bytes += (uint64_t)__builtin_popcount(kept) * BLOCK_SIZE;
	d->lost_bytes += (uint64_t)__builtin_popcount(lost) * BLOCK_SIZE;
	if (!kept)
		return;
	d->files += d->last_ino != ino;
	d->last_ino = ino;
}

/* Runs of slots in `mask` as [[offset, bytes], ...] in o; with `keep` their blocks go to the sink, too. */
static int tell_slots(struct diverged *d, json_t *o, const char *name, struct slice key, uint16_t mask, bool keep)
{
	json_t *list = json_array();
	int r = 0;

	for (unsigned i = 0, n; i < LEAF_SLOTS && r == 0; i += n) {
		for (n = 0; i + n < LEAF_SLOTS && (mask >> (i + n) & 1); n++)
			;
		if (n == 0) {
			n = 1;
			continue;
		}
		json_array_append_new(list, json_pack("[I, I]", (json_int_t)((row_leaf(key) * LEAF_SLOTS + i) * BLOCK_SIZE),
						      (json_int_t)(n * BLOCK_SIZE)));
		r = keep ? keep_blocks(d, key, i, n) : 0;
	}
	if (mask)
		json_object_set(o, name, list);
	json_decref(list);
	return r;
}

/* Slots of `cold` whose data was recalled, and is what their CRC says, to their places. */
static uint16_t take_recalled(struct diverged *d, const struct leaf *l, uint16_t cold)
{
	uint16_t good = 0;

	if (!cold || !recalled_get(d->fs, &l->object, cold, d->data))
		return 0;
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if ((cold >> i & 1) && crc32c(0, d->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) == l->slot[i].crc)
			good |= (uint16_t)(1u << i);
	return good;
}

/* Where the data of slots that were not recalled is. */
static int tell_cold(struct diverged *d, json_t *o, struct slice key, const struct leaf *l, uint16_t cold)
{
	if (!cold)
		return 0;
	line_object(o, l->object.id);
	json_object_set_new(o, "frame", json_pack("[I, I]", (json_int_t)l->object.offset, (json_int_t)l->object.len));
	d->cold_bytes += (uint64_t)__builtin_popcount(cold) * BLOCK_SIZE;
	return tell_slots(d, o, "cold", key, cold, false);
}

/* A leaf on its way to be kept. */
struct leaving {
	struct leaf here;    /* as it is: where data is may have changed since the resync began */
	struct leaf_row was; /* as it was then */
	uint16_t mask;       /* slots with data that goes, and is here still: what went before was kept then */
	bool all;            /* none did */
	uint16_t good, lost; /* of mask */
};

/* One that cannot be read by now counts as it was. */
static int find_leaving(struct diverged *d, const struct row *r, const struct leaf *old, struct leaving *ret)
{
	int e = lcache_get(d->fs->lcache, row_ino(r->key), row_leaf(r->key), &ret->here);

	if (e == -EUCLEAN || e == -EBADMSG)
		ret->here = *old;
	else if (e < 0)
		return e;
	const struct leaf_row is = leaf_row_of(&ret->here);
	ret->was = leaf_row_of(old);
	ret->all = leaf_row_equal(&ret->was, &is);
	ret->mask = leaf_row_going(&ret->was, r) & leaf_row_same(&ret->was, &is);
	return 0;
}

/* Lists of its slots, by what is known of them; data to the sink. */
static int keep_slots(struct diverged *d, json_t *o, struct slice key, struct leaving *l)
{
	uint16_t cold = l->mask & leaf_cold(&l->here);

	l->good = resync_read_homes(d->fs, &l->here, l->mask, d->data) | take_recalled(d, &l->here, cold);
	cold &= (uint16_t)~l->good;
	l->lost = l->mask & (uint16_t)~l->good & (uint16_t)~cold;
	int e = tell_slots(d, o, "data", key, l->good, true);
	if (e == 0)
		e = tell_cold(d, o, key, &l->here, cold);
	if (e == 0)
		e = tell_slots(d, o, "lost", key, l->lost, false);
	if (e == 0 && l->all)
		e = tell_slots(d, o, "unwritten", key, l->was.unwritten, false);
	return e;
}

static json_t *begin_line(struct diverged *d, const struct row *r)
{
	json_t *o = line_new(r->key, !r->value.p);
	struct inode in;

	line_int(o, "ino", row_ino(r->key));
	if (diverged_inode_before(d, row_ino(r->key), &in) ==
	    0) /* its own row may be the same as the leader's, and not be kept */
		line_int(o, "size", in.size);
	line_int(o, "offset", row_leaf(r->key) * LEAF_SLOTS * BLOCK_SIZE);
	return o;
}

/* As its bytes are. */
static int keep_unreadable(struct diverged *d, const struct row *r)
{
	int e = diverged_still_here(d, r->key);

	if (e <= 0)
		return e;
	json_t *o = begin_line(d, r);
	line_hex(o, "unreadable", (struct slice){d->old.p, d->old.len});
	line_path(d, o, r->key);
	return diverged_put_line(d, o);
}

int diverged_keep_leaf(struct diverged *d, const struct row *r)
{
	struct leaving l = {.mask = 0};
	struct leaf old;

	if (leaf_decode(d->old.p, d->old.len, &old) < 0)
		return keep_unreadable(d, r);
	int e = find_leaving(d, r, &old, &l);
	if (e < 0 || (!l.all && !l.mask))
		return e;
	json_t *o = begin_line(d, r);
	e = keep_slots(d, o, r->key, &l);
	if (e < 0) {
		json_decref(o);
		return e;
	}
	line_path(d, o, r->key);
	e = diverged_put_line(d, o);
	if (e == 0)
		count_blocks(d, row_ino(r->key), l.good, l.lost);
	return e;
}
