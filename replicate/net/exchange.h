/*
 * exchange.h: a question and an answer over a channel, each within a time: how joining talks.
 *
 * Ownership: the channel and the sockets are borrowed; exchange_end() gives back and wipes what was received.
 * Threads: one.  Errors: those of tls.h and wire.h, -ETIMEDOUT, -ECANCELED by wake_fd; -EPROTO another message than expected.
 */
#pragma once

#include "replicate/secret.h"
#include "replicate/net/tls.h"
#include "replicate/wire/wire.h"

struct exchange {
	struct channel *channel;
	int fd, wake_fd;
	int64_t deadline_ns; /* of clock_system */
	uint64_t n_sent, n_received;
	struct buf in;
};

MUST_CHECK int exchange_handshake(struct exchange *x);
/* `json`: JOIN, JOINED. */
MUST_CHECK int exchange_send(struct exchange *x, enum message_type type, const char *json);
MUST_CHECK int exchange_refuse(struct exchange *x, const struct refuse *why);
/* `wanted` or REFUSE; the body is borrowed until the next call. */
MUST_CHECK int exchange_receive(struct exchange *x, enum message_type wanted, enum message_type *ret_type, struct slice *ret_body);
void exchange_end(struct exchange *x);
/* Ends what was said, and waits a moment for the other side to have read it: closing at once could destroy it on its way. */
void exchange_linger(struct exchange *x);
