/* test_node_hostile.c: what a peer may not say (guarantee G11): damaged, oversized, out of place, too much, by hearsay. */
#include "tests/unit/node_world.h"

/* ---- hostile bytes ---- */

/* What a leader sends a follower from HELLO's answer on, and a follower to try it on. */
static void record_stream(void)
{
	begin_pair(33);
	drop_all();
	for (uint32_t i = 0; i < 2; i++)
		write_rows(0, 1);
	write_data(0, 1, 1);
	w.link[0][1] = false; /* no announcement */
	w.recording = true;
	until(is_same(0, 1));
	steps_for(NSEC_PER_SEC / 5);
	w.recording = false;
	drop_all();
}

/* A follower that stands where node 2 stood, given `len` bytes; the error. */
static int replay(const uint8_t *p, size_t len, uint64_t *ret_applied)
{
	struct fake *f = fake_new(2, ROLE_FOLLOWER), *theirs = w.seat[0].f;
	struct session *s;
	struct node *n;
	int64_t deadline_ns;
	const struct node_config c = {.volume = &f->volume, .clock = &world_clock, .peers = make_peers(2, 1)};
	int r = 0;

	/* The first batches are an EPOCH and one row. */
	f->point.resyncing = false;
	for (uint32_t i = 0; i < 2; i++) {
		struct fake_batch b = theirs->batch[i];
		b.records = malloc(b.b.logical_bytes);
		memcpy(b.records, theirs->batch[i].records, b.b.logical_bytes);
		fake_apply(f, b.records, b.b.seq, NULL);
		fake_push(f, &b);
		f->point.applied_seq++;
	}
	fake_set_durable(f);
	assert_int_equal(node_new(&c, &n), 0);
	assert_int_equal(session_new(n, 1, true, &s), 0);
	for (size_t at = 0; at < len && !r;) {
		size_t piece = rng_between(&w.rng, 1, 4096);
		piece = piece < len - at ? piece : len - at;
		r = session_input(s, p + at, piece);
		if (!r)
			r = session_pump(s, &deadline_ns);
		at += piece;
	}
	session_sent(s, session_output(s).len);
	session_free(s, r, "end");
	/* Whatever came, it is a prefix of the leader's. */
	for (uint32_t i = 0; i < f->n_batches; i++)
		assert_int_equal(f->batch[i].b.hash, theirs->batch[i].b.hash);
	*ret_applied = f->point.applied_seq;
	node_free(n);
	fake_free(f);
	return r;
}

static void every_bit_of_a_stream_is_covered(void **state)
{
	uint64_t applied;

	(void)state;
	record_stream();
	assert_true(w.record_len > 1500);
	assert_int_equal(replay(w.record, w.record_len, &applied), 0);
	assert_int_equal(applied, w.seat[0].f->point.applied_seq);
	/* Every bit of what is not file data, every 61st byte of that. */
	for (size_t i = 0; i < w.record_len; i += i < 2500 ? 1 : 61) {
		unsigned bit = i < 2500 ? 8 : 1;
		while (bit-- > 0) {
			w.record[i] ^= (uint8_t)(1u << bit);
			int r = replay(w.record, w.record_len, &applied);
			/* A longer length waits for bytes that do not come. */
			if (r == 0)
				assert_true(applied < w.seat[0].f->point.applied_seq);
			w.record[i] ^= (uint8_t)(1u << bit);
		}
	}
	world_end();
}

static void a_stream_may_end_at_any_byte(void **state)
{
	uint64_t applied;

	(void)state;
	record_stream();
	for (size_t len = 0; len <= w.record_len; len += len < 3000 ? 1 : 97)
		assert_int_equal(replay(w.record, len, &applied), 0);
	world_end();
}

static void garbage_is_refused(void **state)
{
	uint8_t junk[512];
	uint64_t applied;

	(void)state;
	record_stream();
	for (uint32_t i = 0; i < 2000; i++) {
		for (uint32_t k = 0; k < sizeof(junk); k++)
			junk[k] = (uint8_t)rng_u64(&w.rng);
		if (i % 2) /* with a good beginning */
			memcpy(junk, w.record, 1 + rng_below(&w.rng, 24));
		assert_true(replay(junk, sizeof(junk), &applied) < 0);
		assert_int_equal(applied, 2);
	}
	world_end();
}

