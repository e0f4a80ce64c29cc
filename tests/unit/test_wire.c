/*
 * test_wire.c: replicate/wire/wire.h: every message there and back, every limit, and that nothing but a whole valid frame with a
 * whole valid body is taken for one.
 *
 * Samples are put in frames of their own memory, exactly as long as they are, so that a sanitizer sees a read outside.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

#include "base/crc32c.h"
#include "tests/lib/rng.h"
#include "tests/unit/wire_any.h"

static struct rng rng;

static void fill(void *p, size_t len)
{
	uint8_t *b = p;

	for (size_t i = 0; i < len; i++)
		b[i] = (uint8_t)rng_u64(&rng);
}

static void fill_text(char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (char)rng_between(&rng, ' ', '~');
	p[len] = '\0';
}

/* Numbers whose every byte is likely to count: small ones, large ones, all ones. */
static uint64_t number(void)
{
	return rng_percent(&rng, 10) ? UINT64_MAX : rng_u64(&rng) >> rng_below(&rng, 64);
}

static struct slice key(size_t min)
{
	static uint8_t room[WIRE_RANGES_MAX + 1][WIRE_KEY_MAX];
	static unsigned next;
	uint8_t *p = room[next++ % ARRAY_SIZE(room)];
	size_t len = rng_percent(&rng, 10) ? WIRE_KEY_MAX : rng_between(&rng, min, 20);

	fill(p, len);
	return (struct slice){len ? p : NULL, len};
}

static bool same_slice(struct slice a, struct slice b)
{
	return a.len == b.len && (!a.len || memcmp(a.p, b.p, a.len) == 0);
}

/* A frame in memory of its own; the body of it. */
struct frame {
	uint8_t *p; /* malloc'ed */
	size_t len;
	enum message_type type;
	struct slice body;
};

static struct frame frame_of(enum message_type type, const struct buf *body, uint64_t n)
{
	CLEANUP_BUF struct buf out = {0};
	struct frame f = {0};
	size_t at = frame_begin(&out, type), need = 0;

	buf_put(&out, body->p, body->len);
	frame_end(&out, at, n);
	assert_false(out.failed);
	f.len = out.len;
	f.p = malloc(f.len);
	assert_non_null(f.p);
	memcpy(f.p, out.p, f.len);
	assert_int_equal(frame_peek(f.p, f.len, n, &need), 0);
	assert_int_equal(need, f.len);
	assert_int_equal(frame_open(f.p, f.len, &f.type, &f.body), 0);
	assert_int_equal(f.type, type);
	return f;
}

