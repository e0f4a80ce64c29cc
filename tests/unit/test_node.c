/*
 * test_node.c: node.h: up to three nodes on volumes in memory, connected by pipes that cut what is sent wherever they like.
 *
 * The world turns in steps: every node dials, every end of a connection pumps, some bytes of each pipe arrive, time passes.  The
 * invariant that is looked at after each step: no two nodes lead and let writers write at once while a hand-over is the only
 * thing that moves the lead (world.planned), and no follower shows a batch that the leader of its epoch does not have.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>

#include "base/log.h"
#include "replicate/node_internal.h"
#include "tests/lib/rng.h"
#include "tests/unit/fake_volume.h"

#define NODES     3u
#define CONNS_MAX 16u
#define STEP_NS   (NSEC_PER_SEC / 50)
#define STEPS_MAX 20000u

struct end {
	struct session *s; /* NULL: over */
	uint32_t node;     /* index */
	struct buf in;     /* on its way here */
	bool eof;          /* nothing comes behind that */
	int error;
};
struct conn {
	struct end end[2]; /* the dialer first */
	bool used;
};
struct seat {
	struct fake *f;
	struct node *node;
	uint64_t acked[PEERS_MAX];
	uint32_t n_known, n_live, n_roles, n_wakes, n_peers_changed, n_dials;
	struct peers peers;
};
static struct world {
	struct seat seat[NODES];
	struct conn conn[CONNS_MAX];
	uint32_t n;
	struct rng rng;
	int64_t mono_ns;
	uint32_t chunk_max; /* bytes that arrive at once */
	bool link[NODES][NODES];
	bool planned;
	bool frozen[NODES]; /* not driven */
	uint64_t moved, cut_at;
	uint8_t *record; /* bytes to node 1, for replaying them damaged; owned */
	size_t record_len;
	bool recording;
} w;

static int64_t world_mono(const struct clock *c)
{
	(void)c;
	return w.mono_ns;
}
static int64_t world_real(const struct clock *c)
{
	(void)c;
	return w.mono_ns + 1000 * NSEC_PER_SEC;
}
static const struct clock world_clock = {.real_ns = world_real, .mono_ns = world_mono};

/* ---- hooks ---- */

static void on_acked(void *ctx, const uint64_t *durable, uint32_t n_known, uint32_t n_live)
{
	struct seat *t = ctx;

	for (uint32_t i = 1; i < n_known; i++)
		assert_true(durable[i - 1] >= durable[i]);
	memcpy(t->acked, durable, n_known * sizeof(*durable));
	t->n_known = n_known;
	t->n_live = n_live;
}
static void on_role(void *ctx, enum replica_role role)
{
	struct seat *t = ctx;

	assert_int_equal(role, t->f->point.role);
	t->n_roles++;
}
static void on_wake(void *ctx)
{
	((struct seat *)ctx)->n_wakes++;
}
static void on_peers(void *ctx, const struct peers *p)
{
	struct seat *t = ctx;

	t->n_peers_changed++;
	t->peers = *p;
}

/* ---- the world ---- */

static struct peers make_peers(uint32_t n, uint64_t version)
{
	struct peers p = {.version = version, .next_id = n + 1, .n = n};

	for (uint32_t i = 0; i < n; i++) {
		p.peer[i].node_id = i + 1;
		memset(p.peer[i].node, (int)i + 1, sizeof(p.peer[i].node));
		snprintf(p.peer[i].name, sizeof(p.peer[i].name), "n%u", i + 1);
		snprintf(p.peer[i].address, sizeof(p.peer[i].address), "host%u:1", i + 1);
	}
	return p;
}

static void start_node(uint32_t i)
{
	struct seat *t = &w.seat[i];
	const struct node_config c = {
	    .volume = &t->f->volume,
	    .clock = &world_clock,
	    .peers = make_peers(w.n, 1),
	    .hooks = {t, on_acked, on_role, on_wake, on_peers},
	};

	assert_int_equal(node_new(&c, &t->node), 0);
}

static void world_begin(uint32_t n, uint64_t seed)
{
	w = (struct world){.n = n, .rng = {.state = seed}, .mono_ns = NSEC_PER_SEC, .chunk_max = 1 << 20, .cut_at = UINT64_MAX};
	for (uint32_t i = 0; i < n; i++) {
		w.seat[i].f = fake_new(i + 1, i == 0 ? ROLE_LEADER : ROLE_FOLLOWER);
		start_node(i);
		for (uint32_t j = 0; j < n; j++)
			w.link[i][j] = true;
	}
}

static void end_over(struct end *e, int why)
{
	if (e->s) {
		e->error = e->s->error ? e->s->error : why;
		e->s = session_free(e->s, why, "cut");
	}
}

static void conn_drop(struct conn *c)
{
	for (unsigned i = 0; i < 2; i++) {
		end_over(&c->end[i], -ECONNRESET);
		buf_free(&c->end[i].in);
	}
	c->used = false;
}

static void drop_all(void)
{
	for (uint32_t i = 0; i < CONNS_MAX; i++)
		conn_drop(&w.conn[i]);
}

static void world_end(void)
{
	drop_all();
	for (uint32_t i = 0; i < w.n; i++) {
		node_free(w.seat[i].node);
		fake_free(w.seat[i].f);
	}
	free(w.record);
}

static struct conn *connect_nodes(uint32_t from, uint32_t to)
{
	for (uint32_t i = 0; i < CONNS_MAX; i++) {
		struct conn *c = &w.conn[i];
		if (c->used)
			continue;
		*c = (struct conn){.used = true, .end = {{.node = from}, {.node = to}}};
		if (session_new(w.seat[from].node, to + 1, true, &c->end[0].s) == 0 &&
		    session_new(w.seat[to].node, from + 1, false, &c->end[1].s) == 0)
			return c;
		conn_drop(c);
		return NULL;
	}
	return NULL;
}

static void dial(uint32_t i)
{
	uint32_t ids[PEERS_MAX], n = node_dial(w.seat[i].node, ids, PEERS_MAX);

	for (uint32_t k = 0; k < n; k++)
		if (w.link[i][ids[k] - 1]) {
			w.seat[i].n_dials++;
			connect_nodes(i, ids[k] - 1);
		}
}

/* All that the session has to say goes on its way. */
static void flush_end(struct end *e, struct end *other)
{
	struct slice out = session_output(e->s);

	assert_true(e->s->out.cap <= SESSION_MEMORY_MAX / 2);
	assert_true(e->s->in_cap <= WIRE_BODY_MAX + FRAME_HEADER_BYTES);
	if (w.moved + out.len > w.cut_at)
		out.len = w.moved > w.cut_at ? 0 : w.cut_at - w.moved;
	if (out.len) {
		buf_put(&other->in, out.p, out.len);
		if (w.recording && other->node == 1) {
			w.record = realloc(w.record, w.record_len + out.len);
			memcpy(w.record + w.record_len, out.p, out.len);
			w.record_len += out.len;
		}
		w.moved += out.len;
		session_sent(e->s, out.len);
	}
}

static void turn_end(struct end *e, struct end *other)
{
	int64_t deadline_ns;

	if (!e->s || w.frozen[e->node])
		return;
	size_t n = e->in.len ? rng_between(&w.rng, 1, w.chunk_max) : 0;
	if (n > e->in.len)
		n = e->in.len;
	int r = n ? session_input(e->s, e->in.p, n) : e->eof ? -ECONNRESET : 0;
	if (n)
		memmove(e->in.p, e->in.p + n, e->in.len - n);
	e->in.len -= n;
	if (!r)
		r = session_pump(e->s, &deadline_ns);
	flush_end(e, other);
	if (r) {
		end_over(e, r);
		other->eof = true;
	}
}

