/*
 * kv_crypt_iter.c: rows in the order of their readable keys.
 *
 * Two states.  At a row whose key is stored as it is, the iterator stands where the one below stands.  At a name it stands in a
 * window: the names of one directory, sorted, from some name on.  When not all of them fit, the window has the smallest and is
 * `cut`: at its end the directory is gone through again for those behind the last one.  Behind the last window the iterator below
 * stands at the first row after the directory.
 *
 * A window is filled in one pass: names are added; when there is no more room, they are sorted and the greater half goes, and
 * from then on nothing is taken that would not be before what went.
 *
 * The iterator below shows one moment, so a window stays right for as long as the iterator lives, and a seek into it costs
 * nothing.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "fs/store/crypt/kv_crypt_impl.h"

#define NAME_COST (sizeof(uint32_t)) /* of a name, beside its bytes */

/* A name and its value in window.bytes. */
struct entry {
	uint16_t name_len, value_len;
	uint8_t b[]; /* the name, the value */
};

struct window {
	uint8_t parent[NAME_AT];
	bool filled;     /* it is the window of `parent` */
	bool from_start; /* nothing of the directory is before it */
	bool cut;        /* something is behind it */
	uint32_t *at;    /* of the entries, in order */
	size_t n, cap;
	struct buf bytes;
};

struct kv_iter {
	struct crypt_kv *kv;
	struct kv_iter *in;
	int error;
	bool named, valid;
	struct stored_key key; /* of the row it stands at */
	struct buf value;
	struct window w;
	size_t i; /* in the window */
};

static int bytes_compare(struct slice a, struct slice b)
{
	int r = memcmp(a.p, b.p, min_u64(a.len, b.len));

	return r ? r : (a.len > b.len) - (a.len < b.len);
}

static int fail(struct kv_iter *it, int error)
{
	it->valid = false;
	it->error = kv_crypt_bad(it->kv, error);
	return error;
}

/* ---- the window ---- */

static const struct entry *entry_at(const struct window *w, uint32_t at)
{
	return (const struct entry *)(const void *)(w->bytes.p + at);
}

static struct slice entry_name(const struct entry *e)
{
	return (struct slice){e->b, e->name_len};
}

static int entry_compare(const void *a, const void *b, void *ctx)
{
	const struct window *w = ctx;

	return bytes_compare(entry_name(entry_at(w, *(const uint32_t *)a)), entry_name(entry_at(w, *(const uint32_t *)b)));
}

static void window_sort(struct window *w)
{
	if (w->n)
		qsort_r(w->at, w->n, sizeof(*w->at), entry_compare, w);
}

static struct slice window_last(const struct window *w)
{
	return entry_name(entry_at(w, w->at[w->n - 1]));
}

/* The greater half goes, and the rest moves together. */
static int window_halve(struct window *w)
{
	struct buf bytes = {0};

	window_sort(w);
	w->n = (w->n + 1) / 2;
	w->cut = true;
	for (size_t i = 0; i < w->n; i++) {
		const struct entry *e = entry_at(w, w->at[i]);
		size_t len = (sizeof(*e) + e->name_len + e->value_len + 1) / 2 * 2;

		w->at[i] = (uint32_t)bytes.len;
		buf_put(&bytes, e, len);
	}
	buf_free(&w->bytes);
	w->bytes = bytes;
	return bytes.failed ? -ENOMEM : 0;
}

static int window_room(struct window *w)
{
	if (w->n < w->cap)
		return 0;
	size_t cap = w->cap ? 2 * w->cap : 256;
	uint32_t *at = reallocarray(w->at, cap, sizeof(*at));

	if (!at)
		return -ENOMEM;
	w->at = at;
	w->cap = cap;
	return 0;
}

/* Each entry begins at an even offset. */
static int window_add(struct window *w, struct slice name, struct slice value)
{
	const struct entry head = {.name_len = (uint16_t)name.len, .value_len = (uint16_t)value.len};
	int r = window_room(w);

	if (r < 0)
		return r;
	w->at[w->n++] = (uint32_t)w->bytes.len;
	buf_put(&w->bytes, &head, sizeof(head));
	buf_put(&w->bytes, name.p, name.len);
	buf_put(&w->bytes, value.p, value.len);
	if (w->bytes.len % 2)
		buf_put_u8(&w->bytes, 0);
	return w->bytes.failed ? -ENOMEM : 0;
}

/* Opens the row the iterator below stands at. */
static int open_name(struct kv_iter *it, struct slice key, uint8_t *ret_name, size_t *ret_len)
{
	if (key.len < NAME_AT + SIV_TAG_BYTES || key.len > KV_KEY_MAX)
		return -EBADMSG;
	*ret_len = key.len - NAME_AT - SIV_TAG_BYTES;
	return siv_open(it->kv->names, key_parent(key), (struct slice){(const uint8_t *)key.p + NAME_AT, key.len - NAME_AT},
			ret_name);
}

