/*
 * http.h: HTTP requests over kept connections, one after the other or many at once: what an object store needs of libcurl.
 *
 * Nothing happens that was not asked for: no redirect is followed, no proxy of the environment is used, no other protocol than
 * http and https is spoken (TLS 1.2 or newer), the URL goes out as it is, and headers are the caller's.  The environment and
 * ~/.netrc are not looked at.
 * Times: connecting takes up to `timeout_ns`, as does any moment without a byte moved; all of it ends at the deadline.  Without a
 * deadline a request has `timeout_ns` and a second more for every HTTP_SLOWEST bytes of its body or expected answer.
 *
 * Ownership: bodies are borrowed for the call; a response is a value.  Threads: any number of calls at once, each with a
 * connection of its own, which is kept for the next.
 * Errors: -ETIMEDOUT, -ECONNREFUSED, -ECONNRESET, -EHOSTUNREACH no answer, or half of one; -EPROTO not HTTP, or more than asked,
 * or a certificate that does not pass; -ENOMEM; those of the sink.  Any status is a success here.
 */
#pragma once

#include <stdatomic.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "base/util.h"

#define HTTP_SLOWEST    16384u /* bytes a second */
#define HTTP_HEADER_MAX 256u

struct http_config {
	const char *ca_file; /* "" or NULL: those of the system; copied */
	bool insecure;       /* certificates are not checked */
	int64_t timeout_ns;
	const struct clock *clock; /* borrowed */
};
struct http;
MUST_CHECK int http_new(const struct http_config *c, struct http **ret);
struct http *http_free(struct http *h); /* NULL is fine; nothing may be under way */

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_PUT, HTTP_DELETE };

/* What of an answer's headers concerns us; "" when it is not there. */
struct http_response {
	int status;
	bool has_length;
	uint64_t length; /* Content-Length */
	char etag[HTTP_HEADER_MAX], content_range[HTTP_HEADER_MAX], retry_after[HTTP_HEADER_MAX], date[HTTP_HEADER_MAX];
	char last_modified[HTTP_HEADER_MAX], region[HTTP_HEADER_MAX]; /* x-amz-bucket-region */
};

struct http_request {
	enum http_method method;
	const char *url;
	const char *const *headers; /* "Name: value" each; "Name:" takes one of libcurl's away */
	unsigned n_headers;
	const struct iovec *body; /* of a put */
	int n_body;
	uint64_t expected;         /* bytes of the answer, for the time it may take */
	int64_t deadline_ns;       /* monotonic, 0: none */
	const atomic_bool *cancel; /* once true the call ends within a second, with -ECANCELED; NULL: never */
	/* Takes the body as it comes, headers and status known: 0, or an error that ends the call.  Called by the same thread. */
	int (*sink)(void *ctx, const struct http_response *r, const uint8_t *p, size_t len);
	void *ctx;
};
/* `message`, of `cap` bytes, says what went wrong below HTTP. */
MUST_CHECK int http_perform(struct http *h, const struct http_request *q, struct http_response *ret, char *message, size_t cap);