static bool is_writable(const struct fake *f)
{
	return f->point.role == ROLE_LEADER && !f->held && !f->point.offered;
}

static void check_world(void)
{
	uint32_t n_writable = 0;

	for (uint32_t i = 0; i < w.n; i++)
		n_writable += is_writable(w.seat[i].f);
	if (w.planned)
		assert_true(n_writable <= 1);
	for (uint32_t i = 0; i < w.n; i++)
		for (uint32_t j = 0; j < w.n; j++) {
			struct fake *a = w.seat[i].f, *b = w.seat[j].f;
			if (i == j || a->point.history != b->point.history || a->point.resyncing || b->point.resyncing)
				continue;
			struct fake_batch *x = fake_batch_at(a, b->point.applied_seq);
			if (w.planned && x)
				assert_int_equal(x->b.hash, fake_newest_hash(b));
		}
}

static void step(void)
{
	for (uint32_t i = 0; i < w.n; i++)
		if (!w.frozen[i])
			dial(i);
	for (uint32_t i = 0; i < CONNS_MAX; i++) {
		struct conn *c = &w.conn[i];
		if (!c->used)
			continue;
		turn_end(&c->end[0], &c->end[1]);
		turn_end(&c->end[1], &c->end[0]);
		if (w.moved >= w.cut_at || (!c->end[0].s && !c->end[1].s))
			conn_drop(c);
	}
	if (w.moved >= w.cut_at)
		w.cut_at = UINT64_MAX;
	check_world();
	w.mono_ns += STEP_NS;
}

static void steps_for(int64_t ns)
{
	for (int64_t end = w.mono_ns + ns; w.mono_ns < end;)
		step();
}

static bool is_same(uint32_t i, uint32_t j)
{
	const struct replica_point *a = &w.seat[i].f->point, *b = &w.seat[j].f->point;

	return a->durable_seq == b->durable_seq && a->hash == b->hash && !a->resyncing && !b->resyncing && !b->fence &&
	       fake_equal(w.seat[i].f, w.seat[j].f);
}