/* A frame by hand, right in all but what the test is about. */
static void put_frame(struct buf *b, enum message_type type, uint64_t number, const void *body, size_t len)
{
	size_t at = frame_begin(b, type);

	buf_put(b, body, len);
	frame_end(b, at, number);
}

static void an_oversized_frame_gets_no_memory(void **state)
{
	struct session *s;

	(void)state;
	world_begin(2, 34);
	for (unsigned type = 0; type < 256; type++) {
		struct frame_header h = {.magic = le32_make(WIRE_MAGIC), .type = (uint8_t)type};
		h.bytes = le32_make(message_body_max(type) + 1);
		assert_int_equal(session_new(w.seat[0].node, 2, false, &s), 0);
		assert_true(session_input(s, &h, sizeof(h)) < 0);
		assert_true(s->in_cap <= 4096);
		session_free(s, 0, NULL);
		/* As long as it may be, but not now. */
		if (type == MESSAGE_HELLO || type == MESSAGE_REFUSE)
			continue;
		h.bytes = le32_make(message_body_max(type));
		assert_int_equal(session_new(w.seat[0].node, 2, false, &s), 0);
		assert_true(session_input(s, &h, sizeof(h)) < 0);
		assert_true(s->in_cap <= 4096);
		session_free(s, 0, NULL);
	}
	world_end();
}

/* The session at node i of the connection that streams. */
static struct session *session_at(uint32_t i)
{
	for (uint32_t k = 0; k < CONNS_MAX; k++)
		for (unsigned e = 0; e < 2; e++)
			if (w.conn[k].used && w.conn[k].end[e].s && w.conn[k].end[e].node == i)
				return w.conn[k].end[e].s;
	fail_msg("no session");
	return NULL;
}

static void a_message_out_of_place_ends_the_session(void **state)
{
	static const uint8_t zeros[8192];

	(void)state;
	for (uint32_t node = 0; node < 2; node++)
		for (unsigned type = MESSAGE_HELLO; type <= MESSAGE_TYPE_MAX; type++) {
			CLEANUP_BUF struct buf b = {0};
			begin_pair(35);
			struct session *s = session_at(node);
			uint64_t applied = w.seat[1].f->point.applied_seq, acked = w.seat[0].acked[0];
			size_t len = message_body_max(type) < sizeof(zeros) ? message_body_max(type) : sizeof(zeros);
			put_frame(&b, (enum message_type)type, s->in_number, zeros, len);
			int r = session_input(s, b.p, b.len);
			bool fine = type == MESSAGE_PING || type == MESSAGE_PONG || (type == MESSAGE_STATE && node == 1);
			assert_int_equal(r == 0, fine);
			if (!fine && type != MESSAGE_REFUSE) {
				/* The other side is told why. */
				struct slice out = session_output(s);
				assert_true(out.len > FRAME_HEADER_BYTES);
			}
			assert_int_equal(w.seat[1].f->point.applied_seq, applied);
			assert_int_equal(w.seat[0].acked[0], acked);
			assert_int_equal(w.seat[1].f->n_promotes, 0);
			world_end();
		}
}

static void a_follower_cannot_ack_what_it_was_not_sent(void **state)
{
	(void)state;
	for (unsigned less = 0; less < 2; less++) {
		CLEANUP_BUF struct buf b = {0};
		begin_pair(36);
		struct session *s = session_at(0);
		uint64_t seq = w.seat[0].f->point.durable_seq;
		const struct ack m = less ? (struct ack){seq - 1, seq} : (struct ack){seq, seq + 1};
		size_t at = frame_begin(&b, MESSAGE_ACK);
		ack_put(&b, &m);
		frame_end(&b, at, s->in_number);
		assert_int_equal(session_input(s, b.p, b.len), -EPROTO);
		assert_int_equal(w.seat[0].acked[0], seq);
		world_end();
	}
}

static int input_frame(struct session *s, enum message_type type, void (*put)(struct buf *b, const void *m), const void *m)
{
	CLEANUP_BUF struct buf b = {0};
	size_t at = frame_begin(&b, type);

	put(&b, m);
	frame_end(&b, at, s->in_number);
	return session_input(s, b.p, b.len);
}

static void put_handover(struct buf *b, const void *m)
{
	handover_put(b, m);
}

