/*
 * node.h: one node of a volume: its role among its peers, and the conversations (sessions) with them.  No sockets, no threads, no
 * clock of its own: bytes and time are handed in, so that the product (server.c) and the simulator drive the same code.
 *
 * A session is one end of one connection.  A follower dials a node it believes to lead and says HELLO; a leader that has no
 * connection from a peer dials it to announce itself (HELLO_ANNOUNCE), so that an old leader learns of its end.  The listener answers
 * WELCOME, and then the session is a stream (leader.c, follower.c), a resync (resync.c) followed by the stream, or over.
 *
 * Fencing: each side notes the other's promised epoch before anything else (replica_ops.note_epoch).  A leader that hears of a
 * higher one is a follower from that moment; a peer that promised more refuses everything of the lower one (-ESTALE).
 *
 * Ownership: the node owns its sessions' states, not what drives them; a session is freed by its driver.  Callbacks of
 * struct node_hooks are called without locks of the node.
 * Threads: sessions of one node may be driven by different threads, each by one at a time; the other functions from any.
 * Errors: 0 or -errno; an error from a session function ends that connection, and is its reason.  -ESHUTDOWN is no failure: all was
 * said.  -ECONNABORTED a newer connection took its place; -ESTALE another epoch has begun; -EBADE same epoch, other history; -ETIMEDOUT
 * the peer is dead; -EPROTO, -EBADMSG, -EUCLEAN what came was out of place, damaged or none; what REFUSE said; the volume's own.
 * Memory: a session holds at most SESSION_MEMORY_MAX: one frame in, one frame and SESSION_OUT_MAX out, one batch.
 *
 * One session as follower: a node has at most one at a time, and the next one may begin when that was freed; session_new() says
 * -EBUSY until then.  Which peers have batches durably counts for one reign: a new epoch forgets the acks.
 */
#pragma once

#include "base/clock.h"
#include "journal/replica.h"
#include "replicate/peers.h"

#define SESSION_OUT_MAX    (2 * MIB)  /* pump() stops filling above this */
#define SESSION_MEMORY_MAX (16 * MIB)
#define SESSION_PING_NS    NSEC_PER_SEC
#define SESSION_DEAD_NS    (5 * NSEC_PER_SEC) /* nothing heard: the peer is dead */

struct node;
struct session;

enum peer_state {
	PEER_DISCONNECTED,
	PEER_CONNECTING,  /* before WELCOME */
	PEER_STREAMING,   /* a follower of ours that gets batches, or the leader we get them from */
	PEER_RESYNCING,
	PEER_CONFLICT,    /* same epoch, other history */
	PEER_FENCED,      /* it promised a lower epoch than ours and has not said HELLO since */
	PEER_REFUSED,     /* by one of us; the reason is in `reason` */
};
const char *peer_state_name(enum peer_state s); /* "streaming" */

struct peer_status {
	char name[WIRE_NAME_MAX + 1];
	uint32_t node_id;
	bool leads;             /* as far as we know */
	bool has_address;       /* it can be dialed */
	enum peer_state state;
	uint64_t promised;                 /* epoch, as it last said; 0: it has said nothing yet */
	uint64_t durable_seq, applied_seq; /* it has told */
	uint64_t lag_batches;   /* behind the leader: leader's side exact, else as last told */
	uint64_t lag_bytes;     /* the same, by the average size of the batches sent or taken so far */
	/* Leader's side: since the oldest batch it has not acked became durable; 0 when none.  Of our leader: since we last had all that
	 * it had told, or heard of it. */
	double lag_seconds;
	int64_t last_ack_ns;    /* real time; 0 never */
	uint64_t fence;
	uint64_t sent_bytes, received_bytes, connects, errors;
	uint64_t resync_rows, resync_bytes;/* of the resync under way or the last one: rows compared, bytes moved */
	double resync_share;    /* 0 .. 1 of the key space's rows, by n_inodes; 1 when done */
	char reason[256];       /* why the last connection ended */
};