#define until(cond)                                                                                                              \
	do {                                                                                                                     \
		uint32_t left_ = STEPS_MAX;                                                                                      \
		while (!(cond) && --left_)                                                                                       \
			step();                                                                                                  \
		if (!left_)                                                                                                      \
			fail_msg("%s does not become true (line %d)", #cond, __LINE__);                                          \
	} while (0)

static struct peer_status status_of(uint32_t i, uint32_t of)
{
	struct peer_status st[PEERS_MAX];
	uint32_t n = node_status(w.seat[i].node, st, PEERS_MAX);

	for (uint32_t k = 0; k < n; k++)
		if (st[k].node_id == of + 1)
			return st[k];
	fail_msg("no status");
	return st[0];
}

static enum peer_state state_of(uint32_t i, uint32_t of)
{
	return status_of(i, of).state;
}

/* ---- writing ---- */

static struct fake_record put_record(const char *key, const char *value)
{
	struct fake_record r = {.type = FAKE_PUT, .key_len = (uint32_t)strlen(key), .value_len = (uint32_t)strlen(value)};

	memcpy(r.key, key, r.key_len);
	memcpy(r.value, value, r.value_len);
	return r;
}

static struct fake_record put_any(void)
{
	char key[32], value[32];

	snprintf(key, sizeof(key), "D%05u", (unsigned)rng_below(&w.rng, 4000));
	snprintf(value, sizeof(value), "%u", (unsigned)rng_below(&w.rng, 1000000));
	struct fake_record r = put_record(key, value);
	if (rng_percent(&w.rng, 20))
		r.type = FAKE_DROP;
	if (rng_percent(&w.rng, 20)) /* rows of a range that take more than one message */
		r.repeat = (uint32_t)rng_between(&w.rng, 1, 1000);
	return r;
}

static uint64_t write_rows(uint32_t i, uint32_t n)
{
	struct fake_record *rec = calloc(n, sizeof(*rec));

	for (uint32_t k = 0; k < n; k++)
		rec[k] = put_any();
	uint64_t seq = fake_append(w.seat[i].f, rec, n, NULL);
	free(rec);
	node_batch_durable(w.seat[i].node, seq);
	return seq;
}

static uint64_t write_one(uint32_t i, const char *key, const char *value)
{
	const struct fake_record rec = put_record(key, value);
	uint64_t seq = fake_append(w.seat[i].f, &rec, 1, NULL);

	node_batch_durable(w.seat[i].node, seq);
	return seq;
}

/* A batch with n out-of-line writes of up to a leaf each. */
static void write_data(uint32_t i, uint32_t n, uint64_t inodes)
{
	struct fake_record *rec = calloc(n, sizeof(*rec));
	uint8_t **blocks = calloc(n, sizeof(*blocks));

	for (uint32_t k = 0; k < n; k++) {
		struct fake_record *r = &rec[k];
		*r = (struct fake_record){.type = FAKE_WRITE, .ino = 1 + rng_below(&w.rng, inodes), .leaf = rng_below(&w.rng, 4)};
		r->slot = (uint32_t)rng_below(&w.rng, FAKE_SLOTS);
		r->n_blocks = (uint32_t)rng_between(&w.rng, 1, FAKE_SLOTS - r->slot);
		blocks[k] = malloc((size_t)r->n_blocks * BLOCK_SIZE);
		for (uint32_t b = 0; b < r->n_blocks; b++) {
			memset(blocks[k] + (size_t)b * BLOCK_SIZE, (int)rng_below(&w.rng, 256), BLOCK_SIZE);
			r->crc[b] = crc32c(0, blocks[k] + (size_t)b * BLOCK_SIZE, BLOCK_SIZE);
		}
	}
	node_batch_durable(w.seat[i].node, fake_append(w.seat[i].f, rec, n, blocks));
	for (uint32_t k = 0; k < n; k++)
		free(blocks[k]);
	free(blocks);
	free(rec);
}

/* Two nodes, the second one streaming from the first. */
static void begin_pair(uint64_t seed)
{
	world_begin(2, seed);
	write_one(0, "Droot", "x");
	until(is_same(0, 1) && state_of(0, 1) == PEER_STREAMING);
}

/* ---- stream ---- */

static void a_follower_gets_every_batch_in_any_chunks(void **state)
{
	static const uint32_t chunks[] = {1, 7, 100, 5000, 1 << 20};

	(void)state;
	for (uint32_t k = 0; k < ARRAY_SIZE(chunks); k++) {
		begin_pair(k + 1);
		w.planned = true;
		w.chunk_max = chunks[k];
		for (uint32_t i = 0; i < 30; i++) {
			write_rows(0, 1 + (uint32_t)rng_below(&w.rng, chunks[k] < 100 ? 2 : 50));
			for (uint32_t s = (uint32_t)rng_below(&w.rng, 3); s > 0; s--)
				step();
		}
		w.chunk_max = 1 << 20;
		until(is_same(0, 1) && w.seat[0].acked[0] == w.seat[0].f->point.durable_seq);
		assert_int_equal(w.seat[0].n_live, 1);
		assert_int_equal(w.seat[0].n_known, 1);
		assert_int_equal(status_of(0, 1).lag_batches, 0);
		assert_true(status_of(1, 0).leads && state_of(1, 0) == PEER_STREAMING);
		world_end();
	}
}

static void batches_that_arrive_together_share_a_commit(void **state)
{
	(void)state;
	begin_pair(1);
	uint32_t before = w.seat[1].f->n_commits;
	for (uint32_t i = 0; i < 100; i++)
		write_rows(0, 1);
	until(is_same(0, 1));
	assert_true(w.seat[1].f->n_commits - before < 10);
	world_end();
}

static void out_of_line_data_comes_piece_by_piece(void **state)
{
	(void)state;
	begin_pair(2);
	w.planned = true;
	/* 400 pieces of 34 KiB: six times what may wait to be sent, which flush_end() looks at. */
	write_data(0, 400, 1000000);
	write_data(0, 3, 1000000);
	until(is_same(0, 1));
	assert_true(w.seat[0].f->point.fence == 0);
	world_end();
}

static void data_that_changed_before_it_was_shipped_leaves_a_fence(void **state)
{
	bool fenced = false;

	(void)state;
	begin_pair(3);
	w.chunk_max = 3000;
	for (uint32_t i = 0; i < 20; i++)
		write_data(0, 2, 1);
	for (uint32_t i = 0; i < STEPS_MAX && !is_same(0, 1); i++) {
		uint64_t acked = w.seat[0].acked[0];
		step();
		if (w.seat[1].f->point.fence == 0)
			continue;
		fenced = true; /* what lacks data can neither lead nor count for an fsync */
		assert_int_equal(node_promote(w.seat[1].node), -EAGAIN);
		if (w.seat[0].acked[0] != acked)
			assert_true(w.seat[0].acked[0] < w.seat[1].f->point.durable_seq);
	}
	assert_true(fenced && is_same(0, 1));
	world_end();
}

static void a_stream_goes_on_after_any_cut(void **state)
{
	(void)state;
	for (uint64_t cut = 1; cut < 3000; cut += 37) {
		begin_pair(cut);
		w.planned = true;
		w.cut_at = w.moved + cut;
		for (uint32_t i = 0; i < 5; i++) {
			write_rows(0, 3);
			write_data(0, 1, 10);
			step();
		}
		until(is_same(0, 1) && state_of(0, 1) == PEER_STREAMING);
		assert_int_equal(w.seat[0].f->n_views, 0);
		world_end();
	}
}

static void lag_is_told_in_batches_and_seconds(void **state)
{
	(void)state;
	begin_pair(4);
	w.frozen[1] = true;
	for (uint32_t i = 0; i < 100; i++) {
		write_rows(0, 2);
		step();
	}
	struct peer_status st = status_of(0, 1);
	assert_int_equal(st.lag_batches, 100);
	assert_true(st.lag_bytes > 100 * 300);
	assert_true(st.lag_seconds > 1.9 && st.lag_seconds < 2.1);
	w.frozen[1] = false;
	until(is_same(0, 1) && status_of(0, 1).lag_batches == 0);
	assert_true(status_of(0, 1).lag_seconds == 0);
	world_end();
}

/* ---- peers ---- */

static void the_list_of_peers_goes_to_followers(void **state)
{
	(void)state;
	world_begin(3, 5);
	until(is_same(0, 1) && is_same(0, 2));
	struct peers p = make_peers(3, 7);
	snprintf(p.peer[2].name, sizeof(p.peer[2].name), "renamed");
	assert_int_equal(node_set_peers(w.seat[0].node, &p), 0);
	steps_for(NSEC_PER_SEC);
	assert_true(w.seat[1].n_peers_changed == 2 && w.seat[1].peers.version == 7); /* the first one was of no reign yet */
	assert_int_equal(w.seat[1].peers.epoch, epoch_make(1, 1));
	assert_string_equal(status_of(1, 2).name, "renamed");
	world_end();
}

/* A list of nodes 2 and 3 of three. */
static struct peers without_the_first(uint64_t epoch, uint64_t version)
{
	struct peers p = make_peers(3, version);

	p.epoch = epoch;
	memmove(&p.peer[0], &p.peer[1], 2 * sizeof(p.peer[0]));
	p.n = 2;
	return p;
}

static void who_does_not_know_the_leader_learns_of_it_from_who_does(void **state)
{
	(void)state;
	world_begin(3, 44);
	until(is_same(0, 1) && is_same(0, 2));
	const struct peers old = without_the_first(0, 0);
	assert_int_equal(node_set_peers(w.seat[2].node, &old), 0);
	drop_all();
	write_rows(0, 3);
	until(is_same(0, 2) && state_of(2, 0) == PEER_STREAMING);
	assert_true(w.seat[2].peers.n == 3 && w.seat[2].peers.epoch == epoch_make(1, 1));
	world_end();
}

static void a_removed_peers_session_ends_and_none_begins(void **state)
{
	struct session *s;

	(void)state;
	begin_pair(6);
	struct peers p = make_peers(1, 2);
	assert_int_equal(node_set_peers(w.seat[0].node, &p), 0);
	steps_for(NSEC_PER_SEC);
	assert_int_equal(session_new(w.seat[0].node, 2, false, &s), -EACCES);
	assert_int_equal(w.seat[0].n_known, 0);
	write_one(0, "Dnew", "1");
	steps_for(5 * NSEC_PER_SEC);
	assert_false(is_same(0, 1));
	world_end();
}

static void a_newer_connection_replaces_a_half_open_one(void **state)
{
	(void)state;
	begin_pair(7);
	struct conn *old = &w.conn[0];
	while (!old->used || old->end[0].node != 1)
		old++;
	/* Node 2 sees its end closed; node 1 hears nothing of that. */
	end_over(&old->end[0], -ECONNRESET);
	write_one(0, "Dnew", "1");
	until(is_same(0, 1));
	assert_null(old->end[1].s);
	assert_int_equal(old->end[1].error, -ECONNABORTED);
	world_end();
}

/* ---- resync ---- */

static void fill(uint32_t i, uint32_t batches)
{
	for (uint32_t k = 0; k < batches; k++) {
		write_rows(i, 300);
		write_data(i, 10, 30);
	}
}

static void an_empty_follower_resyncs(void **state)
{
	(void)state;
	world_begin(2, 8);
	fill(0, 20);
	until(is_same(0, 1));
	assert_int_equal(w.seat[1].f->n_kept, 0);
	assert_true(status_of(1, 0).resync_share == 1 && status_of(0, 1).resync_share == 1);
	assert_true(status_of(1, 0).resync_rows > 1000 && status_of(1, 0).resync_bytes > 100000);
	write_rows(0, 5);
	until(is_same(0, 1));
	world_end();
}

static void a_resync_while_the_leader_writes_ends_equal(void **state)
{
	uint32_t fenced = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 10; seed++) {
		world_begin(2, seed);
		w.chunk_max = 20000;
		fill(0, 10);
		const struct replica_point *at = &w.seat[1].f->point;
		for (uint32_t i = 0; i < STEPS_MAX && at->resyncing; i++) {
			if (i < 2000 && i % 4 == 0) {
				write_data(0, 1, 30);
				write_rows(0, 2);
			}
			step();
		}
		assert_true(at->fence || fake_is_sound(w.seat[1].f));
		fenced += at->fence != 0;
		w.chunk_max = 1 << 20;
		until(is_same(0, 1));
		world_end();
	}
	assert_true(fenced > 0);
}

