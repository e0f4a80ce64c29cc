/*
 * wire.c: messages to bytes and back.
 *
 * A body is a fixed part (wire_format.h), then what its lengths and counts announce, to the last byte: every decoder ends by
 * asking whether anything is left over.  Pieces are cut off the body by take(), which gives nothing that is not there, and each
 * length and count is compared with its limit before it is multiplied or used.
 *
 * Encoders assert what decoders check: a message that the other side would refuse is a mistake of this one.  A body that decodes
 * encodes to the same bytes again; the fuzz target relies on it.
 */
#include "replicate/wire_format.h"

#include <assert.h>
#include <errno.h>

#include "base/crc32c.h"

#define DATA_INDEX_MAX (BATCH_LOGICAL_MAX_BYTES / sizeof(struct record_header))
#define ERRNO_MAX      4095u
#define NODE_ID_MAX    ((1u << EPOCH_NODE_BITS) - 1)
#define FLAGS_ALL      (uint32_t)(HELLO_ANNOUNCE | HELLO_RESYNCING | HELLO_DIFFERS | HELLO_RESYNC_WANTED)
#define HELLO_MAX      (sizeof(struct wire_hello) + WIRE_NAME_MAX + WIRE_TEXT_MAX)
#define DATA_MAX       (sizeof(struct wire_data) + RECORD_WRITE_BLOCKS_MAX * BLOCK_SIZE)
#define HASHES_MAX     (sizeof(struct wire_hashes) + WIRE_RANGES_MAX * (sizeof(struct wire_range) + WIRE_KEY_MAX))
#define ROW_MAX        (sizeof(struct wire_row) + WIRE_KEY_MAX + WIRE_VALUE_MAX)
#define LEAF_MAX       (sizeof(struct wire_leaf) + WIRE_SLOTS * sizeof(le32)) /* without blocks */
#define ASKED_MAX      (sizeof(struct wire_get_leaves) + WIRE_LEAVES_MAX * LEAF_MAX)
#define LEAVES_MAX     (sizeof(struct wire_leaves) + WIRE_LEAVES_MAX * LEAF_MAX + WIRE_LEAVES_BYTES)

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

/* ---- pieces ---- */

/* The next `n` bytes of what is left of a body; NULL when it has fewer. */
static const void *take(struct slice *left, size_t n)
{
	const uint8_t *p = left->p;

	if (n > left->len)
		return NULL;
	left->p = p + n;
	left->len -= n;
	return p;
}

/* A body that is nothing but its fixed part; NULL when it has another size. */
static const void *whole(struct slice body, size_t n)
{
	return body.len == n ? body.p : NULL;
}

static bool is_zero(const uint8_t *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0); /* each byte is as the one before */
}

/* Text that goes to logs and terminals: nothing that they would obey. */
static bool text_ok(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] < 0x20 || p[i] == 0x7f)
			return false;
	return true;
}

/* `len` bytes of text, terminated in `ret`, which holds max + 1. */
static bool take_text(struct slice *left, size_t len, size_t max, char *ret)
{
	const uint8_t *p = len <= max ? take(left, len) : NULL;

	if (!p || !text_ok(p, len))
		return false;
	memcpy(ret, p, len);
	ret[len] = '\0';
	return true;
}

static size_t text_len(const char *text, size_t max)
{
	size_t len = strnlen(text, max + 1);

	assert(len <= max && text_ok((const uint8_t *)text, len));
	return len;
}

/* An optional key: empty is none. */
static bool take_key(struct slice *left, size_t len, struct slice *ret)
{
	const void *p = len <= WIRE_KEY_MAX ? take(left, len) : NULL;

	*ret = (struct slice){len ? p : NULL, len};
	return p != NULL;
}

static bool key_before(struct slice a, struct slice b)
{
	size_t len = a.len < b.len ? a.len : b.len;
	int c = len ? memcmp(a.p, b.p, len) : 0;

	return c ? c < 0 : a.len < b.len;
}

/* ---- who and where ---- */

static bool hello_ok(const struct hello *m)
{
	return m->node_id >= 1 && m->node_id <= NODE_ID_MAX && m->role <= ROLE_FOLLOWER && !(m->flags & ~FLAGS_ALL);
}