static int open_value(struct kv_iter *it, struct slice key)
{
	const struct kv_ops *ops = it->kv->inner->ops;
	struct slice sealed = ops->iter_value(it->in);

	if (sealed.len < SIV_TAG_BYTES)
		return -EBADMSG;
	buf_reset(&it->value);
	/* A byte more: of an empty value there is a place too. */
	uint8_t *p = buf_grow(&it->value, sealed.len - SIV_TAG_BYTES + 1);
	if (!p)
		return -ENOMEM;
	it->value.len--;
	return siv_open(it->kv->values, key, sealed, p);
}

/* Names from `from` on; behind it only, when `behind`.  Of a window that is cut, none behind its last one. */
struct wanted {
	struct slice from;
	bool behind;
	uint8_t last[KV_KEY_MAX];
	size_t last_len;
};

static bool is_wanted(const struct window *w, const struct wanted *wanted, struct slice name)
{
	int order = bytes_compare(name, wanted->from);

	if (order < 0 || (order == 0 && wanted->behind))
		return false;
	return !w->cut || bytes_compare(name, (struct slice){wanted->last, wanted->last_len}) < 0;
}

static int cut_when_full(struct kv_iter *it, struct wanted *wanted)
{
	struct window *w = &it->w;

	if (w->bytes.len + w->n * NAME_COST < it->kv->window || w->n < 2)
		return 0;
	int r = window_halve(w);
	if (r < 0)
		return r;
	struct slice last = window_last(w);
	memcpy(wanted->last, last.p, last.len);
	wanted->last_len = last.len;
	return 0;
}

static int take_name(struct kv_iter *it, struct wanted *wanted, struct slice key)
{
	uint8_t bytes[KV_KEY_MAX];
	struct slice name = {bytes, 0};
	int r = open_name(it, key, bytes, &name.len);

	if (r < 0 || !is_wanted(&it->w, wanted, name))
		return r;
	r = open_value(it, key);
	if (r == 0 && it->value.len > UINT16_MAX)
		r = -EBADMSG;
	if (r == 0)
		r = window_add(&it->w, name, (struct slice){it->value.p, it->value.len});
	return r < 0 ? r : cut_when_full(it, wanted);
}

/* All of the directory passes by; the iterator below then stands behind it. */
static int window_fill(struct kv_iter *it, struct slice parent, struct wanted *wanted)
{
	const struct kv_ops *ops = it->kv->inner->ops;
	struct window *w = &it->w;
	int r = 0;

	memcpy(w->parent, parent.p, NAME_AT);
	w->from_start = wanted->from.len == 0 && !wanted->behind;
	w->filled = true;
	w->cut = false;
	w->n = 0;
	buf_reset(&w->bytes);
	for (ops->iter_seek(it->in, (struct slice){w->parent, NAME_AT}); r == 0 && ops->iter_valid(it->in);
	     ops->iter_next(it->in)) {
		struct slice key = ops->iter_key(it->in);

		if (!key_has_name(key) || memcmp(key.p, w->parent, NAME_AT) != 0)
			break;
		r = take_name(it, wanted, key);
	}
	if (r == 0)
		r = ops->iter_error(it->in);
	window_sort(w);
	w->filled = r == 0;
	return r;
}

/* Whether the first name >= `name` of the directory is in the window, or no such name is in the directory. */
static bool window_covers(const struct window *w, struct slice parent, struct slice name)
{
	if (!w->filled || memcmp(w->parent, parent.p, NAME_AT) != 0)
		return false;
	if (!w->from_start && (w->n == 0 || bytes_compare(name, entry_name(entry_at(w, w->at[0]))) < 0))
		return false;
	return !w->cut || bytes_compare(name, window_last(w)) <= 0;
}