static void a_resync_may_be_cut_anywhere(void **state)
{
	(void)state;
	for (uint64_t cut = 100; cut < 600000; cut += 20011) {
		world_begin(2, cut);
		fill(0, 4);
		w.cut_at = cut;
		until(is_same(0, 1));
		world_end();
	}
}

static void a_resync_moves_what_differs(void **state)
{
	(void)state;
	begin_pair(9);
	fill(0, 60);
	until(is_same(0, 1));
	uint64_t all = w.moved;
	w.link[1][0] = false;
	drop_all();
	write_data(0, 1, 30);
	write_one(0, "D00001", "new");
	fake_trim(w.seat[0].f, 1);
	w.moved = 0;
	w.seat[1].f->n_puts = 0;
	w.link[1][0] = true;
	until(is_same(0, 1));
	assert_true(w.moved > 0 && w.moved < all / 8);
	assert_in_range(w.seat[1].f->n_puts, 2, 2);
	assert_int_equal(w.seat[1].f->n_kept, 0);
	world_end();
}

static void a_follower_behind_the_ring_resyncs(void **state)
{
	(void)state;
	begin_pair(10);
	w.frozen[1] = true;
	fill(0, 3);
	fake_trim(w.seat[0].f, 1);
	w.frozen[1] = false;
	until(is_same(0, 1));
	world_end();
}

static void a_damaged_batch_in_the_ring_is_gone_around(void **state)
{
	(void)state;
	begin_pair(11);
	w.seat[0].f->damaged_seq = write_rows(0, 3);
	write_rows(0, 3);
	until(is_same(0, 1));
	assert_true(w.seat[1].f->base_seq >= w.seat[0].f->damaged_seq);
	world_end();
}

static void a_follower_that_differs_says_so_and_resyncs(void **state)
{
	(void)state;
	begin_pair(12);
	w.seat[0].f->late_sum_seq = w.seat[0].f->point.durable_seq + 1;
	uint64_t seq = write_rows(0, 3);
	write_rows(0, 3);
	w.seat[1].f->wrong_sum_seq = seq;
	steps_for(NSEC_PER_SEC);
	assert_false(w.seat[1].f->point.differs);
	w.seat[0].f->late_sum_seq = 0;
	until(w.seat[1].f->point.differs);
	assert_int_equal(node_promote(w.seat[1].node), -EAGAIN);
	until(is_same(0, 1) && !w.seat[1].f->point.differs);
	assert_true(w.seat[1].f->base_seq > seq);
	world_end();
}

static void rows_that_are_not_what_was_hashed_are_refused(void **state)
{
	(void)state;
	world_begin(2, 13);
	fill(0, 3);
	w.seat[0].f->lying_rows = true;
	steps_for(3 * NSEC_PER_SEC);
	assert_true(w.seat[1].f->point.resyncing);
	assert_non_null(strstr(status_of(1, 0).reason, "hash"));
	w.seat[0].f->lying_rows = false;
	until(is_same(0, 1));
	world_end();
}

/* ---- by hand ---- */

static struct hello hello_of(uint32_t i)
{
	const struct replica_point *at = &w.seat[i].f->point;
	struct hello h = {.version = WIRE_VERSION,
			  .node_id = at->node_id,
			  .role = at->role,
			  .promised = at->promised,
			  .history = at->history,
			  .seq = at->durable_seq,
			  .hash = at->hash};

	memcpy(h.volume, at->volume, sizeof(h.volume));
	memcpy(h.node, at->node, sizeof(h.node));
	return h;
}

static int say(struct session *s, const struct hello *h)
{
	CLEANUP_BUF struct buf b = {0};
	size_t at = frame_begin(&b, MESSAGE_HELLO);

	hello_put(&b, h);
	frame_end(&b, at, 0);
	return session_input(s, b.p, b.len);
}

/* ---- roles ---- */

static void cut_off(uint32_t i, bool off)
{
	for (uint32_t j = 0; j < w.n; j++)
		w.link[i][j] = w.link[j][i] = !off;
	for (uint32_t k = 0; off && k < CONNS_MAX; k++)
		if (w.conn[k].used && (w.conn[k].end[0].node == i || w.conn[k].end[1].node == i))
			conn_drop(&w.conn[k]);
}

static void an_old_leader_saves_what_only_it_has_and_follows(void **state)
{
	(void)state;
	world_begin(3, 14);
	fill(0, 2);
	until(is_same(0, 1) && is_same(0, 2));
	cut_off(0, true);
	write_one(0, "Dlost", "only here");
	assert_int_equal(node_promote(w.seat[1].node), 0);
	assert_int_equal(w.seat[1].n_roles, 1);
	write_one(1, "Dnew", "of the new leader");
	until(is_same(1, 2));
	assert_int_equal(w.seat[0].f->point.role, ROLE_LEADER);
	assert_int_equal(state_of(1, 0), PEER_FENCED);
	cut_off(0, false);
	until(is_same(1, 0));
	assert_int_equal(w.seat[0].f->point.role, ROLE_FOLLOWER);
	assert_int_equal(w.seat[0].n_roles, 1);
	assert_true(w.seat[0].f->n_kept > 0);
	assert_int_equal(w.seat[2].f->n_kept, 0);
	world_end();
}

static void an_old_leader_without_more_just_follows(void **state)
{
	(void)state;
	begin_pair(15);
	cut_off(0, true);
	assert_int_equal(node_promote(w.seat[1].node), 0);
	assert_int_equal(node_promote(w.seat[1].node), -EALREADY);
	write_rows(1, 10);
	cut_off(0, false);
	until(is_same(1, 0));
	assert_true(w.seat[0].f->base_seq == 0 && w.seat[0].f->n_kept == 0);
	world_end();
}

/* Only the way that `from` dials is open: whoever hears of whom, the older epoch ends. */
static void either_side_that_dials_learns_or_teaches_the_epoch(void **state)
{
	(void)state;
	for (uint32_t from = 0; from < 2; from++) {
		begin_pair(16);
		cut_off(0, true);
		assert_int_equal(node_promote(w.seat[1].node), 0);
		w.link[from][!from] = true;
		until(w.seat[0].f->point.role == ROLE_FOLLOWER);
		assert_int_equal(w.seat[0].f->point.promised, w.seat[1].f->point.promised);
		world_end();
	}
}

static void a_follower_that_promised_more_ends_a_leader(void **state)
{
	(void)state;
	begin_pair(17);
	cut_off(0, true);
	w.seat[1].f->point.promised = epoch_make(9, 3);
	node_refresh(w.seat[1].node);
	cut_off(0, false);
	until(w.seat[0].f->point.role == ROLE_FOLLOWER);
	assert_int_equal(w.seat[0].f->point.promised, epoch_make(9, 3));
	world_end();
}

static void same_epoch_and_other_history_is_a_conflict_until_an_admin_decides(void **state)
{
	(void)state;
	begin_pair(18);
	cut_off(0, true);
	/* Node 2 led a moment in the same epoch: what no correct node does. */
	w.seat[1].f->point.role = ROLE_LEADER;
	write_one(1, "Dmine", "2");
	w.seat[1].f->point.role = ROLE_FOLLOWER;
	write_one(0, "Dtheirs", "1");
	cut_off(0, false);
	until(state_of(0, 1) == PEER_CONFLICT && state_of(1, 0) == PEER_CONFLICT);
	steps_for(5 * NSEC_PER_SEC);
	assert_int_equal(w.seat[1].f->n_kept, 0);
	assert_false(is_same(0, 1));
	assert_int_equal(node_resync(w.seat[0].node), -EINVAL);
	assert_int_equal(node_resync(w.seat[1].node), 0);
	until(is_same(0, 1));
	assert_true(w.seat[1].f->n_kept > 0);
	world_end();
}

