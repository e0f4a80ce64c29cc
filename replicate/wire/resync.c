/* resync.c: what a resync asks and is answered: a view, hashes of ranges, rows, leaves with their blocks. */
#include "replicate/wire/pieces.h"

#include <assert.h>
#include <errno.h>

/* An optional key: empty is none. */
static bool take_key(struct slice *left, size_t len, struct slice *ret)
{
	const void *p = len <= WIRE_KEY_MAX ? take(left, len) : NULL;

	*ret = (struct slice){len ? p : NULL, len};
	return p != NULL;
}

static bool key_before(struct slice a, struct slice b)
{
	size_t len = a.len < b.len ? a.len : b.len;
	int c = len ? memcmp(a.p, b.p, len) : 0;

	return c ? c < 0 : a.len < b.len;
}

void view_put(struct buf *out, const struct replica_view_info *m)
{
	const struct wire_view w = {
	    .seq = le64_make(m->seq),
	    .hash = le64_make(m->hash),
	    .epoch = le64_make(m->epoch),
	    .next_ino = le64_make(m->next_ino),
	    .n_inodes = le64_make(m->n_inodes),
	    .snapshot_generation = le64_make(m->snapshot_generation),
	};

	buf_put(out, &w, sizeof(w));
}

int view_get(struct slice body, struct replica_view_info *ret)
{
	const struct wire_view *w = whole(body, sizeof(*w));

	if (!w)
		return -EUCLEAN;
	*ret = (struct replica_view_info){
	    .seq = le64_get(w->seq),
	    .hash = le64_get(w->hash),
	    .epoch = le64_get(w->epoch),
	    .next_ino = le64_get(w->next_ino),
	    .n_inodes = le64_get(w->n_inodes),
	    .snapshot_generation = le64_get(w->snapshot_generation),
	};
	return 0;
}

static bool get_hashes_ok(const struct get_hashes *m)
{
	return m->n_ranges >= 1 && m->n_ranges <= WIRE_RANGES_MAX && m->rows_each >= 1 && m->rows_each <= WIRE_RANGE_ROWS_MAX;
}

void get_hashes_put(struct buf *out, const struct get_hashes *m)
{
	const struct wire_get_hashes w = {.n_ranges = le32_make(m->n_ranges),
					  .rows_each = le32_make(m->rows_each),
					  .from_len = le16_make((uint16_t)m->from.len)};

	assert(get_hashes_ok(m));
	assert(m->from.len <= WIRE_KEY_MAX);
	buf_put(out, &w, sizeof(w));
	buf_put(out, m->from.p, m->from.len);
}

int get_hashes_get(struct slice body, struct get_hashes *ret)
{
	struct slice left = body;
	const struct wire_get_hashes *w = take(&left, sizeof(*w));
	struct get_hashes m;

	if (!w || !is_zero(w->zero, sizeof(w->zero)) || !take_key(&left, le16_get(w->from_len), &m.from) || left.len)
		return -EUCLEAN;
	m.n_ranges = le32_get(w->n_ranges);
	m.rows_each = le32_get(w->rows_each);
	if (!get_hashes_ok(&m))
		return -EUCLEAN;
	*ret = m;
	return 0;
}

/* Ends rise, and only the last range may go to the end of everything. */
static bool range_ok(const struct range_hash *range, uint32_t i, uint32_t n)
{
	const struct range_hash *r = &range[i];

	if (r->n_rows > WIRE_RANGE_ROWS_MAX || r->to.len > WIRE_KEY_MAX || (r->to.len == 0 && i + 1 < n))
		return false;
	return i == 0 || r->to.len == 0 || key_before(range[i - 1].to, r->to);
}

void hashes_put(struct buf *out, const struct hashes *m)
{
	const struct wire_hashes w = {.n = le32_make(m->n)};

	assert(m->n >= 1 && m->n <= WIRE_RANGES_MAX);
	buf_put(out, &w, sizeof(w));
	for (uint32_t i = 0; i < m->n; i++) {
		const struct range_hash *r = &m->range[i];
		const struct wire_range d = {
		    .hash = le64_make(r->hash), .n_rows = le32_make(r->n_rows), .to_len = le16_make((uint16_t)r->to.len)};

		assert(range_ok(m->range, i, m->n));
		buf_put(out, &d, sizeof(d));
		buf_put(out, r->to.p, r->to.len);
	}
}

