/*
 * join.c: the joiner's side: dials with the invitation's secret, asks, and checks the answer before anything is kept.
 *
 * The answer is believed as far as the token says: its CA must have the fingerprint that the admin carried over, and whatever
 * else it brings must fit that CA, the volume and the key that was made here.
 * When the connection is cut after the request was sent, the inviter may have counted the invitation as used: the same request is
 * sent again until the time is over, and the inviter knows it again by its hash.
 */
#include "replicate/net/join.h"

#include <errno.h>
#include <openssl/rand.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "replicate/net/exchange.h"
#include "replicate/net/join_message.h"
#include "replicate/net/net.h"
#include "replicate/peerfile.h"
#include "replicate/net/pki.h"

#define TIMEOUT_NS (30 * NSEC_PER_SEC)
#define PAUSE_NS   (NSEC_PER_SEC / 5)

/* ---- what is asked ---- */

static int random_uuid(uint8_t ret[16])
{
	if (RAND_bytes(ret, 16) != 1)
		return -EIO;
	ret[6] = (uint8_t)((ret[6] & 0x0f) | 0x40); /* RFC 9562: version 4, */
	ret[8] = (uint8_t)((ret[8] & 0x3f) | 0x80); /* variant 10 */
	return 0;
}

/* The key stays in `key`; the rest goes into the message. */
static int make_request(const struct token *t, const struct join_options *o, struct join_message *m, struct buf *key)
{
	CLEANUP_BUF struct buf request = {0};

	*m = (struct join_message){0};
	snprintf(m->name, sizeof(m->name), "%s", o->name ? o->name : t->name);
	if (o->address)
		snprintf(m->address, sizeof(m->address), "%s", o->address);
	int r = random_uuid(m->node);
	if (r == 0)
		r = pki_make_key(key);
	if (r == 0)
		r = pki_make_request(buf_slice(key), m->node, &request);
	if (r < 0)
		return r;
	if (request.len > JOIN_REQUEST_MAX)
		return -E2BIG;
	memcpy(m->request, request.p, request.len);
	return 0;
}

static int check_options(const struct join_options *o)
{
	char host[WIRE_TEXT_MAX + 1];
	uint16_t port;

	if (o->name && !peer_name_ok(o->name)) {
		log_error("join: \"%s\" cannot be a peer's name: letters, digits, '-', '_' and '.' can, up to %u", o->name,
			  WIRE_NAME_MAX);
		return -EINVAL;
	}
	if (!o->address)
		return 0;
	if (strlen(o->address) > WIRE_TEXT_MAX || address_parse(o->address, host, sizeof(host), &port) < 0 || port == 0) {
		log_error("join: \"%s\" is no address: host:port or [v6]:port", o->address);
		return -EINVAL;
	}
	return 0;
}

/* ---- what is answered ---- */

static int check_joined(const struct token *t, const struct join_message *m, const struct joined *j)
{
	uint8_t fingerprint[32];
	const struct peer *self = peers_by_id(&j->peers, j->node_id);

	int r = pki_fingerprint(buf_slice(&j->ca_pem), fingerprint);
	if (r < 0)
		return -EPROTO;
	if (CRYPTO_memcmp(fingerprint, t->ca_sha256, sizeof(fingerprint)) != 0) {
		log_error("join: the CA that %s sent is not the one the token names: nothing was kept", t->address);
		return -EACCES;
	}
	if (memcmp(j->volume, t->volume, 16) != 0 || memcmp(j->node, m->node, 16) != 0 || !self ||
	    memcmp(self->node, m->node, 16) != 0)
		return -EPROTO;
	if (pki_check_key(buf_slice(&j->ca_pem), buf_slice(&j->ca_key)) < 0 ||
	    pki_check_node(buf_slice(&j->ca_pem), buf_slice(&j->node_pem), m->node) < 0 ||
	    pki_check_key(buf_slice(&j->node_pem), buf_slice(&j->node_key)) < 0)
		return -EPROTO;
	return 0;
}

static int take_joined(const struct token *t, const struct join_message *m, struct slice body, struct buf *key,
		       struct joined *ret)
{
	struct joined j = {0};

	int r = joined_parse(body, &j);
	if (r < 0)
		return r == -EUCLEAN ? -EPROTO : r;
	j.node_key = TAKE_BUF(*key);
	r = check_joined(t, m, &j);
	if (r < 0)
		joined_free(&j);
	else
		*ret = j;
	return r;
}

/* ---- the conversation ---- */

struct attempt {
	const struct token *token;
	const struct join_message *message;
	struct slice json; /* of the message */
	struct buf *key;
	bool asked; /* the request may have arrived */
};

static int refused(struct slice body)
{
	struct refuse why;

	int r = refuse_get(body, &why);
	if (r < 0)
		return -EPROTO;
	log_error("join: refused: %s", why.text);
	return -EACCES;
}