static size_t window_search(const struct window *w, struct slice name)
{
	size_t low = 0, high = w->n;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (bytes_compare(entry_name(entry_at(w, w->at[middle])), name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* ---- standing at a row ---- */

/* At entry it->i of the window, which is there. */
static void stand_in_window(struct kv_iter *it)
{
	const struct entry *e = entry_at(&it->w, it->w.at[it->i]);

	memcpy(it->key.b, it->w.parent, NAME_AT);
	memcpy(it->key.b + NAME_AT, e->b, e->name_len);
	it->key.len = NAME_AT + e->name_len;
	buf_reset(&it->value);
	buf_put(&it->value, e->b + e->name_len, e->value_len);
	it->named = it->valid = true;
	if (it->value.failed)
		fail(it, -ENOMEM);
}

static void stand_plain(struct kv_iter *it, struct slice key)
{
	int r = key.len > sizeof(it->key.b) ? -EBADMSG : open_value(it, key);

	if (r < 0) {
		fail(it, r);
		return;
	}
	memcpy(it->key.b, key.p, key.len);
	it->key.len = key.len;
	it->valid = true;
}

/* At the row the iterator below stands at, or at the first name of the directory it begins. */
static void settle(struct kv_iter *it)
{
	const struct kv_ops *ops = it->kv->inner->ops;

	it->named = it->valid = false;
	while (ops->iter_valid(it->in)) {
		struct slice key = ops->iter_key(it->in);
		uint8_t parent[NAME_AT];

		if (!key_has_name(key)) {
			stand_plain(it, key);
			return;
		}
		memcpy(parent, key.p, NAME_AT); /* the pass moves on */
		int r = window_fill(it, (struct slice){parent, NAME_AT}, &(struct wanted){.from = {"", 0}});
		if (r < 0) {
			fail(it, r);
			return;
		}
		if (it->w.n) {
			it->i = 0;
			stand_in_window(it);
			return;
		}
	}
	it->error = ops->iter_error(it->in);
}

/* The iterator below goes behind the directory of the window, where it may not be any more. */
static void leave_window(struct kv_iter *it)
{
	uint64_t parent = be64_get(it->w.parent + 1);
	uint8_t next[NAME_AT] = {TABLE_OF_NAMES};

	be64_put(next + 1, parent + 1);
	if (parent == UINT64_MAX)
		it->kv->inner->ops->iter_seek(it->in, (struct slice){(const uint8_t[]){TABLE_OF_NAMES + 1}, 1});
	else
		it->kv->inner->ops->iter_seek(it->in, (struct slice){next, NAME_AT});
	settle(it);
}

static void seek_name(struct kv_iter *it, struct slice parent, struct wanted *wanted)
{
	int r = 0;

	if (wanted->behind || !window_covers(&it->w, parent, wanted->from))
		r = window_fill(it, parent, wanted);
	if (r < 0) {
		fail(it, r);
		return;
	}
	it->i = window_search(&it->w, wanted->from);
	if (it->i < it->w.n)
		stand_in_window(it);
	else
		leave_window(it);
}

/* ---- struct kv_ops ---- */

int kv_crypt_iter_open(struct kv *base, struct kv_iter **ret_iter)
{
	struct crypt_kv *kv = to_crypt_kv(base);
	struct kv_iter *it = calloc(1, sizeof(*it));

	if (!it)
		return -ENOMEM;
	it->kv = kv;
	int r = kv->inner->ops->iter_open(kv->inner, &it->in);
	if (r < 0) {
		free(it);
		return r;
	}
	*ret_iter = it;
	return 0;
}

void kv_crypt_iter_seek(struct kv_iter *it, struct slice key)
{
	it->named = it->valid = false;
	it->error = 0;
	if (key_has_name(key)) {
		uint8_t parent[NAME_AT], name[KV_KEY_MAX];
		size_t len = min_u64(key.len - NAME_AT, sizeof(name)); /* longer than any name: behind those it begins with */

		memcpy(parent, key.p, NAME_AT); /* it may be what this iterator lent */
		memcpy(name, (const uint8_t *)key.p + NAME_AT, len);
		seek_name(it, (struct slice){parent, NAME_AT}, &(struct wanted){.from = {name, len}});
		return;
	}
	it->kv->inner->ops->iter_seek(it->in, key);
	settle(it);
}

void kv_crypt_iter_next(struct kv_iter *it)
{
	if (!it->named) {
		it->kv->inner->ops->iter_next(it->in);
		settle(it);
		return;
	}
	if (++it->i < it->w.n) {
		stand_in_window(it);
		return;
	}
	it->named = it->valid = false;
	if (!it->w.cut) {
		leave_window(it);
		return;
	}
	uint8_t parent[NAME_AT], name[KV_KEY_MAX];
	struct slice last = window_last(&it->w);
	const size_t len = last.len;

	memcpy(parent, it->w.parent, NAME_AT);
	memcpy(name, last.p, len);
	seek_name(it, (struct slice){parent, NAME_AT}, &(struct wanted){.from = {name, len}, .behind = true});
}

bool kv_crypt_iter_valid(struct kv_iter *it)
{
	return it->valid;
}

struct slice kv_crypt_iter_key(struct kv_iter *it)
{
	assert(it->valid);
	return (struct slice){it->key.b, it->key.len};
}

struct slice kv_crypt_iter_value(struct kv_iter *it)
{
	assert(it->valid);
	return (struct slice){it->value.p, it->value.len};
}

int kv_crypt_iter_error(struct kv_iter *it)
{
	return it->error;
}

void kv_crypt_iter_close(struct kv_iter *it)
{
	it->kv->inner->ops->iter_close(it->in);
	buf_free(&it->value);
	buf_free(&it->w.bytes);
	free(it->w.at);
	free(it);
}
