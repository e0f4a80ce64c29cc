/*
 * wire.c: messages to bytes and back: frames, and the few messages that belong to no conversation of several.  Greetings are
 * hello.c, the stream is stream.c, a resync resync.c.
 *
 * A body is a fixed part (wire_format.h), then what its lengths and counts announce, to the last byte: every decoder ends by
 * asking whether anything is left over.  Pieces are cut off the body by take(), which gives nothing that is not there, and each
 * length and count is compared with its limit before it is multiplied or used.
 *
 * Encoders assert what decoders check: a message that the other side would refuse is a mistake of this one.  A body that decodes
 * encodes to the same bytes again; the fuzz target relies on it.
 */
#include "replicate/wire/pieces.h"

#include <assert.h>
#include <errno.h>

#include "base/crc32c.h"

#define HELLO_MAX  (sizeof(struct wire_hello) + WIRE_NAME_MAX + WIRE_TEXT_MAX)
#define DATA_MAX   (sizeof(struct wire_data) + RECORD_WRITE_BLOCKS_MAX * BLOCK_SIZE)
#define HASHES_MAX (sizeof(struct wire_hashes) + WIRE_RANGES_MAX * (sizeof(struct wire_range) + WIRE_KEY_MAX))
#define ROW_MAX    (sizeof(struct wire_row) + WIRE_KEY_MAX + WIRE_VALUE_MAX)
#define LEAF_MAX   (sizeof(struct wire_leaf) + WIRE_SLOTS * sizeof(le32)) /* without blocks */
#define ASKED_MAX  (sizeof(struct wire_get_leaves) + WIRE_LEAVES_MAX * LEAF_MAX)
#define LEAVES_MAX (sizeof(struct wire_leaves) + WIRE_LEAVES_MAX * LEAF_MAX + WIRE_LEAVES_BYTES)

_Static_assert(sizeof(struct wire_batch) + BATCH_LOGICAL_MAX_BYTES + BATCH_PAYLOAD_MAX_BLOCKS * BLOCK_SIZE <= WIRE_BODY_MAX, "");
_Static_assert(FRAME_HEADER_BYTES % 8 == 0, "a body that follows is 8-aligned");

static const struct {
	const char *name;
	uint32_t body_max;
} types[MESSAGE_TYPE_MAX + 1] = {
    [MESSAGE_HELLO] = {"HELLO", HELLO_MAX},
    [MESSAGE_WELCOME] = {"WELCOME", sizeof(struct wire_welcome) + HELLO_MAX},
    [MESSAGE_REFUSE] = {"REFUSE", sizeof(struct wire_refuse) + WIRE_TEXT_MAX},
    [MESSAGE_BATCH] = {"BATCH", WIRE_BODY_MAX},
    [MESSAGE_DATA] = {"DATA", DATA_MAX},
    [MESSAGE_ACK] = {"ACK", sizeof(struct wire_ack)},
    [MESSAGE_STATE] = {"STATE", sizeof(struct wire_state)},
    [MESSAGE_PING] = {"PING", sizeof(struct wire_ping)},
    [MESSAGE_PONG] = {"PONG", sizeof(struct wire_ping)},
    [MESSAGE_PEERS] = {"PEERS", WIRE_JSON_MAX},
    [MESSAGE_VIEW] = {"VIEW", sizeof(struct wire_view)},
    [MESSAGE_GET_HASHES] = {"GET_HASHES", sizeof(struct wire_get_hashes) + WIRE_KEY_MAX},
    [MESSAGE_HASHES] = {"HASHES", HASHES_MAX},
    [MESSAGE_GET_ROWS] = {"GET_ROWS", sizeof(struct wire_get_rows) + 2 * WIRE_KEY_MAX},
    [MESSAGE_ROWS] = {"ROWS", sizeof(struct wire_rows) + WIRE_ROWS_BYTES + ROW_MAX},
    [MESSAGE_GET_LEAVES] = {"GET_LEAVES", ASKED_MAX},
    [MESSAGE_LEAVES] = {"LEAVES", LEAVES_MAX},
    [MESSAGE_RESYNCED] = {"RESYNCED", 0},
    [MESSAGE_HANDOVER] = {"HANDOVER", sizeof(struct wire_handover)},
    [MESSAGE_LEADING] = {"LEADING", 0},
    [MESSAGE_JOIN] = {"JOIN", WIRE_JSON_MAX},
    [MESSAGE_JOINED] = {"JOINED", WIRE_JSON_MAX},
    [MESSAGE_BLOCK_WANTED] = {"BLOCK_WANTED", sizeof(struct wire_block_wanted)},
    [MESSAGE_BLOCK] = {"BLOCK", sizeof(struct wire_block) + BLOCK_SIZE},
};

static bool type_ok(unsigned type)
{
	return type <= MESSAGE_TYPE_MAX && types[type].name;
}

const char *message_type_name(unsigned type)
{
	return type_ok(type) ? types[type].name : "?";
}

uint32_t message_body_max(unsigned type)
{
	return type_ok(type) ? types[type].body_max : 0;
}

/* ---- frames ---- */