/* Puts `m` with x_put, frames it, and gets it back into `back`; the frame lives to the end of the scope. */
#define THERE_AND_BACK(type, kind, m, back)                                                                                      \
	CLEANUP_BUF struct buf body_ = {0};                                                                                      \
	kind##_put(&body_, m);                                                                                                   \
	struct frame f_ = frame_of(type, &body_, 7);                                                                             \
	assert_int_equal(kind##_get(f_.body, back), 0)
#define DONE free(f_.p)

/* ---- random messages ---- */

static struct hello random_hello(void)
{
	struct hello m = {.version = WIRE_VERSION,
			  .node_id = (uint32_t)rng_between(&rng, 1, 65535),
			  .role = (uint32_t)rng_below(&rng, 2),
			  .flags = (uint32_t)rng_below(&rng, 16),
			  .promised = number(),
			  .history = number(),
			  .seq = number(),
			  .hash = number(),
			  .fence = number()};

	fill(m.volume, sizeof(m.volume));
	fill(m.node, sizeof(m.node));
	fill_text(m.name, rng_percent(&rng, 20) ? WIRE_NAME_MAX : rng_below(&rng, 12));
	fill_text(m.address, rng_percent(&rng, 20) ? WIRE_TEXT_MAX : rng_below(&rng, 30));
	return m;
}

static void same_hello(const struct hello *a, const struct hello *b)
{
	assert_int_equal(a->version, b->version);
	assert_int_equal(a->node_id, b->node_id);
	assert_int_equal(a->role, b->role);
	assert_int_equal(a->flags, b->flags);
	assert_int_equal(a->promised, b->promised);
	assert_int_equal(a->history, b->history);
	assert_int_equal(a->seq, b->seq);
	assert_int_equal(a->hash, b->hash);
	assert_int_equal(a->fence, b->fence);
	assert_memory_equal(a->volume, b->volume, 16);
	assert_memory_equal(a->node, b->node, 16);
	assert_string_equal(a->name, b->name);
	assert_string_equal(a->address, b->address);
}

static void hello_round(void)
{
	struct hello m = random_hello(), back;

	THERE_AND_BACK(MESSAGE_HELLO, hello, &m, &back);
	same_hello(&m, &back);
	DONE;
}

static void welcome_round(void)
{
	struct welcome m = {.self = random_hello(),
			    .action = (enum welcome_action)rng_below(&rng, WELCOME_NOTED + 1),
			    .leader_id = (uint32_t)rng_below(&rng, 65536)};
	struct welcome back;

	THERE_AND_BACK(MESSAGE_WELCOME, welcome, &m, &back);
	same_hello(&m.self, &back.self);
	assert_int_equal(m.action, back.action);
	assert_int_equal(m.leader_id, back.leader_id);
	DONE;
}

static void refuse_round(void)
{
	struct refuse m = {.error = -(int)rng_between(&rng, 1, 4095)}, back;

	fill_text(m.text, rng_below(&rng, WIRE_TEXT_MAX + 1));
	THERE_AND_BACK(MESSAGE_REFUSE, refuse, &m, &back);
	assert_int_equal(m.error, back.error);
	assert_string_equal(m.text, back.text);
	DONE;
}

static void batch_round(void)
{
	static uint8_t logical[4096], payload[3 * BLOCK_SIZE];
	struct shipped_batch m = {.seq = number() | 1,
				  .epoch = number(),
				  .incarnation = number(),
				  .prev_hash = number(),
				  .hash = number(),
				  .time_ns = (int64_t)number(),
				  .n_records = 1,
				  .logical_bytes = (uint32_t)(8 * rng_between(&rng, 6, 512)),
				  .n_payload = (uint32_t)rng_below(&rng, 4),
				  .logical = logical,
				  .payload = payload};
	struct shipped_batch back;

	m.n_records = (uint32_t)rng_between(&rng, 1, m.logical_bytes / 48);
	fill(logical, sizeof(logical));
	fill(payload, sizeof(payload));
	THERE_AND_BACK(MESSAGE_BATCH, batch, &m, &back);
	assert_int_equal(m.seq, back.seq);
	assert_int_equal(m.epoch, back.epoch);
	assert_int_equal(m.incarnation, back.incarnation);
	assert_int_equal(m.prev_hash, back.prev_hash);
	assert_int_equal(m.hash, back.hash);
	assert_int_equal(m.time_ns, back.time_ns);
	assert_int_equal(m.n_records, back.n_records);
	assert_int_equal(m.logical_bytes, back.logical_bytes);
	assert_int_equal(m.n_payload, back.n_payload);
	assert_int_equal((uintptr_t)back.logical % 8, 0);
	assert_memory_equal(m.logical, back.logical, m.logical_bytes);
	assert_memory_equal(m.payload, back.payload, (size_t)m.n_payload * BLOCK_SIZE);
	DONE;
}

static void data_round(void)
{
	static uint8_t blocks[40 * BLOCK_SIZE];
	struct shipped_data m = {
	    .index = (uint32_t)rng_below(&rng, 21845), .n_blocks = (uint32_t)rng_between(&rng, 1, 40), .blocks = blocks};
	struct shipped_data back;

	fill(blocks, sizeof(blocks));
	for (uint32_t i = 0; i < m.n_blocks && rng_percent(&rng, 50); i++) {
		m.superseded[i / 8] |= (uint8_t)(1u << i % 8);
		memset(blocks + (size_t)i * BLOCK_SIZE, 0, BLOCK_SIZE);
		m.fence = number() | 1;
	}
	THERE_AND_BACK(MESSAGE_DATA, data, &m, &back);
	assert_int_equal(m.index, back.index);
	assert_int_equal(m.n_blocks, back.n_blocks);
	assert_int_equal(m.fence, back.fence);
	assert_memory_equal(m.superseded, back.superseded, sizeof(m.superseded));
	assert_memory_equal(m.blocks, back.blocks, (size_t)m.n_blocks * BLOCK_SIZE);
	DONE;
}

static void ack_round(void)
{
	struct ack m = {.applied_seq = number()}, back;

	m.durable_seq = m.applied_seq / rng_between(&rng, 1, 3);
	THERE_AND_BACK(MESSAGE_ACK, ack, &m, &back);
	assert_int_equal(m.durable_seq, back.durable_seq);
	assert_int_equal(m.applied_seq, back.applied_seq);
	DONE;
}

static void state_round(void)
{
	struct state m = {number(), number()}, back;

	THERE_AND_BACK(MESSAGE_STATE, state, &m, &back);
	assert_int_equal(m.seq, back.seq);
	assert_int_equal(m.sum, back.sum);
	DONE;
}

static void ping_round(void)
{
	uint64_t m = number(), back;

	THERE_AND_BACK(MESSAGE_PING, ping, m, &back);
	assert_int_equal(m, back);
	DONE;
}

static void view_round(void)
{
	struct replica_view_info m = {number(), number(), number(), number(), number(), number()}, back;

	THERE_AND_BACK(MESSAGE_VIEW, view, &m, &back);
	assert_int_equal(m.seq, back.seq);
	assert_int_equal(m.hash, back.hash);
	assert_int_equal(m.epoch, back.epoch);
	assert_int_equal(m.next_ino, back.next_ino);
	assert_int_equal(m.n_inodes, back.n_inodes);
	assert_int_equal(m.snapshot_generation, back.snapshot_generation);
	DONE;
}

static void get_hashes_round(void)
{
	struct get_hashes m = {key(0), (uint32_t)rng_between(&rng, 1, WIRE_RANGES_MAX),
			       (uint32_t)rng_between(&rng, 1, WIRE_RANGE_ROWS_MAX)};
	struct get_hashes back;

	THERE_AND_BACK(MESSAGE_GET_HASHES, get_hashes, &m, &back);
	assert_true(same_slice(m.from, back.from));
	assert_int_equal(m.n_ranges, back.n_ranges);
	assert_int_equal(m.rows_each, back.rows_each);
	DONE;
}

static void hashes_round(void)
{
	static uint8_t ends[WIRE_RANGES_MAX][WIRE_KEY_MAX];
	struct hashes m = {.n = (uint32_t)rng_between(&rng, 1, WIRE_RANGES_MAX)}, back;

	for (uint32_t i = 0; i < m.n; i++) {
		m.range[i] = (struct range_hash){{ends[i], rng_between(&rng, 8, 30)}, number(), (uint32_t)rng_below(&rng, 4097)};
		fill(ends[i], WIRE_KEY_MAX);
		be64_put(ends[i], 3 * (uint64_t)i);
	}
	if (rng_percent(&rng, 50))
		m.range[m.n - 1].to = (struct slice){0};
	THERE_AND_BACK(MESSAGE_HASHES, hashes, &m, &back);
	assert_int_equal(m.n, back.n);
	for (uint32_t i = 0; i < m.n; i++) {
		assert_true(same_slice(m.range[i].to, back.range[i].to));
		assert_int_equal(m.range[i].hash, back.range[i].hash);
		assert_int_equal(m.range[i].n_rows, back.range[i].n_rows);
	}
	DONE;
}

static void get_rows_round(void)
{
	uint8_t low[1] = {0}, high[2] = {0xff, 0xff};
	struct get_rows m = {{low, rng_below(&rng, 2)}, {high, 2 * rng_below(&rng, 2)}}, back;

	THERE_AND_BACK(MESSAGE_GET_ROWS, get_rows, &m, &back);
	assert_true(same_slice(m.from, back.from) && same_slice(m.to, back.to));
	DONE;
}

static void rows_round(void)
{
	static uint8_t value[WIRE_VALUE_MAX];
	CLEANUP_BUF struct buf body = {0};
	struct row row[5], back;
	size_t n = rng_below(&rng, 6), at = 0;
	bool last = rng_percent(&rng, 50), back_last;

	fill(value, sizeof(value));
	rows_begin(&body, last);
	for (size_t i = 0; i < n; i++) {
		row[i] = (struct row){key(1), {value, rng_percent(&rng, 10) ? WIRE_VALUE_MAX : rng_below(&rng, 100)}};
		row_put(&body, &row[i]);
	}
	struct frame f = frame_of(MESSAGE_ROWS, &body, 0);
	assert_int_equal(rows_last(f.body, &back_last), 0);
	assert_int_equal(last, back_last);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(rows_next(f.body, &at, &back), 1);
		assert_true(same_slice(row[i].key, back.key) && same_slice(row[i].value, back.value));
	}
	assert_int_equal(rows_next(f.body, &at, &back), 0);
	free(f.p);
}

