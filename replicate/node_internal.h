/*
 * node_internal.h: struct node and struct session, shared by node.c, dialing.c, handover.c, session.c, greeting.c, leader.c, follower.c and resync.c.
 *
 * Calls: node.h's functions are node.c's, dialing.c's, node_status.c's, handover.c's and session.c's; session.c hands each message to leader.c, follower.c or
 * resync.c, which send through session.c and tell node.c what they learned.
 *
 * Locks, in this order:
 *     follow   one thread at a time is the follower: it calls the volume's functions marked "follower" and "resync", and promotes.
 *              Held over I/O.  A session holds it for one message or one pump.
 *     refresh  reading the volume's point and keeping its role belong together.
 *     lock     what is marked below.  The innermost: held for copies in memory only, never over a function of the volume or a hook, so
 *              that node_batch_durable() may be called under the filesystem's locks.
 * A session's own members belong to the thread that drives it, but for `cut` and what the node's lock guards.
 */
#pragma once

#include <assert.h>
#include <string.h>

#include "base/buf.h"
#include "base/lock.h"
#include "replicate/moments.h"
#include "replicate/node.h"

#define REASON_MAX    256u
#define REQUESTS_MAX  64u /* of a resync, waiting for their answer */
#define STATES_MAX    64u /* sums that wait to be sent or compared */
#define STATE_WAIT_NS (NSEC_PER_SEC / 10)
#define VIEW_WAIT_NS  (30 * NSEC_PER_SEC) /* a leader under load may take this long to open a view */
#define ANOTHER_EPOCH "another epoch has begun"
#define IN_KEEP       (64 * KIB)
#define ROWS_PER_INODE 3u /* inode, name, leaf: a guess, for the progress of a resync */

/* ---- node ---- */

struct node_peer {
	struct peer peer;
	struct session *stream; /* the conversation that counts; borrowed */
	enum peer_state state;
	uint64_t promised;      /* it has told; 0: never heard of */
	uint64_t durable_seq, applied_seq, fence;
	uint64_t fenced_from;   /* with a fence: first batch that lacks data; 0: all it has may */
	uint64_t safe_seq;      /* a follower of ours: counts for fsync; durable_seq, but behind a fence */
	int64_t fresh_ns;       /* mono, a leader of ours: when we last had everything it had told */
	int64_t last_ack_ns;    /* real */
	/* Dialing, mono. */
	int64_t tried_ns, due_ns, backoff_ns;
	uint32_t tries;         /* since it last was of use */
	bool slow_retry;        /* our own volume is in the way */
	bool answers_blocks;    /* on `stream` */
	uint64_t sent_bytes, received_bytes, connects, errors;
	uint64_t batches, batch_bytes; /* sent or taken lately, for their average size; node_peer_count_locked() */
	uint64_t resync_rows, resync_bytes;
	double resync_share;
	char reason[REASON_MAX];
};

enum handover_phase {
	HANDOVER_NONE,
	HANDOVER_HOLDING, /* writers are being stopped */
	HANDOVER_WAITING, /* writers are held; the peer has not acked everything yet */
	HANDOVER_OFFERING,/* the volume is noting that the peer may lead */
	HANDOVER_SENT,    /* the peer may lead by now: nothing is written here before that is known */
	HANDOVER_RELEASING,
};
struct handover_state {
	enum handover_phase phase;
	uint32_t peer_id;
	uint64_t epoch;   /* it is to lead with */
	uint64_t sent_on; /* serial of the session; 0: before the restart */
	int64_t deadline_ns;
	bool held;        /* writers are, or are about to be */
	bool cancelled;   /* while it was HOLDING or OFFERING: it ends; while SENT: nobody waits for it any more */
	int result;       /* of the last one */
};

struct node {
	struct replica_volume *volume;
	const struct clock *clock;
	struct node_hooks hooks;
	uint8_t volume_id[16], node_id[16];
	uint32_t id;

	struct mutex follow;
	bool batch_open;         /* guarded by follow: taken and not finished */

