/* chain.c: the hash chain of the audit log, line by line. */
#include "fs/core/audit/chain.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>

#define PREFIX "{\"n\":"

void audit_hash_text(const uint8_t hash[AUDIT_HASH_BYTES], char ret_text[AUDIT_HASH_TEXT])
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < AUDIT_HASH_BYTES; i++) {
		ret_text[2 * i] = digits[hash[i] >> 4];
		ret_text[2 * i + 1] = digits[hash[i] & 15];
	}
	ret_text[AUDIT_HASH_TEXT - 1] = '\0';
}

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int audit_hash_parse(const char *text, size_t len, uint8_t ret_hash[AUDIT_HASH_BYTES])
{
	uint8_t hash[AUDIT_HASH_BYTES];

	if (len != AUDIT_HASH_TEXT - 1)
		return -EINVAL;
	for (size_t i = 0; i < AUDIT_HASH_BYTES; i++) {
		int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EINVAL;
		hash[i] = (uint8_t)(high << 4 | low);
	}
	memcpy(ret_hash, hash, sizeof(hash));
	return 0;
}

int audit_hash(const uint8_t *before, struct slice body, uint8_t ret_hash[AUDIT_HASH_BYTES])
{
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	bool ok = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1 &&
		  (!before || EVP_DigestUpdate(c, before, AUDIT_HASH_BYTES) == 1) && EVP_DigestUpdate(c, body.p, body.len) == 1 &&
		  EVP_DigestFinal_ex(c, ret_hash, NULL) == 1;

	EVP_MD_CTX_free(c);
	return ok ? 0 : -EIO;
}

int audit_chain_add(struct audit_chain *chain, uint64_t n, struct slice members, struct buf *out)
{
	char hash_text[AUDIT_HASH_TEXT];
	uint8_t hash[AUDIT_HASH_BYTES];
	size_t begin = out->len;

	if (members.len > AUDIT_LINE_MAX - 128)
		return -E2BIG;
	buf_printf(out, PREFIX "%" PRIu64 ",", n);
	buf_put(out, members.p, members.len);
	buf_put_u8(out, '}');
	if (out->failed)
		return -ENOMEM;
	int r = audit_hash(chain->hash, (struct slice){out->p + begin, out->len - begin}, hash);
	if (r < 0) {
		out->len = begin;
		return r;
	}
	audit_hash_text(hash, hash_text);
	buf_printf(out, " %s\n", hash_text);
	if (out->failed)
		return -ENOMEM;
	chain->n = n;
	memcpy(chain->hash, hash, sizeof(hash));
	return 0;
}

/* The number that every body begins with. */
static bool read_number(struct slice body, uint64_t *ret)
{
	const char *p = body.p, *end = p + body.len;

	if (body.len < sizeof(PREFIX) || memcmp(p, PREFIX, sizeof(PREFIX) - 1) != 0)
		return false;
	p += sizeof(PREFIX) - 1;
	const char *first = p;
	for (*ret = 0; p < end && *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(*ret, 10, ret) || __builtin_add_overflow(*ret, (uint64_t)(*p - '0'), ret))
			return false;
	return p > first && p < end && *p == ',';
}

int audit_line_read(const uint8_t before[AUDIT_HASH_BYTES], struct slice text, struct audit_line *ret)
{
	const size_t tail = AUDIT_HASH_TEXT; /* a blank and the digits */
	char want[AUDIT_HASH_TEXT];
	const char *p = text.p;

	if (text.len == 0 || *p == '\0')
		return 0;
	const char *end = memchr(p, '\n', min_u64(text.len, AUDIT_LINE_MAX));
	if (!end || (size_t)(end - p) <= tail || end[-(ptrdiff_t)tail] != ' ')
		return -EBADMSG;
	*ret = (struct audit_line){.body = {p, (size_t)(end - p) - tail}, .bytes = (size_t)(end - p) + 1};
	int r = audit_hash(before, ret->body, ret->hash);
	if (r < 0)
		return r;
	audit_hash_text(ret->hash, want);
	bool same = memcmp(want, end - tail + 1, tail - 1) == 0;
	return same && read_number(ret->body, &ret->n) ? 1 : -EBADMSG;
}