static struct leaf_data random_leaf(bool given)
{
	struct leaf_data d = {.ino = number() | 1, .leaf = number(), .wanted = (uint16_t)rng_between(&rng, 1, 65535)};

	if (given && rng_percent(&rng, 50))
		d.superseded = d.wanted & (uint16_t)rng_u64(&rng);
	for (unsigned slot = 0; slot < WIRE_SLOTS; slot++)
		d.crc[slot] = d.wanted & 1u << slot ? (uint32_t)rng_u64(&rng) : 0;
	return d;
}

static void same_leaf(const struct leaf_data *a, const struct leaf_data *b)
{
	assert_int_equal(a->ino, b->ino);
	assert_int_equal(a->leaf, b->leaf);
	assert_int_equal(a->wanted, b->wanted);
	assert_int_equal(a->superseded, b->superseded);
	assert_memory_equal(a->crc, b->crc, sizeof(a->crc));
}

static void get_leaves_round(void)
{
	static struct get_leaves m, back;

	m.n = rng_percent(&rng, 10) ? WIRE_LEAVES_MAX : (uint32_t)rng_between(&rng, 1, 5);
	for (uint32_t i = 0; i < m.n; i++)
		m.leaf[i] = random_leaf(false);
	THERE_AND_BACK(MESSAGE_GET_LEAVES, get_leaves, &m, &back);
	assert_int_equal(m.n, back.n);
	for (uint32_t i = 0; i < m.n; i++)
		same_leaf(&m.leaf[i], &back.leaf[i]);
	DONE;
}

