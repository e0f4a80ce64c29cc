/*
 * node.c: what a node knows of itself and of its peers, and the acts of an admin.
 *
 * Role and promise are the volume's (struct replica_point); the copy here is what sessions compare themselves with, renewed by
 * node_refresh() after everything that may change them.  A session of an earlier promise notices at its next turn and ends.
 *
 * Who leads is told by the epoch itself: its lower bits name the node.  A peer's word (NOT_LEADER) helps where they do not.
 *
 * Hooks are not called where their reason arises, but marked as due and called by node_tell(): one thread at a time does that,
 * for all others too, with what is true then.  So no hook runs under a lock, and none is overtaken by an older one, after which a
 * waiting fsync would never learn of its ack.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "replicate/node_internal.h"

#define LATELY_BATCHES 256u /* that the average size of a batch is told from */

struct node_peer *node_peer_locked(struct node *n, uint32_t id)
{
	for (uint32_t i = 0; i < n->n_peers; i++)
		if (n->peer[i].peer.node_id == id)
			return &n->peer[i];
	return NULL;
}

/* ---- hooks ---- */

static bool is_live(const struct node *n, const struct node_peer *p)
{
	return n->role == ROLE_LEADER && p->stream && p->state == PEER_STREAMING;
}

/* Their acks, highest first; returns how many peers stream. */
static uint32_t collect_acks(struct node *n, uint64_t *ret) REQUIRES(n->lock)
{
	uint32_t n_live = 0;

	for (uint32_t i = 0; i < n->n_peers; i++) {
		uint32_t at = i;
		uint64_t seq = n->role == ROLE_LEADER ? n->peer[i].safe_seq : 0;

		for (; at > 0 && ret[at - 1] < seq; at--)
			ret[at] = ret[at - 1];
		ret[at] = seq;
		n_live += is_live(n, &n->peer[i]);
	}
	return n_live;
}

static void tell_acked(struct node *n) REQUIRES(n->lock)
{
	uint64_t durable[PEERS_MAX];
	uint32_t n_known = n->n_peers, n_live = collect_acks(n, durable);

	mutex_unlock(&n->lock);
	if (n->hooks.acked)
		n->hooks.acked(n->hooks.ctx, durable, n_known, n_live);
	mutex_lock(&n->lock);
}

static void tell_role(struct node *n) REQUIRES(n->lock)
{
	enum replica_role role = n->role;

	mutex_unlock(&n->lock);
	if (n->hooks.role_changed)
		n->hooks.role_changed(n->hooks.ctx, role);
	mutex_lock(&n->lock);
}

static void tell_peers(struct node *n) REQUIRES(n->lock)
{
	struct peers peers = n->peers;

	mutex_unlock(&n->lock);
	if (n->hooks.peers_changed)
		n->hooks.peers_changed(n->hooks.ctx, &peers);
	mutex_lock(&n->lock);
}

static void tell_wake(struct node *n) REQUIRES(n->lock)
{
	mutex_unlock(&n->lock);
	if (n->hooks.wake)
		n->hooks.wake(n->hooks.ctx);
	mutex_lock(&n->lock);
}

/* One hook that is due, if any. */
static bool tell_next(struct node *n) REQUIRES(n->lock)
{
	const struct {
		bool *due;
		void (*tell)(struct node *n);
	} hooks[] = {
	    {&n->tell_role, tell_role}, {&n->tell_peers, tell_peers}, {&n->tell_acked, tell_acked}, {&n->tell_wake, tell_wake}};

	for (size_t i = 0; i < ARRAY_SIZE(hooks); i++) {
		if (!*hooks[i].due)
			continue;
		*hooks[i].due = false;
		hooks[i].tell(n);
		return true;
	}
	return false;
}

void node_tell(struct node *n)
{
	mutex_lock(&n->lock);
	if (!n->telling) {
		n->telling = true;
		while (tell_next(n))
			;
		n->telling = false;
	}
	mutex_unlock(&n->lock);
}

/* ---- role ---- */

static void dial_all_locked(struct node *n) REQUIRES(n->lock)
{
	for (uint32_t i = 0; i < n->n_peers; i++)
		node_peer_proven_locked(&n->peer[i]);
	n->tell_wake = true;
}

/* What peers acked counts for the reign in which they did. */
static void forget_acks_locked(struct node *n) REQUIRES(n->lock)
{
	for (uint32_t i = 0; i < n->n_peers; i++)
		n->peer[i].durable_seq = n->peer[i].applied_seq = n->peer[i].safe_seq = 0;
	moments_init(&n->moments);
	n->tell_acked = true;
}

