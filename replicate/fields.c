/* fields.c: see fields.h. */
#include "replicate/fields.h"

#include <errno.h>
#include <malloc.h>
#include <openssl/crypto.h>
#include <string.h>

#include "replicate/peers.h"

#define HEX_BYTES_MAX 64u

/* jansson frees what it parsed in places that nobody else sees.  Memory it got before this is malloc's as well. */
static void wiping_free(void *p)
{
	if (p)
		OPENSSL_cleanse(p, malloc_usable_size(p));
	free(p);
}

__attribute__((constructor)) static void wipe_what_jansson_frees(void)
{
	json_set_alloc_funcs(malloc, wiping_free);
}

int fields_parse(struct slice text, json_t **ret_object)
{
	json_error_t error;
	json_t *o = json_loadb(text.p, text.len, JSON_REJECT_DUPLICATES, &error);

	if (!o)
		return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EUCLEAN;
	if (!json_is_object(o)) {
		json_decref(o);
		return -EUCLEAN;
	}
	*ret_object = o;
	return 0;
}

static int append(const char *p, size_t n, void *ctx)
{
	buf_put(ctx, p, n);
	return 0;
}

void fields_print(json_t *object, struct buf *out)
{
	if (!object || json_dump_callback(object, append, out, JSON_COMPACT | JSON_SORT_KEYS) != 0)
		out->failed = true;
	buf_printf(out, "%s", ""); /* ends with a NUL behind its end */
	json_decref(object);
}

int field_slice(const json_t *object, const char *key, size_t max, struct slice *ret)
{
	const json_t *v = json_object_get(object, key);

	if (!json_is_string(v) || json_string_length(v) > max)
		return -EUCLEAN;
	*ret = (struct slice){json_string_value(v), json_string_length(v)};
	return 0;
}

int field_text(const json_t *object, const char *key, char *ret, size_t cap)
{
	struct slice text;

	int r = field_slice(object, key, cap - 1, &text);
	if (r < 0)
		return r;
	memcpy(ret, text.p, text.len);
	ret[text.len] = '\0';
	return 0;
}

int field_number(const json_t *object, const char *key, uint64_t max, uint64_t *ret)
{
	const json_t *v = json_object_get(object, key);

	if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > max)
		return -EUCLEAN;
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

int field_bool(const json_t *object, const char *key, bool *ret)
{
	const json_t *v = json_object_get(object, key);

	if (!json_is_boolean(v))
		return -EUCLEAN;
	*ret = json_is_true(v);
	return 0;
}

int field_array(const json_t *object, const char *key, size_t max, const json_t **ret)
{
	const json_t *v = json_object_get(object, key);

	if (!json_is_array(v) || json_array_size(v) > max)
		return -EUCLEAN;
	*ret = v;
	return 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int field_bytes(const json_t *object, const char *key, uint8_t *ret, size_t n)
{
	struct slice text;

	int r = field_slice(object, key, 2 * n, &text);
	if (r < 0)
		return r;
	if (text.len != 2 * n)
		return -EUCLEAN;
	for (size_t i = 0; i < n; i++) {
		const char *at = (const char *)text.p + 2 * i;
		int high = hex_digit(at[0]), low = hex_digit(at[1]);

		if (high < 0 || low < 0)
			return -EUCLEAN;
		ret[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}

int field_uuid(const json_t *object, const char *key, uint8_t ret[16])
{
	char text[NODE_UUID_TEXT];

	int r = field_text(object, key, text, sizeof(text));
	if (r < 0)
		return r;
	return node_uuid_parse(text, ret) < 0 ? -EUCLEAN : 0;
}

json_t *json_hex(const uint8_t *p, size_t n)
{
	static const char digits[] = "0123456789abcdef";
	char text[2 * HEX_BYTES_MAX];

	if (n > HEX_BYTES_MAX)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		text[2 * i] = digits[p[i] >> 4];
		text[2 * i + 1] = digits[p[i] & 15];
	}
	json_t *v = json_stringn(text, 2 * n);
	OPENSSL_cleanse(text, sizeof(text));
	return v;
}
