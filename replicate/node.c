/*
 * node.c: what a node knows of itself and of its peers, whom it dials, and the acts of an admin.
 *
 * Role and promise are the volume's (struct replica_point); the copy here is what sessions compare themselves with, renewed by
 * node_refresh() after everything that may change them.  A session of an earlier promise notices at its next turn and ends.
 *
 * Who leads is told by the epoch itself: its lower bits name the node.  A peer's word (NOT_LEADER) helps where they do not.
 *
 * Hooks are not called where their reason arises, but marked as due and called by node_tell(): one thread at a time does that,
 * for all others too, with what is true then.  So no hook runs under a lock, and none is overtaken by an older one, after which a
 * waiting fsync would never learn of its ack.
 *
 * Dialing: a peer is tried again after 1 s, then ever later up to 10 s, or 30 s when our own volume was in the way (disk full);
 * what went well once begins anew.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "replicate/node_internal.h"

#define LATELY_BATCHES 256u /* that the average size of a batch is told from */
#define DIAL_FIRST_NS  NSEC_PER_SEC
#define DIAL_LAST_NS   (10 * NSEC_PER_SEC)
#define DIAL_FAILED_NS (30 * NSEC_PER_SEC)
#define MOMENT_GAP_NS  (NSEC_PER_SEC / 100)

const char *peer_state_name(enum peer_state s)
{
	static const char *const names[] = {
	    [PEER_DISCONNECTED] = "disconnected", [PEER_CONNECTING] = "connecting", [PEER_STREAMING] = "streaming",
	    [PEER_RESYNCING] = "resyncing",       [PEER_CONFLICT] = "conflict",     [PEER_FENCED] = "fenced",
	    [PEER_REFUSED] = "refused",
	};

	return (unsigned)s < ARRAY_SIZE(names) ? names[s] : "?";
}

struct node_peer *node_peer_locked(struct node *n, uint32_t id)
{
	for (uint32_t i = 0; i < n->n_peers; i++)
		if (n->peer[i].peer.node_id == id)
			return &n->peer[i];
	return NULL;
}

/* ---- moments ---- */

static void moments_thin(struct moments *m)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < m->n; i += 2)
		m->at[n++] = m->at[i];
	m->n = n;
	m->gap_ns *= 2;
}

/* Batch `seq` became durable; nobody asks any more about those before `needed`. */
static void moments_add(struct moments *m, uint64_t seq, int64_t now_ns, uint64_t needed)
{
	uint32_t past = 0;

	while (past + 1 < m->n && m->at[past + 1].seq <= needed)
		past++;
	if (m->n && needed >= seq)
		past = m->n;
	m->n -= past;
	memmove(m->at, m->at + past, m->n * sizeof(m->at[0]));
	if (m->n < MOMENTS_MAX / 4 && m->gap_ns > MOMENT_GAP_NS)
		m->gap_ns /= 2;
	if (m->n && now_ns - m->at[m->n - 1].at_ns < m->gap_ns)
		return;
	if (m->n == MOMENTS_MAX)
		moments_thin(m);
	m->at[m->n].seq = seq;
	m->at[m->n++].at_ns = now_ns;
}

