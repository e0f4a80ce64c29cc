/*
 * resync.c: the follower's side of a resync: whatever this volume holds becomes the leader's view.  What comes is put in
 * resync_rows.c.
 *
 *     VIEW                      the volume is marked as between two states
 *     GET_HASHES -> HASHES      ranges of rows in key order; each is compared with our own rows
 *     GET_ROWS -> ROWS          of a range that differs: merged with ours: rows only here go, others are put
 *     GET_LEAVES -> LEAVES      data of leaves whose rows were put and whose blocks are not here yet
 *     RESYNCED                  nothing is left: the journal goes on behind the view, and the stream follows
 *
 * Requests of all kinds are in flight at once and answered in their order.  Memory is bounded by what may be asked: ranges of two
 * HASHES, rows of ROWS_ASKED ranges, LEAVES_MAX leaves of which DATA_ASKED bytes are on their way; rows are asked for only
 * when every leaf they could name has room.
 *
 * Nothing is believed: keys must rise within their range, the rows of a range must have the hash that was told for it, each block
 * the CRC of its row.  An interruption costs nothing but what was not saved: the next resync finds equal what this one put.
 *
 * Blocks that the leader does not have any more as of its view come as superseded: zeros, and a fence before which the volume is
 * not readable.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "replicate/resync_internal.h"

#define RANGES_TURN 16u /* compared in one pump */
#define DATA_ASKED  (8 * MIB)
#define DATA_EACH   MIB /* of one GET_LEAVES */

uint64_t row_hash(uint64_t hash, const struct row *r)
{
	const le32 len[2] = {le32_make((uint32_t)r->key.len), le32_make((uint32_t)r->value.len)};

	hash = XXH64(len, sizeof(len), hash);
	hash = XXH64(r->key.p, r->key.len, hash);
	return XXH64(r->value.len ? r->value.p : "", r->value.len, hash);
}

/* ---- life ---- */

int pull_start(struct session *s, bool save)
{
	s->pull = calloc(1, sizeof(*s->pull));
	if (!s->pull)
		return -ENOMEM;
	s->pull->save = save;
	s->state = SESSION_PULLING;
	return 0;
}

bool pull_waits_for_view(const struct session *s)
{
	return s->pull && !s->pull->viewing;
}

void pull_stop(struct session *s)
{
	free(TAKE_PTR(s->pull));
}

static void show_progress(struct session *s, double share)
{
	struct node *n = s->node;
	const struct pull *p = s->pull;

	mutex_lock(&n->lock);
	struct node_peer *peer = node_peer_locked(n, s->peer_id);
	if (peer) {
		peer->resync_rows = p->compared;
		peer->resync_bytes = p->moved;
		peer->resync_share = share;
	}
	mutex_unlock(&n->lock);
}

/* ---- requests ---- */

static void note_asked(struct pull *p, enum message_type answer)
{
	assert(p->n_order < ORDER_MAX);
	p->order[(p->first_order + p->n_order++) % ORDER_MAX] = answer;
}

static int ask_hashes(struct session *s)
{
	struct pull *p = s->pull;
	const struct get_hashes m = {.from = key_slice(&p->frontier), .n_ranges = WIRE_RANGES_MAX, .rows_each = ROWS_EACH};

	if (p->hashes_asked || p->hashes_done || p->n_ranges + WIRE_RANGES_MAX > RANGES_MAX)
		return 0;
	p->hashes_asked = true;
	note_asked(p, MESSAGE_HASHES);
	size_t at = session_begin(s, MESSAGE_GET_HASHES);
	get_hashes_put(&s->out, &m);
	return session_end(s, at);
}

static int ask_rows(struct session *s, const struct range *range)
{
	struct pull *p = s->pull;
	const struct get_rows m = {.from = key_slice(&range->from), .to = key_slice(&range->to)};

	p->rows[(p->first_rows + p->n_rows++) % ROWS_ASKED] = (struct asked_rows){.range = *range};
	note_asked(p, MESSAGE_ROWS);
	size_t at = session_begin(s, MESSAGE_GET_ROWS);
	get_rows_put(&s->out, &m);
	return session_end(s, at);
}

