/*
 * resync.c: the follower's side of a resync: whatever this volume holds becomes the leader's view.
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

#include "base/crc32c.h"
#include "base/log.h"
#include "replicate/node_internal.h"

#define ROWS_EACH    512u
#define RANGES_MAX   (2 * WIRE_RANGES_MAX)
#define RANGES_TURN  16u /* compared in one pump */
#define ROWS_ASKED   4u
#define LEAVES_MAX   4096u
#define LEAVES_ASKED 8u
#define DATA_ASKED   (8 * MIB)
#define DATA_EACH    MIB /* of one GET_LEAVES */
#define ORDER_MAX    16u
#define ACTIONS_MAX  256u
#define SAVE_BYTES   (64 * MIB)
#define SAVE_ROWS    65536u

/*
 * An E row (docs/PROTOCOL.md): 'E', be64 inode, be64 leaf -> le16 mapped, le16 unwritten, le32 CRC of each slot with data; then,
 * maybe, which of them an object has, which is the volume's affair.
 */
#define SLOTS          16u
#define LEAF_KEY       17u
#define LEAF_OBJECT    18u
#define LEAF_VALUE_MAX (4 + 4 * SLOTS + LEAF_OBJECT)

_Static_assert(1 + ROWS_ASKED + LEAVES_ASKED <= ORDER_MAX, "every request has its place in the order");
_Static_assert(LEAVES_MAX >= ROWS_ASKED * ROWS_EACH, "");

struct range {
	struct key from, to; /* to empty: to the end */
	uint64_t hash;
	uint32_t n_rows;
};

struct asked_rows {
	struct range range;
	struct key after; /* last row of the leader's that came */
	uint64_t hash;    /* of the rows that came */
	uint32_t n_rows;
};

struct wanted_leaf {
	uint8_t key[LEAF_KEY], value[LEAF_VALUE_MAX];
	size_t value_len;
	struct leaf_data d;
};

/* What a merge found: rows of the leader's borrow the message; a row that goes has its key here. */
struct action {
	struct row row;
	struct key key;
};

struct pull {
	struct replica_view_info view;
	bool save, viewing;
	uint64_t fence;
	enum message_type order[ORDER_MAX]; /* of the answers to come */
	uint32_t first_order, n_order;

	struct key frontier; /* hashes are known up to here */
	bool hashes_asked, hashes_done;
	struct range ranges[RANGES_MAX];
	uint32_t first_range, n_ranges;

	struct asked_rows rows[ROWS_ASKED];
	uint32_t first_rows, n_rows;

	struct wanted_leaf leaves[LEAVES_MAX];
	uint32_t first_leaf, n_leaves, n_asked; /* the first n_asked of them are on their way */
	uint32_t requests[LEAVES_ASKED];        /* leaves each GET_LEAVES still lacks */
	uint32_t first_request, n_requests;
	uint64_t data_asked;

	uint64_t compared, moved, unsaved_rows, unsaved_bytes;
	struct action actions[ACTIONS_MAX];
};

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

