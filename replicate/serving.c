/*
 * serving.c: the leader's side of a resync: answers from a view, in the order of the requests.
 *
 * The view is opened once WELCOME is on its way, since that may take long; VIEW says what it is of.  Requests are queued,
 * REQUESTS_MAX at most, and answered piece by piece as there is room: a request remembers where its next piece begins, so nothing
 * of an answer is kept in memory but the piece being made.  The pump returns after a while of work, so that pings go out and come
 * in.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "replicate/node_internal.h"

#define WORK_NS     (NSEC_PER_SEC / 20)
#define SLOTS       16u
#define LEAF_BLOCKS ((size_t)SLOTS * BLOCK_SIZE)

struct request {
	enum message_type type;
	struct key from, to; /* to empty: to the end */
	uint32_t n_ranges, rows_each;
	struct get_leaves *leaves; /* owned */
	uint32_t next_leaf;
};

struct serving {
	struct replica_view *view;
	struct replica_view_info info;
	struct request queue[REQUESTS_MAX];
	uint32_t first, n;
	struct buf piece; /* rows or leaves on their way into a frame */
	uint64_t rows;
	uint8_t blocks[LEAF_BLOCKS];
};

static struct request *request_at(struct serving *v, uint32_t i)
{
	return &v->queue[(v->first + i) % REQUESTS_MAX];
}

static void request_done(struct serving *v)
{
	free(TAKE_PTR(request_at(v, 0)->leaves));
	v->first = (v->first + 1) % REQUESTS_MAX;
	v->n--;
}

/* ---- life ---- */

int serving_start(struct session *s)
{
	s->serving = calloc(1, sizeof(*s->serving));
	return s->serving ? 0 : -ENOMEM;
}

void serving_stop(struct session *s)
{
	struct serving *v = TAKE_PTR(s->serving);

	if (!v)
		return;
	while (v->n)
		request_done(v);
	if (v->view)
		s->node->volume->ops->view_close(v->view);
	buf_free(&v->piece);
	free(v);
}

static int open_view(struct session *s)
{
	struct replica_volume *volume = s->node->volume;
	struct serving *v = s->serving;
	int r = volume->ops->view_open(volume, &v->view, &v->info);

	if (r)
		return session_volume_failed(s, r, "opening a view");
	size_t at = session_begin(s, MESSAGE_VIEW);
	view_put(&s->out, &v->info);
	return session_end(s, at);
}

static void count_served(struct session *s, size_t bytes, uint64_t fence)
{
	struct node *n = s->node;
	const struct serving *v = s->serving;

	mutex_lock(&n->lock);
	struct node_peer *p = node_peer_locked(n, s->peer_id);
	if (p) {
		p->resync_rows = v->rows;
		p->resync_bytes += bytes;
		p->resync_share = rows_share(v->rows, v->info.n_inodes);
		if (fence)
			node_peer_fence_locked(p, 0, fence);
	}
	mutex_unlock(&n->lock);
}

/* ---- hashes ---- */

struct hashing {
	uint32_t n_ranges, rows_each;
	uint64_t rows;
	struct hashes m;
	struct key to[WIRE_RANGES_MAX];
};

/* A range ends before the row that is one too many; the last one does not begin another. */
static int hash_row(void *ctx, const struct row *r)
{
	struct hashing *h = ctx;
	struct range_hash *range = &h->m.range[h->m.n - 1];

	if (range->n_rows == h->rows_each) {
		struct key *to = &h->to[h->m.n - 1];
		key_set(to, r->key);
		range->to = key_slice(to);
		if (h->m.n == h->n_ranges)
			return 1;
		range = &h->m.range[h->m.n++];
		*range = (struct range_hash){0};
	}
	range->hash = row_hash(range->hash, r);
	range->n_rows++;
	h->rows++;
	return 0;
}

static int answer_hashes(struct session *s, const struct request *q)
{
	struct replica_volume *volume = s->node->volume;
	struct serving *v = s->serving;
	CLEANUP_FREE struct hashing *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->n_ranges = q->n_ranges;
	h->rows_each = q->rows_each;
	h->m.n = 1;
	int r = volume->ops->view_rows(v->view, key_slice(&q->from), (struct slice){0}, hash_row, h);
	if (r < 0)
		return session_volume_failed(s, r, "reading the index");
	v->rows += h->rows;
	count_served(s, 0, 0);
	size_t at = session_begin(s, MESSAGE_HASHES);
	hashes_put(&s->out, &h->m);
	request_done(v);
	return session_end(s, at);
}

/* ---- rows ---- */

struct gathering {
	struct buf *out;
	struct key next; /* the row that did not fit */
	bool full;
};

static int gather_row(void *ctx, const struct row *r)
{
	struct gathering *g = ctx;

	if (g->out->len >= WIRE_ROWS_BYTES) {
		g->full = true;
		key_set(&g->next, r->key);
		return 1;
	}
	row_put(g->out, r);
	return 0;
}

static int answer_rows(struct session *s, struct request *q)
{
	struct replica_volume *volume = s->node->volume;
	struct serving *v = s->serving;
	struct gathering g = {.out = &v->piece};

	buf_reset(&v->piece);
	int r = volume->ops->view_rows(v->view, key_slice(&q->from), key_slice(&q->to), gather_row, &g);
	if (r < 0)
		return session_volume_failed(s, r, "reading the index");
	if (v->piece.failed)
		return -ENOMEM;
	size_t at = session_begin(s, MESSAGE_ROWS);
	rows_begin(&s->out, !g.full);
	buf_put(&s->out, v->piece.p, v->piece.len);
	count_served(s, v->piece.len, 0);
	if (g.full)
		q->from = g.next;
	else
		request_done(v);
	return session_end(s, at);
}

