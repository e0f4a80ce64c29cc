/* node_status.c: what a node says of its peers: where each stands, and how far it is behind, in batches, bytes and seconds. */
#include <string.h>

#include "replicate/node_internal.h"

const char *peer_state_name(enum peer_state s)
{
	static const char *const names[] = {
	    [PEER_DISCONNECTED] = "disconnected", [PEER_CONNECTING] = "connecting", [PEER_STREAMING] = "streaming",
	    [PEER_RESYNCING] = "resyncing",       [PEER_CONFLICT] = "conflict",     [PEER_FENCED] = "fenced",
	    [PEER_REFUSED] = "refused",
	};

	return (unsigned)s < ARRAY_SIZE(names) ? names[s] : "?";
}

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
