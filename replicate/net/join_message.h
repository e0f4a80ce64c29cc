/*
 * join_message.h: the JSON of JOIN and JOINED.
 *
 * Ownership: what is parsed is copied; printed texts are appended, NUL behind them.  Threads: no state.
 * Errors: -EUCLEAN what is no such message, -ENOMEM (printing: out->failed).
 */
#pragma once

#include "replicate/net/join.h"
#include "replicate/secret.h"

#define JOIN_REQUEST_MAX 4096u

struct join_message {
	char name[WIRE_NAME_MAX + 1];
	uint8_t node[16];
	char address[WIRE_TEXT_MAX + 1];    /* empty: nowhere */
	char request[JOIN_REQUEST_MAX + 1]; /* PEM */
};
void join_print(const struct join_message *m, struct buf *out);
MUST_CHECK int join_parse(struct slice json, struct join_message *ret);

/* node_key stays at home; all else of a struct joined travels. */
void joined_print(const struct joined *m, struct buf *out);
MUST_CHECK int joined_parse(struct slice json, struct joined *ret); /* joined_free() it */
