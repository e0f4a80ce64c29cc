/*
 * s3.c: see s3.h.  The verbs of the table, each one request (request.h) and what its answer must look like.
 */
#include "tier/s3/s3.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "tier/s3/request.h"

#define WHOLE_MAX     (1024u * 1024) /* of an object that came whole where a part was asked for */
#define LIST_KEYS     "1000"
#define LIST_EXPECTED (1024u * 1024)

static struct s3_store *store_of(struct object_store *s)
{
	return container_of(s, struct s3_store, base);
}

static void begin(struct object_call *call)
{
	call->retry_after_ns = 0;
	call->verified = false;
	call->status = 0;
	call->message[0] = 0;
}

static int refuse(const struct s3_store *s, struct object_call *call, const char *what)
{
	snprintf(call->message, sizeof(call->message), "%.180s: %s", s->label, what);
	return -EINVAL;
}

static int begin_key(const struct s3_store *s, struct object_call *call, const char *key)
{
	begin(call);
	return object_key_valid(key) ? 0 : refuse(s, call, "a key that no object can have");
}

/* ---- put */

struct digests {
	uint8_t md5[16];
	bool has_md5; /* a library in FIPS mode has none */
	char md5_base64[32], md5_hex[33], sha256_hex[SIGV4_HASH_TEXT];
};

static int digest_body(const EVP_MD *md, const struct iovec *iov, int n_iov, uint8_t *ret)
{
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	int r = c && EVP_DigestInit_ex(c, md, NULL) ? 0 : -EIO;

	for (int i = 0; i < n_iov && r == 0; i++)
		if (!EVP_DigestUpdate(c, iov[i].iov_base, iov[i].iov_len))
			r = -EIO;
	if (r == 0 && !EVP_DigestFinal_ex(c, ret, NULL))
		r = -EIO;
	EVP_MD_CTX_free(c);
	return r;
}

static void make_md5(const struct iovec *iov, int n_iov, struct digests *ret)
{
	ret->has_md5 = digest_body(EVP_md5(), iov, n_iov, ret->md5) == 0;
	EVP_EncodeBlock((uint8_t *)ret->md5_base64, ret->md5, sizeof(ret->md5));
	for (unsigned i = 0; i < sizeof(ret->md5); i++)
		snprintf(ret->md5_hex + 2 * i, 3, "%02x", ret->md5[i]);
}

static int make_sha256(const struct iovec *iov, int n_iov, struct digests *ret)
{
	uint8_t sha256[32];
	int r = digest_body(EVP_sha256(), iov, n_iov, sha256);

	if (r == 0)
		sigv4_hex(sha256, ret->sha256_hex);
	return r;
}

/* "0123..." with or without quotes. */
static bool etag_is(const char *etag, const char *md5_hex)
{
	etag += etag[0] == '"';
	return strncasecmp(etag, md5_hex, 32) == 0 && (etag[32] == 0 || strcmp(etag + 32, "\"") == 0);
}

/*
 * Over TLS nobody can change a body on its way.  Over plain HTTP its Content-MD5 is signed, which takes a second preimage of MD5
 * to get past, and hashing once more would cost both ends as much as sending.  A store that insists on SHA-256 gets that, from
 * its first refusal on; so does every store where there is no MD5.
 */
static int put_digested(struct s3_store *s, struct object_call *call, struct s3_request *q, struct digests *d)
{
	const bool known = s->tls || atomic_load(&s->bodies) == S3_BODIES_MD5;
	struct s3_answer a = {0};
	int r = 0;

	if (!s->tls && (!d->has_md5 || atomic_load(&s->bodies) == S3_BODIES_SHA256)) {
		r = make_sha256(q->body, q->n_body, d);
		q->content_sha256 = d->sha256_hex;
	}
	if (r == 0)
		r = s3_request(s, call, q, &a);
	if (r < 0 && !known && !q->content_sha256 && s3_answer_wants_sha256(&a)) {
		r = make_sha256(q->body, q->n_body, d);
		q->content_sha256 = d->sha256_hex;
		r = r < 0 ? r : s3_request(s, call, q, &a);
	}
	if (r == 0 && d->has_md5)
		atomic_store(&s->bodies, q->content_sha256 ? S3_BODIES_SHA256 : S3_BODIES_MD5);
	call->verified = r == 0 && d->has_md5 && etag_is(a.http.etag, d->md5_hex);
	return r;
}

