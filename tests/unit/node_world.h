/*
 * node_world.h: up to three nodes (node.h) on volumes in memory, connected by pipes that cut what is sent wherever they like.
 *
 * The world turns in steps: every node dials, every end of a connection pumps, some bytes of each pipe arrive, time passes.  The
 * invariant that is looked at after each step: no two nodes lead and let writers write at once while a hand-over is the only
 * thing that moves the lead (world.planned), and no follower shows a batch that the leader of its epoch does not have.
 */
#pragma once

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

static inline int64_t world_mono(const struct clock *c)
{
	(void)c;
	return w.mono_ns;
}
static inline int64_t world_real(const struct clock *c)
{
	(void)c;
	return w.mono_ns + 1000 * NSEC_PER_SEC;
}
static const struct clock world_clock = {.real_ns = world_real, .mono_ns = world_mono};

/* ---- hooks ---- */

static inline void on_acked(void *ctx, const uint64_t *durable, uint32_t n_known, uint32_t n_live)
{
	struct seat *t = ctx;

	for (uint32_t i = 1; i < n_known; i++)
		assert_true(durable[i - 1] >= durable[i]);
	memcpy(t->acked, durable, n_known * sizeof(*durable));
	t->n_known = n_known;
	t->n_live = n_live;
}
static inline void on_role(void *ctx, enum replica_role role)
{
	struct seat *t = ctx;

	assert_int_equal(role, t->f->point.role);
	t->n_roles++;
}
static inline void on_wake(void *ctx)
{
	((struct seat *)ctx)->n_wakes++;
}
static inline void on_peers(void *ctx, const struct peers *p)
{
	struct seat *t = ctx;

	t->n_peers_changed++;
	t->peers = *p;
}

/* ---- the world ---- */

static inline struct peers make_peers(uint32_t n, uint64_t version)
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

static inline void start_node(uint32_t i)
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

static inline void world_begin(uint32_t n, uint64_t seed)
{
	w = (struct world){.n = n, .rng = {.state = seed}, .mono_ns = NSEC_PER_SEC, .chunk_max = 1 << 20, .cut_at = UINT64_MAX};
	for (uint32_t i = 0; i < n; i++) {
		w.seat[i].f = fake_new(i + 1, i == 0 ? ROLE_LEADER : ROLE_FOLLOWER);
		start_node(i);
		for (uint32_t j = 0; j < n; j++)
			w.link[i][j] = true;
	}
}

static inline void end_over(struct end *e, int why)
{
	if (e->s) {
		e->error = e->s->error ? e->s->error : why;
		e->s = session_free(e->s, why, "cut");
	}
}

static inline void conn_drop(struct conn *c)
{
	for (unsigned i = 0; i < 2; i++) {
		end_over(&c->end[i], -ECONNRESET);
		buf_free(&c->end[i].in);
	}
	c->used = false;
}

static inline void drop_all(void)
{
	for (uint32_t i = 0; i < CONNS_MAX; i++)
		conn_drop(&w.conn[i]);
}

static inline void world_end(void)
{
	drop_all();
	for (uint32_t i = 0; i < w.n; i++) {
		node_free(w.seat[i].node);
		fake_free(w.seat[i].f);
	}
	free(w.record);
}

static inline struct conn *connect_nodes(uint32_t from, uint32_t to)
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

static inline void dial(uint32_t i)
{
	uint32_t ids[PEERS_MAX], n = node_dial(w.seat[i].node, ids, PEERS_MAX);

	for (uint32_t k = 0; k < n; k++)
		if (w.link[i][ids[k] - 1]) {
			w.seat[i].n_dials++;
			connect_nodes(i, ids[k] - 1);
		}
}

/* All that the session has to say goes on its way. */
static inline void flush_end(struct end *e, struct end *other)
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

static inline void turn_end(struct end *e, struct end *other)
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

static inline bool is_writable(const struct fake *f)
{
	return f->point.role == ROLE_LEADER && !f->held && !f->point.offered;
}

static inline void check_world(void)
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

static inline void step(void)
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

static inline void steps_for(int64_t ns)
{
	for (int64_t end = w.mono_ns + ns; w.mono_ns < end;)
		step();
}

static inline bool is_same(uint32_t i, uint32_t j)
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

static inline struct peer_status status_of(uint32_t i, uint32_t of)
{
	struct peer_status st[PEERS_MAX];
	uint32_t n = node_status(w.seat[i].node, st, PEERS_MAX);

	for (uint32_t k = 0; k < n; k++)
		if (st[k].node_id == of + 1)
			return st[k];
	fail_msg("no status");
	return st[0];
}

static inline enum peer_state state_of(uint32_t i, uint32_t of)
{
	return status_of(i, of).state;
}

/* ---- writing ---- */

static inline struct fake_record put_record(const char *key, const char *value)
{
	struct fake_record r = {.type = FAKE_PUT, .key_len = (uint32_t)strlen(key), .value_len = (uint32_t)strlen(value)};

	memcpy(r.key, key, r.key_len);
	memcpy(r.value, value, r.value_len);
	return r;
}

static inline struct fake_record put_any(void)
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

static inline uint64_t write_rows(uint32_t i, uint32_t n)
{
	struct fake_record *rec = calloc(n, sizeof(*rec));

	for (uint32_t k = 0; k < n; k++)
		rec[k] = put_any();
	uint64_t seq = fake_append(w.seat[i].f, rec, n, NULL);
	free(rec);
	node_batch_durable(w.seat[i].node, seq);
	return seq;
}

static inline uint64_t write_one(uint32_t i, const char *key, const char *value)
{
	const struct fake_record rec = put_record(key, value);
	uint64_t seq = fake_append(w.seat[i].f, &rec, 1, NULL);

	node_batch_durable(w.seat[i].node, seq);
	return seq;
}

/* A batch with n out-of-line writes of up to a leaf each. */
static inline void write_data(uint32_t i, uint32_t n, uint64_t inodes)
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
static inline void begin_pair(uint64_t seed)
{
	world_begin(2, seed);
	write_one(0, "Droot", "x");
	until(is_same(0, 1) && state_of(0, 1) == PEER_STREAMING);
}

/* ---- by hand ---- */

/* A list of nodes 2 and 3 of three. */
static inline struct peers without_the_first(uint64_t epoch, uint64_t version)
{
	struct peers p = make_peers(3, version);

	p.epoch = epoch;
	memmove(&p.peer[0], &p.peer[1], 2 * sizeof(p.peer[0]));
	p.n = 2;
	return p;
}

static inline struct hello hello_of(uint32_t i)
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

static inline int say(struct session *s, const struct hello *h)
{
	CLEANUP_BUF struct buf b = {0};
	size_t at = frame_begin(&b, MESSAGE_HELLO);

	hello_put(&b, h);
	frame_end(&b, at, 0);
	return session_input(s, b.p, b.len);
}

static inline void cut_off(uint32_t i, bool off)
{
	for (uint32_t j = 0; j < w.n; j++)
		w.link[i][j] = w.link[j][i] = !off;
	for (uint32_t k = 0; off && k < CONNS_MAX; k++)
		if (w.conn[k].used && (w.conn[k].end[0].node == i || w.conn[k].end[1].node == i))
			conn_drop(&w.conn[k]);
}

static inline uint32_t leaders(uint32_t *ret_last)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < w.n; i++)
		if (is_writable(w.seat[i].f)) {
			*ret_last = i;
			n++;
		}
	return n;
}