	struct mutex refresh;
	struct mutex lock;
	struct cond handed_over; /* handover.phase changed */

	/* guarded by lock */
	struct peers peers;
	struct node_peer peer[PEERS_MAX];
	uint32_t n_peers;        /* without this node */
	struct session *sessions;
	struct session *following; /* the only one that may act as follower */
	uint64_t serials;
	enum replica_role role;
	uint64_t promised, durable_seq;
	uint64_t unreadable_seq; /* newest batch found damaged in the ring: nobody streams over it */
	uint32_t hint_id;        /* leads in hint_epoch, as somebody said */
	uint64_t hint_epoch;
	bool resync_wanted;
	struct moments moments;
	struct handover_state handover;
	bool telling, tell_acked, tell_role, tell_peers, tell_wake; /* hooks that are due */
};

static inline int64_t node_now(const struct node *n) { return clock_mono_ns(n->clock); }
static inline void node_get_point(const struct node *n, struct replica_point *ret) { n->volume->ops->get_point(n->volume, ret); }
struct node_peer *node_peer_locked(struct node *n, uint32_t id) REQUIRES(n->lock); /* NULL */
/* Calls the hooks that are due, in order, whichever thread brought the news. */
void node_tell(struct node *n) EXCLUDES(n->lock);
/* Reads role and promise from the volume, tells when they changed. */
void node_refresh(struct node *n) EXCLUDES(n->lock);
/* A peer has promised `epoch`: so do we, durably. */
MUST_CHECK int node_note_epoch(struct node *n, uint64_t epoch) EXCLUDES(n->lock);
/* Who leads as far as we know; 0: unknown. */
uint32_t node_leader_locked(struct node *n) REQUIRES(n->lock);
/* `id` leads in `epoch`, as somebody says. */
void node_hint_leader(struct node *n, uint32_t id, uint64_t epoch) EXCLUDES(n->lock);
/*
 * A follower of ours has everything up to `durable_seq` durably.  One that acks a batch from fenced_from on, and not yet the fence,
 * has no state any more that it could lead from: nothing that it has acked counts before it has the fence.
 */
void node_peer_acked_locked(struct node_peer *p, uint64_t durable_seq, uint64_t applied_seq);
/* Data of batch `from` (0: of any) went to a follower of ours superseded; by batch `fence` it has the newer. */
void node_peer_fence_locked(struct node_peer *p, uint64_t from, uint64_t fence);
/* Batches sent or taken, and bytes of them; older ones count less and less. */
void node_peer_count_locked(struct node_peer *p, uint64_t batches, uint64_t bytes);
/* The peer turned out to be of use: the next attempt need not wait. */
void node_peer_proven_locked(struct node_peer *p);
/*
 * A list from a peer that has promised `epoch`, JSON: taken when it is newer.  The leader's own is of its reign, whenever it was
 * changed; who only knows it says of which one it is, and of none that it has not heard of (-EPROTO).
 */
MUST_CHECK int node_take_peers(struct node *n, struct slice json, uint64_t epoch, bool leads) EXCLUDES(n->lock);
/* Leads with `epoch` from now on, or says why not. */
MUST_CHECK int node_lead(struct node *n, uint64_t epoch) REQUIRES(n->follow);

/* ---- hand-over ---- */

/* True when HANDOVER is to be sent on this session now: *ret is its content, and from here on the peer may lead. */
bool handover_offer(struct session *s, uint64_t acked_seq, struct handover *ret);
/* True when the peer of this session is in doubt and is to prove with a PONG of *ret_value that it follows. */
bool handover_question(struct session *s, uint64_t *ret_value);
/* A PONG with `value`: the peer follows, so it did not take the lead. */
void handover_answer(struct session *s, uint64_t value);
/* The peer says that it leads: true when it was asked to on this session. */
bool handover_taken(struct session *s, uint64_t *ret_epoch);
/* This node follows now, by `promised`. */
void handover_deposed(struct node *n, uint64_t promised) EXCLUDES(n->lock);
/* A leader comes up: what it had offered is in doubt still. */
void handover_resume_locked(struct node *n, const struct replica_point *at) REQUIRES(n->lock);
/* The hand-over under way, if any, is over; writers go on, or find that this node follows. */
void handover_settle(struct node *n, int result) EXCLUDES(n->lock);

