/*
 * token.c: an invitation as one word to copy: TOKEN_PREFIX, then base64url (RFC 4648, without padding) of a JSON object.
 *
 * A token travels by hand through mail, chats and terminals: white space around it is passed over, anything else that does not
 * belong to it makes it none.
 */
#include <errno.h>
#include <string.h>

#include "replicate/fields.h"
#include "replicate/net/join.h"
#include "replicate/secret.h"

#define TOKEN_TEXT_MAX 4096u

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void put_base64url(struct buf *out, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i += 3) {
		size_t n = len - i < 3 ? len - i : 3;
		uint32_t v = (uint32_t)p[i] << 16 | (n > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (n > 2 ? p[i + 2] : 0);

		for (size_t k = 0; k <= n; k++)
			buf_put_u8(out, (uint8_t)digits[v >> (18 - 6 * k) & 63]);
	}
}

static int digit_value(char c)
{
	const char *at = memchr(digits, c, sizeof(digits) - 1);

	return at ? (int)(at - digits) : -1;
}

/* `len` digits; bits that belong to no byte must be zero, so that each text has one spelling. */
static int get_base64url(const char *text, size_t len, struct buf *out)
{
	uint32_t bits = 0, n_bits = 0;

	if (len % 4 == 1)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		int v = digit_value(text[i]);

		if (v < 0)
			return -EINVAL;
		bits = bits << 6 | (uint32_t)v;
		n_bits += 6;
		if (n_bits >= 8) {
			n_bits -= 8;
			buf_put_u8(out, (uint8_t)(bits >> n_bits));
			bits &= (1u << n_bits) - 1;
		}
	}
	return bits == 0 ? 0 : -EINVAL;
}

static json_t *token_json(const struct token *t)
{
	char volume[NODE_UUID_TEXT];

	node_uuid_text(t->volume, volume);
	return json_pack("{s:s, s:s, s:o, s:s, s:o, s:I, s:s}", "address", t->address, "volume", volume, "ca",
			 json_hex(t->ca_sha256, sizeof(t->ca_sha256)), "id", t->id, "secret",
			 json_hex(t->secret, sizeof(t->secret)), "expires", (json_int_t)t->expires_s, "name", t->name);
}

void token_print(const struct token *t, struct buf *out)
{
	CLEANUP_SECRET struct buf json = {0};

	secret_reserve(&json, TOKEN_TEXT_MAX);
	secret_reserve(out, TOKEN_TEXT_MAX);
	fields_print(token_json(t), &json);
	out->failed |= json.failed;
	buf_put(out, TOKEN_PREFIX, strlen(TOKEN_PREFIX));
	put_base64url(out, json.p, json.len);
	buf_printf(out, "%s", "");
}

static int parse_json(struct slice json, struct token *t)
{
	CLEANUP_JSON json_t *o = NULL;
	char host[WIRE_TEXT_MAX + 1];
	uint64_t expires = 0;
	uint16_t port = 0;

	int r = fields_parse(json, &o);
	if (r == 0)
		r = field_text(o, "address", t->address, sizeof(t->address));
	if (r == 0)
		r = field_uuid(o, "volume", t->volume);
	if (r == 0)
		r = field_bytes(o, "ca", t->ca_sha256, sizeof(t->ca_sha256));
	if (r == 0)
		r = field_text(o, "id", t->id, sizeof(t->id));
	if (r == 0)
		r = field_bytes(o, "secret", t->secret, sizeof(t->secret));
	if (r == 0)
		r = field_number(o, "expires", INT64_MAX, &expires);
	if (r == 0)
		r = field_text(o, "name", t->name, sizeof(t->name));
	if (r < 0)
		return r;
	t->expires_s = (int64_t)expires;
	if (!peer_name_ok(t->name) || strspn(t->id, "0123456789abcdef") != sizeof(t->id) - 1)
		return -EINVAL;
	return address_parse(t->address, host, sizeof(host), &port) < 0 || port == 0 ? -EINVAL : 0;
}

int token_parse(const char *text, struct token *ret)
{
	static const char blanks[] = " \t\r\n";
	CLEANUP_SECRET struct buf json = {0};
	struct token t = {0};

	text += strspn(text, blanks);
	size_t len = strcspn(text, blanks);
	size_t prefix = strlen(TOKEN_PREFIX);
	if (text[len + strspn(text + len, blanks)] != '\0' || len > TOKEN_TEXT_MAX || strncmp(text, TOKEN_PREFIX, prefix) != 0)
		return -EINVAL;
	secret_reserve(&json, TOKEN_TEXT_MAX);
	int r = get_base64url(text + prefix, len - prefix, &json);
	if (r == 0)
		r = json.failed ? -ENOMEM : parse_json(buf_slice(&json), &t);
	if (r == 0)
		*ret = t;
	token_wipe(&t);
	return r == -EUCLEAN ? -EINVAL : r;
}

void token_wipe(struct token *t)
{
	OPENSSL_cleanse(t, sizeof(*t));
}
