/*
 * server.h: a node on the network: listens, dials, and drives the sessions of node.h over TLS, a thread a connection.
 *
 * Identity (pki.h): each volume has its own CA; each node a certificate whose common name is its node uuid.  TLS 1.3 only, both
 * sides authenticated; a certificate of a node that is not in the list of peers is refused in the handshake, before a byte of the
 * protocol.  Joining (join.h) uses TLS 1.3 with the invitation's secret as pre-shared key instead; such a connection can only join.
 * Files, all 0600 in DIR/peers (0700): ca.pem, ca.key, node.pem, node.key, peers.json, invites.json.
 *
 * Threads: an acceptor, a dialer, one a connection; all joined by server_stop(), within two seconds.  All functions from any
 * thread; server_wake(), server_set_peers() and server_status() do nothing with NULL.  server_stop() frees: whoever calls the others
 * from elsewhere takes the pointer away first, under a lock that its callers hold shared.
 * Errors: what keeps it from starting is returned and logged; later ones end one connection and show in its peer's status.
 */
#pragma once

#include "replicate/net/join.h"
#include "replicate/node.h"

struct server;
struct server_options {
	const char *dir;         /* the volume's directory */
	struct replica_volume *volume; /* borrowed: who we are, whether we lead */
	struct volume_geometry geometry; /* told to those who join */
	const char *listen;      /* "host:port"; port 0: any free one; NULL: nowhere, it only dials */
	uint64_t rate;           /* bytes a second sent to each peer; 0: unlimited */
	uint32_t connections_max;/* at once, half of them not yet authenticated; 0: 64 */
};
/* -ENOENT: no peers.json here: the volume is alone.  -EACCES a key that others can read, -EUCLEAN files that do not fit together,
 * -EADDRINUSE and the like.  The node must outlive the server, and all its sessions end with it. */
MUST_CHECK int server_start(struct node *n, const struct server_options *o, struct server **ret);
struct server *server_stop(struct server *s);
void server_wake(struct server *s); /* node_hooks.wake; cheap when nobody sleeps */
/* There are batches to send, for which nobody waits: they go out within 2 ms, with those that come by then. */
void server_news(struct server *s);
uint16_t server_port(const struct server *s);
/* node_hooks.peers_changed: the list that a leader sent is kept and counts from now on.  A failure to keep it is logged. */
void server_set_peers(struct server *s, const struct peers *p);
/* node_status(), and what the node cannot know: why the last attempt to connect came to nothing. */
uint32_t server_status(struct server *s, struct peer_status *ret, uint32_t max);

/* Admin: on the leader only, -EROFS elsewhere.  -EINVAL, -EEXIST, -ENOENT, -E2BIG; each is logged in words. */
/* A token (join.h) for one new peer called `name`, valid for ttl_s.  A second one for the same name replaces the first.
 * `address`: where the joiner is to dial; NULL: where we listen.  -ENOKEY: ca.key is not here. */
MUST_CHECK int server_invite(struct server *s, const char *name, const char *address, uint64_t ttl_s, struct buf *ret_token);
MUST_CHECK int server_remove_peer(struct server *s, const char *name);
MUST_CHECK int server_rename_peer(struct server *s, const char *name, const char *new_name);