/* ---- sessions ---- */

enum session_state {
	SESSION_LISTENING, /* accepted: HELLO comes first */
	SESSION_GREETING,  /* dialed: HELLO was said, WELCOME comes */
	SESSION_REFERRED,  /* it does not lead: the list of peers comes, to find out who does */
	SESSION_LEADING,   /* a peer follows us */
	SESSION_SERVING,   /* a peer resyncs from us */
	SESSION_FOLLOWING, /* we follow */
	SESSION_PULLING,   /* we resync */
	SESSION_OVER,
};

/* Leader's side of a stream. */
struct leading {
	struct replica_cursor *cursor;
	uint64_t next;                /* batch to be read next */
	uint32_t next_data, n_data;   /* of the batch before it */
	uint64_t state_next;          /* sum to be sent next */
	uint64_t acked;
	uint64_t peers_version;       /* of the list sent last */
};

/* Follower's side of a stream. */
struct following {
	uint64_t taken, finished, committed; /* batches: begun, whole, durable */
	uint64_t applied;                    /* by the last commit */
	uint32_t next_data, n_data;
	uint32_t n_states;
	struct state states[STATES_MAX];     /* to be compared once they can be */
};

/* Either side: blocks.c. */
#define BLOCKS_MAX 16u
struct blocks {
	bool said, peer_answers;
	uint64_t asked;                     /* the newest question that was passed on */
	uint64_t out[BLOCKS_MAX];           /* those without an answer */
	uint32_t n_out, n_in;
	struct block_wanted in[BLOCKS_MAX]; /* of the other side, oldest first */
	int64_t next_ns;                    /* mono: the next may be answered */
};

struct serving; /* leader's side of a resync: serving.c */
struct pull;    /* follower's: resync_internal.h */

struct session {
	struct node *node;
	struct session *next; /* guarded by node->lock */
	uint64_t serial;
	uint32_t peer_id;
	bool dialed;
	enum session_state state;
	uint64_t epoch;       /* both sides' promise when the conversation began */
	uint32_t said_flags;  /* in HELLO */
	uint64_t said_seq;
	uint32_t referred_id; /* who leads in which epoch, as it says */
	uint64_t referred_epoch;
	_Atomic int cut;      /* 0, or why somebody else ended it */

	int error;            /* sticky */
	bool refused;         /* one side said why */
	bool volume_failed;   /* our own volume was the reason */
	bool questioned;      /* see handover.c */
	enum peer_state last_state;
	char reason[REASON_MAX];

	uint8_t *in;          /* owned; 8-aligned: a frame begins it */
	size_t in_len, in_need, in_cap;
	uint64_t in_number, out_number;
	struct buf out;
	size_t out_sent;
	int64_t start_ns, last_in_ns, last_out_ns;

	struct leading leading;
	struct following following;
	struct blocks blocks;
	struct serving *serving;
	struct pull *pull;
};

