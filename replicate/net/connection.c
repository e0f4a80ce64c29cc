/*
 * connection.c: one connection, by a thread of its own, from its first byte to its last.
 *
 *     accepted --+                    +-- certificate: a session of the node, until either side ends it
 *                +-- TLS handshake ---+
 *     dialed  --+                    +-- invitation: JOIN, JOINED
 *
 * While a session lasts the thread goes in rounds: what has arrived into the session, what the session makes of it and of the
 * journal out of it, what the socket and the rate take to the peer; then it sleeps until the socket, a wake-up or a time.  Each
 * step is bounded, so that neither direction starves the other.
 *
 * After a round that sent something the thread naps: batches that become durable meanwhile do not wake it, but go out together,
 * 2 ms later at most.  On a leader that commits thousands of times a second that spares its writers most of what followers cost.
 * A wake-up that somebody waits for (server_wake()) ends a nap.
 * An error of the session ends the connection after what it still had to say (why it refuses) was sent where possible.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/log.h"
#include "base/pace.h"
#include "replicate/net/exchange.h"
#include "replicate/net/server_impl.h"

#define RECORD_BYTES 16384u /* of TLS */
#define ROUND_BYTES  MIB    /* in each direction */
#define LAST_NS      (NSEC_PER_SEC / 2)
#define BURST_NS     (NSEC_PER_SEC / 10)
#define BURST_MIN    4096u /* smaller records cost both sides more than they spare */
#define NAP_NS       (NSEC_PER_SEC / 500)

static int64_t now_ns(void)
{
	return clock_mono_ns(&clock_system);
}

/* ---- a session's rounds ---- */

struct round {
	uint64_t wakes, news; /* the server's counts before it */
	int64_t deadline_ns;
	bool more;    /* go on at once: there is more, or room for more to be made */
	bool blocked; /* the socket takes no more now */
	bool sent;
};

static int receive(struct connection *c, struct session *ss, struct round *round)
{
	uint8_t p[RECORD_BYTES];
	size_t total = 0;

	while (total < ROUND_BYTES) {
		size_t n = 0;

		int r = channel_read(c->channel, p, sizeof(p), &n);
		if (r == -EAGAIN)
			return 0;
		if (r == 0)
			r = session_input(ss, p, n);
		if (r < 0)
			return r;
		total += n;
	}
	round->more = true;
	return 0;
}

/* What the rate takes of what is to be sent; *deadline_ns comes nearer when it must wait for that. */
static size_t may_send(const struct connection *c, struct session *ss, int64_t *deadline_ns)
{
	size_t n = min_u64(session_output(ss).len, RECORD_BYTES);

	if (n == 0 || c->rate == 0)
		return n;
	if (c->paid_ns > now_ns()) {
		*deadline_ns = c->paid_ns < *deadline_ns ? c->paid_ns : *deadline_ns;
		return 0;
	}
	return min_u64(n, max_u64(c->rate / (NSEC_PER_SEC / BURST_NS), BURST_MIN));
}

static int transmit(struct connection *c, struct session *ss, struct round *round)
{
	size_t total = 0, n;

	while (total < ROUND_BYTES && (n = may_send(c, ss, &round->deadline_ns)) > 0) {
		int r = channel_write(c->channel, session_output(ss).p, n, &n);

		if (r == -EAGAIN) {
			round->blocked = true;
			return 0;
		}
		if (r < 0)
			return r;
		if (c->rate)
			(void)pace_pay(&c->paid_ns, c->rate, n, BURST_NS, now_ns());
		session_sent(ss, n);
		total += n;
		round->sent = true;
	}
	round->more |= total > 0 && (total >= ROUND_BYTES || session_output(ss).len == 0);
	return 0;
}

static int poll_ms(int64_t deadline_ns)
{
	int64_t left = deadline_ns - now_ns();

	return left <= 0 ? 0 : (int)min_u64(div_round_up((uint64_t)left, 1000000), 1000);
}

/*
 * Sleeps until something may have changed.  A wake-up that came since the round began found this connection awake and wrote
 * nothing: the counts tell.  Both sides first tell and then look, so one of them notices the other.
 */