void hello_put(struct buf *out, const struct hello *m)
{
	size_t name_len = text_len(m->name, WIRE_NAME_MAX), address_len = text_len(m->address, WIRE_TEXT_MAX);
	struct wire_hello w = {
	    .version = le32_make(m->version),
	    .node_id = le32_make(m->node_id),
	    .role = le32_make(m->role),
	    .flags = le32_make(m->flags),
	    .promised = le64_make(m->promised),
	    .history = le64_make(m->history),
	    .seq = le64_make(m->seq),
	    .hash = le64_make(m->hash),
	    .fence = le64_make(m->fence),
	    .name_len = le16_make((uint16_t)name_len),
	    .address_len = le16_make((uint16_t)address_len),
	};

	assert(m->version == WIRE_VERSION && hello_ok(m));
	memcpy(w.volume, m->volume, sizeof(w.volume));
	memcpy(w.node, m->node, sizeof(w.node));
	buf_put(out, &w, sizeof(w));
	buf_put(out, m->name, name_len);
	buf_put(out, m->address, address_len);
}

/* The version says what the rest is, so it is looked at alone. */
static int check_version(struct slice body)
{
	const le32 *version = take(&body, sizeof(*version));

	if (!version)
		return -EUCLEAN;
	return le32_get(*version) == WIRE_VERSION ? 0 : -EPROTONOSUPPORT;
}

int hello_get(struct slice body, struct hello *ret)
{
	struct slice left = body;
	int r = check_version(body);

	if (r)
		return r;
	const struct wire_hello *w = take(&left, sizeof(*w));
	if (!w || le32_get(w->zero))
		return -EUCLEAN;
	struct hello m = {
	    .version = le32_get(w->version),
	    .node_id = le32_get(w->node_id),
	    .role = le32_get(w->role),
	    .flags = le32_get(w->flags),
	    .promised = le64_get(w->promised),
	    .history = le64_get(w->history),
	    .seq = le64_get(w->seq),
	    .hash = le64_get(w->hash),
	    .fence = le64_get(w->fence),
	};
	memcpy(m.volume, w->volume, sizeof(m.volume));
	memcpy(m.node, w->node, sizeof(m.node));
	if (!hello_ok(&m) || !take_text(&left, le16_get(w->name_len), WIRE_NAME_MAX, m.name) ||
	    !take_text(&left, le16_get(w->address_len), WIRE_TEXT_MAX, m.address) || left.len)
		return -EUCLEAN;
	*ret = m;
	return 0;
}

void welcome_put(struct buf *out, const struct welcome *m)
{
	const struct wire_welcome w = {le32_make(m->action), le32_make(m->leader_id)};

	assert(m->action <= WELCOME_NOTED);
	assert(m->leader_id <= NODE_ID_MAX);
	buf_put(out, &w, sizeof(w));
	hello_put(out, &m->self);
}

int welcome_get(struct slice body, struct welcome *ret)
{
	struct slice left = body;
	const struct wire_welcome *w = take(&left, sizeof(*w));
	struct welcome m = {0};

	if (!w)
		return -EUCLEAN;
	int r = hello_get(left, &m.self);
	if (r)
		return r;
	if (le32_get(w->action) > WELCOME_NOTED || le32_get(w->leader_id) > NODE_ID_MAX)
		return -EUCLEAN;
	m.action = (enum welcome_action)le32_get(w->action);
	m.leader_id = le32_get(w->leader_id);
	*ret = m;
	return 0;
}

void refuse_put(struct buf *out, const struct refuse *m)
{
	size_t len = text_len(m->text, WIRE_TEXT_MAX);
	const struct wire_refuse w = {le32_make((uint32_t)-m->error), le16_make((uint16_t)len), le16_make(0)};

	assert(m->error < 0 && m->error >= -(int)ERRNO_MAX);
	buf_put(out, &w, sizeof(w));
	buf_put(out, m->text, len);
}

