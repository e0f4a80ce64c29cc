/*
 * sites.h: nodes on the network for tests of the server: each a directory, a server, and a node that is a script instead of
 * replicate/node.c; certificates good and bad; and a proxy that cuts connections where it is told to.
 *
 * The scripted node: a session sends a greeting of GREETING_BYTES, then what its site is told to (flood, news, answers, an end), and counts what
 * it gets.  It has the functions of node.h that the server calls, so the linker takes these and leaves the real ones out.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "base/lock.h"
#include "replicate/peerfile.h"
#include "replicate/net/pki.h"
#include "replicate/net/server.h"
#include "tests/unit/tempdir.h"

#define GREETING_BYTES 40u
#define FLOOD_BYTES    (256u * 1024u)

/* ---- the scripted node ---- */

struct node {
	struct mutex lock;
	struct peers peers; /* guarded by lock */
	uint32_t dial_id;   /* guarded by lock; 0: nobody */
	int64_t dialed_ns; /* guarded by lock */
	char reason[256];   /* guarded by lock; of the last session that ended */
	atomic_int n_sessions, n_opened, last_why;
	atomic_uint_fast64_t received, sent, pumps, last_peer;
	atomic_bool flood, huge;
	atomic_bool leads, answers; /* answers: a byte for each input */
	atomic_uint news;           /* bytes to be sent by whichever session comes first */
	atomic_int fail; /* every session ends with it, after "why" was said */
};

struct session {
	struct node *node;
	struct buf out;
	size_t done; /* of out, sent */
	bool failed;
};

uint32_t node_dial(struct node *n, uint32_t *ret_ids, uint32_t max)
{
	int64_t now = clock_mono_ns(&clock_system);
	uint32_t count = 0;

	mutex_lock(&n->lock);
	if (max > 0 && n->dial_id && atomic_load(&n->n_sessions) == 0 && now - n->dialed_ns > NSEC_PER_SEC / 4) {
		ret_ids[count++] = n->dial_id;
		n->dialed_ns = now;
	}
	mutex_unlock(&n->lock);
	return count;
}

int node_set_peers(struct node *n, const struct peers *p)
{
	mutex_lock(&n->lock);
	n->peers = *p;
	mutex_unlock(&n->lock);
	return 0;
}

uint32_t node_status(struct node *n, struct peer_status *ret, uint32_t max)
{
	uint32_t count = 0;

	mutex_lock(&n->lock);
	for (uint32_t i = 0; i < n->peers.n && count < max; i++) {
		ret[count] = (struct peer_status){.node_id = n->peers.peer[i].node_id};
		snprintf(ret[count].name, sizeof(ret[count].name), "%s", n->peers.peer[i].name);
		count++;
	}
	mutex_unlock(&n->lock);
	return count;
}

int session_new(struct node *n, uint32_t node_id, bool dialed, struct session **ret)
{
	struct session *s = calloc(1, sizeof(*s));
	char greeting[GREETING_BYTES] = "";

	(void)dialed;
	mutex_lock(&n->lock);
	bool known = peers_by_id(&n->peers, node_id) != NULL;
	mutex_unlock(&n->lock);
	if (!s || !known) {
		free(s);
		return -EACCES;
	}
	s->node = n;
	buf_put(&s->out, greeting, sizeof(greeting));
	atomic_fetch_add(&n->n_sessions, 1);
	atomic_fetch_add(&n->n_opened, 1);
	atomic_store(&n->last_peer, node_id);
	*ret = s;
	return 0;
}

struct session *session_free(struct session *s, int why, const char *reason)
{
	mutex_lock(&s->node->lock);
	snprintf(s->node->reason, sizeof(s->node->reason), "%s", reason);
	mutex_unlock(&s->node->lock);
	atomic_store(&s->node->last_why, why);
	atomic_fetch_sub(&s->node->n_sessions, 1);
	buf_free(&s->out);
	free(s);
	return NULL;
}

int session_input(struct session *s, const void *p, size_t len)
{
	assert_non_null(p);
	assert_true(len > 0);
	atomic_fetch_add(&s->node->received, len);
	if (atomic_load(&s->node->answers))
		buf_put(&s->out, "a", 1);
	return 0;
}