static void leaves_round(void)
{
	static uint8_t blocks[4][WIRE_SLOTS * BLOCK_SIZE];
	CLEANUP_BUF struct buf body = {0};
	struct leaf_data leaf[4], back;
	const uint8_t *got;
	size_t n = rng_below(&rng, 5), at = 0;
	uint64_t fence = number() | 1, back_fence;
	bool last = rng_percent(&rng, 50), back_last;

	leaves_begin(&body, last, fence);
	for (size_t i = 0; i < n; i++) {
		leaf[i] = random_leaf(true);
		fill(blocks[i], sizeof(blocks[i]));
		leaf_put(&body, &leaf[i], blocks[i]);
	}
	struct frame f = frame_of(MESSAGE_LEAVES, &body, 0);
	assert_int_equal(leaves_head(f.body, &back_last, &back_fence), 0);
	assert_int_equal(last, back_last);
	assert_int_equal(fence, back_fence);
	for (size_t i = 0; i < n; i++) {
		const uint8_t *sent = blocks[i];

		assert_int_equal(leaves_next(f.body, &at, &back, &got), 1);
		same_leaf(&leaf[i], &back);
		for (unsigned slot = 0; slot < WIRE_SLOTS; slot++) {
			if (!(back.wanted & 1u << slot))
				continue;
			if (!(back.superseded & 1u << slot)) {
				assert_memory_equal(sent, got, BLOCK_SIZE);
				got += BLOCK_SIZE;
			}
			sent += BLOCK_SIZE;
		}
	}
	assert_int_equal(leaves_next(f.body, &at, &back, &got), 0);
	free(f.p);
}

static void handover_round(void)
{
	struct handover m = {number(), number(), number()}, back;

	THERE_AND_BACK(MESSAGE_HANDOVER, handover, &m, &back);
	assert_int_equal(m.seq, back.seq);
	assert_int_equal(m.hash, back.hash);
	assert_int_equal(m.epoch, back.epoch);
	DONE;
}

static void text_round(void)
{
	static const enum message_type kinds[] = {MESSAGE_PEERS, MESSAGE_JOIN, MESSAGE_JOINED};
	static char text[WIRE_JSON_MAX + 1];
	struct slice back;

	fill_text(text, rng_percent(&rng, 10) ? WIRE_JSON_MAX : rng_between(&rng, 1, 100));
	THERE_AND_BACK(kinds[rng_below(&rng, 3)], text, text, &back);
	assert_true(same_slice((struct slice){text, strlen(text)}, back));
	DONE;
}

static void every_message_comes_back_as_it_was(void **state)
{
	static void (*const rounds[])(void) = {
	    hello_round, welcome_round,    refuse_round, batch_round,      data_round,   ack_round,
	    state_round, ping_round,       view_round,   get_hashes_round, hashes_round, get_rows_round,
	    rows_round,  get_leaves_round, leaves_round, handover_round,   text_round,
	};

	(void)state;
	for (unsigned i = 0; i < 200; i++)
		for (size_t k = 0; k < ARRAY_SIZE(rounds); k++)
			rounds[k]();
}

/* ---- one small valid body of each type, always the same ---- */

static void sample_leaf(struct buf *b, bool given)
{
	static uint8_t blocks[3 * BLOCK_SIZE] = {1, 2, 3};
	struct leaf_data d = {.ino = 5, .leaf = 6, .wanted = 0x8011, .crc = {[0] = 1, [4] = 2, [15] = 3}};
	static struct get_leaves asked;

	if (given) {
		d.superseded = 0x8010;
		leaves_begin(b, true, 9);
		leaf_put(b, &d, blocks);
		return;
	}
	asked.n = 2;
	asked.leaf[0] = asked.leaf[1] = d;
	get_leaves_put(b, &asked);
}

