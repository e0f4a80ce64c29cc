/*
 * kv_crypt.c: single rows: sealed on their way down, opened and checked on their way up.
 *
 * A batch becomes another batch of the same length.  Sealing gives the same bytes each time, so a name is found by sealing it
 * again.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/store/crypt/kv_crypt_impl.h"

#define GET_STACK 1024u

int kv_crypt_bad(struct crypt_kv *kv, int error)
{
	if (error == -EBADMSG && !atomic_exchange(&kv->logged, true))
		log_error("index: a row was not sealed with this volume's key, or not for where it lies: it was damaged or "
			  "tampered with");
	return error;
}

static int stored_key(struct crypt_kv *kv, struct slice key, struct stored_key *ret)
{
	bool named = key_has_name(key);

	if (key.len + (named ? SIV_TAG_BYTES : 0) > KV_KEY_MAX)
		return -EINVAL;
	if (!named) {
		memcpy(ret->b, key.p, key.len);
		ret->len = key.len;
		return 0;
	}
	const struct slice name = {(const uint8_t *)key.p + NAME_AT, key.len - NAME_AT};
	memcpy(ret->b, key.p, NAME_AT);
	ret->len = key.len + SIV_TAG_BYTES;
	return siv_seal(kv->names, key_parent(key), name, ret->b + NAME_AT);
}

/* What fits into `cap` is opened into p; the length is told of what does not, too. */
static int open_value(struct crypt_kv *kv, const struct stored_key *key, struct slice sealed, void *p, size_t cap,
		      size_t *ret_len)
{
	if (sealed.len < SIV_TAG_BYTES)
		return kv_crypt_bad(kv, -EBADMSG);
	*ret_len = sealed.len - SIV_TAG_BYTES;
	return *ret_len > cap ? -ERANGE : kv_crypt_bad(kv, siv_open(kv->values, (struct slice){key->b, key->len}, sealed, p));
}

static int crypt_get(struct kv *base, struct slice key, void *p, size_t cap, size_t *ret_len)
{
	struct crypt_kv *kv = to_crypt_kv(base);
	uint8_t few[GET_STACK];
	CLEANUP_FREE uint8_t *many = NULL;
	struct stored_key stored;
	size_t len = 0, room = min_u64(cap, KV_VALUE_MAX) + SIV_TAG_BYTES;
	int r = stored_key(kv, key, &stored);

	if (r < 0)
		return r;
	if (room > sizeof(few) && !(many = malloc(room)))
		return -ENOMEM;
	uint8_t *sealed = many ? many : few;
	r = kv_get(kv->inner, (struct slice){stored.b, stored.len}, sealed, room, &len);
	if (r == -ERANGE) {
		*ret_len = len - SIV_TAG_BYTES; /* longer than SIV_TAG_BYTES: it did not fit into more than that */
		return r;
	}
	return r < 0 ? r : open_value(kv, &stored, (struct slice){sealed, len}, p, cap, ret_len);
}

static int seal_row(struct crypt_kv *kv, struct kv_batch *to, uint8_t op, struct slice key, struct slice value, uint8_t *room)
{
	struct stored_key stored;
	int r = stored_key(kv, key, &stored);

	if (r < 0)
		return r;
	const struct slice aad = {stored.b, stored.len};
	if (op == KV_DELETE) {
		kv_batch_delete(to, aad);
		return 0;
	}
	if (value.len > KV_VALUE_MAX - SIV_TAG_BYTES)
		return -EINVAL;
	r = siv_seal(kv->values, aad, value, room);
	if (r == 0)
		kv_batch_put(to, aad, (struct slice){room, value.len + SIV_TAG_BYTES});
	return r;
}

static size_t longest_value(const struct kv_batch *b)
{
	struct slice key, value;
	size_t at = 0, longest = 0;
	uint8_t op;

	while (kv_batch_next(b, &at, &op, &key, &value))
		longest = max_u64(longest, value.len);
	return longest;
}

static int crypt_write(struct kv *base, const struct kv_batch *b)
{
	struct crypt_kv *kv = to_crypt_kv(base);
	CLEANUP_FREE uint8_t *room = malloc(longest_value(b) + SIV_TAG_BYTES);
	struct kv_batch sealed = {0};
	struct slice key, value;
	size_t at = 0;
	uint8_t op;
	int r = room && !b->ops.failed ? 0 : -ENOMEM;

	while (r == 0 && kv_batch_next(b, &at, &op, &key, &value))
		r = seal_row(kv, &sealed, op, key, value, room);
	if (r == 0)
		r = kv_write(kv->inner, &sealed);
	kv_batch_free(&sealed);
	return r;
}

