/*
 * follower.c: the follower's side of a stream: batches in, applied, committed and acked.
 *
 * A batch is whole when its last DATA is there; only then finish_batch() appends and applies it, so one that is cut off leaves
 * nothing behind.  Appending a batch commits the one before it; the last of those that arrived together is committed with the
 * pump, and one ack follows for all of them.  Those that the volume keeps back behind a fence are not acked before it applies
 * them.
 *
 * The leader's sums (STATE) are compared as soon as ours are known.  One that differs means that the two states do, although
 * every byte of the way was checked: the volume serves nothing any more, and the next HELLO asks for a resync.
 *
 * Any failure ends the session and leaves the volume between two batches; it is tried again after a pause.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "replicate/node_internal.h"

int follower_check(struct node *n, const struct session *s)
{
	struct replica_point at;

	node_get_point(n, &at);
	mutex_lock(&n->lock);
	bool ours = n->following == s;
	mutex_unlock(&n->lock);
	return ours && at.role == ROLE_FOLLOWER && at.promised == s->epoch ? 0 : -ESTALE;
}

void follower_start(struct session *s, uint64_t seq)
{
	s->following = (struct following){.taken = seq, .finished = seq, .committed = seq, .applied = seq};
}

void follower_stop(struct session *s)
{
	struct node *n = s->node;

	if (s->following.taken == s->following.finished)
		return;
	mutex_lock(&n->follow);
	if (n->batch_open)
		n->volume->ops->drop_batch(n->volume);
	n->batch_open = false;
	mutex_unlock(&n->follow);
}

/* ---- batches ---- */

/* Whose fault it was: what cannot be verified or does not fit is the leader's, all else this volume's. */
static int batch_failed(struct session *s, int error)
{
	switch (error) {
	case -EBADMSG:
	case -EUCLEAN:
	case -EINVAL:
	case -ESTALE:
		return session_fail(s, error, "batch %llu: %s", (unsigned long long)s->following.taken, strerror(-error));
	default:
		return session_volume_failed(s, error, "taking a batch");
	}
}

/* After an error nothing of the batch is left. */
static int settle_batch(struct node *n, int error) REQUIRES(n->follow)
{
	if (error)
		n->volume->ops->drop_batch(n->volume);
	n->batch_open = !error;
	return error;
}

static int finish_if_whole(struct node *n, struct session *s) REQUIRES(n->follow)
{
	struct following *f = &s->following;

	if (f->next_data < f->n_data)
		return 0;
	int r = settle_batch(n, n->volume->ops->finish_batch(n->volume));
	n->batch_open = false;
	if (!r)
		f->finished = f->taken;
	return r;
}

static void count_taken(struct session *s, size_t bytes, uint64_t batches)
{
	struct node *n = s->node;

	mutex_lock(&n->lock);
	struct node_peer *p = node_peer_locked(n, s->peer_id);
	if (p) {
		p->durable_seq = max_u64(p->durable_seq, s->following.taken);
		p->applied_seq = p->durable_seq;
		node_peer_count_locked(p, batches, bytes);
	}
	mutex_unlock(&n->lock);
}

static int take_batch(struct session *s, struct slice body)
{
	struct node *n = s->node;
	struct following *f = &s->following;
	struct shipped_batch m;
	int r = batch_get(body, &m);

	if (r)
		return r;
	if (m.epoch != s->epoch) /* the leader went on to another one, which begins with a new greeting */
		return -ESTALE;
	if (f->taken != f->finished || m.seq != f->taken + 1)
		return session_fail(s, -EPROTO, "batch %llu after %llu", (unsigned long long)m.seq, (unsigned long long)f->taken);
	mutex_lock(&n->follow);
	r = follower_check(n, s);
	if (!r) {
		f->taken = m.seq;
		f->next_data = 0;
		r = settle_batch(n, n->volume->ops->take_batch(n->volume, &m, &f->n_data));
		if (!r)
			r = finish_if_whole(n, s);
	}
	mutex_unlock(&n->follow);
	count_taken(s, body.len, 1);
	return r ? batch_failed(s, r) : 0;
}

static int take_data(struct session *s, struct slice body)
{
	struct node *n = s->node;
	struct following *f = &s->following;
	struct shipped_data m;
	int r = data_get(body, &m);

	if (r)
		return r;
	if (f->taken == f->finished || m.index != f->next_data)
		return session_fail(s, -EPROTO, "data %u of batch %llu is out of place", m.index, (unsigned long long)f->taken);
	mutex_lock(&n->follow);
	r = follower_check(n, s);
	if (!r && !n->batch_open)
		r = -ESTALE; /* an attempt to lead has dropped it */
	if (!r) {
		r = settle_batch(n, n->volume->ops->take_data(n->volume, &m));
		f->next_data++;
		if (!r)
			r = finish_if_whole(n, s);
	}
	mutex_unlock(&n->follow);
	count_taken(s, body.len, 0);
	return r ? batch_failed(s, r) : 0;
}

/* ---- sums ---- */

static int state_differs(struct session *s, uint64_t seq)
{
	struct node *n = s->node;

	mutex_lock(&n->follow);
	int r = follower_check(n, s);
	if (!r) {
		log_error("replication: the state after batch %llu differs from the leader's: nothing is served until a resync",
			  (unsigned long long)seq);
		r = n->volume->ops->set_differs(n->volume, seq);
	}
	mutex_unlock(&n->follow);
	if (r && r != -ESTALE)
		return session_volume_failed(s, r, "noting that the state differs");
	return r ? r : session_fail(s, -EUCLEAN, "the state after batch %llu differs", (unsigned long long)seq);
}

