/*
 * http.c: see http.h.
 *
 * A call takes an idle easy handle from the pool, or makes one, and puts it back when it is done; the handle keeps its
 * connection.  So there is one connection for each call under way, and the most recently used one is taken first.  A connection
 * that the server closed meanwhile is noticed by libcurl, which sends the request once more on a new one: that is why bodies can
 * be rewound.
 */
#include "tier/s3/http.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/lock.h"

#define IDLE_MAX     64u
#define IDLE_SECONDS 60L /* before a connection is not used again: servers close idle ones */
#define DOWN_BUFFER  (256L * 1024)
#define UP_BUFFER    (512L * 1024)

struct http {
	struct http_config config;
	char ca_file[256];
	struct mutex lock;
	/* guarded by lock */
	CURL *idle[IDLE_MAX];
	unsigned n_idle;
};

/* One call. */
struct transfer {
	const struct http *http;
	const struct http_request *request;
	struct http_response *response;
	int i_body; /* where of the body the next byte is */
	size_t at;
	int error; /* of the sink */
	bool stalled;
	curl_off_t moved; /* bytes of both directions when last looked at */
	int64_t moved_ns;
	char text[CURL_ERROR_SIZE];
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_state;

static void init_curl(void)
{
	curl_state = curl_global_init(CURL_GLOBAL_DEFAULT);
}

int http_new(const struct http_config *c, struct http **ret)
{
	pthread_once(&curl_once, init_curl);
	struct http *h = curl_state == CURLE_OK ? calloc(1, sizeof(*h)) : NULL;
	if (!h)
		return -ENOMEM;
	h->config = *c;
	snprintf(h->ca_file, sizeof(h->ca_file), "%s", c->ca_file ? c->ca_file : "");
	h->config.ca_file = h->ca_file;
	mutex_init(&h->lock);
	*ret = h;
	return 0;
}

/* A write to a connection that is gone must be an error, not the end of the program; what was pending before stays. */
struct quiet {
	sigset_t before;
	bool pending;
};

static void quiet_begin(struct quiet *q)
{
	sigset_t pipe, pending;

	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	sigpending(&pending);
	q->pending = sigismember(&pending, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe, &q->before);
}

static void quiet_end(const struct quiet *q)
{
	static const struct timespec now = {0};
	sigset_t pipe;

	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	if (!q->pending)
		while (sigtimedwait(&pipe, NULL, &now) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &q->before, NULL);
}

struct http *http_free(struct http *h)
{
	struct quiet quiet;

	if (!h)
		return NULL;
	quiet_begin(&quiet);
	for (unsigned i = 0; i < h->n_idle; i++)
		curl_easy_cleanup(h->idle[i]);
	quiet_end(&quiet);
	mutex_destroy(&h->lock);
	free(h);
	return NULL;
}

static CURL *take_handle(struct http *h)
{
	CURL *e = NULL;

	mutex_lock(&h->lock);
	if (h->n_idle > 0)
		e = h->idle[--h->n_idle];
	mutex_unlock(&h->lock);
	return e ? e : curl_easy_init();
}

static void give_handle(struct http *h, CURL *e)
{
	curl_easy_reset(e); /* connections stay */
	mutex_lock(&h->lock);
	if (h->n_idle < IDLE_MAX)
		h->idle[h->n_idle++] = TAKE_PTR(e);
	mutex_unlock(&h->lock);
	if (e)
		curl_easy_cleanup(e);
}

/* ---- what libcurl calls back */

static uint64_t body_bytes(const struct http_request *q)
{
	uint64_t n = 0;

	for (int i = 0; i < q->n_body; i++)
		n += q->body[i].iov_len;
	return n;
}

static size_t on_read(char *p, size_t size, size_t n, void *ctx)
{
	struct transfer *t = ctx;
	const size_t cap = size * n;
	size_t done = 0;

	while (done < cap && t->i_body < t->request->n_body) {
		const struct iovec *v = &t->request->body[t->i_body];
		const size_t len = (size_t)min_u64(cap - done, v->iov_len - t->at);

		memcpy(p + done, (const uint8_t *)v->iov_base + t->at, len);
		done += len;
		t->at += len;
		if (t->at == v->iov_len) {
			t->i_body++;
			t->at = 0;
		}
	}
	return done;
}

static int on_seek(void *ctx, curl_off_t offset, int origin)
{
	struct transfer *t = ctx;
	uint64_t left = (uint64_t)offset;

	if (origin != SEEK_SET || offset < 0)
		return CURL_SEEKFUNC_CANTSEEK;
	for (t->i_body = 0; t->i_body < t->request->n_body && left >= t->request->body[t->i_body].iov_len; t->i_body++)
		left -= t->request->body[t->i_body].iov_len;
	t->at = (size_t)left;
	return CURL_SEEKFUNC_OK;
}

static size_t on_write(char *p, size_t size, size_t n, void *ctx)
{
	struct transfer *t = ctx;

	if (t->request->sink)
		t->error = t->request->sink(t->request->ctx, t->response, (const uint8_t *)p, size * n);
	return t->error < 0 ? 0 : size * n;
}

/* The value of a header line when it is the one of that name. */
static bool take_value(const char *line, size_t len, const char *name, char ret[HTTP_HEADER_MAX])
{
	const size_t n = strlen(name);

	if (len <= n || line[n] != ':' || strncasecmp(line, name, n) != 0)
		return false;
	const char *p = line + n + 1, *end = line + len;
	while (p < end && (*p == ' ' || *p == '\t'))
		p++;
	while (end > p && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' '))
		end--;
	/* One that is too long is none of those we know. */
	if ((size_t)(end - p) < HTTP_HEADER_MAX)
		snprintf(ret, HTTP_HEADER_MAX, "%.*s", (int)(end - p), p);
	return true;
}

