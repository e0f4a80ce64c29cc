/* frames.c: see frames.h. */
#include "fs/core/archive/frames.h"

#include <errno.h>
#include <string.h>

#include "fs/core/replica/rows.h"

#define BATCH_LOGICAL_MAX 0x100000u
#define BATCH_BLOCKS_MAX  1024u
#define DATA_BLOCKS_MAX   512u
#define VALUE_MAX         0x20000u

/* ---- writing ---- */

static void align(struct buf *body)
{
	static const uint8_t zeros[FRAME_ALIGN];

	if (body->len % FRAME_ALIGN)
		buf_put(body, zeros, FRAME_ALIGN - body->len % FRAME_ALIGN);
}

void frames_put_batch(struct buf *body, const struct shipped_batch *b, uint32_t n_data)
{
	const struct frame_batch f = {
	    .magic = le32_make(FRAME_BATCH),
	    .n_data = le32_make(n_data),
	    .seq = le64_make(b->seq),
	    .epoch = le64_make(b->epoch),
	    .incarnation = le64_make(b->incarnation),
	    .prev_hash = le64_make(b->prev_hash),
	    .hash = le64_make(b->hash),
	    .time_ns = le64_make((uint64_t)b->time_ns),
	    .n_records = le32_make(b->n_records),
	    .logical_bytes = le32_make(b->logical_bytes),
	    .n_payload = le32_make(b->n_payload),
	};

	buf_put(body, &f, sizeof(f));
	buf_put(body, b->logical, b->logical_bytes);
	if (b->n_payload)
		buf_put(body, b->payload, (size_t)b->n_payload * BLOCK_SIZE);
	align(body);
}

void frames_put_data(struct buf *body, const struct shipped_data *d)
{
	struct frame_data f = {.magic = le32_make(FRAME_DATA),
			       .index = le32_make(d->index),
			       .n_blocks = le32_make(d->n_blocks),
			       .fence = le64_make(d->fence)};

	memcpy(f.superseded, d->superseded, sizeof(f.superseded));
	buf_put(body, &f, sizeof(f));
	buf_put(body, d->blocks, (size_t)d->n_blocks * BLOCK_SIZE);
	align(body);
}

static uint32_t blocks_of(const struct leaf_data *d)
{
	return (uint32_t)__builtin_popcount(d->wanted & (uint16_t)~d->superseded);
}

void frames_put_row(struct buf *body, const struct row *r, const struct leaf_data *d, const uint8_t *blocks)
{
	const struct frame_row f = {.magic = le32_make(FRAME_ROW),
				    .key_len = le16_make((uint16_t)r->key.len),
				    .wanted = le16_make(d ? d->wanted : 0),
				    .superseded = le16_make(d ? d->superseded : 0),
				    .value_len = le32_make((uint32_t)r->value.len)};

	buf_put(body, &f, sizeof(f));
	buf_put(body, r->key.p, r->key.len);
	if (r->value.len)
		buf_put(body, r->value.p, r->value.len);
	if (d && blocks_of(d))
		buf_put(body, blocks, (size_t)blocks_of(d) * BLOCK_SIZE);
	align(body);
}

void frames_set_sum(struct buf *body, size_t at, uint64_t sum)
{
	struct frame_batch f;

	if (body->failed)
		return;
	memcpy(&f, body->p + at, sizeof(f));
	f.sum = le64_make(sum);
	f.flags = le32_make(FRAME_HAS_SUM);
	memcpy(body->p + at, &f, sizeof(f));
}

/* ---- reading ---- */

static int read_batch(struct slice rest, struct frame *ret, size_t *ret_len)
{
	struct frame_batch f;

	if (rest.len < sizeof(f))
		return -EUCLEAN;
	memcpy(&f, rest.p, sizeof(f));
	const uint8_t *p = (const uint8_t *)rest.p + sizeof(f);
	uint32_t logical = le32_get(f.logical_bytes), payload = le32_get(f.n_payload), flags = le32_get(f.flags);
	size_t room = rest.len - sizeof(f);
	if (logical > BATCH_LOGICAL_MAX || logical % FRAME_ALIGN || payload > BATCH_BLOCKS_MAX || flags & ~FRAME_HAS_SUM ||
	    room < logical || room - logical < (size_t)payload * BLOCK_SIZE)
		return -EUCLEAN;
	*ret = (struct frame){
	    .kind = FRAME_IS_BATCH,
	    .batch = {.seq = le64_get(f.seq),
		      .epoch = le64_get(f.epoch),
		      .incarnation = le64_get(f.incarnation),
		      .prev_hash = le64_get(f.prev_hash),
		      .hash = le64_get(f.hash),
		      .time_ns = (int64_t)le64_get(f.time_ns),
		      .n_records = le32_get(f.n_records),
		      .logical_bytes = logical,
		      .n_payload = payload,
		      .logical = p,
		      .payload = p + logical},
	    .n_data = le32_get(f.n_data),
	    .has_sum = flags & FRAME_HAS_SUM,
	    .sum = le64_get(f.sum),
	};
	*ret_len = sizeof(f) + logical + (size_t)payload * BLOCK_SIZE;
	return 0;
}

