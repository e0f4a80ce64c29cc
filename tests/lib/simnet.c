/*
 * simnet.c: each connection is two queues of bytes and the moments at which something happens to it next.
 *
 * A moment is an event of the caller's, or nothing but a look whether a cut is over.  With so few connections as a test has, the
 * next moment is found by looking at all of them.
 */
#include "tests/lib/simnet.h"

#include <assert.h>
#include <string.h>

#include "tests/lib/cow.h"

#define HOSTS_MAX       8u
#define WINDOW          (256 * KIB)
#define RETRY_NS        (50 * 1000000) /* how often a sender that is cut off tries again */
#define CONNECT_WAIT_NS (4 * NSEC_PER_SEC)
#define NEVER           INT64_MAX

enum side { DIALER, LISTENER };

/* Bytes on their way to one end, and that end. */
struct lane {
	unsigned host;  /* of the receiver */
	bool open;      /* the receiver has this end */
	bool known;     /* its host still knows the connection: false after a loss of power */
	bool fin;       /* the sender closed: CLOSED comes behind the bytes */
	uint8_t *queue; /* WINDOW bytes, of which [head, head + len) are on their way */
	size_t head, len;
	int64_t due_ns; /* when bytes or CLOSED arrive next */
};
struct conn {
	bool used;
	int64_t connect_ns, give_up_ns; /* CONNECTED is due; NEVER: it was */
	int64_t accept_ns;
	struct lane to[2];
};
struct simnet {
	struct rng rng;
	unsigned n_hosts;
	int64_t now_ns;
	bool cut[HOSTS_MAX][HOSTS_MAX], down[HOSTS_MAX];
	unsigned slow[HOSTS_MAX];
	struct conn *conns;
	size_t n_conns, cap;
	uint8_t piece[WINDOW]; /* lent out with DATA */
};

struct simnet *simnet_new(uint64_t seed, unsigned n_hosts)
{
	struct simnet *n = test_alloc(sizeof(*n));

	assert(n_hosts <= HOSTS_MAX);
	n->rng = rng_derive(seed, 0x6e6574, 0);
	n->n_hosts = n_hosts;
	for (unsigned i = 0; i < HOSTS_MAX; i++)
		n->slow[i] = 1;
	return n;
}

static void conn_forget(struct conn *c)
{
	free(c->to[0].queue);
	free(c->to[1].queue);
	*c = (struct conn){0};
}

void simnet_free(struct simnet *n)
{
	if (!n)
		return;
	for (size_t i = 0; i < n->n_conns; i++)
		conn_forget(&n->conns[i]);
	free(n->conns);
	free(n);
}

int64_t simnet_now(const struct simnet *n)
{
	return n->now_ns;
}

void simnet_cut(struct simnet *n, unsigned from, unsigned to, bool cut)
{
	n->cut[from][to] = cut;
}

bool simnet_is_cut(const struct simnet *n, unsigned from, unsigned to)
{
	return n->cut[from][to];
}

void simnet_slow(struct simnet *n, unsigned host, unsigned times)
{
	n->slow[host] = times;
}

/* ---- ends ---- */

static simnet_end end_make(size_t conn, enum side side)
{
	return (simnet_end)((conn + 1) * 2 + side);
}

static enum side end_side(simnet_end e)
{
	return (enum side)(e & 1);
}

static struct conn *end_conn(struct simnet *n, simnet_end e)
{
	assert(e / 2 >= 1 && e / 2 <= n->n_conns);
	return &n->conns[e / 2 - 1];
}

static int64_t delay(struct simnet *n, unsigned a, unsigned b)
{
	int64_t ns =
	    (int64_t)(rng_percent(&n->rng, 90) ? rng_between(&n->rng, 20000, 2000000) : rng_between(&n->rng, 2000000, 80000000));

	return ns * (n->slow[a] > n->slow[b] ? n->slow[a] : n->slow[b]);
}

static bool is_apart(const struct simnet *n, unsigned a, unsigned b)
{
	return n->cut[a][b] || n->cut[b][a] || n->down[b];
}

simnet_end simnet_dial(struct simnet *n, unsigned from, unsigned to)
{
	n->conns = test_grow(n->conns, n->n_conns, &n->cap, sizeof(*n->conns));
	struct conn *c = &n->conns[n->n_conns++];

	*c = (struct conn){.used = true, .give_up_ns = n->now_ns + CONNECT_WAIT_NS, .accept_ns = NEVER};
	c->connect_ns = n->now_ns + delay(n, from, to);
	c->to[DIALER] = (struct lane){.host = from, .open = true, .known = true, .due_ns = NEVER};
	c->to[LISTENER] = (struct lane){.host = to, .due_ns = NEVER};
	return end_make(n->n_conns - 1, DIALER);
}