/* -EAGAIN: not known yet. */
static int compare_state(struct session *s, const struct state *m)
{
	struct replica_volume *v = s->node->volume;
	uint64_t sum;
	int r = m->seq > s->following.finished ? -EAGAIN : v->ops->state_sum(v, m->seq, &sum);

	if (r)
		return r == -EAGAIN ? r : 0; /* too old to be known: not compared */
	return sum == m->sum ? 0 : state_differs(s, m->seq);
}

static int compare_states(struct session *s, int64_t *deadline_ns)
{
	struct following *f = &s->following;
	uint32_t left = 0;

	for (uint32_t i = 0; i < f->n_states; i++) {
		int r = compare_state(s, &f->states[i]);
		if (r == -EAGAIN)
			f->states[left++] = f->states[i];
		else if (r)
			return r;
	}
	f->n_states = left;
	if (left)
		deadline_at(deadline_ns, node_now(s->node) + STATE_WAIT_NS);
	return 0;
}

static int take_state(struct session *s, struct slice body)
{
	struct following *f = &s->following;
	struct state m;
	int r = state_get(body, &m);

	if (r)
		return r;
	if (m.seq > f->taken)
		return session_fail(s, -EPROTO, "the sum of batch %llu, which did not come", (unsigned long long)m.seq);
	r = compare_state(s, &m);
	if (r != -EAGAIN)
		return r;
	if (f->n_states == STATES_MAX)
		memmove(f->states, f->states + 1, --f->n_states * sizeof(f->states[0]));
	f->states[f->n_states++] = m;
	return 0;
}

/* ---- the lead ---- */

static int take_lead(struct node *n, struct session *s, const struct handover *m) REQUIRES(n->follow)
{
	const struct following *f = &s->following;
	struct replica_point at;
	int r = follower_check(n, s);

	if (r)
		return r;
	node_get_point(n, &at);
	if (f->taken != m->seq || f->finished != m->seq || at.durable_seq != m->seq || at.hash != m->hash)
		return session_fail(s, -EPROTO, "hand-over at batch %llu, where this node does not stand",
				    (unsigned long long)m->seq);
	if (epoch_node(m->epoch) != n->id || m->epoch <= at.promised)
		return session_fail(s, -EPROTO, "hand-over of an epoch that is not this node's");
	r = node_lead(n, m->epoch);
	return r ? session_volume_failed(s, r, "taking the lead") : 0;
}

static int take_handover(struct session *s, struct slice body)
{
	struct node *n = s->node;
	struct handover m;
	int r = handover_get(body, &m);

	if (r)
		return r;
	mutex_lock(&n->follow);
	r = take_lead(n, s, &m);
	mutex_unlock(&n->follow);
	node_refresh(n);
	if (r)
		return r;
	log_warn("replication: this node leads epoch %llu, handed over", (unsigned long long)epoch_counter(m.epoch));
	r = session_end(s, session_begin(s, MESSAGE_LEADING));
	return r ? r : session_over(s, "handed over");
}

/* ---- in and out ---- */

int follower_peers(struct session *s, struct slice body)
{
	struct slice json;
	int r = text_get(body, &json);

	return r ? r : node_take_peers(s->node, json, s->epoch, true);
}

int follower_message(struct session *s, enum message_type type, struct slice body)
{
	switch (type) {
	case MESSAGE_BATCH:
		return take_batch(s, body);
	case MESSAGE_DATA:
		return take_data(s, body);
	case MESSAGE_STATE:
		return take_state(s, body);
	case MESSAGE_PEERS:
		return follower_peers(s, body);
	default:
		return take_handover(s, body);
	}
}

int follower_ack(struct session *s, const struct ack *m)
{
	struct node *n = s->node;
	size_t at = session_begin(s, MESSAGE_ACK);

	ack_put(&s->out, m);
	mutex_lock(&n->lock);
	struct node_peer *p = node_peer_locked(n, s->peer_id);
	if (p) {
		p->last_ack_ns = clock_real_ns(n->clock);
		node_peer_proven_locked(p);
	}
	mutex_unlock(&n->lock);
	return session_end(s, at);
}

static int commit(struct session *s, struct ack *ret)
{
	struct node *n = s->node;
	struct following *f = &s->following;

	mutex_lock(&n->follow);
	int r = follower_check(n, s);
	if (!r) {
		r = n->volume->ops->commit(n->volume, &ret->durable_seq);
		if (r)
			r = session_volume_failed(s, r, "commit");
	}
	mutex_unlock(&n->follow);
	if (r)
		return r;
	/* Batches that wait for the newer data of one of them are durable, and do not count. */
	struct replica_point at;
	node_get_point(n, &at);
	assert(ret->durable_seq <= f->finished);
	f->committed = f->finished;
	f->applied = ret->applied_seq = min_u64(at.applied_seq, f->finished);
	return 0;
}

/* While we have all that we were told, what we show is as fresh as the last word from the leader. */
static void note_fresh(struct session *s)
{
	struct node *n = s->node;

	mutex_lock(&n->lock);
	struct node_peer *p = node_peer_locked(n, s->peer_id);
	if (p && s->following.applied >= p->durable_seq)
		p->fresh_ns = s->last_in_ns;
	mutex_unlock(&n->lock);
}

int follower_pump(struct session *s, int64_t *deadline_ns)
{
	struct following *f = &s->following;
	struct ack ack;
	int r = 0;

	if (f->finished > f->committed) {
		r = commit(s, &ack);
		if (!r)
			r = follower_ack(s, &ack);
	}
	if (!r)
		r = compare_states(s, deadline_ns);
	if (!r)
		note_fresh(s);
	return r;
}
