/* request.c: see request.h. */
#include "tier/s3/request.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#define HEADERS_MAX 12u

static const char *const verbs[] = {[HTTP_GET] = "GET", [HTTP_HEAD] = "HEAD", [HTTP_PUT] = "PUT", [HTTP_DELETE] = "DELETE"};

/* One try: what is signed and sent. */
struct attempt {
	struct credentials credentials;
	struct buf target, url, lines; /* lines: "Name: value" each, NUL behind it */
	char time[SIGV4_TIME_TEXT];
	int64_t used_ns;                       /* the time it carries */
	struct sigv4_field field[HEADERS_MAX]; /* those that are signed */
	unsigned n_fields;
	const char *header[HEADERS_MAX];
	unsigned n_headers;
	/* of the answer */
	const struct s3_request *request;
	struct buf refusal; /* the body of what is no success, its beginning */
};

static void attempt_free(struct attempt *a)
{
	credentials_wipe(&a->credentials);
	if (a->lines.p)
		OPENSSL_cleanse(a->lines.p, a->lines.cap);
	buf_free(&a->lines);
	buf_free(&a->target);
	buf_free(&a->url);
	buf_free(&a->refusal);
}

int s3_fail(const struct s3_store *s, struct object_call *call, int error, const struct s3_request *q, const char *what)
{
	snprintf(call->message, sizeof(call->message), "%.110s: %s %.60s: %s", s->label, verbs[q->method],
		 q->key ? q->key : "bucket", what[0] ? what : strerror(-error));
	return error;
}

/* ---- what is sent */

static int make_target(const struct s3_store *s, const struct s3_request *q, struct attempt *a)
{
	char path[1200];
	const char *prefix = s->definition.prefix;

	if (q->key)
		snprintf(path, sizeof(path), "%s/%s%s%s", s->path, prefix, prefix[0] ? "/" : "", q->key);
	else
		snprintf(path, sizeof(path), "%s", s->path[0] ? s->path : "/");
	int r = sigv4_target(path, q->query, q->n_query, &a->target);
	buf_put_u8(&a->target, 0);
	if (r == 0)
		buf_printf(&a->url, "%s%s", s->origin, (const char *)a->target.p);
	return a->target.failed || a->url.failed ? -ENOMEM : r;
}

static void add_signed(struct attempt *a, const char *name, const char *value)
{
	a->field[a->n_fields++] = (struct sigv4_field){name, value};
}

/* Signed are host, x-amz-* and content-md5: what a proxy may touch is not. */
static void list_signed(const struct s3_store *s, const struct s3_request *q, const char *payload, struct attempt *a)
{
	add_signed(a, "Host", s->host);
	add_signed(a, "x-amz-date", a->time);
	add_signed(a, "x-amz-content-sha256", payload);
	if (a->credentials.session_token[0])
		add_signed(a, "x-amz-security-token", a->credentials.session_token);
	if (q->content_md5)
		add_signed(a, "Content-MD5", q->content_md5);
	if (q->method == HTTP_PUT && s->definition.storage_class[0])
		add_signed(a, "x-amz-storage-class", s->definition.storage_class);
}

static void add_line(struct attempt *a, const char *name, const char *value)
{
	buf_printf(&a->lines, "%s%s%s", name, value ? ": " : ":", value ? value : "");
	buf_put_u8(&a->lines, 0);
	a->n_headers++;
}

static int make_lines(const struct s3_request *q, const char *authorization, struct attempt *a)
{
	/* All of it at once, so that no copy of a secret stays behind. */
	if (!buf_grow(&a->lines, 8192))
		return -ENOMEM;
	buf_reset(&a->lines);
	for (unsigned i = 0; i < a->n_fields; i++)
		add_line(a, a->field[i].name, a->field[i].value);
	add_line(a, "Authorization", authorization);
	add_line(a, "Expect", NULL); /* no waiting for "100 Continue" */
	if (q->range)
		add_line(a, "Range", q->range);
	if (q->create)
		add_line(a, "If-None-Match", "*");
	if (a->lines.failed)
		return -ENOMEM;
	const char *p = (const char *)a->lines.p;
	for (unsigned i = 0; i < a->n_headers; i++, p += strlen(p) + 1)
		a->header[i] = p;
	return 0;
}