int session_pump(struct session *s, int64_t *ret_deadline_ns)
{
	struct node *n = s->node;

	atomic_fetch_add(&n->pumps, 1);
	if (atomic_load(&n->fail) && !s->failed) {
		s->failed = true;
		buf_put(&s->out, "why", 3);
		return atomic_load(&n->fail);
	}
	while ((atomic_load(&n->flood) && s->out.len - s->done < FLOOD_BYTES) ||
	       (atomic_load(&n->huge) && s->out.len - s->done <= SESSION_MEMORY_MAX)) {
		void *at = buf_grow(&s->out, 65536);

		assert_non_null(at);
		memset(at, 7, 65536);
	}
	for (unsigned left = atomic_exchange(&n->news, 0); left > 0; left--)
		buf_put(&s->out, "n", 1);
	*ret_deadline_ns = clock_mono_ns(&clock_system) + 10 * NSEC_PER_SEC;
	return 0;
}

struct slice session_output(struct session *s)
{
	return (struct slice){s->out.p + s->done, s->out.len - s->done};
}

bool session_leads(const struct session *s)
{
	return atomic_load(&s->node->leads);
}

void session_sent(struct session *s, size_t n)
{
	assert_true(n <= s->out.len - s->done);
	s->done += n;
	atomic_fetch_add(&s->node->sent, n);
	if (s->done == s->out.len) {
		buf_reset(&s->out);
		s->done = 0;
	}
}

/* ---- sites ---- */

struct site {
	char dir[256];
	struct replica_volume volume; /* first member of what get_point() gets */
	uint8_t volume_id[16], node_id[16];
	uint32_t id;
	_Atomic(enum replica_role) role;
	struct node node;
	struct server *server;
};

static inline void site_get_point(struct replica_volume *v, struct replica_point *ret)
{
	const struct site *s = container_of(v, struct site, volume);

	*ret = (struct replica_point){.node_id = s->id, .role = atomic_load(&s->role), .promised = epoch_make(7, s->id)};
	memcpy(ret->volume, s->volume_id, 16);
	memcpy(ret->node, s->node_id, 16);
}
static const struct replica_ops site_ops = {.get_point = site_get_point};

static inline void site_init(struct site *s, uint32_t id, enum replica_role role)
{
	memset(s, 0, sizeof(*s));
	s->volume.ops = &site_ops;
	s->id = id;
	memset(s->volume_id, 0x77, 16);
	memset(s->node_id, (int)id, 16);
	atomic_store(&s->role, role);
	mutex_init(&s->node.lock);
	tempdir_make(s->dir);
}

static inline int site_try_start(struct site *s, const char *listen, uint64_t rate, uint32_t connections_max)
{
	const struct server_options o = {
	    .dir = s->dir,
	    .volume = &s->volume,
	    .geometry = {.label = "label", .journal_segments = 16, .journal_segment_kib = 65536, .chunk_kib = 1048576},
	    .listen = listen,
	    .rate = rate,
	    .connections_max = connections_max,
	};
	struct peers p;

	if (peers_load(s->dir, &p) == 0)
		assert_int_equal(node_set_peers(&s->node, &p), 0);
	return server_start(&s->node, &o, &s->server);
}

static inline void site_start(struct site *s, uint64_t rate, uint32_t connections_max)
{
	assert_int_equal(site_try_start(s, "127.0.0.1:0", rate, connections_max), 0);
}

static inline void site_found(struct site *s)
{
	assert_int_equal(peers_found(s->dir, s->volume_id, s->node_id, s->id, "a", "127.0.0.1:1"), 0);
}

static inline void site_end(struct site *s)
{
	s->server = server_stop(s->server);
	assert_int_equal(atomic_load(&s->node.n_sessions), 0);
	mutex_destroy(&s->node.lock);
	tempdir_remove(s->dir);
}

static inline void site_dial(struct site *s, uint32_t id)
{
	mutex_lock(&s->node.lock);
	s->node.dial_id = id;
	mutex_unlock(&s->node.lock);
}

