/*
 * replica_links.c: the sessions of a simulated node on its connections: what server.c does with sockets and threads.
 */
#include <errno.h>
#include <string.h>

#include "replicate/wire/wire.h"
#include "tests/crash/replica_run.h"
#include "tests/lib/cow.h"

#define DIALS_MAX     4u
#define PUMP_AGAIN_NS 1000000 /* a deadline that is past is looked at again after this long */
#define OUT_BOUND     (SESSION_OUT_MAX + WIRE_BODY_MAX + FRAME_HEADER_BYTES)

static struct link *find_link(struct slot *s, simnet_end end)
{
	for (unsigned i = 0; i < LINKS_MAX; i++)
		if (s->links[i].end == end)
			return &s->links[i];
	return NULL;
}

static struct slot *slot_of_id(struct cluster *c, uint32_t id)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (c->slot[i].node_id == id)
			return &c->slot[i];
	return NULL;
}

static struct call *call_of(struct cluster *c, simnet_end end)
{
	return &c->call[end / 2 - 1];
}

void links_dial(struct slot *s, uint32_t peer_id)
{
	struct cluster *c = s->c;
	struct slot *to = slot_of_id(c, peer_id);
	struct link *l = find_link(s, 0);

	if (!to || to == s || !l) /* nobody is there any more */
		return;
	*l = (struct link){.end = simnet_dial(c->net, s->index, to->index), .peer_id = peer_id, .dialed = true};
	c->call = test_grow(c->call, c->n_calls, &c->calls_cap, sizeof(*c->call));
	c->call[c->n_calls++] = (struct call){s->node_id, peer_id};
}

/* The connection is gone, for the node too. */
static void forget(struct link *l, int why)
{
	if (l->session)
		session_free(l->session, why, NULL);
	*l = (struct link){0};
}

static void send_output(struct slot *s, struct link *l)
{
	struct slice out = session_output(l->session);

	if (out.len > OUT_BOUND)
		cluster_fail(s->c, "slot %u: a session has %zu bytes ready to be sent", s->index, out.len);
	if (out.len == 0)
		return;
	size_t n = simnet_send(s->c->net, l->end, out.p, out.len);
	session_sent(l->session, n);
	s->dirty = s->dirty || n > 0; /* there is room for more now */
}

static void hang_up(struct slot *s, struct link *l, int why)
{
	if (l->session)
		send_output(s, l);
	simnet_close(s->c->net, l->end);
	forget(l, why);
	s->dirty = true;
}

void links_drop_all(struct slot *s)
{
	for (unsigned i = 0; i < LINKS_MAX; i++)
		if (s->links[i].end)
			forget(&s->links[i], -ECONNRESET);
}

static void begin_session(struct slot *s, struct link *l)
{
	l->deadline_ns = 0;
	int r = session_new(s->node, l->peer_id, l->dialed, &l->session);
	if (r) {
		cluster_say(s->c, "slot %u: no session with node %u: %s", s->index, l->peer_id, strerror(-r));
		l->session = NULL;
		hang_up(s, l, r);
	}
	s->dirty = true;
}

/* A certificate is of the node, not of the host: who has another one now is not let in. */
static void take_up(struct slot *s, simnet_end end)
{
	const struct call *call = call_of(s->c, end);
	struct link *l = find_link(s, 0);

	if (!l || call->to_id != s->node_id) {
		simnet_close(s->c->net, end);
		return;
	}
	*l = (struct link){.end = end, .peer_id = call->from_id};
	begin_session(s, l);
}

static void take_bytes(struct slot *s, struct link *l, const struct simnet_event *e)
{
	int r = session_input(l->session, e->p, e->len);

	s->received += e->len;
	s->dirty = true;
	slot_settle(s);
	if (r && !s->doomed)
		hang_up(s, l, r);
}

/* These bytes and what follows from them are the last that this node does. */
static void take_last_bytes(struct slot *s, struct link *l, const struct simnet_event *e)
{
	uint64_t since = simstore_count(s->run.image.store);
	int64_t ignored;

	s->doomed = true;
	take_bytes(s, l, e);
	int r = session_pump(l->session, &ignored);
	if (r)
		cluster_say(s->c, "slot %u: the last session ends: %s", s->index, strerror(-r));
	slot_settle(s);
	slot_crash(s, (enum simcut_variant)rng_below(&s->c->rng, SIMCUT_VARIANTS), since);
}

void links_event(struct cluster *c, const struct simnet_event *e)
{
	struct slot *s = &c->slot[e->host];
	struct link *l = find_link(s, e->end);

	if (e->kind == SIMNET_ACCEPTED)
		take_up(s, e->end);
	if (!l)
		return;
	if (e->kind == SIMNET_CONNECTED)
		begin_session(s, l);
	else if (e->kind == SIMNET_CLOSED)
		forget(l, -ECONNRESET);
	else if (s->doom)
		take_last_bytes(s, l, e);
	else
		take_bytes(s, l, e);
}

static void pump(struct slot *s, struct link *l)
{
	int r = session_pump(l->session, &l->deadline_ns);

	slot_settle(s);
	if (r)
		hang_up(s, l, r);
	else
		send_output(s, l);
}

static void dial(struct slot *s)
{
	uint32_t ids[DIALS_MAX], n = node_dial(s->node, ids, DIALS_MAX);

	for (uint32_t i = 0; i < n; i++)
		links_dial(s, ids[i]);
	s->dial_ns = simnet_now(s->c->net) + NSEC_PER_SEC / 5;
}

void links_pump(struct slot *s)
{
	bool all = s->dirty;

	s->dirty = false;
	if (all || simnet_now(s->c->net) >= s->dial_ns)
		dial(s);
	for (unsigned i = 0; i < LINKS_MAX && cluster_ok(s->c); i++) {
		struct link *l = &s->links[i];

		if (l->session && (all || s->clock.mono_ns >= l->deadline_ns))
			pump(s, l);
		else if (l->session)
			send_output(s, l);
	}
}

/* When this node's clock will show `mono_ns`; never now, so that time goes on. */
static int64_t true_time(const struct slot *s, int64_t mono_ns)
{
	int64_t now_ns = simnet_now(s->c->net), left_ns = mono_ns - s->clock.mono_ns;

	if (mono_ns == INT64_MAX)
		return INT64_MAX;
	left_ns -= left_ns / 1000000 * s->clock.drift_ppm;
	return now_ns + (left_ns > PUMP_AGAIN_NS ? left_ns : PUMP_AGAIN_NS);
}

int64_t links_next(const struct slot *s)
{
	int64_t next_ns = s->dial_ns;

	for (unsigned i = 0; i < LINKS_MAX; i++) {
		int64_t ns = s->links[i].session ? true_time(s, s->links[i].deadline_ns) : INT64_MAX;

		if (ns < next_ns)
			next_ns = ns;
	}
	return next_ns;
}