int refuse_get(struct slice body, struct refuse *ret)
{
	struct slice left = body;
	const struct wire_refuse *w = take(&left, sizeof(*w));
	struct refuse m;

	if (!w || le16_get(w->zero) || le32_get(w->error) < 1 || le32_get(w->error) > ERRNO_MAX ||
	    !take_text(&left, le16_get(w->text_len), WIRE_TEXT_MAX, m.text) || left.len)
		return -EUCLEAN;
	m.error = -(int)le32_get(w->error);
	*ret = m;
	return 0;
}

/* ---- stream ---- */

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

/* ---- resync ---- */

void view_put(struct buf *out, const struct replica_view_info *m)
{
	const struct wire_view w = {
	    .seq = le64_make(m->seq),
	    .hash = le64_make(m->hash),
	    .epoch = le64_make(m->epoch),
	    .next_ino = le64_make(m->next_ino),
	    .n_inodes = le64_make(m->n_inodes),
	    .snapshot_generation = le64_make(m->snapshot_generation),
	};

	buf_put(out, &w, sizeof(w));
}

int view_get(struct slice body, struct replica_view_info *ret)
{
	const struct wire_view *w = whole(body, sizeof(*w));

	if (!w)
		return -EUCLEAN;
	*ret = (struct replica_view_info){
	    .seq = le64_get(w->seq),
	    .hash = le64_get(w->hash),
	    .epoch = le64_get(w->epoch),
	    .next_ino = le64_get(w->next_ino),
	    .n_inodes = le64_get(w->n_inodes),
	    .snapshot_generation = le64_get(w->snapshot_generation),
	};
	return 0;
}

static bool get_hashes_ok(const struct get_hashes *m)
{
	return m->n_ranges >= 1 && m->n_ranges <= WIRE_RANGES_MAX && m->rows_each >= 1 && m->rows_each <= WIRE_RANGE_ROWS_MAX;
}

void get_hashes_put(struct buf *out, const struct get_hashes *m)
{
	const struct wire_get_hashes w = {.n_ranges = le32_make(m->n_ranges),
					  .rows_each = le32_make(m->rows_each),
					  .from_len = le16_make((uint16_t)m->from.len)};

	assert(get_hashes_ok(m));
	assert(m->from.len <= WIRE_KEY_MAX);
	buf_put(out, &w, sizeof(w));
	buf_put(out, m->from.p, m->from.len);
}

int get_hashes_get(struct slice body, struct get_hashes *ret)
{
	struct slice left = body;
	const struct wire_get_hashes *w = take(&left, sizeof(*w));
	struct get_hashes m;

	if (!w || !is_zero(w->zero, sizeof(w->zero)) || !take_key(&left, le16_get(w->from_len), &m.from) || left.len)
		return -EUCLEAN;
	m.n_ranges = le32_get(w->n_ranges);
	m.rows_each = le32_get(w->rows_each);
	if (!get_hashes_ok(&m))
		return -EUCLEAN;
	*ret = m;
	return 0;
}

/* Ends rise, and only the last range may go to the end of everything. */
static bool range_ok(const struct range_hash *range, uint32_t i, uint32_t n)
{
	const struct range_hash *r = &range[i];

	if (r->n_rows > WIRE_RANGE_ROWS_MAX || r->to.len > WIRE_KEY_MAX || (r->to.len == 0 && i + 1 < n))
		return false;
	return i == 0 || r->to.len == 0 || key_before(range[i - 1].to, r->to);
}

void hashes_put(struct buf *out, const struct hashes *m)
{
	const struct wire_hashes w = {.n = le32_make(m->n)};

	assert(m->n >= 1 && m->n <= WIRE_RANGES_MAX);
	buf_put(out, &w, sizeof(w));
	for (uint32_t i = 0; i < m->n; i++) {
		const struct range_hash *r = &m->range[i];
		const struct wire_range d = {
		    .hash = le64_make(r->hash), .n_rows = le32_make(r->n_rows), .to_len = le16_make((uint16_t)r->to.len)};

		assert(range_ok(m->range, i, m->n));
		buf_put(out, &d, sizeof(d));
		buf_put(out, r->to.p, r->to.len);
	}
}