/* About when batch `seq` became durable, rather too early than too late. */
static int64_t moments_of(const struct moments *m, uint64_t seq, int64_t now_ns)
{
	int64_t at_ns = m->n ? m->at[0].at_ns : now_ns;

	for (uint32_t i = 0; i < m->n && m->at[i].seq <= seq; i++)
		at_ns = m->at[i].at_ns;
	return at_ns;
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
	n->moments = (struct moments){.gap_ns = MOMENT_GAP_NS};
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

/* ---- dialing ---- */

void node_peer_proven_locked(struct node_peer *p)
{
	p->tries = 0;
	p->due_ns = p->backoff_ns = 0;
	p->slow_retry = false;
}

static bool is_connected(struct node *n, uint32_t id) REQUIRES(n->lock)
{
	for (const struct session *s = n->sessions; s; s = s->next)
		if (s->peer_id == id)
			return true;
	return false;
}

static bool is_due(struct node *n, const struct node_peer *p, int64_t now_ns) REQUIRES(n->lock)
{
	if (!p->peer.address[0] || is_connected(n, p->peer.node_id))
		return false;
	return now_ns >= p->due_ns && (p->tried_ns == 0 || now_ns - p->tried_ns >= DIAL_FIRST_NS);
}

static void note_tried(struct node_peer *p, int64_t now_ns)
{
	int64_t last = p->slow_retry ? DIAL_FAILED_NS : DIAL_LAST_NS;

	p->tries++;
	p->tried_ns = now_ns;
	p->backoff_ns = p->backoff_ns ? 2 * p->backoff_ns : DIAL_FIRST_NS;
	if (p->backoff_ns > last)
		p->backoff_ns = last;
	p->due_ns = now_ns + p->backoff_ns;
}

/* Whom a follower asks: its leader; once that did not answer, the others as well, who has waited longest first. */
static struct node_peer *choose_leader(struct node *n, int64_t now_ns) REQUIRES(n->lock)
{
	struct node_peer *leader = node_peer_locked(n, node_leader_locked(n)), *other = NULL;

	if (leader && is_due(n, leader, now_ns))
		return leader;
	if (leader && leader->tries < 2 && leader->peer.address[0])
		return NULL;
	for (uint32_t i = 0; i < n->n_peers; i++) {
		struct node_peer *p = &n->peer[i];
		if (is_due(n, p, now_ns) && (!other || p->tried_ns < other->tried_ns))
			other = p;
	}
	return other;
}

uint32_t node_dial(struct node *n, uint32_t *ret_ids, uint32_t max)
{
	int64_t now_ns = node_now(n);
	uint32_t count = 0;

	mutex_lock(&n->lock);
	if (n->role == ROLE_FOLLOWER) {
		struct node_peer *p = n->following || max == 0 ? NULL : choose_leader(n, now_ns);
		if (p) {
			note_tried(p, now_ns);
			ret_ids[count++] = p->peer.node_id;
		}
	}
	for (uint32_t i = 0; n->role == ROLE_LEADER && i < n->n_peers && count < max; i++) {
		if (!is_due(n, &n->peer[i], now_ns))
			continue;
		note_tried(&n->peer[i], now_ns);
		ret_ids[count++] = n->peer[i].peer.node_id;
	}
	mutex_unlock(&n->lock);
	return count;
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

/* ---- status ---- */

static double seconds_since(int64_t then_ns, int64_t now_ns)
{
	return now_ns > then_ns ? (double)(now_ns - then_ns) / (double)NSEC_PER_SEC : 0;
}

/* A follower of ours that has not got everything. */
static void fill_lag(struct node *n, const struct node_peer *p, int64_t now_ns, struct peer_status *ret) REQUIRES(n->lock)
{
	if (p->durable_seq >= n->durable_seq)
		return;
	ret->lag_batches = n->durable_seq - p->durable_seq;
	ret->lag_seconds = seconds_since(moments_of(&n->moments, p->durable_seq + 1, now_ns), now_ns);
}

/* Our leader: what it has told is known, and how long ago we had all of that. */
static void fill_own_lag(const struct node_peer *p, const struct replica_point *at, int64_t now_ns, struct peer_status *ret)
{
	if (p->durable_seq > at->applied_seq)
		ret->lag_batches = p->durable_seq - at->applied_seq;
	if (p->fresh_ns && (ret->lag_batches || p->state != PEER_STREAMING))
		ret->lag_seconds = seconds_since(p->fresh_ns, now_ns);
}

static void fill_status(struct node *n, const struct node_peer *p, const struct replica_point *at, struct peer_status *ret)
    REQUIRES(n->lock)
{
	int64_t now_ns = node_now(n);

	*ret = (struct peer_status){
	    .node_id = p->peer.node_id,
	    .leads = p->peer.node_id == node_leader_locked(n),
	    .has_address = p->peer.address[0] != 0,
	    .state = p->state,
	    .promised = p->promised,
	    .durable_seq = p->durable_seq,
	    .applied_seq = p->applied_seq,
	    .last_ack_ns = p->last_ack_ns,
	    .fence = p->fence,
	    .sent_bytes = p->sent_bytes,
	    .received_bytes = p->received_bytes,
	    .connects = p->connects,
	    .errors = p->errors,
	    .resync_rows = p->resync_rows,
	    .resync_bytes = p->resync_bytes,
	    .resync_share = p->resync_share,
	};
	memcpy(ret->name, p->peer.name, sizeof(ret->name));
	memcpy(ret->reason, p->reason, sizeof(ret->reason));
	if (p->state == PEER_DISCONNECTED && p->promised && p->promised < n->promised)
		ret->state = PEER_FENCED;
	if (n->role == ROLE_LEADER)
		fill_lag(n, p, now_ns, ret);
	else if (ret->leads)
		fill_own_lag(p, at, now_ns, ret);
	ret->lag_bytes = p->batches ? (uint64_t)((double)ret->lag_batches * ((double)p->batch_bytes / (double)p->batches)) : 0;
}

uint32_t node_status(struct node *n, struct peer_status *ret, uint32_t max)
{
	struct replica_point at;
	uint32_t count = 0;

	node_get_point(n, &at);
	mutex_lock(&n->lock);
	for (; count < n->n_peers && count < max; count++)
		fill_status(n, &n->peer[count], &at, &ret[count]);
	mutex_unlock(&n->lock);
	return count;
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
	n->moments.gap_ns = MOMENT_GAP_NS;
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
