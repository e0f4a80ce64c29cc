/*
 * leaf.c: the bytes of a leaf.  Contiguous homes cost 9 bytes for the whole leaf, so a file written in order takes 16 CRCs
 * and 27 bytes a leaf: 0.14 % of its data.
 */
#include "fs/core/leaf.h"

#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "journal/record.h"

#define LEAF_VERSION   1
#define LEAF_ONE_BIRTH 1u
#define LEAF_TIERED    2u
#define LEAF_SHARED    4u
#define LEAF_PACKED    8u

bool leaf_empty(const struct leaf *l)
{
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if (slot_used(&l->slot[i]))
			return false;
	return true;
}

static uint16_t slots_that(const struct leaf *l, bool (*is)(const struct slot *s))
{
	unsigned mask = 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		mask |= (unsigned)is(&l->slot[i]) << i;
	return (uint16_t)mask;
}

static bool is_tiered(const struct slot *s)
{
	return s->tiered;
}

static bool is_packed(const struct slot *s)
{
	return s->packed;
}

uint16_t leaf_data(const struct leaf *l)
{
	return slots_that(l, slot_has_data);
}

uint16_t leaf_tiered(const struct leaf *l)
{
	return slots_that(l, is_tiered);
}

uint16_t leaf_cold(const struct leaf *l)
{
	return slots_that(l, slot_cold);
}

uint16_t leaf_packed(const struct leaf *l)
{
	return slots_that(l, is_packed);
}

void leaf_settle(struct leaf *l)
{
	if (l->object.id && !leaf_tiered(l))
		l->object = (struct leaf_object){0};
	if (l->pack.n_blocks && !leaf_packed(l))
		l->pack = (struct leaf_pack){0};
}

static uint8_t *put16(uint8_t *p, unsigned v)
{
	return memcpy(p, le16_make((uint16_t)v).b, 2), p + 2;
}
static uint8_t *put32(uint8_t *p, uint32_t v)
{
	return memcpy(p, le32_make(v).b, 4), p + 4;
}
static uint8_t *put64(uint8_t *p, uint64_t v)
{
	return memcpy(p, le64_make(v).b, 8), p + 8;
}

static pointer_t slot_pointer(const struct slot *s, bool staged)
{
	return staged ? s->staged : s->home;
}

/* Runs of one kind of pointer: slots next to each other that point next to each other. */
static uint8_t *put_runs(uint8_t *p, const struct leaf *l, bool staged)
{
	for (unsigned i = 0; i < LEAF_SLOTS;) {
		pointer_t start = slot_pointer(&l->slot[i], staged);
		uint8_t n = 1;

		if (!start) {
			i++;
			continue;
		}
		while (i + n < LEAF_SLOTS && slot_pointer(&l->slot[i + n], staged) == pointer_add(start, n))
			n++;
		p = put64(p, start);
		*p++ = n;
		i += n;
	}
	return p;
}

static uint8_t *put_pack(uint8_t *p, const struct leaf_pack *k, unsigned packed)
{
	p = put64(put16(p, packed), k->start);
	*p++ = (uint8_t)k->n_blocks;
	p = put32(p, k->bytes);
	*p++ = k->algorithm;
	return put32(p, k->birth);
}

size_t leaf_encode(const struct leaf *l, uint8_t *p)
{
	unsigned mapped = 0, unwritten = 0, staged = 0, homed = 0, shared = 0, tiered = leaf_tiered(l), packed = leaf_packed(l);
	bool one_birth = true;
	uint32_t birth = 0;
	uint8_t *at;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		const struct slot *s = &l->slot[i];

		mapped |= (unsigned)slot_used(s) << i;
		unwritten |= (unsigned)s->unwritten << i;
		staged |= (unsigned)(s->staged != 0) << i;
		if (s->home) {
			one_birth = one_birth && (!homed || birth == s->birth);
			birth = s->birth;
			homed |= 1u << i;
			shared |= (unsigned)s->shared << i;
		}
	}
	p[0] = LEAF_VERSION;
	p[1] = (uint8_t)((one_birth ? LEAF_ONE_BIRTH : 0) | (tiered ? LEAF_TIERED : 0) | (shared ? LEAF_SHARED : 0) |
			 (packed ? LEAF_PACKED : 0));
	at = put16(put16(put16(put16(p + 2, mapped), unwritten), staged), homed);
	if (tiered)
		at = put32(put32(put64(put16(at, tiered), l->object.id), l->object.offset), l->object.len);
	if (shared)
		at = put16(at, shared);
	if (packed)
		at = put_pack(at, &l->pack, packed);
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if ((mapped & ~unwritten) >> i & 1)
			at = put32(at, l->slot[i].crc);
	at = put_runs(at, l, false);
	at = put_runs(at, l, true);
	if (one_birth)
		at = put32(at, birth);
	for (unsigned i = 0; i < LEAF_SLOTS && !one_birth; i++)
		if (homed >> i & 1)
			at = put32(at, l->slot[i].birth);
	at = put32(at, crc32c(0, p, (size_t)(at - p)));
	return (size_t)(at - p);
}

struct reader {
	const uint8_t *at, *end;
	bool bad;
};

static const uint8_t *take(struct reader *r, size_t n)
{
	static const uint8_t zeros[16];

	if ((size_t)(r->end - r->at) < n) {
		r->bad = true;
		return zeros;
	}
	r->at += n;
	return r->at - n;
}