static void rest(struct connection *c, const struct session *ss, const struct round *round, bool nap)
{
	struct server *s = c->server;
	int64_t until_ns = nap ? now_ns() + NAP_NS : INT64_MAX;
	/* The ack of each batch would end each nap, and the batches would go out one by one. */
	bool deaf = nap && !round->blocked && session_leads(ss) && !atomic_load(&s->hurry);
	struct pollfd p[] = {
	    {.fd = deaf ? -1 : c->fd, .events = channel_events(c->channel, round->blocked)},
	    {.fd = c->wake_fd, .events = POLLIN},
	};
	eventfd_t count;

	atomic_store(&c->rest, nap ? REST_NAP : REST_SLEEP);
	atomic_fetch_add(nap ? &s->nappers : &s->sleepers, 1);
	bool missed =
	    atomic_load(&s->wakes) != round->wakes || atomic_load(&c->end) != 0 || (!nap && atomic_load(&s->news) != round->news);
	/* whatever it says, the next round looks */
	(void)poll(p, ARRAY_SIZE(p), missed ? 0 : poll_ms(until_ns < round->deadline_ns ? until_ns : round->deadline_ns));
	if (atomic_exchange(&c->rest, REST_NONE) != REST_NONE)
		atomic_fetch_sub(nap ? &s->nappers : &s->sleepers, 1);
	if (p[1].revents)
		(void)eventfd_read(c->wake_fd, &count);
}

/* *sent: something was, since the last rest. */
static int take_round(struct connection *c, struct session *ss, bool *sent)
{
	struct round round = {
	    .wakes = atomic_load(&c->server->wakes), .news = atomic_load(&c->server->news), .deadline_ns = INT64_MAX};

	int r = atomic_load(&c->end);
	if (r == 0)
		r = receive(c, ss, &round);
	if (r == 0)
		r = session_pump(ss, &round.deadline_ns);
	if (r == 0 && session_output(ss).len > SESSION_MEMORY_MAX)
		r = -ENOBUFS;
	if (r == 0)
		r = transmit(c, ss, &round);
	*sent |= round.sent;
	if (r == 0 && !round.more) {
		rest(c, ss, &round, *sent);
		*sent = false;
	}
	return r;
}

/* The last words of a session that ended by itself. */
static void send_last(struct connection *c, struct session *ss)
{
	int64_t deadline_ns = now_ns() + LAST_NS;

	while (session_output(ss).len > 0 && atomic_load(&c->end) == 0) {
		size_t n = 0;

		int r = channel_write(c->channel, session_output(ss).p, session_output(ss).len, &n);
		if (r == -EAGAIN)
			r = net_wait(c->fd, channel_events(c->channel, true), deadline_ns, c->wake_fd);
		if (r < 0)
			return;
		session_sent(ss, n);
	}
}

static const char *end_text(const struct connection *c, int why)
{
	switch (why) {
	case -ESHUTDOWN:
		return "this node stops";
	case -EPERM:
		return "it was removed from the list of peers";
	case -ENOBUFS:
		return "it asks for more than it takes";
	default:
		return channel_ended(c->channel) ? channel_reason(c->channel) : strerror(-why);
	}
}

static int run_session(struct connection *c)
{
	struct session *ss;
	bool sent = false;

	int r = session_new(c->server->node, c->peer.node_id, c->dialed, &ss);
	if (r < 0) {
		/* The node has another one that it prefers, or has just removed the peer: it knows. */
		log_debug("replication: peer %s: no session: %s", c->peer.name, strerror(-r));
		return 0;
	}
	note_session(c->server, &c->peer);
	while ((r = take_round(c, ss, &sent)) == 0)
		;
	if (!channel_ended(c->channel))
		send_last(c, ss);
	session_free(ss, r, end_text(c, r));
	return 0;
}

/* ---- joining ---- */

static int answer_join(struct connection *c, struct exchange *x)
{
	CLEANUP_SECRET struct buf answer = {0};
	struct refuse why = {0};
	enum message_type type;
	struct slice body, json;
	char host[NET_HOST_TEXT];

	int r = exchange_receive(x, MESSAGE_JOIN, &type, &body);
	if (r == 0 && type != MESSAGE_JOIN)
		r = -EPROTO;
	if (r == 0)
		r = text_get(body, &json);
	if (r < 0)
		return r;
	net_peer_host(c->fd, host);
	r = admin_admit(c->server, channel_invitation(c->channel), host, json, &answer, &why);
	if (r < 0)
		return exchange_refuse(x, &why);
	return exchange_send(x, MESSAGE_JOINED, (const char *)answer.p);
}

static int run_join(struct connection *c)
{
	struct exchange x = {.channel = c->channel, .fd = c->fd, .wake_fd = c->wake_fd, .deadline_ns = now_ns() + JOIN_NS};

	int r = answer_join(c, &x);
	exchange_end(&x);
	return r;
}

/* ---- beginning and end ---- */