/* Its disk is as it was `n` batches before. */
static void lose_batches(struct fake *f, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		free(f->batch[--f->n_batches].records);
	f->point.applied_seq -= n;
	fake_set_durable(f);
}

static void a_leader_with_a_shorter_history_is_a_conflict(void **state)
{
	(void)state;
	begin_pair(19);
	for (uint32_t i = 0; i < 5; i++)
		write_rows(0, 2);
	until(is_same(0, 1));
	drop_all();
	lose_batches(w.seat[0].f, 2);
	until(state_of(0, 1) == PEER_CONFLICT);
	uint64_t kept = w.seat[1].f->point.durable_seq;
	steps_for(5 * NSEC_PER_SEC);
	assert_int_equal(w.seat[1].f->point.durable_seq, kept);
	/* The follower's counts: it is promoted, and the other one becomes its follower. */
	assert_int_equal(node_promote(w.seat[1].node), 0);
	until(is_same(1, 0));
	world_end();
}

/* It came up with an older disk and has written nothing: whoever dials, no second history of its epoch begins. */
static void a_leader_that_went_back_and_wrote_nothing_follows(void **state)
{
	(void)state;
	for (uint32_t from = 0; from < 2; from++) {
		begin_pair(45);
		for (uint32_t i = 0; i < 5; i++)
			write_rows(0, 2);
		until(is_same(0, 1));
		drop_all();
		w.link[!from][from] = false;
		lose_batches(w.seat[0].f, 2);
		w.seat[0].f->begun = false;
		node_refresh(w.seat[0].node);
		until(w.seat[0].f->point.role == ROLE_FOLLOWER);
		assert_int_equal(w.seat[0].n_roles, 1);
		steps_for(20 * NSEC_PER_SEC);
		assert_true(state_of(1, 0) != PEER_CONFLICT && w.seat[0].f->point.promised == epoch_make(1, 1));
		w.link[!from][from] = true;
		assert_int_equal(node_promote(w.seat[1].node), 0);
		until(is_same(1, 0));
		assert_int_equal(w.seat[0].f->n_kept + w.seat[1].f->n_kept, 0);
		world_end();
	}
}

/* A peer that has no more than the leader gave away, or is between two states, says nothing about the leader's disk. */
static void a_leader_that_has_begun_nothing_leads_on_where_nobody_has_more(void **state)
{
	(void)state;
	for (uint32_t resyncing = 0; resyncing < 2; resyncing++) {
		begin_pair(46);
		drop_all();
		w.seat[0].f->begun = false;
		struct session *s;
		struct hello h = hello_of(1);
		h.flags = resyncing ? HELLO_RESYNCING : 0;
		h.seq += resyncing;
		assert_int_equal(session_new(w.seat[0].node, 2, false, &s), 0);
		assert_int_equal(say(s, &h), 0);
		assert_int_equal(w.seat[0].f->point.role, ROLE_LEADER);
		session_free(s, 0, NULL);
		world_end();
	}
}

static void followers_find_the_leader_through_each_other(void **state)
{
	(void)state;
	world_begin(3, 20);
	until(is_same(0, 1) && is_same(0, 2));
	cut_off(0, true);
	w.link[1][2] = false; /* the new leader cannot dial the other one */
	assert_int_equal(node_promote(w.seat[1].node), 0);
	write_one(1, "Dnew", "1");
	until(is_same(1, 2));
	world_end();
}

static void nobody_follows_two_leaders_at_once(void **state)
{
	(void)state;
	begin_pair(21);
	uint32_t n = 0;
	for (uint32_t i = 0; i < 50; i++) {
		n += connect_nodes(1, 0) != NULL;
		step();
	}
	assert_int_equal(n, 0);
	world_end();
}

static void dialing_waits_longer_and_longer(void **state)
{
	uint32_t ids[PEERS_MAX], tries = 0;

	(void)state;
	world_begin(2, 22);
	int64_t last_ns = 0;
	for (uint32_t i = 0; i < 3000; i++) {
		if (node_dial(w.seat[1].node, ids, PEERS_MAX)) {
			assert_true(tries == 0 || w.mono_ns - last_ns >= NSEC_PER_SEC);
			assert_true(w.mono_ns - last_ns <= 11 * NSEC_PER_SEC);
			last_ns = w.mono_ns;
			tries++;
		}
		w.mono_ns += STEP_NS;
	}
	assert_in_range(tries, 7, 12);
	world_end();
}

/* ---- liveness ---- */

static void a_dead_peer_is_noticed_and_a_silent_one_is_not(void **state)
{
	(void)state;
	begin_pair(23);
	uint64_t connects = status_of(0, 1).connects;
	steps_for(60 * NSEC_PER_SEC);
	assert_int_equal(status_of(0, 1).connects, connects);
	assert_int_equal(state_of(0, 1), PEER_STREAMING);
	w.frozen[1] = true;
	steps_for(4 * NSEC_PER_SEC);
	assert_int_equal(state_of(0, 1), PEER_STREAMING);
	steps_for(3 * NSEC_PER_SEC);
	assert_int_equal(state_of(0, 1), PEER_DISCONNECTED);
	assert_int_equal(w.seat[0].n_live, 0);
	assert_non_null(strstr(status_of(0, 1).reason, "nothing heard"));
	world_end();
}

static int slow_finish(struct replica_volume *v)
{
	w.mono_ns += 20 * NSEC_PER_SEC;
	return fake_finish_batch(v);
}

static int slow_commit(struct replica_volume *v, uint64_t *ret)
{
	w.mono_ns += 20 * NSEC_PER_SEC;
	return fake_commit(v, ret);
}

static void a_busy_node_does_not_call_its_peer_dead(void **state)
{
	struct replica_ops slow = fake_ops;
	int64_t deadline_ns;

	(void)state;
	slow.finish_batch = slow_finish;
	slow.commit = slow_commit;
	begin_pair(24);
	w.seat[1].f->volume.ops = &slow;
	struct conn *c = &w.conn[0];
	while (!c->used || c->end[0].node != 1)
		c++;
	w.frozen[1] = true;
	write_rows(0, 1);
	step();
	struct end *e = &c->end[0];
	assert_true(e->in.len > 0);
	assert_int_equal(session_input(e->s, e->in.p, e->in.len), 0);
	e->in.len = 0;
	assert_int_equal(session_pump(e->s, &deadline_ns), 0);
	assert_int_equal(session_pump(e->s, &deadline_ns), 0);
	w.seat[1].f->volume.ops = &fake_ops;
	world_end();
}

static void a_stranger_that_never_says_hello_is_dropped(void **state)
{
	struct session *s;
	int64_t deadline_ns;
	int r = 0;

	(void)state;
	world_begin(2, 25);
	assert_int_equal(session_new(w.seat[0].node, 2, false, &s), 0);
	/* A byte now and then is no HELLO. */
	for (uint32_t i = 0; i < 20 && !r; i++) {
		w.mono_ns += NSEC_PER_SEC / 2;
		r = session_input(s, &"CLWF"[i % 4], i < 4);
		if (!r)
			r = session_pump(s, &deadline_ns);
	}
	assert_int_equal(r, -ETIMEDOUT);
	session_free(s, 0, NULL);
	world_end();
}