static void sample_body(enum message_type type, struct buf *b)
{
	static const uint8_t logical[96] = {1}, blocks[2 * BLOCK_SIZE] = {[BLOCK_SIZE] = 7};
	const struct hello hello = {
	    .version = 1, .node_id = 2, .role = ROLE_FOLLOWER, .flags = HELLO_DIFFERS, .name = "b", .address = "[::1]:9"};
	const struct slice from = {"D12345678a", 10}, to = {"D12345678b", 10};

	switch (type) {
	case MESSAGE_HELLO:
		return hello_put(b, &hello);
	case MESSAGE_WELCOME:
		return welcome_put(b, &(struct welcome){.self = hello, .action = WELCOME_NOT_LEADER, .leader_id = 3});
	case MESSAGE_REFUSE:
		return refuse_put(b, &(struct refuse){-ESTALE, "an older epoch"});
	case MESSAGE_BATCH:
		return batch_put(
		    b, &(struct shipped_batch){
			   .seq = 4, .n_records = 2, .logical_bytes = 96, .n_payload = 1, .logical = logical, .payload = blocks});
	case MESSAGE_DATA:
		return data_put(b, &(struct shipped_data){.n_blocks = 2, .blocks = blocks, .superseded = {1}, .fence = 8});
	case MESSAGE_ACK:
		return ack_put(b, &(struct ack){5, 6});
	case MESSAGE_STATE:
		return state_put(b, &(struct state){5, 6});
	case MESSAGE_PING:
	case MESSAGE_PONG:
		return ping_put(b, 77);
	case MESSAGE_VIEW:
		return view_put(b, &(struct replica_view_info){1, 2, 3, 4, 5, 6});
	case MESSAGE_GET_HASHES:
		return get_hashes_put(b, &(struct get_hashes){from, 64, 4096});
	case MESSAGE_HASHES:
		return hashes_put(b, &(struct hashes){3, {{from, 1, 2}, {to, 3, 4096}, {{0}, 5, 0}}});
	case MESSAGE_GET_ROWS:
		return get_rows_put(b, &(struct get_rows){from, to});
	case MESSAGE_ROWS:
		rows_begin(b, true);
		row_put(b, &(struct row){from, {logical, 8}});
		return row_put(b, &(struct row){to, {0}});
	case MESSAGE_GET_LEAVES:
		return sample_leaf(b, false);
	case MESSAGE_LEAVES:
		return sample_leaf(b, true);
	case MESSAGE_RESYNCED:
	case MESSAGE_LEADING:
		return;
	case MESSAGE_HANDOVER:
		return handover_put(b, &(struct handover){1, 2, 3});
	case MESSAGE_BLOCK_WANTED:
		return block_wanted_put(b, &(struct block_wanted){1, 2, 3, 4, 5});
	case MESSAGE_BLOCK:
		return block_answer_put(b, &(struct block_answer){6, blocks});
	case MESSAGE_PEERS:
	case MESSAGE_JOIN:
	case MESSAGE_JOINED:
		return text_put(b, "{\"a\": 1}");
	}
}

/* `len` bytes of `p` in memory of their own. */
static struct slice exact(const void *p, size_t len)
{
	void *copy = malloc(len ? len : 1);

	assert_non_null(copy);
	if (len)
		memcpy(copy, p, len);
	return (struct slice){copy, len};
}

static void exact_free(struct slice s)
{
	free((void *)(uintptr_t)s.p);
}

static void every_sample_is_valid_and_has_a_name(void **state)
{
	(void)state;
	for (unsigned type = 1; type <= MESSAGE_TYPE_MAX; type++) {
		CLEANUP_BUF struct buf body = {0};

		sample_body((enum message_type)type, &body);
		struct slice s = exact(body.p, body.len);
		assert_int_equal(any_decode(type, s), 0);
		assert_string_not_equal(message_type_name(type), "?");
		assert_true(message_body_max(type) <= WIRE_BODY_MAX);
		exact_free(s);
	}
	assert_string_equal(message_type_name(0), "?");
	assert_string_equal(message_type_name(MESSAGE_TYPE_MAX + 1), "?");
	assert_int_equal(message_body_max(MESSAGE_TYPE_MAX + 1), 0);
}

/* Lists may end after any member, text anywhere. */
static bool may_be_shorter(unsigned type)
{
	return type == MESSAGE_ROWS || type == MESSAGE_LEAVES || any_types[type] == any_text;
}

static void every_truncation_of_a_body_is_refused(void **state)
{
	(void)state;
	for (unsigned type = 1; type <= MESSAGE_TYPE_MAX; type++) {
		CLEANUP_BUF struct buf body = {0};

		sample_body((enum message_type)type, &body);
		for (size_t len = 0; len < body.len; len++) {
			struct slice s = exact(body.p, len);
			int r = any_decode(type, s);

			if (r == 0 && !may_be_shorter(type))
				fail_msg("%s of %zu bytes accepts %zu of them", message_type_name(type), body.len, len);
			exact_free(s);
		}
		buf_put_u8(&body, 0);
		struct slice longer = exact(body.p, body.len);
		assert_int_not_equal(any_decode(type, longer), 0);
		exact_free(longer);
	}
}

static void every_bit_flip_of_a_body_is_refused_or_within_limits(void **state)
{
	unsigned accepted = 0, refused = 0;

	(void)state;
	for (unsigned type = 1; type <= MESSAGE_TYPE_MAX; type++) {
		CLEANUP_BUF struct buf body = {0};

		sample_body((enum message_type)type, &body);
		size_t bits = 8 * (body.len < 400 ? body.len : 400);
		for (size_t bit = 0; bit < bits; bit++) {
			struct slice s = exact(body.p, body.len);
			uint8_t *p = (void *)(uintptr_t)s.p;

			p[bit / 8] ^= (uint8_t)(1u << bit % 8);
			if (any_decode(type, s) == 0)
				accepted++;
			else
				refused++;
			exact_free(s);
		}
	}
	assert_true(accepted > 1000 && refused > 1000);
}

