/*
 * greeting.c: HELLO and WELCOME: who is there, whose epoch counts, and what the conversation will be.
 *
 *     follower  -- HELLO {where I stand} -->              leader: notes a higher epoch first; then it may be none any more
 *               <-- WELCOME {STREAM | RESYNC | ...} --    notes a higher epoch first; then follows, or asks somebody else
 *               <-- WELCOME {NOT_LEADER}, PEERS --        asks somebody else, perhaps one that it did not know
 *     leader    -- HELLO ANNOUNCE -->                     anybody: notes the epoch
 *               <-- WELCOME NOTED --                      learns of a higher one in the same way
 *
 * After both have noted each other's promise the two are equal, and the conversation stands and falls with it: s->epoch.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "replicate/node_internal.h"

/* Of the counters that 48 bits hold no honest node reaches half; a liar must not use them all up. */
#define COUNTER_MAX (UINT64_C(1) << 47)
#define CONFLICT    "same epoch, other history: promote the node that counts, or run `clawfs resync` on the other"

static void fill_hello(struct node *n, const struct replica_point *at, uint32_t flags, struct hello *ret)
{
	*ret = (struct hello){
	    .version = WIRE_VERSION,
	    .node_id = at->node_id,
	    .role = at->role,
	    .flags = flags,
	    .promised = at->promised,
	    .history = at->history,
	    .seq = at->durable_seq,
	    .hash = at->hash,
	    .fence = at->fence,
	};
	memcpy(ret->volume, at->volume, sizeof(ret->volume));
	memcpy(ret->node, at->node, sizeof(ret->node));
	mutex_lock(&n->lock);
	const struct peer *self = peers_by_id(&n->peers, n->id);
	if (self) {
		memcpy(ret->name, self->name, sizeof(ret->name));
		memcpy(ret->address, self->address, sizeof(ret->address));
	}
	mutex_unlock(&n->lock);
}

/* What this follower says of itself. */
static uint32_t follower_flags(struct node *n, const struct replica_point *at)
{
	uint32_t flags = (at->resyncing ? HELLO_RESYNCING : 0) | (at->differs || at->lacks ? HELLO_DIFFERS : 0);

	mutex_lock(&n->lock);
	flags |= n->resync_wanted ? HELLO_RESYNC_WANTED : 0;
	mutex_unlock(&n->lock);
	return flags;
}

/* What an earlier connection left applied and not yet durable is part of where this node stands. */
static int settle_follower(struct session *s)
{
	struct node *n = s->node;
	struct replica_point at;
	uint64_t durable_seq;
	int r = 0;

	mutex_lock(&n->follow);
	node_get_point(n, &at);
	if (at.role == ROLE_FOLLOWER && !at.resyncing && at.applied_seq > at.durable_seq)
		r = n->volume->ops->commit(n->volume, &durable_seq);
	mutex_unlock(&n->follow);
	return r ? session_volume_failed(s, r, "commit") : 0;
}

int greeting_begin(struct session *s)
{
	struct node *n = s->node;
	struct replica_point at;
	struct hello h;
	int r = settle_follower(s);

	if (r)
		return r;
	node_get_point(n, &at);
	s->said_flags = at.role == ROLE_LEADER ? HELLO_ANNOUNCE : follower_flags(n, &at);
	s->said_seq = at.durable_seq;
	fill_hello(n, &at, s->said_flags, &h);
	size_t frame = session_begin(s, MESSAGE_HELLO);
	hello_put(&s->out, &h);
	return session_end(s, frame);
}

/* ---- the other one ---- */

static int check_identity(struct session *s, const struct hello *h)
{
	struct node *n = s->node;

	if (memcmp(h->volume, n->volume_id, sizeof(h->volume)) != 0)
		return session_fail(s, -EXDEV, "a peer of another volume");
	mutex_lock(&n->lock);
	const struct node_peer *p = node_peer_locked(n, s->peer_id);
	bool known = p && h->node_id == s->peer_id && memcmp(h->node, p->peer.node, sizeof(h->node)) == 0;
	mutex_unlock(&n->lock);
	if (!known)
		return session_fail(s, -EACCES, "not the node that it is known as");
	if (h->history > h->promised || epoch_counter(h->promised) >= COUNTER_MAX)
		return session_fail(s, -EPROTO, "impossible epochs");
	return 0;
}

