/*
 * join.h: how a node becomes a peer: an invitation's token on one side, a new follower's directory on the other.
 *
 *     joiner                                      inviter
 *     TLS 1.3, PSK = secret of the token, identity = its id  ->  looks the id up: known, not expired
 *     JOIN {name, node uuid, address, certificate request}   ->  invitation used, id and name in the list, certificate signed
 *     <-  JOINED {ca, ca key, certificate, node id, epoch, peers, geometry of the volume}
 *     checks the CA's fingerprint against the token's, formats DIR as a follower, writes DIR/peers
 *
 * An invitation counts as used, durably, before it is answered; until it expires it also keeps who used it, so that a joiner whose
 * connection was cut may ask again with the same request and nobody else can.  Whether it has expired is for the inviter's clock
 * to say: clocks may be hours apart.
 * Any node may come to lead and to invite, so each gets the CA's key: removing a peer keeps its certificate out, not one who
 * kept that key.  After a hostile peer, make a new CA.
 *
 * Ownership: struct joined owns its buffers, which hold keys: joined_free() wipes them.  Threads: none of its own.
 * Errors: -EINVAL a token that is none, -ETIME an expired one, -EACCES refused, -EPROTO an answer that cannot be right,
 * -ECONNREFUSED and the like, -ETIMEDOUT; each is logged in words.
 */
#pragma once

#include "base/buf.h"
#include "replicate/peers.h"

#define TOKEN_PREFIX       "clawfs1:"
#define TOKEN_SECRET_BYTES 32u

struct token {
	char address[WIRE_TEXT_MAX + 1];
	uint8_t volume[16];
	uint8_t ca_sha256[32];
	char id[33];       /* hex */
	uint8_t secret[TOKEN_SECRET_BYTES];
	int64_t expires_s; /* real time */
	char name[WIRE_NAME_MAX + 1];
};
/* TOKEN_PREFIX and base64url of JSON {address, volume, ca, id, secret, expires, name}.  One that has expired parses. */
void token_print(const struct token *t, struct buf *out);
MUST_CHECK int token_parse(const char *text, struct token *ret);
void token_wipe(struct token *t);

struct join_options {
	const char *address; /* where this node will listen, "host:port": told to the others; NULL: nowhere */
	const char *name;    /* NULL: the token's */
	int64_t timeout_ns;  /* for all of it; 0: 30 s */
};
/* How the leader's volume was made, for a follower to be made alike; fs/ knows the limits. */
struct volume_geometry {
	char label[65];
	uint32_t journal_segments, journal_segment_kib, chunk_kib;
};
/* What the inviter told; the caller formats the volume with it, then join_store() writes DIR/peers. */
struct joined {
	uint8_t volume[16], node[16]; /* node: chosen here, and in the certificate: the volume is formatted with it */
	uint32_t node_id;
	uint64_t epoch;
	struct peers peers;
	struct volume_geometry geometry;
	struct buf ca_pem, ca_key, node_pem, node_key; /* owned */
};
MUST_CHECK int join_dial(const struct token *t, const struct join_options *o, struct joined *ret);
/* Writes DIR/peers; peers.json last, so that a directory that has one has the rest. */
MUST_CHECK int join_store(const char *dir, const struct joined *j);
void joined_free(struct joined *j);

/*
 * The first node: makes DIR/peers with a CA, a certificate and a list of one, as far as they are not there.  Idempotent.  ca.pem,
 * node.pem and node.key that an admin put there are used as they are; ca.key may then be missing, and nobody can be invited.
 * -EACCES a key that others can read, -EUCLEAN files that do not fit together.
 */
MUST_CHECK int peers_found(const char *dir, const uint8_t volume[16], const uint8_t node[16], uint32_t node_id, const char *name,
			   const char *address);