/* `b` becomes a peer of `a` called `name`, without anybody asking: its list says that `a` listens at `port_of_a`. */
static inline void site_admit(struct site *a, struct site *b, const char *name, uint16_t port_of_a)
{
	struct buf ca = {0}, ca_key = {0}, key = {0}, request = {0}, certificate = {0};
	const struct pki_span span = pki_node_span(time(NULL));
	struct peers p;

	assert_int_equal(peerfile_read(a->dir, FILE_CA_CERTIFICATE, PEERFILE_PLAIN, &ca), 0);
	assert_int_equal(peerfile_read(a->dir, FILE_CA_KEY, PEERFILE_SECRET, &ca_key), 0);
	assert_int_equal(pki_make_key(&key), 0);
	assert_int_equal(pki_make_request(buf_slice(&key), b->node_id, &request), 0);
	assert_int_equal(pki_sign(buf_slice(&ca), buf_slice(&ca_key), buf_slice(&request), b->node_id, &span, &certificate), 0);
	assert_int_equal(peerfile_write(b->dir, FILE_CA_CERTIFICATE, buf_slice(&ca)), 0);
	assert_int_equal(peerfile_write(b->dir, FILE_NODE_CERTIFICATE, buf_slice(&certificate)), 0);
	assert_int_equal(peerfile_write(b->dir, FILE_NODE_KEY, buf_slice(&key)), 0);
	assert_int_equal(peers_load(a->dir, &p), 0);
	uint32_t id = b->id;
	if (!peers_find(&p, name)) {
		p.next_id = b->id;
		assert_int_equal(peers_add(&p, b->node_id, name, "", &id), 0);
		assert_int_equal(peers_save(a->dir, &p), 0);
	}
	snprintf(p.peer[0].address, sizeof(p.peer[0].address), "127.0.0.1:%u", port_of_a);
	assert_int_equal(peers_save(b->dir, &p), 0);
	secret_free(&ca);
	secret_free(&ca_key);
	secret_free(&key);
	secret_free(&request);
	secret_free(&certificate);
}

/* Until `condition` holds: at most ten seconds. */
#define WAIT_UNTIL(condition)                                                                \
	do {                                                                                 \
		int64_t until_ = clock_mono_ns(&clock_system) + 10 * NSEC_PER_SEC;           \
		while (!(condition)) {                                                       \
			if (clock_mono_ns(&clock_system) > until_)                           \
				fail_msg("%s:%d: never: %s", __FILE__, __LINE__, #condition); \
			nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);             \
		}                                                                            \
	} while (0)

static inline double seconds(void)
{
	return (double)clock_mono_ns(&clock_system) / 1e9;
}

/* What the status of the server says of the peer: into `ret`, "" when there is nothing. */
static inline void site_reason(struct site *s, const char *name, struct peer_status *ret)
{
	struct peer_status all[PEERS_MAX];
	uint32_t n = server_status(s->server, all, PEERS_MAX);

	*ret = (struct peer_status){0};
	for (uint32_t i = 0; i < n; i++)
		if (strcmp(all[i].name, name) == 0)
			*ret = all[i];
}

/* ---- sockets ---- */

