/*
 * handover.c: planned hand-over: the lead goes to a follower, nothing is lost, and the writers wait meanwhile.
 *
 *     HOLDING   writers are stopped, everything is durable               (in the thread of who asked: it may wait for acks)
 *     WAITING   the peer's session sees it ack the newest batch
 *     OFFERING  this node notes durably that the peer may lead (replica_ops.offer)
 *               -> HANDOVER {seq, hash, epoch}
 *     SENT      LEADING, or the new epoch from anybody: this node follows; or the peer proves that it did not take it
 *     NONE      writers go on, or are told that this node follows
 *
 * Until HANDOVER is sent the time limit ends it and this node leads on.  Afterwards the peer may lead without our knowing, and
 * what is written here would be acknowledged and then lost to diverged/.  So neither the time limit nor a cut connection lets
 * writers go on, but only knowing:
 *   - the new epoch, heard from anyone, says that the peer took it (node_note_epoch());
 *   - a PONG to our question on a later connection on which the peer follows says that it did not, and never will: a node has one
 *     session as follower at a time, and the next one begins after the one that brought HANDOVER was given up.  Its HELLO alone
 *     would not do: it may have been sent before, and been long on its way;
 *   - an admin's `clawfs promote` here, under an epoch above the one offered, so that it wins wherever the peer is.
 * No other node's word counts: the peer takes the lead by itself, and may have done so without telling anybody.
 *
 * A restart changes nothing of that: the volume knows of the offer, so the node comes up in SENT and takes no change.  Only what
 * waited is refused by then, and so it is when a node in doubt stops: nobody may keep a daemon from stopping.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "replicate/node_internal.h"

#define POLL_NS (NSEC_PER_SEC / 20)

static struct node_peer *find_peer_locked(struct node *n, const char *name) REQUIRES(n->lock)
{
	for (uint32_t i = 0; i < n->n_peers; i++)
		if (strcmp(n->peer[i].peer.name, name) == 0)
			return &n->peer[i];
	return NULL;
}

static int reserve_locked(struct node *n, const char *name, int64_t timeout_ns) REQUIRES(n->lock)
{
	const struct node_peer *p = find_peer_locked(n, name);

	if (!p)
		return -ENOENT;
	if (n->role != ROLE_LEADER)
		return -EINVAL;
	if (n->handover.phase != HANDOVER_NONE)
		return -EBUSY;
	if (p->state != PEER_STREAMING)
		return -ENOTCONN;
	n->handover = (struct handover_state){
	    .phase = HANDOVER_HOLDING,
	    .held = true,
	    .peer_id = p->peer.node_id,
	    .epoch = epoch_make(epoch_counter(n->promised) + 1, p->peer.node_id),
	    .deadline_ns = node_now(n) + timeout_ns,
	};
	return 0;
}

/* Those that wait go on, or are refused.  After a restart in doubt there are none, and the volume has yet to be asked to lead. */
static void let_writers_go(struct node *n)
{
	mutex_lock(&n->lock);
	bool held = n->handover.held;
	n->handover.held = false;
	mutex_unlock(&n->lock);
	int r = held ? n->volume->ops->hold_writers(n->volume, false) : 0;
	if (r)
		log_error("replication: writers cannot go on: %s", strerror(-r));
}

/* The peer does not lead, and will not. */
static void withdraw(struct node *n)
{
	int r = n->volume->ops->offer(n->volume, 0);

	if (r)
		log_error("replication: noting that the lead was not taken: %s", strerror(-r));
}

/* The phase is HANDOVER_RELEASING by this thread's doing, so that nobody holds writers again before they were let go. */
static void release(struct node *n, int result)
{
	let_writers_go(n);
	mutex_lock(&n->lock);
	n->handover.phase = HANDOVER_NONE;
	n->handover.result = result;
	cond_broadcast(&n->handed_over);
	mutex_unlock(&n->lock);
}