static int ask(struct attempt *a, struct exchange *x, struct joined *ret)
{
	enum message_type type;
	struct slice body, json;

	a->asked = true;
	int r = exchange_send(x, MESSAGE_JOIN, a->json.p);
	if (r == 0)
		r = exchange_receive(x, MESSAGE_JOINED, &type, &body);
	if (r == -EUCLEAN || r == -EBADMSG)
		return -EPROTO;
	if (r < 0)
		return r;
	if (type == MESSAGE_REFUSE)
		return refused(body);
	r = text_get(body, &json);
	return r < 0 ? -EPROTO : take_joined(a->token, a->message, json, a->key, ret);
}

/* The inviter says no more than that it does not know the secret; the token's own time says more, if the clocks agree. */
static int handshake_refused(const struct attempt *a)
{
	if (a->token->expires_s <= clock_real_ns(&clock_system) / NSEC_PER_SEC) {
		log_error("join: %s refused the invitation, which has expired by this machine's clock", a->token->address);
		return -ETIME;
	}
	log_error("join: %s refused the invitation: it was used, has expired, or is of another volume", a->token->address);
	return -EACCES;
}

static int talk(struct attempt *a, int fd, int64_t deadline_ns, struct joined *ret)
{
	struct exchange x = {.fd = fd, .wake_fd = -1, .deadline_ns = deadline_ns};

	int r = channel_dial_invited(fd, a->token->id, a->token->secret, &x.channel);
	if (r < 0)
		return r;
	r = exchange_handshake(&x);
	if (r == -EACCES || r == -EPROTO)
		r = handshake_refused(a);
	else if (r == 0)
		r = ask(a, &x, ret);
	channel_close(x.channel);
	channel_free(x.channel);
	exchange_end(&x);
	return r;
}

static int attempt_once(struct attempt *a, int64_t deadline_ns, struct joined *ret)
{
	CLEANUP_FD int fd = -1;

	int r = net_connect(a->token->address, deadline_ns, -1, &fd);
	return r < 0 ? r : talk(a, fd, deadline_ns, ret);
}

/* Ends that say nothing about the answer: it may be asked for again. */
static bool was_cut(int r)
{
	return r == -ECONNRESET || r == -EPIPE || r == -ECONNREFUSED || r == -ECONNABORTED;
}

static int attempt_until(struct attempt *a, int64_t deadline_ns, struct joined *ret)
{
	static const struct timespec pause = {.tv_nsec = PAUSE_NS};

	for (;;) {
		int r = attempt_once(a, deadline_ns, ret);

		if (!a->asked || !was_cut(r) || clock_mono_ns(&clock_system) >= deadline_ns)
			return r;
		nanosleep(&pause, NULL);
	}
}

/* A write to a connection that is gone must be an error, not the end of the program; what was pending before stays. */
static int without_sigpipe(struct attempt *a, int64_t deadline_ns, struct joined *ret)
{
	static const struct timespec now = {0};
	sigset_t pipe, before, pending;

	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	sigpending(&pending);
	pthread_sigmask(SIG_BLOCK, &pipe, &before);
	int r = attempt_until(a, deadline_ns, ret);
	if (!sigismember(&pending, SIGPIPE))
		while (sigtimedwait(&pipe, NULL, &now) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

int join_dial(const struct token *t, const struct join_options *o, struct joined *ret)
{
	CLEANUP_SECRET struct buf key = {0};
	CLEANUP_BUF struct buf json = {0};
	struct join_message m;
	struct attempt a = {.token = t, .message = &m, .key = &key};

	int r = check_options(o);
	if (r == 0)
		r = make_request(t, o, &m, &key);
	if (r < 0)
		return r;
	join_print(&m, &json);
	if (json.failed)
		return -ENOMEM;
	a.json = buf_slice(&json);
	r = without_sigpipe(&a, clock_mono_ns(&clock_system) + (o->timeout_ns ? o->timeout_ns : TIMEOUT_NS), ret);
	if (r == -EPROTO)
		log_error("join: %s gave an answer that cannot be right; nothing was kept", t->address);
	else if (r < 0 && r != -EACCES && r != -ETIME)
		log_error("join: %s: %s", t->address, strerror(-r));
	return r;
}

void joined_free(struct joined *j)
{
	secret_free(&j->ca_pem);
	secret_free(&j->ca_key);
	secret_free(&j->node_pem);
	secret_free(&j->node_key);
}

int join_store(const char *dir, const struct joined *j)
{
	int r = peerfile_write(dir, FILE_CA_KEY, buf_slice(&j->ca_key));

	if (r == 0)
		r = peerfile_write(dir, FILE_CA_CERTIFICATE, buf_slice(&j->ca_pem));
	if (r == 0)
		r = peerfile_write(dir, FILE_NODE_KEY, buf_slice(&j->node_key));
	if (r == 0)
		r = peerfile_write(dir, FILE_NODE_CERTIFICATE, buf_slice(&j->node_pem));
	return r < 0 ? r : peers_save(dir, &j->peers);
}
