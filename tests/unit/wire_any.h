/*
 * wire_any.h: a body of any type, decoded and encoded again: for the tests and the fuzz target of replicate/wire/wire.h.
 *
 * What a decoder accepts must be within the limits of wire.h, lie inside the body, and come out as the same bytes again.
 */
#pragma once

#include <assert.h>
#include <stdlib.h>

#include "replicate/wire/wire_format.h"

/* Reads every byte, so that a sanitizer sees what lies outside. */
static inline uint64_t any_touch(const void *p, size_t len)
{
	const uint8_t *b = p;
	volatile uint64_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += b[i];
	return sum;
}

static inline int any_batch(struct slice body, struct buf *again)
{
	struct shipped_batch m;
	int r = batch_get(body, &m);

	if (r == 0) {
		any_touch(m.logical, m.logical_bytes);
		any_touch(m.payload, (size_t)m.n_payload * BLOCK_SIZE);
		batch_put(again, &m);
	}
	return r;
}

static inline int any_rows(struct slice body, struct buf *again)
{
	struct row row;
	size_t at = 0;
	bool last;
	int r = rows_last(body, &last);

	if (r)
		return r;
	rows_begin(again, last);
	while ((r = rows_next(body, &at, &row)) == 1)
		row_put(again, &row);
	return r;
}

/* leaf_put() takes the blocks of all wanted slots; those of superseded ones do not travel. */
static inline void any_put_leaf(struct buf *again, const struct leaf_data *d, const uint8_t *blocks)
{
	uint8_t *all = calloc(WIRE_SLOTS, BLOCK_SIZE), *to = all;

	assert(all);
	for (unsigned slot = 0; slot < WIRE_SLOTS; slot++) {
		if (!(d->wanted & 1u << slot))
			continue;
		if (!(d->superseded & 1u << slot)) {
			memcpy(to, blocks, BLOCK_SIZE);
			blocks += BLOCK_SIZE;
		}
		to += BLOCK_SIZE;
	}
	leaf_put(again, d, all);
	free(all);
}

static inline int any_leaves(struct slice body, struct buf *again)
{
	struct leaf_data d;
	const uint8_t *blocks;
	uint64_t fence;
	size_t at = 0;
	bool last;
	int r = leaves_head(body, &last, &fence);

	if (r)
		return r;
	leaves_begin(again, last, fence);
	while ((r = leaves_next(body, &at, &d, &blocks)) == 1)
		any_put_leaf(again, &d, blocks);
	return r;
}

static inline int any_text(struct slice body, struct buf *again)
{
	struct slice text;
	int r = text_get(body, &text);

	if (r == 0) {
		char *copy = strndup(text.p, text.len);
		assert(copy && strlen(copy) == text.len);
		text_put(again, copy);
		free(copy);
	}
	return r;
}

#define ANY(kind, message, again_)                        \
	do {                                              \
		struct message *m = malloc(sizeof(*m));   \
		assert(m);                                \
		int r = kind##_get(body, m);              \
		if (r == 0)                               \
			kind##_put(again_, m);            \
		free(m);                                  \
		return r;                                 \
	} while (0)

static inline int any_hello(struct slice body, struct buf *again) { ANY(hello, hello, again); }
static inline int any_welcome(struct slice body, struct buf *again) { ANY(welcome, welcome, again); }
static inline int any_refuse(struct slice body, struct buf *again) { ANY(refuse, refuse, again); }
static inline int any_data(struct slice body, struct buf *again) { ANY(data, shipped_data, again); }
static inline int any_ack(struct slice body, struct buf *again) { ANY(ack, ack, again); }
static inline int any_state(struct slice body, struct buf *again) { ANY(state, state, again); }
static inline int any_view(struct slice body, struct buf *again) { ANY(view, replica_view_info, again); }
static inline int any_get_hashes(struct slice body, struct buf *again) { ANY(get_hashes, get_hashes, again); }
static inline int any_hashes(struct slice body, struct buf *again) { ANY(hashes, hashes, again); }
static inline int any_get_rows(struct slice body, struct buf *again) { ANY(get_rows, get_rows, again); }
static inline int any_get_leaves(struct slice body, struct buf *again) { ANY(get_leaves, get_leaves, again); }
static inline int any_handover(struct slice body, struct buf *again) { ANY(handover, handover, again); }

static inline int any_block_wanted(struct slice body, struct buf *again) { ANY(block_wanted, block_wanted, again); }
static inline int any_block(struct slice body, struct buf *again) { ANY(block_answer, block_answer, again); }

static inline int any_ping(struct slice body, struct buf *again)
{
	uint64_t value;
	int r = ping_get(body, &value);

	if (r == 0)
		ping_put(again, value);
	return r;
}

static inline int any_empty(struct slice body, struct buf *again)
{
	(void)again;
	return body.len ? -1 : 0;
}

typedef int any_fn(struct slice body, struct buf *again);
static any_fn *const any_types[MESSAGE_TYPE_MAX + 1] = {
    [MESSAGE_HELLO] = any_hello,         [MESSAGE_WELCOME] = any_welcome,       [MESSAGE_REFUSE] = any_refuse,
    [MESSAGE_BATCH] = any_batch,         [MESSAGE_DATA] = any_data,             [MESSAGE_ACK] = any_ack,
    [MESSAGE_STATE] = any_state,         [MESSAGE_PING] = any_ping,             [MESSAGE_PONG] = any_ping,
    [MESSAGE_PEERS] = any_text,          [MESSAGE_VIEW] = any_view,             [MESSAGE_GET_HASHES] = any_get_hashes,
    [MESSAGE_HASHES] = any_hashes,       [MESSAGE_GET_ROWS] = any_get_rows,     [MESSAGE_ROWS] = any_rows,
    [MESSAGE_GET_LEAVES] = any_get_leaves, [MESSAGE_LEAVES] = any_leaves,       [MESSAGE_RESYNCED] = any_empty,
    [MESSAGE_HANDOVER] = any_handover,   [MESSAGE_LEADING] = any_empty,         [MESSAGE_JOIN] = any_text,
    [MESSAGE_JOINED] = any_text,         [MESSAGE_BLOCK_WANTED] = any_block_wanted, [MESSAGE_BLOCK] = any_block,
};

/* 0 when the body is one of `type`, and then it came back as it was; else the decoder's error. */
static inline int any_decode(unsigned type, struct slice body)
{
	CLEANUP_BUF struct buf again = {0};
	int r = any_types[type](body, &again);

	if (r == 0) {
		assert(body.len <= message_body_max(type));
		assert(again.len == body.len && (body.len == 0 || memcmp(again.p, body.p, body.len) == 0));
	}
	return r;
}