static void every_bit_flip_of_a_frame_is_refused(void **state)
{
	(void)state;
	for (unsigned type = 1; type <= MESSAGE_TYPE_MAX; type++) {
		CLEANUP_BUF struct buf body = {0};

		sample_body((enum message_type)type, &body);
		struct frame f = frame_of((enum message_type)type, &body, 3);
		for (size_t bit = 0; bit < 8 * f.len; bit++) {
			enum message_type got;
			struct slice b;
			size_t need;

			f.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
			int r = frame_peek(f.p, f.len, 3, &need);
			if (r == 0 && need <= f.len) {
				assert_true(frame_open(f.p, need, &got, &b) == -EBADMSG);
			} else if (r == 0) {
				assert_true(need <= FRAME_HEADER_BYTES + message_body_max(type)); /* waits for more */
			} else {
				assert_int_equal(r, -EUCLEAN);
			}
			f.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		free(f.p);
	}
}

static void a_header_is_waited_for(void **state)
{
	CLEANUP_BUF struct buf body = {0};
	size_t need;

	(void)state;
	ping_put(&body, 1);
	struct frame f = frame_of(MESSAGE_PING, &body, 0);
	for (size_t len = 0; len < f.len; len++) {
		struct slice s = exact(f.p, len);

		assert_int_equal(frame_peek(s.p, len, 0, &need), 0);
		assert_int_equal(need, len < FRAME_HEADER_BYTES ? FRAME_HEADER_BYTES : f.len);
		exact_free(s);
	}
	free(f.p);
}

static void frames_out_of_order_are_refused(void **state)
{
	CLEANUP_BUF struct buf body = {0};
	size_t need;

	(void)state;
	ping_put(&body, 1);
	struct frame f = frame_of(MESSAGE_PING, &body, 5);
	assert_int_equal(frame_peek(f.p, f.len, 4, &need), -EUCLEAN);
	assert_int_equal(frame_peek(f.p, f.len, 6, &need), -EUCLEAN);
	assert_int_equal(frame_peek(f.p, f.len, 5, &need), 0);
	free(f.p);
}

/* ---- limits ---- */

/* One field of the sample of a type, set to a value that it may not have. */
struct bad {
	enum message_type type;
	size_t offset, bytes;
	uint64_t value;
};
#define BAD(type, s, field, value)                                                                                               \
	{                                                                                                                        \
		type, offsetof(struct s, field), sizeof(((struct s *)NULL)->field), value                                        \
	}
#define HELLO_IN_WELCOME sizeof(struct wire_welcome)

static const struct bad bads[] = {
    BAD(MESSAGE_HELLO, wire_hello, node_id, 0),
    BAD(MESSAGE_HELLO, wire_hello, node_id, 65536),
    BAD(MESSAGE_HELLO, wire_hello, role, 2),
    BAD(MESSAGE_HELLO, wire_hello, flags, 16),
    BAD(MESSAGE_HELLO, wire_hello, name_len, 65),
    BAD(MESSAGE_HELLO, wire_hello, address_len, 513),
    BAD(MESSAGE_HELLO, wire_hello, zero, 1),
    {MESSAGE_HELLO, sizeof(struct wire_hello), 1, 0},    /* NUL in a name */
    {MESSAGE_HELLO, sizeof(struct wire_hello), 1, 0x1b}, /* what a terminal would obey */
    BAD(MESSAGE_WELCOME, wire_welcome, action, WELCOME_NOTED + 1),
    BAD(MESSAGE_WELCOME, wire_welcome, leader_id, 65536),
    {MESSAGE_WELCOME, HELLO_IN_WELCOME + offsetof(struct wire_hello, role), 4, 7},
    BAD(MESSAGE_REFUSE, wire_refuse, error, 0),
    BAD(MESSAGE_REFUSE, wire_refuse, error, 4096),
    BAD(MESSAGE_REFUSE, wire_refuse, text_len, 513),
    BAD(MESSAGE_REFUSE, wire_refuse, zero, 1),
    BAD(MESSAGE_BATCH, wire_batch, seq, 0),
    BAD(MESSAGE_BATCH, wire_batch, n_records, 0),
    BAD(MESSAGE_BATCH, wire_batch, n_records, 3),
    BAD(MESSAGE_BATCH, wire_batch, n_records, UINT32_MAX),
    BAD(MESSAGE_BATCH, wire_batch, logical_bytes, 95),
    BAD(MESSAGE_BATCH, wire_batch, logical_bytes, UINT32_MAX),
    BAD(MESSAGE_BATCH, wire_batch, n_payload, 0),
    BAD(MESSAGE_BATCH, wire_batch, n_payload, 1025),
    BAD(MESSAGE_BATCH, wire_batch, n_payload, UINT32_MAX),
    BAD(MESSAGE_BATCH, wire_batch, zero, 1),
    BAD(MESSAGE_DATA, wire_data, index, 21846),
    BAD(MESSAGE_DATA, wire_data, n_blocks, 0),
    BAD(MESSAGE_DATA, wire_data, n_blocks, 1),
    BAD(MESSAGE_DATA, wire_data, n_blocks, 513),
    BAD(MESSAGE_DATA, wire_data, fence, 0),                       /* superseded, and no fence */
    {MESSAGE_DATA, offsetof(struct wire_data, superseded), 1, 0}, /* a fence for nothing */
    {MESSAGE_DATA, offsetof(struct wire_data, superseded), 1, 5}, /* a bit behind the last block */
    {MESSAGE_DATA, offsetof(struct wire_data, superseded), 1, 2}, /* superseded, and not zeros */
    {MESSAGE_DATA, offsetof(struct wire_data, superseded) + 63, 1, 0x80},
    BAD(MESSAGE_ACK, wire_ack, durable_seq, 7),
    BAD(MESSAGE_GET_HASHES, wire_get_hashes, n_ranges, 0),
    BAD(MESSAGE_GET_HASHES, wire_get_hashes, n_ranges, 65),
    BAD(MESSAGE_GET_HASHES, wire_get_hashes, rows_each, 0),
    BAD(MESSAGE_GET_HASHES, wire_get_hashes, rows_each, 4097),
    BAD(MESSAGE_GET_HASHES, wire_get_hashes, from_len, 265),
    {MESSAGE_GET_HASHES, offsetof(struct wire_get_hashes, zero) + 5, 1, 1},
    BAD(MESSAGE_HASHES, wire_hashes, n, 0),
    BAD(MESSAGE_HASHES, wire_hashes, n, 65),
    BAD(MESSAGE_HASHES, wire_hashes, n, UINT32_MAX),
    BAD(MESSAGE_HASHES, wire_hashes, zero, 1),
    {MESSAGE_HASHES, sizeof(struct wire_hashes) + offsetof(struct wire_range, n_rows), 4, 4097},
    {MESSAGE_HASHES, sizeof(struct wire_hashes) + offsetof(struct wire_range, to_len), 2, 0},
    {MESSAGE_HASHES, sizeof(struct wire_hashes) + offsetof(struct wire_range, zero), 2, 1},
    {MESSAGE_HASHES, sizeof(struct wire_hashes) + sizeof(struct wire_range) + 9, 1, 'b'}, /* the same end twice */
    {MESSAGE_HASHES, sizeof(struct wire_hashes) + sizeof(struct wire_range) + 9, 1, 'c'}, /* and a falling one */
    BAD(MESSAGE_GET_ROWS, wire_get_rows, from_len, 265),
    BAD(MESSAGE_GET_ROWS, wire_get_rows, to_len, 265),
    BAD(MESSAGE_GET_ROWS, wire_get_rows, zero, 1),
    {MESSAGE_GET_ROWS, sizeof(struct wire_get_rows) + 9, 1, 'b'}, /* an empty range */
    BAD(MESSAGE_ROWS, wire_rows, last, 2),
    {MESSAGE_ROWS, sizeof(struct wire_rows) + offsetof(struct wire_row, key_len), 2, 0},
    {MESSAGE_ROWS, sizeof(struct wire_rows) + offsetof(struct wire_row, key_len), 2, 265},
    {MESSAGE_ROWS, sizeof(struct wire_rows) + offsetof(struct wire_row, value_len), 4, 65537},
    {MESSAGE_ROWS, sizeof(struct wire_rows) + offsetof(struct wire_row, value_len), 4, UINT32_MAX},
    {MESSAGE_ROWS, sizeof(struct wire_rows) + offsetof(struct wire_row, zero), 2, 1},
    BAD(MESSAGE_GET_LEAVES, wire_get_leaves, n, 0),
    BAD(MESSAGE_GET_LEAVES, wire_get_leaves, n, 257),
    BAD(MESSAGE_GET_LEAVES, wire_get_leaves, zero, 1),
    {MESSAGE_GET_LEAVES, sizeof(struct wire_get_leaves) + offsetof(struct wire_leaf, ino), 8, 0},
    {MESSAGE_GET_LEAVES, sizeof(struct wire_get_leaves) + offsetof(struct wire_leaf, wanted), 2, 0},
    {MESSAGE_GET_LEAVES, sizeof(struct wire_get_leaves) + offsetof(struct wire_leaf, superseded), 2, 1},
    {MESSAGE_GET_LEAVES, sizeof(struct wire_get_leaves) + offsetof(struct wire_leaf, zero), 4, 1},
    BAD(MESSAGE_LEAVES, wire_leaves, last, 2),
    BAD(MESSAGE_LEAVES, wire_leaves, fence, 0), /* superseded, and no fence */
    {MESSAGE_LEAVES, sizeof(struct wire_leaves) + offsetof(struct wire_leaf, wanted), 2, 0xffff},
    {MESSAGE_LEAVES, sizeof(struct wire_leaves) + offsetof(struct wire_leaf, superseded), 2, 0x8012}, /* not wanted */
    {MESSAGE_LEAVES, sizeof(struct wire_leaves) + offsetof(struct wire_leaf, superseded), 2, 0x8000},
    {MESSAGE_PEERS, 3, 1, 0}, /* NUL */
};

static void a_value_outside_its_limits_is_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bads); i++) {
		CLEANUP_BUF struct buf body = {0};

		sample_body(bads[i].type, &body);
		struct slice s = exact(body.p, body.len);
		memcpy((uint8_t *)(uintptr_t)s.p + bads[i].offset, &bads[i].value, bads[i].bytes);
		int r = any_decode(bads[i].type, s);
		if (r != -EUCLEAN)
			fail_msg("%s with %#llx at %zu: %d", message_type_name(bads[i].type), (unsigned long long)bads[i].value,
				 bads[i].offset, r);
		exact_free(s);
	}
}