void node_refresh(struct node *n)
{
	struct replica_point at;

	mutex_lock(&n->refresh);
	node_get_point(n, &at);
	mutex_lock(&n->lock);
	bool deposed = n->role == ROLE_LEADER && at.role == ROLE_FOLLOWER;
	bool changed = n->role != at.role || n->promised != at.promised;
	if (n->role != at.role)
		n->tell_role = true;
	n->role = at.role;
	n->promised = at.promised;
	n->durable_seq = at.durable_seq;
	if (changed) {
		forget_acks_locked(n);
		dial_all_locked(n);
	}
	mutex_unlock(&n->lock);
	mutex_unlock(&n->refresh);
	if (deposed) {
		if (epoch_node(at.promised) != n->id)
			log_warn("replication: epoch %llu of node %u has begun: this node follows",
				 (unsigned long long)epoch_counter(at.promised), epoch_node(at.promised));
		handover_deposed(n, at.promised);
	}
	node_tell(n);
}

int node_note_epoch(struct node *n, uint64_t epoch)
{
	struct replica_point at;

	node_get_point(n, &at);
	mutex_lock(&n->lock);
	bool known = n->promised >= at.promised;
	mutex_unlock(&n->lock);
	if (epoch <= at.promised && known)
		return 0;
	int r = epoch > at.promised ? n->volume->ops->note_epoch(n->volume, epoch) : 0;
	if (r)
		log_error("replication: epoch %llu of node %u could not be noted: %s", (unsigned long long)epoch_counter(epoch),
			  epoch_node(epoch), strerror(-r));
	node_refresh(n);
	return r;
}

uint32_t node_leader_locked(struct node *n)
{
	if (n->role == ROLE_LEADER)
		return n->id;
	if (n->hint_epoch == n->promised && node_peer_locked(n, n->hint_id))
		return n->hint_id;
	return node_peer_locked(n, epoch_node(n->promised)) ? epoch_node(n->promised) : 0;
}

void node_hint_leader(struct node *n, uint32_t id, uint64_t epoch)
{
	mutex_lock(&n->lock);
	struct node_peer *p = node_peer_locked(n, id);
	if (p && epoch == n->promised && (n->hint_epoch != epoch || n->hint_id != id)) {
		n->hint_id = id;
		n->hint_epoch = epoch;
		node_peer_proven_locked(p);
		n->tell_wake = true;
	}
	mutex_unlock(&n->lock);
	node_tell(n);
}

void node_peer_fence_locked(struct node_peer *p, uint64_t from, uint64_t fence)
{
	p->fenced_from = p->fence ? min_u64(p->fenced_from, from) : from;
	p->fence = max_u64(p->fence, fence);
}

void node_peer_acked_locked(struct node_peer *p, uint64_t durable_seq, uint64_t applied_seq)
{
	if (durable_seq >= p->fence)
		p->fence = 0;
	p->safe_seq = p->fence == 0 || durable_seq < p->fenced_from ? durable_seq : 0;
	p->durable_seq = durable_seq;
	p->applied_seq = applied_seq;
}

void node_peer_count_locked(struct node_peer *p, uint64_t batches, uint64_t bytes)
{
	p->batches += batches;
	p->batch_bytes += bytes;
	if (p->batches < LATELY_BATCHES)
		return;
	p->batches /= 2;
	p->batch_bytes /= 2;
}

/* ---- the list of peers ---- */

static void drop_peer_locked(struct node *n, uint32_t i) REQUIRES(n->lock)
{
	n->n_peers--;
	memmove(&n->peer[i], &n->peer[i + 1], (n->n_peers - i) * sizeof(n->peer[0]));
}

/* Peers that stay keep what is known of them; a node id with another uuid is another node. */
static void set_peers_locked(struct node *n, const struct peers *p) REQUIRES(n->lock)
{
	n->peers = *p;
	for (uint32_t i = n->n_peers; i-- > 0;) {
		const struct peer *now = peers_by_id(p, n->peer[i].peer.node_id);
		if (!now || memcmp(now->node, n->peer[i].peer.node, sizeof(now->node)) != 0)
			drop_peer_locked(n, i);
		else
			n->peer[i].peer = *now;
	}
	for (uint32_t i = 0; i < p->n; i++)
		if (p->peer[i].node_id != n->id && !node_peer_locked(n, p->peer[i].node_id))
			n->peer[n->n_peers++] = (struct node_peer){.peer = p->peer[i]};
	for (struct session *s = n->sessions; s; s = s->next)
		if (!node_peer_locked(n, s->peer_id))
			s->cut = -EACCES;
	n->tell_acked = n->tell_wake = true;
}

int node_set_peers(struct node *n, const struct peers *p)
{
	if (p->n > PEERS_MAX)
		return -E2BIG;
	mutex_lock(&n->lock);
	set_peers_locked(n, p);
	mutex_unlock(&n->lock);
	node_tell(n);
	return 0;
}