/* As many as one request may name, and as much data as may be on its way. */
static void pick_leaves(struct pull *p, struct get_leaves *m)
{
	uint64_t bytes = 0;

	while (p->n_asked < p->n_leaves && m->n < WIRE_LEAVES_MAX && bytes < DATA_EACH) {
		const struct wanted_leaf *w = leaf_at(p, p->n_asked);
		if (p->data_asked + wanted_bytes(w) > DATA_ASKED)
			return;
		m->leaf[m->n++] = w->d;
		p->n_asked++;
		bytes += wanted_bytes(w);
		p->data_asked += wanted_bytes(w);
	}
}

static int ask_leaves(struct session *s)
{
	struct pull *p = s->pull;
	CLEANUP_FREE struct get_leaves *m = NULL;

	if (p->n_asked == p->n_leaves || p->n_requests == LEAVES_ASKED)
		return 0;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	pick_leaves(p, m);
	if (m->n == 0)
		return 0;
	p->requests[(p->first_request + p->n_requests++) % LEAVES_ASKED] = m->n;
	note_asked(p, MESSAGE_LEAVES);
	size_t at = session_begin(s, MESSAGE_GET_LEAVES);
	get_leaves_put(&s->out, m);
	return session_end(s, at);
}

/* ---- ranges ---- */

static int take_hashes(struct session *s, struct slice body)
{
	struct pull *p = s->pull;
	struct hashes m;
	int r = hashes_get(body, &m);

	if (r)
		return r;
	if (m.n > WIRE_RANGES_MAX || (m.range[0].to.len && key_compare(m.range[0].to, key_slice(&p->frontier)) <= 0))
		return -EPROTO;
	p->hashes_asked = false;
	note_answered(p);
	for (uint32_t i = 0; i < m.n; i++) {
		if (m.range[i].n_rows > ROWS_EACH)
			return -EPROTO;
		struct range *range = &p->ranges[(p->first_range + p->n_ranges++) % RANGES_MAX];
		*range = (struct range){.from = p->frontier, .hash = m.range[i].hash, .n_rows = m.range[i].n_rows};
		key_set(&range->to, m.range[i].to);
		p->frontier = range->to;
	}
	p->hashes_done = p->frontier.len == 0;
	return 0;
}

struct own_hash {
	uint64_t hash;
	uint32_t n_rows, max;
};

static int hash_own(void *ctx, const struct row *r)
{
	struct own_hash *h = ctx;

	if (++h->n_rows > h->max)
		return 1;
	h->hash = row_hash(h->hash, r);
	return 0;
}

static int compare_range(struct session *s, const struct range *range)
{
	struct replica_volume *v = s->node->volume;
	struct own_hash own = {.max = range->n_rows};
	int r = v->ops->resync_rows(v, key_slice(&range->from), key_slice(&range->to), hash_own, &own);

	if (r < 0)
		return session_volume_failed(s, r, "reading the index");
	if (own.n_rows != range->n_rows || own.hash != range->hash)
		return ask_rows(s, range);
	s->pull->compared += range->n_rows;
	return 0;
}

/* Room for every leaf that the ranges asked for, and one more, could name. */
static bool has_room(const struct pull *p)
{
	return p->n_rows < ROWS_ASKED && p->n_leaves + (p->n_rows + 1) * ROWS_EACH <= LEAVES_MAX;
}

static int compare_ranges(struct session *s, int64_t *deadline_ns)
{
	struct pull *p = s->pull;

	for (uint32_t i = 0; p->n_ranges && has_room(p); i++) {
		if (i == RANGES_TURN) {
			deadline_at(deadline_ns, node_now(s->node));
			return 0;
		}
		int r = compare_range(s, &p->ranges[p->first_range]);
		if (r)
			return r;
		p->first_range = (p->first_range + 1) % RANGES_MAX;
		p->n_ranges--;
	}
	return 0;
}