static inline size_t session_pending(const struct session *s) { return s->out.len - s->out_sent; }
/* A frame of this session: what goes between is put into s->out. */
size_t session_begin(struct session *s, enum message_type type);
MUST_CHECK int session_end(struct session *s, size_t at);
MUST_CHECK int session_send_peers(struct session *s, const struct peers *p);
/* Ends the session: keeps the first reason, tells the other side.  Returns `error`. */
int session_fail(struct session *s, int error, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The same, because a function of our own volume failed. */
int session_volume_failed(struct session *s, int error, const char *what);
/* Ends it in good order: -ESHUTDOWN, and nothing is told. */
int session_over(struct session *s, const char *why);
/* `at` is when to be called again, at the latest. */
static inline void deadline_at(int64_t *deadline_ns, int64_t at)
{
	if (at < *deadline_ns)
		*deadline_ns = at;
}

/* This session is the one that counts with its peer; an older one ends. */
void session_claim_locked(struct node *n, struct session *s, struct node_peer *p, enum peer_state state) REQUIRES(n->lock);

/* ---- greeting.c ---- */

MUST_CHECK int greeting_begin(struct session *s); /* the dialer's HELLO */
MUST_CHECK int greeting_hello(struct session *s, struct slice body);
MUST_CHECK int greeting_welcome(struct session *s, struct slice body);
MUST_CHECK int greeting_referred(struct session *s, struct slice body);

/* ---- leader.c: the stream ---- */

/* What a follower that stands where `h` says gets from this node. */
enum welcome_action leader_decide(struct node *n, const struct replica_point *me, const struct hello *h);
void leader_start(struct session *s, uint64_t seq); /* behind batch `seq` */
MUST_CHECK int leader_message(struct session *s, enum message_type type, struct slice body);
MUST_CHECK int leader_pump(struct session *s, int64_t *deadline_ns);
void leader_stop(struct session *s);

/* ---- serving.c: answers to a resync ---- */

MUST_CHECK int serving_start(struct session *s);
MUST_CHECK int serving_message(struct session *s, enum message_type type, struct slice body);
MUST_CHECK int serving_pump(struct session *s, int64_t *deadline_ns);
void serving_stop(struct session *s);

/* ---- follower.c: the stream ---- */

/* 0, or -ESTALE: this session may not act as follower any more. */
MUST_CHECK int follower_check(struct node *n, const struct session *s) REQUIRES(n->follow);
void follower_start(struct session *s, uint64_t seq); /* behind batch `seq` */
MUST_CHECK int follower_message(struct session *s, enum message_type type, struct slice body);
MUST_CHECK int follower_pump(struct session *s, int64_t *deadline_ns);
void follower_stop(struct session *s);
MUST_CHECK int follower_ack(struct session *s, const struct ack *m);
MUST_CHECK int follower_peers(struct session *s, struct slice body);

/* ---- resync.c, with resync_rows.c: the pull ---- */

MUST_CHECK int pull_start(struct session *s, bool save);
bool pull_waits_for_view(const struct session *s);
MUST_CHECK int pull_message(struct session *s, enum message_type type, struct slice body);
MUST_CHECK int pull_pump(struct session *s, int64_t *deadline_ns);
void pull_stop(struct session *s);

/* ---- blocks.c: repairs, on a stream in either direction ---- */

bool blocks_is_features(uint64_t ping);
void blocks_take_features(struct session *s, uint64_t ping);
MUST_CHECK int blocks_message(struct session *s, enum message_type type, struct slice body);
MUST_CHECK int blocks_pump(struct session *s, int64_t *deadline_ns);
void blocks_stop(struct session *s);

/* ---- rows ---- */

/* A key by itself; empty: none. */
struct key {
	uint16_t len;
	uint8_t b[WIRE_KEY_MAX];
};
static inline void key_set(struct key *k, struct slice from)
{
	assert(from.len <= WIRE_KEY_MAX);
	k->len = (uint16_t)from.len;
	if (from.len)
		memcpy(k->b, from.p, from.len);
}
static inline struct slice key_slice(const struct key *k) { return (struct slice){k->len ? k->b : NULL, k->len}; }
static inline int key_compare(struct slice a, struct slice b)
{
	size_t len = min_u64(a.len, b.len);
	int c = len ? memcmp(a.p, b.p, len) : 0;

	return c ? c : (a.len > b.len) - (a.len < b.len);
}

/* Chain over rows: XXH64 of le32 key length and le32 value length, then of key, then of value, each seeded with the one before; 0
 * at the beginning. */
uint64_t row_hash(uint64_t hash, const struct row *r);

/* Progress: how much of the rows of a volume that is. */
static inline double rows_share(uint64_t rows, uint64_t n_inodes)
{
	double share = (double)rows / (double)(n_inodes * ROWS_PER_INODE + 1);

	return share < 0.99 ? share : 0.99;
}
