/*
 * sigv4.c: see sigv4.h.
 *
 * A request is brought into its canonical form, hashed, and the hash signed with a key that is derived from the secret, the day,
 * the region and the service.  Deriving takes four HMACs: the result is kept until the day or the secret changes.
 */
#include "tier/s3/sigv4.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* Indices of fields, sorted. */
struct order {
	unsigned n;
	uint8_t at[SIGV4_FIELDS_MAX];
};

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}
static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}
static bool is_unreserved(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c != 0 && strchr("-._~", c));
}

static void put_encoded(struct buf *b, const char *text, bool keep_slash)
{
	static const char digits[] = "0123456789ABCDEF";

	for (; *text; text++) {
		const uint8_t c = (uint8_t)*text;

		if (is_unreserved(*text) || (keep_slash && c == '/')) {
			buf_put_u8(b, c);
		} else {
			const char code[3] = {'%', digits[c >> 4], digits[c & 15]};
			buf_put(b, code, sizeof(code));
		}
	}
}

/* The order of two texts once they are encoded: a byte that gets encoded begins with '%', and hex digits sort as bytes do. */
static int compare_encoded(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	const uint8_t x = (uint8_t)*a, y = (uint8_t)*b;
	const int first_x = x == 0 || is_unreserved(*a) ? x : '%';
	const int first_y = y == 0 || is_unreserved(*b) ? y : '%';
	return first_x != first_y ? first_x - first_y : x - y;
}

/* By encoded name, then by encoded value. */
static int compare_query(const struct sigv4_field *a, const struct sigv4_field *b)
{
	int r = compare_encoded(a->name, b->name);

	return r ? r : compare_encoded(a->value, b->value);
}

/* By name in small letters; those of one name keep their order. */
static int compare_header(const struct sigv4_field *a, const struct sigv4_field *b)
{
	const char *x = a->name, *y = b->name;

	while (*x && lower(*x) == lower(*y))
		x++, y++;
	return (uint8_t)lower(*x) - (uint8_t)lower(*y);
}

/* Insertion sort: a dozen fields, and it is stable. */
static int sort_fields(const struct sigv4_field *f, unsigned n,
		       int (*compare)(const struct sigv4_field *, const struct sigv4_field *), struct order *ret)
{
	if (n > SIGV4_FIELDS_MAX)
		return -E2BIG;
	ret->n = n;
	for (unsigned i = 0; i < n; i++) {
		unsigned to = i;

		for (; to > 0 && compare(&f[ret->at[to - 1]], &f[i]) > 0; to--)
			ret->at[to] = ret->at[to - 1];
		ret->at[to] = (uint8_t)i;
	}
	return 0;
}

int sigv4_target(const char *path, const struct sigv4_field *query, unsigned n_query, struct buf *out)
{
	struct order o;

	assert(path[0] == '/');
	int r = sort_fields(query, n_query, compare_query, &o);
	if (r < 0)
		return r;
	put_encoded(out, path, true);
	for (unsigned i = 0; i < o.n; i++) {
		buf_put_u8(out, i == 0 ? '?' : '&');
		put_encoded(out, query[o.at[i]].name, false);
		buf_put_u8(out, '=');
		put_encoded(out, query[o.at[i]].value, false);
	}
	return out->failed ? -ENOMEM : 0;
}

/* "Trimall": no spaces around, one for each run of them within. */
static void put_trimmed(struct buf *b, const char *value)
{
	bool gap = false, any = false;

	for (; *value; value++) {
		if (is_space(*value)) {
			gap = any;
			continue;
		}
		if (gap)
			buf_put_u8(b, ' ');
		buf_put_u8(b, (uint8_t)*value);
		gap = false;
		any = true;
	}
}

static void put_lower(struct buf *b, const char *name)
{
	for (; *name; name++)
		buf_put_u8(b, (uint8_t)lower(*name));
}

/* "name:value\n" of each name; the values of one name are joined. */
static void put_headers(struct buf *b, const struct sigv4_field *h, const struct order *o)
{
	for (unsigned i = 0; i < o->n; i++) {
		const struct sigv4_field *f = &h[o->at[i]];

		if (i > 0 && compare_header(&h[o->at[i - 1]], f) == 0) {
			buf_put_u8(b, ',');
		} else {
			if (i > 0)
				buf_put_u8(b, '\n');
			put_lower(b, f->name);
			buf_put_u8(b, ':');
		}
		put_trimmed(b, f->value);
	}
	if (o->n > 0)
		buf_put_u8(b, '\n');
}

static void put_names(struct buf *b, const struct sigv4_field *h, const struct order *o)
{
	for (unsigned i = 0; i < o->n; i++) {
		if (i > 0 && compare_header(&h[o->at[i - 1]], &h[o->at[i]]) == 0)
			continue;
		if (i > 0)
			buf_put_u8(b, ';');
		put_lower(b, h[o->at[i]].name);
	}
}

int sigv4_canonical_request(const struct sigv4_request *q, struct buf *out)
{
	const char *mark = strchr(q->target, '?');
	const int path_len = mark ? (int)(mark - q->target) : (int)strlen(q->target);
	struct order o;

	int r = sort_fields(q->headers, q->n_headers, compare_header, &o);
	if (r < 0)
		return r;
	buf_printf(out, "%s\n%.*s\n%s\n", q->method, path_len, q->target, mark ? mark + 1 : "");
	put_headers(out, q->headers, &o);
	buf_put_u8(out, '\n');
	put_names(out, q->headers, &o);
	buf_printf(out, "\n%s", q->payload);
	return out->failed ? -ENOMEM : 0;
}

