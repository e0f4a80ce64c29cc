/*
 * server.c: see server.h.
 *
 * The acceptor takes what comes and starts a thread for it.  Who has not proven who he is yet is worth little: of those there are
 * at most half of connections_max, and the one that has waited longest goes when another comes, so that idle connections keep
 * nobody out: a peer's handshake takes milliseconds. The dialer asks the node five times a second whom it wants to reach.
 * Connections that ended are joined and freed by these two, before they make new ones.
 */
#include "replicate/net/server_impl.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/log.h"
#include "replicate/peerfile.h"
#include "replicate/net/pki.h"
#include "replicate/net/thread.h"

#define CONNECTIONS_DEFAULT 64u
#define DIAL_INTERVAL_NS    (NSEC_PER_SEC / 5)
#define PAUSE_NS            (NSEC_PER_SEC / 10)
#define EXPIRY_WARNING_S    (60 * INT64_C(86400))

/* ---- connections ---- */

void connection_end(struct connection *c, int why)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&c->end, &none, why))
		(void)eventfd_write(c->wake_fd, 1);
}

static void connection_free(struct connection *c)
{
	close(c->wake_fd);
	free(c);
}

/* `peer` NULL: `fd` was accepted, and is the connection's from here on, also on error. */
static int connection_start(struct server *s, int fd, const struct peer *peer) EXCLUDES(s->list_lock)
{
	CLEANUP_FD int owned = fd;
	char name[16] = "peer?";

	if (peer)
		snprintf(name, sizeof(name), "peer-%.10s", peer->name);
	struct connection *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	*c = (struct connection){.server = s, .fd = fd, .dialed = peer != NULL, .rate = s->rate};
	if (peer)
		c->peer = *peer;
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int r = c->wake_fd < 0 ? -errno : 0;
	if (r < 0) {
		free(c);
		return r;
	}
	mutex_lock(&s->list_lock);
	r = thread_start(&c->thread, name, connection_main, c);
	if (r == 0) {
		c->next = s->connections;
		s->connections = c;
	}
	mutex_unlock(&s->list_lock);
	if (r < 0)
		connection_free(c);
	else
		(void)TAKE_FD(owned);
	return r;
}

/* Takes those that ended off the list. */
static struct connection *take_ended(struct server *s) EXCLUDES(s->list_lock)
{
	struct connection *ended = NULL;

	mutex_lock(&s->list_lock);
	for (struct connection **at = &s->connections; *at;) {
		struct connection *c = *at;

		if (c->state != CONNECTION_ENDED) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		c->next = ended;
		ended = c;
	}
	mutex_unlock(&s->list_lock);
	return ended;
}

static void reap(struct server *s)
{
	struct connection *next;

	for (struct connection *c = take_ended(s); c; c = next) {
		next = c->next;
		pthread_join(c->thread, NULL);
		connection_free(c);
	}
}

/* Whether one more may come; the longest waiting of too many that are not proven goes for it. */
static bool make_room(struct server *s) EXCLUDES(s->list_lock)
{
	struct connection *oldest = NULL;
	uint32_t n = 0, n_pending = 0;

	mutex_lock(&s->list_lock);
	for (struct connection *c = s->connections; c; c = c->next, n++)
		if (c->state == CONNECTION_PENDING && !c->dialed && atomic_load(&c->end) == 0) {
			n_pending++;
			oldest = c;
		}
	if (oldest && (n_pending >= s->connections_max / 2 || n >= s->connections_max))
		connection_end(oldest, -ECONNABORTED);
	mutex_unlock(&s->list_lock);
	return n < 2 * s->connections_max; /* those on their way out take a moment */
}

void server_end_strangers(struct server *s, const struct peers *p)
{
	mutex_lock(&s->list_lock);
	for (struct connection *c = s->connections; c; c = c->next)
		if (c->peer.node_id && !peers_by_node(p, c->peer.node))
			connection_end(c, -EPERM);
	mutex_unlock(&s->list_lock);
}

static void wake_all(struct server *s, bool nappers)
{
	mutex_lock(&s->list_lock);
	for (struct connection *c = s->connections; c; c = c->next) {
		int rest = atomic_load(&c->rest);

		if (rest == REST_NONE || (rest == REST_NAP && !nappers) ||
		    !atomic_compare_exchange_strong(&c->rest, &rest, REST_NONE))
			continue; /* changed just now: its thread looks at the counts by itself */
		atomic_fetch_sub(rest == REST_NAP ? &s->nappers : &s->sleepers, 1);
		(void)eventfd_write(c->wake_fd, 1);
	}
	mutex_unlock(&s->list_lock);
}