static int crypt_freeze(struct kv *kv)
{
	struct kv *inner = to_crypt_kv(kv)->inner;

	return inner->ops->freeze(inner);
}

static int crypt_flush_frozen(struct kv *kv)
{
	struct kv *inner = to_crypt_kv(kv)->inner;

	return inner->ops->flush_frozen(inner);
}

static uint64_t crypt_memory_bytes(struct kv *kv)
{
	struct kv *inner = to_crypt_kv(kv)->inner;

	return inner->ops->memory_bytes(inner);
}

static void crypt_describe(struct kv *kv, struct buf *out)
{
	struct kv *inner = to_crypt_kv(kv)->inner;

	inner->ops->describe(inner, out);
	buf_printf(out, ", encrypted");
}

/* A snapshot below holds sealed rows: it is one of this index. */
static int crypt_snapshot_create(struct kv *kv, uint64_t id)
{
	struct kv *inner = to_crypt_kv(kv)->inner;

	return inner->ops->snapshot_create(inner, id);
}

static int crypt_snapshot_remove(struct kv *kv, uint64_t id)
{
	struct kv *inner = to_crypt_kv(kv)->inner;

	return inner->ops->snapshot_remove(inner, id);
}

static int crypt_snapshot_open(struct kv *base, uint64_t id, struct kv **ret_kv)
{
	struct crypt_kv *kv = to_crypt_kv(base);
	struct kv *snapshot;
	int r = kv->inner->ops->snapshot_open(kv->inner, id, &snapshot);

	if (r < 0)
		return r;
	r = kv_crypt_new(snapshot, &kv->key, kv->window, ret_kv);
	if (r < 0)
		kv_close(snapshot);
	return r;
}

static int crypt_snapshot_each(struct kv *kv, int (*fn)(void *ctx, uint64_t id), void *ctx)
{
	struct kv *inner = to_crypt_kv(kv)->inner;

	return inner->ops->snapshot_each(inner, fn, ctx);
}

static void crypt_close(struct kv *base)
{
	struct crypt_kv *kv = to_crypt_kv(base);

	kv_close(kv->inner);
	siv_free(kv->names);
	siv_free(kv->values);
	data_key_wipe(&kv->key);
	free(kv);
}

static const struct kv_ops crypt_ops = {
    .get = crypt_get,
    .write = crypt_write,
    .iter_open = kv_crypt_iter_open,
    .iter_seek = kv_crypt_iter_seek,
    .iter_next = kv_crypt_iter_next,
    .iter_valid = kv_crypt_iter_valid,
    .iter_key = kv_crypt_iter_key,
    .iter_value = kv_crypt_iter_value,
    .iter_error = kv_crypt_iter_error,
    .iter_close = kv_crypt_iter_close,
    .freeze = crypt_freeze,
    .flush_frozen = crypt_flush_frozen,
    .memory_bytes = crypt_memory_bytes,
    .describe = crypt_describe,
    .snapshot_create = crypt_snapshot_create,
    .snapshot_remove = crypt_snapshot_remove,
    .snapshot_open = crypt_snapshot_open,
    .snapshot_each = crypt_snapshot_each,
    .close = crypt_close,
};

static int siv_for(const struct data_key *key, const char *use, struct siv **ret)
{
	uint8_t bytes[SIV_KEY_BYTES];
	int r = data_key_derive(key, use, "", bytes, sizeof(bytes));

	if (r == 0)
		r = siv_new(bytes, ret);
	key_wipe(bytes, sizeof(bytes));
	return r;
}

int kv_crypt_new(struct kv *inner, const struct data_key *key, size_t window, struct kv **ret_kv)
{
	struct crypt_kv *kv = calloc(1, sizeof(*kv));
	int r = kv ? siv_for(key, "index names", &kv->names) : -ENOMEM;

	if (r == 0)
		r = siv_for(key, "index values", &kv->values);
	if (r < 0) {
		if (kv)
			siv_free(kv->names);
		free(kv);
		return r;
	}
	kv->base.ops = &crypt_ops;
	kv->inner = inner;
	kv->key = *key;
	kv->window = window ? window : KV_CRYPT_WINDOW;
	*ret_kv = &kv->base;
	return 0;
}