/* Over the header up to the CRC itself, then the body. */
static uint32_t frame_crc(const struct frame_header *h, const void *body, size_t len)
{
	return crc32c(crc32c(0, h, offsetof(struct frame_header, crc)), body, len);
}

size_t frame_begin(struct buf *out, enum message_type type)
{
	size_t at = out->len;
	struct frame_header *h = buf_grow(out, sizeof(*h));

	assert(type_ok(type));
	if (h)
		*h = (struct frame_header){.magic = le32_make(WIRE_MAGIC), .type = (uint8_t)type};
	return at;
}

void frame_end(struct buf *out, size_t at, uint64_t number)
{
	if (out->failed)
		return;
	assert(at + sizeof(struct frame_header) <= out->len);
	struct frame_header *h = (void *)(out->p + at);
	size_t bytes = out->len - at - sizeof(*h);
	assert(bytes <= message_body_max(h->type));
	h->number = le64_make(number);
	h->bytes = le32_make((uint32_t)bytes);
	h->crc = le32_make(frame_crc(h, h + 1, bytes));
}

int frame_peek(const void *p, size_t len, uint64_t expect, size_t *ret_need)
{
	const struct frame_header *h = p;

	if (len < sizeof(*h)) {
		*ret_need = sizeof(*h);
		return 0;
	}
	if (le32_get(h->magic) != WIRE_MAGIC || !type_ok(h->type) || h->zero[0] || h->zero[1] || h->zero[2] ||
	    le64_get(h->number) != expect || le32_get(h->bytes) > message_body_max(h->type))
		return -EUCLEAN;
	*ret_need = sizeof(*h) + le32_get(h->bytes);
	return 0;
}

int frame_open(const void *p, size_t len, enum message_type *ret_type, struct slice *ret_body)
{
	const struct frame_header *h = p;

	assert(len >= sizeof(*h) && len - sizeof(*h) == le32_get(h->bytes));
	assert(type_ok(h->type));
	if (frame_crc(h, h + 1, len - sizeof(*h)) != le32_get(h->crc))
		return -EBADMSG;
	*ret_type = (enum message_type)h->type;
	*ret_body = (struct slice){h + 1, len - sizeof(*h)};
	return 0;
}

/* ---- hand-over and lists ---- */

void handover_put(struct buf *out, const struct handover *m)
{
	const struct wire_handover w = {le64_make(m->seq), le64_make(m->hash), le64_make(m->epoch)};

	buf_put(out, &w, sizeof(w));
}

int handover_get(struct slice body, struct handover *ret)
{
	const struct wire_handover *w = whole(body, sizeof(*w));

	if (!w)
		return -EUCLEAN;
	*ret = (struct handover){le64_get(w->seq), le64_get(w->hash), le64_get(w->epoch)};
	return 0;
}

/* ---- repairs ---- */

static bool block_wanted_ok(const struct block_wanted *m)
{
	return m->number && m->ino && m->slot < WIRE_SLOTS;
}

void block_wanted_put(struct buf *out, const struct block_wanted *m)
{
	const struct wire_block_wanted w = {.number = le64_make(m->number),
					    .ino = le64_make(m->ino),
					    .leaf = le64_make(m->leaf),
					    .slot = le32_make(m->slot),
					    .crc = le32_make(m->crc)};

	assert(block_wanted_ok(m));
	buf_put(out, &w, sizeof(w));
}

int block_wanted_get(struct slice body, struct block_wanted *ret)
{
	const struct wire_block_wanted *w = whole(body, sizeof(*w));

	if (!w)
		return -EUCLEAN;
	const struct block_wanted m = {.number = le64_get(w->number),
				       .ino = le64_get(w->ino),
				       .leaf = le64_get(w->leaf),
				       .slot = le32_get(w->slot),
				       .crc = le32_get(w->crc)};
	if (!block_wanted_ok(&m))
		return -EUCLEAN;
	*ret = m;
	return 0;
}

void block_answer_put(struct buf *out, const struct block_answer *m)
{
	const struct wire_block w = {.number = le64_make(m->number), .bytes = le32_make(m->block ? BLOCK_SIZE : 0)};

	assert(m->number);
	buf_put(out, &w, sizeof(w));
	if (m->block)
		buf_put(out, m->block, BLOCK_SIZE);
}

int block_answer_get(struct slice body, struct block_answer *ret)
{
	struct slice left = body;
	const struct wire_block *w = take(&left, sizeof(*w));

	if (!w || !le64_get(w->number) || le32_get(w->zero) || (le32_get(w->bytes) != 0 && le32_get(w->bytes) != BLOCK_SIZE) ||
	    left.len != le32_get(w->bytes))
		return -EUCLEAN;
	*ret = (struct block_answer){.number = le64_get(w->number), .block = left.len ? left.p : NULL};
	return 0;
}

void text_put(struct buf *out, const char *json)
{
	size_t len = strlen(json);

	assert(len >= 1 && len <= WIRE_JSON_MAX);
	buf_put(out, json, len);
}

int text_get(struct slice body, struct slice *ret)
{
	if (body.len == 0 || body.len > WIRE_JSON_MAX || memchr(body.p, 0, body.len))
		return -EUCLEAN;
	*ret = body;
	return 0;
}