/* ---- beginning and end ---- */

static int take_view(struct session *s, struct slice body)
{
	struct node *n = s->node;
	struct pull *p = s->pull;
	int r = view_get(body, &p->view);

	if (r)
		return r;
	if (p->viewing || p->view.epoch > s->epoch)
		return -EPROTO;
	r = n->volume->ops->resync_begin(n->volume, s->epoch, p->save);
	if (r)
		return session_volume_failed(s, r, "beginning a resync");
	p->viewing = true;
	mutex_lock(&n->lock);
	n->resync_wanted = false;
	mutex_unlock(&n->lock);
	log_info("replication: resync to batch %llu%s", (unsigned long long)p->view.seq,
		 p->save ? ", what only this node has is kept aside" : "");
	return 0;
}

static bool is_done(const struct pull *p)
{
	return p->viewing && p->hashes_done && p->n_ranges == 0 && p->n_rows == 0 && p->n_leaves == 0;
}

static int end_resync(struct session *s)
{
	struct node *n = s->node;
	struct pull *p = s->pull;
	const struct ack ack = {p->view.seq, p->view.seq};
	int r = n->volume->ops->resync_end(n->volume, &p->view, p->fence);

	if (r)
		return session_volume_failed(s, r, "ending a resync");
	show_progress(s, 1);
	log_info("replication: resynced to batch %llu: %llu rows compared, %llu bytes moved", (unsigned long long)p->view.seq,
		 (unsigned long long)p->compared, (unsigned long long)p->moved);
	pull_stop(s);
	s->state = SESSION_FOLLOWING;
	follower_start(s, ack.durable_seq);
	mutex_lock(&n->lock);
	struct node_peer *peer = node_peer_locked(n, s->peer_id);
	if (peer && peer->stream == s)
		peer->state = PEER_STREAMING;
	mutex_unlock(&n->lock);
	r = session_end(s, session_begin(s, MESSAGE_RESYNCED));
	return r ? r : follower_ack(s, &ack);
}

/* ---- in and out ---- */

static int take_answer(struct session *s, enum message_type type, struct slice body)
{
	struct pull *p = s->pull;

	if (type == MESSAGE_VIEW)
		return take_view(s, body);
	if (p->n_order == 0 || p->order[p->first_order] != type)
		return session_fail(s, -EPROTO, "%s was not asked for", message_type_name(type));
	p->moved += body.len;
	if (type == MESSAGE_HASHES)
		return take_hashes(s, body);
	return type == MESSAGE_ROWS ? pull_take_rows(s, body) : pull_take_leaves(s, body);
}

int pull_message(struct session *s, enum message_type type, struct slice body)
{
	struct node *n = s->node;

	if (type == MESSAGE_PEERS)
		return follower_peers(s, body);
	mutex_lock(&n->follow);
	int r = follower_check(n, s);
	if (!r)
		r = take_answer(s, type, body);
	mutex_unlock(&n->follow);
	if (!r)
		show_progress(s, rows_share(s->pull->compared, s->pull->view.n_inodes));
	return r;
}

static int work(struct session *s, int64_t *deadline_ns)
{
	struct pull *p = s->pull;
	int r = compare_ranges(s, deadline_ns);

	if (!r)
		r = ask_hashes(s);
	while (!r && p->n_asked < p->n_leaves && p->n_requests < LEAVES_ASKED) {
		uint32_t before = p->n_requests;
		r = ask_leaves(s);
		if (p->n_requests == before)
			break;
	}
	if (!r && is_done(p))
		r = end_resync(s);
	return r;
}

int pull_pump(struct session *s, int64_t *deadline_ns)
{
	struct node *n = s->node;

	if (!s->pull->viewing)
		return 0;
	mutex_lock(&n->follow);
	int r = follower_check(n, s);
	if (!r)
		r = work(s, deadline_ns);
	mutex_unlock(&n->follow);
	return r;
}