static void nobody_takes_a_lead_that_is_not_meant_for_it(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 6; i++) {
		begin_pair(40);
		const struct replica_point *at = &w.seat[1].f->point;
		struct handover m = {at->durable_seq, at->hash, epoch_make(2, 2)};
		m.seq += i == 0;
		m.seq -= i == 1;
		m.hash ^= i == 2;
		m.epoch = i == 3 ? epoch_make(2, 1) : i == 4 ? epoch_make(1, 1) : m.epoch;
		int r = input_frame(session_at(1), MESSAGE_HANDOVER, put_handover, &m);
		assert_int_equal(r, i == 5 ? -ESHUTDOWN : -EPROTO);
		assert_int_equal(w.seat[1].f->n_promotes, i == 5);
		world_end();
	}
}

static void put_batch(struct buf *b, const void *m)
{
	batch_put(b, m);
}

static void put_data(struct buf *b, const void *m)
{
	data_put(b, m);
}

/* The volume would refuse the same; here it is not even asked. */
static void batches_and_their_data_come_in_order(void **state)
{
	static const uint8_t block[BLOCK_SIZE];

	(void)state;
	for (unsigned i = 0; i < 5; i++) {
		begin_pair(41);
		struct session *s = session_at(1);
		w.frozen[1] = true;
		write_data(0, 2, 1000);
		struct shipped_batch b = fake_batch_at(w.seat[0].f, w.seat[0].f->point.durable_seq)->b;
		struct shipped_data d = {.index = i == 3, .n_blocks = 1, .blocks = block};
		b.n_payload = 0;
		b.seq += i == 0;
		b.seq -= i == 1;
		if (i == 4)
			assert_int_equal(input_frame(s, MESSAGE_DATA, put_data, &d), -EPROTO);
		else
			assert_int_equal(input_frame(s, MESSAGE_BATCH, put_batch, &b), i < 2 ? -EPROTO : 0);
		if (i == 2) /* before its data is there */
			assert_int_equal(input_frame(s, MESSAGE_BATCH, put_batch, &b), -EPROTO);
		if (i == 3)
			assert_int_equal(input_frame(s, MESSAGE_DATA, put_data, &d), -EPROTO);
		w.frozen[1] = false;
		until(is_same(0, 1));
		world_end();
	}
}

static void an_attempt_to_lead_in_the_middle_of_a_batch_leaves_nothing_of_it(void **state)
{
	(void)state;
	begin_pair(42);
	w.chunk_max = 20000;
	write_data(0, 20, 1000);
	until(w.seat[1].f->taking && w.seat[1].f->taken_data);
	w.seat[1].f->fail_promote = -EIO;
	assert_int_equal(node_promote(w.seat[1].node), -EIO);
	assert_false(w.seat[1].f->taking);
	until(is_same(0, 1));
	world_end();
}

static void who_does_not_read_gets_no_memory(void **state)
{
	(void)state;
	begin_pair(37);
	struct session *s = session_at(0);
	CLEANUP_BUF struct buf b = {0};
	int64_t deadline_ns;
	int r = 0;
	for (uint64_t i = 0; i < 400000 && !r; i++) {
		size_t at = frame_begin(&b, MESSAGE_PING);
		ping_put(&b, i);
		frame_end(&b, at, s->in_number);
		r = session_input(s, b.p, b.len);
		buf_reset(&b);
	}
	assert_int_equal(r, 0);
	assert_true(session_pending(s) <= SESSION_OUT_MAX + 100);
	for (uint32_t i = 0; i < 100; i++) {
		write_data(0, 50, 1000);
		assert_int_equal(session_pump(s, &deadline_ns), 0);
	}
	assert_true(s->out.cap <= SESSION_MEMORY_MAX / 2);
	world_end();
}

static void a_hello_must_be_of_who_it_is_from(void **state)
{
	static const struct {
		int expect;
		const char *what;
	} cases[] = {{0, "as it is"},
		     {-EXDEV, "another volume"},
		     {-EACCES, "another node's id"},
		     {-EACCES, "another uuid"},
		     {-EPROTO, "history above promise"},
		     {-EPROTO, "epochs used up"},
		     {-EPROTO, "an announcement of a follower"},
		     {-EPROTO, "a leader that wants to follow"}};

	(void)state;
	for (uint32_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct session *s;
		begin_pair(38);
		drop_all();
		struct hello h = hello_of(1);
		h.volume[0] ^= i == 1;
		h.node_id += i == 2;
		h.node[3] ^= i == 3;
		h.history += i == 4;
		h.promised = i == 5 ? UINT64_MAX : h.promised;
		h.flags = i == 6 ? HELLO_ANNOUNCE : 0;
		h.role = i == 7 ? ROLE_LEADER : h.role;
		assert_int_equal(session_new(w.seat[0].node, 2, false, &s), 0);
		int r = say(s, &h);
		if (r != cases[i].expect)
			fail_msg("%s: %d", cases[i].what, r);
		assert_int_equal(w.seat[0].f->point.promised, epoch_make(1, 1));
		session_free(s, 0, NULL);
		world_end();
	}
}