static void take_length(struct http_response *r, const char *text)
{
	char *end;

	errno = 0;
	r->length = strtoull(text, &end, 10);
	r->has_length = text[0] >= '0' && text[0] <= '9' && *end == 0 && errno == 0;
}

static size_t on_header(char *line, size_t size, size_t n, void *ctx)
{
	struct transfer *t = ctx;
	struct http_response *r = t->response;
	const size_t len = size * n;
	char length[HTTP_HEADER_MAX] = "";

	/* Another status line: what came before was a "100 Continue". */
	if (len >= 5 && memcmp(line, "HTTP/", 5) == 0) {
		const char *space = memchr(line, ' ', len);

		*r = (struct http_response){.status = space ? atoi(space + 1) : 0};
		return len;
	}
	if (take_value(line, len, "content-length", length))
		take_length(r, length);
	else if (!take_value(line, len, "etag", r->etag) && !take_value(line, len, "content-range", r->content_range) &&
		 !take_value(line, len, "retry-after", r->retry_after) && !take_value(line, len, "date", r->date) &&
		 !take_value(line, len, "last-modified", r->last_modified))
		take_value(line, len, "x-amz-bucket-region", r->region);
	return len;
}

/* Called at least once a second. */
static int on_progress(void *ctx, curl_off_t down_total, curl_off_t down, curl_off_t up_total, curl_off_t up)
{
	struct transfer *t = ctx;
	const int64_t now = clock_mono_ns(t->http->config.clock);

	(void)down_total, (void)up_total;
	if (down + up != t->moved) {
		t->moved = down + up;
		t->moved_ns = now;
	}
	t->stalled = now - t->moved_ns > t->http->config.timeout_ns;
	return t->stalled || (t->request->cancel && atomic_load(t->request->cancel));
}

/* ---- a call */

static long to_ms(int64_t ns)
{
	const int64_t ms = ns / 1000000;

	return ms < 1 ? 1 : ms > INT32_MAX ? INT32_MAX : (long)ms;
}

static int64_t time_left(const struct http *h, const struct http_request *q)
{
	if (q->deadline_ns)
		return q->deadline_ns - clock_mono_ns(h->config.clock);
	return h->config.timeout_ns + (int64_t)((body_bytes(q) + q->expected) / HTTP_SLOWEST) * NSEC_PER_SEC;
}

static void set_common(CURL *e, struct transfer *t, int64_t left_ns)
{
	const struct http_config *c = &t->http->config;
	const int64_t connect_ns = c->timeout_ns < left_ns ? c->timeout_ns : left_ns;

	curl_easy_setopt(e, CURLOPT_URL, t->request->url);
	curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(e, CURLOPT_PROXY, "");
	curl_easy_setopt(e, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_USERAGENT, "clawfs");
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPIDLE, 10L);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPINTVL, 5L);
	curl_easy_setopt(e, CURLOPT_MAXAGE_CONN, IDLE_SECONDS);
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, to_ms(connect_ns));
	curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, to_ms(left_ns));
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, t->text);
}

static void set_tls(CURL *e, const struct http_config *c)
{
	curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, c->insecure ? 0L : 1L);
	curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, c->insecure ? 0L : 2L);
	if (c->ca_file[0]) {
		/* That one only, and none of the system. */
		curl_easy_setopt(e, CURLOPT_CAINFO, c->ca_file);
		curl_easy_setopt(e, CURLOPT_CAPATH, NULL);
	}
}