static inline int tcp_connect(uint16_t port)
{
	const struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static inline int tcp_listen(uint16_t *ret_port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (const struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	*ret_port = ntohs(a.sin_port);
	return fd;
}

/* True when the other side ends the connection within `ms`. */
static inline bool tcp_ends(int fd, int ms)
{
	char scratch[4096];
	struct pollfd p = {.fd = fd, .events = POLLIN};
	double until = seconds() + ms / 1000.0;

	while (seconds() < until)
		if (poll(&p, 1, 20) > 0 && recv(fd, scratch, sizeof(scratch), 0) <= 0)
			return true;
	return false;
}

/* ---- a proxy ---- */

struct proxy {
	pthread_t thread;
	int listen_fd;
	uint16_t port, to;
	atomic_int cuts_left;  /* connections that are cut; later ones are not */
	size_t cut_to, cut_from; /* after so many bytes to the server, or from it */
	atomic_bool stop;
	atomic_int n;
};

static inline bool proxy_copy(int from, int to, size_t *left)
{
	char p[4096];
	ssize_t n = recv(from, p, *left < sizeof(p) ? *left : sizeof(p), MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN;
	if (n == 0 || send(to, p, (size_t)n, MSG_NOSIGNAL) != n)
		return false;
	*left -= (size_t)n;
	return *left > 0;
}

static inline void proxy_serve(struct proxy *x, int client)
{
	bool cut = atomic_fetch_sub(&x->cuts_left, 1) > 0;
	size_t to = cut ? x->cut_to : SIZE_MAX, from = cut ? x->cut_from : SIZE_MAX;
	int server = tcp_connect(x->to);
	struct pollfd p[] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};

	atomic_fetch_add(&x->n, 1);
	while (!atomic_load(&x->stop)) {
		if (poll(p, 2, 20) <= 0)
			continue;
		if ((p[0].revents && !proxy_copy(client, server, &to)) || (p[1].revents && !proxy_copy(server, client, &from)))
			break;
	}
	/* As a cable is cut: neither side hears a farewell. */
	setsockopt(client, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
	setsockopt(server, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
	close(client);
	close(server);
}

static inline void *proxy_main(void *ctx)
{
	struct proxy *x = ctx;
	struct pollfd p = {.fd = x->listen_fd, .events = POLLIN};

	while (!atomic_load(&x->stop)) {
		if (poll(&p, 1, 20) <= 0)
			continue;
		int client = accept(x->listen_fd, NULL, NULL);
		if (client >= 0)
			proxy_serve(x, client);
	}
	return NULL;
}

static inline void proxy_start(struct proxy *x, uint16_t to, int cuts, size_t cut_to, size_t cut_from)
{
	memset(x, 0, sizeof(*x));
	x->to = to;
	x->cut_to = cut_to;
	x->cut_from = cut_from;
	atomic_store(&x->cuts_left, cuts);
	x->listen_fd = tcp_listen(&x->port);
	assert_int_equal(pthread_create(&x->thread, NULL, proxy_main, x), 0);
}

static inline void proxy_stop(struct proxy *x)
{
	atomic_store(&x->stop, true);
	pthread_join(x->thread, NULL);
	close(x->listen_fd);
}

/* ---- clients of all kinds ---- */

struct client {
	struct buf ca, certificate, key; /* PEM; certificate empty: none */
};

static inline void client_free(struct client *c)
{
	secret_free(&c->ca);
	secret_free(&c->certificate);
	secret_free(&c->key);
}

/* A certificate of `node` by the CA in the directory of `a`, or by a new one of its own. */
static inline void client_make(struct client *c, struct site *a, const uint8_t node[16], const struct pki_span *span)
{
	struct buf ca_key = {0}, request = {0};
	const struct pki_span now = pki_node_span(time(NULL));
	static const uint8_t volume[16] = {0x77};

	*c = (struct client){0};
	if (a) {
		assert_int_equal(peerfile_read(a->dir, FILE_CA_CERTIFICATE, PEERFILE_PLAIN, &c->ca), 0);
		assert_int_equal(peerfile_read(a->dir, FILE_CA_KEY, PEERFILE_SECRET, &ca_key), 0);
	} else {
		assert_int_equal(pki_make_key(&ca_key), 0);
		assert_int_equal(pki_make_ca(buf_slice(&ca_key), volume, &now, &c->ca), 0);
	}
	assert_int_equal(pki_make_key(&c->key), 0);
	assert_int_equal(pki_make_request(buf_slice(&c->key), node, &request), 0);
	assert_int_equal(pki_sign(buf_slice(&c->ca), buf_slice(&ca_key), buf_slice(&request), node, span ? span : &now, &c->certificate),
			 0);
	secret_free(&ca_key);
	secret_free(&request);
}

static inline SSL *client_ssl(const struct client *c, int fd, int version)
{
	SSL_CTX *x = SSL_CTX_new(TLS_client_method());
	STACK_OF(X509) *chain = NULL;
	EVP_PKEY *key = NULL;

	assert_true(SSL_CTX_set_max_proto_version(x, version));
	if (c->certificate.len) {
		assert_int_equal(pki_read_chain(buf_slice(&c->certificate), &chain), 0);
		assert_int_equal(pki_read_key(buf_slice(&c->key), &key), 0);
		assert_true(SSL_CTX_use_certificate(x, sk_X509_value(chain, 0)) && SSL_CTX_use_PrivateKey(x, key));
		sk_X509_pop_free(chain, X509_free);
		EVP_PKEY_free(key);
	}
	SSL *ssl = SSL_new(x);
	SSL_CTX_free(x);
	SSL_set_fd(ssl, fd);
	return ssl;
}

/* Shakes hands, says something and reads: bytes received before the end, up to `max`; *ret_alert: the server's, 0 when none. */
static inline size_t client_try(const struct client *c, uint16_t port, int version, size_t max, int *ret_alert)
{
	int fd = tcp_connect(port);
	SSL *ssl = client_ssl(c, fd, version);
	const struct timeval limit = {.tv_sec = 5};
	size_t total = 0;
	char p[4096];
	int n = SSL_connect(ssl);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	*ret_alert = 0;
	if (n == 1) {
		(void)SSL_write(ssl, "hello", 5);
		while (total < max && (n = SSL_read(ssl, p, sizeof(p))) > 0)
			total += (size_t)n;
	}
	if (n <= 0) {
		int reason = ERR_GET_REASON(ERR_peek_error());

		*ret_alert = reason >= SSL_AD_REASON_OFFSET ? reason - SSL_AD_REASON_OFFSET : -1;
		ERR_clear_error();
	}
	SSL_free(ssl);
	close(fd);
	return total;
}