static void put_welcome(struct buf *b, const void *m)
{
	welcome_put(b, m);
}

/* ---- a resync by hand ---- */

static void put_get_hashes(struct buf *b, const void *m)
{
	get_hashes_put(b, m);
}

static void put_get_rows(struct buf *b, const void *m)
{
	get_rows_put(b, m);
}

static void put_get_leaves(struct buf *b, const void *m)
{
	get_leaves_put(b, m);
}

/* A leader's session with a node that needs a resync; WELCOME is sent. */
static struct session *begin_serving(uint32_t rows)
{
	struct session *s;

	world_begin(2, 44);
	w.link[0][1] = w.link[1][0] = false;
	for (uint32_t i = 0; i < rows; i++) {
		char key[16];
		snprintf(key, sizeof(key), "D%03u", i);
		write_one(0, key, "v");
	}
	struct hello h = hello_of(1);
	h.flags = HELLO_RESYNCING;
	assert_int_equal(session_new(w.seat[0].node, 2, false, &s), 0);
	assert_int_equal(say(s, &h), 0);
	session_sent(s, session_output(s).len);
	return s;
}

/* What the session says next. */
static struct slice next_answer(struct session *s, enum message_type expect)
{
	enum message_type type = MESSAGE_REFUSE;
	struct slice out, body = {0};
	int64_t deadline_ns;
	size_t need;

	assert_int_equal(session_pump(s, &deadline_ns), 0);
	out = session_output(s);
	const struct frame_header *head = out.p;
	assert_true(out.len >= FRAME_HEADER_BYTES);
	assert_int_equal(frame_peek(out.p, out.len, le64_get(head->number), &need), 0);
	assert_int_equal(frame_open(out.p, need, &type, &body), 0);
	assert_int_equal(type, expect);
	session_sent(s, need);
	return body;
}

static void a_leader_answers_as_many_ranges_as_were_asked_for(void **state)
{
	const struct get_hashes all = {.n_ranges = 64, .rows_each = 4}, some = {.n_ranges = 2, .rows_each = 3};
	struct hashes m;

	(void)state;
	struct session *s = begin_serving(8); /* and an epoch */
	next_answer(s, MESSAGE_VIEW);
	assert_int_equal(input_frame(s, MESSAGE_GET_HASHES, put_get_hashes, &all), 0);
	assert_int_equal(hashes_get(next_answer(s, MESSAGE_HASHES), &m), 0);
	assert_true(m.n == 3 && m.range[0].n_rows == 4 && m.range[1].n_rows == 4 && m.range[2].n_rows == 1);
	assert_true(m.range[0].to.len == 4 && memcmp(m.range[0].to.p, "D004", 4) == 0 && m.range[2].to.len == 0);
	assert_int_equal(input_frame(s, MESSAGE_GET_HASHES, put_get_hashes, &some), 0);
	assert_int_equal(hashes_get(next_answer(s, MESSAGE_HASHES), &m), 0);
	assert_true(m.n == 2 && m.range[1].n_rows == 3 && m.range[1].to.len == 4 && memcmp(m.range[1].to.p, "D006", 4) == 0);
	session_free(s, 0, NULL);
	world_end();
}

