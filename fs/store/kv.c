/*
 * kv.c: batches of puts and deletes, one after the other in a buffer, in the order they were added:
 * u8 op | u32 key len | u32 value len | key | value, host endian, never on disk.
 */
#include "fs/store/kv.h"

#include <string.h>

#define OP_HEADER (1 + 4 + 4)

static void batch_add(struct kv_batch *b, uint8_t op, struct slice key, struct slice value)
{
	uint8_t *at = buf_grow(&b->ops, OP_HEADER + key.len + value.len);
	uint32_t key_len = (uint32_t)key.len, value_len = (uint32_t)value.len;

	b->n++; /* even when out of memory: kv_write must see the batch to refuse it */
	if (!at)
		return;
	*at = op;
	memcpy(at + 1, &key_len, 4);
	memcpy(at + 5, &value_len, 4);
	memcpy(at + OP_HEADER, key.p, key.len);
	if (value.len)
		memcpy(at + OP_HEADER + key.len, value.p, value.len);
}

void kv_batch_put(struct kv_batch *b, struct slice key, struct slice value)
{
	batch_add(b, KV_PUT, key, value);
}
void kv_batch_delete(struct kv_batch *b, struct slice key)
{
	batch_add(b, KV_DELETE, key, (struct slice){0});
}

void kv_batch_reset(struct kv_batch *b)
{
	buf_reset(&b->ops);
	b->n = 0;
}

void kv_batch_free(struct kv_batch *b)
{
	buf_free(&b->ops);
	b->n = 0;
}

bool kv_batch_next(const struct kv_batch *b, size_t *at, uint8_t *ret_op, struct slice *ret_key, struct slice *ret_value)
{
	uint32_t key_len, value_len;

	if (*at >= b->ops.len)
		return false;
	const uint8_t *p = b->ops.p + *at;
	memcpy(&key_len, p + 1, 4);
	memcpy(&value_len, p + 5, 4);
	*ret_op = *p;
	*ret_key = (struct slice){p + OP_HEADER, key_len};
	*ret_value = (struct slice){p + OP_HEADER + key_len, value_len};
	*at += OP_HEADER + key_len + value_len;
	return true;
}