/* Something is on its way to this lane's end. */
static void schedule(struct simnet *n, struct conn *c, enum side side)
{
	struct lane *l = &c->to[side];

	if (l->due_ns == NEVER && (l->len > 0 || l->fin))
		l->due_ns = n->now_ns + delay(n, l->host, c->to[!side].host);
}

size_t simnet_send(struct simnet *n, simnet_end e, const void *p, size_t len)
{
	struct conn *c = end_conn(n, e);
	struct lane *l = &c->to[!end_side(e)];

	assert(c->to[end_side(e)].open);
	if (l->fin) /* it was reset, and this side has not heard of it */
		return len;
	if (!l->queue)
		l->queue = test_alloc(WINDOW);
	len = min_u64(len, WINDOW - l->len);
	if (l->head + l->len + len > WINDOW) {
		memmove(l->queue, l->queue + l->head, l->len);
		l->head = 0;
	}
	memcpy(l->queue + l->head + l->len, p, len);
	l->len += len;
	schedule(n, c, !end_side(e));
	return len;
}

static void forget_when_over(struct conn *c)
{
	if (!c->to[DIALER].open && !c->to[LISTENER].open && c->accept_ns == NEVER)
		conn_forget(c);
}

void simnet_close(struct simnet *n, simnet_end e)
{
	struct conn *c = end_conn(n, e);
	enum side side = end_side(e);

	assert(c->to[side].open);
	c->to[side].open = false;
	c->to[!side].fin = true;
	if (c->to[!side].open)
		schedule(n, c, !side);
	if (side == DIALER && c->connect_ns != NEVER)
		conn_forget(c); /* it was never made */
	else
		forget_when_over(c);
}

static void drop_bytes(struct lane *l)
{
	l->head = l->len = 0;
}

void simnet_reset(struct simnet *n, simnet_end e, bool half)
{
	struct conn *c = end_conn(n, e);
	enum side side = end_side(e);

	drop_bytes(&c->to[DIALER]);
	drop_bytes(&c->to[LISTENER]);
	c->to[side].fin = true; /* told at once: its own host did it */
	c->to[side].due_ns = n->now_ns;
	c->to[side].known = false;
	c->to[!side].known = !half;
	c->to[!side].fin = !half;
	schedule(n, c, !side);
}

simnet_end simnet_pick(struct simnet *n, struct rng *rng)
{
	simnet_end found = 0;
	unsigned seen = 0;

	for (size_t i = 0; i < n->n_conns; i++)
		if (n->conns[i].to[DIALER].open && n->conns[i].to[LISTENER].open && rng_below(rng, ++seen) == 0)
			found = end_make(i, (enum side)rng_below(rng, 2));
	return found;
}

/* ---- hosts ---- */

static void end_of_dead_host(struct simnet *n, struct conn *c, enum side side, bool killed)
{
	struct lane *mine = &c->to[side], *other = &c->to[!side];

	mine->open = mine->known = false;
	if (side == LISTENER)
		c->accept_ns = NEVER;
	if (side == DIALER && c->connect_ns != NEVER) {
		conn_forget(c);
		return;
	}
	if (killed)
		other->fin = true;
	else
		drop_bytes(other);
	if (other->open)
		schedule(n, c, !side);
	forget_when_over(c);
}

void simnet_host_down(struct simnet *n, unsigned host, bool killed)
{
	n->down[host] = true;
	for (size_t i = 0; i < n->n_conns; i++)
		for (unsigned side = 0; side < 2; side++)
			if (n->conns[i].used && n->conns[i].to[side].host == host)
				end_of_dead_host(n, &n->conns[i], (enum side)side, killed);
}

void simnet_host_up(struct simnet *n, unsigned host)
{
	n->down[host] = false;
}

/* ---- moments ---- */

static int64_t lane_due(const struct conn *c, enum side side)
{
	/* Before the listener took the connection up, what is sent to it waits. */
	return side == LISTENER && c->accept_ns != NEVER ? NEVER : c->to[side].due_ns;
}

static int64_t conn_due(const struct conn *c)
{
	int64_t due = c->connect_ns < c->accept_ns ? c->connect_ns : c->accept_ns;

	for (unsigned side = 0; side < 2; side++)
		if (lane_due(c, (enum side)side) < due)
			due = lane_due(c, (enum side)side);
	return due;
}

int64_t simnet_next(const struct simnet *n)
{
	int64_t due = NEVER;

	for (size_t i = 0; i < n->n_conns; i++)
		if (n->conns[i].used && conn_due(&n->conns[i]) < due)
			due = conn_due(&n->conns[i]);
	return due;
}