static void requests_come_after_the_view_and_not_too_many(void **state)
{
	const struct get_hashes m = {.n_ranges = 1, .rows_each = 1};
	const struct get_rows rows = {.to = {"E", 1}};
	struct get_leaves *leaves = calloc(1, sizeof(*leaves));
	int r = 0;

	(void)state;
	struct session *s = begin_serving(1);
	assert_int_equal(input_frame(s, MESSAGE_GET_HASHES, put_get_hashes, &m), -EPROTO);
	session_free(s, 0, NULL);
	world_end();
	s = begin_serving(1);
	next_answer(s, MESSAGE_VIEW);
	leaves->n = WIRE_LEAVES_MAX;
	for (uint32_t i = 0; i < leaves->n; i++)
		leaves->leaf[i] = (struct leaf_data){.ino = 7, .leaf = i, .wanted = 0xffff};
	for (uint32_t i = 0; i < REQUESTS_MAX; i++) {
		r = i % 2 ? input_frame(s, MESSAGE_GET_LEAVES, put_get_leaves, leaves)
			  : input_frame(s, MESSAGE_GET_ROWS, put_get_rows, &rows);
		assert_int_equal(r, 0);
	}
	int64_t deadline_ns;
	assert_int_equal(session_pump(s, &deadline_ns), 0);
	assert_true(s->out.cap <= SESSION_MEMORY_MAX / 2);
	for (uint32_t i = 0; i <= REQUESTS_MAX && !r; i++)
		r = input_frame(s, MESSAGE_GET_LEAVES, put_get_leaves, leaves);
	assert_int_equal(r, -EPROTO);
	session_free(s, 0, NULL);
	free(leaves);
	world_end();
}

static void put_nothing(struct buf *b, const void *m)
{
	(void)b;
	(void)m;
}

static void nobody_is_resynced_while_requests_are_open(void **state)
{
	const struct get_hashes m = {.n_ranges = 1, .rows_each = 1};

	(void)state;
	for (unsigned open = 0; open < 2; open++) {
		struct session *s = begin_serving(1);
		next_answer(s, MESSAGE_VIEW);
		if (open)
			assert_int_equal(input_frame(s, MESSAGE_GET_HASHES, put_get_hashes, &m), 0);
		assert_int_equal(input_frame(s, MESSAGE_RESYNCED, put_nothing, NULL), open ? -EPROTO : 0);
		assert_int_equal(w.seat[0].n_live, !open);
		assert_int_equal(w.seat[0].acked[0], open ? 0 : w.seat[0].f->point.durable_seq);
		session_free(s, 0, NULL);
		world_end();
	}
}

struct pulled {
	struct hashes hashes;
	struct buf rows;
};

static void put_hashes(struct buf *b, const void *m)
{
	hashes_put(b, m);
}

static void put_view(struct buf *b, const void *m)
{
	view_put(b, m);
}

static void put_rows(struct buf *b, const void *m)
{
	const struct buf *rows = m;

	rows_begin(b, true);
	buf_put(b, rows->p, rows->len);
}

static void put_leaf_answer(struct buf *b, const void *m)
{
	static const uint8_t blocks[FAKE_LEAF];

	leaves_begin(b, true, 0);
	leaf_put(b, m, blocks);
}

/* A follower's session that pulls; VIEW and one HASHES have come: a leaf row of inode 1, whose block is not zeros. */
static struct session *begin_pulling(struct pulled *p)
{
	static const uint8_t value[] = {1, 0, 0, 0, 1, 2, 3, 4};
	struct replica_view_info view = {.seq = 5, .epoch = epoch_make(1, 1), .n_inodes = 1};
	uint8_t key[17];
	struct session *s;
	int64_t deadline_ns;

	world_begin(2, 45);
	w.link[0][1] = w.link[1][0] = false;
	fake_leaf_key(key, 1, 0);
	const struct row row = {{key, sizeof(key)}, {value, sizeof(value)}};
	*p = (struct pulled){.hashes = {.n = 1, .range = {{.hash = row_hash(0, &row), .n_rows = 1}}}};
	row_put(&p->rows, &row);
	struct welcome m = {.self = hello_of(0), .action = WELCOME_RESYNC};
	assert_int_equal(session_new(w.seat[1].node, 1, true, &s), 0);
	assert_int_equal(input_frame(s, MESSAGE_WELCOME, put_welcome, &m), 0);
	assert_int_equal(input_frame(s, MESSAGE_VIEW, put_view, &view), 0);
	assert_int_equal(session_pump(s, &deadline_ns), 0);
	return s;
}

static void end_pulling(struct session *s, struct pulled *p)
{
	assert_true(w.seat[1].f->point.resyncing);
	session_free(s, 0, NULL);
	buf_free(&p->rows);
	world_end();
}