/* ---- failures of the volume ---- */

static void a_full_disk_ends_the_session_and_is_tried_again_with_pauses(void **state)
{
	(void)state;
	begin_pair(26);
	w.seat[1].f->fail_finish = -ENOSPC;
	write_rows(0, 2);
	uint32_t dials = w.seat[1].n_dials;
	steps_for(120 * NSEC_PER_SEC);
	assert_non_null(strstr(status_of(1, 0).reason, "disk full"));
	assert_non_null(strstr(status_of(0, 1).reason, "disk full"));
	assert_in_range(w.seat[1].n_dials - dials, 4, 12);
	assert_int_equal(w.seat[1].f->point.applied_seq + 1, w.seat[0].f->point.applied_seq);
	w.seat[1].f->fail_finish = 0;
	until(is_same(0, 1));
	world_end();
}

static void a_failed_commit_acks_nothing(void **state)
{
	(void)state;
	begin_pair(27);
	uint64_t acked = w.seat[0].acked[0];
	w.seat[1].f->fail_commit = -EIO;
	write_rows(0, 2);
	steps_for(30 * NSEC_PER_SEC);
	assert_true(w.seat[0].acked[0] <= acked);
	w.seat[1].f->fail_commit = 0;
	until(is_same(0, 1) && w.seat[0].acked[0] > acked);
	world_end();
}

/* ---- hand-over ---- */

static uint32_t leaders(uint32_t *ret_last)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < w.n; i++)
		if (is_writable(w.seat[i].f)) {
			*ret_last = i;
			n++;
		}
	return n;
}

static void a_hand_over_moves_the_lead_and_loses_nothing(void **state)
{
	(void)state;
	world_begin(3, 28);
	until(is_same(0, 1) && is_same(0, 2) && state_of(0, 1) == PEER_STREAMING);
	w.planned = true;
	uint64_t seq = write_rows(0, 20);
	assert_int_equal(node_handover_begin(w.seat[0].node, "n9", NSEC_PER_SEC), -ENOENT);
	assert_int_equal(node_handover_begin(w.seat[1].node, "n1", NSEC_PER_SEC), -EINVAL);
	assert_int_equal(node_handover_begin(w.seat[0].node, "n2", 10 * NSEC_PER_SEC), 0);
	assert_int_equal(node_handover_begin(w.seat[0].node, "n3", 10 * NSEC_PER_SEC), -EBUSY);
	assert_true(w.seat[0].f->held);
	until(node_handover_poll(w.seat[0].node) != -EAGAIN);
	assert_int_equal(node_handover_poll(w.seat[0].node), 0);
	assert_true(w.seat[1].f->point.role == ROLE_LEADER && w.seat[0].f->point.role == ROLE_FOLLOWER && !w.seat[0].f->held);
	assert_non_null(fake_batch_at(w.seat[1].f, seq));
	write_rows(1, 5);
	until(is_same(1, 0) && is_same(1, 2));
	assert_true(w.seat[0].f->n_kept == 0 && w.seat[0].f->base_seq == 0);
	world_end();
}

static void a_hand_over_that_takes_too_long_leaves_the_lead_here(void **state)
{
	(void)state;
	begin_pair(29);
	w.planned = true;
	w.frozen[1] = true;
	write_rows(0, 2);
	assert_int_equal(node_handover_begin(w.seat[0].node, "n2", NSEC_PER_SEC), 0);
	until(node_handover_poll(w.seat[0].node) != -EAGAIN);
	assert_int_equal(node_handover_poll(w.seat[0].node), -ETIMEDOUT);
	assert_true(is_writable(w.seat[0].f));
	w.frozen[1] = false;
	steps_for(10 * NSEC_PER_SEC);
	until(is_same(0, 1));
	assert_int_equal(w.seat[1].f->n_promotes, 0);
	world_end();
}

/* Whatever byte the connection is cut at, exactly one node writes in the end, and never two. */
static void a_hand_over_may_be_cut_at_any_byte(void **state)
{
	uint32_t last = 0, taken = 0, kept = 0;

	(void)state;
	for (uint64_t cut = 1; cut <= 400; cut++) {
		begin_pair(cut);
		steps_for(NSEC_PER_SEC / 5);
		w.planned = true;
		w.chunk_max = 64;
		w.cut_at = w.moved + cut;
		assert_int_equal(node_handover_begin(w.seat[0].node, "n2", 3 * NSEC_PER_SEC), 0);
		until(node_handover_poll(w.seat[0].node) != -EAGAIN && node_handover_poll(w.seat[0].node) != -EINPROGRESS);
		until(leaders(&last) == 1);
		int r = node_handover_poll(w.seat[0].node);
		assert_int_equal(last, r == 0);
		taken += r == 0;
		kept += r != 0;
		write_rows(last, 1);
		until(is_same(last, !last));
		assert_int_equal(w.seat[0].f->n_kept + w.seat[1].f->n_kept, 0);
		world_end();
	}
	assert_true(taken > 100 && kept > 10);
}

/* The peer is gone after HANDOVER may have reached it. */
static void begin_doubt(uint64_t seed, bool taken)
{
	begin_pair(seed);
	steps_for(NSEC_PER_SEC / 5);
	w.planned = true;
	w.seat[1].f->fail_promote = taken ? 0 : -EIO;
	assert_int_equal(node_handover_begin(w.seat[0].node, "n2", 2 * NSEC_PER_SEC), 0);
	for (uint32_t i = 0; w.seat[0].node->handover.phase != HANDOVER_SENT; i++) {
		assert_true(i < 1000);
		step();
	}
	if (taken)
		until(w.seat[1].f->n_promotes || w.seat[0].f->point.role == ROLE_FOLLOWER);
	cut_off(0, true);
	w.frozen[1] = true;
	steps_for(20 * NSEC_PER_SEC);
}

static void a_leader_in_doubt_holds_until_the_peer_is_heard_of(void **state)
{
	(void)state;
	begin_doubt(30, false);
	assert_int_equal(node_handover_poll(w.seat[0].node), -EINPROGRESS);
	assert_true(w.seat[0].f->held);
	w.frozen[1] = false;
	cut_off(0, false);
	until(is_writable(w.seat[0].f));
	assert_int_equal(node_handover_poll(w.seat[0].node), -ECANCELED);
	assert_int_equal(w.seat[1].f->n_promotes, 0);
	write_rows(0, 1);
	until(is_same(0, 1));
	world_end();
}

static void a_promotion_here_ends_the_doubt(void **state)
{
	(void)state;
	for (unsigned peer_leads = 0; peer_leads < 2; peer_leads++) {
		begin_doubt(31, false);
		if (peer_leads) { /* it did take the lead, which nobody here can know */
			w.seat[1].f->fail_promote = 0;
			w.planned = false;
			assert_int_equal(fake_promote(&w.seat[1].f->volume, epoch_make(2, 2)), 0);
			node_refresh(w.seat[1].node);
		}
		assert_int_equal(node_promote(w.seat[0].node), 0);
		assert_true(is_writable(w.seat[0].f));
		assert_int_equal(w.seat[0].f->point.promised, epoch_make(3, 1));
		w.frozen[1] = false;
		cut_off(0, false);
		until(is_same(0, 1));
		assert_int_equal(w.seat[1].f->point.role, ROLE_FOLLOWER);
		world_end();
	}
}