/* Writers are held, or could not be (error); -EAGAIN: now wait for the peer. */
static int held_locked(struct handover_state *h, int error)
{
	if (!error && !h->cancelled) {
		h->phase = HANDOVER_WAITING;
		return -EAGAIN;
	}
	h->phase = HANDOVER_RELEASING;
	return error ? error : h->result;
}

int node_handover_begin(struct node *n, const char *peer, int64_t timeout_ns)
{
	mutex_lock(&n->lock);
	int r = reserve_locked(n, peer, timeout_ns);
	mutex_unlock(&n->lock);
	if (r)
		return r;
	r = n->volume->ops->hold_writers(n->volume, true);
	mutex_lock(&n->lock);
	r = held_locked(&n->handover, r);
	n->tell_wake = true;
	mutex_unlock(&n->lock);
	if (r != -EAGAIN)
		release(n, r);
	node_tell(n);
	return r == -EAGAIN ? 0 : r;
}

static bool is_offered(struct node *n, const struct session *s) REQUIRES(n->lock)
{
	return n->handover.phase == HANDOVER_SENT && n->handover.peer_id == s->peer_id && n->handover.sent_on == s->serial;
}

static bool is_waiting_for(struct node *n, const struct session *s) REQUIRES(n->lock)
{
	return n->handover.phase == HANDOVER_WAITING && n->handover.peer_id == s->peer_id;
}

/* The promise comes before the offer; nothing came of it when it cannot be kept, or when the hand-over ended meanwhile. */
static bool promise_offer(struct session *s)
{
	struct node *n = s->node;
	struct handover_state *h = &n->handover;
	int r = n->volume->ops->offer(n->volume, h->epoch); /* of this thread's while OFFERING */

	mutex_lock(&n->lock);
	bool sent = r == 0 && !h->cancelled;
	h->phase = sent ? HANDOVER_SENT : HANDOVER_RELEASING;
	h->sent_on = s->serial;
	int result = h->cancelled ? h->result : r;
	mutex_unlock(&n->lock);
	if (sent)
		return true;
	withdraw(n);
	release(n, result);
	return false;
}

bool handover_offer(struct session *s, uint64_t acked_seq, struct handover *ret)
{
	struct node *n = s->node;
	struct handover_state *h = &n->handover;
	struct replica_point at;

	mutex_lock(&n->lock);
	bool due = is_waiting_for(n, s);
	mutex_unlock(&n->lock);
	if (!due)
		return false;
	node_get_point(n, &at);
	if (at.role != ROLE_LEADER || at.applied_seq != at.durable_seq || acked_seq != at.durable_seq)
		return false;
	mutex_lock(&n->lock);
	due = is_waiting_for(n, s) && node_now(n) < h->deadline_ns;
	if (due)
		h->phase = HANDOVER_OFFERING;
	*ret = (struct handover){.seq = at.durable_seq, .hash = at.hash, .epoch = h->epoch};
	mutex_unlock(&n->lock);
	return due && promise_offer(s);
}

bool handover_question(struct session *s, uint64_t *ret_value)
{
	struct node *n = s->node;

	if (s->questioned)
		return false;
	mutex_lock(&n->lock);
	s->questioned =
	    n->handover.phase == HANDOVER_SENT && n->handover.peer_id == s->peer_id && n->handover.sent_on != s->serial;
	*ret_value = n->handover.epoch;
	mutex_unlock(&n->lock);
	return s->questioned;
}

void handover_answer(struct session *s, uint64_t value)
{
	struct node *n = s->node;

	mutex_lock(&n->lock);
	bool follows = s->questioned && n->handover.phase == HANDOVER_SENT && n->handover.peer_id == s->peer_id &&
		       n->handover.epoch == value;
	mutex_unlock(&n->lock);
	if (!follows)
		return;
	log_warn("replication: the hand-over was not taken: this node leads on");
	withdraw(n);
	handover_settle(n, -ECANCELED);
}