static int make_attempt(struct s3_store *s, const struct s3_request *q, struct attempt *a)
{
	const char *payload = !q->body ? SIGV4_EMPTY_PAYLOAD : q->content_sha256 ? q->content_sha256 : SIGV4_UNSIGNED_PAYLOAD;
	CLEANUP_BUF struct buf authorization = {0};

	a->request = q;
	a->used_ns = clock_real_ns(s->clock) + atomic_load(&s->skew_ns);
	sigv4_time(a->used_ns / NSEC_PER_SEC, a->time);
	credential_source_get(s->source, &a->credentials);
	int r = make_target(s, q, a);
	if (r < 0)
		return r;
	list_signed(s, q, payload, a);
	const struct sigv4_request signing = {.method = verbs[q->method],
					      .target = (const char *)a->target.p,
					      .headers = a->field,
					      .n_headers = a->n_fields,
					      .payload = payload,
					      .time_s = a->used_ns / NSEC_PER_SEC};
	r = sigv4_sign(&s->signer, a->credentials.access_key, a->credentials.secret_key, &signing, &authorization);
	return r < 0 ? r : make_lines(q, (const char *)authorization.p, a);
}

/* ---- what comes back */

static int on_body(void *ctx, const struct http_response *h, const uint8_t *p, size_t len)
{
	struct attempt *a = ctx;

	if (h->status >= 200 && h->status < 300)
		return a->request->sink ? a->request->sink(a->request->ctx, h, p, len) : 0;
	buf_put(&a->refusal, p, (size_t)min_u64(len, XML_ERROR_MAX - a->refusal.len));
	return 0;
}

/* The token of a session travels with each request, so a message could hold it. */
static void read_refusal(const struct attempt *a, struct s3_answer *ret)
{
	if (s3_error_parse((struct slice){a->refusal.p, a->refusal.len}, &ret->error) < 0)
		return;
	for (const char *p = a->credentials.session_token; strlen(p) >= 16; p += 16) {
		char part[17];

		snprintf(part, sizeof(part), "%.16s", p);
		if (strstr(ret->error.message, part))
			ret->error.message[0] = 0;
	}
}

static int try_once(struct s3_store *s, struct object_call *call, const struct s3_request *q, struct attempt *a,
		    struct s3_answer *ret)
{
	char what[200] = "";

	int r = make_attempt(s, q, a);
	if (r < 0)
		return s3_fail(s, call, r, q, "");
	const struct http_request h = {.method = q->method,
				       .url = (const char *)a->url.p,
				       .headers = a->header,
				       .n_headers = a->n_headers,
				       .body = q->body,
				       .n_body = q->n_body,
				       .expected = q->expected,
				       .deadline_ns = call->deadline_ns,
				       .cancel = call->cancel,
				       .sink = on_body,
				       .ctx = a};
	r = http_perform(s->http, &h, &ret->http, what, sizeof(what));
	call->status = ret->http.status;
	if (r < 0)
		return s3_fail(s, call, r, q, what);
	if (a->refusal.len > 0)
		read_refusal(a, ret);
	r = s3_answer_error(ret, q->create);
	if (r == 0)
		return 0;
	s3_answer_text(ret, what, sizeof(what));
	if (r == -EBUSY)
		call->retry_after_ns = s3_answer_retry_after(ret, clock_real_ns(s->clock));
	return s3_fail(s, call, r, q, what);
}

/* Whether the same request may pass now: with the store's time, or with credentials that came since. */
static bool may_help(struct s3_store *s, const struct attempt *a, const struct s3_answer *answer, bool *corrected, bool *renewed)
{
	int64_t skew_ns;

	if (!*corrected && s3_answer_skew(answer, clock_real_ns(s->clock), a->used_ns, &skew_ns)) {
		atomic_store(&s->skew_ns, skew_ns);
		return *corrected = true;
	}
	if (!*renewed && credential_source_renew(s->source, &a->credentials))
		return *renewed = true;
	return false;
}

int s3_request(struct s3_store *s, struct object_call *call, const struct s3_request *q, struct s3_answer *ret)
{
	bool corrected = false, renewed = false, again;
	int r;

	do {
		struct attempt a = {0};

		*ret = (struct s3_answer){0};
		call->message[0] = 0;
		r = try_once(s, call, q, &a, ret);
		again = r == -EACCES && may_help(s, &a, ret, &corrected, &renewed);
		attempt_free(&a);
	} while (again);
	return r;
}