void server_wake(struct server *s)
{
	if (!s)
		return;
	atomic_store(&s->hurry, true);
	atomic_fetch_add(&s->wakes, 1);
	if (atomic_load(&s->sleepers) > 0 || atomic_load(&s->nappers) > 0)
		wake_all(s, true);
}

void server_news(struct server *s)
{
	if (!s)
		return;
	atomic_store(&s->hurry, false);
	atomic_fetch_add(&s->news, 1);
	if (atomic_load(&s->sleepers) > 0)
		wake_all(s, false);
}

/* ---- threads ---- */

/* True when the server is to stop. */
static bool pause_for(struct server *s, int64_t ns)
{
	return net_wait(-1, 0, clock_mono_ns(&clock_system) + ns, s->stop_fd) == -ECANCELED;
}

static void accept_one(struct server *s)
{
	int fd;

	int r = net_accept(s->listen_fd, &fd);
	if (r == -EAGAIN)
		return;
	if (r == 0 && !make_room(s)) {
		close(fd);
		return;
	}
	if (r == 0)
		r = connection_start(s, fd, NULL);
	if (r < 0) {
		note_stranger(s, "a peer", strerror(-r));
		(void)pause_for(s, PAUSE_NS); /* descriptors or memory have run out: more haste helps nobody */
	}
}

static void *acceptor_main(void *p)
{
	struct server *s = p;

	while (net_wait(s->listen_fd, POLLIN, INT64_MAX, s->stop_fd) != -ECANCELED) {
		reap(s);
		accept_one(s);
	}
	return NULL;
}

static bool is_dialing(struct server *s, uint32_t node_id) EXCLUDES(s->list_lock)
{
	bool found = false;

	mutex_lock(&s->list_lock);
	for (const struct connection *c = s->connections; c; c = c->next)
		found |= c->dialed && c->peer.node_id == node_id && c->state != CONNECTION_ENDED;
	mutex_unlock(&s->list_lock);
	return found;
}

void server_get_peers(struct server *s, struct peers *ret)
{
	mutex_lock(&s->peers_lock);
	*ret = s->peers;
	mutex_unlock(&s->peers_lock);
}

static void dial(struct server *s)
{
	uint32_t ids[PEERS_MAX];
	struct peers peers;

	uint32_t n = node_dial(s->node, ids, PEERS_MAX);
	server_get_peers(s, &peers);
	for (uint32_t i = 0; i < n; i++) {
		const struct peer *p = peers_by_id(&peers, ids[i]);

		if (!p || !p->address[0] || is_dialing(s, ids[i]))
			continue;
		int r = connection_start(s, -1, p);
		if (r < 0)
			note_failure(s, p, r, strerror(-r));
	}
}

static void *dialer_main(void *p)
{
	struct server *s = p;

	while (!pause_for(s, DIAL_INTERVAL_NS)) {
		reap(s);
		dial(s);
	}
	return NULL;
}

/* ---- start ---- */

static int load_tls(struct server *s)
{
	CLEANUP_SECRET struct buf key = {0};
	CLEANUP_BUF struct buf ca = {0};
	CLEANUP_BUF struct buf certificate = {0};
	struct pki_span span;

	secret_reserve(&key, PEERFILE_MAX);
	int r = peerfile_read(s->dir, FILE_CA_CERTIFICATE, PEERFILE_PLAIN, &ca);
	if (r == 0)
		r = peerfile_read(s->dir, FILE_NODE_CERTIFICATE, PEERFILE_PLAIN, &certificate);
	if (r == 0)
		r = peerfile_read(s->dir, FILE_NODE_KEY, PEERFILE_SECRET, &key);
	if (r == 0)
		r = pki_check_node(buf_slice(&ca), buf_slice(&certificate), s->self);
	if (r == 0)
		r = pki_get_span(buf_slice(&certificate), &span);
	if (r < 0)
		return r == -ENOENT || r == -EKEYREJECTED ? -EUCLEAN : r;
	int64_t now = clock_real_ns(&clock_system) / NSEC_PER_SEC;
	if (span.to_s - now < EXPIRY_WARNING_S || now < span.from_s)
		log_warn("%s/peers/%s: valid only %s: peers refuse it outside its time", s->dir, FILE_NODE_CERTIFICATE,
			 now < span.from_s ? "in the future"
			 : now > span.to_s ? "in the past"
					   : "for a few weeks more");
	const struct tls_identity id = {buf_slice(&ca), buf_slice(&certificate), buf_slice(&key)};
	r = tls_new(&id, &s->tls);
	return r == -EKEYREJECTED ? -EUCLEAN : r;
}