static bool is_peer(void *ctx, const uint8_t node[16])
{
	const struct connection *c = ctx;
	struct server *s = c->server;

	/* Our own certificate, shown to us, is of a copy of this node. */
	if (memcmp(node, s->self, 16) == 0)
		return false;
	mutex_lock(&s->peers_lock);
	bool found = peers_by_node(&s->peers, node) != NULL;
	mutex_unlock(&s->peers_lock);
	return found;
}

static bool get_secret(void *ctx, const char *id, uint8_t ret_secret[TOKEN_SECRET_BYTES])
{
	const struct connection *c = ctx;
	struct server *s = c->server;

	mutex_lock(&s->peers_lock);
	const struct invite *i = invites_find(&s->invites, id, clock_real_ns(&clock_system) / NSEC_PER_SEC);
	if (i)
		memcpy(ret_secret, i->secret, sizeof(i->secret));
	mutex_unlock(&s->peers_lock);
	return i != NULL;
}

static int make_channel(struct connection *c)
{
	const struct tls_gate gate = {.ctx = c, .is_peer = is_peer, .get_secret = get_secret};

	if (!c->dialed)
		return channel_accept(c->server->tls, c->fd, &gate, &c->channel);
	int r = net_connect(c->peer.address, now_ns() + CONNECT_NS, c->wake_fd, &c->fd);
	return r < 0 ? r : channel_dial(c->server->tls, c->fd, c->peer.node, &c->channel);
}

/* Who came, by its certificate; -EACCES: no longer, or not yet, a peer. */
static int identify(struct connection *c)
{
	struct server *s = c->server;
	const uint8_t *node = channel_node(c->channel);
	struct peer peer = {0};

	if (!node)
		return -EACCES;
	mutex_lock(&s->peers_lock);
	const struct peer *found = peers_by_node(&s->peers, node);
	if (found)
		peer = *found;
	mutex_unlock(&s->peers_lock);
	mutex_lock(&s->list_lock);
	if (found)
		c->peer = peer;
	mutex_unlock(&s->list_lock);
	return found ? 0 : -EACCES;
}

static int begin(struct connection *c)
{
	struct exchange x = {.wake_fd = c->wake_fd};

	int r = make_channel(c);
	if (r < 0)
		return r;
	x.channel = c->channel;
	x.fd = c->fd;
	x.deadline_ns = now_ns() + HANDSHAKE_NS;
	r = exchange_handshake(&x);
	if (r == 0 && !c->dialed && !channel_invitation(c->channel))
		r = identify(c);
	if (r < 0)
		return r;
	mutex_lock(&c->server->list_lock);
	c->state = CONNECTION_PROVEN;
	mutex_unlock(&c->server->list_lock);
	return 0;
}

/* Peers have it in their status; strangers who were refused get a line, noise on the port gets none. */
static void tell_stranger(struct connection *c, int r, const char *reason)
{
	char host[NET_HOST_TEXT];

	net_peer_host(c->fd, host);
	if (r == -EACCES)
		note_stranger(c->server, host, reason);
	else
		log_debug("replication: a connection from %s came to nothing: %s", host, reason);
}

static void tell_failure(struct connection *c, int r)
{
	const char *reason = c->channel && channel_ended(c->channel) ? channel_reason(c->channel) : strerror(-r);
	char text[WIRE_TEXT_MAX + 300];

	if (atomic_load(&c->end) != 0)
		return;
	/* A peer whose certificate has expired is known all the same. */
	if (!c->dialed && c->channel && identify(c) < 0) {
		tell_stranger(c, r, reason);
		return;
	}
	if (c->dialed && !c->channel) {
		snprintf(text, sizeof(text), "cannot be reached at %s: %s", c->peer.address, reason);
		reason = text;
	}
	if (c->peer.node_id)
		note_failure(c->server, &c->peer, r, reason);
}

static void finish(struct connection *c)
{
	struct exchange x = {.channel = c->channel, .fd = c->fd, .wake_fd = c->wake_fd};

	if (c->channel && atomic_load(&c->end) == 0)
		exchange_linger(&x);
	c->channel = channel_free(c->channel);
	if (c->fd >= 0)
		close(c->fd);
	mutex_lock(&c->server->list_lock);
	c->state = CONNECTION_ENDED;
	mutex_unlock(&c->server->list_lock);
}

void *connection_main(void *p)
{
	struct connection *c = p;

	int r = begin(c);
	if (r == 0)
		r = channel_invitation(c->channel) ? run_join(c) : run_session(c);
	if (r < 0)
		tell_failure(c, r);
	finish(c);
	return NULL;
}
