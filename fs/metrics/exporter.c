/*
 * exporter.c: see exporter.h.  libmicrohttpd speaks HTTP; here are the socket, the routes and the headers.
 *
 * A socket file that nobody answers at was left behind by a daemon that was killed, and is replaced.
 */
#include "fs/metrics/exporter.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "fs/metrics/page.h"

#define BACKLOG 16

struct exporter {
	struct metrics *metrics;
	struct MHD_Daemon *daemon;
	int fd; /* listens; -1: the server's */
	bool anywhere;
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)]; /* of the socket file; empty: a port */
};

/* ---- where ---- */

static int parse_path(const char *where, struct exporter_address *ret, const char **ret_why)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&ret->address;

	if (strlen(where) >= sizeof(un->sun_path)) {
		*ret_why = "the path of a unix socket has 107 bytes at most";
		return -EINVAL;
	}
	un->sun_family = AF_UNIX;
	strcpy(un->sun_path, where);
	ret->len = sizeof(*un);
	ret->anywhere = false;
	return 0;
}

/* Decimal, 1 to 65535. */
static bool parse_port(const char *text, uint16_t *ret)
{
	unsigned long n = 0;

	if (!*text || strlen(text) > 5)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		n = n * 10 + (unsigned long)(*text - '0');
	}
	*ret = (uint16_t)n;
	return n > 0 && n <= UINT16_MAX;
}

static bool parse_host(const char *host, uint16_t port, struct exporter_address *ret, bool *ret_loopback)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&ret->address;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ret->address;

	if (inet_pton(AF_INET, host, &in->sin_addr) == 1) {
		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		ret->len = sizeof(*in);
		*ret_loopback = ntohl(in->sin_addr.s_addr) >> 24 == 127;
		return true;
	}
	if (inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(port);
		ret->len = sizeof(*in6);
		*ret_loopback = IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
		return true;
	}
	return false;
}

int exporter_parse(const char *where, bool anywhere, struct exporter_address *ret, const char **ret_why)
{
	char host[INET6_ADDRSTRLEN + 1];
	const bool bracketed = where[0] == '[';
	const char *begin = where + bracketed, *end = bracketed ? strchr(where, ']') : strrchr(where, ':');
	uint16_t port;
	bool loopback;

	*ret = (struct exporter_address){.anywhere = anywhere};
	if (where[0] == '/')
		return parse_path(where, ret, ret_why);
	*ret_why = "must be the absolute path of a unix socket, 127.0.0.1:PORT or [::1]:PORT";
	if (!end || (bracketed && end[1] != ':') || (size_t)(end - begin) >= sizeof(host) ||
	    !parse_port(end + 1 + bracketed, &port))
		return -EINVAL;
	memcpy(host, begin, (size_t)(end - begin));
	host[end - begin] = '\0';
	if (!parse_host(host, port, ret, &loopback) || bracketed != (ret->address.ss_family == AF_INET6))
		return -EINVAL;
	if (!loopback && !anywhere) {
		*ret_why =
		    "only this host may read them, without password or TLS: name a loopback address, or add metrics_anywhere";
		return -EINVAL;
	}
	return 0;
}

bool exporter_host_is_here(const char *host)
{
	static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};

	if (!host || !*host)
		return true; /* HTTP/1.0, no browser */
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const size_t n = strlen(names[i]);
		uint16_t port;

		if (strncasecmp(host, names[i], n) == 0 && (!host[n] || (host[n] == ':' && parse_port(host + n + 1, &port))))
			return true;
	}
	return false;
}

/* ---- the socket ---- */