static int load(struct server *s)
{
	int r = peers_load(s->dir, &s->peers);

	if (r == -ENOENT)
		return r;
	if (r == 0)
		r = invites_load(s->dir, &s->invites);
	if (r == 0)
		r = load_tls(s);
	if (r == -EUCLEAN)
		log_error("%s/peers: a file is missing or damaged, or keys and certificates do not belong to this node", s->dir);
	if (r == 0 && !peers_by_node(&s->peers, s->self))
		log_warn("%s/peers/%s: this node is not in it: its peers will refuse it", s->dir, FILE_PEERS);
	return r;
}

static int open_sockets(struct server *s)
{
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->stop_fd < 0)
		return -errno;
	if (!s->listen)
		return 0;
	int r = net_listen(s->listen, &s->listen_fd, &s->port);
	if (r < 0)
		log_error("replication: cannot listen at %s: %s", s->listen, strerror(-r));
	return r;
}

static int start_threads(struct server *s)
{
	int r = 0;

	if (s->listen) {
		r = thread_start(&s->acceptor, "accept", acceptor_main, s);
		s->accepts = r == 0;
	}
	if (r == 0) {
		r = thread_start(&s->dialer, "dial", dialer_main, s);
		s->dials = r == 0;
	}
	return r;
}

static struct server *server_new(struct node *n, const struct server_options *o)
{
	struct server *s = calloc(1, sizeof(*s));
	struct replica_point at;

	if (!s)
		return NULL;
	*s = (struct server){
	    .node = n, .volume = o->volume, .geometry = o->geometry, .rate = o->rate, .listen_fd = -1, .stop_fd = -1};
	s->connections_max = o->connections_max ? o->connections_max : CONNECTIONS_DEFAULT;
	mutex_init(&s->admin_lock);
	mutex_init(&s->peers_lock);
	mutex_init(&s->list_lock);
	mutex_init(&s->notes_lock);
	o->volume->ops->get_point(o->volume, &at);
	memcpy(s->self, at.node, sizeof(s->self));
	s->dir = strdup(o->dir);
	s->listen = o->listen ? strdup(o->listen) : NULL;
	if (!s->dir || (o->listen && !s->listen))
		return server_stop(s);
	return s;
}

int server_start(struct node *n, const struct server_options *o, struct server **ret)
{
	struct server *s = server_new(n, o);

	if (!s)
		return -ENOMEM;
	int r = load(s);
	if (r == 0)
		r = open_sockets(s);
	if (r == 0)
		r = start_threads(s);
	if (r < 0)
		server_stop(s);
	else
		*ret = s;
	return r;
}

/* ---- stop ---- */

static void end_all(struct server *s) EXCLUDES(s->list_lock)
{
	mutex_lock(&s->list_lock);
	for (struct connection *c = s->connections; c; c = c->next)
		connection_end(c, -ESHUTDOWN);
	mutex_unlock(&s->list_lock);
}

/* The acceptor and the dialer are gone: no more connections come. */
static void join_all(struct server *s) EXCLUDES(s->list_lock)
{
	struct connection *next, *c;

	mutex_lock(&s->list_lock);
	c = s->connections;
	s->connections = NULL;
	mutex_unlock(&s->list_lock);
	for (; c; c = next) {
		next = c->next;
		pthread_join(c->thread, NULL);
		connection_free(c);
	}
}

static void stop_threads(struct server *s)
{
	if (s->stop_fd >= 0)
		(void)eventfd_write(s->stop_fd, 1);
	if (s->accepts)
		pthread_join(s->acceptor, NULL);
	if (s->dials)
		pthread_join(s->dialer, NULL);
	end_all(s);
	join_all(s);
}

struct server *server_stop(struct server *s)
{
	if (!s)
		return NULL;
	stop_threads(s);
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	if (s->stop_fd >= 0)
		close(s->stop_fd);
	tls_free(s->tls);
	invites_wipe(&s->invites);
	mutex_destroy(&s->admin_lock);
	mutex_destroy(&s->peers_lock);
	mutex_destroy(&s->list_lock);
	mutex_destroy(&s->notes_lock);
	free(s->dir);
	free(s->listen);
	free(s);
	return NULL;
}

uint16_t server_port(const struct server *s)
{
	return s->port;
}

uint32_t server_status(struct server *s, struct peer_status *ret, uint32_t max)
{
	if (!s)
		return 0;
	uint32_t n = node_status(s->node, ret, max);
	note_status(s, ret, n);
	return n;
}