static int s3_put(struct object_store *base, struct object_call *call, const char *key, const struct iovec *iov, int n_iov,
		  unsigned flags)
{
	static const struct iovec nothing;
	struct s3_store *s = store_of(base);
	struct digests d = {0};

	int r = begin_key(s, call, key);
	if (r < 0)
		return r;
	make_md5(iov, n_iov, &d);
	struct s3_request q = {.method = HTTP_PUT,
			       .key = key,
			       .create = flags & OBJECT_CREATE,
			       .body = n_iov ? iov : &nothing,
			       .n_body = n_iov ? n_iov : 1,
			       .content_md5 = d.has_md5 ? d.md5_base64 : NULL};
	return put_digested(s, call, &q, &d);
}

/* ---- get */

struct part {
	uint64_t off;
	size_t len;
	uint8_t *p;
	uint64_t skip, done; /* of the body: what to pass over before the range; bytes seen */
	bool checked;
	const char *what; /* is wrong */
};

static int part_refuse(struct part *t, int error, const char *what)
{
	t->what = what;
	return error;
}

/* Before the first byte: what is coming is what was asked for. */
static int check_part(struct part *t, const struct http_response *h)
{
	struct s3_range range;

	t->checked = true;
	if (h->status == 206) {
		if (s3_range_parse(h->content_range, &range) < 0 || range.from != t->off)
			return part_refuse(t, -EPROTO, "another range came than was asked for");
		if (range.to < t->off + t->len - 1)
			return part_refuse(t, -EBADMSG, "the object is shorter than it should be");
		return range.to == t->off + t->len - 1 ? 0 : part_refuse(t, -EPROTO, "more came than was asked for");
	}
	if (h->status != 200 || !h->has_length)
		return part_refuse(t, -EPROTO, "no answer to a range");
	if (h->length < t->off + t->len)
		return part_refuse(t, -EBADMSG, "the object is shorter than it should be");
	if (h->length > WHOLE_MAX && h->length != t->len)
		return part_refuse(t, -EPROTO, "the store knows no ranges");
	t->skip = t->off;
	return 0;
}

static int on_part(void *ctx, const struct http_response *h, const uint8_t *p, size_t len)
{
	struct part *t = ctx;
	const uint64_t from = t->done, to = t->done + len;

	int r = t->checked ? 0 : check_part(t, h);
	if (r < 0)
		return r;
	t->done = to;
	if (h->status == 206 && to > t->len)
		return part_refuse(t, -EPROTO, "more came than was asked for");
	const uint64_t first = max_u64(from, t->skip), end = min_u64(to, t->skip + t->len);
	if (first < end)
		memcpy(t->p + (first - t->skip), p + (first - from), (size_t)(end - first));
	return 0;
}

static int s3_get(struct object_store *base, struct object_call *call, const char *key, uint64_t off, size_t len, void *p)
{
	struct s3_store *s = store_of(base);
	struct part t = {.off = off, .len = len, .p = p};
	struct s3_answer a;
	char range[64];

	int r = begin_key(s, call, key);
	if (r < 0)
		return r;
	if (len == 0 || off > (uint64_t)INT64_MAX - len)
		return refuse(s, call, "a range that no object can have");
	snprintf(range, sizeof(range), "bytes=%ju-%ju", (uintmax_t)off, (uintmax_t)(off + len - 1));
	const struct s3_request q = {.method = HTTP_GET, .key = key, .range = range, .expected = len, .sink = on_part, .ctx = &t};
	r = s3_request(s, call, &q, &a);
	if (r == 0 && !t.checked)
		r = check_part(&t, &a.http);
	if (r == 0 && t.done < t.skip + len)
		r = part_refuse(&t, -EBADMSG, "less came than was announced");
	return t.what ? s3_fail(s, call, r, &q, t.what) : r;
}

/* ---- head, remove */

/* Whether it is the bucket that is missing, which an answer without a body does not say. */
static int check_bucket(struct s3_store *s, struct object_call *call)
{
	const struct s3_request q = {.method = HTTP_HEAD};
	struct s3_answer a;

	int r = s3_request(s, call, &q, &a);
	return r < 0 && a.http.status == 404 ? s3_fail(s, call, -ENODEV, &q, "404 there is no such bucket") : r;
}