void sigv4_time(int64_t time_s, char ret_text[SIGV4_TIME_TEXT])
{
	const time_t t = (time_t)time_s;
	struct tm tm;

	if (!gmtime_r(&t, &tm) || strftime(ret_text, SIGV4_TIME_TEXT, "%Y%m%dT%H%M%SZ", &tm) == 0)
		snprintf(ret_text, SIGV4_TIME_TEXT, "19700101T000000Z");
}

void sigv4_hex(const uint8_t sha256[32], char ret_text[SIGV4_HASH_TEXT])
{
	for (unsigned i = 0; i < 32; i++)
		snprintf(ret_text + 2 * i, 3, "%02x", sha256[i]);
}

static int sha256(const void *p, size_t len, uint8_t ret[32])
{
	unsigned n = 32;

	return EVP_Digest(p, len, ret, &n, EVP_sha256(), NULL) ? 0 : -EIO;
}

static int hmac(const void *key, size_t key_len, const char *text, uint8_t ret[32])
{
	unsigned n = 32;

	return HMAC(EVP_sha256(), key, (int)key_len, (const uint8_t *)text, strlen(text), ret, &n) ? 0 : -EIO;
}

void sigv4_signer_init(struct sigv4_signer *s, const char *region, const char *service)
{
	*s = (struct sigv4_signer){0};
	snprintf(s->region, sizeof(s->region), "%s", region);
	snprintf(s->service, sizeof(s->service), "%s", service);
	mutex_init(&s->lock);
}

void sigv4_signer_destroy(struct sigv4_signer *s)
{
	mutex_destroy(&s->lock);
	OPENSSL_cleanse(s->key, sizeof(s->key));
	OPENSSL_cleanse(s->secret_sha256, sizeof(s->secret_sha256));
}

static int derive(const struct sigv4_signer *s, const char *secret_key, const char *day, uint8_t ret[32])
{
	CLEANUP_BUF struct buf first = {0};
	uint8_t key[32];
	const char *const parts[] = {day, s->region, s->service, "aws4_request"};

	if (!buf_grow(&first, strlen(secret_key) + 5))
		return -ENOMEM;
	int n = snprintf((char *)first.p, first.cap, "AWS4%s", secret_key);
	int r = hmac(first.p, (size_t)n, parts[0], key);
	for (unsigned i = 1; i < ARRAY_SIZE(parts) && r == 0; i++) {
		r = hmac(key, sizeof(key), parts[i], ret);
		memcpy(key, ret, sizeof(key));
	}
	OPENSSL_cleanse(first.p, first.cap);
	OPENSSL_cleanse(key, sizeof(key));
	return r;
}

/* The key of the day, from the cache or derived anew. */
static int get_key_locked(struct sigv4_signer *s, const char *secret_key, const char *day, uint8_t ret[32]) REQUIRES(&s->lock)
{
	uint8_t hash[32];

	int r = sha256(secret_key, strlen(secret_key), hash);
	if (r == 0 && (strcmp(s->day, day) != 0 || CRYPTO_memcmp(s->secret_sha256, hash, sizeof(hash)) != 0)) {
		s->day[0] = 0;
		r = derive(s, secret_key, day, s->key);
		if (r == 0) {
			memcpy(s->secret_sha256, hash, sizeof(hash));
			snprintf(s->day, sizeof(s->day), "%.8s", day);
		}
	}
	if (r == 0)
		memcpy(ret, s->key, 32);
	OPENSSL_cleanse(hash, sizeof(hash));
	return r;
}

static int get_key(struct sigv4_signer *s, const char *secret_key, const char *day, uint8_t ret[32])
{
	mutex_lock(&s->lock);
	int r = get_key_locked(s, secret_key, day, ret);
	mutex_unlock(&s->lock);
	return r;
}

/* Signs the string to sign: ret is the signature's text. */
static int sign_text(struct sigv4_signer *s, const char *secret_key, const char *day, const char *text, char ret[SIGV4_HASH_TEXT])
{
	uint8_t key[32], signature[32];

	int r = get_key(s, secret_key, day, key);
	if (r == 0)
		r = hmac(key, sizeof(key), text, signature);
	if (r == 0)
		sigv4_hex(signature, ret);
	OPENSSL_cleanse(key, sizeof(key));
	return r;
}

int sigv4_sign(struct sigv4_signer *s, const char *access_key, const char *secret_key, const struct sigv4_request *q,
	       struct buf *out)
{
	CLEANUP_BUF struct buf canonical = {0}, names = {0};
	char stamp[SIGV4_TIME_TEXT], day[9], hash_text[SIGV4_HASH_TEXT], signature[SIGV4_HASH_TEXT], scope[80], text[256];
	uint8_t hash[32];
	struct order o;

	int r = sigv4_canonical_request(q, &canonical);
	if (r == 0)
		r = sha256(canonical.p, canonical.len, hash);
	if (r == 0)
		r = sort_fields(q->headers, q->n_headers, compare_header, &o);
	if (r < 0)
		return r;
	sigv4_time(q->time_s, stamp);
	snprintf(day, sizeof(day), "%.8s", stamp);
	sigv4_hex(hash, hash_text);
	snprintf(scope, sizeof(scope), "%s/%s/%s/aws4_request", day, s->region, s->service);
	snprintf(text, sizeof(text), "AWS4-HMAC-SHA256\n%s\n%s\n%s", stamp, scope, hash_text);
	r = sign_text(s, secret_key, day, text, signature);
	if (r < 0)
		return r;
	put_names(&names, q->headers, &o);
	buf_put_u8(&names, 0);
	if (names.failed)
		return -ENOMEM;
	buf_printf(out, "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", access_key, scope,
		   (const char *)names.p, signature);
	return out->failed ? -ENOMEM : 0;
}