bool handover_taken(struct session *s, uint64_t *ret_epoch)
{
	struct node *n = s->node;

	mutex_lock(&n->lock);
	bool taken = is_offered(n, s);
	*ret_epoch = n->handover.epoch;
	mutex_unlock(&n->lock);
	return taken;
}

void handover_deposed(struct node *n, uint64_t promised)
{
	mutex_lock(&n->lock);
	int result = n->handover.epoch == promised ? 0 : -ESTALE;
	mutex_unlock(&n->lock);
	handover_settle(n, result);
}

void handover_resume_locked(struct node *n, const struct replica_point *at)
{
	const struct node_peer *p = node_peer_locked(n, epoch_node(at->offered));

	if (at->role != ROLE_LEADER || !at->offered)
		return;
	n->handover = (struct handover_state){.phase = HANDOVER_SENT, .peer_id = epoch_node(at->offered), .epoch = at->offered};
	log_warn(
	    "replication: %s (node %u) was offered the lead, with epoch %llu, and may have taken it: nothing is written here "
	    "until it is heard of; if it is lost, `clawfs promote` here takes the lead back",
	    p ? p->peer.name : "a peer that is not in the list any more", epoch_node(at->offered),
	    (unsigned long long)epoch_counter(at->offered));
}

void handover_settle(struct node *n, int result)
{
	struct handover_state *h = &n->handover;

	mutex_lock(&n->lock);
	bool ours = h->phase == HANDOVER_WAITING || h->phase == HANDOVER_SENT;
	if (ours) {
		h->phase = HANDOVER_RELEASING;
	} else if (h->phase == HANDOVER_HOLDING || h->phase == HANDOVER_OFFERING) { /* whoever is at it lets writers go again */
		h->cancelled = true;
		h->result = result;
	}
	mutex_unlock(&n->lock);
	if (ours)
		release(n, result);
}

void node_cancel_handover(struct node *n)
{
	mutex_lock(&n->lock);
	bool in_doubt = n->handover.phase == HANDOVER_SENT;
	n->handover.cancelled = n->handover.cancelled || in_doubt;
	mutex_unlock(&n->lock);
	if (in_doubt)
		let_writers_go(n);
	else
		handover_settle(n, -ECANCELED);
}

/* True when the time is over and the lead was not offered: it will not be any more. */
static bool expire_locked(struct node *n, int *ret) REQUIRES(n->lock)
{
	struct handover_state *h = &n->handover;
	bool late = node_now(n) >= h->deadline_ns;

	*ret = h->phase == HANDOVER_NONE ? h->result : -EAGAIN;
	if ((late || h->cancelled) && h->phase == HANDOVER_SENT)
		*ret = -EINPROGRESS;
	if (!late || h->phase != HANDOVER_WAITING)
		return false;
	h->phase = HANDOVER_RELEASING;
	*ret = -ETIMEDOUT;
	return true;
}

int node_handover_poll(struct node *n)
{
	int r;

	mutex_lock(&n->lock);
	bool expired = expire_locked(n, &r);
	mutex_unlock(&n->lock);
	if (expired)
		release(n, r);
	return r;
}

int node_handover(struct node *n, const char *peer, int64_t timeout_ns)
{
	int r = node_handover_begin(n, peer, timeout_ns);

	if (r)
		return r;
	while ((r = node_handover_poll(n)) == -EAGAIN) {
		mutex_lock(&n->lock);
		if (n->handover.phase != HANDOVER_NONE)
			(void)cond_wait_ns(&n->handed_over, &n->lock, POLL_NS);
		mutex_unlock(&n->lock);
	}
	if (r == -EINPROGRESS)
		log_warn("replication: hand-over to %s: it may lead by now; writers here wait until it is heard of, or until "
			 "this node is "
			 "promoted",
			 peer);
	return r;
}
