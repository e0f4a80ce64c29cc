/*
 * tls.c: see tls.h.
 *
 * The peer's certificate is judged in OpenSSL's verify callback: after the chain and its times, its common name must be the uuid
 * of a known peer (listening) or of the node that was dialed.  A refusal there ends the handshake with an alert, before either
 * side has read or written a byte of the protocol.  A dialer learns with its first read only that *it* was refused: in TLS 1.3
 * its handshake is over before the listener has seen its certificate.
 *
 * An invitation is a TLS 1.3 external pre-shared key, always together with a key exchange: who learns the secret later cannot
 * read what was said.  Its hash is SHA-256, so the dialer offers only a suite of that hash.  A listener that does not know the
 * id goes on with certificates, which an invited dialer takes from nobody.
 */
#include "replicate/net/tls.h"

#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "replicate/net/pki.h"

#define IDENTITY_PREFIX  "clawfs-join:"
#define RECORD_BYTES     16384u
#define CERTIFICATES_MAX 16384 /* bytes of them in a handshake */
#define SUITES           "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define INVITED_SUITE    "TLS_AES_128_GCM_SHA256"
#define SESSION_CONTEXT  "clawfs"

enum { READING, WRITING };

struct tls {
	SSL_CTX *context; /* owned; listens and dials */
};

struct channel {
	SSL *ssl; /* owned */
	struct tls_gate gate;
	bool dialed;
	uint8_t expected[16];   /* dialed: whom */
	bool has_node, node_ok; /* a certificate of the CA said who; and it is one we want, now */
	uint8_t node[16];
	bool invited; /* by `id`, whose secret is known */
	char id[33], identity[sizeof(IDENTITY_PREFIX) + 32];
	uint8_t secret[TOKEN_SECRET_BYTES];
	bool ended;     /* by an error or the other side: nothing more can be said */
	size_t retry;   /* bytes of a write that must be repeated */
	short wants[2]; /* what reading and writing wait for */
	char reason[256];
};

PRINTF_LIKE(2, 3) static void set_reason(struct channel *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->reason, sizeof(c->reason), fmt, ap);
	va_end(ap);
}

/* ---- contexts ---- */