static unsigned take16(struct reader *r)
{
	le16 v;
	memcpy(v.b, take(r, 2), 2);
	return le16_get(v);
}
static uint32_t take32(struct reader *r)
{
	le32 v;
	memcpy(v.b, take(r, 4), 4);
	return le32_get(v);
}
static uint64_t take64(struct reader *r)
{
	le64 v;
	memcpy(v.b, take(r, 8), 8);
	return le64_get(v);
}

/* No flags, and all of it on one device of the right kind. */
static bool run_valid(pointer_t start, unsigned n, bool staged)
{
	return start && start == pointer_make(pointer_device(start), pointer_block(start)) &&
	       pointer_block(start) <= POINTER_BLOCK_MAX - (n - 1) && (pointer_device(start) == DEVICE_JOURNAL) == staged;
}

/* Gives each slot of `mask` its pointer, in order. */
static void take_runs(struct reader *r, unsigned mask, bool staged, struct leaf *l)
{
	while (mask && !r->bad) {
		pointer_t start = take64(r);
		unsigned n = *take(r, 1), first = (unsigned)__builtin_ctz(mask);

		if (n == 0 || n > LEAF_SLOTS - first || !run_valid(start, n, staged)) {
			r->bad = true;
			return;
		}
		for (unsigned i = 0; i < n; i++) {
			struct slot *s = &l->slot[first + i];

			if (!(mask >> (first + i) & 1)) {
				r->bad = true;
				return;
			}
			*(staged ? &s->staged : &s->home) = pointer_add(start, i);
			mask &= ~(1u << (first + i));
		}
	}
}

/* The frame of the tiered slots; *ret_tiered is 0 without one. */
static void take_object(struct reader *r, unsigned flags, unsigned *ret_tiered, struct leaf_object *ret)
{
	*ret_tiered = 0;
	*ret = (struct leaf_object){0};
	if (!(flags & LEAF_TIERED))
		return;
	*ret_tiered = take16(r);
	ret->id = take64(r);
	ret->offset = take32(r);
	ret->len = take32(r);
	r->bad |= *ret_tiered == 0 || ret->id == 0 || !record_frame_ok(ret->offset, ret->len);
}

/* No more blocks than its bytes take, and one less than a whole leaf has at most. */
static bool pack_valid(const struct leaf_pack *k)
{
	return k->n_blocks > 0 && k->n_blocks <= PACK_BLOCKS_MAX && run_valid(k->start, k->n_blocks, false) &&
	       div_round_up(k->bytes, BLOCK_SIZE) == k->n_blocks && (k->algorithm == PACK_LZ4 || k->algorithm == PACK_ZSTD) &&
	       k->birth != BIRTH_SUPERSEDED;
}

/* The frame of the packed slots; *ret_packed is 0 without one. */
static void take_pack(struct reader *r, unsigned flags, unsigned *ret_packed, struct leaf_pack *ret)
{
	*ret_packed = 0;
	*ret = (struct leaf_pack){0};
	if (!(flags & LEAF_PACKED))
		return;
	*ret_packed = take16(r);
	ret->start = take64(r);
	ret->n_blocks = *take(r, 1);
	ret->bytes = take32(r);
	ret->algorithm = *take(r, 1);
	ret->birth = take32(r);
	r->bad |= *ret_packed == 0 || !pack_valid(ret);
}

int leaf_decode(const uint8_t *p, size_t len, struct leaf *ret)
{
	struct reader r = {.at = p, .end = p + len};
	struct leaf l = {0};
	unsigned tiered, packed;
	le32 crc;

	if (len < 18 || len > LEAF_BYTES_MAX)
		return -EUCLEAN;
	r.end -= 4;
	memcpy(crc.b, r.end, 4);
	if (le32_get(crc) != crc32c(0, p, len - 4))
		return -EBADMSG;
	if (*take(&r, 1) != LEAF_VERSION)
		return -EUCLEAN;
	unsigned flags = *take(&r, 1);
	bool one_birth = flags & LEAF_ONE_BIRTH;
	unsigned mapped = take16(&r), unwritten = take16(&r), staged = take16(&r), homed = take16(&r);
	take_object(&r, flags, &tiered, &l.object);
	unsigned shared = flags & LEAF_SHARED ? take16(&r) : 0;
	take_pack(&r, flags, &packed, &l.pack);
	if ((flags & ~(LEAF_ONE_BIRTH | LEAF_TIERED | LEAF_SHARED | LEAF_PACKED)) || (unwritten & ~mapped) ||
	    ((staged | tiered | packed) & unwritten) || (packed & (staged | homed)) ||
	    mapped != (unwritten | staged | homed | tiered | packed) || !(flags & LEAF_SHARED) != !shared || (shared & ~homed))
		return -EUCLEAN;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		l.slot[i].unwritten = unwritten >> i & 1;
		l.slot[i].tiered = tiered >> i & 1;
		l.slot[i].packed = packed >> i & 1;
		l.slot[i].shared = shared >> i & 1;
		if ((mapped & ~unwritten) >> i & 1)
			l.slot[i].crc = take32(&r);
	}
	take_runs(&r, homed, false, &l);
	take_runs(&r, staged, true, &l);
	uint32_t birth = one_birth ? take32(&r) : 0;
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if (homed >> i & 1)
			l.slot[i].birth = one_birth ? birth : take32(&r);
	if (r.bad || r.at != r.end)
		return -EUCLEAN;
	*ret = l;
	return 0;
}