/* The peer has more of the epoch that this node leads than it ever gave away: this disk went back to an older image. */
static bool went_back(const struct replica_point *me, const struct hello *h)
{
	return me->role == ROLE_LEADER && h->history == me->promised && h->seq > me->durable_seq && !(h->flags & HELLO_RESYNCING);
}

/*
 * One that has written nothing since it came up follows, and no second history of its epoch begins: what the peer has is a copy
 * like any other, and an admin promotes by the rule.  Otherwise it is a conflict (leader_decide()).
 */
static int step_down(struct session *s, const struct hello *h, struct replica_point *me)
{
	struct node *n = s->node;
	int r = n->volume->ops->step_down(n->volume);

	if (r == -EBUSY || r == -EALREADY)
		return 0;
	if (r == 0)
		log_error(
		    "replication: this disk ends at batch %llu of epoch %llu, which this node led up to batch %llu and beyond, "
		    "as node %u shows: it is an older copy.  This node follows: promote the one that has most",
		    (unsigned long long)me->durable_seq, (unsigned long long)epoch_counter(me->promised),
		    (unsigned long long)h->seq, s->peer_id);
	node_refresh(n);
	node_get_point(n, me);
	return r;
}

/* Notes who is there and what it promised; afterwards *ret_me promised no less. */
static int meet(struct session *s, const struct hello *h, struct replica_point *ret_me)
{
	struct node *n = s->node;
	int r = check_identity(s, h);

	if (r)
		return r;
	r = node_note_epoch(n, h->promised);
	if (r)
		return session_volume_failed(s, r, "noting the epoch");
	node_get_point(n, ret_me);
	if (went_back(ret_me, h))
		r = step_down(s, h, ret_me);
	if (r)
		return session_volume_failed(s, r, "ceasing to lead");
	mutex_lock(&n->lock);
	struct node_peer *p = node_peer_locked(n, s->peer_id);
	if (p)
		p->promised = h->promised;
	if (p && !p->stream) /* else the conversation that counts knows better than one that was perhaps long on its way */
		p->fence = h->fence;
	mutex_unlock(&n->lock);
	return 0;
}

/* ---- the listener ---- */

static enum welcome_action choose(struct node *n, const struct replica_point *me, const struct hello *h)
{
	if (h->flags & HELLO_ANNOUNCE)
		return WELCOME_NOTED;
	return me->role == ROLE_LEADER ? leader_decide(n, me, h) : WELCOME_NOT_LEADER;
}

static int send_welcome(struct session *s, const struct replica_point *me, enum welcome_action action)
{
	struct node *n = s->node;
	struct welcome w = {.action = action};

	fill_hello(n, me, 0, &w.self);
	mutex_lock(&n->lock);
	w.leader_id = node_leader_locked(n);
	/* It knows our promise now, and notes it before it does anything else. */
	struct node_peer *p = node_peer_locked(n, s->peer_id);
	if (p)
		p->promised = max_u64(p->promised, me->promised);
	mutex_unlock(&n->lock);
	size_t at = session_begin(s, MESSAGE_WELCOME);
	welcome_put(&s->out, &w);
	return session_end(s, at);
}

/* From now on this is the pair's conversation; an older one ends.  What the peer has of our history is durable there. */
static int claim(struct session *s, const struct hello *h, enum peer_state state, uint64_t durable_seq)
{
	struct node *n = s->node;

	mutex_lock(&n->lock);
	struct node_peer *p = node_peer_locked(n, s->peer_id);
	if (p) {
		session_claim_locked(n, s, p, state);
		node_peer_proven_locked(p);
		p->fence = state == PEER_STREAMING ? h->fence : 0; /* a resync brings its own */
		p->safe_seq = p->fenced_from = 0;
		node_peer_acked_locked(p, durable_seq, durable_seq);
		if (state == PEER_RESYNCING)
			p->resync_rows = p->resync_bytes = 0;
	}
	mutex_unlock(&n->lock);
	node_tell(n);
	return p ? 0 : session_fail(s, -EACCES, "no peer of this volume any more");
}

/* Somebody who asks the wrong one may not know the right one yet. */
static int refer(struct session *s)
{
	struct node *n = s->node;

	mutex_lock(&n->lock);
	const struct peers peers = n->peers;
	mutex_unlock(&n->lock);
	int r = session_send_peers(s, &peers);
	return r ? r : session_over(s, "this node does not lead");
}