struct node_hooks {
	void *ctx;
	/* Acks or connections changed: seqs durable on the followers, n_known in all, highest first; n_live of them are streaming
	 * now.  For fsync at a level (fs/core/durability.c).  Must not block. */
	void (*acked)(void *ctx, const uint64_t *durable, uint32_t n_known, uint32_t n_live);
	/* The role changed, by promotion, hand-over or fencing.  Must not block.  Hooks but wake() are called by one thread at a time,
	 * with what is true then. */
	void (*role_changed)(void *ctx, enum replica_role role);
	/* A connection has something to send, or one should be made or dropped: drive again.  Must not block; any thread. */
	void (*wake)(void *ctx);
	/* The list of peers changed (a leader sent it): keep it. */
	void (*peers_changed)(void *ctx, const struct peers *p);
	/* A batch became durable, which streams will send: like wake, but it may wait a little.  NULL: wake. */
	void (*news)(void *ctx);
};

struct node_config {
	struct replica_volume *volume; /* borrowed */
	const struct clock *clock;     /* borrowed */
	struct peers peers;            /* copied */
	struct node_hooks hooks;
};
MUST_CHECK int node_new(const struct node_config *c, struct node **ret);
struct node *node_free(struct node *n); /* no session is left */

/* The journal has a newer durable batch: streams go on.  From any thread, also under locks of the filesystem; never blocks. */
void node_batch_durable(struct node *n, uint64_t seq);
/* The volume wants a block (replica_ops.next_wanted): how many peers can be asked now; their connections are woken.  Never blocks. */
uint32_t node_ask_block(struct node *n);

/*
 * Whom to dial now: up to `max` node ids.  A follower: the leader it knows, else every peer in turn until one leads; a leader: the
 * peers that are not connected, to announce itself.  Nothing to peers that are connected or were tried less than a second ago.
 */
uint32_t node_dial(struct node *n, uint32_t *ret_ids, uint32_t max);

/* A new connection with the peer `node_id` (authenticated by the transport).  Once its HELLO is right it replaces an older one with
 * the same peer, which ends with -ECONNABORTED. */
MUST_CHECK int session_new(struct node *n, uint32_t node_id, bool dialed, struct session **ret);
struct session *session_free(struct session *s, int why, const char *reason);

/* Bytes received.  Anything but 0: close, after what session_output() still has was sent where possible. */
MUST_CHECK int session_input(struct session *s, const void *p, size_t len);
/* Makes output: batches, answers, pings.  *ret_deadline_ns (mono): call again by then at the latest. */
MUST_CHECK int session_pump(struct session *s, int64_t *ret_deadline_ns);
/* What is to be sent, borrowed until the next call; session_sent() takes the first n bytes away. */
struct slice session_output(struct session *s);
void session_sent(struct session *s, size_t n);
/* A peer follows us on it, so that what comes in is mostly acks. */
bool session_leads(const struct session *s);

/* Acts of an admin. */
MUST_CHECK int node_promote(struct node *n); /* -EAGAIN: fenced, resyncing or differing; -EALREADY: it leads; says why in the log */
/*
 * Blocks writers, waits until the peer has everything, lets it lead.  Returns 0 when it does; -ETIMEDOUT and leads on;
 * -ECANCELED: the peer did not take it, and this node leads on; -EINPROGRESS: the lead was offered and the answer has not come:
 * writers wait until the peer is heard of, or until node_promote() here takes the lead back (handover.c).  -ENOENT no such peer,
 * -ENOTCONN it does not stream, -EINVAL this node does not lead, -EBUSY another hand-over is under way.
 */
MUST_CHECK int node_handover(struct node *n, const char *peer, int64_t timeout_ns);
/* The same without waiting.  begin() returns once writers are held; poll(): -EAGAIN while it is under way, else as above. */
MUST_CHECK int node_handover_begin(struct node *n, const char *peer, int64_t timeout_ns);
MUST_CHECK int node_handover_poll(struct node *n);
/*
 * This node is about to stop: a hand-over under way ends with -ECANCELED and writers go on; one that is in doubt stays so, over
 * the restart too, and writers that wait are refused.
 */
void node_cancel_handover(struct node *n);
MUST_CHECK int node_resync(struct node *n);                      /* conflict: the leader's history counts; ours is saved aside */
MUST_CHECK int node_set_peers(struct node *n, const struct peers *p); /* added, removed (their sessions end) or renamed */

uint32_t node_status(struct node *n, struct peer_status *ret, uint32_t max); /* one a peer */