static struct simnet_event closed(struct conn *c, simnet_end e)
{
	struct lane *l = &c->to[end_side(e)];
	const struct simnet_event ev = {.kind = SIMNET_CLOSED, .host = l->host, .end = e};

	l->open = false;
	l->due_ns = NEVER;
	c->connect_ns = NEVER;
	forget_when_over(c);
	return ev;
}

static bool connect_moment(struct simnet *n, size_t i, struct simnet_event *ret)
{
	struct conn *c = &n->conns[i];
	unsigned from = c->to[DIALER].host, to = c->to[LISTENER].host;
	simnet_end e = end_make(i, DIALER);

	if (is_apart(n, from, to)) {
		c->connect_ns = n->now_ns + RETRY_NS;
		if (c->connect_ns < c->give_up_ns)
			return false;
		*ret = closed(c, e);
		return true;
	}
	c->connect_ns = NEVER;
	c->to[LISTENER].known = true;
	c->accept_ns =
	    n->now_ns + (rng_percent(&n->rng, 90) ? delay(n, from, to) : (int64_t)rng_below(&n->rng, 6 * (uint64_t)NSEC_PER_SEC));
	*ret = (struct simnet_event){.kind = SIMNET_CONNECTED, .host = from, .end = e};
	return true;
}

static bool accept_moment(struct simnet *n, size_t i, struct simnet_event *ret)
{
	struct conn *c = &n->conns[i];

	c->accept_ns = NEVER;
	c->to[LISTENER].open = true;
	schedule(n, c, LISTENER);
	*ret = (struct simnet_event){.kind = SIMNET_ACCEPTED, .host = c->to[LISTENER].host, .end = end_make(i, LISTENER)};
	return true;
}

/* Mostly as much as there is, sometimes a few bytes. */
static size_t piece_len(struct simnet *n, size_t len)
{
	unsigned kind = (unsigned)rng_below(&n->rng, 10);

	return kind == 0 ? rng_between(&n->rng, 1, min_u64(len, 40)) : kind < 4 ? rng_between(&n->rng, 1, len) : len;
}

/* Bytes for a host that does not know the connection any more: it says so, and the sender's end is closed. */
static void answer_reset(struct simnet *n, struct conn *c, enum side side)
{
	struct lane *l = &c->to[side], *sender = &c->to[!side];

	drop_bytes(l);
	l->due_ns = NEVER;
	if (!sender->open)
		return;
	drop_bytes(sender);
	sender->fin = true;
	schedule(n, c, !side);
}

static bool lane_moment(struct simnet *n, size_t i, enum side side, struct simnet_event *ret)
{
	struct conn *c = &n->conns[i];
	struct lane *l = &c->to[side];
	unsigned sender = c->to[!side].host;
	bool reset_here = l->fin && !l->known && l->open;

	if (!reset_here && (n->cut[sender][l->host] || n->down[l->host])) {
		l->due_ns = n->now_ns + RETRY_NS;
		return false;
	}
	l->due_ns = NEVER;
	if (!l->open || (!l->known && !reset_here)) {
		answer_reset(n, c, side);
		return false;
	}
	if (l->len == 0 && !l->fin)
		return false;
	if (l->len == 0) {
		*ret = closed(c, end_make(i, side));
		return true;
	}
	size_t len = piece_len(n, l->len);
	memcpy(n->piece, l->queue + l->head, len);
	l->head += len;
	l->len -= len;
	schedule(n, c, side);
	*ret = (struct simnet_event){.kind = SIMNET_DATA, .host = l->host, .end = end_make(i, side), .p = n->piece, .len = len};
	return true;
}

static bool conn_moment(struct simnet *n, size_t i, struct simnet_event *ret)
{
	struct conn *c = &n->conns[i];
	int64_t due = conn_due(c);

	if (c->connect_ns == due)
		return connect_moment(n, i, ret);
	if (c->accept_ns == due)
		return accept_moment(n, i, ret);
	return lane_moment(n, i, lane_due(c, DIALER) == due ? DIALER : LISTENER, ret);
}

bool simnet_step(struct simnet *n, int64_t until, struct simnet_event *ret)
{
	for (;;) {
		int64_t due = simnet_next(n);

		if (due > until) {
			n->now_ns = until > n->now_ns ? until : n->now_ns;
			return false;
		}
		n->now_ns = due > n->now_ns ? due : n->now_ns;
		for (size_t i = 0; i < n->n_conns; i++) {
			if (!n->conns[i].used || conn_due(&n->conns[i]) != due)
				continue;
			if (conn_moment(n, i, ret))
				return true;
			break;
		}
	}
}