static void another_version_is_named_before_anything_else(void **state)
{
	const le32 version = le32_make(WIRE_VERSION + 1);
	struct hello hello;

	(void)state;
	struct slice s = exact(&version, sizeof(version));
	assert_int_equal(hello_get(s, &hello), -EPROTONOSUPPORT);
	exact_free(s);
}

/* Nothing is waited for, and so nothing allocated, that could not be a body of its type. */
static void a_frame_above_the_limit_of_its_type_is_refused_by_its_header(void **state)
{
	(void)state;
	for (unsigned type = 0; type < 256; type++) {
		bool known = type >= 1 && type <= MESSAGE_TYPE_MAX;
		struct frame_header h = {.magic = le32_make(WIRE_MAGIC), .type = (uint8_t)type};
		size_t need;

		h.bytes = le32_make(message_body_max(type));
		assert_int_equal(frame_peek(&h, sizeof(h), 0, &need), known ? 0 : -EUCLEAN);
		h.bytes = le32_make(message_body_max(type) + 1);
		assert_int_equal(frame_peek(&h, sizeof(h), 0, &need), -EUCLEAN);
		h.bytes = le32_make(UINT32_MAX);
		assert_int_equal(frame_peek(&h, sizeof(h), 0, &need), -EUCLEAN);
	}
}