/* The process of node 1 ends and begins again; its volume has written nothing since. */
static void restart(void)
{
	struct seat *t = &w.seat[0];

	node_cancel_handover(t->node);
	assert_false(is_writable(t->f)); /* nor while it stops */
	assert_false(t->f->held);
	assert_int_equal(node_handover_poll(t->node), -EINPROGRESS);
	t->node = node_free(t->node);
	t->f->begun = false;
	start_node(0);
}

static void a_restart_does_not_end_the_doubt(void **state)
{
	enum { NOT_TAKEN, TAKEN, PROMOTED, ENDS };

	(void)state;
	for (unsigned end = NOT_TAKEN; end < ENDS; end++) {
		begin_doubt(47, false);
		w.seat[1].f->fail_promote = 0;
		if (end == TAKEN) { /* and could not say so */
			assert_int_equal(fake_promote(&w.seat[1].f->volume, epoch_make(2, 2)), 0);
			node_refresh(w.seat[1].node);
		}
		restart();
		steps_for(20 * NSEC_PER_SEC);
		assert_int_equal(node_handover_poll(w.seat[0].node), -EINPROGRESS);
		assert_int_equal(node_handover_begin(w.seat[0].node, "n2", NSEC_PER_SEC), -EBUSY);
		assert_false(is_writable(w.seat[0].f));
		if (end == PROMOTED) {
			assert_int_equal(node_promote(w.seat[0].node), 0);
			assert_true(is_writable(w.seat[0].f) && w.seat[0].f->point.promised == epoch_make(3, 1));
		}
		w.frozen[1] = false;
		cut_off(0, false);
		uint32_t last = end == TAKEN;
		until(is_writable(w.seat[last].f) && !is_writable(w.seat[!last].f));
		write_rows(last, 1);
		until(is_same(0, 1));
		assert_int_equal(w.seat[0].f->n_kept + w.seat[1].f->n_kept, 0);
		assert_int_equal(w.seat[last].f->point.offered, 0);
		world_end();
	}
}

/* What is known to nobody else: a peer that was asked and is gone from the list leaves the doubt to an admin. */
static void a_peer_that_is_gone_leaves_the_doubt_to_an_admin(void **state)
{
	(void)state;
	begin_doubt(48, false);
	const struct peers alone = make_peers(1, 2);
	assert_int_equal(node_set_peers(w.seat[0].node, &alone), 0);
	restart();
	assert_int_equal(node_set_peers(w.seat[0].node, &alone), 0);
	steps_for(20 * NSEC_PER_SEC);
	assert_false(is_writable(w.seat[0].f));
	assert_int_equal(node_promote(w.seat[0].node), 0);
	assert_true(is_writable(w.seat[0].f));
	assert_int_equal(node_promote(w.seat[0].node), -EALREADY);
	world_end();
}

static void nothing_is_offered_that_cannot_be_promised(void **state)
{
	(void)state;
	begin_pair(49);
	w.seat[0].f->fail_offer = -EIO;
	assert_int_equal(node_handover_begin(w.seat[0].node, "n2", 10 * NSEC_PER_SEC), 0);
	until(node_handover_poll(w.seat[0].node) != -EAGAIN);
	assert_int_equal(node_handover_poll(w.seat[0].node), -EIO);
	assert_true(is_writable(w.seat[0].f));
	steps_for(10 * NSEC_PER_SEC);
	assert_int_equal(w.seat[1].f->n_promotes, 0);
	world_end();
}

static void stop_while_offering(void *ctx)
{
	node_cancel_handover(ctx);
}

static void promote_while_offering(void *ctx)
{
	struct replica_volume *v = ctx;

	assert_int_equal(v->ops->note_epoch(v, epoch_make(5, 3)), 0);
	node_refresh(w.seat[0].node);
}

/* What another thread does while the offer is being noted comes too late to be seen before, and not too late to count. */
static void a_hand_over_that_ends_while_it_is_promised_is_not_offered(void **state)
{
	(void)state;
	for (unsigned deposed = 0; deposed < 2; deposed++) {
		begin_pair(50);
		struct fake *f = w.seat[0].f;
		f->offering = deposed ? promote_while_offering : stop_while_offering;
		f->offering_ctx = deposed ? (void *)&f->volume : w.seat[0].node;
		assert_int_equal(node_handover_begin(w.seat[0].node, "n2", 10 * NSEC_PER_SEC), 0);
		until(node_handover_poll(w.seat[0].node) != -EAGAIN);
		assert_int_equal(node_handover_poll(w.seat[0].node), deposed ? -ESTALE : -ECANCELED);
		assert_true(f->n_offers == 1 && f->point.offered == 0 && !f->held);
		assert_int_equal(f->point.role, deposed ? ROLE_FOLLOWER : ROLE_LEADER);
		steps_for(10 * NSEC_PER_SEC);
		assert_int_equal(w.seat[1].f->n_promotes, 0);
		world_end();
	}
}

/* The leader goes on to another epoch, and its sessions learn of it a moment later: what they ship till then is of neither. */
static void nothing_of_a_new_epoch_comes_on_an_old_conversation(void **state)
{
	(void)state;
	for (unsigned noted = 0; noted < 2; noted++) {
		begin_pair(52);
		assert_int_equal(fake_promote(&w.seat[0].f->volume, epoch_make(2, 1)), 0);
		if (noted) /* and the follower's volume has heard of it by itself */
			w.seat[1].f->point.promised = epoch_make(2, 1);
		uint64_t seq = write_rows(0, 1);
		for (unsigned i = 0; i < 3; i++)
			step();
		assert_true(w.seat[1].f->point.applied_seq < seq);
		node_refresh(w.seat[0].node);
		until(is_same(0, 1) && state_of(0, 1) == PEER_STREAMING);
		steps_for(SESSION_DEAD_NS);
		assert_int_equal(state_of(0, 1), PEER_STREAMING);
		world_end();
	}
}

static void a_promotion_elsewhere_ends_a_hand_over(void **state)
{
	(void)state;
	world_begin(3, 32);
	until(is_same(0, 1) && is_same(0, 2) && state_of(0, 1) == PEER_STREAMING);
	w.frozen[1] = true;
	write_rows(0, 1);
	assert_int_equal(node_handover_begin(w.seat[0].node, "n2", 100 * NSEC_PER_SEC), 0);
	assert_int_equal(node_promote(w.seat[2].node), 0);
	until(node_handover_poll(w.seat[0].node) != -EAGAIN);
	assert_int_equal(node_handover_poll(w.seat[0].node), -ESTALE);
	assert_false(w.seat[0].f->held);
	world_end();
}

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

/* ---- decisions ---- */

