/*
 * server_impl.h: what the files of the server share.
 *
 *     server.c       starts and stops; accepts, dials, wakes
 *     connection.c   one connection from its first byte to its last
 *     admin.c        the list of peers and the invitations: what an admin, a joiner or the leader changes
 *     notes.c        what went wrong with whom: for status, and for the log only when it is news
 *
 * Locks, in this order: admin_lock (one change of the files at a time; held over I/O), then one of peers_lock, list_lock and
 * notes_lock, each held for a few lines of memory only.  None is held while the node or a session of it is called: they call hooks,
 * and hooks come back here.
 */
#pragma once

#include <stdatomic.h>

#include "base/clock.h"
#include "base/lock.h"
#include "replicate/net/invites.h"
#include "replicate/net/net.h"
#include "replicate/net/server.h"
#include "replicate/net/tls.h"

#define HANDSHAKE_NS       (5 * NSEC_PER_SEC)
#define CONNECT_NS         (3 * NSEC_PER_SEC)
#define JOIN_NS            (10 * NSEC_PER_SEC)
#define STRANGER_LINES_MAX 10u /* in the log, a minute */

/*
 * What a connection's thread does between two rounds: a nap lasts 2 ms at most, and server_wake() ends it sooner; what the peer
 * sends does, too, unless that is acks for which nobody waits.
 */
enum rest { REST_NONE, REST_NAP, REST_SLEEP };
enum connection_state { CONNECTION_PENDING, CONNECTION_PROVEN, CONNECTION_ENDED };

struct connection {
	struct server *server;
	struct connection *next; /* guarded by list_lock */
	pthread_t thread;
	int fd;      /* of its thread, which closes it */
	int wake_fd; /* lives as long as the connection */
	bool dialed;
	struct peer peer;            /* dialed: whom; else once it is proven.  Written by its thread under list_lock */
	enum connection_state state; /* guarded by list_lock */
	atomic_int end;              /* -errno: it is to end */
	atomic_int rest;             /* enum rest: unless it is REST_NONE, wake_fd must be written to */

	/* Of the thread alone. */
	struct channel *channel;
	uint64_t rate;   /* bytes a second that may be sent; 0: any */
	int64_t paid_ns; /* until when what was sent is paid for */
};

struct note {
	uint32_t node_id; /* 0: unused */
	bool current;     /* the last attempt failed before there was a session */
	int why;
	uint64_t errors;
	char text[256]; /* empty: nothing since the last session */
};

struct server {
	struct node *node;             /* borrowed */
	struct replica_volume *volume; /* borrowed */
	char *dir, *listen;            /* owned */
	struct volume_geometry geometry;
	uint8_t self[16]; /* uuid of this node */
	uint64_t rate;
	uint32_t connections_max;
	struct tls *tls;
	int listen_fd, stop_fd;
	uint16_t port;
	pthread_t acceptor, dialer;
	bool accepts, dials; /* these threads run */

	struct mutex admin_lock;
	struct mutex peers_lock;
	struct peers peers;     /* guarded by peers_lock; changed under admin_lock too */
	struct invites invites; /* likewise */
	struct mutex list_lock;
	struct connection *connections; /* guarded by list_lock; newest first */
	struct mutex notes_lock;
	struct note notes[2 * PEERS_MAX]; /* guarded by notes_lock */
	/* Guarded by notes_lock: the last line about a stranger and when it was, the minute that counts and the lines in it. */
	char stranger[256];
	int64_t stranger_ns, minute_ns;
	unsigned n_strangers;

	atomic_uint_fast64_t wakes, news; /* calls of server_wake() and server_news() */
	atomic_int nappers, sleepers;     /* connections that rest */
	atomic_bool hurry;                /* the last call was server_wake(): somebody may wait for an ack */
};

/* server.c */
void connection_end(struct connection *c, int why); /* any thread, under list_lock or from its own */
void server_end_strangers(struct server *s, const struct peers *p) EXCLUDES(s->list_lock);
void server_get_peers(struct server *s, struct peers *ret) EXCLUDES(s->peers_lock);

/* connection.c */
void *connection_main(void *connection);

/* admin.c */
/* A joiner with the invitation `id`, from the machine `host`, sends `json`: JOINED in *ret_json, or *ret_why and the error. */
MUST_CHECK int admin_admit(struct server *s, const char *id, const char *host, struct slice json, struct buf *ret_json,
			   struct refuse *ret_why) EXCLUDES(s->admin_lock);

/* notes.c */
void note_failure(struct server *s, const struct peer *p, int why, const char *text) EXCLUDES(s->notes_lock);
void note_session(struct server *s, const struct peer *p) EXCLUDES(s->notes_lock);
void note_stranger(struct server *s, const char *host, const char *text) EXCLUDES(s->notes_lock);
void note_status(struct server *s, struct peer_status *ret, uint32_t n) EXCLUDES(s->notes_lock);