/* The largest of each kind that a sender may make fits its frame. */
static void the_largest_messages_fit(void **state)
{
	static uint8_t room[BATCH_PAYLOAD_MAX_BLOCKS * BLOCK_SIZE];
	const struct leaf_data leaf = {.ino = 1, .wanted = 0xffff};
	const size_t n_leaves = WIRE_LEAVES_BYTES / (WIRE_SLOTS * BLOCK_SIZE);
	CLEANUP_BUF struct buf batch = {0}, data = {0}, rows = {0}, leaves = {0};

	(void)state;
	batch_put(&batch, &(struct shipped_batch){.seq = 1,
						  .n_records = 1,
						  .logical_bytes = BATCH_LOGICAL_MAX_BYTES,
						  .n_payload = BATCH_PAYLOAD_MAX_BLOCKS,
						  .logical = room,
						  .payload = room});
	data_put(&data, &(struct shipped_data){.n_blocks = RECORD_WRITE_BLOCKS_MAX, .blocks = room});
	rows_begin(&rows, false);
	while (rows.len < WIRE_ROWS_BYTES)
		row_put(&rows, &(struct row){{room, WIRE_KEY_MAX}, {room, WIRE_VALUE_MAX}});
	leaves_begin(&leaves, false, 0);
	for (size_t i = 0; i < n_leaves; i++)
		leaf_put(&leaves, &leaf, room);
	const struct {
		enum message_type type;
		const struct buf *body;
	} all[] = {{MESSAGE_BATCH, &batch}, {MESSAGE_DATA, &data}, {MESSAGE_ROWS, &rows}, {MESSAGE_LEAVES, &leaves}};
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		struct frame f = frame_of(all[i].type, all[i].body, 0);

		assert_int_equal(any_decode(all[i].type, f.body), 0);
		free(f.p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_message_comes_back_as_it_was),
	    cmocka_unit_test(every_sample_is_valid_and_has_a_name),
	    cmocka_unit_test(every_truncation_of_a_body_is_refused),
	    cmocka_unit_test(every_bit_flip_of_a_body_is_refused_or_within_limits),
	    cmocka_unit_test(every_bit_flip_of_a_frame_is_refused),
	    cmocka_unit_test(a_header_is_waited_for),
	    cmocka_unit_test(frames_out_of_order_are_refused),
	    cmocka_unit_test(a_value_outside_its_limits_is_refused),
	    cmocka_unit_test(another_version_is_named_before_anything_else),
	    cmocka_unit_test(a_frame_above_the_limit_of_its_type_is_refused_by_its_header),
	    cmocka_unit_test(the_largest_messages_fit),
	};

	rng = rng_derive(1, 2, 3);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