static void a_leader_decides_by_prefix_hash_and_epoch(void **state)
{
	(void)state;
	world_begin(1, 39);
	struct fake *f = w.seat[0].f;
	for (uint32_t i = 0; i < 10; i++)
		write_rows(0, 1); /* epoch 1: 1 .. 11 */
	assert_int_equal(fake_promote(&f->volume, epoch_make(2, 1)), 0);
	for (uint32_t i = 0; i < 5; i++)
		write_rows(0, 1); /* epoch 2: 12 .. 17 */
	fake_trim(f, 12);         /* 6 .. 17 are there */
	uint64_t hash9 = fake_batch_at(f, 9)->b.hash, e1 = epoch_make(1, 1), e2 = epoch_make(2, 1);
	const struct {
		uint64_t seq, hash, history;
		uint32_t flags;
		enum welcome_action expect;
	} cases[] = {
	    {17, f->point.hash, e2, 0, WELCOME_STREAM},
	    {9, hash9, e1, 0, WELCOME_STREAM},
	    {9, hash9, e1, HELLO_DIFFERS, WELCOME_RESYNC},
	    {9, hash9, e1, HELLO_RESYNCING, WELCOME_RESYNC},
	    {9, hash9, e1, HELLO_RESYNC_WANTED, WELCOME_RESYNC_SAVE},
	    {9, hash9 + 1, e1, 0, WELCOME_RESYNC_SAVE}, /* older epoch, another batch */
	    {3, 77, e1, 0, WELCOME_RESYNC},             /* too old to compare, a prefix by the table */
	    {12, 77, e1, 0, WELCOME_RESYNC_SAVE},       /* longer than its epoch was */
	    {50, 77, e1, 0, WELCOME_RESYNC_SAVE},
	    {50, 77, e2, 0, WELCOME_CONFLICT},                 /* longer than this leader */
	    {15, 77, e2, 0, WELCOME_CONFLICT},                 /* another batch of this epoch */
	    {3, 77, epoch_make(1, 9), 0, WELCOME_RESYNC_SAVE}, /* an epoch that never was here */
	};
	for (uint32_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct hello h = {
		    .seq = cases[i].seq, .hash = cases[i].hash, .history = cases[i].history, .flags = cases[i].flags};
		if (leader_decide(w.seat[0].node, &f->point, &h) != cases[i].expect)
			fail_msg("case %u", i);
	}
	world_end();
}

/* ---- all of it at random ---- */

/* Any answer will do. */
static void ignore(int r)
{
	(void)r;
}

static void random_worlds_converge(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 60; seed++) {
		world_begin(3, seed);
		for (uint32_t i = 0; i < 400; i++) {
			uint32_t k = (uint32_t)rng_below(&w.rng, 3);
			w.chunk_max = 1u << rng_between(&w.rng, 4, 20);
			if (is_writable(w.seat[k].f))
				rng_percent(&w.rng, 50) ? (void)write_rows(k, 3) : write_data(k, 1, 5);
			if (rng_percent(&w.rng, 3))
				cut_off(k, rng_percent(&w.rng, 50));
			if (rng_percent(&w.rng, 1))
				ignore(node_promote(w.seat[k].node));
			if (rng_percent(&w.rng, 1))
				ignore(node_handover_begin(w.seat[k].node, "n2", NSEC_PER_SEC));
			if (rng_percent(&w.rng, 2))
				fake_trim(w.seat[k].f, 5);
			ignore(node_handover_poll(w.seat[k].node));
			for (uint32_t s = (uint32_t)rng_below(&w.rng, 20); s > 0; s--)
				step();
		}
		for (uint32_t k = 0; k < 3; k++)
			cut_off(k, false);
		w.chunk_max = 1 << 20;
		steps_for(60 * NSEC_PER_SEC);
		uint32_t lead = 0, others[2], n = 0;
		if (leaders(&lead) == 0) { /* the last one to lead has promised another's epoch: an admin's turn */
			assert_int_equal(node_promote(w.seat[0].node), 0);
			lead = 0;
		}
		for (uint32_t k = 0; k < 3; k++)
			if (k != lead)
				others[n++] = k;
		until(leaders(&lead) == 1 && is_same(lead, others[0]) && is_same(lead, others[1]));
		world_end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_follower_gets_every_batch_in_any_chunks),
	    cmocka_unit_test(batches_that_arrive_together_share_a_commit),
	    cmocka_unit_test(out_of_line_data_comes_piece_by_piece),
	    cmocka_unit_test(data_that_changed_before_it_was_shipped_leaves_a_fence),
	    cmocka_unit_test(a_stream_goes_on_after_any_cut),
	    cmocka_unit_test(lag_is_told_in_batches_and_seconds),
	    cmocka_unit_test(the_list_of_peers_goes_to_followers),
	    cmocka_unit_test(who_does_not_know_the_leader_learns_of_it_from_who_does),
	    cmocka_unit_test(a_removed_peers_session_ends_and_none_begins),
	    cmocka_unit_test(a_newer_connection_replaces_a_half_open_one),
	    cmocka_unit_test(an_empty_follower_resyncs),
	    cmocka_unit_test(a_resync_while_the_leader_writes_ends_equal),
	    cmocka_unit_test(a_resync_may_be_cut_anywhere),
	    cmocka_unit_test(a_resync_moves_what_differs),
	    cmocka_unit_test(a_follower_behind_the_ring_resyncs),
	    cmocka_unit_test(a_damaged_batch_in_the_ring_is_gone_around),
	    cmocka_unit_test(a_follower_that_differs_says_so_and_resyncs),
	    cmocka_unit_test(rows_that_are_not_what_was_hashed_are_refused),
	    cmocka_unit_test(an_old_leader_saves_what_only_it_has_and_follows),
	    cmocka_unit_test(an_old_leader_without_more_just_follows),
	    cmocka_unit_test(either_side_that_dials_learns_or_teaches_the_epoch),
	    cmocka_unit_test(a_follower_that_promised_more_ends_a_leader),
	    cmocka_unit_test(same_epoch_and_other_history_is_a_conflict_until_an_admin_decides),
	    cmocka_unit_test(a_leader_with_a_shorter_history_is_a_conflict),
	    cmocka_unit_test(a_leader_that_went_back_and_wrote_nothing_follows),
	    cmocka_unit_test(a_leader_that_has_begun_nothing_leads_on_where_nobody_has_more),
	    cmocka_unit_test(followers_find_the_leader_through_each_other),
	    cmocka_unit_test(nobody_follows_two_leaders_at_once),
	    cmocka_unit_test(dialing_waits_longer_and_longer),
	    cmocka_unit_test(a_dead_peer_is_noticed_and_a_silent_one_is_not),
	    cmocka_unit_test(a_busy_node_does_not_call_its_peer_dead),
	    cmocka_unit_test(a_stranger_that_never_says_hello_is_dropped),
	    cmocka_unit_test(a_full_disk_ends_the_session_and_is_tried_again_with_pauses),
	    cmocka_unit_test(a_failed_commit_acks_nothing),
	    cmocka_unit_test(a_hand_over_moves_the_lead_and_loses_nothing),
	    cmocka_unit_test(a_hand_over_that_takes_too_long_leaves_the_lead_here),
	    cmocka_unit_test(a_hand_over_may_be_cut_at_any_byte),
	    cmocka_unit_test(a_leader_in_doubt_holds_until_the_peer_is_heard_of),
	    cmocka_unit_test(a_promotion_here_ends_the_doubt),
	    cmocka_unit_test(a_restart_does_not_end_the_doubt),
	    cmocka_unit_test(a_peer_that_is_gone_leaves_the_doubt_to_an_admin),
	    cmocka_unit_test(nothing_is_offered_that_cannot_be_promised),
	    cmocka_unit_test(a_hand_over_that_ends_while_it_is_promised_is_not_offered),
	    cmocka_unit_test(nothing_of_a_new_epoch_comes_on_an_old_conversation),
	    cmocka_unit_test(a_promotion_elsewhere_ends_a_hand_over),
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
	    cmocka_unit_test(a_leader_decides_by_prefix_hash_and_epoch),
	    cmocka_unit_test(random_worlds_converge),
	};

	log_setup(LOG_LEVEL_ERROR, true);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