static void set_callbacks(CURL *e, struct transfer *t)
{
	curl_easy_setopt(e, CURLOPT_BUFFERSIZE, DOWN_BUFFER);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_write);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
	curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(e, CURLOPT_HEADERDATA, t);
	curl_easy_setopt(e, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(e, CURLOPT_XFERINFOFUNCTION, on_progress);
	curl_easy_setopt(e, CURLOPT_XFERINFODATA, t);
}

static void set_method(CURL *e, struct transfer *t)
{
	switch (t->request->method) {
	case HTTP_GET:
		curl_easy_setopt(e, CURLOPT_HTTPGET, 1L);
		return;
	case HTTP_HEAD:
		curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
		return;
	case HTTP_DELETE:
		curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, "DELETE");
		return;
	case HTTP_PUT:
		curl_easy_setopt(e, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, UP_BUFFER);
		curl_easy_setopt(e, CURLOPT_INFILESIZE_LARGE, (curl_off_t)body_bytes(t->request));
		curl_easy_setopt(e, CURLOPT_READFUNCTION, on_read);
		curl_easy_setopt(e, CURLOPT_READDATA, t);
		curl_easy_setopt(e, CURLOPT_SEEKFUNCTION, on_seek);
		curl_easy_setopt(e, CURLOPT_SEEKDATA, t);
	}
}

/* What the system said of the connection, when libcurl only knows that there is none. */
static int connect_error(CURL *e)
{
	long os = 0;

	curl_easy_getinfo(e, CURLINFO_OS_ERRNO, &os);
	switch (os) {
	case ETIMEDOUT:
		return -ETIMEDOUT;
	case EHOSTUNREACH:
	case ENETUNREACH:
		return -EHOSTUNREACH;
	default:
		return -ECONNREFUSED;
	}
}

static int map_code(CURL *e, CURLcode code, const struct transfer *t)
{
	switch (code) {
	case CURLE_OK:
		return 0;
	case CURLE_OPERATION_TIMEDOUT:
		return -ETIMEDOUT;
	case CURLE_ABORTED_BY_CALLBACK:
		return t->stalled ? -ETIMEDOUT : -ECANCELED;
	case CURLE_COULDNT_RESOLVE_HOST:
		return -EHOSTUNREACH;
	case CURLE_COULDNT_CONNECT:
		return connect_error(e);
	case CURLE_SEND_ERROR:
	case CURLE_RECV_ERROR:
	case CURLE_GOT_NOTHING:
	case CURLE_PARTIAL_FILE:
	case CURLE_SSL_CONNECT_ERROR: /* also a connection that was cut while it began */
		return -ECONNRESET;
	case CURLE_OUT_OF_MEMORY:
		return -ENOMEM;
	case CURLE_WRITE_ERROR:
		return t->error < 0 ? t->error : -EPROTO;
	default:
		return -EPROTO;
	}
}

static int set_headers(CURL *e, const struct http_request *q, struct curl_slist **ret)
{
	for (unsigned i = 0; i < q->n_headers; i++) {
		struct curl_slist *longer = curl_slist_append(*ret, q->headers[i]);

		if (!longer)
			return -ENOMEM;
		*ret = longer;
	}
	return curl_easy_setopt(e, CURLOPT_HTTPHEADER, *ret) == CURLE_OK ? 0 : -ENOMEM;
}

static int perform(CURL *e, struct transfer *t, int64_t left_ns, char *message, size_t cap)
{
	struct curl_slist *list = NULL;

	set_common(e, t, left_ns);
	set_tls(e, &t->http->config);
	set_callbacks(e, t);
	set_method(e, t);
	int r = set_headers(e, t->request, &list);
	if (r == 0) {
		const CURLcode code = curl_easy_perform(e);

		r = map_code(e, code, t);
		if (r < 0 && t->error == 0)
			snprintf(message, cap, "%s",
				 t->stalled        ? "nothing moved for too long"
				 : r == -ECANCELED ? "given up: the volume is being closed"
				 : t->text[0]      ? t->text
						   : curl_easy_strerror(code));
	}
	curl_easy_setopt(e, CURLOPT_HTTPHEADER, NULL);
	curl_slist_free_all(list);
	return r;
}

int http_perform(struct http *h, const struct http_request *q, struct http_response *ret, char *message, size_t cap)
{
	struct transfer t = {.http = h, .request = q, .response = ret, .moved_ns = clock_mono_ns(h->config.clock)};
	const int64_t left_ns = time_left(h, q);
	struct quiet quiet;

	*ret = (struct http_response){0};
	if (left_ns <= 0) {
		snprintf(message, cap, "no time left");
		return -ETIMEDOUT;
	}
	CURL *e = take_handle(h);
	if (!e)
		return -ENOMEM;
	quiet_begin(&quiet);
	int r = perform(e, &t, left_ns, message, cap);
	give_handle(h, e);
	quiet_end(&quiet);
	return r;
}