/* ---- leaves ---- */

static size_t leaf_bytes(const struct leaf_data *d)
{
	return (size_t)__builtin_popcount(d->wanted) * BLOCK_SIZE;
}

static int gather_leaf(struct session *s, const struct leaf_data *asked, uint64_t *fence)
{
	struct replica_volume *volume = s->node->volume;
	struct serving *v = s->serving;
	struct leaf_data d = *asked;
	uint64_t newest = 0;
	int r = volume->ops->read_leaf(volume, &d, v->blocks, &newest);

	if (r)
		return session_fail(s, r, "leaf %llu of inode %llu cannot be read here: %s", (unsigned long long)d.leaf,
				    (unsigned long long)d.ino, strerror(-r));
	if (d.superseded)
		*fence = max_u64(*fence, newest);
	leaf_put(&v->piece, &d, v->blocks);
	return 0;
}

static int answer_leaves(struct session *s, struct request *q)
{
	struct serving *v = s->serving;
	const struct get_leaves *m = q->leaves;
	uint64_t fence = 0;
	size_t bytes = 0;

	buf_reset(&v->piece);
	while (q->next_leaf < m->n && bytes + leaf_bytes(&m->leaf[q->next_leaf]) <= WIRE_LEAVES_BYTES) {
		const struct leaf_data *d = &m->leaf[q->next_leaf++];
		int r = gather_leaf(s, d, &fence);
		if (r)
			return r;
		bytes += leaf_bytes(d);
	}
	if (v->piece.failed)
		return -ENOMEM;
	bool last = q->next_leaf == m->n;
	size_t at = session_begin(s, MESSAGE_LEAVES);
	leaves_begin(&s->out, last, fence);
	buf_put(&s->out, v->piece.p, v->piece.len);
	count_served(s, v->piece.len, fence);
	if (last)
		request_done(v);
	return session_end(s, at);
}

/* ---- in and out ---- */

static int answer(struct session *s)
{
	struct request *q = request_at(s->serving, 0);

	switch (q->type) {
	case MESSAGE_GET_HASHES:
		return answer_hashes(s, q);
	case MESSAGE_GET_ROWS:
		return answer_rows(s, q);
	default:
		return answer_leaves(s, q);
	}
}

int serving_pump(struct session *s, int64_t *deadline_ns)
{
	struct serving *v = s->serving;
	int64_t begun_ns = node_now(s->node);
	int r = 0;

	if (!v->view && session_pending(s)) { /* WELCOME first */
		deadline_at(deadline_ns, begun_ns);
		return 0;
	}
	if (!v->view)
		r = open_view(s);
	while (!r && v->n && session_pending(s) < SESSION_OUT_MAX) {
		if (node_now(s->node) - begun_ns >= WORK_NS) {
			deadline_at(deadline_ns, begun_ns);
			break;
		}
		r = answer(s);
	}
	return r;
}

static int take_get_hashes(struct slice body, struct request *q)
{
	struct get_hashes m;
	int r = get_hashes_get(body, &m);

	if (r)
		return r;
	key_set(&q->from, m.from);
	q->n_ranges = m.n_ranges;
	q->rows_each = m.rows_each;
	return 0;
}

static int take_get_rows(struct slice body, struct request *q)
{
	struct get_rows m;
	int r = get_rows_get(body, &m);

	if (r)
		return r;
	key_set(&q->from, m.from);
	key_set(&q->to, m.to);
	return 0;
}

static int take_get_leaves(struct slice body, struct request *q)
{
	q->leaves = malloc(sizeof(*q->leaves));
	if (!q->leaves)
		return -ENOMEM;
	int r = get_leaves_get(body, q->leaves);
	if (r)
		free(TAKE_PTR(q->leaves));
	return r;
}

/* The follower is the view: the stream goes on behind it. */
static int take_resynced(struct session *s, struct slice body)
{
	struct node *n = s->node;
	uint64_t seq = s->serving->info.seq;

	if (body.len || s->serving->n)
		return -EPROTO;
	serving_stop(s);
	s->state = SESSION_LEADING;
	leader_start(s, seq);
	mutex_lock(&n->lock);
	struct node_peer *p = node_peer_locked(n, s->peer_id);
	if (p && p->stream == s) {
		p->state = PEER_STREAMING;
		node_peer_acked_locked(p, seq, seq);
		p->resync_share = 1;
		n->tell_acked = n->tell_wake = true;
	}
	mutex_unlock(&n->lock);
	node_tell(n);
	return 0;
}

int serving_message(struct session *s, enum message_type type, struct slice body)
{
	struct serving *v = s->serving;
	struct request q = {.type = type};
	int r;

	if (!v->view)
		return session_fail(s, -EPROTO, "%s before VIEW", message_type_name(type));
	if (type == MESSAGE_RESYNCED)
		return take_resynced(s, body);
	if (v->n == REQUESTS_MAX)
		return session_fail(s, -EPROTO, "more than %u requests at once", REQUESTS_MAX);
	if (type == MESSAGE_GET_HASHES)
		r = take_get_hashes(body, &q);
	else
		r = type == MESSAGE_GET_ROWS ? take_get_rows(body, &q) : take_get_leaves(body, &q);
	if (!r)
		*request_at(v, v->n++) = q;
	return r;
}