static void note_answered(struct pull *p)
{
	p->first_order = (p->first_order + 1) % ORDER_MAX;
	p->n_order--;
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

static struct wanted_leaf *leaf_at(struct pull *p, uint32_t i)
{
	return &p->leaves[(p->first_leaf + i) % LEAVES_MAX];
}

static uint64_t wanted_bytes(const struct wanted_leaf *w)
{
	return (uint64_t)__builtin_popcount(w->d.wanted) * BLOCK_SIZE;
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

/* ---- putting ---- */

static int save_if_due(struct session *s)
{
	struct replica_volume *v = s->node->volume;
	struct pull *p = s->pull;

	if (p->unsaved_rows < SAVE_ROWS && p->unsaved_bytes < SAVE_BYTES)
		return 0;
	p->unsaved_rows = p->unsaved_bytes = 0;
	int r = v->ops->resync_save(v);
	return r ? session_volume_failed(s, r, "saving a resync") : 0;
}

static int put(struct session *s, const struct row *row, const struct leaf_data *d, const uint8_t *blocks)
{
	struct replica_volume *v = s->node->volume;
	int r = v->ops->resync_put(v, row, d, blocks);

	if (r)
		return session_volume_failed(s, r, "writing a row of a resync");
	s->pull->unsaved_rows++;
	return save_if_due(s);
}

static bool is_leaf_row(const struct row *r)
{
	return r->key.len && *(const uint8_t *)r->key.p == 'E';
}

/* Slots with data, as the row says; false when it is none. */
static bool leaf_row_slots(const struct row *r, uint16_t *ret)
{
	const le16 *masks = r->value.p;

	if (r->key.len != LEAF_KEY || r->value.len < 2 * sizeof(*masks))
		return false;
	uint16_t mapped = le16_get(masks[0]), unwritten = le16_get(masks[1]);
	*ret = mapped & (uint16_t)~unwritten;
	size_t len = 4 + 4 * (size_t)__builtin_popcount(*ret);
	return !(unwritten & ~mapped) && (r->value.len == len || r->value.len == len + LEAF_OBJECT);
}

static int want_leaf(struct session *s, const struct row *row, uint16_t slots, uint16_t wanted)
{
	struct pull *p = s->pull;
	struct wanted_leaf *w = leaf_at(p, p->n_leaves);
	const uint8_t *key = row->key.p, *crc = (const uint8_t *)row->value.p + 4;

	if (wanted & ~slots || p->n_leaves == LEAVES_MAX)
		return session_fail(s, -EPROTO, "more leaves than rows");
	*w = (struct wanted_leaf){.value_len = row->value.len, .d = {.wanted = wanted}};
	memcpy(w->key, key, LEAF_KEY);
	memcpy(w->value, row->value.p, row->value.len);
	w->d.ino = be64_get(key + 1);
	w->d.leaf = be64_get(key + 9);
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		le32 c;

		if (!(slots & 1u << slot))
			continue;
		memcpy(&c, crc, sizeof(c));
		crc += sizeof(c);
		if (wanted & 1u << slot)
			w->d.crc[slot] = le32_get(c);
	}
	p->n_leaves++;
	return 0;
}

/* A row of the leader's that is not here like that; data that is lacking comes first. */
static int put_theirs(struct session *s, const struct row *row)
{
	struct replica_volume *v = s->node->volume;
	uint16_t slots, wanted;

	if (!is_leaf_row(row))
		return put(s, row, NULL, NULL);
	if (!leaf_row_slots(row, &slots))
		return session_fail(s, -EUCLEAN, "a leaf that is none");
	int r = v->ops->resync_missing(v, row, &wanted);
	if (r)
		return session_volume_failed(s, r, "looking for data of a resync");
	return wanted ? want_leaf(s, row, slots, wanted) : put(s, row, NULL, NULL);
}

/* ---- rows ---- */

struct merge {
	struct slice body;
	size_t at;
	struct row theirs; /* the next one, while have */
	bool have, last;
	struct slice after;
	struct action *actions;
	uint32_t n;
	bool full;
	struct key next; /* where it stopped for want of room */
};

/* The message was checked before, so that no error is left. */
static void advance(struct merge *m)
{
	m->have = rows_next(m->body, &m->at, &m->theirs) == 1;
}

static void add_put(struct merge *m)
{
	m->actions[m->n++].row = m->theirs;
	advance(m);
}

static void add_drop(struct merge *m, struct slice key)
{
	struct action *a = &m->actions[m->n++];

	key_set(&a->key, key);
	a->row = (struct row){.key = key_slice(&a->key)};
}

static int stop_full(struct merge *m, struct slice key)
{
	m->full = true;
	key_set(&m->next, key);
	return 1;
}

static bool same_value(const struct row *a, const struct row *b)
{
	return a->value.len == b->value.len && (a->value.len == 0 || memcmp(a->value.p, b->value.p, a->value.len) == 0);
}

/* One of our own rows, against the leader's before and at it. */
static int merge_row(void *ctx, const struct row *own)
{
	struct merge *m = ctx;

	if (m->after.len && key_compare(own->key, m->after) <= 0)
		return 0;
	while (m->have && key_compare(m->theirs.key, own->key) < 0) {
		if (m->n == ACTIONS_MAX)
			return stop_full(m, own->key);
		add_put(m);
	}
	if (!m->have && !m->last)
		return 1; /* the next piece decides */
	if (m->n == ACTIONS_MAX)
		return stop_full(m, own->key);
	if (!m->have || key_compare(m->theirs.key, own->key) > 0)
		add_drop(m, own->key);
	else if (same_value(&m->theirs, own))
		advance(m);
	else
		add_put(m);
	return 0;
}

static int act(struct session *s, struct merge *m)
{
	int r = 0;

	for (uint32_t i = 0; !r && i < m->n; i++) {
		const struct row *row = &m->actions[i].row;
		r = row->value.p ? put_theirs(s, row) : put(s, row, NULL, NULL);
	}
	m->n = 0;
	return r;
}

static int merge_rows(struct session *s, const struct asked_rows *q, struct merge *m)
{
	struct replica_volume *v = s->node->volume;
	struct key from = q->after.len ? q->after : q->range.from;
	int r;

	do {
		m->full = false;
		r = v->ops->resync_rows(v, key_slice(&from), key_slice(&q->range.to), merge_row, m);
		if (r < 0)
			return session_volume_failed(s, r, "reading the index");
		r = act(s, m);
		from = m->next;
	} while (!r && m->full);
	while (!r && m->have) {
		while (m->have && m->n < ACTIONS_MAX)
			add_put(m);
		r = act(s, m);
	}
	return r;
}

/* Keys rise, lie in the range, and are not more than it has; *ret_q is how far the range has come. */
static int check_rows(struct session *s, struct slice body, bool last, const struct asked_rows *q, struct asked_rows *ret_q)
{
	const struct range *range = &q->range;
	struct row row;
	size_t at = 0;
	int r;

	*ret_q = *q;
	while ((r = rows_next(body, &at, &row)) == 1) {
		struct slice after = key_slice(&ret_q->after), to = key_slice(&range->to);
		if (after.len ? key_compare(row.key, after) <= 0 : key_compare(row.key, key_slice(&range->from)) < 0)
			return session_fail(s, -EPROTO, "rows are out of order");
		if (ret_q->n_rows == range->n_rows || (to.len && key_compare(row.key, to) >= 0))
			return session_fail(s, -EPROTO, "rows of another range");
		key_set(&ret_q->after, row.key);
		ret_q->hash = row_hash(ret_q->hash, &row);
		ret_q->n_rows++;
	}
	if (!r && last && (ret_q->n_rows != range->n_rows || ret_q->hash != range->hash))
		return session_fail(s, -EBADMSG, "rows do not have the hash of their range");
	return r;
}

static int take_rows(struct session *s, struct slice body)
{
	struct pull *p = s->pull;
	struct asked_rows *q = &p->rows[p->first_rows], after;
	struct merge m = {.body = body, .actions = p->actions};
	int r = rows_last(body, &m.last);

	if (!r)
		r = check_rows(s, body, m.last, q, &after);
	if (r)
		return r;
	m.after = key_slice(&q->after);
	advance(&m);
	r = merge_rows(s, q, &m);
	if (r)
		return r;
	*q = after;
	if (!m.last)
		return 0;
	p->compared += q->n_rows;
	note_answered(p);
	p->first_rows = (p->first_rows + 1) % ROWS_ASKED;
	p->n_rows--;
	return 0;
}

/* ---- leaves ---- */

/* Whether each block has the checksum that its row names; superseded ones did not come. */
static bool blocks_ok(const struct wanted_leaf *w, const struct leaf_data *d, const uint8_t *blocks)
{
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		if (!(w->d.wanted & ~d->superseded & 1u << slot))
			continue;
		if (crc32c(0, blocks, BLOCK_SIZE) != w->d.crc[slot])
			return false;
		blocks += BLOCK_SIZE;
	}
	return true;
}

