/*
 * dialing.c: whom a node calls, and when.  A leader calls all its peers, a follower its leader, and the others when that one does
 * not answer.
 *
 * A peer is tried again after 1 s, then ever later up to 10 s, or 30 s when our own volume was in the way (disk full); what went
 * well once begins anew.
 */
#include "replicate/node_internal.h"

#define DIAL_FIRST_NS  NSEC_PER_SEC
#define DIAL_LAST_NS   (10 * NSEC_PER_SEC)
#define DIAL_FAILED_NS (30 * NSEC_PER_SEC)

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