int hashes_get(struct slice body, struct hashes *ret)
{
	struct slice left = body;
	const struct wire_hashes *w = take(&left, sizeof(*w));

	if (!w || le32_get(w->zero) || le32_get(w->n) < 1 || le32_get(w->n) > WIRE_RANGES_MAX)
		return -EUCLEAN;
	ret->n = le32_get(w->n);
	for (uint32_t i = 0; i < ret->n; i++) {
		const struct wire_range *d = take(&left, sizeof(*d));

		if (!d || le16_get(d->zero) || !take_key(&left, le16_get(d->to_len), &ret->range[i].to))
			return -EUCLEAN;
		ret->range[i].hash = le64_get(d->hash);
		ret->range[i].n_rows = le32_get(d->n_rows);
		if (!range_ok(ret->range, i, ret->n))
			return -EUCLEAN;
	}
	return left.len ? -EUCLEAN : 0;
}

void get_rows_put(struct buf *out, const struct get_rows *m)
{
	const struct wire_get_rows w = {.from_len = le16_make((uint16_t)m->from.len), .to_len = le16_make((uint16_t)m->to.len)};

	assert(m->from.len <= WIRE_KEY_MAX && m->to.len <= WIRE_KEY_MAX);
	assert(m->to.len == 0 || key_before(m->from, m->to));
	buf_put(out, &w, sizeof(w));
	buf_put(out, m->from.p, m->from.len);
	buf_put(out, m->to.p, m->to.len);
}

int get_rows_get(struct slice body, struct get_rows *ret)
{
	struct slice left = body;
	const struct wire_get_rows *w = take(&left, sizeof(*w));
	struct get_rows m;

	if (!w || le32_get(w->zero) || !take_key(&left, le16_get(w->from_len), &m.from) ||
	    !take_key(&left, le16_get(w->to_len), &m.to) || left.len || (m.to.len && !key_before(m.from, m.to)))
		return -EUCLEAN;
	*ret = m;
	return 0;
}

void rows_begin(struct buf *out, bool last)
{
	const struct wire_rows w = {.last = last};

	buf_put(out, &w, sizeof(w));
}

void row_put(struct buf *out, const struct row *r)
{
	const struct wire_row w = {.value_len = le32_make((uint32_t)r->value.len), .key_len = le16_make((uint16_t)r->key.len)};

	assert(r->key.len >= 1 && r->key.len <= WIRE_KEY_MAX);
	assert(r->value.len <= WIRE_VALUE_MAX);
	buf_put(out, &w, sizeof(w));
	buf_put(out, r->key.p, r->key.len);
	buf_put(out, r->value.p, r->value.len);
}

int rows_last(struct slice body, bool *ret_last)
{
	const struct wire_rows *w = take(&body, sizeof(*w));

	if (!w || w->last > 1)
		return -EUCLEAN;
	*ret_last = w->last;
	return 0;
}

/* What of a body lies behind its head and behind what was given before; moves *at to the head's end at the beginning. */
static struct slice list_left(struct slice body, size_t head, size_t *at)
{
	if (*at == 0)
		*at = head;
	assert(*at <= body.len);
	return (struct slice){(const uint8_t *)body.p + *at, body.len - *at};
}

int rows_next(struct slice body, size_t *at, struct row *ret)
{
	bool last;
	int r = rows_last(body, &last);

	if (r)
		return r;
	struct slice left = list_left(body, sizeof(struct wire_rows), at);
	if (left.len == 0)
		return 0;
	const struct wire_row *w = take(&left, sizeof(*w));
	if (!w || le16_get(w->zero) || le16_get(w->key_len) < 1 || !take_key(&left, le16_get(w->key_len), &ret->key) ||
	    le32_get(w->value_len) > WIRE_VALUE_MAX)
		return -EUCLEAN;
	ret->value = (struct slice){take(&left, le32_get(w->value_len)), le32_get(w->value_len)};
	if (!ret->value.p)
		return -EUCLEAN;
	*at = body.len - left.len;
	return 1;
}

static bool leaf_ok(const struct leaf_data *d)
{
	return d->ino && d->wanted && !(d->superseded & ~d->wanted);
}

static uint32_t count_slots(unsigned mask)
{
	return (uint32_t)__builtin_popcount(mask);
}