static SSL_CTX *make_context(const char *suites)
{
	SSL_CTX *x = SSL_CTX_new(TLS_method());

	if (!x)
		return NULL;
	SSL_CTX_set_options(x,
			    SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_mode(x, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_session_cache_mode(x, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_max_cert_list(x, CERTIFICATES_MAX);
	SSL_CTX_set_read_ahead(x, 1);
	if (!SSL_CTX_set_min_proto_version(x, TLS1_3_VERSION) || !SSL_CTX_set_max_proto_version(x, TLS1_3_VERSION) ||
	    !SSL_CTX_set_ciphersuites(x, suites) || !SSL_CTX_set1_groups_list(x, "X25519:P-256") ||
	    !SSL_CTX_set_num_tickets(x, 0) ||
	    !SSL_CTX_set_session_id_context(x, (const uint8_t *)SESSION_CONTEXT, strlen(SESSION_CONTEXT))) {
		SSL_CTX_free(x);
		return NULL;
	}
	return x;
}

static int use_ca(SSL_CTX *x, struct slice pem)
{
	STACK_OF(X509) *chain = NULL;

	int r = pki_read_chain(pem, &chain);
	if (r < 0)
		return r;
	for (int i = 0; i < sk_X509_num(chain); i++)
		if (!X509_STORE_add_cert(SSL_CTX_get_cert_store(x), sk_X509_value(chain, i)))
			r = -EUCLEAN;
	sk_X509_pop_free(chain, X509_free);
	return r;
}

static int use_certificate(SSL_CTX *x, struct slice pem)
{
	STACK_OF(X509) *chain = NULL;

	int r = pki_read_chain(pem, &chain);
	if (r < 0)
		return r;
	if (!SSL_CTX_use_certificate(x, sk_X509_value(chain, 0)))
		r = -EUCLEAN;
	for (int i = 1; r == 0 && i < sk_X509_num(chain); i++)
		if (!SSL_CTX_add1_chain_cert(x, sk_X509_value(chain, i)))
			r = -EUCLEAN;
	sk_X509_pop_free(chain, X509_free);
	return r;
}

static int use_key(SSL_CTX *x, struct slice pem)
{
	EVP_PKEY *k = NULL;

	int r = pki_read_key(pem, &k);
	if (r < 0)
		return r;
	if (!SSL_CTX_use_PrivateKey(x, k) || !SSL_CTX_check_private_key(x))
		r = -EKEYREJECTED;
	EVP_PKEY_free(k);
	return r;
}

int tls_new(const struct tls_identity *id, struct tls **ret)
{
	struct tls *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->context = make_context(SUITES);
	int r = t->context ? use_ca(t->context, id->ca) : -ENOMEM;
	if (r == 0)
		r = use_certificate(t->context, id->certificate);
	if (r == 0)
		r = use_key(t->context, id->key);
	ERR_clear_error();
	if (r < 0)
		tls_free(t);
	else
		*ret = t;
	return r;
}

struct tls *tls_free(struct tls *t)
{
	if (t)
		SSL_CTX_free(t->context);
	free(t);
	return NULL;
}

/* ---- certificates ---- */

static void date_text(const ASN1_TIME *t, char ret_text[32])
{
	struct tm tm = {0};

	ASN1_TIME_to_tm(t, &tm);
	strftime(ret_text, 32, "%Y-%m-%d %H:%M UTC", &tm);
}

static void now_text(char ret_text[32])
{
	struct tm tm = {0};
	time_t now = time(NULL);

	gmtime_r(&now, &tm);
	strftime(ret_text, 32, "%Y-%m-%d %H:%M UTC", &tm);
}

/* Why the chain is not good, in words; the text of a stranger's certificate stays out of them. */
static void explain_chain(struct channel *c, X509_STORE_CTX *x)
{
	const X509 *bad = X509_STORE_CTX_get_current_cert(x);
	const char *whose = X509_STORE_CTX_get_error_depth(x) == 0 ? "the peer's certificate" : "the certificate of its CA";
	int error = X509_STORE_CTX_get_error(x);
	char date[32], now[32];

	now_text(now);
	switch (error) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
		date_text(X509_get0_notAfter(bad), date);
		set_reason(c, "%s expired at %s; it is %s here", whose, date, now);
		break;
	case X509_V_ERR_CERT_NOT_YET_VALID:
		date_text(X509_get0_notBefore(bad), date);
		set_reason(c, "%s is not valid before %s; it is %s here", whose, date, now);
		break;
	default:
		set_reason(c, "the peer's certificate is not of this volume's CA (%s)", X509_verify_cert_error_string(error));
	}
}

static bool is_wanted(struct channel *c)
{
	char node[NODE_UUID_TEXT];

	node_uuid_text(c->node, node);
	if (c->dialed && memcmp(c->node, c->expected, 16) != 0) {
		set_reason(c, "another node answered: %s", node);
		return false;
	}
	if (!c->dialed && !c->gate.is_peer(c->gate.ctx, c->node)) {
		set_reason(c, "node %s is not in the list of peers", node);
		return false;
	}
	return true;
}

static int judge(int ok, X509_STORE_CTX *x)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(x, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct channel *c = SSL_get_app_data(ssl);
	int error = X509_STORE_CTX_get_error(x);
	bool leaf = X509_STORE_CTX_get_error_depth(x) == 0;

	/* Times are looked at after the signature: here the certificate is the CA's, though it is not its time. */
	if (leaf && (ok || error == X509_V_ERR_CERT_HAS_EXPIRED || error == X509_V_ERR_CERT_NOT_YET_VALID))
		c->has_node = pki_node_of(X509_STORE_CTX_get_current_cert(x), c->node) == 0;
	if (!ok) {
		explain_chain(c, x);
		return 0;
	}
	if (!leaf)
		return 1;
	if (!c->has_node)
		set_reason(c, "the common name of the peer's certificate is no node's uuid");
	c->node_ok = c->has_node && is_wanted(c);
	if (!c->node_ok)
		X509_STORE_CTX_set_error(x, X509_V_ERR_CERT_REVOKED); /* the alert that fits best */
	return c->node_ok;
}

/* ---- invitations ---- */

/* The key as OpenSSL wants it: a session that never was. */
static SSL_SESSION *make_session(SSL *ssl, const uint8_t secret[TOKEN_SECRET_BYTES])
{
	static const uint8_t suite[] = {0x13, 0x01}; /* TLS_AES_128_GCM_SHA256 (RFC 8446, B.4) */
	const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite);
	SSL_SESSION *s = SSL_SESSION_new();

	if (s && cipher && SSL_SESSION_set1_master_key(s, secret, TOKEN_SECRET_BYTES) && SSL_SESSION_set_cipher(s, cipher) &&
	    SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION) &&
	    SSL_SESSION_set1_id_context(s, (const uint8_t *)SESSION_CONTEXT, strlen(SESSION_CONTEXT)))
		return s;
	SSL_SESSION_free(s);
	return NULL;
}

