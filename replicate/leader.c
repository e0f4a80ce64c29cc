/*
 * leader.c: the leader's side of a stream: what a follower gets, batch by batch, and what it acks.
 *
 * A batch goes out as BATCH, then its out-of-line data as one DATA after the other, each read when there is room for it: a batch
 * may have gigabytes of that, of which never more than one piece is in memory.  STATE, the sum over what a batch left behind,
 * follows when every operation of it is applied here; a window of batches waits for that, and what falls out of it is not
 * compared.
 *
 * A follower whose next batch is not in the journal any more, or is damaged there, is told so (REFUSE) and comes back: its next
 * HELLO gets RESYNC.  For a damaged batch that needs a note (unreadable_seq), because the hashes around it are in order.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/trace.h"
#include "replicate/node_internal.h"

/* ---- the decision ---- */

static bool has_my_hash(struct node *n, const struct replica_point *me, const struct hello *h)
{
	uint64_t hash;

	if (h->seq > me->durable_seq)
		return false;
	if (h->seq == me->durable_seq)
		return h->hash == me->hash;
	return n->volume->ops->hash_after(n->volume, h->seq, &hash) == 0 && h->hash == hash;
}

/* Whether the journal, which goes back that far, has another batch there. */
static bool has_other_hash(struct node *n, const struct replica_point *me, const struct hello *h)
{
	uint64_t hash;

	if (h->seq == me->durable_seq)
		return h->hash != me->hash;
	return h->seq < me->durable_seq && n->volume->ops->hash_after(n->volume, h->seq, &hash) == 0 && h->hash != hash;
}

static bool is_readable_from(struct node *n, uint64_t seq)
{
	mutex_lock(&n->lock);
	bool readable = seq > n->unreadable_seq;
	mutex_unlock(&n->lock);
	return readable;
}

/* Whether what a fence was raised for lies in our history: another leader's batches up to there may never have come here. */
static bool has_my_fence(struct node *n, const struct hello *h)
{
	return h->fence <= h->seq || n->volume->ops->is_prefix(n->volume, h->history, h->fence);
}

enum welcome_action leader_decide(struct node *n, const struct replica_point *me, const struct hello *h)
{
	if (h->flags & HELLO_RESYNC_WANTED)
		return WELCOME_RESYNC_SAVE;
	if (h->flags & HELLO_RESYNCING) /* has nothing any more, and knows itself whether it saves */
		return WELCOME_RESYNC;
	if (has_my_hash(n, me, h))
		return !(h->flags & HELLO_DIFFERS) && is_readable_from(n, h->seq + 1) && has_my_fence(n, h) ? WELCOME_STREAM
													    : WELCOME_RESYNC;
	bool behind = h->seq <= me->durable_seq && n->volume->ops->is_prefix(n->volume, h->history, h->seq);
	if (behind && !has_other_hash(n, me, h))
		return WELCOME_RESYNC;
	return h->history < me->history ? WELCOME_RESYNC_SAVE : WELCOME_CONFLICT;
}

/* ---- out ---- */

void leader_start(struct session *s, uint64_t seq)
{
	leader_stop(s);
	s->leading = (struct leading){.next = seq + 1, .state_next = seq + 1, .acked = seq, .peers_version = UINT64_MAX};
}

void leader_stop(struct session *s)
{
	s->node->volume->ops->cursor_free(TAKE_PTR(s->leading.cursor));
}

/* The newest batch that is out with all its data. */
static uint64_t sent_seq(const struct leading *l)
{
	return l->next_data == l->n_data ? l->next - 1 : l->next - 2;
}

static int send_peers(struct session *s)
{
	struct node *n = s->node;
	struct peers peers;

	mutex_lock(&n->lock);
	bool changed = n->peers.version != s->leading.peers_version;
	if (changed)
		peers = n->peers;
	mutex_unlock(&n->lock);
	if (!changed)
		return 0;
	s->leading.peers_version = peers.version;
	peers.epoch = s->epoch;
	return session_send_peers(s, &peers);
}

static int send_handover(struct session *s)
{
	struct handover m;

	if (sent_seq(&s->leading) != s->leading.acked || !handover_offer(s, s->leading.acked, &m))
		return 0;
	size_t at = session_begin(s, MESSAGE_HANDOVER);
	handover_put(&s->out, &m);
	return session_end(s, at);
}

static int send_states(struct session *s, int64_t *deadline_ns)
{
	struct node *n = s->node;
	struct leading *l = &s->leading;
	uint64_t sent = sent_seq(l);

	if (l->state_next + STATES_MAX <= sent)
		l->state_next = sent + 1 - STATES_MAX;
	for (; l->state_next <= sent; l->state_next++) {
		struct state m = {.seq = l->state_next};
		int r = n->volume->ops->state_sum(n->volume, m.seq, &m.sum);
		if (r == -EAGAIN) {
			deadline_at(deadline_ns, node_now(n) + STATE_WAIT_NS);
			return 0;
		}
		if (r) /* too old; the stream does not depend on it */
			continue;
		size_t at = session_begin(s, MESSAGE_STATE);
		state_put(&s->out, &m);
		r = session_end(s, at);
		if (r)
			return r;
	}
	return 0;
}