static int listen_at(const struct exporter_address *a, int *ret_fd)
{
	const int one = 1;
	CLEANUP_FD int fd = socket(a->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (a->address.ss_family != AF_UNIX && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
		return -errno;
	if (bind(fd, (const struct sockaddr *)&a->address, a->len) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* Whether the socket file is there and nobody answers at it. */
static bool is_left_behind(const struct exporter_address *a, const char *path)
{
	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;

	return fd >= 0 && lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_uid == geteuid() &&
	       connect(fd, (const struct sockaddr *)&a->address, a->len) < 0 && errno == ECONNREFUSED;
}

static int open_socket(struct exporter *e, const struct exporter_address *a)
{
	const bool file = a->address.ss_family == AF_UNIX;
	const char *path = ((const struct sockaddr_un *)&a->address)->sun_path;
	int r = listen_at(a, &e->fd);

	if (r == -EADDRINUSE && file && is_left_behind(a, path)) {
		if (unlink(path) < 0)
			return -errno;
		r = listen_at(a, &e->fd);
	}
	if (r < 0)
		return r;
	if (file)
		strcpy(e->path, path);
	/* What bind(2) made is for its owner alone, by the umask. */
	if (file && chmod(path, 0660) < 0)
		return -errno;
	return listen(e->fd, BACKLOG) < 0 ? -errno : 0;
}

/* ---- answers ---- */

static void make_page(struct metrics *m, struct buf *out)
{
	(void)m;
	buf_put(out, page_html, page_html_len);
}

static void make_style(struct metrics *m, struct buf *out)
{
	(void)m;
	buf_put(out, page_css, page_css_len);
}

static void make_script(struct metrics *m, struct buf *out)
{
	(void)m;
	buf_put(out, page_js, page_js_len);
}

static const struct route {
	const char *path, *type;
	void (*make)(struct metrics *m, struct buf *out);
	void (*make_at_port)(struct metrics *m, struct buf *out); /* for whoever is on the host; NULL: the same */
} routes[] = {
    {"/", "text/html; charset=utf-8", make_page},
    {"/page.css", "text/css; charset=utf-8", make_style},
    {"/page.js", "text/javascript; charset=utf-8", make_script},
    {"/metrics", "text/plain; version=0.0.4; charset=utf-8", metrics_text},
    {"/stats", "application/json", metrics_stats},
    {"/status", "application/json", metrics_status, metrics_status_discreet},
};

static const struct {
	const char *name, *value;
} headers[] = {
    {"Cache-Control", "no-store"},
    {"Content-Security-Policy",
     "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
     "frame-ancestors 'none'"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
    {"Referrer-Policy", "no-referrer"},
    {"X-Content-Type-Options", "nosniff"},
    {"X-Frame-Options", "DENY"},
};

/* Takes `body`, whose memory the server frees. */
static enum MHD_Result answer(struct MHD_Connection *c, unsigned status, const char *type, struct buf *body)
{
	struct MHD_Response *r = body->failed ? NULL : MHD_create_response_from_buffer(body->len, body->p, MHD_RESPMEM_MUST_FREE);
	enum MHD_Result done = r ? MHD_YES : MHD_NO;

	if (!r)
		return MHD_NO; /* no memory: the connection is closed */
	*body = (struct buf){0};
	if (MHD_add_response_header(r, "Content-Type", type) != MHD_YES)
		done = MHD_NO;
	for (size_t i = 0; i < ARRAY_SIZE(headers); i++)
		if (MHD_add_response_header(r, headers[i].name, headers[i].value) != MHD_YES)
			done = MHD_NO;
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED && MHD_add_response_header(r, "Allow", "GET, HEAD") != MHD_YES)
		done = MHD_NO;
	if (done == MHD_YES)
		done = MHD_queue_response(c, status, r);
	MHD_destroy_response(r);
	return done;
}

static enum MHD_Result refuse(struct MHD_Connection *c, unsigned status, const char *why)
{
	CLEANUP_BUF struct buf body = {0};

	buf_printf(&body, "%s\n", why);
	return answer(c, status, "text/plain; charset=utf-8", &body);
}

/*
 * Called once when the headers are here, and again when the rest is.  Only an answer to the second call lets the connection go
 * on; one to the first ends it, before anything more is read.
 */
static enum MHD_Result handle(void *ctx, struct MHD_Connection *c, const char *url, const char *method, const char *version,
			      const char *upload, size_t *upload_size, void **state)
{
	struct exporter *e = ctx;
	CLEANUP_BUF struct buf body = {0};

	(void)version;
	(void)upload;
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return refuse(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD");
	if (!e->anywhere && !exporter_host_is_here(MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Host")))
		return refuse(c, MHD_HTTP_FORBIDDEN, "this is served to this host only, under a name of its own");
	if (!*state || *upload_size) {
		*state = e;
		*upload_size = 0; /* what a GET brings along is passed over */
		return MHD_YES;
	}
	for (size_t i = 0; i < ARRAY_SIZE(routes); i++)
		if (strcmp(url, routes[i].path) == 0) {
			bool discreet = !*e->path && routes[i].make_at_port;

			(discreet ? routes[i].make_at_port : routes[i].make)(e->metrics, &body);
			return answer(c, MHD_HTTP_OK, routes[i].type, &body);
		}
	return refuse(c, MHD_HTTP_NOT_FOUND, "there are /, /metrics, /stats and /status");
}

/* ---- life ---- */

static PRINTF_LIKE(2, 0) void log_from_library(void *ctx, const char *fmt, va_list ap)
{
	char line[256];

	(void)ctx;
	vsnprintf(line, sizeof(line), fmt, ap);
	line[strcspn(line, "\n")] = '\0';
	log_debug("metrics: %s", line);
}

/* No thread of it gets signals. */
static int start_daemon(struct exporter *e)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	e->daemon =
	    MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_USE_ITC | MHD_USE_ERROR_LOG, 0, NULL, NULL,
			     handle, e, MHD_OPTION_EXTERNAL_LOGGER, log_from_library, NULL, MHD_OPTION_LISTEN_SOCKET, e->fd,
			     MHD_OPTION_CONNECTION_LIMIT, EXPORTER_CONNECTIONS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
			     (size_t)EXPORTER_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT, EXPORTER_IDLE_S, MHD_OPTION_END);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!e->daemon)
		return errno ? -errno : -EIO;
	e->fd = -1;
	return 0;
}

int exporter_start(struct metrics *m, const struct exporter_address *a, struct exporter **ret)
{
	struct exporter *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	e->metrics = m;
	e->fd = -1;
	e->anywhere = a->anywhere;
	int r = open_socket(e, a);
	if (r == 0)
		r = start_daemon(e);
	if (r < 0) {
		exporter_stop(e);
		return r;
	}
	*ret = e;
	return 0;
}

struct exporter *exporter_stop(struct exporter *e)
{
	if (!e)
		return NULL;
	if (e->daemon)
		MHD_stop_daemon(e->daemon);
	if (e->fd >= 0)
		close(e->fd);
	if (*e->path)
		unlink(e->path);
	free(e);
	return NULL;
}
