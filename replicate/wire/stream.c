/* stream.c: the stream from a leader to a follower and what comes back: BATCH, DATA, ACK, STATE, PING and PONG. */
#include "replicate/wire/pieces.h"

#include <assert.h>
#include <errno.h>

#define DATA_INDEX_MAX (BATCH_LOGICAL_MAX_BYTES / sizeof(struct record_header))

static bool batch_ok(const struct shipped_batch *m)
{
	return m->seq >= 1 && m->n_records >= 1 && m->logical_bytes <= BATCH_LOGICAL_MAX_BYTES && m->logical_bytes % 8 == 0 &&
	       m->n_records <= m->logical_bytes / sizeof(struct record_header) && m->n_payload <= BATCH_PAYLOAD_MAX_BLOCKS;
}

void batch_put(struct buf *out, const struct shipped_batch *m)
{
	const struct wire_batch w = {
	    .seq = le64_make(m->seq),
	    .epoch = le64_make(m->epoch),
	    .incarnation = le64_make(m->incarnation),
	    .prev_hash = le64_make(m->prev_hash),
	    .hash = le64_make(m->hash),
	    .time_ns = le64_make((uint64_t)m->time_ns),
	    .n_records = le32_make(m->n_records),
	    .logical_bytes = le32_make(m->logical_bytes),
	    .n_payload = le32_make(m->n_payload),
	};

	assert(batch_ok(m));
	buf_put(out, &w, sizeof(w));
	buf_put(out, m->logical, m->logical_bytes);
	buf_put(out, m->payload, (size_t)m->n_payload * BLOCK_SIZE);
}

int batch_get(struct slice body, struct shipped_batch *ret)
{
	struct slice left = body;
	const struct wire_batch *w = take(&left, sizeof(*w));

	assert((uintptr_t)body.p % 8 == 0);
	if (!w || le32_get(w->zero))
		return -EUCLEAN;
	struct shipped_batch m = {
	    .seq = le64_get(w->seq),
	    .epoch = le64_get(w->epoch),
	    .incarnation = le64_get(w->incarnation),
	    .prev_hash = le64_get(w->prev_hash),
	    .hash = le64_get(w->hash),
	    .time_ns = (int64_t)le64_get(w->time_ns),
	    .n_records = le32_get(w->n_records),
	    .logical_bytes = le32_get(w->logical_bytes),
	    .n_payload = le32_get(w->n_payload),
	};
	if (!batch_ok(&m) || left.len != m.logical_bytes + (size_t)m.n_payload * BLOCK_SIZE)
		return -EUCLEAN;
	m.logical = take(&left, m.logical_bytes);
	m.payload = left.p;
	*ret = m;
	return 0;
}

static bool bit_is_set(const uint8_t *bits, uint32_t i)
{
	return bits[i / 8] & 1u << i % 8;
}

/* No bit behind the last block, and a fence when there is any; a block that is superseded is zeros. */
static bool data_ok(const struct shipped_data *m)
{
	bool any = !is_zero(m->superseded, sizeof(m->superseded));

	if (m->index > DATA_INDEX_MAX || m->n_blocks < 1 || m->n_blocks > RECORD_WRITE_BLOCKS_MAX || any != (m->fence != 0))
		return false;
	for (uint32_t i = 0; any && i < RECORD_WRITE_BLOCKS_MAX; i++)
		if (bit_is_set(m->superseded, i) &&
		    (i >= m->n_blocks || !is_zero(m->blocks + (size_t)i * BLOCK_SIZE, BLOCK_SIZE)))
			return false;
	return true;
}

void data_put(struct buf *out, const struct shipped_data *m)
{
	struct wire_data w = {.index = le32_make(m->index), .n_blocks = le32_make(m->n_blocks), .fence = le64_make(m->fence)};

	assert(data_ok(m));
	memcpy(w.superseded, m->superseded, sizeof(w.superseded));
	buf_put(out, &w, sizeof(w));
	buf_put(out, m->blocks, (size_t)m->n_blocks * BLOCK_SIZE);
}

int data_get(struct slice body, struct shipped_data *ret)
{
	struct slice left = body;
	const struct wire_data *w = take(&left, sizeof(*w));

	if (!w || left.len != (size_t)le32_get(w->n_blocks) * BLOCK_SIZE)
		return -EUCLEAN;
	struct shipped_data m = {
	    .index = le32_get(w->index), .n_blocks = le32_get(w->n_blocks), .blocks = left.p, .fence = le64_get(w->fence)};
	memcpy(m.superseded, w->superseded, sizeof(m.superseded));
	if (!data_ok(&m))
		return -EUCLEAN;
	*ret = m;
	return 0;
}

void ack_put(struct buf *out, const struct ack *m)
{
	const struct wire_ack w = {le64_make(m->durable_seq), le64_make(m->applied_seq)};

	assert(m->durable_seq <= m->applied_seq);
	buf_put(out, &w, sizeof(w));
}

int ack_get(struct slice body, struct ack *ret)
{
	const struct wire_ack *w = whole(body, sizeof(*w));

	if (!w || le64_get(w->durable_seq) > le64_get(w->applied_seq))
		return -EUCLEAN;
	*ret = (struct ack){le64_get(w->durable_seq), le64_get(w->applied_seq)};
	return 0;
}

void state_put(struct buf *out, const struct state *m)
{
	const struct wire_state w = {le64_make(m->seq), le64_make(m->sum)};

	buf_put(out, &w, sizeof(w));
}

int state_get(struct slice body, struct state *ret)
{
	const struct wire_state *w = whole(body, sizeof(*w));

	if (!w)
		return -EUCLEAN;
	*ret = (struct state){le64_get(w->seq), le64_get(w->sum)};
	return 0;
}

void ping_put(struct buf *out, uint64_t value)
{
	const struct wire_ping w = {le64_make(value)};

	buf_put(out, &w, sizeof(w));
}

int ping_get(struct slice body, uint64_t *ret)
{
	const struct wire_ping *w = whole(body, sizeof(*w));

	if (!w)
		return -EUCLEAN;
	*ret = le64_get(w->value);
	return 0;
}