static int stream_failed(struct session *s, uint64_t seq, int error)
{
	struct node *n = s->node;
	unsigned long long batch = seq;

	if (error == -ENOENT)
		return session_fail(s, -ENOENT, "too far behind: batch %llu is no longer in the journal", batch);
	if (error != -EBADMSG && error != -EUCLEAN)
		return session_volume_failed(s, error, "reading a batch");
	log_error("replication: batch %llu is damaged in the journal (%s): followers that need it must resync", batch,
		  strerror(-error));
	mutex_lock(&n->lock);
	n->unreadable_seq = max_u64(n->unreadable_seq, seq);
	mutex_unlock(&n->lock);
	return session_fail(s, -ENOENT, "batch %llu is damaged in the leader's journal", batch);
}

static void count_sent(struct session *s, size_t bytes, uint64_t batches, uint64_t fence)
{
	struct node *n = s->node;

	mutex_lock(&n->lock);
	struct node_peer *p = node_peer_locked(n, s->peer_id);
	if (p) {
		node_peer_count_locked(p, batches, bytes);
		if (fence)
			node_peer_fence_locked(p, s->leading.next - 1, fence);
	}
	mutex_unlock(&n->lock);
}

static int send_batch(struct session *s)
{
	struct replica_volume *v = s->node->volume;
	struct leading *l = &s->leading;
	struct shipped_batch b;
	uint32_t n_data;
	int r = v->ops->read_batch(v, &l->cursor, l->next, &b, &n_data);

	if (r)
		return r == -EAGAIN ? r : stream_failed(s, l->next, r);
	size_t at = session_begin(s, MESSAGE_BATCH), before = session_pending(s);
	batch_put(&s->out, &b);
	r = session_end(s, at);
	if (r)
		return r;
	count_sent(s, session_pending(s) - before, 1, 0);
	TRACE_BATCH(ship, l->next, s->peer_id);
	l->next++;
	l->next_data = 0;
	l->n_data = n_data;
	return 0;
}

static int send_data(struct session *s)
{
	struct replica_volume *v = s->node->volume;
	struct leading *l = &s->leading;
	struct shipped_data d;
	int r = v->ops->read_data(v, l->cursor, l->next_data, &d);

	if (r)
		return stream_failed(s, l->next - 1, r);
	size_t at = session_begin(s, MESSAGE_DATA), before = session_pending(s);
	data_put(&s->out, &d);
	r = session_end(s, at);
	if (r)
		return r;
	count_sent(s, session_pending(s) - before, 0, d.fence);
	l->next_data++;
	return 0;
}

static int send_next(struct session *s, int64_t *deadline_ns)
{
	struct leading *l = &s->leading;
	int r = l->next_data < l->n_data ? send_data(s) : send_batch(s);

	return r || l->next_data < l->n_data ? r : send_states(s, deadline_ns);
}

int leader_pump(struct session *s, int64_t *deadline_ns)
{
	int r = send_peers(s);

	if (!r)
		r = send_handover(s);
	if (!r)
		r = send_states(s, deadline_ns);
	while (!r && session_pending(s) < SESSION_OUT_MAX)
		r = send_next(s, deadline_ns);
	return r == -EAGAIN ? 0 : r;
}

/* ---- in ---- */

static int take_ack(struct session *s, struct slice body)
{
	struct node *n = s->node;
	struct leading *l = &s->leading;
	struct ack m;
	int r = ack_get(body, &m);

	if (r)
		return r;
	if (m.applied_seq > sent_seq(l) || m.durable_seq < l->acked)
		return session_fail(s, -EPROTO, "ACK of %llu, which it cannot have", (unsigned long long)m.durable_seq);
	l->acked = m.durable_seq;
	TRACE_BATCH(ack, m.durable_seq, s->peer_id);
	mutex_lock(&n->lock);
	struct node_peer *p = node_peer_locked(n, s->peer_id);
	if (p && p->stream == s) {
		node_peer_acked_locked(p, m.durable_seq, m.applied_seq);
		p->last_ack_ns = clock_real_ns(n->clock);
		n->tell_acked = true;
	}
	mutex_unlock(&n->lock);
	node_tell(n);
	return 0;
}

static int take_leading(struct session *s, struct slice body)
{
	uint64_t epoch;

	if (body.len || !handover_taken(s, &epoch))
		return session_fail(s, -EPROTO, "LEADING, which was not asked for");
	int r = node_note_epoch(s->node, epoch);
	return r ? session_volume_failed(s, r, "noting the epoch") : session_over(s, "it leads");
}

int leader_message(struct session *s, enum message_type type, struct slice body)
{
	return type == MESSAGE_ACK ? take_ack(s, body) : take_leading(s, body);
}