static int put_leaf(struct session *s, const struct leaf_data *d, const uint8_t *blocks)
{
	struct pull *p = s->pull;
	struct wanted_leaf *w = leaf_at(p, 0);
	struct row row = {.key = {w->key, sizeof(w->key)}, .value = {w->value, w->value_len}};

	if (d->ino != w->d.ino || d->leaf != w->d.leaf || d->wanted != w->d.wanted ||
	    memcmp(d->crc, w->d.crc, sizeof(d->crc)) != 0)
		return session_fail(s, -EPROTO, "a leaf that was not asked for");
	if (!blocks_ok(w, d, blocks))
		return session_fail(s, -EBADMSG, "leaf %llu of inode %llu: wrong checksum", (unsigned long long)d->leaf,
				    (unsigned long long)d->ino);
	w->d.superseded = d->superseded;
	p->data_asked -= wanted_bytes(w);
	p->unsaved_bytes += wanted_bytes(w);
	int r = put(s, &row, &w->d, blocks);
	p->first_leaf = (p->first_leaf + 1) % LEAVES_MAX;
	p->n_leaves--;
	p->n_asked--;
	return r;
}

static int take_leaves(struct session *s, struct slice body)
{
	struct pull *p = s->pull;
	uint32_t *left = &p->requests[p->first_request];
	const uint8_t *blocks;
	struct leaf_data d;
	uint64_t fence;
	size_t at = 0;
	bool last;
	int r = leaves_head(body, &last, &fence);

	if (r)
		return r;
	while ((r = leaves_next(body, &at, &d, &blocks)) == 1) {
		if (*left == 0)
			return session_fail(s, -EPROTO, "more leaves than were asked for");
		r = put_leaf(s, &d, blocks);
		if (r)
			return r;
		(*left)--;
		if (d.superseded)
			p->fence = max_u64(p->fence, fence);
	}
	if (r || !last)
		return r;
	if (*left)
		return session_fail(s, -EPROTO, "fewer leaves than were asked for");
	note_answered(p);
	p->first_request = (p->first_request + 1) % LEAVES_ASKED;
	p->n_requests--;
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
	return type == MESSAGE_ROWS ? take_rows(s, body) : take_leaves(s, body);
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
