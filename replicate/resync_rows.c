/*
 * resync_rows.c: a resync makes this volume equal: rows of the leader's are merged with our own, and the blocks of leaves that
 * were put are fetched.  resync.c says what is asked for and when.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "replicate/resync_internal.h"

#define SAVE_BYTES (64 * MIB)
#define SAVE_ROWS  65536u

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

int pull_take_rows(struct session *s, struct slice body)
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

int pull_take_leaves(struct session *s, struct slice body)
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