int hashes_get(struct slice body, struct hashes *ret)
{
	struct slice left = body;
	const struct wire_hashes *w = take(&left, sizeof(*w));

	if (!w || le32_get(w->zero) || le32_get(w->n) < 1 || le32_get(w->n) > WIRE_RANGES_MAX)
		return -EUCLEAN;
	ret->n = le32_get(w->n);
	for (uint32_t i = 0; i < ret->n; i++) {
		const struct wire_range *d = take(&left, sizeof(*d));

		if (!d || le16_get(d->zero) || !take_key(&left, le16_get(d->to_len), &ret->range[i].to))
			return -EUCLEAN;
		ret->range[i].hash = le64_get(d->hash);
		ret->range[i].n_rows = le32_get(d->n_rows);
		if (!range_ok(ret->range, i, ret->n))
			return -EUCLEAN;
	}
	return left.len ? -EUCLEAN : 0;
}

void get_rows_put(struct buf *out, const struct get_rows *m)
{
	const struct wire_get_rows w = {.from_len = le16_make((uint16_t)m->from.len), .to_len = le16_make((uint16_t)m->to.len)};

	assert(m->from.len <= WIRE_KEY_MAX && m->to.len <= WIRE_KEY_MAX);
	assert(m->to.len == 0 || key_before(m->from, m->to));
	buf_put(out, &w, sizeof(w));
	buf_put(out, m->from.p, m->from.len);
	buf_put(out, m->to.p, m->to.len);
}

int get_rows_get(struct slice body, struct get_rows *ret)
{
	struct slice left = body;
	const struct wire_get_rows *w = take(&left, sizeof(*w));
	struct get_rows m;

	if (!w || le32_get(w->zero) || !take_key(&left, le16_get(w->from_len), &m.from) ||
	    !take_key(&left, le16_get(w->to_len), &m.to) || left.len || (m.to.len && !key_before(m.from, m.to)))
		return -EUCLEAN;
	*ret = m;
	return 0;
}

void rows_begin(struct buf *out, bool last)
{
	const struct wire_rows w = {.last = last};

	buf_put(out, &w, sizeof(w));
}

void row_put(struct buf *out, const struct row *r)
{
	const struct wire_row w = {.value_len = le32_make((uint32_t)r->value.len), .key_len = le16_make((uint16_t)r->key.len)};

	assert(r->key.len >= 1 && r->key.len <= WIRE_KEY_MAX);
	assert(r->value.len <= WIRE_VALUE_MAX);
	buf_put(out, &w, sizeof(w));
	buf_put(out, r->key.p, r->key.len);
	buf_put(out, r->value.p, r->value.len);
}

int rows_last(struct slice body, bool *ret_last)
{
	const struct wire_rows *w = take(&body, sizeof(*w));

	if (!w || w->last > 1)
		return -EUCLEAN;
	*ret_last = w->last;
	return 0;
}

/* What of a body lies behind its head and behind what was given before; moves *at to the head's end at the beginning. */
static struct slice list_left(struct slice body, size_t head, size_t *at)
{
	if (*at == 0)
		*at = head;
	assert(*at <= body.len);
	return (struct slice){(const uint8_t *)body.p + *at, body.len - *at};
}

int rows_next(struct slice body, size_t *at, struct row *ret)
{
	bool last;
	int r = rows_last(body, &last);

	if (r)
		return r;
	struct slice left = list_left(body, sizeof(struct wire_rows), at);
	if (left.len == 0)
		return 0;
	const struct wire_row *w = take(&left, sizeof(*w));
	if (!w || le16_get(w->zero) || le16_get(w->key_len) < 1 || !take_key(&left, le16_get(w->key_len), &ret->key) ||
	    le32_get(w->value_len) > WIRE_VALUE_MAX)
		return -EUCLEAN;
	ret->value = (struct slice){take(&left, le32_get(w->value_len)), le32_get(w->value_len)};
	if (!ret->value.p)
		return -EUCLEAN;
	*at = body.len - left.len;
	return 1;
}

static bool leaf_ok(const struct leaf_data *d)
{
	return d->ino && d->wanted && !(d->superseded & ~d->wanted);
}

static uint32_t count_slots(unsigned mask)
{
	return (uint32_t)__builtin_popcount(mask);
}