int node_take_peers(struct node *n, struct slice json, uint64_t epoch, bool leads)
{
	struct peers p;
	int r = peers_parse(json, &p);

	if (r == 0 && !leads && p.epoch > epoch)
		r = -EPROTO;
	if (r)
		return r;
	if (leads)
		p.epoch = epoch;
	mutex_lock(&n->lock);
	if (peers_newer(&p, &n->peers)) {
		set_peers_locked(n, &p);
		n->tell_peers = true;
	}
	mutex_unlock(&n->lock);
	node_tell(n);
	return 0;
}

/* ---- acts of an admin ---- */

int node_lead(struct node *n, uint64_t epoch)
{
	if (n->batch_open)
		n->volume->ops->drop_batch(n->volume);
	n->batch_open = false;
	return n->volume->ops->promote(n->volume, epoch);
}

/* Asked before anything is given up for it; the volume asks again. */
static int check_promotable(const struct replica_point *at)
{
	if (at->role == ROLE_LEADER)
		return at->offered ? 0 : -EALREADY;
	return at->resyncing || at->differs || at->fence > at->applied_seq ? -EAGAIN : 0;
}

static const char *why_not_promotable(const struct replica_point *at, int error)
{
	if (error == -EALREADY)
		return "it does";
	if (error != -EAGAIN)
		return strerror(-error);
	if (at->resyncing)
		return "it is between two states: its resync must end first";
	if (at->differs)
		return "its state differs from its leader's: it must resync first";
	return "data it has was changed by batches it has not got yet (fence)";
}

int node_promote(struct node *n)
{
	struct replica_point at;

	mutex_lock(&n->follow);
	node_get_point(n, &at);
	uint64_t epoch = epoch_make(max_u64(epoch_counter(at.promised), epoch_counter(at.offered)) + 1, n->id);
	int r = check_promotable(&at);
	if (!r)
		r = node_lead(n, epoch);
	mutex_unlock(&n->follow);
	if (r) {
		log_error("replication: this node cannot lead: %s", why_not_promotable(&at, r));
		return r;
	}
	log_warn("replication: this node leads epoch %llu", (unsigned long long)epoch_counter(epoch));
	handover_settle(n, -ECANCELED);
	node_refresh(n);
	return 0;
}

int node_resync(struct node *n)
{
	mutex_lock(&n->lock);
	int r = n->role == ROLE_LEADER ? -EINVAL : 0;
	if (!r) {
		n->resync_wanted = true;
		if (n->following)
			n->following->cut = -ECANCELED;
		dial_all_locked(n);
	}
	mutex_unlock(&n->lock);
	node_tell(n);
	return r;
}

/* ---- news from the journal ---- */

static uint64_t least_acked(struct node *n) REQUIRES(n->lock)
{
	uint64_t least = UINT64_MAX;

	for (uint32_t i = 0; i < n->n_peers; i++)
		least = min_u64(least, n->peer[i].durable_seq);
	return least;
}

/* May be called under the filesystem's locks, so it calls no other hook than news or wake. */
void node_batch_durable(struct node *n, uint64_t seq)
{
	mutex_lock(&n->lock);
	bool news = seq > n->durable_seq;
	if (news) {
		n->durable_seq = seq;
		if (n->n_peers)
			moments_add(&n->moments, seq, node_now(n), least_acked(n) + 1);
	}
	mutex_unlock(&n->lock);
	void (*tell)(void *ctx) = n->hooks.news ? n->hooks.news : n->hooks.wake;
	if (news && tell)
		tell(n->hooks.ctx);
}

/* ---- life ---- */

int node_new(const struct node_config *c, struct node **ret)
{
	struct replica_point at;
	struct node *n = c->peers.n > PEERS_MAX ? NULL : calloc(1, sizeof(*n));

	if (!n)
		return c->peers.n > PEERS_MAX ? -E2BIG : -ENOMEM;
	n->volume = c->volume;
	n->clock = c->clock;
	n->hooks = c->hooks;
	mutex_init(&n->follow);
	mutex_init(&n->refresh);
	mutex_init(&n->lock);
	cond_init(&n->handed_over);
	node_get_point(n, &at);
	memcpy(n->volume_id, at.volume, sizeof(n->volume_id));
	memcpy(n->node_id, at.node, sizeof(n->node_id));
	n->id = at.node_id;
	mutex_lock(&n->lock);
	n->role = at.role;
	n->promised = at.promised;
	n->durable_seq = at.durable_seq;
	moments_init(&n->moments);
	moments_add(&n->moments, at.durable_seq, node_now(n), 0);
	set_peers_locked(n, &c->peers);
	handover_resume_locked(n, &at);
	n->tell_wake = false;
	mutex_unlock(&n->lock);
	node_tell(n);
	*ret = n;
	return 0;
}

struct node *node_free(struct node *n)
{
	if (!n)
		return NULL;
	assert(!n->sessions);
	node_cancel_handover(n);
	cond_destroy(&n->handed_over);
	mutex_destroy(&n->lock);
	mutex_destroy(&n->refresh);
	mutex_destroy(&n->follow);
	free(n);
	return NULL;
}