static int begin_lead(struct session *s, const struct hello *h, enum welcome_action action)
{
	int r;

	switch (action) {
	case WELCOME_STREAM:
		s->state = SESSION_LEADING;
		leader_start(s, h->seq);
		return claim(s, h, PEER_STREAMING, h->seq);
	case WELCOME_RESYNC:
	case WELCOME_RESYNC_SAVE:
		s->state = SESSION_SERVING;
		r = serving_start(s);
		return r ? r : claim(s, h, PEER_RESYNCING, 0);
	case WELCOME_CONFLICT:
		s->last_state = PEER_CONFLICT;
		s->refused = true; /* said by WELCOME */
		r = claim(s, h, PEER_CONFLICT, 0);
		return r ? r : session_fail(s, -EBADE, CONFLICT);
	case WELCOME_NOT_LEADER:
		return refer(s);
	case WELCOME_NOTED:
		break;
	}
	return session_over(s, "announcement noted");
}

int greeting_hello(struct session *s, struct slice body)
{
	struct replica_point me;
	struct hello h;
	int r = hello_get(body, &h);

	if (!r && ((h.role == ROLE_LEADER) != !!(h.flags & HELLO_ANNOUNCE)))
		r = -EPROTO;
	if (!r)
		r = meet(s, &h, &me);
	if (r)
		return r;
	if (h.flags & HELLO_ANNOUNCE)
		node_hint_leader(s->node, s->peer_id, h.promised);
	enum welcome_action action = choose(s->node, &me, &h);
	s->epoch = me.promised;
	r = send_welcome(s, &me, action);
	return r ? r : begin_lead(s, &h, action);
}

/* ---- the dialer ---- */

static void show_state(struct session *s, enum peer_state state, const struct hello *leader)
{
	struct node *n = s->node;

	mutex_lock(&n->lock);
	struct node_peer *p = node_peer_locked(n, s->peer_id);
	if (p && p->stream == s) {
		p->state = state;
		p->durable_seq = p->applied_seq = leader->seq;
		p->fresh_ns = p->fresh_ns ? p->fresh_ns : node_now(n);
	}
	mutex_unlock(&n->lock);
}

static int begin_follow(struct session *s, const struct welcome *w, const struct replica_point *me)
{
	bool streams = w->action == WELCOME_STREAM;

	if (w->self.role != ROLE_LEADER || me->role != ROLE_FOLLOWER || w->self.promised != me->promised)
		return session_fail(s, -ESTALE, ANOTHER_EPOCH);
	if (streams && s->said_flags)
		return session_fail(s, -EPROTO, "a stream for a node that needs a resync");
	node_hint_leader(s->node, s->peer_id, me->promised);
	show_state(s, streams ? PEER_STREAMING : PEER_RESYNCING, &w->self);
	if (!streams)
		return pull_start(s, w->action == WELCOME_RESYNC_SAVE);
	s->state = SESSION_FOLLOWING;
	follower_start(s, s->said_seq);
	return 0;
}

static int take_welcome(struct session *s, const struct welcome *w, const struct replica_point *me)
{
	if ((w->action == WELCOME_NOTED) != !!(s->said_flags & HELLO_ANNOUNCE))
		return session_fail(s, -EPROTO, "an answer to something else");
	switch (w->action) {
	case WELCOME_NOTED:
		return session_over(s, "announcement noted");
	case WELCOME_NOT_LEADER:
		s->referred_id = w->leader_id;
		s->referred_epoch = w->self.promised;
		s->state = SESSION_REFERRED;
		return 0;
	case WELCOME_CONFLICT:
		s->last_state = PEER_CONFLICT;
		s->refused = true;
		return session_fail(s, -EBADE, CONFLICT);
	default:
		return begin_follow(s, w, me);
	}
}

int greeting_welcome(struct session *s, struct slice body)
{
	struct replica_point me;
	struct welcome w;
	int r = welcome_get(body, &w);

	if (!r)
		r = meet(s, &w.self, &me);
	if (r)
		return r;
	s->epoch = me.promised;
	return take_welcome(s, &w, &me);
}

/* The list first, so that who leads is known by it. */
int greeting_referred(struct session *s, struct slice body)
{
	struct slice json;
	int r = text_get(body, &json);

	if (!r)
		r = node_take_peers(s->node, json, s->referred_epoch, false);
	if (r)
		return r;
	node_hint_leader(s->node, s->referred_id, s->referred_epoch);
	return session_over(s, "it does not lead");
}