static void a_pull_takes_only_what_it_asked_for(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 9; i++) {
		struct pulled p;
		int64_t deadline_ns;
		struct session *s = begin_pulling(&p);
		struct leaf_data d = {.ino = 1, .wanted = 1, .crc = {0x04030201}};
		struct replica_view_info again = {.seq = 6};
		if (i == 0)
			assert_int_equal(input_frame(s, MESSAGE_VIEW, put_view, &again), -EPROTO);
		else if (i == 1)
			assert_int_equal(input_frame(s, MESSAGE_ROWS, put_rows, &p.rows), -EPROTO);
		p.hashes.range[0].n_rows += i == 2 ? 600 : 0;
		if (i < 2) {
			end_pulling(s, &p);
			continue;
		}
		assert_int_equal(input_frame(s, MESSAGE_HASHES, put_hashes, &p.hashes), i == 2 ? -EPROTO : 0);
		if (i == 2) {
			end_pulling(s, &p);
			continue;
		}
		assert_int_equal(session_pump(s, &deadline_ns), 0);
		if (i == 3) { /* one row more than the range has */
			const struct row more = {{"F", 1}, {"x", 1}};
			row_put(&p.rows, &more);
		}
		if (i == 4)
			p.rows.len = 0;
		assert_int_equal(input_frame(s, MESSAGE_ROWS, put_rows, &p.rows), i == 3 ? -EPROTO : i == 4 ? -EBADMSG : 0);
		if (i < 5) {
			end_pulling(s, &p);
			continue;
		}
		assert_int_equal(session_pump(s, &deadline_ns), 0);
		d.ino += i == 5;
		d.wanted = i == 6 ? 3 : 1;
		d.crc[0] += i == 7;
		int r = input_frame(s, MESSAGE_LEAVES, put_leaf_answer, &d);
		assert_int_equal(r, i == 8 ? -EBADMSG : -EPROTO); /* the data is zeros, its CRC is not */
		end_pulling(s, &p);
	}
}

static void a_welcome_must_fit_what_was_said(void **state)
{
	static const struct {
		enum welcome_action action;
		bool empty; /* who dials needs a resync */
		int expect;
	} cases[] = {{WELCOME_STREAM, false, 0},      {WELCOME_STREAM, true, -EPROTO},   {WELCOME_RESYNC, true, 0},
		     {WELCOME_NOTED, false, -EPROTO}, {WELCOME_CONFLICT, false, -EBADE}, {WELCOME_NOT_LEADER, false, 0}};

	(void)state;
	for (uint32_t i = 0; i < ARRAY_SIZE(cases); i++)
		for (unsigned follower = 0; follower < 2; follower++) {
			struct session *s;
			begin_pair(43);
			drop_all();
			w.seat[1].f->point.resyncing = cases[i].empty;
			struct welcome m = {.self = hello_of(0), .action = cases[i].action};
			m.self.role = follower ? ROLE_FOLLOWER : ROLE_LEADER;
			assert_int_equal(session_new(w.seat[1].node, 1, true, &s), 0);
			int expect = follower && cases[i].action <= WELCOME_RESYNC ? -ESTALE : cases[i].expect;
			assert_int_equal(input_frame(s, MESSAGE_WELCOME, put_welcome, &m), expect);
			session_free(s, 0, NULL);
			w.seat[1].f->point.resyncing = false;
			world_end();
		}
}

/* ---- who leads, by hearsay ---- */

static void put_peers(struct buf *b, const void *m)
{
	CLEANUP_BUF struct buf json = {0};

	peers_print(m, &json);
	buf_put_u8(&json, '\0');
	text_put(b, (const char *)json.p);
}

static void put_junk(struct buf *b, const void *m)
{
	(void)m;
	text_put(b, "{\"version\": 9}");
}

static void put_refuse(struct buf *b, const void *m)
{
	(void)m;
	refuse_put(b, &(struct refuse){.error = -EIO, .text = "no"});
}

/* Node 3, which has a list of (2.2, 5), was told by node 2 that it does not lead. */
static struct session *begin_hearsay(void)
{
	struct session *s;
	const struct peers own = without_the_first(epoch_make(2, 2), 5);

	world_begin(3, 51);
	until(is_same(0, 1) && is_same(0, 2));
	drop_all();
	w.seat[1].f->point.promised = w.seat[2].f->point.promised = epoch_make(3, 1);
	node_refresh(w.seat[1].node);
	node_refresh(w.seat[2].node);
	assert_int_equal(node_set_peers(w.seat[2].node, &own), 0);
	w.seat[2].n_peers_changed = 0;
	struct welcome m = {.self = hello_of(1), .action = WELCOME_NOT_LEADER, .leader_id = 1};
	assert_int_equal(session_new(w.seat[2].node, 2, true, &s), 0);
	assert_int_equal(input_frame(s, MESSAGE_WELCOME, put_welcome, &m), 0);
	return s;
}