static int read_data(struct slice rest, struct frame *ret, size_t *ret_len)
{
	struct frame_data f;

	if (rest.len < sizeof(f))
		return -EUCLEAN;
	memcpy(&f, rest.p, sizeof(f));
	uint32_t n = le32_get(f.n_blocks);
	if (n == 0 || n > DATA_BLOCKS_MAX || le32_get(f.zero) || rest.len - sizeof(f) < (size_t)n * BLOCK_SIZE)
		return -EUCLEAN;
	*ret = (struct frame){.kind = FRAME_IS_DATA,
			      .data = {.index = le32_get(f.index),
				       .n_blocks = n,
				       .blocks = (const uint8_t *)rest.p + sizeof(f),
				       .fence = le64_get(f.fence)}};
	memcpy(ret->data.superseded, f.superseded, sizeof(f.superseded));
	*ret_len = sizeof(f) + (size_t)n * BLOCK_SIZE;
	return 0;
}

/* An E row's data belongs to its leaf; the CRCs of what is wanted are those of the row. */
static int read_leaf(struct frame *f)
{
	struct leaf_row l;

	if (!f->leaf.wanted)
		return f->leaf.superseded ? -EUCLEAN : 0;
	if (row_table(f->row.key) != TABLE_EXTENT || f->row.key.len != 17 || leaf_row_decode(f->row.value, &l) < 0 ||
	    f->leaf.wanted & ~leaf_row_data(&l) || f->leaf.superseded & ~f->leaf.wanted)
		return -EUCLEAN;
	f->leaf.ino = row_ino(f->row.key);
	f->leaf.leaf = row_leaf(f->row.key);
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		f->leaf.crc[i] = f->leaf.wanted >> i & 1 ? l.crc[i] : 0;
	return 0;
}

static int read_row(struct slice rest, struct frame *ret, size_t *ret_len)
{
	struct frame_row f;

	if (rest.len < sizeof(f))
		return -EUCLEAN;
	memcpy(&f, rest.p, sizeof(f));
	const uint8_t *p = (const uint8_t *)rest.p + sizeof(f);
	size_t key = le16_get(f.key_len), value = le32_get(f.value_len), room = rest.len - sizeof(f);
	if (key == 0 || value > VALUE_MAX || le16_get(f.zero) || room < key + value)
		return -EUCLEAN;
	*ret = (struct frame){.kind = FRAME_IS_ROW,
			      .row = {.key = {p, key}, .value = {p + key, value}},
			      .leaf = {.wanted = le16_get(f.wanted), .superseded = le16_get(f.superseded)},
			      .blocks = p + key + value};
	int r = read_leaf(ret);
	size_t blocks = r == 0 ? (size_t)blocks_of(&ret->leaf) * BLOCK_SIZE : 0;
	if (r == 0 && room - key - value < blocks)
		r = -EUCLEAN;
	*ret_len = sizeof(f) + key + value + blocks;
	return r;
}

int frames_next(struct slice body, size_t *at, struct frame *ret)
{
	const struct slice rest = {(const uint8_t *)body.p + *at, body.len - *at};
	le32 magic;
	size_t len;
	int r;

	if (rest.len == 0) {
		*ret = (struct frame){.kind = FRAME_END};
		return 0;
	}
	if (rest.len < sizeof(magic))
		return -EUCLEAN;
	memcpy(&magic, rest.p, sizeof(magic));
	switch (le32_get(magic)) {
	case FRAME_BATCH:
		r = read_batch(rest, ret, &len);
		break;
	case FRAME_DATA:
		r = read_data(rest, ret, &len);
		break;
	case FRAME_ROW:
		r = read_row(rest, ret, &len);
		break;
	default:
		r = -EUCLEAN;
	}
	if (r < 0)
		return r;
	len = (len + FRAME_ALIGN - 1) & ~(size_t)(FRAME_ALIGN - 1);
	if (len > rest.len)
		return -EUCLEAN;
	*at += len;
	return 0;
}