static int s3_head(struct object_store *base, struct object_call *call, const char *key, struct object_info *ret)
{
	struct s3_store *s = store_of(base);
	const struct s3_request q = {.method = HTTP_HEAD, .key = key};
	struct s3_answer a;

	int r = begin_key(s, call, key);
	if (r < 0)
		return r;
	r = s3_request(s, call, &q, &a);
	if (r < 0 && a.http.status == 404) {
		r = check_bucket(s, call);
		call->status = 404;
		return r < 0 ? r : s3_fail(s, call, -ENOENT, &q, "404 no such object");
	}
	if (r == 0 && !a.http.has_length)
		return s3_fail(s, call, -EPROTO, &q, "the answer has no length");
	if (r == 0)
		*ret = (struct object_info){.size = a.http.length, .modified_ns = s3_date_parse(a.http.last_modified)};
	return r;
}

static int s3_remove(struct object_store *base, struct object_call *call, const char *key)
{
	struct s3_store *s = store_of(base);
	const struct s3_request q = {.method = HTTP_DELETE, .key = key};
	struct s3_answer a;

	int r = begin_key(s, call, key);
	return r < 0 ? r : s3_request(s, call, &q, &a);
}

/* ---- list */

struct listing {
	struct s3_store *store;
	struct object_call *call;
	const struct s3_request *request;
	const char *prefix; /* with the store's own */
	size_t own;         /* bytes of it that are the store's */
	const char *after;  /* without it */
	char last[1025];    /* name that was seen last */
	object_list_fn *fn;
	void *ctx;
};

static int on_list(void *ctx, const struct http_response *h, const uint8_t *p, size_t len)
{
	(void)h;
	return s3_list_feed(ctx, p, len);
}

static int fetch_page(struct listing *l, struct s3_page *page)
{
	struct s3_list_parser *parser;
	struct s3_answer a;

	int r = s3_list_parser_new(page, &parser);
	if (r < 0)
		return r;
	struct s3_request q = *l->request;
	q.sink = on_list;
	q.ctx = parser;
	r = s3_request(l->store, l->call, &q, &a);
	if (r == 0)
		r = s3_list_end(parser);
	if (r == -EPROTO && l->call->status == 200)
		s3_fail(l->store, l->call, r, &q, "this is no listing");
	s3_list_parser_free(parser);
	return r;
}

/* 1: the caller has enough. */
static int give_page(struct listing *l, const struct s3_page *page)
{
	int r = 0;

	for (unsigned i = 0; i < s3_page_count(page) && r == 0; i++) {
		const struct s3_entry *e = s3_page_entry(page, i);
		const char *name = s3_page_name(page, i);

		if (strncmp(name, l->prefix, strlen(l->prefix)) != 0 || strlen(name) >= sizeof(l->last))
			return s3_fail(l->store, l->call, -EPROTO, l->request, "the listing has a key that was not asked for");
		/* The next page begins where this one ends: out of order it might never come to an end. */
		if (strcmp(name, l->last) <= 0)
			return s3_fail(l->store, l->call, -EPROTO, l->request, "the listing is not in order");
		snprintf(l->last, sizeof(l->last), "%s", name);
		const struct object_info info = {.size = e->size, .modified_ns = e->modified_ns};
		if (object_key_valid(name + l->own) && strcmp(name + l->own, l->after) > 0)
			r = l->fn(l->ctx, name + l->own, &info);
	}
	return r;
}

static unsigned list_query(const struct listing *l, const char *start, const char *token, struct sigv4_field *ret)
{
	unsigned n = 0;

	ret[n++] = (struct sigv4_field){"list-type", "2"};
	ret[n++] = (struct sigv4_field){"encoding-type", "url"};
	ret[n++] = (struct sigv4_field){"max-keys", LIST_KEYS};
	ret[n++] = (struct sigv4_field){"prefix", l->prefix};
	if (token[0])
		ret[n++] = (struct sigv4_field){"continuation-token", token};
	else if (start[0])
		ret[n++] = (struct sigv4_field){"start-after", start};
	return n;
}

/* Page after page; 1: the caller has enough. */
static int list_pages(struct listing *l, const char *start)
{
	char token[S3_TOKEN_MAX + 1] = "";
	struct s3_page page = {0};
	struct sigv4_field query[8];
	bool more;
	int r;

	do {
		const struct s3_request q = {
		    .method = HTTP_GET, .query = query, .n_query = list_query(l, start, token, query), .expected = LIST_EXPECTED};

		l->request = &q;
		r = fetch_page(l, &page);
		if (r == 0)
			r = give_page(l, &page);
		more = r == 0 && page.truncated;
		if (more && (!page.token[0] || strcmp(page.token, token) == 0))
			r = s3_fail(l->store, l->call, -EPROTO, &q, "the listing does not go on");
		snprintf(token, sizeof(token), "%s", page.token);
		s3_page_free(&page);
	} while (more && r == 0);
	return r;
}