static void put_leaf_head(struct buf *out, const struct leaf_data *d, uint16_t superseded)
{
	const struct wire_leaf w = {.ino = le64_make(d->ino),
				    .leaf = le64_make(d->leaf),
				    .wanted = le16_make(d->wanted),
				    .superseded = le16_make(superseded)};

	assert(leaf_ok(d));
	buf_put(out, &w, sizeof(w));
	for (uint32_t slot = 0; slot < WIRE_SLOTS; slot++) {
		const le32 crc = le32_make(d->crc[slot]);

		if (d->wanted & 1u << slot)
			buf_put(out, &crc, sizeof(crc));
	}
}

/* Fixed part and CRCs of a leaf. */
static bool take_leaf_head(struct slice *left, struct leaf_data *ret)
{
	const struct wire_leaf *w = take(left, sizeof(*w));

	if (!w || le32_get(w->zero))
		return false;
	*ret = (struct leaf_data){.ino = le64_get(w->ino),
				  .leaf = le64_get(w->leaf),
				  .wanted = le16_get(w->wanted),
				  .superseded = le16_get(w->superseded)};
	const le32 *crc = take(left, count_slots(ret->wanted) * sizeof(*crc));
	if (!crc || !leaf_ok(ret))
		return false;
	for (uint32_t slot = 0; slot < WIRE_SLOTS; slot++)
		if (ret->wanted & 1u << slot)
			ret->crc[slot] = le32_get(*crc++);
	return true;
}

void get_leaves_put(struct buf *out, const struct get_leaves *m)
{
	const struct wire_get_leaves w = {.n = le32_make(m->n)};

	assert(m->n >= 1 && m->n <= WIRE_LEAVES_MAX);
	buf_put(out, &w, sizeof(w));
	for (uint32_t i = 0; i < m->n; i++)
		put_leaf_head(out, &m->leaf[i], 0);
}

int get_leaves_get(struct slice body, struct get_leaves *ret)
{
	struct slice left = body;
	const struct wire_get_leaves *w = take(&left, sizeof(*w));

	if (!w || le32_get(w->zero) || le32_get(w->n) < 1 || le32_get(w->n) > WIRE_LEAVES_MAX)
		return -EUCLEAN;
	ret->n = le32_get(w->n);
	for (uint32_t i = 0; i < ret->n; i++)
		if (!take_leaf_head(&left, &ret->leaf[i]) || ret->leaf[i].superseded)
			return -EUCLEAN;
	return left.len ? -EUCLEAN : 0;
}

void leaves_begin(struct buf *out, bool last, uint64_t fence)
{
	const struct wire_leaves w = {.last = last, .fence = le64_make(fence)};

	buf_put(out, &w, sizeof(w));
}

void leaf_put(struct buf *out, const struct leaf_data *d, const uint8_t *blocks)
{
	put_leaf_head(out, d, d->superseded);
	for (uint32_t slot = 0; slot < WIRE_SLOTS; slot++) {
		if (!(d->wanted & 1u << slot))
			continue;
		if (!(d->superseded & 1u << slot))
			buf_put(out, blocks, BLOCK_SIZE);
		blocks += BLOCK_SIZE;
	}
}

int leaves_head(struct slice body, bool *ret_last, uint64_t *ret_fence)
{
	const struct wire_leaves *w = take(&body, sizeof(*w));

	if (!w || w->last > 1)
		return -EUCLEAN;
	*ret_last = w->last;
	*ret_fence = le64_get(w->fence);
	return 0;
}

int leaves_next(struct slice body, size_t *at, struct leaf_data *ret, const uint8_t **ret_blocks)
{
	bool last;
	uint64_t fence;
	int r = leaves_head(body, &last, &fence);

	if (r)
		return r;
	struct slice left = list_left(body, sizeof(struct wire_leaves), at);
	if (left.len == 0)
		return 0;
	if (!take_leaf_head(&left, ret) || (ret->superseded && fence == 0))
		return -EUCLEAN;
	*ret_blocks = take(&left, (size_t)count_slots(ret->wanted & ~(unsigned)ret->superseded) * BLOCK_SIZE);
	if (!*ret_blocks)
		return -EUCLEAN;
	*at = body.len - left.len;
	return 1;
}