static void put_leaf_head(struct buf *out, const struct leaf_data *d, uint16_t superseded)
{
	const struct wire_leaf w = {.ino = le64_make(d->ino),
				    .leaf = le64_make(d->leaf),
				    .wanted = le16_make(d->wanted),
				    .superseded = le16_make(superseded)};

	assert(leaf_ok(d));
	buf_put(out, &w, sizeof(w));
	for (uint32_t slot = 0; slot < WIRE_SLOTS; slot++) {
		const le32 crc = le32_make(d->crc[slot]);

		if (d->wanted & 1u << slot)
			buf_put(out, &crc, sizeof(crc));
	}
}

/* Fixed part and CRCs of a leaf. */
static bool take_leaf_head(struct slice *left, struct leaf_data *ret)
{
	const struct wire_leaf *w = take(left, sizeof(*w));

	if (!w || le32_get(w->zero))
		return false;
	*ret = (struct leaf_data){.ino = le64_get(w->ino),
				  .leaf = le64_get(w->leaf),
				  .wanted = le16_get(w->wanted),
				  .superseded = le16_get(w->superseded)};
	const le32 *crc = take(left, count_slots(ret->wanted) * sizeof(*crc));
	if (!crc || !leaf_ok(ret))
		return false;
	for (uint32_t slot = 0; slot < WIRE_SLOTS; slot++)
		if (ret->wanted & 1u << slot)
			ret->crc[slot] = le32_get(*crc++);
	return true;
}

void get_leaves_put(struct buf *out, const struct get_leaves *m)
{
	const struct wire_get_leaves w = {.n = le32_make(m->n)};

	assert(m->n >= 1 && m->n <= WIRE_LEAVES_MAX);
	buf_put(out, &w, sizeof(w));
	for (uint32_t i = 0; i < m->n; i++)
		put_leaf_head(out, &m->leaf[i], 0);
}

int get_leaves_get(struct slice body, struct get_leaves *ret)
{
	struct slice left = body;
	const struct wire_get_leaves *w = take(&left, sizeof(*w));

	if (!w || le32_get(w->zero) || le32_get(w->n) < 1 || le32_get(w->n) > WIRE_LEAVES_MAX)
		return -EUCLEAN;
	ret->n = le32_get(w->n);
	for (uint32_t i = 0; i < ret->n; i++)
		if (!take_leaf_head(&left, &ret->leaf[i]) || ret->leaf[i].superseded)
			return -EUCLEAN;
	return left.len ? -EUCLEAN : 0;
}

void leaves_begin(struct buf *out, bool last, uint64_t fence)
{
	const struct wire_leaves w = {.last = last, .fence = le64_make(fence)};

	buf_put(out, &w, sizeof(w));
}

void leaf_put(struct buf *out, const struct leaf_data *d, const uint8_t *blocks)
{
	put_leaf_head(out, d, d->superseded);
	for (uint32_t slot = 0; slot < WIRE_SLOTS; slot++) {
		if (!(d->wanted & 1u << slot))
			continue;
		if (!(d->superseded & 1u << slot))
			buf_put(out, blocks, BLOCK_SIZE);
		blocks += BLOCK_SIZE;
	}
}

int leaves_head(struct slice body, bool *ret_last, uint64_t *ret_fence)
{
	const struct wire_leaves *w = take(&body, sizeof(*w));

	if (!w || w->last > 1)
		return -EUCLEAN;
	*ret_last = w->last;
	*ret_fence = le64_get(w->fence);
	return 0;
}

int leaves_next(struct slice body, size_t *at, struct leaf_data *ret, const uint8_t **ret_blocks)
{
	bool last;
	uint64_t fence;
	int r = leaves_head(body, &last, &fence);

	if (r)
		return r;
	struct slice left = list_left(body, sizeof(struct wire_leaves), at);
	if (left.len == 0)
		return 0;
	if (!take_leaf_head(&left, ret) || (ret->superseded && fence == 0))
		return -EUCLEAN;
	*ret_blocks = take(&left, (size_t)count_slots(ret->wanted & ~(unsigned)ret->superseded) * BLOCK_SIZE);
	if (!*ret_blocks)
		return -EUCLEAN;
	*at = body.len - left.len;
	return 1;
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
