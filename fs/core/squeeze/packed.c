/*
 * packed.c: reading packed slots.
 *
 * A read of whole leaves unpacks each frame once.  For readers that come in smaller steps the frames read last stay in memory,
 * unpacked, in FRAMES_KEPT places that a frame's first block chooses among.  Nobody takes a frame out when its blocks are freed:
 * data is served only with the CRC that the slot wants, so one that is out of date is noticed, and read anew, before it counts as
 * damage.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "fs/core/squeeze/squeeze.h"

#define FRAMES_KEPT 16u

struct place {
	struct mutex lock;
	/* guarded by lock */
	struct leaf_pack frame; /* n_blocks 0: none is here */
	struct codec *codec;    /* owned, as the next two; made when first needed */
	uint8_t *raw;           /* PACK_BLOCKS_MAX blocks, aligned */
	uint8_t *data;          /* LEAF_DATA_BYTES */
};
struct packed {
	struct place place[FRAMES_KEPT];
};

int packed_open(struct fs *fs)
{
	fs->packed = calloc(1, sizeof(*fs->packed));
	if (!fs->packed)
		return -ENOMEM;
	for (unsigned i = 0; i < FRAMES_KEPT; i++)
		mutex_init(&fs->packed->place[i].lock);
	return 0;
}

void packed_close(struct fs *fs) NO_THREAD_SAFETY
{
	if (!fs->packed)
		return;
	for (unsigned i = 0; i < FRAMES_KEPT; i++) {
		struct place *w = &fs->packed->place[i];

		mutex_destroy(&w->lock);
		codec_free(w->codec);
		free(w->raw);
		free(w->data);
	}
	free(fs->packed);
	fs->packed = NULL;
}

static struct place *place_of(struct fs *fs, const struct leaf_pack *k)
{
	return &fs->packed->place[pointer_block(k->start) * UINT64_C(0x9e3779b97f4a7c15) >> 60];
}
_Static_assert(FRAMES_KEPT == 1u << (64 - 60), "");

static int prepare(struct place *w) REQUIRES(w->lock)
{
	if (!w->codec && codec_new(&w->codec) < 0)
		return -ENOMEM;
	if (!w->raw && posix_memalign((void **)&w->raw, DISK_BLOCK, PACK_BLOCKS_MAX * BLOCK_SIZE))
		return -ENOMEM;
	if (!w->data)
		w->data = malloc(LEAF_DATA_BYTES);
	return w->data ? 0 : -ENOMEM;
}

static int load(struct fs *fs, struct place *w, const struct leaf_pack *k) REQUIRES(w->lock)
{
	int r = prepare(w);

	w->frame.n_blocks = 0;
	if (r == 0)
		r = arena_read(fs->arena, k->start, k->n_blocks, w->raw);
	if (r == 0)
		r = codec_unpack(w->codec, k->algorithm, w->raw, k->bytes, w->data);
	if (r == 0)
		w->frame = *k;
	return r;
}

static bool is_here(const struct place *w, const struct leaf_pack *k) REQUIRES(w->lock)
{
	return w->frame.n_blocks == k->n_blocks && w->frame.start == k->start && w->frame.bytes == k->bytes &&
	       w->frame.algorithm == k->algorithm;
}

static uint16_t count_good(const struct place *w, const struct leaf *l, uint16_t mask) REQUIRES(w->lock)
{
	uint16_t good = 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if ((mask >> i & 1) && crc32c(0, w->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) == l->slot[i].crc)
			good |= (uint16_t)(1u << i);
	return good;
}

static int get_locked(struct fs *fs, struct place *w, const struct leaf *l, uint16_t mask, bool fresh, uint16_t *ret_good)
    REQUIRES(w->lock)
{
	uint16_t good = 0;
	int r = 0;

	if (!fresh && is_here(w, &l->pack))
		good = count_good(w, l, mask);
	if (good != mask) {
		r = load(fs, w, &l->pack);
		good = r == 0 ? count_good(w, l, mask) : 0;
	}
	*ret_good = good;
	return r;
}

static int get(struct fs *fs, const struct leaf *l, uint16_t mask, unsigned first, uint8_t *blocks, bool fresh,
	       uint16_t *ret_good)
{
	struct place *w = place_of(fs, &l->pack);

	mutex_lock(&w->lock);
	int r = get_locked(fs, w, l, mask, fresh, ret_good);
	for (unsigned i = first; r == 0 && i < LEAF_SLOTS; i++)
		if (*ret_good >> i & 1)
			memcpy(blocks + (size_t)(i - first) * BLOCK_SIZE, w->data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
	mutex_unlock(&w->lock);
	return r;
}

int packed_read(struct fs *fs, const struct leaf *l, uint16_t mask, unsigned first, uint8_t *blocks, uint16_t *ret_good)
{
	return get(fs, l, mask, first, blocks, false, ret_good);
}

int packed_verify(struct fs *fs, const struct leaf *l, uint16_t mask, unsigned first, uint8_t *blocks, uint16_t *ret_good)
{
	return get(fs, l, mask, first, blocks, true, ret_good);
}