static int s3_list(struct object_store *base, struct object_call *call, const char *prefix, const char *after, object_list_fn *fn,
		   void *ctx)
{
	struct s3_store *s = store_of(base);
	const char *own = s->definition.prefix;
	char full[800], start[800];
	struct listing l = {
	    .store = s, .call = call, .prefix = full, .own = own[0] ? strlen(own) + 1 : 0, .after = after, .fn = fn, .ctx = ctx};

	begin(call);
	if (strlen(prefix) > OBJECT_KEY_MAX || strlen(after) > OBJECT_KEY_MAX)
		return refuse(s, call, "a prefix that no key can have");
	snprintf(full, sizeof(full), "%s%s%s", own, own[0] ? "/" : "", prefix);
	snprintf(start, sizeof(start), "%s%s%s", after[0] ? own : "", after[0] && own[0] ? "/" : "", after);
	int r = list_pages(&l, start);
	return r > 0 ? 0 : r;
}

/* ---- open, close */

static void s3_close(struct object_store *base)
{
	struct s3_store *s = store_of(base);

	http_free(s->http);
	credential_source_close(s->source);
	sigv4_signer_destroy(&s->signer);
	free(s);
}

static const struct object_store_ops s3_ops = {
    .put = s3_put, .get = s3_get, .head = s3_head, .remove = s3_remove, .list = s3_list, .close = s3_close};

/* Origin, host and path of the bucket. */
static void make_addresses(struct s3_store *s)
{
	const struct store_definition *d = &s->definition;
	const bool china = strncmp(d->region, "cn-", 3) == 0;
	char endpoint[256];

	snprintf(endpoint, sizeof(endpoint), "https://s3.%s.amazonaws.com%s", d->region, china ? ".cn" : "");
	if (d->endpoint[0])
		snprintf(endpoint, sizeof(endpoint), "%s", d->endpoint);
	s->tls = strncmp(endpoint, "https://", 8) == 0;
	const char *host = endpoint + (s->tls ? 8 : 7);
	snprintf(s->host, sizeof(s->host), "%s%s%s", d->path_style ? "" : d->bucket, d->path_style ? "" : ".", host);
	snprintf(s->origin, sizeof(s->origin), "http%s://%s", s->tls ? "s" : "", s->host);
	if (d->path_style)
		snprintf(s->path, sizeof(s->path), "/%s", d->bucket);
	snprintf(s->label, sizeof(s->label), "s3://%s%s%.60s at %.110s", d->bucket, d->prefix[0] ? "/" : "", d->prefix, endpoint);
	/* As libcurl and everybody else has it: without the port that goes without saying. */
	char *colon = strrchr(s->host, ':');
	if (colon && strcmp(colon, s->tls ? ":443" : ":80") == 0)
		*colon = 0;
}

static int open_parts(struct s3_store *s, const struct s3_config *c, char *message)
{
	const struct store_definition *d = &s->definition;

	if (d->ca_file[0] && access(d->ca_file, R_OK) < 0) {
		const int r = -errno;
		snprintf(message, OBJECT_MESSAGE_MAX, "ca=%.100s: %s", d->ca_file, strerror(-r));
		return r;
	}
	const struct http_config h = {
	    .ca_file = d->ca_file, .insecure = d->insecure, .timeout_ns = d->timeout_ns, .clock = s->clock};
	int r = credential_source_open(c->credentials_file, c->profile, &s->source, message);
	if (r == 0)
		r = http_new(&h, &s->http);
	return r;
}

int s3_open(const struct s3_config *c, struct object_store **ret, char *message)
{
	struct s3_store *s = calloc(1, sizeof(*s));

	message[0] = 0;
	if (!s)
		return -ENOMEM;
	s->base.ops = &s3_ops;
	s->definition = *c->definition;
	s->clock = c->clock ? c->clock : &clock_system;
	sigv4_signer_init(&s->signer, s->definition.region, "s3");
	make_addresses(s);
	int r = open_parts(s, c, message);
	if (r < 0) {
		s3_close(&s->base);
		return r;
	}
	*ret = &s->base;
	return 0;
}