static void a_list_by_hearsay_counts_when_it_is_newer(void **state)
{
	const struct {
		uint64_t epoch, version;
		int expect;
		bool taken;
	} cases[] = {
	    {epoch_make(2, 2), 6, -ESHUTDOWN, true},   {epoch_make(2, 2), 5, -ESHUTDOWN, false},
	    {epoch_make(1, 9), 99, -ESHUTDOWN, false}, {epoch_make(3, 1), 1, -ESHUTDOWN, true},
	    {epoch_make(3, 2), 1, -EPROTO, false},     {0, 99, -ESHUTDOWN, false},
	};

	(void)state;
	for (uint32_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct session *s = begin_hearsay();
		struct peers p = make_peers(3, cases[i].version);
		p.epoch = cases[i].epoch;
		assert_int_equal(input_frame(s, MESSAGE_PEERS, put_peers, &p), cases[i].expect);
		assert_int_equal(w.seat[2].n_peers_changed, cases[i].taken);
		mutex_lock(&w.seat[2].node->lock);
		assert_int_equal(node_leader_locked(w.seat[2].node), cases[i].taken ? 1 : 0);
		mutex_unlock(&w.seat[2].node->lock);
		session_free(s, 0, NULL);
		world_end();
	}
}

static void nothing_but_a_list_comes_from_who_does_not_lead(void **state)
{
	(void)state;
	for (unsigned type = MESSAGE_HELLO; type <= MESSAGE_TYPE_MAX; type++) {
		struct session *s = begin_hearsay();
		int r;
		if (type == MESSAGE_PEERS)
			r = input_frame(s, MESSAGE_PEERS, put_junk, NULL);
		else if (type == MESSAGE_REFUSE)
			r = input_frame(s, MESSAGE_REFUSE, put_refuse, NULL);
		else
			r = input_frame(s, (enum message_type)type, put_nothing, NULL);
		assert_int_equal(r, type == MESSAGE_PEERS ? -EUCLEAN : type == MESSAGE_REFUSE ? -EIO : -EPROTO);
		assert_int_equal(w.seat[2].n_peers_changed, 0);
		session_free(s, 0, NULL);
		world_end();
	}
}

/* One of an older release says no more; one that keeps its promise says it soon. */
static void who_sends_no_list_is_not_waited_for(void **state)
{
	int64_t deadline_ns;

	(void)state;
	struct session *s = begin_hearsay();
	assert_int_equal(session_pump(s, &deadline_ns), 0);
	w.mono_ns += SESSION_DEAD_NS;
	assert_int_equal(session_pump(s, &deadline_ns), -ETIMEDOUT);
	session_free(s, 0, NULL);
	world_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_bit_of_a_stream_is_covered),
	    cmocka_unit_test(a_stream_may_end_at_any_byte),
	    cmocka_unit_test(garbage_is_refused),
	    cmocka_unit_test(an_oversized_frame_gets_no_memory),
	    cmocka_unit_test(a_message_out_of_place_ends_the_session),
	    cmocka_unit_test(a_follower_cannot_ack_what_it_was_not_sent),
	    cmocka_unit_test(nobody_takes_a_lead_that_is_not_meant_for_it),
	    cmocka_unit_test(batches_and_their_data_come_in_order),
	    cmocka_unit_test(an_attempt_to_lead_in_the_middle_of_a_batch_leaves_nothing_of_it),
	    cmocka_unit_test(who_does_not_read_gets_no_memory),
	    cmocka_unit_test(a_hello_must_be_of_who_it_is_from),
	    cmocka_unit_test(a_leader_answers_as_many_ranges_as_were_asked_for),
	    cmocka_unit_test(requests_come_after_the_view_and_not_too_many),
	    cmocka_unit_test(nobody_is_resynced_while_requests_are_open),
	    cmocka_unit_test(a_pull_takes_only_what_it_asked_for),
	    cmocka_unit_test(a_welcome_must_fit_what_was_said),
	    cmocka_unit_test(a_list_by_hearsay_counts_when_it_is_newer),
	    cmocka_unit_test(nothing_but_a_list_comes_from_who_does_not_lead),
	    cmocka_unit_test(who_sends_no_list_is_not_waited_for),
	};

	log_setup(LOG_LEVEL_ERROR, true);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