/* Listening: the dialer named a key.  1 without a session: there is none of that name. */
static int find_session(SSL *ssl, const uint8_t *identity, size_t len, SSL_SESSION **ret)
{
	struct channel *c = SSL_get_app_data(ssl);
	size_t prefix = strlen(IDENTITY_PREFIX);
	uint8_t secret[TOKEN_SECRET_BYTES];

	*ret = NULL;
	if (len != prefix + sizeof(c->id) - 1 || memcmp(identity, IDENTITY_PREFIX, prefix) != 0)
		return 1;
	memcpy(c->id, identity + prefix, sizeof(c->id) - 1);
	c->id[sizeof(c->id) - 1] = '\0';
	c->invited = c->gate.get_secret(c->gate.ctx, c->id, secret);
	if (!c->invited)
		return 1;
	*ret = make_session(ssl, secret);
	OPENSSL_cleanse(secret, sizeof(secret));
	return *ret ? 1 : 0;
}

/* Dialing: `md` is the hash that was agreed on when this is asked for the second time. */
static int use_session(SSL *ssl, const EVP_MD *md, const uint8_t **ret_identity, size_t *ret_len, SSL_SESSION **ret)
{
	struct channel *c = SSL_get_app_data(ssl);

	*ret = NULL;
	if (md && EVP_MD_get_type(md) != NID_sha256)
		return 1;
	*ret = make_session(ssl, c->secret);
	*ret_len = (size_t)snprintf(c->identity, sizeof(c->identity), IDENTITY_PREFIX "%s", c->id);
	*ret_identity = (const uint8_t *)c->identity; /* OpenSSL copies it */
	return *ret ? 1 : 0;
}

/* ---- channels ---- */

static int channel_new(SSL_CTX *context, int fd, struct channel **ret)
{
	struct channel *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->ssl = SSL_new(context);
	if (!c->ssl || !SSL_set_fd(c->ssl, fd)) {
		ERR_clear_error();
		channel_free(c);
		return -ENOMEM;
	}
	SSL_set_app_data(c->ssl, c);
	SSL_set_verify(c->ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, judge);
	c->wants[READING] = POLLIN;
	c->wants[WRITING] = POLLOUT;
	*ret = c;
	return 0;
}

int channel_accept(struct tls *t, int fd, const struct tls_gate *gate, struct channel **ret)
{
	int r = channel_new(t->context, fd, ret);

	if (r < 0)
		return r;
	(*ret)->gate = *gate;
	SSL_set_psk_find_session_callback((*ret)->ssl, find_session);
	SSL_set_accept_state((*ret)->ssl);
	return 0;
}

int channel_dial(struct tls *t, int fd, const uint8_t node[16], struct channel **ret)
{
	int r = channel_new(t->context, fd, ret);

	if (r < 0)
		return r;
	(*ret)->dialed = true;
	memcpy((*ret)->expected, node, 16);
	SSL_set_connect_state((*ret)->ssl);
	return 0;
}

int channel_dial_invited(int fd, const char *id, const uint8_t secret[TOKEN_SECRET_BYTES], struct channel **ret)
{
	SSL_CTX *context = make_context(INVITED_SUITE);

	if (!context)
		return -ENOMEM;
	int r = channel_new(context, fd, ret);
	SSL_CTX_free(context); /* the channel has its own reference */
	if (r < 0)
		return r;
	struct channel *c = *ret;
	c->dialed = c->invited = true;
	snprintf(c->id, sizeof(c->id), "%s", id);
	memcpy(c->secret, secret, sizeof(c->secret));
	SSL_set_psk_use_session_callback(c->ssl, use_session);
	SSL_set_connect_state(c->ssl);
	return 0;
}

struct channel *channel_free(struct channel *c)
{
	if (!c)
		return NULL;
	SSL_free(c->ssl);
	OPENSSL_cleanse(c, sizeof(*c));
	free(c);
	return NULL;
}

/* What an alert of the other side says about us. */
static const char *alert_text(int alert)
{
	switch (alert) {
	case SSL_AD_CERTIFICATE_EXPIRED:
		return "the peer refused our certificate: expired by its clock";
	case SSL_AD_CERTIFICATE_REVOKED:
		return "the peer refused our certificate: we are not in its list of peers";
	case SSL_AD_UNKNOWN_CA:
	case SSL_AD_DECRYPT_ERROR:
		return "the peer refused our certificate: not of its volume's CA";
	case SSL_AD_BAD_CERTIFICATE:
		return "the peer refused our certificate: not valid yet by its clock, or damaged";
	case TLS13_AD_CERTIFICATE_REQUIRED:
		return "the peer refused us: no certificate";
	case SSL_AD_PROTOCOL_VERSION:
		return "the peer does not speak TLS 1.3";
	default:
		return "the peer refused us";
	}
}

