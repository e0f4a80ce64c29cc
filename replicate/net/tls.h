/*
 * tls.h: TLS 1.3 on a connected, non-blocking socket, and who is at the other end.
 *
 * A channel is made by one of three calls, its handshake is driven to the end, and then it is either with a peer, whose
 * certificate is of the CA and whose node uuid was found known, or with an invited stranger, who knows an invitation's
 * secret.  Nothing else ends a handshake well.  No session tickets, no resumption, no early data, no older versions.
 *
 * Ownership: a channel borrows its socket and its contexts, which outlive it; contexts copy what they are made from.
 * Threads: contexts from any; a channel by one at a time.  Callers block SIGPIPE.
 * Errors: -EAGAIN: poll for channel_events(), call again.  -EACCES: one side refused the other; -EPROTO: not TLS 1.3, or
 * garbage; -ECONNRESET: ended by the other side; -errno of the socket.  channel_reason() says it in words.
 */
#pragma once

#include "base/util.h"
#include "replicate/net/join.h"

struct tls;
struct channel;

struct tls_identity {
	struct slice ca, certificate, key; /* PEM */
};
MUST_CHECK int tls_new(const struct tls_identity *id, struct tls **ret);
struct tls *tls_free(struct tls *t);

/* What the listener asks during a handshake, from the thread that drives it. */
struct tls_gate {
	void *ctx;
	bool (*is_peer)(void *ctx, const uint8_t node[16]);
	/* The secret of an invitation that may be used now; false when there is none of that id. */
	bool (*get_secret)(void *ctx, const char *id, uint8_t ret_secret[TOKEN_SECRET_BYTES]);
};
MUST_CHECK int channel_accept(struct tls *t, int fd, const struct tls_gate *gate, struct channel **ret); /* gate: borrowed */
/* Whoever answers must be `node`. */
MUST_CHECK int channel_dial(struct tls *t, int fd, const uint8_t node[16], struct channel **ret);
/* Without a certificate: with an invitation. */
MUST_CHECK int channel_dial_invited(int fd, const char *id, const uint8_t secret[TOKEN_SECRET_BYTES], struct channel **ret);
struct channel *channel_free(struct channel *c);

MUST_CHECK int channel_handshake(struct channel *c);
/* The uuid at the other end, also of one that was refused for its times or for not being known; NULL when nobody proved any. */
const uint8_t *channel_node(const struct channel *c);
const char *channel_invitation(const struct channel *c); /* id; NULL: a peer */

MUST_CHECK int channel_read(struct channel *c, void *p, size_t cap, size_t *ret_n); /* n >= 1 */
/* After -EAGAIN the same bytes must come first again; more may follow them. */
MUST_CHECK int channel_write(struct channel *c, const void *p, size_t n, size_t *ret_n);
/* Tells the other side that nothing follows.  As far as it can be sent at once. */
void channel_close(struct channel *c);

/* What to poll for.  Worth asking only after channel_read() said -EAGAIN: input may wait where poll() does not see it. */
short channel_events(const struct channel *c, bool writing);
bool channel_ended(const struct channel *c); /* a call failed with more than -EAGAIN */
const char *channel_reason(const struct channel *c);