static int explain_failure(struct channel *c)
{
	unsigned long e = ERR_peek_error();
	int reason = ERR_GET_LIB(e) == ERR_LIB_SSL ? ERR_GET_REASON(e) : 0;

	ERR_clear_error();
	if (reason >= SSL_AD_REASON_OFFSET) {
		set_reason(c, "%s (alert %d)", alert_text(reason - SSL_AD_REASON_OFFSET), reason - SSL_AD_REASON_OFFSET);
		return -EACCES;
	}
	switch (reason) {
	case SSL_R_CERTIFICATE_VERIFY_FAILED: /* judge() has said why */
		return -EACCES;
	case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
		set_reason(c, "the peer has no certificate");
		return -EACCES;
	case SSL_R_BINDER_DOES_NOT_VERIFY:
		set_reason(c, "wrong secret for an invitation");
		return -EACCES;
	case SSL_R_UNEXPECTED_EOF_WHILE_READING:
		set_reason(c, "the connection was cut");
		return -ECONNRESET;
	default:
		set_reason(c, "not what TLS 1.3 is (%s)", reason ? ERR_reason_error_string(e) : "no detail");
		return -EPROTO;
	}
}

/* After a call of OpenSSL that returned `result` for reading or writing. */
static int outcome(struct channel *c, int result, int direction)
{
	int error = errno;

	switch (SSL_get_error(c->ssl, result)) {
	case SSL_ERROR_WANT_READ:
		c->wants[direction] = POLLIN;
		return -EAGAIN;
	case SSL_ERROR_WANT_WRITE:
		c->wants[direction] = POLLOUT;
		return -EAGAIN;
	case SSL_ERROR_ZERO_RETURN:
		c->ended = true;
		set_reason(c, "the peer ended the connection");
		return -ECONNRESET;
	case SSL_ERROR_SYSCALL:
		c->ended = true;
		ERR_clear_error();
		error = error ? error : ECONNRESET;
		set_reason(c, "the connection was lost: %s", strerror(error));
		return -error;
	default:
		c->ended = true;
		return explain_failure(c);
	}
}

int channel_handshake(struct channel *c)
{
	ERR_clear_error();
	errno = 0;
	int n = SSL_do_handshake(c->ssl);
	if (n != 1) {
		int r = outcome(c, n, READING);
		if (r == -EAGAIN)
			c->wants[WRITING] = c->wants[READING];
		return r;
	}
	c->wants[READING] = POLLIN;
	c->wants[WRITING] = POLLOUT;
	/* OpenSSL ends no handshake otherwise; what everything rests on is looked at once more all the same. */
	c->invited = c->invited && SSL_session_reused(c->ssl);
	if (SSL_version(c->ssl) == TLS1_3_VERSION && (c->invited || (c->node_ok && SSL_get_verify_result(c->ssl) == X509_V_OK)))
		return 0;
	set_reason(c, "the peer did not prove who it is");
	c->ended = true;
	return -EACCES;
}

const uint8_t *channel_node(const struct channel *c)
{
	return c->has_node ? c->node : NULL;
}

const char *channel_invitation(const struct channel *c)
{
	return c->invited ? c->id : NULL;
}

int channel_read(struct channel *c, void *p, size_t cap, size_t *ret_n)
{
	ERR_clear_error();
	errno = 0;
	int n = SSL_read(c->ssl, p, (int)(cap < RECORD_BYTES ? cap : RECORD_BYTES));
	if (n <= 0)
		return outcome(c, n, READING);
	c->wants[READING] = POLLIN;
	*ret_n = (size_t)n;
	return 0;
}

/* A peer that refused us has closed: why it did so may have arrived before that. */
static int read_alert(struct channel *c, int r)
{
	char byte;

	ERR_clear_error();
	int n = SSL_read(c->ssl, &byte, 1);
	return n <= 0 && SSL_get_error(c->ssl, n) == SSL_ERROR_SSL ? explain_failure(c) : r;
}

int channel_write(struct channel *c, const void *p, size_t n, size_t *ret_n)
{
	size_t now = c->retry ? c->retry : n < RECORD_BYTES ? n : RECORD_BYTES;

	assert(n > 0);
	ERR_clear_error();
	errno = 0;
	int done = SSL_write(c->ssl, p, (int)now);
	c->retry = done > 0 ? 0 : now;
	if (done <= 0) {
		int r = outcome(c, done, WRITING);
		return r == -EPIPE || r == -ECONNRESET ? read_alert(c, r) : r;
	}
	c->wants[WRITING] = POLLOUT;
	*ret_n = (size_t)done;
	return 0;
}

void channel_close(struct channel *c)
{
	ERR_clear_error();
	if (!c->ended && SSL_is_init_finished(c->ssl))
		SSL_shutdown(c->ssl);
	ERR_clear_error();
}

short channel_events(const struct channel *c, bool writing)
{
	return (short)(c->wants[READING] | (writing ? c->wants[WRITING] : 0));
}

bool channel_ended(const struct channel *c)
{
	return c->ended;
}

const char *channel_reason(const struct channel *c)
{
	return c->reason[0] ? c->reason : "no reason is known";
}
